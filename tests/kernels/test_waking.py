"""Workers that sleep between calls: for what they are woken, where, and that they cost nothing meanwhile."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from common import PATIENCE

from lstm_cy import LSTM, config
from lstm_cy._kernels.runtime import threads as pool

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs POSIX threads"),
    pytest.mark.skipif(config.processors() < 2, reason="needs two processors"),
]


def joined():
    return pool.statistics()[1]


def processor_times():
    """Return (idle, all) times of the processors, in any unit; zeros where the system does not say."""
    path = Path("/proc/stat")
    times = [int(field) for field in path.read_text().split("\n", 1)[0].split()[1:]] if path.exists() else [0] * 5
    return np.array([times[3] + times[4], sum(times)])


def assert_joins_after_pauses(lstm, x):
    """Call on two threads, each time after workers have fallen asleep, until some have joined, as they must.

    They need not where other processes use the processors: then the test is skipped.
    """
    lstm(x, threads=2)  # measures what waking costs, with workers that join
    before, times, end = joined(), processor_times(), time.monotonic() + 30
    while joined() - before < 3:
        time.sleep(0.005)
        lstm(x, threads=2)
        if time.monotonic() > end:
            idle, every = processor_times() - times
            if idle < every / 4:
                pytest.skip("other processes use the processors")
            raise AssertionError("no sleeping worker has joined")


@pytest.mark.parametrize(("T", "B", "H"), ((100, 1, 256), (50, 8, 128)), ids=("a single row", "rows"))
def test_sleeping_workers_are_woken_for_calls_of_a_millisecond(T, B, H):
    assert_joins_after_pauses(LSTM(H, H, seed=0), np.zeros((T, B, H), np.float32))
    assert pool.waking() > 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_woken_workers_are_kept_off_the_callers_processor():
    code = textwrap.dedent(
        """
        import os, time
        import numpy as np
        from lstm_cy import LSTM
        from lstm_cy._kernels.runtime.threads import share_always

        share_always(True)  # also if other processes delay the workers
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def test_idle_workers_use_no_processor_time():
    assert_joins_after_pauses(LSTM(256, 256, seed=0), np.zeros((50, 4, 256), np.float32))
    time.sleep(0.2)  # much longer than they spin
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1
