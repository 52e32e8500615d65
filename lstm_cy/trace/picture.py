"""The picture of a trace: the cell of a few units as lines, and the gates as heat maps, over the tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import one_of
from ..extras import pip_install
from .predictions import NO_TARGET
from .words import PANELS, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.figure import Figure

    from ..typing import Array, Ints
    from .predictions import Predictions

#: most columns of a picture; more steps are shown as means over windows
MOST_COLUMNS = 240
#: most steps whose tokens are written along the axis one by one
MOST_TOKENS = 120
#: those that are drawn unless others are asked for
USUAL_PANELS = PANELS[:5]
#: heat maps of values of both signs
_SIGNED = {"candidate", "written", "hidden", "contribution", "gradient"}
#: most outputs of a panel of predictions
_MOST_OUTPUTS = 8
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
    language: str = "en",
    predictions: Predictions | None = None,
) -> Figure:
    """Draw the panels: arrays (steps, units) whose first step is `first`, the cells of the `drawn` units as lines."""
    words, panels = words_of(language), [*arrays]
    count = len(next(iter(arrays.values()))) if arrays else 0
    if predictions is not None:
        panels.append("prediction")
        count = len(predictions.probability)
    window = -(-count // MOST_COLUMNS)
    starts = np.arange(0, count, window)
    edges = np.append(first + starts, first + count) - 0.5
    colours = {int(unit): f"C{number}" for number, unit in enumerate(drawn)}
    map_height = max(0.19 * len(units), 0.6)
    heights = [{"cell": 2.1, "prediction": 1.6}.get(name, map_height) for name in panels]
    with lettering(language):
        figure, width = figure_of(len(starts), sum(heights) + 0.62 * len(panels))
        rows = [*figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]]
        for name, axes in zip(panels, rows, strict=True):
            if name == "cell":
                _draw_cell(axes, arrays[name], starts, edges, colours, words)
            elif name == "prediction" and predictions is not None:
                _draw_predictions(figure, axes, predictions, starts, edges, words)
            else:
                draw_map(figure, axes, name, _means(arrays[name], starts), edges, units, colours, words)
        notes = [label_steps(rows, tokens, first, count, width / count, words)]
        if backwards:
            notes.append(words["backwards"])
        if window > 1:
            notes.append(words["windows"].format(window=window))
        return finish(figure, rows[-1], notes, title)


def panel_names(panels: Sequence[str]) -> list[str]:
    """Return the argument `panels`, after checking it."""
    if isinstance(panels, str) or not isinstance(panels, Iterable):
        raise TypeError(f"panels: expected a sequence of names, got {panels!r}")
    names = list(dict.fromkeys(one_of("panels", name, PANELS) for name in panels))
    if not names:
        raise ValueError("panels: expected at least one, got none")
    return names


def figure_of(columns: int, height: float) -> tuple[Figure, float]:
    """Return an empty figure for so many columns, and the width of its panels in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"trace.plot needs matplotlib: {pip_install('plot')}") from None
    width = min(max(0.135 * columns, 6), 16)
    return Figure(figsize=(width + 2.6, height), layout="constrained"), width


def finish(figure: Figure, last: Any, notes: list[str], title: str | None) -> Figure:
    """Write the notes below the last panel, and the title; return the figure."""
    last.set_xlabel("; ".join(notes))
    if title is not None:
        figure.suptitle(title, parse_math=False)
    return figure


@contextlib.contextmanager
def lettering(language: str) -> Iterator[None]:
    """Make new text use fonts that have the characters of a language."""
    if language == "en":
        yield
        return
    try:
        from matplotlib import rc_context
    except ImportError:
        raise ImportError(f"trace.plot needs matplotlib: {pip_install('plot')}") from None
    families = ["DejaVu Sans", *_token_fonts([_EAST_ASIAN])[1:]]
    with rc_context({"font.family": families, "axes.unicode_minus": False}):
        yield


def _means(array: Array, starts: Ints) -> Array:
    """Return (columns, units): means over windows that begin at `starts`, without NaN; NaN for a window of NaN only."""
    present = ~np.isnan(array)
    counts = np.add.reduceat(present, starts, axis=0, dtype=np.intp)
    sums = np.add.reduceat(np.where(present, array, 0), starts, axis=0, dtype=np.float64)
    return np.where(counts, sums / np.maximum(counts, 1), np.nan)


def _draw_cell(axes: Any, cell: Array, starts: Ints, edges: Array, colours: Any, words: Any) -> None:
    """Draw the cells of the first units as lines, with bands where a column is several steps."""
    middles, means = (edges[:-1] + edges[1:]) / 2, _means(cell, starts)
    low, high = (reduce.reduceat(cell, starts, axis=0) for reduce in (np.fmin, np.fmax))
    whole = len(starts) == len(cell)
    axes.axhline(0, color="0.8", linewidth=0.8)
    for number, (unit, colour) in enumerate(colours.items()):
        label = words["unit"].format(unit=unit)
        axes.plot(middles, means[:, number], color=colour, marker="." * whole, markersize=3, label=label)
        if not whole:
            axes.fill_between(middles, low[:, number], high[:, number], color=colour, alpha=0.2, linewidth=0)
    axes.set_title(words["cell"], loc="left", fontsize=10)
    axes.set_xlim(edges[0], edges[-1])
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False)


def _draw_predictions(
    figure: Figure, axes: Any, predictions: Predictions, starts: Ints, edges: Array, words: Any
) -> None:
    """Draw the probability of the most probable outputs, and at steps with a target whether the best one is right."""
    probability = predictions.probability.astype(np.float64)
    outputs = np.sort(np.argsort(-np.nan_to_num(probability).max(axis=0), kind="stable")[:_MOST_OUTPUTS])
    labels = [visible(predictions.labels[k]) or "∅" for k in outputs]
    mesh = axes.pcolormesh(
        edges,
        np.arange(len(outputs) + 1) - 0.5,
        _means(probability, starts)[:, outputs].T,
        cmap="viridis",
        vmin=0,
        vmax=1,
        rasterized=True,
    )
    title = words["prediction"]
    counted = predictions.target != NO_TARGET
    if counted.any() and len(starts) == len(probability):
        title += f" ({words['right']})"
        middles, places = (edges[:-1] + edges[1:]) / 2, {int(k): place for place, k in enumerate(outputs)}
        for step in np.flatnonzero(counted):
            best, sign = int(predictions.best[step]), "✓" if predictions.right[step] else "✗"
            colour = "black" if probability[step, best] > 0.5 else "white"  # on yellow, or on blue
            axes.text(middles[step], places.get(best, 0), sign, color=colour, ha="center", va="center", fontsize=10)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_yticks(np.arange(len(outputs)), labels, fontsize=7, family=_token_fonts(labels), parse_math=False)
    axes.invert_yaxis()
    axes.tick_params(length=0, labelbottom=False)
    _colour_bar(figure, mesh, axes, 0, 1, words["prediction low"], words["prediction high"])


def draw_map(
    figure: Figure,
    axes: Any,
    name: str,
    values: Array,
    edges: Array,
    units: Ints,
    colours: Any,
    words: Any,
    kind: str | None = None,
    **named: object,
) -> None:
    """Draw values (columns, units) as a heat map with a colour bar that names the lowest and the highest value.

    `name` is that of its title, with `named` in it, and `kind` that of its colours, the same if None.
    """
    kind = name if kind is None else kind
    finite = np.abs(values[np.isfinite(values)]) if kind in _SIGNED - {"candidate"} else values[np.isfinite(values)]
    if kind in _SIGNED - {"candidate"}:
        high = float(finite.max(initial=0)) or 1.0
        low = -high
    else:
        low, high = (-1.0, 1.0) if kind == "candidate" else (0.0, 1.0)
        low, high = min(low, finite.min(initial=low)), max(high, finite.max(initial=high))
    mesh = axes.pcolormesh(
        edges, np.arange(len(units) + 1) - 0.5, values.T, cmap=_colours(kind), vmin=low, vmax=high, rasterized=True
    )
    axes.set_facecolor("0.85")  # steps that are not valid
    axes.set_title(words[name].format(**named), loc="left", fontsize=10)
    axes.set_yticks(np.arange(len(units)), [words["unit"].format(unit=unit) for unit in units], fontsize=7)
    for label, unit in zip(axes.get_yticklabels(), units, strict=True):
        label.set_color(colours.get(int(unit), "black"))
    axes.invert_yaxis()
    axes.tick_params(length=0, labelbottom=False)
    _colour_bar(figure, mesh, axes, low, high, words[f"{kind} low"], words[f"{kind} high"])


def _colour_bar(figure: Figure, mesh: Any, axes: Any, low: float, high: float, low_words: str, high_words: str) -> None:
    bar = figure.colorbar(mesh, ax=axes, aspect=8, pad=0.01)
    bar.set_ticks([low, high], labels=[f"{low:.3g} {low_words}", f"{high:.3g} {high_words}"], fontsize=7)


def _colours(name: str) -> str:
    return "RdBu_r" if name in _SIGNED else "viridis"


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


def label_steps(
    panels: Sequence[Any], tokens: list[str] | None, first: int, count: int, inches: float, words: Any
) -> str:
    """Write the tokens below each panel, or for many steps some of them with their positions below the last one.

    A line at each token that is written leads the eye through all panels. Return the label of the axis.
    """
    panels[-1].tick_params(axis="x", labelbottom=True)
    if tokens is None:
        return str(words["step"])
    shown = [visible(token) for token in tokens]
    if count <= MOST_TOKENS:
        places = first + np.arange(len(shown))
        for axes in panels:
            axes.set_xticks(places, shown, fontsize=8, family=_token_fonts(shown), parse_math=False)
            axes.tick_params(axis="x", labelbottom=True, length=2)
            if 0.07 * max(map(len, shown)) > inches:  # the width of a character, and of a column
                axes.tick_params(axis="x", labelrotation=90)
            for place in places:
                axes.axvline(place, color="0.5", alpha=0.25, linewidth=0.5, zorder=2.5)
        return str(words["token"]) + _legend(shown, words)
    offsets = np.unique(np.linspace(0, count - 1, 13).astype(int)[:-1])
    labels = [f"{first + offset}\n{''.join(shown[offset : offset + 12])[:12]}" for offset in offsets]
    panels[-1].set_xticks(first + offsets, labels, fontsize=7, family=_token_fonts(shown), parse_math=False, ha="left")
    for axes in panels:
        for offset in offsets:
            axes.axvline(first + offset, color="0.5", alpha=0.4, linewidth=0.6, zorder=2.5)
    return str(words["positions"]) + _legend(shown, words)


def _legend(shown: Sequence[str], words: Any) -> str:
    """Return the meaning of the signs that occur among the tokens."""
    found = [f"{sign} {words[sign]}" for sign in _SIGNS.values() if any(sign in token for token in shown)]
    return f" ({', '.join(found)})" if found else ""
