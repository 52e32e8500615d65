"""A reader of untrusted ZIP archives of uncompressed members, such as .npz files and PyTorch's files.

The directory is read entry by entry within the file's budget. The size of a member is compared with the bytes in
the file before an array is allocated for it.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, NamedTuple

from ..budget import Budget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from ...typing import Array

#: cost of a member in objects: its entry, its header, and the array it becomes
MEMBER_COST = 64
_CHUNK = 1 << 20
# In memory a directory takes many times its own size; a model needs far less than this.
_MAX_DIRECTORY = 4 << 20
_LOCAL_HEADER = struct.Struct("<4s22x2H")
# signature, flags, method, checksum, stored and real size, lengths of name, extra and comment, offset of the header
_ENTRY = struct.Struct("<4s4x2H4x3I3H8xI")
_END = struct.Struct("<4s6xH2I2x")
_END64 = struct.Struct("<4s28x3Q")
_LOCATOR = struct.Struct("<4s4xQ4x")
_NAME_IS_UTF8, _SIZES_FOLLOW = 0x800, 0x8
# The value of a 32-bit field if the number is in a 64-bit field of the extra data.
_IN_EXTRA_FIELD = 0xFFFFFFFF


def members(
    file: BinaryIO,
    budget: Budget,
    kind: str,
    suffix: str = "",
    check: Callable[[list[str]], object] | None = None,
    skip: Callable[[str], bool] | None = None,
) -> dict[str, Member]:
    """Return the members of an archive in order, {name: Member}.

    Parameters
    ----------
    file : binary file
        Open for reading; it must stay open while members are read.
    budget : Budget
        The file's budget.
    kind : str
        The expected kind of file for messages, such as "an .npz file".
    suffix : str
        Removed from the names.
    check : callable, optional
        Called with the list of names before all other checks, to raise for an archive of another kind.
    skip : callable, optional
        Called with a name; members for which it returns True are neither checked nor returned.

    Raises
    ------
    ValueError, zipfile.BadZipFile, ...
        Errors that `faults.naming` catches: the file is not an archive or is damaged, or members are compressed,
        encrypted, duplicated, share bytes, or have a path out of the archive.
    """
    start, end, count = _directory(file, budget.size, kind)
    budget.bytes(end - start, "its ZIP directory")
    file.seek(start)
    entries = [*_entries(file.read(end - start), budget)]
    if check is not None:
        check([entry.name for entry in entries])
    if len(entries) != count:
        raise ValueError(f"damaged: {len(entries)} members where there should be {count}")
    entries = [entry for entry in entries if skip is None or not skip(entry.name)]
    for entry in entries:  # before their sizes, because a valid file may have this fault
        if entry.method != zipfile.ZIP_STORED or entry.stored != entry.size:
            name = entry.name.removesuffix(suffix)
            raise ValueError(
                f"member {name!r:.200}: compressed; only uncompressed files are read: save it without compression"
            )
    # members that share bytes would let a small file fill the memory
    if sum(entry.size for entry in entries) > budget.size:
        raise ValueError("the members' sizes add up to more than the file")
    found: dict[str, Member] = {}
    for entry in entries:
        name = entry.name.removesuffix(suffix)
        if name in found:
            raise ValueError(f"member {name!r:.200} occurs twice")
        try:
            found[name] = Member(file, entry, budget.size)
        except (ValueError, EOFError) as error:
            raise ValueError(f"member {name!r:.200}: {error}") from None
    _check_overlaps(found, start)
    return found


def names_of(file: BinaryIO, name: object) -> list[str]:
    """Return the names of an archive's members; raise as `members` if its directory is damaged."""
    budget = Budget.of(file, name)
    start, end, _ = _directory(file, budget.size, "a ZIP archive")
    budget.bytes(end - start, "its ZIP directory")
    file.seek(start)
    return [entry.name for entry in _entries(file.read(end - start), budget)]


def _directory(file: BinaryIO, size: int, kind: str) -> tuple[int, int, int]:
    """Return (start, end, number of entries) of the directory, which is before the archive's end record."""
    tail_size = _END64.size + _LOCATOR.size + _END.size
    file.seek(max(0, size - tail_size))
    tail = file.read(tail_size).rjust(tail_size, b"\0")
    signature, count, length, start = _END.unpack_from(tail, tail_size - _END.size)
    if signature != b"PK\5\6":
        raise ValueError(f"truncated, or not {kind}: it does not end in a ZIP directory")
    end = size - _END.size
    signature, offset = _LOCATOR.unpack_from(tail, _END64.size)
    if signature == b"PK\6\7":  # beyond 4 GiB a second record before the first one overrides it
        end = size - tail_size
        signature, count, length, start = _END64.unpack_from(tail)
        if offset != end or signature != b"PK\6\6":
            raise ValueError("damaged: its ZIP64 record is not before its end")
    if length > _MAX_DIRECTORY:
        raise ValueError(f"a ZIP directory of {length} bytes; at most {_MAX_DIRECTORY} are read")
    if start != end - length or start < 0:
        raise ValueError("damaged: its ZIP directory is not before its end")
    return start, end, count


class _Entry(NamedTuple):
    """A member's entry in the directory."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    checksum: int
    stored: int
    size: int
    offset: int


def _entries(directory: bytes, budget: Budget) -> Iterator[_Entry]:
    at = 0
    while at < len(directory):
        budget.objects(MEMBER_COST, "its members")
        if at + _ENTRY.size > len(directory):
            raise ValueError("damaged: its ZIP directory ends within an entry")
        signature, flags, method, checksum, stored, size, *lengths, offset = _ENTRY.unpack_from(directory, at)
        if signature != b"PK\1\2":
            raise ValueError("damaged: its ZIP directory has an entry without a signature")
        at += _ENTRY.size
        raw, extra, _ = (directory[at + sum(lengths[:i]) : at + sum(lengths[: i + 1])] for i in range(3))
        at += sum(lengths)
        if _IN_EXTRA_FIELD in (size, stored, offset):
            size, stored, offset = _zip64(extra, size, stored, offset)
        yield _Entry(_decoded(raw, flags), raw, flags, method, checksum, stored, size, offset)


def _decoded(name: bytes, flags: int) -> str:
    return name.decode("utf-8" if flags & _NAME_IS_UTF8 else "cp437")


def _zip64(extra: bytes, *numbers: int) -> Iterator[int]:
    """Yield the numbers; those that need more than 32 bits are read from the extra field."""
    content, at = b"", 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            content = extra[at + 4 : at + 4 + length]
        at += 4 + length
    for number in numbers:
        if number == _IN_EXTRA_FIELD:
            if len(content) < 8:
                raise ValueError("damaged: a size is not in its ZIP directory")
            (number,) = struct.unpack_from("<Q", content)
            content = content[8:]
        yield number


def _check_overlaps(found: dict[str, Member], end: int) -> None:
    free = 0
    for name, member in sorted(found.items(), key=lambda pair: pair[1].start):
        if member.start < free:
            raise ValueError(f"member {name!r:.200} shares bytes with another")
        free = member.end
    if free > end:
        raise ValueError("damaged: a member reaches into the ZIP directory")


class Member:
    """One member of an archive, read in order; the checksum is compared after the last byte.

    Attributes
    ----------
    filename : str
    size : int
        Number of bytes.
    start, end : int
        Offsets in the file of the beginning of its header and the end of its data.
    """

    def __init__(self, file: BinaryIO, entry: _Entry, file_size: int) -> None:
        if entry.offset >= file_size:
            raise ValueError(f"its offset, {entry.offset}, is not in the file")
        if entry.flags & ~(_NAME_IS_UTF8 | _SIZES_FOLLOW):
            raise ValueError("encrypted, or of an unknown kind")
        if ".." in entry.name.split("/") or entry.name.startswith("/") or "\\" in entry.name or "\0" in entry.name:
            raise ValueError("its name is a path out of the archive")
        self._file = file
        self._checksum = entry.checksum
        self.filename = entry.name
        self.size = entry.size
        self.start = entry.offset
        self._offset = self._data_start(entry)
        self.end = self._offset + self.size
        self._crc = zlib.crc32(b"")

    def _data_start(self, entry: _Entry) -> int:
        """Return the offset of the data, after the member's own header, which repeats the name."""
        self._file.seek(self.start)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(self._exactly(_LOCAL_HEADER.size))
        if signature != b"PK\3\4":
            raise ValueError("damaged: its header is not where the directory says")
        if self._exactly(name_length) != entry.raw_name:
            raise ValueError("damaged: its header has another name than the directory")
        result: int = self.start + _LOCAL_HEADER.size + name_length + extra_length
        return result

    def _exactly(self, count: int) -> bytes:
        content = self._file.read(count)
        if len(content) < count:
            raise EOFError("truncated")
        return content

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer at the end."""
        self._file.seek(self._offset)
        content = self._exactly(min(count, self.end - self._offset))
        self._advance(content)
        return content

    def fill(self, array: Array) -> None:
        """Fill a C-contiguous array with the next bytes."""
        target = memoryview(array.data).cast("B") if array.size else memoryview(b"")
        if target.nbytes > self.end - self._offset:
            raise EOFError("truncated")
        self._file.seek(self._offset)
        for start in range(0, target.nbytes, _CHUNK):  # in pieces, so that each is in the cache for the checksum
            piece = target[start : start + _CHUNK]
            if self._file.readinto(piece) < piece.nbytes:  # type: ignore[attr-defined]
                raise EOFError("truncated")
            self._advance(piece)

    def check(self) -> int:
        """Return the offset of the data in the file after the checksum has been compared."""
        offset = self._offset
        while self._offset < self.end:
            self.read(_CHUNK)
        return offset

    def _advance(self, content: bytes | memoryview) -> None:
        self._crc = zlib.crc32(content, self._crc)
        self._offset += len(content)
        if self._offset == self.end and self._crc != self._checksum:
            raise zipfile.BadZipFile("damaged: its checksum does not match")
