"""Sampling, and a character model that goes on with a text."""

from itertools import islice, pairwise

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chi2

from lstm_cy import LSTM, Embedding, Linear, Sequential
from lstm_cy.decoding import generate, sample, surprise
from lstm_cy.text import Bytes, Vocabulary, Words


class Watched(Sequential):
    """Remembers how many tokens each call was given."""

    calls = ()

    def __call__(self, x, states=None, **keywords):
        self.calls = (*self.calls, len(x))
        return super().__call__(x, states, **keywords)


def character_model(dtype="float32", **keywords):
    """A model of five tokens, with weights so large that what it read long ago decides what it writes."""
    model = Watched(
        Embedding(5, 4, dtype=dtype, seed=3),
        LSTM(4, 16, 2, dtype=dtype, seed=13, **keywords),
        Linear(16, 5, dtype=dtype, seed=23),
    )
    model.load_state_dict({name: 8 * array for name, array in model.parameters.items()})
    return model


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_as_softmax_says(temperature):
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


def test_rows_are_drawn_by_themselves():
    logits = np.full((4, 4), -np.inf)
    np.fill_diagonal(logits, [-1000.0, 0.0, 3.0, 1e30])
    assert sample(logits, rng=0).tolist() == [0, 1, 2, 3]
    # two rows of even odds must not always agree
    pairs = sample(np.zeros((500, 2, 2)), rng=0)
    assert 150 < (pairs[:, 0] == pairs[:, 1]).sum() < 350


@pytest.mark.parametrize("shift", [0.0, -1e4, 1e4])
def test_large_logits_do_not_overflow(shift):
    tokens = [sample(np.array([0.0, np.log(3)]) + shift, rng=rng) for rng in range(400)]
    assert 270 < sum(tokens) < 330  # three of four


def test_temperature_zero_and_next_to_it_take_the_likeliest():
    assert sample([1.0, 3.0, 3.0], temperature=0) == 1
    assert sample([1.0, 2.0, 3.0], temperature=5e-324, rng=0) == 2
    assert sample([[1.0, 0.0], [0.0, 1.0]], temperature=0).tolist() == [0, 1]


@pytest.mark.parametrize("chance", [0.0, 1 - 2**-53])
def test_the_ends_of_chance_draw_no_impossible_token(chance):
    class Fixed(np.random.Generator):
        def random(self, size):
            return np.full(size, chance)

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
        ({"top_p": 0.41}, [0, 4 / 7, 0, 3 / 7, 0]),  # the one that goes beyond is in
        ({"top_p": 0.69}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.71}, [0, 4 / 9, 0, 3 / 9, 2 / 9]),
        ({"top_p": 1.0}, [0.1, 0.4, 0, 0.3, 0.2]),
        ({"top_p": 1e-9}, [0, 1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.75}, [0, 4 / 7, 0, 3 / 7, 0]),  # 7 / 9 of what top_k leaves
        # at temperature 1/2 the probabilities are as 1 : 16 : 0 : 9 : 4
        ({"temperature": 0.5, "top_p": 0.54}, [0, 16 / 25, 0, 9 / 25, 0]),
        ({"temperature": 0.5, "top_k": 3}, [0, 16 / 29, 0, 9 / 29, 4 / 29]),
        ({"temperature": 0, "top_k": 3, "top_p": 0.9}, [0, 1, 0, 0, 0]),
    ],
)
def test_top_k_and_top_p_leave_the_likeliest(options, expected):
    with np.errstate(divide="ignore"):
        logits = np.log([0.1, 0.4, 0.0, 0.3, 0.2])
    drawn = sample(np.tile(logits, (40, 500, 1)), rng=0, **options)
    counts = np.bincount(drawn.ravel(), minlength=5)
    expected = 20_000 * np.array(expected)
    assert counts[expected == 0].tolist() == [0] * np.count_nonzero(expected == 0)
    possible = expected > 0
    distance = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert distance <= chi2.ppf(0.9999, df=max(1, possible.sum() - 1))


def test_top_k_takes_the_first_of_equals_in_each_row():
    logits = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    drawn = sample(np.tile(logits, (200, 1, 1)), top_k=2, rng=0)
    assert set(drawn[:, 0]) == {0, 1}
    assert set(drawn[:, 1]) == {1, 3}


def test_the_same_seed_draws_the_same_and_a_generator_goes_on():
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


def greedy(model, vocabulary, prompt, length):
    """The likeliest text, by reading the whole of it again for each character."""
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
    assert len(set(pairwise(expected))) > len(set(expected))  # one character does not tell the next
    assert "".join(generate(model, vocabulary, prompt, length=40, temperature=0)) == expected


def test_an_empty_prompt_is_the_beginning_of_a_line():
    model, vocabulary = character_model(), Vocabulary("ab\nc")
    texts = ["".join(generate(model, vocabulary, p, length=50, seed=3)) for p in ("", "\n", "a")]
    assert texts[0] == texts[1] != texts[2]


def test_the_prompt_is_one_call_and_characters_come_one_by_one():
    model, vocabulary = character_model(), Vocabulary("abcd")
    characters = generate(model, vocabulary, "abcda", length=10**9, seed=0)
    assert model.calls == (5,)
    assert len("".join(islice(characters, 4))) == 4  # 10**9 would not end
    assert model.calls == (5,)  # what follows is stepped


def test_the_same_seed_writes_the_same_text():
    model, vocabulary = character_model(), Vocabulary("abcd")

    def text(seed):
        return "".join(generate(model, vocabulary, "ab", length=60, seed=seed))

    assert len(text(1)) == 60
    assert text(1) == text(1) != text(2)
    assert text(np.random.default_rng(1)) == text(1)
    assert text(None) != text(None)


def test_the_unknown_symbol_is_never_written():
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


def test_top_k_and_top_p_reach_the_text():
    model, vocabulary = character_model(), Vocabulary("abcd")
    greedy = "".join(generate(model, vocabulary, "ab", length=40, temperature=0))
    for options in ({"top_k": 1}, {"top_p": 1e-6}):
        assert "".join(generate(model, vocabulary, "ab", length=40, seed=0, **options)) == greedy


def test_no_length_is_no_text():
    assert list(generate(character_model(), Vocabulary("abcd"), "a", length=0)) == []


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"model": LSTM(2, 3)}, TypeError, "model: expected a Sequential, got LSTM"),
        ({"vocabulary": Vocabulary("abc")}, ValueError, "vocabulary: expected 5 tokens"),
        ({"prompt": b"a"}, TypeError, "text: expected a str, got bytes"),
        ({"length": -1}, ValueError, "length: expected at least 0"),
        ({"length": 1.5}, TypeError, "length: expected an integer"),
        ({"temperature": -0.1}, ValueError, "temperature: expected"),
        ({"seed": "x"}, TypeError, "seed: expected"),
        ({"top_k": 0}, ValueError, "top_k: expected at least 1"),
        ({"top_p": 0}, ValueError, "top_p: expected a number"),
        ({"prompt": "abxcxy"}, ValueError, "prompt: not in the model's vocabulary: 'x', 'y'$"),
    ],
)
def test_bad_arguments_of_generate_are_told_before_the_first_character(keywords, error, message):
    with pytest.raises(error, match=message):
        generate(**{"model": character_model(), "vocabulary": Vocabulary("abcd"), "prompt": "a", **keywords})


def test_surprise_is_what_the_model_thought_of_each_token():
    model, tokens = character_model(dtype="float64"), np.random.default_rng(0).integers(0, 5, 50)
    logits, _ = model(tokens[:-1])
    p = softmax(logits, axis=-1)[np.arange(49), tokens[1:]]
    expected = -np.log(p).mean()
    assert surprise(model, tokens) == pytest.approx(expected, rel=1e-12)
    # in chunks, the state carried on
    for chunk in (1, 7, 48, 49):
        assert surprise(model, tokens, chunk=chunk) == pytest.approx(expected, rel=1e-12)


def test_surprise_by_hand():
    """A model that always says a : b = 1 : 3 and has two more tokens that never come."""
    model = character_model()
    bias = np.log([1e-30, 1, 3, 1e-30, 1e-30])
    model.load_state_dict({"2.weight": np.zeros((5, 16)), "2.bias": bias}, strict=False)
    assert surprise(model, [2, 1]) == pytest.approx(np.log(4), rel=1e-6)
    assert surprise(model, [1, 2]) == pytest.approx(np.log(4 / 3), rel=1e-6)
    assert surprise(model, [0, 1, 2, 2]) == pytest.approx((np.log(4) + 2 * np.log(4 / 3)) / 3, rel=1e-6)


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
def test_bad_arguments_of_surprise(model, tokens, keywords, error, message):
    with pytest.raises(error, match=message):
        surprise(model, tokens, **keywords)
