"""If and Loop: nested graphs, their limits, compared with ONNX Runtime."""

import threading
import time

import numpy as np
import pytest

from lstm_cy.weights.inspect import describe
from lstm_cy.weights.onnx import from_onnx, lstms

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402
from onnx_models import FLOAT, INT64, body, constant, graph, integers, model, node, plain_lstm, session, weights_of  # noqa: E402

BOOL = TensorProto.BOOL


def test_an_lstm_step_by_step_in_a_loop_equals_onnx_runtimes(runtime):
    """A decoder: each iteration takes the last output, an If chooses what is fed back, and all outputs are stacked."""
    rng = np.random.default_rng(0)
    weights = weights_of(rng, 1, 5, 5)
    halved = graph([node("Mul", ["new", "half"], ["chosen"])], [], [("chosen", FLOAT)])
    same = graph([node("Identity", ["new"], ["chosen"])], [], [("chosen", FLOAT)])
    nodes = [
        node("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["y", "h_next", "c_next"], hidden_size=5),
        node("Squeeze", ["y", "first"], ["new"]),
        node("ReduceSum", ["new"], ["total"], keepdims=0),
        node("Greater", ["total", "zero"], ["positive"]),
        node("If", ["positive"], ["x_next"], then_branch=halved, else_branch=same),
        node("Less", ["total", "most"], ["on"]),
        node("Identity", ["total"], ["sums"]),
        node("Identity", ["new"], ["outputs"]),
    ]
    loop = node(
        "Loop", ["count", "", "x0", "h0", "c0"], ["x", "h", "c", "sums", "y"],
        body=body(nodes, ("x", "h", "c"), ("sums", "outputs")),
    )  # fmt: skip
    constants = {"half": np.float32(0.5), "zero": np.float32(0), "most": np.float32(1.5), "first": integers(1)}
    inputs = ["x0", "h0", "c0", "count"]
    proto = model([loop], inputs, ["x", "h", "c", "sums", "y"], weights | constants, types={"count": INT64})
    run = from_onnx(proto)
    assert list(lstms(proto)) == ["y"]
    stopped = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        given = {name: 2 * rng.standard_normal((1, 3, 5)).astype(np.float32) for name in inputs[:3]}
        given["count"] = np.array(seed, np.int64)
        expected = session(runtime, proto).run(None, given) if seed else None  # 0 iterations: shapes not declared
        results = run.run(given)
        assert len(results[3]) <= seed
        stopped += len(results[3]) < seed
        for result, right in zip(results, expected or results, strict=True):
            np.testing.assert_allclose(result, right, 1e-5, 1e-5)
    assert stopped


def test_loops_in_loops_and_values_of_all_graphs_around_them(runtime):
    inner = graph(
        [node("Add", ["b", "a_step"], ["b_next"]), node("Identity", ["again"], ["more"])],
        [("number_inside", INT64), ("again", BOOL), ("b", FLOAT)],
        [("more", BOOL), ("b_next", FLOAT)],
    )
    outer = body(
        [
            node("Cast", ["step"], ["number"], to=FLOAT),
            node("Mul", ["number", "x"], ["a_step"]),
            node("Loop", ["three", "", "a"], ["a_next"], body=inner),
            node("Identity", ["going"], ["on"]),
        ],
        ("a",),
    )
    proto = model([node("Loop", ["count", "", "x"], ["y"], body=outer)], ["x", "count"], ["y"],
                  {"three": np.int64(3)}, types={"count": INT64})  # fmt: skip
    given = {"x": np.array([1.0, -2.0], np.float32), "count": np.array(4)}
    (y,) = from_onnx(proto).run(given)
    np.testing.assert_array_equal(y, given["x"] * (1 + 3 * (0 + 1 + 2 + 3)))
    np.testing.assert_array_equal(y, session(runtime, proto).run(None, given)[0])


@pytest.mark.parametrize("length", [5, 0])
def test_an_lstm_in_a_scan_equals_onnx_runtimes(runtime, length):
    """Steps of an LSTM from the last element to the first, along another axis, with values of the graph around it."""
    weights = weights_of(np.random.default_rng(0), 1, 3, 4)
    nodes = [
        node("Unsqueeze", ["x", "first"], ["steps"]),
        node("LSTM", ["steps", "W", "R", "B", "", "h", "c"], ["y", "h_next", "c_next"], hidden_size=4),
        node("Squeeze", ["y", "both"], ["new"]),
        node("Mul", ["new", "scale"], ["scaled"]),
    ]
    shapes = {"h": (1, 2, 4), "c": (1, 2, 4), "x": (2, 3), "scaled": (2, 4), "new": (2, 4)}
    inputs, outputs = (
        [helper.make_tensor_value_info(name, FLOAT, shapes[name.removesuffix("_next")]) for name in names]
        for names in (("h", "c", "x"), ("h_next", "c_next", "scaled", "new"))
    )
    scan = node("Scan", ["h0", "c0", "xs"], ["hn", "cn", "ys", "zs"], num_scan_inputs=1, scan_input_axes=[1],
                scan_input_directions=[1], scan_output_axes=[0, -1], scan_output_directions=[0, 1],
                body=helper.make_graph(nodes, "inner", inputs, outputs))  # fmt: skip
    constants = {"first": integers(0), "both": integers(0, 1), "scale": np.float32(2)}
    proto = model([scan], ["h0", "c0", "xs"], ["hn", "cn", "ys", "zs"], weights | constants)
    rng = np.random.default_rng(1)
    given = {name: rng.standard_normal((1, 2, 4)).astype(np.float32) for name in ("h0", "c0")}
    given["xs"] = rng.standard_normal((2, length, 3)).astype(np.float32)
    results = from_onnx(proto).run(given)
    assert [result.shape for result in results] == [(1, 2, 4), (1, 2, 4), (length, 2, 4), (2, 4, length)]
    for result, right in zip(results, session(runtime, proto).run(None, given) if length else results, strict=True):
        np.testing.assert_allclose(result, right, 1e-5, 1e-5)
    assert list(lstms(proto)) == ["y"]
    (entry,) = [attribute for attribute in scan.attribute if attribute.name == "num_scan_inputs"]
    entry.i = 4
    with pytest.raises(ValueError, match=r"\(Scan\): body: expected 3 inputs, 4 of them scanned"):
        from_onnx(model([scan], ["h0", "c0", "xs"], ["hn", "cn", "ys", "zs"], weights | constants))


def forever(**types):
    """Return a model whose Loop never ends."""
    nodes = [node("Add", ["a", "a"], ["a_next"]), constant("on", value=helper.make_tensor("on", BOOL, [], [True]))]
    return model([node("Loop", ["", "", "x"], ["y"], body=body(nodes, ("a",)))], ["x"], types=types)


def test_iterations_are_limited():
    for limit in (1, 1000):
        with pytest.raises(ValueError, match=rf"\(Loop\): more than {limit} iterations; .* max_iterations of from"):
            from_onnx(forever(), max_iterations=limit).run({"x": 1.0})
    counted = body([node("Identity", ["going"], ["on"]), node("Neg", ["a"], ["a_next"])], ("a",))
    proto = model([node("Loop", ["n", "", "x"], ["y"], body=counted)], ["x", "n"], types={"n": INT64})
    run = from_onnx(proto, max_iterations=10)
    for _ in range(3):  # the limit is of each run
        assert run.run({"x": 1.0, "n": 10})[0] == 1
    for wrong in (11, 2**62):
        with pytest.raises(ValueError, match="more than 10 iterations"):
            run.run({"x": 1.0, "n": wrong})
    nested = body([node("Loop", ["n", "", "a"], ["a_next"], body=body(
        [node("Identity", ["b"], ["b_next"]), node("Identity", ["going"], ["on"])], ("b",))),
        node("Identity", ["going"], ["on"])], ("a",))  # fmt: skip
    proto = model([node("Loop", ["n", "", "x"], ["y"], body=nested)], ["x", "n"], types={"n": INT64})
    assert from_onnx(proto, max_iterations=110).run({"x": 1.0, "n": 10})[0] == 1
    with pytest.raises(ValueError, match="more than 109 iterations"):
        from_onnx(proto, max_iterations=109).run({"x": 1.0, "n": 10})
    for wrong in (0, -1, 1.5):
        with pytest.raises((TypeError, ValueError), match="max_iterations"):
            from_onnx(proto, max_iterations=wrong)


def test_ctrl_c_ends_a_loop():
    run, main = from_onnx(forever(), max_iterations=2**60), threading.main_thread().ident
    import signal

    timer = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run.run({"x": 1.0})
    timer.join()


def test_stacked_results_and_growing_values_are_limited(monkeypatch):
    monkeypatch.setattr("lstm_cy.weights.onnx.node.LARGEST_RESULT", 1 << 20)
    stacking = body([node("Identity", ["going"], ["on"]), node("Expand", ["x", "sizes"], ["all"])], (), ("all",))
    proto = model([node("Loop", ["", "yes"], ["y"], body=stacking)], ["x", "yes"], weights={"sizes": integers(1000)},
                  types={"yes": BOOL})  # fmt: skip
    started = time.perf_counter()
    with pytest.raises(ValueError, match=r"\(Loop\): a result of shape .* at most 1048576 are allowed"):
        from_onnx(proto).run({"x": [1.0], "yes": True})
    growing = body([node("Identity", ["going"], ["on"]), node("Concat", ["a", "a"], ["a_next"], axis=0)], ("a",))
    proto = model([node("Loop", ["", "yes", "x"], ["y"], body=growing)], ["x", "yes"], types={"yes": BOOL})
    with pytest.raises(ValueError, match="a result of shape"):
        from_onnx(proto).run({"x": [1.0], "yes": True})
    assert time.perf_counter() - started < 60


def test_conditions_and_forms_are_checked():
    branch = graph([node("Neg", ["x"], ["z"])], [], [("z", FLOAT)])
    none = graph([node("Neg", ["x"], ["z"])], [], [])
    choice = node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)
    run = from_onnx(model([choice], ["x", "flag"], types={"flag": BOOL}))
    assert run.run({"x": 1.0, "flag": [True]})[0] == -1
    with pytest.raises(ValueError, match=r"\(If\): cond: expected one bool, got bool of shape \(2,\)"):
        run.run({"x": 1.0, "flag": [True, False]})
    with pytest.raises(ValueError, match=r"\(If\): cond: expected one bool, got float32"):
        from_onnx(model([choice], ["x", "flag"])).run({"x": 1.0, "flag": 1.0})
    with pytest.raises(ValueError, match=r"\(If\): expected 1 outputs of each branch, got 0"):
        from_onnx(model([node("If", ["flag"], then_branch=branch, else_branch=none)], ["x", "flag"]))
    with pytest.raises(ValueError, match=r"\(Loop\): body: expected 3 inputs and at least 2 outputs, got 2 and 1"):
        from_onnx(model([node("Loop", ["", "", "x"], body=body([node("Identity", ["going"], ["on"])]))], ["x"]))
    with pytest.raises(ValueError, match=r"\(If\): attribute 'else_branch' is missing"):
        from_onnx(model([node("If", ["flag"], then_branch=branch)], ["x", "flag"]))


def test_lstms_with_weights_in_constant_nodes_of_a_branch_are_described(tmp_path):
    weights = weights_of(np.random.default_rng(3), 1, 3, 2)
    constants = [constant(name, value=onnx.numpy_helper.from_array(weights[name])) for name in "WR"]
    branch = graph([*constants, plain_lstm("WR", name="inside", outputs=["z"])], [], [("z", FLOAT)])
    proto = model([node("If", ["flag"], then_branch=branch, else_branch=branch)], ["x", "flag"], types={"flag": BOOL})
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    lines = describe(path)
    assert "  inside    LSTM(input_size=3, hidden_size=2, bias=False)" in lines
    assert list(lstms(path)) == ["inside", "inside_2"]
    assert from_onnx(path).run({"x": np.ones((4, 2, 3)), "flag": False})[0].shape == (4, 1, 2, 2)
