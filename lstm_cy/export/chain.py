"""A model as the chain of what a step computes: tables, cells, affine maps and functions, with their arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._kernels.affine import Affine
from .._kernels.network import ACTIVATION_KINDS, COUPLING_KINDS, Network
from .._kernels.records import CellOptions
from .._kernels.stages import Skip
from ..layers.activations import PLAIN, for_kernels
from ..streaming.stepper import frozen
from .templates.activations import ELEMENTWISE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..layers.base import Layer
    from ..typing import Array

    #: a weight (outputs, inputs), with a scale for each output if it is int8
    Weight = Array | tuple[Array, Array]

_NAMES = {number: name for name, number in ACTIVATION_KINDS.items()}
_COUPLINGS = {number: name for name, number in COUPLING_KINDS.items()}
_PLAIN_KINDS = for_kernels(PLAIN)
#: the functions of Activation that are exported
FUNCTIONS = (*ELEMENTWISE, "softmax")


class Lookup(NamedTuple):
    """The vector of a token: `table` is (tokens, outputs)."""

    table: Array


class Linear(NamedTuple):
    """An affine map: `weight` is (outputs, inputs), `bias` (outputs,) or None."""

    weight: Array
    bias: Array | None


class Add(NamedTuple):
    """The sum of the output of the part before and the first `outputs` numbers of the input of the part `first`."""

    first: int
    inputs: int
    outputs: int


class Function(NamedTuple):
    """A function of `size` numbers, by the name of an Activation."""

    name: str
    alpha: float | None
    beta: float | None
    size: int


class Cell(NamedTuple):
    """One layer of an LSTM.

    Attributes
    ----------
    units, outputs, inputs : int
        H, P and I.
    ih, hh : Weight
        (4H, I) and (4H, P).
    hr : ndarray (P, H) or None
    bias, peepholes, norm : ndarray (4H,), (3H,) and (4H,), or None
    initial : (h, c) or None
        The initial state, (P,) and (H,); None for zeros.
    activations : tuple
        (name, alpha, beta) of the gates, the candidate and the cell.
    coupling : str or None
    clip, cell_clip, proj_clip : float or None
    zoneout : (float, float)
    """

    units: int
    outputs: int
    inputs: int
    ih: Weight
    hh: Weight
    hr: Array | None
    bias: Array | None
    peepholes: Array | None
    norm: Array | None
    initial: tuple[Array, Array] | None
    activations: tuple[tuple[str, float, float], ...]
    coupling: str | None
    clip: float | None
    cell_clip: float | None
    proj_clip: float | None
    zoneout: tuple[float, float]

    @property
    def is_narrow(self) -> bool:
        """Whether its weights are int8."""
        return isinstance(self.ih, tuple)

    @property
    def is_sensitive(self) -> bool:
        """Whether a difference in the last bit can become a large one: by rounding to int8, or by normalising."""
        return self.is_narrow or self.norm is not None

    @property
    def is_plain(self) -> bool:
        """Whether it has no option, so that the cell can be computed on sums that are still in registers."""
        options = self.hr, self.peepholes, self.norm, self.coupling, self.clip, self.cell_clip
        without = all(option is None for option in options) and not any(self.zoneout)
        return without and self.activations == PLAIN and not self.is_narrow


Part = Lookup | Linear | Add | Function | Cell


def parts_of(model: Layer) -> list[Part]:
    """Return the parts of a model, in order, with the weights that it has now.

    Raises
    ------
    TypeError, ValueError
        The model cannot be stepped, or not in float32 or int8; the message says why.
    """
    model = frozen(model, "model")
    if model.dtype != np.float32:
        raise ValueError(f"model: expected a float32 model, got {model.dtype}")
    parts: list[Part] = []
    begins: list[int] = []  # the part that each stage begins with
    outputs = None
    for index, layer in enumerate(model.layers):
        if layer.passes_on:
            continue
        if parts and layer.vocabulary_size is not None:
            raise ValueError(f"model: expected an Embedding to come first, got one at {index}")
        if layer.function is not None:
            parts.append(_function(layer, index, outputs))
            continue
        try:
            stages = layer.stages()
        except (TypeError, ValueError) as error:
            raise type(error)(f"model: {error}") from None
        if parts and stages[0].inputs != outputs:
            raise ValueError(f"model: expected {outputs} inputs of layer {index}, got {stages[0].inputs}")
        outputs = stages[-1].outputs
        for stage in stages:
            begins.append(len(parts))
            parts += _of_kernel(stage.kernel, index, begins)
    if not parts:
        raise ValueError(f"model: expected a layer other than Dropout, got {model!r}")
    return parts


def _function(layer: Layer, index: int, size: int | None) -> Function:
    """Return the part of an Activation."""
    assert layer.function is not None
    name, alpha, beta = layer.function
    if size is None:
        raise ValueError(f"model: expected LSTM, Linear or Embedding before the Activation at {index}")
    if name not in FUNCTIONS:
        raise ValueError(f"model: expected one of {', '.join(FUNCTIONS)} to export, got {name} at {index}")
    return Function(name, alpha, beta, size)


def _of_kernel(kernel: Any, index: int, begins: list[int]) -> list[Part]:
    """Return the parts of a stage of layer `index`; `begins` has the part that each stage begins with, its own too."""
    parts: list[Part]
    if isinstance(kernel, Network):
        parts = [_cell(kernel, layer) for layer in range(len(kernel.weights))]
    elif isinstance(kernel, Affine):
        parts = [Linear(kernel.weight, kernel.bias)]
    elif isinstance(kernel, Skip):
        parts = [Add(begins[-1 - kernel.stages], kernel.inputs, kernel.outputs)]
    else:
        parts = [Lookup(kernel)]
    for part in parts:
        for array in _arrays(part):
            if not np.isfinite(array).all():
                raise ValueError(f"model: expected finite parameters, got NaN or infinity in layer {index}")
    return parts


def _arrays(part: Part) -> Iterator[Array]:
    """Give all arrays of a part."""
    for value in part:
        for array in value if isinstance(value, tuple) else (value,):
            if isinstance(array, np.ndarray):
                yield array


def _cell(network: Network, layer: int) -> Cell:
    """Return one layer of an LSTM."""
    inputs, ih, hh, hr, bias, peepholes, norm = network.weights[layer]
    for weight in ih, hh:
        if isinstance(weight, tuple) and weight[1] is None:
            raise ValueError("model: expected float32 or int8 weights, got bf16: export the float32 model or int8")
    options = CellOptions(_PLAIN_KINDS, 0, None, None) if network.variants is None else network.variants[0]
    initial = None if network.initial is None else (network.initial[0][layer], network.initial[1][layer])
    return Cell(
        network.hidden_size,
        network.output_size,
        inputs,
        ih,
        hh,
        hr,
        bias,
        None if peepholes is None else peepholes.reshape(-1),
        norm,
        initial,
        tuple((_NAMES[kind], alpha, beta) for kind, alpha, beta in options.activations),
        _COUPLINGS[options.coupling],
        options.clip,
        options.cell_clip,
        network.proj_clip,
        network.zoneout,
    )
