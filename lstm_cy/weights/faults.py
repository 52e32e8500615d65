"""Reports of faults in a file: errors that begin with its name, and names from it that are safe to print."""

from __future__ import annotations

import contextlib
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from ..checks import warn
from ..layers.narrow import widened
from ..printable import printable
from .budget import LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..typing import Array, Parameters

#: most names in a message, and most characters of it
LISTED, LONGEST = 50, 10_000


class ForeignFile(ValueError):
    """A file that shows no damage so far, but is not of the kind that the caller reads."""


@contextlib.contextmanager
def naming(name: object) -> Iterator[None]:
    """Turn errors that a damaged file causes in the block into a ValueError that begins with `name`."""
    try:
        yield
    except (LimitExceeded, ForeignFile):  # the first names the file itself, the second is for the caller
        raise
    except RecursionError:
        raise ValueError(f"{printable(name)}: nested too deep to be read here") from None
    except (zipfile.BadZipFile, EOFError, OverflowError, ValueError) as error:
        raise ValueError(f"{printable(name)}: {shortened(error)}") from None


def check_finite(path: object, arrays: Parameters, strict: bool) -> None:
    """Warn of NaN and infinity in `arrays`, {name: array}; raise ValueError if `strict`. The message names `path`."""
    names = [name for name, array in arrays.items() if not np.isfinite(_numbers(array)).all()]
    if not names:
        return
    message = f"{printable(path)}: NaN or infinity in {listed(names)}"
    if strict:
        raise ValueError(message)
    warn(message)


def _numbers(array: Array) -> Array:
    """Return an array's values; uint16 is bf16."""
    return widened(array) if array.dtype == np.uint16 else array


def listed(names: Iterable[object], most: int = LISTED, separator: str = ", ") -> str:
    """Return names from a file for a message: safe to print, and not too many."""
    names = [*names]
    texts = [shortened(name, 200) for name in names[:most]]
    return separator.join([*texts, f"and {len(names) - most} more"] if len(names) > most else texts)


def shortened(text: object, most: int = LONGEST) -> str:
    """Return text from a file for a message: safe to print, and not too long."""
    text = str(text)
    more = f"... ({len(text) - most} more characters)" if len(text) > most else ""
    return printable(text[:most]) + more


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 byte" or "2 bytes"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
