"""Losses: each returns the mean over the counted elements and its gradient with respect to the prediction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from .. import config
from .._kernels import ctc as ctc_kernel
from .._kernels import elements, products
from ..checks import (
    check_lengths,
    expect_shape,
    flag,
    float_array,
    int_array,
    non_negative_int,
    number,
    one_of,
    real_array,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from ..typing import Array, ArrayLike, Bools, Ints

    _F = TypeVar("_F", bound=Callable[..., Any])

IGNORE_INDEX = -100  # PyTorch's default


class NothingToCount(ValueError):
    """Raised by a loss that has no element to average over; `fit` skips such a batch."""


#: the losses and metrics that have a target for each element of the prediction
OF_ELEMENTS: list[Callable[..., Any]] = []


def of_elements(function: _F) -> _F:
    """Note that `function` has a target for each element: where the output has no time axis it gets no lengths."""
    OF_ELEMENTS.append(function)
    return function


@of_elements
def cross_entropy(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
    ignore_index: int = IGNORE_INDEX,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
) -> tuple[float, Array]:
    """Return the mean of -log softmax(prediction)[target], in nats, and its gradient.

    Parameters
    ----------
    prediction : array_like, float32 or float64, (..., C)
        Scores before the softmax (logits) of C classes.
    target : array_like of integers, (...)
        The correct class of each element, 0 to C - 1, or `ignore_index`.
    lengths : array_like of integers, (B,), or an integer, optional
        Steps at and past a row's length are not counted. The prediction is then (T, B, C), or (B, T, C) with
        `batch_first`; for one sequence (T, C) lengths is an integer.
    batch_first : bool
        Whether axis 1 is time, not axis 0; used only together with `lengths`.
    ignore_index : int
        Elements with this target are not counted.
    weight : array_like (C,), optional
        The weight of each class; the loss is the weighted mean over the counted elements.
    sample_weight : array_like, optional
        The weights of the elements, in the shape of the target or of its first axes: (T, B) for weights of steps. The
        loss is the weighted mean; an element of weight 0 is not counted.
    label_smoothing : float
        From 0 to 1: this share of the target is spread evenly over all classes, as in ``torch.nn.CrossEntropyLoss``
        (C. Szegedy et al., Rethinking the inception architecture for computer vision, 2016).

    Returns
    -------
    loss : float
        The mean over the counted elements, accumulated in float64.
    gradient : ndarray (..., C)
        In the prediction's dtype; exactly 0 where an element is not counted, for any value of the prediction
        there.

    Raises
    ------
    TypeError
        The prediction is not float32 or float64, or target or lengths are not integers.
    ValueError
        Shapes do not fit, a counted target or a length is out of range, or a weight is negative.
    NothingToCount
        A ValueError: no element is counted with a weight above 0.

    Notes
    -----
    With z the prediction and k the target of an element, the loss is log(sum_j exp(z_j)) - z_k and its
    gradient softmax(z) - onehot(k) (C. M. Bishop, Pattern Recognition and Machine Learning, 2006,
    equation 4.109). The largest score is subtracted first, so that no exponential overflows.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import cross_entropy
    >>> loss, gradient = cross_entropy(np.zeros((2, 4)), [3, 0])
    >>> round(loss, 4)  # log(4): all four classes are equally likely
    1.3863
    >>> gradient[0].tolist()
    [0.125, 0.125, 0.125, -0.375]
    """
    prediction = checked_prediction(prediction)
    target = int_array("target", target)
    if prediction.ndim == 0:
        raise ValueError("prediction: expected at least the axis of the classes, (..., C), got a number")
    expect_shape("target", target, prediction.shape[:-1], "the prediction's without its last axis")
    ignored = int_array("ignore_index", ignore_index)
    expect_shape("ignore_index", ignored, (), "()")
    counted = target != ignored
    smoothing = number("label_smoothing", label_smoothing, 0.0, 1.0)
    within = within_lengths(prediction.shape, lengths, batch_first)
    if within is not None:
        counted &= within
    weights = element_weights(sample_weight, target.shape, "the target's")
    if weights is not None:
        counted &= weights > 0
    classes = prediction.shape[-1]
    wrong = counted & ((target < 0) | (target >= classes))
    if wrong.any():
        index = tuple(map(int, np.argwhere(wrong)[0]))
        raise ValueError(
            f"target: expected classes 0 to {classes - 1}, or ignore_index = {ignored}, got {target[index]} at {index}"
        )
    shares = _shares(weight, classes, target[counted], None if weights is None else weights[counted])
    if not shares.any():
        raise NothingToCount("nothing to count: every element is ignored, past its row's length or of weight 0")
    smooth = None
    if smoothing:
        smooth = _Smoothing(smoothing, weight, classes, target[counted], None if weights is None else weights[counted])
        shares = smooth.shares

    gradient, losses = np.empty(prediction.shape, prediction.dtype), np.empty(len(shares))
    loss = elements.cross_entropy(
        config.kernels(),
        np.ascontiguousarray(prediction).reshape(-1, classes),
        np.ascontiguousarray(target),
        np.ascontiguousarray(counted),
        shares,
        losses,
        gradient.reshape(-1, classes),
    )
    if smooth is not None:
        correction, gradient[counted] = smooth.corrected(prediction[counted], gradient[counted])
        loss += correction
    return loss, gradient


@of_elements
def mse(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
    sample_weight: ArrayLike | None = None,
) -> tuple[float, Array]:
    """Return the mean of (prediction - target)**2, and its gradient.

    Parameters
    ----------
    prediction : array_like, float32 or float64, any shape
    target : array_like of numbers
        Exactly the prediction's shape; converted to its dtype.
    lengths : array_like of integers, (B,), or an integer, optional
        Steps at and past a row's length are not counted. The prediction is then (T, B, C), or (B, T, C) with
        `batch_first`; for one sequence (T, C) lengths is an integer.
    batch_first : bool
        Whether axis 1 is time, not axis 0; used only together with `lengths`.
    sample_weight : array_like, optional
        The weights of the elements, in the shape of the target or of its first axes: (T, B) for weights of steps. The
        loss is the weighted mean; an element of weight 0 is not counted.

    Returns
    -------
    loss : float
        The mean over the counted elements, accumulated in float64.
    gradient : ndarray
        2 (prediction - target) / count, in the prediction's shape and dtype; exactly 0 where an element is
        not counted, for any values of prediction and target there.

    Raises
    ------
    TypeError
        The prediction is not float32 or float64, the target not numbers, or lengths not integers.
    ValueError
        Shapes do not fit, or a length is out of range.
    NothingToCount
        A ValueError: no element is counted.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import mse
    >>> loss, gradient = mse(np.array([1.0, 2.0]), [1.0, 4.0])
    >>> loss, gradient.tolist()
    (2.0, [0.0, -2.0])
    """
    prediction = checked_prediction(prediction)
    target = float_array("target", target, prediction.dtype)
    expect_shape("target", target, prediction.shape, "the prediction's")
    if sample_weight is not None:
        return mean_of_elements(_squares, prediction, target, lengths, batch_first, sample_weight)
    counted = within_lengths(prediction.shape, lengths, batch_first)
    count = prediction.size if counted is None else int(np.count_nonzero(counted)) * prediction.shape[-1]
    if count == 0:
        raise NothingToCount("nothing to count: there are no elements, or all are past their row's length")

    gradient = np.empty(prediction.shape, prediction.dtype)
    rows = (-1, prediction.shape[-1] if prediction.ndim else 1)
    total = elements.squared_error(
        np.ascontiguousarray(prediction).reshape(rows),
        np.ascontiguousarray(target).reshape(rows),
        None if counted is None else np.ascontiguousarray(counted),
        2.0 / count,
        gradient.reshape(rows),
    )
    return total / count, gradient


@overload
def ctc(
    prediction: ArrayLike,
    target: ArrayLike | Sequence[ArrayLike],
    *,
    lengths: ArrayLike | None = None,
    target_lengths: ArrayLike | None = None,
    blank: int = 0,
    batch_first: bool = False,
    zero_infinity: bool = False,
    sample_weight: ArrayLike | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[float, Array]: ...
@overload
def ctc(
    prediction: ArrayLike,
    target: ArrayLike | Sequence[ArrayLike],
    *,
    lengths: ArrayLike | None = None,
    target_lengths: ArrayLike | None = None,
    blank: int = 0,
    batch_first: bool = False,
    zero_infinity: bool = False,
    sample_weight: ArrayLike | None = None,
    reduction: Literal["none"],
) -> tuple[Array, Array]: ...
def ctc(
    prediction: ArrayLike,
    target: ArrayLike | Sequence[ArrayLike],
    *,
    lengths: ArrayLike | None = None,
    target_lengths: ArrayLike | None = None,
    blank: int = 0,
    batch_first: bool = False,
    zero_infinity: bool = False,
    sample_weight: ArrayLike | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> tuple[Any, Array]:
    """Return the mean over the rows of -log p(target), in nats, and its gradient.

    This is connectionist temporal classification (CTC), for sequences of labels that are shorter than their inputs and
    not aligned with them, as in speech. p is the sum of the probabilities of all alignments. An alignment has one class
    per step, and gives the target after repetitions are merged and blanks removed.

    Parameters
    ----------
    prediction : array_like, float32 or float64, (T, B, V)
        Scores before the softmax (logits) of V classes, including the blank; (B, T, V) with `batch_first`; or one
        sequence (T, V).
    target : array_like of integers (B, S), or list of B arrays (S_b,)
        Each row's labels, 0 to V - 1 but not the blank; for one sequence (S,). An array's rows have `target_lengths`
        labels, or without it end at their first blank: the padding of `lstm_cy.pad(..., batch_first=True)`, zeros, fits
        the default blank. A target may have no labels.
    lengths : array_like of integers, (B,), or an integer for one sequence, optional
        Steps at and past a row's length are not used.
    target_lengths : array_like of integers, (B,), or an integer for one sequence, optional
        The number of labels in each row of an array.
    blank : int
        The class that stands for no label, 0 to V - 1.
    batch_first : bool
        The prediction's first axis is the rows, the second the steps.
    zero_infinity : bool
        A row whose target no alignment can give has loss 0 and gradient 0 (it still counts as a row), as in PyTorch;
        without this option a row too short for its target is a ValueError.
    sample_weight : array_like (B,), optional
        The weight of each row: the mean is weighted, and so is the sum; rows of weight 0 have gradient 0.
    reduction : {"mean", "sum", "none"}
        Whether the mean over the rows is returned, their sum, or each row's loss. `fit` needs the mean.

    Returns
    -------
    loss : float, or ndarray (B,) of float64 with reduction "none"
        The sum of the rows' losses, in float64, divided by B. It equals ``torch.nn.functional.ctc_loss`` of
        log-softmax(prediction) with ``reduction="sum"``, divided by B; PyTorch's "mean" first divides each row by the
        length of its target. Infinite if scores of -inf exclude the target, NaN if a row's scores are not finite.
    gradient : ndarray
        With respect to the scores, in the prediction's shape and dtype; exactly 0 past a row's length; NaN in rows
        whose loss is not finite, and in no others. With reduction "none" a row has the gradient of its own loss.

    Raises
    ------
    TypeError
        The prediction is not float32 or float64, or the target or lengths are not integers.
    ValueError
        Shapes do not fit, a label, a length or the blank is out of range, or a row has fewer steps than its target
        needs: one for each label, and one more between two equal labels.
    NothingToCount
        A ValueError: there are no rows.

    Notes
    -----
    A. Graves, S. Fernandez, F. Gomez and J. Schmidhuber, Connectionist temporal classification: labelling unsegmented
    sequence data with recurrent neural networks, 2006, equations 6 to 16, computed in logarithms. The gradient of a
    step is softmax(prediction) minus the share of each class in the alignments at this step. As the loss of `fit`, the
    target is y: one for each row, (B, S), padded with blanks.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import ctc
    >>> scores = np.zeros((2, 1, 3))  # two steps of one row; the classes are the blank, 1 and 2
    >>> loss, gradient = ctc(scores, [[1]])
    >>> round(float(np.exp(-loss)), 4)  # 3 of 9 alignments give the label 1: (1, 1), (1, blank), (blank, 1)
    0.3333
    >>> gradient[0, 0, 1:].round(4).tolist()
    [-0.3333, 0.3333]
    """
    prediction = checked_prediction(prediction)
    batch_first, zero_infinity = flag("batch_first", batch_first), flag("zero_infinity", zero_infinity)
    single = prediction.ndim == 2
    if single:
        target = int_array("target", target)
        if target.ndim != 1:
            raise ValueError(f"target: expected shape (S,) for one sequence (T, V), got {target.shape}")
        lengths = None if lengths is None else _of_one_sequence("lengths", lengths)
        target_lengths = None if target_lengths is None else _of_one_sequence("target_lengths", target_lengths)
        prediction, target, batch_first = prediction[:, np.newaxis], target[np.newaxis], False
    if prediction.ndim != 3:
        layout = "(B, T, V)" if batch_first else "(T, B, V)"
        raise ValueError(f"prediction: expected shape {layout} or (T, V), got {prediction.shape}")
    prediction = np.ascontiguousarray(prediction)
    steps, rows = prediction.shape[1::-1] if batch_first else prediction.shape[:2]
    lengths = check_lengths(np.full(rows, steps) if lengths is None else lengths, rows, steps)
    targets, target_lengths = _labels(target, target_lengths, rows, prediction.shape[2], blank)
    if rows == 0:
        raise NothingToCount("nothing to count: there are no rows")
    weights = element_weights(sample_weight, (rows,), "(B,)")
    if weights is not None and not weights.any():
        raise NothingToCount("nothing to count: every row is of weight 0")
    one_of("reduction", reduction, ("mean", "sum", "none"))
    scale = 1 / rows if reduction == "mean" and weights is None else 1.0
    if not zero_infinity:
        _check_long_enough(lengths, targets, target_lengths)

    gradient, losses = np.zeros_like(prediction), np.empty(rows)
    options = blank, scale, batch_first
    ctc_kernel.ctc(config.kernels(), prediction, gradient, targets, lengths, target_lengths, losses, *options)
    if zero_infinity:
        infinite = np.isinf(losses)
        losses[infinite] = 0
        gradient[infinite if batch_first else (slice(None), infinite)] = 0
    if weights is not None:
        losses = _weigh_rows(losses, gradient, weights, reduction, batch_first)
    gradient = gradient[:, 0] if single else gradient
    if reduction == "none":
        return losses, gradient
    return sum_of(losses) / (rows if reduction == "mean" and weights is None else 1), gradient


def _weigh_rows(losses: Array, gradient: Array, weights: Array, reduction: str, batch_first: bool) -> Array:
    """Return the weighted losses of rows, for a mean the rows' shares of it, and weigh their gradients in place."""
    shares = weights / sum_of(weights) if reduction == "mean" else weights
    by_row = gradient if batch_first else gradient.swapaxes(0, 1)
    by_row[shares == 0] = 0  # NaN too
    by_row *= shares.astype(gradient.dtype)[:, None, None]
    return np.where(shares > 0, losses, 0) * shares


def _shares(weight: ArrayLike | None, classes: int, target: Ints, own: Array | None) -> Array:
    """Return each element's share of the mean, by the weights of its target and its `own`, in float64."""
    if weight is None and own is None:
        return np.full(len(target), 1.0 / max(len(target), 1))
    shares = np.ones(len(target)) if own is None else own
    if weight is not None:
        shares = shares * _class_weights(weight, classes)[target]
    total = sum_of(shares)
    if np.isinf(total):
        shares /= shares.max()
        total = sum_of(shares)
    return shares / (total or 1.0)


class _Smoothing:
    """The part of `cross_entropy` that smooths the targets.

    With the classes' weights w, their mean m, an element's weight s and its target k, the loss of an element is
    (1 - e) s w_k (log Z - z_k) + e s (m log Z - sum_j w_j z_j / C): that of a hard target with the share
    s ((1 - e) w_k + e m), which `shares` has, plus e s (m z_k - sum_j w_j z_j / C), which `corrected` adds.
    """

    def __init__(self, part: float, weight: ArrayLike | None, classes: int, target: Ints, own: Array | None) -> None:
        self.weight = np.ones(classes) if weight is None else _class_weights(weight, classes)
        self.target, self.mean = target, sum_of(self.weight) / classes
        own = np.ones(len(target)) if own is None else own
        hard = own * self.weight[target]
        own, hard = own / sum_of(hard), hard / sum_of(hard)
        self.part = part * own
        self.shares = (1 - part) * hard + self.part * self.mean

    def corrected(self, scores: Array, gradient: Array) -> tuple[float, Array]:
        """Return what is added to the loss, and the gradient with what is added to it; both for counted elements."""
        rows = np.arange(len(scores))
        spread = self.weight / len(self.weight)
        at_target = scores[rows, self.target]
        used = np.where(spread > 0, scores, 0).astype(np.float64)  # a class of weight 0 may have a score of -inf
        sums = np.empty((1, len(scores), 1))
        products.multiply(config.kernels(), used[np.newaxis], spread[np.newaxis, :, np.newaxis], sums)
        added = sum_of(self.part * (self.mean * at_target - sums[0, :, 0]))
        gradient = gradient - (self.part[:, None] * spread).astype(gradient.dtype)
        gradient[rows, self.target] += (self.part * self.mean).astype(gradient.dtype)
        return added, gradient


def _class_weights(weight: ArrayLike, classes: int) -> Array:
    """Return the checked weights of the classes, in float64."""
    weight = float_array("weight", weight, np.float64)
    expect_shape("weight", weight, (classes,), "(C,)")
    right = (weight >= 0) & (weight < np.inf)
    if not right.all():
        raise ValueError(f"weight: expected finite numbers of at least 0, got {weight[~right][0]}")
    return weight


def element_weights(sample_weight: ArrayLike | None, shape: tuple[int, ...], whose: str) -> Array | None:
    """Return the checked weights of elements, float64 in `shape`; None for none."""
    if sample_weight is None:
        return None
    weights = float_array("sample_weight", sample_weight, np.float64)
    if weights.shape != shape[: weights.ndim]:
        raise ValueError(f"sample_weight: expected shape {whose} = {shape}, or its first axes, got {weights.shape}")
    right = (weights >= 0) & (weights < np.inf)
    if not right.all():
        raise ValueError(f"sample_weight: expected finite numbers of at least 0, got {weights[~right][0]}")
    return np.broadcast_to(expanded(weights, len(shape)), shape)


def expanded(weights: Array, axes: int) -> Array:
    """Return `weights` with axes of length 1 at the end, up to this number of axes."""
    return weights.reshape(weights.shape + (1,) * (axes - weights.ndim))


def mean_of_elements(
    losses_of: Callable[[Array, Array], tuple[Array, Array]],
    prediction: Array,
    target: Array,
    lengths: ArrayLike | None,
    batch_first: bool,
    sample_weight: ArrayLike | None,
) -> tuple[float, Array]:
    """Return the weighted mean of the losses of single elements, and its gradient.

    Parameters
    ----------
    losses_of : callable
        ``losses_of(prediction, target) -> (losses, their derivatives)``, elementwise on arrays in the prediction's
        shape. Elements that do not count are 0 in both.
    prediction, target : ndarray
        The last axis of the target may have length 1.
    lengths, batch_first, sample_weight :
        As for `mse`.
    """
    within = within_lengths(prediction.shape, lengths, batch_first)
    weights = element_weights(sample_weight, target.shape, "the target's")
    shares = np.ones(target.shape) if weights is None else np.array(weights)
    if within is not None:
        shares[~within] = 0
    shares = np.broadcast_to(shares, prediction.shape)
    total = sum_of(shares)
    if total == 0:
        raise NothingToCount(
            "nothing to count: there are no elements, or all are past their row's length or of weight 0"
        )
    shares, counted = shares / total, shares > 0
    with np.errstate(invalid="ignore", over="ignore"):  # the loss shows that it is not finite
        zero = prediction.dtype.type(0)
        losses, slopes = losses_of(np.where(counted, prediction, zero), np.where(counted, target, zero))
        loss = sum_of(losses * shares)
        gradient = np.where(counted, slopes * shares, 0).astype(prediction.dtype, copy=False)
    return loss, gradient


def _squares(prediction: Array, target: Array) -> tuple[Array, Array]:
    error = prediction - target
    return error * error, 2 * error


def sum_of(array: Array) -> float:
    """Return the sum of all entries, accumulated in float64 in an order that does not depend on the processor."""
    return elements.total(np.ascontiguousarray(array, np.float32 if array.dtype == np.float32 else np.float64))


def sum_of_squares(array: Array) -> float:
    """Return the sum of the squares of all entries, accumulated in float64 without a copy in float64."""
    array = np.ascontiguousarray(array, np.float32 if array.dtype == np.float32 else np.float64)
    return elements.total_of_products(array, array)


def checked_prediction(value: ArrayLike) -> Array:
    """Return the prediction of a loss as an array of float32 or float64."""
    expected = "float32 or float64"
    array = real_array("prediction", value, expected)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"prediction: expected {expected}, got dtype {array.dtype}")
    return array


def _of_one_sequence(name: str, value: ArrayLike) -> Ints:
    """Return the length of one sequence as the lengths of a batch of one."""
    length = int_array(name, value)
    if length.ndim:
        raise ValueError(f"{name}: expected a number for one sequence (T, V), got an array of shape {length.shape}")
    return length[np.newaxis]


def within_lengths(shape: tuple[int, ...], lengths: ArrayLike | None, batch_first: bool) -> Bools | None:
    """Return bools, `shape` without the last axis, true for steps within their row's length; None: no lengths."""
    flag("batch_first", batch_first)
    if lengths is None:
        return None
    if len(shape) not in (2, 3):
        layout = "(B, T, C)" if batch_first else "(T, B, C)"
        raise ValueError(f"prediction: with lengths expected {layout} or (T, C), got {len(shape)} axes")
    if len(shape) == 2:
        if (lengths := int_array("lengths", lengths)).ndim:
            raise ValueError(
                f"lengths: expected a number for one sequence (T, C) = {shape}, got an array of shape {lengths.shape}; "
                "a prediction (B, C) of whole rows takes no lengths"
            )
        return np.arange(shape[0]) < check_lengths(lengths, None, shape[0])
    steps, rows = shape[1::-1] if batch_first else shape[:2]
    within = np.arange(steps)[:, None] < check_lengths(lengths, rows, steps)
    return within.T if batch_first else within


def _labels(target: Any, target_lengths: ArrayLike | None, rows: int, classes: int, blank: int) -> tuple[Ints, Ints]:
    """Return a checked target: labels (B, S) and the number of labels in each row, both C-contiguous."""
    if non_negative_int("blank", blank) >= classes:
        raise ValueError(f"blank: expected one of the classes 0 to {classes - 1}, got {blank}")
    if hasattr(target, "__array__"):
        target = int_array("target", target)
    elif isinstance(target, Iterable):
        target = _padded([_labels_of_row(row, labels) for row, labels in enumerate(target)], blank)
    else:
        raise TypeError(f"target: expected an array (B, S) or a list of B arrays, got {type(target).__name__}")
    if target.ndim != 2 or len(target) != rows:
        raise ValueError(f"target: expected shape (B, S) with B = {rows}, got {target.shape}")
    counts = _label_counts(target, target_lengths, blank)
    within = np.arange(target.shape[1]) < counts[:, np.newaxis]
    wrong = within & ((target < 0) | (target >= classes) | (target == blank))
    if target_lengths is None:
        wrong |= ~within & (target != blank)
    if wrong.any():
        index = tuple(map(int, np.argwhere(wrong)[0]))
        raise ValueError(
            f"target: expected labels 0 to {classes - 1}, the blank {blank} only after them, "
            f"got {target[index]} at {index}"
        )
    return target, counts


def _labels_of_row(row: int, labels: ArrayLike) -> Ints:
    array = int_array(f"target[{row}]", labels)
    if array.ndim != 1:
        raise ValueError(f"target[{row}]: expected shape (S,), got {array.shape}")
    return array


def _padded(arrays: list[Ints], blank: int) -> Ints:
    """Return vectors of labels as the rows of one array, padded with blanks."""
    target = np.full((len(arrays), max(map(len, arrays), default=0)), blank, np.intp)
    for row, array in enumerate(arrays):
        target[row, : len(array)] = array
    return target


def _label_counts(target: Ints, target_lengths: ArrayLike | None, blank: int) -> Ints:
    """Return the number of labels in each row of a target: by default those before its first blank."""
    if target_lengths is None:
        result: Ints = np.logical_and.accumulate(target != blank, axis=1).sum(axis=1, dtype=np.intp)
        return result
    counts = int_array("target_lengths", target_lengths)
    expect_shape("target_lengths", counts, (len(target),), "(B,)")
    outside = (counts < 0) | (counts > target.shape[1])
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(f"target_lengths: expected 0 to S = {target.shape[1]}, got {counts[row]} at row {row}")
    return counts


def _check_long_enough(lengths: Ints, target: Ints, counts: Ints) -> None:
    """Raise unless every row has a step for each label, and one for a blank between two equal labels."""
    equal = (target[:, 1:] == target[:, :-1]) & (np.arange(1, max(target.shape[1], 1)) < counts[:, np.newaxis])
    needed = counts + equal.sum(axis=1)
    short = lengths < needed
    if short.any():
        row = int(short.argmax())
        raise ValueError(
            f"lengths: expected at least {needed[row]} steps for the {counts[row]} labels of row {row}, "
            f"got {lengths[row]}; zero_infinity=True gives such rows no loss"
        )
