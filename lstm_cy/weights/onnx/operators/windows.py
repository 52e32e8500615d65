"""Operators over windows of the spatial axes: convolutions and pooling."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .arguments import check_dtypes, lowest, widened
from .registry import OPERATORS, operator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ....typing import Array
    from ..node import Node, Operator

# bytes of the windows that are copied for one product
_LARGEST_COPY = 1 << 24
# most elements of a kernel for pooling, unless the input has more
_LARGEST_KERNEL = 1 << 16


class Windows(NamedTuple):
    """The windows of an operator: for each spatial axis the size, distance and spread of the kernel, and the padding.

    Attributes
    ----------
    kernel, strides, dilations : tuple of int
    pads : tuple of (int, int)
        Before and after each axis; the last windows may need more after it (ceil_mode).
    counts : tuple of int
        Number of windows along each axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]

    def padded(self, node: Node, x: Array, value: Any) -> Array:
        """Return x with its spatial axes padded so that every window is inside."""
        widths = [(0, 0), (0, 0)]
        for size, (before, after), last in zip(x.shape[2:], self.pads, self._last(), strict=True):
            widths.append((before, max(after, last - size - before)))
        if not any(map(any, widths)):
            return x
        node.room([size + before + after for size, (before, after) in zip(x.shape, widths, strict=True)], x.dtype, x)
        return np.pad(x, widths, constant_values=value)

    def _last(self) -> Iterator[int]:
        """Yield the end of the last window of each axis, counted from the start of the padding."""
        for size, stride, dilation, count in zip(self.kernel, self.strides, self.dilations, self.counts, strict=True):
            yield (count - 1) * stride + (size - 1) * dilation + 1

    def elements(self) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
        """Yield each position in the kernel, and the part of the padded axes that it meets in all windows."""
        for position in itertools.product(*map(range, self.kernel)):
            yield (
                position,
                tuple(
                    slice(index * dilation, index * dilation + (count - 1) * stride + 1, stride)
                    for index, dilation, count, stride in zip(
                        position, self.dilations, self.counts, self.strides, strict=True
                    )
                ),
            )

    def view(self, x: Array) -> Array:
        """Return the windows of a padded array: (N, C, *counts, *kernel), without a copy."""
        spread = [(size - 1) * dilation + 1 for size, dilation in zip(self.kernel, self.dilations, strict=True)]
        axes = tuple(range(2, x.ndim))
        every = np.lib.stride_tricks.sliding_window_view(x, spread, axes)
        starts = [
            slice(0, (count - 1) * stride + 1, stride) for count, stride in zip(self.counts, self.strides, strict=True)
        ]
        result: Array = every[
            (slice(None), slice(None), *starts, *(slice(None, None, step) for step in self.dilations))
        ]
        return result


def windows_of(node: Node, x: Array, kernel: tuple[int, ...]) -> Windows:
    """Return the windows of a node over the spatial axes of x; raise if its attributes do not fit."""
    axes = x.ndim - 2
    if axes < 1 or len(kernel) != axes or min(kernel) < 1:
        raise ValueError(f"kernel_shape: {list(kernel)} does not fit an input of shape {x.shape}")
    strides, dilations = (_sizes(node, name, axes) for name in ("strides", "dilations"))
    mode, ceil = node.get("auto_pad", "NOTSET") or "NOTSET", node.get("ceil_mode", 0)
    pads = node.get("pads", [0] * 2 * axes) if mode == "NOTSET" else [0] * 2 * axes
    if len(pads) != 2 * axes or min(pads) < 0:
        raise ValueError(f"pads: expected {2 * axes} numbers from 0, got {pads}")
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad: {mode!r} is not one of ONNX's")
    ends, counts = [], []
    for axis, size in enumerate(x.shape[2:]):
        before, after, stride = pads[axis], pads[axis + axes], strides[axis]
        spread = (kernel[axis] - 1) * dilations[axis] + 1
        if mode.startswith("SAME"):
            count = -(-size // stride)
            total = max((count - 1) * stride + spread - size, 0)
            before = total // 2 if mode == "SAME_UPPER" else total - total // 2
            after = total - before
        else:
            rest = size + before + after - spread
            count = (-(-rest // stride) if ceil else rest // stride) + 1
            if ceil and (count - 1) * stride >= size + before:  # a window must start before the last padding
                count -= 1
        if count < 1 and x.size:
            raise ValueError(f"kernel_shape: {list(kernel)} is larger than the padded input of shape {x.shape}")
        ends.append((before, after))
        counts.append(max(count, 0))
    return Windows(kernel, strides, dilations, tuple(ends), tuple(counts))


def _sizes(node: Node, name: str, axes: int) -> tuple[int, ...]:
    found = node.get(name, [1] * axes)
    if len(found) != axes or min(found) < 1:
        raise ValueError(f"{name}: expected {axes} numbers from 1, got {found}")
    return tuple(found)


# Convolutions


@operator("Conv")
def _conv(node: Node, x: Array, weight: Array, bias: Array | None = None) -> Array:
    check_dtypes(*(array for array in (x, weight, bias) if array is not None))
    y = convolve(node, widened(x), widened(weight))
    if bias is not None:
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"B: expected shape {weight.shape[:1]}, got {bias.shape}")
        y += bias.reshape(-1, *[1] * (x.ndim - 2))
    return y.astype(x.dtype, copy=False)


def convolve(node: Node, x: Array, weight: Array, padding: Any = 0) -> Array:
    """Return the convolution of x (N, C, ...) with weight (M, C / group, ...) of the same dtype."""
    groups = node.get("group", 1)
    if x.ndim < 3 or weight.ndim != x.ndim:
        raise ValueError(f"expected an input and a weight of three or more axes, got {x.shape} and {weight.shape}")
    if groups < 1 or weight.shape[0] % groups or weight.shape[1] * groups != x.shape[1]:
        raise ValueError(f"group: {groups} does not fit an input of shape {x.shape} and a weight of {weight.shape}")
    kernel = weight.shape[2:]
    if tuple(node.get("kernel_shape", kernel)) != kernel:
        raise ValueError(f"kernel_shape: {node.get('kernel_shape')} does not fit a weight of shape {weight.shape}")
    windows = windows_of(node, x, kernel)
    shape = (x.shape[0], weight.shape[0], *windows.counts)
    node.room(shape, x.dtype, x)
    y = np.zeros(shape, x.dtype)
    if y.size and weight.size:
        x = windows.padded(node, x, padding)
        if weight.shape[1] == 1 and groups > 1:
            _convolve_each_channel(windows, x, weight, y)
        else:
            _convolve_groups(windows, x, weight, groups, y)
    return y


def _convolve_each_channel(windows: Windows, x: Array, weight: Array, y: Array) -> None:
    """Add to y the convolution of each channel on its own: a sum over the elements of the kernel."""
    times = weight.shape[0] // x.shape[1]
    y = y.reshape(x.shape[0], x.shape[1], times, *windows.counts)
    ones = (1,) * len(windows.counts)
    for position, part in windows.elements():
        chosen: Any = (slice(None), 0, *position)
        factors = weight[chosen].reshape(x.shape[1], times, *ones)
        y += x[(slice(None), slice(None), np.newaxis, *part)] * factors


def _convolve_groups(windows: Windows, x: Array, weight: Array, groups: int, y: Array) -> None:
    """Write the convolution to y: for each group a product of the weights and the windows, a part at a time."""
    rank = len(windows.counts)
    channels = x.shape[1] // groups
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
    found = windows.view(x)  # (N, C, *counts, *kernel)
    rest = math.prod(windows.counts[1:])
    rows = max(1, _LARGEST_COPY // (matrix.shape[2] * groups * rest * x.itemsize))  # of the first spatial axis
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    for n in range(x.shape[0]):
        for start in range(0, windows.counts[0], rows):
            part = found[n, :, start : start + rows].reshape(groups, channels, -1, *windows.counts[1:], *windows.kernel)
            columns = part.transpose(order).reshape(groups, matrix.shape[2], -1)
            target = y[n, :, start : start + rows]
            target[...] = (matrix @ columns).reshape(target.shape)


@operator("ConvTranspose")
def _conv_transpose(node: Node, x: Array, weight: Array, bias: Array | None = None) -> Array:
    check_dtypes(*(array for array in (x, weight, bias) if array is not None))
    groups, axes = node.get("group", 1), x.ndim - 2
    if axes < 1 or weight.ndim != x.ndim or 0 in weight.shape:
        raise ValueError(f"expected an input and a weight of three or more axes, got {x.shape} and {weight.shape}")
    if groups < 1 or x.shape[1] % groups or weight.shape[0] != x.shape[1]:
        raise ValueError(f"group: {groups} does not fit an input of shape {x.shape} and a weight of {weight.shape}")
    kernel, channels = weight.shape[2:], weight.shape[1] * groups
    if tuple(node.get("kernel_shape", kernel)) != kernel:
        raise ValueError(f"kernel_shape: {node.get('kernel_shape')} does not fit a weight of shape {weight.shape}")
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"B: expected shape {(channels,)}, got {bias.shape}")
    strides, dilations = (_sizes(node, name, axes) for name in ("strides", "dilations"))
    starts, sizes = _transposed_sizes(node, x.shape[2:], kernel, strides, dilations)
    whole = [
        max((size - 1) * stride + (length - 1) * dilation + 1, start + after)
        for size, stride, length, dilation, start, after in zip(
            x.shape[2:], strides, kernel, dilations, starts, sizes, strict=True
        )
    ]
    wide = widened(x)
    shape = (x.shape[0], channels, *whole)
    node.room(shape, wide.dtype, x)
    y = np.zeros(shape, wide.dtype)
    if x.size:
        _add_transposed(wide, widened(weight), groups, Windows(kernel, strides, dilations, (), x.shape[2:]), y)
    inside: Any = (..., *(slice(start, start + size) for start, size in zip(starts, sizes, strict=True)))
    y = y[inside]
    if bias is not None:
        y = y + widened(bias).reshape(-1, *[1] * axes)
    return np.asarray(y, x.dtype)


def _transposed_sizes(
    node: Node, before: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[list[int], list[int]]:
    """Return where the result begins on each axis, and its sizes."""
    axes = len(before)
    mode, requested = node.get("auto_pad", "NOTSET") or "NOTSET", node.get("output_shape")
    pads, more = node.get("pads", [0] * 2 * axes), node.get("output_padding", [0] * axes)
    if len(pads) != 2 * axes or len(more) != axes or min(*pads, *more) < 0:
        raise ValueError(f"expected {2 * axes} pads and {axes} of output_padding from 0, got {pads} and {more}")
    if requested is not None and (len(requested) not in (axes, axes + 2) or min(requested) < 0):
        raise ValueError(f"output_shape: expected {axes} sizes, got {requested}")
    if mode.startswith("SAME") and requested is None:
        requested = [size * stride for size, stride in zip(before, strides, strict=True)]
    starts, sizes = [], []
    for axis in range(axes):
        every = (before[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 + more[axis]
        if requested is None:
            start, end = (pads[axis], pads[axis + axes]) if mode == "NOTSET" else (0, 0)
            size = every - start - end
        else:
            size = requested[len(requested) - axes + axis]
            total = max(every - size, 0)
            start = total // 2 if mode == "SAME_UPPER" else total - total // 2
        if size < 0:
            raise ValueError(f"pads: {pads} remove more than the {every} elements of an axis")
        starts.append(start)
        sizes.append(size)
    return starts, sizes


def _add_transposed(x: Array, weight: Array, groups: int, windows: Windows, y: Array) -> None:
    """Add to y what each element of x contributes through each element of the kernel."""
    columns = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
    matrix = weight.reshape(groups, -1, *weight.shape[1:])
    for position, part in windows.elements():
        chosen: Any = (slice(None), slice(None), slice(None), *position)
        product = matrix[chosen].swapaxes(1, 2) @ columns
        y[(..., *part)] += product.reshape(x.shape[0], y.shape[1], *x.shape[2:])


# Pooling


def pooling_windows(node: Node, x: Array) -> Windows:
    """Return the windows of a pooling node, whose kernel needs no bytes in the file."""
    kernel = tuple(node.get("kernel_shape"))
    if math.prod(kernel) > max(_LARGEST_KERNEL, math.prod(x.shape[2:])):
        raise ValueError(f"kernel_shape: {list(kernel)} is too large for an input of shape {x.shape}")
    return windows_of(node, x, kernel)


@operator("MaxPool")
def _max_pool(node: Node, x: Array) -> Any:
    windows = pooling_windows(node, x)
    shape = (*x.shape[:2], *windows.counts)
    node.room(shape, x.dtype, x)
    if len(node.outputs) > 1 and node.outputs[1]:
        return _max_pool_with_indices(node, x, windows, shape)
    y = np.full(shape, lowest(x.dtype), x.dtype)
    if y.size:
        padded = windows.padded(node, x, lowest(x.dtype))
        for _, part in windows.elements():
            np.maximum(y, padded[(..., *part)], out=y)
    return y


def _max_pool_with_indices(node: Node, x: Array, windows: Windows, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the maxima and their positions in x, as one array of all elements."""
    node.room(shape, np.dtype(np.int64), x)
    y, indices = np.full(shape, lowest(x.dtype), x.dtype), np.full(shape, -1, np.int64)
    if not y.size:
        return y, indices
    spatial = x.shape[2:]
    places = np.arange(math.prod(spatial)).reshape(spatial if not node.get("storage_order", 0) else spatial[::-1])
    places = (places.T if node.get("storage_order", 0) else places)[np.newaxis, np.newaxis]
    padded, places = windows.padded(node, x, lowest(x.dtype)), windows.padded(node, places, -1)
    for _, part in windows.elements():
        values, here = padded[(..., *part)], places[(..., *part)]
        larger = ((values > y) | (indices < 0)) & (here >= 0)
        np.copyto(y, values, where=larger)
        np.copyto(indices, here, where=larger)
    start = np.arange(math.prod(shape[:2])).reshape(*shape[:2], *[1] * len(spatial)) * math.prod(spatial)
    return y, indices + start


@operator("AveragePool")
def _average_pool(node: Node, x: Array) -> Array:
    windows = pooling_windows(node, x)
    shape = (*x.shape[:2], *windows.counts)
    wide = widened(x)
    node.room(shape, wide.dtype, x)
    y = np.zeros(shape, wide.dtype)
    if not y.size:
        return y.astype(x.dtype)
    inside = np.ones((1, 1, *x.shape[2:]), wide.dtype)
    if node.get("count_include_pad", 0):
        inside = np.pad(inside, [(0, 0), (0, 0), *windows.pads], constant_values=1)
        counted = windows._replace(pads=((0, 0),) * len(windows.pads)).padded(node, inside, 0)
    else:
        counted = windows.padded(node, inside, 0)
    padded, number = windows.padded(node, wide, 0), np.zeros((1, 1, *windows.counts), wide.dtype)
    for _, part in windows.elements():
        y += padded[(..., *part)]
        number += counted[(..., *part)]
    return (y / number).astype(x.dtype, copy=False)


def _of_all(function: Callable[..., Any]) -> Operator:
    """Make a pooling operator over all spatial axes."""

    def apply(node: Node, x: Array) -> Array:
        if x.ndim < 2:
            raise ValueError(f"expected two or more axes, got shape {x.shape}")
        axes = tuple(range(2, x.ndim))
        return np.asarray(function(widened(x), axis=axes, keepdims=True)).astype(x.dtype, copy=False)

    return apply


def _largest(x: Array, **options: Any) -> Any:
    return np.max(x, initial=lowest(x.dtype), **options)


OPERATORS |= {"GlobalAveragePool": _of_all(np.mean), "GlobalMaxPool": _of_all(_largest)}
