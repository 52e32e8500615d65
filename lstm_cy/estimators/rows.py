"""Rows: the checked rows that a classifier or regressor learns, and their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import real_array
from .scale import LARGEST

if TYPE_CHECKING:
    from ..typing import Array, Ints


class Rows(NamedTuple):
    """Sequences x (n, T, features), their lengths or None, targets y (n, ...), weights (n,)."""

    x: Array
    lengths: Ints | None
    y: Array
    weight: Array

    def take(self, chosen: Array) -> Rows:
        """Return some of the rows."""
        lengths = None if self.lengths is None else self.lengths[chosen]
        return Rows(self.x[chosen], lengths, self.y[chosen], self.weight[chosen])

    def counted(self) -> Rows:
        """Return the rows of weight above 0."""
        return self if self.weight.all() else self.take(self.weight > 0)

    def times(self, factor: Array) -> Rows:
        """Return the rows with their weights multiplied by `factor`, those of weight 0 left out."""
        return self._replace(weight=self.weight * factor).counted()

    def merged(self) -> Rows:
        """Return each different row once, with the sum of its weights, in an order that depends on the rows alone.

        Training on all rows in one batch then gives the same bits for a row of weight 2 and for the row twice.
        """
        parts = [part for part in (self.x, self.lengths, self.y) if part is not None]
        keys = [b"".join(np.ascontiguousarray(part[row]).tobytes() for part in parts) for row in range(len(self.x))]
        number = {key: index for index, key in enumerate(sorted(set(keys)))}
        numbers = np.array([number[key] for key in keys])
        first = np.unique(numbers, return_index=True)[1]
        return self.take(first)._replace(weight=np.bincount(numbers, self.weight))

    @property
    def equal(self) -> bool:
        """Whether all rows have the same weight."""
        return not len(self.weight) or bool((self.weight == self.weight[0]).all())


def checked_weight(sample_weight: Any, rows: int) -> Array:
    """Return the weight of each row, in float64; None: 1."""
    if sample_weight is None:
        return np.ones(rows)
    weight = real_array("sample_weight", sample_weight).astype(np.float64)
    if weight.shape != (rows,):
        raise ValueError(f"sample_weight: expected shape ({rows},), a number for each row of X, got {weight.shape}")
    wrong = ~((weight >= 0) & (weight < np.inf))
    if wrong.any():
        raise ValueError(f"sample_weight: expected finite numbers of at least 0, got {weight[wrong][0]}")
    if not weight.any():
        raise ValueError("sample_weight: expected a weight above zero, got none")
    return weight / weight.max() if weight.max() > LARGEST / rows else weight  # their sum is finite
