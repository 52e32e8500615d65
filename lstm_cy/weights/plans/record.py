"""Records of plans: what a graph computes where, and how long each part takes."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

from ...printable import printable
from .plan import Call, Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...typing import Array

_COLUMNS = ("where", "what", "result", "us", "steps")
_LONGEST = 60


class PlanPart(NamedTuple):
    """A part of a plan.

    Attributes
    ----------
    where : {"kernels", "python"}
        "kernels": in a program, without the GIL; "python": a call of a step.
    what : str
        The kind of operation, or the operator.
    shape : tuple of int
        Of the result; empty for a call.
    seconds : float
        The median over the runs.
    steps : tuple of str
        The steps of the graph that it computes, with those that were joined to it.
    """

    where: str
    what: str
    shape: tuple[int, ...]
    seconds: float
    steps: tuple[str, ...]


class GraphPlan:
    """How a graph runs with inputs of some shapes; `Graph.plan` returns it, and its `str` is a table.

    Attributes
    ----------
    parts : tuple of PlanPart
        In the order in which they are computed. What follows from shapes and constants is not among them.
    bytes : int
        The working memory of a run.
    seconds : float
        The sum of the parts' times.
    """

    def __init__(self, parts: Sequence[PlanPart], size: int) -> None:
        self.parts, self.bytes = tuple(parts), size
        self.seconds = sum(part.seconds for part in self.parts)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as numbers, strings, lists and dicts.

        Returns
        -------
        dict
        """
        parts = [part._asdict() | {"shape": list(part.shape), "steps": list(part.steps)} for part in self.parts]
        return {"seconds": self.seconds, "bytes": self.bytes, "parts": parts}

    def __repr__(self) -> str:
        kinds = [part.where for part in self.parts]
        counts = f"{kinds.count('kernels')} by kernels, {kinds.count('python')} by Python"
        return f"GraphPlan({len(kinds)} parts: {counts}; {self.seconds * 1e6:.1f} us, {self.bytes:,} bytes)"

    def __str__(self) -> str:
        rows = [_COLUMNS, *map(_row, self.parts)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if place == 3 else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, repr(self)])


def _row(part: PlanPart) -> tuple[str, ...]:
    names = ", ".join(map(printable, part.steps))
    shape = " x ".join(map(str, part.shape))
    name = names if len(names) <= _LONGEST else names[: _LONGEST - 3] + "..."
    return part.where, printable(part.what), shape, f"{part.seconds * 1e6:.1f}", name


def record(plan: Plan, arrays: Sequence[Array], runs: int) -> GraphPlan:
    """Run a plan some times, and return how long each part takes."""
    times = [plan.timed(arrays) for _ in range(runs)]
    parts = []
    for index, part in enumerate(plan.parts):
        for place, (where, what, shape, steps) in enumerate(_described(part)):
            seconds = statistics.median(run[index][place] for run in times)
            parts.append(PlanPart(where, what, shape, seconds, tuple(steps)))
    return GraphPlan(parts, plan.bytes)


def _described(part: Any) -> list[tuple[str, str, tuple[int, ...], list[str]]]:
    if isinstance(part, Call):
        return [("python", part.step.op_type, (), [part.label])]
    return [("kernels", kind, shape, steps) for kind, steps, shape in part.operations]
