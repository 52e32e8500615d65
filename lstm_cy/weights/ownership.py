"""The arrays that own the memory of views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..typing import Array


def owned_bytes(arrays: Iterable[Array | None]) -> int:
    """Return the memory of arrays; memory that several arrays share counts once."""
    roots = {id(root): root.nbytes for root in map(owner, arrays) if root is not None}
    return sum(roots.values())


def owner(array: Any) -> Any:
    """Return the array that owns an array's memory: itself, unless it is a view."""
    while isinstance(getattr(array, "base", None), np.ndarray):
        array = array.base
    return array
