"""Spoken digits and commands become words: log-mel features, an LSTM, CTC.

    python -m examples.speech train              # synthesise speech with espeak-ng, train for some minutes
    python -m examples.speech evaluate           # word error rate with new voices and sentences
    python -m examples.speech listen FILE.wav    # print the words in a file
    python -m examples.speech train --streaming && python -m examples.speech stream FILE.wav

`stream -` reads 16-bit samples at 16 kHz from standard input:
arecord -q -t raw -f S16_LE -r 16000 | python -m examples.speech stream -
"""

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # before NumPy is loaded
    # The products are small here: threads of BLAS would wait for each other longer than they compute.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from lstm_cy import Adam, ctc, fit, load, save, set_num_threads

from . import audio, recognizer, voices


def main(arguments=None):
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; train --resume continues after the last complete epoch") from None


def train(options):
    """Synthesise speech with espeak-ng, train on it, and evaluate."""
    words = list(voices.WORDS[: options.words])
    spoken = voices.utterances(options.sentences, "train", words, options.longest)
    paths = voices.synthesise(spoken, options.cache)
    held_back = max(len(spoken) // 20, 1)  # sentences of known voices, for the validation
    model = recognizer.build(len(words), options.hidden, options.streaming)
    optimizer = Adam(model, lr=options.lr)

    def lower_rate(history):
        """Lower the rate along half a cosine, to a twentieth of it."""
        optimizer.lr = options.lr * (0.05 + 0.95 * (1 + np.cos(np.pi * len(history.loss) / options.epochs)) / 2)

    output = model_path(options)
    output.parent.mkdir(parents=True, exist_ok=True)
    make = partial(recognizer.batches, words=words, streaming=options.streaming, batch_size=options.batch_size)
    validation = make(spoken[:held_back], paths[:held_back], seed=1)
    fit(
        model,
        recognizer.ahead(make(spoken[held_back:], paths[held_back:], seed=0)),
        loss=ctc,
        optimizer=optimizer,
        epochs=options.epochs,
        validation=lambda epoch: validation(0),
        clip_norm=1.0,
        checkpoint=output.with_suffix(".checkpoint.npz"),
        resume=options.resume,
        callbacks=[lower_rate],
    )
    save(model, output, metadata={"words": words, "longest": options.longest, "streaming": options.streaming})
    print(f"{output}: {sum(array.size for array in model.parameters.values())} parameters")
    return evaluate(options)


def evaluate(options):
    """Print word error rates with voices and sentences that are not in the training data."""
    model = loaded(options)
    spoken = voices.utterances(options.test_sentences, "test", model.metadata["words"], model.metadata["longest"])
    paths = voices.synthesise(spoken, options.cache)
    print(f"{len(spoken)} new sentences by {len(voices.HELD_OUT)} new voices")
    rates = {}
    for name, snr in {"noise as in training": (5, 35), "20 dB": (20, 20), "10 dB": (10, 10), "5 dB": (5, 5)}.items():
        rates[name] = recognizer.word_error_rate(model, spoken, paths, snr=snr)
        print(f"word error rate, {name}: {rates[name]:.2%}")
    return rates


def listen(options):
    """Print the words in a file."""
    model = loaded(options)
    heard = " ".join(recognizer.transcripts(model, [audio.read_wav(options.file)])[0])
    print(heard or "(nothing)")
    return heard


def stream(options):
    """Print words as they are recognised, and the time of a step."""
    model = loaded(options)
    if not model.metadata["streaming"]:
        raise SystemExit(f"{model_path(options)} is bidirectional and needs the end first; train one with --streaming")
    listener = recognizer.Listener(model)
    heard, seconds = [], []
    for piece in raw_samples() if options.file == "-" else file_samples(options.file):
        answers = listener.hear(piece)
        while True:
            started = time.perf_counter()
            try:
                word = next(answers)
            except StopIteration:
                break
            seconds.append(time.perf_counter() - started)
            if word:
                heard.append(word)
                print(f"{len(seconds) * audio.STEP / audio.RATE:6.2f} s  {word}", flush=True)
    if not seconds:
        raise SystemExit("nothing was heard: the sound ended before the first step was complete")
    median, slow = 1000 * np.quantile(seconds, [0.5, 0.99])
    step = 1000 * audio.STEP // audio.RATE
    print(f"{len(seconds)} steps of {step} ms took {median:.3f} ms each (median; 99 % within {slow:.3f} ms)")
    return heard


def file_samples(path):
    """Return the sound of a file in pieces of 20 ms, as from a microphone."""
    samples = audio.read_wav(path)
    return np.split(samples, range(320, len(samples), 320))


def raw_samples():
    """Yield standard input in pieces of 20 ms, until it ends or Ctrl-C."""
    try:
        while piece := sys.stdin.buffer.read(640):
            yield audio.mono(np.frombuffer(piece[: len(piece) // 2 * 2], "<i2"))
    except KeyboardInterrupt:
        print(file=sys.stderr)


def model_path(options):
    return options.model or Path("build/speech") / ("stream.npz" if options.streaming else "listen.npz")


def loaded(options):
    path = model_path(options)
    if not path.exists():
        flags = " --streaming" if options.streaming else ""
        raise SystemExit(f"there is no model {path} yet; make one: python -m examples.speech train{flags}")
    model = load(path)
    if not (getattr(model, "metadata", None) or {}).get("words"):
        raise SystemExit(f"{path} is not a model of this example")
    weights = getattr(options, "weights", "float32")  # `train` evaluates the weights that it trained
    return model if weights == "float32" else model.quantize(weights)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m examples.speech", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    for function in (train, evaluate, listen, stream):
        command = commands.add_parser(function.__name__, help=function.__doc__.partition("\n")[0])
        command.set_defaults(run=function, streaming=function is stream)
        command.add_argument("--model", type=Path, help="default: build/speech/listen.npz, or stream.npz")
        if function is not train:
            choices = ("float32", "bf16", "int8")
            command.add_argument(
                "--weights", choices=choices, default="float32", help="precision of the LSTMs' weights"
            )
        if function in (listen, stream):
            command.add_argument(
                "file", help="a WAV file" + ("; - for samples from standard input" * (function is stream))
            )
            continue
        command.add_argument("--streaming", action="store_true", help="a model that reads forward only")
        command.add_argument(
            "--cache", type=Path, default=Path("build/speech/audio"), help="folder of the speech files"
        )
        command.add_argument("--test-sentences", type=int, default=400)
        if function is train:
            command.add_argument("--sentences", type=int, default=4000)
            command.add_argument(
                "--words", type=int, default=len(voices.WORDS), help="number of words, the digits first"
            )
            command.add_argument("--longest", type=int, default=7, help="most words in a sentence")
            command.add_argument("--epochs", type=int, default=24)
            command.add_argument("--batch-size", type=int, default=16)
            command.add_argument(
                "--hidden", type=int, default=128, help="units of each direction of each of two layers"
            )
            command.add_argument("--lr", type=float, default=2e-3)
            command.add_argument("--resume", action="store_true", help="continue an interrupted training")
    return parser


if __name__ == "__main__":
    set_num_threads(os.cpu_count())
    main()
