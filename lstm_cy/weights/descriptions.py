"""Descriptions of the contents of files, in lines of text: a function for each format."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ..printable import printable
from . import gate_order, native
from .faults import check_finite, counted, listed, shortened
from .graph import Graph

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..layers.base import Layer
    from .inputs import Input

_LETTERS = dict(zip(gate_order.ORDER, "ifgo", strict=True))


def call_of(layer: Layer) -> str:
    """Return the call that makes a layer, without options that have their default.

    Examples
    --------
    >>> from lstm_cy import LSTM
    >>> call_of(LSTM(3, 5, 2, batch_first=True))
    'LSTM(input_size=3, hidden_size=5, num_layers=2, batch_first=True)'
    """
    if layer.parts:
        return f"{type(layer).__name__}({', '.join(map(call_of, layer.parts))})"
    arguments = ", ".join(f"{name}={value!r}" for name, value in layer.arguments().items())
    return f"{type(layer).__name__}({arguments})"


def of_own(path: Input) -> list[str]:
    """Describe a file of this library; raise ForeignFile if it is not one."""
    model, metadata = native.read_model(path, strict=False)
    return [
        f"a model of lstm_cy, format version {native.version_of(model)}",
        *_layers(model),
        _gates(gate_order.ORDER),
        *_tensors(model.stored()),
        _metadata(metadata),
    ]


def of_pytorch(path: Input) -> list[str]:
    """Describe a file with tensors under PyTorch's names."""
    from .pytorch.files import read_lstms

    found = read_lstms(path)
    try:
        if found.problem:
            raise ValueError(found.problem)
        layers = [(prefix or "(no prefix)", call_of(lstm)) for prefix, lstm in found.layers(strict=False).items()]
    except ValueError as error:
        layers = [("not read", _reason(path, error))]
    own = set().union(*found.own.values())
    return [
        "tensors under PyTorch's names",
        *_table("LSTMs", layers),
        _gates(gate_order.ORDER),
        *_tensors({name: array for name, array in found.tensors.items() if name in own}, "their tensors"),
        *_tensors({name: array for name, array in found.tensors.items() if name not in own}, "other tensors"),
        *_values(found.value),
    ]


def _values(value: Any) -> list[str]:
    """Return a line with the numbers of other values by class; none if there are no others."""
    from .pytorch.tensors import kinds_of

    kinds = kinds_of(value)
    return [f"other values: {listed(f'{name} {count}' for name, count in kinds.items())}"] if kinds else []


def _reason(path: object, error: ValueError) -> str:
    """Return the message of an error without the file's name."""
    return shortened(str(error).removeprefix(f"{printable(path)}: "))


def of_keras(path: Input) -> list[str]:
    """Describe a file of Keras."""
    from .keras.model import contents_of

    contents = contents_of(path)
    if isinstance(contents.model, Graph):
        return [
            "a model of Keras, a graph of layers",
            *_table("inputs", [(value.name, f"{value.dtype} {value.shape}") for value in contents.model.inputs]),
            *_table("outputs", [(value.name, "") for value in contents.model.outputs]),
            *_table("layers", contents.layers),
            _gates(gate_order.KERAS),
            *_tensors(contents.arrays),
        ]
    if contents.model is not None:
        check_finite(path, contents.arrays, False)
        return [
            "a model of Keras",
            *_layers(contents.model),
            _gates(gate_order.KERAS),
            *_tensors(contents.model.stored()),
        ]
    return [
        "a model of Keras that is not read",
        *_table("layers", contents.layers),
        *_lstms_of_keras(path),
        _gates(gate_order.KERAS),
        *_table("not supported", contents.unsupported or [("", contents.problem)]),
        *_tensors(contents.arrays),
    ]


def _lstms_of_keras(path: Input) -> list[str]:
    """Return the LSTMs that can be had of a file whose model is not read; none if they are not read either."""
    from .keras.lstms import lstms

    try:
        found = lstms(path)
    except ValueError:
        return []
    return _table("LSTMs", [(name, call_of(lstm)) for name, lstm in found.items()])


def of_audio(model: Layer, metadata: dict[str, Any]) -> list[str]:
    """Describe a model of an amplifier and its metadata."""
    return [
        "a model of an amplifier",
        *_layers(model),
        _gates(gate_order.ORDER),
        *_tensors(model.stored()),
        _metadata(metadata),
    ]


def of_onnx(path: str | bytes) -> list[str]:
    """Describe an ONNX graph."""
    from .onnx.fold import Graph
    from .onnx.lstm_nodes import lstms
    from .onnx.proto import Source, naming

    source = Source(path)
    with naming(path):
        graph = Graph(source, source.proto.graph)
    counts = Counter(map(str, _operators(source.proto.graph)))
    try:
        layers = [(name, call_of(lstm)) for name, lstm in lstms(path).items()]
    except ValueError as error:  # such as weights that are not constant; the rest can still be described
        layers = [("not read", _reason(path, error))]
    producer = " ".join(filter(None, (source.proto.producer_name, source.proto.producer_version)))
    return [
        f"an ONNX graph, operators of version {source.opset}, by {producer or 'an unnamed producer'}",
        *_table("inputs", [(value.name, _type(value)) for value in graph.inputs]),
        *_table("outputs", [(value.name, _type(value)) for value in graph.outputs]),
        *_table("LSTM nodes", layers),
        _gates(gate_order.ONNX),
        f"operators: {', '.join(f'{name} {count}' for name, count in sorted(counts.items()))}",
        *_unsupported(graph.unsupported),
        *_tensors({name: array for name, array in graph.constants.items() if array.dtype.kind == "f"}),
        _onnx_metadata(path, {entry.key: entry.value for entry in source.proto.metadata_props}),
    ]


def _unsupported(kinds: Mapping[str, Sequence[str]]) -> list[str]:
    """Return lines of unsupported operators with their numbers of nodes and an example of each."""
    if not kinds:
        return ["not supported: none"]
    rows = [(kind, f"{len(nodes)}, {'such as ' if len(nodes) > 1 else ''}{nodes[0]}") for kind, nodes in kinds.items()]
    return _table("not supported", rows)


def _onnx_metadata(path: object, properties: dict[str, str]) -> str:
    try:
        return _metadata(native.metadata_of(path, properties))
    except ValueError as error:
        return f"metadata: not read: {_reason(path, error)}"


def _operators(graph: Any) -> Iterator[str]:
    """Yield the operator of each node of a graph and of its inner graphs."""
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _operators(inner)


def _type(value: Any) -> str:
    """Return the element type and shape of an input or output."""
    from .onnx.proto import DTYPES

    tensor = value.type.tensor_type
    dtype = DTYPES.get(tensor.elem_type, "of another type")
    if not tensor.HasField("shape"):
        return f"{dtype}, of any shape"
    names = {None: "?", "dim_value": "{0.dim_value}", "dim_param": "{0.dim_param}"}
    sizes = [names[size.WhichOneof("value")].format(size) for size in tensor.shape.dim]
    return f"{dtype} ({', '.join(sizes)})"


def _table(title: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return lines of names and their descriptions, under a title."""
    rows = [(printable(name), text) for name, text in rows]
    width = max((len(name) for name, _ in rows), default=0)
    return [title if rows else f"{title}: none", *(f"  {name:{width}}  {text}" for name, text in rows)]


def _layers(model: Layer) -> list[str]:
    if model.layers == (model,):
        return ["layers", f"  {call_of(model)}"]
    return _table("layers", [(str(index), call_of(layer)) for index, layer in enumerate(model.layers)])


def _gates(order: Sequence[str]) -> str:
    return f"gates in the file: {', '.join(_LETTERS[name] for name in order)}"


def _tensors(arrays: Mapping[str, Any], title: str = "tensors") -> list[str]:
    numbers, size = (sum(getattr(array, attribute) for array in arrays.values()) for attribute in ("size", "nbytes"))
    rows = [(name, f"{array.dtype} {array.shape}") for name, array in arrays.items()]
    return _table(
        f"{title}: {len(arrays)}, {counted(numbers, 'number')}, {counted(size, 'byte')}" if rows else title, rows
    )


def _metadata(metadata: Mapping[str, Any]) -> str:
    return f"metadata: {listed(metadata) or 'none'}"
