#!/usr/bin/env bash
# Tests and benchmark on a GPU: bash tests/gpu/run.sh OUTDIR [--rehearse]
# Writes, while it goes, OUTDIR/tests/*.jsonl and *.txt, benchmarks.json, benchmarks.txt (the same as tables),
# profile.txt and benchmark.txt. Cut off at 570 s on 16 cores (the sweeps, where Ray is installed, take 230 s of it). A part that fails or hangs does not stop the next one,
# but the exit status is 1. --rehearse: on the CPU, tiny, in a few minutes.
set -u
out=${1:?usage: bash tests/gpu/run.sh OUTDIR [--rehearse]}
rehearse=${2:-}
mkdir -p "$out/tests"
export out=$(cd "$out" && pwd)
cd "$(dirname "$0")/../.."
export python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
export threads=2
# One thread: two wait for each other where other work has a core.
[ "$rehearse" = --rehearse ] && export AUDIOCONFIT_REHEARSE=1 CUDA_VISIBLE_DEVICES= threads=1

# A process per file: side by side, and a broken CUDA context ends one file only.
tests_of() { # file
    local name=$(basename "$1" .py) began=$SECONDS
    local said="$out/tests/$name.txt" told="$out/tests/$name.jsonl"
    rm -f "$told"
    run() {
        local left=$((${TEST_SECONDS:-250} - SECONDS + began))
        [ "$left" -gt 0 ] || return 124
        OMP_NUM_THREADS="$threads" TOLD="$told" timeout -s INT -k 10 "$left" "$python" -m pytest -m gpu \
            --confcutdir=tests/gpu -p no:cacheprovider --timeout=90 --durations=5 -v -rA --tb=short "$@" > "$said" 2>&1
    }
    run "$1"
    local status=$?
    # Nothing ran, and not for want of time: a warning of another release while collecting, say.
    if [ $status -ne 0 ] && [ $status -lt 100 ] && [ ! -s "$told" ]; then
        tail -20 "$said"
        run "$1" -o filterwarnings=default
        status=$?
    fi
    [ $status -eq 0 ] || echo "ERROR $1: pytest ended with $status" >> "$said"
    grep -E "^(FAILED|ERROR)" "$said" | cut -c1-300
    local summary=$(grep -E "[0-9]+ (passed|failed|skipped|error)" "$said" | tail -1 | tr -d =)
    echo "[tests] $name: $summary ($((SECONDS - began)) s)"
}
export -f tests_of
began=$SECONDS
side_by_side=$((($(nproc) + 1) / 2))
tests_of tests/gpu/test_sharing_the_card.py  # alone: it takes the whole card
printf '%s\n' tests/gpu/test_*.py | grep -v sharing_the_card | xargs -P "$side_by_side" -I{} bash -c 'tests_of {}'
cat "$out"/tests/*.txt > "$out/pytest.txt"
echo "[tests] all: $((SECONDS - began)) s"

began=$SECONDS
limit=${BENCHMARK_SECONDS:-280}
timeout -k 10 $((limit + 20)) "$python" -W ignore tests/gpu/benchmark.py "$out" --seconds "$limit" $rehearse 2>&1 |
    tee "$out/benchmark.txt"
benchmark=${PIPESTATUS[0]}
echo "[benchmark] all: $((SECONDS - began)) s"
! grep -qE "^(FAILED|ERROR)" "$out/pytest.txt" && [ "$benchmark" -eq 0 ] &&
    ! grep -q '"outcome": "failed' "$out/benchmarks.json"
