"""Conversion of Keras's files and live models, compared with Keras on its PyTorch backend; refused files."""

import io
import json
import os
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lstm_cy import load, save
from lstm_cy.weights.keras import from_keras, read_model

h5py = pytest.importorskip("h5py")

# Keras's variables do not support NumPy 2's `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

TOLERANCE = 5e-6
GATES = ("sigmoid", "hard_sigmoid", "softsign", "linear")
CELLS = ("tanh", "relu", "elu", "leaky_relu", "softplus", "sigmoid")
HEADS = ("linear", "softmax", "sigmoid", "tanh", "relu", "elu", "selu", "gelu", "silu", "softplus", "softsign")
HEADS += ("hard_sigmoid", "leaky_relu", "exponential", "log_softmax")


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("torch")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras has another backend")
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)  # Keras warns at each .h5 file that the format is legacy
    return keras


def randomized(model, seed=0):
    """Set random weights, because Keras's biases are zeros and ones; return the model."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        layer.set_weights([rng.normal(0, 0.4, array.shape).astype(array.dtype) for array in layer.get_weights()])
    return model


def expected(model, x, mask=None):
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not support masking")  # the output is masked all the same
        out = model(x) if mask is None else model(x, mask=torch.as_tensor(mask))
    return [part.detach().numpy() for part in (out if isinstance(out, list | tuple) else [out])]


def saved(model, path):
    model.save(path)
    return path


def assert_agrees(model, ours, x, mask=None):
    out, _ = ours(x) if mask is None else ours(x, mask=mask)
    outs = out if isinstance(out, tuple) else (out,)
    for got, right in zip(outs, expected(model, x, mask), strict=True):
        assert got.shape == right.shape
        assert np.abs(got - right).max(initial=0) <= TOLERANCE * max(1, np.abs(right).max(initial=0))


def converted(model, folder):
    """Yield the converted model: from the live model, from both kinds of file, and saved and loaded again."""
    yield from_keras(model)
    for suffix in (".keras", ".h5"):
        yield read_model(saved(model, folder / f"model{suffix}"), strict=True)
    ours = read_model(folder / "model.keras")
    save(ours, folder / "model.npz")
    again = load(folder / "model.npz")
    assert again.config == ours.config
    yield again


# Random models

RECURRENT = st.fixed_dictionaries(
    {
        "units": st.integers(1, 4),
        "activation": st.sampled_from(("tanh", *CELLS)),
        "recurrent_activation": st.sampled_from(("sigmoid", *GATES)),
        "use_bias": st.booleans(),
        "go_backwards": st.booleans(),
        "dropout": st.sampled_from((0.0, 0.3)),
        "zero_output_for_mask": st.booleans(),
    }
)
BETWEEN = st.lists(
    st.sampled_from(("Dropout", "SpatialDropout1D", "Dense", "TimeDistributed", "Activation", "LeakyReLU")), max_size=2
)
MODELS = st.fixed_dictionaries(
    {
        "start": st.sampled_from(("tokens", "mask_zero", "features", "Masking")),
        "blocks": st.lists(
            st.tuples(RECURRENT, st.sampled_from((None, None, "concat", "sum", "mul", "ave")), BETWEEN),
            min_size=1,
            max_size=3,
        ),
        "return_sequences": st.booleans(),
        "head": st.none() | st.sampled_from(HEADS),
        "functional": st.booleans(),
        "nested": st.booleans(),
        "T": st.integers(1, 6),
        "seed": st.integers(0, 99),
    }
)


def layers_of(keras, case):
    """Return the layers of a random case."""
    L = keras.layers
    make = {
        "Dropout": lambda: L.Dropout(0.5),
        "SpatialDropout1D": lambda: L.SpatialDropout1D(0.5),
        "Dense": lambda: L.Dense(3, activation="tanh"),
        "TimeDistributed": lambda: L.TimeDistributed(L.Dense(2, activation="relu", use_bias=False)),
        "Activation": lambda: L.Activation("softsign"),
        "LeakyReLU": lambda: L.LeakyReLU(0.2),
    }
    layers = []
    if case["start"] in ("tokens", "mask_zero"):
        layers.append(L.Embedding(5, 3, mask_zero=case["start"] == "mask_zero"))
    elif case["start"] == "Masking":
        layers.append(L.Masking(0.5))
    for index, (options, merge, between) in enumerate(case["blocks"]):
        last = index == len(case["blocks"]) - 1
        options = {**options, "return_sequences": case["return_sequences"] or not last}
        if merge is None:
            layers.append(L.LSTM(**options))
        else:
            layers.append(L.Bidirectional(L.LSTM(**{**options, "go_backwards": False}), merge_mode=merge))
        layers += [make[kind]() for kind in between if options["return_sequences"] or kind[-1] not in "Dd"]
    return layers + ([L.Dense(3, activation=case["head"])] if case["head"] else [])


def built(keras, case):
    """Return the model of a random case, and an input for it."""
    layers = layers_of(keras, case)
    rng = np.random.default_rng(case["seed"])
    T = case["T"]
    tokens = case["start"] in ("tokens", "mask_zero")
    if tokens:
        x = rng.integers(0, 3, (4, T))
    else:
        x = rng.standard_normal((4, T, 2)).astype(np.float32)
        x[rng.random((4, T)) < 0.4] = 0.5
    start = keras.Input((T,) if tokens else (T, 2))
    if case["nested"] and not case["return_sequences"]:
        layers = [keras.Sequential(layers)]  # with its mask
    if case["functional"]:
        end = start
        for layer in layers:
            end = layer(end)
        model = keras.Model(start, end)
    else:
        model = keras.Sequential([start, *layers])
    return randomized(model, case["seed"]), x


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=MODELS)
def test_random_models(keras, tmp_path, case):
    model, x = built(keras, case)
    for ours in converted(model, tmp_path):
        assert_agrees(model, ours, x)


# Plain and special layers


def sequential(keras, shape, *layers):
    return randomized(keras.Sequential([keras.Input(shape), *layers]))


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def test_plain_layers_stay_plain(keras):
    L = keras.layers
    model = sequential(
        keras,
        (None,),
        L.Embedding(7, 3),
        L.LSTM(4, return_sequences=True),
        L.Bidirectional(L.LSTM(2, return_sequences=True)),
        L.TimeDistributed(L.Dense(5)),
        L.GaussianNoise(0.1),
        L.GaussianDropout(0.1),
        L.ActivityRegularization(0.1),
        L.Dense(2, activation="softmax"),
    )
    ours = from_keras(model)
    assert kinds(ours) == ["Embedding", "LSTM", "Readout", "LSTM", "Linear", "Linear", "Activation"]
    lstm = ours.layers[1]
    assert (lstm.batch_first, lstm.bidirectional, lstm.reverse) == (True, False, False)
    kernel, recurrent, bias = model.layers[1].get_weights()
    assert np.array_equal(lstm.parameters["weight_ih_l0"], kernel.T)
    assert np.array_equal(lstm.parameters["weight_hh_l0"], recurrent.T)
    assert np.array_equal(lstm.parameters["bias_ih_l0"], bias)
    assert not lstm.parameters["bias_hh_l0"].any()
    assert_agrees(model, ours, np.arange(6).reshape(2, 3))


def test_masked_steps_repeat_or_are_zero_as_in_keras(keras, tmp_path):
    """Masks with masked steps inside, on the left, on the right, everywhere and nowhere."""
    L = keras.layers
    x = np.array([[1, 0, 2, 3], [0, 1, 2, 3], [1, 2, 0, 0], [1, 2, 3, 1], [0, 0, 0, 0]])
    for layer in (
        L.LSTM(3, return_sequences=True),
        L.LSTM(3, return_sequences=True, zero_output_for_mask=True),
        L.LSTM(3, return_sequences=True, go_backwards=True),
        L.LSTM(3),
        L.LSTM(3, zero_output_for_mask=True),
        L.LSTM(3, go_backwards=True),
        L.Bidirectional(L.LSTM(3, return_sequences=True)),
        L.Bidirectional(L.LSTM(3)),
    ):
        model = sequential(keras, (4,), L.Embedding(4, 2, mask_zero=True), layer)
        for ours in converted(model, tmp_path):
            assert_agrees(model, ours, x)


MASKED = st.tuples(
    st.sampled_from(("LSTM", "concat", "sum", "mul", "ave")),
    st.booleans(),  # go_backwards
    st.booleans(),  # zero_output_for_mask
    st.sampled_from((None, "Dense", "TimeDistributed", "Dropout", "Activation")),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MASKED, min_size=1, max_size=3), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2**15 - 1))
@example([("LSTM", False, False, None)], True, False, False, 0b101_01011_00000_11)
@example([("LSTM", False, False, "Dense"), ("sum", False, False, None)], True, True, True, 0b101_01011_00000_11)
def test_a_mask_from_the_caller(keras, tmp_path, blocks, return_sequences, functional, dense, bits):
    L = keras.layers
    layers = [L.Dense(2)] if dense else []
    for index, (kind, backwards, zero, between) in enumerate(blocks):
        last = index == len(blocks) - 1
        options = {"return_sequences": return_sequences or not last, "zero_output_for_mask": zero}
        if kind == "LSTM":
            layers.append(L.LSTM(3, go_backwards=backwards, **options))
        else:
            layers.append(L.Bidirectional(L.LSTM(3, **options), merge_mode=kind))
        between = between if options["return_sequences"] else None
        layers += {
            "Dense": lambda: [L.Dense(2)],
            "TimeDistributed": lambda: [L.TimeDistributed(L.Dense(2))],
            "Dropout": lambda: [L.Dropout(0.5)],
            "Activation": lambda: [L.Activation("relu")],
            None: list,
        }[between]()
    if functional:
        start = value = keras.Input((5, 3))
        for layer in layers:
            value = layer(value)
        model = randomized(keras.Model(start, value))
    else:
        model = sequential(keras, (5, 3), *layers)
    mask = np.array([bits >> step & 1 for step in range(15)], bool).reshape(3, 5)
    x = np.random.default_rng(0).standard_normal((3, 5, 3)).astype(np.float32)
    models = converted(model, tmp_path) if len(layers) == 1 else [from_keras(model)]
    for ours in models:
        assert_agrees(model, ours, x, mask)
        assert_agrees(model, ours, x)


def test_a_model_with_a_readout_of_every_step_can_stream(keras):
    L = keras.layers
    ours = from_keras(sequential(keras, (5, 3), L.LSTM(4, return_sequences=True), L.Dense(2)))
    assert kinds(ours) == ["LSTM", "Readout", "Linear"]
    x = np.random.default_rng(0).standard_normal((1, 5, 3)).astype(np.float32)
    stepper = ours.stepper()
    steps = [stepper.step(x[:, step]).copy() for step in range(5)]
    assert np.allclose(np.stack(steps, 1), ours(x)[0], atol=1e-6)


@pytest.mark.parametrize("return_sequences", [False, True])
def test_merge_mode_none_gives_both_directions(keras, tmp_path, return_sequences):
    L = keras.layers
    start = keras.Input((4, 2))
    layer = L.Bidirectional(L.LSTM(3, return_sequences=return_sequences), merge_mode=None)
    model = randomized(keras.Model(start, layer(start)))
    x = np.random.default_rng(0).standard_normal((2, 4, 2)).astype(np.float32)
    for ours in converted(model, tmp_path):
        assert_agrees(model, ours, x)
    alone = from_keras(keras.Model(start, model.output[0]))
    np.testing.assert_array_equal(alone(x), ours(x)[0][0])


def test_a_separate_backward_layer(keras, tmp_path):
    L = keras.layers
    backward = L.LSTM(3, activation="relu", recurrent_activation="hard_sigmoid", use_bias=False, go_backwards=True)
    model = sequential(keras, (4, 2), L.Bidirectional(L.LSTM(3, name="one"), backward_layer=backward))
    for ours in converted(model, tmp_path):
        assert_agrees(model, ours, np.random.default_rng(0).standard_normal((2, 4, 2)).astype(np.float32))


def test_activation_layers(keras, tmp_path):
    L = keras.layers
    layers = [L.LeakyReLU(0.3), L.ReLU(negative_slope=0.1), L.ELU(0.7), L.Softmax(), L.Activation("gelu")]
    model = sequential(keras, (4, 2), L.LSTM(3, activation=L.ELU(0.5)), *layers)
    for ours in converted(model, tmp_path):
        assert_agrees(model, ours, np.random.default_rng(0).standard_normal((2, 4, 2)).astype(np.float32))


def test_float64_and_mixed_precision(keras, tmp_path):
    L = keras.layers
    x = np.random.default_rng(0).standard_normal((2, 4, 2))
    model = keras.Sequential([keras.Input((4, 2), dtype="float64"), L.LSTM(3, dtype="float64")])
    for ours in converted(model, tmp_path):
        assert ours.dtype == np.float64
        assert np.abs(ours(x)[0] - expected(model, x)[0]).max() < 1e-13
    assert from_keras(keras.Sequential([keras.Input((4, 2)), L.LSTM(3, dtype="mixed_bfloat16")])).dtype == np.float32


def test_a_trained_model_with_its_optimizer(keras, tmp_path):
    L = keras.layers
    model = sequential(keras, (4, 2), L.LSTM(3, dropout=0.2, recurrent_dropout=0.2), L.Dropout(0.5), L.Dense(1))
    model.compile("adam", "mse")
    x = np.random.default_rng(0).standard_normal((4, 4, 2)).astype(np.float32)
    model.fit(x, np.ones((4, 1)), verbose=0)
    for ours in converted(model, tmp_path):
        assert_agrees(model, ours, x)


# Unsupported models


def test_one_error_names_all_unsupported_parts(keras, tmp_path):
    L = keras.layers

    def square(x):
        return x * x

    @keras.saving.register_keras_serializable("tests")
    class Mine(L.LSTM):
        pass

    model = keras.Sequential(
        [
            keras.Input((4, 2)),
            L.Lambda(square, name="one"),
            L.GRU(3, return_sequences=True, name="two"),
            Mine(3, return_sequences=True, name="three"),
            L.LSTM(3, return_sequences=True, activation="mish", name="four"),
            L.LSTM(3, return_sequences=True, activation="gelu", name="five"),
            L.Bidirectional(L.GRU(3, return_sequences=True), name="six"),
            L.TimeDistributed(L.GroupNormalization(1), name="seven"),
            L.Dense(3, activation=square, name="eight"),
            L.UnitNormalization(name="nine"),
            L.LSTM(3, return_sequences=True, dtype="float16", name="ten"),
        ]
    )
    patterns = [
        "one: layer Lambda",
        "two: layer GRU",
        "three: .*tests>Mine",
        "four: activation 'mish'",
        "five: activation 'gelu' in an LSTM",
        "six: Bidirectional of GRU",
        "seven: layer GroupNormalization",
        "eight: activation 'square'",
        "nine: layer UnitNormalization",
        "ten: dtype 'float16'",
    ]
    for read in (
        lambda: from_keras(model),
        lambda: read_model(saved(model, tmp_path / "m.keras")),
        lambda: read_model(saved(model, tmp_path / "m.h5")),
    ):
        with pytest.raises(ValueError, match="not supported: " + ".*; ".join(patterns)):
            read()


def test_calls_that_are_not_supported_are_refused(keras):
    L = keras.layers
    start = keras.Input((4, 3))
    for model, message in (
        (keras.Model(start, L.Dropout(0.5, name="drop")(start, training=True)), "'drop': is called with training"),
        (keras.Model(start, L.GRU(3)(start**2)), "layer GRU"),
    ):
        with pytest.raises(ValueError, match=f"not supported: .*{message}"):
            from_keras(model)


def test_only_keras_models_are_accepted(keras):
    class Own(keras.Model):
        pass

    for other in (Own(), keras.layers.LSTM(3), None):
        with pytest.raises(TypeError, match="model: expected a Sequential or functional model of Keras, got"):
            from_keras(other)
    with pytest.raises(ValueError, match="model: expected one that has its weights"):
        from_keras(keras.Sequential([keras.layers.LSTM(3)]))


# Damaged and hostile files; these are made without Keras


def lstm_config(name="lstm", **options):
    plain = {"activation": "tanh", "recurrent_activation": "sigmoid", "return_sequences": True}
    return {"class_name": "LSTM", "config": {"name": name, "trainable": True, "units": 2, **plain, **options}}


def bidirectional_config(**options):
    return {"class_name": "Bidirectional", "config": {"name": "bidirectional", "layer": lstm_config(), **options}}


def dense_config(name="dense", **options):
    return {"class_name": "Dense", "config": {"name": name, "units": 3, "activation": "linear", **options}}


def model_config(*layers, **options):
    return {"class_name": "Sequential", "config": {"name": "sequential", "layers": list(layers), **options}}


def lstm_arrays(inputs=3, units=2, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (inputs, 4 * units), "recurrent_kernel": (units, 4 * units), "bias": (4 * units,)}
    return {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def dense_arrays(inputs=2, units=3):
    rng = np.random.default_rng(1)
    return {
        "kernel": rng.standard_normal((inputs, units)).astype("f4"),
        "bias": rng.standard_normal(units).astype("f4"),
    }


def write_h5(path, config, weights, version="2.4.0"):
    """A file as Keras 2 writes it: `weights` is {layer: {"lstm/lstm_cell/kernel:0": array}}."""
    with h5py.File(path, "w") as file:
        file.attrs["backend"] = b"tensorflow"
        if version is not None:
            file.attrs["keras_version"] = version.encode()
        file.attrs["model_config"] = (config if isinstance(config, str) else json.dumps(config)).encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = np.array([name.encode() for name in weights] or [b""])
        for layer, arrays in weights.items():
            inner = group.create_group(layer)
            inner.attrs["weight_names"] = np.array([name.encode() for name in arrays] or [b""])
            for name, array in arrays.items():
                inner[name] = array
    return path


def write_keras(path, config=None, weights=None, *, version="3.15.0", compression=zipfile.ZIP_STORED, extra=()):
    """A file as Keras 3 writes it: `weights` is {"layers/lstm/cell/vars/0": array}."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in (weights or {}).items():
            file[name] = array
    config = config if isinstance(config, str) else json.dumps(config)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", buffer.getvalue())
        for name in extra:
            archive.writestr(name, "")
    return path


def named(arrays, scope):
    return {f"{scope}/{name}:0": array for name, array in arrays.items()}


def numbered(arrays, path):
    return {f"{path}/vars/{number}": array for number, array in enumerate(arrays.values())}


def good_h5(path, **options):
    weights = {"lstm": named(lstm_arrays(), "lstm/lstm_cell"), "dense": named(dense_arrays(), "dense")}
    return write_h5(path, model_config(lstm_config(), dense_config()), weights, **options)


def good_keras(path, **options):
    weights = numbered(lstm_arrays(), "layers/lstm/cell") | numbered(dense_arrays(), "layers/dense")
    return write_keras(path, model_config(lstm_config(), dense_config()), weights, **options)


def assert_refused(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_model(path)
    assert str(caught.value).startswith(f"{path}: ")


def by_hand(x, arrays, gate):
    """Compute Keras's LSTM, with gates in the order i, f, c, o."""
    h = c = np.zeros((len(x), len(arrays["recurrent_kernel"])))
    outputs = []
    for step in x.swapaxes(0, 1):
        i, f, g, o = np.split(step @ arrays["kernel"] + h @ arrays["recurrent_kernel"] + arrays["bias"], 4, axis=-1)
        c = gate(f) * c + gate(i) * np.tanh(g)
        h = gate(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1)


@pytest.mark.parametrize(("version", "slope"), [("2.2.4-tf", 0.2), ("2.15.0", 0.2), ("3.0.5", 1 / 6)])
def test_hard_sigmoid_depends_on_the_version(tmp_path, version, slope):
    config = model_config(lstm_config(recurrent_activation="hard_sigmoid", implementation=1, time_major=False))
    arrays = lstm_arrays()
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32) * 3
    path = write_h5(tmp_path / "m.h5", config, {"lstm": named(arrays, "lstm/lstm_cell")}, version)
    y = by_hand(x, arrays, lambda z: np.clip(slope * z + 0.5, 0, 1))
    assert np.abs(read_model(path)(x)[0] - y).max() < 1e-6
    for unknown in (None, "4.0"):
        path = write_h5(tmp_path / "m.h5", config, {"lstm": named(arrays, "lstm/lstm_cell")}, unknown)
        assert_refused(path, "lstm: activation 'hard_sigmoid' of an unknown version of Keras")


def test_a_file_of_keras_2(tmp_path):
    embeddings = np.random.default_rng(2).standard_normal((5, 3)).astype(np.float32)
    both = [lstm_arrays(seed=seed) for seed in (3, 4)]
    layers = [
        {
            "class_name": "Embedding",
            "config": {
                "name": "embedding",
                "batch_input_shape": [None, None],
                "dtype": "float32",
                "input_dim": 5,
                "output_dim": 3,
                "embeddings_initializer": {"class_name": "RandomUniform", "config": {"minval": -0.05}},
                "mask_zero": False,
                "input_length": None,
            },
        },
        {
            "class_name": "Bidirectional",
            "config": {"name": "bidirectional", "layer": lstm_config(implementation=2), "merge_mode": "sum"},
        },
        {"class_name": "TimeDistributed", "config": {"name": "time_distributed", "layer": dense_config()}},
    ]
    weights = {
        "embedding": {"embedding/embeddings:0": embeddings},
        "bidirectional": named(both[0], "bidirectional/forward_lstm/lstm_cell_1")
        | named(both[1], "bidirectional/backward_lstm/lstm_cell_2"),
        "time_distributed": named(dense_arrays(), "time_distributed"),
    }
    tokens = np.array([[1, 2, 3], [0, 4, 0]])

    def gate(z):
        return 1 / (1 + np.exp(-z))

    x = embeddings[tokens]
    y = by_hand(x, both[0], gate) + by_hand(x[:, ::-1], both[1], gate)[:, ::-1]
    y = y @ dense_arrays()["kernel"] + dense_arrays()["bias"]
    path = write_h5(tmp_path / "m.h5", model_config(*layers), weights)
    assert np.abs(read_model(path)(tokens)[0] - y).max() < 1e-6

    functional = [
        {"class_name": "InputLayer", "name": "in", "config": {"name": "in", "batch_input_shape": [None, None]}}
    ]
    for layer in layers:
        before = functional[-1]["name"]
        functional.append({**layer, "name": layer["config"]["name"], "inbound_nodes": [[[before, 0, 0, {}]]]})
    functional[0]["inbound_nodes"] = []
    config = {
        "class_name": "Functional",
        "config": {
            "name": "model",
            "layers": functional,
            "input_layers": [["in", 0, 0]],
            "output_layers": [["time_distributed", 0, 0]],
        },
    }
    assert np.abs(read_model(write_h5(path, config, weights))(tokens)[0] - y).max() < 1e-6


@pytest.mark.parametrize("write", [good_h5, good_keras])
def test_crafted_files_are_read(tmp_path, write):
    model = read_model(write(tmp_path / "model"))
    y = by_hand(np.ones((1, 2, 3)), lstm_arrays(), lambda z: 1 / (1 + np.exp(-z)))
    y = y @ dense_arrays()["kernel"] + dense_arrays()["bias"]
    assert np.abs(model(np.ones((1, 2, 3)))[0] - y).max() < 1e-6


@pytest.mark.parametrize("write", [good_h5, good_keras])
def test_truncated_files_are_refused(tmp_path, write):
    whole = write(tmp_path / "whole").read_bytes()
    path = tmp_path / "model"
    for size in (*range(0, len(whole), 256), len(whole) - 1):
        path.write_bytes(whole[:size])
        assert_refused(path, "truncated|damaged|not an? ")


def test_unused_and_misshaped_weights_are_refused(tmp_path):
    path = tmp_path / "model"
    lstm, dense = numbered(lstm_arrays(), "layers/lstm/cell"), numbered(dense_arrays(), "layers/dense")
    config = model_config(lstm_config(), dense_config())

    def attempt(message, weights, config=config):
        assert_refused(write_keras(path, config, weights), message)

    attempt("weights that no layer uses: layers/gru/vars/0", lstm | dense | {"layers/gru/vars/0": np.ones(3)})
    attempt(
        "dense: expected kernel, bias, found no layers/dense/vars/1",
        lstm | {"layers/dense/vars/0": dense_arrays()["kernel"]},
    )
    attempt(r"dense: kernel: expected shape \(2, 3\), got \(4, 3\)", lstm | numbered(dense_arrays(4), "layers/dense"))
    attempt(
        r"lstm: kernel: expected shape \(None, 4611686018427387904\), got \(3, 8\)",
        lstm | dense,
        model_config(lstm_config(units=2**60), dense_config()),
    )
    attempt(
        "dense: kernel: expected floats, got int32", lstm | {name: array.astype("i4") for name, array in dense.items()}
    )
    with h5py.File(path, "w") as file:
        file["layers/lstm/vars/0"] = np.ones(3, "f4")
    assert_refused(path, "holds no architecture")
    weights = {"lstm": named(lstm_arrays(), "lstm/lstm_cell"), "dense": named(dense_arrays(), "dense")}
    for changed, message in (
        ({"lstm": weights["lstm"]}, "dense: expected one kernel, got none"),
        (weights | {"more": named(dense_arrays(), "more")}, "weights that no layer uses: more: more/"),
        ({**weights, "dense": {**weights["dense"], "x/bias:0": np.ones(3, "f4")}}, "dense: expected one bias, got"),
    ):
        assert_refused(write_h5(path, config, changed), message)
    for place in ("other/lstm/kernel:0", "model_weights/kernel:0"):
        with h5py.File(write_h5(path, config, weights), "a") as file:
            file[place] = np.ones(3, "f4")
        assert_refused(path, f"weights that no layer uses: {place}")


def test_weights_in_another_order_are_refused(tmp_path):
    """Keras numbers layers by class; the stored names show whether that is the order of the model."""
    path = good_keras(tmp_path / "model")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO(members["model.weights.h5"])
    with h5py.File(buffer, "a") as file:
        file["layers/dense/vars"].attrs["name"] = "another"
    members["model.weights.h5"] = buffer.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert_refused(path, "layers/dense: expected the weights of dense, got those of another")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[" * 100_000, "nested deeper than 920"),
        ("{", "its configuration is not JSON"),
        ('"' + "a" * (3 << 20) + '"', "at most 1048576 are read"),
        ("[]", "the model: expected a layer's configuration"),
        ({"class_name": "LSTM", "config": {}}, "expected a Sequential or functional model, got LSTM"),
        (model_config(layers=3), "expected a list of layers"),
        (model_config(None), "expected a layer's configuration, got None"),
        (model_config({"class_name": "os.system", "config": {"name": "x"}}), "x: layer os.system"),
        (model_config({"class_name": "LSTM", "config": 3}), "expected the configuration of LSTM, got 3"),
        (model_config({**lstm_config(), "module": "os"}), "custom class 'LSTM' of 'os'"),
        (model_config({**lstm_config(), "registered_name": "mine>LSTM"}), "custom class 'mine>LSTM'"),
        (model_config(lstm_config(name=3)), "name: expected a text, got 3"),
        (model_config(lstm_config(units="2")), "lstm: units: expected an integer"),
        (model_config(lstm_config(units=-1)), "lstm: units: expected at least 1"),
        (model_config(lstm_config(use_bias=1)), "lstm: use_bias: expected True or False"),
        (model_config(lstm_config(time_major=True)), "lstm: time_major"),
        (model_config({"class_name": "LSTM", "config": {"name": "lstm", "units": 2}}), "lstm: no recurrent_activation"),
        (model_config({"class_name": "Dense", "config": {"name": "dense", "units": 2}}), "dense: no activation"),
        (model_config(lstm_config(future_option=1)), "lstm: future_option=1"),
        (model_config(lstm_config(activation="os.system")), "lstm: activation 'os.system'"),
        (model_config(lstm_config(activation={"class_name": "function", "config": "f"})), "lstm: activation 'f'"),
        (model_config(lstm_config(activation={"class_name": "LeakyReLU", "config": {}})), "negative_slope: expected"),
        (model_config(lstm_config(activation={"class_name": "ReLU", "config": {"threshold": 1.0}})), "a threshold"),
        (model_config(bidirectional_config(merge_mode="max")), "bidirectional: merge_mode 'max'"),
        (model_config(bidirectional_config(layer=lstm_config(go_backwards=True))), "first direction goes backwards"),
        (model_config(bidirectional_config(backward_layer=lstm_config())), "first direction goes backwards"),
        (
            model_config(bidirectional_config(backward_layer=lstm_config(units=3, go_backwards=True))),
            "bidirectional: Bidirectional of different directions",
        ),
        (
            model_config(bidirectional_config(backward_layer=lstm_config(recurrent_dropout=0.5, go_backwards=True))),
            "Bidirectional with one recurrent_dropout for each direction, 0.0 and 0.5",
        ),
        (model_config(lstm_config(dtype="float8")), "lstm: dtype 'float8'"),
        (model_config(dense_config(quantization_config={})), "dense: quantization_config="),
        (
            model_config(lstm_config(return_sequences=False), lstm_config("lstm_1")),
            "expected a sequence as input of LSTM",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) or len(value) > 60 else value,
)
def test_configurations_that_are_refused(tmp_path, config, message):
    weights = numbered(lstm_arrays(), "layers/lstm/cell") | numbered(lstm_arrays(2), "layers/lstm_1/cell")
    assert_refused(write_keras(tmp_path / "m.keras", config, weights), message)


def test_functional_graphs_that_are_refused(tmp_path):
    def layer(name, *before, kind="Dropout"):
        nodes = [[[one, 0, 0, {}] for one in before]] if before else []
        return {"class_name": kind, "name": name, "config": {"name": name, "rate": 0.5}, "inbound_nodes": nodes}

    start = {**layer("in", kind="InputLayer"), "config": {"name": "in"}}
    for layers, message in (
        ([start, layer("a", "b"), layer("b", "a")], "in a cycle, or not those of the model: a, b"),
        ([start, layer("b", "b")], "in a cycle, or not those of the model: b"),
        ([start, layer("b", "missing")], "'b': expected layers of the model as inputs, got missing"),
        ([start, start, layer("b", "in")], "layers with different names"),
        ([start, layer("c", "in")], "'output_layers': expected an output of a layer, got \\('b', 0, 0\\)"),
        ([layer("b", "b")], "input_layers: expected inputs, got 'in'"),
        ([start, {**layer("b"), "inbound_nodes": [[["in", 0, 1, {}]]]}], "'b': expected an output of a layer, got"),
        ([start, {**layer("b"), "inbound_nodes": [[["in", 9, 0, {}]]]}], "in a cycle, or not those of the model: b"),
        ([start, {**layer("b"), "inbound_nodes": [[[3, 0, 0, {}]]]}], "'b': expected tensors as input, got"),
        ([start, {**layer("b"), "inbound_nodes": 3}], "'b': expected a list of its calls, got 3"),
    ):
        config = {"layers": layers, "input_layers": [["in", 0, 0]], "output_layers": [["b", 0, 0]]}
        config = {"class_name": "Functional", "config": {"name": "model", **config}}
        assert_refused(write_h5(tmp_path / "m.h5", config, {}), message)


def test_the_largest_configuration(tmp_path):
    path, text = tmp_path / "m.keras", json.dumps(model_config(dense_config()))
    weights = numbered(dense_arrays(), "layers/dense")
    assert len(read_model(write_keras(path, text.ljust(1 << 20), weights)).layers) == 1
    message = "a configuration of 1048577 bytes; at most 1048576 are read"
    assert_refused(write_keras(path, text.ljust((1 << 20) + 1), weights), message)


def test_archives_that_are_refused(tmp_path):
    path = tmp_path / "m.keras"
    good_keras(path, compression=zipfile.ZIP_DEFLATED)
    assert_refused(path, "compressed; only uncompressed files are read")
    assert_refused(
        good_keras(path, extra=["../../etc/passwd"]), "expected the members metadata.json, .*got .*etc/passwd"
    )
    assert_refused(good_keras(path, extra=["assets/words"]), "expected the members metadata.json, .*got .*assets/words")
    assert_refused(
        good_keras(path, version="2.12.0"), "written by Keras '2.12.0'; .keras files of Keras 2.13 and later"
    )
    assert_refused(good_keras(path, version=None), "written by Keras None")
    with pytest.warns(UserWarning, match="Duplicate name"):
        good_keras(path, extra=["config.json"])
    assert_refused(path, "expected the members metadata.json, .*got metadata.json, .*, config.json$")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    assert_refused(path, "expected the members metadata.json, config.json, model.weights.h5, got config.json")


def test_a_zip_bomb_is_not_decompressed(tmp_path):
    path = tmp_path / "m.keras"
    write_keras(path, '"' + "a" * 50_000_000 + '"', {}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    try:
        assert_refused(path, "compressed; only uncompressed files are read")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_nan_is_a_warning_or_an_error(tmp_path):
    arrays = lstm_arrays()
    arrays["bias"][0] = np.nan
    path = write_h5(tmp_path / "m.h5", model_config(lstm_config()), {"lstm": named(arrays, "lstm/lstm_cell")})
    with pytest.warns(UserWarning, match="NaN or infinity in 0.bias_ih_l0"):
        read_model(path)
    with pytest.raises(ValueError, match="NaN or infinity in 0.bias_ih_l0"):
        read_model(path, strict=True)


def test_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_model(tmp_path / "m.keras")


def test_a_layer_used_twice_by_a_sequential_is_refused(keras):
    """Keras's own file of such a Sequential holds the layer once."""
    layer, start = keras.layers.LSTM(3, return_sequences=True), keras.Input((4, 3))
    inner = keras.Sequential([keras.Input((4, 3)), layer, layer])
    for model in (inner, keras.Sequential([start, inner])):
        with pytest.raises(ValueError, match="model: not supported: .*expected one use of it, got"):
            from_keras(model)
