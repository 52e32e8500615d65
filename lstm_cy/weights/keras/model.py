"""Conversion of Keras's models, from .keras and .h5 files or live, to a Sequential, without Keras or TensorFlow.

The architecture is read from the configuration; class names in it are looked up in a table. Weights are found by their
path (.keras) or name (.h5, live), and each must be used.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...layers.sequential import Sequential
from ..budget import Budget, LimitExceeded
from ..faults import check_finite, listed, naming, shortened
from ..inputs import input_of
from .assembly import Assembly
from .calls import Reader
from .config import MODELS, Unsupported, layers_of, name_of
from .files import WEIGHTS_ONLY, read, read_parts
from .options import major_of
from .weights import Location, WeightsByName

if TYPE_CHECKING:
    from ...typing import FileSource, Parameters
    from ..graph import Graph
    from ..inputs import Input
    from .weights import Weights


def read_model(path: FileSource | Input, strict: bool = False) -> Sequential | Graph:
    """Read a model that Keras 2.13 or later saved as .keras, or Keras 1.2 or later as .h5.

    Parameters
    ----------
    path : str or os.PathLike
    strict : bool
        If True, NaN or infinity among the weights is an error instead of a warning.

    Returns
    -------
    Sequential or Graph
        A Sequential with `batch_first`, or a Graph if it is no chain; docs/formats.md lists the result for each layer.

    Raises
    ------
    ValueError
        The file is truncated, damaged or not Keras's; or it holds weights that no layer uses, or layers or options
        that are not supported, all of which are listed.
    OSError
        The file cannot be read.
    """
    path = input_of(path)
    with path.open() as file, naming(path):
        budget = Budget.of(file, path)
        spec, version, weights = read(file, budget)
        model, parameters = _convert(spec, version, weights, budget)
    check_finite(path, parameters, strict)
    return model


class Contents(NamedTuple):
    """The contents of a file, also if its model is not supported.

    Attributes
    ----------
    model : Sequential, Graph or None
    problem : str
        The reason if `model` is None.
    layers, unsupported : list of (str, str)
        Names of layers with their classes, and with the reasons why they are not supported.
    arrays : dict of str to ndarray
    """

    model: Sequential | Graph | None
    problem: str
    layers: list[tuple[str, str]]
    unsupported: list[tuple[str, str]]
    arrays: Parameters


def contents_of(path: FileSource | Input) -> Contents:
    """Return the contents of a Keras file; raise as `read_model` for a damaged file, but not for unsupported layers."""
    path = input_of(path)
    with path.open() as file, naming(path):
        budget = Budget.of(file, path)
        spec, version, weights = read_parts(file, budget)
        arrays = weights.arrays()
        if spec is None:
            return Contents(None, WEIGHTS_ONLY, [], [], arrays)
        unsupported: list[tuple[str, str]] = []
        model: Sequential | Graph | None = None
        problem = ""
        try:
            model, _ = _convert(spec, version, weights, budget)
        except LimitExceeded:
            raise
        except ValueError as error:
            problem = shortened(error)
            reader = Reader(version if isinstance(version, str) else None, budget)
            reader.read(spec, Location("", "", "", ()))
            unsupported = reader.unsupported
        layers = [(name_of(layer), shortened(layer.get("class_name"), 80)) for layer in layers_of(spec)]
        return Contents(model, problem, layers, unsupported, arrays)


def from_keras(model: Any) -> Sequential | Graph:
    """Convert a live Keras model to a Sequential or a Graph; the weights are copied.

    Parameters
    ----------
    model : keras.Sequential, or a functional keras.Model
        docs/formats.md lists the supported layers.

    Returns
    -------
    Sequential or Graph
        A Sequential with `batch_first` if the model is a chain of layers that this library has; else a Graph.

    Raises
    ------
    TypeError
        `model` is not a Keras model, or is of a custom class.
    ValueError
        It has no weights yet, or holds layers or options that are not supported; all of them are listed.

    Examples
    --------
    With Keras installed::

        model = lstm_cy.from_keras(keras_model)
        out, states = model(x)

    Other arguments are refused:

    >>> from_keras("model.keras")
    Traceback (most recent call last):
    TypeError: model: expected a Sequential or functional model of Keras, got str
    """
    kind = type(model).__name__
    package = type(model).__module__.split(".")[0]
    if package not in ("keras", "tf_keras") or kind not in MODELS:
        raise TypeError(f"model: expected a Sequential or functional model of Keras, got {kind}")
    if not model.built:
        raise ValueError("model: expected one that has its weights; call it once, or give it an Input")
    _check_uses(model)
    arrays = {}
    for layer in model.layers:
        paths = [getattr(weight, "path", weight.name) for weight in layer.weights]
        arrays[layer.name] = dict(zip(paths, layer.get_weights(), strict=True))
    version = getattr(sys.modules.get(package), "__version__", None)
    # in the form of a file: lists for tuples, Python's numbers for NumPy's
    text = json.dumps({"class_name": kind, "config": model.get_config()}, default=_plain)
    size = sum(array.nbytes for inside in arrays.values() for array in inside.values())
    with naming("model"):
        budget = Budget("model", len(text) + size)
        return _convert(budget.json(text, "its configuration"), version, WeightsByName(arrays, budget), budget)[0]


def _check_uses(model: Any) -> None:
    """Raise if a layer is used twice: Keras's configuration and files describe it once."""
    seen: set[int] = set()
    for layer in model.layers:
        if id(layer) in seen:
            raise ValueError(f"model: not supported: {layer.name}: expected one use of it, got several")
        seen.add(id(layer))
        if hasattr(layer, "layers"):  # a nested model
            _check_uses(layer)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else repr(value)


def _convert(spec: Any, version: Any, weights: Weights, budget: Budget) -> tuple[Sequential | Graph, Parameters]:
    """Return a model from its configuration and weights, and its parameters by name."""
    version = version if isinstance(version, str) else None
    reader = Reader(version, budget)
    model = reader.read(spec, Location("", "", "", ()))
    try:
        calls = None if model is None or reader.unsupported else reader.calls(model, [name for name, _ in model.inputs])
    except Unsupported as error:
        reader.unsupported.append(("the model", str(error)))
    if model is None or reader.unsupported or calls is None:
        texts = [f"{name}: {reason}" for name, reason in reader.unsupported]
        raise ValueError(f"not supported: {listed(texts, 100, '; ')}{_origin(version)}")
    assembly = Assembly(weights, version)
    made = assembly.model(model, *calls)
    unused = weights.unused()
    if unused:
        raise ValueError(f"weights that no layer uses: {listed(unused)}")
    return made, made.parameters if isinstance(made, Sequential) else assembly.parameters()


def _origin(version: str | None) -> str:
    """Return a note for files of Keras 1, whose layers have other names and options."""
    return f" (a model of Keras {shortened(version, 20)})" if major_of(version) == "1" else ""
