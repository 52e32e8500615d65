"""The order of the gates: i, f, g, o everywhere inside; every other order is converted here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..typing import Array

#: the gates' rows in every weight array of this library, by the names of `LSTM.from_gates`
ORDER = ("input", "forget", "candidate", "output")
KERAS = ("input", "forget", "candidate", "output")
ONNX = ("input", "output", "forget", "candidate")

#: the rows of a peephole here, and in ONNX
PEEPHOLES = ("input", "forget", "output")
ONNX_PEEPHOLES = ("input", "output", "forget")


def stack(gates: Mapping[str, Array]) -> Array:
    """One array of gate rows from those of each gate.

    Parameters
    ----------
    gates : dict of str to ndarray
        {"input": array, "forget": array, "candidate": array, "output": array}.

    Returns
    -------
    ndarray
    """
    return np.concatenate([gates[name] for name in ORDER])


def reorder(rows: Array, source: Sequence[str], target: Sequence[str] = ORDER) -> Array:
    """Equal blocks along axis 0, brought from one order into another.

    Parameters
    ----------
    rows : ndarray
    source, target : sequence of str
        The order that they are in, and the one that is wanted.

    Returns
    -------
    ndarray
    """
    blocks = dict(zip(source, np.split(rows, len(source)), strict=True))
    return np.concatenate([blocks[name] for name in target])
