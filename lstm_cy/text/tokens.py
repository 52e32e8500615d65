"""What all vocabularies share, and checks of tokens and texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import int_array, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..typing import ArrayLike, Ints


class Tokens:
    """Base class of the vocabularies."""

    unknown: Any = 0

    if TYPE_CHECKING:  # defined by each of them

        def __len__(self) -> int: ...
        def split(self, text: Any) -> Any: ...
        def encode(self, text: Any) -> Ints: ...
        def decode(self, tokens: ArrayLike) -> str: ...

    def missing(self, text: Any) -> list[str]:
        """Return the characters or words of a text that are not in the vocabulary.

        Parameters
        ----------
        text : str

        Returns
        -------
        list of str
            Each once, in the order of the text.
        """
        symbols = self.split(text)
        return list(dict.fromkeys(symbols[i] for i in np.flatnonzero(self.encode(text) == self.unknown)))

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """Decode tokens one by one.

        Parameters
        ----------
        tokens : iterable of int

        Yields
        ------
        str
            Each piece as soon as it is complete.
        """
        for token in iterable("tokens", tokens):
            yield self.decode([token])

    def _checked(self, tokens: ArrayLike) -> Ints:
        tokens = token_array(tokens)
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(self):
            raise ValueError(f"tokens: expected 0 to {len(self) - 1}, got {tokens.min()} to {tokens.max()}")
        return tokens


def token_array(tokens: ArrayLike) -> Ints:
    """Return tokens as an array of integers with one axis."""
    tokens = int_array("tokens", tokens)
    if tokens.ndim != 1:
        raise ValueError(f"tokens: expected shape (N,), got {tokens.shape}")
    return tokens


def iterable(name: str, value: Any) -> Any:
    """Return an iterator of `value`; a TypeError names the argument."""
    try:
        return iter(value)
    except TypeError:
        raise TypeError(f"{name}: expected an iterable, got {shown(value)} ({type(value).__name__})") from None


def check_str(name: str, value: object) -> None:
    """Raise a TypeError that names the argument if it is not a str."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a str, got {type(value).__name__}")
