"""Every example runs: in docstrings, in the README, in docs/."""

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

import lstm_cy
from lstm_cy.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(lstm_cy.__path__, "lstm_cy.")
    if "_kernels" not in name and "__main__" not in name
]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    failed, _ = doctest.testmod(importlib.import_module(name), verbose=False, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_the_public_names_have_examples():
    documented = [getattr(lstm_cy, name) for name in lstm_cy.__all__ if callable(getattr(lstm_cy, name))]
    without = [thing.__name__ for thing in documented if not doctest.DocTestFinder().find(thing)[0].examples]
    # shown by save; settings of the process; needs PyTorch, shown in docs/formats.md
    assert set(without) <= {"load", "set_num_threads", "get_num_threads", "from_torch"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)


def test_commands(tmp_path, monkeypatch):
    """The commands that only need the installed library; those that install it are what runs this test."""
    monkeypatch.chdir(tmp_path)
    pages = [ROOT / "README.md", ROOT / "docs" / "formats.md"]
    lines = [line for page in pages for block in blocks(page, "sh") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("lstm-cy ")]
    assert {command[1] for command in commands} == {"train", "generate", "trace", "convert", "inspect", "info"}
    for _, *arguments in commands:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(arguments) == 0
        assert printed.getvalue()


def test_local_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_tests_that_are_named_exist():
    for page in PAGES:
        for path, name in re.findall(r"(tests/\w+\.py)::(\w+)", page.read_text()):
            assert f"def {name}(" in (ROOT / path).read_text(), f"{page.name}: {path}::{name}"
