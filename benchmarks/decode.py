"""CTC's prefix beam search: for letters and for a vocabulary of word pieces, with and without a language model.

    OPENBLAS_NUM_THREADS=1 asv run --python=same --quick -b CtcBeam

It measures processor time: a search runs on one thread.
"""

import time

import numpy as np

from lstm_cy import ctc_beam

from .common import REPEAT, need

#: the number of classes per step that the language model scores
LIMIT = 32


def log_probability(prefix, label):
    """Score with a language model that takes almost no time."""
    return -0.001 * label


class CtcBeam:
    """A search with 16 prefixes; divide the time of a call by T for the time of a step."""

    params = ((30, 5000), (50, 800), (False, True))
    param_names = ("classes", "T", "language model")
    repeat = REPEAT
    timer = time.process_time

    def setup(self, classes, steps, with_model):
        need(ctc_beam, "max_classes")
        self.scores = np.random.default_rng(0).normal(scale=3.0, size=(steps, classes)).astype(np.float32)
        self.options = {"language_model": log_probability, "max_classes": LIMIT} if with_model else {}
        start, alone = self.scores[:20], {} if with_model else {"max_classes": classes}
        for found, expected in zip(
            ctc_beam(start, **self.options), ctc_beam(start, **self.options | alone), strict=True
        ):
            if found[0].tolist() != expected[0].tolist() or found[1] != expected[1]:
                raise ArithmeticError(f"ctc_beam of {classes} classes: all classes give another result")

    def time_search(self, classes, steps, with_model):
        ctc_beam(self.scores, **self.options)
