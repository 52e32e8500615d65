"""A process in which some peers take turns; compare.py starts it; requests and answers are lines of JSON.

    python benchmarks/worker.py THREADS PEER...

Environment variables set the threads of BLAS and OpenMP. Requests and their answers:

- ["precisions"]: {peer: precision}
- ["prepare", kind, shape]: prepare all peers, check their results; {peer: {"error": share} or {"refused": reason}}
- ["time", seconds, pause]: time the peers that were not refused, in turns; {peer: times in seconds}
"""

import functools
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

if not __package__:  # run as a file
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import common, peers

OURS = next(iter(peers.PEERS))
PRECISIONS = ("float32", "default", "bf16", "int8")
STREAM_STEPS = 64  # different steps, repeated
BURST = 0.002  # seconds of a peer's turn
POINTS = 1001  # of a distribution of times


class Kind(NamedTuple):
    """A table: its title, the peers' method, the shapes, the peers' precisions, and the unit of its figures."""

    title: str
    method: str
    case: type
    shapes: tuple
    quick: tuple
    precisions: tuple = ("float32", "default", "bf16")
    per_sample: bool = False  # nanoseconds for a step of a row, else microseconds for a call

    @property
    def peers(self):
        """Return the names of ours, and of the peers that have the method at one of the precisions."""
        return [
            name
            for name, peer in peers.EVERY.items()
            if name == OURS or (getattr(peer, self.method) and peer.precision in self.precisions)
        ]

    @property
    def streams(self):
        return self.method == "streaming"


KINDS = {
    "inference": Kind(
        "Forward",
        "inference",
        common.Inference,
        (*common.SHAPES, *common.REAL_SHAPES),
        ("1x100x32x32", "1x100x128x128", "32x50x64x64"),
    ),
    "streaming": Kind(
        "One step at a time, the state carried, median / 99th percentile",
        "streaming",
        common.Inference,
        (*common.STEP_SHAPES, *common.REAL_STEP_SHAPES),
        ("1x1x32x32", "1x1x128x128"),
    ),
    "training": Kind(
        "Forward and backward",
        "training",
        common.Training,
        common.TRAINING_SHAPES,
        ("1x100x128x128", "8x50x64x64"),
    ),
    "narrow": Kind(
        "Narrow weights, with the largest error as a share of the largest output",
        "inference",
        common.Inference,
        common.NARROW_SHAPES,
        ("1x100x64x128",),
        precisions=("default", "bf16", "int8"),
    ),
    "amplifier": Kind(
        "Guitar amplifiers, 48,000 samples in a call",
        "inference",
        common.Inference,
        tuple(f"1x48000x1x{size}" for size in common.AMPLIFIER_SIZES),
        ("1x48000x1x16",),
        precisions=("float32",),
        per_sample=True,
    ),
    "amplifier-step": Kind(
        "Guitar amplifiers, one sample in a call, the state carried, median / 99th percentile",
        "streaming",
        common.Inference,
        tuple(f"1x1x1x{size}" for size in common.AMPLIFIER_SIZES),
        ("1x1x1x16",),
        precisions=("float32",),
        per_sample=True,
    ),
}


def tolerance(precision):
    """Return the largest difference from NumPy's float32 result, as a share of the largest output."""
    return common.TOLERANCE if precision == "float32" else common.NARROW_TOLERANCE


def serve(names, threads):
    """Answer requests until they end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that output of libraries does not mix with the answers
    if set(names) & set(peers.APART) and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    served = {name: peers.EVERY[name](threads) for name in names}
    runs = {}
    for line in sys.stdin:
        request, *rest = json.loads(line)
        if request == "precisions":
            answer = {name: peer.precision for name, peer in served.items()}
        elif request == "prepare":
            runs.clear()
            answer = {name: prepared(name, peer, runs, *rest) for name, peer in served.items()}
        else:
            answer = timed(runs, *rest)
        print(json.dumps(answer), file=answers, flush=True)
    return 0


@functools.lru_cache(1)
def case_of(kind, shape):
    """Return the case and the results expected of all peers."""
    sizes = common.Shape.of(shape)
    streams = KINDS[kind].streams
    case = KINDS[kind].case(sizes._replace(steps=STREAM_STEPS) if streams else sizes)
    expected = case.reference()
    return case, {"y": expected["y"]} if streams else expected


def prepared(name, peer, runs, kind, shape):
    """Add a peer's Run to `runs`; return the error of its results, or the reason why it is refused."""
    case, expected = case_of(kind, shape)
    try:
        run = getattr(peer, KINDS[kind].method)(case)
        error = common.check(peer.title, run.results(), expected, tolerance(peer.precision))
    except Exception as reason:  # any error of a library: the other peers continue
        return {"refused": f"{type(reason).__name__}: {reason}"}
    runs[name] = run
    return {"error": error}


def timed(runs, seconds, pause):
    """Return {name: times in seconds, at most POINTS of their distribution}."""
    calls = [(run.call, run.arguments) for run in runs.values()]
    times = common.turns(calls, seconds, least=2, burst=0 if pause else BURST, pause=pause)
    return {name: thinned(taken) for name, taken in zip(runs, times, strict=True)}


def thinned(times):
    return times if len(times) <= POINTS else np.quantile(times, np.linspace(0, 1, POINTS)).tolist()


if __name__ == "__main__":
    sys.exit(serve(sys.argv[2:], int(sys.argv[1])))
