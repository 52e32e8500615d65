"""Sampling, text generation, beam search and CTC decoding."""

import sys
import tracemalloc
from itertools import groupby, islice, pairwise, product

import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import chi2

from lstm_cy import LSTM, Embedding, Linear, Sequential, ctc, ctc_beam, ctc_greedy, decoding
from lstm_cy.decoding import beam_search, generate, negative_log_likelihood, sample, surprise
from lstm_cy.text import Bytes, Vocabulary, Words


class Watched(Sequential):
    """Records the number of tokens of each call."""

    calls = ()

    def __call__(self, x, states=None, **keywords):
        self.calls = (*self.calls, len(x))
        return super().__call__(x, states, **keywords)


def character_model(dtype="float32", **keywords):
    """Return a model of five tokens, with weights so large that its output depends on tokens read long ago."""
    model = Watched(
        Embedding(5, 4, dtype=dtype, seed=3),
        LSTM(4, 16, 2, dtype=dtype, seed=13, **keywords),
        Linear(16, 5, dtype=dtype, seed=23),
    )
    model.load_state_dict({name: 8 * array for name, array in model.parameters.items()})
    return model


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_with_the_probabilities_of_the_softmax(temperature):
    logits = np.array([0.0, 2.0, -1.0, -np.inf, 1.5], np.float32)
    expected = 20_000 * softmax(logits.astype(float) / temperature)

    drawn = sample(np.tile(logits, (200, 100, 1)), temperature=temperature, rng=0)

    assert drawn.shape == (200, 100)
    assert drawn.dtype == np.intp
    counts = np.bincount(drawn.ravel(), minlength=5)
    assert counts[3] == 0
    possible = expected > 0
    distance = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert distance < chi2.ppf(0.999, df=3)


def test_rows_are_drawn_independently():
    logits = np.full((4, 4), -np.inf)
    np.fill_diagonal(logits, [-1000.0, 0.0, 3.0, 1e30])
    assert sample(logits, rng=0).tolist() == [0, 1, 2, 3]
    # two rows with equal probabilities must not always agree
    pairs = sample(np.zeros((500, 2, 2)), rng=0)
    assert 150 < (pairs[:, 0] == pairs[:, 1]).sum() < 350


@pytest.mark.parametrize("shift", [0.0, -1e4, 1e4])
def test_large_logits_do_not_overflow(shift):
    tokens = [sample(np.array([0.0, np.log(3)]) + shift, rng=rng) for rng in range(400)]
    assert 270 < sum(tokens) < 330  # three of four


def test_temperatures_of_zero_and_almost_zero_select_the_likeliest_token():
    assert sample([1.0, 3.0, 3.0], temperature=0) == 1
    assert sample([1.0, 2.0, 3.0], temperature=5e-324, rng=0) == 2
    assert sample([[1.0, 0.0], [0.0, 1.0]], temperature=0).tolist() == [0, 1]


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_extreme_random_numbers_draw_no_impossible_token(number):
    class Fixed(np.random.Generator):
        def random(self, size):
            return np.full(size, number)

    logits = np.array([-np.inf, 0.1, -np.inf, 0.3, -np.inf])
    assert sample(logits, rng=Fixed(np.random.PCG64(0))) in (1, 3)


def test_one_axis_gives_an_int():
    for temperature in (0, 1.0):
        assert type(sample(np.zeros(3, np.float32), temperature=temperature, rng=0)) is int


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1, 0.4, 0.0, 0.3, 0.2]),
        ({"top_k": 1}, [0, 1, 0, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 3}, [0, 4 / 9, 0, 3 / 9, 2 / 9]),
        ({"top_k": 99}, [0.1, 0.4, 0, 0.3, 0.2]),
        ({"top_p": 0.3}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.41}, [0, 4 / 7, 0, 3 / 7, 0]),  # the token that crosses top_p is included
        ({"top_p": 0.69}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.71}, [0, 4 / 9, 0, 3 / 9, 2 / 9]),
        ({"top_p": 1.0}, [0.1, 0.4, 0, 0.3, 0.2]),
        ({"top_p": 1e-9}, [0, 1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.75}, [0, 4 / 7, 0, 3 / 7, 0]),  # 7 / 9 of what top_k leaves
        # at temperature 1/2 the probabilities are proportional to 1 : 16 : 0 : 9 : 4
        ({"temperature": 0.5, "top_p": 0.54}, [0, 16 / 25, 0, 9 / 25, 0]),
        ({"temperature": 0.5, "top_k": 3}, [0, 16 / 29, 0, 9 / 29, 4 / 29]),
        ({"temperature": 0, "top_k": 3, "top_p": 0.9}, [0, 1, 0, 0, 0]),
    ],
)
def test_top_k_and_top_p_keep_the_likeliest_tokens(options, expected):
    with np.errstate(divide="ignore"):
        logits = np.log([0.1, 0.4, 0.0, 0.3, 0.2])
    drawn = sample(np.tile(logits, (40, 500, 1)), rng=0, **options)
    counts = np.bincount(drawn.ravel(), minlength=5)
    expected = 20_000 * np.array(expected)
    assert counts[expected == 0].tolist() == [0] * np.count_nonzero(expected == 0)
    possible = expected > 0
    distance = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert distance <= chi2.ppf(0.9999, df=max(1, possible.sum() - 1))


@pytest.mark.parametrize(("top_p", "left"), [(0.25, 1), (0.5, 2), (0.75, 3), (0.76, 4)])
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p, left):
    drawn = sample(np.zeros((200, 4)), top_p=top_p, rng=0)  # exactly a quarter each
    assert set(drawn.tolist()) == set(range(left))
    with np.errstate(divide="ignore"):
        drawn = sample(np.log([[0.125, 0.5, 0.0, 0.25, 0.125]] * 200), top_p=top_p, rng=0)
    assert set(drawn.tolist()) == {0.25: {1}, 0.5: {1}, 0.75: {1, 3}, 0.76: {0, 1, 3}}[top_p]


def test_top_k_keeps_the_first_of_equal_tokens_in_each_row():
    logits = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    drawn = sample(np.tile(logits, (200, 1, 1)), top_k=2, rng=0)
    assert set(drawn[:, 0]) == {0, 1}
    assert set(drawn[:, 1]) == {1, 3}


def test_a_seed_repeats_its_tokens_and_a_generator_advances():
    logits = np.zeros((50, 9))
    assert sample(logits, rng=4).tolist() == sample(logits, rng=4).tolist()
    rng = np.random.default_rng(4)
    first, second = sample(logits, rng=rng), sample(logits, rng=rng)
    assert first.tolist() == sample(logits, rng=4).tolist() != second.tolist()


def test_logits_are_not_changed():
    logits = np.array([1.0, 2.0])
    logits.flags.writeable = False
    sample(logits, rng=0)
    assert logits.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(bad, temperature):
    with pytest.raises(ValueError, match="logits: expected numbers or -inf"):
        sample([[0.0, 1.0], [bad, 0.0]], temperature=temperature)


@pytest.mark.parametrize(
    ("logits", "keywords", "error", "message"),
    [
        ([-np.inf, -np.inf], {}, ValueError, "logits: expected numbers or -inf with a finite"),
        (1.0, {}, ValueError, r"logits: expected shape \(..., n\)"),
        (np.empty((2, 0)), {}, ValueError, r"logits: expected shape \(..., n\)"),
        (["1", "2"], {}, TypeError, "logits: expected real numbers, got dtype <U1"),
        (np.array([1j, 2]), {}, TypeError, "logits: expected real numbers, got dtype complex128"),
        ([None, 1], {}, TypeError, "logits: expected real numbers, got dtype object"),
        ([[1.0], [1.0, 2.0]], {}, ValueError, "logits: expected an array: "),
        (np.ma.masked_array([1.0, 2.0], [True, False]), {}, ValueError, "logits: expected no masked elements"),
        ([0.0], {"temperature": 10**400}, ValueError, "temperature: expected a number that float64 can hold"),
        ([0.0], {"top_k": 2**63}, ValueError, "top_k: expected at most"),
        ([0.0], {"top_p": np.nan}, ValueError, "top_p: expected a number in"),
        ([0.0], {"top_p": "0.5"}, TypeError, "top_p: expected a number"),
        ([0.0], {"temperature": -1}, ValueError, "temperature: expected a number in"),
        ([0.0], {"temperature": np.nan}, ValueError, "temperature: expected a number in"),
        ([0.0], {"temperature": np.inf}, ValueError, "temperature: expected a number in"),
        ([0.0], {"temperature": "hot"}, TypeError, "temperature: expected a number"),
        ([0.0], {"rng": "dice"}, TypeError, "rng: expected"),
        ([0.0], {"top_k": 0}, ValueError, "top_k: expected at least 1, got 0"),
        ([0.0], {"top_k": 2.0}, TypeError, "top_k: expected an integer"),
        ([0.0], {"top_p": 0}, ValueError, r"top_p: expected a number in \(0, 1\], got 0.0"),
        ([0.0], {"top_p": 1.1}, ValueError, r"top_p: expected a number in \(0, 1\], got 1.1"),
    ],
)
def test_bad_arguments_of_sample(logits, keywords, error, message):
    with pytest.raises(error, match=message):
        sample(logits, **keywords)


def test_logits_of_any_real_dtype():
    expected = sample(np.tile([0.0, 3.0, 1.0], (50, 1)), rng=0).tolist()
    for dtype in (">f8", "f4", ">f4", "f2", "i1", ">u8", np.longdouble):
        assert sample(np.tile(np.array([0, 3, 1], dtype), (50, 1)), rng=0).tolist() == expected


def greedy(model, vocabulary, prompt, length):
    """Return the likeliest text; the model reads all of it again for each character."""
    tokens = vocabulary.encode(prompt).tolist()
    for _ in range(length):
        logits, _ = model(np.array(tokens))
        tokens.append(1 + int(np.argmax(logits[-1, 1:])))
    return vocabulary.decode(tokens)[len(prompt) :]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("prompt", ["a", "abcdabca", "dcab"])
def test_the_state_is_carried_through_prompt_and_text(prompt, batch_first):
    model, vocabulary = character_model(dtype="float64", batch_first=batch_first), Vocabulary("abcd")
    expected = greedy(model, vocabulary, prompt, 40)
    assert len(set(pairwise(expected))) > len(set(expected))  # the next character depends on more than one character
    assert "".join(generate(model, vocabulary, prompt, length=40, temperature=0)) == expected


def test_an_empty_prompt_is_the_beginning_of_a_line():
    model, vocabulary = character_model(), Vocabulary("ab\nc")
    texts = ["".join(generate(model, vocabulary, p, length=50, seed=3)) for p in ("", "\n", "a")]
    assert texts[0] == texts[1] != texts[2]


def test_the_prompt_is_read_in_one_call_and_each_character_in_one_step():
    model, vocabulary = character_model(), Vocabulary("abcd")
    characters = generate(model, vocabulary, "abcda", length=10**9, seed=0)
    assert model.calls == (5,)
    assert len("".join(islice(characters, 4))) == 4  # 10**9 would not end
    assert model.calls == (5,)  # what follows is stepped


def test_the_same_seed_generates_the_same_text():
    model, vocabulary = character_model(), Vocabulary("abcd")

    def text(seed):
        return "".join(generate(model, vocabulary, "ab", length=60, seed=seed))

    assert len(text(1)) == 60
    assert text(1) == text(1) != text(2)
    assert text(np.random.default_rng(1)) == text(1)
    assert text(None) != text(None)


def test_the_unknown_symbol_is_never_generated():
    model, vocabulary = character_model(), Vocabulary("abcd")
    bias = np.array([100.0, 0, 0, 0, 0])
    model.load_state_dict({"2.bias": bias}, strict=False)
    for temperature in (0, 1.0):
        text = "".join(generate(model, vocabulary, length=50, temperature=temperature, seed=0))
        assert set(text) <= set("abcd")


def model_of(vocabulary, seed=3):
    n = len(vocabulary)
    return Sequential(Embedding(n, 4, seed=seed), LSTM(4, 16, seed=seed), Linear(16, n, seed=seed))


@pytest.mark.parametrize("vocabulary", [Words(["a", " b", " c"]), Bytes()], ids=["words", "bytes"])
@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.8, "temperature": 2.0}])
def test_pieces_are_the_text_of_tokens_drawn_one_by_one(vocabulary, options):
    model = model_of(vocabulary)
    pieces = list(generate(model, vocabulary, "a b", length=80, seed=5, **options))

    rng, stepper, tokens = np.random.default_rng(5), model.stepper(), []
    for token in vocabulary.encode("a b"):
        logits = stepper.step(token)
    for _ in range(80):
        if vocabulary.unknown is not None:
            logits[0] = -np.inf
        tokens.append(sample(logits, rng=rng, **options))
        logits = stepper.step(tokens[-1])
    assert "".join(pieces) == vocabulary.decode(tokens)
    assert len(set(tokens)) > 2


def test_generate_uses_top_k_and_top_p():
    model, vocabulary = character_model(), Vocabulary("abcd")
    greedy = "".join(generate(model, vocabulary, "ab", length=40, temperature=0))
    for options in ({"top_k": 1}, {"top_p": 1e-6}):
        assert "".join(generate(model, vocabulary, "ab", length=40, seed=0, **options)) == greedy


def test_a_length_of_zero_gives_no_text():
    assert list(generate(character_model(), Vocabulary("abcd"), "a", length=0)) == []


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"model": LSTM(2, 3)}, TypeError, "model: expected a Sequential, got LSTM"),
        ({"vocabulary": Vocabulary("abc")}, ValueError, "vocabulary: expected 5 tokens"),
        ({"vocabulary": Bytes()}, ValueError, "vocabulary: expected 5 tokens as in the model.s embedding, got 256"),
        ({"model": Sequential(Linear(2, 3))}, TypeError, "model: expected a Sequential with an Embedding as its first"),
        ({"vocabulary": 3}, TypeError, "vocabulary: expected a Vocabulary, Words or Bytes, got int"),
        ({"vocabulary": "abcd"}, TypeError, "vocabulary: expected a Vocabulary, Words or Bytes, got str"),
        ({"prompt": None}, TypeError, "prompt: expected a str, got NoneType"),
        ({"prompt": b"a"}, TypeError, "prompt: expected a str, got bytes"),
        ({"length": -1}, ValueError, "length: expected at least 0"),
        ({"length": 1.5}, TypeError, "length: expected an integer"),
        ({"temperature": -0.1}, ValueError, "temperature: expected"),
        ({"seed": "x"}, TypeError, "seed: expected"),
        ({"top_k": 0}, ValueError, "top_k: expected at least 1"),
        ({"top_p": 0}, ValueError, "top_p: expected a number"),
        ({"prompt": "abxcxy"}, ValueError, "prompt: not in the model's vocabulary: 'x', 'y'$"),
    ],
)
def test_generate_checks_its_arguments_before_the_first_character(keywords, error, message):
    with pytest.raises(error, match=message):
        generate(**{"model": character_model(), "vocabulary": Vocabulary("abcd"), "prompt": "a", **keywords})


def test_negative_log_likelihood_is_the_mean_over_the_tokens():
    model, tokens = character_model(dtype="float64"), np.random.default_rng(0).integers(0, 5, 50)
    logits, _ = model(tokens[:-1])
    p = softmax(logits, axis=-1)[np.arange(49), tokens[1:]]
    expected = -np.log(p).mean()
    assert negative_log_likelihood(model, tokens) == pytest.approx(expected, rel=1e-12)
    # in chunks, with the state carried along
    for chunk in (1, 7, 48, 49):
        assert negative_log_likelihood(model, tokens, chunk=chunk) == pytest.approx(expected, rel=1e-12)


def test_negative_log_likelihood_of_known_probabilities():
    """The model always gives a : b = 1 : 3, and almost no probability to the other tokens."""
    model = character_model()
    bias = np.log([1e-30, 1, 3, 1e-30, 1e-30])
    model.load_state_dict({"2.weight": np.zeros((5, 16)), "2.bias": bias}, strict=False)
    assert negative_log_likelihood(model, [2, 1]) == pytest.approx(np.log(4), rel=1e-6)
    assert negative_log_likelihood(model, [1, 2]) == pytest.approx(np.log(4 / 3), rel=1e-6)
    assert negative_log_likelihood(model, [0, 1, 2, 2]) == pytest.approx((np.log(4) + 2 * np.log(4 / 3)) / 3, rel=1e-6)


def test_surprise_is_an_alias_of_negative_log_likelihood():
    assert surprise is negative_log_likelihood


@pytest.mark.parametrize(
    ("model", "tokens", "keywords", "error", "message"),
    [
        (LSTM(2, 3), [1, 2], {}, TypeError, "model: expected a Sequential, got LSTM"),
        (character_model(), [1], {}, ValueError, r"tokens: expected shape \(N,\) with N of at least 2"),
        (character_model(), [[1, 2]], {}, ValueError, r"tokens: expected shape \(N,\)"),
        (character_model(), [0.5, 1.0], {}, TypeError, "tokens: expected integers"),
        (character_model(), [1, 2, 5], {}, ValueError, "expected classes 0 to 4"),
        (character_model(), [1, 2], {"chunk": 0}, ValueError, "chunk: expected at least 1"),
    ],
)
def test_bad_arguments_of_negative_log_likelihood(model, tokens, keywords, error, message):
    with pytest.raises(error, match=message):
        negative_log_likelihood(model, tokens, **keywords)


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


def ctc_scores(*shape, seed=0):
    return np.random.default_rng(seed).normal(scale=2.0, size=shape)


def every_labelling(scores, blank, weight=lambda prefix, label: 0.0):
    """Return [(labels, score)], the best first, from a sum over all alignments of scores (T, V)."""
    steps, classes = scores.shape
    logs, found = log_softmax(scores, axis=1), {}
    for path in product(range(classes), repeat=steps):
        labels = tuple(label for label, _ in groupby(path) if label != blank)
        found.setdefault(labels, []).append(logs[np.arange(steps), list(path)].sum())
    weighed = {
        labels: logsumexp(terms) + sum(weight(labels[:i], label) for i, label in enumerate(labels))
        for labels, terms in found.items()
    }
    return sorted(((labels, score) for labels, score in weighed.items() if score > -np.inf), key=lambda pair: -pair[1])


def assert_same_labellings(found, expected):
    assert [tuple(labels.tolist()) for labels, _ in found] == [labels for labels, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=1e-12)
    assert all(labels.dtype == np.intp and type(score) is float for labels, score in found)


@pytest.mark.parametrize("blank", [0, 1, 2])
@pytest.mark.parametrize("steps", [0, 1, 2, 4, 6])
def test_a_wide_beam_finds_every_labelling_and_its_probability(steps, blank):
    scores = ctc_scores(steps, 3, seed=steps)
    found = ctc_beam(scores, beam_width=1000, blank=blank)
    assert_same_labellings(found, every_labelling(scores, blank))
    assert logsumexp([score for _, score in found]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("blank", [0, 3])
def test_a_language_model_weighs_each_label_after_its_prefix(blank):
    scores = ctc_scores(5, 4, seed=2)
    table = np.random.default_rng(3).normal(size=(6, 4))
    table[0, 2] = table[1, 1] = -np.inf  # 2 must not come first, nor 1 second
    calls = []

    def weight(prefix, label):
        calls.append((prefix, label))
        return table[len(prefix), label]

    found = ctc_beam(scores, beam_width=2000, blank=blank, language_model=weight)
    assert len(set(calls)) == len(calls)
    assert blank not in {label for _, label in calls}
    assert {type(part) for pair in calls for part in (pair[1], *pair[0])} == {int}
    assert_same_labellings(found, every_labelling(scores, blank, weight))
    nothing = ctc_beam(scores, language_model=lambda prefix, label: -np.inf)
    assert_same_labellings(nothing, [((), log_softmax(scores, axis=1)[:, 0].sum())])


def test_the_beam_is_empty_if_no_labels_are_possible():
    scores = np.array([[-np.inf, 0.0, 0.0], [0.0, 0.0, 0.0]])  # a blank is impossible, and the model excludes labels
    assert ctc_beam(scores, language_model=lambda prefix, label: -np.inf) == []


def plain_prefix_search(scores, width):
    """Return the result of the textbook's prefix beam search with blank 0."""
    beam = {(): [1.0, 0.0]}  # {prefix: [probability of ending in a blank, in its last label]}
    for step in softmax(scores, axis=1):
        grown = {}
        for prefix, (in_blank, in_label) in beam.items():
            grown.setdefault(prefix, [0, 0])[0] += (in_blank + in_label) * step[0]
            for label in range(1, len(step)):
                again = prefix[-1:] == (label,)
                grown.setdefault((*prefix, label), [0, 0])[1] += (in_blank if again else in_blank + in_label) * step[
                    label
                ]
            if prefix:
                grown.setdefault(prefix, [0, 0])[1] += in_label * step[prefix[-1]]
        beam = dict(sorted(grown.items(), key=lambda item: -sum(item[1]))[:width])
    return [(prefix, np.log(sum(both))) for prefix, both in beam.items()]


@pytest.mark.parametrize("width", [1, 2, 4, 30])
@pytest.mark.parametrize("seed", range(3))
def test_a_narrow_beam_keeps_the_best_prefixes_of_each_step(seed, width):
    scores = ctc_scores(12, 5, seed=seed)
    found = ctc_beam(scores, beam_width=width)
    assert len(found) == width
    assert_same_labellings(found, plain_prefix_search(scores, width))
    for labels, score in found:
        assert score <= -ctc(scores, labels)[0] + 1e-12  # alignments through dropped prefixes are missed


@pytest.mark.parametrize("width", [1, 2, 7])
@pytest.mark.parametrize("kind", ["normal", "ties", "impossible"])
def test_leaving_out_classes_that_cannot_matter_keeps_every_bit(kind, width):
    rng = np.random.default_rng(width)
    for blank in (0, 4, 29):
        scores = ctc_scores(25, 30, seed=blank)
        if kind == "ties":
            scores = rng.integers(0, 2, (25, 30)).astype(float)
        if kind == "impossible":
            scores[rng.random((25, 30)) < 0.8] = -np.inf
            scores[np.arange(25), rng.integers(0, 30, 25)] = 0
        found = ctc_beam(scores, beam_width=width, blank=blank)
        expected = ctc_beam(scores, beam_width=width, blank=blank, max_classes=29)
        assert [(labels.tolist(), score) for labels, score in found] == [(ls.tolist(), score) for ls, score in expected]


def test_the_candidates_of_a_step_do_not_depend_on_the_number_of_classes(monkeypatch):
    sizes, best = [], decoding._best

    def recorded(values, most):
        sizes.append(len(values))
        return best(values, most)

    monkeypatch.setattr(decoding, "_best", recorded)
    ctc_beam(ctc_scores(6, 5000), beam_width=4)
    assert sorted(set(sizes) - {5000}) == [1 + 5, 4 + 4 * 5]  # one prefix, then four, with five classes each


@pytest.mark.parametrize("offset", [1e3, -1e3])
def test_an_offset_of_a_step_changes_no_result_of_ctc_beam(offset):
    scores = np.random.default_rng(0).normal(size=(6, 4))
    shifted = scores.copy()
    shifted[2] += offset
    for (labels, score), (expected, of_expected) in zip(ctc_beam(shifted), ctc_beam(scores), strict=True):
        assert labels.tolist() == expected.tolist()
        assert score == pytest.approx(of_expected, abs=1e-9)


def test_max_classes_keeps_the_likeliest_of_a_step_for_the_language_model():
    scores, calls = ctc_scores(6, 40, seed=5), set()

    def weight(prefix, label):
        calls.add((prefix, label))
        return 0.1 * label

    found = ctc_beam(scores, beam_width=5, max_classes=3, language_model=weight)
    likeliest = {int(label) for step in scores for label in 1 + np.argsort(-step[1:])[:3]}
    assert {label for _, label in calls} <= likeliest
    assert {label for labels, _ in found for label in labels.tolist()} <= likeliest
    assert len(calls) <= 3 * 5 * 6
    # by hand: at the only step, 2 and 3 are likelier than 1, which the language model favours
    scores = np.log([[0.1, 0.2, 0.4, 0.3]])
    found = ctc_beam(scores, max_classes=2, language_model=lambda prefix, label: 10.0 if label == 1 else 0.0)
    assert [labels.tolist() for labels, _ in found] == [[2], [3], []]
    assert np.exp([score for _, score in found]) == pytest.approx([0.4, 0.3, 0.1])


def test_a_language_model_is_called_once_per_pair_and_its_values_take_linear_memory():
    def peak(steps):
        calls = []

        def weight(prefix, label):
            calls.append(hash((prefix, label)))
            return -0.5

        scores = ctc_scores(steps, 12, seed=6)
        tracemalloc.start()
        try:
            ctc_beam(scores, beam_width=6, language_model=weight)
            held = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(calls) == len(set(calls))
        return held - sys.getsizeof(calls) - 36 * len(calls)

    short, long = peak(150), peak(600)
    assert long < 5 * short  # with prefixes held as tuples it is more than ten times as much


def test_greedy_follows_the_likeliest_alignment():
    path = [0, 1, 1, 0, 1, 2, 2, 0, 0, 3]
    assert ctc_greedy(np.eye(4)[path]).tolist() == [1, 1, 2, 3]
    assert ctc_greedy(np.eye(4)[path], blank=1).tolist() == [0, 0, 2, 0, 3]
    assert ctc_greedy(np.eye(4)[path], 5).tolist() == [1, 1]
    assert ctc_greedy(np.eye(4)[path], 0).tolist() == []
    assert ctc_greedy(np.eye(4)[path]).dtype == np.intp
    # the likeliest alignment does not give the likeliest labels: three alignments give 1, one gives none
    scores = np.log([[0.6, 0.4], [0.6, 0.4]])
    assert ctc_greedy(scores).tolist() == []
    labels, score = ctc_beam(scores)[0]
    assert labels.tolist() == [1]
    assert np.exp(score) == pytest.approx(0.64)


@pytest.mark.parametrize("batch_first", [False, True])
def test_rows_of_a_batch_are_decoded_independently_up_to_their_lengths(batch_first):
    scores, lengths = ctc_scores(7, 4, 5, seed=4), np.array([7, 0, 3, 5], np.uint8)
    alone = [scores[:length, row].copy() for row, length in enumerate(lengths)]
    for row, length in enumerate(lengths):
        scores[length:, row] = np.nan
    given = scores.swapaxes(0, 1) if batch_first else scores
    greedy = ctc_greedy(given, lengths, batch_first=batch_first)
    beams = ctc_beam(given, lengths, beam_width=6, batch_first=batch_first)
    for row, own in enumerate(alone):
        assert greedy[row].tolist() == ctc_greedy(own).tolist()
        assert [(*labels, score) for labels, score in beams[row]] == [
            (*labels, score) for labels, score in ctc_beam(own, beam_width=6)
        ]
    assert beams[1] == [(pytest.approx([]), 0.0)]


@pytest.mark.parametrize("decode", [ctc_greedy, ctc_beam])
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.zeros(3),), {}, ValueError, r"scores: expected shape \(T, B, V\) or \(T, V\), got \(3,\)"),
        ((np.zeros(3),), {"batch_first": True}, ValueError, r"scores: expected shape \(B, T, V\) or"),
        ((np.zeros((3, 2), complex),), {}, TypeError, "scores: expected real numbers"),
        (([[0.0, np.nan]],), {}, ValueError, "scores: expected no NaN, got some in row 0"),
        ((np.zeros((3, 0)),), {}, ValueError, "blank: expected one of the classes"),
        ((np.zeros((3, 2)), None), {"blank": 2}, ValueError, "blank: expected one of the classes 0 to 1, got 2"),
        ((np.zeros((3, 2)), 4), {}, ValueError, "lengths: expected 0 to T = 3, got 4"),
        ((np.zeros((3, 2, 2)), [1, 4]), {}, ValueError, "lengths: expected 0 to T = 3, got 4 at row 1"),
        ((np.zeros((3, 2, 2)), [1]), {}, ValueError, r"lengths: expected shape \(B,\) = \(2,\)"),
        ((np.zeros((3, 2, 2)), [1.0, 1.0]), {}, TypeError, "lengths: expected integers"),
        ((np.zeros((3, 2, 2)),), {"batch_first": 1}, TypeError, "batch_first: expected True or False"),
    ],
)
def test_ctc_decoding_refuses(decode, arguments, options, error, message):
    with pytest.raises(error, match=message):
        decode(*arguments, **options)


@pytest.mark.parametrize(
    ("scores", "options", "error", "message"),
    [
        ([[0.0, np.inf]], {}, ValueError, "scores: expected numbers or -inf with a finite largest one at each step"),
        ([[0.0, 0.0], [-np.inf] * 2], {}, ValueError, "scores: expected numbers or -inf .* got none in row 0"),
        ([[0.0, 0.0]], {"beam_width": 0}, ValueError, "beam_width: expected at least 1"),
        ([[0.0, 0.0]], {"beam_width": 2.0}, TypeError, "beam_width: expected an integer"),
        ([[0.0, 0.0]], {"max_classes": 0}, ValueError, "max_classes: expected at least 1"),
        ([[0.0, 0.0]], {"max_classes": 1.5}, TypeError, "max_classes: expected an integer"),
        ([[0.0, 0.0]], {"language_model": 3}, TypeError, "language_model: expected a callable"),
        ([[0.0, 0.0]], {"language_model": lambda *_: "x"}, TypeError, "language_model: expected a number, got 'x'"),
        ([[0.0, 0.0]], {"language_model": lambda *_: 1j}, TypeError, "language_model: expected a number, got 1j"),
        ([[0.0, 0.0]], {"language_model": lambda *_: np.zeros(2)}, TypeError, "language_model: expected a number"),
        (
            [[0.0, 0.0]],
            {"language_model": lambda *_: np.inf},
            ValueError,
            r"language_model: .* in \[-inf, inf\), got inf",
        ),
        (
            [[0.0, 0.0, 0.0]],
            {"language_model": lambda prefix, label: np.inf if label == 2 else -1.0},
            ValueError,
            r"language_model: .* in \[-inf, inf\), got inf",
        ),
        ([[0.0, 0.0]], {"language_model": lambda *_: 10**400}, ValueError, "language_model: expected a number that"),
        (np.zeros((4, 3)), {"language_model": lambda *_: 1.7e308}, ValueError, "language_model: .* beyond float64"),
        ([[0.0, 0.0]], {"language_model": lambda *_: np.nan}, ValueError, "language_model: expected a number"),
        ([[0.0, 0.0]], {"language_model": lambda *_: None}, TypeError, "language_model: expected a number"),
    ],
)
def test_ctc_beam_refuses(scores, options, error, message):
    with pytest.raises(error, match=message):
        ctc_beam(scores, **options)
