"""LSTM and LSTMCell: PyTorch's modules, whose calls run in the kernels where these can do the work."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.autograd import forward_ad
from torch.nn.modules.rnn import RNNBase
from torch.nn.utils.rnn import PackedSequence

from ..checks import warn
from . import kernels
from .autograd import Call, Run, lstm
from .kernels import Steps, packed_steps
from .packing import DTYPES, PLAIN, Plan, network_of, plan_of

#: the reasons for which a call was left to PyTorch and of which a warning was given
_warned: set[str] = set()


class LSTM(RNNBase):
    """A `torch.nn.LSTM`, computed by the kernels of lstm_cy on the CPU.

    Constructor, parameters, state dict, arguments, results, errors and random numbers of dropout are those of
    `torch.nn.LSTM`. A call uses as many threads as `torch.get_num_threads` says. float32 and float64 tensors on the CPU
    run in the kernels, under autocast to bfloat16 with products in bf16; everything else, and transformations of
    torch.func, `torch.jit` and forward-mode derivatives, run in PyTorch's own code, the former with one warning.
    `torch.jit.script` compiles PyTorch's module with the same parameters.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype :
        As for `torch.nn.LSTM`.

    Notes
    -----
    The class derives from `torch.nn.RNNBase` and not from `torch.nn.LSTM`, which `torch.compile` refuses to trace.

    Weights are packed for the kernels at the first call, and again when the version of a tensor changes, as by
    optimizers. In calls of at least 64 rows and steps all bytes are compared as well, in shorter ones 256 KiB of each
    weight, others in each call: this notices changes of which PyTorch keeps no count (through ``.data`` or NumPy).

    Examples
    --------
    ::

        lstm = lstm_cy.torch.LSTM(24, 32, num_layers=2, bidirectional=True)
        y, (h_n, c_n) = lstm(torch.randn(63, 4, 24))
    """

    #: the class of torch.nn of which this is the counterpart, also where a script sets torch.nn.LSTM to this class
    plain = nn.LSTM
    check_forward_args = nn.LSTM.check_forward_args
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    permute_hidden = nn.LSTM.permute_hidden

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        options = num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        super().__init__("LSTM", input_size, hidden_size, *options)

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run the layer over `input`.

        Parameters
        ----------
        input : tensor (T, B, I), (B, T, I) with batch_first, (T, I), or PackedSequence
        hx : None or (h0, c0)
            (L*D, B, P) and (L*D, B, H), without B for (T, I); zeros if None.

        Returns
        -------
        output : tensor or PackedSequence, with D*P in place of I
        (h_n, c_n) : tensors in the shapes of `hx`

        Raises
        ------
        ValueError, RuntimeError
            As from `torch.nn.LSTM`.
        """
        if torch.is_autocast_enabled("cpu"):
            return _under_autocast(self, input, hx)
        return self._computed(input, hx)

    def _computed(self, input: Any, hx: Any, bf16: bool = False) -> Any:
        """Run the layer without autocast, with products in bf16 or not."""
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
            return self._by_operator(input, hx, bf16)
        if isinstance(input, PackedSequence):
            data, batch_sizes, sorted_indices, unsorted_indices = input
        else:
            data, batch_sizes, sorted_indices, unsorted_indices = input, None, None, None
        plan = None if _is_transformed() else self._plan(data, bf16)
        found = None
        if plan is not None and (steps := self._steps(plan, data, batch_sizes, sorted_indices)) is not None:
            found = _run(self, plan, steps, data, hx, self._weights())
        if found is None:
            return self._by_pytorch(input, hx)
        y, h_n, c_n = found
        if batch_sizes is not None:
            y = PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices)
        return y, (h_n, c_n)

    def __prepare_scriptable__(self) -> Any:
        """Return what `torch.jit.script` compiles: PyTorch's module with the same parameters."""
        return _counterpart(self)

    def _plan(self, x: Any, bf16: bool) -> Plan | None:
        """Return the plan for an input; None if the kernels cannot take it."""
        if not _is_plain(x):
            return None
        return plan_of(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bias,
            self.bidirectional,
            self.proj_size,
            x.dtype,
            bf16,
        )

    def _steps(self, plan: Plan, x: Any, batch_sizes: Any, sorted_indices: Any) -> Steps | None:
        """Return the layout of an input; None if it does not fit, of which PyTorch's checks say why."""
        shape = x.shape
        if shape[-1:] != (plan.input_size,) or not x.numel():
            return None
        if batch_sizes is not None:
            if len(shape) != 2 or not all(each is None or each.is_cpu for each in (batch_sizes, sorted_indices)):
                return None
            return packed_steps(plan.directions, shape[0], batch_sizes, sorted_indices)
        if len(shape) == 3:
            B, T = shape[:2] if self.batch_first else shape[1::-1]
            return Steps(T, B, (plan.directions, B), self.batch_first)
        return Steps(shape[0], 1, (plan.directions,)) if len(shape) == 2 else None

    def _weights(self) -> list[Any] | None:
        """Return the weights: parameters, or what parametrizations and hooks compute; None if one is missing."""
        parameters = self._parameters
        try:
            return [parameters[name] for name in self._flat_weights_names]
        except KeyError:
            found = [getattr(self, name, None) for name in self._flat_weights_names]
        return None if any(weight is None for weight in found) else found

    def _by_operator(self, input: Any, hx: Any, bf16: bool) -> Any:
        """Run the layer by the operator, which compilers and exporters see as one node."""
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        weights = self._weights()
        if weights is None or not _can_trace(x, hx, weights):
            return self.plain.forward(self, input, hx)
        if packed:
            batch_sizes, sorted_indices = input.batch_sizes, input.sorted_indices
            B: Any = _rows_of_packed(batch_sizes, sorted_indices) if hx is None else hx[0].shape[1]
        else:
            if x.dim() not in (2, 3):
                raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {x.dim()}D instead")
            batch_sizes = sorted_indices = None
            axis = 0 if self.batch_first else 1
            is_batched = x.dim() == 3
            if not is_batched:
                x = x.unsqueeze(axis)
                hx = None if hx is None else tuple(state.unsqueeze(1) for state in hx)
            B = x.shape[axis]
        if hx is None:
            directions = self.num_layers * (2 if self.bidirectional else 1)
            widths = self.proj_size or self.hidden_size, self.hidden_size
            h, c = (x.new_zeros(directions, B, width) for width in widths)
        else:
            h, c = hx
        if not packed:
            self.check_forward_args(x, (h, c), None)
        keep, scale = self._masks(x, None if packed else B)
        y, h_n, c_n, _ = lstm(
            x,
            h,
            c,
            weights,
            keep,
            batch_sizes,
            sorted_indices,
            self.num_layers,
            self.bias,
            self.bidirectional,
            self.proj_size,
            self.batch_first and not packed,
            scale,
            _keeps_tape((x, h, c, *weights)),
            bf16,
        )
        if packed:
            return PackedSequence(y, batch_sizes, sorted_indices, input.unsorted_indices), (h_n, c_n)
        if not is_batched:
            return y.squeeze(axis), (h_n.squeeze(1), c_n.squeeze(1))
        return y, (h_n, c_n)

    def _masks(self, x: Any, B: Any) -> tuple[Any, float]:
        """Return dropout's masks, (L - 1, ...) in the layout of x, or None, and the scale of what they keep.

        They take the random numbers that torch.nn.LSTM takes. `B` is None for packed data.
        """
        if not (self.training and self.dropout and self.num_layers > 1):
            return None, 1.0
        width = (2 if self.bidirectional else 1) * (self.proj_size or self.hidden_size)
        lead = x.shape[:-1]
        swapped = B is not None and self.batch_first and x.dim() == 3
        if swapped:
            lead = (lead[1], lead[0])
        masks = [x.new_empty((*lead, width)).bernoulli_(1 - self.dropout) for _ in range(self.num_layers - 1)]
        if swapped:
            masks = [mask.transpose(0, 1) for mask in masks]
        keep = torch.stack(masks).to(torch.uint8).contiguous()
        return keep, 1 / (1 - self.dropout) if self.dropout < 1 else 0.0

    def _by_pytorch(self, input: Any, hx: Any) -> Any:
        if isinstance(input, fx.Proxy):
            return _node_of(self, input, hx)
        result = self.plain.forward(self, input, hx)
        _warn_of(self, input.data if isinstance(input, PackedSequence) else input)
        return result


class LSTMCell(nn.LSTMCell):
    """A `torch.nn.LSTMCell`, computed by the kernels of lstm_cy on the CPU, as `LSTM` is.

    Parameters
    ----------
    input_size, hidden_size, bias, device, dtype :
        As for `torch.nn.LSTMCell`.

    Examples
    --------
    ::

        cell = lstm_cy.torch.LSTMCell(24, 32)
        h, c = cell(torch.randn(4, 24))
    """

    plain = nn.LSTMCell
    _masks = None

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Make one step.

        Parameters
        ----------
        input : tensor (B, I) or (I,)
        hx : None or (h0, c0)
            (B, H) or (H,); zeros if None.

        Returns
        -------
        h_1, c_1 : tensors in the shapes of `hx`

        Raises
        ------
        ValueError, RuntimeError
            As from `torch.nn.LSTMCell`.
        """
        if torch.is_autocast_enabled("cpu"):
            return _under_autocast(self, input, hx)
        return self._computed(input, hx)

    def _computed(self, input: Any, hx: Any, bf16: bool = False) -> Any:
        """Make one step without autocast, with products in bf16 or not."""
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
            return self._by_operator(input, hx, bf16)
        found = None
        if not _is_transformed() and _is_plain(input) and input.shape[-1:] == (self.input_size,) and input.numel():
            plan = plan_of(self.input_size, self.hidden_size, 1, self.bias, False, 0, input.dtype, bf16)
            lead = input.shape[:-1]
            if len(lead) < 2:
                steps = Steps(1, lead[0] if lead else 1, tuple(lead))
                found = _run(self, plan, steps, input, hx, self._weights())
        if found is None:
            if isinstance(input, fx.Proxy):
                return _node_of(self, input, hx)
            result = super().forward(input, hx)
            _warn_of(self, input)
            return result
        return found[1:]

    def __prepare_scriptable__(self) -> Any:
        """Return what `torch.jit.script` compiles: PyTorch's module with the same parameters."""
        return _counterpart(self)

    def _weights(self) -> list[Any] | None:
        found = [self.weight_ih, self.weight_hh]
        if self.bias:
            found += [self.bias_ih, self.bias_hh]
        return None if any(weight is None for weight in found) else found

    def _by_operator(self, input: Any, hx: Any, bf16: bool) -> Any:
        """Make the step by the operator, which compilers and exporters see as one node."""
        weights = self._weights()
        if weights is None or not _can_trace(input, hx, weights) or input.dim() not in (1, 2):
            return super().forward(input, hx)
        is_batched = input.dim() == 2
        x = input.unsqueeze(0) if is_batched else input.reshape(1, 1, -1)
        if hx is None:
            h = c = x.new_zeros(1, x.shape[1], self.hidden_size)
        else:
            h, c = (state.reshape(1, -1, state.shape[-1]) for state in hx)
        if x.shape[-1] != self.input_size or any(state.shape != (1, x.shape[1], self.hidden_size) for state in (h, c)):
            return super().forward(input, hx)  # it says what is wrong
        options = None, None, None, 1, self.bias, False, 0, False, 1.0
        _, h_n, c_n, _ = lstm(x, h, c, weights, *options, _keeps_tape((x, h, c, *weights)), bf16)
        if is_batched:
            return h_n.squeeze(0), c_n.squeeze(0)
        return h_n.reshape(-1), c_n.reshape(-1)


LSTM.__module__ = LSTMCell.__module__ = "lstm_cy.torch"  # where pickles look for them


def _run(module: Any, plan: Plan, steps: Steps, x: Any, hx: Any, weights: list[Any] | None) -> Any:
    """Return (y, h_n, c_n) from the kernels; None if the arguments do not fit them."""
    h: Any = None
    c: Any = None
    if hx is not None:
        if not isinstance(hx, tuple | list) or len(hx) != 2:
            return None
        h, c = hx
        for state, width in zip(hx, plan.state_widths, strict=True):
            if not _is_plain(state) or state.dtype is not plan.dtype or state.shape != (*steps.lead, width):
                return None
    if weights is None or (network := network_of(plan, weights, steps.rows)) is None:
        return None
    keep, scale = (None, 1.0) if module._masks is None else module._masks(x, None if steps.packed else steps.B)
    if torch.is_grad_enabled() and (
        x.requires_grad
        or any(weight.requires_grad for weight in weights)
        or (h is not None and (h.requires_grad or c.requires_grad))
    ):
        return Run.apply(Call(plan, steps, keep, scale), network, x, h, c, *weights)
    return kernels.forward(plan, steps, x, h, c, network, keep, scale)[:3]


def _counterpart(module: Any) -> Any:
    """Return a module of torch.nn that shares everything with one of this package; a subclass as it is."""
    if type(module) not in (LSTM, LSTMCell):
        return module
    plain = module.plain.__new__(module.plain)
    plain.__dict__.update(module.__dict__)
    return plain


def _node_of(module: Any, input: Any, hx: Any) -> Any:
    """Return the call of a module as one node of a graph of torch.fx, as of PyTorch's own modules."""
    arguments = (input,) if hx is None else (input, hx)
    return input.tracer.create_proxy("call_module", input.tracer.path_of_module(module), arguments, {})


def _rows_of_packed(batch_sizes: Any, sorted_indices: Any) -> Any:
    """Return the number of rows of a PackedSequence; in a trace it may be a symbol."""
    if sorted_indices is not None:
        return sorted_indices.shape[0]
    rows = batch_sizes[0].item()
    torch._check(rows >= 1)
    return rows


def _is_plain(tensor: Any) -> bool:
    """Whether a tensor is one whose memory the kernels can read."""
    return (
        type(tensor) in PLAIN
        and tensor.dtype in DTYPES
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not tensor.is_neg()
    )


def _is_transformed() -> bool:
    """Whether a transformation of torch.func, a forward-mode derivative or a trace of torch.jit is in progress."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )


def _can_trace(x: Any, hx: Any, weights: list[Any]) -> bool:
    """Whether the operator can take these tensors, as far as dtypes and devices say."""
    tensors = [x, *weights] if hx is None else [x, *hx, *weights]
    return x.dtype in DTYPES and all(each.dtype == x.dtype and each.device.type == "cpu" for each in tensors)


def _keeps_tape(tensors: tuple[Any, ...]) -> bool:
    """Whether the operator is to keep what backward needs; for an exported program, backward computes it."""
    requested = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
    return requested and not torch.compiler.is_exporting()


def _under_autocast(module: Any, input: Any, hx: Any) -> Any:
    """Call a module under autocast, with the dtypes of PyTorch's results.

    Under autocast to bfloat16 products are in bf16, on float32 weights and sums, else in float32.
    """
    packed = isinstance(input, PackedSequence)
    data = input.data if packed else input
    states = () if hx is None else tuple(hx)
    low = (torch.float32, torch.bfloat16, torch.float16)
    usable = all(isinstance(each, torch.Tensor) and each.dtype in low for each in (data, *states))
    weights = module._weights()
    if not usable or weights is None or any(weight.dtype is not torch.float32 for weight in weights):
        return module.plain.forward(module, input, hx)
    hidden_dtype, cell_dtype = _dtypes_under_autocast(module, data, states[1] if states else data, packed)
    bf16 = torch.get_autocast_dtype("cpu") is torch.bfloat16
    with torch.autocast("cpu", enabled=False):
        x = input.to(torch.float32) if packed else data.float()
        result = module._computed(x, tuple(state.float() for state in states) or None, bf16)
    if isinstance(module, LSTMCell):
        return result[0].to(hidden_dtype), result[1].to(cell_dtype)
    y, (h_n, c_n) = result
    return y.to(hidden_dtype), (h_n.to(hidden_dtype), c_n.to(cell_dtype))


def _dtypes_under_autocast(module: Any, x: Any, cell: Any, packed: bool) -> tuple[torch.dtype, torch.dtype]:
    """Return the dtypes of PyTorch's h and c.

    From oneDNN's LSTM and from a projection it is autocast's own, else it is promoted to that of the cell.
    """
    dtype = torch.get_autocast_dtype("cpu")
    supported = {
        torch.float32: lambda: True,
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    is_cell = isinstance(module, LSTMCell)
    projected = not is_cell and module.proj_size > 0
    plain = packed or is_cell or projected
    if not plain and torch.backends.mkldnn.enabled and x.numel() and supported[x.dtype]():
        return dtype, dtype
    promoted = torch.promote_types(dtype, cell.dtype)
    return dtype if projected else promoted, promoted


def _warn_of(module: Any, x: Any) -> None:
    """Warn, once for each reason, that PyTorch has done the work."""
    tensors = [x, *(weight for weight in module._weights() or () if weight is not None)]
    reason = None
    for tensor in tensors:
        if type(tensor) not in PLAIN:
            reason = f"a tensor of type {type(tensor).__name__}"
        elif tensor.device.type not in ("cpu", "meta"):
            reason = f"a tensor on {tensor.device.type}"
        elif tensor.dtype not in DTYPES:
            reason = f"a tensor of {tensor.dtype}"
    if reason is not None and reason not in _warned and not _is_transformed():
        _warned.add(reason)
        warn(f"lstm_cy.torch: {reason} runs in PyTorch's own LSTM; the kernels take float32 and float64 on the CPU")
