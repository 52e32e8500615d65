"""What a unit wrote, and for how long it kept it: `GateTrace.memories`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ..typing import Array, Bools, Ints


class Memory(NamedTuple):
    """A value that a unit added to its cell, and for how long it kept it.

    Attributes
    ----------
    unit, step : int
        Which unit added it, and at which step.
    value : float
        What it added: input * candidate.
    until : int
        The last step, in the order of reading, after which the asked share of it was still in the cell.
    left : float
        The share of it that was in the cell after `until`.
    """

    unit: int
    step: int
    value: float
    until: int
    left: float

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes by name.

        Returns
        -------
        dict
        """
        return self._asdict()


def memories_of(
    written: Array, shares: Array, valid: Bools, reset: Bools, units: Ints, share: float, most: int
) -> list[Memory]:
    """Return the largest memories of each unit; arrays (T, H) and (T,), and steps, are in the order of reading."""
    found = []
    for unit in units:
        kept = np.where(valid, np.abs(shares[:, unit]), 1.0)
        kept[reset] = 0
        values = np.where(valid, written[:, unit], 0)
        steps = np.flatnonzero(np.isfinite(values) & (values != 0))
        largest = steps[np.argsort(-np.abs(values[steps]), kind="stable")[:most]]
        for step in np.sort(largest):
            left = np.cumprod(kept[step + 1 :])
            lost = np.flatnonzero(~(left >= share))
            length = int(lost[0]) if len(lost) else len(left)
            rest = float(left[length - 1]) if length else 1.0
            found.append(Memory(int(unit), int(step), float(values[step]), int(step) + length, rest))
    return found
