#!/usr/bin/env bash
# Run the fast part of the tests with the compiled part under gcc's sanitizers. The first fault ends it.
#
#     tests/slow/sanitize.sh [address | thread] [pytest's arguments]
#
# address: AddressSanitizer and UndefinedBehaviorSanitizer, with Cython's bounds checks; thread: ThreadSanitizer, only for
# the tests of threads. Python, NumPy and SciPy are not instrumented, but their allocations are checked.
set -euo pipefail
# shellcheck source=tests/slow/instrumented.sh
. "$(dirname "$0")/instrumented.sh"

kind=${1:-address}
shift || true
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

case $kind in
address)
    checks=address,undefined,float-cast-overflow
    # libstdc++ is preloaded too, because SciPy's C++ throws exceptions through functions that AddressSanitizer wraps
    libraries=(libasan.so libubsan.so libstdc++.so)
    export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
    export UBSAN_OPTIONS=print_stacktrace=1
    ;;
thread)
    checks=thread
    libraries=(libtsan.so)
    FAST=(kernels/test_{threads,waking})
    # a forked child starts its own workers, which ThreadSanitizer refuses by default
    export TSAN_OPTIONS=halt_on_error=1:exitcode=66:die_after_fork=0
    ;;
*)
    echo "expected address or thread, got $kind" >&2
    exit 2
    ;;
esac
export CFLAGS="-fsanitize=$checks -fno-sanitize-recover=$checks -fno-omit-frame-pointer"
export LDFLAGS="-fsanitize=$checks"
instrumented "$folder"

preload=
for library in "${libraries[@]}"; do preload+="$(gcc -print-file-name="$library") "; done
# PYTHONMALLOC allocates each object in its own block, so that its bounds are checked. The deselected test has its own
# allocator.
fast_tests env LD_PRELOAD="$preload" PYTHONMALLOC=malloc -- \
    --deselect tests/streaming/test_stepper.py::test_a_hundred_thousand_steps_allocate_nothing "$@"
