"""Keras 1: its classes, options and weights by the names that later versions use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .config import Unsupported, short

if TYPE_CHECKING:
    from ...typing import Parameters
    from ..budget import Budget

_CLASSES = {"Convolution1D": "Conv1D", "Convolution2D": "Conv2D", "SeparableConvolution2D": "SeparableConv2D"}
# options: the new name, or None for one that acts only in training
_Names: TypeAlias = dict[str, str | None]
_COMMON: _Names = {"init": None, "bias": "use_bias", "input_dim": None, "input_length": None, "input_dtype": None}
_COMMON |= {"border_mode": "padding", "dim_ordering": "data_format", "batch_input_shape": None}
_RECURRENT: _Names = {"output_dim": "units", "inner_activation": "recurrent_activation", "inner_init": None}
_RECURRENT |= {"forget_bias_init": None, "dropout_W": None, "dropout_U": "recurrent_dropout", "consume_less": None}
_POOLING: _Names = {"pool_length": "pool_size", "stride": "strides"}
_OPTIONS: dict[str, _Names] = {
    "Dense": {"output_dim": "units"},
    "LSTM": _RECURRENT,
    "Embedding": {"input_dim": "input_dim", "dropout": None},
    "Dropout": {"p": "rate"},
    "SpatialDropout1D": {"p": "rate"},
    "Conv1D": {"nb_filter": "filters", "filter_length": "kernel_size", "subsample_length": "strides"},
    "Conv2D": {"nb_filter": "filters", "subsample": "strides"},
    "MaxPooling1D": _POOLING,
    "AveragePooling1D": _POOLING,
    "UpSampling1D": {"length": "size"},
    "BatchNormalization": {"gamma_init": None, "beta_init": None},
}
_LAYOUTS = {"tf": "channels_last", "th": "channels_first", "default": None}
# kinds of weights by the ends of their names
_KINDS = {"W": "kernel", "U": "recurrent_kernel", "b": "bias", "gamma": "gamma", "beta": "beta"}
_KINDS |= {"running_mean": "moving_mean", "running_std": "moving_variance"}
_NAME = re.compile(f"(?P<layer>.+)_(?P<kind>{'|'.join(_KINDS)})(?:_(?P<gate>[ifco]))?")
_GATES = "ifco"


def class_of(kind: str) -> str:
    """Return the later name of a class."""
    return _CLASSES.get(kind, kind)


def renamed(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return a layer's configuration with the names of Keras 2."""
    names = _COMMON | _OPTIONS.get(kind, {})
    result = {}
    for key, value in config.items():
        name = names.get(key, key)
        if name is not None and not re.fullmatch("[A-Za-z]+_(regularizer|constraint)", key):
            result[name] = value
    if "data_format" in result:
        if result["data_format"] not in _LAYOUTS:
            raise Unsupported(f"dim_ordering {short(result['data_format'])}")
        result["data_format"] = _LAYOUTS[result["data_format"]]
    if kind == "Conv2D":
        result["kernel_size"] = [result.pop("nb_row", None), result.pop("nb_col", None)]
    if kind == "Conv1D" and isinstance(result.get("dilation_rate"), list):
        result["dilation_rate"] = result["dilation_rate"][:1]
    if kind == "BatchNormalization" and result.pop("mode", 0) != 0:
        raise Unsupported("a mode that normalises by the batch at hand")
    return result


def renamed_weights(arrays: Parameters, budget: Budget) -> Parameters:
    """Return the weights of a layer with the names of Keras 2; the gates of an LSTM become one array."""
    result: Parameters = {}
    gates: dict[str, Parameters] = {}
    for name, array in arrays.items():
        match = _NAME.fullmatch(name.rpartition("/")[2].partition(":")[0])
        if match is None:
            result[name] = array
            continue
        new = f"{match['layer']}/{_KINDS[match['kind']]}"
        if match["gate"]:
            gates.setdefault(new, {})[match["gate"]] = array
        else:
            result[new] = array
    for name, parts in gates.items():
        if len(parts) < len(_GATES):
            raise ValueError(f"{name}: expected the gates {', '.join(_GATES)}, got {', '.join(sorted(parts))}")
        budget.bytes(sum(array.nbytes for array in parts.values()), "its weights")
        result[name] = np.concatenate([parts[gate] for gate in _GATES], axis=-1)
    return result
