"""A denoiser of two graphs with states in and out (the structure of DTLN), frame by frame compared with ONNX Runtime.

The first graph makes a mask of the spectrum of a frame, the second one filters the frame in a learned space. Each has
two LSTMs, whose states are one array. Source: Westhausen and Meyer, Dual-Signal Transformation LSTM Network for
Real-Time Noise Suppression, 2020.
"""

import pickle

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx_models import integers, model, node, session, weights_of  # noqa: E402

from lstm_cy import from_onnx  # noqa: E402

BLOCK, HOP, BINS, UNITS, CODE, FRAMES = 512, 128, 257, 128, 256, 200


def lstms_of_state(rng, x, inputs):
    """Return (nodes, constants) of two LSTMs on x (1, 1, inputs), whose states are "state" (1, 2, UNITS, 2)."""
    nodes, constants, states = [], {}, []
    for layer, size in enumerate((inputs, UNITS)):
        of_layer = f"state_{layer}"
        nodes.append(node("Gather", ["state", f"number_{layer}"], [of_layer], axis=1))  # (1, UNITS, 2)
        for place, part in enumerate("hc"):
            nodes += [
                node("Gather", [of_layer, f"number_{place}"], [f"{part}{layer}"], axis=2),  # (1, UNITS)
                node("Unsqueeze", [f"{part}{layer}", "axis_0"], [f"{part}{layer}_in"]),
            ]
        names = [*(f"{name}{layer}" for name in "WRB"), "", f"h{layer}_in", f"c{layer}_in"]
        outputs = [f"four_{layer}", f"h{layer}_out", f"c{layer}_out"]
        nodes += [
            node("LSTM", [x, *names], outputs, hidden_size=UNITS),
            node("Squeeze", [outputs[0], "axis_1"], [f"y_{layer}"]),
            node("Unsqueeze", [f"h{layer}_out", "axis_3"], [f"h{layer}_wide"]),
            node("Unsqueeze", [f"c{layer}_out", "axis_3"], [f"c{layer}_wide"]),
            node("Concat", [f"h{layer}_wide", f"c{layer}_wide"], [f"state_{layer}_out"], axis=3),
        ]
        states.append(f"state_{layer}_out")
        constants |= {f"{name}{layer}": array for name, array in weights_of(rng, 1, size, UNITS, scale=0.1).items()}
        constants.pop(f"P{layer}")
        x = f"y_{layer}"
    nodes.append(node("Concat", states, ["state_out"], axis=1))
    constants |= {f"axis_{axis}": integers(axis) for axis in (0, 1, 3)}
    return nodes, constants | {f"number_{number}": np.array(number) for number in (0, 1)}


def mask_graph(rng):
    nodes, constants = lstms_of_state(rng, "spectrum", BINS)
    nodes += [
        node("MatMul", ["y_1", "w"], ["product"]),
        node("Add", ["product", "b"], ["sum"]),
        node("Sigmoid", ["sum"], ["mask"]),
    ]
    constants |= {"w": rng.standard_normal((UNITS, BINS)).astype("f4") / 4, "b": rng.standard_normal(BINS).astype("f4")}
    shapes = [("spectrum", [1, 1, BINS]), ("state", [1, 2, UNITS, 2])]
    return model(nodes, shapes, [("mask", [1, 1, BINS]), ("state_out", [1, 2, UNITS, 2])], constants)


def filter_graph(rng):
    nodes, constants = lstms_of_state(rng, "normal", CODE)
    before = [
        node("Transpose", ["frame", ], ["columns"], perm=[0, 2, 1]),
        node("Conv", ["columns", "encoder"], ["coded"]),
        node("Transpose", ["coded"], ["code"], perm=[0, 2, 1]),
        node("ReduceMean", ["code"], ["mean"], axes=[-1]),
        node("Sub", ["code", "mean"], ["centred"]),
        node("Mul", ["centred", "centred"], ["squares"]),
        node("ReduceMean", ["squares"], ["variance"], axes=[-1]),
        node("Add", ["variance", "small"], ["positive"]),
        node("Sqrt", ["positive"], ["deviation"]),
        node("Div", ["centred", "deviation"], ["scaled"]),
        node("Mul", ["scaled", "gain"], ["normal"]),
    ]  # fmt: skip
    after = [
        node("MatMul", ["y_1", "w"], ["product"]),
        node("Sigmoid", ["product"], ["gate"]),
        node("Mul", ["code", "gate"], ["filtered"]),
        node("Transpose", ["filtered"], ["turned"], perm=[0, 2, 1]),
        node("Conv", ["turned", "decoder"], ["decoded"]),
        node("Transpose", ["decoded"], ["clean"], perm=[0, 2, 1]),
    ]
    constants |= {
        "encoder": rng.standard_normal((CODE, BLOCK, 1)).astype("f4") / 20,
        "decoder": rng.standard_normal((BLOCK, CODE, 1)).astype("f4") / 20,
        "w": rng.standard_normal((UNITS, CODE)).astype("f4") / 4,
        "small": np.float32(1e-7),
        "gain": rng.uniform(0.5, 2, CODE).astype("f4"),
    }
    shapes = [("frame", [1, 1, BLOCK]), ("state", [1, 2, UNITS, 2])]
    outputs = [("clean", ["N", 1, BLOCK]), ("new", ["N", 2, UNITS, 2])]  # a pair by its shape
    return model([*before, *nodes, *after, node("Identity", ["state_out"], ["new"])], shapes, outputs, constants)


def denoised(sound, mask_of, clean_of):
    """Return the sound after both graphs, frame by frame, with frames that overlap."""
    padded, result = np.concatenate([np.zeros(BLOCK - HOP, "f4"), sound]), np.zeros(len(sound) + BLOCK, "f4")
    for start in range(0, len(sound), HOP):
        spectrum = np.fft.rfft(padded[start : start + BLOCK])
        mask = mask_of(np.abs(spectrum).astype("f4")[None, None])
        frame = np.fft.irfft(spectrum * mask[0, 0]).astype("f4")
        result[start : start + BLOCK] += clean_of(frame[None, None])[0, 0]
    return result


def by_hand(run, name):
    state = np.zeros((1, 2, UNITS, 2), "f4")

    def step(x):
        nonlocal state
        y, state = run.run(None, {name: x, "state": state})
        return y

    return step


def test_frames_of_both_graphs(runtime):
    rng = np.random.default_rng(0)
    protos = mask_graph(rng), filter_graph(rng)
    sound = (rng.standard_normal(HOP * FRAMES) * np.sin(np.arange(HOP * FRAMES) / 900)).astype("f4")
    runs = (session(runtime, proto) for proto in protos)
    expected = denoised(sound, *map(by_hand, runs, ("spectrum", "frame")))
    steppers = [from_onnx(proto).stepper() for proto in protos]
    assert [stepper.states for stepper in steppers] == [{"state": "state_out"}, {"state": "new"}]
    found = denoised(sound, *(stepper.step for stepper in steppers))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    for stepper in steppers:
        stepper.reset()
    half = HOP * (FRAMES // 2)
    again = denoised(sound[:half], *(stepper.step for stepper in steppers))
    assert np.array_equal(again[:half], found[:half])
    copies = [pickle.loads(pickle.dumps(stepper)) for stepper in steppers]
    spectrum, frame = (np.ones((1, 1, size), "f4") for size in (BINS, BLOCK))
    for stepper, copied, x in zip(steppers, copies, (spectrum, frame), strict=True):
        assert np.array_equal(stepper.step(x), copied.step(x))
    gates = from_onnx(protos[0]).trace(spectrum, steppers[0].state["state"], layer=0)
    assert np.array_equal(gates.initial_cell[0], steppers[0].state["state"][0, 0, :, 1])
