"""One step at a time, with the state passed from call to call: by calling the layer, and by a Stepper."""

import numpy as np

from lstm_cy import LSTM

from .common import REPEAT, STEP_SHAPES, Inference, checked, medians, speedup_over_numpy
from .peers import NumPyCell

#: steps of a Stepper that are timed together: a single step takes little more time than reading the clock
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
    track_speedup_over_numpy.pretty_name = "Speed-up over NumPy: single steps, by a call"


class Streaming(Inference):
    """A Stepper, compared with NumPy steps that allocate nothing either."""

    def __init__(self, shape):
        super().__init__(shape)
        self.stepper = self.lstm.stepper(self.x.shape[1])
        self.out = np.empty_like(self.x[0], shape=(self.x.shape[1], self.lstm.hidden_size))

    def run(self):
        self.stepper.state = self.state
        y = np.array([self.stepper.step(x_t) for x_t in self.x])
        h_n, c_n = self.stepper.state
        return {"y": y, "h_n": h_n, "c_n": c_n}

    def reference(self):
        cell = self.numpy_cell()
        y = np.array([cell.step(x_t).copy() for x_t in self.x])
        return {"y": y, "h_n": cell.h[np.newaxis], "c_n": cell.c[np.newaxis]}

    def numpy_cell(self):
        h0, c0 = (part[0] for part in self.state)
        return NumPyCell(self.plain.layers[0][0].weights, h0, c0)


class Stepping:
    params = (STEP_SHAPES,)
    param_names = ("BxTxIxH",)
    repeat = REPEAT

    def setup(self, shape):
        if not hasattr(LSTM, "stepper"):
            raise NotImplementedError("this version has no Stepper")
        self.case = checked(Streaming, shape)
        self.step, self.x, self.out = self.case.stepper.step, self.case.x[0], self.case.out

    def time_step(self, shape):
        self.step(self.x)

    def time_step_into(self, shape):
        self.step(self.x, self.out)

    def track_speedup_over_numpy(self, shape):
        step, x = self.case.numpy_cell().step, self.x
        ours, numpy = medians(
            [
                lambda: [self.step(x) for _ in range(TOGETHER)],
                lambda: [step(x) for _ in range(TOGETHER)],
            ]
        )
        return round(numpy / ours, 2)

    track_speedup_over_numpy.unit = "x"
    track_speedup_over_numpy.pretty_name = "Speed-up over NumPy: single steps, by a Stepper"
