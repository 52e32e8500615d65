"""Export as ONNX graphs: the checker accepts them, and ONNX Runtime computes the same numbers."""

import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lstm_cy import (
    LSTM,
    Activation,
    BatchNormalization,
    Conv1D,
    Dropout,
    Embedding,
    Flatten,
    GlobalPooling1D,
    LayerNormalization,
    Linear,
    Masking,
    Pooling1D,
    Readout,
    RepeatVector,
    Residual,
    Sequential,
    activations,
    from_onnx,
    functions,
    load,
    save,
)

onnx = pytest.importorskip("onnx")
from lstm_cy.weights import onnx as weights_onnx  # noqa: E402 (only where onnx is installed)
from lstm_cy.weights.onnx.export import OPSETS, to_onnx  # noqa: E402

TOLERANCE = 5e-6
SIZES = [(4, 3), (7, 1), (1, 5)]  # steps and rows, all run by one graph


@pytest.fixture(scope="module")
def session():
    """A function that checks a graph and makes a session of ONNX Runtime."""
    runtime = pytest.importorskip("onnxruntime")

    def make(graph):
        onnx.checker.check_model(graph, full_check=True)
        return runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    return make


def flat(out, states):
    """Return the results of our call in the order of the graph's outputs."""
    states = [states] if isinstance(states, tuple) else states
    return [out, *(part for state in states for part in state)]


def lstms_in(model, prefix=""):
    """Yield (prefix of its names, LSTM) of the LSTMs of a model, also inside Residual layers."""
    if isinstance(model, LSTM):
        yield prefix, model
    for index, part in enumerate(getattr(model, "parts", ())):
        if part is not model:
            yield from lstms_in(part, f"{prefix}{index}.")


def states_of(model, rows, rng):
    """Return random initial states, {prefix of the names: pair}."""
    lstms = list(lstms_in(model))
    found = {}
    for prefix, lstm in lstms:
        shape = lstm.num_layers * lstm.num_directions, rows, lstm.hidden_size
        pair = tuple(rng.standard_normal(shape).astype(lstm.dtype) for _ in range(2))
        found[prefix if len(lstms) > 1 else ""] = pair
    return found


def assert_same_numbers(run, model, *, states=False, lengths=False, inputs=None, sizes=SIZES, seed=0):
    """Check that ONNX Runtime and the model agree for each size, with states and lengths as inputs if True."""
    rng = np.random.default_rng(seed)
    tokens = inputs is None
    for T, B in sizes:
        shape = (B, T) if model.batch_first else (T, B)
        x = rng.integers(0, 9, shape) if tokens else rng.standard_normal((*shape, inputs)).astype(model.dtype)
        feeds, call = {"tokens" if tokens else "x": x}, {}
        given = states_of(model, B, rng)
        if states:
            feeds |= {f"{name}h0": pair[0] for name, pair in given.items()}
            feeds |= {f"{name}c0": pair[1] for name, pair in given.items()}
        if lengths:
            feeds["lengths"] = call["lengths"] = rng.integers(0, T + 1, B).astype(np.int32)
        pairs = list(given.values()) if isinstance(model, Sequential) else given[""]
        expected = flat(*model(x, pairs if states else None, **call))
        got = run.run(None, feeds)
        assert len(got) == len(expected)
        for ours, theirs in zip(expected, got, strict=True):
            assert theirs.dtype == model.dtype
            assert theirs.shape == ours.shape
            assert np.abs(ours - theirs).max(initial=0) <= TOLERANCE


def random_layer(seed):
    """Return a layer with random options, of all that ONNX can express."""
    rng = np.random.default_rng(seed)
    layout = rng.choice(["forward", "reverse", "bidirectional"])
    return LSTM(
        int(rng.integers(1, 6)),
        int(rng.integers(1, 9)),
        int(rng.integers(1, 4)),
        bias=bool(rng.random() < 0.8),
        batch_first=bool(rng.random() < 0.5),
        bidirectional=bool(layout == "bidirectional"),
        reverse=bool(layout == "reverse"),
        peepholes=bool(rng.random() < 0.4),
        coupled_gates="f=1-i" if rng.random() < 0.3 else None,
        clip=float(rng.uniform(0.2, 2)) if rng.random() < 0.4 else None,
        activations=random_activations(rng, 2 if layout == "bidirectional" else 1),
        seed=seed,
    )


def random_activations(rng, directions):
    """Return the defaults half the time, else random ones, bounded for the gates so that the cell cannot overflow."""
    if rng.random() < 0.5:
        return ("sigmoid", "tanh", "tanh")
    bounded = ["sigmoid", "hardsigmoid", ("hardsigmoid", 0.3, 0.4), ("hardsigmoid", 1 / 6)]
    free = [name for name in activations.DEFAULTS if name != "affine"]
    free += [("affine", 0.5, -0.1), ("leakyrelu", 0.2), ("elu", 0.5), ("thresholdedrelu", 0.3)]
    free += [("scaledtanh", 0.7, 1.3)]
    pick = lambda choices: choices[rng.integers(len(choices))]  # noqa: E731
    return [(pick(bounded), pick(free), pick(free)) for _ in range(directions)]


@pytest.mark.parametrize("seed", range(200))
def test_random_layers(session, seed):
    lstm = random_layer(seed)
    states, lengths = seed % 2 == 0, seed % 3 == 0
    run = session(to_onnx(lstm, states=states, lengths=lengths))
    assert_same_numbers(run, lstm, states=states, lengths=lengths, inputs=lstm.input_size, seed=seed)


@pytest.mark.parametrize("special", [0, 1])
def test_other_activations_in_one_direction(session, special):
    triples = [("sigmoid", "tanh", "tanh")] * 2
    triples[special] = ("hardsigmoid", "relu", "softsign")
    lstm = LSTM(3, 4, bidirectional=True, activations=triples, seed=0)
    assert_same_numbers(session(to_onnx(lstm)), lstm, inputs=3)


NEWEST = min(OPSETS[-1], onnx.defs.onnx_opset_version())


@pytest.mark.parametrize("opset", range(OPSETS[0], NEWEST + 1))
def test_every_opset(session, opset):
    lstm = LSTM(3, 4, 2, bidirectional=True, batch_first=True, seed=0)
    graph = to_onnx(lstm, states=True, lengths=True, opset=opset)
    assert graph.opset_import[0].version == opset
    assert_same_numbers(session(graph), lstm, states=True, lengths=True, inputs=3)


def test_rows_of_length_zero_keep_their_state(session):
    """ONNX Runtime alone would return zeros."""
    lstm = LSTM(2, 3, 2, bidirectional=True, seed=0)
    state = np.ones((4, 2, 3), np.float32)
    feeds = {"x": np.ones((5, 2, 2), np.float32), "h0": state, "c0": -state, "lengths": np.array([0, 5], np.int32)}
    _, h_n, c_n = session(to_onnx(lstm, states=True, lengths=True)).run(None, feeds)
    assert (h_n[:, 0] == 1).all()
    assert (c_n[:, 0] == -1).all()
    assert (h_n[:, 1] != 1).all()


def character_model(**options):
    return Sequential(
        Embedding(9, 4, seed=1), LSTM(4, 6, 2, dropout=0.5, seed=2, **options), Dropout(0.3), Linear(6, 9, seed=3)
    )


def deep_model():
    return Sequential(
        Linear(3, 4, bias=False, seed=1),
        LSTM(4, 5, bidirectional=True, batch_first=True, seed=2),
        Linear(10, 4, seed=3),
        LSTM(4, 3, 2, batch_first=True, seed=4),
        Dropout(0.5),
    )


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_whole_models(session, states, lengths):
    for model, inputs in [(character_model(), None), (character_model(batch_first=True), None), (deep_model(), 3)]:
        run = session(to_onnx(model, states=states, lengths=lengths))
        assert_same_numbers(run, model, states=states, lengths=lengths, inputs=inputs)


FUNCTIONS = [(name,) for name in (*functions.ELEMENTWISE, *functions.VECTORWISE)]
FUNCTIONS += [
    ("affine", 0.5, -0.3),
    ("leakyrelu", 0.2),
    ("thresholdedrelu", 0.4),
    ("elu", 0.7),
    ("scaledtanh", 0.7, 2.0),
]
FUNCTIONS += [("hardsigmoid", 1 / 6, 0.5)]


@pytest.mark.parametrize("arguments", FUNCTIONS, ids=str)
def test_activations(session, arguments):
    for dtype in ("float32", "float64"):
        lstm, linear = LSTM(3, 4, dtype=dtype, seed=0), Linear(4, 4, dtype=dtype, seed=1)
        linear.load_state_dict(
            {"weight": 5 * linear.parameters["weight"]}, strict=False
        )  # inputs on both sides of every kink
        model = Sequential(lstm, linear, Activation(*arguments))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warning of float64, which another test checks
            assert_same_numbers(session(to_onnx(model)), model, inputs=3)


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_readouts(session, sequences, batch_first):
    layout = {"batch_first": batch_first}
    for options in [{}, {"reverse": True}]:
        backwards = "reverse" in options
        readout = Readout(go_backwards=backwards, return_sequences=sequences, **layout)
        model = Sequential(LSTM(3, 4, **options, **layout, seed=0), readout, Linear(4, 2, seed=1))
        assert_same_numbers(session(to_onnx(model, states=True)), model, states=True, inputs=3)
    for merge in ("concat", "sum", "mul", "ave"):
        readout = Readout(bidirectional=True, merge_mode=merge, return_sequences=sequences, **layout)
        model = Sequential(LSTM(3, 4, bidirectional=True, **layout, seed=0), readout)
        assert_same_numbers(session(to_onnx(model)), model, inputs=3)


def normalized(kind, features, seed):
    """Return a normalization with parameters that differ from the initial ones."""
    layer, rng = kind(features, eps=0.01), np.random.default_rng(seed)
    layer.load_state_dict({name: rng.uniform(0.5, 2, features) for name in layer.parameters})
    return layer


@pytest.mark.parametrize("opset", [13, NEWEST])
@pytest.mark.parametrize("batch_first", [False, True])
def test_layers_of_windows_steps_and_features(session, batch_first, opset):
    """Convolution, pooling, normalization, Flatten, RepeatVector and Residual, against ONNX Runtime and from_onnx."""
    layout = {"batch_first": batch_first}
    lstm = lambda *sizes: LSTM(*sizes, **layout, seed=sum(sizes))  # noqa: E731
    models = [
        Sequential(Conv1D(3, 5, 3, padding="same", stride=stride, **layout, seed=1), lstm(5, 4)) for stride in (1, 2, 4)
    ]
    models += [
        Sequential(
            Conv1D(3, 4, 3, padding="causal", dilation=2, bias=False, **layout, seed=1),
            normalized(BatchNormalization, 4, 2),
            Conv1D(4, 6, 2, padding="same", dilation=3, groups=2, **layout, seed=2),
            normalized(LayerNormalization, 6, 3),
            Pooling1D("average", 3, stride=2, padding="same", **layout),
            Pooling1D("max", 2, stride=1, padding="same", **layout),
            lstm(6, 4),
            GlobalPooling1D("max", **layout),
            RepeatVector(5, **layout),
            lstm(4, 2),
        ),
        Sequential(Pooling1D("max", 1, stride=3, **layout), lstm(3, 4), Flatten(**layout)),
        Sequential(lstm(3, 3), GlobalPooling1D("average", **layout), Linear(3, 2, seed=0)),
        Sequential(
            Residual(lstm(3, 4), Linear(4, 2, seed=0)),
            Residual(Residual(lstm(2, 2), normalized(LayerNormalization, 2, 0))),
        ),
        Residual(lstm(3, 3)),
    ]
    for model in models:
        graph = to_onnx(model, states=True, opset=opset)
        assert_same_numbers(session(graph), model, states=True, inputs=3)
        read = from_onnx(graph)
        again = SimpleNamespace(run=lambda names, feeds, read=read: read.run(feeds))
        assert_same_numbers(again, model, states=True, inputs=3)
    names = [value.name for value in to_onnx(models[-2], states=True).graph.input]
    assert names == ["x", "0.0.h0", "0.0.c0", "1.0.0.h0", "1.0.0.c0"]


def test_what_onnx_cannot_express_of_windows_is_named():
    model = Sequential(
        Conv1D(3, 3, 2, stride=2, dilation=2, padding="same"),
        Pooling1D("max", 2, stride=3, padding="same"),
        Residual(LSTM(3, 3, layer_norm=True)),
        GlobalPooling1D("max"),
    )
    texts = ["0.padding='same' with a stride and a dilation", "1.padding='same' with a stride longer than the windows",
             "2.0.layer_norm=True;"]  # fmt: skip
    with pytest.raises(ValueError, match=f"cannot express {', '.join(texts)}"):
        to_onnx(model)
    for kind in ("Conv1D", "Pooling1D", "Residual", "GlobalPooling1D"):
        with pytest.raises(ValueError, match=f"{kind} with lengths"):
            to_onnx(model, lengths=True)


def test_a_repeated_layer_has_separate_states(session):
    lstm = LSTM(3, 3, seed=0)
    model = Sequential(lstm, lstm)
    assert_same_numbers(session(to_onnx(model, states=True)), model, states=True, inputs=3)


def test_float64_outside_the_lstms(session):
    double = {"dtype": "float64", "seed": 1}
    model = Sequential(Linear(3, 4, **double), LSTM(4, 5, 2, **double), Linear(5, 2, **double))
    for made, inputs in [(model, 3), (LSTM(2, 3, 2, bidirectional=True, **double), 2)]:
        with pytest.warns(UserWarning, match="ONNX Runtime's LSTM supports float32 only") as caught:
            run = session(to_onnx(made, states=True, lengths=True))
        assert caught[0].filename == __file__
        assert_same_numbers(run, made, states=True, lengths=True, inputs=inputs)


def described(values):
    tensors = [(value.name, value.type.tensor_type) for value in values]
    names = {1: "float32", 6: "int32", 7: "int64"}
    return {name: (names[t.elem_type], [dim.dim_param or dim.dim_value for dim in t.shape.dim]) for name, t in tensors}


def test_inputs_and_outputs_have_the_models_names_and_shapes():
    graph = to_onnx(LSTM(3, 5, 2, bidirectional=True), states=True, lengths=True).graph
    state = ("float32", [4, "B", 5])
    assert described(graph.input) == {
        "x": ("float32", ["T", "B", 3]),
        "h0": state,
        "c0": state,
        "lengths": ("int32", ["B"]),
    }
    assert described(graph.output) == {"y": ("float32", ["T", "B", 10]), "h_n": state, "c_n": state}
    graph = to_onnx(character_model(batch_first=True)).graph
    assert described(graph.input) == {"tokens": ("int64", ["B", "T"])}
    assert list(described(graph.output)) == ["y", "h_n", "c_n"]
    graph = to_onnx(deep_model(), states=True).graph
    assert list(described(graph.input)) == ["x", "1.h0", "1.c0", "3.h0", "3.c0"]
    assert list(described(graph.output)) == ["y", "1.h_n", "1.c_n", "3.h_n", "3.c_n"]


def test_a_plain_layer_makes_a_plain_graph():
    graph = to_onnx(LSTM(3, 5)).graph
    assert [node.op_type for node in graph.node] == ["LSTM", "Squeeze"]
    assert {attribute.name for attribute in graph.node[0].attribute} == {"hidden_size", "direction"}


def test_coupled_gates_are_input_forget_1():
    """ONNX defines no other number, and ours reads any but 0."""
    (attribute,) = [a for a in to_onnx(LSTM(3, 5, coupled_gates="f=1-i")).graph.node[0].attribute if a.name[0] == "i"]
    assert (attribute.name, attribute.i) == ("input_forget", 1)


# Reading exported graphs


def narrow(number):
    return float(np.float32(number))


@pytest.mark.parametrize("seed", range(0, 200, 10))
def test_exported_graphs_are_read_bit_for_bit(seed):
    """Gates are reordered twice; alpha, beta and clip are float32 in a file, so the model has float32 values too."""
    drawn = random_layer(seed)
    narrowed = [[(name, narrow(alpha), narrow(beta)) for name, alpha, beta in triple] for triple in drawn.activations]
    model = LSTM(**drawn.config | {"clip": drawn.clip and narrow(drawn.clip), "activations": narrowed})
    model.load_state_dict(drawn.state_dict())
    again = from_onnx(to_onnx(model, states=True))
    x = np.random.default_rng(seed).standard_normal((4, 4, model.input_size), np.float32)
    (state,) = states_of(model, 4, np.random.default_rng(seed)).values()
    expected = flat(*model(x, state))
    for ours, theirs in zip(expected, again.run({"x": x, "h0": state[0], "c0": state[1]}), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_whole_models_are_read():
    for model, inputs in [(character_model(batch_first=True), None), (deep_model(), 3)]:
        again = from_onnx(to_onnx(model, states=True, lengths=True))
        run = SimpleNamespace(run=lambda names, feeds, again=again: again.run(feeds))
        assert_same_numbers(run, model, states=True, lengths=True, inputs=inputs)


# Files


def test_the_file_is_the_graph_with_architecture_and_metadata(tmp_path, session):
    model, path = character_model(), tmp_path / "a.onnx"
    save(model, path, {"vocabulary": ["a", "ß", "\ud800"]})
    graph = onnx.load(path)
    assert graph.producer_name == "lstm_cy"
    (entry,) = graph.metadata_props
    header = json.loads(entry.value)
    assert entry.key == header["format"] == "lstm_cy"
    assert header["model"] == {"type": "Sequential", **model.config}
    assert header["metadata"] == {"vocabulary": ["a", "ß", "\ud800"]}
    assert_same_numbers(session(graph), model)
    again = tmp_path / "b.onnx"
    save(model, again, header["metadata"])
    assert again.read_bytes() == path.read_bytes()


def test_metadata_are_kept_with_the_model(tmp_path):
    save(LSTM(1, 1), tmp_path / "a.npz", {"unit": "mm"})
    model = load(tmp_path / "a.npz")
    assert json.loads(to_onnx(model).metadata_props[0].value)["metadata"] == {"unit": "mm"}
    assert json.loads(to_onnx(model, metadata={}).metadata_props[0].value)["metadata"] == {}


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.onnx"
    save(LSTM(1, 1), path)
    old = path.read_bytes()

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save(LSTM(2, 2), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_the_example_that_needs_onnx_runtime(session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
    blocks = re.findall(r"^```py(?:thon)?\n(.*?)^```$", text[text.index("## To ONNX") :], re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(compile(block, "formats.md", "exec"), names)
    assert (names["y"].shape, names["vocabulary"]) == ((2, 3, 30), "abc")


# Refused models and arguments


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: to_onnx(Linear(1, 1)), TypeError, "model: expected an LSTM or a Sequential, got Linear"),
        (lambda: to_onnx(Sequential(Linear(1, 1))), ValueError, "model: expected one with an LSTM in it, got none"),
        (lambda: to_onnx(LSTM(1, 1), states=1), TypeError, "states: expected True or False, got 1"),
        (lambda: to_onnx(LSTM(1, 1), lengths=[1]), TypeError, "lengths: expected True or False"),
        (lambda: to_onnx(LSTM(1, 1), opset=12), ValueError, f"opset: expected 13 to {NEWEST}, got 12"),
        (lambda: to_onnx(LSTM(1, 1), opset=99), ValueError, f"opset: expected 13 to {NEWEST}, got 99"),
        (lambda: to_onnx(LSTM(1, 1), opset="17"), TypeError, "opset: expected an integer"),
        (lambda: to_onnx(LSTM(1, 1), metadata=[1]), TypeError, "metadata: expected a dict, got list"),
        (lambda: to_onnx(LSTM(1, 1), metadata={"a": {1}}), TypeError, "metadata: expected values that JSON can hold"),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_one_error_names_all_that_onnx_cannot_express(tmp_path):
    options = {"proj_size": 2, "layer_norm": True, "cell_clip": 1.0, "proj_clip": 2.0, "coupled_gates": "i=1-f"}
    texts = ["proj_size=2", "layer_norm=True", "cell_clip=1.0", "proj_clip=2.0", "coupled_gates='i=1-f'"]
    with pytest.raises(ValueError, match=f"ONNX cannot express {', '.join(texts)}; .npz and .safetensors"):
        save(LSTM(3, 4, **options), tmp_path / "a.onnx")
    model = Sequential(LSTM(3, 4, proj_size=2), LSTM(2, 4), LSTM(4, 4, layer_norm=True))
    with pytest.raises(ValueError, match="cannot express 0.proj_size=2, 2.layer_norm=True;"):
        save(model, tmp_path / "a.onnx")
    model = Sequential(
        Embedding(3, 4, mask_zero=True), LSTM(4, 4, bidirectional=True), Masking(), Readout(merge_mode=None)
    )
    texts = ["0.mask_zero=True", "2.Masking", "3.Readout\\(merge_mode=None\\)"]
    with pytest.raises(ValueError, match=f"cannot express {', '.join(texts)};"):
        save(model, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="cannot express 1.Readout with lengths;"):
        to_onnx(Sequential(LSTM(3, 4), Readout()), lengths=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_narrow_weights_are_refused_with_advice(kind, tmp_path):
    narrow = character_model().quantize(kind)
    with pytest.raises(ValueError, match=rf"cannot express 1.narrow weights \({kind}; .* can load their state_dict"):
        save(narrow, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_too_many_weights_for_a_file_are_refused(monkeypatch):
    monkeypatch.setattr("lstm_cy.weights.onnx.export._LARGEST", 1000)
    to_onnx(LSTM(3, 4))
    with pytest.raises(ValueError, match="an .onnx file holds less than 2 GiB, the weights take 1200 bytes"):
        to_onnx(LSTM(10, 5, bias=False, num_layers=1))
    monkeypatch.setattr("lstm_cy.weights.onnx.export._LARGEST", 1200)
    to_onnx(LSTM(10, 5, bias=False))


def test_a_repeated_layer_is_written_once(session, tmp_path):
    lstm, linear = LSTM(3, 3, 2, seed=0), Linear(3, 3, seed=1)
    model = Sequential(lstm, linear, lstm, linear)
    graph = to_onnx(model, states=True)
    weights = [tensor.name for tensor in graph.graph.initializer if tensor.name.endswith((".W", ".weight", ".bias"))]
    assert weights == ["0.l0.W", "0.l1.W", "1.weight", "1.bias"]
    x = np.random.default_rng(2).standard_normal((4, 2, 3)).astype(np.float32)
    inputs = {"x": x} | {
        f"{index}.{part}": np.zeros((2, 2, 3), np.float32) for index in (0, 2) for part in ("h0", "c0")
    }
    results = session(graph).run(None, inputs)
    for result, right in zip(results, flat(*model(x)), strict=True):
        np.testing.assert_allclose(result, right, atol=TOLERANCE)
    save(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size < 2 * sum(
        array.nbytes for array in model.parameters.values()
    ) + 5000
    found = weights_onnx.lstms(tmp_path / "model.onnx")
    assert np.shares_memory(*(found[name].parameters["weight_hh_l0"] for name in ("0.l0", "2.l0")))


@pytest.mark.parametrize("opset", [-1, 0, 12, 26, 10**30, 10**400])
def test_unknown_opsets_are_refused(opset):
    with pytest.raises(ValueError, match=r"^opset: expected .{,300}$"):
        to_onnx(LSTM(1, 1), opset=opset)


def test_metadata_of_any_characters_are_restored(tmp_path):
    metadata = {"\ud800": ["\x1b[31m", "\u202e", "\U0001f600"]}
    save(LSTM(1, 1), tmp_path / "model.onnx", metadata)
    assert load(tmp_path / "model.onnx").metadata == metadata


@pytest.mark.parametrize("lengths", (False, True))
@pytest.mark.parametrize("options", ({}, {"num_layers": 2, "bidirectional": True, "batch_first": True}), ids=repr)
def test_learned_initial_states_are_in_the_graph(session, options, lengths):
    lstm = LSTM(3, 4, learn_initial_state=True, recurrent_dropout=0.3, weight_drop=0.2, seed=0, **options)
    rng = np.random.default_rng(0)
    lstm.load_state_dict({name: rng.normal(size=array.shape) for name, array in lstm.parameters.items()})
    model = Sequential(lstm, Linear(lstm.output_size, 2, seed=0))
    for states in (False, True):
        graph = to_onnx(model, states=states, lengths=lengths)
        assert_same_numbers(session(graph), model, states=states, lengths=lengths, inputs=3)


def test_a_learned_initial_state_is_read_again(tmp_path):
    lstm = LSTM(3, 4, 2, learn_initial_state=True, seed=0)
    lstm.load_state_dict({name: array + 0.5 for name, array in lstm.parameters.items()})
    save(lstm, tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype("float32")
    y = load(tmp_path / "model.onnx").run({"x": x}, ["y"])[0]
    assert np.abs(y - lstm(x)[0]).max() < 1e-6


def test_zoneout_cannot_be_expressed():
    with pytest.raises(ValueError, match=re.escape("ONNX cannot express zoneout=(0.1, 0.0);")):
        to_onnx(LSTM(3, 4, zoneout=(0.1, 0.0)))
