"""The modules that each module may import: checks every import and cimport of the package, also inside functions."""

import ast
import functools
import re
import sys
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest

# The source tree, because an installed package has no Cython sources.
PACKAGE = Path(__file__).parents[1] / "lstm_cy"

#: A module imports modules of lower levels only; the first level is the lowest. A name stands for all modules of its
#: package; inside a package only cycles are forbidden.
LEVELS = (
    {
        "_kernels",
        "checks",
        "extras",
        "notebook",
        "printable",
        "progress",
        "reference",
        "typing",
    },
    {"config", "text"},
    {"layers"},
    # former paths of layers
    {"activations", "attention", "functions", "layer", "lstm", "quantize"},
    {"streaming", "trace", "training"},
    # public and former paths of modules of training
    {"batches", "losses", "optimizers", "schedules"},
    {"decoding", "embed", "stepper", "streams", "weights"},
    {"bench", "distributed", "estimators", "export", "seq2seq", "torch"},
    {"cli"},
    {"__main__"},
)
#: Exceptions: imports of higher levels, each inside a function. The list may only get shorter.
UPWARD = {
    # methods that return objects made from the layer
    ("layers", "streaming"),
    ("layers", "trace"),
    # the order of the gates in from_gates; the files of checkpoints
    ("layers", "weights"),
    ("trace", "export"),
    ("training", "weights"),
}
#: Import cycles that these exceptions cause. The list may only get shorter.
CYCLES: list[set[str]] = []
#: modules that import by a computed name, and the reason
COMPUTED = {
    "__init__": "public names, at their first use",
    "cli": "the commands, at their first use",
    "config": "the kernels of an instruction set",
    "layers": "the layers, at their first use",
    "training": "fit and what belongs to it, at their first use",
    "weights": "the formats, at their first use",
    "weights.native": "the layer types that a file may name",
}
#: libraries beyond NumPy, and the only modules that may import them; all but WHOLE inside functions
LIBRARIES = {
    "cloudpickle": {"distributed"},
    "dask": {"distributed"},
    "distributed": {"distributed"},
    "keras": {"weights.comparisons"},
    "matplotlib": {"estimators.picture", "trace.picture", "training.history"},
    "mpi4py": {"distributed"},
    "onnx": {"weights.comparisons", "weights.onnx.export_graph"},
    "onnxruntime": {"bench", "weights.comparisons"},
    "safetensors": {"weights.comparisons", "weights.containers.safetensors"},
    "scipy": {"config", "weights.onnx.operators.arithmetic"},
    "pandas": {"estimators.series", "estimators.forecaster"},
    "sklearn": {
        "estimators",
        "estimators.classifier",
        "estimators.forecaster",
        "estimators.network",
        "estimators.regressor",
        "estimators.sequences",
    },
    "torch": {
        "bench",
        "torch",
        "torch.autograd",
        "torch.kernels",
        "torch.modules",
        "torch.packing",
        "torch.replacing",
        "weights.comparisons",
    },
    "tqdm": {"progress"},
}
#: libraries that packages are made for
WHOLE = {("sklearn", "estimators"), ("torch", "torch")}
#: compiled modules and packages of such, and what they may cimport besides each other
COMPILED = ("_kernels", "embed", "layers.direct", "streaming.")
CIMPORTS = {"cpython", "cython", "libc", "numpy"}


class Import(NamedTuple):
    module: str  # of the package, or the first part of another's name
    ours: bool
    inside: bool  # a function


def module_name(path, package=PACKAGE):
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"


def sources():
    """Return {module: [(path, text), ...]}; a compiled module has several files."""
    found = {}
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix in (".py", ".pyx", ".pxd", ".pxi"):
            found.setdefault(module_name(path), []).append((path.relative_to(PACKAGE), path.read_text()))
    return found


def imports(path, text, known):
    """Yield the imports of a file; `known` are the modules of the package."""
    statements = python_imports(text) if path.suffix == ".py" else cython_imports(text)
    for level, module, names, inside in statements:
        parts = module.split(".") if module else []
        if level or parts[:1] == ["lstm_cy"]:
            home = list(path.parent.parts)
            base = home[: len(home) - level + 1] + parts if level else parts[1:]
            for name in names or [""]:
                yield Import(nearest([*base, name], known), True, inside)
        else:
            yield Import(parts[0], False, inside)


def nearest(parts, known):
    """Return the module that a dotted name names or is in."""
    while parts and ".".join(parts) not in known:
        parts = parts[:-1]
    return ".".join(parts) or "__init__"


@functools.cache
def python_imports(text):
    """Return (level, module, names, whether inside a function) of every import statement that can be executed."""

    def walk(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import):
                yield from ((0, alias.name, [], inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield child.level, child.module or "", [alias.name for alias in child.names], inside
            yield from walk(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    return list(walk(ast.parse(text), False))


@functools.cache
def cython_imports(text):
    """Return the same for Cython source, including cimports, by regular expressions on its lines."""
    found = []
    text = re.sub(r'"""(?s:.*?)"""', "", text).replace("\\\n", "")
    text = re.sub(r"\(([^()]*)\)", lambda match: match.group().replace("\n", " "), text)
    for line in text.splitlines():
        inside = line[:1].isspace()
        if match := re.match(r"\s*from\s+(\.*)([\w.]*)\s+c?import\s+\(?([^#)]+)", line):
            names = [name.split()[0] for name in match[3].split(",") if name.strip()]
            found.append((len(match[1]), match[2], names, inside))
        elif match := re.match(r"\s*c?import\s+([\w., ]+)", line):
            found += [(0, name.split()[0], [], inside) for name in match[1].split(",")]
    return found


def graph(files):
    """Return {module: its imports}."""
    return {
        name: list(chain.from_iterable(imports(path, text, files) for path, text in texts))
        for name, texts in files.items()
    }


def group(module):
    return module.split(".")[0]


def level(module):
    """Return the number of a module's level, or None."""
    return next((number for number, names in enumerate(LEVELS) if group(module) in names), None)


def wrong(files):
    """Return a description of every forbidden import of `files`."""
    found = graph(files)
    by_name = [*wrong_computed(files), *wrong_private(files)]
    return [*wrong_levels(found), *wrong_cycles(found), *wrong_libraries(found), *wrong_containers(found), *by_name]


def wrong_levels(found):
    up = {
        (group(name), group(to.module), to.inside)
        for name, its in found.items()
        for to in its
        if to.ours and "__init__" not in (name, to.module) and group(name) != group(to.module)
        if None not in (level(name), level(to.module)) and level(name) <= level(to.module)
    }
    yield from (f"{name} is on no level" for name in found if name != "__init__" and level(name) is None)
    yield from (f"{name} imports {to}, which is not below it" for name, to, _ in up if (name, to) not in UPWARD)
    yield from (f"{name} imports {to} outside a function" for name, to, inside in up if not inside)
    yield from (f"UPWARD: {pair} is gone" for pair in UPWARD if pair not in {edge[:2] for edge in up})


def wrong_cycles(found):
    reach = {name: {to.module for to in its if to.ours} - {"__init__", name} for name, its in found.items()}
    for middle in reach:  # the transitive closure
        for its in reach.values():
            if middle in its:
                its |= reach[middle]
    cycles = {frozenset(to for to in its if name in reach[to]) for name, its in reach.items() if name in its}
    yield from (f"a new cycle: {sorted(cycle)}" for cycle in cycles if cycle not in CYCLES)
    yield from (f"CYCLES: {sorted(cycle)} is gone or has changed" for cycle in CYCLES if cycle not in cycles)


def wrong_libraries(found):
    standard = set(sys.stdlib_module_names) | {"__future__"}
    for name, its in found.items():
        for to in its:
            if to.ours or to.module in standard:
                continue
            if name.startswith(COMPILED):
                allowed = to.module in CIMPORTS or (name, to.module) == ("_kernels.runtime.blas", "scipy")
            elif to.module == "numpy":
                allowed = True
            else:
                allowed = name in LIBRARIES.get(to.module, ()) and (to.inside or (to.module, group(name)) in WHOLE)
            if not allowed:
                yield f"{name} imports {to.module}{' inside a function' if to.inside else ''}"
    yield from (f"reference imports {to.module}" for to in found["reference"] if to.ours)


def wrong_containers(found):
    """Yield imports of layers by containers of arrays; layers.narrow converts arrays."""
    for name in found:
        if name.startswith("weights.containers"):
            layers = [to.module for to in found[name] if to.ours and group(to.module) == "layers"]
            yield from (f"{name} imports {module}" for module in layers if module != "layers.narrow")


def wrong_computed(files):
    """Yield imports by a computed name, which the rules above cannot see."""
    dynamic = {
        name for name, its in files.items() if any(re.search(r"import_module|__import__", text) for _, text in its)
    }
    yield from (f"{name} imports by a computed name" for name in dynamic - set(COMPUTED))
    yield from (f"COMPUTED: {name} is gone" for name in set(COMPUTED) - dynamic)


def wrong_private(files):
    """Yield imports of private names of other modules."""
    for name, texts in files.items():
        for path, text in texts:
            statements = python_imports(text) if path.suffix == ".py" else cython_imports(text)
            for level, module, names, _ in statements:
                ours = level or module.startswith("lstm_cy")
                for other in names if ours and "_kernels" not in (name, module.split(".")[-1]) else ():
                    if re.match(r"_(?!_|kernels$)", other):
                        yield f"{name} imports the private name {other}"


def test_every_import_is_from_a_lower_level():
    assert wrong(sources()) == []


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("checks.py", "from .layers.lstm import LSTM", "checks imports layers, which is not below it"),
        ("checks.py", "def f():\n    from . import cli", "checks imports cli, which is not below it"),
        ("layers/lstm.py", "import lstm_cy.quantize", "layers imports quantize, which is not below it"),
        ("layers/lstm.py", "from .. import trace", "layers imports trace outside a function"),
        ("layers/narrow.py", "from . import quantized", "a new cycle: ['layers.narrow', 'layers.quantized']"),
        ("text/corpus.py", "def f():\n    from ..config import engine", "text imports config, which is not below it"),
        ("weights/budget.py", "def f():\n    from ..cli import main", "weights imports cli, which is not below it"),
        ("weights/containers/hdf5.py", "from . import torch_pickle", None),
        ("weights/containers/hdf5.py", "from ...layers import lstm", "weights.containers.hdf5 imports layers.lstm"),
        (
            "weights/containers/hdf5.py",
            "def f():\n    from ..keras import files",
            "a new cycle: ['weights.containers.hdf5', 'weights.keras.files']",
        ),
        (
            "weights/onnx/node.py",
            "from . import fold",
            "a new cycle: ['weights.onnx.fold', 'weights.onnx.node']",
        ),
        ("weights/new.py", "from ..cli import main", "weights imports cli, which is not below it"),
        ("new.py", "import numpy", "new is on no level"),
        (
            "streaming/stepper.pyx",
            "from .pool cimport StreamPool",
            "a new cycle: ['streaming.pool', 'streaming.stepper']",
        ),
        ("streaming/stepper.pyx", "    from ..cli import main", "streaming imports cli, which is not below it"),
        ("streaming/stepper.pyx", "from ..layers.linear import (\n    Linear,\n)", None),
        (
            "_kernels/isa/cell.pxi",
            "from lstm_cy.config import engine",
            "_kernels imports config, which is not below it",
        ),
        ("_kernels/network.pyx", "from .affine cimport run", "a new cycle: ['_kernels.affine', '_kernels.network']"),
        ("_kernels/runtime/memory.pyx", "cimport scipy.linalg.cython_blas", "_kernels.runtime.memory imports scipy"),
        ("_kernels/runtime/memory.pyx", "    import torch", "_kernels.runtime.memory imports torch inside a function"),
        ("layers/linear.py", "import scipy", "layers.linear imports scipy"),
        ("layers/linear.py", "def f():\n    import pandas", "layers.linear imports pandas inside a function"),
        ("trace/gates.py", "import matplotlib", "trace.gates imports matplotlib"),
        ("reference.py", "from .checks import flag", "reference imports checks"),
        ("training/losses.py", "from ..checks import _array", "training.losses imports the private name _array"),
        (
            "streaming/stepper.pyx",
            "from ..layers.base import _copied",
            "streaming.stepper imports the private name _copied",
        ),
        (
            "training/losses.py",
            "import importlib\nimportlib.import_module('x')",
            "training.losses imports by a computed name",
        ),
    ],
)
def test_planted_imports_are_found(file, line, message):
    files, path = sources(), Path(file)
    files.setdefault(module_name(path, Path()), []).append((path, line + "\n"))
    found = [text for text in wrong(files) if not text.startswith("CYCLES:")]
    assert found == [] if message is None else message in found


def test_the_lists_have_no_stale_entries():
    files = sources()
    for name in ("layers.recurrent", "layers.sequential"):
        files[name] = [(path, text.replace("from ..trace", "from ..config")) for path, text in files[name]]
    found = wrong(files)
    assert "UPWARD: ('layers', 'trace') is gone" in found
    for names in chain(LIBRARIES.values(), LEVELS):
        assert all(any(name in (module, group(module)) for module in files) for name in names)
    found = graph(files)
    for library, names in LIBRARIES.items():
        assert all(any(to.module == library for to in found[name]) for name in names), library
