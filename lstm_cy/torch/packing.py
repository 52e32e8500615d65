"""Weights of tensors in the form that the kernels read, packed once and again when a tensor has changed."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from .. import config
from .._kernels.network import Copied, tape_width
from ..layers.lstm import LSTM as Layer

if TYPE_CHECKING:
    from collections.abc import Sequence


#: the types of tensors that hold plain memory; others are subclasses with a behaviour of their own
PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
DTYPES = {torch.float32: "float32", torch.float64: "float64"}
#: Rows and steps of a call from which all bytes of the weights are compared with those that were packed, which then
#: takes a few per cent of the call. A shorter call compares so many bytes of each weight, and the next one others.
_COMPARE_ALL = 64
_LEAST_COMPARED = 262144


class Plan:
    """The sizes of an LSTM and what follows from them, for any number of modules of these sizes.

    Attributes
    ----------
    shapes : list of tuple
        Of the weights, in the order of `torch.nn.LSTM`: for each layer and direction weight_ih, weight_hh, bias_ih,
        bias_hh, weight_hr, those that it has.
    directions : int
        Of all layers together.
    state_widths : (P, H)
    tape_width : int
        The elements of a tape for each row, counted in each step.
    bf16 : bool
        Whether products are in bf16, in a plan for float32.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        bidirectional: bool,
        proj_size: int,
        dtype: torch.dtype,
        bf16: bool = False,
    ) -> None:
        self.dtype, self.bf16 = dtype, bf16
        layer = Layer.blank(
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            bidirectional=bidirectional,
            proj_size=proj_size,
            dtype=DTYPES[dtype],
        )
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.bidirectional, self.proj_size = bias, bidirectional, proj_size
        self.state_widths = proj_size or hidden_size, hidden_size
        self.num_directions = 2 if bidirectional else 1
        self.output_size = self.num_directions * self.state_widths[0]
        self.directions = num_layers * self.num_directions
        self.shapes = [array.shape for array in layer.parameters.values()]
        self.weights_of_direction = len(self.shapes) // self.directions
        self.inputs = tuple(self.inputs_of(direction) for direction in range(self.directions))
        self.tape_width = sum(tape_width(inputs, hidden_size, self.state_widths[0]) for inputs in self.inputs)

    def inputs_of(self, direction: int) -> int:
        """Return the number of inputs of a direction, counted over all layers."""
        return self.input_size if direction < self.num_directions else self.output_size

    def network(self, addresses: tuple[int, ...]) -> Copied:
        """Return a network of weights that are copied from the memory of contiguous tensors."""
        P, H = self.state_widths
        sizes = H, P, self.num_directions, self.dtype.itemsize
        blas = None if self.bf16 else config.blas()
        return Copied(config.kernels(), blas, *sizes, self.inputs, self.bias, addresses, self.bf16)


plan_of = functools.lru_cache(maxsize=256)(Plan)


class _Entry:
    """A network, and what its weights were when it was made."""

    __slots__ = ("network", "plan", "storages", "versions")

    def __init__(self, plan: Plan, weights: Sequence[Any], versions: Any) -> None:
        self.plan = plan
        self.versions = versions
        # of the tensors themselves there is no weak reference: torch.utils.swap_tensors refuses tensors that have one
        self.storages = [StorageWeakRef(weight.untyped_storage()) for weight in weights]
        with torch.no_grad():
            plain = [weight.contiguous() for weight in weights]
        self.network = plan.network(tuple([weight.data_ptr() for weight in plain]))

    def is_alive(self) -> bool:
        """Whether the memory that was packed is still in use, so that the same addresses are not new memory."""
        return not any(storage.expired() for storage in self.storages)

    def is_current(self, weights: Sequence[Any], addresses: tuple[int, ...], rows: int) -> bool:
        """Whether the numbers are those that were packed, as far as a call of so many rows can afford to look."""
        if not all(weight.is_contiguous() for weight in weights):
            return False
        most = -1 if rows >= _COMPARE_ALL or self.versions is None else _LEAST_COMPARED
        return self.network.equals(addresses, most)


#: of each plan's precision and the addresses of weights
_entries: dict[tuple[int, ...], _Entry] = {}


def network_of(plan: Plan, weights: Sequence[Any], rows: int) -> Copied | None:
    """Return the network of these weights for a call of `rows` rows and steps; None if the kernels cannot use them.

    It is packed again when the version of a tensor has changed, as by an optimizer, or its memory. A change that
    PyTorch does not count (through ``.data`` or NumPy) is noticed by comparing bytes: all of them in calls of at least
    64 rows and steps, else 256 KiB of each weight, others in each call.
    """
    for weight in weights:
        if type(weight) not in PLAIN:
            return None
    addresses = tuple([weight.data_ptr() for weight in weights])
    versions = _versions(weights)
    key = (plan.bf16, *addresses)
    entry = _entries.get(key)
    if (
        entry is not None
        and entry.versions == versions
        and entry.plan is plan
        and entry.is_alive()
        and entry.is_current(weights, addresses, rows)
    ):
        return entry.network
    if not _are_usable(plan, weights):
        return None
    if entry is None:
        _remove_expired()
    entry = _entries[key] = _Entry(plan, weights, versions)
    return entry.network


def _versions(weights: Sequence[Any]) -> list[int] | None:
    """Return the tensors' versions; None for inference tensors, which have none."""
    try:
        return [weight._version for weight in weights]
    except RuntimeError:
        return None


def _are_usable(plan: Plan, weights: Sequence[Any]) -> bool:
    return len(weights) == len(plan.shapes) and all(
        weight.dtype is plan.dtype
        and weight.is_cpu
        and weight.layout is torch.strided
        and not weight.is_neg()
        and tuple(weight.shape) == shape
        for weight, shape in zip(weights, plan.shapes, strict=True)
    )


def _remove_expired() -> None:
    """Remove the networks whose weights are no longer in use."""
    for key, entry in list(_entries.items()):
        if not entry.is_alive():
            _entries.pop(key, None)
