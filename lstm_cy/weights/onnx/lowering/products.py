"""Lowerings of products with constant matrices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...plans.operations import Product, Weight, elements
from ...plans.values import NotLowered
from .registry import lowering

if TYPE_CHECKING:
    from ....typing import Array
    from ...plans.builder import Builder
    from ...plans.values import Value


@lowering("MatMul")
def _matmul(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    a, b = builder.floats(inputs[0]), _matrix(builder, inputs[1])
    if a.ndim < 2 or a.shape[-1] != b.shape[0]:
        raise NotLowered
    return [builder.value(linear(builder, a, Weight([b], [b.shape[0]], b.shape[1], lambda: [b], "matrix")))]


@lowering("Gemm")
def _gemm(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    a, source = builder.floats(inputs[0]), _matrix(builder, inputs[1])
    bias = builder.known(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else None
    a = a.T if node.get("transA", 0) else a
    b = source.T if node.get("transB", 0) else source
    if a.ndim != 2 or a.shape[1] != b.shape[0] or (bias is not None and bias.dtype != np.float32):
        raise NotLowered
    shape = a.shape[0], b.shape[1]
    alpha, beta = np.float32(node.get("alpha", 1.0)), np.float32(node.get("beta", 1.0))
    if bias is not None and np.broadcast_shapes(bias.shape, shape) != shape:
        raise NotLowered
    scaled = bias if bias is None or beta == 1 else bias * beta
    by_row = scaled is not None and scaled.ndim > 1 and scaled.shape[0] != 1
    weight = Weight([source], [b.shape[0]], b.shape[1], lambda: [b], f"matrix {node.get('transB', 0)}")
    if alpha != 1:
        weight.change(f"times {alpha}", np.asarray(alpha), None, [])
    if bias is not None and scaled is not None and not by_row:
        weight.change(f"plus {beta}", None, scaled.reshape(-1), [bias])
    y = linear(builder, a, weight)
    return [builder.value(builder.binary("add", y, scaled) if scaled is not None and by_row else y)]


def _matrix(builder: Builder, value: Value | None) -> Array:
    matrix = builder.known(value)
    if matrix.ndim != 2 or matrix.dtype != np.float32 or matrix.size == 0:
        raise NotLowered
    return matrix


def linear(builder: Builder, a: Array, weight: Weight) -> Array:
    """Return the product of the rows of a with a constant matrix."""
    rows = math.prod(a.shape[:-1])
    distance = _row_distance(a)
    if distance is None:
        a = builder.contiguous(a)
        distance = a.shape[-1]
    y = builder.empty((*a.shape[:-1], weight.columns))
    builder.emit(Product(y, a, weight, [0], (1, 1, rows, 0, 0, distance, 0, 0)))
    return y


def _row_distance(a: Array) -> int | None:
    """Return the distance of the rows of an array, whose last axis is contiguous; None if it is not always the same."""
    *leading, last = elements(a)
    if last != 1 and a.shape[-1] != 1:
        return None
    distance, expected = a.shape[-1], None
    for size, stride in zip(reversed(a.shape[:-1]), reversed(leading), strict=True):
        if size == 1:
            continue
        if expected is None:
            distance = expected = stride
        if stride != expected:
            return None
        expected = stride * size
    return distance if distance >= 0 else None
