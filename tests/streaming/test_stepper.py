"""The Stepper: compared with whole sequences; state, copies, threads, memory; misuse is refused."""

import concurrent.futures
import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from common import (
    TOLERANCE,
    bits,
    every_dtype,
    every_implementation,
    every_packed,
    random_case,
    repeated_calls,
    small_lstm,
)

from lstm_cy import LSTM, Dropout, Embedding, Linear, Sequential, StreamPool, config
from lstm_cy._kernels.affine import Affine
from lstm_cy._kernels.network import Network
from lstm_cy._kernels.runtime.memory import Buffer
from lstm_cy._kernels.stages import Chain
from lstm_cy.streaming.stepper import Stepper


def model_of(dtype="float32", B=None, **options):
    """Return a Sequential with every kind of layer; 4 tokens."""
    return Sequential(
        Dropout(0.5),
        Embedding(4, 3, dtype=dtype, seed=0),
        LSTM(3, 17, 2, dtype=dtype, seed=1, **options),
        Dropout(0.5),
        Linear(17, 9, dtype=dtype, bias=False, seed=2),
        LSTM(9, 33, dtype=dtype, seed=3, **options),
        Linear(33, 70, dtype=dtype, seed=4),
        Linear(70, 5, dtype=dtype, seed=5),
    )


@every_implementation
@every_dtype
@pytest.mark.parametrize("layers", (1, 2, 3))
@pytest.mark.parametrize("B", (1, 2, 5, 7, 33))
@pytest.mark.parametrize(("I", "H", "bias"), ((5, 17, True), (33, 40, False), (1, 1, True), (64, 64, True)))
def test_steps_give_the_same_as_the_whole_sequence(chosen, engine, dtype, layers, B, I, H, bias):
    lstm = LSTM(I, H, layers, bias=bias, dtype=dtype, seed=0)
    x, state = random_case(lstm, 6, B)
    y, final = lstm(x, state)
    stepper = lstm.stepper(B)
    stepper.state = state
    outputs = [stepper.step(x_t) for x_t in x]
    assert all(h.shape == (B, H) and h.dtype == lstm.dtype for h in outputs)
    if engine == "packed":
        assert bits(outputs, *stepper.state) == bits(y, *final)
    for got, expected in zip((outputs, *stepper.state), (y, *final), strict=True):
        assert np.abs(got - expected).max() <= TOLERANCE[dtype]


@every_packed
@every_dtype
def test_chunks_and_steps_continue_from_each_others_states(chosen, dtype):
    lstm = LSTM(5, 33, 2, dtype=dtype, seed=0)
    x, state = random_case(lstm, 12, 3)
    y, final = lstm(x, state)
    stepper = lstm.stepper(3)
    stepper.state = state
    outputs = [stepper.step(x_t) for x_t in x[:5]]
    chunk, state = lstm(x[5:9], stepper.state)
    stepper.state = state
    outputs += [*chunk, *(stepper.step(x_t) for x_t in x[9:])]
    assert bits(outputs, *stepper.state) == bits(y, *final)


@every_packed
@every_dtype
def test_a_stream_does_not_depend_on_the_others(chosen, dtype):
    lstm = LSTM(5, 33, 2, dtype=dtype, seed=0)
    x, _ = random_case(lstm, 6, 7)
    together, alone = lstm.stepper(7), lstm.stepper()
    for x_t in x:
        assert bits(together.step(x_t)[4]) == bits(alone.step(x_t[4]))


@every_implementation
@every_dtype
@pytest.mark.parametrize("B", (1, 2, 7))
@pytest.mark.parametrize("batch_first", (False, True))
def test_a_model_with_heads(chosen, engine, dtype, B, batch_first):
    model = model_of(dtype, batch_first=batch_first)
    tokens = np.random.default_rng(0).integers(0, 4, (6, B))
    rng = np.random.default_rng(1)
    states = [tuple(rng.standard_normal((n, B, H)).astype(dtype) for _ in range(2)) for n, H in ((2, 17), (1, 33))]
    y, finals = model(tokens.T if batch_first else tokens, states)
    y = y.swapaxes(0, 1) if batch_first else y
    stepper = model.stepper(B)
    stepper.state = states
    outputs = [stepper.step(tokens_t) for tokens_t in tokens]
    if engine == "packed":
        assert bits(outputs) == bits(y)
    assert np.abs(np.array(outputs) - y).max() <= 2 * TOLERANCE[dtype]
    assert isinstance(stepper.state, list)
    for got, expected in zip(stepper.state, finals, strict=True):
        for a, b in zip(got, expected, strict=True):
            assert np.abs(a - b).max() <= TOLERANCE[dtype]


def test_models_without_an_lstm_and_with_an_lstm_first():
    linear = Sequential(Linear(3, 4, seed=0))
    x = np.random.default_rng(0).standard_normal((5, 3))
    stepper = linear.stepper(5)
    assert stepper.state == []
    stepper.state = []
    assert np.abs(stepper.step(x) - linear(x)[0]).max() < 1e-6
    model = Sequential(LSTM(3, 4, seed=0))
    assert np.abs(model.stepper(5).step(x) - model(x[np.newaxis])[0][0]).max() < 1e-6
    tokens = Sequential(Embedding(4, 3, seed=0)).stepper()
    assert tokens.step(2).tolist() == Embedding(4, 3, seed=0)(2).tolist()


@pytest.mark.parametrize(
    "same",
    (
        list,
        lambda x: x.astype(np.float64),
        lambda x: x.astype(">f4"),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: np.frombuffer(b"-" + x.tobytes(), np.float32, offset=1).reshape(x.shape),
        lambda x: x.view(np.matrix) if x.ndim == 2 else x.view(np.recarray),
        np.ma.array,
    ),
    ids=("list", "float64", "big endian", "Fortran", "strided", "reversed", "unaligned", "subclass", "masked"),
)
@pytest.mark.parametrize("shape", ((3,), (1, 3), (4, 3)))
def test_inputs_in_other_layouts_and_dtypes(same, shape):
    lstm = small_lstm()
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    plain, other = (lstm.stepper(shape[0] if shape == (4, 3) else 1) for _ in range(2))
    x.flags.writeable = False
    for _ in range(2):
        expected, got = plain.step(x), other.step(same(x))
        assert type(got) is np.ndarray
        assert got.shape == (*shape[:-1], 5)
        assert bits(got) == bits(expected)


@pytest.mark.parametrize("dtype", (np.float16, np.int8, np.bool_))
def test_inputs_that_float32_holds_exactly(dtype):
    lstm = small_lstm()
    assert bits(lstm.stepper().step(np.array([1, 0, 1], dtype))) == bits(lstm.stepper().step([1.0, 0.0, 1.0]))


def test_tokens_in_other_layouts_and_dtypes():
    model = model_of()
    expected = model.stepper().step(3)
    assert expected.shape == (5,)
    for token in (np.int64(3), np.uint8(3), np.array(3), np.array(3, ">i2")):
        got = model.stepper().step(token)
        assert got.shape == (5,)
        assert bits(got) == bits(expected)
    for tokens in ([3], np.array([3]), np.array([3], np.int8), np.array([3, 0])[::2]):
        got = model.stepper().step(tokens)
        assert got.shape == (1, 5)
        assert bits(got) == bits(expected)
    tokens = np.array([[3, 0], [1, 0], [2, 0]])[:, 0]
    assert bits(model.stepper(3).step(tokens)) == bits(model.stepper(3).step([3, 1, 2]))


@pytest.mark.parametrize("B", (1, 4))
def test_out_is_written_and_returned(B):
    lstm = small_lstm()
    x, _ = random_case(lstm, 3, B)
    fresh, stepper = lstm.stepper(B), lstm.stepper(B)
    out = np.full((B, 5), np.nan, np.float32)
    for x_t in x:
        assert stepper.step(x_t, out) is out
        assert bits(out) == bits(fresh.step(x_t))
    if B == 1:
        row = np.empty(5, np.float32)
        assert stepper.step(x[0, 0], out=row) is row
        with pytest.raises(ValueError, match=r"out: expected shape .* = \(5,\), got \(1, 5\)"):
            stepper.step(x[0, 0], out=out)
        with pytest.raises(ValueError, match=r"out: expected shape .* = \(1, 5\), got \(5,\)"):
            stepper.step(x[0], out=row)


@pytest.mark.parametrize("B", (1, 3, 9))
@pytest.mark.parametrize(
    "layer",
    (LSTM(4, 4, seed=0), Sequential(Linear(4, 4, seed=0)), Sequential(Linear(4, 4, seed=0), LSTM(4, 4, seed=0))),
)
def test_out_may_share_memory_with_x(layer, B):
    x = np.random.default_rng(0).standard_normal((B, 4)).astype(np.float32)
    expected = layer.stepper(B).step(x)
    memory = np.zeros(4 * B + 3, np.float32)
    for start in (0, 3):  # at the same address, and a little after it
        memory[: 4 * B] = x.ravel()
        out = memory[start : start + 4 * B].reshape(B, 4)
        assert bits(layer.stepper(B).step(memory[: 4 * B].reshape(B, 4), out)) == bits(expected)


def test_results_and_states_share_no_memory():
    lstm = small_lstm()
    x, _ = random_case(lstm, 3, 2)
    stepper = lstm.stepper(2)
    first = stepper.step(x[0])
    saved, (h, c) = first.copy(), stepper.state
    assert bits(h[0]) == bits(first)
    copies = h.copy(), c.copy()
    stepper.step(x[1])
    assert bits(first, h, c) == bits(saved, *copies)
    first[:] = h[:] = c[:] = np.nan
    assert np.isfinite(stepper.step(x[2])).all()


def test_a_state_that_is_set_is_copied_and_converted():
    lstm = small_lstm(num_layers=2)
    x, state = random_case(lstm, 2, 3)
    expected, _ = lstm(x, state)
    stepper = lstm.stepper(3)
    given = [part.astype(np.float64) for part in state]
    stepper.state = given
    given[0][:] = given[1][:] = np.nan
    assert np.abs(np.array([stepper.step(x_t) for x_t in x]) - expected).max() < 1e-6
    stepper.state = [part.tolist() for part in state]
    assert bits(*stepper.state) == bits(*state)


@pytest.mark.parametrize(
    ("rows", "zeroed"),
    (
        (None, [0, 1, 2, 3]),
        (2, [2]),
        (np.int8(2), [2]),
        ([3, 0], [0, 3]),
        ((1, 1), [1]),
        (np.array([[0], [2]], np.uint16), [0, 2]),
        ([], []),
        ([True, False, False, True], [0, 3]),
        (np.zeros(4, bool), []),
    ),
    ids=str,
)
@pytest.mark.parametrize("make", (lambda: small_lstm(num_layers=2), model_of), ids=("LSTM", "Sequential"))
def test_reset_sets_rows_to_zero(make, rows, zeroed):
    stepper = make().stepper(4)
    rng = np.random.default_rng(0)
    single = not isinstance(stepper.state, list)
    states = [stepper.state] if single else stepper.state
    states = [tuple(rng.standard_normal(part.shape).astype(np.float32) for part in pair) for pair in states]
    stepper.state = states[0] if single else states
    stepper.reset(rows)
    for part in (part for pair in states for part in pair):
        part[:, zeroed] = 0
    assert bits(*([stepper.state] if single else stepper.state)) == bits(*states)


def test_reset_removes_nan_from_a_stream():
    lstm = small_lstm()
    x, _ = random_case(lstm, 1, 3)
    stepper = lstm.stepper(3)
    bad = x[0].copy()
    bad[1] = np.nan
    assert np.isnan(stepper.step(bad)).any(axis=-1).tolist() == [False, True, False]
    stepper.reset(1)
    assert bits(stepper.step(x[0])[1]) == bits(lstm.stepper().step(x[0, 1]))


@pytest.mark.parametrize(
    "how", (Stepper.copy, copy.copy, copy.deepcopy, lambda stepper: pickle.loads(pickle.dumps(stepper)))
)
@pytest.mark.parametrize(
    "make", (lambda: small_lstm(num_layers=2, dtype="float64"), model_of), ids=("LSTM", "Sequential")
)
def test_copies_are_independent(how, make):
    layer = make()
    inputs = [3] * 4 if isinstance(layer, Sequential) else list(np.random.default_rng(0).standard_normal((4, 3)))
    stepper, expected = layer.stepper(), layer.stepper()
    for given in (stepper, expected):
        given.step(inputs[0])
    other = how(stepper)
    assert type(other) is Stepper
    assert other.batch_size == 1
    for given in inputs[1:]:
        assert bits(other.step(given)) == bits(expected.step(given))
    stepper.reset()
    assert other.step(inputs[0]).any()
    assert bits(stepper.step(inputs[1])) == bits(layer.stepper().step(inputs[1]))


@pytest.mark.parametrize("make", (lambda: small_lstm(), model_of), ids=("LSTM", "Sequential"))
def test_it_keeps_the_weights_it_was_made_with(make):
    layer = make()
    given = 1 if isinstance(layer, Sequential) else np.ones(3)
    stepper, expected = layer.stepper(), layer.stepper().step(given)
    layer.load_state_dict({name: array * 0 + 0.5 for name, array in layer.parameters.items()})
    assert bits(layer.stepper().step(given)) != bits(expected)
    for same in (stepper.copy(), pickle.loads(pickle.dumps(stepper)), stepper):
        assert bits(same.step(given)) == bits(expected)
    del layer
    stepper.reset()
    assert bits(stepper.step(given)) == bits(expected)


def test_repr_and_read_only_batch_size():
    stepper = small_lstm().stepper(2)
    assert repr(stepper).startswith("Stepper(LSTM(3, ")
    assert repr(stepper).endswith(", batch_size=2)")
    with pytest.raises(AttributeError):
        stepper.batch_size = 3


@every_implementation
@pytest.mark.parametrize("H", (2, 400))  # with the GIL held, and released
def test_denormals_are_flushed_only_inside_the_call(chosen, H):
    lstm = LSTM(1, H, bias=False, seed=0)
    weight = np.repeat([[-1000.0], [1000.0], [0.0], [1000.0]], H, axis=0)  # h = tanh(c)
    lstm.load_state_dict({"weight_ih_l0": weight, "weight_hh_l0": np.zeros((4 * H, H))})
    tiny = np.float32(1e-40)
    stepper = lstm.stepper()
    stepper.state = np.zeros((1, 1, H)), np.full((1, 1, H), tiny)
    assert not stepper.step([1.0]).any()
    assert tiny / np.float32(2) != 0, "the caller's arithmetic has been changed"


# Misuse


def bad_out(change):
    return lambda stepper: stepper.step(np.zeros((2, 3)), out=change(np.zeros((2, 5), np.float32)))


def read_only(array):
    array.flags.writeable = False
    return array


STATE = np.zeros((1, 2, 5))


@pytest.mark.parametrize(
    ("act", "error", "message"),
    (
        (lambda s: s.step(np.zeros(3)), ValueError, r"x_t: expected shape \(B, I\) with B = 2 and I = 3, got \(3,\)"),
        (lambda s: s.step(np.zeros(3, "f")), ValueError, r"got \(3,\)"),
        (lambda s: s.step(np.zeros((2, 4), "f")), ValueError, r"x_t: expected shape .* got \(2, 4\)"),
        (lambda s: s.step(np.zeros((1, 3), "f")), ValueError, r"got \(1, 3\)"),
        (lambda s: s.step(np.zeros((1, 2, 3), "f")), ValueError, r"got \(1, 2, 3\)"),
        (lambda s: s.step(0.0), ValueError, r"got \(\)"),
        (lambda s: s.step(np.zeros((2, 3), complex)), TypeError, "x_t: expected real numbers, got dtype complex128"),
        (lambda s: s.step([["a"] * 3] * 2), TypeError, "x_t: expected real numbers"),
        (lambda s: s.step(None), TypeError, "x_t: expected real numbers"),
        (lambda s: s.step([[1, 2, 3], [1, 2]]), ValueError, "inhomogeneous"),
        (bad_out(list), TypeError, "out: expected a NumPy array, got list"),
        (bad_out(lambda out: out.astype(np.float64)), TypeError, "out: expected dtype float32, got float64"),
        (bad_out(lambda out: out.astype(">f4")), TypeError, "out: expected dtype float32, got >f4"),
        (bad_out(lambda out: out[:, :4]), ValueError, r"out: expected shape .* = \(2, 5\), got \(2, 4\)"),
        (bad_out(lambda out: out.reshape(1, 2, 5)), ValueError, r"got \(1, 2, 5\)"),
        (bad_out(lambda out: out[0]), ValueError, r"got \(5,\)"),
        (bad_out(np.asfortranarray), ValueError, "out: expected a C-contiguous"),
        (bad_out(lambda out: np.zeros((2, 10), "f")[:, ::2]), ValueError, "out: expected a C-contiguous"),
        (bad_out(read_only), ValueError, "out: expected a C-contiguous, aligned and writable"),
        (bad_out(lambda out: np.zeros(41, "b")[1:].view("f").reshape(2, 5)), ValueError, "aligned"),
        (lambda s: setattr(s, "state", None), TypeError, r"state: expected a pair \(h, c\), got NoneType"),
        (lambda s: setattr(s, "state", (STATE,)), TypeError, "state: expected a pair"),
        (lambda s: setattr(s, "state", (STATE, None)), TypeError, "state c: expected real numbers"),
        (lambda s: setattr(s, "state", (STATE, STATE[0])), ValueError, r"state c: .*\(1, 2, 5\), got \(2, 5\)"),
        (lambda s: setattr(s, "state", (STATE[:, :1], STATE)), ValueError, r"state h: .*got \(1, 1, 5\)"),
        (lambda s: s.reset(2), ValueError, "rows: expected 0 to B - 1 = 1, got 2"),
        (lambda s: s.reset([0, -1]), ValueError, "rows: expected 0 to B - 1 = 1, got -1"),
        (lambda s: s.reset([True]), ValueError, r"rows: expected shape \(B,\) = \(2,\), got \(1,\)"),
        (lambda s: s.reset(True), ValueError, "rows: expected shape"),
        (lambda s: s.reset([0.0]), TypeError, "rows: expected integers"),
        (lambda s: s.reset("all"), TypeError, "rows: expected integers"),
    ),
)
def test_errors_change_nothing(act, error, message):
    stepper = small_lstm().stepper(2)
    stepper.step(np.ones((2, 3)))
    before = bits(*stepper.state)
    with pytest.raises(error, match=message):
        act(stepper)
    assert bits(*stepper.state) == before


@pytest.mark.parametrize(
    ("B", "x", "error", "message"),
    (
        (1, 4, ValueError, "x_t: expected 0 to num_embeddings - 1 = 3, got 4"),
        (1, -1, ValueError, "got -1"),
        (2, [3, 4], ValueError, "got 4"),
        (2, 3, ValueError, r"x_t: expected tokens of shape \(B,\) with B = 2, got \(\)"),
        (2, [1, 2, 3], ValueError, r"got \(3,\)"),
        (1, [[1]], ValueError, r"expected tokens of shape \(B,\) or \(\) with B = 1, got \(1, 1\)"),
        (1, 1.0, TypeError, "x_t: expected integers"),
        (1, True, TypeError, "x_t: expected integers"),
        (1, "a", TypeError, "x_t: expected integers"),
        (1, 2**70, ValueError, f"x_t: expected 0 to num_embeddings - 1 = 3, got {2**70}"),
        (1, -(2**70), ValueError, f"got -{2**70}"),
    ),
)
def test_wrong_tokens_change_nothing(B, x, error, message):
    stepper = model_of().stepper(B)
    stepper.step([1] * B)
    before = bits(*stepper.state[0], *stepper.state[1])
    out = np.ones((B, 5), np.float32)
    with pytest.raises(error, match=message):
        stepper.step(x)
    with pytest.raises((TypeError, ValueError)):
        stepper.step(x, out)
    assert (out == 1).all()
    assert bits(*stepper.state[0], *stepper.state[1]) == before
    stepper.step([2] * B)


def test_wrong_states_of_a_sequential_change_nothing():
    stepper = model_of().stepper()
    for wrong in (stepper.state[0], stepper.state[:1], None, {}):
        with pytest.raises((ValueError, TypeError), match="state: expected"):
            stepper.state = wrong
    good = stepper.state
    good[1] = (good[1][0] + 1, good[1][0][0])
    good[0] = (good[0][0] + 1, good[0][1] + 1)
    with pytest.raises(ValueError, match="state c: expected shape"):
        stepper.state = good
    assert not any(part.any() for pair in stepper.state for part in pair)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    (
        (lambda: small_lstm(bidirectional=True).stepper(), ValueError, "forwards, got bidirectional=True"),
        (lambda: small_lstm(reverse=True).stepper(), ValueError, "forwards, got reverse=True"),
        (lambda: Sequential(LSTM(3, 5, reverse=True)).stepper(), ValueError, "got reverse=True"),
        (lambda: small_lstm().stepper(0), ValueError, "batch_size: expected at least 1, got 0"),
        (lambda: small_lstm().stepper(1.0), TypeError, "batch_size: expected an integer"),
        (lambda: small_lstm().stepper(2**31), ValueError, "batch_size: expected at most"),
        (lambda: Sequential(Linear(2, 3), Linear(4, 3)).stepper(), ValueError, "expected 3 inputs of layer 1, got 4"),
        (
            lambda: Sequential(Linear(2, 3), Embedding(3, 3)).stepper(),
            ValueError,
            "to come first, got one at 1",
        ),
        (lambda: Sequential(Dropout()).stepper(), ValueError, "other than Dropout"),
        (lambda: Stepper(Linear(2, 3)), TypeError, "layer: expected an LSTM or a Sequential, got Linear"),
        (lambda: Stepper.__new__(Stepper), TypeError, "argument"),
    ),
)
def test_layers_that_cannot_step(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_too_little_memory_raises_memory_error():
    with pytest.raises(MemoryError, match="no memory for the state of 2147483647 streams"):
        Sequential(Linear(1, 2**20)).stepper(2**31 - 1)


# Threads


def until_refused(act, seconds=60):
    """Call until a RuntimeError; return the number of successful calls before it."""
    end = time.monotonic() + seconds
    done = 0
    while time.monotonic() < end:
        try:
            act()
        except RuntimeError as error:
            assert "another thread" in str(error)
            return done
        done += 1
    raise AssertionError("no call was refused, though another thread was stepping all the time")


@pytest.fixture
def busy():
    """(stepper, x, counts): a thread steps all the time, long steps without the GIL; `counts` of them are done."""
    lstm = LSTM(64, 256, seed=0)
    stepper, x = lstm.stepper(64), np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    with repeated_calls(lambda: stepper.step(x)) as (counts, end):
        yield lstm, stepper, x, counts, end


def test_a_second_thread_is_refused_and_changes_nothing(busy):
    lstm, stepper, x, counts, end = busy
    mine = sum(until_refused(lambda: stepper.step(x)) for _ in range(20))
    end()
    expected = lstm.stepper(64)
    for _ in range(mine + len(counts)):
        expected.step(x)
    assert bits(*stepper.state) == bits(*expected.state)


@pytest.mark.parametrize(
    "act",
    (
        lambda stepper: stepper.state,
        lambda stepper: setattr(stepper, "state", (np.zeros((1, 64, 256)),) * 2),
        lambda stepper: stepper.reset(),
        lambda stepper: stepper.reset([1]),
        lambda stepper: stepper.copy(),
        pickle.dumps,
    ),
    ids=("get", "set", "reset", "reset rows", "copy", "pickle"),
)
def test_no_method_runs_during_a_step(busy, act):
    _, stepper, *_ = busy
    until_refused(lambda: act(stepper))


@every_packed
def test_many_steppers_of_one_layer_at_once(chosen):
    lstm = LSTM(16, 96, 2, seed=0)
    cases = [random_case(lstm, 40, 8, seed=seed) for seed in range(8)]

    def run(case):
        x, state = case
        stepper = lstm.stepper(8)
        stepper.state = state
        return [stepper.step(x_t) for x_t in x]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(run, cases))
    for got, (x, state) in zip(outputs, cases, strict=True):
        assert bits(got) == bits(lstm(x, state)[0])


# Memory

COUNTER = """
#include <stddef.h>
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
static long count;
void *malloc(size_t n) { __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED); return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED); return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED); return __libc_realloc(p, n); }
long allocations(void) { return count; }
"""

STEPS = """
import ctypes, itertools, json
import numpy as np
from lstm_cy import LSTM, Embedding, Linear, Sequential

allocations = ctypes.CDLL(None).allocations

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def count(step, *arguments):
    before = allocations()
    for _ in itertools.repeat(None, 100_000):
        step(*arguments)
    return allocations() - before

nothing = count(lambda x: x, 1)
lstm = LSTM(8, 24, 2, seed=0)
model = Sequential(Embedding(5, 8, seed=0), lstm, Linear(24, 5, seed=0))
one, many, talk, flock = lstm.stepper(), lstm.stepper(3), model.stepper(), model.stepper(3)
calls = [
    (one.step, np.ones(8, "f"), np.empty(24, "f")),
    (many.step, np.ones((3, 8), "f"), np.empty((3, 24), "f")),
    (talk.step, 3, np.empty(5, "f")),
    (flock.step, np.ones(3, np.intp), np.empty((3, 5), "f")),
]
start = rss()
for call in calls:
    count(*call)
found = [count(*call) - nothing for call in calls]
fresh = [count(*call[:2]) - nothing for call in calls]
assert rss() - start < 2_000_000, rss() - start
print(json.dumps([found, fresh]))
"""


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux, glibc and a C compiler")
def test_a_hundred_thousand_steps_allocate_nothing(tmp_path):
    source, counter = tmp_path / "counter.c", tmp_path / "counter.so"
    source.write_text(COUNTER)
    if subprocess.run(["cc", "-shared", "-fPIC", "-o", counter, source], capture_output=True).returncode:
        pytest.skip("the C compiler cannot build the counter")
    environment = os.environ | {"LD_PRELOAD": str(counter), "PYTHONMALLOC": "malloc", "LSTM_CY_ENGINE": "packed"}
    done = subprocess.run([sys.executable, "-c", STEPS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, fresh = json.loads(done.stdout)
    assert found == [0] * 4
    assert min(fresh) >= 100_000, "the counter does not count"


def test_steps_leave_no_objects_behind():
    lstm = small_lstm()
    stepper, x, out = lstm.stepper(), np.ones(3, np.float32), np.empty(5, np.float32)
    before = sys.getallocatedblocks()
    for _ in range(100_000):
        stepper.step(x, out)
    assert sys.getallocatedblocks() - before < 10


def test_one_input_of_one_stream_may_be_a_number():
    stepper = LSTM(1, 3, seed=0).stepper()
    other = stepper.copy()
    for value in (0.5, np.float32(-1), np.array(2)):
        assert bits(stepper.step(value)) == bits(other.step([float(value)]))
    for wrong in (LSTM(2, 3).stepper(), LSTM(1, 3).stepper(2)):
        with pytest.raises(ValueError, match=r"x_t: expected shape \(B, I\)"):
            wrong.step(0.5)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("kind", (np.ma.array, np.asmatrix))
def test_out_may_not_be_a_masked_array_or_a_matrix(kind):
    out = kind(np.zeros((1, 3), np.float32))
    model = LSTM(2, 3, seed=0)
    pool = StreamPool(model)
    with pytest.raises(TypeError, match=f"out: expected a plain NumPy array, got {type(out).__name__}"):
        model.stepper().step([[1, 2]], out=out)
    with pytest.raises(TypeError, match=f"out: expected a plain NumPy array, got {type(out).__name__}"):
        pool.step([pool.join()], [[1, 2]], out=out)
    assert not np.asarray(out).any()


def test_masked_inputs_are_refused():
    x = np.ma.array([[1, 2]], np.float32, mask=[[False, True]])
    stepper = LSTM(2, 3, seed=0).stepper()
    with pytest.raises(ValueError, match="x_t: expected no masked elements"):
        stepper.step(x)
    assert not stepper.state[0].any()


def test_out_may_be_a_memory_map(tmp_path):
    out = np.memmap(tmp_path / "out", np.float32, "w+", shape=(1, 3))
    model = LSTM(2, 3, seed=0)
    pool = StreamPool(model)
    assert model.stepper().step([[1, 2]], out=out) is out
    written = np.array(out)
    assert pool.step([pool.join()], [[1, 2]], out=out) is out
    assert written.any()
    assert bits(out) == bits(written)


def test_a_large_vocabulary_is_shared_not_copied():
    model = Sequential(Embedding(300_000, 64, seed=0), LSTM(64, 4, seed=0))
    expected, _ = model([299_999, 0, 7])
    tracemalloc.start()
    stepper, pool = model.stepper(), StreamPool(model)
    id = pool.join()
    for token, y in zip((299_999, 0, 7), expected, strict=True):
        assert bits(stepper.step(token)) == bits(pool.step([id], [token])) == bits(y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20  # of 73 MiB


def test_a_second_init_is_refused():
    model = LSTM(2, 3, seed=0)
    stepper, pool = model.stepper(), StreamPool(model)
    with pytest.raises(RuntimeError, match="Stepper: already initialised"):
        stepper.__init__(LSTM(4, 5), 3)
    with pytest.raises(RuntimeError, match="StreamPool: already initialised"):
        pool.__init__(LSTM(4, 5))
    assert bits(stepper.step([[1, 2]])) == bits(pool.step([pool.join()], [[1, 2]]))


@pytest.mark.parametrize("kind", (Stepper, StreamPool, Network, Affine, Chain, Buffer))
def test_new_without_arguments_is_refused(kind):
    for make in (kind, lambda: kind.__new__(kind)):
        with pytest.raises(TypeError, match="takes (exactly|at least) [0-9]+ positional argument"):
            make()
    with pytest.raises(TypeError, match="not safe"):
        object.__new__(kind)


def test_kernels_check_sizes_that_would_crash_the_process():
    kernels, weight = config.kernels(), np.zeros((12, 2), np.float32)
    for weights, directions in (([], 1), ([None], 0), ([None], 2)):
        with pytest.raises(ValueError, match="Network: expected weights for each layer"):
            Network(kernels, None, 3, 3, directions, False, 4, weights, None, None)
    square = np.zeros((12, 3), np.float32)
    for given in ((2, square, square), (2, weight, weight), (0, weight[:, :0], square)):
        with pytest.raises(ValueError, match="weight: expected"):
            Network(kernels, None, 3, 3, 1, False, 4, [(*given, None, None, None, None)], None, None)
    with pytest.raises(ValueError, match="weight: expected 12 elements, got 11"):
        Network(
            kernels,
            None,
            3,
            3,
            1,
            False,
            4,
            [(2, weight, square, None, square[0, :1].repeat(11), None, None)],
            None,
            None,
        )
    with pytest.raises(ValueError, match="itemsize: expected 4 or 8, got 2"):
        Affine(kernels, None, 2, weight, None)
    with pytest.raises(ValueError, match="weight: expected 12 elements, got 2"):
        Affine(kernels, None, 4, weight, weight[0])
    with pytest.raises(ValueError, match="Chain: expected at least one part"):
        Chain(kernels, 4, [])
    with pytest.raises(ValueError, match="bytes: expected at least 0, got -1"):
        Buffer(-1)
    with pytest.raises(MemoryError):
        Buffer(sys.maxsize)


def test_a_notebook_shows_a_table():
    model = LSTM(2, 3, 2, seed=0)
    for thing, rows in (
        (model.stepper(4), ("LSTM(2, 3", "4", "12 numbers", "float32")),
        (StreamPool(model), ("0", "16")),
    ):
        page = thing._repr_html_()
        assert page.startswith("<table>")
        assert all(row in page for row in rows)
        assert len(repr(thing)) < 120
