"""The LSTM in plain NumPy, forward and backward: the text to read first.

Think of someone reading a long novel with a notebook at hand. The **cell** C is the notebook: it is carried through the
whole book and changed only by scaling what stands in it and adding to it. At each sentence x four things happen:

====================  ====================================================  ==========================================
forget gate           drop what no longer matters                           f = sigmoid(W_f [h, x] + b_f)
input gate            judge what of the news is worth noting                i = sigmoid(W_i [h, x] + b_i)
candidate             the note that could be written                        C~ = tanh(W_C [h, x] + b_C)
output gate           choose what of the notebook to tell now               o = sigmoid(W_o [h, x] + b_o)
====================  ====================================================  ==========================================

Then the notebook is brought up to date, C = f * C_prev + i * C~, and retold, h = o * tanh(C): the hidden state h is the
output of the step and the context of the next one.

[h, x] with one weight matrix is the same as two: W [h, x] = W_hh h + W_ih x. The arrays here are split that way, and
the rows of all four gates are stacked in the order i, f, g (the candidate), o, as PyTorch stacks them.

Shapes: T steps, B rows, I inputs, H hidden units; x (T, B, I), weight_ih (4H, I), weight_hh (4H, H), bias (4H,).
Any float dtype works; the result has it. Source: Hochreiter and Schmidhuber, Long Short-Term Memory (1997); the forget
gate: Gers, Schmidhuber and Cummins, Learning to Forget (2000).
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
    """1 / (1 + exp(-z)), by way of tanh, which cannot overflow.

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
    """One step of B rows, the formulas one by one.

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
    A gate that is shut forgets everything; one that is open keeps it:

    >>> import numpy as np
    >>> zeros = np.zeros((4, 1))
    >>> shut, open_ = np.array([0, -100.0, 0, 0]), np.array([0, 100.0, 0, 0])
    >>> state = np.zeros((1, 1)), np.full((1, 1), 3.0)
    >>> step(np.zeros((1, 1)), *state, zeros, zeros, shut)[1].item()
    0.0
    >>> step(np.zeros((1, 1)), *state, zeros, zeros, open_)[1].item()
    3.0
    """
    z_i, z_f, z_g, z_o = np.split(x @ weight_ih.T + h_prev @ weight_hh.T + bias, 4, axis=-1)
    i = sigmoid(z_i)  # what of the candidate is written
    f = sigmoid(z_f)  # what of the old cell stays
    candidate = np.tanh(z_g)  # what could be written
    o = sigmoid(z_o)  # what of the new cell is told
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
) -> tuple[Array, Array]:
    """`step` with every option an LSTM of this library has; each line below that `step` has not is one of them.

    Parameters
    ----------
    x, h_prev, c_prev, weight_ih, weight_hh, bias :
        As for `step`; with a projection h_prev is (B, P) and weight_hh (4H, P).
    weight_hr : None or ndarray (P, H)
        Projects what the cell tells.
    peephole : None or ndarray (3, H)
        How i, f and o look at the cell.
    layer_norm : None or ndarray (4H,)
        Scales of the gates' inputs, normalised over H before the bias is added.
    coupled_gates : None, "f=1-i" or "i=1-f"
    clip, cell_clip, proj_clip : float
        Bounds of the activations' inputs (but not of the cell's), the cell and the projected output.
    activations : three of (name, alpha, beta)
        Of i, f and o; of the candidate; of the cell when it is told. Names as in ACTIVATIONS.

    Returns
    -------
    h, c : ndarray (B, P), (B, H)
    """
    gate, candidate, told = (functools.partial(_activated, entry) for entry in activations)
    look_i, look_f, look_o = (0, 0, 0) if peephole is None else peephole
    scales, biases = None if layer_norm is None else np.split(layer_norm, 4), np.split(bias, 4)
    z_i, z_f, z_g, z_o = np.split(x @ weight_ih.T + h_prev @ weight_hh.T, 4, axis=-1)

    def prepared(z: Array, index: int) -> Array:
        if scales is not None:
            z = z - z.mean(axis=-1, keepdims=True)
            z = scales[index] * z / np.sqrt((z * z).mean(axis=-1, keepdims=True) + 1e-8)
        result: Array = np.clip(z + biases[index], -clip, clip)
        return result

    i = gate(prepared(z_i + look_i * c_prev, 0))
    f = gate(prepared(z_f + look_f * c_prev, 1))
    if coupled_gates == "f=1-i":
        f = 1 - i
    elif coupled_gates == "i=1-f":
        i = 1 - f
    c = np.clip(f * c_prev + i * candidate(prepared(z_g, 2)), -cell_clip, cell_clip)
    o = gate(prepared(z_o + look_o * c, 3))
    h = o * told(c)
    if weight_hr is not None:
        h = np.clip(h @ weight_hr.T, -proj_clip, proj_clip)
    return h, c


def forward(
    x: Array, h0: Array, c0: Array, weight_ih: Array, weight_hh: Array, bias: Array
) -> tuple[Array, Array, Array]:
    """A whole sequence: all steps' inputs projected in one product, then one product a step.

    This is also the baseline that the kernels are measured against, so it wastes nothing that NumPy lets it save: the
    gates are activated in place, in as few calls as there are.

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
    """`forward`, which also returns the tape that `backward` reads.

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
    written = np.empty((B, H), gates.dtype)
    weight_hh = weight_hh.T
    h = h0
    for t in range(T):
        z, c = gates[t], cells[t + 1]
        np.matmul(h, weight_hh, out=recurrent)
        z += recurrent
        activate(z, H)
        np.multiply(z[:, H : 2 * H], cells[t], out=c)  # what stays
        np.multiply(z[:, :H], z[:, 2 * H : 3 * H], out=written)  # what is written
        c += written
        h = y[t]
        np.tanh(c, out=h)
        h *= z[:, 3 * H :]
    return y, h.copy(), cells[T].copy(), (x, y, h0, gates, cells)


def activate(z: Array, H: int) -> None:
    """The gates' activations in place: sigmoid on i, f and o, tanh on g.

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
    """Back-propagation through time: the gradients of a loss, given those of y, h_n and c_n.

    The gradient flows back along the cell as it came, dC_prev = f * dC, only scaled by the forget gate: an open gate
    carries it over any distance. Everything else passes through weights and activations,
    sigmoid' = s (1 - s) and tanh' = 1 - t^2.

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
        told = np.tanh(cells[t + 1])
        dh = dh + dy[t]
        dc = dc + dh * o * (1 - told * told)
        dz[t, :, :H] = dc * g * i * (1 - i)
        dz[t, :, H : 2 * H] = dc * cells[t] * f * (1 - f)
        dz[t, :, 2 * H : 3 * H] = dc * i * (1 - g * g)
        dz[t, :, 3 * H :] = dh * told * o * (1 - o)
        dc = dc * f
        dh = dz[t] @ weight_hh
    h_prev = np.concatenate([h0[np.newaxis], y[:-1]])
    flat = dz.reshape(T * B, 4 * H)
    dx = (flat @ weight_ih).reshape(T, B, I)
    return dx, dh, dc, flat.T @ x.reshape(T * B, I), flat.T @ h_prev.reshape(T * B, H), flat.sum(axis=0)
