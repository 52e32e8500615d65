"""Describe this machine for asv, by its processor: results of equal processors are kept together, and others apart.

    asv run --machine "$(python benchmarks/machine.py)" --bench speedup_over_numpy main^!

This prints the name, such as "AMD EPYC Zen 3 avx2", and writes it with the rest of asv's description of the machine to
~/.asv-machine.json; asv keeps the results in a folder of that name, and its pages let the reader choose one. The last
word is the instruction set in use: LSTM_CY_ISA selects another one.
"""

import platform
import re
import sys
from pathlib import Path

if not __package__:  # run as a file
    sys.path.append(str(Path(__file__).resolve().parents[1]))

CPUINFO = Path("/proc/cpuinfo")
#: AMD's families and their models, from arch/x86/kernel/cpu/amd.c of Linux: the first range that has the model
ZEN = {
    0x17: {"Zen": (*range(0x30), *range(0x50, 0x60)), "Zen 2": range(0x100)},
    0x19: {"Zen 4": (*range(0x10, 0x20), *range(0x60, 0xB0)), "Zen 3": range(0x100)},
    0x1A: {"Zen 6": (*range(0x50, 0x60), *range(0x80, 0xD0)), "Zen 5": range(0x100)},
}


def processor():
    """Return the processor's name, as far as the system knows it; for AMD with the name of its cores."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    found = {}
    for key, _, value in (line.partition(":") for line in lines):
        found.setdefault(key.strip(), value.strip())
    if "model name" in found:
        return " ".join((found["model name"], *zen(found)))
    if "CPU part" in found:  # ARM: numbers, not names
        return f"{platform.machine()} {found.get('CPU implementer', '')}-{found['CPU part']}"
    return platform.processor() or platform.machine()


def zen(found):
    """Yield the name of an AMD processor's cores."""
    if found.get("vendor_id") != "AuthenticAMD":
        return
    for name, models in ZEN.get(int(found["cpu family"]), {}).items():
        if int(found["model"]) in models:
            yield name
            return


def name():
    """Return the machine's name for asv: its processor and the instruction set in use, fit for a folder."""
    from lstm_cy import config

    plain = re.sub(r"\(R\)|\(TM\)|CPU|@.*|[^\w .+-]", " ", f"{processor()}")
    return " ".join(f"{plain} {config.instruction_set()}".split())


def main():
    from asv.machine import Machine, MachineCollection

    described = Machine.get_defaults() | {"machine": name()}
    MachineCollection.save(described["machine"], described)
    print(described["machine"])


if __name__ == "__main__":
    main()
