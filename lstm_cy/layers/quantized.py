"""LSTMs with narrow weights, for inference only, in less memory and time, and their loss of accuracy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import float_array, one_of
from .narrow import KINDS, NARROW, SCALE, to_bf16, to_int8, widened
from .recurrent import Recurrent

if TYPE_CHECKING:
    from typing import NoReturn

    from ..typing import Array, ArrayLike, Narrow, Parameters, Seed
    from .base import Steps
    from .lstm import LSTM

_LAYER = re.compile(r"_l(\d+)")


_READ_ONLY = "narrow weights are read-only; train the float32 layer and quantize again"


class NotTrainable(AttributeError, TypeError):
    """A method of LSTM that narrow weights do not have, by a message that says what to do instead."""


class QuantizedLSTM(Recurrent):
    """An LSTM with narrow weights, which has the same calls but cannot be trained; made by `LSTM.quantize`.

    Parameters
    ----------
    input_size, hidden_size, num_layers :
        As for LSTM.
    weights : {"bf16", "int8"}
        How the weights are stored.
    **options
        As for LSTM; the dtype is float32.

    Attributes
    ----------
    report : dict or None
        The measurements of `LSTM.quantize`; None after loading.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong; the message names it.

    Notes
    -----
    bf16: each weight is the float32 without its lower 16 bits, rounded to nearest even. The layer's input and h are
    rounded in the same way where they are multiplied; sums, biases, states and cell are float32.

    int8: w is round(w / s) * s with s = max(abs(row of w)) / 127, a scale for each row. The layer's input and h are
    also rounded, to round(x / s_x) * s_x with s_x = max(abs(x)) / 127, for each row of the batch and each step (in
    parts of 4096 if there are more inputs). Products are summed exactly, as integers; biases, states and cell are
    float32. A row without a value above 2^-100 counts as zero; one with NaN or infinity becomes NaN from that step on.

    `parameters` and `state_dict` compute the weights as float32 on each access: the layer does not store them.

    Examples
    --------
    >>> from lstm_cy import LSTM
    >>> narrow = LSTM(3, 5, seed=0).quantize("int8")
    >>> y, (h_n, c_n) = narrow([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    >>> y.shape, y.dtype.name
    ((2, 5), 'float32')
    """

    report: dict[str, Any] | None = None

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, weights: Narrow, **options: Any
    ) -> None:
        self.weights = one_of("weights", weights, KINDS)
        super().__init__(input_size, hidden_size, num_layers, **options)
        if self.dtype != np.float32:
            raise ValueError(f"dtype: expected 'float32' with narrow weights, got {self.dtype.name!r}")

    @property
    def parameters(self) -> Parameters:
        """The values of the narrow weights, {name: read-only float32 array}, under PyTorch's names."""
        arrays = self.state_dict()
        for array in arrays.values():
            array.flags.writeable = False
        return arrays

    def state_dict(self) -> Parameters:
        """Return `parameters` as writable arrays; an LSTM takes them with `load_state_dict`."""
        stored = self._parameters
        return {
            name: array.copy() if array.dtype == np.float32 else widened(array, stored.get(name + SCALE))
            for name, array in stored.items()
            if not name.endswith(SCALE)
        }

    def _check_writable(self) -> NoReturn:
        raise TypeError(_READ_ONLY)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {name: shape} of the stored arrays."""
        shapes = {}
        for name, shape in super()._shapes().items():
            shapes[name] = shape
            if self.weights == "int8" and name.startswith(NARROW):
                shapes[name + SCALE] = shape[:1]
        return shapes

    def _initialize(self, shapes: Any, draw: object) -> None:  # type: ignore[override]  # it sets the dtypes
        """Set zeros as parameters until `restore`."""
        self.config = self._config | {"weights": self.weights}
        narrow = np.uint16 if self.weights == "bf16" else np.int8
        dtypes = {name: narrow for name in shapes if name.startswith(NARROW) and not name.endswith(SCALE)}
        super()._initialize(
            shapes,
            lambda: {name: np.zeros(shape, dtypes.get(name, np.float32)) for name, shape in shapes.items()},
            dtypes,
        )

    def _size(self) -> tuple[int, int]:
        numbers, size = super()._size()
        return numbers - sum(array.size for name, array in self._parameters.items() if name.endswith(SCALE)), size

    def _weight(self, parameters: Parameters, name: str) -> tuple[Array, Array | None]:
        return parameters[name], parameters.get(name + SCALE)

    def _products(self) -> None:
        return None  # BLAS has none for narrow weights

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("forward", "backward"):
            raise NotTrainable(f"{name}: {_READ_ONLY}")
        if name == "quantize":
            raise NotTrainable(f"quantize: {self._narrow_already()}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def run_forward(self, x: Any, states: list[Any], steps: Steps, rng: Seed) -> NoReturn:
        """Raise: narrow weights cannot be trained."""
        self._check_writable()

    def quantized(self, kind: Narrow, sample: ArrayLike | None) -> NoReturn:
        """Raise: the weights are narrow already."""
        raise TypeError(f"quantize: {self._narrow_already()}")

    def _narrow_already(self) -> str:
        return f"expected an LSTM with float32 weights, got one with {self.weights} weights"


def quantize(lstm: LSTM, kind: Narrow, sample: ArrayLike | None = None) -> QuantizedLSTM:
    """Quantize an LSTM; see `LSTM.quantize`."""
    one_of("kind", kind, KINDS)
    if lstm.dtype != np.float32:
        raise ValueError(f"quantize: expected a float32 layer, got {lstm.dtype.name}")
    sample, described = _sample(lstm, sample)
    narrow = QuantizedLSTM.blank(**lstm.config, weights=kind)
    stored = {}
    for name, array in lstm.parameters.items():
        if not name.startswith(NARROW):
            stored[name] = array
        elif kind == "bf16":
            stored[name] = to_bf16(name, array)
        else:
            stored[name], stored[name + SCALE] = to_int8(name, array)
    narrow.restore(stored, copy=False)
    narrow.take_metadata(lstm)
    narrow.report = {
        "sample": described,
        "layers": _errors(lstm, narrow, sample),
        "bytes_before": sum(array.nbytes for array in lstm.parameters.values()),
        "bytes_after": sum(array.nbytes for array in stored.values()),
    }
    return narrow


def _sample(lstm: LSTM, sample: ArrayLike | None) -> tuple[Array, str]:
    """Return (x for the layer, its description for the report)."""
    if sample is None:
        shape = (1, 100, lstm.input_size) if lstm.batch_first else (100, 1, lstm.input_size)
        return np.random.default_rng(0).standard_normal(shape, np.float32), "standard normal, T = 100, B = 1, seed 0"
    sample = float_array("sample", sample, lstm.dtype)
    if sample.ndim not in (2, 3) or sample.shape[-1] != lstm.input_size or sample.size == 0:
        axes = "(B, T, I)" if lstm.batch_first else "(T, B, I)"
        raise ValueError(
            f"sample: expected shape {axes} or (T, I), not empty, with I = {lstm.input_size}, got {sample.shape}"
        )
    if not np.isfinite(sample).all():
        raise ValueError("sample: expected finite numbers, got NaN or infinity")
    return sample, f"given, {sample.shape}"


def _errors(lstm: Recurrent, narrow: Recurrent, x: Array) -> list[dict[str, float]]:
    """Return for each layer {"largest", "rms"} of its output's error, when it and all layers below it are narrow."""
    errors, x_narrow = [], x
    for layer in range(lstm.num_layers):
        x, _ = _layer_of(lstm, layer)(x)
        x_narrow, _ = _layer_of(narrow, layer)(x_narrow)
        difference = np.float64(x_narrow) - x
        errors.append({"largest": float(np.abs(difference).max()), "rms": float(np.sqrt(np.square(difference).mean()))})
    return errors


def _layer_of(lstm: Recurrent, layer: int) -> Recurrent:
    """Return one layer of `lstm` as an LSTM with a single layer."""
    config = lstm.config | {"input_size": lstm.layer_inputs(layer), "num_layers": 1, "dropout": 0.0}
    single = type(lstm).blank(**config)
    own = {name: array for name, array in lstm.stored().items() if int(_LAYER.findall(name)[0]) == layer}
    single.restore({_LAYER.sub("_l0", name): array for name, array in own.items()}, copy=False)
    return single
