"""Uncompressed .npz files of plain numbers: written with the same bytes each time, read without pickle."""

from __future__ import annotations

import math
import re
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from ..budget import Budget
from ..faults import ForeignFile, naming
from ..files import replacing
from ..inputs import input_of
from .zip import members

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

    from ...typing import Array, FilePath, FileSource, Parameters
    from ..inputs import Input
    from .zip import Member

# NumPy's header of an array of plain numbers; headers of other arrays (objects, records, strings) do not match.
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|][biuf]\d{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:(?:\d{1,19}, )*\d{1,19},?)?)\), \} *\n"
)


def write_npz(path: FilePath | IO[bytes], arrays: Mapping[str, Array]) -> None:
    """Write `arrays` to `path` as an uncompressed .npz file, atomically; the same arrays give the same bytes.

    Parameters
    ----------
    path : str, os.PathLike or binary file
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


def read_npz(path: FileSource | Input) -> Parameters:
    """Read an uncompressed .npz file of plain numbers: {name: array}.

    The file is not trusted: no pickle is read, and every size is compared with the bytes in the file before memory is
    allocated, so the memory is never much more than the file's size.

    Parameters
    ----------
    path : str, os.PathLike, bytes or binary file
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


def read_npz_within(path: FileSource | Input, needed: str | None = None) -> tuple[Parameters, Budget]:
    """Return (arrays as `read_npz`, rest of the file's budget); raise ForeignFile if there is no array `needed`."""
    path = input_of(path)
    with path.open() as file, naming(path):
        budget = Budget.of(file, path)
        arrays = {}
        found = members(file, budget, "an .npz file", suffix=".npy")
        if needed is not None and needed not in found:
            raise ForeignFile(f"no {needed}")
        for name, member in found.items():
            try:
                arrays[name] = _read_member(member, budget)
            except (ValueError, EOFError, zipfile.BadZipFile) as error:
                raise ValueError(f"member {name!r:.200}: {error}") from None
        return arrays, budget


def _read_member(member: Member, budget: Budget) -> Array:
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
