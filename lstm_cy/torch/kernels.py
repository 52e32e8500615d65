"""Calls of the kernels on tensors: forward and backward, without autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .. import config
from .._kernels import backward as backward_driver
from .._kernels import forward as forward_driver
from .._kernels.network import CACHE_LINE_BYTES
from .._kernels.records import GradientSums, RowOrder, Saved
from .._kernels.runtime.memory import Buffer
from .packing import network_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._kernels.network import Network
    from ..typing import Array
    from .packing import Plan

_ALL_ROWS = RowOrder()


class Steps(NamedTuple):
    """The layout of a call's arrays.

    Attributes
    ----------
    T, B : int
    lead : tuple of int
        The axes of a state before its width: (directions, B), (directions,) for one sequence, (B,) or () for a cell.
    batch_first : bool
    packed : None or (batch_sizes, sorted_indices or None)
        Those of a PackedSequence, whose data are (rows, width).
    order : RowOrder
        For the drivers.
    """

    T: int
    B: int
    lead: tuple[int, ...]
    batch_first: bool = False
    packed: tuple[Any, Any] | None = None
    order: RowOrder = _ALL_ROWS

    @property
    def rows(self) -> int:
        """The number of rows, counted in each step."""
        return self.T * self.B if self.packed is None else int(self.order.starts[-1] + self.order.active[-1])

    def shape(self, width: int) -> tuple[int, int, int]:
        """Return the drivers' shape of an array."""
        if self.packed is not None:
            return self.rows, 1, width
        return (self.B, self.T, width) if self.batch_first else (self.T, self.B, width)


def packed_steps(directions: int, data_rows: int, batch_sizes: Any, sorted_indices: Any) -> Steps | None:
    """Return the layout of a PackedSequence; None if its parts contradict each other."""
    active = np.ascontiguousarray(batch_sizes.numpy(), np.intp)
    if active.ndim != 1 or not active.size or active[-1] < 1 or (np.diff(active) > 0).any():
        return None
    T, B = active.size, int(active[0])
    ends = active.cumsum()
    if ends[-1] != data_rows:
        return None
    rows = np.arange(B)
    order = rows
    if sorted_indices is not None:
        order = np.ascontiguousarray(sorted_indices.numpy(), np.intp)
        if not np.array_equal(np.sort(order), rows):
            return None
    lengths = T - np.searchsorted(active[::-1], rows, side="right")
    row_order = RowOrder(order, lengths.astype(np.intp), active, starts=ends - active)
    return Steps(T, B, (directions, B), False, (batch_sizes, sorted_indices), row_order)


def forward(
    plan: Plan,
    steps: Steps,
    x: Any,
    h: Any,
    c: Any,
    network: Network,
    keep: Any = None,
    scale: float = 1.0,
    tape: bool = False,
) -> tuple[Any, Any, Any, Any]:
    """Run a network over x.

    Parameters
    ----------
    plan, steps, network :
        What is called, and the layout of the arrays.
    x : tensor of `steps`' layout
    h, c : None or tensors (*lead, P) and (*lead, H)
    keep : None or uint8 tensor (L - 1, ...) with a mask in the layout of y for each layer but the last
    scale : float
        Of the outputs that dropout keeps.
    tape : bool
        Whether to keep what `backward` needs.

    Returns
    -------
    y : tensor in the layout of x
    h_n, c_n : tensors (*lead, P) and (*lead, H)
    tape : tensor or None
    """
    y = torch.empty((*x.shape[:-1], plan.output_size), dtype=plan.dtype, device="cpu")
    h_n, c_n = (_state(state, steps, width, plan.dtype) for state, width in zip((h, c), plan.state_widths, strict=True))
    y_array = _array(y, steps)
    inner = np.empty_like(y_array) if plan.num_layers > 1 else None
    saved = memory = None
    if tape:
        memory = _new_tape(tape_size(plan, steps.rows), plan.dtype)
        saved = _saved(plan, memory.numpy(), steps.rows)
    forward_driver.forward(
        network,
        _array(x.detach().contiguous(), steps),
        y_array,
        inner,
        _state_array(h_n, plan, steps),
        _state_array(c_n, plan, steps),
        steps.batch_first,
        steps.order,
        _masks(keep, steps),
        scale,
        saved,
        threads(),
    )
    return y, h_n, c_n, memory


def backward(
    plan: Plan,
    steps: Steps,
    shape: Sequence[int],
    dy: Any,
    dh: Any,
    dc: Any,
    network: Network,
    tape: Any,
    keep: Any = None,
    scale: float = 1.0,
    with_dx: bool = True,
) -> tuple[Any, Any, Any, list[Any]]:
    """Propagate gradients back through a call of `forward`.

    Parameters
    ----------
    plan, steps, network, tape, keep, scale :
        Those of the call.
    shape : sequence of int
        The shape of x.
    dy, dh, dc : None or tensors in the layouts of y, h_n and c_n

    Returns
    -------
    dx : tensor of x's shape; without `with_dx` its numbers are arbitrary
    dh, dc : tensors (*lead, P) and (*lead, H)
    weights : list of tensors in the order of `plan.names`
    """
    dx = (torch.zeros if with_dx else torch.empty)(shape, dtype=plan.dtype, device="cpu")
    dx_array = _array(dx, steps)
    dh, dc = (_state(state, steps, width, plan.dtype) for state, width in zip((dh, dc), plan.state_widths, strict=True))
    gradients = [torch.zeros(shape, dtype=plan.dtype, device="cpu") for shape in plan.shapes]
    inner_shape = steps.shape(plan.output_size)
    backward_driver.backward(
        network,
        dx_array,
        None if dy is None else _array(dy.detach().resolve_neg().contiguous(), steps),
        [np.empty(inner_shape, dx_array.dtype) for _ in range(min(plan.num_layers - 1, 2))],
        _state_array(dh, plan, steps),
        _state_array(dc, plan, steps),
        steps.batch_first,
        steps.order,
        _masks(keep, steps),
        scale,
        list(_saved(plan, tape.detach().numpy(), steps.rows)),
        _sums(plan, gradients),
        threads(),
        with_dx=with_dx,
    )
    if plan.bias:  # only the sum of the two biases is used
        for first in range(0, len(gradients), plan.weights_of_direction):
            gradients[first + 3].copy_(gradients[first + 2])
    return dx, dh, dc, gradients


def networks(plan: Plan, steps: Steps, weights: Sequence[Any]) -> Network:
    """Return the network of weights that must fit; a RuntimeError says that they do not."""
    network = network_of(plan, weights, steps.rows)
    if network is None:
        shapes = ", ".join(map(str, plan.shapes))
        raise RuntimeError(f"weights: expected CPU tensors of {plan.dtype} of shapes {shapes}")
    return network


def threads() -> int:
    """Return the number of threads that a call may use: PyTorch's setting."""
    return config.threads_of(torch.get_num_threads())


def tape_size(plan: Plan, rows: Any) -> Any:
    """Return the elements of a tape over so many rows, which may be a symbol."""
    return sum(_up(rows * width) for direction in range(plan.directions) for width in _widths(plan, direction) if width)


def _widths(plan: Plan, direction: int) -> tuple[int, ...]:
    """Return the widths of the arrays of a Saved; 0 where there is none."""
    P, H = plan.state_widths
    projected = bool(plan.proj_size)
    return plan.inputs_of(direction), P, H, 4 * H, H, 0, H * projected, P * projected, 0


def _up(elements: Any) -> Any:
    """Round a number of elements up to whole cache lines, for elements of any size."""
    line = CACHE_LINE_BYTES // 4
    return (elements + line - 1) // line * line


def _new_tape(size: int, dtype: torch.dtype) -> Any:
    if not size:
        return torch.empty(0, dtype=dtype, device="cpu")
    # working memory that is used again; an empty tensor would be mapped by the system page by page
    return torch.frombuffer(memoryview(Buffer(size * dtype.itemsize)), dtype=dtype, count=size)


def clear_gaps(plan: Plan, tape: Any, rows: int) -> None:
    """Set to zero what is between the arrays of a tape, so that equal calls have equal tapes."""
    start = 0
    for direction in range(plan.directions):
        for width in _widths(plan, direction):
            end = start + _up(rows * width)
            tape[start + rows * width : end] = 0
            start = end


def _saved(plan: Plan, memory: Array, rows: int) -> list[Saved | None]:
    """Return the arrays of a tape for each direction."""
    found: list[Saved | None] = []
    start = 0
    for direction in range(plan.directions):
        arrays: list[Array | None] = []
        for width in _widths(plan, direction):
            arrays.append(memory[start : start + rows * width].reshape(rows, width) if width else None)
            start += _up(rows * width)
        found.append(Saved(*arrays))
    return found


def _sums(plan: Plan, gradients: list[Any]) -> list[GradientSums]:
    """Return the gradients of each direction for the driver; both biases have the same one."""
    arrays = [gradient.numpy() for gradient in gradients]
    each = plan.weights_of_direction
    found = []
    for first in range(0, len(arrays), each):
        ih, hh, *rest = arrays[first : first + each]
        bias = rest[0] if plan.bias else None
        found.append(GradientSums(ih, hh, rest[-1] if plan.proj_size else None, bias, None, None, None))
    return found


def _state(value: Any, steps: Steps, width: int, dtype: torch.dtype) -> Any:
    """Return a state as a new contiguous tensor, zeros for None."""
    if value is None:
        return torch.zeros((*steps.lead, width), dtype=dtype, device="cpu")
    return value.detach().resolve_neg().clone(memory_format=torch.contiguous_format)


def _state_array(state: Any, plan: Plan, steps: Steps) -> Array:
    array: Array = state.numpy()
    return array.reshape(plan.directions, steps.B, array.shape[-1])


def _array(tensor: Any, steps: Steps) -> Array:
    """Return a contiguous tensor as an array of the drivers' shape."""
    array: Array = tensor.numpy()
    return array.reshape(steps.shape(array.shape[-1]))


def _masks(keep: Any, steps: Steps) -> list[Array] | None:
    return None if keep is None else [mask.reshape(steps.shape(mask.shape[-1])) for mask in keep.numpy()]
