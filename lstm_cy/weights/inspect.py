"""Description of a file, as `lstm-cy inspect` prints it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..printable import printable
from . import formats
from .faults import counted
from .inputs import Input, size_of
from .marks import NotRead

if TYPE_CHECKING:
    from ..typing import FileSource


def describe(path: FileSource, *, format: str | None = None) -> list[str]:
    """Describe a file in lines: layers and their options, tensors, the order of the gates, unsupported parts.

    Parameters
    ----------
    path : str, os.PathLike, bytes or binary file
        Any file that `load` reads.
    format : str, optional
        As for `load`.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError, ImportError, OSError
        As `load`, except that several LSTMs, other contents, and layers and tensors that are not supported are no
        errors: the lines mention them; nor is a file of a format that is recognised and not read.

    Examples
    --------
    >>> import os, tempfile
    >>> from lstm_cy import LSTM, save
    >>> path = os.path.join(tempfile.mkdtemp(), "a.npz")
    >>> save(LSTM(3, 5, bias=False, bidirectional=True), path)
    >>> print(*describe(path)[1:], sep="\\n")
    layers
      LSTM(input_size=3, hidden_size=5, bias=False, bidirectional=True)
    gates in the file: i, f, g, o
    tensors: 4, 320 numbers, 1280 bytes
      weight_ih_l0          float32 (20, 3)
      weight_hh_l0          float32 (20, 5)
      weight_ih_l0_reverse  float32 (20, 3)
      weight_hh_l0_reverse  float32 (20, 5)
    metadata: none
    """
    source = Input(path)
    try:
        first, *lines = formats.of(source, format).describe(source)
    except NotRead as error:
        first, lines = error.kind, []
    return [printable(line) for line in (f"{source}: {_size(source)}{first}", *lines)]


def _size(source: Input) -> str:
    """Return the size of a file, with a comma; nothing for a folder."""
    if source.path is not None and os.path.isdir(source.path):
        return ""
    with source.open() as file:
        return f"{counted(size_of(file), 'byte')}, "
