"""Conversion of an untrusted ONNX protobuf to NumPy arrays and Python values."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import re
import stat
from typing import TYPE_CHECKING, Any

import numpy as np

from ...checks import file_path
from ...layers.narrow import widened
from ...printable import printable
from ..budget import Budget, LimitExceeded
from ..containers import protobuf
from ..faults import counted, listed, shortened
from ..graph import STRINGS
from .messages import MODEL, type_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence, Sized
    from typing import BinaryIO

    from ...typing import Array

#: operator sets whose definitions of the operators are known
OPSETS = range(7, 29)
#: protobuf's own limit
LARGEST_FILE = 2**31 - 1
#: most characters of an error, besides the file's name, and of a name in it
LONGEST_MESSAGE, LONGEST_NAME = 2000, 100
#: most bytes of a result that is larger than its inputs, when a graph is run
LARGEST_RESULT = 1 << 31
#: NumPy's limit
LARGEST_RANK = 64
#: constants and packed weights may take this many times the file's bytes, besides the limit for any file
BUDGET_FACTOR = 6

# the types of TensorProto.DataType that NumPy has
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("float32"),
    2: np.dtype("uint8"),
    3: np.dtype("int8"),
    4: np.dtype("uint16"),
    5: np.dtype("int16"),
    6: np.dtype("int32"),
    7: np.dtype("int64"),
    9: np.dtype("bool"),
    10: np.dtype("float16"),
    11: np.dtype("float64"),
    12: np.dtype("uint32"),
    13: np.dtype("uint64"),
}
STRING = 8
#: bfloat16, whose numbers are arrays of float32
BFLOAT16 = 16
#: the dtypes of arrays of each type, strings left out
ARRAY_DTYPES = DTYPES | {BFLOAT16: np.dtype("float32")}
# The field with the numbers of a tensor without raw data; other types are in int32_data.
_FIELDS = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data"}
# AttributeProto.AttributeType: the field with the value
_ATTRIBUTES = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings", 10: "graphs"}
_EXTERNAL = 1
# Read a file without following a link and without waiting for the data of a pipe, if the system has these flags.
_READ = os.O_RDONLY
for _flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
    _READ |= getattr(os, _flag, 0)


@contextlib.contextmanager
def naming(name: object) -> Iterator[None]:
    """Turn errors in the block into a ValueError that begins with `name`, shortened to a limit."""
    try:
        yield
    except LimitExceeded:  # names the file already
        raise
    except (ValueError, TypeError, IndexError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(f"{printable(name)}: {shortened(error, LONGEST_MESSAGE)}") from None


def quoted(name: str) -> str:
    """Return a name from a file, in quotes."""
    return repr(name) if len(name) <= LONGEST_NAME else f"'{shortened(name, LONGEST_NAME)}'"


class Source:
    """A model's protobuf and its source.

    Parameters
    ----------
    model : str, os.PathLike, bytes or onnx.ModelProto

    Attributes
    ----------
    proto : protobuf.Message
        The ModelProto.
    name : str
        Its name in errors: the path, or "model".
    size : int
        Bytes of the protobuf.
    budget : Budget
        Rest of what reading it may take.
    opset : int
        Version of ONNX's own operators.
    """

    def __init__(self, model: Any) -> None:
        folder, self.name = None, "model"
        if _is_model_proto(model):
            self._check_size(model.ByteSize())
            model = model.SerializeToString()
        if isinstance(model, bytes | bytearray | memoryview):
            self.proto = self._read(io.BytesIO(model), memoryview(model).nbytes)
        elif isinstance(model, str | os.PathLike):
            self.name = file_path("model", model)
            folder = os.path.dirname(self.name) or os.curdir
            with open(self.name, "rb") as file:
                status = os.fstat(file.fileno())
                if stat.S_ISREG(status.st_mode):
                    self.proto = self._read(file, status.st_size)
                else:  # such as a pipe, which has no size and no offsets
                    content = file.read(LARGEST_FILE + 1)
                    self.proto = self._read(io.BytesIO(content), len(content))
        else:
            raise TypeError(f"model: expected a path, bytes or an onnx.ModelProto, got {type(model).__name__}")
        self._external = _External(folder, self.budget)
        with naming(self.name):
            self.opset = self._opset()

    def _check_size(self, size: int) -> None:
        if size > LARGEST_FILE:
            raise ValueError(f"{printable(self.name)}: {size} bytes; an ONNX file has at most {LARGEST_FILE}")

    def _read(self, file: BinaryIO, size: int) -> protobuf.Message:
        """Parse the ModelProto in a file."""
        self._check_size(size)
        self.size, self.budget = size, Budget(self.name, size, BUDGET_FACTOR)
        if file.read(8)[4:] == b"ORTM":
            raise ValueError(
                f"{printable(self.name)}: a model in ONNX Runtime's own format (.ort), which is not read; use the "
                ".onnx file that it was made from"
            )
        try:
            return protobuf.parse(file, size, MODEL, self.budget)
        except LimitExceeded:
            raise
        except ValueError as error:
            raise ValueError(f"{printable(self.name)}: truncated, or not an ONNX model: {shortened(error)}") from None

    def _opset(self) -> int:
        versions = {entry.version for entry in self.proto.opset_import if is_onnx(entry.domain)}
        if len(versions) != 1 or not self.proto.HasField("graph"):
            raise ValueError("truncated, or not an ONNX model: it has no graph, or not one version of ONNX's operators")
        version: int = versions.pop()
        if version not in OPSETS:
            raise ValueError(f"operators of version {version}; versions {OPSETS[0]} to {OPSETS[-1]} are read")
        # A function may replace an operator.
        hidden = [function.name for function in self.proto.functions if is_onnx(function.domain)]
        if hidden:
            raise ValueError(f"functions that replace ONNX's operators: {listed(hidden)}")
        return version

    def array(self, tensor: Any) -> Array:
        """Return a read-only array of a TensorProto.

        Raises
        ------
        ValueError
            NumPy does not have the type, or the shape does not match the bytes.
        """
        name = f"tensor {quoted(tensor.name)}"
        array: Array
        if tensor.data_type == STRING and not tensor.HasField("segment"):
            with naming(name):
                return _strings(tensor)
        if tensor.data_type not in ARRAY_DTYPES or tensor.HasField("segment"):
            raise ValueError(f"{name}: type {type_name(tensor.data_type)} or its segments are not supported")
        with naming(name):
            shape = _shape(tensor)
            dtype = DTYPES.get(tensor.data_type, np.dtype(np.uint16))  # bfloat16: its bits
        count = math.prod(shape)
        field = _FIELDS.get(tensor.data_type, "int32_data")
        if tensor.data_location == _EXTERNAL:
            with naming(name):
                raw = self._external.read(tensor, count * dtype.itemsize)
        elif tensor.HasField("raw_data"):
            raw = tensor.raw_data
        else:
            raw = None
        array = _joined(getattr(tensor, field)) if raw is None else np.frombuffer(raw, np.uint8)
        found = len(array) if raw is None else len(array) / dtype.itemsize
        if found != count:
            raise ValueError(f"{name}: shape {shape} has {count} elements, the file holds {found:g}")
        if dtype.kind == "b":
            array = array != 0
        elif raw is not None:
            array = array.view(dtype.newbyteorder("<"))
        elif dtype.name == "float16":  # its bits are stored in integers
            array = array.astype(np.uint16).view(dtype)
        else:
            array = array.astype(dtype, copy=False)
        array = array.reshape(shape)
        if tensor.data_type == BFLOAT16:
            self.budget.bytes(8 * array.size, "its tensors of bfloat16")
            array = widened(array)
        array.flags.writeable = False
        return array

    def attributes(self, node: Any) -> dict[str, Any]:
        """Return {name: value} of a NodeProto: numbers, str, lists of them, arrays; graphs unchanged."""
        values = {}
        for attribute in node.attribute:
            if attribute.name in values:
                raise ValueError(f"attribute {quoted(attribute.name)} occurs twice")
            if attribute.type not in _ATTRIBUTES or attribute.ref_attr_name:
                raise ValueError(f"attribute {quoted(attribute.name)} is of a type that is not supported")
            value = getattr(attribute, _ATTRIBUTES[attribute.type])
            if attribute.type == 4:
                value = self.array(value)
            elif attribute.type == 3:
                value = value.decode()
            elif attribute.type == 8:
                value = [text.decode() for text in value]
            elif attribute.type in (6, 7):
                value = list(value)
            values[attribute.name] = value
        return values


def _is_model_proto(model: Any) -> bool:
    """Return whether an object is an onnx.ModelProto, without an import of the library."""
    return type(model).__name__ == "ModelProto" and hasattr(model, "SerializeToString")


def _joined(pieces: Sequence[Array]) -> Array:
    """Return the numbers of a tensor, which may be in several pieces."""
    return pieces[0] if len(pieces) == 1 else np.concatenate([*pieces, np.empty(0, np.uint8)])


def rounded_to_bfloat16(array: Array) -> Array:
    """Return float32 numbers rounded to the nearest bfloat16, ties to even; NaN and infinity stay."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(array), np.float32(np.nan), rounded.view(np.float32))


def check_rank(shape: Sized) -> None:
    """Raise if there are more sizes than an array can have; long lists of sizes take time."""
    if len(shape) > LARGEST_RANK:
        raise ValueError(f"{len(shape)} dimensions; at most {LARGEST_RANK} are read")


def check_empty(shape: Sequence[int], itemsize: int) -> None:
    """Raise if a shape is empty along one axis and too large along others: sums along the empty axis have that size."""
    size = math.prod(filter(None, shape)) * itemsize
    if 0 in shape and size > LARGEST_RESULT:
        raise ValueError(f"shape {tuple(shape)}: its other axes would take {size} bytes, at most {LARGEST_RESULT}")


def _shape(tensor: Any) -> tuple[int, ...]:
    check_rank(tensor.dims)
    shape = tuple(tensor.dims)
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {shape}")
    check_empty(shape, 8)
    return shape


def _strings(tensor: Any) -> Array:
    """Return a read-only array of str from a TensorProto."""
    shape = _shape(tensor)
    if tensor.data_location == _EXTERNAL or tensor.HasField("raw_data"):
        raise ValueError("expected strings in string_data")
    if math.prod(shape) != len(tensor.string_data):
        raise ValueError(f"shape {shape} does not fit its {counted(len(tensor.string_data), 'string')}")
    array = np.empty(len(tensor.string_data), STRINGS)
    array[:] = [text.decode() for text in tensor.string_data]
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


class _External:
    """Reads tensors from external data files, which must be in the model's folder.

    Each byte is read once, and tensors that share bytes share them here too, so a small file cannot fill the memory.
    """

    def __init__(self, folder: str | None, budget: Budget) -> None:
        self._folder: Any = folder
        self._budget = budget
        self._read: dict[tuple[str, int, int], bytes] = {}
        self._left: dict[str, int] = {}

    def read(self, tensor: Any, size: int) -> bytes:
        """Return the bytes of a tensor; raise if there are not `size`."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.pop("location", "")
        offset, length = entries.pop("offset", "0"), entries.pop("length", str(size))
        entries.pop("checksum", None)
        numbers = all(re.fullmatch(r"\d{1,19}", number, re.ASCII) for number in (offset, length))
        if entries or not numbers or int(length) != size:
            raise ValueError(f"external data of {length} bytes at {offset}, {size} are expected; {entries}")
        if self._folder is None:
            raise ValueError("its data are in another file; pass the path of the model")
        if location in ("", os.curdir, os.pardir) or re.search(r"[/\\:\0]", location):
            raise ValueError(f"its data are in {quoted(location)}; only files in the model's own folder are read")
        key = location, int(offset), size
        if key not in self._read:
            self._read[key] = self._bytes(*key)
            self._budget.extend(size)
        return self._read[key]

    def _bytes(self, location: str, offset: int, size: int) -> bytes:
        path = os.path.join(self._folder, location)
        try:
            if not hasattr(os, "O_NOFOLLOW") and os.path.islink(path):
                raise OSError(errno.ELOOP, "")
            descriptor = os.open(path, _READ)
        except OSError as error:
            why = "it is a link" if error.errno == errno.ELOOP else error.strerror
            raise ValueError(f"its data in {quoted(location)} are not read: {why}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"its data in {quoted(location)} are not read: it is not a file")
            left = self._left.setdefault(location, status.st_size)
            if offset + size > status.st_size or size > left:
                raise ValueError(
                    f"{size} bytes at {offset} of {quoted(location)}, "
                    f"which has {status.st_size}, {left} of them not yet used"
                )
            self._left[location] -= size
            with open(descriptor, "rb", closefd=False) as file:
                file.seek(offset)
                return file.read(size)
        finally:
            os.close(descriptor)


def is_onnx(domain: str) -> bool:
    """Return whether a domain is that of ONNX's own operators."""
    return domain in ("", "ai.onnx")
