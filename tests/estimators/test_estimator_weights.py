"""Weights of rows and classes, warm starts, partial fits, and DataFrames that are refused."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import clone

from lstm_cy import LSTMClassifier, LSTMRegressor


def rows(n=40, seed=0, steps=5):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, steps, 2))
    return X, X[:, :, 0].sum(axis=1)


def targets(estimator, sums):
    return np.where(sums > 0, "plus", "minus") if isinstance(estimator, LSTMClassifier) else sums


def numbers(estimator, X):
    return estimator.predict_proba(X) if isinstance(estimator, LSTMClassifier) else estimator.predict(X)


ESTIMATORS = [LSTMClassifier(6, epochs=6, random_state=0), LSTMRegressor(6, epochs=6, random_state=0)]


@pytest.mark.parametrize("options", [{}, {"patience": 3}, {"dropout": 0.3, "bidirectional": True}])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_in_one_batch_a_weight_is_a_repetition_to_the_bit(estimator, options):
    X, sums = rows(16)
    y = targets(estimator, sums)
    weight = np.arange(16) % 4
    order = np.random.default_rng(1).permutation(16)
    estimator = clone(estimator).set_params(batch_size=24, **options)
    repeated = clone(estimator).fit(X.repeat(weight, axis=0), y.repeat(weight))
    weighted = clone(estimator).fit(X[order], y[order], weight[order])
    np.testing.assert_array_equal(numbers(weighted, X), numbers(repeated, X))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rows_of_weight_0_are_left_out(estimator):
    X, sums = rows(60)
    y = targets(estimator, sums)
    kept = np.arange(60) % 3 != 0
    estimator = clone(estimator).set_params(batch_size=7)
    without = clone(estimator).fit(X[kept], y[kept])
    np.testing.assert_array_equal(numbers(clone(estimator).fit(X, y, 2.0 * kept), X), numbers(without, X))
    listed = clone(estimator).fit(list(X[kept]), y[kept])
    np.testing.assert_array_equal(
        numbers(clone(estimator).fit(list(X), y, sample_weight=1.0 * kept), X), numbers(listed, X)
    )


def test_weights_change_what_is_learned():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3, 1))
    y = np.arange(200) % 2  # does not depend on X
    probability = (
        LSTMClassifier(4, epochs=15, lr=0.05, random_state=0).fit(X, y, np.where(y, 9.0, 1.0)).predict_proba(X)[:, 1]
    )
    assert 0.8 < probability.mean() < 0.97
    mean = LSTMRegressor(4, epochs=15, lr=0.05, random_state=0).fit(X, y, np.where(y, 9.0, 1.0)).predict(X).mean()
    assert 0.8 < mean < 0.97


def test_class_weights_are_factors_of_sample_weights():
    X, sums = rows(80)
    y = (sums > 1).astype(int)
    weight = np.random.default_rng(0).random(80) + 0.1
    both = LSTMClassifier(4, epochs=3, class_weight={0: 1.0, 1: 4.0}, random_state=0).fit(X, y, weight)
    product = LSTMClassifier(4, epochs=3, random_state=0).fit(X, y, weight * np.where(y, 4.0, 1.0))
    # The scaling counts sample weights alone.
    assert (
        np.abs(both._scale.mean - np.average(X, axis=(0, 1), weights=weight.repeat(10).reshape(X.shape))).max() < 1e-12
    )
    assert np.abs(both.predict_proba(X) - product.predict_proba(X)).max() < 0.05


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        ([1.0] * 3, ValueError, r"sample_weight: expected shape \(4,\)"),
        ([[1.0]] * 4, ValueError, r"sample_weight: expected shape \(4,\)"),
        ([1.0, -1.0, 1.0, 1.0], ValueError, "sample_weight: expected finite numbers of at least 0, got -1.0"),
        ([1.0, np.nan, 1.0, 1.0], ValueError, "sample_weight: expected finite numbers of at least 0, got nan"),
        ([0, 0, 0, 0], ValueError, "sample_weight: expected a weight above zero"),
        (["a"] * 4, TypeError, "sample_weight: expected real numbers"),
    ],
)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_weights_that_are_refused(estimator, method, weight, error, message):
    classes = {"classes": [0, 1]} if method == "partial_fit" and isinstance(estimator, LSTMClassifier) else {}
    with pytest.raises(error, match=message):
        getattr(clone(estimator), method)(np.eye(4), [0, 1, 0, 1], sample_weight=weight, **classes)


def test_huge_weights():
    X, sums = rows(20)
    plain = LSTMRegressor(4, epochs=2, random_state=0).fit(X, sums).predict(X)
    huge = LSTMRegressor(4, epochs=2, random_state=0).fit(X, sums, np.full(20, 1e308)).predict(X)
    np.testing.assert_array_equal(huge, plain)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_warm_start_continues(estimator):
    X, sums = rows(50)
    y = targets(estimator, sums)
    warm = clone(estimator).set_params(warm_start=True)
    first = warm.fit(X, y).history_.loss
    second = warm.fit(X, y).history_.loss
    assert len(second) == 6 and second[0] < first[-1] * 1.1 < first[0]
    scale = warm._scale
    warm.fit(3 * X[:, :2], y)  # the scaling stays
    assert warm._scale is scale
    cold = clone(estimator).fit(X, y)
    assert cold.fit(X, y).history_.loss == first
    with pytest.raises(ValueError, match="warm_start: expected the sizes of the earlier fit"):
        warm.set_params(hidden_size=7).fit(X, y)
    with pytest.raises(ValueError, match="X has 1 features"):
        warm.fit(X[:, :, :1], y)


def test_a_warm_start_with_other_targets():
    X, sums = rows()
    classifier = LSTMClassifier(2, epochs=1, warm_start=True).fit(X, sums > 0)
    with pytest.raises(ValueError, match=r"y: expected labels of .*, got .*5"):
        classifier.fit(X, np.full(40, 5))
    classifier.fit(X[:8], np.ones(8, bool))
    assert classifier.classes_.tolist() == [False, True]
    regressor = LSTMRegressor(2, epochs=1, warm_start=True).fit(X, sums)
    with pytest.raises(ValueError, match="y: expected 1 columns, as in the first fit, got 2"):
        regressor.fit(X, np.column_stack([sums, sums]))
    with pytest.raises(TypeError, match="warm_start: expected True or False"):
        LSTMRegressor(warm_start=1).fit(X, sums)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_partial_fits_learn(estimator):
    X, sums = rows(120)
    y = targets(estimator, sums)
    estimator = clone(estimator).set_params(hidden_size=16)
    classes = {"classes": ["minus", "plus"]} if isinstance(estimator, LSTMClassifier) else {}
    for epoch in range(25):
        for part in np.array_split(np.arange(120), 3):
            estimator.partial_fit(X[part], y[part], **(classes if epoch == 0 else {}))
    assert len(estimator.history_.loss) == 75
    assert estimator.score(X, y) > 0.9
    twin = pickle.loads(pickle.dumps(estimator))
    for each in (twin, estimator):
        each.partial_fit(X, y)
    np.testing.assert_array_equal(numbers(twin, X), numbers(estimator, X))
    estimator.fit(X, y)
    assert len(estimator.history_.loss) == 6


def test_a_partial_fit_continues_a_fit():
    X, sums = rows(60)
    regressor = LSTMRegressor(8, epochs=10, random_state=0).fit(X, sums)
    before = regressor.score(X, sums)
    for _ in range(10):
        regressor.partial_fit(X, sums)
    assert regressor.score(X, sums) > before and len(regressor.history_.loss) == 20


def test_partial_fits_that_are_refused():
    X, sums = rows()
    y = (sums > 0).astype(int)
    classifier = LSTMClassifier(2, random_state=0)
    with pytest.raises(ValueError, match="classes: expected all labels in the first call"):
        classifier.partial_fit(X, y)
    classifier.partial_fit(X, y, classes=[0, 1, 2])
    assert classifier.predict_proba(X).shape == (40, 3)
    with pytest.raises(ValueError, match="y: expected labels of"):
        classifier.partial_fit(X, y + 7)
    with pytest.raises(ValueError, match="classes: expected .* as in the first call"):
        classifier.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="X has 1 features"):
        classifier.partial_fit(X[..., :1], y)
    zero = LSTMClassifier(2, class_weight={0: 0.0, 1: 1.0}).partial_fit(X[:4], [0] * 4, classes=[0, 1])
    assert zero.history_.loss == []


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_dataframe_is_refused_unless_its_columns_are_steps(estimator):
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 4)), columns=list("abcd"))
    y = (X.sum(axis=1) > 0).to_numpy().astype(int)
    for frame in (X, X[["a"]], pd.DataFrame(X.to_numpy())):
        with pytest.raises(ValueError, match=r'X: expected an array .* a DataFrame .* set sequence="columns"'):
            clone(estimator).fit(frame, y)
    fitted = clone(estimator).fit(X.to_numpy(), y)
    with pytest.raises(ValueError, match='set sequence="columns"'):
        fitted.predict(X)
    columns = clone(estimator).set_params(sequence="columns").fit(X, y)
    np.testing.assert_array_equal(numbers(columns, X), numbers(fitted, X.to_numpy()))
    assert columns.feature_names_in_.tolist() == list("abcd")
    with pytest.raises(ValueError, match="dim 3"):
        clone(estimator).set_params(sequence="columns").fit(np.ones((2, 3, 1)), [0, 1])
    with pytest.raises(ValueError, match="sequence: expected None or 'columns', got 'rows'"):
        clone(estimator).set_params(sequence="rows").fit(X, y)
    clone(estimator).fit([X[i : i + 3] for i in range(4)], [0, 1, 0, 1])  # a list of them is a list of sequences
