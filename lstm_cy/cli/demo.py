"""The command demo: train a small character model, show its texts, and compare its speed with NumPy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..bench import measured
from ..decoding.language_model import generate
from ..text.corpus import columns
from ..training.fitting import fit
from ..training.losses import cross_entropy
from ..training.optimizers import Adam
from ..weights import save
from .machine import say_threads
from .output import say
from .text import read_source
from .train import Corpus, falling, make_corpus, make_model, say_results, try_output

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from ..layers.sequential import Sequential
    from ..text.vocabulary import Bytes, Vocabulary, Words
    from ..training.history import History
    from ..typing import Array


class _Plan(NamedTuple):
    characters: int
    embedding: int
    hidden: int
    epochs: int  # parts of the text, each with a line of progress
    seconds: float  # most time for the training
    lr: float
    batch_size: int = 32
    bptt: int = 32  # short windows give more steps in the short time


_FULL = _Plan(characters=4_000_000, embedding=32, hidden=192, epochs=32, seconds=55, lr=1e-2)
_QUICK = _Plan(characters=600_000, embedding=24, hidden=96, epochs=10, seconds=8, lr=1.5e-2)


def demo(options: Namespace) -> None:
    """Run `lstm-cy demo`."""
    plan = _QUICK if options.quick else _FULL
    corpus = make_corpus(read_source(options.text, "characters", plan.characters), plan.batch_size, min_count=5)
    model = make_model(len(corpus.vocabulary), plan.embedding, plan.hidden)
    try_output(model, options.output, corpus.metadata)
    prompt = "" if options.text else "def "
    _show_sample("before training", model, corpus.vocabulary, prompt)
    history = _demo_training(model, corpus, plan)
    save(model, options.output, corpus.metadata)
    _show_sample("after training", model, corpus.vocabulary, prompt)
    say_results(history, corpus)
    say(f"saved to {options.output}; next: lstm-cy generate {options.output}")
    _compare(model.layers[1])


def _show_sample(title: str, model: Sequential, vocabulary: Vocabulary | Words | Bytes, prompt: str) -> None:
    text = "".join(generate(model, vocabulary, prompt, length=300, temperature=0.7, seed=1))
    say(f"\n--- {title}, the model writes:\n{prompt}{text}\n---\n")


def _demo_training(model: Sequential, corpus: Corpus, plan: _Plan) -> History:
    text, optimizer = columns(corpus.train, plan.batch_size), Adam(model, plan.lr)
    begin = time.monotonic()

    def time_used() -> float:
        return (time.monotonic() - begin) / plan.seconds

    def data(epoch: int) -> Iterator[tuple[Array, Array]]:
        for x, y in _pieces(*text, plan, epoch):
            optimizer.lr = falling(plan.lr, max(epoch / plan.epochs, time_used()))
            yield x, y
            if time_used() >= 1:
                return

    history = fit(
        model,
        data,
        loss=cross_entropy,
        optimizer=optimizer,
        epochs=plan.epochs,
        validation=columns(corpus.held_out, plan.batch_size),
        batch_size=plan.batch_size,
        bptt=plan.bptt,
        clip_norm=1.0,
        callbacks=[lambda history: time_used() >= 1],
    )
    if time_used() >= 1:
        say(f"time was up in part {len(history.loss)} of {plan.epochs}: this machine is slow, or busy")
    return history


def _pieces(x: Array, y: Array, plan: _Plan, epoch: int) -> Iterator[tuple[Array, Array]]:
    """Yield an epoch's part of the columns, in pieces of a few windows so that the time can be checked often."""
    part, piece = plan.characters // (plan.batch_size * plan.epochs), 8 * plan.bptt
    begin = epoch * part % max(1, len(x) - part + 1)  # a shorter text is read repeatedly
    end = min(begin + part, len(x))
    for first in range(begin, end, piece):
        yield x[first : min(first + piece, end)], y[first : min(first + piece, end)]


def _compare(lstm: Any) -> None:
    """Print a table that compares the forward pass of `lstm` with plain NumPy and the same weights."""
    say("\nforward pass, same weights        NumPy      lstm_cy      ratio  largest difference")
    for steps, rows in [(1, 1), (100, 1), (50, 32)]:
        x = np.random.default_rng(0).standard_normal((steps, rows, lstm.input_size), dtype=np.float32)
        title = f"{steps} step(s), {rows} row(s)"
        found = measured("forward", title, lstm, x, seconds=0.5)
        plain, ours = (1e6 * found.seconds[name] for name in ("NumPy", "lstm_cy"))
        say(f"{title:<24}{plain:12.0f} us{ours:10.0f} us{plain / ours:10.1f}x{found.difference:20.1e}")
    say_threads()
