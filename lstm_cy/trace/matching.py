"""Which units are on for exactly one span of steps, and where in a corpus they do the same: `GateTrace.match`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ..typing import Array, Bools, Ints


class SpanUnit(NamedTuple):
    """A unit that is on for exactly one span of steps.

    Attributes
    ----------
    unit : int
    sign : int
        1 if its value is high when it is on, -1 if it is low.
    threshold : float
        The value between on and off: half way between the span and the steps next to it.
    margin : float
        The distance of the span from the steps next to it, in standard deviations of the unit's value.
    """

    unit: int
    sign: int
    threshold: float
    margin: float

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes by name.

        Returns
        -------
        dict
        """
        return self._asdict()


class Match(NamedTuple):
    """A place where units do what they do in a span.

    Attributes
    ----------
    row, first, last : int
        The row of the corpus, and the first and the last step.
    units : list of int
        Those that are on for exactly these steps.
    """

    row: int
    first: int
    last: int
    units: list[int]

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes by name.

        Returns
        -------
        dict
        """
        return self._asdict()


def units_of_span(values: Array, first: int, last: int, spread: Array) -> list[SpanUnit]:
    """Return the units of values (T, H) that are on for exactly the steps `first` to `last`, the clearest first."""
    inside = values[first : last + 1].astype(np.float64)
    outside = np.concatenate([values[max(first - 1, 0) : first], values[last + 1 : last + 2]]).astype(np.float64)
    found = []
    for unit in range(values.shape[-1]):
        for sign in (1, -1):
            low, high = (sign * inside[:, unit]).min(), (sign * outside[:, unit]).max(initial=-np.inf)
            if not np.isfinite(low) or not low > high:
                continue
            margin = (low - high) / spread[unit] if np.isfinite(high) and spread[unit] else 0.0
            middle = (low + high) / 2 if np.isfinite(high) else low
            found.append(SpanUnit(unit, sign, float(sign * middle), float(margin)))
    return sorted(found, key=lambda one: -one.margin)


def matches_of(values: Array, valid: Bools, units: list[SpanUnit], length: int) -> list[Match]:
    """Return the places of values (T, B, H) at which units are on, the most alike first.

    Those with most of the units come first, then those whose length is nearest to `length`, then the earlier ones.
    """
    B = values.shape[1]
    by_place: dict[tuple[int, int, int], list[int]] = {}
    for one in units:
        with np.errstate(invalid="ignore"):
            on = (one.sign * values[..., one.unit] > one.sign * one.threshold) & valid
        for row in range(B):
            for first, last in _runs(on[:, row]):
                by_place.setdefault((row, first, last), []).append(one.unit)
    found = [Match(*place, own) for place, own in by_place.items()]
    return sorted(
        found,
        key=lambda one: (-len(one.units), abs(one.last - one.first + 1 - length), one.row, one.first),
    )


def _runs(on: Bools) -> list[tuple[int, int]]:
    """Return the first and the last step of each run of True."""
    edges: Ints = np.flatnonzero(np.diff(np.concatenate([[0], on.astype(np.int8), [0]])))
    return [(int(first), int(end) - 1) for first, end in edges.reshape(-1, 2)]
