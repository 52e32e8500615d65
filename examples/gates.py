"""Show what an LSTM remembers: train models and draw the pictures of docs/gates.md.

    python -m examples.gates --output docs/images

The first model solves riddles: a letter appears among dots, and at the question mark the model must name it. This needs
all gates: write the letter, keep it during the dots, output it at the question mark, erase it for the next one. A plain
recurrent network, h = tanh(W [x, h] + b) in NumPy, is trained on the same riddles, to compare how far the gradient of
an answer reaches. The last model reads Python's own sources, character by character: `--text-model` is a model of
`lstm-cy train`, which is trained first if the file does not exist. Needs matplotlib.
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
OUTPUTS = ["no answer", *LETTERS]
TITLES = {"en": "A letter is kept until it is asked for", "zh": "一个字母一直被记住，直到被问到"}
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


class PlainRnn:
    """A plain recurrent network in NumPy, h = tanh(W [x, h] + b), with logits V h + d; x are tokens."""

    def __init__(self, tokens, hidden, outputs, seed=0):
        rng, bound = np.random.default_rng(seed), hidden**-0.5
        shapes = {"W": (tokens, hidden), "U": (hidden, hidden), "b": (hidden,), "V": (hidden, outputs), "d": (outputs,)}
        self.parameters = {name: rng.uniform(-bound, bound, shape) for name, shape in shapes.items()}

    def forward(self, x):
        """Return the logits (T, B, outputs) of tokens (T, B), and h (T + 1, B, hidden), that of the beginning first."""
        p = self.parameters
        h = np.zeros((len(x) + 1, x.shape[1], len(p["U"])))
        for t, tokens in enumerate(x):
            h[t + 1] = np.tanh(p["W"][tokens] + h[t] @ p["U"] + p["b"])
        return h[1:] @ p["V"] + p["d"], h

    def backward(self, x, h, dlogits):
        """Return the gradients of the parameters, and those of h at each step, from that of the logits.

        At each step back the gradient is multiplied by U and by the slope of tanh, 1 - h * h; there is no cell that
        carries it.
        """
        p, dh = self.parameters, np.zeros_like(h)
        dh[1:] = dlogits @ p["V"].T
        found = {name: np.zeros_like(array) for name, array in p.items()}
        for t in reversed(range(len(x))):
            dz = dh[t + 1] * (1 - h[t + 1] ** 2)
            dh[t] += dz @ p["U"].T
            found["U"] += h[t].T @ dz
            found["b"] += dz.sum(axis=0)
            np.add.at(found["W"], x[t], dz)
        found["V"] = np.einsum("tbh,tbk->hk", h[1:], dlogits)
        found["d"] = dlogits.sum(axis=(0, 1))
        return found, dh[1:]


def train_plain_rnn(epochs, longest, hidden=8, lr=0.01):
    """Return a plain network trained by Adam on the same riddles, and its share of right answers."""
    rng = np.random.default_rng(0)
    model = PlainRnn(len(VOCABULARY), hidden, 1 + len(LETTERS))
    moments = {name: (np.zeros_like(array), np.zeros_like(array)) for name, array in model.parameters.items()}
    step = 0
    for _ in range(epochs):
        for x, answers in lessons(rng, longest):
            step += 1
            logits, h = model.forward(x)
            gradients, _ = model.backward(x, h, cross_entropy(logits, answers)[1])
            norm = np.sqrt(sum(np.square(array).sum() for array in gradients.values()))
            for name, (first, second) in moments.items():
                gradient = gradients[name] / max(norm, 1.0)
                first += 0.1 * (gradient - first)
                second += 0.001 * (gradient**2 - second)
                scaled = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
                model.parameters[name] = model.parameters[name] - lr * scaled
    x, answers = riddles(rng, longest, B=256)
    asked = answers > 0
    return model, (model.forward(x)[0].argmax(axis=-1) == answers)[asked].mean()


def plain_gradient(model, tokens, t, output):
    """Return the length of the gradient of an output at step t with respect to h at each step."""
    x = np.asarray(tokens)[:, np.newaxis]
    logits, h = model.forward(x)
    dlogits = np.zeros_like(logits)
    dlogits[t, 0, output] = 1
    return np.linalg.norm(model.backward(x, h, dlogits)[1][:, 0], axis=-1)


def answers_of(riddle):
    """Return the right output at each question mark of a riddle; at other steps nothing is asked."""
    found, letter = np.full(len(riddle), IGNORE_INDEX), 0
    for t, symbol in enumerate(riddle):
        letter = 1 + LETTERS.index(symbol) if symbol in LETTERS else letter
        found[t] = letter if symbol == "?" else IGNORE_INDEX
    return found


def draw_riddle(model, plain, folder, language="en", suffix=""):
    """Draw the riddle: gates and answers, what was written and kept, and how far the gradient of an answer reaches."""
    tokens, answers = VOCABULARY.encode(RIDDLE), answers_of(RIDDLE)
    trace = model.trace(tokens)
    options = {"units": range(4), "language": language}
    panels = ("cell", "forget", "input", "candidate", "output", "prediction")
    figure = trace.plot(RIDDLE, panels=panels, outputs=OUTPUTS, target=answers, title=TITLES[language], **options)
    figure.savefig(folder / f"gates-riddle{suffix}.png", dpi=80)
    figure = trace.plot_memories(RIDDLE, units=[0, 1], most=6, language=language)
    figure.savefig(folder / f"gates-memories{suffix}.png", dpi=80)
    last = len(RIDDLE) - 1 - RIDDLE[::-1].index("?")
    gradient = trace.gradient(of=(last, answers[last]))
    compare = {"plain RNN, hidden state": plain_gradient(plain, tokens, last, answers[last])}
    figure = gradient.plot(RIDDLE, compare=compare, **options)
    figure.savefig(folder / f"gates-gradient{suffix}.png", dpi=80)
    return trace, gradient.table(compare=compare)


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
    parser.add_argument("--riddle", action="store_true", help="draw only the pictures of the riddle")
    parser.add_argument("--text-model", type=Path, default=Path("build/gates-text.npz"), metavar="MODEL")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    model, right = train_on_riddles(options.epochs, options.longest)
    plain, plain_right = train_plain_rnn(options.epochs, options.longest)
    print(f"{100 * right:.1f} % of the question marks answered correctly, by a plain network {100 * plain_right:.1f} %")
    trace, table = draw_riddle(model, plain, options.output)
    draw_riddle(model, plain, options.output, "zh", ".zh")
    print(f"\n{options.output / 'gates-riddle.png'}\n{trace.report(RIDDLE, units=3)}\n\n{table}")
    if options.riddle:
        return right
    model, vocabulary = text_model(options.text_model)
    draw(model.trace(vocabulary.encode(SOURCE)), options.output / "gates-source.png", SOURCE)
    long = standard_library_text(3000)
    draw(model.trace(vocabulary.encode(long)), options.output / "gates-long.png", long)
    return right


if __name__ == "__main__":
    main()
