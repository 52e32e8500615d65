"""Making a plan: the steps of a graph become operations of programs, or calls from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._kernels.program import Program
from .operations import Operation, Packs, Product, elements
from .plan import Call, Place, Plan, Segment
from .values import Buffer, Buffers, NotLowered, Value, lay_out

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

    Attributes
    ----------
    label : str
        The step that is planned now.
    """

    def __init__(self, packs: Packs) -> None:
        self.packs = packs
        self.plan = Plan()
        self._buffers = Buffers()
        self._operations: list[Operation] = []
        self._made: list[Buffer] = []  # of the program that is being made
        self._imports: dict[int, Array] = {}  # held arrays that it copies into a buffer, by slot
        self._scopes: list[dict[str, Value]] = []
        self._dying: set[str] = set()
        self.label = ""

    # Steps

    def build(self, graph: Any, steps: Sequence[tuple[Any, set[str]]], names: list[str], given: dict[str, Array]) -> Plan:
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
        self._finish_program(results)
        self._scopes.pop()
        self.plan.outputs = [self._place(value) for value in results]
        return self.plan

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
            for name in unused & values.keys():
                del values[name]
        return [known[name] if name in known else values[name] for name in names]

    def _step(self, step: Any, inputs: list[Value | None]) -> list[Value]:
        if all(value is None or value.kind == "known" for value in inputs) and hasattr(step, "lower"):
            results = step.run([value and value.array for value in inputs])
            largest = max((value.array.nbytes for value in inputs if value), default=0)
            if all(array.nbytes <= max(LARGEST_KNOWN, largest) for array in results):
                return [Value(array, "known") for array in results]
        lower = getattr(step, "lower", None)
        if lower is not None:
            done, made, imports = len(self._operations), len(self._made), dict(self._imports)
            try:
                found: list[Value] = lower(self, inputs)
            except NotLowered:
                del self._operations[done:], self._made[made:]
                self._imports = imports
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
        results = []
        for array in self.plan.first_call(call):
            results.append(Value(_like(array), "held", call.slots[len(results)], stable))
        return results

    def _place(self, value: Value) -> Place:
        if value.kind == "known":
            return Place("known", value.array)
        if value.kind == "held":
            return Place("held", value.slot)
        buffer = self._buffer(value.array)
        offset = buffer.offset + value.array.ctypes.data - buffer.address
        return Place("planned", (buffer.chunk, offset, value.array.shape, value.array.strides))

    def _finish_program(self, used: list[Value]) -> None:
        """Make a program of the operations so far; the values in use, and those of the scopes, stay."""
        if not self._operations and not self._imports:
            return
        live = [*used, *(value for scope in self._scopes for value in scope.values())]
        kept = {id(self._buffers.of(value.array)) for value in live if value.kind == "planned"}
        count = len(self._operations)
        for index, operation in enumerate(self._operations):
            for array in operation.arrays:
                buffer = self._buffers.of(array)
                if buffer is not None and buffer.chunk < 0:
                    buffer.first = index if buffer.first < 0 else buffer.first
                    buffer.last = index
        for array in self._imports.values():
            self._buffer(array).first = 0
            self._buffer(array).last = max(self._buffer(array).last, 0)
        made = [buffer for buffer in self._made if buffer.first >= 0]
        for buffer in made:
            buffer.writer = None
            if id(buffer) in kept:
                buffer.last = count
        size = lay_out(made)
        chunk = self.plan.add_memory(size)
        for buffer in made:
            buffer.chunk = chunk
        program = Program(
            self.packs.kernels, [operation.encoded(self._buffers, self.packs) for operation in self._operations]
        )
        imports = [(slot, self._place(Value(array, "planned"))) for slot, array in self._imports.items()]
        labels = [(operation.kind, operation.steps, operation.arrays[0].shape) for operation in self._operations]
        self.plan.first_segment(Segment(program, imports, labels))
        self._operations, self._made, self._imports = [], [], {}

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
        if value.kind == "known" and not (value.array.flags.aligned and value.array.dtype.isnative):
            raise NotLowered
        if value.kind != "held":
            return value.array
        if value.slot not in self._imports:
            self._imports[value.slot] = self.empty(value.array.shape)
        return self._imports[value.slot]

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

    def value(self, array: Array) -> Value:
        """Return the value of an array of a buffer."""
        return Value(array, "planned" if self._buffers.of(array) is not None else "known")

    def emit(self, operation: Operation) -> None:
        """Add an operation."""
        operation.check()
        for array in operation.arrays:
            buffer = self._buffers.of(array)
            if buffer is not None:
                buffer.writer = None
        if isinstance(operation, Product):
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

    def unary(self, function: str, x: Array, alpha: float = 0.0, beta: float = 0.0) -> Array:
        """Return function(x): with the product that makes x, in its place if no other value uses it, or in a new one."""
        writer = self.writer_of(x)
        if writer is not None and writer.function == "linear":
            writer.function, writer.alpha, writer.beta = function, alpha, beta
            writer.steps.append(self.label)
            return x
        y = x if self.is_free(x) else self.empty_like(x, x.shape)
        source = x
        if not _is_dense(x):
            y = self.empty_like(x, x.shape)
            self.copy(y, x)
            source = y
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

    def writer_of(self, x: Array) -> Product | None:
        """Return the product that makes x if no operation and no other value uses x yet."""
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
        return all(self._buffers.of(array) is not buffer for array in self._imports.values())

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

