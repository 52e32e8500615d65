"""Compare streams of a StreamPool with one batch and with single Steppers, and several threads with one thread.

    python -m benchmarks.streams                # the tables of docs/performance.md
    python -m benchmarks.streams --only pool    # or threads

Streams that do not get the same bits in all three ways are an error, and nothing is timed.
"""

import argparse
import itertools
import math
import os
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # for the whole process, and before NumPy is loaded
    os.environ.update(OPENBLAS_NUM_THREADS="1", LSTM_CY_NUM_THREADS="1")

import numpy as np

from lstm_cy import LSTM, StreamPool

from .common import REPEAT

HIDDEN = (64, 128, 512)
STREAMS = (10, 100, 1000)
#: sizes of the layers that several threads step: the GIL is held for small ones and released for large ones
STEPPED = (32, 64, 128, 256, 384, 512)
THREADS = (2, 8, 64)
#: seconds of a turn of threads, and of a turn of calls: 64 threads need a third of a second until each has acquired the
#: GIL once more and ended
TURN = 1.0
BURST = 0.001


class Streams:
    """Streams of one layer, stepped in three ways: in a pool, in one Stepper, in a Stepper each."""

    def __init__(self, hidden, streams):
        rng = np.random.default_rng(0)
        lstm = LSTM(hidden, hidden, seed=0)
        self.pool, self.batch = StreamPool(lstm), lstm.stepper(streams)
        self.steppers = [lstm.stepper() for _ in range(streams)]
        # in random order: streams with input need not be in the order of joining
        self.ids = rng.permutation([self.pool.join() for _ in range(streams)])
        self.listed = self.ids.tolist()
        self.x = rng.standard_normal((streams, hidden)).astype(np.float32)
        self.out = np.empty_like(self.x)
        for step in 2 * (self.in_pool, self.in_batch, self.one_by_one):
            step()
        h, c = self.batch.state
        for row, (id, stepper) in enumerate(zip(self.ids, self.steppers, strict=True)):
            for state in (self.pool.state(id), [part[:, 0] for part in stepper.state]):
                if not all(map(np.array_equal, state, (h[:, row], c[:, row]))):
                    raise ArithmeticError(f"stream {id}: the pool, the batch and a Stepper differ")

    def in_pool(self):
        self.pool.step(self.ids, self.x, self.out)

    def by_list(self):
        self.pool.step(self.listed, self.x)

    def in_batch(self):
        self.batch.step(self.x, self.out)

    def one_by_one(self):
        for stepper, x, out in zip(self.steppers, self.x, self.out, strict=True):
            stepper.step(x, out)

    def over_pool(self, calls, seconds):
        """Return seconds of a step of the pool, and the time of each of the calls / that step: medians of rounds.

        They take turns for about `seconds` in all. It is processor time of the one thread: other load does not count,
        though it evicts data from the caches.
        """
        calls, times = (self.in_pool, *calls), []
        end = time.perf_counter() + seconds
        while len(times) < 5 or time.perf_counter() < end:
            times.append([processor_time(call) for call in calls])
        ours = statistics.median(taken[0] for taken in times)
        return ours, *(statistics.median(taken[i] / taken[0] for taken in times) for i in range(1, len(calls)))


def processor_time(call):
    """Return the seconds of one call: the mean of about a millisecond of calls, after one that fills the caches."""
    begin = time.thread_time()
    call()
    repeat = max(1, int(BURST / max(time.thread_time() - begin, 1e-9)))
    begin = time.thread_time()
    for _ in range(repeat):
        call()
    return (time.thread_time() - begin) / repeat


class Pool:
    params = (HIDDEN, STREAMS)
    param_names = ("hidden", "streams")
    repeat = REPEAT

    def setup(self, hidden, streams):
        self.case = Streams(hidden, streams)

    def time_step(self, hidden, streams):
        self.case.in_pool()

    def track_share_of_batch(self, hidden, streams):
        return round(self.case.over_pool([self.case.in_batch], 0.5)[1], 2)

    track_share_of_batch.unit = "of the batch's throughput"

    def track_speedup_over_one_by_one(self, hidden, streams):
        return round(self.case.over_pool([self.case.one_by_one], 0.5)[1], 2)

    track_speedup_over_one_by_one.unit = "x"


class Callers:
    """Threads that share one layer."""

    params = (THREADS,)
    param_names = ("threads",)

    def track_calls_over_one_thread(self, threads):
        return gain(calls_of_a_sequence(), threads, 1)

    track_calls_over_one_thread.unit = "x"

    def track_steps_over_one_thread(self, threads):
        return gain(steps_of(128), threads, 1)

    track_steps_over_one_thread.unit = "x"


def calls_of_a_sequence():
    """Return a factory of the call that a thread repeats: 1x100x128x128, whole."""
    lstm = LSTM(128, 128, seed=0)
    x = np.random.default_rng(0).standard_normal((100, 1, 128)).astype(np.float32)
    return lambda: lambda: lstm(x, threads=1)


def steps_of(hidden):
    """Return a factory of a step of a Stepper."""
    lstm = LSTM(hidden, hidden, seed=0)
    x = np.random.default_rng(0).standard_normal(hidden).astype(np.float32)

    def make():
        step, out = lstm.stepper().step, np.empty(hidden, np.float32)
        return lambda: step(x, out)

    return make


class Work(NamedTuple):
    """Calls per second of all threads, processor time of a call, and the share of time spent waiting for each other."""

    rate: float
    processor: float
    waiting: float


def gain(make, threads, seconds):
    """Return calls per second of several threads / those of one: of the best turn of each, as other load slows both."""
    work(make, threads, TURN)
    best = {1: 0.0, threads: 0.0}
    for _ in range(max(round(seconds / (2 * TURN)), 3)):
        best = {number: max(most, work(make, number, TURN).rate) for number, most in best.items()}
    return round(best[threads] / best[1], 2)


def work(make, threads, seconds):
    """Run the call in several threads for about `seconds`; return their Work."""
    ready, end, done = threading.Barrier(threads + 1), 0.0, []

    def run():
        call, clock, count = make(), time.perf_counter, 0
        call()
        ready.wait()
        ready.wait()
        begin, (ran, queued) = clock(), scheduled()
        while not count or clock() < end:
            for _ in range(10):
                call()
            count += 10
        now_ran, now_queued = scheduled()
        done.append((count, clock() - begin, now_ran - ran, now_queued - queued))

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    begin = time.perf_counter()
    end = begin + seconds
    ready.wait()
    for worker in workers:
        worker.join()
    count, taken, ran, queued = map(sum, zip(*done, strict=True))
    return Work(count / (time.perf_counter() - begin), ran / count, 1 - (ran + queued) / taken)


def scheduled():
    """Return the seconds that this thread has run and has waited for a processor, which Linux provides."""
    try:
        ran, queued, _ = Path("/proc/thread-self/schedstat").read_text().split()
    except OSError:
        return time.thread_time(), math.nan
    return int(ran) / 1e9, int(queued) / 1e9


def pool_table():
    yield "| H | streams | us a step | share of the batch's throughput | with a list of ids | over single Steppers |"
    yield "|--:|--:|--:|--:|--:|--:|"
    for hidden, streams in itertools.product(HIDDEN, STREAMS):
        case = Streams(hidden, streams)
        pool, batch, steps, listed = case.over_pool((case.in_batch, case.one_by_one, case.by_list), 3.0)
        yield f"| {hidden} | {streams} | {1e6 * pool:.4g} | {batch:.2f} | {batch / listed:.2f} | {steps:.2f} |"


def thread_table():
    yield (
        "| threads of one layer | "
        + " | ".join(f"{threads} threads" for threads in THREADS)
        + " | processor | waiting |"
    )
    yield "|---|" + "--:|" * (len(THREADS) + 2)
    kinds = {"whole sequences, 1x100x128x128": calls_of_a_sequence()}
    kinds |= {f"steps, H = {hidden}": steps_of(hidden) for hidden in STEPPED}
    for name, make in kinds.items():
        gains = " | ".join(f"{gain(make, threads, 1.5):.2f}" for threads in THREADS)
        rounds = [(work(make, 1, TURN), work(make, 2, TURN)) for _ in range(9)]
        processor = statistics.median(two.processor / one.processor for one, two in rounds)
        waiting = statistics.median(two.waiting for _, two in rounds)
        yield f"| {name} | {gains} | {processor:.2f} | {max(waiting, 0):.3f} |"


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("pool", "threads"))
    chosen = parser.parse_args(arguments)
    for name, table in (("pool", pool_table), ("threads", thread_table)):
        if chosen.only in (None, name):
            for line in table():
                print(line, flush=True)
            print()


if __name__ == "__main__":
    main(sys.argv[1:])
