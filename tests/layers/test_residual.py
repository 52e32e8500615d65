"""Residual: the output of layers plus their input, in calls, training, streams, traces, files and narrow weights."""

import copy
import pickle

import numpy as np
import pytest
from common import bits

from lstm_cy import (
    LSTM,
    SGD,
    Activation,
    Adam,
    Dropout,
    Embedding,
    Linear,
    Masking,
    Readout,
    Residual,
    Sequential,
    StreamPool,
    fit,
    load,
    mse,
    save,
)


def assert_same(got, expected):
    assert bits(got) == bits(expected)


RNG = np.random.default_rng(0)


def inner(dtype="float64", I=3, H=5, P=2, batch_first=True, **options):
    return LSTM(I, H, 2, batch_first=batch_first, dtype=dtype, seed=1, **options), Linear(H, P, dtype=dtype, seed=2)


def model(dtype="float64", **options):
    return Sequential(
        Linear(3, 3, dtype=dtype, seed=0), Residual(*inner(dtype, **options)), Linear(2, 4, dtype=dtype, seed=3)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_every_way_of_running_gives_the_sum_to_the_bit(dtype, rows):
    whole = model(dtype)
    x = RNG.standard_normal((rows, 11, 3)).astype(dtype)
    state = [tuple(RNG.standard_normal((2, rows, 5)).astype(dtype) for _ in "hc")]
    h = whole.layers[0](x)
    expected, finals = Sequential(*whole.layers[1].parts)(h, state)
    expected = whole.layers[2](expected + h[..., :2])
    y, got = whole(x, state)
    assert_same(y, expected)
    assert_same(got[0][0], finals[0][0])
    stepper = whole.stepper(rows)
    stepper.state = state
    assert_same(np.stack([stepper.step(x[:, t]) for t in range(11)], 1), expected)
    pool = StreamPool(whole)
    ids = [pool.join() for _ in range(rows)]
    for row, stream in enumerate(ids):
        pool.set_state(stream, [tuple(part[:, row] for part in state[0])])
    assert_same(np.stack([pool.step(ids, x[:, t]) for t in range(11)], 1), expected)
    for other in (copy.deepcopy(whole), copy.copy(whole), pickle.loads(pickle.dumps(whole))):
        assert_same(other(x, state)[0], expected)
    assert_same(whole.predict(x), whole(x)[0])
    alone = whole.layers[1]
    stepper = alone.stepper(rows)
    assert_same(np.stack([stepper.step(h[:, t]) for t in range(11)], 1), alone(h)[0])


def test_lengths_and_masks_leave_out_the_input_too():
    alone = Residual(LSTM(3, 3, batch_first=False, dtype="float64", seed=0))
    x = RNG.standard_normal((7, 4, 3))
    lengths = [7, 0, 3, 1]
    mask = np.arange(7)[:, None] < lengths
    clean, _ = alone(np.where(mask[..., None], x, 0), lengths=lengths)
    x[~mask] = np.nan
    y, _, tape = alone.forward(x, lengths=lengths)
    assert_same(y, clean)
    assert not y[~mask].any()
    assert_same(alone(x, mask=mask)[0], clean)
    dy = RNG.standard_normal(y.shape)
    dx = alone.backward(tape, np.where(mask[..., None], dy, 0)).x
    dy[~mask] = np.nan
    assert_same(alone.backward(tape, dy).x, dx)
    assert not dx[~mask].any()


def test_gradients_agree_with_finite_differences():
    whole = Sequential(
        Residual(*inner(P=3), Activation("tanh")), Residual(LSTM(3, 3, dtype="float64", seed=5, batch_first=True))
    )
    x, dy = RNG.standard_normal((2, 2, 5, 3))
    _, _, tape = whole.forward(x)
    gradients = whole.backward(tape, dy)
    parameters = whole.state_dict()
    for name, gradient in gradients.parameters.items():
        index = tuple(RNG.integers(0, size) for size in gradient.shape)
        values = []
        for step in (1e-6, -1e-6):
            changed = parameters[name].copy()
            changed[index] += step
            whole.load_state_dict({**parameters, name: changed})
            values.append((whole(x)[0] * dy).sum())
        whole.load_state_dict(parameters)
        assert np.isclose((values[0] - values[1]) / 2e-6, gradient[index], rtol=1e-6, atol=1e-8), name
    for index in np.ndindex(2, 2, 3):
        index = (index[0], 2 * index[1], index[2])
        ahead, behind = x.copy(), x.copy()
        ahead[index] += 1e-6
        behind[index] -= 1e-6
        slope = ((whole(ahead)[0] - whole(behind)[0]) * dy).sum() / 2e-6
        assert np.isclose(slope, gradients.x[index], rtol=1e-6, atol=1e-8)


def test_it_is_trained_saved_traced_and_made_narrow(tmp_path):
    whole = model("float32")
    x = RNG.standard_normal((32, 20, 3)).astype("float32")
    history = fit(
        whole, (x, x @ RNG.standard_normal((3, 4))), loss=mse, optimizer=Adam(whole, lr=0.02), epochs=30, progress=False
    )
    assert history.loss[-1] < 0.7 * history.loss[0]
    assert {name.rpartition(".")[0] for name in whole.parameters} == {"0", "1.0", "1.1", "2"}
    save(whole, tmp_path / "model.npz", {"a": 1})
    read = load(tmp_path / "model.npz")
    assert repr(read) == repr(whole)
    assert_same(read(x)[0], whole(x)[0])
    lstm = whole.layers[1].parts[0]
    assert_same(whole.trace(x, layer=0).cell, lstm.trace(whole.layers[0](x), layer=0).cell)
    assert_same(whole.layers[1].trace(whole.layers[0](x)).cell, whole.trace(x).cell)
    narrow = whole.quantize("bf16", x[:, :5])
    assert narrow.report[1][0]["bytes_after"] < narrow.report[1][0]["bytes_before"]
    assert np.abs(narrow(x)[0] - whole(x)[0]).max() < 0.1
    save(narrow, tmp_path / "narrow.npz")
    assert_same(load(tmp_path / "narrow.npz")(x)[0], narrow(x)[0])
    save(whole.layers[1], tmp_path / "alone.npz")
    assert_same(load(tmp_path / "alone.npz")(x)[0], whole.layers[1](x)[0])


def test_a_residual_that_is_used_twice_is_shared(tmp_path):
    residual = Residual(LSTM(2, 2, seed=0, dtype="float64"))
    twice = Sequential(residual, Dropout(0.0), residual)
    apart = Sequential(residual, copy.deepcopy(residual))
    x = RNG.standard_normal((5, 3, 2))
    assert_same(twice(x)[0], apart(x)[0])
    gradients = [each.backward(each.forward(x)[2], np.ones_like(x)).parameters for each in (twice, apart)]
    for name, gradient in gradients[0].items():
        assert np.allclose(gradient, gradients[1][name] + gradients[1]["1" + name[1:]], rtol=1e-12)
    SGD(twice, lr=0.1).step(gradients[0])
    save(twice, tmp_path / "twice.npz")
    read = load(tmp_path / "twice.npz")
    assert read.layers[0] is read.layers[2]
    assert_same(read(x)[0], twice(x)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Residual(), "expected at least one"),
        (lambda: Residual(Linear(2, 3)), "at most 2 outputs"),
        (lambda: Residual(Embedding(5, 5)), "takes tokens"),
        (lambda: Residual(Masking(), LSTM(2, 2)), "makes a mask"),
        (lambda: Residual(LSTM(2, 2), Readout()), "only the last step"),
        (lambda: Sequential(lstm := LSTM(2, 2), Residual(lstm)), "inside a Residual and outside"),
        (lambda: Sequential(Residual(lstm := LSTM(2, 2)), Residual(lstm)), "inside a Residual and outside"),
        (lambda: Sequential(Linear(2, 3), Residual(Linear(2, 2))), "expected 3 inputs"),
        (lambda: Sequential(Residual(LSTM(2, 2, bidirectional=True), Linear(4, 2))).stepper(), "bidirectional"),
        (lambda: Sequential(Residual(Dropout(0.1)), Linear(2, 2)).stepper(), "other than Dropout"),
        (lambda: Residual(Activation("softmax"), Linear(2, 2))([[1, 2, 3.0]]), "expected"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
