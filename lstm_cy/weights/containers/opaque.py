"""Values of a pickle that are kept as data: the name of a class or function, and what would have been given to it."""

from __future__ import annotations

from typing import Any

from ...printable import printable

# Most characters of a value in a `repr`.
_LONGEST = 200


class Opaque:
    """An object in a pickle that is not made: nothing is imported, called or executed.

    Parameters
    ----------
    name : str
        The name of its class, or of the function that would have made it, such as "argparse.Namespace".
    arguments : tuple or None
        The arguments of that call; None if the value is the class or function itself.
    state : object
        What the object's attributes would have been, usually a dict; None if there is none.

    Examples
    --------
    >>> Opaque("pathlib.PosixPath", ("data", "a.wav"))
    Opaque('pathlib.PosixPath', ('data', 'a.wav'))
    """

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] | None = None, state: Any = None) -> None:
        self.name, self.arguments, self.state = name, arguments, state

    def __repr__(self) -> str:
        parts = [repr(self.name)]
        if self.arguments is not None:
            parts.append(_short(self.arguments))
        if self.state is not None:
            parts.append(f"state={_short(self.state)}")
        return printable(f"Opaque({', '.join(parts)})")


def _short(value: Any) -> str:
    """Return a `repr` of limited size and depth."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r:.40}: ...' for key in [*value][:8])}}}"
    if isinstance(value, tuple) and all(isinstance(part, (str, int, float, bytes, type(None))) for part in value):
        text = repr(value[:8])
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return f"<{type(value).__name__}>"
