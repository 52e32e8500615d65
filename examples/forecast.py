"""Forecast the next day of an hourly series, and compare it with repeating yesterday.

    python examples/forecast.py [--epochs 30]

The series is generated: a daily and a weekly rhythm whose strength drifts, with noise. A one-layer LSTM reads a week
hour by hour and predicts each next hour; then it continues for a day on its own predictions.
"""

import argparse

import numpy as np

from lstm_cy import LSTM, Adam, Linear, Sequential, fit, mse

DAY, WEEK = 24, 7 * 24


def make_series(rows, steps, rng):
    """Return series (steps, rows, 1); each row, for instance a house, has its own rhythm."""
    hours = np.arange(steps)[:, np.newaxis]
    phase, weight = rng.uniform(0, 24, (2, rows))
    drift = 1 + 0.3 * np.sin(hours / rng.uniform(200, 400, rows))
    daily = np.sin(2 * np.pi * (hours - phase) / DAY)
    weekly = np.sin(2 * np.pi * hours / WEEK) * weight / 24
    return (drift * daily + weekly + 0.1 * rng.standard_normal((steps, rows)))[..., np.newaxis]


def build_model(hidden, seed):
    return Sequential(LSTM(1, hidden, seed=seed), Linear(hidden, 1, seed=seed + 1))


def forecast(model, past, hours):
    """Predict the `hours` after `past` (steps, rows, 1): each prediction is the next input."""
    out, states = model(past)
    predictions = [out[-1:]]
    for _ in range(hours - 1):
        out, states = model(predictions[-1], states)
        predictions.append(out)
    return np.concatenate(predictions)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rows", type=int, default=256, help="series to learn from")
    parser.add_argument("--hidden", type=int, default=48)
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    series = make_series(options.rows + 64, WEEK + DAY, rng)
    learned, held_out = series[:, : options.rows], series[:, options.rows :]

    model = build_model(options.hidden, seed=1)
    fit(
        model,
        (learned[:-1], learned[1:]),
        loss=mse,
        optimizer=Adam(model, lr=5e-3),
        epochs=options.epochs,
        validation=(held_out[:WEEK], held_out[1 : WEEK + 1]),
        clip_norm=1.0,
    )

    past, future = held_out[:WEEK], held_out[WEEK:]
    error, _ = mse(forecast(model, past, DAY), future)
    yesterday, _ = mse(past[-DAY:], future)
    print(f"mean squared error over the next day: {error:.4f}; repeating yesterday: {yesterday:.4f}")
    return error, yesterday


if __name__ == "__main__":
    main()
