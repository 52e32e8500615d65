"""The command line: demo, train, generate, perplexity, trace, convert, inspect, bench and info."""

from __future__ import annotations

import argparse
import difflib
import inspect
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import __version__, bench
from .config import set_num_threads, show_config
from .decoding.language_model import generate, negative_log_likelihood
from .layers.dropout import Dropout
from .layers.embedding import Embedding
from .layers.linear import Linear
from .layers.lstm import LSTM
from .layers.sequential import Sequential
from .printable import printable
from .text.corpus import columns, read_bytes, read_text, standard_library_text, unigram_entropy
from .text.vocabulary import LEVELS, Bytes, Vocabulary, Words, vocabulary_from_json
from .training.checkpoint import read_history
from .training.fitting import fit
from .training.losses import cross_entropy
from .training.optimizers import Adam
from .weights import convert as conversion
from .weights import load, save
from .weights.faults import listed
from .weights.inspect import describe

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import NoReturn, TypeVar

    from .training.history import History
    from .training.optimizers import Optimizer
    from .typing import Array, Ints
    from .weights.comparisons import Comparison

    _N = TypeVar("_N", int, float)

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; None: those of the process.

    Returns
    -------
    int
        0, or 1 after an error, with one line on standard error. Bad usage raises SystemExit with status 2, and --help
        with 0.
    """
    options = _parsed(sys.argv[1:] if argv is None else list(argv))
    if hasattr(sys.stdout, "reconfigure"):  # a model's characters must not raise an error in an ASCII terminal
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options.command(options)
    except BrokenPipeError:  # the reader, such as head, has closed the pipe; nothing may be flushed to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, ArithmeticError, OSError, ImportError, MemoryError) as error:
        print(f"lstm-cy: error: {printable(_one_line(error))}", file=sys.stderr)
        return 1
    return 0


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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


_THREADS = "number of threads; the results are the same bit for bit; default: see `lstm-cy info`"
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
    ),
    "convert": (
        "lstm-cy convert model.npz model.onnx --check",
        "lstm-cy convert checkpoint.pt encoder.npz --name encoder.rnn.",
    ),
    "inspect": ("lstm-cy inspect model.onnx",),
    "bench": ("lstm-cy bench", "lstm-cy bench --seconds 0.2"),
    "info": ("lstm-cy info", "LSTM_CY_ISA=avx2 lstm-cy info"),
}


def _parsed(arguments: Sequence[str]) -> Namespace:
    """Return the parsed options; without arguments, show the help and exit."""
    parser, commands = _parser()
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


def _parser() -> tuple[_Parser, Mapping[str, _Parser]]:
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
    _add_convert(commands)
    _add_inspect(commands)
    _add_bench(commands)
    _add_command(commands, "info", _info, "show versions, instruction set, engine and threads")
    return parser, commands.choices


def _examples(*lines: str) -> str:
    return "\n  ".join(["examples:", *lines])


def _add_command(commands: Any, name: str, function: Callable[[Namespace], None], help: str) -> Callable[..., Any]:
    parser = commands.add_parser(
        name,
        help=help,
        description=inspect.cleandoc(function.__doc__ or ""),
        epilog=_examples(*_EXAMPLES[name]),
        formatter_class=_Help,
    )
    parser.set_defaults(command=function, parser=parser)
    result: Callable[..., Any] = parser.add_argument
    return result


def _add_demo(commands: Any) -> None:
    add = _add_command(commands, "demo", _demo, "train a small model and measure its speed")
    add("--quick", action="store_true", help="a smaller model, in a quarter of the time")
    add("--text", metavar="FILE", help="train on this file (UTF-8) instead of Python's standard library")
    add("--output", metavar="MODEL", default="lstm_cy-demo.npz", help="where to save the model")


def _add_bench(commands: Any) -> None:
    add = _add_command(commands, "bench", _bench, "compare lstm_cy with the installed frameworks on this machine")
    add("--seconds", type=_positive, default=1.0, help="approximate time for each shape")


def _add_train(commands: Any) -> None:
    add = _add_command(commands, "train", _train, "train a language model on a text")
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
    add(
        "--threads",
        type=_positive_int,
        help=_THREADS,
    )
    add("--batch-size", type=_positive_int, default=32, help="number of columns into which the text is cut")
    add("--bptt", type=_positive_int, default=64, help="steps of truncated back-propagation through time")
    add("--lr", type=_positive, default=3e-3, help="initial learning rate")
    add("--clip-norm", type=_positive, default=1.0, help="largest norm of the gradients")
    add("--seed", type=_natural, default=0, help="seed of all random choices in training")
    add("--checkpoint", metavar="FILE", help="file (.npz) written after each epoch, or minute")
    add("--resume", action="store_true", help="continue from the checkpoint if it exists")


def _add_generate(commands: Any) -> None:
    add = _add_command(commands, "generate", _generate, "generate text with a trained model")
    add("model", metavar="MODEL", help="a model of `lstm-cy train` or `lstm-cy demo`")
    add("--prompt", default="", help="the text to continue; -: standard input")
    add("--length", type=_natural, default=500, help="number of characters, words or bytes to generate")
    add("--temperature", type=_non_negative, default=0.8, help="0: always the likeliest token; 1: as learned")
    add("--top-k", type=_positive_int, metavar="K", help="draw only from the K likeliest tokens")
    add("--top-p", type=_share_of_all, metavar="P", help="draw only from the likeliest with a total probability of P")
    add("--seed", type=_natural, help="the same seed gives the same text")


def _add_perplexity(commands: Any) -> None:
    add = _add_command(commands, "perplexity", _perplexity, "measure how well a trained model predicts a text")
    add("model", metavar="MODEL", help="a model of `lstm-cy train` or `lstm-cy demo`")
    add("--text", metavar="FILE", help="the text (UTF-8; any file for level bytes); default: Python's standard library")
    add("--held-out", action="store_true", help="only the part of the text that was held out from the training")
    add(
        "--threads",
        type=_positive_int,
        help=_THREADS,
    )


def _add_trace(commands: Any) -> None:
    add = _add_command(commands, "trace", _trace, "show the gates while a model reads a text")
    add("model", metavar="MODEL", help="a model of `lstm-cy train` or `lstm-cy demo`")
    add("--text", required=True, help="the text to read (not a file)")
    add("--png", metavar="FILE", help="write a picture of the gates; needs matplotlib")
    add("--npz", metavar="FILE", help="write the gates as arrays")
    add("--report", action="store_true", help="print a report; default without --png and --npz")
    add("--layer", type=int, default=-1, help="index among the model's LSTM layers, from 0; -1 is the last")
    add("--units", type=_positive_int, default=8, help="number of units to show, the most salient ones")


def _add_convert(commands: Any) -> None:
    add = _add_command(commands, "convert", _convert, "convert a model file to another format")
    add("input", metavar="IN", help="a file of lstm_cy, PyTorch, Keras or ONNX; its suffix gives the format")
    add("output", metavar="OUT", help="the file to write: .npz, .safetensors or .onnx; replaced if it exists")
    add("--name", help="the LSTM to take if there are several: a prefix or a node, as `lstm-cy inspect` shows it")
    add("--partial", action="store_true", help="take only the LSTM from a larger model; the rest is listed")
    add("--batch-first", action="store_true", help="x is (B, T, I); for PyTorch's tensors, which do not record it")
    add("--states", action="store_true", help="the initial states become inputs of the .onnx file")
    add("--lengths", action="store_true", help="the rows' lengths become an input of the .onnx file")
    check = "run both files on random input, in their frameworks where installed, and print the largest difference"
    add("--check", action="store_true", help=f"{check}; the exit status is 1 if it is above {conversion.LIMIT:g}")


def _add_inspect(commands: Any) -> None:
    add = _add_command(commands, "inspect", _inspect, "show the contents of a model file")
    add("file", metavar="FILE", help="a file of lstm_cy, PyTorch, Keras or ONNX; its suffix gives the format")


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


_positive_int = _number(int, lambda value: value >= 1, "an integer of at least 1")
_natural = _number(int, lambda value: value >= 0, "an integer of at least 0")
_positive = _number(float, lambda value: 0 < value < math.inf, "a number above 0")
_non_negative = _number(float, lambda value: 0 <= value < math.inf, "a number of at least 0")
_share = _number(float, lambda value: 0 <= value < 1, "a number in [0, 1)")
_share_of_all = _number(float, lambda value: 0 < value <= 1, "a number in (0, 1]")


def _say(*words: object) -> None:
    """Print a line or lines; names and texts from files have no effect on the terminal."""
    print(*(printable(word, keep="\n\t") for word in words), flush=True)


def _info(options: Namespace) -> None:
    """Show versions, instruction set, engine and threads."""
    show_config()


# Shared by train and demo

_MOST_HELD_OUT = 100_000  # characters: enough for two reliable decimals of the loss


class _Corpus(NamedTuple):
    vocabulary: Vocabulary | Words | Bytes
    train: np.ndarray
    held_out: np.ndarray
    held_out_text: str | bytes
    metadata: dict[str, Any]


def _text(path: str | None, level: str, limit: int | None = None) -> str | bytes:
    """Return the text of a file, or of the standard library: a str, or bytes at level bytes."""
    if path and level == "bytes":
        return read_bytes(path)[:limit]
    text = read_text(path)[:limit] if path else standard_library_text(limit)
    return text.encode()[:limit] if level == "bytes" else text


def _corpus(
    text: str | bytes, batch_size: int, min_count: int, level: str = "characters", size: int | None = None
) -> _Corpus:
    """Return the text as tokens; the last twentieth is held out, and the vocabulary is made from the rest."""
    unit = "bytes" if level == "bytes" else "characters"
    cut = len(text) - max(min(len(text) // 20, _MOST_HELD_OUT), batch_size + 1)
    if cut <= batch_size:
        raise ValueError(f"the text: {len(text)} {unit} are too few for batches of {batch_size}")
    kind: Any = LEVELS[level]
    limit = {} if size is None else {"size": size}
    vocabulary: Any = Bytes() if kind is Bytes else kind.from_text(text[:cut], min_count, **limit)
    _say(f"{len(text)} {unit} of text, {len(text) - cut} of them held out; {len(vocabulary)} tokens")
    metadata = {"vocabulary": vocabulary.to_json(), "held_out": [cut, len(text)]}
    return _Corpus(vocabulary, vocabulary.encode(text[:cut]), vocabulary.encode(text[cut:]), text[cut:], metadata)


def _language_model(
    tokens: int, embedding: int, hidden: int, *, layers: int = 1, dropout: float = 0.0, seed: int = 0
) -> Sequential:
    model = Sequential(
        Embedding(tokens, embedding, seed=seed),
        LSTM(embedding, hidden, layers, dropout=dropout if layers > 1 else 0.0, seed=seed + 1),
        *([Dropout(dropout)] if dropout else []),
        Linear(hidden, tokens, seed=seed + 2),
    )
    weights = sum(array.size for array in model.parameters.values())
    _say(f"model of {weights} weights: embedding {embedding}, {layers} LSTM layer(s) of {hidden}")
    return model


def _try_output(model: Sequential, path: str, metadata: dict[str, Any]) -> None:
    """Save the model to a temporary file, so that errors are raised before the training and not after it."""
    target = Path(path)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".lstm_cy-") as folder:
        save(model, Path(folder, target.name), metadata)


def _report(history: History, corpus: _Corpus) -> None:
    loss, unigram, unit = history.validation[-1], unigram_entropy(corpus.held_out), corpus.vocabulary.unit
    _say(f"held-out loss    {loss:.3f} nats a {unit} ({loss / math.log(2):.3f} bits)")
    _say(f"unigram entropy  {unigram:.3f} nats a {unit} ({unigram / math.log(2):.3f} bits)")
    if loss >= unigram:
        _say(
            f"WARNING: the model predicts the held-out text no better than the frequencies of its {unit}s do; "
            "train it for more epochs, on more text, or with more units"
        )
    _say_unknown(corpus.vocabulary, corpus.held_out, corpus.held_out_text)


def _say_unknown(vocabulary: Any, tokens: Ints, text: str | bytes) -> None:
    missing = vocabulary.missing(text)
    if missing:
        count = np.count_nonzero(tokens == vocabulary.unknown)
        _say(
            f"{count} of {len(tokens)} {vocabulary.unit}s ({count / len(tokens):.2%}) are not in the vocabulary "
            f"and count as unknown, such as {', '.join(map(ascii, missing[:5]))}"
        )


def _use_threads(options: Namespace) -> None:
    if options.threads:
        set_num_threads(options.threads)


def _train(options: Namespace) -> None:
    """Train a language model, of characters, words or bytes, on a text and save it with its vocabulary."""
    _use_threads(options)
    text = _text(options.text, options.level, options.limit_characters)
    corpus = _corpus(text, options.batch_size, options.min_count, options.level, options.vocabulary)
    model = _language_model(
        len(corpus.vocabulary),
        options.embedding,
        options.hidden,
        layers=options.layers,
        dropout=options.dropout,
        seed=options.seed,
    )
    _try_output(model, options.output, corpus.metadata)
    optimizer = Adam(model, options.lr)
    data: Any = columns(corpus.train, options.batch_size)
    epochs = options.epochs
    if options.minutes:
        data, epochs = _timed(data[0], data[1], optimizer, options), math.ceil(options.minutes)
    history = fit(
        model,
        data,
        loss=cross_entropy,
        optimizer=optimizer,
        epochs=epochs,
        batch_size=options.batch_size,
        validation=columns(corpus.held_out, options.batch_size),
        bptt=options.bptt,
        clip_norm=options.clip_norm,
        checkpoint=options.checkpoint,
        resume=options.resume,
        seed=options.seed,
    )
    save(model, options.output, corpus.metadata)
    _report(history, corpus)
    _say(f"saved to {options.output}; next: lstm-cy generate {options.output}")


_WINDOWS = 8  # consecutive windows with one learning rate and a carried state


def _timed(
    x: Array, y: Array, optimizer: Optimizer, options: Namespace
) -> Callable[[int], Iterator[tuple[Array, Array]]]:
    """Return fit's data for a training of `options.minutes`, including validation, with epochs of one minute.

    The columns x and y are read repeatedly, from the position given by the optimizer's number of steps. Time and steps
    of a resumed checkpoint count, so that the learning rate continues where it was.
    """
    seconds, epochs, piece = 60 * options.minutes, math.ceil(options.minutes), _WINDOWS * options.bptt
    begin = None

    def data(epoch: int) -> Iterator[tuple[Array, Array]]:
        nonlocal begin
        if begin is None:  # fit has read the checkpoint by now
            used = sum(read_history(options.checkpoint).seconds) if epoch else 0.0
            begin = time.monotonic() - used
        elapsed = time.monotonic() - begin
        while True:
            optimizer.lr = _falling(options.lr, elapsed / seconds)
            first = optimizer.steps * options.bptt % len(x)
            yield x[first : first + piece], y[first : first + piece]
            elapsed = time.monotonic() - begin
            if elapsed >= seconds * (epoch + 1) / epochs:
                return

    return data


def _falling(rate: float, done: float) -> float:
    """Return the learning rate after the share `done` of a training: it falls to zero along half a cosine."""
    return rate * (1 + math.cos(math.pi * min(1.0, done))) / 2


def _load_text_model(path: str) -> tuple[Sequential, Any]:
    """Return the model in a file, and the vocabulary saved with it."""
    model = load(path)
    if getattr(model, "vocabulary_size", None) is None or "vocabulary" not in getattr(model, "metadata", {}):
        raise ValueError(f"{path}: holds no vocabulary; `lstm-cy train` writes models that do")
    return model, vocabulary_from_json(model.metadata["vocabulary"])


def _generate(options: Namespace) -> None:
    """Continue a text with a trained language model, and show each token as it is drawn."""
    model, vocabulary = _load_text_model(options.model)
    prompt = options.prompt
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    if isinstance(vocabulary, Bytes) and hasattr(sys.stdout, "reconfigure"):  # to write bytes that are not UTF-8
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    pieces = generate(
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


def _trace(options: Namespace) -> None:
    """Show the gates of a trained language model while it reads a text."""
    model, vocabulary = _load_text_model(options.model)
    if not options.text:
        raise ValueError(f"--text: expected at least one {vocabulary.unit}, got none")
    tokens, symbols = vocabulary.encode(options.text), vocabulary.split(options.text)
    if isinstance(vocabulary, Bytes):
        symbols = [chr(byte) if byte < 128 else f"{byte:02X}" for byte in symbols]
    trace = model.trace(tokens, layer=options.layer)
    if options.png:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            trace.plot(symbols, units=options.units).savefig(options.png)
        _say(f"picture in {options.png}")
        messages = {str(warning.message) for warning in found}
        if any("missing from font" in message for message in messages):
            _say("it lacks characters that no installed font has; for Chinese install Noto Sans CJK and draw it again")
        for message in sorted(message for message in messages if "missing from font" not in message):
            _say(message)
    if options.npz:
        trace.to_npz(options.npz)
        _say(f"arrays in {options.npz}")
    if options.report or not (options.png or options.npz):
        _say_unknown(vocabulary, tokens, options.text)
        _say(trace.report(symbols, units=options.units))


def _perplexity(options: Namespace) -> None:
    """Measure how well a trained language model predicts a text: perplexity, and bits per token, character and byte.

    The model reads the text from beginning to end; the first character, word or byte is not counted.
    """
    _use_threads(options)
    model, vocabulary = _load_text_model(options.model)
    text = _text(options.text, "bytes" if isinstance(vocabulary, Bytes) else "characters")
    if options.held_out:
        text = _held_out(text, options.model, model.metadata)
    tokens = vocabulary.encode(text)
    if len(tokens) < 2:
        raise ValueError(f"the text: expected at least two {vocabulary.unit}s, got {len(tokens)}")
    nats = negative_log_likelihood(model, tokens, progress=True)
    _say(f"{len(tokens)} {vocabulary.unit}s, {len(set(tokens.tolist()))} of {len(vocabulary)} tokens among them")
    _say(f"perplexity  {np.exp(nats):.3f} a {vocabulary.unit}")
    for unit, count in _sizes(vocabulary, text).items():
        _say(f"bits        {nats / math.log(2) * (len(tokens) - 1) / count:.3f} a {unit}")
    _say_unknown(vocabulary, tokens, text)


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


# Files of other frameworks


def _convert(options: Namespace) -> None:
    """Convert a model file of lstm_cy, PyTorch, Keras or ONNX to another format."""
    model, comparison, left = conversion.read(
        options.input, options.name, batch_first=options.batch_first, partial=options.partial
    )
    written = conversion.write(model, options.output, states=options.states, lengths=options.lengths)
    _say(f"{options.output}: {type(model).__name__}, {os.path.getsize(options.output)} bytes")
    if left:
        _say(f"left behind: {listed(left)}")
    if options.check:
        _check([comparison, *written] if comparison else written)


def _check(comparisons: Sequence[Comparison]) -> None:
    """Print how far each is from the model; raise if one is too far."""
    wrong = []
    for comparison in comparisons:
        try:
            difference = comparison.difference()
        except ImportError:
            _say(f"{comparison.label}: not installed, not compared")
            continue
        _say(f"{comparison.label}: largest difference {difference:.1e}")
        if not difference <= conversion.LIMIT:
            wrong.append(comparison.label)
    if wrong:
        raise ArithmeticError(f"the outputs are more than {conversion.LIMIT:g} apart: {', '.join(wrong)}")


def _inspect(options: Namespace) -> None:
    """Show the contents of a model file: layers, shapes, options, gate order, tensors, unsupported parts."""
    for line in describe(options.file):
        _say(line)


# The demonstration


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


def _demo(options: Namespace) -> None:
    """Train a character model on real text, show samples of its text, and compare its speed with plain NumPy."""
    plan = _QUICK if options.quick else _FULL
    corpus = _corpus(_text(options.text, "characters", plan.characters), plan.batch_size, min_count=5)
    model = _language_model(len(corpus.vocabulary), plan.embedding, plan.hidden)
    _try_output(model, options.output, corpus.metadata)
    prompt = "" if options.text else "def "
    _show_sample("before training", model, corpus.vocabulary, prompt)
    history = _demo_training(model, corpus, plan)
    save(model, options.output, corpus.metadata)
    _show_sample("after training", model, corpus.vocabulary, prompt)
    _report(history, corpus)
    _say(f"saved to {options.output}; next: lstm-cy generate {options.output}")
    _compare(model.layers[1])


def _show_sample(title: str, model: Sequential, vocabulary: Vocabulary | Words | Bytes, prompt: str) -> None:
    text = "".join(generate(model, vocabulary, prompt, length=300, temperature=0.7, seed=1))
    _say(f"\n--- {title}, the model writes:\n{prompt}{text}\n---\n")


def _demo_training(model: Sequential, corpus: _Corpus, plan: _Plan) -> History:
    text, optimizer = columns(corpus.train, plan.batch_size), Adam(model, plan.lr)
    begin = time.monotonic()

    def time_used() -> float:
        return (time.monotonic() - begin) / plan.seconds

    def data(epoch: int) -> Iterator[tuple[Array, Array]]:
        for x, y in _pieces(*text, plan, epoch):
            optimizer.lr = _falling(plan.lr, max(epoch / plan.epochs, time_used()))
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
        _say(f"time was up in part {len(history.loss)} of {plan.epochs}: this machine is slow, or busy")
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
    _say("\nforward pass, same weights        NumPy      lstm_cy      ratio  largest difference")
    for steps, rows in [(1, 1), (100, 1), (50, 32)]:
        x = np.random.default_rng(0).standard_normal((steps, rows, lstm.input_size), dtype=np.float32)
        title = f"{steps} step(s), {rows} row(s)"
        found = bench.measured("forward", title, lstm, x, seconds=0.5)
        plain, ours = (1e6 * found.seconds[name] for name in ("NumPy", "lstm_cy"))
        _say(f"{title:<24}{plain:12.0f} us{ours:10.0f} us{plain / ours:10.1f}x{found.difference:20.1e}")
    _say_threads()


def _bench(options: Namespace) -> None:
    """Compare the speed with plain NumPy, and PyTorch and ONNX Runtime where they are installed, on one thread.

    All alternate with the same weights, after their results have been compared. The repository's benchmarks/compare.py
    measures more shapes and options.
    """
    if os.environ.get(_BLAS_THREADS) != "1":  # NumPy's BLAS reads it only when it is loaded
        command = [sys.executable, "-m", "lstm_cy", "bench", "--seconds", str(options.seconds)]
        done = subprocess.run(command, env=os.environ | {_BLAS_THREADS: "1"})
        raise SystemExit(done.returncode)
    peers = [name for name in bench.installed() if name != "lstm_cy"]
    _say("medians in microseconds; in brackets the ratio to lstm_cy")
    _say(f"{'':<10}{'BxTxIxH':<16}{'lstm_cy':>10}" + "".join(f"{name:>20}" for name in peers))
    for row in bench.rows(seconds=options.seconds):
        ours = row.seconds["lstm_cy"]
        line = f"{row.kind:<10}{row.shape:<16}{1e6 * ours:>10.1f}"
        for name in peers:
            if name in row.seconds:
                line += f"{1e6 * row.seconds[name]:>11.1f} {f'({row.seconds[name] / ours:.1f}x)':>8}"
        _say(line)
    _say_threads()


def _say_threads() -> None:
    found = show_config("dicts")
    _say(", ".join(f"{name}: {found[name]}" for name in ("instruction set", "engine", "threads", "BLAS threads")))
