"""One step at a time, the state carried from call to call: by calling the layer, and by a Stepper."""

import numpy as np

from lstm_cy import reference

from .common import REPEAT, STEP_SHAPES, Inference, checked, medians, speedup_over_numpy

#: steps of a Stepper that are timed together: one takes little more than reading the clock
TOGETHER = 100


class Step:
    params = (STEP_SHAPES,)
    param_names = ("BxTxIxH",)
    repeat = REPEAT

    def setup(self, shape):
        self.case = checked(Inference, shape)
        self.state = self.case.state

    def time_step(self, shape):
        _, self.state = self.case.lstm(self.case.x, self.state)

    def track_speedup_over_numpy(self, shape):
        return speedup_over_numpy(self.case)

    track_speedup_over_numpy.unit = "x"


class Streaming(Inference):
    """A Stepper, beside NumPy steps that reuse their arrays as well."""

    def __init__(self, shape):
        super().__init__(shape)
        self.stepper = self.lstm.stepper(self.x.shape[1])
        self.numpy = NumpyStepper(self.directions[0])
        self.out = np.empty_like(self.x[0], shape=(self.x.shape[1], self.lstm.hidden_size))

    def run(self):
        self.stepper.state = self.state
        y = np.array([self.stepper.step(x_t) for x_t in self.x])
        h_n, c_n = self.stepper.state
        return {"y": y, "h_n": h_n, "c_n": c_n}

    def reference(self):
        h_n, c_n = (part.copy() for part in self.state)
        y = np.array([self.numpy.step(x_t, h_n[0], c_n[0]).copy() for x_t in self.x])
        return {"y": y, "h_n": h_n, "c_n": c_n}


class NumpyStepper:
    """One product a step, of [x, h] with both weights, and nothing allocated."""

    def __init__(self, direction):
        weight_ih, weight_hh, self.bias = direction.weights
        self.weight = np.concatenate([weight_ih, weight_hh], axis=1).T
        rows, (inputs, gates) = len(direction.h0), self.weight.shape
        self.inputs, self.H = weight_ih.shape[1], weight_hh.shape[1]
        self.both, self.z = np.empty((rows, inputs), self.bias.dtype), np.empty((rows, gates), self.bias.dtype)
        self.written = np.empty_like(direction.h0)

    def step(self, x, h, c):
        """h and c are updated in place."""
        z, H = self.z, self.H
        self.both[:, : self.inputs] = x
        self.both[:, self.inputs :] = h
        np.matmul(self.both, self.weight, out=z)
        z += self.bias
        reference.activate(z, H)
        c *= z[:, H : 2 * H]
        np.multiply(z[:, :H], z[:, 2 * H : 3 * H], out=self.written)
        c += self.written
        np.tanh(c, out=h)
        h *= z[:, 3 * H :]
        return h


class Stepping:
    params = (STEP_SHAPES,)
    param_names = ("BxTxIxH",)
    repeat = REPEAT

    def setup(self, shape):
        self.case = checked(Streaming, shape)
        self.step, self.x, self.out = self.case.stepper.step, self.case.x[0], self.case.out

    def time_step(self, shape):
        self.step(self.x)

    def time_step_into(self, shape):
        self.step(self.x, self.out)

    def track_speedup_over_numpy(self, shape):
        h, c = (part[0].copy() for part in self.case.state)
        step, x = self.case.numpy.step, self.x
        ours, numpy = medians(
            [
                lambda: [self.step(x) for _ in range(TOGETHER)],
                lambda: [step(x, h, c) for _ in range(TOGETHER)],
            ]
        )
        return round(numpy / ours, 2)

    track_speedup_over_numpy.unit = "x"
