"""Resize and Upsample: arrays interpolated along their axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy import float32

from .arguments import axis_of, integers_of, widened
from .registry import operator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ....typing import Array
    from ..node import Node

# most elements that an interpolated one depends on, along an axis
_MOST_TAPS = 4096


class _Axis(NamedTuple):
    """How one axis is resized: from `size` to `length` elements, which are 1 / `scale` apart.

    `start` and `end` are the part of the axis that is resized, in shares of it (tf_crop_and_resize).
    """

    axis: int
    size: int
    length: int
    scale: float
    start: float
    end: float

    def positions(self, mode: str) -> Array:
        """Return where the new elements are on the axis; computed in float32, as in ONNX Runtime."""
        x, scale = np.arange(self.length, dtype=float32), float32(self.scale)
        middle: Array = (x + float32(0.5)) / scale - float32(0.5)
        width = float32(self.scale * self.size)  # need not be a whole number
        if mode == "align_corners" and width != 1:
            return np.asarray(x * float32(self.size - 1) / (width - 1))
        if mode == "asymmetric":
            return np.asarray(x / scale)
        if mode == "tf_half_pixel_for_nn":
            return np.asarray(middle + float32(0.5))
        if mode == "tf_crop_and_resize":
            begin, part = float32(self.start), float32(self.end - self.start) * float32(self.size - 1)
            if self.length == 1:
                return np.full(
                    1, float32(0.5) * (float32(self.start) + float32(self.end)) * float32(self.size - 1), float32
                )
            return begin * float32(self.size - 1) + x * part / float32(self.length - 1)
        if mode == "align_corners" or (mode == "pytorch_half_pixel" and self.length == 1):
            return np.zeros(self.length, float32)
        if mode == "half_pixel_symmetric":
            middle = middle + float32(self.size) / 2 * (1 - float32(self.length) / width)
        return middle


_COORDINATES = {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"}
_COORDINATES |= {"tf_half_pixel_for_nn", "tf_crop_and_resize"}

_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


@operator("Upsample")
def _upsample(node: Node, x: Array, scales: Array | None = None) -> Array:
    result: Array = _resize(node, x, np.array(node.get("scales"), float32) if scales is None else scales)
    return result


@operator("Resize")
def _resize(node: Node, x: Array, *inputs: Array | None) -> Array:
    # before version 11 the second input is scales
    roi, scales, sizes = ((None,) * (node.opset < 11) + inputs + (None,) * 3)[:3]
    mode = node.get("mode", "nearest")
    coordinates = node.get("coordinate_transformation_mode", "half_pixel" if node.opset > 10 else "asymmetric")
    if coordinates not in _COORDINATES:
        raise ValueError(f"coordinate_transformation_mode: {coordinates!r} is not one of ONNX's")
    axes = _axes(node, x, roi if coordinates == "tf_crop_and_resize" else None, scales, sizes)
    shape = list(x.shape)
    for axis in axes:
        shape[axis.axis] = axis.length
    if x.dtype.kind != "f" and mode != "nearest":
        raise ValueError(f"mode: expected nearest for {x.dtype}, got {mode}")
    wide = widened(x)
    node.room(shape, wide.dtype, x)
    if 0 in shape:
        return np.zeros(shape, x.dtype)
    if 0 in x.shape:
        raise ValueError(f"an array of shape {x.shape} cannot be resized to {shape}")
    y = wide
    for axis in axes:
        if axis.length == axis.size and coordinates != "tf_crop_and_resize":
            continue
        positions = axis.positions(coordinates)
        y = _nearest(node, y, axis, positions) if mode == "nearest" else _interpolated(node, y, axis, positions, mode)
        if coordinates == "tf_crop_and_resize":
            outside = (positions < 0) | (positions > axis.size - 1)
            y = np.where(_along(outside, axis, y), y.dtype.type(node.get("extrapolation_value", 0.0)), y)
    return y.astype(x.dtype, copy=False)


def _axes(node: Node, x: Array, roi: Array | None, scales: Array | None, sizes: Array | None) -> list[_Axis]:
    """Return how each axis is resized; raise if scales or sizes do not fit."""
    axes = [axis_of(axis, x.ndim) for axis in node.get("axes", range(x.ndim))]
    given_scales = None if scales is None or not scales.size else scales.ravel().tolist()
    given_sizes = None if sizes is None or not sizes.size else integers_of("sizes", sizes)
    if (given_scales is None) == (given_sizes is None):
        raise ValueError("expected scales or sizes, not both")
    parts = [0.0] * len(axes) + [1.0] * len(axes) if roi is None else roi.ravel().tolist()
    if len(given_scales or given_sizes or ()) != len(axes) or len(parts) != 2 * len(axes) or len(set(axes)) < len(axes):
        raise ValueError(f"expected different axes, scales or sizes for {len(axes)} of them, and roi for their ends")
    if given_scales is not None:
        if not all(0 < scale < np.inf for scale in given_scales):
            raise ValueError(f"scales: expected numbers above 0, got {given_scales}")
        counts = [int(float32(x.shape[axis]) * float32(scale)) for axis, scale in zip(axes, given_scales, strict=True)]
    else:
        given_scales, counts = _fitted(node, [x.shape[axis] for axis in axes], given_sizes or [])
    ends = zip(parts[: len(axes)], parts[len(axes) :], strict=True)
    found = zip(axes, counts, given_scales, ends, strict=True)
    return [_Axis(axis, x.shape[axis], count, scale, *end) for axis, count, scale, end in found]


def _fitted(node: Node, before: Sequence[int], sizes: list[int]) -> tuple[list[float], list[int]]:
    """Return (scales, sizes) for `sizes`, some of which may be changed to keep the proportions."""
    if min(sizes) < 0 or 0 in before:
        raise ValueError(f"sizes: expected none below 0, and no empty axis, got {sizes} for {list(before)}")
    scales = [after / size for after, size in zip(sizes, before, strict=True)]
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return scales, sizes
    if policy not in ("not_larger", "not_smaller"):
        raise ValueError(f"keep_aspect_ratio_policy: {policy!r} is not one of ONNX's")
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [scale] * len(sizes), [int(scale * size + 0.5) for size in before]


def _nearest(node: Node, x: Array, axis: _Axis, positions: Array) -> Array:
    mode = node.get("nearest_mode", "round_prefer_floor")
    if node.opset < 11:
        mode = "floor" if axis.scale >= 1 else "ceil"  # as in ONNX Runtime; ONNX does not define it
    if mode not in _NEAREST:
        raise ValueError(f"nearest_mode: {mode!r} is not one of ONNX's")
    indices = np.clip(_NEAREST[mode](positions), 0, axis.size - 1).astype(np.intp)
    return np.take(x, indices, axis.axis)


def _interpolated(node: Node, x: Array, axis: _Axis, positions: Array, mode: str) -> Array:
    """Return sums of the elements around each position, weighted by their distances."""
    reach = 1 if mode == "linear" else 2
    spread = min(axis.scale, 1.0) if node.get("antialias", 0) else 1.0
    first = int(np.floor(-reach / max(spread, reach / _MOST_TAPS))) + 1
    if 2 - 2 * first > _MOST_TAPS:
        raise ValueError(f"antialias: {axis.size} elements cannot become {axis.length}")
    indices = np.floor(positions).astype(np.intp)[:, np.newaxis] + np.arange(first, 2 - first)
    distances = np.abs(indices - positions[:, np.newaxis].astype(float)) * spread
    weights = _linear(distances) if mode == "linear" else _cubic(distances, node.get("cubic_coeff_a", -0.75))
    if node.get("exclude_outside", 0):
        weights = np.where((indices < 0) | (indices >= axis.size), 0.0, weights)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(x.dtype)
    indices = np.clip(indices, 0, axis.size - 1)
    shape = [*x.shape[: axis.axis], axis.length, *x.shape[axis.axis + 1 :]]
    node.room(shape, x.dtype, x)
    y = np.zeros(shape, x.dtype)
    for tap in range(indices.shape[1]):
        y += np.take(x, indices[:, tap], axis.axis) * _along(weights[:, tap], axis, x)
    return y


def _linear(distances: Array) -> Array:
    return np.maximum(1.0 - distances, 0.0)


def _cubic(d: Array, a: float) -> Array:
    """Return the weights of Keys's cubic convolution."""
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0.0))


def _along(vector: Array, axis: _Axis, x: Array) -> Any:
    """Return a vector as an array that broadcasts along an axis."""
    return vector.reshape(-1, *[1] * (x.ndim - axis.axis - 1))
