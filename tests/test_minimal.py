"""The LSTM of examples/minimal.py has the library's loss, gradients, updated parameters and states."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from lstm_cy import LSTM, Adam, Linear, Sequential, cross_entropy

PATH = Path(__file__).parents[1] / "examples" / "minimal.py"
#: minimal.py's name of a parameter: the library's
NAMES = {
    "weight_ih": "0.weight_ih_l0",
    "weight_hh": "0.weight_hh_l0",
    "bias_ih": "0.bias_ih_l0",
    "bias_hh": "0.bias_hh_l0",
    "weight_out": "1.weight",
    "bias_out": "1.bias",
}
V, H, T, B = 7, 5, 9, 4


@pytest.fixture(scope="module")
def minimal():
    spec = importlib.util.spec_from_file_location("minimal", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model_like(p):
    """Return the library's model with the parameters p."""
    model = Sequential(LSTM(V, H, dtype="float64"), Linear(H, V, dtype="float64"))
    model.load_state_dict({theirs: p[ours] for ours, theirs in NAMES.items()})
    return model


def assert_close(ours, theirs):
    assert ours.keys() == NAMES.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[NAMES[name]], rtol=0, atol=1e-10)


def test_training_steps_equal_the_librarys(minimal):
    rng = np.random.default_rng(0)
    p, state = minimal.make_parameters(V, H, seed=3), {}
    model = model_like(p)
    optimizer = Adam(model, lr=0.02)
    for _ in range(5):
        x, y = rng.integers(0, V, (2, T, B))
        loss, grads = minimal.loss_and_gradients(p, x, y)
        logits, _, tape = model.forward(np.eye(V)[x])
        expected_loss, gradient = cross_entropy(logits, y)
        expected_grads = model.backward(tape, gradient)
        assert abs(loss - expected_loss) < 1e-10
        assert_close(grads, expected_grads.parameters)
        minimal.adam_step(p, grads, state, lr=0.02)
        optimizer.step(expected_grads)
        assert_close(p, model.state_dict())


def test_outputs_and_states_equal_the_librarys(minimal):
    p = minimal.make_parameters(V, H, seed=3)
    rng = np.random.default_rng(1)
    x, h, c = rng.standard_normal((T, B, V)), *rng.standard_normal((2, B, H))
    outputs, (h_n, c_n), _ = minimal.lstm_forward(p, x, h, c)
    expected, (expected_h, expected_c) = model_like(p).layers[0](x, (h[None], c[None]))
    for ours, theirs in ((outputs, expected), (h_n, expected_h[0]), (c_n, expected_c[0])):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


def test_it_learns_and_writes_the_text(minimal, capsys):
    losses = minimal.main(["--steps", "180"])
    assert losses[-1] < 0.1 * losses[0]
    assert "'A recurrent network" in capsys.readouterr().out.splitlines()[-1]


def test_it_is_short_and_needs_numpy_only():
    text = PATH.read_text()
    assert len(text.splitlines()) <= 150
    assert "lstm_cy" not in text
