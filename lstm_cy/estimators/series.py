"""Series: the forms of y and X of the forecaster, as checked arrays at equal distances in time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import real_array, shown
from .scale import check_size

if TYPE_CHECKING:
    from ..typing import Array, Bools

#: names of the columns of a long DataFrame that are known
COLUMNS = (("unique_id", "ds", "y"), ("series", "time", "value"))


class Series(NamedTuple):
    """One series and its covariates, in order of time, without missing steps: gaps are NaN."""

    y: Array  # (n,)
    x: Array  # (n, k) or with the steps that follow, (n + horizon, k); k is 0 without covariates
    index: Any  # of pandas, (n,), or None
    name: Any  # of a Series of pandas

    @property
    def filled(self) -> Array:
        """The values, in gaps the last value before them, before the first value that one."""
        return forward_filled(self.y)

    def tail(self, steps: int) -> Series:
        """Return the last steps."""
        index = None if self.index is None else self.index[-steps:]
        return self._replace(y=self.y[-steps:], x=self.x[-steps:], index=index)

    def steps(self, begin: int, end: int) -> Series:
        """Return the steps from `begin` to before `end`."""
        index = None if self.index is None else self.index[begin:end]
        return self._replace(y=self.y[begin:end], x=self.x[begin:end], index=index)


class Collection(NamedTuple):
    """One or several series, and the form in which they were given."""

    series: dict[Any, Series]
    form: str  # "one", "dict" or "long"
    columns: tuple[Any, Any, Any] | None = None  # of a long DataFrame

    def given_back(self, results: dict[Any, Any]) -> Any:
        """Return forecasts of each series, as arrays or as objects of pandas, in the form of y."""
        if self.form == "one":
            return results[None]
        if self.columns is None:
            return results
        import pandas as pd

        name, time, value = self.columns
        parts = []
        for key, result in results.items():
            frame = result.to_frame(value) if isinstance(result, pd.Series) else result
            frame = frame.rename_axis(index=time, columns=None).reset_index()
            frame.insert(0, name, key)
            parts.append(frame)
        return pd.concat(parts, ignore_index=True)


def collection(y: Any, columns: Any = None) -> Collection:
    """Return y as a Collection without covariates."""
    if isinstance(y, Mapping):
        if not y:
            raise ValueError("y: expected at least one series, got an empty dict")
        return Collection({key: one_series(f"y[{key!r}]", value) for key, value in y.items()}, "dict")
    if is_frame(y):
        frame, names = _long(y, columns)
        return Collection(
            {
                key: one_series(f"y: series {key!r}", part.set_index(names[1])[names[2]])
                for key, part in frame.groupby(names[0], sort=False)
            },
            "long",
            names,
        )
    return Collection({None: one_series("y", y)}, "one")


def is_frame(value: Any) -> bool:
    """Return whether `value` is a DataFrame of pandas."""
    return hasattr(value, "columns") and hasattr(value, "groupby")


def is_indexed(value: Any) -> bool:
    """Return whether `value` is a Series or DataFrame of pandas."""
    return hasattr(value, "index") and hasattr(value, "reindex")


def _long(frame: Any, columns: Any) -> tuple[Any, tuple[Any, Any, Any]]:
    """Return a long DataFrame with ordinary columns, and the names of (series, time, value)."""
    if frame.index.nlevels > 1:
        frame = frame.reset_index()
    if columns is not None:
        if not isinstance(columns, tuple | list) or len(columns) != 3:
            raise TypeError(f"columns: expected the names of three columns (series, time, value), got {shown(columns)}")
        names = tuple(columns)
    else:
        known = [names for names in COLUMNS if set(names) <= set(frame.columns)]
        names = known[0] if known else tuple(frame.columns)
    if len(names) != 3 or not set(names) <= set(frame.columns):
        raise ValueError(
            "y: expected a long DataFrame with the columns series, time, value (other names: columns=), "
            f"got {shown(list(frame.columns))}; of a DataFrame with a column for each series pass dict(frame.items())"
        )
    if frame[list(names[:2])].isna().any(axis=None):
        raise ValueError(f"y: expected a series and a time in each row, got a missing one in {names[:2]}")
    return frame, names


def one_series(name: str, y: Any) -> Series:
    """Return a series of numbers, its missing steps filled with NaN."""
    index, title = None, None
    if is_frame(y):
        raise ValueError(f"{name}: expected one series, got a DataFrame")
    if is_indexed(y):
        y, index, title = *_regular(name, y), y.name
        y = y.to_numpy(dtype=np.float64, na_value=np.nan) if _numeric(y) else y.to_numpy()
    values = real_array(name, y)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name}: expected one series, shape (n,), got {values.shape}")
    values = values.astype(np.float64)
    if np.isinf(values).any():
        at = int(np.isinf(values).argmax())
        raise ValueError(f"{name}: expected finite numbers, or NaN in gaps, got {values[at]} at {at}")
    if np.isnan(values).all():
        raise ValueError(f"{name}: expected a number, got only NaN")
    check_size(name, values)
    return Series(values, np.empty((len(values), 0)), index, title)


def _numeric(y: Any) -> bool:
    """Return whether a Series of pandas has real numbers."""
    import pandas as pd

    return bool(pd.api.types.is_numeric_dtype(y.dtype) and not pd.api.types.is_complex_dtype(y.dtype))


def _regular(name: str, y: Any) -> tuple[Any, Any]:
    """Return an object of pandas with a row for each step, and its index; an index that is no time becomes None."""
    import pandas as pd

    index = y.index
    dated = isinstance(index, pd.DatetimeIndex | pd.PeriodIndex)
    if not dated and not pd.api.types.is_integer_dtype(index.dtype):
        return y, None
    if index.hasnans or not index.is_unique:
        raise ValueError(f"{name}: expected a different time for each value, got a missing one or one twice")
    if not index.is_monotonic_increasing:
        y = y.sort_index()
        index = y.index
    full = _steps(name, index)
    return y.reindex(full), full


def _steps(name: str, index: Any) -> Any:
    """Return all steps from the first to the last time of a sorted index."""
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):
        return pd.period_range(index[0], index[-1], freq=index.freq, name=index.name)
    if isinstance(index, pd.DatetimeIndex):
        freq = _frequency(index)
        if freq is None:
            raise ValueError(
                f"{name}: expected times at equal distances, some of which may be missing, got others; "
                "y.asfreq or y.resample gives such"
            )
        return pd.date_range(index[0], index[-1], freq=freq, name=index.name)
    step = int(np.gcd.reduce(np.diff(index))) if len(index) > 1 else 1
    full = pd.RangeIndex(int(index[0]), int(index[-1]) + step, step, name=index.name)
    if len(full) > 100 * len(index):
        raise ValueError(
            f"{name}: expected integers at equal distances as index, got {len(index)} of {len(full)} steps"
        )
    return full


def _frequency(index: Any) -> Any:
    """Return the frequency of a DatetimeIndex of which some times may be missing, or None."""
    import pandas as pd

    if index.freq is not None or len(index) < 2:
        return index.freq or "D"
    found = _inferred(index)
    if found is not None:
        return found
    candidates = {_inferred(index[begin : begin + 4]) for begin in range(len(index) - 3)} - {None}
    candidates |= {pd.Timedelta(int(np.gcd.reduce(np.diff(index.as_unit("ns").asi8))), "ns")}
    fitting = []
    for candidate in candidates:
        full = pd.date_range(index[0], index[-1], freq=candidate) if _few(index, candidate) else index[:0]
        if len(full) <= 100 * len(index) and index.isin(full).all():
            fitting.append((len(full), candidate))
    return min(fitting, key=lambda pair: pair[0])[1] if fitting else None


def _inferred(index: Any) -> Any:
    """Return the frequency of times without a gap, or None."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a later pandas returns an object, which serves too
        return pd.infer_freq(index) if len(index) > 2 else None


def _few(index: Any, candidate: Any) -> bool:
    """Return whether steps of this size from the first to the last time are not many more than the times."""
    import pandas as pd

    return not isinstance(candidate, pd.Timedelta) or (index[-1] - index[0]) / candidate <= 100 * len(index)


def following(index: Any, steps: int) -> Any:
    """Return the index of the next steps."""
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):
        return pd.period_range(index[-1] + 1, periods=steps, freq=index.freq, name=index.name)
    if isinstance(index, pd.DatetimeIndex):
        return pd.date_range(index[-1], periods=steps + 1, freq=index.freq, name=index.name)[1:]
    last, step = int(index[-1]), int(index[1] - index[0]) if len(index) > 1 else 1
    return pd.RangeIndex(last + step, last + step * (steps + 1), step, name=index.name)


def forward_filled(values: Array) -> Array:
    """Return values (n, ...) with each NaN replaced by the last number before it, or else by the first number."""
    if not (missing := np.isnan(values)).any():
        return values
    n = len(values)
    last = np.where(missing, -1, np.arange(n).reshape(-1, *[1] * (values.ndim - 1)))
    last = np.maximum.accumulate(last, axis=0)
    first = np.argmax(~missing, axis=0)
    result: Array = np.take_along_axis(values, np.where(last < 0, first, last), axis=0)
    return result


class Covariates(NamedTuple):
    """The covariates of X: their names, None if X is an array, their number, and which are known ahead."""

    names: list[Any] | None
    size: int
    ahead: Bools

    def of(self, name: str, X: Any, index: Any, rows: int, *, least: int | None = None) -> Array:
        """Return the first `rows` rows of X, or those at `index`, as (rows, k) float64.

        With `least`, X may end after so many rows; covariates that are not known ahead may be missing from a DataFrame.
        """
        if X is None:
            raise ValueError(f"{name}: expected covariates, {self.size} columns, as in fit, got None")
        if is_indexed(X):
            X = X.to_frame() if X.ndim == 1 else X
            X = self._aligned(name, X, index)
        table = real_array(name, X).astype(np.float64)
        table = table[:, None] if table.ndim == 1 else table
        if table.ndim != 2 or table.shape[1] != self.size:
            raise ValueError(f"{name}: expected {self.size} columns, (n, {self.size}), got shape {table.shape}")
        least = rows if least is None else least
        if len(table) < least:
            raise ValueError(f"{name}: expected at least {least} rows, got {len(table)}")
        if np.isinf(table).any():
            raise ValueError(f"{name}: expected finite numbers, or NaN in gaps, got infinity")
        check_size(name, table)
        missing = np.full((max(rows - len(table), 0), self.size), np.nan)
        return np.concatenate([table[:rows], missing])

    def _aligned(self, name: str, X: Any, index: Any) -> Any:
        """Return the rows of a DataFrame at `index`, in the order of the columns of fit."""
        if self.names is not None:
            needed = [column for column, ahead in zip(self.names, self.ahead, strict=True) if ahead]
            lacking = [column for column in needed if column not in X.columns]
            if lacking:
                raise ValueError(f"{name}: expected the columns {self.names}, as in fit, got none named {lacking}")
            X = X.reindex(columns=self.names)
        if index is not None and not X.index.equals(index):
            if not X.index.is_unique:
                raise ValueError(f"{name}: expected a different time in each row, got one twice")
            lacking = index[~index.isin(X.index)]
            if len(lacking) == len(index):
                raise ValueError(f"{name}: expected rows for {index[0]} to {index[-1]}, got none of them")
            X = X.reindex(index)
        return X.to_numpy(dtype=np.float64, na_value=np.nan)


def covariates(X: Any, past: Any, columns: Any) -> Covariates:
    """Return what X, as given to `fit`, has as covariates; `past` are those that are not known ahead."""
    sample: Any = next(iter(X.values()), None) if isinstance(X, Mapping) else X
    names = None
    if is_frame(sample):
        names = [
            name for name in sample.columns if isinstance(X, Mapping) or columns is None or name not in columns[:2]
        ]
        count = len(names)
    else:
        shape = np.shape(sample)
        count = 1 if len(shape) == 1 else shape[-1] if len(shape) == 2 else 0
    if count == 0:
        raise ValueError(f"X: expected covariates (n, k), at least one column, got shape {np.shape(sample)}")
    return Covariates(names, count, ~_selected(past, names, count))


def _selected(past: Any, names: list[Any] | None, count: int) -> Bools:
    """Return which covariates `past` names, by name or number."""
    chosen = np.zeros(count, bool)
    if past is None:
        return chosen
    if isinstance(past, str) and past == "all":
        return ~chosen
    if isinstance(past, str) or not isinstance(past, tuple | list):
        raise TypeError(f'past_covariates: expected None, "all" or a list of columns of X, got {shown(past)}')
    known = list(range(count)) if names is None else names
    for column in past:
        if column not in known:
            raise ValueError(f"past_covariates: expected columns of X, {shown(known)}, got {shown(column)}")
        chosen[known.index(column)] = True
    return chosen


def x_of(X: Any, key: Any, given: Collection, columns: Any = None) -> tuple[str, Any]:
    """Return (name, covariates) of one series in X, which has the form of y."""
    if given.form == "one":
        return "X", X
    if isinstance(X, Mapping):
        if key not in X:
            raise ValueError(f"X: expected covariates of each series, got none of {key!r}")
        return f"X[{key!r}]", X[key]
    if is_frame(X):
        frame = X.reset_index() if X.index.nlevels > 1 else X
        series, time = (columns or given.columns or COLUMNS[0])[:2]
        if not {series, time} <= set(frame.columns):
            raise ValueError(f"X: expected the columns {series!r} and {time!r}, as y has, got {shown(list(X.columns))}")
        return f"X: series {key!r}", frame[frame[series] == key].drop(columns=series).set_index(time)
    raise TypeError(f"X: expected a dict or a long DataFrame, as y is, got {type(X).__name__}")
