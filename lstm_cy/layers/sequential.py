"""Sequential: a model that applies layers one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import LONGEST, generator, shown
from .base import Composite, Gradients, Layer, Steps, or_unknown, run_layers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ..streaming.stepper import Stepper
    from ..trace.gates import GateTrace
    from ..typing import ArrayLike, Narrow, Parameters, Seed, State, StateLike
    from .base import Tape

    #: index, layer, tape, and the requested parameters
    _Requested = tuple[str, Layer, Any, list[str]]


class Sequential(Composite):
    """A model that applies layers one after the other.

    Parameters
    ----------
    *layers : Layer
        LSTM, Linear, Embedding, Dropout, Activation, Masking, Readout, Residual, Conv1D, Pooling1D, GlobalPooling1D,
        BatchNormalization, LayerNormalization, Flatten, RepeatVector, or layers of one's own. All of one dtype; those
        with the option `batch_first` all have it, or none of them.

    Notes
    -----
    Parameters are named after the layer's index: "0.weight", "1.weight_ih_l0", ...

    A Linear that is tied to an Embedding needs this Embedding among the layers.

    One layer may be used at several indices. Its parameters then appear once, named after the first index, and their
    gradients are sums over all uses; each use of an LSTM has its own state. `config` and files describe the later uses
    by {"type": "Shared", "layer": first index}.

    An Embedding with `mask_zero`, or a Masking, makes the mask of padding for the later layers.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
    >>> model = Sequential(Embedding(10, 4), LSTM(4, 8), Linear(8, 10))
    >>> logits, states = model(np.zeros((5, 2), int))
    >>> logits.shape, len(states)
    ((5, 2, 10), 1)
    """

    is_model = True
    dtype: np.dtype[Any]
    in_chains = False
    _read_only = (*Composite._read_only, "batch_first", "gives_steps", "_batch_first", "_num_states")

    def __init__(self, *layers: Layer) -> None:
        if not layers:
            raise ValueError("layers: expected at least one, got none")
        for index, layer in enumerate(layers):
            if not isinstance(layer, Layer) or not layer.in_chains:
                raise TypeError(f"layers: expected LSTM, Linear, Embedding or the like, got {shown(layer)} at {index}")
            if layer.tied is not None and all(other is not layer.tied for other in layers):
                raise ValueError(f"layers: expected the Embedding too to which {layer!r} at {index} is tied")
        typed = [layer for layer in layers if layer.parameters or not layer.parts]
        dtypes = {layer.dtype for layer in typed if layer.dtype is not None}
        if len(dtypes) > 1:
            raise ValueError(f"layers: expected one dtype, got {', '.join(sorted(map(str, dtypes)))}")
        layouts = {layer.batch_first for layer in layers if layer.batch_first is not None}
        if len(layouts) > 1:
            raise ValueError("layers: expected every LSTM and Readout with batch_first or none, got both")
        self.gives_steps = _check_chain(layers)
        _check_sharing(layers)
        self._parts = {str(index): layer for index, layer in enumerate(layers)}
        self.dtype = dtypes.pop() if dtypes else np.dtype("float32")
        self._batch_first = layouts.pop() if layouts else True
        self._num_states = sum(layer.num_states for layer in layers)
        self.config = {"layers": self._described()}
        self._is_built = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _chained, (type(self), self.parts), self._extra_attributes()

    def _described(self) -> list[dict[str, Any]]:
        """Return each layer's configuration or, for a second use with parameters, the index of the first use."""
        owners, described = self._owners(), []
        for index, layer in enumerate(self.parts):
            first = int(owners[id(layer)])
            shared = first < index and layer.parameters
            tied = {} if layer.tied is None else {"tied": int(owners[id(layer.tied)])}
            described.append(
                {"type": "Shared", "layer": first} if shared else {"type": type(layer).__name__, **layer.config, **tied}
            )
        return described

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in order."""
        return self.parts

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The layers that this layer is made of, in order."""
        return tuple(self._parts.values())

    @property
    def num_states(self) -> int:  # type: ignore[override]  # as many as its layers have
        """The number of pairs (h, c) that a call takes and returns."""
        return self._num_states

    @property
    def is_causal(self) -> bool:  # type: ignore[override]  # as its layers are
        """Whether the output of a step depends on no later step."""
        return all(layer.is_causal for layer in self.parts)

    @property
    def vocabulary_size(self) -> int | None:  # type: ignore[override]  # as its first layer has it
        """The number of tokens, where the input is tokens; None where it is numbers."""
        return next((layer.vocabulary_size for layer in self.parts if not layer.passes_on), None)

    @property
    def input_features(self) -> int | None:
        return next((size for size in (layer.input_features for layer in self.parts) if size), None)

    @property
    def batch_first(self) -> bool:
        """Whether the batch axis of x comes first, as in its LSTMs and Readouts; True if there are none."""
        return self._batch_first

    def quantize(self, kind: Narrow, sample: ArrayLike | None = None) -> Sequential:
        """Return a model with narrow weights in its LSTMs, which shares the other layers with this one.

        Parameters
        ----------
        kind : {"bf16", "int8"}
            As for `LSTM.quantize`.
        sample : array_like, or None
            An input of the model: each LSTM is measured on its input in this model. None: each LSTM is measured on
            standard normal numbers.

        Returns
        -------
        Sequential
            With the same metadata. Its `report` is {index of the LSTM: its report}.

        Raises
        ------
        ValueError
            As in `LSTM.quantize`; or there is no LSTM.

        Examples
        --------
        >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
        >>> model = Sequential(Embedding(10, 4, seed=0), LSTM(4, 8, seed=0), Linear(8, 10, seed=0))
        >>> narrow = model.quantize("int8", sample=[1, 2, 3])
        >>> narrow.report[1]["sample"]
        'given, (3, 4)'
        """
        layers: list[Layer] = []
        narrowed: dict[int, Layer] = {}  # a layer that is used several times stays one layer
        report: dict[Any, Any] = {}
        steps = Steps()
        for index, layer in enumerate(self.parts):
            narrow = layer.quantized(kind, sample)
            if narrow is not layer:
                report[index] = narrow.report
            layers.append(narrowed.setdefault(id(layer), narrow))
            if sample is not None:
                sample, _, steps = run_layers([layer], sample, [None] * layer.num_states, steps)
        if not report:
            raise ValueError("quantize: expected a model with an LSTM in it, got none")
        model = Sequential(*layers)
        model.report = report
        model.take_metadata(self)
        return model

    def __call__(
        self,
        x: ArrayLike,
        states: Sequence[StateLike | None] | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        threads: int | None = None,
    ) -> tuple[Any, list[State]]:
        """Run the model, for inference.

        Parameters
        ----------
        x : array_like
            Tokens or features: the input of the first layer.
        states : None or list of (h0, c0)
            One for each LSTM, or None for zeros.
        lengths, mask, reset, threads :
            Passed to each LSTM; `lengths` and `mask` also to each Readout. Neither of these two may be given if an
            Embedding with `mask_zero`, or a Masking, makes the mask.

        Returns
        -------
        out : ndarray
            A pair of them after a Readout that does not merge directions.
        states : list of (h_n, c_n)
            One for each LSTM.
        """
        states = self.pairs_of("states", states)
        self.check_mask(lengths, mask)
        x, finals, _ = run_layers(self.parts, x, states, Steps(lengths, mask, reset, threads))
        return x, finals

    def predict(self, data: Any, batch_size: int = 32, *, threads: int | None = None) -> Any:
        """Return the outputs for all rows of `data`, computed in batches of rows by the inference call.

        Parameters
        ----------
        data : array_like, tuple, dict, callable or iterable
            x in the layout of a call, with an axis of rows; or data that `fit` takes: (x, y), (x, y, lengths), a dict
            with "x" and any of "lengths" and "mask", or ``callable(0)`` or an object that yields such batches. y and
            weights are ignored. Arrays may be mapped into memory: only the rows of one batch are read at a time.
        batch_size : int
            Rows that are computed at a time, also of batches that are yielded.
        threads : None or int
            As in a call.

        Returns
        -------
        ndarray
            What a call with all rows returns as its output. Batches that are yielded must have one number of steps.

        Raises
        ------
        TypeError, ValueError
            As in a call; or `data` is not of these kinds.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_cy import LSTM, Linear, Sequential
        >>> model = Sequential(LSTM(3, 4, seed=0), Linear(4, 2, seed=0))
        >>> x = np.ones((5, 100, 3), "float32")
        >>> np.array_equal(model.predict(x), model(x)[0])
        True
        """
        from .predicting import predict

        return predict(self, data, batch_size, threads)

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
    ) -> tuple[Any, list[State], Tape]:
        """Run the model, for training: with dropout, and with a tape for `backward`.

        Parameters
        ----------
        x, states, lengths, mask, reset, threads :
            As in a call.
        rng : None, int or numpy.random.Generator
            Seed or source of the dropout masks; None for a new random seed.

        Returns
        -------
        out, states :
            As from a call.
        tape : Tape
            For `backward`, until the parameters change.
        """
        states = self.pairs_of("states", states)
        self.check_mask(lengths, mask)
        if rng is not None:  # else each layer with dropout makes its own generator
            rng = generator("rng", rng)
        steps = Steps(lengths, mask, reset, threads)
        finals: list[State] = []
        tapes: list[Any] = []
        for layer in self.parts:
            steps = layer.steps_of(x, steps)
            given = states[len(finals) : len(finals) + layer.num_states]
            x, new, kept = layer.run_forward(x, given, steps, rng)
            finals += new
            tapes.append(kept)
        return x, finals, self._tape(*tapes)

    def backward(self, tape: Tape, dy: Any = None, dstates: Sequence[Any] | None = None) -> Gradients:
        """Propagate gradients back through the forward pass that made `tape`.

        Parameters
        ----------
        tape : Tape
            From `forward`.
        dy : array_like in the output's shape, or None
            None if only final states have gradients; the last layer must then be an LSTM.
        dstates : None or list of (dh_n, dc_n) or None
            One for each LSTM.

        Returns
        -------
        Gradients
            `x`, None if the model starts with an Embedding; `state`, a list of (dh0, dc0); `parameters` with the
            model's names.
        """
        tapes = self._content_of(tape)
        dstates = self.pairs_of("dstates", dstates)
        if dy is None and not self.parts[-1].num_states:
            last = type(self.parts[-1]).__name__
            raise ValueError(f"dy: expected an array, because the last layer is {last}, got None")
        parameters: list[tuple[str, Parameters]] = []
        initial: list[Any] = []
        for (part, layer), kept in reversed([*zip(self._parts.items(), tapes, strict=True)]):
            first = len(dstates) - layer.num_states
            gradients = layer.run_backward(kept, dy, dstates[first:])
            del dstates[first:]
            initial[:0] = gradients.state or []
            parameters.append((part, gradients.parameters))
            dy = gradients.x
        return Gradients(dy, initial, self._summed(parameters))

    def parameter_gradients(self, tape: Tape, dy: Any, names: Collection[str]) -> Parameters:
        if not self._goes_back_as(Sequential):
            return super().parameter_gradients(tape, dy, names)
        return self._gradients_of(names, tape, dy)

    def _gradients_of(self, names: Collection[str], tape: Tape, dy: Any) -> Parameters:
        """Return the gradients of these parameters; the layers before the first of them are not run."""
        parts = self._requested(names, tape)
        first = next((index for index, (_, _, _, own) in enumerate(parts) if own), None)
        if first is None:
            return {}
        dy, found = _back_through(parts[first + 1 :], dy)
        part, layer, kept, own = parts[first]
        found.append((part, layer.parameter_gradients(kept, dy, own)))
        return {name: array for name, array in self._summed(found).items() if name in names}

    def _partly_back(self, names: Collection[str], tape: Tape, dy: Any) -> tuple[Any, Parameters]:
        """Return the gradient of the input, and those of at least these parameters."""
        dx, found = _back_through(self._requested(names, tape), dy)
        return dx, self._summed(found)

    def _requested(self, names: Collection[str], tape: Tape) -> list[_Requested]:
        """Return for each layer its index, the layer, its tape, and its parameters among `names`."""
        tapes, owners = self._content_of(tape), self._owners()
        return [
            (part, layer, kept, self._names_of(part, owners, names))
            for (part, layer), kept in zip(self._parts.items(), tapes, strict=True)
        ]

    def trace(
        self,
        x: ArrayLike,
        states: Sequence[StateLike | None] | None = None,
        lengths: ArrayLike | None = None,
        layer: int = -1,
        direction: int = 0,
        *,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        threads: int | None = None,
    ) -> GateTrace:
        """Run the model over x, as a call does, and return the values of all gates of one layer of its LSTMs.

        Parameters
        ----------
        x, states, lengths :
            As in a call.
        layer : int
            Counts the layers of all LSTMs of the model, in order, from 0; a negative one counts from the last.
        direction : int
            0, or 1 for the second of a bidirectional LSTM.
        mask, reset, threads :
            As in a call.

        Returns
        -------
        GateTrace
            Its arrays are, to the bit, those that a call computes.

        Raises
        ------
        TypeError, ValueError
            An argument is wrong; the message names it. Or there is no LSTM.

        Examples
        --------
        >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
        >>> model = Sequential(Embedding(10, 4), LSTM(4, 8, seed=0), Linear(8, 10))
        >>> model.trace([1, 2, 3]).forget.shape
        (3, 8)
        """
        from ..trace.recording import trace_model

        return trace_model(self, x, states, lengths, layer, direction, mask, reset, threads)

    def stepper(self, batch_size: int = 1) -> Stepper:
        """Return a Stepper, which runs this model step by step, with its present weights and states of zeros.

        Parameters
        ----------
        batch_size : int
            B, the number of streams that step together.

        Returns
        -------
        Stepper
            Its `state` is a list with one (h, c) for each LSTM.

        Raises
        ------
        TypeError, ValueError
            `batch_size` is not a positive integer; an LSTM is bidirectional or reverse; an Embedding is not the first
            layer; the sizes of two successive layers differ.

        Examples
        --------
        >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
        >>> model = Sequential(Embedding(10, 4, seed=0), LSTM(4, 8, seed=0), Linear(8, 10, seed=0))
        >>> stepper = model.stepper()
        >>> token = 3
        >>> for _ in range(5):
        ...     token = int(stepper.step(token).argmax())
        """
        from ..streaming.stepper import Stepper

        return Stepper(self, batch_size)

    def check_mask(self, lengths: ArrayLike | None, mask: ArrayLike | None) -> None:
        """Raise if lengths or a mask is given and a layer makes the mask."""
        for index, layer in enumerate(self.parts):
            if layer.masks and (lengths is not None or mask is not None):
                name = type(layer).__name__
                raise ValueError(f"lengths, mask: expected None, because the {name} at {index} makes the mask")

    def _outputs(self) -> list[str]:
        axes: tuple[str, ...] = ("...",)
        if any(layer.batch_first is not None for layer in self.parts):
            axes = ("B", "T") if self.batch_first else ("T", "B")
        features, outputs = None, []
        for layer in self.parts:
            features = layer.output_features(layer.input_features or features)
            if layer.begins_steps:
                axes = ("B", "T") if self.batch_first else ("T", "B")
            elif not layer.gives_steps:
                axes = ("B",)
            outputs.append(f"({', '.join([*axes, or_unknown(features)])})")
        return outputs

    def __repr__(self) -> str:
        kind, layers = type(self).__name__, [repr(layer) for layer in self.parts]
        line = f"{kind}({', '.join(layers)})"
        return line if len(line) <= LONGEST else "\n".join([f"{kind}(", *(f"    {layer}," for layer in layers), ")"])


def _back_through(parts: Sequence[_Requested], dy: Any) -> tuple[Any, list[tuple[str, Parameters]]]:
    """Propagate `dy` back through layers; return the gradient of their input, and those of parameters."""
    found: list[tuple[str, Parameters]] = []
    for part, layer, kept, own in reversed(parts):
        gradients = layer.partial_backward(kept, dy, own)
        found.append((part, gradients.parameters))
        dy = gradients.x
    return dy, found


def _chained(kind: type[Sequential], layers: tuple[Layer, ...]) -> Sequential:
    """Make a model of this class from `layers`, without calling the class's own constructor."""
    model = kind.__new__(kind)
    Sequential.__init__(model, *layers)
    return model


def _check_sharing(layers: Sequence[Layer]) -> None:
    """Raise if a layer is used inside one of the layers and outside of it, too."""
    if any(layer.parts for layer in layers):
        leaves = [id(leaf) for leaf in _leaves(layers)]
        if len(leaves) > len(set(leaves)):
            raise ValueError("layers: expected no layer that is used both inside a Residual and outside of it")


def _leaves(layers: Sequence[Layer]) -> Iterator[Layer]:
    """Yield the layers that are not made of layers; one that is used several times in one layer counts once."""
    for layer in {id(layer): layer for layer in layers}.values():
        if layer.parts:
            yield from _leaves(layer.parts)
        else:
            yield layer


def _check_chain(layers: Sequence[Layer]) -> bool:
    """Raise if the output of a layer does not fit the next layer; return whether the last output has steps."""
    sequences, features = True, None
    for index, layer in enumerate(layers):
        kind = type(layer).__name__
        if layer.needs_steps and not sequences:
            raise ValueError(f"layers: expected a sequence as input of {kind} at {index}, got one step")
        if layer.vocabulary_size is not None and not all(before.passes_on for before in layers[:index]):
            raise ValueError(f"layers: expected an {kind} to come first, got one at {index}")
        if layer.num_outputs > 1 and index < len(layers) - 1:
            raise ValueError(f"layers: expected a {kind} of two arrays to come last, got it at {index}")
        if (features or 0) % layer.input_directions:
            raise ValueError(f"layers: expected two directions as input of {kind} at {index}, got {features} units")
        if layer.input_features is not None and features not in (None, layer.input_features):
            raise ValueError(f"layers: expected {features} inputs of layer {index}, got {layer.input_features}")
        sequences = layer.begins_steps or (sequences and layer.gives_steps)
        features = layer.output_features(features)
    return sequences
