"""Windows: pieces of series with the values that follow, as inputs and targets of the forecaster's network."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..training.elementwise import quantile
from ..training.losses import mse
from .scale import Scale
from .series import forward_filled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..typing import Array, Bools, Loss
    from .series import Series


class Windows(NamedTuple):
    """n windows of W steps, each with the H steps that follow."""

    past: Array  # (n, W) the values, gaps filled
    observed: Bools  # (n, W) False in gaps
    future: Array  # (n, H) NaN in gaps
    x: Array  # (n, W + H, k) covariates
    unit: Array  # (n, 1) of the series

    @classmethod
    def of(cls, series: Series, window: int, horizon: int, unit: float) -> Windows:
        """Return all windows of a series, which share its memory."""
        pieces = sliding_window_view(series.filled, window + horizon)
        observed = sliding_window_view(~np.isnan(series.y), window + horizon)
        future = sliding_window_view(series.y, window + horizon)[:, window:]
        x = np.moveaxis(sliding_window_view(forward_filled(series.x), window + horizon, axis=0), -1, 1)
        x = x[: len(pieces)]
        return cls(pieces[:, :window], observed[:, :window], future, x, np.full((len(pieces), 1), unit))

    @classmethod
    def joined(cls, parts: Sequence[Windows]) -> Windows:
        """Return the windows of several series that have a value to read and one to forecast."""
        whole = parts[0] if len(parts) == 1 else cls(*map(np.concatenate, zip(*parts, strict=True)))
        usable = whole.observed.any(axis=1) & ~np.isnan(whole.future).all(axis=1)
        return whole if usable.all() else cls(*(part[usable] for part in whole))

    def cut(self, rows: slice) -> Windows:
        """Return some of the windows."""
        return Windows(*(part[rows] for part in self))

    @property
    def last(self) -> Array:
        """The last value that each window reads, (n, 1)."""
        return self.past[:, -1:]


class Encoder:
    """Makes inputs and targets of the network from windows, scaled as those of the windows that it was made from.

    `gaps`: an input says which values are observed. `ahead`: which covariates are known for the steps to forecast; if
    there is one, the network reads these steps too.
    """

    def __init__(self, windows: Windows, gaps: bool, ahead: Bools) -> None:
        self.gaps, self.ahead = gaps, ahead
        self.past = Scale(self._differences(windows)[:, :, None])
        self.future = Scale((windows.future - windows.last) / windows.unit)
        self.covariates = Scale(windows.x) if len(ahead) else None

    @property
    def reads_ahead(self) -> bool:
        """Whether the network has an output for each step."""
        return bool(self.ahead.any())

    @property
    def inputs_per_step(self) -> int:
        return 1 + self.gaps + self.reads_ahead + len(self.ahead)

    @staticmethod
    def _differences(windows: Windows) -> Array:
        result: Array = (windows.past - windows.last) / windows.unit
        return result

    def inputs(self, windows: Windows, horizon: int) -> Array:
        """Return the network's inputs, (n, W, inputs) float32, or (n, W + horizon, inputs) where it reads ahead."""
        n, steps = windows.past.shape
        total = steps + horizon * self.reads_ahead
        result = np.zeros((n, total, self.inputs_per_step), np.float32)
        result[:, :steps, :1] = self.past(self._differences(windows)[:, :, None], "y")
        if self.gaps:
            result[:, :steps, 1] = windows.observed
        if self.reads_ahead:
            result[:, steps:, 1 + self.gaps] = 1
        if self.covariates is not None:
            known = result[:, :, -len(self.ahead) :]
            known[:] = np.nan_to_num(self.covariates(windows.x[:, :total], "X"))
            known[:, steps:, ~self.ahead] = 0
        return result

    def targets(self, windows: Windows) -> Array:
        """Return the network's targets, (n, H) float32, NaN in gaps."""
        return self.future((windows.future - windows.last) / windows.unit, "y")

    def forecasts(self, outputs: Array, windows: Windows, horizon: int, levels: int) -> Array:
        """Return forecasts (n, horizon, levels) from the network's outputs."""
        n = len(outputs)
        scaled = outputs[:, -horizon:] if self.reads_ahead else outputs.reshape(n, -1, levels)[:, :horizon]
        mean, deviation = self.future.mean[:horizon, None], self.future.deviation[:horizon, None]
        result: Array = (scaled * deviation + mean) * windows.unit[:, None] + windows.last[:, None]
        return result


def masked_loss(prediction: Array, target: Array, *, quantiles: Sequence[float] | None) -> tuple[float, Array]:
    """Return the mean squared error, or the mean pinball loss of `quantiles`, over the targets that are not NaN.

    The prediction is (n, H * levels), or (n, T, levels) with the H steps at its end; the target is (n, H).
    """
    n, steps = target.shape
    gradient = np.zeros_like(prediction)
    ahead, slots = (
        part[:, -steps:] if prediction.ndim == 3 else part.reshape(n, steps, -1) for part in (prediction, gradient)
    )
    counted = ~np.isnan(target[..., None])
    loss: Loss = mse if quantiles is None else functools.partial(quantile, quantiles=quantiles)
    value, slots[:] = loss(ahead, target[..., None], sample_weight=counted.astype(np.float64))
    return value, gradient


def least_windows(horizon: int, shares: Sequence[float]) -> int:
    """Return the smallest number of windows that leaves one for training after each share is held out."""
    low, high = 0, 1
    while splits(high, horizon, shares)[-1] < 1:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if splits(middle, horizon, shares)[-1] > 0 else (middle, high)
    return high


def splits(windows: int, horizon: int, shares: Sequence[float]) -> list[int]:
    """Return where the training windows end before each held-out share; windows that overlap both are left out."""
    ends = []
    for share in shares:
        windows -= max(1, round(share * windows)) + horizon - 1
        ends.append(windows)
    return ends
