# shellcheck shell=bash
# For sanitize.sh and valgrind.sh: an environment without PyTorch, which would be watched at every instruction, and a
# copy of the sources to build in, so that the working folder keeps its own build.

# The fast part of the tests: what reaches every kernel, driver and thread.
FAST=(engines gradients ctc stepper streams quantize variants lstm layers threads)

# instrumented FOLDER: makes FOLDER/venv and FOLDER/source, and goes there; CFLAGS and LDFLAGS take part in the build.
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
    # Working memory comes from the C library each time, so that its ends, and its end, are known.
    LSTM_CY_CHECKS=1 CFLAGS="${CFLAGS-} -DLSTM_CY_KEEP_NOTHING" python setup.py -q build_ext --inplace
    # Everything takes ten times as long, or a hundred: a worker that had to be woken would come too late, each time.
    export PYTHONPATH=$PWD LSTM_CY_SPIN_US=1000000 LSTM_CY_TEST_PATIENCE=900
}

# fast_tests PREFIX... -- PYTEST_ARGUMENTS...: runs the fast part under a command.
fast_tests() {
    local prefix=() files=("${FAST[@]/#/tests/test_}")
    files=("${files[@]/%/.py}")
    while [ "$1" != -- ]; do prefix+=("$1") && shift; done
    shift
    "${prefix[@]}" "$(python -c 'import sys; print(sys.executable)')" -m pytest -q -p no:cacheprovider -p no:faulthandler \
        "${files[@]}" "$@"
}
