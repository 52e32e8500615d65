"""Operators that compute: element by element, products, norms and reductions."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from ....layers.activations import log_softmax, softmax
from ..proto import ARRAY_DTYPES, BFLOAT16, check_rank, quoted, rounded_to_bfloat16
from .arguments import axis_of, check_dtypes, highest, integers_of, lowest, mean_of, widened
from .registry import OPERATORS, operator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ....typing import Array
    from ..node import Node, Operator


# Element by element


def _elementwise(function: Operator) -> Operator:
    """Make an operator of one input that keeps its dtype; `function` takes the node and the input."""

    def apply(node: Node, x: Array) -> Array:
        return np.asarray(function(node, widened(x)), dtype=x.dtype)

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


def _celu(x: Array, alpha: float) -> Array:
    return np.maximum(x, 0) + np.minimum(alpha * np.expm1(np.minimum(x, 0) / alpha), 0)


def _softplus(x: Array) -> Array:
    result: Array = np.logaddexp(x, np.zeros((), x.dtype))
    return result


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
    "Acos": _plain(np.arccos),
    "Acosh": _plain(np.arccosh),
    "Asin": _plain(np.arcsin),
    "Asinh": _plain(np.arcsinh),
    "Atan": _plain(np.arctan),
    "Atanh": _plain(np.arctanh),
    "BitwiseNot": _plain(np.invert),
    "Ceil": _plain(np.ceil),
    "Celu": _elementwise(lambda node, x: _celu(x, node.get("alpha", 1.0))),
    "Cos": _plain(np.cos),
    "Cosh": _plain(np.cosh),
    "Elu": _elementwise(lambda node, x: _elu(x, node.get("alpha", 1.0))),
    "Erf": _plain(_erf),
    "Exp": _plain(np.exp),
    "Floor": _plain(np.floor),
    "Gelu": _elementwise(_gelu),
    "HardSigmoid": _elementwise(lambda node, x: np.clip(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)),
    "HardSwish": _plain(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "IsNaN": lambda node, x: np.isnan(x),
    "LeakyRelu": _elementwise(lambda node, x: np.where(x < 0, node.get("alpha", 0.01) * x, x)),
    "Log": _plain(np.log),
    "Mish": _plain(lambda x: x * np.tanh(_softplus(x))),
    "Neg": _plain(np.negative),
    "Not": _plain(np.logical_not),
    "Reciprocal": _plain(np.reciprocal),
    "Relu": _plain(lambda x: np.maximum(x, 0)),
    "Round": _plain(np.rint),
    "Selu": _elementwise(
        lambda node, x: node.get("gamma", 1.0507009873554805) * _elu(x, node.get("alpha", 1.6732632423543772))
    ),
    "Sigmoid": _plain(_sigmoid),
    "Sign": _plain(np.sign),
    "Sin": _plain(np.sin),
    "Sinh": _plain(np.sinh),
    "Softplus": _plain(_softplus),
    "Softsign": _plain(lambda x: x / (1 + np.abs(x))),
    "Sqrt": _plain(np.sqrt),
    "Swish": _elementwise(lambda node, x: x * _sigmoid(node.get("alpha", 1.0) * x)),
    "Tan": _plain(np.tan),
    "Tanh": _plain(np.tanh),
    "ThresholdedRelu": _elementwise(lambda node, x: np.where(x > node.get("alpha", 1.0), x, 0)),
    "Add": _broadcasting(np.add),
    "And": _broadcasting(np.logical_and),
    "BitwiseAnd": _broadcasting(np.bitwise_and),
    "BitwiseOr": _broadcasting(np.bitwise_or),
    "BitwiseXor": _broadcasting(np.bitwise_xor),
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


@operator("Mod")
def _mod(node: Node, x: Array, divisor: Array) -> Array:
    check_dtypes(x, divisor)
    node.room(np.broadcast_shapes(x.shape, divisor.shape), x.dtype, x, divisor)
    if x.dtype.kind in "iu" and (divisor == 0).any():
        raise ZeroDivisionError("an integer is divided by zero")
    remainder: Array = np.fmod(x, divisor) if node.get("fmod", 0) else np.mod(x, divisor)
    return remainder


@operator("IsInf")
def _is_inf(node: Node, x: Array) -> Array:
    negative, positive = (node.get(f"detect_{sign}", 1) for sign in ("negative", "positive"))
    return np.isinf(x) & (((x < 0) & bool(negative)) | ((x > 0) & bool(positive)))


@operator("PRelu")
def _prelu(node: Node, x: Array, slope: Array) -> Array:
    check_dtypes(x, slope)
    if np.broadcast_shapes(x.shape, slope.shape) != x.shape:
        raise ValueError(f"slope: shape {slope.shape} does not fit an input of shape {x.shape}")
    return np.where(x < 0, x * slope, x)


@operator("Shrink")
def _shrink(node: Node, x: Array) -> Array:
    limit, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    return np.where(x < -limit, x + bias, np.where(x > limit, x - bias, 0)).astype(x.dtype, copy=False)


@operator("CumSum")
def _cumsum(node: Node, x: Array, axis: Array) -> Array:
    (number,) = integers_of("axis", axis)
    along = axis_of(number, x.ndim)
    x = np.flip(x, along) if node.get("reverse", 0) else x
    sums = np.cumsum(widened(x), along, dtype=widened(x).dtype).astype(x.dtype, copy=False)
    if node.get("exclusive", 0):
        first = [slice(None)] * x.ndim
        first[along] = slice(0, -1)
        sums = np.concatenate((np.zeros_like(x.take([0] * min(1, x.shape[along]), along)), sums[tuple(first)]), along)
    return np.flip(sums, along) if node.get("reverse", 0) else sums


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
    y = _as(node, x, ARRAY_DTYPES[node.get("to")])
    return rounded_to_bfloat16(y) if node.get("to") == BFLOAT16 else y


@operator("CastLike")
def _cast_like(node: Node, x: Array, like: Array) -> Array:
    y = _as(node, x, like.dtype)
    return rounded_to_bfloat16(y) if node.get("to") == BFLOAT16 else y


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


# Products and softmax


@operator("Einsum")
def _einsum(node: Node, *arrays: Array) -> Array:
    check_dtypes(*arrays)
    equation = node.get("equation").replace(" ", "")
    node.room(_einsum_shape(equation, arrays), arrays[0].dtype, *arrays)
    wide = [widened(array) for array in arrays]
    result = np.einsum(equation, *wide, optimize=len(wide) == 2)  # two of them become one product
    return np.asarray(result).astype(arrays[0].dtype, copy=False)


def _einsum_shape(equation: str, arrays: Sequence[Array]) -> tuple[int, ...]:
    """Return the shape of the result of an equation; raise if the equation does not fit the arrays."""
    before, arrow, after = equation.partition("->")
    terms = before.split(",")
    if len(terms) != len(arrays) or not re.fullmatch(r"(?:[a-zA-Z]|\.\.\.|,)*", before + after) or "," in after:
        raise ValueError(f"equation: {quoted(equation)} does not fit {len(arrays)} arrays")
    sizes: dict[str, int] = {}
    broadcast: list[tuple[int, ...]] = []
    for term, array in zip(terms, arrays, strict=True):
        head, dots, tail = term.partition("...")
        letters = len(head) + len(tail)
        if (letters > array.ndim) if dots else (letters != array.ndim):
            raise ValueError(f"equation: {quoted(term)} does not fit an array of shape {array.shape}")
        start, end = len(head), array.ndim - len(tail)
        broadcast.append(array.shape[start:end])
        for letter, size in zip(head + tail, array.shape[:start] + array.shape[end:], strict=True):
            sizes[letter] = max(sizes.get(letter, 1), size) if size else 0
    if not arrow:
        letters_once = sorted(letter for letter in sizes if before.count(letter) == 1)
        after = ("..." if "..." in before else "") + "".join(letters_once)
    head, dots, tail = after.partition("...")
    if not set(head + tail) <= sizes.keys() or "." in head + tail:
        raise ValueError(f"equation: the result of {quoted(equation)} has unknown letters")
    middle = np.broadcast_shapes(*broadcast) if dots else ()
    return (*(sizes[letter] for letter in head), *middle, *(sizes[letter] for letter in tail))


@operator("MatMul")
def _matmul(node: Node, a: Array, b: Array) -> Array:
    check_dtypes(a, b)
    columns = b.shape[-1:] if b.ndim > 1 else ()
    node.room(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) + a.shape[-2:-1] + columns, a.dtype)
    return product(widened(a), widened(b)).astype(a.dtype, copy=False)


def product(a: Array, b: Array) -> Array:
    """Return the matrix product, computed as one instead of one for each step where b is a matrix."""
    if a.ndim > 2 and b.ndim == 2 and a.shape[-1] == b.shape[0]:
        rows = a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) @ b
        return rows.reshape(a.shape[:-1] + b.shape[1:])
    result: Array = a @ b
    return result


@operator("Gemm")
def _gemm(node: Node, a: Array, b: Array, c: Array | None = None) -> Array:
    check_dtypes(*(x for x in (a, b, c) if x is not None))
    a, b = (x.T if node.get(flag, 0) else x for x, flag in ((a, "transA"), (b, "transB")))
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"expected two matrices, got shapes {a.shape} and {b.shape}")
    shape = a.shape[0], b.shape[1]
    node.room(shape, a.dtype)
    dtype = a.dtype
    y = widened(a) @ widened(b)
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if alpha != 1:
        y *= y.dtype.type(alpha)
    if c is not None:
        c = widened(c)
        y += np.broadcast_to(c if beta == 1 else c * c.dtype.type(beta), shape)
    return y.astype(dtype, copy=False)


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
        elementwise = not axes and node.get("noop_with_empty_axes", 0)  # such as the squares without their sum
        axes = () if elementwise else tuple(axes or range(x.ndim))
        check_rank(axes)
        return np.asarray(function(x, axis=axes, keepdims=bool(node.get("keepdims", 1)))).astype(x.dtype, copy=False)

    return apply


def _sum(x: Array, **options: Any) -> Any:
    return np.sum(x, dtype=np.float32 if x.dtype == np.float16 else None, **options)


def _sum_of_squares(x: Array, **options: Any) -> Any:
    wide = widened(x)
    return np.sum(wide * wide, **options)


def _log_sum_exp(x: Array, axis: tuple[int, ...], keepdims: bool) -> Any:
    wide = x.astype(np.promote_types(x.dtype, np.float32), copy=False)
    largest = np.max(wide, axis=axis, keepdims=True, initial=-np.inf)
    shift = np.where(np.isfinite(largest), largest, 0)
    sums = np.log(np.sum(np.exp(wide - shift), axis=axis, keepdims=True)) + shift
    return sums if keepdims else sums.squeeze(axis)


def _prod(x: Array, **options: Any) -> Any:
    return np.prod(x, dtype=np.float32 if x.dtype == np.float16 else None, **options)


OPERATORS |= {
    "ReduceL1": _reduction(lambda x, **options: _sum(np.abs(x), **options), 18),
    "ReduceL2": _reduction(lambda x, **options: np.sqrt(_sum_of_squares(x, **options)), 18),
    "ReduceLogSum": _reduction(lambda x, **options: np.log(_sum(x, **options)), 18),
    "ReduceLogSumExp": _reduction(lambda x, **options: _log_sum_exp(x, **options), 18),
    "ReduceMax": _reduction(lambda x, **options: np.max(x, initial=lowest(x.dtype), **options), 18),
    "ReduceMean": _reduction(mean_of, 18),
    "ReduceMin": _reduction(lambda x, **options: np.min(x, initial=highest(x.dtype), **options), 18),
    "ReduceProd": _reduction(_prod, 18),
    "ReduceSum": _reduction(_sum, 13),
    "ReduceSumSquare": _reduction(lambda x, **options: _sum_of_squares(x, **options), 18),
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
