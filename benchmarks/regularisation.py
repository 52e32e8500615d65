"""Regularisation at equal time: bits a character of text that was not trained on, with and without each option.

python -m benchmarks.regularisation [seconds] trains a small model of characters on the beginning of Python's standard
library for so many seconds of processor time with each option, so that other processes do not matter. The text is small
enough for the model without any option to overfit.
"""

import sys
import time

import numpy as np

from lstm_cy import LSTM, ActivationRegularization, Adam, Embedding, Linear, Sequential, clip_grad_norm, cross_entropy
from lstm_cy.text import Vocabulary
from lstm_cy.text.corpus import columns, standard_library_text

TRAINED, HELD_OUT = 15_000, 20_000  # characters
SIZE, ROWS, WINDOW = 128, 32, 32
OPTIONS = {
    "none": {},
    "recurrent_dropout=0.25": {"recurrent_dropout": 0.25},
    "zoneout=(0.05, 0.2)": {"zoneout": (0.05, 0.2)},
    "weight_drop=0.25": {"weight_drop": 0.25},
    "ActivationRegularization(2, 1)": {"penalties": (2.0, 1.0)},
    'recurrent_init="orthogonal"': {"recurrent_init": "orthogonal"},
    "learn_initial_state=True": {"learn_initial_state": True},
    "Linear(tied=embedding)": {"tied": True},
    "weight_drop=0.25, penalties, tied": {"weight_drop": 0.25, "penalties": (2.0, 1.0), "tied": True},
}


def model_of(tokens, tied=False, penalties=None, **options):
    embedding = Embedding(tokens, SIZE, seed=1)
    embedding.load_state_dict({"weight": embedding.parameters["weight"] / np.sqrt(SIZE)})
    lstm = LSTM(SIZE, SIZE, seed=2, **options)
    between = [] if penalties is None else [ActivationRegularization(*penalties)]
    return Sequential(embedding, lstm, *between, Linear(SIZE, tokens, tied=embedding if tied else None, seed=3))


def bits(model, text):
    """Return the bits a character of a text in columns."""
    x, y = text
    return cross_entropy(model(x)[0], y)[0] / np.log(2)


def train(model, text, held_out, seconds):
    """Train for so many seconds of processor time; return (epochs, held-out bits at the end, the least of them)."""
    x, y = text
    optimizer, rng = Adam(model, 3e-3), np.random.default_rng(0)
    found, used, steps, states = [], 0.0, 0, None
    begin = time.process_time()
    while used + time.process_time() - begin < seconds:
        first = steps * WINDOW % (len(x) - WINDOW)
        if first < WINDOW:
            states = None
        logits, states, tape = model.forward(x[first : first + WINDOW], states, rng=rng)
        gradients = model.backward(tape, cross_entropy(logits, y[first : first + WINDOW])[1]).parameters
        clip_grad_norm(gradients, 1.0)
        optimizer.step(gradients)
        steps += 1
        if used + time.process_time() - begin > len(found) * seconds / 20:
            used += time.process_time() - begin  # measuring does not count
            found.append(bits(model, held_out))
            begin = time.process_time()
    found.append(bits(model, held_out))
    return steps * WINDOW / len(x), found[-1], min(found)


def main(seconds=8.0):
    text = standard_library_text(TRAINED + HELD_OUT)
    vocabulary = Vocabulary.from_text(text[:TRAINED])
    parts = columns(vocabulary.encode(text[:TRAINED]), ROWS), columns(vocabulary.encode(text[TRAINED:]), ROWS)
    print(f"{len(vocabulary)} characters, {seconds:g} s each")
    print("| options | epochs | training text | held out, at the end | held out, best |\n|---|--:|--:|--:|--:|")
    for name, options in OPTIONS.items():
        model = model_of(len(vocabulary), **options)
        epochs, last, best = train(model, *parts, seconds)
        print(f"| {name} | {epochs:.1f} | {bits(model, parts[0]):.3f} | {last:.3f} | {best:.3f} |", flush=True)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
