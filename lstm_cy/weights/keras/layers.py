"""The layers of Keras as layers of this library: a reader for each class.

A reader takes a layer's options, its location and the name of the previous layer, and returns a function that makes the
layers of this library after the previous ones are made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from ...checks import number
from ...layers.activation import Activation
from ...layers.activations import DEFAULTS
from ...layers.base import Layer
from ...layers.dropout import Dropout
from ...layers.embedding import Embedding
from ...layers.linear import Linear
from ...layers.lstm import LSTM
from ...layers.masking import Masking
from ...layers.readout import Readout
from .. import gate_order
from .config import Unsupported, short, split, text_of
from .options import ACTIVATION_LAYERS, FUNCTIONS, Options

if TYPE_CHECKING:
    from collections.abc import Collection

    from ...typing import Parameters
    from .options import Function
    from .weights import Location, Weights

    _L = TypeVar("_L", bound=Layer)
    _Reader = Callable[["Options", "Location", Any], "Build"]

#: makes the layers of this library that a layer of Keras becomes
Build: TypeAlias = Callable[["Chain"], list[Layer]]


class Chain:
    """Properties of the data between two layers."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.features: Any = None  # number of features
        self.mask: tuple[Any, float, bool] | None = None  # the mask, as `config.chain_of` gives it


def _input(options: Options, location: Location, source: Any) -> Build:
    shape = options.take("batch_shape", options.take("batch_input_shape", options.take("shape")))

    def build(chain: Chain) -> list[Layer]:
        if isinstance(shape, list) and len(shape) == 3 and isinstance(shape[-1], int):
            chain.features = shape[-1]
        return []

    return build


def _embedding(options: Options, location: Location, source: Any) -> Build:
    dtype, sizes = options.dtype(), (options.size("input_dim"), options.size("output_dim"))
    mask_zero = options.flag("mask_zero")

    def build(chain: Chain) -> list[Layer]:
        weight = _take_weights(chain, location, {"embeddings": sizes})["embeddings"]
        chain.features = sizes[1]
        chain.mask = (source, 0.0, False) if mask_zero else None
        return [_load_weights(Embedding.blank(*sizes, mask_zero=mask_zero, dtype=dtype), {"weight": weight})]

    return build


def _masking(options: Options, location: Location, source: Any) -> Build:
    dtype, value = options.dtype(), number("mask_value", options.take("mask_value", 0.0))

    def build(chain: Chain) -> list[Layer]:
        chain.mask = (source, value, True)
        return [Masking(value, dtype=dtype)]

    return build


def _dense(options: Options, location: Location, source: Any, path: str = "") -> Build:
    dtype, units, bias = options.dtype(), options.size("units"), options.flag("use_bias", True)
    function = options.function("activation")

    def build(chain: Chain) -> list[Layer]:
        shapes: dict[str, tuple[int | None, ...]] = {"kernel": (chain.features, units)}
        if bias:
            shapes["bias"] = (units,)
        arrays = _take_weights(chain, location, shapes, path)
        parameters = {"weight": arrays["kernel"].T} | ({"bias": arrays["bias"]} if bias else {})
        linear = Linear.blank(len(arrays["kernel"]), units, bias=bias, dtype=dtype)
        chain.features = units
        return [_load_weights(linear, parameters), *_activation(function)]

    return build


def _time_distributed(options: Options, location: Location, source: Any) -> Build:
    kind, config = split(options.take("layer"))
    if kind != "Dense":
        raise Unsupported(f"TimeDistributed of {kind}")
    inner = Options(config, options.major)
    build = _dense(inner, location, source, "/layer")
    inner.finish()
    return build


def _function_layer(kind: str) -> _Reader:
    def read(options: Options, location: Location, source: Any) -> Build:
        function = ACTIVATION_LAYERS[kind](options)

        def build(chain: Chain) -> list[Layer]:
            if kind == "Softmax" and chain.mask is not None:
                raise ValueError(f"not supported: {location.name}: a layer Softmax with a masked input")
            return _activation(function)

        return build

    return read


def _activation(function: Function) -> list[Layer]:
    return [] if function == FUNCTIONS["linear"] else [Activation(*function)]


def _dropout(options: Options, location: Location, source: Any) -> Build:
    p = number("rate", options.take("rate"), 0.0, 1.0)
    full = options.take("noise_shape") is None
    return lambda chain: [Dropout(p)] if full else []


def _left_out(options: Options, location: Location, source: Any) -> Build:
    return lambda chain: []


class _Direction(NamedTuple):
    """One LSTM of Keras."""

    name: str
    units: int
    bias: bool
    functions: tuple[Function, ...]
    dtype: str
    return_sequences: bool
    go_backwards: bool
    zero_output_for_mask: bool
    recurrent_dropout: float

    @classmethod
    def read(cls, options: Options) -> _Direction:
        name = text_of({"name": options.take("name")}, "name")
        gate, cell = options.function("recurrent_activation"), options.function("activation")
        for function in (gate, cell):
            if function[0] not in DEFAULTS:
                raise Unsupported(f"activation {function[0]!r} in an LSTM")
        return cls(
            name,
            options.size("units"),
            options.flag("use_bias", True),
            (gate, cell, cell),
            options.dtype(),
            options.flag("return_sequences"),
            options.flag("go_backwards"),
            options.flag("zero_output_for_mask"),
            number("recurrent_dropout", options.take("recurrent_dropout") or 0.0, 0.0, 1.0),
        )

    def parameters(
        self, chain: Chain, location: Location, path: str, layer_names: Collection[str], suffix: str
    ) -> Parameters:
        """Return the parameters of an LSTM, {name: array}; Keras's one bias is the sum of both biases."""
        units = self.units
        shapes = {"kernel": (chain.features, 4 * units), "recurrent_kernel": (units, 4 * units)}
        arrays = _take_weights(
            chain, location, shapes | ({"bias": (4 * units,)} if self.bias else {}), path, layer_names
        )
        parameters = {
            "weight_ih": arrays["kernel"].T,
            "weight_hh": arrays["recurrent_kernel"].T,
            "bias_ih": arrays.get("bias", np.zeros(4 * units, np.float32)),
        }
        parameters = {name + suffix: gate_order.reorder(array, gate_order.KERAS) for name, array in parameters.items()}
        return parameters | {f"bias_hh{suffix}": np.zeros(4 * units, np.float32)}


def _lstm(options: Options, location: Location, source: Any) -> Build:
    one = _Direction.read(options)

    def build(chain: Chain) -> list[Layer]:
        parameters = one.parameters(chain, location, "/cell", (), "_l0")
        layers: list[Layer] = [_make_lstm(one, parameters, reverse=one.go_backwards)]
        # the caller may pass a mask too
        if not one.return_sequences or one.go_backwards or not one.zero_output_for_mask:
            layers.append(
                Readout(
                    go_backwards=one.go_backwards,
                    return_sequences=one.return_sequences,
                    zero_output_for_mask=one.zero_output_for_mask,
                    batch_first=True,
                )
            )
        _pass_lstm(chain, one.return_sequences, one.units)
        return layers

    return build


def _bidirectional(options: Options, location: Location, source: Any) -> Build:
    merge = options.take("merge_mode", "concat")
    if merge not in ("concat", "sum", "mul", "ave", None):
        raise Unsupported(f"merge_mode {short(merge)}")
    specs = [options.take("layer"), options.take("backward_layer")]
    directions = []
    for spec in specs if specs[1] is not None else specs[:1]:
        kind, config = split(spec)
        if kind != "LSTM":
            raise Unsupported(f"Bidirectional of {kind}")
        inner = Options(config, options.major)
        directions.append(_Direction.read(inner))
        inner.finish()
    one = directions[0]
    other = directions[1] if len(directions) > 1 else one._replace(go_backwards=not one.go_backwards)
    if one.go_backwards or not other.go_backwards:
        raise Unsupported("Bidirectional whose first direction goes backwards")
    if (one.units, one.return_sequences, one.dtype) != (other.units, other.return_sequences, other.dtype):
        raise Unsupported("Bidirectional of different directions")
    if one.recurrent_dropout != other.recurrent_dropout:
        rates = f"{one.recurrent_dropout} and {other.recurrent_dropout}"
        raise Unsupported(f"Bidirectional with one recurrent_dropout for each direction, {rates}")
    plain = one.name.removeprefix("forward_")
    names = {one.name, f"forward_{plain}"}, {f"backward_{plain}"} | ({other.name} if len(directions) > 1 else set())

    def build(chain: Chain) -> list[Layer]:
        parameters = one.parameters(chain, location, "/forward_layer/cell", names[0], "_l0")
        parameters |= other.parameters(chain, location, "/backward_layer/cell", names[1], "_l0_reverse")
        layers: list[Layer] = [_make_lstm(one, parameters, other, bidirectional=True)]
        if not one.return_sequences or merge != "concat":
            # Keras sets zero_output_for_mask inside a Bidirectional that returns every step.
            readout = {"return_sequences": one.return_sequences, "zero_output_for_mask": one.return_sequences}
            layers.append(Readout(bidirectional=True, merge_mode=merge, batch_first=True, **readout))
        _pass_lstm(chain, one.return_sequences, one.units * (2 if merge == "concat" else 1))
        return layers

    return build


def _make_lstm(one: _Direction, parameters: Parameters, other: _Direction | None = None, **options: Any) -> LSTM:
    """Make an LSTM of one direction or two."""
    functions = [direction.functions for direction in (one, other) if direction is not None]
    lstm = LSTM.blank(
        parameters["weight_ih_l0"].shape[1],
        one.units,
        bias=one.bias or (other is not None and other.bias),
        batch_first=True,
        activations=functions,
        recurrent_dropout=one.recurrent_dropout,
        dtype=one.dtype,
        **options,
    )
    return _load_weights(lstm, {name: array for name, array in parameters.items() if lstm.bias or "bias" not in name})


def _pass_lstm(chain: Chain, return_sequences: bool, features: int | None) -> None:
    chain.features = features
    if not return_sequences:
        chain.mask = None


def _load_weights(layer: _L, parameters: Parameters) -> _L:
    layer.load_state_dict(parameters)
    return layer


def _take_weights(
    chain: Chain,
    location: Location,
    shapes: dict[str, tuple[int | None, ...]],
    path: str = "",
    layer_names: Collection[str] = (),
) -> Parameters:
    """Take a layer's weights, {kind: array}, and check their `shapes`, in which None is any size."""
    arrays = chain.weights.take(location, list(shapes), path, layer_names)
    for kind, shape in shapes.items():
        array = arrays[kind]
        if array.dtype.kind != "f":
            raise ValueError(f"{location.name}: {kind}: expected floats, got {array.dtype}")
        fits = array.ndim == len(shape) and all(
            expected in (None, size) for expected, size in zip(shape, array.shape, strict=True)
        )
        if not fits or 0 in array.shape:
            raise ValueError(f"{location.name}: {kind}: expected shape {shape}, got {array.shape}")
    return arrays


# The supported layers. No other object is looked up by a name from a file.
READERS = {
    "InputLayer": _input,
    "Embedding": _embedding,
    "Masking": _masking,
    "Dense": _dense,
    "TimeDistributed": _time_distributed,
    "Dropout": _dropout,
    "LSTM": _lstm,
    "Bidirectional": _bidirectional,
    **{kind: _function_layer(kind) for kind in ACTIVATION_LAYERS},
    **dict.fromkeys(["SpatialDropout1D", "GaussianDropout", "GaussianNoise", "ActivityRegularization"], _left_out),
}
