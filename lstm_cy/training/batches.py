"""Batches of sequences: `pad` joins sequences to one, and `Batches` cuts the data of `fit` into many."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import (
    check_lengths,
    expect_shape,
    flag,
    flag_array,
    float_array,
    int_array,
    non_negative_int,
    number,
    real_array,
    shown,
)
from .criterion import takes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..typing import Array, ArrayLike, Bools, Data, Ints
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
    #: True where a step of x counts, in the shape of its first two axes
    mask: Bools | None = None
    #: the weights of the targets, float64 in the shape of y's first axes
    weights: Array | None = None
    #: the rows of all processes that train together
    rows: int = 0

    @property
    def weight(self) -> int:
        """The batch's weight in a mean: its number of steps if each has a target, else its number of rows."""
        if not self.x.size:  # a row without steps does not count
            return 0
        if not self.per_step:
            return len(self.y)
        return int(self.y.shape[0] * self.y.shape[1] if self.lengths is None else self.lengths.sum())


#: the parts of data that are given by name
_NAMES = ("x", "y", "lengths", "mask", "sample_weight")


class Batches:
    """Checked batches, from arrays or yielded by a callable.

    Parameters
    ----------
    name : str
        What messages call the data.
    data : Data
    batch_size : int
    loop : Loop
    sample_weight : array_like, optional
        Weights for data without weights of its own.
    class_weight : array (C,) or dict of int to float, optional
        Factors of the weights of the targets, by their class.
    """

    def __init__(
        self,
        name: str,
        data: Data,
        batch_size: int,
        loop: Loop,
        *,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[int, float] | Array | None = None,
    ) -> None:
        self.name, self.batch_size, self.loop = name, batch_size, loop
        self.batch_axis, self.bptt = loop.batch_axis, loop.bptt
        self.class_weight = class_weight
        #: whether training takes the rows of arrays in a random order
        self.shuffled = True
        self._has_steps: dict[int, bool] = {}
        self.source: Any = _source(name, data)
        if self.source is not None and sample_weight is not None:
            raise ValueError("sample_weight: expected None where data is a callable, whose batches have their own")
        self.whole = None if self.source is not None else self._checked(data, sample_weight)
        self._count = len(data) if self.source is not None and hasattr(data, "__len__") else None
        #: the first of this data's rows and the one after its last
        self.first, self.end = 0, 0 if self.whole is None else self.whole.x.shape[self.batch_axis]
        if self.whole is not None:
            self._check_counts(self.whole)

    def split(self, share: float) -> Batches:
        """Leave the last `share` of the rows to other batches, which are returned; they have no class weights."""
        if self.whole is None:
            raise ValueError("validation_split: expected arrays as data, because a callable's rows are not known")
        rows = int(self.end * share)
        if not 0 < rows < self.end:
            raise ValueError(
                f"validation_split: expected a share that leaves rows on both sides, got {share} of {self.end}"
            )
        rest = copy(self)
        rest.name, rest.class_weight, rest.first = "validation_split", None, self.end - rows
        self.end -= rows
        for half in (self, rest):
            half._check_counts(self.whole)
        return rest

    @property
    def steps(self) -> int | None:
        """The number of windows in an epoch, or None if it is not known in advance."""
        if self.whole is None:
            return None if self.bptt else self._count
        if self.bptt and self.whole.lengths is not None:
            return None
        batches = -(-(self.end - self.first) // self.batch_size)
        windows: int = -(-self.whole.x.shape[1 - self.batch_axis] // self.bptt) if self.bptt else 1
        return int(batches) * windows

    @property
    def shapes(self) -> list[tuple[int, ...]] | None:
        """The shapes of x, y and lengths; None if a callable yields them."""
        return None if self.whole is None else [np.shape(array) for array in self.whole[:3] if array is not None]

    def prefetched(self, epoch: int, rng: np.random.Generator | None = None) -> Iterator[Batch]:
        """Yield what `batches` yields; a thread prepares the loop's `prefetch` batches ahead."""
        batches, ahead = self.batches(epoch, rng), self.loop.prefetch
        return batches if not ahead else _read_ahead(batches, ahead)

    def batches(self, epoch: int, rng: np.random.Generator | None = None) -> Iterator[Batch]:
        """Yield this process's share of an epoch's batches, with rows in a random order if `rng` is given.

        Batches with nothing to count are left out.
        """
        if self.whole is None:
            for batch in map(self._checked, self._yielded(epoch)):
                yield from self._part(batch, np.arange(batch.x.shape[self.batch_axis]))
            return
        rows = self.end - self.first
        order = self.first + (rng.permutation(rows) if rng is not None and self.shuffled else np.arange(rows))
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
        lengths = batch.lengths
        chosen = _with_steps(batch, chosen)
        if not batch.x.size or not len(chosen) or not (lengths is None or lengths[chosen].any()):
            return
        longest = None if lengths is None else int(lengths[chosen].max())
        own = chosen[self.loop.team.share(len(chosen))]
        yield self._taken(batch, own, longest)._replace(rows=len(chosen))

    def _taken(self, batch: Batch, rows: Ints, longest: int | None) -> Batch:
        """Return `rows` of `batch`, cut after `longest` steps, with the weights of their targets."""
        x, y, lengths, per_step, has_steps, mask, weights, _ = batch
        y_axis = self.batch_axis if per_step else 0
        if longest is not None:
            cut = (slice(None),) * (1 - self.batch_axis) + (slice(longest),)
            x, y = x[cut], y[cut] if per_step else y
            weights = weights[cut] if per_step and weights is not None else weights
        taken = Batch(
            x.take(rows, self.batch_axis),
            y.take(rows, y_axis),
            None if lengths is None else lengths[rows],
            per_step,
            has_steps,
            None if mask is None else mask.take(rows, self.batch_axis),
            None if weights is None else weights.take(rows, y_axis),
        )
        if self.loop.gaps:
            taken = self._without_gaps(taken)
        if taken.mask is not None:
            valid = taken.mask if per_step else taken.mask.any(axis=1 - self.batch_axis)
            taken = taken._replace(weights=_product(taken.weights, np.asarray(valid)))
        if self.class_weight is not None:
            taken = taken._replace(weights=_product(taken.weights, weights_of_classes(taken.y, self.class_weight)))
        return taken

    def _without_gaps(self, batch: Batch) -> Batch:
        """Return a batch whose NaN are replaced by 0, masked where they were in x, and of weight 0 where in y."""
        x, y = batch.x, batch.y
        if x.dtype.kind == "f":
            gaps = np.isnan(x)
            mask = np.asarray(~gaps.any(axis=tuple(range(2, x.ndim))))
            mask = mask if batch.mask is None else mask & batch.mask
            batch = batch._replace(x=np.where(gaps, x.dtype.type(0), x), mask=mask)
        if y.dtype.kind == "f":
            gaps = np.isnan(y)
            weights = _product(batch.weights, ~gaps)
            batch = batch._replace(y=np.where(gaps, y.dtype.type(0), y), weights=weights)
        return batch

    def _checked(self, value: Any, sample_weight: ArrayLike | None = None) -> Batch:
        x, y, lengths, mask, weights = self._arrays(value)
        rows = x.shape[self.batch_axis]
        if rows == 0 and self.source is None:
            raise ValueError(f"{self.name}: x: expected at least one row, got shape {x.shape}")
        if lengths is not None:
            if x.ndim < 2:
                raise ValueError(f"{self.name}: lengths: expected an x with a time axis with them, got {x.shape}")
            lengths = check_lengths(lengths, rows, x.shape[1 - self.batch_axis])
        if mask is not None:
            mask, lengths = self._checked_mask(mask, x, lengths), None
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
        if sample_weight is not None and weights is not None:
            raise ValueError("sample_weight: expected None where data has weights of its own, got both")
        weights = sample_weight if weights is None else weights
        if not self.loop.criterion.takes_weights and (mask is not None or weights is not None or self._weighs):
            loss = shown(self.loop.criterion.loss)
            raise TypeError(f"loss: expected one that takes sample_weight=, for weights, masks and gaps, got {loss}")
        if mask is not None and has_steps and not per_step and self.loop.criterion.needs_target_per_row:
            raise ValueError(f"{self.name}: mask: expected None with ctc, which takes lengths, got one")
        if weights is not None:
            weights = self._checked_weights(weights, y, per_step)
        return Batch(x, y, lengths, per_step, has_steps, mask, weights)

    @property
    def _weighs(self) -> bool:
        """Whether targets get weights besides those of the data."""
        return self.loop.gaps or self.class_weight is not None

    def _checked_weights(self, value: Any, y: Array, per_step: bool) -> Array:
        """Return weights in the shape of y's first axes, as float64; those of rows are repeated for each step."""
        name = "sample_weight" if self.source is None else f"{self.name}: sample_weight"
        weights = float_array(name, value, np.float64)
        rows = y.shape[self.batch_axis] if per_step else len(y)
        if per_step and weights.shape == (rows,):
            weights = np.broadcast_to(weights[:, None] if self.batch_axis == 0 else weights, y.shape[:2])
        if weights.ndim < 1 + per_step or weights.shape != y.shape[: weights.ndim]:
            steps = f", or per step, {y.shape[:2]}" if per_step else ""
            raise ValueError(f"{name}: expected one weight per row, ({rows},){steps}, got shape {weights.shape}")
        wrong = ~((weights >= 0) & (weights < np.inf))
        if wrong.any():
            raise ValueError(f"{name}: expected finite numbers of at least 0, got {weights[wrong][0]}")
        return weights

    def _checked_mask(self, mask: Any, x: Array, lengths: Ints | None) -> Bools:
        """Return the mask of x, False past the lengths too."""
        if x.ndim < 2 or not takes(self.loop.model.forward, "mask"):
            kind = type(self.loop.model).__name__
            raise ValueError(f"{self.name}: mask: expected None for a {kind} and an x of shape {x.shape}, got one")
        valid = flag_array(f"{self.name}: mask", mask)
        expect_shape(f"{self.name}: mask", valid, x.shape[:2], "the first two axes of x")
        if lengths is not None:
            within = np.arange(x.shape[1 - self.batch_axis])[:, None] < lengths
            valid &= within if self.batch_axis else within.T
        return valid

    def _arrays(self, value: Any) -> tuple[Array, Array, Any, Any, Any]:
        """Return x and y as arrays, and lengths, mask and weights."""
        name, axes = self.name, self.loop.x_axes
        if isinstance(value, Mapping):
            unknown = [key for key in value if key not in _NAMES]
            missing = [key for key in ("x", "y") if key not in value]
            if unknown or missing:
                raise ValueError(f"{name}: expected 'x', 'y' and any of {_NAMES[2:]}, got {shown(list(value))}")
            parts = [value.get(key) for key in _NAMES]
        elif isinstance(value, tuple | list) and len(value) in (2, 3):
            parts = [*value, *[None] * (5 - len(value))]
        else:
            got = f"{len(value)} of them" if isinstance(value, tuple | list) else type(value).__name__
            raise TypeError(
                f"{name}: expected (x, y), (x, y, lengths) or a callable that yields them, or dicts, got {got}"
            )
        x = real_array(f"{name}: x", parts[0])
        y = _targets(f"{name}: y", parts[1])
        if x.ndim <= self.batch_axis or (axes and x.ndim != axes):
            expected = f"{axes} axes, " if axes else ""
            raise ValueError(f"{name}: x: expected {expected}rows on axis {self.batch_axis}, got shape {x.shape}")
        return x, y, parts[2], parts[3], parts[4]

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
        end = self.end if whole.x.size else self.first
        for start in range(self.first, end, self.batch_size):
            some = _with_steps(whole, np.arange(start, min(start + self.batch_size, end)))
            if len(some) and self.loop.criterion.weight_of(self._taken(whole, some, None)):
                return
        raise ValueError(
            f"{self.name}: y: expected at least one target to count, got none: every one is ignored, "
            "past its row's length or of weight 0"
        )


def _source(name: str, data: Any) -> Any:
    """Return a function of the epoch that yields batches; None for arrays."""
    if callable(data):
        return data
    if isinstance(data, tuple | list | Mapping | str | bytes) or hasattr(data, "__array__"):
        return None
    try:
        again = iter(data)
    except TypeError:
        return None
    if again is data:
        raise TypeError(
            f"{name}: expected data that can be read in every epoch, got a {type(data).__name__}, which can be read "
            "once; pass a function that makes it"
        )
    return lambda epoch: data


def _read_ahead(batches: Iterator[Batch], ahead: int) -> Iterator[Batch]:
    """Yield the items of `batches`, of which a thread takes up to `ahead` before they are needed."""
    from collections import deque
    from concurrent.futures import ThreadPoolExecutor

    reader = ThreadPoolExecutor(1, thread_name_prefix="lstm_cy prefetch")
    try:
        pending = deque(reader.submit(next, batches, None) for _ in range(ahead))
        while (batch := pending.popleft().result()) is not None:
            pending.append(reader.submit(next, batches, None))
            yield batch
    finally:  # also after an exception in the training
        reader.shutdown(cancel_futures=True)
        batches.close()  # type: ignore[attr-defined]  # a generator


def weights_of_classes(target: Array, class_weight: Mapping[int, float] | Array) -> Array:
    """Return the weight of each target; a class that a dict does not name has weight 1."""
    target = int_array("y", target)
    if isinstance(class_weight, Mapping):
        weights = np.ones(target.shape)
        for number_of_class, weight in class_weight.items():
            weights[target == number_of_class] = weight
        return weights
    # Targets out of range are ignored or refused by the loss.
    weights = np.take(class_weight, target, mode="clip")
    return weights


def checked_class_weight(value: Any) -> Mapping[int, float] | Array | None:
    """Return weights of classes: None, a dict, or a float64 array (C,)."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        for key, weight in value.items():
            non_negative_int("class_weight: a class", key)
            number(f"class_weight[{key}]", weight, 0.0, open_high=True)
        return dict(value)
    weights = float_array("class_weight", value, np.float64)
    if weights.ndim != 1 or not weights.size or not ((weights >= 0) & (weights < np.inf)).all():
        raise ValueError(f"class_weight: expected finite numbers (C,) of at least 0, or a dict, got {shown(value)}")
    return weights.copy()


def _product(weights: Array | None, factor: Array) -> Array:
    """Return the product of weights, None for 1, with another such array; the last axes of one may be missing."""
    if weights is None:
        return np.asarray(factor, np.float64)
    axes = max(weights.ndim, factor.ndim)
    first, second = (array.reshape(array.shape + (1,) * (axes - array.ndim)) for array in (weights, factor))
    product: Array = first * second
    return product


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
        mask, weights = batch.mask, batch.weights
        yield batch._replace(
            x=x[cut],
            y=y[cut] if batch.per_step else y,
            lengths=left,
            mask=None if mask is None else mask[cut],
            weights=weights[cut] if batch.per_step and weights is not None else weights,
        )
