"""Narrow weights, bf16 or int8: LSTMs for inference only, in less memory and time, and their loss of accuracy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import float_array, one_of
from .layer import Steps
from .layers import Sequential, run_layers
from .lstm import LSTM

if TYPE_CHECKING:
    from typing import NoReturn

    from .layer import Layer
    from .typing import Array, ArrayLike, Narrow, Parameters

KINDS = ("bf16", "int8")
#: suffix of the name of the scales, one for each row of an int8 weight
SCALE = "_scale"
#: prefixes of the names of the parameters that are stored narrow
NARROW = ("weight_ih", "weight_hh")
_LAYER = re.compile(r"_l(\d+)")


class QuantizedLSTM(LSTM):
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
    bf16: each weight is the float32 without its lower 16 bits, rounded to nearest even; everything else is float32.

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

    def quantize(self, kind: Narrow, sample: ArrayLike | None = None) -> NoReturn:
        """Raise: the weights are narrow already."""
        raise TypeError(f"quantize: expected an LSTM with float32 weights, got one with {self.weights} weights")

    def _check_writable(self) -> NoReturn:
        raise TypeError("narrow weights are read-only; train the float32 layer and quantize again")

    def forward(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        threads: Any = None,
        rng: Any = None,
    ) -> NoReturn:
        """Raise: narrow weights cannot be trained."""
        self._check_writable()

    def backward(self, tape: Any, dy: Any = None, dstate: Any = None) -> NoReturn:
        """Raise: narrow weights cannot be trained."""
        self._check_writable()

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
    narrow.report = {
        "sample": described,
        "layers": _errors(lstm, narrow, sample),
        "bytes_before": sum(array.nbytes for array in lstm.parameters.values()),
        "bytes_after": sum(array.nbytes for array in stored.values()),
    }
    return narrow


def quantize_model(model: Sequential, kind: Narrow, sample: ArrayLike | None = None) -> Sequential:
    """Quantize the LSTMs of a model; see `Sequential.quantize`."""
    layers: list[Layer] = []
    narrowed: dict[int, Layer] = {}  # a layer that is used several times stays one layer
    report: dict[Any, Any] = {}
    steps = Steps()
    for index, layer in enumerate(model.layers):
        narrow = layer.quantized(kind, sample)
        if narrow is not layer:
            report[index] = narrow.report
        layers.append(narrowed.setdefault(id(layer), narrow))
        if sample is not None:
            sample, _, steps = run_layers([layer], sample, [None] * layer.num_states, steps)
    if not report:
        raise ValueError("quantize: expected a model with an LSTM in it, got none")
    quantized = Sequential(*layers)
    quantized.report = report
    return quantized


def to_bf16(name: str, weight: Array) -> Array:
    """Convert a float32 array to bf16, as uint16, rounded to nearest, ties to even.

    Raises
    ------
    ValueError
        `weight` holds NaN, infinity or a number too large for bf16.
    """
    bits = weight.view(np.uint32)
    narrow = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    if not (np.isfinite(weight).all() and np.isfinite(widened(narrow)).all()):
        raise ValueError(f"{name}: expected finite numbers below 3.39e38, got others")
    return narrow


def to_int8(name: str, weight: Array) -> tuple[Array, Array]:
    """Convert a float32 matrix to (int8 matrix, float32 scale of each row), symmetric: -127 to 127.

    Raises
    ------
    ValueError
        `weight` holds NaN or infinity.
    """
    if not np.isfinite(weight).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    rows = weight / np.where(scale > 0, scale, 1)[:, None]
    return np.clip(np.rint(rows), -127, 127).astype(np.int8), scale


def widened(narrow: Array, scale: Array | None = None) -> Array:
    """Convert bf16 numbers (uint16), or int8 numbers with a scale for each row, to float32."""
    if scale is None:
        return (narrow.astype(np.uint32) << 16).view(np.float32)
    return narrow * scale[:, None]


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


def _errors(lstm: LSTM, narrow: LSTM, x: Array) -> list[dict[str, float]]:
    """Return for each layer {"largest", "rms"} of its output's error, when it and all layers below it are narrow."""
    errors, x_narrow = [], x
    for layer in range(lstm.num_layers):
        x, _ = _layer_of(lstm, layer)(x)
        x_narrow, _ = _layer_of(narrow, layer)(x_narrow)
        difference = np.float64(x_narrow) - x
        errors.append({"largest": float(np.abs(difference).max()), "rms": float(np.sqrt(np.square(difference).mean()))})
    return errors


def _layer_of(lstm: LSTM, layer: int) -> LSTM:
    """Return one layer of `lstm` as an LSTM with a single layer."""
    config = lstm.config | {"input_size": lstm._layer_inputs(layer), "num_layers": 1, "dropout": 0.0}
    single = type(lstm).blank(**config)
    own = {name: array for name, array in lstm.stored().items() if int(_LAYER.findall(name)[0]) == layer}
    single._adopt({_LAYER.sub("_l0", name): array for name, array in own.items()})
    return single
