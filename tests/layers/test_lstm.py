"""The LSTM layer: comparison with PyTorch, and every kind of argument."""

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from common import DTYPES, every_gradient, largest_error, random_case, small_lstm, torch_twin
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_cy import LSTM

OPTIONS = (
    {},
    {"bias": False, "batch_first": True},
    {"num_layers": 2},
    {"bidirectional": True, "num_layers": 2},
    {"bidirectional": True, "num_layers": 3, "batch_first": True, "bias": False},
)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS, ids=repr)
@pytest.mark.parametrize(
    ("T", "B", "I", "H"), ((1, 1, 1, 1), (5, 3, 17, 3), (9, 17, 3, 33), (3, 2, 127, 127), (20, 33, 33, 17))
)
def test_forward_and_backward_agree_with_pytorch(torch, dtype, options, T, B, I, H):
    lstm = LSTM(I, H, dtype=dtype, seed=T, **options)
    x, state = random_case(lstm, T, B)
    twin = torch_twin(torch, lstm)
    inputs = [torch.tensor(array, requires_grad=True) for array in (x, *state)]
    expected_y, expected_state = twin(inputs[0], tuple(inputs[1:]))
    y, final, tape = lstm.forward(x, state)
    exact = 1e-13 if dtype == "float64" else 2e-6
    for got, expected in zip((y, *final), (expected_y, *expected_state), strict=True):
        assert np.abs(got - expected.detach().numpy()).max() <= exact

    rng = np.random.default_rng(2)
    seeds = [rng.standard_normal(array.shape).astype(dtype) for array in (y, *final)]
    torch.autograd.backward([expected_y, *expected_state], [torch.tensor(seed) for seed in seeds])
    got = every_gradient(lstm.backward(tape, seeds[0], seeds[1:]))
    expected = dict(zip(("x", "h0", "c0"), (tensor.grad for tensor in inputs), strict=True))
    expected |= {name: parameter.grad for name, parameter in twin.named_parameters()}
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert largest_error(got[name], gradient.numpy()) <= (1e-11 if dtype == "float64" else 2e-5), name


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_ragged_lengths_agree_with_pytorch(torch, options):
    rnn = torch.nn.utils.rnn
    lstm = LSTM(3, 17, dtype="float64", seed=0, **options)
    x, state = random_case(lstm, 9, 5)
    lengths = [4, 9, 1, 9, 6]
    twin = torch_twin(torch, lstm)
    inputs = [torch.tensor(array, requires_grad=True) for array in (x, *state)]
    packed = rnn.pack_padded_sequence(inputs[0], lengths, batch_first=lstm.batch_first, enforce_sorted=False)
    packed_y, expected_state = twin(packed, tuple(inputs[1:]))
    expected_y, _ = rnn.pad_packed_sequence(packed_y, batch_first=lstm.batch_first, total_length=9)

    dirty, dy = x.copy(), np.random.default_rng(1).standard_normal(expected_y.shape)
    dirty_dy = dy.copy()
    for array in (dirty, dirty_dy):
        for row, length in zip(array if lstm.batch_first else array.swapaxes(0, 1), lengths, strict=True):
            row[length:] = np.nan
    y, final, tape = lstm.forward(dirty, state, lengths=np.array(lengths, np.uint8))
    for got, expected in zip((y, *final), (expected_y, *expected_state), strict=True):
        assert np.abs(got - expected.detach().numpy()).max() <= 1e-13
    expected_y.backward(torch.tensor(dy))
    got = every_gradient(lstm.backward(tape, dirty_dy))
    expected = dict(zip(("x", "h0", "c0"), (tensor.grad for tensor in inputs), strict=True))
    expected |= {name: parameter.grad for name, parameter in twin.named_parameters()}
    for name, gradient in expected.items():
        assert largest_error(got[name], gradient.numpy()) <= 1e-11, name
    for row, length in zip(got["x"] if lstm.batch_first else got["x"].swapaxes(0, 1), lengths, strict=True):
        assert not row[length:].any()


def test_one_sequence_agrees_with_pytorch(torch):
    lstm = LSTM(3, 5, 2, bidirectional=True, dtype="float64", seed=0)
    x, state = random_case(lstm, 7, 1)
    y, (h_n, c_n) = lstm(x[:, 0], (state[0][:, 0], state[1][:, 0]))
    expected, (h, c) = torch_twin(torch, lstm)(
        torch.tensor(x[:, 0]), (torch.tensor(state[0][:, 0]), torch.tensor(state[1][:, 0]))
    )
    for got, tensor in zip((y, h_n, c_n), (expected, h, c), strict=True):
        assert got.shape == tuple(tensor.shape)
        assert np.abs(got - tensor.detach().numpy()).max() <= 1e-13


@settings(max_examples=60)
@given(
    T=st.integers(0, 6),
    B=st.integers(0, 7),
    I=st.integers(1, 5),
    H=st.integers(1, 20),
    layers=st.integers(1, 3),
    batch_first=st.booleans(),
    direction=st.sampled_from(["forward", "reverse", "both"]),
    data=st.data(),
)
def test_any_ragged_batch_equals_its_rows(T, B, I, H, layers, batch_first, direction, data):
    options = {"bidirectional": direction == "both", "reverse": direction == "reverse", "batch_first": batch_first}
    lstm = LSTM(I, H, layers, dtype="float64", seed=0, **options)
    x, (h0, c0) = random_case(lstm, T, B)
    lengths = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    y, (h_n, c_n), tape = lstm.forward(x, (h0, c0), lengths=lengths)
    assert y.shape == ((B, T) if batch_first else (T, B)) + (H * lstm.num_directions,)
    dx = lstm.backward(tape, np.ones_like(y)).x
    rows = [array if batch_first else array.swapaxes(0, 1) for array in (x, y, dx)]
    for row, length in enumerate(lengths):
        alone, (h, c), kept = lstm.forward(rows[0][row, :length], (h0[:, row], c0[:, row]))
        assert np.abs(rows[1][row, :length] - alone).max(initial=0) < 1e-14
        assert np.abs(h_n[:, row] - h).max() < 1e-14
        assert np.abs(c_n[:, row] - c).max() < 1e-14
        assert np.abs(rows[2][row, :length] - lstm.backward(kept, np.ones_like(alone)).x).max(initial=0) < 1e-13
        assert not rows[1][row, length:].any()
        assert not rows[2][row, length:].any()


def test_reverse_reads_from_the_end_and_keeps_the_order_of_y():
    forward, backward = small_lstm(), small_lstm(reverse=True)
    x, state = random_case(forward, 6, 4)
    y, final = forward(x[::-1], state)
    y_reverse, final_reverse = backward(x, state)
    assert np.array_equal(y[::-1], y_reverse)
    assert np.array_equal(final, final_reverse)


@pytest.mark.parametrize(
    "form",
    (
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: x.astype(np.float64),
        lambda x: x.astype(">f4"),
        lambda x: x.tolist(),
    ),
    ids=("Fortran", "every other", "negative stride", "float64", "big-endian", "list"),
)
def test_every_input_layout_gives_the_same_result(form):
    lstm = small_lstm()
    x, state = random_case(lstm, 6, 4)
    expected, _ = lstm(x, state)
    given = form(x)
    before = np.array(given)
    y, _ = lstm(given, tuple(np.asfortranarray(part) for part in state))
    assert np.array_equal(y, expected)
    assert np.array_equal(before, given), "the input was changed"


@pytest.mark.parametrize("dtype", (np.float16, np.int8, np.uint16, np.int64, np.bool_))
def test_narrow_and_integer_input(dtype):
    lstm = small_lstm()
    x = np.random.default_rng(0).integers(0, 2, (5, 2, 3)).astype(dtype)
    y, _ = lstm(x)
    assert y.dtype == np.float32
    assert np.array_equal(y, lstm(x.astype(np.float32))[0])


def test_read_only_inputs_are_accepted_and_results_are_writable():
    lstm = small_lstm(num_layers=2)
    x, state = random_case(lstm, 6, 4)
    for array in (x, *state):
        array.flags.writeable = False
    y, (h_n, c_n), tape = lstm.forward(x, state)
    gradients = lstm.backward(tape, y, (h_n, c_n))
    for array in (y, h_n, c_n, gradients.x, *gradients.state, *gradients.parameters.values()):
        assert array.flags.writeable
        assert array.dtype == np.float32
    assert not np.shares_memory(y, h_n)


def test_empty_batches_and_sequences():
    lstm = small_lstm(num_layers=2, bidirectional=True)
    y, (h_n, c_n) = lstm(np.empty((4, 0, 3)))
    assert (y.shape, h_n.shape, c_n.shape) == ((4, 0, 10), (4, 0, 5), (4, 0, 5))
    _, state = random_case(lstm, 1, 2)
    for lengths in (None, [0, 0]):
        y, final, tape = lstm.forward(np.empty((0, 2, 3)), state, lengths=lengths)
        assert y.shape == (0, 2, 10)
        assert np.array_equal(final, state)
        gradients = lstm.backward(tape, y, state)
        assert np.array_equal(gradients.state, state)
        assert not any(array.any() for array in gradients.parameters.values())


def test_padding_and_chunking_agree_to_rounding():
    lstm = small_lstm(num_layers=2)
    x, state = random_case(lstm, 20, 6)
    whole, final = lstm(x, state)
    first, carried = lstm(x[:7], state)
    second, carried = lstm(x[7:], carried)
    assert np.abs(np.concatenate([first, second]) - whole).max() < 1e-6
    padded, carried = lstm(np.concatenate([x, np.full((5, 6, 3), np.nan)]), state, lengths=[20] * 6)
    assert np.abs(padded[:20] - whole).max() < 1e-6
    assert np.abs(np.subtract(carried, final)).max() < 1e-6


def test_dropout_acts_between_layers_and_scales():
    lstm = LSTM(3, 64, 2, dropout=0.25, dtype="float64", seed=0)
    x, _ = random_case(lstm, 30, 8)
    inference, _ = lstm(x)
    y, _, tape = lstm.forward(x, rng=5)
    again, _, _ = lstm.forward(x, rng=np.random.default_rng(5))
    other, _, _ = lstm.forward(x, rng=6)
    assert np.array_equal(y, again)
    assert not np.array_equal(y, other)
    assert not np.array_equal(y, inference)
    inputs = tape.saved[1][0]  # of the second layer
    first_layer = LSTM(3, 64, dtype="float64")
    first_layer.load_state_dict({name: array for name, array in lstm.parameters.items() if "l0" in name})
    expected = first_layer(x)[0].reshape(inputs.shape)
    kept = inputs != 0
    assert abs(kept.mean() - 0.75) < 0.02
    assert np.allclose(inputs[kept], expected[kept] / 0.75, rtol=1e-12)
    assert np.array_equal(lstm(x)[0], inference), "inference has no dropout"


def test_dropout_with_probability_one():
    lstm = LSTM(3, 5, 2, dropout=1.0, seed=0)
    x, _ = random_case(lstm, 4, 2)
    y, _, tape = lstm.forward(x)
    assert np.isfinite(y).all()
    assert not tape.saved[1][0].any()
    assert not lstm.backward(tape, y).x.any()


def test_a_tape_can_be_used_twice_and_is_refused_after_a_change_of_parameters():
    lstm = small_lstm()
    x, state = random_case(lstm, 4, 2)
    y, _, tape = lstm.forward(x, state)
    first, second = lstm.backward(tape, y), lstm.backward(tape, y)
    for name, array in every_gradient(first).items():
        assert np.array_equal(array, every_gradient(second)[name])
    x[:] = 0  # the caller may reuse its buffer
    for name, array in every_gradient(lstm.backward(tape, y)).items():
        assert np.array_equal(array, every_gradient(first)[name])
    lstm.load_state_dict(lstm.state_dict())
    with pytest.raises(RuntimeError, match="parameters have changed"):
        lstm.backward(tape, y)


def test_from_gates_agrees_with_the_textbook_formulas():
    rng = np.random.default_rng(0)
    H, I = 4, 3
    gates = {
        name: (rng.standard_normal((H, H + I)), rng.standard_normal(H))
        for name in ("forget", "input", "candidate", "output")
    }
    lstm = LSTM.from_gates(**gates, dtype="float64")
    x, h, c = rng.standard_normal((6, I)), np.zeros(H), np.zeros(H)
    y, (_, c_n) = lstm(x)

    def gate(name, activation):
        W, b = gates[name]
        return activation(W @ np.concatenate([h, x[t]]) + b)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    for t in range(6):
        f, i, o = (gate(name, sigmoid) for name in ("forget", "input", "output"))
        c = f * c + i * gate("candidate", np.tanh)
        h = o * np.tanh(c)
        assert np.abs(y[t] - h).max() < 1e-14
    assert np.abs(c_n[0] - c).max() < 1e-14
    assert np.array_equal(lstm.parameters["bias_hh_l0"], np.zeros(4 * H))
    assert LSTM.from_gates(**gates, batch_first=True, reverse=True).batch_first


def test_initial_parameters():
    lstm = LSTM(7, 16, 2, bidirectional=True, seed=3, forget_bias=0)
    assert list(lstm.parameters)[:5] == [
        "weight_ih_l0",
        "weight_hh_l0",
        "bias_ih_l0",
        "bias_hh_l0",
        "weight_ih_l0_reverse",
    ]
    shapes = {name: array.shape for name, array in lstm.parameters.items()}
    assert shapes["weight_ih_l1_reverse"] == (64, 32)
    assert shapes["weight_hh_l1"] == (64, 16)
    for array in lstm.parameters.values():
        assert 0.2 < np.abs(array).max() <= 0.25
    same = LSTM(7, 16, 2, bidirectional=True, seed=np.random.default_rng(3), forget_bias=0)
    assert all(np.array_equal(array, same.parameters[name]) for name, array in lstm.parameters.items())
    assert not np.array_equal(LSTM(7, 16).parameters["weight_ih_l0"], LSTM(7, 16).parameters["weight_ih_l0"])


@pytest.mark.parametrize("forget_bias", (1.0, -2, np.arange(16.0), list(range(16))), ids=("1.0", "-2", "array", "list"))
def test_forget_bias_adds_to_the_forget_rows_only(forget_bias):
    plain = LSTM(2, 16, 2, seed=0, forget_bias=0).parameters
    biased = LSTM(2, 16, 2, seed=0, forget_bias=forget_bias).parameters
    for name, array in plain.items():
        difference = (biased[name] - array).astype(np.float64)
        if name.startswith("bias_ih"):
            assert np.allclose(difference[16:32], forget_bias, atol=1e-6)
            difference[16:32] = 0
        assert not difference.any(), name
    assert list(LSTM(2, 16, bias=False, forget_bias=forget_bias).parameters) == ["weight_ih_l0", "weight_hh_l0"]


def test_chrono_forget_bias():
    # Compare the distribution, because the draws have another order.
    added = LSTM(2, 4000, seed=0, forget_bias=("chrono", 101)).parameters["bias_ih_l0"][4000:8000].astype(np.float64)
    assert -0.02 <= added.min() < 1.5
    assert 4.5 < added.max() <= np.log(100) + 0.02
    assert abs(np.exp(added).mean() - 50.5) < 2  # U(1, 100)


def test_state_dict_round_trip_and_snapshots():
    lstm = small_lstm(num_layers=2)
    snapshot = lstm.parameters["weight_ih_l0"]
    before = snapshot.copy()
    with pytest.raises(ValueError, match="read-only"):
        snapshot[0, 0] = 1
    copies = lstm.state_dict()
    copies["weight_ih_l0"][:] = 0
    lstm.load_state_dict(copies)
    copies["weight_ih_l0"][:] = 7
    assert not lstm.parameters["weight_ih_l0"].any()
    assert np.array_equal(snapshot, before), "parameters that were read earlier do not change"


def test_load_state_dict_lists_all_faults_and_changes_nothing():
    lstm = small_lstm()
    before = lstm.state_dict()
    faulty = lstm.state_dict()
    del faulty["bias_hh_l0"]
    faulty["surplus"] = np.zeros(3)
    faulty["weight_hh_l0"] = np.zeros((2, 2))
    faulty["weight_ih_l0"][:] = 0
    with pytest.raises(KeyError) as caught:
        lstm.load_state_dict(faulty)
    for part in ("missing: bias_hh_l0", "unknown: surplus", "weight_hh_l0: expected (20, 5), got (2, 2)"):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match="misshaped: weight_hh_l0"):
        lstm.load_state_dict(faulty, strict=False)
    with pytest.raises(TypeError, match="weight_ih_l0"):
        lstm.load_state_dict({**before, "weight_ih_l0": np.zeros((20, 3), complex)})
    assert all(np.array_equal(array, lstm.parameters[name]) for name, array in before.items())
    del faulty["weight_hh_l0"]
    lstm.load_state_dict(faulty, strict=False)
    assert not lstm.parameters["weight_ih_l0"].any()
    assert np.array_equal(lstm.parameters["bias_hh_l0"], before["bias_hh_l0"])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    (
        ((0, 5), {}, ValueError, "input_size: expected at least 1, got 0"),
        ((3, -5), {}, ValueError, "hidden_size: expected at least 1, got -5"),
        ((3, 5, 0), {}, ValueError, "num_layers"),
        ((3.0, 5), {}, TypeError, "input_size: expected an integer, got 3.0"),
        ((3, True), {}, TypeError, "hidden_size"),
        ((3, 2**29), {}, ValueError, "4 \\* hidden_size up to 2147483647"),
        ((2**31, 5), {}, ValueError, "input_size"),
        ((3, 5), {"bias": 1}, TypeError, "bias: expected True or False"),
        ((3, 5), {"batch_first": None}, TypeError, "batch_first"),
        ((3, 5), {"dropout": 1.5}, ValueError, "dropout: expected a number in \\[0.0, 1.0\\], got 1.5"),
        ((3, 5), {"dropout": "some"}, TypeError, "dropout"),
        ((3, 5), {"dropout": np.nan}, ValueError, "dropout"),
        ((3, 5), {"dtype": "float16"}, ValueError, "dtype: expected 'float32' or 'float64'"),
        ((3, 5), {"dtype": "nonsense"}, ValueError, "dtype"),
        ((3, 5), {"reverse": True, "bidirectional": True}, ValueError, "reverse"),
        ((3, 5), {"forget_bias": "chrono"}, ValueError, "forget_bias"),
        ((3, 5), {"forget_bias": ("chrono", 1)}, ValueError, "forget_bias"),
        ((3, 5), {"forget_bias": np.zeros(4)}, ValueError, "forget_bias"),
        ((3, 5), {"forget_bias": np.inf}, ValueError, "forget_bias"),
        ((3, 5), {"seed": -1}, TypeError, "seed"),
        ((3, 5), {"seed": "x"}, TypeError, "seed"),
        ((3, 5), {"hidden": 4}, TypeError, "hidden"),
    ),
)
def test_constructor_errors(arguments, options, error, message):
    with pytest.raises(error, match=message):
        LSTM(*arguments, **options)


@pytest.mark.parametrize(
    ("x", "keywords", "error", "message"),
    (
        (np.zeros((4, 2, 9)), {}, ValueError, "x: expected shape .*I = 3, got \\(4, 2, 9\\)"),
        (np.zeros(3), {}, ValueError, "x: expected shape"),
        (np.zeros((1, 4, 2, 3)), {}, ValueError, "x: expected shape"),
        (np.zeros((4, 2, 3), complex), {}, TypeError, "x: expected real numbers, got dtype complex128"),
        (np.zeros((4, 2, 3), object), {}, TypeError, "x: .*object"),
        (None, {}, TypeError, "x: expected real numbers, got dtype object"),
        ([[1, 2, 3], [4, 5]], {}, ValueError, "x: expected an array: .*inhomogeneous"),
        (np.full((4, 2, 3), "a"), {}, TypeError, "x: "),
        (
            np.zeros((4, 2, 3)),
            {"lengths": [1, 2, 3]},
            ValueError,
            "lengths: expected shape \\(B,\\) = \\(2,\\), got \\(3,\\)",
        ),
        (np.zeros((4, 2, 3)), {"lengths": [1, 5]}, ValueError, "lengths: expected 0 to T = 4, got 5 at row 1"),
        (np.zeros((4, 2, 3)), {"lengths": [-1, 4]}, ValueError, "lengths: .* got -1 at row 0"),
        (np.zeros((4, 2, 3)), {"lengths": [1.0, 2.0]}, TypeError, "lengths: expected integers"),
        (np.zeros((4, 2, 3)), {"state": np.zeros((1, 2, 5))}, TypeError, "state: expected a pair"),
        (np.zeros((4, 2, 3)), {"state": (np.zeros((1, 2, 5)), None)}, TypeError, "state: expected both"),
        (np.zeros((4, 2, 3)), {"state": (np.zeros((1, 2, 5)),) * 3}, TypeError, "state: expected a pair"),
        (
            np.zeros((4, 2, 3)),
            {"state": (np.zeros((1, 2, 5)), np.zeros((2, 5)))},
            ValueError,
            "state c: expected shape",
        ),
        (np.zeros((4, 3)), {"state": (np.zeros((1, 1, 5)),) * 2}, ValueError, "state h: expected shape \\(L\\*D, H\\)"),
        (np.zeros((4, 2, 3)), {"threads": 0}, ValueError, "threads"),
        (np.zeros((4, 2, 3)), {"threads": 1.5}, TypeError, "threads"),
    ),
)
def test_call_errors(x, keywords, error, message):
    lstm = small_lstm()
    for call in (lstm, lstm.forward):
        with pytest.raises(error, match=message):
            call(x, **keywords)


def test_training_errors():
    lstm = small_lstm()
    x, _ = random_case(lstm, 4, 2)
    y, (h_n, c_n), tape = lstm.forward(x)
    with pytest.raises(TypeError, match="rng"):
        lstm.forward(x, rng="seed")
    with pytest.raises(TypeError, match="tape: expected a tape of LSTM.forward, got list"):
        lstm.backward([], y)
    for arguments in ((), (None, (None, None))):
        with pytest.raises(ValueError, match="dy, dstate: expected at least one"):
            lstm.backward(tape, *arguments)
    with pytest.raises(ValueError, match="dy: expected shape"):
        lstm.backward(tape, y[1:])
    with pytest.raises(ValueError, match="dstate c: expected shape"):
        lstm.backward(tape, y, (h_n, c_n[:, 1:]))
    with pytest.raises(TypeError, match="dstate: expected a pair"):
        lstm.backward(tape, y, h_n)


@pytest.mark.parametrize(
    ("gates", "error", "message"),
    (
        ({"forget": (np.zeros((4, 4)), np.zeros(4))}, ValueError, "forget W: expected shape \\(H, H \\+ I\\)"),
        ({"input": (np.zeros((4, 8)), np.zeros(4))}, ValueError, "input W: expected shape"),
        ({"output": (np.zeros((4, 7)), np.zeros(5))}, ValueError, "output b: expected shape"),
        ({"candidate": np.zeros((4, 7))}, TypeError, "candidate: expected a pair"),
        ({"num_layers": 2}, TypeError, "num_layers"),
    ),
)
def test_from_gates_errors(gates, error, message):
    whole = {name: (np.zeros((4, 7)), np.zeros(4)) for name in ("forget", "input", "candidate", "output")}
    with pytest.raises(error, match=message):
        LSTM.from_gates(**{**whole, **gates})


def test_many_threads_share_one_layer():
    lstm = LSTM(8, 32, 2, seed=0)
    cases = [random_case(lstm, 5 + seed, 1 + seed % 4, seed) for seed in range(24)]
    expected = [lstm(x, state)[0] for x, state in cases]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            results = pool.map(lambda case: lstm(*case)[0], cases)
            assert all(np.array_equal(got, y) for got, y in zip(results, expected, strict=True))


@contextlib.contextmanager
def running_python(code, **options):
    """Start a Python process that runs `code`; kill it at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("engine", ("blas", "packed"))
def test_ctrl_c_ends_a_long_call(engine):
    code = """
        import signal
        import numpy as np
        from lstm_cy import LSTM
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process may ignore it
        lstm, x = LSTM(64, 512, 2, seed=0), np.zeros((20_000, 64, 64), np.float32)  # about a minute
        try:
            print("running", flush=True)
            lstm(x)
        except KeyboardInterrupt:
            y, _ = lstm(x[:2])  # the layer still works
            print(np.isfinite(y).all(), flush=True)
    """
    with running_python(code, env={**os.environ, "LSTM_CY_ENGINE": engine}) as process:
        assert process.stdout.readline() == "running\n"
        time.sleep(0.5)  # until it is inside the call
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (out, process.returncode) == ("True\n", 0), err


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on memory")
def test_out_of_memory_is_an_error_and_nothing_breaks():
    code = """
        import resource
        import numpy as np
        from lstm_cy import LSTM
        lstm, x = LSTM(1, 256, seed=0), np.zeros((200_000, 1), np.float32)
        expected = lstm(x[:10])[0]
        free = 400 << 20
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + free, used + free))
        for call in (lstm.forward, lambda x: LSTM(20_000, 20_000)):
            try:
                call(x)
            except MemoryError:
                print("refused", flush=True)
        print(np.array_equal(lstm(x[:10])[0], expected))
    """
    with running_python(code) as process:
        out, err = process.communicate(timeout=60)
        assert out == "refused\nrefused\nTrue\n", err
