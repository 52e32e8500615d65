"""ONNX graphs as models that run with NumPy and this library's LSTM."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ..budget import LimitExceeded
from ..faults import check_finite, counted
from ..graph import STRINGS, Graph, Value, owned_bytes, owner
from .fold import Graph as Parsed
from .lstm_nodes import WEIGHTS, Layers, LstmNode, input_name, layer_bytes
from .messages import type_name
from .proto import DTYPES, LARGEST_RESULT, STRING, Source, naming, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ...layers.lstm import LSTM
    from ...typing import Array
    from .node import Node

#: most unsupported operators in an error
LARGEST_LIST = 20
#: a layer may take this many times the bytes of its weights
LAYER_FACTOR = 6
# Names that exporters write for a size without a name.
_UNNAMED = {"", "?", "-1", "None"}


def from_onnx(model: Any, strict: bool = False) -> Graph:
    """Make a model from an ONNX graph of LSTMs and the operators that exporters add to them.

    Parameters
    ----------
    model : str, os.PathLike, bytes or onnx.ModelProto
        A file, its content, or its parsed protobuf.
    strict : bool
        If True, NaN or infinity among the weights is an error instead of a warning.

    Returns
    -------
    Graph

    Raises
    ------
    ValueError
        The file is truncated or damaged, or there are unsupported nodes; all of them are listed.
    OSError
        The file cannot be read.

    Warns
    -----
    UserWarning
        NaN or infinity among the weights.

    Examples
    --------
    >>> import numpy as np, onnx
    >>> from lstm_cy import from_onnx
    >>> text = '''<ir_version: 8, opset_import: ["": 17]> g (float[T, B, 3] x) => (float[B, T, 3] y) {
    ...     turned = Transpose <perm = [1, 0, 2]> (x)
    ...     y = Relu(turned)
    ... }'''
    >>> model = from_onnx(onnx.parser.parse_model(text))
    >>> model.inputs
    (Value(name='x', shape=('T', 'B', 3), dtype=dtype('float32')),)
    >>> (y,) = model.run({"x": np.ones((7, 2, 3))})
    >>> y.shape
    (2, 7, 3)
    """
    source = Source(model)
    with naming(source.name):
        graph = Parsed(source, source.proto.graph)
        count, kinds = graph.count_unsupported(), graph.unsupported
        if count:
            texts = [f"{kind}: {nodes}" for kind, nodes in kinds[:LARGEST_LIST]]
            if len(kinds) > LARGEST_LIST:
                texts.append(f"and {counted(len(kinds) - LARGEST_LIST, 'other operator')}")
            verb = "is" if count == 1 else "are"
            raise ValueError(f"{counted(count, 'node')} {verb} not supported: {'; '.join(texts)}")
        floats = {name: array for name, array in graph.constants.items() if array.dtype.kind == "f" and array.ndim}
        first = {id(owner(array)): name for name, array in reversed(floats.items())}  # views are not checked again
        weights = {name: array for name, array in floats.items() if first[id(owner(array))] == name}
        made = _model(graph, Layers(source.budget))
        made.properties = {entry.key: entry.value for entry in source.proto.metadata_props}
    check_finite(source.name, weights, strict)
    return made


#: the former name of the class of a model
OnnxModel = Graph


def _model(parsed: Parsed, layers: Layers) -> Graph:
    """Return the model of a parsed graph."""
    steps = [_lstm_step(node, parsed.constants, layers) if node.op_type == "LSTM" else node for node in parsed.nodes]
    inputs, outputs = ([_value(value) for value in values] for values in (parsed.inputs, parsed.outputs))
    return Graph(inputs, outputs, steps, parsed.constants)


class _LstmStep:
    """An LSTM node, with its layer if the weights are constant and the layer is within the budget."""

    def __init__(self, node: Node, constants: dict[str, Any], layers: Layers) -> None:
        self._node = node
        self._lstm = LstmNode(node)
        self._layer: LSTM | None = None
        self.name, self.op_type = node.name, node.op_type
        self.inputs, self.outputs = node.inputs, node.outputs
        names = [input_name(node.inputs, index) for index in WEIGHTS]
        if all(name in constants for name in names if name):
            with contextlib.suppress(LimitExceeded):
                self._layer = layers.get(self._lstm, [constants.get(name) for name in names])
        if self._layer is not None:
            self.inputs = tuple("" if index in WEIGHTS else name for index, name in enumerate(node.inputs))

    def __str__(self) -> str:
        return str(self._node)

    def weights(self) -> Iterable[Array]:
        return self._layer.parameters.values() if self._layer is not None else ()

    def _packed(self, *weights: Array | None) -> LSTM:
        size = layer_bytes(weights)
        if size > max(LARGEST_RESULT, LAYER_FACTOR * owned_bytes(weights)):
            raise ValueError(f"its layer takes {size} bytes; at most {LARGEST_RESULT} are allowed")
        return self._lstm.layer(*weights)

    def run(self, inputs: Sequence[Any]) -> tuple[Array, ...]:
        with naming(self._node):
            filled: list[Any] = [*inputs, *[None] * (8 - len(inputs))]
            X, W, R, B, lengths, initial_h, initial_c, P = filled
            layer = self._layer or self._packed(W, R, B, P)
            if X.ndim == 3:
                rows = [max(size, 1) for size in X.shape[:2]]  # T = 0 still gives states, B = 0 still takes time
                self._node.room((*rows, layer.output_size), X.dtype, X)
            return self._lstm.run(layer, X, lengths, initial_h, initial_c)


def _lstm_step(node: Node, constants: dict[str, Array], layers: Layers) -> _LstmStep:
    with naming(node):
        return _LstmStep(node, constants, layers)


def _value(proto: Any) -> Value:
    """Return the Value of a ValueInfoProto."""
    tensor = proto.type.tensor_type
    dtypes = {**DTYPES, STRING: STRINGS}
    if not proto.type.HasField("tensor_type") or tensor.elem_type not in dtypes:
        kind = type_name(tensor.elem_type) if proto.type.HasField("tensor_type") else proto.type.WhichOneof("value")
        raise ValueError(f"value {quoted(proto.name)}: expected an array of numbers or strings, got {kind}")
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(_size(size) for size in tensor.shape.dim)
    return Value(proto.name, shape, dtypes[tensor.elem_type])


def _size(proto: Any) -> int | str | None:
    """Return a fixed size, the name of a variable size, or None, for which some exporters write -1."""
    if proto.HasField("dim_value"):
        return proto.dim_value if proto.dim_value >= 0 else None
    return None if proto.dim_param.strip() in _UNNAMED else proto.dim_param
