"""Decoding: choose tokens, labels and text from the scores of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .checks import (
    any_array,
    check_lengths,
    flag,
    float_array,
    generator,
    int_array,
    int_within,
    non_negative_int,
    number,
    pair_of,
    positive_int,
    real_array,
    shown,
)
from .layers.activations import log_softmax
from .layers.base import Layer
from .losses import cross_entropy
from .progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .layers.sequential import Sequential
    from .stepper import Stepper
    from .text import Bytes, Vocabulary, Words
    from .typing import Array, ArrayLike, Ints, Seed

    _LanguageModel = Callable[[tuple[int, ...], int], float]

MOST_AXES = 64  # NumPy's arrays have no more


def sample(
    logits: ArrayLike,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: Seed = None,
) -> Any:
    """Draw a token from the distribution softmax(logits / temperature).

    Parameters
    ----------
    logits : array_like, shape (..., n)
        Scores; their last axis is the vocabulary. An entry of -inf is never drawn. Not changed.
    temperature : float
        At least 0. Below 1 likely tokens become likelier; 0 selects the likeliest, the first of equal ones.
    top_k : int, optional
        Draw from the `top_k` likeliest tokens only.
    top_p : float, optional
        In (0, 1]. Draw only from the fewest likeliest tokens whose probabilities add up to `top_p` (A. Holtzman et al.,
        The Curious Case of Neural Text Degeneration, 2020). With both options, `top_p` applies after `top_k`.
    rng : numpy.random.Generator, int or None
        A generator, the seed of one, or None for a new one.

    Returns
    -------
    int, or ndarray of intp, shape (...)
        An int for logits with one axis.

    Raises
    ------
    TypeError
        The logits or another argument are not real numbers.
    ValueError
        The logits contain NaN or infinity, there is no token to draw, the temperature is negative or not finite, or
        top_k or top_p is out of range.

    Examples
    --------
    >>> sample([0.0, 3.0, 1.0], temperature=0)
    1
    >>> sample([[0.0, -np.inf], [-np.inf, 0.0]], rng=1)
    array([0, 1])
    >>> sample([[0.0, 3.0, 2.9]] * 5, top_k=2, rng=0)  # never 0
    array([1, 2, 2, 2, 1])
    """
    logits = float_array("logits", logits, np.float64)
    temperature, top_k, top_p = _choice(temperature, top_k, top_p)
    rng = generator("rng", rng)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected shape (..., n) with n of at least 1, got {logits.shape}")
    highest = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(highest).all():
        raise ValueError("logits: expected numbers or -inf with a finite largest one, got NaN or infinity")
    if temperature:
        with np.errstate(over="ignore"):  # a tiny temperature correctly gives -inf for all but the highest
            weights = np.exp((logits - highest) / temperature)
        tokens = _draw(_likeliest(weights, top_k, top_p), rng)
    else:
        tokens = logits.argmax(axis=-1)
    return int(tokens) if logits.ndim == 1 else tokens


def _choice(temperature: float, top_k: int | None, top_p: float | None) -> tuple[float, int | None, float | None]:
    """Return these arguments, checked."""
    return (
        number("temperature", temperature, 0, open_high=True),
        None if top_k is None else positive_int("top_k", top_k),
        None if top_p is None else number("top_p", top_p, 0, 1, open_low=True),
    )


def _likeliest(weights: Array, top_k: int | None, top_p: float | None) -> Array:
    """Set the `weights` that `top_k` and `top_p` leave out to zero, and return them; of equal ones the first stay."""
    if top_k is None and top_p is None:
        return weights
    order = np.argsort(-weights, axis=-1, kind="stable")
    ranked = np.take_along_axis(weights, order, -1)
    if top_k is not None:
        ranked[..., top_k:] = 0
    if top_p is not None:
        cumulative = ranked.cumsum(axis=-1)
        ranked[..., 1:][cumulative[..., :-1] >= top_p * cumulative[..., -1:]] = 0
    np.put_along_axis(weights, order, ranked, -1)
    return weights


def _draw(weights: Array, rng: np.random.Generator) -> Ints:
    """Draw tokens with probabilities proportional to their weights."""
    cumulative = weights.cumsum(axis=-1)
    # In (0, total]: even after rounding, an entry reaches the threshold, and the first that does has a weight above 0.
    threshold = cumulative[..., -1:] * (1 - rng.random((*weights.shape[:-1], 1)))
    result: Ints = (cumulative >= threshold).argmax(axis=-1)
    return result


# The attributes of a vocabulary that `generate` uses.
_VOCABULARY = ("missing", "encode", "pieces", "unknown", "__len__")


def generate(
    model: Sequential,
    vocabulary: Vocabulary | Words | Bytes,
    prompt: str = "",
    *,
    length: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: Seed = None,
) -> Iterator[str]:
    """Continue a text with a language model.

    Parameters
    ----------
    model : Sequential
        Tokens (T,) in, logits (T, n) out, such as Sequential(Embedding(n, d), LSTM(d, h), Linear(h, n)).
    vocabulary : Vocabulary, Words or Bytes
        With n tokens; the unknown symbol is never generated.
    prompt : str
        The text to continue, which passes through the model in one call. Empty: the beginning of a line.
    length : int
        The number of characters, words or bytes to generate.
    temperature, top_k, top_p :
        See `sample`.
    seed : int, numpy.random.Generator or None
        The same seed gives the same text; None gives a new text each time.

    Returns
    -------
    iterator of str
        The text after the prompt: each character or word as soon as it is drawn, bytes as soon as they form a character
        (for bytes that form none see `Bytes`). The state is carried from token to token. Arguments are checked and the
        prompt is read before the iterator is returned.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, the vocabulary does not cover the prompt, or the number of the model's logits differs from
        the vocabulary's number of tokens.

    Examples
    --------
    >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
    >>> from lstm_cy.text import Vocabulary
    >>> vocabulary = Vocabulary("abc")
    >>> model = Sequential(Embedding(4, 3, seed=0), LSTM(3, 5, seed=0), Linear(5, 4, seed=0))
    >>> text = "".join(generate(model, vocabulary, "ab", length=10, seed=0))
    >>> len(text), set(text) <= set("abc")
    (10, True)
    """
    size = _vocabulary_size(model)
    if not all(hasattr(vocabulary, name) for name in _VOCABULARY):
        raise TypeError(f"vocabulary: expected a Vocabulary, Words or Bytes, got {type(vocabulary).__name__}")
    if not isinstance(prompt, str):
        raise TypeError(f"prompt: expected a str, got {type(prompt).__name__}")
    length = non_negative_int("length", length)
    choice = dict(zip(("temperature", "top_k", "top_p"), _choice(temperature, top_k, top_p), strict=True))
    rng = generator("seed", seed)
    if missing := vocabulary.missing(prompt):
        raise ValueError(f"prompt: not in the model's vocabulary: {', '.join(map(repr, missing[:10]))}")
    if len(vocabulary) > size:
        raise ValueError(f"vocabulary: expected {size} tokens as in the model's embedding, got {len(vocabulary)}")
    logits, states = model(vocabulary.encode(prompt or "\n"))
    if logits.shape[-1] != len(vocabulary):
        raise ValueError(
            f"vocabulary: expected {logits.shape[-1]} tokens, one for each of the model's logits, got {len(vocabulary)}"
        )
    stepper = model.stepper()
    stepper.state = [(h[:, np.newaxis], c[:, np.newaxis]) for h, c in states]
    return vocabulary.pieces(_continue(stepper, vocabulary.unknown, logits[-1], length, choice | {"rng": rng}))


def _vocabulary_size(model: Sequential) -> int:
    """Return how many tokens a model reads; raise if its input is not tokens."""
    if not isinstance(model, Layer) or model.layers == (model,):
        raise TypeError(f"model: expected a Sequential, got {type(model).__name__}")
    if model.vocabulary_size is None:
        first = type(model.layers[0]).__name__
        raise TypeError(f"model: expected a Sequential with an Embedding as its first layer, got {first}")
    return model.vocabulary_size


def _continue(
    stepper: Stepper, unknown: int | None, logits: Array, length: int, choice: dict[str, Any]
) -> Iterator[int]:
    """Yield `length` tokens, each drawn from the logits after the one before it."""
    for _ in range(length):
        if unknown is not None:
            logits[unknown] = -np.inf
        token = sample(logits, **choice)
        yield token
        logits = stepper.step(token)


def negative_log_likelihood(
    model: Sequential, tokens: ArrayLike, *, chunk: int = 1024, progress: bool = False
) -> float:
    """Return the mean negative log-likelihood of the tokens of a text, in nats.

    This is the mean of -ln p(token | the tokens before it). Divided by ln 2 it is in bits; its exponential is the
    perplexity. The first token is only read. ``surprise`` is the old name of this function.

    Parameters
    ----------
    model : Sequential
        Tokens (T,) in, logits (T, n) out.
    tokens : array_like of int, shape (N,)
        The text, at least two tokens.
    chunk : int
        The number of tokens that pass through the model in one call. The state is carried from call to call: a long
        text needs no more memory than a short one, and the result is the same.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, or a token is not one of the model's.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
    >>> model = Sequential(Embedding(4, 3), LSTM(3, 5), Linear(5, 4))
    >>> model.load_state_dict({"2.weight": np.zeros((4, 5)), "2.bias": np.zeros(4)}, strict=False)
    >>> round(float(np.exp(negative_log_likelihood(model, [0, 1, 2, 3, 0]))), 4)  # four equally likely tokens
    4.0
    """
    _vocabulary_size(model)
    tokens, chunk = int_array("tokens", tokens), positive_int("chunk", chunk)
    progress = flag("progress", progress)
    if tokens.ndim != 1 or len(tokens) < 2:
        raise ValueError(f"tokens: expected shape (N,) with N of at least 2, got {tokens.shape}")
    starts, states, total = range(0, len(tokens) - 1, chunk), None, 0.0
    with progress_bar("reading", len(starts), progress) as bar:
        for start in starts:
            following = tokens[start + 1 : start + 1 + chunk]
            logits, states = model(tokens[start : start + len(following)], states)
            total += cross_entropy(logits, following)[0] * len(following)
            bar.update()
    return total / (len(tokens) - 1)


#: the old name of `negative_log_likelihood`
surprise = negative_log_likelihood


class Hypothesis(NamedTuple):
    """A sequence that `beam_search` found.

    Attributes
    ----------
    tokens : ndarray of intp
        Without the start token and the end token.
    score : float
        The ranking criterion: `log_probability` divided by the length penalty.
    log_probability : float
        The sum over its tokens, including the end.
    ended : bool
        False if it was cut at `max_length`, before its end.
    """

    tokens: Ints
    score: float
    log_probability: float
    ended: bool


def beam_search(
    step: Callable[[Ints, Any], tuple[ArrayLike, Any]],
    state: Any,
    *,
    start: int,
    end: int,
    beam_width: int = 4,
    max_length: int = 100,
    length_penalty: float = 0.0,
    row_axis: int = 1,
) -> list[Hypothesis]:
    """Return the likeliest sequences of a model that predicts the next token.

    Parameters
    ----------
    step : callable
        ``step(tokens, state) -> (log_probabilities, state)``: tokens (K,) of intp, the last of each of K sequences,
        and the state before it; log-probabilities (K, V) of the next token, at most 0, -inf for impossible tokens.
    state : array, or tuples, lists and None with arrays in them
        The state before `start`, for one row. Between steps its rows are selected, and repeated, to match the
        sequences; tuples become lists.
    start, end : int
        The first token passed to `step`; the token, less than V, that ends a sequence.
    beam_width : int
        The largest number of sequences kept at each length, and returned. 1, without a penalty, is greedy search.
    max_length : int
        The largest number of steps.
    length_penalty : float
        alpha, at least 0: a sequence of n tokens, including the end, is ranked by its log-probability divided by
        ((5 + n) / 6)**alpha (Wu et al., Google's neural machine translation system, 2016, equation 14). 0: by its
        log-probability, which favours short sequences.
    row_axis : int
        The axis of the rows in the state's arrays: 1 for an LSTM's (h, c).

    Returns
    -------
    list of Hypothesis
        The best first: those that ended before those that did not, each by score; equal ones in the order found.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, or `step` returns NaN, log-probabilities above 0 or another shape.

    Notes
    -----
    At each length, those of the `beam_width` likeliest continuations that end are stored as results, and the
    `beam_width` likeliest others are continued. The search stops when none of these can become one of the best.

    Examples
    --------
    Token 2 is the end, and 1 is likelier after 1 than after 0:

    >>> import numpy as np
    >>> from lstm_cy import beam_search
    >>> table = np.log([[0.5, 0.2, 0.3], [0.1, 0.8, 0.1]])
    >>> found = beam_search(lambda tokens, state: (table[tokens], state), None, start=0, end=2, max_length=3)
    >>> for tokens, score, _, ended in found[:2]:
    ...     print(tokens, round(float(np.exp(score)), 3), ended)
    [] 0.3 True
    [0] 0.15 True
    """
    end, start = non_negative_int("end", end), non_negative_int("start", start)
    beam_width, max_length = positive_int("beam_width", beam_width), positive_int("max_length", max_length)
    row_axis = int_within("row_axis", row_axis, -MOST_AXES, MOST_AXES - 1)
    penalty = _length_penalty(length_penalty, max_length)
    if not callable(step):
        raise TypeError(f"step: expected a callable, got {type(step).__name__}")

    # For each length: the row of the sequence that each one continues, and its last token. Sequences are assembled from
    # them at the end, so that the cost of a step does not depend on the length.
    history: list[tuple[Ints, Ints]] = []
    ended: list[
        tuple[float, float, int, int]
    ] = []  # score, log-probability, and where in the history its last token is
    totals, tokens = np.zeros(1), np.array([start])
    for length in range(1, max_length + 1):
        result, state = pair_of("step", step(tokens, state), "(log_probabilities, state)")
        candidates = totals[:, np.newaxis] + _log_probabilities(result, len(tokens), end)
        # Each row ends in at most one candidate: with this many more, `beam_width` are left to continue.
        best = _best(candidates.reshape(-1), beam_width + len(tokens))
        rows, following = np.unravel_index(best, candidates.shape)
        for row in rows[:beam_width][following[:beam_width] == end]:
            total = float(candidates[row, end])
            ended.append((total / penalty(length), total, length - 1, int(row)))
        ended = sorted(ended, key=lambda found: -found[0])[:beam_width]
        unended = np.flatnonzero(following != end)[:beam_width]
        rows, tokens = rows[unended], following[unended]
        totals = candidates[rows, tokens]
        history.append((rows, tokens))
        # Probabilities only decrease, and the largest length has the largest penalty: this bounds every later score.
        if not len(tokens) or (len(ended) == beam_width and totals[0] / penalty(max_length) <= ended[-1][0]):
            break
        name = "state" if length == 1 else "step"
        try:
            state = _chosen(state, rows, row_axis, len(candidates), name)
        except RecursionError:
            raise ValueError(f"{name}: expected a state nested less deeply") from None
    cut = [(float(total) / penalty(length), float(total), length, row) for row, total in enumerate(totals)]
    return [
        Hypothesis(_sequence(history[:steps], row), score, total, i < len(ended))
        for i, (score, total, steps, row) in enumerate((ended + cut)[:beam_width])
    ]


def _length_penalty(alpha: float, max_length: int) -> Callable[[int], float]:
    """Return the divisor of a log-probability as a function of a sequence's length."""
    alpha = number("length_penalty", alpha, 0, open_high=True)

    def penalty(length: int) -> float:
        result: float = ((5 + length) / 6) ** alpha
        return result

    try:
        penalty(max_length)
    except OverflowError:
        raise ValueError(
            f"length_penalty: expected a number for which ((5 + max_length) / 6)**length_penalty is finite, got {alpha}"
        ) from None
    return penalty


def _best(values: Array, most: int) -> Ints:
    """Return the indices of the `most` largest `values` above -inf, in descending order; of equal ones the first."""
    least = -np.inf
    if len(values) > most:  # leaves far fewer values to sort
        least = np.partition(values, len(values) - most)[len(values) - most]
    indices = np.flatnonzero(values >= least if least > -np.inf else values > least)
    result: Ints = indices[np.argsort(-values[indices], kind="stable")[:most]]
    return result


def _log_probabilities(value: ArrayLike, rows: int, end: int) -> Array:
    """Return the checked log-probabilities from `step` as a float64 array (K, V)."""
    array = np.asarray(real_array("step", value, "log-probabilities"), np.float64)
    if array.ndim != 2 or len(array) != rows or array.shape[1] <= end:
        raise ValueError(f"step: expected log-probabilities (K, V) with K = {rows}, V > end = {end}, got {array.shape}")
    if not (array <= 1e-3).all():  # a rounded 0
        raise ValueError(f"step: expected log-probabilities, at most 0, got {array.max()}")
    return array


def _chosen(state: Any, rows: Ints, axis: int, of: int, name: str) -> Any:
    """Return the `rows` of all arrays in `state`, which have `of` rows; `name` is the argument in error messages."""
    if state is None:
        return None
    if isinstance(state, tuple | list):
        return [_chosen(part, rows, axis, of, name) for part in state]
    array = any_array(name, state, "a state of arrays, tuples, lists and None")
    if not -array.ndim <= axis < array.ndim or array.shape[axis] != of:
        raise ValueError(f"{name}: expected a state of arrays with {of} rows on row_axis = {axis}, got {array.shape}")
    return array.take(rows, axis)


def _sequence(history: list[tuple[Ints, Ints]], row: int) -> Ints:
    """Return the tokens of the sequence that is in `row` after this history."""
    tokens = np.empty(len(history), np.intp)
    for i in range(len(history) - 1, -1, -1):
        parents, following = history[i]
        tokens[i], row = following[row], parents[row]
    return tokens


def ctc_greedy(
    scores: ArrayLike, lengths: ArrayLike | None = None, blank: int = 0, *, batch_first: bool = False
) -> Any:
    """Return the labels of the likeliest class at each step, with repetitions merged and then blanks removed.

    This is the likeliest alignment. Its labels need not be the likeliest ones: `ctc_beam` sums over alignments.

    Parameters
    ----------
    scores : array_like (T, B, V), (B, T, V) with `batch_first`, or (T, V)
        Scores of V classes, before or after a softmax, in the layout of `lstm_cy.ctc`. Not changed.
    lengths : array_like of integers, (B,), or an integer for one sequence, optional
        Steps at and past a row's length are not read.
    blank : int
        The class that stands for no label, 0 to V - 1.
    batch_first : bool
        The first axis is the rows, the second the steps.

    Returns
    -------
    list of B ndarrays of intp (S_b,), or one for one sequence
        The labels of each row.

    Raises
    ------
    TypeError, ValueError
        The scores are not real numbers, or are NaN within a row's length; a shape does not fit; a length or the blank
        is out of range.

    Notes
    -----
    Best path decoding of A. Graves et al., Connectionist temporal classification: labelling unsegmented sequence data
    with recurrent neural networks, 2006, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> ctc_greedy(np.eye(3)[[1, 1, 0, 1, 2, 2]])
    array([1, 1, 2])
    """
    rows, single = _scores_of_rows(scores, lengths, blank, batch_first)
    decoded = [_without_repetitions(row.argmax(axis=1), blank) for row in rows]
    return decoded[0] if single else decoded


def ctc_beam(
    scores: ArrayLike,
    lengths: ArrayLike | None = None,
    beam_width: int = 16,
    blank: int = 0,
    *,
    batch_first: bool = False,
    language_model: _LanguageModel | None = None,
    max_classes: int | None = None,
) -> Any:
    """Return the likeliest labels, summed over their alignments, by prefix beam search.

    Parameters
    ----------
    scores, lengths :
        As for `ctc_greedy`; the scores are logits, or logarithms of the results of a softmax.
    beam_width : int
        The number of prefixes followed at a time. A prefix that is dropped, but would become likely later, is missed.
    blank, batch_first :
        As for `ctc_greedy`.
    language_model : callable, optional
        ``language_model(prefix, label) -> float``, the logarithm of a weight, is added to the score when `label`, an
        int, is appended to `prefix`, a tuple of ints; -inf excludes the label there, as a lexicon does. It is called at
        most once for each such pair of a row.
    max_classes : int, optional
        The number of a step's likeliest classes, without the blank, that may extend a prefix. None: as many as can
        matter. Without a language model these are the `beam_width` + 1 likeliest, with the same result as for all
        classes. With one, which may favour any class, they are all classes: it is called for every label after every
        prefix, and a vocabulary of thousands of word pieces needs a limit of some tens.

    Returns
    -------
    list of B lists of (labels, score), or one such list for one sequence
        At most `beam_width`, the best first. labels is an ndarray of intp (S,); score is the logarithm of the
        probability of all their alignments that were followed, plus the sum of the language model's values. Empty if
        -inf in the scores and from the language model excludes all labels.

    Raises
    ------
    TypeError, ValueError
        As for `ctc_greedy`; scores of +inf, or of only -inf in a step; `beam_width` or `max_classes` is not a positive
        integer; the language model is not a callable, or a value it returns, or their sum, is not a number below +inf.

    Notes
    -----
    A. Graves and N. Jaitly, Towards end-to-end speech recognition with recurrent neural networks, 2014, algorithm 1.
    The alignments of a prefix that end in a blank are summed separately from those that end in its last label: if the
    next class is this label again, it is a new label after a blank, but a repetition otherwise. The time for a row is
    proportional to its steps.

    Examples
    --------
    The blank is the likelier class at each step, but only one of four alignments gives no label:

    >>> import numpy as np
    >>> scores = np.log([[0.6, 0.4], [0.6, 0.4]])
    >>> ctc_greedy(scores).tolist()
    []
    >>> labels, score = ctc_beam(scores)[0]
    >>> labels.tolist(), round(float(np.exp(score)), 4)
    ([1], 0.64)
    """
    rows, single = _scores_of_rows(scores, lengths, blank, batch_first)
    beam_width = positive_int("beam_width", beam_width)
    if language_model is not None and not callable(language_model):
        raise TypeError(f"language_model: expected a callable, got {shown(language_model)}")
    most = None if max_classes is None else positive_int("max_classes", max_classes)
    rows = [_normalized_scores(row, index) for index, row in enumerate(rows)]
    decoded = [_prefix_search(row, beam_width, blank, most, language_model) for row in rows]
    return decoded[0] if single else decoded


def _scores_of_rows(
    scores: ArrayLike, lengths: ArrayLike | None, blank: int, batch_first: bool
) -> tuple[list[Array], bool]:
    """Return the checked scores of each row, (T_b, V), and whether they were passed as one sequence."""
    scores, batch_first = real_array("scores", scores), flag("batch_first", batch_first)
    if scores.ndim not in (2, 3):
        raise ValueError(
            f"scores: expected shape {'(B, T, V)' if batch_first else '(T, B, V)'} or (T, V), got {scores.shape}"
        )
    if non_negative_int("blank", blank) >= scores.shape[-1]:
        raise ValueError(f"blank: expected one of the classes 0 to {scores.shape[-1] - 1}, got {blank}")
    single = scores.ndim == 2
    batch = scores[np.newaxis] if single else scores if batch_first else scores.swapaxes(0, 1)
    rows = list(batch)
    if lengths is not None:
        lengths = check_lengths(lengths, None if single else len(rows), batch.shape[1])
        rows = [row[:length] for row, length in zip(rows, lengths.reshape(-1), strict=True)]
    for index, row in enumerate(rows):
        if np.isnan(row).any():
            raise ValueError(f"scores: expected no NaN, got some in row {index}")
    return rows, single


def _without_repetitions(classes: Ints, blank: int) -> Ints:
    kept = classes != blank
    kept[1:] &= classes[1:] != classes[:-1]
    result: Ints = classes[kept]
    return result


def _normalized_scores(scores: Array, index: int) -> Array:
    """Return the log-probabilities of a row's scores (T, V)."""
    scores = np.array(float_array("scores", scores, np.float64))
    highest = scores.max(axis=1, keepdims=True)
    if not np.isfinite(highest).all():
        raise ValueError(
            f"scores: expected numbers or -inf with a finite largest one at each step, got none in row {index}"
        )
    with np.errstate(over="ignore"):  # a score too far below the highest becomes -inf
        return log_softmax(scores)


def _prefix_search(
    scores: Array, width: int, blank: int, most: int | None, language_model: _LanguageModel | None
) -> list[tuple[Ints, float]]:
    """Return [(labels, score)], the best first, from the log-probabilities (T, V) of one row."""
    # `width` + 1 classes are enough without a language model. A class appended to a prefix that ends in another label
    # scores the prefix's score plus the class's log-probability; appended to a prefix that ends in this class, less.
    # Let v be a class that is not among the `width` + 1 likeliest. At least `width` of these differ from the prefix's
    # last label, and appended to the same prefix score at least as much as v. If one of them is merged into a prefix
    # that is already in the beam, that prefix scores at least as much too, because merging only increases its score.
    # Rounding keeps this order, and of equal scores `_best` takes prefixes that stay and likelier classes first.
    # Therefore v cannot be one of the `width` best.
    if most is None:
        most = width + 1 if language_model is None else scores.shape[1]
    prefixes = _Prefixes(blank)
    weights = None if language_model is None else _Weights(language_model, prefixes, scores.shape[1])
    # For each prefix, the log-probabilities of its alignments that end in a blank, and that end in its last label.
    beam, in_blank, in_label = [0], np.zeros(1), np.full(1, -np.inf)
    for step in scores:
        classes, last = _likeliest_classes(step, blank, most), prefixes.last_labels(beam)
        either = np.logaddexp(in_blank, in_label)
        longer = (
            np.where(last[:, np.newaxis] == classes, in_blank[:, np.newaxis], either[:, np.newaxis]) + step[classes]
        )
        # If the extended prefix is already in the beam, the extension is added to it.
        own, parent = prefixes.followed(beam)
        joining = np.where(last[own] == last[parent], in_blank[parent], either[parent]) + step[last[own]]
        if weights is not None:
            longer = _weighed(longer, weights.after(beam, classes))
            joining = _weighed(joining, weights.known([beam[i] for i in parent], last[own]))
        in_blank, in_label = either + step[blank], in_label + step[last]
        in_label[own] = np.logaddexp(in_label[own], joining)
        pair, column = np.nonzero(last[own][:, np.newaxis] == classes)
        longer[parent[pair], column] = -np.inf

        sums = np.concatenate([np.logaddexp(in_blank, in_label), longer.ravel()])
        best = _best(sums, width)
        stays = best < len(beam)
        in_blank = np.where(stays, in_blank.take(best, mode="clip"), -np.inf)
        in_label = np.where(stays, in_label.take(best, mode="clip"), sums[best])
        beam = prefixes.grown(beam, classes, best)
        if not beam:
            return []
    sums = np.logaddexp(in_blank, in_label)
    return [(prefixes.labels(number), float(score)) for number, score in zip(beam, sums, strict=True)]


def _checked_weights(values: list[Any]) -> Array:
    """Return the checked values of a language model, numbers below infinity, as an array."""
    if set(map(type, values)) == {float}:  # the usual case, checked all at once
        weights = np.array(values)
        if (weights < np.inf).all():
            return weights
    return np.array([number("language_model", value, open_high=True) for value in values])


def _likeliest_classes(step: Array, blank: int, most: int) -> Ints:
    """Return the `most` likeliest classes of a step without the blank, the likeliest first."""
    scores = step.copy()
    scores[blank] = -np.inf
    return _best(scores, most)


def _weighed(scores: Array, weights: Array) -> Array:
    """Return the scores plus the weights of a language model."""
    with np.errstate(over="ignore"):
        sums = scores + weights
    if (sums == np.inf).any():
        raise ValueError("language_model: expected numbers that add up to a finite one, got a sum beyond float64")
    return sums


class _Prefixes:
    """The prefixes of a row as a tree: each has a number, a last label, and the number of its parent prefix.

    A prefix is identified by its number, so that its labels are neither copied nor compared.
    """

    def __init__(self, blank: int) -> None:
        self.parents, self.last = [-1], [blank]  # number 0 is the empty prefix, which ends in no label
        self._numbers: dict[tuple[int, int], int] = {}

    def last_labels(self, beam: list[int]) -> Ints:
        return np.array([self.last[number] for number in beam], np.intp)

    def followed(self, beam: list[int]) -> tuple[Ints, Ints]:
        """Return the beam indices of the prefixes whose parents are in the beam, and the indices of these parents."""
        indices = {number: i for i, number in enumerate(beam)}
        pairs = [(i, indices.get(self.parents[number], -1)) for number, i in indices.items()]
        own, parent = np.array([pair for pair in pairs if pair[1] >= 0], np.intp).reshape(-1, 2).T
        return own, parent

    def grown(self, beam: list[int], classes: Ints, best: Ints) -> list[int]:
        """Return the next beam. `best` are indices in this beam, followed by its extensions, (beam, classes)."""
        labels, result = classes.tolist(), []
        for index in best.tolist():
            if index < len(beam):
                result.append(beam[index])
            else:
                parent, column = divmod(index - len(beam), len(labels))
                result.append(self._longer(beam[parent], labels[column]))
        return result

    def _longer(self, parent: int, label: int) -> int:
        number = self._numbers.setdefault((parent, label), len(self.parents))
        if number == len(self.parents):
            self.parents.append(parent)
            self.last.append(label)
        return number

    def labels(self, number: int) -> Ints:
        """Return all labels of a prefix."""
        labels = []
        while number:
            labels.append(self.last[number])
            number = self.parents[number]
        return np.array(labels[::-1], np.intp)


class _Weights:
    """The values of a language model for labels after prefixes; it is called at most once for each pair."""

    def __init__(self, language_model: _LanguageModel, prefixes: _Prefixes, classes: int) -> None:
        self._language_model, self._prefixes, self._classes = language_model, prefixes, classes
        # For each prefix its labels, and the weights of all classes after it, NaN where not yet computed.
        self._known: dict[int, tuple[tuple[int, ...], Array]] = {}
        self._most = 64

    def after(self, beam: list[int], classes: Ints) -> Array:
        """Return the weights of `classes` after each prefix of a beam, (beam, classes)."""
        table = np.stack([self._row(prefix, classes) for prefix in beam])
        if len(self._known) > self._most:
            self._drop_unreachable(beam)
        return table

    def known(self, beam: list[int], labels: Ints) -> Array:
        """Return the weight of a label after each prefix; the weight must have been computed before."""
        return np.array([self._known[number][1][label] for number, label in zip(beam, labels, strict=True)])

    def _row(self, prefix: int, classes: Ints) -> Array:
        if prefix not in self._known:
            parent = self._prefixes.parents[prefix]
            labels = (*self._known[parent][0], self._prefixes.last[prefix]) if prefix else ()
            self._known[prefix] = labels, np.full(self._classes, np.nan)
        labels, weights = self._known[prefix]
        new = classes[np.isnan(weights[classes])]
        if len(new):
            weights[new] = _checked_weights([self._language_model(labels, label) for label in new.tolist()])
        return weights[classes]

    def _drop_unreachable(self, beam: list[int]) -> None:
        """Drop the prefixes that cannot return to the beam: neither they nor any of their ancestors is in it."""
        reachable = set(beam)
        for prefix in sorted(self._known):  # a prefix has a higher number than its ancestors
            if self._prefixes.parents[prefix] in reachable:
                reachable.add(prefix)
        self._known = {prefix: known for prefix, known in self._known.items() if prefix in reachable}
        self._most = max(64, 2 * len(self._known))
