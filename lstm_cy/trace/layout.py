"""The arrays of one direction of a layer, from the rows in which it computes them to the layout of x."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .._kernels.records import Saved
    from ..layers.batch import Batch
    from ..typing import Array, Bools, Ints

#: the arrays of a trace, in the order in which a step computes them
FIELDS = ("forget", "input", "candidate", "cell", "output", "hidden")


def parts_of(saved: Saved | None) -> dict[str, Array]:
    """Return {name: (rows, width)} of the gates, the cell and h in the arrays of one direction."""
    assert saved is not None
    parts = dict(zip(("input", "forget", "candidate", "output"), np.split(saved.gates, 4, axis=1), strict=True))
    return parts | {"cell": saved.cell, "hidden": saved.h}


def valid_steps(batch: Batch, positions: tuple[Ints, Ints]) -> Bools:
    """Return where a step was read, in the drivers' layout with one feature."""
    return to_layout(batch, positions, np.ones((batch.rows, 1), bool), False)


def steps_and_rows(batch: Batch, backwards: bool) -> tuple[Ints, Ints]:
    """Return the step and the batch row of each row of a tape, as index arrays (steps, rows)."""
    order, lengths, active, places, *_ = batch.order
    if order is None:
        order, lengths, active = np.arange(batch.B), np.full(batch.B, batch.T), np.full(batch.T, batch.B)
    steps = np.repeat(np.arange(batch.T), active)
    slots = np.arange(batch.rows) - np.repeat(np.cumsum(active) - active, active)
    rows = order[slots]
    if backwards:
        steps = lengths[slots] - 1 - steps
    return (steps if places is None else places[rows, steps]), rows


def to_layout(batch: Batch, positions: tuple[Ints, Ints], array: Array, fill: float) -> Array:
    """Return a tape's array in the layout of x, with `fill` where the tape has no row."""
    steps, rows = positions
    whole = np.full(batch.shape(array.shape[1]), fill, array.dtype)
    whole[(rows, steps) if batch.batch_first else (steps, rows)] = array
    return whole
