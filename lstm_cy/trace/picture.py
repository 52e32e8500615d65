"""The picture of a trace: the cell of a few units as lines, and the gates as heat maps, over the tokens."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import pip_install

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.figure import Figure

    from ..typing import Array, Ints

#: most columns of a picture; more steps are shown as means over windows
MOST_COLUMNS = 240
#: most steps whose tokens are written along the axis one by one
MOST_TOKENS = 120
#: gate: title of its heat map, and the meaning of the lowest and of the highest value
MAPS = {
    "forget": ("Forget gate: how much of the cell is kept", "drops it", "keeps it"),
    "input": ("Input gate: how much of the candidate is added", "ignores it", "adds it"),
    "candidate": ("Cell candidate: the value that may be added", "would lower the cell", "would raise it"),
    "output": ("Output gate: how much of the cell is output", "hides it", "outputs it"),
}
_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_FONTS = (
    "Noto Sans Mono CJK SC",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # the only one that Matplotlib before 3.11 finds in a file with several fonts
    "Source Han Sans SC",
    "WenQuanYi Zen Hei Mono",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Microsoft YaHei",
    "SimHei",
)
#: DejaVu has almost no characters from here on
_EAST_ASIAN = "\u2e80"


def draw(
    arrays: dict[str, Array],
    tokens: list[str] | None,
    first: int,
    units: Ints,
    drawn: Ints,
    backwards: bool,
    title: str | None,
) -> Figure:
    """Draw the arrays (steps, units), whose first step is `first`, and the cells of the `drawn` units as lines."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"trace.plot needs matplotlib: {pip_install('plot')}") from None
    count = len(arrays["cell"])
    window = -(-count // MOST_COLUMNS)
    starts = np.arange(0, count, window)
    edges = np.append(first + starts, first + count) - 0.5
    colours = {int(unit): f"C{number}" for number, unit in enumerate(drawn)}
    width, height = min(max(0.135 * len(starts), 6), 16), max(0.19 * len(units), 0.6)
    figure = Figure(figsize=(width + 2.6, 4 * height + 5.2), layout="constrained")
    panels = figure.subplots(5, 1, sharex=True, height_ratios=[2.1, *[height] * 4])
    _draw_cell(panels[0], arrays["cell"], starts, edges, colours)
    for axes, name in zip(panels[1:], MAPS, strict=True):
        _draw_map(figure, axes, name, _means(arrays[name], starts), edges, units, colours)
    notes = [_label_steps(panels[-1], tokens, first, count, width / count)]
    if backwards:
        notes.append("read from right to left")
    if window > 1:
        notes.append(f"each column is the mean of {window} steps (bands: smallest to largest)")
    panels[-1].set_xlabel("; ".join(notes))
    if title is not None:
        figure.suptitle(title, parse_math=False)
    return figure


def _means(array: Array, starts: Ints) -> Array:
    """Return (columns, units): means over windows that begin at `starts`, without NaN; NaN for a window of NaN only."""
    present = ~np.isnan(array)
    counts = np.add.reduceat(present, starts, axis=0, dtype=np.intp)
    sums = np.add.reduceat(np.where(present, array, 0), starts, axis=0, dtype=np.float64)
    return np.where(counts, sums / np.maximum(counts, 1), np.nan)


def _draw_cell(axes: Any, cell: Array, starts: Ints, edges: Array, colours: Any) -> None:
    """Draw the cells of the first units as lines, with bands where a column is several steps."""
    middles, means = (edges[:-1] + edges[1:]) / 2, _means(cell, starts)
    low, high = (reduce.reduceat(cell, starts, axis=0) for reduce in (np.fmin, np.fmax))
    whole = len(starts) == len(cell)
    axes.axhline(0, color="0.8", linewidth=0.8)
    for number, (unit, colour) in enumerate(colours.items()):
        axes.plot(middles, means[:, number], color=colour, marker="." * whole, markersize=3, label=f"unit {unit}")
        if not whole:
            axes.fill_between(middles, low[:, number], high[:, number], color=colour, alpha=0.2, linewidth=0)
    axes.set_title("Cell: what is remembered", loc="left", fontsize=10)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.97), ncols=len(colours), frameon=False, fontsize=8)
    axes.margins(x=0)
    axes.tick_params(axis="x", length=0, labelbottom=False)


def _draw_map(figure: Figure, axes: Any, name: str, values: Array, edges: Array, units: Ints, colours: Any) -> None:
    """Draw one gate, a line for each unit, and a colour bar that names the lowest and the highest value."""
    title, low_words, high_words = MAPS[name]
    low, high = (-1.0, 1.0) if name == "candidate" else (0.0, 1.0)
    finite = values[np.isfinite(values)]
    low, high = min(low, finite.min(initial=low)), max(high, finite.max(initial=high))
    mesh = axes.pcolormesh(
        edges, np.arange(len(units) + 1) - 0.5, values.T, cmap=_colours(name), vmin=low, vmax=high, rasterized=True
    )
    axes.set_facecolor("0.85")  # steps that are not valid
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_yticks(np.arange(len(units)), [f"unit {unit}" for unit in units], fontsize=7)
    for label, unit in zip(axes.get_yticklabels(), units, strict=True):
        label.set_color(colours.get(int(unit), "black"))
    axes.invert_yaxis()
    axes.tick_params(length=0, labelbottom=False)
    bar = figure.colorbar(mesh, ax=axes, aspect=8, pad=0.01)
    bar.set_ticks([low, high], labels=[f"{low:g} {low_words}", f"{high:g} {high_words}"], fontsize=7)


def _colours(name: str) -> str:
    return "RdBu_r" if name == "candidate" else "viridis"


def add_new_fonts() -> None:
    """Add the fonts that were installed after Matplotlib listed those of this machine.

    Matplotlib keeps its list in a file, and does not look for new fonts until the file is deleted.
    """
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {entry.fname for entry in fontManager.ttflist}
    for path in set(findSystemFonts()) - known:
        with contextlib.suppress(OSError, RuntimeError):  # Matplotlib cannot read this font
            fontManager.addfont(path)


def _token_fonts(tokens: Iterable[str]) -> list[str]:
    """Return DejaVu, which comes with Matplotlib, then this machine's fonts for Chinese, Japanese and Korean."""
    from matplotlib.font_manager import get_font_names

    found = set(_FONTS) & set(get_font_names())
    if not found and any(character >= _EAST_ASIAN for token in tokens for character in token):
        add_new_fonts()
        found = set(_FONTS) & set(get_font_names())
    return ["DejaVu Sans Mono", *sorted(found, key=_FONTS.index)]


def visible(token: str) -> str:
    """Return a token as printable text: signs for space, line end and tab, escapes for what cannot be printed."""
    shown = "".join(_SIGNS.get(character, character) for character in token)
    return shown if shown.isprintable() else ascii(shown)[1:-1]


def _label_steps(axes: Any, tokens: list[str] | None, first: int, count: int, inches: float) -> str:
    """Write the tokens along the axis, or for many steps some of them with their positions; return the axis's label."""
    axes.tick_params(axis="x", labelbottom=True)
    if tokens is None:
        return "step"
    shown = [visible(token) for token in tokens]
    if count <= MOST_TOKENS:
        axes.set_xticks(first + np.arange(len(shown)), shown, fontsize=8, family=_token_fonts(shown), parse_math=False)
        if 0.07 * max(map(len, shown)) > inches:  # the width of a character, and of a column
            axes.tick_params(axis="x", labelrotation=90)
        return "token" + _legend(shown)
    offsets = np.unique(np.linspace(0, count - 1, 13).astype(int)[:-1])
    labels = [f"{first + offset}\n{''.join(shown[offset : offset + 12])[:12]}" for offset in offsets]
    axes.set_xticks(first + offsets, labels, fontsize=7, family=_token_fonts(shown), parse_math=False, ha="left")
    return "step, and the tokens that follow" + _legend(shown)


def _legend(shown: Sequence[str]) -> str:
    """Return the meaning of the signs that occur among the tokens."""
    names = {"␣": "space", "⏎": "end of line", "⇥": "tab"}
    words = [f"{sign} {name}" for sign, name in names.items() if any(sign in token for token in shown)]
    return f" ({', '.join(words)})" if words else ""
