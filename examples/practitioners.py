"""Forecast three real series and classify handwritten digits, and compare with strong baselines.

    python -m examples.practitioners

The series come with statsmodels: carbon dioxide over Mauna Loa and the temperature of the Pacific by months, sunspots
by years. The models learn from all but the last fifth; there they forecast the next season at every step, without
further training. The baselines are the values of one season ago, and a ridge regression on the same windows. Two groups
of series are forecast by one model each, for all their series: births per woman in 192 countries by years, and the
logarithms of seven quantities of the economy of the United States by quarters. The digits come with scikit-learn; an
LSTM reads their 8 rows one after the other, a logistic regression reads all 64 pixels at once.
"""

import argparse
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lstm_cy import LSTMClassifier, LSTMForecaster

COVERAGE = 0.9


def load_series():
    """Return {name: (values, season)}; the horizon is one season, the window three."""
    from statsmodels.datasets import co2, elnino, sunspots

    months = co2.load_pandas().data["co2"].resample("MS").mean().interpolate()
    temperatures = elnino.load_pandas().data.drop(columns="YEAR")
    return {
        "co2": (months.to_numpy(), 12),
        "el nino": (temperatures.to_numpy().ravel(), 12),
        "sunspots": (sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(), 11),
    }


def load_groups():
    """Return {name: (series of equal lengths by name, season, steps ahead)}; the window is three times the horizon."""
    from statsmodels.datasets import fertility, macrodata

    births = fertility.load_pandas().data.set_index("Country Name").filter(regex=r"^\d{4}$").astype(float)
    births = births.dropna(axis=1, how="all").dropna()
    columns = ["realgdp", "realcons", "realinv", "realgovt", "realdpi", "cpi", "m1"]
    economy = np.log(macrodata.load_pandas().data[columns])
    return {
        "births": ({name: values.to_numpy() for name, values in births.iterrows()}, 1, 5),
        "economy": ({name: economy[name].to_numpy() for name in columns}, 4, 4),
    }


def windows(y, before, after):
    """Return (past, future): all windows of `before` values, and the `after` values that follow each."""
    pieces = np.lib.stride_tricks.sliding_window_view(y, before + after)
    return pieces[:, :before], pieces[:, before:]


def ridge_forecasts(learned, past, horizon):
    """Forecast with a linear map of differences from the last value, which the LSTM uses too."""
    x, target = windows(learned, past.shape[1], horizon)
    linear = Ridge().fit(x - x[:, -1:], target - x[:, -1:])
    return linear.predict(past - past[:, -1:]) + past[:, -1:]


def compare_forecasts(y, season, seeds, **options):
    """Return {name: number}: mean absolute errors on the last fifth; coverage and width of the intervals."""
    begin, window = round(0.8 * len(y)), 3 * season
    past, future = windows(y[begin - window :], window, season)
    errors, covered, widths = [], [], []
    for seed in range(seeds):
        forecaster = LSTMForecaster(season, window, random_state=seed, **options).fit(y[:begin])
        for before, truth in zip(past, future, strict=True):
            lower, upper = forecaster.predict_interval(coverage=COVERAGE, y=before)
            errors.append(np.abs(forecaster.predict(y=before) - truth).mean())
            covered.append(((lower <= truth) & (truth <= upper)).mean())
            widths.append((upper - lower).mean())
    by_seed = np.reshape(errors, (seeds, -1)).mean(axis=1)
    return {
        "season ago": np.abs(past[:, -season:] - future).mean(),
        "ridge": np.abs(ridge_forecasts(y[:begin], past, season) - future).mean(),
        "LSTM": by_seed.mean(),
        "best seed": by_seed.min(),
        "worst seed": by_seed.max(),
        "covered": np.mean(covered),
        "width": np.mean(widths),
    }


def compare_groups(series, season, horizon, seeds, **options):
    """Return {name: number}: mean absolute errors on the last fifth of several series of one model."""
    length, window = len(next(iter(series.values()))), 3 * horizon
    begin = round(0.8 * length)
    learned = {name: y[:begin] for name, y in series.items()}
    pairs = {name: windows(y[begin - window :], window, horizon) for name, y in series.items()}
    past, future = (np.stack([pair[part] for pair in pairs.values()]) for part in (0, 1))
    x, target = (
        np.concatenate(part) for part in zip(*(windows(y, window, horizon) for y in learned.values()), strict=True)
    )
    last = past[..., -1:]
    linear = Ridge().fit(x - x[:, -1:], target - x[:, -1:])
    ridge = linear.predict((past - last).reshape(-1, window)).reshape(future.shape) + last
    ago = np.take(past, [window - season + step % season for step in range(horizon)], axis=-1)
    by_seed = []
    for seed in range(seeds):
        forecaster = LSTMForecaster(horizon, window, random_state=seed, **options).fit(learned)
        errors = []
        for origin in range(past.shape[1]):
            found = forecaster.predict(y=dict(zip(series, past[:, origin], strict=True)))
            errors.append(np.abs(np.stack([found[name] for name in series]) - future[:, origin]).mean())
        by_seed.append(np.mean(errors))
    return {
        "season ago": np.abs(ago - future).mean(),
        "ridge": np.abs(ridge - future).mean(),
        "LSTM": np.mean(by_seed),
        "best seed": min(by_seed),
        "worst seed": max(by_seed),
    }


def compare_digits(seeds, **options):
    """Return the accuracy of (LSTM, logistic regression) on a quarter of the digits, the mean over `seeds` splits."""
    X, y = load_digits(return_X_y=True)
    scores = []
    for seed in range(seeds):
        train, test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=seed)
        lstm = LSTMClassifier(64, bidirectional=True, random_state=seed, **options)
        lstm.fit(train.reshape(-1, 8, 8), y_train)
        logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train, y_train)
        scores.append((lstm.score(test.reshape(-1, 8, 8), y_test), logistic.score(test, y_test)))
    return np.mean(scores, axis=0)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=100, help="at most; for the series patience stops earlier")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args(arguments)
    table = {}

    def show(name, what, started):
        numbers = "  ".join(f"{column} {value:.4g}" for column, value in table[name].items())
        print(f"{name:9s} {what} ahead:  {numbers}  ({time.perf_counter() - started:.0f} s)", flush=True)

    for name, (y, season) in load_series().items():
        started = time.perf_counter()
        table[name] = compare_forecasts(y, season, options.seeds, epochs=options.epochs)
        show(name, f"{len(y)} values, {season}", started)
    for name, (series, season, horizon) in load_groups().items():
        started = time.perf_counter()
        table[name] = compare_groups(series, season, horizon, options.seeds, epochs=options.epochs)
        show(name, f"{len(series)} series, {horizon}", started)
    started = time.perf_counter()
    lstm, logistic = compare_digits(options.seeds, epochs=options.epochs)
    seconds = time.perf_counter() - started
    print(f"digits    accuracy:  LSTM {lstm:.4f}  logistic regression {logistic:.4f}  ({seconds:.0f} s)")
    return table, (lstm, logistic)


if __name__ == "__main__":
    main()
