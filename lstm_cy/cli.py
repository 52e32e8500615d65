"""The command line, also ``python -m lstm_cy``: demo, train, generate, trace, convert, inspect, bench and info."""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import bench
from .config import show_config
from .decoding import generate
from .layers import Dropout, Embedding, Linear, Sequential
from .losses import cross_entropy
from .lstm import LSTM
from .optimizers import Adam
from .text import Vocabulary, columns, read_text, standard_library_text, unigram_entropy
from .training import fit
from .weights import conversion, load, save
from .weights.report import describe

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; None: those of the process.

    Returns
    -------
    int
        0, or 1 after an error and 130 after Ctrl-C, each with one line on standard error. Bad usage leaves by
        SystemExit with status 2, and --help with 0.
    """
    options = _parser().parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):  # a model's characters must not end a command in an ASCII terminal
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options.command(options)
    except KeyboardInterrupt:
        print("lstm-cy: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has enough; leave nothing to be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, ArithmeticError, OSError, ImportError, MemoryError) as error:
        print(f"lstm-cy: error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line; the usage is what --help is for."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def _parser():
    parser = _Parser(prog="lstm-cy", description="LSTM for CPUs: arrays in, arrays out.")
    commands = parser.add_subparsers(
        required=True, metavar="demo | train | generate | trace | convert | inspect | bench | info"
    )
    _add_demo(commands)
    _add_train(commands)
    _add_generate(commands)
    _add_trace(commands)
    _add_convert(commands)
    _add_inspect(commands)
    _add_bench(commands)
    info = commands.add_parser("info", help="show versions, instruction set, engine and threads")
    info.set_defaults(command=lambda options: show_config())
    return parser


def _add_command(commands, name, function, help):
    parser = commands.add_parser(
        name, help=help, description=function.__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.set_defaults(command=function)
    return parser.add_argument


def _add_demo(commands):
    add = _add_command(commands, "demo", _demo, "train a small model here and now, and measure it")
    add("--quick", action="store_true", help="a smaller model, in a quarter of the time")
    add("--text", metavar="FILE", help="learn from this file (UTF-8) instead of Python's standard library")
    add("--output", metavar="MODEL", default="lstm_cy-demo.npz", help="where to save the model")


def _add_bench(commands):
    add = _add_command(commands, "bench", _bench, "measure this machine: lstm_cy beside what is installed")
    add("--seconds", type=_positive, default=1.0, help="spent on each shape, about")


def _add_train(commands):
    add = _add_command(commands, "train", _train, "train a character model on a text")
    add("--text", metavar="FILE", help="what to learn from (UTF-8); default: Python's standard library")
    add("--limit-characters", type=_positive_int, metavar="N", help="use the first N characters only")
    add("--min-count", type=_positive_int, default=5, help="rarer characters are taken for unknown ones")
    add("--output", metavar="MODEL", default="model.npz", help="where to save it: .npz or .safetensors")
    add("--embedding", type=_positive_int, default=64, help="size of a character's vector")
    add("--hidden", type=_positive_int, default=256, help="hidden size")
    add("--layers", type=_positive_int, default=1, help="number of LSTM layers")
    add("--dropout", type=_share, default=0.0, help="share of the LSTM's outputs dropped in training")
    add("--epochs", type=_positive_int, default=5, help="times through the text")
    add("--batch-size", type=_positive_int, default=32, help="columns the text is cut into")
    add("--bptt", type=_positive_int, default=64, help="steps that gradients go back")
    add("--lr", type=_positive, default=3e-3, help="learning rate at the beginning")
    add("--clip-norm", type=_positive, default=1.0, help="longest gradient")
    add("--seed", type=_natural, default=0, help="of all chance in training")
    add("--checkpoint", metavar="FILE", help="write here after each epoch (.npz)")
    add("--resume", action="store_true", help="go on from the checkpoint if there is one")


def _add_generate(commands):
    add = _add_command(commands, "generate", _generate, "let a trained model write")
    add("model", metavar="MODEL", help="a model of `lstm-cy train` or `lstm-cy demo`")
    add("--prompt", default="", help="the text to go on with")
    add("--length", type=_natural, default=500, help="how many characters to write")
    add("--temperature", type=_non_negative, default=0.8, help="0: always the likeliest; 1: as learned")
    add("--seed", type=_natural, help="the same seed writes the same text")


def _add_trace(commands):
    add = _add_command(commands, "trace", _trace, "see what every gate did while a model read a text")
    add("model", metavar="MODEL", help="a model of `lstm-cy train` or `lstm-cy demo`")
    add("--text", required=True, help="the text to read, itself")
    add("--png", metavar="FILE", help="draw the gates here; needs matplotlib")
    add("--npz", metavar="FILE", help="write the gates here, as arrays")
    add("--report", action="store_true", help="say it in plain text; so it does where neither file is asked for")
    add("--layer", type=int, default=-1, help="of the model's LSTM layers, from 0; -1 is the last")
    add("--units", type=_positive_int, default=8, help="how many of the most telling units are shown")


def _add_convert(commands):
    add = _add_command(commands, "convert", _convert, "make one kind of model file of another")
    add("input", metavar="IN", help="of lstm_cy, PyTorch, Keras or ONNX, as its suffix says")
    add("output", metavar="OUT", help=".npz, .safetensors or .onnx; replaced if it is there")
    add("--name", help="which LSTM to take of several: a prefix or a node, as `lstm-cy inspect` shows it")
    add("--batch-first", action="store_true", help="of PyTorch's tensors, which do not tell: x is (B, T, I)")
    add("--states", action="store_true", help="the initial states become inputs of the .onnx file")
    add("--lengths", action="store_true", help="the rows' lengths become an input of the .onnx file")
    check = (
        "run both files on random input, by their frameworks where these are installed, and tell the largest difference"
    )
    add("--check", action="store_true", help=f"{check}; the status is 1 where it is above {conversion.LIMIT:g}")


def _add_inspect(commands):
    add = _add_command(commands, "inspect", _inspect, "tell what is in a model file")
    add("file", metavar="FILE", help="of lstm_cy, PyTorch, Keras or ONNX, as its suffix says")


def _number(kind, accept, wanted):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accept(value):
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
        return value

    return parse


_positive_int = _number(int, lambda value: value >= 1, "an integer of at least 1")
_natural = _number(int, lambda value: value >= 0, "an integer of at least 0")
_positive = _number(float, lambda value: 0 < value < math.inf, "a number above 0")
_non_negative = _number(float, lambda value: 0 <= value < math.inf, "a number of at least 0")
_share = _number(float, lambda value: 0 <= value < 1, "a number in [0, 1)")


def _say(*words):
    print(*words, flush=True)


# What train and demo have in common

_MOST_HELD_OUT = 100_000  # characters: enough to be sure of the second decimal


class _Corpus(NamedTuple):
    vocabulary: Vocabulary
    train: np.ndarray
    held_out: np.ndarray


def _corpus(text, batch_size, min_count):
    """The text as tokens; its last twentieth is held out, and the vocabulary is that of the rest."""
    cut = len(text) - max(min(len(text) // 20, _MOST_HELD_OUT), batch_size + 1)
    if cut <= batch_size:
        raise ValueError(f"the text: {len(text)} characters are too few for batches of {batch_size}")
    vocabulary = Vocabulary.from_text(text[:cut], min_count)
    _say(f"{len(text)} characters of text, {len(text) - cut} of them held out; {len(vocabulary)} tokens")
    return _Corpus(vocabulary, vocabulary.encode(text[:cut]), vocabulary.encode(text[cut:]))


def _character_model(tokens, embedding, hidden, *, layers=1, dropout=0.0, seed=0):
    model = Sequential(
        Embedding(tokens, embedding, seed=seed),
        LSTM(embedding, hidden, layers, dropout=dropout if layers > 1 else 0.0, seed=seed + 1),
        *([Dropout(dropout)] if dropout else []),
        Linear(hidden, tokens, seed=seed + 2),
    )
    weights = sum(array.size for array in model.parameters.values())
    _say(f"model of {weights} weights: embedding {embedding}, {layers} LSTM layer(s) of {hidden}")
    return model


def _try_output(model, path, metadata):
    """Raise now, not after the training, what saving the model would raise."""
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".lstm_cy-") as folder:
        save(model, Path(folder, path.name), metadata)


def _report(history, held_out):
    loss, unigram = history.validation[-1], unigram_entropy(held_out)
    _say(f"held-out loss    {loss:.3f} nats a character ({loss / math.log(2):.3f} bits)")
    _say(f"unigram entropy  {unigram:.3f} nats a character ({unigram / math.log(2):.3f} bits)")


def _train(options):
    """Train a character model on a text and save it with its vocabulary."""
    text = read_text(options.text) if options.text else standard_library_text(options.limit_characters)
    corpus = _corpus(text[: options.limit_characters], options.batch_size, options.min_count)
    model = _character_model(
        len(corpus.vocabulary),
        options.embedding,
        options.hidden,
        layers=options.layers,
        dropout=options.dropout,
        seed=options.seed,
    )
    metadata = {"vocabulary": corpus.vocabulary.to_json()}
    _try_output(model, options.output, metadata)
    optimizer = Adam(model, options.lr)
    history = fit(
        model,
        columns(corpus.train, options.batch_size),
        loss=cross_entropy,
        optimizer=optimizer,
        epochs=options.epochs,
        batch_size=options.batch_size,
        validation=columns(corpus.held_out, options.batch_size),
        bptt=options.bptt,
        clip_norm=options.clip_norm,
        checkpoint=options.checkpoint,
        resume=options.resume,
        seed=options.seed,
    )
    save(model, options.output, metadata)
    _report(history, corpus.held_out)
    _say(f"saved to {options.output}; next: lstm-cy generate {options.output}")


def _load_text_model(path):
    """The model in a file, and the vocabulary that was saved with it."""
    model = load(path)
    if "vocabulary" not in model.metadata:
        raise ValueError(f"{path}: holds no vocabulary; `lstm-cy train` writes models that do")
    return model, Vocabulary.from_json(model.metadata["vocabulary"])


def _generate(options):
    """Let a trained character model go on with a text, and show each character as soon as it is drawn."""
    model, vocabulary = _load_text_model(options.model)
    characters = generate(
        model,
        vocabulary,
        options.prompt,
        length=options.length,
        temperature=options.temperature,
        seed=options.seed,
    )
    print(options.prompt, end="", flush=True)
    for character in characters:
        print(character, end="", flush=True)
    print()


def _trace(options):
    """See what every gate of a trained character model did while it read a text."""
    model, vocabulary = _load_text_model(options.model)
    if not options.text:
        raise ValueError("--text: expected at least one character, got none")
    tokens = vocabulary.encode(options.text)
    trace = model.trace(tokens, layer=options.layer)
    if options.png:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            trace.plot(options.text, units=options.units).savefig(options.png)
        _say(f"picture in {options.png}")
        messages = {str(warning.message) for warning in found}
        if any("missing from font" in message for message in messages):
            _say("it lacks characters that no font here has; install one that does, such as Noto Sans CJK for Chinese")
        for message in sorted(message for message in messages if "missing from font" not in message):
            _say(message)
    if options.npz:
        trace.to_npz(options.npz)
        _say(f"arrays in {options.npz}")
    if options.report or not (options.png or options.npz):
        unknown = np.count_nonzero(tokens == vocabulary.unknown)
        if unknown:
            _say(f"{unknown} characters are not in the model's vocabulary; it read them as unknown ones")
        _say(trace.report(options.text, units=options.units))


# Files of others


def _convert(options):
    """Make a model file of another, of lstm_cy, PyTorch, Keras or ONNX."""
    model, comparison = conversion.read(options.input, options.name, batch_first=options.batch_first)
    written = conversion.write(model, options.output, states=options.states, lengths=options.lengths)
    _say(f"{options.output}: {type(model).__name__}, {os.path.getsize(options.output)} bytes")
    if options.check:
        _check([comparison, *written] if comparison else written)


def _check(comparisons):
    """Tell how far each is from the model; raise if one is too far."""
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


def _inspect(options):
    """Tell what is in a model file: layers, shapes, options, the order of the gates, tensors, what is not supported."""
    for line in describe(options.file):
        _say(line)


# The demonstration


class _Plan(NamedTuple):
    characters: int
    embedding: int
    hidden: int
    epochs: int  # parts of the text, each with a line of progress
    seconds: float  # of training, at most
    lr: float
    batch_size: int = 32
    bptt: int = 32  # short windows make more steps, and the time is short


_FULL = _Plan(characters=4_000_000, embedding=32, hidden=192, epochs=32, seconds=55, lr=1e-2)
_QUICK = _Plan(characters=600_000, embedding=24, hidden=96, epochs=10, seconds=8, lr=1.5e-2)


def _demo(options):
    """Train a character model on real text, show what it learned, and measure it beside plain NumPy."""
    plan = _QUICK if options.quick else _FULL
    text = read_text(options.text) if options.text else standard_library_text(plan.characters)
    corpus = _corpus(text[: plan.characters], plan.batch_size, min_count=5)
    model = _character_model(len(corpus.vocabulary), plan.embedding, plan.hidden)
    metadata = {"vocabulary": corpus.vocabulary.to_json()}
    _try_output(model, options.output, metadata)
    prompt = "" if options.text else "def "
    _show_sample("before training", model, corpus.vocabulary, prompt)
    history = _demo_training(model, corpus, plan)
    save(model, options.output, metadata)
    _show_sample("after training", model, corpus.vocabulary, prompt)
    _report(history, corpus.held_out)
    _say(f"saved to {options.output}; next: lstm-cy generate {options.output}")
    _compare(model.layers[1])


def _show_sample(title, model, vocabulary, prompt):
    text = "".join(generate(model, vocabulary, prompt, length=300, temperature=0.7, seed=1))
    _say(f"\n--- {title}, the model writes:\n{prompt}{text}\n---\n")


def _demo_training(model, corpus, plan):
    text, optimizer = columns(corpus.train, plan.batch_size), Adam(model, plan.lr)
    begin = time.monotonic()

    def time_used():
        return (time.monotonic() - begin) / plan.seconds

    def data(epoch):
        for x, y in _pieces(*text, plan, epoch):
            done = min(1.0, max(epoch / plan.epochs, time_used()))
            optimizer.lr = plan.lr * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
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


def _pieces(x, y, plan, epoch):
    """An epoch's part of the columns, in pieces of a few windows so that time can be kept."""
    part, piece = plan.characters // (plan.batch_size * plan.epochs), 8 * plan.bptt
    begin = epoch * part % max(1, len(x) - part + 1)  # a shorter text is read over and over
    end = min(begin + part, len(x))
    for first in range(begin, end, piece):
        yield x[first : min(first + piece, end)], y[first : min(first + piece, end)]


def _compare(lstm):
    """Print a table: the forward pass of `lstm` beside the same weights in plain NumPy."""
    _say("\nforward pass, same weights        NumPy      lstm_cy      ratio  largest difference")
    for steps, rows in [(1, 1), (100, 1), (50, 32)]:
        x = np.random.default_rng(0).standard_normal((steps, rows, lstm.input_size), dtype=np.float32)
        title = f"{steps} step(s), {rows} row(s)"
        found = bench.measured("forward", title, lstm, x, seconds=0.5)
        plain, ours = (1e6 * found.seconds[name] for name in ("NumPy", "lstm_cy"))
        _say(f"{title:<24}{plain:12.0f} us{ours:10.0f} us{plain / ours:10.1f}x{found.difference:20.1e}")
    _say_threads()


def _bench(options):
    """Measure this library beside plain NumPy, and PyTorch and ONNX Runtime where they are installed, on one thread.

    All take turns with the same weights, and the results are compared first. The repository's benchmarks/compare.py
    does it at length.
    """
    if os.environ.get(_BLAS_THREADS) != "1":  # NumPy's BLAS looks when it is loaded
        command = [sys.executable, "-m", "lstm_cy", "bench", "--seconds", str(options.seconds)]
        ended = subprocess.run(command, env=os.environ | {_BLAS_THREADS: "1"})
        raise SystemExit(ended.returncode)
    peers = [name for name in bench.installed() if name != "lstm_cy"]
    _say("medians in microseconds; in brackets how many times as long as lstm_cy")
    _say(f"{'':<10}{'BxTxIxH':<16}{'lstm_cy':>10}" + "".join(f"{name:>20}" for name in peers))
    for row in bench.rows(seconds=options.seconds):
        ours = row.seconds["lstm_cy"]
        line = f"{row.kind:<10}{row.shape:<16}{1e6 * ours:>10.1f}"
        for name in peers:
            if name in row.seconds:
                line += f"{1e6 * row.seconds[name]:>11.1f} {f'({row.seconds[name] / ours:.1f}x)':>8}"
        _say(line)
    _say_threads()


def _say_threads():
    found = show_config("dicts")
    _say(", ".join(f"{name}: {found[name]}" for name in ("instruction set", "engine", "threads", "BLAS threads")))
