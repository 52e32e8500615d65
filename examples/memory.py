"""Measure how long an LSTM and a plain recurrent network of the same size remember, on three classic tasks.

    python -m examples.memory --plot memory.png                       everything, docs/memory.md
    python -m examples.memory --tasks adding --spans 400 --models rnn lstm-chrono-closed

Each run trains one model on one task until it is solved or the steps are used up; every step draws new sequences. The
results are written to a JSON file after each run: after Ctrl-C the same command continues from there, and once
everything is measured it only prints the tables. The picture needs matplotlib.
"""

import argparse
import json
import os
import statistics
import sys
import time
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_cy import LSTM, Adam, Linear, Readout, Sequential, cross_entropy, fit, mse, set_num_threads
from lstm_cy.losses import IGNORE_INDEX

LETTERS = 8  # size of the alphabet in copying and recall
COPIED = 3  # letters to copy
HELD_OUT = 512  # sequences for the score
EPOCH = 50  # steps from one score to the next
POINTS = 60  # distances at which the gradient is measured
RECIPE = {"hidden": 32, "batch": 32, "clip_norm": 1.0}


# The tasks: each draws (x (T, B, I), target), from a span, B and a random generator.


def adding(span, B, rng):
    """Draw the adding task: the sum of two marked numbers of `span`, one in each half.

    Hochreiter and Schmidhuber, Long short-term memory, 1997. The constant prediction 1, the mean, has the error 1/6,
    the variance.
    """
    rows, half = np.arange(B), span // 2
    places = np.stack([rng.integers(0, half, B), rng.integers(half, span, B)])
    x = np.stack([rng.random((span, B)), np.zeros((span, B))], axis=-1)
    x[places, rows, 1] = 1
    return x.astype(np.float32), x[places, rows, 0].sum(axis=0)[:, np.newaxis].astype(np.float32)


def copying(span, B, rng):
    """Draw the copying task: a few letters, `span` blanks, then a question mark for each letter, to be repeated."""
    letters = rng.integers(0, LETTERS, (COPIED, B))
    blanks, questions = np.full((span, B), LETTERS), np.full((COPIED, B), LETTERS + 1)
    ignored = np.full((COPIED + span, B), IGNORE_INDEX)
    return one_hot([letters, blanks, questions], LETTERS + 2), np.concatenate([ignored, letters])


def recall(span, B, rng):
    """Draw the recall task: one letter, then `span` steps of noise from another alphabet; the target is the letter."""
    letter, noise = rng.integers(0, LETTERS, (1, B)), rng.integers(LETTERS, 2 * LETTERS, (span, B))
    return one_hot([letter, noise], 2 * LETTERS), letter[0]


def one_hot(parts, size):
    return np.eye(size, dtype=np.float32)[np.concatenate(parts)]


class Task(NamedTuple):
    """A task, and its score of a model."""

    draw: object
    inputs: int
    outputs: int
    every_step: bool  # whether each step has a target, not only the last
    loss: object
    measure: str
    baseline: float  # the score without memory
    solved: float

    def score(self, model, x, target):
        """Return the mean squared error, or the share of right answers."""
        prediction, _ = model(x)
        if self.loss is mse:
            return mse(prediction, target)[0]
        counted = target != IGNORE_INDEX
        return float((prediction.argmax(axis=-1) == target)[counted].mean())

    def is_solved(self, score):
        return score < self.solved if self.loss is mse else score >= self.solved


TASKS = {
    "adding": Task(adding, 2, 1, False, mse, "mean squared error", 1 / 6, 0.01),
    "copying": Task(copying, LETTERS + 2, LETTERS, True, cross_entropy, "share of letters right", 1 / LETTERS, 0.99),
    "recall": Task(recall, 2 * LETTERS, LETTERS, False, cross_entropy, "share of letters right", 1 / LETTERS, 0.99),
}


# The models: each makes a layer from the inputs, H, the span and a seed.


def tanh_rnn(input_size, hidden_size, *, orthogonal=False, dtype="float32", seed=None):
    """Return a plain recurrent network, h = tanh(W x + U h + b), as an LSTM with constant gates.

    The gates are i = o = 1 and f = 0, and the candidate activation is the identity. The hard sigmoid is flat at these
    values, so no gradient reaches the gates and training does not change them. W, U and b are drawn as in PyTorch's
    RNN; with `orthogonal` U is a random orthogonal matrix, which keeps gradients longest as long as tanh is nearly
    linear (Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks, 2014).
    """
    rng = np.random.default_rng(seed)
    H = hidden_size
    layer = LSTM(input_size, H, activations=("hardsigmoid", "affine", "tanh"), forget_bias=0.0, dtype=dtype, seed=rng)
    parameters = layer.state_dict()
    for name, array in parameters.items():
        for gate, bias in ((0, 10.0), (1, -10.0), (3, 10.0)):
            array[gate * H : (gate + 1) * H] = bias if name == "bias_ih_l0" else 0
    if orthogonal:
        Q, R = np.linalg.qr(rng.standard_normal((H, H)))
        parameters["weight_hh_l0"][2 * H : 3 * H] = Q * np.sign(np.diag(R))
    layer.load_state_dict(parameters)
    return layer


def closed(layer):
    """Subtract the forget gates' bias from the input gates' bias, and return the layer.

    A cell that forgets slowly must also be written rarely, or it grows. This is the other half of the chrono
    initialisation (Tallec and Ollivier, 2018).
    """
    H = layer.hidden_size
    parameters = layer.state_dict()
    bias = parameters["bias_ih_l0"]
    bias[:H] -= bias[H : 2 * H]
    layer.load_state_dict(parameters)
    return layer


class Model(NamedTuple):
    """The constructor of a layer, and its learning rate."""

    title: str
    make: object
    lr: float = 0.01


MODELS = {
    "rnn": Model("plain RNN", lambda I, H, span, seed: tanh_rnn(I, H, seed=seed), 0.003),
    "rnn-orthogonal": Model(
        "plain RNN, orthogonal weights", lambda I, H, span, seed: tanh_rnn(I, H, orthogonal=True, seed=seed), 0.003
    ),
    "lstm-0": Model("LSTM, forget gates half open", lambda I, H, span, seed: LSTM(I, H, forget_bias=0.0, seed=seed)),
    "lstm-1": Model(
        "LSTM, forget gates 73 % open (default)", lambda I, H, span, seed: LSTM(I, H, forget_bias=1.0, seed=seed)
    ),
    "lstm-chrono": Model(
        "LSTM, forget gates open", lambda I, H, span, seed: LSTM(I, H, forget_bias=("chrono", span), seed=seed)
    ),
    "lstm-chrono-closed": Model(
        "LSTM, forget gates open, input gates closed",
        lambda I, H, span, seed: closed(LSTM(I, H, forget_bias=("chrono", span), seed=seed)),
    ),
}


def build(task, model, span, seed, hidden=RECIPE["hidden"]):
    """Return the model for a task: the layer, a Readout if only the last step has a target, and a Linear."""
    layers = model.make(task.inputs, hidden, span, seed), Linear(hidden, task.outputs, seed=seed)
    return Sequential(layers[0], *([] if task.every_step else [Readout()]), layers[1])


# Measurements.


def gradient_by_distance(model, x, target, loss):
    """Measure how much of the gradient of the last step's loss remains at each distance before that step.

    The sequence is run in chunks that pass on the state. Backward, each chunk passes the gradient of its initial state
    to the chunk before; the norms of these gradients (h and c together, all rows) are divided by that of the last h.

    Parameters
    ----------
    model : Sequential
        An LSTM first and a Linear last.
    x : ndarray (T, B, I)
    target : ndarray (B, ...)
        For the last step.
    loss : callable

    Returns
    -------
    distances, shares : list
        From 0 to T, at most POINTS + 1 of them, computed in float64 to resolve tiny shares.
    """
    lstm, linear = (in_float64(layer) for layer in (model.layers[0], model.layers[-1]))
    borders = np.unique(np.linspace(0, len(x), POINTS + 1).astype(int))
    state, tapes = None, []
    for first, last in pairwise(borders):
        _, state, tape = lstm.forward(x[first:last], state)
        tapes.append(tape)
    prediction, tape = linear.forward(state[0][-1])
    dh = linear.backward(tape, loss(prediction, target)[1]).x[np.newaxis]
    dstate, norms = (dh, np.zeros_like(dh)), [np.linalg.norm(dh)]
    for tape in reversed(tapes):
        dstate = lstm.backward(tape, dstate=dstate).state
        norms.append(np.linalg.norm(dstate))
    return (len(x) - borders[::-1]).tolist(), [float(f"{norm / norms[0]:.4g}") for norm in norms]


def in_float64(layer):
    """Return a copy of a layer that computes in float64."""
    copy = type(layer)(**{**layer.config, "dtype": "float64"})
    copy.load_state_dict(layer.parameters)
    return copy


def run(task, model, span, seed, steps, show=lambda step, score: None):
    """Train one model on one task; return its entry of the results."""
    x, target = task.draw(span, HELD_OUT, np.random.default_rng([seed, span]))
    lstm = build(task, model, span, seed)
    gradient = partial(gradient_by_distance, lstm, x[:, :64], target[-1, :64] if task.every_step else target[:64])
    distances, before = gradient(task.loss)
    scores = []

    def batches(epoch):
        rng = np.random.default_rng([seed, span, 1 + epoch])
        return (task.draw(span, RECIPE["batch"], rng) for _ in range(EPOCH))

    def stop_if_solved(history):
        scores.append(task.score(lstm, x, target))
        show(EPOCH * len(scores), scores[-1])
        return task.is_solved(scores[-1])

    began = time.perf_counter()
    fit(
        lstm,
        batches,
        loss=task.loss,
        optimizer=Adam(lstm, lr=model.lr),
        epochs=max(1, steps // EPOCH),
        clip_norm=RECIPE["clip_norm"],
        callbacks=[stop_if_solved],
        progress=False,
    )
    return {
        "solved": bool(task.is_solved(scores[-1])),
        "steps": EPOCH * len(scores),
        "seconds": round(time.perf_counter() - began, 1),
        "scores": [round(score, 4) for score in scores],
        "distances": distances,
        "gradient before": before,
        "gradient after": gradient(task.loss)[1],
    }


# The results: a file that can be continued, tables, and a picture.


class Results:
    """{(task, span, model, seed): what `run` returned}, in a JSON file."""

    def __init__(self, path, settings):
        self.path, self.settings, self.runs = Path(path), settings, {}
        if self.path.exists():
            try:
                found = json.loads(self.path.read_text())
                self.runs, before = dict(found["runs"]), found["settings"]
            except (ValueError, KeyError, TypeError) as error:
                raise SystemExit(f"{path}: not results of this example ({error}); choose another --results") from None
            if before != settings:
                raise SystemExit(f"{path}: measured with {before}, not {settings}; choose another --results")

    def get(self, *key):
        return self.runs.get("/".join(map(str, key)))

    def add(self, result, *key):
        """Add a result; the file is replaced atomically, so that it is complete at any time."""
        self.runs["/".join(map(str, key))] = result
        new = self.path.with_name(self.path.name + ".new")
        new.write_text(json.dumps({"settings": self.settings, "runs": self.runs}))
        os.replace(new, self.path)

    def of_seeds(self, task, span, model, seeds):
        """Return the existing results of the first `seeds` seeds."""
        return [result for seed in range(seeds) if (result := self.get(task, span, model, seed))]

    def is_hopeless(self, task, span, model, options):
        """Return whether a shorter span was tried with all seeds, and solved with none."""
        shorter = (self.of_seeds(task, other, model, options.seeds) for other in options.spans if other < span)
        return any(len(runs) == options.seeds and not any(run["solved"] for run in runs) for runs in shorter)


def tables(results, options):
    """Return the results in Markdown: scores by span, and the gradient by distance."""
    lines = []
    for name in options.tasks:
        task = TASKS[name]
        lines += ["", f"**{name}**: {task.measure} (without memory: {task.baseline:.3f}), steps until solved", ""]
        lines += header("", options.spans)
        for model in options.models:
            cells = [score_cell(results.of_seeds(name, span, model, options.seeds)) for span in options.spans]
            lines.append(row(MODELS[model].title, cells))
    name, span = shown_gradient(options)
    lines += ["", f"**gradient** of the last step's loss, share left so many steps before ({name}, span {span})", ""]
    marks = [mark for mark in (10, 50, 100, 200, 400, 1000) if mark <= span]
    lines += header("", marks)
    for model, when in product(options.models, ("before", "after")):
        curves = results.of_seeds(name, span, model, options.seeds)
        cells = [gradient_cell(curves, f"gradient {when}", mark) for mark in marks]
        lines.append(row(f"{MODELS[model].title}, {when} training", cells))
    return "\n".join(lines[1:])


def header(first, columns):
    return [row(first, columns), "|---|" + "--:|" * len(columns)]


def row(first, cells):
    return f"| {first} | " + " | ".join(map(str, cells)) + " |"


def score_cell(runs):
    """Return the median score, and the steps until it was solved if more than half of the seeds solved it."""
    if not runs:
        return ""
    text = f"{statistics.median(run['scores'][-1] for run in runs):.3f}"
    if 2 * sum(run["solved"] for run in runs) > len(runs):
        text = f"**{text}** ({statistics.median_low(run['steps'] for run in runs)})"
    return text


def gradient_cell(runs, which, distance):
    return f"{statistics.median(np.interp(distance, run['distances'], run[which]) for run in runs):.0e}" if runs else ""


def shown_gradient(options):
    """Return the task and span whose gradients are shown: adding, and the span next to 400."""
    return ("adding" if "adding" in options.tasks else options.tasks[0]), min(options.spans, key=lambda s: abs(s - 400))


def plot(results, options):
    """Return the tables as a matplotlib Figure."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("--plot needs Matplotlib: pip install matplotlib") from None
    colours = dict(zip(MODELS, ("#b8b8b8", "#6e6e6e", "#f2b447", "#e07b39", "#5aa9d6", "#1f4e8c"), strict=True))
    columns = max(2, len(options.tasks))
    figure = Figure(figsize=(4.2 * columns, 7.6), layout="constrained")
    grid = figure.add_gridspec(2, 2 * columns)
    for place, name in enumerate(options.tasks):
        task = TASKS[name]
        axes = figure.add_subplot(grid[0, 2 * place : 2 * place + 2])
        axes.set(title=name, xlabel="span (steps)", ylabel=task.measure, xscale="log")
        axes.axhline(task.baseline, color="#888888", linestyle=":", linewidth=1)
        for model in options.models:
            found = {span: results.of_seeds(name, span, model, options.seeds) for span in options.spans}
            scores = {span: [run["scores"][-1] for run in runs] for span, runs in found.items() if runs}
            spans, colour = list(scores), colours[model]
            low, middle, high = (list(map(of, scores.values())) for of in (min, statistics.median, max))
            axes.fill_between(spans, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(spans, middle, "o-", color=colour, label=MODELS[model].title, markersize=4)
        axes.set_ylim(0, 0.22 if task.loss is mse else 1.05)
        axes.set_xticks(options.spans, options.spans)
        axes.minorticks_off()
    name, span = shown_gradient(options)
    for place, (when, word) in enumerate({"before": "before training", "after": "after it"}.items()):
        axes = figure.add_subplot(grid[1, columns * place : columns * (place + 1)])
        axes.set(title=f"{name}, span {span}, {word}", xlabel="steps before the last", yscale="log")
        axes.set_ylabel("share of the gradient left")
        for model in options.models:
            for run in results.of_seeds(name, span, model, options.seeds):
                axes.plot(run["distances"], np.maximum(run[f"gradient {when}"], 1e-30), color=colours[model])
        axes.set_ylim(1e-12, 1e2)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--spans", nargs="+", type=int, default=[20, 50, 100, 200, 400, 1000])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--every-span", action="store_true", help="also try spans longer than one that no seed of a model solved"
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds; the median is shown")
    parser.add_argument("--steps", type=int, default=3000, help="most optimizer steps of a run")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", default="memory.json", help="written after each run; continued if it exists")
    parser.add_argument("--plot", metavar="PNG")
    options = parser.parse_args(arguments)
    if min(options.spans) < 2 or min(options.seeds, options.steps, options.threads) < 1:
        parser.error("expected spans of at least 2, and at least one seed, step and thread")
    for path in filter(None, (options.results, options.plot)):
        if not Path(path).absolute().parent.is_dir():
            parser.error(f"{path}: there is no such folder")
    options.spans = sorted(set(options.spans))
    return options


def main(arguments=None):
    options = parsed(arguments)
    set_num_threads(options.threads)
    rates = {name: model.lr for name, model in MODELS.items()}
    results = Results(options.results, {**RECIPE, "lr": rates, "steps": options.steps})
    keys = list(product(options.tasks, options.spans, options.models, range(options.seeds)))
    try:
        for number, key in enumerate(keys):
            if results.get(*key):
                continue
            task, span, model, seed = key
            if not options.every_span and results.is_hopeless(task, span, model, options):
                continue
            label = f"{number + 1}/{len(keys)} {task}, span {span}, {MODELS[model].title}, seed {seed}"

            def show(step, score, label=label):
                print(f"\r{label}: step {step}, {score:.3f}  ", end="", file=sys.stderr, flush=True)

            results.add(run(TASKS[task], MODELS[model], span, seed, options.steps, show), *key)
            print(file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command continues from {options.results}", file=sys.stderr)
    print(tables(results, options))
    if options.plot:
        plot(results, options).savefig(options.plot, dpi=110)
    return results


if __name__ == "__main__":
    main()
