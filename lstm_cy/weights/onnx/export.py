"""Models as ONNX graphs, which ONNX Runtime runs to the same numbers."""

import numpy as np

from ... import activations
from ...checks import flag, positive_int
from ...layers import Dropout, Embedding, Linear, Sequential
from ...lstm import LSTM
from ...quantize import QuantizedLSTM
from .. import gate_order, native
from .proto import import_onnx

#: operator sets in which every operator used here means the same
OPSETS = range(13, 25)
_LARGEST = 2**31 - (1 << 20)  # bytes: protobuf's limit, less what stands round the weights
# How ONNX writes the activations that are not "Sigmoid" of "sigmoid".
_SPELLING = {
    "leakyrelu": "LeakyRelu",
    "thresholdedrelu": "ThresholdedRelu",
    "scaledtanh": "ScaledTanh",
    "hardsigmoid": "HardSigmoid",
}


def to_onnx(model, *, states=False, lengths=False, opset=17, metadata=None):
    """A model as an ONNX graph, for any number of steps and rows.

    Parameters
    ----------
    model : LSTM or Sequential
        With at least one LSTM. Dropout is left out.
    states : bool
        Whether the initial states are inputs; else they are zeros.
    lengths : bool
        Whether the rows' lengths are an input; else all rows are as long as x.
    opset : int
        The version of ONNX's operators, 13 to 24.
    metadata : dict, optional
        Anything JSON can hold; None: the model's own. With the architecture it becomes the entry "lstm_cy" of the
        graph's metadata_props, in the form that the files of `save` have.

    Returns
    -------
    onnx.ModelProto
        Inputs, in this order: ``x`` (T, B, I), or ``tokens`` (T, B), int64, where the model begins with an Embedding;
        with `lengths` ``lengths`` (B,), int32; with `states` ``h0`` and ``c0`` (L*D, B, H). Outputs: ``y``, ``h_n``
        and ``c_n``. In a model of several LSTMs the names of the states carry the layer's place, as its parameters
        do: ``1.h0``. With batch_first x, tokens and y are (B, T, ...).

    Raises
    ------
    ValueError
        The model has what ONNX has no words for (all of it is named), no LSTM, or more than 2 GiB of weights.
    TypeError
        An argument is not what is expected; the message names it.
    ImportError
        The library onnx is not installed.

    Warns
    -----
    UserWarning
        A float64 model: ONNX Runtime's LSTM knows float32 only, so the LSTMs are rounded to that. Inputs, outputs and
        the other layers stay float64.

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
    if positive_int("opset", opset) not in OPSETS:
        raise ValueError(f"opset: expected {OPSETS[0]} to {OPSETS[-1]}, got {opset!r}")
    layers = _layers(model)
    header = native.pack_header(model, metadata)
    if model.dtype != np.float32:
        native.warn("ONNX Runtime's LSTM knows float32 only: the LSTMs' weights are rounded to it")
    graph = _Graph(onnx, model.dtype)
    _add_model(graph, model, layers, states, lengths)
    opsets = [onnx.helper.make_opsetid("", opset)]
    made = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "lstm_cy", graph.inputs, graph.outputs, graph.constants),
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),  # old runtimes refuse what they do not know
        producer_name="lstm_cy",
        producer_version=__version__,
    )
    onnx.helper.set_model_props(made, {native.HEADER: header.decode()})
    return made


def write_model(model, path, metadata, **options):
    """Write `model` and `metadata` to `path`, an .onnx file; see `weights.save`, and `to_onnx` for the options."""
    content = to_onnx(model, metadata=metadata, **options).SerializeToString(deterministic=True)
    with native.replacing(path) as file:
        file.write(content)


def _layers(model):
    """[(prefix of its names, layer)], without Dropout, once it is certain that ONNX can say all of them."""
    if isinstance(model, Sequential):
        layers = [(f"{index}.", layer) for index, layer in enumerate(model.layers) if not isinstance(layer, Dropout)]
    elif isinstance(model, LSTM):
        layers = [("", model)]
    else:
        raise TypeError(f"model: expected an LSTM or a Sequential, got {type(model).__name__}")
    if not any(isinstance(layer, LSTM) for _, layer in layers):
        raise ValueError("model: expected one with an LSTM in it, got none")
    refused = [prefix + text for prefix, layer in layers for text in _without_words(layer)]
    if refused:
        raise ValueError(f"ONNX has no words for {', '.join(refused)}; .npz and .safetensors files hold every model")
    size = sum(array.nbytes for array in model.parameters.values())
    if size > _LARGEST:
        raise ValueError(f"an .onnx file holds less than 2 GiB, the weights take {size} bytes")
    return layers


def _without_words(layer):
    """What of a layer ONNX's operators cannot say, as words."""
    if isinstance(layer, LSTM):
        found = [
            f"{name}={layer.config[name]!r}"
            for name in ("proj_size", "layer_norm", "cell_clip", "proj_clip")
            if layer.config[name]
        ]
        if layer.coupled_gates == "i=1-f":
            found.append("coupled_gates='i=1-f'")
        if isinstance(layer, QuantizedLSTM):
            found.append(f"narrow weights ({layer.weights}; an LSTM of the same sizes can load their state_dict())")
        return found
    return [] if isinstance(layer, Linear | Embedding) else [type(layer).__name__]


class _Graph:
    """Nodes, constants, inputs and outputs as they are added; values go by their names."""

    def __init__(self, onnx, dtype):
        self.onnx, self.dtype = onnx, dtype
        self.nodes, self.constants, self.inputs, self.outputs = [], [], [], []

    def input(self, name, dtype, shape):
        self.inputs.append(self._described(name, dtype, shape))
        return name

    def output(self, value, name, shape):
        """Make `value` an output, under the name `name`."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [name if there == value else there for there in names]
        self.outputs.append(self._described(name, self.dtype, shape))

    def constant(self, name, array):
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator, inputs, outputs, name=None, **attributes):
        """Add an operator, which is called as its output if not by `name`; `outputs`, one or a list, comes back."""
        names = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, names, name=name or names[0], **attributes))
        return outputs

    def narrowed(self, value):
        """`value`, of the model's dtype, as float32."""
        return self._cast(value, f"{value}.float32", np.float32)

    def widened(self, value):
        """`value`, of float32, in the model's dtype."""
        return self._cast(value, f"{value}.{self.dtype.name}", self.dtype)

    def _cast(self, value, name, dtype):
        return value if self.dtype == np.float32 else self.node("Cast", [value], name, to=self._type(dtype))

    def _described(self, name, dtype, shape):
        return self.onnx.helper.make_tensor_value_info(name, self._type(dtype), shape)

    def _type(self, dtype):
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _add_model(graph, model, layers, states, lengths):
    """The whole graph; inside it time comes first, whatever the model's layout."""
    axes = ["B", "T"] if model.batch_first else ["T", "B"]
    first = layers[0][1]
    if isinstance(first, Embedding):
        x, turned = graph.input("tokens", np.int64, axes), [1, 0]
    else:
        features = first.input_size if isinstance(first, LSTM) else first.in_features
        x, turned = graph.input("x", graph.dtype, [*axes, features]), [1, 0, 2]
    if model.batch_first:
        x = graph.node("Transpose", [x], "time_first", perm=turned)
    lstms = _named_lstms(layers)
    initial = {prefix: _add_states(graph, name, lstm) if states else None for prefix, (name, lstm) in lstms.items()}
    lengths = graph.input("lengths", np.int32, ["B"]) if lengths else ""
    finals = {}
    for prefix, layer in layers:
        if isinstance(layer, LSTM):
            x, finals[prefix] = _add_lstm(graph, prefix, layer, x, initial[prefix], lengths)
            features = layer.output_size
        elif isinstance(layer, Linear):
            x, features = _add_linear(graph, prefix, layer, x), layer.out_features
        else:
            x, features = _add_embedding(graph, prefix, layer, x), layer.embedding_dim
    if model.batch_first:
        x = graph.node("Transpose", [x], "batch_first", perm=[1, 0, 2])
    graph.output(x, "y", [*axes, features])
    for prefix, (name, lstm) in lstms.items():
        for value, part in zip(finals[prefix], ("h_n", "c_n"), strict=True):
            graph.output(value, name + part, _state_shape(lstm))


def _named_lstms(layers):
    """{prefix: (prefix of its states' names, LSTM)}: a single LSTM's states need no place in their names."""
    found = {prefix: layer for prefix, layer in layers if isinstance(layer, LSTM)}
    return {prefix: (prefix if len(found) > 1 else "", lstm) for prefix, lstm in found.items()}


def _state_shape(lstm):
    return [lstm.num_layers * lstm.num_directions, "B", lstm.hidden_size]


def _add_states(graph, name, lstm):
    return [graph.input(name + part, graph.dtype, _state_shape(lstm)) for part in ("h0", "c0")]


def _add_embedding(graph, prefix, layer, tokens):
    weight = graph.constant(f"{prefix}weight", layer.parameters["weight"])
    return graph.node("Gather", [weight, tokens], f"{prefix}vectors")


def _add_linear(graph, prefix, layer, x):
    weight = graph.constant(f"{prefix}weight", layer.parameters["weight"].T)
    x = graph.node("MatMul", [x, weight], f"{prefix}product")
    if layer.bias:
        x = graph.node("Add", [x, graph.constant(f"{prefix}bias", layer.parameters["bias"])], f"{prefix}sum")
    return x


def _add_lstm(graph, prefix, lstm, x, state, lengths):
    """One node for each layer: (y, (h_n, c_n))."""
    x, L = graph.narrowed(x), lstm.num_layers
    initial = [[""] * L, [""] * L] if state is None else [_split(graph, prefix, lstm, part) for part in state]
    finals = [], []
    for layer in range(L):
        name = f"{prefix}l{layer}."
        values = _add_weights(graph, name, lstm, layer)
        inputs = [x, values["W"], values["R"], values["B"], lengths, initial[0][layer], initial[1][layer], values["P"]]
        while not inputs[-1]:
            inputs.pop()
        outputs = [f"{name}Y", f"{name}Y_h", f"{name}Y_c"]
        y, *final = graph.node("LSTM", inputs, outputs, f"{prefix}l{layer}", **_attributes(lstm))
        x = _beside(graph, name, lstm, y)
        for kept, value, before in zip(finals, final, initial, strict=True):
            kept.append(_of_empty_rows(graph, value, before[layer], lengths))
    final = [values[0] if L == 1 else graph.node("Concat", values, f"{values[0]}.all", axis=0) for values in finals]
    return graph.widened(x), [graph.widened(value) for value in final]


def _split(graph, prefix, lstm, state):
    """The states (L*D, B, H) as one value for each layer."""
    state, L = graph.narrowed(state), lstm.num_layers
    if L == 1:
        return [state]
    sizes = graph.constant(f"{state}.sizes", np.full(L, lstm.num_directions))
    return graph.node("Split", [state, sizes], [f"{state}.{layer}" for layer in range(L)], axis=0)


def _beside(graph, name, lstm, y):
    """Y, (T, D, B, H) as ONNX has it, as (T, B, D*H)."""
    if lstm.num_directions == 1:
        return graph.node("Squeeze", [y, graph.constant(f"{name}axis", np.array([1]))], f"{name}y")
    y = graph.node("Transpose", [y], f"{name}Y_turned", perm=[0, 2, 1, 3])
    shape = np.array([0, 0, 2 * lstm.hidden_size])  # 0: as it is
    return graph.node("Reshape", [y, graph.constant(f"{name}shape", shape)], f"{name}y")


def _of_empty_rows(graph, final, initial, lengths):
    """The final state, which of rows of length 0 is the initial one; ONNX Runtime says zeros."""
    if not initial or not lengths:
        return final
    none = graph.constant(f"{final}.none", np.array(0, np.int32))
    empty = graph.node("Equal", [lengths, none], f"{final}.empty")
    column = graph.node("Unsqueeze", [empty, graph.constant(f"{final}.axis", np.array([1]))], f"{final}.empty_rows")
    return graph.node("Where", [column, initial, final], f"{final}.kept")


def _add_weights(graph, name, lstm, layer):
    """{"W", "R", "B", "P": constant, directions first and gates in ONNX's order; "" where the layer has none}."""
    parts = {"W": [], "R": [], "B": [], "P": []}
    for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: lstm.num_directions]:
        own = {part: lstm.parameters.get(part + suffix) for part in ("weight_ih", "weight_hh", "peephole")}
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
        part: graph.constant(name + part, np.stack(arrays).astype(np.float32, copy=False)) if arrays else ""
        for part, arrays in parts.items()
    }


def _attributes(lstm):
    """The attributes of a layer's node."""
    direction = "bidirectional" if lstm.bidirectional else "reverse" if lstm.reverse else "forward"
    attributes = {"hidden_size": lstm.hidden_size, "direction": direction}
    if lstm.coupled_gates is not None:
        attributes["input_forget"] = 1
    if lstm.clip is not None:
        attributes["clip"] = lstm.clip
    if any(triple != activations.PLAIN for triple in lstm.activations):
        attributes |= _activations(lstm)
    return attributes


def _activations(lstm):
    """Alpha and beta stand in lists of their own, with an entry for each activation that takes one."""
    entries = [entry for triple in lstm.activations for entry in triple]
    takes = [activations.ARGUMENTS.get(name, 0) for name, _, _ in entries]
    lists = {
        "activations": [_SPELLING.get(name, name.capitalize()) for name, _, _ in entries],
        "activation_alpha": [alpha for (_, alpha, _), count in zip(entries, takes, strict=True) if count >= 1],
        "activation_beta": [beta for (_, _, beta), count in zip(entries, takes, strict=True) if count == 2],
    }
    return {name: values for name, values in lists.items() if values}
