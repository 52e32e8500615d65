"""Estimators with scikit-learn's conventions: fit, predict, pipelines, grid search, clone and pickle."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import flag, number, positive_int, real_array, shown
from .extras import pip_install
from .layers.dropout import Dropout
from .layers.linear import Linear
from .layers.lstm import LSTM
from .layers.readout import Readout
from .layers.sequential import Sequential
from .training.batches import pad
from .training.fitting import fit
from .training.losses import cross_entropy, mse
from .training.optimizers import Adam

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from sklearn.utils import Tags

    from .training.history import History
    from .typing import Array, ArrayLike, Ints, Loss

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import assert_all_finite, check_array, check_consistent_length, check_random_state, column_or_1d
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(f"lstm_cy.estimators needs scikit-learn 1.6 or newer: {pip_install('sklearn')}") from error

#: rows in each call of predict, so that memory is bounded
_ROWS = 256
#: sums and differences of numbers up to this are finite
_LARGEST = 1e300


class _Network(BaseEstimator):
    """Base class of the three estimators: an LSTM, a Readout of its last valid step, a Linear; and their training."""

    def _build(self, inputs: int, outputs: int, bidirectional: bool = False) -> Sequential:
        """Return a new network, from features to `outputs` numbers for each row."""
        rng = np.random.default_rng(self._draw_seed())
        dropout = number("dropout", self.dropout, 0.0, 1.0)
        num_layers = positive_int("num_layers", self.num_layers)
        lstm = LSTM(
            inputs,
            self.hidden_size,
            num_layers,
            batch_first=True,
            dropout=dropout if num_layers > 1 else 0.0,
            bidirectional=bidirectional,
            seed=rng,
        )
        head = Linear(lstm.output_size, outputs, seed=rng)
        return Sequential(lstm, Readout(bidirectional=bidirectional, batch_first=True), Dropout(dropout), head)

    def _draw_seed(self) -> int:
        """Return a seed drawn from random_state."""
        try:
            return int(check_random_state(self.random_state).randint(2**31))
        except ValueError:
            raise ValueError(
                f"random_state: expected None, an integer or a numpy.random.RandomState, got {shown(self.random_state)}"
            ) from None

    def _train(
        self,
        model: Sequential,
        data: tuple[Array, ...],
        loss: Loss,
        epochs: int,
        validation: tuple[Array, ...] | None = None,
    ) -> History:
        """Train `model`, with early stopping if there are validation data; return fit's History."""
        return fit(
            model,
            data,
            loss=loss,
            optimizer=Adam(model, lr=self.lr),
            epochs=epochs,
            batch_size=self.batch_size,
            validation=validation,
            patience=None if validation is None else self.patience,
            clip_norm=self.clip_norm,
            seed=self._draw_seed(),
            progress=flag("verbose", self.verbose),
        )


def _outputs(model: Sequential, x: Array, lengths: Ints | None = None) -> Array:
    """Return the outputs of `model` for the rows of x."""
    parts = []
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        parts.append(model(x[rows], lengths=None if lengths is None else lengths[rows])[0])
    return np.concatenate(parts)


class _SequenceEstimator(_Network):
    """Base class of classifier and regressor: the forms of X, scaling, validation."""

    def __init__(
        self,
        hidden_size: int = 32,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        lr: float = 0.01,
        epochs: int = 100,
        batch_size: int = 32,
        clip_norm: float | None = 1.0,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.clip_norm = clip_norm
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _fit(
        self, X: tuple[Array, Ints | None], y: Array, outputs: int, loss: Loss, stratify: Array | None = None
    ) -> Self:
        """Train a new network on checked X and y."""
        x, lengths = X
        self._scale = _Scale(x, lengths)
        data = self._scale(x, "X"), y, *([] if lengths is None else [lengths])
        model = self._build(x.shape[2], outputs, self.bidirectional)
        validation = None
        if self.patience is not None:
            share = number("validation_fraction", self.validation_fraction, 0.0, 1.0, open_low=True, open_high=True)
            least = 1 if stratify is None else outputs  # a row of each class
            held_out = max(math.ceil(share * len(x)), least)
            if held_out >= len(x):
                raise ValueError(
                    f"X: expected more than the {held_out} rows that patience needs, got n_samples = {len(x)}"
                )
            split = train_test_split(*data, test_size=held_out, stratify=stratify, random_state=self.random_state)
            data, validation = tuple(split[::2]), tuple(split[1::2])
        self.history_ = self._train(model, data, loss, self.epochs, validation)
        self.model_ = model
        return self

    def _predicted(self, X: Any) -> Array:
        """Return the network's outputs for the rows of X."""
        check_is_fitted(self)
        x, lengths = self._sequences(X, reset=False)
        return _outputs(self.model_, self._scale(x, "X"), lengths)

    def _sequences(self, X: Any, reset: bool) -> tuple[Array, Ints | None]:
        """Return X as (n, T, features) float64, and lengths or None; without `reset`, X must match the X of fit."""
        with _naming("X"):
            return self._checked_sequences(X, reset)

    def _checked_sequences(self, X: Any, reset: bool) -> tuple[Array, Ints | None]:
        kind = _kind(X)
        if reset:
            self._fitted_kind = kind
        elif kind != self._fitted_kind:
            raise ValueError(f"X: expected {self._fitted_kind}, as in fit, got {kind}")
        if kind == _TABLE:
            table = validate_data(self, X, dtype=np.float64, reset=reset)
            _check_size("X", table)
            return table[..., None], None
        if isinstance(X, np.ndarray) and X.dtype != object:
            x, lengths = check_array(X, dtype=np.float64, allow_nd=True, input_name="X"), None
            if 0 in x.shape:
                raise ValueError(f"X: expected at least one step and one feature, got shape {x.shape}")
        else:
            x, lengths = pad(
                [check_array(row, dtype=np.float64, input_name=f"X[{index}]") for index, row in enumerate(X)],
                batch_first=True,
            )
        _check_size("X", x)
        if reset:
            self.n_features_in_ = x.shape[2]
            self.__dict__.pop("feature_names_in_", None)  # from an earlier fit to a table
        elif x.shape[2] != self.n_features_in_:
            name, expected = type(self).__name__, self.n_features_in_
            raise ValueError(f"X has {x.shape[2]} features, but {name} is expecting {expected} features as input")
        return x, lengths


#: the forms of X
_TABLE = "a table (n, T) with one value for each step"
_SEQUENCES = "sequences (n, T, features) or a list of arrays (T, features)"


def _kind(X: Any) -> str:
    """Return which of the two forms X has."""
    if isinstance(X, np.ndarray) and X.ndim == 3:
        return _SEQUENCES
    listed = isinstance(X, list | tuple) or (isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype == object)
    if listed and len(X) and np.asarray(X[0], dtype=object).ndim == 2:
        return _SEQUENCES
    return _TABLE


class _Scale:
    """Scales each feature to mean 0 and standard deviation 1 over all (valid) steps; a constant feature becomes 0."""

    def __init__(self, x: Array, lengths: Ints | None = None) -> None:
        valid = x.reshape(-1, x.shape[-1])
        if lengths is not None:
            valid = x[np.arange(x.shape[1]) < lengths[:, None]]
        # In units of the largest value, because squares of very large and very small numbers are beyond float64.
        unit = np.abs(valid).max(axis=0)
        unit = np.where(unit > 0, unit, 1.0)
        self.mean = (valid / unit).mean(axis=0) * unit
        deviation = (valid / unit).std(axis=0) * unit
        self.deviation = np.where(deviation > 0, deviation, 1.0)

    def __call__(self, x: Array, name: str) -> Array:
        """Return x scaled, as float32; `name` is the name of the argument in errors."""
        with np.errstate(over="ignore"):
            result: Array = ((x - self.mean) / self.deviation).astype(np.float32)
        if not np.isfinite(result).all():
            raise ValueError(
                f"{name}: expected numbers of a size as in fit, got some that are {np.finfo(np.float32).max:.0e} "
                "deviations away"
            )
        return result

    def back(self, scaled: Array) -> Array:
        result: Array = scaled * self.deviation + self.mean
        return result


class LSTMClassifier(ClassifierMixin, _SequenceEstimator):
    """Predict the class of a sequence, with scikit-learn's conventions.

    An `LSTM` reads the sequence, and a `Linear` the output of its last step. `Adam` minimises the cross-entropy.

    Parameters
    ----------
    hidden_size, num_layers, bidirectional :
        As for `LSTM`.
    dropout : float
        Between layers and before the Linear, only in training.
    lr : float
        Adam's learning rate.
    epochs, batch_size, clip_norm :
        As for `fit`.
    patience : int, optional
        Hold out `validation_fraction` of the rows (stratified by class), stop when their loss has not improved for this
        many epochs, and keep the best parameters. None: train on all rows for all `epochs`.
    validation_fraction : float
    class_weight : None, "balanced" or dict
        The weight of each class: by scikit-learn's rule, or {label: weight}; None: all rows have the same weight.
    random_state : None, int or numpy.random.RandomState
        The source of initial parameters, row order and dropout.
    verbose : bool
        Show progress.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
    n_features_in_ : int
        Columns of a table, or features of a step.
    model_ : Sequential
        The network, for example for `save`; its input is the scaled X.
    history_ : History

    Raises
    ------
    TypeError, ValueError
        From `fit`: an argument, X or y is wrong.

    Notes
    -----
    X is a table (n, T), each row a sequence of T steps with one value; or an array (n, T, features); or a list of n
    arrays (T_i, features), each of its own length. An estimator fitted to a table predicts from tables with the same
    number of columns; the other two forms may be mixed, and T may differ. Each feature is scaled to mean 0 and standard
    deviation 1 over all steps.

    Examples
    --------
    Classify the direction of a series:

    >>> import numpy as np
    >>> from lstm_cy import LSTMClassifier
    >>> steps = np.random.default_rng(0).normal(size=(60, 10)) + 1
    >>> steps[::2] -= 2
    >>> names = np.where(np.arange(60) % 2, "up", "down")
    >>> classifier = LSTMClassifier(8, epochs=10, random_state=0).fit(steps.cumsum(axis=1), names)
    >>> classifier.predict([np.arange(10.0), -np.arange(10.0)]).tolist()
    ['up', 'down']
    """

    def __init__(
        self,
        hidden_size: int = 32,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        lr: float = 0.01,
        epochs: int = 100,
        batch_size: int = 32,
        clip_norm: float | None = 1.0,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        class_weight: Any = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            hidden_size,
            num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            lr=lr,
            epochs=epochs,
            batch_size=batch_size,
            clip_norm=clip_norm,
            patience=patience,
            validation_fraction=validation_fraction,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Train a new network.

        Parameters
        ----------
        X : array_like (n, T) or (n, T, features), or list of n array_like (T_i, features)
        y : array_like (n,)
            Labels of any kind.

        Returns
        -------
        LSTMClassifier
            Itself.
        """
        sequences = self._sequences(X, reset=True)
        y = _target(self, y, column=True)
        with _naming("y"):
            check_consistent_length(X, y)
            check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        weight = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        if not (np.isfinite(weight) & (weight >= 0)).all() or not weight.any():
            raise ValueError(f"class_weight: expected finite numbers of at least 0 and one above, got {shown(weight)}")
        loss = functools.partial(cross_entropy, weight=weight)
        return self._fit(sequences, codes, len(self.classes_), loss, stratify=codes)

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class.

        Parameters
        ----------
        X : as for `fit`

        Returns
        -------
        ndarray (n, n_classes), float64
            In the order of `classes_`.
        """
        scores = self._predicted(X).astype(np.float64)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        result: Array = scores / scores.sum(axis=1, keepdims=True)
        return result

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each row.

        Parameters
        ----------
        X : as for `fit`

        Returns
        -------
        ndarray (n,)
        """
        best = self._predicted(X).argmax(axis=1)
        result: Array = self.classes_[best]
        return result


class LSTMRegressor(RegressorMixin, _SequenceEstimator):
    """Predict one or more numbers from a sequence, with scikit-learn's conventions.

    As `LSTMClassifier`, but with the mean squared error; y is scaled to mean 0 and standard deviation 1 internally.

    Parameters
    ----------
    hidden_size, num_layers, bidirectional, dropout, lr, epochs, batch_size, clip_norm :
        As for `LSTMClassifier`.
    patience, validation_fraction, random_state, verbose :
        As for `LSTMClassifier`.

    Attributes
    ----------
    n_features_in_, model_, history_ :
        As for `LSTMClassifier`; y is scaled too.

    Raises
    ------
    TypeError, ValueError
        From `fit`: an argument, X or y is wrong.

    Examples
    --------
    The sum of sequences of different lengths:

    >>> import numpy as np
    >>> from lstm_cy import LSTMRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.random((length, 1)) for length in rng.integers(1, 10, 200)]
    >>> y = [sequence.sum() for sequence in X]
    >>> LSTMRegressor(16, epochs=20, random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Train a new network.

        Parameters
        ----------
        X : array_like (n, T) or (n, T, features), or list of n array_like (T_i, features)
        y : array_like (n,) or (n, k)

        Returns
        -------
        LSTMRegressor
            Itself.
        """
        sequences = self._sequences(X, reset=True)
        y = _target(self, y, column=False)
        check_consistent_length(X, y)
        self._single = y.ndim == 1
        y = y.reshape(len(y), -1)
        self._target_scale = _Scale(y)

        return self._fit(sequences, self._target_scale(y, "y"), y.shape[1], mse)

    def predict(self, X: Any) -> Array:
        """Return the predicted number, or the k numbers, of each row.

        Parameters
        ----------
        X : as for `fit`

        Returns
        -------
        ndarray (n,) or (n, k), float64
        """
        scaled = self._predicted(X)
        predicted = self._target_scale.back(scaled)
        return predicted[:, 0] if self._single else predicted


def _target(estimator: object, y: Any, column: bool) -> Array:
    """Return y as an array: with `column` labels in one column, otherwise finite numbers in one or more."""
    if y is None:
        name = type(estimator).__name__
        raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
    with _naming("y"):
        if column:
            labels: Array = column_or_1d(y, warn=True)
            assert_all_finite(labels, input_name="y")
            return labels
        found: Array = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y", estimator=estimator)
        _check_size("y", found)
        return found if found.ndim == 2 else np.asarray(column_or_1d(found))


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Add the argument's name to errors of scikit-learn and NumPy that lack it."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        if re.search(rf"\b{name}\b", str(error)):
            raise
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{name}: {error}") from error


class LSTMForecaster(_Network):
    """Forecast a series of numbers, with prediction intervals.

    An `LSTM` reads the last `window` values, and a `Linear` predicts all the next `horizon` values at once; both as
    scaled differences from the last value read.

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
    random_state, verbose :
        As for `LSTMClassifier`.

    Attributes
    ----------
    model_ : Sequential
        Trained on the whole series.
    history_ : History
        The history of its training.
    residuals_ : ndarray (windows, horizon)
        The errors, true value minus forecast, on the calibration part, of a network trained on the values before it.

    Notes
    -----
    Two networks are trained. The first is trained on the series without the calibration part; its absolute errors
    there, h steps ahead, give the intervals for h steps ahead (split conformal prediction: J. Lei et al.,
    Distribution-free predictive inference for regression, 2018). The second is trained on the whole series, and
    forecasts. The coverage is exact if errors are exchangeable, which they are not in a series whose behaviour changes.

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
        random_state: Any = None,
        verbose: bool = False,
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
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, y: ArrayLike) -> Self:
        """Train on a series.

        Parameters
        ----------
        y : array_like (n,)
            Real numbers at equal distances in time, the latest last.

        Returns
        -------
        LSTMForecaster
            Itself.

        Raises
        ------
        TypeError, ValueError
            y is not one series, contains NaN or infinity, is constant or too short; or an argument is wrong.
        """
        horizon, window = positive_int("horizon", self.horizon), positive_int("window", self.window)
        shares = [number("calibration_fraction", self.calibration_fraction, 0.0, 1.0, open_low=True, open_high=True)]
        if self.patience is not None:
            share = number("validation_fraction", self.validation_fraction, 0.0, 1.0, open_low=True, open_high=True)
            shares.append(share)
        y = _series(y)
        if np.ptp(y) == 0:
            raise ValueError(f"y: expected a series that varies, got {len(y)} times {y[0]}")
        windows = len(y) - window - horizon + 1
        least = _least_windows(horizon, shares)
        if windows < least:
            raise ValueError(
                f"y: expected at least {window + horizon - 1 + least} values for window = {window} and "
                f"horizon = {horizon}, got {len(y)}"
            )

        pieces = np.lib.stride_tricks.sliding_window_view(y, window + horizon)
        past, future = pieces[:, :window], pieces[:, window:]
        end, *ends = _splits(windows, horizon, shares)
        held_out = slice(end + horizon - 1, None)
        model, scales, history = self._fitted(past[:end], future[:end], self.epochs, *ends)
        self.residuals_ = future[held_out] - _forecast(model, scales, past[held_out])
        epochs = self.epochs if self.patience is None else history.best_epoch + 1  # type: ignore[operator]
        self.model_, self._scales, self.history_ = self._fitted(past, future, epochs)
        self._past = y[-window:]
        return self

    def _fitted(
        self, past: Array, future: Array, epochs: int, end: int | None = None
    ) -> tuple[Sequential, tuple[_Scale, _Scale], History]:
        """Return (network, its scales, History), trained on windows; those after `end` are for early stopping."""
        x, target = past - past[:, -1:], future - past[:, -1:]
        scales = _Scale(x[:end, :, None]), _Scale(target[:end])
        x, target = scales[0](x[:, :, None], "y"), scales[1](target, "y")
        model = self._build(1, target.shape[1])
        # The validation windows forecast no value that is in the training windows.
        begin = None if end is None else end + target.shape[1] - 1
        validation = None if end is None else (x[begin:], target[begin:])
        history = self._train(model, (x[:end], target[:end]), mse, epochs, validation)
        return model, scales, history

    def predict(self, horizon: int | None = None, *, y: ArrayLike | None = None) -> Array:
        """Forecast the next values.

        Parameters
        ----------
        horizon : int, optional
            The number of values, at most the constructor's `horizon`; None: as many as that.
        y : array_like (n,), optional
            The series to continue, at least its last `window` values; it is not trained on. None: the series of `fit`.

        Returns
        -------
        ndarray (horizon,), float64
        """
        check_is_fitted(self)
        ahead = self.residuals_.shape[1]
        horizon = ahead if horizon is None else positive_int("horizon", horizon)
        if horizon > ahead:
            raise ValueError(f"horizon: expected 1 to {ahead}, the horizon of the forecaster, got {horizon}")
        past = self._past if y is None else _series(y)
        window = len(self._past)
        if len(past) < window:
            raise ValueError(f"y: expected at least window = {window} values, got {len(past)}")
        return _forecast(self.model_, self._scales, past[None, -window:])[0, :horizon]

    def predict_interval(
        self, horizon: int | None = None, coverage: float = 0.9, *, y: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        """Return bounds of the next values, each of which is between its bounds with probability `coverage`.

        Parameters
        ----------
        horizon :
            As for `predict`, whose values are in the middle of the intervals.
        coverage : float
            From 0 to n / (n + 1), with n the number of windows in the calibration part.
        y :
            As for `predict`.

        Returns
        -------
        lower, upper : ndarray (horizon,), float64
        """
        middle = self.predict(horizon, y=y)
        errors = np.sort(np.abs(self.residuals_[:, : len(middle)]), axis=0)
        coverage = number("coverage", coverage, 0.0, 1.0, open_low=True, open_high=True)
        rank = math.ceil(coverage * (len(errors) + 1))
        if rank > len(errors):
            most = len(errors) / (len(errors) + 1)
            raise ValueError(
                f"coverage: expected at most {most:.3f} with {len(errors)} windows for calibration, got {coverage}"
            )
        return middle - errors[rank - 1], middle + errors[rank - 1]


def _series(y: ArrayLike) -> Array:
    """Return y as a series of finite float64 numbers."""
    y = real_array("y", y)
    if y.ndim != 1 or not len(y):
        raise ValueError(f"y: expected one series, shape (n,), got {y.shape}")
    y = y.astype(np.float64)
    if not np.isfinite(y).all():
        index = int((~np.isfinite(y)).argmax())
        raise ValueError(f"y: expected finite numbers, got {y[index]} at {index}; fill gaps first")
    _check_size("y", y)
    return y


def _check_size(name: str, array: Array) -> None:
    if array.size and np.abs(array).max() > _LARGEST:
        raise ValueError(f"{name}: expected numbers up to {_LARGEST} from zero, got {np.abs(array).max()}")


def _least_windows(horizon: int, shares: Sequence[float]) -> int:
    """Return the smallest number of windows that leaves one for training after each share is held out."""
    low, high = 0, 1
    while _splits(high, horizon, shares)[-1] < 1:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _splits(middle, horizon, shares)[-1] > 0 else (middle, high)
    return high


def _splits(windows: int, horizon: int, shares: Sequence[float]) -> list[int]:
    """Return where the training windows end before each held-out share; windows that overlap both are left out."""
    ends = []
    for share in shares:
        windows -= max(1, round(share * windows)) + horizon - 1
        ends.append(windows)
    return ends


def _forecast(model: Sequential, scales: tuple[_Scale, _Scale], past: Array) -> Array:
    """Return the forecast for each row of past (n, window)."""
    last = past[:, -1:]
    return scales[1].back(_outputs(model, scales[0]((past - last)[:, :, None], "y"))) + last
