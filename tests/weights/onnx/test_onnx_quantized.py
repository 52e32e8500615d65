"""LSTMs and graphs with 8-bit weights, as onnxruntime.quantization writes them."""

import logging

import numpy as np
import pytest

from lstm_cy.weights.inspect import describe
from lstm_cy.weights.onnx import from_onnx, lstms

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402
from onnx_models import FLOAT, INT32, integers, model, node, session, weights_of  # noqa: E402

TOLERANCE = 1e-3  # of the largest output


@pytest.fixture
def quantize(runtime, tmp_path, monkeypatch):
    """Return a function that quantizes a model. Weights have 7 bits, so that no sum of two products exceeds 16 bits:
    on processors without VNNI, ONNX Runtime replaces such sums by the largest 16-bit number.
    """
    tools = pytest.importorskip("onnxruntime.quantization")
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)

    def function(proto, kind="QInt8", per_channel=False):
        first, last = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
        onnx.save(proto, first)
        options = {"reduce_range": True, "per_channel": per_channel}
        tools.quantize_dynamic(first, last, weight_type=getattr(tools.QuantType, kind), **options)
        return last

    return function


def assert_close(results, expected):
    for result, right in zip(results, expected, strict=True):
        assert (result.dtype, result.shape) == (right.dtype, right.shape)
        assert np.abs(result - right).max(initial=0) <= TOLERANCE * np.abs(right).max(initial=0)


def lstm_model(rng, D, I, H, scale, direction, **attributes):
    """Return a model with lengths and initial states as inputs; R has numbers up to `scale`."""
    weights = {
        "W": rng.uniform(-1, 1, (D, 4 * H, I)).astype("f4"),
        "R": rng.uniform(-scale, scale, (D, 4 * H, H)).astype("f4"),
        "B": rng.uniform(-0.5, 0.5, (D, 8 * H)).astype("f4"),
    }
    inputs = ["x", "W", "R", "B", "lengths", "h0", "c0"]
    made = node("LSTM", inputs, ["y", "h", "c"], "lstm", hidden_size=H, direction=direction, **attributes)
    shapes = [("x", ["T", "B", I]), ("lengths", ["B"]), ("h0", [D, "B", H]), ("c0", [D, "B", H])]
    return model([made], shapes, ["y", "h", "c"], weights, types={"lengths": INT32})


CASES = [  # D, I, H, B, T, largest of R, kind, per_channel, direction, attributes
    (1, 8, 16, 1, 80, 3, "QInt8", False, "forward", {}),
    (1, 8, 17, 3, 80, 3, "QInt8", True, "reverse", {}),
    (2, 40, 64, 2, 80, 3, "QInt8", True, "bidirectional", {}),
    (1, 33, 300, 2, 80, 3, "QInt8", False, "forward", {}),
    (2, 3, 5, 1, 20, 1, "QInt8", False, "bidirectional", {"clip": 0.5}),
    (1, 3, 5, 4, 20, 1, "QInt8", False, "forward", {"activations": ["HardSigmoid", "Softsign", "Relu"]}),
    (1, 7, 8, 2, 20, 1, "QInt8", False, "forward", {"input_forget": 1}),
]


@pytest.mark.parametrize("case", CASES)
def test_quantized_lstms_equal_onnx_runtimes(runtime, quantize, case):
    D, I, H, B, T, scale, kind, per_channel, direction, attributes = case
    rng = np.random.default_rng(H)
    path = quantize(lstm_model(rng, D, I, H, scale, direction, **attributes), kind, per_channel)
    proto = onnx.load(path)
    assert [entry.op_type for entry in proto.graph.node] == ["DynamicQuantizeLSTM"]
    run, theirs = from_onnx(path), session(runtime, proto)
    for shortest in (T, 1):
        lengths = np.sort(rng.integers(shortest, T + 1, B)).astype(np.int32)[::-1].copy()
        given = {"x": rng.standard_normal((T, B, I)).astype("f4"), "lengths": lengths}
        given |= {name: rng.uniform(-1, 1, (D, B, H)).astype("f4") for name in ("h0", "c0")}
        assert_close(run.run(given), theirs.run(None, given))


def test_lstms_of_a_quantized_file_have_its_weights(quantize):
    rng = np.random.default_rng(1)
    proto = lstm_model(rng, 2, 5, 7, 2, "bidirectional")
    (right,), path = lstms(proto).values(), quantize(proto, per_channel=True)
    ((name, lstm),) = lstms(path).items()
    assert name == "lstm_quant"
    for parameter, array in right.parameters.items():
        np.testing.assert_allclose(lstm.parameters[parameter], array, atol=np.abs(array).max() / 60)
    assert "  lstm_quant  LSTM(input_size=5, hidden_size=7, bidirectional=True)" in describe(path)
    assert "not supported: none" in describe(path)


def test_a_quantized_graph_equals_onnx_runtimes(runtime, quantize):
    """Convolution, LSTM and a linear layer: the first and last become ConvInteger and MatMulInteger."""
    rng = np.random.default_rng(2)
    weights = weights_of(rng, 1, 6, 9)
    weights |= {"K": rng.standard_normal((6, 3, 5)).astype("f4"), "M": rng.standard_normal((9, 4)).astype("f4")}
    nodes = [
        node("Conv", ["x", "K"], ["convolved"], pads=[2, 2], strides=[2]),
        node("Relu", ["convolved"], ["positive"]),
        node("Transpose", ["positive"], ["steps"], perm=[2, 0, 1]),
        node("LSTM", ["steps", "W", "R", "B"], ["directions"], hidden_size=9),
        node("Squeeze", ["directions", "one"], ["h"]),
        node("MatMul", ["h", "M"], ["y"]),
    ]
    proto = model(nodes, [("x", ["B", 3, "T"])], ["y"], weights | {"one": integers(1)})
    path = quantize(proto)
    found = {entry.op_type for entry in onnx.load(path).graph.node}
    assert found >= {"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "DynamicQuantizeLSTM"}
    x = rng.standard_normal((2, 3, 41)).astype("f4")
    assert_close(from_onnx(path).run({"x": x}), session(runtime, onnx.load(path)).run(None, {"x": x}))


def test_sums_of_products_are_exact():
    """Also where they exceed the 24 bits of float32, and the 16 bits that some processors have for two products."""
    for size in (2, 258, 600):
        a, b = np.full((1, size), 255, np.uint8), np.full((size, 1), 127, np.int8)
        proto = model([node("MatMulInteger", ["a", "b"])], ["a", "b"], types={"a": 2, "b": 3, "y": INT32})
        assert from_onnx(proto).run({"a": a, "b": b})[0].tolist() == [[255 * 127 * size]]


def quantized_node(**changes):
    """Return a model of a DynamicQuantizeLSTM with inputs as constants, some of them changed; None leaves one out."""
    arrays = {
        "W": np.ones((1, 3, 8), np.int8), "R": np.ones((1, 2, 8), np.int8), "B": np.zeros((1, 16), np.float32),
        "lengths": None, "h0": None, "c0": None, "P": None,
        "W_scale": np.ones(1, np.float32), "W_zero": np.zeros(1, np.int8),
        "R_scale": np.ones(1, np.float32), "R_zero": np.zeros(1, np.int8),
    } | changes  # fmt: skip
    names = ["x", *(name if array is not None else "" for name, array in arrays.items())]
    made = helper.make_node("DynamicQuantizeLSTM", names, ["y"], hidden_size=2, domain="com.microsoft")
    proto = model([made], ["x"], weights={name: array for name, array in arrays.items() if array is not None})
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


def test_wrong_shapes_of_quantized_lstms_are_refused():
    x = np.ones((4, 2, 3), np.float32)
    assert from_onnx(quantized_node()).run({"x": x})[0].shape == (4, 1, 2, 2)
    assert list(lstms(quantized_node())) == ["y"]
    for message, changes in (
        (r"W: expected shape .* = \(1, 3, 8\)", {"W": np.ones((1, 8, 3), np.int8)}),
        (r"R: expected shape .* = \(1, 2, 8\)", {"R": np.ones((1, 2, 12), np.int8)}),
        ("R: expected hidden_size = 2 rows", {"R": np.ones((1, 3, 8), np.int8)}),
        ("expected integers of 8 bits, got int32", {"W": np.ones((1, 3, 8), np.int32)}),
        (r"W_scale: expected shape \(1,\) or \(1, 4H\), got \(3,\)", {"W_scale": np.ones(3, np.float32)}),
        (r"R_zero_point: expected shape \(1,\) or \(1, 4H\), got \(2, 8\)", {"R_zero": np.zeros((2, 8), np.int8)}),
        (r"B: expected shape .* = \(1, 16\)", {"B": np.zeros((1, 15), np.float32)}),
        ("sequence_lens: expected lengths of 0 to 4", {"lengths": np.array([1, 5], np.int32)}),
        (r"initial_h: expected shape .* = \(1, 2, 2\)", {"h0": np.zeros((1, 3, 2), np.float32)}),
        ("input 8 is left out", {"W_scale": None}),
    ):
        with pytest.raises(ValueError, match=message):
            from_onnx(quantized_node(**changes)).run({"x": x})
    with pytest.raises(ValueError, match="X: expected float32 with three axes"):
        from_onnx(quantized_node()).run({"x": x[0]})
    other = quantized_node()
    other.graph.node[0].op_type = "QAttention"
    with pytest.raises(ValueError, match=r"QAttention \(domain 'com.microsoft'\) \(1\)"):
        from_onnx(other)


def test_quantization_in_blocks_and_along_axes():
    x = np.arange(-12, 12, dtype=np.float32).reshape(4, 6)
    scale, zero = np.array([[1, 2, 4], [0.5, 1, 2]] * 2, np.float32), np.array([[0, 1, 2], [3, 4, 5]] * 2, np.int8)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1, block_size=2),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1, block_size=2),
    ]
    proto = model(nodes, ["x"], ["q", "y"], {"s": scale, "z": zero}, opset=21, types={"q": 3})
    q, y = from_onnx(proto).run({"x": x})
    repeated = np.repeat(scale, 2, 1)
    np.testing.assert_array_equal(q, np.rint(x / repeated) + np.repeat(zero, 2, 1))
    np.testing.assert_array_equal(y, np.rint(x / repeated) * repeated)
    wrong = model(nodes, ["x"], ["q", "y"], {"s": scale[:, :2], "z": zero}, opset=21, types={"q": 3})
    with pytest.raises(ValueError, match="y_scale: shape .* does not fit blocks of 2 of shape"):
        from_onnx(wrong).run({"x": x})
    assert numpy_helper.to_array(proto.graph.initializer[0]).shape == (4, 3)
    assert proto.graph.input[0].type.tensor_type.elem_type == FLOAT
