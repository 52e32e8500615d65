"""Backtest: forecasts of a series from several origins, next to its true values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..typing import Array


@dataclass(frozen=True, repr=False)
class Backtest:
    """What `LSTMForecaster.backtest` returns of a series: a row for each origin, a column for each step ahead.

    Parameters
    ----------
    origins : list
        The last time (or position) that each row's forecast could use.
    truth, forecast, lower, upper : ndarray (origins, horizon)
        True values, NaN in gaps; forecasts, and the bounds of their intervals.
    naive : ndarray (origins, horizon)
        The last value before each forecast, repeated.
    """

    origins: list[Any]
    truth: Array
    forecast: Array
    lower: Array
    upper: Array
    naive: Array

    @property
    def mean_absolute_error(self) -> float:
        """The mean of ``abs(truth - forecast)``, in the unit of the series."""
        return _mean_error(self.truth, self.forecast)

    @property
    def naive_error(self) -> float:
        """The mean of ``abs(truth - naive)``."""
        return _mean_error(self.truth, self.naive)

    @property
    def coverage(self) -> float:
        """The share of the true values that are between their bounds."""
        known = ~np.isnan(self.truth)
        inside = (self.lower <= self.truth) & (self.truth <= self.upper)
        return float(inside[known].mean())

    def __repr__(self) -> str:
        return (
            f"Backtest(origins={len(self.origins)}, horizon={self.truth.shape[1]}, "
            f"mean_absolute_error={self.mean_absolute_error:.4g}, naive_error={self.naive_error:.4g}, "
            f"coverage={self.coverage:.3f})"
        )


def _mean_error(truth: Array, forecast: Array) -> float:
    return float(np.nanmean(np.abs(truth - forecast)))
