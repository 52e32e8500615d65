"""The tables of operators: the other modules of this package fill them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..proto import ARRAY_DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..node import Operator

#: {name: function}
OPERATORS: dict[str, Operator] = {}

#: implemented values of attributes, and numbers of outputs; others are unsupported
ATTRIBUTES: dict[str, dict[str, tuple[Any, ...]]] = {
    "BatchNormalization": {"training_mode": (0,), "spatial": (1,)},
    "Cast": {"to": tuple(ARRAY_DTYPES)},
    "Gelu": {"approximate": ("none", "tanh")},
    "LayerNormalization": {"stash_type": (1, 11)},
    "RMSNormalization": {"stash_type": (1, 11)},
    "ScatterElements": {"reduction": ("none", "add", "mul", "max", "min")},
    "ScatterND": {"reduction": ("none", "add", "mul", "max", "min")},
    "AveragePool": {"auto_pad": ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")},
    "ConvTranspose": {"auto_pad": ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")},
    "EyeLike": {"dtype": tuple(ARRAY_DTYPES)},
    "GroupNormalization": {"stash_type": (1, 11)},
    "LpNormalization": {"p": (1, 2)},
    "MaxPool": {"auto_pad": ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")},
    "Resize": {"mode": ("nearest", "linear", "cubic")},
    "Upsample": {"mode": ("nearest", "linear")},
    "Pad": {"mode": ("constant", "edge", "reflect", "wrap")},
}
OUTPUTS = {"BatchNormalization": 1}
#: operators that also take strings; the others take only numbers
OF_STRINGS = {"Concat", "Equal", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape"}
OF_STRINGS |= {"ReverseSequence", "Shape", "Size", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
OF_STRINGS |= {"Where"}


def operator(name: str) -> Callable[[Operator], Operator]:
    """Decorate the function of an operator, which is registered under `name`."""

    def register(function: Operator) -> Operator:
        OPERATORS[name] = function
        return function

    return register
