"""Plans of graphs: results equal to the steps run one by one and to ONNX Runtime's, fusion, memory, threads."""

import threading
import warnings

import numpy as np
import pytest

import lstm_cy
from lstm_cy import config
from lstm_cy._kernels.runtime.threads import share_always
from lstm_cy.weights.graph import Graph, Value
from lstm_cy.weights.onnx import from_onnx
from lstm_cy.weights.plans import cache

pytest.importorskip("onnx")
from onnx import helper
from onnx_models import integers, model, node, session, weights_of

RNG = np.random.default_rng(71)


def floats(*shape):
    return (0.5 * RNG.standard_normal(shape)).astype(np.float32)


def one_by_one(graph, inputs):
    """Return the outputs of a graph whose steps are run from Python."""
    return graph.evaluate({name: np.asarray(array) for name, array in inputs.items()})


def assert_runs_agree(graph, runtime_session, inputs, tolerance=2e-5):
    """Compare three runs of a plan with the steps run one by one, and with ONNX Runtime; the runs are equal."""
    runs = [graph.run(inputs) for _ in range(3)]
    for expected in (one_by_one(graph, inputs), *([runtime_session.run(None, inputs)] if runtime_session else [])):
        for found, other in zip(runs[0], expected, strict=True):
            assert found.shape == other.shape and found.dtype == other.dtype
            np.testing.assert_allclose(found, other, rtol=tolerance, atol=tolerance)
    for again in runs[1:]:
        for found, other in zip(again, runs[0], strict=True):
            np.testing.assert_array_equal(found, other)
            assert not np.shares_memory(found, other)


def kinds(graph, inputs):
    return [part.what for part in graph.plan(inputs, runs=1).parts if part.what != "copy"]


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("groups", [1, 3])
def test_convolutions(runtime, axes, groups):
    """Odd sizes, strides, dilations, padding and batches; channels first or transposed before; with an activation."""
    for draw in range(12):
        rng = np.random.default_rng([axes, groups, draw])
        sizes, kernel = rng.integers(7, 20, axes), rng.integers(1, 4, axes)
        channels, outputs = groups * int(rng.integers(2, 40)), groups * int(rng.integers(1, 50))
        attributes = {
            "strides": rng.integers(1, 4, axes).tolist() if draw % 2 else [1] * axes,
            "dilations": rng.integers(1, 3, axes).tolist() if draw % 3 else [1] * axes,
            "pads": rng.integers(0, 3, 2 * axes).tolist() if draw % 4 else [0] * 2 * axes,
            "group": groups,
        }
        weights = {"w": floats(outputs, channels // groups, *kernel), "b": floats(outputs)}
        nodes = [node("Conv", ["x", "w", "b"] if draw % 2 else ["x", "w"], ["c"], **attributes)]
        nodes.append(node(["Relu", "Sigmoid", "Tanh"][draw % 3], ["c"], ["y"]))
        proto = model(nodes, ["x"], ["y"], weights)
        x = floats(int(rng.integers(1, 4)), channels, *sizes)
        graph = from_onnx(proto)
        assert_runs_agree(graph, session(runtime, proto), {"x": x})
        assert kinds(graph, {"x": x}) == ["product"] * groups + (["unary"] if groups > 1 else [])


def test_convolutions_of_each_channel(runtime):
    """One to three results of a channel, joined to what follows; the sums have the bits of the steps."""
    cases = [(1, 3, 1), (2, 17, 1), (1, 5, 2), (2, 33, 3), (2, 2, 1), (2, 7, 1)]
    for draw, (axes, channels, times) in enumerate(cases):
        rng = np.random.default_rng(draw)
        outputs, kernel = channels * times, rng.integers(1, 4, axes)
        attributes = {
            "strides": rng.integers(1, 4, axes).tolist(),
            "dilations": rng.integers(1, 3, axes).tolist(),
            "pads": rng.integers(0, 3, 2 * axes).tolist(),
            "group": channels,
        }
        x = floats(1 + draw % 3, channels, *rng.integers(7, 12, axes))
        weights = {"w": floats(outputs, 1, *kernel), "b": floats(outputs)}
        proto = model([node("Conv", ["x", "w", "b"], **attributes)], ["x"], ["y"], weights)
        graph = from_onnx(proto)
        assert_runs_agree(graph, session(runtime, proto), {"x": x})
        np.testing.assert_array_equal(graph.run({"x": x})[0], one_by_one(graph, {"x": x})[0])
        weights |= {name: floats(outputs) for name in ("scale", "bias", "mean")} | {"var": np.ones(outputs, "f4")}
        nodes = [
            node("Conv", ["x", "w"], ["c"], **attributes),
            node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["n"]),
            node("Clip", ["n", "low", "high"], ["y"]),
        ]
        weights |= {"low": np.float32(0), "high": np.float32(0.8)}
        proto = model(nodes, ["x"], ["y"], weights)
        graph = from_onnx(proto)
        assert_runs_agree(graph, session(runtime, proto), {"x": x})
        assert kinds(graph, {"x": x}) == ["depthwise"]
    proto = model([node("Conv", ["x", "w"], strides=[2**63 - 1], group=3)], ["x"], ["y"], {"w": floats(3, 1, 2)})
    assert_runs_agree(from_onnx(proto), None, {"x": floats(2, 3, 5)})


def exact(a, zero, w, w_zero):
    """Return the sums of a product of integers, or of a convolution with a kernel of 2 x 3 and a padding of 1."""
    a, w = a.astype(np.int64) - zero, w.astype(np.int64) - w_zero
    if w.ndim == 2:
        return a @ w
    padded = np.pad(a, [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2, 3), (2, 3))
    if w.shape[1] == 1:
        return np.einsum("nchwij,cij->nchw", windows, w[:, 0])
    return np.einsum("nchwij,mcij->nmhw", windows, w)


@pytest.mark.parametrize("kind", ["product", "convolution", "each channel"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_integers_are_exact(kind, dtype):
    """What quantize_dynamic of ONNX Runtime writes: extreme numbers, no zero point, one, and one for each output."""
    limits = np.iinfo(dtype)
    shape, w_shape = {
        "product": ((3, 5, 127), (127, 17)),
        "convolution": ((2, 5, 7, 9), (17, 5, 2, 3)),
        "each channel": ((2, 17, 7, 9), (17, 1, 2, 3)),
    }[kind]
    outputs = (17,) if kind == "product" else (17, 1, 1)
    attributes = {} if kind == "product" else {"pads": [1, 1, 1, 1], "group": 17 if kind == "each channel" else 1}
    op_type = "MatMulInteger" if kind == "product" else "ConvInteger"
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("Cast", ["i"], ["f"], to=1),
        node("Mul", ["s", "ws"], ["ss"]),
        node("Mul", ["f", "ss"], ["m"]),
        node("Add", ["m", "b"], ["a"]),
        node("Relu", ["a"], ["y"]),
    ]
    for zeros in ((), ("z",), ("z", "one"), ("z", "each")):
        weights = {"w": RNG.integers(limits.min, limits.max, w_shape, dtype, endpoint=True), "one": dtype(100)}
        weights |= {"each": RNG.integers(limits.min, limits.max, 17, dtype, endpoint=True)}
        weights |= {"ws": 0.01 + RNG.random(outputs, "f4"), "b": floats(*outputs)}
        weights["w"][..., 0] = limits.max
        integer = node(op_type, ["q", "w", *zeros], ["i"], **attributes)
        made = [nodes[0], integer, *nodes[1:]]
        graph, inputs = from_onnx(model(made, ["x"], ["y"], weights)), {"x": 3 + floats(*shape)}
        assert kinds(graph, inputs)[0] == "quantize" and not {"python"} & {p.where for p in graph.plan(inputs).parts}
        every = from_onnx(model(made, ["x"], ["q", "s", "z", "i", "f", "y"], weights, types={"q": 2, "z": 2, "i": 6}))
        for found in (graph, every):
            for run in range(2):
                for array, other in zip(found.run(inputs), one_by_one(found, inputs), strict=True):
                    assert array.dtype == other.dtype
                    np.testing.assert_array_equal(array, other, str(run))
        q, _s, z, sums, *_ = every.run(inputs)
        w_zero = 0 if len(zeros) < 2 else weights[zeros[1]].astype(np.int64)
        if kind != "product" and zeros[-1:] == ("each",):
            w_zero = w_zero.reshape(-1, 1, 1, 1)
        np.testing.assert_array_equal(sums, exact(q, int(z) if zeros else 0, weights["w"], w_zero))


def test_integers_from_unusual_numbers():
    """Zeros, one sign, infinity, NaN, ties, a transposed array and a part of one."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        node("DynamicQuantizeLinear", ["t"], ["q", "s", "z"]),
        node("Slice", ["x", "first", "last"], ["part"]),
        node("DynamicQuantizeLinear", ["part"], ["q2", "s2", "z2"]),
    ]
    names = ["q", "s", "z", "q2", "s2", "z2"]
    weights = {"first": integers(0, 1), "last": integers(3, 3)}
    graph = from_onnx(model(nodes, ["x"], names, weights, types=dict.fromkeys(["q", "z", "q2", "z2"], 2)))
    ties = np.linspace(-127.5, 127.5, 256, dtype="f4").reshape(8, 32)
    for x in (np.zeros((3, 5)), floats(5, 33), -np.abs(floats(4, 7)), ties, np.full((3, 3), np.inf), 9 + floats(17, 3)):
        x = np.array(x, np.float32)
        for special in (None, np.nan, -np.inf):
            if special is not None:
                x[-1, -1] = special
            for found, expected in zip(graph.run({"x": x}), one_by_one(graph, {"x": x}), strict=True):
                assert found.dtype == expected.dtype and found.shape == expected.shape
                np.testing.assert_array_equal(found, expected)
    assert "python" not in {part.where for part in graph.plan({"x": x}).parts}


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, None])
def test_numbers_that_are_quantized_and_back(dtype):
    """One scale and zero point, or one of each channel; ties, infinity, NaN, numbers far beyond; a transposed array."""
    limits = np.iinfo(dtype or np.uint8)
    typed = helper.np_dtype_to_tensor_dtype(limits.dtype)
    for size in ((), (1,), (17,)):
        weights = {
            "s": np.broadcast_to(np.float32(0.25), size) * (1 + np.arange(17, dtype="f4") if size == (17,) else 1)
        }
        if dtype:
            weights["z"] = RNG.integers(limits.min, limits.max, size, dtype, endpoint=True)
        constants = ["s", "z"] if dtype else ["s"]
        nodes = [
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 2, 0]),
            node("QuantizeLinear", ["t", *constants], ["q"], axis=1),
            node("DequantizeLinear", ["q", *constants], ["d"], axis=-2),
            node("Relu", ["d"], ["y"]),
        ]
        for outputs in (["y"], ["q", "d", "y"]):
            graph = from_onnx(model(nodes, ["x"], outputs, weights, opset=21, types={"q": typed}))
            x = (30 * floats(5, 3, 17)).round(3)
            x[0] = np.arange(51).reshape(3, 17) / 8 - 3
            x[1, :, :6] = np.inf, -np.inf, np.nan, 1e30, -1e30, 3e6
            for _ in range(2):
                for found, expected in zip(graph.run({"x": x}), one_by_one(graph, {"x": x}), strict=True):
                    assert found.dtype == expected.dtype
                    np.testing.assert_array_equal(found, expected)
            assert "python" not in {part.where for part in graph.plan({"x": x}, runs=1).parts}


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_products_of_integers_with_constant_scales(dtype):
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("MatMulInteger", ["q", "w", "z"], ["i"]),
        node("DequantizeLinear", ["i", "s"], ["y"]),
    ]
    weights = {"s": np.float32(0.01), "z": dtype(97), "w": RNG.integers(-128, 128, (33, 5), np.int8)}
    proto = model(nodes, ["x"], ["y", "i", "q"], weights, types={"i": 6, "q": 2 if dtype is np.uint8 else 3})
    graph, inputs = from_onnx(proto), {"x": floats(3, 33)}
    for _ in range(2):
        found = graph.run(inputs)
        for array, expected in zip(found, one_by_one(graph, inputs), strict=True):
            np.testing.assert_array_equal(array, expected)
        np.testing.assert_array_equal(found[1], exact(found[2], 97, weights["w"], 0))
    assert "python" not in {part.where for part in graph.plan(inputs, runs=1).parts}


def test_integers_that_the_kernels_do_not_take():
    """Sums that float32 cannot hold, integers from elsewhere, and steps that have no kernel: Python computes them."""
    long = model(
        [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("MatMulInteger", ["q", "w", "z"], ["y"])],
        ["x"],
        ["y"],
        {"w": np.full((519, 3), 127, np.int8)},
        types={"y": 6},
    )
    product = node("MatMulInteger", ["x", "w"], ["y"])
    given = model([product], ["x"], ["y"], {"w": np.ones((5, 3), np.int8)}, types={"x": 2, "y": 6})
    steps = [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("MatMulInteger", ["q", "w", "z"], ["i"])]
    steps += [node("Add", ["i", "i"], ["i2"]), node("Transpose", ["i"], ["t"]), node("Cast", ["i"], ["y"], to=11)]
    outputs = ["i2", "t", "y"]
    after = model(steps, ["x"], outputs, {"w": np.ones((5, 3), np.int8)}, types={"i2": 6, "t": 6, "y": 11})
    for proto, x in ((long, floats(4, 519)), (given, RNG.integers(0, 256, (4, 5), np.uint8)), (after, floats(4, 5))):
        graph = from_onnx(proto)
        for _ in range(2):
            for found, expected in zip(graph.run({"x": x}), one_by_one(graph, {"x": x}), strict=True):
                assert found.dtype == expected.dtype
                np.testing.assert_array_equal(found, expected)
        assert "python" in {part.where for part in graph.plan({"x": x}, runs=1).parts}
    largest = np.abs(from_onnx(long).run({"x": np.ones((1, 519), "f4")})[0]).max()
    assert largest == 255 * 127 * 519 > 1 << 24


def test_the_stride_of_a_single_window_may_be_any_number():
    proto = model([node("Conv", ["x", "w"], strides=[2**63 - 1, 2])], ["x"], ["y"], {"w": floats(3, 2, 2, 3)})
    graph, inputs = from_onnx(proto), {"x": floats(2, 2, 5, 9)}
    assert_runs_agree(graph, None, inputs)
    assert kinds(graph, inputs) == ["product"]


def test_normalization_addition_and_activation_are_joined_to_a_convolution(runtime):
    channels, outputs = 5, 7
    weights = {"w": floats(outputs, channels, 3, 3), "shift": floats(outputs, 1, 1), "factor": np.float32(1.7)}
    weights |= {name: floats(outputs) for name in ("scale", "bias", "mean")} | {"var": 0.5 + RNG.random(outputs, "f4")}
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["n"], epsilon=1e-3),
        node("Add", ["shift", "n"], ["a"]),
        node("Mul", ["a", "factor"], ["m"]),
        node("Clip", ["m", "low", "high"], ["y"]),
    ]
    weights |= {"low": np.float32(-0.2), "high": np.float32(0.9)}
    proto = model(nodes, ["x"], ["y"], weights)
    graph, inputs = from_onnx(proto), {"x": floats(2, channels, 9, 6)}
    assert_runs_agree(graph, session(runtime, proto), inputs)
    plan = graph.plan(inputs, runs=2)
    (product,) = [part for part in plan.parts if part.what == "product"]
    assert len(product.steps) == 5
    assert all(part.what in ("product", "copy") and part.where == "kernels" for part in plan.parts)
    # the result of the convolution is an output too: nothing may be joined to it
    proto = model(nodes, ["x"], ["c", "y"], weights)
    assert_runs_agree(from_onnx(proto), session(runtime, proto), inputs)


def test_products_and_what_follows_them(runtime):
    weights = {"w": floats(33, 17), "b": floats(17), "v": floats(9, 17), "c": floats(1, 9)}
    nodes = [
        node("MatMul", ["x", "w"], ["p"]),
        node("Add", ["b", "p"], ["q"]),
        node("Tanh", ["q"], ["r"]),
        node("Flatten", ["r"], ["f"], axis=2),
        node("Gemm", ["f", "v", "c"], ["g"], transB=1, alpha=0.5, beta=2.0),
        node("Softmax", ["g"], ["y"], axis=-1),
    ]
    proto = model(nodes, ["x"], ["y"], weights)
    graph = from_onnx(proto)
    for shape in ((1, 1, 33), (3, 5, 33), (127, 2, 33)):
        assert_runs_agree(graph, session(runtime, proto), {"x": floats(*shape)})
    assert kinds(graph, {"x": floats(3, 5, 33)}) == ["product", "product", "softmax"]
    assert_runs_agree(graph, None, {"x": floats(5, 3, 33).transpose(1, 0, 2)[::2]})  # inputs need not be contiguous


def speech_model(H=20):
    """Return a detector with a state: a branch by the rate, a convolution, an LSTM, and a running state."""
    rng = np.random.default_rng(5)
    weights = {"k": floats(18, 1, 16), "e": floats(24, 9, 3), "eb": floats(24), "h": floats(1, H, 1), "hb": floats(1)}
    weights |= {"rate": np.array(16000), "zero": integers(0), "one": integers(1), "nine": integers(9)}
    weights |= {"last": integers(18), "minus": integers(-1), "pads": integers(0, 4, 0, 4), "two": np.float32(2)}
    weights |= weights_of(rng, 1, 24, H) | {"first": np.array(0), "second": np.array(1)}
    then = helper.make_graph([node("Identity", ["x"], ["same"])], "then", [], [value("same")])
    other = helper.make_graph([node("Neg", ["x"], ["turned"])], "else", [], [value("turned")])
    nodes = [
        node("Equal", ["sr", "rate"], ["is"]),
        helper.make_node("If", ["is"], ["chosen"], then_branch=then, else_branch=other),
        node("Pad", ["chosen", "pads"], ["p"], mode="reflect"),
        node("Unsqueeze", ["p", "one"], ["u"]),
        node("Conv", ["u", "k"], ["f"], strides=[8]),
        node("Slice", ["f", "zero", "nine", "one"], ["re"]),
        node("Slice", ["f", "nine", "last", "one"], ["im"]),
        node("Pow", ["re", "two"], ["re2"]),
        node("Pow", ["im", "two"], ["im2"]),
        node("Add", ["re2", "im2"], ["power"]),
        node("Sqrt", ["power"], ["s"]),
        node("Conv", ["s", "e", "eb"], ["c"], pads=[1, 1], strides=[2]),
        node("Relu", ["c"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[2, 0, 1]),
        node("Gather", ["state", "first"], ["h0"]),
        node("Gather", ["state", "second"], ["c0"]),
        node("LSTM", ["t", "W", "R", "B", "", "h0", "c0"], ["ys", "hn", "cn"], hidden_size=H),
        node("Unsqueeze", ["hn", "zero"], ["hu"]),
        node("Unsqueeze", ["cn", "zero"], ["cu"]),
        node("Concat", ["hu", "cu"], ["stateN"], axis=0),
        helper.make_node("Transpose", ["hn"], ["ht"], perm=[1, 2, 0]),
        node("Relu", ["ht"], ["hr"]),
        node("MatMul", ["sq", "h2"], ["z"]),
        node("Sigmoid", ["z"], ["y"]),
    ]
    nodes.insert(-2, node("Squeeze", ["hr", "minus"], ["sq"]))
    weights["h2"] = weights.pop("h")[0]
    inputs = [("x", ["B", "N"]), ("state", [2, 1, "B", H]), ("sr", [])]
    return model(nodes, inputs, ["y", "stateN"], weights, types={"sr": 7})


def value(name):
    return helper.make_tensor_value_info(name, 1, None)


def test_a_step_with_states_is_one_program(runtime):
    """The branch and everything that follows from shapes are gone, and the state goes from call to call."""
    proto = speech_model()
    graph, theirs = from_onnx(proto), session(runtime, proto)
    for batch, samples in ((1, 64), (3, 72), (1, 64)):
        for rate in (16000, 8000):
            state = np.zeros((2, 1, batch, 20), np.float32)
            for _ in range(3):
                inputs = {"x": floats(batch, samples), "state": state, "sr": np.array(rate)}
                assert_runs_agree(graph, theirs, inputs)
                _y, state = graph.run(inputs)
    plan = graph.plan(inputs, runs=3)
    assert {part.where for part in plan.parts} == {"kernels"}
    assert not {"If", "Shape"} & {part.what for part in plan.parts}
    found = plan.as_dict()
    assert len(found["parts"]) == len(plan.parts) and found["seconds"] == plan.seconds > 0
    assert "product" in str(plan) and repr(plan) in str(plan) and "0 by Python" in repr(plan)
    with pytest.raises(ValueError, match="runs"):
        graph.plan(inputs, runs=0)


def test_several_threads_run_one_graph():
    graph, errors = from_onnx(speech_model()), []
    cases = [
        {"x": floats(batch, samples), "state": floats(2, 1, batch, 20), "sr": np.array(16000)}
        for batch, samples in ((1, 64), (1, 64), (2, 80))
    ]
    expected = [one_by_one(graph, case) for case in cases]

    def work(number):
        for turn in range(60):
            index = (turn + number) % len(cases)
            for found, other in zip(graph.run(cases[index]), expected[index], strict=True):
                if not np.allclose(found, other, rtol=2e-5, atol=2e-5):
                    errors.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_two_threads_of_a_run_give_the_same_bits():
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("Conv", ["c", "each"], ["d"], pads=[1, 2, 3, 2], group=64),
        node("Sigmoid", ["d"], ["s"]),
        node("MaxPool", ["s"], ["y"], kernel_shape=[9, 3]),
    ]
    graph = from_onnx(
        model(nodes, ["x"], ["y"], {"w": floats(64, 48, 3, 3), "b": floats(64), "each": floats(192, 1, 5, 5)})
    )
    x = {"x": floats(2, 48, 33, 31)}
    assert kinds(graph, x) == ["product", "depthwise", "pool"]
    (one,) = graph.run(x)
    previous = lstm_cy.get_num_threads()
    try:
        lstm_cy.set_num_threads(2)
        share_always(True)
        for _ in range(5):
            np.testing.assert_array_equal(graph.run(x)[0], one)
    finally:
        share_always(False)
        lstm_cy.set_num_threads(previous)


def test_every_instruction_set_gives_the_results():
    inputs = {"x": floats(2, 64), "state": floats(2, 1, 2, 20), "sr": np.array(16000)}
    results = {}
    for isa in config.available_instruction_sets():
        with config.using(isa=isa):
            results[isa] = from_onnx(speech_model_once()).run(inputs)
    first = next(iter(results.values()))
    for found in results.values():
        for array, other in zip(found, first, strict=True):
            np.testing.assert_allclose(array, other, rtol=2e-5, atol=2e-5)


_MADE = []


def speech_model_once():
    """Return the same model at each call."""
    if not _MADE:
        _MADE.append(speech_model())
    return _MADE[0]


def test_steps_in_python_between_programs(runtime):
    """Unknown operators, unknown shapes and other dtypes: what the kernels cannot compute is called."""
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Sin", ["r"], ["s"]),
        node("Add", ["s", "r"], ["a"]),
        helper.make_node("Transpose", ["a"], ["t"], perm=[1, 0]),
        node("Greater", ["t", "half"], ["g"]),
        node("NonZero", ["g"], ["n"]),
        node("Cast", ["t"], ["d"], to=11),
        node("Mul", ["d", "d"], ["m"]),
        node("Exp", ["t"], ["y"]),
    ]
    proto = model(nodes, ["x"], ["y", "n", "m", "r"], {"half": np.float32(0.3)}, types={"n": 7, "m": 11})
    graph, inputs = from_onnx(proto), {"x": floats(7, 5)}
    given = inputs["x"].copy()
    assert_runs_agree(graph, session(runtime, proto), inputs)
    np.testing.assert_array_equal(inputs["x"], given)
    for _ in range(3):  # another number of elements is found each time
        assert_runs_agree(graph, None, {"x": floats(7, 5)})
    what = [(part.where, part.what) for part in graph.plan(inputs, runs=1).parts]
    assert ("python", "Sin") in what and ("kernels", "binary") in what
    (subset,) = graph.run(inputs, ["r"])
    np.testing.assert_array_equal(subset, np.maximum(inputs["x"], 0))


def test_pooling_and_reductions(runtime):
    for op_type, attributes in (
        ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
        ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 1], "ceil_mode": 1}),
        ("AveragePool", {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1], "count_include_pad": 1}),
        ("AveragePool", {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1], "strides": [2, 2]}),
        ("GlobalAveragePool", {}),
        ("GlobalMaxPool", {}),
    ):
        proto = model([node(op_type, ["x"], **attributes)], ["x"])
        x = floats(2, 5, 9, 8)
        x[0, 1, 2, 3] = np.nan if op_type.startswith("Average") else 9
        assert_runs_agree(from_onnx(proto), session(runtime, proto), {"x": x})
    for op_type in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"):
        for keepdims in (0, 1):
            for axes in ([1], [0, 2], [-1]):
                nodes = [node(op_type, ["x"], keepdims=keepdims, axes=axes)]
                proto = model(nodes, ["x"], opset=11)
                assert_runs_agree(from_onnx(proto), session(runtime, proto), {"x": floats(3, 4, 5)})


def test_layer_normalization(runtime):
    """Over one axis and several, without a bias, of a transposed input, of one number and of constant rows."""
    for shape, axis, bias in (((3, 5, 17), -1, True), ((2, 33, 3), 1, False), ((4, 127), -1, True), ((3, 1), 1, True)):
        x = 3 + floats(*shape)
        x[0] = 7
        size = shape[axis:]
        names = ["t", "scale", "bias"] if bias else ["t", "scale"]
        nodes = [
            helper.make_node("Transpose", ["x"], ["t"], perm=[len(shape) - 1, *range(len(shape) - 1)]),
            node("LayerNormalization", names, ["n"], axis=axis, epsilon=1e-3),
            node("Relu", ["n"], ["y"]),
        ]
        proto = model(
            nodes, ["x"], ["y"], {"scale": floats(*size), "bias": floats(*size)} if bias else {"scale": floats(*size)}
        )
        graph, inputs = from_onnx(proto), {"x": np.moveaxis(x, 0, -1)}
        assert_runs_agree(graph, session(runtime, proto), inputs)
        assert kinds(graph, inputs) == ["normalize", "unary"]


def test_the_number_of_plans_is_bounded(monkeypatch):
    monkeypatch.setattr(cache, "MOST_PLANS", 3)
    graph = from_onnx(model([node("Relu", ["x"], ["y"])], ["x"]))
    for _ in range(2):
        for size in range(1, 9):
            (y,) = graph.run({"x": -np.ones(size)})
            assert y.tolist() == [0] * size
    assert len(graph._plans._plans) == 3


def test_results_and_inputs_stay_apart():
    """Outputs are new arrays, also where a step passes on its input or a part of another result."""
    nodes = [node("Identity", ["x"], ["same"]), node("Relu", ["x"], ["r"]), node("Identity", ["r"], ["again"])]
    nodes += [helper.make_node("Transpose", ["r"], ["t"], perm=[1, 0])]
    graph = from_onnx(model(nodes, ["x"], ["same", "r", "again", "t", "k"], {"k": floats(2)}))
    x = floats(3, 4)
    first, second = graph.run({"x": x}), graph.run({"x": x})
    every = [x, *first, *second]
    for index, array in enumerate(every):
        assert not any(np.shares_memory(array, other) for other in every[index + 1 :])
        array[...] = 7  # and writing to them changes nothing else
    np.testing.assert_array_equal(graph.run({"x": np.zeros((3, 4))})[4], graph.constants["k"])


def test_a_step_of_ones_own_is_called():
    class Twice:
        name, op_type, inputs, outputs = "twice", "Relu", ("x",), ("y",)

        def run(self, inputs):
            return [2 * inputs[0]]

        def weights(self):
            return []

    x, y = (Value(name, (None, 2), np.dtype(np.float32)) for name in "xy")
    graph = Graph([x], [y], [Twice()])
    assert graph([[-1, 3]]).tolist() == [[-2, 6]]
    assert [(part.where, part.what) for part in graph.plan({"x": [[1, 2]]}, runs=1).parts] == [("python", "Relu")]


def test_a_plan_leaves_numpys_error_state_alone():
    graph = from_onnx(model([node("Sqrt", ["x"], ["s"]), node("Log", ["s"], ["y"])], ["x"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            (y,) = graph.run({"x": [-1.0, 0.0, 4.0]})
    np.testing.assert_allclose(y, [np.nan, -np.inf, np.log(2)], rtol=1e-6)
