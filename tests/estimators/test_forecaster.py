"""Several series, covariates, gaps, pandas, quantiles, scores, backtests and pictures of the forecaster."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

from lstm_cy import LSTMForecaster
from lstm_cy.estimators.series import forward_filled
from lstm_cy.estimators.windows import masked_loss


def wave(steps, noise=0.0, seed=0, period=12):
    time = np.arange(steps)
    return 50 + 3 * np.sin(2 * np.pi * time / period) + noise * np.random.default_rng(seed).normal(size=steps)


def small(**options):
    defaults = {"horizon": 4, "window": 12, "hidden_size": 8, "epochs": 6, "dropout": 0.0, "patience": None}
    return LSTMForecaster(**(defaults | {"random_state": 0} | options))


def both():
    return {"a": wave(120, 0.1), "b": 1e4 + 1e3 * wave(90, 0.1, period=8)}


def test_several_series_in_one_model():
    series = both()
    forecaster = small(epochs=40, hidden_size=16).fit({name: y[:-4] for name, y in series.items()})
    found = forecaster.predict()
    assert list(found) == ["a", "b"]
    for name, y in series.items():
        assert np.abs(found[name] - y[-4:]).mean() < 0.5 * np.abs(np.diff(y)).mean() * 4
        np.testing.assert_array_equal(forecaster.predict(3)[name], found[name][:3])
        lower, upper = forecaster.predict_interval(2, 0.5)
        assert (lower[name] < found[name][:2]).all() and (found[name][:2] < upper[name]).all()
    assert forecaster.residuals_.shape == (round(0.2 * 101) + round(0.2 * 71), 4)
    later = forecaster.predict(y={"b": series["b"][:-4]})
    np.testing.assert_allclose(later["b"], found["b"], rtol=1e-9)
    other = forecaster.predict(y=wave(40))  # a series that is not in fit
    assert other.shape == (4,)
    twin = pickle.loads(pickle.dumps(forecaster))
    np.testing.assert_array_equal(twin.predict()["a"], found["a"])


def test_the_unit_of_one_of_several_series_does_not_matter():
    series = both()
    plain = small().fit(series).predict()
    scaled = small().fit({"a": series["a"], "b": 1e6 * series["b"]}).predict()
    np.testing.assert_allclose(scaled["b"] / 1e6, plain["b"], rtol=1e-6)
    np.testing.assert_allclose(scaled["a"], plain["a"], rtol=1e-6)


def test_a_long_dataframe_is_a_dict_of_series():
    pd = pytest.importorskip("pandas")
    series = both()
    expected = small().fit(series).predict()
    parts = [
        pd.DataFrame({"unique_id": name, "ds": pd.date_range("2024-01-01", periods=len(y)), "y": y})
        for name, y in series.items()
    ]
    frame = pd.concat(parts).sample(frac=1, random_state=0)  # in any order
    frame = frame.sort_values("unique_id", kind="stable")
    found = small().fit(frame).predict()
    assert list(found.columns) == ["unique_id", "ds", "y"] and len(found) == 8
    for name, y in series.items():
        own = found[found.unique_id == name]
        np.testing.assert_allclose(own.y, expected[name], rtol=1e-6)
        assert own.ds.iloc[0] == pd.Timestamp("2024-01-01") + pd.Timedelta(days=len(y))
    renamed = frame.rename(columns={"unique_id": "shop", "ds": "day", "y": "sales"})
    assert list(small().fit(renamed).predict(2).columns) == ["shop", "day", "sales"]
    renamed["price"] = 1.0
    with pytest.raises(ValueError, match="y: expected a long DataFrame with the columns series, time, value"):
        small().fit(renamed)
    lower, upper = small(columns=("shop", "day", "sales")).fit(renamed).predict_interval(2, 0.5)
    assert (lower.sales < upper.sales).all()
    indexed = frame.set_index(["unique_id", "ds"])
    pd.testing.assert_frame_equal(small().fit(indexed).predict(), found)
    levels = small(quantiles=(0.1, 0.9)).fit(frame).predict_quantiles(2)
    assert list(levels.columns) == ["unique_id", "ds", 0.1, 0.9]


def test_dates_are_kept_and_missing_times_are_gaps():
    pd = pytest.importorskip("pandas")
    y = pd.Series(wave(120, 0.1), pd.date_range("2020-01-01", periods=120, freq="MS", name="month"), name="sales")
    found = small().fit(y).predict()
    np.testing.assert_array_equal(found, small().fit(y.to_numpy()).predict())
    assert found.name == "sales" and found.index.name == "month"
    assert found.index.equals(pd.date_range("2030-01-01", periods=4, freq="MS", name="month"))
    lower, upper = small().fit(y).predict_interval(2, 0.5)
    assert lower.index.equals(found.index[:2]) and upper.index.equals(found.index[:2])
    gaps = y.drop(y.index[[3, 40, 41, 100]])
    with_nan = y.copy()
    with_nan.iloc[[3, 40, 41, 100]] = np.nan
    expected = small().fit(with_nan).predict()
    pd.testing.assert_series_equal(small().fit(gaps).predict(), expected)
    pd.testing.assert_series_equal(small().fit(gaps[::-1]).predict(), expected)
    np.testing.assert_array_equal(small().fit(with_nan.to_numpy()).predict(), expected)
    months = y.copy()
    months.index = months.index.to_period("M")
    assert small().fit(months).predict(1).index[0] == pd.Period("2030-01", "M")
    utc = y.tz_localize("UTC")
    assert str(small().fit(utc).predict().index.tz) == "UTC"
    numbered = pd.Series(wave(120), range(10, 250, 2))
    assert small().fit(numbered).predict(2).index.tolist() == [250, 252]
    named = pd.Series(wave(120), [f"row {i}" for i in range(120)])
    assert isinstance(small().fit(named).predict(), np.ndarray)
    later = small().fit(y[:100]).predict(y=y)
    assert later.index.equals(found.index)


@pytest.mark.parametrize("freq", ["h", "D", "B", "W-WED", "QS", "YE", "15min"])
def test_frequencies_with_missing_times(freq):
    pd = pytest.importorskip("pandas")
    index = pd.date_range("2019-01-01", periods=100, freq=freq)
    y = pd.Series(wave(100), index).drop(index[[7, 50, 51]])
    y.index.freq = None
    expected = pd.date_range(index[-1], periods=5, freq=freq)[1:]
    assert small(epochs=1).fit(y).predict().index.tolist() == expected.tolist()


def test_gaps_are_neither_read_nor_learned():
    rng = np.random.default_rng(0)
    y = wave(300, 0.1)
    holes = y.copy()
    holes[rng.random(300) < 0.2] = np.nan
    forecaster = small(epochs=30, hidden_size=16).fit(holes[:280])
    errors = [forecaster.predict(y=holes[:now]) - y[now : now + 4] for now in range(280, 296)]
    assert np.abs(errors).mean() < 0.8
    assert np.isnan(forecaster.residuals_).any() and np.isfinite(forecaster.predict_interval(4, 0.8)[0]).all()
    with pytest.raises(ValueError, match="y: expected a number among the last 12 values, got only NaN"):
        forecaster.predict(y=np.r_[y, np.full(12, np.nan)])
    with pytest.raises(ValueError, match="y: expected a number, got only NaN"):
        small().fit(np.full(60, np.nan))
    without = small().fit(y[:200])  # a model that saw no gap continues a series with one
    filled = y[:210].copy()
    filled[205] = filled[204]
    holed = y[:210].copy()
    holed[205] = np.nan
    np.testing.assert_array_equal(without.predict(y=holed), without.predict(y=filled))


def driven(steps=400, seed=0):
    """Return a series whose steps follow a covariate, at once or one step later, and the covariate."""
    x = np.random.default_rng(seed).normal(size=steps)
    return 10 * x + np.sin(np.arange(steps) / 3), x


def test_covariates_that_are_known_ahead():
    y, x = driven()
    forecaster = small(epochs=40, hidden_size=16, lr=0.01).fit(y[:380], x[:380])
    found = forecaster.predict(X=x[380:384])
    assert np.abs(found - y[380:384]).mean() < 2.5 < 0.5 * np.abs(y[380:384] - y[379]).mean() + 2.5
    blind = small(epochs=40, hidden_size=16, lr=0.01).fit(y[:380])
    now = range(380, 396)
    errors = [forecaster.predict(y=y[:t], X=x[: t + 4, None]) - y[t : t + 4] for t in now]
    assert np.abs(errors).mean() < 0.4 * np.abs([blind.predict(y=y[:t]) - y[t : t + 4] for t in now]).mean()
    np.testing.assert_allclose(forecaster.predict(2, x[380:382]), found[:2], rtol=1e-6)
    np.testing.assert_allclose(forecaster.predict(X=x[:384], y=y[:380]), found, rtol=1e-6)
    assert forecaster.score(y[380:], x[380:]) > 0.8 > blind.score(y[380:])


def test_past_covariates():
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    y = np.zeros(400)
    y[1:] = 10 * x[:-1]  # the covariate of the last step says the next value
    forecaster = small(horizon=1, epochs=40, hidden_size=16, past_covariates="all").fit(y[:380], x[:380])
    assert abs(forecaster.predict()[0] - y[380]) < 3
    errors = [forecaster.predict(y=y[:t], X=x[:t])[0] - y[t] for t in range(380, 399)]
    assert np.abs(errors).mean() < 3


def test_covariates_by_name_and_date():
    pd = pytest.importorskip("pandas")
    index = pd.date_range("2024-01-01", periods=200)
    y, x = driven(200)
    X = pd.DataFrame({"x": x, "noise": np.random.default_rng(1).normal(size=200)}, index)
    series = pd.Series(y, index)
    forecaster = small(past_covariates=["noise"]).fit(series[:180], X)  # X may have more dates
    by_number = small(past_covariates=[1]).fit(y[:180], X.to_numpy()[:180])
    np.testing.assert_array_equal(forecaster.predict(X=X), by_number.predict(X=X.to_numpy()[180:184]))
    without = forecaster.predict(X=X[["x"]])  # the noise is not known ahead
    pd.testing.assert_series_equal(without, forecaster.predict(X=X[["noise", "x"]]))
    assert without.index.equals(index[180:184])
    pd.testing.assert_series_equal(forecaster.predict(y=series[:180], X=X), without)
    with pytest.raises(ValueError, match=r"X: expected the columns .* got none named \['x'\]"):
        forecaster.predict(X=X[["noise"]])
    with pytest.raises(ValueError, match="X: expected rows for 2024-06-29"):
        forecaster.predict(X=X[:100])
    both = {"a": series[:150], "b": 3 * series[:180]}
    several = small().fit(both, {"a": X, "b": X})
    found = several.predict(X={"a": X, "b": X})
    assert found["a"].index[0] == index[150] and found["b"].index[0] == index[180]
    frame = pd.concat(
        [part.rename("y").rename_axis("ds").reset_index().assign(unique_id=k) for k, part in both.items()]
    )
    long_X = pd.concat([X.rename_axis("ds").reset_index().assign(unique_id=name) for name in both])
    long = small().fit(frame, long_X).predict(X=long_X)
    np.testing.assert_allclose(long.y, np.r_[found["a"], found["b"]], rtol=1e-6)


def test_wrong_covariates():
    y, x = driven(120)
    forecaster = small(epochs=1).fit(y, x)
    for call, message in (
        (lambda: forecaster.predict(), "X: expected covariates, 1 columns, as in fit, got None"),
        (lambda: forecaster.predict(X=x[:3]), "X: expected at least 4 rows, got 3"),
        (lambda: forecaster.predict(X=np.ones((4, 2))), "X: expected 1 columns"),
        (lambda: forecaster.predict(X=np.full(4, np.inf)), "X: expected finite numbers"),
        (lambda: small(epochs=1).fit(y).predict(X=x[:4]), "X: expected None, because fit had no covariates"),
        (lambda: small().fit(y, x[:100]), "X: expected at least 120 rows, got 100"),
        (lambda: small().fit(y, np.empty((120, 0))), "X: expected covariates"),
        (lambda: small(past_covariates=[3]).fit(y, x), "past_covariates: expected columns of X"),
        (lambda: small(past_covariates=[0]).fit(y), "past_covariates: expected None without X"),
        (lambda: small().fit({"a": y}, {"b": x}), "X: expected covariates of each series, got none of 'a'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    for call, message in (
        (lambda: small(past_covariates="x").fit(y, x), "past_covariates: expected None"),
        (lambda: small().fit({"a": y}, x), "X: expected a dict or a long DataFrame"),
        (lambda: small().fit(y, ["a"] * 120), "X: expected real numbers"),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_quantiles():
    rng = np.random.default_rng(0)
    y = 5 * rng.exponential(size=700)  # nothing to predict but the distribution
    forecaster = small(quantiles=(0.9, 0.1), epochs=30).fit(y[:500])
    found = forecaster.predict_quantiles(y=y[:500])
    assert found.shape == (4, 2) and (found[:, 0] < found[:, 1]).all()
    np.testing.assert_array_equal(forecaster.predict_quantiles(2), found[:2])
    middle = forecaster.predict()
    assert (found[:, 0] < middle).all() and (middle < found[:, 1]).all()
    below, covered = [], {"quantile": [], "conformal quantile": [], "conformal": []}
    for now in range(500, 690, 2):
        truth = y[now : now + 4]
        below.append(truth[:, None] < forecaster.predict_quantiles(y=y[:now]))
        for method, hits in covered.items():
            lower, upper = forecaster.predict_interval(4, 0.8, y=y[:now], method=method)
            hits.append((lower <= truth) & (truth <= upper))
    np.testing.assert_allclose(np.mean(below, axis=(0, 1)), [0.1, 0.9], atol=0.08)
    for hits in covered.values():
        assert 0.7 < np.mean(hits) < 0.9
    with pytest.raises(ValueError, match="coverage: expected one whose bounds are in the constructor's quantiles"):
        forecaster.predict_interval(4, 0.7, method="quantile")
    with pytest.raises(ValueError, match="method: expected 'conformal', 'quantile' or 'conformal quantile'"):
        forecaster.predict_interval(4, 0.8, method="x")
    with pytest.raises(ValueError, match="quantiles: expected some in the constructor"):
        small(epochs=1).fit(wave(60)).predict_quantiles()


@pytest.mark.parametrize("quantiles", [0.5, "ab", [0.0], [1.0], [None], [], [np.nan], {0.5: 1, 2: 1}])
def test_quantiles_that_are_refused(quantiles):
    with pytest.raises((TypeError, ValueError), match="^quantiles: expected"):
        small(quantiles=quantiles).fit(wave(60))


@pytest.mark.parametrize("quantiles", [None, [0.1, 0.5, 0.8]])
@pytest.mark.parametrize("shape", [(5, 3), (5, 7)])
def test_the_gradient_of_the_masked_loss(quantiles, shape):
    rng = np.random.default_rng(0)
    levels = 1 if quantiles is None else 3
    prediction = rng.normal(size=(5, 3 * levels) if shape[1] == 3 else (5, 7, levels))
    target = rng.normal(size=(5, 3))
    target[0, 1] = target[3] = np.nan
    value, gradient = masked_loss(prediction, target, quantiles=quantiles)
    slots = prediction.reshape(5, 3, levels) if shape[1] == 3 else prediction[:, -3:]
    errors = (target[..., None] - slots)[~np.isnan(target)]
    q = np.array(quantiles or [0])
    parts = errors**2 if quantiles is None else np.where(errors > 0, q * errors, (q - 1) * errors)
    np.testing.assert_allclose(value, parts.mean())
    for index in np.ndindex(prediction.shape):
        step = np.zeros_like(prediction)
        step[index] = 1e-6
        ends = [masked_loss(prediction + sign * step, target, quantiles=quantiles)[0] for sign in (1, -1)]
        np.testing.assert_allclose(gradient[index], (ends[0] - ends[1]) / 2e-6, atol=1e-8)


def test_the_score_is_r_squared_of_forecasts_from_every_step():
    y = wave(200, 0.2)
    forecaster = small(epochs=20).fit(y[:150])
    errors, truths = [], []
    for now in range(150, 200):
        truth = y[now : now + 4]
        errors.append(forecaster.predict(y=y[:now])[: len(truth)] - truth)
        truths.append(truth)
    errors, truths = np.concatenate(errors), np.concatenate(truths)
    expected = 1 - (errors**2).sum() / ((truths - y[150:].mean()) ** 2).sum()
    np.testing.assert_allclose(forecaster.score(y[150:]), expected, rtol=1e-6)
    assert forecaster.score(y[150:]) > 0.5
    holed = y[150:].copy()
    holed[[3, 20]] = np.nan
    assert forecaster.score(holed) > 0.4
    with pytest.raises(ValueError, match="y: expected values that differ"):
        forecaster.score([1.0, 1.0])
    with pytest.raises(ValueError, match=r"y\['z'\]: expected a series of fit"):
        small(epochs=1).fit(both()).score({"z": y})
    assert np.isfinite(small(epochs=1).fit(both()).score({"a": y[:9]}))


def test_the_score_knows_the_dates():
    pd = pytest.importorskip("pandas")
    y = pd.Series(wave(200, 0.2), pd.date_range("2024-01-01", periods=200))
    forecaster = small().fit(y[:150])
    np.testing.assert_allclose(forecaster.score(y[150:]), small().fit(y[:150].to_numpy()).score(y[150:].to_numpy()))
    with pytest.raises(ValueError, match="y: expected values from 2024-05-30 00:00:00 on, after those of fit"):
        forecaster.score(y[140:])


@pytest.mark.parametrize("refit", [True, False])
def test_a_backtest_forecasts_from_the_values_before_each_origin(refit):
    y = wave(160, 0.2)
    forecaster = small(epochs=3)
    result = forecaster.backtest(y, origins=3, step=5, coverage=0.5, refit=refit)
    assert not hasattr(forecaster, "model_")
    assert result.origins == [145, 150, 155]
    for row, origin in enumerate(result.origins):
        np.testing.assert_array_equal(result.truth[row], y[origin + 1 : origin + 5])
        np.testing.assert_array_equal(result.naive[row], np.full(4, y[origin]))
        fitted = small(epochs=3).fit(y[: origin + 1 if refit else 146])
        np.testing.assert_allclose(result.forecast[row], fitted.predict(y=y[: origin + 1]), rtol=1e-12)
        np.testing.assert_allclose(result.lower[row], fitted.predict_interval(4, 0.5, y=y[: origin + 1])[0], rtol=1e-12)
    np.testing.assert_allclose(result.mean_absolute_error, np.abs(result.truth - result.forecast).mean())
    np.testing.assert_allclose(
        result.coverage, ((result.lower <= result.truth) & (result.truth <= result.upper)).mean()
    )
    assert "Backtest(origins=3, horizon=4" in repr(result)


def test_backtests_of_series_with_dates_and_covariates():
    pd = pytest.importorskip("pandas")
    index = pd.date_range("2024-01-01", periods=200)
    y, x = driven(200)
    one = small(epochs=2).backtest(pd.Series(y, index), pd.DataFrame({"x": x}, index), origins=2)
    assert one.origins == [index[191], index[195]]
    plain = small(epochs=2).backtest(y, x, origins=2)
    np.testing.assert_array_equal(one.forecast, plain.forecast)
    fitted = small(epochs=2).fit(y[:192], x[:192])
    np.testing.assert_allclose(plain.forecast[0], fitted.predict(X=x[192:196]), rtol=1e-12)
    several = small(epochs=1).backtest(both(), origins=2)
    assert several["b"].origins == [81, 85]
    with pytest.raises(ValueError, match="y: expected at least .* values"):
        small(epochs=1).backtest(wave(30), origins=4)
    with pytest.raises(ValueError, match="y: expected more than 40 values for the origins, got 30"):
        small(epochs=1).backtest(wave(30), origins=10)
    with pytest.raises(ValueError, match="origins: expected at least 1"):
        small().backtest(y, origins=0)


def test_pictures():
    pytest.importorskip("matplotlib")
    pd = pytest.importorskip("pandas")
    y = pd.Series(wave(100, 0.2), pd.date_range("2024-01-01", periods=100))
    figure = small(epochs=1).fit(y).plot(coverage=0.5, title="sales")
    (axes,) = figure.axes
    values, forecast = axes.get_lines()
    assert len(values.get_xdata()) == 12 and len(forecast.get_xdata()) == 4
    np.testing.assert_array_equal(values.get_ydata(), y[-12:])
    assert figure.get_suptitle() == "sales"
    assert len(small(epochs=1).fit(both()).plot(2, 0.5).axes) == 2
    periods = y.copy()
    periods.index = periods.index.to_period("D")
    small(epochs=1).fit(periods).plot(coverage=0.5)
    data, x = driven(100)
    figure = small(epochs=1).fit(data, x).plot(3, 0.5, x[:3])
    assert len(figure.axes[0].get_lines()[1].get_xdata()) == 3


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ({}, "y: expected at least one series, got an empty dict"),
        (
            {"a": wave(60), "b": wave(10)},
            r"y\['b'\]: expected at least 2\d values for window = 12 and horizon = 4, got 10",
        ),
        ({"a": np.ones(60), "b": np.ones(60)}, r"y\['a'\]: expected a series that varies"),
        ({"a": wave(60), "b": [[1.0]]}, r"y\['b'\]: expected one series, shape \(n,\)"),
        ({"a": wave(60), "b": [1.0, np.inf]}, r"y\['b'\]: expected finite numbers"),
    ],
)
def test_several_series_that_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        small().fit(y)


def test_series_of_pandas_that_are_refused():
    pd = pytest.importorskip("pandas")
    index = pd.date_range("2024-01-01", periods=60)
    for y, message in (
        (pd.Series(wave(60), index[[0, *range(59)]]), "y: expected a different time for each value"),
        (pd.Series(wave(60), [*index[:59], pd.NaT]), "y: expected a different time for each value"),
        (pd.Series(wave(60), index + pd.to_timedelta(np.random.default_rng(0).random(60), "h")), "equal distances"),
        (pd.DataFrame({"a": wave(60), "b": wave(60)}, index), "y: expected a long DataFrame"),
        (pd.Series(wave(60), [0, *range(10**6, 10**6 + 59)]), "integers at equal distances"),
    ):
        with pytest.raises(ValueError, match=message):
            small().fit(y)
    with pytest.raises(TypeError, match="y: expected real numbers"):
        small().fit(pd.Series(["a"] * 60))
    with pytest.raises(TypeError, match="columns: expected the names of three columns"):
        small(columns=("a",)).fit(pd.DataFrame({"a": [1]}))


def test_numbers_before_gaps():
    values = np.array([[np.nan, 1.0], [2.0, np.nan], [np.nan, 3.0]])
    np.testing.assert_array_equal(forward_filled(values), [[2.0, 1.0], [2.0, 1.0], [2.0, 3.0]])
    np.testing.assert_array_equal(forward_filled(np.array([np.nan, np.nan, 4.0, np.nan])), [4, 4, 4, 4])
