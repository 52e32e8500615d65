"""Many callers at once, in threads and processes, get the same results as each alone."""

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from common import TOLERANCE, bits, random_case

from lstm_cy import LSTM, Embedding, Linear, Sequential, StreamPool, config

LAYER = {"input_size": 16, "hidden_size": 48, "num_layers": 2, "seed": 0}
CALLERS = 12


def cases_of(lstm):
    """Return (x, state) for each caller, all of different sizes."""
    return [random_case(lstm, 20 + 3 * seed, 1 + seed % 4, seed) for seed in range(CALLERS)]


def called(lstm, case):
    y, (h_n, c_n) = lstm(*case, threads=1 + case[0].shape[1] % 2)
    return bits(y, h_n, c_n)


def stepped(lstm, case):
    """Return the same by steps, with a Stepper; a StreamPool must give the same bits."""
    x, state = case
    stepper, pool = lstm.stepper(x.shape[1]), StreamPool(lstm)
    stepper.state = state
    ids = [pool.join([part[:, row] for part in state]) for row in range(x.shape[1])]
    y = [stepper.step(x_t) for x_t in x]
    assert bits(y) == bits([pool.step(ids, x_t) for x_t in x])
    return bits(y, *stepper.state)


@pytest.fixture(scope="module")
def layer():
    """Return a packed layer, its cases, and the result of each caller alone, with the same bits for calls and steps."""
    with config.using(isa=config.instruction_set(), engine="packed"):
        lstm = LSTM(**LAYER)
    cases = cases_of(lstm)
    return lstm, cases, [called(lstm, case) for case in cases]


@pytest.mark.parametrize("how", (called, stepped))
def test_threads_of_an_executor_get_their_results(layer, how):
    lstm, cases, expected = layer
    with concurrent.futures.ThreadPoolExecutor(CALLERS) as executor:
        for _ in range(5):
            assert list(executor.map(how, [lstm] * CALLERS, cases)) == expected


@pytest.mark.parametrize("how", (called, stepped))
def test_threads_of_asyncio_get_their_results(layer, how):
    lstm, cases, expected = layer

    async def all_at_once():
        return await asyncio.gather(*(asyncio.to_thread(how, lstm, case) for case in cases))

    assert asyncio.run(all_at_once()) == expected


def test_a_call_finishes_with_the_weights_that_it_began_with():
    learner = LSTM(**LAYER)
    versions = [LSTM(**LAYER | {"seed": seed}).state_dict() for seed in (0, 5)]
    x, state = random_case(learner, 40, 3)
    allowed = []
    for version in versions:
        learner.load_state_dict(version)
        allowed.append(bits(learner(x, state)[0]))
    stop, wrong, seen = threading.Event(), [], set()

    def call():
        while not stop.is_set() or not seen:
            got = bits(learner(x, state)[0])
            if got in allowed:
                seen.add(allowed.index(got))
            else:
                wrong.append(got)
                return

    threads = [threading.Thread(target=call) for _ in range(16)]
    for thread in threads:
        thread.start()
    for count in range(200):
        learner.load_state_dict(versions[count % 2])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
    )


A_HUNDRED = """
    import threading
    import numpy as np
    from lstm_cy import LSTM, StreamPool

    CALLERS = 100
    lstm = LSTM(24, 40, 2, seed=0)
    x = np.random.default_rng(0).standard_normal((CALLERS, 30, 12, 24)).astype("float32")
    expected = [lstm(part)[0] for part in x]
    ready, wrong = threading.Barrier(CALLERS), []

    def call(number):
        stepper, pool = lstm.stepper(12), StreamPool(lstm)
        ids = [pool.join() for _ in range(12)]
        ready.wait()
        for _ in range(3):
            y, state, tape = lstm.forward(x[number])
            gradients = lstm.backward(tape, y)
            stepper.reset()
            pool.reset()
            results = [y, [stepper.step(part) for part in x[number]], [pool.step(ids, part) for part in x[number]]]
            if not all(np.abs(some - expected[number]).max() < 2e-6 for some in results):
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(wrong)
    """


@pytest.mark.parametrize("engine", config.ENGINES)
def test_a_hundred_threads_get_their_results(engine):
    done = run_python(A_HUNDRED, LSTM_CY_ENGINE=engine)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


CROWD = """
    import threading, time
    import numpy as np
    from lstm_cy import Linear
    from lstm_cy._kernels.runtime import blas

    linear = Linear(2048, 4096, seed=0)  # one product takes longer than a thread's turn
    x = np.random.default_rng(0).standard_normal((64, 2048)).astype("float32")
    expected, end, wrong = linear(x), time.monotonic() + 60, []

    def call():
        while blas.statistics()[1] < 5 and time.monotonic() < end:
            if np.abs(linear(x) - expected).max() > 1e-5:
                wrong.append(1)

    threads = [threading.Thread(target=call) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(wrong, blas.statistics()[1] >= 5)
    """


def test_callers_wait_if_blas_has_enough_callers():
    done = run_python(CROWD, LSTM_CY_ENGINE="blas")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[] True\n", "")


ACROSS = """
    import multiprocessing
    import warnings
    import numpy as np
    from lstm_cy import LSTM, StreamPool, config
    from lstm_cy._kernels.runtime import threads as workers

    config.processors = lambda: 2
    LSTM_OF_ALL = LSTM(64, 128, seed=0)
    X = np.random.default_rng(0).standard_normal((300, 8, 64)).astype("float32")

    def call(scale):
        y = LSTM_OF_ALL(scale * X, threads=2)[0]
        pool = StreamPool(LSTM_OF_ALL)
        ids = [pool.join() for _ in range(8)]
        streamed = np.array([pool.step(ids, part, threads=2) for part in scale * X])
        assert np.array_equal(y, streamed) or np.abs(y - streamed).max() < 2e-6
        return y

    if __name__ == "__main__":
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn about fork with threads
        scales = [1.0, 0.5, 0.25, 0.125]
        for _ in range(20):  # to start workers before the fork
            expected = [call(scale) for scale in scales[:1]]
        expected += [call(scale) for scale in scales[1:]]
        assert workers.statistics()[0] == (WORKERS)
        with multiprocessing.get_context("METHOD").Pool(2) as processes:
            got = processes.map(call, scales)
        print(all(np.abs(some - other).max() < TOLERANCE for some, other in zip(got, expected)))
    """


@pytest.mark.skipif(os.name != "posix", reason="needs fork")
@pytest.mark.parametrize("engine", config.ENGINES)
@pytest.mark.parametrize("method", ("fork", "spawn"))
def test_other_processes_get_the_same_results(tmp_path, method, engine):
    script = tmp_path / "across.py"
    tolerance = "1e-30" if engine == "packed" else "2e-6"
    text = textwrap.dedent(ACROSS).replace("METHOD", method).replace("TOLERANCE", tolerance)
    script.write_text(text.replace("(WORKERS)", "1" if engine == "packed" else "0"))
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LSTM_CY_ENGINE": engine, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


FORKED_WHILE_BUSY = """
    import os, threading, warnings
    import numpy as np
    from lstm_cy import LSTM

    warnings.simplefilter("ignore", DeprecationWarning)
    lstm = LSTM(24, 40, 2, seed=0)
    x = np.random.default_rng(0).standard_normal((30, 12, 24)).astype("float32")
    expected = lstm(x)[0]
    stop = threading.Event()

    def call():
        while not stop.is_set():
            lstm(x)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(12):
        child = os.fork()
        if child == 0:
            os._exit(0 if all(np.abs(lstm(x)[0] - expected).max() < 2e-6 for _ in range(5)) else 3)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    print("done")
    """


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("engine", config.ENGINES)
def test_a_fork_during_calls(engine):
    # with two threads OpenBLAS holds a lock during a product
    done = run_python(FORKED_WHILE_BUSY, LSTM_CY_ENGINE=engine, OPENBLAS_NUM_THREADS="2")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


FORKING_TOGETHER = """
    import os, subprocess, sys, threading, time, warnings
    import numpy as np
    from lstm_cy import LSTM

    warnings.simplefilter("ignore", DeprecationWarning)
    lstm = LSTM(24, 40, 2, seed=0)
    x = np.random.default_rng(0).standard_normal((30, 12, 24)).astype("float32")
    expected, stepper = lstm(x)[0], lstm.stepper(12)
    stop, forks, within = threading.Event(), [], threading.local()

    def fork_within():
        # another thread runs between the hooks; one of them forks itself
        time.sleep(0)
        if not getattr(within, "fork", False):
            within.fork = True
            child = os.fork()
            if child == 0:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            within.fork = False

    os.register_at_fork(before=fork_within, after_in_parent=lambda: time.sleep(0))

    def call():
        while not stop.is_set():
            assert np.abs(lstm(x, threads=2)[0] - expected).max() < 2e-6
            stepper.step(x[0])  # if it has to wait, it holds the GIL

    def fork():
        for _ in range(40):
            child = os.fork()
            if child == 0:
                os._exit(0 if np.abs(lstm(x, threads=2)[0] - expected).max() < 2e-6 else 3)
            assert os.waitpid(child, 0)[1] == 0
            forks.append(child)
        subprocess.run([sys.executable, "-c", ""], check=True)  # by vfork or posix_spawn
        subprocess.run([sys.executable, "-c", ""], check=True, preexec_fn=int)  # by fork

    callers = [threading.Thread(target=call)]
    forkers = [threading.Thread(target=fork) for _ in range(3)]
    for thread in callers + forkers:
        thread.start()
    for thread in forkers:
        thread.join()
    stop.set()
    callers[0].join()
    print(len(forks))
    """


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("engine", config.ENGINES)
def test_several_threads_can_fork_at_once(engine):
    done = run_python(FORKING_TOGETHER, LSTM_CY_ENGINE=engine, OPENBLAS_NUM_THREADS="2")
    assert (done.returncode, done.stdout) == (0, "120\n"), done.stderr


FORKED_IN_A_HANDLER = """
    import os, signal, sys, warnings
    import numpy as np
    from lstm_cy import LSTM, config
    from lstm_cy._kernels.runtime import threads as pool

    config.processors = lambda: 2
    warnings.simplefilter("ignore", DeprecationWarning)
    B, T = SIZE
    lstm = LSTM(64, 128, seed=0)
    x = np.random.default_rng(0).standard_normal((T, B, 64)).astype("float32")
    short = x[:300]
    expected, of_short = lstm(x, threads=1)[0], lstm(short, threads=1)[0]
    children, turn = [], 0

    def fork(*_):
        children.append(os.fork())

    signal.signal(signal.SIGALRM, fork)
    while len(children) < 5 or not pool.statistics()[1]:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        before = len(children)
        try:
            y = lstm(x, threads=2)[0]
            assert np.array_equal(y, expected)
            outcome = 0
        except RuntimeError as error:
            assert "has forked in the middle of this call" in str(error)
            outcome = 7
        signal.setitimer(signal.ITIMER_REAL, 0)
        if 0 in children:  # a child: the call was right or an error, and the next calls have new workers
            for _ in range(20):
                assert np.array_equal(lstm(short, threads=2)[0], of_short)
            os._exit(outcome)
        assert outcome == 0
    print(sorted({os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}))
    """


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("size", ("8, 4000", "1, 30000"))
def test_a_signal_handler_can_fork_during_a_call(size):
    done = run_python(FORKED_IN_A_HANDLER.replace("SIZE", size), LSTM_CY_ENGINE="packed", LSTM_CY_SPIN_US="1000000")
    assert done.returncode == 0, done.stderr
    assert done.stdout in ("[7]\n", "[0, 7]\n"), done.stderr


def test_one_model_steps_in_many_threads():
    """Each thread has a StreamPool with one stream of tokens, with an Embedding and a Linear."""
    model = Sequential(Embedding(7, 5, seed=0), LSTM(5, 33, seed=1), Linear(33, 7, seed=2))
    tokens = np.random.default_rng(0).integers(0, 7, (CALLERS, 60))
    expected = [model(row)[0] for row in tokens]

    def streamed(row):
        pool = StreamPool(model)
        id = pool.join()
        return np.concatenate([pool.step([id], [token]) for token in row])

    with concurrent.futures.ThreadPoolExecutor(CALLERS) as executor:
        results = list(executor.map(streamed, tokens))
    assert all(np.abs(got - y).max() < TOLERANCE["float32"] for got, y in zip(results, expected, strict=True))
