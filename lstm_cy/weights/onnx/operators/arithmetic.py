"""Operators that compute: element by element, products, norms and reductions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ....layers.activations import log_softmax, softmax
from ..proto import DTYPES, check_rank
from .arguments import axis_of, check_dtypes, integers_of
from .registry import OPERATORS, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....typing import Array
    from ..node import Node, Operator


# Element by element


def _elementwise(function: Operator) -> Operator:
    """Make an operator of one input that keeps its dtype; `function` takes the node and the input."""

    def apply(node: Node, x: Array) -> Array:
        return np.asarray(function(node, x), dtype=x.dtype)

    return apply


def _plain(function: Callable[[Array], Any]) -> Operator:
    return _elementwise(lambda node, x: function(x))


def _broadcasting(function: Callable[..., Any]) -> Operator:
    """Make an operator of one or more inputs with the same dtype."""

    def apply(node: Node, *arrays: Array) -> Array:
        check_dtypes(*arrays)
        node.room(np.broadcast_shapes(*(array.shape for array in arrays)), arrays[0].dtype, *arrays)
        result = arrays[0]
        for array in arrays[1:]:
            result = function(result, array)
        return result

    return apply


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.divide(a, b)
    if (b == 0).any():
        raise ZeroDivisionError("an integer is divided by zero")
    quotient = np.floor_divide(a, b)
    # ONNX rounds towards zero
    result: Array = (quotient + ((quotient * b != a) & ((a < 0) != (b < 0)))).astype(a.dtype)
    return result


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def _erf(x: Array) -> Array:
    from scipy.special import erf

    result: Array = erf(x.astype(np.promote_types(x.dtype, np.float32), copy=False))
    return result


def _gelu(node: Node, x: Array) -> Any:
    if node.get("approximate", "none") == "tanh":
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / 2 * (1 + _erf(x / math.sqrt(2)))


OPERATORS |= {
    "Abs": _plain(np.abs),
    "Ceil": _plain(np.ceil),
    "Elu": _elementwise(lambda node, x: _elu(x, node.get("alpha", 1.0))),
    "Erf": _plain(_erf),
    "Exp": _plain(np.exp),
    "Floor": _plain(np.floor),
    "Gelu": _elementwise(_gelu),
    "HardSigmoid": _elementwise(lambda node, x: np.clip(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)),
    "LeakyRelu": _elementwise(lambda node, x: np.where(x < 0, node.get("alpha", 0.01) * x, x)),
    "Log": _plain(np.log),
    "Neg": _plain(np.negative),
    "Not": _plain(np.logical_not),
    "Reciprocal": _plain(np.reciprocal),
    "Relu": _plain(lambda x: np.maximum(x, 0)),
    "Selu": _elementwise(
        lambda node, x: node.get("gamma", 1.0507009873554805) * _elu(x, node.get("alpha", 1.6732632423543772))
    ),
    "Sigmoid": _plain(_sigmoid),
    "Softplus": _plain(lambda x: np.logaddexp(x, np.zeros((), x.dtype))),
    "Softsign": _plain(lambda x: x / (1 + np.abs(x))),
    "Sqrt": _plain(np.sqrt),
    "Tanh": _plain(np.tanh),
    "ThresholdedRelu": _elementwise(lambda node, x: np.where(x > node.get("alpha", 1.0), x, 0)),
    "Add": _broadcasting(np.add),
    "And": _broadcasting(np.logical_and),
    "Div": _broadcasting(_divide),
    "Equal": _broadcasting(np.equal),
    "Greater": _broadcasting(np.greater),
    "GreaterOrEqual": _broadcasting(np.greater_equal),
    "Less": _broadcasting(np.less),
    "LessOrEqual": _broadcasting(np.less_equal),
    "Max": _broadcasting(np.maximum),
    "Min": _broadcasting(np.minimum),
    "Mul": _broadcasting(np.multiply),
    "Or": _broadcasting(np.logical_or),
    "Sub": _broadcasting(np.subtract),
    "Sum": _broadcasting(np.add),
    "Xor": _broadcasting(np.logical_xor),
}


@operator("Pow")
def _pow(node: Node, x: Array, exponent: Array) -> Array:
    node.room(np.broadcast_shapes(x.shape, exponent.shape), x.dtype, x)
    if exponent.dtype.kind == "i" and (exponent < 0).any():  # 1 / x, truncated for integers
        exponent = exponent.astype(np.float64)
    return np.asarray(np.power(x, exponent)).astype(x.dtype, copy=False)


@operator("Clip")
def _clip(node: Node, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    if node.opset < 11:
        low, high = node.get("min"), node.get("max")
    for name, limit, function in (("min", low, np.maximum), ("max", high, np.minimum)):
        if limit is not None:
            limit = np.asarray(limit, x.dtype)
            if limit.size != 1:
                raise ValueError(f"{name}: expected one number, got shape {limit.shape}")
            x = function(x, limit.reshape(()))
    return x


@operator("Where")
def _where(node: Node, condition: Array, x: Array, y: Array) -> Array:
    check_dtypes(x, y)
    node.room(np.broadcast_shapes(condition.shape, x.shape, y.shape), x.dtype, x, y)
    return np.where(condition, x, y)


@operator("Cast")
def _cast(node: Node, x: Array) -> Array:
    return _as(node, x, DTYPES[node.get("to")])


@operator("CastLike")
def _cast_like(node: Node, x: Array, like: Array) -> Array:
    return _as(node, x, like.dtype)


def _as(node: Node, x: Array, dtype: np.dtype[Any]) -> Array:
    if x.dtype == dtype:
        return x
    node.room(x.shape, dtype, x)
    return x.astype(dtype)


@operator("Identity")
def _identity(node: Node, x: Array) -> Array:
    return x


@operator("Dropout")
def _dropout(node: Node, x: Array, ratio: Array | None = None, training_mode: Array | None = None) -> tuple[Array, ...]:
    rate = 0.5 if ratio is None else ratio.any()
    if training_mode is not None and training_mode.any() and rate:
        raise ValueError("training_mode is true; dropout is for training")
    return (x, np.ones(x.shape, bool if node.opset >= 10 else x.dtype))[: len(node.outputs)]


# Products and norms


@operator("MatMul")
def _matmul(node: Node, a: Array, b: Array) -> Array:
    check_dtypes(a, b)
    columns = b.shape[-1:] if b.ndim > 1 else ()
    node.room(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) + a.shape[-2:-1] + columns, a.dtype)
    if a.ndim > 2 and b.ndim == 2 and a.shape[-1] == b.shape[0]:  # one product instead of one for each step
        return (a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) @ b).reshape(a.shape[:-1] + columns)
    return a @ b


@operator("Gemm")
def _gemm(node: Node, a: Array, b: Array, c: Array | None = None) -> Array:
    check_dtypes(*(x for x in (a, b, c) if x is not None))
    a, b = (x.T if node.get(flag, 0) else x for x, flag in ((a, "transA"), (b, "transB")))
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"expected two matrices, got shapes {a.shape} and {b.shape}")
    shape = a.shape[0], b.shape[1]
    node.room(shape, a.dtype)
    product = a @ b
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if alpha != 1:
        product *= a.dtype.type(alpha)
    if c is not None:
        product += np.broadcast_to(c if beta == 1 else c * c.dtype.type(beta), shape)
    return product


@operator("LayerNormalization")
def _layer_normalization(node: Node, x: Array, scale: Array, bias: Array | None = None) -> tuple[Array, ...]:
    axis = axis_of(node.get("axis", -1), x.ndim)
    axes = tuple(range(axis, x.ndim))
    for name, array in (("Scale", scale), ("B", bias)):
        if array is not None and np.broadcast_shapes(x.shape, array.shape) != x.shape:
            raise ValueError(f"{name}: shape {array.shape} does not fit an input of shape {x.shape}")
    stash = DTYPES[node.get("stash_type", 1)]
    wide = x.astype(np.promote_types(x.dtype, stash), copy=False)
    mean = _mean(wide, axis=axes, keepdims=True)
    centred = wide - mean
    inverse = 1 / np.sqrt(_mean(centred * centred, axis=axes, keepdims=True) + wide.dtype.type(_epsilon(node)))
    y = centred * inverse * scale
    y = y if bias is None else y + bias
    return (y.astype(x.dtype, copy=False), mean.astype(stash), inverse.astype(stash))[: len(node.outputs)]


@operator("BatchNormalization")
def _batch_normalization(node: Node, x: Array, *statistics: Array) -> Array:
    channels = x.shape[1] if x.ndim > 1 else 1
    if any(array.shape != (channels,) for array in statistics):
        raise ValueError(f"expected statistics of shape ({channels},), got {[array.shape for array in statistics]}")
    shape = (-1,) + (1,) * (x.ndim - 2)
    scale, bias, mean, variance = (array.reshape(shape) for array in statistics)
    y = (x - mean) / np.sqrt(variance + variance.dtype.type(_epsilon(node))) * scale + bias
    result: Array = y.astype(x.dtype, copy=False)
    return result


def _epsilon(node: Node) -> float:
    result: float = node.get("epsilon", 1e-5)
    return result


@operator("Softmax")
def _softmax(node: Node, x: Array) -> Array:
    rows, axis = _softmax_rows(node, x)
    return softmax(rows, axis).reshape(x.shape).astype(x.dtype, copy=False)


@operator("LogSoftmax")
def _log_softmax(node: Node, x: Array) -> Array:
    rows, axis = _softmax_rows(node, x)
    return log_softmax(rows, axis).reshape(x.shape).astype(x.dtype, copy=False)


def _softmax_rows(node: Node, x: Array) -> tuple[Array, int]:
    """Return x, at least float32, and the axis to sum over; before version 13 the axes from `axis` on are merged."""
    wide = x.astype(np.promote_types(x.dtype, np.float32), copy=False)
    if node.opset >= 13:
        return wide, axis_of(node.get("axis", -1), x.ndim)
    axis = axis_of(node.get("axis", 1), x.ndim)
    return wide.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])), 1


# Reductions


def _reduction(function: Callable[..., Any], axes_are_an_input: int) -> Operator:
    """Make a reduction; its axes are an attribute before version `axes_are_an_input`, then an input."""

    def apply(node: Node, x: Array, axes: Any = None) -> Array:
        axes = node.get("axes") if node.opset < axes_are_an_input or axes is None else integers_of("axes", axes)
        if not axes and node.get("noop_with_empty_axes", 0):
            return x
        axes = tuple(axes or range(x.ndim))
        check_rank(axes)
        return np.asarray(function(x, axis=axes, keepdims=bool(node.get("keepdims", 1)))).astype(x.dtype, copy=False)

    return apply


def _lowest(dtype: np.dtype[Any]) -> Any:
    """Return the lowest value of a dtype."""
    return False if dtype.kind == "b" else -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _highest(dtype: np.dtype[Any]) -> Any:
    return True if dtype.kind == "b" else np.inf if dtype.kind == "f" else np.iinfo(dtype).max


def _sum(x: Array, **options: Any) -> Any:
    return np.sum(x, dtype=np.float32 if x.dtype == np.float16 else None, **options)


def _prod(x: Array, **options: Any) -> Any:
    return np.prod(x, dtype=np.float32 if x.dtype == np.float16 else None, **options)


def _mean(x: Array, **options: Any) -> Any:
    """Return the mean; for an empty array NaN without NumPy's warning, or 0 for integers, which have no NaN."""
    if x.size == 0:
        return np.sum(x, **options) * (np.nan if x.dtype.kind == "f" else 0)
    return np.mean(x, **options)


OPERATORS |= {
    "ReduceMax": _reduction(lambda x, **options: np.max(x, initial=_lowest(x.dtype), **options), 18),
    "ReduceMean": _reduction(_mean, 18),
    "ReduceMin": _reduction(lambda x, **options: np.min(x, initial=_highest(x.dtype), **options), 18),
    "ReduceProd": _reduction(_prod, 18),
    "ReduceSum": _reduction(_sum, 13),
}


def _arg(function: Callable[..., Any]) -> Operator:
    def apply(node: Node, x: Array) -> Array:
        axis = axis_of(node.get("axis", 0), x.ndim or 1)  # a scalar counts as a vector of length 1
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        node.room(shape, np.dtype(np.int64), x)
        if math.prod(shape) == 0:
            found = np.zeros(shape, np.int64)
        elif node.get("select_last_index", 0) and x.ndim:
            found = x.shape[axis] - 1 - function(np.flip(x, axis), axis)
        else:
            found = function(x, axis)
        return np.expand_dims(found, axis) if node.get("keepdims", 1) and x.ndim else found

    return apply


OPERATORS |= {"ArgMax": _arg(np.argmax), "ArgMin": _arg(np.argmin)}
