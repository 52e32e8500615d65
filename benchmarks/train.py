"""Forward and backward on whole sequences."""

import numpy as np

from lstm_cy import LSTM, SGD, Adam

from .common import REPEAT, TRAINING_SHAPES, Training, checked, speedup_over_numpy


class Train:
    params = (TRAINING_SHAPES,)
    param_names = ("BxTxIxH",)
    repeat = REPEAT

    def setup(self, shape):
        self.case = checked(Training, shape)

    def time_forward_and_backward(self, shape):
        self.case.run()

    def track_speedup_over_numpy(self, shape):
        return speedup_over_numpy(self.case)

    track_speedup_over_numpy.unit = "x"
    track_speedup_over_numpy.pretty_name = "Speed-up over NumPy: training"


class Step:
    """An optimizer's step: from gradients to new, packed parameters."""

    params = (("SGD", "Adam"), (16, 256))
    param_names = ("optimizer", "H")
    repeat = REPEAT

    def setup(self, kind, size):
        model = LSTM(size, size, seed=0)
        options = {"lr": 1e-6, "momentum": 0.9} if kind == "SGD" else {"lr": 1e-6}
        self.optimizer = {"SGD": SGD, "Adam": Adam}[kind](model, **options)
        rng = np.random.default_rng(1)
        self.grads = {
            name: rng.standard_normal(array.shape, dtype=np.float32) for name, array in model.parameters.items()
        }

    def time_step(self, kind, size):
        self.optimizer.step(self.grads)


class TrainMemory:
    """A class of its own without a check, because the memory of setup counts too."""

    params = (("1x50x512x512", "64x25x512x512"),)
    param_names = ("BxTxIxH",)

    def setup(self, shape):
        self.case = Training(shape)

    def peakmem_forward_and_backward(self, shape):
        self.case.run()
