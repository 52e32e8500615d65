"""Pooling over the steps of sequences: windows of them, or all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_lengths, expect_shape, flag, flag_array, float_array, one_of, positive_int
from .base import Gradients, Steps, row_stage
from .stepwise import Stepwise, Windowed
from .windows import padded, padding_of, pads_of, scattered, windows_of

if TYPE_CHECKING:
    from ..typing import Array, ArrayLike, Bools, Seed, State, StateLike
    from .base import Stage, Tape

_KINDS = ("max", "average")


class Pooling1D(Windowed):
    """Return the maximum or the mean of each feature over windows of steps.

    Parameters
    ----------
    kind : {"max", "average"}
        What is computed of a window.
    size : int
        Steps of a window.
    stride : int, optional
        Steps from one window to the next; `size` if None.
    padding : {"valid", "same"}
        Windows that are complete, or ceil(T / stride) of them; steps beyond the sequence do not count.
    batch_first : bool
        x is (B, T, features) rather than (T, B, features).

    Notes
    -----
    These are MaxPooling1D and AveragePooling1D of Keras. Equal maxima: the first one gets the gradient. In a
    Sequential it takes no lengths, mask and reset.

    Examples
    --------
    >>> from lstm_cy import Pooling1D
    >>> Pooling1D("max", 2)([[1.0, 4.0], [3.0, 2.0], [0.0, 0.0]])
    array([[3., 4.]])
    """

    dtype = None  # that of the input
    is_causal = False

    def __init__(
        self, kind: str, size: int, *, stride: int | None = None, padding: str = "valid", batch_first: bool = False
    ) -> None:
        self.kind, self.size = one_of("kind", kind, _KINDS), positive_int("size", size)
        self.stride = self.size if stride is None else positive_int("stride", stride)
        self.padding, self.batch_first = padding_of(padding, causal=False), flag("batch_first", batch_first)
        self.config = {
            "kind": self.kind,
            "size": self.size,
            "stride": self.stride,
            "padding": self.padding,
            "batch_first": self.batch_first,
        }
        self._initialize({}, dict)

    def output_features(self, features: int | None) -> int | None:
        return features

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
        pads = pads_of(x.shape[1:2], [self.size], [self.stride], [1], self.padding)
        filled = padded(x, pads, -np.inf if self.kind == "max" else 0.0)
        windows = windows_of(filled, [self.size], [self.stride], [1])
        if self.kind == "max":
            y, share = windows.max(axis=-1), windows.argmax(axis=-1)
        else:
            inside = padded(np.ones((1, x.shape[1], 1), x.dtype), pads)
            share = windows_of(inside, [self.size], [self.stride], [1])
            share = share / share.sum(axis=-1, keepdims=True)
            y = windows[..., 0] * share[..., 0]
            for k in range(1, self.size):  # in the order of the steps, as steps do
                y = y + windows[..., k] * share[..., k]
        return self._as_given(y, axes), self._tape(filled.shape, pads, axes, y, share)

    def stages_for(self, features: int | None, masked: bool) -> list[Stage]:
        """Return how one step is run; raise ValueError where it cannot be."""
        self.refuse_masks(masked)
        if self.padding == "same":
            raise ValueError(f"expected padding 'valid', since 'same' needs later steps, got {self!r}")
        options = {"size": self.size, "stride": self.stride, "wait": self.size - 1}
        return row_stage(f"window {self.kind}", features, **options)

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
        shape, ((before, after),), axes, y, share = self._content_of(tape)
        dy = float_array("dy", dy, y.dtype)
        expect_shape("dy", dy, self._as_given(y, axes).shape, "the shape of y")
        dy = self._swapped(dy[None] if axes == 2 else dy, axes)
        if self.kind == "max":
            share = share[..., None] == np.arange(self.size)
        dx = scattered(dy[..., None] * share, shape, self.stride, 1)
        return Gradients(self._as_given(dx[:, before : shape[1] - after], axes), None, {})


class GlobalPooling1D(Stepwise):
    """Return the maximum or the mean of each feature over the valid steps of a row.

    Parameters
    ----------
    kind : {"max", "average"}
        What is computed of the steps.
    batch_first : bool
        x is (B, T, features) rather than (T, B, features).

    Notes
    -----
    Rows without a valid step give 0. In a Sequential it gets the same `lengths` and `mask` as the LSTMs.

    Examples
    --------
    >>> from lstm_cy import LSTM, GlobalPooling1D, Linear, Sequential
    >>> model = Sequential(LSTM(3, 5), GlobalPooling1D("average"), Linear(5, 2))
    >>> model([[[1.0, 2.0, 3.0]] * 4] * 7, lengths=[7, 5, 1, 0])[0].shape
    (4, 2)
    """

    dtype = None  # that of the input
    is_causal = gives_steps = False

    def __init__(self, kind: str, *, batch_first: bool = False) -> None:
        self.kind, self.batch_first = one_of("kind", kind, _KINDS), flag("batch_first", batch_first)
        self.config = {"kind": self.kind, "batch_first": self.batch_first}
        self._initialize({}, dict)

    def output_features(self, features: int | None) -> int | None:
        return features

    def run(self, x: Any, states: list[StateLike | None], steps: Steps) -> tuple[Any, list[State]]:
        """Call the layer as a part of a model."""
        return self(x, lengths=steps.lengths, mask=steps.mask), []

    def run_forward(
        self, x: Any, states: list[StateLike | None], steps: Steps, rng: Seed
    ) -> tuple[Any, list[State], Tape]:
        """Do what `run` does by `forward`, and return the tape too."""
        y, tape = self.forward(x, lengths=steps.lengths, mask=steps.mask)
        return y, [], tape

    def __call__(self, x: ArrayLike, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None) -> Array:
        """Apply the layer.

        Parameters
        ----------
        x : array_like (T, B, features), (B, T, features) with batch_first, or (T, features)
        lengths, mask :
            As in a call of an LSTM; not both.

        Returns
        -------
        ndarray (B, features) or (features,)
        """
        return self.forward(x, lengths=lengths, mask=mask)[0]

    def forward(
        self, x: ArrayLike, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None, rng: Seed = None
    ) -> tuple[Array, Tape]:
        """Apply the layer, for training.

        Parameters
        ----------
        x, lengths, mask :
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
        valid = self._valid(x, axes, lengths, mask)
        if self.kind == "max":
            found = np.where(valid, x, -np.inf)
            best = found.argmax(axis=1, keepdims=True) if x.shape[1] else np.zeros((len(x), 0, x.shape[2]), int)
            share = ((np.arange(x.shape[1])[:, None] == best) & valid).astype(x.dtype)
            y = np.where(share != 0, x, 0)  # 0 times infinity is not 0
            y = (y * share).sum(axis=1)
        else:
            counts = np.maximum(valid.sum(axis=1, keepdims=True), 1)
            share = (valid / counts).astype(x.dtype)
            # in float64 and in the order of the steps, as steps do
            total = np.add.accumulate(np.where(valid, x, 0), axis=1, dtype=np.float64)[:, -1:].sum(axis=1)
            y = (total / counts[:, 0]).astype(x.dtype)
        return y[0] if axes == 2 else y, self._tape(share, x.shape, axes, y.dtype)

    def stages_for(self, features: int | None, masked: bool) -> list[Stage]:
        """Return how one step is run; raise ValueError where it cannot be."""
        return row_stage(f"running {self.kind}", features)

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
        share, shape, axes, dtype = self._content_of(tape)
        dy = float_array("dy", dy, dtype)
        expect_shape("dy", dy, shape[2:] if axes == 2 else (shape[0], shape[2]), "the shape of y")
        dx = np.broadcast_to(share, shape) * (dy[None] if axes == 2 else dy)[:, None]
        return Gradients(self._as_given(dx, axes), None, {})

    def _valid(self, x: Array, axes: int, lengths: ArrayLike | None, mask: ArrayLike | None) -> Bools:
        """Return True where a step is valid, (B, T, 1)."""
        if lengths is not None and mask is not None:
            raise ValueError("mask: expected None together with lengths, got both")
        B, steps = x.shape[:2]
        valid = np.ones((B, steps), bool)
        if mask is not None:
            valid = flag_array("mask", mask)
            shape = (steps,) if axes == 2 else (B, steps) if self.batch_first else (steps, B)
            expect_shape("mask", valid, shape, "the shape of x without its features")
            valid = valid.reshape(B, steps) if self.batch_first or axes == 2 else valid.T
        elif lengths is not None:
            counts = check_lengths(lengths, None if axes == 2 else B, steps)
            valid = np.arange(steps) < np.reshape(counts, (-1, 1))
        return valid[..., None]
