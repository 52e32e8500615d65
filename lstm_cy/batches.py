"""Sequences of different lengths as one padded batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .checks import flag, real_array

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .typing import Array, ArrayLike, Ints


def pad(sequences: Iterable[ArrayLike], *, batch_first: bool = False) -> tuple[Array, Ints]:
    """Join sequences of different lengths to one batch, padded with zeros at the end.

    Parameters
    ----------
    sequences : list of array_like
        Arrays of real numbers (T_b, ...), one for each row, which differ only in T_b; T_b may be 0. Tokens are vectors
        (T_b,).
    batch_first : bool
        Rows first: (B, T, ...) rather than (T, B, ...).

    Returns
    -------
    x : ndarray (T, B, ...) or (B, T, ...)
        A copy; T is the longest length; the dtype can hold the values of all sequences.
    lengths : ndarray (B,) of intp
        To pass to a layer or a loss as ``lengths``.

    Raises
    ------
    TypeError
        `sequences` is not iterable, or one of them is not an array of real numbers.
    ValueError
        There is no sequence, one has no time axis or has masked elements, or they differ in more than length.

    Examples
    --------
    >>> import lstm_cy
    >>> x, lengths = lstm_cy.pad([[1, 2, 3], [4]])
    >>> x
    array([[1, 4],
           [2, 0],
           [3, 0]])
    >>> lengths
    array([3, 1])
    """
    flag("batch_first", batch_first)
    try:
        each = iter(sequences)
    except TypeError:
        raise TypeError(f"sequences: expected a list of arrays, got {type(sequences).__name__}") from None
    arrays: list[Array] = []
    for index, sequence in enumerate(each):
        array = real_array(f"sequences[{index}]", sequence)
        arrays.append(array)
        if array.ndim == 0:
            raise ValueError(f"sequences: expected arrays (T, ...), got a scalar at {index}")
        if array.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(
                f"sequences: expected all of shape (T, ...) = (T, {', '.join(map(str, arrays[0].shape[1:]))}), "
                f"got {array.shape} at {index}"
            )
    if not arrays:
        raise ValueError("sequences: expected at least one, got none")
    lengths = np.array([len(array) for array in arrays], dtype=np.intp)
    filled = [array for array in arrays if len(array)] or arrays  # the dtype of an empty list has no meaning
    x = np.zeros((len(arrays), lengths.max(), *arrays[0].shape[1:]), np.result_type(*filled))
    for row, array in zip(x, arrays, strict=True):
        row[: len(array)] = array
    return (x if batch_first else np.ascontiguousarray(x.swapaxes(0, 1))), lengths
