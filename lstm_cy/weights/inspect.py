"""Description of a file, as `lstm-cy inspect` prints it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..printable import printable
from . import formats
from .faults import counted

if TYPE_CHECKING:
    from ..typing import FilePath


def describe(path: FilePath) -> list[str]:
    """Describe a file in lines: layers and their options, tensors, the order of the gates, unsupported parts.

    Parameters
    ----------
    path : str or os.PathLike
        Any file that `load` reads.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError, ImportError, OSError
        As `load`, except that several LSTMs, other contents, and layers and tensors that are not supported are no
        errors: the lines mention them.

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
    first, *lines = formats.of(path).describe(path)
    size = counted(os.path.getsize(path), "byte")
    return [printable(line) for line in (f"{os.fspath(path)}: {size}, {first}", *lines)]
