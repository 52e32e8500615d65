"""Lowerings of products of integers, which are exact: float32 holds every whole number up to 2**24."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...plans.operations import Flat, Weight
from ...plans.values import NotLowered
from ..operators.quantized import EXACT, channel_zero, shifted
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


@lowering("MatMulInteger")
def _matmul_integer(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    a, (b, b_zero) = _shifted(builder, inputs), _constants(builder, inputs)
    if a.ndim < 2 or b.ndim != 2 or b.size == 0 or a.shape[-1] != b.shape[0]:
        raise NotLowered
    matrix = shifted(b, b_zero, np.dtype(np.float32))
    _check_sums(matrix.T)
    sources = [b] if b_zero is None else [b, b_zero]
    weight = Weight(sources, [b.shape[0]], b.shape[1], lambda: [matrix], "integers", exact=True)
    return [builder.value(linear(builder, a, weight), np.int32)]


@lowering("ConvInteger")
def _conv_integer(builder: Builder, node: Any, inputs: list[Value | None]) -> list[Value]:
    x, (w, w_zero) = _shifted(builder, inputs), _constants(builder, inputs)
    kernel = shifted(w, channel_zero(w, w_zero), np.dtype(np.float32))
    _check_sums(kernel)
    sources = [w] if w_zero is None else [w, w_zero]
    return [builder.value(convolution(builder, node, x, Kernel(kernel, sources, exact=True)), np.int32)]


def _shifted(builder: Builder, inputs: list[Value | None]) -> Array:
    """Return the first input, of uint8, minus its zero point, the third."""
    x, given = builder.integers(inputs[0]), inputs[2] if len(inputs) > 2 else None
    dtypes = [inputs[0].integers] if inputs[0] else []
    if given is None:
        zero = None
    elif given.kind == "known":
        zero = given.array.astype(np.float32)
        dtypes.append(given.array.dtype)
    else:
        zero = builder.integers(given)
        dtypes.append(given.integers)
    if any(dtype != np.uint8 for dtype in dtypes) or (zero is not None and zero.size != 1):
        raise NotLowered
    return x if zero is None else builder.binary("subtract", x, zero.reshape(()))


def _constants(builder: Builder, inputs: list[Value | None]) -> tuple[Array, Array | None]:
    """Return the second input and its zero point, the fourth."""
    zero = builder.known(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else None
    return builder.known(inputs[1]), zero


def _check_sums(weights: Array) -> None:
    """Raise NotLowered unless float32 holds all sums, in any order, of uint8 minus a zero point times each row."""
    rows = weights.reshape(len(weights), -1).astype(np.float64)
    largest = max(np.max(np.sum(np.maximum(sign * rows, 0), axis=1), initial=0) for sign in (1, -1))
    if 255 * largest >= EXACT:
        raise NotLowered
