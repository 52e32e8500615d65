"""Operators on quantized numbers: integers that stand for (integer - zero point) * scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..proto import ARRAY_DTYPES
from .arguments import axis_of, widened
from .arithmetic import product
from .registry import operator
from .windows import convolve

if TYPE_CHECKING:
    from ....typing import Array
    from ..node import Node

#: below it float32 computes sums of whole numbers without rounding
EXACT = 1 << 24


@operator("DynamicQuantizeLinear")
def _dynamic_quantize_linear(node: Node, x: Array) -> tuple[Array, Array, Array]:
    return quantize_dynamically(x)


def quantize_dynamically(x: Array) -> tuple[Array, Array, Array]:
    """Return x as uint8, the scale and the zero point, from the least and the largest number, and 0."""
    low, high = (np.float32(function(x, initial=0)) for function in (np.min, np.max))
    scale = np.float32((high - low) / np.float32(255))
    if scale == 0:
        scale = np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, 255).astype(np.uint8)
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8), np.asarray(scale), np.asarray(zero)


@operator("QuantizeLinear")
def _quantize_linear(node: Node, x: Array, scale: Array, zero: Array | None = None) -> Array:
    dtype = output_dtype(node, np.dtype(np.uint8) if zero is None else zero.dtype)
    if dtype.kind not in "iu":
        raise ValueError(f"y_zero_point: expected integers, got {dtype}")
    wide = widened(x)
    node.room(x.shape, wide.dtype, x)
    y = np.rint(wide / along(node, x, "y_scale", widened(scale)))
    if zero is not None:
        y = y + along(node, x, "y_zero_point", zero)
    limits = np.iinfo(dtype)
    return np.clip(y, limits.min, limits.max).astype(dtype)


@operator("DequantizeLinear")
def _dequantize_linear(node: Node, x: Array, scale: Array, zero: Array | None = None) -> Array:
    if x.dtype.kind not in "iu" or scale.dtype.kind != "f":
        raise ValueError(f"expected integers with a scale of floats, got {x.dtype} and {scale.dtype}")
    dtype = output_dtype(node, scale.dtype)
    node.room(x.shape, np.dtype(np.int64), x)
    numbers = x.astype(np.int64)
    if zero is not None:
        numbers = numbers - along(node, x, "x_zero_point", zero.astype(np.int64))
    wide = widened(scale)
    return (numbers.astype(wide.dtype) * along(node, x, "x_scale", wide)).astype(dtype, copy=False)


def output_dtype(node: Node, default: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of the result of QuantizeLinear or DequantizeLinear."""
    if "output_dtype" in node.attributes and node.get("output_dtype"):
        return ARRAY_DTYPES[node.get("output_dtype")]
    return default


def along(node: Node, x: Array, name: str, values: Array) -> Array:
    """Return a scale or zero point in a shape that broadcasts to x: for all of it, along an axis, or for blocks."""
    if values.size == 1 and values.ndim <= 1:
        return values.reshape(())
    axis = axis_of(node.get("axis", 1), x.ndim)
    block = node.get("block_size", 0)
    if block:
        shape = list(x.shape)
        shape[axis] = -(-x.shape[axis] // block)
        if block < 0 or values.shape != tuple(shape):
            raise ValueError(f"{name}: shape {values.shape} does not fit blocks of {block} of shape {x.shape}")
        return np.repeat(values, min(block, x.shape[axis]), axis).take(range(x.shape[axis]), axis)
    if values.shape != (x.shape[axis],):
        raise ValueError(f"{name}: expected shape ({x.shape[axis]},), got {values.shape}")
    return values.reshape(-1, *[1] * (x.ndim - axis - 1))


@operator("MatMulInteger")
def _matmul_integer(node: Node, a: Array, b: Array, a_zero: Array | None = None, b_zero: Array | None = None) -> Array:
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError("expected arrays of one or more axes")
    columns = b.shape[-1:] if b.ndim > 1 else ()
    node.room(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) + a.shape[-2:-1] + columns, np.dtype(np.int64))
    dtype = exact_dtype(a.shape[-1])
    rows = None if a_zero is None else a_zero[..., np.newaxis] if a_zero.ndim == 1 and a_zero.size > 1 else a_zero
    return product(shifted(a, rows, dtype), shifted(b, b_zero, dtype)).astype(np.int64).astype(np.int32)


@operator("ConvInteger")
def _conv_integer(node: Node, x: Array, w: Array, x_zero: Array | None = None, w_zero: Array | None = None) -> Array:
    dtype = exact_dtype(math.prod(w.shape[1:]))
    kernel = shifted(w, channel_zero(w, w_zero), dtype)
    y = convolve(node, shifted(x, x_zero, dtype), kernel)  # the padding stands for 0
    return y.astype(np.int64).astype(np.int32)


def channel_zero(w: Array, zero: Array | None) -> Array | None:
    """Return the zero point of a kernel in a shape that broadcasts to it: one number, or one of each output channel."""
    return zero.reshape(-1, *[1] * (w.ndim - 1)) if zero is not None and zero.ndim == 1 else zero


def exact_dtype(count: int) -> np.dtype[Any]:
    """Return a dtype that computes sums of `count` products of 8-bit numbers without rounding."""
    return np.dtype(np.float32 if count * 255 * 255 < EXACT else np.float64)


def shifted(x: Array, zero: Array | None, dtype: np.dtype[Any]) -> Array:
    """Return integers of 8 bits minus their zero point."""
    if x.dtype.itemsize > 1 or x.dtype.kind not in "iu":
        raise ValueError(f"expected integers of 8 bits, got {x.dtype}")
    y = x.astype(dtype)
    if zero is not None:
        if np.broadcast_shapes(zero.shape, x.shape) != x.shape and zero.size > 1:
            raise ValueError(f"a zero point of shape {zero.shape} does not fit an array of shape {x.shape}")
        y = y - (zero.reshape(()) if zero.size == 1 else zero).astype(dtype)
    return y
