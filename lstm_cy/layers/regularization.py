"""The ActivationRegularization layer: penalties of an LSTM's output in training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import expect_shape, flag, float_array, number, real_array
from .base import Gradients
from .batch import flags_by_row, valid_by_row
from .identity import Identity

if TYPE_CHECKING:
    from ..typing import Array, ArrayLike, Bools, Seed, State, StateLike
    from .base import Steps, Tape


class ActivationRegularization(Identity):
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

    needs_steps = True

    def __init__(self, ar: float = 0.0, tar: float = 0.0, *, batch_first: bool = False) -> None:
        self.ar = number("ar", ar, 0.0, open_high=True)
        self.tar = number("tar", tar, 0.0, open_high=True)
        self.batch_first = flag("batch_first", batch_first)
        self.config = {"ar": self.ar, "tar": self.tar, "batch_first": self.batch_first}
        self._initialize({}, dict)

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
        swapped = x.ndim == 3 and not self.batch_first
        rows = x.swapaxes(0, 1) if swapped else x if x.ndim == 3 else x[np.newaxis]  # (B, T, features)
        shape = x.shape[:-1]
        valid = valid_by_row(shape, self.batch_first, lengths, mask)
        starts = np.zeros_like(valid) if reset is None else flags_by_row("reset", reset, shape, self.batch_first)
        gradient = np.zeros_like(rows)
        value = 0.0
        if self.ar and valid.any():
            chosen = rows[valid]
            value += self.ar * float(np.mean(np.square(chosen)))
            gradient[valid] = chosen * x.dtype.type(2 * self.ar / chosen.size)
        later, earlier = _pairs(valid, starts)
        if self.tar and len(later[0]):
            change = rows[later] - rows[earlier]
            value += self.tar * float(np.mean(np.square(change)))
            change *= x.dtype.type(2 * self.tar / change.size)
            gradient[later] += change
            gradient[earlier] -= change
        outer = gradient.swapaxes(0, 1) if swapped else gradient
        return value, np.ascontiguousarray(outer).reshape(x.shape), x


def _pairs(valid: Bools, starts: Bools) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Return the indices (row, step) of steps and of those before them, of all pairs of successive valid steps."""
    B, T = valid.shape
    numbers = np.where(valid, np.arange(T), -1)
    before = np.full((B, T), -1)
    before[:, 1:] = np.maximum.accumulate(numbers, axis=1)[:, :-1]
    rows, steps = np.nonzero(valid & (before >= 0))
    previous = before[rows, steps]
    sequence = np.cumsum(starts, axis=1)
    same = sequence[rows, steps] == sequence[rows, previous]
    return (rows[same], steps[same]), (rows[same], previous[same])
