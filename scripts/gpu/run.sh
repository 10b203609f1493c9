#!/usr/bin/env bash
# Tests and measures on a host with an NVIDIA GPU, offline: the tests on the device, the same kinds of calls under
# compute-sanitizer, the benchmarks of both backends. The results go to the output folder (default: results): the
# measurements as JSON, and all output in results.tgz. Without a GPU it ends at once.
#   run.sh [output folder] [check|sanitize|bench|head|cpu ...]      all five when none is named
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "${1:-results}" && cd "${1:-results}" && pwd)
shift
steps=${*:-check sanitize bench head cpu}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/results" "$work/tree"
tar -C "$work/tree" -xf "$here/tree.tar.xz" || exit 1
cd "$work/tree" || exit 1
export PATH="$work/tree/bin:$PATH"
# The cuBLASLt and the NCCL that PyTorch has installed or, without PyTorch, the system's.
of_torch() {
  python3 -c "import glob, nvidia
print(sorted(glob.glob(list(nvidia.__path__)[0] + '/*/lib/$1'))[-1])" 2> /dev/null
}
export FUSED_PREFERENCE_LOSS_CUBLASLT="${FUSED_PREFERENCE_LOSS_CUBLASLT:-$(of_torch 'libcublasLt.so.1?')}"
export FUSED_PREFERENCE_LOSS_NCCL="${FUSED_PREFERENCE_LOSS_NCCL:-$(of_torch 'libnccl.so.2')}"
failed=0
log=$work/results
step() { # name, command...
  local name=$1 begin=$SECONDS
  shift
  if "$@" > "$log/$name.log" 2>&1; then said=passed; else said=FAILED failed=1; fi
  echo "$name: $said in $((SECONDS - begin)) s"
  tail -n "${lines:-3}" "$log/$name.log"
}
finish() {
  # One file, as few may come back from there.
  tar -C "$work" -czf "$out/results.tgz" results
  for measured in "$log"/*.json; do
    if [ -e "$measured" ]; then cp "$measured" "$out"; fi
  done
  exit $failed
}
node dist/cli/index.mjs inspect > "$log/inspect.log" 2>&1
cat "$log/inspect.log"
lines=20 step gpu node scripts/gpu/ready.mjs
if [ $failed = 1 ]; then finish; fi
case " $steps " in *" check "*) step check bash scripts/gpu/test.sh ;; esac
case " $steps " in *" sanitize "*)
  for tool in memcheck racecheck initcheck synccheck; do
    # initcheck looks at gaps between results and at what lies beside rows, too.
    clear=$([ $tool = initcheck ] && echo 1)
    FUSED_PREFERENCE_LOSS_CLEAR_MEMORY=$clear \
      step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 node scripts/gpu/calls.mjs
  done ;;
esac
case " $steps " in *" bench "*)
  lines=200 step bench node bench/run.mjs --backend cuda --json "$log/bench-cuda.json" ;;
esac
case " $steps " in *" head "*)
  lines=40 step head node bench/cuda/head.mjs "$log/bench-head.json" ;;
esac
case " $steps " in *" cpu "*)
  lines=60 step cpu node bench/run.mjs --peer torch-eager --peer torch-cross-entropy --peer torch-compile \
    --case forward --case step --dtype float32 --dtype bfloat16 --json "$log/bench-cpu.json" ;;
esac
finish
