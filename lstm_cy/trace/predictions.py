"""What the model predicts at each step of a trace: `GateTrace.predictions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import expect_shape, int_array, positive_int
from ..layers.activations import exp, softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..layers.base import Layer, Steps
    from ..typing import Array, ArrayLike, Bools, Ints

#: a target that does not count, as in the losses
NO_TARGET = -100


class Predictions(NamedTuple):
    """The probability of each output at each step of one row.

    Attributes
    ----------
    probability : ndarray (T, K)
    labels : list of str (K)
        The names of the outputs.
    target : ndarray of int (T,)
        The right output at each step; -100 where there is none.
    """

    probability: Array
    labels: list[str]
    target: Ints

    @property
    def best(self) -> Ints:
        """The most probable output of each step."""
        best: Ints = self.probability.argmax(axis=-1)
        return best

    @property
    def right(self) -> Bools:
        """Whether the most probable output is the target; False where there is none."""
        result: Bools = self.best == self.target
        return result

    @property
    def share_right(self) -> float:
        """The share of the steps with a target at which the prediction is right; NaN without any."""
        counted = self.target != NO_TARGET
        return float(self.right[counted].mean()) if counted.any() else float("nan")

    def as_dict(self, top: int = 5) -> dict[str, Any]:
        """Return the most probable outputs of each step in types that JSON can hold.

        Parameters
        ----------
        top : int
            How many outputs of each step.

        Returns
        -------
        dict
            "labels"; for each step "best" [[output, probability], ...], "target" (None where there is none) and
            "right" (None likewise).
        """
        top = positive_int("top", top)
        order = np.argsort(-self.probability, axis=-1, kind="stable")[:, :top]
        found = np.take_along_axis(self.probability, order, axis=-1)
        counted = self.target != NO_TARGET
        return {
            "labels": self.labels,
            "best": [
                [[int(k), float(p)] for k, p in zip(*pair, strict=True)] for pair in zip(order, found, strict=True)
            ],
            "target": [int(k) if has else None for k, has in zip(self.target, counted, strict=True)],
            "right": [bool(is_right) if has else None for is_right, has in zip(self.right, counted, strict=True)],
        }


def predictions_of(
    model: Layer,
    x: Array,
    states: list[Any],
    steps: Steps,
    row: int,
    T: int,
    labels: Sequence[object] | None,
    target: ArrayLike | None,
) -> Predictions:
    """Implement `GateTrace.predictions` for a call of a model."""
    last = model.layers[-1]
    if last.num_states and not last.parts:
        raise ValueError("predictions: expected a model whose last layer predicts, got an LSTM")
    y, _ = model(x, states, **steps._asdict())
    if isinstance(y, tuple) or not model.gives_steps or y.shape[-1] < 2:
        raise ValueError("predictions: expected a model with at least two outputs at each step")
    y = y if y.ndim == 2 else y[row] if model.batch_first else y[:, row]
    function = None if last.function is None else last.function[0]
    probability = y if function == "softmax" else exp(y) if function == "logsoftmax" else softmax(y)
    K = y.shape[-1]
    names = [str(k) for k in (range(K) if labels is None else labels)]
    if len(names) != K:
        raise ValueError(f"outputs: expected K = {K} names, got {len(names)}")
    expected = np.full(T, NO_TARGET) if target is None else int_array("target", target)
    expect_shape("target", expected, (T,), "(T,)")
    wrong = expected[(expected != NO_TARGET) & ((expected < 0) | (expected >= K))]
    if wrong.size:
        raise ValueError(f"target: expected 0 to K - 1 = {K - 1}, or {NO_TARGET} for none, got {wrong[0]}")
    return Predictions(probability, names, expected)
