"""Makes text from files and users safe to print: it cannot move a terminal's cursor or reorder a line."""

from __future__ import annotations

import re

# C0, delete and C1; direction marks of text; separators of lines and paragraphs; lone surrogates.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object, keep: str = "") -> str:
    r"""Return `text` with control characters as escape sequences.

    Parameters
    ----------
    text : object
        `str` is applied to it.
    keep : str
        Control characters that are not escaped, such as ``"\n"`` in a text of several lines.

    Returns
    -------
    str

    Examples
    --------
    >>> print(printable("red \x1b[31m"))
    red \x1b[31m
    """

    def escaped(match: re.Match[str]) -> str:
        character = match.group()
        return character if character in keep else ascii(character)[1:-1]

    return _CONTROLS.sub(escaped, str(text))
