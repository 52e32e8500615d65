"""Who may import whom: module-level imports inside the package, and what the kernels may cimport."""

import ast
import re
import sys
from pathlib import Path

import lstm_cy

PACKAGE = Path(lstm_cy.__file__).parent
CORE = {
    "activations",
    "checks",
    "config",
    "extras",
    "functions",
    "layer",
    "notebook",
    "printable",
    "batches",
    "lstm",
    "layers",
    "attention",
    "losses",
    "optimizers",
    "reference",
    "_kernels",
}
ABOVE = {"bench", "training", "quantize", "weights", "decoding", "seq2seq", "text", "trace", "estimators", "streams"}
# the extra that a module is for: it cannot be imported without
EXTRAS = {"estimators": {"sklearn"}}
# what each module may import of the package; whoever is not listed may import the core
ALLOWED = {
    "__init__": set(),
    "__main__": {"cli"},
    "checks": set(),
    "extras": set(),
    "activations": set(),
    "functions": set(),
    "reference": set(),
    "batches": {"checks"},
    "notebook": set(),
    "printable": set(),
    "typing": set(),
    "config": {"checks", "_kernels"},
    "layer": {"checks", "notebook"},
    "lstm": {"activations", "checks", "config", "layer", "notebook", "_kernels"},
    "layers": {"activations", "checks", "config", "functions", "layer", "lstm", "notebook", "_kernels"},
    "attention": {"checks", "layer"},
    "losses": {"checks", "_kernels"},
    "optimizers": {"checks", "losses", "_kernels"},
    "cli": CORE | ABOVE,
    "distributed": CORE | ABOVE,
}


def module_level(tree):
    """Import statements that run when the module is imported."""
    for node in tree.body:
        for inner in node.body if isinstance(node, ast.Try) else [node]:
            if isinstance(inner, ast.Import | ast.ImportFrom):
                yield inner


def imports(path):
    """(modules of the package, others) that a file imports at module level."""
    ours, others = set(), set()
    depth = len(path.relative_to(PACKAGE).parts)
    for node in module_level(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif node.level == depth:
            ours |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        elif node.level == 0:
            others.add(node.module.split(".")[0])
    return ours, others


def sources():
    return [path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts]


def test_modules_import_only_what_lies_below_them():
    for path in sources():
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        ours, _ = imports(path)
        ours -= {name}
        allowed = ALLOWED.get(name, CORE | (ABOVE if name in ABOVE else set()))
        assert ours <= allowed, f"{path.name} imports {sorted(ours - allowed)}"


def test_importing_needs_only_numpy():
    for path in sources():
        _, others = imports(path)
        allowed = set(sys.stdlib_module_names) | {"numpy"} | EXTRAS.get(path.stem, set())
        assert others <= allowed, f"{path.name} imports {sorted(others)}"


def test_reference_needs_nothing_but_numpy():
    ours, others = imports(PACKAGE / "reference.py")
    assert ours == set()
    assert others - set(sys.stdlib_module_names) == {"numpy"}


def test_kernels_cimport_only_their_own_python_and_libc_and_only_blas_names_scipy():
    files = [path for pattern in ("*.pyx", "*.pxd", "*.pxi") for path in (PACKAGE / "_kernels").glob(pattern)]
    for path in files:
        for origin in re.findall(r"^(?:from|cimport)\s+(\S+)", path.read_text(), re.MULTILINE):
            root = origin.split(".")[0]
            assert root in ("", "cython", "cpython", "libc", "scipy"), f"{path.name}: {origin}"
            if root == "scipy":
                assert (path.name, origin) == ("blas.pyx", "scipy.linalg.cython_blas")
