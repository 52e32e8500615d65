"""The gates of LSTMs inside ONNX graphs."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx_models import BOOL, FLOAT, INT32, body, graph, integers, model, node, weights_of  # noqa: E402

from lstm_cy import LSTM, Linear, Sequential, from_onnx, save  # noqa: E402
from lstm_cy.weights.onnx import lstms  # noqa: E402


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "batch_first": True}], ids=repr)
def test_a_graph_shows_the_gates_that_the_model_shows(tmp_path, options):
    model = Sequential(LSTM(3, 4, num_layers=2, seed=0, **options), Linear(4 * (1 + bool(options)), 2, seed=1))
    save(model, tmp_path / "model.onnx")
    graph = from_onnx(tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype("float32")
    for layer in (0, 1):
        for direction in range(1 + bool(options)):
            expected = model.trace(x, layer=layer, direction=direction)
            found = graph.trace(x, layer=layer, direction=direction)
            for name in ("forget", "cell", "hidden"):
                arrays = [getattr(trace, name) for trace in (found, expected)]
                arrays = [
                    array.swapaxes(0, 1) if trace.batch_first else array
                    for array, trace in zip(arrays, (found, expected), strict=True)
                ]
                np.testing.assert_allclose(*arrays, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="layer: expected"):
        graph.trace(x, layer=2)
    with pytest.raises(TypeError, match="inputs: expected 1, got 2"):
        graph.trace(x, x)


def test_a_graph_without_gates_says_what_it_has():
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[T, 3] x) => (float[T, 3] y) { y = Relu(x) }'
    with pytest.raises(ValueError, match="whose gates can be traced, got Relu"):
        from_onnx(onnx.parser.parse_model(text)).trace(np.ones((2, 3)))


def control_model():
    """Return a Loop over the steps of x, whose cell is an LSTM, and an If that runs an LSTM or one backwards."""
    rng = np.random.default_rng(0)
    loop = body(
        [
            node("Gather", ["x", "step"], ["x_step"]),
            node("Unsqueeze", ["x_step", "first"], ["x_one"]),
            node("LSTM", ["x_one", "W", "R", "B", "", "h", "c"], ["", "h_next", "c_next"], hidden_size=4),
            node("Identity", ["going"], ["on"]),
        ],
        ("h", "c"),
    )
    branches = {
        name: graph([node("LSTM", ["x", "W", "R"], [f"{name}_y"], hidden_size=4, direction=direction)], [],
                    [(f"{name}_y", FLOAT)])
        for name, direction in (("then_branch", "forward"), ("else_branch", "reverse"))
    }  # fmt: skip
    nodes = [
        node("Loop", ["count", "", "zeros", "zeros"], ["h_n", "c_n"], body=loop),
        node("If", ["forwards"], ["y"], **branches),
    ]
    constants = {"first": integers(0), "zeros": np.zeros((1, 2, 4), "f4"), "count": np.array(6)}
    weights = {name: array for name, array in weights_of(rng, 1, 3, 4).items() if name != "P"}
    inputs, outputs = [("x", [6, 2, 3]), ("forwards", [])], ["h_n", "c_n", "y"]
    return model([*nodes], inputs, outputs, weights | constants, types={"forwards": BOOL})


def test_lstms_inside_loops_and_branches():
    proto = control_model()
    loaded, layers = from_onnx(proto), lstms(proto)
    x = np.random.default_rng(1).standard_normal((6, 2, 3)).astype("f4")
    inside, forwards, backwards = (layers[name] for name in ("h_next", "then_branch_y", "else_branch_y"))
    expected = inside.trace(x)
    for t in range(6):  # an iteration of the Loop is one run of its LSTM
        for number in (t, t - 7):
            found = loaded.trace(x, True, layer=number)
            assert np.array_equal(found.forget[0], expected.forget[t])
            assert np.array_equal(found.initial_cell, expected.cell[t - 1] if t else np.zeros((2, 4)))
    for going, layer in ((True, forwards), (False, backwards)):
        found = loaded.trace(x, going)
        assert np.array_equal(found.cell, layer.trace(x).cell) and found.reverse == layer.reverse
    for number in (7, -8):
        with pytest.raises(ValueError, match="layer: expected -7 to 6"):
            loaded.trace(x, True, layer=number)
    with pytest.raises(TypeError, match="layer: expected an integer"):
        loaded.trace(x, True, layer=1.5)
    with pytest.raises(ValueError, match="direction: expected 0 to 0"):
        loaded.trace(x, True, direction=1)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_quantized_node(direction):
    """Its gates make its outputs, to the bit, also at the ends of shorter rows, with peepholes and coupled gates."""
    rng, D, I, H = np.random.default_rng(0), 1 + (direction == "bidirectional"), 3, 5
    weights = {
        "W": rng.integers(-127, 128, (D, I, 4 * H)).astype("i1"),
        "R": rng.integers(-127, 128, (D, H, 4 * H)).astype("i1"),
        "B": rng.uniform(-0.5, 0.5, (D, 8 * H)).astype("f4"),
        "P": rng.uniform(-0.5, 0.5, (D, 3 * H)).astype("f4"),
        "scale": np.full(D, 0.01, "f4"),
        "zero": np.zeros(D, "i1"),
    }
    names = ["x", "W", "R", "B", "lengths", "h0", "c0", "P", "scale", "zero", "scale", "zero"]
    quantized = node("DynamicQuantizeLSTM", names, ["y", "h", "c"], hidden_size=H, direction=direction,
                     input_forget=int(D == 2), domain="com.microsoft")  # fmt: skip
    shapes = [("x", ["T", "B", I]), ("lengths", ["B"]), ("h0", [D, "B", H]), ("c0", [D, "B", H])]
    proto = model([quantized], shapes, ["y", "h", "c"], weights, types={"lengths": INT32})
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    loaded = from_onnx(proto)
    given = [rng.standard_normal((7, 3, I)), np.int32([7, 1, 4]), *rng.standard_normal((2, D, 3, H))]
    given = [array.astype("f4") if array.dtype.kind == "f" else array for array in given]
    y, _, c = loaded(*given)
    for number in range(D):
        found = loaded.trace(*given, direction=number)
        assert np.array_equal(found.valid, np.arange(7)[:, None] < given[1]) and found.reverse == (
            direction != "forward" and (D == 1 or number == 1)
        )
        assert np.array_equal(np.where(found.valid[..., None], found.hidden, 0), y[:, number])
        assert np.isnan(found.forget[~found.valid]).all() and np.array_equal(found.initial_cell, given[3][number])
        last = [0] * 3 if found.reverse else given[1] - 1
        assert np.array_equal(found.cell[last, range(3)], c[number])
        shares = found.contribution(0 if found.reverse else 6)
        np.testing.assert_allclose(shares.sum(axis=0), c[number], rtol=0, atol=1e-6)
        assert found.input[0, 0, 0] != found.output[0, 0, 0]
        with pytest.raises(ValueError, match="gradient: expected a trace that a model made"):
            found.gradient(of=(0, 0))
