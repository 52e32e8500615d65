"""Conversion of Keras's models, from .keras and .h5 files or live, to a Sequential, without Keras or TensorFlow.

The architecture is read from the configuration; class names in it are looked up in a table. Weights are found by their
path (.keras) or name (.h5, live), and each must be used.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...layers.sequential import Sequential
from ..budget import Budget, LimitExceeded
from ..faults import check_finite, listed, naming, shortened
from ..inputs import input_of
from .config import MODELS, Unsupported, chain_of, layers_of, name_of, split, text_of
from .files import read
from .layers import READERS, Chain
from .options import Options
from .weights import Location, WeightsByName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...layers.base import Layer
    from ...typing import FileSource, Parameters
    from ..inputs import Input
    from .layers import Build
    from .weights import Weights

# Cost of a layer in objects.
_LAYER_COST = 60


def read_model(path: FileSource | Input, strict: bool = False) -> Sequential:
    """Read a model that Keras 3 saved as .keras or .h5, or Keras 2 as .h5.

    Parameters
    ----------
    path : str or os.PathLike
    strict : bool
        If True, NaN or infinity among the weights is an error instead of a warning.

    Returns
    -------
    Sequential
        With `batch_first`; docs/formats.md lists the result for each layer.

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
        model = _convert(spec, version, weights, budget)
    check_finite(path, model.parameters, strict)
    return model


class Contents(NamedTuple):
    """The contents of a file, also if its model is not supported.

    Attributes
    ----------
    model : Sequential or None
    problem : str
        The reason if `model` is None.
    layers, unsupported : list of (str, str)
        Names of layers with their classes, and with the reasons why they are not supported.
    arrays : dict of str to ndarray
    """

    model: Sequential | None
    problem: str
    layers: list[tuple[str, str]]
    unsupported: list[tuple[str, str]]
    arrays: Parameters


def contents_of(path: FileSource | Input) -> Contents:
    """Return the contents of a Keras file; raise as `read_model` for a damaged file, but not for unsupported layers."""
    path = input_of(path)
    with path.open() as file, naming(path):
        budget = Budget.of(file, path)
        spec, version, weights = read(file, budget)
        arrays = weights.arrays()
        unsupported: list[tuple[str, str]] = []
        model, problem = None, ""
        try:
            model = _convert(spec, version, weights, budget)
        except LimitExceeded:
            raise
        except ValueError as error:
            problem = shortened(error)
            _flatten(spec, Location("", "", "", ()), _major(version), [], unsupported, budget)
        layers = [(name_of(layer), shortened(layer.get("class_name"), 80)) for layer in layers_of(spec)]
        return Contents(model, problem, layers, unsupported, arrays)


def from_keras(model: Any) -> Sequential:
    """Convert a live Keras model to a Sequential; the weights are copied.

    Parameters
    ----------
    model : keras.Sequential, or a functional keras.Model
        A chain of layers with one input and one output each; docs/formats.md lists the supported layers.

    Returns
    -------
    Sequential
        With `batch_first`.

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
        return _convert(budget.json(text, "its configuration"), version, WeightsByName(arrays, budget), budget)


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


def _convert(spec: Any, version: Any, weights: Weights, budget: Budget) -> Sequential:
    """Convert a model's configuration and weights to a Sequential."""
    unsupported: list[tuple[str, str]] = []
    parts: list[tuple[Location, Any, Build]] = []
    _flatten(spec, Location("", "", "", ()), _major(version), parts, unsupported, budget)
    if unsupported:
        texts = [f"{name}: {reason}" for name, reason in unsupported]
        raise ValueError(f"not supported: {listed(texts, 100, '; ')}")
    chain = Chain(weights)
    layers = []
    for location, mask, build in parts:
        if mask is not None and mask != chain.mask:
            raise ValueError(f"not supported: {location.name}: a mask of its own")
        layers += build(chain)
    unused = weights.unused()
    if unused:
        raise ValueError(f"weights that no layer uses: {listed(unused)}")
    return Sequential(*layers)


def _major(version: Any) -> str | None:
    """Return the major version of Keras."""
    return version.split(".")[0] if isinstance(version, str) else None


def _flatten(
    spec: Any,
    location: Location,
    major: str | None,
    parts: list[tuple[Location, Any, Build]],
    unsupported: list[tuple[str, str]],
    budget: Budget,
) -> None:
    """Add (location, mask, builder) of each layer of a model to `parts`, or its problem to `unsupported`."""
    seen: dict[str, Any] = {}
    try:
        layers = chain_of(spec)
        budget.objects(_LAYER_COST * len(layers), "its layers")
    except Unsupported as error:
        unsupported += [(location.name or "the model", str(error)), *_unknown_layers(spec)]
        return
    for layer, source, mask in layers:
        name = name_of(layer)
        try:
            kind, config = split(layer)
            name = text_of(config, "name")
            folder = re.sub("(?<=[a-z])(?=[A-Z])", "_", kind).lower()
            seen[folder] = seen.get(folder, -1) + 1
            folder += f"_{seen[folder]}" if seen[folder] else ""
            path = f"{location.path}/layers/{folder}" if location.path else f"layers/{folder}"
            inner = Location(name, path, location.group or name, location.inside + ((name,) if location.group else ()))
            if kind in MODELS:
                parts.append((inner, mask, _nested_model_boundary(inner)))
                with budget.nested("models inside models"):
                    _flatten(layer, inner, major, parts, unsupported, budget)
                parts.append((inner, None, _nested_model_boundary(inner)))
                continue
            if kind not in READERS:
                raise Unsupported(f"layer {kind}")
            options = Options(config, major)
            build = READERS[kind](options, inner, source)
            options.finish()
            parts.append((inner, mask, build))
        except LimitExceeded:
            raise
        except (Unsupported, TypeError, ValueError) as error:
            unsupported.append((name, str(error)))


def _unknown_layers(spec: Any) -> Iterator[tuple[str, str]]:
    """Yield the unsupported layers of a model that is not a chain."""
    for layer in layers_of(spec):
        kind = layer.get("class_name")
        if isinstance(kind, str) and kind not in READERS and kind not in MODELS:
            yield name_of(layer), f"layer {kind}"


def _nested_model_boundary(location: Location) -> Build:
    """Return a builder that refuses masks at the boundary of a nested model, where Keras keeps only some of them."""

    def build(chain: Chain) -> list[Layer]:
        if chain.mask is not None:
            raise ValueError(f"not supported: {location.name}: a mask that enters or leaves a model inside another")
        return []

    return build
