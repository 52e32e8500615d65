"""What every call of an LSTM needs, whatever form its weights have: options, states, batches, drivers."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from .._kernels import forward as forward_driver
from .._kernels.network import CACHE_LINE_BYTES, COUPLING_KINDS, EXTRA_PARTS, Network
from .._kernels.records import CellOptions, DirectionWeights, Saved
from .._kernels.runtime.memory import Buffer
from ..checks import (
    LARGEST_SIDE,
    dtype_of,
    expect_shape,
    flag,
    float_array,
    int_within,
    non_negative_int,
    number,
    one_of,
    pair_of,
    positive_int,
    real_array,
    warn,
)
from . import activations as activation_functions
from . import direct
from .base import Layer, Stage
from .base import Tape as LayerTape
from .batch import Batch, refuse_both
from .masks import NO_MASKS, Masks, draw, scale_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..streaming.stepper import Stepper
    from ..trace.gates import GateTrace
    from ..typing import Activations, Array, ArrayLike, Coupling, DTypeLike, Parameters, Seed, State, StateLike
    from .base import Steps


#: the largest number of layers: each costs time and objects, however few weights it has
MOST_LAYERS = 2**12


class Recurrent(Layer):
    """The base of `LSTM` and `QuantizedLSTM`: everything but training and the form of the weights.

    Its parameters are those of `LSTM`. A subclass draws the initial parameters in `_drawn`.
    """

    dtype: np.dtype[Any]
    _network: Network
    is_model = True
    num_states = 1
    needs_steps = True
    _read_only = (
        *Layer._read_only,
        *("recurrent_dropout", "zoneout", "weight_drop", "learn_initial_state"),
        *("num_directions", "output_size", "_hidden_width", "_variants", "_network"),
    )

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
        recurrent_dropout: float = 0.0,
        zoneout: tuple[float, float] = (0.0, 0.0),
        weight_drop: float = 0.0,
        learn_initial_state: bool = False,
        recurrent_init: str = "uniform",
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
        self.coupled_gates = one_of("coupled_gates", coupled_gates, COUPLING_KINDS)
        self.layer_norm = flag("layer_norm", layer_norm)
        self.clip = _bound("clip", clip)
        self.cell_clip = _bound("cell_clip", cell_clip)
        self.proj_clip = _bound("proj_clip", proj_clip)
        self.recurrent_dropout = number("recurrent_dropout", recurrent_dropout, 0.0, 1.0)
        zone_h, zone_c = pair_of("zoneout", zoneout, "(for h, for c)")
        self.zoneout = number("zoneout for h", zone_h, 0.0, 1.0), number("zoneout for c", zone_c, 0.0, 1.0)
        self.weight_drop = number("weight_drop", weight_drop, 0.0, 1.0)
        self.learn_initial_state = flag("learn_initial_state", learn_initial_state)
        one_of("recurrent_init", recurrent_init, ("uniform", "orthogonal"))
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
        } | self._training_options()
        self._variants = self._cells()
        rng = self._generator(seed)
        self._initialize(self._shapes(), lambda: self._drawn(rng, forget_bias, recurrent_init == "orthogonal"))

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
            (L*D, B, P) and (L*D, B, H), or without B for one sequence; if None zeros, or with learn_initial_state the
            parameters. They are copied.
        lengths : None or array_like of int (B,)
            Number of valid steps of each row, 0 to T, in any order. From a row's length on x is not read and y is zero.
        mask, reset : None or array_like of bool (T, B), (B, T) with batch_first, or (T,)
            Where `mask` is False the state is carried over and y is zero; not together with lengths. Where `reset` is
            True the row's state is set to that of None before that step; not with bidirectional or reverse.
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
        if lengths is None and mask is None and reset is None:
            result = direct.call(self._network, x, state, self.batch_first, config.threads_of(threads))
            if result is not None:
                return result
        return self._run(x, state, (lengths, mask, reset), threads)[:2]

    def predict(self, data: Any, batch_size: int = 32, *, threads: int | None = None) -> Any:
        """Return the outputs for all rows of `data`, computed in batches of rows; see `Sequential.predict`."""
        from .predicting import predict

        return predict(self, data, batch_size, threads)

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
        from ..trace.recording import trace

        return trace(self, x, state, lengths, layer, direction, mask, reset, threads)

    def stepper(self, batch_size: int = 1) -> Stepper:
        """Return a Stepper, which runs this layer step by step, with its present weights, from the state of None.

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
        from ..streaming.stepper import Stepper

        return Stepper(self, batch_size)

    def _packed(self, parameters: Parameters) -> dict[str, Any]:
        weights = []
        for layer in range(self.num_layers):
            for suffix in self._suffixes(layer):
                weight_ih, weight_hh = (self._weight(parameters, part + suffix) for part in ("weight_ih", "weight_hh"))
                with np.errstate(invalid="ignore"):  # inf - inf is NaN; the file readers warn about such parameters
                    bias = parameters[f"bias_ih{suffix}"] + parameters[f"bias_hh{suffix}"] if self.bias else None
                weight_hr, peepholes, norm = (
                    parameters.get(part + suffix) for part in ("weight_hr", "peephole", "layer_norm")
                )
                inputs = self.layer_inputs(layer)
                weights.append(DirectionWeights(inputs, weight_ih, weight_hh, weight_hr, bias, peepholes, norm))
        return {"_network": self._network_of(weights, self._initial(parameters))}

    def _network_of(
        self, weights: list[DirectionWeights], initial: State | None, like: Network | None = None, bf16: bool = False
    ) -> Network:
        """Return the network of weights, for the instruction set of `like`, or the one in use; `bf16` rounds them."""
        return Network(
            config.kernels() if like is None else like.kernels,
            None if bf16 else self._products(),
            self.hidden_size,
            self._hidden_width,
            self.num_directions,
            self.reverse,
            self.dtype.itemsize,
            weights,
            self.proj_clip,
            self._variants,
            self.zoneout,
            initial,
            bf16,
        )

    def _rounded(self, network: Network) -> Network:
        """Return the network with the same weights whose products are in bf16; it is made once."""
        if network.rounded is None:
            network.rounded = self._network_of(network.weights, network.initial, network, bf16=True)
        return network.rounded

    def _initial(self, parameters: Parameters) -> State | None:
        """Return the learned initial states (L*D, P) and (L*D, H), or None."""
        if not self.learn_initial_state:
            return None
        suffixes = [suffix for layer in range(self.num_layers) for suffix in self._suffixes(layer)]
        h, c = (np.stack([parameters[part + suffix] for suffix in suffixes]) for part in ("initial_h", "initial_c"))
        return h, c

    def _training_options(self) -> dict[str, Any]:
        """Return the options for regularisation that differ from their defaults, for `config`.

        The others are left out, so that files and checkpoints stay as they were before there were such options.
        """
        options = {
            "recurrent_dropout": self.recurrent_dropout,
            "zoneout": list(self.zoneout) if any(self.zoneout) else None,
            "weight_drop": self.weight_drop,
            "learn_initial_state": self.learn_initial_state,
        }
        return {name: value for name, value in options.items() if value}

    @property
    def input_features(self) -> int:
        return self.input_size

    def output_features(self, features: int | None) -> int:
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

    def stage(self) -> Stage:
        """Return how one step is run; a ValueError says why the layer cannot run step by step."""
        if not self.is_causal:
            option = "bidirectional" if self.bidirectional else "reverse"
            raise ValueError(f"expected an LSTM that runs forwards, got {option}=True")
        return Stage(self.input_size, self.output_size, self._network)

    def pairs_of(self, name: str, states: Any) -> list[Any]:
        """Return the state of a call, a pair or None, as a list."""
        return [states]

    def states_of(self, pairs: list[Any]) -> Any:
        """Return the state of a call from a list of one pair."""
        return pairs[0]

    def arguments(self) -> dict[str, Any]:
        found = super().arguments()
        if set(self.activations) == {activation_functions.PLAIN}:  # also for two directions
            found.pop("activations", None)
        return found

    def _layer_rows(self) -> list[tuple[str, str, str, int, int]]:
        axes = "B, T" if self.batch_first else "T, B"
        return [("", repr(self), f"({axes}, {self.output_size})", *self._size())]

    def _cells(self) -> list[CellOptions] | None:
        """Return the cell options of each direction, as Network takes them; None if every cell is plain."""
        plain = (activation_functions.PLAIN,) * self.num_directions
        bounds = self.clip, self.cell_clip
        if not (self._own_shares or self.coupled_gates or self.activations != plain or bounds != (None, None)):
            return None
        coupling = COUPLING_KINDS[self.coupled_gates]
        return [CellOptions(activation_functions.for_kernels(triple), coupling, *bounds) for triple in self.activations]

    def _run(
        self,
        x: ArrayLike,
        state: StateLike | None,
        steps: tuple[ArrayLike | None, ...],
        threads: int | None,
        rng: Any = None,
        keep_tape: bool = False,
        traced: Collection[int] = (),
        bf16: bool = False,
    ) -> tuple[Array, State, Any]:
        """Run a call, a forward pass, or a call that records the directions with the indices `traced` for traces.

        With `bf16` the products of a forward pass are in bf16.

        Return (y, (h_n, c_n), tape or None).
        """
        threads = config.threads_of(threads)
        network = self._network
        x = real_array("x", x)
        batch = self._batch(x, *steps)
        x = batch.batched(float_array("x", x, self.dtype))
        h, c = self._states("state", state, batch, network.initial)
        allocate = np.zeros if batch.ragged else np.empty
        y = allocate(batch.shape(self.output_size), self.dtype)
        inner = np.empty_like(y) if self.num_layers > 1 else None
        keep: list[Array] | None = None
        saved: list[Saved | None] | None = None  # for each layer and direction
        masks, used = NO_MASKS, network
        if keep_tape:
            saved = [self._saved(batch.rows, layer) for layer in range(self.num_layers) for _ in self._suffixes(layer)]
            if self.dropout:
                keep = [
                    (rng.random(y.shape, dtype=np.float32) >= self.dropout).view(np.uint8)
                    for _ in range(self.num_layers - 1)
                ]
            if self._has_masks:
                masks = draw(self, batch, rng)
                used = self._dropped(network, masks)
            if bf16:
                used = self._rounded(used)
        elif traced:
            saved = [
                self._saved(batch.rows, index // self.num_directions, traced=True) if index in traced else None
                for index in range(self.num_layers * self.num_directions)
            ]
        order, scale = batch.order, self._scale() if keep else 1.0
        extra = (masks.steps, scale_of(self.recurrent_dropout)) if masks.steps else ()
        forward_driver.forward(used, x, y, inner, h, c, self.batch_first, order, keep, scale, saved, threads, *extra)
        batch.clear(h, c, network.initial)
        tape = None
        if saved is not None:
            tape = Tape(self, network, (batch, keep, saved, threads, masks, used, state is None))
        return batch.unbatched(y), batch.unbatched_states(h, c), tape

    def run_traced(
        self,
        x: ArrayLike,
        state: StateLike | None,
        steps: tuple[ArrayLike | None, ...],
        threads: int | None,
        indices: Collection[int],
    ) -> tuple[Array, State, Batch, list[Saved | None], State]:
        """Make a call that keeps the arrays of some directions, by their indices.

        Return (y, its final states, the batch, the Saved of each direction or None, the initial states).
        """
        y, finals, tape = self._run(x, state, steps, threads, traced=indices)
        *_, network, (batch, _, saved, *_) = tape._held
        return y, finals, batch, saved, self._states("state", state, batch, network.initial)

    @property
    def _has_masks(self) -> bool:
        """Whether a forward pass in training draws masks besides those of dropout between layers."""
        return bool(self.recurrent_dropout or self.weight_drop or any(self.zoneout))

    def _dropped(self, network: Network, masks: Masks) -> Network:
        """Return a network with the recurrent weights times their factors; the given one if there are none."""
        if not masks.weights:
            return network
        factors = masks.weights.values()
        weights = [
            own._replace(weight_hh=own.weight_hh * factor) for own, factor in zip(network.weights, factors, strict=True)
        ]
        return self._network_of(weights, network.initial, network)

    def recurrent_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {name: shape} of the recurrent weights, in the order of layers and directions."""
        return {name: shape for name, shape in self._shapes().items() if name.startswith("weight_hh")}

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
        return scale_of(self.dropout)

    def _suffixes(self, layer: int) -> tuple[str, ...]:
        """Return the suffixes of the names of a layer's parameters, one for each direction."""
        return (f"_l{layer}", f"_l{layer}_reverse")[: self.num_directions]

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {name: shape} of all parameters."""
        H, P = self.hidden_size, self._hidden_width
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.num_layers):
            for suffix in self._suffixes(layer):
                shapes[f"weight_ih{suffix}"] = 4 * H, self.layer_inputs(layer)
                shapes[f"weight_hh{suffix}"] = 4 * H, P
                if self.bias:
                    shapes[f"bias_ih{suffix}"] = shapes[f"bias_hh{suffix}"] = (4 * H,)
                if self.proj_size:
                    shapes[f"weight_hr{suffix}"] = P, H
                if self.peepholes:
                    shapes[f"peephole{suffix}"] = 3, H
                if self.layer_norm:
                    shapes[f"layer_norm{suffix}"] = (4 * H,)
                if self.learn_initial_state:
                    shapes[f"initial_h{suffix}"], shapes[f"initial_c{suffix}"] = (P,), (H,)
        return shapes

    def layer_inputs(self, layer: int) -> int:
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
        refuse_both(lengths, mask)
        if reset is not None and (self.bidirectional or self.reverse):
            raise ValueError(f"reset: expected None with {'bidirectional' if self.bidirectional else 'reverse'}=True")
        if lengths is not None:
            batch.set_lengths(lengths)
        if mask is not None:
            batch.set_mask(mask)
        if reset is not None:
            batch.set_reset(reset)
        return batch

    def _states(self, name: str, pair: Any, batch: Batch, initial: State | None = None) -> State:
        """Return (h, c) as new arrays (L*D, B, P) and (L*D, B, H); where None, `initial` for each row, or zeros."""
        if pair is None and initial is not None:
            begin = [np.repeat(part[:, np.newaxis], batch.B, axis=1) for part in initial]
            return begin[0], begin[1]
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

    def _saved(self, rows: int, layer: int, traced: bool = False) -> Saved:
        """Return uninitialised arrays for the values of one direction that backward, or a trace, needs."""
        H, P = self.hidden_size, self._hidden_width
        variant = None if self._variants is None else EXTRA_PARTS[0] * H + EXTRA_PARTS[1]
        projected = H if self.proj_size else None
        output = P if self.proj_size or traced else None
        widths = (self.layer_inputs(layer), P, H, 4 * H, H, variant, projected, output, H if traced else None)
        line = CACHE_LINE_BYTES // self.dtype.itemsize  # each array starts a cache line
        ends = list(accumulate(-(-rows * (width or 0) // line) * line for width in widths))
        memory = np.frombuffer(memoryview(Buffer(ends[-1] * self.dtype.itemsize)), self.dtype)
        return Saved(
            *(
                None if width is None else memory[start : start + rows * width].reshape(rows, width)
                for width, start in zip(widths, [0, *ends], strict=False)
            )
        )

    def _drawn(self, rng: np.random.Generator, forget_bias: Any, orthogonal: bool) -> Parameters:
        """Return new initial parameters."""
        raise NotImplementedError


class Tape(LayerTape):
    """The arrays that a forward pass keeps for `LSTM.backward`."""

    __slots__ = ()

    @property
    def saved(self) -> tuple[Saved | None, ...]:
        """For each layer and direction copies of the arrays that backward reads, those of a Saved in network.pxd."""
        saved = self._held[-1][2]
        return tuple(
            None if arrays is None else Saved(*(None if array is None else array.copy() for array in arrays))
            for arrays in saved
        )


def _bound(name: str, value: float | None) -> float | None:
    return None if value is None else number(name, value, 0.0, open_low=True, open_high=True)


def warn_of_dropout(dropout: float) -> None:
    """Warn that dropout has no effect in a single layer."""
    warn(f"dropout: it acts between layers, so {dropout} has no effect with num_layers=1")
