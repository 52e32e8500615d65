"""The LSTM in plain NumPy, forward and backward: read this file first.

Think of a reader of a long novel who keeps a notebook. The **cell** C is the notebook: it is carried through the whole
book, and it changes only when notes in it are scaled or notes are added. At each sentence x four things happen:

====================  ====================================================  ==========================================
forget gate           drop what no longer matters                           f = sigmoid(W_f [h, x] + b_f)
input gate            decide which news is worth noting                     i = sigmoid(W_i [h, x] + b_i)
candidate             draft the new note                                    C~ = tanh(W_C [h, x] + b_C)
output gate           choose which notes to use now                         o = sigmoid(W_o [h, x] + b_o)
====================  ====================================================  ==========================================

Then the notebook is brought up to date, C = f * C_prev + i * C~, and read out, h = o * tanh(C): the hidden state h is
the output of the step and the context of the next one.

One weight matrix for [h, x] is the same as two: W [h, x] = W_hh h + W_ih x. The arrays here are split that way, and
the rows of all four gates are stacked in the order i, f, g (the candidate), o, as in PyTorch.

Shapes: T steps, B rows, I inputs, H hidden units; x (T, B, I), weight_ih (4H, I), weight_hh (4H, H), bias (4H,).
Any float dtype works, and the result has the same. Source: Hochreiter and Schmidhuber, Long Short-Term Memory (1997);
for the forget gate Gers, Schmidhuber and Cummins, Learning to Forget (2000).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .typing import Array


def sigmoid(z: Array) -> Array:
    """Return 1 / (1 + exp(-z)), computed by tanh, which cannot overflow.

    Parameters
    ----------
    z : ndarray

    Returns
    -------
    ndarray
    """
    return 0.5 * (1 + np.tanh(0.5 * z))


def step(
    x: Array, h_prev: Array, c_prev: Array, weight_ih: Array, weight_hh: Array, bias: Array
) -> tuple[Array, Array]:
    """Run one step of B rows, formula by formula.

    Parameters
    ----------
    x : ndarray (B, I)
    h_prev, c_prev : ndarray (B, H)
    weight_ih, weight_hh, bias : ndarray (4H, I), (4H, H), (4H,)

    Returns
    -------
    h, c : ndarray (B, H)

    Examples
    --------
    A closed forget gate erases the cell; an open one keeps it:

    >>> import numpy as np
    >>> zeros = np.zeros((4, 1))
    >>> closed, open_ = np.array([0, -100.0, 0, 0]), np.array([0, 100.0, 0, 0])
    >>> state = np.zeros((1, 1)), np.full((1, 1), 3.0)
    >>> step(np.zeros((1, 1)), *state, zeros, zeros, closed)[1].item()
    0.0
    >>> step(np.zeros((1, 1)), *state, zeros, zeros, open_)[1].item()
    3.0
    """
    z_i, z_f, z_g, z_o = np.split(x @ weight_ih.T + h_prev @ weight_hh.T + bias, 4, axis=-1)
    i = sigmoid(z_i)  # the share of the candidate that is added to the cell
    f = sigmoid(z_f)  # the share of the old cell that is kept
    candidate = np.tanh(z_g)  # the new note
    o = sigmoid(z_o)  # the share of the cell that is output
    c = f * c_prev + i * candidate
    h = o * np.tanh(c)
    return h, c


ACTIVATIONS: dict[str, Callable[[Array, float, float], Any]] = {
    "sigmoid": lambda x, alpha, beta: sigmoid(x),
    "tanh": lambda x, alpha, beta: np.tanh(x),
    "relu": lambda x, alpha, beta: np.maximum(x, 0),
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "leakyrelu": lambda x, alpha, beta: np.where(x >= 0, x, alpha * x),
    "thresholdedrelu": lambda x, alpha, beta: np.where(x > alpha, x, 0),
    "scaledtanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "hardsigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "elu": lambda x, alpha, beta: np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "softsign": lambda x, alpha, beta: x / (1 + np.abs(x)),
    "softplus": lambda x, alpha, beta: np.logaddexp(x, 0),
}


def _activated(activation: tuple[str, float, float], x: Array) -> Any:
    name, alpha, beta = activation
    return ACTIVATIONS[name](x, alpha, beta)


def variant_step(
    x: Array,
    h_prev: Array,
    c_prev: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array,
    *,
    weight_hr: Array | None = None,
    peephole: Array | None = None,
    layer_norm: Array | None = None,
    coupled_gates: str | None = None,
    clip: float = np.inf,
    cell_clip: float = np.inf,
    proj_clip: float = np.inf,
    activations: Sequence[tuple[str, float, float]] = (("sigmoid", 0, 0), ("tanh", 0, 0), ("tanh", 0, 0)),
    recurrent_factors: Array | float = 1.0,
    zone_h: Array | float = 0.0,
    zone_c: Array | float = 0.0,
) -> tuple[Array, Array]:
    """Run one step with any option of this library's LSTM; each line that `step` does not have is one of them.

    Parameters
    ----------
    x, h_prev, c_prev, weight_ih, weight_hh, bias :
        As for `step`; with a projection h_prev is (B, P) and weight_hh (4H, P).
    weight_hr : None or ndarray (P, H)
        Weight of the projection of h.
    peephole : None or ndarray (3, H)
        Weights of the cell in the inputs of i, f and o.
    layer_norm : None or ndarray (4H,)
        Scales of the gates' inputs, normalised over H before the bias is added.
    coupled_gates : None, "f=1-i" or "i=1-f"
    clip, cell_clip, proj_clip : float
        Bounds of the inputs of the gate and candidate activations, of the cell and of the projected output.
    activations : three of (name, alpha, beta)
        Of i, f and o; of the candidate; of the cell in the output. Names as in ACTIVATIONS.
    recurrent_factors : ndarray (B, P), or 1
        Recurrent dropout in training: 0 or 1 / (1 - p), the same at every step of a sequence.
    zone_h, zone_c : ndarray (B, P) and (B, H), or float
        Zoneout: in training zeros and ones, drawn for each step; in inference the probabilities of a one.

    Returns
    -------
    h, c : ndarray (B, P), (B, H)
    """
    gate, candidate, cell_activation = (functools.partial(_activated, entry) for entry in activations)
    peephole_i, peephole_f, peephole_o = (0, 0, 0) if peephole is None else peephole
    scales, biases = None if layer_norm is None else np.split(layer_norm, 4), np.split(bias, 4)
    z_i, z_f, z_g, z_o = np.split(x @ weight_ih.T + (h_prev * recurrent_factors) @ weight_hh.T, 4, axis=-1)

    def prepared(z: Array, index: int) -> Array:
        if scales is not None:
            z = z - z.mean(axis=-1, keepdims=True)
            z = scales[index] * z / np.sqrt((z * z).mean(axis=-1, keepdims=True) + 1e-8)
        result: Array = np.clip(z + biases[index], -clip, clip)
        return result

    i = gate(prepared(z_i + peephole_i * c_prev, 0))
    f = gate(prepared(z_f + peephole_f * c_prev, 1))
    if coupled_gates == "f=1-i":
        f = 1 - i
    elif coupled_gates == "i=1-f":
        i = 1 - f
    c = np.clip(f * c_prev + i * candidate(prepared(z_g, 2)), -cell_clip, cell_clip)
    o = gate(prepared(z_o + peephole_o * c, 3))
    h = o * cell_activation(c)
    if weight_hr is not None:
        h = np.clip(h @ weight_hr.T, -proj_clip, proj_clip)
    return zone_h * h_prev + (1 - zone_h) * h, zone_c * c_prev + (1 - zone_c) * c


def forward(
    x: Array, h0: Array, c0: Array, weight_ih: Array, weight_hh: Array, bias: Array
) -> tuple[Array, Array, Array]:
    """Run a whole sequence: one product for the inputs of all steps, then one product for each step.

    The kernels are measured against this function, so it is as fast as NumPy allows: the gates are activated in place,
    in as few calls as possible.

    Parameters
    ----------
    x : ndarray (T, B, I)
    h0, c0 : ndarray (B, H)
    weight_ih, weight_hh, bias : ndarray (4H, I), (4H, H), (4H,)

    Returns
    -------
    y : ndarray (T, B, H)
        h of each step.
    h_n, c_n : ndarray (B, H)
    """
    y, h, c, _ = forward_with_tape(x, h0, c0, weight_ih, weight_hh, bias)
    return y, h, c


def forward_with_tape(
    x: Array, h0: Array, c0: Array, weight_ih: Array, weight_hh: Array, bias: Array
) -> tuple[Array, Array, Array, tuple[Array, ...]]:
    """Run `forward` and also return the tape that `backward` reads.

    Parameters
    ----------
    x, h0, c0, weight_ih, weight_hh, bias :
        As for `forward`.

    Returns
    -------
    y, h_n, c_n :
        As from `forward`.
    tape : tuple
        (x, y, h0, gates (T, B, 4H), cells (T+1, B, H)).
    """
    T, B, _ = x.shape
    H = h0.shape[-1]
    gates = x.reshape(T * B, -1) @ weight_ih.T
    gates += bias
    gates = gates.reshape(T, B, 4 * H)
    y = np.empty((T, B, H), gates.dtype)
    cells = np.empty((T + 1, B, H), gates.dtype)
    cells[0] = c0
    recurrent = np.empty((B, 4 * H), gates.dtype)
    added = np.empty((B, H), gates.dtype)
    weight_hh = weight_hh.T
    h = h0
    for t in range(T):
        z, c = gates[t], cells[t + 1]
        np.matmul(h, weight_hh, out=recurrent)
        z += recurrent
        activate(z, H)
        np.multiply(z[:, H : 2 * H], cells[t], out=c)  # f * c_prev
        np.multiply(z[:, :H], z[:, 2 * H : 3 * H], out=added)  # i * candidate
        c += added
        h = y[t]
        np.tanh(c, out=h)
        h *= z[:, 3 * H :]
    return y, h.copy(), cells[T].copy(), (x, y, h0, gates, cells)


def activate(z: Array, H: int) -> None:
    """Activate the gates in place: sigmoid on i, f and o, tanh on g.

    Parameters
    ----------
    z : ndarray (..., 4H)
    H : int
    """
    for part in (z[:, : 2 * H], z[:, 3 * H :]):
        part *= 0.5
        np.tanh(part, out=part)
        part += 1
        part *= 0.5
    candidate = z[:, 2 * H : 3 * H]
    np.tanh(candidate, out=candidate)


def backward(
    tape: tuple[Array, ...], dy: Array, dh_n: Array, dc_n: Array, weight_ih: Array, weight_hh: Array
) -> tuple[Array, ...]:
    """Back-propagate through time: return the gradients of a loss, given those of y, h_n and c_n.

    Along the cell the gradient is only scaled by the forget gate, dC_prev = f * dC: an open gate carries it over any
    distance. All other gradients pass through weights and activations, sigmoid' = s (1 - s) and tanh' = 1 - t^2.

    Parameters
    ----------
    tape : tuple
        From `forward_with_tape`.
    dy : ndarray (T, B, H)
    dh_n, dc_n : ndarray (B, H)
    weight_ih, weight_hh : ndarray (4H, I), (4H, H)

    Returns
    -------
    dx : ndarray (T, B, I)
    dh0, dc0 : ndarray (B, H)
    dweight_ih, dweight_hh, dbias : ndarray
    """
    x, y, h0, gates, cells = tape
    T, B, I = x.shape
    H = h0.shape[-1]
    dz = np.empty_like(gates)
    dh, dc = dh_n, dc_n
    for t in reversed(range(T)):
        i, f, g, o = np.split(gates[t], 4, axis=-1)
        tanh_c = np.tanh(cells[t + 1])
        dh = dh + dy[t]
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        dz[t, :, :H] = dc * g * i * (1 - i)
        dz[t, :, H : 2 * H] = dc * cells[t] * f * (1 - f)
        dz[t, :, 2 * H : 3 * H] = dc * i * (1 - g * g)
        dz[t, :, 3 * H :] = dh * tanh_c * o * (1 - o)
        dc = dc * f
        dh = dz[t] @ weight_hh
    h_prev = np.concatenate([h0[np.newaxis], y[:-1]])
    flat = dz.reshape(T * B, 4 * H)
    dx = (flat @ weight_ih).reshape(T, B, I)
    return dx, dh, dc, flat.T @ x.reshape(T * B, I), flat.T @ h_prev.reshape(T * B, H), flat.sum(axis=0)
