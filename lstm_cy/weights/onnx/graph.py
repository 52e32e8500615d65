"""ONNX graphs as models that run with NumPy and this library's LSTM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...checks import positive_int
from ..faults import check_finite, counted
from ..graph import STRINGS, Graph, Value
from ..ownership import owner
from .fold import Graph as Parsed
from .layers import Layers
from .messages import type_name
from .proto import ARRAY_DTYPES, STRING, Source, naming, quoted
from .steps import Context, steps_of

if TYPE_CHECKING:
    pass

#: most unsupported operators in an error
LARGEST_LIST = 50
#: most nodes named in an error
LARGEST_EXAMPLES = 5
#: default of `max_iterations`
MAX_ITERATIONS = 1_000_000
# Names that exporters write for a size without a name.
_UNNAMED = {"", "?", "-1", "None"}


def from_onnx(model: Any, strict: bool = False, max_iterations: int = MAX_ITERATIONS) -> Graph:
    """Make a model from an ONNX graph of LSTMs and the operators that exporters add to them.

    Parameters
    ----------
    model : str, os.PathLike, bytes or onnx.ModelProto
        A file, its content, or its parsed protobuf.
    strict : bool
        If True, NaN or infinity among the weights is an error instead of a warning.
    max_iterations : int
        Most iterations of a Loop or Scan in one run, together with those of the ones inside it.

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
    max_iterations = positive_int("max_iterations", max_iterations)
    source = Source(model)
    with naming(source.name):
        graph = Parsed(source, source.proto.graph)
        if graph.unsupported:
            raise ValueError(_unsupported(graph.unsupported))
        floats = {name: array for name, array in graph.constants.items() if array.dtype.kind == "f" and array.size > 1}
        first = {id(owner(array)): name for name, array in reversed(floats.items())}  # views are not checked again
        weights = {name: array for name, array in floats.items() if first[id(owner(array))] == name}
        made = _model(graph, Context(Layers(source.budget), max_iterations))
        made.properties = {entry.key: entry.value for entry in source.proto.metadata_props}
    check_finite(source.name, weights, strict)
    return made


def _unsupported(kinds: dict[str, list[str]]) -> str:
    """Return the message for unsupported nodes: the number of each operator, then an example of each."""
    count = sum(map(len, kinds.values()))
    numbers = [f"{kind} ({len(labels)})" for kind, labels in kinds.items()][:LARGEST_LIST]
    if len(kinds) > LARGEST_LIST:
        numbers.append(f"and {counted(len(kinds) - LARGEST_LIST, 'other operator')}")
    examples = ", ".join(labels[0] for labels in [*kinds.values()][:LARGEST_EXAMPLES])
    verb = "is" if count == 1 else "are"
    return f"{counted(count, 'node')} {verb} not supported: {', '.join(numbers)}; such as {examples}"


#: the former name of the class of a model
OnnxModel = Graph


def _model(parsed: Parsed, context: Context) -> Graph:
    """Return the model of a parsed graph."""
    inputs, outputs = ([_value(value) for value in values] for values in (parsed.inputs, parsed.outputs))
    return Graph(inputs, outputs, steps_of(parsed, context), parsed.constants)


def _value(proto: Any) -> Value:
    """Return the Value of a ValueInfoProto."""
    tensor = proto.type.tensor_type
    dtypes = {**ARRAY_DTYPES, STRING: STRINGS}
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
