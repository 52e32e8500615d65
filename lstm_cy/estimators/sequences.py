"""SequenceEstimator: what classifier and regressor share: the forms of X, weights, validation, warm starts."""

from __future__ import annotations

import contextlib
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.utils import assert_all_finite, check_array, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from ..checks import flag, number, one_of, positive_int
from ..training.batches import pad
from ..training.history import History
from ..training.optimizers import Adam
from .network import Network, outputs_of
from .rows import Rows
from .scale import Scale, check_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from sklearn.utils import Tags

    from ..layers.sequential import Sequential
    from ..typing import Array, Ints, Loss, Precision

#: the forms of X
TABLE = "a table (n, T) with one value for each step"
SEQUENCES = "sequences (n, T, features) or a list of arrays (T, features)"


class SequenceEstimator(Network):
    """Base class of classifier and regressor."""

    _loss: Loss

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
        sequence: str | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
        precision: Precision = "float32",
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
        self.sequence = sequence
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.precision = precision

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    @property
    def _continues(self) -> bool:
        """Whether `fit` starts from the network of an earlier fit."""
        return flag("warm_start", self.warm_start) and hasattr(self, "model_")

    def _fit(self, rows: Rows, outputs: int, continues: bool, class_weight: Array | None = None) -> Self:
        """Train a new network, or with `continues` the present one; `class_weight` is that of each class y."""
        rows = rows.counted()
        if len(rows.x) <= positive_int("batch_size", self.batch_size):
            rows = rows.merged()
        if not continues:
            self._scale = Scale(rows.x, rows.lengths, None if rows.equal else rows.weight)
        if class_weight is not None:
            rows = rows.times(class_weight[rows.y])
        model = self._build(rows.x.shape[2], outputs, self.bidirectional)
        if continues:
            model = self._warm(model)
        validation = None
        if self.patience is not None:
            rows, held_out = self._split(rows, class_weight is not None)
            validation = self._data(held_out)
        self.history_ = self._train(model, self._data(rows), self._loss, self.epochs, validation)
        self.model_ = model
        self.__dict__.pop("_optimizer", None)
        return self

    def _partial_fit(self, rows: Rows, outputs: int, class_weight: Array | None = None) -> Self:
        """Train for one epoch, with the optimizer of the previous call."""
        rows = rows.counted()
        if not hasattr(self, "model_"):
            self._scale = Scale(rows.x, rows.lengths, None if rows.equal else rows.weight)
            self.model_ = self._build(rows.x.shape[2], outputs, self.bidirectional)
            self.history_ = History()
        if not hasattr(self, "_optimizer"):
            self._optimizer = Adam(self.model_, lr=self.lr)
        if class_weight is not None:
            rows = rows.times(class_weight[rows.y])
        if not len(rows.x):  # nothing to learn from
            return self
        self._optimizer.lr = number("lr", self.lr, 0.0, open_high=True)
        done = len(self.history_.loss)
        history = self._train(self.model_, self._data(rows), self._loss, 1, optimizer=self._optimizer, earlier=done)
        self.history_.loss += history.loss
        self.history_.seconds += history.seconds
        return self

    def _data(self, rows: Rows) -> dict[str, Any]:
        """Return the data of `fit`: scaled x, y, and lengths and weights where there are some."""
        data = {"x": self._scale(rows.x, "X"), "y": rows.y}
        if rows.lengths is not None:
            data["lengths"] = rows.lengths
        if not rows.equal:
            data["sample_weight"] = rows.weight
        return data

    def _warm(self, model: Sequential) -> Sequential:
        """Return `model` with the parameters of the present one."""
        if model.config != self.model_.config:
            raise ValueError(
                "warm_start: expected the sizes of the earlier fit (hidden_size, num_layers, bidirectional, dropout, "
                "features, outputs), got others"
            )
        model.load_state_dict(self.model_.parameters)
        return model

    def _split(self, rows: Rows, stratify: bool) -> tuple[Rows, Rows]:
        """Return the rows to train on, and those held out for early stopping; with `stratify` a share of each class."""
        share = number("validation_fraction", self.validation_fraction, 0.0, 1.0, open_low=True, open_high=True)
        n = len(rows.x)
        counts = np.unique(rows.y, return_counts=True)[1] if stratify else np.array([n])
        held_out = max(math.ceil(share * n), len(counts))  # a row of each class
        if held_out >= n:
            raise ValueError(f"X: expected more than the {held_out} rows that patience needs, got n_samples = {n}")
        stratified = rows.y if stratify and counts.min() > 1 else None
        parts = train_test_split(np.arange(n), test_size=held_out, stratify=stratified, random_state=self.random_state)
        return rows.take(parts[0]), rows.take(parts[1])

    def _predicted(self, X: Any) -> Array:
        """Return the network's outputs for the rows of X."""
        check_is_fitted(self)
        x, lengths = self._sequences(X, reset=False)
        return outputs_of(self.model_, self._scale(x, "X"), lengths)

    def _sequences(self, X: Any, reset: bool) -> tuple[Array, Ints | None]:
        """Return X as (n, T, features) float64, and lengths or None; without `reset`, X must match the X of fit."""
        with naming("X"):
            return self._checked_sequences(X, reset)

    def _checked_sequences(self, X: Any, reset: bool) -> tuple[Array, Ints | None]:
        columns = one_of("sequence", self.sequence, (None, "columns")) == "columns"
        kind = TABLE if columns else _kind(X)
        if reset:
            self._fitted_kind = kind
        elif kind != self._fitted_kind:
            raise ValueError(f"X: expected {self._fitted_kind}, as in fit, got {kind}")
        if kind == TABLE:
            table = validate_data(self, X, dtype=np.float64, reset=reset)
            check_size("X", table)
            return table[..., None], None
        x, lengths = _padded(X)
        if reset:
            self.n_features_in_ = x.shape[2]
            self.__dict__.pop("feature_names_in_", None)  # from an earlier fit to a table
        elif x.shape[2] != self.n_features_in_:
            name, expected = type(self).__name__, self.n_features_in_
            raise ValueError(f"X has {x.shape[2]} features, but {name} is expecting {expected} features as input")
        return x, lengths


def _padded(X: Any) -> tuple[Array, Ints | None]:
    """Return sequences as (n, T, features), and their lengths if they are a list."""
    if isinstance(X, np.ndarray) and X.dtype != object:
        x, lengths = check_array(X, dtype=np.float64, allow_nd=True, input_name="X"), None
        if 0 in x.shape:
            raise ValueError(f"X: expected at least one step and one feature, got shape {x.shape}")
    else:
        x, lengths = pad(
            [check_array(row, dtype=np.float64, input_name=f"X[{index}]") for index, row in enumerate(X)],
            batch_first=True,
        )
    check_size("X", x)
    return x, lengths


def _kind(X: Any) -> str:
    """Return which of the two forms X has; a DataFrame may mean either, and is refused."""
    if hasattr(X, "columns") and hasattr(X, "shape"):
        raise ValueError(
            f"X: expected an array or a list of arrays, got a {type(X).__name__} of shape {tuple(X.shape)}, whose "
            "columns may be steps or features. If a row is a sequence and a column one of its steps, set "
            'sequence="columns"; if a row is a step, pass a list with an array (T, features) for each sequence'
        )
    if isinstance(X, np.ndarray) and X.ndim == 3:
        return SEQUENCES
    listed = isinstance(X, list | tuple) or (isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype == object)
    if listed and len(X) and np.asarray(X[0], dtype=object).ndim == 2:
        return SEQUENCES
    return TABLE


def target(estimator: object, y: Any, column: bool) -> Array:
    """Return y as an array: with `column` labels in one column, otherwise finite numbers in one or more."""
    if y is None:
        name = type(estimator).__name__
        raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
    with naming("y"):
        if column:
            labels: Array = column_or_1d(y, warn=True)
            assert_all_finite(labels, input_name="y")
            return labels
        found: Array = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y", estimator=estimator)
        check_size("y", found)
        return found if found.ndim == 2 else np.asarray(column_or_1d(found))


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Add the argument's name to errors of scikit-learn and NumPy that lack it."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        if re.search(rf"\b{name}\b", str(error)):
            raise
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{name}: {error}") from error
