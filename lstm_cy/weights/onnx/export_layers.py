"""The nodes of an ONNX graph that compute a layer, and what of a layer ONNX cannot express.

`inexpressible` and `add` select a function by the layer's class; a layer of another class is not expressible.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from ...layers import activations
from ...layers.activation import Activation
from ...layers.conv import Conv1D
from ...layers.dropout import Dropout
from ...layers.embedding import Embedding
from ...layers.linear import Linear
from ...layers.normalization import BatchNormalization, LayerNormalization
from ...layers.pooling import GlobalPooling1D, Pooling1D
from ...layers.quantized import QuantizedLSTM
from ...layers.readout import Readout
from ...layers.recurrent import Recurrent
from ...layers.regularization import ActivationRegularization
from ...layers.residual import Residual
from ...layers.shapes import Flatten, RepeatVector
from .. import gate_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...layers.base import Layer
    from ...typing import Array
    from .export_graph import ExportGraph

# ONNX's names of the functions that are not just capitalized, as "Sigmoid" is.
_ONNX_NAMES = {
    "logsoftmax": "LogSoftmax",
    "leakyrelu": "LeakyRelu",
    "thresholdedrelu": "ThresholdedRelu",
    "scaledtanh": "ScaledTanh",
    "hardsigmoid": "HardSigmoid",
}


class Flow:
    """The values that go from layer to layer while a graph is made.

    Attributes
    ----------
    x : str
        The output of the last layer, with the time axis first.
    features : int
        The number of its features; None if it depends on the number of steps.
    steps : str, int or None
        The number of its steps, or a name for it; None for one vector a row.
    lengths : str
        The rows' lengths; "" if there are none.
    initial, finals : dict
        {prefix of an LSTM: [h, c]}, its initial and final states; no initial ones where they are zeros.
    """

    def __init__(self, x: str, features: Any, lengths: str, initial: dict[str, list[str]]) -> None:
        self.x, self.features, self.lengths, self.initial = x, features, lengths, initial
        self.steps: str | int | None = "T"
        self.finals: dict[str, list[str]] = {}


@functools.singledispatch
def inexpressible(layer: Layer, lengths: bool) -> list[str]:
    """Return descriptions of what ONNX's operators cannot express: options of a layer, or the layer itself."""
    return [type(layer).__name__]


@inexpressible.register(Activation)
@inexpressible.register(ActivationRegularization)
@inexpressible.register(BatchNormalization)
@inexpressible.register(Dropout)
@inexpressible.register(Flatten)
@inexpressible.register(LayerNormalization)
@inexpressible.register(Linear)
@inexpressible.register(RepeatVector)
def _nothing(layer: Layer, lengths: bool) -> list[str]:
    return []


@inexpressible.register(Embedding)
def _mask_of_embedding(layer: Embedding, lengths: bool) -> list[str]:
    return ["mask_zero=True"] if layer.mask_zero else []


@inexpressible.register(Readout)
def _options_of_readout(layer: Readout, lengths: bool) -> list[str]:
    found = ["Readout(merge_mode=None)"] if layer.merge_mode is None else []
    return [*found, "Readout with lengths"] if lengths else found


@inexpressible.register(Conv1D)
def _options_of_conv(layer: Conv1D, lengths: bool) -> list[str]:
    found = ["Conv1D with lengths"] if lengths else []
    if layer.padding == "same" and layer.stride > 1 and layer.dilation > 1:
        found.append("padding='same' with a stride and a dilation")
    return found


@inexpressible.register(Pooling1D)
def _options_of_pooling(layer: Pooling1D, lengths: bool) -> list[str]:
    found = ["Pooling1D with lengths"] if lengths else []
    if layer.padding == "same" and layer.stride > layer.size:  # ONNX Runtime does not fill the last window
        found.append("padding='same' with a stride longer than the windows")
    return found


@inexpressible.register(GlobalPooling1D)
def _lengths_of_pooling(layer: GlobalPooling1D, lengths: bool) -> list[str]:
    return ["GlobalPooling1D with lengths"] if lengths else []


@inexpressible.register(Residual)
def _parts_of_residual(layer: Residual, lengths: bool) -> list[str]:
    found = [f"{index}.{text}" for index, part in enumerate(layer.parts) for text in inexpressible(part, lengths)]
    return found + (["Residual with lengths"] if lengths else [])


@inexpressible.register(Recurrent)
def _options_of_lstm(layer: Recurrent, lengths: bool) -> list[str]:
    options = {name: layer.config[name] for name in ("proj_size", "layer_norm", "cell_clip", "proj_clip")}
    found = [f"{name}={value!r}" for name, value in options.items() if value]
    if layer.coupled_gates == "i=1-f":
        found.append("coupled_gates='i=1-f'")
    return found + ([f"zoneout={layer.zoneout!r}"] if any(layer.zoneout) else [])


@inexpressible.register(QuantizedLSTM)
def _options_of_quantized_lstm(layer: QuantizedLSTM, lengths: bool) -> list[str]:
    narrow = f"narrow weights ({layer.weights}; an LSTM of the same sizes can load their state_dict())"
    return [*_options_of_lstm(layer, lengths), narrow]


@functools.singledispatch
def recurrent_parts(layer: Any, prefix: str) -> list[tuple[str, Recurrent]]:
    """Return [(prefix of its names, LSTM)] of the LSTMs in a layer: itself, or those inside it."""
    return [(prefix, layer)] if layer.num_states else []


@recurrent_parts.register(Residual)
def _recurrent_parts_of_residual(layer: Residual, prefix: str) -> list[tuple[str, Recurrent]]:
    return [found for index, part in enumerate(layer.parts) for found in recurrent_parts(part, f"{prefix}{index}.")]


def add_layers(layers: Sequence[tuple[str, Layer]], graph: ExportGraph, flow: Flow) -> None:
    """Add the nodes of layers that run one after the other, each with the prefix of its names."""
    for prefix, layer in layers:
        flow.x = add(layer, graph, prefix, flow)
        flow.features = layer.output_features(flow.features)
        if not layer.gives_steps:
            flow.steps = None


@functools.singledispatch
def add(layer: Layer, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    """Add the nodes of an expressible layer, whose names begin with `prefix`, and return its output."""
    raise NotImplementedError(type(layer).__name__)


@add.register(ActivationRegularization)
@add.register(Dropout)
def _add_nothing(layer: Layer, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    return flow.x


@add.register(Embedding)
def _add_embedding(layer: Embedding, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    weight = graph.weight(prefix, layer, "weight", layer.parameters["weight"])
    return graph.node("Gather", [weight, flow.x], f"{prefix}vectors")


@add.register(Linear)
def _add_linear(layer: Linear, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    weight = graph.weight(prefix, layer, "weight", layer.weight.T)
    x = graph.node("MatMul", [flow.x, weight], f"{prefix}product")
    if layer.bias:
        bias = graph.weight(prefix, layer, "bias", layer.parameters["bias"])
        x = graph.node("Add", [x, bias], f"{prefix}sum")
    return x


@add.register(Activation)
def _add_activation(layer: Activation, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    x = flow.x

    def number(name: str, value: float | None) -> str:
        return graph.constant(prefix + name, np.float32(value))

    def node(operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        return graph.node(operator, inputs, prefix + name, **attributes)

    if layer.name == "affine":
        return node(
            "Add", [node("Mul", [x, number("alpha", layer.alpha)], "product"), number("beta", layer.beta)], "sum"
        )
    if layer.name == "scaledtanh":
        scaled = node("Mul", [x, number("beta", layer.beta)], "scaled")
        return node("Mul", [node("Tanh", [scaled], "tanh"), number("alpha", layer.alpha)], "product")
    if layer.name == "silu":
        return node("Mul", [x, node("Sigmoid", [x], "sigmoid")], "product")
    if layer.name == "gelu":  # x * (1 + erf(x / sqrt 2)) / 2; ONNX's operator Gelu needs opset 20
        erf = node("Erf", [node("Mul", [x, number("root", 0.5**0.5)], "scaled")], "erf")
        half = node("Mul", [x, number("half", 0.5)], "half_of")
        return node("Mul", [half, node("Add", [erf, number("one", 1.0)], "twice")], "product")
    attributes = {name: getattr(layer, name) for name in ("alpha", "beta") if getattr(layer, name) is not None}
    if layer.name.endswith("softmax"):
        attributes["axis"] = -1
    return node(_onnx_name(layer.name), [x], layer.name, **attributes)


@add.register(Conv1D)
def _add_conv(layer: Conv1D, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    reach = (layer.kernel_size - 1) * layer.dilation
    pads = {"valid": [0, 0], "causal": [reach, 0], "same": [reach // 2, reach - reach // 2]}[layer.padding]
    options: dict[str, Any] = {"pads": pads}
    if layer.padding == "same" and layer.stride > 1:
        options = {"auto_pad": "SAME_UPPER"}
    parameters = layer.parameters.items()  # weight, and perhaps bias
    weights = [graph.weight(prefix, layer, name, array) for name, array in parameters]
    options |= {"strides": [layer.stride], "dilations": [layer.dilation], "group": layer.groups}
    return _over_steps(graph, prefix, flow, "Conv", weights, **options)


@add.register(Pooling1D)
def _add_pooling(layer: Pooling1D, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    options = {"auto_pad": "SAME_UPPER"} if layer.padding == "same" else {}
    operator = "MaxPool" if layer.kind == "max" else "AveragePool"
    return _over_steps(graph, prefix, flow, operator, [], kernel_shape=[layer.size], strides=[layer.stride], **options)


def _over_steps(
    graph: ExportGraph, prefix: str, flow: Flow, operator: str, weights: list[str], **attributes: Any
) -> str:
    """Add an operator over the steps, which ONNX has as the last axis."""
    x = graph.node("Transpose", [flow.x], f"{prefix}steps_last", perm=[1, 2, 0])
    y = graph.node(operator, [x, *weights], f"{prefix}windows", **attributes)
    flow.steps = f"T{prefix.rstrip('.')}"
    return graph.node("Transpose", [y], f"{prefix}steps_first", perm=[2, 0, 1])


@add.register(GlobalPooling1D)
def _add_global_pooling(layer: GlobalPooling1D, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    x = graph.node("Transpose", [flow.x], f"{prefix}steps_last", perm=[1, 2, 0])
    y = graph.node("GlobalMaxPool" if layer.kind == "max" else "GlobalAveragePool", [x], f"{prefix}pooled")
    return graph.node("Squeeze", [y, graph.constant(f"{prefix}axis", np.array([2]))], f"{prefix}vector")


@add.register(BatchNormalization)
def _add_batch_normalization(layer: BatchNormalization, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    p = layer.parameters
    mean = graph.weight(prefix, layer, "running_mean", p["running_mean"])
    deviation = np.sqrt(p["running_var"] + layer.dtype.type(layer.eps))
    factor = graph.weight(prefix, layer, "factor", p["weight"] / deviation)
    bias = graph.weight(prefix, layer, "bias", p["bias"])
    centred = graph.node("Sub", [flow.x, mean], f"{prefix}centred")
    return graph.node("Add", [graph.node("Mul", [centred, factor], f"{prefix}scaled"), bias], f"{prefix}normal")


@add.register(LayerNormalization)
def _add_layer_normalization(layer: LayerNormalization, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    weights = [graph.weight(prefix, layer, name, layer.parameters[name]) for name in ("weight", "bias")]
    if graph.opset >= 17:
        return graph.node("LayerNormalization", [flow.x, *weights], f"{prefix}normal", axis=-1, epsilon=layer.eps)

    def node(operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        return graph.node(operator, inputs, prefix + name, **attributes)

    centred = node("Sub", [flow.x, node("ReduceMean", [flow.x], "mean", axes=[-1])], "centred")
    variance = node("ReduceMean", [node("Mul", [centred, centred], "squared")], "variance", axes=[-1])
    eps = graph.constant(f"{prefix}eps", np.float32(layer.eps))
    deviation = node("Sqrt", [node("Add", [variance, eps], "positive")], "deviation")
    scaled = node("Mul", [node("Div", [centred, deviation], "divided"), weights[0]], "scaled")
    return node("Add", [scaled, weights[1]], "normal")


@add.register(Flatten)
def _add_flatten(layer: Flatten, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    x = graph.node("Transpose", [flow.x], f"{prefix}rows_first", perm=[1, 0, 2])
    return graph.node("Flatten", [x], f"{prefix}vector", axis=1)


@add.register(RepeatVector)
def _add_repeat_vector(layer: RepeatVector, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    flow.steps, flow.lengths = layer.steps, ""  # a new sequence
    x = graph.node("Unsqueeze", [flow.x, graph.constant(f"{prefix}axis", np.array([0]))], f"{prefix}one_step")
    shape = graph.constant(f"{prefix}shape", np.array([layer.steps, 1, 1]))
    return graph.node("Expand", [x, shape], f"{prefix}repeated")


@add.register(Residual)
def _add_residual(layer: Residual, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    x, features = flow.x, flow.features
    add_layers([(f"{prefix}{index}.", part) for index, part in enumerate(layer.parts)], graph, flow)
    if flow.features != features:  # the first features are added
        ends = {"from": 0, "to": flow.features, "axis": -1}
        values = [graph.constant(f"{prefix}{name}", np.array([value])) for name, value in ends.items()]
        x = graph.node("Slice", [x, *values], f"{prefix}skipped")
    flow.features = features  # until the caller sets that of this layer
    return graph.node("Add", [flow.x, x], f"{prefix}residual")


@add.register(Readout)
def _add_readout(layer: Readout, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    y = flow.x
    if not layer.bidirectional:
        return _selected_steps(graph, prefix, layer, y, layer.go_backwards)
    if layer.merge_mode == "concat" and layer.return_sequences:
        return y
    sizes = graph.constant(f"{prefix}sizes", np.full(2, flow.features // 2))
    halves = graph.node("Split", [y, sizes], [f"{prefix}forward", f"{prefix}reverse"], axis=-1)
    if not layer.return_sequences:
        halves = [
            _selected_steps(graph, half, layer, half, backwards)
            for half, backwards in zip(halves, (False, True), strict=True)
        ]
    if layer.merge_mode == "concat":
        return graph.node("Concat", halves, f"{prefix}merged", axis=-1)
    merged = graph.node("Mul" if layer.merge_mode == "mul" else "Add", halves, f"{prefix}merged")
    if layer.merge_mode == "ave":
        merged = graph.node("Mul", [merged, graph.constant(f"{prefix}half", np.float32(0.5))], f"{prefix}average")
    return merged


def _selected_steps(graph: ExportGraph, prefix: str, layer: Readout, y: str, backwards: bool) -> str:
    """Add the selection of the last computed step, or of all steps in the order of computation."""
    if not layer.return_sequences:
        last = graph.constant(f"{prefix}.last", np.array(0 if backwards else -1))
        return graph.node("Gather", [y, last], f"{prefix}.selected", axis=0)
    if not backwards:
        return y
    ends = {"from": -1, "to": np.iinfo(np.int64).min, "axis": 0, "step": -1}
    values = [graph.constant(f"{prefix}.{name}", np.array([value])) for name, value in ends.items()]
    return graph.node("Slice", [y, *values], f"{prefix}.selected")


@add.register(Recurrent)
def _add_lstm(lstm: Recurrent, graph: ExportGraph, prefix: str, flow: Flow) -> str:
    """Add one node for each layer of an LSTM, and its final states to `flow.finals`."""
    L, x, lengths, state = lstm.num_layers, flow.x, flow.lengths, flow.initial.get(prefix)
    if state is None and lstm.learn_initial_state:
        state = _learned_states(graph, prefix, lstm, x)
    initial = [[""] * L, [""] * L] if state is None else [_split(graph, prefix, lstm, part) for part in state]
    finals: tuple[list[str], list[str]] = [], []
    for layer in range(L):
        name = f"{prefix}l{layer}."
        values = _add_weights(graph, prefix, lstm, layer)
        inputs = [x, values["W"], values["R"], values["B"], lengths, initial[0][layer], initial[1][layer], values["P"]]
        while not inputs[-1]:
            inputs.pop()
        outputs = [f"{name}Y", f"{name}Y_h", f"{name}Y_c"]
        y, *final = graph.node("LSTM", inputs, outputs, f"{prefix}l{layer}", **_attributes(lstm))
        x = _join_directions(graph, name, lstm, y)
        for kept, value, before in zip(finals, final, initial, strict=True):
            kept.append(_keep_initial_states(graph, value, before[layer], lengths))
    flow.finals[prefix] = [
        values[0] if L == 1 else graph.node("Concat", values, f"{values[0]}.all", axis=0) for values in finals
    ]
    return x


def _learned_states(graph: ExportGraph, prefix: str, lstm: Recurrent, x: str) -> list[str]:
    """Add the learned initial states, (L*D, B, H), for as many rows as x (T, B, I) has."""
    axis = graph.constant(f"{prefix}batch_axis", np.array([1]))
    rows = graph.node("Gather", [graph.node("Shape", [x], f"{prefix}shape_of_x"), axis], f"{prefix}rows", axis=0)
    one = graph.constant(f"{prefix}one", np.array([1]))
    shape = graph.node("Concat", [one, rows, one], f"{prefix}shape_of_state", axis=0)
    found = []
    for part in ("initial_h", "initial_c"):
        own = [array for name, array in lstm.parameters.items() if name.startswith(part)]
        state = graph.weight(prefix, lstm, part, np.stack(own)[:, np.newaxis])
        found.append(graph.node("Expand", [state, shape], f"{prefix}{part}_of_rows"))
    return found


def _split(graph: ExportGraph, prefix: str, lstm: Recurrent, state: str) -> list[str]:
    """Split the states (L*D, B, H) into one value for each layer."""
    L = lstm.num_layers
    if L == 1:
        return [state]
    sizes = graph.constant(f"{state}.sizes", np.full(L, lstm.num_directions))
    return graph.node("Split", [state, sizes], [f"{state}.{layer}" for layer in range(L)], axis=0)


def _join_directions(graph: ExportGraph, name: str, lstm: Recurrent, y: str) -> str:
    """Convert ONNX's Y, (T, D, B, H), to (T, B, D*H)."""
    if lstm.num_directions == 1:
        return graph.node("Squeeze", [y, graph.constant(f"{name}axis", np.array([1]))], f"{name}y")
    y = graph.node("Transpose", [y], f"{name}Y_transposed", perm=[0, 2, 1, 3])
    shape = np.array([0, 0, 2 * lstm.hidden_size])  # 0 keeps the size
    return graph.node("Reshape", [y, graph.constant(f"{name}shape", shape)], f"{name}y")


def _keep_initial_states(graph: ExportGraph, final: str, initial: str, lengths: str) -> str:
    """Set the final state of rows of length 0 to the initial one, where ONNX Runtime gives zeros."""
    if not initial or not lengths:
        return final
    none = graph.constant(f"{final}.none", np.array(0, np.int32))
    empty = graph.node("Equal", [lengths, none], f"{final}.empty")
    column = graph.node("Unsqueeze", [empty, graph.constant(f"{final}.axis", np.array([1]))], f"{final}.empty_rows")
    return graph.node("Where", [column, initial, final], f"{final}.kept")


def _add_weights(graph: ExportGraph, prefix: str, lstm: Recurrent, layer: int) -> dict[str, str]:
    """Add the weights in ONNX's order of gates; return {"W", "R", "B", "P": constant, or "" if there is none}."""
    parts: dict[str, list[Array]] = {"W": [], "R": [], "B": [], "P": []}
    for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: lstm.num_directions]:
        own: dict[str, Any] = {
            part: lstm.parameters.get(part + suffix) for part in ("weight_ih", "weight_hh", "peephole")
        }
        parts["W"].append(gate_order.reorder(own["weight_ih"], gate_order.ORDER, gate_order.ONNX))
        parts["R"].append(gate_order.reorder(own["weight_hh"], gate_order.ORDER, gate_order.ONNX))
        if lstm.bias:
            biases = [lstm.parameters[part + suffix] for part in ("bias_ih", "bias_hh")]
            reordered = [gate_order.reorder(bias, gate_order.ORDER, gate_order.ONNX) for bias in biases]
            parts["B"].append(np.concatenate(reordered))
        if own["peephole"] is not None:
            rows = gate_order.reorder(own["peephole"], gate_order.PEEPHOLES, gate_order.ONNX_PEEPHOLES)
            parts["P"].append(rows.ravel())
    return {
        part: graph.weight(prefix, lstm, f"l{layer}.{part}", np.stack(arrays)) if arrays else ""
        for part, arrays in parts.items()
    }


def _attributes(lstm: Recurrent) -> dict[str, Any]:
    """Return the attributes of a layer's node."""
    direction = "bidirectional" if lstm.bidirectional else "reverse" if lstm.reverse else "forward"
    attributes = {"hidden_size": lstm.hidden_size, "direction": direction}
    if lstm.coupled_gates is not None:
        attributes["input_forget"] = 1
    if lstm.clip is not None:
        attributes["clip"] = lstm.clip
    if any(triple != activations.PLAIN for triple in lstm.activations):
        attributes |= _activations(lstm)
    return attributes


def _activations(lstm: Recurrent) -> dict[str, Any]:
    """Return the activations; alpha and beta are separate lists, with an entry for each activation that takes one."""
    entries = [entry for triple in lstm.activations for entry in triple]
    takes = [activations.ARGUMENTS.get(name, 0) for name, _, _ in entries]
    lists = {
        "activations": [_onnx_name(name) for name, _, _ in entries],
        "activation_alpha": [alpha for (_, alpha, _), count in zip(entries, takes, strict=True) if count >= 1],
        "activation_beta": [beta for (_, _, beta), count in zip(entries, takes, strict=True) if count == 2],
    }
    return {name: values for name, values in lists.items() if values}


def _onnx_name(name: str) -> str:
    return _ONNX_NAMES.get(name, name.capitalize())
