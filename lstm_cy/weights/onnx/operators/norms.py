"""Normalizations: over a batch's statistics, or over parts of each array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..proto import DTYPES
from .arguments import axis_of, mean_of, widened
from .registry import operator

if TYPE_CHECKING:
    from ....typing import Array
    from ..node import Node


@operator("LayerNormalization")
def _layer_normalization(node: Node, x: Array, scale: Array, bias: Array | None = None) -> tuple[Array, ...]:
    axis = axis_of(node.get("axis", -1), x.ndim)
    axes = tuple(range(axis, x.ndim))
    for name, array in (("Scale", scale), ("B", bias)):
        if array is not None and np.broadcast_shapes(x.shape, array.shape) != x.shape:
            raise ValueError(f"{name}: shape {array.shape} does not fit an input of shape {x.shape}")
    wide, stash = _stash(node, x)
    normalized, mean, inverse = _normalized(node, wide, axes)
    y = normalized * scale
    y = y if bias is None else y + bias
    return (y.astype(x.dtype, copy=False), mean.astype(stash), inverse.astype(stash))[: len(node.outputs)]


@operator("RMSNormalization")
def _rms_normalization(node: Node, x: Array, scale: Array) -> Array:
    axis = axis_of(node.get("axis", -1), x.ndim)
    if np.broadcast_shapes(x.shape, scale.shape) != x.shape:
        raise ValueError(f"scale: shape {scale.shape} does not fit an input of shape {x.shape}")
    wide, _ = _stash(node, x)
    mean = mean_of(wide * wide, axis=tuple(range(axis, x.ndim)), keepdims=True)
    y = wide / np.sqrt(mean + wide.dtype.type(_epsilon(node))) * scale
    result: Array = y.astype(x.dtype, copy=False)
    return result


def _stash(node: Node, x: Array) -> tuple[Array, np.dtype[Any]]:
    """Return x in the type that the node computes in, and that type."""
    stash = DTYPES[node.get("stash_type", 1)]
    return x.astype(np.promote_types(x.dtype, stash), copy=False), stash


def _normalized(node: Node, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Return x with mean 0 and variance 1 over axes, the mean, and 1 / the standard deviation."""
    mean = mean_of(x, axis=axes, keepdims=True)
    centred = x - mean
    inverse = 1 / np.sqrt(mean_of(centred * centred, axis=axes, keepdims=True) + x.dtype.type(_epsilon(node)))
    return centred * inverse, mean, inverse


@operator("BatchNormalization")
def _batch_normalization(node: Node, x: Array, *statistics: Array) -> Array:
    channels = x.shape[1] if x.ndim > 1 else 1
    if any(array.shape != (channels,) for array in statistics):
        raise ValueError(f"expected statistics of shape ({channels},), got {[array.shape for array in statistics]}")
    shape = (-1,) + (1,) * (x.ndim - 2)
    scale, bias, mean, variance = (widened(array).reshape(shape) for array in statistics)
    y = (widened(x) - mean) / np.sqrt(variance + variance.dtype.type(_epsilon(node))) * scale + bias
    result: Array = y.astype(x.dtype, copy=False)
    return result


@operator("InstanceNormalization")
def _instance_normalization(node: Node, x: Array, scale: Array, bias: Array) -> Array:
    y, *_ = _normalized(node, widened(x), tuple(range(2, x.ndim)))
    return _scaled(x, y, scale, bias)


@operator("GroupNormalization")
def _group_normalization(node: Node, x: Array, scale: Array, bias: Array) -> Array:
    groups = node.get("num_groups")
    if x.ndim < 2 or groups < 1 or x.shape[1] % groups:
        raise ValueError(f"num_groups: {groups} does not fit an input of shape {x.shape}")
    wide, _ = _stash(node, x)
    parts = wide.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    y, *_ = _normalized(node, parts, tuple(range(2, parts.ndim)))
    if node.opset < 21:  # one number for each group
        scale, bias = (np.repeat(array, x.shape[1] // groups) for array in (scale, bias))
    return _scaled(x, y.reshape(x.shape), scale, bias)


def _scaled(x: Array, y: Array, scale: Array, bias: Array) -> Array:
    """Return y * scale + bias for each channel, with the dtype of x."""
    channels = x.shape[1:2]
    if scale.shape != channels or bias.shape != channels:
        raise ValueError(f"expected a scale and bias of shape {channels}, got {scale.shape} and {bias.shape}")
    shape = (-1,) + (1,) * (x.ndim - 2)
    return (y * scale.reshape(shape) + bias.reshape(shape)).astype(x.dtype, copy=False)


@operator("LpNormalization")
def _lp_normalization(node: Node, x: Array) -> Array:
    order, wide = node.get("p", 2), widened(x)
    axis = axis_of(node.get("axis", -1), x.ndim)
    size = np.abs(wide).sum(axis, keepdims=True) if order == 1 else np.sqrt((wide * wide).sum(axis, keepdims=True))
    return (wide / np.where(size == 0, 1, size)).astype(x.dtype, copy=False)


@operator("MeanVarianceNormalization")
def _mean_variance_normalization(node: Node, x: Array) -> Array:
    axes = tuple(axis_of(axis, x.ndim) for axis in node.get("axes", [0, 2, 3]))
    wide = widened(x)
    centred = wide - mean_of(wide, axis=axes, keepdims=True)
    deviation = np.sqrt(mean_of(centred * centred, axis=axes, keepdims=True))
    return np.asarray(centred / (deviation + wide.dtype.type(1e-9))).astype(x.dtype, copy=False)


def _epsilon(node: Node) -> float:
    result: float = node.get("epsilon", 1e-5)
    return result
