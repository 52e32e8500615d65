"""The command line, in this process and in processes of its own."""

import io
import itertools
import math
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import log_softmax

import lstm_cy.__main__
from lstm_cy import (
    LSTM,
    Activation,
    Dropout,
    Embedding,
    Linear,
    Seq2Seq,
    Sequential,
    bench,
    cli,
    config,
    load,
    reference,
    save,
)
from lstm_cy.decoding import generate
from lstm_cy.text import Bytes, Vocabulary, Words, vocabulary_from_json
from lstm_cy.training import History, read_history
from lstm_cy.weights import comparisons, gate_order

TEXT = "".join(f"{n} green bottles, standing on the wall\n" for n in range(1000))
SMALL = ["--hidden=12", "--embedding=5", "--batch-size=8", "--bptt=16", "--epochs=2", "--lr=0.01"]


@pytest.fixture(autouse=True)
def restored_threads(monkeypatch):
    monkeypatch.setattr(config, "_num_threads", config.get_num_threads())


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT[:8000])
    return path


@pytest.fixture
def train(tmp_path, text, capsys):
    """Train a small model in this process; return its path and the output."""

    def run(*arguments, output="model.npz"):
        path = tmp_path / output
        assert cli.main(["train", f"--text={text}", f"--output={path}", *SMALL, *arguments]) == 0
        return path, capsys.readouterr().out

    return run


def command(*arguments, cwd, **keywords):
    """Start `python -m lstm_cy` in a separate process, in a folder without the sources."""
    environment = os.environ | {"PYTHONPATH": str(Path(lstm_cy.__file__).parents[1])}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", **keywords.pop("environment", {})}
    line = [sys.executable, "-m", "lstm_cy", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | keywords
    return subprocess.Popen(line, cwd=cwd, env=environment, **streams)


def finished(*arguments, cwd, **keywords):
    """Run a command to its end; return its status, output and errors."""
    process = command(*arguments, cwd=cwd, **keywords)
    out, err = process.communicate(timeout=120)
    return process.returncode, out.decode(), err.decode()


def failure(arguments, capsys):
    """Run a command that fails with status 1 in this process; return its line on standard error."""
    assert cli.main(list(map(str, arguments))) == 1
    err = capsys.readouterr().err
    assert err.startswith("lstm-cy: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


# train


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
    monkeypatch.setattr(cli, "fit", fit)
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
    monkeypatch.setattr(cli, "fit", lambda *arguments, **keywords: pytest.fail("fit was called"))
    for output, message in [
        ("model.txt", "expected a file ending in .npz, .safetensors or .onnx"),
        ("missing/model.npz", "No such file or directory"),
    ]:
        arguments = ["train", "--text", text, "--output", tmp_path / output, *SMALL]
        assert message in failure(arguments, capsys)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    arguments = ["train", "--text", text, "--output", tmp_path / "model.safetensors", *SMALL]
    assert "pip install safetensors" in failure(arguments, capsys)
    assert list(tmp_path.iterdir()) == [text]


@pytest.fixture
def binary(tmp_path, text):
    """A text with two bytes that are not UTF-8 in each line."""
    text.write_bytes(TEXT[:6000].encode("latin-1").replace(b"green", b"gr\xfc\xdfn"))
    return text


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
    monkeypatch.setattr(cli, "fit", fit)
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
    return cli._timed(x, x + 1, optimizer, SimpleNamespace(minutes=2.0, bptt=4, lr=0.5, **options))


def test_the_rate_falls_to_zero_as_time_passes(monkeypatch):
    monkeypatch.setattr(cli, "time", ticking())
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
    monkeypatch.setattr(cli, "time", SimpleNamespace(monotonic=itertools.count(step=500.0).__next__))
    optimizer = SimpleNamespace(lr=0.5, steps=0)
    assert len(list(timed(optimizer, checkpoint=None)(0))) == 1
    assert optimizer.lr == 0


def test_the_time_of_the_checkpoint_counts(monkeypatch):
    monkeypatch.setattr(cli, "time", ticking())
    monkeypatch.setattr(cli, "read_history", lambda path: {"c.npz": History(seconds=[60.0, 10.0])}[path])
    optimizer = SimpleNamespace(lr=0.5, steps=7)
    x, _ = next(timed(optimizer, checkpoint="c.npz")(2))
    assert x[0, 0] == 28
    assert optimizer.lr == pytest.approx(0.5 * math.cos(math.pi * 71 / 240) ** 2)


def test_train_for_some_minutes_and_resume(train, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "time", ticking())
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


# generate


def test_generate_prints_the_prompt_and_the_same_text_for_the_same_seed(train, capsys):
    path, _ = train()

    def generated(*arguments):
        assert cli.main(["generate", str(path), "--prompt=7 green", "--length=40", *arguments]) == 0
        return capsys.readouterr().out

    first = generated("--seed=1")
    assert first.startswith("7 green")
    assert len(first) == len("7 green") + 40 + 1
    assert first.endswith("\n")
    assert generated("--seed=1") == first != generated("--seed=2")
    assert generated("--temperature=0") == generated("--temperature=0", "--seed=5")


def test_generate_shows_each_character_before_the_next_is_drawn(train, monkeypatch):
    class Terminal(io.StringIO):
        seen = ""

        def flush(self):
            self.seen = self.getvalue()

    def characters(*arguments, **keywords):
        for character in "abc":
            shown.append(terminal.seen)
            yield character

    path, _ = train("--epochs=1")
    terminal, shown = Terminal(), []
    monkeypatch.setattr(cli, "generate", characters)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.main(["generate", str(path), "--prompt=p"]) == 0
    assert shown == ["p", "pa", "pab"]
    assert terminal.getvalue() == "pabc\n"


def test_ctrl_c_ends_with_one_line_and_130(train, tmp_path):
    path, _ = train("--epochs=1")
    process = command("generate", path, "--length", 10**9, cwd=tmp_path)
    try:
        process.stdout.read(100)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == b"lstm-cy: interrupted\n"


def test_ctrl_c_during_the_imports(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    assert lstm_cy.__main__.main() == 130
    assert capsys.readouterr().err == "lstm-cy: interrupted\n"


def test_a_closed_pipe_ends_generate_without_a_message(train, tmp_path):
    path, _ = train()
    process = command("generate", path, "--length", 10**9, cwd=tmp_path)
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


def test_an_ascii_terminal_shows_escapes(tmp_path, train, text):
    text.write_text("äöü\n" * 2000, encoding="utf-8")
    path, _ = train()
    status, out, err = finished(
        "generate", path, "--length=30", cwd=tmp_path, environment={"PYTHONIOENCODING": "ascii"}
    )
    assert (status, err) == (0, "")
    assert "\\xe4" in out


def test_a_model_without_a_vocabulary_is_refused(tmp_path, capsys):
    path = tmp_path / "model.npz"
    lstm_cy.save(lstm_cy.Sequential(lstm_cy.Embedding(3, 2), lstm_cy.LSTM(2, 3)), path)
    assert f"{path}: holds no vocabulary" in failure(["generate", path], capsys)
    assert f"{path}: holds no vocabulary" in failure(["trace", path, "--text=a"], capsys)


# trace


def test_trace_prints_a_report_and_writes_a_picture_and_arrays(train, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    path, _ = train("--layers=2")
    model, text = load(path), "7 green\nbottles"
    expected = model.trace(Vocabulary.from_json(model.metadata["vocabulary"]).encode(text), layer=0)
    line = ["trace", str(path), f"--text={text}", "--layer=0", "--units=3"]
    assert cli.main(line) == 0
    report = capsys.readouterr().out
    assert report == expected.report(text, units=3) + "\n"
    assert cli.main([*line, "--png=gates.png", "--npz=gates.npz"]) == 0
    assert capsys.readouterr().out == "picture in gates.png\narrays in gates.npz\n"
    assert Path("gates.png").read_bytes().startswith(b"\x89PNG")
    assert np.load("gates.npz")["forget"].tobytes() == expected.forget.tobytes()
    assert cli.main([*line, "--npz=gates.npz", "--report"]) == 0
    assert capsys.readouterr().out == "arrays in gates.npz\n" + report


def test_trace_prints_the_share_of_unknown_characters(train, capsys):
    path, _ = train()
    assert cli.main(["trace", str(path), "--text=green€€"]) == 0
    assert "2 of 7 characters (28.57%) are not in the vocabulary" in capsys.readouterr().out


@pytest.mark.parametrize(("level", "symbols"), [("words", ["7", " green", " ä"]), ("bytes", [*"7 green ", "C3", "A4"])])
def test_trace_names_the_tokens_of_each_level(train, capsys, level, symbols):
    path, _ = train(f"--level={level}", "--min-count=1")
    assert cli.main(["trace", str(path), "--text=7 green ä"]) == 0
    model = load(path)
    tokens = vocabulary_from_json(model.metadata["vocabulary"]).encode("7 green ä")
    assert capsys.readouterr().out.endswith(model.trace(tokens).report(symbols, units=8) + "\n")


def test_trace_reports_characters_without_a_font(train, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("lstm_cy.trace.picture._FONTS", ())
    path, _ = train()
    line = ["trace", str(path), f"--png={tmp_path / 'gates.png'}"]
    assert cli.main([*line, "--text=green"]) == 0
    assert "lacks" not in capsys.readouterr().out
    assert cli.main([*line, "--text=green\U0010fffe"]) == 0  # escaped: it is not printable
    assert "lacks" not in capsys.readouterr().out
    assert cli.main([*line, "--text=green风"]) == 0
    captured = capsys.readouterr()
    assert "it lacks characters that no installed font has" in captured.out
    assert not captured.err


def test_trace_refuses(train, tmp_path, capsys):
    path, _ = train()
    assert "--text: expected at least one character" in failure(["trace", path, "--text="], capsys)
    assert "layer: expected -1 to 0, got 1" in failure(["trace", path, "--text=a", "--layer=1"], capsys)
    assert "ends with .npz" in failure(["trace", path, "--text=a", "--npz=gates.json"], capsys)
    assert "missing.npz" in failure(["trace", tmp_path / "missing.npz", "--text=a"], capsys)


def test_generate_draws_from_the_likeliest_tokens(train, capsys):
    path, _ = train()

    def generated(*arguments):
        assert cli.main(["generate", str(path), "--prompt=7 green", "--length=40", *arguments]) == 0
        return capsys.readouterr().out

    assert generated("--top-k=1", "--seed=1") == generated("--top-p=1e-9") == generated("--temperature=0")
    assert generated("--top-p=1", "--seed=1") == generated("--seed=1") != generated("--temperature=0")
    for wrong in ("--top-p=0", "--top-p=1.1", "--top-k=0"):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["generate", str(path), wrong])


def test_the_prompt_may_be_standard_input(train, capsys, tmp_path):
    path, _ = train()
    assert cli.main(["generate", str(path), "--prompt=7 green\n", "--length=30", "--seed=1"]) == 0
    expected = capsys.readouterr().out
    process = command("generate", path, "--prompt=-", "--length=30", "--seed=1", cwd=tmp_path, stdin=subprocess.PIPE)
    assert process.communicate(b"7 green\n", timeout=60) == (expected.encode(), b"")


def test_characters_of_the_prompt_outside_the_vocabulary_are_an_error(train, capsys):
    path, _ = train("--epochs=1")
    err = failure(["generate", path, "--prompt", "7 größe"], capsys)
    assert "prompt: not in the model's vocabulary: 'ö', 'ß'" in err


# perplexity


def shown_perplexity(capsys, *arguments):
    assert cli.main(["perplexity", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_perplexity_is_that_of_the_model_on_the_text(train, text, capsys):
    path, _ = train()
    out = shown_perplexity(capsys, path, "--text", text, "--held-out")
    model = load(path)
    tokens = Vocabulary.from_json(model.metadata["vocabulary"]).encode(TEXT[7600:8000])
    logits = log_softmax(model(tokens[:-1])[0].astype(float), axis=-1)
    bits = -np.take_along_axis(logits, tokens[1:, None], -1).mean() / math.log(2)
    assert out.splitlines() == [
        f"400 characters, {len(set(TEXT[7600:8000]))} of {len(set(TEXT[:7600])) + 1} tokens among them",
        f"perplexity  {2**bits:.3f} a character",
        f"bits        {bits:.3f} a character",
        f"bits        {bits:.3f} a byte",
    ]
    text.write_text(TEXT[7600:8000])
    assert shown_perplexity(capsys, path, "--text", text) == out


def test_perplexity_prints_unknown_characters_and_bits_per_unit(train, text, capsys):
    path, _ = train()
    text.write_text("7 grüne 瓶瓶\n", encoding="utf-8")
    out = shown_perplexity(capsys, path, "--text", text)
    assert "3 of 11 characters (27.27%) are not in the vocabulary" in out
    assert r"count as unknown, such as '\xfc', '\u74f6'" in out
    per_character, per_byte = (float(line.split()[1]) for line in out.splitlines() if line.startswith("bits"))
    assert per_byte == pytest.approx(per_character * 10 / 15, abs=1e-3)  # after the first, 10 characters in 15 bytes


def test_perplexity_of_words(train, text, capsys):
    path, _ = train("--level=words", "--min-count=1")
    text.write_text(" green bottles, standing")
    out = shown_perplexity(capsys, path, "--text", text)
    perplexity, *bits = (float(line.split()[1]) for line in out.splitlines() if line.startswith(("perp", "bits")))
    total = 3 * math.log2(perplexity)  # three words after the first, 18 characters
    assert bits == pytest.approx([total / 3, total / 18, total / 18], abs=2e-3)
    assert [line.split()[-1] for line in out.splitlines()[2:5]] == ["word", "character", "byte"]


def test_perplexity_of_bytes(train, binary, capsys):
    path, _ = train("--level=bytes")
    out = shown_perplexity(capsys, path, "--text", binary, "--held-out")
    assert "a byte" in out
    assert "character" not in out


def test_perplexity_of_the_standard_library(tmp_path, capsys):
    path = tmp_path / "model.npz"
    assert cli.main(["train", f"--output={path}", "--limit-characters=5000", *SMALL, "--epochs=1"]) == 0
    capsys.readouterr()
    assert shown_perplexity(capsys, path, "--held-out", "--threads=1").startswith("250 characters")


def test_errors_of_perplexity(train, text, tmp_path, capsys):
    path, _ = train("--epochs=1")
    other = tmp_path / "other.txt"
    for content, arguments, message in [
        (b"", [], "other.txt: the file is empty"),
        (b"a", [], "the text: expected at least two characters, got 1"),
        (b"\xff\xff", [], "not UTF-8 text"),
        (b"abc", ["--held-out"], "the text: expected the text of the training, of length 8000 or more, got 3"),
    ]:
        other.write_bytes(content)
        assert message in failure(["perplexity", path, "--text", other, *arguments], capsys)
    save(load(path), path, {"vocabulary": load(path).metadata["vocabulary"]})
    assert "does not record the held-out text" in failure(["perplexity", path, "--text", text, "--held-out"], capsys)
    save(LSTM(2, 3), path)
    assert f"{path}: holds no vocabulary" in failure(["perplexity", path, "--text", text], capsys)


# demo


@pytest.fixture
def small_demo(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "medians", lambda calls, seconds: {"lstm_cy": 2e-3, "NumPy": 3e-3})
    return ["demo", "--quick", f"--text={text}"]


def test_demo_trains_saves_and_measures(small_demo, capsys):
    assert cli.main(small_demo) == 0
    out = capsys.readouterr().out
    before, after = (
        out.index("before training, the model writes"),
        out.index("after training, the model writes"),
    )
    assert before < after < out.index("held-out loss") < out.index("unigram entropy")

    losses = [float(line.split()[2]) for line in out.splitlines() if line.startswith(("held-out", "unigram"))]
    assert losses[0] < losses[1]

    rows = [line.split() for line in out.splitlines() if "row(s)" in line]
    assert [row[:4] for row in rows] == [
        [steps, "step(s),", batch, "row(s)"] for steps, batch in [("1", "1"), ("100", "1"), ("50", "32")]
    ]
    assert [row[4:9] for row in rows] == 3 * [["3000", "us", "2000", "us", "1.5x"]]
    assert all(0 < float(row[9]) <= 1e-4 for row in rows)

    assert "saved to lstm_cy-demo.npz" in out
    assert cli.main(["generate", "lstm_cy-demo.npz", "--length=5"]) == 0


def test_demo_reads_the_text_in_order_while_the_rate_falls(small_demo, monkeypatch):
    def fit(model, data, *, optimizer, epochs, **keywords):
        for epoch in range(epochs):
            pieces, rates = [], []
            for x, y in data(epoch):
                pieces.append((x, y))
                rates.append(optimizer.lr)
            seen.append((pieces, rates))
        raise KeyboardInterrupt

    seen = []
    monkeypatch.setattr(cli, "_QUICK", cli._QUICK._replace(characters=6000, bptt=1))
    monkeypatch.setattr(cli, "time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(cli, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        cli.main(small_demo)

    # 5700 characters are 178 steps of 32 columns; ten parts of 18 steps, the last of which starts from the beginning
    tokens = Vocabulary.from_text(TEXT[:5700], 5).encode(TEXT[:5700])
    columns = tokens[: 178 * 32].reshape(32, 178).T
    assert len(seen) == 10
    read = np.concatenate([x for pieces, _ in seen[:9] for x, _ in pieces])
    following = np.concatenate([y for pieces, _ in seen[:9] for _, y in pieces])
    assert read.tolist() == columns[:162].tolist()
    assert following[:161].tolist() == columns[1:162].tolist()
    assert [len(x) for x, _ in seen[0][0]] == [8, 8, 2]
    assert [len(x) for x, _ in seen[9][0]] == [8, 8, 2]

    rates = [rates[0] for _, rates in seen]
    assert rates[0] == cli._QUICK.lr
    assert rates == sorted(set(rates), reverse=True)
    assert 0 < rates[-1] < 0.1 * rates[0]


def test_demo_shows_no_ratio_where_the_outputs_differ(small_demo, capsys, monkeypatch):
    forward = reference.forward

    def wrong(*arguments):
        y, *state = forward(*arguments)
        return y + np.float32(2e-3), *state

    monkeypatch.setattr(reference, "forward", wrong)
    assert cli.main([*small_demo, "--output=other.npz"]) == 1
    captured = capsys.readouterr()
    assert "1.5x" not in captured.out
    assert "1 step(s), 1 row(s): the results of lstm_cy and NumPy are 2.0e-03 apart" in captured.err
    assert Path("other.npz").exists()


def ticking():
    """Return a clock that advances by a second per call, with the real clock for the table."""
    return SimpleNamespace(monotonic=itertools.count(step=1.0).__next__, perf_counter=time.perf_counter)


def test_demo_stops_when_its_time_is_up(small_demo, capsys, monkeypatch):
    monkeypatch.setattr(cli, "time", ticking())
    assert cli.main(small_demo) == 0
    out = capsys.readouterr().out
    # a part is one piece here: the clock is read before it, after it and by the callback
    assert "time was up in part 3 of 10" in out
    assert "held-out loss" in out


def test_demo_stops_within_a_part_too(small_demo, monkeypatch):
    def fit(model, data, *, callbacks, **keywords):
        pieces.extend(data(0))
        assert callbacks[0](None) is True
        raise KeyboardInterrupt

    pieces = []
    monkeypatch.setattr(cli, "_QUICK", cli._QUICK._replace(bptt=1, seconds=5))
    monkeypatch.setattr(cli, "time", ticking())
    monkeypatch.setattr(cli, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        cli.main(small_demo)
    assert len(pieces) == 3  # of thirty: the clock is read before and after each


# bench


def test_bench_shows_every_shape_and_library(capfd, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setattr(bench, "SHAPES", {"forward": ("2x5x3x4",), "step": ("1x1x3x4",), "training": ("2x5x3x4",)})
    assert cli.main(["bench", "--seconds=0.01"]) == 0
    out = capfd.readouterr().out
    names = [name for name in bench.installed() if name != "lstm_cy"]
    assert "NumPy" in names
    header, *rows = [line for line in out.splitlines() if line.startswith((" " * 10, *bench.SHAPES))]
    assert all(name in header for name in names)
    assert [row.split()[:2] for row in rows] == [["forward", "2x5x3x4"], ["step", "1x1x3x4"], ["training", "2x5x3x4"]]
    assert all(row.count("x)") >= len(names) - 1 for row in rows)  # ONNX Runtime does not train


def test_bench_restarts_with_one_blas_thread(monkeypatch):
    seen = []

    def run(command, env):
        seen.append((command, env["OPENBLAS_NUM_THREADS"]))
        return SimpleNamespace(returncode=3)

    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr(cli, "subprocess", SimpleNamespace(run=run))
    with pytest.raises(SystemExit, match="3"):
        cli.main(["bench", "--seconds=0.5"])
    assert seen == [([sys.executable, "-m", "lstm_cy", "bench", "--seconds", "0.5"], "1")]


# convert and inspect


def shown(capsys, *arguments):
    """Run a command that succeeds in this process; return the lines of its output."""
    assert cli.main(list(map(str, arguments))) == 0
    return capsys.readouterr().out.splitlines()


def beginnings(lines):
    return [line.split(":")[0] for line in lines]


def stacked():
    return LSTM(3, 5, 2, bidirectional=True, seed=0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_convert_between_files_of_ours(folder, capsys):
    pytest.importorskip("safetensors")
    save(stacked(), "a.npz", {"unit": "mm"})
    assert shown(capsys, "convert", "a.npz", "b.safetensors", "--check") == [
        f"b.safetensors: LSTM, {Path('b.safetensors').stat().st_size} bytes",
        "lstm_cy, reading it again: largest difference 0.0e+00",
    ]
    model = load("b.safetensors")
    assert model.metadata == {"unit": "mm"}
    assert np.array_equal(model.parameters["weight_hh_l1_reverse"], stacked().parameters["weight_hh_l1_reverse"])


@pytest.mark.parametrize("options", [[], ["--states"], ["--lengths"], ["--states", "--lengths"]])
def test_convert_to_onnx_and_back(folder, capsys, options):
    pytest.importorskip("onnxruntime")
    save(LSTM(3, 5, bidirectional=True, batch_first=True, seed=0), "a.npz", {"unit": "mm"})
    lines = shown(capsys, "convert", "a.npz", "a.onnx", "--check", *options)
    assert beginnings(lines) == ["a.onnx", "ONNX Runtime", "lstm_cy, reading it again"]
    graph = load("a.onnx")
    inputs = {"--states": {"h0", "c0"}, "--lengths": {"lengths"}}
    assert {value.name for value in graph.inputs} == {"x"}.union(*(inputs[option] for option in options))
    assert graph.metadata == {"unit": "mm"}
    lines = shown(capsys, "convert", "a.onnx", "b.npz", "--check")
    assert beginnings(lines) == ["b.npz", "ONNX Runtime", "lstm_cy, reading it again"]
    assert load("b.npz").config == LSTM(3, 5, bidirectional=True).config  # time is the first axis inside our graphs


@pytest.mark.parametrize("model", [stacked, lambda: LSTM(2, 3, reverse=True, dtype="float64")])
def test_check_finds_gates_in_the_wrong_order(folder, capsys, monkeypatch, model):
    """Writing and reading have the same fault, which only another implementation can detect."""
    pytest.importorskip("onnxruntime")
    save(model(), "a.npz")
    monkeypatch.setattr(gate_order, "ONNX", gate_order.ORDER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # float64
        err = failure(["convert", "a.npz", "a.onnx", "--check"], capsys)
    assert err.endswith("the outputs are more than 0.0001 apart: ONNX Runtime\n")


def test_check_treats_nan_as_a_difference(folder, capsys, monkeypatch):
    save(LSTM(1, 1), "a.npz")
    monkeypatch.setattr(comparisons, "reread_difference", lambda read, model: math.nan)
    assert "more than 0.0001 apart" in failure(["convert", "a.npz", "b.npz", "--check"], capsys)


def test_check_prints_which_framework_is_not_installed(folder, capsys, monkeypatch):
    pytest.importorskip("onnx")
    save(LSTM(1, 1), "a.npz")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    lines = shown(capsys, "convert", "a.npz", "a.onnx", "--check")
    assert lines[1] == "ONNX Runtime: not installed, not compared"
    assert lines[2].startswith("lstm_cy, reading it again: largest difference ")


def test_check_reports_a_framework_that_cannot_run_the_file(folder, capsys, monkeypatch):
    runtime = pytest.importorskip("onnxruntime")

    def fail(*arguments, **keywords):
        raise RuntimeError("no such operator")

    save(LSTM(1, 1), "a.npz")
    monkeypatch.setattr(runtime, "InferenceSession", fail)
    err = failure(["convert", "a.npz", "a.onnx", "--check"], capsys)
    assert "ONNX Runtime cannot run it: no such operator" in err


def test_convert_from_pytorch(folder, capsys):
    torch = pytest.importorskip("torch")
    module = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 5, 2, proj_size=2), "head": torch.nn.Linear(2, 4)})
    torch.save({"epoch": 1, "state": module.state_dict()}, "a.pt")
    for arguments in ([], ["--name=rnn"]):
        err = failure(["convert", "a.pt", "a.npz", *arguments], capsys)
        assert "would be left behind: state/head.weight (4, 2), state/head.bias (4,). With partial (--partial)" in err
        assert not Path("a.npz").exists()
    message = "a.pt: expected the name of one of its LSTMs: 'rnn.'"
    assert message in failure(["convert", "a.pt", "a.npz", "--name=head"], capsys)
    for name in (["--name=rnn"], ["--name=rnn."], []):
        lines = shown(capsys, "convert", "a.pt", "a.npz", "--partial", *name, "--batch-first", "--check")
        assert beginnings(lines) == ["a.npz", "left behind", "PyTorch", "lstm_cy, reading it again"]
        assert lines[1] == "left behind: state/head.weight (4, 2), state/head.bias (4,)"
        assert lines[2].startswith("PyTorch: largest difference ")
    model = load("a.npz")
    assert (model.proj_size, model.batch_first) == (2, True)
    assert np.array_equal(model.parameters["weight_hr_l1"], module["rnn"].weight_hr_l1.detach().numpy())


@pytest.mark.parametrize("name", ["LSTM", "LSTMCell"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_check_lets_pytorch_read_the_file(folder, capsys, name, suffix):
    torch = pytest.importorskip("torch")
    tensors = getattr(torch.nn, name)(3, 5).state_dict()
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(tensors, f"a{suffix}")
    elif suffix == ".npz":
        np.savez("a.npz", **{key: tensor.numpy() for key, tensor in tensors.items()})
    else:
        torch.save(tensors, f"a{suffix}")
    lines = shown(capsys, "convert", f"a{suffix}", "b.npz", "--batch-first", "--check")
    assert lines[1].startswith("PyTorch: largest difference ")
    assert load("b.npz").batch_first


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_convert_from_keras(folder, capsys, monkeypatch, suffix):
    pytest.importorskip("torch")
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
        layers = [keras.layers.Bidirectional(keras.layers.LSTM(4)), keras.layers.Dense(2, "softmax")]
        keras.Sequential([keras.layers.Input((7, 3)), *layers]).save(f"a{suffix}")
    lines = shown(capsys, "convert", f"a{suffix}", "a.npz", "--check")
    assert beginnings(lines) == ["a.npz", "Keras", "lstm_cy, reading it again"]
    lines = shown(capsys, "inspect", f"a{suffix}")
    assert lines[0].endswith("bytes, a model of Keras")
    assert "  0  LSTM(input_size=3, hidden_size=4, batch_first=True, bidirectional=True)" in lines
    assert "gates in the file: i, f, g, o" in lines


def test_convert_takes_a_node_of_a_graph(folder, capsys):
    pytest.importorskip("onnxruntime")
    save(stacked(), "a.npz")
    shown(capsys, "convert", "a.npz", "a.onnx", "--states")
    message = "a.onnx: expected the name of one of its LSTMs: 'l0', 'l1'"
    assert message in failure(["convert", "a.onnx", "b.npz"], capsys)
    assert "would be left behind: 1 LSTM" in failure(["convert", "a.onnx", "b.npz", "--name=l1"], capsys)
    lines = shown(capsys, "convert", "a.onnx", "b.npz", "--name=l1", "--partial", "--check")
    assert lines[1] == "left behind: 1 LSTM"
    assert lines[2].startswith("ONNX Runtime: largest difference ")
    assert load("b.npz").config == LSTM(10, 5, bidirectional=True).config


@pytest.mark.parametrize(
    ("layers", "left"),
    [
        ([Embedding(9, 3), LSTM(3, 5)], "1 Gather"),
        ([LSTM(3, 5), Linear(5, 2)], "1 MatMul, 1 Add"),
        ([LSTM(3, 5), Activation("relu")], "1 Relu"),
    ],
)
def test_other_nodes_of_a_graph_are_left_behind_only_with_partial(folder, capsys, layers, left):
    pytest.importorskip("onnx")
    save(Sequential(*layers), "a.onnx")
    assert f"would be left behind: {left}. " in failure(["convert", "a.onnx", "a.npz"], capsys)
    assert not Path("a.npz").exists()
    assert shown(capsys, "convert", "a.onnx", "a.npz", "--partial")[1] == f"left behind: {left}"
    assert load("a.npz").hidden_size == 5


def test_a_node_is_compared_without_the_rest_of_its_graph(folder, capsys):
    """The LSTM nodes omit outputs, as exporters do, and a Transpose computes the weight of one."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    save(stacked(), "a.npz")
    shown(capsys, "convert", "a.npz", "a.onnx")
    graph = onnx.load("a.onnx")
    nodes = [node for node in graph.graph.node if node.op_type != "Concat"]
    for node in nodes:
        if node.op_type == "LSTM":
            node.output[1:] = ["", ""]
    turned = onnx.helper.make_node("Transpose", ["l1.W.turned"], ["l1.W"], perm=[0, 2, 1])
    (weight,) = (tensor for tensor in graph.graph.initializer if tensor.name == "l1.W")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).swapaxes(1, 2), "l1.W.turned"))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in [turned, *nodes]]
    del graph.graph.node[:], graph.graph.output[1:]
    graph.graph.node.extend(nodes)
    onnx.save(graph, "b.onnx")
    lines = shown(capsys, "convert", "b.onnx", "b.npz", "--name=l1", "--partial", "--check")
    assert lines[2].startswith("ONNX Runtime: largest difference ")


def test_a_node_with_layout_1_is_compared(folder, capsys):
    """ONNX Runtime refuses layout 1; the same node with transposed axes is compared."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    save(LSTM(3, 5, reverse=True, seed=0), "a.npz")
    shown(capsys, "convert", "a.npz", "a.onnx", "--lengths")
    graph = onnx.load("a.onnx")
    graph.graph.node[0].attribute.append(onnx.helper.make_attribute("layout", 1))
    onnx.save(graph, "b.onnx")
    lines = shown(capsys, "convert", "b.onnx", "b.npz", "--check")
    assert lines[1].startswith("ONNX Runtime: largest difference ")
    assert load("b.npz").batch_first


def test_inspect_a_model_of_ours(folder, capsys):
    lstm = LSTM(4, 6, 2, batch_first=True, activations=("hardsigmoid", "tanh", "relu"), seed=0)
    save(Sequential(Embedding(9, 4), lstm, Dropout(0.25), Linear(6, 9)), "a.npz", {"vocabulary": "abc"})
    lines = shown(capsys, "inspect", "a.npz")
    assert lines[:9] == [
        f"a.npz: {Path('a.npz').stat().st_size} bytes, a model of lstm_cy, format version 1",
        "layers",
        "  0  Embedding(num_embeddings=9, embedding_dim=4)",
        "  1  LSTM(input_size=4, hidden_size=6, num_layers=2, batch_first=True, "
        "activations=[[['hardsigmoid', 0.2, 0.5], ['tanh', 0.0, 0.0], ['relu', 0.0, 0.0]]])",
        "  2  Dropout(p=0.25)",
        "  3  Linear(in_features=6, out_features=9)",
        "gates in the file: i, f, g, o",
        "tensors: 11, 723 numbers, 2892 bytes",
        "  0.weight        float32 (9, 4)",
    ]
    assert lines[-1] == "metadata: vocabulary"


def test_inspect_shows_no_control_characters(folder, capsys):
    arrays = {f"\x1b[31m{name}": array for name, array in LSTM(3, 5).parameters.items()}
    np.savez("a.npz", **arrays, **{"\u202eend": np.ones(1)})
    lines = shown(capsys, "inspect", "a.npz")
    assert "  \\x1b[31m  LSTM(input_size=3, hidden_size=5)" in lines
    assert "other tensors: 1, 1 number, 8 bytes" in lines
    assert "  \\u202eend  float64 (1,)" in lines
    save(LSTM(3, 5), "b.npz", {"\x1b]0;title\x07": 1, "a\n  forged": 2})
    assert shown(capsys, "inspect", "b.npz")[-1] == "metadata: \\x1b]0;title\\x07, a\\n  forged"


def test_inspect_every_kind_of_layer(folder, capsys):
    save(Seq2Seq(5, embedding_dim=2, hidden_size=4), "a.npz")
    assert shown(capsys, "inspect", "a.npz")[2].startswith("  Seq2Seq(")


def test_inspect_shows_the_tensors_of_a_file_that_is_not_read(folder, capsys):
    arrays = LSTM(3, 5).state_dict()
    np.savez("a.npz", **arrays | {"weight_hh_l0": np.ones((7, 5))}, head=np.ones(2))
    lines = shown(capsys, "inspect", "a.npz")
    assert lines[1] == "LSTMs"
    assert lines[2].startswith("  not read  tensors that do not make up an LSTM of PyTorch's: weight_hh_l0 has shape")
    assert "  head          float64 (2,)" in lines


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_inspect_a_model_of_keras_with_a_layer_that_is_not_read(folder, capsys, monkeypatch, suffix):
    pytest.importorskip("torch")
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
        layers = [keras.layers.LSTM(4, name="memory"), keras.layers.LayerNormalization(name="norm")]
        keras.Sequential([keras.layers.Input((7, 3)), *layers]).save(f"a{suffix}")
    lines = shown(capsys, "inspect", f"a{suffix}")
    assert lines[0].endswith("bytes, a model of Keras that is not read")
    assert ["memory", "LSTM"] in [line.split() for line in lines]
    assert lines[lines.index("not supported") + 1] == "  norm  layer LayerNormalization"
    assert any("float32 (3, 16)" in line for line in lines)


def test_inspect_narrow_weights(folder, capsys):
    save(LSTM(3, 5).quantize("int8"), "a.npz")
    lines = shown(capsys, "inspect", "a.npz")
    assert lines[2] == "  QuantizedLSTM(input_size=3, hidden_size=5, weights='int8')"
    assert "  weight_ih_l0        int8 (20, 3)" in lines


def test_inspect_tensors_under_pytorchs_names(folder, capsys):
    arrays = {f"encoder.rnn.{name}": array for name, array in LSTM(3, 5, seed=0).parameters.items()}
    np.savez("a.npz", **arrays, head=np.ones((2, 5)))
    assert shown(capsys, "inspect", "a.npz")[1:] == [
        "LSTMs",
        "  encoder.rnn.  LSTM(input_size=3, hidden_size=5)",
        "gates in the file: i, f, g, o",
        "their tensors: 4, 200 numbers, 800 bytes",
        "  encoder.rnn.weight_ih_l0  float32 (20, 3)",
        "  encoder.rnn.weight_hh_l0  float32 (20, 5)",
        "  encoder.rnn.bias_ih_l0    float32 (20,)",
        "  encoder.rnn.bias_hh_l0    float32 (20,)",
        "other tensors: 1, 10 numbers, 80 bytes",
        "  head  float64 (2, 5)",
    ]
    np.savez("b.npz", head=np.ones((2, 5)))
    assert "LSTMs: none" in shown(capsys, "inspect", "b.npz")


def test_inspect_a_graph(folder, capsys):
    onnx = pytest.importorskip("onnx")
    save(LSTM(3, 5, 2, peepholes=True, clip=2.0), "a.npz", {"unit": "mm"})
    shown(capsys, "convert", "a.npz", "a.onnx", "--lengths")
    lines = shown(capsys, "inspect", "a.onnx")
    assert lines[0].endswith(f" bytes, an ONNX graph, operators of version 17, by lstm_cy {lstm_cy.__version__}")
    assert lines[1:15] == [
        "inputs",
        "  x        float32 (T, B, 3)",
        "  lengths  int32 (B)",
        "outputs",
        "  y    float32 (T, B, 5)",
        "  h_n  float32 (2, B, 5)",
        "  c_n  float32 (2, B, 5)",
        "LSTM nodes",
        "  l0  LSTM(input_size=3, hidden_size=5, peepholes=True, clip=2.0)",
        "  l1  LSTM(input_size=5, hidden_size=5, peepholes=True, clip=2.0)",
        "gates in the file: i, o, f, g",
        "operators: Concat 2, LSTM 2, Squeeze 2",
        "not supported: none",
        "tensors: 8, 470 numbers, 1880 bytes",
    ]
    assert lines[-1] == "metadata: unit"

    graph = onnx.load("a.onnx")
    graph.graph.node.append(onnx.helper.make_node("Hardmax", ["y"], ["z"], name="hard"))
    graph.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, ["T", None, 5]))
    onnx.save(graph, "b.onnx")
    lines = shown(capsys, "inspect", "b.onnx")
    assert "  z    float32 (T, ?, 5)" in lines
    assert "operators: Concat 2, Hardmax 1, LSTM 2, Squeeze 2" in lines
    assert lines[lines.index("not supported") + 1] == "  Hardmax  1, node 'hard' (Hardmax)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "a.txt"], "path: expected a file ending in .npz, .safetensors, .pt"),
        (["inspect", "missing.pt"], "No such file or directory: 'missing.pt'"),
        (["inspect", "damaged.npz"], "damaged.npz: truncated"),
        (["convert", "a.npz", "b.txt"], "path: expected a file ending in .npz, .safetensors or .onnx, got 'b.txt'"),
        (["convert", "a.npz", "missing/b.npz"], "No such file or directory: 'missing/b.npz'"),
        (["convert", "a.npz", "b.npz", "--states"], "states and lengths are inputs of .onnx files"),
        (["convert", "a.npz", "b.npz", "--name=x"], "a.npz: holds a whole model, expected no name, got 'x'"),
        (["convert", "a.npz", "b.npz", "--batch-first"], "batch_first is only for files with PyTorch's names"),
    ],
)
def test_files_that_cannot_be_converted(folder, capsys, arguments, message):
    save(LSTM(1, 1), "a.npz")
    Path("damaged.npz").write_bytes(b"PK")
    assert message in failure(arguments, capsys)
    assert sorted(path.name for path in folder.iterdir()) == ["a.npz", "damaged.npz"]


# info, help and errors


def test_info(tmp_path):
    status, out, err = finished("info", cwd=tmp_path)
    assert (status, err) == (0, "")
    shown = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert shown["lstm_cy"] == lstm_cy.__version__
    assert shown["NumPy"] == np.__version__


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("demo", "train", "generate", "convert", "inspect", "bench", "info"))


def test_without_arguments_the_help_is_shown(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert out == capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"lstm-cy {lstm_cy.__version__}\n"


@pytest.mark.parametrize("name", cli._parser()[1])
def test_the_examples_in_the_help_of_a_command_are_accepted(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    out = capsys.readouterr().out
    assert "None" not in out
    examples = out.partition("examples:")[2].strip().splitlines()
    assert examples
    for example in examples:
        arguments = shlex.split(example.rpartition("lstm-cy ")[2])
        assert cli._parsed(arguments).parser.prog == f"lstm-cy {name}", example


def test_the_help_shows_defaults_that_are_not_empty(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "seed of all random choices in training (default: 0)" in out
    assert "continue from the checkpoint if it exists examples" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paint"], "lstm-cy: error: no command 'paint'; did you mean train?"),
        (["tarin", "--hidden=3"], "lstm-cy: error: no command 'tarin'; did you mean train?"),
        (["xyz\x1b[31m"], "lstm-cy: error: no command 'xyz\\x1b[31m'; see --help"),
        (["--verson"], "lstm-cy: error: unrecognized arguments: --verson; did you mean --version?"),
        (["--"], "lstm-cy: error: unrecognized arguments: --; see --help"),
        (["train", "--hiden", "3"], "lstm-cy train: error: unrecognized arguments: --hiden 3; did you mean --hidden?"),
        (
            ["train", "--hidden=0"],
            "lstm-cy train: error: argument --hidden: expected an integer of",
        ),
        (["train", "--hidden=big"], "argument --hidden: expected an integer of at least 1, got 'big'"),
        (["train", "--lr=0"], "argument --lr: expected a number above 0, got '0'"),
        (["train", "--lr=nan"], "argument --lr: expected a number above 0, got 'nan'"),
        (["train", "--dropout=1"], "argument --dropout: expected a number in [0, 1), got '1'"),
        (["train", "--seed=-1"], "argument --seed: expected an integer of at least 0"),
        (["generate"], "lstm-cy generate: error: the following arguments are required: MODEL"),
        (
            ["generate", "m.npz", "--temperature=-1"],
            "argument --temperature: expected a number of",
        ),
        (["generate", "m.npz", "--colour=red"], "unrecognized arguments: --colour=red"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "missing.npz"], "No such file or directory: 'missing.npz'"),
        (["generate", "text.txt"], "expected a file ending in .npz, .safetensors, .pt"),
        (["generate", "damaged.npz"], "damaged.npz: truncated, or not an .npz file"),
        (["train", "--text=missing.txt"], "No such file or directory: 'missing.txt'"),
        (["train", "--text=latin1.txt"], "latin1.txt: not UTF-8 text: "),
        (["train", "--text=empty.txt"], "empty.txt: the file is empty"),
        (["train", "--text=short.txt"], "the text: 5 characters are too few for batches of 32"),
        (["train", "--text=text.txt", "--resume", "--output=m.npz"], "resume: expected a checkpoint"),
        (["demo", "--text=missing.txt"], "No such file or directory: 'missing.txt'"),
    ],
)
def test_an_error_is_one_line_and_status_1(arguments, message, tmp_path, text, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("damaged.npz").write_bytes(b"PK")
    Path("latin1.txt").write_bytes(b"\xe4")
    Path("empty.txt").touch()
    Path("short.txt").write_text("short")
    assert message in failure(arguments, capsys)


def test_an_error_in_a_separate_process(tmp_path):
    status, out, err = finished("generate", "missing.npz", cwd=tmp_path)
    assert (status, out) == (1, "")
    assert err == "lstm-cy: error: [Errno 2] No such file or directory: 'missing.npz'\n"
    assert finished("generate", cwd=tmp_path)[0] == 2
