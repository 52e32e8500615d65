"""The library's own .npz and .safetensors files, which contain the architecture and the user's metadata.

Files are replaced atomically: a reader sees the complete old file or the complete new one. They are read without
pickle, and sizes in a header are checked before memory is allocated.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import random
import re
import struct
import zipfile
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import DTYPES, file_path, int_within, shown, warn
from ..extras import pip_install
from ..layers.base import Layer
from ..layers.narrow import widened
from ..layers.sequential import Sequential
from ..printable import printable
from . import archive
from .archive import ForeignFile as ForeignFile
from .budget import Budget, LimitExceeded, listed, shortened
from .files import replacing as replacing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO, TypeAlias

    from ..typing import Array, FilePath, Parameters

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
    "Masking": "layers.masking",
    "Readout": "layers.readout",
    "Attention": "layers.attention",
    "Seq2Seq": "seq2seq",
    "QuantizedLSTM": "layers.quantized",
}

# In memory JSON takes many times its own size; a model needs far less than this.
_MAX_JSON = 16 << 20
_MAX_AXES = 32
# Costs in objects of a tensor and of a metadata entry of a .safetensors file.
_TENSOR_COST, _PROPERTY_COST = 32, 4
# NumPy's header of an array of plain numbers; headers of other arrays (objects, records, strings) do not match.
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|][biuf]\d{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:(?:\d{1,19}, )*\d{1,19},?)?)\), \} *\n"
)


class _Changed(ValueError):
    """JSON would change the metadata."""


def write_npz(path: FilePath, arrays: Mapping[str, Array]) -> None:
    """Write `arrays` to `path` as an uncompressed .npz file, atomically; the same arrays give the same bytes.

    Parameters
    ----------
    path : str or os.PathLike
        The file; an existing one is replaced when the new one is complete.
    arrays : mapping of str to array_like
        Numbers and bools, of any shape.

    Raises
    ------
    TypeError
        An array is of another kind (objects, strings, records, complex); no file is written.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "weights.npz")
    >>> write_npz(path, {"bias": np.zeros(3, np.float32)})
    >>> read_npz(path)
    {'bias': array([0., 0., 0.], dtype=float32)}
    """
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name}: expected an array of numbers or bools, got dtype {array.dtype}")
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as written:
        for name, array in arrays.items():
            # a ZipInfo of its own has a fixed date, hence the same bytes each time
            with written.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_npz(path: FilePath) -> Parameters:
    """Read an uncompressed .npz file of plain numbers: {name: array}.

    The file is not trusted: no pickle is read, and every size is compared with the bytes in the file before memory is
    allocated, so the memory is never much more than the file's size.

    Parameters
    ----------
    path : str or os.PathLike
        A file written by `write_npz`, or by `numpy.savez` from arrays of numbers.

    Returns
    -------
    dict of str to ndarray
        New, writable arrays.

    Raises
    ------
    ValueError
        The file is truncated, damaged, compressed or not of this kind; the message names file, member and
        fault.
    OSError
        The file cannot be read.
    """
    return read_npz_within(path)[0]


def read_npz_within(path: FilePath, needed: str | None = None) -> tuple[Parameters, Budget]:
    """Return (arrays as `read_npz`, rest of the file's budget); raise ForeignFile if there is no array `needed`."""
    path = file_path("path", path)
    with open(path, "rb") as file, archive.naming(path):
        budget = Budget.of(file, path)
        arrays = {}
        members = archive.members(file, budget, "an .npz file", suffix=".npy")
        if needed is not None and needed not in members:
            raise ForeignFile(f"no {needed}")
        for name, member in members.items():
            try:
                arrays[name] = _read_member(member, budget)
            except (ValueError, EOFError, zipfile.BadZipFile) as error:
                raise ValueError(f"member {name!r:.200}: {error}") from None
        return arrays, budget


def _read_member(member: archive.Member, budget: Budget) -> Array:
    if not member.filename.endswith(".npy"):
        raise ValueError("not an array (.npy)")
    preamble = member.read(10)
    if preamble[:8] != b"\x93NUMPY\x01\x00" or len(preamble) < 10:
        raise ValueError("not an array in .npy format 1.0")
    (length,) = struct.unpack("<H", preamble[8:])
    dtype, order, shape = _parse_npy_header(member.read(length))
    expected, found = math.prod(shape) * dtype.itemsize, member.size - 10 - length
    if expected != found:
        raise ValueError(f"shape {shape} of {dtype} takes {expected} bytes, the file holds {found}")
    budget.bytes(expected, "its arrays")
    array = np.empty(math.prod(shape), dtype)
    member.fill(array)
    return array.reshape(shape, order=order)


def _parse_npy_header(header: bytes) -> tuple[np.dtype[Any], Any, tuple[int, ...]]:
    """Return (dtype, order, shape) from the text that NumPy writes before an array's bytes."""
    match = _NPY_HEADER.fullmatch(header)
    if match is None:
        raise ValueError(f"not an array of plain numbers: its header is {header[:80]!r}")
    descr, fortran, shape = (group.decode() for group in match.groups())
    try:
        dtype = np.dtype(descr)
    except TypeError:
        raise ValueError(f"unknown dtype {descr!r}") from None
    return dtype, "F" if fortran == "True" else "C", tuple(int(n) for n in re.findall(r"\d+", shape))


def write_model(model: Layer, path: FilePath, metadata: dict[str, Any] | None) -> None:
    """Write `model` and `metadata` to `path`, a .npz or .safetensors file; see `weights.save`."""
    header = pack_header(model, metadata)
    if _is_safetensors(path):
        content = safetensors_library().numpy.save(model.stored(), {HEADER: header.decode()})
        with replacing(path) as file:
            file.write(content)
    else:
        write_npz(path, {HEADER: np.frombuffer(header, np.uint8), **model.stored()})


def read_model(path: FilePath, strict: bool, own: Own = MappingProxyType({})) -> tuple[Layer, dict[str, Any]]:
    """Return (model, metadata) from a file that `write_model` wrote; see `weights.load`."""
    path = file_path("path", path)
    header, arrays, budget = _read_safetensors(path) if _is_safetensors(path) else _read_npz_model(path)
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
        Dropout, Activation, Masking, Readout, Attention, Seq2Seq, QuantizedLSTM and Sequential, whose argument is
        {"layers": [config, ...]}; in it {"type": "Shared", "layer": index} repeats the layer at that index.
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
    if kind == "Sequential":
        layers: list[Any] = []
        for layer in arguments["layers"]:
            shared = _shared(layer, len(layers))
            layers.append(build(layer, own) if shared is None else layers[shared])
        return Sequential(*layers)
    if kind in own:
        return _built(own[kind], arguments)
    return _class(kind, own).blank(**arguments)


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
    if kind == "Sequential":
        if arguments.keys() != {"layers"} or not isinstance(arguments["layers"], list):
            raise ValueError("Sequential: expected a list of layers and nothing else")
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
    found: type[Layer] = getattr(importlib.import_module(f"..{_LAYERS[kind]}", __package__), kind)
    return found


def _distinct(configs: list[Any]) -> list[Any]:
    """Return the configurations of a Sequential's layers, without those of repeated ones."""
    return [config for index, config in enumerate(configs) if _shared(config, index) is None]


def _cost(config: Any, own: Own) -> int:
    """Return the cost in objects of the layer that `config` describes."""
    kind, arguments = _split(config, own)
    if kind == "Sequential":
        layers = arguments["layers"]
        return Layer.cost({}) * len(layers) + sum(_cost(layer, own) for layer in _distinct(layers))
    return _class(kind, own).cost(arguments)


def _least_size(config: Any, own: Own = MappingProxyType({})) -> int:
    """Return the number of weights, without biases, of the layer that `config` describes, without making it."""
    kind, arguments = _split(config, own)
    if kind == "Sequential":
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
    if metadata is None:
        metadata = getattr(model, "metadata", {})
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata: expected a dict, got {type(metadata).__name__}")
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


def _own_classes(model: Layer) -> Own:
    """Return {name: class} of the caller's own layers in a model; raise if a name means another class."""
    own: dict[str, type[Layer]] = {}
    for layer in {id(layer): layer for layer in (model, *model.layers)}.values():
        kind = type(layer)
        known: type[Layer] | None = Sequential if kind.__name__ == "Sequential" else None
        if kind.__name__ in _LAYERS:
            known = _class(kind.__name__, {})
        if (known or own.setdefault(kind.__name__, kind)) is not kind:
            raise ValueError(f"model: expected one class for each name, got two classes {kind.__name__}")
    return own


def version_of(model: Layer) -> int:
    """Return the format version of a file with this model."""
    shares = any(layer["type"] == "Shared" for layer in model.config.get("layers", ()))
    return SHARING_VERSION if shares else FORMAT_VERSION


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


def metadata_of(path: FilePath, properties: dict[str, str]) -> dict[str, Any]:
    """Return the metadata of an .onnx file: those given to `save` if it wrote the file, else `properties`."""
    if HEADER not in properties:
        return properties
    header = properties[HEADER]
    with archive.naming(path):
        return unpack_header(header, Budget(path, len(header)))[1]


def check_finite(path: FilePath, arrays: Parameters, strict: bool) -> None:
    """Warn of NaN and infinity in `arrays`, {name: array}; raise ValueError if `strict`. The message names `path`."""
    names = [name for name, array in arrays.items() if not np.isfinite(_numbers(array)).all()]
    if not names:
        return
    message = f"{printable(path)}: NaN or infinity in {listed(names)}"
    if strict:
        raise ValueError(message)
    warn(message)


def _numbers(array: Array) -> Array:
    """Return an array's values; uint16 is bf16."""
    return widened(array) if array.dtype == np.uint16 else array


def _read_npz_model(path: FilePath) -> tuple[bytes, Parameters, Budget]:
    arrays, budget = read_npz_within(path, HEADER)
    header = arrays.pop(HEADER)
    if header.dtype != np.uint8:
        raise ForeignFile(f"{HEADER} of {header.dtype}")
    return header.tobytes(), arrays, budget


def _read_safetensors(path: FilePath) -> tuple[str, Parameters, Budget]:
    with safetensors_file(path, HEADER) as file:
        header: str = file.library.metadata()[HEADER]
        for name, entry in file.entries.items():
            if entry["dtype"] not in ("F32", "F64", "U16", "I8"):  # NumPy does not have all types
                kind = shortened(entry["dtype"], 200)
                raise ValueError(f"{path}: {shortened(name, 200)}: expected F32, F64, U16 or I8, got {kind}")
        return header, {name: file.library.get_tensor(name) for name in file.entries}, file.budget


class SafetensorsFile(NamedTuple):
    """An open .safetensors file.

    Attributes
    ----------
    library : safetensors.safe_open
        Reads the tensors.
    entries : dict
        {name: {"dtype": ..., "shape": ..., "data_offsets": ...}}.
    start : int
        Offset of the tensors' bytes in the file; their data_offsets are relative to it.
    budget : Budget
    """

    library: Any
    entries: dict[str, Any]
    start: int
    budget: Budget


@contextlib.contextmanager
def safetensors_file(path: FilePath, needed: str | None = None) -> Iterator[SafetensorsFile]:
    """Open a .safetensors file after a check that its header, which the library parses as a whole, is small.

    Raise ForeignFile if there is no metadata entry `needed`.
    """
    library = safetensors_library()
    with open(path, "rb") as file, archive.naming(path):
        budget = Budget.of(file, path)
        entries, start = _safetensors_entries(file, budget)
        properties = entries.pop("__metadata__", None) or {}
        if not isinstance(properties, dict):
            raise ValueError("its metadata are not a JSON object")
        budget.objects(_PROPERTY_COST * len(properties), "its metadata")
        if needed is not None and needed not in properties:
            raise ForeignFile(f"no {needed}")
    try:
        with library.safe_open(path, framework="np") as opened:
            yield SafetensorsFile(opened, entries, start, budget)
    except library.SafetensorError as error:
        raise ValueError(f"{printable(path)}: {shortened(error)}") from None


def _safetensors_entries(file: BinaryIO, budget: Budget) -> tuple[dict[str, Any], int]:
    """Return ({name: entry}, offset of the tensors' bytes); the library checks that offsets and shapes agree."""
    beginning = file.read(8)
    (length,) = struct.unpack("<Q", beginning.ljust(8, b"\0"))
    if len(beginning) < 8 or length > budget.size - 8:
        raise ValueError(
            f"truncated, or not a safetensors file: a header of {length} bytes in a file of {budget.size} bytes"
        )
    if length > 3 * _MAX_JSON:  # the header of lstm_cy is a string in it, with escaped quotes
        raise ValueError(f"a header of {length} bytes; at most {3 * _MAX_JSON} are read")
    budget.bytes(length, "its header")
    header = budget.json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    budget.objects(_TENSOR_COST * len(header), "its tensors")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(shape, list) or len(shape) > _MAX_AXES:
            raise ValueError(f"tensor {name!r:.200}: expected an entry with a shape of up to {_MAX_AXES} axes")
    return header, 8 + length


def _is_safetensors(path: FilePath) -> bool:
    return os.fspath(path).lower().endswith(".safetensors")


def safetensors_library() -> Any:
    """Import safetensors; if it is missing, raise an ImportError with the command that installs it."""
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(f"safetensors files need the library: {pip_install('safetensors')}") from None
    return safetensors
