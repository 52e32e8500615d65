"""Exported C99 files on other compilers and targets; see c99.sh."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from lstm_cy import (
    LSTM,
    Activation,
    BatchNormalization,
    Conv1D,
    Embedding,
    GlobalPooling1D,
    LayerNormalization,
    Linear,
    Pooling1D,
    Readout,
    Residual,
    Sequential,
)
from lstm_cy.export import c99

STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
MODELS = {
    "amp": Sequential(Residual(LSTM(1, 24, seed=0), Linear(24, 1, seed=0))),
    "words": Sequential(Embedding(30, 7, seed=0), LSTM(7, 33, seed=0), Linear(33, 30, seed=0)),
    "int8": LSTM(5, 33, num_layers=2, seed=0).quantize("int8"),
    "rows": Sequential(
        Conv1D(2, 9, 3, seed=0),
        BatchNormalization(9),
        Activation("softsign"),
        Pooling1D("average", 2, stride=1),
        LayerNormalization(9),
        LSTM(9, 17, seed=0),
        GlobalPooling1D("average"),
        Linear(17, 5, seed=0),
        Activation("logsoftmax"),
    ),
    "masks": Sequential(
        Embedding(9, 5, mask_zero=True, seed=0), LSTM(5, 9, num_layers=2, seed=0), Readout(return_sequences=True)
    ),
    "options": LSTM(5, 33, peepholes=True, layer_norm=True, proj_size=9, clip=1.5, cell_clip=0.3, seed=0),
}


class Target(NamedTuple):
    """A compiler and its options, what runs its programs, and the board of a microcontroller: its code and its data."""

    compiler: str
    bits: bool = True
    run: str = ""
    board: tuple[str, str] | None = None


def cortex(cpu: str, fpu: str, machine: str, rom: str, ram: str) -> Target:
    """Return a microcontroller, as qemu has it."""
    compiler = f"arm-none-eabi-gcc -std=c99 -O2 -mcpu={cpu} -mthumb -mfloat-abi=hard -mfpu={fpu}"
    run = f"qemu-system-arm -nographic -semihosting-config enable=on,target=native -machine {machine} -kernel"
    return Target(compiler, True, run, (rom, ram))


#: `bits`: the results must be equal to the bit; else they may differ by 2e-6
TARGETS = {
    "gcc": Target("gcc -std=c99 -O3 -march=native"),
    "gcc-gnu": Target("gcc -std=gnu11 -O3 -march=native"),
    "gcc-11": Target("gcc-11 -std=c99 -O2 -march=native"),
    "clang-16": Target("clang-16 -std=c99 -O3 -march=native"),
    "clang-19": Target("clang-19 -std=c99 -O3 -march=native"),
    "sse2": Target("gcc -std=c99 -O2", False),
    "m32": Target("gcc -m32 -std=c99 -O2", False),
    "m32-fma": Target("gcc -m32 -std=c99 -O2 -mavx2 -mfma -mfpmath=sse"),
    "mingw": Target("x86_64-w64-mingw32-gcc -std=c99 -O2 -march=haswell", True, "wine"),
    "cortex-m4": cortex("cortex-m4", "fpv4-sp-d16", "mps2-an386", "0x0", "0x20000000"),
    "cortex-m33": cortex("cortex-m33", "fpv5-sp-d16", "mps2-an505", "0x10000000", "0x38000000"),
}
#: what starts a program on a board: the stack, the FPU, and the semihosting of newlib
START = """
extern unsigned stack_top, bss_start, bss_end;
extern void initialise_monitor_handles(void);
extern void exit(int);
int main(void);
void _init(void) {}
void _fini(void) {}

static void reset(void)
{
    unsigned *word;
    *(volatile unsigned *)0xe000ed88 |= 0xfu << 20;
    for (word = &bss_start; word < &bss_end; word++)
        *word = 0;
    initialise_monitor_handles();
    exit(main());
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {&stack_top, reset};
"""
SCRIPT = """
SECTIONS
{
    . = ROM;
    .text : { KEEP(*(.vectors)) *(.text* .rodata*) *(.ARM.exidx*) *(.init*) *(.fini*) . = ALIGN(8); }
    . = RAM;
    .data : { *(.data*) . = ALIGN(8); }
    .bss : { bss_start = .; *(.bss* COMMON) . = ALIGN(8); bss_end = .; }
    end = .;
    stack_top = RAM + 0x100000;
}
"""


def run(target: Target, name: str, folder: Path) -> str:
    """Compile and run the self test of a model; return what it printed."""
    compiler = target.compiler.split()
    subprocess.run(
        [*compiler, *STRICT, f"-D{name.upper()}_SELF_TEST", "-x", "c", "-c", f"{name}.h", "-o", "test.o"],
        cwd=folder,
        check=True,
    )
    link = [*compiler, "test.o", "-o", "test.exe"]
    if target.board is not None:
        (folder / "start.c").write_text(START)
        (folder / "board.ld").write_text(SCRIPT)
        places = [f"-Wl,--defsym={place}={at}" for place, at in zip(("ROM", "RAM"), target.board, strict=True)]
        link += ["start.c", "-w", "--specs=rdimon.specs", "-nostartfiles", *places, "-Tboard.ld"]
    subprocess.run(link, cwd=folder, check=True, stderr=subprocess.DEVNULL)
    command = [*target.run.split(), "./test.exe"]
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
    )
    return done.stdout.strip()


def code_size(target: Target, name: str, folder: Path) -> str:
    """Return the bytes of code and weights that a model adds to a program for a board."""
    (folder / "one.c").write_text(f'#define {name.upper()}_IMPLEMENTATION\n#include "{name}.h"\n')
    subprocess.run([*target.compiler.split(), "-c", "one.c"], cwd=folder, check=True)
    sizes = subprocess.run(["arm-none-eabi-size", "one.o"], cwd=folder, check=True, capture_output=True, text=True)
    return f"; code and weights {sizes.stdout.splitlines()[1].split()[0]} bytes"


def main(names: list[str]) -> int:
    """Run the targets of these names, or all; return 1 if a result is wrong."""
    wrong, missing = 0, []
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        for name, model in MODELS.items():
            c99(model, folder / f"{name}.h", self_test=True)
        for label in names or TARGETS:
            target = TARGETS[label]
            tools = [target.compiler.split()[0], *target.run.split()[:1]]
            if not all(map(shutil.which, tools)):
                missing.append(label)
                continue
            for name in MODELS:
                printed = run(target, name, folder)
                right = printed.startswith("passed") and (not target.bits or "; equal to the bit" in printed)
                wrong += not right
                size = "" if target.board is None else code_size(target, name, folder)
                print(f"{'' if right else 'WRONG '}{label} {name}: {printed}{size}", flush=True)
    print(f"not run, for want of a compiler or emulator: {', '.join(missing) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
