"""Shared code of the benchmarks: shapes, a layer and the same layer in plain NumPy, checks, and timing."""

import contextlib
import functools
import gc
import inspect
import itertools
import os
import re
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np

from lstm_cy import LSTM, reference

# OpenBLAS reads this when NumPy is loaded, and asv loads NumPy before this module: setting it here is too late.
if os.environ.get("OPENBLAS_NUM_THREADS") != os.environ.get("LSTM_CY_NUM_THREADS", "1"):
    raise RuntimeError(
        "expected as many threads of BLAS as of lstm_cy, by default one: "
        "set OPENBLAS_NUM_THREADS=1 for the whole process"
    )

# Rows x steps x inputs x hidden units, the smallest first.
SHAPES = (
    "1x100x32x32",
    "1x63x24x32 bidirectional",
    "1x100x64x64",
    "1x100x128x128",
    "1x100x256x256",
    "1x50x512x512",
    "4x50x128x128",
    "8x50x128x128",
    "8x20x512x512",
    "32x50x64x64",
    "32x50x256x256",
    "64x25x512x512",
    "128x10x1024x1024",
)
#: layers of models in use
REAL_SHAPES = (
    "32x60x30x40 2 layers",  # forecaster
    "1x100x257x128 2 layers",  # denoiser
    "1x160x40x256 3 layers",  # speaker encoder
    "16x160x40x256 3 layers",
    "16x60x256x256 2 layers bidirectional",  # line of text
    "1x590x60x128 4 layers bidirectional",  # diarisation
    "1x255x512x256 3 layers bidirectional",  # music
    "1x50x1024x1024",  # language model
)
TRAINING_SHAPES = (*SHAPES, "8x50x64x64", "16x50x32x64", "16x100x128x128")
STEP_SHAPES = ("1x1x32x32", "1x1x64x64", "1x1x128x128", "1x1x256x256", "1x1x512x512")
REAL_STEP_SHAPES = (
    "16x1x64x64",
    "1x1x640x640 2 layers",  # transducer
    "1x1x1024x1024",  # language model
)
#: hidden units of models of guitar amplifiers, which have one input
AMPLIFIER_SIZES = (8, 12, 16, 20, 24, 32, 40)
#: shapes for which nothing was tuned: `compare.py --shapes unusual`
UNUSUAL_SHAPES = (
    "1x100x48x48",
    "1x100x50x50",
    "1x100x96x96",
    "1x100x200x200",
    "1x50x300x300",
    "1x100x1x96",
    "1x100x7x50",
    "1x100x80x48",
    "1x100x257x200",
    "2x50x80x96",
    "3x50x7x300",
    "5x50x200x200",
    "5x50x257x48",
    "24x50x50x50",
    "24x25x1x200",
    "24x20x257x300",
)
NARROW_SHAPES = (
    "1x100x64x64",
    "1x100x64x128",
    "1x100x64x256",
    "1x50x8x512",
    "1x50x1024x1024",
    "16x50x128x128",
)

#: asv's repetitions of a measurement: least, most, and about how many seconds
REPEAT = (5, 500, 1.0)

#: largest difference between two float32 results, as a share of the largest entry
TOLERANCE = 1e-5

#: the same for narrow weights
NARROW_TOLERANCE = 0.1

#: calls in one turn, at most
MOST_CALLS = 500


class Shape(NamedTuple):
    """The sizes of a layer and its input."""

    batch: int
    steps: int
    inputs: int
    hidden: int
    layers: int = 1
    directions: int = 1

    @classmethod
    def of(cls, text):
        """Parse "BxTxIxH", optionally followed by " 3 layers" and by " bidirectional"."""
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+)x(\d+)(?: (\d+) layers)?( bidirectional)?", text)
        if not found:
            raise ValueError(f"shape: expected such as '1x100x32x64' or '1x9x8x7 2 layers bidirectional', got {text!r}")
        *sizes, layers, bidirectional = found.groups()
        return cls(*map(int, sizes), int(layers or 1), 2 if bidirectional else 1)


class Case:
    """A layer and its input; `run` computes {name: array} with lstm_cy, `reference` the same with NumPy.

    Parameters
    ----------
    shape : Shape, or str
        A string is parsed by `Shape.of`.
    **options
        Options of the LSTM.
    """

    def __init__(self, shape, **options):
        self.shape = Shape.of(shape) if isinstance(shape, str) else shape
        B, T, I, H, L, D = self.shape
        self.lstm = LSTM(I, H, L, bidirectional=D == 2, seed=0, **options)
        rng = np.random.default_rng(0)
        dtype = self.lstm.dtype
        self.x = rng.standard_normal((T, B, I)).astype(dtype)
        self.dy = rng.standard_normal((T, B, D * H)).astype(dtype)
        self.state = tuple(rng.standard_normal((L * D, B, H)).astype(dtype) for _ in range(2))
        self.plain = Plain(self.lstm)


class Inference(Case):
    """A call for inference."""

    def run(self):
        y, (h_n, c_n) = self.lstm(self.x, self.state)
        return {"y": y, "h_n": h_n, "c_n": c_n}

    def reference(self):
        return self.plain.infer(self.x, self.state)


class Training(Case):
    """A forward and a backward pass: y, and the gradients of the sum of dy * y."""

    def run(self):
        y, _, tape = self.lstm.forward(self.x, self.state)
        gradients = self.lstm.backward(tape, self.dy)
        h0, c0 = gradients.state
        return {"y": y, "x": gradients.x, "h0": h0, "c0": c0, **gradients.parameters}

    def reference(self):
        return self.plain.train(self.x, self.state, self.dy)


class Direction(NamedTuple):
    """One direction of a layer, as reference.py takes it."""

    suffix: str  # of the parameters' names
    order: slice  # of the steps
    units: slice  # its columns of y
    weights: tuple  # weight_ih, weight_hh, bias


class Plain:
    """A layer computed by lstm_cy.reference, in the given dtype or in the layer's."""

    def __init__(self, lstm, dtype=None):
        self.layers = [
            [self._direction(lstm, layer, index, dtype or lstm.dtype) for index in range(lstm.num_directions)]
            for layer in range(lstm.num_layers)
        ]

    @staticmethod
    def _direction(lstm, layer, index, dtype):
        suffix = f"_l{layer}" + "_reverse" * index
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        arrays = (lstm.parameters[name + suffix].astype(dtype) for name in names)
        weight_ih, weight_hh, bias_ih, bias_hh = arrays
        order = slice(None, None, -1 if index else 1)
        units = slice(index * lstm.hidden_size, (index + 1) * lstm.hidden_size)
        return Direction(suffix, order, units, (weight_ih, weight_hh, bias_ih + bias_hh))

    def infer(self, x, state):
        """Return y, h_n and c_n."""
        h_n, c_n = [], []
        for h0, c0, layer in self._with_states(state):
            outputs = []
            for h, c, direction in zip(h0, c0, layer, strict=True):
                y, h, c = reference.forward(x[direction.order], h, c, *direction.weights)
                outputs.append(y[direction.order])
                h_n.append(h)
                c_n.append(c)
            x = concatenated(outputs)
        return {"y": x, "h_n": np.stack(h_n), "c_n": np.stack(c_n)}

    def train(self, x, state, dy):
        """Return y and every gradient of the sum of dy * y."""
        tapes = []
        for h0, c0, layer in self._with_states(state):
            outputs = []
            for h, c, direction in zip(h0, c0, layer, strict=True):
                y, _, _, tape = reference.forward_with_tape(x[direction.order], h, c, *direction.weights)
                outputs.append(y[direction.order])
                tapes.append((direction, tape))
            x = concatenated(outputs)
        results = {"y": x}
        d_h0, d_c0 = [], []
        zeros = np.zeros_like(state[0][0])
        for layer in reversed(self.layers):
            dx = 0
            for _ in layer:
                direction, tape = tapes.pop()
                suffix, order, units, weights = direction
                d_x, h0, c0, *gradients = reference.backward(tape, dy[order, :, units], zeros, zeros, *weights[:2])
                dx = dx + d_x[order]
                d_h0.append(h0)
                d_c0.append(c0)
                names = ("weight_ih", "weight_hh", "bias_ih")
                results |= {name + suffix: array for name, array in zip(names, gradients, strict=True)}
                results["bias_hh" + suffix] = results["bias_ih" + suffix]
            dy = dx
        return results | {"x": dy, "h0": np.stack(d_h0[::-1]), "c0": np.stack(d_c0[::-1])}

    def _with_states(self, state):
        """Yield (h0, c0, directions) of each layer."""
        count = len(self.layers[0])
        for index, layer in enumerate(self.layers):
            h0, c0 = (part[index * count : (index + 1) * count] for part in state)
            yield h0, c0, layer


def concatenated(outputs):
    """Return the outputs of a layer's directions as one array."""
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=-1)


def difference(title, got, expected):
    """Return the largest difference of two results, relative to each array's largest entry; raise for other names.

    Returns
    -------
    (float, str)
        The difference, and the name of its array.
    """
    if got.keys() != expected.keys():
        raise ArithmeticError(f"{title}: got {', '.join(got)}; expected {', '.join(expected)}")
    worst = 0.0, "nothing"
    for name, array in got.items():
        if array.shape != expected[name].shape:
            raise ArithmeticError(f"{title}: {name} has shape {array.shape}, expected {expected[name].shape}")
        this = float(np.abs(array - expected[name]).max() / np.abs(expected[name]).max())
        if not this <= worst[0]:  # also true for NaN, which is then the result
            worst = this, name
            if np.isnan(this):
                break
    return worst


def check(title, got, expected, tolerance=TOLERANCE):
    """Raise unless two results agree; return their difference."""
    off, name = difference(title, got, expected)
    if not off <= tolerance:
        raise ArithmeticError(f"{title}: {name} is {off:.1e} off, more than {tolerance:.0e}")
    return off


@functools.cache
def checked(kind, shape):
    """Return an Inference or Training whose results agree with NumPy's.

    It is made once per process: asv may repeat `setup` before every timed call, and the caches should stay as the
    call before left them.
    """
    case = kind(shape)
    check(f"lstm_cy compared with NumPy at {shape}", case.run(), case.reference())
    return case


def turns(calls, seconds, least=5, burst=0.0, pause=0.0):
    """Time functions in turns; return the seconds of every call.

    They take turns so that other load of the machine affects all of them equally. The first round is not counted.

    Parameters
    ----------
    calls : list of (function, list of tuples)
        Functions, each with the arguments of its successive calls, which repeat from the start.
    seconds : float
        About how long to measure in all.
    least : int
        The least number of rounds.
    burst : float
        A turn is about this many seconds of calls, at least one call; of several calls the first is not counted,
        so that the others find warm caches.
    pause : float
        Seconds of sleep before each call.

    Returns
    -------
    list of lists of float
        The times of each function, without the time that reading the clock takes.
    """
    clock = time.perf_counter
    overhead = statistics.median(-clock() + clock() for _ in range(1000))
    times = [[] for _ in calls]
    series = []
    for function, arguments in calls:
        begin = clock()
        function(*arguments[0])
        repeat = min(int(burst / (clock() - begin)), MOST_CALLS)
        series.append((function, list(itertools.islice(itertools.cycle(arguments), max(repeat, 1)))))
    gc.collect()
    gc.disable()
    try:
        end = clock() + seconds
        while least > 0 or clock() < end:
            least -= 1
            for (function, arguments), taken in zip(series, times, strict=True):
                if len(arguments) > 1:
                    function(*arguments[0])
                for these in arguments:
                    if pause:
                        time.sleep(pause)
                    begin = clock()
                    function(*these)
                    taken.append(clock() - begin - overhead)
    finally:
        gc.enable()
    return times


@contextlib.contextmanager
def other_process(busy):
    """Run a process that never waits, if `busy`."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def medians(functions, seconds=0.5, least=5):
    """Return the median time of each function in seconds; they take turns for about `seconds` in all."""
    return [statistics.median(taken) for taken in turns([(function, [()]) for function in functions], seconds, least)]


def need(function, *names):
    """Have asv skip a benchmark if this version of lstm_cy is too old for it.

    asv runs today's benchmarks with every version that it builds. For asv a NotImplementedError in `setup` means that
    a feature is missing; any other error is a failure.

    Parameters
    ----------
    function : callable
        A function of lstm_cy.
    *names : str
        Keywords that it must take.
    """
    lacking = sorted(set(names) - inspect.signature(function).parameters.keys())
    if lacking:
        raise NotImplementedError(f"{function.__qualname__} of this version takes no {', '.join(lacking)}")


def speedup_over_numpy(case):
    """Return NumPy's time divided by ours."""
    ours, numpy = medians([case.run, case.reference])
    return round(numpy / ours, 2)
