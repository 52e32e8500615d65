"""What is measured: a layer beside the same layer in plain NumPy; the shapes, the checks and the clock."""

import functools
import os
import statistics
import time
from typing import NamedTuple

import numpy as np

from lstm_cy import LSTM, reference

# OpenBLAS looks when NumPy is loaded, and asv's own modules load NumPy before this one: setting it here is too late.
if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
    raise RuntimeError("one thread is to be measured: set OPENBLAS_NUM_THREADS=1 for the whole process")

# Rows x steps x inputs x hidden units, the smallest first.
SHAPES = (
    "1x100x32x32",
    "1x63x24x32 bidirectional",
    "1x100x64x64",
    "1x100x128x128",
    "1x100x256x256",
    "1x50x512x512",
    "4x50x128x128",
    "8x20x512x512",
    "32x50x64x64",
    "32x50x256x256",
    "64x25x512x512",
    "128x10x1024x1024",
)
TRAINING_SHAPES = (*SHAPES, "8x50x64x64", "16x50x32x64", "16x100x128x128")
STEP_SHAPES = ("1x1x32x32", "1x1x64x64", "1x1x128x128", "1x1x256x256", "1x1x512x512")

#: how often asv repeats a measurement: at least, at most, and for about how many seconds
REPEAT = (5, 500, 1.0)

#: largest difference between two float32 results, as a share of the largest entry
TOLERANCE = 1e-5

#: along which axis the results of the two directions stand side by side; others are added
AXES = {"y": -1, "h_n": 0, "c_n": 0, "h0": 0, "c0": 0}


class Direction(NamedTuple):
    """What reference.py takes for one direction, its steps in the order in which it goes through them."""

    suffix: str  # of the parameters' names
    order: slice  # of the steps
    x: np.ndarray
    dy: np.ndarray
    h0: np.ndarray
    c0: np.ndarray
    weights: tuple  # weight_ih, weight_hh, bias


class Case:
    """A layer and its input; `run` and `reference` compute the same, {name: array}, by lstm_cy and by NumPy.

    Parameters
    ----------
    shape : str
        "BxTxIxH", followed by " bidirectional" where the layer is.
    **options
        Of the LSTM.
    """

    def __init__(self, shape, **options):
        sizes, _, bidirectional = shape.partition(" ")
        batch, steps, inputs, hidden = map(int, sizes.split("x"))
        self.lstm = LSTM(inputs, hidden, bidirectional=bool(bidirectional), seed=0, **options)
        rng = np.random.default_rng(0)
        D, dtype = self.lstm.num_directions, self.lstm.dtype
        self.x = rng.standard_normal((steps, batch, inputs)).astype(dtype)
        self.dy = rng.standard_normal((steps, batch, D * hidden)).astype(dtype)
        self.state = tuple(rng.standard_normal((D, batch, hidden)).astype(dtype) for _ in range(2))
        self.directions = [self._direction(index) for index in range(D)]

    def _direction(self, index):
        suffix = "_l0_reverse" if index else "_l0"
        order = slice(None, None, -1 if index else 1)
        units = slice(index * self.lstm.hidden_size, (index + 1) * self.lstm.hidden_size)
        h0, c0 = (part[index] for part in self.state)
        weights = reference_weights(self.lstm, suffix)
        return Direction(suffix, order, self.x[order], self.dy[order, :, units], h0, c0, weights)

    def reference(self):
        return together([self.reference_direction(direction) for direction in self.directions])


class Inference(Case):
    """A call."""

    def run(self):
        y, (h_n, c_n) = self.lstm(self.x, self.state)
        return {"y": y, "h_n": h_n, "c_n": c_n}

    @staticmethod
    def reference_direction(direction):
        y, h_n, c_n = reference.forward(direction.x, direction.h0, direction.c0, *direction.weights)
        return {"y": y[direction.order], "h_n": h_n[np.newaxis], "c_n": c_n[np.newaxis]}


class Training(Case):
    """A forward and a backward pass: y, and the gradients of the sum of dy * y."""

    def run(self):
        y, _, tape = self.lstm.forward(self.x, self.state)
        gradients = self.lstm.backward(tape, self.dy)
        h0, c0 = gradients.state
        return {"y": y, "x": gradients.x, "h0": h0, "c0": c0, **gradients.parameters}

    @staticmethod
    def reference_direction(direction):
        suffix, order, x, dy, h0, c0, weights = direction
        y, _, _, tape = reference.forward_with_tape(x, h0, c0, *weights)
        final = np.zeros_like(h0), np.zeros_like(c0)
        dx, dh0, dc0, dweight_ih, dweight_hh, dbias = reference.backward(tape, dy, *final, *weights[:2])
        return {
            "y": y[order],
            "x": dx[order],
            "h0": dh0[np.newaxis],
            "c0": dc0[np.newaxis],
            "weight_ih" + suffix: dweight_ih,
            "weight_hh" + suffix: dweight_hh,
            "bias_ih" + suffix: dbias,
            "bias_hh" + suffix: dbias,
        }


def reference_weights(lstm, suffix, dtype=None):
    """weight_ih, weight_hh and bias of one direction in a dtype, or in the layer's own."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    arrays = (lstm.parameters[name + suffix].astype(dtype or lstm.dtype) for name in names)
    weight_ih, weight_hh, bias_ih, bias_hh = arrays
    return weight_ih, weight_hh, bias_ih + bias_hh


def together(results):
    """The results of the directions as those of the layer."""
    if len(results) == 1:
        return results[0]
    forward, backward = results
    whole = forward | backward
    for name in forward.keys() & backward.keys():
        pair = forward[name], backward[name]
        whole[name] = np.concatenate(pair, AXES[name]) if name in AXES else np.add(*pair)
    return whole


def check(what, got, expected):
    """Raise unless two results agree."""
    if got.keys() != expected.keys():
        raise ArithmeticError(f"{what}: got {', '.join(got)}; expected {', '.join(expected)}")
    for name, array in got.items():
        if array.shape != expected[name].shape:
            raise ArithmeticError(f"{what}: {name} has shape {array.shape}, expected {expected[name].shape}")
        difference = np.abs(array - expected[name]).max() / np.abs(expected[name]).max()
        if not difference <= TOLERANCE:
            raise ArithmeticError(f"{what}: {name} is {difference:.1e} off, more than {TOLERANCE:.0e}")


@functools.cache
def checked(kind, shape):
    """An Inference or Training whose results agree with NumPy's.

    It is made once in a process: asv may repeat `setup` before every single call that it times, and that call
    should find the caches as the one before left them.
    """
    case = kind(shape)
    check(f"lstm_cy beside NumPy at {shape}", case.run(), case.reference())
    return case


def medians(calls, seconds=0.5, least=5):
    """The median time of each call in seconds.

    They take turns, so that whatever else the machine does hits all of them alike, for about `seconds` in all
    and at least `least` rounds; one round before that is not counted.
    """
    for call in calls:
        call()
    times = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while len(times[0]) < least or time.perf_counter() < end:
        for call, taken in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begin)
    return [statistics.median(taken) for taken in times]


def speedup_over_numpy(case):
    """How many times as fast as NumPy."""
    ours, numpy = medians([case.run, case.reference])
    return round(numpy / ours, 2)
