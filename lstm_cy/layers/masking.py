"""The Masking layer, which marks padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import dtype_of, expect_shape, float_array, number
from .base import Gradients, Layer, row_stage

if TYPE_CHECKING:
    from ..typing import Array, ArrayLike, Bools, DTypeLike, Seed
    from .base import Stage, Tape


class Masking(Layer):
    """Treats steps whose features all equal `mask_value` as padding: zeroes them and masks them for later layers.

    Parameters
    ----------
    mask_value : float
    dtype : {"float32", "float64"}
        The dtype of x and y; `mask_value` is compared in it.

    Examples
    --------
    >>> from lstm_cy import Masking
    >>> Masking(-1.0)([[1.0, -1.0], [-1.0, -1.0]])
    array([[ 1., -1.],
           [ 0.,  0.]], dtype=float32)
    """

    masks = needs_steps = True
    dtype: np.dtype[Any]

    def __init__(self, mask_value: float = 0.0, *, dtype: DTypeLike = "float32") -> None:
        self.mask_value = number("mask_value", mask_value)
        self.dtype = dtype_of(dtype)
        float_array("mask_value", self.mask_value, self.dtype)
        self.config = {"mask_value": self.mask_value, "dtype": self.dtype.name}
        self._initialize({}, dict)

    def __call__(self, x: ArrayLike) -> Array:
        """Return x with zeros where a step is padding.

        Parameters
        ----------
        x : array_like (..., features)

        Returns
        -------
        ndarray
            In x's shape.
        """
        return self.forward(x)[0]

    def forward(self, x: ArrayLike, rng: Seed = None) -> tuple[Array, Tape]:
        """Return x with zeros where a step is padding, for training.

        Parameters
        ----------
        x : array_like (..., features)
        rng : None, int or numpy.random.Generator
            Not used.

        Returns
        -------
        y : ndarray
            As from a call.
        tape :
            For `backward`.
        """
        x = float_array("x", x, self.dtype)
        valid = self.valid(x)[..., None]
        return np.where(valid, x, 0), self._tape(valid, x.shape)

    def output_features(self, features: int | None) -> int | None:
        return features

    def stages_for(self, features: int | None, masked: bool) -> list[Stage]:
        """Return how one step is run; raise ValueError where it cannot be."""
        return row_stage("masks", features, alpha=self.mask_value)

    def backward(self, tape: Tape, dy: ArrayLike) -> Gradients:
        """Propagate a gradient back through the forward pass that made `tape`.

        Parameters
        ----------
        tape :
            From `forward`.
        dy : array_like in y's shape

        Returns
        -------
        Gradients
            `x`.
        """
        valid, shape = self._content_of(tape)
        dy = float_array("dy", dy, self.dtype)
        expect_shape("dy", dy, shape, "the shape of y")
        return Gradients(np.where(valid, dy, 0), None, {})

    def valid(self, x: ArrayLike) -> Bools:
        """Return True where a step is not padding.

        Parameters
        ----------
        x : array_like (..., features)

        Returns
        -------
        ndarray of bool
            In x's shape without the features.
        """
        x = float_array("x", x, self.dtype)
        if x.ndim < 2:
            raise ValueError(f"x: expected shape (..., T, features), got {x.shape}")
        result: Bools = (x != self.dtype.type(self.mask_value)).any(axis=-1)
        return result
