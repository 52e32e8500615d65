"""The records that Python passes to the drivers, which unpack them by position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..typing import Array


class DirectionWeights(NamedTuple):
    """The weights of one direction of one layer; None where the layer has no such parameter.

    Attributes
    ----------
    inputs : int
        The number of input features of the layer.
    weight_ih, weight_hh, weight_hr : ndarray, or a pair (ndarray, scale or None) for narrow weights
        (4H, inputs), (4H, P) and (P, H).
    bias, peepholes, norm : ndarray
        (4H,), (3, H) and (4H,).
    """

    inputs: int
    weight_ih: Any
    weight_hh: Any
    weight_hr: Any
    bias: Array | None
    peepholes: Array | None
    norm: Array | None


class CellOptions(NamedTuple):
    """The options of one direction's cell.

    Attributes
    ----------
    activations : tuple
        (kind, alpha, beta) of the gate, candidate and cell activations, with kinds from `network.ACTIVATION_KINDS`.
    coupling : int
        From `network.COUPLING_KINDS`.
    clip, cell_clip : float or None
    """

    activations: tuple[tuple[int, float, float], ...]
    coupling: int
    clip: float | None
    cell_clip: float | None


class RowOrder(NamedTuple):
    """Which rows run at each step; None for what is not needed.

    Attributes
    ----------
    order : ndarray (B,)
        Row numbers sorted by falling length.
    lengths : ndarray (B,)
        Their lengths.
    active : ndarray (T,)
        The number of rows that run at each step.
    valid_steps : ndarray (B, T)
        The numbers of each row's valid steps, the valid ones first; only with a mask that is not a length.
    resets : ndarray (T, B) of uint8, or (B, T) with batch_first
        Where a row's state is set to zero before the step.
    starts : ndarray (T,)
        Only with packed arrays, (rows, 1, width), which have all rows that run at step 0, in the order, then those of
        step 1, and so on: the row at which each step begins.
    """

    order: Any = None
    lengths: Any = None
    active: Any = None
    valid_steps: Any = None
    resets: Any = None
    starts: Any = None


class Saved(NamedTuple):
    """The arrays of one direction of one layer that backward, or a trace, needs: those of Saved in network.pxd."""

    x: Any
    h_prev: Any
    c_prev: Any
    gates: Any
    tanh_c: Any
    extra: Any
    hidden: Any
    h: Any
    cell: Any


class GradientSums(NamedTuple):
    """The arrays of one direction to which backward adds its gradients; `shares` has the addends of Variants.

    `initial_h` and `initial_c` are those of the initial state, None where it is not learned.
    """

    weight_ih: Any
    weight_hh: Any
    weight_hr: Any
    bias: Any
    shares: Any
    initial_h: Any
    initial_c: Any
