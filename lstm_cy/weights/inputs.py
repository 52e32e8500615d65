"""Where a file's bytes come from: a path, bytes, or an open binary file."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from typing import TYPE_CHECKING, Any

from ..checks import file_path, shown
from ..printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from ..typing import FileSource

# Most bytes that are read from something that is no file on a disk, such as a pipe.
_MAX_STREAM = 2**31


class Input:
    """The bytes of a file, which can be opened several times.

    Parameters
    ----------
    source : str, os.PathLike, bytes, bytearray, memoryview or a binary file
        A path, the content of a file, or an open file, which is read from its position to its end.
    name : str
        The argument's name in errors.

    Attributes
    ----------
    name : str
        The file's name in errors; also what `str` returns.
    path : str or None
        The path; None for bytes and open files.

    Raises
    ------
    TypeError
        `source` is something else, such as a file opened as text.
    ValueError
        The path has a null character, or a pipe holds more than 2 GiB.
    OSError
        The file cannot be read.
    """

    path: str | None = None

    def __init__(self, source: FileSource, name: str = "path", also: str = "") -> None:
        self._file: Any = None
        if isinstance(source, bytes | bytearray | memoryview):
            self.name = "bytes"
            self._file = io.BytesIO(source)
        elif not isinstance(source, str | os.PathLike) and callable(getattr(source, "read", None)):
            given = getattr(source, "name", None)
            self.name = given if isinstance(given, str) else "file"
            self._file = _seekable(source, name)
        elif isinstance(source, str | os.PathLike):
            self.name = self.path = file_path(name, source)
            if os.path.exists(self.path) and not os.path.isdir(self.path) and not _is_regular(self.path):
                with open(self.path, "rb") as file:
                    self._file = _in_memory(file, name)
        else:
            raise TypeError(
                f"{name}: expected {also}a path, bytes or a file that is open for reading, got {shown(source)} "
                f"({type(source).__name__})"
            )

    def __str__(self) -> str:
        return self.name

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Give a seekable binary file at its beginning; one that the caller has opened stays open."""
        if self._file is None:
            with open(self.name, "rb") as file:
                yield file
        else:
            self._file.seek(0)
            yield self._file

    def path_or_bytes(self) -> str | bytes:
        """Return the path of a file on a disk, else all bytes."""
        if self.path is not None and self._file is None:
            return self.path
        with self.open() as file:
            return file.read()

    def beginning(self, count: int) -> bytes:
        """Return the first bytes."""
        with self.open() as file:
            return file.read(count)


def input_of(source: FileSource | Input, name: str = "path") -> Input:
    """Return the Input of a path, bytes or file; an Input unchanged."""
    return source if isinstance(source, Input) else Input(source, name)


def opened(source: FileSource | Input) -> contextlib.AbstractContextManager[BinaryIO]:
    """Return a context that gives a source's bytes as a seekable binary file at its beginning."""
    return input_of(source).open()


def size_of(file: BinaryIO) -> int:
    """Return the bytes of an open file, and go to its beginning."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _is_regular(path: str) -> bool:
    return stat.S_ISREG(os.stat(path).st_mode)


def _seekable(file: Any, name: str) -> Any:
    """Return an open file if it can be read from its beginning again; else its remaining bytes in memory."""
    if isinstance(file, io.TextIOBase):
        raise TypeError(f"{name}: expected a file that is open in binary mode, got one of text")
    if isinstance(file, io.BytesIO | io.BufferedReader | io.BufferedRandom) and file.seekable() and file.tell() == 0:
        return file
    return _in_memory(file, name)


def _in_memory(file: Any, name: str) -> io.BytesIO:
    content = file.read(_MAX_STREAM + 1)
    if not isinstance(content, bytes):
        raise TypeError(
            f"{name}: expected a file that is open in binary mode, got one that gives {type(content).__name__}"
        )
    if len(content) > _MAX_STREAM:
        raise ValueError(f"{printable(name)}: expected at most {_MAX_STREAM} bytes from a file that is not on a disk")
    return io.BytesIO(content)
