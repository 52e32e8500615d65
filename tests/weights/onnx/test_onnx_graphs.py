"""ONNX graphs as models, compared with ONNX's own cases, ONNX Runtime and PyTorch."""

import pickle
import re
import tracemalloc
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from common import bits

import lstm_cy
from lstm_cy.weights.onnx import from_onnx, lstms, operators
from lstm_cy.weights.onnx.fold import STEPS
from lstm_cy.weights.onnx.proto import ARRAY_DTYPES

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import (  # noqa: E402
    INT32,
    INT64,
    integers,
    model,
    node,
    plain_lstm,
    session,
    weights_of,
)

TOLERANCE = 5e-6


# ONNX's own cases


# Unsupported cases: training, sequences, and types of 8 bits and less that NumPy does not have.
REFUSED = re.compile("training_(?!dropout_zero_ratio)|batchnorm_.*_training|identity_(sequence|opt)|scan_sum")


#: one or two units in the last place of float16 and bfloat16, where intermediate results have float32's precision
LAST_PLACES = {TensorProto.FLOAT16: 2**-9, TensorProto.BFLOAT16: 2**-6}


def has_known_types(case):
    values = [*case.model.graph.input, *case.model.graph.output]
    return all(value.type.tensor_type.elem_type in {*ARRAY_DTYPES, TensorProto.STRING} for value in values)


def as_array(value):
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def operators_of(graph):
    """Yield the operator of each node of a graph and of its inner graphs."""
    for entry in graph.node:
        yield entry.op_type
        for attribute in entry.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from operators_of(inner)


def assert_case(case):
    """Compare the results of one of ONNX's own cases with the expected ones."""
    for entry in case.model.opset_import:  # the first versions of Not differ in nothing
        entry.version = max(entry.version, 7)
    run = from_onnx(case.model)
    for inputs, expected in ([map(as_array, part) for part in pair] for pair in case.data_sets):
        given = {value.name: np.asarray(array, value.dtype) for value, array in zip(run.inputs, inputs, strict=True)}
        declared = case.model.graph.output
        for value, proto, result, right in zip(run.outputs, declared, run.run(given), expected, strict=True):
            relative = max(case.rtol, LAST_PLACES.get(proto.type.tensor_type.elem_type, 0))
            assert (result.dtype, result.shape) == (value.dtype, np.shape(right))
            right = np.asarray(right, value.dtype)
            np.testing.assert_allclose(result, right, relative, max(case.atol, 1e-7))


def test_onnxs_own_cases():
    """All cases of the package onnx that have only known operators and types; about 1100 in release 1.23."""
    from onnx.backend.test.case.node import collect_testcases

    known, failed, done = {*operators.OPERATORS, *STEPS}, {}, Counter()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for case in collect_testcases(None):
            if case.model is None or not known.issuperset(operators_of(case.model.graph)):
                continue
            if REFUSED.search(case.name) or not has_known_types(case):
                continue
            try:
                assert_case(case)
            except Exception as error:
                failed[case.name] = f"{type(error).__name__}: {str(error).strip()[:300]}"
            done.update({case.model.graph.node[0].op_type})
    assert not failed, failed
    assert done["LSTM"] >= 4
    assert sum(done.values()) > 900, done


# Operators whose meaning depends on the version, against ONNX Runtime

X = np.random.default_rng(7).standard_normal((2, 3, 4)).astype(np.float32)
VERSIONS = [
    (opset, op_type, inputs, attributes)
    for opset, op_type, inputs, attributes in [
        *[(opset, name, [], {}) for opset in (7, 11, 12, 13) for name in ("Softmax", "LogSoftmax")],
        *[(opset, "Softmax", [], {"axis": axis}) for opset in (7, 13) for axis in (0, 1, 2)],
        *[(opset, "Squeeze", [], {}) for opset in (7, 13)],
        *[(opset, "Unsqueeze", [], {"axes": [0, 3]}) for opset in (7, 11)],
        (11, "Unsqueeze", [], {"axes": [-1, 0]}),
        (13, "Unsqueeze", [[-1, 1]], {}),
        (9, "Slice", [], {"starts": [0, -2], "ends": [9, -1], "axes": [0, 2]}),
        (9, "Slice", [], {"starts": [0, 1], "ends": [-1, 9]}),
        (10, "Slice", [[-1], [-100], [2], [-1]], {}),
        (13, "Slice", [[2, 3], [0, -(2**63)], [1, -1], [-2, -2]], {}),
        (13, "Slice", [[0], [2**63 - 1], [1], [2]], {}),
        (7, "Split", [], {"axis": 2, "split": [1, 3]}),
        (11, "Split", [], {"axis": -1}),
        (13, "Split", [[3, 1]], {"axis": 2}),
        (18, "Split", [], {"axis": 1, "num_outputs": 2}),
        (9, "ReduceSum", [], {"axes": [1], "keepdims": 0}),
        (13, "ReduceSum", [[1]], {"keepdims": 0}),
        (13, "ReduceMean", [], {"axes": [0, -1]}),
        (18, "ReduceMean", [[0, -1]], {}),
        (17, "ReduceMax", [], {}),
        (7, "Clip", [], {"min": -0.5, "max": 0.25}),
        (11, "Clip", [np.float32(-0.5)], {}),
        (7, "Dropout", [], {"ratio": 0.9}),
        (12, "Dropout", [np.float32(0.9), np.bool_(False)], {}),
        (10, "Pad", [], {"pads": [0, 1, 0, 2, 0, 1], "value": 2.5}),
        (11, "Pad", [[0, -1, 0, 2, 0, 1], np.float32(2.5)], {}),
        (13, "Pad", [[0, 1, 0, 1, 0, 2]], {"mode": "reflect"}),
        (18, "Pad", [[1, 2], np.float32(1), [-1]], {}),
        (7, "Flatten", [], {"axis": 0}),
        (13, "Flatten", [], {"axis": -1}),
        (13, "Reshape", [[0, -1, 2]], {}),
        (13, "Reshape", [[4, 3, -1]], {}),
        (15, "Shape", [], {"start": -2, "end": 100}),
        (13, "ArgMax", [], {"axis": -1, "select_last_index": 1}),
        (11, "Gather", [[[-1, 0]]], {"axis": 1}),
        (9, "BatchNormalization", [np.float32([1, 2, 3])] * 4, {}),
        (17, "LayerNormalization", [np.float32([1, 2, 3, 4])] * 2, {"axis": -1}),
        (20, "Gelu", [], {"approximate": "tanh"}),
    ]
]


@pytest.mark.parametrize(("opset", "op_type", "inputs", "attributes"), VERSIONS)
def test_versions_of_operators(runtime, opset, op_type, inputs, attributes):
    constants = {
        f"input{index}": np.array(value) if isinstance(value, list) else np.asarray(value)
        for index, value in enumerate(inputs)
    }
    outputs = ["y", "z"] if op_type == "Split" else ["y"]
    types = dict.fromkeys("y", INT64) if op_type in ("Shape", "ArgMax") else {}
    proto = model([node(op_type, ["x", *constants], outputs, **attributes)], ["x"], outputs, constants, opset, types)
    expected = session(runtime, proto).run(None, {"x": X})
    for result, right in zip(from_onnx(proto).run({"x": X}), expected, strict=True):
        assert (result.dtype, result.shape) == (right.dtype, right.shape)
        np.testing.assert_allclose(result, right, rtol=1e-6, atol=1e-6)


def test_an_empty_batch_is_reshaped_with_copied_axes():
    proto = model([node("Reshape", ["x", "shape"])], ["x"], weights={"shape": np.array([0, 0, -1])})
    (y,) = from_onnx(proto).run({"x": np.ones((3, 0, 2, 4))})
    assert y.shape == (3, 0, 8)


def test_integers_are_divided_towards_zero():
    proto = model([node("Div", ["a", "b"])], ["a", "b"], types=dict.fromkeys("aby", INT64))
    run = from_onnx(proto)
    (y,) = run.run({"a": [7, -7, 7, -7, 6], "b": [2, 2, -2, -2, -3]})
    assert y.tolist() == [3, -3, -3, 3, -2]
    with pytest.raises(ValueError, match=r"node of 'y' \(Div\): an integer is divided by zero"):
        run.run({"a": [1], "b": [0]})


# PyTorch's exporters


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def tagger(torch):
    """An Embedding, an LSTM of two layers in two directions, and a Linear."""
    nn = torch.nn

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(20, 6)
            self.lstm = nn.LSTM(6, 5, 2, bidirectional=True, batch_first=True)
            self.head = nn.Linear(10, 4)

        def forward(self, tokens):
            y, (h_n, c_n) = self.lstm(self.embedding(tokens))
            return torch.log_softmax(self.head(y), -1), h_n, c_n

    torch.manual_seed(0)
    return Tagger().eval()


def exported(torch, module, inputs, path, axes, dynamo, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of the exporter
        if dynamo:
            pytest.importorskip("onnxscript")
            shapes = {
                name: {axis: torch.export.Dim(size) for axis, size in sizes.items()} for name, sizes in axes.items()
            }
            made = torch.onnx.export(
                module, inputs, dynamo=True, input_names=list(axes), dynamic_shapes=shapes, verbose=False, **options
            )
            made.save(path)
        else:
            names = list(axes)
            torch.onnx.export(module, inputs, path, dynamo=False, input_names=names, dynamic_axes=axes, **options)
    return str(path)


@pytest.fixture(scope="module", params=["dynamo", "legacy", "unfolded", "opset 9"])
def tagger_file(request, torch, tagger, tmp_path_factory):
    options = {"unfolded": {"do_constant_folding": False}, "opset 9": {"opset_version": 9}}.get(request.param, {})
    path = tmp_path_factory.mktemp("tagger") / "model.onnx"
    tokens = torch.zeros(3, 7, dtype=torch.long)
    axes = {"tokens": {0: "B", 1: "T"}}
    return exported(torch, tagger, (tokens,), path, axes, request.param == "dynamo", **options)


def test_pytorchs_exports_run(torch, tagger, tagger_file):
    run = from_onnx(tagger_file)
    (value,) = run.inputs
    assert value == ("tokens", ("B", "T"), np.dtype("int64"))
    for B, T in ((3, 7), (1, 1), (5, 4)):
        tokens = np.random.default_rng(B).integers(0, 20, (B, T))
        results = run.run({"tokens": tokens})
        with torch.no_grad():
            expected = tagger(torch.from_numpy(tokens))
        for result, right in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, right.numpy(), rtol=0, atol=TOLERANCE)


def test_pytorchs_weights_are_read_bit_for_bit(tagger, tagger_file):
    found = list(lstms(tagger_file).values())
    state = {name: tensor.numpy() for name, tensor in tagger.lstm.state_dict().items()}
    assert len(found) == 2
    for layer, lstm in enumerate(found):
        for name, array in lstm.parameters.items():
            np.testing.assert_array_equal(array, state[name.replace("_l0", f"_l{layer}")])


def test_packed_sequences_of_pytorch(torch, tmp_path):
    class Packed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(3, 5, bidirectional=True)

        def forward(self, x, lengths, h0, c0):
            rnn = torch.nn.utils.rnn
            packed = rnn.pack_padded_sequence(x, lengths, enforce_sorted=True)
            y, (h_n, c_n) = self.lstm(packed, (h0, c0))
            return rnn.pad_packed_sequence(y)[0], h_n, c_n

    torch.manual_seed(1)
    module = Packed().eval()
    inputs = torch.randn(6, 3, 3), torch.tensor([6, 4, 1]), torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    axes = {"x": {0: "T", 1: "B"}, "lengths": {0: "B"}, "h0": {1: "B"}, "c0": {1: "B"}}
    run = from_onnx(exported(torch, module, inputs, tmp_path / "model.onnx", axes, dynamo=False))
    x, lengths, h0, c0 = inputs = torch.randn(5, 2, 3), torch.tensor([5, 2]), torch.randn(2, 2, 5), torch.randn(2, 2, 5)
    results = run.run({"x": x.numpy(), "lengths": lengths.numpy(), "h0": h0.numpy(), "c0": c0.numpy()})
    with torch.no_grad():
        expected = module(*inputs)
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, right.numpy(), rtol=0, atol=TOLERANCE)


def recognizer(torch):
    """Return a text recogniser (CRNN) and an input."""
    nn = torch.nn
    convolutions = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(4, 6, 3, padding=1),
        nn.InstanceNorm2d(6), nn.LeakyReLU(), nn.MaxPool2d((2, 1), (2, 1)), nn.AdaptiveAvgPool2d((1, None)),
    )  # fmt: skip

    class Recognizer(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolutions, self.head = convolutions, nn.Linear(10, 7)
            self.lstm = nn.LSTM(6, 5, 2, bidirectional=True, batch_first=True)

        def forward(self, x):
            y = self.convolutions(x).squeeze(2).permute(0, 2, 1)
            return [self.head(self.lstm(y)[0]).log_softmax(-1)]

    return Recognizer(), torch.randn(2, 1, 8, 12)


def speaker(torch):
    """Return a speech synthesiser like Tacotron: attention by an equation, a decoder of cells, frames resized."""
    nn, functional = torch.nn, torch.nn.functional

    class Speaker(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.conv = nn.Embedding(20, 6), nn.Conv1d(6, 6, 5, padding=2)
            self.lstm, self.cell = nn.LSTM(6, 4, batch_first=True, bidirectional=True), nn.LSTMCell(3 + 8, 5)
            self.query, self.frame, self.wide = nn.Linear(5, 8), nn.Linear(5 + 8, 3), nn.ConvTranspose1d(3, 2, 4, 2, 1)

        def forward(self, tokens):
            x = torch.relu(self.conv(self.embedding(tokens).transpose(1, 2))).transpose(1, 2)
            memory = self.lstm(x)[0]
            state, context = (x.new_zeros(2, 5), x.new_zeros(2, 5)), memory.mean(1)
            frame, frames = x.new_zeros(2, 3), []
            for _ in range(3):
                state = self.cell(torch.cat([frame, context], -1), state)
                weights = torch.softmax(torch.einsum("bd,btd->bt", self.query(state[0]), memory), -1)
                context = torch.bmm(weights[:, None], memory)[:, 0]
                frame = self.frame(torch.cat([state[0], context], -1))
                frames.append(frame)
            y = torch.stack(frames, 2)
            return self.wide(y), functional.interpolate(y, scale_factor=2.0, mode="linear")

    return Speaker(), torch.randint(0, 20, (2, 7))


def spotter(torch):
    """Return a keyword spotter with a weighted mean over the steps, which leaves masked ones out."""
    nn = torch.nn

    class Spotter(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv1d(4, 6, 5, 2, 2, groups=2), nn.GroupNorm(2, 6), nn.PReLU()
            self.lstm, self.score, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 1), nn.Linear(5, 3)

        def forward(self, x):
            y, _ = self.lstm(self.act(self.norm(self.conv(x))).transpose(1, 2))
            scores = self.score(torch.tanh(y)).masked_fill(y[:, :, :1] < 0, -1e9)
            y = (torch.softmax(scores, 1) * y).sum(1)
            return self.head(y), torch.topk(y, 2)[1]

    return Spotter(), torch.randn(2, 4, 11)


@pytest.mark.parametrize("make", [recognizer, speaker, spotter])
def test_models_as_pytorch_exports_them(torch, tmp_path, make):
    torch.manual_seed(0)
    module, given = make(torch)
    run = from_onnx(exported(torch, module.eval(), (given,), tmp_path / "model.onnx", {"x": {}}, dynamo=False))
    with torch.no_grad():
        expected = module(given)
    for result, right in zip(run.run({"x": given.numpy()}), expected, strict=True):
        np.testing.assert_allclose(result, right.numpy(), rtol=0, atol=TOLERANCE)


# Running


@pytest.fixture(scope="module")
def small():
    """x, h0 -> y, h: an LSTM, and a Squeeze of its output."""
    weights = weights_of(np.random.default_rng(12), 1, 3, 5)
    nodes = [
        node("LSTM", ["x", "W", "R", "", "", "h0"], ["Y", "h"], name="lstm"),
        node("Squeeze", ["Y", "axes"], ["y"], name="squeeze"),
    ]
    inputs = [("x", ["T", "B", 3]), ("h0", [1, "B", 5])]
    return from_onnx(model(nodes, inputs, ["y", "h"], weights | {"axes": integers(1)}))


def small_inputs(T=4, B=2):
    return {"x": np.ones((T, B, 3), np.float32), "h0": np.zeros((1, B, 5), np.float32)}


def test_inputs_and_outputs_are_described(small):
    assert small.inputs == (("x", ("T", "B", 3), np.dtype("float32")), ("h0", (1, "B", 5), np.dtype("float32")))
    assert [value.name for value in small.outputs] == ["y", "h"]
    assert small.outputs[0].shape is None
    assert repr(small) == "Graph(x, h0 -> y, h)"


def test_a_call_takes_inputs_by_position(small):
    inputs = small_inputs()
    results = small(inputs["x"], inputs["h0"])
    assert isinstance(results, tuple)
    for got, expected in zip(results, small.run(inputs), strict=True):
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(TypeError, match=r"inputs: expected 2, for \['x', 'h0'\], got 1"):
        small(inputs["x"])
    single = from_onnx(model([node("Relu", ["x"], ["y"])], [("x", [3])], ["y"], {}))
    np.testing.assert_array_equal(single([-1.0, 0.0, 2.0]), [0, 0, 2])


def test_a_graph_is_pickled(small):
    again = pickle.loads(pickle.dumps(small))
    assert (repr(again), again.properties) == (repr(small), small.properties)
    for got, expected in zip(again.run(small_inputs()), small.run(small_inputs()), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_the_former_name_of_graph_is_kept():
    assert lstm_cy.weights.onnx.OnnxModel is lstm_cy.weights.onnx.graph.OnnxModel is lstm_cy.Graph


def test_the_summary_lists_each_step(small, capsys):
    small.summary()
    header, *rows, total = capsys.readouterr().out.splitlines()
    assert header.split() == ["operator", "inputs", "outputs", "parameters", "bytes"]
    assert [row.split()[0] for row in rows] == [step.name for step in small._steps]
    lstm = next(row for row in rows if " LSTM " in row)
    numbers = 4 * 5 * (3 + 5)  # without biases
    assert lstm.split()[-2:] == total.split()[-2:] == [f"{numbers}", f"{4 * numbers}"]
    assert f"<td>{numbers}</td>" in small._repr_html_()


def test_inputs_are_converted_as_in_the_layers(small):
    inputs = small_inputs()
    y, h = small.run(inputs)
    again = small.run({"x": np.ones((4, 2, 3), int), "h0": np.asfortranarray(inputs["h0"], np.float64)})
    np.testing.assert_array_equal(again[0], y)
    assert y.dtype == h.dtype == np.float32


def test_inputs_are_given_by_name(small):
    with pytest.raises(TypeError, match="inputs: expected a mapping of names to arrays, got list"):
        small.run([*small_inputs().values()])


WRONG_INPUTS = {
    r"inputs: expected \['x', 'h0'\]; missing: \['h0'\], unknown: \['h'\]": {"x": 0, "h": 0},
    r"x: expected shape \('T', 'B', 3\) where .*, got \(4, 3\)": {"x": np.ones((4, 3)), "h0": 0},
    r"x: expected shape \('T', 'B', 3\) where .*, got \(4, 2, 4\)": {"x": np.ones((4, 2, 4)), "h0": 0},
    r"h0: expected shape \(1, 'B', 5\) where .*'B': 2.*, got \(1, 3, 5\)": {
        "x": np.ones((4, 2, 3)),
        "h0": np.ones((1, 3, 5)),
    },
    "x: expected float32, got complex": {"x": np.ones((4, 2, 3), complex), "h0": 0},
    "x: expected real numbers, got dtype": {"x": ["a"], "h0": 0},
}


@pytest.mark.parametrize("message", WRONG_INPUTS)
def test_wrong_inputs_are_refused(small, message):
    with pytest.raises(
        (ValueError, TypeError), match=message.replace("float32, got complex", "real numbers, got dtype complex")
    ):
        small.run(WRONG_INPUTS[message])


def test_floats_are_not_converted_to_integers():
    run = from_onnx(model([node("Identity", ["x"])], ["x"], types={"x": INT64, "y": INT64}))
    with pytest.raises(TypeError, match="x: expected int64, got float64"):
        run.run({"x": [1.5]})


def test_selected_outputs(small):
    inputs = small_inputs()
    y, h = small.run(inputs)
    np.testing.assert_array_equal(small.run(inputs, outputs=["h", "y", "h"])[0], h)
    np.testing.assert_array_equal(small.run(inputs, outputs=["y"]), [y])
    with pytest.raises(ValueError, match="outputs: expected 'y' or 'h', got 'z'"):
        small.run(inputs, outputs=["y", "z"])
    for outputs in ("h", 3, {"h": 1}):
        with pytest.raises(TypeError, match="outputs: expected a list of names, got"):
            small.run(inputs, outputs=outputs)


def test_only_selected_outputs_are_computed():
    """The node of the other output would fail."""
    nodes = [node("Relu", ["x"], ["y"]), node("Reshape", ["x", "shape"], ["z"], name="fails")]
    run = from_onnx(model(nodes, ["x"], ["y", "z"], {"shape": integers(7)}))
    run.run({"x": np.ones(3)}, outputs=["y"])
    with pytest.raises(ValueError, match=r"node 'fails' \(Reshape\): cannot reshape"):
        run.run({"x": np.ones(3)})


def test_results_are_independent_arrays():
    nodes = [node("Identity", ["x"], ["y"]), node("Identity", ["w"], ["z"]), node("Relu", ["x"], ["r"])]
    nodes += [node("Transpose", ["r"], ["t"]), node("Expand", ["x", "shape"], ["e"])]
    run = from_onnx(
        model(nodes, ["x"], ["y", "z", "r", "t", "e"], {"w": np.ones(2, np.float32), "shape": integers(3, 2)})
    )
    x = np.ones((2, 2), np.float32)[:1]
    results = run.run({"x": x})
    for number, array in enumerate(results):
        array[...] = number
    assert [array.flat[0] for array in results] == [0, 1, 2, 3, 4]
    assert (x == 1).all()
    assert (run.run({"x": x})[1] == 1).all()


def test_inputs_that_no_lstm_takes_are_refused():
    weights = weights_of(np.random.default_rng(12), 1, 3, 5)
    names = ["x", "W", "R", "", "", "h0"]
    x, h0 = np.ones((4, 2, 3)), np.ones((1, 2, 5))

    def run(x, h0, types=None):
        proto = model([node("LSTM", names, name="lstm")], ["x", "h0"], weights=weights, types=types)
        return from_onnx(proto).run({"x": x, "h0": h0})

    run(x, h0)
    with pytest.raises(ValueError, match=r"node 'lstm' \(LSTM\): X: expected three axes, got shape \(4, 3\)"):
        run(x[:, 0], h0)
    with pytest.raises(ValueError, match=r"initial_h, initial_c: expected three axes, got shape \(2, 5\)"):
        run(x, h0[0])
    double = TensorProto.DOUBLE
    for types, got in ({"x": double, "h0": double}, r"\['float64'\]"), ({"h0": double}, r"\['float32', 'float64'\]"):
        with pytest.raises(ValueError, match=f"X: expected one type with states and weights, got {got}"):
            run(x, h0, types)


def test_strings_and_numbers_are_not_mixed_up():
    types = {"x": TensorProto.STRING, "y": TensorProto.STRING}
    run = from_onnx(model([node("Identity", ["x"])], ["x"], types=types))
    assert run.run({"x": ["a", "b"]})[0].tolist() == ["a", "b"]
    for x in ([1, 2], np.array(["a", 2], object)):
        with pytest.raises(TypeError, match="x: expected strings, got (int64|object)"):
            run.run({"x": x})
    run = from_onnx(model([node("Relu", ["x"])], ["x"], types=types))
    with pytest.raises(ValueError, match=r"node of 'y' \(Relu\): expected numbers, got strings"):
        run.run({"x": ["a", "b"]})


def test_the_largest_results_are_allowed(monkeypatch):
    """One byte less is not, except for a result that is as large as its inputs."""
    expand = from_onnx(model([node("Expand", ["x", "n"])], ["x", "n"], types={"n": INT64}))
    cast = from_onnx(model([node("Cast", ["x"], to=INT32)], ["x"], types={"y": INT32}))
    wide = from_onnx(model([node("Cast", ["x"], to=INT64)], ["x"], types={"y": INT64}))
    for limit in (400, 399):
        monkeypatch.setattr("lstm_cy.weights.onnx.node.LARGEST_RESULT", limit)
        assert cast.run({"x": np.ones(100)})[0].size == 100
        with pytest.raises(ValueError, match=rf"a result of shape \(100,\) takes 800 bytes; at most {limit} are"):
            wide.run({"x": np.ones(100)})
        if limit == 400:
            assert expand.run({"x": [1.0], "n": [100]})[0].size == 100
    with pytest.raises(ValueError, match=r"a result of shape \(100,\) takes 400 bytes; at most 399 are allowed"):
        expand.run({"x": [1.0], "n": [100]})


def test_a_layer_made_during_a_run_is_bounded(monkeypatch):
    """Of W and R, 16 numbers, that layer makes 4 (3 + 1 + 2) (1 + 1 + 16) = 432."""
    run = from_onnx(model([plain_lstm("WR")], ["x", "W", "R"]))
    given = {"x": np.ones((1, 1, 3)), "W": np.ones((1, 4, 3)), "R": np.ones((1, 4, 1))}
    monkeypatch.setattr("lstm_cy.weights.onnx.steps.LARGEST_RESULT", 4 * 432)
    run.run(given)
    monkeypatch.setattr("lstm_cy.weights.onnx.steps.LARGEST_RESULT", 4 * 432 - 1)
    with pytest.raises(ValueError, match=r"node 'lstm' \(LSTM\): its layer takes 1728 bytes; at most 1727 are allowed"):
        run.run(given)


def test_all_results_of_a_run_are_bounded(monkeypatch):
    """Single results are small, and results that are no longer needed do not count."""
    monkeypatch.setattr("lstm_cy.weights.graph.LARGEST_RUN", 1 << 20)
    chain = [node("Expand", ["x", "sizes"], ["v0"]), *(node("Exp", [f"v{k}"], [f"v{k + 1}"]) for k in range(9))]
    weights = {"sizes": integers(1 << 16)}
    (y,) = from_onnx(model(chain, ["x"], ["v9"], weights)).run({"x": [0.0]})
    assert y.shape == (1 << 16,)
    kept = model(chain, ["x"], [f"v{k}" for k in range(1, 10)], weights)
    with pytest.raises(ValueError, match=r"node of 'v5' \(Exp\): .* take more than 1048576 bytes"):
        from_onnx(kept).run({"x": [0.0]})
    views = [*chain[:2], *(node("Identity", ["v1"], [f"w{k}"]) for k in range(9))]
    from_onnx(model(views, ["x"], [f"w{k}" for k in range(2)], weights)).run({"x": [0.0]})
    seen = from_onnx(model(views, ["x"], [f"w{k}" for k in range(9)], weights))
    monkeypatch.setattr("lstm_cy.weights.graph.LARGEST_RUN", 4 * ((1 << 16) + 1))  # of v1, and of x
    assert len(seen.run({"x": [0.0]})) == 9
    monkeypatch.setattr("lstm_cy.weights.graph.LARGEST_RUN", 4 * ((1 << 16) + 1) - 1)
    with pytest.raises(ValueError, match=r"node of 'v1' \(Exp\): .* take more than 262147 bytes"):
        seen.run({"x": [0.0]})


def test_results_are_copied_only_if_they_share_memory():
    run = from_onnx(model([node("ConstantOfShape", ["n"], ["a"]), node("Exp", ["a"])], ["n"], types={"n": INT64}))
    tracemalloc.start()
    try:
        (y,) = run.run({"n": [1 << 20]})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * y.nbytes


def test_sizes_of_empty_arrays_are_bounded():
    """The array is empty, but sums along the empty axis would fill the memory."""
    nodes = [node("ConstantOfShape", ["n"], ["a"]), node("ReduceSum", ["a", "axis"])]
    run = from_onnx(model(nodes, ["n"], weights={"axis": integers(1)}, types={"n": INT64}))
    assert run.run({"n": [3, 0]})[0].tolist() == [[0], [0], [0]]
    with pytest.raises(ValueError, match="its other axes would take"):
        run.run({"n": [2**40, 0]})
    lstm = plain_lstm("WR", outputs=["", "h"])
    nodes = [node("ConstantOfShape", ["n"], ["x"]), lstm]
    weights = weights_of(np.random.default_rng(18), 1, 1, 64)
    run = from_onnx(model(nodes, ["n"], ["h"], {name: weights[name] for name in "WR"}, types={"n": INT64}))
    assert run.run({"n": [0, 2, 1]})[0].shape == (1, 2, 64)
    with pytest.raises(ValueError, match=r"node 'lstm' \(LSTM\): a result of shape .* at most 2147483648"):
        run.run({"n": [0, 2**28, 1]})


def test_results_are_freed_after_their_last_use():
    nodes = [node("Relu", ["x" if k == 0 else f"v{k - 1}"], ["y" if k == 49 else f"v{k}"]) for k in range(50)]
    run = from_onnx(model(nodes, ["x"]))
    x = np.ones(1 << 18, np.float32)
    tracemalloc.start()
    try:
        run.run({"x": x})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * x.nbytes


def test_errors_at_run_time_name_the_node():
    nodes = [node("Relu", ["x"], ["r"]), node("MatMul", ["r", "w"], name="product")]
    run = from_onnx(model(nodes, ["x"], weights={"w": np.ones((3, 2), np.float32)}))
    with pytest.raises(ValueError, match=r"node 'product' \(MatMul\): "):
        run.run({"x": np.ones((4, 2))})


def test_division_by_zero_is_infinity_without_a_warning():
    weights = {"w": np.zeros(1, np.float32), "one": np.ones(1, np.float32)}
    nodes = [node("Div", ["x", "w"]), node("Div", ["one", "w"], ["z"]), node("Cast", ["z"], ["i"], to=INT64)]
    run = from_onnx(model(nodes, ["x"], ["y", "z", "i"], weights, types={"i": INT64}))
    assert [array.tolist() for array in run.run({"x": [1.0]})[:2]] == [[np.inf], [np.inf]]


@pytest.mark.parametrize("op_type", ["Expand", "ConstantOfShape", "Tile", "Range", "Add", "MatMul"])
def test_large_results_of_small_inputs_are_refused(op_type):
    sizes = [2**20, 2**20]
    cases = {
        "Expand": (node("Expand", ["one", "x"]), sizes),
        "ConstantOfShape": (node("ConstantOfShape", ["x"]), sizes),
        "Tile": (node("Tile", ["one", "x"]), [2**40]),
        "Range": (node("Range", ["zero", "x", "step"]), 2**40),
        "Add": (node("Add", ["x", "column"]), [1] * 2**20),
        "MatMul": (node("MatMul", ["column", "x"]), [[1] * 2**20]),
    }
    entry, x = cases[op_type]
    column = np.ones((2**20, 1), np.int64)
    weights = {"one": np.ones(1), "zero": np.int64(0), "step": np.int64(1), "column": column}
    run = from_onnx(model([entry], ["x"], weights=weights, types={"x": INT64, "y": INT64}))
    with pytest.raises(ValueError, match=rf"\({op_type}\): a result of shape .* at most 2147483648"):
        run.run({"x": x})


def test_every_unsupported_operator_is_listed():
    nodes = [
        node("Det", ["x"], ["a"], name="sum"),
        node("Relu", ["a"], ["b"]),
        node("Fancy", ["b"], ["c"], domain="my.domain"),
        node("Pad", ["c", "pads"], ["d"], name="pad", mode="bounce"),
        node("Gelu", ["d"], ["y"], name="too new"),
    ]
    with pytest.raises(ValueError) as caught:
        from_onnx(model(nodes, ["x"], weights={"pads": integers(0, 0)}))
    assert str(caught.value) == (
        "model: 4 nodes are not supported: Det (1), Fancy (domain 'my.domain') (1), Pad (mode='bounce') (1), "
        "Gelu (not in version 17) (1); such as node 'sum' (Det), the node of 'c' (Fancy), node 'pad' (Pad), "
        "node 'too new' (Gelu)"
    )


def test_unsupported_nodes_are_counted_also_in_inner_graphs():
    inner = helper.make_graph(
        [node("Det", ["x"], ["a"]), node("Relu", ["x"], ["b"])],
        "inner",
        [],
        [helper.make_empty_tensor_value_info("b")],
    )
    nodes = [node("Det", ["x"], [f"v{k}"]) for k in range(3000)]
    nodes.append(node("SequenceMap", ["x"], ["y"], name="choice", body=inner, other=inner))
    with pytest.raises(ValueError) as caught:
        from_onnx(model(nodes, ["x"]))
    assert str(caught.value) == (
        "model: 3003 nodes are not supported: Det (3002), SequenceMap (1); such as the node of 'v0' (Det), "
        "node 'choice' (SequenceMap)"
    )
    with pytest.raises(
        ValueError, match=r"^model: 1 node is not supported: Det \(1\); such as the node of 'y' \(Det\)$"
    ):
        from_onnx(model([node("Det", ["x"])], ["x"]))
    with pytest.raises(ValueError, match=r"20 nodes are not supported: .*, Fancy19 \(1\); such as the node of 'v0' \("):
        from_onnx(model([node(f"Fancy{k}", ["x"], [f"v{k}"]) for k in range(20)], ["x"], ["x"]))
    for length in (0, 1000):
        many = [node(f"Fancy{k}", ["x"], [f"v{k}" + "n" * length]) for k in range(60)]
        with pytest.raises(ValueError, match="60 nodes are") as caught:
            from_onnx(model(many, ["x"], ["x"]))
        assert len(str(caught.value)) < 2100
        assert "Fancy49 (1), and 10 other operators; such as the node of" in str(caught.value)


def test_text_from_a_file_is_short_and_safe_in_messages(tmp_path):
    hostile = "red \x1b[31m\u202e" + "n" * 100_000
    path = tmp_path / "model.onnx"
    messages = []
    for nodes, inputs in (
        ([node(hostile, ["x"])], ["x"]),
        ([node("Relu", ["x"], name=hostile), node("Relu", ["x"], name=hostile)], ["x"]),
        ([node("Relu", [hostile])], ["x"]),
        ([node("Relu", ["x"], name=hostile, **{hostile: 1})], ["x"]),
        ([node("Relu", ["x"], domain=hostile)], ["x"]),
        ([node("Relu", ["x"])], ["x", hostile, hostile]),
        ([node("MatMul", ["w", "w"], name=hostile)], ["x"]),
    ):
        path.write_bytes(model(nodes, inputs, weights={"w": np.ones((2, 3), np.float32)}).SerializeToString())
        with pytest.raises(ValueError) as caught:
            from_onnx(path).run({"x": np.ones(2)})
        messages.append(str(caught.value))
    for message in messages:
        assert message.isprintable()
        assert len(message) < 1000
    assert all(str(path) in message for message in messages[:-1])


def test_the_documented_operators_are_complete():
    page = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
    listed = re.search(r"\*\*Operators:\*\* (.*?)[;.]", page, re.DOTALL).group(1)
    assert re.split(r",\s+", listed) == sorted([*operators.OPERATORS, *(name for name in STEPS if "." not in name)])


def test_threads_share_a_model(small):
    inputs = [{name: scale + array for name, array in small_inputs().items()} for scale in range(8)]
    expected = [small.run(given) for given in inputs]
    with ThreadPoolExecutor(4) as pool:
        for results, right in zip(pool.map(small.run, inputs * 20), expected * 20, strict=True):
            assert bits(*results) == bits(*right)


@pytest.mark.parametrize("outputs", [("y", "mean"), ("y", "mean", "variance", "saved_mean", "saved_variance")])
def test_batch_normalization_with_more_outputs_is_refused(outputs):
    normalization = node("BatchNormalization", ["x", "scale", "bias", "mean0", "variance0"], outputs)
    weights = dict.fromkeys(normalization.input[1:], np.float32([1, 2]))
    with pytest.raises(ValueError, match="BatchNormalization"):
        from_onnx(model([normalization], [("x", [3, 2])], weights=weights, opset=8))
    normalization.output[:] = ["y"]
    assert from_onnx(model([normalization], [("x", [3, 2])], weights=weights, opset=13))
