"""The Activation layer: a function of each element, or of the elements of the last axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._kernels.rowwise import FUNCTIONS
from ..checks import expect_shape, float_array, number, real_array, shown
from .activations import ARGUMENTS, DEFAULTS, ELEMENTWISE, VECTORWISE
from .base import Gradients, Layer, row_stage

if TYPE_CHECKING:
    from ..typing import Array, ArrayLike, Seed
    from .base import Stage, Tape


class Activation(Layer):
    """A function of each element, or of the elements of the last axis.

    Parameters
    ----------
    name : str
        One of LSTM's activations (sigmoid, tanh, relu, affine, leakyrelu, thresholdedrelu, scaledtanh, hardsigmoid,
        elu, softsign, softplus), selu, silu, gelu, exp, or over the last axis softmax, logsoftmax; in upper or lower
        case.
    alpha, beta : float, optional
        As in ONNX, with its defaults: affine alpha * x + beta, hardsigmoid max(0, min(1, alpha * x + beta)), scaledtanh
        alpha * tanh(beta * x); alpha alone for leakyrelu, thresholdedrelu and elu.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import Activation
    >>> Activation("softmax")(np.zeros((2, 4)))
    array([[0.25, 0.25, 0.25, 0.25],
           [0.25, 0.25, 0.25, 0.25]])
    """

    dtype = None  # that of the input

    def __init__(self, name: str, alpha: float | None = None, beta: float | None = None) -> None:
        self.name = name.lower() if isinstance(name, str) else name
        if not isinstance(name, str) or not (self.name in ELEMENTWISE or self.name in VECTORWISE):
            raise ValueError(f"name: expected one of {', '.join([*ELEMENTWISE, *VECTORWISE])}, got {shown(name)}")
        defaults = DEFAULTS.get(self.name, ())[: ARGUMENTS.get(self.name, 0)]
        options = {}
        for index, (option, value) in enumerate({"alpha": alpha, "beta": beta}.items()):
            if index < len(defaults):
                options[option] = defaults[index] if value is None else number(option, value)
            elif value is not None:
                raise ValueError(f"{option}: expected None, because {self.name} has none, got {shown(value)}")
        self.alpha, self.beta = options.get("alpha"), options.get("beta")
        self.config = {"name": self.name} | options
        self._initialize({}, dict)

    def __call__(self, x: ArrayLike) -> Array:
        """Apply the function, for inference.

        Parameters
        ----------
        x : array_like

        Returns
        -------
        ndarray
            In x's shape and, for floats, its dtype.
        """
        return self._applied(_floats(x))

    def forward(self, x: ArrayLike, rng: Seed = None) -> tuple[Array, Tape]:
        """Apply the function, for training.

        Parameters
        ----------
        x : array_like
        rng : None, int or numpy.random.Generator
            Not used.

        Returns
        -------
        y : ndarray
            As from a call.
        tape :
            For `backward`.
        """
        x = _floats(x).copy(order="K")
        y = self._applied(x)
        return y, self._tape(x, y)

    @property
    def function(self) -> tuple[str, float | None, float | None]:  # type: ignore[override]  # its own
        """The name, alpha and beta of the function."""
        return self.name, self.alpha, self.beta

    def stages_for(self, features: int | None, masked: bool) -> list[Stage]:
        """Return how one step is run; raise ValueError where it cannot be."""
        if self.name in VECTORWISE:
            return row_stage(self.name, features)
        function, alpha, beta = FUNCTIONS[self.name], self.alpha or 0.0, self.beta or 0.0
        return row_stage("function", features, function=function, alpha=alpha, beta=beta)

    def _applied(self, x: Array) -> Array:
        """Return the function of x, in a new array."""
        if self.name in VECTORWISE:
            result: Array = VECTORWISE[self.name][0](x)
        else:
            result = ELEMENTWISE[self.name][0](x, self.alpha, self.beta)
        return result

    def output_features(self, features: int | None) -> int | None:
        return features

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
        x, y = self._content_of(tape)
        dy = float_array("dy", dy, y.dtype)
        expect_shape("dy", dy, y.shape, "the shape of y")
        if self.name in VECTORWISE:
            return Gradients(VECTORWISE[self.name][1](dy, y), None, {})
        slope = np.asarray(ELEMENTWISE[self.name][1](x, y, self.alpha, self.beta), y.dtype)
        return Gradients(dy * slope, None, {})


def _floats(x: ArrayLike) -> Array:
    """Return x as an array of floats, without a copy where it is one."""
    array = real_array("x", x)
    return array if array.dtype.kind == "f" else array.astype(np.float32)
