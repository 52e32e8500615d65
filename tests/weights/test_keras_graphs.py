"""Keras's models of any layers, compared with Keras, and the layouts of its former versions, built by h5py."""

import itertools
import json
import logging
import pickle
import time
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

import lstm_cy
from lstm_cy import Graph, Sequential, from_keras, load, weights
from lstm_cy.weights.inputs import input_of
from lstm_cy.weights.inspect import describe
from lstm_cy.weights.keras import lstms, read
from lstm_cy.weights.sources import of_keras

h5py = pytest.importorskip("h5py")

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask:UserWarning"),
]

TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras has another backend")
    logging.getLogger("absl").setLevel(logging.ERROR)
    return keras


def outputs_of(model, inputs):
    """Return the outputs of one of our models as a list."""
    out = model(*inputs)
    out = out if isinstance(model, Graph) else out[0]
    return list(out) if isinstance(out, tuple) else [out]


def assert_agrees(model, folder, kind, seed=0):
    """Compare the live model and its files with Keras, which runs it on drawn weights and inputs."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.1, 0.6, array.shape).astype(array.dtype) for array in model.get_weights()])
    inputs = []
    for tensor in model.inputs:
        shape = [3, *(size or 7 for size in tensor.shape[1:])]
        tokens = (len(shape) == 2 and tensor.name != "c") or tensor.name == "text"
        x = rng.integers(0, 4, shape) if tokens else rng.standard_normal(shape).astype("f")
        if not tokens:
            x[:, -1] = 0.0  # what a Masking masks
        inputs.append(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model(inputs if len(inputs) > 1 else inputs[0])
    expected = [part.detach().numpy() for part in (out if isinstance(out, list | tuple) else [out])]
    paths = [folder / "model.keras", folder / "model.h5"]
    for path in paths:
        model.save(path)
    for ours in (from_keras(model), *map(load, paths)):
        assert isinstance(ours, kind)
        for got, right in zip(outputs_of(ours, inputs), expected, strict=True):
            assert got.shape == right.shape
            assert np.abs(got - right).max(initial=0) <= TOLERANCE * max(1, np.abs(right).max(initial=0))
    return ours


def chain(*names):
    """Return a maker of a Sequential from expressions of layers."""
    return lambda keras: keras.Sequential([eval(name, {"L": keras.layers, "keras": keras}) for name in names])


CHAINS = {
    "conv": chain(
        "keras.Input((9, 4))",
        "L.Conv1D(6, 3, strides=2, padding='same', activation='relu')",
        "L.BatchNormalization()",
        "L.MaxPooling1D(2, padding='same')",
        "L.LSTM(3)",
    ),
    "causal": chain(
        "keras.Input((9, 4))",
        "L.Conv1D(4, 3, padding='causal', dilation_rate=2, groups=2, use_bias=False)",
        "L.LayerNormalization(center=False)",
        "L.AveragePooling1D(3, strides=2)",
        "L.LSTM(3, return_sequences=True)",
        "L.Flatten()",
        "L.Dense(2)",
    ),
    "autoencoder": chain(
        "keras.Input((9, 4))",
        "L.Masking()",
        "L.LSTM(3)",
        "L.RepeatVector(5)",
        "L.LSTM(3, return_sequences=True)",
        "L.TimeDistributed(L.Dense(2))",
        "L.TimeDistributed(L.BatchNormalization(scale=False))",
    ),
    "masked mean": chain(
        "keras.Input((9,))",
        "L.Embedding(5, 4, mask_zero=True)",
        "L.LayerNormalization(axis=[2], scale=False)",
        "L.Bidirectional(L.LSTM(3, return_sequences=True))",
        "L.GlobalAveragePooling1D()",
    ),
    "maximum": chain("keras.Input((9, 4))", "L.BatchNormalization(axis=2)", "L.GlobalMaxPooling1D()", "L.Flatten()"),
}


@pytest.mark.parametrize("name", CHAINS)
def test_chains_become_a_sequential(keras, tmp_path, name):
    model = assert_agrees(CHAINS[name](keras), tmp_path, Sequential)
    assert all(layer.batch_first is not False for layer in model.layers)


GRAPHS = {
    "images": chain(
        "keras.Input((8, 6, 2))",
        "L.ZeroPadding2D(((1, 0), (2, 1)))",
        "L.Conv2D(4, (3, 2), strides=(2, 1), padding='same', activation='elu')",
        "L.MaxPooling2D((2, 1))",
        "L.DepthwiseConv2D(2, depth_multiplier=2)",
        "L.SeparableConv2D(3, 2, padding='same', dilation_rate=1)",
        "L.BatchNormalization(axis=1)",
        "L.AveragePooling2D(2, strides=1, padding='same')",
        "L.UpSampling2D((1, 2))",
        "L.Cropping2D(((0, 0), (1, 1)))",
        "L.Permute((2, 1, 3))",
        "L.Reshape((-1, 3))",
        "L.LSTM(3)",
    ),
    "first": chain(
        "keras.Input((4, 12))",
        "L.Conv1D(6, 3, strides=2, groups=2, data_format='channels_first', activation='tanh')",
        "L.MaxPooling1D(2, data_format='channels_first')",
        "L.GlobalAveragePooling1D(data_format='channels_first', keepdims=True)",
        "L.Flatten(data_format='channels_first')",
    ),
    "dropped mask": chain(
        "keras.Input((9,))",
        "L.Embedding(5, 4, mask_zero=True)",
        "L.Conv1D(4, 2)",
        "L.LSTM(3)",
    ),
    "unmasked maximum": chain(
        "keras.Input((9, 4))",
        "L.Masking()",
        "L.LSTM(3, return_sequences=True)",
        "L.GlobalMaxPooling1D()",
    ),
    "frames": chain(
        "keras.Input((5, 8, 2))",
        "L.TimeDistributed(L.Conv1D(3, 2))",
        "L.TimeDistributed(L.MaxPooling1D(2))",
        "L.TimeDistributed(L.Flatten())",
        "L.LSTM(3)",
    ),
    "padded": chain(
        "keras.Input((9, 3))",
        "L.ZeroPadding1D((1, 2))",
        "L.SeparableConv1D(4, 3, depth_multiplier=2)",
        "L.DepthwiseConv1D(2)",
        "L.Cropping1D(1)",
        "L.UpSampling1D(2)",
        "L.LayerNormalization(axis=[1, 2])",
        "L.LSTM(2)",
    ),
    "volume": chain(
        "keras.Input((4, 5, 6, 2))",
        "L.Conv3D(3, (1, 2, 3), padding='same')",
        "L.MaxPooling3D((2, 1, 2))",
        "L.GlobalAveragePooling3D()",
    ),
}


def branches(keras):
    """Several inputs and outputs, shared layers, every way of merging, masks of which Keras takes the union."""
    L = keras.layers
    a, b = keras.Input((7,), name="a"), keras.Input((7, 3), name="b")
    x, y = L.Embedding(5, 3, mask_zero=True)(a), L.Masking()(b)
    shared, dense = L.LSTM(3, return_sequences=True), L.Dense(3)
    p, q = shared(x), dense(shared(y))
    merged = [kind()([p, q]) for kind in (L.Add, L.Subtract, L.Average)]
    plain = [L.Conv1D(3, 1)(p), L.Conv1D(3, 1)(q)]
    merged += [kind()(plain) for kind in (L.Multiply, L.Maximum, L.Minimum)]
    wide = L.Concatenate()([*merged, dense(p)])
    long = L.Concatenate(axis=1)([p, q])
    half = L.Add()([p, L.Conv1D(3, 1)(q)])
    outputs = [L.LSTM(2)(wide), L.LSTM(2, return_sequences=True)(long), L.LSTM(2)(half), L.Dot((1, 1))([p, q])]
    return keras.Model([a, b], [*outputs, L.GlobalAveragePooling1D()(merged[0])])


def translation(keras):
    """An encoder whose states start the decoder, with both kinds of attention."""
    L = keras.layers
    a, b = keras.Input((7,), name="a"), keras.Input((5, 3), name="b")
    x = L.Embedding(5, 3, mask_zero=True)(a)
    y, h, c = L.LSTM(4, return_sequences=True, return_state=True)(x)
    z = L.LSTM(4, return_sequences=True)(b, initial_state=[h, c])
    two = L.Bidirectional(L.LSTM(4, return_state=True))(x)
    again = L.Bidirectional(L.LSTM(4, return_sequences=True))(b, initial_state=two[1:])
    found = [L.Attention(use_scale=True)([z, y]), L.Attention()([y, z, z]), L.AdditiveAttention()([z, y])]
    found += [L.Attention(score_mode="concat")([z, y]), L.AdditiveAttention(use_scale=False)([z, y])]
    outputs = [L.Concatenate()([z, *found[:1], *found[2:]]), found[1], *two, again]
    return keras.Model([a, b], outputs)


def nested(keras):
    """Models inside models, used twice, with masks that enter and leave them; a mask of one's own; arithmetic."""
    L = keras.layers
    start = keras.Input((6, 3))
    inner = keras.Sequential([keras.Input((6, 3)), L.Masking(), L.LSTM(3, return_sequences=True)], name="inner")
    one, two = keras.Input((6, 3)), keras.Input((6, 3))
    joined = keras.Model([one, two], L.Add()([L.Dense(3)(one), L.LSTM(3, return_sequences=True)(two)]), name="joined")
    y = joined([inner(start), start])
    z = joined([y, inner(y)])
    mask = keras.ops.any(keras.ops.not_equal(start, 0.0), axis=-1)
    w = L.LSTM(3, return_sequences=True)(L.Conv1D(3, 1)(start), mask=mask)
    frames = L.TimeDistributed(L.Dense(2))(z * 0.5 + w)
    return keras.Model(start, [L.LSTM(2)(z), L.LSTM(2)(inner(start)), frames])


def unmasked(keras):
    """Layers of Keras 3 that leave masked elements out, with masks of some and of all inputs; softmax over steps."""
    L = keras.layers
    a, b, c = keras.Input((7,), name="a"), keras.Input((7, 3), name="b"), keras.Input((3,), name="c")
    x, y = L.Embedding(5, 3, mask_zero=True)(a), L.Masking()(b)
    z = L.LSTM(3, return_sequences=True)(y)
    kinds = (L.Multiply, L.Maximum, L.Minimum)
    merged = [kind()([x, z, y]) for kind in kinds] + [kind()([x, b]) for kind in kinds] + [L.Multiply()([x, c])]
    summed = [L.LSTM(2)(one) for one in merged]
    scores = L.Reshape((7,))(L.Dense(1)(z))
    weights = L.Softmax()(scores, mask=keras.ops.not_equal(a, 0))
    return keras.Model(
        [a, b, c], [L.Concatenate()(summed), L.Dot((1, 1))([weights, z]), L.Softmax(axis=1)(L.Conv1D(2, 1)(z))]
    )


def operations(keras):
    """Operations of keras.ops and of Python on tensors, and those that masks of Attention and Concatenate add."""
    L, ops = keras.layers, keras.ops
    text, x, y = keras.Input((7,), name="text", dtype="int32"), keras.Input((5, 3)), keras.Input((5, 3))
    words = L.Bidirectional(L.LSTM(3, return_sequences=True))(L.Embedding(5, 4, mask_zero=True)(text))
    parts = L.Reshape((-1, 6))(L.Conv1D(6, 2)(x))
    answer = L.LSTM(2)(L.Concatenate()([words, L.Attention()([words, parts])]))
    outputs = [
        ops.mean(x, axis=1), ops.sum(x, axis=(1, 2), keepdims=True), ops.squeeze(ops.expand_dims(x, 1), 1), x[:, -1],
        x[..., 1:3], ops.reshape(x, (-1, 15)), ops.matmul(x, ops.transpose(y, (0, 2, 1))), ops.tanh(-x), ops.relu(x),
        ops.softmax(x, axis=1), ops.exp(x), ops.cast(ops.greater(x, y), "float32"), ops.stack([x, y], axis=1),
        ops.where(x < 0, x, y), ops.sqrt(ops.abs(x)), ops.max(x, axis=1), x**2, ops.sigmoid(x), 2 / (1 + ops.square(x)),
    ]  # fmt: skip
    return keras.Model([text, x, y], [answer, *outputs])


def hierarchy(keras):
    """A model of the words of each sentence, inside another of sentences, and a chain inside a TimeDistributed."""
    L = keras.layers
    words = keras.Input((6,))
    x = L.Bidirectional(L.LSTM(3, return_sequences=True))(L.Embedding(5, 4, mask_zero=True)(words))
    sentence = keras.Model(words, L.Concatenate()([L.LSTM(3)(x), L.GlobalAveragePooling1D()(x)]), name="sentence")
    text = keras.Input((4, 6), name="text", dtype="int32")
    chain = keras.Sequential([keras.Input((9,)), L.Dense(5, activation="tanh"), L.Dense(2)])
    return keras.Model(text, L.LSTM(3)(L.TimeDistributed(chain)(L.TimeDistributed(sentence)(text))))


GRAPHS |= {"unmasked": unmasked, "hierarchy": hierarchy, "operations": operations}
GRAPHS |= {"branches": branches, "translation": translation, "nested": nested}


@pytest.mark.parametrize("name", GRAPHS)
def test_other_models_become_a_graph(keras, tmp_path, name):
    graph = assert_agrees(GRAPHS[name](keras), tmp_path, Graph)
    again = pickle.loads(pickle.dumps(graph))
    assert repr(again) == repr(graph)


def test_a_graph_names_inputs_and_outputs(keras):
    graph = from_keras(branches(keras))
    assert [value.name for value in graph.inputs] == ["a", "b"]
    assert [value.shape for value in graph.inputs] == [("B", 7), ("B", 7, 3)]
    assert [value.dtype.name for value in graph.inputs] == ["int64", "float32"]
    inputs = {"b": np.ones((2, 7, 3)), "a": np.ones((2, 7), int)}
    (first,) = graph.run(inputs, [graph.outputs[0].name])
    np.testing.assert_array_equal(first, graph.run(inputs)[0])
    with pytest.raises(ValueError, match=r"b: expected shape \('B', 7, 3\)"):
        graph(inputs["a"], np.ones((2, 6, 3)))
    with pytest.raises(ValueError, match="layer 'embedding.*tokens"):
        graph(inputs["a"] + 9, inputs["b"])


# Former layouts; made without Keras


def write_h5(path, config, groups, version, backend="tensorflow"):
    """Write a file as a version before 3 did: `groups` is {layer: {name: array}}; weights only if `config` is None."""
    with h5py.File(path, "w") as file:
        group = file if config is None else file.create_group("model_weights")
        for place in {file, group}:
            place.attrs["backend"], place.attrs["keras_version"] = backend.encode(), version.encode()
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
        group.attrs["layer_names"] = np.array([name.encode() for name in groups])
        for layer, arrays in groups.items():
            inner = group.create_group(layer)
            inner.attrs["weight_names"] = np.array([name.encode() for name in arrays] or [b""])
            for name, array in arrays.items():
                inner[name] = array
    return path


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.5, shape).astype("f") for name, shape in shapes.items()}


def lstm_shapes(inputs, units):
    return {"kernel": (inputs, 4 * units), "recurrent_kernel": (units, 4 * units), "bias": (4 * units,)}


def by_hand(x, arrays, gate=lambda z: np.clip(0.2 * z + 0.5, 0, 1)):
    """Compute every step of Keras's LSTM, with gates in the order i, f, c, o."""
    h = c = np.zeros((len(x), len(arrays["recurrent_kernel"])))
    steps = []
    for step in x.swapaxes(0, 1):
        i, f, g, o = np.split(step @ arrays["kernel"] + h @ arrays["recurrent_kernel"] + arrays["bias"], 4, axis=-1)
        c = gate(f) * c + gate(i) * np.tanh(g)
        h = gate(o) * np.tanh(c)
        steps.append(h)
    return np.stack(steps, axis=1)


def lstm_config(name="lstm_1", units=3, **options):
    config = {"name": name, "units": units, "activation": "tanh", "recurrent_activation": "hard_sigmoid"}
    return {"class_name": "LSTM", "config": config | options}


@pytest.mark.parametrize("fused", [False, True], ids=["gates", "gpu"])
def test_a_file_of_keras_1(tmp_path, fused):
    common = {"trainable": True, "init": "glorot_uniform", "W_regularizer": None, "b_constraint": None}
    config = [
        {
            "class_name": "Embedding",
            "config": {
                "name": "embedding_1",
                "input_dim": 6,
                "output_dim": 4,
                "dropout": 0.0,
                "mask_zero": False,
                "input_dtype": "int32",
                "batch_input_shape": [None, 9],
                "input_length": 9,
                **common,
            },
        },
        {
            "class_name": "Convolution1D",
            "config": {
                "name": "convolution1d_1",
                "nb_filter": 5,
                "filter_length": 3,
                "border_mode": "same",
                "subsample_length": 1,
                "activation": "relu",
                "bias": True,
                "input_dim": None,
                **common,
            },
        },
        {
            "class_name": "MaxPooling1D",
            "config": {"name": "pool", "pool_length": 2, "stride": 2, "border_mode": "valid", "trainable": True},
        },
        {
            "class_name": "LSTM",
            "config": {
                "name": "lstm_1",
                "output_dim": 3,
                "inner_init": "orthogonal",
                "forget_bias_init": "one",
                "activation": "tanh",
                "inner_activation": "hard_sigmoid",
                "return_sequences": False,
                "go_backwards": False,
                "stateful": False,
                "unroll": False,
                "consume_less": "gpu" if fused else "cpu",
                "dropout_W": 0.2,
                "dropout_U": 0.2,
                "input_dim": 5,
                "input_length": None,
                **common,
            },
        },
        {"class_name": "Dropout", "config": {"name": "dropout_1", "p": 0.5, "trainable": True}},
        {
            "class_name": "Dense",
            "config": {
                "name": "dense_1",
                "output_dim": 2,
                "activation": "linear",
                "bias": True,
                **common,
            },
        },
    ]
    conv, dense = drawn({"W": (3, 1, 4, 5), "b": (5,)}), drawn({"W": (3, 2), "b": (2,)}, 1)
    embedding, lstm = drawn({"W": (6, 4)}), drawn(lstm_shapes(5, 3), 2)
    names = dict(zip("WUb", lstm, strict=True))
    parts = {f"lstm_1_{end}": lstm[name] for end, name in names.items()}
    if not fused:  # in the order that Keras 1 has
        parts = {
            f"lstm_1_{end}_{gate}": np.split(lstm[name], 4, axis=-1)["ifco".index(gate)]
            for gate, (end, name) in itertools.product("icfo", names.items())
        }
    groups = {
        "embedding_1": {"embedding_1_W:0": embedding["W"]},
        "convolution1d_1": {f"convolution1d_1_{name}:0": array for name, array in conv.items()},
        "lstm_1": {f"{name}:0": array for name, array in parts.items()},
        "dense_1": {f"dense_1_{name}:0": array for name, array in dense.items()},
    }
    tokens = np.random.default_rng(3).integers(0, 6, (2, 9))
    x = np.pad(embedding["W"][tokens], ((0, 0), (1, 1), (0, 0)))
    for backend, kernel in (("tensorflow", conv["W"][:, 0]), ("theano", conv["W"][::-1, 0])):
        y = np.maximum(sum(x[:, k : k + 9] @ kernel[k] for k in range(3)) + conv["b"], 0)
        y = y[:, :8].reshape(2, 4, 2, 5).max(axis=2)
        y = by_hand(y, lstm)[:, -1] @ dense["W"] + dense["b"]
        spec = {"class_name": "Sequential", "config": config}
        path = write_h5(tmp_path / "m.h5", spec, groups, "1.2.2", backend)
        model = load(path)
        np.testing.assert_allclose(model(tokens)[0], y, rtol=0, atol=1e-5)
    assert model.layers[4].recurrent_dropout == 0.2
    config[3]["class_name"] = "GRU"
    write_h5(path, {"class_name": "Sequential", "config": config}, groups, "1.2.2")
    with pytest.raises(ValueError, match=r"lstm_1: layer GRU \(a model of Keras 1.2.2\)"):
        load(path)


def test_an_embedding_of_keras_2_0_has_the_dtype_of_its_tokens(tmp_path):
    config = {"name": "embedding_1", "input_dim": 6, "output_dim": 4, "dtype": "int32", "mask_zero": True}
    spec = {"class_name": "Sequential", "config": [{"class_name": "Embedding", "config": config}, lstm_config()]}
    lstm, table = drawn(lstm_shapes(4, 3)), drawn({"embeddings": (6, 4)})
    groups = {
        "embedding_1": {"embedding_1/embeddings:0": table["embeddings"]},
        "lstm_1": {f"lstm_1_1/{name}:0": array for name, array in lstm.items()},
    }
    model = load(write_h5(tmp_path / "m.h5", spec, groups, "2.0.2"))
    tokens = np.array([[1, 2, 3, 4, 5]])
    np.testing.assert_allclose(model(tokens)[0], by_hand(table["embeddings"][tokens], lstm)[:, -1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("version", "zeros"), [("2.3.1", False), ("2.2.4-tf", True), ("2.4.0", True)])
def test_a_bidirectional_of_the_first_keras_2_repeats_outputs_at_masked_steps(tmp_path, version, zeros):
    masking = {"class_name": "Masking", "config": {"name": "masking_1", "mask_value": 0.0}}
    inner = lstm_config(return_sequences=True)
    both = {"class_name": "Bidirectional", "config": {"name": "both", "merge_mode": "concat", "layer": inner}}
    spec = {"class_name": "Sequential", "config": {"name": "s", "layers": [masking, both]}}
    lstm = drawn(lstm_shapes(2, 3))
    groups = {"both": {f"both/{way}_lstm_1/{name}:0": lstm[name] for way in ("forward", "backward") for name in lstm}}
    x = np.random.default_rng(0).standard_normal((1, 5, 2)).astype("f")
    x[:, 3:] = 0
    y = load(write_h5(tmp_path / "m.h5", spec, groups, version))(x)[0][0]
    forward, backward = by_hand(x[:, :3], lstm)[0], by_hand(x[:, 2::-1], lstm)[0, ::-1]
    np.testing.assert_allclose(y[:3], np.concatenate([forward, backward], axis=1), rtol=0, atol=1e-6)
    rest = np.zeros(6) if zeros else np.concatenate([forward[-1], np.zeros(3)])
    np.testing.assert_allclose(y[3:], [rest, rest], rtol=0, atol=1e-6)


def as_cudnn(arrays):
    """Return an LSTM's arrays as a CuDNNLSTM has them: each gate's kernel is the memory of its transpose."""
    stored = {
        name: np.concatenate([part.T.reshape(part.shape) for part in np.split(arrays[name], 4, axis=1)], axis=1)
        for name in ("kernel", "recurrent_kernel")
    }
    shift = drawn({"bias": arrays["bias"].shape}, 9)["bias"]
    return stored | {"bias": np.concatenate([arrays["bias"] - shift, shift])}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_the_layout_of_cudnn(tmp_path):
    lstm = drawn(lstm_shapes(5, 3))
    x = np.random.default_rng(0).standard_normal((2, 4, 5)).astype("f")
    expected = by_hand(x, lstm, sigmoid)
    plain = {"name": "a", "units": 3, "return_sequences": True}
    layers = [
        {"class_name": "CuDNNLSTM", "config": plain},
        # an LSTM that has got the weights of a CuDNNLSTM
        lstm_config("a", return_sequences=True, recurrent_activation="sigmoid"),
    ]
    groups = {"a": {f"a/{name}:0": array for name, array in as_cudnn(lstm).items()}}
    for layer in layers:
        spec = {"class_name": "Sequential", "config": {"name": "s", "layers": [layer]}}
        path = write_h5(tmp_path / "m.h5", spec, groups, "2.2.4")
        np.testing.assert_allclose(load(path)(x)[0], expected, rtol=0, atol=1e-5)
    both = {"name": "both", "merge_mode": "sum", "layer": layers[0]}
    spec["config"]["layers"] = [{"class_name": "Bidirectional", "config": both}]
    named = {f"both/{way}_a/{key}:0": array for way in ("forward", "backward") for key, array in as_cudnn(lstm).items()}
    backward = by_hand(x[:, ::-1], lstm, sigmoid)[:, ::-1]
    y = load(write_h5(path, spec, {"both": named}, "2.2.4"))(x)[0]
    np.testing.assert_allclose(y, expected + backward, rtol=0, atol=1e-5)


def test_lstms_of_a_file_with_weights_only(tmp_path):
    one, two, gru = drawn(lstm_shapes(5, 3)), drawn(lstm_shapes(3, 2), 1), drawn({"kernel": (2, 9), "bias": (9,)})
    groups = {
        "rnn_1": {f"rnn_1/{name}:0": array for name, array in as_cudnn(one).items()},
        "both": {f"both/{way}_lstm_2/{name}:0": two[name] for way in ("forward", "backward") for name in two},
        "gru": {"gru/recurrent_kernel:0": np.ones((3, 9), "f"), **{f"gru/{name}:0": gru[name] for name in gru}},
        "output": {"output/kernel:0": np.ones((4, 3), "f")},
    }
    path = write_h5(tmp_path / "w.hdf5", None, groups, "2.1.5")
    with pytest.raises(ValueError, match=r"holds no architecture.*weights\.keras\.lstms"):
        load(path)
    text = "\n".join(describe(path))
    assert "rnn_1  LSTM(input_size=5, hidden_size=3" in text
    assert "holds no architecture" in text
    with pytest.raises(ValueError, match="A name takes one of its LSTMs, such as --name 'both'|such as --name 'rnn_1'"):
        of_keras(input_of(path), None)
    found = lstms(path)
    assert {name: (lstm.input_size, lstm.hidden_size, lstm.bidirectional) for name, lstm in found.items()} == {
        "rnn_1": (5, 3, False),
        "both": (3, 2, True),
    }
    x = np.random.default_rng(0).standard_normal((2, 4, 5)).astype("f")
    np.testing.assert_allclose(found["rnn_1"](x)[0], by_hand(x, one, sigmoid), rtol=0, atol=1e-5)
    arrays = read(path)
    assert len(arrays) == 3 + 6 + 3 + 1
    np.testing.assert_array_equal(arrays["both/both/forward_lstm_2/bias:0"], two["bias"])


def test_lstms_of_a_model_with_other_layers(tmp_path):
    own = {"class_name": "Own", "config": {"name": "own"}, "module": "mine", "registered_name": "mine>Own"}
    inner = {"class_name": "Sequential", "config": {"name": "inner", "layers": [lstm_config("deep")]}}
    spec = {"class_name": "Sequential", "config": {"name": "s", "layers": [own, inner, lstm_config("top")]}}
    arrays = {name: drawn(lstm_shapes(3, 3), seed) for seed, name in enumerate(("deep", "top"))}
    groups = {"inner": {f"deep/{name}:0": array for name, array in arrays["deep"].items()}}
    groups |= {"top": {f"top/{name}:0": array for name, array in arrays["top"].items()}, "own": {"own/x:0": np.ones(2)}}
    path = write_h5(tmp_path / "m.h5", spec, groups, "2.4.0")
    found = weights.keras.lstms(path)
    assert found.keys() == {"inner/deep", "top"}
    x = np.random.default_rng(0).standard_normal((2, 4, 3)).astype("f")
    for name, lstm in found.items():
        np.testing.assert_allclose(lstm(x)[0], by_hand(x, arrays[name.split("/")[-1]]), rtol=0, atol=1e-6)
    spec["config"]["layers"][2] = lstm_config("top", activation="mish")
    with pytest.raises(ValueError, match="not supported: top: activation 'mish'$"):
        lstms(write_h5(path, spec, groups, "2.4.0"))
    spec["config"]["layers"] = [own]
    with pytest.raises(ValueError, match="holds no LSTM; its arrays: .*inner/deep/kernel:0"):
        lstms(write_h5(path, spec, groups, "2.4.0"))


def test_a_keras_file_of_version_2_13(tmp_path):
    lstm = drawn(lstm_shapes(3, 3))
    start = {"class_name": "InputLayer", "name": "x", "config": {"name": "x", "batch_input_shape": [None, 4, 3]}}
    layers = [
        start | {"module": "keras.layers", "registered_name": None, "inbound_nodes": []},
        lstm_config("lstm", return_sequences=True) | {"name": "lstm", "inbound_nodes": [[["x", 0, 0, {}]]]},
        {"class_name": "Add", "name": "add", "config": {"name": "add", "trainable": True}}
        | {"inbound_nodes": [[["lstm", 0, 0, {}], ["x", 0, 0, {}]]]},
    ]
    config = {"name": "m", "layers": layers, "input_layers": [["x", 0, 0]], "output_layers": [["add", 0, 0]]}
    path = tmp_path / "m.keras"
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for number, array in enumerate(lstm.values()):
            file[f"layers/lstm/cell/vars/{number}"] = array
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.13.1"}))
        spec = {"module": "keras.src.engine.functional", "class_name": "Functional", "config": config}
        archive.writestr("config.json", json.dumps(spec))
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    x = np.random.default_rng(0).standard_normal((2, 4, 3)).astype("f")
    np.testing.assert_allclose(load(path)(x), by_hand(x, lstm) + x, rtol=0, atol=1e-6)


# Hostile files


def functional(layers, outputs=("z",)):
    layers = [{"class_name": "InputLayer", "config": {"name": "x"}, "name": "x", "inbound_nodes": []}, *layers]
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [[name, 0, 0] for name in outputs]}
    return {"class_name": "Functional", "config": {"name": "m", "layers": layers, **ends}}


def layer(kind, name, *before, **options):
    nodes = [[[one, 0, 0, {}] for one in before]]
    return {"class_name": kind, "name": name, "config": {"name": name, **options}, "inbound_nodes": nodes}


def doubling(depth):
    """Return models inside models, each of which uses the one inside twice."""
    inner = layer("Add", "z", "x", "x")
    model = functional([inner])
    for _ in range(depth):
        calls = {"inbound_nodes": [[["x", 0, 0, {}]], [["m", 0, 0, {}]]], "name": "m"}
        model = functional([{**model, **calls}, layer("Add", "z", "m", "m")])
    return model


def nested_models(depth):
    model = functional([layer("Add", "z", "x", "x")])
    for _ in range(depth):
        model = functional([{**model, "name": "m", "inbound_nodes": [[["x", 0, 0, {}]]]}, layer("Add", "z", "m", "m")])
    return model


HOSTILE = {
    "many calls": (lambda: doubling(40), "would take more than|nested deeper"),
    "deep models": (lambda: nested_models(70), "nested deeper than"),
    "many layers": (
        lambda: functional([layer("Add", f"a{n}", f"a{n + 1}", "x") for n in range(7000)]),
        "would take more than|expected layers of the model",
    ),
    "a long cycle": (
        lambda: functional([layer("Add", f"a{n}", f"a{(n + 1) % 800}") for n in range(800)], ("a1",)),
        "in a cycle",
    ),
    "sizes": (
        lambda: functional([layer("Conv2D", "z", "x", filters=2**50, kernel_size=[1, 1], activation="linear")]),
        "expected one kernel, got none",
    ),
    "a large kernel": (
        lambda: functional([layer("MaxPooling2D", "z", "x", pool_size=[2**40, 2**40])]),
        "pool_size",
    ),
    "controls": (lambda: functional([layer("Add", "z\x1b[31m", "x")], ("q\x1b[0m",)), r"q\\x1b\[0m"),
    "shape": (lambda: functional([layer("Reshape", "z", "x", target_shape=[-1, -1])]), "target_shape"),
    "axes": (lambda: functional([layer("BatchNormalization", "z", "x", axis=10**9)]), "axis 1000000000"),
    "itself": (lambda: functional([layer("Add", "z", "z")]), "in a cycle"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_models_are_refused(tmp_path, name):
    make, message = HOSTILE[name]
    path = write_h5(tmp_path / "m.h5", make(), {}, "2.4.0")
    tracemalloc.start()
    try:
        start = time.process_time()
        for reader in (load, lstms):
            with pytest.raises(ValueError, match=message if reader is load else ".") as caught:
                reader(path)
            assert "\x1b" not in str(caught.value)
            assert len(str(caught.value)) < 20_000
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
        assert time.process_time() - start < 60  # a hang, on any machine
    finally:
        tracemalloc.stop()


def test_a_run_is_limited(tmp_path):
    """A few bytes of a file do not take the memory of the machine when the model is run."""
    model = load(write_h5(tmp_path / "m.h5", functional([layer("UpSampling1D", "z", "x", size=2**19)]), {}, "2.4.0"))
    with pytest.raises((ValueError, MemoryError)):
        model(np.ones((300, 200, 300), "f"))
    assert lstm_cy.Graph is type(model)


def test_gates_of_any_form_of_model(keras):
    """Layers with masks, both directions, states from another layer, and models inside: hidden is Keras's output."""
    layers = keras.layers
    text, other = keras.Input((7,), name="text", dtype="int32"), keras.Input((5, 3), name="other")
    embedded = layers.Embedding(9, 4, mask_zero=True)(text)
    both = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(embedded)
    _, h, c = layers.LSTM(4, return_state=True)(both)
    decoded = layers.LSTM(4, return_sequences=True)(other, initial_state=[h, c])
    step = keras.Sequential([keras.Input((4,)), layers.Reshape((2, 2)), layers.LSTM(2, return_sequences=True)])
    inner = keras.Input((5, 4))
    block = keras.Model(inner, layers.Add()([layers.LSTM(4, return_sequences=True)(inner), inner]))
    outputs = [both, decoded, block(decoded), layers.TimeDistributed(step)(decoded)]
    theirs = keras.Model([text, other], outputs)
    rng = np.random.default_rng(0)
    tokens, x = rng.integers(0, 9, (2, 7)), rng.standard_normal((2, 5, 3)).astype("f4")
    tokens[:, 0] = 1
    expected = [keras.ops.convert_to_numpy(array) for array in theirs([tokens, x])]
    graph = from_keras(theirs)
    assert isinstance(graph, Graph)
    for made in (graph, pickle.loads(pickle.dumps(graph))):
        for direction in (0, 1):
            found = made.trace(tokens, x, layer=0, direction=direction)
            assert np.array_equal(found.valid, tokens != 0) and found.reverse == bool(direction)
            part = expected[0][..., 3 * direction :][..., :3]
            np.testing.assert_allclose(found.hidden[found.valid], part[found.valid], rtol=0, atol=TOLERANCE)
        before, decoder = made.trace(tokens, x, layer=1), made.trace(tokens, x, layer=2)
        np.testing.assert_allclose(decoder.hidden, expected[1], rtol=0, atol=TOLERANCE)
        rows = [np.flatnonzero(row)[-1] for row in before.valid]
        assert np.array_equal(decoder.initial_cell, before.cell[range(2), rows])
        np.testing.assert_allclose(
            made.trace(tokens, x, layer=3).hidden + expected[1], expected[2], rtol=0, atol=TOLERANCE
        )
        last = made.trace(tokens, x)  # of all steps of all rows
        np.testing.assert_allclose(last.hidden.reshape(2, 5, 2, 2), expected[3], rtol=0, atol=TOLERANCE)
        with pytest.raises(ValueError, match="layer: expected -5 to 4"):
            made.trace(tokens, x, layer=5)
    plain = keras.Model(inner, layers.Add()([inner, inner]))
    with pytest.raises(ValueError, match="whose gates can be traced, got Add"):
        from_keras(plain).trace(np.ones((1, 5, 4)))


def test_a_graph_of_keras_as_layers(keras):
    """Heads of one trunk with a residual, each as a Sequential, which steps with the bits of the input so far."""
    layers = keras.layers
    x = keras.Input((None, 3), name="x")
    trunk = layers.BatchNormalization()(layers.Conv1D(8, 3, padding="causal", activation="relu")(x))
    trunk = layers.Add()([trunk, layers.LSTM(8, return_sequences=True)(trunk)])
    label = layers.Dense(4, activation="softmax", name="label")(layers.LSTM(6)(trunk))
    theirs = keras.Model(x, [label, layers.Dense(2, name="steps")(trunk)])
    for weight in theirs.layers[2].weights:  # the statistics of the normalization
        weight.assign(np.random.default_rng(0).uniform(0.5, 2, weight.shape))
    given = np.random.default_rng(1).standard_normal((2, 9, 3)).astype("f4")
    expected = [keras.ops.convert_to_numpy(array) for array in theirs(given)]
    graph = from_keras(theirs)
    for name, right in zip(("label", "steps"), expected, strict=True):
        ours = graph.sequential(name)
        y = ours(given)[0]
        np.testing.assert_allclose(y, right, rtol=0, atol=TOLERANCE)
        stepper = ours.stepper(2)
        outputs = [stepper.step(x_t) for x_t in given.swapaxes(0, 1)]
        assert np.array_equal(outputs[-1], y if name == "label" else y[:, -1])
    with pytest.raises(ValueError, match=r"sequential: output: expected one of \['label', 'steps'\], got None"):
        graph.stepper()
    narrow = graph.quantize("int8", {"x": given})
    assert len(narrow.report) == 2
    found = narrow.sequential("label")
    assert np.array_equal(found(given)[0], graph.sequential("label").quantize("int8")(given)[0])
    np.testing.assert_allclose(narrow(given)[0], found(given)[0], rtol=0, atol=TOLERANCE)
    tokens = keras.Input((None,), dtype="int32")
    masked = layers.Embedding(9, 4, mask_zero=True)(tokens)
    other = from_keras(keras.Model(tokens, layers.Add()([masked, layers.LSTM(4, return_sequences=True)(masked)])))
    with pytest.raises(ValueError, match="sequential: .*no layer computes it"):
        other.stepper()
    with pytest.raises(ValueError, match="quantize: expected a graph with an LSTM of constant weights, got Add"):
        from_keras(keras.Model(x, layers.Add()([x, x]))).quantize("bf16")


def test_a_graph_with_states_steps(keras):
    """The mask of a denoiser (the structure of DTLN): its state is one array, cut and stacked by operations."""
    layers, ops = keras.layers, keras.ops
    spectrum, state = (
        keras.Input((1, 33), batch_size=1, name="spectrum"),
        keras.Input((2, 16, 2), batch_size=1, name="s"),
    )
    x, states = spectrum, []
    for layer in range(2):
        initial = [state[:, layer, :, 0], state[:, layer, :, 1]]
        x, h, c = layers.LSTM(16, return_sequences=True, return_state=True, unroll=True)(x, initial_state=initial)
        states.append(ops.stack([h, c], axis=-1))
    mask = layers.Dense(33, activation="sigmoid", name="mask")(x)
    theirs = keras.Model([spectrum, state], [mask, ops.stack(states, axis=1)])
    graph = from_keras(theirs)
    stepper = graph.stepper({"s": graph.outputs[1].name})
    current = np.zeros((1, 2, 16, 2), "f4")
    for frame in np.random.default_rng(0).random((20, 1, 1, 33)).astype("f4"):
        expected, current = (keras.ops.convert_to_numpy(array) for array in theirs([frame, current]))
        np.testing.assert_allclose(stepper.step(frame), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(stepper.state["s"], current, rtol=0, atol=1e-5)
    assert graph.trace(frame, current, layer=0).forget.shape == (1, 1, 16)
