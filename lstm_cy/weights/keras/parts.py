"""What a layer of Keras becomes, and where its weights come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from ...layers.activation import Activation
from ...layers.base import Layer
from .options import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Collection

    from ...typing import Array, Parameters
    from .options import Function
    from .weights import Location, Weights

    _L = TypeVar("_L", bound=Layer)

#: a function of lists of arrays and of their masks, None for an absent one, that returns a list of arrays
Step: TypeAlias = "partial[list[Array]]"
#: layers of this library that run one after the other, or a function
Made: TypeAlias = "list[Layer] | Step"


class Source:
    """The weights of a model, and what is known of the input of the layer that is made now.

    Attributes
    ----------
    features, rank : int or None
        The number of features, and of axes.
    flips_kernels : bool
        Whether the kernels of convolutions are stored back to front, as Theano has them.
    nested : callable or None
        Makes a model inside a layer of its calls, as `Assembly.model`; None where only LSTMs are made.
    """

    def __init__(self, weights: Weights, nested: Any = None) -> None:
        self._weights, self.flips_kernels, self.nested = weights, weights.flips_kernels, nested
        self.features: int | None = None
        self.rank: int | None = None

    def take(
        self,
        location: Location,
        shapes: dict[str, tuple[int | None, ...]],
        path: str = "",
        layer_names: Collection[str] = (),
    ) -> Parameters:
        """Take a layer's weights, {kind: array}, and check their `shapes`, in which None is any size."""
        arrays = self._weights.take(location, list(shapes), path, layer_names)
        for kind, shape in shapes.items():
            check_weight(location, kind, arrays[kind], shape)
        return arrays


class Part(NamedTuple):
    """What a layer of Keras becomes.

    Attributes
    ----------
    make : callable
        Makes it: a function of a Source.
    mask : callable
        A function of (masks, inputs, their masks) that returns the mask of the output: names of values, None for no
        mask. `masks` makes new ones.
    uses_mask : bool
        Whether the output depends on the mask of the input.
    takes_mask : bool
        Whether the layers of this library may get a mask that Keras's layer does not use.
    rank : callable
        A function of the number of axes of the input, None if unknown, that returns that of the output.
    outputs : int
        The number of outputs.
    masked : callable or None
        Makes it where an input has a mask, if that is something else.
    """

    make: Callable[[Source], Made]
    mask: Callable[[Any, list[str], list[str | None]], str | None]
    uses_mask: bool = False
    takes_mask: bool = True
    rank: Callable[[int | None], int | None] = lambda rank: rank
    outputs: int = 1
    masked: Callable[[Source], Made] | None = None


def keeps_mask(masks: Any, inputs: list[str], given: list[str | None]) -> str | None:
    """Return the mask of the input."""
    return given[0]


def drops_mask(masks: Any, inputs: list[str], given: list[str | None]) -> None:
    """Return no mask."""
    return


def check_weight(location: Location, kind: str, array: Array, shape: Sequence[int | None]) -> None:
    """Raise unless a weight holds floats in this shape, in which None is any size."""
    if array.dtype.kind != "f":
        raise ValueError(f"{location.name}: {kind}: expected floats, got {array.dtype}")
    fits = array.ndim == len(shape) and all(
        expected in (None, size) for expected, size in zip(shape, array.shape, strict=True)
    )
    if not fits or 0 in array.shape:
        raise ValueError(f"{location.name}: {kind}: expected shape {tuple(shape)}, got {array.shape}")


def loaded(layer: _L, parameters: Parameters) -> _L:
    """Return a blank layer after it has got its parameters."""
    layer.load_state_dict(parameters)
    return layer


def activation_layers(function: Function) -> list[Layer]:
    """Return the layer of an activation function; none for the linear one."""
    return [] if function == FUNCTIONS["linear"] else [Activation(*function)]
