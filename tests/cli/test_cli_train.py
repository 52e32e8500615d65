"""The command train."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from running import SMALL, TEXT, command, failure, ticking
from scipy.special import log_softmax

import lstm_cy.__main__
from lstm_cy import cli, config, load
from lstm_cy.cli.train import _timed
from lstm_cy.decoding import generate
from lstm_cy.text import Bytes, Vocabulary, Words
from lstm_cy.training import History, read_history


def test_train_prints_the_loss_of_the_held_out_text(train):
    path, out = train()
    model = load(path)
    vocabulary = Vocabulary.from_json(model.metadata["vocabulary"])
    assert vocabulary.characters == "".join(sorted(set(TEXT[:7600])))

    # the last twentieth, in eight columns, with the state carried along each of them
    tokens = vocabulary.encode(TEXT[7600:8000])
    steps = (len(tokens) - 1) // 8
    x = tokens[: 8 * steps].reshape(8, steps).T
    y = tokens[1 : 8 * steps + 1].reshape(8, steps).T
    logits = log_softmax(model(x)[0].astype(float), axis=-1)
    loss = -np.take_along_axis(logits, y[..., None], -1).mean()
    assert f"held-out loss    {loss:.3f} nats a character ({loss / math.log(2):.3f} bits)" in out

    shares = np.bincount(tokens)[np.bincount(tokens) > 0] / len(tokens)
    entropy = -(shares * np.log(shares)).sum()
    assert f"unigram entropy  {entropy:.3f} nats a character ({entropy / math.log(2):.3f} bits)" in out
    assert loss < entropy


def test_the_options_of_train_set_up_the_model(train):
    model = load(train("--layers=2", "--dropout=0.2", "--epochs=1")[0])
    tokens = len(Vocabulary.from_json(model.metadata["vocabulary"]))
    embedding, lstm, dropout, linear = model.layers
    assert embedding.parameters["weight"].shape == (tokens, 5)
    assert (lstm.input_size, lstm.hidden_size, lstm.num_layers, lstm.dropout) == (5, 12, 2, 0.2)
    assert dropout.config["p"] == 0.2
    assert linear.parameters["weight"].shape == (tokens, 12)
    # one layer has no dropout inside
    model = load(train("--dropout=0.2", "--epochs=1")[0])
    assert (model.layers[1].dropout, model.layers[2].config["p"]) == (0.0, 0.2)


def test_train_passes_its_options_to_fit(text, tmp_path, monkeypatch):
    def fit(model, data, *, loss, optimizer, **keywords):
        assert optimizer.lr == 0.5
        assert data[0].shape == (7600 // 7, 7)
        seen.update(keywords)
        raise KeyboardInterrupt

    seen = {}
    monkeypatch.setattr("lstm_cy.cli.train.fit", fit)
    options = "--epochs=3 --batch-size=7 --bptt=11 --lr=0.5 --clip-norm=0.25 --seed=9 --checkpoint=c.npz --resume"
    line = ["train", f"--text={text}", f"--output={tmp_path / 'm.npz'}", *options.split()]
    with pytest.raises(KeyboardInterrupt):
        cli.main(line)
    assert seen.pop("validation")[0].shape == (399 // 7, 7)
    assert seen == {
        "epochs": 3,
        "batch_size": 7,
        "bptt": 11,
        "clip_norm": 0.25,
        "seed": 9,
        "checkpoint": "c.npz",
        "resume": True,
    }


def test_the_same_seed_trains_the_same_model(train):
    first, second, third = (
        train(f"--seed={seed}", output=name)[0].read_bytes()
        for seed, name in [(1, "a.npz"), (1, "b.npz"), (2, "c.npz")]
    )
    assert first == second != third


def test_train_continues_from_a_checkpoint(train, tmp_path):
    uninterrupted = train(output="uninterrupted.npz")[0].read_bytes()
    checkpoint = f"--checkpoint={tmp_path / 'checkpoint.npz'}"
    first, _ = train(checkpoint, "--resume", "--epochs=1")
    assert first.read_bytes() != uninterrupted
    resumed, _ = train(checkpoint, "--resume")
    assert resumed.read_bytes() == uninterrupted


def test_limit_characters_and_min_count(train):
    path, out = train("--limit-characters=4000", "--min-count=50")
    characters = Vocabulary.from_json(load(path).metadata["vocabulary"]).characters
    assert "4000 characters of text, 200 of them held out" in out
    assert characters == "".join(sorted(c for c in set(TEXT) if TEXT[:3800].count(c) >= 50))


def test_train_reads_the_standard_library_by_default(tmp_path, capsys):
    path = tmp_path / "model.npz"
    assert cli.main(["train", f"--output={path}", "--limit-characters=5000", *SMALL, "--epochs=1"]) == 0
    assert "5000 characters of text" in capsys.readouterr().out
    assert load(path).metadata["vocabulary"]


def test_the_output_file_is_checked_before_the_training(tmp_path, text, capsys, monkeypatch):
    monkeypatch.setattr("lstm_cy.cli.train.fit", lambda *arguments, **keywords: pytest.fail("fit was called"))
    for output, message in [
        ("model.txt", "expected a file ending in .npz, .safetensors, .onnx, .nam, .json or .aidax"),
        ("missing/model.npz", "No such file or directory"),
    ]:
        arguments = ["train", "--text", text, "--output", tmp_path / output, *SMALL]
        assert message in failure(arguments, capsys)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    arguments = ["train", "--text", text, "--output", tmp_path / "model.safetensors", *SMALL]
    assert "pip install safetensors" in failure(arguments, capsys)
    assert list(tmp_path.iterdir()) == [text]


def test_train_reads_words(train, capsys):
    path, out = train("--level=words", "--min-count=2", "--vocabulary=9")
    vocabulary = Words.from_json(load(path).metadata["vocabulary"])
    assert vocabulary == Words.from_text(TEXT[:7600], 2, 9)
    assert " bottles" in vocabulary.words
    assert "8000 characters of text, 400 of them held out; 9 tokens" in out
    assert "nats a word" in out
    assert "not in the vocabulary and count as unknown, such as" in out
    assert cli.main(["generate", str(path), "--prompt= bottles", "--length=20", "--seed=0"]) == 0
    written = Words.split(capsys.readouterr().out)
    assert written[0] == " bottles"
    assert set(vocabulary.words) >= set(written[1:-1])


def test_train_reads_bytes(train, binary, tmp_path):
    path, out = train("--level=bytes", "--limit-characters=5000")
    assert load(path).metadata == {"vocabulary": {"bytes": 256}, "held_out": [4750, 5000]}
    assert "5000 bytes of text, 250 of them held out; 256 tokens" in out
    assert "nats a byte" in out
    assert "unknown" not in out

    expected = "".join(generate(load(path), Bytes(), "7 gr", length=200, seed=3, temperature=1.0))
    assert any("\udc80" <= c <= "\udcff" for c in expected)
    process = command("generate", path, "--prompt=7 gr", "--length=200", "--seed=3", "--temperature=1", cwd=tmp_path)
    assert process.communicate(timeout=60) == (b"7 gr" + expected.encode("utf-8", "surrogateescape") + b"\n", b"")


def test_files_that_are_not_utf8_need_the_level_bytes(tmp_path, binary, capsys):
    arguments = ["train", "--text", binary, "--output", tmp_path / "m.npz"]
    assert "not UTF-8 text: invalid start byte at byte 4; any file can be read as bytes" in failure(arguments, capsys)
    binary.write_bytes(b"")
    for level in ("characters", "words", "bytes"):
        assert f"{binary}: the file is empty" in failure([*arguments, "--level", level], capsys)


def test_train_reads_the_standard_library_as_bytes(tmp_path, capsys):
    path = tmp_path / "model.npz"
    limit = "--limit-characters=5000"
    assert cli.main(["train", f"--output={path}", limit, "--level=bytes", *SMALL, "--epochs=1"]) == 0
    assert "5000 bytes of text" in capsys.readouterr().out


def test_the_option_threads_sets_the_number_of_threads(text, tmp_path, monkeypatch):
    def fit(*arguments, **keywords):
        seen.append(config.get_num_threads())
        raise KeyboardInterrupt

    seen = []
    monkeypatch.setattr("lstm_cy.cli.train.fit", fit)
    for arguments in (["--threads=2"], []):
        monkeypatch.setattr(config, "_num_threads", 5)
        with pytest.raises(KeyboardInterrupt):
            cli.main(["train", f"--text={text}", f"--output={tmp_path / 'm.npz'}", *arguments])
    assert seen == [2, 5]


@pytest.mark.parametrize("threads", [None, "3"])
def test_the_command_line_gives_blas_one_thread_by_default(tmp_path, threads):
    code = "import lstm_cy.__main__, os; print(os.environ['OPENBLAS_NUM_THREADS'])"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    environment |= {"PYTHONPATH": str(Path(lstm_cy.__file__).parents[1])}
    environment |= {"OPENBLAS_NUM_THREADS": threads} if threads else {}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, cwd=tmp_path)
    assert out.stdout.decode().strip() == (threads or "1")


def timed(optimizer, rows=100, **options):
    x = np.arange(rows)[:, np.newaxis]
    return _timed(x, x + 1, optimizer, SimpleNamespace(minutes=2.0, bptt=4, lr=0.5, **options))


def test_the_rate_falls_to_zero_as_time_passes(monkeypatch):
    monkeypatch.setattr("lstm_cy.cli.train.time", ticking())
    optimizer = SimpleNamespace(lr=0.5, steps=0)
    data, parts = timed(optimizer, checkpoint=None), []
    for epoch in range(2):
        parts.append([])
        for x, y in data(epoch):
            assert (y == x + 1).all()
            parts[-1].append((x[0, 0], len(x), optimizer.lr))
            optimizer.steps += math.ceil(len(x) / 4)
    # the clock shows 1 to 60 s in the first part, then 61 to 120 s
    seconds = [*range(1, 60), *range(61, 120)]
    assert [len(part) for part in parts] == [59, 59]
    firsts, sizes, rates = zip(*parts[0], *parts[1], strict=True)
    assert rates == pytest.approx([0.5 * math.cos(math.pi * s / 240) ** 2 for s in seconds])
    assert firsts == tuple(itertools.islice(itertools.cycle([0, 32, 64, 96]), 118))
    assert sizes == tuple(itertools.islice(itertools.cycle([32, 32, 32, 4]), 118))


def test_a_part_that_starts_late_still_makes_a_step(monkeypatch):
    monkeypatch.setattr("lstm_cy.cli.train.time", SimpleNamespace(monotonic=itertools.count(step=500.0).__next__))
    optimizer = SimpleNamespace(lr=0.5, steps=0)
    assert len(list(timed(optimizer, checkpoint=None)(0))) == 1
    assert optimizer.lr == 0


def test_the_time_of_the_checkpoint_counts(monkeypatch):
    monkeypatch.setattr("lstm_cy.cli.train.time", ticking())
    monkeypatch.setattr("lstm_cy.cli.train.read_history", lambda path: {"c.npz": History(seconds=[60.0, 10.0])}[path])
    optimizer = SimpleNamespace(lr=0.5, steps=7)
    x, _ = next(timed(optimizer, checkpoint="c.npz")(2))
    assert x[0, 0] == 28
    assert optimizer.lr == pytest.approx(0.5 * math.cos(math.pi * 71 / 240) ** 2)


def test_train_for_some_minutes_and_resume(train, tmp_path, monkeypatch):
    monkeypatch.setattr("lstm_cy.cli.train.time", ticking())
    checkpoint = tmp_path / "checkpoint.npz"
    first, out = train("--minutes=0.1", f"--checkpoint={checkpoint}")
    assert "held-out loss" in out
    assert len(read_history(checkpoint).loss) == 1
    second, _ = train("--minutes=1.05", f"--checkpoint={checkpoint}", "--resume", output="second.npz")
    assert len(read_history(checkpoint).loss) == 2
    assert first.read_bytes() != second.read_bytes()
    # no time is left
    third, _ = train("--minutes=1.05", f"--checkpoint={checkpoint}", "--resume", output="third.npz")
    assert second.read_bytes() == third.read_bytes()
    assert read_history(tmp_path / "none.npz") == History()
