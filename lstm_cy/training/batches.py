"""Batches of sequences: `pad` joins sequences to one, and `Batches` cuts the data of `fit` into many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import check_lengths, flag, real_array, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..typing import Array, ArrayLike, Data, Ints
    from .loop import Loop


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


class Batch(NamedTuple):
    x: Array
    y: Array
    lengths: Ints | None
    #: whether each step has a target
    per_step: bool
    #: whether the model's output has a time axis
    has_steps: bool

    @property
    def weight(self) -> int:
        """The batch's weight in a mean: its number of steps if each has a target, else its number of rows."""
        if not self.x.size:  # a row without steps does not count
            return 0
        if not self.per_step:
            return len(self.y)
        return int(self.y.shape[0] * self.y.shape[1] if self.lengths is None else self.lengths.sum())


class Batches:
    """Checked batches, from arrays or yielded by a callable."""

    def __init__(self, name: str, data: Data, batch_size: int, loop: Loop) -> None:
        self.name, self.batch_size, self.loop = name, batch_size, loop
        self.batch_axis, self.bptt = loop.batch_axis, loop.bptt
        self._has_steps: dict[int, bool] = {}
        self.source: Any = data if callable(data) else None
        self.whole = None if callable(data) else self._checked(data)
        if self.whole is not None:
            self._check_counts(self.whole)

    @property
    def steps(self) -> int | None:
        """The number of windows in an epoch, or None if it is not known in advance."""
        if self.whole is None or (self.bptt and self.whole.lengths is not None):
            return None
        batches = -(-self.whole.x.shape[self.batch_axis] // self.batch_size)
        windows: int = -(-self.whole.x.shape[1 - self.batch_axis] // self.bptt) if self.bptt else 1
        return int(batches) * windows

    @property
    def shapes(self) -> list[tuple[int, ...]] | None:
        """The shapes of x, y and lengths; None if a callable yields them."""
        return None if self.whole is None else [np.shape(array) for array in self.whole[:3] if array is not None]

    def batches(self, epoch: int, rng: np.random.Generator | None = None) -> Iterator[Batch]:
        """Yield this process's share of an epoch's batches, with rows in a random order if `rng` is given.

        Batches with nothing to count are left out.
        """
        if self.whole is None:
            for batch in map(self._checked, self._yielded(epoch)):
                yield from self._part(batch, np.arange(batch.x.shape[self.batch_axis]))
            return
        rows = self.whole.x.shape[self.batch_axis]
        order = np.arange(rows) if rng is None else rng.permutation(rows)
        for start in range(0, rows, self.batch_size):
            yield from self._part(self.whole, order[start : start + self.batch_size])

    def _yielded(self, epoch: int) -> Iterator[Any]:
        batches = self.source(epoch)
        try:
            return iter(batches)
        except TypeError:
            kind = type(batches).__name__
            expected = "expected the callable to return an iterable of batches"
            raise TypeError(f"{self.name}: {expected}, got {kind}") from None

    def _part(self, batch: Batch, chosen: Ints) -> Iterator[Batch]:
        """Yield this process's share of the `chosen` rows of `batch`, cut after the longest; nothing without steps."""
        x, y, lengths, per_step, has_steps = batch
        chosen = _with_steps(batch, chosen)
        if not x.size or not len(chosen) or not (lengths is None or lengths[chosen].any()):
            return
        own = chosen[self.loop.team.share(len(chosen))]
        if lengths is not None:
            cut = (slice(None),) * (1 - self.batch_axis) + (slice(lengths[chosen].max()),)
            x, y = x[cut], y[cut] if per_step else y
            lengths = lengths[own]
        x, y = x.take(own, self.batch_axis), y.take(own, self.batch_axis if per_step else 0)
        yield Batch(x, y, lengths, per_step, has_steps)

    def _checked(self, value: Any) -> Batch:
        x, y, lengths = self._arrays(value)
        rows = x.shape[self.batch_axis]
        if rows == 0 and self.source is None:
            raise ValueError(f"{self.name}: x: expected at least one row, got shape {x.shape}")
        if lengths is not None:
            if x.ndim < 2:
                raise ValueError(f"{self.name}: lengths: expected an x with a time axis with them, got {x.shape}")
            lengths = check_lengths(lengths, rows, x.shape[1 - self.batch_axis])
        if not x.size or not (lengths is None or lengths.any()):  # nothing to run the model on
            return Batch(x, y, lengths, False, False)
        has_steps = self._steps_of_output(x, lengths)
        if has_steps and lengths is not None and not self.loop.criterion.takes_lengths:
            loss = shown(self.loop.criterion.loss)
            raise TypeError(f"loss: expected one that takes lengths=, because {self.name} has lengths, got {loss}")
        fits = x.shape[:2] == y.shape[:2] and y.ndim >= 2
        per_step = fits and has_steps and not self.loop.criterion.needs_target_per_row
        if not per_step:
            self._check_targets(x, y, has_steps)
        return Batch(x, y, lengths, per_step, has_steps)

    def _arrays(self, value: Any) -> tuple[Array, Array, Any]:
        """Return x and y as arrays, and lengths."""
        name, axes = self.name, self.loop.x_axes
        if not isinstance(value, tuple | list) or len(value) not in (2, 3):
            got = f"{len(value)} of them" if isinstance(value, tuple | list) else type(value).__name__
            raise TypeError(f"{name}: expected (x, y), (x, y, lengths) or a callable that yields them, got {got}")
        x = real_array(f"{name}: x", value[0])
        y = _targets(f"{name}: y", value[1])
        if x.ndim <= self.batch_axis or (axes and x.ndim != axes):
            expected = f"{axes} axes, " if axes else ""
            raise ValueError(f"{name}: x: expected {expected}rows on axis {self.batch_axis}, got shape {x.shape}")
        return x, y, value[2] if len(value) == 3 else None

    def _check_targets(self, x: Array, y: Array, has_steps: bool) -> None:
        """Raise unless y has a target for each row, and loss and model can use targets per row."""
        name, rows, steps = self.name, x.shape[self.batch_axis], x.shape[:2]
        if y.shape[:1] != (rows,):
            expected = f"per step, shape {steps} and more, or " if has_steps else ""
            got = f"got {y.shape}" if has_steps else f"because the model gives one output per row, got {y.shape}"
            raise ValueError(f"{name}: y: expected a target {expected}per row, ({rows},) and more, {got}")
        if self.bptt:
            why = "" if has_steps else ", and a model that gives an output for each"
            raise ValueError(f"{name}: y: with bptt expected a target per step, {steps}{why}, got {y.shape}")
        if has_steps and self.loop.criterion.compares_elements:
            raise ValueError(
                f"{name}: y: expected a target per step, {steps}, because the model gives an output per step, "
                f"got {y.shape}; for a target per row the model needs a Readout after its LSTMs"
            )

    def _steps_of_output(self, x: Array, lengths: Ints | None) -> bool:
        """Return whether the model's output for such an x has a time axis, from its output for one row."""
        if x.ndim not in self._has_steps:
            steps, row = x.shape[1 - self.batch_axis] if x.ndim > 1 else 1, 0
            if lengths is not None:
                steps, row = int(lengths.max()), int(lengths.argmax())
            # The number of (equal) rows differs from the number of steps, so that their axes differ.
            rows = 2 if steps == 1 else 1
            sample = x.take([row] * rows, self.batch_axis)
            if lengths is not None:
                sample = sample.take(np.arange(steps), 1 - self.batch_axis)
            shape = self.loop.shape_of_output(sample)
            same = x.ndim > 1 and shape[:2] == sample.shape[:2]
            self._has_steps[x.ndim] = same and (len(shape) > 2 or shape[0] != rows)
        return self._has_steps[x.ndim]

    def _check_counts(self, whole: Batch) -> None:
        """Raise if all of the data has nothing to count."""
        if whole.lengths is not None and not whole.lengths.any():
            raise ValueError(f"{self.name}: lengths: expected one above 0, got none")
        axis = self.batch_axis if whole.per_step else 0
        rows = whole.x.shape[self.batch_axis] if whole.x.size else 0
        for start in range(0, rows, self.batch_size):
            some = _with_steps(whole, np.arange(start, min(start + self.batch_size, rows)))
            lengths = None if whole.lengths is None else whole.lengths[some]
            if self.loop.criterion.weight_of(whole._replace(y=whole.y.take(some, axis), lengths=lengths)):
                return
        raise ValueError(
            f"{self.name}: y: expected at least one target to count, got none: every one is ignored, "
            "past its row's length or of weight 0"
        )


def _targets(name: str, value: Any) -> Array:
    """Return `value` as an array; any dtype that the loss takes is allowed."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{name}: expected an array: {error}") from None
    return real_array(name, value) if array.dtype.kind in "biuf" else array


def _with_steps(batch: Batch, chosen: Ints) -> Ints:
    """Return `chosen` without the rows that have no steps, if targets are per row."""
    return chosen if batch.lengths is None or batch.per_step else chosen[batch.lengths[chosen] > 0]


def windows(batch: Batch, time_axis: int, size: int | None) -> Iterator[Batch]:
    """Cut `batch` along time into windows of `size` steps (None: one window)."""
    x, y, lengths = batch[:3]
    if size is None and lengths is None:  # such an x need not have a time axis
        yield batch
        return
    steps = x.shape[time_axis]
    size = size or max(steps, 1)
    for start in range(0, steps, size):
        cut = (slice(None),) * time_axis + (slice(start, min(start + size, steps)),)
        left = None if lengths is None else np.clip(lengths - start, 0, size)
        yield batch._replace(x=x[cut], y=y[cut] if batch.per_step else y, lengths=left)
