"""The library's own .npz and .safetensors files, which contain the architecture and the user's metadata.

A header in JSON describes the layers; `load` makes them without weights and fills them with the arrays of the file.
"""

from __future__ import annotations

import importlib
import json
import random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import DTYPES, int_within, shown, warn
from ..layers.base import Layer
from ..layers.sequential import Sequential
from ..printable import printable
from .budget import Budget, LimitExceeded
from .containers.npz import read_npz as read_npz
from .containers.npz import read_npz_within, write_npz
from .containers.safetensors import (
    is_safetensors,
    read_safetensors,
    suffix_is_safetensors,
    write_safetensors,
)
from .faults import ForeignFile, check_finite, naming, shortened
from .inputs import input_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import IO, TypeAlias

    from ..typing import FilePath, FileSource, Parameters
    from .inputs import Input

    #: {name: class} of the caller's own layers
    Own: TypeAlias = Mapping[str, type[Layer]]

#: the version of files in general, and of files in which a layer occurs several times
FORMAT_VERSION, SHARING_VERSION = 1, 2
#: the header's name: an array of bytes (.npz), or an entry of the metadata (.safetensors)
HEADER = "lstm_cy"
# The layers that a file may contain, and their modules, which are imported when needed. No other object is looked up
# by a name from a file.
_LAYERS = {
    "LSTM": "layers.lstm",
    "Linear": "layers.linear",
    "Embedding": "layers.embedding",
    "Dropout": "layers.dropout",
    "Activation": "layers.activation",
    "ActivationRegularization": "layers.regularization",
    "Masking": "layers.masking",
    "Readout": "layers.readout",
    "Conv1D": "layers.conv",
    "Pooling1D": "layers.pooling",
    "GlobalPooling1D": "layers.pooling",
    "BatchNormalization": "layers.normalization",
    "LayerNormalization": "layers.normalization",
    "Flatten": "layers.shapes",
    "RepeatVector": "layers.shapes",
    "Residual": "layers.residual",
    "Attention": "layers.attention",
    "Seq2Seq": "seq2seq",
    "QuantizedLSTM": "layers.quantized",
}
# the types of layers that are made of layers in order
_CHAINS = ("Sequential", "Residual")

# In memory JSON takes many times its own size; a model needs far less than this.
_MAX_JSON = 16 << 20
# The types of tensors in a .safetensors file: weights, and narrow ones.
_TENSORS = ("F32", "F64", "U16", "I8")


class _Changed(ValueError):
    """JSON would change the metadata."""


def write_model(
    model: Layer, path: FilePath | IO[bytes], metadata: dict[str, Any] | None, safetensors: bool | None = None
) -> None:
    """Write `model` and `metadata` to a .npz or .safetensors file; None: its suffix decides. See `weights.save`."""
    header = pack_header(model, metadata)
    if suffix_is_safetensors(path) if safetensors is None else safetensors:
        write_safetensors(path, model.stored(), {HEADER: header.decode()})
    else:
        write_npz(path, {HEADER: np.frombuffer(header, np.uint8), **model.stored()})


def read_model(path: FileSource | Input, strict: bool, own: Own = MappingProxyType({})) -> tuple[Layer, dict[str, Any]]:
    """Return (model, metadata) from a file that `write_model` wrote; see `weights.load`."""
    path = input_of(path)
    header, arrays, budget = _read_safetensors(path) if is_safetensors(path) else _read_npz_model(path)
    check_finite(path, arrays, strict)
    try:
        config, metadata = unpack_header(header, budget)
        needed, held = _least_size(config, own), sum(array.size for array in arrays.values())
        if needed > held:  # checked before arrays of that size are allocated
            raise ValueError(f"the architecture needs {needed} weights, the file holds {held}")
        budget.objects(_cost(config, own), "its layers")
        model = build(config, own)
        model.restore(arrays, copy=False)
    except LimitExceeded:
        raise
    except RecursionError:
        raise ValueError(f"{printable(path)}: its layers are nested too deep to be read here") from None
    except (ArithmeticError, AttributeError, LookupError, SyntaxError, TypeError, ValueError) as error:
        # many types, because a configuration may hold any values
        raise ValueError(f"{printable(path)}: {shortened(error.args[0] if error.args else error)}") from None
    return model, metadata


def build(config: Any, own: Own = MappingProxyType({})) -> Any:
    """Make the layer that `config` describes, without weights; `restore` must set them.

    Parameters
    ----------
    config : dict
        {"type": name, **arguments}, with the arguments of a layer's `config`; the types are LSTM, Linear, Embedding,
        Dropout, Activation, ActivationRegularization, Masking, Readout, Conv1D, Pooling1D, GlobalPooling1D,
        BatchNormalization, LayerNormalization, Flatten, RepeatVector, Attention, Seq2Seq, QuantizedLSTM, and
        Sequential and Residual, whose argument is {"layers": [config, ...]}; in it {"type": "Shared", "layer": index}
        repeats the layer at that index, and the argument "tied" of a Linear is the index of its Embedding.
    own : mapping of str to class
        Further types, from `own_layers`.

    Raises
    ------
    ValueError, TypeError
        The type is unknown, or does not take the arguments.

    Examples
    --------
    >>> build({"type": "Linear", "in_features": 3, "out_features": 2}).parameters["weight"].shape
    (2, 3)
    """
    kind, arguments = _split(config, own)
    if kind in _CHAINS:
        layers: list[Any] = []
        for layer in arguments["layers"]:
            shared = _shared(layer, len(layers))
            layers.append(build(_with_tied(layer, layers), own) if shared is None else layers[shared])
        return _class(kind, own)(*layers)
    if kind in own:
        return _built(own[kind], arguments)
    return _class(kind, own).blank(**arguments)


def _with_tied(config: Any, layers: list[Any]) -> Any:
    """Return a layer's configuration with the layer before it that its argument `tied` is the index of."""
    if not isinstance(config, dict) or config.get("tied") is None:
        return config
    return config | {"tied": layers[int_within("tied", config["tied"], 0, len(layers) - 1)]}


def _shared(config: Any, count: int) -> int | None:
    """Return the index of the layer that `config`, which follows `count` layers, repeats; None if it is a new layer."""
    if not isinstance(config, dict) or config.get("type") != "Shared":
        return None
    if config.keys() != {"type", "layer"}:
        raise ValueError("Shared: expected the number of a layer and nothing else")
    return int_within("Shared: layer", config["layer"], 0, count - 1)


def _split(config: Any, own: Own) -> tuple[str, dict[str, Any]]:
    """Return (type, arguments) of a layer's unchecked configuration."""
    if not isinstance(config, dict):
        raise ValueError(f"expected the configuration of a layer, got {config!r:.80}")
    arguments = dict(config)
    kind = arguments.pop("type", None)
    if kind in _CHAINS:
        if arguments.keys() != {"layers"} or not isinstance(arguments["layers"], list):
            raise ValueError(f"{kind}: expected a list of layers and nothing else")
    elif not isinstance(kind, str) or (kind not in _LAYERS and kind not in own):
        known = ", ".join([*_LAYERS, "Sequential", *own])
        raise ValueError(
            f"unknown type of layer {kind!r:.80}; known are {known}; load(path, layers=[...]) takes classes of your own"
        )
    if kind not in own and arguments.get("dtype", DTYPES[0]) not in DTYPES:  # NumPy accepts others, some are costly
        raise ValueError(f"{kind}: dtype: expected one of {', '.join(DTYPES)}, got {arguments['dtype']!r:.80}")
    return kind, arguments


def _class(kind: str, own: Own) -> type[Layer]:
    """Return the class of a type of layer that `_split` has checked."""
    if kind in own:
        return own[kind]
    if kind == "Sequential":
        return Sequential
    found: type[Layer] = getattr(importlib.import_module(f"..{_LAYERS[kind]}", __package__), kind)
    return found


def _distinct(configs: list[Any]) -> list[Any]:
    """Return the configurations of a Sequential's layers, without those of repeated ones."""
    return [config for index, config in enumerate(configs) if _shared(config, index) is None]


def _cost(config: Any, own: Own) -> int:
    """Return the cost in objects of the layer that `config` describes."""
    kind, arguments = _split(config, own)
    if kind in _CHAINS:
        layers = arguments["layers"]
        return Layer.cost({}) * len(layers) + sum(_cost(layer, own) for layer in _distinct(layers))
    return _class(kind, own).cost(arguments)


def _least_size(config: Any, own: Own = MappingProxyType({})) -> int:
    """Return the number of weights, without biases, of the layer that `config` describes, without making it."""
    kind, arguments = _split(config, own)
    if kind in _CHAINS:
        return sum(_least_size(layer, own) for layer in _distinct(arguments["layers"]))
    return _class(kind, own).least_size(arguments)


def own_layers(layers: Any) -> Own:
    """Check the argument `layers` of `load`, classes of the caller's own, and return {name: class}."""
    if not isinstance(layers, list | tuple):
        raise TypeError(f"layers: expected a list of classes, got {type(layers).__name__}")
    own: dict[str, type[Layer]] = {}
    for kind in layers:
        if not isinstance(kind, type) or not issubclass(kind, Layer):
            raise TypeError(f"layers: expected classes derived from lstm_cy.Layer, got {shown(kind)}")
        name = kind.__name__
        if name in _LAYERS or name in ("Sequential", "Shared") or name in own:
            raise ValueError(f"layers: expected names that are not in use, got a class {name}")
        own[name] = kind
    return own


def _built(kind: type[Layer], arguments: dict[str, Any]) -> Layer:
    """Make a layer of the caller's own without weights; errors and random numbers of its constructor are reported."""
    name, before = kind.__name__, _random_state()
    try:
        layer = kind.blank(**arguments)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        raise ValueError(
            f"{name}: its constructor raised {type(error).__name__} for the arguments {shown(arguments)}: {error}"
        ) from error
    if _random_state() != before:
        warn(f"{name}: its constructor draws from the global random numbers, so that load changes those drawn later")
    return layer


def _random_state() -> tuple[Any, ...]:
    """Return what changes when a global generator of random numbers is used."""
    state: Any = np.random.get_state()  # noqa: NPY002 (nothing is drawn)
    return random.getstate(), state[1].tobytes(), state[2]


def pack_header(model: Layer, metadata: dict[str, Any] | None) -> bytes:
    """Return architecture and metadata (None: the model's own) as JSON in UTF-8; raise if `load` could not read it."""
    metadata = checked_metadata(model, metadata)
    config = {"type": type(model).__name__, **model.config}
    held = sum(array.nbytes for array in model.stored().values())
    Budget("model", held).objects(_cost(config, _own_classes(model)), "its layers")
    header = {"format": HEADER, "version": version_of(model), "model": config, "metadata": metadata}
    try:
        content = json.dumps(header, allow_nan=False)
        read = Budget("metadata", len(content)).json(content, "its JSON")
        for name in ("metadata", "model"):
            if read[name] != header[name]:
                raise _Changed(f"{name}: JSON does not give it back unchanged (a tuple, a key that is not a str)")
    except (LimitExceeded, _Changed):
        raise
    except RecursionError:
        raise ValueError("metadata: nested too deep") from None
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata: expected values that JSON can hold: {error}") from None
    if len(content) > _MAX_JSON:
        raise ValueError(f"metadata: {len(content)} bytes as JSON; at most {_MAX_JSON} are read back")
    return content.encode()


def checked_metadata(model: Layer, metadata: dict[str, Any] | None) -> dict[str, Any]:
    """Return the metadata to save with a model, its own if they are None; raise if they are not a dict."""
    if metadata is None:
        metadata = getattr(model, "metadata", {})
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata: expected a dict, got {type(metadata).__name__}")
    return metadata


def _own_classes(model: Layer) -> Own:
    """Return {name: class} of the caller's own layers in a model; raise if a name means another class."""
    own: dict[str, type[Layer]] = {}
    for layer in _every_layer(model):
        kind = type(layer)
        known = _class(kind.__name__, {}) if kind.__name__ in (*_LAYERS, "Sequential") else None
        if (known or own.setdefault(kind.__name__, kind)) is not kind:
            raise ValueError(f"model: expected one class for each name, got two classes {kind.__name__}")
    return own


def _every_layer(layer: Layer) -> Iterator[Layer]:
    """Yield a layer and all layers that it is made of."""
    yield layer
    for part in {id(part): part for part in layer.parts}.values():
        yield from _every_layer(part)


def version_of(model: Layer) -> int:
    """Return the format version of a file with this model."""
    return SHARING_VERSION if _shares(model.config) else FORMAT_VERSION


def _shares(config: dict[str, Any]) -> bool:
    """Return whether a layer occurs several times in the layer that `config` describes."""
    return any(layer["type"] == "Shared" or _shares(layer) for layer in config.get("layers", ()))


def unpack_header(content: bytes | str, budget: Budget) -> tuple[Any, dict[str, Any]]:
    """Return (configuration, metadata) from the header's JSON."""
    if len(content) > _MAX_JSON:
        raise ValueError(f"a header of {len(content)} bytes; at most {_MAX_JSON} are read")
    header = budget.json(content)
    if not isinstance(header, dict) or header.get("format") != HEADER:
        raise ValueError("its header is not one of lstm_cy")
    version = header.get("version")
    if version not in (FORMAT_VERSION, SHARING_VERSION) or isinstance(version, bool):
        raise ValueError(
            f"format version {version!r:.80}; this release reads version {FORMAT_VERSION} and {SHARING_VERSION}"
        )
    if not isinstance(header.get("metadata"), dict):
        raise ValueError("its metadata are not a JSON object")
    return header.get("model"), header["metadata"]


def metadata_of(path: object, properties: dict[str, str]) -> dict[str, Any]:
    """Return the metadata of an .onnx file: those given to `save` if it wrote the file, else `properties`."""
    if HEADER not in properties:
        return properties
    header = properties[HEADER]
    with naming(path):
        return unpack_header(header, Budget(path, len(header)))[1]


def _read_npz_model(path: Input) -> tuple[bytes, Parameters, Budget]:
    arrays, budget = read_npz_within(path, HEADER)
    header = arrays.pop(HEADER)
    if header.dtype != np.uint8:
        raise ForeignFile(f"{HEADER} of {header.dtype}")
    return header.tobytes(), arrays, budget


def _read_safetensors(path: Input) -> tuple[str, Parameters, Budget]:
    arrays, properties, budget = read_safetensors(path, _TENSORS, HEADER)
    return properties[HEADER], arrays, budget
