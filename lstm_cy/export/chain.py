"""A model as the chain of what a step computes: tables, cells, affine maps, windows, functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._kernels.affine import Affine
from .._kernels.network import ACTIVATION_KINDS, COUPLING_KINDS, Network
from .._kernels.records import CellOptions
from .._kernels.rowwise import FUNCTIONS, RowPart
from .._kernels.stages import Skip
from ..layers.activations import PLAIN, for_kernels
from ..layers.base import stages_by_layer
from ..streaming.stepper import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..layers.base import Layer
    from ..typing import Array

    #: a weight (outputs, inputs), with a scale for each output if it is int8
    Weight = Array | tuple[Array, Array]

_NAMES = {number: name for name, number in ACTIVATION_KINDS.items()}
_COUPLINGS = {number: name for name, number in COUPLING_KINDS.items()}
_PLAIN_KINDS = for_kernels(PLAIN)
_FUNCTIONS = {number: name for name, number in FUNCTIONS.items()}


class Lookup(NamedTuple):
    """The vector of a token: `table` is (tokens, outputs); with `masks` token 0 is padding."""

    table: Array
    masks: bool = False


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
    """A function of `size` numbers, by the name of an Activation; alpha and beta are 0 where it has none."""

    name: str
    alpha: float
    beta: float
    size: int


class Scale(NamedTuple):
    """A BatchNormalization: (x - mean) * factor * weight + bias, arrays (size,)."""

    weight: Array
    bias: Array
    mean: Array
    factor: Array


class Normalize(NamedTuple):
    """A LayerNormalization with arrays (size,)."""

    eps: float
    weight: Array
    bias: Array


class Mask(NamedTuple):
    """A Masking: a step whose `size` numbers all are `value` is padding."""

    value: float
    size: int


class Padding(NamedTuple):
    """Zeros in place of an LSTM's output at a step of padding."""

    size: int


class Last(NamedTuple):
    """The output of the last step that is not padding; with `zero`, zeros at a step of padding."""

    zero: bool
    size: int


class Running(NamedTuple):
    """A GlobalPooling1D of the steps so far; `kind` is "max" or "average"."""

    kind: str
    size: int


class Window(NamedTuple):
    """A Conv1D, or a Pooling1D of `kind` "max" or "average", of the window that ends with this step.

    Attributes
    ----------
    kind : str
        "convolution", "max" or "average".
    inputs, outputs : int
        Numbers of a step.
    size, stride, dilation : int
        As of the layers.
    wait : int
        Steps before the first output.
    maps : tuple of (weight, bias)
        Of a convolution, for each group: (outputs / groups, inputs / groups * size), (outputs / groups,) or None.
    """

    kind: str
    inputs: int
    outputs: int
    size: int
    stride: int
    dilation: int
    wait: int
    maps: tuple[tuple[Array, Array | None], ...]

    @property
    def is_steady(self) -> bool:
        """Whether every step gives an output."""
        return self.stride == 1 and self.wait == 0

    @property
    def before(self) -> int:
        """The steps before the present one that a window reaches back."""
        return (self.size - 1) * self.dilation


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


Part = Lookup | Linear | Add | Function | Scale | Normalize | Mask | Padding | Last | Running | Window | Cell


def parts_of(model: Layer, known: Callable[[Part], bool] = lambda part: True) -> list[Part]:
    """Return the parts of a model, in order, with the weights that it has now.

    Parameters
    ----------
    model : Layer
    known : callable, optional
        Whether a part can be used.

    Raises
    ------
    TypeError, ValueError
        The model cannot be stepped, or not in float32 or int8, or a part is not known; the message names the layer.
    """
    model = frozen(model, "model")
    if model.dtype != np.float32:
        raise ValueError(f"model: expected a float32 model, got {model.dtype}")
    try:
        found = stages_by_layer(model.layers)
    except (TypeError, ValueError) as error:
        raise type(error)(f"model: {error}") from None
    parts: list[Part] = []
    begins: list[int] = []  # the part that each stage begins with
    for index, stages in found:
        layer = model.layers[index]
        for stage in stages:
            begins.append(len(parts))
            own: list[Part]
            if isinstance(stage.kernel, np.ndarray):
                own = [Lookup(stage.kernel, layer.masks)]
            else:
                own = _of_kernel(stage.kernel, begins, any(map(_marks, parts)))
            _check(own, index, layer, known)
            parts += own
    if not parts:
        raise ValueError(f"model: expected a layer other than Dropout, got {model!r}")
    return parts


def sizes_of(part: Part) -> tuple[int, int]:
    """Return the numbers of a part's input, or the number of tokens, and those of its output."""
    if isinstance(part, Cell | Add | Window):
        return part.inputs, part.outputs
    if isinstance(part, Lookup):
        return len(part.table), part.table.shape[1]
    if isinstance(part, Linear):
        weight = part.weight[0] if isinstance(part.weight, tuple) else part.weight
        return weight.shape[1], len(weight)
    size = len(part.weight) if isinstance(part, Scale | Normalize) else part.size
    return size, size


def _check(parts: list[Part], index: int, layer: Layer, known: Callable[[Part], bool]) -> None:
    """Raise unless the parts of a layer are known, and their parameters finite float32 numbers."""
    for part in parts:
        if not known(part):
            raise ValueError(f"model: layer {index}, {layer!r}, cannot be described for JavaScript")
        for values in _numbers(part):
            if not np.isfinite(values).all():
                raise ValueError(f"model: expected finite parameters, got NaN or infinity in layer {index}, {layer!r}")


def _numbers(part: Any) -> Iterator[Array]:
    """Give all numbers of a part, and of the tuples in it, as float32 or int8."""
    for value in part:
        if isinstance(value, tuple):
            yield from _numbers(value)
        elif isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, float):
            with np.errstate(over="ignore"):
                yield np.asarray(value, np.float32)


def _of_kernel(kernel: Any, begins: list[int], masked: bool) -> list[Part]:
    """Return the parts of a stage; `begins` has the part that each stage begins with, its own too."""
    if isinstance(kernel, Network):
        cells: list[Part] = [_cell(kernel, layer) for layer in range(len(kernel.weights))]
        return [*cells, Padding(kernel.output_size)] if masked else cells
    if isinstance(kernel, Affine):
        return [Linear(kernel.weight, kernel.bias)]
    if isinstance(kernel, Skip):
        return [Add(begins[-1 - kernel.stages], kernel.inputs, kernel.outputs)]
    return [_row(kernel)]


def _marks(part: Part) -> bool:
    """Return whether a part marks steps as padding."""
    return isinstance(part, Mask) or (isinstance(part, Lookup) and part.masks)


def _row(kernel: RowPart) -> Part:
    """Return the part of a layer without recurrent weights."""
    options, size = kernel.options, kernel.outputs
    how, _, kind = kernel.kind.partition(" ")
    if how == "function":
        return Function(_FUNCTIONS[options["function"]], options["alpha"], options["beta"], size)
    if how in ("softmax", "logsoftmax"):
        return Function(how, 0.0, 0.0, size)
    if how == "scaled":
        return Scale(*options["vectors"])
    if how == "normalized":
        return Normalize(options["alpha"], *options["vectors"])
    if how == "masks":
        return Mask(options["alpha"], size)
    if how == "last":
        return Last(options["zero"], size)
    if how == "running":
        return Running(kind, size)
    maps = tuple((affine.weight, affine.bias) for affine in options["affines"])
    steps = {name: options[name] for name in ("size", "stride", "dilation", "wait")}
    return Window(kind or how, kernel.inputs, size, maps=maps, **steps)


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
