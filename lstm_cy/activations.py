"""The activations of an LSTM by ONNX's names, and their numbers for the kernels."""

from __future__ import annotations

import numbers
import sys
from typing import TYPE_CHECKING, Any

from .checks import number, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    #: (name, alpha, beta) of the gate, candidate and cell activations
    _Triple = tuple[tuple[str, float, float], ...]

#: ONNX's default (alpha, beta); 0 where the function has none. The order is the kernels'.
DEFAULTS = {
    "sigmoid": (0.0, 0.0),  # 1 / (1 + exp(-x))
    "tanh": (0.0, 0.0),
    "relu": (0.0, 0.0),  # max(0, x)
    "affine": (1.0, 0.0),  # alpha x + beta
    "leakyrelu": (0.01, 0.0),  # x where x >= 0, else alpha x
    "thresholdedrelu": (1.0, 0.0),  # x where x > alpha, else 0
    "scaledtanh": (1.0, 1.0),  # alpha tanh(beta x)
    "hardsigmoid": (0.2, 0.5),  # max(0, min(1, alpha x + beta))
    "elu": (1.0, 0.0),  # x where x >= 0, else alpha (exp(x) - 1)
    "softsign": (0.0, 0.0),  # x / (1 + |x|)
    "softplus": (0.0, 0.0),  # ln(1 + exp(x))
}
#: how many of (alpha, beta) a function has; functions that are not listed have none
ARGUMENTS = {"affine": 2, "leakyrelu": 1, "thresholdedrelu": 1, "scaledtanh": 2, "hardsigmoid": 2, "elu": 1}
_NUMBERS = {name: number for number, name in enumerate(DEFAULTS)}
#: the default activations of an LSTM
PLAIN = (("sigmoid", 0.0, 0.0), ("tanh", 0.0, 0.0), ("tanh", 0.0, 0.0))


def normalized(activations: Sequence[Any], directions: int, largest: float = sys.float_info.max) -> tuple[_Triple, ...]:
    """Return the `activations` of an LSTM as one triple of (name, alpha, beta) for each direction.

    Parameters
    ----------
    activations : sequence
        Three entries, for the gates, the candidate and the cell, or one such triple for each direction. An entry is a
        name, in upper or lower case, or (name, alpha) or (name, alpha, beta).
    directions : int
    largest : float
        The largest absolute value of alpha and beta.

    Raises
    ------
    TypeError, ValueError
        `activations` has another form; the message names it.

    Examples
    --------
    >>> normalized(("HardSigmoid", "tanh", ("leakyrelu", 0.1)), 1)
    ((('hardsigmoid', 0.2, 0.5), ('tanh', 0.0, 0.0), ('leakyrelu', 0.1, 0.0)),)
    """
    if not isinstance(activations, tuple | list):
        raise TypeError(f"activations: expected three or a triple for each direction, got {shown(activations)}")
    if len(activations) == directions and all(_is_triple(entry) for entry in activations):
        return tuple(_triple(entry, largest) for entry in activations)
    if len(activations) == 3:
        return (_triple(activations, largest),) * directions
    raise ValueError(
        f"activations: expected three or a triple for each of {directions} directions, got {len(activations)} entries"
    )


def for_kernels(triple: _Triple) -> tuple[tuple[int, float, float], ...]:
    """Return a normalized triple with the kernels' numbers in place of names."""
    return tuple((_NUMBERS[name], alpha, beta) for name, alpha, beta in triple)


def _is_triple(entry: object) -> bool:
    return isinstance(entry, tuple | list) and len(entry) == 3 and not isinstance(entry[1], numbers.Real)


def _triple(entries: Sequence[Any], largest: float) -> _Triple:
    return tuple(_activation(entry, largest) for entry in entries)


def _activation(entry: Any, largest: float) -> tuple[str, float, float]:
    name, *given = entry if isinstance(entry, tuple | list) and entry else (entry,)
    if not isinstance(name, str) or name.lower() not in DEFAULTS:
        raise ValueError(f"activations: expected names of {', '.join(DEFAULTS)}, got {shown(entry)}")
    name = name.lower()
    if len(given) > 2 or not all(isinstance(part, numbers.Real) and not isinstance(part, bool) for part in given):
        raise TypeError(f"activations: expected a name, (name, alpha) or (name, alpha, beta), got {shown(entry)}")
    values = tuple(number("activations", part, -largest, largest) for part in given) + DEFAULTS[name][len(given) :]
    has = ARGUMENTS.get(name, 0)
    if any(values[has:]):
        raise ValueError(f"activations: expected {has} numbers with {name}, got {shown(entry)}")
    alpha, beta = values
    return name, alpha, beta
