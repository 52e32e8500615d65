"""fit: epochs, validation, early stopping, callbacks, and checkpoints that resume bit for bit."""

from __future__ import annotations

import functools
import inspect
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from ..checks import flag, non_negative_int, number, one_of, positive_int, shown
from ..progress import progress_bar
from .batches import Batches, checked_class_weight
from .checkpoint import Checkpoint
from .history import History
from .loop import Loop
from .team import Team

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..layers.base import Layer
    from ..typing import ArrayLike, Data, FilePath, Loss, Precision
    from .optimizers import Optimizer


def fit(
    model: Layer,
    data: Data,
    *,
    loss: Loss,
    optimizer: Optimizer,
    epochs: int,
    batch_size: int = 32,
    validation: Data | None = None,
    validation_split: float | None = None,
    shuffle: bool = True,
    sample_weight: ArrayLike | None = None,
    class_weight: Mapping[int, float] | ArrayLike | None = None,
    gaps: bool = False,
    prefetch: int = 0,
    metrics: Mapping[str, Callable[..., Any]] | Sequence[Callable[..., Any]] | None = None,
    bptt: int | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    accumulate: int = 1,
    schedule: Callable[[int, int], float] | None = None,
    patience: int | None = None,
    checkpoint: FilePath | None = None,
    resume: bool = False,
    seed: int = 0,
    progress: bool = True,
    callbacks: Sequence[Callable[..., object]] = (),
    parallel: Team | None = None,
    precision: Precision = "float32",
) -> History:
    """Train `model` on `data`.

    Parameters
    ----------
    model : LSTM or Sequential
        Or another `Layer` with the same methods (``forward(x, states, *, lengths, rng)``, ...). Its parameters
        are replaced at each step.
    data : (x, y), (x, y, lengths), dict or callable
        Arrays, a dict of them with the keys "x", "y" and any of "lengths", "mask" and "sample_weight", or
        ``callable(epoch)`` (epochs count from 0) that yields such tuples or dicts, each one batch; or an object
        with such batches that can be iterated over again and again. If it has a length, this is the number of
        its batches, for the progress bar. x has the layout of the model's input: rows on axis 1, or on axis 0
        with ``model.batch_first`` (and where the model has no LSTM). y is passed to the loss. If the model's
        output has no time axis (after a `Readout`), y has one target per row, and its axis 0 is B. If it has
        one, y has a target per step if its first two axes are those of x, and otherwise one per row; `ctc`
        always takes one per row. lengths are integers (B,), 0 to T; a row of length 0 does not count, and with
        targets per row it is not passed to the loss. mask, bools in the shape of x's first two axes, is passed
        to the model: where it is False a step is skipped, and its target does not count; a row without steps
        does not count. Only the rows of one batch are copied at a time, so that arrays may be mapped into
        memory (``numpy.load(path, mmap_mode="r")``).
    loss : callable
        ``loss(prediction, target) -> (float, gradient)``, a mean over the counted elements. It receives
        ``lengths=`` where the data has lengths, and ``batch_first=True`` where the model is batch_first and the
        loss has such an argument, and ``sample_weight=`` where there are weights, a mask or gaps; where the
        output has no time axis, the losses of elements of this library (all but `ctc`) receive no lengths, and another
        loss only if it has such an argument. Where the data has lengths, a batch and its prediction are cut after the
        longest row. A loss with nothing to count, such as `cross_entropy` with all targets ignored, raises
        `lstm_cy.losses.NothingToCount`: the batch or window has weight 0, and training continues without a step.
    optimizer : Optimizer
        `SGD`, `Adam`, `AdamW` or `RMSprop`, made for this model object.
    epochs : int
        The number of passes through the data, including those of a resumed checkpoint.
    batch_size : int
        Rows per step; the last batch of an epoch may be smaller. A callable's batches are used as they are.
    validation : as `data`, optional
        Its loss is computed after each epoch by the inference call, in batches (and windows) of the same
        size: the weighted mean over all counted elements, whatever the size.
    validation_split : float, optional
        The share of the rows, between 0 and 1, that is held out as validation data instead: the last rows, rounded
        down. Needs arrays.
    shuffle : bool
        Whether the rows of arrays are in a new random order in each epoch. A callable's batches keep their order.
    sample_weight : array_like, optional
        Weights of at least 0 for `data`: one for each row, (B,), or where there is a target per step also one for each
        step, in the shape of y's first two axes, or for each number of y. Every mean is weighted with them. The loss
        must take ``sample_weight=``, as all of this library do; weights of rows are repeated for each step before.
        Batches and validation data have weights of their own, in dicts.
    class_weight : dict of int to float, or array_like (C,), optional
        Factors of the weights of the training data, by the class that y has. A class that a dict does not name has
        factor 1.
    gaps : bool
        NaN in data is a gap: a step where x has one is masked, and a number of y that is one does not count. This holds
        for the validation data too. Otherwise a NaN ends the training with an error.
    prefetch : int
        The number of batches that a thread prepares ahead: it reads the rows of mapped arrays, and calls for the
        batches of a callable, while the model trains. The result is the same.
    metrics : dict of str to callable, or sequence of callables, optional
        Each is called as the loss is and returns a number, or a tuple that begins with one, as a loss does: a mean over
        the counted elements, such as `accuracy`. `History.metrics` has their means over each epoch, weighted as the
        loss is, under their names (those of the dict or of the functions), and over the validation data under
        "validation_<name>". One with an argument `ignore_index` leaves out targets as `cross_entropy` does.
    bptt : int, optional
        Cut each batch along time into windows of this many steps, with one optimizer step for each. The state
        is carried from window to window; gradients are not. Needs a target per step, and LSTMs that run
        forward only. A window in which no row has steps left is skipped, without a step.
    clip_norm : float, optional
        Gradients with a larger norm are scaled down to this norm (`clip_grad_norm`). Those of frozen parameters do not
        count.
    clip_value : float, optional
        Each number of the gradients is limited to the range from -`clip_value` to `clip_value` (`clip_grad_value`),
        before `clip_norm` looks at them.
    accumulate : int
        The optimizer makes one step for this many batches (or windows, with `bptt`), with the mean of their gradients
        weighted as their losses are: that of a batch of all their rows. The last step of an epoch may have fewer.
    schedule : callable, optional
        ``schedule(step, epoch) -> factor``: in each step the optimizer's learning rates are multiplied by the factor, a
        number of at least 0. `step` is the number of steps that the optimizer has made before (``optimizer.steps``),
        `epoch` counts from 0. `lstm_cy.schedules` has some. A checkpoint has their settings, and the number of steps; a
        function of your own must depend on its arguments alone for a training to resume with the same bits.
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
        Each is called after each epoch as ``callback(history)``; training stops when one returns True. One that has an
        argument named ``model`` or ``optimizer`` receives it by this name. A callback may set ``optimizer.lr``: the
        rate is part of the checkpoint. Other state of callbacks is not.
    parallel : lstm_cy.distributed.DataParallel, optional
        Train together with other processes, each on its share of the rows of every batch.
    precision : {"float32", "bf16"}
        With "bf16" the LSTMs' products, forward and backward, are of numbers rounded to bf16, as `LSTM.forward` does
        it with this precision. Parameters, sums, gradients, the optimizer, all other layers and the validation stay
        in float32, and losses need no scaling: bf16 has float32's range of exponents. The LSTMs must be float32.

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
    one_of("precision", precision, config.PRECISIONS)
    with config.using(precision=precision), _checked_team(parallel) as team:
        loop = Loop(
            model,
            loss,
            optimizer,
            bptt,
            clip_norm,
            team,
            clip_value=clip_value,
            accumulate=accumulate,
            schedule=schedule,
            gaps=gaps,
            prefetch=prefetch,
            metrics=metrics,
        )
        epochs, seed = positive_int("epochs", epochs), non_negative_int("seed", seed)
        batch_size = positive_int("batch_size", batch_size)
        resume, progress = flag("resume", resume), flag("progress", progress) and team.first
        batches = Batches(
            "data",
            data,
            batch_size,
            loop,
            sample_weight=sample_weight,
            class_weight=checked_class_weight(class_weight),
        )
        batches.shuffled = flag("shuffle", shuffle)
        held_out = _held_out(validation, validation_split, batches)
        patience = _checked_patience(patience, held_out)
        called = _checked_callbacks(callbacks, model=model, optimizer=optimizer)
        settings = loop.settings | {"batch_size": batch_size, "seed": seed, "validation": held_out is not None}
        # None, as in checkpoints from before these options
        settings |= {"validation_split": validation_split, "shuffle": None if shuffle else False}
        settings |= {"precision": None if precision == "float32" else precision}
        if resume and checkpoint is None:
            raise ValueError("resume: expected a checkpoint to continue from, got none")
        saver = Checkpoint(checkpoint, settings) if checkpoint is not None and team.first else None

        history, best = History(), None  # type: History, Any
        if resume and saver is not None and saver.path.exists():
            history, best = saver.load(model, optimizer)
        arguments = settings | {"epochs": epochs, "patience": patience, "data": batches.shapes}
        history, best = team.begin(arguments, model, optimizer, history, best)
        for epoch in range(len(history.loss), epochs):
            if _exhausted(history, patience):
                break
            loop.observe(history.validation or history.loss)
            rng = team.generator([seed, epoch], loop.batch_axis)
            with progress_bar(f"epoch {epoch + 1}/{epochs}", batches.steps, progress) as bar:
                _run_epoch(epoch, loop, batches, held_out, history, rng, bar)
            if held_out is not None and history.best_epoch == epoch:
                best = model.parameters
            results = [callback(history) for callback in called]
            if saver is not None:
                saver.save(model, optimizer, history, best)
            if team.any(any(isinstance(result, bool | np.bool_) and bool(result) for result in results)):
                break
        if patience is not None:
            model.load_state_dict(best)
    return history


def _run_epoch(
    epoch: int,
    loop: Loop,
    batches: Batches,
    held_out: Batches | None,
    history: History,
    rng: np.random.Generator,
    bar: Any,
) -> None:
    """Train, and validate if there is `held_out`; append the losses and the time to `history`."""
    started = time.perf_counter()
    history.loss.append(loop.train(batches, epoch, rng, bar))
    _record(history, "", loop)
    text = f"loss {history.loss[-1]:.3f}"
    if held_out is not None:
        history.validation.append(loop.validate(held_out, epoch))
        _record(history, "validation_", loop)
        text += f"  validation {history.validation[-1]:.3f}"
    history.seconds.append(time.perf_counter() - started)
    bar.set_postfix_str(f"{text}  {history.seconds[-1]:.1f} s")


def _record(history: History, prefix: str, loop: Loop) -> None:
    """Append the means of the metrics to the history."""
    for name, mean in loop.metrics.means().items():
        history.metrics.setdefault(prefix + name, []).append(mean)


def _exhausted(history: History, patience: int | None) -> bool:
    """Return whether the last `patience` epochs brought no better loss."""
    best = history.best_epoch  # None where there is no loss yet
    return patience is not None and best is not None and len(history.loss) - 1 - best >= patience


def _checked_team(parallel: object) -> Team:
    if parallel is not None and not isinstance(parallel, Team):
        raise TypeError(f"parallel: expected a lstm_cy.distributed.DataParallel, got {shown(parallel)}")
    return parallel or Team()


def _held_out(validation: Data | None, share: float | None, batches: Batches) -> Batches | None:
    """Return the batches of the validation, which may be a share of the data."""
    if share is not None:
        if validation is not None:
            raise ValueError("validation_split: expected None together with validation, got both")
        return batches.split(number("validation_split", share, 0.0, 1.0, open_low=True, open_high=True))
    return None if validation is None else Batches("validation", validation, batches.batch_size, batches.loop)


def _checked_patience(patience: int | None, held_out: Batches | None) -> int | None:
    if patience is None:
        return None
    if held_out is None:
        raise ValueError("patience: expected validation data with it, got none")
    return positive_int("patience", patience)


def _checked_callbacks(callbacks: Any, **named: object) -> list[Callable[[History], object]]:
    """Return functions of the history; a callback gets those of `named` that its arguments name."""
    if not isinstance(callbacks, tuple | list) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks: expected a sequence of callables, got {shown(callbacks)}")
    return [functools.partial(callback, **_taken(callback, named)) for callback in callbacks]


def _taken(callback: Callable[..., object], named: dict[str, object]) -> dict[str, object]:
    """Return those of `named` that are arguments of `callback` by name."""
    try:
        arguments = inspect.signature(callback).parameters
    except (TypeError, ValueError):  # compiled code may have no signature
        return {}
    return {
        name: value
        for name, value in named.items()
        if name in list(arguments)[1:]
        and arguments[name].kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }
