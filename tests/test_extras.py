"""Install commands name the libraries themselves, never this project's name on an index."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from lstm_cy import extras

ROOT = Path(__file__).parents[1]
OPTIONAL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TEXTS = [
    path
    for folder in (".", "benchmarks", "docs", "examples", "lstm_cy")
    for path in (ROOT.glob("*.*") if folder == "." else (ROOT / folder).rglob("*.*"))
    if path.suffix in (".md", ".py", ".pyx", ".pxd", ".toml")
]


@pytest.mark.parametrize("extra", extras.PACKAGES)
def test_extras_are_installed_by_the_names_of_their_libraries(extra):
    """Compare the names with those of pyproject.toml, as a shell reads them."""
    pip, install, *packages = shlex.split(extras.pip_install(extra))
    assert (pip, install) == ("pip", "install")
    expected = [re.match(r"[\w\[\],-]+", requirement)[0] for requirement in OPTIONAL[extra]]
    assert [re.match(r"[\w\[\],-]+", package)[0] for package in packages] == expected
    for package, requirement in zip(packages, OPTIONAL[extra], strict=True):
        assert package == requirement or re.fullmatch(r"[\w\[\],-]+", package), package


def test_no_command_installs_lstm_cy_from_an_index():
    """`pip install lstm_cy` would install any project that has this name on an index; '.' and paths are this one."""
    for path in TEXTS:
        commands = re.findall(r"\bpip\s+install\b[^\n`#&|;]*", path.read_text(encoding="utf-8"))
        named = [command for command in commands if re.search(r"[\s\"']lstm[-_]cy\b(?![/.])", command)]
        assert named == [], path
