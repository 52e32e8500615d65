#!/usr/bin/env bash
# Check that asv finds a forward pass that is 20 % slower, and finds nothing if nothing has changed. By hand:
#
#     tests/slow/regression.sh
#
# It needs asv and virtualenv for PYTHON (default python3), and some minutes: it builds three wheels from a clone of the
# last commit, and measures them in turn. The machine should be idle; on a noisier one set more ROUNDS (default 6).
# MEASURE may be a command that runs asv, such as `taskset -c 1`.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

git clone --quiet "$root" "$work/lstm_cy"
cd "$work/lstm_cy"
git config user.name nobody
git config user.email nobody@localhost
git checkout --quiet -B main

git checkout --quiet -b same
git commit --quiet --allow-empty --message "Nothing"

git checkout --quiet -b slow main
"$python" - <<'PLANT'
"""Make one of five steps twice: run the first fifth of the sequence, then all of it from the start."""
from pathlib import Path

driver = Path("lstm_cy/_kernels/forward.pyx")
text = driver.read_text()
call = "    status = blocks[real]("
begin = text.index(call)
sweep = text[begin : text.index("\n", begin) + 1]
assert text.count(call) == 1, "the driver has changed: plant the slowdown elsewhere"
planted = """\
    batch.T //= 5
{sweep}    batch.T *= 5
    gather_states[real](&batch, P, h, slots_h)
    gather_states[real](&batch, H, c, slots_c)
"""
driver.write_text(text[:begin] + planted.format(sweep=sweep) + text[begin:])
PLANT
git commit --quiet --all --message "A fifth of the work is done twice"
git checkout --quiet main

"$python" -m asv machine --yes >"$work/machine" 2>&1 || { cat "$work/machine"; exit 1; }

shapes="1x100x128x128|8x50x128x128|32x50x64x64"
bench="Forward\.time_forward\('($shapes)'\)"

# Run each once, to build the wheels.
git rev-parse main same slow >"$work/commits"
"$python" -m asv run --quick --bench "$bench" "HASHFILE:$work/commits" >"$work/build" 2>&1 || { cat "$work/build"; exit 1; }

# Print asv's report, and set `status` to asv's exit status: 1 for a regression.
compare() {
    status=0
    ${MEASURE:-} "$python" -m asv continuous --factor 1.1 --interleave-rounds --attribute "rounds=${ROUNDS:-6}" \
        --bench "$bench" main "$1" >"$work/$1" 2>&1 || status=$?
    sed -n '/^|/p; /^BENCHMARKS/p; /^SOME/p; /^PERFORMANCE/p' "$work/$1"
}

expect() {
    echo "main and $1:"
    compare "$1"
    if [ "$status" = "$2" ] && grep -q "^$3" "$work/$1"; then
        echo "as expected"
    else
        echo "expected: $3"
        cat "$work/$1"
        failed=1
    fi
}

expect same 0 "BENCHMARKS NOT SIGNIFICANTLY CHANGED"
expect slow 1 "PERFORMANCE DECREASED"
slower=$(grep -c '^| *+.*Forward' "$work/slow" || true)
[ "$slower" = 3 ] || { echo "expected: all 3 benchmarks slower, found $slower"; failed=1; }
exit "$failed"
