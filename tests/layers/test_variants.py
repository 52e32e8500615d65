"""Projection, peepholes, coupled gates, normalised gates, bounds, activations, mask and reset.

The tests of the file readers also compare them with PyTorch, ONNX and Keras.
"""

import numpy as np
import pytest
from common import (
    OPTIONS,
    TOLERANCE,
    bits,
    every_dtype,
    every_gradient,
    every_implementation,
    every_option,
    every_packed,
    finite_difference,
    largest_error,
    random_case,
    random_mask,
    random_resets,
    reference_lstm,
    small_lstm,
    torch_twin,
    with_large_weights,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lstm_cy import LSTM, Linear, Sequential, reference
from lstm_cy._kernels import network
from lstm_cy.layers.activations import ARGUMENTS, DEFAULTS, ELEMENTWISE, PLAIN, normalized

ACTIVATIONS = (*DEFAULTS, ("Affine", 0.7, 0.1), ("LeakyRelu", -0.3), ("hardsigmoid", 1 / 6, 0.5), ("elu", 0.5))


@every_implementation
@every_dtype
@every_option
def test_every_option_agrees_with_the_reference(chosen, dtype, options):
    lstm = with_large_weights(LSTM(5, 9, dtype=dtype, seed=0, **options))
    x, state = random_case(lstm, 12, 7)
    got = lstm(x, state)
    for array, expected in zip((got[0], *got[1]), reference_lstm(lstm, x, state), strict=True):
        assert largest_error(array, expected) <= 10 * TOLERANCE[dtype]


def step_options(draw):
    """Draw T, B and the arguments of a call that choose valid steps and resets."""
    T, B = draw(st.integers(0, 6)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    steps = {}
    kind = draw(st.sampled_from(("all", "lengths", "mask")))
    if kind == "lengths":
        steps["lengths"] = rng.integers(0, T + 1, B)
    elif kind == "mask":
        steps["mask"] = rng.random((T, B)) < 0.6
    if draw(st.booleans()):
        steps["reset"] = rng.random((T, B)) < 0.3
    return T, B, steps


@st.composite
def cases(draw):
    """Draw (lstm, T, B, steps) with any combination of options."""
    directions = draw(st.sampled_from(("forward", "reverse", "bidirectional")))
    D = 2 if directions == "bidirectional" else 1
    T, B, steps = step_options(draw)
    if directions != "forward":
        steps.pop("reset", None)
    H = draw(st.sampled_from((1, 3, 17, 33, 127)))
    proj_size = draw(st.sampled_from((0, 1, 3))) if H > 3 else 0
    batch_first = draw(st.booleans())
    lstm = LSTM(
        draw(st.sampled_from((1, 3))),
        H,
        draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        batch_first=batch_first,
        bidirectional=directions == "bidirectional",
        reverse=directions == "reverse",
        proj_size=proj_size,
        peepholes=draw(st.booleans()),
        coupled_gates=draw(st.sampled_from((None, "f=1-i", "i=1-f"))),
        layer_norm=draw(st.booleans()) and H > 3,
        clip=draw(st.sampled_from((None, 0.7))),
        cell_clip=draw(st.sampled_from((None, 0.5))),
        proj_clip=draw(st.sampled_from((None, 0.3))) if proj_size else None,
        activations=[[draw(st.sampled_from(ACTIVATIONS)) for _ in range(3)] for _ in range(D)],
        dtype="float64",
        seed=draw(st.integers(0, 99)),
    )
    if batch_first:
        steps = {name: array if name == "lengths" else array.T for name, array in steps.items()}
    return lstm, T, B, steps


@settings(max_examples=150)
@given(cases())
def test_any_combination_agrees_with_the_reference(case):
    lstm, T, B, steps = case
    x, state = random_case(lstm, T, B)
    y, (h_n, c_n) = lstm(x, state, **steps)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = reference_lstm(lstm, x, state, **steps)
    assume(all((np.abs(array) < 1e6).all() for array in exact))  # some layers overflow, and their rounding errors grow
    for array, expected in zip((y, h_n, c_n), exact, strict=True):
        assert largest_error(array, expected) <= 1e-11
    kept = lstm.forward(x, state, **steps)
    assert bits(kept[0], *kept[1]) == bits(y, h_n, c_n)


def assert_gradients(lstm, T, B, bound=1e-8, **steps):
    """Compare gradients with finite differences; no value is near a kink of a function."""
    x, (h0, c0) = random_case(lstm, T, B, seed=2)
    rng = np.random.default_rng(1)
    y, (h_n, c_n), tape = lstm.forward(x, (h0, c0), **steps)
    dy, dh, dc = (rng.standard_normal(array.shape) for array in (y, h_n, c_n))
    got = every_gradient(lstm.backward(tape, dy, (dh, dc)))
    again = every_gradient(lstm.backward(tape, dy, (dh, dc)))
    assert all(bits(got[name]) == bits(again[name]) for name in got)
    parameters = lstm.state_dict()

    def loss():
        lstm.load_state_dict(parameters)
        y, (h_n, c_n) = lstm(x, (h0, c0), **steps)
        return (y * dy).sum() + (h_n * dh).sum() + (c_n * dc).sum()

    for name, array in {"x": x, "h0": h0, "c0": c0, **parameters}.items():
        expected = finite_difference(loss, array, 1e-5)  # small, because functions have kinks
        assert largest_error(got[name], expected) <= bound or np.abs(got[name] - expected).max() <= 1e-10, name


@every_option
@pytest.mark.parametrize("steps", ("all", "lengths", "mask"))
def test_gradients_against_finite_differences(options, steps):
    if options.get("proj_size", 0) > 3:
        options = options | {"proj_size": 2}
    lstm = LSTM(2, 4, dtype="float64", seed=5, **options)
    valid = {"lengths": [4, 0, 3]} if steps == "lengths" else {}
    if steps == "mask":
        valid = {"mask": random_mask(4, 3, lstm.batch_first)}
    assert_gradients(lstm, 4, 3, **valid)


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("index", (0, 1, 2))
def test_gradient_of_every_activation(name, index):
    activations = ["sigmoid", "tanh", "tanh"]
    # different numbers, with which no value of the cases below is at a kink
    activations[index] = (name, *(0.61, 0.37)[: ARGUMENTS.get(name, 0)])
    lstm = LSTM(2, 4, dtype="float64", seed=5, activations=activations)
    assert_gradients(lstm, 4, 3)


@pytest.mark.parametrize("steps", ("all", "lengths", "mask"))
@pytest.mark.parametrize("options", ({}, {"proj_size": 2, "num_layers": 2}, {"peepholes": True}), ids=repr)
def test_gradients_with_resets(options, steps):
    lstm = LSTM(2, 4, dtype="float64", seed=5, **options)
    valid = {"lengths": [5, 0, 3]} if steps == "lengths" else {"mask": random_mask(5, 3)} if steps == "mask" else {}
    assert_gradients(lstm, 5, 3, reset=random_resets(5, 3), **valid)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@every_dtype
@pytest.mark.parametrize("options", ({}, {"bidirectional": True, "num_layers": 2}, {"bias": False}), ids=repr)
def test_projection_agrees_with_pytorch(dtype, options):
    torch = pytest.importorskip("torch")
    lstm = LSTM(7, 13, proj_size=5, dtype=dtype, seed=0, **options)
    twin = torch_twin(torch, lstm)
    x, state = random_case(lstm, 9, 4)
    y, (h_n, c_n), tape = lstm.forward(x, state)
    torch_x = torch.tensor(x, requires_grad=True)
    torch_y, (torch_h, torch_c) = twin(torch_x, tuple(map(torch.tensor, state)))
    tolerance = 2e-6 if dtype == "float32" else 1e-13
    for got, expected in zip((y, h_n, c_n), (torch_y, torch_h, torch_c), strict=True):
        assert np.abs(got - expected.detach().numpy()).max() <= tolerance
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    (torch_y * torch.tensor(dy)).sum().backward()
    gradients = lstm.backward(tape, dy)
    assert largest_error(gradients.x, torch_x.grad) <= 5 * tolerance
    for name, parameter in twin.named_parameters():
        assert largest_error(gradients.parameters[name], parameter.grad) <= 5 * tolerance


@every_dtype
@pytest.mark.parametrize("entry", ACTIVATIONS, ids=str)
def test_activations_over_the_whole_range(dtype, entry):
    """Test each activation by a layer whose output is the activation of its input."""
    identity = ("affine", 1, 0)
    lstm = LSTM(1, 1, bias=False, activations=(("affine", 0, 1), identity, entry), dtype=dtype)
    weights = {name: np.zeros(array.shape) for name, array in lstm.parameters.items()}
    weights["weight_ih_l0"][2] = 1
    lstm.load_state_dict(weights)
    x = np.concatenate([[0, 1e30, -1e30], np.linspace(-50, 50, 2001), np.geomspace(1e-30, 1, 99)])
    x = x.astype(dtype)[None, :, None]
    name, alpha, beta = normalized((entry, "tanh", "tanh"), 1)[0][0]
    expected = reference.ACTIVATIONS[name](x.astype("float64"), alpha, beta)
    bound = 2e-7 if dtype == "float32" else 4e-16
    assert (np.abs(lstm(x)[0] - expected) <= bound * np.maximum(1, np.abs(expected))).all()
    assert np.isnan(lstm(np.full((1, 1, 1), np.nan))[0]).all()


@every_packed
@every_dtype
@every_option
def test_batching_padding_threads_and_steps_give_the_same_bits(chosen, dtype, options):
    """Compare a row alone and in a batch, with padding, on several threads, in chunks and by steps."""
    lstm = with_large_weights(LSTM(5, 33, dtype=dtype, seed=0, **options))
    T, B = 9, 7
    x, state = random_case(lstm, T, B)
    y, final = lstm(x, state)
    if lstm.batch_first:
        x, y = x.swapaxes(0, 1), y.swapaxes(0, 1)

    def run(x, state, **keywords):
        y, final = lstm(x.swapaxes(0, 1) if lstm.batch_first else x, state, **keywords)
        return (y.swapaxes(0, 1) if lstm.batch_first else y), final

    row = run(x[:, 2:3], [part[:, 2:3] for part in state])
    assert bits(row[0], *row[1]) == bits(y[:, 2:3], *(part[:, 2:3] for part in final))
    padded = run(np.concatenate([x, x]), state, lengths=np.full(B, T))
    assert bits(padded[0][:T], *padded[1]) == bits(y, *final)
    shared = run(x, state, threads=3)
    assert bits(shared[0], *shared[1]) == bits(y, *final)
    if lstm.bidirectional or lstm.reverse:
        return
    first, middle = run(x[:4], state)
    second, end = run(x[4:], middle)
    assert bits(np.concatenate([first, second]), *end) == bits(y, *final)
    stepper = lstm.stepper(B)
    stepper.state = state
    assert bits(np.stack([stepper.step(x_t) for x_t in x]), *stepper.state) == bits(y, *final)


@every_implementation
def test_a_bound_that_is_never_reached_changes_no_bit(chosen):
    plain, bounded = (LSTM(5, 33, 2, seed=0, clip=clip) for clip in (None, 1e30))
    x, state = random_case(plain, 9, 7)
    assert bits(plain(x, state)[0]) == bits(bounded(x, state)[0])


@every_option
def test_mask_keeps_the_state_and_zeroes_the_output(options):
    lstm = LSTM(3, 9, dtype="float64", seed=1, **options)
    T, B = 9, 5
    x, state = random_case(lstm, T, B)
    mask = random_mask(T, B, lstm.batch_first)
    x = np.where(mask[..., None], x, np.nan)  # masked steps are never read
    y, (h_n, c_n) = lstm(x, state, mask=mask)
    assert not y[~mask].any()
    if lstm.batch_first:
        x, y, mask = x.swapaxes(0, 1), y.swapaxes(0, 1), mask.T
    for row in range(B):
        valid = mask[:, row]
        own = [part[:, row : row + 1] for part in state]
        alone = x[valid, row][:, None]
        output, final = lstm(alone.swapaxes(0, 1) if lstm.batch_first else alone, own)
        assert np.array_equal(y[valid, row], output.reshape(-1, lstm.output_size))
        for got, expected in zip((h_n, c_n), final, strict=True):
            assert np.array_equal(got[:, row], expected[:, 0])


def test_a_mask_supports_left_padding():
    lstm = small_lstm()
    x, _ = random_case(lstm, 6, 2)
    mask = np.ones((6, 2), bool)
    mask[:4, 1] = False
    y, (h_n, _) = lstm(x, mask=mask)
    alone, (h_alone, _) = lstm(x[4:, 1])
    assert np.array_equal(y[4:, 1], alone)
    assert np.array_equal(h_n[:, 1], h_alone)


@pytest.mark.parametrize("options", ({}, {"num_layers": 2}, {"proj_size": 2}, {"peepholes": True}), ids=repr)
@pytest.mark.parametrize("threads", (1, 2))
def test_reset_restarts_a_row_from_a_zero_state(options, threads):
    lstm = LSTM(3, 9, seed=1, **options)
    x, state = random_case(lstm, 9, 3)
    reset = np.zeros((9, 3), bool)
    reset[4, 1] = reset[0, 2] = True
    y, (h_n, c_n) = lstm(x, state, reset=reset, threads=threads)
    assert bits(y[:, 0]) == bits(lstm(x[:, 0], [part[:, 0] for part in state])[0])
    assert bits(y[:4, 1]) == bits(lstm(x[:4, 1], [part[:, 1] for part in state])[0])
    fresh, (h_fresh, c_fresh) = lstm(x[4:, 1])
    assert bits(y[4:, 1], h_n[:, 1], c_n[:, 1]) == bits(fresh, h_fresh, c_fresh)
    assert bits(y[:, 2]) == bits(lstm(x[:, 2])[0])


def test_reset_on_masked_steps_takes_effect_at_the_next_valid_step():
    lstm = small_lstm()
    x, state = random_case(lstm, 5, 2)
    mask = np.array([[1, 1], [0, 1], [1, 0], [1, 0], [1, 0]], bool)
    reset = np.zeros((5, 2), bool)
    reset[1, 0] = reset[3, 1] = True
    y, (h_n, c_n) = lstm(x, state, mask=mask, reset=reset)
    assert np.array_equal(y[2:, 0], lstm(x[2:, 0])[0])
    assert not h_n[:, 1].any()
    assert not c_n[:, 1].any()


def test_one_sequence_takes_flags_without_a_batch_axis():
    lstm = small_lstm()
    x = random_case(lstm, 5, 1)[0][:, 0]
    mask = np.array([True, False, True, True, False])
    reset = np.array([False, False, True, False, False])
    y, _ = lstm(x, mask=mask, reset=reset)
    assert np.array_equal(y[2:4], lstm(x[2:4])[0])


def test_a_mask_of_true_and_no_resets_change_no_bit():
    lstm = small_lstm(num_layers=2)
    x, state = random_case(lstm, 6, 3)
    flags = np.ones((6, 3), bool)
    assert bits(lstm(x, state, mask=flags, reset=~flags)[0]) == bits(lstm(x, state)[0])


def test_a_sequential_passes_mask_and_reset_to_its_lstms():
    lstm = small_lstm(num_layers=2)
    head = Linear(5, 2, seed=0)
    model = Sequential(lstm, head)
    x, _ = random_case(lstm, 6, 3)
    steps = {"mask": random_mask(6, 3), "reset": random_resets(6, 3)}
    expected = head(lstm(x, **steps)[0])
    assert np.array_equal(model(x, **steps)[0], expected)
    assert np.array_equal(model.forward(x, **steps)[0], expected)


@pytest.mark.parametrize("kind", ("bf16", "int8"))
@every_option
def test_narrow_weights_with_every_option(kind, options):
    lstm = LSTM(5, 33, seed=0, **options)
    narrow = lstm.quantize(kind)
    x, state = random_case(lstm, 9, 3)
    y, got = lstm(x, state)[0], narrow(x, state)[0]
    assert 0 < np.abs(y - got).max() < 0.2 * np.abs(y).max()


def test_weights_of_a_gate_that_coupling_replaces_are_ignored():
    for coupled, row in (("f=1-i", 1), ("i=1-f", 0)):
        lstm = small_lstm(coupled_gates=coupled, peepholes=True)
        x, _ = random_case(lstm, 4, 2)
        before = lstm(x)[0]
        weights = lstm.state_dict()
        weights["weight_ih_l0"][row * 5 : row * 5 + 5] = 9
        weights["peephole_l0"][row] = 9
        lstm.load_state_dict(weights)
        assert np.array_equal(before, lstm(x)[0])


def test_the_configuration_rebuilds_the_layer():
    for options in OPTIONS:
        lstm = LSTM(5, 9, seed=0, **options)
        again = LSTM(**lstm.config)
        assert again.config == lstm.config
        again.load_state_dict(lstm.parameters)
        x, state = random_case(lstm, 4, 2)
        assert bits(again(x, state)[0]) == bits(lstm(x, state)[0])


def test_from_gates_takes_cell_options():
    gates = {name: (np.ones((2, 5)), np.zeros(2)) for name in ("forget", "input", "candidate", "output")}
    lstm = LSTM.from_gates(**gates, coupled_gates="f=1-i", cell_clip=0.5)
    assert (lstm.coupled_gates, lstm.cell_clip) == ("f=1-i", 0.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    (
        ({"proj_size": 5}, ValueError, "proj_size: expected 0 to hidden_size - 1 = 4, got 5"),
        ({"proj_size": -1}, ValueError, "proj_size"),
        ({"proj_size": 2.0}, TypeError, "proj_size"),
        ({"proj_clip": 1.0}, ValueError, "proj_clip: expected None without proj_size"),
        ({"clip": 0.0}, ValueError, "clip"),
        ({"clip": -1}, ValueError, "clip"),
        ({"cell_clip": float("nan")}, ValueError, "cell_clip"),
        ({"cell_clip": "1"}, TypeError, "cell_clip"),
        ({"peepholes": 1}, TypeError, "peepholes"),
        ({"layer_norm": None}, TypeError, "layer_norm"),
        ({"coupled_gates": "f=i"}, ValueError, "coupled_gates: expected None, 'f=1-i' or 'i=1-f', got 'f=i'"),
        ({"coupled_gates": True}, ValueError, "coupled_gates"),
        ({"activations": "tanh"}, TypeError, "activations"),
        ({"activations": ("tanh", "tanh")}, ValueError, "activations: expected three"),
        ({"activations": ("tanh", "tanh", "gelu")}, ValueError, "got 'gelu'"),
        ({"activations": ("tanh", "tanh", ("tanh", 1.0))}, ValueError, "expected 0 numbers with tanh"),
        ({"activations": ("tanh", "tanh", ("elu", 1, 2))}, ValueError, "expected 1 numbers with elu"),
        ({"activations": ("tanh", "tanh", ("elu", "1"))}, TypeError, "activations"),
        ({"activations": ("tanh", "tanh", ("elu", float("inf")))}, ValueError, "expected a number in .*, got inf"),
        ({"activations": ("tanh", "tanh", None)}, ValueError, "activations"),
        ({"activations": (PLAIN, PLAIN)}, ValueError, "activations"),
    ),
)
def test_constructor_errors(options, error, message):
    with pytest.raises(error, match=message):
        small_lstm(**options)


@pytest.mark.parametrize(
    ("layer", "steps", "error", "message"),
    (
        ({}, {"mask": np.ones((4, 2))}, TypeError, "mask: expected bools"),
        ({}, {"mask": np.ones((2, 4), bool)}, ValueError, r"mask: expected shape \(T, B\)"),
        ({"batch_first": True}, {"mask": np.ones((2, 4), bool)}, ValueError, r"mask: expected shape \(B, T\)"),
        (
            {},
            {"mask": np.ones((4, 2), bool), "lengths": [4, 4]},
            ValueError,
            "mask: expected None together with lengths",
        ),
        ({}, {"reset": [1, 0]}, TypeError, "reset: expected bools"),
        ({}, {"reset": np.ones(4, bool)}, ValueError, r"reset: expected shape \(T, B\)"),
        ({"reverse": True}, {"reset": np.ones((4, 2), bool)}, ValueError, "reset: expected None with reverse=True"),
        ({"bidirectional": True}, {"reset": np.ones((4, 2), bool)}, ValueError, "reset: .* bidirectional=True"),
    ),
)
def test_call_errors(layer, steps, error, message):
    lstm = small_lstm(**layer)
    x = np.zeros((4, 2, 3))
    for call in (lstm, lstm.forward):
        with pytest.raises(error, match=message):
            call(x, **steps)


def test_the_kernels_have_the_functions_of_the_table():
    assert list(network.ACTIVATION_KINDS) == list(DEFAULTS)
    assert sorted(network.ACTIVATION_KINDS.values()) == list(range(len(DEFAULTS)))
    assert set(ELEMENTWISE) >= set(DEFAULTS) >= set(ARGUMENTS)
