"""LSTM nodes of ONNX as layers, compared with ONNX Runtime; their weights after chains of operators."""

import numpy as np
import pytest
from common import reference_lstm

from lstm_cy.weights import gate_order
from lstm_cy.weights.onnx import from_onnx, lstms

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402
from onnx_models import (  # noqa: E402
    FLOAT,
    INT32,
    INT64,
    TYPES,
    constant,
    integers,
    model,
    node,
    plain_lstm,
    session,
    weights_of,
)

TOLERANCE = 5e-6


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


# Weights after chains of operators


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
    x = np.random.default_rng(1).standard_normal((4, 2, 3)).astype(np.float32)
    for flag in (True, False):
        y, z = from_onnx(proto).run({"x": x, "flag": flag, "count": 2})
        np.testing.assert_array_equal(y[:, 0], found["first"](x)[0])
        assert len(z) == (2 if flag else 0)
        for part in z:
            np.testing.assert_array_equal(part[:, 0], found["first"](x)[0])


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
