#!/usr/bin/env bash
# Tests and measures on a host with an NVIDIA GPU, offline: the tests on the device, the same kinds of calls under
# compute-sanitizer, the benchmarks of both backends, what ncu counts of the kernels, and variants of them. The results go
# to the output folder (default: results): the measurements as JSON, and all output in results.tgz. Without a GPU it ends
# at once. Each command has ten minutes, or STEP_SECONDS; one that needs more has failed.
#   run.sh [output folder] [check|sanitize|bench|profile|variants|head|cpu ...]      all of them when none is named
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "${1:-results}" && cd "${1:-results}" && pwd)
shift
steps=${*:-check sanitize bench profile variants head cpu}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/results" "$work/tree"
tar -C "$work/tree" -xf "$here/tree.tar.xz" || python3 -m tarfile -e "$here/tree.tar.xz" "$work/tree" || exit 1
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
  local name=$1 begin=$SECONDS status
  shift
  timeout --kill-after=10 "${STEP_SECONDS:-600}" "$@" > "$log/$name.log" 2>&1
  status=$?
  case $status in
    0) said=passed ;;
    124) said='FAILED, out of time,' failed=1 ;;
    # It did not end when it was told to, or the system has killed it.
    137) said='FAILED, out of time or memory,' failed=1 ;;
    *) said=FAILED failed=1 ;;
  esac
  echo "$name: $said in $((SECONDS - begin)) s"
  tail -n "${lines:-3}" "$log/$name.log"
  return $status
}
wanted() { case " $steps " in *" $1 "*) ;; *) return 1 ;; esac; }
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
lines=20 step gpu node scripts/gpu/ready.mjs || finish
if [ -d wheels ]; then
  # Without what they depend on: a peer that misses it says so.
  step wheels python3 -m pip install --no-index --no-deps --target "$work/python" wheels/*.whl
  export PYTHONPATH="$work/python${PYTHONPATH:+:$PYTHONPATH}"
fi
if wanted check; then step check bash scripts/gpu/test.sh; fi
if wanted sanitize; then
  for tool in memcheck racecheck initcheck synccheck; do
    # initcheck looks at gaps between results and at what lies beside rows, too.
    clear=$([ $tool = initcheck ] && echo 1)
    FUSED_PREFERENCE_LOSS_CLEAR_MEMORY=$clear \
      step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 node scripts/gpu/calls.mjs
  done
fi
if wanted bench; then lines=200 step bench node bench/run.mjs --backend cuda --json "$log/bench-cuda.json"; fi
if wanted profile; then
  if command -v ncu > /dev/null; then
    # Time, bytes of memory and instructions of warps, which docs/performance.md predicts, and what stood in the way.
    metrics=gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum,smsp__inst_executed.sum
    metrics+=,dram__throughput.avg.pct_of_peak_sustained_elapsed,smsp__issue_active.avg.pct_of_peak_sustained_active
    lines=80 step profile ncu --clock-control none --csv --metrics "$metrics" node bench/cuda/profile.mjs
  else
    echo 'profile: no ncu here'
  fi
fi
if wanted variants && [ -d variants ]; then
  if command -v nvcc > /dev/null; then
    # The kernels as they are first: what is compared comes from one compiler. One that is wrong is not timed.
    for patch in /dev/null variants/*.patch; do
      name=variant-$(basename "$patch" .patch | sed 's/^null$/none/')
      step "$name-build" bash scripts/gpu/variant.sh "$patch" "$work/$name.so" || continue
      export FUSED_PREFERENCE_LOSS_CUDA_LIBRARY="$work/$name.so"
      step "$name-calls" node scripts/gpu/calls.mjs &&
        lines=30 step "$name" node bench/run.mjs --backend cuda --quick --peer ours --json "$log/$name.json"
      unset FUSED_PREFERENCE_LOSS_CUDA_LIBRARY
    done
  else
    echo 'variants: no nvcc here'
  fi
fi
if wanted head; then lines=40 step head node bench/cuda/head.mjs "$log/bench-head.json"; fi
if wanted cpu; then
  lines=60 step cpu node bench/run.mjs --peer torch-eager --peer torch-cross-entropy --peer torch-compile \
    --case forward --case step --dtype float32 --dtype bfloat16 --json "$log/bench-cpu.json"
fi
finish
