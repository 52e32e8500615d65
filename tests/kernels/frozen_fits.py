"""Whole trainings that every processor and compiler must repeat to the bit: python tests/kernels/frozen_fits.py writes.

tests/data/fit_bits.json has hashes of each training's parameters, optimizer state, history and checkpoint, with engine
"packed". Initial parameters and data are made by integer arithmetic.
"""

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
from frozen_bits import digest, numbers

import lstm_cy.schedules
from lstm_cy import (
    LSTM,
    SGD,
    Activation,
    Adam,
    AdamW,
    Dropout,
    Embedding,
    Linear,
    Readout,
    Seq2Seq,
    Sequential,
    config,
    cross_entropy,
    ctc,
    fit,
    mse,
)
from lstm_cy.seq2seq import teach

PATH = Path(__file__).parents[1] / "data" / "fit_bits.json"
EPOCHS = 3


def integers(shape, below, seed):
    return (numbers(shape, "float64", seed) * below / 2 + below / 2).astype(int)


def lengths_of(rows, steps):
    return np.array([(5 * row + 2) % steps + 1 for row in range(rows)])


def classes_per_step():
    """Logits of classes at each step of ragged rows, clipped gradients, validation."""
    model = Sequential(LSTM(3, 17), Linear(17, 5))
    x, y = numbers((11, 30, 3), "float32", 1, 2.0), integers((11, 30), 5, 2)
    held_out = numbers((7, 6, 3), "float32", 3, 2.0), integers((7, 6), 5, 4), lengths_of(6, 7)
    options = {"clip_norm": 0.25, "batch_size": 7, "validation": held_out, "patience": 5}
    return model, (x, y, lengths_of(30, 11)), cross_entropy, lambda model: Adam(model, 0.02), options


def numbers_per_step():
    """float64, two layers in both directions with dropout, Nesterov's momentum."""
    lstm = LSTM(4, 9, num_layers=2, bidirectional=True, dropout=0.25, dtype="float64")
    model = Sequential(lstm, Dropout(0.5), Linear(18, 3, dtype="float64"))
    data = numbers((13, 24, 4), "float64", 5), numbers((13, 24, 3), "float64", 6), lengths_of(24, 13)
    optimizer = functools.partial(SGD, lr=0.05, momentum=0.875, nesterov=True, weight_decay=0.001)
    return model, data, mse, optimizer, {"batch_size": 5}


def tokens_to_shares(dtype):
    """Tokens, functions of elements, softmax as the output, truncated back-propagation."""
    model = Sequential(
        Embedding(12, 7, dtype=dtype),
        LSTM(7, 16, dtype=dtype),
        Activation("gelu"),
        Linear(16, 16, dtype=dtype),
        Activation("softplus"),
        Activation("silu"),
        Activation("selu"),
        Linear(16, 6, dtype=dtype),
        Activation("softmax"),
    )
    data = integers((20, 9), 12, 7), abs(numbers((20, 9, 6), dtype, 8))
    return model, data, mse, lambda model: Adam(model, 0.01, weight_decay=0.01), {"batch_size": 4, "bptt": 6}


def last_step():
    """One class for each row, weights of the classes, decoupled weight decay, a falling rate."""
    model = Sequential(
        LSTM(2, 12, bidirectional=True, layer_norm=True), Readout(bidirectional=True, merge_mode="mul"), Linear(12, 33)
    )
    data = numbers((9, 40, 2), "float32", 9, 3.0), integers((40,), 33, 10), lengths_of(40, 9)
    loss = functools.partial(cross_entropy, weight=np.arange(33) / 8)
    optimizer = functools.partial(AdamW, lr=0.03, weight_decay=0.125)
    return model, data, loss, optimizer, {"batch_size": 16, "schedule": lstm_cy.schedules.CosineWithWarmup(9, warmup=2)}


def unaligned_labels():
    """CTC, and a model that computes log-probabilities itself."""
    model = Sequential(LSTM(5, 24), Linear(24, 8), Activation("logsoftmax"))
    targets = integers((12, 4), 7, 12) + 1
    targets[::3, 2:] = 0
    data = numbers((16, 12, 5), "float32", 11, 2.0), targets, 16 - np.arange(12) % 5
    return model, data, ctc, lambda model: Adam(model, 0.02), {"batch_size": 6, "clip_norm": 1.0}


def translation(score, dtype):
    """An encoder and a decoder with attention."""
    model = Seq2Seq(9, embedding_dim=5, hidden_size=14, score=score, dtype=dtype)
    words = [integers((3 + row % 5,), 7, 13 + row) + 2 for row in range(20)]
    pairs = [word.tolist() for word in words], [word[::-1].tolist() for word in words]
    data = teach(*pairs, start=0, end=1)
    return model, data, cross_entropy, lambda model: Adam(model, 0.02), {"batch_size": 8, "clip_norm": 2.0}


CASES = {
    "classes per step": classes_per_step,
    "numbers per step": numbers_per_step,
    "tokens to shares, float32": functools.partial(tokens_to_shares, "float32"),
    "tokens to shares, float64": functools.partial(tokens_to_shares, "float64"),
    "last step": last_step,
    "unaligned labels": unaligned_labels,
    "translation, general": functools.partial(translation, "general", "float32"),
    "translation, additive": functools.partial(translation, "additive", "float64"),
}


def results(case):
    """Return hashes of everything that a training leaves: {what: hash}."""
    model, data, loss, optimizer_of, options = case()
    shapes = {name: array.shape for name, array in model.parameters.items()}
    model.load_state_dict(
        {name: numbers(shape, "float64", 200 + seed, 0.5) for seed, (name, shape) in enumerate(shapes.items())}
    )
    optimizer = optimizer_of(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "training.npz"
        arguments = {"loss": loss, "optimizer": optimizer, "epochs": EPOCHS, "checkpoint": path, "progress": False}
        history = fit(model, data, **arguments, **options)
        with np.load(path) as archive:
            # all but how long the epochs took
            saved = {name: archive[name] for name in archive.files if name != "history.seconds"}
    return {
        "parameters": digest(model.parameters.values()),
        "optimizer": digest(optimizer.state_dict().values()),
        "history": digest([np.array(history.loss + history.validation)]),
        "checkpoint": digest([np.frombuffer(" ".join(saved).encode(), np.uint8), *saved.values()]),
    }


def main():
    with config.using(engine="packed"):
        frozen = {name: results(case) for name, case in CASES.items()}
    PATH.write_text(json.dumps(frozen, indent=0) + "\n")
    print(f"{len(frozen)} trainings in {PATH}, by {config.instruction_set()}")


if __name__ == "__main__":
    main()
