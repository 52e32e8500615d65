"""The names of test helpers: a helper that asserts and returns nothing is named `assert_...`."""

import ast
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.rglob("test_*.py"))
#: replacements of the library's functions, which have their names
REPLACEMENTS = {"fit", "free", "set_state", "speak_the_rest"}


def own_nodes(function):
    """Yield the nodes of a function, without those of functions inside it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            yield child
            yield from own_nodes(child)


def asserts_only(function):
    """Return whether a function asserts something and has no result."""
    nodes = list(own_nodes(function))
    results = (ast.Yield, ast.YieldFrom)
    if any(isinstance(node, results) or (isinstance(node, ast.Return) and node.value is not None) for node in nodes):
        return False
    calls = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    return any(isinstance(node, ast.Assert) for node in nodes) or "pytest.raises" in calls


def misnamed(text):
    """Return the functions of a file that assert only and are not named `assert_...`."""
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    names = [node.name for node in functions if asserts_only(node)]
    return [name for name in names if not name.startswith(("test_", "assert_", "__"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_helpers_that_assert_are_named_so(path):
    assert set(misnamed(path.read_text())) <= REPLACEMENTS


def test_a_helper_without_assert_in_its_name_is_found():
    text = "def check(x):\n    assert x\n\ndef found(x):\n    assert x\n    return x\n"
    text += "def test_it():\n    def refused():\n        with pytest.raises(ValueError):\n            f()\n"
    assert misnamed(text) == ["check", "refused"]
