"""Forward and backward over whole sequences."""

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


class TrainMemory:
    """Apart from the others, because memory that setup takes counts too: nothing is checked here."""

    params = (("1x50x512x512", "64x25x512x512"),)
    param_names = ("BxTxIxH",)

    def setup(self, shape):
        self.case = Training(shape)

    def peakmem_forward_and_backward(self, shape):
        self.case.run()
