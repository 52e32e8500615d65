"""Measure a training step with one and with several MPI processes, and predict it for more.

    OPENBLAS_NUM_THREADS=1 mpirun -n 2 python benchmarks/scaling.py [--quick] [--shape BxTxIxH]...

All measurements run `fit` on a model of one LSTM and a Linear, in float32 with Adam: the whole batch on one rank while
the others sleep, and a share on each rank, in turns; the Allreduce alone, for buffers of several sizes; and steps with
fewer rows on one rank. The prediction for a step of n ranks is

    t(n) = step of one rank with 1/n of the rows + 2 ceil(log2 n) latency + 2 (n - 1)/n bytes / bandwidth

with the time of an Allreduce by recursive halving (R. Thakur, R. Rabenseifner and W. Gropp, Optimization of collective
communication operations in MPICH, 2005, section 4.2, without its additions). It assumes that nothing is sent while
gradients are computed, that every rank has its own core and memory bandwidth, and that no rank is late.
"""

import argparse
import math
import time
from typing import NamedTuple

import numpy as np

from lstm_cy import LSTM, Adam, Linear, Sequential, fit, mse
from lstm_cy.distributed import DataParallel

#: rows, steps, inputs, hidden units
SHAPES = ((32, 50, 32, 64), (128, 50, 32, 64), (128, 50, 64, 256), (128, 25, 128, 512))
QUICK = ((8, 5, 3, 4),)
ELEMENTS = (1, 1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 22)
RANKS = (2, 4, 8, 16, 32)


def world():
    """Return all ranks. Importing mpi4py starts MPI, so it waits for main: asv imports every file of this folder."""
    from mpi4py import MPI

    return MPI.COMM_WORLD


def alone():
    """Return a communicator of this rank only."""
    from mpi4py import MPI

    return MPI.COMM_SELF


class Network(NamedTuple):
    name: str
    latency: float  # seconds
    bandwidth: float  # bytes a second


#: typical values between two machines, with MPI
NETWORKS = (Network("10 Gbit/s Ethernet", 30e-6, 1.1e9), Network("100 Gbit/s InfiniBand", 2e-6, 11e9))


def seconds_of_a_step(shape, rows, comm, steps):
    """Return the shortest of `steps` steps of `fit`, without the first one.

    For a single rank it is processor time, which other load of the core does not change.
    """
    clock = time.thread_time if comm.size == 1 else time.perf_counter
    _, T, I, H = shape
    rng = np.random.default_rng(0)
    batch = rng.standard_normal((T, rows, I)).astype("float32"), rng.standard_normal((T, rows, 1)).astype("float32")
    model = Sequential(LSTM(I, H, seed=0), Linear(H, 1, seed=1))
    begun = []

    def batches(epoch):
        for _ in range(steps + 2):
            begun.append(clock())
            yield batch

    options = {"optimizer": Adam(model), "clip_norm": 1.0, "epochs": 1, "progress": False}
    fit(model, batches, loss=mse, parallel=DataParallel(comm), **options)
    return float(np.diff(begun)[1:].min())


def in_turns(rounds, *measures):
    """Return the least of each measure, because other load only adds time; they take turns, with all ranks in step."""
    found = [[] for _ in measures]
    for _ in range(rounds):
        for seconds, measure in zip(found, measures, strict=True):
            world().Barrier()
            seconds.append(measure())
    return [min(seconds) for seconds in found]


def on_rank_0(measure):
    """Return a function that measures on rank 0 while the others sleep: a barrier would keep their cores busy."""

    def turn():
        value = measure() if world().rank == 0 else math.nan
        done = world().Ibarrier()
        while not done.Test():
            time.sleep(1e-3)
        return value

    return turn


def allreduce_seconds(elements, rounds):
    comm, values, sums = world(), np.zeros(elements, np.float32), np.empty(elements, np.float32)
    repeat = max(1, min(100, (1 << 18) // elements))

    def measure():
        comm.Allreduce(values, sums)
        begin = time.perf_counter()
        for _ in range(repeat):
            comm.Allreduce(values, sums)
        return (time.perf_counter() - begin) / repeat

    return in_turns(rounds, measure)[0]


class Measured(NamedTuple):
    """Seconds per step of one model."""

    name: str
    bytes: int  # of the gradients
    one: float
    all: float
    allreduce: float
    fewer: dict[int, float]  # {n: one rank with 1/n of the rows}


def measured(shape, rounds, seconds):
    """Measure a model; each measurement takes about `seconds`."""
    rows, _, I, H = shape
    size = 4 * (4 * H * (I + H + 2) + H + 1)
    steps = world().bcast(max(1, round(seconds / seconds_of_a_step(shape, rows, alone(), 1))))

    def on_one(rows):
        return on_rank_0(lambda: seconds_of_a_step(shape, rows, alone(), steps))

    def on_all():
        return seconds_of_a_step(shape, rows, world(), steps)

    one, all_, allreduce = in_turns(rounds, on_one(rows), on_all, lambda: allreduce_seconds(size // 4 + 3, 1))
    ranks = [n for n in RANKS if n <= rows]
    times = in_turns(max(2, rounds // 2), *(on_one(rows // n) for n in ranks))
    return Measured("x".join(map(str, shape)), size, one, all_, allreduce, dict(zip(ranks, times, strict=True)))


def predicted(model, ranks, network):
    """Return t(n) of the module's docstring."""
    latency = 2 * math.ceil(math.log2(ranks)) * network.latency
    return model.fewer[ranks] + latency + 2 * (ranks - 1) / ranks * model.bytes / network.bandwidth


def table(header, rows):
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def milliseconds(seconds):
    return f"{1e3 * seconds:.3g}"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small model, to test the script")
    parser.add_argument("--shape", action="append", help="BxTxIxH: rows, steps, inputs, hidden units")
    options = parser.parse_args(arguments)
    elements, shapes, rounds, seconds = (ELEMENTS[:2], QUICK, 2, 0.01) if options.quick else (ELEMENTS, SHAPES, 3, 0.1)
    if options.shape:
        shapes = [tuple(map(int, shape.split("x"))) for shape in options.shape]

    reduced = {n: allreduce_seconds(n, rounds) for n in elements}
    models = [measured(shape, rounds, seconds) for shape in shapes]
    if world().rank == 0:
        report(reduced, models)


def report(reduced, models):
    """Print all results as Markdown."""
    size = world().size
    print(f"Measured: Allreduce of float32 over {size} ranks of this machine.\n")
    print(table(["elements", "ms", "GB/s"], [[n, milliseconds(t), f"{4e-9 * n / t:.2f}"] for n, t in reduced.items()]))

    print("Measured, milliseconds per step:\n")
    header = ["BxTxIxH", "MB of gradients", "1 rank", f"1 rank, 1/{size} of the rows", "Allreduce", f"{size} ranks"]
    rows = [
        [
            model.name,
            f"{1e-6 * model.bytes:.2g}",
            *map(milliseconds, (model.one, model.fewer.get(size, math.nan), model.allreduce, model.all)),
            f"{model.one / model.all:.2f}",
        ]
        for model in models
    ]
    print(table([*header, "speed-up"], rows))

    for network in NETWORKS:
        print(f"**Predicted**, not measured: speed-up over one rank, one rank per machine, {network.name}", end=" ")
        print(f"({1e6 * network.latency:.0f} us, {1e-9 * network.bandwidth:.1f} GB/s).\n")
        rows = [
            [
                model.name,
                *(f"{model.one / predicted(model, n, network):.1f}" if n in model.fewer else "" for n in RANKS),
            ]
            for model in models
        ]
        print(table(["BxTxIxH", *(f"{n} ranks" for n in RANKS)], rows))


if __name__ == "__main__":
    main()
