"""The command train; and the text, the model and the results of a training, which demo has too."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..layers.dropout import Dropout
from ..layers.embedding import Embedding
from ..layers.linear import Linear
from ..layers.lstm import LSTM
from ..layers.sequential import Sequential
from ..text.corpus import columns, unigram_entropy
from ..text.vocabulary import LEVELS, Bytes
from ..training.checkpoint import read_history
from ..training.fitting import fit
from ..training.losses import cross_entropy
from ..training.optimizers import Adam
from ..weights import save
from .machine import use_threads
from .output import say, say_unknown
from .text import read_source

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator

    from ..text.vocabulary import Vocabulary, Words
    from ..training.history import History
    from ..training.optimizers import Optimizer
    from ..typing import Array

_MOST_HELD_OUT = 100_000  # characters: enough for two reliable decimals of the loss


class Corpus(NamedTuple):
    """The tokens of a text, its vocabulary, and what a model file records of both."""

    vocabulary: Vocabulary | Words | Bytes
    train: np.ndarray
    held_out: np.ndarray
    held_out_text: str | bytes
    metadata: dict[str, Any]


def make_corpus(
    text: str | bytes, batch_size: int, min_count: int, level: str = "characters", size: int | None = None
) -> Corpus:
    """Return the text as tokens; the last twentieth is held out, and the vocabulary is made from the rest."""
    unit = "bytes" if level == "bytes" else "characters"
    cut = len(text) - max(min(len(text) // 20, _MOST_HELD_OUT), batch_size + 1)
    if cut <= batch_size:
        raise ValueError(f"the text: {len(text)} {unit} are too few for batches of {batch_size}")
    kind: Any = LEVELS[level]
    limit = {} if size is None else {"size": size}
    vocabulary: Any = Bytes() if kind is Bytes else kind.from_text(text[:cut], min_count, **limit)
    say(f"{len(text)} {unit} of text, {len(text) - cut} of them held out; {len(vocabulary)} tokens")
    metadata = {"vocabulary": vocabulary.to_json(), "held_out": [cut, len(text)]}
    return Corpus(vocabulary, vocabulary.encode(text[:cut]), vocabulary.encode(text[cut:]), text[cut:], metadata)


def make_model(
    tokens: int, embedding: int, hidden: int, *, layers: int = 1, dropout: float = 0.0, seed: int = 0
) -> Sequential:
    """Return a new language model, and print its size."""
    model = Sequential(
        Embedding(tokens, embedding, seed=seed),
        LSTM(embedding, hidden, layers, dropout=dropout if layers > 1 else 0.0, seed=seed + 1),
        *([Dropout(dropout)] if dropout else []),
        Linear(hidden, tokens, seed=seed + 2),
    )
    weights = sum(array.size for array in model.parameters.values())
    say(f"model of {weights} weights: embedding {embedding}, {layers} LSTM layer(s) of {hidden}")
    return model


def try_output(model: Sequential, path: str, metadata: dict[str, Any]) -> None:
    """Save the model to a temporary file, so that errors are raised before the training and not after it."""
    target = Path(path)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".lstm_cy-") as folder:
        save(model, Path(folder, target.name), metadata)


def say_results(history: History, corpus: Corpus) -> None:
    """Print the loss of the held-out text, compared with a model that ignores the context."""
    loss, unigram, unit = history.validation[-1], unigram_entropy(corpus.held_out), corpus.vocabulary.unit
    say(f"held-out loss    {loss:.3f} nats a {unit} ({loss / math.log(2):.3f} bits)")
    say(f"unigram entropy  {unigram:.3f} nats a {unit} ({unigram / math.log(2):.3f} bits)")
    if loss >= unigram:
        say(
            f"WARNING: the model predicts the held-out text no better than the frequencies of its {unit}s do; "
            "train it for more epochs, on more text, or with more units"
        )
    say_unknown(corpus.vocabulary, corpus.held_out, corpus.held_out_text)


def train(options: Namespace) -> None:
    """Run `lstm-cy train`."""
    use_threads(options)
    text = read_source(options.text, options.level, options.limit_characters)
    corpus = make_corpus(text, options.batch_size, options.min_count, options.level, options.vocabulary)
    model = make_model(
        len(corpus.vocabulary),
        options.embedding,
        options.hidden,
        layers=options.layers,
        dropout=options.dropout,
        seed=options.seed,
    )
    try_output(model, options.output, corpus.metadata)
    optimizer = Adam(model, options.lr)
    data: Any = columns(corpus.train, options.batch_size)
    epochs = options.epochs
    if options.minutes:
        data, epochs = _timed(data[0], data[1], optimizer, options), math.ceil(options.minutes)
    history = fit(
        model,
        data,
        loss=cross_entropy,
        optimizer=optimizer,
        epochs=epochs,
        batch_size=options.batch_size,
        validation=columns(corpus.held_out, options.batch_size),
        bptt=options.bptt,
        clip_norm=options.clip_norm,
        checkpoint=options.checkpoint,
        resume=options.resume,
        seed=options.seed,
    )
    save(model, options.output, corpus.metadata)
    say_results(history, corpus)
    say(f"saved to {options.output}; next: lstm-cy generate {options.output}")


_WINDOWS = 8  # consecutive windows with one learning rate and a carried state


def _timed(
    x: Array, y: Array, optimizer: Optimizer, options: Namespace
) -> Callable[[int], Iterator[tuple[Array, Array]]]:
    """Return fit's data for a training of `options.minutes`, including validation, with epochs of one minute.

    The columns x and y are read repeatedly, from the position given by the optimizer's number of steps. Time and steps
    of a resumed checkpoint count, so that the learning rate continues where it was.
    """
    seconds, epochs, piece = 60 * options.minutes, math.ceil(options.minutes), _WINDOWS * options.bptt
    begin = None

    def data(epoch: int) -> Iterator[tuple[Array, Array]]:
        nonlocal begin
        if begin is None:  # fit has read the checkpoint by now
            used = sum(read_history(options.checkpoint).seconds) if epoch else 0.0
            begin = time.monotonic() - used
        elapsed = time.monotonic() - begin
        while True:
            optimizer.lr = falling(options.lr, elapsed / seconds)
            first = optimizer.steps * options.bptt % len(x)
            yield x[first : first + piece], y[first : first + piece]
            elapsed = time.monotonic() - begin
            if elapsed >= seconds * (epoch + 1) / epochs:
                return

    return data


def falling(rate: float, done: float) -> float:
    """Return the learning rate after the share `done` of a training: it falls to zero along half a cosine."""
    return rate * (1 + math.cos(math.pi * min(1.0, done))) / 2
