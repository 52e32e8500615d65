"""History: the losses and times of the epochs of a training."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..checks import shown
from ..extras import pip_install
from ..notebook import html_table, show_as_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How many epochs a History shows in a notebook.
_MOST_ROWS = 20


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
    metrics : dict of str to list of float
        The means of each metric in each epoch: "accuracy" over the training data, while the parameters changed, and
        "validation_accuracy" over the validation data.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.loss, self.validation = _floats("loss", self.loss), _floats("validation", self.validation)
        self.seconds = _floats("seconds", self.seconds)
        if not isinstance(self.metrics, dict):
            raise TypeError(f"metrics: expected a dict of lists, got {shown(self.metrics)}")
        self.metrics = {name: _floats(f"metrics[{name!r}]", values) for name, values in self.metrics.items()}

    def series(self) -> dict[str, list[float]]:
        """Return the numbers of the epochs of everything that the history has.

        Returns
        -------
        dict
            {name: list of float}; a metric's name begins with "metrics.".
        """
        series = {"loss": self.loss, "validation": self.validation, "seconds": self.seconds}
        series |= {f"metrics.{name}": values for name, values in self.metrics.items()}
        return {name: values for name, values in series.items() if values}

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
        columns = {name.removeprefix("metrics."): values for name, values in self.series().items()}
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


def _floats(name: str, values: object) -> list[float]:
    if not isinstance(values, list):
        raise TypeError(f"{name}: expected a list of numbers, got {shown(values)}")
    return [_float(f"{name}[{i}]", value) for i, value in enumerate(values)]


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
