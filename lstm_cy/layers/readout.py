"""The Readout layer: the last step of an LSTM, or all steps, as Keras returns them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import expect_shape, flag, float_array, one_of, pair_of, real_array
from .base import Gradients, Layer, Steps, row_stage
from .batch import valid_by_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..typing import Array, ArrayLike, Bools, Ints, Seed, State, StateLike
    from .base import Stage, Tape


# For each merge mode: the function of both directions a and b, and the function that gives their gradients.
_MERGES: dict[str | None, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "concat": (lambda a, b: np.concatenate([a, b], axis=-1), lambda dy, a, b: np.split(dy, 2, axis=-1)),
    "sum": (lambda a, b: a + b, lambda dy, a, b: (dy, dy)),
    "mul": (lambda a, b: a * b, lambda dy, a, b: (dy * b, dy * a)),
    "ave": (lambda a, b: (a + b) / 2, lambda dy, a, b: (dy / 2, dy / 2)),
    None: (lambda a, b: (a, b), lambda dy, a, b: dy),
}


class Readout(Layer):
    """Selects the last valid step or all steps of an LSTM's y, and merges directions, as Keras does.

    Parameters
    ----------
    bidirectional : bool
        y is that of a bidirectional LSTM: each direction has its own last step, and `merge_mode` joins them.
    go_backwards : bool
        y is that of an LSTM with `reverse`: its last step is the first in time. All steps are returned in the order in
        which the LSTM computed them, reversed in time, as Keras does.
    return_sequences : bool
        Return every step, not only the last.
    zero_output_for_mask : bool
        Return zero for a masked step; else the last valid step before it, or zero before the first.
    merge_mode : {"concat", "sum", "mul", "ave", None}
        How two directions are joined; None returns a pair of arrays.
    batch_first : bool
        y is (B, T, D*H) rather than (T, B, D*H).

    Notes
    -----
    The options and their meaning are those of Keras: an LSTM followed by a Readout is one of Keras's LSTM or
    Bidirectional layers. In a Sequential it gets the same `lengths` and `mask` as the LSTMs.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Linear, Readout, Sequential
    >>> model = Sequential(LSTM(3, 5), Readout(), Linear(5, 2))
    >>> model(np.zeros((7, 4, 3)), lengths=[7, 5, 1, 0])[0].shape
    (4, 2)
    """

    dtype = None  # that of the input
    needs_steps = True
    _read_only = (*Layer._read_only, "passes_on", "gives_steps", "num_outputs", "input_directions")

    def __init__(
        self,
        *,
        bidirectional: bool = False,
        go_backwards: bool = False,
        return_sequences: bool = False,
        zero_output_for_mask: bool = False,
        merge_mode: str | None = "concat",
        batch_first: bool = False,
    ) -> None:
        self.bidirectional = flag("bidirectional", bidirectional)
        self.go_backwards = flag("go_backwards", go_backwards)
        self.return_sequences = flag("return_sequences", return_sequences)
        self.zero_output_for_mask = flag("zero_output_for_mask", zero_output_for_mask)
        self.merge_mode = one_of("merge_mode", merge_mode, _MERGES)
        self.batch_first = flag("batch_first", batch_first)
        if self.bidirectional and self.go_backwards:
            raise ValueError("go_backwards: expected False with bidirectional=True, which already has such a direction")
        self.passes_on = self.return_sequences and not self.go_backwards and merge_mode == "concat"
        self.gives_steps = self.return_sequences
        self.input_directions = 2 if self.bidirectional else 1
        self.num_outputs = 2 if self.bidirectional and merge_mode is None else 1
        self.config = {
            "bidirectional": self.bidirectional,
            "go_backwards": self.go_backwards,
            "return_sequences": self.return_sequences,
            "zero_output_for_mask": self.zero_output_for_mask,
            "merge_mode": self.merge_mode,
            "batch_first": self.batch_first,
        }
        self._initialize({}, dict)

    def __call__(self, y: ArrayLike, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None) -> Any:
        """Apply the layer to an LSTM's y.

        Parameters
        ----------
        y : array_like (T, B, D*H), (B, T, D*H) with batch_first, or (T, D*H)
            The output of an LSTM.
        lengths, mask :
            The arguments that the LSTM got; not both.

        Returns
        -------
        ndarray, or two of them if `merge_mode` is None
            With return_sequences in the layout of y; else (B, D*H), or (D*H,) for one sequence. Merged directions have
            H features, except with "concat".
        """
        if self.passes_on and lengths is None and mask is None:
            return self._checked(y)
        return self.forward(y, lengths=lengths, mask=mask)[0]

    def forward(
        self, y: ArrayLike, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None, rng: Seed = None
    ) -> tuple[Any, Tape]:
        """Apply the layer to an LSTM's y, for training.

        Parameters
        ----------
        y, lengths, mask :
            As in a call.
        rng : None, int or numpy.random.Generator
            Not used.

        Returns
        -------
        out : ndarray, or two of them
            As from a call.
        tape :
            For `backward`.
        """
        y = self._checked(y)
        valid = valid_by_row(y.shape[:-1], self.batch_first, lengths, mask)
        valid = valid if y.ndim == 3 else valid[0]
        y = self._swap_axes(y)
        if self.bidirectional:
            steps = [self._steps(valid, False), self._steps(valid, True)[..., ::-1]]  # both in the order of time
        else:
            steps = [self._steps(valid, self.go_backwards)]
        selected = [self._select(half, which) for half, which in zip(np.split(y, len(steps), -1), steps, strict=True)]
        out = _MERGES[self.merge_mode][0](*selected) if self.bidirectional else selected[0]
        return out, self._tape(y.shape, steps, selected)

    def run(self, x: Any, states: list[StateLike | None], steps: Steps) -> tuple[Any, list[State]]:
        """Call the layer as a part of a model."""
        return self(x, lengths=steps.lengths, mask=steps.mask), []

    def run_forward(
        self, x: Any, states: list[StateLike | None], steps: Steps, rng: Seed
    ) -> tuple[Any, list[State], Tape]:
        """Do what `run` does by `forward`, and return the tape too."""
        y, tape = self.forward(x, lengths=steps.lengths, mask=steps.mask)
        return y, [], tape

    def stages_for(self, features: int | None, masked: bool) -> list[Stage]:
        """Return how one step is run; raise ValueError where it cannot be."""
        if self.bidirectional or self.go_backwards:
            raise ValueError(f"expected a Readout in the order of time, got {self!r}")
        # without padding the last step is the present one
        return row_stage("last", features, zero=self.zero_output_for_mask) if masked else []

    def output_features(self, features: int | None) -> int | None:
        if features is None or not self.bidirectional or self.merge_mode == "concat":
            return features
        return features // 2

    def backward(self, tape: Tape, dy: Any) -> Gradients:
        """Propagate a gradient back through the forward pass that made `tape`.

        Parameters
        ----------
        tape :
            From `forward`.
        dy : array_like in the shape of the output, or two of them

        Returns
        -------
        Gradients
            `x`, the gradient of y.
        """
        shape, steps, selected = self._content_of(tape)
        if self.bidirectional and self.merge_mode is None:
            dys: Any = [float_array("dy", half, selected[0].dtype) for half in pair_of("dy", dy, "of arrays")]
        else:
            dys = float_array("dy", dy, selected[0].dtype)
            merged = _MERGES[self.merge_mode][0](*selected) if self.bidirectional else selected[0]
            expect_shape("dy", dys, merged.shape, "the shape of the output")
            dys = _MERGES[self.merge_mode][1](dys, *selected) if self.bidirectional else [dys]
        for half, expected in zip(dys, selected, strict=True):
            expect_shape("dy", half, expected.shape, "the shape of the output")
        gradient = np.zeros((*shape[:-2], shape[-2] + 1, shape[-1]), selected[0].dtype)
        for half, part, which in zip(dys, np.split(gradient, len(steps), -1), steps, strict=True):
            rows = *np.indices(which.shape)[:-1], which
            np.add.at(part, rows, self._swap_axes(half) if self.return_sequences else half[..., None, :])
        return Gradients(self._swap_axes(gradient[..., 1:, :]), None, {})

    def _checked(self, y: ArrayLike) -> Array:
        array = real_array("y", y)
        if array.dtype.kind != "f" or array.ndim not in (2, 3) or (self.bidirectional and array.shape[-1] % 2):
            raise ValueError(
                f"y: expected floats (T, B, D*H) or (T, D*H) from an LSTM, got {array.dtype} {array.shape}"
            )
        return array

    def _swap_axes(self, y: Array) -> Array:
        """Convert y from its layout to (..., T, features), or back."""
        return y if self.batch_first or y.ndim == 2 else y.swapaxes(0, 1)

    def _steps(self, valid: Bools, backwards: bool) -> Ints:
        """Return for each output step its step of y, counted from 1; 0 for an output of zeros."""
        order = np.arange(1, valid.shape[-1] + 1)
        steps = np.where(valid[..., ::-1] if backwards else valid, order, 0)  # in the order of computation
        if not self.zero_output_for_mask:
            steps = np.maximum.accumulate(steps, axis=-1)
        if not self.return_sequences:
            steps = np.concatenate([np.zeros((*valid.shape[:-1], 1), np.intp), steps], axis=-1)[..., -1:]
        return np.where(steps > 0, len(order) + 1 - steps, 0) if backwards else steps

    def _select(self, y: Array, steps: Ints) -> Array:
        """Return the steps of y with these numbers, counted from 1; zeros for 0."""
        padded = np.concatenate([np.zeros_like(y, shape=(*y.shape[:-2], 1, y.shape[-1])), y], axis=-2)
        selected = np.take_along_axis(padded, steps[..., None], axis=-2)
        return self._swap_axes(selected) if self.return_sequences else selected[..., 0, :]
