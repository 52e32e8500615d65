"""Models of Keras, from .keras and .h5 files or live."""

from .model import from_keras, read_model

__all__ = ["from_keras", "read_model"]
