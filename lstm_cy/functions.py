"""The functions of the layer Activation in NumPy, by name, each with its derivative."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .typing import Array

_SELU = 1.6732632423543772, 1.0507009873554805


def _sigmoid(x: Array) -> Array:
    return 0.5 * np.tanh(0.5 * x) + 0.5


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _elu_slope(x: Array, alpha: float) -> Array:
    return np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0)))


def _normal(x: Array) -> Array:
    """The cumulative distribution function of the normal distribution."""
    from scipy.special import ndtr  # here, so that other models do not import SciPy

    result: Array = ndtr(x)
    return result


def _softmax(x: Array) -> Array:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
    result: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def _log_softmax(x: Array) -> Array:
    x = x - x.max(axis=-1, keepdims=True, initial=-np.inf)
    result: Array = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return result


#: functions of one element: {name: (y from (x, alpha, beta), dy/dx from (x, y, alpha, beta))}
ELEMENTWISE: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sigmoid": (lambda x, a, b: _sigmoid(x), lambda x, y, a, b: y * (1 - y)),
    "tanh": (lambda x, a, b: np.tanh(x), lambda x, y, a, b: 1 - y * y),
    "relu": (lambda x, a, b: np.maximum(x, 0), lambda x, y, a, b: x > 0),
    "affine": (lambda x, a, b: a * x + b, lambda x, y, a, b: np.full_like(x, a)),
    "leakyrelu": (lambda x, a, b: np.where(x < 0, a * x, x), lambda x, y, a, b: np.where(x < 0, a, 1)),
    "thresholdedrelu": (lambda x, a, b: np.where(x > a, x, 0), lambda x, y, a, b: x > a),
    "scaledtanh": (lambda x, a, b: a * np.tanh(b * x), lambda x, y, a, b: a * b * (1 - np.tanh(b * x) ** 2)),
    "hardsigmoid": (
        lambda x, a, b: np.clip(a * x + b, 0, 1),
        lambda x, y, a, b: np.where((y > 0) & (y < 1), a, 0),
    ),
    "elu": (lambda x, a, b: _elu(x, a), lambda x, y, a, b: _elu_slope(x, a)),
    "softsign": (lambda x, a, b: x / (1 + abs(x)), lambda x, y, a, b: (1 - abs(y)) ** 2),
    "softplus": (lambda x, a, b: np.logaddexp(x, 0), lambda x, y, a, b: _sigmoid(x)),
    "selu": (lambda x, a, b: _SELU[1] * _elu(x, _SELU[0]), lambda x, y, a, b: _SELU[1] * _elu_slope(x, _SELU[0])),
    "silu": (lambda x, a, b: x * _sigmoid(x), lambda x, y, a, b: _sigmoid(x) * (1 + x - y)),
    "gelu": (
        lambda x, a, b: x * _normal(x),
        lambda x, y, a, b: _normal(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi),
    ),
    "exp": (lambda x, a, b: np.exp(x), lambda x, y, a, b: y),
}
#: functions over the last axis: {name: (y from x, the gradient of x from (dy, y))}
VECTORWISE: dict[str, tuple[Callable[[Array], Array], Callable[[Array, Array], Any]]] = {
    "softmax": (_softmax, lambda dy, y: y * (dy - (dy * y).sum(axis=-1, keepdims=True))),
    "logsoftmax": (_log_softmax, lambda dy, y: dy - np.exp(y) * dy.sum(axis=-1, keepdims=True)),
}
