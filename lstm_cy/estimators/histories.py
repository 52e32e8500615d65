"""Series as the forecaster uses them: checked, cut, continued, and their last windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .series import Series, following, forward_filled
from .windows import Windows

if TYPE_CHECKING:
    from ..typing import Array
    from .series import Collection


def name_of(given: Collection, key: Any) -> str:
    """Return the name of a series in messages."""
    return {"one": "y", "dict": f"y[{key!r}]", "long": f"y: series {key!r}"}[given.form]


def check_series(given: Collection, window: int, horizon: int, least: int) -> None:
    """Raise unless a series varies and all are long enough."""
    if all(np.nanmin(one.y) == np.nanmax(one.y) for one in given.series.values()):
        key, one = next(iter(given.series.items()))
        raise ValueError(
            f"{name_of(given, key)}: expected a series that varies, got {len(one.y)} times {np.nanmin(one.y)}"
        )
    for key, one in given.series.items():
        if len(one.y) < window + horizon - 1 + least:
            raise ValueError(
                f"{name_of(given, key)}: expected at least {window + horizon - 1 + least} values for "
                f"window = {window} and horizon = {horizon}, got {len(one.y)}"
            )


def unit_of(series: Series) -> float:
    """Return the mean absolute difference from step to step, or 1 for a constant series."""
    steps = np.abs(np.diff(series.filled))
    return float((steps / len(steps)).sum()) or 1.0


def last_windows(given: Collection, window: int, horizon: int, units: dict[Any, float]) -> Windows:
    """Return the last window of each series; its future is unknown."""
    single = units.get(None)  # the model of one series keeps its unit
    parts = []
    for key, one in given.series.items():
        if np.isnan(one.y[-window:]).all():
            raise ValueError(f"{name_of(given, key)}: expected a number among the last {window} values, got only NaN")
        unit = single or units.get(key) or unit_of(one)
        x = forward_filled(one.x)[len(one.y) - window :]
        parts.append(
            Windows(
                one.filled[None, -window:],
                ~np.isnan(one.y[None, -window:]),
                np.full((1, horizon), np.nan),
                x[None],
                np.full((1, 1), unit),
            )
        )
    return Windows(*map(np.concatenate, zip(*parts, strict=True)))


def continued(given: Collection, x: dict[Any, Array]) -> Collection:
    """Return series with further rows of covariates."""
    series = {key: one._replace(x=np.concatenate([one.x, x[key]])) for key, one in given.series.items()}
    return given._replace(series=series)


def without_ahead(given: Collection) -> dict[Any, Series]:
    """Return series without the covariates of steps that follow."""
    return {key: one._replace(x=one.x[: len(one.y)]) for key, one in given.series.items()}


def before_end(given: Collection, back: int, ahead: int) -> Collection:
    """Return series without their last `back` steps, with the covariates of `ahead` of these."""
    series = {}
    for key, one in given.series.items():
        end = len(one.y) - back
        if end < 1:
            raise ValueError(
                f"{name_of(given, key)}: expected more than {back} values for the origins, got {len(one.y)}"
            )
        series[key] = one.steps(0, end)._replace(x=one.x[: end + ahead])
    return given._replace(series=series)


def appended(name: str, before: Series, after: Series, horizon: int) -> Series:
    """Return a series with the values that follow it, and `horizon` - 1 unknown ones."""
    if before.index is not None and after.index is not None:
        begin = following(before.index, 1)[0]
        if after.index[0] != begin:
            raise ValueError(f"{name}: expected values from {begin} on, after those of fit, got {after.index[0]}")
    unknown = np.full(horizon - 1, np.nan)
    y = np.concatenate([before.y, after.y, unknown])
    x = np.concatenate([before.x, after.x, np.full((horizon - 1, after.x.shape[1]), np.nan)])
    return Series(y, x, None, None)
