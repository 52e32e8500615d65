"""Losses of single elements besides `mse`: each returns the mean over the counted elements and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import expect_shape, float_array, number, shown
from ..layers.activations import exp, softplus
from .losses import checked_prediction, mean_of_elements, of_elements

if TYPE_CHECKING:
    from ..typing import Array, ArrayLike


@of_elements
def huber(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    delta: float = 1.0,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
    sample_weight: ArrayLike | None = None,
) -> tuple[float, Array]:
    """Return the mean of Huber's loss, and its gradient: squares of small errors, absolute values of large ones.

    With e = prediction - target it is ``e**2 / 2`` where ``|e| <= delta``, and ``delta * (|e| - delta / 2)`` elsewhere
    (P. J. Huber, Robust estimation of a location parameter, 1964); ``torch.nn.functional.huber_loss``.

    Parameters
    ----------
    prediction, target :
        As for `mse`.
    delta : float
        Above 0.
    lengths, batch_first, sample_weight :
        As for `mse`.

    Returns
    -------
    loss : float
    gradient : ndarray
        As from `mse`.

    Raises
    ------
    TypeError, ValueError, NothingToCount
        As from `mse`, or delta is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import huber
    >>> loss, gradient = huber(np.array([1.0, 5.0]), [0.5, 1.0])
    >>> loss, gradient.tolist()
    (1.8125, [0.25, 0.5])
    """
    delta = number("delta", delta, 0.0, open_low=True, open_high=True)
    prediction = checked_prediction(prediction)
    target = float_array("target", target, prediction.dtype)
    expect_shape("target", target, prediction.shape, "the prediction's")

    def losses(prediction: Array, target: Array) -> tuple[Array, Array]:
        error = prediction - target
        slope = np.clip(error, -delta, delta)
        return slope * (error - slope / 2), slope

    return mean_of_elements(losses, prediction, target, lengths, batch_first, sample_weight)


@of_elements
def quantile(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    quantiles: float | Sequence[float] = 0.5,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
    sample_weight: ArrayLike | None = None,
) -> tuple[float, Array]:
    """Return the mean of the pinball loss, and its gradient; a model that minimises it predicts quantiles.

    With e = target - prediction and the quantile q it is ``max(q * e, (q - 1) * e)`` (R. Koenker and G. Bassett,
    Regression quantiles, 1978).

    Parameters
    ----------
    prediction : array_like, float32 or float64, (..., C)
    target : array_like of numbers
        The prediction's shape. With several quantiles the last axis of the prediction is that of the quantiles, and
        that of the target has length 1 or is missing.
    quantiles : float or sequence of float
        Each between 0 and 1. In `fit`: ``loss=functools.partial(quantile, quantiles=[0.1, 0.5, 0.9])``.
    lengths, batch_first, sample_weight :
        As for `mse`.

    Returns
    -------
    loss : float
        The mean over elements and quantiles.
    gradient : ndarray
        In the prediction's shape and dtype; 0 where prediction and target are equal.

    Raises
    ------
    TypeError, ValueError, NothingToCount
        As from `mse`, or a quantile is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import quantile
    >>> loss, gradient = quantile(np.array([[1.0, 4.0]]), [2.0], quantiles=[0.25, 0.75])
    >>> loss, gradient.tolist()
    (0.375, [[-0.125, 0.125]])
    """
    prediction = checked_prediction(prediction)
    several = isinstance(quantiles, Sequence | np.ndarray) and not isinstance(quantiles, str)
    each: Any = quantiles if several else [quantiles]
    q = np.array([number("quantiles", one, 0.0, 1.0, open_low=True, open_high=True) for one in each], prediction.dtype)
    target = float_array("target", target, prediction.dtype)
    if not several:
        expect_shape("target", target, prediction.shape, "the prediction's")
    elif prediction.ndim == 0 or prediction.shape[-1] != len(q) or not len(q):
        raise ValueError(f"prediction: expected {len(q)} quantiles on its last axis, got shape {prediction.shape}")
    elif target.shape == prediction.shape[:-1]:
        target = target[..., np.newaxis]
    else:
        expect_shape(
            "target", target, (*prediction.shape[:-1], 1), "the prediction's, with a last axis of 1 or without"
        )

    def losses(prediction: Array, target: Array) -> tuple[Array, Array]:
        error = target - prediction
        return np.maximum(q * error, (q - 1) * error), (error < 0) - q * (error != 0)

    return mean_of_elements(losses, prediction, target, lengths, batch_first, sample_weight)


@of_elements
def binary_cross_entropy(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
    sample_weight: ArrayLike | None = None,
) -> tuple[float, Array]:
    """Return the mean of -t log sigmoid(z) - (1 - t) log(1 - sigmoid(z)), in nats, and its gradient.

    Parameters
    ----------
    prediction : array_like, float32 or float64, any shape
        z: the scores before the sigmoid (logits), as for ``torch.nn.functional.binary_cross_entropy_with_logits``.
    target : array_like of numbers
        t, from 0 to 1: exactly the prediction's shape; converted to its dtype. Several labels may be 1 at once.
    pos_weight : array_like, optional
        A factor of the first term, a number or one for each label on the last axis; above 1 it weighs errors of
        positive targets more.
    lengths, batch_first, sample_weight :
        As for `mse`.

    Returns
    -------
    loss : float
    gradient : ndarray
        As from `mse`.

    Raises
    ------
    TypeError, ValueError, NothingToCount
        As from `mse`, a counted target is not in [0, 1], or `pos_weight` is negative or of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import binary_cross_entropy
    >>> loss, gradient = binary_cross_entropy(np.array([0.0, 0.0]), [1, 0])
    >>> round(loss, 4), gradient.tolist()
    (0.6931, [-0.25, 0.25])
    """
    prediction = checked_prediction(prediction)
    target = float_array("target", target, prediction.dtype)
    expect_shape("target", target, prediction.shape, "the prediction's")
    positive = np.ones((), prediction.dtype) if pos_weight is None else _pos_weight(pos_weight, prediction)

    def losses(z: Array, target: Array) -> tuple[Array, Array]:
        wrong = ~((target >= 0) & (target <= 1))
        if wrong.any():
            raise ValueError(f"target: expected numbers from 0 to 1, got {target[wrong][0]}")
        small, log = exp(-np.abs(z)), softplus(-np.abs(z))
        # softplus(z) = log + max(z, 0), softplus(-z) = log + max(-z, 0)
        sigmoid = np.where(z >= 0, 1, small) / (1 + small)
        first, second = positive * target, 1 - target
        loss = first * (log + np.maximum(-z, 0)) + second * (log + np.maximum(z, 0))
        return loss, (first + second) * sigmoid - first

    return mean_of_elements(losses, prediction, target, lengths, batch_first, sample_weight)


def _pos_weight(value: ArrayLike, prediction: Array) -> Array:
    """Return `pos_weight` in the prediction's dtype."""
    weight = float_array("pos_weight", value, prediction.dtype)
    if weight.ndim > 1 or (weight.ndim and weight.shape != prediction.shape[-1:]):
        raise ValueError(f"pos_weight: expected a number or shape {prediction.shape[-1:]}, got {weight.shape}")
    if not ((weight >= 0) & (weight < np.inf)).all():
        raise ValueError(f"pos_weight: expected finite numbers of at least 0, got {shown(value)}")
    return weight
