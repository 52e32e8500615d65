"""Measure an amplifier's share of an audio host's time: a minute of a guitar-like signal, in blocks of 64 samples.

The model has the size of common models of guitar amplifiers: one sample in, LSTM(1, 24), Linear(24, 1), one sample out.
Its weights are random unless a file is given: that changes the sound, not the time.
"""

import argparse
import wave

import numpy as np
from amplifier import Amplifier

import lstm_cy

RATE = 48_000  # samples a second
BLOCK = 64  # samples per call of the host


def guitar(seconds):
    """Return the sound of plucked strings, four per second: a few decaying harmonics."""
    t = np.arange(RATE // 4) / RATE
    pitches = 110 * 2 ** (np.random.default_rng(0).integers(0, 24, int(np.ceil(4 * seconds))) / 12)
    notes = [sum(np.sin(2 * np.pi * k * f * t) * np.exp(-3 * k * t) / k for k in range(1, 6)) for f in pitches]
    return np.concatenate(notes).astype("float32")


def model_of(path):
    """Read a model: a file that `lstm_cy.load` reads, or a PyTorch file with an LSTM and a linear layer."""
    if not path.lower().endswith((".pt", ".pth")):
        return lstm_cy.load(path)
    tensors = lstm_cy.weights.pytorch.read(path)
    tensors = tensors.get("state_dict", tensors)
    lstms = lstm_cy.weights.pytorch.lstms(tensors)
    others = {name: array for name, array in tensors.items() if not name.startswith(tuple(lstms))}
    found = {name.rpartition(".")[2]: array for name, array in others.items()}
    if len(lstms) != 1 or len(found) != len(others) or set(found) not in ({"weight"}, {"weight", "bias"}):
        raise ValueError(f"{path}: expected the tensors of one LSTM and one linear layer, got {', '.join(tensors)}")
    head = lstm_cy.Linear(*found["weight"].shape[::-1], bias="bias" in found)
    head.load_state_dict(found)
    return lstm_cy.Sequential(*lstms.values(), head)


def write_wav(path, samples):
    """Write 16-bit samples, scaled so that the loudest one is 90 % of the largest number."""
    largest = np.abs(samples).max(initial=0)
    if not np.isfinite(largest):
        raise ValueError(f"{path}: not written, because the output is not finite")
    scaled = samples * (0.9 * 32767 / largest) if largest > 0 else samples
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(scaled.astype("<i2").tobytes())


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="a file of lstm_cy or PyTorch; default: random weights")
    parser.add_argument("--wav", metavar="FILE", help="write the output here")
    parser.add_argument("--seconds", type=float, default=60, help="length of the audio")
    options = parser.parse_args(arguments)
    try:
        return play(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def play(options):
    if options.model:
        model = model_of(options.model)
    else:
        model = lstm_cy.Sequential(lstm_cy.LSTM(1, 24, seed=0), lstm_cy.Linear(24, 1, seed=1))

    amplifier = Amplifier(model)
    samples = guitar(options.seconds)
    samples = samples[: len(samples) // BLOCK * BLOCK]
    played, took = np.empty_like(samples), np.empty(len(samples) // BLOCK)
    amplifier.play(samples, played, BLOCK, took)

    budget = BLOCK / RATE
    print(f"{len(took)} blocks of {BLOCK} samples at {RATE} a second: {1e6 * budget:.0f} us for each")
    for name, seconds in (("mean", took.mean()), ("99 %", np.quantile(took, 0.99)), ("worst", took.max())):
        print(f"{name:5} {1e6 * seconds:7.1f} us  {100 * seconds / budget:5.2f} % of the budget")
    if options.wav:
        write_wav(options.wav, played)
        print(f"{options.wav}: the output")
    return samples, played


if __name__ == "__main__":
    main()
