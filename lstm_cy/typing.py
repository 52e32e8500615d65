"""What the annotations call things: for those who annotate code of their own.

Examples
--------
>>> from lstm_cy import LSTM
>>> from lstm_cy.typing import Array, State
>>> def last(lstm: LSTM, x: Array, state: State | None = None) -> tuple[Array, State]:
...     y, state = lstm(x, state)
...     return y[-1], state
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "Activations",
    "Array",
    "ArrayLike",
    "Bools",
    "Coupling",
    "DTypeLike",
    "Data",
    "FilePath",
    "Floats",
    "Ints",
    "Loss",
    "Narrow",
    "Parameters",
    "Seed",
    "State",
    "StateLike",
]

#: an array whose dtype is the layer's, or told by the text
Array: TypeAlias = NDArray[Any]
Ints: TypeAlias = NDArray[np.intp]
Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.floating[Any]]
#: an LSTM's (h, c), as it comes back, and as it may be given
State: TypeAlias = tuple[Array, Array]
StateLike: TypeAlias = tuple[ArrayLike, ArrayLike] | list[Any]
#: {name: array}
Parameters: TypeAlias = dict[str, Array]
#: where random numbers come from; None: fresh ones
Seed: TypeAlias = int | np.random.Generator | None
FilePath: TypeAlias = str | os.PathLike[str]
#: how narrow weights are held
Narrow: TypeAlias = Literal["bf16", "int8"]
Coupling: TypeAlias = Literal["f=1-i", "i=1-f"] | None
#: three of a name, (name, alpha) or (name, alpha, beta), or one such triple for each direction
Activations: TypeAlias = Sequence[Any]
#: (prediction, target, and by name lengths or batch_first where they are told) -> (value, gradient)
Loss: TypeAlias = Callable[..., tuple[float, Array]]
#: what `fit` learns from: (x, y), (x, y, lengths), or of such batches as many as an epoch's number gives
Data: TypeAlias = tuple[ArrayLike, ...] | list[Any] | Callable[[int], Iterable[tuple[ArrayLike, ...]]]
