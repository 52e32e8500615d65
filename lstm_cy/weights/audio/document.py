"""JSON files of models: their values, checked one by one, and arrays of numbers."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..budget import Budget
from ..faults import listed, naming, shortened
from ..files import replacing
from ..inputs import opened

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...typing import Array, FileSource
    from ..inputs import Input

# In memory JSON takes many times its own size; a model for one processor core needs far less than this.
_MAX_JSON = 48 << 20
_LARGEST_AXES = 4


def read_document(source: FileSource | Input) -> tuple[dict[str, Any], Budget]:
    """Return (the JSON object in a file, the rest of its budget)."""
    with opened(source) as file, naming(source):
        budget = Budget.of(file, source)
        if budget.size > _MAX_JSON:
            raise ValueError(f"a JSON text of {budget.size} bytes; at most {_MAX_JSON} are read")
        budget.bytes(budget.size, "its text")
        content = file.read().removeprefix(b"\xef\xbb\xbf")
        value = budget.json(content, "its content")
        if not isinstance(value, dict):
            raise ValueError(f"expected a JSON object, got {_kind(value)}")
        return value, budget


def write_document(target: Any, value: dict[str, Any]) -> None:
    """Write a JSON object to a path, atomically, or to a file that is open for writing."""
    try:
        content = json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:  # the weights have been checked
        raise TypeError(f"metadata: expected values that JSON can hold: {error}") from None
    with replacing(target) as file:
        file.write(content)


def entry(value: dict[str, Any], name: str, kind: type, where: str = "") -> Any:
    """Return an entry of a JSON object; raise if it is missing or of another type."""
    found = value.get(name)
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        expected = {dict: "an object", list: "a list", str: "a string", int: "an integer"}[kind]
        got = _kind(found) if name in value else "none"
        raise ValueError(f"{where}{name}: expected {expected}, got {got}")
    return found


def shape_of(value: Any) -> tuple[int, ...]:
    """Return the lengths of nested lists, from the first of each."""
    shape: list[int] = []
    while type(value) is list and len(shape) <= _LARGEST_AXES:
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def count(value: dict[str, Any], name: str, where: str = "") -> int:
    """Return an entry of a JSON object that is an integer of at least 1."""
    number: int = entry(value, name, int, where)
    if not 1 <= number < 2**31:
        raise ValueError(f"{where}{name}: expected an integer from 1 to {2**31 - 1}, got {shortened(number, 80)}")
    return number


def array_of(value: Any, shape: tuple[int, ...], where: str) -> Array:
    """Return nested lists of numbers as a float32 array of this shape."""
    if shape_of(value) != shape:
        raise ValueError(f"{where}: expected numbers of shape {shape}, got {_kind(value)}")
    flat = [value]
    for axis in range(len(shape)):
        if any(type(part) is not list or len(part) != shape[axis] for part in flat):
            raise ValueError(f"{where}: expected numbers of shape {shape}, got rows of other lengths")
        flat = [item for part in flat for item in part]
    others = [item for item in flat if type(item) is not float and type(item) is not int]
    if others:
        raise ValueError(f"{where}: expected numbers, got {_kind(others[0])}")
    with np.errstate(over="ignore"):  # a number too large for float32 is infinity, which is reported
        return np.array(flat, np.float64).astype(np.float32).reshape(shape)


def _kind(value: Any) -> str:
    if type(value) is list:
        return f"a list of shape {shape_of(value)}"
    names: dict[type, str] = {dict: "an object", type(None): "null"}
    return names.get(type(value)) or shortened(repr(value), 80)


def refuse_kinds(kinds: Iterable[str], supported: str) -> None:
    """Raise for parts of a model that are not supported, with how many there are of each kind."""
    counts = Counter(kinds)
    if counts:
        names = listed(f"{name} ({number})" for name, number in counts.most_common())
        raise ValueError(f"not supported: {names}; {supported}")
