"""Windows of arrays: what convolution and pooling read at each output position, for any number of axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import one_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..typing import Array

#: "valid" adds nothing, "same" gives ceil(size / stride) outputs, "causal" adds only before the first step
PADDINGS = ("valid", "same", "causal")


def padding_of(padding: Any, causal: bool = True) -> str:
    """Check the argument `padding`."""
    result: str = one_of("padding", padding, PADDINGS if causal else PADDINGS[:2])
    return result


def pads_of(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], padding: str
) -> list[tuple[int, int]]:
    """Return the numbers of elements to add (before, after) on each axis; of an odd number more go after."""
    pads = []
    for size, length, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (length - 1) * dilation + 1
        total = max((-(-size // stride) - 1) * stride + reach - size, 0) if padding == "same" else 0
        pads.append((reach - 1, 0) if padding == "causal" else (total // 2, total - total // 2))
    return pads


def padded(x: Array, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Array:
    """Return x (B, ..., C) with its middle axes extended by `value`; x itself if nothing is added."""
    if not any(before or after for before, after in pads):
        return x
    return np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=x.dtype.type(value))


def windows_of(x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """Return a view of x (B, ..., C) with the window at each output position: (B, *outputs, C, *kernel).

    Raises
    ------
    ValueError
        x is smaller than a window.
    """
    axes = range(1, 1 + len(kernel))
    reach = [(length - 1) * dilation + 1 for length, dilation in zip(kernel, dilations, strict=True)]
    if any(x.shape[axis] < size for axis, size in zip(axes, reach, strict=True)):
        raise ValueError(f"x: expected at least {_text(reach)} steps, padding included, got {_text(x.shape[1:-1])}")
    view = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(axes))
    steps = [slice(None, None, stride) for stride in strides]
    return view[(slice(None), *steps, slice(None), *(slice(None, None, dilation) for dilation in dilations))]


def scattered(dwindows: Array, shape: Sequence[int], stride: int, dilation: int) -> Array:
    """Return the sums (B, T, C) of the gradients of windows (B, outputs, C, K) at the elements that they read."""
    dx = np.zeros(shape, dwindows.dtype)
    outputs = dwindows.shape[1]
    for k in range(dwindows.shape[3]):
        dx[:, k * dilation : k * dilation + stride * (outputs - 1) + 1 : stride] += dwindows[..., k]
    return dx


def _text(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
