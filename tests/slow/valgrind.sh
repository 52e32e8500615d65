#!/usr/bin/env bash
# The fast part of the tests under valgrind's memcheck: memory that was never written, or is not ours.
#
#     tests/slow/valgrind.sh [pytest's arguments]
#
# It knows no AVX-512: the kernels of AVX2 and of the base set run, as the processor that it simulates has them.
# Nor does it flush denormals to zero, and it runs one thread at a time: the tests of that, and those of test_threads.py
# that wait for a worker, are left out.
set -euo pipefail
# shellcheck source=tests/slow/instrumented.sh
. "$(dirname "$0")/instrumented.sh"

here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
instrumented "$folder"

export PYTHONMALLOC=malloc OPENBLAS_NUM_THREADS=1
fast_tests valgrind -q --error-exitcode=99 --suppressions="$here/valgrind.supp" --num-callers=16 --fair-sched=yes -- \
    --hypothesis-profile=ci -k "not denormals and not (threads and worker)" "$@"
