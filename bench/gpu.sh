#!/usr/bin/env bash
# Everything that wants a GPU, in one run of at most ten minutes: build, tests, benches, sanitizers, a table last.
#
#   bench/gpu.sh                                     # logs and JSON go to bench/results
#   OUT=/tmp/gpu PYTHON=python3.12 bench/gpu.sh
#
# PYTHON must have a CUDA build of torch, transformers, pytest, pybind11, scikit-build-core, cmake and ninja: nothing is
# downloaded. ARCHS: what to compile for (default: the card's own). A step that fails is told in the table and does not
# keep the others from running; the exit status is 1 where one did.
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
out=${OUT:-bench/results}
limit_s=${LIMIT_S:-580}
logs=$out/gpu-logs
mkdir -p "$logs"
table=$logs/table.txt
: >"$table"
failed=0

left_s() { echo $((limit_s > SECONDS ? limit_s - SECONDS : 0)); }

# step NAME SECONDS COMMAND...: runs with its output in a log and at most so many seconds, or what is left of the limit.
step() {
    local name=$1 most=$2 start=$SECONDS status=0 verdict
    shift 2
    ((most > $(left_s))) && most=$(left_s)
    if ((most < 5)); then
        printf '%-26s %-9s\n' "$name" "no time" >>"$table"
        failed=1
        return
    fi
    timeout "$most" "$@" >"$logs/$name.log" 2>&1 || status=$?
    case $status in
    0) verdict=ok ;;
    124) verdict="timeout" ;;
    *) verdict="failed" ;;
    esac
    ((status == 0)) || failed=1
    printf '%-26s %-9s %4d s  %s\n' "$name" "$verdict" $((SECONDS - start)) "$(tail -n 1 "$logs/$name.log" | cut -c1-90)" |
        tee -a "$table"
    return 0
}

nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader || exit 1
sm=$("$python" -c 'import torch; assert torch.cuda.is_available(), "torch sees no GPU"; print("%d%d" % torch.cuda.get_device_capability())') || exit 1
archs=${ARCHS:-$sm}
[[ $archs == 90 ]] && archs="90;90a-real"

step build 240 "$python" -m pip install --no-deps --no-build-isolation --no-index --force-reinstall \
    --config-settings=cmake.define.ASSAY_CUDA=ON --config-settings="cmake.define.ASSAY_CUDA_ARCHS=$archs" .
# What other packages warn of on this machine is not what is tested here.
step tests 150 "$python" -m pytest -q -p no:cacheprovider -W default tests/test_cuda_*.py tests/test_device_choice.py

for bench in pool_head attention linear; do
    step "bench-$bench" 60 "$python" "bench/bench_cuda_$bench.py" --out "$out"
done
step bench-models 200 "$python" bench/bench_cuda_models.py --seconds 110 --out "$out"

# The tools slow kernels down a hundredfold: two small models, which between them call every kernel but ALiBi's, with
# products of our own, and where the tool can be told so, our own kernels only.
sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
export ASSAY_CUDA_GEMM=own
filter=()
"$sanitizer" --help 2>/dev/null | grep -q -- --kernel-regex && filter=(--kernel-regex kns=assay)
sanitize() { # NAME TOOL SECONDS PYTEST-ARGUMENTS...
    local name=$1 tool=$2 most=$3
    shift 3
    step "$tool-$name" "$most" "$sanitizer" --tool "$tool" "${filter[@]}" --error-exitcode 9 --target-processes all \
        "$python" -m pytest -q -p no:cacheprovider -W default "$@"
}
for tool in memcheck racecheck; do
    sanitize models "$tool" 60 tests/test_cuda_models.py \
        -k "gpu and (float32_is_that_of_transformers and qwen3 and not token or encoders and Bert and not Roberta)"
    # No model calls this kernel: it is off until this and its tests have passed.
    [[ $sm == 90 ]] && sanitize hopper "$tool" 40 tests/test_cuda_attention_hopper.py \
        -k "gpu and (bad_neighbour and 513 or other_key_lengths)"
done
# Every buffer an allocation of its own: what is written behind one shows.
PYTORCH_NO_CUDA_MEMORY_CACHING=1 sanitize layer memcheck 40 tests/test_cuda_layer.py \
    -k "gpu and (matches_float64 or rows_equal) and (bert or everything)"

for bench in pool_head attention linear models; do
    echo
    tail -n 25 "$logs/bench-$bench.log" 2>/dev/null
done
echo
cat "$table"
# One file: whoever fetches results may take a few only.
tar czf "$out/gpu-logs.tgz" -C "$out" gpu-logs && rm -r "$logs"
echo "logs in $out/gpu-logs.tgz; now update docs/gpu-status.md"
exit $failed
