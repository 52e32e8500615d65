"""Values of a graph while a plan is made: arrays that are known, in memory of the plan, or held by Python."""

from __future__ import annotations

import math
import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ownership import owner

if TYPE_CHECKING:
    from ...typing import Array

#: bytes to which the memory of a buffer is aligned
ALIGNMENT = 64


class TooLarge(Exception):
    """A run of a plan would take more memory than is allowed."""


class NotLowered(Exception):
    """A step, as it is used here, is none that the kernels know; it is called from Python."""


class Value:
    """A value of a graph.

    Attributes
    ----------
    array : ndarray
        The array itself if it is known. Otherwise one of its shape, dtype and layout, whose elements mean nothing.
    kind : {"known", "planned", "held"}
        Whether it is the same in every run, in the working memory of the plan, or an array that a step in Python made.
    slot : int
        The number of a held array.
    stable : bool
        Whether every run with this plan has this shape.
    integers : dtype or None
        Of a planned value that is integers: the kernels compute with them as whole numbers in float32.
    """

    __slots__ = ("array", "integers", "kind", "slot", "stable")

    def __init__(
        self, array: Array, kind: str, slot: int = -1, stable: bool = True, integers: np.dtype[Any] | None = None
    ) -> None:
        self.array, self.kind, self.slot, self.stable, self.integers = array, kind, slot, stable, integers


class Buffer:
    """A contiguous part of the working memory of a plan.

    Attributes
    ----------
    memory : ndarray or None
        What the arrays of operations are views of while the plan is made.
    first, last : int
        The operations, numbered in a program, that write it first and use it last.
    chunk, offset : int
        Its place: the number of a memory, and bytes from its start.
    writer : Weighted or None
        The operation that has written all of it, until another one uses it.
    slot : int
        Of the held array whose memory it is, or -1.
    """

    def __init__(self, memory: Array) -> None:
        self.memory: Any = memory
        self.slot = -1
        self.bytes = memory.nbytes
        self.address = memory.ctypes.data
        self.first = self.last = -1
        self.chunk, self.offset = -1, 0
        self.writer: Any = None


class Buffers:
    """The buffers of a plan that is made, by the memory of their arrays."""

    def __init__(self) -> None:
        self._by_owner: dict[int, Buffer] = {}
        self._region = mmap.mmap(-1, 1 << 16)

    def empty(self, shape: tuple[int, ...]) -> Array:
        """Return an array of float32 in a new buffer. Its memory is never used, and shared by all of them."""
        size = math.prod(shape)
        if 4 * size > len(self._region):
            self._region = mmap.mmap(-1, 8 * size)
        memory = np.frombuffer(self._region, np.float32, size)
        self._by_owner[id(memory)] = Buffer(memory)
        return memory.reshape(shape)

    def of(self, array: Array) -> Buffer | None:
        """Return the buffer that an array is a part of, or None."""
        return self._by_owner.get(id(owner(array)))


def lay_out(buffers: list[Buffer]) -> int:
    """Set the offsets of buffers, each of which is used from `first` to `last`; return the bytes that they take."""
    placed: list[Buffer] = []
    total = 0
    for buffer in sorted(buffers, key=lambda buffer: -buffer.bytes):
        size = -(-buffer.bytes // ALIGNMENT) * ALIGNMENT
        offset = 0
        for other in sorted(placed, key=lambda other: other.offset):
            if other.first > buffer.last or other.last < buffer.first:
                continue
            if other.offset - offset >= size:
                break
            offset = max(offset, other.offset + -(-other.bytes // ALIGNMENT) * ALIGNMENT)
        buffer.offset = offset
        placed.append(buffer)
        total = max(total, offset + size)
    return total
