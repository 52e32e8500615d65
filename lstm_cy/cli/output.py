"""Lines that the commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..printable import printable

if TYPE_CHECKING:
    from ..typing import Ints


def say(*words: object) -> None:
    """Print a line or lines; names and texts from files have no effect on the terminal."""
    print(*(printable(word, keep="\n\t") for word in words), flush=True)


def say_unknown(vocabulary: Any, tokens: Ints, text: str | bytes) -> None:
    """Print how many tokens of a text are unknown, if any are."""
    missing = vocabulary.missing(text)
    if missing:
        count = np.count_nonzero(tokens == vocabulary.unknown)
        say(
            f"{count} of {len(tokens)} {vocabulary.unit}s ({count / len(tokens):.2%}) are not in the vocabulary "
            f"and count as unknown, such as {', '.join(map(ascii, missing[:5]))}"
        )
