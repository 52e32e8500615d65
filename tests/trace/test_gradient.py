"""The gradient of a prediction or a loss agrees with finite differences, for every option of the cell and the model."""

import json

import numpy as np
import pytest
from common import directions, random_case, random_mask, random_resets, with_large_weights

from lstm_cy import (
    LSTM,
    Activation,
    Dropout,
    Embedding,
    GateTrace,
    LayerNormalization,
    Linear,
    Readout,
    Residual,
    Sequential,
    cross_entropy,
    mse,
    reference,
)
from lstm_cy.trace.gradients import GRADIENTS

FIELDS = ("forget", "input", "candidate", "output", "cell", "hidden")
EPS = 1e-6


def by_step(lstm, array):
    return np.swapaxes(array, 0, 1) if lstm.batch_first else np.asarray(array)


def run(lstm, x, state, valid, reset, nudge=None):
    """Run a layer step by step in float64; `nudge`, (layer, direction, field, t, unit, eps), changes one value.

    Written from the formulas of `reference.variant_step`, because that has no place to change a gate.
    """
    p = {name: np.asarray(array, np.float64) for name, array in lstm.parameters.items()}
    H, P = lstm.hidden_size, lstm.proj_size or lstm.hidden_size
    zone_h, zone_c = lstm.zoneout
    y = by_step(lstm, x).astype(np.float64)
    T, B, _ = y.shape
    for layer, direction, backwards, suffix in directions(lstm):
        if direction == 0:
            x, y = y, np.zeros((T, B, lstm.output_size))
        acts = [lambda z, a=a: reference.ACTIVATIONS[a[0]](z, *a[1:]) for a in lstm.activations[direction]]
        bias = p["bias_ih" + suffix] + p["bias_hh" + suffix] if lstm.bias else np.zeros(4 * H)
        peephole = p.get("peephole" + suffix, np.zeros((3, H)))
        index = layer * lstm.num_directions + direction
        h, c = (np.array(part[index], np.float64) for part in state)
        for t in range(T)[:: -1 if backwards else 1]:
            h, c = (np.where(reset[t][:, None], 0, part) for part in (h, c))

            def nudged(field, value, here=(layer, direction, t)):
                if nudge is not None and (nudge[0], nudge[1], nudge[3]) == here and nudge[2] == field:
                    value = value.copy()
                    value[:, nudge[4]] += nudge[5]
                return value

            def prepared(z, part, suffix=suffix, bias=bias):
                if lstm.layer_norm:
                    z = z - z.mean(-1, keepdims=True)
                    z = z / np.sqrt((z * z).mean(-1, keepdims=True) + 1e-8)
                    z = z * np.split(p["layer_norm" + suffix], 4)[part]
                bound = lstm.clip or np.inf
                return np.clip(z + np.split(bias, 4)[part], -bound, bound)

            z = np.split(x[t] @ p["weight_ih" + suffix].T + h @ p["weight_hh" + suffix].T, 4, axis=-1)
            i = acts[0](prepared(z[0] + peephole[0] * c, 0))
            f = acts[0](prepared(z[1] + peephole[1] * c, 1))
            if lstm.coupled_gates == "i=1-f":
                f = nudged("forget", f)
                i = nudged("input", 1 - f)
            else:
                i = nudged("input", i)
                f = nudged("forget", 1 - i if lstm.coupled_gates == "f=1-i" else f)
            g = nudged("candidate", acts[1](prepared(z[2], 2)))
            bound = lstm.cell_clip or np.inf
            new_c = nudged("cell", np.clip(f * c + i * g, -bound, bound))
            o = nudged("output", acts[0](prepared(z[3] + peephole[2] * new_c, 3)))
            new_h = o * acts[2](new_c)
            if lstm.proj_size:
                bound = lstm.proj_clip or np.inf
                new_h = np.clip(new_h @ p["weight_hr" + suffix].T, -bound, bound)
            new_h = nudged("hidden", zone_h * h + (1 - zone_h) * new_h)
            new_c = zone_c * c + (1 - zone_c) * new_c
            read = valid[t][:, None]
            h, c = np.where(read, new_h, h), np.where(read, new_c, c)
            y[t, :, direction * P : (direction + 1) * P] = np.where(read, new_h, 0)
    return y


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "mask reset"),
        ({"num_layers": 2, "bidirectional": True, "proj_size": 2, "batch_first": True}, "lengths"),
        ({"peepholes": True, "proj_size": 3, "proj_clip": 0.4, "cell_clip": 0.9}, "reset"),
        ({"peepholes": True, "layer_norm": True, "num_layers": 2, "coupled_gates": "f=1-i"}, "all"),
        ({"coupled_gates": "i=1-f", "clip": 1.5, "reverse": True, "bias": False}, "mask"),
        ({"zoneout": (0.2, 0.3), "activations": ("softsign", "elu", "softplus"), "peepholes": True}, "lengths"),
    ],
    ids=repr,
)
def test_every_gate_and_cell_agrees_with_finite_differences(options, kind):
    lstm = LSTM(3, 4, dtype="float64", seed=2, **options)
    if "clip" in options or "cell_clip" in options:
        with_large_weights(lstm)
    T, B = 6, 3
    x, state = random_case(lstm, T, B)
    steps, valid, reset = {}, np.ones((T, B), bool), np.zeros((T, B), bool)
    if "lengths" in kind:
        steps["lengths"] = [T, 2, 5]
        valid = np.arange(T)[:, None] < [T, 2, 5]
    if "mask" in kind:
        steps["mask"] = random_mask(T, B, lstm.batch_first)
        valid = by_step(lstm, steps["mask"])
    if "reset" in kind:
        steps["reset"] = random_resets(T, B, lstm.batch_first)
        reset = by_step(lstm, steps["reset"])
    t, output = (4, lstm.output_size - 1)
    y = run(lstm, x, state, valid, reset)
    np.testing.assert_allclose(y, by_step(lstm, lstm(x, state, **steps)[0]), rtol=0, atol=1e-12)
    for layer, direction, _, _ in directions(lstm):
        trace = lstm.trace(x, state, layer=layer, direction=direction, **steps)
        found = trace.gradient(of=(t, output))
        np.testing.assert_allclose(found.value, y[t, :, output], rtol=0, atol=1e-12)
        for field in FIELDS:
            array = by_step(lstm, getattr(found, field))
            units = [0, array.shape[-1] - 1]
            array = array[..., units]
            expected = np.zeros(array.shape)
            for s in range(T):
                for place, unit in enumerate(units):
                    ends = [
                        run(lstm, x, state, valid, reset, (layer, direction, field, s, unit, eps))[t, :, output]
                        for eps in (EPS, -EPS)
                    ]
                    expected[s, :, place] = np.where(valid[s], (ends[0] - ends[1]) / (2 * EPS), 0)
            np.testing.assert_allclose(array, expected, rtol=0, atol=1e-6, err_msg=f"{field} {layer} {direction}")
            if layer < lstm.num_layers - 1 or direction == lstm.num_directions - 1:  # else it does not reach the output
                assert np.abs(expected).max() > 1e-3


def differences(model, x, loss, states=None):
    """Return the gradient of loss(output) with respect to x by finite differences, in float64."""
    found = np.zeros(x.shape)
    for at in np.ndindex(*x.shape):
        ends = []
        for eps in (EPS, -EPS):
            moved = x.copy()
            moved[at] += eps
            ends.append(loss(model(moved, states)[0]))
        found[at] = (ends[0] - ends[1]) / (2 * EPS)
    return found


def head(dtype, hidden):
    return [
        Residual(Linear(hidden, hidden, seed=3, dtype=dtype), Activation("tanh")),
        Dropout(0.5),
        LayerNormalization(hidden, dtype=dtype),
        Linear(hidden, 4, seed=4, dtype=dtype),
    ]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_inputs_of_a_model_agree_with_finite_differences(dtype):
    """A model of float32 is computed in float64 too: its gradient is that of the same weights in float64."""
    layers = [
        LSTM(3, 5, num_layers=2, bidirectional=True, seed=1, dtype=dtype),
        Residual(LSTM(10, 6, seed=2, dtype=dtype), Linear(6, 10, seed=5, dtype=dtype)),
        *head(dtype, 10),
    ]
    model = Sequential(*layers)
    exact = Sequential(*[in_float64(layer) for layer in layers])
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((5, 2, 3)), rng.integers(0, 4, (5, 2))
    trace = model.trace(x, layer=1, direction=1)
    found = trace.gradient(of=(3, 2))
    np.testing.assert_allclose(found.value, exact(x)[0][3, :, 2], rtol=0, atol=1e-12)
    expected = differences(exact, x, lambda y: y[3, :, 2].sum())
    np.testing.assert_allclose(found.x, expected, rtol=0, atol=1e-6)
    loss = trace.gradient(of=cross_entropy, target=target)
    np.testing.assert_allclose(loss.value, cross_entropy(exact(x)[0], target)[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(loss.x, differences(exact, x, lambda y: cross_entropy(y, target)[0]), rtol=0, atol=1e-6)


def in_float64(layer):
    if layer.parts:
        return type(layer)(*map(in_float64, layer.parts))
    if layer.dtype is None:
        return layer
    copy = type(layer)(**layer.config | {"dtype": "float64"})
    copy.load_state_dict(layer.parameters)
    return copy


def test_a_readout_tokens_and_a_tied_layer():
    embedding = Embedding(7, 6, seed=0)
    tokens = np.random.default_rng(0).integers(0, 7, (5, 2))
    model = Sequential(embedding, LSTM(6, 6, seed=1), Linear(6, 7, tied=embedding, seed=2))
    after = Sequential(*map(in_float64, [*model.parts[1:2], Linear(6, 7, seed=0)]))
    after.load_state_dict(
        {name.replace("1.", "0."): array for name, array in model.parameters.items() if name.startswith("1.")}
        | {"1.weight": embedding.parameters["weight"], "1.bias": model.parts[2].parameters["bias"]}
    )
    vectors = embedding(tokens).astype(np.float64)
    found = model.trace(tokens).gradient(of=(4, 3))
    assert found.x is None
    expected = differences(after, vectors, lambda y: y[4, :, 3].sum())
    np.testing.assert_allclose(found.embedding, expected, rtol=0, atol=1e-6)
    ended = Sequential(LSTM(3, 5, seed=1, batch_first=True, dtype="float64"), Readout(batch_first=True))
    x, target = np.random.default_rng(1).standard_normal((2, 4, 3)), np.ones((2, 5))
    found = ended.trace(x).gradient(of=(None, 2))
    expected = differences(ended, x, lambda y: y[:, 2].sum())
    np.testing.assert_allclose(found.x, expected, rtol=0, atol=1e-6)
    found = ended.trace(x, lengths=[4, 2]).gradient(of=mse, target=target)
    assert found.step.tolist() == [3, 1] and not found.x[1, 2:].any() and found.x[1, 1].any()


def test_the_gradient_is_of_the_model_at_the_time_of_the_trace():
    model = Sequential(LSTM(3, 4, seed=0), Linear(4, 2, seed=0))
    x = np.ones((5, 3))
    trace = model.trace(x)
    before = trace.gradient(of=(4, 0)).x
    model.load_state_dict({name: 0 * array for name, array in model.parameters.items()})
    x[:] = 7
    assert np.array_equal(trace.gradient(of=(4, 0)).x, before) and before.any()


def test_the_gradient_by_distance_as_a_table_and_as_data(tmp_path):
    model = Sequential(LSTM(3, 4, seed=0), Linear(4, 2, seed=0))
    x = np.random.default_rng(0).standard_normal((12, 2, 3))
    found = model.trace(x, mask=random_mask(12, 2)).gradient(of=(9, 1))
    norms = found.by_distance(0)
    assert norms["distance"].tolist() == list(range(10))
    assert np.allclose(norms["cell"], np.linalg.norm(found.cell[9::-1, 0], axis=-1))
    assert np.allclose(norms["x"][2], np.linalg.norm(found.x[7, 0]))
    lines = found.table(compare={"plain": np.arange(12.0)}).splitlines()
    assert lines[0] == "| steps back | x | forget | input | candidate | cell | output | hidden | plain |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 0", "| 1", "| 2", "| 5", "| 9"]
    assert lines[2].endswith("| 9.0e+00 |") and lines[-1].endswith("| 0.0e+00 |")
    data = json.loads(json.dumps(found.as_dict(row=0)))
    assert data["step"] == 9 and np.allclose(data["x"], found.norms(0)["x"])
    assert np.allclose(data["signed"]["cell"], found.cell[:, 0])
    both = LSTM(3, 4, bidirectional=True, seed=0).trace(x[:, 0]).gradient(of=(5, 1))
    assert both.by_distance()["distance"].tolist() == list(range(6))  # output 1 reads forwards
    both = LSTM(3, 4, bidirectional=True, seed=0).trace(x[:, 0], direction=1).gradient(of=(5, 5))
    assert both.by_distance()["distance"].tolist() == list(range(-6, 6))


def test_the_picture_of_a_gradient(tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    model = Sequential(Embedding(9, 3, seed=0), LSTM(3, 12, seed=0), Linear(12, 9, seed=0))
    found = model.trace(np.arange(9)).gradient(of=(7, 2))
    plain = np.full(9, 0.5)
    figure = found.plot("abcdefghi", units=3, compare={"plain RNN": plain}, title="a title")
    figure.savefig(tmp_path / "gradient.png")
    top, bottom = figure.axes[:2]
    lines = {line.get_label(): line.get_ydata() for line in top.get_legend_handles_labels()[0]}
    assert np.allclose(lines["cell"][:8], found.norms()["cell"][:8]) and np.isnan(lines["cell"][8])
    assert np.array_equal(lines["plain RNN"], plain)
    units = np.argsort(-np.square(found.cell).sum(axis=0), kind="stable")[:3]
    assert np.allclose(bottom.collections[0].get_array(), found.cell[:, units].T)
    assert [label.get_text() for label in top.get_xticklabels()] == list("abcdefghi")
    assert "步" in found.plot(language="zh").axes[1].get_xlabel()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda trace: trace.gradient(of=5), TypeError, "of: expected a pair"),
        (lambda trace: trace.gradient(of=(7, 0)), ValueError, "of: t: expected"),
        (lambda trace: trace.gradient(of=(0, 2)), ValueError, "of: output: expected"),
        (lambda trace: trace.gradient(of=(0, 1), target=[1]), ValueError, "target: expected None"),
        (lambda trace: trace.gradient(of=mse), ValueError, "target: expected the target"),
        (lambda trace: trace.gradient(of=lambda y, target: 1.0, target=[1]), TypeError, "of: expected a loss"),
        (lambda trace: trace.gradient(of=(0, 1)).plot(compare={"a": [1]}), ValueError, "compare: expected"),
        (lambda trace: trace.gradient(of=(0, 1)).norms(row=1), ValueError, "row: expected"),
        (lambda trace: GateTrace(**trace.to_dict()).gradient(of=(0, 1)), ValueError, "gradient: expected a trace"),
    ],
)
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(Sequential(LSTM(3, 4, seed=0), Linear(4, 2, seed=0)).trace(np.ones((7, 3))))


def test_narrow_weights_and_two_outputs_are_refused():
    narrow = LSTM(3, 4, seed=0).quantize("int8")
    with pytest.raises(TypeError, match="gradient: expected no narrow weights"):
        narrow.trace(np.ones((7, 3))).gradient(of=(0, 1))
    two = Sequential(LSTM(3, 4, bidirectional=True, seed=0), Readout(bidirectional=True, merge_mode=None))
    with pytest.raises(ValueError, match="gradient: expected a model with one output"):
        two.trace(np.ones((7, 3))).gradient(of=(None, 1))
    assert set(GRADIENTS) >= set(FIELDS)
