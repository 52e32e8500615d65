# shellcheck shell=bash
# For sanitize.sh and valgrind.sh: an environment without PyTorch, which would be very slow there, and a copy of the
# sources to build in, so that the working folder keeps its own build.

# The fast part of the tests, which reaches every kernel, driver and thread.
FAST=(kernels/test_{engines,gradients,threads} decoding/test_ctc streaming/test_{stepper,streams} layers/test_{lstm,layers,variants,quantize})

# instrumented FOLDER: make FOLDER/venv and FOLDER/source, build there with CFLAGS and LDFLAGS, and change to the source.
instrumented() {
    local root
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
    "${PYTHON:-python3.11}" -m venv "$1/venv"
    # shellcheck disable=SC1091
    . "$1/venv/bin/activate"
    python -m pip install --quiet --disable-pip-version-check \
        numpy scipy "Cython>=3.1,<4" "setuptools>=77.0.1" "pytest>=8" "hypothesis>=6.100"
    mkdir "$1/source"
    git -C "$root" ls-files -z --cached --others --exclude-standard | (cd "$root" && xargs -0 cp --parents -t "$1/source")
    cd "$1/source"
    # All working memory is allocated by the C library, so that its bounds and its release are known.
    LSTM_CY_CHECKS=1 CFLAGS="${CFLAGS-} -DLSTM_CY_NO_CACHE" python setup.py -q build_ext --inplace
    # Everything takes 10 or 100 times as long: a worker that has to be woken would always be too late.
    export PYTHONPATH=$PWD LSTM_CY_SPIN_US=1000000 LSTM_CY_TEST_PATIENCE=900
}

# fast_tests PREFIX... -- PYTEST_ARGUMENTS...: run the fast part with a command in front.
fast_tests() {
    local prefix=() files=("${FAST[@]/#/tests/}")
    files=("${files[@]/%/.py}")
    while [ "$1" != -- ]; do prefix+=("$1") && shift; done
    shift
    "${prefix[@]}" "$(python -c 'import sys; print(sys.executable)')" -m pytest -q -p no:cacheprovider -p no:faulthandler \
        "${files[@]}" "$@"
}
