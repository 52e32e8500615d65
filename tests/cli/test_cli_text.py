"""The commands generate, trace, explain and perplexity."""

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from running import SMALL, TEXT, command, failure, finished
from scipy.special import log_softmax

import lstm_cy.__main__
from lstm_cy import LSTM, cli, load, save
from lstm_cy.text import Vocabulary, vocabulary_from_json


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
    monkeypatch.setattr("lstm_cy.decoding.language_model.generate", characters)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.main(["generate", str(path), "--prompt=p"]) == 0
    assert shown == ["p", "pa", "pab"]
    assert terminal.getvalue() == "pabc\n"


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


def test_trace_draws_panels_memories_and_a_gradient(train, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    path, _ = train()
    line = ["trace", str(path), "--text=7 green", "--units=3,5", "--steps=1:4", "--language=zh"]
    pictures = ["--png=a.png", "--panels=cell,hidden,prediction", "--memories=b.png", "--gradient=c.png", "--at=3"]
    assert cli.main([*line, *pictures]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [row for row in printed if row.startswith("picture")] == [f"picture in {name}.png" for name in "abc"]
    table = [row for row in printed if row.startswith("|")]
    assert table[0].startswith("| steps back | embedding | forget |")
    assert [row.split(" | ")[0] for row in table[2:]] == ["| 0", "| 1", "| 2", "| 3"]
    assert all(Path(name).read_bytes().startswith(b"\x89PNG") for name in ("a.png", "b.png", "c.png"))
    assert "panels: expected" in failure([*line, "--png=a.png", "--panels=gates"], capsys)
    assert "units: expected" in failure(["trace", path, "--text=abc", "--png=a.png", "--units=3,500"], capsys)
    assert "--at: expected a step from 0 to 1" in failure(
        ["trace", path, "--text=abc", "--gradient=a", "--at=2"], capsys
    )
    assert "at least two tokens" in failure(["trace", path, "--text=a", "--gradient=a"], capsys)


@pytest.mark.parametrize("level", ["characters", "bytes"])
def test_explain_prints_a_table_and_writes_data(train, tmp_path, capsys, level):
    path, _ = train(f"--level={level}")
    data, read = tmp_path / "units.json", tmp_path / "read.txt"
    read.write_text("7 green bottles (on) the wall\n" * 40)
    line = ["explain", str(path), f"--text={read}", f"--json={data}", "--units=2", "--feature=a bottle=bottles?"]
    assert cli.main(line) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"data in {data}" and len(printed) == 5
    found = json.loads(data.read_text())
    assert printed[1].startswith(
        f"{found['tokens']} tokens, {len(found['features'])} features; loss of the whole model"
    )
    assert found["features"][-1]["name"] == "a bottle"
    assert found["features"][-1]["frequency"] == pytest.approx(7 / 30, abs=0.01)
    assert all(unit["change"] == pytest.approx(unit["loss"] - found["loss"]) for unit in found["units"])
    assert "--feature: expected NAME=REGEX" in failure([*line[:3], "--feature=a=("], capsys)
    read.write_text("short")
    assert "text: expected at least 64" in failure(line[:3], capsys)


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
