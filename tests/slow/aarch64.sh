#!/usr/bin/env bash
# Compile the kernels for aarch64 with Debian's cross compiler, and test them under qemu-user. By hand, on Debian or
# Ubuntu:
#
#     apt-get install gcc-aarch64-linux-gnu qemu-user-static
#     tests/slow/aarch64.sh FOLDER [PYTEST'S ARGUMENTS]
#
# Without arguments for pytest it takes hours. FOLDER keeps the downloads, 300 MB: Python 3.11 for arm64 from Debian 12,
# NumPy and SciPy for arm64 from PyPI. QEMU_CPU chooses the processor: neoverse-n1 and max have int8 dot products,
# cortex-a72 has none.
# PYTHON (default python3.11) must have Cython, setuptools, NumPy and SciPy; the target gets the same NumPy and SciPy.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "${1:?a folder for the downloads}"
work=$(cd "$1" && pwd)
shift
python=${PYTHON:-python3.11}
root=$work/root packages=$work/packages source=$work/source
kernels=(test_reference.py kernels/test_{bits,fit_bits,elements,engines,threads,gradients,memory}.py
    layers/test_{lstm,variants,quantize}.py streaming/test_stepper.py decoding/test_ctc.py)

# apt with its own folders, so that the machine's lists of architectures and packages do not change.
debian() {
    apt-get -q -o Dir="$work/apt" -o Dir::State::status="$work/apt/status" -o APT::Architecture=arm64 \
        -o APT::Architectures=arm64 -o APT::Sandbox::User=root "$@"
}

if [ ! -e "$root/usr/bin/python3.11" ]; then
    mkdir -p "$work"/apt/{etc/apt/apt.conf.d,etc/apt/preferences.d,etc/apt/sources.list.d,var/lib/apt/lists/partial,var/cache/apt/archives/partial}
    : > "$work/apt/status"
    cp /etc/apt/sources.list.d/debian.sources "$work/apt/etc/apt/sources.list.d"
    debian update
    debian install -y --download-only --no-install-recommends python3.11 libpython3.11-dev libstdc++6
    mkdir -p "$root"
    for package in "$work"/apt/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
fi

version() { "$python" -c "import importlib.metadata as m; print(m.version('$1'))"; }

if [ ! -d "$packages" ]; then
    "$python" -m pip install --quiet --target "$packages" --only-binary=:all: --python-version 3.11 \
        --platform manylinux_2_17_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64 \
        "numpy==$(version numpy)" "scipy==$(version scipy)" pytest hypothesis
fi

# Cross-compile: setup.py runs with this machine's Python, which reads the target's configuration.
rm -rf "$source"
mkdir -p "$source" "$work/description"
cp "$root/usr/lib/python3.11/_sysconfigdata__aarch64-linux-gnu.py" "$work/description"
cp -r "$here"/{build_backend.py,setup.py,pyproject.toml,README.md,LICENSE,lstm_cy,tests} "$source"
find "$source/lstm_cy" -name '*.so' -delete
cd "$source"
_PYTHON_HOST_PLATFORM=linux-aarch64 _PYTHON_SYSCONFIGDATA_NAME=_sysconfigdata__aarch64-linux-gnu \
    PYTHONPATH="$work/description" CC=aarch64-linux-gnu-gcc LDSHARED="aarch64-linux-gnu-gcc -shared" \
    CFLAGS="-I$root/usr/include/python3.11 -I$root/usr/include" \
    "$python" setup.py -q build_ext --inplace 2>&1 | tee "$work/build.log"
if grep "going on without" "$work/build.log"; then exit 1; fi
[ "$(cd lstm_cy/_kernels/isa && echo *.so | sed 's/\.cpython[^ ]*//g')" = "base neondotprod" ]
aarch64-linux-gnu-objdump -d lstm_cy/_kernels/isa/neondotprod.*.so | grep -c sdot > /dev/null
if aarch64-linux-gnu-objdump -d lstm_cy/_kernels/isa/base.*.so | grep sdot; then exit 1; fi
built=(lstm_cy/_kernels/isa/base.*.so lstm_cy/_kernels/runtime/threads.*.so lstm_cy/streaming/stepper.*.so)
file "${built[@]}" | grep -c 'ELF 64-bit LSB shared object, ARM aarch64' | grep -qx 3

# The target's Python, as a program that tests can start.
cat > "$work/python" << WRAPPER
#!/bin/sh
exec qemu-aarch64-static -L $root $root/usr/bin/python3.11 "\$@"
WRAPPER
chmod +x "$work/python"
echo 'import os, sys; sys.executable = os.environ["EMULATED"]' > "$work/description/emulated.py"
cd tests
export EMULATED="$work/python" PYTHONPATH="$source:$packages:$work/description" OPENBLAS_NUM_THREADS=1
"$EMULATED" -c "import lstm_cy; lstm_cy.show_config()"
available() { QEMU_CPU=$1 "$EMULATED" -c "from lstm_cy import config; print(*config.available_instruction_sets())"; }
[ "$(available cortex-a72)" = base ]
[ "$(available neoverse-n1)" = "base neondotprod" ]
# qemu-user does not enforce the memory limit of a process, and the preloaded library that counts allocations is compiled
# for this machine
"$EMULATED" -m pytest -p emulated -p no:cacheprovider -q \
    --deselect tests/layers/test_lstm.py::test_out_of_memory_is_an_error_and_nothing_breaks \
    --deselect tests/streaming/test_stepper.py::test_a_hundred_thousand_steps_allocate_nothing "${@:-${kernels[@]}}"
