"""Texts that a language model continues, and how well it predicts one."""

from itertools import islice, pairwise

import numpy as np
import pytest
from scipy.special import softmax

from lstm_cy import LSTM, Embedding, Linear, Sequential, sample
from lstm_cy.decoding import generate, negative_log_likelihood, surprise
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
