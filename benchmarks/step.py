"""One step at a time, the state carried from call to call."""

from .common import REPEAT, STEP_SHAPES, Inference, checked, speedup_over_numpy


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
