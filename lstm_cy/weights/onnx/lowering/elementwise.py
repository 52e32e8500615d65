"""Lowerings of operators that compute element by element, of softmax and of normalizations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...plans.operations import Flat
from ...plans.values import NotLowered
from ..operators.arguments import axis_of
from .registry import LOWERINGS, lowering

if TYPE_CHECKING:
    from ....typing import Array
    from ...plans.builder import Builder
    from ...plans.values import Value
    from .registry import Lowering

_UNARY = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Exp": "exp",
    "Softplus": "softplus",
    "Sqrt": "sqrt",
    "Abs": "abs",
    "Neg": "negate",
    "Reciprocal": "reciprocal",
}
_BINARY = {"Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide", "Max": "maximum", "Min": "minimum"}


def _unary(function: str) -> Lowering:
    def lower(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
        return [builder.value(builder.unary(function, builder.floats(inputs[0])))]

    return lower


LOWERINGS |= {name: _unary(function) for name, function in _UNARY.items()}


@lowering(*_BINARY, "Sum")
def _binary(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    first, *others = [builder.floats(value) for value in inputs]
    for other in others:
        first = _joined(builder, node.op_type, first, other)
    return [builder.value(first)]


def _joined(builder: Builder, op_type: str, a: Array, b: Array) -> Array:
    function = _BINARY.get(op_type, "add")
    for x, constant, side in ((a, b, "right"), (b, a, "left")):
        if builder.is_planned(x) and not builder.is_planned(constant):
            if function == "add":
                changed = change_columns(builder, "shift", x, None, constant, [constant])
            elif function == "multiply":
                changed = change_columns(builder, "scale", x, constant, None, [constant])
            elif function == "subtract" and side == "right":
                changed = change_columns(builder, "subtract", x, None, -constant, [constant])
            else:
                changed = False
            if changed:
                return x
    return builder.binary(function, a, b)


def change_columns(
    builder: Builder, key: str, x: Array, scale: Array | None, shift: Array | None, sources: list[Array]
) -> bool:
    """Let the product that makes x also scale and shift it; False if it cannot."""
    writer = builder.writer_of(x)
    if writer is None or writer.function != "linear":
        return False
    columns = writer.weight.columns
    axis = next((axis for axis in range(x.ndim) if x.shape[axis] == columns and x.strides[axis] == 4), None)
    vectors = [_vector(array, x, axis, columns) for array in (scale, shift) if array is not None]
    if any(vector is None for vector in vectors):
        return False
    found = iter(vectors)
    writer.weight.change(key, None if scale is None else next(found), None if shift is None else next(found), sources)
    writer.steps.append(builder.label)
    return True


def _vector(array: Array, x: Array, axis: int | None, columns: int) -> Array | None:
    """Return the numbers of an array for each column of x; None if they differ along another axis."""
    if array.ndim > x.ndim:
        return None
    if array.size == 1:
        return np.broadcast_to(array.reshape(()), (columns,))
    wide = array.reshape((1,) * (x.ndim - array.ndim) + array.shape)
    if axis is None or wide.shape != tuple(columns if place == axis else 1 for place in range(x.ndim)):
        return None
    return wide.reshape(columns)


@lowering("Pow")
def _pow(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x, exponent = builder.floats(inputs[0]), builder.known(inputs[1])
    functions = {2.0: "square", 0.5: "sqrt", 1.0: "linear"}
    if exponent.size != 1 or exponent.ndim > x.ndim or exponent.item() not in functions or exponent.item() == 0.5:
        raise NotLowered
    return [builder.value(builder.unary(functions[exponent.item()], x))]


@lowering("Clip")
def _clip(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x = builder.floats(inputs[0])
    if node.opset < 11:
        limits = [node.get("min"), node.get("max")]
    else:
        limits = [None if value is None else builder.known(value).item() for value in [*inputs[1:], None, None][:2]]
    low, high = (default if limit is None else limit for limit, default in zip(limits, (-np.inf, np.inf), strict=True))
    return [builder.value(builder.unary("clip", x, low, high))]


@lowering("LeakyRelu")
def _leaky(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    return [builder.value(builder.unary("leaky", builder.floats(inputs[0]), node.get("alpha", 0.01)))]


@lowering("HardSigmoid")
def _hard_sigmoid(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    numbers = node.get("alpha", 0.2), node.get("beta", 0.5)
    return [builder.value(builder.unary("hard_sigmoid", builder.floats(inputs[0]), *numbers))]


@lowering("BatchNormalization")
def _batch_normalization(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x = builder.floats(inputs[0])
    statistics = [builder.known(value) for value in inputs[1:]]
    if x.ndim < 2 or any(array.shape != (x.shape[1],) or array.dtype != np.float32 for array in statistics):
        raise NotLowered
    scale, bias, mean, variance = (array.astype(np.float64) for array in statistics)
    factor = scale / np.sqrt(variance + node.get("epsilon", 1e-5))
    shape = (-1, *[1] * (x.ndim - 2))
    wide = [array.astype(np.float32).reshape(shape) for array in (factor, bias - mean * factor)]
    key = f"normalize {node.get('epsilon', 1e-5)}"
    if change_columns(builder, key, x, wide[0], wide[1], statistics):
        return [builder.value(x)]
    return [builder.value(builder.binary("add", builder.binary("multiply", x, wide[0]), wide[1]))]


@lowering("Softmax", "LogSoftmax")
def _softmax(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x = builder.floats(inputs[0])
    axis = axis_of(node.get("axis", -1 if node.opset >= 13 else 1), x.ndim)
    if axis != x.ndim - 1:
        raise NotLowered
    x = builder.contiguous(x)
    y = builder.empty(x.shape)
    function = "softmax" if node.op_type == "Softmax" else "log_softmax"
    builder.emit(Flat("softmax", [y, x], function, numbers=(x.size // x.shape[-1], x.shape[-1])))
    return [builder.value(y)]


@lowering("LayerNormalization")
def _layer_normalization(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x, scale = builder.floats(inputs[0]), builder.known(inputs[1])
    bias = builder.known(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else np.zeros((), np.float32)
    axis = axis_of(node.get("axis", -1), x.ndim)
    shape, epsilon = x.shape[axis:], node.get("epsilon", 1e-5)
    if len(node.outputs) > 1 or epsilon < 0 or scale.dtype != np.float32 or bias.dtype != np.float32:
        raise NotLowered
    if any(np.broadcast_shapes(array.shape, shape) != shape for array in (scale, bias)):
        raise NotLowered
    x = builder.contiguous(x)
    vectors = [np.ascontiguousarray(np.broadcast_to(array, shape)).reshape(-1) for array in (scale, bias)]
    y, size = builder.empty(x.shape), math.prod(shape)
    builder.emit(Flat("normalize", [y, x, *vectors], alpha=epsilon, numbers=(x.size // size, size)))
    return [builder.value(y)]
