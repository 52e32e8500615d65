"""Train a small amplifier model, export it to amp.h, and write a guitar-like sound to play through it: guitar.wav."""

import wave

import numpy as np

from lstm_cy import LSTM, Adam, Linear, Sequential, fit, mse
from lstm_cy.export import c99

RATE = 48000


def distorted(x):
    """Return what the model learns: a soft and uneven clipper after a low-pass filter."""
    y = np.zeros_like(x)
    for t in range(1, len(x)):
        y[t] = 0.7 * y[t - 1] + 0.3 * x[t]
    return np.tanh(4 * y + 0.3) - np.tanh(0.3)


def plucked(seconds, frequency, rng):
    """Return a plucked string, by the method of Karplus and Strong."""
    period = round(RATE / frequency)
    y = np.zeros(round(RATE * seconds))
    y[:period] = rng.uniform(-0.8, 0.8, period)
    for t in range(period + 1, len(y)):
        y[t] = 0.498 * (y[t - period] + y[t - period - 1])
    return y


def main():
    """Train, export, write guitar.wav."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((200, 64, 1)) * rng.uniform(0.05, 0.5, (64, 1))).astype(np.float32)
    model = Sequential(LSTM(1, 16, seed=0), Linear(16, 1, seed=0))
    history = fit(model, (x, distorted(x)), loss=mse, optimizer=Adam(model, lr=0.01), epochs=80, seed=0)
    print(f"mean squared error {history.loss[-1]:.4f}")
    c99(model, "amp.h", self_test=True)
    sound = np.concatenate([plucked(0.5, frequency, rng) for frequency in (110, 138.59, 164.81, 220)])
    with wave.open("guitar.wav", "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", None))
        file.writeframes((sound * 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    main()
