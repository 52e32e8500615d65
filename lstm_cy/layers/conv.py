"""The Conv1D layer: a convolution over the steps of sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from .._kernels.affine import Affine
from ..checks import dtype_of, expect_shape, flag, float_array, positive_int
from .base import Gradients, row_stage
from .stepwise import Windowed
from .windows import padded, padding_of, pads_of, scattered, windows_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..typing import Array, ArrayLike, DTypeLike, Parameters, Seed
    from .base import Stage, Tape

_SIZES = ("in_features", "out_features", "kernel_size")


class Conv1D(Windowed):
    """Convolution over the steps of sequences.

    y[t] = bias + sum over k of weight[:, :, k] @ x[t * stride + k * dilation - pad]

    Parameters
    ----------
    in_features, out_features : int
        Features of x and of y.
    kernel_size : int
        Steps that one output is computed from.
    stride : int
        Steps of x from one output to the next.
    padding : {"valid", "same", "causal"}
        Zeros around x: none; so that there are ceil(T / stride) outputs, with the odd one at the end, as in Keras; or
        only before the first step, so that no output depends on a later step.
    dilation : int
        Steps between those that one output is computed from.
    groups : int
        The features are split into so many groups that do not mix.
    bias : bool
        Add `bias`.
    batch_first : bool
        x is (B, T, in_features) rather than (T, B, in_features).
    dtype : {"float32", "float64"}
        The dtype of parameters and y.
    seed : None, int or numpy.random.Generator
        Source of the initial parameters, uniform within 1 / sqrt(in_features / groups * kernel_size).

    Notes
    -----
    Parameters, in PyTorch's layout: ``weight`` (out_features, in_features / groups, kernel_size), ``bias``
    (out_features,). In a Sequential it takes no lengths, mask and reset, because zeros at the end of a row would reach
    its last outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Conv1D, Sequential
    >>> model = Sequential(Conv1D(3, 8, 5, stride=2, batch_first=True), LSTM(8, 4, batch_first=True))
    >>> model(np.zeros((2, 21, 3)))[0].shape
    (2, 9, 4)
    """

    dtype: np.dtype[Any]
    _affines: list[Affine]
    _read_only = (*Windowed._read_only, "is_causal", "_affines")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: str = "valid",
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ) -> None:
        self.in_features = positive_int("in_features", in_features)
        self.out_features = positive_int("out_features", out_features)
        self.kernel_size = positive_int("kernel_size", kernel_size)
        self.stride, self.dilation = positive_int("stride", stride), positive_int("dilation", dilation)
        self.groups = positive_int("groups", groups)
        if self.in_features % self.groups or self.out_features % self.groups:
            sizes = f"{self.in_features} and {self.out_features}"
            raise ValueError(f"groups: expected a divisor of in_features and out_features, {sizes}, got {groups}")
        self.padding = padding_of(padding)
        self.bias, self.batch_first = flag("bias", bias), flag("batch_first", batch_first)
        self.is_causal = self.padding == "causal"
        self.dtype = dtype_of(dtype)
        self.config = {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "bias": self.bias,
            "batch_first": self.batch_first,
            "dtype": self.dtype.name,
        }
        rng = self._generator(seed)
        read = self.in_features // self.groups
        bound = 1 / np.sqrt(read * self.kernel_size)
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, read, self.kernel_size)}
        shapes |= {"bias": (self.out_features,)} if self.bias else {}
        self._initialize(
            shapes,
            lambda: {name: rng.uniform(-bound, bound, shape).astype(self.dtype) for name, shape in shapes.items()},
        )

    @classmethod
    def least_size(cls, arguments: dict[str, Any]) -> int:
        """Return the least number of weights of a layer with these arguments, from a file, without making it."""
        inputs, outputs, length = (positive_int(f"Conv1D: {name}", arguments.get(name)) for name in _SIZES)
        return inputs // positive_int("Conv1D: groups", arguments.get("groups", 1)) * outputs * length

    @classmethod
    def cost(cls, arguments: dict[str, Any]) -> int:
        """Return the number of objects that a layer with these arguments, from a file, is made of, roughly."""
        return 24 + 12 * positive_int("Conv1D: groups", arguments.get("groups", 1))

    @property
    def input_features(self) -> int:
        return self.in_features

    def output_features(self, features: int | None) -> int:
        return self.out_features

    def forward(self, x: ArrayLike, rng: Seed = None) -> tuple[Array, Tape]:
        """Apply the layer, for training.

        Parameters
        ----------
        x : array_like
            As in a call.
        rng : None, int or numpy.random.Generator
            Not used.

        Returns
        -------
        y : ndarray
            As from a call.
        tape :
            For `backward`, until the parameters change; it keeps the windows of x, kernel_size times x.
        """
        affines = self._affines
        x, axes = self._rows_first(x)
        pads = pads_of(x.shape[1:2], [self.kernel_size], [self.stride], [self.dilation], self.padding)
        filled = padded(x, pads)
        windows = windows_of(filled, [self.kernel_size], [self.stride], [self.dilation])
        B, outputs = windows.shape[:2]
        columns = [
            np.ascontiguousarray(part).reshape(B * outputs, -1) for part in np.split(windows, self.groups, axis=2)
        ]
        parts = [np.empty((B * outputs, self.out_features // self.groups), self.dtype) for _ in affines]
        for affine, rows, part in zip(affines, columns, parts, strict=True):
            affine(rows, part)
        y = parts[0] if self.groups == 1 else np.concatenate(parts, axis=1)
        y = y.reshape(B, outputs, self.out_features)
        return self._as_given(y, axes), self._tape(columns, filled.shape, pads, axes, y.shape, made_with=affines)

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
        return self._propagated(tape, dy, self._parameters)

    def partial_backward(self, tape: Any, dy: Any, names: Collection[str]) -> Gradients:
        if not self._goes_back_as(Conv1D):
            return super().partial_backward(tape, dy, names)
        return self._propagated(tape, dy, names)

    def _propagated(self, tape: Tape, dy: ArrayLike, names: Collection[str]) -> Gradients:
        affines = self._affines
        columns, shape, ((before, after),), axes, y_shape = self._content_of(tape, affines)
        dy = float_array("dy", dy, self.dtype)
        expect_shape("dy", dy, self._as_given(np.broadcast_to(dy.dtype.type(), y_shape), axes).shape, "the shape of y")
        dy = self._swapped(dy[None] if axes == 2 else dy, axes).reshape(-1, self.out_features)
        gradients = {name: np.zeros_like(array) for name, array in self._parameters.items() if name in names}
        width = self.out_features // self.groups
        dcolumns = []
        for group, (affine, rows) in enumerate(zip(affines, columns, strict=True)):
            part = slice(group * width, (group + 1) * width)
            drows = np.empty_like(rows)
            bias = gradients["bias"][part] if "bias" in gradients else None
            # a view: the parts of the weight are contiguous
            weight = gradients["weight"][part].reshape(width, -1) if "weight" in gradients else None
            affine.backward(rows, np.ascontiguousarray(dy[:, part]), drows, weight, bias)
            dcolumns.append(drows.reshape(*y_shape[:2], -1, self.kernel_size))
        dx = scattered(np.concatenate(dcolumns, axis=2), shape, self.stride, self.dilation)
        return Gradients(self._as_given(dx[:, before : shape[1] - after], axes), None, gradients)

    def stages_for(self, features: int | None, masked: bool) -> list[Stage]:
        """Return how one step is run; raise ValueError where it cannot be."""
        self.refuse_masks(masked)
        if self.padding == "same":
            raise ValueError(
                "expected padding 'valid' or 'causal', since 'same' needs later steps, got a Conv1D with it"
            )
        wait = 0 if self.padding == "causal" else (self.kernel_size - 1) * self.dilation
        sizes = {"size": self.kernel_size, "stride": self.stride, "dilation": self.dilation, "wait": wait}
        return row_stage("convolution", self.in_features, self.out_features, affines=self._affines, **sizes)

    def _packed(self, parameters: Parameters) -> dict[str, Any]:
        weights = np.split(parameters["weight"].reshape(self.out_features, -1), self.groups)
        biases = np.split(parameters["bias"], self.groups) if self.bias else [None] * self.groups
        made = zip(weights, biases, strict=True)
        return {"_affines": [Affine(config.kernels(), config.blas(), self.dtype.itemsize, *arrays) for arrays in made]}
