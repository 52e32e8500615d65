"""A short comparison of libraries on this machine, for `lstm-cy bench`.

The same layer with the same weights is computed by this library, by plain NumPy (`reference.py`), and by PyTorch and
ONNX Runtime where these are installed. Results are compared before anything is timed. Then the calls alternate in this
process, on one thread each, and the median is taken. `benchmarks/compare.py` in the repository compares more libraries.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import reference
from .layers.lstm import LSTM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .typing import Array

    _Maker = Callable[[str, LSTM, Array], Callable[[], Any] | None]

#: {kind: shapes as rows x steps x inputs x hidden units}; a step carries its state to the next call
SHAPES = {
    "forward": ("1x100x32x32", "1x100x128x128", "8x50x128x128", "32x50x256x256"),
    "step": ("1x1x32x32", "1x1x128x128", "1x1x512x512"),
    "training": ("1x100x128x128", "16x100x128x128"),
}
#: largest difference between two float32 results, as a share of the largest entry
TOLERANCE = 1e-4


class Row(NamedTuple):
    """A measurement: the median seconds of each library, and the largest difference of a result from NumPy's."""

    kind: str
    shape: str
    seconds: dict[str, float]
    difference: float


def installed() -> dict[str, _Maker]:
    """Return the installed libraries.

    Returns
    -------
    dict
        {name: function that makes the library's call}.
    """
    return {name: make for name, (make, needs) in LIBRARIES.items() if all(map(importlib.util.find_spec, needs))}


def rows(kinds: Iterable[str] = tuple(SHAPES), seconds: float = 1.0) -> Iterator[Row]:
    """Measure all shapes.

    Parameters
    ----------
    kinds : sequence of {"forward", "step", "training"}
    seconds : float
        Approximate time for each shape.

    Yields
    ------
    Row

    Raises
    ------
    ArithmeticError
        The result of a library differs from NumPy's.
    """
    makers = installed()
    for kind in kinds:
        for shape in SHAPES[kind]:
            B, T, I, H = map(int, shape.split("x"))
            x = np.random.default_rng(0).standard_normal((T, B, I), dtype=np.float32)
            yield measured(kind, shape, LSTM(I, H, seed=0), x, seconds, makers)


def measured(
    kind: str, shape: str, lstm: LSTM, x: Array, seconds: float, makers: dict[str, _Maker] | None = None
) -> Row:
    """Measure one float32 layer on one input.

    Parameters
    ----------
    kind : {"forward", "step", "training"}
    shape : str
        The name of the row.
    lstm : LSTM
        With one layer and direction.
    x : ndarray of float32 (T, B, I)
    seconds : float
        Approximate time to measure.
    makers : dict, optional
        From `installed`; None: this library and NumPy.

    Returns
    -------
    Row

    Raises
    ------
    ArithmeticError
        The result of a library differs from NumPy's.
    """
    if makers is None:
        makers = {"lstm_cy": _ours, "NumPy": _numpy}
    made = {name: make(kind, lstm, x) for name, make in makers.items()}
    calls = {name: call for name, call in made.items() if call is not None}
    results = {name: np.asarray(call()) for name, call in calls.items()}
    difference = 0.0
    for name, result in results.items():
        distance = float(np.abs(result - results["NumPy"]).max())
        if not distance <= TOLERANCE * np.abs(results["NumPy"]).max():
            raise ArithmeticError(f"{kind} {shape}: the results of {name} and NumPy are {distance:.1e} apart")
        difference = max(difference, distance)
    return Row(kind, shape, medians(calls, seconds), difference)


def medians(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Time calls alternately.

    Parameters
    ----------
    calls : dict of str to callable
    seconds : float
        Approximate time for all of them.

    Returns
    -------
    dict of str to float
        The median time of each, in seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 3:
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


# Each returns a function that returns y, or in training the gradient of x; or None if the library cannot compute it.


def _ours(kind: str, lstm: LSTM, x: Array) -> Callable[[], Any]:
    if kind == "forward":
        return lambda: lstm(x, threads=1)[0]
    if kind == "step":
        stepper = lstm.stepper(x.shape[1])
        out = np.empty((x.shape[1], lstm.hidden_size), np.float32)
        return lambda: stepper.step(x[0], out)

    def train() -> Any:
        y, _, tape = lstm.forward(x, threads=1)
        return lstm.backward(tape, np.ones_like(y)).x

    return train


def _numpy(kind: str, lstm: LSTM, x: Array) -> Callable[[], Any]:
    weights = lstm.parameters["weight_ih_l0"], lstm.parameters["weight_hh_l0"]
    bias = lstm.parameters["bias_ih_l0"] + lstm.parameters["bias_hh_l0"]
    h = c = zeros = np.zeros((x.shape[1], lstm.hidden_size), np.float32)

    def step() -> Array:
        nonlocal h, c
        h, c = reference.step(x[0], h, c, *weights, bias)
        return h

    def train() -> Array:
        y, _, _, tape = reference.forward_with_tape(x, zeros, zeros, *weights, bias)
        return reference.backward(tape, np.ones_like(y), zeros, zeros, *weights)[0]

    return {"forward": lambda: reference.forward(x, zeros, zeros, *weights, bias)[0], "step": step, "training": train}[
        kind
    ]


def _pytorch(kind: str, lstm: LSTM, x: Any) -> Any:
    import torch

    torch.set_num_threads(1)
    weights = {name: torch.from_numpy(array) for name, array in lstm.state_dict().items()}
    x = torch.from_numpy(x)
    if kind == "step":
        cell = torch.nn.LSTMCell(lstm.input_size, lstm.hidden_size)
        cell.load_state_dict({name.removesuffix("_l0"): array for name, array in weights.items()})
        state = None

        @torch.inference_mode()  # type: ignore[untyped-decorator]
        def step() -> Any:
            nonlocal state
            state = cell(x[0], state)
            return state[0].numpy()

        return step
    layer = torch.nn.LSTM(lstm.input_size, lstm.hidden_size)
    layer.load_state_dict(weights)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def forward() -> Any:
        return layer(x)[0].numpy()

    def train() -> Any:
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        layer(leaf)[0].sum().backward()
        return leaf.grad.numpy()

    return forward if kind == "forward" else train


def _onnx_runtime(kind: str, lstm: LSTM, x: Array) -> Callable[[], Any] | None:
    if kind == "training":
        return None
    import onnxruntime

    from .weights.onnx.export import to_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    graph = to_onnx(lstm, states=kind == "step").SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    if kind == "forward":
        return lambda: session.run(["y"], {"x": x})[0]
    h = c = np.zeros((1, x.shape[1], lstm.hidden_size), np.float32)

    def step() -> Any:
        nonlocal h, c
        h, c = session.run(["h_n", "c_n"], {"x": x, "h0": h, "c0": c})
        return h[0]

    return step


#: {name: (function that makes its call, modules it needs)}
LIBRARIES = {
    "lstm_cy": (_ours, ()),
    "NumPy": (_numpy, ()),
    "PyTorch": (_pytorch, ("torch",)),
    "ONNX Runtime": (_onnx_runtime, ("onnx", "onnxruntime")),
}
