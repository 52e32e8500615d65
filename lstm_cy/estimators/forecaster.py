"""LSTMForecaster: forecasts of one or several series, with prediction intervals."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from ..checks import flag, number, one_of, positive_int, shown
from ..training.losses import mse
from .backtest import Backtest
from .histories import (
    appended,
    before_end,
    check_series,
    continued,
    last_windows,
    name_of,
    unit_of,
    without_ahead,
)
from .network import ROWS, Network, outputs_of
from .picture import draw_forecasts
from .series import collection, covariates, following, x_of
from .windows import Encoder, Windows, least_windows, masked_loss, splits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from matplotlib.figure import Figure

    from ..layers.sequential import Sequential
    from ..training.history import History
    from ..typing import Array, Bools, Loss, Precision
    from .series import Collection, Covariates


class LSTMForecaster(Network):
    """Forecast a series of numbers, with prediction intervals.

    An `LSTM` reads the last `window` values, and a `Linear` predicts all the next `horizon` values at once; both as
    scaled differences from the last value read. One model forecasts one series, or many.

    Parameters
    ----------
    horizon : int
        The largest number of values to forecast.
    window : int
        The number of latest values that a forecast uses; two or three seasons are a good choice.
    hidden_size, num_layers : int
        As for `LSTM`.
    dropout, lr, epochs, batch_size, clip_norm :
        As for `LSTMClassifier`.
    patience : int, optional
        Hold out the last `validation_fraction` of the training windows, stop when their loss has not improved for this
        many epochs, and use the best number of epochs. None: train for `epochs`.
    validation_fraction : float
    calibration_fraction : float
        The share of the series' windows, the latest ones, whose errors give the intervals.
    quantiles : sequence of float, optional
        Forecast these quantiles, each above 0 and below 1, by the pinball loss; 0.5, the median, is added, and is what
        `predict` returns. None: forecast the mean, by the squared error.
    past_covariates : None, "all" or list
        The columns of X, by name or number, that are not known for the steps to forecast. None: all are known ahead,
        as those of a calendar are.
    columns : (series, time, value), optional
        The names of these columns in a long DataFrame. None: ``unique_id, ds, y`` or ``series, time, value``, or three
        columns in this order.
    random_state, verbose, precision :
        As for `LSTMClassifier`.

    Attributes
    ----------
    model_ : Sequential
        Trained on the whole series.
    history_ : History
        The history of its training.
    residuals_ : ndarray (windows, horizon)
        The errors, true value minus forecast, on the calibration part, of a network trained on the values before it;
        those of several series one after the other, NaN in gaps.

    Notes
    -----
    Two networks are trained. The first is trained on the series without the calibration part; its absolute errors
    there, h steps ahead, give the intervals for h steps ahead (split conformal prediction: J. Lei et al.,
    Distribution-free predictive inference for regression, 2018). The second is trained on the whole series, and
    forecasts. The coverage is exact if errors are exchangeable, which they are not in a series whose behaviour changes.

    Of several series, each counts in the unit of its mean absolute difference from step to step; errors of all of them,
    in these units, give the intervals. In a gap the network reads the last value before it, and another input says that
    it is one; a missing true value does not count. NaN in a covariate is the value before it. With covariates that are
    known ahead the network also reads the steps to forecast, and has an output at each of them.

    All steps are forecast at once, not one at a time from earlier forecasts; docs/estimators.md has the errors of both.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTMForecaster
    >>> y = np.sin(np.arange(200) / 4)
    >>> forecaster = LSTMForecaster(horizon=5, window=25, hidden_size=16, dropout=0.0, random_state=0).fit(y)
    >>> bool(np.abs(forecaster.predict(5) - np.sin(np.arange(200, 205) / 4)).max() < 0.2)
    True
    >>> lower, upper = forecaster.predict_interval(5, coverage=0.9)
    >>> lower.shape, bool((lower < upper).all())
    ((5,), True)
    """

    def __init__(
        self,
        horizon: int = 12,
        window: int = 36,
        hidden_size: int = 32,
        num_layers: int = 1,
        *,
        dropout: float = 0.2,
        lr: float = 0.005,
        epochs: int = 100,
        batch_size: int = 32,
        clip_norm: float | None = 1.0,
        patience: int | None = 10,
        validation_fraction: float = 0.2,
        calibration_fraction: float = 0.2,
        quantiles: Sequence[float] | None = None,
        past_covariates: Any = None,
        columns: Any = None,
        random_state: Any = None,
        verbose: bool = False,
        precision: Precision = "float32",
    ) -> None:
        self.horizon = horizon
        self.window = window
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.dropout = dropout
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.clip_norm = clip_norm
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.calibration_fraction = calibration_fraction
        self.quantiles = quantiles
        self.past_covariates = past_covariates
        self.columns = columns
        self.random_state = random_state
        self.verbose = verbose
        self.precision = precision

    def fit(self, y: Any, X: Any = None) -> Self:
        """Train on one or several series.

        Parameters
        ----------
        y : array_like (n,), Series, dict of these, or long DataFrame
            Real numbers at equal distances in time, the latest last; NaN in gaps. A Series of pandas with dates (or
            integers) as index is sorted, and times that are missing are gaps; forecasts then have the dates that
            follow. Several series are {name: series}, or a DataFrame with a row for each series and time (`columns`).
        X : array_like (n, k), DataFrame, dict of these, or long DataFrame, optional
            Covariates: k numbers for each step of y, in the form of y. Of pandas objects the rows with the times of y
            are used; a long DataFrame has the columns for series and time, and further ones.

        Returns
        -------
        LSTMForecaster
            Itself.

        Raises
        ------
        TypeError, ValueError
            y or X does not have such a form, contains infinity, is constant or too short; or an argument is wrong.
        """
        given = collection(y, self.columns)
        known = None if X is None else covariates(X, self.past_covariates, given.columns)
        if X is None and self.past_covariates is not None:
            raise ValueError("past_covariates: expected None without X, got some")
        return self._fit(self._with_x(given, X, known, 0), known)

    def _fit(self, given: Collection, known: Covariates | None) -> Self:
        """Train on series that have their covariates."""
        horizon, window = positive_int("horizon", self.horizon), positive_int("window", self.window)
        shares = [number("calibration_fraction", self.calibration_fraction, 0.0, 1.0, open_low=True, open_high=True)]
        if self.patience is not None:
            share = number("validation_fraction", self.validation_fraction, 0.0, 1.0, open_low=True, open_high=True)
            shares.append(share)
        levels = _checked_quantiles(self.quantiles)
        check_series(given, window, horizon, least_windows(horizon, shares))
        units = {key: 1.0 if given.form == "one" else unit_of(one) for key, one in given.series.items()}
        # Series without the covariates of the steps to forecast: all steps are in the past.
        whole = [Windows.of(one, window, horizon, units[key]) for key, one in given.series.items()]
        ends = [splits(len(one.past), horizon, shares) for one in whole]
        gaps = any(np.isnan(one.y).any() for one in given.series.values())
        ahead = np.zeros(0, bool) if known is None else known.ahead
        # The calibration and validation windows forecast no value that is in the training windows.
        learned = Windows.joined([one.cut(slice(end[-1])) for one, end in zip(whole, ends, strict=True)])
        parts = [one.cut(slice(end[0] + horizon - 1, None)) for one, end in zip(whole, ends, strict=True)]
        validation = None
        if self.patience is not None:
            held_out = [one.cut(slice(end[1] + horizon - 1, end[0])) for one, end in zip(whole, ends, strict=True)]
            validation = _not_empty(Windows.joined(held_out), "validation_fraction")
        calibration = _not_empty(Windows.joined(parts), "calibration_fraction")

        fitted = self._fitted(_not_empty(learned, "y"), gaps, ahead, levels, self.epochs, validation)
        model, encoder, history = fitted
        self._calibration = (
            calibration.future,
            self._run(model, encoder, calibration, horizon, levels),
            calibration.unit,
        )
        self._levels = levels
        self.residuals_ = calibration.future - self._calibration[1][..., self._middle]
        epochs = self.epochs if self.patience is None else history.best_epoch + 1  # type: ignore[operator]
        self.model_, self._encoder, self.history_ = self._fitted(Windows.joined(whole), gaps, ahead, levels, epochs)
        self._units, self._covariates = units, known
        self._given = given._replace(series={key: one.tail(window) for key, one in given.series.items()})
        return self

    @property
    def _middle(self) -> int:
        """The number of the forecast that `predict` returns, among those of the network."""
        return 0 if self._levels is None else self._levels.index(0.5)

    def _fitted(
        self,
        windows: Windows,
        gaps: bool,
        ahead: Bools,
        levels: list[float] | None,
        epochs: int,
        validation: Windows | None = None,
    ) -> tuple[Sequential, Encoder, History]:
        """Return (network, its Encoder, History), trained on windows."""
        encoder, horizon = Encoder(windows, gaps, ahead), windows.future.shape[1]
        count = 1 if levels is None else len(levels)
        steps = encoder.reads_ahead
        model = self._build(encoder.inputs_per_step, count if steps else horizon * count, steps=steps)
        plain = levels is None and not steps and not gaps
        loss: Loss = mse if plain else functools.partial(masked_loss, quantiles=levels)
        data, held_out = (
            None if part is None else (encoder.inputs(part, horizon), encoder.targets(part))
            for part in (windows, validation)
        )
        assert data is not None
        return model, encoder, self._train(model, data, loss, epochs, held_out)

    @staticmethod
    def _run(model: Sequential, encoder: Encoder, windows: Windows, horizon: int, levels: list[float] | None) -> Array:
        """Return forecasts (n, horizon, levels), quantiles in ascending order."""
        parts = []
        for start in range(0, len(windows.past), ROWS):
            part = windows.cut(slice(start, start + ROWS))
            outputs = outputs_of(model, encoder.inputs(part, horizon))
            parts.append(encoder.forecasts(outputs, part, horizon, 1 if levels is None else len(levels)))
        found = np.concatenate(parts)
        return found if levels is None else np.sort(found, axis=-1)

    def _with_x(self, given: Collection, X: Any, known: Covariates | None, ahead: int) -> Collection:
        """Return series with their covariates, and with those of `ahead` steps after them."""
        if known is None:
            if X is not None:
                raise ValueError("X: expected None, because fit had no covariates, got some")
            return given
        series = {}
        for key, one in given.series.items():
            name, own = x_of(X, key, given, self.columns)
            rows, index = len(one.y) + ahead, one.index
            if index is not None and ahead and known.ahead.any():
                index = index.append(following(index, ahead))
            least = rows if known.ahead.any() else len(one.y)
            series[key] = one._replace(x=known.of(name, own, index, rows, least=least))
        return given._replace(series=series)

    def _latest(self, horizon: int, X: Any, y: Any) -> Collection:
        """Return the series to continue, with the covariates of `horizon` more steps."""
        window, known = self._window, self._covariates
        if y is not None:
            given = self._with_x(collection(y, self.columns), X, known, horizon)
            for key, one in given.series.items():
                if len(one.y) < window:
                    name = name_of(given, key)
                    raise ValueError(f"{name}: expected at least window = {window} values, got {len(one.y)}")
            return given
        given = self._given
        if known is None or not known.ahead.any():
            if known is None:
                return self._with_x(given, X, None, horizon)
            nothing = np.full((horizon, known.size), np.nan)
            return continued(given, dict.fromkeys(given.series, nothing))
        new = {}
        for key, one in given.series.items():
            name, own = x_of(X, key, given, self.columns)
            new[key] = known.of(name, own, None if one.index is None else following(one.index, horizon), horizon)
        return continued(given, new)

    @property
    def _window(self) -> int:
        return len(next(iter(self._given.series.values())).y)

    def _forecast(self, horizon: int | None, X: Any, y: Any) -> tuple[Collection, Array, Array]:
        """Return the series, their units (series, 1), and forecasts (series, horizon, levels)."""
        check_is_fitted(self)
        most = self.residuals_.shape[1]
        horizon = most if horizon is None else positive_int("horizon", horizon)
        if horizon > most:
            raise ValueError(f"horizon: expected 1 to {most}, the horizon of the forecaster, got {horizon}")
        given = self._latest(horizon, X, y)
        windows = last_windows(given, self._window, horizon, self._units)
        return given, windows.unit, self._run(self.model_, self._encoder, windows, horizon, self._levels)

    def predict(self, horizon: int | None = None, X: Any = None, *, y: Any = None) -> Any:
        """Forecast the next values.

        Parameters
        ----------
        horizon : int, optional
            The number of values, at most the constructor's `horizon`; None: as many as that.
        X : as for `fit`, optional
            Necessary if covariates are known ahead: their values for the steps to forecast, at least `horizon` rows.
            With `y`: those of all steps of y and, if known ahead, of the steps to forecast.
        y : as for `fit`, optional
            The series to continue, at least its last `window` values; it is not trained on. None: the series of `fit`.

        Returns
        -------
        ndarray (horizon,), float64
            In the form of y: of a Series of pandas a Series with the times that follow, of a dict a dict, of a long
            DataFrame a long DataFrame.
        """
        given, _, found = self._forecast(horizon, X, y)
        return _shaped(given, found[..., self._middle])

    def predict_quantiles(self, horizon: int | None = None, X: Any = None, *, y: Any = None) -> Any:
        """Forecast the quantiles of the next values that the constructor's `quantiles` names.

        Parameters
        ----------
        horizon, X, y :
            As for `predict`.

        Returns
        -------
        ndarray (horizon, quantiles), float64
            In the order of `quantiles`, ascending; in the form of y, with a column for each quantile.
        """
        check_is_fitted(self)
        if self._levels is None:
            raise ValueError("quantiles: expected some in the constructor, such as (0.1, 0.5, 0.9), got None")
        given, _, found = self._forecast(horizon, X, y)
        names = sorted(float(level) for level in self.quantiles or ())
        return _shaped(given, found[..., [self._levels.index(level) for level in names]], names)

    def predict_interval(
        self,
        horizon: int | None = None,
        coverage: float = 0.9,
        X: Any = None,
        *,
        y: Any = None,
        method: str = "conformal",
    ) -> tuple[Any, Any]:
        """Return bounds of the next values, each of which is between its bounds with probability `coverage`.

        Parameters
        ----------
        horizon :
            As for `predict`, whose values are in the middle of the intervals of method "conformal".
        coverage : float
            From 0 to n / (n + 1), with n the number of windows in the calibration part; from 0 to 1 with "quantile".
        X, y :
            As for `predict`.
        method : "conformal", "quantile" or "conformal quantile"
            "conformal": the forecast plus and minus a quantile of the errors in the calibration part. The other two
            need the quantiles (1 - coverage) / 2 and (1 + coverage) / 2 in the constructor: "quantile" returns the
            network's; "conformal quantile" moves both bounds by what they need to cover the calibration part (Y. Romano
            et al., Conformalized quantile regression, 2019).

        Returns
        -------
        lower, upper : ndarray (horizon,), float64
            In the form of y, as from `predict`.
        """
        one_of("method", method, ("conformal", "quantile", "conformal quantile"))
        coverage = number("coverage", coverage, 0.0, 1.0, open_low=True, open_high=True)
        given, unit, found = self._forecast(horizon, X, y)
        lower, upper = self._bounds(found, unit, coverage, method)
        return _shaped(given, lower), _shaped(given, upper)

    def _bounds(self, found: Array, unit: Array, coverage: float, method: str) -> tuple[Array, Array]:
        """Return bounds (series, horizon) of forecasts (series, horizon, levels)."""
        horizon = found.shape[1]
        truth, calibration, units = self._calibration
        truth, calibration = truth[:, :horizon], calibration[:, :horizon]
        if method == "conformal":
            low = high = self._middle
            scores = np.abs(truth - calibration[..., low]) / units
        else:
            low, high = self._pair(coverage)
            scores = np.maximum(calibration[..., low] - truth, truth - calibration[..., high]) / units
        width = 0.0 if method == "quantile" else _ranked(scores, coverage) * unit
        return found[..., low] - width, found[..., high] + width

    def _pair(self, coverage: float) -> tuple[int, int]:
        """Return the numbers of the two quantiles with `coverage` between them."""
        needed = [(1 - coverage) / 2, (1 + coverage) / 2]
        levels = np.array([] if self._levels is None else self._levels)
        near = [np.flatnonzero(np.isclose(levels, level, rtol=0, atol=1e-9)) for level in needed]
        if not all(map(len, near)):
            raise ValueError(
                f"coverage: expected one whose bounds are in the constructor's quantiles, for {coverage} "
                f"{needed[0]:.4g} and {needed[1]:.4g}, got quantiles = {shown(self.quantiles)}"
            )
        return int(near[0][0]), int(near[1][0])

    def score(self, y: Any, X: Any = None) -> float:
        """Return R squared of the forecasts of values that follow the series of `fit`.

        They are forecast from every step, up to `horizon` steps ahead, from the values before; nothing is trained.

        Parameters
        ----------
        y : as for `fit`
            The values after the series of fit, in the same form; at least two different ones.
        X : as for `fit`, optional
            The covariates of these steps, if `fit` had some.

        Returns
        -------
        float
            1 - sum((truth - forecast)**2) / sum((truth - mean)**2), with the mean of each series of y; 1 is the best.
        """
        check_is_fitted(self)
        new = self._with_x(collection(y, self.columns), X, self._covariates, 0)
        errors, total, horizon = 0.0, 0.0, self.residuals_.shape[1]
        for key, one in new.series.items():
            if key not in self._given.series:
                raise ValueError(f"{name_of(new, key)}: expected a series of fit, got another")
            joined = appended(name_of(new, key), self._given.series[key], one, horizon)
            windows = Windows.joined([Windows.of(joined, self._window, horizon, self._units[key])])
            found = self._run(self.model_, self._encoder, windows, horizon, self._levels)[..., self._middle]
            mean = np.nanmean(one.y)
            errors += np.nansum(((windows.future - found) / windows.unit) ** 2)
            total += np.nansum(((windows.future - mean) / windows.unit) ** 2)
        if total == 0:
            raise ValueError("y: expected values that differ, got none")
        return float(1 - errors / total)

    def backtest(
        self,
        y: Any,
        X: Any = None,
        *,
        origins: int = 5,
        step: int | None = None,
        coverage: float = 0.9,
        refit: bool = True,
    ) -> Any:
        """Forecast the end of a series from several origins, each time from the values before.

        Copies of this forecaster are trained; it is not changed itself.

        Parameters
        ----------
        y, X :
            As for `fit`.
        origins : int
            How many; the last is `horizon` steps before the end of each series.
        step : int, optional
            Steps between two origins; None: `horizon`.
        coverage : float
            That of the intervals.
        refit : bool
            Train at each origin. False: train at the first one only.

        Returns
        -------
        Backtest
            Of several series {name: Backtest}.
        """
        horizon, count = positive_int("horizon", self.horizon), positive_int("origins", origins)
        step = horizon if step is None else positive_int("step", step)
        coverage = number("coverage", coverage, 0.0, 1.0, open_low=True, open_high=True)
        refit = flag("refit", refit)
        given = collection(y, self.columns)
        known = None if X is None else covariates(X, self.past_covariates, given.columns)
        given = self._with_x(given, X, known, 0)
        rows: dict[Any, list[tuple[Any, ...]]] = {key: [] for key in given.series}
        forecaster = clone(self)
        for index in range(count):
            back = horizon + (count - 1 - index) * step
            past = before_end(given, back, 0)
            if refit or index == 0:
                forecaster = clone(self)._fit(past, known)
            windows = last_windows(before_end(given, back, horizon), forecaster._window, horizon, forecaster._units)
            found = self._run(forecaster.model_, forecaster._encoder, windows, horizon, forecaster._levels)
            lower, upper = forecaster._bounds(found, windows.unit, coverage, "conformal")
            for row, (key, one) in enumerate(given.series.items()):
                end = len(one.y) - back
                origin = end - 1 if one.index is None else one.index[end - 1]
                last = np.full(horizon, windows.past[row, -1])
                middle = found[row, :, forecaster._middle]
                rows[key].append((origin, one.y[end : end + horizon], middle, lower[row], upper[row], last))
        results = {}
        for key, each in rows.items():
            first, *arrays = zip(*each, strict=True)
            results[key] = Backtest(list(first), *map(np.stack, arrays))
        return results[None] if given.form == "one" else results

    def plot(
        self,
        horizon: int | None = None,
        coverage: float = 0.9,
        X: Any = None,
        *,
        y: Any = None,
        title: str | None = None,
    ) -> Figure:
        """Draw the last values, the forecast, and its interval; of several series one picture below the other.

        Parameters
        ----------
        horizon, coverage, X, y :
            As for `predict_interval`.
        title : None or str

        Returns
        -------
        matplotlib.figure.Figure
            Save it with ``figure.savefig(path)``; a notebook shows it.

        Raises
        ------
        ImportError
            Matplotlib is not installed: ``pip install matplotlib``.
        """
        coverage = number("coverage", coverage, 0.0, 1.0, open_low=True, open_high=True)
        given, unit, found = self._forecast(horizon, X, y)
        lower, upper = self._bounds(found, unit, coverage, "conformal")
        curves = [
            (
                name_of(given, key),
                one.tail(self._window if y is None else 3 * self._window),
                found[row, :, self._middle],
            )
            for row, (key, one) in enumerate(given._replace(series=without_ahead(given)).series.items())
        ]
        return draw_forecasts(curves, lower, upper, coverage, title)


def _checked_quantiles(quantiles: Any) -> list[float] | None:
    """Return quantiles in ascending order, with the median among them."""
    if quantiles is None:
        return None
    if isinstance(quantiles, str) or not np.iterable(quantiles):
        raise TypeError(f"quantiles: expected None or numbers between 0 and 1, got {shown(quantiles)}")
    each = [number("quantiles", level, 0.0, 1.0, open_low=True, open_high=True) for level in quantiles]
    if not each:
        raise ValueError("quantiles: expected at least one number, or None, got none")
    return sorted({0.5, *each})


def _not_empty(windows: Windows, name: str) -> Windows:
    """Raise if gaps leave no window."""
    if not len(windows.past):
        raise ValueError(f"{name}: expected a window with values to read and to forecast, got gaps only")
    return windows


def _ranked(scores: Array, coverage: float) -> Array:
    """Return, for each step ahead, the score of rank ceil(coverage * (n + 1)) among its n scores."""
    widths = []
    for column in scores.T:
        known = np.sort(column[~np.isnan(column)])
        rank = math.ceil(coverage * (len(known) + 1))
        if rank > len(known):
            most = len(known) / (len(known) + 1)
            raise ValueError(
                f"coverage: expected at most {most:.3f} with {len(known)} windows for calibration, got {coverage}"
            )
        widths.append(known[rank - 1])
    return np.array(widths)


def _shaped(given: Collection, values: Array, columns: list[float] | None = None) -> Any:
    """Return forecasts (series, horizon) or (series, horizon, columns) in the form of y."""
    results: dict[Any, Any] = {}
    for (key, one), each in zip(given.series.items(), values, strict=True):
        results[key] = each
        if one.index is not None:
            import pandas as pd

            index = following(one.index, len(each))
            results[key] = (
                pd.Series(each, index, name=one.name) if columns is None else pd.DataFrame(each, index, columns)
            )
    return given.given_back(results)
