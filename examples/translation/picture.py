"""Draw the attention: the weight of each source piece for each written piece."""

import unicodedata

from lstm_cy.trace import add_new_fonts


def draw(weights, read, written, path):
    """Draw the weights (T, S) with `read` (S texts) above and `written` (T texts) to the left; save it as `path`.

    Characters that no installed font has are shown by their numeric value, or their code point, in brackets.
    Returns whether there were any.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("a picture needs Matplotlib: pip install matplotlib") from None
    fonts, missing = _fonts_for("".join([*read, *written]))
    columns, rows = ([_label(text, missing) for text in texts] for texts in (read, written))
    with matplotlib.rc_context({"font.family": fonts}):
        longest = max(map(len, columns))
        figure = Figure(figsize=(3 + 0.36 * len(columns), 1.6 + 0.11 * longest + 0.3 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), columns, rotation=60, ha="left", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_xticks([i + 0.5 for i in range(len(columns) - 1)], minor=True)
        axes.set_yticks([i + 0.5 for i in range(len(rows) - 1)], minor=True)
        axes.grid(which="minor", color="0.9", linewidth=0.8)
        axes.tick_params(which="minor", length=0)
        axes.set_ylabel("written, from top to bottom")
        axes.set_xlabel("read")
        axes.xaxis.set_label_position("top")
        figure.colorbar(image, ax=axes, label="share of the attention", shrink=0.8)
        figure.savefig(path, dpi=150)
    return bool(missing)


def _fonts_for(text):
    """Return names of fonts that together have the characters of `text`, and the characters that no font has."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    default = font_manager.FontProperties()
    missing = set(text) - _characters(FT2Font(font_manager.findfont(default)))
    fonts = list(default.get_family())
    if missing:
        add_new_fonts()
    for entry in font_manager.fontManager.ttflist if missing else ():
        if "Last Resort" in entry.name:  # has a box for every character
            continue
        try:
            here = missing & _characters(FT2Font(entry.fname))
        except (OSError, RuntimeError):  # a font that cannot be read
            continue
        if here:
            fonts.append(entry.name)
            missing -= here
    return fonts, missing


def _characters(font):
    return set(map(chr, font.get_charmap()))


def _label(text, missing):
    """Return the label of a piece: without the space before it; a single space is an open box."""
    shown = text.strip() or "\N{OPEN BOX}"
    return "".join(f"[{_described(sign)}]" if sign in missing else sign for sign in shown)


def _described(sign):
    """Return the value of a numeral, or the code point.

    >>> _described("三"), _described("万"), _described("é")
    ('3', '10000', 'U+00E9')
    """
    value = unicodedata.numeric(sign, None)
    return f"U+{ord(sign):04X}" if value is None else f"{value:g}"
