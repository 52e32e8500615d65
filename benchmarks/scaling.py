"""What a training step takes on one and on several MPI processes, and what that foretells for more.

    OPENBLAS_NUM_THREADS=1 mpirun -n 2 python benchmarks/scaling.py [--quick] [--shape BxTxIxH]...

All of it is `fit` on a model of one LSTM and a Linear, in float32 with Adam: the whole batch on one rank while the
others sleep, and a share on each, in turns; the Allreduce alone, for buffers of several sizes; and steps with fewer and
fewer rows on one rank. With those a step of n ranks is foretold as

    t(n) = step of one rank with 1/n of the rows + 2 ceil(log2 n) latency + 2 (n - 1)/n bytes / bandwidth

which is what an Allreduce by halves takes (R. Thakur, R. Rabenseifner and W. Gropp, Optimization of collective
communication operations in MPICH, 2005, section 4.2, its additions left out), where nothing is sent while gradients are
still computed, every rank has a core and its share of memory to itself, and none is late.
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
    """All ranks. MPI begins when mpi4py is imported: not before main, for asv imports every file of this folder."""
    from mpi4py import MPI

    return MPI.COMM_WORLD


def alone():
    """This rank by itself."""
    from mpi4py import MPI

    return MPI.COMM_SELF


class Network(NamedTuple):
    name: str
    latency: float  # seconds
    bandwidth: float  # bytes a second


#: what such networks are said to reach between two machines, with MPI
NETWORKS = (Network("10 Gbit/s Ethernet", 30e-6, 1.1e9), Network("100 Gbit/s InfiniBand", 2e-6, 11e9))


def seconds_of_a_step(shape, rows, comm, steps):
    """The shortest of so many steps of `fit`, the first one left out.

    Of one rank alone the processor's time, which is all it takes where nobody else wants the core.
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
    """The least of each measure, for what else the machine does only adds; they take turns, all ranks in step."""
    found = [[] for _ in measures]
    for _ in range(rounds):
        for seconds, measure in zip(found, measures, strict=True):
            world().Barrier()
            seconds.append(measure())
    return [min(seconds) for seconds in found]


def asleep_but_one(measure):
    """`measure` on rank 0, while the others sleep: a barrier would keep their cores busy."""

    def turn():
        value = measure() if world().rank == 0 else math.nan
        done = world().Ibarrier()
        while not done.Test():
            time.sleep(1e-3)
        return value

    return turn


def allreduce_seconds(elements, rounds):
    comm, told, sums = world(), np.zeros(elements, np.float32), np.empty(elements, np.float32)
    repeat = max(1, min(100, (1 << 18) // elements))

    def measure():
        comm.Allreduce(told, sums)
        begin = time.perf_counter()
        for _ in range(repeat):
            comm.Allreduce(told, sums)
        return (time.perf_counter() - begin) / repeat

    return in_turns(rounds, measure)[0]


class Measured(NamedTuple):
    """Seconds a step of one model."""

    name: str
    bytes: int  # of the gradients
    one: float
    all: float
    allreduce: float
    fewer: dict[int, float]  # one rank with so many times fewer rows


def measured(shape, rounds, seconds):
    """Measure a model; a measurement takes about so many seconds."""
    rows, _, I, H = shape
    size = 4 * (4 * H * (I + H + 2) + H + 1)
    steps = world().bcast(max(1, round(seconds / seconds_of_a_step(shape, rows, alone(), 1))))

    def on_one(rows):
        return asleep_but_one(lambda: seconds_of_a_step(shape, rows, alone(), steps))

    def on_all():
        return seconds_of_a_step(shape, rows, world(), steps)

    one, all_, allreduce = in_turns(rounds, on_one(rows), on_all, lambda: allreduce_seconds(size // 4 + 3, 1))
    ranks = [n for n in RANKS if n <= rows]
    times = in_turns(max(2, rounds // 2), *(on_one(rows // n) for n in ranks))
    return Measured("x".join(map(str, shape)), size, one, all_, allreduce, dict(zip(ranks, times, strict=True)))


def foretold(model, ranks, network):
    """t(n) of the module's docstring."""
    latency = 2 * math.ceil(math.log2(ranks)) * network.latency
    return model.fewer[ranks] + latency + 2 * (ranks - 1) / ranks * model.bytes / network.bandwidth


def table(header, rows):
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def milliseconds(seconds):
    return f"{1e3 * seconds:.3g}"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small model, to see that it runs")
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
    """Print all as Markdown."""
    size = world().size
    print(f"Measured: Allreduce of float32 over {size} ranks of this machine.\n")
    print(table(["elements", "ms", "GB/s"], [[n, milliseconds(t), f"{4e-9 * n / t:.2f}"] for n, t in reduced.items()]))

    print("Measured, milliseconds a step:\n")
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
        print(f"**Foretold**, not measured: speed-up over one rank, one rank a machine, {network.name}", end=" ")
        print(f"({1e6 * network.latency:.0f} us, {1e-9 * network.bandwidth:.1f} GB/s).\n")
        rows = [
            [model.name, *(f"{model.one / foretold(model, n, network):.1f}" if n in model.fewer else "" for n in RANKS)]
            for model in models
        ]
        print(table(["BxTxIxH", *(f"{n} ranks" for n in RANKS)], rows))


if __name__ == "__main__":
    main()
