"""Scikit-learn's conventions, the forms of X, and forecasts that are better than simple rules."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import lstm_cy

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from lstm_cy import LSTMClassifier, LSTMForecaster, LSTMRegressor


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
@parametrize_with_checks(
    [
        LSTMClassifier(16, epochs=40, sequence="columns"),  # some checks pass a DataFrame
        LSTMRegressor(16, epochs=40, sequence="columns"),
        LSTMClassifier(
            8, bidirectional=True, dropout=0.1, epochs=30, patience=20, class_weight="balanced", sequence="columns"
        ),
    ]
)
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def ragged(rows=120, seed=0):
    """Return sequences of different lengths with two features, the sign of the first feature's sum, and that sum."""
    rng = np.random.default_rng(seed)
    X = [rng.normal(size=(length, 2)) for length in rng.integers(1, 12, rows)]
    sums = np.array([sequence[:, 0].sum() for sequence in X])
    return X, np.where(sums > 0, "plus", "minus"), sums


def test_ragged_sequences_of_several_features():
    X, names, sums = ragged()
    classifier = LSTMClassifier(16, epochs=30, random_state=0).fit(X, names)
    assert classifier.classes_.tolist() == ["minus", "plus"] and classifier.n_features_in_ == 2
    test_X, test_names, test_sums = ragged(seed=1)
    assert classifier.score(test_X, test_names) > 0.85
    assert LSTMRegressor(16, epochs=30, random_state=0).fit(X, sums).score(test_X, test_sums) > 0.85


def test_a_prediction_is_the_same_alone_and_in_a_batch_with_longer_sequences():
    X, names, _ = ragged(40)
    classifier = LSTMClassifier(8, bidirectional=True, epochs=2, random_state=0).fit(X, names)
    together = classifier.predict_proba(X)
    np.testing.assert_allclose(together, np.concatenate([classifier.predict_proba([x]) for x in X]), rtol=1e-5)
    as_array = np.stack([x[:1] for x in X])
    np.testing.assert_array_equal(classifier.predict_proba(as_array), classifier.predict_proba(list(as_array)))


def test_a_table_is_an_array_with_one_feature():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 6)), rng.normal(size=50)
    table = LSTMRegressor(8, epochs=3, random_state=0).fit(X, y)
    array = LSTMRegressor(8, epochs=3, random_state=0).fit(X[..., None], y)
    np.testing.assert_array_equal(table.predict(X), array.predict(X[..., None]))
    assert table.n_features_in_ == 6 and array.n_features_in_ == 1
    assert array.predict(np.zeros((2, 9, 1))).shape == (2,)  # any number of steps


def test_as_many_target_columns_as_steps():
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(3, 1)) for _ in range(80)] + [rng.normal(size=(1, 1)) for _ in range(40)]
    y = np.array([[x[-1, 0], -x[-1, 0], 3 * x[-1, 0] + 1] for x in X])
    regressor = LSTMRegressor(16, epochs=30, random_state=0).fit(X, y)
    assert regressor.predict(X).shape == (120, 3)
    assert regressor.score(X, y) > 0.9


def test_offset_and_unit_of_x_and_y_do_not_matter():
    X, _, sums = ragged(60)
    plain = LSTMRegressor(8, epochs=5, random_state=0).fit(X, sums).predict(X)
    shifted = [x * [1e-6, 1e3] + [5.0, 1e6] for x in X]
    predicted = LSTMRegressor(8, epochs=5, random_state=0).fit(shifted, 1e9 + 1e6 * sums).predict(shifted)
    np.testing.assert_allclose((predicted - 1e9) / 1e6, plain, atol=1e-3)


def test_digits_read_row_by_row():
    X, y = load_digits(return_X_y=True)
    X = X.reshape(-1, 8, 8)
    train, test, y_train, y_test = train_test_split(X, y, test_size=0.5, stratify=y, random_state=0)
    assert LSTMClassifier(32, epochs=15, random_state=0).fit(train, y_train).score(test, y_test) > 0.9


def test_pickles_copies_and_clones():
    X, names, _ = ragged(40)
    classifier = LSTMClassifier(8, epochs=2, random_state=0).fit(X, names)
    expected = classifier.predict_proba(X)
    for twin in (pickle.loads(pickle.dumps(classifier)), copy.deepcopy(classifier), clone(classifier).fit(X, names)):
        np.testing.assert_array_equal(twin.predict_proba(X), expected)
    with pytest.raises(NotFittedError):
        clone(classifier).predict(X)


def test_layers_are_copied_and_pickled():
    model = lstm_cy.Sequential(lstm_cy.LSTM(2, 3, seed=0), lstm_cy.Readout(), lstm_cy.Linear(3, 1, seed=1))
    x = np.ones((4, 5, 2))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin(x)[0], model(x)[0])
        twin.load_state_dict({name: 0 * array for name, array in twin.parameters.items()})
        assert model(x)[0].any()
    narrow = lstm_cy.LSTM(16, 16, seed=0).quantize("int8")
    twin = copy.deepcopy(narrow)
    np.testing.assert_array_equal(twin(np.ones((3, 1, 16)))[0], narrow(np.ones((3, 1, 16)))[0])
    assert twin.report == narrow.report


def test_pipeline_and_grid_search():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 8)).cumsum(axis=1)
    y = X[:, -1] > 0
    pipeline = make_pipeline(StandardScaler(), LSTMClassifier(epochs=25, random_state=0))
    search = GridSearchCV(pipeline, {"lstmclassifier__hidden_size": [1, 12]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.85
    lists, names, _ = ragged(60)
    search = GridSearchCV(LSTMClassifier(4, random_state=0), {"epochs": [1, 15]}, cv=2).fit(lists, names)
    assert search.best_params_ == {"epochs": 15}


def test_class_weights_change_the_decision_boundary():
    rng = np.random.default_rng(0)
    y = (np.arange(200) % 10 == 0).astype(int)
    X = rng.normal(size=(200, 3)) + 0.7 * y[:, None]
    plain = LSTMClassifier(8, epochs=10, random_state=0).fit(X, y).predict(X).sum()
    balanced = LSTMClassifier(8, epochs=10, class_weight="balanced", random_state=0).fit(X, y).predict(X).sum()
    assert plain < 20 < balanced


def test_early_stopping_keeps_the_best():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 5)), rng.normal(size=60)  # y does not depend on X
    regressor = LSTMRegressor(32, epochs=60, patience=3, validation_fraction=0.3, random_state=0).fit(X, y)
    history = regressor.history_
    assert len(history.validation) == history.best_epoch + 1 + 3 < 60


def test_progress(capfd):
    LSTMRegressor(2, epochs=2, verbose=True).fit([[0.0], [1.0]], [0, 1])
    assert "epoch 2/2" in capfd.readouterr().err


def test_random_state():
    X, _, sums = ragged(30)
    first, again, other = (LSTMRegressor(4, epochs=1, random_state=seed).fit(X, sums).predict(X) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ([[1.0, 2.0], [3.0]], [0, 1], "inhomogeneous"),
        ([np.ones((2, 2)), np.ones((3, 1))], [0, 1], "got \\(3, 1\\) at 1"),
        ([np.ones((2, 2)), np.full((3, 2), np.nan)], [0, 1], "X\\[1\\] contains NaN"),
        ([np.ones((2, 2)), np.ones((0, 2))], [0, 1], "0 sample"),
        (np.ones((2, 0, 1)), [0, 1], "at least one step"),
        (np.ones((2, 3, 1)) * np.inf, [0, 1], "infinity"),
        (np.ones((2, 3, 1, 1)), [0, 1], "dim 4"),
        (np.ones((2, 3, 1)), [0, 1, 2], "inconsistent"),
        ([], [], "Expected 2D array"),
    ],
)
@pytest.mark.parametrize("estimator", [LSTMClassifier, LSTMRegressor])
def test_wrong_sequences(estimator, X, y, message):
    with pytest.raises(ValueError, match=message):
        estimator(2, epochs=1).fit(X, y)


def test_predict_refuses_other_forms_than_in_fit():
    classifier = LSTMClassifier(2, epochs=1).fit(np.eye(4), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="X: expected a table .*, as in fit, got sequences"):
        classifier.predict(np.ones((1, 4, 1)))
    classifier.fit(np.ones((2, 4, 3)), [0, 1])
    with pytest.raises(ValueError, match="X has 2 features, but LSTMClassifier is expecting 3 features"):
        classifier.predict([np.ones((4, 2))])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hidden_size": 0}, ValueError, "hidden_size: expected at least 1"),
        ({"epochs": 1.5}, TypeError, "epochs: expected an integer"),
        ({"dropout": 2}, ValueError, "expected a number in \\[0.0, 1.0\\]"),
        ({"patience": 1, "validation_fraction": 1.0}, ValueError, "validation_fraction: expected"),
    ],
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=message):
        LSTMRegressor(**options).fit(np.eye(9), range(9))


def test_labels_in_a_column_give_a_warning():
    with pytest.warns(DataConversionWarning):
        LSTMClassifier(2, epochs=1).fit(np.eye(4), [[0], [1], [0], [1]])


def test_the_rest_of_the_library_works_without_scikit_learn():
    code = (
        "import sys; sys.modules['sklearn'] = sys.modules['sklearn.base'] = None\n"
        "from lstm_cy import *\n"
        "LSTM(1, 1)\n"
        "import lstm_cy\n"
        "try: lstm_cy.LSTMClassifier\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "scikit-learn>=1.6"' in done.stdout


def wave(steps, noise=0.0, seed=0):
    time = np.arange(steps)
    return 50 + 0.05 * time + 3 * np.sin(2 * np.pi * time / 12) + noise * np.random.default_rng(seed).normal(size=steps)


def small(**options):
    defaults = {"horizon": 6, "window": 24, "hidden_size": 16, "epochs": 20, "dropout": 0.0, "patience": None}
    return LSTMForecaster(**(defaults | {"random_state": 0} | options))


def test_forecasts_are_better_than_the_values_of_last_year():
    y = wave(240, noise=0.1)
    forecaster = small().fit(y[:200])
    errors, last_year = [], []
    for now in range(200, 235):
        errors.append(forecaster.predict(y=y[:now]) - y[now : now + 6])
        last_year.append(y[now - 12 : now - 6] - y[now : now + 6])
    assert np.abs(errors).mean() < 0.7 * np.abs(last_year).mean()


def test_intervals_have_their_nominal_coverage():
    y = wave(900, noise=1.0)
    forecaster = small(epochs=5, calibration_fraction=0.3).fit(y[:600])
    covered = {0.5: [], 0.9: []}
    for now in range(600, 890):
        for coverage, hits in covered.items():
            lower, upper = forecaster.predict_interval(6, coverage, y=y[:now])
            hits.append((lower <= y[now : now + 6]) & (y[now : now + 6] <= upper))
    assert 0.4 < np.mean(covered[0.5]) < 0.6
    assert 0.83 < np.mean(covered[0.9]) < 0.96


def test_no_training_value_is_in_the_calibration_part():
    """A jump after the first network's training values changes the residuals by the jump, and not its forecasts."""
    y = wave(120)
    forecaster = small(epochs=2).fit(y)
    windows = 120 - 24 - 6 + 1
    assert forecaster.residuals_.shape == (round(0.2 * windows), 6)
    jumped = np.concatenate([y[: 120 - len(forecaster.residuals_) - 5], [1e3] * (len(forecaster.residuals_) + 5)])
    other = small(epochs=2).fit(jumped)
    first = forecaster.residuals_[0] - y[120 - len(forecaster.residuals_) - 5 :][:6]
    np.testing.assert_allclose(other.residuals_[0] - 1e3, first, rtol=1e-9)


def test_forecasts_may_continue_another_series():
    y = wave(150)
    forecaster = small(epochs=3).fit(y)
    np.testing.assert_array_equal(forecaster.predict(), forecaster.predict(6, y=y[-24:]))
    np.testing.assert_array_equal(forecaster.predict(2), forecaster.predict()[:2])
    np.testing.assert_allclose(forecaster.predict(y=y + 1000), forecaster.predict() + 1000, rtol=1e-5)
    twin = pickle.loads(pickle.dumps(forecaster))
    np.testing.assert_array_equal(twin.predict(), forecaster.predict())
    assert clone(forecaster).get_params() == forecaster.get_params()


def test_the_best_number_of_epochs_is_used():
    y = np.random.default_rng(0).normal(size=150)
    forecaster = small(epochs=60, patience=2, hidden_size=32).fit(y)
    assert len(forecaster.history_.loss) < 58 and not forecaster.history_.validation


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (wave(35), ValueError, "y: expected at least 36 values for window = 24 and horizon = 6, got 35"),
        ([*wave(50), np.inf, 1.0], ValueError, "y: expected finite numbers, or NaN in gaps, got inf at 50"),
        (np.full(60, 2.5), ValueError, "y: expected a series that varies, got 60 times 2.5"),
        (wave(60)[:, None], ValueError, "y: expected one series, shape \\(n,\\), got \\(60, 1\\)"),
        ([], ValueError, "y: expected one series"),
        (["a"] * 60, TypeError, "y: expected real numbers"),
    ],
)
def test_series_that_are_refused(y, error, message):
    with pytest.raises(error, match=message):
        small().fit(y)


def test_the_shortest_series():
    assert small(epochs=1).fit(wave(36)).predict().shape == (6,)
    with pytest.raises(ValueError, match="at least 36 values"):
        small(epochs=1).fit(wave(35))


def test_forecasts_that_are_refused():
    with pytest.raises(NotFittedError):
        small().predict()
    forecaster = small(epochs=1).fit(wave(60))
    with pytest.raises(ValueError, match="horizon: expected 1 to 6, the horizon of the forecaster, got 7"):
        forecaster.predict(7)
    with pytest.raises(ValueError, match="y: expected at least window = 24 values, got 3"):
        forecaster.predict(y=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="coverage: expected at most 0.857 with 6 windows for calibration, got 0.9"):
        forecaster.predict_interval()
    with pytest.raises(ValueError, match="window: expected at least 1, got 0"):
        small(window=0).fit(wave(60))


NO_NUMBERS = ["x", None, [1], 1j, {}]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((name, [*NO_NUMBERS, 0, -1, 1.5, np.nan]) for name in ("hidden_size", "num_layers", "epochs", "batch_size")),
        ("patience", [*(value for value in NO_NUMBERS if value is not None), 0, -1, 1.5]),
        *((name, [*NO_NUMBERS, -1, np.nan, np.inf]) for name in ("dropout", "lr")),
        ("clip_norm", [*(value for value in NO_NUMBERS if value is not None), 0, -1, np.nan]),
        ("random_state", ["x", [1], 1.5, -1, np.nan]),
        ("verbose", [*NO_NUMBERS, 1, 0.5]),
    ],
)
@pytest.mark.parametrize("kind", ["classifier", "forecaster"])
def test_errors_name_the_wrong_argument(kind, name, values):
    for value in values:
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected"):
            if kind == "classifier":
                LSTMClassifier(**({"hidden_size": 2, "epochs": 1} | {name: value})).fit(np.eye(4), [0, 1, 0, 1])
            else:
                small(**({"epochs": 1, "hidden_size": 2, "patience": 1} | {name: value})).fit(wave(60))


def test_huge_horizons_and_windows_are_refused_at_once():
    for options in ({"horizon": 2**62}, {"window": 2**62}, {"horizon": 2**62, "window": 2**62}, {"horizon": 10**6}):
        with pytest.raises(ValueError, match=r"y: expected at least \d+ values for window"):
            small(**options).fit(wave(60))
    with pytest.raises(ValueError, match="horizon: expected at most"):
        small(horizon=10**400).fit(wave(60))


@pytest.mark.parametrize("horizon", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("shares", [(0.2, 0.2), (0.5, 0.9), (1e-9, 1e-9), (0.9, 0.9)])
def test_the_shortest_series_for_any_horizon_and_shares(horizon, shares):
    options = {"horizon": horizon, "window": 3, "epochs": 1, "hidden_size": 2, "patience": 1}
    options |= dict(zip(("calibration_fraction", "validation_fraction"), shares, strict=True))
    with pytest.raises(ValueError, match="y: expected at least") as error:
        small(**options).fit(wave(4))
    least = int(str(error.value).split()[4])
    small(**options).fit(wave(least))
    with pytest.raises(ValueError, match=f"y: expected at least {least} values"):
        small(**options).fit(wave(least - 1))


@pytest.mark.parametrize("unit", [1e-300, 1e-150, 1e150, 1e297])
def test_units_near_the_ends_of_float64(unit):
    y = wave(60)
    plain = small(epochs=2).fit(y).predict()
    np.testing.assert_allclose(small(epochs=2).fit(y * unit).predict() / unit, plain, rtol=1e-5)
    X, _, sums = ragged(20)
    plain = LSTMRegressor(4, epochs=2, random_state=0).fit(X, sums).predict(X)
    scaled = [x * unit for x in X]
    predicted = LSTMRegressor(4, epochs=2, random_state=0).fit(scaled, sums * unit).predict(scaled)
    np.testing.assert_allclose(predicted / unit, plain, rtol=1e-4, atol=1e-6)


def test_numbers_too_large_to_calculate_with_are_refused():
    forecaster = small(epochs=1).fit(wave(60))
    with pytest.raises(ValueError, match="y: expected numbers of a size as in fit"):
        forecaster.predict(y=1e300 * np.sin(np.arange(30)))
    with pytest.raises(ValueError, match="y: expected numbers of a size as in fit"):
        forecaster.predict_interval(1, 0.5, y=1e300 * np.sin(np.arange(30)))
    with pytest.raises(ValueError, match=r"y: expected numbers up to 1e\+300 from zero, got 1.7e\+308"):
        small().fit(np.where(np.arange(60) % 2, 1.7e308, -1.7e308))
    regressor = LSTMRegressor(2, epochs=1).fit(np.eye(4), range(4))
    with pytest.raises(ValueError, match="X: expected numbers of a size as in fit"):
        regressor.predict(1e200 * np.eye(4))
    for X, y in ((1e305 * np.eye(4), range(4)), (np.eye(4), 1e305 * np.arange(4))):
        with pytest.raises(ValueError, match=r": expected numbers up to 1e\+300 from zero"):
            LSTMRegressor(2, epochs=1).fit(X, y)


@pytest.mark.parametrize(
    "weights", [{0: -1, 1: 1}, {0: 0, 1: 0}, {0: np.nan, 1: 1}, {0: np.inf, 1: 1}, "x", 3, [1, 2], {7: 1}]
)
def test_class_weights_refused(weights):
    with pytest.raises(ValueError, match="class_weight"):
        LSTMClassifier(2, epochs=1, class_weight=weights).fit(np.eye(4), [0, 1, 0, 1])


def test_one_class_and_classes_of_weight_0():
    one = LSTMClassifier(2, epochs=1, batch_size=1).fit(np.eye(4), ["only"] * 4)
    assert one.predict(np.eye(4)).tolist() == ["only"] * 4 and one.score(np.eye(4), ["only"] * 4) == 1
    np.testing.assert_array_equal(one.predict_proba(np.eye(4)), np.ones((4, 1)))
    weighted = LSTMClassifier(2, epochs=2, batch_size=1, class_weight={0: 0, 1: 1}).fit(np.eye(4), [0, 1, 0, 0])
    assert np.isfinite(weighted.history_.loss).all()


@pytest.mark.parametrize("bad", [3, "abc", iter([1]), object(), {}, [[1.0], ["a"]], np.ones((2, 2)) * 1j, [None]])
def test_errors_name_an_x_or_y_that_is_not_an_array(bad):
    for estimator in (LSTMClassifier(2, epochs=1), LSTMRegressor(2, epochs=1)):
        with pytest.raises((TypeError, ValueError), match=r"\bX\b"):
            estimator.fit(bad, [0, 1])
    with pytest.raises((TypeError, ValueError), match=r"\by\b"):
        LSTMRegressor(2, epochs=1).fit(np.eye(2), bad)
