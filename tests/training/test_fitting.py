"""When fit stops, the options that it refuses, and its progress."""

import importlib.util
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from small_runs import LENGTHS, ROWS, STEPS, Scripted, X, Y, arrays, bits, interrupting, model_of, train

from lstm_cy import LSTM, Adam, Dropout, Embedding, Linear, Sequential, fit, mse


@pytest.mark.parametrize(
    ("values", "patience", "epochs", "best"),
    [
        ([3.0, 2.0, 2.0, 2.5, 1.0], 2, 4, 1),  # an equal loss is not an improvement
        ([3.0, 2.0, 2.5, 1.0, 1.5], 2, 5, 3),
        ([3.0, np.nan, 2.0, np.nan, np.nan], 2, 5, 2),
        ([np.nan, np.nan, 2.0, 1.0, 0.5], 1, 2, 0),
        ([np.nan, 3.0, 2.0, 2.5, 2.5], 2, 5, 2),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 9, 5, 0),
    ],
)
def test_patience_stops_and_restores_the_best_parameters(values, patience, epochs, best):
    model, after = model_of(), []
    history = train(
        model,
        arrays(),
        loss=Scripted(*values),
        epochs=5,
        validation=arrays(rows=1),
        patience=patience,
        callbacks=[lambda history: after.append(bits(model.parameters))],
    )
    assert len(history.loss) == len(history.seconds) == epochs
    np.testing.assert_array_equal(history.validation, values[:epochs])
    assert history.best_epoch == best
    assert bits(model.parameters) == after[best]
    assert len(set(map(str, after))) == epochs


def test_without_patience_the_last_parameters_stay():
    model, after = model_of(), []
    callbacks = [lambda history: after.append(bits(model.parameters))]
    history = train(model, arrays(), loss=Scripted(1.0, 2.0), epochs=2, validation=arrays(rows=1), callbacks=callbacks)
    assert history.best_epoch == 0
    assert bits(model.parameters) == after[1]


def test_callbacks_receive_the_history_and_may_stop_the_training():
    seen = []
    history = train(
        model_of(),
        arrays(),
        epochs=9,
        callbacks=(lambda h: len(h.loss) == 3, lambda h: seen.append((len(h.loss), len(h.seconds)))),
    )
    assert len(history.loss) == 3
    assert seen == [(1, 1), (2, 2), (3, 3)]


# errors


OTHER = model_of()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": None}, TypeError, "loss: expected a callable"),
        (
            {"loss": lambda prediction, target: 1.0},
            TypeError,
            r"loss: expected it to return \(value, gradient\), got float",
        ),
        ({"optimizer": Adam}, TypeError, "optimizer: expected an Optimizer"),
        ({"optimizer": Adam(OTHER)}, ValueError, "optimizer: expected one made for this model"),
        ({"epochs": 0}, ValueError, "epochs: expected at least 1"),
        ({"epochs": 1.0}, TypeError, "epochs: expected an integer"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"bptt": 0}, ValueError, "bptt: expected at least 1"),
        (
            {"bptt": 3, "data": (X, np.zeros(ROWS))},
            ValueError,
            r"data: y: with bptt expected a target per step, \(7, 10\)",
        ),
        ({"clip_norm": 0.0}, ValueError, "clip_norm"),
        ({"patience": 3}, ValueError, "patience: expected validation data"),
        ({"patience": 0, "validation": (X, Y)}, ValueError, "patience: expected at least 1"),
        ({"checkpoint": "run.pt"}, ValueError, "checkpoint: expected a path ending in .npz, got 'run.pt'"),
        ({"checkpoint": "no/such/folder/run.npz"}, ValueError, "checkpoint: expected an existing folder"),
        ({"checkpoint": b"run.npz"}, TypeError, "checkpoint: expected a str or an os.PathLike"),
        ({"checkpoint": "a\0.npz"}, ValueError, "checkpoint: expected a path without a null character"),
        ({"resume": True}, ValueError, "resume: expected a checkpoint"),
        ({"resume": 1}, TypeError, "resume: expected True or False"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": None}, TypeError, "seed"),
        ({"progress": "bar"}, TypeError, "progress"),
        ({"callbacks": print}, TypeError, "callbacks: expected a sequence of callables"),
        ({"callbacks": [None]}, TypeError, "callbacks: expected a sequence of callables"),
    ],
)
def test_options_refused(options, error, message):
    model = model_of()
    before = bits(model.parameters)
    with pytest.raises(error, match=message):
        train(model, **({"data": (X, Y)} | options))
    assert bits(model.parameters) == before


@pytest.mark.parametrize("option", ["bidirectional", "reverse"])
def test_bptt_needs_lstms_that_run_forward(option):
    for model in (LSTM(2, 3, **{option: True}), Sequential(LSTM(2, 3, **{option: True}))):
        y = np.zeros((STEPS, ROWS, 6 if option == "bidirectional" else 3))
        with pytest.raises(ValueError, match="bptt: expected LSTMs that run forward only"):
            train(model, (X, y), bptt=3)
        train(model, (X, y))


@pytest.mark.parametrize(("value", "error"), [(np.nan, ValueError), (-1, ValueError), ("x", TypeError)])
def test_a_callback_that_sets_an_invalid_rate_raises_at_once(value, error):
    model = model_of()
    optimizer = Adam(model, 0.01)
    with pytest.raises(error, match="lr: expected a number"):
        train(model, (X, Y), optimizer=optimizer, epochs=3, callbacks=[lambda h: setattr(optimizer, "lr", value)])
    assert optimizer.lr == 0.01 and optimizer.steps == 1


def test_a_callback_stops_with_a_bool_of_numpy_and_cannot_make_training_endless():
    history = train(model_of(), (X, Y), epochs=9, callbacks=[lambda history: np.bool_(len(history.loss) == 2)])
    assert len(history.loss) == 2
    for answer in (1, "stop", [0], np.array([True, False])):
        assert len(train(model_of(), (X, Y), epochs=2, callbacks=[lambda history, a=answer: a]).loss) == 2
    calls = []
    train(model_of(), (X, Y), epochs=3, callbacks=[lambda history: calls.append(history.loss.clear())])
    assert len(calls) == 3


def test_models_refused():
    for model in (Linear(2, 3), Embedding(4, 2), Dropout()):
        with pytest.raises(TypeError, match=rf"model: expected an LSTM or a Sequential, got {type(model).__name__}"):
            train(model, (X, Y))
    with pytest.raises(TypeError, match="model: expected an LSTM or a Sequential, got NoneType"):
        fit(None, (X, Y), loss=mse, optimizer=None, epochs=1)
    tokens = Sequential(Embedding(4, 2), LSTM(2, 3))
    with pytest.raises(ValueError, match="data: x: expected 2 axes, rows on axis 1, got shape"):
        train(tokens, (np.zeros((STEPS, ROWS, 1), int), Y))


# progress


def test_plain_lines_without_tqdm(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    history = train(model_of(), (X, Y), epochs=2, validation=(X, Y), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2
    for epoch, line in enumerate(lines):
        expected = f"epoch {epoch + 1}/2  loss {history.loss[epoch]:.3f}  validation {history.validation[epoch]:.3f}"
        assert re.fullmatch(re.escape(expected) + r"  \d+\.\d s", line)
    train(model_of(), (X, Y), progress=True)
    assert re.fullmatch(r"epoch 1/1  loss \d+\.\d{3}  \d+\.\d s\n", capsys.readouterr().err)
    with pytest.raises(KeyboardInterrupt):
        train(model_of(), (X, Y), loss=interrupting(KeyboardInterrupt, 1), progress=True)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(importlib.util.find_spec("tqdm") is None, reason="tqdm is an extra")
@pytest.mark.parametrize(
    ("data", "options", "total"),
    [
        ((X, Y), {}, "3/3"),
        ((X, Y), {"bptt": 3}, "9/9"),
        ((X, Y, LENGTHS), {}, "3/3"),
        ((X, Y, np.full(ROWS, 6)), {"bptt": 3}, "6step"),  # the number of windows is not known in advance
        (lambda epoch: [(X, Y)] * 5, {}, "5step"),
    ],
)
def test_a_bar_with_tqdm(data, options, total, capsys):
    history = train(model_of(), data, batch_size=4, progress=True, **options)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.rstrip().splitlines()[-1]
    assert last.startswith("epoch 1/1:")
    assert total in last
    assert f"loss {history.loss[0]:.3f}  {history.seconds[0]:.1f} s" in last


class Broken:
    """A stream that cannot be written to."""

    encoding = "utf-8"

    def __init__(self, error):
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error


@pytest.mark.parametrize("stream", [None, Broken(OSError(28, "full")), Broken(ValueError("closed"))])
@pytest.mark.parametrize("bar", [True, False])
def test_training_continues_without_a_working_standard_error(stream, bar, monkeypatch, capsys):
    if not bar:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    quiet = model_of(), model_of()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stream)
        history = train(quiet[0], (X, Y), epochs=2, batch_size=4, validation=(X, Y), progress=True)
    assert history.loss == train(quiet[1], (X, Y), epochs=2, batch_size=4).loss
    assert bits(quiet[0].parameters) == bits(quiet[1].parameters)
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("bar", ["", "sys.modules['tqdm'] = None"])
def test_training_continues_if_the_disk_of_standard_error_is_full(bar):
    program = f"import sys; {bar}\nimport small_runs as r\nprint(r.train(r.model_of(), (r.X, r.Y), progress=True).loss)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, env=environment)
    assert done.stdout.startswith(b"[")


def test_progress_false_prints_nothing(capsys):
    train(model_of(), (X, Y), epochs=2, progress=False)
    assert capsys.readouterr() == ("", "")
