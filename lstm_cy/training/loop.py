"""Loop: one epoch of training or validation, window by window."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import flag, non_negative_int, number, positive_int, shown
from ..layers.base import Layer
from .batches import windows
from .criterion import Criterion, takes
from .metrics import Metrics
from .optimizers import Optimizer, clip_grad_norm, clip_grad_value
from .schedules import described

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..typing import Array, Loss, Parameters
    from .batches import Batch, Batches
    from .team import Team

    #: a bar of `progress_bar`
    _Bar = Any


class Loop:
    """Training and validation on each window of each batch."""

    def __init__(
        self,
        model: Layer,
        loss: Loss,
        optimizer: Optimizer,
        bptt: int | None,
        clip_norm: float | None,
        team: Team,
        *,
        clip_value: float | None = None,
        accumulate: int = 1,
        schedule: Callable[[int, int], float] | None = None,
        gaps: bool = False,
        prefetch: int = 0,
        metrics: Any = None,
    ) -> None:
        if not isinstance(model, Layer) or not takes(model.forward, "lengths"):
            name = type(model).__name__
            raise TypeError(f"model: expected an LSTM or a Sequential, got {name}; a single layer: Sequential(layer)")
        batch_first = model.batch_first is not False
        self.criterion = Criterion(loss, batch_first, team)
        self.metrics = Metrics(metrics, batch_first, team)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: expected an Optimizer such as Adam(model), got {shown(optimizer)}")
        if optimizer.model is not model:
            raise ValueError("optimizer: expected one made for this model, got one made for another")
        self.model, self.optimizer, self.team = model, optimizer, team
        self.bptt = None if bptt is None else positive_int("bptt", bptt)
        if bptt is not None and not model.is_causal:
            raise ValueError("bptt: expected LSTMs that run forward only, got a bidirectional or reverse one")
        self.clip_norm = None if clip_norm is None else number("clip_norm", clip_norm, 0.0, open_low=True)
        self.clip_value = None if clip_value is None else number("clip_value", clip_value, 0.0, open_low=True)
        self.accumulate = positive_int("accumulate", accumulate)
        if schedule is not None and (isinstance(schedule, type) or not callable(schedule)):
            raise TypeError(f"schedule: expected a function (step, epoch) -> factor, got {shown(schedule)}")
        self.schedule = schedule
        self.prefetch = non_negative_int("prefetch", prefetch)
        self.gaps = flag("gaps", gaps)
        if self.gaps and not takes(model.forward, "mask"):
            raise TypeError(f"gaps: expected a model that takes masks with it, got {type(model).__name__}")
        self.batch_axis = 0 if batch_first else 1
        # An LSTM also takes one sequence without an axis of rows; fit does not.
        self.x_axes = None if not model.num_states else 3 if model.vocabulary_size is None else 2

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that a resumed run must repeat."""
        return {
            "model": {"type": type(self.model).__name__, **self.model.config},
            "optimizer": {"type": type(self.optimizer).__name__, **self.optimizer.config},
            "bptt": self.bptt,
            "clip_norm": self.clip_norm,
            # None, as in checkpoints from before these options
            "clip_value": self.clip_value,
            "accumulate": self.accumulate if self.accumulate > 1 else None,
            "schedule": None if self.schedule is None else described(self.schedule),
            "gaps": True if self.gaps else None,
            "metrics": self.metrics.names or None,
        }

    def observe(self, losses: Sequence[float]) -> None:
        """Pass the losses of all epochs so far to a schedule that depends on them."""
        observe = getattr(self.schedule, "observe", None)
        if observe is not None:
            observe(losses)

    def train(self, data: Batches, epoch: int, rng: np.random.Generator, bar: _Bar) -> float:
        """Make one epoch of optimizer steps; return the mean loss."""
        collected = _Sum()

        def step(window: Batch, states: Any, where: str) -> tuple[float, float, Any]:
            prediction, states, tape = self.model.forward(window.x, states, **_steps(window), rng=rng)
            value, gradient, count = self.criterion.measure(prediction, window)
            _check_finite("loss", value, where)
            self.metrics.add(prediction, window)
            grads = self.model.parameter_gradients(tape, gradient, self.optimizer.trained) if count else {}
            value, count, grads = self.team.mean(value, count, grads)
            if count and self.accumulate == 1:
                self._step(grads, epoch, where)
            elif count:
                collected.add(grads, count)
                if collected.batches == self.accumulate:
                    self._step(collected.mean(), epoch, where)
            return value, count, states

        mean = self._mean(data, epoch, step, rng, bar)
        if collected.batches:
            self._step(collected.mean(), epoch, f"epoch {epoch + 1}, the last step")
        return mean

    def validate(self, data: Batches, epoch: int) -> float:
        """Return the mean loss of the inference call."""

        def step(window: Batch, states: Any, where: str) -> tuple[float, float, Any]:
            prediction, states = self.model(window.x, states, **_steps(window))
            value, _, count = self.criterion.measure(prediction, window)
            self.metrics.add(prediction, window)
            return *self.team.mean(value, count)[:2], states

        return self._mean(data, epoch, step)

    def _step(self, grads: Parameters, epoch: int, where: str) -> None:
        """Clip the gradients and make one step of the optimizer."""
        if self.clip_value is not None:
            clip_grad_value(grads, self.clip_value)
        if self.clip_norm is not None:
            _check_finite("norm of the gradients", clip_grad_norm(grads, self.clip_norm), where)
        factor = 1.0
        if self.schedule is not None:
            factor = number("the result of schedule", self.schedule(self.optimizer.steps, epoch), 0.0, open_high=True)
        try:
            self.optimizer.step(grads, factor=factor)
        except FloatingPointError as error:
            raise FloatingPointError(f"{error} in {where}; that step was not made") from None

    def _mean(
        self,
        data: Batches,
        epoch: int,
        step: Callable[[Batch, Any, str], tuple[float, float, Any]],
        rng: np.random.Generator | None = None,
        bar: _Bar | None = None,
    ) -> float:
        """Call `step` for each window, with the states carried along a batch; return the weighted mean loss."""
        total, weights, steps = 0.0, 0.0, 0
        self.metrics.start()
        for batch in data.prefetched(epoch, rng):
            states = None
            self.team.use(batch.rows)
            for window in windows(batch, 1 - self.batch_axis, self.bptt):
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

    def shape_of_output(self, x: Array) -> tuple[int, ...]:
        """Return the shape of the model's output for x, or of the first of two arrays."""
        if callable(self.model) and takes(self.model, "lengths"):
            output = self.model(x, None, lengths=None)[0]
        else:
            output = self.model.forward(x, None, lengths=None, rng=np.random.default_rng(0))[0]
        return np.shape(output[0] if isinstance(output, tuple) else output)


def _steps(window: Batch) -> dict[str, Any]:
    """Return the arguments of a model's call that say which steps count."""
    return {"lengths": window.lengths} if window.mask is None else {"lengths": None, "mask": window.mask}


class _Sum:
    """The gradients of several batches, summed with their weights."""

    def __init__(self) -> None:
        self.batches, self.weight = 0, 0.0
        self.grads: Parameters = {}

    def add(self, grads: Parameters, weight: float) -> None:
        self.batches += 1
        self.weight += weight
        with np.errstate(over="ignore", invalid="ignore"):  # the step shows it
            if not self.grads:
                self.grads = {name: array * weight for name, array in grads.items()}
                return
            for name, array in grads.items():
                self.grads[name] += array * weight

    def mean(self) -> Parameters:
        """Return the weighted mean of the gradients, and start again."""
        grads, weight = self.grads, self.weight
        for array in grads.values():
            array /= weight
        self.batches, self.weight, self.grads = 0, 0.0, {}
        return grads


def _check_finite(quantity: str, value: float, where: str) -> None:
    if not math.isfinite(value):
        raise FloatingPointError(f"the {quantity} is {value} in {where}; that step was not made")
