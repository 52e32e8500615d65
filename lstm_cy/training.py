"""fit: epochs, validation, truncated back-propagation, early stopping and checkpoints that resume bit for bit."""

from __future__ import annotations

import functools
import inspect
import json
import math
import numbers
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .checks import (
    check_lengths,
    expect_shape,
    file_path,
    flag,
    float_array,
    int_array,
    non_negative_int,
    number,
    positive_int,
    real_array,
    shown,
)
from .extras import pip_install
from .layers.base import Layer
from .losses import IGNORE_INDEX, NothingToCount, cross_entropy, ctc, mse, within_lengths
from .notebook import html_table, show_as_picture
from .optimizers import Optimizer, clip_grad_norm
from .printable import printable
from .progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

    from matplotlib.figure import Figure

    from .typing import Array, Data, FilePath, Ints, Loss, Parameters

    #: a bar of `progress_bar`
    _Bar = Any

_FORMAT = "lstm_cy checkpoint 1"
# Parsed JSON takes many times the memory of its text; the settings of most models need far less than this.
_MOST_SETTINGS = 1 << 20
# How many epochs a History shows in a notebook.
_MOST_ROWS = 20
# How many differences from a checkpoint are named.
_MOST_NAMED = 50


@dataclass(repr=False)
class History:
    """The losses and times of each epoch of `fit`.

    Attributes
    ----------
    loss : list of float
        The mean training loss of each epoch, computed while the parameters changed.
    validation : list of float
        The validation loss after each epoch; empty when there is no validation data.
    seconds : list of float
        How long each epoch took, validation included.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if not isinstance(values, list):
                raise TypeError(f"{name}: expected a list of numbers, got {shown(values)}")
            setattr(self, name, [_float(f"{name}[{i}]", value) for i, value in enumerate(values)])

    @property
    def best_epoch(self) -> int | None:
        """Index of the epoch with the lowest validation loss, or training loss where there is no validation.

        None before the first epoch. The first of equal epochs is the best; NaN is worse than any number.
        """
        losses = [math.inf if math.isnan(value) else value for value in self.validation or self.loss]
        return losses.index(min(losses)) if losses else None

    def __repr__(self) -> str:
        last = [f"loss={self.loss[-1]:.4g}"] if self.loss else []
        last += [f"validation={self.validation[-1]:.4g}"] if self.validation else []
        return f"History({', '.join([f'epochs={len(self.loss)}', *last, f'best_epoch={self.best_epoch}'])})"

    def _repr_html_(self) -> str:
        """Return the last epochs, and the best one, as a table."""
        columns = {name: values for name, values in vars(self).items() if values}
        epochs = list(range(max(len(self.loss) - _MOST_ROWS, 0), len(self.loss)))
        best = self.best_epoch
        if best is not None and best not in epochs:
            epochs.insert(0, best)
        rows = [
            (f"{epoch + 1} (best)" if epoch == best else epoch + 1, *(_number_at(v, epoch) for v in columns.values()))
            for epoch in epochs
        ]
        return html_table(repr(self), rows, ("epoch", *columns))

    def plot(self, *, title: str | None = None) -> Figure:
        """Draw the losses over the epochs, which are counted from 1, and mark the best one.

        Parameters
        ----------
        title : None or str

        Returns
        -------
        matplotlib.figure.Figure
            Save it with ``figure.savefig(path)``; a notebook shows it.

        Raises
        ------
        ImportError
            Matplotlib is not installed: ``pip install matplotlib``.
        ValueError
            The history has no epoch yet.
        """
        if self.best_epoch is None:
            raise ValueError("History.plot: expected at least one epoch, got none")
        try:
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator
        except ImportError:
            raise ImportError(f"History.plot needs Matplotlib: {pip_install('plot')}") from None
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, losses in (("training", self.loss), ("validation", self.validation)):
            if losses:
                axes.plot(range(1, len(losses) + 1), losses, marker=".", label=name)
        best = self.best_epoch + 1
        axes.axvline(best, color="0.7", linestyle="--", zorder=0, label=f"best epoch: {best}")
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        if title is not None:
            axes.set_title(title, parse_math=False)
        return show_as_picture(figure)


def _float(name: str, value: object) -> float:
    """Return `value` as a float; NaN and infinity are allowed."""
    try:
        if isinstance(value, float | numbers.Real):
            return float(value)
    except (TypeError, OverflowError):  # a time span of NumPy; 10**400
        pass
    raise TypeError(f"{name}: expected a number, got {shown(value)} ({type(value).__name__})")


def _number_at(values: list[float], epoch: int) -> str:
    return f"{values[epoch]:.4g}" if epoch < len(values) else ""


def fit(
    model: Layer,
    data: Data,
    *,
    loss: Loss,
    optimizer: Optimizer,
    epochs: int,
    batch_size: int = 32,
    validation: Data | None = None,
    bptt: int | None = None,
    clip_norm: float | None = None,
    patience: int | None = None,
    checkpoint: FilePath | None = None,
    resume: bool = False,
    seed: int = 0,
    progress: bool = True,
    callbacks: Sequence[Callable[[History], object]] = (),
    parallel: Team | None = None,
) -> History:
    """Train `model` on `data`.

    Parameters
    ----------
    model : LSTM or Sequential
        Or another `Layer` with the same methods (``forward(x, states, *, lengths, rng)``, ...). Its parameters
        are replaced at each step.
    data : (x, y), (x, y, lengths) or callable
        Arrays, or ``callable(epoch)`` (epochs count from 0) that yields such tuples, each one batch. x has the
        layout of the model's input: rows on axis 1, or on axis 0 with ``model.batch_first`` (and where the
        model has no LSTM). y is passed to the loss. If the model's output has no time axis (after a
        `Readout`), y has one target per row, and its axis 0 is B. If it has one, y has a target per step if
        its first two axes are those of x, and otherwise one per row; `ctc` always takes one per row. lengths
        are integers (B,), 0 to T; a row of length 0 does not count, and with targets per row it is not passed
        to the loss. Only the rows of one batch are copied at a time.
    loss : callable
        ``loss(prediction, target) -> (float, gradient)``, a mean over the counted elements. It receives
        ``lengths=`` where the data has lengths, and ``batch_first=True`` where the model is batch_first and
        the loss has such an argument; where the output has no time axis, `cross_entropy` and `mse` receive no
        lengths, and another loss only if it has such an argument. Where the data has lengths, a batch and its
        prediction are cut after the longest row. A loss with nothing to count, such as `cross_entropy` with
        all targets ignored, raises `lstm_cy.losses.NothingToCount`: the batch or window has weight 0, and
        training continues without a step.
    optimizer : Optimizer
        `SGD` or `Adam`, made for this model object.
    epochs : int
        The number of passes through the data, including those of a resumed checkpoint.
    batch_size : int
        Rows per step; the last batch of an epoch may be smaller. A callable's batches are used as they are.
    validation : as `data`, optional
        Its loss is computed after each epoch by the inference call, in batches (and windows) of the same
        size.
    bptt : int, optional
        Cut each batch along time into windows of this many steps, with one optimizer step for each. The state
        is carried from window to window; gradients are not. Needs a target per step, and LSTMs that run
        forward only. A window in which no row has steps left is skipped, without a step.
    clip_norm : float, optional
        Gradients with a larger norm are scaled down to this norm (`clip_grad_norm`).
    patience : int, optional
        Stop when the validation loss has not improved for this many epochs. The best parameters are restored
        at the end, whether training stopped early or not.
    checkpoint : path ending in .npz, optional
        After each epoch (and its callbacks) everything needed to continue is written to this file. It replaces
        the file before it atomically: if the process is killed at any moment, the newest complete checkpoint
        is intact.
    resume : bool
        Continue from `checkpoint`, bit for bit as if never interrupted (on the same data, machine and
        libraries). `epochs` may be larger than before; if the checkpoint has as many or more, nothing is
        trained and its history is returned. If there is no such file yet, training starts from the beginning.
    seed : int
        All random choices of an epoch, the order of rows and the dropout masks, come from
        ``numpy.random.default_rng([seed, epoch])``.
    progress : bool
        Show a bar for each epoch on standard error (tqdm where installed, in notebooks its widget; otherwise one
        line per epoch). If standard error is missing or cannot be written to, training continues without it.
    callbacks : sequence of callables
        Each is called after each epoch as ``callback(history)``; training stops when one returns True. A
        callback may set ``optimizer.lr``: the rate is part of the checkpoint. Other state of callbacks is not.
    parallel : lstm_cy.distributed.DataParallel, optional
        Train together with other processes, each on its share of the rows of every batch.

    Returns
    -------
    History
        An epoch's loss is the weighted mean of its steps' losses. A step's weight is the number of time steps
        within the rows' lengths where there is a target per step, and otherwise the number of rows. With
        `cross_entropy`, also in a ``functools.partial``, it is what `ignore_index` and `weight` count, so that
        the loss does not depend on `batch_size`. Elements that another loss leaves out still count here.

    Raises
    ------
    TypeError, ValueError
        An argument or the data is wrong, there is nothing to count in all of the data, or the checkpoint is
        damaged or does not fit (each difference is named); nothing is changed. The batches of a callable and
        the results of a loss are checked during training.
    FloatingPointError
        A loss or a gradient became NaN or infinite, or the parameters would; the step is not made.

    Notes
    -----
    KeyboardInterrupt propagates; the checkpoint is that of the last complete epoch. Truncated
    back-propagation with carried state: R. J. Williams and J. Peng, An efficient gradient-based algorithm for
    on-line training of recurrent network trajectories, 1990.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Adam, Linear, Sequential, fit, mse
    >>> x = np.random.default_rng(0).normal(size=(20, 64, 1))
    >>> model = Sequential(LSTM(1, 16, seed=1), Linear(16, 1, seed=2))
    >>> history = fit(model, (x, np.cumsum(x, axis=0)), loss=mse, optimizer=Adam(model, 0.01), epochs=5,
    ...               progress=False)
    >>> history.loss[4] < history.loss[0]
    True
    """
    with _checked_team(parallel) as team:
        loop = _Loop(model, loss, optimizer, bptt, clip_norm, team)
        epochs, seed = positive_int("epochs", epochs), non_negative_int("seed", seed)
        batch_size = positive_int("batch_size", batch_size)
        resume, progress = flag("resume", resume), flag("progress", progress) and team.first
        batches = _Batches("data", data, batch_size, loop)
        held_out = None if validation is None else _Batches("validation", validation, batch_size, loop)
        patience = _checked_patience(patience, validation)
        callbacks = _checked_callbacks(callbacks)
        settings = loop.settings | {"batch_size": batch_size, "seed": seed, "validation": validation is not None}
        if resume and checkpoint is None:
            raise ValueError("resume: expected a checkpoint to continue from, got none")
        saver = _Checkpoint(checkpoint, settings) if checkpoint is not None and team.first else None

        history, best = History(), None  # type: History, Any
        if resume and saver is not None and saver.path.exists():
            history, best = saver.load(model, optimizer)
        arguments = settings | {"epochs": epochs, "patience": patience, "data": batches.shapes}
        history, best = team.begin(arguments, model, optimizer, history, best)
        for epoch in range(len(history.loss), epochs):
            if _exhausted(history, patience):
                break
            started = time.perf_counter()
            with progress_bar(f"epoch {epoch + 1}/{epochs}", batches.steps, progress) as bar:
                history.loss.append(loop.train(batches, epoch, team.generator([seed, epoch], loop.batch_axis), bar))
                text = f"loss {history.loss[-1]:.3f}"
                if held_out is not None:
                    history.validation.append(loop.validate(held_out, epoch))
                    text += f"  validation {history.validation[-1]:.3f}"
                history.seconds.append(time.perf_counter() - started)
                bar.set_postfix_str(f"{text}  {history.seconds[-1]:.1f} s")
            if validation is not None and history.best_epoch == epoch:
                best = model.parameters
            results = [callback(history) for callback in callbacks]
            if saver is not None:
                saver.save(model, optimizer, history, best)
            if team.any(any(isinstance(result, bool | np.bool_) and bool(result) for result in results)):
                break
        if patience is not None:
            model.load_state_dict(best)
    return history


def read_history(checkpoint: FilePath) -> History:
    """Return the history of a training so far, read from its checkpoint.

    Parameters
    ----------
    checkpoint : str or os.PathLike
        A file that `fit` wrote.

    Returns
    -------
    History
        Empty if there is no such file.

    Raises
    ------
    ValueError
        The file is damaged, or `fit` did not write it.
    """
    from .weights.native import read_npz

    path = Path(file_path("checkpoint", checkpoint))
    if not path.exists():
        return History()
    arrays = read_npz(path)
    _settings(path, arrays.pop("checkpoint", None), _MOST_SETTINGS)
    return _history(path, arrays)


def _history(path: Path, arrays: Parameters) -> History:
    """Return the history in a checkpoint's arrays."""
    parts = _part(arrays, "history")
    epochs = max(parts.get("loss", np.empty(0)).size, 1)
    for name in parts | {"loss": None, "seconds": None}:
        expected, found = f"<f8 ({epochs},)" if name in vars(History()) else "no array", _described(parts.get(name))
        if found != expected:
            raise ValueError(f"checkpoint: {path}: history.{printable(name)}: expected {expected}, got {found}")
    return History(**{name: array.tolist() for name, array in parts.items()})


class Team:
    """The processes that train together: here a single one, in the subclass `DataParallel` several."""

    #: whether this process shows progress and writes the checkpoint
    first = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        pass

    def begin(
        self, settings: dict[str, Any], model: Layer, optimizer: Optimizer, history: History, best: Any
    ) -> tuple[History, Any]:
        """Give all processes the first one's model and optimizer; return its (history, best)."""
        return history, best

    def generator(self, seed: list[int], batch_axis: int) -> np.random.Generator:
        """Return an epoch's generator for the row order and dropout; rows are on `batch_axis` of the dropout masks."""
        return np.random.default_rng(seed)

    def share(self, rows: int) -> slice:
        """Return this process's slice of a batch of `rows` rows."""
        return slice(0, rows)

    def count(self, target: Array, keywords: dict[str, Any]) -> float | None:
        """Return the weight of `target` in the mean ``loss(prediction, target, **keywords)``; None: not known here.

        Only ratios of weights matter.
        """
        return None

    def mean(self, value: float, count: float, gradients: Parameters | None = None) -> tuple[float, float, Any]:
        """Return the mean of all processes' losses and gradients, weighted by `count`, and the sum of the counts.

        Parameters
        ----------
        value, count : float
            The loss of this process's share, and how much it counts.
        gradients : dict, optional
            {name: array}; ignored if `count` is 0.

        Returns
        -------
        value, count : float
            Both 0 if every process's count is 0.
        gradients : dict, or None if there were none
        """
        return value, count, gradients

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true in any process."""
        return flag


class _Loop:
    """Training and validation on each window of each batch."""

    def __init__(
        self, model: Layer, loss: Loss, optimizer: Optimizer, bptt: int | None, clip_norm: float | None, team: Team
    ) -> None:
        if not isinstance(model, Layer) or not _takes(model.forward, "lengths"):
            name = type(model).__name__
            raise TypeError(f"model: expected an LSTM or a Sequential, got {name}; a single layer: Sequential(layer)")
        if not callable(loss):
            raise TypeError(f"loss: expected a callable, got {shown(loss)}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: expected an Optimizer such as Adam(model), got {shown(optimizer)}")
        if optimizer.model is not model:
            raise ValueError("optimizer: expected one made for this model, got one made for another")
        self.model, self.loss, self.optimizer, self.team = model, loss, optimizer, team
        self.function, self.options = _unwrapped(loss)
        self.bptt = None if bptt is None else positive_int("bptt", bptt)
        if bptt is not None and not model.is_causal:
            raise ValueError("bptt: expected LSTMs that run forward only, got a bidirectional or reverse one")
        self.clip_norm = None if clip_norm is None else number("clip_norm", clip_norm, 0.0, open_low=True)
        batch_first = model.batch_first is not False
        self.batch_axis = 0 if batch_first else 1
        # An LSTM also takes one sequence without an axis of rows; fit does not.
        self.x_axes = None if not model.num_states else 3 if model.vocabulary_size is None else 2
        self.keywords = {"batch_first": True} if batch_first and _takes(loss, "batch_first") else {}
        self.takes_lengths = _takes(loss, "lengths")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that a resumed run must repeat."""
        return {
            "model": {"type": type(self.model).__name__, **self.model.config},
            "optimizer": {"type": type(self.optimizer).__name__, **self.optimizer.config},
            "bptt": self.bptt,
            "clip_norm": self.clip_norm,
        }

    def train(self, data: _Batches, epoch: int, rng: np.random.Generator, bar: _Bar) -> float:
        """Make one epoch of optimizer steps; return the mean loss."""

        def step(window: _Batch, states: Any, where: str) -> tuple[float, float, Any]:
            prediction, states, tape = self.model.forward(window.x, states, lengths=window.lengths, rng=rng)
            value, gradient, count = self._measure(prediction, window)
            _check_finite("loss", value, where)
            grads = self.model.backward(tape, gradient).parameters if count else {}
            value, count, grads = self.team.mean(value, count, grads)
            if count:
                self._step(grads, where)
            return value, count, states

        return self._mean(data, epoch, step, rng, bar)

    def validate(self, data: _Batches, epoch: int) -> float:
        """Return the mean loss of the inference call."""

        def step(window: _Batch, states: Any, where: str) -> tuple[float, float, Any]:
            prediction, states = self.model(window.x, states, lengths=window.lengths)
            value, _, count = self._measure(prediction, window)
            return *self.team.mean(value, count)[:2], states

        return self._mean(data, epoch, step)

    def _step(self, grads: Parameters, where: str) -> None:
        """Clip the gradients and make one step of the optimizer."""
        if self.clip_norm is not None:
            _check_finite("norm of the gradients", clip_grad_norm(grads, self.clip_norm), where)
        try:
            self.optimizer.step(grads)
        except FloatingPointError as error:
            raise FloatingPointError(f"{error} in {where}; that step was not made") from None

    def _mean(
        self,
        data: _Batches,
        epoch: int,
        step: Callable[[_Batch, Any, str], tuple[float, float, Any]],
        rng: np.random.Generator | None = None,
        bar: _Bar | None = None,
    ) -> float:
        """Call `step` for each window, with the states carried along a batch; return the weighted mean loss."""
        total, weights, steps = 0.0, 0.0, 0
        for batch in data.batches(epoch, rng):
            states = None
            for window in _windows(batch, 1 - self.batch_axis, self.bptt):
                steps += 1
                value, weight, states = step(window, states, f"epoch {epoch + 1}, step {steps}")
                total += value * weight
                weights += weight
                if bar is not None:
                    bar.update()
                    bar.set_postfix_str(f"loss {total / (weights or 1):.3f}", refresh=False)
        if weights == 0:
            raise ValueError(f"{data.name}: expected at least one step to count in epoch {epoch + 1}, got none")
        return total / weights

    def _measure(self, prediction: Any, window: _Batch) -> tuple[float, Any, float]:
        """Return (loss, its gradient, its weight); (0, None, 0) if there is nothing to count."""
        keywords, count = self._keywords(window), self.counts(window)
        if count:
            try:
                return *_checked_result(self.loss(prediction, window.y, **keywords), prediction), count
            except NothingToCount:
                pass
        return 0.0, None, 0.0

    def _keywords(self, window: _Batch) -> dict[str, Any]:
        """Return the keyword arguments of the loss."""
        # If the output has no time axis, our own losses would treat its rows as steps.
        ended = not window.has_steps and (self.function in (cross_entropy, mse) or not self.takes_lengths)
        if window.lengths is None or ended:
            return self.keywords
        return self.keywords | {"lengths": window.lengths}

    def counts(self, window: _Batch) -> float:
        """Return the weight of a window's loss: `window.weight` if nothing else is known."""
        if not window.weight:
            return 0.0
        keywords = self._keywords(window)
        count = self.team.count(window.y, keywords)
        if count is not None:
            return count
        if self.function is not cross_entropy:
            return window.weight
        order = keywords.get("batch_first", False)
        within = within_lengths((*window.y.shape, 1), keywords.get("lengths"), order)
        return _counted(window.y, within, self.options.get("ignore_index", IGNORE_INDEX), self.options.get("weight"))

    def shape_of_output(self, x: Array) -> tuple[int, ...]:
        """Return the shape of the model's output for x, or of the first of two arrays."""
        if callable(self.model) and _takes(self.model, "lengths"):
            output = self.model(x, None, lengths=None)[0]
        else:
            output = self.model.forward(x, None, lengths=None, rng=np.random.default_rng(0))[0]
        return np.shape(output[0] if isinstance(output, tuple) else output)


class _Batch(NamedTuple):
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


class _Batches:
    """Checked batches, from arrays or yielded by a callable."""

    def __init__(self, name: str, data: Data, batch_size: int, loop: _Loop) -> None:
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

    def batches(self, epoch: int, rng: np.random.Generator | None = None) -> Iterator[_Batch]:
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

    def _part(self, batch: _Batch, chosen: Ints) -> Iterator[_Batch]:
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
        yield _Batch(x, y, lengths, per_step, has_steps)

    def _checked(self, value: Any) -> _Batch:
        x, y, lengths = self._arrays(value)
        rows = x.shape[self.batch_axis]
        if rows == 0 and self.source is None:
            raise ValueError(f"{self.name}: x: expected at least one row, got shape {x.shape}")
        if lengths is not None:
            if x.ndim < 2:
                raise ValueError(f"{self.name}: lengths: expected an x with a time axis with them, got {x.shape}")
            lengths = check_lengths(lengths, rows, x.shape[1 - self.batch_axis])
        if not x.size or not (lengths is None or lengths.any()):  # nothing to run the model on
            return _Batch(x, y, lengths, False, False)
        has_steps = self._steps_of_output(x, lengths)
        if has_steps and lengths is not None and not self.loop.takes_lengths:
            raise TypeError(
                f"loss: expected one that takes lengths=, because {self.name} has lengths, got {shown(self.loop.loss)}"
            )
        fits = x.shape[:2] == y.shape[:2] and y.ndim >= 2
        per_step = fits and has_steps and self.loop.function is not ctc
        if not per_step:
            self._check_targets(x, y, has_steps)
        return _Batch(x, y, lengths, per_step, has_steps)

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
        if has_steps and self.loop.function in (cross_entropy, mse):
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

    def _check_counts(self, whole: _Batch) -> None:
        """Raise if all of the data has nothing to count."""
        if whole.lengths is not None and not whole.lengths.any():
            raise ValueError(f"{self.name}: lengths: expected one above 0, got none")
        axis = self.batch_axis if whole.per_step else 0
        rows = whole.x.shape[self.batch_axis] if whole.x.size else 0
        for start in range(0, rows, self.batch_size):
            some = _with_steps(whole, np.arange(start, min(start + self.batch_size, rows)))
            lengths = None if whole.lengths is None else whole.lengths[some]
            if self.loop.counts(whole._replace(y=whole.y.take(some, axis), lengths=lengths)):
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


def _with_steps(batch: _Batch, chosen: Ints) -> Ints:
    """Return `chosen` without the rows that have no steps, if targets are per row."""
    return chosen if batch.lengths is None or batch.per_step else chosen[batch.lengths[chosen] > 0]


def _windows(batch: _Batch, time_axis: int, size: int | None) -> Iterator[_Batch]:
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


class _Checkpoint:
    """The file from which training can continue."""

    def __init__(self, path: FilePath, settings: dict[str, Any]) -> None:
        self.path = Path(file_path("checkpoint", path))
        if self.path.suffix != ".npz":
            raise ValueError(f"checkpoint: expected a path ending in .npz, got {str(path)!r}")
        if not self.path.parent.is_dir():
            raise ValueError(f"checkpoint: expected an existing folder, got {str(self.path.parent)!r}")
        if self.path.is_dir() or not os.access(self.path.parent, os.W_OK):
            raise ValueError(f"checkpoint: expected a file that can be written, got {str(path)!r}")
        # As JSON returns them, so that they can be compared with settings read from a file.
        self.content = json.dumps({"format": _FORMAT, "settings": _plain(settings)}, allow_nan=False).encode()
        self.settings = json.loads(self.content)["settings"]

    def save(self, model: Layer, optimizer: Optimizer, history: History, best: Parameters | None) -> None:
        from .weights.native import write_npz

        arrays = self._arrays(model.parameters, optimizer.state_dict(), best)
        # Arrays, not JSON, hold the losses: they keep NaN, infinity and every digit.
        arrays |= {f"history.{name}": np.array(values, np.float64) for name, values in vars(history).items() if values}
        write_npz(self.path, {"checkpoint": np.frombuffer(self.content, np.uint8), **arrays})

    def load(self, model: Layer, optimizer: Optimizer) -> tuple[History, Parameters]:
        """Restore model and optimizer from the file; return its history and best parameters."""
        from .weights.native import read_npz

        arrays = read_npz(self.path)
        settings = _settings(self.path, arrays.pop("checkpoint", None), max(_MOST_SETTINGS, 2 * len(self.content)))
        differences = _differences(settings, self.settings)
        if not differences:
            differences = self._misfits(arrays, model.parameters, optimizer.state_dict())
        if differences:
            more = [f"and {len(differences) - _MOST_NAMED} more"] if len(differences) > _MOST_NAMED else []
            named = "; ".join(map(printable, [*differences[:_MOST_NAMED], *more]))
            raise ValueError(f"checkpoint: {self.path} does not fit this call: {named}")
        for name, array in arrays.items():
            if name.startswith(("parameters.", "best.")) and not np.isfinite(array).all():
                raise ValueError(f"checkpoint: {self.path}: {name}: expected finite numbers, got NaN or infinity")
        history, steps = _history(self.path, arrays), int(arrays["optimizer.step"])
        if len(history.loss) > steps >= 0:  # each epoch makes at least one step
            raise ValueError(
                f"checkpoint: {self.path}: history.loss: expected at most {steps} epochs, because there were {steps} "
                f"steps, got {len(history.loss)}"
            )
        try:
            optimizer.load_state_dict(_part(arrays, "optimizer"))
        except (TypeError, ValueError) as error:
            raise ValueError(f"checkpoint: {self.path}: {error}") from None
        model.load_state_dict(_part(arrays, "parameters"))
        return history, _part(arrays, "best")

    def _arrays(self, parameters: Parameters, state: Parameters, best: Parameters | None) -> Parameters:
        parts = {"parameters": parameters, "optimizer": state, "best": best or {}}
        return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    def _misfits(self, arrays: Parameters, parameters: Parameters, state: Parameters) -> list[str]:
        """Describe how `arrays` differ in names, shapes and dtypes from those of this call's checkpoint."""
        validated = self.settings["validation"]
        expected = {
            name: _described(array)
            for name, array in self._arrays(parameters, state, parameters if validated else None).items()
        }
        epochs = max(arrays.get("history.loss", np.empty(0)).size, 1)
        expected |= {f"history.{name}": f"<f8 ({epochs},)" for name in ("loss", *["validation"] * validated, "seconds")}
        return [
            f"{name}: expected {expected.get(name, 'no array')}, got {_described(arrays.get(name))}"
            for name in expected | arrays
            if expected.get(name) != _described(arrays.get(name))
        ]


def _settings(path: Path, array: Any, most: int) -> Any:
    """Return the settings in a checkpoint's header of at most `most` bytes."""
    try:
        if array.dtype == np.uint8 and array.size <= most:
            header = json.loads(array.tobytes())
            if header["format"] == _FORMAT and isinstance(header["settings"], dict):
                return header["settings"]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        pass
    raise ValueError(f"checkpoint: {path} is not one that fit has written ({_FORMAT!r})")


def _part(arrays: Parameters, part: str) -> Parameters:
    return {name.partition(".")[2]: array for name, array in arrays.items() if name.partition(".")[0] == part}


def _described(array: Array | None) -> str:
    return "no array" if array is None else f"{array.dtype.str} {array.shape}"


def _differences(saved: Any, given: Any, name: str = "") -> list[str]:
    """Describe the differences between the settings `saved` and `given`."""
    if isinstance(saved, dict) and isinstance(given, dict):
        prefix = f"{name}." if name else ""
        return [d for key in given | saved for d in _differences(saved.get(key), given.get(key), prefix + key)]
    if isinstance(saved, list) and isinstance(given, list) and len(saved) == len(given):
        return [d for i in range(len(given)) for d in _differences(saved[i], given[i], f"{name}[{i}]")]
    if type(saved) is type(given) and saved == given:
        return []
    return [f"{name}: the checkpoint has {shown(saved)}, this call {shown(given)}"]


def _plain(value: Any) -> Any:
    """Return `value` with infinite numbers as text, because JSON has none."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _unwrapped(loss: Any) -> tuple[Any, dict[str, Any]]:
    """Return the function inside all ``functools.partial``, and the keywords that they pass to it."""
    keywords: dict[str, Any] = {}
    while isinstance(loss, functools.partial):
        loss, keywords = loss.func, {**loss.keywords, **keywords}
    return loss, keywords


def _counted(target: Array, within: Any, ignore_index: Any, weight: Any) -> float:
    """Return the weight of a target in `cross_entropy`; `within` selects its elements, None for all."""
    counted = int_array("target", target) != int_array("ignore_index", ignore_index)
    if within is not None:
        counted &= within
    if weight is None:
        return int(counted.sum())
    weight = np.abs(float_array("weight", weight, np.float64))  # the loss itself refuses negative weights,
    # targets out of range and an empty weight
    return float(np.take(weight, target[counted], mode="clip").sum()) if weight.size else len(target)


def _checked_result(result: Any, prediction: Any) -> tuple[float, Any]:
    """Return the checked result of a loss, (value, gradient)."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"loss: expected it to return (value, gradient), got {type(result).__name__}")
    value, gradient = result
    try:
        if isinstance(value, str | bytes) or np.ndim(value):
            raise TypeError
        value = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"loss: expected a number as the value it returns, got {shown(value)}") from None
    if isinstance(prediction, tuple):  # from a Readout that does not merge directions
        if not isinstance(gradient, tuple | list) or len(gradient) != len(prediction):
            raise TypeError(f"loss: expected {len(prediction)} arrays as its gradient, got {shown(gradient)}")
        return value, tuple(map(_checked_gradient, gradient, prediction))
    return value, _checked_gradient(gradient, prediction)


def _checked_gradient(gradient: Any, prediction: Array) -> Array:
    array = real_array("loss: the gradient it returns", gradient)
    expect_shape("loss: the gradient it returns", array, np.shape(prediction), "the prediction's")
    return array


def _takes(function: Callable[..., Any], keyword: str) -> bool:
    """Return whether `function` has an argument `keyword`, or takes any keyword."""
    try:
        arguments = inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled code may have no signature
        return True
    return keyword in arguments or any(a.kind is a.VAR_KEYWORD for a in arguments.values())


def _exhausted(history: History, patience: int | None) -> bool:
    """Return whether the last `patience` epochs brought no better loss."""
    best = history.best_epoch  # None where there is no loss yet
    return patience is not None and best is not None and len(history.loss) - 1 - best >= patience


def _checked_team(parallel: object) -> Team:
    if parallel is not None and not isinstance(parallel, Team):
        raise TypeError(f"parallel: expected a lstm_cy.distributed.DataParallel, got {shown(parallel)}")
    return parallel or Team()


def _checked_patience(patience: int | None, validation: object) -> int | None:
    if patience is None:
        return None
    if validation is None:
        raise ValueError("patience: expected validation data with it, got none")
    return positive_int("patience", patience)


def _checked_callbacks(callbacks: Any) -> Sequence[Callable[[History], object]]:
    if not isinstance(callbacks, tuple | list) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks: expected a sequence of callables, got {shown(callbacks)}")
    return callbacks


def _check_finite(quantity: str, value: float, where: str) -> None:
    if not math.isfinite(value):
        raise FloatingPointError(f"the {quantity} is {value} in {where}; that step was not made")
