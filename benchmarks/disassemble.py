"""Count vector and scalar arithmetic in the built kernels, and list the mathematical functions that they import.

    python benchmarks/disassemble.py

prints a row for each function of each instruction set: the number of floating-point instructions on whole vectors of
its precision, the number of those on one number or in the other precision, and the widest register. Then it lists the
mathematical functions that the module imports; there should be none. It needs objdump and nm (binutils), and kernels
with their symbols.
"""

import re
import subprocess
import sys
from pathlib import Path

import lstm_cy

ARITHMETIC = re.compile(r"^v?(?:f?n?m?(?:add|sub|mul|div)|fn?m(?:add|sub)\d+|max|min|sqrt)([ps])([sd])$")
# A compiler may make several clones of a tile, one for each number of rows, or inline it.
NAMES = "cell_forward|cell_backward|column_sums|add_products|part_of_tile|add_outer|outer_strips|cell_step|update_rows"
NAMES += "|activate|add_outer_bf16|int8_tiles|multiply_int8"
FUNCTION = re.compile(r"^[0-9a-f]+ <(?:__pyx_fuse_(\d))?\S*kernels_\d+\w*?_(" + NAMES + r")(?:\.\w+\.\d+)*>:$")
PRECISIONS = {"0": "float32", "1": "float64", None: "float32"}  # narrow weights have float32 sums only
PRECISIONS_OF_VECTORS = {"0": "float32", "1": "float32", "2": "float64"}  # the second is half of a vector
LIBM = re.compile(r"^(?:exp|expm1|tanh|fma|log|pow|ldexp|floor|rint|nearbyint|round)[fl]?\d?$")


def modules():
    """Return {instruction set: path of its compiled module}."""
    folder = Path(lstm_cy.__file__).parent / "_kernels" / "isa"
    return {path.name.split(".")[0]: path for path in sorted(folder.glob("*.so"))}


def count(path):
    """Return {(function, precision): (vector instructions, other instructions, widest register)} of a module."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(path)], capture_output=True, text=True, check=True
    ).stdout
    counts, current = {}, None
    for line in listing.splitlines():
        if line.endswith(">:"):
            found = FUNCTION.match(line)
            table = PRECISIONS_OF_VECTORS if found and found[2] == "update_rows" else PRECISIONS
            current = (found[2], table[found[1]]) if found else None
            continue
        fields = line.split("\t")
        if current is None or len(fields) < 2:
            continue
        mnemonic, _, operands = fields[1].partition(" ")
        arithmetic = ARITHMETIC.match(mnemonic)
        if arithmetic:
            vector, other, widest = counts.get(current, (0, 0, "xmm"))
            right = arithmetic[1] == "p" and arithmetic[2] == ("s" if current[1] == "float32" else "d")
            register = max(re.findall(r"[xyz]mm", operands), default="xmm")
            counts[current] = vector + right, other + (not right), max(widest, register)
    return counts


def libm_calls(path):
    """Return the mathematical functions that a module imports."""
    listing = subprocess.run(["nm", "-D", "--undefined-only", str(path)], capture_output=True, text=True, check=True)
    names = [line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()]
    return sorted(name for name in names if LIBM.match(name))


def main():
    print(f"{'':8} {'function':14} {'':8} {'vector':>7} {'other':>7}  widest")
    for name, path in modules().items():
        for (function, precision), (vector, other, widest) in sorted(count(path).items()):
            print(f"{name:8} {function:14} {precision:8} {vector:7} {other:7}  {widest}")
        print(f"{name:8} calls into libm: {', '.join(libm_calls(path)) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
