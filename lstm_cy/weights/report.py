"""What is in a model file, told line by line."""

import inspect
import os
from collections import Counter

from ..layers import Sequential
from . import gate_order, native

_LETTERS = dict(zip(gate_order.ORDER, "ifgo", strict=True))


def describe(path):
    """Lines that tell what a file holds: layers, options, tensors, the order of its gates, what is not read.

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
        As `load`. What a file holds besides what can be read is told, and is no error.

    Examples
    --------
    >>> import os, tempfile
    >>> from lstm_cy import LSTM, save
    >>> path = os.path.join(tempfile.mkdtemp(), "a.npz")
    >>> save(LSTM(3, 5, bias=False, bidirectional=True), path)
    >>> print(*describe(path)[1:], sep="\\n")
    layers
      LSTM(input_size=3, hidden_size=5, bias=False, bidirectional=True)
    gates in the file: i, f, g, o, as here
    parameters: 320 in 1280 bytes
      weight_ih_l0          float32  (20, 3)
      weight_hh_l0          float32  (20, 5)
      weight_ih_l0_reverse  float32  (20, 3)
      weight_hh_l0_reverse  float32  (20, 5)
    metadata: none
    """
    from . import by_suffix

    lines = by_suffix(path, _DESCRIBERS)(path)
    return [f"{os.fspath(path)}: {os.path.getsize(path)} bytes, {lines[0]}", *lines[1:]]


def _tensors(path):
    try:
        model, metadata = native.read_model(path, False)
    except native.ForeignFile:
        return _pytorch(path)
    return [
        f"a model of lstm_cy, format version {native.FORMAT_VERSION}",
        *_model(model),
        _gates(gate_order.ORDER),
        *_parameters(model.stored()),
        *_metadata(metadata),
    ]


def _keras(path):
    from .keras import read_model

    model = read_model(path)
    return [
        "a model of Keras",
        *_model(model),
        _gates(gate_order.KERAS),
        *_parameters(model.stored()),
    ]


def _onnx(path):
    from . import onnx
    from .onnx.fold import Graph
    from .onnx.proto import Source

    source = Source(path)
    proto = source.proto
    graph = Graph(source, proto.graph)
    operators = Counter(_operators(proto.graph))
    unsupported = [f"  {label}: {reason}" for label, reason in graph.foreign]
    if not unsupported:
        model = onnx.from_onnx(path)
        ends = {"inputs": model.inputs, "outputs": model.outputs}
    lstms = onnx.lstms(path)


def _operators(graph):
    """The operators of a graph and its sub-graphs, one entry for each node."""
    from .onnx.proto import graphs_of

    for node in graph.node:
        yield f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for inner in graphs_of(node):
            yield from _operators(inner)


def _model(model):
    if not isinstance(model, Sequential):
        return ["layers", f"  {words(model)}"]
    return ["layers", *(f"  {place}  {words(layer)}" for place, layer in enumerate(model.layers))]


def words(layer):
    """A layer as the call that makes it: its sizes, and the options that are not the usual ones."""
    usual = {name: parameter.default for name, parameter in inspect.signature(type(layer)).parameters.items()}
