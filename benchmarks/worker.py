"""A process in which some peers take turns; compare.py starts it, asks, and reads the answers, all as lines of JSON.

    python benchmarks/worker.py THREADS PEER...

The environment says how many threads BLAS and OpenMP have. What may be asked:

- ["prepare", kind, shape]: make everyone ready and check the results; {peer: {"error": share} or {"refused": why}}
- ["time", seconds, pause]: let those who were not refused take turns; {peer: times in seconds}
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
STREAM_STEPS = 64  # different ones, again and again
BURST = 0.002  # seconds of a peer's turn
POINTS = 1001  # of a distribution of times


class Kind(NamedTuple):
    """A table: what is called, on which shapes, and what is the largest difference from NumPy's result."""

    title: str
    method: str
    case: type
    shapes: tuple
    quick: tuple
    tolerance: float = common.TOLERANCE
    peers: tuple = tuple(peers.PEERS)


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
        tolerance=0.1,
        peers=(OURS, *peers.NARROW),
    ),
}


def serve(names, threads):
    """Answer until there is no more to answer; libraries may print what they like."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if set(names) & set(peers.APART) and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    everyone = {name: (peers.PEERS | peers.NARROW)[name](threads) for name in names}
    runs = {}
    for line in sys.stdin:
        what, *rest = json.loads(line)
        if what == "prepare":
            runs.clear()
            answer = {name: prepared(name, peer, runs, *rest) for name, peer in everyone.items() if can(peer, rest[0])}
        else:
            answer = timed(runs, *rest)
        print(json.dumps(answer), file=answers, flush=True)
    return 0


def can(peer, kind):
    return getattr(peer, KINDS[kind].method) is not None


@functools.lru_cache(1)
def case_of(kind, shape):
    """The case and what is expected of everyone."""
    sizes = common.Shape.of(shape)
    case = KINDS[kind].case(sizes._replace(steps=STREAM_STEPS) if kind == "streaming" else sizes)
    expected = case.reference()
    return case, {"y": expected["y"]} if kind == "streaming" else expected


def prepared(name, peer, runs, kind, shape):
    """Add to `runs` what a peer is to run; return how far its results are off, or why it does not run."""
    case, expected = case_of(kind, shape)
    try:
        run = getattr(peer, KINDS[kind].method)(case)
        error = common.check(peer.title, run.results(), expected, KINDS[kind].tolerance)
    except Exception as reason:  # whatever a library raises: the others go on
        return {"refused": f"{type(reason).__name__}: {reason}"}
    runs[name] = run
    return {"error": error}


def timed(runs, seconds, pause):
    """{name: times in seconds, or as many points of their distribution}."""
    calls = [(run.call, run.arguments) for run in runs.values()]
    times = common.turns(calls, seconds, least=2, burst=0 if pause else BURST, pause=pause)
    return {name: thinned(taken) for name, taken in zip(runs, times, strict=True)}


def thinned(times):
    return times if len(times) <= POINTS else np.quantile(times, np.linspace(0, 1, POINTS)).tolist()


if __name__ == "__main__":
    sys.exit(serve(sys.argv[2:], int(sys.argv[1])))
