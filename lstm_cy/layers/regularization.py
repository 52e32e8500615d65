"""The ActivationRegularization layer: penalties of an LSTM's output in training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_lengths, expect_shape, flag, flag_array, float_array, number, real_array
from .base import Gradients, Layer

if TYPE_CHECKING:
    from typing import TypeVar

    from ..typing import Array, ArrayLike, Bools, Seed, State, StateLike
    from .base import Steps, Tape

    _T = TypeVar("_T")


class ActivationRegularization(Layer):
    """Returns its input, and in training adds the gradient of two penalties of it: of its size and of its changes.

    ::

        ar * mean(x[t]^2) + tar * mean((x[t] - x[t - 1])^2)

    Parameters
    ----------
    ar : float
        Activation regularisation, at least 0.
    tar : float
        Temporal activation regularisation, at least 0.
    batch_first : bool
        The sequences are (B, T, ...) rather than (T, B, ...).

    Notes
    -----
    The means are over all numbers of valid steps, and of pairs of successive valid steps without a reset between them.
    The penalties are added to the mean loss of a batch, or of a window of it; losses that `fit` reports are without
    them. In a model the layer follows the LSTM; for `ar` after dropout put one behind the Dropout.

    Source: Merity, McCann and Socher, Revisiting activation regularization for language RNNs (2017).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, ActivationRegularization, Linear, Sequential
    >>> model = Sequential(LSTM(3, 5, seed=0), ActivationRegularization(ar=2.0, tar=1.0), Linear(5, 2, seed=0))
    >>> ActivationRegularization(tar=1.0).penalty(np.array([[0.0], [1.0], [3.0]]))  # changes of 1 and 2
    2.5
    """

    dtype = None  # that of the input
    passes_on = needs_steps = True

    def __init__(self, ar: float = 0.0, tar: float = 0.0, *, batch_first: bool = False) -> None:
        self.ar = number("ar", ar, 0.0, open_high=True)
        self.tar = number("tar", tar, 0.0, open_high=True)
        self.batch_first = flag("batch_first", batch_first)
        self.config = {"ar": self.ar, "tar": self.tar, "batch_first": self.batch_first}
        self._initialize({}, dict)

    def __call__(self, x: _T) -> _T:
        """Return x itself.

        Parameters
        ----------
        x : array_like

        Returns
        -------
        ndarray
        """
        real_array("x", x)
        return x

    def penalty(
        self,
        x: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> float:
        """Return the sum of both penalties.

        Parameters
        ----------
        x : array_like (T, B, features), (B, T, features) with batch_first, or (T, features)
            Floats.
        lengths, mask, reset :
            As in a call of an LSTM.

        Returns
        -------
        float
        """
        return self._penalized(x, lengths, mask, reset)[0]

    def forward(
        self,
        x: ArrayLike,
        rng: Seed = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> tuple[Array, Tape]:
        """Return x, for training.

        Parameters
        ----------
        x : array_like (T, B, features), (B, T, features) with batch_first, or (T, features)
            Floats.
        rng : None, int or numpy.random.Generator
            Not used.
        lengths, mask, reset :
            As in a call of an LSTM.

        Returns
        -------
        y : ndarray
            x.
        tape :
            For `backward`.
        """
        _, gradient, x = self._penalized(x, lengths, mask, reset)
        return x, self._tape(gradient)

    def run_forward(
        self, x: Any, states: list[StateLike | None], steps: Steps, rng: Seed
    ) -> tuple[Any, list[State], Any]:
        """Call `forward` as a part of a model, with its valid steps and resets."""
        y, tape = self.forward(x, lengths=steps.lengths, mask=steps.mask, reset=steps.reset)
        return y, [], tape

    def output_features(self, features: int | None) -> int | None:
        return features

    def backward(self, tape: Tape, dy: ArrayLike) -> Gradients:
        """Return `dy` plus the gradient of the penalties.

        Parameters
        ----------
        tape :
            From `forward`.
        dy : array_like in y's shape

        Returns
        -------
        Gradients
            `x`.
        """
        (gradient,) = self._content_of(tape)
        dy = float_array("dy", dy, gradient.dtype)
        expect_shape("dy", dy, gradient.shape, "the shape of y")
        return Gradients(dy + gradient, None, {})

    def _penalized(self, x: ArrayLike, lengths: Any, mask: Any, reset: Any) -> tuple[float, Array, Array]:
        """Return (the penalties, their gradient, x as an array)."""
        x = real_array("x", x)
        if x.dtype.kind != "f" or x.ndim not in (2, 3):
            raise TypeError(f"x: expected floats with two or three axes, got {x.dtype} of shape {x.shape}")
        order = (1, 0, 2) if self.batch_first and x.ndim == 3 else range(x.ndim)
        steps = x.transpose(order).reshape(len(x.transpose(order)), -1, x.shape[-1])  # (T, B, features)
        valid = self._valid(x, steps.shape[:2], lengths, mask)
        starts = np.zeros_like(valid) if reset is None else self._flags("reset", x, reset)
        gradient = np.zeros_like(steps)
        value = 0.0
        if self.ar and valid.any():
            chosen = steps[valid]
            value += self.ar * float(np.mean(np.square(chosen)))
            gradient[valid] = chosen * x.dtype.type(2 * self.ar / chosen.size)
        later, earlier = _pairs(valid, starts)
        if self.tar and len(later[0]):
            change = steps[later] - steps[earlier]
            value += self.tar * float(np.mean(np.square(change)))
            change *= x.dtype.type(2 * self.tar / change.size)
            gradient[later] += change
            gradient[earlier] -= change
        outer = gradient.reshape(x.transpose(order).shape).transpose(np.argsort(order))
        return value, np.ascontiguousarray(outer), x

    def _valid(self, x: Array, shape: tuple[int, ...], lengths: Any, mask: Any) -> Bools:
        """Return where steps are valid, (T, B)."""
        T, B = shape
        if mask is not None:
            return self._flags("mask", x, mask)
        if lengths is None:
            return np.ones((T, B), bool)
        scalar = x.ndim == 2 and np.ndim(lengths) == 0
        valid: Bools = np.arange(T)[:, np.newaxis] < check_lengths(lengths, None if scalar else B, T).reshape(B)
        return valid

    def _flags(self, name: str, x: Array, flags: Any) -> Bools:
        """Return the caller's flags of steps as (T, B)."""
        flags = flag_array(name, flags)
        expect_shape(name, flags, x.shape[:-1], "the shape of x without the features")
        flags = flags.T if self.batch_first and flags.ndim == 2 else flags
        by_step: Bools = flags.reshape(len(flags), -1)
        return by_step


def _pairs(valid: Bools, starts: Bools) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Return the indices (step, row) of steps and of those before them, of all pairs of successive valid steps."""
    T, B = valid.shape
    numbers = np.where(valid, np.arange(T)[:, np.newaxis], -1)
    before = np.full((T, B), -1)
    if T:
        before[1:] = np.maximum.accumulate(numbers, axis=0)[:-1]
    steps, rows = np.nonzero(valid & (before >= 0))
    previous = before[steps, rows]
    sequence = np.cumsum(starts, axis=0)
    same = sequence[steps, rows] == sequence[previous, rows]
    return (steps[same], rows[same]), (previous[same], rows[same])
