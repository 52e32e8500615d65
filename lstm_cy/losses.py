"""Losses: each returns the mean over the counted elements and its gradient with respect to the prediction."""

import numpy as np

from .checks import check_lengths, expect_shape, flag, float_array, int_array

IGNORE_INDEX = -100  # PyTorch's default


def cross_entropy(prediction, target, *, lengths=None, batch_first=False, ignore_index=IGNORE_INDEX, weight=None):
    """Mean of -log softmax(prediction)[target], in nats.

    Parameters
    ----------
    prediction : array_like, float32 or float64, (..., C)
        Scores before the softmax (logits) of C classes.
    target : array_like of integers, (...)
        The right class of each element, 0 to C - 1, or `ignore_index`.
    lengths : array_like of integers, (B,), or an integer, optional
        Steps at and past a row's length are not counted. The prediction is then (T, B, C), or (B, T, C) with
        `batch_first`; for one sequence (T, C) lengths is an integer.
    batch_first : bool
        Which of the first two axes is time; read only together with `lengths`.
    ignore_index : int
        Elements with this target are not counted.
    weight : array_like (C,), optional
        How much an element of each class counts; the mean is that of the counted elements with these weights.

    Returns
    -------
    loss : float
        The mean over the counted elements, accumulated in float64.
    gradient : ndarray (..., C)
        In the prediction's dtype; exactly 0 where an element is not counted, whatever the prediction holds
        there.

    Raises
    ------
    TypeError
        The prediction is not float32 or float64, or target or lengths are not integers.
    ValueError
        Shapes do not fit, a counted target or a length is out of range, a weight is negative, or no element is
        counted with a weight above 0.

    Notes
    -----
    With z the prediction and k the target of an element, the loss is log(sum_j exp(z_j)) - z_k and its
    gradient softmax(z) - onehot(k) (C. M. Bishop, Pattern Recognition and Machine Learning, 2006,
    equation 4.109). The largest score is taken off first, so that no score overflows.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import cross_entropy
    >>> loss, gradient = cross_entropy(np.zeros((2, 4)), [3, 0])
    >>> round(loss, 4)  # log(4): nothing is known yet
    1.3863
    >>> gradient[0].tolist()
    [0.125, 0.125, 0.125, -0.375]
    """
    prediction = _prediction(prediction)
    target = int_array("target", target)
    if prediction.ndim == 0:
        raise ValueError("prediction: expected at least the axis of the classes, (..., C), got a number")
    expect_shape("target", target, prediction.shape[:-1], "the prediction's without its last axis")
    counted = target != int_array("ignore_index", ignore_index)
    within = _within(prediction.shape, lengths, batch_first)
    if within is not None:
        counted &= within
    classes = prediction.shape[-1]
    wrong = counted & ((target < 0) | (target >= classes))
    if wrong.any():
        place = tuple(map(int, np.argwhere(wrong)[0]))
        raise ValueError(
            f"target: expected classes 0 to {classes - 1}, or ignore_index = {ignore_index}, "
            f"got {target[place]} at {place}"
        )
    shares = _shares(weight, classes, target[counted])
    if not shares.any():
        raise ValueError("nothing to count: every element is ignored, past its row's length or of weight 0")

    with np.errstate(invalid="ignore", over="ignore"):  # the loss itself tells that it is not finite
        scores = prediction[counted]
        scores -= scores.max(axis=1, keepdims=True)
        at_target = np.arange(len(scores)), target[counted]
        losses = -scores[at_target]
        np.exp(scores, out=scores)
        sums = scores.sum(axis=1, keepdims=True)
        losses += np.log(sums[:, 0])
        scores *= (shares / sums[:, 0]).astype(scores.dtype, copy=False)[:, None]
        scores[at_target] -= shares
        loss = float(shares @ losses)
    gradient = np.zeros_like(prediction)
    gradient[counted] = scores
    return loss, gradient


def mse(prediction, target, *, lengths=None, batch_first=False):
    """Mean of (prediction - target)**2.

    Parameters
    ----------
    prediction : array_like, float32 or float64, any shape
    target : array_like of numbers
        In exactly the prediction's shape; converted to its dtype.
    lengths : array_like of integers, (B,), or an integer, optional
        Steps at and past a row's length are not counted. The prediction is then (T, B, C), or (B, T, C) with
        `batch_first`; for one sequence (T, C) lengths is an integer.
    batch_first : bool
        Which of the first two axes is time; read only together with `lengths`.

    Returns
    -------
    loss : float
        The mean over the counted elements, accumulated in float64.
    gradient : ndarray
        2 (prediction - target) / count, in the prediction's shape and dtype; exactly 0 where an element is
        not counted, whatever prediction and target hold there.

    Raises
    ------
    TypeError
        The prediction is not float32 or float64, the target not numbers, or lengths not integers.
    ValueError
        Shapes do not fit, a length is out of range, or no element is counted.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import mse
    >>> loss, gradient = mse(np.array([1.0, 2.0]), [1.0, 4.0])
    >>> loss, gradient.tolist()
    (2.0, [0.0, -2.0])
    """
    prediction = _prediction(prediction)
    target = float_array("target", target, prediction.dtype)
    expect_shape("target", target, prediction.shape, "the prediction's")
    counted = _within(prediction.shape, lengths, batch_first)
    count = prediction.size if counted is None else int(np.count_nonzero(counted)) * prediction.shape[-1]
    if count == 0:
        raise ValueError("nothing to count: there are no elements, or all are past their row's length")

    with np.errstate(invalid="ignore", over="ignore"):  # the loss itself tells that it is not finite
        gradient = np.asarray(prediction - target)
        if counted is not None:
            gradient[~counted] = 0
        total = sum_of_squares(gradient)
        gradient *= 2.0 / count
    return total / count, gradient


def _shares(weight, classes, target):
    """How much each element with such a target counts in the mean, in float64."""
    if weight is None:
        return np.full(len(target), 1.0 / max(len(target), 1))
    weight = float_array("weight", weight, np.float64)
    expect_shape("weight", weight, (classes,), "(C,)")
    if not (weight >= 0).all():
        raise ValueError(f"weight: expected numbers of at least 0, got {weight[~(weight >= 0)][0]}")
    shares = weight[target]
    return shares / (shares.sum() or 1.0)


def sum_of_squares(array):
    """The sum of the squares of all entries, accumulated in float64 without a copy in float64."""
    flat = array.reshape(-1)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))


def _prediction(value):
    array = np.asarray(value)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"prediction: expected float32 or float64, got dtype {array.dtype}")
    return array


def _within(shape, lengths, batch_first):
    """True where a step is within its row's length: bool, `shape` without the last axis; None: no lengths."""
    flag("batch_first", batch_first)
    if lengths is None:
        return None
    if len(shape) not in (2, 3):
        layout = "(B, T, C)" if batch_first else "(T, B, C)"
        raise ValueError(f"prediction: with lengths expected {layout} or (T, C), got {len(shape)} axes")
    if len(shape) == 2:
        return np.arange(shape[0]) < check_lengths(lengths, None, shape[0])
    steps, rows = shape[1::-1] if batch_first else shape[:2]
    within = np.arange(steps)[:, None] < check_lengths(lengths, rows, steps)
    return within.T if batch_first else within
