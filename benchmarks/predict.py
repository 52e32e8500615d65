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

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "build" / "lstm_cy" / "_kernels" / "isa" / "base.c"
COMPILERS = {"gcc": ["aarch64-linux-gnu-gcc"], "clang": ["clang-19", "--target=aarch64-linux-gnu"]}
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffp-contract=off"]
FLAGS += ["-DCYTHON_INLINE=inline __attribute__((always_inline))"]
#: processor: (multiply-adds, loads) of 16 bytes a cycle
PROCESSORS = {"neoverse-n1": (2, 2), "neoverse-v1": (4, 3), "cortex-a72": (1, 1)}
ROUNDS = 300


def assembly(compiler):
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "base.s"
        includes = [f"-I{sysconfig.get_path('include')}", f"-I{ROOT / 'lstm_cy' / '_kernels' / 'isa'}"]
        command = [*compiler, *FLAGS, *includes, "-S", "-o", str(target), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True)
        return target.read_text().splitlines()


def innermost_loops(lines, name):
    """Yield the instructions of each loop without a label inside, of functions whose name has `name` in it."""
    function, labels = "", {}
    for number, line in enumerate(lines):
        if label := re.match(r"(\.?\w[\w.$]*):", line):
            labels[label[1]] = number
            function = label[1] if label[1][0] != "." else function
        jump = re.match(r"\s+(?:b[.\w]*|cbn?z\s+\w+,)\s+(\.L\w+)$", line)
        if jump and name in function and labels.get(jump[1], number) < number:
            body = lines[labels[jump[1]] + 1 : number + 1]
            if not any(text.startswith(".") for text in body):
                yield body


def cycles(body, processor):
    command = ["llvm-mca-19", "-march=aarch64", f"-mcpu={processor}", f"-iterations={ROUNDS}"]
    done = subprocess.run(command, input="\n".join(body), capture_output=True, text=True, check=True)
    return int(re.search(r"Total Cycles:\s+(\d+)", done.stdout)[1]) / ROUNDS


def tiles(lines):
    """Return {(rows, panels): the fastest loop of float32} of the cell's step."""
    found = {}
    for body in innermost_loops(lines, "cell_step"):
        adds = sum("fmla" in text for text in body)
        if adds < 4 or any(".2d" in text for text in body):
            continue
        weights = sum(
            2 * (text.split()[0] == "ldp") + (text.split()[0] == "ldr") for text in body if re.search(r"\bq\d", text)
        )
        rows = 1 if weights >= adds else adds // 4
        found.setdefault((rows, adds // 4 // rows), []).append(body)
    return found


def table():
    yield "| tile | compiler | " + " | ".join(PROCESSORS) + " |"
    yield "|---|---|" + "--:|" * len(PROCESSORS)
    for name, compiler in COMPILERS.items():
        if not shutil.which(compiler[0]):
            continue
        for (rows, panels), loops in sorted(tiles(assembly(compiler)).items()):
            shares = []
            for processor, (adds, loads) in PROCESSORS.items():
                limit = 4 * panels / loads if rows == 1 else 4 * rows * panels / adds
                shares.append(f"{100 * limit / min(cycles(body, processor) for body in loops):.0f} %")
            yield f"| {rows} row{'s' * (rows > 1)}, {16 * panels} columns | {name} | " + " | ".join(shares) + " |"


if __name__ == "__main__":
    print(*table(), sep="\n")
