"""Many threads on one layer for a while: every result right, no memory gained.

    python tests/slow/soak.py                        # 64 threads, 60 seconds
    python tests/slow/soak.py --threads 8 --seconds 5

Each thread has a stream of its own, whose steps it compares with the whole sequence, and calls the shared layer over
sequences of its own, whole. Every other thread keeps its stream in a StreamPool, with streams that come and go. Results
are compared to the bit with engine "packed", to rounding with "blas". Memory is looked at when everything has been used
for a quarter of the time, and at the end.
"""

import argparse
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from lstm_cy import LSTM, StreamPool, config

#: what the process may have gained, as allocators keep some of what they are given back
MOST_BYTES = 4 << 20


class Caller(threading.Thread):
    """A thread with sequences of its own and what comes of them."""

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
        told = np.array([stepper.step(x_t) for x_t in self.x])
        self.steps += len(told)
        h, c = stepper.state
        self.wrong += not all(map(same, (told, h[:, 0], c[:, 0]), (self.y, *self.state)))

    def stream_from(self, pool):
        id, others = pool.join(), [pool.join() for _ in range(3)]
        told = []
        for step, x_t in enumerate(self.x):
            beside = others[: step % 4]
            told.append(pool.step([*beside, id], np.tile(x_t, (len(beside) + 1, 1)))[-1])
            if step % 10 == 9:
                pool.leave(others.pop(0))
                others.append(pool.join())
        self.steps += len(told)
        h, c = pool.state(id)
        self.wrong += not all(map(same, (np.array(told), h, c), (self.y, *self.state)))
        for each in (id, *others):
            pool.leave(each)


def same(got, expected):
    if config.engine() == "packed":
        return got.tobytes() == expected.tobytes()
    return np.abs(got - expected).max() < 2e-6


def resident():
    """Bytes of memory that the process has now."""
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
        f"{wrong} wrong, {idle} threads that did nothing, {gained / 1024:.0f} KiB gained"
    )
    sys.exit(bool(wrong or idle or gained > MOST_BYTES))


if __name__ == "__main__":
    main()
