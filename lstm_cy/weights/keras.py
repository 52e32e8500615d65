"""Keras's models, from .keras and .h5 files or live ones: a Sequential here, without Keras or TensorFlow.

The architecture is read from the configuration, in which classes are names to look up in a table. Weights are found by
their place (.keras) or name (.h5, live), and each must be used.
"""

import contextlib
import json
import os
import re
import sys
import zipfile
from typing import NamedTuple

import numpy as np

from ..checks import flag, number, positive_int
from ..layers import Activation, Dropout, Embedding, Linear, Masking, Readout, Sequential
from ..lstm import LSTM
from . import gate_order, hdf5
from .native import check_directory, check_finite, check_stored

# JSON is unpacked into many times its own size; a layer takes a kilobyte or two.
_MAX_JSON = 2 << 20

_OPTIMIZERS = ("optimizer", "optimizer_weights")
_MODELS = ("Sequential", "Functional", "Model")
# What may stand in a layer's configuration without a bearing on what the layer gives: names, and what acts in training.
_NO_BEARING = re.compile(
    "name|trainable|dtype|.*_(initializer|regularizer|constraint)|unit_forget_bias|seed|dropout|recurrent_dropout|rate|"
    "stddev|noise_shape|stateful|unroll|implementation|batch_input_shape|batch_shape|input_shape|input_length"
)
_LSTM_FUNCTIONS = (
    "sigmoid tanh relu affine leakyrelu thresholdedrelu scaledtanh hardsigmoid elu softsign softplus".split()
)
# Activations by Keras's names, as Activation takes them.
_FUNCTIONS = {
    "linear": ("affine", 1.0, 0.0),
    "sigmoid": ("sigmoid",),
    "tanh": ("tanh",),
    "relu": ("relu",),
    "elu": ("elu", 1.0),
    "leaky_relu": ("leakyrelu", 0.2),
    "selu": ("selu",),
    "gelu": ("gelu",),
    "silu": ("silu",),
    "swish": ("silu",),
    "softsign": ("softsign",),
    "softplus": ("softplus",),
    "exponential": ("exp",),
    "softmax": ("softmax",),
    "log_softmax": ("logsoftmax",),
}
_HARD_SIGMOID = {"2": ("hardsigmoid", 0.2, 0.5), "3": ("hardsigmoid", 1 / 6, 0.5)}  # by Keras's major version


def read_model(path, strict=False):
    """Read a model that Keras 3 saved as .keras or .h5, or Keras 2 as .h5.

    Parameters
    ----------
    path : str or os.PathLike
    strict : bool
        If True, NaN or infinity among the weights is an error instead of a warning.

    Returns
    -------
    Sequential
        With `batch_first`; see docs/formats.md for what becomes of each layer.

    Raises
    ------
    ValueError
        The file is truncated, damaged or none of Keras's; or it holds layers or options that are not read, all of which
        are listed; or weights that no layer uses.
    ImportError
        h5py is not installed.
    OSError
        The file cannot be read.
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            source = _read_zip(file, size) if file.read(2) == b"PK" else _read_h5(file, size)
            model = _converted(*source)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, OverflowError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {error}") from None
    check_finite(path, model.parameters, strict)
    return model


def from_keras(model):
    """The Sequential that a live Keras model is, its weights copied.

    Parameters
    ----------
    model : keras.Sequential, or a functional keras.Model
        A chain of layers with one input and one output each; docs/formats.md lists those that are read.

    Returns
    -------
    Sequential
        With `batch_first`.

    Raises
    ------
    TypeError
        `model` is no Keras model, or one of a class of its own.
    ValueError
        It holds layers or options that are not read; all of them are listed.

    Examples
    --------
    With Keras at hand::

        model = lstm_cy.from_keras(keras_model)
        out, states = model(x)

    Anything else is refused:

    >>> from_keras("model.keras")
    Traceback (most recent call last):
    TypeError: model: expected a Sequential or functional model of Keras, got str
    """
    kind = type(model).__name__
    home = type(model).__module__.split(".")[0]
    if home not in ("keras", "tf_keras") or kind not in _MODELS:
        raise TypeError(f"model: expected a Sequential or functional model of Keras, got {kind}")
    arrays = {}
    for layer in model.layers:
        paths = [getattr(weight, "path", weight.name) for weight in layer.weights]
        arrays[layer.name] = dict(zip(paths, layer.get_weights(), strict=True))
    version = getattr(sys.modules.get(home), "__version__", None)
    spec = {"class_name": kind, "config": model.get_config()}
    try:
        return _converted(spec, version, _ByName(arrays))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"model: {error}") from None


def _read_zip(file, size):
    """(configuration, version of Keras, weights) of a .keras file."""
    count = check_directory(file, size)
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        wanted = ("metadata.json", "config.json", "model.weights.h5")
        if sorted(members) != sorted(wanted) or count != len(wanted):
            raise ValueError(f"expected the members {', '.join(wanted)}, got {', '.join(members) or 'none'}"[:1000])
        for member in members.values():
            check_stored(member, size)
        metadata, spec = (_json(archive.read(members[name])) if members[name].file_size <= _MAX_JSON else _too_long(name)
                          for name in wanted[:2])
        version = metadata.get("keras_version") if isinstance(metadata, dict) else None
        if not isinstance(version, str) or not version.startswith("3."):
            raise ValueError(f"a .keras file of Keras {version!r:.80}; those of Keras 3 are read, or .h5 files")
        with archive.open(members["model.weights.h5"]) as weights:
            arrays, names = hdf5.read(weights, weights.seek(0, 2), skip=_OPTIMIZERS, texts=["name"])
    return spec, version, _ByPlace(arrays, names)


def _read_h5(file, size):
    """(configuration, version of Keras, weights) of an .h5 file."""
    file.seek(0)
    arrays, texts = hdf5.read(file, size, skip=_OPTIMIZERS, texts=["model_config", "keras_version"])
    if ("", "model_config") not in texts:
        raise ValueError("holds no architecture (model_config), so it is no whole model; save it with model.save")
    by_layer = {}
    for path, array in arrays.items():
        top, _, rest = path.partition("/")
        layer, _, name = rest.partition("/")
        if top != "model_weights" or not name:
            raise ValueError(f"weights that no layer uses: {path}")
        by_layer.setdefault(layer, {})[name] = array
    return _json(texts["", "model_config"]), texts.get(("", "keras_version")), _ByName(by_layer)


def _json(text):
    if len(text) > _MAX_JSON:
        raise ValueError(f"a configuration of {len(text)} bytes; at most {_MAX_JSON} are read")
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"its configuration is not JSON: {error}") from None
