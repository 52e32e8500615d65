"""Lowerings of convolutions, as products of overlapping rows, and of pooling. Channels are last in memory."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...._kernels.program import LIMITS
from ...plans.operations import LARGEST_PART, Depthwise, Pool, Product, Weight
from ...plans.values import NotLowered
from ..operators.windows import Windows, pooling_windows, windows_of
from .layout import pad_borders
from .registry import lowering

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....typing import Array
    from ...plans.builder import Builder
    from ...plans.values import Value

_ZERO = np.zeros((), np.float32)


@lowering("Conv")
def _conv(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x, kernel = builder.floats(inputs[0]), builder.known(inputs[1])
    bias = builder.known(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else None
    if kernel.dtype != np.float32:
        raise NotLowered
    if bias is not None and (bias.shape != kernel.shape[:1] or bias.dtype != np.float32):
        raise NotLowered
    return [builder.value(convolution(builder, node, x, Kernel(kernel, [kernel], bias)))]


class Kernel(NamedTuple):
    """The constant kernel of a convolution, float32, the constants that it is made of, and the bias.

    Attributes
    ----------
    exact : bool
        As of a Weight.
    """

    array: Array
    sources: list[Array]
    bias: Array | None = None
    exact: bool = False

    def weight(self, group: int, columns: int, sizes: list[int], parts: Callable[[], list[Array]], form: str) -> Weight:
        """Return the matrix of a group of so many outputs; `form` says how the parts are made."""
        made = Weight(self.sources, sizes, columns, parts, ("convolution", group, columns, form), self.exact)
        if self.bias is not None:
            made.change(f"bias {group}", None, self.bias[group * columns : (group + 1) * columns], [self.bias])
        return made


def convolution(builder: Builder, node: Any, x: Array, kernel: Kernel) -> Array:
    """Return the convolution of x (N, C, ...); NotLowered if it is none that the kernels compute."""
    groups = node.get("group", 1)
    if not 3 <= x.ndim <= 4 or kernel.array.ndim != x.ndim or kernel.array.size == 0:
        raise NotLowered
    outputs, channels, *sizes = kernel.array.shape
    if groups < 1 or outputs % groups or channels * groups != x.shape[1]:
        raise NotLowered
    if list(node.get("kernel_shape", sizes)) != sizes:
        raise NotLowered
    windows = windows_of(node, x, tuple(sizes))
    if min(windows.counts) < 1:
        raise NotLowered
    plane = _of_plane(windows)
    wide = x[:, :, np.newaxis] if x.ndim == 3 else x
    make = _each_channel if channels == 1 < groups else _groups
    y = make(builder, wide, plane, kernel, kernel.array.reshape(groups, outputs // groups, channels, *plane.kernel))
    return y[:, :, 0] if x.ndim == 3 else y


def _groups(builder: Builder, x: Array, windows: Windows, kernel: Kernel, weights: Array) -> Array:
    """Return the convolution as one product for each group."""
    groups, outputs = len(weights), len(kernel.array)
    padded = _padded(builder, x, windows)
    parts = [_convolved(builder, padded, windows, kernel, weights[group], group) for group in range(groups)]
    y = parts[0]
    if groups > 1:
        y = builder.empty((y.shape[0], *y.shape[2:], outputs)).transpose(0, 3, 1, 2)
        for group, part in enumerate(parts):
            builder.copy(y[:, group * outputs // groups : (group + 1) * outputs // groups], part)
    return y


def _each_channel(builder: Builder, x: Array, windows: Windows, kernel: Kernel, weights: Array) -> Array:
    """Return the convolution of each channel on its own."""
    if max(*windows.kernel, *windows.dilations, *itertools.chain(*windows.pads)) > _LARGEST_STEP:
        raise NotLowered
    last = _channels_last(builder, x)
    outputs, size = len(kernel.array), math.prod(windows.kernel)

    def parts() -> list[Array]:
        return [weights.reshape(outputs, size).T]

    y = builder.empty((len(last), *windows.counts, outputs))
    # a stride beyond the input is that of a single window
    windows = windows._replace(strides=tuple(map(min, windows.strides, [_LARGEST_STEP] * 2)))
    numbers = (*_plane_numbers(last, windows), outputs // last.shape[3])
    builder.emit(Depthwise("depthwise", y, last, kernel.weight(0, outputs, [size], parts, "each channel"), numbers))
    return y.transpose(0, 3, 1, 2)


# larger sizes of a window are left to the step itself
_LARGEST_STEP = 1 << 31


def _channels_last(builder: Builder, x: Array) -> Array:
    """Return x (N, C, H, W) as (N, H, W, C), with contiguous channels."""
    last = x.transpose(0, 2, 3, 1)
    return builder.contiguous(last) if last.strides[3] != 4 and last.shape[3] > 1 else last


def _plane_numbers(x: Array, windows: Windows) -> list[int]:
    """Return the numbers of `pool` of `lstm_cy/_kernels/program.pyx` for windows of x (N, H, W, C)."""
    numbers = [x.shape[3], x.shape[1], x.shape[2]]
    for axis in range(2):
        numbers += [sizes[axis] for sizes in (windows.kernel, windows.strides, windows.dilations)]
        numbers.append(windows.pads[axis][0])
    return numbers


def _of_plane(windows: Windows) -> Windows:
    """Return windows of one or two axes as those of two."""
    return windows._replace(
        kernel=_two(windows.kernel, 1),
        strides=_two(windows.strides, 1),
        dilations=_two(windows.dilations, 1),
        pads=_two(windows.pads, (0, 0)),
        counts=_two(windows.counts, 1),
    )


def _two(sizes: tuple[Any, ...], first: Any) -> tuple[Any, ...]:
    """Return an entry for each of two axes."""
    return sizes if len(sizes) == 2 else (first, *sizes)


def _padded(builder: Builder, x: Array, windows: Windows) -> Array:
    """Return x as (N, H, W, C), contiguous, with zeros around it."""
    last = x.transpose(0, 2, 3, 1)
    widths = [(0, 0), *windows.pads, (0, 0)]
    if not any(map(any, widths)):
        return builder.contiguous(last)
    padded = builder.empty([size + low + high for size, (low, high) in zip(last.shape, widths, strict=True)])
    inner = tuple(slice(low, low + size) for size, (low, _) in zip(last.shape, widths, strict=True))
    builder.copy(padded[inner], last)
    pad_borders(builder, padded, last.shape, widths, "constant", _ZERO)
    return padded


def _convolved(builder: Builder, x: Array, windows: Windows, kernel: Kernel, weight: Array, group: int) -> Array:
    """Return the convolution of a group as (N, outputs, H, W), whose channels are last in memory."""
    N, H, W, C = x.shape
    columns, channels = weight.shape[:2]
    (rows, width), (spread_down, spread_right) = windows.kernel, windows.dilations
    # a stride beyond the input is that of a single window
    down, right = min(windows.strides[0], H), min(windows.strides[1], W)
    height, length = windows.counts
    # elements of the kernel along a row whose inputs follow each other are one part of the product
    joined = spread_right == 1 and channels == C
    places = list(itertools.product(range(rows), [0] if joined else range(width)))
    factors = channels * (width if joined else 1)
    if len(places) * math.ceil(factors / LARGEST_PART) > LIMITS["parts"]:
        raise NotLowered

    def parts() -> list[Array]:
        turned = weight.transpose(2, 3, 1, 0)  # (rows, width, channels, columns)
        if joined:
            return [turned[i].reshape(factors, columns) for i, _ in places]
        return [np.ascontiguousarray(turned[i, j]) for i, j in places]

    made = kernel.weight(group, columns, [factors] * len(places), parts, "rows" if joined else "elements")
    offsets = [(i * spread_down * W + j * spread_right) * C + group * channels for i, j in places]
    if down == right == 1 and height > 1:
        # all rows of the plane in one product; between them are results of no window, which nothing reads
        pitch, count = W, (height - 1) * W + length
        y = builder.empty((N, height * pitch, columns))
        numbers = (N, 1, count, H * W * C, 0, C, height * pitch * columns, 0)
    else:
        pitch = length
        y = builder.empty((N, height * pitch, columns))
        numbers = (N, height, length, H * W * C, down * W * C, right * C, height * pitch * columns, pitch * columns)
    builder.emit(Product(y, x, made, offsets, numbers))
    return y.reshape(N, height, pitch, columns)[:, :, :length].transpose(0, 3, 1, 2)


@lowering("MaxPool", "AveragePool")
def _pool(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x = builder.floats(inputs[0])
    if not 3 <= x.ndim <= 4 or len(node.outputs) > 1:
        raise NotLowered
    windows = pooling_windows(node, x)
    if min(windows.counts) < 1:
        raise NotLowered
    last, plane = _channels_last(builder, x[:, :, np.newaxis] if x.ndim == 3 else x), _of_plane(windows)
    y = builder.empty((last.shape[0], *plane.counts, last.shape[3]))
    padding = bool(node.get("count_include_pad", 0))
    if padding and node.get("ceil_mode", 0):
        raise NotLowered
    function = "largest" if node.op_type == "MaxPool" else "sum"
    builder.emit(Pool("pool", [y, last], function, numbers=(*_plane_numbers(last, plane), int(padding))))
    y = y.transpose(0, 3, 1, 2)
    return [builder.value(y[:, :, 0] if x.ndim == 3 else y)]
