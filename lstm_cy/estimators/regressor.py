"""LSTMRegressor: numbers from a sequence, with scikit-learn's conventions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn.base import RegressorMixin
from sklearn.utils import check_consistent_length

from ..checks import positive_int
from ..training.losses import mse
from .rows import Rows, checked_weight
from .scale import Scale
from .sequences import SequenceEstimator, target

if TYPE_CHECKING:
    from typing import Self

    from sklearn.utils import Tags

    from ..typing import Array, ArrayLike


class LSTMRegressor(RegressorMixin, SequenceEstimator):
    """Predict one or more numbers from a sequence, with scikit-learn's conventions.

    As `LSTMClassifier`, but with the mean squared error; y is scaled to mean 0 and standard deviation 1 internally.

    Parameters
    ----------
    hidden_size, num_layers, bidirectional, dropout, lr, epochs, batch_size, clip_norm :
        As for `LSTMClassifier`.
    patience, validation_fraction, sequence, warm_start, random_state, verbose, precision :
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

    _loss = staticmethod(mse)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train a new network, or with `warm_start` the present one.

        Parameters
        ----------
        X : array_like (n, T) or (n, T, features), or list of n array_like (T_i, features)
        y : array_like (n,) or (n, k)
        sample_weight : array_like (n,), optional
            The weight of each row in the loss and the scaling; a row of weight 0 is left out.

        Returns
        -------
        LSTMRegressor
            Itself.
        """
        continues = self._continues
        rows = self._rows(X, y, sample_weight, first=not continues)
        return self._fit(rows, rows.y.shape[1], continues)

    def partial_fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train for one epoch, and keep the state of `Adam` for the next call.

        The first call decides the scaling of X and y. `patience` and `epochs` are not used.

        Parameters
        ----------
        X, y, sample_weight :
            As for `fit`.

        Returns
        -------
        LSTMRegressor
            Itself.
        """
        rows = self._rows(X, y, sample_weight, first=not hasattr(self, "model_"))
        return self._partial_fit(rows, rows.y.shape[1])

    def _rows(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None, first: bool) -> Rows:
        """Return checked rows, their y scaled."""
        sequences = self._sequences(X, reset=first)
        checked = target(self, y, column=False)
        check_consistent_length(X, checked)
        weight = checked_weight(sample_weight, len(checked))
        columns = checked.reshape(len(checked), -1)
        if first:
            self._single = checked.ndim == 1
            merged = Rows(*sequences, columns, weight).counted()
            if len(merged.x) <= positive_int("batch_size", self.batch_size):
                merged = merged.merged()
            self._target_scale = Scale(merged.y, weight=None if merged.equal else merged.weight)
        elif columns.shape[1] != len(self._target_scale.mean):
            raise ValueError(
                f"y: expected {len(self._target_scale.mean)} columns, as in the first fit, got {columns.shape[1]}"
            )
        return Rows(*sequences, self._target_scale(columns, "y"), weight)

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
