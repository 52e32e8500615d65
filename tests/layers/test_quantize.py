"""Narrow weights: comparison with an exact emulation of the documented arithmetic, and tests of the same bits."""

import json
import pickle

import numpy as np
import pytest
from common import (
    SIZES,
    bits,
    directions,
    random_case,
)

from lstm_cy import LSTM, SGD, Dropout, Embedding, Linear, Residual, Sequential, config, load, save
from lstm_cy.layers.narrow import to_bf16, to_int8, widened
from lstm_cy.layers.quantized import QuantizedLSTM

KINDS = ("bf16", "int8")
SETS = config.available_instruction_sets()
OPTIONS = (
    {},
    {"num_layers": 3, "bias": False},
    {"bidirectional": True, "num_layers": 2},
    {"bidirectional": True, "num_layers": 2, "batch_first": True},
    {"reverse": True, "batch_first": True},
)

every_set = pytest.mark.parametrize("isa", SETS)
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def chosen(isa):
    with config.using(isa=isa, engine="packed"):
        yield


def int8_product(a, weight, scale):
    """Multiply a (rows, K) float32 by the int8 weight (N, K) transposed, as QuantizedLSTM's notes say."""
    total = np.zeros((len(a), len(weight)))
    for first in range(0, a.shape[1], 4096):
        part = a[:, first : first + 4096]
        largest = np.abs(part).max(axis=1, keepdims=True)
        a_scale = largest / np.float32(127)
        inverse = np.float32(127) / np.where(largest < 2**-100, np.inf, largest)
        quantised = np.rint(part * inverse.astype(np.float32))
        assert np.abs(quantised).max() <= 127
        sums = quantised.astype(np.int64) @ weight[:, first : first + 4096].T.astype(np.int64)
        total += sums * np.float64(a_scale) * scale
    return total


def int8_step(narrow, x, h, c):
    """Run one step of a layer of one direction; return (h, c) in float64."""
    stored = narrow.stored()
    z = int8_product(x, stored["weight_ih_l0"], stored["weight_ih_l0_scale"])
    z += int8_product(h, stored["weight_hh_l0"], stored["weight_hh_l0_scale"])
    return cell(narrow, z, c)


def bf16_step(narrow, x, h, c):
    """Run one step of a layer of one direction; return (h, c) in float64."""
    stored = narrow.stored()
    z = rounded(x) @ widened(stored["weight_ih_l0"]).T.astype(np.float64)
    z += rounded(h) @ widened(stored["weight_hh_l0"]).T.astype(np.float64)
    return cell(narrow, z, c)


def rounded(x):
    """Round finite numbers to bf16, as float64."""
    return np.float64(widened(to_bf16("x", np.ascontiguousarray(x, np.float32))))


def cell(narrow, z, c):
    stored = narrow.stored()
    if narrow.bias:
        z += stored["bias_ih_l0"] + stored["bias_hh_l0"]
    i, f, g, o = np.split(z, 4, axis=1)
    i, f, o = (0.5 + 0.5 * np.tanh(gate / 2) for gate in (i, f, o))
    c = f * c + i * np.tanh(g)
    return o * np.tanh(c), c


def assert_steps(narrow, x, state):
    """Compare each step with its emulation, started from the layer's own state before the step."""
    h, c = state
    step = int8_step if narrow.weights == "int8" else bf16_step
    for x_t in x:
        _, (h_next, c_next) = narrow(x_t[None], (h, c))
        expected_h, expected_c = step(narrow, x_t, h[0], c[0])
        assert np.abs(h_next[0] - expected_h).max() <= 1e-6
        assert (np.abs(c_next[0] - expected_c) <= 1e-6 * (1 + np.abs(expected_c))).all()
        h, c = h_next, c_next


# The documented arithmetic


@every_set
@pytest.mark.parametrize("H", SIZES)
@pytest.mark.parametrize("B", (1, 2, 3, 4, 5, 6, 13))
def test_bf16_steps_are_products_of_rounded_numbers(chosen, H, B):
    narrow = LSTM(SIZES[B % 5], H, bias=B != 5, seed=H, forget_bias=0).quantize("bf16")
    assert_steps(narrow, *random_case(narrow, 6, B))


@every_set
@pytest.mark.parametrize("rows", (1, 2, 3, 6, 7))
@pytest.mark.parametrize("size", (17, 33, 64))
def test_bf16_adds_the_second_number_of_a_pair_first(chosen, rows, size):
    """Test sums that any other order of the products would change, in every column and pair of a panel."""
    lstm = LSTM(4, size, seed=0, forget_bias=0)
    zero = {name: np.zeros_like(array) for name, array in lstm.parameters.items()}
    candidate, open_gates = np.s_[2 * size : 3 * size], np.r_[0:size, 3 * size : 4 * size]
    zero["bias_ih_l0"][open_gates] = 30
    zero["bias_ih_l0"][candidate] = 1
    zero["weight_ih_l0"][candidate] = [-1, 1, 1, 1]
    lstm.load_state_dict(zero)
    x = np.array([1, 3 * 2**-25, 0, -(2**-24)], np.float32)  # 1 + 3 * 2^-25 is rounded to 1 + 2^-23, then 1 subtracted
    y, _ = lstm.quantize("bf16")(np.tile(x, (1, rows, 1)))
    z = np.float32(2**-23) - np.float32(2**-24)
    assert np.unique(y) == pytest.approx([z], rel=1e-6)


@every_set
def test_bf16_treats_denormal_numbers_as_zero(chosen):
    narrow = LSTM(3, 5, seed=0).quantize("bf16")
    tiny = np.array([[1e-40, -1.1754942e-38, 1e-39]], np.float32)  # the second would round to 2^-126
    assert bits(narrow(tiny)[0]) == bits(narrow(np.zeros_like(tiny))[0])


@every_set
@pytest.mark.parametrize("H", SIZES)
@pytest.mark.parametrize("B", (1, 2, 3, 4, 5, 6, 13))
def test_int8_steps_are_exact_integer_products(chosen, H, B):
    narrow = LSTM(SIZES[B % 5], H, bias=B != 5, seed=H, forget_bias=0).quantize("int8")
    assert_steps(narrow, *random_case(narrow, 6, B))


@every_set
@pytest.mark.parametrize("I", (4095, 4096, 4097, 9001))
def test_int8_takes_wide_inputs_in_segments(chosen, I):
    narrow = LSTM(I, 17, seed=0).quantize("int8")
    x, state = random_case(narrow, 1, 3)
    x[:, :, :4096] *= 100  # with one scale for the whole row the other elements would be lost
    assert_steps(narrow, x, state)


@every_set
@pytest.mark.parametrize("scale", (1e-36, 1e-20, 1e-3, 30.0, 1e30))
def test_int8_scales_rather_than_saturates(chosen, scale):
    """Test states beyond [-1, 1] and inputs of any size: the scale comes from the largest value of a row."""
    narrow = LSTM(33, 17, seed=0).quantize("int8")
    x, (h, c) = random_case(narrow, 3, 5)
    h *= 40
    assert_steps(narrow, x * np.float32(scale), (h, c))


@every_set
def test_int8_rows_of_zeros_and_of_tiny_values(chosen):
    narrow = LSTM(33, 17, seed=0).quantize("int8")
    x, (h, c) = random_case(narrow, 2, 4)
    x[:, 0], h[:, 0] = 0, 0
    x[:, 1], h[:, 1, 1:] = 0, 0
    x[:, 2] = 1e-40
    assert_steps(narrow, x, (h, c))
    silent, _ = narrow(x[:, 2:3], (h[:, 2:3], c[:, 2:3]))
    zero, _ = narrow(np.zeros_like(x[:, 2:3]), (h[:, 2:3], c[:, 2:3]))
    assert bits(silent) == bits(zero)


@pytest.mark.parametrize("without, product", (("avx512", "avx512vnni"), ("base", "neondotprod")))
def test_int8_with_and_without_dot_products_agree_to_the_bit(without, product):
    if product not in SETS:
        pytest.skip(f"this processor has no {product}")
    results = []
    for isa in (without, product):
        with config.using(isa=isa, engine="packed"):
            narrow = LSTM(70, 65, 2, seed=0).quantize("int8")
            results.append(bits(narrow(random_case(narrow, 9, 14)[0])[0]))
    assert results[0] == results[1]


@every_set
@every_kind
@pytest.mark.parametrize("extreme", (-127, 127))
def test_extreme_products_do_not_saturate(chosen, kind, extreme):
    """Test the largest products, with which instructions that saturate in 16 bits would fail."""
    lstm = LSTM(1024, 17, bias=False, seed=0)
    weight = np.full((68, 1024), extreme / 127 / 1024)  # a power of two: bf16 holds it
    lstm.load_state_dict({"weight_ih_l0": weight, "weight_hh_l0": np.zeros((68, 17))})
    narrow = lstm.quantize(kind)
    for sign in (-1, 1):
        y, _ = narrow(np.full((1, 3, 1024), sign, np.float32))
        z = sign * extreme / 127
        gate = 1 / (1 + np.exp(-z))
        assert np.abs(y - gate * np.tanh(gate * np.tanh(z))).max() <= 1e-6


@every_set
@pytest.mark.parametrize("size", (1, 3, 8, 65, 260))
def test_int8_is_exact_for_few_and_for_many_large_numbers(chosen, size):
    """Test numbers around the limit up to which two products of bytes fit into 16 bits, with the largest weights."""
    rng = np.random.default_rng(size)
    lstm = LSTM(size, 33, bias=False, seed=0)
    signs = {name: np.sign(array) / size for name, array in lstm.parameters.items()}  # -127 and 127
    lstm.load_state_dict(signs)
    narrow = lstm.quantize("int8")
    x = rng.integers(-127, 128, (6, size))
    x[0] = rng.choice((-127, 127), size)
    x[1] = rng.choice((-64, 64), size)
    x[2] = rng.choice((-65, 64, 63), size)
    x[3] = rng.integers(-9, 10, size)
    x[:, -1] = 127
    x = x.astype(np.float32)[:, None]
    zeros = np.zeros((1, 1, 33), np.float32)
    lone = []
    for x_t in x:
        assert_steps(narrow, x_t[None], (zeros, zeros))
        lone.append(narrow(x_t[None], (zeros, zeros))[0])
    batch, _ = narrow(x.swapaxes(0, 1), (np.zeros((1, 6, 33), np.float32),) * 2)
    assert bits(np.concatenate(lone)[:, 0]) == bits(batch[0])


@every_set
@every_kind
@pytest.mark.parametrize("options", OPTIONS, ids=repr)
@pytest.mark.parametrize("lengths", (None, [7, 0, 1, 9, 7, 3], [0] * 6), ids=repr)
def test_every_option_equals_its_single_directions(chosen, kind, options, lengths):
    """Compare layers, directions and lengths with single-direction layers that run row by row."""
    narrow = LSTM(5, 17, seed=3, **options).quantize(kind)
    x, (h0, c0) = random_case(narrow, 9, 6)
    if lengths is not None:  # the contents of padding must have no effect
        rows = x if narrow.batch_first else x.swapaxes(0, 1)
        for row, length in zip(rows, lengths, strict=True):
            row[length:] = np.nan
    y, (h_n, c_n) = narrow(x, (h0, c0), lengths=lengths)
    below = x.swapaxes(0, 1) if narrow.batch_first else x
    expected = [np.zeros((9, 6, narrow.num_directions * 17), np.float32) for _ in range(narrow.num_layers)]
    for layer, direction, backwards, suffix in directions(narrow):
        inputs = below if layer == 0 else expected[layer - 1]
        single = QuantizedLSTM(inputs.shape[2], 17, bias=narrow.bias, reverse=backwards, weights=kind)
        own = {
            name.replace(suffix, "_l0"): array
            for name, array in narrow.stored().items()
            if name.removesuffix("_scale").endswith(suffix)
        }
        single.restore(own)
        index = layer * narrow.num_directions + direction
        for row, length in enumerate([9] * 6 if lengths is None else lengths):
            one = np.s_[index : index + 1, row : row + 1]
            output, (h, c) = single(inputs[:length, row : row + 1], (h0[one], c0[one]))
            expected[layer][:length, row, direction * 17 : (direction + 1) * 17] = output[:, 0]
            assert bits(h_n[one], c_n[one]) == bits(h, c)
    assert bits(y.swapaxes(0, 1) if narrow.batch_first else y) == bits(expected[-1])


@every_set
@every_kind
@pytest.mark.parametrize("poison", (np.nan, np.inf, -np.inf))
@pytest.mark.parametrize("B", (2, 7, 33))
@pytest.mark.parametrize("where", ("x", "h"))
def test_a_bad_row_is_nan_and_does_not_reach_another(chosen, kind, poison, B, where):
    narrow = LSTM(4, 19, 2, bidirectional=True, seed=0).quantize(kind)
    x, (h, c) = random_case(narrow, 8, B)
    y, (h_n, c_n) = narrow(x, (h, c))
    if where == "x":
        x[3, 1, 2] = poison
    else:
        h[0, 1, 2] = poison
    y_bad, (h_bad, c_bad) = narrow(x, (h, c))
    others = [row for row in range(B) if row != 1]
    assert bits(y[:, others], h_n[:, others], c_n[:, others]) == bits(
        y_bad[:, others], h_bad[:, others], c_bad[:, others]
    )
    if kind == "int8" or np.isnan(poison):
        assert np.isnan(y_bad[3:, 1, :19]).all()


# The same bits


@every_set
@every_kind
@pytest.mark.parametrize("H", (1, 17, 64, 127))
def test_same_bits_whole_in_chunks_and_by_steps(chosen, kind, H):
    narrow = LSTM(5, H, 2, seed=0).quantize(kind)
    x, state = random_case(narrow, 23, 3)
    whole, final = narrow(x, state)
    for cuts in ((1, 10, 11, 23), range(1, 24)):
        parts, carried, start = [], state, 0
        for end in cuts:
            part, carried = narrow(x[start:end], carried)
            parts.append(part)
            start = end
        assert bits(np.concatenate(parts), *carried) == bits(whole, *final)


@every_set
@every_kind
@pytest.mark.parametrize("B", (2, 6, 7, 20))
def test_same_bits_alone_in_a_batch_and_padded(chosen, kind, B):
    narrow = LSTM(5, 33, 2, bidirectional=True, seed=0).quantize(kind)
    x, (h0, c0) = random_case(narrow, 11, B)
    lengths = np.random.default_rng(0).integers(0, 12, B)
    y, (h_n, c_n) = narrow(x, (h0, c0), lengths=lengths)
    for row, length in enumerate(lengths):
        one = slice(row, row + 1)
        alone, (h, c) = narrow(x[:length, one], (h0[:, one], c0[:, one]))
        assert bits(y[:length, one], h_n[:, one], c_n[:, one]) == bits(alone, h, c)


@every_set
@every_kind
@pytest.mark.parametrize("threads", (2, 3))
@pytest.mark.parametrize(
    ("B", "options"),
    [(1, {}), (1, {"bidirectional": True}), (24, {"num_layers": 2})],
    ids=("team", "directions", "rows"),
)
def test_same_bits_with_several_threads(chosen, kind, threads, B, options):
    narrow = LSTM(100, 165, seed=0, **options).quantize(kind)
    x, state = random_case(narrow, 70, B)
    expected, final = narrow(x, state, threads=1)
    for _ in range(3):
        y, states = narrow(x, state, threads=threads)
        assert bits(y, *states) == bits(expected, *final)


@every_set
@every_kind
@pytest.mark.parametrize("B", (1, 5))
def test_same_bits_in_a_stepper_and_in_its_pickle(chosen, kind, B):
    model = Sequential(LSTM(5, 33, 2, seed=0), Linear(33, 4, seed=1)).quantize(kind)
    x = np.random.default_rng(0).standard_normal((9, B, 5)).astype(np.float32)
    y, _ = model(x)
    stepper = model.stepper(B)
    outputs = [np.reshape(stepper.step(x_t if B > 1 else x_t[0]), (B, 4)) for x_t in x[:5]]
    stepper = pickle.loads(pickle.dumps(stepper))
    outputs += [np.reshape(stepper.step(x_t if B > 1 else x_t[0]), (B, 4)) for x_t in x[5:]]
    assert bits(np.stack(outputs)) == bits(y)


@every_kind
def test_both_engines_give_the_same_bits(kind):
    """Engine "blas" has no products for narrow weights, so both engines use the same kernels."""
    lstm = LSTM(5, 17, seed=0)
    results = []
    for engine in config.ENGINES:
        with config.using(isa=SETS[-1], engine=engine):
            results.append(bits(lstm.quantize(kind)(np.ones((3, 2, 5)))[0]))
    assert results[0] == results[1]


# Rounding


def test_bf16_rounds_to_nearest_even():
    ones = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8, 0.0, -0.0], np.float32)
    assert widened(to_bf16("w", ones)).tolist() == [1, 1, 1 + 2**-6, 1 + 2**-7, -1, 0, 0]
    torch = pytest.importorskip("torch")
    numbers = np.ldexp(np.random.default_rng(0).standard_normal(10_000), np.arange(-50, 50).repeat(100))
    numbers = numbers.astype(np.float32)
    assert bits(widened(to_bf16("w", numbers))) == bits(torch.tensor(numbers).bfloat16().float().numpy())


def test_int8_scales_each_row():
    weight = np.array([[1.0, -0.5, 0.004], [0, 0, 0], [-2e-30, 1e-30, 0], [3e38, -3e38, 1e36]], np.float32)
    values, scale = to_int8("w", weight)
    assert values.tolist() == [[127, -64, 1], [0, 0, 0], [-127, 64, 0], [127, -127, 0]]
    assert (np.abs(widened(values, scale) - weight) <= scale[:, None] / 2 * 1.0001).all()
    assert np.isfinite(scale).all()


@pytest.mark.parametrize("poison", (np.nan, np.inf, 3.4e38))
def test_weights_that_bf16_cannot_hold_are_refused(poison):
    lstm = LSTM(3, 5, seed=0)
    state = lstm.state_dict()
    state["weight_hh_l0"][3, 2] = poison
    lstm.load_state_dict(state)
    with pytest.raises(ValueError, match="weight_hh_l0: expected finite numbers"):
        lstm.quantize("bf16")
    if not np.isfinite(poison):
        with pytest.raises(ValueError, match="weight_hh_l0: expected finite numbers"):
            lstm.quantize("int8")


# The layer


@every_kind
@pytest.mark.parametrize("H", (32, 128, 256))
def test_the_report_and_its_errors(kind, H):
    lstm = LSTM(H, H, 2, seed=0)
    x = np.random.default_rng(1).standard_normal((100, 2, H)).astype(np.float32)
    narrow = lstm.quantize(kind, x)
    report = narrow.report
    assert json.loads(json.dumps(report)) == report
    difference = np.abs(np.float64(narrow(x)[0]) - lstm(x)[0])
    assert report["layers"][1]["largest"] == difference.max()
    assert report["layers"][1]["rms"] == pytest.approx(np.sqrt((difference**2).mean()))
    assert report["sample"] == f"given, (100, 2, {H})"
    rms, largest = (6e-4, 5e-3) if kind == "bf16" else (2e-3, 1.5e-2)
    for layer in report["layers"]:
        assert rms / 20 < layer["rms"] < rms
        assert layer["rms"] < layer["largest"] < largest
    width = 2 if kind == "bf16" else 1
    rows = 4 * H * 2
    scales = 0 if kind == "bf16" else 2 * 4 * rows
    assert report["bytes_before"] == 4 * (rows * 2 * H + 2 * rows)
    assert report["bytes_after"] == width * rows * 2 * H + 4 * 2 * rows + scales


@every_kind
def test_the_default_sample_is_standard_normal(kind):
    for options in ({}, {"batch_first": True}, {"num_layers": 11}):
        lstm = LSTM(4, 6, seed=0, **options)
        report = lstm.quantize(kind).report
        assert report["sample"] == "standard normal, T = 100, B = 1, seed 0"
        assert len(report["layers"]) == lstm.num_layers
        x = np.random.default_rng(0).standard_normal((100, 4), np.float32)
        again = lstm.quantize(kind, x).report
        assert again["layers"] == report["layers"]
        assert len({layer["rms"] for layer in report["layers"]}) == lstm.num_layers


@every_kind
@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_parameters_are_the_widened_weights(kind, options):
    lstm = LSTM(5, 9, seed=0, **options)
    narrow = lstm.quantize(kind)
    assert narrow.parameters.keys() == lstm.parameters.keys()
    bound = 2**-8 if kind == "bf16" else 1 / 254 * 1.0001
    for name, array in lstm.parameters.items():
        got = narrow.parameters[name]
        assert got.dtype == np.float32
        assert not got.flags.writeable
        largest = np.abs(array).max()
        assert np.abs(got - array).max() <= (0 if name.startswith("bias") else bound * largest)
    state = narrow.state_dict()
    state["weight_ih_l0"][:] = 0  # a copy, which the caller may change
    assert narrow.parameters["weight_ih_l0"].any()
    twin = LSTM(5, 9, **options)
    twin.load_state_dict(narrow.state_dict())  # conversion back to float32
    assert bits(*twin.parameters.values()) == bits(*narrow.parameters.values())
    assert type(narrow)(**narrow.config).config == narrow.config
    assert repr(narrow).startswith("QuantizedLSTM(5, ")


@every_kind
def test_float32_weights_are_not_kept(kind):
    narrow = LSTM(100, 100, seed=0).quantize(kind)
    held = [array for array in vars(narrow)["_parameters"].values() if array.dtype == np.float32]
    assert all(array.ndim == 1 for array in held)


@every_kind
def test_a_narrow_layer_is_independent_of_the_float32_layer(kind):
    lstm = LSTM(5, 9, seed=0)
    before = bits(*lstm.parameters.values())
    y = lstm(np.ones((2, 5)))[0]
    narrow = lstm.quantize(kind)
    lstm.load_state_dict({name: array * 2 for name, array in lstm.state_dict().items()})
    assert np.abs(narrow(np.ones((2, 5)))[0] - y).max() < 0.01
    assert bits(*lstm.parameters.values()) != before


@every_kind
def test_training_of_narrow_weights_is_refused(kind):
    x = np.ones((3, 2, 5), np.float32)
    narrow = LSTM(5, 9, seed=0).quantize(kind)
    model = Sequential(Linear(5, 5, seed=0), LSTM(5, 9, seed=0)).quantize(kind)
    y, _, tape = LSTM(5, 9, seed=0).forward(x)
    before = bits(*narrow.stored().values(), *model.stored().values())
    for attempt in (
        lambda: narrow.forward(x),
        lambda: narrow.backward(tape, y),
        lambda: narrow.load_state_dict(narrow.state_dict()),
        lambda: narrow.replace_parameters(narrow.state_dict()),
        lambda: SGD(narrow, lr=0.1).step({name: np.ones_like(array) for name, array in narrow.parameters.items()}),
        lambda: model.forward(x),
        lambda: model.load_state_dict(model.state_dict()),
        lambda: model.replace_parameters(model.state_dict()),
    ):
        with pytest.raises(TypeError, match="narrow weights are read-only; train the float32 layer and quantize again"):
            attempt()
    assert bits(*narrow.stored().values(), *model.stored().values()) == before


def test_errors_of_quantize():
    lstm = LSTM(3, 5, seed=0)
    with pytest.raises(ValueError, match="kind: expected 'bf16' or 'int8', got 'int4'"):
        lstm.quantize("int4")
    with pytest.raises(ValueError, match="quantize: expected a float32 layer, got float64"):
        LSTM(3, 5, dtype="float64").quantize("int8")
    with pytest.raises(ValueError, match="dtype: expected 'float32' with narrow weights, got 'float64'"):
        QuantizedLSTM(3, 5, weights="int8", dtype="float64")
    with pytest.raises(ValueError, match="weights: expected 'bf16' or 'int8', got None"):
        QuantizedLSTM(3, 5, weights=None)
    with pytest.raises(TypeError, match="expected an LSTM with float32 weights, got one with bf16 weights"):
        lstm.quantize("bf16").quantize("int8")
    for wrong in (np.zeros((4, 2, 2)), np.zeros(3), np.zeros((0, 2, 3))):
        with pytest.raises(ValueError, match=r"sample: expected shape \(T, B, I\) or \(T, I\), not empty, with I = 3"):
            lstm.quantize("int8", wrong)
    with pytest.raises(ValueError, match="sample: expected finite numbers"):
        lstm.quantize("int8", np.full((4, 3), np.nan))
    with pytest.raises(TypeError, match="sample: expected real numbers"):
        lstm.quantize("int8", np.zeros((4, 3), complex))
    with pytest.raises(ValueError, match="quantize: expected a model with an LSTM in it, got none"):
        Sequential(Linear(3, 5)).quantize("int8")


# Models and files


def text_model():
    return Sequential(
        Embedding(7, 5, seed=0), LSTM(5, 9, 2, seed=1), Dropout(), LSTM(9, 6, seed=2), Linear(6, 7, seed=3)
    )


@every_kind
def test_a_model_gets_narrow_lstms_and_keeps_the_other_layers(kind):
    model = text_model()
    tokens = np.arange(40).reshape(20, 2) % 7
    narrow = model.quantize(kind, tokens)
    assert [type(layer) for layer in narrow.layers] == [Embedding, QuantizedLSTM, Dropout, QuantizedLSTM, Linear]
    assert narrow.layers[0] is model.layers[0]
    assert list(narrow.report) == [1, 3]
    assert [narrow.report[index]["sample"] for index in (1, 3)] == ["given, (20, 2, 5)", "given, (20, 2, 9)"]
    out, states = narrow(tokens)
    exact, exact_states = model(tokens)
    assert 0 < np.abs(out - exact).max() < 0.02
    assert len(states) == len(exact_states)
    assert narrow.parameters.keys() == model.parameters.keys()
    assert model.quantize(kind).report[3]["sample"].startswith("standard normal")


@every_kind
@pytest.mark.parametrize("suffix", (".npz", ".safetensors"))
@pytest.mark.parametrize("make", (lambda: LSTM(5, 9, 2, bidirectional=True, batch_first=True, seed=0), text_model))
def test_narrow_weights_come_back_from_a_file(kind, suffix, make, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    model = make().quantize(kind)
    path, wide = tmp_path / f"narrow{suffix}", tmp_path / f"wide{suffix}"
    save(model, path, {"made": "here"})
    save(make(), wide)
    read = load(path)
    assert read.metadata == {"made": "here"}
    assert type(read) is type(model)
    assert read.config == model.config
    assert {name: (array.dtype, bits(array)) for name, array in read.stored().items()} == {
        name: (array.dtype, bits(array)) for name, array in model.stored().items()
    }
    x = np.arange(12).reshape(6, 2) % 7 if isinstance(model, Sequential) else random_case(model, 4, 3)[0]
    assert bits(read(x)[0]) == bits(model(x)[0])
    assert path.stat().st_size < wide.stat().st_size
    with pytest.raises(TypeError, match="read-only"):
        read.load_state_dict(read.state_dict())


@pytest.mark.parametrize("suffix", (".npz", ".safetensors"))
def test_nan_in_a_narrow_file_is_a_warning(suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    narrow = LSTM(5, 9, seed=0).quantize("bf16")
    arrays = {name: array.copy() for name, array in narrow.stored().items()}
    arrays["weight_ih_l0"][0, 0] = 0x7FC0
    narrow.restore(arrays)
    save(narrow, tmp_path / f"a{suffix}")
    with pytest.warns(UserWarning, match="NaN or infinity in weight_ih_l0"):
        load(tmp_path / f"a{suffix}")
    with pytest.raises(ValueError, match="NaN or infinity in weight_ih_l0"):
        load(tmp_path / f"a{suffix}", strict=True)


@every_kind
def test_arrays_of_another_dtype_are_refused(kind):
    lstm = LSTM(5, 9, seed=0)
    narrow = lstm.quantize(kind)
    before = bits(*narrow.stored().values())
    other = lstm.quantize("int8" if kind == "bf16" else "bf16")
    for arrays in (lstm.stored(), other.stored()):
        with pytest.raises(ValueError, match=r"weight_ih_l0: expected (uint16|int8), got (float32|int8|uint16)"):
            narrow.restore(arrays)
        with pytest.raises(ValueError, match=r"weight_ih_l0: expected float32, got (uint16|int8)"):
            lstm.restore(narrow.stored())
    missing = {name: array for name, array in narrow.stored().items() if name != "bias_hh_l0"}
    with pytest.raises(KeyError, match="missing: bias_hh_l0"):
        narrow.restore(missing)
    assert bits(*narrow.stored().values()) == before


def test_metadata_are_kept(tmp_path):
    for make in (lambda: LSTM(3, 5, seed=0), lambda: Sequential(Residual(LSTM(5, 5, seed=0)))):
        save(make(), tmp_path / "model.npz", metadata={"vocabulary": ["a", "b"]})
        model = load(tmp_path / "model.npz")
        narrow = model.quantize("int8")
        assert narrow.metadata == model.metadata and narrow.metadata is not model.metadata
        save(narrow, tmp_path / "narrow.npz")
        assert load(tmp_path / "narrow.npz").metadata == {"vocabulary": ["a", "b"]}
        assert not hasattr(make().quantize("bf16"), "metadata")


def test_quantize_measures_each_lstm_on_its_masked_input():
    tokens = np.array([[1, 0, 2, 3], [0, 3, 4, 0]]).T
    model = Sequential(Embedding(6, 3, mask_zero=True, seed=0), LSTM(3, 4, seed=1), LSTM(4, 5, seed=2))
    inputs = model.layers[1](model.layers[0](tokens), mask=tokens != 0)[0]
    expected = model.layers[2].quantize("int8", inputs).report["layers"]
    assert model.quantize("int8", tokens).report[2]["layers"] == expected
