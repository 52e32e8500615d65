"""ZIP archives of uncompressed members, read without trust: .npz files and PyTorch's are such.

zipfile unpacks the directory, once it is certain that it is small; members are read here, from their place in the file
straight into memory of their size, which the file has been seen to hold.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

from .budget import LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedReader

    from ..typing import Array

_CHUNK = 1 << 20
# A ZIP directory is unpacked into many times its own size; a model needs far less than this.
_MAX_DIRECTORY = 4 << 20
_LOCAL_HEADER = struct.Struct("<4s22x2H")


@contextlib.contextmanager
def naming(place: object) -> Iterator[None]:
    """Whatever a damaged archive makes the block raise becomes a ValueError that begins with `place`."""
    try:
        yield
    except LimitExceeded:  # names the file itself
        raise
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OverflowError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from None


def members(
    file: BufferedReader, kind: str, suffix: str = "", check: Callable[[list[str]], object] | None = None
) -> dict[str, Member]:
    """The members of an archive, in order: {name: Member}.

    Parameters
    ----------
    file : binary file
        Open for reading; it must stay open as long as the members are read.
    kind : str
        What the file should be, for messages, such as "an .npz file".
    suffix : str
        Left off the names.
    check : callable, optional
        Called with the list of names before anything else is looked at, to raise for an archive of another kind.

    Raises
    ------
    ValueError, zipfile.BadZipFile, ...
        What `naming` catches: no archive, a damaged one, or one whose members are compressed, encrypted, there twice,
        share bytes, or would leave the folder they are in.
    """
    size = os.fstat(file.fileno()).st_size
    count = _check_directory(file, size, kind)
    with zipfile.ZipFile(file) as archive:
        infos, end = archive.infolist(), archive.start_dir
    if check is not None:
        check([info.filename for info in infos])
    if len(infos) != count:
        raise ValueError(f"damaged: {len(infos)} members where there should be {count}")
    for info in infos:  # before their sizes, for this is the fault that an honest file may have
        with naming(f"member {info.filename.removesuffix(suffix)!r}"):
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise ValueError("compressed; only uncompressed files are read: save it again without")
    # members that share bytes would let a small file fill the memory
    if sum(info.file_size for info in infos) > size:
        raise ValueError("the members' sizes add up to more than the file")
    found: dict[str, Member] = {}
    for info in infos:
        name = info.filename.removesuffix(suffix)
        if name in found:
            raise ValueError(f"member {name!r} is there twice")
        with naming(f"member {name!r}"):
            found[name] = Member(file, info, size)
    _check_overlaps(found, end)
    return found


def _check_directory(file: BufferedReader, size: int, kind: str) -> int:
    """The number of members, once it is certain that the directory, which zipfile unpacks whole, is small."""
    file.seek(max(0, size - 98))
    tail = file.read(98).rjust(98, b"\0")
    count: int
    signature, count, directory = struct.unpack("<4s6xHI", tail[76:92])
    if signature != b"PK\5\6":
        raise ValueError(f"truncated, or not {kind}: it does not end in a ZIP directory")
    if tail[56:60] == b"PK\6\7":  # past 2 GiB a second record, which overrides the first, stands before it
        (where,) = struct.unpack("<Q", tail[64:72])
        (directory,) = struct.unpack("<Q", tail[40:48])
        if where != size - 98:
            raise ValueError("damaged: its ZIP64 record is not before its end")
    if directory > _MAX_DIRECTORY:
        raise ValueError(f"a ZIP directory of {directory} bytes; at most {_MAX_DIRECTORY} are read")
    return count


def _check_overlaps(found: dict[str, Member], end: int) -> None:
    free = 0
    for name, member in sorted(found.items(), key=lambda pair: pair[1].start):
        if member.start < free:
            raise ValueError(f"member {name!r} shares bytes with another")
        free = member.end
    if free > end:
        raise ValueError("damaged: a member reaches into the ZIP directory")


class Member:
    """One member of an archive, whose bytes are read in order; the checksum is compared when the last is there.

    Attributes
    ----------
    filename : str
    size : int
        Its bytes.
    start, end : int
        The places in the file where its header begins and its data end.
    """

    def __init__(self, file: BufferedReader, info: zipfile.ZipInfo, file_size: int) -> None:
        if not 0 <= info.header_offset < file_size:
            raise ValueError(f"its place, {info.header_offset}, is not in the file")
        if info.flag_bits & ~0x808:  # all but "name is UTF-8" and "sizes follow the data"
            raise ValueError("encrypted, or of an unknown kind")
        if ".." in info.filename.split("/") or info.filename.startswith("/") or "\\" in info.orig_filename:
            raise ValueError("a name that leads out of the archive")
        self._file = file
        self._checksum = info.CRC
        self.filename = info.filename
        self.size = info.file_size
        self.start = info.header_offset
        self._place = self._data_start(info)
        self.end = self._place + self.size
        self._seen = zlib.crc32(b"")

    def _data_start(self, info: zipfile.ZipInfo) -> int:
        """Where the data begin: behind the member's own header, which repeats the name."""
        self._file.seek(self.start)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(self._exactly(_LOCAL_HEADER.size))
        name = self._exactly(name_length).decode("utf-8" if info.flag_bits & 0x800 else "cp437")
        if signature != b"PK\3\4":
            raise ValueError("Bad magic number: its header is not where the directory says")
        if name != info.orig_filename:
            raise ValueError("damaged: its header has another name than the directory")
        result: int = self.start + _LOCAL_HEADER.size + name_length + extra_length
        return result

    def _exactly(self, count: int) -> bytes:
        content = self._file.read(count)
        if len(content) < count:
            raise EOFError("truncated")
        return content

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""
        self._file.seek(self._place)
        content = self._exactly(min(count, self.end - self._place))
        self._advance(content)
        return content

    def fill(self, array: Array) -> None:
        """Fill a C-contiguous array with the next bytes."""
        target = memoryview(array.data).cast("B") if array.size else memoryview(b"")
        if target.nbytes > self.end - self._place:
            raise EOFError("truncated")
        self._file.seek(self._place)
        for start in range(0, target.nbytes, _CHUNK):  # in pieces, so that the checksum finds each in the cache
            piece = target[start : start + _CHUNK]
            if self._file.readinto(piece) < piece.nbytes:
                raise EOFError("truncated")
            self._advance(piece)

    def _advance(self, content: bytes | memoryview) -> None:
        self._seen = zlib.crc32(content, self._seen)
        self._place += len(content)
        if self._place == self.end and self._seen != self._checksum:
            raise zipfile.BadZipFile("damaged: its checksum is another")
