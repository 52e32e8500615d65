"""predict: a model's outputs for more rows than one call should take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_lengths, expect_shape, flag_array, positive_int, real_array, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .base import Layer

#: the parts of data that are given by name, as in `fit`
_NAMES = ("x", "y", "lengths", "mask", "sample_weight")


def predict(model: Layer, data: Any, batch_size: int, threads: int | None) -> Any:
    """Return the outputs of `model` for all rows of `data`; `Sequential.predict` describes the arguments."""
    batch_size = positive_int("batch_size", batch_size)
    batches = _yielded(data) if callable(data) else data if _has_batches(data) else [data]
    outputs = [output for batch in batches for output in _outputs(model, batch, batch_size, threads)]
    if not outputs:
        raise ValueError("data: expected at least one batch, got none")
    axes = {axis for _, axis in outputs}
    (axis,) = axes if len(axes) == 1 else (0,)
    arrays = [output for output, _ in outputs]
    if isinstance(arrays[0], tuple):
        return tuple(_joined(list(parts), axis) for parts in zip(*arrays, strict=True))
    return _joined(arrays, axis)


def _joined(arrays: list[Any], axis: int) -> Any:
    if len(arrays) == 1:
        return arrays[0]
    try:
        return np.concatenate(arrays, axis)
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in arrays[:3])
        raise ValueError(f"data: expected batches of one length, got outputs of shapes {shapes}, ...") from None


def _has_batches(data: Any) -> bool:
    """Return whether data is an object that gives batches when iterated over, and no array or sequence."""
    if hasattr(data, "__array__") or isinstance(data, tuple | list | Mapping | str | bytes | bytearray | memoryview):
        return False
    return hasattr(data, "__iter__")


def _yielded(data: Any) -> Any:
    batches = data(0)
    try:
        return iter(batches)
    except TypeError:
        kind = type(batches).__name__
        raise TypeError(f"data: expected the callable to return an iterable of batches, got {kind}") from None


def _outputs(model: Layer, data: Any, batch_size: int, threads: int | None) -> Iterator[tuple[Any, int]]:
    """Yield the output for each batch of rows of arrays, and its axis of rows."""
    x, lengths, mask = _parts(data)
    rows_axis = 1 if model.batch_first is False else 0
    if x.ndim <= rows_axis:
        raise ValueError(f"data: x: expected rows on axis {rows_axis}, got shape {x.shape}")
    rows = x.shape[rows_axis]
    if lengths is not None:
        lengths = check_lengths(lengths, rows, x.shape[1 - rows_axis])
    if mask is not None:
        mask = flag_array("data: mask", mask)
        expect_shape("data: mask", mask, x.shape[:2], "the first two axes of x")
    for start in range(0, max(rows, 1), batch_size):
        part = slice(start, start + batch_size)
        cut = (slice(None),) * rows_axis + (part,)
        own = {"lengths": None if lengths is None else lengths[part]}
        own |= {} if mask is None else {"mask": mask[cut]}
        output = model(x[cut], None, **own, threads=threads)[0]
        first = output[0] if isinstance(output, tuple) else output
        steps = rows_axis == 1 and first.ndim > 1 and first.shape[:2] == x[cut].shape[:2]
        yield output, int(steps and model.gives_steps)


def _parts(data: Any) -> tuple[Any, Any, Any]:
    """Return x, lengths and mask of an array, a tuple or a dict."""
    if isinstance(data, Mapping):
        if "x" not in data or any(name not in _NAMES for name in data):
            raise ValueError(f"data: expected 'x' and any of {_NAMES[1:]}, got {shown(list(data))}")
        x, lengths, mask = data["x"], data.get("lengths"), data.get("mask")
    elif isinstance(data, tuple):
        if len(data) not in (2, 3):
            raise ValueError(f"data: expected x, (x, y) or (x, y, lengths), got a tuple of {len(data)}")
        x, lengths, mask = data[0], data[2] if len(data) == 3 else None, None
    else:
        x, lengths, mask = data, None, None
    return real_array("data: x", x), lengths, mask
