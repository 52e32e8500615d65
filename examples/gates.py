"""Show what an LSTM remembers: train models and draw the pictures of docs/gates.md.

    python -m examples.gates --output docs/images

The first model solves riddles: a letter appears among dots, and at the question mark the model must name it. This needs
all gates: write the letter, keep it during the dots, output it at the question mark, erase it for the next one. The
second model reads Python's own sources, character by character: `--text-model` is a model of `lstm-cy train`, which is
trained first if the file does not exist. Needs matplotlib.
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
    """Return (tokens, answers), (T, B), with up to `longest` dots before a question mark.

    At a question mark the answer is the number of the letter, at other steps 0.
    """
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
    """Yield an epoch of riddles. Only one in twenty of the steps with answer 0 counts, because they are so many."""
    for _ in range(50):
        x, answers = riddles(rng, longest)
        ignored = (answers == 0) & (rng.random(answers.shape) < 0.95)
        yield x, np.where(ignored, IGNORE_INDEX, answers)


def train_on_riddles(epochs, longest):
    """Return a trained model, and the share of question marks that it answers correctly."""
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
    """Return the character model at `path` and its vocabulary; train it if the file does not exist."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lstm_cy(["train", "--limit-characters=3000000", "--hidden=160", "--epochs=1", "--lr=0.01", f"--output={path}"])
    model = load(path)
    return model, Vocabulary.from_json(model.metadata["vocabulary"])


def draw(trace, path, tokens, **options):
    """Save a picture of a trace, and print its report."""
    trace.plot(tokens, **options).savefig(path, dpi=80)
    print(f"\n{path}\n{trace.report(tokens, units=3)}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("."), metavar="FOLDER", help="folder of the pictures")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of training on riddles")
    parser.add_argument("--longest", type=int, default=24, help="largest number of dots before a question mark")
    parser.add_argument("--text-model", type=Path, default=Path("build/gates-text.npz"), metavar="MODEL")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    model, right = train_on_riddles(options.epochs, options.longest)
    print(f"{100 * right:.1f} % of the question marks answered correctly")
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
