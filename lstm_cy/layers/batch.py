"""The sizes and valid steps of one call: lengths, masks and resets as the drivers take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._kernels.records import RowOrder
from ..checks import check_lengths, expect_shape, flag_array

if TYPE_CHECKING:
    from ..typing import Array, ArrayLike, Bools, Ints, State


class Batch:
    """The sizes and valid steps of one call, and the conversion between the caller's shapes and the drivers'.

    Attributes
    ----------
    T, B : int
    has_batch_axis : bool
        False for one sequence (T, I), which the drivers see as a batch of one.
    rows : int
        Valid steps, summed over the rows.
    order : RowOrder
    """

    __slots__ = ("B", "T", "batch_first", "cleared", "has_batch_axis", "order", "rows")

    def __init__(self, T: int, B: int, has_batch_axis: bool, batch_first: bool) -> None:
        self.T, self.B = T, B
        self.has_batch_axis = has_batch_axis
        self.batch_first = batch_first
        self.rows = T * B
        self.order = RowOrder()
        self.cleared: Bools | None = None  # rows that were reset after their last valid step

    @property
    def ragged(self) -> bool:
        """Whether some steps are not valid."""
        return self.order.order is not None

    def set_lengths(self, lengths: ArrayLike) -> None:
        """Make the first `lengths` steps of each row valid."""
        scalar = not self.has_batch_axis and np.ndim(lengths) == 0
        lengths = check_lengths(lengths, None if scalar else self.B, self.T).reshape(self.B)
        if (lengths < self.T).any():
            self._sort(lengths, None)

    def set_mask(self, mask: ArrayLike) -> None:
        """Make the steps where the mask is True valid."""
        valid = self._by_row("mask", mask)
        if not valid.all():
            self._sort(valid.sum(axis=1), np.argsort(~valid, axis=1, kind="stable"))

    def set_reset(self, reset: ArrayLike) -> None:
        """Reset states before the steps where `reset` is True; on a masked step this waits for the next valid one."""
        resets = self._by_row("reset", reset)
        steps = self.order.valid_steps
        if steps is not None:
            so_far = np.cumsum(resets, axis=1)
            at_valid = np.take_along_axis(so_far, steps, axis=1)
            resets = np.diff(at_valid, axis=1, prepend=0) > 0
            lengths = self._lengths_by_row()
            last = np.where(lengths > 0, np.take_along_axis(at_valid, np.maximum(lengths - 1, 0)[:, None], 1)[:, 0], 0)
            self.cleared = so_far[:, -1] > last
        if resets.any():
            self.order = self.order._replace(resets=np.ascontiguousarray(resets).view(np.uint8))

    def clear(self, h: Array, c: Array, initial: State | None = None) -> None:
        """Set the final states of rows that were reset after their last valid step to `initial`, or to zeros.

        `initial` are arrays (L*D, width). With zeros `h` and `c` may be gradients.
        """
        if self.cleared is not None:
            for index, state in enumerate((h, c)):
                state[:, self.cleared] = 0 if initial is None else initial[index][:, np.newaxis]

    def cleared_sums(self, dh: Array, dc: Array) -> State | None:
        """Return the sums, (L*D, width), of the gradients of the states that `clear` sets; None if there are none."""
        if self.cleared is None:
            return None
        return dh[:, self.cleared].sum(axis=1), dc[:, self.cleared].sum(axis=1)

    def _sort(self, lengths: Ints, steps: Ints | None) -> None:
        """Set `order` from the lengths, the longest row first; `steps` (B, T) has each row's valid steps first."""
        order = np.argsort(-lengths, kind="stable")
        ended = np.cumsum(np.bincount(lengths, minlength=self.T + 1))  # number of rows of at most t steps
        self.order = RowOrder(order, lengths[order], self.B - ended[: self.T], steps)
        self.rows = int(lengths.sum())

    def _lengths_by_row(self) -> Ints:
        order, lengths, *_ = self.order
        by_row: Ints = np.empty_like(lengths)
        by_row[order] = lengths
        return by_row

    def _by_row(self, name: str, flags: ArrayLike) -> Bools:
        """Return the caller's flags as a bool array (B, T)."""
        return flags_by_row(name, flags, self.outer_shape(1)[:-1], self.batch_first)

    def shape(self, width: int) -> tuple[int, int, int]:
        """Return the drivers' shape of an array of this batch."""
        return (self.B, self.T, width) if self.batch_first else (self.T, self.B, width)

    def outer_shape(self, width: int) -> tuple[int, ...]:
        """Return the caller's shape of an array of this batch."""
        return self.shape(width) if self.has_batch_axis else (self.T, width)

    def batched(self, array: Array) -> Array:
        """Return the caller's array in the drivers' shape."""
        return array if self.has_batch_axis else array.reshape(self.shape(array.shape[-1]))

    def unbatched(self, array: Array) -> Array:
        """Return the drivers' array in the caller's shape."""
        return array if self.has_batch_axis else array.reshape(self.outer_shape(array.shape[-1]))

    def unbatched_states(self, h: Array, c: Array) -> State:
        """Return the drivers' states in the caller's shapes."""
        return (h, c) if self.has_batch_axis else (h[:, 0], c[:, 0])


def refuse_both(lengths: object, mask: object) -> None:
    """Raise if lengths and a mask are given."""
    if lengths is not None and mask is not None:
        raise ValueError("mask: expected None together with lengths, got both")


def flags_by_row(name: str, flags: ArrayLike, shape: tuple[int, ...], batch_first: bool) -> Bools:
    """Return the caller's flags of steps, in the first axes `shape` of a batch or of one sequence, as (B, T)."""
    axes = "(T,)" if len(shape) == 1 else "(B, T)" if batch_first else "(T, B)"
    flags = flag_array(name, flags)
    expect_shape(name, flags, shape, axes)
    if len(shape) == 1:
        return flags.reshape(1, -1)
    return np.ascontiguousarray(flags if batch_first else flags.T)


def valid_by_row(shape: tuple[int, ...], batch_first: bool, lengths: ArrayLike | None, mask: ArrayLike | None) -> Bools:
    """Return where the steps of a batch, or of one sequence, are valid, as (B, T)."""
    refuse_both(lengths, mask)
    if mask is not None:
        return flags_by_row("mask", mask, shape, batch_first)
    B, T = (1, *shape) if len(shape) == 1 else shape if batch_first else shape[::-1]
    if lengths is None:
        return np.ones((B, T), bool)
    scalar = len(shape) == 1 and np.ndim(lengths) == 0
    valid: Bools = np.arange(T) < check_lengths(lengths, None if scalar else B, T).reshape(B, 1)
    return valid
