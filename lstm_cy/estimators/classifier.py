"""LSTMClassifier: the class of a sequence, with scikit-learn's conventions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import check_consistent_length
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets

from ..checks import shown
from ..training.losses import cross_entropy
from .rows import Rows, checked_weight
from .sequences import SequenceEstimator, naming, target

if TYPE_CHECKING:
    from typing import Self

    from ..typing import Array, ArrayLike, Ints, Precision


class LSTMClassifier(ClassifierMixin, SequenceEstimator):
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
    sequence : None or "columns"
        "columns": X is a table or a DataFrame whose rows are sequences and whose columns are their steps. None: X is an
        array or a list, and a DataFrame is refused, because its columns may be steps or features.
    warm_start : bool
        `fit` continues with the parameters and the scaling of an earlier `fit` or `partial_fit`, with a new `Adam`.
    random_state : None, int or numpy.random.RandomState
        The source of initial parameters, row order and dropout.
    verbose : bool
        Show progress.
    precision : {"float32", "bf16"}
        As for `fit`.

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
    Up to `batch_size` rows are one batch; equal rows are then merged into one with the sum of their weights, so that a
    row of weight 2 and the row twice give the same bits.

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

    _loss = staticmethod(cross_entropy)

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
        sequence: str | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
        precision: Precision = "float32",
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
            sequence=sequence,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
            precision=precision,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train a new network, or with `warm_start` the present one.

        Parameters
        ----------
        X : array_like (n, T) or (n, T, features), or list of n array_like (T_i, features)
        y : array_like (n,)
            Labels of any kind.
        sample_weight : array_like (n,), optional
            The weight of each row in the loss, the scaling and the balance of classes; a row of weight 0 is left out.

        Returns
        -------
        LSTMClassifier
            Itself.
        """
        continues = self._continues
        sequences = self._sequences(X, reset=not continues)
        labels = self._labels(X, y)
        if not continues:
            self.classes_ = np.unique(labels)
        codes = self._codes(labels)
        weight = checked_weight(sample_weight, len(codes))
        class_weight = self._class_weights(codes, weight)
        if not (weight * class_weight[codes]).any():
            raise ValueError("sample_weight, class_weight: expected a row of weight above 0, got none")
        return self._fit(Rows(*sequences, codes, weight), len(self.classes_), continues, class_weight)

    def partial_fit(
        self, X: Any, y: ArrayLike, classes: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Train for one epoch, and keep the state of `Adam` for the next call.

        The first call decides the scaling. `patience` and `epochs` are not used. "balanced" class weights balance the
        rows of each call.

        Parameters
        ----------
        X, y :
            As for `fit`.
        classes : array_like, optional
            All labels that any call will have; necessary in the first call.
        sample_weight :
            As for `fit`.

        Returns
        -------
        LSTMClassifier
            Itself.
        """
        first = not hasattr(self, "model_")
        if first and classes is None:
            raise ValueError("classes: expected all labels in the first call of partial_fit, got None")
        sequences = self._sequences(X, reset=first)
        labels = self._labels(X, y)
        if first:
            self.classes_ = np.unique(target(self, classes, column=True))
        elif classes is not None and not np.array_equal(np.unique(np.asarray(classes)), self.classes_):
            raise ValueError(f"classes: expected {shown(self.classes_)}, as in the first call, got {shown(classes)}")
        codes = self._codes(labels)
        weight = checked_weight(sample_weight, len(codes))
        class_weight = self._class_weights(codes, weight)
        return self._partial_fit(Rows(*sequences, codes, weight), len(self.classes_), class_weight)

    def _labels(self, X: Any, y: ArrayLike) -> Array:
        """Return the labels of the rows of X."""
        labels = target(self, y, column=True)
        with naming("y"):
            check_consistent_length(X, labels)
            check_classification_targets(labels)
        return labels

    def _codes(self, labels: Array) -> Ints:
        """Return the number of each label in `classes_`."""
        unknown = ~np.isin(labels, self.classes_)
        if unknown.any():
            raise ValueError(f"y: expected labels of {shown(self.classes_)}, got {shown(labels[unknown][0])}")
        codes: Ints = np.searchsorted(self.classes_, labels)
        return codes

    def _class_weights(self, codes: Ints, sample_weight: Array) -> Array:
        """Return the weight of each class."""
        classes = self.classes_
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            totals = np.bincount(codes, sample_weight, len(classes))
            return np.where(totals > 0, totals.sum() / (len(classes) * np.where(totals > 0, totals, 1.0)), 0.0)
        weight: Array = compute_class_weight(self.class_weight, classes=classes, y=classes[codes])
        if not (np.isfinite(weight) & (weight >= 0)).all() or not weight.any():
            raise ValueError(f"class_weight: expected finite numbers of at least 0 and one above, got {shown(weight)}")
        return weight

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
