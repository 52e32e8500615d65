"""Compare builds of this library by several compilers, which take turns, one process for each:

    python benchmarks/compilers.py gcc-12=FOLDER clang-19=OTHER_FOLDER

Each folder has a source tree with compiled modules. tests/slow/compilers.sh makes them and runs this. The results of
all builds must be the same bits before they are timed.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

SECONDS = 0.25  # for each figure in a turn
FORWARD = ((1, 100, 32, 32), (1, 100, 64, 64), (1, 100, 128, 128), (8, 50, 128, 128), (32, 50, 256, 256))
TRAIN = ((1, 100, 64, 64), (16, 100, 128, 128), (32, 50, 256, 256))


def calls():
    """Yield (name, number of calls in one, call) of every figure."""
    from lstm_cy import LSTM

    for B, T, I, H in FORWARD:
        yield f"{B}x{T}x{I}x{H}", 1, call_of(LSTM(I, H, seed=0), B, T)
    for H in (32, 128):
        yield f"step {H}", 100, steps_of(LSTM(H, H, seed=0).stepper(), H)
    for B, T, I, H in TRAIN:
        yield f"train {B}x{T}x{I}x{H}", 1, training_of(LSTM(I, H, seed=0), B, T)
    for kind in ("bf16", "int8"):
        for B in (1, 8):
            yield f"{kind} {B}x50x128x128", 1, call_of(LSTM(128, 128, seed=0).quantize(kind), B, 50)


def input_of(T, B, I):
    return np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)


def call_of(layer, B, T):
    x = input_of(T, B, layer.input_size)
    return lambda: layer(x)[0]


def steps_of(stepper, H):
    x = input_of(100, 1, H)[:, 0]

    def call():
        stepper.reset()
        return [stepper.step(row) for row in x]

    return call


def training_of(layer, B, T):
    x = input_of(T, B, layer.input_size)

    def call():
        y, _, tape = layer.forward(x)
        return layer.backward(tape, y).x

    return call


def measure():
    """Return {name: (hash of the result, median microseconds)} of this process's build."""
    found = {}
    for name, count, call in calls():
        result = hashlib.sha256(np.asarray(call()).tobytes()).hexdigest()
        times, end = [], time.perf_counter() + SECONDS
        while len(times) < 3 or time.perf_counter() < end:
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        found[name] = result, 1e6 * statistics.median(times) / count
    return found


def turn(folder):
    environment = os.environ | {"PYTHONPATH": folder, "LSTM_CY_ENGINE": "packed", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--measure"]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def table(builds, rounds):
    """Yield the lines of a Markdown table: microseconds of each build, and of the slowest over the fastest."""
    turns = {name: [] for name in builds}
    for _ in range(rounds):
        for name, folder in builds.items():
            turns[name].append(turn(folder))
    yield "| | " + " | ".join(builds) + " | slowest / fastest |"
    yield "|---|" + "--:|" * (len(builds) + 1)
    for figure in next(iter(turns.values()))[0]:
        if len({done[figure][0] for its in turns.values() for done in its}) > 1:
            raise SystemExit(f"{figure}: the builds give different bits")
        times = [statistics.median(done[figure][1] for done in its) for its in turns.values()]
        shown = " | ".join(f"{each:.3g}" if each < 100 else f"{each:.0f}" for each in times)
        yield f"| {figure} | {shown} | {max(times) / min(times):.2f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builds", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure()))
        return
    builds = dict(build.split("=", 1) for build in options.builds)
    print(*table(builds, options.rounds), sep="\n")


if __name__ == "__main__":
    main()
