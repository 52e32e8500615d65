"""Make the traces of a layer and of a model: `LSTM.trace` and `Sequential.trace`."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import int_within
from ..layers.base import Steps, run_layers
from .gates import GateTrace
from .gradients import GradientTrace, gradient_of
from .layout import parts_of, steps_and_rows, to_layout, valid_steps
from .predictions import Predictions, predictions_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..layers.base import Layer
    from ..layers.recurrent import Recurrent
    from ..layers.sequential import Sequential
    from ..typing import Array, ArrayLike, StateLike


class Source(NamedTuple):
    """What a trace was made from: the call, and which layer and direction of the model were recorded.

    Attributes
    ----------
    model : Layer
        A copy that shares the parameters of the time of the call.
    x : ndarray
    states : list of (h0, c0) or None
        One entry for each pair that the model takes.
    steps : Steps
        The arguments lengths, mask, reset and threads.
    layer, direction : int
        The layer counts the layers of all LSTMs of the model, in order.
    """

    model: Layer
    x: Array
    states: list[Any]
    steps: Steps
    layer: int
    direction: int

    def gradient(self, of: Any, target: ArrayLike | None, trace: GateTrace) -> GradientTrace:
        """Implement `GateTrace.gradient`."""
        return gradient_of(*self, of, target, trace)

    def trace(self, x: ArrayLike) -> GateTrace:
        """Trace the same layer and direction on another input, from the model's initial state."""
        made: GateTrace = self.model.trace(x, layer=self.layer, direction=self.direction)
        return made

    def predictions(self, row: int, T: int, labels: Sequence[object] | None, target: ArrayLike | None) -> Predictions:
        """Implement `GateTrace.predictions`."""
        return predictions_of(*self[:4], row, T, labels, target)


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
    _, _, batch, saved, (_, initial) = lstm.run_traced(x, state, (lengths, mask, reset), threads, [index])
    parts = parts_of(saved[index])
    backwards = lstm.reverse or direction == 1
    positions = steps_and_rows(batch, backwards)
    arrays = {name: batch.unbatched(to_layout(batch, positions, array, np.nan)) for name, array in parts.items()}
    valid = valid_steps(batch, positions)
    resets = np.zeros_like(valid)
    if reset is not None:
        resets[:] = np.reshape(reset, batch.shape(1))
        if lengths is not None:  # resets after a row's end are not read; those on masked steps are
            resets &= valid
    made = GateTrace(
        **arrays,
        initial_cell=initial[index] if batch.has_batch_axis else initial[index, 0],
        valid=batch.unbatched(valid)[..., 0],
        reset=batch.unbatched(resets)[..., 0],
        batch_first=lstm.batch_first,
        reverse=backwards,
        zoneout=lstm.zoneout[1],
    )
    return _with_source(made, lstm, x, [state], Steps(lengths, mask, reset, threads), layer, direction)


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
    layer = int_within("layer", layer, -len(layers), len(layers) - 1) % len(layers)
    last, number = layers[layer]
    before, traced = model.parts[:last], model.parts[last]
    given = Steps(lengths, mask, reset, threads)
    between, finals, steps = run_layers(before, x, pairs, given)
    state = traced.states_of(pairs[len(finals) : len(finals) + traced.num_states])
    made: GateTrace = traced.trace(between, state, layer=number, direction=direction, **steps._asdict())
    return _with_source(made, model, x, pairs, given, layer, direction)


def _with_source(
    made: GateTrace, model: Layer, x: ArrayLike, pairs: list[Any], steps: Steps, layer: int, direction: int
) -> GateTrace:
    """Return the trace, which now knows what it was made from; arrays are copied, because the caller may change them.

    A trace that a part of the model made is that of the whole model then.
    """
    lengths, mask, reset = (None if value is None else np.array(value) for value in steps[:3])
    states = [None if pair is None else tuple(np.array(part) for part in pair) for pair in pairs]
    source = Source(copy(model), np.array(x), states, Steps(lengths, mask, reset, steps.threads), layer, int(direction))
    vars(made)["_source"] = source
    return made
