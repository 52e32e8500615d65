"""The NumPy reference, compared with PyTorch and with its formulas."""

import numpy as np
import pytest

from lstm_cy import reference


def case(T=6, B=3, I=4, H=5):
    rng = np.random.default_rng(0)
    shapes = (T, B, I), (B, H), (B, H), (4 * H, I), (4 * H, H), (4 * H,)
    return [rng.standard_normal(shape) for shape in shapes]


def test_forward_equals_repeated_steps():
    x, h, c, *weights = case()
    y, h_n, c_n = reference.forward(x, h, c, *weights)
    for t in range(len(x)):
        h, c = reference.step(x[t], h, c, *weights)
        assert np.abs(y[t] - h).max() < 1e-14
    assert np.abs(h_n - h).max() < 1e-14
    assert np.abs(c_n - c).max() < 1e-14


def test_step_agrees_with_the_formulas():
    x, h, c, weight_ih, weight_hh, bias = case(T=1, B=1)
    W = np.concatenate([weight_hh, weight_ih], axis=1)
    z = W @ np.concatenate([h[0], x[0, 0]]) + bias
    i, f, g, o = z.reshape(4, 5)
    i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
    cell = f * c[0] + i * np.tanh(g)
    got_h, got_c = reference.step(x[0], h, c, weight_ih, weight_hh, bias)
    assert np.abs(got_c[0] - cell).max() < 1e-14
    assert np.abs(got_h[0] - o * np.tanh(cell)).max() < 1e-14


def test_forward_and_backward_agree_with_pytorch():
    torch = pytest.importorskip("torch")
    arrays = case()
    x, h0, c0, weight_ih, weight_hh, bias = (torch.tensor(array, requires_grad=True) for array in arrays)
    twin = torch.nn.LSTM(4, 5, dtype=torch.float64)
    parameters = {"weight_ih_l0": weight_ih, "weight_hh_l0": weight_hh, "bias_ih_l0": bias}
    parameters["bias_hh_l0"] = torch.zeros(20, dtype=torch.float64)
    expected, (h_n, c_n) = torch.func.functional_call(twin, parameters, (x, (h0[None], c0[None])))
    y, h, c, tape = reference.forward_with_tape(*arrays)
    for got, tensor in zip((y, h, c), (expected, h_n[0], c_n[0]), strict=True):
        assert np.abs(got - tensor.detach().numpy()).max() < 1e-14
    rng = np.random.default_rng(1)
    seeds = [rng.standard_normal(array.shape) for array in (y, h, c)]
    torch.autograd.backward([expected, h_n[0], c_n[0]], [torch.tensor(seed) for seed in seeds])
    gradients = reference.backward(tape, *seeds, *arrays[3:5])
    for got, tensor in zip(gradients, (x, h0, c0, weight_ih, weight_hh, bias), strict=True):
        assert np.abs(got - tensor.grad.numpy()).max() < 1e-12


def test_dtype_is_kept_and_inputs_are_not_changed():
    arrays = [array.astype(np.float32) for array in case()]
    before = [array.copy() for array in arrays]
    results = reference.forward(*arrays)
    assert {array.dtype for array in results} == {np.dtype(np.float32)}
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))
