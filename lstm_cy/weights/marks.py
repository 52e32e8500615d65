"""What kind of file the first bytes say it is, whatever its name."""

from __future__ import annotations

import os
import struct
import zipfile
from typing import TYPE_CHECKING

from ..printable import printable
from .containers.hdf5 import SIGNATURE
from .containers.safetensors import has_mark
from .containers.torch_pickle import is_legacy, is_pickle
from .containers.zip import names_of

if TYPE_CHECKING:
    from typing import BinaryIO

    from .inputs import Input

# Enough for the marks of all formats.
_BEGINNING = 512
_TENSORFLOW = "; export it to ONNX with tf2onnx, or save the model with Keras as .keras"
# Formats that are recognised and not read: offset, mark, name, and what to do instead.
_UNREADABLE: tuple[tuple[int, bytes, str, str], ...] = (
    (4, b"ORTM", "an ONNX Runtime model (.ort)", "; take the .onnx file that it was made from"),
    (4, b"TFL3", "a TensorFlow Lite model (.tflite)", "; export the original model to ONNX or .keras"),
    (0, b"GGUF", "a GGUF file", ""),
    (0, b"\x93NUMPY", "a single array of NumPy (.npy)", "; save the tensors by name with numpy.savez"),
    (0, b"\x1f\x8b", "compressed with gzip", "; decompress it first"),
    (0, b"BZh", "compressed with bzip2", "; decompress it first"),
    (0, b"\xfd7zXZ", "compressed with xz", "; decompress it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with Zstandard", "; decompress it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "; extract it first"),
    (257, b"ustar", "a tar archive", "; extract it first"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "; fetch it with git lfs pull"),
    (0, b"model_checkpoint_path:", "the index of TensorFlow checkpoints", _TENSORFLOW),
    (0, b"MATLAB 5.0", "a MATLAB file", ""),
)
# The last bytes of a table of TensorFlow's checkpoints.
_TABLE_END = struct.pack("<Q", 0xDB4775248B80FB57)
# Suffixes of formats without a mark that are not read.
_UNREADABLE_SUFFIXES = {
    ".mlmodel": ("a Core ML model", "; take the model that it was converted from"),
    ".mlpackage": ("a Core ML package", "; take the model that it was converted from"),
    ".pb": ("a TensorFlow graph or SavedModel", _TENSORFLOW),
    ".index": ("the index of a TensorFlow checkpoint", _TENSORFLOW),
    ".xml": ("an OpenVINO model", "; take the model that it was converted from"),
}


class NotRead(ValueError):
    """A file of a format that is recognised and not read; the message names the file and the format.

    Attributes
    ----------
    kind : str
        What the file is, and what to do instead.
    """

    def __init__(self, name: object, kind: str, advice: str) -> None:
        self.kind = f"{kind}, which is not read{advice}"
        super().__init__(f"{printable(name)}: {self.kind}")


def kind_of(source: Input) -> str | None:
    """Return "npz", "safetensors", "pytorch", "keras" or "json" for a file with such a mark; None without a mark.

    Raises
    ------
    NotRead
        The file is of another format that is recognised.
    OSError
        The file cannot be read.
    """
    if source.path is not None and os.path.isdir(source.path):
        _refuse_folder(source.path)
    with source.open() as file:
        beginning = file.read(_BEGINNING)
        size = file.seek(0, os.SEEK_END)
        kind = _marked(beginning, size)
        if kind == "zip":
            return _kind_of_archive(source, file)
        if kind is None:
            _refuse_unreadable(source, file, beginning, size)
    return kind


def _marked(beginning: bytes, size: int) -> str | None:
    if beginning.startswith(SIGNATURE):
        return "keras"
    if beginning.startswith((b"PK\3\4", b"PK\5\6")):
        return "zip"
    if has_mark(beginning, size):
        return "safetensors"
    if is_legacy(beginning) or is_pickle(beginning):
        return "pytorch"
    if beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        return "json"
    return None


def _kind_of_archive(source: Input, file: BinaryIO) -> str | None:
    """Return the kind of a ZIP archive by the names of its members; None if its directory cannot be read."""
    try:
        names = names_of(file, source)
    except (ValueError, EOFError, zipfile.BadZipFile):
        return None
    last = {name.rpartition("/")[2] for name in names}
    if "model.weights.h5" in last or "config.json" in names:
        return "keras"
    if "data.pkl" in last:
        return "pytorch"
    if any(name.endswith(".npy") for name in names):
        return "npz"
    if "saved_model.pb" in last:
        raise NotRead(source, "a SavedModel of TensorFlow", _TENSORFLOW)
    if "Manifest.json" in last or any(name.endswith(".mlmodel") for name in names):
        raise NotRead(source, "a Core ML package", "; take the model that it was converted from")
    return None


def _refuse_unreadable(source: Input, file: BinaryIO, beginning: bytes, size: int) -> None:
    """Raise for a file of another format that is recognised."""
    for offset, mark, kind, advice in _UNREADABLE:
        if beginning[offset : offset + len(mark)] == mark:
            raise NotRead(source, kind, advice)
    if beginning.lstrip()[:9].lower() in (b"<!doctype", b"<html>") or beginning.lstrip().lower().startswith(b"<html"):
        raise NotRead(source, "an HTML page", "; the download gave a page instead of the file")
    file.seek(max(0, size - len(_TABLE_END)))
    if file.read(len(_TABLE_END)) == _TABLE_END:
        raise NotRead(source, "the index of a TensorFlow checkpoint", _TENSORFLOW)
    suffix = os.path.splitext(source.name)[1].lower()
    if suffix in _UNREADABLE_SUFFIXES:
        raise NotRead(source, *_UNREADABLE_SUFFIXES[suffix])
    if ".data-0" in os.path.basename(source.name):
        raise NotRead(source, "the data of a TensorFlow checkpoint", _TENSORFLOW)


def _refuse_folder(path: str) -> None:
    """Raise for a folder that is a model of another library."""
    if os.path.exists(os.path.join(path, "saved_model.pb")):
        raise NotRead(path, "a SavedModel of TensorFlow", _TENSORFLOW)
    if path.rstrip(os.sep).lower().endswith(".mlpackage"):
        raise NotRead(path, *_UNREADABLE_SUFFIXES[".mlpackage"])
