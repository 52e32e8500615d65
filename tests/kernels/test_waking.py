"""Workers that sleep between calls: for what they are woken, where, and that they cost nothing meanwhile.

Each test is a process of its own: other tests start more workers than there are processors.
"""

import subprocess
import sys
import textwrap

import pytest
from common import PATIENCE

from lstm_cy import config

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
    pytest.mark.skipif(config.processors() < 2, reason="needs two processors"),
]
COMMON = """
import os, sys, time
import numpy as np
from lstm_cy import LSTM
from lstm_cy._kernels.runtime import threads as pool

def processor_times():
    times = [int(field) for field in open("/proc/stat").readline().split()[1:]]
    return np.array([times[3] + times[4], sum(times)])

def call_until_workers_have_joined(T, B, H):
    # each time after they have fallen asleep; they need not join where other processes use the processors
    lstm, x = LSTM(H, H, seed=0), np.zeros((T, B, H), np.float32)
    lstm(x, threads=2)  # measures what waking costs, with workers that join
    before, times, end = pool.statistics()[1], processor_times(), time.monotonic() + 30
    while pool.statistics()[1] - before < 3:
        time.sleep(0.005)
        lstm(x, threads=2)
        if time.monotonic() > end:
            idle, every = processor_times() - times
            sys.exit(BUSY if idle < every / 4 else "no sleeping worker has joined")
"""
BUSY = 77  # the exit status where no worker need join


def assert_runs(code):
    code = f"BUSY = {BUSY}\n{COMMON}{textwrap.dedent(code)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode == BUSY:
        pytest.skip("other processes use the processors")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("sizes", ((100, 1, 256), (50, 8, 128)), ids=("a single row", "rows"))
def test_sleeping_workers_are_woken_for_calls_of_a_millisecond(sizes):
    assert_runs(
        f"""
        call_until_workers_have_joined{sizes}
        assert pool.waking() > 0
        """
    )


@pytest.mark.parametrize("pause", (0.001, 0.01))
def test_a_worker_is_awake_when_calls_too_small_to_wake_it_come_at_equal_intervals(pause):
    assert_runs(
        f"""
        lstm, x = LSTM(24, 32, bidirectional=True, seed=0), np.zeros((63, 1, 24), np.float32)
        times, end = processor_times(), time.monotonic() + 30
        while pool.statistics()[1] < 30:  # more than measuring what waking costs
            time.sleep({pause})
            lstm(x, threads=2)
            if time.monotonic() > end:
                idle, every = processor_times() - times
                sys.exit(BUSY if idle < every / 4 else f"joined {{pool.statistics()[1]}} times")
        """
    )


def test_woken_workers_are_kept_off_the_callers_processor():
    assert_runs(
        """
        pool.share_always(True)  # also if other processes delay the workers
        lstm, x = LSTM(256, 256, seed=0), np.zeros((100, 1, 256), np.float32)
        for _ in range(20):
            time.sleep(0.005)
            lstm(x, threads=2)
        main = os.sched_getaffinity(0)
        others = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task") if int(task) != os.getpid()]
        assert all(len(main) - len(mask) in (0, 1) and mask <= main for mask in others), others
        assert any(len(main) - len(mask) == 1 for mask in others), others  # a thread of BLAS may go anywhere
        """
    )


def test_idle_workers_use_no_processor_time():
    assert_runs(
        """
        call_until_workers_have_joined(50, 4, 256)  # at equal intervals: a worker expects one more call
        time.sleep(0.2)  # much longer than they spin
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.1
        """
    )
