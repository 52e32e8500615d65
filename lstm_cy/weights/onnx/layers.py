"""LSTM nodes of ONNX graphs as layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...checks import expect_shape
from ...layers import activations
from ...layers.lstm import LSTM
from .. import gate_order
from .proto import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...trace.gates import GateTrace
    from ...typing import Array
    from ..budget import Budget
    from .node import Node

# Activations for whose default alpha and beta runtimes differ.
_WITHOUT_COMMON_DEFAULTS = ("affine", "scaledtanh", "thresholdedrelu")
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
#: most units of a kernel's panel; a layer's units are rounded up to a multiple
PANEL_UNITS = 16
#: cost of a layer in objects, besides its weights
LAYER_OBJECTS = 500
#: the indices of W, R, B and P among a node's inputs
WEIGHTS = (1, 2, 3, 7)
#: the names of a node's inputs
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def input_name(inputs: Sequence[str], index: int) -> str:
    """Return the name of a node's input by its index, or "" if it is omitted."""
    return inputs[index] if index < len(inputs) else ""


class Layers:
    """The layers of a file's nodes; nodes with the same weights and options share one layer. A budget limits them."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._made: dict[Any, LSTM] = {}

    def get(self, node: LstmNode, weights: list[Array | None]) -> LSTM:
        """Return the layer of a node with these weights.

        Raises
        ------
        LimitExceeded
            The layer exceeds the budget.
        """
        key = repr(node.options), *map(_memory_key, weights)
        if key not in self._made:
            self.charge(weights)
            self._made[key] = node.layer(*weights)
        return self._made[key]

    def charge(self, weights: Sequence[Array | None]) -> None:
        """Charge the memory of a layer with these weights, in float32.

        Raises
        ------
        LimitExceeded
            The layer exceeds the budget.
        """
        self._budget.objects(LAYER_OBJECTS, "its layers")
        self._budget.bytes(layer_bytes(weights), "its layers")


def _memory_key(array: Array | None) -> Any:
    """Return a key of an array's memory: address, shape, strides and dtype; False for None."""
    return array is not None and (array.ctypes.data, array.shape, array.strides, array.dtype)


def layer_bytes(weights: Sequence[Array | None]) -> int:
    """Return the most bytes of a layer with these weights: parameters, a temporary copy, and packed weights."""
    W, R = weights[:2]
    if W is None or R is None or W.ndim != 3 or R.ndim != 3:  # the layer refuses these
        return 0
    (D, _, I), H = W.shape, R.shape[-1]
    panels = -(-H // PANEL_UNITS) * PANEL_UNITS
    size: int = D * 4 * (I + H + 2) * (2 * H + panels) * max(W.itemsize, 4)
    return size


class LstmNode:
    """An LSTM node: its attributes as options of a layer, and calls with ONNX's inputs and outputs.

    Raises
    ------
    ValueError
        An attribute has a value that ONNX does not define, or that runtimes read differently.
    """

    def __init__(self, node: Node) -> None:
        direction, layout = node.get("direction", "forward"), node.get("layout", 0)
        if direction not in _DIRECTIONS or layout not in (0, 1):
            raise ValueError(f"direction {direction!r} or layout {layout} is not one of ONNX's")
        self.directions, self.hidden_size = _DIRECTIONS[direction], node.get("hidden_size")
        self.batch_first = layout == 1
        self.options = {
            "batch_first": self.batch_first,
            "bidirectional": direction == "bidirectional",
            "reverse": direction == "reverse",
        }
        self.options["activations"] = self._activations(node)
        if "clip" in node.attributes:
            self.options["clip"] = node.get("clip")
        if node.get("input_forget", 0):
            self.options["coupled_gates"] = "f=1-i"

    def _activations(self, node: Node) -> Any:
        """Return (f, g, h) for each direction; alphas and betas belong in order to the activations that take one."""
        names = [name.lower() for name in node.get("activations", ["sigmoid", "tanh", "tanh"] * self.directions)]
        if len(names) != 3 * self.directions:
            raise ValueError(f"activations: expected {3 * self.directions}, got {names}")
        lists = [list(node.get(attribute, ())) for attribute in ("activation_alpha", "activation_beta")]
        entries = []
        for name in names:
            if name not in activations.DEFAULTS:
                raise ValueError(f"activations: expected some of {', '.join(activations.DEFAULTS)}, got {quoted(name)}")
            values = []
            for numbers, default in zip(
                lists[: activations.ARGUMENTS.get(name, 0)], activations.DEFAULTS[name], strict=False
            ):
                if not numbers and name in _WITHOUT_COMMON_DEFAULTS:
                    raise ValueError(
                        f"activations: {name} without its alpha and beta, for which runtimes have different defaults"
                    )
                values.append(numbers.pop(0) if numbers else default)
            entries.append((name, *values))
        if any(lists):
            raise ValueError("activation_alpha, activation_beta: more values than there are activations that take one")
        triples = tuple(tuple(entries[index : index + 3]) for index in range(0, len(entries), 3))
        return triples if self.directions == 2 else triples[0]

    def layer(self, W: Any, R: Any, B: Array | None = None, P: Array | None = None) -> LSTM:
        """Make the layer from copies of weights in ONNX's layout."""
        D = self.directions
        H = R.shape[-1] if R.ndim else 0
        I = W.shape[-1] if W.ndim else 0
        if self.hidden_size not in (None, H):
            raise ValueError(f"R: expected hidden_size = {self.hidden_size} columns, got shape {R.shape}")
        expect_shape("W", W, (D, 4 * H, I), "(D, 4H, I)")
        expect_shape("R", R, (D, 4 * H, H), "(D, 4H, H)")
        if B is not None:
            expect_shape("B", B, (D, 8 * H), "(D, 8H)")
        if P is not None:
            expect_shape("P", P, (D, 3 * H), "(D, 3H)")
        dtypes = {array.dtype for array in (W, R, B, P) if array is not None}
        if len(dtypes) > 1 or W.dtype.kind != "f":
            raise ValueError(f"expected weights of one floating type, got {', '.join(sorted(map(str, dtypes)))}")
        dtype = np.promote_types(W.dtype, np.float32)
        peepholes = {} if P is None else {"peepholes": True}
        layer = LSTM.blank(I, H, bias=B is not None, dtype=dtype, **self.options, **peepholes)
        arrays = {}
        for direction, suffix in enumerate(("_l0", "_l0_reverse")[:D]):
            arrays[f"weight_ih{suffix}"] = gate_order.reorder(W[direction], gate_order.ONNX)
            arrays[f"weight_hh{suffix}"] = gate_order.reorder(R[direction], gate_order.ONNX)
            if B is not None:
                for name, half in zip(("bias_ih", "bias_hh"), np.split(B[direction], 2), strict=True):
                    arrays[name + suffix] = gate_order.reorder(half, gate_order.ONNX)
            if P is not None:
                rows = gate_order.reorder(P[direction], gate_order.ONNX_PEEPHOLES, gate_order.PEEPHOLES)
                arrays[f"peephole{suffix}"] = rows.reshape(3, H)
        layer.load_state_dict(arrays)
        return layer

    def run(
        self,
        layer: LSTM,
        X: Array,
        lengths: Array | None = None,
        initial_h: Array | None = None,
        initial_c: Array | None = None,
    ) -> tuple[Array, ...]:
        """Compute ONNX's outputs Y, Y_h and Y_c."""
        y, states = layer(*self._call(layer, X, initial_h, initial_c), lengths=lengths)
        y = y.reshape(*y.shape[:2], self.directions, layer.hidden_size)
        if self.batch_first:
            states = states[0].swapaxes(0, 1), states[1].swapaxes(0, 1)
        else:
            y = y.swapaxes(1, 2)  # (T, D, B, H)
        return tuple(part.astype(X.dtype, copy=False) for part in (y, *states))

    def trace(
        self,
        layer: LSTM,
        X: Array,
        lengths: Array | None,
        initial_h: Array | None,
        initial_c: Array | None,
        direction: int,
    ) -> GateTrace:
        """Return the trace of what `run` computes."""
        x, state = self._call(layer, X, initial_h, initial_c)
        return layer.trace(x, state, lengths, direction=direction)

    def _call(self, layer: LSTM, X: Array, initial_h: Array | None, initial_c: Array | None) -> tuple[Array, Any]:
        """Return (x, state) of the layer's call, after checking the inputs."""
        if X.ndim != 3:
            raise ValueError(f"X: expected three axes, got shape {X.shape}")
        dtypes = {array.dtype for array in (X, initial_h, initial_c) if array is not None}
        if len(dtypes) > 1 or np.promote_types(X.dtype, np.float32) != layer.dtype:
            raise ValueError(f"X: expected one type with states and weights, got {sorted(map(str, dtypes))}")
        state = None
        if initial_h is not None or initial_c is not None:
            state = [self._state(layer, X, part) for part in (initial_h, initial_c)]
        return X, state

    def _state(self, layer: LSTM, X: Array, part: Array | None) -> Array:
        """Return an initial state in the layer's layout; zeros for an omitted one."""
        if part is None:
            return np.zeros((self.directions, X.shape[0 if self.batch_first else 1], layer.hidden_size), layer.dtype)
        if part.ndim != 3:
            raise ValueError(f"initial_h, initial_c: expected three axes, got shape {part.shape}")
        return part.swapaxes(0, 1) if self.batch_first else part
