"""Inference on whole sequences."""

import functools
import os
import statistics

import numpy as np

from lstm_cy import LSTM

from .common import (
    NARROW_TOLERANCE,
    REPEAT,
    SHAPES,
    Inference,
    check,
    checked,
    medians,
    need,
    other_process,
    speedup_over_numpy,
    turns,
)


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
    track_speedup_over_numpy.pretty_name = "Speed-up over NumPy: whole sequences"


class ForwardMemory:
    """A class of its own without a check, because the memory of setup counts too."""

    params = (("1x50x512x512", "64x25x512x512"),)
    param_names = ("BxTxIxH",)

    def setup(self, shape):
        self.case = Inference(shape)

    def peakmem_forward(self, shape):
        self.case.lstm(self.case.x, self.case.state)


class Ragged:
    """Rows of lengths drawn uniformly from 1..T: finished rows should cost nothing."""

    params = (("32x50x64x64", "32x50x256x256"),)
    param_names = ("BxTxIxH",)
    repeat = REPEAT

    def setup(self, shape):
        self.case = checked(Inference, shape)
        self.lengths = np.random.default_rng(0).integers(1, len(self.case.x) + 1, self.case.x.shape[1])

    def time_forward(self, shape):
        self.case.lstm(self.case.x, self.case.state, lengths=self.lengths)

    def track_share_of_padded(self, shape):
        padded, ragged = medians(
            [lambda: self.case.lstm(self.case.x, self.case.state), lambda: self.time_forward(shape)]
        )
        return round(ragged / padded, 3)

    track_share_of_padded.unit = "of the padded time"


class Narrow:
    """Narrow weights, in a layer whose results agree with NumPy's."""

    params = (("1x100x128x128", "4x50x128x128", "16x50x128x128", "32x50x256x256"), ("float32", "bf16", "int8"))
    param_names = ("BxTxIxH", "precision")
    repeat = REPEAT

    def setup(self, shape, precision):
        if not hasattr(LSTM, "quantize"):
            raise NotImplementedError("LSTM of this version has no quantize")
        self.case = checked(Inference, shape)
        self.lstm = self.case.lstm if precision == "float32" else self.case.lstm.quantize(precision)
        check(f"{precision} compared with float32", self._run(self.lstm), self._run(self.case.lstm), NARROW_TOLERANCE)

    def _run(self, lstm):
        return {"y": lstm(self.case.x, self.case.state)[0]}

    def time_forward(self, shape, precision):
        self.lstm(self.case.x, self.case.state)

    def track_speedup_over_float32(self, shape, precision):
        float32, this = medians([lambda: self._run(self.case.lstm), lambda: self._run(self.lstm)])
        return round(float32 / this, 3)

    track_speedup_over_float32.unit = "x"


def speedup_by_two_threads(case, pause):
    """Return the time on one thread divided by that on two, of calls back to back or `pause` seconds apart."""
    calls = [functools.partial(case.lstm, case.x, threads=threads) for threads in (1, 2)]
    one, two = map(statistics.median, turns([(call, [()]) for call in calls], 1.0, burst=0.01, pause=pause))
    return round(one / two, 3)


class Stacks:
    """Layers one behind the other on two threads, and small batches."""

    params = (
        (
            "1x100x64x64 3 layers",
            "1x100x32x32 4 layers",
            "1x160x40x64 4 layers",
            "1x100x128x128 3 layers",
            "1x100x256x256 2 layers",
            "8x20x128x128",
            "4x50x64x64",
            "8x50x128x128",
        ),
        (0.0, 0.001),
    )
    param_names = ("BxTxIxH", "pause")

    def setup(self, shape, pause):
        need(LSTM.__call__, "threads")
        self.case = checked(Inference, shape)

    def track_speedup_by_two_threads(self, shape, pause):
        return speedup_by_two_threads(self.case, pause)

    track_speedup_by_two_threads.unit = "x"


class Arriving:
    """Calls some time apart, on two threads, also while another process runs that never waits."""

    params = (
        ("1x100x256x256", "8x50x128x128", "32x50x64x64", "32x50x256x256"),
        (0.001, 0.01),
        ("alone", "busy"),
    )
    param_names = ("BxTxIxH", "pause", "other process")

    def setup(self, shape, pause, other):
        need(LSTM.__call__, "threads")
        self.case = checked(Inference, shape)

    def track_speedup_by_two_threads(self, shape, pause, other):
        with other_process(other == "busy"):
            return speedup_by_two_threads(self.case, pause)

    track_speedup_by_two_threads.unit = "x"


class Variants:
    """The cost of each option, compared with the plain layer, which runs none of its code."""

    params = (
        ("1x100x64x64", "32x50x256x256"),
        ("nothing", "mask", "projection", "peepholes", "clip", "coupled gates", "layer norm", "activations"),
    )
    param_names = ("BxTxIxH", "option")
    repeat = REPEAT

    def setup(self, shape, option):
        self.case = Inference(shape)
        B, T, I, H, *_ = self.case.shape
        options = {
            "projection": {"proj_size": H // 2},
            "peepholes": {"peepholes": True},
            "clip": {"clip": 3.0},
            "coupled gates": {"coupled_gates": "f=1-i"},
            "layer norm": {"layer_norm": True},
            "activations": {"activations": ("hardsigmoid", "softsign", "softsign")},
        }
        options = options.get(option, {})
        need(LSTM, *options)
        self.lstm = LSTM(I, H, seed=0, **options)
        self.keywords = {}
        if option == "mask":
            need(LSTM.__call__, "mask")
            self.keywords["mask"] = np.random.default_rng(0).random((T, B)) < 0.9

    def time_forward(self, shape, option):
        self.lstm(self.case.x, **self.keywords)

    def track_time_of_plain(self, shape, option):
        plain, this = medians([lambda: self.case.lstm(self.case.x), lambda: self.time_forward(shape, option)])
        return round(this / plain, 3)

    track_time_of_plain.unit = "of the plain layer's time"


def track_slowdown_by_denormals():
    """Compare a state that decays through denormal numbers with one that does not: 1 if they cost nothing."""
    case = checked(Inference, "1x100x64x64")
    state = tuple(np.full_like(part, 1e-39) for part in case.state)
    zeros = np.zeros_like(case.x)
    plain, denormal = medians(
        [lambda: case.lstm(zeros, case.state), lambda: case.lstm(zeros + np.float32(1e-39), state)]
    )
    return round(denormal / plain, 3)


track_slowdown_by_denormals.unit = "x"


def track_memory_drift(calls=100_000):
    """Measure the growth of a process after many calls of random lengths."""
    case = checked(Inference, "1x100x32x32")
    steps = np.random.default_rng(0).integers(0, len(case.x) + 1, calls)
    for T in steps[:1000]:
        case.lstm(case.x[:T], case.state)
    before = _resident_bytes()
    for T in steps:
        case.lstm(case.x[:T], case.state)
    return _resident_bytes() - before


track_memory_drift.unit = "bytes"
track_memory_drift.timeout = 120


def _resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
