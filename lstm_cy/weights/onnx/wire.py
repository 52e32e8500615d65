"""Protobuf as it stands in a file: what reading it would cost, counted before anything is made of it."""

from __future__ import annotations

import functools
import io
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from typing import BinaryIO

    from ..budget import Budget

#: objects that a message of a type is drawn as: about as many as it takes microseconds
COSTS = {"NodeProto": 40, "TensorProto": 24, "ValueInfoProto": 8, "AttributeProto": 4, "GraphProto": 16}
_MESSAGE_COST = 2
#: bytes for each number of a tensor: as protobuf holds it, as an array, and the array's copy
_NUMBER_BYTES = 20
# wire types
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_LONGEST_VARINT = 10
_SKIPPED = re.compile(rb"[\x80-\xff]{0,9}[\x00-\x7f]")
_WINDOW, _CHUNK = 1 << 16, 1 << 20
#: objects that a packed field of numbers is drawn as, besides the numbers
_PIECE_COST = 8
_DRAWN_AT_ONCE = 1000


class _Message:
    """What is known about a type of message: what it costs, and {field number: what is there} of its fields."""

    __slots__ = ("cost", "fields")

    def __init__(self, cost: int) -> None:
        self.cost = cost
        self.fields: dict[int, _Message | _Text | _Numbers] = {}


class _Text:
    """A field of text that is read, which must be UTF-8."""


class _Numbers(NamedTuple):
    """A packed field of numbers: the bytes of each, 0 where that varies, and whether each becomes an object."""

    size: int
    as_objects: bool


@functools.cache
def _message(descriptor: Any) -> _Message:
    """The table of a protobuf descriptor and, inside it, of all that its messages may have inside."""
    return _with_fields(descriptor, {})


def _with_fields(descriptor: Any, known: dict[str, _Message]) -> _Message:
    if descriptor.full_name in known:
        return known[descriptor.full_name]
    message = known[descriptor.full_name] = _Message(COSTS.get(descriptor.name, _MESSAGE_COST))
    for field in descriptor.fields:
        if field.message_type is not None:
            message.fields[field.number] = _with_fields(field.message_type, known)
        elif field.type == field.TYPE_STRING and field.name != "doc_string":
            message.fields[field.number] = _Text()
        elif field.type not in (field.TYPE_STRING, field.TYPE_BYTES):
            size = {field.TYPE_FLOAT: 4, field.TYPE_DOUBLE: 8}.get(field.type, 0)
            message.fields[field.number] = _Numbers(size, descriptor.name != "TensorProto" or field.name == "dims")
    return message


def draw(file: BinaryIO, size: int, descriptor: Any, budget: Budget) -> None:
    """Draw what a message costs once it is parsed; the bytes of its tensors are passed over.

    Parameters
    ----------
    file : binary file
        From whose begin the message goes on.
    size : int
        Bytes of the message.
    descriptor
        Of its type.
    budget : Budget

    Raises
    ------
    ValueError
        Not this message, or truncated.
    LimitExceeded
        It would cost too much.
    """
    window, start, at = b"", 0, 0  # bytes of the file, the place of the first, and how far they are read
    drawn = 0
    end, fields = size, _message(descriptor).fields
    outside: list[tuple[int, dict[int, _Message | _Text | _Numbers]]] = []
    while True:
        if start + at >= end:
            if start + at > end:
                raise ValueError("it ends too early")
            if not outside:
                break
            end, fields = outside.pop()
            continue
        if at + 2 * _LONGEST_VARINT > len(window):
            start, at = start + at, 0
            file.seek(start)
            window = file.read(_WINDOW)
        before = at
        tag, at = _varint(window, at)
        number, kind = tag >> 3, tag & 7
        drawn += 2 * (at - before) - 1  # numbers written in many bytes take time, however small they are
        if number == 0:
            raise ValueError("a field without a number")
        if kind == _VARINT:
            skipped = _SKIPPED.match(window, at)
            if skipped is None:
                raise ValueError("it ends too early, or a number is too long")
            at = skipped.end()
        elif kind == _LENGTH:
            before = at
            length, at = _varint(window, at)
            drawn += (at - before) // 4 + 2
            inside = start + at + length
            if inside > end:
                raise ValueError("it ends too early")
            field = fields.get(number)
            if isinstance(field, _Message):
                outside.append((end, fields))
                end, fields = inside, field.fields
                drawn += field.cost
            else:
                if field is not None and at + length > len(window):
                    file.seek(start + at)
                    _look(file, length, field, budget)
                elif isinstance(field, _Text):  # by far the most, so without further calls
                    window[at : at + length].decode()
                elif field is not None:
                    drawn += _PIECE_COST
                    _look(io.BytesIO(window[at : at + length]), length, field, budget)
                at += length
        elif kind == _FOUR:
            at += 4
        elif kind == _EIGHT:
            at += 8
        else:
            raise ValueError(f"a field of type {kind}")
        if drawn >= _DRAWN_AT_ONCE:
            budget.objects(drawn, "its nodes and tensors")
            drawn = 0
    budget.objects(drawn, "its nodes and tensors")


def _varint(window: bytes, at: int) -> tuple[int, int]:
    """(number, place behind it)."""
    if at < len(window) and window[at] < 128:  # nearly all
        return window[at], at + 1
    value = shift = 0
    for place in range(at, min(at + _LONGEST_VARINT, len(window))):
        byte = window[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + 1
        shift += 7
    raise ValueError("it ends too early, or a number is too long")


def _look(file: BinaryIO, length: int, field: _Text | _Numbers, budget: Budget) -> None:
    """Draw the text or numbers of a field, whose bytes come next in `file`."""
    if isinstance(field, _Text):
        budget.bytes(2 * length, "its texts")
        file.read(length).decode()
        return
    for start in range(0, length, _CHUNK):
        part = min(_CHUNK, length - start)
        if field.size:
            count = part // field.size
        else:  # each ends at a byte below 128
            count = int(np.count_nonzero(np.frombuffer(file.read(part), np.uint8) < 128))
        if field.as_objects:
            budget.objects(count, "its numbers")
        else:
            budget.bytes(count * (2 * field.size or _NUMBER_BYTES), "its numbers")
