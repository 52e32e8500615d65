"""Every engine on every instruction set agrees with the reference, and gives the same bits in all forms of a call."""

import numpy as np
import pytest
from common import (
    SIZES,
    TOLERANCE,
    bits,
    every_dtype,
    every_gradient,
    every_implementation,
    every_packed,
    largest_error,
    random_case,
    reference_lstm,
)

from lstm_cy import LSTM, reference


@every_implementation
@every_dtype
@pytest.mark.parametrize("H", SIZES)
@pytest.mark.parametrize("B", (1, 2, 5, 13))
def test_long_sequences_agree_with_the_reference(chosen, dtype, H, B):
    lstm = LSTM(SIZES[B % 5], H, dtype=dtype, seed=H, forget_bias=0)
    x, state = random_case(lstm, 100, B)
    y, (h_n, c_n) = lstm(x, state)
    for got, expected in zip((y, h_n, c_n), reference_lstm(lstm, x, state), strict=True):
        assert np.abs(got - expected).max() <= TOLERANCE[dtype]


@every_implementation
@every_dtype
@pytest.mark.parametrize(
    "options",
    (
        {},
        {"num_layers": 3, "bias": False},
        {"bidirectional": True, "num_layers": 2},
        {"bidirectional": True, "num_layers": 3, "batch_first": True},
        {"reverse": True, "batch_first": True},
    ),
    ids=repr,
)
@pytest.mark.parametrize("lengths", (None, [7, 0, 1, 9, 7, 3], [0] * 6, [9, 9, 9, 9, 9, 8]), ids=repr)
def test_every_option_agrees_with_the_reference(chosen, dtype, options, lengths):
    lstm = LSTM(5, 17, dtype=dtype, seed=3, **options)
    x, state = random_case(lstm, 9, 6)
    if lengths is not None:  # the padding must not matter
        rows = x if lstm.batch_first else x.swapaxes(0, 1)
        for row, length in zip(rows, lengths, strict=True):
            row[length:] = np.nan
    y, (h_n, c_n) = lstm(x, state, lengths=lengths)
    for got, expected in zip((y, h_n, c_n), reference_lstm(lstm, x, state, lengths), strict=True):
        assert np.abs(got - expected).max() <= TOLERANCE[dtype]
    if lengths is not None:
        rows = y if lstm.batch_first else y.swapaxes(0, 1)
        for row, length in zip(rows, lengths, strict=True):
            assert not row[length:].any()


@every_implementation
@every_dtype
@pytest.mark.parametrize("H", (1, 17, 33, 64))
def test_gradients_agree_with_the_reference(chosen, dtype, H):
    lstm = LSTM(7, H, dtype=dtype, seed=0)
    x, state = random_case(lstm, 12, 9)
    rng = np.random.default_rng(5)
    dy = rng.standard_normal((12, 9, H)).astype(dtype)
    dstate = [rng.standard_normal((1, 9, H)).astype(dtype) for _ in range(2)]
    _, _, tape = lstm.forward(x, state)
    got = every_gradient(lstm.backward(tape, dy, dstate))

    weights = [lstm.parameters[name].astype(np.float64) for name in ("weight_ih_l0", "weight_hh_l0")]
    bias = lstm.parameters["bias_ih_l0"].astype(np.float64) + lstm.parameters["bias_hh_l0"]
    *_, tape_64 = reference.forward_with_tape(x.astype(np.float64), state[0][0], state[1][0], *weights, bias)
    dx, dh0, dc0, dweight_ih, dweight_hh, dbias = reference.backward(tape_64, dy, dstate[0][0], dstate[1][0], *weights)
    expected = {
        "x": dx,
        "h0": dh0[None],
        "c0": dc0[None],
        "weight_ih_l0": dweight_ih,
        "weight_hh_l0": dweight_hh,
        "bias_ih_l0": dbias,
        "bias_hh_l0": dbias,
    }
    bound = 1e-11 if dtype == "float64" else 1e-5
    for name, array in expected.items():
        assert largest_error(got[name], array) < bound, name


def gates_of(z, dtype):
    """Return sigmoid(z) and tanh(z) of the cell, from the tape of a layer whose gates get z."""
    lstm = LSTM(1, 1, bias=False, dtype=dtype, seed=0)
    lstm.load_state_dict({"weight_ih_l0": np.ones((4, 1)), "weight_hh_l0": np.zeros((4, 1))})
    _, _, tape = lstm.forward(np.asarray(z, dtype).reshape(1, -1, 1))
    gates = tape.saved[0][3]
    return gates[:, 0], gates[:, 2]


@every_implementation
@every_dtype
def test_activations_are_accurate(chosen, dtype):
    z = np.concatenate([np.linspace(-45, 45, 200_001), np.geomspace(1e-30, 1, 5000), -np.geomspace(1e-30, 1, 5000)])
    z = z.astype(dtype).astype(np.float64)
    sigmoid, tanh = gates_of(z, dtype)
    epsilon = np.finfo(dtype).eps
    assert np.abs(sigmoid - 1 / (1 + np.exp(-z))).max() <= 1.5 * epsilon  # 1.8e-7 in float32
    assert np.abs(tanh - np.tanh(z)).max() <= 1.5 * epsilon
    small = np.abs(z) < 1
    assert (np.abs(tanh - np.tanh(z))[small] <= 3 * epsilon * np.abs(z[small])).all()
    tail = (z < -10) & (z > (-20 if dtype == "float32" else -40))
    assert (np.abs(sigmoid * (1 + np.exp(-z)) - 1)[tail] <= 3 * epsilon).all()


@every_implementation
@every_dtype
def test_activations_reach_their_limits_exactly(chosen, dtype):
    limit = 20 if dtype == "float32" else 40
    far = np.array([limit * 1.0001, 100, 1e4, 1e30, np.inf])
    sigmoid, tanh = gates_of(np.concatenate([far, -far]), dtype)
    assert sigmoid.tolist() == [1] * 5 + [0] * 5
    assert tanh.tolist() == [1] * 5 + [-1] * 5
    sigmoid, tanh = gates_of([np.nan, 0.0, -0.0], dtype)
    assert np.isnan([sigmoid[0], tanh[0]]).all()
    assert (sigmoid[1:] == 0.5).all()
    assert (tanh[1:] == 0).all()


@every_implementation
@every_dtype
def test_closed_and_open_gates_are_exact(chosen, dtype):
    """With f = 1 and i = 0 the cell keeps its bits for 1000 steps; with f = 0 nothing of it remains."""
    lstm = LSTM(1, 3, bias=False, dtype=dtype, seed=0)
    weight = np.repeat([[-1000.0], [1000.0], [5.0], [1000.0]], 3, axis=0)  # i = 0, f = 1, o = 1
    lstm.load_state_dict({"weight_ih_l0": weight, "weight_hh_l0": np.zeros((12, 3))})
    cell = np.array([[[0.1, -7.3, 1e-3]]], dtype)
    _, (_, c_n) = lstm(np.ones((1000, 1, 1)), (np.zeros_like(cell), cell))
    assert bits(c_n) == bits(cell)
    _, (_, c_n) = lstm(-np.ones((1, 1, 1)), (np.zeros_like(cell), np.full_like(cell, 1e30)))
    assert np.abs(c_n - np.tanh(-5)).max() < 2e-7


@every_implementation
@pytest.mark.parametrize("poison", (np.nan, np.inf, 1e38))
@pytest.mark.parametrize("B", (2, 7, 33))
def test_a_bad_row_does_not_reach_another(chosen, poison, B):
    lstm = LSTM(4, 19, 2, bidirectional=True, seed=0)
    x, state = random_case(lstm, 8, B)
    y, (h_n, c_n) = lstm(x, state)
    x[3, 1, 2] = poison
    y_bad, (h_bad, c_bad) = lstm(x, state)
    others = [row for row in range(B) if row != 1]
    assert bits(y[:, others], h_n[:, others], c_n[:, others]) == bits(
        y_bad[:, others], h_bad[:, others], c_bad[:, others]
    )
    if np.isnan(poison):
        assert np.isnan(y_bad[3:, 1, :19]).all()


@every_packed
@every_dtype
@pytest.mark.parametrize("H", (1, 17, 64, 127))
def test_same_bits_whole_in_chunks_and_by_steps(chosen, dtype, H):
    lstm = LSTM(5, H, 2, dtype=dtype, seed=0)
    x, state = random_case(lstm, 23, 3)
    whole, final = lstm(x, state)
    for cuts in ((1, 10, 11, 23), range(1, 24)):
        parts, carried, start = [], state, 0
        for end in cuts:
            part, carried = lstm(x[start:end], carried)
            parts.append(part)
            start = end
        assert bits(np.concatenate(parts), *carried) == bits(whole, *final)


@every_packed
@every_dtype
@pytest.mark.parametrize("B", (2, 6, 7, 20))
def test_same_bits_alone_in_a_batch_and_padded(chosen, dtype, B):
    lstm = LSTM(5, 33, 2, bidirectional=True, dtype=dtype, seed=0)
    x, (h0, c0) = random_case(lstm, 11, B)
    lengths = np.random.default_rng(0).integers(0, 12, B)
    y, (h_n, c_n) = lstm(x, (h0, c0), lengths=lengths)
    for row, length in enumerate(lengths):
        one = slice(row, row + 1)
        alone, (h, c) = lstm(x[:length, one], (h0[:, one], c0[:, one]))
        assert bits(y[:length, one], h_n[:, one], c_n[:, one]) == bits(alone, h, c)


@every_packed
def test_same_bits_in_a_call_and_in_forward(chosen):
    lstm = LSTM(5, 33, 2, seed=0)
    x, state = random_case(lstm, 11, 7)
    y, final = lstm(x, state)
    y_trained, final_trained, _ = lstm.forward(x, state)
    assert bits(y, *final) == bits(y_trained, *final_trained)


@every_implementation
def test_denormals_are_flushed_only_inside_a_call(chosen):
    lstm = LSTM(1, 2, bias=False, seed=0)
    weight = np.repeat([[-1000.0], [1000.0], [0.0], [1000.0]], 2, axis=0)  # h = tanh(c)
    lstm.load_state_dict({"weight_ih_l0": weight, "weight_hh_l0": np.zeros((8, 2))})
    tiny = np.float32(1e-40)
    y, _ = lstm(np.ones((1, 1, 1)), (np.zeros((1, 1, 2)), np.full((1, 1, 2), tiny)))
    assert (y == 0).all()
    assert tiny / np.float32(2) != 0, "the caller's arithmetic has been changed"
