"""The LSTM layer: training, initial parameters, weights gate by gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from .._kernels import backward as backward_driver
from .._kernels.network import SHARE_STARTS
from .._kernels.records import GradientSums
from ..checks import dtype_of, expect_shape, float_array, generator, number, one_of, pair_of, shown
from .base import Gradients
from .batch import Batch
from .masks import scale_of
from .recurrent import Recurrent
from .recurrent import Tape as Tape

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Self

    from ..typing import Array, ArrayLike, Narrow, Parameters, Precision, Seed, State, StateLike
    from .base import Steps
    from .masks import Masks
    from .quantized import QuantizedLSTM


class LSTM(Recurrent):
    """Long short-term memory over whole sequences, with PyTorch's names and semantics.

    ::

        i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)      input gate
        f = sigmoid(W_if x + b_if + W_hf h + b_hf)      forget gate
        g = tanh(W_ig x + b_ig + W_hg h + b_hg)         cell candidate
        o = sigmoid(W_io x + b_io + W_ho h + b_ho)      output gate
        c = f * c + i * g                               cell
        h = o * tanh(c)                                 hidden state

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        L; each layer reads the outputs of the previous one.
    bias : bool
        Whether there are `bias_ih` and `bias_hh`.
    batch_first : bool
        x and y are (B, T, ...) rather than (T, B, ...); states are not affected.
    dropout : float
        The probability that an output of any layer but the last is zeroed in training; the others are scaled by
        1 / (1 - dropout).
    bidirectional : bool
        A second direction reads each row from its last valid step to its first; y has its outputs after the first's.
    proj_size : int
        P: after each step h is projected to P numbers, fewer than H (Sak, Senior and Beaufays, Long short-term memory
        based recurrent neural network architectures, 2014); 0 for no projection, then P is H.
    reverse : bool
        The only direction reads each row from its last valid step to its first; y is in the original order.
    peepholes : bool
        The gates also read the cell: i and f the old one, o the new one (Gers and Schmidhuber, Recurrent nets that time
        and count, 2000).
    coupled_gates : None, "f=1-i" or "i=1-f"
        Whether one gate is 1 minus another; the rows of the gate that is not computed are ignored. ONNX's input_forget
        is the first, TFLite's CIFG the second.
    layer_norm : bool
        Each gate's input is normalised over its H units, variance + 1e-8, scaled by `layer_norm`, and then the bias is
        added; as in TFLite (Ba, Kiros and Hinton, Layer normalization, 2016).
    clip, cell_clip, proj_clip : None or float
        Bounds, -clip to clip, of the inputs of the gate and candidate activations, of the cell, and of the projected
        output.
    activations : (gates, candidate, cell), or one such triple for each direction
        Functions by ONNX's names, in any case, each alone or as (name, alpha) or (name, alpha, beta) where it has such
        numbers: sigmoid, tanh, relu, affine, leakyrelu, thresholdedrelu, scaledtanh, hardsigmoid, elu, softsign,
        softplus. The same for all layers.
    forget_bias : float, array_like (H,), or ("chrono", T_max)
        Added to the forget rows of the new layer's `bias_ih`, so that an untrained layer remembers; "chrono" draws
        log(U(1, T_max - 1)), for memories of up to T_max steps (Tallec and Ollivier, Can recurrent neural networks
        warp time?, 2018). Ignored without bias.
    recurrent_dropout : float
        The probability that an element of h is zeroed, in training, in the recurrent product: for a whole sequence, by
        one mask for each row, layer and direction; the others are scaled by 1 / (1 - recurrent_dropout) (Gal and
        Ghahramani, A theoretically grounded application of dropout in recurrent neural networks, 2016).
    zoneout : (float, float)
        The probabilities that, in training, an element of h and one of c keeps its value of the step before; otherwise,
        in calls, steps and traces, the new value is the expectation, z * old + (1 - z) * new (Krueger et al., Zoneout:
        Regularizing RNNs by randomly preserving hidden activations, 2017).
    weight_drop : float
        The probability that an element of a ``weight_hh`` is zeroed in a training pass; the others are scaled by
        1 / (1 - weight_drop) (Merity, Keskar and Socher, Regularizing and optimizing LSTM language models, 2018).
    learn_initial_state : bool
        The initial state is a parameter, zeros in a new layer. Calls without a state begin with it, and resets, of a
        Stepper and a StreamPool too, return to it.
    recurrent_init : {"uniform", "orthogonal"}
        How ``weight_hh`` of a new layer is drawn: as the other weights, or so that each gate's matrix has orthonormal
        columns.
    dtype : {"float32", "float64"}
        The dtype of parameters, states and results.
    seed : None, int or numpy.random.Generator
        Seed or source of the initial parameters, U(-1/sqrt(H), 1/sqrt(H)).

    Attributes
    ----------
    num_directions : int
        D: 2 if bidirectional, else 1.
    output_size : int
        D*P, the number of features of y.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong; the message names it.

    Notes
    -----
    Shapes: T steps, B rows, D directions. x (T, B, I), or (B, T, I) with batch_first, or one sequence (T, I). y has the
    layout of x, with D*P in place of I. h_n is (L*D, B, P) and c_n (L*D, B, H), index layer * D + direction; for one
    sequence they have no B.

    Parameters, with the suffix ``_reverse`` for the second direction: ``weight_ih_l{k}`` (4H, I or D*P),
    ``weight_hh_l{k}`` (4H, P), ``bias_ih_l{k}`` and ``bias_hh_l{k}`` (4H,), ``weight_hr_l{k}`` (P, H),
    ``peephole_l{k}`` (3, H) in the order i, f, o, ``layer_norm_l{k}`` (4H,), ``initial_h_l{k}`` (P,) and
    ``initial_c_l{k}`` (H,); rows of gates in the order i, f, g, o.

    Inputs are converted to the layer's dtype as NumPy's ``same_kind`` rule allows; they are never changed. Any number
    of threads may call one layer at once, because it keeps no state between calls.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM
    >>> lstm = LSTM(3, 5, num_layers=2, seed=0)
    >>> y, (h_n, c_n) = lstm(np.zeros((7, 4, 3)))
    >>> y.shape, h_n.shape, c_n.shape
    ((7, 4, 5), (2, 4, 5), (2, 4, 5))

    Run a sequence in two parts and carry the state over:

    >>> first, state = lstm(np.ones((3, 4, 3)))
    >>> second, state = lstm(np.ones((4, 4, 3)), state)
    """

    @classmethod
    def from_gates(
        cls,
        *,
        forget: tuple[ArrayLike, ArrayLike],
        input: tuple[ArrayLike, ArrayLike],
        candidate: tuple[ArrayLike, ArrayLike],
        output: tuple[ArrayLike, ArrayLike],
        **options: Any,
    ) -> Self:
        """Make a layer from the weights of each gate, as textbooks write them: W acts on [h, x].

        Parameters
        ----------
        forget, input, candidate, output : (W, b)
            W (H, H + I), its first H columns for h, the others for x; b (H,). They are copied.
        **options
            `batch_first`, `reverse`, `coupled_gates`, `clip`, `cell_clip`, `activations`, `dtype` as for LSTM.

        Returns
        -------
        LSTM
            With b in `bias_ih` and zeros in `bias_hh`.

        Examples
        --------
        A cell that copies its input: input and output gates are open, the forget gate is closed.

        >>> import numpy as np
        >>> from lstm_cy import LSTM
        >>> closed, open_ = (np.zeros((1, 2)), [-50.0]), (np.zeros((1, 2)), [50.0])
        >>> lstm = LSTM.from_gates(forget=closed, input=open_, output=open_, candidate=(np.array([[0.0, 1.0]]), [0.0]))
        >>> y, _ = lstm(np.array([[0.5], [-0.5]]))
        >>> np.allclose(y, np.tanh(np.tanh([[0.5], [-0.5]])))
        True
        """
        from ..weights import gate_order

        known = ("batch_first", "reverse", "coupled_gates", "clip", "cell_clip", "activations", "dtype")
        unknown = set(options) - set(known)
        if unknown:
            raise TypeError(f"from_gates: expected only {', '.join(known)} as options, got {sorted(unknown)}")
        pairs = {"forget": forget, "input": input, "candidate": candidate, "output": output}
        pairs = {name: pair_of(name, pair, "(W, b)") for name, pair in pairs.items()}
        dtype = dtype_of(options.get("dtype", "float32"))
        weights = {name: float_array(f"{name} W", pair[0], dtype) for name, pair in pairs.items()}
        biases = {name: float_array(f"{name} b", pair[1], dtype) for name, pair in pairs.items()}
        shape = weights["forget"].shape
        if len(shape) != 2 or not 0 < shape[0] < shape[1]:
            raise ValueError(f"forget W: expected shape (H, H + I) with H and I at least 1, got {shape}")
        for name in pairs:
            expect_shape(f"{name} W", weights[name], shape, "(H, H + I)")
            expect_shape(f"{name} b", biases[name], shape[:1], "(H,)")
        H = shape[0]
        weight = gate_order.stack(weights)
        layer = cls(shape[1] - H, H, seed=0, **options)
        layer.load_state_dict(
            {
                "weight_ih_l0": weight[:, H:],
                "weight_hh_l0": weight[:, :H],
                "bias_ih_l0": gate_order.stack(biases),
                "bias_hh_l0": np.zeros(4 * H),
            }
        )
        return layer

    def quantize(self, kind: Narrow, sample: ArrayLike | None = None) -> QuantizedLSTM:
        """Return a copy of this layer with narrow weights, which has the same calls but cannot be trained.

        Parameters
        ----------
        kind : {"bf16", "int8"}
            bf16 halves the weights, int8 quarters them; each step also rounds x and h, to bf16 or to 8 bits.
        sample : array_like in x's shape, or None
            The input on which the report is measured; None takes 100 steps of standard normal numbers.

        Returns
        -------
        QuantizedLSTM
            Its `report` is a dict. "layers" has for each layer {"largest", "rms"}, the error of its output compared
            with this layer, when it and all layers below it are narrow. "sample" describes the input. "bytes_before"
            and "bytes_after" are the sizes of the parameters.

        Raises
        ------
        ValueError
            Another kind, a float64 layer, a sample of another shape or not finite, weights that are not finite.

        Examples
        --------
        >>> from lstm_cy import LSTM
        >>> narrow = LSTM(16, 32, seed=0).quantize("bf16")
        >>> narrow.report["layers"][0]["largest"] < 0.01
        True
        >>> narrow.report["bytes_before"], narrow.report["bytes_after"]
        (25600, 13312)
        """
        from .quantized import quantize

        return quantize(self, kind, sample)

    def forward(
        self,
        x: ArrayLike,
        state: StateLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        threads: int | None = None,
        rng: Seed = None,
        precision: Precision | None = None,
    ) -> tuple[Array, State, Tape]:
        """Run the layer over x, for training: with dropout, and with a tape for `backward`.

        Parameters
        ----------
        x, state, lengths, mask, reset, threads :
            As in a call.
        rng : None, int or numpy.random.Generator
            Seed or source of all random masks; None for a new random seed.
        precision : {None, "float32", "bf16"}
            With "bf16" the products with `weight_ih` and `weight_hh`, here and in `backward`, and those of their
            gradients, are of numbers rounded to bf16, with sums of float32; parameters, states and everything else
            stay float32. "float32" computes in the layer's dtype. None: that of `config.using`, else "float32".

        Returns
        -------
        y, (h_n, c_n) :
            As from a call.
        tape : Tape
            For any number of calls of `backward`, until the parameters change.

        Raises
        ------
        TypeError, ValueError
            An argument is wrong; the message names it. bf16 needs a float32 layer.
        """
        chosen = config.precision() if precision is None else one_of("precision", precision, config.PRECISIONS)
        if chosen == "bf16" and self.dtype != np.float32:
            raise ValueError(f"precision: expected 'float32' for a {self.dtype.name} layer, got 'bf16'")
        # else unused, and making a generator takes longer than a small layer
        if self.dropout or self._has_masks or rng is not None:
            rng = generator("rng", rng)
        return self._run(x, state, (lengths, mask, reset), threads, rng, keep_tape=True, bf16=chosen == "bf16")

    def backward(
        self, tape: Tape, dy: ArrayLike | None = None, dstate: tuple[ArrayLike | None, ArrayLike | None] | None = None
    ) -> Gradients:
        """Propagate gradients back through the call that made `tape`, on the same number of threads.

        Parameters
        ----------
        tape : Tape
            From `forward`.
        dy : array_like in y's shape, or None
            Gradient of the loss with respect to y; from a row's length on it is not read.
        dstate : None or (dh_n, dc_n)
            Gradients with respect to the final states, in their shapes; either may be None. dy and dstate may not both
            be None.

        Returns
        -------
        Gradients
            `x` in x's shape, zero where a step is not valid; `state` = (dh0, dc0); `parameters` {name: array}.

        Raises
        ------
        RuntimeError
            The parameters have changed since the tape was made.
        TypeError, ValueError
            An argument is wrong; the message names it.
        """
        return self._propagated(tape, dy, dstate, True, self._parameters)

    def partial_backward(self, tape: Any, dy: Any, names: Collection[str]) -> Gradients:
        if not self._goes_back_as(LSTM):
            return super().partial_backward(tape, dy, names)
        return self._propagated(tape, dy, None, True, names)

    def parameter_gradients(self, tape: Any, dy: Any, names: Collection[str]) -> Parameters:
        if not self._goes_back_as(LSTM):
            return super().parameter_gradients(tape, dy, names)
        gradients = self._propagated(tape, dy, None, False, names).parameters
        return {name: array for name, array in gradients.items() if name in names}

    def _propagated(self, tape: Any, dy: Any, dstate: Any, with_dx: bool, names: Collection[str]) -> Gradients:
        """Return what `backward` does, without `x` unless `with_dx`, and of the weights only those in `names`."""
        batch: Batch
        masks: Masks
        batch, keep, saved, threads, masks, network, from_initial = self._content_of(tape, self._network)
        dstate = None if dstate is None else pair_of("dstate", dstate, "(dh_n, dc_n)")
        if dy is None and (dstate is None or all(part is None for part in dstate)):
            raise ValueError("dy, dstate: expected at least one of them, got None for both")
        if dy is not None:
            dy = float_array("dy", dy, self.dtype)
            expect_shape("dy", dy, batch.outer_shape(self.output_size), "the shape of y")
            dy = batch.batched(dy)
        dh, dc = self._states("dstate", dstate, batch)
        cleared = batch.cleared_sums(dh, dc) if self.learn_initial_state else None
        batch.clear(dh, dc)
        dx = (np.zeros if with_dx else np.empty)(batch.shape(self.input_size), self.dtype)
        inner = [np.empty(batch.shape(self.output_size), self.dtype) for _ in range(min(self.num_layers - 1, 2))]
        gradients = {
            name: np.zeros_like(array)
            for name, array in self._parameters.items()
            if name in names or name.startswith("initial_")
        }
        suffixes = [suffix for layer in range(self.num_layers) for suffix in self._suffixes(layer)]
        sums = [self._sums(gradients, suffix) for suffix in suffixes]
        backward_driver.backward(
            network,
            dx,
            dy,
            inner,
            dh,
            dc,
            self.batch_first,
            batch.order,
            keep,
            self._scale(),
            saved,
            sums,
            threads,
            masks.steps,
            scale_of(self.recurrent_dropout),
            from_initial,
            with_dx,
        )
        for suffix, own in zip(suffixes, sums, strict=True):
            self._spread_shares(gradients, suffix, own.shares)
        for name, factors in masks.weights.items():
            if name in gradients:
                gradients[name] *= factors
        if cleared is not None:
            for own, *more in zip(sums, *cleared, strict=True):
                own.initial_h[:] += more[0]
                own.initial_c[:] += more[1]
        return Gradients(batch.unbatched(dx) if with_dx else None, batch.unbatched_states(dh, dc), gradients)

    def run_forward(
        self, x: Any, states: list[StateLike | None], steps: Steps, rng: Seed
    ) -> tuple[Array, list[State], Tape]:
        """Do what `run` does by `forward`, and return the tape too."""
        lengths, mask, reset, threads = steps
        y, state, tape = self.forward(x, states[0], lengths=lengths, mask=mask, reset=reset, threads=threads, rng=rng)
        return y, [state], tape

    def run_backward(self, tape: Any, dy: Any, dstates: list[Any]) -> Gradients:
        """Call `backward` for what `run_forward` did; the gradients' `state` is a list of one pair."""
        gradients = self.backward(tape, dy, dstates[0])
        return gradients._replace(state=[gradients.state])

    def quantized(self, kind: Narrow, sample: ArrayLike | None) -> QuantizedLSTM:
        """Return this layer with narrow weights, measured on `sample`."""
        return self.quantize(kind, sample)

    def _drawn(self, rng: np.random.Generator, forget_bias: Any, orthogonal: bool) -> Parameters:
        """Draw new parameters."""
        H = self.hidden_size
        forget_rows = _forget_rows(forget_bias, H, self.dtype, rng)
        bound = 1 / np.sqrt(H)
        arrays = {}
        for name, shape in self._shapes().items():
            if name.startswith("layer_norm"):
                arrays[name] = np.ones(shape, self.dtype)
            elif name.startswith("initial"):
                arrays[name] = np.zeros(shape, self.dtype)
            elif orthogonal and name.startswith("weight_hh"):
                gates = [_orthogonal(H, shape[1], rng) for _ in range(4)]
                arrays[name] = np.concatenate(gates).astype(self.dtype)
            else:
                arrays[name] = rng.uniform(-bound, bound, shape).astype(self.dtype)
            if name.startswith("bias_ih"):
                arrays[name][H : 2 * H] += forget_rows
        return arrays

    def _sums(self, gradients: Parameters, suffix: str) -> GradientSums:
        """Return one direction's gradient arrays for backward."""
        shares = np.zeros(SHARE_STARTS["end"] * self.hidden_size, self.dtype) if self._own_shares else None
        ih, hh, hr, *initial = (
            gradients.get(name + suffix) for name in ("weight_ih", "weight_hh", "weight_hr", "initial_h", "initial_c")
        )
        bias = gradients.get("bias_ih" + suffix, gradients.get("bias_hh" + suffix)) if shares is None else None
        return GradientSums(ih, hh, hr, bias, shares, *initial)

    def _spread_shares(self, gradients: Parameters, suffix: str, shares: Any) -> None:
        """Copy a direction's shares to its gradients; both biases, whose sum alone is used, get the same gradient."""
        bias, norm, peephole, _ = (start * self.hidden_size for start in SHARE_STARTS.values())
        biases = [gradients[name] for name in ("bias_ih" + suffix, "bias_hh" + suffix) if name in gradients]
        for array in biases:
            array[:] = biases[0] if shares is None else shares[bias:norm]
        if "layer_norm" + suffix in gradients:
            gradients["layer_norm" + suffix][:] = shares[norm:peephole]
        if "peephole" + suffix in gradients:
            gradients["peephole" + suffix][:] = shares[peephole:].reshape(3, -1)


def _orthogonal(rows: int, columns: int, rng: np.random.Generator) -> Array:
    """Return a random matrix (rows, columns), rows >= columns, with orthonormal columns, uniformly distributed.

    Source: Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks (2014); the signs as in Mezzadri, How to generate random matrices from the classical compact groups (2007).
    """
    q, r = np.linalg.qr(rng.standard_normal((rows, columns)))
    result: Array = q * np.where(np.diag(r) < 0, -1, 1)
    return result


def _forget_rows(forget_bias: Any, H: int, dtype: np.dtype[Any], rng: np.random.Generator) -> Array:
    """Return the numbers to add to the forget rows of a new bias_ih, a scalar or (H,)."""
    if isinstance(forget_bias, tuple) and len(forget_bias) == 2 and forget_bias[0] == "chrono":
        longest = number("forget_bias", forget_bias[1], 2, open_high=True)
        return np.log(rng.uniform(1, longest - 1, H))
    if isinstance(forget_bias, str) or (isinstance(forget_bias, tuple) and "chrono" in forget_bias):
        raise ValueError(
            f"forget_bias: expected a number, an array (H,) or ('chrono', T_max), got {shown(forget_bias)}"
        )
    rows = float_array("forget_bias", forget_bias, np.dtype("float64"))
    if rows.shape not in ((), (H,)) or not np.isfinite(rows).all():
        raise ValueError(f"forget_bias: expected a finite number or an array (H,) = ({H},), got shape {rows.shape}")
    float_array("forget_bias", rows, dtype)
    return rows
