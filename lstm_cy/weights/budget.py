"""Limits for reading a file: one budget of bytes, objects and depth for each file.

A reader makes one `Budget` when it opens a file and charges it before it allocates memory that depends on the file's
content. A file that exceeds its budget is refused with an error that names it, so a small file can take
neither much memory nor much time.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ..printable import printable
from .inputs import size_of

if TYPE_CHECKING:
    from collections.abc import Iterator

#: bytes that reading may take besides the file's size
SPARE_BYTES = 88 << 20
#: most objects of any file, objects of an empty file, and objects for each byte
LARGEST_OBJECTS, SMALLEST_OBJECTS, OBJECTS_PER_BYTE = 800_000, 50_000, 8
#: assumed bytes of an object
OBJECT_BYTES = 64
#: most nested levels of groups, lists, dicts, graphs and layers
LARGEST_DEPTH = 64
#: most nested levels of JSON, which Python's json reads without recursion in this library
LARGEST_JSON_DEPTH = 920

_CHUNK = 1 << 20


class LimitExceeded(ValueError):
    """A file exceeds its budget; the message begins with the file's name."""


class Budget:
    """The rest of what reading one file may take.

    One object stands for about a microsecond and `OBJECT_BYTES`, as for a number in a list; something that costs more,
    such as a node or a layer, counts as several objects. Objects are charged to the bytes too.

    Parameters
    ----------
    name : object
        The file's name in errors: its path.
    size : int
        Bytes of the file.
    times : int
        How many times the file's size may be allocated, besides `SPARE_BYTES`.
    """

    def __init__(self, name: object, size: int, times: int = 1) -> None:
        self.name, self.size, self._times = name, size, times
        self._most_bytes = times * size + SPARE_BYTES
        self._most_objects = min(LARGEST_OBJECTS, SMALLEST_OBJECTS + OBJECTS_PER_BYTE * size)
        self._bytes, self._objects, self._depth = self._most_bytes, self._most_objects, LARGEST_DEPTH

    @classmethod
    def of(cls, file: Any, name: object) -> Budget:
        """Return the budget of an open file."""
        return cls(name, size_of(file))

    def bytes(self, count: int, part: str = "its content") -> None:
        """Charge memory for `part`, a noun for the error message."""
        if count > self._bytes:
            self._refuse(part, f"more than {self._most_bytes} bytes of memory")
        self._bytes -= count

    def extend(self, size: int) -> None:
        """Extend the budget by another file of `size` bytes that belongs to this one."""
        self.size += size
        self._most_bytes += self._times * size
        self._bytes += self._times * size

    def objects(self, count: int = 1, part: str = "its content") -> None:
        """Charge objects for `part`, a noun for the error message."""
        if count > self._objects:
            self._refuse(part, f"more than {self._most_objects} objects")
        self._objects -= count
        self.bytes(OBJECT_BYTES * count, part)

    @contextlib.contextmanager
    def nested(self, part: str = "its content") -> Iterator[None]:
        """Count one more nested level while the block runs."""
        self.check_depth(LARGEST_DEPTH - self._depth + 1, part)
        self._depth -= 1
        try:
            yield
        finally:
            self._depth += 1

    def check_depth(self, levels: int, part: str = "its content") -> None:
        """Raise if `levels`, counted by a reader without recursion, is more than `LARGEST_DEPTH`."""
        if levels > LARGEST_DEPTH:
            raise LimitExceeded(f"{printable(self.name)}: {part}: nested deeper than {LARGEST_DEPTH} levels")

    def json(self, content: Any, part: str = "its header") -> Any:
        """Return the value of a JSON text, bytes or str; its cost is charged before it is parsed.

        Raises
        ------
        ValueError
            The text is not JSON.
        LimitExceeded
            The value would exceed the budget.
        """
        text = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else bytes(content)
        objects, depth, width = _json_cost(text)
        self.bytes(width * len(text), part)
        self.objects(objects, part)
        if depth > LARGEST_JSON_DEPTH:
            raise LimitExceeded(f"{printable(self.name)}: {part}: nested deeper than {LARGEST_JSON_DEPTH} levels")
        try:
            return json.loads(content)
        except RecursionError:  # the caller's own stack is deep
            raise LimitExceeded(f"{printable(self.name)}: {part}: nested too deep to be read here") from None
        except ValueError as error:
            raise ValueError(f"{part} is not JSON: {error}") from None

    def _refuse(self, part: str, most: str) -> None:
        raise LimitExceeded(
            f"{printable(self.name)}: {part}: would take {most}, the limit for a file of {self.size} bytes"
        )


def _json_cost(text: bytes) -> tuple[int, int, int]:
    """Return (objects, depth, bytes of a character) of a JSON text without parsing it.

    Values and keys count as one object, lists and dicts as two.
    """
    width = 1 if text.isascii() else 4
    if b"\\" in text:  # without escapes each quote begins or ends a string
        text = text.replace(b"\\\\", b"")
        width = 4 if b"\\u" in text else width
        text = text.replace(b'\\"', b"")
    objects, depth, deepest, in_string = 1, 0, 0, False
    for start in range(0, len(text), _CHUNK):
        codes = np.frombuffer(text, np.uint8, min(_CHUNK, len(text) - start), start)
        inside = np.logical_xor.accumulate(codes == ord('"')) ^ in_string
        in_string = bool(inside[-1])
        codes = codes[~inside]
        opened, closed = ((codes == ord(one)) | (codes == ord(other)) for one, other in ("[{", "]}"))
        objects += int(2 * opened.sum() + (codes == ord(",")).sum() + (codes == ord(":")).sum())
        if len(codes):
            levels = np.cumsum(opened.astype(np.int32) - closed, dtype=np.int64) + depth
            depth, deepest = int(levels[-1]), max(deepest, int(levels.max()))
    return objects, deepest, width
