"""The tokens, units and steps that a report or a picture of one sequence shows."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import int_within, positive_int, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..typing import Ints
    from .gates import GateTrace

#: two units are alike if their cells correlate, over the steps, by more than this or less than its negative
MOST_ALIKE = 0.9


def token_texts(trace: GateTrace, tokens: Sequence[object] | None) -> list[str] | None:
    """Return the tokens as text, after checking their number."""
    return texts_of(tokens, _length(trace), len(trace.cell))


def texts_of(tokens: Sequence[object] | None, least: int, most: int) -> list[str] | None:
    """Return tokens as text, after checking that there are `least` to `most`, the number of steps."""
    if tokens is None:
        return None
    words = [str(token) for token in _sequence("tokens", tokens)]
    if not least <= len(words) <= most:
        expected = f"T = {most}" if least == most else f"{least} to T = {most}"
        raise ValueError(f"tokens: expected {expected} of them, got {len(words)}")
    return words


def unit_numbers(trace: GateTrace, units: int | Sequence[int]) -> Ints:
    """Return the numbers of the units: the given ones, or the most salient ones that are not alike."""
    if isinstance(units, numbers.Integral):
        return _distinct(trace, np.argsort(-trace.salience(), kind="stable"), positive_int("units", units))
    return numbers_of(units, np.arange(0), trace.cell.shape[-1])


def numbers_of(units: int | Sequence[int], order: Ints, H: int) -> Ints:
    """Return the first of the units in `order`, as many as `units` says, or the given numbers below H."""
    if isinstance(units, numbers.Integral):
        return order[: positive_int("units", units)]
    units = [int_within("units", unit, 0, H - 1) for unit in _sequence("units", units)]
    if not units:
        raise ValueError("units: expected at least one, got none")
    return np.array(units)


def step_range(trace: GateTrace, steps: tuple[int, int] | None, row: int) -> tuple[int, int]:
    """Return the first and the last step to draw; `row` is for the error message."""
    length = _length(trace)
    if not length:
        raise ValueError(f"row: expected one with valid steps to draw, got {row}")
    return checked_steps(steps, length)


def checked_steps(steps: tuple[int, int] | None, length: int) -> tuple[int, int]:
    """Return the argument `steps`, the first and the last of `length` steps; None for all of them."""
    if steps is None:
        return 0, length - 1
    if not isinstance(steps, tuple | list) or len(steps) != 2:
        raise TypeError(f"steps: expected None or a pair (first, last), got {steps!r}")
    first = int_within("steps", steps[0], 0, length - 1)
    return first, int_within("steps", steps[1], first, length - 1)


def _length(trace: GateTrace) -> int:
    """Return the number of steps up to the last valid one."""
    valid = np.flatnonzero(trace.valid)
    return int(valid[-1]) + 1 if len(valid) else 0


def _distinct(trace: GateTrace, units: Ints, count: int) -> Ints:
    """Return the first `count` of `units` that are not alike; if these are too few, then others too."""
    cell = trace.cell[trace.valid].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        moves = cell - cell.mean(axis=0) if len(cell) else cell
        moves /= np.maximum(np.linalg.norm(moves, axis=0), np.finfo(float).tiny)
    chosen: list[int] = []
    for unit in units:
        if len(chosen) == count:
            break
        if not (np.abs(moves[:, unit] @ moves[:, chosen]) > MOST_ALIKE).any():
            chosen.append(int(unit))
    others = [int(unit) for unit in units if int(unit) not in chosen]
    return np.array([*chosen, *others[: count - len(chosen)]], np.intp)


def _sequence(name: str, value: Any) -> Any:
    try:
        return list(value)
    except TypeError:  # also arrays without an axis, and classes
        raise TypeError(f"{name}: expected a sequence, got {shown(value)} ({type(value).__name__})") from None
