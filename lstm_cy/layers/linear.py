"""The Linear layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from .._kernels.affine import Affine
from ..checks import LARGEST_SIDE, dtype_of, expect_shape, flag, float_array, positive_int, real_array, shown
from .base import Gradients, Layer, Stage

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..typing import Array, ArrayLike, DTypeLike, Parameters, Seed
    from .base import Tape


class Linear(Layer):
    """The affine map y = x W^T + b over the last axis.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    tied : None or Embedding (out_features, in_features)
        The Embedding whose ``weight`` is W: one array is both the vectors of tokens and the scores of the next one
        (Press and Wolf, Using the output embedding to improve language models, 2017). The Embedding keeps it: in a
        Sequential of both it appears once, its gradient is the sum of both, and optimizers change it once.
    dtype : {"float32", "float64"}
    seed : None, int or numpy.random.Generator
        Seed or source of the initial parameters, U(-1/sqrt(in), 1/sqrt(in)).

    Notes
    -----
    Parameters: ``weight`` (out, in), unless tied, and ``bias`` (out,).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import Linear
    >>> Linear(3, 2, seed=0)(np.ones((7, 4, 3))).shape
    (7, 4, 2)

    A language model with one table of vectors:

    >>> from lstm_cy import LSTM, Embedding, Sequential
    >>> embedding = Embedding(10, 4, seed=0)
    >>> model = Sequential(embedding, LSTM(4, 4, seed=0), Linear(4, 10, tied=embedding, seed=0))
    >>> [name for name in model.parameters if not name.startswith("1.")]
    ['0.weight', '2.bias']
    """

    dtype: np.dtype[Any]
    _affine: Affine
    _read_only = (*Layer._read_only, "tied", "_affine", "_of_tied")
    #: (weight, bias, the Affine made of them), the last ones of a tied layer
    _of_tied: tuple[Array, Array | None, Affine] | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        tied: Layer | None = None,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
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
        if tied is not None:
            self.tied = self._checked_tied(tied, shapes.pop("weight"))
        self._initialize(
            shapes,
            lambda: {name: rng.uniform(-bound, bound, shape).astype(self.dtype) for name, shape in shapes.items()},
        )

    def _checked_tied(self, tied: Layer, shape: tuple[int, ...]) -> Layer:
        """Return the argument `tied`, an Embedding of this shape and dtype."""
        if not isinstance(tied, Layer) or tied.vocabulary_size is None or "weight" not in tied._parameters:
            raise TypeError(f"tied: expected an Embedding, got {shown(tied)}")
        if tied._parameters["weight"].shape != shape:
            given = tied._parameters["weight"].shape
            raise ValueError(
                f"tied: expected an Embedding of out_features vectors of in_features, {shape}, got {given}"
            )
        if tied.dtype != self.dtype:
            raise ValueError(f"tied: expected an Embedding of dtype {self.dtype}, got {tied.dtype}")
        return tied

    def __getattr__(self, name: str) -> Any:
        # Only a tied layer has no attribute _affine: its weight is replaced in the other layer.
        if name != "_affine" or self.tied is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        weight, bias = self.weight, self._parameters.get("bias")
        made = self._of_tied
        if made is None or made[0] is not weight or made[1] is not bias:
            made = weight, bias, Affine(config.kernels(), config.blas(), self.dtype.itemsize, weight, bias)
            self.__dict__["_of_tied"] = made
        return made[2]

    @property
    def weight(self) -> Array:
        """W (out, in), read-only: the parameter, or that of the Embedding to which the layer is tied."""
        return (self if self.tied is None else self.tied)._parameters["weight"]

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | ({} if self.tied is None else {"tied": self.tied})

    def __reduce__(self) -> tuple[Any, ...]:
        if self.tied is None:
            return super().__reduce__()
        return _rebuilt_tied, (type(self), self.tied, self.config, self.stored()), self._extra_attributes()

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
        if arguments.get("tied") is not None:
            return 0
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
        if self.tied is not None:
            return {}
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
            `x` and `parameters`; of a tied layer with ``weight`` too, to be added to that of the Embedding.
        """
        return self._propagated(tape, dy, ("weight", "bias"))

    def partial_backward(self, tape: Any, dy: Any, names: Collection[str]) -> Gradients:
        if not self._goes_back_as(Linear):
            return super().partial_backward(tape, dy, names)
        return self._propagated(tape, dy, names)

    def _propagated(self, tape: Tape, dy: ArrayLike, names: Collection[str]) -> Gradients:
        affine = self._affine
        (x,) = self._content_of(tape, affine)
        dy = float_array("dy", dy, self.dtype)
        expect_shape("dy", dy, (*x.shape[:-1], self.out_features), "the shape of y")
        dx, arrays = np.empty_like(x), {"weight": self.weight, **self._parameters}
        gradients = {name: np.zeros_like(array) for name, array in arrays.items() if name in names}
        rows = x.reshape(-1, self.in_features), dy.reshape(-1, self.out_features), dx.reshape(-1, self.in_features)
        affine.backward(*rows, gradients.get("weight"), gradients.get("bias"))
        return Gradients(dx, None, gradients)


def _rebuilt_tied(kind: type[Linear], tied: Layer, config: dict[str, Any], arrays: Parameters) -> Linear:
    """Make a tied layer from its pickle."""
    layer = kind.blank(**config, tied=tied)
    layer.restore(arrays)
    return layer
