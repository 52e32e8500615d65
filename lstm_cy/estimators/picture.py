"""The picture of forecasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..extras import pip_install
from ..notebook import show_as_picture
from .series import following

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..typing import Array
    from .series import Series


def draw_forecasts(
    curves: list[tuple[str, Series, Array]], lower: Array, upper: Array, coverage: float, title: str | None
) -> Figure:
    """Draw each (name, series, forecast) with its bounds, one below the other."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"LSTMForecaster.plot needs Matplotlib: {pip_install('plot')}") from None
    figure = Figure(figsize=(6.4, 0.6 + 2.4 * len(curves)), layout="constrained")
    for row, axes in enumerate(figure.subplots(len(curves), squeeze=False)[:, 0]):
        name, series, forecast = curves[row]
        past, ahead = np.arange(-len(series.y), 0), np.arange(len(forecast))
        if series.index is not None:
            past, ahead = (_times(index) for index in (series.index, following(series.index, len(forecast))))
        axes.plot(past, series.y, color="0.3", label="values")
        axes.plot(ahead, forecast, marker=".", label="forecast")
        axes.fill_between(ahead, lower[row], upper[row], alpha=0.25, label=f"{100 * coverage:g} %")
        axes.set_ylabel(name, parse_math=False)
        if row == 0:
            axes.legend()
    if title is not None:
        figure.suptitle(title, parse_math=False)
    return show_as_picture(figure)


def _times(index: Array) -> Array:
    """Return times that Matplotlib can draw."""
    return np.asarray(index.to_timestamp() if hasattr(index, "to_timestamp") and hasattr(index, "freqstr") else index)
