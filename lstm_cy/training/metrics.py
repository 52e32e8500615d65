"""Metrics: numbers besides the loss that `fit` records in each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import expect_shape, int_array, shown
from .criterion import Criterion
from .losses import IGNORE_INDEX, NothingToCount, checked_prediction, element_weights, of_elements, within_lengths

if TYPE_CHECKING:
    from ..typing import ArrayLike
    from .batches import Batch
    from .team import Team


@of_elements
def accuracy(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
    ignore_index: int = IGNORE_INDEX,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Return the share of the counted elements whose class has the highest score.

    Parameters
    ----------
    prediction, target, lengths, batch_first, ignore_index, sample_weight :
        As for `cross_entropy`.

    Returns
    -------
    float
        Of equal scores the first counts.

    Raises
    ------
    TypeError, ValueError, NothingToCount
        As from `cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import accuracy
    >>> accuracy(np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), [1, 1, -100])
    0.5
    """
    prediction, target = checked_prediction(prediction), int_array("target", target)
    if prediction.ndim == 0 or not prediction.shape[-1]:
        raise ValueError(f"prediction: expected classes on the last axis, (..., C), got shape {prediction.shape}")
    expect_shape("target", target, prediction.shape[:-1], "the prediction's without its last axis")
    weights = element_weights(sample_weight, target.shape, "the target's")
    weights = (target != ignore_index) * (1.0 if weights is None else weights)
    within = within_lengths(prediction.shape, lengths, batch_first)
    if within is not None:
        weights = weights * within
    total = float(weights.sum())
    if not total:
        raise NothingToCount("nothing to count: every element is ignored, past its row's length or of weight 0")
    return float(((prediction.argmax(axis=-1) == target) * weights).sum()) / total


class Metrics:
    """The metrics of a training, and their means over an epoch."""

    def __init__(self, metrics: Any, batch_first: bool, team: Team) -> None:
        self.team = team
        self._criteria = {name: Criterion(one, batch_first, team, name) for name, one in _named(metrics).items()}
        self.start()

    @property
    def names(self) -> list[str]:
        return list(self._criteria)

    def start(self) -> None:
        """Begin an epoch."""
        self._sums = {name: [0.0, 0.0] for name in self._criteria}

    def add(self, prediction: Any, window: Batch) -> None:
        """Measure a window."""
        for name, criterion in self._criteria.items():
            value, count = self.team.mean(*criterion.score(prediction, window))[:2]
            sums = self._sums[name]
            sums[0] += value * count
            sums[1] += count

    def means(self) -> dict[str, float]:
        """Return the weighted means of the epoch, NaN where nothing counted."""
        return {name: total / weight if weight else np.nan for name, (total, weight) in self._sums.items()}


def _named(metrics: Any) -> dict[str, Any]:
    """Return {name: metric} of a dict or a sequence of functions, which have names of their own."""
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        if not isinstance(metrics, tuple | list) or not all(map(callable, metrics)):
            raise TypeError(f"metrics: expected a dict of functions or a sequence of them, got {shown(metrics)}")
        nameless = [metric for metric in metrics if not isinstance(getattr(metric, "__name__", None), str)]
        if nameless:
            raise ValueError(f"metrics: expected a dict with a name for {shown(nameless[0])}")
        metrics = {metric.__name__: metric for metric in metrics}
    for name, metric in metrics.items():
        if not isinstance(name, str) or not name or not callable(metric):
            raise TypeError(f"metrics: expected names and functions, got {shown(name)}: {shown(metric)}")
    return dict(metrics)
