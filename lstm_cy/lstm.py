"""The LSTM layer: parameters, layers and directions, inference, back-propagation through time."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from . import activations as activation_functions
from . import config
from ._kernels import backward as backward_driver
from ._kernels import forward as forward_driver
from ._kernels.memory import Buffer
from ._kernels.network import Network
from .checks import (
    check_lengths,
    dtype_of,
    expect_shape,
    flag,
    flag_array,
    float_array,
    generator,
    int_within,
    non_negative_int,
    number,
    one_of,
    pair_of,
    positive_int,
    real_array,
    shown,
    warn,
)
from .layer import Gradients, Layer, Stage
from .layer import Tape as LayerTape

if TYPE_CHECKING:
    from typing import Self, TypeAlias

    from .layer import Steps
    from .quantize import QuantizedLSTM
    from .stepper import Stepper
    from .trace import GateTrace
    from .typing import (
        Activations,
        Array,
        ArrayLike,
        Bools,
        Coupling,
        DTypeLike,
        Ints,
        Narrow,
        Parameters,
        Seed,
        State,
        StateLike,
    )

    #: for each layer and direction the result of `_saved`
    _Saved: TypeAlias = list[tuple[Array | None, ...] | None]

#: the longest side of a weight matrix, because BLAS takes sizes as int
LARGEST_SIDE = 2**31 - 1
#: the largest number of layers: each costs time and objects, however few weights it has
MOST_LAYERS = 2**12
#: the values of `coupled_gates`, in the kernels' order
COUPLINGS = (None, "f=1-i", "i=1-f")


class LSTM(Layer):
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
    ``peephole_l{k}`` (3, H) in the order i, f, o, ``layer_norm_l{k}`` (4H,); rows of gates in the order i, f, g, o.

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

    dtype: np.dtype[Any]
    _network: Network
    is_model = True
    num_states = 1
    needs_steps = True
    _read_only = (*Layer._read_only, "num_directions", "output_size", "_hidden_width", "_variants", "_network")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        reverse: bool = False,
        peepholes: bool = False,
        coupled_gates: Coupling = None,
        layer_norm: bool = False,
        clip: float | None = None,
        cell_clip: float | None = None,
        proj_clip: float | None = None,
        activations: Activations = ("sigmoid", "tanh", "tanh"),
        forget_bias: ArrayLike | tuple[str, float] = 1.0,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ) -> None:
        self.input_size = positive_int("input_size", input_size)
        self.hidden_size = positive_int("hidden_size", hidden_size)
        self.num_layers = int_within("num_layers", num_layers, 1, MOST_LAYERS)
        self.bias = flag("bias", bias)
        self.batch_first = flag("batch_first", batch_first)
        self.dropout = number("dropout", dropout, 0.0, 1.0)
        self.bidirectional = flag("bidirectional", bidirectional)
        self.proj_size = non_negative_int("proj_size", proj_size)
        self.reverse = flag("reverse", reverse)
        self.peepholes = flag("peepholes", peepholes)
        self.coupled_gates = one_of("coupled_gates", coupled_gates, COUPLINGS)
        self.layer_norm = flag("layer_norm", layer_norm)
        self.clip = _bound("clip", clip)
        self.cell_clip = _bound("cell_clip", cell_clip)
        self.proj_clip = _bound("proj_clip", proj_clip)
        self.num_directions = 2 if self.bidirectional else 1
        self._hidden_width = self.proj_size or self.hidden_size
        self.output_size = self.num_directions * self._hidden_width
        self.dtype = dtype_of(dtype)
        self.activations = activation_functions.normalized(
            activations, self.num_directions, float(np.finfo(self.dtype).max)
        )
        if self.reverse and self.bidirectional:
            raise ValueError("reverse: expected False with bidirectional=True, which already has a reverse direction")
        if self.proj_size >= self.hidden_size:
            raise ValueError(f"proj_size: expected 0 to hidden_size - 1 = {self.hidden_size - 1}, got {self.proj_size}")
        if self.proj_clip is not None and not self.proj_size:
            raise ValueError(f"proj_clip: expected None without proj_size, got {self.proj_clip}")
        if max(self.input_size, 4 * self.hidden_size) > LARGEST_SIDE:
            raise ValueError(
                f"input_size, hidden_size: expected input_size and 4 * hidden_size up to {LARGEST_SIDE}, "
                f"got {self.input_size} and 4 * {self.hidden_size}"
            )
        if self.dropout and self.num_layers == 1 and not self._is_blank:
            warn_of_dropout(self.dropout)
        self.config = {
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "bias": self.bias,
            "batch_first": self.batch_first,
            "dropout": self.dropout,
            "bidirectional": self.bidirectional,
            "proj_size": self.proj_size,
            "reverse": self.reverse,
            "peepholes": self.peepholes,
            "coupled_gates": self.coupled_gates,
            "layer_norm": self.layer_norm,
            "clip": self.clip,
            "cell_clip": self.cell_clip,
            "proj_clip": self.proj_clip,
            "activations": [[list(entry) for entry in triple] for triple in self.activations],
            "dtype": self.dtype.name,
        }
        self._variants = self._cells()
        rng = self._generator(seed)
        self._initialize(self._shapes(), lambda: self._drawn(rng, forget_bias))

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
        from .weights import gate_order

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

    def _packed(self, parameters: Parameters) -> dict[str, Any]:
        weights = []
        for layer in range(self.num_layers):
            for suffix in self._suffixes(layer):
                weight_ih, weight_hh = (self._weight(parameters, part + suffix) for part in ("weight_ih", "weight_hh"))
                with np.errstate(invalid="ignore"):  # inf - inf is NaN; the file readers warn about such parameters
                    bias = parameters[f"bias_ih{suffix}"] + parameters[f"bias_hh{suffix}"] if self.bias else None
                others = [parameters.get(part + suffix) for part in ("weight_hr", "peephole", "layer_norm")]
                weights.append((self._layer_inputs(layer), weight_ih, weight_hh, others[0], bias, *others[1:]))
        network = Network(
            config.kernels(),
            self._products(),
            self.hidden_size,
            self._hidden_width,
            self.num_directions,
            self.reverse,
            self.dtype.itemsize,
            weights,
            self.proj_clip,
            self._variants,
        )
        return {"_network": network}

    @property
    def _input_features(self) -> int:
        return self.input_size

    def _output_features(self, features: int | None) -> int:
        return self.output_size

    @classmethod
    def least_size(cls, arguments: dict[str, Any]) -> int:
        """Return the least number of weights of a layer with these arguments, from a file, without making it."""
        inputs, H, layers = (
            positive_int(f"{cls.__name__}: {name}", arguments.get(name, default))
            for name, default in (("input_size", None), ("hidden_size", None), ("num_layers", 1))
        )
        projected = non_negative_int(f"{cls.__name__}: proj_size", arguments.get("proj_size", 0))
        bidirectional, peepholes, layer_norm = (
            flag(f"{cls.__name__}: {name}", arguments.get(name, False))
            for name in ("bidirectional", "peepholes", "layer_norm")
        )
        directions, P = 1 + bidirectional, projected or H
        columns = inputs + (layers - 1) * directions * P + layers * P
        others = projected * H + 3 * H * peepholes + 4 * H * layer_norm
        return directions * (4 * H * columns + layers * others)

    @classmethod
    def cost(cls, arguments: dict[str, Any]) -> int:
        """Return the number of objects that a layer with these arguments, from a file, is made of, roughly."""
        return 300 * int(arguments.get("num_layers", 1))

    @property
    def num_traced(self) -> int:  # type: ignore[override]  # as many as the layer has
        """The number of layers whose gates `trace` can show."""
        return self.num_layers

    @property
    def is_causal(self) -> bool:  # type: ignore[override]  # depends on the options
        """Whether the output of a step depends on no later step."""
        return not (self.bidirectional or self.reverse)

    def run(self, x: Any, states: list[StateLike | None], steps: Steps) -> tuple[Array, list[State]]:
        """Call the layer as a part of a model."""
        lengths, mask, reset, threads = steps
        y, state = self(x, states[0], lengths=lengths, mask=mask, reset=reset, threads=threads)
        return y, [state]

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

    def stage(self) -> Stage:
        """Return how one step is run; a ValueError says why the layer cannot run step by step."""
        if not self.is_causal:
            option = "bidirectional" if self.bidirectional else "reverse"
            raise ValueError(f"expected an LSTM that runs forwards, got {option}=True")
        return Stage(self.input_size, self.output_size, self._network)

    def quantized(self, kind: Narrow, sample: ArrayLike | None) -> QuantizedLSTM:
        """Return this layer with narrow weights, measured on `sample`."""
        return self.quantize(kind, sample)

    def pairs_of(self, name: str, states: Any) -> list[Any]:
        """Return the state of a call, a pair or None, as a list."""
        return [states]

    def states_of(self, pairs: list[Any]) -> Any:
        """Return the state of a call from a list of one pair."""
        return pairs[0]

    def _arguments(self) -> dict[str, Any]:
        found = super()._arguments()
        if set(self.activations) == {activation_functions.PLAIN}:  # also for two directions
            found.pop("activations", None)
        return found

    def _layer_rows(self) -> list[tuple[str, str, str, int, int]]:
        axes = "B, T" if self.batch_first else "T, B"
        return [("", repr(self), f"({axes}, {self.output_size})", *self._size())]

    def _cells(self) -> list[tuple[Any, ...]] | None:
        """Return the cell options of each direction, as Network takes them; None if every cell is plain."""
        plain = (activation_functions.PLAIN,) * self.num_directions
        bounds = self.clip, self.cell_clip
        if not (self._own_shares or self.coupled_gates or self.activations != plain or bounds != (None, None)):
            return None
        coupling = COUPLINGS.index(self.coupled_gates)
        return [(activation_functions.for_kernels(triple), coupling, *bounds) for triple in self.activations]

    def quantize(self, kind: Narrow, sample: ArrayLike | None = None) -> QuantizedLSTM:
        """Return a copy of this layer with narrow weights, which has the same calls but cannot be trained.

        Parameters
        ----------
        kind : {"bf16", "int8"}
            bf16 halves the weights; int8 quarters them, and each step also rounds x and h to 8 bits.
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
        from .quantize import quantize

        return quantize(self, kind, sample)

    def __call__(
        self,
        x: ArrayLike,
        state: StateLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        threads: int | None = None,
    ) -> tuple[Array, State]:
        """Run the layer over x, for inference: without dropout and without a tape for `backward`.

        Parameters
        ----------
        x : array_like (T, B, I), (B, T, I) with batch_first, or (T, I)
        state : None or (h0, c0)
            (L*D, B, P) and (L*D, B, H), or without B for one sequence; zeros if None. They are copied.
        lengths : None or array_like of int (B,)
            Number of valid steps of each row, 0 to T, in any order. From a row's length on x is not read and y is zero.
        mask, reset : None or array_like of bool (T, B), (B, T) with batch_first, or (T,)
            Where `mask` is False the state is carried over and y is zero; not together with lengths. Where `reset` is
            True the row's state is set to zero before that step; not with bidirectional or reverse.
        threads : None or int
            The largest number of threads to use; None for the value of `set_num_threads`. Engine "blas" uses one.

        Returns
        -------
        y : ndarray, in the layout of x with D*P in place of I
        (h_n, c_n) : ndarrays in the shapes of `state`
            The states after each row's last valid step; they share no memory with y.

        Raises
        ------
        TypeError, ValueError
            An argument is wrong; the message names it.
        """
        return self._run(x, state, (lengths, mask, reset), threads)[:2]

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
    ) -> tuple[Array, State, Tape]:
        """Run the layer over x, for training: with dropout, and with a tape for `backward`.

        Parameters
        ----------
        x, state, lengths, mask, reset, threads :
            As in a call.
        rng : None, int or numpy.random.Generator
            Seed or source of the dropout masks; None for a new random seed.

        Returns
        -------
        y, (h_n, c_n) :
            As from a call.
        tape : Tape
            For any number of calls of `backward`, until the parameters change.
        """
        if self.dropout or rng is not None:  # else unused, and making a generator takes longer than a small layer
            rng = generator("rng", rng)
        return self._run(x, state, (lengths, mask, reset), threads, rng, keep_tape=True)

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
        batch: Batch
        network = self._network
        batch, keep, saved, threads = self._content_of(tape, network)
        dstate = None if dstate is None else pair_of("dstate", dstate, "(dh_n, dc_n)")
        if dy is None and (dstate is None or all(part is None for part in dstate)):
            raise ValueError("dy, dstate: expected at least one of them, got None for both")
        if dy is not None:
            dy = float_array("dy", dy, self.dtype)
            expect_shape("dy", dy, batch.outer_shape(self.output_size), "the shape of y")
            dy = batch.batched(dy)
        dh, dc = self._states("dstate", dstate, batch)
        batch.clear(dh, dc)
        dx = np.zeros(batch.shape(self.input_size), self.dtype)
        inner = [np.empty(batch.shape(self.output_size), self.dtype) for _ in range(min(self.num_layers - 1, 2))]
        gradients = {name: np.zeros_like(array) for name, array in self._parameters.items()}
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
        )
        for suffix, (*_, shares) in zip(suffixes, sums, strict=True):
            self._spread_shares(gradients, suffix, shares)
        return Gradients(batch.unbatched(dx), batch.unbatched_states(dh, dc), gradients)

    def trace(
        self,
        x: ArrayLike,
        state: StateLike | None = None,
        lengths: ArrayLike | None = None,
        layer: int = -1,
        direction: int = 0,
        *,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        threads: int | None = None,
    ) -> GateTrace:
        """Run the layer over x, as a call does, and return the values of all gates of one layer and direction.

        Parameters
        ----------
        x, state, lengths :
            As in a call.
        layer : int
            0 to L - 1; a negative one counts from the last.
        direction : int
            0, or with bidirectional 1 for the second.
        mask, reset, threads :
            As in a call.

        Returns
        -------
        GateTrace
            Its arrays are, to the bit, those that a call computes.

        Raises
        ------
        TypeError, ValueError
            An argument is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_cy import LSTM
        >>> lstm = LSTM(3, 5, num_layers=2, seed=0)
        >>> x = np.ones((7, 4, 3))
        >>> trace = lstm.trace(x)
        >>> trace.forget.shape
        (7, 4, 5)
        >>> np.array_equal(trace.hidden, lstm(x)[0])
        True
        """
        from .trace import trace

        return trace(self, x, state, lengths, layer, direction, mask, reset, threads)

    def stepper(self, batch_size: int = 1) -> Stepper:
        """Return a Stepper, which runs this layer step by step, with its present weights and a state of zeros.

        Parameters
        ----------
        batch_size : int
            B, the number of streams that step together.

        Returns
        -------
        Stepper

        Raises
        ------
        TypeError, ValueError
            `batch_size` is not a positive integer, or the layer is bidirectional or reverse.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_cy import LSTM
        >>> stepper = LSTM(3, 5, seed=0).stepper(batch_size=2)
        >>> stepper.step(np.zeros((2, 3))).shape
        (2, 5)
        """
        from .stepper import Stepper

        return Stepper(self, batch_size)

    def _run(
        self,
        x: ArrayLike,
        state: StateLike | None,
        steps: tuple[ArrayLike | None, ...],
        threads: int | None,
        rng: Any = None,
        keep_tape: bool = False,
        traced: int | None = None,
    ) -> tuple[Array, State, Any]:
        """Run a call, a forward pass, or a call that records the direction with index `traced` for a trace.

        Return (y, (h_n, c_n), tape or None).
        """
        threads = config.threads_of(threads)
        network = self._network
        x = real_array("x", x)
        batch = self._batch(x, *steps)
        x = batch.batched(float_array("x", x, self.dtype))
        h, c = self._states("state", state, batch)
        allocate = np.zeros if batch.ragged else np.empty
        y = allocate(batch.shape(self.output_size), self.dtype)
        inner = np.empty_like(y) if self.num_layers > 1 else None
        keep: list[Array] | None = None
        saved: _Saved | None = None
        if keep_tape:
            saved = [self._saved(batch.rows, layer) for layer in range(self.num_layers) for _ in self._suffixes(layer)]
            if self.dropout:
                keep = [
                    (rng.random(y.shape, dtype=np.float32) >= self.dropout).view(np.uint8)
                    for _ in range(self.num_layers - 1)
                ]
        elif traced is not None:
            saved = [None] * (self.num_layers * self.num_directions)
            saved[traced] = self._saved(batch.rows, traced // self.num_directions, traced=True)
        order, scale = batch.order, self._scale() if keep else 1.0
        forward_driver.forward(network, x, y, inner, h, c, self.batch_first, order, keep, scale, saved, threads)
        batch.clear(h, c)
        tape = None if saved is None else Tape(self, network, (batch, keep, saved, threads))
        return batch.unbatched(y), batch.unbatched_states(h, c), tape

    def _weight(self, parameters: Parameters, name: str) -> Any:
        """Return a weight as Network takes it."""
        return parameters[name]

    def _products(self) -> object:
        """Return the BLAS products that this layer uses, or None."""
        return config.blas()

    @property
    def _own_shares(self) -> bool:
        """Whether some parameters get their gradients as shares of each row; then the bias does too."""
        return self.peepholes or self.layer_norm

    def _scale(self) -> float:
        return 1 / (1 - self.dropout) if self.dropout < 1 else 0.0

    def _suffixes(self, layer: int) -> tuple[str, ...]:
        """Return the suffixes of the names of a layer's parameters, one for each direction."""
        return (f"_l{layer}", f"_l{layer}_reverse")[: self.num_directions]

    def _drawn(self, rng: np.random.Generator, forget_bias: Any) -> Parameters:
        """Draw new parameters."""
        H = self.hidden_size
        forget_rows = _forget_rows(forget_bias, H, self.dtype, rng)
        bound = 1 / np.sqrt(H)
        arrays = {}
        for name, shape in self._shapes().items():
            if name.startswith("layer_norm"):
                arrays[name] = np.ones(shape, self.dtype)
            else:
                arrays[name] = rng.uniform(-bound, bound, shape).astype(self.dtype)
            if name.startswith("bias_ih"):
                arrays[name][H : 2 * H] += forget_rows
        return arrays

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {name: shape} of all parameters."""
        H, P = self.hidden_size, self._hidden_width
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.num_layers):
            for suffix in self._suffixes(layer):
                shapes[f"weight_ih{suffix}"] = 4 * H, self._layer_inputs(layer)
                shapes[f"weight_hh{suffix}"] = 4 * H, P
                if self.bias:
                    shapes[f"bias_ih{suffix}"] = shapes[f"bias_hh{suffix}"] = (4 * H,)
                if self.proj_size:
                    shapes[f"weight_hr{suffix}"] = P, H
                if self.peepholes:
                    shapes[f"peephole{suffix}"] = 3, H
                if self.layer_norm:
                    shapes[f"layer_norm{suffix}"] = (4 * H,)
        return shapes

    def _layer_inputs(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.output_size

    def _batch(self, x: Array, lengths: ArrayLike | None, mask: ArrayLike | None, reset: ArrayLike | None) -> Batch:
        """Return the Batch of a call after checking x's shape and the arguments for valid steps and resets."""
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            axes = "(B, T, I)" if self.batch_first else "(T, B, I)"
            raise ValueError(f"x: expected shape {axes} or (T, I) with I = {self.input_size}, got {x.shape}")
        if x.ndim == 2:
            T, B = x.shape[0], 1
        else:
            T, B = x.shape[:2] if not self.batch_first else x.shape[1::-1]
        if B > LARGEST_SIDE:
            raise ValueError(f"x: expected at most {LARGEST_SIDE} rows, got {B}")
        batch = Batch(T, B, x.ndim == 3, self.batch_first)
        if lengths is not None and mask is not None:
            raise ValueError("mask: expected None together with lengths, got both")
        if reset is not None and (self.bidirectional or self.reverse):
            raise ValueError(f"reset: expected None with {'bidirectional' if self.bidirectional else 'reverse'}=True")
        if lengths is not None:
            batch.set_lengths(lengths)
        if mask is not None:
            batch.set_mask(mask)
        if reset is not None:
            batch.set_reset(reset)
        return batch

    def _states(self, name: str, pair: Any, batch: Batch) -> State:
        """Return (h, c) as new arrays (L*D, B, P) and (L*D, B, H), zeros where None."""
        if pair is None:
            h = c = None
        else:
            h, c = pair_of(name, pair, "(h, c)")
            if name == "state" and (h is None) != (c is None):
                raise TypeError("state: expected both h and c, or None for the whole, got None for one of them")
        return self._state(name, "h", self._hidden_width, h, batch), self._state(name, "c", self.hidden_size, c, batch)

    def _state(self, name: str, part: str, width: int, value: ArrayLike | None, batch: Batch) -> Array:
        """Return one part of a state, "h" or "c", as a new array (L*D, B, width), zeros for None."""
        shape = self.num_layers * self.num_directions, batch.B, width
        if value is None:
            return np.zeros(shape, self.dtype)
        # An array that fits skips the checks, which take time.
        if type(value) is not np.ndarray or value.dtype != self.dtype or value.shape != shape:
            value = float_array(f"{name} {part}", value, self.dtype)
            size = "P" if part == "h" and self.proj_size else "H"
            outer, axes = (shape, f"(L*D, B, {size})") if batch.has_batch_axis else (shape[::2], f"(L*D, {size})")
            expect_shape(f"{name} {part}", value, outer, axes)
        return value.reshape(shape).copy()

    def _saved(self, rows: int, layer: int, traced: bool = False) -> tuple[Array | None, ...]:
        """Return uninitialised arrays for the values of one direction that backward, or a trace, needs.

        They are the arrays of a Saved in network.pxd.
        """
        H, P = self.hidden_size, self._hidden_width
        variant = None if self._variants is None else 11 * H + 4
        projected = H if self.proj_size else None
        output = P if self.proj_size or traced else None
        widths = (self._layer_inputs(layer), P, H, 4 * H, H, variant, projected, output, H if traced else None)
        line = 64 // self.dtype.itemsize  # each array starts a cache line
        ends = list(accumulate(-(-rows * (width or 0) // line) * line for width in widths))
        memory = np.frombuffer(memoryview(Buffer(ends[-1] * self.dtype.itemsize)), self.dtype)
        return tuple(
            None if width is None else memory[start : start + rows * width].reshape(rows, width)
            for width, start in zip(widths, [0, *ends], strict=False)
        )

    def _sums(self, gradients: Parameters, suffix: str) -> tuple[Array | None, ...]:
        """Return one direction's gradient arrays for backward: weight_ih, weight_hh, weight_hr, bias, shares."""
        shares = np.zeros(11 * self.hidden_size, self.dtype) if self._own_shares else None
        bias = "bias_ih" if shares is None else None
        return *(gradients.get(f"{name}{suffix}") for name in ("weight_ih", "weight_hh", "weight_hr", bias)), shares

    def _spread_shares(self, gradients: Parameters, suffix: str, shares: Any) -> None:
        """Copy a direction's shares to its gradients; both biases, whose sum alone is used, get the same gradient."""
        H = self.hidden_size
        if self.bias:
            if shares is not None:
                gradients["bias_ih" + suffix][:] = shares[: 4 * H]
            gradients["bias_hh" + suffix][:] = gradients["bias_ih" + suffix]
        if self.layer_norm:
            gradients["layer_norm" + suffix][:] = shares[4 * H : 8 * H]
        if self.peepholes:
            gradients["peephole" + suffix][:] = shares[8 * H :].reshape(3, H)


class Tape(LayerTape):
    """The arrays that a forward pass keeps for `LSTM.backward`."""

    __slots__ = ()

    @property
    def saved(self) -> tuple[tuple[Array | None, ...] | None, ...]:
        """For each layer and direction copies of the arrays that backward reads, those of a Saved in network.pxd."""
        _, _, saved, _ = self._held[-1]
        return tuple(
            None if arrays is None else tuple(None if array is None else array.copy() for array in arrays)
            for arrays in saved
        )


class Batch:
    """The sizes and valid steps of one call, and the conversion between the caller's shapes and the drivers'.

    Attributes
    ----------
    T, B : int
    has_batch_axis : bool
        False for one sequence (T, I), which the drivers see as a batch of one.
    rows : int
        Valid steps, summed over the rows.
    order : tuple (order, lengths, active, steps, resets)
        The arguments of `_kernels.forward`; an entry that is not needed is None.
    """

    __slots__ = ("B", "T", "batch_first", "cleared", "has_batch_axis", "order", "rows")

    def __init__(self, T: int, B: int, has_batch_axis: bool, batch_first: bool) -> None:
        self.T, self.B = T, B
        self.has_batch_axis = has_batch_axis
        self.batch_first = batch_first
        self.rows = T * B
        self.order: tuple[Any, ...] = (None,) * 5
        self.cleared: Bools | None = None  # rows that were reset after their last valid step: final state zero

    @property
    def ragged(self) -> bool:
        """Whether some steps are not valid."""
        return self.order[0] is not None

    def set_lengths(self, lengths: ArrayLike) -> None:
        """Make the first `lengths` steps of each row valid."""
        scalar = not self.has_batch_axis and np.ndim(lengths) == 0
        lengths = check_lengths(lengths, None if scalar else self.B, self.T).reshape(self.B)
        if (lengths < self.T).any():
            self._sort(lengths, None)

    def set_mask(self, mask: ArrayLike) -> None:
        """Make the steps where the mask is True valid."""
        valid = self._by_row("mask", mask)
        if not valid.all():
            self._sort(valid.sum(axis=1), np.argsort(~valid, axis=1, kind="stable"))

    def set_reset(self, reset: ArrayLike) -> None:
        """Zero states before the steps where `reset` is True; on a masked step this waits for the next valid one."""
        resets = self._by_row("reset", reset)
        _, _, _, steps, _ = self.order
        if steps is not None:
            so_far = np.cumsum(resets, axis=1)
            at_valid = np.take_along_axis(so_far, steps, axis=1)
            resets = np.diff(at_valid, axis=1, prepend=0) > 0
            lengths = self._lengths_by_row()
            last = np.where(lengths > 0, np.take_along_axis(at_valid, np.maximum(lengths - 1, 0)[:, None], 1)[:, 0], 0)
            self.cleared = so_far[:, -1] > last
        if resets.any():
            self.order = (*self.order[:4], np.ascontiguousarray(resets).view(np.uint8))

    def clear(self, h: Array, c: Array) -> None:
        """Zero the final states, or their gradients, of rows that were reset after their last valid step."""
        if self.cleared is not None:
            h[:, self.cleared] = 0
            c[:, self.cleared] = 0

    def _sort(self, lengths: Ints, steps: Ints | None) -> None:
        """Set `order` from the lengths, the longest row first; `steps` (B, T) has each row's valid steps first."""
        order = np.argsort(-lengths, kind="stable")
        ended = np.cumsum(np.bincount(lengths, minlength=self.T + 1))  # number of rows of at most t steps
        self.order = order, lengths[order], self.B - ended[: self.T], steps, None
        self.rows = int(lengths.sum())

    def _lengths_by_row(self) -> Ints:
        order, lengths, *_ = self.order
        by_row: Ints = np.empty_like(lengths)
        by_row[order] = lengths
        return by_row

    def _by_row(self, name: str, flags: ArrayLike) -> Bools:
        """Return the caller's flags as a bool array (B, T)."""
        axes = ("(B, T)" if self.batch_first else "(T, B)") if self.has_batch_axis else "(T,)"
        flags = flag_array(name, flags)
        expect_shape(name, flags, self.outer_shape(1)[:-1], axes)
        flags = flags.reshape(self.shape(1)[:-1])
        return np.ascontiguousarray(flags if self.batch_first else flags.T)

    def shape(self, width: int) -> tuple[int, int, int]:
        """Return the drivers' shape of an array of this batch."""
        return (self.B, self.T, width) if self.batch_first else (self.T, self.B, width)

    def outer_shape(self, width: int) -> tuple[int, ...]:
        """Return the caller's shape of an array of this batch."""
        return self.shape(width) if self.has_batch_axis else (self.T, width)

    def batched(self, array: Array) -> Array:
        """Return the caller's array in the drivers' shape."""
        return array if self.has_batch_axis else array.reshape(self.shape(array.shape[-1]))

    def unbatched(self, array: Array) -> Array:
        """Return the drivers' array in the caller's shape."""
        return array if self.has_batch_axis else array.reshape(self.outer_shape(array.shape[-1]))

    def unbatched_states(self, h: Array, c: Array) -> State:
        """Return the drivers' states in the caller's shapes."""
        return (h, c) if self.has_batch_axis else (h[:, 0], c[:, 0])


def _bound(name: str, value: float | None) -> float | None:
    return None if value is None else number(name, value, 0.0, open_low=True, open_high=True)


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


def warn_of_dropout(dropout: float) -> None:
    """Warn that dropout has no effect in a single layer."""
    warn(f"dropout: it acts between layers, so {dropout} has no effect with num_layers=1")
