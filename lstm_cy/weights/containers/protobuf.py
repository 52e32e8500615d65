"""Protobuf messages: bytes to Python objects and NumPy arrays, within a budget.

Format: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

    from ...typing import Array
    from ..budget import Budget

#: bytes for each number of an array: in the file's chunk, while it is decoded, and in the array
_NUMBER_BYTES = 20
#: cost in objects of a message, unless its type has another one
_MESSAGE_COST = 6
#: cost in objects of packed numbers, besides the numbers
_PIECE_COST = 8
#: messages for each nested level that a budget allows
_MESSAGES_PER_LEVEL = 4
# wire types
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_LONGEST_VARINT = 10
_WINDOW, _CHUNK = 1 << 16, 1 << 20
_CHARGED_AT_ONCE = 1000


class Schema:
    """A type of message: the fields that are read.

    Attributes
    ----------
    cost : int
        Cost of a message in objects, besides its fields.
    fields : dict of int to Field
        Fields by number; others are skipped.
    """

    __slots__ = ("by_name", "cost", "fields")

    def __init__(self, fields: Mapping[int, Field], cost: int = _MESSAGE_COST) -> None:
        self.cost = cost
        self.fields: dict[int, Field] = {}
        self.by_name: dict[str, Field] = {}
        self.extend(fields)

    def extend(self, fields: Mapping[int, Field]) -> None:
        """Add fields; types of messages that hold each other are made in two steps."""
        self.fields.update(fields)
        self.by_name.update({field.name: field for field in fields.values()})


class Field(NamedTuple):
    """A field of a message.

    Attributes
    ----------
    name : str
    kind : type, numpy.dtype or Schema
        str; bytes; int (a signed varint); a dtype for numbers that become arrays (float32, float64 or an integer
        type, which is read from varints); float for a float32 that becomes a Python number; or an inner message.
    repeated : bool
        A list of values; of arrays if `kind` is a dtype.
    group : str
        Name of a group of fields of which a message has at most one: the last.
    """

    name: str
    kind: Any
    repeated: bool = False
    group: str = ""


class Message:
    """A message: its fields are attributes, with protobuf's default if they are not in the file."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def __getattr__(self, name: str) -> Any:
        field = self._schema.by_name.get(name) if name != "_schema" else None
        if field is None:
            raise AttributeError(name)
        if field.repeated:
            return ()
        return Message(field.kind) if isinstance(field.kind, Schema) else field.kind()

    def HasField(self, name: str) -> bool:
        """Return whether a field is in the file."""
        return name in self.__dict__

    def WhichOneof(self, group: str) -> str | None:
        """Return the name of the field of a group that is in the file."""
        return next(
            (name for name, field in self._schema.by_name.items() if field.group == group and name in self.__dict__),
            None,
        )

    def _add(self, field: Field, value: Any) -> None:
        values = self.__dict__
        if field.repeated:
            values.setdefault(field.name, []).append(value)
            return
        if field.group:
            self._clear_group(field)
        values[field.name] = value

    def _clear_group(self, field: Field) -> None:
        for other in self._schema.by_name.values():
            if other.group == field.group and other.name != field.name:
                self.__dict__.pop(other.name, None)

    def _inner(self, field: Field) -> Message:
        """Return a new message of a field; a field that is not repeated is merged if it occurs again."""
        if not field.repeated and field.name in self.__dict__:
            found: Message = self.__dict__[field.name]
            return found
        inner = Message(field.kind)
        self._add(field, inner)
        return inner


def parse(file: BinaryIO, size: int, schema: Schema, budget: Budget) -> Message:
    """Return the message in a file, which is read once; everything is charged to the budget before it is made.

    Parameters
    ----------
    file : binary file
        The message starts at offset 0.
    size : int
        Bytes of the message.
    schema : Schema
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
    root = message = Message(schema)
    end, fields = size, schema.fields
    enclosing: list[tuple[int, Message]] = []
    while True:
        if start + at >= end:
            if start + at > end:
                raise ValueError("it ends too early")
            if not enclosing:
                break
            end, message = enclosing.pop()
            fields = message._schema.fields
            continue
        if at + 2 * _LONGEST_VARINT > len(window):
            start, at = start + at, 0
            file.seek(start)
            window = file.read(_WINDOW)
        before = at
        tag, at = _varint(window, at)
        wire = tag & 7
        field = fields.get(tag >> 3)
        cost += 2 * (at - before) - 1  # long encodings take time, also of small numbers
        if tag < 8:
            raise ValueError("a field without a number")
        if wire == _VARINT:
            value, at = _varint(window, at)
            if field is not None and field.kind is int:
                message._add(field, _signed(value))
            elif field is not None and isinstance(field.kind, np.dtype) and field.kind.kind in "iu":
                cost += _PIECE_COST
                message._add(field, np.array([value], np.uint64).astype(field.kind))
        elif wire == _LENGTH:
            before = at
            length, at = _varint(window, at)
            cost += (at - before) // 4 + 2
            if start + at + length > end:
                raise ValueError("it ends too early")
            if field is not None and isinstance(field.kind, Schema):
                enclosing.append((end, message))
                budget.check_depth(len(enclosing) // _MESSAGES_PER_LEVEL, "graphs inside graphs")
                end, message = start + at + length, message._inner(field)
                fields = field.kind.fields
                cost += field.kind.cost
            else:
                if field is not None:
                    if at + length > len(window):
                        budget.objects(cost, "its nodes and tensors")
                        cost = 0
                        file.seek(start + at)
                        _add_long(message, field, file, length, budget)
                    else:
                        cost += _add_short(message, field, window[at : at + length], budget)
                at += length
        elif wire in (_FOUR, _EIGHT):
            width = 4 if wire == _FOUR else 8
            number = window[at : at + width]
            at += width
            if len(number) < width:
                raise ValueError("it ends too early")
            if field is not None and _is_float(field.kind, width):
                cost += _PIECE_COST
                found = np.frombuffer(number, f"<f{width}")
                message._add(field, found if isinstance(field.kind, np.dtype) else float(found[0]))
        else:
            raise ValueError(f"a field of type {wire}")
        if cost >= _CHARGED_AT_ONCE:
            budget.objects(cost, "its nodes and tensors")
            cost = 0
    budget.objects(cost, "its nodes and tensors")
    return root


def _is_float(kind: Any, width: int) -> bool:
    """Return whether a field holds floats of this width."""
    return (kind is float and width == 4) or (isinstance(kind, np.dtype) and kind.str == f"<f{width}")


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


def _signed(value: int) -> int:
    """Return a varint as a signed 64-bit integer."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _add_short(message: Message, field: Field, content: bytes, budget: Budget) -> int:
    """Add a field that is in the window; return its cost in objects."""
    if field.kind is str:
        message._add(field, content.decode())
        return 0
    if field.kind is bytes:
        message._add(field, content)
        return 0
    return _PIECE_COST + _add_numbers(message, field, content, budget)


def _add_long(message: Message, field: Field, file: BinaryIO, length: int, budget: Budget) -> None:
    """Add a field of `length` bytes, which are next in the file."""
    if field.kind is bytes:
        message._add(field, _exactly(file, length))  # the file's own size, which is no cost
    elif field.kind is str:
        budget.bytes(2 * length, "its texts")
        message._add(field, _exactly(file, length).decode())
    else:
        rest = b""
        while length:
            part = min(_CHUNK, length)
            content, length = rest + _exactly(file, part), length - part
            whole = _whole(field.kind, content) if length else len(content)
            rest = content[whole:]
            budget.objects(_PIECE_COST + _add_numbers(message, field, content[:whole], budget), "its numbers")


def _exactly(file: BinaryIO, length: int) -> bytes:
    content = file.read(length)
    if len(content) != length:
        raise ValueError("it ends too early")
    return content


def _whole(kind: Any, content: bytes) -> int:
    """Return how many bytes of a chunk are whole numbers."""
    width = _width(kind)
    if width:
        return len(content) - len(content) % width
    last = re.search(rb"[\x80-\xff]*\Z", content[-_LONGEST_VARINT:])
    return len(content) - len(last.group() if last else b"")


def _width(kind: Any) -> int:
    """Return the bytes of each packed number, or 0 for varints."""
    if kind is float:
        return 4
    return int(kind.itemsize) if isinstance(kind, np.dtype) and kind.kind == "f" else 0


def _add_numbers(message: Message, field: Field, content: bytes, budget: Budget) -> int:
    """Add packed numbers; return how many objects they become."""
    if not field.repeated:  # another type than the field's: protobuf ignores it
        return 0
    width = _width(field.kind)
    if width:
        count, odd = divmod(len(content), width)
        if odd:
            raise ValueError("packed numbers are cut off")
    else:
        count = int(np.count_nonzero(np.frombuffer(content, np.uint8) < 128))  # each number ends at such a byte
    if isinstance(field.kind, np.dtype):
        budget.bytes(count * (2 * width or _NUMBER_BYTES), "its numbers")
    else:
        budget.objects(count, "its numbers")
    numbers = np.frombuffer(content, f"<f{width}") if width else _varints(content, count)
    if isinstance(field.kind, np.dtype):
        message._add(field, numbers.astype(field.kind, copy=False))
        return 0
    message.__dict__.setdefault(field.name, []).extend((numbers if width else numbers.view(np.int64)).tolist())
    return 0


def _varints(content: bytes, count: int) -> Array:
    """Return `count` packed varints as uint64."""
    data = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(data < 128)
    if len(data) and (not count or ends[-1] != len(data) - 1):
        raise ValueError("packed numbers are cut off")
    if count == len(data):
        return data.astype(np.uint64)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if (ends - starts).max(initial=0) >= _LONGEST_VARINT:
        raise ValueError("a number is too long")
    result = np.zeros(count, np.uint64)
    for place in range(int((ends - starts).max(initial=0)) + 1):
        here = starts + place <= ends
        result[here] |= (data[starts[here] + place].astype(np.uint64) & np.uint64(127)) << np.uint64(7 * place)
    return result
