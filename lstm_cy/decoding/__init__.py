"""Decoding: choose tokens, labels and text from the scores of a model."""

from .beam import Hypothesis, beam_search
from .ctc import CTCDecoder, ctc_beam, ctc_greedy
from .language_model import generate, negative_log_likelihood, surprise
from .sampling import sample

__all__ = [
    "CTCDecoder",
    "Hypothesis",
    "beam_search",
    "ctc_beam",
    "ctc_greedy",
    "generate",
    "negative_log_likelihood",
    "sample",
    "surprise",
]
