"""Convolution, pooling, normalisation and shapes of sequences, compared with PyTorch and finite differences."""

import pickle
import re

import numpy as np
import pytest

from lstm_cy import (
    LSTM,
    SGD,
    Adam,
    BatchNormalization,
    Conv1D,
    Flatten,
    GlobalPooling1D,
    LayerNormalization,
    Linear,
    Masking,
    Pooling1D,
    Readout,
    RepeatVector,
    Sequential,
    fit,
    load,
    mse,
    save,
)


def reference_conv(x, weight, bias, stride, padding, dilation, groups):
    """Return the convolution of x (T, in) by its definition, in loops."""
    outputs, read, size = weight.shape
    reach = (size - 1) * dilation
    if padding == "same":
        total = max((-(-len(x) // stride) - 1) * stride + reach + 1 - len(x), 0)
        before, after = total // 2, total - total // 2
    else:
        before, after = (reach, 0) if padding == "causal" else (0, 0)
    x = np.concatenate([np.zeros((before, x.shape[1])), x, np.zeros((after, x.shape[1]))])
    y = []
    for start in range(0, len(x) - reach, stride):
        step = [] if bias is None else list(bias)
        step = np.array(step or [0.0] * outputs)
        for o in range(outputs):
            first = o // (outputs // groups) * read
            for k in range(size):
                step[o] += weight[o, :, k] @ x[start + k * dilation, first : first + read]
        y.append(step)
    return np.array(y)


CONVS = [
    {},
    {"stride": 2, "padding": "same"},
    {"stride": 3, "padding": "same", "dilation": 1},
    {"padding": "causal", "dilation": 2},
    {"padding": "same", "dilation": 3, "groups": 2, "bias": False},
    {"stride": 4, "groups": 2},
]


@pytest.mark.parametrize("options", CONVS, ids=str)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_convolution_is_its_definition(options, size):
    rng = np.random.default_rng(size)
    layer = Conv1D(4, 6, size, dtype="float64", seed=rng, batch_first=True, **options)
    x = rng.standard_normal((3, 17, 8))[:, :, ::2]  # not contiguous
    weight, bias = layer.parameters["weight"], layer.parameters.get("bias")
    rest = layer.stride, layer.padding, layer.dilation, layer.groups
    expected = np.stack([reference_conv(row, weight, bias, *rest) for row in x])
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(layer(x[1]), layer(x)[1])  # one sequence
    time_first = Conv1D(4, 6, size, dtype="float64", **options)
    time_first.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(time_first(x.swapaxes(0, 1)).swapaxes(0, 1), layer(x))


def test_a_convolution_agrees_with_pytorch():
    torch = pytest.importorskip("torch")
    module = torch.nn.Conv1d(6, 9, 3, stride=2, dilation=2, groups=3)
    layer = Conv1D(6, 9, 3, stride=2, dilation=2, groups=3, batch_first=True)
    layer.load_state_dict({name: tensor.detach().numpy() for name, tensor in module.named_parameters()})
    x = torch.randn(2, 33, 6, requires_grad=True)
    expected = module(x.mT).mT
    y, tape = layer.forward(x.detach().numpy())
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=0, atol=2e-6)
    dy = torch.randn_like(expected)
    expected.backward(dy)
    gradients = layer.backward(tape, dy.numpy())
    np.testing.assert_allclose(gradients.x, x.grad.numpy(), rtol=0, atol=5e-6)
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(gradients.parameters[name], parameter.grad.numpy(), rtol=0, atol=2e-5)


LAYERS = {
    "conv": lambda first: Conv1D(3, 4, 3, stride=2, padding="same", batch_first=first, dtype="float64", seed=1),
    "groups": lambda first: Conv1D(3, 6, 2, padding="causal", dilation=2, groups=3, batch_first=first, dtype="float64"),
    "max": lambda first: Pooling1D("max", 3, stride=2, padding="same", batch_first=first),
    "average": lambda first: Pooling1D("average", 3, padding="same", batch_first=first),
    "global max": lambda first: GlobalPooling1D("max", batch_first=first),
    "global average": lambda first: GlobalPooling1D("average", batch_first=first),
    "flatten": lambda first: Flatten(batch_first=first),
    "batch": lambda first: BatchNormalization(3, dtype="float64"),
    "layer": lambda first: LayerNormalization(3, dtype="float64"),
    "repeat": lambda first: RepeatVector(4, batch_first=first),
}


def made(name, first=False, seed=0):
    """Return a layer with drawn parameters, and an input."""
    rng = np.random.default_rng(seed)
    layer = LAYERS[name](first)
    layer.load_state_dict({key: rng.uniform(0.5, 2, array.shape) for key, array in layer.parameters.items()})
    shape = (2, 3) if name == "repeat" else (2, 7, 3) if first else (7, 2, 3)
    return layer, rng.standard_normal(shape)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("first", [False, True], ids=["time first", "batch first"])
def test_gradients_are_finite_differences(name, first):
    layer, x = made(name, first)
    y, tape = layer.forward(x)
    np.testing.assert_array_equal(layer(x), y)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    gradients = layer.backward(tape, dy)

    def slope(array, index, change):
        values = []
        for sign in (1, -1):
            moved = array.copy()
            moved[index] += sign * 1e-6
            values.append((change(moved) * dy).sum())
        return (values[0] - values[1]) / 2e-6

    for index in np.ndindex(x.shape):
        assert gradients.x[index] == pytest.approx(slope(x, index, layer), abs=1e-7)
    trained = {key: array for key, array in layer.parameters.items() if key not in layer.frozen_parameters}
    assert gradients.parameters.keys() == trained.keys()
    for key, array in trained.items():

        def changed(moved, key=key):
            other = pickle.loads(pickle.dumps(layer))
            other.load_state_dict(layer.parameters | {key: moved})
            return other(x)

        for index in np.ndindex(array.shape):
            assert gradients.parameters[key][index] == pytest.approx(slope(array, index, changed), abs=1e-7)
    with pytest.raises(ValueError, match="dy: expected"):
        layer.backward(tape, np.ones((1, *y.shape)))


def test_pooling_agrees_with_its_definition():
    x = np.random.default_rng(0).standard_normal((5, 1, 2)).astype("float32")
    pooled = Pooling1D("average", 3, stride=2, padding="same")(x)  # one step is added before and one after
    windows = [x[0:2], x[1:4], x[3:5]]
    np.testing.assert_allclose(pooled, [window.mean(axis=0) for window in windows], rtol=1e-6)
    windows = [x[0:3], x[2:5]]
    np.testing.assert_array_equal(Pooling1D("max", 3, stride=2)(x), [window.max(axis=0) for window in windows])
    np.testing.assert_array_equal(Pooling1D("max", 5, padding="same")(-np.abs(x)), [(-np.abs(x)).max(axis=0)])
    with pytest.raises(ValueError, match="x: expected at least 6 steps, padding included, got 5"):
        Pooling1D("max", 6)(x)


def test_padding_does_not_count_in_global_pooling():
    x = np.random.default_rng(0).standard_normal((7, 3, 2))
    lengths = [7, 3, 0]
    x[3:, 1], x[:, 2] = np.nan, np.inf
    mask = np.arange(7)[:, None] < lengths
    for kind, function in (("max", np.max), ("average", np.mean)):
        layer = GlobalPooling1D(kind)
        expected = [function(x[:length, row], axis=0) if length else [0, 0] for row, length in enumerate(lengths)]
        np.testing.assert_allclose(layer(x, lengths=lengths), expected, rtol=1e-12)
        np.testing.assert_array_equal(layer(x, mask=mask), layer(x, lengths=lengths))
        first = GlobalPooling1D(kind, batch_first=True)
        np.testing.assert_array_equal(first(x.swapaxes(0, 1), mask=mask.T), layer(x, mask=mask))
        np.testing.assert_array_equal(layer(x[:, 1], lengths=3), layer(x, lengths=lengths)[1])


def test_normalisation_agrees_with_pytorch():
    torch = pytest.importorskip("torch")
    x = torch.randn(3, 17, 5)
    for module, layer in (
        (torch.nn.BatchNorm1d(5).eval(), BatchNormalization(5, eps=1e-5)),
        (torch.nn.LayerNorm(5), LayerNormalization(5, eps=1e-5)),
    ):
        state = {name: torch.rand_like(array) + 0.5 for name, array in module.state_dict().items() if array.ndim}
        module.load_state_dict(state, strict=False)
        layer.load_state_dict({name: array.numpy() for name, array in state.items()})
        batch = isinstance(module, torch.nn.BatchNorm1d)
        expected = module(x.mT).mT if batch else module(x)
        np.testing.assert_allclose(layer(x.numpy()), expected.detach().numpy(), rtol=0, atol=2e-6)


def autoencoder(first=False):
    return Sequential(
        Conv1D(3, 4, 3, padding="same", seed=0, batch_first=first),
        BatchNormalization(4),
        Pooling1D("max", 2, batch_first=first),
        LSTM(4, 5, seed=1, batch_first=first),
        LayerNormalization(5),
        Readout(batch_first=first),
        RepeatVector(6, batch_first=first),
        LSTM(5, 5, seed=2, batch_first=first),
        Linear(5, 3, seed=3),
    )


def test_a_sequential_of_them_trains_and_is_saved(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 12, 3)).astype("f"), rng.standard_normal((9, 6, 3)).astype("f")
    model = autoencoder(first=True)
    statistics = {name: array for name, array in model.state_dict().items() if "running" in name}
    assert sorted(model.frozen_parameters) == sorted(statistics)
    history = fit(model, (x, y), loss=mse, optimizer=Adam(model, 1e-2), epochs=40, batch_size=4, progress=False)
    assert history.loss[-1] < 0.9 * history.loss[0]
    for name, array in statistics.items():
        np.testing.assert_array_equal(model.parameters[name], array)
    save(model, tmp_path / "model.npz")
    again = load(tmp_path / "model.npz")
    np.testing.assert_array_equal(again(x)[0], model(x)[0])
    np.testing.assert_array_equal(again.predict(x, batch_size=3), model(x)[0])
    assert repr(again) == repr(model)


def test_the_summary_follows_the_axes(capsys):
    autoencoder().summary()
    shapes = re.findall(r"  (\([TB].*?\))", capsys.readouterr().out)
    assert shapes[3:] == ["(T, B, 5)", "(T, B, 5)", "(B, 5)", "(T, B, 5)", "(T, B, 5)", "(T, B, 3)"]


def test_lengths_are_refused_where_steps_are_combined():
    x = np.zeros((12, 2, 3), "f")
    for given in ({"lengths": [12, 3]}, {"mask": np.ones((12, 2), bool)}, {"reset": np.zeros((12, 2), bool)}):
        (name,) = given
        with pytest.raises(ValueError, match=f"{name}: expected None, because Conv1D combines successive steps"):
            autoencoder()(x, **given)
        with pytest.raises(ValueError, match=f"{name}: expected None, because Pooling1D combines"):
            Sequential(Pooling1D("max", 2)).forward(x, **given)


def test_a_mask_ends_where_a_new_sequence_begins():
    tail = [RepeatVector(4), LSTM(5, 2, seed=1)]
    x = np.random.default_rng(0).standard_normal((7, 2, 3)).astype("f")
    x[4:, 0] = 0
    lstm = LSTM(3, 5, seed=0)
    y, _ = Sequential(Masking(), lstm, Readout(), *tail)(x)
    expected, _ = Sequential(*tail)(Sequential(lstm, Readout())(x, lengths=[4, 7])[0])
    np.testing.assert_array_equal(y, expected)
    y, _, _ = Sequential(lstm, Readout(), *tail).forward(x, lengths=[4, 7])
    np.testing.assert_array_equal(y, expected)


def test_chains_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected a sequence as input of Conv1D at 1, got one step"):
        Sequential(Flatten(), Conv1D(3, 4, 2))
    with pytest.raises(ValueError, match="batch_first or none, got both"):
        Sequential(Conv1D(3, 4, 2, batch_first=True), LSTM(4, 2))
    with pytest.raises(ValueError, match="expected 4 inputs of layer 1, got 3"):
        Sequential(Conv1D(3, 4, 2), LSTM(3, 2))
    with pytest.raises(ValueError, match="groups: expected a divisor of in_features and out_features, 3 and 4, got 2"):
        Conv1D(3, 4, 2, groups=2)
    with pytest.raises(ValueError, match="padding: expected"):
        Pooling1D("max", 2, padding="causal")
    with pytest.raises(ValueError, match=r"x: expected shape \(T, B, 3\) or \(T, 3\), got \(5, 2, 4\)"):
        Conv1D(3, 4, 2)(np.zeros((5, 2, 4)))
    assert not Sequential(Conv1D(3, 4, 2), LSTM(4, 2)).is_causal
    assert Sequential(Conv1D(3, 4, 2, padding="causal"), LSTM(4, 2)).is_causal


def test_a_stale_tape_is_refused():
    for name in ("conv", "layer"):
        layer, x = made(name)
        y, tape = layer.forward(x)
        optimizer = SGD(layer, 0.1)
        optimizer.step(layer.backward(tape, y).parameters)
        with pytest.raises(RuntimeError, match="tape: the parameters have changed"):
            layer.backward(tape, y)
