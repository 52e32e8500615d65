"""Models as files for other languages.

`c99` writes a model as one C99 file.
"""

from .writing import c99

__all__ = ["c99"]
