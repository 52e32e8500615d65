"""Narrow weights, bf16 and int8: conversion from float32 and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..typing import Array

KINDS = ("bf16", "int8")
#: suffix of the name of the scales, one for each row of an int8 weight
SCALE = "_scale"
#: prefixes of the names of the parameters that are stored narrow
NARROW = ("weight_ih", "weight_hh")


def to_bf16(name: str, weight: Array) -> Array:
    """Convert a float32 array to bf16, as uint16, rounded to nearest, ties to even.

    Raises
    ------
    ValueError
        `weight` holds NaN, infinity or a number too large for bf16.
    """
    bits = weight.view(np.uint32)
    narrow = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    if not (np.isfinite(weight).all() and np.isfinite(widened(narrow)).all()):
        raise ValueError(f"{name}: expected finite numbers below 3.39e38, got others")
    return narrow


def to_int8(name: str, weight: Array) -> tuple[Array, Array]:
    """Convert a float32 matrix to (int8 matrix, float32 scale of each row), symmetric: -127 to 127.

    Raises
    ------
    ValueError
        `weight` holds NaN or infinity.
    """
    if not np.isfinite(weight).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    rows = weight / np.where(scale > 0, scale, 1)[:, None]
    return np.clip(np.rint(rows), -127, 127).astype(np.int8), scale


def widened(narrow: Array, scale: Array | None = None) -> Array:
    """Convert bf16 numbers (uint16), or int8 numbers with a scale for each row, to float32."""
    if scale is None:
        return (narrow.astype(np.uint32) << 16).view(np.float32)
    return narrow * scale[:, None]
