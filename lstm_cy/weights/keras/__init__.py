"""Models of Keras, from .keras and .h5 files or live, and the LSTMs and arrays of such files."""

from .lstms import lstms, read
from .model import from_keras, read_model

__all__ = ["from_keras", "lstms", "read", "read_model"]
