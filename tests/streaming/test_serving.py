"""AsyncStreamPool: the bits of a Stepper whatever the batches are, and nothing left behind by what ends early."""

import asyncio
import gc
import re
import threading
import time

import numpy as np
import pytest

from lstm_cy import LSTM, AsyncStreamPool, Embedding, Linear, Sequential
from lstm_cy.streaming import serving
from lstm_cy.streaming.serving import PoolClosedError, QueueFullError, SessionClosedError, SessionLimitError

PATIENCE = 60  # seconds, for what must happen at some time


def run(coroutine):
    """Run a coroutine; an exception that nobody read, or a task that is left, is an error."""
    reported = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["message"]))
        async with asyncio.timeout(PATIENCE):
            result = await coroutine
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    result = asyncio.run(main(), debug=True)
    gc.collect()
    assert reported == []
    return result


def small_model(seed=0):
    return Sequential(LSTM(3, 17, seed=seed), Linear(17, 2, seed=seed + 1))


def counts(pool):
    """Return the numbers on the metrics page, {name with labels: number}."""
    lines = [line.rsplit(" ", 1) for line in pool.metrics().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


class Gate:
    """Holds the computation of batches until it is opened."""

    def __init__(self, pool, monkeypatch):
        self.began, self.open = threading.Event(), threading.Event()
        compute = pool._compute

        def held(batch):
            self.began.set()
            assert self.open.wait(PATIENCE)
            return compute(batch)

        monkeypatch.setattr(pool, "_compute", held)

    async def has_batch(self):
        await asyncio.to_thread(self.began.wait, PATIENCE)


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("max_batch", [4096, 3])
def test_the_bits_are_those_of_a_stepper(max_batch, monkeypatch):
    """Sessions that begin, wait, step and run at different times; runs longer than a batch takes at once."""
    monkeypatch.setattr(serving, "_MOST_STEPS", 4)
    model = small_model()
    rng = np.random.default_rng(0)
    lengths = [1, 3, 17, 33, 8, 2, 5, 9]
    xs = [rng.standard_normal((length, 3)).astype("float32") for length in lengths]

    async def talk(pool, x, number):
        ys = []
        await asyncio.sleep(number % 3 * 0.002)
        async with pool.session() as session:
            while len(x):
                part = 1 + (number + len(ys)) % 7
                y = await session.run(x[:part]) if part > 1 else (await session.step(x[0]))[None]
                assert y.flags.owndata or y.base.flags.owndata
                x = x[part:] if part > 1 else x[1:]
                ys.append(y)
            assert session.steps == sum(map(len, ys))
            state = await session.state()
        return np.concatenate(ys), state

    async def main():
        async with AsyncStreamPool(model, max_batch=max_batch, max_wait=0.001) as pool:
            results = await asyncio.gather(*(talk(pool, x, number) for number, x in enumerate(xs)))
            assert len(pool) == len(pool._streams) == 0
            return results, counts(pool)

    results, found = run(main())
    for x, (y, state) in zip(xs, results, strict=True):
        stepper = model.stepper()
        assert np.array_equal(y, [stepper.step(x_t) for x_t in x])
        assert np.array_equal(state[0][0], stepper.state[0][0][:, 0])
    assert found["lstm_cy_steps_total"] == sum(lengths)
    assert found["lstm_cy_sessions_opened_total"] == len(lengths)
    assert found["lstm_cy_batch_size_sum"] >= len(lengths)
    assert found[f'lstm_cy_batch_size_bucket{{le="{4096}"}}'] == found["lstm_cy_batch_size_count"]


def test_what_arrives_together_is_one_batch():
    """Sessions that wait do not delay the others by more than `max_wait`, and all together not at all."""

    async def main():
        async with AsyncStreamPool(small_model(), max_wait=3600) as pool:
            sessions = [await pool.session().__aenter__() for _ in range(50)]
            for _ in range(3):
                await asyncio.gather(*(session.step(np.ones(3)) for session in sessions))
            return counts(pool)

    found = run(main())
    assert found["lstm_cy_batch_size_count"] == 3 and found["lstm_cy_batch_size_sum"] == 150


def test_tokens_float64_and_states():
    model = Sequential(Embedding(5, 3, dtype="float64", seed=0), LSTM(3, 4, dtype="float64", seed=1))

    async def main():
        async with AsyncStreamPool(model) as pool:
            async with pool.session() as one:
                first = await one.run([1, 4])
                assert (await one.run([])).shape == (0, 4)
                state = await one.state()
                async with pool.session(state) as two:
                    assert np.array_equal(await one.step(2), await two.step(np.int64(2)))
                await one.set_state(state)
                await one.reset()
                assert np.array_equal(await one.run(np.array([1, 4])), first) and first.dtype == "float64"
                for wrong in ([5], [-1], [[1]], [0.5], 1):
                    with pytest.raises((TypeError, ValueError), match="x: expected"):
                        await one.run(wrong)
                with pytest.raises(ValueError, match="x: expected 0 to num_embeddings - 1 = 4, got 5"):
                    await one.step(5)
            with pytest.raises(TypeError, match="state: expected a pair"):
                await pool.session([1]).__aenter__()
            assert len(pool) == 0

    run(main())


def test_a_wrong_input_is_refused_for_its_caller_alone():
    async def main():
        async with AsyncStreamPool(small_model()) as pool, pool.session() as one, pool.session() as two:
            right = asyncio.create_task(one.step(np.ones(3)))
            await turns(1)
            for wrong in (np.ones(2), np.ones((1, 3)), 1.0, "text", [1j, 1, 1]):
                with pytest.raises((TypeError, ValueError), match="x: expected"):
                    await two.step(wrong)
            for wrong in (np.ones(3), np.ones((4, 2)), 1.0):
                with pytest.raises(ValueError, match=r"x: expected shape \(T, I\)"):
                    await two.run(wrong)
            assert (await right).shape == (2,)

    run(main())
    for wrong in ({"max_wait": -1}, {"max_batch": 0}, {"max_queue": 1.5}, {"timeout": "1"}, {"threads": 0}):
        with pytest.raises((TypeError, ValueError), match=f"{next(iter(wrong))}: expected"):
            AsyncStreamPool(small_model(), **wrong)
    with pytest.raises(ValueError, match="expected an LSTM that runs forwards|bidirectional|forwards"):
        AsyncStreamPool(LSTM(3, 4, bidirectional=True))


def test_a_full_queue_and_too_many_sessions_are_refused(monkeypatch):
    async def main():
        async with AsyncStreamPool(small_model(), max_queue=4, max_sessions=3) as pool:
            gate = Gate(pool, monkeypatch)
            one, two, three = [await pool.session().__aenter__() for _ in range(3)]
            with pytest.raises(SessionLimitError, match="at most 3 sessions"):
                await pool.session().__aenter__()
            first = asyncio.create_task(one.step(np.ones(3)))
            await gate.has_batch()
            waiting = asyncio.create_task(two.run(np.ones((3, 3))))
            await turns()
            with pytest.raises(QueueFullError, match="at most 4 waiting steps"):
                await three.run(np.ones((2, 3)))
            assert three.steps == 0
            last = asyncio.create_task(three.step(np.ones(3)))
            with pytest.raises(RuntimeError, match="one step at a time"):
                await two.step(np.ones(3))
            await turns()
            assert counts(pool)["lstm_cy_waiting_steps"] == 4
            gate.open.set()
            await asyncio.gather(first, waiting, last)
            found = counts(pool)
            assert found["lstm_cy_refused_total"] == 1 and found["lstm_cy_waiting_steps"] == 0

    run(main())


def test_cancelled_and_late_steps_leave_nothing_behind(monkeypatch):
    """One waits, one is computed; the streams and the queue are as if the first had never been asked for."""
    model = small_model()
    x = np.ones(3, "float32")

    async def main():
        async with AsyncStreamPool(model, max_wait=0) as pool, pool.session() as one, pool.session() as two:
            gate = Gate(pool, monkeypatch)
            computed = asyncio.create_task(one.step(x))
            await gate.has_batch()
            waiting = asyncio.create_task(two.step(x))
            await turns()
            for task in (computed, waiting):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert not pool._queue and pool._queued == 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await two.step(x)
            joining = asyncio.create_task(pool.session().__aenter__())  # waits for the end of the batch
            await turns()
            joining.cancel()
            gate.open.set()
            with pytest.raises(asyncio.CancelledError):
                await joining
            assert (await one.step(x)).shape == (2,)
            assert np.array_equal(await two.step(x), model.stepper().step(x))
            assert (one.steps, two.steps) == (2, 1)
            assert len(pool) == len(pool._streams) == 2
            assert counts(pool)["lstm_cy_cancelled_total"] == 3

    run(main())


def test_timeout_and_idle_timeout(monkeypatch):
    x = np.ones(3)

    async def main():
        async with AsyncStreamPool(small_model(), max_wait=0, timeout=0.05) as pool:
            gate = Gate(pool, monkeypatch)
            async with pool.session() as session:
                with pytest.raises(TimeoutError, match="no result after 0.05 s"):
                    await session.step(x)
                gate.open.set()
                while session.steps < 1:
                    await asyncio.sleep(0.001)
                assert (await session.step(x)).shape == (2,)
            assert counts(pool)["lstm_cy_timeouts_total"] == 1 and len(pool._streams) == 0
        async with AsyncStreamPool(small_model(), max_wait=0, idle_timeout=0.1) as pool:
            gate = Gate(pool, monkeypatch)
            async with pool.session() as idle, pool.session() as busy:
                step = asyncio.create_task(busy.step(x))
                while len(pool) == 2:
                    await asyncio.sleep(0.001)
                with pytest.raises(SessionClosedError, match="dropped after 0.1 s without a step"):
                    await idle.step(x)
                gate.open.set()
                await step
                while len(pool):
                    await asyncio.sleep(0.001)
            assert counts(pool)["lstm_cy_sessions_dropped_total"] == 2 and len(pool._streams) == 0
            assert pool._idle_timer is None

    run(main())


def test_each_step_has_its_own_time_out(monkeypatch):
    """One timer serves all steps: those that arrived later end later, and none is left behind."""
    x = np.ones(3)

    async def main():
        async with AsyncStreamPool(small_model(), max_wait=0, timeout=0.2) as pool:
            gate = Gate(pool, monkeypatch)
            async with pool.session() as one, pool.session() as two, pool.session() as three:
                first = asyncio.create_task(one.step(x))
                await gate.has_batch()
                second = asyncio.create_task(two.run(np.ones((4, 3))))
                cancelled = asyncio.create_task(three.step(x))
                await asyncio.sleep(0.1)
                cancelled.cancel()
                with pytest.raises(TimeoutError, match="no result after 0.2 s"):
                    await first
                third = asyncio.create_task(three.step(x))
                await turns()
                with pytest.raises(TimeoutError):
                    await second
                assert not third.done() and list(pool._unfinished) == [three._request]
                gate.open.set()
                assert (await third).shape == (2,)
                assert not pool._unfinished and pool._queued == 0
                assert (await two.run(np.ones((2, 3)))).shape == (2, 2)
            found = counts(pool)
            assert (found["lstm_cy_timeouts_total"], found["lstm_cy_cancelled_total"]) == (2, 1)
        assert pool._expiry_timer is None or pool._expiry_timer.cancelled()

    run(main())


def test_the_input_is_copied_before_the_step_waits():
    model = small_model()
    rng = np.random.default_rng(1)
    kept = rng.standard_normal((5, 3, 2)).astype("float32")
    given = {
        "plain": kept[0, :, 0].copy(),
        "strided": kept[1].copy()[:, 0],
        "float64": kept[2, :, 0].astype("float64"),
        "swapped": kept[3, :, 0].astype(">f4"),
    }

    async def main():
        async with AsyncStreamPool(model, max_wait=3600) as pool:
            sessions = [await pool.session().__aenter__() for _ in range(5)]
            tasks = [asyncio.create_task(session.step(x)) for session, x in zip(sessions, given.values(), strict=False)]
            steps = rng.standard_normal((4, 3)).astype("float32")
            expected = model(steps)[0].copy()
            await turns(1)
            tasks.append(asyncio.create_task(sessions[4].run(steps)))
            await turns(1)
            for x in (*given.values(), steps):
                x[...] = 9
            results = await asyncio.gather(*tasks)
            assert np.array_equal(results.pop(), expected)
            return results

    for number, y in enumerate(run(main())):
        assert np.array_equal(y, model.stepper().step(kept[number, :, 0]))


def test_a_closed_pool_ends_everything(monkeypatch):
    x = np.ones(3)
    threads = threading.active_count()

    async def main():
        pool = AsyncStreamPool(small_model(), max_wait=0)
        gate = Gate(pool, monkeypatch)
        one, two = [await pool.session().__aenter__() for _ in range(2)]
        computed = asyncio.create_task(one.step(x))
        await gate.has_batch()
        tasks = [asyncio.create_task(two.step(x)), asyncio.create_task(pool.session().__aenter__())]
        await turns()
        closing = asyncio.create_task(pool.close())
        await turns()
        gate.open.set()
        await closing
        assert (await computed).shape == (2,)
        for task in tasks:
            with pytest.raises((PoolClosedError, SessionClosedError), match="closed"):
                await task
        for late in (two.step(x), one.state(), pool.session().__aenter__(), one.run(np.ones((2, 3)))):
            with pytest.raises(PoolClosedError, match="it was closed"):
                await late
        await pool.close()
        assert len(pool) == len(pool._streams) == 0
        other = AsyncStreamPool(small_model(), max_wait=0)
        async with other, other.session() as session:
            long = asyncio.create_task(session.run(np.ones((1000, 3))))
            await asyncio.sleep(0.001)
            session.close()
            with pytest.raises(SessionClosedError, match="it was closed before this step was computed"):
                await long
            with pytest.raises(SessionClosedError, match="expected an open one"):
                await session.step(x)

    run(main())
    for _ in range(1000):  # the workers end by themselves
        if threading.active_count() <= threads:
            break
        time.sleep(0.01)
    assert threading.active_count() <= threads, threading.enumerate()


def test_an_error_of_a_batch_reaches_its_callers_alone(monkeypatch):
    async def main():
        async with AsyncStreamPool(small_model(), max_wait=0) as pool, pool.session() as session:
            compute = pool._compute

            def failing(batch):
                raise MemoryError("no memory")

            monkeypatch.setattr(pool, "_compute", failing)
            with pytest.raises(MemoryError, match="no memory"):
                await session.step(np.ones(3))
            monkeypatch.setattr(pool, "_compute", compute)
            assert (await session.step(np.ones(3))).shape == (2,)

    run(main())


def test_a_pool_belongs_to_one_event_loop():
    pool = AsyncStreamPool(small_model())

    async def step_of(session):
        with pytest.raises(RuntimeError, match="event loop"):
            await session.step(np.ones(3))

    async def open_one():
        async with pool.session() as session:
            await session.step(np.ones(3))
            await asyncio.to_thread(asyncio.run, step_of(session))
            with pytest.raises(RuntimeError, match="entered only once"):
                await session.__aenter__()

    run(open_one())
    with pytest.raises(RuntimeError, match="event loop"):
        asyncio.run(open_one())


def test_the_metrics_are_in_prometheus_format():
    """Each metric has help and a type before its lines; buckets of a histogram are cumulative."""
    text = AsyncStreamPool(small_model()).metrics()
    line = re.compile(r'# (HELP|TYPE) (\w+) .+|(\w+?)(_bucket\{le="[^"]+"\}|_sum|_count)? [-+.\de]+')
    names = set()
    for match in map(line.fullmatch, text.splitlines()):
        assert match
        names.add(match[2] or match[3])
    assert len(names) == 11 and text.endswith("\n")
