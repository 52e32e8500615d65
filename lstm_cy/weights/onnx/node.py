"""A node of an ONNX graph: its operator, attributes and values, and how it is run within limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..budget import LimitExceeded
from ..faults import shortened
from ..graph import STRINGS
from ..ownership import owned_bytes
from ..plans.values import NotLowered
from .lowering import LOWERINGS, STRUCTURAL
from .operators import OPERATORS
from .proto import LARGEST_RESULT, LONGEST_NAME, check_empty, check_rank, naming, quoted, rounded_to_bfloat16

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ...typing import Array
    from ..budget import Budget
    from ..chains import Chain, Link
    from ..plans.builder import Builder
    from ..plans.values import Value
    from .proto import Source

#: (node, *inputs) -> an array, or a tuple of them
Operator: TypeAlias = Callable[..., Any]

#: factor for the bytes of a result, to cover an operator's temporary arrays
SCRATCH_FACTOR = 2
#: cost of a folded value in objects, besides its bytes
VALUE_OBJECTS = 8
#: cost in objects of each pair of axes: NumPy's pad visits all axes for each axis
AXIS_OBJECTS = 4


class Node:
    """One node of a graph.

    Attributes
    ----------
    name, op_type : str
    inputs, outputs : tuple of str
        Names of values; empty for an omitted one.
    attributes : dict
    graphs : dict of str to fold.Graph
        The inner graphs, by attribute.
    opset : int
    rounds : bool
        Whether an output is one of the graph, of type bfloat16.

    Parameters
    ----------
    source : Source
        The model of the node.
    proto : onnx.NodeProto
    operator : callable or None
        The implementation, a function of the node and its inputs; None for a node that does not run itself.
    takes_strings : bool
        Whether the operator also takes strings.
    """

    __slots__ = (
        "_budget",
        "_operator",
        "_takes_strings",
        "attributes",
        "graphs",
        "inputs",
        "name",
        "op_type",
        "opset",
        "outputs",
        "rounds",
    )

    def __init__(
        self, source: Source, proto: Any, operator: Operator | None, takes_strings: bool, graphs: dict[str, Any]
    ) -> None:
        self._operator: Any = operator
        self._takes_strings = takes_strings
        self.name, self.op_type, self.opset = proto.name, proto.op_type, source.opset
        self.inputs, self.outputs = tuple(proto.input), tuple(proto.output)
        self.attributes = source.attributes(proto)
        self.graphs, self.rounds = graphs, False
        self._budget: Budget | None = None  # set while the node is folded

    def __str__(self) -> str:
        return describe_node(self.name, self.op_type, self.outputs)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a run needs: neither inner graphs, of which steps are made, nor the function."""
        values = {name: value for name, value in self.attributes.items() if name not in self.graphs}
        state = {name: getattr(self, name) for name in self.__slots__}
        return state | {"attributes": values, "graphs": {}, "_budget": None, "_operator": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._operator = OPERATORS.get(self.op_type)

    def weights(self) -> Iterable[Array]:
        """Return the arrays that the node holds itself: none, its weights are constants of the graph."""
        return ()

    def get(self, attribute: str, default: Any = None) -> Any:
        """Return the value of an attribute; a float default is rounded to float32, like values in a file."""
        if attribute in self.attributes:
            return self.attributes[attribute]
        return float(np.float32(default)) if isinstance(default, float) else default

    def room(self, shape: Sequence[int], dtype: np.dtype[Any], *inputs: Array) -> None:
        """Raise if a result of this shape, computed from these inputs, exceeds the limits."""
        check_rank(shape)
        size = math.prod(shape) * dtype.itemsize
        if self._budget is not None:
            self._budget.objects(AXIS_OBJECTS * len(shape) ** 2)
            self._budget.bytes(SCRATCH_FACTOR * size)
        elif size > LARGEST_RESULT and size > owned_bytes(inputs):
            raise ValueError(
                f"a result of shape {tuple(shape)} takes {size} bytes; at most {LARGEST_RESULT} are allowed"
            )

    @property
    def structural(self) -> tuple[int, ...] | None:
        """The inputs whose values decide on the shapes of the outputs; None if the shapes are not known beforehand."""
        return STRUCTURAL.get(self.op_type)

    def lower(self, builder: Builder, inputs: list[Value | None]) -> list[Value]:
        """Plan the node; NotLowered says that it has to be run."""
        lowering = LOWERINGS.get(self.op_type)
        if lowering is None or self.rounds:
            raise NotLowered
        try:
            return lowering(builder, self, inputs)
        except (TypeError, ValueError) as error:  # running the node raises what is right
            raise NotLowered from error

    def chained(self, chain: Chain, inputs: list[Any], shapes: list[Any]) -> list[Link]:
        """Return its outputs as links of a chain of layers; raise NoChain where no layer computes the same."""
        from .chaining import links_of

        return links_of(chain, self, inputs, shapes)

    def run(self, inputs: Sequence[Array | None]) -> tuple[Array, ...]:
        """Compute the outputs, a tuple, from the inputs; omitted inputs are None."""
        with naming(self):
            return self._results(inputs)

    def fold(self, inputs: Sequence[Array | None], budget: Budget) -> tuple[Array, ...] | None:
        """Return the results of `run`, read-only, or None if they exceed the budget."""
        self._budget = budget
        with naming(self):
            try:
                budget.objects(len(self.inputs) + VALUE_OBJECTS * len(self.outputs))
                with np.errstate(all="ignore"):  # infinity and NaN are valid results
                    results = self._results(inputs)
            except LimitExceeded:
                return None
            finally:
                self._budget = None
        for result in results:
            result.flags.writeable = False
        return results

    def _results(self, inputs: Sequence[Array | None]) -> tuple[Array, ...]:
        if not self._takes_strings and any(array is not None and array.dtype == STRINGS for array in inputs):
            raise ValueError("expected numbers, got strings")
        results = self._operator(self, *inputs)
        results = results if isinstance(results, tuple) else (results,)
        arrays = tuple(np.asarray(result, STRINGS if isinstance(result, str) else None) for result in results)
        if self.rounds:
            arrays = tuple(rounded_to_bfloat16(array) if array.dtype.kind == "f" else array for array in arrays)
        for array in arrays:
            if array.size == 0:
                check_empty(array.shape, array.itemsize)
        return arrays


def describe_node(name: str, op_type: str, outputs: Iterable[str]) -> str:
    """Return the name of a node for errors."""
    op_type = shortened(op_type, LONGEST_NAME)
    return (
        f"node {quoted(name)} ({op_type})"
        if name
        else f"the node of {quoted(next(filter(None, outputs), ''))} ({op_type})"
    )
