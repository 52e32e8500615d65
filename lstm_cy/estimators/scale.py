"""Scale: features with mean 0 and standard deviation 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..typing import Array, Ints

#: sums and differences of numbers up to this are finite
LARGEST = 1e300


class Scale:
    """Scales each feature to mean 0 and standard deviation 1 over all (valid) steps; a constant feature becomes 0.

    `weight` has one number for each row of x. NaN does not count.
    """

    def __init__(self, x: Array, lengths: Ints | None = None, weight: Array | None = None) -> None:
        valid = x.reshape(-1, x.shape[-1])
        shares = None if weight is None else np.broadcast_to(weight.reshape(-1, *[1] * (x.ndim - 2)), x.shape[:-1])
        if lengths is not None:
            within = np.arange(x.shape[1]) < lengths[:, None]
            valid, shares = x[within], None if shares is None else shares[within]
        # In units of the largest value, because squares of very large and very small numbers are beyond float64.
        counted = ~np.isnan(valid)
        unit = np.where(counted, np.abs(valid), 0.0).max(axis=0)
        unit = np.where(unit > 0, unit, 1.0)
        mean, deviation = _moments(valid / unit, counted, None if shares is None else shares.reshape(-1))
        self.mean = mean * unit
        self.deviation = np.where(deviation * unit > 0, deviation * unit, 1.0)

    def __call__(self, x: Array, name: str) -> Array:
        """Return x scaled, as float32; `name` is the name of the argument in errors."""
        with np.errstate(over="ignore"):
            result: Array = ((x - self.mean) / self.deviation).astype(np.float32)
        if np.isinf(result).any():
            raise ValueError(
                f"{name}: expected numbers of a size as in fit, got some that are {np.finfo(np.float32).max:.0e} "
                "deviations away"
            )
        return result

    def back(self, scaled: Array) -> Array:
        """Return scaled numbers in the unit of x, as float64."""
        result: Array = scaled * self.deviation + self.mean
        return result


def _moments(x: Array, counted: Array, weight: Array | None) -> tuple[Array, Array]:
    """Return mean and standard deviation of each column, summed in float64."""
    if weight is None and counted.all():
        return x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    shares = counted * (1.0 if weight is None else (weight / weight.sum())[:, None])
    shares = shares / np.maximum(shares.sum(axis=0), np.finfo(np.float64).tiny)
    x = np.where(counted, x, 0.0).astype(np.float64)
    mean = (shares * x).sum(axis=0)
    return mean, np.sqrt((shares * (x - mean) ** 2).sum(axis=0))


def check_size(name: str, array: Array) -> None:
    """Raise if a number is so large that sums and differences may overflow."""
    if array.size and np.nanmax(np.abs(array), initial=0.0) > LARGEST:
        raise ValueError(f"{name}: expected numbers up to {LARGEST} from zero, got {np.nanmax(np.abs(array))}")
