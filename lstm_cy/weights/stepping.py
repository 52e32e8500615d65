"""GraphStepper: a Graph with states in and out, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import expect_shape, float_array, positive_int, real_array, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from ..typing import Array, ArrayLike
    from .graph import Graph, Value

#: how exporters name the new value of a state s, as patterns of its name
_NEW_NAMES = (
    "{}N",
    "{}n",
    "{}_n",
    "{}_N",
    "{}_out",
    "{}_output",
    "out_{}",
    "output_{}",
    "{}_new",
    "new_{}",
    "{}_next",
    "next_{}",
)


class GraphStepper:
    """A Graph one step at a time, whose states go from an output of a step to an input of the next.

    `Graph.stepper` makes it, and explains the arguments. Copying copies the states. Only one thread at a time may use
    it.

    Parameters
    ----------
    graph : Graph
    states, constants, batch_size :
        As for `Graph.stepper`.

    Attributes
    ----------
    states : dict of str to str
        The output with the new value of each input that is a state.
    inputs, outputs : tuple of Value
        Those of a step, without states and constants.
    """

    def __init__(
        self,
        graph: Graph,
        states: Mapping[str, str] | None = None,
        constants: Mapping[str, ArrayLike] | None = None,
        batch_size: int = 1,
    ) -> None:
        self._graph, self._batch_size = graph, positive_int("batch_size", batch_size)
        self._constants = _named("constants", constants or {}, graph.inputs)
        variable = [value for value in graph.inputs if value.name not in self._constants]
        self.states = (
            state_pairs(variable, graph.outputs) if states is None else _checked(states, variable, graph.outputs)
        )
        self.inputs = tuple(value for value in variable if value.name not in self.states)
        self.outputs = tuple(value for value in graph.outputs if value.name not in self.states.values())
        if not self.states:
            names = [value.name for value in variable], [value.name for value in graph.outputs]
            raise ValueError(f"states: expected inputs and the outputs with their new values, found none in {names}")
        if not self.inputs or not self.outputs:
            raise ValueError(f"states: expected an input and an output that are none, got {shown(self.states)}")
        self._values = {value.name: value for value in graph.inputs}
        self._current: dict[str, Array] = {}
        self.reset()

    def step(self, *x: ArrayLike) -> Any:
        """Compute one step.

        Parameters
        ----------
        *x : array_like
            One for each of `self.inputs`, in the shape that the graph has for it.

        Returns
        -------
        ndarray or tuple of ndarray
            The output; a tuple if there are several, in the order of `self.outputs`.

        Raises
        ------
        TypeError, ValueError
            As `Graph.run`; the states are as before.
        """
        if len(x) != len(self.inputs):
            names = [value.name for value in self.inputs]
            raise TypeError(f"x: expected {len(names)}, for {names}, got {len(x)}")
        given = dict(zip((value.name for value in self.inputs), x, strict=True))
        new = [*self.states.values()]
        names = [*(value.name for value in self.outputs), *new]
        results = self._graph.run({**given, **self._constants, **self._current}, names)
        count = len(self.outputs)
        found = dict(zip(self.states, results[count:], strict=True))
        for name, array in found.items():
            if array.shape != self._current[name].shape:
                expected, got = self._current[name].shape, array.shape
                raise ValueError(f"{self.states[name]}: expected the shape of {name}, {expected}, got {got}")
        self._current = found
        return results[0] if count == 1 else tuple(results[:count])

    @property
    def state(self) -> dict[str, Array]:
        """The states, {name of the input: array}, copies; setting it copies what NumPy converts to such arrays."""
        return {name: array.copy() for name, array in self._current.items()}

    @state.setter
    def state(self, state: Mapping[str, ArrayLike]) -> None:
        if not isinstance(state, Mapping) or set(state) != set(self._current):
            raise ValueError(f"state: expected a mapping with {[*self._current]}, got {shown(state)}")
        new = {}
        for name, own in self._current.items():
            array = real_array(f"state {name}", state[name])
            new[name] = float_array(f"state {name}", array, own.dtype) if own.dtype.kind == "f" else array
            expect_shape(f"state {name}", array, own.shape, "that of the present state")
        self._current = {name: np.array(array, self._current[name].dtype) for name, array in new.items()}

    def reset(self) -> None:
        """Set all states to zero."""
        self._current = {name: _zeros(self._values[name], self._batch_size) for name in self.states}

    def copy(self) -> Self:
        """Return another GraphStepper of the same graph with a copy of the states.

        Returns
        -------
        GraphStepper
        """
        other = type(self)(self._graph, self.states, self._constants, self._batch_size)
        other._current = self.state
        return other

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: object) -> Self:
        return self.copy()

    def __repr__(self) -> str:
        pairs = ", ".join(f"{before} <- {after}" for before, after in self.states.items())
        return f"<GraphStepper of {self._graph!r}: {pairs}>"


def _named(name: str, given: Mapping[str, Any], values: Sequence[Value]) -> dict[str, Any]:
    """Return a mapping whose keys are names of values."""
    known = [value.name for value in values]
    if not isinstance(given, Mapping):
        raise TypeError(f"{name}: expected a mapping, got {type(given).__name__}")
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f"{name}: expected names of {known}, got {unknown}")
    return dict(given)


def _checked(states: Mapping[str, str], inputs: Sequence[Value], outputs: Sequence[Value]) -> dict[str, str]:
    """Return the argument `states`."""
    pairs = _named("states", states, inputs)
    known = [value.name for value in outputs]
    wrong = [after for after in pairs.values() if after not in known]
    if wrong or len(set(pairs.values())) < len(pairs):
        raise ValueError(f"states: expected different outputs of {known}, got {[*pairs.values()]}")
    return pairs


def state_pairs(inputs: Sequence[Value], outputs: Sequence[Value]) -> dict[str, str]:
    """Return {input: output} of what is a state by its name or, besides the first input and output, by its shape."""
    known = {value.name for value in outputs}
    found: dict[str, str] = {}
    for value in inputs:
        names = [pattern.format(value.name) for pattern in _NEW_NAMES]
        names += [
            value.name.replace("_in", "_out"),
            value.name.replace("in_", "out_"),
            value.name.replace("prev", "new"),
        ]
        after = next((name for name in names if name in known and name != value.name), None)
        if after is not None and after not in found.values():
            found[value.name] = after
    left_in = [value for value in inputs if value.name not in found][1:]
    left_out = [value for value in outputs if value.name not in found.values()][1:]
    for value in left_in:
        same = [after for after in left_out if _alike(after, value)]
        alike = [other for other in left_in if _alike(other, value)]
        if value.shape is not None and len(same) == len(alike):  # several of one shape: in their order
            found[value.name] = same[alike.index(value)].name
    return found


def _alike(a: Value, b: Value) -> bool:
    """Return whether two values may have the same shape; exporters often do not know the sizes of an output."""
    if a.shape is None or b.shape is None or a.dtype != b.dtype or len(a.shape) != len(b.shape):
        return False
    sizes = zip(a.shape, b.shape, strict=True)
    return all(one == other or not (isinstance(one, int) and isinstance(other, int)) for one, other in sizes)


def _zeros(value: Value, batch_size: int) -> Array:
    """Return zeros in a value's shape, whose only variable size is that of the batch."""
    if value.shape is None or sum(not isinstance(size, int) for size in value.shape) > 1:
        raise ValueError(f"{value.name}: expected a state of known shape with at most one variable size, {value.shape}")
    return np.zeros([size if isinstance(size, int) else batch_size for size in value.shape], value.dtype)
