"""Layers of Keras as functions of arrays: those that have no counterpart among the layers of this library.

Each takes lists of inputs and of their masks, None for an absent one, and returns a list of outputs.
"""

from __future__ import annotations

import operator
from functools import reduce
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ...layers.activation import Activation
from ...layers.base import Steps, run_layers
from ...layers.sequential import Sequential
from ...layers.windows import padded, pads_of, windows_of
from ..tracing import note_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...layers.base import Layer
    from ...trace.gates import GateTrace
    from ...typing import Array

#: largest score that a masked step keeps, as in Keras
_MASKED = 1e9


def chain(inputs: list[Array], masks: list[Array | None], layers: Sequence[Layer]) -> list[Array]:
    """Run layers of this library one after the other, from states of zeros."""
    return _applied(layers, inputs[0], masks[0])


def recurrent(
    inputs: list[Array], masks: list[Array | None], layers: Sequence[Layer], return_state: bool
) -> list[Array]:
    """Run an LSTM and its Readout from the states that follow the first input, (h, c) for each direction."""
    lstm, *rest = layers
    x, *given = inputs
    state = (np.stack(given[::2]), np.stack(given[1::2])) if given else None
    mask = masks[0]
    note_run(lstm.num_traced, lambda layer, direction: lstm.trace(x, state, None, layer, direction, mask=mask))
    y, states = lstm(x, state, mask=mask)
    outputs = _applied(rest, y, masks[0])
    if return_state:
        outputs += [part[direction] for direction in range(len(states[0])) for part in states]
    return outputs


def _applied(layers: Sequence[Layer], x: Array, mask: Array | None) -> list[Array]:
    states: list[Any] = [None] * sum(layer.num_states for layer in layers)
    _note(layers, x, mask)
    y, _, _ = run_layers(layers, x, states, Steps(mask=mask))
    return list(y) if isinstance(y, tuple) else [y]


def _note(layers: Sequence[Layer], x: Array, mask: Array | None) -> None:
    """Record the LSTMs among layers that run one after the other."""

    def trace(layer: int, direction: int) -> GateTrace:
        return Sequential(*layers).trace(x, mask=mask, layer=layer, direction=direction)

    count = sum(layer.num_traced for layer in layers)
    if count:
        note_run(count, trace)


def model(inputs: list[Array], masks: list[Array | None], model: Callable[..., Any], states: bool) -> list[Array]:
    """Run a model, whose call returns states too if `states`."""
    if states:
        _note(getattr(model, "parts", ()), inputs[0], None)
    y = model(*inputs)
    y = y[0] if states else y
    return list(y) if isinstance(y, tuple) else [y]


def time_distributed(
    inputs: list[Array], masks: list[Array | None], step: Callable[[list[Array], list[Array | None]], list[Array]]
) -> list[Array]:
    """Apply a function to each step of (B, T, ...)."""
    rows = [x.reshape(-1, *x.shape[2:]) for x in inputs]
    B, T = inputs[0].shape[:2]
    return [y.reshape(B, T, *y.shape[1:]) for y in step(rows, [None] * len(rows))]


def conv(
    inputs: list[Array],
    masks: list[Array | None],
    kernel: Array,
    bias: Array | None,
    strides: Sequence[int],
    dilations: Sequence[int],
    padding: str,
    groups: int,
    channels_first: bool,
    after: Sequence[Layer],
) -> list[Array]:
    """Convolve over any number of axes with a kernel (*sizes, inputs / groups, outputs)."""
    x = _channels_last(inputs[0], channels_first)
    sizes = kernel.shape[:-2]
    if x.ndim != len(sizes) + 2 or x.shape[-1] != kernel.shape[-2] * groups:
        raise ValueError(f"expected {len(sizes) + 2} axes with {kernel.shape[-2] * groups} channels, got {x.shape}")
    x = padded(x, pads_of(x.shape[1:-1], sizes, strides, dilations, padding))
    windows = windows_of(x, sizes, strides, dilations)
    y: Any = 0.0 if bias is None else bias
    for place in product(*map(range, sizes)):  # one product for each element of the kernel takes little memory
        part: Any = windows[(..., *place)]  # type: ignore[arg-type]
        if groups == 1:
            y = y + part @ kernel[place]
        else:
            part = part.reshape(*part.shape[:-1], groups, -1)
            weight = kernel[place].reshape(part.shape[-1], groups, -1)
            y = y + np.einsum("...gi,igo->...go", part, weight).reshape(*part.shape[:-2], -1)
    for layer in after:
        y = layer(y)
    return [_channels_first(y, channels_first)]


def separable(
    inputs: list[Array], masks: list[Array | None], depthwise: dict[str, Any], pointwise: dict[str, Any]
) -> list[Array]:
    """Convolve each channel by itself, and then mix them."""
    return conv(conv(inputs, masks, **depthwise), masks, **pointwise)


def pool(
    inputs: list[Array],
    masks: list[Array | None],
    kind: str,
    sizes: Sequence[int],
    strides: Sequence[int],
    padding: str,
    channels_first: bool,
) -> list[Array]:
    """Return maxima or means of windows over any number of axes."""
    x = _channels_last(inputs[0], channels_first)
    if x.ndim != len(sizes) + 2:
        raise ValueError(f"expected {len(sizes) + 2} axes, got shape {x.shape}")
    ones = [1] * len(sizes)
    pads = pads_of(x.shape[1:-1], sizes, strides, ones, padding)
    axes = tuple(range(-len(sizes), 0))
    if kind == "max":
        y = windows_of(padded(x, pads, -np.inf), sizes, strides, ones).max(axis=axes)
    else:
        inside = padded(np.ones((1, *x.shape[1:-1], 1), x.dtype), pads)
        counts = windows_of(inside, sizes, strides, ones).sum(axis=axes)
        y = windows_of(padded(x, pads), sizes, strides, ones).sum(axis=axes) / counts
    return [_channels_first(y, channels_first)]


def global_pool(
    inputs: list[Array], masks: list[Array | None], kind: str, rank: int, keepdims: bool, channels_first: bool
) -> list[Array]:
    """Return maxima or means over all axes but those of rows and channels; masked steps do not count in means."""
    x, mask = inputs[0], masks[0]
    if x.ndim != rank:
        raise ValueError(f"expected {rank} axes, got shape {x.shape}")
    axes = tuple(range(2, rank) if channels_first else range(1, rank - 1))
    if mask is None or kind == "max":
        return [x.max(axis=axes, keepdims=keepdims) if kind == "max" else x.mean(axis=axes, keepdims=keepdims)]
    valid = np.expand_dims(mask, 1 if channels_first else 2)
    total = np.where(valid, x, 0).sum(axis=axes, keepdims=keepdims)
    return [total / np.maximum(valid.sum(axis=axes, keepdims=keepdims), 1).astype(x.dtype)]


def normalize(
    inputs: list[Array],
    masks: list[Array | None],
    axes: Sequence[int],
    eps: float,
    scale: Array,
    shift: Array,
    mean: Array | None = None,
    variance: Array | None = None,
) -> list[Array]:
    """Normalise over `axes` (of a LayerNormalization), or along the one axis of stored statistics."""
    x = inputs[0]
    if any(not -x.ndim <= axis < x.ndim for axis in axes):
        raise ValueError(f"expected the axes {list(axes)}, got shape {x.shape}")
    places = sorted(axis % x.ndim for axis in axes)
    shape = [size if axis in places else 1 for axis, size in enumerate(x.shape)]
    if np.prod(shape) != scale.size:
        raise ValueError(f"expected {scale.size} elements on the axes {list(axes)}, got shape {x.shape}")
    if mean is None or variance is None:
        centred = x - x.mean(axis=tuple(places), keepdims=True)
        normal = centred / np.sqrt(np.square(centred).mean(axis=tuple(places), keepdims=True) + x.dtype.type(eps))
    else:
        factor = 1 / np.sqrt(variance + variance.dtype.type(eps))
        normal = (x - mean.reshape(shape)) * factor.reshape(shape)
    return [normal * scale.reshape(shape) + shift.reshape(shape)]


def flatten(inputs: list[Array], masks: list[Array | None], channels_first: bool) -> list[Array]:
    """Return each row as one vector, its channels last."""
    x = _channels_last(inputs[0], channels_first and inputs[0].ndim > 1)
    return [x.reshape(len(x), int(np.prod(x.shape[1:])))]


def reshape(inputs: list[Array], masks: list[Array | None], shape: Sequence[int]) -> list[Array]:
    """Reshape each row."""
    return [inputs[0].reshape(len(inputs[0]), *shape)]


def permute(inputs: list[Array], masks: list[Array | None], axes: Sequence[int]) -> list[Array]:
    """Permute the axes after that of the rows, which are numbered from 1."""
    return [inputs[0].transpose(0, *axes)]


def pad(
    inputs: list[Array], masks: list[Array | None], pads: Sequence[tuple[int, int]], channels_first: bool
) -> list[Array]:
    """Add zeros around the axes between rows and channels."""
    x = _channels_last(inputs[0], channels_first)
    _check_axes(x, len(pads))
    return [_channels_first(padded(x, pads), channels_first)]


def crop(
    inputs: list[Array], masks: list[Array | None], pads: Sequence[tuple[int, int]], channels_first: bool
) -> list[Array]:
    """Remove elements at both ends of the axes between rows and channels."""
    x = _channels_last(inputs[0], channels_first)
    _check_axes(x, len(pads))
    kept = [slice(before, size - after) for (before, after), size in zip(pads, x.shape[1:-1], strict=True)]
    if any(part.start >= part.stop for part in kept):
        raise ValueError(f"expected more than is cropped, {list(pads)}, got shape {x.shape}")
    return [_channels_first(x[(slice(None), *kept)], channels_first)]


def upsample(inputs: list[Array], masks: list[Array | None], sizes: Sequence[int], channels_first: bool) -> list[Array]:
    """Repeat each element of the axes between rows and channels."""
    x = _channels_last(inputs[0], channels_first)
    _check_axes(x, len(sizes))
    for axis, size in enumerate(sizes, 1):
        x = np.repeat(x, size, axis)
    return [_channels_first(x, channels_first)]


def _check_axes(x: Array, count: int) -> None:
    if x.ndim != count + 2:
        raise ValueError(f"expected {count + 2} axes, got shape {x.shape}")


def _channels_last(x: Array, channels_first: bool) -> Array:
    return np.moveaxis(x, 1, -1) if channels_first else x


def _channels_first(x: Array, channels_first: bool) -> Array:
    return np.moveaxis(x, -1, 1) if channels_first else x


_MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Average": operator.add,
    "Subtract": operator.sub,
    "Multiply": operator.mul,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
}


def merge(inputs: list[Array], masks: list[Array | None], kind: str) -> list[Array]:
    """Join arrays element by element; one with fewer axes gets further ones after that of the rows."""
    rank = max(x.ndim for x in inputs)
    inputs = [x.reshape(*x.shape[:1], *[1] * (rank - x.ndim), *x.shape[1:]) for x in inputs]
    y = reduce(_MERGES[kind], inputs)
    return [y / y.dtype.type(len(inputs)) if kind == "Average" else y]


def merge_unmasked(inputs: list[Array], masks: list[Array | None], kind: str) -> list[Array]:
    """Join arrays element by element, without their masked steps; steps that are masked in all of them are zero in a
    product, and those of the last array in a maximum or minimum.
    """
    rank = max(x.ndim for x in inputs)
    # Keras adds axes to an array with fewer of them, which then has no mask
    wide = [None if mask is None or x.ndim < rank else _wide(mask, x) for x, mask in zip(inputs, masks, strict=True)]
    inputs = [x.reshape(*x.shape[:1], *[1] * (rank - x.ndim), *x.shape[1:]) for x in inputs]
    if kind == "Multiply":
        y = reduce(operator.mul, (x if m is None else np.where(m, x, 1) for x, m in zip(inputs, wide, strict=True)))
        given = [mask for mask in wide if mask is not None]
        zeroed = len(given) == len(wide)
        return [(np.where(reduce(np.logical_or, given), y, 0) if zeroed else y).astype(inputs[0].dtype, copy=False)]
    y, valid = inputs[0], wide[0]
    for x, mask in zip(inputs[1:], wide[1:], strict=True):
        other = x if mask is None else np.where(mask, x, y)
        y = _MERGES[kind](y if valid is None else np.where(valid, y, other), other)
        valid = None if mask is None or valid is None else valid | mask
    return [y]


def _wide(mask: Array, x: Array) -> Array:
    """Return a mask with an axis for the features of x."""
    if mask.ndim != x.ndim - 1:
        raise ValueError(f"expected a mask for an array of shape {x.shape}, got one of shape {mask.shape}")
    return np.broadcast_to(mask[..., np.newaxis], x.shape)


def softmax(inputs: list[Array], masks: list[Array | None], axis: int) -> list[Array]:
    """Return the softmax along an axis, without the elements that the mask excludes."""
    x, mask = inputs[0], masks[0]
    if mask is not None:
        if mask.ndim > x.ndim or np.broadcast_shapes(mask.shape, x.shape) != x.shape:
            raise ValueError(f"expected a mask that broadcasts to shape {x.shape}, got shape {mask.shape}")
        x = np.where(mask, x, -x.dtype.type(_MASKED))
    x = np.exp(x - x.max(axis=axis, keepdims=True))
    return [x / x.sum(axis=axis, keepdims=True)]


def concatenate(inputs: list[Array], masks: list[Array | None], axis: int) -> list[Array]:
    """Concatenate arrays."""
    return [np.concatenate(inputs, axis=axis)]


def dot(inputs: list[Array], masks: list[Array | None], axes: tuple[int, int], normalize: bool) -> list[Array]:
    """Return the products of the rows of two arrays, summed over one axis of each; (B, 1) for two vectors."""
    a, b = inputs
    if any(not -x.ndim <= axis < x.ndim or axis % x.ndim == 0 for x, axis in zip(inputs, axes, strict=True)):
        raise ValueError(f"expected axes {axes} after that of the rows, got shapes {a.shape} and {b.shape}")
    a, b = (np.moveaxis(x, axis, -1) for x, axis in zip(inputs, axes, strict=True))
    if normalize:
        a, b = (x / np.sqrt(np.maximum(np.square(x).sum(axis=-1, keepdims=True), 1e-12)) for x in (a, b))
    rows = a.reshape(len(a), -1, a.shape[-1]) @ b.reshape(len(b), -1, b.shape[-1]).swapaxes(1, 2)
    return [rows.reshape(len(a), *(a.shape[1:-1] + b.shape[1:-1] or (1,)))]


def attention(
    inputs: list[Array],
    masks: list[Array | None],
    score: str,
    scale: Array | None,
    weight: Array | None,
    causal: bool,
) -> list[Array]:
    """Return means of the values, weighted by the scores of query and key: inputs query, value and perhaps key."""
    query, value, key = (*inputs, inputs[1])[:3]
    if score == "dot":
        scores = query @ key.swapaxes(1, 2)
        scores = scores if scale is None else scores * scale
    else:
        sums = query[:, :, None] + key[:, None]  # (B, steps of query, steps of key, features)
        if score == "concat":
            scores = np.tanh(sums if scale is None else sums * scale).sum(axis=-1)
            scores = scores if weight is None else scores * weight
        else:
            scores = (np.tanh(sums) if scale is None else np.tanh(sums) * scale).sum(axis=-1)
    allowed = None if masks[1] is None else masks[1][:, None]
    if causal:
        lower = np.tril(np.ones(scores.shape[1:], bool))[None]
        allowed = lower if allowed is None else lower & allowed
    if allowed is not None:
        scores = np.where(allowed, scores, scores - scores.dtype.type(_MASKED))
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    y = scores / scores.sum(axis=-1, keepdims=True) @ value
    return [y if masks[0] is None else np.where(masks[0][..., None], y, 0).astype(y.dtype)]


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "NotEqual": np.not_equal,
    "Equal": np.equal,
    "LogicalOr": np.logical_or,
    "LogicalAnd": np.logical_and,
    "LogicalNot": np.logical_not,
    "Any": np.any,
    "All": np.all,
    "ExpandDims": np.expand_dims,
    "ZerosLike": np.zeros_like,
    "OnesLike": np.ones_like,
    "Concatenate": lambda *arrays, axis: np.concatenate(arrays, axis=axis),
    "Add": operator.add,
    "Subtract": operator.sub,
    "Multiply": operator.mul,
    "TrueDivide": operator.truediv,
    "Divide": operator.truediv,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Power": np.power,
    "Matmul": np.matmul,
    "Greater": np.greater,
    "GreaterEqual": np.greater_equal,
    "Less": np.less,
    "LessEqual": np.less_equal,
    "Where": np.where,
    "Absolute": np.abs,
    "Negative": np.negative,
    "Exp": np.exp,
    "Log": np.log,
    "Sqrt": np.sqrt,
    "Square": np.square,
    "Tanh": np.tanh,
    "Sigmoid": lambda x: Activation("sigmoid")(x),
    "Relu": lambda x: np.maximum(x, x.dtype.type(0)),
    "Softmax": lambda x, axis: softmax([x], [None], axis)[0],
    "Max": np.max,
    "Min": np.min,
    "Mean": np.mean,
    "Sum": np.sum,
    "Squeeze": np.squeeze,
    "Stack": lambda *arrays, axis: np.stack(arrays, axis=axis),
    "Transpose": np.transpose,
    "Reshape": lambda x, newshape: x.reshape(newshape),
    "GetItem": lambda x, key: x[key],
    "Cast": lambda x, dtype: x.astype(dtype),
    "ConvertToTensor": lambda x, dtype=None: x if dtype is None else x.astype(dtype),
}
_REDUCED = ("axis", "keepdims")
#: the operations of Keras 3 that are read, with the options in their configuration
OPERATIONS = (
    dict.fromkeys(_OPERATIONS, ())
    | dict.fromkeys(("Any", "All", "Mean", "Sum"), _REDUCED)
    | dict.fromkeys(("Max", "Min"), (*_REDUCED, "initial"))
    | dict.fromkeys(("ExpandDims", "Concatenate", "Softmax", "Squeeze", "Stack"), ("axis",))
    | dict.fromkeys(("ZerosLike", "OnesLike", "Cast", "ConvertToTensor"), ("dtype",))
    | {"Transpose": ("axes",), "Reshape": ("newshape",)}
)


def operation(
    inputs: list[Array], masks: list[Array | None], kind: str, constants: Sequence[tuple[int, float]], **options: Any
) -> list[Array]:
    """Apply an operation to arrays and `constants`, pairs of positions and numbers."""
    arguments: list[Any] = list(inputs)
    for place, value in constants:
        first = inputs[0]
        arguments.insert(place, first.dtype.type(value) if first.dtype.kind == "f" else value)
    return [np.asarray(_OPERATIONS[kind](*arguments, **options))]
