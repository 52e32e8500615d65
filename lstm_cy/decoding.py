"""From what a model says of the next token to tokens and text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .checks import check_lengths, flag, generator, int_array, non_negative_int, number, positive_int, real_array
from .layers import Sequential
from .losses import cross_entropy
from .training import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .stepper import Stepper
    from .text import Bytes, Vocabulary, Words
    from .typing import Array, ArrayLike, Ints, Seed

    _LanguageModel = Callable[[tuple[int, ...], int], float]


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
    logits = np.asarray(logits, dtype=np.float64)
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
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential, got {type(model).__name__}")
    length = non_negative_int("length", length)
    choice = dict(zip(("temperature", "top_k", "top_p"), _choice(temperature, top_k, top_p), strict=True))
    rng = generator("seed", seed)
    if missing := vocabulary.missing(prompt):
        raise ValueError(f"prompt: not in the model's vocabulary: {', '.join(map(repr, missing[:10]))}")
    logits, states = model(vocabulary.encode(prompt or "\n"))
    if logits.shape[-1] != len(vocabulary):
        raise ValueError(
            f"vocabulary: expected {logits.shape[-1]} tokens as the model has logits, got {len(vocabulary)}"
        )
    stepper = model.stepper()
    stepper.state = [(h[:, np.newaxis], c[:, np.newaxis]) for h, c in states]
    return vocabulary.pieces(_continue(stepper, vocabulary.unknown, logits[-1], length, choice | {"rng": rng}))


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
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential, got {type(model).__name__}")
    tokens, chunk = int_array("tokens", tokens), positive_int("chunk", chunk)
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
    alpha = number("length_penalty", length_penalty, 0, open_high=True)
    if not callable(step):
        raise TypeError(f"step: expected a callable, got {type(step).__name__}")

    def penalty(length: int) -> float:
        result: float = ((5 + length) / 6) ** alpha
        return result

    ended = []
    sequences, totals, tokens = np.empty((1, 0), np.intp), np.zeros(1), np.array([start])
    for length in range(1, max_length + 1):
        log_probabilities, state = step(tokens, state)
        candidates = totals[:, np.newaxis] + _log_probabilities(log_probabilities, len(tokens), end)
        order = np.argsort(-candidates, axis=None, kind="stable")
        rows, tokens = np.unravel_index(order[candidates.reshape(-1)[order] > -np.inf], candidates.shape)
        ending = np.flatnonzero(tokens[:beam_width] == end)
        ended += [
            Hypothesis(sequences[row], float(total / penalty(length)), float(total), True)
            for row, total in zip(rows[ending], candidates[rows[ending], end], strict=True)
        ]
        ended = sorted(ended, key=lambda hypothesis: -hypothesis.score)[:beam_width]
        going_on = np.flatnonzero(tokens != end)[:beam_width]
        rows, tokens = rows[going_on], tokens[going_on]
        sequences, totals = np.column_stack([sequences[rows], tokens]), candidates[rows, tokens]
        # What goes on only becomes less likely; at best it is as long as it may be.
        if not len(tokens) or (len(ended) == beam_width and totals[0] / penalty(max_length) <= ended[-1].score):
            break
        state = _chosen(state, rows, row_axis)
    cut = [
        Hypothesis(sequence, float(total / penalty(length)), float(total), False)
        for sequence, total in zip(sequences, totals, strict=True)
    ]
    return (ended + cut)[:beam_width]


def _log_probabilities(value: ArrayLike, rows: int, end: int) -> Array:
    """What `step` gave, checked, as a float64 array (K, V)."""
    array = np.asarray(value, np.float64)
    if array.ndim != 2 or len(array) != rows or array.shape[1] <= end:
        raise ValueError(f"step: expected log-probabilities (K, V) with K = {rows}, V > end = {end}, got {array.shape}")
    if not (array <= 1e-3).all():  # a rounded 0
        raise ValueError(f"step: expected log-probabilities, at most 0, got {array.max()}")
    return array


def _chosen(state: Any, rows: Ints, axis: int) -> Any:
    """The `rows` of all arrays in `state`."""
    if state is None:
        return None
    if isinstance(state, tuple | list):
        return [_chosen(part, rows, axis) for part in state]
    return np.asarray(state).take(rows, axis)


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
        ints: the logarithm of a weight; -inf rules the label out there, as a lexicon does. It is asked once for each
        such pair of a row.

    Returns
    -------
    list of B lists of (labels, score), or one such list for one sequence
        At most `beam_width`, the best first: labels an ndarray of intp (S,), score the logarithm of the probability of
        all their alignments that were followed, plus what the language model added. Empty where scores and language
        model of -inf leave nothing.

    Raises
    ------
    TypeError, ValueError
        As `ctc_greedy`; scores of +inf, or of nothing but -inf in a step; `beam_width` is not a positive integer; the
        language model is no callable, or gives no number below +inf.

    Notes
    -----
    A. Graves and N. Jaitly, Towards end-to-end speech recognition with recurrent neural networks, 2014, algorithm 1. Of
    each prefix, alignments that end in a blank and alignments that end in its last label are kept apart: said once
    more, that label is a second one behind a blank, but still the first one otherwise.

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
        raise TypeError(f"language_model: expected a callable, got {language_model!r}")
    rows = [_log_softmax(row, index) for index, row in enumerate(rows)]
    decoded = [_prefix_search(row, beam_width, blank, language_model) for row in rows]
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
    scores = scores.astype(np.float64)
    highest = scores.max(axis=1, keepdims=True)
    if not np.isfinite(highest).all():
        raise ValueError(
            f"scores: expected numbers or -inf with a finite largest one at each step, not so in row {index}"
        )
    scores -= highest
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return scores


def _prefix_search(
    scores: Array, width: int, blank: int, language_model: _LanguageModel | None
) -> list[tuple[Ints, float]]:
    """[(labels, score)], the best first, from the log-probabilities (T, V) of one row."""
    # Of each prefix the alignments that end in a blank, and those that end in its last label; as logarithms.
    prefixes: list[tuple[int, ...]] = [()]
    in_blank, in_label = np.zeros(1), np.full(1, -np.inf)
    weights: dict[tuple[int, ...], list[float]] = {}
    for step in scores:
        last = np.array([prefix[-1] if prefix else blank for prefix in prefixes], np.intp)
        either = np.logaddexp(in_blank, in_label)
        longer = either[:, np.newaxis] + step  # by the label that goes behind the prefix
        longer[np.arange(len(last)), last] = in_blank + step[last]
        longer[:, blank] = -np.inf
        if language_model is not None:
            longer += _weights(language_model, prefixes, len(step), blank, weights)
        in_blank, in_label = either + step[blank], in_label + step[last]
        _merge(prefixes, last, in_label, longer)

        sums = np.concatenate([np.logaddexp(in_blank, in_label), longer.ravel()])
        best = np.argsort(-sums, kind="stable")[:width]
        best = best[sums[best] > -np.inf]
        stays = best < len(prefixes)
        grown = [divmod(int(place), len(step)) for place in best - len(prefixes)]
        prefixes = [
            prefixes[place] if stay else (*prefixes[parent], label)
            for place, stay, (parent, label) in zip(best, stays, grown, strict=True)
        ]
        in_blank = np.where(stays, in_blank.take(best, mode="clip"), -np.inf)
        in_label = np.where(stays, in_label.take(best, mode="clip"), sums[best])
    sums = np.logaddexp(in_blank, in_label)
    return [(np.array(prefix, np.intp), float(score)) for prefix, score in zip(prefixes, sums, strict=True)]


def _merge(prefixes: list[tuple[int, ...]], last: Ints, in_label: Array, longer: Array) -> None:
    """Where a prefix with one label more is followed already, add what would become it."""
    places = {prefix: place for place, prefix in enumerate(prefixes)}
    for place, prefix in enumerate(prefixes):
        parent = places.get(prefix[:-1]) if prefix else None
        if parent is not None:
            in_label[place] = np.logaddexp(in_label[place], longer[parent, last[place]])
            longer[parent, last[place]] = -np.inf


def _weights(
    language_model: _LanguageModel,
    prefixes: list[tuple[int, ...]],
    classes: int,
    blank: int,
    known: dict[tuple[int, ...], list[float]],
) -> Array:
    """What a language model says of each label behind each prefix, (prefixes, classes); `known` keeps it."""
    for prefix in prefixes:
        if prefix not in known:
            answers = [0.0 if label == blank else language_model(prefix, label) for label in range(classes)]
            known[prefix] = [number("language_model", answer, high=np.inf, open_high=True) for answer in answers]
    return np.array([known[prefix] for prefix in prefixes]).reshape(-1, classes)
