"""The compiled kernels have vector arithmetic and no library calls, by benchmarks/disassemble.py."""

import importlib.util
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "disassemble.py"
WIDEST = {"base": "xmm", "avx2": "ymm", "avx512": "zmm", "avx512vnni": "zmm", "avx512bf16": "zmm"}
# the instruction for sums of integer products, for int8
PRODUCT = {"base": "pmaddwd", "avx2": "vpmaddwd", "avx512": "vpmaddwd"}
PRODUCT |= dict.fromkeys(("avx512vnni", "avx512bf16"), "vpdpbusd")

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64") or not shutil.which("objdump") or not shutil.which("nm"),
    reason="needs Linux, an x86 processor and binutils",
)


@pytest.fixture(scope="module")
def disassemble():
    spec = importlib.util.spec_from_file_location("disassemble", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("isa", WIDEST)
def test_kernels_are_vector_code(disassemble, isa):
    path = disassemble.modules().get(isa)
    if path is None:
        pytest.skip(f"{isa} was not built")
    counts = disassemble.count(path)
    functions = {function for function, _ in counts}
    assert {"cell_forward", "cell_backward", "cell_step", "update_rows", "column_sums"} <= functions
    assert {"add_products", "add_outer", "activate"} <= functions
    assert {"add_outer_bf16", "int8_tiles", "multiply_int8"} <= functions
    listing = subprocess.run(["objdump", "-d", str(path)], capture_output=True, text=True, check=True).stdout
    assert f"\t{PRODUCT[isa]} " in listing
    assert ("vdpbf16ps" in listing) == ("vcvtneps2bf16" in listing) == (isa == "avx512bf16")
    for (function, precision), (vector, other, widest) in counts.items():
        assert vector > 0, (function, precision)
        # a row's scale and its inverse, for a lone row and for several; a bound that is given as a double
        allowed = {"multiply_int8": 4, "activate": 2}.get(function, 0)
        assert other <= allowed, (function, precision, "scalar, or of the other precision")
        assert widest == WIDEST[isa] or function == "multiply_int8", (function, precision)  # it rounds to bytes


def test_no_kernel_calls_the_mathematical_library(disassemble):
    modules = disassemble.modules()
    assert "base" in modules
    for isa, path in modules.items():
        assert disassemble.libm_calls(path) == [], isa
