"""NumPy implementations of the ONNX operators that exporters use with an LSTM.

Each is a function of a `fold.Node`, for its attributes and version, and of the inputs, with None for an omitted one. A
function whose result may be larger than its inputs calls `node.room` first.

Source: ONNX's Operators.md and Changelog.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...layers.activations import log_softmax, softmax
from .proto import DTYPES, check_rank, naming

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...typing import Array
    from .fold import Node

    #: (node, *inputs) -> an array, or a tuple of them
    _Operator = Callable[..., Any]

#: {name: function}
OPERATORS: dict[str, _Operator] = {}

#: implemented values of attributes, and numbers of outputs; others are unsupported
ATTRIBUTES: dict[str, dict[str, tuple[Any, ...]]] = {
    "BatchNormalization": {"training_mode": (0,), "spatial": (1,)},
    "Cast": {"to": tuple(DTYPES)},
    "Gelu": {"approximate": ("none", "tanh")},
    "LayerNormalization": {"stash_type": (1, 11)},
    "Pad": {"mode": ("constant", "edge", "reflect", "wrap")},
}
OUTPUTS = {"BatchNormalization": 1}
#: operators that also take strings; the others take only numbers
OF_STRINGS = {"Concat", "Equal", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape"}
OF_STRINGS |= {
    "ReverseSequence",
    "Shape",
    "Size",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
}


def operator(name: str) -> Callable[[_Operator], _Operator]:
    def register(function: _Operator) -> _Operator:
        OPERATORS[name] = function
        return function

    return register


# Element by element


def _same_dtype(*arrays: Array) -> None:
    dtypes = {array.dtype for array in arrays}
    if len(dtypes) > 1:
        raise ValueError(f"expected inputs of one type, got {', '.join(sorted(map(str, dtypes)))}")


def _elementwise(function: _Operator) -> _Operator:
    """Make an operator of one input that keeps its dtype; `function` takes the node and the input."""

    def apply(node: Node, x: Array) -> Array:
        return np.asarray(function(node, x), dtype=x.dtype)

    return apply


def _plain(function: Callable[[Array], Any]) -> _Operator:
    return _elementwise(lambda node, x: function(x))


def _broadcasting(function: Callable[..., Any]) -> _Operator:
    """Make an operator of one or more inputs with the same dtype."""

    def apply(node: Node, *arrays: Array) -> Array:
        _same_dtype(*arrays)
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
    _same_dtype(x, y)
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
    _same_dtype(a, b)
    columns = b.shape[-1:] if b.ndim > 1 else ()
    node.room(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) + a.shape[-2:-1] + columns, a.dtype)
    if a.ndim > 2 and b.ndim == 2 and a.shape[-1] == b.shape[0]:  # one product instead of one for each step
        return (a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) @ b).reshape(a.shape[:-1] + columns)
    return a @ b


@operator("Gemm")
def _gemm(node: Node, a: Array, b: Array, c: Array | None = None) -> Array:
    _same_dtype(*(x for x in (a, b, c) if x is not None))
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
    axis = _axis(node.get("axis", -1), x.ndim)
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
        return wide, _axis(node.get("axis", -1), x.ndim)
    axis = _axis(node.get("axis", 1), x.ndim)
    return wide.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])), 1


# Reductions


def _reduction(function: Callable[..., Any], axes_are_an_input: int) -> _Operator:
    """Make a reduction; its axes are an attribute before version `axes_are_an_input`, then an input."""

    def apply(node: Node, x: Array, axes: Any = None) -> Array:
        axes = node.get("axes") if node.opset < axes_are_an_input or axes is None else _integers("axes", axes)
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


def _arg(function: Callable[..., Any]) -> _Operator:
    def apply(node: Node, x: Array) -> Array:
        axis = _axis(node.get("axis", 0), x.ndim or 1)  # a scalar counts as a vector of length 1
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


# Shapes


def _integers(name: str, array: Array) -> list[int]:
    """Return the values of a vector of integers as Python integers."""
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise ValueError(f"{name}: expected a vector of integers, got {array.dtype} of shape {array.shape}")
    result: list[int] = np.atleast_1d(array).tolist()
    return result


def _sizes(name: str, array: Array) -> tuple[int, ...]:
    sizes = _integers(name, array)
    if min(sizes, default=0) < 0:
        raise ValueError(f"{name}: expected no negative size, got {sizes}")
    return tuple(sizes)


def _shape_of(name: str, array: Array) -> tuple[int, ...]:
    """Return the sizes in `array`; raise if there are more than an array can have axes."""
    with naming(name):
        check_rank(np.atleast_1d(array))
    return _sizes(name, array)


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis: expected {-rank} to {rank - 1}, got {axis}")
    return axis % rank


@operator("Shape")
def _shape(node: Node, x: Array) -> Array:
    return np.array(x.shape[node.get("start", 0) : node.get("end")], np.int64)


@operator("Size")
def _size(node: Node, x: Array) -> Array:
    return np.array(x.size, np.int64)


@operator("Constant")
def _constant(node: Node) -> Array:
    (name, value), *others = node.attributes.items()
    types = {
        "value": None,
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
        "value_string": np.object_,
        "value_strings": np.object_,
    }
    if others or name not in types:
        raise ValueError(f"expected one value, got {', '.join(node.attributes)}")
    return value if name == "value" else np.array(value, types[name])


@operator("ConstantOfShape")
def _constant_of_shape(node: Node, shape: Any) -> Array:
    shape, value = _shape_of("shape", shape), node.get("value", np.zeros(1, np.float32))
    if value.size != 1:
        raise ValueError(f"value: expected one element, got {value.size}")
    node.room(shape, value.dtype)
    return np.full(shape, value.reshape(()), value.dtype)


@operator("Expand")
def _expand(node: Node, x: Array, shape: Any) -> Array:
    shape = np.broadcast_shapes(x.shape, _shape_of("shape", shape))
    node.room(shape, x.dtype)  # the result is a view, but later operators may copy it
    return np.broadcast_to(x, shape)


@operator("Range")
def _range(node: Node, start: Any, limit: Any, delta: Any) -> Array:
    _same_dtype(start, limit, delta)
    dtype = start.dtype
    start, limit, delta = (array.item() for array in (start, limit, delta))
    count = max(0, -((start - limit) // delta) if dtype.kind in "iu" else math.ceil((limit - start) / delta))
    node.room((count,), dtype)
    result: Array = (start + np.arange(count) * delta).astype(dtype)
    return result


@operator("Tile")
def _tile(node: Node, x: Array, repeats: Any) -> Array:
    repeats = _shape_of("repeats", repeats)
    if len(repeats) != x.ndim:
        raise ValueError(f"repeats: expected {x.ndim} of them, got {len(repeats)}")
    node.room([size * times for size, times in zip(x.shape, repeats, strict=True)], x.dtype)
    return np.tile(x, repeats)


@operator("Pad")
def _pad(node: Node, x: Array, pads: Any = None, value: Any = None, axes: Any = None) -> Array:
    if node.opset < 11:
        pads, value = node.get("pads"), node.get("value", 0.0)
    else:
        pads, value = _integers("pads", pads), 0 if value is None else value.item()
    axes = range(x.ndim) if axes is None else [_axis(axis, x.ndim) for axis in _integers("axes", axes)]
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise ValueError(f"pads: expected two for each axis of {list(axes)}, got {pads}")
    widths, kept = [(0, 0)] * x.ndim, [slice(None)] * x.ndim
    for index, axis in enumerate(axes):
        kept[axis], widths[axis] = _pad_axis(x.shape[axis], pads[index], pads[index + len(axes)])
    x = x[tuple(kept)]
    node.room([size + low + high for size, (low, high) in zip(x.shape, widths, strict=True)], x.dtype)
    mode = node.get("mode", "constant")
    return np.pad(x, widths, mode, **({"constant_values": x.dtype.type(value)} if mode == "constant" else {}))


def _pad_axis(size: int, low: int, high: int) -> tuple[slice, tuple[int, int]]:
    """Return (kept part, (pads before, after)) of an axis; a negative pad removes elements, also of the other pad."""
    if size + low + high < 0:
        raise ValueError(f"pads: {low} and {high} remove more than an axis of size {size} has")
    first, end = min(size, max(0, -low)), size - min(size, max(0, -high))
    before, after = max(0, low) - max(0, -high - size), max(0, high) - max(0, -low - size)
    return slice(first, end), (max(0, before), max(0, after))


@operator("Reshape")
def _reshape(node: Node, x: Array, shape: Any) -> Array:
    check_rank(np.atleast_1d(shape))
    shape = _integers("shape", shape)
    copied = [] if node.get("allowzero", 0) else [axis for axis, size in enumerate(shape) if size == 0]
    if not copied and 0 in shape and -1 in shape:
        raise ValueError(f"shape: with allowzero either 0 or -1, got {shape}")
    if min(shape, default=0) < -1 or shape.count(-1) > 1 or copied[-1:] > [x.ndim - 1]:
        raise ValueError(f"shape: {shape} does not fit an input of shape {x.shape}")
    new = [x.shape[axis] if axis in copied else size for axis, size in enumerate(shape)]
    if -1 in new:  # computed without the copied axes, which may be empty
        others = math.prod(size for axis, size in enumerate(shape) if size != -1 and axis not in copied)
        new[new.index(-1)] = math.prod(size for axis, size in enumerate(x.shape) if axis not in copied) // (others or 1)
    if not x.flags.c_contiguous:
        node.room(x.shape, x.dtype, x)
    return x.reshape(new)


@operator("Flatten")
def _flatten(node: Node, x: Array) -> Array:
    axis = node.get("axis", 1)
    axis = x.ndim if axis == x.ndim else _axis(axis, x.ndim)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose")
def _transpose(node: Node, x: Array) -> Array:
    order = node.get("perm")
    if order is not None and sorted(order) != list(range(x.ndim)):
        raise ValueError(f"perm: expected each of {x.ndim} axes once, got {order}")
    return x.transpose(order)


@operator("Squeeze")
def _squeeze(node: Node, x: Array, axes: Any = None) -> Array:
    axes = _axes(node, axes)
    return x.squeeze(None if axes is None else tuple(axes))


@operator("Unsqueeze")
def _unsqueeze(node: Node, x: Array, axes: Any = None) -> Array:
    return np.expand_dims(x, tuple(_axes(node, axes)))


def _axes(node: Node, axes: Array | None) -> Any:
    """Return the axes of Squeeze and Unsqueeze: an attribute before version 13, then an input."""
    found = node.get("axes") if node.opset < 13 else None if axes is None else _integers("axes", axes)
    check_rank(found or ())
    return found


# Parts


@operator("Concat")
def _concat(node: Node, *arrays: Array) -> Array:
    _same_dtype(*arrays)
    axis = _axis(node.get("axis"), arrays[0].ndim)
    shape = list(arrays[0].shape)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    node.room(shape, arrays[0].dtype, *arrays)
    return np.concatenate(arrays, axis)


@operator("Split")
def _split(node: Node, x: Array, split: Any = None) -> tuple[Array, ...]:
    axis = _axis(node.get("axis", 0), x.ndim)
    size, count = x.shape[axis], len(node.outputs)
    split = node.get("split") if node.opset < 13 else split if split is None else list(_sizes("split", split))
    if split is None:
        if count != node.get("num_outputs", count) or (node.opset < 18 and size % count):
            raise ValueError(f"{size} is not split evenly into {count}")
        part = -(-size // count)
        split = [max(0, min(part, size - index * part)) for index in range(count)]
    if len(split) != count or sum(split) != size:
        raise ValueError(f"split: expected {count} sizes that add up to {size}, got {split}")
    return tuple(np.split(x, np.cumsum(split[:-1], dtype=np.intp), axis))


@operator("Slice")
def _slice(node: Node, x: Array, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Array:
    if node.opset < 10:
        starts, ends, axes = (node.get(name) for name in ("starts", "ends", "axes"))
    else:
        starts, ends = _integers("starts", starts), _integers("ends", ends)
        axes = None if axes is None else _integers("axes", axes)
    axes = [_axis(axis, x.ndim) for axis in (range(len(starts)) if axes is None else axes)]
    steps = [1] * len(starts) if steps is None else _integers("steps", steps)
    if not len(starts) == len(ends) == len(axes) == len(steps) == len(set(axes)):
        raise ValueError(f"expected a start, end and step for each axis, got {starts}, {ends}, {steps} for axes {axes}")
    parts = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        parts[axis] = slice(start, end, step)  # ONNX clamps as Python does
    return x[tuple(parts)]


@operator("Gather")
def _gather(node: Node, x: Array, indices: Array) -> Array:
    axis = _axis(node.get("axis", 0), x.ndim)
    node.room(x.shape[:axis] + indices.shape + x.shape[axis + 1 :], x.dtype)
    return np.take(x, indices, axis)


@operator("GatherElements")
def _gather_elements(node: Node, x: Array, indices: Array) -> Array:
    axis = _axis(node.get("axis", 0), x.ndim)
    sizes = zip(indices.shape, x.shape, strict=False)
    if indices.ndim != x.ndim or any(part > size for index, (part, size) in enumerate(sizes) if index != axis):
        raise ValueError(f"indices: shape {indices.shape} does not fit an input of shape {x.shape}")
    node.room(indices.shape, x.dtype)
    parts = tuple(slice(None if index == axis else size) for index, size in enumerate(indices.shape))
    return np.take_along_axis(x[parts], indices, axis)


@operator("GatherND")
def _gather_nd(node: Node, x: Array, indices: Array) -> Array:
    batch = node.get("batch_dims", 0)
    least = min(x.ndim, indices.ndim)
    if not 0 <= batch < max(least, 1) or x.shape[:batch] != indices.shape[:batch]:
        raise ValueError(f"batch_dims: {batch} does not fit shapes {x.shape} and {indices.shape}")
    if indices.ndim == 0 or not 1 <= indices.shape[-1] <= x.ndim - batch:
        raise ValueError(f"indices: shape {indices.shape} does not fit an input of shape {x.shape}")
    node.room(indices.shape[:-1] + x.shape[batch + indices.shape[-1] :], x.dtype)
    rows = np.ogrid[tuple(slice(size) for size in indices.shape[:-1])][:batch]  # each batch indexes its own part
    result: Array = x[(*rows, *np.moveaxis(indices, -1, 0))]
    return result


@operator("ReverseSequence")
def _reverse_sequence(node: Node, x: Array, lengths: Array) -> Array:
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    if {time, batch} != {0, 1}:
        raise ValueError(f"time_axis, batch_axis: expected 0 and 1, got {time} and {batch}")
    x = x.swapaxes(0, time)  # (T, B, ...)
    T, B = x.shape[:2]
    if lengths.shape != (B,) or (lengths < 0).any() or (lengths > T).any():
        raise ValueError(f"sequence_lens: expected {B} lengths of 0 to {T}, got {lengths}")
    steps = np.arange(T)[:, np.newaxis]
    return x[np.where(steps < lengths, lengths - 1 - steps, steps), np.arange(B)].swapaxes(0, time)
