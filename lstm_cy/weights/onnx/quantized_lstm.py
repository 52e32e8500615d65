"""ONNX Runtime's DynamicQuantizeLSTM: an LSTM with weights of 8 bits, whose inputs and states are quantized too.

Source: ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...checks import expect_shape, int_within
from ...layers import activations
from .layers import INPUTS, LstmNode
from .operators.quantized import exact_dtype, quantize_dynamically, shifted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...trace.gates import GateTrace
    from ...typing import Array
    from .node import Node

#: the indices of a node's weights: W, R, B and P, and the scales and zero points of W and R
QUANTIZED_WEIGHTS = (1, 2, 3, 7, 8, 9, 10, 11)
#: the names of a node's inputs
QUANTIZED_INPUTS = (*INPUTS, "W_scale", "W_zero_point", "R_scale", "R_zero_point")

#: what a trace has of each step
_RECORDED = ("forget", "input", "candidate", "output", "cell", "hidden")


class _Product(NamedTuple):
    """A product with a quantized matrix: the integers minus their zero points, and the scale of each column."""

    matrix: Array
    scale: Array

    def __call__(self, x: Array) -> Array:
        """Return the product with x, which is quantized as a whole."""
        integers, scale, zero = quantize_dynamically(x)
        sums = shifted(integers, zero, self.matrix.dtype) @ self.matrix
        result: Array = sums.astype(np.float32) * (scale * self.scale)
        return result


class _Run(NamedTuple):
    """What one direction computes: Y (T, B, H), the final and the first states (B, H), and {name: (T, B, H)}."""

    Y: Array
    h: Array
    c: Array
    initial_cell: Array
    gates: dict[str, Array]


class QuantizedLstm:
    """A DynamicQuantizeLSTM node.

    Raises
    ------
    ValueError
        As `LstmNode`.
    """

    def __init__(self, node: Node) -> None:
        self._lstm = LstmNode(node)
        options = self._lstm.options
        self._clip = options.get("clip")
        self._coupled = "coupled_gates" in options
        triples: Any = options["activations"]
        self._activations = triples if self._lstm.directions == 2 else (triples,)
        self._reverse = options["reverse"]

    @property
    def lstm(self) -> LstmNode:
        """The node as one with float32 weights."""
        return self._lstm

    def weights(self, arrays: Sequence[Any]) -> list[Array | None]:
        """Return W, R, B and P as float32 arrays in ONNX's layout of an LSTM from the arrays of `QUANTIZED_WEIGHTS`."""
        W, R, B, P, *parts = arrays
        pairs = ((W, *parts[:2]), (R, *parts[2:]))
        matrices = [self._dequantized(name, *pair) for name, pair in zip("WR", pairs, strict=True)]
        return [*(matrix.swapaxes(1, 2) for matrix in matrices), B, P]

    def _dequantized(self, name: str, matrix: Array, scale: Array, zero: Array) -> Array:
        products = [self._product(name, matrix, scale, zero, direction) for direction in range(self._lstm.directions)]
        return np.stack([(part.matrix * part.scale).astype(np.float32) for part in products])

    def _product(self, name: str, matrix: Array, scale: Array, zero: Array, direction: int) -> _Product:
        """Return the product with W (D, I, 4H) or R (D, H, 4H) of one direction."""
        D = self._lstm.directions
        if matrix.ndim != 3 or matrix.shape[0] != D or matrix.shape[2] % 4:
            raise ValueError(f"{name}: expected shape ({D}, size, 4H), got {matrix.shape}")
        for part, array in (("scale", scale), ("zero_point", zero)):
            if array.size != D and array.shape != (D, matrix.shape[2]):
                raise ValueError(f"{name}_{part}: expected shape ({D},) or ({D}, 4H), got {array.shape}")
        dtype = exact_dtype(matrix.shape[1])
        rows, zeros = scale.reshape(D, -1)[direction], zero.reshape(D, -1)[direction]
        return _Product(shifted(matrix[direction], zeros, dtype), rows.astype(np.float32))

    def run(self, node: Node, X: Array, W: Array, R: Array, *others: Array | None) -> tuple[Array, ...]:
        """Compute ONNX's outputs Y, Y_h and Y_c; `others` are the node's inputs after R."""
        runs = self._runs(node, X, W, R, others)
        Y, h, c = (np.stack(part) for part in zip(*((run.Y, run.h, run.c) for run in runs), strict=True))
        return Y.swapaxes(0, 1), h, c

    def trace(self, node: Node, X: Array, W: Array, R: Array, *others: Array | None, direction: int) -> GateTrace:
        """Return the trace of what `run` computes."""
        from ...trace.gates import GateTrace

        direction = int_within("direction", direction, 0, self._lstm.directions - 1)
        run = self._runs(node, X, W, R, others, record=True)[direction]
        lengths = others[1]
        valid = np.ones(X.shape[:2], bool)
        if lengths is not None:
            valid[:] = np.arange(len(X))[:, np.newaxis] < lengths
        gates: dict[str, Any] = {
            name: np.where(valid[..., np.newaxis], array, np.float32(np.nan)) for name, array in run.gates.items()
        }
        return GateTrace(
            **gates,
            initial_cell=run.initial_cell,
            valid=valid,
            reset=np.zeros_like(valid),
            reverse=bool(direction) or self._reverse,
        )

    def _runs(
        self, node: Node, X: Array, W: Array, R: Array, others: Sequence[Any], record: bool = False
    ) -> list[_Run]:
        """Run all directions; record the gates of each step if asked to."""
        B, lengths, initial_h, initial_c, P, *parts = others
        D, H = self._lstm.directions, R.shape[1] if R.ndim == 3 else 0
        if X.ndim != 3 or X.dtype != np.float32:
            raise ValueError(f"X: expected float32 with three axes, got {X.dtype} of shape {X.shape}")
        if self._lstm.hidden_size not in (None, H):
            raise ValueError(f"R: expected hidden_size = {self._lstm.hidden_size} rows, got shape {R.shape}")
        expect_shape("W", W, (D, X.shape[2], 4 * H), "(D, I, 4H)")
        expect_shape("R", R, (D, H, 4 * H), "(D, H, 4H)")
        rows = X.shape[1]
        for name, array, shape, text in (
            ("B", B, (D, 8 * H), "(D, 8H)"),
            ("P", P, (D, 3 * H), "(D, 3H)"),
            ("initial_h", initial_h, (D, rows, H), "(D, B, H)"),
            ("initial_c", initial_c, (D, rows, H), "(D, B, H)"),
            ("sequence_lens", lengths, (rows,), "(B,)"),
        ):
            if array is not None:
                expect_shape(name, array, shape, text)
        node.room((*X.shape[:2], 4 * D * H), X.dtype, X)
        steps = self._steps(X, lengths)
        results = []
        for direction in range(D):
            W_, R_ = (
                self._product(name, matrix, scale, zero, direction)
                for name, matrix, scale, zero in (("W", W, *parts[:2]), ("R", R, *parts[2:]))
            )
            bias = None if B is None else B[direction, : 4 * H] + B[direction, 4 * H :]
            state = [
                np.zeros((rows, H), np.float32) if array is None else array[direction].copy()
                for array in (initial_h, initial_c)
            ]
            peepholes = None if P is None else P[direction].reshape(3, H)
            order = steps if direction or self._reverse else None
            results.append(self._direction(direction, X, lengths, W_, R_, bias, peepholes, state, order, record))
        return results

    def _steps(self, X: Array, lengths: Array | None) -> Array:
        """Return the step that a reverse direction takes at each time, for each row: (T, B)."""
        T, rows = X.shape[:2]
        times = np.arange(T)[:, np.newaxis]
        if lengths is None:
            return np.broadcast_to(T - 1 - times, (T, rows))
        if lengths.dtype.kind not in "iu" or (lengths < 0).any() or (lengths > T).any():
            raise ValueError(f"sequence_lens: expected lengths of 0 to {T}, got {lengths}")
        return np.where(times < lengths, lengths - 1 - times, times)

    def _direction(
        self,
        direction: int,
        X: Array,
        lengths: Array | None,
        W: _Product,
        R: _Product,
        bias: Array | None,
        peepholes: Array | None,
        state: list[Array],
        order: Array | None,
        record: bool,
    ) -> _Run:
        """Return the outputs (T, B, H) and final states of one direction."""
        rows, h, c = X.shape[1], *state
        T = len(X) if lengths is None else int(lengths.max(initial=0))  # later steps do not count for the scale of X
        Y = np.zeros((len(X), rows, h.shape[1]), np.float32)
        gates: dict[str, Array] = {name: np.zeros_like(Y) for name in _RECORDED} if record else {}
        every = np.arange(rows)
        x = X[:T] if order is None else X[order[:T], every]
        projected = W(x.reshape(T * rows, -1)).reshape(T, rows, 4 * h.shape[1])
        before = h
        for t in range(T):
            z = projected[t] + R(before)
            parts = self._cell(direction, z if bias is None else z + bias, c, peepholes)
            valid = np.ones((rows, 1), bool) if lengths is None else (t < lengths)[:, np.newaxis]
            h, c = np.where(valid, parts["hidden"], h), np.where(valid, parts["cell"], c)
            before = Y[t] = np.where(valid, parts["hidden"], 0)
            for name, array in gates.items():
                array[t] = parts[name]
        if order is not None:
            Y = Y[order, every]  # its own inverse
            gates = {name: array[order, every] for name, array in gates.items()}
        return _Run(Y, h, c, state[1], gates)

    def _cell(self, direction: int, z: Array, c: Array, peepholes: Array | None) -> dict[str, Array]:
        """Return the gates, the cell and h after a step; z holds the gates in the order i, o, f, candidate."""
        gate, candidate, cell = (_function(*entry) for entry in self._activations[direction])
        i, o, f, g = np.split(z, 4, -1)
        if peepholes is not None:
            i, f = i + peepholes[0] * c, f + peepholes[2] * c
        i = gate(self._clipped(i))
        f = 1 - i if self._coupled else gate(self._clipped(f))
        g = candidate(self._clipped(g))
        c = f * c + i * g
        if peepholes is not None:
            o = o + peepholes[1] * c
        o = gate(self._clipped(o))
        return {"forget": f, "input": i, "candidate": g, "output": o, "cell": c, "hidden": o * cell(c)}

    def _clipped(self, z: Array) -> Array:
        return z if self._clip is None else np.clip(z, -self._clip, self._clip)


def _function(name: str, alpha: float = 0.0, beta: float = 0.0) -> Any:
    function, _ = activations.ELEMENTWISE[name]
    return lambda x: function(x, np.float32(alpha), np.float32(beta))
