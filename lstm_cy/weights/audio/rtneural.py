"""The JSON of RTNeural and AIDA-X: LSTM, Dense and activations, with a skip from input to output; read and written.

RTNeural's file lists layers of Keras: {"in_shape": [..., I], "layers": [{"type", "activation", "shape", "weights"}]}.
The weights are Keras's: kernels (I, 4H) and (H, 4H) with gates in the order i, f, c, o, one bias (4H,); of a dense
layer the kernel (I, O) and the bias (O,). An LSTM always has sigmoid and tanh. AIDA-X adds the options "in_skip" (1:
the first input is added to the output), "in_gain" and "out_gain" in decibels, of the input before all and of the sum
after it, and "metadata" with "samplerate" in hertz.

Source: RTNeural (RTNeural/model_loader.h, python/model_utils.py), AIDA-X (src/aidadsp-plugin.cpp), aidadsp-lv2
(rt-neural-generic.cpp).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...layers.activation import Activation
from ...layers.linear import Linear
from ...layers.lstm import LSTM
from ...layers.residual import Residual
from ...layers.sequential import Sequential
from ..faults import shortened
from .document import array_of, count, entry, refuse_kinds, write_document
from .parts import LSTM_COST, bias_of, check_plain, check_rounding, filled, is_default

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ...layers.base import Layer
    from ...typing import Array
    from ..budget import Budget

_ACTIVATIONS = ("tanh", "relu", "sigmoid", "softmax", "elu")
_DENSE = ("dense", "time-distributed-dense")
_SUPPORTED = "read are lstm, dense, time-distributed-dense and activation"
# A gain of this many decibels or less is zero.
_SILENCE = -90
_LAYER_COST = 24


def is_rtneural(document: dict[str, Any]) -> bool:
    """Return whether a JSON object is a model of RTNeural or AIDA-X."""
    return {"in_shape", "layers"} <= document.keys()


def model_of(document: dict[str, Any], budget: Budget) -> tuple[Sequential, dict[str, Any]]:
    """Return (model, metadata) of a file of RTNeural or AIDA-X; the metadata are the file's own."""
    return _chain(document, budget), _metadata(document)


def _chain(document: dict[str, Any], budget: Budget) -> Sequential:
    """Return the model of RTNeural's layers, with AIDA-X's options."""
    inputs = width = _last(document, "in_shape", "")
    described = entry(document, "layers", list)
    if not described:
        raise ValueError("layers: expected at least one, got none")
    budget.objects((LSTM_COST + _LAYER_COST) * len(described), "its layers")
    _check_kinds(described)
    layers: list[Layer] = []
    for index, description in enumerate(described):
        where = f"layers[{index}]: "
        layers += _layers(description, width, where)
        width = _last(description, "shape", where)
    before, after = (_gain(document, name) for name in ("in_gain", "out_gain"))
    if _skip(document, "in_skip"):
        if width != 1:
            raise ValueError(f"in_skip: expected a model with one output, got {width}")
        layers = [Residual(*layers)]
    if before != 1:
        budget.bytes(4 * inputs**2, "its gains")
        layers.insert(0, _scaled(inputs, before, 1))
    if after != 1:
        budget.bytes(4 * width**2, "its gains")
        layers.append(_scaled(width, after, width))
    return Sequential(*layers)


def _last(value: dict[str, Any], name: str, where: str) -> int:
    """Return the last number of a shape, as (null, null, 12)."""
    shape = entry(value, name, list, where)
    if not 1 <= len(shape) <= 3:
        raise ValueError(f"{where}{name}: expected up to three numbers, got {len(shape)}")
    return count({name: shape[-1]}, name, where)


def _check_kinds(described: list[Any]) -> None:
    """Raise for layers that are not supported; all of them are named."""
    kinds = []
    for index, description in enumerate(described):
        if not isinstance(description, dict):
            raise ValueError(f"layers[{index}]: expected an object")
        kind = entry(description, "type", str, f"layers[{index}]: ")
        activation = description.get("activation") or ""
        allowed = ("", "tanh") if kind == "lstm" else ("", *_ACTIVATIONS)
        if kind not in ("lstm", "activation", *_DENSE):
            kinds.append(shortened(kind, 80))
        elif activation not in allowed:
            kinds.append(f"{kind} with activation {shortened(activation, 80)}")
    refuse_kinds(kinds, _SUPPORTED)


def _layers(description: dict[str, Any], inputs: int, where: str) -> Iterator[Layer]:
    """Yield the layers that one of RTNeural's layers becomes."""
    width = _last(description, "shape", where)
    kind, activation = description["type"], description.get("activation") or ""
    weights = [] if kind == "activation" else entry(description, "weights", list, where)
    where = f"{where}weights"
    if kind == "lstm":
        _check_number(weights, (2, 3), where)
        shapes = [(inputs, 4 * width), (width, 4 * width), (4 * width,)]
        kernel, recurrent, *bias = _arrays(weights, shapes, where)
        own = {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent.T}
        for array in bias:
            own |= {"bias_ih_l0": array, "bias_hh_l0": np.zeros_like(array)}
        yield filled(LSTM.blank(inputs, width, bias=bool(bias), batch_first=True), own)
        return
    if kind in _DENSE:
        _check_number(weights, (1, 2), where)
        kernel, *bias = _arrays(weights, [(inputs, width), (width,)], where)
        own = {"weight": kernel.T} | ({"bias": bias[0]} if bias else {})
        yield filled(Linear.blank(inputs, width, bias=bool(bias)), own)
    elif width != inputs:
        raise ValueError(f"{where}: expected as many features as before, {inputs}, got {width}")
    if activation:
        yield Activation(activation)


def _check_number(weights: list[Any], numbers: Sequence[int], where: str) -> None:
    if len(weights) not in numbers:
        raise ValueError(f"{where}: expected {numbers[-1]} arrays, or {numbers[0]} without a bias, got {len(weights)}")


def _arrays(weights: list[Any], shapes: list[tuple[int, ...]], where: str) -> list[Array]:
    return [array_of(weights[index], shapes[index], f"{where}[{index}]") for index in range(len(weights))]


def _skip(options: dict[str, Any], name: str) -> bool:
    """Return whether an option, 0 or 1 and 0 where there is none, says that the first input is added to the output."""
    skip = options.get(name)
    if skip is not None and not (isinstance(skip, int | float) and skip in (0, 1)):
        raise ValueError(f"{name}: expected 0 or 1, got {shortened(repr(skip), 80)}")
    return bool(skip)


def _gain(document: dict[str, Any], name: str) -> float:
    """Return a gain in decibels as a factor; 1 where there is none."""
    gain = document.get(name)
    if gain is None:
        return 1.0
    if not isinstance(gain, int | float) or isinstance(gain, bool) or not abs(gain) < 700:
        raise ValueError(f"{name}: expected a number of decibels, got {shortened(repr(gain), 80)}")
    return 10 ** (gain / 20) if gain > _SILENCE else 0.0


def _scaled(features: int, gain: float, scaled: int) -> Linear:
    """Return a layer that multiplies the first `scaled` features by a gain."""
    weight = np.eye(features, dtype=np.float32)
    weight[:scaled] *= np.float32(gain)
    layer = Linear.blank(features, features, bias=False)
    layer.restore({"weight": weight})
    return layer


def _metadata(document: dict[str, Any]) -> dict[str, Any]:
    """Return the file's metadata, with "sample_rate" for its "samplerate", which may be outside of them."""
    metadata = document.get("metadata")
    found = dict(metadata) if isinstance(metadata, dict) else {}
    rate = found.pop("samplerate", document.get("samplerate"))
    return found if rate is None else found | {"sample_rate": rate}


def write(model: Layer, target: Any, metadata: dict[str, Any]) -> None:
    """Write a model as RTNeural's JSON, with AIDA-X's options; the metadata as `model_of` gives them.

    Raises
    ------
    ValueError
        The format cannot express the model; what it cannot is named.
    """
    check_rounding(model, "a .json file of RTNeural")
    layers = [layer for layer in model.layers if not layer.passes_on]
    gains = {}
    for name, place, scaled in (("in_gain", 0, 1), ("out_gain", -1, None)):
        gain = _gain_of(layers[place], scaled) if len(layers) > 1 else None
        if gain is not None:
            gains[name] = 20 * math.log10(gain)
            del layers[place]
    skip = len(layers) == 1 and bool(layers[0].parts)
    if skip:
        layers = [layer for layer in layers[0].parts if not layer.passes_on]
    width = features = next((size for size in (layer.input_features for layer in layers) if size), None)
    if features is None:
        raise ValueError("model: expected one with an LSTM or a Linear in it")
    described: list[dict[str, Any]] = []
    for layer in layers:
        _describe(layer, described, features)
        features = layer.output_features(features)
    if skip and features != 1:
        raise ValueError(f"model: expected one output of a Residual for a .json file of RTNeural, got {features}")
    rest = {name: value for name, value in metadata.items() if name != "sample_rate"}
    if "sample_rate" in metadata:
        rest["samplerate"] = metadata["sample_rate"]
    document = {"in_shape": [None, None, width], "in_skip": int(skip), **gains, "metadata": rest, "layers": described}
    write_document(target, document)


@functools.singledispatch
def _gain_of(layer: Layer, scaled: int | None) -> float | None:
    """Return the gain of a layer that only multiplies the first `scaled` features (None: all); None for others."""
    return None


@_gain_of.register(Linear)
def _(layer: Linear, scaled: int | None) -> float | None:
    weight = layer.parameters["weight"] if layer.tied is None else layer.weight
    gain = float(weight[0, 0])
    if layer.bias or weight.shape[0] != weight.shape[1] or gain <= 10 ** (_SILENCE / 20) or gain == 1:
        return None
    expected = np.eye(len(weight), dtype=weight.dtype)
    expected[:scaled] *= weight[0, 0]
    return gain if np.array_equal(weight, expected) else None


@functools.singledispatch
def _describe(layer: Layer, described: list[dict[str, Any]], features: Any) -> None:
    """Add RTNeural's description of a layer with so many inputs to the descriptions of those before it."""
    raise ValueError(f"model: a .json file of RTNeural cannot express {layer!r}; .npz files hold every model")


@_describe.register(LSTM)
def _(layer: LSTM, described: list[dict[str, Any]], features: Any) -> None:
    check_plain(layer, "a .json file of RTNeural", learned_state=False)
    for index in range(layer.num_layers):
        matrices = [layer.parameters[f"weight_{part}_l{index}"].T for part in ("ih", "hh")]
        _add(described, "lstm", layer.hidden_size, [*matrices, bias_of(layer, index)])


@_describe.register(Linear)
def _(layer: Linear, described: list[dict[str, Any]], features: Any) -> None:
    outputs = layer.out_features
    bias = layer.parameters["bias"] if layer.bias else np.zeros(outputs, layer.dtype)
    _add(described, "dense", outputs, [layer.weight.T, bias])


@_describe.register(Activation)
def _(layer: Activation, described: list[dict[str, Any]], features: Any) -> None:
    if layer.name not in _ACTIVATIONS or not is_default(layer):
        raise ValueError(f"model: expected an Activation of {', '.join(_ACTIVATIONS)} in RTNeural, got {layer!r}")
    if described and described[-1]["type"] == "dense" and not described[-1]["activation"]:
        described[-1]["activation"] = layer.name
    else:
        _add(described, "activation", features, [])
        described[-1]["activation"] = layer.name


def _add(described: list[dict[str, Any]], kind: str, width: Any, weights: list[Array]) -> None:
    arrays = [array.tolist() for array in weights]
    described.append({"type": kind, "activation": "", "shape": [None, None, width], "weights": arrays})


def stored_case(document: dict[str, Any]) -> tuple[Array, Array] | None:
    """Return (input, output), (T, I) and (T, O), that AIDA-X's training stores in a file; None if there are none."""
    given, expected = document.get("input_batch"), document.get("output_batch")
    if not isinstance(given, list) or not isinstance(expected, list) or not given:
        return None
    x = np.zeros((len(given), _last(document, "in_shape", "")), np.float32)  # conditions are zero
    x[:, 0] = array_of(given, (len(given),), "input_batch")
    return x, array_of(expected, (len(given),), "output_batch")[:, None]
