"""Graph.stepper: states go from outputs to inputs, are found by name or shape, and survive errors."""

import copy

import numpy as np
import pytest

from lstm_cy import LSTM, Graph, from_onnx
from lstm_cy.weights.graph import Value

SINGLE = np.dtype(np.float32)


class Cell:
    """One step of an LSTM: x (B, 3), h and c (1, B, 4), scale () -> y (B, 4), new h and c."""

    name, op_type = "cell", "Cell"

    def __init__(self, inputs, outputs):
        self.inputs, self.outputs = inputs, outputs
        self.lstm = LSTM(3, 4, seed=0)

    def run(self, inputs):
        x, h, c, scale = inputs
        y, (h, c) = self.lstm((x * scale)[None], (h, c))
        return [y[0], h, c]

    def weights(self):
        return []


def graph_of(h=("h", "hn"), c=("c", "cn"), shape=(1, "B", 4), last="scale"):
    names = ("input", h[0], c[0], last), ("output", h[1], c[1])
    shapes = [("B", 3), shape, shape, ()], [("B", 4), shape, shape]
    inputs, outputs = (
        [Value(name, size, SINGLE) for name, size in zip(*ends, strict=True)]
        for ends in zip(names, shapes, strict=True)
    )
    return Graph(inputs, outputs, [Cell(*names)])


@pytest.mark.parametrize(
    ("h", "c", "states"),
    [
        (("h", "hn"), ("c", "cn"), None),
        (("stateN", "stateNN"), ("h_in", "h_out"), None),
        (("a", "p"), ("b", "q"), None),  # by shape, in their order
        (("a", "p"), ("c", "new_c"), None),
        (("a", "p"), ("b", "q"), {"b": "q", "a": "p"}),
    ],
)
def test_steps_are_those_of_the_sequence(h, c, states):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 3, 3)).astype("float32")
    graph = graph_of(h, c)
    stepper = graph.stepper(states, constants={"scale": 2}, batch_size=3)
    assert stepper.states == {h[0]: h[1], c[0]: c[1]}
    assert [value.name for value in (*stepper.inputs, *stepper.outputs)] == ["input", "output"]
    y, (h_n, c_n) = LSTM(3, 4, seed=0)(2 * x)
    found = [stepper.step(x_t) for x_t in x[:4]]
    others = [stepper.copy(), copy.deepcopy(stepper)]
    state = stepper.state
    found += [stepper.step(x_t) for x_t in x[4:]]
    assert np.array_equal(found, y)
    assert np.array_equal(stepper.state[h[0]], h_n) and np.array_equal(stepper.state[c[0]], c_n)
    for other in others:
        assert np.array_equal([other.step(x_t) for x_t in x[4:]], y[4:])
    stepper.state = state
    assert np.array_equal([stepper.step(x_t) for x_t in x[4:]], y[4:])
    stepper.reset()
    assert np.array_equal([stepper.step(x_t) for x_t in x], y)


def test_wrong_arguments_change_nothing():
    graph = graph_of()
    for arguments, message in [
        ({"states": {"h": "cm"}}, "states: expected different outputs"),
        ({"states": {"h": "hn", "c": "hn"}}, "states: expected different outputs"),
        ({"states": {"k": "hn"}}, "states: expected names of"),
        ({"states": {}}, "found none"),
        ({"states": {"input": "output", "h": "hn", "c": "cn", "scale": "output"}}, "different outputs"),
        ({"constants": {"s": 1}}, "constants: expected names of"),
        ({"batch_size": 0}, "batch_size"),
    ]:
        with pytest.raises(ValueError, match=message):
            graph.stepper(**arguments)
    with pytest.raises(TypeError, match="constants: expected a mapping"):
        graph.stepper(constants=1)
    with pytest.raises(ValueError, match="h: expected a state of known shape"):
        graph_of(shape=("L", "B", 4)).stepper()
    stepper = graph.stepper(constants={"scale": 1})
    before = stepper.state
    with pytest.raises(TypeError, match="x: expected 1"):
        stepper.step()
    with pytest.raises(ValueError, match="input: expected shape"):
        stepper.step(np.ones((1, 2)))
    for wrong in ({"h": before["h"]}, [1, 2], {"h": before["h"], "c": np.ones(3)}):
        with pytest.raises(ValueError, match="state"):
            stepper.state = wrong
    assert all(np.array_equal(array, before[name]) for name, array in stepper.state.items())


def test_a_file_with_states():
    """As a graph of ONNX: the pair is found by its names, and equal bits come from steps by hand."""
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    node = helper.make_node("Add", ["x", "s_in"], ["y"])
    again = helper.make_node("Identity", ["y"], ["s_out"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "s_in", "y", "s_out")]
    graph = helper.make_graph([node, again], "sum", values[:2], values[2:])
    stepper = from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).stepper()
    assert stepper.states == {"s_in": "s_out"}
    assert [stepper.step([[k, 1]]).tolist() for k in range(3)] == [[[0, 1]], [[1, 2]], [[3, 3]]]
