"""ONNX: LSTM nodes as layers, graphs as models, compared with ONNX's own cases, ONNX Runtime and PyTorch."""

import os
import re
import sys
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from common import bits, reference_lstm

import lstm_cy
from lstm_cy.weights import gate_order
from lstm_cy.weights.budget import LARGEST_DEPTH
from lstm_cy.weights.onnx import from_onnx, lstms, operators
from lstm_cy.weights.onnx.lstm_nodes import LstmNode, layer_bytes
from lstm_cy.weights.onnx.proto import DTYPES as TENSOR_DTYPES

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

TOLERANCE = 5e-6
FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
TYPES = {"float32": FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16, "int64": INT64, "bool": 9}


def model(nodes, inputs=(), outputs=("y",), weights=(), opset=17, types=None):
    """Return a ModelProto. `inputs` are names, or pairs of a name and a shape; `weights` is {name: array}."""
    types = types or {}

    def value(entry):
        name, shape = entry if isinstance(entry, tuple) else (entry, None)
        return helper.make_tensor_value_info(name, types.get(name, FLOAT), shape)

    tensors = [numpy_helper.from_array(np.array(array, order="C"), name) for name, array in dict(weights).items()]
    graph = helper.make_graph(list(nodes), "graph", [*map(value, inputs)], [*map(value, outputs)], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return made


def node(op_type, inputs, outputs=("y",), name="", **attributes):
    return helper.make_node(op_type, list(inputs), list(outputs), name=name, **attributes)


def session(runtime, proto):
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def runtime():
    return pytest.importorskip("onnxruntime")


def weights_of(rng, D, I, H, dtype=np.float32, scale=0.3):
    """Return W, R, B and P in ONNX's layout."""
    shapes = {"W": (D, 4 * H, I), "R": (D, 4 * H, H), "B": (D, 8 * H), "P": (D, 3 * H)}
    return {name: (scale * rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}


def plain_lstm(weights, name="lstm", outputs=("y",), **attributes):
    return node("LSTM", ["x", *[key if key in weights else "" for key in "WRB"]], outputs, name=name, **attributes)


# ONNX's own cases


@pytest.fixture(scope="module")
def cases():
    """{operator: its cases in the onnx package that use only known operators}."""
    from onnx.backend.test.case.node import collect_testcases

    known = {*operators.OPERATORS, "LSTM"}
    found = {name: [] for name in known}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        collected = collect_testcases(None)
    for case in collected:
        if case.model is not None and {entry.op_type for entry in case.model.graph.node} <= known:
            found[case.model.graph.node[0].op_type].append(case)
    return found


# Unsupported cases: training. Types that NumPy does not have are skipped too.
REFUSED = re.compile("training_(?!dropout_zero_ratio)")


def has_known_types(case):
    values = [*case.model.graph.input, *case.model.graph.output]
    return all(value.type.tensor_type.elem_type in {*TENSOR_DTYPES, TensorProto.STRING} for value in values)


def as_array(value):
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


@pytest.mark.parametrize("name", ["LSTM", *sorted(operators.OPERATORS)])
def test_onnxs_own_cases(name, cases):
    done = 0
    for case in cases[name]:
        if REFUSED.search(case.name) or not has_known_types(case):
            continue
        for entry in case.model.opset_import:  # other versions of known operators differ only in types
            entry.version = min(max(entry.version, 7), 25)
        run = from_onnx(case.model)
        for inputs, expected in ([map(as_array, part) for part in pair] for pair in case.data_sets):
            given = {
                value.name: np.asarray(array, value.dtype) for value, array in zip(run.inputs, inputs, strict=True)
            }
            for value, result, right in zip(run.outputs, run.run(given), expected, strict=True):
                assert result.dtype == value.dtype, case.name
                assert result.shape == np.shape(right), case.name
                right = np.asarray(right, value.dtype)
                np.testing.assert_allclose(result, right, case.rtol, max(case.atol, 1e-7), err_msg=case.name)
            done += 1
    assert done == len(cases[name]) >= 4 if name == "LSTM" else done


# ONNX Runtime as the oracle

ACTIVATIONS = {"Sigmoid": 0, "Tanh": 0, "Relu": 0, "Softsign": 0, "Softplus": 0, "LeakyRelu": 1, "Elu": 1}
ACTIVATIONS |= {"ThresholdedRelu": 1, "Affine": 2, "ScaledTanh": 2, "HardSigmoid": 2}
BOUNDED = ["Sigmoid", "Tanh", "Softsign", "ScaledTanh", "HardSigmoid"]


def random_lstm(seed):
    """Return (ModelProto, inputs) of an LSTM node with random attributes, inputs and outputs."""
    rng = np.random.default_rng(seed)

    def chance(share=0.5):
        return rng.random() < share

    direction = ("forward", "reverse", "bidirectional")[seed % 3]
    D = 2 if direction == "bidirectional" else 1
    I, H, B, T = (int(rng.integers(1, high)) for high in (7, 12, 5, 7))
    arrays = weights_of(rng, D, I, H)
    attributes = {"direction": direction, "hidden_size": H}
    if chance():
        # At most one of each three is unbounded; with more of them the numbers overflow.
        free = rng.integers(3)
        names = [str(rng.choice(list(ACTIVATIONS) if index % 3 == free else BOUNDED)) for index in range(3 * D)]
        attributes["activations"] = [name.upper() if chance(0.2) else name for name in names]
        for index, attribute in enumerate(("activation_alpha", "activation_beta")):
            takes = [name for name in names if ACTIVATIONS[name] > index]
            settled = all(name in ("LeakyRelu", "Elu", "HardSigmoid") for name in takes)
            given = int(rng.integers(len(takes) + 1)) if settled else len(takes)
            if given:
                attributes[attribute] = rng.uniform(0.1, 0.6, given).tolist()
    if chance(0.4):
        attributes["clip"] = float(rng.uniform(0.2, 1))
    if chance(0.4):
        attributes["input_forget"] = 1
    optional = {
        "lengths": rng.integers(1, T + 1, B).astype(np.int32),
        "h0": rng.standard_normal((D, B, H)).astype(np.float32),
        "c0": rng.standard_normal((D, B, H)).astype(np.float32),
    }
    given = {"x": rng.standard_normal((T, B, I)).astype(np.float32), "W": arrays["W"], "R": arrays["R"]}
    given |= {name: array for name, array in (optional | {"B": arrays["B"], "P": arrays["P"]}).items() if chance()}
    order = [name if name in given else "" for name in ("x", "W", "R", "B", "lengths", "h0", "c0", "P")]
    while not order[-1]:
        order.pop()
    outputs = [name if chance(0.7) else "" for name in ("Y", "Y_h", "Y_c")]
    outputs = outputs if any(outputs) else ["", "Y_h"]
    constants = {name: given.pop(name) for name in "WRBP" if name in given and (chance(0.8))}
    proto = model(
        [node("LSTM", order, outputs, **attributes)],
        list(given),
        [name for name in outputs if name],
        constants,
        opset=min(int(rng.choice([7, 11, 13, 14, 17, 21, 22])), onnx.defs.onnx_opset_version()),
        types={"lengths": INT32},
    )
    return proto, given


@pytest.mark.parametrize("seed", range(200))
def test_onnx_runtime_agrees(runtime, seed):
    proto, inputs = random_lstm(seed)
    expected = session(runtime, proto).run(None, inputs)
    for result, right in zip(from_onnx(proto).run(inputs), expected, strict=True):
        assert result.dtype == right.dtype
        assert (np.abs(result - right) <= TOLERANCE * np.maximum(1, np.abs(right))).all()


def test_layers_compute_the_same_as_their_nodes(runtime):
    rng = np.random.default_rng(3)
    weights = weights_of(rng, 2, 3, 5)
    proto = model(
        [
            node(
                "LSTM",
                ["x", "W", "R", "B", "", "", "", "P"],
                ["y", "h", "c"],
                direction="bidirectional",
                clip=0.7,
                hidden_size=5,
            )
        ],
        ["x"],
        ["y", "h", "c"],
        weights,
    )
    x = rng.standard_normal((6, 4, 3)).astype(np.float32)
    y, h, c = session(runtime, proto).run(None, {"x": x})
    (lstm,) = lstms(proto).values()
    ours, states = lstm(x)
    np.testing.assert_allclose(ours.reshape(6, 4, 2, 5).swapaxes(1, 2), y, atol=TOLERANCE)
    np.testing.assert_allclose(states, [h, c], atol=TOLERANCE)


def test_layout_1_is_layout_0_transposed(runtime):
    rng = np.random.default_rng(4)
    weights = weights_of(rng, 2, 3, 5)
    names = ["x", "W", "R", "B", "lengths", "h0", "c0", "P"]
    inputs = {
        "x": rng.standard_normal((6, 4, 3)).astype(np.float32),
        "lengths": np.array([6, 1, 3, 5], np.int32),
        "h0": rng.standard_normal((2, 4, 5)).astype(np.float32),
        "c0": rng.standard_normal((2, 4, 5)).astype(np.float32),
    }
    protos = [
        model(
            [node("LSTM", names, ["y", "h", "c"], direction="bidirectional", hidden_size=5, **layout)],
            list(inputs),
            ["y", "h", "c"],
            weights,
            types={"lengths": INT32},
        )
        for layout in ({}, {"layout": 1})
    ]
    y, h, c = session(runtime, protos[0]).run(None, inputs)
    with pytest.raises(Exception, match="layout"):
        session(runtime, protos[1])
    transposed = {name: inputs[name].swapaxes(0, 1) for name in ("x", "h0", "c0")} | {"lengths": inputs["lengths"]}
    y1, h1, c1 = from_onnx(protos[1]).run(transposed)
    assert y1.shape == (4, 6, 2, 5)
    np.testing.assert_allclose(y1, y.transpose(2, 0, 1, 3), atol=TOLERANCE)
    np.testing.assert_allclose([h1, c1], [h.swapaxes(0, 1), c.swapaxes(0, 1)], atol=TOLERANCE)
    (lstm,) = lstms(protos[1]).values()
    assert lstm.batch_first


def test_length_0_gives_the_initial_state_and_zeros_in_onnx_runtime(runtime):
    rng = np.random.default_rng(5)
    names = ["x", "W", "R", "", "lengths", "h0", "c0"]
    proto = model(
        [node("LSTM", names, ["y", "h", "c"], hidden_size=5)],
        ["x", "lengths", "h0", "c0"],
        ["y", "h", "c"],
        weights_of(rng, 1, 3, 5),
        types={"lengths": INT32},
    )
    inputs = {name: rng.standard_normal((1, 2, 5)).astype(np.float32) for name in ("h0", "c0")}
    inputs |= {"x": rng.standard_normal((4, 2, 3)).astype(np.float32), "lengths": np.array([0, 2], np.int32)}
    _, h, c = session(runtime, proto).run(None, inputs)
    y, h_n, c_n = from_onnx(proto).run(inputs)
    assert not y[:, :, 0].any()
    assert not h[:, 0].any()
    assert not c[:, 0].any()
    np.testing.assert_array_equal([h_n[:, 0], c_n[:, 0]], [inputs["h0"][:, 0], inputs["c0"][:, 0]])
    np.testing.assert_allclose([h_n[:, 1], c_n[:, 1]], [h[:, 1], c[:, 1]], atol=TOLERANCE)


def test_onnx_runtime_accepts_alphas_that_we_refuse(runtime):
    """ONNX Runtime takes 0 for missing alphas, not ONNX's defaults, and ignores superfluous ones."""
    rng = np.random.default_rng(5)
    weights = weights_of(rng, 1, 3, 5)
    x = rng.standard_normal((4, 2, 3)).astype(np.float32)

    def run(**attributes):
        made = model([plain_lstm("WR", hidden_size=5, **attributes)], ["x"], weights=weights)
        return made, session(runtime, made).run(None, {"x": x})[0]

    for name in ("Affine", "ScaledTanh", "ThresholdedRelu"):
        activations = ["Sigmoid", "Tanh", name]
        made, y = run(activations=activations)
        _, zeros = run(activations=activations, activation_alpha=[0.0], activation_beta=[0.0])
        np.testing.assert_array_equal(y, zeros)
        with pytest.raises(ValueError, match=f"{name.lower()} without its alpha"):
            lstms(made)
    made, y = run(activation_alpha=[0.5, 0.5])
    np.testing.assert_array_equal(y, run()[1])
    with pytest.raises(ValueError, match="more values than there are"):
        lstms(made)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_dtypes(dtype):
    rng = np.random.default_rng(6)
    proto = model(
        [plain_lstm("WRB", outputs=["y", "h", "c"])],
        ["x"],
        ["y", "h", "c"],
        weights_of(rng, 1, 3, 5, dtype),
        types=dict.fromkeys("xyhc", TYPES[dtype]),
    )
    x = rng.standard_normal((6, 4, 3)).astype(dtype)
    results = from_onnx(proto).run({"x": x})
    assert {array.dtype.name for array in results} == {dtype}
    (lstm,) = lstms(proto).values()
    assert lstm.dtype == np.dtype("float64" if dtype == "float64" else "float32")
    y, *_ = reference_lstm(lstm, x, np.zeros((2, 1, 4, 5)))
    np.testing.assert_allclose(results[0][:, 0], y, atol=1e-13 if dtype == "float64" else 1e-3)


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


# Weights after chains of operators


def constant(name, **attributes):
    return node("Constant", [], [name], **attributes)


def one_direction(name, weights):
    return weights[name][0]


def integers(*values):
    return np.array(values, np.int64)


CHAINS = {
    "Identity": lambda W: ([node("Identity", ["w"], ["v"]), node("Identity", ["v"], ["W"])], {"w": W}),
    "Unsqueeze": lambda W: ([node("Unsqueeze", ["w", "axes"], ["W"])], {"w": W[0], "axes": integers(0)}),
    "Squeeze": lambda W: ([node("Squeeze", ["w", "axes"], ["W"])], {"w": W[None], "axes": integers(0)}),
    "Concat": lambda W: ([node("Concat", ["a", "b"], ["W"], axis=1)], {"a": W[:, :3], "b": W[:, 3:]}),
    "Transpose": lambda W: ([node("Transpose", ["w"], ["W"], perm=[0, 2, 1])], {"w": W.swapaxes(1, 2)}),
    "Reshape": lambda W: ([node("Reshape", ["w", "shape"], ["W"])], {"w": W.ravel(), "shape": integers(*W.shape)}),
    "Cast": lambda W: ([node("Cast", ["w"], ["W"], to=FLOAT)], {"w": W.astype(np.float64)}),
    "Split": lambda W: ([node("Split", ["w"], ["W", "V"], axis=0)], {"w": np.concatenate([W, -W])}),
    "Gather": lambda W: (
        [node("Gather", ["w", "where"], ["W"], axis=1)],
        {"w": W[:, ::-1], "where": np.arange(W.shape[1])[::-1]},
    ),
    "Add": lambda W: ([node("Add", ["w", "w"], ["W"])], {"w": W / 2}),
    "Slice": lambda W: (
        [
            constant("starts", value_ints=[1]),
            constant("ends", value_ints=[2]),
            node("Slice", ["w", "starts", "ends"], ["W"]),
        ],
        {"w": np.concatenate([-W, W])},
    ),
    "Constant": lambda W: ([constant("W", value=numpy_helper.from_array(W))], {}),
    "Constant of floats": lambda W: (
        [constant("w", value_floats=W.ravel().tolist()), node("Reshape", ["w", "shape"], ["W"])],
        {"shape": integers(*W.shape)},
    ),
    "gates one by one": lambda W: (  # as PyTorch's exporter writes them, in its order
        [
            *[node("Slice", ["w", f"start{gate}", f"start{gate + 1}", "axes"], [f"gate{gate}"]) for gate in range(4)],
            node("Concat", ["gate0", "gate3", "gate1", "gate2"], ["v"], axis=0),
            node("Unsqueeze", ["v", "axes"], ["W"]),
        ],
        {"w": gate_order.reorder(W[0], gate_order.ONNX), "axes": integers(0)}
        | {f"start{gate}": integers(gate * W.shape[1] // 4) for gate in range(5)},
    ),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_weights_after_operators_are_folded(chain):
    weights = weights_of(np.random.default_rng(8), 1, 3, 5)
    nodes, arrays = CHAINS[chain](weights["W"])
    given = {"R": weights["R"], "B": weights["B"]}
    lstm_node = plain_lstm("WRB")
    proto = model([*nodes, lstm_node], ["x"], weights=given | arrays)
    direct = model([lstm_node], ["x"], weights=given | {"W": weights["W"]})
    (found,), (expected,) = lstms(proto).values(), lstms(direct).values()
    for name, array in expected.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], array)
    x = np.ones((4, 2, 3), np.float32)
    np.testing.assert_array_equal(from_onnx(proto).run({"x": x}), from_onnx(direct).run({"x": x}))


def test_gates_are_in_the_order_of_the_specification():
    """W holds i, o, f, c; B holds Wb, then Rb; P holds i, o, f."""
    W = np.arange(4, dtype=np.float32).reshape(1, 4, 1)
    B = np.arange(8, dtype=np.float32).reshape(1, 8)
    P = np.arange(3, dtype=np.float32).reshape(1, 3)
    proto = model(
        [node("LSTM", ["x", "W", "R", "B", "", "", "", "P"])], ["x"], weights={"W": W, "R": W + 10, "B": B, "P": P}
    )
    (lstm,) = lstms(proto).values()
    parameters = {name: array.ravel().tolist() for name, array in lstm.parameters.items()}
    assert parameters == {
        "weight_ih_l0": [0, 2, 3, 1],
        "weight_hh_l0": [10, 12, 13, 11],
        "bias_ih_l0": [0, 2, 3, 1],
        "bias_hh_l0": [4, 6, 7, 5],
        "peephole_l0": [0, 2, 1],
    }


def test_attributes_become_options():
    weights = weights_of(np.random.default_rng(9), 2, 3, 5)
    attributes = {
        "direction": "bidirectional",
        "activations": ["HardSigmoid", "LeakyRelu", "Tanh", "Sigmoid", "Elu", "HARDSIGMOID"],
        "activation_alpha": [0.125, 0.5, 0.25],
        "activation_beta": [0.75],
        "clip": 3.0,
        "input_forget": 1,
    }
    (lstm,) = lstms(model([plain_lstm("WR", **attributes)], ["x"], weights=weights)).values()
    assert lstm.bidirectional
    assert not lstm.bias
    assert (lstm.clip, lstm.coupled_gates, lstm.peepholes) == (3.0, "f=1-i", False)
    assert lstm.activations == (
        (("hardsigmoid", 0.125, 0.75), ("leakyrelu", 0.5, 0.0), ("tanh", 0.0, 0.0)),
        (("sigmoid", 0.0, 0.0), ("elu", 0.25, 0.0), ("hardsigmoid", 0.2, 0.5)),
    )


BAD_ATTRIBUTES = {
    "direction 'up' or layout 0": {"direction": "up"},
    "layout 2 is not": {"layout": 2},
    "activations: expected 3, got": {"activations": ["Tanh"]},
    "got 'swish'": {"activations": ["Swish", "Tanh", "Tanh"]},
    "more values than there are": {"activation_alpha": [0.1]},
    "affine without its alpha": {"activations": ["Affine", "Tanh", "Tanh"], "activation_beta": [1.0]},
    "clip: expected": {"clip": 0.0},
    "expected hidden_size = 6": {"hidden_size": 6},
    "attribute 'colour' is unknown": {"colour": 1},
    "attribute 'clip' is unknown, or of another type": {"clip": 1},
}


@pytest.mark.parametrize("message", BAD_ATTRIBUTES)
def test_invalid_attributes_are_refused(message):
    weights = weights_of(np.random.default_rng(9), 1, 3, 5)
    proto = model([plain_lstm("WR", **BAD_ATTRIBUTES[message])], ["x"], weights=weights)
    for read in (lstms, from_onnx):
        with pytest.raises(ValueError, match=rf"model: node 'lstm' \(LSTM\): .*{message}"):
            read(proto)


@pytest.mark.parametrize(
    ("name", "shape"), [("W", (1, 20, 0)), ("W", (1, 12, 3)), ("R", (2, 20, 5)), ("B", (1, 20)), ("P", (1, 20))]
)
def test_misshaped_weights_are_refused(name, shape):
    weights = weights_of(np.random.default_rng(9), 1, 3, 5) | {name: np.zeros(shape, np.float32)}
    proto = model([node("LSTM", ["x", "W", "R", "B", "", "", "", "P"])], ["x"], weights=weights)
    with pytest.raises(
        ValueError, match=rf"model: the node of 'y' \(LSTM\): .*{'input_size' if 0 in shape else name}: exp"
    ):
        lstms(proto)


def test_weights_of_different_types_are_refused():
    weights = weights_of(np.random.default_rng(9), 1, 3, 5)
    for changed, types in ({"R": np.float64}, "float32, float64"), ({"W": np.int64, "R": np.int64}, "int64"):
        given = weights | {name: weights[name].astype(dtype) for name, dtype in changed.items()}
        proto = model([plain_lstm("WR")], ["x"], weights=given)
        for read in (lstms, from_onnx):
            with pytest.raises(
                ValueError, match=rf"node 'lstm' .*: expected weights of one floating type, got {types}$"
            ):
                read(proto)


def test_layers_have_unique_names():
    weights = weights_of(np.random.default_rng(9), 1, 3, 5)
    nodes = [
        plain_lstm("WR", name=name, outputs=outputs)
        for name, outputs in [("a", ["y"]), ("", ["", "h"]), ("a", ["", "", "c"]), ("", ["z"])]
    ]
    assert list(lstms(model(nodes, ["x"], ["y", "h", "c", "z"], weights))) == ["a", "h", "a_2", "z"]


def test_nodes_inside_if_and_loop_are_found():
    rng = np.random.default_rng(10)
    weights = weights_of(rng, 1, 3, 5)

    def branch(name, *nodes):
        return helper.make_graph(
            [*nodes, plain_lstm("WR", name=name, outputs=[f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", FLOAT, None)],
        )

    body = helper.make_graph(
        [
            node("Identity", ["R"], ["R2"]),
            node("LSTM", ["x", "W", "R2"], ["loop_y"], name="looped"),
            node("Identity", ["go"], ["on"]),
        ],
        "body",
        [helper.make_tensor_value_info("step", INT64, []), helper.make_tensor_value_info("go", 9, [])],
        [helper.make_tensor_value_info("on", 9, []), helper.make_tensor_value_info("loop_y", FLOAT, None)],
    )
    inner = node("If", ["flag"], ["inner_y"], then_branch=branch("deep"), else_branch=branch("deeper"))
    outer = branch("plain")
    nodes = [
        node("If", ["flag"], ["y"], name="choice", then_branch=branch("first", inner), else_branch=outer),
        node("Loop", ["count", "flag"], ["z"], name="again", body=body),
    ]
    proto = model(nodes, ["x", "flag", "count"], ["y", "z"], weights, types={"flag": 9, "count": INT64})
    found = lstms(proto)
    assert set(found) == {"first", "plain", "deep", "deeper", "looped"}
    for lstm in found.values():
        np.testing.assert_array_equal(
            lstm.parameters["weight_hh_l0"], gate_order.reorder(weights["R"][0], gate_order.ONNX)
        )
    with pytest.raises(
        ValueError, match=r"3 nodes are not supported: If: 2, such as node 'choice' \(If\); Loop: 1, node 'again'"
    ):
        from_onnx(proto)


def test_weights_may_be_inputs_of_the_graph():
    weights = weights_of(np.random.default_rng(11), 1, 3, 5)
    proto = model([plain_lstm("WRB")], ["x", "W", "B"], weights={"R": weights["R"]})
    with pytest.raises(ValueError, match=r"node 'lstm' \(LSTM\): W = 'W', B = 'B': not constant"):
        lstms(proto)
    run = from_onnx(proto)
    x = np.ones((4, 2, 3), np.float32)
    for scale in (1, 2):
        given = {"W": scale * weights["W"], "B": scale * weights["B"]}
        direct = model([plain_lstm("WRB")], ["x"], weights={"R": weights["R"], **given})
        np.testing.assert_array_equal(run.run({"x": x, **given}), from_onnx(direct).run({"x": x}))
    with pytest.raises(ValueError, match=r"node 'lstm' \(LSTM\): W: expected shape \(D, 4H, I\) = \(1, 20, 3\)"):
        run.run({"x": x, "W": weights["W"][:, :3], "B": weights["B"]})


def test_constant_initial_states_give_a_warning():
    weights = weights_of(np.random.default_rng(11), 1, 3, 5)
    names = ["x", "W", "R", "", "", "h0", "c0"]
    zeros, other = np.zeros((1, 2, 5), np.float32), np.zeros((1, 2, 5), np.float32)
    other[0, 1, 2] = 1
    lstms(model([node("LSTM", names)], ["x"], weights=weights | {"h0": zeros, "c0": zeros}))
    with pytest.warns(UserWarning, match="its initial_c is constant and not zero"):
        lstms(model([node("LSTM", names)], ["x"], weights=weights | {"h0": zeros, "c0": other}))


def test_nan_and_infinity_are_a_warning_or_an_error():
    weights = weights_of(np.random.default_rng(11), 1, 3, 5)
    weights["R"][0, 3, 2] = np.nan
    proto = model([plain_lstm("WR")], ["x"], weights=weights)
    with pytest.warns(UserWarning, match="model: NaN or infinity in lstm: R"):
        lstms(proto)
    with pytest.warns(UserWarning, match="model: NaN or infinity in R"):
        from_onnx(proto)
    with pytest.raises(ValueError, match="model: NaN or infinity in R"):
        from_onnx(proto, strict=True)


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
    assert repr(small) == "OnnxModel(x, h0 -> y, h)"


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
    monkeypatch.setattr("lstm_cy.weights.onnx.graph.LARGEST_RESULT", 4 * 432)
    run.run(given)
    monkeypatch.setattr("lstm_cy.weights.onnx.graph.LARGEST_RESULT", 4 * 432 - 1)
    with pytest.raises(ValueError, match=r"node 'lstm' \(LSTM\): its layer takes 1728 bytes; at most 1727 are allowed"):
        run.run(given)


def test_all_results_of_a_run_are_bounded(monkeypatch):
    """Single results are small, and results that are no longer needed do not count."""
    monkeypatch.setattr("lstm_cy.weights.onnx.graph.LARGEST_RUN", 1 << 20)
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
    monkeypatch.setattr("lstm_cy.weights.onnx.graph.LARGEST_RUN", 4 * ((1 << 16) + 1))  # of v1, and of x
    assert len(seen.run({"x": [0.0]})) == 9
    monkeypatch.setattr("lstm_cy.weights.onnx.graph.LARGEST_RUN", 4 * ((1 << 16) + 1) - 1)
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
    with pytest.warns(UserWarning, match="NaN or infinity in z"):
        run = from_onnx(model(nodes, ["x"], ["y", "i"], weights, types={"i": INT64}))
    assert run.run({"x": [1.0]})[0] == [np.inf]


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
        node("Einsum", ["x"], ["a"], name="sum", equation="i->"),
        node("Relu", ["a"], ["b"]),
        node("Fancy", ["b"], ["c"], domain="my.domain"),
        node("Pad", ["c", "pads"], ["d"], name="pad", mode="bounce"),
        node("Gelu", ["d"], ["y"], name="too new"),
    ]
    with pytest.raises(ValueError) as caught:
        from_onnx(model(nodes, ["x"], weights={"pads": integers(0, 0)}))
    assert str(caught.value) == (
        "model: 4 nodes are not supported: Einsum: 1, node 'sum' (Einsum); "
        "Fancy (domain 'my.domain'): 1, the node of 'c' (Fancy); Pad (mode='bounce'): 1, node 'pad' (Pad); "
        "Gelu (not in version 17): 1, node 'too new' (Gelu)"
    )


def test_unsupported_nodes_are_counted_also_in_inner_graphs():
    inner = helper.make_graph(
        [node("Einsum", ["x"], ["a"], equation="i->"), node("Relu", ["x"], ["b"])],
        "inner",
        [],
        [helper.make_empty_tensor_value_info("b")],
    )
    nodes = [node("Einsum", ["x"], [f"v{k}"], equation="i->") for k in range(3000)]
    nodes.append(node("If", ["x"], ["y"], name="choice", then_branch=inner, else_branch=inner))
    with pytest.raises(ValueError) as caught:
        from_onnx(model(nodes, ["x"]))
    assert str(caught.value) == (
        "model: 3003 nodes are not supported: Einsum: 3002, such as the node of 'v0' (Einsum); "
        "If: 1, node 'choice' (If)"
    )
    with pytest.raises(ValueError, match=r"^model: 1 node is not supported: Einsum: 1, the node of 'y' \(Einsum\)$"):
        from_onnx(model([node("Einsum", ["x"], equation="i->")], ["x"]))
    with pytest.raises(ValueError, match=r"20 nodes are not supported: .*; Fancy19: 1, the node of 'v19' \(Fancy19\)$"):
        from_onnx(model([node(f"Fancy{k}", ["x"], [f"v{k}"]) for k in range(20)], ["x"], ["x"]))
    for length in (0, 1000):
        many = [node(f"Fancy{k}", ["x"], [f"v{k}" + "n" * length]) for k in range(30)]
        with pytest.raises(ValueError, match="30 nodes are") as caught:
            from_onnx(model(many, ["x"], ["x"]))
        assert len(str(caught.value)) < 2100
        assert length or str(caught.value).endswith("; and 10 other operators")


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
    listed = re.search(r"\*\*Operators:\*\* (.*?)\.", page, re.DOTALL).group(1)
    assert re.split(r",\s+", listed) == sorted([*operators.OPERATORS, "LSTM"])


def test_threads_share_a_model(small):
    inputs = [{name: scale + array for name, array in small_inputs().items()} for scale in range(8)]
    expected = [small.run(given) for given in inputs]
    with ThreadPoolExecutor(4) as pool:
        for results, right in zip(pool.map(small.run, inputs * 20), expected * 20, strict=True):
            assert bits(*results) == bits(*right)


# Files, external data


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("number", TENSOR_DTYPES)
def test_tensors_of_every_type(number, raw):
    dtype = TENSOR_DTYPES[number]
    array = np.array([[0, 1, 100], [1, 0, 255 if dtype.kind == "u" else -128]]).astype(dtype)
    tensor = numpy_helper.from_array(array, "w")
    if not raw:
        bits_of = array.view(np.uint16) if dtype.name == "float16" else array
        tensor = helper.make_tensor("w", number, array.shape, (array if number == 10 else bits_of).ravel().tolist())
    assert tensor.HasField("raw_data") == raw
    made = model([node("Identity", ["w"])], types={"y": number})
    made.graph.initializer.append(tensor)
    (y,) = from_onnx(made).run({})
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, array)


@pytest.mark.parametrize("size", [-1, "?", "", " ", "None", "-1"])
def test_an_unknown_size_is_none(size):
    proto = model([node("Identity", ["x"])], [("x", [size, size, 2])])
    for entry in proto.graph.input[0].type.tensor_type.shape.dim[:2]:  # the helper leaves out an empty name
        if isinstance(size, str):
            entry.dim_param = size
    run = from_onnx(proto)
    assert run.inputs[0].shape == (None, None, 2)
    run.run({"x": np.ones((5, 3, 2))})


def test_a_size_of_0_is_declared():
    run = from_onnx(model([node("Identity", ["x"])], [("x", [0, 2])]))
    assert run.inputs[0].shape == (0, 2)
    assert run.run({"x": np.ones((0, 2))})[0].shape == (0, 2)
    with pytest.raises(ValueError, match=r"x: expected shape \(0, 2\), got \(1, 2\)"):
        run.run({"x": np.ones((1, 2))})


def test_inputs_that_are_no_arrays_of_known_numbers_are_refused():
    values = [helper.make_tensor_value_info("x", kind, None) for kind in (TensorProto.COMPLEX64, 99)]
    values.append(helper.make_tensor_sequence_value_info("x", FLOAT, None))
    for value, kind in zip(values, ("COMPLEX64", "99", "sequence_type"), strict=True):
        proto = model([node("Identity", ["x"])], ["x"])
        proto.graph.input[0].CopyFrom(value)
        with pytest.raises(ValueError, match=f"value 'x': expected an array of numbers or strings, got {kind}$"):
            from_onnx(proto)


def test_sizes_with_the_same_name_must_be_equal():
    run = from_onnx(model([node("Identity", ["x"])], [("x", ["N", "N"])]))
    with pytest.raises(ValueError, match=r"x: expected shape \('N', 'N'\)"):
        run.run({"x": np.ones((5, 3))})


def test_paths_bytes_and_protos_are_read(tmp_path):
    weights = weights_of(np.random.default_rng(13), 1, 3, 5)
    proto = model([plain_lstm("WR")], ["x"], weights=weights)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    x = np.ones((4, 2, 3), np.float32)
    results = [from_onnx(given).run({"x": x}) for given in (proto, path, str(path), path.read_bytes())]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    assert lstm_cy.from_onnx is from_onnx
    with pytest.raises(TypeError, match="model: expected a path, bytes or an onnx.ModelProto, got int"):
        from_onnx(3)
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "missing.onnx")


def test_the_largest_file(monkeypatch):
    proto = model([node("Identity", ["x"])], ["x"])
    size = proto.ByteSize()
    for limit in (size, size - 1):
        monkeypatch.setattr("lstm_cy.weights.onnx.proto.LARGEST_FILE", limit)
        for given in (proto, proto.SerializeToString()):
            if limit == size:
                from_onnx(given)
                continue
            with pytest.raises(ValueError, match=f"^model: {size} bytes; an ONNX file has at most {limit}$"):
                from_onnx(given)


def test_names_of_at_most_100_characters_are_given_whole():
    for name, shown in ((99 * "n" + "'", f'"{99 * "n"}\'"'), (100 * "n" + "'", r"'n*\.\.\. \(.* more characters\)'")):
        with pytest.raises(ValueError, match=f"no node gives output {shown}$"):
            from_onnx(model([node("Relu", ["x"])], ["x"], [name]))


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for read in (from_onnx, lstms):
        with pytest.raises(ImportError, match="pip install onnx"):
            read("model.onnx")


@pytest.fixture
def external(tmp_path):
    """(path, change): a model with weights in weights.bin; `change` edits entries of W and rewrites the model."""
    weights = weights_of(np.random.default_rng(14), 1, 3, 5)
    proto = model([plain_lstm("WR")], ["x"], weights={name: weights[name] for name in "WR"})
    folder = tmp_path / "model"
    folder.mkdir()
    offset = 0
    with open(folder / "weights.bin", "wb") as file:
        for tensor in proto.graph.initializer:
            entries = {"location": "weights.bin", "offset": str(offset), "length": str(len(tensor.raw_data))}
            offset += file.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)

    def change(**entries):
        for entry in proto.graph.initializer[0].external_data:
            entry.value = entries.pop(entry.key, entry.value)
        for key, value in entries.items():
            proto.graph.initializer[0].external_data.add(key=key, value=value)
        (folder / "model.onnx").write_bytes(proto.SerializeToString())

    change()
    return folder / "model.onnx", change, weights


def test_external_data_in_the_models_folder_are_read(external, monkeypatch):
    path, _, weights = external
    for given in (path, "model.onnx"):
        monkeypatch.chdir(path.parent)
        (lstm,) = lstms(given).values()
        np.testing.assert_array_equal(
            lstm.parameters["weight_ih_l0"], gate_order.reorder(weights["W"][0], gate_order.ONNX)
        )
    from_onnx(path)
    with pytest.raises(ValueError, match="tensor 'W': its data are in another file; pass the path"):
        lstms(path.read_bytes())


BAD_EXTERNAL = [
    ({"location": "../secret"}, "only files in the model's own folder"),
    ({"location": "/etc/passwd"}, "only files in the model's own folder"),
    ({"location": "inner/weights.bin"}, "only files in the model's own folder"),
    ({"location": ".."}, "only files in the model's own folder"),
    ({"location": "."}, "only files in the model's own folder"),
    ({"location": ""}, "only files in the model's own folder"),
    ({"location": "w\0"}, "only files in the model's own folder"),
    ({"location": "link"}, "it is a link"),
    ({"location": "pipe"}, "it is not a file"),
    ({"location": "inner"}, "it is not a file"),
    ({"location": "missing"}, "No such file"),
    ({"offset": "401"}, "240 bytes at 401 of 'weights.bin', which has 640"),
    ({"offset": str(2**60)}, "which has 640"),
    ({"offset": "-1"}, "external data of 240 bytes at -1"),
    ({"offset": "1e2"}, "external data of 240 bytes at 1e2"),
    ({"offset": "9" * 5000}, "external data of 240 bytes"),
    ({"length": "241"}, "external data of 241 bytes at 0, 240 are expected"),
    ({"length": str(2**60)}, "240 are expected"),
    ({"basepath": "/"}, "'basepath': '/'"),
]


@pytest.mark.parametrize(("entries", "message"), BAD_EXTERNAL)
def test_other_external_data_are_refused(external, entries, message):
    path, change, _ = external
    folder = path.parent
    (folder.parent / "secret").write_bytes(bytes(1000))
    (folder / "inner").mkdir()
    (folder / "inner" / "weights.bin").write_bytes(bytes(1000))
    (folder / "link").symlink_to("weights.bin")
    os.mkfifo(folder / "pipe")
    change(**entries)
    for read in (lstms, from_onnx):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "tensor 'W'" in str(caught.value)


def test_a_link_is_refused_if_opening_would_follow_it(external, monkeypatch):
    path, change, _ = external
    (path.parent / "link").symlink_to("weights.bin")
    change(location="link")
    monkeypatch.delattr(os, "O_NOFOLLOW")  # as on Windows
    monkeypatch.setattr("lstm_cy.weights.onnx.proto._READ", os.O_RDONLY)
    with pytest.raises(ValueError, match="it is a link"):
        lstms(path)


def test_many_tensors_over_one_file_do_not_fill_the_memory(tmp_path):
    """Equal tensors over one file are read once; the sum of all may not be more than the file has."""
    proto = model([node("Relu", ["x"])], ["x"])
    (tmp_path / "w.bin").write_bytes(bytes(4 << 20))
    for number in range(200):
        tensor = proto.graph.initializer.add(name=f"w{number}", dims=[1 << 20], data_type=FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    assert guarded(lambda: from_onnx(path)) < 20 << 20
    for number, tensor in enumerate(proto.graph.initializer):
        tensor.dims[0] = (1 << 20) - number
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match="of them not yet used"):
        from_onnx(path)


# Truncated, damaged and hostile files


def guarded(function):
    """Return the peak memory of Python and NumPy; fail if the function hangs."""
    tracemalloc.start()
    started = time.perf_counter()
    try:
        function()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.perf_counter() - started < 10  # detects a hang; speed is measured elsewhere
    return peak


def assert_refused(proto, message):
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    for read in (lstms, from_onnx):

        def assert_refused_by_one(read=read):
            with pytest.raises(ValueError, match=message) as caught:
                read(data)
            assert str(caught.value).startswith("model: ")

        assert guarded(assert_refused_by_one) < 100 << 20


def test_every_prefix_is_refused(tmp_path):
    weights = weights_of(np.random.default_rng(15), 1, 30, 30)
    data = model([plain_lstm("WRB")], ["x"], weights=weights).SerializeToString()
    path = tmp_path / "model.onnx"
    for size in [*range(0, len(data), 1024), *range(1, 40), *range(len(data) - 40, len(data))]:
        path.write_bytes(data[:size])
        for read in (lstms, from_onnx):
            with pytest.raises(ValueError, match="truncated, or not an ONNX model") as caught:
                read(path)
            assert str(path) in str(caught.value)


def test_damaged_bytes_cause_at_most_a_value_error():
    weights = weights_of(np.random.default_rng(16), 1, 2, 2)
    data = model([plain_lstm("WRB")], ["x"], weights=weights).SerializeToString()
    rng = np.random.default_rng(17)
    for _ in range(400):
        damaged = bytearray(data)
        for index in rng.integers(0, len(data), 2):
            damaged[index] = rng.integers(0, 256)
        for read in (lstms, from_onnx):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    read(bytes(damaged))
                except ValueError as error:
                    assert str(error).startswith("model: ")


def test_invalid_graphs_are_refused():
    relu = node("Relu", ["a"], ["b"], name="relu")
    assert_refused(
        model([relu, node("Relu", ["b"], ["a"])], outputs=["a"]), "node 'relu' .*'a' is made by a later node: a cycle"
    )
    assert_refused(model([node("Relu", ["a"], ["a"])], outputs=["a"]), "'a' is made by a later node: a cycle")
    assert_refused(model([relu], outputs=["b"]), r"node 'relu' \(Relu\): its input 'a' is given by nothing")
    assert_refused(model([relu, relu], ["a"], ["b"]), "value 'b' is given twice")
    assert_refused(model([relu], ["a", "a"], ["b"]), "value 'a' is given twice")
    assert_refused(model([relu], ["a"], ["c"]), "no node gives output 'c'")
    assert_refused(model([], ["a"], ["a"], opset=6), "operators of version 6; versions 7 to 25")
    assert_refused(model([], ["a"], ["a"], opset=99), "operators of version 99; versions 7 to 25")
    assert_refused(model([node("Relu", ["a"] * 1000)], ["a"]), "expected 1 to 1 inputs")
    assert_refused(
        model([node("Transpose", ["w"], perm=[0, 0])], weights={"w": np.ones((2, 2))}),
        "perm: expected each of 2 axes once",
    )
    assert_refused(model([node("Concat", ["a", "a"])], ["a"]), r"\(Concat\): attribute 'axis' is missing")
    assert_refused(
        model([node("Gather", ["", "a"])], ["a"]), r"\(Gather\): input 0 is left out, which this operator needs"
    )
    assert_refused(model([node("Relu", ["a"], ["b", "c"])], ["a"]), r"\(Relu\): expected at most 1 outputs, got 2")
    proto = model([node("Relu", ["w"])], ["w"])
    one, where = (numpy_helper.from_array(np.ones(1, dtype), "w") for dtype in (np.float32, np.int64))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(one, where, [3]))
    assert_refused(proto, "sparse tensors are not supported")
    assert_refused(b"\x0d\0\0\0", "truncated, or not an ONNX model: it ends too early")
    assert_refused(b"", "truncated, or not an ONNX model")
    assert_refused(b"not an ONNX model at all", "truncated, or not an ONNX model")


def test_tensors_with_wrong_sizes_are_refused():
    def with_tensor(**fields):
        proto = model([node("Relu", ["w"])])
        tensor = proto.graph.initializer.add(name="w", data_type=fields.pop("data_type", FLOAT))
        tensor.dims.extend(fields.pop("dims", [1]))
        for name, value in fields.items():
            if isinstance(value, list):
                getattr(tensor, name).extend(value)
            else:
                setattr(tensor, name, value)
        return proto

    assert_refused(with_tensor(dims=[2**60], raw_data=bytes(4)), "tensor 'w': shape .* elements, the file holds 1")
    assert_refused(with_tensor(dims=[2**40, 2**40]), "the file holds 0")
    assert_refused(with_tensor(dims=[-1], raw_data=bytes(4)), r"tensor 'w': shape \(-1,\)")
    assert_refused(with_tensor(dims=[-1, -1], raw_data=bytes(4)), r"tensor 'w': shape \(-1, -1\)")
    assert_refused(with_tensor(dims=[1], raw_data=bytes(5)), "the file holds 1.25")
    assert_refused(with_tensor(dims=[2], float_data=[1.0]), "the file holds 1")
    assert_refused(with_tensor(dims=[1] * 100, raw_data=bytes(4)), "tensor 'w': 100 dimensions; at most 64")
    assert_refused(with_tensor(dims=[2**62] * 10_000), "tensor 'w': 10000 dimensions; at most 64")
    assert_refused(with_tensor(dims=[2**50, 0], raw_data=b""), "its other axes would take")
    from_onnx(with_tensor(dims=[1] * 64, raw_data=bytes(4)))
    assert_refused(with_tensor(dims=[1] * 65, raw_data=bytes(4)), "tensor 'w': 65 dimensions; at most 64")
    from_onnx(with_tensor(dims=[2**28, 0], raw_data=b""))
    assert_refused(with_tensor(dims=[2**28 + 1, 0], raw_data=b""), "its other axes would take")
    assert_refused(with_tensor(data_type=0), "type UNDEFINED")
    assert_refused(with_tensor(data_type=8), r"tensor 'w': shape \(1,\) does not fit its 0 strings")
    assert_refused(with_tensor(data_type=99), "type 99")
    proto = with_tensor(raw_data=bytes(4))
    proto.graph.initializer[0].segment.begin = 1
    assert_refused(proto, "segments are not supported")


def test_strings_must_be_in_their_own_field():
    proto = model([node("Identity", ["w"])])
    tensor = proto.graph.initializer.add(name="w", data_type=TensorProto.STRING, dims=[1], string_data=[b"a"])
    assert from_onnx(proto).run({})[0].tolist() == ["a"]
    tensor.raw_data = b"a"
    assert_refused(proto, "tensor 'w': expected strings in string_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    assert_refused(proto, "tensor 'w': expected strings in string_data")


def test_attributes_that_give_no_plain_value_are_refused():
    one, where = (numpy_helper.from_array(np.ones(1, dtype)) for dtype in (np.float32, np.int64))
    proto = model([node("Constant", [], name="few", sparse_value=helper.make_sparse_tensor(one, where, [3]))])
    assert_refused(proto, r"node 'few' \(Constant\): attribute 'sparse_value' is of a type that is not supported")
    proto = model([node("Transpose", ["x"], name="swap", perm=[1, 0])], ["x"])
    (attribute,) = proto.graph.node[0].attribute
    attribute.ref_attr_name = "perm"  # an attribute of the function around the node
    assert_refused(proto, r"node 'swap' \(Transpose\): attribute 'perm' is of a type that is not supported")
    attribute.ClearField("ref_attr_name")
    from_onnx(proto)
    proto.graph.node[0].attribute.append(attribute)
    assert_refused(proto, r"node 'swap' \(Transpose\): attribute 'perm' occurs twice")


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("ConstantOfShape", ["n"], ["W"])], {"n": integers(2**20, 2**20)}),
        ([node("Expand", ["one", "n"], ["W"])], {"n": integers(2**20, 2**20), "one": np.ones(1, np.float32)}),
        ([node("Tile", ["one", "n"], ["W"])], {"n": integers(2**40), "one": np.ones(1, np.float32)}),
        ([node("Range", ["zero", "n", "one"], ["W"])], {"n": np.int64(2**50), "one": np.int64(1), "zero": np.int64(0)}),
        ([node("Pad", ["one", "n"], ["W"])], {"n": integers(0, 2**40), "one": np.ones(1, np.float32)}),
        ([node("Add", ["a", "b"], ["W"])], {"a": np.ones((2**15, 1)), "b": np.ones((1, 2**15))}),
        ([node("Gather", ["a", "b"], ["W"])], {"a": np.ones((1, 2**15)), "b": np.zeros(2**15, np.int64)}),
        (
            [
                node("Concat", ["v0" if k == 0 else f"v{k}"] * 8, ["W" if k == 9 else f"v{k + 1}"], axis=0)
                for k in range(10)
            ],
            {"v0": np.ones(1000, np.float32)},
        ),
    ],
    ids=lambda value: value[0].op_type if isinstance(value, list) else "",
)
def test_constant_folding_is_limited(nodes, weights):
    """The constant is not folded: `lstms` raises, and `from_onnx` leaves it to the run, which refuses it too."""
    weights = {**weights, "R": np.ones((1, 4, 1), np.float32)}
    proto = model([*nodes, plain_lstm("WR")], ["x"], weights=weights)

    def assert_refused_by_one():
        with pytest.raises(ValueError, match="W = 'W': not constant, or over the limit of constant folding"):
            lstms(proto)

    assert guarded(assert_refused_by_one) < 100 << 20
    from_onnx(proto)


def repeated_lstm(count, I, H, **changes):
    """Return LSTM nodes whose weights are one folded tensor each."""
    nodes = []
    for name, shape in (("W", [1, 4 * H, I]), ("R", [1, 4 * H, H])):
        nodes += [constant(f"{name}_shape", value_ints=shape), node("ConstantOfShape", [f"{name}_shape"], [name])]
    for k in range(count):
        options = {key: values[k] for key, values in changes.items()}
        nodes.append(plain_lstm("WR", outputs=[f"y{k}"], name=f"lstm{k}", **options))
    return model(nodes, ["x"], [f"y{k}" for k in range(count)])


def test_nodes_with_the_same_weights_share_layers(monkeypatch):
    made = []
    layer = LstmNode.layer
    monkeypatch.setattr(LstmNode, "layer", lambda *arguments: made.append(1) or layer(*arguments))
    proto = repeated_lstm(30, 1000, 2)
    run = from_onnx(proto)
    assert len(made) == 1
    results = run.run({"x": np.ones((3, 2, 1000))})
    assert all((result == results[0]).all() for result in results)
    found = lstms(proto)
    assert len(made) == 2
    parameters = [lstm.parameters["weight_ih_l0"] for lstm in found.values()]
    assert all(np.shares_memory(array, parameters[0]) for array in parameters)
    found["lstm0"].load_state_dict({name: array + 1 for name, array in found["lstm0"].parameters.items()})
    assert not found["lstm1"].parameters["weight_ih_l0"].any()  # each layer still belongs to the caller alone
    made.clear()
    from_onnx(repeated_lstm(3, 5, 2, clip=[1.0, 2.0, 1.0]))
    assert len(made) == 2


def test_layers_are_charged_to_the_budget(monkeypatch):
    """Layers over the budget are made when the graph runs, and `lstms` raises; weights in the file have no limit."""
    made = []
    layer = LstmNode.layer
    monkeypatch.setattr(LstmNode, "layer", lambda *arguments: made.append(1) or layer(*arguments))
    proto = repeated_lstm(300, 100_000, 1, clip=[1.0 + k for k in range(300)])
    with pytest.raises(ValueError, match="^model: its layers: would take more than .* the limit for a file of"):
        lstms(proto)
    assert 0 < len(made) < 100
    made.clear()
    run = from_onnx(proto)
    assert len(made) < 100
    (y,) = run.run({"x": np.ones((3, 2, 100_000), np.float32)}, outputs=["y299"])
    assert y.shape == (3, 1, 2, 1)
    made.clear()
    weights = weights_of(np.random.default_rng(19), 1, 500_000, 4)
    lstms(model([plain_lstm("WR")], ["x"], weights=weights).SerializeToString())
    assert made == [1]


@pytest.mark.parametrize(
    ("D", "I", "H", "numbers"),
    [
        # 4H (I + H + 2) parameters, twice, and as many packed, with H rounded up to a multiple of 16
        (1, 3, 5, 4 * 5 * 10 + 4 * 5 * 10 + 4 * 16 * 10),
        (2, 1, 16, 2 * (4 * 16 * 19 + 4 * 16 * 19 + 4 * 16 * 19)),
        (1, 40, 17, 4 * 17 * 59 + 4 * 17 * 59 + 4 * 32 * 59),
    ],
)
@pytest.mark.parametrize(("dtype", "width"), [("float16", 4), ("float32", 4), ("float64", 8)])
def test_the_memory_of_a_layer(D, I, H, numbers, dtype, width):
    weights = [array.astype(dtype) for array in weights_of(np.random.default_rng(0), D, I, H).values()]
    assert layer_bytes(weights) == width * numbers
    assert layer_bytes([None, weights[1]]) == layer_bytes([weights[0], weights[1][0]]) == 0


def varint(number):
    result = b""
    while number > 127:
        result += bytes([number & 127 | 128])
        number >>= 7
    return result + bytes([number])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def file_of(graph, before=b""):
    """Return a file with this content of its graph, without the library onnx, which might change it."""
    return before + field(7, graph) + bytes.fromhex("42021011")


COSTLY = {
    "nodes": file_of(b"\x0a\0" * 100_000),
    "tensors": file_of(b"\x2a\0" * 100_000),
    "inputs": file_of(b"\x5a\0" * 100_000),
    "properties": file_of(b"", b"\x72\0" * 300_000),
    "names": file_of(field(1, b"\x0a\0" * 300_000)),
    "attributes": file_of(field(1, b"\x2a\0" * 150_000)),
    "integers of an attribute": file_of(field(1, field(5, field(8, bytes(900_000))))),
    "dimensions": file_of(field(5, field(1, bytes(900_000)))),
    "strings": file_of(field(5, b"\x32\0" * 300_000)),
    "pieces of numbers": file_of(field(5, field(5, b"\1") * 100_000)),
    "opsets": file_of(b"", b"\x42\0" * 300_000),
    "functions": file_of(b"", field(25, b"\x3a\0" * 50_000)),
    "numbers in many bytes": file_of(b"", (b"\x88" + b"\x80" * 8 + b"\0\0") * 50_000),
}


@pytest.mark.parametrize("kind", COSTLY)
def test_costly_small_files_are_refused_before_they_are_parsed(kind, monkeypatch):
    monkeypatch.setattr(onnx, "load_model_from_string", None)
    message = "model: its (nodes and tensors|numbers): would take more than 800000 objects, the limit for a file of"
    with pytest.raises(ValueError, match=message):
        from_onnx(COSTLY[kind])


def test_packed_integers_are_charged_as_memory(monkeypatch):
    monkeypatch.setattr(onnx, "load_model_from_string", None)
    with pytest.raises(ValueError, match="model: its numbers: would take more than .* bytes of memory"):
        from_onnx(file_of(field(5, field(7, bytes(20_000_000)))))


def test_texts_must_be_utf_8():
    for content in (field(1, field(4, b"\xff")), field(5, field(8, b"\xed\xa0\x80"))):
        with pytest.raises(ValueError, match="truncated, or not an ONNX model: 'utf-8' codec can't decode"):
            from_onnx(file_of(content))
    with pytest.raises(ValueError, match="utf-8"):
        from_onnx(file_of(field(1, field(4, b"n" * 100_000 + b"\xff"))))
    assert from_onnx(file_of(field(10, b"a page of text in Latin-1: \xe9"))).inputs == ()  # a doc_string is not decoded


def test_a_sparse_file_is_not_read_completely(tmp_path):
    path = tmp_path / "model.onnx"
    for begin in (b"", bytes.fromhex("0808 3a 9cfc a0cb 05"), b"PK\3\4", b"some text"):
        with open(path, "wb") as file:
            file.write(begin)
            file.truncate(1_500_000_000)

        def assert_refused_by_one():
            with pytest.raises(ValueError, match="truncated, or not an ONNX model") as caught:
                from_onnx(path)
            assert str(path) in str(caught.value)

        assert guarded(assert_refused_by_one) < 1 << 20


def test_a_pipe_is_read(tmp_path):
    path = tmp_path / "pipe.onnx"
    os.mkfifo(path)
    data = model([node("Relu", ["x"])], ["x"]).SerializeToString()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(path.write_bytes, data)
        assert from_onnx(path).run({"x": [-1.0]})[0] == [0]
        writing.result()


def test_too_many_nodes_and_too_deep_graphs_are_refused():
    identity = [node("Identity", ["x" if k == 0 else f"v{k}"], [f"v{k + 1}"]) for k in range(40_000)]
    with pytest.raises(ValueError, match="model: its nodes and tensors: would take more than 800000 objects"):
        from_onnx(model(identity, ["x"], ["v1"]).SerializeToString())
    proto = model([], ["x"], ["x"])
    graph = proto.graph
    for _ in range(LARGEST_DEPTH + 2):  # the last stays empty
        choice = graph.node.add(op_type="If", input=["x"])
        graph = choice.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
    with pytest.raises(ValueError, match="model: graphs inside graphs: nested deeper than 64 levels"):
        from_onnx(proto)
    assert_refused(proto, "truncated, or not an ONNX model: .*MaxDepth")


def test_functions_that_replace_operators_are_refused():
    proto = model([node("Relu", ["x"])], ["x"])
    proto.functions.append(
        helper.make_function("", "Relu", ["x"], ["y"], [node("Neg", ["x"])], [helper.make_opsetid("", 17)])
    )
    assert_refused(proto, "functions that replace ONNX's operators: Relu")


def test_an_lstm_inside_a_function_is_refused():
    proto = model([node("Mine", ["x"], domain="mine")], ["x"])
    inside = [node("Relu", ["x"], ["z"]), node("LSTM", ["z", "z", "z"])]
    proto.functions.append(helper.make_function("mine", "Mine", ["x"], ["y"], inside, [helper.make_opsetid("", 17)]))
    with pytest.raises(ValueError, match="function 'Mine' has an LSTM; onnx.inliner"):
        lstms(proto)
