"""The commands that use a trained language model: generate and perplexity."""

from __future__ import annotations

import itertools
import math
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..decoding import language_model
from ..printable import printable
from ..text.corpus import read_bytes, read_text, standard_library_text
from ..text.vocabulary import Bytes, vocabulary_from_json
from ..weights import load
from .machine import use_threads
from .output import say, say_unknown

if TYPE_CHECKING:
    from argparse import Namespace

    from ..layers.sequential import Sequential


def read_source(path: str | None, level: str, limit: int | None = None) -> str | bytes:
    """Return the text of a file, or of the standard library: a str, or bytes at level bytes."""
    if path and level == "bytes":
        return read_bytes(path)[:limit]
    text = read_text(path)[:limit] if path else standard_library_text(limit)
    return text.encode()[:limit] if level == "bytes" else text


def load_text_model(path: str) -> tuple[Sequential, Any]:
    """Return the model in a file, and the vocabulary saved with it."""
    model = load(path)
    if getattr(model, "vocabulary_size", None) is None or "vocabulary" not in getattr(model, "metadata", {}):
        raise ValueError(f"{path}: holds no vocabulary; `lstm-cy train` writes models that do")
    return model, vocabulary_from_json(model.metadata["vocabulary"])


def generate(options: Namespace) -> None:
    """Run `lstm-cy generate`."""
    model, vocabulary = load_text_model(options.model)
    prompt = options.prompt
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    if isinstance(vocabulary, Bytes) and hasattr(sys.stdout, "reconfigure"):  # to write bytes that are not UTF-8
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    pieces = language_model.generate(
        model,
        vocabulary,
        prompt,
        length=options.length,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    # Generated text must not control the terminal; a file receives it unchanged.
    show = partial(printable, keep="\n\t") if sys.stdout.isatty() else str
    for piece in itertools.chain([prompt], pieces):
        print(show(piece), end="", flush=True)
    print()


def perplexity(options: Namespace) -> None:
    """Run `lstm-cy perplexity`."""
    use_threads(options)
    model, vocabulary = load_text_model(options.model)
    text = read_source(options.text, "bytes" if isinstance(vocabulary, Bytes) else "characters")
    if options.held_out:
        text = _held_out(text, options.model, model.metadata)
    tokens = vocabulary.encode(text)
    if len(tokens) < 2:
        raise ValueError(f"the text: expected at least two {vocabulary.unit}s, got {len(tokens)}")
    nats = language_model.negative_log_likelihood(model, tokens, progress=True)
    say(f"{len(tokens)} {vocabulary.unit}s, {len(set(tokens.tolist()))} of {len(vocabulary)} tokens among them")
    say(f"perplexity  {np.exp(nats):.3f} a {vocabulary.unit}")
    for unit, count in _sizes(vocabulary, text).items():
        say(f"bits        {nats / math.log(2) * (len(tokens) - 1) / count:.3f} a {unit}")
    say_unknown(vocabulary, tokens, text)


def _held_out(text: str | bytes, path: str, metadata: dict[str, Any]) -> str | bytes:
    first, last = metadata.get("held_out", (None, None))
    if first is None:
        raise ValueError(f"{path}: does not record the held-out text; `lstm-cy train` writes models that do")
    if len(text) < last:
        raise ValueError(f"the text: expected the text of the training, of length {last} or more, got {len(text)}")
    return text[first:last]


def _sizes(vocabulary: Any, text: str | bytes) -> dict[str, int]:
    """Return {unit: number of units after the first token of the text}, the vocabulary's own unit first."""
    counted = vocabulary.split(text)[1:]
    sizes = {vocabulary.unit: len(counted)}
    if isinstance(counted, bytes):
        return sizes
    counted = "".join(counted)
    return sizes | {"character": len(counted), "byte": len(counted.encode("utf-8", "surrogatepass"))}
