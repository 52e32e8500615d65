"""Translate numbers and dates: train a model, translate texts, draw the attention, count correct translations.

    python -m examples.translation train                              about ten minutes on two cores
    python -m examples.translation translate "en->fr" "twenty-one thousand and seven"
    python -m examples.translation translate "de->en" "dreiundvierzig" --png attention.png
    python -m examples.translation evaluate
    python -m examples.translation evaluate --weights int8            with narrow weights

Numbers below a million between English and French, German, Spanish and Chinese; English dates from and to ISO 8601.
"""

import argparse
import math
import os
import re
import sys
import time
import unicodedata
from pathlib import Path

if __name__ == "__main__":  # before NumPy is loaded
    # The products here are small: a second thread of BLAS gains little on an idle machine and costs much on a busy one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from lstm_cy import Adam, Seq2Seq, cross_entropy, fit, load, save
from lstm_cy.seq2seq import teach

from .corpus import TAGS, make_corpus
from .pieces import Tokens, learn_pieces

_LONGEST = 60  # pieces of a translation; the longest number has 20
_FOR_PIECES = 8000  # pairs that the pieces are learned from


def train(options):
    """Make a corpus, learn its pieces, train a model, save it, and count its correct translations."""
    path = Path(options.model)
    if path.suffix not in (".npz", ".safetensors") or not path.absolute().parent.is_dir():
        raise ValueError(f"--model: expected a .npz or .safetensors file in a folder that exists, got {str(path)!r}")
    print("writing numbers and dates in words ...", file=sys.stderr)
    corpus = make_corpus(options.directions, options.numbers, options.seed, held_out=False)
    pairs = [(_tidy(source), target) for pairs in corpus.values() for source, target in pairs]
    sample = [text for pair in pairs[:: max(1, len(pairs) // _FOR_PIECES)] for text in pair]
    pieces = learn_pieces(sample, options.merges)
    rare = set().union(*map("".join, pairs)) - set(pieces)
    tokens = Tokens(options.directions, [*pieces, *sorted(rare)])
    pool = _tokenized(corpus, tokens)
    held_out = _tokenized(make_corpus(options.directions, 100, options.seed, held_out=True), tokens)
    model = Seq2Seq(len(tokens), embedding_dim=options.embedding, hidden_size=options.hidden, seed=options.seed)
    optimizer = Adam(model, lr=options.lr)
    print(f"{len(pool)} pairs, {len(tokens)} tokens, {_size(model)} parameters", file=sys.stderr)

    def lower_rate(history):
        """Lower the rate to 0 along half a cosine."""
        optimizer.lr = options.lr * (1 + math.cos(math.pi * len(history.loss) / options.epochs)) / 2

    fit(
        model,
        lambda epoch: _batches(pool, options, np.random.default_rng([options.seed, epoch])),
        loss=cross_entropy,
        optimizer=optimizer,
        epochs=options.epochs,
        validation=lambda epoch: [_teach(held_out[i : i + 100]) for i in range(0, len(held_out), 100)],
        clip_norm=1.0,
        checkpoint=options.checkpoint,
        resume=options.resume,
        seed=options.seed,
        callbacks=[lower_rate],
    )
    save(model, options.model, metadata={"tags": tokens.tags, "pieces": tokens.pieces})
    print(f"saved as {options.model}")
    options.weights = "float32"
    evaluate(options)


def _tokenized(corpus, tokens):
    """Return [(source, target)] of tokens, all directions one after the other."""
    return [
        (tokens.source(tag, _tidy(source)), tokens.target(target))
        for tag, pairs in corpus.items()
        for source, target in pairs
    ]


def _batches(pool, options, rng):
    """Yield batches of random pairs of the pool; the pairs of a batch have about equal lengths."""
    chosen = [pool[i] for i in rng.integers(len(pool), size=options.steps * options.batch_size)]
    chosen.sort(key=lambda pair: (len(pair[0]), len(pair[1])))
    for batch in rng.permutation(options.steps):
        yield _teach(chosen[batch * options.batch_size : (batch + 1) * options.batch_size])


def _teach(pairs):
    return teach(*zip(*pairs, strict=True), start=Tokens.edge, end=Tokens.edge)


def _size(model):
    return sum(array.size for array in model.parameters.values())


def evaluate(options):
    """Translate held-out numbers and dates, and count exactly correct translations, by direction."""
    model, tokens = _load(options.model, options.weights)
    corpus = make_corpus(tokens.tags, options.each, options.seed + 1, held_out=True, uniform=True)
    shares, started = {}, time.perf_counter()
    for tag, pairs in corpus.items():
        wrong = [
            (source, target, got) for source, target in pairs if (got := _best(model, tokens, tag, source)) != target
        ]
        shares[tag] = 1 - len(wrong) / len(pairs)
        print(f"{tag:9} {shares[tag]:7.1%} of {len(pairs)}", flush=True)
        for source, target, got in wrong[: options.show]:
            print(f"          {source!r}: expected {target!r}, got {got!r}")
    print(f"all       {np.mean([*shares.values()]):7.1%}")
    print(f"{sum(map(len, corpus.values())) / (time.perf_counter() - started):.0f} translations a second")


def translate(options):
    """Translate texts, or each line of standard input."""
    model, tokens = _load(options.model, options.weights)
    tag = re.sub(r"\s*(->|-|→)\s*", "->", options.direction)
    if tag not in tokens.tags:
        raise ValueError(f"direction: expected one of {', '.join(tokens.tags)}, got {options.direction!r}")
    if options.png and len(options.text) != 1:
        raise ValueError(f"--png: expected one TEXT with it, got {len(options.text)}")
    for text in options.text:
        _show(model, tokens, tag, text, options)
    for line in () if options.text else sys.stdin:
        try:
            _show(model, tokens, tag, line, options)
        except ValueError as error:  # continue with the next line
            print(f"error: {error}", file=sys.stderr)


def _show(model, tokens, tag, text, options):
    """Print the best translation and, depending on the options, the others and a picture."""
    found = _translations(model, tokens, tag, text, options.beam_width)
    print(tokens.text(found[0].tokens), flush=True)
    if options.all:
        for other in found:
            print(f"    {np.exp(other.log_probability):.2%}  {tokens.text(other.tokens)}")
    elif (sure := np.exp(found[0].log_probability)) < 0.5:
        print(f"(the model is not sure: {sure:.0%})", file=sys.stderr)
    if options.png:
        from .picture import draw

        weights = model.align(tokens.source(tag, _tidy(text)), found[0].tokens, start=Tokens.edge)
        read = [tag, *tokens.split(_tidy(text))]
        written = [*(tokens.text([token]) for token in found[0].tokens), "(end)"]
        if draw(weights, read, written, options.png):
            print("no installed font has all characters: some are shown by their values in brackets", file=sys.stderr)
        print(f"the attention is drawn in {options.png}", file=sys.stderr)


def _translations(model, tokens, tag, text, beam_width):
    text = _tidy(text)
    if not text:
        raise ValueError("text: expected something to translate, got nothing")
    return model.translate(
        tokens.source(tag, text),
        start=Tokens.edge,
        end=Tokens.edge,
        beam_width=beam_width,
        max_length=_LONGEST,
    )


def _best(model, tokens, tag, text, beam_width=4):
    return tokens.text(_translations(model, tokens, tag, text, beam_width)[0].tokens)


def _tidy(text):
    """Return a source text in the model's form: lower case, single spaces, accents joined to their letters."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def _load(path, weights):
    model = load(path)
    if not isinstance(model, Seq2Seq) or not {"tags", "pieces"} <= model.metadata.keys():
        raise ValueError(f"{path}: expected a model of `python -m examples.translation train`")
    if weights != "float32":
        model = model.quantize(weights)
    return model, Tokens(model.metadata["tags"], model.metadata["pieces"])


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m examples.translation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)

    def add_command(function):
        command = commands.add_parser(
            function.__name__,
            description=function.__doc__,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.set_defaults(command=function)
        return command.add_argument

    add = add_command(train)
    add("--model", metavar="FILE", default="translation.npz", help="where to save the model")
    add("--directions", nargs="+", default=TAGS, choices=TAGS, metavar="TAG", help="which to learn")
    add("--numbers", type=int, default=20_000, help="how many to learn from; and half as many dates")
    add("--merges", type=int, default=300, help="pieces of words, besides the single characters")
    add("--embedding", type=int, default=64, help="size of a piece's vector")
    add("--hidden", type=int, default=256, help="hidden size")
    add("--epochs", type=int, default=16, help="number of epochs; each ends with a validation")
    add("--steps", type=int, default=300, help="batches of an epoch")
    add("--batch-size", type=int, default=64, help="pairs of a batch")
    add("--lr", type=float, default=2e-3, help="learning rate at the beginning")
    add("--seed", type=int, default=0, help="seed of all random numbers")
    add("--checkpoint", metavar="FILE", help="write here after each epoch (.npz)")
    add("--resume", action="store_true", help="continue from the checkpoint if there is one")
    add("--each", type=int, default=200, help="held-out numbers to translate in each direction at the end")
    add("--show", type=int, default=1, help="mistakes to show for each direction")

    add = add_command(translate)
    add("direction", metavar="DIRECTION", help=f"one of {', '.join(TAGS)} (in quotation marks, or as en-fr)")
    add("text", metavar="TEXT", nargs="*", help="texts to translate; default: each line of standard input")
    add("--model", metavar="FILE", default="translation.npz", help="a model of `train`")
    _add_weights(add)
    add("--beam-width", type=int, default=4, help="width of the beam search")
    add("--all", action="store_true", help="show the other translations and their probabilities, too")
    add("--png", metavar="FILE", help="draw the attention")

    add = add_command(evaluate)
    add("--model", metavar="FILE", default="translation.npz", help="a model of `train`")
    _add_weights(add)
    add("--each", type=int, default=200, help="held-out numbers to translate in each direction")
    add("--show", type=int, default=1, help="mistakes to show for each direction")
    add("--seed", type=int, default=0, help="seed for the choice of values")
    return parser


def _add_weights(add):
    add("--weights", choices=("float32", "bf16", "int8"), default="float32", help="precision of the LSTMs' weights")


def main(arguments=None):
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt:
        sys.exit("interrupted; with --checkpoint FILE, --resume continues from the last complete epoch")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
