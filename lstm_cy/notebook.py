"""What objects show in a notebook: tables as HTML, and Matplotlib figures as PNG pictures."""

from __future__ import annotations

import html
import io
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure


def html_table(title: str, rows: Iterable[tuple[object, ...]], header: tuple[str, ...] = ()) -> str:
    """An HTML table with a title above it, for ``_repr_html_``; every text is escaped.

    Parameters
    ----------
    title : str
    rows : iterable of tuple
        The cells of each line; the first is set as the line's name.
    header : tuple of str
        Names of the columns; none for a table of names and values.

    Returns
    -------
    str

    Examples
    --------
    >>> html_table("LSTM(3, 5)", [("parameters", 200)])
    '<table><caption>LSTM(3, 5)</caption><tr><th>parameters</th><td>200</td></tr></table>'
    """
    lines = [f"<table><caption>{html.escape(title)}</caption>"]
    if header:
        lines.append("<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in header) + "</tr>")
    for name, *cells in rows:
        values = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
        lines.append(f"<tr><th>{html.escape(str(name))}</th>{values}</tr>")
    return "".join([*lines, "</table>"])


def show_as_picture(figure: Figure) -> Figure:
    """Make `figure` show itself as a picture where a notebook displays it; it is `figure` that comes back.

    Only figures made through pyplot do so by themselves, and pyplot keeps those alive.
    """
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()
