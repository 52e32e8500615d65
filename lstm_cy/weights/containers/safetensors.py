""".safetensors files, read and written with the library of that name, an extra.

The library parses a header as a whole, so this module checks first that the header is small.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from ...extras import pip_install
from ...layers.narrow import widened
from ...printable import printable
from ..budget import Budget
from ..faults import ForeignFile, naming, shortened
from ..files import replacing
from ..inputs import input_of

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import IO, BinaryIO

    from ...typing import Array, FilePath, FileSource, Parameters
    from ..inputs import Input

#: types that become an array; BF16, which NumPy does not have, becomes float32
KINDS = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "BF16")
_DTYPES = {"BOOL": "?", "BF16": "<u2"} | {kind: f"<{kind[0].lower()}{int(kind[1:]) // 8}" for kind in KINDS[:-2]}
# In memory JSON takes many times its own size. This is three times the largest header of lstm_cy's own files, because
# that is a string in it, with escaped quotes.
_MAX_HEADER = 48 << 20
_MAX_AXES = 32
# Costs in objects of a tensor and of a metadata entry.
_TENSOR_COST, _PROPERTY_COST = 32, 4


def suffix_is_safetensors(name: object) -> bool:
    """Return whether a file's name says that it is one of this kind."""
    return str(name).lower().endswith(".safetensors")


def is_safetensors(source: FileSource | Input) -> bool:
    """Return whether a file is of this kind, by its first bytes or, if they are of no kind, its name."""
    source = input_of(source)
    with source.open() as file:
        beginning, size = file.read(9), file.seek(0, os.SEEK_END)
    if beginning[:2] == b"PK":
        return False
    return has_mark(beginning, size) or suffix_is_safetensors(source)


def has_mark(beginning: bytes, size: int) -> bool:
    """Return whether a file's first 9 bytes are the size of a header that fits in the file, and a brace."""
    return len(beginning) >= 9 and beginning[8:9] == b"{" and struct.unpack("<Q", beginning[:8])[0] <= size - 8


def write_safetensors(path: FilePath | IO[bytes], arrays: Parameters, properties: dict[str, str]) -> None:
    """Write arrays and metadata to `path`, atomically."""
    content = _library().numpy.save(arrays, properties)
    with replacing(path) as file:
        file.write(content)


def read_safetensors(
    path: FileSource | Input, kinds: Collection[str] = KINDS, needed: str | None = None
) -> tuple[Parameters, dict[str, str], Budget]:
    """Return (arrays by name, metadata, rest of the file's budget).

    Parameters
    ----------
    path : str, os.PathLike, bytes or binary file
    kinds : collection of str
        The types of tensors that the caller takes, some of `KINDS`.
    needed : str, optional
        An entry that the metadata must have.

    Raises
    ------
    ForeignFile
        There is no metadata entry `needed`.
    ValueError
        The file is truncated or damaged, or holds a tensor of another type; the message names file and fault.
    ImportError
        The library is not installed.
    OSError
        The file cannot be read.
    """
    library = _library()
    source = input_of(path)
    with source.open() as file, naming(source):
        budget = Budget.of(file, source)
        entries, start = _entries(file, budget)
        properties = entries.pop("__metadata__", None) or {}
        if not isinstance(properties, dict):
            raise ValueError("its metadata are not a JSON object")
        budget.objects(_PROPERTY_COST * len(properties), "its metadata")
        if needed is not None and needed not in properties:
            raise ForeignFile(f"no {needed}")
    try:
        if source.path is None:
            with source.open() as file:
                library.deserialize(file.read())  # checks that offsets and shapes agree
            _check_kinds(source, entries, kinds)
            return {name: _read_tensor(source, entry, start) for name, entry in entries.items()}, properties, budget
        with library.safe_open(source.path, framework="np") as opened:
            _check_kinds(source, entries, kinds)
            arrays = {
                name: _read_tensor(source, entry, start) if entry["dtype"] == "BF16" else opened.get_tensor(name)
                for name, entry in entries.items()
            }
            return arrays, opened.metadata() or {}, budget
    except library.SafetensorError as error:
        raise ValueError(f"{printable(source)}: {shortened(error)}") from None


def _entries(file: BinaryIO, budget: Budget) -> tuple[dict[str, Any], int]:
    """Return ({name: entry}, offset of the tensors' bytes); the library checks that offsets and shapes agree."""
    beginning = file.read(8)
    (length,) = struct.unpack("<Q", beginning.ljust(8, b"\0"))
    if len(beginning) < 8 or length > budget.size - 8:
        raise ValueError(
            f"truncated, or not a safetensors file: a header of {length} bytes in a file of {budget.size} bytes"
        )
    if length > _MAX_HEADER:
        raise ValueError(f"a header of {length} bytes; at most {_MAX_HEADER} are read")
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


def _check_kinds(path: object, entries: dict[str, Any], kinds: Collection[str]) -> None:
    """Raise for a tensor of another type than `kinds`."""
    for name, entry in entries.items():
        if entry["dtype"] not in kinds:
            *others, last = kinds
            kind = shortened(entry["dtype"], 200)
            raise ValueError(
                f"{path}: {shortened(name, 200)}: expected one of {', '.join(others)} or {last}, got {kind}"
            )


def _read_tensor(source: Input, entry: Any, start: int) -> Array:
    """Read a tensor, bfloat16 as float32; the library has checked the file before."""
    array = np.empty(entry["shape"], _DTYPES[entry["dtype"]])
    with source.open() as file:
        file.seek(start + entry["data_offsets"][0])
        file.readinto(array.data)  # type: ignore[attr-defined]
    return widened(array) if entry["dtype"] == "BF16" else array


def _library() -> Any:
    """Import safetensors; if it is missing, raise an ImportError with the command that installs it."""
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(f"safetensors files need the library: {pip_install('safetensors')}") from None
    return safetensors
