"""Compare whole models with ONNX Runtime: Silero VAD's step, a CRNN that reads text, a keyword spotter.

    python benchmarks/graphs.py                               # the CRNN and the keyword spotter, of random weights
    pip download --no-deps silero-vad && unzip silero_vad-*.whl 'silero_vad/data/*'
    python benchmarks/graphs.py --silero silero_vad/data      # also the steps of its files, and a cold start
    python benchmarks/graphs.py --silero silero_vad/data --speech 10   # also minutes of speech, made by espeak-ng

The CRNN and the keyword spotter are exported by PyTorch. Results are compared first; then both take turns, on one
thread, and the figures are medians. A cold start is the time from starting Python to the first probability.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

if not __package__:  # run as a file: for the whole process, and before NumPy is loaded
    os.environ.update(OPENBLAS_NUM_THREADS="1", LSTM_CY_NUM_THREADS="1")
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np

import lstm_cy
from benchmarks.machine import processor

SILERO = ("silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_op18_ifless.onnx")
RATE, SAMPLES, CONTEXT = 16000, 512, 64
#: largest error of a result, as a share of the largest one
TOLERANCE = 1e-4
COLD = """
import sys, numpy as np
{load}
x, state = np.zeros((1, 576), np.float32), np.zeros((2, 1, 128), np.float32)
print(run({{"input": x, "state": state, "sr": np.array(16000, np.int64)}})[0].item())
assert not {{"scipy", "onnx"}} & set(sys.modules)
"""
LOADS = {
    "lstm_cy": "import lstm_cy; run = lstm_cy.load({path!r}).run",
    "ONNX Runtime": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 4
session = onnxruntime.InferenceSession({path!r}, options, providers=["CPUExecutionProvider"])
run = lambda inputs: session.run(None, inputs)""",
}


def crnn():
    """Return a CRNN for images of 32 x 256: seven convolutions, two bidirectional LSTMs of 256 units."""
    from torch import nn

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [(1, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512)]
            pools = {0: (2, 2), 1: (2, 2), 3: ((2, 1), (2, 1)), 5: ((2, 1), (2, 1))}
            parts = []
            for index, (inputs, outputs) in enumerate(sizes):
                last = index == len(sizes) - 1
                parts.append(nn.Conv2d(inputs, outputs, 2 if last else 3, padding=0 if last else 1))
                parts += [nn.BatchNorm2d(outputs)] if index in (2, 4, 6) else []
                parts.append(nn.ReLU())
                if index in pools:
                    size = pools[index] if isinstance(pools[index][0], int) else pools[index][0]
                    parts.append(nn.MaxPool2d(size, size))
            self.features = nn.Sequential(*parts)
            self.first = nn.LSTM(512, 256, bidirectional=True)
            self.between = nn.Linear(512, 256)
            self.second = nn.LSTM(256, 256, bidirectional=True)
            self.head = nn.Linear(512, 37)

        def forward(self, image):
            steps = self.features(image).squeeze(2).permute(2, 0, 1)
            steps = self.between(self.first(steps)[0])
            return self.head(self.second(steps)[0])

    return Reader()


def spotter():
    """Return a keyword spotter: two Conv1d of 64 channels, an LSTM of 128 units, for 100 frames of 40 numbers."""
    from torch import nn

    class Spotter(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv1d(40, 64, 3, padding=1), nn.ReLU(), nn.Conv1d(64, 64, 3, padding=1), nn.ReLU()
            )
            self.lstm = nn.LSTM(64, 128, batch_first=True)
            self.head = nn.Linear(128, 12)

        def forward(self, frames):
            steps = self.features(frames.transpose(1, 2)).transpose(1, 2)
            return self.head(self.lstm(steps)[0][:, -1])

    return Spotter()


def exported(module, shape):
    """Return an ONNX file of a module, for inputs of this shape, with random weights and statistics."""
    import torch

    torch.manual_seed(0)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.zeros(shape),), file, dynamo=False, input_names=["x"], output_names=["y"]
        )
    return file.getvalue()


def session(model):
    """Return a session of ONNX Runtime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def compare(name, model, inputs, seconds):
    """Check a model's results, and return (name, our seconds, ONNX Runtime's)."""
    ours, theirs = lstm_cy.from_onnx(model), session(model)
    inputs = {value.name: inputs[value.name] for value in ours.inputs}
    for found, expected in zip(ours.run(inputs), theirs.run(None, inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * max(np.abs(expected).max(), 1))
    times = turns((lambda: ours.run(inputs), lambda: theirs.run(None, inputs)), seconds)
    return name, *times


def turns(functions, seconds):
    """Return the median time of each function; they take turns of several calls."""
    times = [[] for _ in functions]
    for function in functions:
        function()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 3:
        for function, mine in zip(functions, times, strict=True):
            stop = time.perf_counter() + 0.02
            function()  # what the other one has left in the caches
            while True:
                start = time.perf_counter()
                function()
                now = time.perf_counter()
                mine.append(now - start)
                if now > stop:
                    break
    return [statistics.median(mine) for mine in times]


def steps(folder):
    """Yield (name, model, inputs) of Silero VAD's files that are there."""
    rng = np.random.default_rng(0)
    x = (0.1 * rng.standard_normal((1, CONTEXT + SAMPLES))).astype(np.float32)
    state = (0.1 * rng.standard_normal((2, 1, 128))).astype(np.float32)
    for name in SILERO:
        if (folder / name).exists():
            yield name, str(folder / name), {"input": x, "state": state, "sr": np.array(RATE, np.int64)}


def cold_starts(path, rounds):
    """Return the median seconds of a process up to the first probability, for each peer."""
    times = {peer: [] for peer in LOADS}
    found = {}
    for _ in range(rounds):
        for peer, load in LOADS.items():
            code = COLD.format(load=load.format(path=path))
            start = time.perf_counter()
            found[peer] = float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
            times[peer].append(time.perf_counter() - start)
    assert abs(found["lstm_cy"] - found["ONNX Runtime"]) < TOLERANCE, found
    return {peer: statistics.median(mine) for peer, mine in times.items()}


def speech(minutes):
    """Return samples of synthesised speech with pauses and noise."""
    import wave

    text = "The forget gate decides what a cell keeps from one step to the next. " * 20
    rng, parts, count = np.random.default_rng(0), [], 0
    for voice in range(1000):
        command = [
            "espeak-ng",
            "-v",
            ("en", "de", "fr", "es")[voice % 4],
            "-s",
            str(120 + 20 * (voice % 5)),
            "--stdout",
        ]
        made = subprocess.run([*command, text], capture_output=True, check=True).stdout
        with wave.open(io.BytesIO(made[:4] + made[4:])) as file:
            rate = file.getframerate()
            samples = np.frombuffer(made[44:], np.int16).astype(np.float32) / 32768
        places = np.arange(0, len(samples) - 1, rate / RATE)
        parts += [np.interp(places, np.arange(len(samples)), samples), np.zeros(RATE * int(rng.integers(1, 4)))]
        count += len(parts[-1]) + len(parts[-2])
        if count >= minutes * 60 * RATE:
            break
    sound = np.concatenate(parts)[: int(minutes * 60 * RATE)]
    noise = np.repeat(rng.uniform(0.0005, 0.02, len(sound) // RATE + 1), RATE)[: len(sound)]
    return (sound + noise * rng.standard_normal(len(sound))).astype(np.float32)


def largest_difference(path, sound):
    """Return the largest difference of the probabilities of both libraries over some sound, and their range."""
    ours, theirs = lstm_cy.load(path), session(path)
    runs = {"ours": lambda inputs: ours.run(inputs), "theirs": lambda inputs: theirs.run(None, inputs)}
    states = {name: np.zeros((2, 1, 128), np.float32) for name in runs}
    padded, found = np.concatenate([np.zeros(CONTEXT, np.float32), sound]), {name: [] for name in runs}
    for start in range(0, len(sound) - SAMPLES + 1, SAMPLES):
        x = padded[np.newaxis, start : start + CONTEXT + SAMPLES]
        for name, run in runs.items():
            inputs = {"input": x, "state": states[name], "sr": np.array(RATE, np.int64)}
            y, states[name] = run(inputs)
            found[name].append(y.item())
    a, b = (np.array(values) for values in found.values())
    return float(np.abs(a - b).max()), float(a.min()), float(a.max()), len(a)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--silero", type=Path, metavar="DIR", help="the folder of Silero VAD's .onnx files")
    parser.add_argument("--speech", type=float, default=0, metavar="MINUTES", help="of speech to compare")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each model (default: 3)")
    parser.add_argument("--rounds", type=int, default=5, help="of the cold start (default: 5)")
    parser.add_argument("--only", choices=("silero", "crnn", "spotter"), help="one of the models")
    options = parser.parse_args(argv)
    print(f"{processor()}, one thread, float32\n")
    print("| model | lstm_cy, us | ONNX Runtime, us | ONNX Runtime / lstm_cy |\n|---|--:|--:|--:|")
    for name, model, inputs in models(options):
        name, ours, theirs = compare(name, model, inputs, options.seconds)
        print(f"| {name} | {ours * 1e6:.0f} | {theirs * 1e6:.0f} | {theirs / ours:.2f} |", flush=True)
    if options.silero and options.only in (None, "silero"):
        path = str(options.silero / SILERO[0])
        if options.rounds:
            cold = cold_starts(path, options.rounds)
            print("\nCold start:", ", ".join(f"{peer} {seconds * 1e3:.0f} ms" for peer, seconds in cold.items()))
        if options.speech:
            difference, low, high, count = largest_difference(path, speech(options.speech))
            print(
                f"\n{count} steps of speech: probabilities {low:.3f} to {high:.3f}, differences up to {difference:.1e}"
            )


def models(options):
    """Yield (name, model, inputs) of the selected models."""
    rng = np.random.default_rng(0)
    if options.silero and options.only in (None, "silero"):
        yield from steps(options.silero)
    if options.only in (None, "crnn"):
        for batch in (1, 8):
            shape = (batch, 1, 32, 256)
            yield f"CRNN, batch {batch}", exported(crnn(), shape), {"x": rng.random(shape, np.float32)}
    if options.only in (None, "spotter"):
        shape = (1, 100, 40)
        yield "keyword spotter", exported(spotter(), shape), {"x": rng.standard_normal(shape, np.float32)}


class Models:
    """Models of random weights: one call of each."""

    params = (("crnn", "spotter"),)
    param_names = ("model",)
    repeat = (3, 10, 5.0)

    def setup(self, model):
        shape, module = ((1, 1, 32, 256), crnn) if model == "crnn" else ((1, 100, 40), spotter)
        try:
            file = exported(module(), shape)
            theirs = session(file)
        except ImportError as error:
            raise NotImplementedError(str(error)) from None
        self.graph, self.inputs = lstm_cy.from_onnx(file), {"x": np.random.default_rng(0).random(shape, np.float32)}
        (found,), (expected,) = self.graph.run(self.inputs), theirs.run(None, self.inputs)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * max(np.abs(expected).max(), 1))

    def time_run(self, model):
        self.graph.run(self.inputs)


if __name__ == "__main__":
    main()
