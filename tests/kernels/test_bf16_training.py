"""Training with products in bf16: gradients against a float64 model that rounds at the same places, and whole fits."""

import numpy as np
import pytest
from common import bits

from lstm_cy import (
    LSTM,
    SGD,
    Adam,
    AdamW,
    Linear,
    Residual,
    RMSprop,
    Seq2Seq,
    Sequential,
    config,
    cross_entropy,
    fit,
    load,
    mse,
    save,
)
from lstm_cy.layers.narrow import to_bf16, widened
from lstm_cy.seq2seq import teach


def rounded(x):
    return np.float64(widened(to_bf16("x", np.ascontiguousarray(x, np.float32))))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def model_of(lstm, x, state, dy, dstate):
    """Return y and all gradients of one layer that runs forwards, in float64, with the documented roundings.

    Numbers that the layer has as float32 are rounded to float32 before they are rounded to bf16.
    """
    W, R = (rounded(lstm.parameters[name]) for name in ("weight_ih_l0", "weight_hh_l0"))
    bias = np.float64(lstm.parameters["bias_ih_l0"]) + lstm.parameters["bias_hh_l0"]
    h, c = (np.float64(part[0]) for part in state)
    steps, y = [], []
    for x_t in x:
        before = rounded(x_t), rounded(h), c
        i, f, g, o = np.split(before[0] @ W.T + before[1] @ R.T + bias, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = f * c + i * g
        h = o * np.tanh(c)
        steps.append((*before, i, f, g, o, np.tanh(c)))
        y.append(h)
    dW, dR, db, dx = np.zeros_like(W), np.zeros_like(R), np.zeros_like(bias), np.zeros(x.shape)
    dh, dc = (np.float64(part[0]) for part in dstate)
    for t in reversed(range(len(x))):
        x_t, h_t, c_t, i, f, g, o, tanh_c = steps[t]
        dh = dh + dy[t]
        dc = dc + dh * o * (1 - tanh_c**2)
        dz = [dc * g * i * (1 - i), dc * c_t * f * (1 - f), dc * i * (1 - g**2), dh * tanh_c * o * (1 - o)]
        dz = np.concatenate(dz, axis=1)
        narrow = rounded(dz)
        db += dz.sum(axis=0)
        dW += narrow.T @ x_t
        dR += narrow.T @ h_t
        dx[t] = narrow @ W
        dh, dc = narrow @ R, dc * f
    return np.stack(y), [dx, dh, dc, dW, dR, db]


@pytest.mark.parametrize("isa", config.available_instruction_sets())
@pytest.mark.parametrize("sizes", ((1, 1, 1, 1), (1, 1, 33, 17), (2, 3, 17, 33), (1, 7, 5, 127), (3, 13, 64, 32)))
def test_gradients_are_those_of_the_rounded_model(isa, sizes):
    """One to three steps: later a number that falls on the other side of a rounding changes those that follow."""
    T, B, inputs, H = sizes
    rng = np.random.default_rng(sum(sizes))
    numbers = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    with config.using(isa=isa):
        lstm = LSTM(inputs, H, seed=1)
        x, state, dy, dstate = numbers(T, B, inputs), numbers(2, 1, B, H), numbers(T, B, H), numbers(2, 1, B, H)
        y, _, tape = lstm.forward(x, tuple(state), precision="bf16")
        gradients = lstm.backward(tape, dy, tuple(dstate))
        plain = lstm.backward(lstm.forward(x, tuple(state))[2], dy, tuple(dstate))
    expected_y, expected = model_of(lstm, x, state, dy, dstate)
    assert np.abs(y - expected_y).max() <= 1e-6 if T == 1 else 2e-3
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0")
    found = [gradients.x, gradients.state[0][0], gradients.state[1][0], *(gradients.parameters[name] for name in names)]
    unrounded = [plain.x, plain.state[0][0], plain.state[1][0], *(plain.parameters[name] for name in names)]
    for got, want, wide in zip(found, expected, unrounded, strict=True):
        scale = np.abs(want).max()
        assert np.abs(got - want).max() <= (2e-4 if T == 1 else 3e-3) * scale
        assert np.abs(got - wide).max() <= 3e-2 * scale


def test_one_step_of_many_rows_differs_from_the_rounded_model_by_float32_alone():
    """One step without sums that are rounded again: an error of bf16 (4e-3) anywhere would be seen."""
    rng = np.random.default_rng(5)
    lstm = LSTM(48, 40, seed=2)
    x, dy = rng.standard_normal((1, 300, 48)).astype(np.float32), rng.standard_normal((1, 300, 40)).astype(np.float32)
    zero = np.zeros((2, 1, 300, 40), np.float32)
    _, _, tape = lstm.forward(x, precision="bf16")
    gradients = lstm.backward(tape, dy)
    _, (dx, *_, dW, _, db) = model_of(lstm, x, zero, dy, zero)
    for got, want in ((gradients.x, dx), (gradients.parameters["weight_ih_l0"], dW)):
        error = np.abs(got - want)
        assert np.median(error) <= 1e-6 * np.abs(want).max()
        assert error.max() <= 1e-4 * np.abs(want).max()
    assert np.abs(gradients.parameters["bias_ih_l0"] - db).max() <= 1e-5 * np.abs(db).max()


OPTIONS = (
    {"num_layers": 2, "bidirectional": True, "dropout": 0.25},
    {"proj_size": 5, "peepholes": True, "learn_initial_state": True},
    {"recurrent_dropout": 0.25, "zoneout": (0.1, 0.2), "weight_drop": 0.25},
    {"batch_first": True, "layer_norm": True, "clip": 2.0},
)


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_options_are_near_float32_and_the_same_on_two_threads(options):
    """Every option, against its own float32; masks are drawn alike."""
    lstm = LSTM(9, 33, seed=0, **options)
    x = np.random.default_rng(1).standard_normal((6, 7, 9)).astype(np.float32)
    lengths = [3] * 6 if lstm.batch_first else [6, 0, 1, 5, 6, 2, 3]
    results = []
    for threads, precision in ((1, "float32"), (1, "bf16"), (2, "bf16")):
        y, state, tape = lstm.forward(x, lengths=lengths, rng=3, threads=threads, precision=precision)
        gradients = lstm.backward(tape, np.cos(y))
        results.append([y, *state, gradients.x, *gradients.parameters.values()])
    assert bits(*results[1]) == bits(*results[2])
    for wide, narrow in zip(*results[:2], strict=True):
        assert 0 < np.abs(wide - narrow).max() <= 4e-2 * np.abs(wide).max()


def test_inference_of_quantized_weights_is_the_forward_pass():
    for options in ({}, {"bidirectional": True, "num_layers": 2}, {"proj_size": 3}):
        lstm = LSTM(7, 21, seed=0, **options)
        x = np.random.default_rng(0).standard_normal((8, 5, 7)).astype(np.float32)
        y, state, _ = lstm.forward(x, precision="bf16")
        expected_y, expected = lstm.quantize("bf16")(x)
        assert bits(y, *state) == bits(expected_y, *expected)


def test_the_precision_of_a_block():
    lstm = LSTM(3, 4, seed=0)
    x = np.ones((2, 1, 3), np.float32)
    with config.using(precision="bf16"):
        assert config.precision() == "bf16"
        inside = lstm.forward(x)[0]
        with config.using(precision="float32"):
            assert bits(lstm.forward(x)[0]) == bits(lstm(x)[0])
        assert bits(lstm.forward(x, precision="float32")[0]) == bits(lstm(x)[0])
    assert bits(inside) == bits(lstm.forward(x, precision="bf16")[0]) != bits(lstm(x)[0])
    for attempt in (lambda: lstm.forward(x, precision="float16"), lambda: config.using(precision="int8").__enter__()):
        with pytest.raises(ValueError, match=r"precision: expected .*'?float32'?.*bf16.*, got '(float16|int8)'"):
            attempt()
    with pytest.raises(ValueError, match="precision: expected 'float32' for a float64 layer, got 'bf16'"):
        LSTM(3, 4, dtype="float64").forward(x, precision="bf16")


# fit


def trained(folder, epochs, resume=False, precision="bf16", **options):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 20, 3)).astype(np.float32)
    model = Sequential(LSTM(3, 17, 2, dropout=0.2, seed=1), Linear(17, 3, seed=2))
    checkpoint = folder / "checkpoint.npz"
    history = fit(
        model,
        (x, np.cumsum(x, axis=0)),
        loss=mse,
        optimizer=Adam(model, 0.01),
        epochs=epochs,
        batch_size=8,
        checkpoint=checkpoint,
        resume=resume,
        progress=False,
        precision=precision,
        **options,
    )
    return model, history


def test_fit_resumes_bit_for_bit_and_remembers_its_precision(tmp_path):
    for name in ("whole", "parts", "wide"):
        (tmp_path / name).mkdir()
    model, history = trained(tmp_path / "whole", 6)
    trained(tmp_path / "parts", 3)
    again, resumed = trained(tmp_path / "parts", 6, resume=True)
    assert history.loss == resumed.loss
    assert bits(*model.parameters.values()) == bits(*again.parameters.values())
    assert history.loss[-1] < history.loss[0]
    assert {array.dtype for array in model.parameters.values()} == {np.dtype("float32")}
    _, wide = trained(tmp_path / "wide", 6, precision="float32")
    assert wide.loss != history.loss
    assert wide.loss[-1] == pytest.approx(history.loss[-1], rel=0.02)
    with pytest.raises(ValueError, match="precision"):
        trained(tmp_path / "parts", 8, resume=True, precision="float32")
    with pytest.raises(ValueError, match="precision"):
        trained(tmp_path / "wide", 8, resume=True)
    save(model, tmp_path / "model.npz")
    assert bits(load(tmp_path / "model.npz")(np.ones((2, 1, 3)))[0]) == bits(model(np.ones((2, 1, 3)))[0])


@pytest.mark.parametrize(
    ("kind", "settings", "options"),
    (
        (SGD, {"lr": 0.05, "momentum": 0.9}, {"bidirectional": True, "num_layers": 2, "dropout": 0.1}),
        (Adam, {"lr": 0.005}, {"proj_size": 5, "peepholes": True, "proj_clip": 3.0}),
        (AdamW, {"lr": 0.005, "weight_decay": 0.1}, {"layer_norm": True, "clip": 5.0}),
        (RMSprop, {"lr": 0.002, "centered": True}, {"coupled_gates": "f=1-i", "learn_initial_state": True}),
    ),
)
def test_every_optimizer_resumes_and_reaches_the_loss_of_float32(kind, settings, options, tmp_path):
    """Ragged rows, bounds of the gradients, and each option; the held-out loss is near that of float32."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((48, 12, 4)).astype(np.float32)
    data = x, np.cumsum(x, axis=1) / 4, rng.integers(1, 13, 48)
    train, held_out = tuple(part[:32] for part in data), tuple(part[32:] for part in data)

    def run(epochs, precision="bf16", name=None, resume=False):
        lstm = LSTM(4, 17, batch_first=True, seed=1, **options)
        model = Sequential(Residual(LSTM(4, 4, batch_first=True, seed=3)), lstm, Linear(lstm.output_size, 4, seed=2))
        found = fit(
            model,
            train,
            loss=mse,
            optimizer=kind(model, **settings),
            epochs=epochs,
            batch_size=8,
            validation=held_out,
            clip_norm=1.0,
            clip_value=0.3,
            seed=5,
            precision=precision,
            progress=False,
            checkpoint=None if name is None else tmp_path / name,
            resume=resume,
        )
        return bits(*model.parameters.values()), found

    whole, history = run(6)
    run(3, name="part.npz")
    again, resumed = run(6, name="part.npz", resume=True)
    assert again == whole and resumed.loss == history.loss and resumed.validation == history.validation
    _, wide = run(6, "float32")
    assert history.validation != wide.validation
    assert history.validation[-1] == pytest.approx(wide.validation[-1], rel=5e-3)


def test_a_seq2seq_trains_in_bf16():
    words = np.random.default_rng(0).integers(2, 6, (96, 3)).tolist()
    data = teach(words, [word[::-1] for word in words], start=0, end=1)
    found = {}
    for precision in ("bf16", "float32"):
        model = Seq2Seq(6, embedding_dim=8, hidden_size=24, seed=0)
        optimizer = Adam(model, 0.01, frozen="source.*")
        found[precision] = fit(
            model, data, loss=cross_entropy, optimizer=optimizer, epochs=4, progress=False, precision=precision
        ).loss
    assert found["bf16"] != found["float32"]
    assert found["bf16"] == pytest.approx(found["float32"], rel=5e-3)


def test_fit_refuses_other_precisions_and_leaves_none_behind(tmp_path):
    for precision in ("int8", None, 16):
        with pytest.raises(ValueError, match="precision: expected 'float32' or 'bf16'"):
            trained(tmp_path, 1, precision=precision)
    trained(tmp_path, 1)
    assert config.precision() == "float32"


def test_estimators_train_in_bf16():
    pytest.importorskip("sklearn")
    from lstm_cy.estimators import LSTMRegressor

    x = np.random.default_rng(0).standard_normal((20, 6, 2))
    found = [
        LSTMRegressor(4, epochs=2, random_state=0, precision=precision).fit(x, x.sum(axis=(1, 2))).predict(x)
        for precision in ("bf16", "float32")
    ]
    assert 0 < np.abs(found[0] - found[1]).max() < 0.1 * np.abs(found[1]).max()
