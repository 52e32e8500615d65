"""Neural Amp Modeler's .nam files with an LSTM, read and written.

Such a file is JSON. "weights" is one list of numbers: for each layer the rows of [W R] (4H, I + H), gates in the order
i, f, g, o, one bias (4H,), the initial h and the initial c (H,); then the head's weights (H,) and its bias. The numbers
of layers, units and inputs are in "config"; "sample_rate" is in hertz.

Source: the classes LSTM of neural-amp-modeler (nam/models/recurrent.py) and NeuralAmpModelerCore (NAM/lstm.cpp).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...layers.linear import Linear
from ...layers.lstm import LSTM
from ...layers.sequential import Sequential
from ..faults import shortened
from .document import array_of, count, entry, write_document
from .parts import LSTM_COST, bias_of, check_plain, check_rounding

if TYPE_CHECKING:
    from ...layers.base import Layer
    from ...typing import Array, Parameters
    from ..budget import Budget

#: the format version of the files that are written
VERSION = "0.5.4"


def is_nam(document: dict[str, Any]) -> bool:
    """Return whether a JSON object is a model of Neural Amp Modeler."""
    return {"architecture", "config", "weights"} <= document.keys()


def model_of(document: dict[str, Any], budget: Budget) -> tuple[Sequential, dict[str, Any]]:
    """Return (model, metadata) of a .nam file; the metadata are the file's own, with its "sample_rate" in hertz."""
    architecture = document.get("architecture")
    if architecture != "LSTM":
        raise ValueError(f"a Neural Amp Modeler file of architecture {shortened(architecture, 80)}; LSTM is read")
    config = entry(document, "config", dict)
    I, H, L = (count(config, name, "config: ") for name in ("input_size", "hidden_size", "num_layers"))
    weights = array_of(entry(document, "weights", list), (_size(I, H, L),), "weights")
    budget.objects(LSTM_COST * L, "its LSTM")
    model = Sequential(LSTM.blank(I, H, L, batch_first=True, learn_initial_state=True), Linear.blank(H, 1))
    for layer, arrays in zip(model.layers, _arrays(weights, I, H, L), strict=True):
        layer.restore(arrays)
    return model, _metadata(document)


def _size(I: int, H: int, L: int) -> int:
    """Return the number of weights of a file."""
    return 4 * H * (I + (L - 1) * H + L * (H + 1)) + L * 2 * H + H + 1


def _arrays(weights: Array, I: int, H: int, L: int) -> tuple[Parameters, Parameters]:
    """Return the parameters of the LSTM and of the head."""
    offset = 0

    def take(*shape: int) -> Array:
        nonlocal offset
        size = int(np.prod(shape))
        offset += size
        return weights[offset - size : offset].reshape(shape)

    lstm: Parameters = {}
    for layer in range(L):
        inputs = H if layer else I
        matrix = take(4 * H, inputs + H)
        lstm[f"weight_ih_l{layer}"], lstm[f"weight_hh_l{layer}"] = matrix[:, :inputs], matrix[:, inputs:]
        lstm[f"bias_ih_l{layer}"], lstm[f"bias_hh_l{layer}"] = take(4 * H), np.zeros(4 * H, np.float32)
        lstm[f"initial_h_l{layer}"], lstm[f"initial_c_l{layer}"] = take(H), take(H)
    return lstm, {"weight": take(1, H), "bias": take(1)}


def _metadata(document: dict[str, Any]) -> dict[str, Any]:
    metadata = document.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise ValueError("metadata: expected an object")
    rate = document.get("sample_rate")
    return (metadata or {}) | ({} if rate is None else {"sample_rate": rate})


def write(model: Layer, target: Any, metadata: dict[str, Any]) -> None:
    """Write a Sequential of an LSTM and a Linear with one output, with the metadata of `model_of`.

    Raises
    ------
    ValueError
        The format cannot express the model; what it cannot is named.
    """
    lstm, head = _parts(model)
    check_rounding(model, ".nam")
    rest = {name: value for name, value in metadata.items() if name != "sample_rate"}
    config = {"input_size": lstm.input_size, "hidden_size": lstm.hidden_size, "num_layers": lstm.num_layers}
    document = {
        "version": VERSION,
        "metadata": rest,
        "architecture": "LSTM",
        "config": config,
        "weights": np.concatenate([part.ravel() for part in _stored(lstm, head)]).tolist(),
    }
    if "sample_rate" in metadata:
        document["sample_rate"] = metadata["sample_rate"]
    write_document(target, document)


def _parts(model: Layer) -> tuple[Any, Any]:
    """Return the LSTM and the Linear of a model that a .nam file can express."""
    layers = [layer for layer in model.layers if not layer.passes_on]
    kinds = [type(layer).__name__ for layer in layers]
    if kinds != ["LSTM", "Linear"] or layers[1].output_features(None) != 1:
        raise ValueError(
            f"model: expected an LSTM and a Linear with one output for a .nam file, got {', '.join(map(repr, layers))}"
        )
    check_plain(layers[0], "a .nam file", learned_state=True)
    return layers[0], layers[1]


def _stored(lstm: Any, head: Any) -> list[Array]:
    """Return the arrays of a file in its order."""
    arrays = []
    parameters, H = lstm.parameters, lstm.hidden_size
    zeros = np.zeros(H, lstm.dtype)
    for layer in range(lstm.num_layers):
        arrays.append(np.hstack([parameters[f"weight_ih_l{layer}"], parameters[f"weight_hh_l{layer}"]]))
        arrays.append(bias_of(lstm, layer))
        arrays += [parameters.get(f"initial_{state}_l{layer}", zeros) for state in "hc"]
    bias = head.parameters.get("bias", np.zeros(1, head.dtype))
    return [*arrays, head.parameters["weight"], bias]
