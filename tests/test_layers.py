"""Linear, Embedding, Dropout and Sequential."""

import numpy as np
import pytest
from common import PACKED, implementation

from lstm_cy import LSTM, Dropout, Embedding, Linear, Sequential


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
def test_linear_gives_a_row_the_same_bits_in_any_company(isa, engine, dtype, sizes):
    with implementation(isa, engine):
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


def test_embedding_of_nothing_and_of_one():
    embedding = Embedding(3, 2, seed=0)
    assert embedding(7 % 3).shape == (2,)
    y, tape = embedding.forward(np.empty((0, 4), int))
    assert y.shape == (0, 4, 2)
    assert not embedding.backward(tape, y).parameters["weight"].any()


def test_dropout_drops_a_share_and_scales():
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
def test_a_tape_knows_its_age_and_keeps_its_input(layer):
    x = np.array([[0, 1, 2]])
    y, tape = layer.forward(x)
    expected = layer.backward(tape, y).parameters["weight"]
    x[:] = 0
    assert np.array_equal(layer.backward(tape, y).parameters["weight"], expected)
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="parameters have changed"):
        layer.backward(tape, y)


def model_of(**options):
    return Sequential(
        Embedding(6, 3, seed=0),
        LSTM(3, 4, 2, seed=1, **options),
        Dropout(0.5),
        LSTM(4, 5, seed=2, **options),
        Linear(5, 6, seed=3),
    )


def test_sequential_is_its_layers_in_a_row():
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


def test_sequential_parameters_by_place():
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


def test_sequential_ending_in_an_lstm_learns_from_final_states():
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
        (lambda: Linear(3, 2)(np.zeros((4, 2))), ValueError, "x: expected shape .*in_features = 3, got \\(4, 2\\)"),
        (lambda: Linear(3, 2)(1.0), ValueError, "x: expected shape"),
        (lambda: Linear(3, 2)(np.zeros((4, 3), complex)), TypeError, "x: expected real numbers"),
        (lambda: Embedding(3, 2)([0, 3]), ValueError, "tokens: expected 0 to num_embeddings - 1 = 2, got 3"),
        (lambda: Embedding(3, 2)([-1]), ValueError, "got -1"),
        (lambda: Embedding(3, 2)([0.0]), TypeError, "tokens: expected integers"),
        (lambda: Dropout().forward(np.zeros(3, int)), TypeError, "x: expected an array of floats"),
        (lambda: model_of()(np.zeros((2, 2), int), [None]), ValueError, "states: expected a list of 2"),
        (lambda: model_of().backward(None), TypeError, "tape: expected what Sequential.forward returned"),
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
