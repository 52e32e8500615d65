"""Linear, Embedding, Dropout, Activation, Masking, Readout and Sequential."""

import itertools

import numpy as np
import pytest
from common import IMPLEMENTATIONS, PACKED

from lstm_cy import LSTM, Activation, Dropout, Embedding, Linear, Masking, Readout, Sequential, config, load, save


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("shape", ((3,), (4, 3), (2, 4, 3), (0, 3)))
def test_linear_agrees_with_pytorch(dtype, bias, shape):
    torch = pytest.importorskip("torch")
    linear = Linear(3, 5, bias=bias, dtype=dtype, seed=0)
    twin = torch.nn.Linear(3, 5, bias=bias, dtype=getattr(torch, dtype))
    twin.load_state_dict({name: torch.tensor(array) for name, array in linear.state_dict().items()})
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    tensor = torch.tensor(x, requires_grad=True)
    expected = twin(tensor)
    y, tape = linear.forward(x)
    tolerance = 1e-14 if dtype == "float64" else 1e-6
    assert np.abs(y - expected.detach().numpy()).max(initial=0) < tolerance
    assert np.array_equal(linear(x), y)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    expected.backward(torch.tensor(dy))
    gradients = linear.backward(tape, dy)
    assert np.abs(gradients.x - tensor.grad.numpy()).max(initial=0) < tolerance * 10
    for name, parameter in twin.named_parameters():
        assert np.abs(gradients.parameters[name] - parameter.grad.numpy()).max() < tolerance * 10


@pytest.mark.parametrize(("isa", "engine"), PACKED)
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("sizes", ((3, 1), (64, 64), (40, 128), (33, 100), (300, 129)))
def test_linear_gives_a_row_the_same_bits_in_any_batch(isa, engine, dtype, sizes):
    with config.using(isa=isa, engine=engine):
        linear = Linear(*sizes, dtype=dtype, seed=0)
    x = np.random.default_rng(0).standard_normal((2000, sizes[0])).astype(dtype)
    y = linear(x)
    for rows in (1, 2, 3, 5, 6, 7, 13, 999):
        assert linear(x[-rows:]).tobytes() == y[-rows:].tobytes()
    assert linear(x[5]).tobytes() == y[5].tobytes()
    assert linear.forward(x)[0].tobytes() == y.tobytes()
    bad = x.copy()
    bad[7] = np.nan
    assert np.delete(linear(bad), 7, axis=0).tobytes() == np.delete(y, 7, axis=0).tobytes()


@pytest.mark.parametrize(("isa", "engine"), IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("sizes", ((1, 1, 1), (7, 3, 17), (1100, 33, 1000), (300, 127, 33), (20000, 5, 40)))
def test_linear_backward_agrees_with_numpy_in_float64(isa, engine, dtype, sizes):
    rows, inputs, outputs = sizes
    with config.using(isa=isa, engine=engine):
        linear = Linear(inputs, outputs, dtype=dtype, seed=0)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((rows, inputs)).astype(dtype), rng.standard_normal((rows, outputs)).astype(dtype)
    gradients = linear.backward(linear.forward(x)[1], dy)
    wide = x.astype("float64"), dy.astype("float64"), linear.parameters["weight"].astype("float64")
    expected = wide[1] @ wide[2], wide[1].T @ wide[0], wide[1].sum(axis=0)
    got = gradients.x, gradients.parameters["weight"], gradients.parameters["bias"]
    tolerance = (8 + np.sqrt(max(sizes))) * np.finfo(dtype).eps  # rounding errors grow with the root of the size
    for ours, reference in zip(got, expected, strict=True):
        assert ours.dtype == dtype
        assert np.abs(ours - reference).max() < tolerance * np.abs(reference).max()


def test_linear_refuses_a_tape_of_other_weights():
    linear = Linear(3, 2, seed=0)
    y, tape = linear.forward(np.ones((4, 3)))
    linear.load_state_dict(Linear(3, 2, seed=1).state_dict())
    with pytest.raises(RuntimeError, match="tape: the parameters have changed"):
        linear.backward(tape, y)


def test_embedding_agrees_with_pytorch():
    torch = pytest.importorskip("torch")
    embedding = Embedding(11, 4, dtype="float64", seed=0)
    twin = torch.nn.Embedding.from_pretrained(torch.tensor(embedding.state_dict()["weight"]), freeze=False)
    tokens = np.random.default_rng(0).integers(0, 11, (6, 5))
    y, tape = embedding.forward(tokens)
    expected = twin(torch.tensor(tokens))
    assert np.array_equal(y, expected.detach().numpy())
    dy = np.random.default_rng(1).standard_normal(y.shape)
    expected.backward(torch.tensor(dy))
    gradients = embedding.backward(tape, dy)
    assert gradients.x is None
    assert np.abs(gradients.parameters["weight"] - twin.weight.grad.numpy()).max() < 1e-13


def test_embedding_of_empty_and_scalar_tokens():
    embedding = Embedding(3, 2, seed=0)
    assert embedding(7 % 3).shape == (2,)
    y, tape = embedding.forward(np.empty((0, 4), int))
    assert y.shape == (0, 4, 2)
    assert not embedding.backward(tape, y).parameters["weight"].any()


def test_dropout_zeroes_a_fraction_and_scales_the_rest():
    x = np.ones((200, 200), np.float32)
    layer = Dropout(0.3)
    y, tape = layer.forward(x, rng=0)
    assert y.dtype == np.float32
    assert abs((y == 0).mean() - 0.3) < 0.01
    assert set(np.unique(y)) == {0, np.float32(1 / 0.7)}
    assert np.array_equal(layer.backward(tape, x).x, y)
    assert layer(x) is x
    assert np.array_equal(layer.forward(x, rng=0)[0], y)
    assert not Dropout(1.0).forward(x)[0].any()
    assert np.array_equal(Dropout(0.0).forward(x)[0], x)


@pytest.mark.parametrize("layer", (Linear(3, 2, seed=0), Embedding(3, 2, seed=0)), ids=("Linear", "Embedding"))
def test_a_tape_copies_its_input_and_is_refused_after_a_change_of_parameters(layer):
    x = np.array([[0, 1, 2]])
    y, tape = layer.forward(x)
    expected = layer.backward(tape, y).parameters["weight"]
    x[:] = 0
    assert np.array_equal(layer.backward(tape, y).parameters["weight"], expected)
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="parameters have changed"):
        layer.backward(tape, y)


ACTIVATIONS = {
    ("sigmoid",): lambda F, x: F.sigmoid(x),
    ("Tanh",): lambda F, x: F.tanh(x),
    ("relu",): lambda F, x: F.relu(x),
    ("affine", 2.0, 0.5): lambda F, x: 2 * x + 0.5,
    ("leakyrelu",): lambda F, x: F.leaky_relu(x, 0.01),
    ("leakyrelu", 0.3): lambda F, x: F.leaky_relu(x, 0.3),
    ("thresholdedrelu", 0.5): lambda F, x: F.threshold(x, 0.5, 0),
    ("scaledtanh", 1.5, 0.5): lambda F, x: 1.5 * F.tanh(0.5 * x),
    ("hardsigmoid", 1 / 6): lambda F, x: (x / 6 + 0.5).clamp(0, 1),
    ("elu", 0.7): lambda F, x: F.elu(x, 0.7),
    ("softsign",): lambda F, x: F.softsign(x),
    ("softplus",): lambda F, x: F.softplus(x),
    ("selu",): lambda F, x: F.selu(x),
    ("silu",): lambda F, x: F.silu(x),
    ("gelu",): lambda F, x: F.gelu(x),
    ("exp",): lambda F, x: x.exp(),
    ("softmax",): lambda F, x: F.softmax(x, -1),
    ("logsoftmax",): lambda F, x: F.log_softmax(x, -1),
}


@pytest.mark.parametrize("arguments", ACTIVATIONS, ids=lambda arguments: arguments[0])
def test_activation_agrees_with_pytorch(arguments):
    torch = pytest.importorskip("torch")
    layer = Activation(*arguments)
    x = np.random.default_rng(0).standard_normal((4, 5)) * 3
    tensor = torch.tensor(x, requires_grad=True)
    expected = ACTIVATIONS[arguments](torch.nn.functional, tensor)
    y, tape = layer.forward(x)
    assert np.abs(y - expected.detach().numpy()).max() < 1e-14
    dy = np.random.default_rng(1).standard_normal(y.shape)
    expected.backward(torch.tensor(dy))
    assert np.abs(layer.backward(tape, dy).x - tensor.grad.numpy()).max() < 1e-12
    narrow, tape = layer.forward(x.astype(np.float32))
    assert narrow.dtype == layer.backward(tape, dy).x.dtype == np.float32
    assert np.abs(narrow - y).max() < 1e-6 * np.abs(y).max()
    assert Activation(**layer.config).config == layer.config


def test_activation_copies_its_input_and_accepts_extreme_values():
    x = np.array([-1e4, -1.0, 0.0, 1.0, 1e4])
    for name in ("sigmoid", "tanh", "elu", "selu", "softplus", "softmax", "logsoftmax"):
        layer = Activation(name)
        y, tape = layer.forward(x)
        assert np.isfinite(y).all()
        assert np.isfinite(layer.backward(tape, np.ones(5)).x).all()
    given = x.copy()
    y, tape = Activation("affine").forward(given)
    expected = Activation("affine").backward(tape, x).x
    given[:] = 0
    assert np.array_equal(Activation("affine").backward(tape, x).x, expected)
    assert Activation("relu")([1, -1]).dtype == np.float32


def test_masking_masks_steps_whose_features_all_match():
    x = np.array([[[0.1, 2], [0.1, 0.1]], [[3, np.nan], [0.1, 0.1]]])
    layer = Masking(0.1)  # compared as float32
    assert layer.valid(x).tolist() == [[True, False], [True, False]]
    y, tape = layer.forward(x)
    assert y.dtype == np.float32
    assert not y[:, 1].any()
    assert np.array_equal(y[:, 0], x[:, 0].astype(np.float32), equal_nan=True)
    gradient = layer.backward(tape, np.ones((2, 2, 2))).x
    assert gradient.tolist() == [[[1, 1], [0, 0]]] * 2
    assert Embedding(3, 2, mask_zero=True).valid([[0, 1], [2, 0]]).tolist() == [[False, True], [True, False]]


def read_out(y, mask, layer):
    """Apply a Readout step by step, as Keras does, to y (T, H) of one row and direction, in the order of time."""
    order = range(len(y))[::-1] if layer.go_backwards else range(len(y))
    outputs, last = [], np.zeros(y.shape[1])
    for step in order:
        last = y[step] if mask[step] else np.zeros(y.shape[1]) if layer.zero_output_for_mask else last
        outputs.append(last)
    return np.array(outputs) if layer.return_sequences else last


FLAGS = tuple(itertools.product((False, True), repeat=3))


@pytest.mark.parametrize(("return_sequences", "zero_output_for_mask", "batch_first"), FLAGS)
@pytest.mark.parametrize("T", (0, 1, 5))
def test_readout_of_one_direction(return_sequences, zero_output_for_mask, batch_first, T):
    rng = np.random.default_rng(T)
    mask = rng.random((6, T)) < 0.5
    y = rng.standard_normal((6, T, 3)) * mask[..., None]
    for go_backwards in (False, True):
        layer = Readout(
            go_backwards=go_backwards,
            return_sequences=return_sequences,
            zero_output_for_mask=zero_output_for_mask,
            batch_first=batch_first,
        )
        expected = np.array([read_out(*row, layer) for row in zip(y, mask, strict=True)]).reshape(
            (6, T, 3) if return_sequences else (6, 3)
        )
        if batch_first:
            assert np.array_equal(layer(y, mask=mask), expected)
        else:
            expected = expected.swapaxes(0, 1) if return_sequences else expected
            assert np.array_equal(layer(y.swapaxes(0, 1), mask=mask.T), expected)
        assert np.array_equal(layer(y[2], mask=mask[2]), read_out(y[2], mask[2], layer).reshape(layer(y[2]).shape))


def test_readout_treats_lengths_as_a_mask():
    y = np.random.default_rng(0).standard_normal((5, 3, 4))
    lengths = np.array([5, 2, 0])
    mask = np.arange(5)[:, None] < lengths
    for options in ({}, {"bidirectional": True}, {"return_sequences": True}, {"go_backwards": True}):
        layer = Readout(**options)
        assert np.array_equal(layer(y, lengths=lengths), layer(y, mask=mask))
    assert np.array_equal(Readout()(y, lengths=lengths), [y[4, 0], y[1, 1], np.zeros(4)])
    assert np.array_equal(Readout()(y[:, 0], lengths=3), y[2, 0])
    assert np.array_equal(Readout()(y), y[-1])


@pytest.mark.parametrize("return_sequences", (False, True))
@pytest.mark.parametrize("merge_mode", ("concat", "sum", "mul", "ave", None))
def test_readout_merges_directions(merge_mode, return_sequences):
    rng = np.random.default_rng(0)
    mask = rng.random((5, 3)) < 0.6
    y = rng.standard_normal((5, 3, 4)) * mask[..., None]
    options = {"return_sequences": return_sequences, "zero_output_for_mask": return_sequences}
    a = Readout(**options)(y[..., :2], mask=mask)
    b = Readout(go_backwards=True, **options)(y[..., 2:], mask=mask)
    b = b[::-1] if return_sequences else b
    expected = {"concat": np.concatenate([a, b], -1), "sum": a + b, "mul": a * b, "ave": (a + b) / 2, None: (a, b)}
    out = Readout(bidirectional=True, merge_mode=merge_mode, **options)(y, mask=mask)
    assert np.array_equal(out, expected[merge_mode])


def cases_of_readout():
    for go_backwards, return_sequences, batch_first in FLAGS:
        yield {"go_backwards": go_backwards, "return_sequences": return_sequences, "batch_first": batch_first}
    for merge_mode, return_sequences in itertools.product(("concat", "sum", "mul", "ave", None), (False, True)):
        yield {"bidirectional": True, "merge_mode": merge_mode, "return_sequences": return_sequences}


@pytest.mark.parametrize("options", list(cases_of_readout()), ids=str)
def test_readout_gradients(options):
    rng = np.random.default_rng(0)
    layer, mask = Readout(**options), rng.random((4, 3)) < 0.6
    y = rng.standard_normal((4, 3, 2))
    out, tape = layer.forward(y, mask=mask)
    outs = out if isinstance(out, tuple) else (out,)
    dys = [rng.standard_normal(part.shape) for part in outs]

    def loss(y):
        out = layer(y, mask=mask)
        return sum((part * dy).sum() for part, dy in zip(out if isinstance(out, tuple) else (out,), dys, strict=True))

    gradient = layer.backward(tape, dys if isinstance(out, tuple) else dys[0]).x
    expected = np.zeros_like(y)
    for index in np.ndindex(y.shape):
        step = np.zeros_like(y)
        step[index] = 1e-6
        expected[index] = (loss(y + step) - loss(y - step)) / 2e-6
    assert np.abs(gradient - expected).max() < 1e-8


def masked_model(**options):
    return Sequential(
        Embedding(6, 3, mask_zero=True, dtype="float64", seed=0),
        LSTM(3, 4, bidirectional=True, dtype="float64", seed=1, **options),
        Readout(bidirectional=True, merge_mode="mul", return_sequences=True, **options),
        LSTM(4, 5, reverse=True, dtype="float64", seed=2, **options),
        Readout(go_backwards=True, **options),
        Linear(5, 2, dtype="float64", seed=3),
        Activation("softmax"),
    )


def test_a_mask_is_passed_through_a_model():
    model = masked_model()
    tokens = np.array([[1, 0, 2, 3, 0], [0, 4, 5, 0, 1]]).T
    out, states = model(tokens)
    for row, expected in zip(tokens.T, out, strict=True):  # masked steps have no effect
        assert np.abs(model(row[row > 0])[0] - expected).max() < 1e-12
        assert np.abs(model(row)[0] - expected).max() < 1e-12
    assert np.abs(masked_model(batch_first=True)(tokens.T)[0] - out).max() < 1e-12
    first = model.layers[1](model.layers[0](tokens), mask=tokens != 0)[1]
    assert np.array_equal(states[0], first)
    given = Sequential(Embedding(6, 3, dtype="float64", seed=0), *model.layers[1:])
    assert np.array_equal(given(tokens, mask=tokens != 0)[0], out)


def test_gradients_of_a_masked_model():
    model = masked_model()
    tokens = np.array([[1, 0, 2, 3, 0], [0, 4, 5, 0, 1]]).T
    out, _, tape = model.forward(tokens)
    assert np.array_equal(out, model(tokens)[0])
    dy = np.random.default_rng(0).standard_normal(out.shape)
    gradients = model.backward(tape, dy).parameters
    saved = model.state_dict()
    assert not gradients["0.weight"][0].any()
    for name, index in (("0.weight", (4, 1)), ("1.weight_hh_l0_reverse", (3, 2)), ("3.weight_ih_l0", (7, 1))):
        losses = []
        for step in (1e-6, -1e-6):
            changed = {key: array.copy() for key, array in saved.items()}
            changed[name][index] += step
            model.load_state_dict(changed)
            losses.append((model(tokens)[0] * dy).sum())
        assert abs((losses[0] - losses[1]) / 2e-6 - gradients[name][index]) < 1e-8


def test_a_masked_model_is_saved_and_cannot_step(tmp_path):
    model = masked_model()
    tokens = np.array([[1, 0, 2], [0, 4, 5]]).T
    save(model, tmp_path / "model.npz")
    again = load(tmp_path / "model.npz")
    assert again.config == model.config
    assert np.array_equal(again(tokens)[0], model(tokens)[0])
    with pytest.raises(ValueError, match="stepper: expected an LSTM that runs forwards.*layers 0 to 0 can"):
        model.stepper()


def model_of(**options):
    return Sequential(
        Embedding(6, 3, seed=0),
        LSTM(3, 4, 2, seed=1, **options),
        Dropout(0.5),
        LSTM(4, 5, seed=2, **options),
        Linear(5, 6, seed=3),
    )


def test_sequential_equals_its_layers_applied_in_order():
    model = model_of()
    tokens = np.random.default_rng(0).integers(0, 6, (7, 3))
    lengths = [7, 2, 0]
    rng = np.random.default_rng(1)
    states = [tuple(rng.standard_normal((n, 3, h)) for _ in range(2)) for n, h in ((2, 4), (1, 5))]
    out, finals = model(tokens, states, lengths=lengths)
    x = model.layers[0](tokens)
    x, first = model.layers[1](x, states[0], lengths=lengths)
    x, second = model.layers[3](x, states[1], lengths=lengths)
    assert np.array_equal(out, model.layers[4](x))
    for got, expected in zip(finals, (first, second), strict=True):
        assert np.array_equal(got, expected)
    trained, _, _ = model.forward(tokens, states, lengths=lengths, rng=0)
    assert not np.array_equal(trained, out)
    assert np.array_equal(trained, model.forward(tokens, states, lengths=lengths, rng=0)[0])


def test_sequential_carries_states():
    model = model_of()
    tokens = np.random.default_rng(0).integers(0, 6, (9, 2))
    whole, _ = model(tokens)
    first, states = model(tokens[:4])
    second, _ = model(tokens[4:], states)
    assert np.abs(np.concatenate([first, second]) - whole).max() < 1e-6


def test_sequential_names_parameters_by_index():
    model = model_of()
    names = list(model.parameters)
    assert names[0] == "0.weight"
    assert "1.weight_hh_l1" in names
    assert names[-2:] == ["4.weight", "4.bias"]
    saved = model.state_dict()
    saved["4.bias"][:] = 5
    model.load_state_dict(saved)
    assert (model.layers[4].parameters["bias"] == 5).all()
    with pytest.raises(KeyError, match="unknown: 5.bias"):
        model.load_state_dict({**saved, "5.bias": np.zeros(3)})
    assert model.batch_first is False
    assert model_of(batch_first=True).batch_first is True
    assert "Embedding" in repr(model)


def test_sequential_ending_in_an_lstm_has_gradients_from_final_states():
    model = Sequential(Embedding(6, 3, dtype="float64", seed=0), LSTM(3, 4, dtype="float64", seed=1))
    _, [(h_n, _)], tape = model.forward(np.zeros((5, 2), int))
    gradients = model.backward(tape, dstates=[(np.ones_like(h_n), None)])
    assert gradients.parameters["0.weight"][0].any()
    assert gradients.state[0][0].shape == h_n.shape


@pytest.mark.parametrize(
    ("make", "error", "message"),
    (
        (lambda: Linear(0, 3), ValueError, "in_features"),
        (lambda: Linear(3, 2**31), ValueError, "in_features, out_features: expected up to 2147483647, got 3 and"),
        (lambda: Linear(3, 3, dtype="int8"), ValueError, "dtype"),
        (lambda: Embedding(3, 2.5), TypeError, "embedding_dim"),
        (lambda: Dropout(-0.1), ValueError, "p: expected a number"),
        (lambda: Sequential(), ValueError, "at least one"),
        (lambda: Sequential(Linear(2, 2), "Linear"), TypeError, "got 'Linear' at 1"),
        (lambda: Sequential(Sequential(Dropout())), TypeError, "at 0"),
        (lambda: Sequential(Linear(2, 2), LSTM(2, 2, dtype="float64")), ValueError, "one dtype, got float32, float64"),
        (lambda: Sequential(LSTM(2, 2), LSTM(2, 2, batch_first=True)), ValueError, "batch_first"),
        (lambda: Activation("mish"), ValueError, "name: expected one of sigmoid, .*got 'mish'"),
        (lambda: Activation(3), ValueError, "name: expected one of"),
        (lambda: Activation("tanh", 1.0), ValueError, "alpha: expected None, because tanh has none, got 1.0"),
        (lambda: Activation("elu", 1.0, 2.0), ValueError, "beta: expected None, because elu has none, got 2.0"),
        (lambda: Activation("elu", "1"), TypeError, "alpha: expected a number"),
        (lambda: Masking("0"), TypeError, "mask_value: expected a number"),
        (lambda: Masking()(np.zeros(3)), ValueError, "x: expected shape"),
        (lambda: Embedding(3, 2, mask_zero=1), TypeError, "mask_zero: expected True or False"),
        (lambda: Readout(merge_mode="max"), ValueError, "merge_mode: expected 'concat', .*got 'max'"),
        (lambda: Readout(bidirectional=True, go_backwards=True), ValueError, "go_backwards: expected False"),
        (lambda: Readout(bidirectional=True)(np.zeros((2, 3, 5))), ValueError, "y: expected floats"),
        (lambda: Readout()(np.zeros((2, 3), int)), ValueError, "y: expected floats"),
        (lambda: Readout()(np.zeros((2, 3, 4)), mask=np.ones((3, 2), bool)), ValueError, "mask: expected shape"),
        (lambda: Readout()(np.zeros((2, 3, 4)), mask=np.ones((2, 3))), TypeError, "mask: expected bools"),
        (lambda: Readout()(np.zeros((2, 3, 4)), lengths=[3, 0, 0]), ValueError, "lengths: expected 0 to T = 2, got 3"),
        (
            lambda: Readout()(np.zeros((2, 1, 4)), lengths=[1], mask=np.ones((2, 1), bool)),
            ValueError,
            "mask: expected None together with lengths",
        ),
        (
            lambda: Readout().backward(Readout().forward(np.zeros((2, 3, 4)))[1], np.zeros(3)),
            ValueError,
            "dy: expected",
        ),
        (lambda: Sequential(LSTM(2, 2), Readout(batch_first=True)), ValueError, "LSTM and Readout with batch_first"),
        (lambda: Sequential(LSTM(2, 2), Readout(), LSTM(2, 2)), ValueError, "a sequence as input of LSTM at 2"),
        (
            lambda: Sequential(Readout(bidirectional=True, merge_mode=None, return_sequences=True), Linear(2, 2)),
            ValueError,
            "a Readout of two arrays to come last, got it at 0",
        ),
        (
            lambda: masked_model()(np.ones((2, 1), int), lengths=[2]),
            ValueError,
            "lengths, mask: expected None, because the Embedding at 0 makes the mask",
        ),
        (lambda: Linear(3, 2)(np.zeros((4, 2))), ValueError, "x: expected shape .*in_features = 3, got \\(4, 2\\)"),
        (lambda: Linear(3, 2)(1.0), ValueError, "x: expected shape"),
        (lambda: Linear(3, 2)(np.zeros((4, 3), complex)), TypeError, "x: expected real numbers"),
        (lambda: Embedding(3, 2)([0, 3]), ValueError, "tokens: expected 0 to num_embeddings - 1 = 2, got 3"),
        (lambda: Embedding(3, 2)([-1]), ValueError, "got -1"),
        (lambda: Embedding(3, 2)([0.0]), TypeError, "tokens: expected integers"),
        (lambda: Dropout().forward(np.zeros(3, int)), TypeError, "x: expected an array of floats"),
        (lambda: model_of()(np.zeros((2, 2), int), [None]), ValueError, "states: expected a list of 2"),
        (lambda: model_of().backward(None), TypeError, "tape: expected a tape of Sequential.forward"),
        (
            lambda: model_of().backward(model_of().forward(np.zeros((2, 2), int))[2]),
            ValueError,
            "dy: expected an array",
        ),
    ),
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
