"""The cost of parsing a protobuf message, counted before it is parsed."""

from __future__ import annotations

import functools
import io
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from typing import BinaryIO

    from ..budget import Budget

#: costs of ONNX's messages in objects, about one for each microsecond of parsing
COSTS = {"NodeProto": 40, "TensorProto": 24, "ValueInfoProto": 8, "AttributeProto": 4, "GraphProto": 16}
_MESSAGE_COST = 2
#: messages whose packed numbers become arrays, but for their sizes; and fields of text that nothing reads
ARRAYS, SIZES, UNREAD = {"TensorProto"}, {"dims"}, {"doc_string"}
#: bytes for each number of a tensor: in protobuf, in an array, and in a copy of the array
_NUMBER_BYTES = 20
# wire types
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_LONGEST_VARINT = 10
_SKIPPED = re.compile(rb"[\x80-\xff]{0,9}[\x00-\x7f]")
_WINDOW, _CHUNK = 1 << 16, 1 << 20
#: cost of a packed field of numbers in objects, besides the numbers
_PIECE_COST = 8
_CHARGED_AT_ONCE = 1000


class _Message:
    """A type of message: its cost, and its fields by number."""

    __slots__ = ("cost", "fields")

    def __init__(self, cost: int) -> None:
        self.cost = cost
        self.fields: dict[int, _Message | _Text | _Numbers] = {}


class _Text:
    """A field of text, which must be UTF-8."""


class _Numbers(NamedTuple):
    """A packed field of numbers: bytes of each number (0: variable), and whether each becomes an object."""

    size: int
    as_objects: bool


@functools.cache
def _message(descriptor: Any) -> _Message:
    """Return the table of a protobuf descriptor, with the tables of its inner messages."""
    return _with_fields(descriptor, {})


def _with_fields(descriptor: Any, known: dict[str, _Message]) -> _Message:
    if descriptor.full_name in known:
        return known[descriptor.full_name]
    message = known[descriptor.full_name] = _Message(COSTS.get(descriptor.name, _MESSAGE_COST))
    for field in descriptor.fields:
        if field.message_type is not None:
            message.fields[field.number] = _with_fields(field.message_type, known)
        elif field.type == field.TYPE_STRING and field.name not in UNREAD:
            message.fields[field.number] = _Text()
        elif field.type not in (field.TYPE_STRING, field.TYPE_BYTES):
            size = {field.TYPE_FLOAT: 4, field.TYPE_DOUBLE: 8}.get(field.type, 0)
            message.fields[field.number] = _Numbers(size, descriptor.name not in ARRAYS or field.name in SIZES)
    return message


def charge(file: BinaryIO, size: int, descriptor: Any, budget: Budget) -> None:
    """Charge the cost of parsing a message to the budget; the bytes of its tensors are not counted.

    Parameters
    ----------
    file : binary file
        The message starts at offset 0.
    size : int
        Bytes of the message.
    descriptor
        Descriptor of its type.
    budget : Budget

    Raises
    ------
    ValueError
        The file is not such a message, or is truncated.
    LimitExceeded
        The message exceeds the budget.
    """
    window, start, at = b"", 0, 0  # bytes of the file, the offset of the first, and the number of bytes read
    cost = 0
    end, fields = size, _message(descriptor).fields
    enclosing: list[tuple[int, dict[int, _Message | _Text | _Numbers]]] = []
    while True:
        if start + at >= end:
            if start + at > end:
                raise ValueError("it ends too early")
            if not enclosing:
                break
            end, fields = enclosing.pop()
            continue
        if at + 2 * _LONGEST_VARINT > len(window):
            start, at = start + at, 0
            file.seek(start)
            window = file.read(_WINDOW)
        before = at
        tag, at = _varint(window, at)
        number, kind = tag >> 3, tag & 7
        cost += 2 * (at - before) - 1  # long encodings take time, also of small numbers
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
            cost += (at - before) // 4 + 2
            inside = start + at + length
            if inside > end:
                raise ValueError("it ends too early")
            field = fields.get(number)
            if isinstance(field, _Message):
                enclosing.append((end, fields))
                end, fields = inside, field.fields
                cost += field.cost
            else:
                if field is not None and at + length > len(window):
                    file.seek(start + at)
                    _charge_field(file, length, field, budget)
                elif isinstance(field, _Text):  # the most frequent case, so without a call
                    window[at : at + length].decode()
                elif field is not None:
                    cost += _PIECE_COST
                    _charge_field(io.BytesIO(window[at : at + length]), length, field, budget)
                at += length
        elif kind == _FOUR:
            at += 4
        elif kind == _EIGHT:
            at += 8
        else:
            raise ValueError(f"a field of type {kind}")
        if cost >= _CHARGED_AT_ONCE:
            budget.objects(cost, "its nodes and tensors")
            cost = 0
    budget.objects(cost, "its nodes and tensors")


def _varint(window: bytes, at: int) -> tuple[int, int]:
    """Return (number, next position)."""
    if at < len(window) and window[at] < 128:  # the most frequent case
        return window[at], at + 1
    value = shift = 0
    for index in range(at, min(at + _LONGEST_VARINT, len(window))):
        byte = window[index]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, index + 1
        shift += 7
    raise ValueError("it ends too early, or a number is too long")


def _charge_field(file: BinaryIO, length: int, field: _Text | _Numbers, budget: Budget) -> None:
    """Charge the text or numbers of a field, whose bytes are next in `file`."""
    if isinstance(field, _Text):
        budget.bytes(2 * length, "its texts")
        file.read(length).decode()
        return
    for start in range(0, length, _CHUNK):
        part = min(_CHUNK, length - start)
        if field.size:
            count = part // field.size
        else:  # each number ends at a byte below 128
            count = int(np.count_nonzero(np.frombuffer(file.read(part), np.uint8) < 128))
        if field.as_objects:
            budget.objects(count, "its numbers")
        else:
            budget.bytes(count * (2 * field.size or _NUMBER_BYTES), "its numbers")
