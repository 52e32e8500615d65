"""The activation functions: names, defaults and the kernels' numbers, and NumPy's functions with their derivatives."""

from __future__ import annotations

import functools
import math
import numbers
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from .._kernels import elements
from .._kernels.network import ACTIVATION_KINDS
from ..checks import number, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..typing import Array

    #: (name, alpha, beta) of the gate, candidate and cell activations
    _Triple = tuple[tuple[str, float, float], ...]

#: ONNX's default (alpha, beta) of the functions that the kernels have; 0 where the function has none
DEFAULTS = {
    "sigmoid": (0.0, 0.0),  # 1 / (1 + exp(-x))
    "tanh": (0.0, 0.0),
    "relu": (0.0, 0.0),  # max(0, x)
    "affine": (1.0, 0.0),  # alpha x + beta
    "leakyrelu": (0.01, 0.0),  # x where x >= 0, else alpha x
    "thresholdedrelu": (1.0, 0.0),  # x where x > alpha, else 0
    "scaledtanh": (1.0, 1.0),  # alpha tanh(beta x)
    "hardsigmoid": (0.2, 0.5),  # max(0, min(1, alpha x + beta))
    "elu": (1.0, 0.0),  # x where x >= 0, else alpha (exp(x) - 1)
    "softsign": (0.0, 0.0),  # x / (1 + |x|)
    "softplus": (0.0, 0.0),  # ln(1 + exp(x))
}
#: how many of (alpha, beta) a function has; functions that are not listed have none
ARGUMENTS = {"affine": 2, "leakyrelu": 1, "thresholdedrelu": 1, "scaledtanh": 2, "hardsigmoid": 2, "elu": 1}
#: the default activations of an LSTM
PLAIN = (("sigmoid", 0.0, 0.0), ("tanh", 0.0, 0.0), ("tanh", 0.0, 0.0))


def normalized(activations: Sequence[Any], directions: int, largest: float = sys.float_info.max) -> tuple[_Triple, ...]:
    """Return the `activations` of an LSTM as one triple of (name, alpha, beta) for each direction.

    Parameters
    ----------
    activations : sequence
        Three entries, for the gates, the candidate and the cell, or one such triple for each direction. An entry is a
        name, in upper or lower case, or (name, alpha) or (name, alpha, beta).
    directions : int
    largest : float
        The largest absolute value of alpha and beta.

    Raises
    ------
    TypeError, ValueError
        `activations` has another form; the message names it.

    Examples
    --------
    >>> normalized(("HardSigmoid", "tanh", ("leakyrelu", 0.1)), 1)
    ((('hardsigmoid', 0.2, 0.5), ('tanh', 0.0, 0.0), ('leakyrelu', 0.1, 0.0)),)
    """
    if not isinstance(activations, tuple | list):
        raise TypeError(f"activations: expected three or a triple for each direction, got {shown(activations)}")
    if len(activations) == directions and all(_is_triple(entry) for entry in activations):
        return tuple(_triple(entry, largest) for entry in activations)
    if len(activations) == 3:
        return (_triple(activations, largest),) * directions
    raise ValueError(
        f"activations: expected three or a triple for each of {directions} directions, got {len(activations)} entries"
    )


def for_kernels(triple: _Triple) -> tuple[tuple[int, float, float], ...]:
    """Return a normalized triple with the kernels' numbers in place of names."""
    return tuple((ACTIVATION_KINDS[name], alpha, beta) for name, alpha, beta in triple)


def _is_triple(entry: object) -> bool:
    return isinstance(entry, tuple | list) and len(entry) == 3 and not isinstance(entry[1], numbers.Real)


def _triple(entries: Sequence[Any], largest: float) -> _Triple:
    return tuple(_activation(entry, largest) for entry in entries)


def _activation(entry: Any, largest: float) -> tuple[str, float, float]:
    name, *given = entry if isinstance(entry, tuple | list) and entry else (entry,)
    if not isinstance(name, str) or name.lower() not in DEFAULTS:
        raise ValueError(f"activations: expected names of {', '.join(DEFAULTS)}, got {shown(entry)}")
    name = name.lower()
    if len(given) > 2 or not all(isinstance(part, numbers.Real) and not isinstance(part, bool) for part in given):
        raise TypeError(f"activations: expected a name, (name, alpha) or (name, alpha, beta), got {shown(entry)}")
    values = tuple(number("activations", part, -largest, largest) for part in given) + DEFAULTS[name][len(given) :]
    has = ARGUMENTS.get(name, 0)
    if any(values[has:]):
        raise ValueError(f"activations: expected {has} numbers with {name}, got {shown(entry)}")
    alpha, beta = values
    return name, alpha, beta


_SELU = 1.6732632423543772, 1.0507009873554805


def _kernel(name: str) -> Callable[[Array], Array]:
    """Return a function of each element by the compiled kernels, which give the same bits on every processor."""
    number = elements.FUNCTIONS[name]

    def function(x: Array) -> Array:
        x = np.asarray(x)
        computed = _computed(x.dtype) if name != "normal" else np.dtype(np.float64)
        y = np.empty(x.shape, computed)
        elements.apply(config.kernels(), number, np.ascontiguousarray(x, computed), y)
        return y.astype(x.dtype, copy=False)

    return function


def _computed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that the kernels compute floats of a dtype in."""
    return np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)


_sigmoid, tanh, softplus, exp, _expm1, _normal = map(_kernel, ("sigmoid", "tanh", "softplus", "exp", "expm1", "normal"))


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * _expm1(np.minimum(x, 0)))


def _elu_slope(x: Array, alpha: float) -> Array:
    return np.where(x > 0, 1, alpha * exp(np.minimum(x, 0)))


def softmax(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """Return exp(x) / sum(exp(x)) over an axis, which may be empty; no exponential overflows."""
    return _over_axes(x, axis, logarithm=False)


def log_softmax(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """Return the logarithm of `softmax`, without computing it."""
    return _over_axes(x, axis, logarithm=True)


def _over_axes(x: Array, axis: int | tuple[int, ...], logarithm: bool) -> Array:
    """Return softmax or its logarithm over one or several axes, in x's dtype."""
    axes = axis if isinstance(axis, tuple) else (axis,)
    last = tuple(range(-len(axes), 0))
    moved = x if axes == last else np.moveaxis(x, axes, last)
    rows = np.ascontiguousarray(moved, _computed(x.dtype)).reshape(_matrix(moved.shape, len(axes)))
    y = np.empty_like(rows)
    elements.softmax(config.kernels(), rows, y, logarithm)
    y = y.reshape(moved.shape).astype(x.dtype, copy=False)
    return y if moved is x else np.moveaxis(y, last, axes)


def _matrix(shape: tuple[int, ...], axes: int) -> tuple[int, int]:
    """Return the shape of rows of the last `axes` axes."""
    return math.prod(shape[: len(shape) - axes]), math.prod(shape[len(shape) - axes :])


def softmax_backward(dy: Array, y: Array, logarithm: bool = False) -> Array:
    """Return the gradient of x from that of y = softmax(x), or its logarithm, over the last axis."""
    shape, computed = _matrix(y.shape, 1), _computed(y.dtype)
    dx = np.empty(y.shape, computed)
    result, gradient = (np.ascontiguousarray(array, computed).reshape(shape) for array in (y, dy))
    elements.softmax_backward(config.kernels(), result, gradient, dx.reshape(shape), logarithm)
    return dx.astype(y.dtype, copy=False)


#: functions of one element: {name: (y from (x, alpha, beta), dy/dx from (x, y, alpha, beta))}
ELEMENTWISE: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sigmoid": (lambda x, a, b: _sigmoid(x), lambda x, y, a, b: y * (1 - y)),
    "tanh": (lambda x, a, b: tanh(x), lambda x, y, a, b: 1 - y * y),
    "relu": (lambda x, a, b: np.maximum(x, 0), lambda x, y, a, b: x > 0),
    "affine": (lambda x, a, b: a * x + b, lambda x, y, a, b: np.full_like(x, a)),
    "leakyrelu": (lambda x, a, b: np.where(x < 0, a * x, x), lambda x, y, a, b: np.where(x < 0, a, 1)),
    "thresholdedrelu": (lambda x, a, b: np.where(x > a, x, 0), lambda x, y, a, b: x > a),
    "scaledtanh": (lambda x, a, b: a * tanh(b * x), lambda x, y, a, b: a * b * (1 - tanh(b * x) ** 2)),
    "hardsigmoid": (
        lambda x, a, b: np.clip(a * x + b, 0, 1),
        lambda x, y, a, b: np.where((y > 0) & (y < 1), a, 0),
    ),
    "elu": (lambda x, a, b: _elu(x, a), lambda x, y, a, b: _elu_slope(x, a)),
    "softsign": (lambda x, a, b: x / (1 + abs(x)), lambda x, y, a, b: (1 - abs(y)) ** 2),
    "softplus": (lambda x, a, b: softplus(x), lambda x, y, a, b: _sigmoid(x)),
    "selu": (lambda x, a, b: _SELU[1] * _elu(x, _SELU[0]), lambda x, y, a, b: _SELU[1] * _elu_slope(x, _SELU[0])),
    "silu": (lambda x, a, b: x * _sigmoid(x), lambda x, y, a, b: _sigmoid(x) * (1 + x - y)),
    "gelu": (
        lambda x, a, b: x * _normal(x),
        lambda x, y, a, b: _normal(x) + x * exp(-0.5 * x * x) / math.sqrt(2 * math.pi),
    ),
    "exp": (lambda x, a, b: exp(x), lambda x, y, a, b: y),
}
#: functions over the last axis: {name: (y from x, the gradient of x from (dy, y))}
VECTORWISE: dict[str, tuple[Callable[[Array], Array], Callable[[Array, Array], Any]]] = {
    "softmax": (softmax, softmax_backward),
    "logsoftmax": (log_softmax, functools.partial(softmax_backward, logarithm=True)),
}
