"""The arguments of the command line: commands, flags, their help, and checks of single values."""

from __future__ import annotations

import argparse
import difflib
import math
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..printable import printable
from ..text.vocabulary import LEVELS

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import NoReturn, TypeVar

    _N = TypeVar("_N", int, float)

#: largest difference of a correct conversion
LIMIT = 1e-4


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and suggest a similar command or flag; --help shows the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {printable(message)}\n")

    def refuse(self, message: str, given: str, known: Iterable[str]) -> NoReturn:
        """End with `message` and the one of the `known` names that is most similar to `given`."""
        similar = difflib.get_close_matches(given, known, n=1)
        self.error(message + (f"; did you mean {similar[0]}?" if similar else "; see --help"))

    @property
    def flags(self) -> list[str]:
        return list(self._option_string_actions)


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults other than None, bools and empty strings, and examples line by line."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        hidden = action.default is None or isinstance(action.default, bool) or action.default == ""
        return action.help if hidden else super()._get_help_string(action)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return getattr(action.type, "metavar", None) or super()._get_default_metavar_for_optional(action)


_LAYER = "index among the model's LSTM layers, from 0; -1 is the last"
_PANELS = "the panels of --png: any of cell,forget,input,candidate,output,written,hidden,prediction"
_THREADS = "number of threads; the results are the same bit for bit; default: see `lstm-cy info`"
#: description of each command, in its help
_DESCRIPTIONS = {
    "demo": "Train a character model on real text, show samples of its text, and compare its speed with plain NumPy.",
    "train": "Train a language model, of characters, words or bytes, on a text and save it with its vocabulary.",
    "generate": "Continue a text with a trained language model, and show each token as it is drawn.",
    "perplexity": (
        "Measure how well a trained language model predicts a text: perplexity, and bits per token, character and "
        "byte.\n\n"
        "The model reads the text from beginning to end; the first character, word or byte is not counted."
    ),
    "trace": "Show the gates of a trained language model while it reads a text.",
    "explain": (
        "Show what each unit of a trained language model follows, such as brackets, quotes or the position in a line,\n"
        "and what the loss becomes without it.\n\n"
        "The first half of the text chooses the feature of each unit; the area under the curve (AUC) is that of the\n"
        "second half, where 0.5 is chance and 1 is always right."
    ),
    "convert": "Convert a model file of lstm_cy, PyTorch, Keras or ONNX to another format.",
    "inspect": "Show the contents of a model file: layers, shapes, options, gate order, tensors, unsupported parts.",
    "export": (
        "Write a model as one C99 file with its weights, for programs without Python: no heap, no libm; or as\n"
        "WebAssembly with a JavaScript module, for browsers and Node, which needs clang and lld, or ziglang.\n\n"
        "The files say at their beginning how to use them."
    ),
    "bench": (
        "Compare the speed with plain NumPy, and PyTorch and ONNX Runtime where they are installed, on one thread.\n\n"
        "All alternate with the same weights, after their results have been compared. The repository's "
        "benchmarks/compare.py\nmeasures more shapes and options."
    ),
    "info": "Show versions, instruction set, engine and threads.",
}
#: examples for the help of each command
_EXAMPLES = {
    "demo": ("lstm-cy demo --quick", "lstm-cy demo --text book.txt --output book.npz"),
    "train": (
        "lstm-cy train --text book.txt --output book.npz",
        "lstm-cy train --text book.txt --minutes 10 --threads 2 --checkpoint book-checkpoint.npz",
        "lstm-cy train --level words --text book.txt --hidden 512",
    ),
    "generate": (
        'lstm-cy generate book.npz --prompt "Once upon" --length 200 --seed 1',
        "head -c 500 book.txt | lstm-cy generate book.npz --prompt -",
    ),
    "perplexity": ("lstm-cy perplexity book.npz --text another.txt", "lstm-cy perplexity book.npz --held-out"),
    "trace": (
        'lstm-cy trace book.npz --text "Once upon a time"',
        'lstm-cy trace book.npz --text "Once upon a time" --png gates.png --units 12',
        'lstm-cy trace book.npz --text "Once upon a time" --html page.html',
        'lstm-cy trace book.npz --text "Once upon a time" --gradient gradient.png --memories memories.png --units 3,5',
    ),
    "explain": (
        "lstm-cy explain book.npz --text another.txt",
        "lstm-cy explain book.npz --text another.txt --json units.json --feature 'a year=[12][0-9]{3}'",
    ),
    "convert": (
        "lstm-cy convert model.npz model.onnx --check",
        "lstm-cy convert checkpoint.pt encoder.npz --name encoder.rnn.",
    ),
    "inspect": ("lstm-cy inspect model.onnx",),
    "export": (
        "lstm-cy export amp.npz --c amp.h",
        "lstm-cy export amp.npz --c amp.h --weights amp.bin --self-test",
        "lstm-cy export amp.npz --wasm folder --name amp",
    ),
    "bench": ("lstm-cy bench", "lstm-cy bench --seconds 0.2"),
    "info": ("lstm-cy info", "LSTM_CY_ISA=avx2 lstm-cy info"),
}


def parsed(arguments: Sequence[str]) -> Namespace:
    """Return the parsed options; without arguments, show the help and exit."""
    parser, commands = make_parser()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        parser.refuse(f"no command {arguments[0]!r}", arguments[0], commands)
    options, unknown = parser.parse_known_args(arguments or ["--help"])
    selected = getattr(options, "parser", parser)
    if unknown:
        given = unknown[0].partition("=")[0]
        selected.refuse(f"unrecognized arguments: {' '.join(unknown)}", given, {*selected.flags, *parser.flags})
    if selected is parser:
        parser.error(f"expected a command: {', '.join(commands)}")
    return options


def make_parser() -> tuple[_Parser, Mapping[str, _Parser]]:
    """Return the parser of the whole command line, and the parser of each command."""
    parser = _Parser(
        prog="lstm-cy",
        description="LSTM for CPUs: arrays in, arrays out.",
        epilog=_examples("lstm-cy demo --quick", "lstm-cy COMMAND --help"),
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"lstm-cy {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    _add_demo(commands)
    _add_train(commands)
    _add_generate(commands)
    _add_perplexity(commands)
    _add_trace(commands)
    _add_explain(commands)
    _add_convert(commands)
    _add_inspect(commands)
    _add_export(commands)
    _add_bench(commands)
    _add_command(commands, "info", "show versions, instruction set, engine and threads")
    return parser, commands.choices


def _examples(*lines: str) -> str:
    return "\n  ".join(["examples:", *lines])


def _add_command(commands: Any, name: str, help: str) -> Callable[..., Any]:
    parser = commands.add_parser(
        name,
        help=help,
        description=_DESCRIPTIONS[name],
        epilog=_examples(*_EXAMPLES[name]),
        formatter_class=_Help,
    )
    parser.set_defaults(command=name, parser=parser)
    result: Callable[..., Any] = parser.add_argument
    return result


def _add_demo(commands: Any) -> None:
    add = _add_command(commands, "demo", "train a small model and measure its speed")
    add("--quick", action="store_true", help="a smaller model, in a quarter of the time")
    add("--text", metavar="FILE", help="train on this file (UTF-8) instead of Python's standard library")
    add("--output", metavar="MODEL", default="lstm_cy-demo.npz", help="where to save the model")


def _add_bench(commands: Any) -> None:
    add = _add_command(commands, "bench", "compare lstm_cy with the installed frameworks on this machine")
    add("--seconds", type=_positive, default=1.0, help="approximate time for each shape")


def _add_train(commands: Any) -> None:
    add = _add_command(commands, "train", "train a language model on a text")
    add("--text", metavar="FILE", help="the text (UTF-8; any file for level bytes); default: Python's standard library")
    add("--level", choices=LEVELS, default="characters", help="the kind of token")
    add("--limit-characters", type=_positive_int, metavar="N", help="use only the first N characters (or bytes)")
    add("--min-count", type=_positive_int, default=5, help="rarer characters or words become the unknown token")
    add("--vocabulary", type=_positive_int, metavar="N", help="most tokens; default: 10000 words, or all characters")
    add("--output", metavar="MODEL", default="model.npz", help="the file to write: .npz or .safetensors")
    add("--embedding", type=_positive_int, default=64, help="size of a token's vector")
    add("--hidden", type=_positive_int, default=256, help="hidden size")
    add("--layers", type=_positive_int, default=1, help="number of LSTM layers")
    add("--dropout", type=_share, default=0.0, help="share of the LSTM's outputs dropped in training")
    add("--epochs", type=_positive_int, default=5, help="passes through the text")
    add("--minutes", type=_positive, help="instead of --epochs: the time to train; the learning rate falls to zero")
    add("--threads", type=_positive_int, help=_THREADS)
    add("--batch-size", type=_positive_int, default=32, help="number of columns into which the text is cut")
    add("--bptt", type=_positive_int, default=64, help="steps of truncated back-propagation through time")
    add("--lr", type=_positive, default=3e-3, help="initial learning rate")
    add("--clip-norm", type=_positive, default=1.0, help="largest norm of the gradients")
    add("--seed", type=_natural, default=0, help="seed of all random choices in training")
    add("--checkpoint", metavar="FILE", help="file (.npz) written after each epoch, or minute")
    add("--resume", action="store_true", help="continue from the checkpoint if it exists")


def _add_generate(commands: Any) -> None:
    add = _add_command(commands, "generate", "generate text with a trained model")
    add("model", metavar="MODEL", help="a model of `lstm-cy train` or `lstm-cy demo`")
    add("--prompt", default="", help="the text to continue; -: standard input")
    add("--length", type=_natural, default=500, help="number of characters, words or bytes to generate")
    add("--temperature", type=_non_negative, default=0.8, help="0: always the likeliest token; 1: as learned")
    add("--top-k", type=_positive_int, metavar="K", help="draw only from the K likeliest tokens")
    add("--top-p", type=_share_of_all, metavar="P", help="draw only from the likeliest with a total probability of P")
    add("--seed", type=_natural, help="the same seed gives the same text")


def _add_perplexity(commands: Any) -> None:
    add = _add_command(commands, "perplexity", "measure how well a trained model predicts a text")
    add("model", metavar="MODEL", help="a model of `lstm-cy train` or `lstm-cy demo`")
    add("--text", metavar="FILE", help="the text (UTF-8; any file for level bytes); default: Python's standard library")
    add("--held-out", action="store_true", help="only the part of the text that was held out from the training")
    add("--threads", type=_positive_int, help=_THREADS)


def _add_trace(commands: Any) -> None:
    add = _add_command(commands, "trace", "show the gates while a model reads a text")
    add("model", metavar="MODEL", help="a model of `lstm-cy train` or `lstm-cy demo`")
    add("--text", required=True, help="the text to read (not a file)")
    add("--png", metavar="FILE", help="write a picture of the gates; needs matplotlib")
    add("--html", metavar="FILE", help="write a page in which the model runs, with its gates, units and predictions")
    add("--explain", metavar="FILE", help="with --html: show in the page what each unit follows in this text")
    add("--npz", metavar="FILE", help="write the gates as arrays")
    add("--report", action="store_true", help="print a report; default if no file is to be written")
    add("--memories", metavar="FILE", help="write a picture of what units wrote and how long they kept it")
    add("--gradient", metavar="FILE", help="write a picture of the gradient of a token's loss, and print a table")
    add(
        "--at",
        type=int,
        metavar="STEP",
        help="the step after which --gradient asks for the token; default: last but one",
    )
    add("--panels", type=_panels, metavar="NAMES", help=_PANELS)
    add("--layer", type=int, default=-1, help=_LAYER)
    add("--direction", type=int, choices=(0, 1), default=0, help="1: the second direction of a bidirectional LSTM")
    add("--units", type=_units, metavar="N", default=8, help="number of units to show, the most salient ones; or 3,5,8")
    add("--steps", type=_range, metavar="FIRST:LAST", help="draw only these steps")
    add("--language", choices=("en", "zh"), default="en", help="the language of the pictures' labels and of the page")


def _add_explain(commands: Any) -> None:
    add = _add_command(commands, "explain", "show what each unit follows, and what the loss becomes without it")
    add("model", metavar="MODEL", help="a model of `lstm-cy train` or `lstm-cy demo`")
    add("--text", metavar="FILE", help="the text (UTF-8; any file for level bytes); default: Python's standard library")
    add("--json", metavar="FILE", help="write everything as JSON: each unit, each feature and all areas")
    add("--feature", action="append", default=[], metavar="NAME=REGEX", help="one more feature: inside a match")
    add("--layer", type=int, default=-1, help=_LAYER)
    add("--units", type=_positive_int, metavar="N", help="number of units to print; default: all")
    add("--limit", type=_positive_int, metavar="N", default=1_000_000, help="read only the first N tokens")
    add("--no-loss", action="store_true", help="do not measure the losses, which takes most of the time")
    add("--threads", type=_positive_int, help=_THREADS)


_READ = "a file of lstm_cy, PyTorch, Keras, ONNX or of an amplifier model; its content gives the format"
_FORMAT = "the format where the content does not give it, such as onnx for a file without the suffix .onnx"


def _add_convert(commands: Any) -> None:
    add = _add_command(commands, "convert", "convert a model file to another format")
    add("input", metavar="IN", help=_READ)
    add("--format", metavar="NAME", help=_FORMAT)
    add(
        "output",
        metavar="OUT",
        help="the file to write, replaced if it exists: .npz, .safetensors, .onnx, .nam or .json",
    )
    add("--name", help="the LSTM to take if there are several: a prefix or a node, as `lstm-cy inspect` shows it")
    add("--partial", action="store_true", help="take only the LSTM from a larger model; the rest is listed")
    add("--batch-first", action="store_true", help="x is (B, T, I); for PyTorch's tensors, which do not record it")
    add("--states", action="store_true", help="the initial states become inputs of the .onnx file")
    add("--lengths", action="store_true", help="the rows' lengths become an input of the .onnx file")
    check = "run both files on random input, in their frameworks where installed, and print the largest difference"
    add("--check", action="store_true", help=f"{check}; the exit status is 1 if it is above {LIMIT:g}")


def _add_inspect(commands: Any) -> None:
    add = _add_command(commands, "inspect", "show the contents of a model file")
    add("file", metavar="FILE", help=_READ)
    add("--format", metavar="NAME", help=_FORMAT)


def _add_export(commands: Any) -> None:
    add = _add_command(commands, "export", "write a model as a C99 file, or as WebAssembly")
    add("model", metavar="MODEL", help="a model file; its suffix gives the format")
    add("--c", metavar="FILE", help="the C file to write; replaced if it exists")
    add("--wasm", metavar="DIR", help="the folder for NAME.js, NAME.wasm and NAME.relaxed.wasm, which are replaced")
    add("--name", help="what the names in it begin with; default: the file's name, or model")
    add("--weights", metavar="FILE", help="write the weights to this file, whose content the program passes to init")
    add("--int8", action="store_true", help="quantize the weights of LSTMs to int8")
    add("--self-test", action="store_true", help="add a program that compares 100 steps with the library's numbers")


def _number(kind: type[_N], accept: Callable[[_N], bool], expected: str) -> Callable[[str], _N]:
    def parse(text: str) -> _N:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accept(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    parse.metavar = "N" if kind is int else "X"  # type: ignore[attr-defined]
    return parse


def _units(text: str) -> int | list[int]:
    """Return a number of units, or a list of their numbers."""
    if "," in text:
        return [_natural(part) for part in text.split(",") if part]
    return _positive_int(text)


def _range(text: str) -> tuple[int, int]:
    first, separator, last = text.partition(":")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected FIRST:LAST, got {text!r}")
    return _natural(first), _natural(last)


def _panels(text: str) -> list[str]:
    """Return names of panels; `GateTrace.plot` checks them."""
    return [name.strip() for name in text.split(",")]


_positive_int = _number(int, lambda value: value >= 1, "an integer of at least 1")
_natural = _number(int, lambda value: value >= 0, "an integer of at least 0")
_positive = _number(float, lambda value: 0 < value < math.inf, "a number above 0")
_non_negative = _number(float, lambda value: 0 <= value < math.inf, "a number of at least 0")
_share = _number(float, lambda value: 0 <= value < 1, "a number in [0, 1)")
_share_of_all = _number(float, lambda value: 0 < value <= 1, "a number in (0, 1]")
