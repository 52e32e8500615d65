"""Traces agree with the layer; derived arrays; the picture and the report."""

import builtins
import math
import warnings

import numpy as np
import pytest
from common import (
    bits,
    directions,
    every_dtype,
    every_implementation,
    every_option,
    random_case,
    random_mask,
    random_resets,
    reference_step,
    small_lstm,
    with_large_weights,
)

from lstm_cy import LSTM, Dropout, Embedding, GateTrace, Linear, Masking, Readout, Sequential, reference
from lstm_cy.trace.gates import FIELDS
from lstm_cy.trace.picture import MOST_COLUMNS, MOST_TOKENS, visible
from lstm_cy.trace.selection import unit_numbers

GATES = ("input", "forget", "candidate", "output")


def gates_of(lstm, parameters, direction, suffix, x, h, c_prev, c):
    """Return i, f, g, o of one step of one row, by the formulas."""
    gate, candidate, _ = (lambda z, a=a: reference.ACTIVATIONS[a[0]](z, *a[1:]) for a in lstm.activations[direction])
    H = lstm.hidden_size
    bias = parameters["bias_ih" + suffix] + parameters["bias_hh" + suffix] if lstm.bias else np.zeros(4 * H)
    peephole = parameters["peephole" + suffix] if lstm.peepholes else np.zeros((3, H))
    z = x @ parameters["weight_ih" + suffix].T + h @ parameters["weight_hh" + suffix].T
    z = z.reshape(4, H) + np.stack([peephole[0] * c_prev, peephole[1] * c_prev, 0 * c, peephole[2] * c])
    if lstm.layer_norm:
        z = (z - z.mean(axis=1, keepdims=True)) / np.sqrt(z.var(axis=1, keepdims=True) + 1e-8)
        z *= parameters["layer_norm" + suffix].reshape(4, H)
    z += bias.reshape(4, H)
    z = np.clip(z, -(lstm.clip or np.inf), lstm.clip or np.inf)
    i, f, g, o = gate(z[0]), gate(z[1]), candidate(z[2]), gate(z[3])
    if lstm.coupled_gates == "f=1-i":
        f = 1 - i
    elif lstm.coupled_gates == "i=1-f":
        i = 1 - f
    return i, f, g, o


def by_step(lstm, array):
    return np.swapaxes(array, 0, 1) if lstm.batch_first else np.asarray(array)


def reference_traces(lstm, x, state, lengths=None, mask=None, reset=None):
    """Return {(layer, direction): {field: (T, B, width)}} in float64, NaN where no step is valid."""
    parameters = {name: array.astype(np.float64) for name, array in lstm.parameters.items()}
    x = by_step(lstm, x).astype(np.float64)
    T, B, _ = x.shape
    valid = np.ones((T, B), bool) if mask is None else by_step(lstm, mask)
    if lengths is not None:
        valid = np.arange(T)[:, None] < np.asarray(lengths)
    resets = np.zeros((T, B), bool) if reset is None else by_step(lstm, reset)
    H, P = lstm.hidden_size, lstm.proj_size or lstm.hidden_size
    traces, y = {}, x
    for layer, direction, backwards, suffix in directions(lstm):
        if direction == 0:
            x, y = y, np.zeros((T, B, lstm.output_size))
        fields = {name: np.full((T, B, P if name == "hidden" else H), np.nan) for name in FIELDS}
        step = reference_step(lstm, parameters, direction, suffix)
        index = layer * lstm.num_directions + direction
        for row in range(B):
            h, c = (part[index, row : row + 1].astype(np.float64) for part in state)
            for t in range(T)[:: -1 if backwards else 1]:
                if resets[t, row]:
                    h, c = h * 0, c * 0
                if not valid[t, row]:
                    continue
                h_new, c_new = step(x[t, row : row + 1], h, c)
                gates = gates_of(lstm, parameters, direction, suffix, x[t, row], h[0], c[0], c_new[0])
                for name, array in zip(GATES, gates, strict=True):
                    fields[name][t, row] = array
                fields["cell"][t, row], fields["hidden"][t, row] = c_new[0], h_new[0]
                h, c = h_new, c_new
                y[t, row, direction * P : (direction + 1) * P] = h[0]
        traces[layer, direction] = fields
    return traces


def steps_of(kind, lstm, T, B):
    """Return keywords of a call: which steps are valid, and before which the state is reset."""
    forwards = not (lstm.bidirectional or lstm.reverse)
    steps = {}
    if "lengths" in kind:
        steps["lengths"] = [T, 0, 3, T, 1, 5, T - 1][:B]
    if "mask" in kind:
        steps["mask"] = random_mask(T, B, lstm.batch_first)
    if "reset" in kind and forwards:
        steps["reset"] = random_resets(T, B, lstm.batch_first)
    return steps


every_kind_of_steps = pytest.mark.parametrize(
    "kind", ("all", "lengths", "mask", "reset", "lengths reset", "mask reset")
)


@every_option
@every_kind_of_steps
def test_every_field_agrees_with_the_reference(options, kind):
    assert_like_reference(with_large_weights(LSTM(5, 9, dtype="float64", seed=0, **options)), kind)


@pytest.mark.parametrize(
    "options",
    ({}, {"num_layers": 2, "batch_first": True}, {"reverse": True}, {"bidirectional": True, "num_layers": 2}),
    ids=repr,
)
@every_kind_of_steps
def test_every_field_of_the_plain_cell_agrees_with_the_reference(options, kind):
    assert_like_reference(LSTM(5, 9, dtype="float64", seed=0, **options), kind)


def assert_like_reference(lstm, kind):
    T, B = 9, 7
    x, state = random_case(lstm, T, B)
    steps = steps_of(kind, lstm, T, B)
    for (layer, direction), expected in reference_traces(lstm, x, state, **steps).items():
        trace = lstm.trace(x, state, layer=layer, direction=direction, **steps)
        for name in FIELDS:
            np.testing.assert_allclose(by_step(lstm, getattr(trace, name)), expected[name], rtol=0, atol=1e-12)
        index = layer * lstm.num_directions + direction
        assert bits(trace.initial_cell) == bits(state[1][index])
        assert np.array_equal(trace.valid, ~np.isnan(trace.cell[..., 0]))
        assert_identities(trace)


def last_cells(trace):
    """Return (B, H): the final cell of each row."""
    cells = trace.initial_cell.copy()
    valid, cell = (part.swapaxes(0, 1) if trace.batch_first else part for part in (trace.valid, trace.cell))
    for t in range(len(valid))[:: -1 if trace.reverse else 1]:
        cells[valid[t]] = cell[t][valid[t]]
    return cells


def assert_identities(trace):
    """Compare retention and contribution with their definitions, computed by loops."""
    forget, cell, written, valid, reset = (
        part.swapaxes(0, 1) if trace.batch_first else part
        for part in (trace.forget, trace.cell, trace.written(), trace.valid, trace.reset)
    )
    T, B, H = cell.shape
    order = list(range(T))[:: -1 if trace.reverse else 1]
    for position, t in enumerate(order):
        left = [np.where(valid[s][:, None], written[s], 0) for s in order[: position + 1]]
        expected = np.stack([trace.initial_cell, *left])
        assert trace.contribution(t).shape == (position + 2, B, H)
        retained = []
        for s in (-1, *order[: position + 1]):
            between = order[order.index(s) + 1 if s >= 0 else 0 : position + 1]
            product = np.ones((B, H))
            for u in between:
                product = product * np.where(reset[u][:, None], 0, np.where(valid[u][:, None], forget[u], 1))
            np.testing.assert_allclose(trace.retention(s, t), product, rtol=1e-12, atol=1e-15)
            retained.append(product)
        np.testing.assert_allclose(trace.contribution(t), expected * retained, rtol=1e-12, atol=1e-14)


@every_option
@every_kind_of_steps
def test_contributions_sum_to_the_cell(options, kind):
    options = {name: value for name, value in options.items() if name != "cell_clip"}
    lstm = with_large_weights(LSTM(5, 9, dtype="float64", seed=0, **options))
    x, state = random_case(lstm, 9, 7)
    for direction in range(lstm.num_directions):
        trace = lstm.trace(x, state, direction=direction, **steps_of(kind, lstm, 9, 7))
        cell = by_step(lstm, trace.cell)
        for t in range(9):
            valid = ~np.isnan(cell[t])
            np.testing.assert_allclose(trace.contribution(t).sum(axis=0)[valid], cell[t][valid], rtol=0, atol=1e-12)
        end = 0 if trace.reverse else 8
        if kind == "all":
            np.testing.assert_allclose(trace.contribution(end).sum(axis=0), last_cells(trace), rtol=0, atol=1e-12)


def test_contributions_with_cell_clip_sum_to_the_cell_without_clipping():
    lstm = with_large_weights(LSTM(5, 9, dtype="float64", seed=0, cell_clip=0.5))
    x, state = random_case(lstm, 9, 7)
    trace = lstm.trace(x, state)
    before = np.concatenate([trace.initial_cell[None], trace.cell[:-1]])
    cut = trace.cell - (trace.forget * before + trace.written())
    assert (cut != 0).any()
    expected = trace.cell[8] - sum(cut[t] * trace.retention(t, 8) for t in range(9))
    np.testing.assert_allclose(trace.contribution(8).sum(axis=0), expected, rtol=0, atol=1e-12)


# The same bits


@every_implementation
@every_dtype
@every_option
@pytest.mark.parametrize("kind", ("all", "lengths", "mask reset"))
def test_a_trace_has_the_bits_of_a_call_and_of_forward(chosen, dtype, options, kind):
    assert_bits(with_large_weights(LSTM(5, 33, dtype=dtype, seed=0, **options)), kind)


@every_implementation
@every_dtype
@pytest.mark.parametrize("H", (3, 127))
@pytest.mark.parametrize(
    "options",
    ({}, {"num_layers": 3, "dropout": 0.5}, {"bidirectional": True, "num_layers": 2}, {"reverse": True}),
    ids=repr,
)
@pytest.mark.parametrize("kind", ("all", "lengths", "lengths reset"))
def test_a_trace_of_the_plain_cell_has_the_bits_of_a_call_and_of_forward(chosen, dtype, H, options, kind):
    assert_bits(LSTM(5, H, dtype=dtype, seed=0, **options), kind)


def assert_bits(lstm, kind, T=11, B=7):
    x, state = random_case(lstm, T, B)
    steps = steps_of(kind, lstm, T, B)
    y, (_, c_n) = lstm(x, state, **steps)
    P, D = lstm.proj_size or lstm.hidden_size, lstm.num_directions
    undropped = LSTM(**{**lstm.config, "dropout": 0.0, "input_size": 5})
    undropped.load_state_dict(lstm.parameters)
    _, _, tape = undropped.forward(x, state, **steps)
    for layer, direction, _, _ in directions(lstm):
        index = layer * D + direction
        trace = lstm.trace(x, state, layer=layer, direction=direction, **steps)
        if layer == lstm.num_layers - 1:
            h = y[..., direction * P : (direction + 1) * P]
            assert bits(trace.hidden[trace.valid]) == bits(h[trace.valid])
        else:
            h = tape.saved[index + D - direction][0][:, direction * P : (direction + 1) * P]
            assert sorted_rows(trace.hidden[trace.valid]) == sorted_rows(h)
        if "reset" not in kind:
            assert bits(last_cells(trace)) == bits(c_n[index])
        stacked = np.concatenate([getattr(trace, name)[trace.valid] for name in GATES], axis=-1)
        assert sorted_rows(stacked) == sorted_rows(tape.saved[index][3])
        again = lstm.trace(x, state, layer=layer, direction=direction, threads=3, **steps)
        if lstm._products() is None:
            assert all(bits(getattr(trace, name)) == bits(getattr(again, name)) for name in FIELDS)


def sorted_rows(array):
    """Return the bits of each row of a tape, sorted."""
    return sorted(row.tobytes() for row in array)


@every_implementation
@pytest.mark.parametrize("kind", ("bf16", "int8"))
def test_a_layer_with_narrow_weights_can_be_traced(chosen, kind):
    narrow = LSTM(5, 33, 2, seed=0).quantize(kind)
    x, state = random_case(narrow, 11, 7)
    y, (_, c_n) = narrow(x, state)
    trace = narrow.trace(x, state)
    assert bits(trace.hidden, trace.cell[-1]) == bits(y, c_n[1])
    assert bits(narrow.trace(x, state, layer=0).cell[-1]) == bits(c_n[0])


@pytest.mark.parametrize("shape", ((0, 3, 5), (4, 0, 5), (0, 5)))
def test_a_trace_of_an_empty_input(shape):
    trace = LSTM(5, 9, seed=0).trace(np.zeros(shape))
    assert trace.cell.shape == (*shape[:-1], 9)
    assert trace.contribution(-1).shape == (1, *shape[1:-1], 9)
    assert trace.nan_source() is None
    assert np.isnan(trace.half_life()).all()


def test_one_sequence_has_no_batch_axis():
    lstm = small_lstm(batch_first=True)
    x, state = random_case(lstm, 6, 1)
    trace = lstm.trace(x[0], [part[:, 0] for part in state])
    batch = lstm.trace(x, state)
    for name in (*FIELDS, "initial_cell", "valid", "reset"):
        assert bits(getattr(trace, name)) == bits(getattr(batch, name))
    assert trace.cell.shape == (6, 5)
    assert trace.initial_cell.shape == trace.retention(0, 3).shape == (5,)
    assert trace.contribution(3).shape == (5, 5)
    assert np.array_equal(trace.contribution(3), batch.contribution(3)[:, 0])
    assert trace.written().shape == (6, 5)
    short = lstm.trace(x[0], lengths=4)
    assert np.isnan(short.cell[4:]).all()


def test_negative_layers_count_from_the_last():
    lstm = LSTM(3, 5, 3, bidirectional=True, seed=1)
    x, state = random_case(lstm, 6, 2)
    assert bits(lstm.trace(x, state).cell) == bits(lstm.trace(x, state, layer=2).cell)
    assert bits(lstm.trace(x, state, layer=-3).cell) == bits(lstm.trace(x, state, layer=0).cell)
    x, _ = random_case(lstm, 6, 2, seed=1)
    assert bits(lstm.trace(x, state, None, 1, 1).cell) == bits(lstm.trace(x, state, layer=1, direction=1).cell)


def test_a_trace_of_a_model_agrees_with_its_layers():
    model = Sequential(Embedding(9, 4, seed=0), LSTM(4, 6, 2, seed=0), Dropout(0.5), LSTM(6, 5, seed=1), Linear(5, 3))
    tokens = np.random.default_rng(0).integers(0, 9, (7, 3))
    states = [(h + 0.5, c - 0.5) for h, c in model(tokens)[1]]
    steps = {"lengths": [7, 0, 3], "reset": random_resets(7, 3)}
    out, ends = model(tokens, states, **steps)
    hidden = [model.trace(tokens, states, layer=layer, **steps).hidden for layer in range(3)]
    assert [array.shape[-1] for array in hidden] == [6, 6, 5]
    trace = model.trace(tokens, states, **steps)
    assert bits(trace.hidden) == bits(hidden[2])
    assert bits(model.layers[-1](trace.hidden)[trace.valid]) == bits(out[trace.valid])
    assert bits(trace.cell[6, 0]) == bits(ends[1][1][0, 0])
    embedded = model.layers[0](tokens)
    assert bits(hidden[1]) == bits(model.layers[1].trace(embedded, states[0], **steps).hidden)
    assert bits(hidden[0]) == bits(model.layers[1].trace(embedded, states[0], layer=0, **steps).hidden)
    with pytest.raises(ValueError, match="layer: expected -3 to 2, got 3"):
        model.trace(tokens, layer=3)
    with pytest.raises(ValueError, match="with an LSTM in it"):
        Sequential(Linear(3, 3)).trace(np.zeros((2, 3)))


def test_a_model_with_one_lstm_twice_can_be_traced():
    lstm = LSTM(4, 4, seed=0)
    model = Sequential(lstm, lstm)
    x, _ = random_case(lstm, 5, 2)
    assert bits(model.trace(x, layer=0).hidden, model.trace(x, layer=1).hidden) == bits(lstm(x)[0], model(x)[0])


# Derived arrays


def constant(f, i=0.5, T=6, B=2, H=3, **options):
    """Return a trace whose gates are constant; no layer needs to be able to produce it."""
    shape = (T, B, H)
    full = {name: np.full(shape, value) for name, value in zip(GATES, (i, f, 1.0, 1.0), strict=True)}
    flags = np.ones(shape[:2], bool)
    arrays = full | {"cell": np.ones(shape), "hidden": np.ones(shape), "initial_cell": np.ones(shape[1:])}
    return GateTrace(**arrays | {"valid": flags, "reset": ~flags} | options)


@pytest.mark.parametrize(("f", "expected"), ((0.5, 1), (0.25, 0.5), (2**-0.1, 10), (1, np.inf), (0, 0), (1.5, np.inf)))
def test_half_life_of_a_constant_gate(f, expected):
    np.testing.assert_allclose(constant(f).half_life(), np.full(3, expected), rtol=1e-12)


def test_half_life_is_a_mean_over_valid_steps_and_rows():
    trace = constant(0.5)
    trace.forget[:, 1, 2] = 0.125  # rates 1 and 3: mean 2
    trace.forget[4:] = np.nan
    trace.valid[4:] = False
    np.testing.assert_allclose(trace.half_life(), [1, 1, 0.5])
    trace.forget[0, 0, 0] = np.nan
    assert np.isnan(trace.half_life()[0])


def test_a_saturated_forget_gate_has_an_infinite_half_life():
    lstm = LSTM.from_gates(
        **{name: (np.zeros((2, 3)), [50.0, 0.0]) for name in ("forget", "input", "candidate", "output")}
    )
    trace = lstm.trace(np.ones((5, 1)))
    assert trace.half_life().tolist() == [np.inf, 1.0]
    assert trace.retention(-1, 4).tolist() == [1.0, 2.0**-5]
    assert trace.written().tolist() == [[1.0, 0.0]] * 5
    assert trace.contribution(4)[:, 0].tolist() == [0, 1, 1, 1, 1, 1]


def test_a_reset_removes_all_earlier_contributions_even_nan():
    lstm = small_lstm()
    x, state = random_case(lstm, 7, 2)
    x[1, 0] = np.nan
    reset = np.zeros((7, 2), bool)
    reset[3, 0] = True
    trace = lstm.trace(x, state, reset=reset)
    assert np.isfinite(trace.cell[3:]).all()
    assert not trace.retention(0, 5)[0].any()
    assert not trace.retention(2, 3)[0].any()
    assert (trace.retention(3, 5)[0] > 0).all()
    assert not trace.contribution(5)[:4, 0].any()
    np.testing.assert_allclose(trace.contribution(5)[:, 0].sum(axis=0), trace.cell[5, 0], atol=1e-6)


def test_a_reset_past_the_end_is_not_read():
    lstm = small_lstm()
    x, state = random_case(lstm, 7, 2)
    reset = np.zeros((7, 2), bool)
    reset[[2, 5]] = True
    trace = lstm.trace(x, state, [7, 4], reset=reset)
    assert trace.reset.tolist() == [[t in (2, 5), t == 2] for t in range(7)]
    assert bits(trace.retention(2, 6)[1]) == bits(trace.retention(2, 3)[1])
    assert (trace.retention(2, 6)[1] > 0).all()


def test_a_derived_array_has_the_dtype_of_the_layer():
    for dtype in ("float32", "float64"):
        lstm = small_lstm(dtype=dtype)
        trace = lstm.trace(np.ones((4, 2, 3)))
        derived = trace.retention(0, 2), trace.half_life(), trace.written(), trace.contribution(2), trace.salience()
        assert {array.dtype.name for array in (*derived, *map(trace.__getattribute__, FIELDS))} == {dtype}


def test_the_most_salient_unit_keeps_a_value_that_changes_and_outputs_it():
    """Unit 0 toggles and holds; the others never change, replace the cell at each step, or close the output gate."""
    T, rng = 40, np.random.default_rng(0)
    toggled = np.repeat(np.array([0.9, -0.9, 0.5, -0.5]), 10)
    cell = np.stack([toggled, np.full(T, 0.9), rng.uniform(-1, 1, T), toggled], axis=1)[:, None]
    forget = np.ones((T, 1, 4))
    forget[:, 0, 2] = 0
    forget[::10, 0, [0, 3]] = 0
    forget[:, 0, 1] = 0.99
    before = np.concatenate([cell[:1] * 0, cell[:-1]])
    output = np.broadcast_to([1, 1, 1, 0.01], cell.shape).copy()
    arrays = {"forget": forget, "input": np.ones_like(cell), "candidate": cell - forget * before, "output": output}
    flags = np.ones((T, 1), bool)
    trace = GateTrace(**arrays, cell=cell, hidden=cell, initial_cell=cell[0] * 0, valid=flags, reset=~flags)
    salience = trace.salience()
    assert salience.argmax() == 0
    assert salience[0] > 4 * max(salience[1:])
    expected = np.tanh(forget * before).std(axis=(0, 1)) * forget.mean(axis=(0, 1)) * output.mean(axis=(0, 1))
    np.testing.assert_allclose(salience, expected, atol=1e-15)
    assert GateTrace.telling is GateTrace.salience  # codespell:ignore telling


@pytest.mark.parametrize("direction", (0, 1))
def test_nan_in_x_is_found_at_its_step_and_row(direction):
    lstm = LSTM(3, 5, 2, bidirectional=True, seed=1)
    x, state = random_case(lstm, 8, 3)
    assert lstm.trace(x, state, layer=0).nan_source() is None
    x[4, 1, 0] = np.nan
    x[6, 2, 0] = np.nan
    found = lstm.trace(x, state, layer=0, direction=direction).nan_source()
    assert found == ((4, 1, "forget", 0) if direction == 0 else (6, 2, "forget", 0))
    # the other direction of the first layer spreads it to all steps of the second layer's input
    assert lstm.trace(x, state, direction=0).nan_source()[:2] == (0, 1)
    short = lstm.trace(x, state, layer=0, direction=direction, lengths=[8, 4, 6])
    assert short.nan_source() is None


@pytest.mark.parametrize(("gate", "name"), tuple(enumerate(GATES)))
@pytest.mark.parametrize("weight", ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"))
def test_nan_in_a_weight_is_found_at_its_gate_and_unit(gate, name, weight):
    lstm = small_lstm(batch_first=True)
    arrays = lstm.state_dict()
    arrays[weight][gate * 5 + 3] = np.nan
    lstm.load_state_dict(arrays)
    x, state = random_case(lstm, 6, 2)
    assert lstm.trace(x, state).nan_source() == (0, 0, name, 3)


def test_nan_in_the_state_is_found_in_the_cell_or_in_the_gates():
    lstm = small_lstm()
    x, (h, c) = random_case(lstm, 6, 3)
    c[0, 2, 4] = np.nan
    assert lstm.trace(x, (h, c)).nan_source() == (0, 2, "cell", 4)
    h[0, 1, 0] = np.nan
    assert lstm.trace(x, (h, c)).nan_source() == (0, 1, "forget", 0)


def test_a_cell_that_overflows_is_found_before_the_values_computed_from_it():
    lstm = LSTM(1, 2, activations=("relu", "relu", "tanh"), forget_bias=0, seed=0)
    lstm.load_state_dict({name: np.full(array.shape, 1e10) for name, array in lstm.parameters.items()})
    step, row, gate, unit = lstm.trace(np.ones((9, 1)) * 1e10).nan_source()
    assert (step, row, gate, unit) == (0, 0, "cell", 0)


# Files and the report


@pytest.mark.parametrize("options", ({}, {"batch_first": True}, {"reverse": True}), ids=repr)
def test_round_trip_through_a_file(tmp_path, options):
    lstm = small_lstm(**options)
    x, state = random_case(lstm, 6, 2)
    trace = lstm.trace(x, state, lengths=[6, 3] if not options.get("batch_first") else None)
    trace.to_npz(tmp_path / "trace.npz")
    with np.load(tmp_path / "trace.npz") as arrays:
        again = GateTrace(**arrays)
    given, read = trace.to_dict(), again.to_dict()
    assert list(given) == list(read)
    for name, value in given.items():
        assert np.asarray(value).dtype == np.asarray(read[name]).dtype
        assert bits(value) == bits(read[name])
    assert bits(again.contribution(5)) == bits(trace.contribution(5))
    with pytest.raises(ValueError, match="path: expected a name that ends with .npz"):
        trace.to_npz(tmp_path / "trace.json")


def test_the_report_describes_gates_and_units():
    trace = constant(0.5, i=0.25, T=4, B=1, H=2)
    trace.cell[:, 0, 1] = [3, -1, 2, 2]
    trace.candidate[:, 0, 1] = [0, 0, -0.8, 0]
    report = trace.report("ab\nd", units=[1]).splitlines()
    assert report[0] == "4 steps, 2 units"
    assert "forget gate: on average 0.50 of the cell is kept at each step" in report
    assert "input gate: on average 0.25 of the candidate is added to the cell" in report
    assert "output gate: on average 1.00 of the cell is output" in report
    assert report[-3] == "unit 1: half-life 1.0, cell from -1.00 to 3.00"
    assert report[-2] == r"  added most at step 2 '\n': -0.20; kept least at step 0 'a': 0.50 of the cell"
    assert report[-1] == r"  cell at the end +2.00: -0.10 from step 2 '\n', +0.06 from the initial cell"


def test_the_report_names_the_first_value_that_is_not_finite():
    lstm = small_lstm()
    x = np.ones((4, 2, 3))
    x[2, 1] = np.nan
    report = lstm.trace(x).report()
    assert report.endswith("first value that is not finite: forget of unit 0, at step 2 of row 1")
    assert lstm.trace(x[:, 0], lengths=0).report() == "0 steps, 5 units"


def test_the_report_of_a_reverse_direction_ends_at_the_first_step():
    lstm = small_lstm(reverse=True)
    trace = lstm.trace(np.random.default_rng(0).standard_normal((6, 3)), lengths=4)
    report = trace.report("abcd", units=[2])
    assert f"cell at the end {trace.cell[0, 2]:+.2f}" in report
    assert all(f"step {step} {'abcd'[step]!r}" in report for step in (0,))
    assert "step 4" not in report


# The picture


@pytest.fixture
def pictures():
    """Use Matplotlib without a screen."""
    pytest.importorskip("matplotlib").use("Agg")


def trace_of(T, **options):
    lstm = LSTM(3, 12, seed=1, **options)
    return lstm.trace(*random_case(lstm, T, 2))


def most_salient(trace, row, count):
    """Return the units that a picture shows: by `salience`, without units like an earlier one."""
    valid = trace.valid[:, row] if trace.valid.ndim == 2 else trace.valid
    cell = (trace.cell[:, row] if trace.cell.ndim == 3 else trace.cell)[valid].astype(np.float64)
    alike = np.abs(np.corrcoef(cell.T)) > 0.9
    order = np.argsort(-trace.salience(row), kind="stable").tolist()
    chosen = []
    for unit in order:
        if not alike[unit, chosen].any():
            chosen.append(unit)
    return np.array([*chosen, *(unit for unit in order if unit not in chosen)][:count])


def test_the_units_shown_are_not_copies_of_each_other(pictures):
    steps = np.arange(30.0)
    waves = np.sin(steps), np.cos(steps), np.sin(0.3 * steps)
    cell = np.stack([3 * waves[0], 2.9 * waves[0], -2.8 * waves[0], waves[1], 0.1 * waves[2]], axis=1)
    gates = dict.fromkeys(("forget", "input", "candidate", "output"), np.full((30, 5), 0.5))
    flags = np.ones(30, bool)
    trace = GateTrace(**gates, cell=cell, hidden=cell, initial_cell=cell[0], valid=flags, reset=~flags)
    order = np.argsort(-trace.salience())
    best = next(unit for unit in order if unit < 3)

    def shown(units):
        return [label.get_text() for label in trace.plot(units=units).axes[1].get_yticklabels()]

    assert set(shown(3)) == {f"unit {best}", "unit 3", "unit 4"}
    assert set(shown(4)[:3]) == set(shown(3))  # and one that is a copy, for no other is left
    assert set(shown(5)) == {f"unit {unit}" for unit in range(5)}
    assert shown([0, 1, 2]) == ["unit 0", "unit 1", "unit 2"]  # the given units


def test_a_trace_without_a_valid_step_still_has_units():
    trace = small_lstm().trace(np.zeros((4, 3)))
    none = trace.to_dict() | {"valid": np.zeros(4, bool)}
    assert len(unit_numbers(GateTrace(**none), 3)) == 3


def test_a_notebook_shows_the_picture(pictures):
    assert trace_of(4).plot()._repr_png_().startswith(b"\x89PNG")


def test_a_notebook_shows_a_table_of_the_trace():
    trace = trace_of(6)
    shown = trace._repr_html_()
    assert "GateTrace(T=6, B=2, H=12)" in shown
    assert f"<th>forget gate, mean</th><td>{trace.forget.mean():.2f}</td>" in shown
    assert "<th>valid steps</th><td>12</td>" in shown


def test_attributes_of_a_trace_cannot_be_set():
    trace = trace_of(4)
    with pytest.raises(AttributeError, match="cell cannot be set"):
        trace.cell = trace.cell[:2]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"cell": 3}, TypeError, "cell: expected a NumPy array, got int"),
        ({"cell": np.zeros(4)}, ValueError, "cell: expected shape"),
        ({"forget": np.zeros((4, 2, 11))}, ValueError, "forget: expected shape"),
        ({"hidden": np.zeros((3, 2, 12))}, ValueError, "hidden: expected shape"),
        ({"initial_cell": np.zeros((4, 12))}, ValueError, "initial_cell: expected shape"),
        ({"valid": np.ones((2, 4), bool)}, ValueError, "valid: expected shape"),
        ({"reset": np.ones((4, 2, 1), bool)}, ValueError, "reset: expected shape"),
        ({"reverse": 1}, TypeError, "reverse: expected True or False"),
    ],
)
def test_the_constructor_refuses_arrays_that_do_not_match(changed, error, message):
    with pytest.raises(error, match=message):
        GateTrace(**trace_of(4).to_dict() | changed)


def test_the_picture_holds_the_gates_of_the_most_salient_units(pictures, tmp_path):
    trace = trace_of(20)
    tokens = "the cat\tsat $on$ a\n\x00"[:20].ljust(20)
    figure = trace.plot(tokens, row=1, units=5, lines=3, title="$odd_title$")
    figure.savefig(tmp_path / "trace.png")
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")
    units = most_salient(trace, 1, 5)
    cell, *maps = figure.axes[:5]
    assert [line.get_label() for line in cell.get_legend_handles_labels()[0]] == [f"unit {unit}" for unit in units[:3]]
    for handle, unit in zip(cell.get_legend_handles_labels()[0], units, strict=False):
        assert handle.get_xdata().tolist() == list(range(20))
        assert np.allclose(handle.get_ydata(), trace.cell[:, 1, unit])
    for axes, name in zip(maps, ("forget", "input", "candidate", "output"), strict=True):
        assert name in axes.get_title(loc="left").lower()
        (mesh,) = axes.collections
        assert np.allclose(mesh.get_array(), getattr(trace, name)[:, 1][:, units].T)
        assert mesh.get_clim() == ((-1, 1) if name == "candidate" else (0, 1))
        assert [label.get_text() for label in axes.get_yticklabels()] == [f"unit {unit}" for unit in units]
    labels = [label.get_text() for label in maps[-1].get_xticklabels()]
    assert labels == [visible(token) for token in tokens]
    assert "".join(labels) == "the␣cat⇥sat␣$on$␣a⏎\\x00"[: len("".join(labels))]
    assert maps[-1].get_xlabel() == "token (␣ space, ⏎ end of line, ⇥ tab)"
    words = [label.get_text() for axes in figure.axes[5:] for label in axes.get_yticklabels()]
    assert words[:2] == ["0 drops it", "1 keeps it"]
    assert len(words) == 8


def test_long_tokens_are_written_vertically_and_steps_without_tokens_are_numbered(pictures):
    trace, words = trace_of(6), ["one", "two", "three", "four", "five", "six"]
    for tokens, rotation in ((words, 0), ([*words[:5], "electroencephalogram"], 90)):
        labels = trace.plot(tokens).axes[4].get_xticklabels()
        assert [label.get_text() for label in labels] == tokens
        assert {label.get_rotation() for label in labels} == {rotation}
    assert trace.plot().axes[4].get_xlabel() == "step"


def test_a_long_trace_is_drawn_as_means_and_the_axis_says_so(pictures):
    T = 3 * MOST_COLUMNS + 1
    trace = trace_of(T)
    figure = trace.plot("x" * T, units=4)
    cell, forget = figure.axes[:2]
    values = forget.collections[0].get_array()
    units = most_salient(trace, 0, 4)
    windows = [trace.forget[first : first + 4, 0][:, units].mean(axis=0) for first in range(0, T, 4)]
    assert values.shape == (4, math.ceil(T / 4))
    np.testing.assert_allclose(values, np.transpose(windows), rtol=1e-5)
    assert "each column is the mean of 4 steps" in figure.axes[4].get_xlabel()
    assert len(figure.axes[4].get_xticks()) == 12
    assert figure.axes[4].get_xticklabels()[1].get_text().split("\n")[1] == "x" * 12
    assert len(cell.collections) == 4  # bands
    edges = forget.collections[0].get_coordinates()[0, :, 0]
    assert (edges[0], edges[-1]) == (-0.5, T - 0.5)


def test_up_to_most_tokens_every_token_is_written(pictures):
    for T, ticks in ((MOST_TOKENS, MOST_TOKENS), (MOST_TOKENS + 1, 12)):
        axes = trace_of(T).plot("x" * T).axes[4]
        assert len(axes.get_xticks()) == ticks
        assert "mean" not in axes.get_xlabel()


def test_the_picture_of_some_of_the_steps(pictures):
    trace = trace_of(30)
    forget, last = (
        trace.plot("abcdefghijklmnopqrstuvwxyz0123", units=[7, 2], steps=(10, 14)).axes[at] for at in (1, 4)
    )
    assert np.allclose(forget.collections[0].get_array(), trace.forget[10:15, 0][:, [7, 2]].T)
    assert last.get_xticks().tolist() == [10, 11, 12, 13, 14]
    assert [label.get_text() for label in last.get_xticklabels()] == list("klmno")


def test_steps_that_are_not_valid_are_empty_in_the_picture(pictures):
    lstm = LSTM(3, 5, seed=1)
    mask = np.ones((8, 1), bool)
    mask[[3, 7]] = False
    x, state = random_case(lstm, 8, 1)
    figure = lstm.trace(x, state, mask=mask).plot()
    values = figure.axes[1].collections[0].get_array()
    assert values.shape == (5, 7)  # steps after the last valid one are not drawn
    assert np.ma.getmaskarray(np.ma.masked_invalid(values)).any(axis=0).tolist() == [t == 3 for t in range(7)]


def test_nan_is_empty_in_the_picture(pictures, tmp_path):
    lstm = LSTM(3, 5, seed=1)
    x, _ = random_case(lstm, 6, 1)
    x[3] = np.nan
    figure = lstm.trace(x).plot("abcdef")
    figure.savefig(tmp_path / "trace.png")
    assert np.isnan(np.ma.filled(figure.axes[1].collections[0].get_array(), np.nan)[:, 3:]).all()


def test_a_font_that_is_not_in_matplotlibs_list_yet_is_found(pictures, monkeypatch):
    from matplotlib import font_manager

    path = font_manager.findfont("DejaVu Serif")
    older = [entry for entry in font_manager.fontManager.ttflist if entry.name != "DejaVu Serif"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", older)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [path, __file__])
    monkeypatch.setattr("lstm_cy.trace.picture._FONTS", ("DejaVu Serif",))

    def families(tokens):
        return trace_of(3).plot(tokens).axes[4].get_xticklabels()[0].get_fontfamily()

    assert families("abc") == ["DejaVu Sans Mono"]  # no character needs another font
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DejaVu Serif has no Chinese either
        assert families("门abc"[:3]) == ["DejaVu Sans Mono", "DejaVu Serif"]


def test_the_fonts_of_the_tokens_are_installed(pictures):
    from matplotlib import font_manager

    families = trace_of(3).plot("abc").axes[4].get_xticklabels()[0].get_fontfamily()
    assert families[0] == "DejaVu Sans Mono"
    assert set(families) <= set(font_manager.get_font_names())


def test_the_axis_says_that_a_direction_is_reversed(pictures):
    assert "read from right to left" in trace_of(6, reverse=True).plot().axes[4].get_xlabel()


def test_gates_beyond_their_usual_range_widen_the_scale(pictures):
    trace = constant(1.5, B=1)
    mesh = trace.plot(units=[0]).axes[1].collections[0]
    assert mesh.get_clim() == (0, 1.5)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    original = builtins.__import__

    def refuse(name, *arguments, **keywords):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install matplotlib"):
        trace_of(4).plot()


# Wrong arguments


@pytest.mark.parametrize(
    ("call", "error", "message"),
    (
        (lambda lstm, x: lstm.trace(x, layer=1), ValueError, "layer: expected -1 to 0, got 1"),
        (lambda lstm, x: lstm.trace(x, layer=1.0), TypeError, "layer: expected an integer, got 1.0"),
        (lambda lstm, x: lstm.trace(x, direction=1), ValueError, "direction: expected 0 to 0, got 1"),
        (lambda lstm, x: lstm.trace(x, lengths=[9, 1]), ValueError, "lengths: expected 0 to T = 4"),
        (lambda lstm, x: lstm.trace(x[..., :2]), ValueError, "x: expected shape"),
        (lambda lstm, x: lstm.trace(x).retention(2, 1), ValueError, "t0, t1: expected t0 not to be read after t1"),
        (lambda lstm, x: lstm.trace(x).retention(0, 4), ValueError, "t1: expected -1 to 3, got 4"),
        (lambda lstm, x: lstm.trace(x).contribution(-2), ValueError, "t: expected -1 to 3, got -2"),
        (lambda lstm, x: lstm.trace(x).contribution("a"), TypeError, "t: expected an integer"),
        (lambda lstm, x: lstm.trace(x).plot(row=2), ValueError, "row: expected 0 to 1, got 2"),
        (lambda lstm, x: lstm.trace(x).plot("abc"), ValueError, "tokens: expected T = 4 of them, got 3"),
        (lambda lstm, x: lstm.trace(x).plot(7), TypeError, "tokens: expected a sequence, got 7"),
        (lambda lstm, x: lstm.trace(x).plot(units=2.5), TypeError, "units: expected a sequence, got 2.5"),
        (lambda lstm, x: lstm.trace(x).plot(units=0), ValueError, "units: expected at least 1, got 0"),
        (lambda lstm, x: lstm.trace(x).plot(units=[]), ValueError, "units: expected at least one, got none"),
        (lambda lstm, x: lstm.trace(x).plot(units=[5]), ValueError, "units: expected 0 to 4, got 5"),
        (lambda lstm, x: lstm.trace(x).plot(lines=0), ValueError, "lines: expected at least 1, got 0"),
        (lambda lstm, x: lstm.trace(x).plot(steps=3), TypeError, "steps: expected None or a pair"),
        (lambda lstm, x: lstm.trace(x).plot(steps=(2, 4)), ValueError, "steps: expected 2 to 3, got 4"),
        (lambda lstm, x: lstm.trace(x, lengths=[4, 0]).plot(row=1), ValueError, "row: expected one with valid steps"),
        (lambda lstm, x: lstm.trace(x, lengths=[2, 0]).report("abcde"), ValueError, "tokens: expected 2 to T = 4"),
    ),
)
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(small_lstm(), np.ones((4, 2, 3)))


def test_a_trace_of_a_model_with_a_mask_agrees_with_a_call():
    tokens = np.array([[1, 0, 2], [0, 3, 4], [5, 5, 0]]).T
    model = Sequential(Embedding(6, 3, mask_zero=True, seed=0), LSTM(3, 4, seed=1), LSTM(4, 5, seed=2), Linear(5, 2))
    first = model.layers[1](model.layers[0](tokens), mask=tokens != 0)[0]
    expected = model.layers[2](first, mask=tokens != 0)[0]
    trace = model.trace(tokens)
    assert np.array_equal(trace.valid, tokens != 0)
    assert np.array_equal(np.nan_to_num(trace.hidden), expected)
    with pytest.raises(ValueError, match="lengths, mask: expected None, because the Embedding at 0 makes the mask"):
        model.trace(tokens, lengths=[3, 3, 3])
    x = np.random.default_rng(0).standard_normal((4, 2, 3))
    x[2, 0] = 0
    model = Sequential(Masking(), LSTM(3, 4, seed=1), Readout(return_sequences=True), LSTM(4, 5, seed=2))
    assert np.array_equal(np.nan_to_num(model.trace(x).hidden), model(x)[0])


@pytest.mark.parametrize("options", ({"reverse": True}, {"peepholes": True, "bidirectional": True}))
def test_derived_values_with_zoneout(options, tmp_path):
    lstm = LSTM(3, 5, zoneout=(0.3, 0.4), dtype="float64", seed=0, **options)
    x = np.random.default_rng(0).standard_normal((7, 2, 3))
    state = tuple(np.random.default_rng(1).standard_normal((2, lstm.num_directions, 2, 5)))
    trace = lstm.trace(x, state, direction=lstm.num_directions - 1)
    last = 0  # the last step that is read
    np.testing.assert_allclose(trace.contribution(last).sum(axis=0), trace.cell[last], rtol=1e-12)
    shares = 0.4 + 0.6 * trace.forget
    np.testing.assert_allclose(trace.retention(3, 1), shares[2] * shares[1], rtol=1e-12)
    np.testing.assert_allclose(trace.written(), 0.6 * trace.input * trace.candidate, rtol=1e-12)
    half_life = np.log(2) / -np.log(shares).mean(axis=(0, 1))
    np.testing.assert_allclose(trace.half_life(), half_life, rtol=1e-12)
    trace.to_npz(tmp_path / "trace.npz")
    again = GateTrace(**np.load(tmp_path / "trace.npz"))
    assert again.zoneout == 0.4
    np.testing.assert_array_equal(again.salience(1), trace.salience(1))
    with pytest.raises(ValueError, match="zoneout: expected a number"):
        GateTrace(**{**trace.to_dict(), "zoneout": 2.0})
