"""Plans, which several threads may run at the same time, and the records of how long their parts take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ... import config
from ..._kernels.program import Bound, Program
from ..ownership import owner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...typing import Array

#: working memory that is kept for later runs of a plan: at most so many bytes, and for so many threads
KEPT_BYTES, KEPT_INSTANCES = 1 << 26, 8


class Place(NamedTuple):
    """Where a value is.

    Attributes
    ----------
    kind : {"known", "held", "planned"}
    where : ndarray, int or tuple
        The array itself, the number of a held one, or memory, offset in bytes, shape and strides in bytes.
    """

    kind: str
    where: Any


class Segment:
    """A part of a plan that one program computes.

    Parameters
    ----------
    program : Program
    imports : list of (int, Place)
        Held arrays, by slot, that are copied to the working memory first.
    operations : list of (kind, steps, shape)
        What `Graph.plan` says of each operation.
    """

    def __init__(
        self, program: Program, imports: list[tuple[int, Place]], operations: list[tuple[str, list[str], tuple[int, ...]]]
    ) -> None:
        self.program, self.imports, self.operations = program, imports, operations

    def bind(self, memories: list[Array]) -> BoundSegment:
        """Return what runs this part in these memories."""
        return BoundSegment(self, memories)


class BoundSegment:
    """A segment with working memory."""

    def __init__(self, segment: Segment, memories: list[Array]) -> None:
        self._bound, self._last = Bound(segment.program, memories), len(segment.program)
        self._imports = [(slot, _view(place, memories)) for slot, place in segment.imports]

    def run(self, held: list[Any], threads: int) -> None:
        """Compute the part from the held arrays."""
        for slot, view in self._imports:
            view[...] = held[slot]
        self._bound.run(0, self._last, threads)

    def timed(self, held: list[Any], threads: int) -> list[float]:
        """Compute the part; return the seconds of each operation."""
        seconds = []
        for slot, view in self._imports:
            view[...] = held[slot]
        for index in range(self._last):
            start = time.perf_counter()
            self._bound.run(index, index + 1, threads)
            seconds.append(time.perf_counter() - start)
        return seconds


class Call:
    """A step that is run from Python.

    Parameters
    ----------
    step : Step
    inputs : list of Place or None
    label : str

    Attributes
    ----------
    slots : list of int
        Where its results are held.
    """

    def __init__(self, step: Any, inputs: list[Place | None], label: str) -> None:
        self.step, self.inputs, self.label = step, inputs, label
        self.slots: list[int] = []

    def bind(self, memories: list[Array]) -> BoundCall:
        """Return what runs the step with these memories."""
        return BoundCall(self, memories)


class BoundCall:
    """A call with working memory."""

    def __init__(self, call: Call, memories: list[Array]) -> None:
        self._call, self._owners = call, {id(memory) for memory in memories}
        self._inputs = [
            (place.where, None) if place is not None and place.kind == "held" else (-1, _array(place, memories))
            for place in call.inputs
        ]

    def run(self, held: list[Any], threads: int) -> None:
        """Run the step, and hold its results; those in the working memory are copied."""
        inputs = [held[slot] if slot >= 0 else array for slot, array in self._inputs]
        for slot, result in zip(self._call.slots, self._call.step.run(inputs), strict=False):
            held[slot] = result.copy() if id(owner(result)) in self._owners else result

    def timed(self, held: list[Any], threads: int) -> list[float]:
        """Run the step; return its seconds."""
        start = time.perf_counter()
        self.run(held, threads)
        return [time.perf_counter() - start]


class Instance:
    """A plan with working memory, for one thread at a time."""

    def __init__(self, plan: Plan) -> None:
        self.memories = [_memory(size) for size in plan.sizes]
        self.parts = [part.bind(self.memories) for part in plan.parts]
        self.outputs = [_array(place, self.memories) for place in plan.outputs]


class Plan:
    """What a graph computes for inputs of some shapes.

    Attributes
    ----------
    parts : list of Segment or Call
    sizes : list of int
        The bytes of each working memory.
    outputs : list of Place
    """

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.sizes: list[int] = []
        self.outputs: list[Place] = []
        self._slots = 0
        self._calls = False
        self._instances: list[Instance] = []
        self._first_held: list[Any] = []  # of the run while the plan is made
        self._first_memories: list[Array] = []

    @property
    def bytes(self) -> int:
        """The bytes of working memory."""
        return sum(self.sizes)

    # While it is made

    def add_slot(self, array: Any) -> int:
        """Hold an array; return its number."""
        self._first_held.append(array)
        self._slots += 1
        return self._slots - 1

    def add_memory(self, size: int) -> int:
        """Add a memory; return its number."""
        self.sizes.append(size)
        self._first_memories.append(_memory(size))
        return len(self.sizes) - 1

    def first_segment(self, segment: Segment) -> None:
        """Add a segment, and run it."""
        self.parts.append(segment)
        segment.bind(self._first_memories).run(self._first_held, config.get_num_threads())

    def first_call(self, call: Call) -> list[Array]:
        """Add a call, and run it; return its results."""
        self.parts.append(call)
        self._calls = True
        call.slots = [self.add_slot(None) for _ in call.step.outputs]
        call.bind(self._first_memories).run(self._first_held, 1)
        return [self._first_held[slot] for slot in call.slots if self._first_held[slot] is not None]

    def first_results(self) -> list[Array]:
        """Return the outputs of the run while it was made, and forget what that run needed."""
        results = self._results([_array(place, self._first_memories) for place in self.outputs], self._first_held)
        self._first_held, self._first_memories = [], []
        return results

    # Afterwards

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Compute the outputs, new arrays, from the inputs in order."""
        try:
            instance = self._instances.pop()
        except IndexError:
            instance = Instance(self)
        held = [*arrays, *[None] * (self._slots - len(arrays))]
        threads = config.get_num_threads()
        if self._calls:
            with np.errstate(all="ignore"):  # infinity and NaN are valid results
                for part in instance.parts:
                    part.run(held, threads)
        else:
            for part in instance.parts:
                part.run(held, threads)
        results = self._results(instance.outputs, held)
        self._keep(instance)
        return results

    def timed(self, arrays: Sequence[Array]) -> list[list[float]]:
        """Run it; return the seconds of each operation of each part."""
        instance = Instance(self)
        held = [*arrays, *[None] * (self._slots - len(arrays))]
        with np.errstate(all="ignore"):
            return [part.timed(held, config.get_num_threads()) for part in instance.parts]

    def _keep(self, instance: Instance) -> None:
        if len(self._instances) < KEPT_INSTANCES and self.bytes * (len(self._instances) + 1) <= KEPT_BYTES:
            self._instances.append(instance)

    def _results(self, outputs: list[Any], held: list[Any]) -> list[Array]:
        results = []
        for place, array in zip(self.outputs, outputs, strict=True):
            if place.kind == "held":
                array = held[place.where]
            results.append(array.copy())
        return results


def _memory(size: int) -> Array:
    """Return bytes that begin on a cache line."""
    whole = np.empty(size + 64, np.uint8)
    start = -whole.ctypes.data % 64
    return whole[start : start + size]


def _array(place: Place | None, memories: list[Array]) -> Any:
    """Return the array of a place; None for a held one, which is another in each run."""
    if place is None or place.kind == "held":
        return None
    return place.where if place.kind == "known" else _view(place, memories)


def _view(place: Place, memories: list[Array]) -> Array:
    memory, offset, shape, strides = place.where
    return np.ndarray(shape, np.float32, memories[memory], offset, strides)
