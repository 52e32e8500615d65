"""The LSTM of a module as PyTorch's autograd sees it: a Function for calls, an operator for compiled and exported ones.

Derivatives of derivatives, and derivatives under torch.func's transformations, are computed by PyTorch's own LSTM, from
the same inputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import _VF, Tensor, library

from . import kernels
from .kernels import Steps, networks, packed_steps
from .packing import DTYPES, Plan, plan_of


class Call(NamedTuple):
    """What a call is, besides its tensors with gradients.

    Attributes
    ----------
    plan : Plan
    steps : Steps
    keep : None or uint8 tensor (L - 1, ...)
        The masks of dropout, in y's layout.
    scale : float
        Of the outputs that dropout keeps.
    """

    plan: Plan
    steps: Steps
    keep: Any = None
    scale: float = 1.0


class Run(torch.autograd.Function):
    """(y, h_n, c_n) of a call, with gradients of x, the initial states and the weights."""

    @staticmethod
    def forward(ctx: Any, call: Call, network: Any, x: Tensor, h: Any, c: Any, *weights: Tensor) -> Any:
        plan, steps, keep, scale = call
        y, h_n, c_n, tape = kernels.forward(plan, steps, x, h, c, network, keep, scale, tape=True)
        ctx.save_for_backward(x, h, c, tape, *weights)
        ctx.call, ctx.network = call, network
        ctx.set_materialize_grads(False)
        return y, h_n, c_n

    @staticmethod
    def backward(ctx: Any, dy: Any, dh: Any, dc: Any) -> Any:
        x, h, c, tape, *weights = ctx.saved_tensors  # PyTorch raises here if one was changed in place
        inputs = [x, h, c, *weights]
        needed = ctx.needs_input_grad[2:]
        gradients = dy, dh, dc
        if torch.is_grad_enabled() or _are_batched(gradients):
            return None, None, *_differentiable_gradients(ctx.call, inputs, needed, gradients)
        plan, steps, keep, scale = ctx.call
        return None, None, *kernels.backward(plan, steps, x.shape, *gradients, ctx.network, tape, keep, scale, needed)


def _are_batched(gradients: Sequence[Any]) -> bool:
    """Whether a backward pass runs for a batch of gradients, by torch.func.vmap or by ``is_grads_batched``."""
    return torch._C._functorch.peek_interpreter_stack() is not None or any(
        gradient is not None and torch._C._functorch.is_legacy_batchedtensor(gradient) for gradient in gradients
    )


def _differentiable_gradients(
    call: Call, inputs: list[Any], needed: Sequence[bool], gradients: Sequence[Any]
) -> list[Any]:
    """Return the gradients of the inputs where they are needed, as functions that have derivatives themselves."""
    with torch.enable_grad():
        # New views: an input may have been computed from another one, of which this is not a part of the gradient.
        aliases = [each.view_as(each) if requested else each for each, requested in zip(inputs, needed, strict=True)]
        outputs = in_pytorch(call, aliases[0], aliases[1], aliases[2], aliases[3:])
        used = [(output, gradient) for output, gradient in zip(outputs, gradients, strict=True) if gradient is not None]
        requested = [alias for alias, is_needed in zip(aliases, needed, strict=True) if is_needed]
        if not used:
            return [None] * len(inputs)
        found = iter(
            torch.autograd.grad(
                [output for output, _ in used],
                requested,
                [gradient for _, gradient in used],
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
            )
        )
    return [next(found) if is_needed else None for is_needed in needed]


def in_pytorch(call: Call, x: Tensor, h: Any, c: Any, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return (y, h_n, c_n) of a call, computed by PyTorch in operations that have derivatives of every order."""
    plan, steps, keep, scale = call
    D, each = plan.num_directions, plan.num_directions * plan.weights_of_direction
    y = x
    if not steps.packed:
        lead = (steps.B, steps.T) if steps.batch_first else (steps.T, steps.B)
        y = x.reshape(*lead, plan.input_size)
    states = []
    for state, width in zip((h, c), plan.state_widths, strict=True):
        full = x.new_zeros(plan.directions, steps.B, width) if state is None else state
        states.append(_in_sweep_order(full.reshape(plan.directions, steps.B, width), steps))
    ends = []
    with _without_onednn():  # its LSTM has no second derivative
        for layer in range(plan.num_layers):
            pair = tuple(state[layer * D : (layer + 1) * D] for state in states)
            some = list(weights[layer * each : (layer + 1) * each])
            options = (plan.bias, 1, 0.0, False, plan.bidirectional)
            if steps.packed:
                y, *end = _VF.lstm(y, steps.packed[0], pair, some, *options)
            else:
                y, *end = _VF.lstm(y, pair, some, *options, steps.batch_first)
            ends.append(end)
            if keep is not None and layer < plan.num_layers - 1:
                y = y * (keep[layer].reshape(y.shape) * scale)
    h_n, c_n = (torch.cat([end[part] for end in ends]) for part in (0, 1))
    return (
        y.reshape(*x.shape[:-1], plan.output_size),
        _in_given_order(h_n, steps).reshape(*steps.lead, plan.state_widths[0]),
        _in_given_order(c_n, steps).reshape(*steps.lead, plan.state_widths[1]),
    )


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def _in_sweep_order(state: Tensor, steps: Steps) -> Tensor:
    """Return a state with the rows of a PackedSequence's data."""
    if steps.packed is None or steps.packed[1] is None:
        return state
    return state.index_select(1, steps.packed[1])


def _in_given_order(state: Tensor, steps: Steps) -> Tensor:
    """The inverse of `_in_sweep_order`."""
    if steps.packed is None or steps.packed[1] is None:
        return state
    return state.index_select(1, torch.argsort(steps.packed[1]))


def _call_of(
    x: Tensor,
    weights: Sequence[Tensor],
    keep: Any,
    batch_sizes: Any,
    sorted_indices: Any,
    options: tuple[int, bool, bool, int, bool, float, bool],
) -> Call:
    """Return the call that the arguments of the operator describe."""
    num_layers, bias, bidirectional, proj_size, batch_first, scale, bf16 = options
    if x.dtype not in DTYPES or x.dim() != (3 if batch_sizes is None else 2) or not weights or weights[0].dim() != 2:
        raise RuntimeError(f"x: expected float32 or float64, and weights, got {x.dtype} of shape {tuple(x.shape)}")
    sizes = weights[0].shape[1], weights[0].shape[0] // 4
    plan = plan_of(*sizes, num_layers, bias, bidirectional, proj_size, x.dtype, bf16)
    if batch_sizes is None:
        T, B = x.shape[:2] if not batch_first else (x.shape[1], x.shape[0])
        return Call(plan, Steps(T, B, (plan.directions, B), batch_first), keep, scale)
    steps = packed_steps(plan.directions, x.shape[0], batch_sizes, sorted_indices)
    if steps is None:
        raise RuntimeError("batch_sizes, sorted_indices: expected those of a PackedSequence with this data")
    return Call(plan, steps, keep, scale)


def _check_arguments(call: Call, x: Tensor, h: Tensor, c: Tensor) -> None:
    """Raise unless the tensors of the operator have the shapes and dtypes that the kernels read."""
    plan, steps, keep, _ = call
    lead = (steps.rows,) if steps.packed else (steps.B, steps.T) if steps.batch_first else (steps.T, steps.B)
    _check_tensor("x", x, (*lead, plan.input_size), plan.dtype)
    for name, state, width in zip(("h", "c"), (h, c), plan.state_widths, strict=True):
        _check_tensor(name, state, (*steps.lead, width), plan.dtype)
    if keep is not None:
        _check_tensor("keep", keep, (plan.num_layers - 1, *lead, plan.output_size), torch.uint8)


def _check_tensor(name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != tuple(shape) or tensor.dtype is not dtype:
        raise RuntimeError(
            f"{name}: expected {dtype} of shape {tuple(shape)}, got {tensor.dtype} of shape {tuple(tensor.shape)}"
        )


@library.custom_op("lstm_cy::lstm", mutates_args=(), device_types="cpu")
def lstm(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weights: Sequence[Tensor],
    keep: Tensor | None,
    batch_sizes: Tensor | None,
    sorted_indices: Tensor | None,
    num_layers: int,
    bias: bool,
    bidirectional: bool,
    proj_size: int,
    batch_first: bool,
    scale: float,
    with_tape: bool,
    bf16: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (y, h_n, c_n, tape); without `with_tape` the tape is empty, and backward computes it."""
    options = num_layers, bias, bidirectional, proj_size, batch_first, scale, bf16
    call = _call_of(x, weights, keep, batch_sizes, sorted_indices, options)
    _check_arguments(call, x, h, c)
    network = networks(call.plan, call.steps, weights)
    y, h_n, c_n, tape = kernels.forward(call.plan, call.steps, x, h, c, network, keep, scale, tape=with_tape)
    if tape is None:
        return y, h_n, c_n, x.new_empty(0)
    return y, h_n, c_n, tape


@lstm.register_fake
def _(
    x: Tensor, h: Tensor, c: Tensor, weights: Sequence[Tensor], _: Any, batch_sizes: Tensor | None, *others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, num_layers, bias, bidirectional, proj_size, _, _, with_tape, _ = others
    sizes = int(weights[0].shape[1]), int(weights[0].shape[0]) // 4
    plan = plan_of(*sizes, num_layers, bias, bidirectional, proj_size, x.dtype)
    rows = x.shape[0] if batch_sizes is not None else x.shape[0] * x.shape[1]
    tape = x.new_empty(rows * plan.tape_width if with_tape else 0)
    contiguous = torch.contiguous_format
    y = x.new_empty((*x.shape[:-1], plan.output_size))
    return y, torch.empty_like(h, memory_format=contiguous), torch.empty_like(c, memory_format=contiguous), tape


@library.custom_op("lstm_cy::lstm_backward", mutates_args=(), device_types="cpu")
def lstm_backward(
    dy: Tensor | None,
    dh: Tensor | None,
    dc: Tensor | None,
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weights: Sequence[Tensor],
    tape: Tensor,
    keep: Tensor | None,
    batch_sizes: Tensor | None,
    sorted_indices: Tensor | None,
    num_layers: int,
    bias: bool,
    bidirectional: bool,
    proj_size: int,
    batch_first: bool,
    scale: float,
    bf16: bool,
) -> list[Tensor]:
    """Return the gradients of x, h, c and the weights."""
    options = num_layers, bias, bidirectional, proj_size, batch_first, scale, bf16
    plan, steps, _, _ = call = _call_of(x, weights, keep, batch_sizes, sorted_indices, options)
    _check_arguments(call, x, h, c)
    y_shape = (*x.shape[:-1], plan.output_size)
    for name, gradient, shape in (("dy", dy, y_shape), ("dh", dh, h.shape), ("dc", dc, c.shape)):
        if gradient is not None:
            _check_tensor(name, gradient, shape, plan.dtype)
    network = networks(plan, steps, weights)
    if not tape.numel():
        *_, tape = kernels.forward(plan, steps, x, h, c, network, keep, scale, tape=True)
    return kernels.backward(plan, steps, x.shape, dy, dh, dc, network, tape, keep, scale)


@lstm_backward.register_fake
def _(dy: Any, dh: Any, dc: Any, x: Tensor, h: Tensor, c: Tensor, weights: Sequence[Tensor], *_: Any) -> list[Tensor]:
    return [torch.empty_like(each, memory_format=torch.contiguous_format) for each in (x, h, c, *weights)]


def _set_up(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, h, c, weights, keep, batch_sizes, sorted_indices, *options, _, bf16 = inputs
    ctx.save_for_backward(x, h, c, output[3], keep, batch_sizes, sorted_indices, *weights)
    ctx.options = [*options, bf16]
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Any, dh: Any, dc: Any, _: Any) -> Any:
    x, h, c, tape, keep, batch_sizes, sorted_indices, *weights = ctx.saved_tensors
    arguments = keep, batch_sizes, sorted_indices, *ctx.options
    if dy is dh is dc is None:
        return None, None, None, [None] * len(weights), *[None] * 11
    dx, dh, dc, *gradients = torch.ops.lstm_cy.lstm_backward(dy, dh, dc, x, h, c, weights, tape, *arguments)
    return dx, dh, dc, gradients, *[None] * 11


lstm.register_autograd(_backward, setup_context=_set_up)


def _set_up_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    dy, dh, dc, x, h, c, weights, _, keep, batch_sizes, sorted_indices, *options = inputs
    ctx.save_for_backward(dy, dh, dc, x, h, c, keep, batch_sizes, sorted_indices, *weights)
    ctx.options = options


def _second_backward(ctx: Any, second: Sequence[Any]) -> Any:
    """Return the gradients of `lstm_backward`, through the derivatives of PyTorch's own LSTM."""
    dy, dh, dc, x, h, c, keep, batch_sizes, sorted_indices, *weights = ctx.saved_tensors
    call = _call_of(x, weights, keep, batch_sizes, sorted_indices, tuple(ctx.options))
    with torch.enable_grad():
        firsts = [each if each is None else each.view_as(each).requires_grad_() for each in (dy, dh, dc)]
        inputs = [
            each.view_as(each) if each.requires_grad else each.detach().requires_grad_() for each in (x, h, c, *weights)
        ]
        found = _differentiable_gradients(call, inputs, [True] * len(inputs), firsts)
        pairs = [(one, two) for one, two in zip(found, second, strict=True) if one is not None and two is not None]
        requested = [each for each in (*firsts, *inputs) if each is not None]
        gradients = iter(
            torch.autograd.grad(
                [one for one, _ in pairs],
                requested,
                [two for _, two in pairs],
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
            )
        )
    of_firsts = [None if each is None else next(gradients) for each in firsts]
    dx, dh0, dc0, *of_weights = list(gradients)
    return *of_firsts, dx, dh0, dc0, of_weights, *[None] * 11


lstm_backward.register_autograd(_second_backward, setup_context=_set_up_second)
