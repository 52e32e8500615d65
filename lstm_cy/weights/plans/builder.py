"""Making a plan: the steps of a graph become operations of programs, or calls from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._kernels.program import Program
from .operations import Operation, Packs, Weighted, elements
from .plan import Call, Place, Plan, Segment
from .values import Buffer, Buffers, NotLowered, TooLarge, Value, lay_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...typing import Array

#: most bytes of an array that is computed when a plan is made, unless it is made of constants that are larger
LARGEST_KNOWN = 1 << 22
#: most bytes of an array in the working memory
LARGEST_ARRAY = 1 << 31


class Builder:
    """A plan that is being made, and run for the first time.

    Parameters
    ----------
    packs : Packs
        Of the graph.
    limit : int
        Most bytes of a run; TooLarge says that it takes more.

    Attributes
    ----------
    label : str
        The step that is planned now.
    """

    def __init__(self, packs: Packs, limit: int) -> None:
        self.packs, self._limit = packs, limit
        self.plan = Plan()
        self._buffers = Buffers()
        self._operations: list[Operation] = []
        self._made: list[Buffer] = []  # of the program that is being made
        self._parts: dict[int, Array] = {}  # arrays in the memory of held ones, by slot
        self._late: list[int] = []  # held arrays that are dropped after the program
        self._scopes: list[dict[str, Value]] = []
        self._dying: set[str] = set()
        self.label = ""

    # Steps

    def build(
        self, graph: Any, steps: Sequence[tuple[Any, set[str]]], names: list[str], given: dict[str, Array]
    ) -> Plan:
        """Make the plan of a graph for inputs as given, and run it; its results are in `plan.first`."""
        values = {}
        for name, array in given.items():
            slot = self.plan.add_slot(array)
            if array.ndim == 0 and array.dtype.kind in "iub":
                values[name] = Value(array, "known")
            else:
                values[name] = Value(_like(array), "held", slot)
        self._scopes.append(values)
        results = self._run(graph, steps, values, names)
        new = self._new_arrays(results)
        self._finish_program(results, new)
        self._scopes.pop()
        self.plan.outputs = [
            Place("new", self._buffer(value.array).slot)
            if id(self._buffers.of(value.array)) in new
            else self._place(value)
            for value in results
        ]
        return self.plan

    def _new_arrays(self, results: list[Value]) -> dict[int, tuple[int, ...]]:
        """Let results that are whole buffers of the last program be new arrays; return the buffers' shapes by id."""
        owners = [self._buffers.of(value.array) for value in results]
        new = {}
        for value, buffer in zip(results, owners, strict=True):
            if buffer is None or buffer.chunk >= 0 or owners.count(buffer) > 1 or value.kind != "planned":
                continue
            if value.integers is not None:
                continue
            if value.array.flags.c_contiguous and value.array.nbytes == buffer.bytes:
                buffer.slot, buffer.chunk = self.plan.add_slot(None), self.plan.add_memory(None)
                new[id(buffer)] = value.array.shape
        return new

    def inline(self, graph: Any, values: dict[str, Value]) -> list[Value]:
        """Plan a graph inside a step, with these values of its inputs and of the graphs around it."""
        self._scopes.append(values)
        label, dying = self.label, self._dying
        results = self._run(graph, graph.steps_for(None), values, [value.name for value in graph.outputs])
        self._scopes.pop()
        self.label, self._dying = label, dying
        return results

    def _run(
        self, graph: Any, steps: Sequence[tuple[Any, set[str]]], values: dict[str, Value], names: list[str]
    ) -> list[Value]:
        constants: Mapping[str, Array] = graph.constants
        self.packs.constants.update(map(id, constants.values()))
        known = {name: Value(array, "known") for name, array in constants.items()}
        for step, unused in steps:
            inputs = [known[name] if name in known else values.get(name) for name in step.inputs]
            self._dying, self.label = unused & values.keys(), str(step)
            results = self._step(step, inputs)
            values.update((name, value) for name, value in zip(step.outputs, results, strict=False) if name)
            self._drop([self._slot(values.pop(name)) for name in unused & values.keys()])
        return [known[name] if name in known else values[name] for name in names]

    def _step(self, step: Any, inputs: list[Value | None]) -> list[Value]:
        if all(value is None or value.kind == "known" for value in inputs) and hasattr(step, "lower"):
            results = step.run([value and value.array for value in inputs])
            largest = max((value.array.nbytes for value in inputs if value), default=0)
            if all(array.nbytes <= max(LARGEST_KNOWN, largest) for array in results):
                return [Value(array, "known") for array in results]
        lower = getattr(step, "lower", None)
        if lower is not None:
            done, made = len(self._operations), len(self._made)
            try:
                found: list[Value] = lower(self, inputs)
            except NotLowered:
                del self._operations[done:], self._made[made:]
            else:
                for operation in self._operations[done:]:
                    operation.steps.append(self.label)
                return found
        return self._call(step, inputs)

    def _call(self, step: Any, inputs: list[Value | None]) -> list[Value]:
        """Add a step that is run from Python."""
        self._finish_program([value for value in inputs if value is not None])
        places = [None if value is None else self._place(value) for value in inputs]
        call = Call(step, places, self.label)
        stable = all(value is None or value.stable for value in inputs)
        structural = getattr(step, "structural", None)
        if structural is None:
            stable = False
        else:
            stable = stable and all(
                index >= len(inputs) or inputs[index] is None or inputs[index].kind == "known" for index in structural
            )
        results: list[Value] = []
        for array in self.plan.first_call(call):
            results.append(Value(_like(array), "held", call.slots[len(results)], stable))
        self._check_size(0)
        return results

    def _drop(self, slots: list[int]) -> None:
        """Forget held arrays that no value is or is a part of; those of the program that is made, after it."""
        if not any(slot >= 0 for slot in slots):
            return
        used = {self._slot(value) for scope in self._scopes for value in scope.values()}
        pending = self._slots_in_use()
        for slot in slots:
            if slot in pending:
                self._late.append(slot)
            elif slot >= 0 and slot not in used:
                self.plan.drop(slot)

    def _slot(self, value: Value) -> int:
        """Return the slot of the held array that a value is, or is a part of, or -1."""
        buffer = self._buffers.of(value.array) if value.kind == "planned" else None
        return value.slot if buffer is None else buffer.slot

    def _slots_in_use(self) -> dict[int, int]:
        """Return the slots of the held arrays that the operations so far use, with the numbers of their memories."""
        buffers = [self._buffers.of(array) for operation in self._operations for array in operation.arrays]
        return {buffer.slot: buffer.chunk for buffer in buffers if buffer is not None and buffer.slot >= 0}

    def _place(self, value: Value) -> Place:
        if value.kind == "known":
            return Place("known", value.array)
        if value.kind == "held":
            return Place("held", value.slot)
        buffer = self._buffer(value.array)
        offset = buffer.offset + value.array.ctypes.data - buffer.address
        form = offset, value.array.shape, value.array.strides
        if value.integers is not None:
            return Place("integers", (value.integers, buffer.chunk, *form))
        return Place("planned", (buffer.chunk, *form)) if buffer.slot < 0 else Place("part", (buffer.slot, *form))

    def _finish_program(self, used: list[Value], new: Mapping[int, tuple[int, ...]] | None = None) -> None:
        """Make a program of the operations so far; the values in use, and those of the scopes, stay."""
        if self._operations:
            self._make_program(used, new or {})
        late, self._late = self._late, []
        self._operations, self._made = [], []
        self._drop(late)

    def _make_program(self, used: list[Value], new: Mapping[int, tuple[int, ...]]) -> None:
        live = [*used, *(value for scope in self._scopes for value in scope.values())]
        kept = {id(self._buffers.of(value.array)) for value in live if value.kind == "planned"}
        for index, operation in enumerate(self._operations):
            for array in operation.arrays:
                buffer = self._buffers.of(array)
                if buffer is not None and buffer.chunk < 0:
                    buffer.first = index if buffer.first < 0 else buffer.first
                    buffer.last = index
        made = [buffer for buffer in self._made if buffer.first >= 0]
        for buffer in made:
            if id(buffer) in kept:
                buffer.last = len(self._operations)
        size = lay_out(made)
        created = [(buffer.slot, buffer.chunk, new[id(buffer)]) for buffer in self._made if id(buffer) in new]
        self._check_size(size + sum(buffer.bytes for buffer in self._made if id(buffer) in new))
        chunk = self.plan.add_memory(size)
        for buffer in made:
            buffer.chunk, buffer.writer = chunk, None
        program = Program(
            self.packs.kernels, [operation.encoded(self._buffers, self.packs) for operation in self._operations]
        )
        own = {slot for slot, *_ in created}
        imports = [(slot, memory) for slot, memory in self._slots_in_use().items() if slot not in own]
        labels = [(operation.kind, operation.steps, operation.arrays[0].shape) for operation in self._operations]
        self.plan.first_segment(Segment(program, imports, created, labels))

    def _check_size(self, size: int) -> None:
        """Raise TooLarge if the run so far, with so many more bytes, takes more than allowed."""
        self.plan.peak = max(self.plan.peak, size + self.plan.bytes + self.plan.held_bytes())
        if self.plan.peak > self._limit:
            raise TooLarge

    # What lowerings use

    def known(self, value: Value | None) -> Array:
        """Return the array of a value that is known; raise NotLowered for others."""
        if value is None or value.kind != "known":
            raise NotLowered
        return value.array

    def shape(self, value: Value | None) -> tuple[int, ...]:
        """Return the shape of a value, the same in every run; raise NotLowered if it is not."""
        if value is None or not value.stable:
            raise NotLowered
        return value.array.shape

    def floats(self, value: Value | None) -> Array:
        """Return the array of a value for an operation: float32, not empty; raise NotLowered for others."""
        if value is None or not value.stable or value.array.dtype != np.float32 or value.array.size == 0:
            raise NotLowered
        if value.integers is not None:
            raise NotLowered
        if value.kind == "known" and not (value.array.flags.aligned and value.array.dtype.isnative):
            raise NotLowered
        if value.kind != "held":
            return value.array
        if value.slot not in self._parts:
            array = self._buffers.empty(value.array.shape)
            buffer = self._buffer(array)
            buffer.slot, buffer.chunk = value.slot, self.plan.add_memory(None)
            self._parts[value.slot] = array
        return self._parts[value.slot]

    def integers(self, value: Value | None) -> Array:
        """Return the array of integers that a plan computes, whole numbers in float32; NotLowered for others."""
        if value is None or value.integers is None:
            raise NotLowered
        return value.array

    def empty(self, shape: Sequence[int]) -> Array:
        """Return an array in a new buffer."""
        if 4 * int(np.prod(shape, dtype=float)) > LARGEST_ARRAY:
            raise NotLowered
        array = self._buffers.empty(tuple(shape))
        self._made.append(self._buffer(array))
        return array

    def empty_like(self, array: Array, shape: Sequence[int]) -> Array:
        """Return an array in a new buffer, with the axes in memory in the order that they have in `array`."""
        order = sorted(range(len(shape)), key=lambda axis: (-abs(array.strides[axis]), axis))
        made = self.empty([shape[axis] for axis in order])
        return made.transpose(np.argsort(order)) if order else made

    def value(self, array: Array, integers: Any = None) -> Value:
        """Return the value of an array of a buffer, which stands for integers of a dtype if one is given."""
        kind = "planned" if self._buffers.of(array) is not None else "known"
        return Value(array, kind, integers=None if integers is None else np.dtype(integers))

    def emit(self, operation: Operation) -> None:
        """Add an operation."""
        operation.check()
        for array in operation.arrays:
            buffer = self._buffers.of(array)
            if buffer is not None:
                buffer.writer = None
        if operation.weight is not None and not operation.weight.exact:
            self._buffer(operation.arrays[0]).writer = operation
        self._operations.append(operation)

    def is_planned(self, array: Array) -> bool:
        """Return whether an array is a part of a buffer."""
        return self._buffers.of(array) is not None

    def copy(self, y: Array, x: Array) -> None:
        """Copy x, which may be broadcast, to y."""
        self.emit(Operation("copy", [y, np.broadcast_to(x, y.shape)]))

    def contiguous(self, x: Array) -> Array:
        """Return an array with the same elements, contiguous, in the order of its axes."""
        if x.flags.c_contiguous:
            return x
        y = self.empty(x.shape)
        self.copy(y, x)
        return y

    def dense(self, x: Array) -> Array:
        """Return an array with the same elements that has no gaps in memory, in any order of the axes."""
        if _is_dense(x):
            return x
        y = self.empty_like(x, x.shape)
        self.copy(y, x)
        return y

    def unary(self, function: str, x: Array, alpha: float = 0.0, beta: float = 0.0) -> Array:
        """Return function(x): by the product that makes x, or in the place of x if no other value uses it, or new."""
        writer = self.writer_of(x)
        if writer is not None and writer.function == "linear":
            writer.function, writer.alpha, writer.beta = function, alpha, beta
            writer.steps.append(self.label)
            return x
        source = self.dense(x)
        y = source if source is not x or self.is_free(x) else self.empty_like(x, x.shape)
        self.emit(Operation("unary", [y, source], function, alpha, beta))
        return y

    def binary(self, function: str, a: Array, b: Array) -> Array:
        """Return function(a, b), whose shapes are broadcast."""
        shape = np.broadcast_shapes(a.shape, b.shape)
        a, b = (np.broadcast_to(array, shape) for array in (a, b))
        first = a if np.count_nonzero(a.strides) >= np.count_nonzero(b.strides) else b
        y = self.empty_like(first, shape)
        self.emit(Operation("binary", [y, a, b], function))
        return y

    def reduced(self, function: str, x: Array, shape: Sequence[int], scale: float) -> Array:
        """Return sums, which are multiplied by `scale`, or extreme values of x along the axes that are 1 in `shape`."""
        y = self.empty_like(x, shape)
        self.emit(Operation("reduce", [y, x], function, scale, numbers=(y.size,)))
        return y

    def writer_of(self, x: Array) -> Weighted | None:
        """Return the product or convolution that makes x if no operation and no other value uses x yet."""
        buffer = self._buffers.of(x)
        if buffer is None or buffer.writer is None or not self.is_free(x):
            return None
        return buffer.writer if buffer.writer in self._operations else None

    def is_free(self, x: Array) -> bool:
        """Return whether no value but those that the current step uses last is in the memory of x."""
        buffer = self._buffers.of(x)
        if buffer is None or buffer.chunk >= 0:
            return False
        for scope in self._scopes:
            dying = self._dying if scope is self._scopes[-1] else set()
            for name, value in scope.items():
                if name not in dying and value.kind == "planned" and self._buffers.of(value.array) is buffer:
                    return False
        return True

    def _buffer(self, array: Array) -> Buffer:
        buffer = self._buffers.of(array)
        if buffer is None:
            raise NotLowered
        return buffer


def _like(array: Array) -> Array:
    """Return an array of the same shape and dtype that takes no memory."""
    return np.broadcast_to(np.empty((), array.dtype), array.shape)


def _is_dense(array: Array) -> bool:
    """Return whether the elements of an array fill its memory without gaps, in any order of the axes."""
    size = 1
    for length, stride in sorted(zip(array.shape, elements(array), strict=True), key=lambda pair: pair[1]):
        if length == 1:
            continue
        if stride != size:
            return False
        size *= length
    return True
