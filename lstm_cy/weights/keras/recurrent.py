"""Keras's LSTM, CuDNNLSTM and Bidirectional as layers of this library."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...checks import number
from ...layers.activations import DEFAULTS
from ...layers.lstm import LSTM
from ...layers.readout import Readout
from .. import gate_order
from . import functions
from .config import Unsupported, short, split, text_of
from .options import FUNCTIONS, Options
from .parts import Part, check_weight, drops_mask, keeps_mask, loaded

if TYPE_CHECKING:
    from collections.abc import Collection

    from ...layers.base import Layer
    from ...typing import Array, Parameters
    from .options import Function
    from .parts import Made, Source
    from .weights import Location

#: Keras's classes of LSTMs
LSTMS = ("LSTM", "CuDNNLSTM")


class _Direction(NamedTuple):
    """One LSTM of Keras."""

    name: str
    units: int
    bias: bool
    functions: tuple[Function, ...]
    dtype: str
    return_sequences: bool
    return_state: bool
    go_backwards: bool
    zero_output_for_mask: bool
    recurrent_dropout: float
    is_cudnn: bool

    @classmethod
    def read(cls, kind: str, options: Options) -> _Direction:
        name = text_of({"name": options.take("name")}, "name")
        if kind == "CuDNNLSTM":
            gate, cell = FUNCTIONS["sigmoid"], FUNCTIONS["tanh"]
        else:
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
            options.flag("return_state"),
            options.flag("go_backwards"),
            options.flag("zero_output_for_mask"),
            number("recurrent_dropout", options.take("recurrent_dropout") or 0.0, 0.0, 1.0),
            kind == "CuDNNLSTM",
        )

    def parameters(
        self, source: Source, location: Location, path: str, layer_names: Collection[str], suffix: str
    ) -> Parameters:
        """Return the parameters of an LSTM, {name: array}; Keras's one bias is the sum of both biases."""
        units = self.units
        shapes: dict[str, tuple[int | None, ...]] = {
            "kernel": (source.features, 4 * units),
            "recurrent_kernel": (units, 4 * units),
        }
        arrays = source.take(location, shapes | ({"bias": (None,)} if self.bias else {}), path, layer_names)
        if not self.bias:
            arrays["bias"] = np.zeros(4 * units, np.float32)
        # an LSTM's file may hold the weights of a CuDNNLSTM, which Keras converts when it reads them
        cudnn = self.bias and (self.is_cudnn or arrays["bias"].shape == (8 * units,))
        check_weight(location, "bias", arrays["bias"], (8 * units if cudnn else 4 * units,))
        return lstm_parameters(arrays, suffix)


def lstm_parameters(arrays: Parameters, suffix: str = "_l0") -> Parameters:
    """Return the parameters of a direction of an LSTM from Keras's arrays kernel, recurrent_kernel and bias.

    A bias of 8 * units shows the layout of a CuDNNLSTM: two biases, and matrices (units, inputs) for each gate.
    """
    units = arrays["recurrent_kernel"].shape[0]
    found = {"weight_ih": arrays["kernel"].T, "weight_hh": arrays["recurrent_kernel"].T}
    biases = [arrays["bias"], np.zeros(4 * units, np.float32)]
    if len(arrays["bias"]) == 8 * units:
        found = {name: _from_cudnn(array.T) for name, array in found.items()}
        biases = np.split(arrays["bias"], 2)
    found |= {"bias_ih": biases[0], "bias_hh": biases[1]}
    return {name + suffix: gate_order.reorder(array, gate_order.KERAS) for name, array in found.items()}


def _from_cudnn(kernel: Array) -> Array:
    """Return (4 * units, inputs) from a kernel (inputs, 4 * units) whose blocks are the matrices (units, inputs)."""
    inputs = kernel.shape[0]
    return np.concatenate([np.ascontiguousarray(block).reshape(-1, inputs) for block in np.split(kernel, 4, axis=1)])


def lstm_of(made: Made) -> LSTM:
    """Return the LSTM of a part that was made."""
    layers: Any = made if isinstance(made, list) else made.keywords["layers"]
    found: LSTM = layers[0]
    return found


def lstm(kind: str, options: Options, location: Location) -> Part:
    one = _Direction.read(kind, options)

    def make(source: Source) -> Made:
        # a CuDNNLSTM has no layer for its cell
        path = "" if one.is_cudnn else "/cell"
        parameters = one.parameters(source, location, path, (), "_l0")
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
        return partial(functions.recurrent, layers=layers, return_state=True) if one.return_state else layers

    return _part(make, one, 1)


def bidirectional(options: Options, location: Location) -> Part:
    merge = options.take("merge_mode", "concat")
    if merge not in ("concat", "sum", "mul", "ave", None):
        raise Unsupported(f"merge_mode {short(merge)}")
    specs = [options.take("layer"), options.take("backward_layer")]
    directions = []
    for spec in specs if specs[1] is not None else specs[:1]:
        kind, config = split(spec)
        if kind not in LSTMS:
            raise Unsupported(f"Bidirectional of {kind}")
        inner = options.inner(kind, config)
        directions.append(_Direction.read(kind, inner))
        inner.finish()
    one = directions[0]
    other = directions[1] if len(directions) > 1 else one._replace(go_backwards=not one.go_backwards)
    if one.go_backwards or not other.go_backwards:
        raise Unsupported("Bidirectional whose first direction goes backwards")
    same = [(each.units, each.return_sequences, each.return_state, each.dtype) for each in (one, other)]
    if same[0] != same[1]:
        raise Unsupported("Bidirectional of different directions")
    if one.recurrent_dropout != other.recurrent_dropout:
        rates = f"{one.recurrent_dropout} and {other.recurrent_dropout}"
        raise Unsupported(f"Bidirectional with one recurrent_dropout for each direction, {rates}")
    plain = one.name.removeprefix("forward_")
    names = {one.name, f"forward_{plain}"}, {f"backward_{plain}"} | ({other.name} if len(directions) > 1 else set())
    # Keras sets zero_output_for_mask inside a Bidirectional that returns every step; Keras without TensorFlow, up to
    # 2.3, did not
    zeros = one.return_sequences and not options.is_standalone

    def make(source: Source) -> Made:
        ends = ["" if each.is_cudnn else "/cell" for each in (one, other)]
        parameters = one.parameters(source, location, f"/forward_layer{ends[0]}", names[0], "_l0")
        parameters |= other.parameters(source, location, f"/backward_layer{ends[1]}", names[1], "_l0_reverse")
        layers: list[Layer] = [_make_lstm(one, parameters, other, bidirectional=True)]
        if not zeros or merge != "concat":
            readout = {"return_sequences": one.return_sequences, "zero_output_for_mask": zeros}
            layers.append(Readout(bidirectional=True, merge_mode=merge, batch_first=True, **readout))
        return partial(functions.recurrent, layers=layers, return_state=True) if one.return_state else layers

    return _part(make, one, 2, 2 if merge is None else 1)


def _part(make: Any, one: _Direction, directions: int, outputs: int = 1) -> Part:
    return Part(
        make,
        keeps_mask if one.return_sequences else drops_mask,
        uses_mask=True,
        rank=lambda rank: 3 if one.return_sequences else 2,
        outputs=outputs + (2 * directions if one.return_state else 0),
    )


def _make_lstm(one: _Direction, parameters: Parameters, other: _Direction | None = None, **options: Any) -> LSTM:
    """Make an LSTM of one direction or two."""
    directions = [one] if other is None else [one, other]
    made = LSTM.blank(
        parameters["weight_ih_l0"].shape[1],
        one.units,
        bias=any(each.bias for each in directions),
        batch_first=True,
        activations=[each.functions for each in directions],
        recurrent_dropout=one.recurrent_dropout,
        dtype=one.dtype,
        **options,
    )
    return loaded(made, {name: array for name, array in parameters.items() if made.bias or "bias" not in name})
