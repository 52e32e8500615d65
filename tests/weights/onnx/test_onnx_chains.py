"""Graphs of ONNX as layers one after the other: the results of ONNX Runtime, steps with the bits of the whole."""

import asyncio

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx_models import INT64, integers, model, node, session, weights_of  # noqa: E402

from lstm_cy import LSTM, AsyncStreamPool, Linear, Sequential, StreamPool, from_onnx, load, save  # noqa: E402
from lstm_cy.streaming.stepper import Stepper  # noqa: E402

RNG = np.random.default_rng(0)


def numbers(*shape):
    return (RNG.standard_normal(shape) / 2).astype("f4")


def weights(prefix, inputs, units, directions=1):
    made = weights_of(RNG, directions, inputs, units)
    return {prefix + name: array for name, array in made.items() if name != "P"}


def lstm(prefix, x, outputs, units, **attributes):
    return node("LSTM", [x, *(prefix + name for name in "WRB")], outputs, hidden_size=units, **attributes)


def keyword_spotter():
    """(B, T, 5): causal convolutions with a Pad and a cut, BatchNormalization, pooling, two LSTMs, the last step."""
    nodes = [
        node("Sub", ["x", "mean"], ["centred"]),
        node("Div", ["centred", "deviation"], ["normal"]),
        node("Transpose", ["normal"], ["features_first"], perm=[0, 2, 1]),
        node("Pad", ["features_first", "two_before"], ["padded"]),
        node("Conv", ["padded", "k1", "b1"], ["one"], dilations=[2]),
        node("BatchNormalization", ["one", "scale", "shift", "running", "spread"], ["two"]),
        node("Relu", ["two"], ["three"]),
        node("Conv", ["three", "k2"], ["long"], pads=[2, 2], group=2),
        node("Slice", ["long", "zero", "minus_two", "last"], ["cut"]),
        node("Add", ["cut", "b2"], ["four"]),
        node("MaxPool", ["four"], ["five"], kernel_shape=[2], strides=[2]),
        node("Transpose", ["five"], ["time_first"], perm=[2, 0, 1]),
        lstm("a", "time_first", ["y4"], 7),
        node("Squeeze", ["y4", "one_axis"], ["y3"]),
        node("LeakyRelu", ["y3"], ["bent"], alpha=0.3),
        lstm("b", "bent", ["", "h", "c"], 5),
        node("Gather", ["h", "minus_one"], ["last_h"]),
        node("Gemm", ["last_h", "w", "b"], ["scores"], transB=1, alpha=0.5),
        node("Softmax", ["scores"], ["y"]),
    ]
    constants = {
        "mean": numbers(5),
        "deviation": np.abs(numbers(5)) + 1,
        "two_before": integers(0, 0, 2, 0, 0, 0),
        "k1": numbers(8, 5, 2),
        "b1": numbers(8),
        **{name: np.abs(numbers(8)) + 0.5 for name in ("scale", "shift", "running", "spread")},
        "k2": numbers(6, 4, 3),
        "b2": numbers(6, 1),
        "zero": integers(0),
        "minus_two": integers(-2),
        "last": integers(2),
        "one_axis": integers(1),
        "minus_one": np.array(-1),
        "w": numbers(3, 5),
        "b": numbers(3),
        **weights("a", 6, 7),
        **weights("b", 7, 5),
    }
    return model(nodes, [("x", ["B", "T", 5])], ["y"], constants)


def residual():
    """(T, B, 4): a residual, x * sigmoid(x), a Gelu written with Erf, and zeros of a size that the graph computes."""
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "one"], ["rows"]),
        node("Concat", ["one_axis", "rows", "four"], ["state_shape"], axis=0),
        node("ConstantOfShape", ["state_shape"], ["zeros"]),
        node("LSTM", ["x", "aW", "aR", "aB", "", "zeros", "zeros"], ["y4"], hidden_size=4),
        node("Squeeze", ["y4", "one_axis"], ["y3"]),
        node("MatMul", ["y3", "w"], ["product"]),
        node("Add", ["bias", "product"], ["affine"]),
        node("Add", ["affine", "x"], ["sum"]),
        node("Sigmoid", ["sum"], ["gate"]),
        node("Mul", ["sum", "gate"], ["swish"]),
        node("Div", ["swish", "root"], ["less"]),
        node("Erf", ["less"], ["erf"]),
        node("Add", ["erf", "unit"], ["more"]),
        node("Mul", ["swish", "more"], ["twice"]),
        node("Mul", ["twice", "half"], ["gelu"]),
        node("LayerNormalization", ["gelu", "scale", "scale"], ["normal"]),
        node("Sub", ["unit", "normal"], ["y"]),
    ]
    constants = {
        "one": integers(1),
        "one_axis": integers(1),
        "four": integers(4),
        "w": numbers(4, 4),
        "bias": numbers(4),
        "root": np.float32(np.sqrt(2)),
        "unit": np.float32(1),
        "half": np.float32(0.5),
        "scale": np.abs(numbers(4)) + 0.5,
        **weights("a", 4, 4),
    }
    return model(nodes, [("x", ["T", "B", 4])], ["y"], constants)


def tokens():
    """(B, T) tokens, and rows and steps joined around a product, as converters of TensorFlow write them."""
    nodes = [
        node("Gather", ["table", "x"], ["vectors"]),
        node("Transpose", ["vectors"], ["time_first"], perm=[1, 0, 2]),
        lstm("a", "time_first", ["y4"], 6),
        node("Transpose", ["y4"], ["rows_first"], perm=[2, 0, 1, 3]),
        node("Reshape", ["rows_first", "joined"], ["flat"]),
        node("MatMul", ["flat", "w"], ["product"]),
        node("Shape", ["x"], ["sizes"]),
        node("Concat", ["sizes", "nine"], ["shape"], axis=0),
        node("Reshape", ["product", "shape"], ["logits"]),
        node("LogSoftmax", ["logits"], ["y"], axis=-1),
    ]
    constants = {"table": numbers(9, 3), "joined": integers(-1, 6), "w": numbers(6, 9), "nine": integers(9)}
    return model(nodes, [("x", ["B", "T"])], ["y"], constants | weights("a", 3, 6), types={"x": INT64})


def mean():
    """(1, 3, 40): of one size, with a mean over the steps of a convolution of two axes, one of which is 1."""
    nodes = [
        node("Unsqueeze", ["x", "two"], ["image"]),
        node("Conv", ["image", "k", "b"], ["filtered"], strides=[1, 3]),
        node("Tanh", ["filtered"], ["bent"]),
        node("GlobalAveragePool", ["bent"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "w"], ["y"]),
    ]
    constants = {"two": integers(2), "k": numbers(4, 3, 1, 5), "b": numbers(4), "w": numbers(4, 2)}
    return model(nodes, [("x", [1, 3, 40])], ["y"], constants)


@pytest.mark.parametrize(
    ("make", "shape", "order", "whole"),
    [
        (keyword_spotter, (2, 23, 5), (0, 1, 2), False),
        (residual, (17, 3, 4), (0, 1, 2), True),
        (tokens, (3, 11), (0, 1), True),
        (mean, (1, 3, 40), (0, 2, 1), False),
    ],
)
def test_steps_of_a_chain(runtime, make, shape, order, whole):
    """The Sequential agrees with ONNX Runtime; its steps, from every interface, have the bits of the input so far."""
    proto = make()
    graph = from_onnx(proto)
    x = RNG.integers(0, 9, shape) if make is tokens else RNG.standard_normal(shape).astype("f4")
    (expected,) = session(runtime, proto).run(None, {"x": x})
    ours = graph.sequential()
    turned = np.ascontiguousarray(x.transpose(order))
    y, _ = ours(turned)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5)
    rows_first = ours.batch_first
    steps = turned.swapaxes(0, 1) if rows_first else turned
    stepper, pool = graph.stepper(batch_size=steps.shape[1]), StreamPool(graph)
    assert isinstance(stepper, Stepper)
    ids = [pool.join() for _ in range(steps.shape[1])]
    outputs = np.array([stepper.step(x_t) for x_t in steps])
    assert np.array_equal([pool.step(ids, np.ascontiguousarray(x_t)) for x_t in steps], outputs, equal_nan=True)
    if whole:
        assert np.array_equal(outputs.swapaxes(0, 1) if rows_first else outputs, y)
    else:
        assert np.array_equal(outputs[-1], y)
        part = turned[:, : len(steps) - 3] if rows_first else turned[: len(steps) - 3]
        assert np.array_equal(outputs[-4], ours(part)[0])

    async def serve():
        async with AsyncStreamPool(graph) as served, served.session() as stream:
            return await stream.run(steps[:, 0])

    assert np.array_equal(asyncio.run(serve()), outputs[:, 0], equal_nan=True)


def test_what_our_own_files_hold(tmp_path):
    """A graph of `save` becomes the model again, in both layouts and directions."""
    for options in ({}, {"batch_first": True, "bidirectional": True, "num_layers": 2}, {"reverse": True}):
        units = 4 * (1 + ("bidirectional" in options))
        ours = Sequential(LSTM(3, 4, seed=0, **options), Linear(units, 2, seed=1))
        save(ours, tmp_path / "model.onnx", {"key": [1]})
        found = load(tmp_path / "model.onnx").sequential()
        x = RNG.standard_normal((5, 2, 3)).astype("f4")
        np.testing.assert_allclose(found(x)[0], ours(x)[0], rtol=0, atol=1e-6)
        assert found.batch_first == ours.batch_first and found.metadata == {"key": [1]}


def test_states_become_those_of_the_layers(runtime):
    """A graph of one step with states: a GraphStepper, and as a Sequential streams of a pool."""
    nodes = [
        node("LSTM", ["x", "aW", "aR", "aB", "", "h", "c"], ["y4", "hn", "cn"], hidden_size=4),
        node("Squeeze", ["y4", "axis"], ["y3"]),
        node("MatMul", ["y3", "w"], ["y"]),
    ]
    shapes = [("x", [1, "B", 3]), ("h", [1, "B", 4]), ("c", [1, "B", 4])]
    proto = model(nodes, shapes, ["y", "hn", "cn"], {"axis": integers(1), "w": numbers(4, 2), **weights("a", 3, 4)})
    graph, run = from_onnx(proto), session(runtime, proto)
    x = RNG.standard_normal((9, 1, 2, 3)).astype("f4")
    stepper, pool = graph.stepper(batch_size=2), StreamPool(graph)
    ids, h, c = [pool.join(), pool.join()], *np.zeros((2, 1, 2, 4), "f4")
    for x_t in x:
        expected, h, c = run.run(None, {"x": x_t, "h": h, "c": c})
        np.testing.assert_allclose(stepper.step(x_t), expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(pool.step(ids, x_t[0]), expected[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(pool.state(ids[1])[0][1][0], c[0, 1], rtol=0, atol=1e-6)


def changed(make, op_type, **attributes):
    """Return a model whose first node of a type is another one."""
    proto = make()
    found = next(one for one in proto.graph.node if one.op_type == op_type)
    new = node(attributes.pop("kind", op_type), attributes.pop("inputs", found.input), found.output, **attributes)
    found.CopyFrom(new)
    return proto


def test_what_is_no_chain_says_why_and_which_part_is():
    backwards = changed(keyword_spotter, "LSTM", hidden_size=7, direction="reverse")
    for proto, message in [
        (changed(keyword_spotter, "MaxPool", kernel_shape=[2], pads=[1, 0]), "MaxPool.*complete.*sequential.'four'"),
        (changed(keyword_spotter, "Relu", kind="Abs"), r"Abs.: no layer computes it; the part up to 'two' can"),
        (changed(keyword_spotter, "Conv", pads=[1, 0]), "its zeros, 3 before and 0 after"),
        (changed(keyword_spotter, "LSTM", inputs=["time_first", "aW", "aR", "aB", "", "", "ones"], hidden_size=7),
         "initial state is not zero.*'time_first'"),
        (changed(keyword_spotter, "Transpose", perm=[0, 1, 2]), "Conv"),
        (changed(residual, "Add", inputs=["product", "steps"]), "joins rows, steps or features.*'product'"),
        (changed(tokens, "Gather", kind="Cast", inputs=["x"], to=1), "."),
    ]:  # fmt: skip
        if "ones" in message or "initial" in message:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 2, 7), "f4"), "ones"))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(numbers(29, 1, 1), "steps"))
        graph = from_onnx(proto)
        for make in (graph.sequential, graph.stepper, lambda graph=graph: StreamPool(graph)):
            with pytest.raises(ValueError, match=f"sequential: .*{message}"):
                make()
    with pytest.raises(ValueError, match="stepper: expected an LSTM that runs forwards"):
        from_onnx(backwards).stepper()
    graph = from_onnx(keyword_spotter())
    assert len(graph.sequential("three").layers) == 5
    for name, message in (("long", "no steps before or after"), ("x", "the input itself"), ("w", "that does not")):
        with pytest.raises(ValueError, match=f"sequential: '{name}': .*{message}"):
            graph.sequential(name)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_narrow_weights(kind):
    graph, x = from_onnx(keyword_spotter()), RNG.standard_normal((2, 23, 5)).astype("f4")
    narrow = graph.quantize(kind, {"x": x})
    assert [*narrow.report] == ["y4", "h"] and narrow.report["h"]["sample"] == "given, (11, 2, 7)"
    expected = graph.sequential().quantize(kind)
    found = narrow.sequential()
    assert np.array_equal(found(x)[0], expected(x)[0])
    np.testing.assert_allclose(narrow(x), expected(x)[0], rtol=0, atol=1e-5)
    assert 0 < np.abs(narrow(x) - graph(x)).max() < 0.02
    stepper = narrow.stepper(batch_size=2)
    assert np.array_equal([stepper.step(x_t) for x_t in x.swapaxes(0, 1)][-1], found(x)[0])
    assert all(report["bytes_after"] < report["bytes_before"] for report in narrow.report.values())
    for wrong, message in (({"kind": "int4"}, "kind"), ({"kind": kind, "sample": x}, "inputs: expected a mapping")):
        with pytest.raises((TypeError, ValueError), match=message):
            graph.quantize(**wrong)
    with pytest.raises(ValueError, match="quantize: expected a graph with an LSTM of constant weights, got Conv"):
        from_onnx(mean()).quantize(kind)
