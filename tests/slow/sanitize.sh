#!/usr/bin/env bash
# The fast part of the tests with the compiled part under gcc's sanitizers. The first fault ends it.
#
#     tests/slow/sanitize.sh [address | thread] [pytest's arguments]
#
# address: AddressSanitizer and UndefinedBehaviorSanitizer, Cython's bounds checks too; thread: ThreadSanitizer, with the
# tests of threads alone. Python, NumPy and SciPy are not instrumented, but what they allocate is watched.
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
    # libstdc++ is in front, for SciPy's C++ throws exceptions through what AddressSanitizer has wrapped
    libraries=(libasan.so libubsan.so libstdc++.so)
    export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
    export UBSAN_OPTIONS=print_stacktrace=1
    ;;
thread)
    checks=thread
    libraries=(libtsan.so)
    FAST=(threads)
    # a forked child starts workers of its own, which ThreadSanitizer would refuse by itself
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
# Each object in a block of its own, so that the end of each is seen. One test brings an allocator of its own along.
fast_tests env LD_PRELOAD="$preload" PYTHONMALLOC=malloc -- \
    --deselect tests/test_stepper.py::test_a_hundred_thousand_steps_allocate_nothing "$@"
