"""Helpers of the tests of training: a small model, data for it, and runs of fit."""

import itertools

import numpy as np

from lstm_cy import LSTM, Adam, Dropout, Linear, Readout, Sequential, fit, mse
from lstm_cy.layers.base import Gradients, Layer

ROWS, STEPS = 10, 7
LENGTHS = np.array([7, 3, 0, 7, 5, 1, 7, 2, 7, 6])


def model_of(*, batch_first=False, dropout=0.0, dtype="float64", size=5):
    lstm = LSTM(2, size, 2, batch_first=batch_first, dropout=dropout, dtype=dtype, seed=1)
    return Sequential(lstm, Dropout(dropout), Linear(size, 3, dtype=dtype, seed=2))


def arrays(*, batch_first=False, rows=ROWS, seed=0):
    """Return x (T, B, 2) and y (T, B, 3), or rows first."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(STEPS, rows, 2)), rng.normal(size=(STEPS, rows, 3))
    return (x.swapaxes(0, 1), y.swapaxes(0, 1)) if batch_first else (x, y)


X, Y = arrays()


def bits(arrays):
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}


def train(model, data, **options):
    """Call fit with default options."""
    options = {"loss": mse, "optimizer": Adam(model, 0.01), "epochs": 1, "progress": False} | options
    return fit(model, data, **options)


class Recorder:
    """A loss that records its arguments."""

    def __init__(self):
        self.calls = []

    def __call__(self, prediction, target, **keywords):
        self.calls.append((prediction.copy(), target.copy(), keywords))
        return 1.0, np.zeros_like(prediction)


class Last(Layer):
    """A user-defined layer that removes the time axis."""

    def __init__(self, axis):
        self.axis, self.config, self.dtype, self._parameters = axis, {"axis": axis}, None, {}

    def __call__(self, y):
        return y.take(-1, self.axis)

    def forward(self, y, rng=None):
        return self(y), y

    def backward(self, tape, dy):
        gradient = np.zeros_like(tape)
        gradient[(slice(None),) * self.axis + (-1,)] = dy
        return Gradients(gradient, None, {})


def reading_out(outputs, *, batch_first=False, own=False):
    last = Last(int(batch_first)) if own else Readout(batch_first=batch_first)
    lstm = LSTM(2, 4, batch_first=batch_first, dtype="float64", seed=1)
    return Sequential(lstm, last, Linear(4, outputs, dtype="float64", seed=2))


def interrupting(error, call):
    """Return a loss that raises `error` at the call with number `call`."""
    calls = itertools.count(1)

    def loss(*arguments, **keywords):
        if next(calls) == call:
            raise error
        return mse(*arguments, **keywords)

    return loss


class Scripted:
    """A loss with given validation losses, one per epoch; data of a single row are the validation data."""

    def __init__(self, *values):
        self.values = iter(values)

    def __call__(self, prediction, target):
        loss, gradient = mse(prediction, target)
        return (next(self.values) if target.shape[1] == 1 else loss), gradient
