"""The library's own files: .npz and .safetensors, with the architecture and the user's metadata inside.

Files are written aside and renamed, so that a reader meets the old file or the new one, never a half. They
are read without pickle, and no memory is taken on a header's word.
"""

import contextlib
import json
import math
import os
import re
import secrets
import struct
import warnings
import zipfile

import numpy as np

from .. import seq2seq
from ..attention import Attention
from ..checks import positive_int
from ..layers import Dropout, Embedding, Linear, Sequential
from ..lstm import LSTM
from ..quantize import QuantizedLSTM, widened

FORMAT_VERSION = 1
# Where a file holds the header: among the tensors, as bytes (.npz), or among the metadata (.safetensors).
_HEADER = "lstm_cy"
# What a file may ask for. Nothing else is ever looked up by a name from a file.
_LAYERS = {
    layer.__name__: layer for layer in (LSTM, Linear, Embedding, Dropout, Attention, seq2seq.Seq2Seq, QuantizedLSTM)
}

_CHUNK = 1 << 20
# A ZIP directory or a JSON text is unpacked into many times its own size; a model needs far less than this.
_MAX_DIRECTORY = 4 << 20
_MAX_JSON = 16 << 20
# What NumPy writes for an array of plain numbers; anything else (objects, records, strings) does not match.
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|][biuf]\d{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:(?:\d{1,19}, )*\d{1,19},?)?)\), \} *\n"
)


@contextlib.contextmanager
def replacing(path):
    """A binary file that becomes `path` when the block ends without an error, and leaves no trace if not.

    The bytes are on the disk before the name changes, and the name before the block is left: after a crash
    `path` holds the old content or the new one, whole.
    """
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".lstm_cy-{secrets.token_hex(8)}.tmp")
    try:
        file = open(temporary, "xb")  # noqa: SIM115 (closed below, before the rename)
    except OSError as error:  # name the file that was asked for
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_npz(path, arrays):
    """Write `arrays` to `path` as an uncompressed .npz file, atomically; the same arrays give the same bytes.

    Parameters
    ----------
    path : str or os.PathLike
        Where to; a file there is replaced when the new one is complete.
    arrays : mapping of str to array_like
        Numbers and bools, of any shape.

    Raises
    ------
    TypeError
        An array is of another kind (objects, strings, records, complex); nothing is written.

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
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            # a ZipInfo of its own has a fixed date, hence the same bytes each time
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_npz(path):
    """Read an uncompressed .npz file of plain numbers: {name: array}.

    Nothing in the file is taken on trust: no pickle is read, and every size is compared with the bytes that
    are there before memory is taken, which is never much more than the file's size.

    Parameters
    ----------
    path : str or os.PathLike
        A file written by `write_npz`, or by `numpy.savez` from arrays of numbers.

    Returns
    -------
    dict of str to ndarray
        Fresh, writable arrays.

    Raises
    ------
    ValueError
        The file is truncated, damaged, compressed or not of this kind; the message names file, member and
        fault.
    OSError
        The file cannot be read.
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        try:
            return _read_archive(file)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, OverflowError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None


def _read_archive(file):
    size = os.fstat(file.fileno()).st_size
    count = _check_directory(file, size)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) != count:
            raise ValueError(f"damaged: {len(members)} members where there should be {count}")
        # members that share bytes would let a small file fill the memory
        if sum(member.file_size for member in members) > size:
            raise ValueError("the members' sizes add up to more than the file")
        arrays = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"member {name!r} is there twice")
            try:
                if not 0 <= member.header_offset < size:
                    raise ValueError(f"its place, {member.header_offset}, is not in the file")
                arrays[name] = _read_member(archive, member)
            except (zipfile.BadZipFile, NotImplementedError, EOFError, OverflowError, ValueError) as error:
                raise ValueError(f"member {name!r}: {error}") from None
    return arrays


def _check_directory(file, size):
    """The number of members, once it is certain that the directory, which zipfile unpacks whole, is small."""
    file.seek(max(0, size - 98))
    tail = file.read(98).rjust(98, b"\0")
    signature, count, directory = struct.unpack("<4s6xHI", tail[76:92])
    if signature != b"PK\5\6":
        raise ValueError("truncated, or not an .npz file: it does not end in a ZIP directory")
    if tail[56:60] == b"PK\6\7":  # past 2 GiB a second record, which overrides the first, stands before it
        (where,) = struct.unpack("<Q", tail[64:72])
        (directory,) = struct.unpack("<Q", tail[40:48])
        if where != size - 98:
            raise ValueError("damaged: its ZIP64 record is not before its end")
    if directory > _MAX_DIRECTORY:
        raise ValueError(f"a ZIP directory of {directory} bytes; at most {_MAX_DIRECTORY} are read")
    return count


def _read_member(archive, member):
    if not member.filename.endswith(".npy"):
        raise ValueError("not an array (.npy)")
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise ValueError("compressed; only uncompressed files are read")
    if member.flag_bits & ~0x808:  # all but "name is UTF-8" and "sizes follow the data"
        raise ValueError("encrypted, or of an unknown kind")
    with archive.open(member) as stream:
        preamble = stream.read(10)
        if preamble[:8] != b"\x93NUMPY\x01\x00" or len(preamble) < 10:
            raise ValueError("not an array in .npy format 1.0")
        (length,) = struct.unpack("<H", preamble[8:])
        dtype, order, shape = _parse_npy_header(stream.read(length))
        expected, found = math.prod(shape) * dtype.itemsize, member.file_size - 10 - length
        if expected != found:
            raise ValueError(f"shape {shape} of {dtype} takes {expected} bytes, the file holds {found}")
        array = np.empty(math.prod(shape), dtype)
        _read_into(stream, array)
    return array.reshape(shape, order=order)


def _parse_npy_header(header):
    """(dtype, order, shape) from the text NumPy writes before an array's bytes."""
    match = _NPY_HEADER.fullmatch(header)
    if match is None:
        raise ValueError(f"not an array of plain numbers: its header is {header[:80]!r}")
    descr, fortran, shape = (group.decode() for group in match.groups())
    try:
        dtype = np.dtype(descr)
    except TypeError:
        raise ValueError(f"unknown dtype {descr!r}") from None
    return dtype, "F" if fortran == "True" else "C", tuple(int(n) for n in re.findall(r"\d+", shape))


def _read_into(stream, array):
    """Fill `array` from `stream` in pieces; at its end zipfile compares the checksum."""
    target = memoryview(array).cast("B")
    filled = 0
    while chunk := stream.read(_CHUNK):  # a stream that ends early raises
        target[filled : filled + len(chunk)] = chunk
        filled += len(chunk)


def write_model(model, path, metadata):
    """Write `model` and `metadata` to `path`, a .npz or .safetensors file; see `weights.save`."""
    header = _pack_header(model, metadata)
    if _is_safetensors(path):
        content = _safetensors().numpy.save(model.stored(), {_HEADER: header.decode()})
        with replacing(path) as file:
            file.write(content)
    else:
        write_npz(path, {_HEADER: np.frombuffer(header, np.uint8), **model.stored()})


def read_model(path, strict):
    """(model, metadata) from a file that `write_model` wrote; see `weights.load`."""
    path = os.fspath(path)
    header, arrays = _read_safetensors(path) if _is_safetensors(path) else _read_npz_model(path)
    _check_finite(path, arrays, strict)
    try:
        config, metadata = _unpack_header(header)
        needed, held = _least_size(config), sum(array.size for array in arrays.values())
        if needed > held:  # found out before anything of that size is made
            raise ValueError(f"the architecture needs {needed} weights, the file holds {held}")
        model = build(config)
        model.restore(arrays)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: {error.args[0]}") from None
    return model, metadata


def build(config):
    """The layer that `config` describes, with fresh weights.

    Parameters
    ----------
    config : dict
        {"type": name, **arguments} as a layer's `config` holds them; the types are LSTM, Linear, Embedding,
        Dropout, Attention, Seq2Seq, QuantizedLSTM and Sequential, whose argument is {"layers": [config, ...]}.

    Raises
    ------
    ValueError, TypeError
        A type there is not, or arguments that it does not take.

    Examples
    --------
    >>> build({"type": "Linear", "in_features": 3, "out_features": 2}).parameters["weight"].shape
    (2, 3)
    """
    kind, arguments = _split(config)
    if kind == "Sequential":
        return Sequential(*(build(layer) for layer in arguments["layers"]))
    return _LAYERS[kind](**arguments)


def _split(config):
    """(type, arguments) of a layer's configuration, of which nothing is known yet."""
    if not isinstance(config, dict):
        raise ValueError(f"expected the configuration of a layer, got {config!r:.80}")
    arguments = dict(config)
    kind = arguments.pop("type", None)
    if kind == "Sequential":
        if arguments.keys() != {"layers"} or not isinstance(arguments["layers"], list):
            raise ValueError("Sequential: expected a list of layers and nothing else")
    elif not isinstance(kind, str) or kind not in _LAYERS:
        known = ", ".join([*_LAYERS, "Sequential"])
        raise ValueError(f"unknown type of layer {kind!r:.80}; known are {known}")
    return kind, arguments


def _least_size(config):
    """How many weights, biases aside, the layer `config` describes has; worked out without making it."""
    kind, arguments = _split(config)
    if kind == "Sequential":
        return sum(_least_size(layer) for layer in arguments["layers"])
    if kind == "Dropout":
        return 0

    def size(name, default=None):
        return positive_int(f"{kind}: {name}", arguments.get(name, default))

    if kind == "Linear":
        return size("in_features") * size("out_features")
    if kind == "Embedding":
        return size("num_embeddings") * size("embedding_dim")
    if kind == "Attention":
        queries, memory = size("query_size"), size("memory_size")
        units = arguments.get("units") and size("units")
        return {"general": queries * memory, "additive": (units or memory) * (queries + memory)}.get(
            arguments.get("score", "general"), 0
        )
    if kind == "Seq2Seq":
        inside = seq2seq.parts(arguments).values()
        return sum(_least_size({"type": layer.__name__, **of_layer}) for layer, of_layer in inside)
    inputs, hidden, layers = size("input_size"), size("hidden_size"), size("num_layers", 1)
    directions = 2 if arguments.get("bidirectional") else 1
    columns = inputs + hidden + (layers - 1) * (directions * hidden + hidden)
    return directions * 4 * hidden * columns


def _pack_header(model, metadata):
    """Architecture and metadata as JSON in UTF-8, once it is certain that they can be read back."""
    config = {"type": type(model).__name__, **model.config}
    _least_size(config)  # raises for a layer of a type that is not known
    header = {"format": _HEADER, "version": FORMAT_VERSION, "model": config, "metadata": metadata}
    try:
        content = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata: expected what JSON can hold: {error}") from None
    if json.loads(content)["metadata"] != metadata:
        raise ValueError("metadata: JSON does not give it back unchanged (a tuple, a key that is not a str)")
    if len(content) > _MAX_JSON:
        raise ValueError(f"metadata: {len(content)} bytes as JSON; at most {_MAX_JSON} are read back")
    return content.encode()


def _unpack_header(content):
    """(configuration, metadata) from the header's JSON."""
    if len(content) > _MAX_JSON:
        raise ValueError(f"a header of {len(content)} bytes; at most {_MAX_JSON} are read")
    try:
        header = json.loads(content)
    except ValueError as error:
        raise ValueError(f"its header is not JSON: {error}") from None
    if not isinstance(header, dict) or header.get("format") != _HEADER:
        raise ValueError("its header is not one of lstm_cy")
    if header.get("version") != FORMAT_VERSION:
        raise ValueError(f"format version {header.get('version')!r:.80}; this release reads version {FORMAT_VERSION}")
    if not isinstance(header.get("metadata"), dict):
        raise ValueError("its metadata are not a JSON object")
    return header.get("model"), header["metadata"]


def _check_finite(path, arrays, strict):
    names = [name for name, array in arrays.items() if not np.isfinite(_numbers(array)).all()]
    if not names:
        return
    message = f"{path}: NaN or infinity in {', '.join(names)}"
    if strict:
        raise ValueError(message)
    warnings.warn(message, stacklevel=4)  # 4: who called load


def _numbers(array):
    """What an array stands for; uint16 is bf16."""
    return widened(array) if array.dtype == np.uint16 else array


def _read_npz_model(path):
    arrays = read_npz(path)
    header = arrays.pop(_HEADER, None)
    if header is None or header.dtype != np.uint8:
        raise _not_a_model(path, {name: array.shape for name, array in arrays.items()})
    return header.tobytes(), arrays


def _read_safetensors(path):
    safetensors = _safetensors()
    with open(path, "rb"):  # safetensors' own errors do not all name the file
        pass
    try:
        with safetensors.safe_open(path, framework="np") as file:
            header = (file.metadata() or {}).get(_HEADER)
            tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            if header is None:
                raise _not_a_model(path, {name: tuple(t.get_shape()) for name, t in tensors.items()})
            for name, tensor in tensors.items():
                if tensor.get_dtype() not in ("F32", "F64", "U16", "I8"):  # there are some that NumPy does not know
                    raise ValueError(f"{path}: {name}: expected F32, F64, U16 or I8, got {tensor.get_dtype()}")
            return header.encode(), {name: file.get_tensor(name) for name in tensors}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: {error}") from None


def _not_a_model(path, shapes):
    inside = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    return ValueError(f"{path}: holds tensors but no model of lstm_cy: {inside or 'nothing'}")


def _is_safetensors(path):
    return os.fspath(path).lower().endswith(".safetensors")


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError("safetensors files need an extra: pip install lstm_cy[safetensors]") from None
    return safetensors
