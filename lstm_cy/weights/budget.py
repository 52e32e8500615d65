"""What a file may cost: one budget of bytes, objects and depth for each file that is read.

A reader makes one `Budget` when it has opened a file and draws on it before it allocates anything because of what the
file says. A file that asks for more is refused with an error that names it: a small file can then take neither much
memory nor much time.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: bytes that reading may take besides those that the file has
SPARE_BYTES = 88 << 20
#: objects of any file, of a file without content, and for each of its bytes
LARGEST_OBJECTS, SMALLEST_OBJECTS, OBJECTS_PER_BYTE = 800_000, 50_000, 8
#: bytes that an object is taken to need
OBJECT_BYTES = 64
#: how deep groups, lists, dicts, graphs and layers may be inside each other
LARGEST_DEPTH = 64
#: how deep metadata may be, which Python's json reads without a stack of ours
LARGEST_JSON_DEPTH = 920

#: the names that a message lists, and the characters that it may have
LISTED, LONGEST = 50, 10_000
_CHUNK = 1 << 20


class LimitExceeded(ValueError):
    """A file asks for more than its budget; the message begins with the file's name."""


class Budget:
    """What reading one file may still take.

    An object counts as one where it costs about a microsecond and `OBJECT_BYTES`, as a number in a list does; what
    costs more, such as a node or a layer, is drawn as several. Objects draw on the bytes too.

    Parameters
    ----------
    name : object
        What errors call the file: its path.
    size : int
        Its bytes.
    times : int
        How often its bytes may be held, besides the spare.
    """

    def __init__(self, name: object, size: int, times: int = 1) -> None:
        self.name, self.size, self._times = name, size, times
        self._most_bytes = times * size + SPARE_BYTES
        self._most_objects = min(LARGEST_OBJECTS, SMALLEST_OBJECTS + OBJECTS_PER_BYTE * size)
        self._bytes, self._objects, self._depth = self._most_bytes, self._most_objects, LARGEST_DEPTH

    @classmethod
    def of(cls, file: Any, name: object) -> Budget:
        """That of a file that is open."""
        return cls(name, os.fstat(file.fileno()).st_size)

    def bytes(self, count: int, what: str = "its content") -> None:
        """Draw memory for `what`, a noun that the error names."""
        if count > self._bytes:
            self._refuse(what, f"more than {self._most_bytes} bytes of memory")
        self._bytes -= count

    def extend(self, size: int) -> None:
        """Another file of so many bytes, which belongs to this one, has been read."""
        self.size += size
        self._most_bytes += self._times * size
        self._bytes += self._times * size

    def objects(self, count: int = 1, what: str = "its content") -> None:
        """Draw objects for `what`, a noun that the error names."""
        if count > self._objects:
            self._refuse(what, f"more than {self._most_objects} objects")
        self._objects -= count
        self.bytes(OBJECT_BYTES * count, what)

    @contextlib.contextmanager
    def nested(self, what: str = "its content") -> Iterator[None]:
        """One level deeper while the block runs."""
        self.check_depth(LARGEST_DEPTH - self._depth + 1, what)
        self._depth -= 1
        try:
            yield
        finally:
            self._depth += 1

    def check_depth(self, levels: int, what: str = "its content") -> None:
        """Raise if `what` is so many levels deep, which a reader without recursion counts itself."""
        if levels > LARGEST_DEPTH:
            raise LimitExceeded(f"{printable(self.name)}: {what}: nested deeper than {LARGEST_DEPTH} levels")

    def json(self, content: Any, what: str = "its header") -> Any:
        """The value that a JSON text, bytes or str, describes; drawn before it is made.

        Raises
        ------
        ValueError
            It is not JSON.
        LimitExceeded
            It asks for too much.
        """
        text = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else bytes(content)
        objects, depth, width = _json_cost(text)
        self.bytes(width * len(text), what)
        self.objects(objects, what)
        if depth > LARGEST_JSON_DEPTH:
            raise LimitExceeded(f"{printable(self.name)}: {what}: nested deeper than {LARGEST_JSON_DEPTH} levels")
        try:
            return json.loads(content)
        except RecursionError:  # the caller is deep in calls itself
            raise LimitExceeded(f"{printable(self.name)}: {what}: nested too deep to be read here") from None
        except ValueError as error:
            raise ValueError(f"{what} is not JSON: {error}") from None

    def _refuse(self, what: str, most: str) -> None:
        raise LimitExceeded(
            f"{printable(self.name)}: {what}: would take {most}, the limit for a file of {self.size} bytes"
        )


def _json_cost(text: bytes) -> tuple[int, int, int]:
    """(objects, depth, bytes of a character) of a JSON text, without making any.

    Objects are values, keys and, once more, lists and dicts.
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


def listed(names: Iterable[object], most: int = LISTED, separator: str = ", ") -> str:
    """Names from a file for a message: safe to print, and not too many."""
    names = [*names]
    texts = [shortened(name, 200) for name in names[:most]]
    return separator.join([*texts, f"and {len(names) - most} more"] if len(names) > most else texts)


def shortened(text: object, most: int = LONGEST) -> str:
    """Text from a file for a message: safe to print, and not too long."""
    text = str(text)
    more = f"... ({len(text) - most} more characters)" if len(text) > most else ""
    return printable(text[:most]) + more


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as "1 byte" or "2 bytes"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
