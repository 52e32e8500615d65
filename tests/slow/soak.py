"""Run many threads on one layer for some time, and check that every result is right and memory does not grow.

    python tests/slow/soak.py                        # 64 threads, 60 seconds
    python tests/slow/soak.py --threads 8 --seconds 5

Each thread has its own stream, whose steps it compares with the whole sequence, and also calls the shared layer with
whole sequences. Every second thread keeps its stream in a StreamPool, in which other streams join and leave. Results
are compared to the bit with engine "packed", up to rounding with "blas". Memory is measured after a quarter of the
time, and at the end.
"""

import argparse
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from lstm_cy import LSTM, StreamPool, config

#: allowed growth of the process, because allocators keep some freed memory
MOST_BYTES = 4 << 20


class Caller(threading.Thread):
    """A thread with its own sequences and their expected results."""

    def __init__(self, lstm, number, stop):
        super().__init__()
        self.lstm, self.pooled, self.stop = lstm, number % 2 == 1, stop
        rng = np.random.default_rng(number)
        self.x = rng.standard_normal((40, lstm.input_size)).astype(lstm.dtype)
        self.whole = rng.standard_normal((15, 1 + number % 5, lstm.input_size)).astype(lstm.dtype)
        self.y, (h_n, c_n) = lstm(self.x)
        self.expected = lstm(self.whole)[0]
        self.state = h_n, c_n
        self.steps = self.calls = self.wrong = 0

    def run(self):
        stepper, pool = self.lstm.stepper(), StreamPool(self.lstm)
        while not self.stop.is_set():
            self.stream_from(pool) if self.pooled else self.step_with(stepper)
            y, _ = self.lstm(self.whole)
            self.wrong += not same(y, self.expected)
            self.calls += 1

    def step_with(self, stepper):
        stepper.reset()
        y = np.array([stepper.step(x_t) for x_t in self.x])
        self.steps += len(y)
        h, c = stepper.state
        self.wrong += not all(map(same, (y, h[:, 0], c[:, 0]), (self.y, *self.state)))

    def stream_from(self, pool):
        id, others = pool.join(), [pool.join() for _ in range(3)]
        y = []
        for step, x_t in enumerate(self.x):
            stepped = [*others[: step % 4], id]
            y.append(pool.step(stepped, np.tile(x_t, (len(stepped), 1)))[-1])
            if step % 10 == 9:
                pool.leave(others.pop(0))
                others.append(pool.join())
        self.steps += len(y)
        h, c = pool.state(id)
        self.wrong += not all(map(same, (np.array(y), h, c), (self.y, *self.state)))
        for each in (id, *others):
            pool.leave(each)


def same(got, expected):
    if config.engine() == "packed":
        return got.tobytes() == expected.tobytes()
    return np.abs(got - expected).max() < 2e-6


def resident():
    """Return the bytes of resident memory of the process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    chosen = parser.parse_args()
    lstm = LSTM(32, 64, 2, seed=0)
    stop = threading.Event()
    callers = [Caller(lstm, number, stop) for number in range(chosen.threads)]
    for caller in callers:
        caller.start()
    time.sleep(chosen.seconds / 4)
    before = resident()
    time.sleep(chosen.seconds * 3 / 4)
    gained = resident() - before
    stop.set()
    for caller in callers:
        caller.join()
    steps, calls, wrong = (sum(getattr(caller, name) for caller in callers) for name in ("steps", "calls", "wrong"))
    idle = sum(caller.calls == 0 for caller in callers)
    print(
        f"{chosen.threads} threads, {chosen.seconds:g} s, engine {config.engine()}: {steps} steps, {calls} calls, "
        f"{wrong} wrong, {idle} threads without a call, {gained / 1024:.0f} KiB gained"
    )
    sys.exit(bool(wrong or idle or gained > MOST_BYTES))


if __name__ == "__main__":
    main()
