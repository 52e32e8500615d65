"""Runs that are killed and resumed against runs that are not; checkpoints that are refused."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from small_runs import LENGTHS, Recorder, Scripted, arrays, bits, interrupting, model_of, train

from lstm_cy import LSTM, SGD, Adam, mse
from lstm_cy.training import read_history
from lstm_cy.weights.containers.npz import read_npz, write_npz


def long_run(path, *, epochs=6, loss=mse, resume=False, patience=None, **others):
    """Train with many options; return the model, its optimizer and the history."""
    model = model_of(dropout=0.2, dtype="float32")
    optimizer = Adam(model, 0.02, weight_decay=0.01)

    def schedule(history):
        optimizer.lr *= 0.9

    options = {"bptt": 3, "clip_norm": 0.3, "batch_size": 4, "seed": 3, "callbacks": [schedule]} | others
    history = train(
        model,
        (*arrays(), LENGTHS),
        loss=loss,
        optimizer=optimizer,
        validation=arrays(rows=4, seed=1),
        patience=patience,
        epochs=epochs,
        checkpoint=path,
        resume=resume,
        **options,
    )
    return model, optimizer, history


def assert_same_run(one, other):
    assert bits(one[0].parameters) == bits(other[0].parameters)
    assert bits(one[1].state_dict()) == bits(other[1].state_dict())
    assert one[2].loss == other[2].loss
    assert one[2].validation == other[2].validation
    assert len(one[2].seconds) == len(other[2].seconds)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


@pytest.mark.parametrize("calls", [(1,), (40,), (12, 30), (25, 1, 2, 30)])
def test_an_interrupted_training_resumes_bit_for_bit(calls, path):
    whole = long_run(path.with_name("whole.npz"))
    for call in calls:
        with pytest.raises(KeyboardInterrupt):
            long_run(path, loss=interrupting(KeyboardInterrupt, call), resume=True)
    assert_same_run(long_run(path, resume=True), whole)
    assert sorted(p.name for p in path.parent.iterdir()) == ["run.npz", "whole.npz"]


def blocked_run(path):
    """Print a line in the middle of the fourth epoch, and wait there for ever; runs in a separate process."""
    done, calls = [], itertools.count(1)

    def loss(*arguments, **keywords):
        if len(done) == 3 and next(calls) == 2:
            print("in the middle", flush=True)
            sys.stdin.read()
        return mse(*arguments, **keywords)

    long_run(path, loss=loss, callbacks=[done.append])


def test_a_killed_training_resumes_bit_for_bit(path):
    program = f"import test_checkpoint; test_checkpoint.blocked_run({str(path)!r})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout.readline() == b"in the middle\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert read_npz(path)["history.loss"].shape == (3,)
    resumed = long_run(path, resume=True, callbacks=())
    assert_same_run(resumed, long_run(path.with_name("whole.npz"), callbacks=()))


def test_resuming_a_finished_run_trains_only_if_epochs_is_larger(path):
    done = long_run(path)
    again = long_run(path, loss=interrupting(AssertionError, 1), resume=True)
    assert_same_run(again, done)
    assert_same_run(long_run(path, epochs=9, resume=True), long_run(path.with_name("whole.npz"), epochs=9))
    fewer = long_run(path, epochs=2, loss=interrupting(AssertionError, 1), resume=True)
    assert len(fewer[2].loss) == 9


def test_without_resume_or_without_a_file_training_starts_from_the_beginning(path):
    fresh = long_run(path, resume=True)
    assert path.exists()
    assert_same_run(long_run(path.with_name("other.npz")), fresh)
    assert len(long_run(path, epochs=2)[2].loss) == 2
    assert read_npz(path)["history.loss"].shape == (2,)


def test_patience_counts_across_an_interruption(path):
    values = [3.0, 2.0, 2.5, 2.2, 1.0]
    options = {"validation": arrays(rows=1), "patience": 2, "epochs": 5, "checkpoint": path}
    models = model_of(), model_of()
    train(models[0], arrays(), loss=Scripted(*values), **options | {"checkpoint": None})

    def stop(history):
        return len(history.loss) == 3

    train(models[1], arrays(), loss=Scripted(*values), **options, callbacks=[stop])
    models = models[0], model_of()
    history = train(models[1], arrays(), loss=Scripted(*values[3:]), **options, resume=True)
    assert history.validation == values[:4]
    assert bits(models[0].parameters) == bits(models[1].parameters)
    # a run that patience has stopped trains no more when it is resumed
    models = models[0], model_of()
    history = train(models[1], arrays(), loss=Scripted(), **options, resume=True)
    assert history.validation == values[:4]
    assert bits(models[0].parameters) == bits(models[1].parameters)


def test_a_checkpoint_keeps_losses_and_settings_that_are_not_finite(path):
    options = {"validation": arrays(rows=1), "checkpoint": path, "clip_norm": float("inf")}
    train(model_of(), arrays(), loss=Scripted(np.nan, np.inf, -np.inf), epochs=3, **options)
    history = train(model_of(), arrays(), loss=Scripted(0.5), epochs=4, resume=True, **options)
    np.testing.assert_array_equal(history.validation, [np.nan, np.inf, -np.inf, 0.5])


def test_a_checkpoint_holds_its_settings_as_json_and_no_pickle(path):
    long_run(path)
    with np.load(path, allow_pickle=False) as file:
        contents = {name: file[name] for name in file}
    settings = json.loads(contents["checkpoint"].tobytes())["settings"]
    assert settings["model"]["layers"][0]["hidden_size"] == 5
    assert settings["optimizer"] == {
        "type": "Adam", "lr": 0.02, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01
    }  # fmt: skip
    assert contents["optimizer.lr"] == pytest.approx(0.02 * 0.9**6)
    assert settings["seed"] == 3


def unchanged(path, message, *, kind=ValueError, **options):
    """Check that resuming from `path` fails with `message` and changes nothing; return the whole message."""
    model = options.pop("model", None) or model_of()
    optimizer = options.pop("optimizer", Adam)(model, options.pop("lr", 0.01))
    before, state = bits(model.parameters), bits(optimizer.state_dict())
    with pytest.raises(kind, match=message) as error:
        train(model, arrays(), optimizer=optimizer, epochs=3, checkpoint=path, resume=True, **options)
    assert bits(model.parameters) == before
    assert bits(optimizer.state_dict()) == state
    return str(error.value)


def test_a_checkpoint_that_does_not_fit_names_every_difference(path):
    train(model_of(), arrays(), checkpoint=path, bptt=3)
    text = unchanged(
        path,
        "does not fit this call",
        model=model_of(size=6, dropout=0.5),
        lr=0.02,
        batch_size=8,
        clip_norm=1.0,
        seed=4,
        validation=arrays(),
    )
    for difference in (
        "model.layers[0].hidden_size: the checkpoint has 5, this call 6",
        "model.layers[0].dropout: the checkpoint has 0.0, this call 0.5",
        "model.layers[1].p: the checkpoint has 0.0, this call 0.5",
        "model.layers[2].in_features: the checkpoint has 5, this call 6",
        "optimizer.lr: the checkpoint has 0.01, this call 0.02",
        "batch_size: the checkpoint has 32, this call 8",
        "bptt: the checkpoint has 3, this call None",
        "clip_norm: the checkpoint has None, this call 1.0",
        "seed: the checkpoint has 0, this call 4",
        "validation: the checkpoint has False, this call True",
    ):
        assert difference in text
    assert text.count("the checkpoint has") == 10
    text = unchanged(path, "does not fit", bptt=3, optimizer=SGD)
    assert "optimizer.type: the checkpoint has 'Adam', this call 'SGD'" in text
    text = unchanged(path, "does not fit", bptt=3, model=LSTM(2, 3, dtype="float64"))
    assert "model.type: the checkpoint has 'Sequential', this call 'LSTM'" in text


def test_a_damaged_or_foreign_checkpoint_is_refused_by_name(path):
    train(model_of(), arrays(), checkpoint=path)
    good = path.read_bytes()
    named = re.escape(str(path))
    for content in (b"", b"no archive", good[: len(good) // 2], good[:-1], good[:400] + b"\xff" + good[401:]):
        path.write_bytes(content)
        unchanged(path, named)
    for foreign in (
        {"weight": np.zeros(3)},
        {"checkpoint": np.frombuffer(b"[1]", np.uint8)},
        {"checkpoint": np.frombuffer(b'{"format": "another 1", "settings": {}}', np.uint8)},
        {"checkpoint": np.frombuffer(b"\xff\xff{", np.uint8)},
        {"checkpoint": np.frombuffer(b"[" * 100_000, np.uint8)},
        {"checkpoint": np.array(3.0)},
    ):
        write_npz(path, foreign)
        unchanged(path, named + " is not one that fit has written")


def test_a_checkpoint_that_cannot_be_written_is_refused_before_the_first_step(path):
    path.mkdir()
    loss = Recorder()
    with pytest.raises(ValueError, match="checkpoint: expected a file that can be written"):
        train(model_of(), arrays(), checkpoint=path, loss=loss)
    assert not loss.calls


def test_nothing_in_a_checkpoint_is_executed(path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(path.with_name("trapped")),)

    np.savez(path, checkpoint=np.array([Trap()], dtype=object))
    unchanged(path, re.escape(str(path)))
    assert not path.with_name("trapped").exists()


def test_a_checkpoint_with_other_arrays_is_refused(path):
    train(model_of(), arrays(), checkpoint=path)
    good = read_npz(path)
    write_npz(
        path,
        {name: array for name, array in good.items() if name != "parameters.2.bias"}
        | {
            "optimizer.exp_avg.2.bias": np.zeros(4),
            "parameters.2.weight": good["parameters.2.weight"].astype(np.float32),
            "best.2.bias": np.zeros(3),
            "history.seconds": np.zeros(2),
        },
    )
    text = unchanged(path, re.escape(f"{path} does not fit this call"))
    for difference in (
        "parameters.2.bias: expected <f8 (3,), got no array",
        "optimizer.exp_avg.2.bias: expected <f8 (3,), got <f8 (4,)",
        "parameters.2.weight: expected <f8 (3, 5), got <f4 (3, 5)",
        "best.2.bias: expected no array, got <f8 (3,)",
        "history.seconds: expected <f8 (1,), got <f8 (2,)",
    ):
        assert difference in text
    assert text.count("expected") == 5
    write_npz(path, good | {"optimizer.step": np.array(-1)})
    unchanged(path, re.escape(str(path)) + r".*step.*expected at least 0, got -1")


def header(settings):
    content = json.dumps({"format": "lstm_cy checkpoint 1", "settings": settings})
    return {"checkpoint": np.frombuffer(content.encode(), np.uint8)}


def deep(levels):
    content = b'{"format": "lstm_cy checkpoint 1", "settings": {"model": ' + b"[" * levels + b"]" * levels + b"}}"
    return {"checkpoint": np.frombuffer(content, np.uint8)}


DAMAGES = {
    "not settings": (lambda good: header(3), "is not one that fit has written"),
    "settings in a list": (lambda good: header([{}]), "is not one that fit has written"),
    "endlessly nested settings": (lambda good: deep(100_000), "is not one that fit has written"),
    "deep settings": (lambda good: deep(900), "model: the checkpoint has .*, this call"),
    "many settings": (lambda good: header({"x": "y" * (1 << 20)}), "is not one that fit has written"),
    "strange settings": (lambda good: header({f"\x1b[31m{n}": n for n in range(99)}), r"\\x1b\[31m0: .*and \d+ more"),
    "history in two axes": (lambda good: {"history.loss": np.zeros((1, 1))}, r"history.loss: expected <f8 \(1,\)"),
    "history of integers": (lambda good: {"history.loss": np.zeros(1, int)}, "history.loss: expected <f8"),
    "history of more": (lambda good: {"history.more": np.zeros(1)}, "history.more: expected no array"),
    "history of nothing": (lambda good: {"history.loss": np.zeros(0), "history.seconds": np.zeros(0)}, "history.loss"),
    "no losses": (lambda good: {"history.loss": None}, "history.loss: expected .*, got no array"),
    "no history": (lambda good: {"history.loss": None, "history.seconds": None}, "history.loss: expected"),
    "more epochs than steps": (
        lambda good: {"history.loss": np.zeros(7), "history.seconds": np.zeros(7)},
        "history.loss: expected at most 1 epochs, because there were 1 steps, got 7",
    ),
    "no steps": (
        lambda good: {"optimizer.step": np.array(0)},
        "history.loss: expected at most 0 epochs, because there were 0 steps, got 1",
    ),
    "steps below 0": (lambda good: {"optimizer.step": np.array(-1)}, "'step'.*expected at least 0, got -1"),
    "too many steps": (lambda good: {"optimizer.step": np.array(2**63 - 1)}, "'step'.*expected at most"),
    "a rate of NaN": (lambda good: {"optimizer.lr": np.array(np.nan)}, "'lr'.*got nan"),
    "a rate below 0": (lambda good: {"optimizer.lr": np.array(-1.0)}, "'lr'.*got -1.0"),
    "an infinite rate": (lambda good: {"optimizer.lr": np.array(np.inf)}, "'lr'.*got inf"),
    "weights of NaN": (
        lambda good: {"parameters.2.weight": np.full_like(good["parameters.2.weight"], np.nan)},
        "parameters.2.weight: expected finite numbers",
    ),
    "one weight of NaN": (
        lambda good: {"parameters.2.bias": np.where([False, True, False], np.nan, good["parameters.2.bias"])},
        "parameters.2.bias: expected finite numbers",
    ),
    "infinite weights": (
        lambda good: {"parameters.2.bias": np.full_like(good["parameters.2.bias"], -np.inf)},
        "parameters.2.bias: expected finite numbers",
    ),
    "best weights of NaN": (
        lambda good: {"best.2.bias": np.full_like(good["best.2.bias"], np.nan)},
        "best.2.bias: expected finite numbers",
    ),
    "means of NaN": (
        lambda good: {"optimizer.exp_avg.2.bias": np.full_like(good["optimizer.exp_avg.2.bias"], np.nan)},
        "exp_avg.2.bias.*expected finite numbers",
    ),
    "squares below 0": (
        lambda good: {"optimizer.exp_avg_sq.2.bias": np.full_like(good["optimizer.exp_avg_sq.2.bias"], -1)},
        "exp_avg_sq.2.bias.*expected finite numbers of at least 0, got -1.0",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_numbers_and_settings_of_a_checkpoint_are_checked(name, path):
    damage, message = DAMAGES[name]
    train(model_of(), arrays(), checkpoint=path, validation=arrays())
    good = read_npz(path)
    changed = good | damage(good)
    if name == "more epochs than steps":
        changed["history.validation"] = np.zeros(7)
    write_npz(path, {name: array for name, array in changed.items() if array is not None})
    text = unchanged(path, "checkpoint: " + re.escape(str(path)) + f"(?s:.*){message}", validation=arrays())
    assert text.isprintable() and len(text) < 20_000


def test_at_most_fifty_differences_are_named(path):
    train(model_of(), arrays(), checkpoint=path)
    good = read_npz(path)
    write_npz(path, good | header({}))
    own = unchanged(path, "does not fit").count("the checkpoint has")
    for names, more in ((50, ""), (51, "; and 1 more"), (52, "; and 2 more")):
        write_npz(path, good | header({f"unknown {n}": n for n in range(names - own)}))
        text = unchanged(path, "does not fit")
        assert text.count("the checkpoint has") == 50
        assert ("more" in text) == bool(more) and text.endswith(more)


def test_a_header_of_a_mebibyte_is_the_largest(path):
    history = train(model_of(), arrays(), checkpoint=path)
    good = read_npz(path)
    content = good["checkpoint"].tobytes()
    write_npz(path, good | {"checkpoint": np.frombuffer(content.ljust(1 << 20), np.uint8)})
    assert read_history(path).loss == history.loss
    write_npz(path, good | {"checkpoint": np.frombuffer(content.ljust((1 << 20) + 1), np.uint8)})
    with pytest.raises(ValueError, match="is not one that fit has written"):
        read_history(path)


def test_read_history(path):
    assert read_history(path).loss == []
    history = train(model_of(), arrays(), checkpoint=path, epochs=2, validation=arrays())
    found = read_history(str(path))
    assert (found.loss, found.validation, found.seconds) == (history.loss, history.validation, history.seconds)
    good = read_npz(path)
    for damage in ({"history.more": np.zeros(2)}, {"history.loss": np.zeros((2, 1))}, {"history.seconds": np.zeros(3)}):
        write_npz(path, good | damage)
        with pytest.raises(ValueError, match=re.escape(str(path)) + ": history"):
            read_history(path)
    write_npz(path, {"weight": np.zeros(3)})
    with pytest.raises(ValueError, match=re.escape(str(path)) + " is not one that fit has written"):
        read_history(path)
    for bad in (None, 3, b"run.npz"):
        with pytest.raises(TypeError, match="checkpoint: expected a str or an os.PathLike"):
            read_history(bad)
