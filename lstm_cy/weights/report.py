"""Description of a model file, in lines of text."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from ..layers.lstm import LSTM
from ..printable import printable
from . import gate_order, native
from .faults import ForeignFile, check_finite, counted, listed, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..layers.base import Layer
    from ..typing import FilePath

_LETTERS = dict(zip(gate_order.ORDER, "ifgo", strict=True))


def describe(path: FilePath) -> list[str]:
    """Describe a file in lines: layers and their options, tensors, the order of the gates, unsupported parts.

    Parameters
    ----------
    path : str or os.PathLike
        Any file that `load` reads.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError, ImportError, OSError
        As `load`, except that several LSTMs, other contents, and layers and tensors that are not supported are no
        errors: the lines mention them.

    Examples
    --------
    >>> import os, tempfile
    >>> from lstm_cy import LSTM, save
    >>> path = os.path.join(tempfile.mkdtemp(), "a.npz")
    >>> save(LSTM(3, 5, bias=False, bidirectional=True), path)
    >>> print(*describe(path)[1:], sep="\\n")
    layers
      LSTM(input_size=3, hidden_size=5, bias=False, bidirectional=True)
    gates in the file: i, f, g, o
    tensors: 4, 320 numbers, 1280 bytes
      weight_ih_l0          float32 (20, 3)
      weight_hh_l0          float32 (20, 5)
      weight_ih_l0_reverse  float32 (20, 3)
      weight_hh_l0_reverse  float32 (20, 5)
    metadata: none
    """
    from . import by_suffix

    first, *lines = by_suffix(path, _DESCRIBERS)(path)
    size = counted(os.path.getsize(path), "byte")
    return [printable(line) for line in (f"{os.fspath(path)}: {size}, {first}", *lines)]


def call_of(layer: Layer) -> str:
    """Return the call that makes a layer, without options that have their default.

    Examples
    --------
    >>> from lstm_cy import LSTM
    >>> call_of(LSTM(3, 5, 2, batch_first=True))
    'LSTM(input_size=3, hidden_size=5, num_layers=2, batch_first=True)'
    """
    arguments = ", ".join(f"{name}={value!r}" for name, value in layer.arguments().items())
    return f"{type(layer).__name__}({arguments})"


def _describe_own_or_pytorch(path: FilePath) -> list[str]:
    try:
        model, metadata = native.read_model(path, strict=False)
    except ForeignFile:
        return _pytorch(path)
    return [
        f"a model of lstm_cy, format version {native.version_of(model)}",
        *_layers(model),
        _gates(gate_order.ORDER),
        *_tensors(model.stored()),
        _metadata(metadata),
    ]


def _pytorch(path: FilePath) -> list[str]:
    from . import pytorch

    found = pytorch.read_lstms(path)
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
    ]


def _reason(path: FilePath, error: ValueError) -> str:
    """Return the message of an error without the file's name."""
    return shortened(str(error).removeprefix(f"{printable(os.fspath(path))}: "))


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, tensor) for nested dicts and lists; keys and indices come before the names."""
    if hasattr(value, "shape"):
        yield prefix, value
    elif isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(inner, f"{prefix}/{key}" if prefix else str(key))


def own_tensors(tensors: Any, prefix: str, lstm: LSTM) -> dict[str, Any]:
    """Return {parameter: tensor} of the LSTM that `pytorch.lstms` found under `prefix`, from the pairs of `flat`."""
    own = {}
    for path, tensor in tensors.items():
        for name in (path, path.rpartition("/")[2]):
            part = name.removeprefix(prefix)
            for parameter in (part, f"{part}_l0"):  # an LSTMCell's parameters have no number
                if name.startswith(prefix) and parameter in lstm.parameters:
                    own[parameter] = tensor
    return own


def _keras(path: FilePath) -> list[str]:
    from . import keras

    contents = keras.contents(path)
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
        _gates(gate_order.KERAS),
        *_table("not supported", contents.unsupported or [("", contents.problem)]),
        *_tensors(contents.arrays),
    ]


def _onnx(path: FilePath) -> list[str]:
    from .onnx import lstms
    from .onnx.fold import Graph
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
        *(_table("not supported", graph.unsupported) if graph.unsupported else ["not supported: none"]),
        *_tensors({name: array for name, array in graph.constants.items() if array.dtype.kind == "f"}),
        _onnx_metadata(path, {entry.key: entry.value for entry in source.proto.metadata_props}),
    ]


def _onnx_metadata(path: FilePath, properties: dict[str, str]) -> str:
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


_DESCRIBERS = {
    **dict.fromkeys((".npz", ".safetensors"), _describe_own_or_pytorch),
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), _pytorch),
    **dict.fromkeys((".keras", ".h5", ".hdf5"), _keras),
    ".onnx": _onnx,
}
