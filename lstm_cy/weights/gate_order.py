"""Gate orders: the library uses i, f, g, o; this module alone converts from and to other orders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import real_array, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..typing import Array

#: order of the gates' rows in every weight array of this library, with the names of `LSTM.from_gates`
ORDER = ("input", "forget", "candidate", "output")
KERAS = ("input", "forget", "candidate", "output")
ONNX = ("input", "output", "forget", "candidate")

#: order of the rows of a peephole in this library and in ONNX
PEEPHOLES = ("input", "forget", "output")
ONNX_PEEPHOLES = ("input", "output", "forget")


def stack(gates: Mapping[str, Array]) -> Array:
    """Concatenate the rows of each gate into one array.

    Parameters
    ----------
    gates : dict of str to ndarray
        {"input": array, "forget": array, "candidate": array, "output": array}.

    Returns
    -------
    ndarray

    Raises
    ------
    TypeError, ValueError
        `gates` is not a dict with these names, an array has no axes, or their shapes differ beyond axis 0.
    """
    if not isinstance(gates, Mapping):
        raise TypeError(f"gates: expected a dict, got {shown(gates)}")
    if set(gates) != set(ORDER):
        raise ValueError(f"gates: expected the names {', '.join(ORDER)}, got {shown(list(gates))}")
    blocks = [real_array(f"gates: {name}", gates[name]) for name in ORDER]
    for name, block in zip(ORDER, blocks, strict=True):
        if block.ndim == 0 or block.shape[1:] != blocks[0].shape[1:]:
            raise ValueError(
                f"gates: {name}: expected rows like those of {ORDER[0]}, {blocks[0].shape}, got {block.shape}"
            )
    return np.concatenate(blocks)


def reorder(rows: Array, source: Sequence[str], target: Sequence[str] = ORDER) -> Array:
    """Reorder equal blocks along axis 0.

    Parameters
    ----------
    rows : ndarray
    source, target : sequence of str
        The present order of the blocks and the new one.

    Returns
    -------
    ndarray

    Raises
    ------
    TypeError, ValueError
        `source` has a name twice, `target` has other names, or the number of rows is not a multiple of the blocks'.
    """
    rows, names = real_array("rows", rows), _names("source", source)
    target_names = _names("target", target)
    if len(set(names)) != len(names):
        raise ValueError(f"source: expected each name once, got {shown(names)}")
    if not set(target_names) <= set(names):
        raise ValueError(f"target: expected names of source, {shown(names)}, got {shown(target_names)}")
    if rows.ndim == 0 or len(rows) % len(names):
        raise ValueError(f"rows: expected a multiple of {len(names)} along axis 0, got shape {rows.shape}")
    blocks = dict(zip(names, np.split(rows, len(names)), strict=True))
    return np.concatenate([blocks[name] for name in target_names])


def _names(argument: str, names: Any) -> list[str]:
    if not isinstance(names, tuple | list) or not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{argument}: expected a sequence of names, got {shown(names)}")
    return list(names)
