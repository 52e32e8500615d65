"""Lowerings of convolutions, as products of overlapping rows, and of pooling. Channels are last in memory."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...._kernels.program import LIMITS
from ...plans.operations import LARGEST_PART, Pool, Product, Weight
from ...plans.values import NotLowered
from ..operators.windows import pooling_windows, windows_of
from .layout import pad_borders
from .registry import lowering

if TYPE_CHECKING:
    from ....typing import Array
    from ...plans.builder import Builder
    from ...plans.values import Value

_ZERO = np.zeros((), np.float32)


@lowering("Conv")
def _conv(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x, kernel = builder.floats(inputs[0]), builder.known(inputs[1])
    bias = builder.known(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else None
    groups = node.get("group", 1)
    if not 3 <= x.ndim <= 4 or kernel.ndim != x.ndim or kernel.dtype != np.float32 or kernel.size == 0:
        raise NotLowered
    outputs, channels = kernel.shape[:2]
    if groups < 1 or outputs % groups or channels * groups != x.shape[1]:
        raise NotLowered
    if bias is not None and (bias.shape != (outputs,) or bias.dtype != np.float32):
        raise NotLowered
    if tuple(node.get("kernel_shape", kernel.shape[2:])) != kernel.shape[2:] or (channels == 1 and groups > 1):
        raise NotLowered
    windows = windows_of(node, x, kernel.shape[2:])
    if min(windows.counts) < 1:
        raise NotLowered
    plane = windows._replace(
        kernel=_two(windows.kernel, 1),
        strides=_two(windows.strides, 1),
        dilations=_two(windows.dilations, 1),
        pads=_two(windows.pads, (0, 0)),
        counts=_two(windows.counts, 1),
    )
    padded = _padded(builder, x[:, :, np.newaxis] if x.ndim == 3 else x, plane)
    weights = kernel.reshape(groups, outputs // groups, channels, *plane.kernel)
    parts = [
        _convolved(builder, padded, plane, kernel, weights[group], group, None if bias is None else bias, outputs)
        for group in range(groups)
    ]
    y = parts[0]
    if groups > 1:
        y = builder.empty((y.shape[0], *y.shape[2:], outputs)).transpose(0, 3, 1, 2)
        for group, part in enumerate(parts):
            builder.copy(y[:, group * outputs // groups : (group + 1) * outputs // groups], part)
    return [builder.value(y[:, :, 0] if x.ndim == 3 else y)]


def _two(sizes: tuple[Any, ...], first: Any) -> tuple[Any, ...]:
    """Return an entry for each of two axes."""
    return sizes if len(sizes) == 2 else (first, *sizes)


def _padded(builder: Builder, x: Array, windows: Any) -> Array:
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


def _convolved(
    builder: Builder,
    x: Array,
    windows: Any,
    kernel: Array,
    weight: Array,
    group: int,
    bias: Array | None,
    outputs: int,
) -> Array:
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

    made = Weight(kernel, [factors] * len(places), columns, parts, ("convolution", group, columns, joined))
    if bias is not None:
        made.change(f"bias {group}", None, bias[group * columns : (group + 1) * columns], [bias])
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
    whole = x[:, :, np.newaxis] if x.ndim == 3 else x
    last = whole.transpose(0, 2, 3, 1)
    if last.strides[3] != 4 and last.shape[3] > 1:
        last = builder.contiguous(last)
    counts = _two(windows.counts, 1)
    y = builder.empty((last.shape[0], *counts, last.shape[3]))
    numbers = [last.shape[3], last.shape[1], last.shape[2]]
    for axis in range(2):
        pads = _two(windows.pads, (0, 0))[axis]
        for sizes in (windows.kernel, windows.strides, windows.dilations):
            numbers.append(_two(sizes, 1)[axis])
        numbers.append(pads[0])
    padding = bool(node.get("count_include_pad", 0))
    if padding and node.get("ceil_mode", 0):
        raise NotLowered
    function = "largest" if node.op_type == "MaxPool" else "sum"
    builder.emit(Pool("pool", [y, last], function, numbers=(*numbers, int(padding))))
    y = y.transpose(0, 3, 1, 2)
    return [builder.value(y[:, :, 0] if x.ndim == 3 else y)]
