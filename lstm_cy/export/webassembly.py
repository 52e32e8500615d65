"""C compiled to WebAssembly, by clang or by zig; setup.py runs this file too, so it imports only Python's library."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

#: clang's names, the plain one first, then the newest
CLANGS = ("clang", *(f"clang-{version}" for version in range(23, 13, -1)))
INSTALL = "install clang and lld (Debian: apt-get install clang lld), or `pip install ziglang`"
#: simd128 is part of every browser since 2023; -ffreestanding: there is no C library
FLAGS = [
    "-std=c99",
    "-O3",
    "-msimd128",
    "-mbulk-memory",
    "-ffreestanding",
    "-fno-math-errno",
    "-ffp-contract=off",
]
#: without -O, with which clang would run a wasm-opt that it finds, and older ones do not know relaxed SIMD
LINK_FLAGS = ["-nostdlib", "-Wl,--no-entry", "-Wl,--strip-all", "-Wl,-z,stack-size=16384"]
#: what the C takes from <string.h>; the compiler has instructions for it
STRING_H = """
#define memcpy __builtin_memcpy
#define memset __builtin_memset
#define memcmp __builtin_memcmp
"""
TEST = '__attribute__((export_name("f"))) int f(int x) { return x; }\n'


def find_compiler() -> list[str] | None:
    """Return the command of a compiler for WebAssembly, or None.

    LSTM_CY_WASM_CC names one; otherwise it is a clang that can compile and link for wasm32, or zig from PyPI.
    """
    given = os.environ.get("LSTM_CY_WASM_CC")
    candidates = [shlex.split(given)] if given else _installed()
    return next((command for command in candidates if _works(command)), None)


def _installed() -> list[list[str]]:
    """Return the commands of the compilers on this machine that may know WebAssembly."""
    clangs = [[path, "--target=wasm32"] for path in map(shutil.which, CLANGS) if path]
    zig = [[sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-freestanding"]] if find_spec("ziglang") else []
    return clangs + zig


def _works(command: list[str]) -> bool:
    try:
        compiled(TEST, command)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def required_compiler() -> list[str]:
    """Return the command of a compiler for WebAssembly.

    Raises
    ------
    ImportError
        There is none; the message says what to install.
    """
    compiler = find_compiler()
    if compiler is None:
        raise ImportError(f"no compiler for WebAssembly was found: {INSTALL}")
    return compiler


def compiled(source: str, compiler: list[str], *flags: str) -> bytes:
    """Return the WebAssembly module that a C source becomes.

    Raises
    ------
    subprocess.CalledProcessError
        The compiler failed; `stderr` has its messages.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "module.c").write_text(source)
        Path(folder, "string.h").write_text(STRING_H)
        linked = [flag for flag in flags if flag.startswith("-Wl,")]
        compiling = [*FLAGS, *(flag for flag in flags if flag not in linked), f"-I{folder}", "-c", "module.c"]
        for arguments in [*compiling, "-o", "module.o"], [*LINK_FLAGS, *linked, "module.o", "-o", "module.wasm"]:
            subprocess.run([*compiler, *arguments], cwd=folder, check=True, capture_output=True, text=True)
        return Path(folder, "module.wasm").read_bytes()
