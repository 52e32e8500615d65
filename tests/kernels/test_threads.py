"""Several threads: the same bits for any number of workers, many callers, forks and signals."""

import concurrent.futures
import itertools
import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from common import PACKED, PATIENCE, bits, every_gradient, random_case

from lstm_cy import LSTM, config
from lstm_cy._kernels.runtime import threads as pool

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs POSIX threads"),
    pytest.mark.usefixtures("eight_processors"),
]
CASES = {
    "a single row": (LSTM(64, 128, seed=0), 200, 1, None),
    "a single row, float64": (LSTM(33, 97, dtype="float64", seed=0), 150, 1, None),
    "a single row, half a panel": (LSTM(20, 136, seed=0), 120, 1, None),
    "a single row, layers": (LSTM(20, 128, 3, seed=0), 90, 1, None),
    "a single row, small layers": (LSTM(20, 64, 4, seed=0), 90, 1, None),
    "a single ragged row, small layers": (LSTM(64, 64, 3, reverse=True, seed=0), 200, 1, [131]),
    "three rows, layers": (LSTM(64, 65, 3, batch_first=True, seed=0), 60, 3, None),
    "a single row, reverse": (LSTM(20, 128, reverse=True, batch_first=True, seed=0), 90, 1, None),
    "a single ragged row": (LSTM(64, 128, seed=0), 200, 1, [131]),
    "two directions": (LSTM(64, 64, 2, bidirectional=True, seed=0), 100, 1, None),
    "rows": (LSTM(64, 64, 2, seed=0), 50, 9, None),
    "rows, batch first": (LSTM(64, 64, batch_first=True, seed=0), 50, 8, None),
    "more groups than threads": (LSTM(20, 40, 2, seed=0), 40, 25, None),
    "large weights, more groups than threads": (LSTM(20, 161, seed=0), 12, 27, None),
    "two directions, more groups than threads": (LSTM(20, 40, 2, bidirectional=True, seed=0), 40, 25, None),
    "ragged rows": (LSTM(64, 64, seed=0), 50, 9, [50, 3, 0, 41, 17, 50, 1, 30, 9]),
    "ragged rows, two directions": (LSTM(64, 65, 2, bidirectional=True, seed=0), 50, 7, [50, 3, 0, 41, 17, 50, 1]),
}


def joined():
    return pool.statistics()[1]


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("threads", (2, 3, 8))
def test_same_bits_when_workers_join(name, threads):
    lstm, T, B, lengths = CASES[name]
    x, state = random_case(lstm, T, B)
    expected = [a.tobytes() for a in _flat(lstm(x, state, lengths=lengths, threads=1))]
    before, end = joined(), time.monotonic() + PATIENCE
    for count in itertools.count():
        got = [a.tobytes() for a in _flat(lstm(x, state, lengths=lengths, threads=threads))]
        assert got == expected
        if joined() - before >= 20 and count >= 20:
            break
        assert time.monotonic() < end, "no worker ever joined"


def _flat(result):
    y, (h_n, c_n) = result
    return y, h_n, c_n


@pytest.mark.parametrize(("isa", "engine"), PACKED)
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_same_bits_on_every_instruction_set(isa, engine, dtype):
    with config.using(isa=isa, engine=engine):
        for options, B in (({}, 1), ({"bidirectional": True}, 5), ({"num_layers": 2}, 6)):
            lstm = LSTM(40, 130, dtype=dtype, seed=0, **options)
            x, state = random_case(lstm, 60, B)
            expected = [a.tobytes() for a in _flat(lstm(x, state, threads=1))]
            for _ in range(10):
                assert [a.tobytes() for a in _flat(lstm(x, state, threads=2))] == expected


@pytest.mark.parametrize("seed", range(4))
def test_drawn_stacks_give_the_same_bits_when_threads_follow_each_other(seed):
    rng, before = np.random.default_rng(seed), joined()
    for number in range(15):
        lstm, x, state, steps = drawn_stack(rng)
        expected = [a.tobytes() for a in _flat(lstm(x, state, **steps, threads=1))]
        traced = trained(lstm, x, state, steps, 1)
        for threads in (2, 3, 8):
            assert [a.tobytes() for a in _flat(lstm(x, state, **steps, threads=threads))] == expected, number
            assert trained(lstm, x, state, steps, threads) == traced, number
    assert joined() - before >= 10


def drawn_stack(rng):
    """Return a stack of few layers and rows, with any of the options, its input, state and steps."""
    T, B, H = (int(rng.integers(1, most)) for most in (140, 6, 70))
    options = {
        "num_layers": int(rng.integers(1, 6)),
        "dtype": rng.choice(["float32", "float64"]),
        "batch_first": rng.random() < 0.3,
        "bidirectional": rng.random() < 0.2,
        "peepholes": rng.random() < 0.2,
        "proj_size": (H + 1) // 2 if rng.random() < 0.2 and H > 1 else 0,
        "zoneout": (0.2, 0.1) if rng.random() < 0.2 else (0.0, 0.0),
        "recurrent_dropout": 0.2 if rng.random() < 0.2 else 0.0,
    }
    options["dropout"] = 0.3 if options["num_layers"] > 1 and rng.random() < 0.3 else 0.0
    options["reverse"] = not options["bidirectional"] and rng.random() < 0.3
    steps, plane = {}, (B, T) if options["batch_first"] else (T, B)
    if rng.random() < 0.4:
        steps["lengths"] = rng.integers(0, T + 1, B)
    elif rng.random() < 0.3:
        steps["mask"] = rng.random(plane) < 0.8
    if not options["reverse"] and not options["bidirectional"] and rng.random() < 0.3:
        steps["reset"] = rng.random(plane) < 0.1
    lstm = LSTM(int(rng.choice([1, 3, 20, 64])), H, seed=0, **options)
    return lstm, *random_case(lstm, T, B), steps


# each large enough that a sleeping worker is woken
TRAINED = {
    "a single row": (LSTM(40, 161, seed=0), 700, 1, {}),
    "a single row, layers": (LSTM(40, 97, 3, dropout=0.3, seed=0), 300, 1, {}),
    "rows": (LSTM(40, 97, 2, dropout=0.3, seed=0), 130, 9, {}),
    "sums in many parts": (LSTM(40, 65, seed=0), 700, 6, {}),
    "ragged rows": (LSTM(40, 161, batch_first=True, seed=0), 190, 7, {"lengths": [190, 3, 0, 161, 117, 190, 1]}),
    "two directions": (LSTM(40, 97, 2, bidirectional=True, seed=0), 230, 5, {}),
    "options": (LSTM(40, 128, proj_size=80, peepholes=True, layer_norm=True, seed=0), 190, 6, {}),
    "holes": (LSTM(40, 128, seed=0), 190, 6, {"mask": np.random.default_rng(0).random((190, 6)) < 0.7}),
    "resets": (LSTM(40, 128, seed=0), 190, 6, {"reset": np.random.default_rng(0).random((190, 6)) < 0.1}),
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_gives_the_same_bits_when_workers_join(name):
    lstm, T, B, steps = TRAINED[name]
    x, state = random_case(lstm, T, B)
    expected = trained(lstm, x, state, steps, 1)
    before, end = joined(), time.monotonic() + PATIENCE
    for count in itertools.count():
        assert trained(lstm, x, state, steps, 2 + count % 2) == expected
        if joined() - before >= 20 and count >= 6:
            break
        assert time.monotonic() < end, f"no worker joined: {pool.statistics()}"


def trained(lstm, x, state, steps, threads):
    """Return the bits of all results of a forward and a backward pass."""
    y, final, tape = lstm.forward(x, state, **steps, threads=threads, rng=3)
    gradients = lstm.backward(tape, np.cos(y), [np.sin(part) for part in final])
    return bits(y, *final, *every_gradient(gradients).values())


def test_the_process_wide_setting_is_used():
    done = run_python(
        """
        import numpy as np
        from lstm_cy import LSTM, config
        from lstm_cy._kernels.runtime import threads as pool
        config.processors = lambda: 4
        lstm, x = LSTM(64, 256, seed=0), np.zeros((300, 8, 64), np.float32)
        lstm(x)
        print(pool.statistics()[0])
        """,
        LSTM_CY_NUM_THREADS="3",
        LSTM_CY_ENGINE="packed",
    )
    assert done.stdout == "2\n", done.stderr


@pytest.mark.parametrize("threads", (64, 10**6, 2**31 - 1))
def test_no_more_threads_than_processors(threads):
    done = run_python(
        f"""
        import os
        import numpy as np
        from lstm_cy import LSTM, StreamPool, config
        from lstm_cy._kernels.runtime import threads as pool
        lstm, x = LSTM(64, 256, seed=0), np.ones((300, 200, 64), np.float32)
        y, _, tape = lstm.forward(x, threads={threads})
        lstm.backward(tape, y)
        streams = StreamPool(lstm)
        streams.step([streams.join() for _ in range(3000)], np.ones((3000, 64), np.float32), threads={threads})
        workers = pool.statistics()[0]
        print(workers == config.processors() - 1 == min(os.cpu_count(), len(os.sched_getaffinity(0))) - 1)
        """,
        LSTM_CY_ENGINE="packed",
    )
    assert done.stdout == "True\n", done.stderr


def test_no_more_threads_than_the_work_has_parts(eight_processors):
    """Two rows are not split, and a single row has at most a second thread."""
    done = run_python(
        """
        import numpy as np
        from lstm_cy import LSTM, config
        from lstm_cy._kernels.runtime import threads as pool
        config.processors = lambda: 8
        lstm = LSTM(64, 256, seed=0)
        workers = []
        for rows in (1, 4):
            lstm(np.ones((3000, rows, 64), np.float32), threads=8)
            workers.append(pool.statistics()[0])
        print(workers)
        """,
        LSTM_CY_ENGINE="packed",
    )
    assert done.stdout == "[1, 1]\n", done.stderr


def test_one_thread_starts_no_worker():
    done = run_python(
        """
        import numpy as np
        from lstm_cy import LSTM
        from lstm_cy._kernels.runtime import threads as pool
        LSTM(64, 256, seed=0)(np.zeros((300, 8, 64), np.float32))
        print(pool.statistics())
        """
    )
    assert done.stdout == "(0, 0)\n", done.stderr


def test_many_callers_at_once():
    lstm = LSTM(32, 128, 2, seed=0)
    cases = [random_case(lstm, 40 + seed, 1 + 3 * (seed % 3), seed) for seed in range(12)]
    expected = [lstm(x, state, threads=1)[0] for x, state in cases]
    with concurrent.futures.ThreadPoolExecutor(6) as executor:
        for _ in range(10):
            results = executor.map(lambda case: lstm(*case, threads=2)[0], cases)
            assert all(np.array_equal(got, y) for got, y in zip(results, expected, strict=True))


@pytest.mark.parametrize("spin", ("0", "1000"))
def test_a_forked_child_has_a_pool_of_its_own(spin):
    done = run_python(
        """
        import os, sys, warnings
        import numpy as np
        from lstm_cy import LSTM, config
        from lstm_cy._kernels.runtime import threads as pool
        config.processors = lambda: 2
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn about fork with threads
        lstm = LSTM(64, 128, seed=0)
        x = np.random.default_rng(0).standard_normal((300, 8, 64))
        expected = lstm(x, threads=1)[0]
        for _ in range(50):
            assert np.array_equal(lstm(x, threads=2)[0], expected)
        child = os.fork()
        before = pool.statistics()
        for _ in range(50):
            assert np.array_equal(lstm(x, threads=2)[0], expected)
        if child == 0:
            os._exit(0 if pool.statistics()[0] == 1 else 3)
        print(os.waitpid(child, 0)[1])
        """,
        LSTM_CY_SPIN_US=spin,
        LSTM_CY_ENGINE="packed",
    )
    assert done.stdout == "0\n", done.stderr


@pytest.mark.parametrize("value", ("-1", "soon", "1000001", "9" * 5000, "\u0663\u0663", "1e3", ""))
def test_wrong_spin_times_are_refused(value):
    done = run_python("from lstm_cy import LSTM; LSTM(2, 2)", LSTM_CY_SPIN_US=value)
    assert done.returncode == 1
    assert "LSTM_CY_SPIN_US: expected microseconds from 0 to 1000000" in done.stderr


def test_workers_receive_no_signals_and_do_not_delay_the_exit():
    done = run_python(
        """
        import os, signal
        import numpy as np
        from lstm_cy import LSTM
        lstm, x = LSTM(64, 128, seed=0), np.zeros((300, 8, 64), np.float32)
        seen = []
        signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
        for _ in range(30):
            lstm(x, threads=2)
            os.kill(os.getpid(), signal.SIGUSR1)
        print(len(seen))
        """
    )
    assert (done.stdout, done.returncode) == ("30\n", 0), done.stderr
