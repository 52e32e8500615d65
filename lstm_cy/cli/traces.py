"""The commands that look inside a trained language model: trace and explain."""

from __future__ import annotations

import json
import os
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ..text.vocabulary import Bytes
from ..trace.explaining import explain as explained
from ..training.losses import cross_entropy
from .machine import use_threads
from .output import say, say_unknown
from .text import load_text_model, read_source

if TYPE_CHECKING:
    from argparse import Namespace

    from ..trace.gates import GateTrace
    from ..typing import Bools


def trace(options: Namespace) -> None:
    """Run `lstm-cy trace`."""
    model, vocabulary = load_text_model(options.model)
    if not options.text:
        raise ValueError(f"--text: expected at least one {vocabulary.unit}, got none")
    if options.explain and not options.html:
        raise ValueError("--explain: expected --html, whose page shows what each unit follows")
    tokens, symbols = vocabulary.encode(options.text), symbols_of(vocabulary, options.text)
    gates = model.trace(tokens, layer=options.layer, direction=options.direction)
    chosen = {"units": options.units, "steps": options.steps, "language": options.language}
    if options.png:
        more: dict[str, Any] = {"panels": options.panels} if options.panels else {}
        if "prediction" in (options.panels or ()):
            more |= {"outputs": output_names(vocabulary), "target": np.append(tokens[1:], -100)}
        _save(lambda: gates.plot(symbols, **chosen, **more), options.png)
    if options.memories:
        _save(lambda: gates.plot_memories(symbols, **chosen), options.memories)
    if options.gradient:
        gradient = _gradient(gates, tokens, options.at)
        _save(lambda: gradient.plot(symbols, **chosen), options.gradient)
        say(gradient.table())
    if options.html:
        shown = {"language": options.language, "units": options.units}
        if options.explain:
            text = read_source(options.explain, "bytes" if isinstance(vocabulary, Bytes) else "characters")
            shown["explanation"] = explained(model, text, vocabulary=vocabulary, layer=options.layer)
        gates.to_html(options.html, output_names(vocabulary), symbols, **shown)
        say(f"a page in {options.html}")
    if options.npz:
        gates.to_npz(options.npz)
        say(f"arrays in {options.npz}")
    if options.report or not (options.png or options.html or options.npz or options.memories or options.gradient):
        say_unknown(vocabulary, tokens, options.text)
        say(gates.report(symbols, units=options.units))


def symbols_of(vocabulary: Any, text: str) -> Any:
    """Return the tokens of a text as they are shown."""
    symbols = vocabulary.split(text)
    return [byte_name(byte) for byte in symbols] if isinstance(vocabulary, Bytes) else symbols


def output_names(vocabulary: Any) -> list[str]:
    """Return the names of a model's outputs, the tokens of its vocabulary."""
    count = len(vocabulary)
    if isinstance(vocabulary, Bytes):
        return [byte_name(byte) for byte in range(count)]
    return [vocabulary.decode([token]) for token in range(count)]


def byte_name(byte: int) -> str:
    """Return a byte as an ASCII character or, if it is none, in hexadecimal digits."""
    return chr(byte) if byte < 128 else f"{byte:02X}"


def _gradient(gates: GateTrace, tokens: Any, at: int | None) -> Any:
    """Return the gradient of the loss of the token after step `at`; None: of the last one."""
    if len(tokens) < 2:
        raise ValueError("--gradient: expected a text of at least two tokens, whose last one is predicted")
    at = len(tokens) - 2 if at is None else at
    if not 0 <= at <= len(tokens) - 2:
        raise ValueError(f"--at: expected a step from 0 to {len(tokens) - 2}, after which a token follows, got {at}")
    target = np.full(len(tokens), -100)
    target[at] = tokens[at + 1]
    return gates.gradient(of=cross_entropy, target=target)


def _save(draw: Any, path: str) -> None:
    """Write a picture, and say which characters it lacks."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        draw().savefig(path)
    say(f"picture in {path}")
    messages = {str(warning.message) for warning in found}
    if any("missing from font" in message for message in messages):
        say("it lacks characters that no installed font has; for Chinese install Noto Sans CJK and draw it again")
    for message in sorted(message for message in messages if "missing from font" not in message):
        say(message)


def explain(options: Namespace) -> None:
    """Run `lstm-cy explain`."""
    use_threads(options)
    model, vocabulary = load_text_model(options.model)
    text = read_source(options.text, "bytes" if isinstance(vocabulary, Bytes) else "characters")
    features = dict(_matching(text, named) for named in options.feature)
    found = explained(
        model,
        text,
        vocabulary=vocabulary,
        layer=options.layer,
        features=features,
        frozen=not options.no_loss,
        limit=options.limit,
    )
    if options.json:
        path = f"{options.json}.new"
        with open(path, "w", encoding="utf-8") as file:
            json.dump(found.as_dict(), file)
        os.replace(path, options.json)
        say(f"data in {options.json}")
    say(found.table(options.units))


def _matching(text: str | bytes, named: str) -> tuple[str, Bools]:
    """Return the name in NAME=REGEX, and where in the text the expression matches."""
    name, separator, expression = named.partition("=")
    if not separator or not name or not expression:
        raise ValueError(f"--feature: expected NAME=REGEX, got {named!r}")
    letters = text if isinstance(text, str) else text.decode("latin-1")
    try:
        matches = re.finditer(expression, letters)
    except re.error as error:
        raise ValueError(f"--feature: expected NAME=REGEX, got {named!r}: {error}") from None
    found = np.zeros(len(letters), bool)
    for match in matches:
        found[match.start() : match.end()] = True
    return name, found
