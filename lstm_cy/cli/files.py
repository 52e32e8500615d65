"""The commands for model files of lstm_cy and other libraries: convert, inspect and export."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..export import c99, wasm
from ..weights import convert as conversion
from ..weights import load
from ..weights.faults import listed
from ..weights.inspect import describe
from .arguments import LIMIT
from .output import say

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from ..layers.base import Layer
    from ..weights.comparisons import Comparison


def convert(options: Namespace) -> None:
    """Run `lstm-cy convert`."""
    model, comparison, left = conversion.read(
        options.input, options.name, batch_first=options.batch_first, partial=options.partial, format=options.format
    )
    written = conversion.write(model, options.output, states=options.states, lengths=options.lengths)
    say(f"{options.output}: {type(model).__name__}, {os.path.getsize(options.output)} bytes")
    if left:
        say(f"left behind: {listed(left)}")
    if options.check:
        _check([comparison, *written] if comparison else written)


def _check(comparisons: Sequence[Comparison]) -> None:
    """Print how far each is from the model; raise if one is too far."""
    wrong = []
    for comparison in comparisons:
        try:
            difference = comparison.difference()
        except ImportError:
            say(f"{comparison.label}: not installed, not compared")
            continue
        say(f"{comparison.label}: largest difference {difference:.1e}")
        if not difference <= LIMIT:
            wrong.append(comparison.label)
    if wrong:
        raise ArithmeticError(f"the outputs are more than {LIMIT:g} apart: {', '.join(wrong)}")


def inspect(options: Namespace) -> None:
    """Run `lstm-cy inspect`."""
    for line in describe(options.file, format=options.format):
        say(line)


def export(options: Namespace) -> None:
    """Run `lstm-cy export`."""
    if options.c is None and options.wasm is None:
        options.parser.error("expected --c FILE or --wasm DIR")
    if options.c is None and (options.weights or options.self_test):
        options.parser.error("--weights and --self-test belong to --c")
    model = load(options.model)
    try:
        if options.int8 and hasattr(model, "quantize"):
            model = model.quantize("int8")
        written = _exported(model, options)
    except TypeError as error:  # the file holds a model of a kind that cannot be exported
        raise ValueError(f"{options.model}: {error}") from None
    for path in written:
        say(f"{path}: {os.path.getsize(path)} bytes")


def _exported(model: Layer, options: Namespace) -> list[str]:
    """Write the files of `lstm-cy export`; return their paths."""
    written: list[str] = []
    if options.c is not None:
        c99(model, options.c, name=options.name, weights=options.weights, self_test=options.self_test)
        written += filter(None, (options.c, options.weights))
    if options.wasm is not None:
        name = options.name or "model"
        wasm(model, options.wasm, name=name)
        written += [os.path.join(options.wasm, name + suffix) for suffix in (".js", ".wasm", ".relaxed.wasm")]
    return written
