"""Layers that change the form of sequences: all steps as one vector, and one vector as several steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import expect_shape, flag, float_array, positive_int, real_array
from .base import Gradients, Layer, Steps
from .stepwise import Stepwise

if TYPE_CHECKING:
    from typing import NoReturn

    from ..typing import Array, ArrayLike, Seed
    from .base import Tape


class Flatten(Stepwise):
    """Return the features of all steps of a row as one vector, in the order of the steps.

    Parameters
    ----------
    batch_first : bool
        x is (B, T, features) rather than (T, B, features).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Flatten, Linear, Sequential
    >>> model = Sequential(LSTM(3, 5), Flatten(), Linear(7 * 5, 2))
    >>> model(np.zeros((7, 4, 3)))[0].shape
    (4, 2)
    """

    dtype = None  # that of the input
    is_causal = gives_steps = False

    def __init__(self, *, batch_first: bool = False) -> None:
        self.batch_first = flag("batch_first", batch_first)
        self.config = {"batch_first": self.batch_first}
        self._initialize({}, dict)

    def stages_for(self, features: int | None, masked: bool) -> NoReturn:
        """Return how one step is run; raise ValueError where it cannot be."""
        raise ValueError(f"expected layers whose output has one size for any number of steps, got {self!r}")

    def forward(self, x: ArrayLike, rng: Seed = None) -> tuple[Array, Tape]:
        """Apply the layer, for training.

        Parameters
        ----------
        x : array_like
            As in a call.
        rng : None, int or numpy.random.Generator
            Not used.

        Returns
        -------
        y : ndarray
            As from a call.
        tape :
            For `backward`.
        """
        x, axes = self._rows_first(x)
        y = np.array(x).reshape(len(x), x.shape[1] * x.shape[2])
        return y[0] if axes == 2 else y, self._tape(x.shape, axes, x.dtype)

    def backward(self, tape: Tape, dy: ArrayLike) -> Gradients:
        """Propagate a gradient back through the forward pass that made `tape`.

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
        shape, axes, dtype = self._content_of(tape)
        dy = float_array("dy", dy, dtype)
        width = shape[1] * shape[2]
        expect_shape("dy", dy, (width,) if axes == 2 else (shape[0], width), "the shape of y")
        return Gradients(self._as_given(np.array(dy).reshape(shape), axes), None, {})


class RepeatVector(Layer):
    """Return a sequence whose steps all are the input.

    Parameters
    ----------
    steps : int
        T, the number of steps.
    batch_first : bool
        y is (B, T, features) rather than (T, B, features).

    Notes
    -----
    It begins a new sequence: in a Sequential the layers after it get no lengths, mask and reset.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Linear, Readout, RepeatVector, Sequential
    >>> autoencoder = Sequential(LSTM(3, 5), Readout(), RepeatVector(7), LSTM(5, 5), Linear(5, 3))
    >>> autoencoder(np.zeros((7, 4, 3)))[0].shape
    (7, 4, 3)
    """

    dtype = None  # that of the input
    is_causal = False
    begins_steps = True

    def __init__(self, steps: int, *, batch_first: bool = False) -> None:
        self.steps, self.batch_first = positive_int("steps", steps), flag("batch_first", batch_first)
        self.config = {"steps": self.steps, "batch_first": self.batch_first}
        self._initialize({}, dict)

    def steps_of(self, x: Any, steps: Steps) -> Steps:
        return Steps(threads=steps.threads)

    def output_features(self, features: int | None) -> int | None:
        return features

    def stages_for(self, features: int | None, masked: bool) -> NoReturn:
        """Return how one step is run; raise ValueError where it cannot be."""
        raise ValueError(f"expected layers whose output needs no later steps, got {self!r}")

    def __call__(self, x: ArrayLike) -> Array:
        """Apply the layer.

        Parameters
        ----------
        x : array_like (B, features) or (features,)

        Returns
        -------
        ndarray (T, B, features), (B, T, features) with batch_first, or (T, features)
        """
        return self.forward(x)[0]

    def forward(self, x: ArrayLike, rng: Seed = None) -> tuple[Array, Tape]:
        """Apply the layer, for training.

        Parameters
        ----------
        x : array_like
            As in a call.
        rng : None, int or numpy.random.Generator
            Not used.

        Returns
        -------
        y : ndarray
            As from a call.
        tape :
            For `backward`.
        """
        array = real_array("x", x)
        if array.ndim not in (1, 2):
            raise ValueError(f"x: expected shape (B, features) or (features,), got {array.shape}")
        axis = self._axis(array.ndim)
        y = np.repeat(np.expand_dims(array, axis), self.steps, axis)
        return y, self._tape(y.shape, y.dtype if y.dtype.kind == "f" else np.dtype("float32"))

    def backward(self, tape: Tape, dy: ArrayLike) -> Gradients:
        """Propagate a gradient back through the forward pass that made `tape`.

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
        shape, dtype = self._content_of(tape)
        dy = float_array("dy", dy, dtype)
        expect_shape("dy", dy, shape, "the shape of y")
        return Gradients(dy.sum(axis=self._axis(dy.ndim - 1)), None, {})

    def _axis(self, axes: int) -> int:
        """Return the axis of the steps for an input of this number of axes."""
        return 1 if self.batch_first and axes == 2 else 0
