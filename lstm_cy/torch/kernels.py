"""Calls of the kernels on tensors: forward and backward, without autograd."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .. import config
from .._kernels.backward import backward_at
from .._kernels.forward import forward_at
from .._kernels.records import RowOrder
from .._kernels.runtime.memory import Buffer
from .._kernels.runtime.threads import set_openmp_threads, use_openmp
from .packing import network_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._kernels.network import Packed
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
    network: Packed,
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
    P, H = plan.state_widths
    y = torch.empty((*x.shape[:-1], plan.output_size), dtype=plan.dtype, device="cpu")
    h_n = torch.empty((*steps.lead, P), dtype=plan.dtype, device="cpu")
    c_n = torch.empty((*steps.lead, H), dtype=plan.dtype, device="cpu")
    memory = _new_tape(steps.rows * plan.tape_width, plan.dtype) if tape else None
    given = [_plain(each) for each in (x, h, c, keep)]  # which keeps them
    _run(
        forward_at,
        network,
        steps.T,
        steps.B,
        steps.batch_first,
        steps.order,
        given[0].data_ptr(),
        y.data_ptr(),
        _address(given[1]),
        _address(given[2]),
        h_n.data_ptr(),
        c_n.data_ptr(),
        _address(given[3]),
        scale,
        _address(memory),
    )
    return y, h_n, c_n, memory


def backward(
    plan: Plan,
    steps: Steps,
    shape: Sequence[int],
    dy: Any,
    dh: Any,
    dc: Any,
    network: Packed,
    tape: Any,
    keep: Any = None,
    scale: float = 1.0,
    requested: Sequence[bool] | None = None,
) -> list[Any]:
    """Propagate gradients back through a call of `forward`.

    Parameters
    ----------
    plan, steps, network, tape, keep, scale :
        Those of the call.
    shape : sequence of int
        The shape of x.
    dy, dh, dc : None or tensors in the layouts of y, h_n and c_n
    requested : None or sequence of bool
        Of which of the results below there is to be a gradient; None for all.

    Returns
    -------
    list of tensors, or None for those that are not requested
        The gradients of x, the initial states (*lead, P) and (*lead, H), and the weights in the order of `plan.shapes`.
    """
    P, H = plan.state_widths
    shapes = [shape, (*steps.lead, P), (*steps.lead, H), *plan.shapes]
    requested = [True] * len(shapes) if requested is None else list(requested)
    written = [requested[0], True, True, *requested[3:]]
    found = [
        torch.empty(size, dtype=plan.dtype, device="cpu") if is_written else None
        for size, is_written in zip(shapes, written, strict=True)
    ]
    addresses = [_address(each) for each in found]
    given = [_plain(each) for each in (dy, dh, dc, keep, tape)]  # which keeps them
    if tape.numel() != steps.rows * plan.tape_width or tape.dtype is not plan.dtype:  # by a hook of saved tensors
        raise RuntimeError(f"tape: expected the {steps.rows * plan.tape_width} numbers saved by the forward pass")
    _run(
        backward_at,
        network,
        steps.T,
        steps.B,
        steps.batch_first,
        steps.order,
        addresses[0],
        _address(given[0]),
        _address(given[1]),
        _address(given[2]),
        addresses[1],
        addresses[2],
        _address(given[3]),
        scale,
        given[4].data_ptr(),
        tuple(addresses[3:]),
        plan.bias,
    )
    return [each if is_requested else None for each, is_requested in zip(found, requested, strict=True)]


def networks(plan: Plan, steps: Steps, weights: Sequence[Any]) -> Packed:
    """Return the network of weights that must fit; a RuntimeError says that they do not."""
    network = network_of(plan, weights, steps.rows)
    if network is None:
        shapes = ", ".join(map(str, plan.shapes))
        raise RuntimeError(f"weights: expected CPU tensors of {plan.dtype} of shapes {shapes}")
    return network


def threads() -> int:
    """Return the number of threads that a call may use: PyTorch's setting."""
    return config.threads_of(torch.get_num_threads())


def _run(driver: Callable[..., None], *arguments: Any) -> None:
    """Call a driver on as many threads as PyTorch uses, and on its threads if they are those of GNU's OpenMP."""
    count = threads()
    if count == 1:
        driver(*arguments, count)
        return
    set_openmp_threads(count)
    try:
        driver(*arguments, count)
    finally:
        set_openmp_threads(0)


def _find_openmp() -> tuple[int, int] | None:
    """Return the addresses for `use_openmp`, from the library that PyTorch is linked with; None if there are none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        start, end = (getattr(library, f"GOMP_parallel_{name}") for name in ("start", "end"))
    except (OSError, AttributeError):
        return None
    if hasattr(library, "__kmpc_fork_call"):  # LLVM's OpenMP, which has functions of these names too
        return None
    return tuple(ctypes.cast(each, ctypes.c_void_p).value or 0 for each in (start, end))  # type: ignore[return-value]


if found := _find_openmp():
    use_openmp(*found)


def _new_tape(size: int, dtype: torch.dtype) -> Any:
    if not size:
        return torch.empty(0, dtype=dtype, device="cpu")
    # working memory that is used again; an empty tensor would be mapped by the system page by page
    return torch.frombuffer(memoryview(Buffer(size * dtype.itemsize)), dtype=dtype, count=size)


def _plain(tensor: Any) -> Any:
    """Return a tensor, or None, with contiguous memory that has its numbers."""
    if tensor is None or (tensor.is_contiguous() and not tensor.is_neg() and not tensor._is_zerotensor()):
        return tensor
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _address(tensor: Any) -> int:
    return 0 if tensor is None else int(tensor.data_ptr())
