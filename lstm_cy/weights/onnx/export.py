"""Export of models as ONNX graphs; ONNX Runtime computes the same numbers from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...checks import flag, positive_int, warn
from ...layers import activations
from ...layers.activation import Activation
from ...layers.dropout import Dropout
from ...layers.embedding import Embedding
from ...layers.linear import Linear
from ...layers.quantized import QuantizedLSTM
from ...layers.readout import Readout
from ...layers.recurrent import Recurrent
from ...layers.sequential import Sequential
from .. import gate_order, native
from ..files import replacing
from .proto import import_onnx

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    from ...layers.base import Layer
    from ...typing import Array, DTypeLike, FilePath

    _Names = TypeVar("_Names", str, list[str])

#: operator sets in which every operator used here has the same meaning
OPSETS = range(13, 25)
_LARGEST = 2**31 - (1 << 20)  # bytes: protobuf's limit, less a reserve for the rest of the graph
# ONNX's names of the functions that are not just capitalized, as "Sigmoid" is.
_ONNX_NAMES = {
    "logsoftmax": "LogSoftmax",
    "leakyrelu": "LeakyRelu",
    "thresholdedrelu": "ThresholdedRelu",
    "scaledtanh": "ScaledTanh",
    "hardsigmoid": "HardSigmoid",
}


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
        At least one LSTM, and other layers except Masking. Dropout is left out.
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
    graph = _Graph(onnx, np.dtype(model.dtype))
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


def write_model(model: Layer, path: FilePath, metadata: dict[str, Any] | None, **options: Any) -> None:
    """Write `model` and `metadata` to `path`, an .onnx file; see `weights.save`, and `to_onnx` for the options."""
    content = to_onnx(model, metadata=metadata, **options).SerializeToString(deterministic=True)
    with replacing(path) as file:
        file.write(content)


def _layers(model: Layer, lengths: bool) -> list[tuple[str, Layer]]:
    """Return [(prefix of its names, layer)] without Dropout; raise if ONNX cannot express a layer."""
    if isinstance(model, Sequential):
        layers = [(f"{index}.", layer) for index, layer in enumerate(model.layers) if not isinstance(layer, Dropout)]
    elif isinstance(model, Recurrent):
        layers = [("", model)]
    else:
        raise TypeError(f"model: expected an LSTM or a Sequential, got {type(model).__name__}")
    if not any(isinstance(layer, Recurrent) for _, layer in layers):
        raise ValueError("model: expected one with an LSTM in it, got none")
    refused = [prefix + text for prefix, layer in layers for text in _inexpressible(layer, lengths)]
    if refused:
        raise ValueError(f"ONNX cannot express {', '.join(refused)}; .npz and .safetensors files hold every model")
    size = sum(array.nbytes for array in model.parameters.values())
    if size > _LARGEST:
        raise ValueError(f"an .onnx file holds less than 2 GiB, the weights take {size} bytes")
    return layers


def _inexpressible(layer: Layer, lengths: bool) -> list[str]:
    """Return descriptions of the options of a layer that ONNX's operators cannot express."""
    found = []
    if isinstance(layer, Recurrent):
        options = {name: layer.config[name] for name in ("proj_size", "layer_norm", "cell_clip", "proj_clip")}
        found = [f"{name}={value!r}" for name, value in options.items() if value]
        if layer.coupled_gates == "i=1-f":
            found.append("coupled_gates='i=1-f'")
        if isinstance(layer, QuantizedLSTM):
            found.append(f"narrow weights ({layer.weights}; an LSTM of the same sizes can load their state_dict())")
    elif isinstance(layer, Embedding):
        found = ["mask_zero=True"] if layer.config["mask_zero"] else []
    elif isinstance(layer, Readout):
        found = ["Readout(merge_mode=None)"] if layer.merge_mode is None else []
        found += ["Readout with lengths"] if lengths else []
    elif not isinstance(layer, Linear | Activation):
        found = [type(layer).__name__]
    return found


class _Graph:
    """A graph under construction; values are referred to by their names, and all floats in it are float32."""

    def __init__(self, onnx: Any, dtype: np.dtype[Any]) -> None:
        self.onnx = onnx
        self.narrow, self.wide = np.dtype("float32"), dtype
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._first: dict[int, str] = {}
        self._weights: set[str] = set()

    def weight(self, prefix: str, layer: Layer, name: str, array: Any) -> str:
        """Add a constant of a layer; a repeated layer has it once, under the first name."""
        name = self._first.setdefault(id(layer), prefix) + name
        if name in self._weights:
            return name
        self._weights.add(name)
        return self.constant(name, array)

    def input(self, name: str, shape: Sequence[int | str], dtype: DTypeLike | None = None) -> str:
        """Add an input, of the model's dtype or of integers."""
        self.inputs.append(self._described(name, dtype or self.wide, shape))
        return name if dtype else self._cast(name, self.narrow)

    def output(self, value: str, name: str, shape: Sequence[int | str]) -> None:
        """Make `value` an output, under the name `name`."""
        value = self._cast(value, self.wide)
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [name if there == value else there for there in names]
        self.outputs.append(self._described(name, self.wide, shape))

    def constant(self, name: str, array: Any) -> str:
        """Add a constant; floats become float32."""
        array = np.asarray(array, order="C")
        if array.dtype.kind == "f":
            array = array.astype(self.narrow, copy=False)
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(
        self, operator: str, inputs: Sequence[str], outputs: _Names, name: str | None = None, **attributes: Any
    ) -> _Names:
        """Add an operator and return `outputs`, one or a list; its name is `name` or that of its first output."""
        names: list[str] = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, names, name=name or names[0], **attributes))
        return outputs

    def _cast(self, value: str, dtype: np.dtype[Any]) -> str:
        if self.wide == self.narrow:
            return value
        return self.node("Cast", [value], f"{value}.{dtype.name}", to=self._type(dtype))

    def _described(self, name: str, dtype: DTypeLike, shape: Sequence[int | str]) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, self._type(dtype), shape)

    def _type(self, dtype: DTypeLike) -> Any:
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _add_model(graph: _Graph, model: Any, layers: list[tuple[str, Any]], states: bool, lengths: Any) -> None:
    """Add the whole graph; inside it the time axis is always first."""
    axes = ["B", "T"] if model.batch_first else ["T", "B"]
    first = layers[0][1]
    if isinstance(first, Embedding):
        features: Any = None
        x, order = graph.input("tokens", axes, np.int64), [1, 0]
    else:
        features = next(_input_size(layer) for _, layer in layers if not isinstance(layer, Activation))
        x, order = graph.input("x", [*axes, features]), [1, 0, 2]
    if model.batch_first:
        x = graph.node("Transpose", [x], "time_first", perm=order)
    lstms = _named_lstms(layers)
    initial = {prefix: _add_states(graph, name, lstm) if states else None for prefix, (name, lstm) in lstms.items()}
    lengths = graph.input("lengths", ["B"], np.int32) if lengths else ""
    finals = {}
    for prefix, layer in layers:
        if isinstance(layer, Recurrent):
            x, finals[prefix] = _add_lstm(graph, prefix, layer, x, initial[prefix], lengths)
            features = layer.output_size
        elif isinstance(layer, Readout):
            x, features = _add_readout(graph, prefix, layer, x, features)
            axes = axes if layer.return_sequences else ["B"]
        elif isinstance(layer, Activation):
            x = _add_activation(graph, prefix, layer, x)
        elif isinstance(layer, Linear):
            x, features = _add_linear(graph, prefix, layer, x), layer.out_features
        else:
            x, features = _add_embedding(graph, prefix, layer, x), layer.embedding_dim
    if axes == ["B", "T"]:
        x = graph.node("Transpose", [x], "batch_first", perm=[1, 0, 2])
    graph.output(x, "y", [*axes, features])
    for prefix, (name, lstm) in lstms.items():
        for value, part in zip(finals[prefix], ("h_n", "c_n"), strict=True):
            graph.output(value, name + part, _state_shape(lstm))


def _input_size(layer: Any) -> int:
    return layer.input_size if isinstance(layer, Recurrent) else layer.in_features


def _named_lstms(layers: list[tuple[str, Layer]]) -> dict[str, tuple[str, Recurrent]]:
    """Return {prefix: (prefix of its states' names, LSTM)}; a single LSTM's states have no prefix."""
    found = {prefix: layer for prefix, layer in layers if isinstance(layer, Recurrent)}
    return {prefix: (prefix if len(found) > 1 else "", lstm) for prefix, lstm in found.items()}


def _state_shape(lstm: Recurrent) -> list[int | str]:
    return [lstm.num_layers * lstm.num_directions, "B", lstm.hidden_size]


def _add_states(graph: _Graph, name: str, lstm: Recurrent) -> list[str]:
    return [graph.input(name + part, _state_shape(lstm)) for part in ("h0", "c0")]


def _add_embedding(graph: _Graph, prefix: str, layer: Embedding, tokens: str) -> str:
    weight = graph.weight(prefix, layer, "weight", layer.parameters["weight"])
    return graph.node("Gather", [weight, tokens], f"{prefix}vectors")


def _add_linear(graph: _Graph, prefix: str, layer: Linear, x: str) -> str:
    weight = graph.weight(prefix, layer, "weight", layer.parameters["weight"].T)
    x = graph.node("MatMul", [x, weight], f"{prefix}product")
    if layer.bias:
        bias = graph.weight(prefix, layer, "bias", layer.parameters["bias"])
        x = graph.node("Add", [x, bias], f"{prefix}sum")
    return x


def _add_activation(graph: _Graph, prefix: str, layer: Activation, x: str) -> str:
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


def _add_readout(graph: _Graph, prefix: str, layer: Readout, y: str, features: int) -> tuple[str, int]:
    """Add a Readout; return (value, number of features)."""
    if not layer.bidirectional:
        return _selected_steps(graph, prefix, layer, y, layer.go_backwards), features
    if layer.merge_mode == "concat" and layer.return_sequences:
        return y, features
    sizes = graph.constant(f"{prefix}sizes", np.full(2, features // 2))
    halves = graph.node("Split", [y, sizes], [f"{prefix}forward", f"{prefix}reverse"], axis=-1)
    if not layer.return_sequences:
        halves = [
            _selected_steps(graph, half, layer, half, backwards)
            for half, backwards in zip(halves, (False, True), strict=True)
        ]
    if layer.merge_mode == "concat":
        return graph.node("Concat", halves, f"{prefix}merged", axis=-1), features
    merged = graph.node("Mul" if layer.merge_mode == "mul" else "Add", halves, f"{prefix}merged")
    if layer.merge_mode == "ave":
        merged = graph.node("Mul", [merged, graph.constant(f"{prefix}half", np.float32(0.5))], f"{prefix}average")
    return merged, features // 2


def _selected_steps(graph: _Graph, prefix: str, layer: Readout, y: str, backwards: bool) -> str:
    """Add the selection of the last computed step, or of all steps in the order of computation."""
    if not layer.return_sequences:
        last = graph.constant(f"{prefix}.last", np.array(0 if backwards else -1))
        return graph.node("Gather", [y, last], f"{prefix}.selected", axis=0)
    if not backwards:
        return y
    ends = {"from": -1, "to": np.iinfo(np.int64).min, "axis": 0, "step": -1}
    values = [graph.constant(f"{prefix}.{name}", np.array([value])) for name, value in ends.items()]
    return graph.node("Slice", [y, *values], f"{prefix}.selected")


def _add_lstm(
    graph: _Graph, prefix: str, lstm: Recurrent, x: str, state: Sequence[str] | None, lengths: str
) -> tuple[str, list[str]]:
    """Add one node for each layer; return (y, [h_n, c_n])."""
    L = lstm.num_layers
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
    return x, [values[0] if L == 1 else graph.node("Concat", values, f"{values[0]}.all", axis=0) for values in finals]


def _split(graph: _Graph, prefix: str, lstm: Recurrent, state: str) -> list[str]:
    """Split the states (L*D, B, H) into one value for each layer."""
    L = lstm.num_layers
    if L == 1:
        return [state]
    sizes = graph.constant(f"{state}.sizes", np.full(L, lstm.num_directions))
    return graph.node("Split", [state, sizes], [f"{state}.{layer}" for layer in range(L)], axis=0)


def _join_directions(graph: _Graph, name: str, lstm: Recurrent, y: str) -> str:
    """Convert ONNX's Y, (T, D, B, H), to (T, B, D*H)."""
    if lstm.num_directions == 1:
        return graph.node("Squeeze", [y, graph.constant(f"{name}axis", np.array([1]))], f"{name}y")
    y = graph.node("Transpose", [y], f"{name}Y_transposed", perm=[0, 2, 1, 3])
    shape = np.array([0, 0, 2 * lstm.hidden_size])  # 0 keeps the size
    return graph.node("Reshape", [y, graph.constant(f"{name}shape", shape)], f"{name}y")


def _keep_initial_states(graph: _Graph, final: str, initial: str, lengths: str) -> str:
    """Set the final state of rows of length 0 to the initial one, where ONNX Runtime gives zeros."""
    if not initial or not lengths:
        return final
    none = graph.constant(f"{final}.none", np.array(0, np.int32))
    empty = graph.node("Equal", [lengths, none], f"{final}.empty")
    column = graph.node("Unsqueeze", [empty, graph.constant(f"{final}.axis", np.array([1]))], f"{final}.empty_rows")
    return graph.node("Where", [column, initial, final], f"{final}.kept")


def _add_weights(graph: _Graph, prefix: str, lstm: Recurrent, layer: int) -> dict[str, str]:
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
