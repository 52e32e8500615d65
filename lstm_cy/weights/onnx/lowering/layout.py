"""Lowerings of operators that change the form of arrays: most give another view of the same memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ownership import owner
from ...plans.values import NotLowered, Value
from ..operators.arguments import axis_of
from .registry import lowering

if TYPE_CHECKING:
    from ....typing import Array
    from ...plans.builder import Builder

_MOST_PARTS = 16


@lowering("Shape", "Size")
def _shape(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    shape = builder.shape(inputs[0])
    x = np.broadcast_to(np.zeros((), np.float32), shape)
    return [Value(array, "known") for array in node.run([x])]


@lowering("Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Identity", "Expand", "Dropout")
def _view(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x = builder.floats(inputs[0])
    results = node.run([x, *(value and builder.known(value) for value in inputs[1:])])
    if any(owner(array) is not owner(x) or array.size == 0 for array in results):
        raise NotLowered
    return [builder.value(array) for array in results]


@lowering("Reshape", "Flatten")
def _reshape(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x = builder.floats(inputs[0])
    # the elements of this array take no memory, and a copy of it that is made does not matter
    (result,) = node.run(
        [np.broadcast_to(np.float32(0), x.shape), *(value and builder.known(value) for value in inputs[1:])]
    )
    try:
        y = x.reshape(result.shape) if x.flags.c_contiguous else _reshaped_view(x, result.shape)
    except ValueError:
        y = builder.contiguous(x).reshape(result.shape)
    return [builder.value(y)]


def _reshaped_view(x: Array, shape: tuple[int, ...]) -> Array:
    """Return a view of this shape; a ValueError says that there is none."""
    y = x.reshape(shape)
    if owner(y) is not owner(x):
        raise ValueError
    return y


@lowering("Cast", "CastLike")
def _cast(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    integers = None if inputs[0] is None else inputs[0].integers
    x = builder.floats(inputs[0]) if integers is None else builder.integers(inputs[0])
    like = [np.empty(0, builder.known(value).dtype) for value in inputs[1:] if value is not None]
    (result,) = node.run([np.zeros(1, integers or np.float32), *like])
    if result.dtype != np.float32:
        raise NotLowered
    return [builder.value(x)]


@lowering("Gather")
def _gather(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x, indices = builder.floats(inputs[0]), builder.known(inputs[1])
    axis = axis_of(node.get("axis", 0), x.ndim)
    numbers = [int(index) for index in indices.reshape(-1)]
    size = x.shape[axis]
    if indices.dtype.kind not in "iu" or not numbers or not all(-size <= index < size for index in numbers):
        raise NotLowered
    numbers = [index % size for index in numbers]
    before: Any = (slice(None),) * axis
    if indices.ndim == 0:
        return [builder.value(x[(*before, numbers[0], ...)])]
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    if step <= 0 or numbers != [numbers[0] + step * index for index in range(len(numbers))]:
        raise NotLowered
    part = x[(*before, slice(numbers[0], numbers[-1] + 1, step))]
    if indices.ndim > 1:
        part = builder.contiguous(part).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return [builder.value(part)]


@lowering("Concat")
def _concat(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    arrays = [builder.floats(value) for value in inputs]
    axis = axis_of(node.get("axis"), arrays[0].ndim)
    shapes = {array.shape[:axis] + array.shape[axis + 1 :] for array in arrays}
    if len(shapes) > 1 or len(arrays) > _MOST_PARTS:
        raise NotLowered
    shape = list(arrays[0].shape)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    y = builder.empty_like(arrays[0], shape)
    start = 0
    for array in arrays:
        part: Any = (slice(None),) * axis + (slice(start, start + array.shape[axis]),)
        builder.copy(y[part], array)
        start += array.shape[axis]
    return [builder.value(y)]


@lowering("Pad")
def _pad(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x = builder.floats(inputs[0])
    mode = node.get("mode", "constant")
    if node.opset < 11 or len(inputs) > 3 or mode not in ("constant", "reflect", "edge"):
        raise NotLowered
    pads = [int(size) for size in builder.known(inputs[1]).reshape(-1)]
    constant = inputs[2] if len(inputs) > 2 else None
    value = np.zeros((), np.float32) if constant is None else builder.known(constant)
    widths = list(zip(pads[: x.ndim], pads[x.ndim :], strict=False))
    if len(pads) != 2 * x.ndim or min(pads) < 0 or value.size != 1 or value.dtype != np.float32:
        raise NotLowered
    if mode == "reflect" and any(max(pair) >= size for pair, size in zip(widths, x.shape, strict=True)):
        raise NotLowered
    y = builder.empty_like(x, [size + low + high for size, (low, high) in zip(x.shape, widths, strict=True)])
    builder.copy(y[tuple(slice(low, low + size) for size, (low, _) in zip(x.shape, widths, strict=True))], x)
    pad_borders(builder, y, x.shape, widths, mode, value.reshape(()))
    return [builder.value(y)]


def pad_borders(
    builder: Builder, y: Array, shape: tuple[int, ...], widths: list[tuple[int, int]], mode: str, value: Array
) -> None:
    """Fill the borders of y, one axis after the other, around an inner part of this shape."""
    inner = [slice(low, low + size) for size, (low, _) in zip(shape, widths, strict=True)]
    for axis, (low, high) in enumerate(widths):
        size = shape[axis]
        part = y[tuple([slice(None)] * axis + [slice(None)] + inner[axis + 1 :])]
        along = np.moveaxis(part, axis, 0)
        for border, first in ((along[:low], low), (along[low + size :], low + size - 1)):
            if not len(border):
                continue
            before = first == low and border.ctypes.data == along.ctypes.data
            if mode == "constant":
                builder.copy(border, value)
            elif mode == "edge":
                builder.copy(border, along[first : first + 1])
            elif before:
                builder.copy(border, along[low + low : low : -1])
            else:
                builder.copy(border, along[first - 1 :: -1][:high])


@lowering("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "GlobalAveragePool", "GlobalMaxPool")
def _reduce(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x = builder.floats(inputs[0])
    keeps = True
    if node.op_type.startswith("Global"):
        axes = list(range(2, x.ndim))
    else:
        given: Any = node.get("axes")
        if len(inputs) > 1 and inputs[1] is not None:
            given = [int(axis) for axis in builder.known(inputs[1]).reshape(-1)]
        if not given and node.get("noop_with_empty_axes", 0):
            raise NotLowered
        axes = sorted(axis_of(axis, x.ndim) for axis in given or range(x.ndim))
        keeps = bool(node.get("keepdims", 1))
    count = math.prod(x.shape[axis] for axis in axes)
    if count > _LARGEST_SUM or len(set(axes)) != len(axes):
        raise NotLowered
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    y = builder.reduced(_FUNCTIONS[node.op_type], x, shape, 1 / count if _is_mean(node) else 1.0) if count > 1 else x
    if not keeps:
        y = y[(*(0 if axis in axes else slice(None) for axis in range(x.ndim)), ...)]
    return [builder.value(y)]


# sums of more numbers lose digits, unless they are made of partial sums
_LARGEST_SUM = 512
_FUNCTIONS = {
    "ReduceMean": "sum",
    "ReduceSum": "sum",
    "GlobalAveragePool": "sum",
    "ReduceMax": "largest",
    "GlobalMaxPool": "largest",
    "ReduceMin": "smallest",
}


def _is_mean(node: Any) -> bool:
    return node.op_type in ("ReduceMean", "GlobalAveragePool")
