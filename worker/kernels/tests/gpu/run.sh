#!/bin/sh
# On a machine with a GPU: every kernel against f64, and timed; compute-sanitizer over all of them; the
# decoder against the processor's, replicas of several ranks that share the GPU against one worker, and minutes of
# mixed load, for each model given; the same ops of PyTorch, where there is one.
#   run.sh PACKED RESULTS [MODEL.gguf ...]
# Writes RESULTS/result.json and a log of each part. Exits with the number of parts that failed.
set -u
packed=$(cd "$1" && pwd)
mkdir -p "$2"
results=$(cd "$2" && pwd)
shift 2
models=$*
LOAD_SECONDS=${LOAD_SECONDS:-180}
failed=0

libraries=$(python3 -c 'import glob, sysconfig; print(":".join(glob.glob(sysconfig.get_path("purelib") + "/nvidia/*/lib")))' 2>/dev/null)

# part NAME SECONDS COMMAND...: runs one part, with its log and its exit status beside the others.
part() {
    part=$1 limit=$2
    shift 2
    begin=$(date +%s)
    timeout "$limit" "$@" >"$results/$part.log" 2>&1
    status=$?
    echo "$status" >"$results/$part.status"
    echo "== $part: exit $status after $(($(date +%s) - begin)) s"
    tail -n 12 "$results/$part.log"
    [ "$status" = 0 ] || failed=$((failed + 1))
}

# PyTorch brings NVRTC and cuBLASLt, where CUDA itself is not installed.
if [ -n "$libraries" ]; then export LD_LIBRARY_PATH="$libraries:${LD_LIBRARY_PATH:-}"; fi

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.memory --format=csv,noheader \
    >"$results/device.csv"
cat "$results/device.csv"
part agreement 150 "$packed/agreement" --gpu --time "--json=$results/kernels.json"
part made-up-bf16 60 "$packed/agree" --json "$results/model-made-up-bf16.json"
part made-up-f16 60 "$packed/agree" --element f16 --json "$results/model-made-up-f16.json"
part nvrtc 120 "$packed/agreement-bare" --gpu
for model in $models; do
    name=$(basename "$model" .gguf)
    texts=$packed/$name.texts
    if [ -e "$texts" ]; then set -- --texts "$texts"; else set --; fi
    for element in bf16 f16; do
        part "$name-$element" 90 "$packed/agree" --model "$model" --element "$element" "$@" \
            --json "$results/model-$name-$element.json"
    done
    part "ranks-$name" 240 \
        python3 "$packed/ranks.py" "$packed/naru-worker" "$model" "$results/ranks-$name.json" --backend cuda
    part "load-$name" "$((LOAD_SECONDS + 60))" \
        python3 "$packed/load.py" "$packed/naru-worker" "$model" "$results/load-$name.json" "$LOAD_SECONDS" --backend cuda
done
if python3 -c 'import torch' 2>/dev/null; then
    part peers 90 python3 "$packed/peers.py" "$results/kernels.json" "$results/peers.json"
fi
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck; do
        part "$tool" "${SANITIZER_SECONDS:-100}" compute-sanitizer --tool "$tool" --error-exitcode 9 \
            --report-api-errors no "$packed/agreement" --gpu &
    done
    wait
fi
python3 "$packed/merge.py" "$packed" "$results"
exit "$failed"
