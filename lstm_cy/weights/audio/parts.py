"""What the formats of amplifier models have in common: the layers that they can express."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...checks import warn
from ...layers.activations import DEFAULTS

if TYPE_CHECKING:
    from ...layers.base import Layer
    from ...typing import Array, Parameters

#: cost in objects of one layer of an LSTM
LSTM_COST = 300
# The options that these formats do not have, with the value that they stand for.
_ABSENT = {
    "bidirectional": False,
    "reverse": False,
    "proj_size": 0,
    "peepholes": False,
    "coupled_gates": None,
    "layer_norm": False,
    "clip": None,
    "cell_clip": None,
    "proj_clip": None,
    "zoneout": (0.0, 0.0),
}


def check_plain(lstm: Any, kind: str, learned_state: bool) -> None:
    """Raise if an LSTM has options that `kind` of file cannot express; `learned_state` if it has an initial state."""
    found = [f"{name}={getattr(lstm, name)!r}" for name, absent in _ABSENT.items() if getattr(lstm, name) != absent]
    if any([name for name, *_ in triple] != ["sigmoid", "tanh", "tanh"] for triple in lstm.activations):
        found.append("activations")
    initial = [array for name, array in lstm.parameters.items() if name.startswith("initial_")]
    if not learned_state and any(array.any() for array in initial):
        found.append("learn_initial_state=True with a state that is not zero")
    if found:
        raise ValueError(f"model: {kind} cannot express {', '.join(found)}; .npz files hold every model")


def filled(layer: Layer, arrays: Parameters) -> Layer:
    """Return a layer after its parameters have been set to copies of `arrays`; raise ValueError if they do not fit."""
    try:
        layer.restore(arrays)
    except KeyError as error:  # missing or unknown names
        raise ValueError(error.args[0]) from None
    return layer


def bias_of(lstm: Any, layer: int) -> Array:
    """Return the sum of the two biases of a layer of an LSTM."""
    if not lstm.bias:
        return np.zeros(4 * lstm.hidden_size, lstm.dtype)
    total: Array = lstm.parameters[f"bias_ih_l{layer}"] + lstm.parameters[f"bias_hh_l{layer}"]
    return total


def check_rounding(model: Layer, kind: str) -> None:
    """Raise if a model has weights that JSON cannot hold; warn if the readers of such files would round them."""
    wrong = [name for name, array in model.parameters.items() if not np.isfinite(array).all()]
    if wrong:
        raise ValueError(f"model: expected finite weights for {kind}, got NaN or infinity in {', '.join(wrong)}")
    if model.dtype == np.float64:
        warn(f"{kind}: such files are read as float32, the model is float64")


def is_default(activation: Any) -> bool:
    """Return whether an Activation has the numbers that its function has where none are given."""
    given = [value for value in (activation.alpha, activation.beta) if value is not None]
    return given == list(DEFAULTS.get(activation.name, ()))[: len(given)]
