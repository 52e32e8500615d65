#!/usr/bin/env bash
# Run the fast part of the tests under valgrind's memcheck, which finds uninitialised and invalid memory accesses.
#
#     tests/slow/valgrind.sh [pytest's arguments]
#
# valgrind does not support AVX-512: the kernels for AVX2 and the base set run. It does not flush denormals to zero, and
# it runs one thread at a time: the tests of denormals, and those of test_threads.py that wait for a worker, are left out.
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
