#!/usr/bin/env bash
# Other compilers, and ones that lack something, each building a copy of the tree and running the kernels' tests. By hand:
#
#     tests/slow/compilers.sh FOLDER [PYTEST'S ARGUMENTS]
#
# - clang, if it is installed
# - the system's compiler with its AVX flags refused: the baseline alone
# - the system's compiler with -pthread refused: no worker threads
# PYTHON (default python3) must have Cython, setuptools, NumPy, SciPy, pytest and hypothesis.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "${1:?a folder for the copies}"
work=$(cd "$1" && pwd)
shift
python=$(command -v "${PYTHON:-python3}")
tests=(test_engines.py test_lstm.py test_stepper.py test_quantize.py test_variants.py)
[ $# -eq 0 ] || tests=("$@")

# A compiler called $1 that refuses the options of the pattern $2.
lacking() {
    printf '#!/bin/sh\ncase "$*" in %s) echo "unknown option" >&2; exit 1;; esac\nexec %s "$@"\n' "$2" "$(command -v cc)" \
        > "$work/$1"
    chmod +x "$work/$1"
}

# Build with the compiler $1 and look for each of the other arguments among what the build says.
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
    for said in "$@"; do grep -q "$said" "$source/log"; done
    (cd "$source/tests" && PYTHONPATH=$source "$python" -m pytest -q -p no:cacheprovider "${tests[@]}" | tail -1)
}

if command -v clang > /dev/null; then build clang; fi
lacking no-avx '*-mavx*|*-mfma*'
build "$work/no-avx" "cannot build the avx2 kernels" "cannot build the avx512 kernels"
lacking no-threads '*-pthread*'
build "$work/no-threads" "no POSIX threads here"
