"""The report on a trace: its gates and a few units in plain text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..typing import Array, Ints
    from .gates import GateTrace

#: gate: what its mean is a share of
MEANS = {
    "forget": "the cell is kept at each step",
    "input": "the candidate is added to the cell",
    "output": "the cell is output",
}


def description(
    trace: GateTrace, tokens: list[str] | None, units: Ints, half_lives: Array, nan_source: tuple[Any, ...] | None
) -> str:
    """Describe the trace of one sequence; half-lives and the first value that is not finite are those of all rows."""
    steps = np.flatnonzero(trace.valid)
    lines = [f"{len(steps)} steps, {trace.cell.shape[-1]} units"]
    if nan_source is not None:
        step, row, name, unit = nan_source
        return f"{lines[0]}\nfirst value that is not finite: {name} of unit {unit}, at step {step} of row {row}"
    if not len(steps):
        return lines[0]
    for name, words in MEANS.items():
        lines.append(f"{name} gate: on average {getattr(trace, name)[steps].mean():.2f} of {words}")
    shortest, median, longest = (step_count(find(half_lives)) for find in (np.min, np.median, np.max))
    lines.append(
        f"half-life of the cell, in steps: shortest {shortest}, median {median}, longest {longest} "
        f"(unit {half_lives.argmax()})"
    )
    lines.append("the most salient units:")
    for unit in units:
        lines += _lines_about(int(unit), trace, steps, tokens, half_lives[unit])
    return "\n".join(lines)


def _lines_about(unit: int, trace: GateTrace, steps: Ints, tokens: list[str] | None, half_life: float) -> list[str]:
    """Return the lines about one unit."""

    def at(step: int) -> str:
        return f"step {step}" + ("" if tokens is None else f" {tokens[step]!r}")

    cell, forget = trace.cell[steps, unit], trace.forget[steps, unit]
    written = trace.written()[steps, unit]
    most, least = int(np.abs(written).argmax()), int(forget.argmin())
    last = int(steps[0] if trace.reverse else steps[-1])
    return [
        f"unit {unit}: half-life {step_count(half_life)}, cell from {cell.min():.2f} to {cell.max():.2f}",
        f"  added most at {at(steps[most])}: {written[most]:+.2f}; "
        f"kept least at {at(steps[least])}: {forget[least]:.2f} of the cell",
        f"  cell at the end {trace.cell[last, unit]:+.2f}: "
        + (", ".join(_sources(trace.contribution(last)[:, unit], trace, at)) or "no step left 0.005 or more"),
    ]


def _sources(left: Array, trace: GateTrace, at: Callable[[int], str]) -> list[str]:
    """Return the three largest of a unit's contributions, each with the step that made it."""
    order = range(len(trace.cell))[:: -1 if trace.reverse else 1]  # of reading
    return [
        f"{left[index]:+.2f} from " + (at(order[index - 1]) if index else "the initial cell")
        for index in np.argsort(-np.abs(left), kind="stable")[:3]
        if abs(left[index]) >= 0.005
    ]


def step_count(value: float) -> str:
    """Return a number of steps as text: one decimal below 10, none above."""
    return "infinite" if math.isinf(value) else f"{value:.1f}" if value < 10 else f"{value:.0f}"
