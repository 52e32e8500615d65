"""Plans, which several threads may run at the same time, and the records of how long their parts take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ... import config
from ..._kernels.program import Bound, Program
from ..ownership import owned_bytes, owner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...typing import Array

#: working memory that is kept for later runs of a plan: at most so many bytes, and for so many threads
KEPT_BYTES, KEPT_INSTANCES = 1 << 26, 8


class Place(NamedTuple):
    """Where a value is.

    Attributes
    ----------
    kind : {"known", "held", "part", "planned", "new", "integers"}
    where : ndarray, int or tuple
        The array itself; the number of a held array; that of one it is a part of, offset in bytes, shape and strides;
        memory, offset, shape and strides; the number of a held array that is a new one in each run; the dtype of
        integers that are computed as float32, and as for "planned".
    """

    kind: str
    where: Any


class Segment:
    """A part of a plan that one program computes.

    Parameters
    ----------
    program : Program
    imports : list of (int, int)
        Held arrays, by slot, that are memories of the program, by number.
    new : list of (int, int, tuple of int)
        Slot, number and shape of the new arrays that it computes.
    operations : list of (kind, steps, shape)
        What `Graph.plan` says of each operation.

    Attributes
    ----------
    drops : list of int
        The held arrays that no later part needs.
    """

    def __init__(
        self,
        program: Program,
        imports: list[tuple[int, int]],
        new: list[tuple[int, int, tuple[int, ...]]],
        operations: list[tuple[str, list[str], tuple[int, ...]]],
    ) -> None:
        self.program, self.imports, self.new, self.operations = program, imports, new, operations
        self.drops: list[int] = []

    def bind(self, memories: list[Any]) -> BoundSegment:
        """Return what runs this part in these memories."""
        return BoundSegment(self, memories)


class BoundSegment:
    """A segment with working memory."""

    def __init__(self, segment: Segment, memories: list[Any]) -> None:
        self._segment = segment
        self._bound, self._last = Bound(segment.program, memories), len(segment.program)

    def run(self, held: list[Any], threads: int) -> None:
        """Compute the part from the held arrays."""
        self._point(held)
        self._bound.run(0, self._last, threads)
        for slot in self._segment.drops:
            held[slot] = None

    def timed(self, held: list[Any], threads: int) -> list[float]:
        """Compute the part; return the seconds of each operation."""
        seconds = []
        self._point(held)
        for index in range(self._last):
            start = time.perf_counter()
            self._bound.run(index, index + 1, threads)
            seconds.append(time.perf_counter() - start)
        return seconds

    def _point(self, held: list[Any]) -> None:
        for slot, memory in self._segment.imports:
            array = held[slot]
            if not array.flags.c_contiguous:
                array = held[slot] = np.ascontiguousarray(array)
            self._bound.point(memory, array)
        for slot, memory, shape in self._segment.new:
            held[slot] = np.empty(shape, np.float32)
            self._bound.point(memory, held[slot])


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
    drops : list of int
        The held arrays that no later part needs.
    """

    def __init__(self, step: Any, inputs: list[Place | None], label: str) -> None:
        self.step, self.inputs, self.label = step, inputs, label
        self.slots: list[int] = []
        self.drops: list[int] = []

    def bind(self, memories: list[Any]) -> BoundCall:
        """Return what runs the step with these memories."""
        return BoundCall(self, memories)


class BoundCall:
    """A call with working memory."""

    def __init__(self, call: Call, memories: list[Any]) -> None:
        self._call, self._owners = call, {id(memory.base) for memory in memories if memory is not None}
        self._inputs = [(place, _fixed(place, memories)) for place in call.inputs]

    def run(self, held: list[Any], threads: int) -> None:
        """Run the step, and hold its results; those in the working memory are copied."""
        inputs = [array_of(place, fixed, held) for place, fixed in self._inputs]
        for slot, result in zip(self._call.slots, self._call.step.run(inputs), strict=False):
            held[slot] = result.copy() if id(owner(result)) in self._owners else result
        for slot in self._call.drops:
            held[slot] = None

    def timed(self, held: list[Any], threads: int) -> list[float]:
        """Run the step; return its seconds."""
        start = time.perf_counter()
        self.run(held, threads)
        return [time.perf_counter() - start]


class Instance:
    """A plan with working memory, for one thread at a time."""

    def __init__(self, plan: Plan) -> None:
        self.memories = [None if size is None else _memory(size) for size in plan.sizes]
        self.parts = [part.bind(self.memories) for part in plan.parts]
        self.outputs = [(place, _fixed(place, self.memories)) for place in plan.outputs]


class Plan:
    """What a graph computes for inputs of some shapes.

    Attributes
    ----------
    parts : list of Segment or Call
    sizes : list of int or None
        The bytes of each working memory; None for that of a held array.
    outputs : list of Place
    peak : int
        The bytes that a run takes, with the arrays that are held.
    """

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.sizes: list[int | None] = []
        self.outputs: list[Place] = []
        self.peak = 0
        self._slots = 0
        self._calls = False
        self._instances: list[Instance] = []
        self._first_held: list[Any] = []  # of the run while the plan is made
        self._first_memories: list[Any] = []

    @property
    def bytes(self) -> int:
        """The bytes of working memory."""
        return sum(size for size in self.sizes if size is not None)

    # While it is made

    def add_slot(self, array: Any) -> int:
        """Hold an array; return its number."""
        self._first_held.append(array)
        self._slots += 1
        return self._slots - 1

    def add_memory(self, size: int | None) -> int:
        """Add a memory, None for that of a held array; return its number."""
        self.sizes.append(size)
        self._first_memories.append(None if size is None else _memory(size))
        return len(self.sizes) - 1

    def drop(self, slot: int) -> None:
        """Let no part after the last one use a held array."""
        self._first_held[slot] = None
        if self.parts:
            self.parts[-1].drops.append(slot)

    def held_bytes(self) -> int:
        """Return the bytes of the arrays that are held now."""
        return owned_bytes(array for array in self._first_held if array is not None)

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

    def first_results(self, given: Sequence[Array]) -> list[Array]:
        """Return the outputs of the run while it was made, and forget what that run needed."""
        outputs = [(place, _fixed(place, self._first_memories)) for place in self.outputs]
        results = self._results(outputs, self._first_held, given)
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
        results = self._results(instance.outputs, held, arrays)
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

    def _results(self, outputs: list[tuple[Place, Any]], held: list[Any], given: Sequence[Array]) -> list[Array]:
        results, returned = [], set(map(id, given))
        for place, fixed in outputs:
            array = array_of(place, fixed, held)
            if place.kind == "new" or (place.kind == "held" and _is_own(array, returned)):
                returned.add(id(array))
            else:
                array = array.copy()
            results.append(array)
        return results


def _is_own(array: Array, returned: set[int]) -> bool:
    """Return whether no other object uses an array."""
    return id(array) not in returned and bool(array.flags.owndata and array.flags.writeable)


def _memory(size: int) -> Array:
    """Return bytes that begin on a cache line."""
    whole = np.empty(size + 64, np.uint8)
    start = -whole.ctypes.data % 64
    return whole[start : start + size]


def _fixed(place: Place | None, memories: list[Any]) -> Any:
    """Return the array of a place if it is the same in every run, else None."""
    if place is None or place.kind in ("held", "part", "new"):
        return None
    if place.kind == "known":
        return place.where
    memory, offset, shape, strides = place.where[-4:]
    return np.ndarray(shape, np.float32, memories[memory], offset, strides)


def array_of(place: Place | None, fixed: Any, held: list[Any]) -> Any:
    """Return the array of a place in a run."""
    if place is not None and place.kind == "integers":
        return fixed.astype(place.where[0])
    if place is None or fixed is not None:
        return fixed
    if place.kind != "part":
        return held[place.where]
    slot, offset, shape, strides = place.where
    return np.ndarray(shape, np.float32, np.ascontiguousarray(held[slot]), offset, strides)
