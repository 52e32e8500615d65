"""Beam search."""

from itertools import product

import numpy as np
import pytest

from lstm_cy import beam_search

END = 2


class Tables:
    """Log-probabilities that depend on all tokens so far: the state is their number in base V."""

    def __init__(self, V, seed=0, impossible=0.0):
        self.V, self.seed, self.impossible = V, seed, impossible

    def of(self, history):
        rng = np.random.default_rng([self.seed, *history])
        logits = 2 * rng.standard_normal(self.V)
        logits[rng.random(self.V) < self.impossible] = -np.inf
        logits[rng.integers(self.V)] = 1.0  # at least one token is possible
        return logits - np.log(np.exp(logits).sum())

    def step(self, tokens, histories):
        """The state holds the tokens so far, (1, K, length): rows on axis 1, as in an LSTM's state."""
        assert tokens.dtype == np.intp
        histories = np.concatenate([histories, tokens[np.newaxis, :, np.newaxis]], axis=2)
        return np.array([self.of(history) for history in histories[0]]), histories

    def every_sequence(self, max_length, start=0):
        """Yield (tokens, log-probability) of all sequences that end, of at most `max_length` tokens with the end."""
        others = [token for token in range(self.V) if token != END]
        for length in range(max_length):
            for tokens in product(others, repeat=length):
                history, total = [start], 0.0
                for token in (*tokens, END):
                    total += self.of(history)[token]
                    history.append(token)
                if total > -np.inf:
                    yield tokens, total


def search(tables, **keywords):
    state = np.empty((1, 1, 0), int)
    return beam_search(tables.step, state, **{"start": 0, "end": END, "max_length": 5, **keywords})


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize(("V", "max_length"), [(3, 6), (4, 4), (5, 3)])
@pytest.mark.parametrize("impossible", [0.0, 0.4])
def test_a_full_beam_is_exhaustive_search(V, max_length, alpha, impossible):
    for seed in range(3):
        tables = Tables(V, seed, impossible)
        every = [(t, p, p / ((6 + len(t)) / 6) ** alpha) for t, p in tables.every_sequence(max_length)]
        every.sort(key=lambda found: -found[2])
        width = V**max_length
        found = search(tables, beam_width=width, max_length=max_length, length_penalty=alpha)
        ended = [hypothesis for hypothesis in found if hypothesis.ended]
        assert [tuple(hypothesis.tokens) for hypothesis in ended] == [tokens for tokens, *_ in every][:width]
        assert np.allclose([h.log_probability for h in ended], [p for _, p, _ in every][:width], rtol=1e-12)
        assert np.allclose([h.score for h in ended], [score for *_, score in every][:width], rtol=1e-12)
        assert found[: len(ended)] == ended  # sequences that did not end come last


def test_a_beam_of_one_is_greedy_search():
    lengths = set()
    for seed in range(30):
        tables = Tables(4, seed)
        path, total, ended = [0], 0.0, False
        while len(path) <= 8 and not ended:
            table = tables.of(path)
            total += table.max()
            ended = table.argmax() == END
            path += [] if ended else [int(table.argmax())]
        (found,) = search(tables, beam_width=1, max_length=8)
        assert found.tokens.tolist() == path[1:]
        assert found.score == pytest.approx(total)
        assert found.ended == ended
        lengths.add(len(path))
    assert len(lengths) > 4


def test_a_wider_beam_finds_a_sequence_that_a_narrow_one_misses():
    # After 0 (0.6) the end is unlikely; after 1 (0.4) it is certain.
    table = {(9,): [0.6, 0.4, 0.0], (9, 0): [0.45, 0.45, 0.1], (9, 1): [0.0, 0.0, 1.0]}

    def step(tokens, histories):
        histories = np.concatenate([histories, tokens[np.newaxis, :, np.newaxis]], axis=2)
        rows = [table.get(tuple(history), [0.45, 0.45, 0.1]) for history in histories[0]]
        with np.errstate(divide="ignore"):
            return np.log(rows), histories

    keywords = {"start": 9, "end": 2, "max_length": 4}
    narrow = beam_search(step, np.empty((1, 1, 0), int), beam_width=1, **keywords)
    wide = beam_search(step, np.empty((1, 1, 0), int), beam_width=2, **keywords)
    assert not narrow[0].ended
    assert wide[0].tokens.tolist() == [1]
    assert wide[0].log_probability == pytest.approx(np.log(0.4))


def test_of_equal_sequences_the_first_are_kept_every_time():
    def step(tokens, state):
        return np.full((len(tokens), 4), np.log(0.25)), state

    results = [beam_search(step, None, start=0, end=3, beam_width=3, max_length=3) for _ in range(3)]
    assert [h.tokens.tolist() for h in results[0]] == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]
    for result in results[1:]:
        assert [(h.tokens.tolist(), *h[1:]) for h in result] == [(h.tokens.tolist(), *h[1:]) for h in results[0]]


def test_a_length_penalty_favours_longer_sequences():
    step = lambda tokens, state: (np.log(np.tile([0.55, 0.0001, 0.4499], (len(tokens), 1))), state)  # noqa: E731
    short, longer = (
        beam_search(step, None, start=0, end=2, max_length=12, length_penalty=alpha)[0] for alpha in (0, 5)
    )
    assert len(short.tokens) == 0 < len(longer.tokens)


def test_sequences_that_never_end_are_cut():
    def step(tokens, state):
        return np.log([[0.7, 0.3, 0.0]] * len(tokens)), state

    with np.errstate(divide="ignore"):
        found = beam_search(step, None, start=0, end=2, beam_width=2, max_length=3)
    assert [(h.tokens.tolist(), h.ended) for h in found] == [([0, 0, 0], False), ([0, 0, 1], False)]
    assert found[0].score == found[0].log_probability == pytest.approx(3 * np.log(0.7))


def test_the_search_stops_when_no_better_sequence_is_possible():
    steps = []

    def step(tokens, state):
        steps.append(len(tokens))
        return np.log(np.tile([0.05, 0.05, 0.9], (len(tokens), 1))), state

    beam_search(step, None, start=0, end=2, beam_width=1, max_length=1000)
    assert steps == [1]


def test_the_search_stops_when_the_best_possible_sequence_is_only_as_good():
    steps = []

    def step(tokens, state):
        steps.append(len(tokens))
        return np.log(np.tile([0.5, 0.5], (len(tokens), 1))), state

    (found,) = beam_search(step, None, start=1, end=0, beam_width=1, max_length=1000)
    assert steps == [1]
    assert (found.tokens.tolist(), found.ended) == ([], True)


@pytest.mark.parametrize("row_axis", [0, 1])
def test_states_of_any_nesting_follow_their_rows(row_axis):
    """A nested state that sums the tokens twice gives the same result as a state that holds all tokens."""
    table = np.log(np.random.default_rng(0).dirichlet(np.ones(4), size=50))

    def step(tokens, state):
        (total, nothing), [half] = state
        assert nothing is None
        weight = np.expand_dims(tokens + 1, 1 - row_axis)
        total, half = 3 * total + weight, 3 * half + weight / 2
        assert np.array_equal(total, 2 * half)
        return table[total.ravel() % 50], ((total, None), [half])

    def remembering(tokens, histories):
        histories = np.concatenate([histories, tokens[np.newaxis, :, np.newaxis]], axis=2)
        totals = (histories[0] + 1) @ 3 ** np.arange(histories.shape[2])[::-1]
        return table[totals % 50], histories

    keywords = {"start": 0, "end": 3, "beam_width": 5, "max_length": 6}
    zero = np.zeros((1, 1), int)
    found = beam_search(step, ((zero, None), [zero / 1.0]), row_axis=row_axis, **keywords)
    expected = beam_search(remembering, np.empty((1, 1, 0), int), **keywords)
    assert [h.tokens.tolist() for h in found] == [h.tokens.tolist() for h in expected]
    assert [h.score for h in found] == [h.score for h in expected]


def test_row_axis_may_be_the_first_or_last_axis_of_each_state():
    def step(tokens, state):
        assert state.tolist() == [7] * len(tokens)
        return np.full((len(tokens), 4), -1.4), state

    keywords = {"start": 0, "end": 3, "max_length": 3}
    for row_axis in (0, -1):
        assert len(beam_search(step, np.array([7]), row_axis=row_axis, **keywords)) == 4
    for row_axis in (1, -2):
        message = rf"state: expected a state of arrays with 1 rows on row_axis = {row_axis}, got \(1,\)"
        with pytest.raises(ValueError, match=message):
            beam_search(step, np.array([7]), row_axis=row_axis, **keywords)


def test_sequences_that_end_do_not_reduce_the_number_that_continue():
    rows = []

    def step(tokens, state):
        rows.append(len(tokens))
        return np.log(np.tile([0.02, 0.03, 0.95], (len(tokens), 1))), state

    found = beam_search(step, None, start=0, end=2, beam_width=2, max_length=2, length_penalty=3)
    assert rows == [1, 2]
    assert [h.tokens.tolist() for h in found] == [[], [1]]


def test_long_sequences_are_assembled_from_their_steps():
    """The token after t is t + 1 (0.9) or the end (0.1); the state counts the steps."""

    def step(tokens, state):
        logs = np.full((len(tokens), 60), -np.inf)
        logs[np.arange(len(tokens)), state[0] + 1] = np.log(0.9)
        logs[:, 59] = np.log(0.1)
        return logs, state + 1

    found = beam_search(step, np.zeros((1, 1), int), start=0, end=59, beam_width=3, max_length=50)
    assert [h.tokens.tolist() for h in found] == [[], [1], [1, 2]]
    assert all(h.ended and h.tokens.dtype == np.intp and type(h.score) is float for h in found)
    found = beam_search(step, np.zeros((1, 1), int), start=0, end=59, beam_width=3, max_length=50, length_penalty=3)
    assert all(h.tokens.tolist() == list(range(1, len(h.tokens) + 1)) for h in found)
    assert max(len(h.tokens) for h in found) > 20
    assert [h.log_probability for h in found] == pytest.approx(
        [np.log(0.9) * len(h.tokens) + np.log(0.1) for h in found]
    )


def nested(depth):
    """Return lists nested to `depth`."""
    state = []
    for _ in range(depth):
        state = [state]
    return state


def returns(value):
    """Return a step that returns `value`, or ``value(rows)`` if it is a function, and its state."""
    return lambda tokens, state: (value(len(tokens)) if callable(value) else value, state)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        (
            {"step": lambda tokens, state: None},
            TypeError,
            r"step: expected a pair \(log_probabilities, state\), got None",
        ),
        ({"step": lambda tokens, state: (np.zeros((1, 4)),)}, TypeError, "step: expected a pair"),
        ({"step": returns(None)}, TypeError, "step: expected log-probabilities, got dtype object"),
        ({"step": returns([["a"] * 4])}, TypeError, "step: expected log-probabilities, got dtype <U1"),
        (
            {"step": returns(np.zeros((1, 4), complex))},
            TypeError,
            "step: expected log-probabilities, got dtype complex",
        ),
        ({"step": returns([[0.0], [0.0, 0.0]])}, ValueError, "step: expected an array: "),
        ({"step": returns(np.zeros((1, 0)))}, ValueError, r"V > end = 3, got \(1, 0\)"),
        (
            {"step": returns(np.full((1, 4), np.inf))},
            ValueError,
            "step: expected log-probabilities, at most 0, got inf",
        ),
        (
            {"step": returns(np.ma.masked_array(np.zeros((1, 4)), True))},
            ValueError,
            "step: expected no masked elements",
        ),
        ({"row_axis": 5}, ValueError, r"state: expected a state of arrays with 1 rows on row_axis = 5, got \(1, 1\)"),
        ({"row_axis": -3}, ValueError, "state: expected a state of arrays with 1 rows on row_axis = -3"),
        ({"row_axis": 10**30}, ValueError, "row_axis: expected -64 to 63"),
        ({"row_axis": "rows"}, TypeError, "row_axis: expected an integer"),
        ({"state": nested(2000)}, ValueError, "state: expected a state nested less deeply"),
        ({"state": np.zeros((1, 2))}, ValueError, r"state: .* with 1 rows on row_axis = 1, got \(1, 2\)"),
        (
            {"state": {"h": np.zeros((1, 1))}},
            TypeError,
            "state: expected a state of arrays, tuples, lists and None, got",
        ),
        (
            {"step": lambda tokens, state: (np.full((len(tokens), 4), -1.4), np.zeros((1, 1)))},
            ValueError,
            r"step: expected a state of arrays with 3 rows on row_axis = 1, got \(1, 1\)",
        ),
        ({"length_penalty": 1e308}, ValueError, r"length_penalty: expected a number for which \(\(5 \+ max_length\)"),
        ({"length_penalty": 10**400}, ValueError, "length_penalty: expected a number that float64 can hold"),
        ({"end": 10**30}, ValueError, "end: expected at most"),
        ({"beam_width": 0}, ValueError, "beam_width: expected at least 1"),
        ({"max_length": 1.5}, TypeError, "max_length: expected an integer"),
        ({"length_penalty": -1}, ValueError, "length_penalty: expected a number in"),
        ({"end": -1}, ValueError, "end: expected at least 0"),
        ({"start": "a"}, TypeError, "start: expected an integer"),
        ({"end": 4}, ValueError, r"step: expected log-probabilities \(K, V\) with K = 1, V > end = 4, got \(1, 4\)"),
        ({"step": 1}, TypeError, "step: expected a callable, got int"),
        ({"step": lambda tokens, state: (np.zeros((3, 4)), state)}, ValueError, "with K = 1"),
        ({"step": lambda tokens, state: (np.full((1, 4), np.nan), state)}, ValueError, "at most 0, got nan"),
        ({"step": lambda tokens, state: (np.ones((1, 4)), state)}, ValueError, "at most 0, got 1.0"),
        ({"step": returns([[-1.0, -2.0, 0.5, -1.0]])}, ValueError, "at most 0, got 0.5"),
    ],
)
def test_bad_arguments_of_beam_search(keywords, error, message):
    step = keywords.pop("step", lambda tokens, state: (np.full((len(tokens), 4), -1.4), state))
    with pytest.raises(error, match=message):
        beam_search(step, **{"state": np.zeros((1, 1)), "start": 0, "end": 3, **keywords})


def test_any_penalty_is_allowed_if_max_length_is_1():
    found = beam_search(
        lambda tokens, state: (np.full((len(tokens), 4), -1.4), state),
        None,
        start=0,
        end=3,
        max_length=1,  # (5 + 1) / 6 to any power is 1
        length_penalty=1e308,
    )
    assert [h.score for h in found] == [-1.4] * 4


def test_a_beam_of_one_continues_while_an_ended_sequence_may_be_beaten():
    """The end is likelier at first, and a length penalty favours the sequence that continues."""
    table = np.log([[0.45, 0.05, 0.5], [0.05, 0.05, 0.9], [0.05, 0.05, 0.9]])
    found = beam_search(
        lambda tokens, state: (np.where(state[:, :1] > 0, table[1], table[0]), state + 1),
        np.zeros((1, 1)),
        start=0,
        end=END,
        beam_width=1,
        max_length=2,
        length_penalty=3.0,
        row_axis=0,
    )
    assert [(hypothesis.tokens, hypothesis.ended) for hypothesis in found] == [([0], True)]
