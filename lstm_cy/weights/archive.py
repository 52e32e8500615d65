"""ZIP archives of uncompressed members, read without trust: .npz files and PyTorch's are such.

The directory is read here, entry by entry, as far as the file's budget goes; members are read from their place in the
file straight into memory of their size, which the file has been seen to hold.
"""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, NamedTuple

from ..printable import printable
from .budget import LimitExceeded, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedReader

    from ..typing import Array
    from .budget import Budget

#: objects that a member is drawn as: its entry, its header, and the array it becomes
MEMBER_COST = 64
_CHUNK = 1 << 20
# A directory is unpacked into many times its own size; a model needs far less than this.
_MAX_DIRECTORY = 4 << 20
_LOCAL_HEADER = struct.Struct("<4s22x2H")
# signature, flags, method, checksum, stored and real size, lengths of name, extra and comment, place of the header
_ENTRY = struct.Struct("<4s4x2H4x3I3H8xI")
_END = struct.Struct("<4s6xH2I2x")
_END64 = struct.Struct("<4s28x3Q")
_LOCATOR = struct.Struct("<4s4xQ4x")
_NAME_IS_UTF8, _SIZES_FOLLOW = 0x800, 0x8
# What stands in a field of 32 bits if the number is in one of 64 elsewhere.
_ELSEWHERE = 0xFFFFFFFF


class ForeignFile(ValueError):
    """A file that is whole as far as it was read, but not of the kind that the caller reads."""


@contextlib.contextmanager
def naming(place: object) -> Iterator[None]:
    """Whatever a damaged file makes the block raise becomes a ValueError that begins with `place`."""
    try:
        yield
    except (LimitExceeded, ForeignFile):  # the first names the file itself, the second is for the caller
        raise
    except RecursionError:
        raise ValueError(f"{printable(place)}: nested too deep to be read here") from None
    except (zipfile.BadZipFile, EOFError, OverflowError, ValueError) as error:
        raise ValueError(f"{printable(place)}: {shortened(error)}") from None


def members(
    file: BufferedReader,
    budget: Budget,
    kind: str,
    suffix: str = "",
    check: Callable[[list[str]], object] | None = None,
) -> dict[str, Member]:
    """The members of an archive, in order: {name: Member}.

    Parameters
    ----------
    file : binary file
        Open for reading; it must stay open as long as the members are read.
    budget : Budget
        Of the file.
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
    start, end, count = _directory(file, budget.size, kind)
    budget.bytes(end - start, "its ZIP directory")
    file.seek(start)
    entries = [*_entries(file.read(end - start), budget)]
    if check is not None:
        check([entry.name for entry in entries])
    if len(entries) != count:
        raise ValueError(f"damaged: {len(entries)} members where there should be {count}")
    for entry in entries:  # before their sizes, for this is the fault that an honest file may have
        if entry.method != zipfile.ZIP_STORED or entry.stored != entry.size:
            name = entry.name.removesuffix(suffix)
            raise ValueError(
                f"member {name!r:.200}: compressed; only uncompressed files are read: save it again without"
            )
    # members that share bytes would let a small file fill the memory
    if sum(entry.size for entry in entries) > budget.size:
        raise ValueError("the members' sizes add up to more than the file")
    found: dict[str, Member] = {}
    for entry in entries:
        name = entry.name.removesuffix(suffix)
        if name in found:
            raise ValueError(f"member {name!r:.200} is there twice")
        try:
            found[name] = Member(file, entry, budget.size)
        except (ValueError, EOFError) as error:
            raise ValueError(f"member {name!r:.200}: {error}") from None
    _check_overlaps(found, start)
    return found


def _directory(file: BufferedReader, size: int, kind: str) -> tuple[int, int, int]:
    """(start, end, number of entries) of the directory, which stands before the archive's end."""
    tail_size = _END64.size + _LOCATOR.size + _END.size
    file.seek(max(0, size - tail_size))
    tail = file.read(tail_size).rjust(tail_size, b"\0")
    signature, count, length, start = _END.unpack_from(tail, tail_size - _END.size)
    if signature != b"PK\5\6":
        raise ValueError(f"truncated, or not {kind}: it does not end in a ZIP directory")
    end = size - _END.size
    signature, place = _LOCATOR.unpack_from(tail, _END64.size)
    if signature == b"PK\6\7":  # past 4 GiB a second record, which overrides the first, stands before it
        end = size - tail_size
        signature, count, length, start = _END64.unpack_from(tail)
        if place != end or signature != b"PK\6\6":
            raise ValueError("damaged: its ZIP64 record is not before its end")
    if length > _MAX_DIRECTORY:
        raise ValueError(f"a ZIP directory of {length} bytes; at most {_MAX_DIRECTORY} are read")
    if start != end - length or start < 0:
        raise ValueError("damaged: its ZIP directory is not before its end")
    return start, end, count


class _Entry(NamedTuple):
    """A member as the directory describes it."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    checksum: int
    stored: int
    size: int
    place: int


def _entries(directory: bytes, budget: Budget) -> Iterator[_Entry]:
    at = 0
    while at < len(directory):
        budget.objects(MEMBER_COST, "its members")
        if at + _ENTRY.size > len(directory):
            raise ValueError("damaged: its ZIP directory ends within an entry")
        signature, flags, method, checksum, stored, size, *lengths, place = _ENTRY.unpack_from(directory, at)
        if signature != b"PK\1\2":
            raise ValueError("damaged: an entry of its ZIP directory is none")
        at += _ENTRY.size
        raw, extra, _ = (directory[at + sum(lengths[:i]) : at + sum(lengths[: i + 1])] for i in range(3))
        at += sum(lengths)
        if _ELSEWHERE in (size, stored, place):
            size, stored, place = _zip64(extra, size, stored, place)
        yield _Entry(_decoded(raw, flags), raw, flags, method, checksum, stored, size, place)


def _decoded(name: bytes, flags: int) -> str:
    return name.decode("utf-8" if flags & _NAME_IS_UTF8 else "cp437")


def _zip64(extra: bytes, *numbers: int) -> Iterator[int]:
    """The numbers, those that need more than 32 bits from the extra field that has them."""
    content, at = b"", 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            content = extra[at + 4 : at + 4 + length]
        at += 4 + length
    for number in numbers:
        if number == _ELSEWHERE:
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
    """One member of an archive, whose bytes are read in order; the checksum is compared when the last is there.

    Attributes
    ----------
    filename : str
    size : int
        Its bytes.
    start, end : int
        The places in the file where its header begins and its data end.
    """

    def __init__(self, file: BufferedReader, entry: _Entry, file_size: int) -> None:
        if entry.place >= file_size:
            raise ValueError(f"its place, {entry.place}, is not in the file")
        if entry.flags & ~(_NAME_IS_UTF8 | _SIZES_FOLLOW):
            raise ValueError("encrypted, or of an unknown kind")
        if ".." in entry.name.split("/") or entry.name.startswith("/") or "\\" in entry.name or "\0" in entry.name:
            raise ValueError("a name that leads out of the archive")
        self._file = file
        self._checksum = entry.checksum
        self.filename = entry.name
        self.size = entry.size
        self.start = entry.place
        self._place = self._data_start(entry)
        self.end = self._place + self.size
        self._seen = zlib.crc32(b"")

    def _data_start(self, entry: _Entry) -> int:
        """Where the data begin: behind the member's own header, which repeats the name."""
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

    def check(self) -> int:
        """The place of the data in the file, once their checksum has been compared."""
        place = self._place
        while self._place < self.end:
            self.read(_CHUNK)
        return place

    def _advance(self, content: bytes | memoryview) -> None:
        self._seen = zlib.crc32(content, self._seen)
        self._place += len(content)
        if self._place == self.end and self._seen != self._checksum:
            raise zipfile.BadZipFile("damaged: its checksum is another")
