"""From what a model says of the next token to tokens and text."""

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
from .layers import Embedding, Sequential
from .losses import cross_entropy
from .training import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        At least 0. Below 1 likely tokens become likelier; 0 takes the likeliest, the first of equals.
    top_k : int, optional
        Draw from the `top_k` likeliest tokens only.
    top_p : float, optional
        Draw from the likeliest tokens only, as many as it takes to have `top_p` of the probability, in (0, 1], between
        them (A. Holtzman et al., The Curious Case of Neural Text Degeneration, 2020). Of the probability that `top_k`
        leaves, where both are given.
    rng : numpy.random.Generator, int or None
        Where the chance comes from: a generator, the seed of one, or None for a fresh one.

    Returns
    -------
    int, or ndarray of intp, shape (...)
        An int for logits of one axis.

    Raises
    ------
    TypeError
        The logits are no real numbers, or another argument is none.
    ValueError
        NaN or infinity among the logits, no token to draw, a temperature that is negative or not finite, or a top_k or
        top_p out of range.

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
        with np.errstate(over="ignore"):  # a tiny temperature makes -inf of all but the highest, as it should
            weights = np.exp((logits - highest) / temperature)
        tokens = _draw(_likeliest(weights, top_k, top_p), rng)
    else:
        tokens = logits.argmax(axis=-1)
    return int(tokens) if logits.ndim == 1 else tokens


def _choice(temperature: float, top_k: int | None, top_p: float | None) -> tuple[float, int | None, float | None]:
    """These arguments, checked."""
    return (
        number("temperature", temperature, 0, open_high=True),
        None if top_k is None else positive_int("top_k", top_k),
        None if top_p is None else number("top_p", top_p, 0, 1, open_low=True),
    )


def _likeliest(weights: Array, top_k: int | None, top_p: float | None) -> Array:
    """`weights`, with zeros in the place of those that `top_k` and `top_p` leave out; of equal ones the first stay."""
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
    """Tokens with probabilities as their weights are."""
    cumulative = weights.cumsum(axis=-1)
    # In (0, total]: the first entry to reach it exists, whatever is rounded, and has a weight above 0.
    reached = cumulative[..., -1:] * (1 - rng.random((*weights.shape[:-1], 1)))
    result: Ints = (cumulative >= reached).argmax(axis=-1)
    return result


# What `generate` needs of a vocabulary.
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
    """Let a language model go on with a text.

    Parameters
    ----------
    model : Sequential
        Tokens (T,) in, logits (T, n) out, as Sequential(Embedding(n, d), LSTM(d, h), Linear(h, n)).
    vocabulary : Vocabulary, Words or Bytes
        Of n tokens; the unknown symbol is never written.
    prompt : str
        The text to go on with, which passes through the model in one call. Empty: the beginning of a line.
    length : int
        How many characters, words or bytes to write.
    temperature, top_k, top_p :
        See `sample`.
    seed : int, numpy.random.Generator or None
        The same seed gives the same text; None a new one each time.

    Returns
    -------
    iterator of str
        What follows the prompt, each character or word as soon as it is drawn, bytes as soon as they make a character
        (`Bytes` tells what becomes of those that make none); the state is carried from one to the next. Arguments are
        checked and the prompt is read before it is handed out.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, the vocabulary does not cover the prompt, or the model's logits are not as many as the
        vocabulary's tokens.

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
    embedding = _embedding_of(model)
    if not all(hasattr(vocabulary, name) for name in _VOCABULARY):
        raise TypeError(f"vocabulary: expected a Vocabulary, Words or Bytes, got {type(vocabulary).__name__}")
    if not isinstance(prompt, str):
        raise TypeError(f"prompt: expected a str, got {type(prompt).__name__}")
    length = non_negative_int("length", length)
    choice = dict(zip(("temperature", "top_k", "top_p"), _choice(temperature, top_k, top_p), strict=True))
    rng = generator("seed", seed)
    if missing := vocabulary.missing(prompt):
        raise ValueError(f"prompt: not in the model's vocabulary: {', '.join(map(repr, missing[:10]))}")
    if len(vocabulary) > embedding.num_embeddings:
        raise ValueError(
            f"vocabulary: expected {embedding.num_embeddings} tokens as the model reads, got {len(vocabulary)}"
        )
    logits, states = model(vocabulary.encode(prompt or "\n"))
    if logits.shape[-1] != len(vocabulary):
        raise ValueError(
            f"vocabulary: expected {logits.shape[-1]} tokens as the model has logits, got {len(vocabulary)}"
        )
    stepper = model.stepper()
    stepper.state = [(h[:, np.newaxis], c[:, np.newaxis]) for h, c in states]
    return vocabulary.pieces(_continue(stepper, vocabulary.unknown, logits[-1], length, choice | {"rng": rng}))


def _embedding_of(model: Sequential) -> Embedding:
    """The first layer of a model that reads tokens."""
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential, got {type(model).__name__}")
    first = model.layers[0]
    if not isinstance(first, Embedding):
        raise TypeError(
            f"model: expected a Sequential with an Embedding as its first layer, got {type(first).__name__}"
        )
    return first


def _continue(
    stepper: Stepper, unknown: int | None, logits: Array, length: int, choice: dict[str, Any]
) -> Iterator[int]:
    """`length` tokens, each drawn from what the last one brought about."""
    for _ in range(length):
        if unknown is not None:
            logits[unknown] = -np.inf
        token = sample(logits, **choice)
        yield token
        logits = stepper.step(token)


def surprise(model: Sequential, tokens: ArrayLike, *, chunk: int = 1024, progress: bool = False) -> float:
    """How much each token of a text surprises a model that has read all those before it, in the mean.

    This is the mean of -ln p(token | the tokens before it), in nats; divided by ln 2 it is in bits, and its exponential
    is the perplexity. The first token is only read.

    Parameters
    ----------
    model : Sequential
        Tokens (T,) in, logits (T, n) out.
    tokens : array_like of int, shape (N,)
        The text, at least two tokens.
    chunk : int
        So many tokens go through the model in one call, the state carried from call to call: a long text needs no more
        memory than a short one, and the result is the same.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, or a token is none of the model's.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
    >>> model = Sequential(Embedding(4, 3), LSTM(3, 5), Linear(5, 4))
    >>> model.load_state_dict({"2.weight": np.zeros((4, 5)), "2.bias": np.zeros(4)}, strict=False)
    >>> round(float(np.exp(surprise(model, [0, 1, 2, 3, 0]))), 4)  # four tokens, and it knows nothing
    4.0
    """
    _embedding_of(model)
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


class Hypothesis(NamedTuple):
    """A sequence that `beam_search` found.

    Attributes
    ----------
    tokens : ndarray of intp
        Without the start and the end.
    score : float
        What it is ranked by: `log_probability` over the length penalty.
    log_probability : float
        The sum over its tokens, the end among them.
    ended : bool
        False if it was cut at the longest length, before its end.
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
    """The likeliest sequences that a model can tell the next token of.

    Parameters
    ----------
    step : callable
        ``step(tokens, state) -> (log_probabilities, state)``: tokens (K,) of intp, the last of each of K sequences,
        and the state before it; log-probabilities (K, V) of the next token, at most 0, -inf for what cannot come.
    state : array, or tuples, lists and None with arrays in them
        The state before `start`, for one row. Between steps its rows are chosen anew, and repeated, to go with the
        sequences; tuples become lists.
    start, end : int
        The token that `step` is first given; the token, less than V, after which nothing comes.
    beam_width : int
        How many sequences are kept at each length, and returned at most. 1, without a penalty, is greedy search.
    max_length : int
        How many steps are made at most.
    length_penalty : float
        alpha, at least 0: a sequence of n tokens, the end among them, is ranked by its log-probability over
        ((5 + n) / 6)**alpha (Wu et al., Google's neural machine translation system, 2016, equation 14). 0: by its
        log-probability, which favours short ones.
    row_axis : int
        Which axis of the state's arrays is that of the rows: 1 as an LSTM's (h, c) have it.

    Returns
    -------
    list of Hypothesis
        The best first: those that ended before those that did not, each by score; of equals the one found first.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is expected, or `step` returns NaN, log-probabilities above 0 or another shape.

    Notes
    -----
    At each length the `beam_width` likeliest continuations are looked at; those among them that end are set aside, and
    as many others as can be had go on. The search is over when none of these can come among the best.

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

    # Of each length: which sequence of the length before each goes on from, and with which token. Sequences are put
    # together from them at the end, so that a step costs the same however long they are.
    history: list[tuple[Ints, Ints]] = []
    ended: list[
        tuple[float, float, int, int]
    ] = []  # score, log-probability, and where in the history its last token is
    totals, tokens = np.zeros(1), np.array([start])
    for length in range(1, max_length + 1):
        result, state = pair_of("step", step(tokens, state), "(log_probabilities, state)")
        candidates = totals[:, np.newaxis] + _log_probabilities(result, len(tokens), end)
        # Each row ends in one candidate at most: so many more make sure that `beam_width` are left to go on.
        best = _best(candidates.reshape(-1), beam_width + len(tokens))
        rows, following = np.unravel_index(best, candidates.shape)
        for row in rows[:beam_width][following[:beam_width] == end]:
            total = float(candidates[row, end])
            ended.append((total / penalty(length), total, length - 1, int(row)))
        ended = sorted(ended, key=lambda found: -found[0])[:beam_width]
        going_on = np.flatnonzero(following != end)[:beam_width]
        rows, tokens = rows[going_on], following[going_on]
        totals = candidates[rows, tokens]
        history.append((rows, tokens))
        # What goes on only becomes less likely; at best it is as long as it may be.
        if not len(tokens) or (len(ended) == beam_width and totals[0] / penalty(max_length) <= ended[-1][0]):
            break
        name = "state" if length == 1 else "step"
        try:
            state = _chosen(state, rows, row_axis, len(candidates), name)
        except RecursionError:
            raise ValueError(f"{name}: expected a state nested less deeply") from None
    cut = [(float(total) / penalty(length), float(total), length, row) for row, total in enumerate(totals)]
    return [
        Hypothesis(_sequence(history[:steps], row), score, total, place < len(ended))
        for place, (score, total, steps, row) in enumerate((ended + cut)[:beam_width])
    ]


def _length_penalty(alpha: float, max_length: int) -> Callable[[int], float]:
    """What a log-probability is divided by, as a function of a sequence's length."""
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
    """The places of the `most` largest of `values`, the largest first and of equals the first; none of -inf."""
    least = -np.inf
    if len(values) > most:  # sorts far fewer of them
        least = np.partition(values, len(values) - most)[len(values) - most]
    places = np.flatnonzero(values >= least if least > -np.inf else values > least)
    result: Ints = places[np.argsort(-values[places], kind="stable")[:most]]
    return result


def _log_probabilities(value: ArrayLike, rows: int, end: int) -> Array:
    """What `step` gave, checked, as a float64 array (K, V)."""
    array = np.asarray(real_array("step", value, "log-probabilities"), np.float64)
    if array.ndim != 2 or len(array) != rows or array.shape[1] <= end:
        raise ValueError(f"step: expected log-probabilities (K, V) with K = {rows}, V > end = {end}, got {array.shape}")
    if not (array <= 1e-3).all():  # a rounded 0
        raise ValueError(f"step: expected log-probabilities, at most 0, got {array.max()}")
    return array


def _chosen(state: Any, rows: Ints, axis: int, of: int, name: str) -> Any:
    """The `rows` of all arrays in `state`, which have `of` rows; `name` is where the state came from."""
    if state is None:
        return None
    if isinstance(state, tuple | list):
        return [_chosen(part, rows, axis, of, name) for part in state]
    array = any_array(name, state, "a state of arrays, tuples, lists and None")
    if not -array.ndim <= axis < array.ndim or array.shape[axis] != of:
        raise ValueError(f"{name}: expected a state of arrays with {of} rows on row_axis = {axis}, got {array.shape}")
    return array.take(rows, axis)


def _sequence(history: list[tuple[Ints, Ints]], row: int) -> Ints:
    """The tokens that led to what is in `row` after this history."""
    tokens = np.empty(len(history), np.intp)
    for place in range(len(history) - 1, -1, -1):
        parents, following = history[place]
        tokens[place], row = following[row], parents[row]
    return tokens


def ctc_greedy(
    scores: ArrayLike, lengths: ArrayLike | None = None, blank: int = 0, *, batch_first: bool = False
) -> Any:
    """The labels of the likeliest class at each step: repetitions merged, then blanks taken out.

    That is the likeliest alignment, whose labels need not be the likeliest ones: `ctc_beam` adds alignments up.

    Parameters
    ----------
    scores : array_like (T, B, V), (B, T, V) with `batch_first`, or (T, V)
        Of V classes, before or after a softmax, as `lstm_cy.ctc` was given them. Not changed.
    lengths : array_like of integers, (B,), or an integer for one sequence, optional
        Steps at and past a row's length are not read.
    blank : int
        The class that says nothing, 0 to V - 1.
    batch_first : bool
        Rows come before steps.

    Returns
    -------
    list of B ndarrays of intp (S_b,), or one for one sequence
        The labels of each row.

    Raises
    ------
    TypeError, ValueError
        The scores are no real numbers, or NaN within a row's length; a shape does not fit; a length or the blank is out
        of range.

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
    """The likeliest labels, all alignments that say them added up, by prefix beam search.

    Parameters
    ----------
    scores, lengths :
        As for `ctc_greedy`; the scores are those before a softmax, or logarithms of what comes out of one.
    beam_width : int
        How many prefixes are followed at a time. One that is given up, but would have become likely, is missed.
    blank, batch_first :
        As for `ctc_greedy`.
    language_model : callable, optional
        ``language_model(prefix, label) -> float`` is added where `label`, an int, goes behind `prefix`, a tuple of
        ints: the logarithm of a weight; -inf rules the label out there, as a lexicon does. It is asked at most once for
        each such pair of a row.
    max_classes : int, optional
        How many of a step's likeliest classes, the blank aside, may go behind a prefix. None: as many as can matter.
        Without a language model these are the `beam_width` + 1 likeliest, for which the result is that of all classes;
        with one, which may favour any class, they are all: it is asked for every label behind every prefix, and a
        vocabulary of thousands of word pieces needs a limit of some tens.

    Returns
    -------
    list of B lists of (labels, score), or one such list for one sequence
        At most `beam_width`, the best first: labels an ndarray of intp (S,), score the logarithm of the probability of
        all their alignments that were followed, plus what the language model added. Empty where scores and language
        model of -inf leave nothing.

    Raises
    ------
    TypeError, ValueError
        As `ctc_greedy`; scores of +inf, or of nothing but -inf in a step; `beam_width` or `max_classes` is not a
        positive integer; the language model is no callable, or gives what is no number below +inf, or numbers whose sum
        is none.

    Notes
    -----
    A. Graves and N. Jaitly, Towards end-to-end speech recognition with recurrent neural networks, 2014, algorithm 1. Of
    each prefix, alignments that end in a blank and alignments that end in its last label are kept apart: said once
    more, that label is a second one behind a blank, but still the first one otherwise. A row's time is proportional to
    its steps.

    Examples
    --------
    The blank is the likelier class at each step, but only one of four alignments has no label:

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
    rows = [_log_softmax(row, index) for index, row in enumerate(rows)]
    decoded = [_prefix_search(row, beam_width, blank, most, language_model) for row in rows]
    return decoded[0] if single else decoded


def _scores_of_rows(
    scores: ArrayLike, lengths: ArrayLike | None, blank: int, batch_first: bool
) -> tuple[list[Array], bool]:
    """The checked scores of each row, (T_b, V), and whether they came as one sequence."""
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


def _log_softmax(scores: Array, index: int) -> Array:
    scores = np.array(float_array("scores", scores, np.float64))
    highest = scores.max(axis=1, keepdims=True)
    if not np.isfinite(highest).all():
        raise ValueError(
            f"scores: expected numbers or -inf with a finite largest one at each step, not so in row {index}"
        )
    with np.errstate(over="ignore"):  # what is so far below the highest is -inf
        scores -= highest
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return scores


def _prefix_search(
    scores: Array, width: int, blank: int, most: int | None, language_model: _LanguageModel | None
) -> list[tuple[Ints, float]]:
    """[(labels, score)], the best first, from the log-probabilities (T, V) of one row."""
    # Why `width` + 1 classes are enough without a language model: behind a prefix that ends in another label, a class
    # scores what the prefix has plus the class's log-probability; behind one that ends in the class itself, less. So of
    # a class v that is not among these, `width` other classes behind the same prefix score at least as much, the one
    # that the prefix ends in left out; so does a prefix that is followed already, where one of them is merged into it,
    # for its score only grows. Rounding keeps this order, and of equals `_best` takes prefixes that stay and likelier
    # classes first: v cannot be one of the `width` best.
    if most is None:
        most = width + 1 if language_model is None else scores.shape[1]
    prefixes = _Prefixes(blank)
    weights = None if language_model is None else _Weights(language_model, prefixes, scores.shape[1])
    # Of each prefix the alignments that end in a blank, and those that end in its last label; as logarithms.
    beam, in_blank, in_label = [0], np.zeros(1), np.full(1, -np.inf)
    for step in scores:
        classes, last = _likeliest_classes(step, blank, most), prefixes.last_labels(beam)
        either = np.logaddexp(in_blank, in_label)
        longer = (
            np.where(last[:, np.newaxis] == classes, in_blank[:, np.newaxis], either[:, np.newaxis]) + step[classes]
        )
        # Where a prefix with one label more is followed already, what would become it is added to it.
        own, parent = prefixes.followed(beam)
        joining = np.where(last[own] == last[parent], in_blank[parent], either[parent]) + step[last[own]]
        if weights is not None:
            longer = _weighed(longer, weights.behind(beam, classes))
            joining = _weighed(joining, weights.known([beam[place] for place in parent], last[own]))
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


def _checked_weights(answers: list[Any]) -> Array:
    """What a language model answered, as numbers below infinity."""
    if set(map(type, answers)) == {float}:  # as it mostly is: checked all at once
        weights = np.array(answers)
        if (weights < np.inf).all():
            return weights
    return np.array([number("language_model", answer, open_high=True) for answer in answers])


def _likeliest_classes(step: Array, blank: int, most: int) -> Ints:
    """The `most` likeliest classes of a step, the blank aside, the likeliest first."""
    scores = step.copy()
    scores[blank] = -np.inf
    return _best(scores, most)


def _weighed(scores: Array, weights: Array) -> Array:
    """Scores with the weights of a language model added."""
    with np.errstate(over="ignore"):
        sums = scores + weights
    if (sums == np.inf).any():
        raise ValueError("language_model: expected numbers that add up to a finite one, got a sum beyond float64")
    return sums


class _Prefixes:
    """The prefixes of a row as a tree: each has a number, a last label, and the number of the prefix before it.

    A prefix is identified by its number: however long it is, it is neither copied nor compared.
    """

    def __init__(self, blank: int) -> None:
        self.parents, self.last = [-1], [blank]  # number 0 is the empty prefix, which ends in no label
        self._numbers: dict[tuple[int, int], int] = {}

    def last_labels(self, beam: list[int]) -> Ints:
        return np.array([self.last[number] for number in beam], np.intp)

    def followed(self, beam: list[int]) -> tuple[Ints, Ints]:
        """The places in the beam of prefixes whose parents are in it too, and the places of these."""
        places = {number: place for place, number in enumerate(beam)}
        pairs = [(place, places.get(self.parents[number], -1)) for number, place in places.items()]
        own, parent = np.array([pair for pair in pairs if pair[1] >= 0], np.intp).reshape(-1, 2).T
        return own, parent

    def grown(self, beam: list[int], classes: Ints, best: Ints) -> list[int]:
        """The next beam: `best` are places in this one or, past its end, in a table (beam, classes) of longer ones."""
        labels, result = classes.tolist(), []
        for place in best.tolist():
            if place < len(beam):
                result.append(beam[place])
            else:
                parent, column = divmod(place - len(beam), len(labels))
                result.append(self._longer(beam[parent], labels[column]))
        return result

    def _longer(self, parent: int, label: int) -> int:
        number = self._numbers.setdefault((parent, label), len(self.parents))
        if number == len(self.parents):
            self.parents.append(parent)
            self.last.append(label)
        return number

    def labels(self, number: int) -> Ints:
        """All labels of a prefix."""
        labels = []
        while number:
            labels.append(self.last[number])
            number = self.parents[number]
        return np.array(labels[::-1], np.intp)


class _Weights:
    """What a language model says of labels behind prefixes: asked at most once for each pair."""

    def __init__(self, language_model: _LanguageModel, prefixes: _Prefixes, classes: int) -> None:
        self._language_model, self._prefixes, self._classes = language_model, prefixes, classes
        # Of each prefix its labels, and the weights of all classes behind it, NaN where it has not been asked.
        self._known: dict[int, tuple[tuple[int, ...], Array]] = {}
        self._most = 64

    def behind(self, beam: list[int], classes: Ints) -> Array:
        """The weights of `classes` behind each prefix of a beam, (beam, classes)."""
        table = np.stack([self._row(prefix, classes) for prefix in beam])
        if len(self._known) > self._most:
            self._forget(beam)
        return table

    def known(self, beam: list[int], labels: Ints) -> Array:
        """The weight of a label behind each prefix, for which the model has been asked."""
        return np.array([self._known[number][1][label] for number, label in zip(beam, labels, strict=True)])

    def _row(self, prefix: int, classes: Ints) -> Array:
        if prefix not in self._known:
            before = self._prefixes.parents[prefix]
            labels = (*self._known[before][0], self._prefixes.last[prefix]) if prefix else ()
            self._known[prefix] = labels, np.full(self._classes, np.nan)
        labels, weights = self._known[prefix]
        new = classes[np.isnan(weights[classes])]
        if len(new):
            weights[new] = _checked_weights([self._language_model(labels, label) for label in new.tolist()])
        return weights[classes]

    def _forget(self, beam: list[int]) -> None:
        """Drop the prefixes that cannot come back: neither they nor any that they begin with is in the beam."""
        alive = set(beam)
        for prefix in sorted(self._known):  # a prefix has a higher number than those that it begins with
            if self._prefixes.parents[prefix] in alive:
                alive.add(prefix)
        self._known = {prefix: known for prefix, known in self._known.items() if prefix in alive}
        self._most = max(64, 2 * len(self._known))
