"""Lowerings of quantization, and of products of integers, which are exact: float32 holds integers up to 2**24."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...plans.operations import Flat, Operation, Weight
from ...plans.values import NotLowered
from ..operators.quantized import EXACT, along, channel_zero, output_dtype, shifted
from .products import linear
from .registry import lowering
from .windows import Kernel, convolution

if TYPE_CHECKING:
    from ....typing import Array
    from ...plans.builder import Builder
    from ...plans.values import Value


@lowering("DynamicQuantizeLinear")
def _dynamic_quantize_linear(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x = builder.dense(builder.floats(inputs[0]))
    y, scale, zero = builder.empty_like(x, x.shape), builder.empty(()), builder.empty(())
    builder.emit(Flat("quantize", [y, x, scale, zero], numbers=(x.size,)))
    return [builder.value(y, np.uint8), builder.value(scale), builder.value(zero, np.uint8)]


@lowering("QuantizeLinear")
def _quantize_linear(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x, (scale, zero) = builder.floats(inputs[0]), _constants(builder, inputs, 2)
    dtype = output_dtype(node, np.dtype(np.uint8) if zero is None else zero.dtype)
    if scale.dtype != np.float32 or any(not _is_narrow(given) for given in (dtype, zero) if given is not None):
        raise NotLowered
    start = np.zeros((), np.float32) if zero is None else along(node, x, "y_zero_point", zero.astype(np.float32))
    y, limits = builder.empty_like(x, x.shape), np.iinfo(dtype)
    operands = [np.broadcast_to(array, x.shape) for array in (np.array(along(node, x, "y_scale", scale)), start)]
    builder.emit(Operation("round", [y, x, *operands], "", float(limits.min), float(limits.max)))
    return [builder.value(y, dtype)]


@lowering("DequantizeLinear")
def _dequantize_linear(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x, (scale, zero) = builder.integers(inputs[0]), _constants(builder, inputs, 2)
    if scale.dtype != np.float32 or output_dtype(node, scale.dtype) != np.float32:
        raise NotLowered
    factor = np.array(along(node, x, "x_scale", scale))
    if zero is not None:
        if not _is_narrow(zero):
            raise NotLowered
        x = builder.binary("subtract", x, along(node, x, "x_zero_point", zero.astype(np.float32)))
    return [builder.value(builder.binary("multiply", x, factor))]


def _is_narrow(given: Any) -> bool:
    """Return whether a dtype, or that of an array, is of integers of at most 16 bits."""
    dtype = np.dtype(getattr(given, "dtype", given))
    return dtype.kind in "iu" and dtype.itemsize <= 2


@lowering("MatMulInteger")
def _matmul_integer(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    a, (b, b_zero) = _shifted(builder, inputs), _constants(builder, inputs, 3)
    if a.ndim < 2 or b.ndim != 2 or b.size == 0 or a.shape[-1] != b.shape[0]:
        raise NotLowered
    matrix = shifted(b, b_zero, np.dtype(np.float32))
    _check_sums(matrix.T)
    sources = [b] if b_zero is None else [b, b_zero]
    weight = Weight(sources, [b.shape[0]], b.shape[1], lambda: [matrix], "integers", exact=True)
    return [builder.value(linear(builder, a, weight), np.int32)]


@lowering("ConvInteger")
def _conv_integer(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x, (w, w_zero) = _shifted(builder, inputs), _constants(builder, inputs, 3)
    kernel = shifted(w, channel_zero(w, w_zero), np.dtype(np.float32))
    _check_sums(kernel)
    sources = [w] if w_zero is None else [w, w_zero]
    return [builder.value(convolution(builder, node, x, Kernel(kernel, sources, exact=True)), np.int32)]


def _shifted(builder: Builder, inputs: list[Value | None]) -> Array:
    """Return the first input, of 8 bits, minus its zero point, the third."""
    x, given = builder.integers(inputs[0]), inputs[2] if len(inputs) > 2 else None
    dtype, zero = None if inputs[0] is None else inputs[0].integers, None
    if dtype is None or dtype.itemsize > 1:
        raise NotLowered
    if given is not None:
        zero = given.array.astype(np.float32) if given.kind == "known" else builder.integers(given)
        if (given.array.dtype if given.kind == "known" else given.integers) != dtype or zero.size != 1:
            raise NotLowered
    return x if zero is None else builder.binary("subtract", x, zero.reshape(()))


def _constants(builder: Builder, inputs: list[Value | None], place: int) -> tuple[Array, Array | None]:
    """Return the second input, and a zero point, None if it is omitted; NotLowered if they are no constants."""
    zero = inputs[place] if len(inputs) > place else None
    return builder.known(inputs[1]), None if zero is None else builder.known(zero)


def _check_sums(weights: Array) -> None:
    """Raise NotLowered unless float32 holds all sums, in any order, of 8 bits minus a zero point times each row."""
    rows = weights.reshape(len(weights), -1).astype(np.float64)
    largest = max(np.max(np.sum(np.maximum(sign * rows, 0), axis=1), initial=0) for sign in (1, -1))
    if 255 * largest >= EXACT:
        raise NotLowered
