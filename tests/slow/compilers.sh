#!/usr/bin/env bash
# Build a copy of the tree and run the kernels' tests with other compilers, some of which refuse options; then compare the
# speed of what they made. By hand:
#
#     tests/slow/compilers.sh FOLDER [PYTEST'S ARGUMENTS]
#
# - the compilers of COMPILERS that are installed (default: gcc-11 gcc-12 gcc-14 clang-16 clang-19)
# - the system's compiler, refusing AVX flags: only the base kernels
# - the system's compiler, refusing -pthread: no worker threads
# - the system's compiler, with AVX-512's vectors emulated by what the processor has: only the tests of bits
# PYTHON (default python3) must have Cython, setuptools, NumPy, SciPy, pytest and hypothesis.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "${1:?a folder for the copies}"
work=$(cd "$1" && pwd)
shift
python=$(command -v "${PYTHON:-python3}")
tests=(kernels/test_{engines,bits,fit_bits}.py streaming/test_stepper.py layers/test_{lstm,quantize,variants}.py)
[ $# -eq 0 ] || tests=("$@")

# Make a compiler with the name $1 that refuses the options of the pattern $2.
refusing() {
    printf '#!/bin/sh\ncase "$*" in %s) echo "unknown option" >&2; exit 1;; esac\nexec %s "$@"\n' "$2" "$(command -v cc)" \
        > "$work/$1"
    chmod +x "$work/$1"
}

# Build with the compiler $1; the build's output must contain each of the other arguments.
build() {
    local compiler=$1 source=$work/tree-${1##*/}
    shift
    echo "== ${compiler##*/}"
    rm -rf "$source"
    mkdir "$source"
    cp -r "$here"/{build_backend.py,setup.py,pyproject.toml,README.md,LICENSE,lstm_cy,tests} "$source"
    find "$source/lstm_cy" -name '*.so' -delete
    (cd "$source" && CC=$compiler LDSHARED="$compiler -shared" "$python" setup.py -q build_ext --inplace) \
        > "$source/log" 2>&1 || { tail -20 "$source/log"; return 1; }
    grep 'lstm_cy: ' "$source/log" || echo "nothing is missing"
    for message in "$@"; do grep -q "$message" "$source/log"; done
    (cd "$source/tests" && PYTHONPATH=$source "$python" -m pytest -q -p no:cacheprovider "${tests[@]}" | tail -1)
}

builds=()
for compiler in ${COMPILERS:-gcc-11 gcc-12 gcc-14 clang-16 clang-19}; do
    if command -v "$compiler" > /dev/null; then
        build "$compiler"
        builds+=("$compiler=$work/tree-$compiler")
    fi
done
refusing no-avx '*-mavx*|*-mfma*'
build "$work/no-avx" "cannot build the avx2 kernels" "cannot build the avx512 kernels"
refusing no-threads '*-pthread*'
build "$work/no-threads" "no POSIX threads here"
printf '#!/bin/sh\nexec %s -DLSTM_CY_VECTOR_BYTES=64 "$@"\n' "$(command -v cc)" > "$work/emulated"
chmod +x "$work/emulated"
tests=(kernels/test_{bits,fit_bits}.py)
build "$work/emulated"
"$python" "$here/benchmarks/compilers.py" "${builds[@]}"
