"""Pictures of what is derived from a trace: how long values are kept, and how far a gradient reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..printable import printable
from .picture import draw_map, figure_of, finish, label_steps, lettering
from .words import words_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from ..typing import Array, Ints
    from .memories import Memory

#: most steps that these pictures draw
MOST_STEPS = 4000
_DARKEST = 1e-30  # a logarithmic axis cannot show zero


def draw_gradient(
    norms: Mapping[str, Array],
    others: Mapping[str, Array],
    cell: Array,
    units: Ints,
    tokens: list[str] | None,
    first: int,
    here: int,
    of: str,
    language: str,
    title: str | None,
) -> Figure:
    """Draw norms (steps,) of gradients as lines, and those of the cells (steps, units) as a map."""
    words, count = words_of(language), len(cell)
    steps = first + np.arange(count)
    edges = np.append(steps, first + count) - 0.5
    height = max(0.19 * len(units), 0.6)
    with lettering(language):
        figure, width = figure_of(count, height + 5.0)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, height])
        lowest = [array[array > _DARKEST].min(initial=np.inf) for array in (*norms.values(), *others.values())]
        for name, array in norms.items():
            label = words["gradient of cell" if name == "cell" else f"gradient {name}"]
            top.plot(steps, np.where(array > _DARKEST, array, np.nan), label=label, linewidth=1.3, marker=".", ms=3)
        for name, array in others.items():
            top.plot(steps, np.where(array > _DARKEST, array, np.nan), "--", label=printable(name), linewidth=1.6)
        if np.isfinite(min(lowest)):
            top.set_yscale("log")
        top.axvline(here, color="0.5", linewidth=0.8)
        top.set_title(words["gradient"].format(of=of), loc="left", fontsize=10)
        top.set_ylabel(words["gradient length"], fontsize=8)
        top.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False)
        draw_map(figure, bottom, "gradient cell", cell, edges, units, {}, words, "gradient")
        notes = label_steps([top, bottom], tokens, first, count, width / count, words)
        return finish(figure, bottom, [notes], title)


def draw_memories(
    memories: Sequence[Memory],
    cell: Array,
    contribution: Array,
    units: Ints,
    tokens: list[str] | None,
    first: int,
    at: int,
    backwards: bool,
    language: str,
    title: str | None,
) -> Figure:
    """Draw what each unit wrote and until when it kept it, and what each step contributed to the cell after `at`.

    `cell` and `contribution` are (steps, units), in the order of x.
    """
    words, count = words_of(language), len(cell)
    steps = first + np.arange(count)
    edges = np.append(steps, first + count) - 0.5
    height = max(0.19 * len(units), 0.6)
    with lettering(language):
        figure, width = figure_of(count, 1.5 * len(units) + height + 1.6)
        panels = figure.subplots(len(units) + 1, 1, sharex=True, height_ratios=[1.3] * len(units) + [height])
        for number, (axes, unit) in enumerate(zip(panels, units, strict=False)):
            _draw_unit(axes, [one for one in memories if one.unit == unit], steps, cell[:, number], words)
            axes.set_title(words["memory"].format(unit=unit), loc="left", fontsize=9)
        draw_map(figure, panels[-1], "contribution", contribution, edges, units, {}, words, "contribution", step=at)
        panels[-1].axvline(at, color="0.2", linewidth=1)
        notes = [label_steps(panels, tokens, first, count, width / count, words)]
        if backwards:
            notes.append(words["backwards"])
        return finish(figure, panels[-1], notes, title)


def _draw_unit(axes: Any, memories: Sequence[Memory], steps: Array, cell: Array, words: Any) -> None:
    axes.axhline(0, color="0.8", linewidth=0.8)
    axes.plot(steps, cell, color="0.75", linewidth=1, label=words["gradient of cell"])
    for one in memories:
        colour = "#b2182b" if one.value > 0 else "#2166ac"
        axes.plot([one.step, one.until], [one.value, one.value], color=colour, linewidth=2.4, solid_capstyle="butt")
        axes.plot([one.step], [one.value], "o", color=colour, markersize=5)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlim(steps[0] - 0.5, steps[-1] + 0.5)
