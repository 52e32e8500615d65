"""Counters and histograms as text for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..typing import ArrayLike


class Histogram:
    """Counts of values up to each of some bounds, and their sum.

    Parameters
    ----------
    bounds : sequence of float
        In ascending order; a last one, infinity, is added.

    Examples
    --------
    >>> sizes = Histogram([1, 2])
    >>> sizes.add([1, 1, 5])
    >>> print("\\n".join(sizes.lines("size")))
    size_bucket{le="1"} 2
    size_bucket{le="2"} 2
    size_bucket{le="+Inf"} 3
    size_sum 7
    size_count 3
    """

    def __init__(self, bounds: ArrayLike) -> None:
        self._bounds = np.asarray(bounds, float)
        self._counts = np.zeros(len(self._bounds) + 1, np.int64)
        self.sum = 0.0

    def add(self, values: ArrayLike) -> None:
        """Count some values."""
        places = np.searchsorted(self._bounds, values)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self.sum += float(np.sum(values))

    def lines(self, name: str) -> list[str]:
        """Return the lines of a metric of this name."""
        totals = self._counts.cumsum()
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        buckets = [f'{name}_bucket{{le="{bound}"}} {total}' for bound, total in zip(bounds, totals, strict=True)]
        return [*buckets, f"{name}_sum {self.sum:.9g}", f"{name}_count {totals[-1]}"]


def text_of(metrics: Iterable[tuple[str, str, str, Any]]) -> str:
    """Return metrics in Prometheus' text format, version 0.0.4.

    Parameters
    ----------
    metrics : iterable of (name, kind, help, value)
        kind is counter, gauge or histogram; value is a number or a Histogram.

    Returns
    -------
    str

    Notes
    -----
    Source: https://prometheus.io/docs/instrumenting/exposition_formats.

    Examples
    --------
    >>> print(text_of([("streams", "gauge", "Open streams.", 3)]), end="")
    # HELP streams Open streams.
    # TYPE streams gauge
    streams 3
    """
    lines: list[str] = []
    for name, kind, meaning, value in metrics:
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
        lines += value.lines(name) if isinstance(value, Histogram) else [f"{name} {value}"]
    return "\n".join(lines) + "\n"
