"""Schedules of the learning rate: each gives the factor by which a step's rate is multiplied."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .._kernels.elements import power
from ..checks import flag, non_negative_int, number, one_of, positive_int

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Constant", "CosineWithWarmup", "OneCycle", "ReduceOnPlateau", "Schedule", "StepDecay"]


class Schedule:
    """Base class of the schedules: functions of a step's number.

    A schedule is called as ``schedule(step, epoch)`` and returns the factor, at least 0, by which `fit` multiplies the
    learning rates of the optimizer in this step. Any such function is a schedule. One that also has a method
    ``observe(losses)`` gets, before each epoch, the losses of all epochs so far: those of the validation if there is
    any. Our schedules are functions of their arguments and of these losses alone, so that a resumed training gives the
    same bits.

    Parameters
    ----------
    options : dict
        The subclass's arguments, which become read-only attributes.
    unit : {"step", "epoch"}
        What the subclass counts: steps of the optimizer, as `Optimizer.steps` has them, or epochs.

    Attributes
    ----------
    config : dict
        The constructor's arguments; a checkpoint compares them.
    """

    def __init__(self, options: dict[str, Any], unit: str = "step") -> None:
        self._config = options | {"unit": one_of("unit", unit, ("step", "epoch"))}

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dict(self._config)

    def __getattr__(self, name: str) -> Any:
        config = vars(self).get("_config", {})
        if name not in config:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return config[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self).get("_config", {}):
            raise AttributeError(f"{name}: read-only; make a new {type(self).__name__} instead")
        super().__setattr__(name, value)

    def __call__(self, step: int, epoch: int) -> float:
        """Return the factor of a step.

        Parameters
        ----------
        step : int
            The number of steps that the optimizer has made before.
        epoch : int
            The number of the epoch, from 0.

        Returns
        -------
        float
        """
        return self.at(step if self.unit == "step" else epoch)

    def at(self, count: int) -> float:
        """Return the factor of the learning rate.

        Parameters
        ----------
        count : int
            How many steps or epochs were done before.

        Returns
        -------
        float
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._config.items())})"


class Constant(Schedule):
    """A constant factor, for ever or for the first steps; then 1.

    Parameters
    ----------
    factor : float
        At least 0.
    steps : int, optional
        How many steps (or epochs) it lasts; None: all. ``torch.optim.lr_scheduler.ConstantLR`` calls it total_iters.
    unit : {"step", "epoch"}

    Examples
    --------
    >>> from lstm_cy.schedules import Constant
    >>> [Constant(0.5, 2)(step, 0) for step in range(4)]
    [0.5, 0.5, 1.0, 1.0]
    """

    def __init__(self, factor: float = 1.0, steps: int | None = None, *, unit: str = "step") -> None:
        factor = number("factor", factor, 0.0, open_high=True)
        super().__init__({"factor": factor, "steps": None if steps is None else non_negative_int("steps", steps)}, unit)

    def at(self, count: int) -> float:
        return float(self.factor) if self.steps is None or count < self.steps else 1.0


class StepDecay(Schedule):
    """Multiply the rate by `factor` after every `every` steps: ``factor ** (count // every)``.

    As ``torch.optim.lr_scheduler.StepLR``.

    Parameters
    ----------
    every : int
        At least 1.
    factor : float
        At least 0.
    unit : {"step", "epoch"}

    Examples
    --------
    >>> from lstm_cy.schedules import StepDecay
    >>> [StepDecay(2, 0.5)(step, 0) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, every: int, factor: float = 0.1, *, unit: str = "step") -> None:
        options = {"every": positive_int("every", every), "factor": number("factor", factor, 0.0, open_high=True)}
        super().__init__(options, unit)

    def at(self, count: int) -> float:
        times = count // self.every
        return power(self.factor, times) if self.factor <= 1 else float(self.factor**times)


class CosineWithWarmup(Schedule):
    """Rise linearly for `warmup` steps, then fall along half a cosine; the lowest factor stays after the end.

    The first step's factor is ``1 / (warmup + 1)``, that of step `warmup` is 1. From there on it is ``low + (1 - low) *
    (1 + cos(pi * t)) / 2``, with t from 0 at step `warmup` to 1 at step `steps` (I. Loshchilov and F. Hutter, SGDR:
    Stochastic gradient descent with warm restarts, 2017).

    Parameters
    ----------
    steps : int
        The number of all steps, those of the warm-up included.
    warmup : int
        From 0 to steps - 1.
    low : float
        The factor at the end, from 0 to 1.
    unit : {"step", "epoch"}

    Examples
    --------
    >>> from lstm_cy.schedules import CosineWithWarmup
    >>> [round(CosineWithWarmup(7, warmup=3)(step, 0), 2) for step in range(8)]
    [0.25, 0.5, 0.75, 1.0, 0.85, 0.5, 0.15, 0.0]
    """

    def __init__(self, steps: int, *, warmup: int = 0, low: float = 0.0, unit: str = "step") -> None:
        options = {
            "steps": positive_int("steps", steps),
            "warmup": non_negative_int("warmup", warmup),
            "low": number("low", low, 0.0, 1.0),
        }
        if warmup >= steps:
            raise ValueError(f"warmup: expected less than steps = {steps}, got {warmup}")
        super().__init__(options, unit)

    def at(self, count: int) -> float:
        if count < self.warmup:
            return float((count + 1) / (self.warmup + 1))
        return _cosine(1.0, self.low, min((count - self.warmup) / (self.steps - self.warmup), 1.0))


class OneCycle(Schedule):
    """Rise from 1 / `start` to 1, then fall to 1 / (`start` * `end`), which stays after the end.

    As ``torch.optim.lr_scheduler.OneCycleLR``, whose max_lr is the optimizer's `lr`; the momentum stays as it is (L. N.
    Smith and N. Topin, Super-convergence: Very fast training of neural networks using large learning rates, 2018).

    Parameters
    ----------
    steps : int
        The number of all steps, at least 2.
    rise : float
        The share of the steps in which the rate rises, between 0 and 1.
    anneal : {"cos", "linear"}
        The form of the rise and the fall.
    start, end : float
        At least 1: the rate begins at lr / start and ends at lr / (start * end).
    three_phase : bool
        Fall as fast as the rise to 1 / start, and only then on to the end.
    unit : {"step", "epoch"}

    Examples
    --------
    >>> from lstm_cy.schedules import OneCycle
    >>> [round(OneCycle(6, rise=0.5, start=5, end=2)(step, 0), 2) for step in range(6)]
    [0.2, 0.6, 1.0, 0.78, 0.33, 0.1]
    """

    def __init__(
        self,
        steps: int,
        *,
        rise: float = 0.3,
        anneal: str = "cos",
        start: float = 25.0,
        end: float = 1e4,
        three_phase: bool = False,
        unit: str = "step",
    ) -> None:
        options = {
            "steps": positive_int("steps", steps),
            "rise": number("rise", rise, 0.0, 1.0, open_low=True, open_high=True),
            "anneal": one_of("anneal", anneal, ("cos", "linear")),
            "start": number("start", start, 1.0, open_high=True),
            "end": number("end", end, 1.0, open_high=True),
            "three_phase": flag("three_phase", three_phase),
        }
        if steps < 2:
            raise ValueError(f"steps: expected at least 2, got {steps}")
        if three_phase and rise > 0.5:
            raise ValueError(f"rise: expected at most 0.5 with three_phase, got {rise}")
        super().__init__(options, unit)

    def at(self, count: int) -> float:
        between = _cosine if self.anneal == "cos" else _line
        low, top = 1 / self.start, self.rise * self.steps - 1
        last = self.steps - 1
        # (the last step of a phase, its first and its last factor)
        phases = [(top, low, 1.0), (last, 1.0, low / self.end)]
        if self.three_phase:
            phases[1:] = [(2 * top, 1.0, low), (last, low, low / self.end)]
        begin = 0.0
        for finish, first, final in phases:
            if count <= finish:
                return between(first, final, (count - begin) / (finish - begin) if finish > begin else 1.0)
            begin = finish
        return float(low / self.end)


class ReduceOnPlateau(Schedule):
    """Multiply the rate by `factor` when the loss has not improved for more than `patience` epochs.

    The loss is that of the validation, or without one that of the training. As
    ``torch.optim.lr_scheduler.ReduceLROnPlateau``.

    Parameters
    ----------
    factor : float
        From 0 up to but not including 1.
    patience : int
        Epochs without improvement that are allowed.
    threshold : float
        An improvement is a loss below ``best * (1 - threshold)``, or below ``best - threshold``.
    threshold_mode : {"rel", "abs"}
        Which of the two.
    cooldown : int
        Epochs after a reduction in which none is counted.
    low : float
        The lowest factor.

    Examples
    --------
    >>> from lstm_cy.schedules import ReduceOnPlateau
    >>> schedule = ReduceOnPlateau(0.5, patience=1)
    >>> schedule.observe([3.0, 2.0, 2.0, 2.0])
    >>> schedule(100, 4)
    0.5
    """

    def __init__(
        self,
        factor: float = 0.1,
        *,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        low: float = 0.0,
    ) -> None:
        super().__init__(
            {
                "factor": number("factor", factor, 0.0, 1.0, open_high=True),
                "patience": non_negative_int("patience", patience),
                "threshold": number("threshold", threshold, 0.0, open_high=True),
                "threshold_mode": one_of("threshold_mode", threshold_mode, ("rel", "abs")),
                "cooldown": non_negative_int("cooldown", cooldown),
                "low": number("low", low, 0.0, 1.0),
            }
        )
        del self._config["unit"]
        self._factor = 1.0

    def __call__(self, step: int, epoch: int) -> float:
        """Return the factor that the losses observed last give."""
        return self._factor

    def observe(self, losses: Sequence[float]) -> None:
        """Compute the factor from the losses of all epochs so far.

        Parameters
        ----------
        losses : sequence of float
        """
        factor, best, waited, cooling = 1.0, math.inf, 0, 0
        for loss in losses:
            better = best - self.threshold if self.threshold_mode == "abs" else best * (1 - self.threshold)
            if loss < better:
                best, waited = loss, 0
            else:
                waited += 1
            if cooling:
                cooling, waited = cooling - 1, 0
            if waited > self.patience:
                factor, waited, cooling = max(factor * self.factor, self.low), 0, self.cooldown
        self._factor = factor


def described(schedule: Any) -> dict[str, Any]:
    """Return what a checkpoint compares of a schedule: of a function only that it is one."""
    config = schedule.config if isinstance(schedule, Schedule) else {}
    return {"type": type(schedule).__name__, **config}


def _line(first: float, last: float, part: float) -> float:
    """Return the number at `part`, 0 to 1, of the way from first to last."""
    return first + (last - first) * part


def _cosine(first: float, last: float, part: float) -> float:
    """Return the same along half a cosine."""
    return last + (first - last) / 2 * (1 + _cos(part))


def _cos(half_turns: float) -> float:
    """Return cos(pi * half_turns), from 0 to 1, by +, - and * alone: the same bits on every processor.

    The Taylor series of the cosine or the sine, within a quarter of pi, to terms below 1e-17.
    """
    if half_turns > 0.5:
        return -_cos(1 - half_turns)
    cosine = half_turns <= 0.25
    angle = math.pi * (half_turns if cosine else 0.5 - half_turns)
    square, total = angle * angle, 0.0
    for n in range(16 if cosine else 17, 1, -2):
        total = (1 - total) * square / (n * (n - 1))
    return 1 - total if cosine else angle * (1 - total)
