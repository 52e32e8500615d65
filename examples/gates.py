"""Seeing what an LSTM remembers: the pictures of docs/gates.md, from models trained here and now.

    python -m examples.gates --output docs/images

First a riddle: a letter passes by among dots, and at the question mark the model must tell which it was. It needs the
whole reader: note the letter down, keep it while nothing happens, tell it when asked, drop it for the next one. Then a
model that reads Python's own sources, character by character: `--text-model` takes one of `lstm-cy train`, or trains it
there first. Needs matplotlib.
"""

import argparse
from pathlib import Path

import numpy as np

from lstm_cy import LSTM, Adam, Embedding, Linear, Sequential, cross_entropy, fit, load
from lstm_cy.cli import main as lstm_cy
from lstm_cy.losses import IGNORE_INDEX
from lstm_cy.text import Vocabulary, standard_library_text

LETTERS = "abcd"
VOCABULARY = Vocabulary(LETTERS + ".?")
RIDDLE = "..a.........?...c..?..b...................?..."
SOURCE = 'def greet(self, name):\n    """Say hello."""\n    print("hello, " + name)\n    return None\n'


def riddles(rng, longest, B=32):
    """(tokens, answers), (T, B), with up to `longest` dots before a question mark: at that the answer is the number of
    the letter, elsewhere 0."""
    T = 2 * longest
    lines, answers = [], np.zeros((T, B), int)
    for row in range(B):
        line = ""
        while len(line) < T:
            letter = rng.integers(len(LETTERS))
            line += "." * rng.integers(1, 5) + LETTERS[letter] + "." * rng.integers(1, longest + 1) + "?"
            if len(line) <= T:
                answers[len(line) - 1, row] = 1 + letter
        lines.append(VOCABULARY.encode(line[:T]))
    return np.stack(lines, axis=1), answers


def lessons(rng, longest):
    """An epoch of riddles. Of the steps where there is nothing to tell one in twenty counts: they are so many."""
    for _ in range(50):
        x, answers = riddles(rng, longest)
        passed_over = (answers == 0) & (rng.random(answers.shape) < 0.95)
        yield x, np.where(passed_over, IGNORE_INDEX, answers)


def train_on_riddles(epochs, longest):
    """A model that solves them, and the share of question marks that it answers rightly."""
    rng = np.random.default_rng(0)
    model = Sequential(
        Embedding(len(VOCABULARY), 6, seed=1),
        LSTM(6, 4, forget_bias=2.0, seed=2),
        Linear(4, 1 + len(LETTERS), seed=3),
    )
    fit(
        model,
        lambda epoch: lessons(rng, longest),
        loss=cross_entropy,
        optimizer=Adam(model, lr=0.03, weight_decay=1e-4),
        epochs=epochs,
        clip_norm=1.0,
    )
    x, answers = riddles(rng, longest, B=256)
    asked = answers > 0
    return model, (model(x)[0].argmax(axis=-1) == answers)[asked].mean()


def text_model(path):
    """The character model at `path`, trained there if it is not; and its vocabulary."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lstm_cy(["train", "--limit-characters=3000000", "--hidden=160", "--epochs=1", "--lr=0.01", f"--output={path}"])
    model = load(path)
    return model, Vocabulary.from_json(model.metadata["vocabulary"])


def draw(trace, path, tokens, **options):
    """Save a picture of a trace, and say what is in it."""
    trace.plot(tokens, **options).savefig(path, dpi=80)
    print(f"\n{path}\n{trace.report(tokens, units=3)}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("."), metavar="FOLDER", help="where the pictures go")
    parser.add_argument("--epochs", type=int, default=30, help="of training on riddles")
    parser.add_argument("--longest", type=int, default=24, help="most dots before a riddle's question mark")
    parser.add_argument("--text-model", type=Path, default=Path("build/gates-text.npz"), metavar="MODEL")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    model, right = train_on_riddles(options.epochs, options.longest)
    print(f"{100 * right:.1f} % of the question marks answered rightly")
    trace = model.trace(VOCABULARY.encode(RIDDLE))
    draw(
        trace,
        options.output / "gates-riddle.png",
        RIDDLE,
        units=range(4),
        title="A letter is kept until it is asked for",
    )
    model, vocabulary = text_model(options.text_model)
    draw(model.trace(vocabulary.encode(SOURCE)), options.output / "gates-source.png", SOURCE)
    long = standard_library_text(3000)
    draw(model.trace(vocabulary.encode(long)), options.output / "gates-long.png", long)
    return right


if __name__ == "__main__":
    main()
