"""Beam search: the likeliest sequences of a model that predicts the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import any_array, int_within, non_negative_int, number, pair_of, positive_int, real_array

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..typing import Array, ArrayLike, Ints

_MOST_AXES = 64  # NumPy's arrays have no more


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
    row_axis = int_within("row_axis", row_axis, -_MOST_AXES, _MOST_AXES - 1)
    penalty = _length_penalty(length_penalty, max_length)
    if not callable(step):
        raise TypeError(f"step: expected a callable, got {type(step).__name__}")

    # For each length: the row of the sequence that each one continues, and its last token. Sequences are assembled from
    # them at the end, so that the cost of a step does not depend on the length.
    history: list[tuple[Ints, Ints]] = []
    # score, log-probability, and where in the history its last token is
    ended: list[tuple[float, float, int, int]] = []
    totals, tokens = np.zeros(1), np.array([start])
    for length in range(1, max_length + 1):
        result, state = pair_of("step", step(tokens, state), "(log_probabilities, state)")
        candidates = totals[:, np.newaxis] + _log_probabilities(result, len(tokens), end)
        # Each row ends in at most one candidate: with this many more, `beam_width` are left to continue.
        best = largest(candidates.reshape(-1), beam_width + len(tokens))
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
        state = _state_of(state, rows, row_axis, len(candidates), "state" if length == 1 else "step")
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


def largest(values: Array, most: int) -> Ints:
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


def _state_of(state: Any, rows: Ints, axis: int, of: int, name: str) -> Any:
    """Return the `rows` of all arrays in `state`, which have `of` rows; `name` is the argument in error messages."""
    try:
        return _rows_of(state, rows, axis, of, name)
    except RecursionError:
        raise ValueError(f"{name}: expected a state nested less deeply") from None


def _rows_of(state: Any, rows: Ints, axis: int, of: int, name: str) -> Any:
    if state is None:
        return None
    if isinstance(state, tuple | list):
        return [_rows_of(part, rows, axis, of, name) for part in state]
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
