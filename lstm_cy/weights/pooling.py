"""GraphPool: streams of a Graph with states in and out, which step together."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from ..checks import expect_shape, float_array, int_array, positive_int, real_array, refuse_out, shown
from .stepping import GraphStepper

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from ..typing import Array, ArrayLike, Ints
    from .graph import Graph, Value

#: rows of one run: few sizes, because a plan is made for each
_SIZES = (64, 16, 4, 1)
_FIRST_SLOTS = 16
#: the largest difference of a row's results alone and among others, of the largest one
_TOLERANCE = 1e-4


class GraphPool:
    """Independent streams over one Graph, whose states go from an output of a step to an input of the next.

    `Graph.pool` makes it, and explains the arguments. It has the methods of a StreamPool, and an AsyncStreamPool takes
    it. Those streams that have input step together, 64, 16, 4 or 1 in one run, so that the graph is planned for these
    sizes only; one by one if the graph is made for one row.

    Only one thread at a time may use it: a second one that calls a method meanwhile gets a RuntimeError, and nothing is
    changed. Pickling copies the streams with their ids.

    Parameters
    ----------
    graph : Graph
    states, constants, input_shape :
        As for `Graph.pool`.

    Attributes
    ----------
    dtype : numpy.dtype
        Of x and of the result.
    inputs, outputs : int
        I and P, the numbers that a stream's step takes and gives.
    takes_tokens : bool
        False.
    """

    takes_tokens = False

    def __init__(
        self,
        graph: Graph,
        states: Mapping[str, str] | None = None,
        constants: Mapping[str, ArrayLike] | None = None,
        input_shape: Sequence[int] | None = None,
    ) -> None:
        stepper = GraphStepper(graph, states, constants)
        if len(stepper.inputs) != 1 or len(stepper.outputs) != 1:
            names = [[value.name for value in ends] for ends in (stepper.inputs, stepper.outputs)]
            raise ValueError(f"pool: expected one input and one output besides states, got {names[0]} and {names[1]}")
        (self._input,), (self._output,) = stepper.inputs, stepper.outputs
        if self._input.dtype.kind != "f":
            raise ValueError(f"{self._input.name}: expected an input of floats, got {self._input.dtype}")
        self._graph, self._constants, self._new = graph, dict(constants or {}), stepper.states
        self.dtype = self._input.dtype
        values = {value.name: value for value in graph.inputs}
        self._axes = _row_axes([values[name] for name in self._new], self._input)
        self._row_shape = _row_shape(self._input, self._axes.get(self._input.name), input_shape)
        self.inputs = math.prod(self._row_shape)
        rows = stepper.state
        self._empty = {name: self._without_rows(name, array) for name, array in rows.items()}
        self._lock = threading.Lock()
        self._slots: dict[int, int] = {}  # of each stream
        self._free: list[int] = []
        self._next = 0
        self._records = {name: np.zeros((_FIRST_SLOTS, *row.shape), row.dtype) for name, row in self._empty.items()}
        self.outputs = self._measured()

    def _measured(self) -> int:
        """Find the axis of rows of the output; return the numbers of a row. Raise if rows are not independent."""
        rng, name = np.random.default_rng(0), self._output.name
        x = rng.standard_normal((4, self.inputs)).astype(self.dtype)
        states = {key: rng.uniform(-0.5, 0.5, (4, *row.shape)).astype(row.dtype) for key, row in self._empty.items()}
        one = self._run_graph(x[:1], {key: array[:1] for key, array in states.items()})[name]
        if self._axes:
            shape = self._run_graph(x, states)[name].shape
            changed = [axis for axis, sizes in enumerate(zip(one.shape, shape, strict=True)) if sizes == (1, 4)]
            if len(changed) != 1 or math.prod(shape) != 4 * one.size:
                raise ValueError(f"{name}: expected one axis of rows, got shape {one.shape} for 1 and {shape} for 4")
            self._axes[name] = changed[0]
            alone, _ = self._computed(x[3:], {key: array[3:] for key, array in states.items()})
            together, _ = self._computed(x, states)
            if not np.allclose(together[3:], alone, _TOLERANCE, _TOLERANCE * np.nanmax(np.abs(alone)), equal_nan=True):
                raise ValueError(f"{name}: expected rows that do not depend on each other")
        return one.size

    # Streams

    def join(self, state: Mapping[str, ArrayLike] | None = None) -> int:
        """Begin a stream and return its id.

        Parameters
        ----------
        state : None or dict
            Its initial state, as the method `state` returns it; it is copied. None for zeros.

        Returns
        -------
        int
            The stream's id.
        """
        new = self._empty if state is None else self._checked(state)
        with self._exclusive():
            if not self._free:
                size = len(next(iter(self._records.values())))
                if len(self._slots) == size:
                    self._records = {n: np.concatenate([array, array]) for n, array in self._records.items()}
                self._free = [len(self._slots)]
            slot = self._free.pop()
            for name, record in self._records.items():
                record[slot] = new[name]
            self._slots[self._next] = slot
            self._next += 1
            return self._next - 1

    def leave(self, id: int) -> None:
        """End a stream.

        Parameters
        ----------
        id : int
            From `join`.

        Raises
        ------
        KeyError
            There is no such stream.
        """
        with self._exclusive():
            self._free.append(self._slots.pop(self._known(id)))

    def step(self, ids: ArrayLike, x: ArrayLike, out: Array | None = None, *, threads: int | None = None) -> Array:
        """Compute one step of some of the streams; the others do not change.

        Parameters
        ----------
        ids : array_like of int (n,)
            The streams, in any order, each at most once.
        x : array_like (n, I)
            Their inputs in the order of `ids`, each as one row, whatever shape the graph has for it.
        out : None or ndarray (n, P)
            Array for the result, of the dtype of the pool.
        threads : None or int
            Checked only; the graph uses the threads of `set_num_threads`.

        Returns
        -------
        ndarray (n, P)
            `out`, or a new array, in the order of `ids`.

        Raises
        ------
        KeyError
            There is no stream with one of these ids.
        TypeError, ValueError
            An id is given twice, or an argument has a wrong type or value.
        RuntimeError
            Another thread is using this pool.

        After any exception every stream's state is as before.
        """
        config.threads_of(threads)
        numbers = int_array("ids", ids)
        expect_shape("ids", numbers, (numbers.size,), "(n,)")
        rows = float_array("x", x, self.dtype)
        expect_shape("x", rows, (len(numbers), self.inputs), "(n, I)")
        shape = len(numbers), self.outputs
        if out is not None and not (
            isinstance(out, np.ndarray) and out.shape == shape and out.dtype == self.dtype and out.flags.writeable
        ):
            refuse_out(out, self.dtype, shape, "(n, P)")
        with self._exclusive():
            y = self._step(numbers, rows)
        if out is None:
            return y
        out[...] = y
        return out

    def _run(self, ids: Ints, counts: Ints, xs: list[Array], out: Array, threads: int | None = None) -> None:
        """Compute counts[k] steps of stream ids[k], counts descending; as `StreamPool._run`."""
        first, width = counts.cumsum() - counts, self.inputs
        with self._exclusive():
            for step in range(counts[0]):
                rows = int((counts > step).sum())
                x = np.stack([x[step * width : (step + 1) * width] for x in xs[:rows]])
                out[first[:rows] + step] = self._step(ids[:rows], x)

    def state(self, id: int) -> dict[str, Array]:
        """Return a copy of a stream's state.

        Parameters
        ----------
        id : int
            From `join`.

        Returns
        -------
        dict of str to ndarray
            The arrays of the graph's inputs that are states, without an axis of rows.

        Raises
        ------
        KeyError
            There is no such stream.
        """
        with self._exclusive():
            slot = self._slots[self._known(id)]
            return {name: record[slot].copy() for name, record in self._records.items()}

    def set_state(self, id: int, state: Mapping[str, ArrayLike]) -> None:
        """Set a stream's state.

        Parameters
        ----------
        id : int
            From `join`.
        state : dict of str to array_like
            As the method `state` returns it; it is copied.

        Raises
        ------
        KeyError
            There is no such stream.
        """
        new = self._checked(state)
        with self._exclusive():
            slot = self._slots[self._known(id)]
            for name, record in self._records.items():
                record[slot] = new[name]

    def reset(self, ids: ArrayLike | None = None) -> None:
        """Set the states of all streams, or of these, to zero.

        Parameters
        ----------
        ids : None, int, or array_like of int (n,)
            All streams, or these.

        Raises
        ------
        KeyError
            There is no stream with one of these ids; nothing is changed.
        """
        with self._exclusive():
            chosen = [*self._slots] if ids is None else int_array("ids", ids).reshape(-1).tolist()
            slots = [self._slots[self._known(id)] for id in chosen]
            for record in self._records.values():
                record[slots] = 0

    @property
    def ids(self) -> Ints:
        """The ids of all streams."""
        return np.array([*self._slots], np.intp)

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, id: object) -> bool:
        return id in self._slots

    def __repr__(self) -> str:
        return f"<GraphPool of {len(self)} streams over {self._graph!r}>"

    def __getstate__(self) -> dict[str, Any]:
        with self._exclusive():
            return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lock = threading.Lock()

    def copy(self) -> Self:
        """Return another pool over the same graph with a copy of every stream.

        Returns
        -------
        GraphPool
            Its streams have the same ids; those of streams that join later are valid only in their own pool.
        """
        other = type(self).__new__(type(self))
        other.__setstate__(self.__getstate__())
        other._slots, other._free = dict(self._slots), [*self._free]
        other._records = {name: record.copy() for name, record in self._records.items()}
        return other

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: object) -> Self:
        return self.copy()

    # Steps

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("GraphPool: another thread is using it; give each its own, from copy() or pool()")
        try:
            yield
        finally:
            self._lock.release()

    def _known(self, id: int) -> int:
        if id not in self._slots:
            raise KeyError(id)
        return id

    def _step(self, ids: Ints, x: Array) -> Array:
        numbers = ids.tolist()
        slots = [self._slots[self._known(id)] for id in numbers]
        if len(set(slots)) < len(slots):
            raise ValueError("ids: expected each stream once")
        y, states = self._computed(x, {name: record[slots] for name, record in self._records.items()})
        for name, record in self._records.items():
            record[slots] = states[name]
        return y

    def _computed(self, x: Array, states: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Return the outputs (n, P) and the new states of rows."""
        y: Array = np.empty((len(x), getattr(self, "outputs", 0)), self.dtype)
        new = {name: np.empty_like(array) for name, array in states.items()}
        start, parts = 0, []
        for size in _SIZES if self._axes else (1,):
            while len(x) - start >= size:
                rows = slice(start, start + size)
                found = self._run_graph(x[rows], {name: array[rows] for name, array in states.items()})
                parts.append(self._without_rows(self._output.name, found[self._output.name], size).reshape(size, -1))
                for name, after in self._new.items():
                    new[name][rows] = self._without_rows(name, found[after], size)
                start += size
        return np.concatenate(parts).astype(self.dtype, copy=False) if parts else y, new

    def _run_graph(self, x: Array, states: dict[str, Array]) -> dict[str, Array]:
        """Run the graph for some rows, and return its outputs by name."""
        given = {name: self._with_rows(name, array) for name, array in states.items()}
        given[self._input.name] = self._with_rows(self._input.name, x.reshape(len(x), *self._row_shape))
        names = [self._output.name, *self._new.values()]
        return dict(zip(names, self._graph.run({**given, **self._constants}, names), strict=True))

    def _with_rows(self, name: str, rows: Array) -> Array:
        """Return rows (n, ...) in the graph's layout."""
        axis = self._axes.get(name)
        return rows[0] if axis is None else np.moveaxis(rows, 0, axis)

    def _without_rows(self, name: str, array: Array, rows: int = 0) -> Array:
        """Return an array of the graph as rows (n, ...), or without that axis if `rows` is 0."""
        axis = self._axes.get(name)
        found = array[np.newaxis] if axis is None else np.moveaxis(array, axis, 0)
        return found if rows else found[0]

    def _checked(self, state: Mapping[str, ArrayLike]) -> dict[str, Array]:
        if not isinstance(state, Mapping) or set(state) != set(self._empty):
            raise ValueError(f"state: expected a mapping with {[*self._empty]}, got {shown(state)}")
        new = {}
        for name, row in self._empty.items():
            array = real_array(f"state {name}", state[name])
            new[name] = float_array(f"state {name}", array, row.dtype) if row.dtype.kind == "f" else array
            expect_shape(f"state {name}", new[name], row.shape, "that of a stream")
        return new


def _row_axes(states: Sequence[Value], x: Value) -> dict[str, int]:
    """Return the axis of rows of each state and of x; none if the graph is made for one row."""
    axes = {value.name: _variable(value) for value in states}
    if not any(axes.values()):
        return {}
    if not all(axes.values()):
        raise ValueError(f"pool: expected states that all have an axis of rows, or none, got {[*states]}")
    first = states[0]
    symbol = (first.shape or ())[axes[first.name][0]]
    found = [axis for axis, size in enumerate(x.shape or ()) if isinstance(symbol, str) and size == symbol]
    found = found or _variable(x)
    if not found:
        raise ValueError(f"{x.name}: expected an axis of rows, as its states have one, got shape {x.shape}")
    return {name: places[0] for name, places in axes.items()} | {x.name: found[0]}


def _variable(value: Value) -> list[int]:
    return [axis for axis, size in enumerate(value.shape or ()) if not isinstance(size, int)]


def _row_shape(x: Value, rows: int | None, given: Sequence[int] | None) -> tuple[int, ...]:
    """Return the shape of x without its axis of rows."""
    declared = [size for axis, size in enumerate(x.shape or ()) if axis != rows]
    if given is None:
        if x.shape is None or not all(isinstance(size, int) for size in declared):
            raise ValueError(f"input_shape: expected the shape of one row of {x.name}, {x.shape} with rows, got None")
        return tuple(size for size in declared if isinstance(size, int))
    shape = tuple(positive_int("input_shape", size) for size in given)
    fits = x.shape is None or len(shape) == len(declared)
    if not fits or any(isinstance(size, int) and size != own for size, own in zip(declared, shape, strict=False)):
        raise ValueError(f"input_shape: expected that of one row of {x.name}, {x.shape} with rows, got {shape}")
    return shape
