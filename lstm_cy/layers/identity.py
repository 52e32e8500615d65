"""Identity: the base of layers that act in training only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checks import real_array
from .base import Layer

if TYPE_CHECKING:
    from typing import TypeVar

    _T = TypeVar("_T")


class Identity(Layer):
    """A layer whose call returns its input; a subclass defines `forward` and `backward`."""

    dtype = None  # that of the input
    passes_on = True

    def __call__(self, x: _T) -> _T:
        """Return x itself.

        Parameters
        ----------
        x : array_like

        Returns
        -------
        ndarray
        """
        real_array("x", x)
        return x

    def output_features(self, features: int | None) -> int | None:
        return features
