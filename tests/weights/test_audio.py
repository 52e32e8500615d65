"""Models of amplifiers in the files of Neural Amp Modeler, RTNeural, AIDA-X and GuitarML, against plain NumPy."""

import json

import numpy as np
import pytest

import lstm_cy
from lstm_cy import LSTM, Activation, Dropout, Linear, Residual, Sequential, load, save
from lstm_cy.cli import main
from lstm_cy.weights.inspect import describe

RNG = np.random.default_rng(3)
TOLERANCE = 2e-6


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_layer(x, matrix, bias, h, c):
    """Return an LSTM layer's output for x (T, I); the rows of the matrix [W R] are gates in the order i, f, g, o."""
    outputs = []
    for x_t in x:
        i, f, g, o = np.split(matrix @ np.concatenate([x_t, h]) + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


def draw(*shape):
    return (0.5 * RNG.standard_normal(shape)).astype(np.float32).astype(float)


def written(path, document):
    path.write_text(json.dumps(document))
    return path


# Neural Amp Modeler


def nam_document(I, H, L):
    """Return a .nam file's content, and its cells and head."""
    cells = [(draw(4 * H, inputs + H), draw(4 * H), draw(H), draw(H)) for inputs in [I] + [H] * (L - 1)]
    head = draw(H), draw(1)
    weights = np.concatenate([part.ravel() for cell in cells for part in cell] + [*head])
    document = {
        "version": "0.5.4",
        "metadata": {"loudness": -18.5, "name": "clean"},
        "architecture": "LSTM",
        "config": {"input_size": I, "hidden_size": H, "num_layers": L},
        "weights": weights.tolist(),
        "sample_rate": 48000,
    }
    return document, cells, head


@pytest.mark.parametrize(("I", "H", "L"), [(1, 3, 1), (1, 17, 2), (3, 33, 3)])
def test_nam_files_are_read_and_written(tmp_path, I, H, L):
    document, cells, (weight, bias) = nam_document(I, H, L)
    model = load(written(tmp_path / "amp.nam", document))
    x = draw(101, I)
    y = x
    for cell in cells:
        y = lstm_layer(y, *cell)
    expected = (y @ weight + bias)[:, None]
    assert np.abs(model(x)[0] - expected).max() < TOLERANCE
    stepper = model.stepper()
    steps = [stepper.step(x_t) for x_t in x.astype(np.float32)]
    assert np.array_equal(steps, model(x)[0])
    assert model.metadata == {"loudness": -18.5, "name": "clean", "sample_rate": 48000}
    save(model, tmp_path / "again.nam")
    assert json.loads((tmp_path / "again.nam").read_text()) == document


def test_a_model_without_an_initial_state_is_written_with_zeros(tmp_path):
    model = Sequential(LSTM(1, 3, bias=False, seed=0), Dropout(0.1), Linear(3, 1, bias=False, seed=1))
    save(model, tmp_path / "amp.nam", {"sample_rate": 44100})
    read = load(tmp_path / "amp.nam")
    x = draw(20, 1)
    assert np.abs(read(x)[0] - model(x)[0]).max() < TOLERANCE
    assert read.layers[0].learn_initial_state and read.metadata == {"sample_rate": 44100}


# RTNeural, AIDA-X


def keras_lstm(I, H):
    return [draw(I, 4 * H), draw(H, 4 * H), draw(4 * H)]


def aida_document(H=12, I=1, **options):
    lstm, dense = keras_lstm(I, H), [draw(H, 1), draw(1)]
    layers = [("lstm", "", H, lstm), ("dense", "", 1, dense)]
    document = {"in_shape": [None, None, I], "in_skip": 1, **options, "layers": described(layers)}
    return document, lstm, dense


def described(layers):
    return [
        {"type": kind, "activation": activation, "shape": [None, None, size], "weights": [w.tolist() for w in weights]}
        for kind, activation, size, weights in layers
    ]


def plain_lstm(x, kernel, recurrent, bias):
    H = len(recurrent)
    return lstm_layer(x, np.vstack([kernel, recurrent]).T, bias, np.zeros(H), np.zeros(H))


@pytest.mark.parametrize("options", [{}, {"in_skip": 0}, {"in_gain": 3.5, "out_gain": -6}, {"I": 2, "out_gain": -95}])
def test_aida_x_files_are_read_and_written(tmp_path, options):
    document, lstm, (kernel, bias) = aida_document(**options)
    x = draw(80, options.get("I", 1))
    gained = x * np.array([10 ** (options.get("in_gain", 0) / 20), 1.0][: x.shape[1]])
    y = plain_lstm(gained, *lstm) @ kernel + bias
    if options.get("in_skip", 1):
        y += gained[:, :1]
    y *= 10 ** (options.get("out_gain", 0) / 20) if options.get("out_gain", 0) > -90 else 0
    document |= {"metadata": {"samplerate": "48000", "name": "x"}}
    if x.shape[1] == 1:
        document |= {"input_batch": x[:, 0].tolist(), "output_batch": y[:, 0].tolist()}
    model = load(written(tmp_path / "amp.aidax", document))
    assert np.abs(model(x)[0] - y).max() < TOLERANCE
    stepper = model.stepper()
    assert np.array_equal([stepper.step(x_t) for x_t in x.astype(np.float32)], model(x)[0])
    assert model.metadata == {"name": "x", "sample_rate": "48000"}
    if options.get("out_gain", 0) > -90:  # a gain of zero is written as a layer
        save(model, tmp_path / "again.json")
        again = json.loads((tmp_path / "again.json").read_text())
        for name in ("in_gain", "out_gain"):
            assert again.pop(name, 0) == pytest.approx(document.get(name, 0), rel=1e-6)
        assert again == {key: document[key] for key in again}
    assert main(["convert", str(tmp_path / "amp.aidax"), str(tmp_path / "amp.npz"), "--check"]) == 0


def test_every_layer_of_rtneural_that_is_read(tmp_path):
    first, second = keras_lstm(4, 5), keras_lstm(5, 3)
    dense = [draw(2, 4), draw(4)]
    layers = [
        ("time-distributed-dense", "tanh", 4, dense),
        ("lstm", "tanh", 5, first),
        ("lstm", "", 3, second[:2]),
        ("activation", "relu", 3, []),
        ("dense", "softmax", 3, [draw(3, 3)]),
        ("dense", "elu", 2, [kernel := draw(3, 2), bias := draw(2)]),
    ]
    document = {"in_shape": [None, None, 2], "layers": described(layers)}
    x = draw(40, 2)
    y = np.tanh(x @ dense[0] + dense[1])
    y = np.maximum(plain_lstm(plain_lstm(y, *first), *second[:2], np.zeros(12)), 0)
    e = np.exp(y @ layers[4][3][0])
    z = e / e.sum(-1, keepdims=True) @ kernel + bias
    expected = np.where(z > 0, z, np.expm1(z))
    path = written(tmp_path / "net.json", document)
    model = load(path)
    assert np.abs(model(x)[0] - expected).max() < TOLERANCE
    save(model, tmp_path / "again.json")
    assert np.array_equal(load(tmp_path / "again.json")(x)[0], model(x)[0])
    text = "\n".join(describe(path))
    assert "a model of an amplifier" in text and "LSTM(input_size=4, hidden_size=5, batch_first=True)" in text


def test_files_of_guitarml_are_read(tmp_path):
    H = 7
    arrays = {
        "rec.weight_ih_l0": draw(4 * H, 2),
        "rec.weight_hh_l0": draw(4 * H, H),
        "rec.bias_ih_l0": draw(4 * H),
        "rec.bias_hh_l0": draw(4 * H),
        "lin.weight": draw(1, H),
        "lin.bias": draw(1),
    }
    data = {"model": "SimpleRNN", "input_size": 2, "skip": 1, "output_size": 1, "unit_type": "LSTM", "num_layers": 1}
    document = {
        "model_data": {**data, "hidden_size": H, "bias_fl": True},
        "state_dict": {name: array.tolist() for name, array in arrays.items()},
    }
    model = load(written(tmp_path / "pedal.json", document))
    x = draw(30, 2)
    ih, hh, bias, more, weight, offset = arrays.values()
    y = lstm_layer(x, np.hstack([ih, hh]), bias + more, np.zeros(H), np.zeros(H)) @ weight.T + offset + x[:, :1]
    assert np.abs(model(x)[0] - y).max() < TOLERANCE


# What cannot be


def changed(document, *keys, value):
    document = json.loads(json.dumps(document))
    inside = document
    for key in keys[:-1]:
        inside = inside[key]
    inside[keys[-1]] = value
    return document


NAM = nam_document(1, 3, 1)[0]
AIDA = aida_document(3)[0]
REFUSED = {
    "nam of another architecture": (
        changed(NAM, "architecture", value="WaveNet"),
        "architecture WaveNet",
    ),
    "nam with too few weights": (changed(NAM, "weights", value=NAM["weights"][1:]), r"weights: expected .* \(70,\)"),
    "nam with many layers": (changed(NAM, "config", "num_layers", value=2**30), "weights: expected"),
    "nam with text": (changed(NAM, "weights", 5, value="1"), "weights: expected numbers, got '1'"),
    "nam with a flag": (changed(NAM, "weights", 5, value=True), "weights: expected numbers, got True"),
    "nam with a huge number": (changed(NAM, "weights", 5, value=10**400), "too large|int too large|out of range"),
    "nam without sizes": (changed(NAM, "config", value={}), "input_size: expected an integer, got none"),
    "nam with a fraction": (
        changed(NAM, "config", "hidden_size", value=3.0),
        "hidden_size: .* got 3.0",
    ),
    "layers": (changed(AIDA, "layers", 0, "type", value="gru"), r"not supported: gru \(1\)"),
    "activation": (changed(AIDA, "layers", 0, "activation", value="relu"), "lstm with activation relu"),
    "shape": (
        changed(AIDA, "layers", 0, "weights", 1, value=[[1.0] * 12] * 2),
        r"\(3, 12\), got a list of shape \(2, 12\)",
    ),
    "ragged": (changed(AIDA, "layers", 0, "weights", 1, 2, value=[1.0] * 11), "rows of other lengths"),
    "skip": (changed(AIDA, "in_skip", value=2), "in_skip: expected 0 or 1, got 2"),
    "gain": (changed(AIDA, "in_gain", value="loud"), "in_gain: expected a number of decibels"),
    "a tensor of another name": (
        {
            "model_data": dict.fromkeys(("input_size", "hidden_size", "output_size", "num_layers"), 1)
            | {"unit_type": "LSTM"},
            "state_dict": {"rec.weight_ih_l0": [[1.0]] * 4, "rec.weight_hh": [[1.0]] * 4, "lin.weight": [[1.0]]},
        },
        "missing: weight_hh_l0",
    ),
    "another object": ({"a": 1}, "no model"),
    "a list": ([1, 2], "expected a JSON object"),
}


@pytest.mark.parametrize(("document", "message"), REFUSED.values(), ids=REFUSED)
def test_files_that_are_no_such_model_are_refused(tmp_path, document, message):
    for suffix in (".nam", ".json"):
        path = written(tmp_path / f"amp{suffix}", document)
        with pytest.raises(ValueError, match=message) as error:
            load(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("suffix", "model", "message"),
    [
        (".nam", Sequential(LSTM(1, 3), Linear(3, 2)), "one output"),
        (".nam", Sequential(Residual(LSTM(1, 3), Linear(3, 1))), "Residual"),
        (".nam", Sequential(LSTM(1, 3, peepholes=True), Linear(3, 1)), "peepholes=True"),
        (".json", Sequential(LSTM(1, 3, bidirectional=True), Linear(6, 1)), "bidirectional=True"),
        (".json", Sequential(LSTM(1, 3, activations=("sigmoid", "relu", "tanh"))), "activations"),
        (".json", Sequential(LSTM(1, 3), Linear(3, 1), Activation("gelu")), "gelu"),
        (".json", Sequential(Residual(LSTM(2, 3), Linear(3, 2))), "one output"),
        (".json", Sequential(LSTM(1, 3), Linear(3, 1)).quantize("int8"), "cannot express QuantizedLSTM"),
    ],
)
def test_models_that_a_file_cannot_express_are_refused(tmp_path, suffix, model, message):
    with pytest.raises(ValueError, match=message):
        save(model, tmp_path / f"amp{suffix}")
    assert not (tmp_path / f"amp{suffix}").exists()


def test_weights_that_are_not_finite_and_float64(tmp_path):
    path = written(tmp_path / "amp.nam", changed(NAM, "weights", 0, value=float("nan")))
    with pytest.warns(UserWarning, match="NaN or infinity in 0.weight_ih_l0"):
        model = load(path)
    with pytest.raises(ValueError, match="NaN or infinity in 0.weight_ih_l0"):
        load(path, strict=True)
    with pytest.raises(ValueError, match="expected finite weights"):
        save(model, tmp_path / "again.nam")
    with pytest.warns(UserWarning, match="the model is float64"):
        save(Sequential(LSTM(1, 3, dtype="float64"), Linear(3, 1, dtype="float64")), tmp_path / "double.json")
    assert lstm_cy.load(tmp_path / "double.json").dtype == np.float32
    with pytest.raises(TypeError, match="values that JSON can hold"):
        save(Sequential(LSTM(1, 3), Linear(3, 1)), tmp_path / "again.nam", {"a": {1}})
