"""Make the traces of a layer and of a model: `LSTM.trace` and `Sequential.trace`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..checks import int_within
from ..layers.base import Steps, run_layers
from .gates import GateTrace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..layers.batch import Batch
    from ..layers.recurrent import Recurrent
    from ..layers.sequential import Sequential
    from ..typing import Array, ArrayLike, Ints, StateLike


def trace(
    lstm: Recurrent,
    x: ArrayLike,
    state: StateLike | None,
    lengths: ArrayLike | None,
    layer: int,
    direction: int,
    mask: ArrayLike | None,
    reset: ArrayLike | None,
    threads: int | None,
) -> GateTrace:
    """Implement `LSTM.trace`."""
    layer = int_within("layer", layer, -lstm.num_layers, lstm.num_layers - 1) % lstm.num_layers
    direction = int_within("direction", direction, 0, lstm.num_directions - 1)
    index = layer * lstm.num_directions + direction
    batch, saved, initial = lstm.run_traced(x, state, (lengths, mask, reset), threads, index)
    _, _, _, gates, _, _, _, h, cell = saved
    backwards = lstm.reverse or direction == 1
    positions = _step_and_row(batch, backwards)
    parts = zip(("input", "forget", "candidate", "output"), np.split(gates, 4, axis=1), strict=True)
    fields = {**dict(parts), "cell": cell, "hidden": h}
    arrays = {name: batch.unbatched(_to_layout(batch, positions, array, np.nan)) for name, array in fields.items()}
    valid = _to_layout(batch, positions, np.ones((batch.rows, 1), bool), False)
    resets = np.zeros_like(valid)
    if reset is not None:
        resets[:] = np.reshape(reset, batch.shape(1))
        if lengths is not None:  # resets after a row's end are not read; those on masked steps are
            resets &= valid
    return GateTrace(
        **arrays,
        initial_cell=initial if batch.has_batch_axis else initial[0],
        valid=batch.unbatched(valid)[..., 0],
        reset=batch.unbatched(resets)[..., 0],
        batch_first=lstm.batch_first,
        reverse=backwards,
        zoneout=lstm.zoneout[1],
    )


def trace_model(
    model: Sequential,
    x: ArrayLike,
    states: Sequence[StateLike | None] | None,
    lengths: ArrayLike | None,
    layer: int,
    direction: int,
    mask: ArrayLike | None,
    reset: ArrayLike | None,
    threads: int | None,
) -> GateTrace:
    """Implement `Sequential.trace`."""
    pairs = model.pairs_of("states", states)
    model.check_mask(lengths, mask)
    layers = [(index, number) for index, part in enumerate(model.parts) for number in range(part.num_traced)]
    if not layers:
        raise ValueError("trace: expected a model with an LSTM in it, got none")
    last, number = layers[int_within("layer", layer, -len(layers), len(layers) - 1)]
    before, traced = model.parts[:last], model.parts[last]
    x, finals, steps = run_layers(before, x, pairs, Steps(lengths, mask, reset, threads))
    state = traced.states_of(pairs[len(finals) : len(finals) + traced.num_states])
    result: GateTrace = traced.trace(x, state, layer=number, direction=direction, **steps._asdict())
    return result


def _step_and_row(batch: Batch, backwards: bool) -> tuple[Ints, Ints]:
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


def _to_layout(batch: Batch, positions: tuple[Ints, Ints], array: Array, fill: float) -> Array:
    """Return a tape's array in the layout of x, with `fill` where the tape has no row."""
    steps, rows = positions
    whole = np.full(batch.shape(array.shape[1]), fill, array.dtype)
    whole[(rows, steps) if batch.batch_first else (steps, rows)] = array
    return whole
