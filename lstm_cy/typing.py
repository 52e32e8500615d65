"""Type aliases of the annotations, for use in other code.

Examples
--------
>>> from lstm_cy import LSTM
>>> from lstm_cy.typing import Array, State
>>> def last(lstm: LSTM, x: Array, state: State | None = None) -> tuple[Array, State]:
...     y, state = lstm(x, state)
...     return y[-1], state
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Literal, TypeAlias

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
    "FileSource",
    "Floats",
    "Ints",
    "Loss",
    "Narrow",
    "Parameters",
    "Seed",
    "State",
    "StateLike",
]

#: an array whose dtype is the layer's, or stated in the docstring
Array: TypeAlias = NDArray[Any]
Ints: TypeAlias = NDArray[np.intp]
Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.floating[Any]]
#: an LSTM's (h, c), as a result
State: TypeAlias = tuple[Array, Array]
#: an LSTM's (h, c), as an argument
StateLike: TypeAlias = tuple[ArrayLike, ArrayLike] | list[Any]
#: {name: array}
Parameters: TypeAlias = dict[str, Array]
#: seed or source of random numbers; None for a new random seed
Seed: TypeAlias = int | np.random.Generator | None
FilePath: TypeAlias = str | os.PathLike[str]
#: a path, the content of a file, or a file that is open for reading in binary mode
FileSource: TypeAlias = FilePath | bytes | bytearray | memoryview | IO[bytes]
#: the storage of narrow weights
Narrow: TypeAlias = Literal["bf16", "int8"]
Precision: TypeAlias = Literal["float32", "bf16"]
Coupling: TypeAlias = Literal["f=1-i", "i=1-f"] | None
#: three of a name, (name, alpha) or (name, alpha, beta), or one such triple for each direction
Activations: TypeAlias = Sequence[Any]
#: (prediction, target, optionally lengths and batch_first by name) -> (value, gradient)
Loss: TypeAlias = Callable[..., tuple[float, Array]]
#: the data of `fit`: (x, y), (x, y, lengths), a dict of these and of mask and sample_weight, or a function that yields
#: such batches, given the epoch's number
Data: TypeAlias = tuple[ArrayLike, ...] | list[Any] | Mapping[str, Any] | Callable[[int], Iterable[Any]]
