"""Drawing tokens."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chi2

from lstm_cy import sample


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
