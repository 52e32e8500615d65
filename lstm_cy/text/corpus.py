"""Texts for training: read from files, cut into columns, and the entropy of their tokens."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..checks import file_path, positive_int
from .tokens import token_array

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import AnyStr

    from ..typing import ArrayLike, FilePath, Ints

#: packages of the standard library that are read after its top-level modules
_PACKAGES = ("asyncio", "collections", "email", "http", "importlib", "json", "logging", "urllib")


def read_text(path: FilePath) -> str:
    """Return the text of a file in UTF-8.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    str

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is empty or not UTF-8; the message names the file and the first wrong byte.
    """
    try:
        text = Path(file_path("path", path)).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 text: {error.reason} at byte {error.start}; any file can be read as bytes"
        ) from None
    return _filled(path, text)


def read_bytes(path: FilePath) -> bytes:
    """Return the content of a file as bytes.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    bytes

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is empty.
    """
    return _filled(path, Path(file_path("path", path)).read_bytes())


def _filled(path: FilePath, content: AnyStr) -> AnyStr:
    if not content:
        raise ValueError(f"{path}: the file is empty")
    return content


def standard_library_text(limit: int | None = None) -> str:
    """Return the sources of Python's standard library, a text that every machine has.

    Parameters
    ----------
    limit : int, optional
        The largest number of characters.

    Returns
    -------
    str
        The public top-level modules in the order of their names, then those of a few packages without their
        tests; the same text each time on the same Python. Files that are not UTF-8 are skipped.

    Raises
    ------
    FileNotFoundError
        The sources of this Python's standard library are not installed.
    """
    limit = None if limit is None else positive_int("limit", limit)
    parts, length = [], 0
    for path in _standard_library_files():
        try:
            parts.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        length += len(parts[-1])
        if limit is not None and length >= limit:
            break
    if not length:
        raise FileNotFoundError(f"no sources of the standard library in {sysconfig.get_path('stdlib')}")
    return "".join(parts)[:limit]


def _standard_library_files() -> Iterator[Path]:
    folder = Path(sysconfig.get_path("stdlib"))
    # names that start with _ are left out: some of those files are generated when Python is built
    yield from sorted(folder.glob("[a-z]*.py"))
    for package in _PACKAGES:
        for path in sorted(folder.joinpath(package).rglob("*.py")):
            if not {"test", "tests"} & set(path.relative_to(folder).parts):
                yield path


def columns(tokens: ArrayLike, batch_size: int) -> tuple[Ints, Ints]:
    """Cut a continuous text into `batch_size` columns that are read in parallel.

    Column b + 1 continues where column b ends. Truncated back-propagation, which carries the state from one window
    of steps to the next, therefore carries it along the text.

    Parameters
    ----------
    tokens : array_like of int, shape (N,)
        The text.
    batch_size : int
        The number of columns B.

    Returns
    -------
    x, y : ndarray of intp, shape (T, B), T = (N - 1) // B
        The tokens, and for each the token that follows it. New arrays; up to B tokens at the end are not used.

    Raises
    ------
    ValueError
        The text is too short: T would be 0.

    Examples
    --------
    >>> x, y = columns([0, 1, 2, 3, 4, 5, 6], 2)
    >>> x.T
    array([[0, 1, 2],
           [3, 4, 5]])
    >>> y.T
    array([[1, 2, 3],
           [4, 5, 6]])
    """
    tokens, batch_size = token_array(tokens), positive_int("batch_size", batch_size)
    steps = (len(tokens) - 1) // batch_size
    if steps < 1:
        raise ValueError(f"tokens: {len(tokens)} are too few for {batch_size} columns")
    used = steps * batch_size
    x, y = (tokens[first : first + used].reshape(batch_size, steps).T.copy() for first in (0, 1))
    return x, y


def unigram_entropy(tokens: ArrayLike) -> float:
    """Return the entropy of one token drawn from `tokens`.

    This is the smallest possible loss on them for a model that ignores the context.

    Parameters
    ----------
    tokens : array_like of int (N,)
        At least one.

    Returns
    -------
    float
        In nats.

    Examples
    --------
    >>> round(unigram_entropy([0, 1, 0, 1]), 4)
    0.6931
    """
    tokens = token_array(tokens)
    if not len(tokens):
        raise ValueError("tokens: expected at least one")
    counts = np.unique(tokens, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())
