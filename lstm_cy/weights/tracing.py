"""The LSTMs that a graph runs, in order: what `Graph.trace` selects from."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ..checks import int_within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..trace.gates import GateTrace

    #: a function of (layer, direction) that traces an LSTM, or a model of LSTMs, on the input of its call
    _Tracer = Callable[[int, int], GateTrace]

# most calls that are kept for a negative number, which counts from the last one
_MOST_KEPT = 1 << 16

_runs: ContextVar[Runs | None] = ContextVar("runs", default=None)


class Runs:
    """The calls of LSTMs in one run of a graph, in order; those that cannot be the selected one are forgotten.

    Parameters
    ----------
    layer : int
        The number of the layer to select; a negative one counts from the last.
    """

    def __init__(self, layer: object) -> None:
        self._layer = int_within("layer", layer, -_MOST_KEPT, (1 << 31) - 1)
        self._kept: deque[tuple[_Tracer, int]] = deque(maxlen=max(-self._layer, 1))
        self.count = 0

    def add(self, layers: int, tracer: _Tracer) -> None:
        """Add a call of so many layers."""
        for number in range(layers):
            if self._layer < 0 or self._layer == self.count:
                self._kept.append((tracer, number))
            self.count += 1

    def trace(self, direction: int) -> GateTrace:
        """Return the trace of the selected layer."""
        int_within("layer", self._layer, -self.count, self.count - 1)
        tracer, number = self._kept[0]
        return tracer(number, direction)


@contextmanager
def traced(layer: object) -> Iterator[Runs]:
    """Record the LSTMs that graphs run meanwhile in this thread."""
    runs = Runs(layer)
    token = _runs.set(runs)
    try:
        yield runs
    finally:
        _runs.reset(token)


def is_traced() -> bool:
    """Return whether the LSTMs that are run are recorded."""
    return _runs.get() is not None


def note_run(layers: int, tracer: _Tracer) -> None:
    """Record a call of so many layers, if they are recorded."""
    runs = _runs.get()
    if runs is not None:
        runs.add(layers, tracer)
