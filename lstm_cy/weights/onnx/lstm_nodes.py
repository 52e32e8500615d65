"""Conversion of LSTM nodes of ONNX graphs to layers."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

from ..faults import check_finite
from .fold import Graph
from .layers import INPUTS, WEIGHTS, Layers, LstmNode, input_name
from .proto import Source, naming, quoted
from .quantized_lstm import QUANTIZED_INPUTS, QUANTIZED_WEIGHTS, QuantizedLstm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...layers.lstm import LSTM
    from ...typing import Array
    from .node import Node


def lstms(model: Any) -> dict[str, LSTM]:
    """Return every LSTM node of an ONNX model as a layer, including nodes inside If, Loop and Scan.

    The weights of a DynamicQuantizeLSTM node become the float32 numbers that they stand for.

    Parameters
    ----------
    model : str, os.PathLike, bytes or onnx.ModelProto
        A file, its content, or its parsed protobuf.

    Returns
    -------
    dict of str to LSTM
        One for each node, in the graph's order, under the node's name. A node without a name gets that of its first
        output; a repeated name gets a number. Nodes with the same weights and attributes give layers that share the
        weights until one of them gets others. layout 1 becomes batch_first. Initial states and lengths are arguments of
        a call and not part of a layer: a node with constant initial states other than zeros gives a warning.

    Raises
    ------
    ValueError
        The file is truncated or damaged, or weights are not constant or have a wrong shape; the message names file and
        node.
    OSError
        The file cannot be read.

    Warns
    -----
    UserWarning
        NaN or infinity among the weights; initial states other than zeros.

    Examples
    --------
    >>> import onnx
    >>> from lstm_cy.weights.onnx import lstms
    >>> text = '''<ir_version: 8, opset_import: ["": 17]> g (float[T, B, 3] x) => (float[T, 1, B, 2] y) {
    ...     W_shape = Constant <value_ints = [1, 8, 3]> ()
    ...     R_shape = Constant <value_ints = [1, 8, 2]> ()
    ...     W = ConstantOfShape <value = float[1] {0.5}> (W_shape)
    ...     R = ConstantOfShape <value = float[1] {0.5}> (R_shape)
    ...     y = LSTM <hidden_size = 2> (x, W, R)
    ... }'''
    >>> lstms(onnx.parser.parse_model(text))
    {'y': LSTM(3, 2, bias=False)}
    """
    source = Source(model)
    with naming(source.name):
        for function in source.proto.functions:
            if any(node.op_type in _LAYERS for node in function.node):
                advice = "onnx.inliner.inline_local_functions brings it into the graph"
                raise ValueError(f"function {quoted(function.name)} has an LSTM; {advice}")
        found: dict[str, LSTM] = {}
        layers = Layers(source.budget)
        arrays: dict[str, Array | None] = {}
        for graph, node in _lstm_nodes(Graph(source, source.proto.graph)):
            name = unique(node.name or next(filter(None, node.outputs), "LSTM"), found)
            with naming(node):
                layer, weights = _LAYERS[node.op_type](graph, node, layers)
                found[name] = copy.copy(layer)
            _warn_of_states(source.name, graph, node)
            arrays |= {f"{name}: {INPUTS[index]}": array for index, array in zip(WEIGHTS, weights, strict=True)}
    check_finite(source.name, {name: array for name, array in arrays.items() if array is not None}, False)
    return found


def _lstm_nodes(graph: Graph) -> Iterator[tuple[Graph, Node]]:
    yield from ((graph, node) for node in graph.nodes if node.op_type in _LAYERS)
    for inner in graph.graphs:
        yield from _lstm_nodes(inner)


def unique(name: str, taken: Any) -> str:
    """Return a name that is not in `taken`: with a number if it is."""
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def _plain(graph: Graph, node: Node, layers: Layers) -> tuple[LSTM, list[Array | None]]:
    """Return the layer of an LSTM node, and its weights."""
    weights = _constants(graph, node, WEIGHTS)
    return layers.get(LstmNode(node), weights), weights


def _quantized(graph: Graph, node: Node, layers: Layers) -> tuple[LSTM, list[Array | None]]:
    """Return a layer with the float32 numbers that the weights of a DynamicQuantizeLSTM stand for, and its weights."""
    quantized, arrays = QuantizedLstm(node), _constants(graph, node, QUANTIZED_WEIGHTS)
    layers.charge([array if array is None or array.ndim != 3 else array.swapaxes(1, 2) for array in arrays])
    weights = quantized.weights(arrays)
    return quantized.lstm.layer(*weights), weights


_LAYERS = {"LSTM": _plain, "DynamicQuantizeLSTM": _quantized}


def _constants(graph: Graph, node: Node, indices: tuple[int, ...]) -> list[Any]:
    """Return the constant inputs of a node, None for omitted ones; raise if one is not constant."""
    names = [input_name(node.inputs, index) for index in indices]
    arrays = [graph.constant(name) if name else None for name in names]
    variable = [
        f"{QUANTIZED_INPUTS[index]} = {quoted(name)}"
        for index, name, array in zip(indices, names, arrays, strict=True)
        if name and array is None
    ]
    if variable:
        raise ValueError(f"{', '.join(variable)}: not constant, or over the limit of constant folding")
    return arrays


def _warn_of_states(path: str, graph: Graph, node: Node) -> None:
    for index in (5, 6):
        array = graph.constant(input_name(node.inputs, index))
        if array is not None and array.any():
            message = f"{path}: {node}: its {INPUTS[index]} is constant and not zero; a layer takes it as `state`"
            warnings.warn(message, stacklevel=4)  # 4: the caller of lstms
