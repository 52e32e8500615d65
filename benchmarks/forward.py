"""Inference over whole sequences."""

from .common import REPEAT, SHAPES, Inference, checked, speedup_over_numpy


class Forward:
    params = (SHAPES,)
    param_names = ("BxTxIxH",)
    repeat = REPEAT

    def setup(self, shape):
        self.case = checked(Inference, shape)

    def time_forward(self, shape):
        self.case.lstm(self.case.x, self.case.state)

    def track_speedup_over_numpy(self, shape):
        return speedup_over_numpy(self.case)

    track_speedup_over_numpy.unit = "x"


class ForwardMemory:
    """Apart from the others, because memory that setup takes counts too: nothing is checked here."""

    params = (("1x50x512x512", "64x25x512x512"),)
    param_names = ("BxTxIxH",)

    def setup(self, shape):
        self.case = Inference(shape)

    def peakmem_forward(self, shape):
        self.case.lstm(self.case.x, self.case.state)
