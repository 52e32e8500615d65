"""The Residual layer: the output of layers plus their input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from .._kernels.stages import Skip, skip
from ..checks import check_lengths, flag_array, float_array
from .base import Gradients, Layer, Stage, stages_of
from .sequential import Sequential

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ..typing import Array, ArrayLike, Bools, Narrow, Parameters, Seed, State, StateLike
    from .base import Steps, Tape


class Residual(Sequential):
    """Layers that run one after the other, and whose input is added to their output.

    ::

        y = layers(x) + x[..., :P]

    Parameters
    ----------
    *layers : LSTM, Linear, Dropout, Activation, Readout or Residual
        As for a Sequential. Their output has at most as many features as their input; if it has fewer, P, the first
        P features of the input are added.

    Raises
    ------
    TypeError, ValueError
        As for a Sequential; or a layer takes tokens, makes a mask or returns only the last step; or the output has
        more features than the input.

    Notes
    -----
    It may be a layer of a Sequential, and it is a model of its own: a call takes and returns a list of states, one for
    each LSTM. Parameters are named as in a Sequential; in one at index 2 they are "2.0.weight_ih_l0", ...

    Where the layout of sequences is known, from an LSTM or a Readout, the input is not added at steps past a row's
    length or where the mask is False.

    Source: He et al., Deep Residual Learning for Image Recognition (2015); amplifier models are trained so because the
    network then learns the difference of the two sounds (Wright et al., Real-Time Guitar Amplifier Emulation with Deep
    Learning, 2020).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Linear, Residual, Sequential
    >>> lstm, linear = LSTM(1, 12, seed=0), Linear(12, 1, seed=0)
    >>> x = np.ones((5, 1), "float32")
    >>> y, states = Residual(lstm, linear)(x)
    >>> np.array_equal(y, Sequential(lstm, linear)(x)[0] + x), len(states)
    (True, 1)
    """

    in_chains = True
    adds_input = True

    def __init__(self, *layers: Layer) -> None:
        super().__init__(*layers)
        wrong = [layer for layer in layers if layer.vocabulary_size is not None or layer.masks or not layer.gives_steps]
        if wrong or layers[-1].num_outputs > 1:
            raise ValueError(
                "layers: expected none that takes tokens, makes a mask, or returns only the last step or two arrays, "
                f"got {(wrong or layers)[-1]!r}"
            )
        inputs = self.input_features
        outputs = self.output_features(inputs)
        if inputs is not None and outputs is not None and outputs > inputs:
            raise ValueError(f"layers: expected at most {inputs} outputs, as many as inputs, got {outputs}")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """This layer itself; `parts` are the layers that it is made of."""
        return (self,)

    @property
    def num_traced(self) -> int:  # type: ignore[override]  # as many as its layers have
        """The number of layers whose gates `trace` can show."""
        return sum(layer.num_traced for layer in self.parts)

    @property
    def batch_first(self) -> Any:
        """Whether the batch axis of x comes first, as in its LSTMs and Readouts; None if there are none."""
        return self._batch_first if any(layer.batch_first is not None for layer in self.parts) else None

    def output_features(self, features: int | None) -> int | None:
        for layer in self.parts:
            features = layer.output_features(layer.input_features or features)
        return features

    def __call__(
        self,
        x: ArrayLike,
        states: Sequence[StateLike | None] | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        threads: int | None = None,
    ) -> tuple[Array, list[State]]:
        """Run the layers and add their input, for inference.

        Parameters
        ----------
        x, states, lengths, mask, reset, threads :
            As for a Sequential.

        Returns
        -------
        out : ndarray
        states : list of (h_n, c_n)
            One for each LSTM.
        """
        out, finals = super().__call__(x, states, lengths=lengths, mask=mask, reset=reset, threads=threads)
        return self.plus_input(x, out, lengths, mask)[0], finals

    def forward(
        self,
        x: ArrayLike,
        states: Sequence[StateLike | None] | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        threads: int | None = None,
        rng: Seed = None,
    ) -> tuple[Array, list[State], Tape]:
        """Run the layers and add their input, for training: with dropout, and with a tape for `backward`.

        Parameters
        ----------
        x, states, lengths, mask, reset, threads, rng :
            As for a Sequential.

        Returns
        -------
        out, states :
            As from a call.
        tape : Tape
            For `backward`, until the parameters change.
        """
        out, finals, tape = super().forward(
            x, states, lengths=lengths, mask=mask, reset=reset, threads=threads, rng=rng
        )
        total, valid = self.plus_input(x, out, lengths, mask)
        return total, finals, self._tape(tape, valid)

    def backward(self, tape: Tape, dy: Any = None, dstates: Sequence[Any] | None = None) -> Gradients:
        """Propagate gradients back through the forward pass that made `tape`.

        Parameters
        ----------
        tape, dy, dstates :
            As for a Sequential.

        Returns
        -------
        Gradients
            `x`; `state`, a list of (dh0, dc0); `parameters` with the layer's names.
        """
        inside, valid = self._content_of(tape)
        gradients = super().backward(inside, dy, dstates)
        if dy is None or gradients.x is None:
            return gradients
        return gradients._replace(x=_with_skipped(gradients.x, dy, valid))

    def partial_backward(self, tape: Any, dy: Any, names: Collection[str]) -> Gradients:
        if not self._goes_back_as(Residual):
            return super().partial_backward(tape, dy, names)
        inside, valid = self._content_of(tape)
        dx, found = self._partly_back(names, inside, dy)
        return Gradients(_with_skipped(dx, dy, valid), None, found)

    def parameter_gradients(self, tape: Any, dy: Any, names: Collection[str]) -> Parameters:
        if not self._goes_back_as(Residual):
            return super().parameter_gradients(tape, dy, names)
        inside, _ = self._content_of(tape)
        return self._gradients_of(names, inside, dy)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.parts))})"

    def run(self, x: Any, states: list[StateLike | None], steps: Steps) -> tuple[Any, list[State]]:
        """Call the layer as a part of a model."""
        return self(x, states, **steps._asdict())

    def run_forward(
        self, x: Any, states: list[StateLike | None], steps: Steps, rng: Seed
    ) -> tuple[Any, list[State], Tape]:
        """Call `forward` as a part of a model."""
        return self.forward(x, states, **steps._asdict(), rng=rng)

    def run_backward(self, tape: Any, dy: Any, dstates: list[Any]) -> Gradients:
        """Call `backward` as a part of a model."""
        return self.backward(tape, dy, dstates)

    def stages(self) -> list[Stage]:
        """Return how one step is run: the stages of the layers, and one that adds their input."""
        return self.stages_for(None, False)

    def stages_for(self, features: int | None, masked: bool) -> list[Stage]:
        """Return how one step is run: the stages of the layers, and one that adds their input."""
        inside = stages_of(self.parts, features, masked)
        if not inside:
            raise ValueError(f"expected a layer other than Dropout in {self!r}")
        if not all(getattr(stage.kernel, "is_steady", True) for stage in inside):
            raise ValueError(f"expected layers with an output at every step inside {self!r}")
        inputs, outputs = inside[0].inputs, inside[-1].outputs
        return [*inside, Stage(inputs, outputs, Skip(len(inside), inputs, outputs))]

    def quantized(self, kind: Narrow, sample: ArrayLike | None) -> Layer:
        """Return this layer with narrow weights, measured on `sample`; itself where it has no LSTM."""
        return self.quantize(kind, sample) if self.num_states else self

    def quantize(self, kind: Narrow, sample: ArrayLike | None = None) -> Residual:
        """Return a layer with narrow weights in its LSTMs, which shares the other layers with this one.

        Parameters
        ----------
        kind, sample :
            As for a Sequential.

        Returns
        -------
        Residual
            Its `report` is {index of the LSTM: its report}.
        """
        narrow = super().quantize(kind, sample)
        result = Residual(*narrow.parts)
        result.report = narrow.report
        result.take_metadata(self)
        return result

    def plus_input(
        self, x: ArrayLike, out: Array, lengths: ArrayLike | None, mask: ArrayLike | None
    ) -> tuple[Array, Bools | None]:
        """Return the sum of the input and what the layers made of it, and where its steps are valid, None for all."""
        valid = self._valid(out, lengths, mask)
        return self._sum(x, out, valid), valid

    def _valid(self, out: Array, lengths: ArrayLike | None, mask: ArrayLike | None) -> Bools | None:
        """Return where a step is valid, in the layout of the output with one feature; None if every step is."""
        if self.batch_first is None or (lengths is None and mask is None):
            return None
        if mask is not None:
            return flag_array("mask", mask)[..., None]
        *rows, steps = out.shape[:-1] if self.batch_first or out.ndim == 2 else out.shape[1::-1]
        valid = np.arange(steps) < check_lengths(lengths, rows[0] if rows else None, steps)[..., None]
        return (valid if self.batch_first or out.ndim == 2 else valid.T)[..., None]

    def _sum(self, x: ArrayLike, out: Array, valid: Bools | None) -> Array:
        """Return the output plus the input's first features, where `valid`; the same bits as one step gives."""
        out = np.ascontiguousarray(out, None if out.dtype in (np.float32, np.float64) else np.float32)
        added = float_array("x", x, out.dtype)
        if added.shape[:-1] != out.shape[:-1] or added.shape[-1] < out.shape[-1]:
            raise ValueError(f"layers: expected an output like the input, {added.shape}, or narrower, got {out.shape}")
        if valid is not None:
            added = np.where(valid, added, added.dtype.type(0))
        total = np.empty_like(out)
        skip(config.kernels(), np.ascontiguousarray(added), out, total)
        return total


def _with_skipped(dx: Array, dy: Any, valid: Bools | None) -> Array:
    """Return the gradient of the input: that through the layers plus `dy` itself, where `valid`."""
    dx = dx.copy()
    skipped = float_array("dy", dy, dx.dtype)
    if valid is not None:
        skipped = np.where(valid, skipped, 0)
    with np.errstate(over="ignore", invalid="ignore"):  # the sum itself shows infinity and NaN
        dx[..., : skipped.shape[-1]] += skipped
    return dx
