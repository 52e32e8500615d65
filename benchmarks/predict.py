"""Predict how near the tiles come to the limits of ARM processors, by llvm-mca; nothing is run:

    python setup.py build_ext --inplace
    python benchmarks/predict.py

It compiles the kernels for aarch64 to assembly with each of the cross compilers that are installed (Debian's packages
gcc-aarch64-linux-gnu with libc6-dev-arm64-cross, and clang-19), finds the innermost loop of each tile by its number of
multiply-adds, and prints the share of the processor's limit: of multiply-adds for tiles of several rows, of loads for a
lone row, whose every weight is used once. Loads from the first cache never wait.
"""

import re
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
GENERATED = ROOT / "build" / "lstm_cy" / "_kernels" / "isa"
COMPILERS = {"gcc": ["aarch64-linux-gnu-gcc"], "clang": ["clang-19", "--target=aarch64-linux-gnu"]}
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffp-contract=off"]
FLAGS += ["-DCYTHON_INLINE=inline __attribute__((always_inline))"]
VARIANTS = {"base": [], "neondotprod": ["-march=armv8.2-a+dotprod"]}
ROUNDS = 300


class Kind(NamedTuple):
    """How the loops of a precision are found."""

    name: str
    variant: str
    function: str
    multiply: str  # the instruction that occurs once for each vector of sums
    operand: str  # of it
    columns: int  # of four vectors


KINDS = (
    Kind("float32", "base", "cell_step", "fmla", ".4s", 16),
    Kind("float64", "base", "cell_step", "fmla", ".2d", 8),
    Kind("int8", "neondotprod", "int8_tiles", "sdot", "", 16),
    Kind("int8", "base", "int8_tiles", "sadalp", "", 16),
)
#: processor: instructions on 16 bytes a cycle. A sadalp adds two products of bytes, of which there is one a cycle.
PROCESSORS = {
    "neoverse-n1": {"load": 2, "fmla": 2, "sdot": 2},
    "neoverse-v1": {"load": 3, "fmla": 4, "sdot": 4},
    "cortex-a72": {"load": 1, "fmla": 1, "sadalp": 0.5},
}


def assembly(compiler, variant):
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "kernels.s"
        includes = [f"-I{sysconfig.get_path('include')}", f"-I{ROOT / 'lstm_cy' / '_kernels' / 'isa'}"]
        source = GENERATED / f"{variant}.c"
        command = [*compiler, *FLAGS, *VARIANTS[variant], *includes, "-S", "-o", str(target), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        return target.read_text().splitlines()


JUMP = re.compile(r"\s+(?:b[.\w]*|cbn?z\s+\w+,)\s+(\.L\w+)$")


def innermost_loops(lines, name):
    """Yield the instructions of each loop without another jump inside, of functions whose name has `name` in it."""
    function, labels = "", {}
    for number, line in enumerate(lines):
        if label := re.match(r"(\.?\w[\w.$]*):", line):
            labels[label[1]] = number
            function = label[1] if label[1][0] != "." else function
        jump = JUMP.match(line)
        if jump and name in function and labels.get(jump[1], number) < number:
            body = lines[labels[jump[1]] + 1 : number + 1]
            if not any(JUMP.match(text) for text in body[:-1]):
                yield [text for text in body if not re.match(r"\s*(?:[.#]|//)", text)]


def cycles(body, processor):
    command = ["llvm-mca-19", "-march=aarch64", f"-mcpu={processor}", f"-iterations={ROUNDS}"]
    done = subprocess.run(command, input="\n".join(body), capture_output=True, text=True, check=True)
    return int(re.search(r"Total Cycles:\s+(\d+)", done.stdout)[1]) / ROUNDS


def tiles(lines, kind):
    """Return {(rows, groups of four vectors): loops of such tiles, each with the k that it takes at a time}."""
    found = {}
    for body in innermost_loops(lines, kind.function):
        multiplies = sum(f"\t{kind.multiply}\t" in text and kind.operand in text for text in body)
        if multiplies < 4 or any("\tshl\t" in text for text in body):  # the latter widens bf16
            continue
        loaded = [
            register for text in body if re.match(r"\s+ld[pr]\s", text) for register in re.findall(r"\b[qd]\d", text)
        ]
        weights = sum(1 if register[0] == "q" else 0.5 for register in loaded)
        rows = 1 if weights >= multiplies else multiplies // 4
        steps = 1 + max((int(lane) for text in body for lane in re.findall(r"\.[sd]\[(\d)\]", text)), default=0)
        found.setdefault((rows, multiplies // 4 // rows // steps), []).append((body, steps))
    return found


def share(kind, rows, groups, loops, processor):
    """Return how near the fastest of some loops comes to the limit, or nothing if the processor cannot run them."""
    rates = PROCESSORS[processor]
    if kind.multiply not in rates or not loops:
        return ""
    limit = 4 * rows * groups / rates[kind.multiply]
    if rows == 1:
        limit = max(4 * groups / rates["load"], 0 if kind.multiply == "fmla" else limit)
    return f"{100 * limit / min(cycles(body, processor) / steps for body, steps in loops):.0f} %"


def table():
    compilers = {name: command for name, command in COMPILERS.items() if shutil.which(command[0])}
    compiled = {(name, variant): assembly(compilers[name], variant) for name in compilers for variant in VARIANTS}
    yield "| precision | tile | " + " | ".join(f"{one}, {name}" for one in PROCESSORS for name in compilers) + " |"
    yield "|---|---|" + "--:|" * len(PROCESSORS) * len(compilers)
    for kind in KINDS:
        found = {name: tiles(compiled[name, kind.variant], kind) for name in compilers}
        for rows, groups in sorted(set().union(*found.values())):
            shares = [
                share(kind, rows, groups, found[name].get((rows, groups), []), processor)
                for processor in PROCESSORS
                for name in compilers
            ]
            tile = f"{rows} row{'s' * (rows > 1)}, {kind.columns * groups} columns"
            yield f"| {kind.name} | {tile} | " + " | ".join(shares) + " |"


if __name__ == "__main__":
    print(*table(), sep="\n")
