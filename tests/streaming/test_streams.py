"""StreamPool: each stream gives the same bits as alone, streams join and leave, and misuse is refused."""

import contextlib
import copy
import pickle
import time

import numpy as np
import pytest
from common import (
    PATIENCE,
    TOLERANCE,
    bits,
    every_dtype,
    every_implementation,
    every_packed,
    repeated_calls,
    small_lstm,
)

from lstm_cy import LSTM, Dropout, Embedding, Flatten, Linear, Sequential, StreamPool, config
from lstm_cy._kernels.runtime import threads as workers

TOKENS = 4
LSTMS = {
    "plain": {},
    "layers": {"num_layers": 3},
    "no bias": {"bias": False},
    "projection": {"num_layers": 2, "proj_size": 7, "proj_clip": 0.2},
    "peepholes": {"peepholes": True},
    "normalised": {"layer_norm": True, "num_layers": 2},
    "coupled": {"coupled_gates": "f=1-i", "clip": 1.0, "cell_clip": 0.5},
    "activations": {"activations": ("hardsigmoid", "softsign", "relu")},
}


def model_of(dtype="float32"):
    """Return a Sequential with every kind of layer."""
    return Sequential(
        Dropout(0.5),
        Embedding(TOKENS, 3, dtype=dtype, seed=0),
        LSTM(3, 17, 2, dtype=dtype, seed=1),
        Linear(17, 9, dtype=dtype, seed=2),
        LSTM(9, 33, proj_size=20, dtype=dtype, seed=3),
        Linear(20, 70, dtype=dtype, seed=4),
    )


def inputs_for(model, rows, rng):
    """Return x of one step."""
    if isinstance(model, Sequential) and isinstance(model.layers[1], Embedding):
        return rng.integers(0, TOKENS, rows)
    return rng.standard_normal((rows, 5)).astype(model.dtype)


def pairs_of(state):
    """Return all arrays of a state."""
    return [part for pair in state for part in pair] if isinstance(state, list) else list(state)


class Twins:
    """A pool, and a Stepper for each of its streams; all operations are applied to both."""

    def __init__(self, model, tolerance=None):
        self.model, self.pool, self.tolerance = model, StreamPool(model), tolerance
        self.steppers = {}

    def join(self):
        id = self.pool.join()
        assert id not in self.steppers
        self.steppers[id] = self.model.stepper()
        return id

    def leave(self, id):
        self.pool.leave(id)
        del self.steppers[id]

    def step(self, ids, rng, **options):
        x = inputs_for(self.model, len(ids), rng)
        h = self.pool.step(ids, x, **options)
        alone = [self.steppers[id].step(x_t) for id, x_t in zip(ids, x, strict=True)]
        self.assert_same(h, np.array(alone).reshape(h.shape))

    def assert_same(self, got, expected):
        if self.tolerance is None:
            assert bits(got) == bits(expected)
        else:
            assert np.abs(got - expected).max(initial=0) <= self.tolerance

    def assert_states(self):
        assert sorted(self.pool.ids) == sorted(self.steppers)
        assert len(self.pool) == len(self.steppers)
        for id, stepper in self.steppers.items():
            for got, expected in zip(pairs_of(self.pool.state(id)), pairs_of(stepper.state), strict=True):
                self.assert_same(got, expected[:, 0])


def live(twins, seed, steps):
    """Let streams join, leave, reset, and step in random order."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        ids = list(twins.steppers)
        for id in ids:
            if rng.random() < 0.1:
                twins.leave(id)
            elif rng.random() < 0.1:
                twins.pool.reset(id)
                twins.steppers[id].reset()
        for _ in range(rng.integers(6)):
            twins.join()
        ids = rng.permutation(list(twins.steppers)).tolist()
        twins.step(ids[: rng.integers(len(ids) + 1)], rng)
    twins.assert_states()


@every_packed
@every_dtype
@pytest.mark.parametrize("options", LSTMS.values(), ids=LSTMS)
def test_a_stream_gives_the_same_bits_as_alone(chosen, dtype, options):
    live(Twins(LSTM(5, 17, dtype=dtype, seed=0, **options)), seed=1, steps=25)


@every_packed
@every_dtype
def test_a_stream_of_a_sequential_gives_the_same_bits_as_alone(chosen, dtype):
    live(Twins(model_of(dtype)), seed=2, steps=40)


@every_packed
@pytest.mark.parametrize("kind", ("bf16", "int8"))
def test_a_stream_with_narrow_weights_gives_the_same_bits_as_alone(chosen, kind):
    live(Twins(LSTM(5, 33, 2, seed=0).quantize(kind)), seed=3, steps=25)


@every_implementation
@every_dtype
def test_every_engine_agrees_to_rounding(chosen, engine, dtype):
    tolerance = 2 * TOLERANCE[dtype]
    live(Twins(LSTM(5, 17, 2, dtype=dtype, seed=0), tolerance), seed=4, steps=25)
    live(Twins(model_of(dtype), tolerance), seed=4, steps=25)


def wide():
    """Return a model, and a number of rows for four blocks of a step, of which the last is shorter."""
    return Sequential(LSTM(5, 600, seed=0), Linear(600, 6, seed=1)), 4 * 96 - 13


def test_steps_of_several_blocks_give_the_same_bits():
    model, rows = wide()
    pool, stepper = StreamPool(model), model.stepper(rows)
    ids = np.random.default_rng(0).permutation([pool.join() for _ in range(rows)])
    rng = np.random.default_rng(1)
    for _ in range(3):
        x = inputs_for(model, rows, rng)
        assert bits(pool.step(ids, x)) == bits(stepper.step(x))


@pytest.mark.parametrize(("rows", "threads"), ((371, 2), (371, 3), (371, 8), (43, 20)))
def test_same_bits_when_workers_join(rows, threads, eight_processors):
    model, _ = wide()
    pool, stepper = StreamPool(model), model.stepper(rows)
    ids = [pool.join() for _ in range(rows)]
    x = inputs_for(model, rows, np.random.default_rng(1))
    before, end, rounds = workers.statistics()[1], time.monotonic() + PATIENCE, 0
    while rounds < 5 or workers.statistics()[1] - before < 5:
        assert bits(pool.step(ids, x, threads=threads)) == bits(stepper.step(x))
        assert time.monotonic() < end, "no worker ever joined"
        rounds += 1


def test_blas_starts_no_thread():
    with config.using(isa="base", engine="blas"):
        model, rows = wide()
        pool = StreamPool(model)
    ids = [pool.join() for _ in range(rows)]
    before = workers.statistics()
    pool.step(ids, np.ones((rows, 5)), threads=2)
    assert workers.statistics() == before


def test_no_id_is_used_twice():
    pool = StreamPool(small_lstm())
    seen, now = set(), []
    rng = np.random.default_rng(0)
    for _ in range(2000):
        if now and rng.random() < 0.5:
            pool.leave(now.pop(rng.integers(len(now))))
        else:
            now.append(pool.join())
            assert type(now[-1]) is int
            assert now[-1] not in seen
            seen.add(now[-1])
        assert len(pool) == len(now)
    assert sorted(pool.ids) == sorted(now)
    assert all(id in pool for id in now)
    assert not any(id in pool for id in seen.difference(now))


def test_states_are_kept_when_the_pool_grows():
    lstm = small_lstm(num_layers=2)
    pool = StreamPool(lstm)
    rng = np.random.default_rng(0)
    states = {}
    for _ in range(300):
        state = tuple(rng.standard_normal((2, 5)).astype(np.float32) for _ in range(2))
        states[pool.join(state)] = state
    assert all(bits(*pool.state(id)) == bits(*state) for id, state in states.items())


def test_a_stream_in_a_used_slot_begins_with_zeros():
    pool = StreamPool(small_lstm())
    first = pool.join(np.ones((2, 1, 5)).tolist())
    pool.leave(first)
    second = pool.join()
    assert second != first
    assert not any(part.any() for part in pool.state(second))


def test_states_are_copied_and_converted():
    lstm = small_lstm(proj_size=2)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    y, (h_n, c_n) = lstm(x)
    pool = StreamPool(lstm)
    id, other = pool.join(), pool.join()
    outputs = [pool.step([id], x_t[np.newaxis])[0] for x_t in x]
    assert bits(outputs, *pool.state(id)) == bits(y, h_n, c_n)
    h, c = pool.state(id)
    h[:] = c[:] = np.nan
    assert bits(*pool.state(id)) == bits(h_n, c_n)
    given = [h_n.astype(np.float64), c_n.astype(np.float64)]
    pool.set_state(other, given)
    given[0][:] = given[1][:] = np.nan
    assert bits(*pool.state(other)) == bits(h_n, c_n)
    more, state = lstm(x, pool.state(other))  # a whole sequence continues from a stream's state
    pool.set_state(other, state)
    assert bits(pool.step([other], x[:1])[0]) == bits(lstm(np.concatenate([x, x, x[:1]]))[0][-1])
    assert more.shape == (4, 2)


def test_the_state_in_a_sequential_is_a_list():
    model = model_of()
    pool = StreamPool(model)
    id = pool.join()
    pool.step([id], [3])
    states = pool.state(id)
    assert [(h.shape, c.shape) for h, c in states] == [((2, 17), (2, 17)), ((1, 20), (1, 33))]
    twin = pool.join(states)
    h = pool.step([id, twin], [1, 1])
    assert bits(h[0]) == bits(h[1])
    plain = StreamPool(Sequential(Embedding(TOKENS, 3, seed=0), Linear(3, 2, seed=1)))
    assert plain.state(plain.join([])) == []


def test_reset_sets_states_to_zero():
    pool = StreamPool(small_lstm())
    ones = tuple(np.ones((2, 1, 5), np.float32))
    ids = [pool.join(ones) for _ in range(5)]
    pool.reset([ids[3], ids[1], ids[1]])
    pool.reset(ids[0])
    pool.reset(np.array([], int))
    assert [bool(pool.state(id)[0].any()) for id in ids] == [False, False, True, False, True]
    pool.reset()
    assert not any(part.any() for id in ids for part in pool.state(id))


def test_nan_in_one_stream_does_not_affect_others():
    lstm = small_lstm()
    pool = StreamPool(lstm)
    ids = [pool.join() for _ in range(3)]
    x = np.ones((3, 3), np.float32)
    x[1] = np.nan
    assert np.isnan(pool.step(ids, x)).any(axis=-1).tolist() == [False, True, False]
    pool.leave(ids[1])
    assert bits(pool.step([pool.join()], x[:1])) == bits(lstm.stepper().step(x[:1]))


@pytest.mark.parametrize(
    "same",
    (
        list,
        lambda x: x.astype(np.float64),
        lambda x: x.astype(">f4"),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
        lambda x: np.frombuffer(b"-" + x.tobytes(), np.float32, offset=1).reshape(x.shape),
    ),
    ids=("list", "float64", "big endian", "Fortran", "strided", "unaligned"),
)
def test_inputs_in_other_layouts_and_dtypes(same):
    lstm = small_lstm()
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    x.flags.writeable = False
    pool = StreamPool(lstm)
    ids = [pool.join() for _ in range(4)]
    assert bits(pool.step(ids, same(x))) == bits(lstm.stepper(4).step(x))


@pytest.mark.parametrize(
    "same",
    (
        tuple,
        np.array,
        lambda ids: np.array(ids, np.uint8),
        lambda ids: np.array(ids, ">i4"),
        lambda ids: np.array([ids, ids]).T[:, 0],
        lambda ids: [np.int64(id) for id in ids],
    ),
    ids=("tuple", "array", "uint8", "big endian", "strided", "NumPy's integers"),
)
def test_ids_in_other_layouts_and_dtypes(same):
    lstm = small_lstm()
    pool, plain = StreamPool(lstm), StreamPool(lstm)
    ids = [pool.join() for _ in range(4)][::-1]
    assert ids == [plain.join() for _ in range(4)][::-1]
    x = np.random.default_rng(0).standard_normal((2, 4, 3))
    for x_t in x:
        assert bits(pool.step(same(ids), x_t)) == bits(plain.step(ids, x_t))


def test_a_step_of_no_streams():
    pool = StreamPool(small_lstm())
    for ids in ([], np.array([], int)):
        assert pool.step(ids, np.zeros((0, 3)), threads=2).shape == (0, 5)
    assert StreamPool(model_of()).step([], []).shape == (0, 70)
    assert pool.ids.shape == (0,)


def test_out_is_written_and_returned():
    lstm = small_lstm()
    pool, fresh = StreamPool(lstm), StreamPool(lstm)
    ids = [pool.join() for _ in range(4)]
    assert ids == [fresh.join() for _ in range(4)]
    out = np.full((4, 5), np.nan, np.float32)
    for x in np.random.default_rng(0).standard_normal((3, 4, 3)):
        assert pool.step(ids, x, out) is out
        assert bits(out) == bits(fresh.step(ids, x))


@pytest.mark.parametrize("sizes", ((3, 4, 4), (250, 700, 700), (250, 700, 3), (250, 3, 700)))
def test_out_may_share_memory_with_x(sizes):
    rows, I, P = sizes
    layer = Sequential(Linear(I, 700, seed=0), Linear(700, P, seed=1))
    pool = StreamPool(layer)
    ids = [pool.join() for _ in range(rows)]
    x = np.random.default_rng(0).standard_normal((rows, I)).astype(np.float32)
    expected = pool.step(ids, x)
    memory = np.zeros(rows * max(I, P) + 3, np.float32)
    for start in (0, 3):  # at the same address, and a little after it
        memory[: rows * I] = x.ravel()
        out = memory[start : start + rows * P].reshape(rows, P)
        assert bits(pool.step(ids, memory[: rows * I].reshape(rows, I), out)) == bits(expected)


def test_it_keeps_the_weights_it_was_made_with():
    for model in (small_lstm(), model_of()):
        pool, x = StreamPool(model), np.ones((1, 3)) if isinstance(model, LSTM) else [1]
        expected = pool.step([pool.join()], x)
        model.load_state_dict({name: array * 0 + 0.5 for name, array in model.parameters.items()})
        assert bits(pool.step([pool.join()], x)) == bits(expected)
        assert bits(model.stepper().step(x)) != bits(expected)
        del model
        assert bits(pool.step([pool.join()], x)) == bits(expected)


def test_repr():
    pool = StreamPool(small_lstm())
    pool.join()
    assert repr(pool).startswith("<StreamPool of 1 streams over LSTM(3, ")


# Misuse


@pytest.mark.parametrize(
    ("model", "error", "message"),
    (
        (Linear(3, 4), TypeError, "model: expected an LSTM or a Sequential, got Linear"),
        (LSTM(3, 4, bidirectional=True), ValueError, "expected an LSTM that runs forwards, got bidirectional=True"),
        (
            Sequential(LSTM(3, 4), Flatten()),
            ValueError,
            "StreamPool: expected layers whose output has one size",
        ),
    ),
)
def test_models_that_cannot_step(model, error, message):
    with pytest.raises(error, match=message):
        StreamPool(model)


def bad_out(change):
    return lambda pool, a, b: pool.step([a, b], np.zeros((2, 3)), change(np.zeros((2, 5), np.float32)))


def read_only(array):
    array.flags.writeable = False
    return array


ONES = np.ones((2, 1, 5))
GONE = 1  # the id of a stream that has left


@pytest.mark.parametrize(
    ("act", "error", "message"),
    (
        (lambda p, a, b: p.step([a, 7], np.zeros((2, 3))), KeyError, "ids: expected .* got 7 at 1"),
        (lambda p, a, b: p.step([GONE], np.zeros((1, 3))), KeyError, "ids: expected .* got 1 at 0"),
        (lambda p, a, b: p.step([a, -1], np.zeros((2, 3))), KeyError, "got -1 at 1"),
        (lambda p, a, b: p.step([a + (1 << 24)], np.zeros((1, 3))), KeyError, "got 16777216"),
        (lambda p, a, b: p.step([a, b, a], np.zeros((3, 3))), ValueError, "each at most once, got 0 again at 2"),
        (lambda p, a, b: p.step(a, np.zeros(3)), ValueError, r"ids: expected shape \(n,\), got \(\)"),
        (lambda p, a, b: p.step([[a, b]], np.zeros((2, 3))), ValueError, r"ids: .* got \(1, 2\)"),
        (lambda p, a, b: p.step([0.0], np.zeros((1, 3))), TypeError, "ids: expected integers"),
        (lambda p, a, b: p.step([True], np.zeros((1, 3))), TypeError, "ids: expected integers"),
        (lambda p, a, b: p.step([2**70], np.zeros((1, 3))), TypeError, "ids: expected integers"),
        (lambda p, a, b: p.step(["a"], np.zeros((1, 3))), TypeError, "ids: expected integers"),
        (lambda p, a, b: p.step([a, b], np.zeros((1, 3))), ValueError, r"x: .*= \(2, 3\), got \(1, 3\)"),
        (lambda p, a, b: p.step([a], np.zeros(3)), ValueError, r"x: .*= \(1, 3\), got \(3,\)"),
        (lambda p, a, b: p.step([a], np.zeros((1, 4), "f")), ValueError, r"x: .* got \(1, 4\)"),
        (lambda p, a, b: p.step([a], np.zeros((1, 3), complex)), TypeError, "x: expected real numbers"),
        (lambda p, a, b: p.step([a], np.zeros((1, 3)), threads=0), ValueError, "threads: expected at least 1"),
        (bad_out(list), TypeError, "out: expected a NumPy array, got list"),
        (bad_out(lambda out: out.astype(np.float64)), TypeError, "out: expected dtype float32, got float64"),
        (bad_out(lambda out: out[:1]), ValueError, r"out: .*= \(2, 5\), got \(1, 5\)"),
        (bad_out(np.asfortranarray), ValueError, "out: expected a C-contiguous"),
        (bad_out(read_only), ValueError, "out: expected a C-contiguous, aligned and writable"),
        (lambda p, a, b: p.leave(GONE), KeyError, "id: expected the id of a stream of this pool, got 1"),
        (lambda p, a, b: p.leave([a]), ValueError, r"id: expected shape \(\)"),
        (lambda p, a, b: p.leave("a"), TypeError, "id: expected integers"),
        (lambda p, a, b: p.state(9), KeyError, "got 9"),
        (lambda p, a, b: p.set_state(GONE, ONES.tolist()), KeyError, "got 1"),
        (lambda p, a, b: p.set_state(a, None), TypeError, r"state: expected a pair \(h, c\), got NoneType"),
        (lambda p, a, b: p.set_state(a, (ONES[0], None)), TypeError, "state c: expected real numbers"),
        (lambda p, a, b: p.set_state(a, (ONES[0], ONES)), ValueError, r"state c: .*= \(1, 5\), got \(2, 1, 5\)"),
        (lambda p, a, b: p.join((ONES[0, 0], ONES[0])), ValueError, r"state h: .*= \(1, 5\), got \(5,\)"),
        (lambda p, a, b: p.join(()), TypeError, "state: expected a pair"),
        (lambda p, a, b: p.reset([a, GONE]), KeyError, "got 1"),
        (lambda p, a, b: p.reset("all"), TypeError, "ids: expected integers"),
    ),
)
def test_errors_change_nothing(act, error, message):
    pool = StreamPool(small_lstm())
    a, gone, b = (pool.join() for _ in range(3))
    pool.leave(gone)
    pool.step([b, a], np.ones((2, 3)))
    before = bits(*pool.state(a), *pool.state(b))
    with pytest.raises(error, match=message):
        act(pool, a, b)
    assert bits(*pool.state(a), *pool.state(b)) == before
    assert pool.ids.tolist() == [a, b]


@pytest.mark.parametrize(
    ("x", "error", "message"),
    (
        ([1, TOKENS], ValueError, "x: expected 0 to num_embeddings - 1 = 3, got 4"),
        ([1, -1], ValueError, "got -1"),
        ([1], ValueError, r"x: expected shape .*= \(2,\), got \(1,\)"),
        ([1.0, 2.0], TypeError, "x: expected integers"),
    ),
)
def test_wrong_tokens_change_nothing(x, error, message):
    pool = StreamPool(model_of())
    ids = [pool.join(), pool.join()]
    pool.step(ids, [1, 2])
    before = bits(*pairs_of(pool.state(ids[0])))
    with pytest.raises(error, match=message):
        pool.step(ids, x)
    assert bits(*pairs_of(pool.state(ids[0]))) == before


def test_wrong_states_of_a_sequential_are_refused():
    pool = StreamPool(model_of())
    with pytest.raises(ValueError, match="state: expected a list of 2, one for each LSTM"):
        pool.join([(np.zeros((2, 17)), np.zeros((2, 17)))])


SPARE = 64  # a stream that does not step


@pytest.fixture
def busy():
    """(pool, ids, x, counts, end): a thread steps all the time, without the GIL; `counts` of its steps are done."""
    pool = StreamPool(LSTM(64, 256, seed=0))
    ids = [pool.join() for _ in range(64)]
    assert pool.join() == SPARE
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    with repeated_calls(lambda: pool.step(ids, x)) as (counts, end):
        yield pool, ids, x, counts, end


@pytest.mark.parametrize(
    "act",
    (
        lambda pool, ids, x: pool.join(),
        lambda pool, ids, x: pool.leave(SPARE),
        lambda pool, ids, x: pool.state(ids[0]),
        lambda pool, ids, x: pool.set_state(ids[0], np.zeros((2, 1, 256)).tolist()),
        lambda pool, ids, x: pool.reset(),
        lambda pool, ids, x: pool.reset(ids),
        lambda pool, ids, x: pool.ids,
        lambda pool, ids, x: ids[0] in pool,
        lambda pool, ids, x: pool.step(ids, x),
    ),
    ids=("join", "leave", "state", "set_state", "reset all", "reset", "ids", "in", "step"),
)
def test_a_second_thread_is_refused(busy, act):
    pool, ids, x, _, _ = busy
    end = time.monotonic() + PATIENCE
    with pytest.raises(RuntimeError, match="StreamPool: another thread is using it"):
        while time.monotonic() < end:
            with contextlib.suppress(KeyError):  # it has left already
                act(pool, ids, x)


def test_a_refused_second_thread_changes_nothing(busy):
    pool, ids, x, counts, end = busy
    mine = refused = 0
    while refused < 20:
        try:
            pool.step(ids, x)
            mine += 1
        except RuntimeError:
            refused += 1
    end()
    expected = LSTM(64, 256, seed=0).stepper(64)
    for _ in range(mine + len(counts)):
        expected.step(x)
    h, c = expected.state
    assert all(bits(*pool.state(id)) == bits(h[:, row], c[:, row]) for row, id in enumerate(ids))


@pytest.mark.parametrize(
    "make", (StreamPool.copy, copy.copy, copy.deepcopy, lambda pool: pickle.loads(pickle.dumps(pool)))
)
def test_a_copy_has_the_same_ids_and_gives_the_same_bits(make):
    model = Sequential(LSTM(3, 5, 2, seed=0), Linear(5, 4, seed=1), LSTM(4, 2, seed=2))
    pool, rng = StreamPool(model), np.random.default_rng(0)
    ids = [pool.join() for _ in range(40)]
    pool.step(ids, rng.standard_normal((40, 3)))
    for gone in ids[3:30:4]:
        pool.leave(gone)
    again = [pool.join() for _ in range(2)]
    here = pool.ids
    other = make(pool)
    assert repr(other) == repr(pool)
    assert (len(other), other.ids.tolist()) == (len(pool), here.tolist())
    x = rng.standard_normal((len(here), 3))
    assert bits(other.step(here, x)) == bits(pool.step(here, x))
    before = bits(*pool.state(again[0])[0])
    other.reset()
    assert bits(*pool.state(again[0])[0]) == before  # the two pools share no state
    assert [other.join() for _ in range(9)] == [pool.join() for _ in range(9)]
    assert ids[3] not in other


def test_an_empty_pool_is_copied():
    other = pickle.loads(pickle.dumps(StreamPool(small_lstm())))
    assert len(other) == 0
    other.step([other.join()], np.ones((1, 3)))
