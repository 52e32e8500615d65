"""Sequence to sequence: an encoder, a decoder, and attention between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import (
    dtype_of,
    expect_shape,
    float_array,
    generator,
    int_array,
    int_within,
    non_negative_int,
    number,
    one_of,
    positive_int,
    shown,
)
from .decoding.beam import beam_search
from .layers.activations import log_softmax, tanh
from .layers.attention import Attention
from .layers.base import Composite, Gradients
from .layers.embedding import Embedding
from .layers.linear import Linear
from .layers.lstm import LSTM
from .layers.narrow import KINDS
from .layers.quantized import QuantizedLSTM
from .layers.recurrent import warn_of_dropout
from .training.batches import pad
from .training.losses import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import NoReturn

    from .decoding.beam import Hypothesis
    from .layers.base import Tape
    from .trace.gates import GateTrace
    from .typing import Array, ArrayLike, Bools, DTypeLike, Ints, Narrow, Parameters, Seed

    #: a function that runs a part, given its name
    _Run = Callable[..., Any]

PADDING = -1
#: the parts whose outputs each part takes
_SOURCES: dict[str, tuple[str, ...]] = {
    "source": (),
    "encoder": ("source",),
    "target": (),
    "decoder": ("target", "encoder"),
    "attention": ("decoder", "encoder"),
    "combine": ("attention",),
    "readout": ("combine",),
}


class Seq2Seq(Composite):
    """A bidirectional LSTM encoder, an LSTM decoder, and attention from the decoder's outputs to the encoder's.

    ::

        memory, state = encoder(source vectors)                 both directions concatenated
        output        = decoder(target vectors, state)          starts from the encoder's final state
        context       = attention(output, memory)
        logits        = readout(tanh(combine([context, output])))

    As in Luong, Pham and Manning, Effective approaches to attention-based neural machine translation, 2015, equations 5
    and 6, but without input feeding, so that each layer runs over a whole target in one call. The score is Bahdanau's.

    Parameters
    ----------
    num_tokens : int
        V; source and target share one vocabulary of tokens 0 to V - 1.
    embedding_dim : int
        Size of a token's two vectors, one for the source and one for the target.
    hidden_size : int
        H, an even number: the decoder's size, and the size of both directions of the encoder together.
    num_layers : int
        Number of layers of the encoder, and of the decoder.
    dropout : float
        Dropout between the layers of each; see `LSTM`.
    score : {"additive", "general", "dot"}
        See `Attention`; "additive" costs a little more and learns in fewer steps.
    dtype : {"float32", "float64"}
    weights : {None, "bf16", "int8"}
        None for a model that can be trained. The others are for files and pickles of what `quantize` returns: the
        LSTMs are QuantizedLSTM, without values yet.
    seed : None, int or numpy.random.Generator
        Seed or source of the initial parameters.

    Attributes
    ----------
    report : dict or None
        The measurements of `quantize`; other models have none.

    Notes
    -----
    A batch is one array of **pairs** (B, 2, N): `pairs[b, 0]` is the source and `pairs[b, 1]` the decoder's input, both
    padded with -1 at the end. `teach` makes pairs, and the targets for `cross_entropy`, from lists; `fit` then trains
    the model with ``loss=cross_entropy`` and batches of ``teach(...)``.

    Parts: ``source`` and ``target`` (Embedding), ``encoder`` and ``decoder`` (LSTM), ``attention``, ``combine`` and
    ``readout`` (Linear); parameters are named after them: "encoder.weight_ih_l0", ...

    Examples
    --------
    Learn to reverse the source; token 0 is the start and token 1 the end:

    >>> import numpy as np
    >>> from lstm_cy import Adam, Seq2Seq, cross_entropy, fit
    >>> from lstm_cy.seq2seq import teach
    >>> model = Seq2Seq(6, embedding_dim=8, hidden_size=32, seed=0)
    >>> words = np.random.default_rng(0).integers(2, 6, (2000, 3)).tolist()
    >>> data = teach(words, [word[::-1] for word in words], start=0, end=1)
    >>> history = fit(model, data, loss=cross_entropy, optimizer=Adam(model, 0.01), epochs=4, progress=False)
    >>> best = model.translate([2, 3, 4], start=0, end=1, max_length=5)[0]
    >>> best.tokens
    array([4, 3, 2])
    """

    dtype: np.dtype[Any]
    is_model = True
    _read_only = (*Composite._read_only, "weights")

    def __init__(
        self,
        num_tokens: int,
        *,
        embedding_dim: int,
        hidden_size: int,
        num_layers: int = 1,
        dropout: float = 0.0,
        score: str = "additive",
        dtype: DTypeLike = "float32",
        weights: Narrow | None = None,
        seed: Seed = None,
    ) -> None:
        self.num_tokens = positive_int("num_tokens", num_tokens)
        self.embedding_dim = positive_int("embedding_dim", embedding_dim)
        self.hidden_size = positive_int("hidden_size", hidden_size)
        self.num_layers = positive_int("num_layers", num_layers)
        self.dropout = number("dropout", dropout, 0.0, 1.0)
        self.score = score
        self.dtype = dtype_of(dtype)
        self.weights = None if weights is None else one_of("weights", weights, KINDS)
        if hidden_size % 2:
            raise ValueError(f"hidden_size: expected an even number, half for each direction, got {hidden_size}")
        if self.dropout and self.num_layers == 1 and not self._is_blank:
            warn_of_dropout(self.dropout)
        self.config = {
            "num_tokens": self.num_tokens,
            "embedding_dim": self.embedding_dim,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "dropout": self.dropout,
            "score": self.score,
            "dtype": self.dtype.name,
        }
        if self.weights is not None:  # files and checkpoints of other models are as they were without the option
            self.config = self._config | {"weights": self.weights}
        rng = self._generator(seed)
        self._parts = {
            name: kind.blank(**arguments) if self._is_blank else kind(**arguments, seed=rng)
            for name, (kind, arguments) in parts(self.config).items()
        }
        self._is_built = True

    @classmethod
    def least_size(cls, arguments: dict[str, Any]) -> int:
        """Return the least number of weights of a model with these arguments, from a file, without making it."""
        return sum(layer.least_size(of_layer) for layer, of_layer in parts(arguments).values())

    @classmethod
    def cost(cls, arguments: dict[str, Any]) -> int:
        """Return the number of objects that a model with these arguments, from a file, is made of, roughly."""
        return sum(layer.cost(of_layer) for layer, of_layer in parts(arguments).values())

    def __call__(
        self, pairs: ArrayLike, states: None = None, *, lengths: None = None, threads: int | None = None
    ) -> tuple[Array, None]:
        """Return the logits of the next token after each token of the decoder's input.

        Parameters
        ----------
        pairs : array_like of int (B, 2, N)
            See `teach`.
        states, lengths : None
            Accepted only because `fit` passes them.
        threads : None or int
            As for `LSTM`.

        Returns
        -------
        logits : ndarray (B, N, V)
            Zero where the decoder's input is padding.
        None
            There is no state to carry over.
        """
        source, target, size = self._sides("pairs", pairs, states, lengths)
        return self._logits(self._runner(threads), source, target, size)[0], None

    def predict(self, data: Any, batch_size: int = 32, *, threads: int | None = None) -> Any:
        """Return the outputs for all rows of `data`, computed in batches of rows.

        Parameters
        ----------
        data, batch_size, threads :
            As for `Sequential.predict`.

        Returns
        -------
        ndarray
            As from `Sequential.predict`.
        """
        from .layers.predicting import predict

        return predict(self, data, batch_size, threads)

    def forward(
        self,
        pairs: ArrayLike,
        states: None = None,
        *,
        lengths: None = None,
        threads: int | None = None,
        rng: Seed = None,
    ) -> tuple[Array, None, Tape]:
        """Run the model, for training: with dropout, and with a tape for `backward`.

        Parameters
        ----------
        pairs, states, lengths, threads :
            As in a call.
        rng : None, int or numpy.random.Generator
            Seed or source of the dropout masks; None for a new random seed.

        Returns
        -------
        logits, None :
            As from a call.
        tape :
            For `backward`, until the parameters change.
        """
        source, target, size = self._sides("pairs", pairs, states, lengths)
        tapes: dict[str, Any] = {}
        run = self._runner(threads, tapes, generator("rng", rng))
        logits, combined = self._logits(run, source, target, size)
        return logits, None, self._tape(tapes, combined, target)

    def backward(self, tape: Tape, dy: ArrayLike) -> Gradients:
        """Propagate a gradient back through the forward pass that made `tape`.

        Parameters
        ----------
        tape :
            From `forward`.
        dy : array_like in the logits' shape

        Returns
        -------
        Gradients
            `parameters`; tokens have none.
        """
        return Gradients(None, None, self._propagated(tape, dy, self._parameters))

    def parameter_gradients(self, tape: Any, dy: Any, names: Collection[str]) -> Parameters:
        if not self._goes_back_as(Seq2Seq):
            return super().parameter_gradients(tape, dy, names)
        return {name: array for name, array in self._propagated(tape, dy, names).items() if name in names}

    def _propagated(self, tape: Tape, dy: ArrayLike, names: Collection[str]) -> Parameters:
        """Return the gradients of the parameters in `names`, without running the parts that these do not need."""
        tapes, combined, (target, lengths) = self._content_of(tape)
        owners = self._owners()
        requested = {part: self._names_of(part, owners, names) for part in self._parts}
        needed: dict[str, bool] = {}
        for part, sources in _SOURCES.items():
            needed[part] = bool(requested[part]) or any(needed[source] for source in sources)
        gradients: list[tuple[str, Any]] = []

        def kept(part: str, found: Any) -> Any:
            gradients.append((part, found.parameters))
            return found

        def back(part: str, dy: Array) -> Any:
            return kept(part, self._parts[part].partial_backward(tapes[part], dy, requested[part]))

        def back_through_lstm(part: str, dy: Array, dstate: Any, with_dx: bool) -> Any:
            lstm: Any = self._parts[part]
            return kept(part, lstm._propagated(tapes[part], dy, dstate, with_dx, requested[part]))

        dy = float_array("dy", dy, self.dtype)
        steps, rows, H = combined.shape
        if dy.ndim != 3 or dy.shape[1] < steps:
            raise ValueError(f"dy: expected the shape of the logits, ({rows}, N, {self.num_tokens}), got {dy.shape}")
        expect_shape("dy", dy, (rows, dy.shape[1], self.num_tokens), "the shape of the logits")
        dx = np.where(_valid(target, lengths), dy[:, :steps].swapaxes(0, 1), 0)
        if needed["readout"]:
            dx = back("readout", dx).x
        if needed["combine"]:
            dx = back("combine", dx * (1 - combined * combined)).x
        if needed["attention"]:
            dcontext, doutput = np.split(dx, [H], axis=-1)
            attention = back("attention", dcontext)
        if needed["decoder"]:
            decoder = back_through_lstm("decoder", doutput + attention.queries, None, needed["target"])
        if needed["target"]:
            back("target", decoder.x)
        if needed["encoder"]:
            dstate = tuple(map(self._split_directions, decoder.state))
            encoder = back_through_lstm("encoder", attention.memory, dstate, needed["source"])
        if needed["source"]:
            back("source", encoder.x)
        return self._summed(gradients)

    def translate(
        self,
        source: ArrayLike,
        *,
        start: int,
        end: int,
        beam_width: int = 4,
        max_length: int = 100,
        length_penalty: float = 0.0,
    ) -> list[Hypothesis]:
        """Return the likeliest targets of one source.

        Parameters
        ----------
        source : array_like of int (S,)
        start, end, beam_width, max_length, length_penalty :
            As for `beam_search`.

        Returns
        -------
        list of Hypothesis
            The best first.
        """
        run = self._runner()
        memory, state = self._read(run, *self._one("source", source))

        def step(tokens: Ints, state: Any) -> tuple[Array, Any]:
            output, state = run("decoder", run("target", tokens[np.newaxis]), state)
            # Attention gets the hypotheses as steps of one row, so that they share the memory.
            context, _ = run("attention", output.swapaxes(0, 1), memory)
            logits = run("readout", self._combined(run, context.swapaxes(0, 1), output))
            return log_softmax(logits[0].astype(np.float64)), state

        return beam_search(
            step,
            state,
            start=start,
            end=end,
            beam_width=beam_width,
            max_length=max_length,
            length_penalty=length_penalty,
        )

    def align(self, source: ArrayLike, tokens: ArrayLike, *, start: int) -> Array:
        """Return the attention weights over `source` at each of `tokens`.

        Parameters
        ----------
        source, tokens : array_like of int (S,), (T,)
            A source and its translation, as from `translate`.
        start : int
            The first token of the decoder's input.

        Returns
        -------
        ndarray (T + 1, S)
            The attention's weights; the last row is for the end token.
        """
        run = self._runner()
        memory, state = self._read(run, *self._one("source", source))
        translation, _ = self._one("tokens", tokens)
        target = np.concatenate([[[non_negative_int("start", start)]], translation])
        output, _ = run("decoder", run("target", target), state)
        result: Array = run("attention", output, memory)[1][:, 0]
        return result

    def trace(self, pairs: ArrayLike, layer: int = -1, direction: int = 0, *, threads: int | None = None) -> GateTrace:
        """Run the model over pairs, as a call does, and return the values of all gates of one layer of its LSTMs.

        Parameters
        ----------
        pairs : array_like of int (B, 2, N)
            As for a call.
        layer : int
            0 to L - 1 for the layers of the encoder, L to 2L - 1 for those of the decoder; a negative one counts from
            the last.
        direction : int
            0, or 1 for the second direction of the encoder.
        threads : None or int
            As in a call.

        Returns
        -------
        GateTrace
            Its arrays (T, B, width) are those that a call computes: T steps of the sources or of the decoder's inputs.
            `gradient` and `predictions` see this LSTM alone.

        Raises
        ------
        TypeError, ValueError
            An argument is wrong; the message names it.

        Examples
        --------
        >>> from lstm_cy import Seq2Seq
        >>> model = Seq2Seq(6, embedding_dim=8, hidden_size=32, seed=0)
        >>> pairs = [[[2, 3, 4], [0, 5, -1]]]
        >>> model.trace(pairs).forget.shape, model.trace(pairs, layer=0, direction=1).forget.shape
        ((2, 1, 32), (3, 1, 16))
        """
        source, target, _ = self._sides("pairs", pairs)
        layer = int_within("layer", layer, -2 * self.num_layers, 2 * self.num_layers - 1) % (2 * self.num_layers)
        run = self._runner(threads)
        if layer < self.num_layers:
            x, state, lengths = run("source", source[0]), None, source[1]
        else:
            x, (_, state), lengths = run("target", target[0]), self._read(run, *source), target[1]
        lstm = self._parts["encoder" if layer < self.num_layers else "decoder"]
        made: GateTrace = lstm.trace(x, state, lengths, layer % self.num_layers, direction, threads=threads)
        return made

    def quantize(self, kind: Narrow, sample: ArrayLike | None = None) -> Seq2Seq:
        """Return a model with narrow weights in its two LSTMs, which shares the other layers with this one.

        Parameters
        ----------
        kind : {"bf16", "int8"}
            As for `LSTM.quantize`.
        sample : array_like of int (B, 2, N), or None
            Pairs, as for a call: each LSTM is measured on the vectors of its tokens, from a state of zeros. None: each
            is measured on standard normal numbers.

        Returns
        -------
        Seq2Seq
            It translates and is saved like this one, but cannot be trained. With the same metadata. Its `report` is
            {"encoder": its report, "decoder": its report}.

        Raises
        ------
        TypeError, ValueError
            As in `LSTM.quantize`, and as in a call for pairs.

        Examples
        --------
        >>> from lstm_cy import Seq2Seq
        >>> narrow = Seq2Seq(6, embedding_dim=8, hidden_size=32, seed=0).quantize("int8")
        >>> narrow.weights, [*narrow.report]
        ('int8', ['encoder', 'decoder'])
        >>> len(narrow.translate([2, 3, 4], start=0, end=1, max_length=5))
        4
        """
        inputs = {} if sample is None else self._inputs_of_lstms(sample)
        parts = {name: layer.quantized(kind, inputs.get(name)) for name, layer in self._parts.items()}
        model = Seq2Seq.blank(**self._config, weights=kind)
        vars(model)["_parts"] = parts
        model.report = {name: layer.report for name, layer in parts.items() if layer is not self._parts[name]}
        model.take_metadata(self)
        return model

    def _inputs_of_lstms(self, pairs: ArrayLike) -> dict[str, Array]:
        """Return the inputs of encoder and decoder for a sample of pairs."""
        source, target, _ = self._sides("sample", pairs)
        return {
            lstm: self._parts[embedding](tokens)
            for lstm, embedding, (tokens, _) in (("encoder", "source", source), ("decoder", "target", target))
        }

    def stage(self) -> NoReturn:
        """Raise, because the source has to be read as a whole."""
        raise TypeError(f"expected an LSTM or a Sequential, got {type(self).__name__}")

    def _outputs(self) -> list[str]:
        E, H, V = self.embedding_dim, self.hidden_size, self.num_tokens
        sizes = {"source": E, "encoder": H, "target": E, "decoder": H, "attention": H, "combine": H, "readout": V}
        return [f"({'S' if part in ('source', 'encoder') else 'T'}, B, {sizes[part]})" for part in self._parts]

    def _runner(
        self, threads: int | None = None, tapes: dict[str, Any] | None = None, rng: np.random.Generator | None = None
    ) -> _Run:
        """Return a function that runs a part, given its name: for training if there are `tapes`, else for inference."""

        def run(name: str, *inputs: Any, **options: Any) -> Any:
            layer = self._parts[name]
            if layer.num_states:
                options["threads"] = threads
            if tapes is None:
                return layer(*inputs, **options)
            *results, tapes[name] = layer.forward(*inputs, **options, rng=rng)
            return results[0] if len(results) == 1 else tuple(results)

        return run

    def _logits(
        self, run: _Run, source: tuple[Ints, Ints], target: tuple[Ints, Ints], size: int
    ) -> tuple[Array, Array]:
        """Return (logits (B, size, V), the readout's input)."""
        memory, state = self._read(run, *source)
        output, _ = run("decoder", run("target", target[0]), state, lengths=target[1])
        context, _ = run("attention", output, memory, memory_lengths=source[1])
        combined = self._combined(run, context, output)
        logits = run("readout", combined)
        out = np.zeros((logits.shape[1], size, self.num_tokens), self.dtype)
        out[:, : len(logits)] = np.where(_valid(*target), logits, 0).swapaxes(0, 1)
        return out, combined

    def _read(self, run: _Run, tokens: Ints, lengths: Ints) -> tuple[Array, tuple[Array, ...]]:
        """Return the memory and the decoder's initial state."""
        memory, state = run("encoder", run("source", tokens), lengths=lengths)
        return memory, tuple(map(self._join_directions, state))

    def _combined(self, run: _Run, context: Array, output: Array) -> Array:
        result: Array = tanh(run("combine", np.concatenate([context, output], axis=-1)))
        return result

    def _join_directions(self, state: Array) -> Array:
        """Concatenate the two directions of a state (2L, B, H/2) to (L, B, H)."""
        layers, rows, half = state.shape
        return state.reshape(layers // 2, 2, rows, half).swapaxes(1, 2).reshape(layers // 2, rows, 2 * half)

    def _split_directions(self, state: Array) -> Array:
        """Undo `_join_directions`."""
        layers, rows, size = state.shape
        return state.reshape(layers, rows, 2, size // 2).swapaxes(1, 2).reshape(2 * layers, rows, size // 2)

    def _sides(
        self, name: str, pairs: ArrayLike, states: None = None, lengths: None = None
    ) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints], int]:
        """Return ((tokens (S, B), lengths) of the source, the same of the target, N)."""
        if states is not None or lengths is not None:
            raise ValueError("states, lengths: expected None, because the padding of pairs gives the lengths")
        pairs = int_array(name, pairs)
        if pairs.ndim != 3 or pairs.shape[1] != 2:
            raise ValueError(f"{name}: expected shape (B, 2, N), got {pairs.shape}")
        return *(self._side(name, pairs[:, side]) for side in (0, 1)), pairs.shape[2]

    def _side(self, name: str, tokens: Ints) -> tuple[Ints, Ints]:
        """Return tokens (B, N) as ((n, B), lengths), n the longest length; padding becomes token 0."""
        padding = tokens == PADDING
        lengths = tokens.shape[1] - padding.sum(axis=1)
        longest = int(lengths.max(initial=0))
        if not np.array_equal(padding, np.arange(tokens.shape[1]) >= lengths[:, np.newaxis]):
            raise ValueError(f"{name}: expected padding, {PADDING}, only after the tokens")
        return np.where(padding, 0, tokens)[:, :longest].T, lengths

    def _one(self, name: str, tokens: ArrayLike) -> tuple[Ints, Ints]:
        tokens = int_array(name, tokens)
        if tokens.ndim != 1:
            raise ValueError(f"{name}: expected shape (N,), got {tokens.shape}")
        return tokens[:, np.newaxis], np.array([len(tokens)])


def parts(config: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return {name: (type, arguments)} of the layers of a Seq2Seq with this configuration."""
    V, E, H = config["num_tokens"], config["embedding_dim"], config["hidden_size"]
    dtype = {"dtype": config["dtype"]}
    vectors = {"num_embeddings": V, "embedding_dim": E} | dtype
    layers = config["num_layers"]
    dropout = config["dropout"] if layers != 1 else 0.0  # it acts between layers only
    stack = {"input_size": E, "num_layers": layers, "dropout": dropout} | dtype
    lstm: Any = LSTM
    if config.get("weights") is not None:
        lstm, stack = QuantizedLSTM, stack | {"weights": config["weights"]}
    return {
        "source": (Embedding, vectors),
        "encoder": (lstm, stack | {"hidden_size": H // 2, "bidirectional": True}),
        "target": (Embedding, vectors),
        "decoder": (lstm, stack | {"hidden_size": H}),
        "attention": (Attention, {"query_size": H, "memory_size": H, "score": config["score"]} | dtype),
        "combine": (Linear, {"in_features": 2 * H, "out_features": H} | dtype),
        "readout": (Linear, {"in_features": H, "out_features": V} | dtype),
    }


def teach(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], *, start: int, end: int
) -> tuple[Ints, Ints]:
    """Make a batch of pairs and its targets for teacher forcing: the decoder's input is the true target.

    Parameters
    ----------
    sources, targets : list of sequences of int
        Tokens; one target for each source.
    start, end : int
        The token before each target in the decoder's input, and the token after each target in `y`.

    Returns
    -------
    pairs : ndarray (B, 2, N)
        For `Seq2Seq`: the sources, and `start` followed by the targets; padded with -1.
    y : ndarray (B, N)
        For `cross_entropy`: the targets followed by `end`; padded with its default ignore_index.

    Raises
    ------
    ValueError
        There are no sources, or there is another number of targets.

    Examples
    --------
    >>> pairs, y = teach([[5, 6, 7], [8]], [[9], [4, 4]], start=0, end=1)
    >>> pairs.tolist()
    [[[5, 6, 7], [0, 9, -1]], [[8, -1, -1], [0, 4, 4]]]
    >>> y.tolist()
    [[9, 1, -100], [4, 4, 1]]
    """
    start, end = non_negative_int("start", start), non_negative_int("end", end)
    source_rows, target_rows = _rows("sources", sources), _rows("targets", targets)
    if len(source_rows) != len(target_rows):
        raise ValueError(f"targets: expected {len(source_rows)}, one for each source, got {len(target_rows)}")
    sides = source_rows, [[start, *target] for target in target_rows]
    columns = [[*target, end] for target in target_rows]
    size = max(map(len, sides[0] + sides[1]), default=0)
    pairs = np.stack([_padded(rows, size, PADDING) for rows in sides], axis=1)
    return pairs, _padded(columns, size, IGNORE_INDEX)


def _rows(name: str, sequences: Any) -> list[list[int]]:
    """Return sequences of tokens as lists."""
    try:
        return [[*tokens] for tokens in sequences]
    except TypeError:
        raise TypeError(f"{name}: expected a list of sequences of tokens, got {shown(sequences)}") from None


def _padded(rows: Sequence[Sequence[int]], size: int, value: int) -> Ints:
    """Return rows of tokens as one array (B, size), padded with `value`."""
    tokens, lengths = pad(rows, batch_first=True)
    padded = np.full((len(rows), size), value)
    valid = np.arange(tokens.shape[1]) < lengths[:, np.newaxis]
    padded[:, : tokens.shape[1]][valid] = int_array("tokens", tokens)[valid]
    return padded


def _valid(tokens: Ints, lengths: Ints) -> Bools:
    """Return True within the rows' lengths, (T, B, 1)."""
    return (np.arange(len(tokens))[:, np.newaxis] < lengths)[..., np.newaxis]
