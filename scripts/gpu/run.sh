#!/usr/bin/env bash
# Tests and measures on a host with an NVIDIA GPU, offline: the tests on the device, the benchmarks, what ncu counts of
# the kernels, the same kinds of calls under compute-sanitizer, other implementations, and variants of the kernels. The
# results go to the output folder (default: results): the measurements as JSON, and all output in results.tgz, which is
# written anew after each command. Without a GPU it ends at once.
# A command has ten minutes, or STEP_SECONDS; one that needs more has failed. All of them have ALL_SECONDS, where that is
# set: what comes to no more than its last 30 is left out, and has failed.
#   run.sh [output folder] [check|bench|head|profile|sanitize|peers|variants|cpu ...]   all of them when none is named
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "${1:-results}" && cd "${1:-results}" && pwd)
shift
steps=${*:-check bench head profile sanitize peers variants cpu}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/results" "$work/tree"
tar -C "$work/tree" -xf "$here/tree.tar.xz" || python3 -m tarfile -e "$here/tree.tar.xz" "$work/tree" || exit 1
cd "$work/tree" || exit 1
export PATH="$work/tree/bin:$PATH"
# The tools of a toolkit that is installed and not on the path.
for tools in /usr/local/cuda/bin /opt/nvidia/nsight-compute/*/; do PATH+=:$tools; done
# Node's own libraries where the host has none, or older ones.
node --version > /dev/null 2>&1 || export LD_LIBRARY_PATH="$work/tree/bin/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
# The cuBLASLt and the NCCL that PyTorch has installed or, without PyTorch, the system's.
of_torch() {
  python3 -c "import glob, nvidia
print(sorted(glob.glob(list(nvidia.__path__)[0] + '/*/lib/$1'))[-1])" 2> /dev/null
}
export FUSED_PREFERENCE_LOSS_CUBLASLT="${FUSED_PREFERENCE_LOSS_CUBLASLT:-$(of_torch 'libcublasLt.so.1?')}"
export FUSED_PREFERENCE_LOSS_NCCL="${FUSED_PREFERENCE_LOSS_NCCL:-$(of_torch 'libnccl.so.2')}"
failed=0
log=$work/results
# One file, as few may come back from there; the measurements beside it.
keep() {
  tar -C "$work" -czf "$out/results.new" results && mv "$out/results.new" "$out/results.tgz"
  for measured in "$log"/*.json; do
    if [ -e "$measured" ]; then cp "$measured" "$out"; fi
  done
}
step() { # name, command...
  local name=$1 begin=$SECONDS limit=${STEP_SECONDS:-600} status
  shift
  if [ -n "$ALL_SECONDS" ]; then
    local left=$((ALL_SECONDS - SECONDS - 20))
    if [ $left -lt 10 ]; then
      echo "$name: LEFT OUT, no time" | tee -a "$log/steps.log"
      failed=1
      return 1
    fi
    if [ $left -lt "$limit" ]; then limit=$left; fi
  fi
  # A bench keeps what other implementations have told by then.
  PEERS_SECONDS=$((limit * 4 / 5)) timeout --kill-after=10 "$limit" "$@" > "$log/$name.log" 2>&1
  status=$?
  case $status in
    0) said=passed ;;
    124) said='FAILED, out of time,' failed=1 ;;
    # It did not end when it was told to, or the system has killed it.
    137) said='FAILED, out of time or memory,' failed=1 ;;
    *) said=FAILED failed=1 ;;
  esac
  echo "$name: $said in $((SECONDS - begin)) s" | tee -a "$log/steps.log"
  tail -n "${lines:-3}" "$log/$name.log"
  keep
  return $status
}
wanted() { case " $steps " in *" $1 "*) ;; *) return 1 ;; esac; }
node dist/cli/index.mjs inspect > "$log/inspect.log" 2>&1
cat "$log/inspect.log"
{
  nvidia-smi
  python3 -m pip list
} >> "$log/inspect.log" 2>&1
keep
lines=20 step gpu node scripts/gpu/ready.mjs || exit $failed
if [ -d wheels ]; then
  # Without what they depend on: a peer that misses it says so.
  step wheels python3 -m pip install --no-index --no-deps --target "$work/python" wheels/*.whl
  export PYTHONPATH="$work/python${PYTHONPATH:+:$PYTHONPATH}"
fi
if wanted check; then step check bash scripts/gpu/test.sh; fi
if wanted bench; then
  lines=200 step bench node bench/run.mjs --backend cuda --peer ours --json "$log/bench-cuda.json"
fi
if wanted head; then lines=40 step head node bench/cuda/head.mjs "$log/bench-head.json"; fi
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
if wanted sanitize; then
  for tool in memcheck racecheck initcheck synccheck; do
    # initcheck looks at gaps between results and at what lies beside rows, too.
    clear=$([ $tool = initcheck ] && echo 1)
    FUSED_PREFERENCE_LOSS_CLEAR_MEMORY=$clear \
      step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 node scripts/gpu/calls.mjs
  done
fi
# Fewer cases: each is compiled anew for some peers, which takes them longer than all else.
if wanted peers; then
  lines=200 step peers node bench/run.mjs --backend cuda --quick --json "$log/bench-peers.json"
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
if wanted cpu; then
  lines=60 step cpu node bench/run.mjs --peer torch-eager --peer torch-cross-entropy --peer torch-compile \
    --case forward --case step --dtype float32 --dtype bfloat16 --json "$log/bench-cpu.json"
fi
exit $failed
