"""The names that type checkers see, as far as tests can check them without mypy, which runs separately."""

import ast
from pathlib import Path

import lstm_cy

PACKAGE = Path(lstm_cy.__file__).parent


def type_checking_imports(module):
    """Return {name: module it is imported from} of the names under TYPE_CHECKING in a module."""
    blocks = [node for node in ast.parse(Path(module.__file__).read_text()).body if isinstance(node, ast.If)]
    (block,) = (node for node in blocks if "TYPE_CHECKING" in ast.unparse(node.test))
    return {alias.asname: node.module for node in block.body for alias in node.names}


def test_type_checkers_see_the_public_names():
    names = type_checking_imports(lstm_cy)
    assert names.pop("reference") is names.pop("schedules") is names.pop("weights") is None
    assert names == lstm_cy._HOME


def test_every_compiled_module_has_a_stub_file():
    for source in PACKAGE.rglob("*.pyx"):
        assert source.with_suffix(".pyi").exists(), source.name


def test_the_package_has_a_py_typed_marker():
    assert (PACKAGE / "py.typed").exists()


def test_public_type_names_exist():
    from lstm_cy import typing

    assert all(hasattr(typing, name) for name in typing.__all__)
