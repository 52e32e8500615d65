"""The steps of a model that are more than one NumPy function: LSTM nodes, quantized ones, If, Loop and Scan."""

from __future__ import annotations

import contextlib
import copy
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ..budget import LimitExceeded
from ..chains import Link, NoChain, Part
from ..graph import STRINGS, Graph, Value
from ..ownership import owned_bytes
from ..plans.operations import Flat
from ..plans.values import NotLowered
from ..tracing import note_run
from .chaining import last_step
from .layers import WEIGHTS, Layers, LstmNode, input_name, layer_bytes
from .lstm_nodes import unique
from .operators.arguments import axis_of
from .proto import ARRAY_DTYPES, LARGEST_RESULT, naming
from .quantized_lstm import QuantizedLstm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ...layers.lstm import LSTM
    from ...trace.gates import GateTrace
    from ...typing import Array, Narrow
    from ..chains import Chain
    from ..graph import Step
    from ..plans import values as plans
    from ..plans.builder import Builder
    from .fold import Graph as Parsed
    from .node import Node

#: a layer may take this many times the bytes of its weights
LAYER_FACTOR = 6
#: bytes of an array, besides its elements
_ARRAY_BYTES = 128


class Context:
    """What the steps of one model share.

    Parameters
    ----------
    layers : Layers
    max_iterations : int
        Most iterations of a Loop or Scan and of the ones inside it, together.
    """

    def __init__(self, layers: Layers, max_iterations: int) -> None:
        self.layers = layers
        self._most = max_iterations
        self._threads = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored_context, (self._most,)  # the layers are those of the steps by then

    @contextlib.contextmanager
    def counting(self) -> Iterator[Callable[[], None]]:
        """Yield a function that counts an iteration, and raises if there are too many."""
        local = self._threads
        outermost = not getattr(local, "running", False)
        if outermost:
            local.running, local.left = True, self._most

        def count() -> None:
            local.left -= 1
            if local.left < 0:
                raise ValueError(f"more than {self._most} iterations; the limit is max_iterations of from_onnx")

        try:
            yield count
        finally:
            if outermost:
                local.running = False


def _restored_context(max_iterations: int) -> Context:
    context: Context = Context.__new__(Context)
    context._most, context._threads = max_iterations, threading.local()
    return context


def steps_of(parsed: Parsed, context: Context) -> list[Step]:
    """Return the steps of a graph, in order."""
    return [_step(parsed, node, context) for node in parsed.nodes]


def _step(parsed: Parsed, node: Node, context: Context) -> Step:
    kind = _KINDS.get(node.op_type)
    if kind is None:
        return node
    with naming(node):
        made: Step = kind(parsed, node, context)
    return made


class _NodeStep:
    """A step of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.name, self.op_type = node.name, node.op_type
        self.inputs, self.outputs = node.inputs, node.outputs

    def __str__(self) -> str:
        return str(self._node)

    def run(self, inputs: Sequence[Any]) -> Sequence[Array]:
        with naming(self._node):
            return self._results(inputs)

    def weights(self) -> Iterable[Array]:
        return ()

    def _results(self, inputs: Sequence[Any]) -> Sequence[Array]:
        raise NotImplementedError


class _LstmStep(_NodeStep):
    """An LSTM node, with its layer if the weights are constant and the layer is within the budget."""

    def __init__(self, parsed: Parsed, node: Node, context: Context) -> None:
        super().__init__(node)
        self._lstm = LstmNode(node)
        self._layer: Any = None  # an LSTM, or one with narrow weights
        names = [input_name(node.inputs, index) for index in WEIGHTS]
        arrays = [parsed.constant(name) if name else None for name in names]
        if all(array is not None for name, array in zip(names, arrays, strict=True) if name):
            with contextlib.suppress(LimitExceeded):
                self._layer = context.layers.get(self._lstm, arrays)
        if self._layer is not None:
            self.inputs = tuple("" if index in WEIGHTS else name for index, name in enumerate(node.inputs))

    def weights(self) -> Iterable[Array]:
        return self._layer.parameters.values() if self._layer is not None else ()

    @property
    def structural(self) -> tuple[int, ...]:
        """The inputs whose values decide on the shapes of the outputs: none."""
        return ()

    def lower(self, builder: Builder, inputs: list[plans.Value | None]) -> list[plans.Value]:
        """Plan the node: a call of the layer's network without lengths; NotLowered for others."""
        filled = [*inputs, *[None] * (8 - len(inputs))]
        x, layer = builder.floats(filled[0]), self._layer
        if layer is None or layer.dtype != np.float32 or filled[4] is not None or self._node.rounds or x.ndim != 3:
            raise NotLowered
        first = layer.batch_first
        B, T = x.shape[:2] if first else x.shape[1::-1]
        D, H = layer.num_directions, layer.hidden_size
        if x.shape[2] != layer.input_size:
            raise NotLowered
        states = []
        for value in filled[5:7]:
            given = np.zeros((), np.float32) if value is None else builder.floats(value)
            if value is not None and given.shape != ((B, D, H) if first else (D, B, H)):
                raise NotLowered
            state = builder.empty((D, B, H))
            builder.copy(state, given if value is None or not first else given.swapaxes(0, 1))
            states.append(state)
        y = builder.empty((*x.shape[:2], D * H))
        builder.emit(
            Flat("recur", [y, builder.contiguous(x), *states], numbers=(T, B, int(first)), content=layer._network)
        )
        y = y.reshape(*x.shape[:2], D, H)
        arrays = [y, *(state.swapaxes(0, 1) for state in states)] if first else [y.swapaxes(1, 2), *states]
        return [builder.value(array) for array in arrays]

    def quantized(self, kind: Narrow, inputs: list[Any] | None, report: dict[str, Any]) -> _LstmStep:
        """Return the step with narrow weights; see `Graph.quantized`."""
        made = copy.copy(self)
        if self._layer is not None:
            with naming(self._node):
                made._layer = self._layer.quantize(kind, None if inputs is None else inputs[0])
            report[unique(self.name or next(filter(None, self.outputs), "LSTM"), report)] = made._layer.report
        return made

    def chained(self, chain: Chain, inputs: list[Any], shapes: list[Any]) -> list[Link | None]:
        """Return the links of Y and Y_h, each an LSTM; raise NoChain where no layer computes the same."""
        X, *_, lengths, initial_h, initial_c, _ = _filled(inputs)
        layer, first = self._layer, self._lstm.batch_first
        if layer is None or any(isinstance(other, Link) for other in inputs[1:]):
            raise NoChain("expected constant weights, and states that do not depend on the input")
        rows, steps = (0, 1) if first else (1, 0)
        chain.sequence(X, rows, steps, 2)
        if lengths is not None and (lengths != X.shape[steps]).any():
            raise NoChain("rows have lengths of their own")
        if any(state is not None and state.any() for state in (initial_h, initial_c)):
            raise NoChain("its initial state is not zero")
        options = {name: value for name, value in layer.config.items() if name != "batch_first"}
        lstm = Part(type(layer), layer.stored(), True, **options)
        directions, features = chain.new_axis(layer.num_directions), chain.new_axis(layer.hidden_size)
        row, time = X.axes[rows], X.axes[steps]
        y = [row, time, directions, features] if first else [time, directions, row, features]
        h = [row, directions, features] if first else [directions, row, features]
        last = {"bidirectional": layer.bidirectional, "go_backwards": layer.reverse}
        readout = [last_step(**last)] if chain.has_steps else []
        return [X.then(lstm, axes=y), X.then(lstm, *readout, axes=h)._replace(is_state=True)]

    def _packed(self, *weights: Array | None) -> LSTM:
        size = layer_bytes(weights)
        if size > max(LARGEST_RESULT, LAYER_FACTOR * owned_bytes(weights)):
            raise ValueError(f"its layer takes {size} bytes; at most {LARGEST_RESULT} are allowed")
        return self._lstm.layer(*weights)

    def _traced(self, call: tuple[LSTM, Any, Any, Any, Any], direction: int) -> GateTrace:
        """Return the trace of a call of `LstmNode.run`."""
        with naming(self._node):
            return self._lstm.trace(*call, direction)

    def _results(self, inputs: Sequence[Any]) -> Sequence[Array]:
        X, W, R, B, lengths, initial_h, initial_c, P = _filled(inputs)
        layer = self._layer or self._packed(W, R, B, P)
        if X.ndim == 3:
            rows = [max(size, 1) for size in X.shape[:2]]  # T = 0 still gives states, B = 0 still takes time
            self._node.room((*rows, layer.output_size), X.dtype, X)
        call = layer, X, lengths, initial_h, initial_c
        note_run(1, lambda number, direction: self._traced(call, direction))
        return self._lstm.run(*call)


def _filled(inputs: Sequence[Any]) -> list[Any]:
    """Return the eight inputs of an LSTM node, None for omitted ones."""
    return [*inputs, *[None] * (8 - len(inputs))]


class _QuantizedLstmStep(_NodeStep):
    """A DynamicQuantizeLSTM node."""

    def __init__(self, parsed: Parsed, node: Node, context: Context) -> None:
        super().__init__(node)
        self._lstm = QuantizedLstm(node)

    def _traced(self, inputs: Sequence[Any], direction: int) -> GateTrace:
        with naming(self._node):
            return self._lstm.trace(self._node, *inputs, direction=direction)

    def _results(self, inputs: Sequence[Any]) -> Sequence[Array]:
        note_run(1, lambda number, direction: self._traced(inputs, direction))
        return self._lstm.run(self._node, *inputs)


class _Body:
    """A graph inside a node, which may use the values of the graphs around it.

    Attributes
    ----------
    inputs, outputs : tuple of str
    captured : list of str
        Names of the values of the graphs around it that it uses, besides constants.
    declared : list of (shape, dtype)
        Of the outputs, with 0 for a variable size.
    """

    def __init__(self, parsed: Parsed, context: Context) -> None:
        steps = steps_of(parsed, context)
        self.inputs, self.outputs = (tuple(value.name for value in ends) for ends in (parsed.inputs, parsed.outputs))
        used = dict.fromkeys(name for step in steps for name in step.inputs if name) | dict.fromkeys(self.outputs)
        constants = {name: parsed.constant(name) for name in used}
        arrays = {name: array for name, array in constants.items() if array is not None}
        self.captured = [name for name in used if name not in arrays and not parsed.defines(name)]
        self.declared = [_declared(value.type.tensor_type) for value in parsed.outputs]
        inputs, outputs = ([Value(name, None, STRINGS) for name in names] for names in (self.inputs, self.outputs))
        self._graph = Graph(inputs, outputs, steps, arrays)

    def __call__(self, values: dict[str, Array]) -> list[Array]:
        """Return the outputs; `values` are the inputs and the captured values."""
        return self._graph.evaluate(values)

    def plan(self, builder: Builder, values: dict[str, Any]) -> list[plans.Value]:
        """Return the outputs in a plan; `values` are the captured ones."""
        return builder.inline(self._graph, values)

    def weights(self) -> Iterable[Array]:
        return self._graph.weights()

    def quantized(self, kind: Narrow, report: dict[str, Any]) -> _Body:
        """Return the graph with narrow weights."""
        made = copy.copy(self)
        made._graph = self._graph.quantized(kind, None, report)
        return made


class _IfStep(_NodeStep):
    """An If node: one of two graphs."""

    def __init__(self, parsed: Parsed, node: Node, context: Context) -> None:
        super().__init__(node)
        self._branches = [_Body(node.graphs[name], context) for name in ("else_branch", "then_branch")]
        for body in self._branches:
            if len(body.outputs) != len(node.outputs):
                raise ValueError(f"expected {len(node.outputs)} outputs of each branch, got {len(body.outputs)}")
        self._captured = list(dict.fromkeys(name for body in self._branches for name in body.captured))
        self.inputs = (*node.inputs, *self._captured)

    def weights(self) -> Iterable[Array]:
        return [array for body in self._branches for array in body.weights()]

    def quantized(self, kind: Narrow, inputs: list[Any] | None, report: dict[str, Any]) -> _IfStep:
        """Return the step with narrow weights in both graphs."""
        made = copy.copy(self)
        made._branches = [body.quantized(kind, report) for body in self._branches]
        return made

    def lower(self, builder: Builder, inputs: list[plans.Value | None]) -> list[plans.Value]:
        """Plan the graph that a known condition selects."""
        body = self._branches[_truth(builder.known(inputs[0]))]
        given = dict(zip(self._captured, inputs[1:], strict=True))
        return body.plan(builder, {name: given[name] for name in body.captured})

    def _results(self, inputs: Sequence[Any]) -> Sequence[Array]:
        condition, *values = inputs
        body = self._branches[_truth(condition)]
        given = dict(zip(self._captured, values, strict=True))
        return body({name: given[name] for name in body.captured})


class _RepeatedStep(_NodeStep):
    """A node that runs a graph several times."""

    _body: _Body

    def weights(self) -> Iterable[Array]:
        return self._body.weights()

    def quantized(self, kind: Narrow, inputs: list[Any] | None, report: dict[str, Any]) -> _RepeatedStep:
        """Return the step with narrow weights in the graph."""
        made = copy.copy(self)
        made._body = self._body.quantized(kind, report)
        return made


class _LoopStep(_RepeatedStep):
    """A Loop node: a graph that runs until its condition is false, or for a number of times."""

    def __init__(self, parsed: Parsed, node: Node, context: Context) -> None:
        super().__init__(node)
        self._body, self._context = _Body(node.graphs["body"], context), context
        self._carried = len(node.inputs) - 2
        if len(self._body.inputs) != self._carried + 2 or len(self._body.outputs) < self._carried + 1:
            raise ValueError(
                f"body: expected {self._carried + 2} inputs and at least {self._carried + 1} outputs, "
                f"got {len(self._body.inputs)} and {len(self._body.outputs)}"
            )
        self.inputs = (*node.inputs, *self._body.captured)

    def _results(self, inputs: Sequence[Any]) -> Sequence[Array]:
        (most, condition, *carried), captured = inputs[: self._carried + 2], inputs[self._carried + 2 :]
        names = self._body.inputs
        given = dict(zip(self._body.captured, captured, strict=True))
        going, number, size = condition is None or _truth(condition), 0, 0
        scans: list[list[Array]] = [[] for _ in self._body.outputs[self._carried + 1 :]]
        with self._context.counting() as count:
            while going and (most is None or number < most.item()):
                count()
                here = np.array(number, np.int64), np.array(going), *carried
                continued, *results = self._body(given | dict(zip(names, here, strict=True)))
                going = _truth(continued)
                carried, found = results[: self._carried], results[self._carried :]
                for scan, array in zip(scans, found, strict=True):
                    scan.append(array)
                    size += array.nbytes + _ARRAY_BYTES
                self._node.room((size,), np.dtype(np.uint8), *inputs)
                number += 1
        declared = self._body.declared[self._carried + 1 :]
        return [*carried, *map(_stacked, declared, scans)]


class _ScanStep(_RepeatedStep):
    """A Scan node: a graph that runs for each element along an axis of its inputs."""

    def __init__(self, parsed: Parsed, node: Node, context: Context) -> None:
        super().__init__(node)
        self._body, self._context = _Body(node.graphs["body"], context), context
        count = node.get("num_scan_inputs")
        self._carried = len(node.inputs) - count
        if count < 1 or self._carried < 0 or len(self._body.inputs) != len(node.inputs):
            raise ValueError(
                f"body: expected {len(node.inputs)} inputs, {count} of them scanned, got {len(self._body.inputs)}"
            )
        made = len(self._body.outputs) - self._carried
        if made < 0 or len(node.outputs) > len(self._body.outputs):
            raise ValueError(f"body: expected {len(node.outputs)} outputs, got {len(self._body.outputs)}")
        self._inputs = self._options("input", count)
        self._outputs = self._options("output", made)
        self.inputs = (*node.inputs, *self._body.captured)

    def _options(self, end: str, count: int) -> list[tuple[int, int]]:
        """Return (axis, direction) of each scanned input or output."""
        axes, directions = (self._node.get(f"scan_{end}_{name}", [0] * count) for name in ("axes", "directions"))
        if len(axes) != count or len(directions) != count or not set(directions) <= {0, 1}:
            raise ValueError(f"expected {count} scan_{end}_axes and as many directions, 0 or 1")
        return list(zip(axes, directions, strict=True))

    def _results(self, inputs: Sequence[Any]) -> Sequence[Array]:
        carried, scanned = list(inputs[: self._carried]), inputs[self._carried : len(self._body.inputs)]
        given = dict(zip(self._body.captured, inputs[len(self._body.inputs) :], strict=True))
        sequences = [
            np.moveaxis(x, axis_of(axis, x.ndim), 0)[:: -1 if backwards else 1]
            for x, (axis, backwards) in zip(scanned, self._inputs, strict=True)
        ]
        lengths = {len(x) for x in sequences}
        if len(lengths) > 1:
            raise ValueError(f"expected scanned inputs of one length, got {sorted(lengths)}")
        made: list[list[Array]] = [[] for _ in self._outputs]
        size = 0
        with self._context.counting() as count:
            for elements in zip(*sequences, strict=True):
                count()
                results = self._body(given | dict(zip(self._body.inputs, (*carried, *elements), strict=True)))
                carried = results[: self._carried]
                for several, array in zip(made, results[self._carried :], strict=True):
                    several.append(array)
                    size += array.nbytes + _ARRAY_BYTES
                self._node.room((size,), np.dtype(np.uint8), *inputs)
        stacked = map(_stacked, self._body.declared[self._carried :], made)
        return [*carried, *(_turned(x, *option) for x, option in zip(stacked, self._outputs, strict=True))]


def _turned(x: Array, axis: int, backwards: int) -> Array:
    """Return the results of all iterations, stacked along the first axis, along `axis`."""
    return np.moveaxis(x[::-1] if backwards else x, 0, axis_of(axis, x.ndim))


def _declared(proto: Any) -> tuple[list[int], np.dtype[Any]]:
    """Return the shape and dtype of a type of arrays."""
    sizes = [size.dim_value if size.HasField("dim_value") else 0 for size in proto.shape.dim]
    return sizes, ARRAY_DTYPES.get(proto.elem_type, np.dtype(np.float32))


def _stacked(declared: tuple[list[int], np.dtype[Any]], arrays: list[Array]) -> Array:
    """Return the arrays of all iterations along a new axis; of none, an empty array of the declared shape."""
    if arrays:
        return np.stack(arrays)
    sizes, dtype = declared
    return np.empty((0, *sizes), dtype)


def _truth(condition: Array) -> bool:
    if condition.size != 1 or condition.dtype.kind != "b":
        raise ValueError(f"cond: expected one bool, got {condition.dtype} of shape {condition.shape}")
    return bool(condition.reshape(()))


_KINDS: dict[str, Callable[[Any, Node, Context], Step]] = {
    "LSTM": _LstmStep,
    "DynamicQuantizeLSTM": _QuantizedLstmStep,
    "If": _IfStep,
    "Loop": _LoopStep,
    "Scan": _ScanStep,
}
