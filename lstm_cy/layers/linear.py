"""The Linear layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from .._kernels.affine import Affine
from ..checks import LARGEST_SIDE, dtype_of, expect_shape, flag, float_array, positive_int, real_array
from .base import Gradients, Layer, Stage

if TYPE_CHECKING:
    from ..typing import Array, ArrayLike, DTypeLike, Parameters, Seed
    from .base import Tape


class Linear(Layer):
    """The affine map y = x W^T + b over the last axis.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype : {"float32", "float64"}
    seed : None, int or numpy.random.Generator
        Seed or source of the initial parameters, U(-1/sqrt(in), 1/sqrt(in)).

    Notes
    -----
    Parameters: ``weight`` (out, in), ``bias`` (out,).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import Linear
    >>> Linear(3, 2, seed=0)(np.ones((7, 4, 3))).shape
    (7, 4, 2)
    """

    dtype: np.dtype[Any]
    _affine: Affine
    _read_only = (*Layer._read_only, "_affine")

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, dtype: DTypeLike = "float32", seed: Seed = None
    ) -> None:
        self.in_features = positive_int("in_features", in_features)
        self.out_features = positive_int("out_features", out_features)
        if max(self.in_features, self.out_features) > LARGEST_SIDE:
            raise ValueError(
                f"in_features, out_features: expected up to {LARGEST_SIDE}, "
                f"got {self.in_features} and {self.out_features}"
            )
        self.bias = flag("bias", bias)
        self.dtype = dtype_of(dtype)
        self.config = {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias,
            "dtype": self.dtype.name,
        }
        rng = self._generator(seed)
        bound = 1 / np.sqrt(self.in_features)
        shapes = {"weight": (self.out_features, self.in_features)} | ({"bias": (self.out_features,)} if bias else {})
        self._initialize(
            shapes,
            lambda: {name: rng.uniform(-bound, bound, shape).astype(self.dtype) for name, shape in shapes.items()},
        )

    def __call__(self, x: ArrayLike) -> Array:
        """Apply the layer.

        Parameters
        ----------
        x : array_like (..., in_features)

        Returns
        -------
        ndarray (..., out_features)
        """
        return self._applied(self._affine, self._input(x))

    def forward(self, x: ArrayLike, rng: Seed = None) -> tuple[Array, Tape]:
        """Apply the layer, for training.

        Parameters
        ----------
        x : array_like (..., in_features)
        rng : None, int or numpy.random.Generator
            Not used.

        Returns
        -------
        y : ndarray
            As from a call.
        tape :
            For `backward`, until the parameters change; it keeps a copy of x.
        """
        affine, x = self._affine, self._input(x).copy()
        return self._applied(affine, x), self._tape(x, made_with=affine)

    @property
    def input_features(self) -> int:
        return self.in_features

    def output_features(self, features: int | None) -> int:
        return self.out_features

    def _input(self, x: ArrayLike) -> Array:
        x = real_array("x", x)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x: expected shape (..., in_features) with in_features = {self.in_features}, got {x.shape}"
            )
        return float_array("x", x, self.dtype)

    @classmethod
    def least_size(cls, arguments: dict[str, Any]) -> int:
        """Return the least number of weights of a layer with these arguments, from a file, without making it."""
        return math.prod(
            positive_int(f"Linear: {name}", arguments.get(name)) for name in ("in_features", "out_features")
        )

    def stage(self) -> Stage:
        """Return how one step is run."""
        return Stage(self.in_features, self.out_features, self._affine)

    def _applied(self, affine: Affine, x: Array) -> Array:
        y = np.empty((*x.shape[:-1], self.out_features), self.dtype)
        affine(x.reshape(-1, self.in_features), y.reshape(-1, self.out_features))
        return y

    def _packed(self, parameters: Parameters) -> dict[str, Any]:
        arrays = parameters["weight"], parameters.get("bias")
        return {"_affine": Affine(config.kernels(), config.blas(), self.dtype.itemsize, *arrays)}

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
            `x` and `parameters`.
        """
        affine = self._affine
        (x,) = self._content_of(tape, affine)
        dy = float_array("dy", dy, self.dtype)
        expect_shape("dy", dy, (*x.shape[:-1], self.out_features), "the shape of y")
        dx, gradients = np.empty_like(x), {name: np.zeros_like(value) for name, value in self._parameters.items()}
        rows = x.reshape(-1, self.in_features), dy.reshape(-1, self.out_features), dx.reshape(-1, self.in_features)
        affine.backward(*rows, gradients["weight"], gradients.get("bias"))
        return Gradients(dx, None, gradients)
