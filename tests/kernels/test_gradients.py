"""Gradients compared with fourth-order central finite differences in float64; long float32 sums."""

import functools

import numpy as np
import pytest
from common import assert_close, every_gradient, every_implementation, finite_difference, largest_error, random_case

from lstm_cy import LSTM, Attention, Dropout, Embedding, Linear, Sequential, cross_entropy


@pytest.mark.parametrize(
    "options",
    (
        {},
        {"bias": False},
        {"num_layers": 3},
        {"bidirectional": True},
        {"bidirectional": True, "num_layers": 3, "batch_first": True},
        {"reverse": True, "batch_first": True},
        {"num_layers": 3, "dropout": 0.4},
        {"bidirectional": True, "num_layers": 2, "dropout": 0.4, "batch_first": True},
    ),
    ids=repr,
)
@pytest.mark.parametrize("lengths", (None, [4, 0, 1, 5]), ids=repr)
def test_gradients_of_an_lstm(options, lengths):
    T, B = 5, 4
    lstm = LSTM(2, 3, dtype="float64", seed=0, **options)
    x, (h0, c0) = random_case(lstm, T, B)
    rng = np.random.default_rng(1)
    y, (h_n, c_n), tape = lstm.forward(x, (h0, c0), lengths=lengths, rng=9)
    dy, dh, dc = (rng.standard_normal(array.shape) for array in (y, h_n, c_n))
    got = every_gradient(lstm.backward(tape, dy, (dh, dc)))
    parameters = lstm.state_dict()

    def loss():
        lstm.load_state_dict(parameters)
        y, (h_n, c_n), _ = lstm.forward(x, (h0, c0), lengths=lengths, rng=9)
        return (y * dy).sum() + (h_n * dh).sum() + (c_n * dc).sum()

    for name, array in {"x": x, "h0": h0, "c0": c0, **parameters}.items():
        assert_close(got[name], finite_difference(loss, array), name)


@pytest.mark.parametrize("missing", ("dy", "dh", "dc", "dstate"))
def test_absent_gradients_count_as_zeros(missing):
    lstm = LSTM(2, 3, 2, dtype="float64", seed=0)
    x, state = random_case(lstm, 4, 3)
    y, (h_n, c_n), tape = lstm.forward(x, state)
    given = {"dy": np.ones_like(y), "dh": np.ones_like(h_n), "dc": np.ones_like(c_n)}
    zeros = {name: np.zeros_like(array) if name == missing else array for name, array in given.items()}
    if missing == "dstate":
        got = lstm.backward(tape, given["dy"])
        expected = lstm.backward(tape, given["dy"], (np.zeros_like(h_n), np.zeros_like(c_n)))
    else:
        given[missing] = None
        got = lstm.backward(tape, given["dy"], (given["dh"], given["dc"]))
        expected = lstm.backward(tape, zeros["dy"], (zeros["dh"], zeros["dc"]))
    for name, array in every_gradient(expected).items():
        assert np.array_equal(every_gradient(got)[name], array), name


def test_one_sequence_without_a_batch_axis():
    lstm = LSTM(2, 3, 2, bidirectional=True, dtype="float64", seed=0)
    x, state = random_case(lstm, 4, 1)
    rng = np.random.default_rng(1)
    y, (h_n, c_n), tape = lstm.forward(x, state)
    dy, dh, dc = (rng.standard_normal(array.shape) for array in (y, h_n, c_n))
    expected = lstm.backward(tape, dy, (dh, dc))
    one, (h_one, _), tape = lstm.forward(x[:, 0], (state[0][:, 0], state[1][:, 0]))
    assert np.array_equal(one, y[:, 0])
    assert np.array_equal(h_one, h_n[:, 0])
    got = lstm.backward(tape, dy[:, 0], (dh[:, 0], dc[:, 0]))
    assert np.array_equal(got.x, expected.x[:, 0])
    assert np.array_equal(got.state[0], expected.state[0][:, 0])
    assert np.array_equal(got.state[1], expected.state[1][:, 0])
    for name in got.parameters:
        assert np.array_equal(got.parameters[name], expected.parameters[name])


def test_gradients_of_a_model():
    model = Sequential(
        Embedding(6, 2, dtype="float64", seed=0),
        Dropout(0.3),
        LSTM(2, 3, 2, dropout=0.3, dtype="float64", seed=1),
        Linear(3, 6, dtype="float64", seed=2),
    )
    rng = np.random.default_rng(3)
    tokens, target = rng.integers(0, 6, (2, 5, 4))
    lengths = [5, 2, 0, 4]
    states = [tuple(rng.standard_normal((2, 4, 3)) for _ in range(2))]
    dstates = [tuple(rng.standard_normal((2, 4, 3)) for _ in range(2))]
    parameters = model.state_dict()

    def run():
        model.load_state_dict(parameters)
        out, finals, tape = model.forward(tokens, states, lengths=lengths, rng=9)
        value, gradient = cross_entropy(out, target, lengths=lengths)
        return value + sum((s * d).sum() for s, d in zip(finals[0], dstates[0], strict=True)), gradient, tape

    _, gradient, tape = run()
    got = model.backward(tape, gradient, dstates)
    assert got.x is None
    assert list(got.parameters) == list(model.parameters)
    named = {"h0": got.state[0][0], "c0": got.state[0][1], **got.parameters}
    for name, array in {"h0": states[0][0], "c0": states[0][1], **parameters}.items():
        assert_close(named[name], finite_difference(lambda: run()[0], array), name)


# Sums of many nearly equal terms. One float32 sum rounds in the same direction each time; its error is 1e-4 to 4e-3.
# Partial sums, added with compensation of their rounding errors, have an error of 2e-5.


def long_sequence(dtype):
    lstm = LSTM(1, 2, seed=0, dtype=dtype)
    y, _, tape = lstm.forward(np.ones((200_000, 1, 1), dtype))
    return lstm.backward(tape, np.ones_like(y)).parameters


def many_rows(dtype, **options):
    lstm = LSTM(1, 4, seed=0, dtype=dtype, **options)
    y, _, tape = lstm.forward(np.ones((3, 70_000, 1), dtype))
    return lstm.backward(tape, np.ones_like(y)).parameters


def linear(dtype):
    layer = Linear(1, 2, seed=0, dtype=dtype)
    y, tape = layer.forward(np.full((1_500_000, 1), 0.7, "float32"))
    return layer.backward(tape, np.full_like(y, np.float32(0.1))).parameters


def one_token(dtype):
    layer = Embedding(3, 3, seed=0, dtype=dtype)
    y, tape = layer.forward(np.full(500_000, 1))
    return layer.backward(tape, np.full_like(y, np.float32(0.1))).parameters


def attention(dtype):
    layer = Attention(1, 1, score="additive", units=3, seed=0, dtype=dtype)
    *_, tape = layer.forward(np.ones((1000, 1, 1)), np.linspace(-1, 1, 400)[:, np.newaxis, np.newaxis])
    return layer.backward(tape, dweights=np.broadcast_to(np.linspace(0, 1, 400), (1000, 1, 400))).parameters


LONG_SUMS = {
    "sequence": long_sequence,
    "every parameter": functools.partial(many_rows, layer_norm=True, peepholes=True, proj_size=2),
    "rows": many_rows,
    "linear": linear,
    "embedding": one_token,
    "attention": attention,
}


@functools.cache
def in_float64(name):
    return LONG_SUMS[name]("float64")


@pytest.mark.parametrize("name", LONG_SUMS)
@every_implementation
def test_gradients_summed_over_many_rows_and_steps_are_accurate(chosen, name):
    got = LONG_SUMS[name]("float32")
    for parameter, expected in in_float64(name).items():
        assert largest_error(got[parameter], expected) <= 1e-5, parameter


@every_implementation
def test_an_infinite_gradient_of_a_long_sum_is_infinite(chosen):
    layer = Linear(1, 2, seed=0)
    x = np.ones((5000, 1), np.float32)
    y, tape = layer.forward(x)
    dy = np.ones_like(y)
    dy[7, 0] = np.inf
    gradients = layer.backward(tape, dy).parameters
    assert gradients["weight"][:, 0].tolist() == gradients["bias"].tolist() == [np.inf, 5000]
