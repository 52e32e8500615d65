"""From what a model says of the next token to tokens and text."""

from typing import NamedTuple

import numpy as np

from .checks import generator, non_negative_int, number, positive_int
from .layers import Sequential


def sample(logits, *, temperature=1.0, rng=None):
    """Draw a token from the distribution softmax(logits / temperature).

    Parameters
    ----------
    logits : array_like, shape (..., n)
        Scores; their last axis is the vocabulary. An entry of -inf is never drawn. Not changed.
    temperature : float
        At least 0. Below 1 likely tokens become likelier; 0 takes the likeliest, the first of equals.
    rng : numpy.random.Generator, int or None
        Where the chance comes from: a generator, the seed of one, or None for a fresh one.

    Returns
    -------
    int, or ndarray of intp, shape (...)
        An int for logits of one axis.

    Raises
    ------
    ValueError
        NaN or infinity among the logits, no token to draw, or a temperature that is negative or not finite.

    Examples
    --------
    >>> sample([0.0, 3.0, 1.0], temperature=0)
    1
    >>> sample([[0.0, -np.inf], [-np.inf, 0.0]], rng=1)
    array([0, 1])
    """
    logits = np.asarray(logits, dtype=np.float64)
    temperature = number("temperature", temperature, 0, open_high=True)
    rng = generator("rng", rng)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected shape (..., n) with n of at least 1, got {logits.shape}")
    highest = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(highest).all():
        raise ValueError("logits: expected numbers or -inf with a finite largest one, got NaN or infinity")
    tokens = _draw(logits - highest, temperature, rng) if temperature else logits.argmax(axis=-1)
    return int(tokens) if logits.ndim == 1 else tokens


def _draw(logits, temperature, rng):
    """Tokens from softmax(logits / temperature), where the highest logit is 0."""
    with np.errstate(over="ignore"):  # a tiny temperature makes -inf of all but the highest, as it should
        cumulative = np.exp(logits / temperature).cumsum(axis=-1)
    # In (0, total]: the first entry to reach it exists, whatever is rounded, and has a weight above 0.
    reached = cumulative[..., -1:] * (1 - rng.random((*logits.shape[:-1], 1)))
    return (cumulative >= reached).argmax(axis=-1)


def generate(model, vocabulary, prompt="", *, length=200, temperature=1.0, seed=None):
    """Let a character model go on with a text.

    Parameters
    ----------
    model : Sequential
        Tokens (T,) in, logits (T, n) out, as Sequential(Embedding(n, d), LSTM(d, h), Linear(h, n)).
    vocabulary : Vocabulary
        Of n tokens; the unknown symbol is never written.
    prompt : str
        The text to go on with, which passes through the model in one call. Empty: the beginning of a line.
    length : int
        How many characters to write.
    temperature : float
        See `sample`.
    seed : int, numpy.random.Generator or None
        The same seed gives the same text; None a new one each time.

    Returns
    -------
    iterator of str
        The characters that follow the prompt, each as soon as it is drawn; the state is carried from one to
        the next. Arguments are checked and the prompt is read before it is handed out.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, or the model's logits are not as many as the vocabulary's tokens.

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
    temperature = number("temperature", temperature, 0, open_high=True)
    rng = generator("seed", seed)
    logits, states = model(vocabulary.encode(prompt or "\n"))
    if logits.shape[-1] != len(vocabulary):
        raise ValueError(
            f"vocabulary: expected {logits.shape[-1]} tokens as the model has logits, got {len(vocabulary)}"
        )
    stepper = model.stepper()
    stepper.state = [(h[:, np.newaxis], c[:, np.newaxis]) for h, c in states]
    return _continue(stepper, vocabulary, logits[-1], length, temperature, rng)


def _continue(stepper, vocabulary, logits, length, temperature, rng):
    for _ in range(length):
        logits[vocabulary.unknown] = -np.inf
        token = sample(logits, temperature=temperature, rng=rng)
        yield vocabulary.decode([token])
        logits = stepper.step(token)


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

    tokens: np.ndarray
    score: float
    log_probability: float
    ended: bool


def beam_search(step, state, *, start, end, beam_width=4, max_length=100, length_penalty=0.0, row_axis=1):
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

    def penalty(length):
        return ((5 + length) / 6) ** alpha

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


def _log_probabilities(value, rows, end):
    """What `step` gave, checked, as a float64 array (K, V)."""
    array = np.asarray(value, np.float64)
    if array.ndim != 2 or len(array) != rows or array.shape[1] <= end:
        raise ValueError(f"step: expected log-probabilities (K, V) with K = {rows}, V > end = {end}, got {array.shape}")
    if not (array <= 1e-3).all():  # a rounded 0
        raise ValueError(f"step: expected log-probabilities, at most 0, got {array.max()}")
    return array


def _chosen(state, rows, axis):
    """The `rows` of all arrays in `state`."""
    if state is None:
        return None
    if isinstance(state, tuple | list):
        return [_chosen(part, rows, axis) for part in state]
    return np.asarray(state).take(rows, axis)
