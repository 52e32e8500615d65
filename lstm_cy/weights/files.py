"""Atomic replacement of files: a reader sees the complete old content or the complete new content."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import time
from typing import TYPE_CHECKING, Any

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be deleted
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, BinaryIO

    from ..typing import FilePath

_TEMPORARY = re.compile(r"\.lstm_cy-[0-9a-f]{16}\.tmp")
# On systems without locks, a temporary file older than this, in seconds, counts as abandoned.
_OLD = 24 * 3600
# Open a file without following a link and without waiting for the data of a pipe.
_INSPECT = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@contextlib.contextmanager
def replacing(path: FilePath | IO[bytes]) -> Iterator[BinaryIO]:
    """Give a binary file that becomes `path` when the block ends without an error and is deleted otherwise.

    The data are on the disk before the file is renamed, and the new name is on the disk before the block ends: after a
    crash `path` holds the complete old or the complete new content. A replaced file keeps its permissions. Temporary
    files that killed processes have left in the folder are removed.

    Instead of a path a file may be given that is open for writing in binary mode; it gets the content at the end.

    Raises
    ------
    OSError
        The file cannot be written; the error names `path`.
    """
    if not isinstance(path, str | os.PathLike):
        content = io.BytesIO()
        yield content
        path.write(content.getbuffer())
        return
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    with _naming(path):
        _remove_left_behind(folder)
        temporary, file = _created(folder, _permissions(target))
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if fcntl is not None:  # rename it while it is locked, so that no other process removes it
                    os.replace(temporary, target)
            if fcntl is None:
                os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        if os.name == "posix":  # Windows does not open folders
            _sync_folder(folder)


@contextlib.contextmanager
def _naming(path: FilePath) -> Iterator[None]:
    """Make an OSError of the system name `path`, not the temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def _permissions(target: str) -> int | None:
    """Return the permissions of an existing file; None if there is none."""
    try:
        return stat.S_IMODE(os.stat(target).st_mode) & 0o777
    except FileNotFoundError:
        return None


def _created(folder: str, permissions: int | None) -> tuple[str, Any]:
    """Create a temporary file, locked if the system has locks; return (name, file)."""
    mode = 0o666 if permissions is None else permissions
    while True:
        name = os.path.join(folder, f".lstm_cy-{os.urandom(8).hex()}.tmp")
        file = open(name, "xb", opener=lambda path, flags: os.open(path, flags, mode))  # noqa: SIM115
        try:
            locked = _locked(file.fileno())
        except OSError:  # a file system without locks
            locked = True
        if not locked or not os.path.exists(name):  # another process is removing it
            file.close()
            continue
        if permissions is not None and hasattr(os, "fchmod"):
            with contextlib.suppress(PermissionError):  # file systems without permissions
                os.fchmod(file.fileno(), permissions)
        return name, file


def _locked(descriptor: int) -> bool:
    """Lock a file until it is closed or the process ends; return False if another process has locked it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_left_behind(folder: str) -> None:
    """Remove temporary files of ended processes from a folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        names = [entry.path for entry in entries if _TEMPORARY.fullmatch(entry.name)]
        for name in names:
            with contextlib.suppress(OSError):  # no permission, or already removed
                if _is_left_behind(name):
                    os.unlink(name)


def _is_left_behind(name: str) -> bool:
    if fcntl is None:
        return time.time() - os.lstat(name).st_mtime > _OLD
    descriptor = os.open(name, _INSPECT)
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and _locked(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
