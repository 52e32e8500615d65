"""Normalisation of features: by stored statistics, or over the features of each step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._kernels.rowwise import normalize
from ..checks import dtype_of, expect_shape, float_array, number, positive_int
from .base import Gradients, Layer, row_stage

if TYPE_CHECKING:
    from ..typing import Array, ArrayLike, DTypeLike, Parameters, Seed
    from .base import Stage, Tape


class _Normalization(Layer):
    """A layer of (..., features) that scales normalised features by `weight` and adds `bias`."""

    dtype: np.dtype[Any]
    _initial: dict[str, float]

    def __init__(self, features: int, *, eps: float, dtype: DTypeLike = "float32") -> None:
        self.features, self.eps = positive_int("features", features), number("eps", eps, 0.0)
        self.dtype = dtype_of(dtype)
        self.config = {"features": self.features, "eps": self.eps, "dtype": self.dtype.name}
        shapes = dict.fromkeys(self._initial, (self.features,))
        self._initialize(
            shapes, lambda: {name: np.full(self.features, one, self.dtype) for name, one in self._initial.items()}
        )

    @classmethod
    def least_size(cls, arguments: dict[str, Any]) -> int:
        """Return the least number of weights of a layer with these arguments, from a file, without making it."""
        return len(cls._initial) * positive_int(f"{cls.__name__}: features", arguments.get("features"))

    @property
    def input_features(self) -> int:
        return self.features

    def output_features(self, features: int | None) -> int:
        return self.features

    def __call__(self, x: ArrayLike) -> Array:
        """Apply the layer.

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
        """Apply the layer, for training.

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
            For `backward`, until the parameters change.
        """
        parameters = self._parameters
        x = float_array("x", x, self.dtype)
        if x.ndim == 0 or x.shape[-1] != self.features:
            raise ValueError(f"x: expected shape (..., features) with features = {self.features}, got {x.shape}")
        normal, scale = self._normalized(x, parameters)
        y = normal * parameters["weight"] + parameters["bias"]
        return y, self._tape(normal, scale, made_with=parameters)

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
        parameters = self._parameters
        normal, scale = self._content_of(tape, parameters)
        dy = float_array("dy", dy, self.dtype)
        expect_shape("dy", dy, normal.shape, "the shape of y")
        rows = dy.reshape(-1, self.features)
        gradients = {"weight": (rows * normal.reshape(rows.shape)).sum(axis=0), "bias": rows.sum(axis=0)}
        return Gradients(self._input_gradient(dy * parameters["weight"], normal, scale), None, gradients)

    def _normalized(self, x: Array, parameters: Parameters) -> tuple[Array, Array]:
        """Return the normalised features and the factor that they were multiplied by."""
        raise NotImplementedError

    def _input_gradient(self, dnormal: Array, normal: Array, scale: Array) -> Array:
        raise NotImplementedError


class BatchNormalization(_Normalization):
    """Normalise each feature by stored statistics: weight * (x - running_mean) / sqrt(running_var + eps) + bias.

    Parameters
    ----------
    features : int
        The number of features.
    eps : float
        Added to the variance.
    dtype : {"float32", "float64"}
        The dtype of parameters and y.

    Notes
    -----
    The statistics are those of the model that it was read from; training leaves them as they are and learns ``weight``
    and ``bias``, as Keras does for a layer that is not trainable and PyTorch in evaluation. All four parameters are
    (features,); `frozen_parameters` names the statistics.

    Source: Ioffe and Szegedy, Batch Normalization (2015).

    Examples
    --------
    >>> from lstm_cy import BatchNormalization
    >>> layer = BatchNormalization(2, eps=0.0)
    >>> layer.load_state_dict({"weight": [1, 1], "bias": [0, 0], "running_mean": [1, 2], "running_var": [4, 4]})
    >>> layer([3.0, 2.0])
    array([1., 0.], dtype=float32)
    """

    frozen_parameters = ("running_mean", "running_var")
    _initial = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}  # noqa: RUF012

    def __init__(self, features: int, *, eps: float = 1e-3, dtype: DTypeLike = "float32") -> None:
        super().__init__(features, eps=eps, dtype=dtype)

    def stages_for(self, features: int | None, masked: bool) -> list[Stage]:
        """Return how one step is run; raise ValueError where it cannot be."""
        vectors = [self._parameters[name] for name in ("weight", "bias", "running_mean")]
        scale = 1 / np.sqrt(self._parameters["running_var"] + self.dtype.type(self.eps))
        return row_stage("scaled", self.features, vectors=[np.ascontiguousarray(one) for one in (*vectors, scale)])

    def _normalized(self, x: Array, parameters: Parameters) -> tuple[Array, Array]:
        scale = 1 / np.sqrt(parameters["running_var"] + self.dtype.type(self.eps))
        return (x - parameters["running_mean"]) * scale, scale

    def _input_gradient(self, dnormal: Array, normal: Array, scale: Array) -> Array:
        return dnormal * scale


class LayerNormalization(_Normalization):
    """Normalise the features of each step: weight * (x - mean) / sqrt(variance + eps) + bias.

    Parameters
    ----------
    features : int
        The number of features, over which mean and variance are computed.
    eps : float
        Added to the variance.
    dtype : {"float32", "float64"}
        The dtype of parameters and y.

    Notes
    -----
    Parameters: ``weight`` and ``bias`` (features,).

    Source: Ba, Kiros and Hinton, Layer Normalization (2016).

    Examples
    --------
    >>> from lstm_cy import LayerNormalization
    >>> LayerNormalization(2, eps=0.0)([1.0, 3.0])
    array([-1.,  1.], dtype=float32)
    """

    _initial = {"weight": 1.0, "bias": 0.0}  # noqa: RUF012

    def __init__(self, features: int, *, eps: float = 1e-3, dtype: DTypeLike = "float32") -> None:
        super().__init__(features, eps=eps, dtype=dtype)

    def stages_for(self, features: int | None, masked: bool) -> list[Stage]:
        """Return how one step is run; raise ValueError where it cannot be."""
        vectors = [np.ascontiguousarray(self._parameters[name]) for name in ("weight", "bias")]
        return row_stage("normalized", self.features, alpha=self.eps, vectors=vectors)

    def _normalized(self, x: Array, parameters: Parameters) -> tuple[Array, Array]:
        normal, scale = np.empty(x.shape, self.dtype), np.empty((*x.shape[:-1], 1), self.dtype)
        rows = np.ascontiguousarray(x).reshape(-1, self.features)
        normalize(rows, self.eps, normal.reshape(rows.shape), scale.reshape(-1))
        return normal, scale

    def _input_gradient(self, dnormal: Array, normal: Array, scale: Array) -> Array:
        mean = dnormal.mean(axis=-1, keepdims=True)
        along = (dnormal * normal).mean(axis=-1, keepdims=True)
        result: Array = (dnormal - mean - normal * along) * scale
        return result
