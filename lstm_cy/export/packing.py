"""Weights in the order in which the exported C reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..typing import Array

#: arrays are filled up to a multiple of this
UNIT = 8
#: the outputs of a panel
PANEL = 32
#: the factors of an int8 product that share a scale, as in the kernels
SEGMENT = 4096


def padded(size: int) -> int:
    """Return a size rounded up to whole units."""
    return -(-size // UNIT) * UNIT


def filled(array: Array, size: int) -> Array:
    """Return an array with zeros behind its last row, or number, up to `size` of them."""
    result = np.zeros((size, *array.shape[1:]), array.dtype)
    result[: len(array)] = array
    return result


def gates(array: Array, units: int) -> Array:
    """Return four gates' rows, or three peepholes', each filled up to whole units."""
    parts = array.reshape(-1, units, *array.shape[1:])
    return np.concatenate([filled(part, padded(units)) for part in parts])


def linear(bias: Array | None, *weights: Array) -> Array:
    """Return an affine map of some inputs: panels of outputs, the biases first, then each input's weights."""
    outputs = len(weights[0])
    first = np.zeros(outputs, np.float32) if bias is None else bias
    rows = filled(np.hstack([first[:, None], *weights]), padded(outputs))
    return np.concatenate([rows[n : n + PANEL].T.ravel() for n in range(0, len(rows), PANEL)])


def plain_cell(units: int, bias: Array | None, ih: Array, hh: Array) -> Array:
    """Return the panels of a plain LSTM layer: those of an affine map whose outputs are i, f, g, o of eight units."""
    first = np.zeros(4 * units, np.float32) if bias is None else bias
    rows = gates(np.hstack([first[:, None], ih, hh]), units)
    by_panel = rows.reshape(4, -1, UNIT, rows.shape[1]).swapaxes(0, 1)
    return np.concatenate([panel.reshape(PANEL, -1).T.ravel() for panel in by_panel])


def int8(weight: Array) -> Array:
    """Return an int8 matrix (columns, inputs): panels of columns, of each the weights of four inputs at a time."""
    columns, inputs = weight.shape
    fours = filled(weight.T, -(-inputs // 4) * 4).reshape(-1, 4, columns)
    return np.concatenate([fours[..., n : n + PANEL].swapaxes(1, 2).ravel() for n in range(0, columns, PANEL)])
