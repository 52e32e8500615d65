"""Graphs of ONNX are pickled and copied: the copies compute the same bits, and hold no more than the graph needs."""

import concurrent.futures
import copy
import multiprocessing
import pickle

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx_models import BOOL, FLOAT, INT64, body, graph, integers, model, node, weights_of  # noqa: E402

from lstm_cy import from_onnx  # noqa: E402


def every_kind():
    """Return a model with a convolution, an LSTM, an If, a Loop that may run 0 times, and a Scan."""
    rng = np.random.default_rng(0)
    branches = {
        f"{name}_branch": graph([node(kind, ["y"], [f"{name}_out"])], [], [(f"{name}_out", FLOAT)])
        for name, kind in (("then", "Relu"), ("else", "Sigmoid"))
    }
    loop = body([node("Mul", ["s", "half"], ["s_next"]), node("Identity", ["s"], ["seen"]),
                 node("Identity", ["going"], ["on"])], ("s",), ("seen",))  # fmt: skip
    scan = graph(
        [node("Add", ["sum", "element"], ["sum_next"]), node("Identity", ["sum_next"], ["part"])],
        [("sum", FLOAT), ("element", FLOAT)],
        [("sum_next", FLOAT), ("part", FLOAT)],
    )
    nodes = [
        node("Conv", ["x", "kernel"], ["convolved"], pads=[2, 0]),
        node("Elu", ["convolved"], ["active"], alpha=0.7),
        node("Transpose", ["active"], ["turned"], perm=[2, 0, 1]),
        node("LSTM", ["turned", "W", "R", "B"], ["four"], hidden_size=4),
        node("Squeeze", ["four", "one"], ["y"]),
        node("If", ["positive"], ["chosen"], **branches),
        node("Loop", ["count", "", "chosen"], ["halved", "all"], body=loop),
        node("Scan", ["zeros", "halved"], ["total", "sums"], body=scan, num_scan_inputs=1),
    ]
    constants = {
        "kernel": rng.standard_normal((3, 2, 3)).astype("f4"),
        "one": integers(1),
        "half": np.float32(0.5),
        "zeros": np.zeros((2, 4), "f4"),
        **{name: array for name, array in weights_of(rng, 1, 3, 4).items() if name != "P"},
    }
    inputs = [("x", ["B", 2, "T"]), ("positive", []), ("count", [])]
    return model(nodes, inputs, ["sums", "all"], constants, types={"positive": BOOL, "count": INT64})


@pytest.mark.parametrize("make", [lambda graph: pickle.loads(pickle.dumps(graph)), copy.deepcopy, copy.copy])
def test_copies_compute_the_same(make):
    loaded = from_onnx(every_kind())
    x = np.random.default_rng(1).standard_normal((2, 2, 9)).astype("f4")
    cases = [(x, True, 2), (x, False, 0)]
    before = make(loaded)
    expected = [loaded(*case) for case in cases]
    for made in (before, make(loaded)):
        for case, right in zip(cases, expected, strict=True):
            assert all(map(np.array_equal, made(*case), right))
        assert (made.inputs, made.outputs, made.properties) == (loaded.inputs, loaded.outputs, loaded.properties)
        with pytest.raises(ValueError, match="x: expected shape"):
            made(x[0], True, 2)


def test_limits_hold_after_pickling():
    made = pickle.loads(pickle.dumps(from_onnx(every_kind(), max_iterations=20)))
    x = np.zeros((2, 2, 9), "f4")
    assert made(x, True, 11)[1].shape[0] == 11
    with pytest.raises(ValueError, match="more than 20 iterations"):
        made(x, True, 21)


def test_a_pickle_is_as_large_as_the_weights():
    rng = np.random.default_rng(0)
    weights = {name: array for name, array in weights_of(rng, 1, 64, 64).items() if name != "P"}
    proto = model([node("LSTM", ["x", "W", "R", "B"], ["y"], hidden_size=64)], [("x", ["T", "B", 64])], ["y"], weights)
    loaded = from_onnx(proto)
    loaded(np.zeros((3, 1, 64), "f4"))  # its plan and packed weights are not pickled
    assert len(pickle.dumps(loaded)) < 1.1 * sum(array.nbytes for array in weights.values()) + 10_000


def test_a_stepper_of_a_graph():
    names = ["x", "h", "c"], ["y", "hn", "cn"]
    weights = {name: array for name, array in weights_of(np.random.default_rng(0), 1, 3, 4).items() if name != "P"}
    lstm = node("LSTM", ["x", "W", "R", "B", "", "h", "c"], names[1], hidden_size=4)
    shapes = [1, "B", 3], [1, "B", 4], [1, "B", 4]
    proto = model([lstm], [*zip(names[0], shapes, strict=True)], names[1], weights)
    stepper = from_onnx(proto).stepper(batch_size=2)
    x = np.random.default_rng(1).standard_normal((6, 1, 2, 3)).astype("f4")
    for x_t in x[:3]:
        stepper.step(x_t)
    made = pickle.loads(pickle.dumps(stepper))
    assert made.states == stepper.states
    for x_t in x[3:]:
        assert np.array_equal(made.step(x_t), stepper.step(x_t))


def run(graph, x):
    return graph(x, True, 3)


def test_another_process_runs_a_graph():
    loaded, x = from_onnx(every_kind()), np.ones((2, 2, 9), "f4")
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(run, loaded, x).result()
    assert all(map(np.array_equal, found, run(loaded, x)))
