"""setup.py with compilers that lack something: stand-ins that only make empty files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytest.importorskip("Cython")
pytest.importorskip("setuptools")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-ins are shell scripts")

COMPILER = """#!/bin/sh
case "$*" in *{refused}*) echo "unknown option {refused}" >&2; exit 1;; esac
while [ $# -gt 1 ]; do
    if [ "$1" = -o ]; then echo made > "$2"; fi
    shift
done
"""


def build(folder, compiler):
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "lstm_cy", source / "lstm_cy", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", str(folder / "lib")],
        cwd=source,
        capture_output=True,
        text=True,
        env={**os.environ, "CC": str(compiler), "LDSHARED": str(compiler)},
    )


def stand_in(folder, refused):
    path = folder / "cc"
    path.write_text(COMPILER.format(refused=refused))
    path.chmod(0o755)
    return path


def test_a_compiler_without_avx512_builds_the_others_and_says_so(tmp_path):
    done = build(tmp_path, stand_in(tmp_path, "-mavx512f"))
    assert done.returncode == 0, done.stderr
    assert "this compiler cannot build the avx512 kernels; going on without them" in done.stderr
    built = {path.name.split(".")[0] for path in (tmp_path / "lib").rglob("*.so")}
    assert {"base", "avx2", "blas", "forward"} <= built
    assert "avx512" not in built


def test_a_compiler_without_tuning_flags_builds_everything(tmp_path):
    done = build(tmp_path, stand_in(tmp_path, "-mmove-max"))
    assert done.returncode == 0, done.stderr
    built = {path.name.split(".")[0] for path in (tmp_path / "lib").rglob("*.so")}
    assert {"base", "avx2", "avx512"} <= built


@pytest.mark.parametrize("refused", ("-c", None), ids=("broken", "missing"))
def test_no_working_compiler_is_told_in_words(tmp_path, refused):
    compiler = stand_in(tmp_path, refused) if refused else tmp_path / "nowhere" / "cc"
    done = build(tmp_path, compiler)
    assert done.returncode == 1
    assert "needs a working C compiler and Python's headers" in done.stderr
    assert "apt-get install gcc python3-dev" in done.stderr
    assert "Traceback" not in done.stderr
