"""Run mypy's stubtest on the whole package: python tests/stubtest.py

stubtest imports every module. Importing the kernels of an instruction set that this processor lacks would end the
process, so they are excluded; `stubtest.txt` lists the other exclusions.
"""

import sys
import tempfile
from importlib.abc import MetaPathFinder
from pathlib import Path

from mypy import stubtest

from lstm_cy import config
from lstm_cy._kernels.runtime import cpu

HERE = Path(__file__).parent
SETS = "base", "avx2", "avx512", "avx512vnni", "avx512bf16", "neondotprod"
KERNELS = {f"lstm_cy._kernels.isa.{name}" for name in SETS}
UNAVAILABLE = KERNELS - {f"lstm_cy._kernels.isa.{name}" for name in cpu.instruction_sets()}


class ExcludedKernels(MetaPathFinder):
    """Refuses to import the kernels that this processor cannot run."""

    def find_spec(self, name, path, target=None):
        if name in UNAVAILABLE:
            raise ImportError(f"{name}: this processor has only {', '.join(config.available_instruction_sets())}")


def main():
    sys.meta_path.insert(0, ExcludedKernels())
    with tempfile.TemporaryDirectory() as folder:
        allowed = Path(folder) / "allowed.txt"
        allowed.write_text("\n".join(sorted(UNAVAILABLE)))
        options = ["--mypy-config-file", str(HERE.parent / "pyproject.toml"), "--ignore-unused-allowlist"]
        options += ["--allowlist", str(HERE / "stubtest.txt"), "--allowlist", str(allowed)]
        return stubtest.test_stubs(stubtest.parse_options([*options, "lstm_cy"]))


if __name__ == "__main__":
    sys.exit(main())
