"""A reader for untrusted HDF5 files, limited to what Keras writes: groups, contiguous arrays of numbers, texts.

The HDF5 library trusts its files: a few changed bytes make it run forever. This module compares every address and size
with the size of the file, visits every object once, and limits the work. It refuses features that Keras does not use:
links, external, virtual, chunked and compressed data, later formats.

Source: HDF5 File Format Specification Version 3.0, The HDF Group; names below are those of the specification.
"""

from __future__ import annotations

import math
import struct
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ..budget import LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import BinaryIO

    from ...typing import Array
    from ..budget import Budget

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Costs in objects: the header of an array or group, a message in it, an entry of a group.
_OBJECT_COST, _MESSAGE_COST, _ENTRY_COST = 24, 4, 14
_MAX_NAME = 1024
_UNDEFINED = 2**64 - 1
# Header messages, by their numbers in the specification.
_DATASPACE, _LINK_INFO, _DATATYPE, _LINK, _EXTERNAL, _LAYOUT = 0x1, 0x2, 0x3, 0x6, 0x7, 0x8
_FILTERS, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = 0xB, 0xC, 0x10, 0x11
# Properties of floating-point datatype messages by size, without version and byte order.
_FLOATS = {
    2: bytes.fromhex("0000 1000 0a 05 00 0a 0f000000"),
    4: bytes.fromhex("0000 2000 17 08 00 17 7f000000"),
    8: bytes.fromhex("0000 4000 34 0b 00 34 ff030000"),
}


def read(
    file: BinaryIO,
    budget: Budget,
    *,
    start: int = 0,
    size: int | None = None,
    skip: Collection[str] = (),
    texts: Collection[str] = (),
) -> tuple[dict[str, Array], dict[tuple[str, str], str]]:
    """Read all arrays and some attributes of an HDF5 file.

    Parameters
    ----------
    file : binary file
        Open for reading.
    budget : Budget
        The file's budget.
    start, size : int
        Offset of the HDF5 file in `file` and its bytes; None: up to the end of the budget's file.
    skip : collection of str
        Top-level groups that are ignored.
    texts : collection of str
        Names of attributes to read from any group.

    Returns
    -------
    arrays : dict
        {path: ndarray} of numbers, such as "layers/dense/vars/0".
    texts : dict
        {(path of the group, attribute's name): str}; the path of the root group is "".

    Raises
    ------
    ValueError
        The file is truncated, damaged, or holds something else; the message names it.
    """
    return _File(file, budget, start, budget.size - start if size is None else size).walk(skip, texts)


class _File:
    def __init__(self, file: BinaryIO, budget: Budget, start: int, size: int) -> None:
        self._file, self._budget, self._start, self._size = file, budget, start, size
        self._left = size  # bytes that are not yet part of an array
        self._visited: set[int] = set()
        if self._bytes(0, min(size, 8)) != SIGNATURE:
            raise ValueError("truncated, or not an HDF5 file")
        if self._unpack("<B4xBB", 8) != (0, 8, 8):
            raise ValueError("an HDF5 file of a later format than Keras writes")
        base, end = self._unpack("<Q8xQ", 24)
        if base != 0 or end > size:
            raise ValueError(f"truncated: {size} bytes of {end}")

    def walk(self, skip: Any, names_read: Any) -> tuple[dict[str, Array], dict[tuple[str, str], str]]:
        arrays, texts = {}, {}
        pending = [("", self._unpack("<Q", 64)[0], 0)]
        while pending:
            path, address, depth = pending.pop()
            try:
                messages = self._messages(address)
                kinds = {kind for kind, _ in messages}
                if _SYMBOL_TABLE in kinds:
                    for name, text in self._texts(messages, names_read):
                        texts[path, name] = text
                    self._budget.check_depth(depth, "its groups")
                    for name, child in self._entries(messages):
                        child_path = f"{path}/{name}" if path else name
                        self._budget.bytes(sys.getsizeof(child_path), "the names of its objects")
                        if child_path not in skip:
                            pending.append((child_path, child, depth + 1))
                elif _LAYOUT in kinds:
                    arrays[path] = self._array(dict(messages))
                elif _LINK_INFO in kinds or _LINK in kinds:
                    raise ValueError("a group that can have links to other files, which Keras does not write")
                else:
                    raise ValueError("neither a group nor an array")
            except LimitExceeded:
                raise
            except ValueError as error:
                raise ValueError(f"HDF5 object {path or '/'!r:.200}: {error}") from None
        return arrays, texts

    def _check_range(self, address: int, size: int) -> None:
        if size > self._size or address > self._size - size:
            raise ValueError(f"truncated or damaged: {size} bytes at {address} are not in the file")

    def _bytes(self, address: int, size: int) -> bytes:
        self._check_range(address, size)
        self._budget.bytes(size, "its structure")  # parts of it may overlap
        self._file.seek(self._start + address)
        content = self._file.read(size)
        if len(content) != size:
            raise ValueError("truncated while it was read")
        return content

    def _unpack(self, form: str, address: int) -> tuple[Any, ...]:
        return struct.unpack(form, self._bytes(address, struct.calcsize(form)))

    def _visit(self, address: int, signature: bytes = b"") -> None:
        """Record the visit of a part of the file; raise if it was visited before."""
        if address in self._visited:
            raise ValueError(f"damaged: two references to {address}")
        self._visited.add(address)
        if self._bytes(address, len(signature)) != signature:
            raise ValueError(f"damaged: no {signature.decode()} at {address}")

    def _messages(self, address: int) -> list[tuple[int, Any]]:
        """Return the messages of an object's header, [(kind, content), ...]."""
        self._visit(address)
        self._budget.objects(_OBJECT_COST, "its objects")
        version, size = self._unpack("<B7xI", address)
        if version != 1:
            raise ValueError("damaged, or of a later format than Keras writes")
        messages, blocks = [], [(address + 16, size)]
        while blocks:
            address, size = blocks.pop(0)
            block = self._bytes(address, size)
            at = 0
            while at + 8 <= size:
                self._budget.objects(_MESSAGE_COST, "its objects")
                kind, length, flags = struct.unpack_from("<HHB", block, at)
                content = block[at + 8 : at + 8 + length]
                if len(content) != length:
                    raise ValueError("damaged: a message goes beyond its header")
                if kind == _CONTINUATION:
                    blocks.append(_fields("<QQ", content))
                    self._visit(blocks[-1][0])
                elif kind:
                    if flags & 2:
                        raise ValueError("a shared message, which Keras does not write")
                    messages.append((kind, content))
                at += 8 + length
        return messages

    def _entries(self, messages: Any) -> list[tuple[str, int]]:
        """Return [(name, address), ...] of the objects in a group."""
        tree, heap = _fields("<QQ", dict(messages)[_SYMBOL_TABLE])
        self._visit(heap, b"HEAP")
        size, _, names = self._unpack("<QQQ", heap + 8)
        names = self._bytes(names, size)
        entries, nodes = [], [(tree, None)]
        while nodes:
            address, level = nodes.pop()
            self._visit(address, b"SNOD" if level == 0 else b"TREE")
            kind, height, count = self._unpack("<BBH", address + 4)
            self._budget.objects(_ENTRY_COST * (count + 1), "its groups")
            if level == 0:
                entries += [self._entry(names, address + 8 + 40 * index) for index in range(count)]
            elif kind != 0 or level not in (None, height + 1):
                raise ValueError("damaged: an invalid tree node")
            else:
                nodes += [(self._unpack("<Q", address + 32 + 16 * index)[0], height) for index in range(count)]
        if len({name for name, _ in entries}) < len(entries):
            raise ValueError("damaged: two entries with the same name")
        return entries

    def _entry(self, names: Any, address: int) -> tuple[str, int]:
        offset, header, cached = self._unpack("<QQI", address)
        name = bytes(names[offset : offset + _MAX_NAME]).partition(b"\0")
        if not name[0] or not name[1] or b"/" in name[0]:
            raise ValueError(f"damaged: invalid name {name[0][:40]!r}")
        if cached == 2:
            raise ValueError(f"{name[0].decode()!r:.200} is a link; links are not followed")
        return name[0].decode(), header

    def _array(self, messages: Any) -> Array:
        for kind, feature in ((_EXTERNAL, "data in another file, which is not read"), (_FILTERS, "compressed data")):
            if kind in messages:
                raise ValueError(feature)
        dtype = _number(messages.get(_DATATYPE, b""))
        shape = _shape(messages.get(_DATASPACE, b""))
        version, kind = _fields("<BB", messages[_LAYOUT])
        if version != 3 or kind not in (0, 1):
            raise ValueError("chunked or virtual data; only contiguous arrays are read")
        if kind == 0:
            (size,) = _fields("<H", messages[_LAYOUT][2:])
            content = messages[_LAYOUT][4 : 4 + size]
            if len(content) != size:
                raise ValueError("damaged: an array that goes beyond its header")
        else:
            address, size = _fields("<QQ", messages[_LAYOUT][2:])
            content = None
            self._check_range(address if size else 0, size)  # the address of an empty array may be undefined
        needed = math.prod(shape) * dtype.itemsize
        if needed != size or needed > self._left:
            raise ValueError(f"{shape} of {dtype} takes {needed} bytes, the file holds {min(size, self._left)}")
        self._left -= needed
        self._budget.bytes(needed, "its arrays")
        array = np.empty(shape, dtype)
        if content is None and needed:
            self._file.seek(self._start + address)
            if self._file.readinto(array.data.cast("B")) != needed:  # type: ignore[attr-defined]
                raise ValueError("truncated while it was read")
        elif needed:
            array.data.cast("B")[:] = content
        return array

    def _texts(self, messages: Any, names_read: Any) -> Iterator[tuple[str, str]]:
        """Yield (name, text) of the attributes in `names_read`."""
        for kind, content in messages:
            if kind != _ATTRIBUTE:
                continue
            version, flags, *sizes = _fields("<BBHHH", content)
            if version not in (1, 2, 3):
                raise ValueError(f"an attribute of version {version}")
            at, parts = 9 if version == 3 else 8, []
            for size in sizes:
                parts.append(content[at : at + size])
                at += -(-size // 8) * 8 if version == 1 else size
            name = bytes(parts[0]).partition(b"\0")[0].decode()
            if name not in names_read:
                continue
            if (version > 1 and flags) or _shape(parts[2]) != ():
                raise ValueError(f"attribute {name!r}: expected one text")
            yield name, self._text(name, parts[1], content[at:])

    def _text(self, name: str, datatype: Any, content: Any) -> str:
        kind, bits, size = _fields("<BBxxI", datatype)
        if kind & 15 == 3:  # fixed size
            text = bytes(content[:size])
        elif kind & 15 == 9 and bits & 15 == 1:  # variable size, in a heap
            size, heap, index = _fields("<IQI", content)
            text = self._heap_object(heap, index)
            if len(text) < size:
                raise ValueError(f"attribute {name!r}: damaged")
            text = text[:size]
        else:
            raise ValueError(f"attribute {name!r}: expected one text")
        text = text.partition(b"\0")[0]
        self._budget.bytes(len(text) * (1 if text.isascii() else 4), "its texts")
        return text.decode()

    def _heap_object(self, heap: int, index: int) -> bytes:
        if self._bytes(heap, 4) != b"GCOL":
            raise ValueError(f"damaged: no GCOL at {heap}")
        (size,) = self._unpack("<Q", heap + 8)
        self._check_range(heap, size)
        at = heap + 16
        while at + 16 <= heap + size:
            self._budget.objects(_MESSAGE_COST, "its texts")
            found, length = self._unpack("<H6xQ", at)
            if found == index and found:
                return self._bytes(at + 16, length)
            if not found:
                break
            at += 16 + -(-length // 8) * 8
        raise ValueError(f"damaged: no object {index} in the heap at {heap}")


def _fields(form: str, content: Any) -> tuple[Any, ...]:
    if len(content) < struct.calcsize(form):
        raise ValueError("damaged: a message that is too short")
    return struct.unpack_from(form, content)


def _number(content: Any) -> np.dtype[Any]:
    """Return the dtype of a datatype message."""
    kind, bits, size = _fields("<BBxxI", content)
    order = ">" if bits & 1 else "<"
    properties = bytes(content[8:])
    if kind == 0x11 and size in _FLOATS and bits & 0x40 == 0 and properties.startswith(_FLOATS[size]):
        return np.dtype(f"{order}f{size}")
    if kind == 0x10 and size in (1, 2, 4, 8) and properties.startswith(struct.pack("<HH", 0, 8 * size)):
        return np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}")
    raise ValueError("expected numbers, got another type")


def _shape(content: Any) -> tuple[int, ...]:
    """Return the shape of a dataspace message."""
    version, rank, _, kind = _fields("<BBBB", content)
    if version not in (1, 2) or rank > 32 or (version == 2 and kind == 2):
        raise ValueError("expected an array, got something without a shape")
    return _fields(f"<{rank}Q", content[8 if version == 1 else 4 :])
