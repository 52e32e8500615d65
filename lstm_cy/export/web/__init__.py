"""Models in a web page: a description of a model, and the module that steps it with all its gates.

`describe` turns a model into values that JSON can hold; `module` is the JavaScript that steps it, and `wasm` what
makes that faster. docs/how-to/web.md shows how to use them.
"""

from __future__ import annotations

import base64
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chain import Add, Cell, Function, Linear, Lookup, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...layers.base import Layer
    from ...typing import Array
    from ..chain import Part, Weight

#: the version of what `describe` returns, which the module compares with its own
FORMAT = 1


def module() -> str:
    """Return the text of the JavaScript module that steps a model: an ES module without imports.

    Its exports are the classes `Network` and `Layer` and the function `softmax`. A page may contain the text in a
    ``<script type="module">``, with code that uses them behind it.

    Returns
    -------
    str

    Examples
    --------
    >>> from lstm_cy.export import web
    >>> "export class Network" in web.module()
    True
    """
    return resources.files(__name__).joinpath("network.js").read_text("utf-8")


def wasm() -> bytes | None:
    """Return the WebAssembly module for `Network.create`, or None if this build of lstm_cy has none.

    A build without a compiler for WebAssembly has none; the JavaScript module then computes everything itself.

    Returns
    -------
    bytes or None
    """
    try:
        return resources.files(__name__).joinpath("network.wasm").read_bytes()
    except FileNotFoundError:
        return None


def describe(model: Layer) -> dict[str, Any]:
    """Return a model as values that JSON can hold, for `Network.create` of the JavaScript module.

    Parameters
    ----------
    model : LSTM, QuantizedLSTM or Sequential
        A float32 model of LSTM, with float32 or int8 weights, Linear, Residual, Dropout, Embedding without `mask_zero`
        and Activation, except gelu and logsoftmax.

    Returns
    -------
    dict
        Sizes, the parts in order, and the weights that the model has now, as base64.

    Raises
    ------
    TypeError, ValueError
        The model cannot be described; the message says why.

    Examples
    --------
    >>> from lstm_cy import LSTM, Linear, Sequential
    >>> from lstm_cy.export import web
    >>> found = web.describe(Sequential(LSTM(2, 5, seed=0), Linear(5, 3, seed=0)))
    >>> found["inputs"], found["outputs"], [part["kind"] for part in found["parts"]]
    (2, 3, ['lstm', 'linear'])
    """
    parts = parts_of(model, _is_known)
    weights = _Weights()
    described = [_DESCRIBE[type(part)](part, weights) for part in parts]
    first, last = parts[0], described[-1]
    return {
        "format": FORMAT,
        "inputs": 0 if isinstance(first, Lookup) else described[0]["inputs"],
        "tokens": len(first.table) if isinstance(first, Lookup) else 0,
        "outputs": last["size"] if "size" in last else last["outputs"],
        "parts": described,
        "weights": base64.b64encode(weights.content).decode(),
    }


def _is_known(part: Part) -> bool:
    """Return whether the JavaScript module has a part."""
    if isinstance(part, Lookup):
        return not part.masks
    return type(part) in _DESCRIBE and (not isinstance(part, Function) or part.name not in ("gelu", "logsoftmax"))


class _Weights:
    """Arrays one after the other, each at a multiple of four bytes."""

    def __init__(self) -> None:
        self.content = bytearray()

    def add(self, array: Array | None) -> dict[str, Any] | None:
        """Add an array; return its type, offset and number of elements."""
        if array is None:
            return None
        kind = "int8" if array.dtype == np.int8 else "float32"
        offset = len(self.content)
        self.content += array.astype("<f4" if kind == "float32" else "i1").tobytes()
        self.content += bytes(-len(self.content) % 4)
        return {"type": kind, "offset": offset, "count": array.size}

    def add_matrix(self, weight: Weight) -> dict[str, Any]:
        """Add a matrix of a cell, (outputs, inputs), with its scales if it is int8."""
        values, scale = weight if isinstance(weight, tuple) else (weight, None)
        return {"inputs": values.shape[1], "values": self.add(values), "scale": self.add(scale)}


def _lookup(part: Lookup, weights: _Weights) -> dict[str, Any]:
    return {"kind": "lookup", "outputs": part.table.shape[1], "table": weights.add(part.table)}


def _linear(part: Linear, weights: _Weights) -> dict[str, Any]:
    outputs, inputs = part.weight.shape
    arrays = {"weight": weights.add(part.weight), "bias": weights.add(part.bias)}
    return {"kind": "linear", "inputs": inputs, "outputs": outputs, **arrays}


def _add(part: Add, weights: _Weights) -> dict[str, Any]:
    return {"kind": "add", "first": part.first, "outputs": part.outputs}


def _function(part: Function, weights: _Weights) -> dict[str, Any]:
    return {"kind": "function", "name": part.name, "alpha": part.alpha, "beta": part.beta, "size": part.size}


def _cell(part: Cell, weights: _Weights) -> dict[str, Any]:
    initial = part.initial and dict(zip("hc", map(weights.add, part.initial), strict=True))
    return {
        "kind": "lstm",
        "inputs": part.inputs,
        "units": part.units,
        "outputs": part.outputs,
        "ih": weights.add_matrix(part.ih),
        "hh": weights.add_matrix(part.hh),
        "hr": weights.add(part.hr),
        "bias": weights.add(part.bias),
        "peepholes": weights.add(part.peepholes),
        "norm": weights.add(part.norm),
        "initial": initial,
        "activations": part.activations,
        "coupling": part.coupling,
        "clip": part.clip,
        "cell_clip": part.cell_clip,
        "proj_clip": part.proj_clip,
        "zoneout": part.zoneout,
    }


_DESCRIBE: dict[type, Callable[[Any, _Weights], dict[str, Any]]] = {
    Lookup: _lookup,
    Linear: _linear,
    Add: _add,
    Function: _function,
    Cell: _cell,
}
