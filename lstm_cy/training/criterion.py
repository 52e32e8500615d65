"""Criterion: the loss as `fit` calls it: its keywords, its weight in a mean, and checks of its result."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import expect_shape, float_array, int_array, real_array, shown
from .losses import IGNORE_INDEX, OF_ELEMENTS, NothingToCount, cross_entropy, ctc, expanded, sum_of, within_lengths

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..typing import Array, Loss
    from .batches import Batch
    from .team import Team


class Criterion:
    """The loss of a training, or a metric, which is called as a loss is."""

    def __init__(self, loss: Loss, batch_first: bool, team: Team, name: str = "loss") -> None:
        if not callable(loss):
            raise TypeError(f"{name}: expected a callable, got {shown(loss)}")
        self.loss, self.team, self.name = loss, team, name
        self.function, self.options = _unwrapped(loss)
        self.keywords = {"batch_first": True} if batch_first and takes(loss, "batch_first") else {}
        self.takes_lengths = takes(loss, "lengths")
        self.takes_weights = takes(loss, "sample_weight")
        #: whether it is a metric that leaves out targets as `cross_entropy` does
        self.ignores = name != "loss" and names(self.function, "ignore_index")

    @property
    def compares_elements(self) -> bool:
        """Whether it is known to have a target for each element of the prediction."""
        return any(self.function is one for one in OF_ELEMENTS)

    @property
    def needs_target_per_row(self) -> bool:
        """Whether it is known to have a target per row, also where the model's output has a time axis."""
        return self.function is ctc

    def measure(self, prediction: Any, window: Batch) -> tuple[float, Any, float]:
        """Return (loss, its gradient, its weight); (0, None, 0) if there is nothing to count."""
        keywords, count = self._keywords(window), self.weight_of(window)
        if count:
            try:
                return *_checked_result(self.loss(prediction, window.y, **keywords), prediction), count
            except NothingToCount:
                pass
        return 0.0, None, 0.0

    def score(self, prediction: Any, window: Batch) -> tuple[float, float]:
        """Return (value, its weight) of a metric; (0, 0) if there is nothing to count."""
        keywords, count = self._keywords(window), self.weight_of(window)
        for keyword, taken in (("lengths", self.takes_lengths), ("sample_weight", self.takes_weights)):
            if keyword in keywords and not taken:
                raise TypeError(f"metrics: {self.name}: expected one that takes {keyword}=, got {shown(self.loss)}")
        if not count:
            return 0.0, 0.0
        try:
            value: Any = self.loss(prediction, window.y, **keywords)
        except NothingToCount:
            return 0.0, 0.0
        value = value[0] if isinstance(value, tuple) else value
        try:
            return float(value), count
        except (TypeError, ValueError):
            raise TypeError(f"metrics: {self.name}: expected a number, got {shown(value)}") from None

    def _keywords(self, window: Batch) -> dict[str, Any]:
        """Return the keyword arguments of the loss."""
        # If the output has no time axis, our own losses would treat its rows as steps.
        ended = not window.has_steps and (self.compares_elements or not self.takes_lengths)
        weights = {} if window.weights is None else {"sample_weight": window.weights}
        if window.lengths is None or ended:
            return self.keywords | weights if weights else self.keywords
        return self.keywords | {"lengths": window.lengths} | weights

    def weight_of(self, window: Batch) -> float:
        """Return the weight of a window's loss: `window.weight` if nothing else is known."""
        if not window.weight:
            return 0.0
        keywords = self._keywords(window)
        count = self.team.count(window.y, keywords)
        if count is not None:
            return count
        by_class = self.function is cross_entropy or self.ignores
        if not by_class and window.weights is None:
            return window.weight
        order = keywords.get("batch_first", False)
        lengths = keywords.get("lengths") if window.per_step else None
        within = within_lengths((*window.y.shape[:2], 1), lengths, order) if lengths is not None else None
        if not by_class and window.weights is not None:
            return sum_of(window.weights if within is None else window.weights[within])
        if within is not None:
            within = np.broadcast_to(expanded(within, window.y.ndim), window.y.shape)
        options = self.options.get("ignore_index", IGNORE_INDEX), self.options.get("weight")
        return _counted(window.y, within, *options, window.weights)


def _unwrapped(loss: Any) -> tuple[Any, dict[str, Any]]:
    """Return the function inside all ``functools.partial``, and the keywords that they pass to it."""
    keywords: dict[str, Any] = {}
    while isinstance(loss, functools.partial):
        loss, keywords = loss.func, {**loss.keywords, **keywords}
    return loss, keywords


def _counted(target: Array, within: Any, ignore_index: Any, weight: Any, sample_weight: Array | None) -> float:
    """Return the weight of a target in `cross_entropy`; `within` selects its elements, None for all."""
    counted = int_array("target", target) != int_array("ignore_index", ignore_index)
    if within is not None:
        counted &= within
    own = (
        None if sample_weight is None else np.broadcast_to(expanded(sample_weight, target.ndim), target.shape)[counted]
    )
    if weight is None:
        return int(counted.sum()) if own is None else sum_of(own)
    weight = np.abs(float_array("weight", weight, np.float64))  # the loss itself refuses negative weights,
    # targets out of range and an empty weight
    if not weight.size:
        return len(target)
    shares = np.take(weight, target[counted], mode="clip")
    return sum_of(shares if own is None else shares * own)


def _checked_result(result: Any, prediction: Any) -> tuple[float, Any]:
    """Return the checked result of a loss, (value, gradient)."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"loss: expected it to return (value, gradient), got {type(result).__name__}")
    value, gradient = result
    try:
        if isinstance(value, str | bytes) or np.ndim(value):
            raise TypeError
        value = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"loss: expected a number as the value it returns, got {shown(value)}") from None
    if isinstance(prediction, tuple):  # from a Readout that does not merge directions
        if not isinstance(gradient, tuple | list) or len(gradient) != len(prediction):
            raise TypeError(f"loss: expected {len(prediction)} arrays as its gradient, got {shown(gradient)}")
        return value, tuple(map(_checked_gradient, gradient, prediction))
    return value, _checked_gradient(gradient, prediction)


def _checked_gradient(gradient: Any, prediction: Array) -> Array:
    array = real_array("loss: the gradient it returns", gradient)
    expect_shape("loss: the gradient it returns", array, np.shape(prediction), "the prediction's")
    return array


def names(function: Callable[..., Any], keyword: str) -> bool:
    """Return whether `function` has an argument `keyword` of this name."""
    try:
        return keyword in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def takes(function: Callable[..., Any], keyword: str) -> bool:
    """Return whether `function` has an argument `keyword`, or takes any keyword."""
    try:
        arguments = inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled code may have no signature
        return True
    return keyword in arguments or any(a.kind is a.VAR_KEYWORD for a in arguments.values())
