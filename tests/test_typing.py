"""What is told to those who read types, as far as it can be seen without mypy; `mypy` itself runs beside the tests."""

import ast
from pathlib import Path

import lstm_cy

PACKAGE = Path(lstm_cy.__file__).parent


def told(module):
    """{name: module it is imported from} of the names under TYPE_CHECKING in a module."""
    blocks = [node for node in ast.parse(Path(module.__file__).read_text()).body if isinstance(node, ast.If)]
    (block,) = (node for node in blocks if "TYPE_CHECKING" in ast.unparse(node.test))
    return {alias.asname: node.module for node in block.body for alias in node.names}


def test_types_know_the_public_names():
    names = told(lstm_cy)
    assert names.pop("reference") is names.pop("weights") is None
    assert names == lstm_cy._HOME


def test_every_compiled_module_has_its_types_beside_it():
    for source in PACKAGE.rglob("*.pyx"):
        assert source.with_suffix(".pyi").exists(), source.name


def test_the_package_says_that_it_has_types():
    assert (PACKAGE / "py.typed").exists()


def test_public_type_names_are_there():
    from lstm_cy import typing

    assert all(hasattr(typing, name) for name in typing.__all__)
