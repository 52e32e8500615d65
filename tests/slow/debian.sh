#!/usr/bin/env bash
# Run the fast part of the tests of a wheel in another release of Debian, with its own C library and Python. By hand, as
# root, on Debian or Ubuntu with debootstrap:
#
#     tests/slow/debian.sh FOLDER RELEASE WHEEL... [-- PYTEST'S ARGUMENTS]
#
# trixie (Python 3.13) and sid (3.14) are such releases. Of the wheels the one for the release's Python is taken. FOLDER
# keeps the release, 300 MB, and the packages from PyPI, which this machine's Python downloads for it (PYTHON, default
# python3). /proc and /dev are mounted for the time of the tests only.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "${1:?a folder for the releases}"
root=$(cd "$1" && pwd)/${2:?a release of Debian} packages=$(cd "$1" && pwd)/packages-$2
shift 2
wheels=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do wheels+=("$1"); shift; done
[ $# -eq 0 ] || shift
export PIP_DISABLE_PIP_VERSION_CHECK=1

if [ ! -x "$root/usr/bin/python3" ]; then
    debootstrap --variant=minbase --include=python3,python3-venv "$(basename "$root")" "$root" > "$root.log"
fi
version=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for wheel in "${wheels[@]}"; do [[ $wheel == *-cp${version/./}-cp${version/./}-* ]] && chosen=$wheel; done
echo "== $(basename "$root"), $(chroot "$root" ldd --version | head -n 1), Python $version: $(basename "${chosen:?no wheel for this Python}")"

platforms=(--platform "manylinux_2_17_$(uname -m)" --platform "manylinux_2_27_$(uname -m)" --platform "manylinux_2_28_$(uname -m)")
[ -d "$packages" ] || "${PYTHON:-python3}" -m pip download --quiet --dest "$packages" --only-binary=:all: \
    --python-version "$version" "${platforms[@]}" numpy scipy "pytest>=8.2" "hypothesis>=6.100"

# A folder without the sources of the package
run=$root/opt/wheel
rm -rf "$run"
mkdir -p "$run"
cp -r "$here/tests" "$here/pyproject.toml" "$chosen" "$packages" "$run"
find "$run/tests" -name __pycache__ -prune -exec rm -r {} +
cat > "$run/run" << SCRIPT
set -e
cd /opt/wheel
python3 -m venv --clear environment
. environment/bin/activate
pip install --quiet --no-index --find-links "$(basename "$packages")" *.whl pytest hypothesis
python -c "import lstm_cy; assert lstm_cy.__file__.startswith('/opt/wheel/environment'); lstm_cy.show_config()"
lstm-cy demo --quick > demo.log
python -m pytest -q -p no:cacheprovider @tests/fast.txt "\$@"
SCRIPT
# shellcheck disable=SC2016
unshare --mount sh -c 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" bash /opt/wheel/run "$@"' \
    "$root" "$@"
