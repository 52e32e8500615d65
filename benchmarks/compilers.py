"""Compare builds of this library by several compilers, one process for each, which take short turns at each figure:

    python benchmarks/compilers.py gcc-12=FOLDER clang-19=OTHER_FOLDER

Each folder has a source tree with compiled modules. tests/slow/compilers.sh makes them and runs this. The results of
all builds must be the same bits before they are timed.
"""

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

SECONDS = 0.06  # of a turn
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


def serve():
    """Print a hash of each figure's result, then for each name that is read the median microseconds of this build."""
    figures = {name: (count, call) for name, count, call in calls()}
    print(
        json.dumps(
            {name: hashlib.sha256(np.asarray(call()).tobytes()).hexdigest() for name, (_, call) in figures.items()}
        )
    )
    for line in sys.stdin:
        print(microseconds(*figures[line.rstrip()]), flush=True)


def microseconds(count, call):
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1e6 * statistics.median(times) / count


def start(folder):
    """Return the process of a build."""
    environment = os.environ | {"PYTHONPATH": folder, "LSTM_CY_ENGINE": "packed", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-u", __file__, "--serve"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(process, figure):
    process.stdin.write(f"{figure}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def table(builds, rounds):
    """Yield the lines of a Markdown table: microseconds of each build, and of the slowest over the fastest."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(start(folder)) for folder in builds.values()]
        results = [json.loads(process.stdout.readline()) for process in processes]
        yield "| | " + " | ".join(builds) + " | slowest / fastest |"
        yield "|---|" + "--:|" * (len(builds) + 1)
        for figure, result in results[0].items():
            if any(other[figure] != result for other in results):
                raise SystemExit(f"{figure}: the builds give different bits")
            turns = [[ask(process, figure) for process in processes] for _ in range(rounds)]
            times = [statistics.median(each) for each in zip(*turns, strict=True)]
            shown = " | ".join(f"{each:.3g}" if each < 100 else f"{each:.0f}" for each in times)
            yield f"| {figure} | {shown} | {max(times) / min(times):.2f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builds", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    builds = dict(build.split("=", 1) for build in options.builds)
    for line in table(builds, options.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
