"""Workers that sleep between calls: for what they are woken, where, and that they cost nothing meanwhile."""

import os
import subprocess
import sys
import textwrap
import time

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


def assert_after_pauses(lstm, x, until):
    """Call on two threads, each time after workers have fallen asleep, until `until` returns True, as it must."""
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end, "it never was so"
        time.sleep(0.005)
        lstm(x, threads=2)


@pytest.mark.parametrize(("T", "B", "H"), ((100, 1, 256), (50, 8, 128)), ids=("a single row", "rows"))
def test_sleeping_workers_are_woken_for_calls_of_a_millisecond(T, B, H):
    lstm = LSTM(H, H, seed=0)
    x = np.zeros((T, B, H), np.float32)
    before = joined()
    assert_after_pauses(lstm, x, lambda: joined() - before >= 3)
    assert 0 < pool.waking() < 1e-3  # each trial was cut at 0.3 ms


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_woken_workers_are_kept_off_the_callers_processor():
    code = textwrap.dedent(
        """
        import os, time
        import numpy as np
        from lstm_cy import LSTM

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
    lstm, x = LSTM(256, 256, seed=0), np.zeros((50, 4, 256), np.float32)
    before = joined()
    assert_after_pauses(lstm, x, lambda: joined() > before)
    time.sleep(0.2)  # much longer than they spin
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1
