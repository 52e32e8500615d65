"""Make the page in which a model reads, gates-page.html, and its Chinese version: a part of the site.

    python docs/gates_page.py --output build/gates-page        (docs/conf.py does the same for the site)

A model of 100 units learns short scenes that this file writes: a person has a thing of some colour, others talk,
somebody asks for the colour, and the owner answers. To answer, the model must keep the colour over several lines. Both
pages hold the same model; it is trained for about a minute on one core.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))  # for examples/

import lstm_cy
from examples.memory import MODELS, TASKS, closed, run
from lstm_cy import LSTM, Adam, Embedding, Linear, Sequential, cross_entropy, fit
from lstm_cy.losses import IGNORE_INDEX
from lstm_cy.text import Vocabulary
from lstm_cy.trace import Explanation, explain

STEPS = 800  # of the optimizer
PAGES = {"en": "gates-page.html", "zh": "gates-page.zh.html"}
UNITS, ROWS, LENGTH, EPOCH = 100, 20, 256, 10
READ = 20_000  # characters for `explain`
TRACED = 200  # characters of a checkpoint
CHECKPOINTS = 20

PEOPLE = ["Ann", "Ben", "Eva", "Kim", "Leo", "Mia", "Tom", "Zoe"]
COLOURS = ["blue", "green", "red", "white"]
THINGS = ["boat", "coat", "door", "hat", "key", "lamp", "map", "tent"]
PLACES = ["bridge", "garden", "market", "mill", "river", "tower"]
QUALITIES = ["big", "cold", "long", "new", "old", "quiet", "small", "warm"]
TEXT = """Mia has a green lamp. Yes, green.
Tom: "The river is cold. Ann is near the mill."
Zoe: "What colour is the lamp?"
    Mia: "green."

Ben has a blue key.
(The market is quiet. The old tower is near.)
Eva: "What colour is the key?"
    Ben: "blue."

Kim has a red tent.
The garden is warm. Leo is near the bridge.
Ann: "What colour is the tent?"
    Kim: "red."

Zoe has a white map. Yes, white.
Tom: "The mill is old."
Leo: "What colour is the map?"
    Zoe: "white."
"""
VOCABULARY = Vocabulary("".join(sorted({*"".join([*PEOPLE, *COLOURS, *THINGS, *PLACES, *QUALITIES]), *TEXT})))
#: a colour that was named before: its first letter can be known
RECALLED = re.compile(r"(?: \"|Yes, |Still )(" + "|".join(COLOURS) + ")")
#: the colours in answers
ANSWERED = re.compile(r"^    \w+: \"(" + "|".join(COLOURS) + ")", re.MULTILINE)


def scene(rng, most):
    """Return a scene with at most so many lines between the colour and the question.

    The same sentences stand alone, in quotes and in brackets: at a full stop the model must know which of these it is.
    """

    def one_of(words):
        return words[rng.integers(len(words))]

    def sentences():
        kinds = [
            lambda: f"The {one_of(PLACES)} is {one_of(QUALITIES)}.",
            lambda: f"{one_of(PEOPLE)} is near the {one_of(PLACES)}.",
            lambda: f"The {one_of(QUALITIES)} {one_of(PLACES)} is near.",
        ]
        return " ".join(one_of(kinds)() for _ in range(1 + (rng.random() < 0.6)))

    owner, other = (PEOPLE[index] for index in rng.permutation(len(PEOPLE))[:2])
    thing, colour = one_of(THINGS), one_of(COLOURS)
    between = [
        lambda: f'{one_of(PEOPLE)}: "{sentences()}"',
        lambda: f"({sentences()})",
        sentences,
        lambda: f"Still {colour}.",
    ]
    lines = [f"{owner} has a {colour} {thing}." + (f" Yes, {colour}." if rng.random() < 0.7 else "")]
    lines += [one_of(between)() for _ in range(rng.integers(0, most + 1))]
    lines += [f'{other}: "What colour is the {thing}?"', f'    {owner}: "{colour}."']
    return "\n".join(lines) + "\n\n"


def scenes(rng, length, most=2):
    """Return so many characters of scenes."""
    text = ""
    while len(text) < length:
        text += scene(rng, most)
    return text[:length]


def lessons(epoch, steps):
    """Yield an epoch of (tokens, next tokens).

    The scenes become longer in the first half of the training. Of the characters one in twenty counts, and more of
    those that can be known only from something long before: one in four of those after a full stop, and the first
    letter of each colour that was named before.
    """
    rng = np.random.default_rng([7, epoch])
    for _ in range(EPOCH):
        texts = [scenes(rng, LENGTH + 1, most=min(2, 4 * EPOCH * epoch // steps)) for _ in range(ROWS)]
        tokens = np.stack([VOCABULARY.encode(text) for text in texts], axis=1)
        ignored = rng.random((LENGTH, ROWS)) > 0.05
        for row, text in enumerate(texts):
            known = [found.start(1) for found in RECALLED.finditer(text)]
            known += [found.end() for found in re.finditer(r"\.", text[:LENGTH]) if rng.random() < 0.25]
            ignored[np.array(known) - 1, row] = False
        yield tokens[:-1], np.where(ignored, IGNORE_INDEX, tokens[1:])


def train(steps):
    """Return the trained model, and traces of the beginning of the text at some times of the training."""
    model = Sequential(
        Embedding(len(VOCABULARY), 16, seed=1),
        closed(LSTM(16, UNITS, forget_bias=("chrono", 100), seed=2)),
        Linear(UNITS, len(VOCABULARY), seed=3),
    )
    optimizer = Adam(model, lr=0.01)
    tokens = VOCABULARY.encode(TEXT[:TRACED])
    epochs = max(1, steps // EPOCH)
    stored = {
        round(epochs * (index / (CHECKPOINTS - 1)) ** 1.5) for index in range(CHECKPOINTS)
    }  # more of the beginning
    traces = {0: model.trace(tokens)}

    def after(history):
        epoch = len(history.loss)
        optimizer.lr = 0.01 * max(0.05, 1 - epoch / epochs)
        if epoch in stored:
            traces[EPOCH * epoch] = model.trace(tokens)

    fit(
        model,
        lambda epoch: lessons(epoch, steps),
        loss=cross_entropy,
        optimizer=optimizer,
        epochs=epochs,
        clip_norm=1.0,
        callbacks=[after],
        progress=False,
    )
    return model, traces


def right_answers(model):
    """Return the share of new questions whose answer begins with the right letter."""
    rng = np.random.default_rng(99)
    texts = [scenes(rng, 400) for _ in range(64)]
    best = model(np.stack([VOCABULARY.encode(text) for text in texts], axis=1))[0].argmax(axis=-1)
    places = [(found.start(1), row) for row, text in enumerate(texts) for found in ANSWERED.finditer(text)]
    return float(np.mean([VOCABULARY.decode([best[t - 1, row]]) == texts[row][t] for t, row in places]))


def colour_features(text):
    """Return features for `explain`: that the scene's colour is a certain one, from where it is named."""
    found = {f"the colour is {colour}": np.zeros(len(text), bool) for colour in COLOURS}
    for named in re.finditer(r"has a (\w+) .*?(?:\n\n|\Z)", text, re.DOTALL):
        if named[1] in COLOURS:
            found[f"the colour is {named[1]}"][named.end(1) : named.end()] = True
    return found


def compared(steps):
    """Return the span of a task, and for an LSTM and a plain RNN (share of right answers, gradient by distance).

    Both are trained to name the first letter of a sequence of noise, with the same number of steps at most.
    """
    span, found = (200 if steps == STEPS else 20), []
    for name in ("lstm-chrono-closed", "rnn"):
        result = run(TASKS["recall"], MODELS[name], span, 0, min(steps, 400))
        lengths = np.interp(np.arange(span + 1), result["distances"], result["gradient after"])
        found.append((percent(result["scores"][-1]), lengths))
    return span, found


def percent(share, digits=0):
    return f"{100 * share:.{digits}f} %"


def chosen_units(explanation, trace):
    """Return the unit that knows a colour best, this colour, and eight units to show: it, and others of interest."""
    areas = {colour: explanation.following(f"the colour is {colour}")[0] for colour in COLOURS}
    colour = max(COLOURS, key=lambda each: areas[each][2])
    features = [
        "bracket depth above 0",
        "inside quotes",
        "a line indented by 4 or more",
        "a line, after its 40th character",
    ]
    others = [explanation.following(feature)[0][0] for feature in features]
    salient = np.argsort(-trace.salience(), kind="stable").tolist()
    return areas[colour][0], colour, list(dict.fromkeys([areas[colour][0], *others, *salient]))[:8]


def notes_of(trace, explanation):
    """Return the numbers of the notes that come from the trace, and what each note shows."""
    unit, colour, _ = chosen_units(explanation, trace)
    cell, forget = trace.cell[:, unit], trace.forget[:, unit]
    scene = TEXT.index(f" {colour} ")
    named = scene + len(colour)
    asked = TEXT.index(f'"{colour}')  # the quotation mark before the answer
    after = [found.span(2) for found in re.finditer(r"(\"(?:" + "|".join(COLOURS) + r"))(\.\"\n+\w+ has a )", TEXT)]
    dropped = min(
        (t for span in after for t in range(*span)), key=lambda t: forget[t]
    )  # between answer and next colour
    answers = {answer[1]: cell[answer.start(1) - 2] for answer in ANSWERED.finditer(TEXT)}
    values = {
        "unit": unit,
        "word": colour,
        "auc": f"{explanation.units[unit].auc:.3f}",
        "asked": asked,
        "distance": asked - named,
        "kept": percent(trace.retention(named, asked)[unit]),
        "dropped": dropped,
        "forget": percent(forget[dropped], 1),
        "cells": ", ".join(f"{answer} {value:.2f}" for answer, value in answers.items()).replace("-", "−"),
        "letter": colour[0],
        "probability": percent(trace.predictions().probability[asked, VOCABULARY.encode(colour[0])[0]], 1),
    }
    places = [
        {},
        {},
        {"unit": unit, "step": asked, "colour": "cell"},
        {"unit": unit, "step": dropped, "colour": "forget"},
        {"unit": unit, "step": asked, "colour": "contribution"},
        {"unit": unit, "step": asked, "colour": "gradient"},
        {"view": "explanation"},
        {"view": "experiment", "unit": unit, "step": TEXT.rindex("\n", 0, asked)},
        {"view": "training"},
        {"view": "comparison"},
    ]
    return values, places


def renamed(explanation, names):
    """Return an explanation with other names of features."""
    units = [one._replace(feature=names.get(one.feature, one.feature)) for one in explanation.units]
    numbers = explanation.loss, explanation.tokens, explanation.loss_tokens
    return Explanation(units, explanation.features, explanation.auc, explanation.frequency, *numbers)


def make(folder, steps=STEPS):
    """Train the model, and write a page in each language."""
    model, checkpoints = train(steps)
    text = scenes(np.random.default_rng(3), READ if steps == STEPS else 2000)
    explanation = explain(model, text, vocabulary=VOCABULARY, features=colour_features(text))
    trace = model.trace(VOCABULARY.encode(TEXT))
    span, pair = compared(steps)
    values, places = notes_of(trace, explanation)
    values |= {"characters": f"{ROWS * LENGTH * steps:,}", "right": percent(right_answers(model)), "span": span}
    texts = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    for language, words in texts.items():
        names = {f"the colour is {colour}": words["feature"].format(colour=colour) for colour in COLOURS}
        feature = explanation.units[values["unit"]].feature
        said = values | {"feature": names.get(feature, feature)}
        trace.to_html(
            Path(folder) / PAGES[language],
            [VOCABULARY.decode([token]) for token in range(len(VOCABULARY))],
            title=words["title"],
            language=language,
            units=chosen_units(explanation, trace)[2],
            explanation=renamed(explanation, names),
            checkpoints={words["checkpoint"].format(step=step): each for step, each in checkpoints.items()},
            compare={
                words[name].format(right=right): lengths
                for name, (right, lengths) in zip(("lstm", "rnn"), pair, strict=True)
            },
            notes=[
                {"title": title, "text": text.format(**said), **place}
                for (title, text), place in zip(words["notes"], places, strict=True)
            ],
        )


def is_current(folder):
    """Return whether the folder has pages that are newer than what they are made from."""
    pages = [Path(folder) / name for name in PAGES.values()]
    package = Path(lstm_cy.__file__).parent
    sources = [
        Path(__file__),
        Path(__file__).with_suffix(".json"),
        *package.glob("export/page/*"),
        *package.glob("trace/*"),
    ]
    newest = max(source.stat().st_mtime for source in sources)
    return all(page.exists() and page.stat().st_mtime > newest for page in pages)


def build(app, exception):
    """Make the pages for the site, at the end of a build."""
    if exception is None and app.builder.name == "html" and not is_current(app.outdir):
        make(app.outdir, app.config.gates_page_steps)


def setup(app):
    """Add the pages to a site: this file is an extension of Sphinx."""
    app.add_config_value("gates_page_steps", STEPS, "", [int])
    app.connect("build-finished", build)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("."), metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the optimizer")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    make(options.output, options.steps)
