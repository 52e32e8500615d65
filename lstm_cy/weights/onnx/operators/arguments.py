"""Checks and conversions of the inputs and attributes that several operators have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..proto import check_rank, naming

if TYPE_CHECKING:
    from ....typing import Array
    from ..node import Node


def check_dtypes(*arrays: Array) -> None:
    """Raise unless all arrays have the same dtype."""
    dtypes = {array.dtype for array in arrays}
    if len(dtypes) > 1:
        raise ValueError(f"expected inputs of one type, got {', '.join(sorted(map(str, dtypes)))}")


def widened(array: Array) -> Array:
    """Return float16 numbers as float32, in which they are computed; other arrays unchanged."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def lowest(dtype: np.dtype[Any]) -> Any:
    """Return the lowest value of a dtype."""
    return False if dtype.kind == "b" else -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def highest(dtype: np.dtype[Any]) -> Any:
    """Return the highest value of a dtype."""
    return True if dtype.kind == "b" else np.inf if dtype.kind == "f" else np.iinfo(dtype).max


def mean_of(x: Array, **options: Any) -> Any:
    """Return the mean; for an empty array NaN without NumPy's warning, or 0 for integers, which have no NaN."""
    if x.size == 0:
        return np.sum(x, **options) * (np.nan if x.dtype.kind == "f" else 0)
    return np.mean(x, **options)


def integers_of(name: str, array: Array) -> list[int]:
    """Return the values of a vector of integers as Python integers."""
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise ValueError(f"{name}: expected a vector of integers, got {array.dtype} of shape {array.shape}")
    result: list[int] = np.atleast_1d(array).tolist()
    return result


def sizes_of(name: str, array: Array) -> tuple[int, ...]:
    """Return the sizes in `array`; raise if one is negative."""
    sizes = integers_of(name, array)
    if min(sizes, default=0) < 0:
        raise ValueError(f"{name}: expected no negative size, got {sizes}")
    return tuple(sizes)


def shape_of(name: str, array: Array) -> tuple[int, ...]:
    """Return the sizes in `array`; raise if there are more than an array can have axes."""
    with naming(name):
        check_rank(np.atleast_1d(array))
    return sizes_of(name, array)


def axis_of(axis: int, rank: int) -> int:
    """Return an axis of `rank` as a number from 0; raise if there is no such axis."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis: expected {-rank} to {rank - 1}, got {axis}")
    return axis % rank


def axes_of(node: Node, axes: Array | None) -> Any:
    """Return the axes of Squeeze and Unsqueeze: an attribute before version 13, then an input."""
    found = node.get("axes") if node.opset < 13 else None if axes is None else integers_of("axes", axes)
    check_rank(found or ())
    return found
