"""Operators that change the form of arrays, or take and join parts of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..proto import ARRAY_DTYPES, check_rank
from .arguments import axes_of, axis_of, check_dtypes, integers_of, shape_of, sizes_of
from .registry import OPERATORS, operator

if TYPE_CHECKING:
    from ....typing import Array
    from ..node import Node


# Shapes


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
    shape, value = shape_of("shape", shape), node.get("value", np.zeros(1, np.float32))
    if value.size != 1:
        raise ValueError(f"value: expected one element, got {value.size}")
    node.room(shape, value.dtype)
    return np.full(shape, value.reshape(()), value.dtype)


@operator("Expand")
def _expand(node: Node, x: Array, shape: Any) -> Array:
    shape = np.broadcast_shapes(x.shape, shape_of("shape", shape))
    node.room(shape, x.dtype)  # the result is a view, but later operators may copy it
    return np.broadcast_to(x, shape)


@operator("Range")
def _range(node: Node, start: Any, limit: Any, delta: Any) -> Array:
    check_dtypes(start, limit, delta)
    dtype = start.dtype
    start, limit, delta = (array.item() for array in (start, limit, delta))
    count = max(0, -((start - limit) // delta) if dtype.kind in "iu" else math.ceil((limit - start) / delta))
    node.room((count,), dtype)
    result: Array = (start + np.arange(count) * delta).astype(dtype)
    return result


@operator("Tile")
def _tile(node: Node, x: Array, repeats: Any) -> Array:
    repeats = shape_of("repeats", repeats)
    if len(repeats) != x.ndim:
        raise ValueError(f"repeats: expected {x.ndim} of them, got {len(repeats)}")
    node.room([size * times for size, times in zip(x.shape, repeats, strict=True)], x.dtype)
    return np.tile(x, repeats)


@operator("Pad")
def _pad(node: Node, x: Array, pads: Any = None, value: Any = None, axes: Any = None) -> Array:
    if node.opset < 11:
        pads, value = node.get("pads"), node.get("value", 0.0)
    else:
        pads, value = integers_of("pads", pads), 0 if value is None else value.item()
    axes = range(x.ndim) if axes is None else [axis_of(axis, x.ndim) for axis in integers_of("axes", axes)]
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
    shape = integers_of("shape", shape)
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
    axis = x.ndim if axis == x.ndim else axis_of(axis, x.ndim)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose")
def _transpose(node: Node, x: Array) -> Array:
    order = node.get("perm")
    if order is not None and sorted(order) != list(range(x.ndim)):
        raise ValueError(f"perm: expected each of {x.ndim} axes once, got {order}")
    return x.transpose(order)


@operator("Squeeze")
def _squeeze(node: Node, x: Array, axes: Any = None) -> Array:
    axes = axes_of(node, axes)
    return x.squeeze(None if axes is None else tuple(axes))


@operator("Unsqueeze")
def _unsqueeze(node: Node, x: Array, axes: Any = None) -> Array:
    return np.expand_dims(x, tuple(axes_of(node, axes)))


# Parts


@operator("Concat")
def _concat(node: Node, *arrays: Array) -> Array:
    check_dtypes(*arrays)
    axis = axis_of(node.get("axis"), arrays[0].ndim)
    shape = list(arrays[0].shape)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    node.room(shape, arrays[0].dtype, *arrays)
    return np.concatenate(arrays, axis)


@operator("Split")
def _split(node: Node, x: Array, split: Any = None) -> tuple[Array, ...]:
    axis = axis_of(node.get("axis", 0), x.ndim)
    size, count = x.shape[axis], len(node.outputs)
    split = node.get("split") if node.opset < 13 else split if split is None else list(sizes_of("split", split))
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
        starts, ends = integers_of("starts", starts), integers_of("ends", ends)
        axes = None if axes is None else integers_of("axes", axes)
    axes = [axis_of(axis, x.ndim) for axis in (range(len(starts)) if axes is None else axes)]
    steps = [1] * len(starts) if steps is None else integers_of("steps", steps)
    if not len(starts) == len(ends) == len(axes) == len(steps) == len(set(axes)):
        raise ValueError(f"expected a start, end and step for each axis, got {starts}, {ends}, {steps} for axes {axes}")
    parts = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        parts[axis] = slice(start, end, step)  # ONNX clamps as Python does
    return x[tuple(parts)]


@operator("Gather")
def _gather(node: Node, x: Array, indices: Array) -> Array:
    axis = axis_of(node.get("axis", 0), x.ndim)
    node.room(x.shape[:axis] + indices.shape + x.shape[axis + 1 :], x.dtype)
    return np.take(x, indices, axis)


@operator("GatherElements")
def _gather_elements(node: Node, x: Array, indices: Array) -> Array:
    axis = axis_of(node.get("axis", 0), x.ndim)
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


@operator("TopK")
def _top_k(node: Node, x: Array, k: Any = None) -> tuple[Array, Array]:
    number = node.get("k") if node.opset < 10 else integers_of("K", k)[0]
    axis = axis_of(node.get("axis", -1), x.ndim)
    if not 0 <= number <= x.shape[axis]:
        raise ValueError(f"K: expected 0 to {x.shape[axis]}, got {number}")
    node.room(x.shape, np.dtype(np.int64), x)
    if node.get("largest", 1):  # of equal numbers the first comes first, so a reversed order of the reversed array
        order = np.flip(x.shape[axis] - 1 - np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    indices = order.take(range(number), axis).astype(np.int64, copy=False)
    return np.take_along_axis(x, indices, axis), indices


@operator("ScatterElements")
def _scatter_elements(node: Node, x: Array, indices: Array, updates: Array) -> Array:
    check_dtypes(x, updates)
    axis = axis_of(node.get("axis", 0), x.ndim)
    sizes = zip(indices.shape, x.shape, strict=False)
    if indices.ndim != x.ndim or any(part > size for index, (part, size) in enumerate(sizes) if index != axis):
        raise ValueError(f"indices: shape {indices.shape} does not fit an input of shape {x.shape}")
    if indices.shape != updates.shape:
        raise ValueError(f"updates: expected shape {indices.shape}, got {updates.shape}")
    y = x.copy()
    places: list[Any] = list(np.ogrid[tuple(map(slice, indices.shape))])
    places[axis] = indices
    _scatter(node, y, tuple(places), updates)
    return y


@operator("ScatterND")
def _scatter_nd(node: Node, x: Array, indices: Array, updates: Array) -> Array:
    check_dtypes(x, updates)
    if indices.ndim == 0 or not 1 <= indices.shape[-1] <= x.ndim:
        raise ValueError(f"indices: shape {indices.shape} does not fit an input of shape {x.shape}")
    shape = indices.shape[:-1] + x.shape[indices.shape[-1] :]
    if updates.shape != shape:
        raise ValueError(f"updates: expected shape {shape}, got {updates.shape}")
    y = x.copy()
    _scatter(node, y, tuple(np.moveaxis(indices, -1, 0)), updates)
    return y


def _scatter(node: Node, y: Array, places: tuple[Any, ...], updates: Array) -> None:
    """Write updates to places of y, or combine them with what is there."""
    functions: dict[str, Any] = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
    reduction = node.get("reduction", "none")
    if reduction == "none":
        y[places] = updates
    else:
        functions[reduction].at(y, places, updates)


@operator("Trilu")
def _trilu(node: Node, x: Array, k: Any = None) -> Array:
    if x.ndim < 2:
        raise ValueError(f"expected two or more axes, got shape {x.shape}")
    (diagonal,) = (0,) if k is None else integers_of("k", k)
    size = max(x.shape[-2:])
    diagonal = min(max(diagonal, -size - 1), size + 1)
    return np.triu(x, diagonal) if node.get("upper", 1) else np.tril(x, diagonal)


@operator("NonZero")
def _non_zero(node: Node, x: Array) -> Array:
    node.room((max(x.ndim, 1), x.size), np.dtype(np.int64), x)
    result: Array = np.stack(np.nonzero(np.atleast_1d(x))).astype(np.int64, copy=False)
    return result


@operator("OneHot")
def _one_hot(node: Node, indices: Array, depth: Array, values: Array) -> Array:
    if depth.size != 1 or values.shape != (2,):
        raise ValueError(f"expected one depth and two values, got shapes {depth.shape} and {values.shape}")
    classes = int(depth.reshape(()))
    axis = axis_of(node.get("axis", -1), indices.ndim + 1)
    node.room((*indices.shape[:axis], max(classes, 0), *indices.shape[axis:]), values.dtype, indices)
    inside = (indices >= -classes) & (indices < classes)
    places = np.expand_dims(np.where(indices < 0, indices + classes, indices), axis)
    numbers = np.arange(classes).reshape(-1, *[1] * (indices.ndim - axis))
    result: Array = np.where((places == numbers) & np.expand_dims(inside, axis), values[1], values[0])
    return result


@operator("EyeLike")
def _eye_like(node: Node, x: Array) -> Array:
    if x.ndim != 2:
        raise ValueError(f"expected a matrix, got shape {x.shape}")
    dtype = ARRAY_DTYPES[node.get("dtype")] if "dtype" in node.attributes else x.dtype
    node.room(x.shape, dtype, x)
    k = min(max(node.get("k", 0), -x.shape[0]), x.shape[1])
    result: Array = np.eye(x.shape[0], x.shape[1], k, dtype)
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


OPERATORS["Scatter"] = OPERATORS["ScatterElements"]
