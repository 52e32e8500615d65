"""The Dropout layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..checks import expect_shape, float_array, generator, number, real_array
from .base import Gradients
from .identity import Identity

if TYPE_CHECKING:
    from ..typing import Array, ArrayLike, Seed
    from .base import Tape


class Dropout(Identity):
    """Zeroes elements with probability p and scales the others by 1 / (1 - p) in training; else returns x.

    Parameters
    ----------
    p : float

    Notes
    -----
    Source: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting (2014).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import Dropout
    >>> y, tape = Dropout(0.5).forward(np.ones(8), rng=0)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = number("p", p, 0.0, 1.0)
        self.config = {"p": self.p}
        self._initialize({}, dict)

    def forward(self, x: ArrayLike, rng: Seed = None) -> tuple[Array, Tape]:
        """Drop elements.

        Parameters
        ----------
        x : array_like
            Floats.
        rng : None, int or numpy.random.Generator
            Seed or source of the dropout mask; None for a new random seed.

        Returns
        -------
        y : ndarray
            In x's shape.
        tape :
            For `backward`.
        """
        x = real_array("x", x)
        if x.dtype.kind != "f":
            raise TypeError(f"x: expected an array of floats, got dtype {x.dtype}")
        keep = generator("rng", rng).random(x.shape, dtype=np.float32) >= self.p
        factors = keep * x.dtype.type(1 / (1 - self.p) if self.p < 1 else 0)
        return x * factors, self._tape(factors)

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
        (factors,) = self._content_of(tape)
        dy = float_array("dy", dy, factors.dtype)
        expect_shape("dy", dy, factors.shape, "the shape of y")
        return Gradients(dy * factors, None, {})
