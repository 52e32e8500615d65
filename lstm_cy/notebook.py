"""Display in notebooks: tables as HTML, and Matplotlib figures as PNG pictures."""

from __future__ import annotations

import html
import io
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure


def html_table(title: str, rows: Iterable[tuple[object, ...]], header: tuple[str, ...] = ()) -> str:
    """Return an HTML table with a title, for ``_repr_html_``; every text is escaped.

    Parameters
    ----------
    title : str
    rows : iterable of tuple
        The cells of each line; the first is the line's name.
    header : tuple of str
        Names of the columns; empty for a table of names and values.

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
    """Make notebooks display `figure` as a picture; return `figure`.

    Without this only figures made by pyplot are displayed, and pyplot keeps those alive.
    """
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()
