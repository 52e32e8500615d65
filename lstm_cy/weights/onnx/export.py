"""Export of models as ONNX graphs; ONNX Runtime computes the same numbers from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...checks import flag, positive_int, warn
from ...layers.recurrent import Recurrent
from ...layers.sequential import Sequential
from .. import native
from ..files import replacing
from .export_graph import ExportGraph, import_onnx
from .export_layers import Flow, add_layers, inexpressible, recurrent_parts

if TYPE_CHECKING:
    from typing import IO

    from ...layers.base import Layer
    from ...typing import FilePath

#: operator sets in which every operator used here has the same meaning
OPSETS = range(13, 25)
_LARGEST = 2**31 - (1 << 20)  # bytes: protobuf's limit, less a reserve for the rest of the graph


def to_onnx(
    model: Layer,
    *,
    states: bool = False,
    lengths: bool = False,
    opset: int = 17,
    metadata: dict[str, Any] | None = None,
) -> Any:
    """Export a model as an ONNX graph for any number of steps and rows.

    Parameters
    ----------
    model : LSTM or Sequential
        At least one LSTM, and other layers except Masking and layers of your own. Dropout is left out.
    states : bool
        If True, the initial states are inputs; otherwise they are zeros.
    lengths : bool
        If True, the rows' lengths are an input; otherwise all rows are as long as x.
    opset : int
        The version of ONNX's operators, 13 to 24, if the library onnx supports it.
    metadata : dict, optional
        Anything JSON can hold; None: the model's own. With the architecture it becomes the entry "lstm_cy" of the
        graph's metadata_props, in the same form as in other files of `save`.

    Returns
    -------
    onnx.ModelProto
        Inputs, in this order: ``x`` (T, B, I), or ``tokens`` (T, B), int64, if the model begins with an Embedding;
        with `lengths` ``lengths`` (B,), int32; with `states` ``h0`` and ``c0`` (L*D, B, H). Outputs: ``y``, ``h_n``
        and ``c_n``. In a model of several LSTMs the names of the states begin with the layer's index, like its
        parameters: ``1.h0``. With batch_first x, tokens and y are (B, T, ...); after a Readout of the last step y is
        (B, ...).

    Raises
    ------
    ValueError
        The model has options that ONNX cannot express (all are named), no LSTM, or more than 2 GiB of weights.
    TypeError
        An argument has a wrong type; the message names it.
    ImportError
        The library onnx is not installed.

    Warns
    -----
    UserWarning
        The model is float64: ONNX Runtime's LSTM supports float32 only, so the model is rounded to float32; inputs and
        outputs stay float64.

    Examples
    --------
    >>> import onnx
    >>> from lstm_cy import LSTM
    >>> graph = to_onnx(LSTM(3, 5, seed=0), states=True).graph
    >>> [value.name for value in graph.input], [value.name for value in graph.output]
    (['x', 'h0', 'c0'], ['y', 'h_n', 'c_n'])
    """
    from ... import __version__

    onnx = import_onnx()
    states, lengths = flag("states", states), flag("lengths", lengths)
    newest = min(OPSETS[-1], onnx.defs.onnx_opset_version())
    if not OPSETS[0] <= positive_int("opset", opset) <= newest:
        raise ValueError(f"opset: expected {OPSETS[0]} to {newest}, got {opset}")
    layers = _layers(model, lengths)
    header = native.pack_header(model, metadata)
    if model.dtype != np.float32:
        warn("ONNX Runtime's LSTM supports float32 only: the model is rounded to it")
    graph = ExportGraph(onnx, np.dtype(model.dtype), opset)
    _add_model(graph, model, layers, states, lengths)
    opsets = [onnx.helper.make_opsetid("", opset)]
    exported = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "lstm_cy", graph.inputs, graph.outputs, graph.constants),
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),  # old runtimes refuse unknown versions
        producer_name="lstm_cy",
        producer_version=__version__,
    )
    onnx.helper.set_model_props(exported, {native.HEADER: header.decode()})
    return exported


def write_model(model: Layer, path: FilePath | IO[bytes], metadata: dict[str, Any] | None, **options: Any) -> None:
    """Write `model` and `metadata` to `path`, an .onnx file; see `weights.save`, and `to_onnx` for the options."""
    content = to_onnx(model, metadata=metadata, **options).SerializeToString(deterministic=True)
    with replacing(path) as file:
        file.write(content)


def _layers(model: Layer, lengths: bool) -> list[tuple[str, Layer]]:
    """Return [(prefix of its names, layer)]; raise if ONNX cannot express a layer."""
    if not isinstance(model, Recurrent | Sequential):
        raise TypeError(f"model: expected an LSTM or a Sequential, got {type(model).__name__}")
    parts: tuple[Layer, ...] = model.layers
    layers = [("" if parts == (model,) else f"{index}.", layer) for index, layer in enumerate(parts)]
    if not model.num_states:
        raise ValueError("model: expected one with an LSTM in it, got none")
    refused = [prefix + text for prefix, layer in layers for text in inexpressible(layer, lengths)]
    if refused:
        raise ValueError(f"ONNX cannot express {', '.join(refused)}; .npz and .safetensors files hold every model")
    size = sum(array.nbytes for array in model.parameters.values())
    if size > _LARGEST:
        raise ValueError(f"an .onnx file holds less than 2 GiB, the weights take {size} bytes")
    return layers


def _add_model(graph: ExportGraph, model: Any, layers: list[tuple[str, Layer]], states: bool, lengths: bool) -> None:
    """Add the whole graph; inside it the time axis is always first."""
    axes: list[int | str] = ["B", "T"] if model.batch_first else ["T", "B"]
    if model.vocabulary_size is None:
        x, order = graph.input("x", [*axes, model.input_features]), [1, 0, 2]
    else:
        x, order = graph.input("tokens", axes, np.int64), [1, 0]
    if model.batch_first:
        x = graph.node("Transpose", [x], "time_first", perm=order)
    lstms = _named_lstms(layers)
    initial = {prefix: _add_states(graph, name, lstm) for prefix, (name, lstm) in lstms.items()} if states else {}
    flow = Flow(x, model.input_features, graph.input("lengths", ["B"], np.int32) if lengths else "", initial)
    add_layers(layers, graph, flow)
    if flow.steps is not None and model.batch_first:
        flow.x = graph.node("Transpose", [flow.x], "batch_first", perm=[1, 0, 2])
    axes = ["B"] if flow.steps is None else ["B", flow.steps] if model.batch_first else [flow.steps, "B"]
    graph.output(flow.x, "y", [*axes, "F" if flow.features is None else flow.features])
    for prefix, (name, lstm) in lstms.items():
        for value, part in zip(flow.finals[prefix], ("h_n", "c_n"), strict=True):
            graph.output(value, name + part, _state_shape(lstm))


def _named_lstms(layers: list[tuple[str, Any]]) -> dict[str, tuple[str, Recurrent]]:
    """Return {prefix: (prefix of its states' names, LSTM)}; a single LSTM's states have no prefix."""
    found = {prefix: lstm for outer, layer in layers for prefix, lstm in recurrent_parts(layer, outer)}
    return {prefix: (prefix if len(found) > 1 else "", lstm) for prefix, lstm in found.items()}


def _state_shape(lstm: Recurrent) -> list[int | str]:
    return [lstm.num_layers * lstm.num_directions, "B", lstm.hidden_size]


def _add_states(graph: ExportGraph, name: str, lstm: Recurrent) -> list[str]:
    return [graph.input(name + part, _state_shape(lstm)) for part in ("h0", "c0")]
