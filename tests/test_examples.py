"""Every example runs, in a small form, and does what it says."""

import doctest
import importlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lstm_cy
from lstm_cy import LSTM, Embedding, Linear, Sequential, save
from lstm_cy.text import Vocabulary, standard_library_text

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pictures_of_the_gates(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    module = load("gates")
    vocabulary = Vocabulary.from_text(standard_library_text(3000))
    n = len(vocabulary)
    model = Sequential(Embedding(n, 4, seed=0), LSTM(4, 12, seed=1), Linear(12, n, seed=2))
    save(model, tmp_path / "text.npz", {"vocabulary": vocabulary.to_json()})
    arguments = ["--epochs=12", "--longest=5", f"--output={tmp_path}", f"--text-model={tmp_path / 'text.npz'}"]
    right = module.main(arguments)
    assert right > 0.9
    assert {path.stem for path in tmp_path.glob("*.png")} == {"gates-riddle", "gates-source", "gates-long"}
    printed = capsys.readouterr().out
    assert f"{100 * right:.1f} % of the question marks answered rightly" in printed
    assert len(re.findall("the most telling units:", printed)) == 3


def test_forecast_beats_repeating_yesterday(capsys):
    error, yesterday = load("forecast").main(["--epochs", "12", "--rows", "96", "--hidden", "24"])
    assert error < 0.8 * yesterday
    assert "mean squared error" in capsys.readouterr().out


def with_one_blas_thread(module, arguments):
    """What `main(arguments)` of a module prints: in a process of its own, whose BLAS does not compete for the cores."""
    root = str(EXAMPLES.parent)
    code = f"import sys, lstm_cy; sys.path.insert(0, {root!r}); from {module} import main; main({arguments})"
    path = os.pathsep.join([str(Path(lstm_cy.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def translation(monkeypatch):
    """The example's modules; it needs num2words and babel."""
    pytest.importorskip("num2words")
    pytest.importorskip("babel")
    monkeypatch.syspath_prepend(EXAMPLES.parent)
    return importlib.import_module("examples.translation.__main__")


def test_translation_learns_numbers_it_has_not_seen(translation, tmp_path, capsys, monkeypatch):
    model = str(tmp_path / "model.npz")
    sizes = "--hidden 64 --embedding 32 --merges 60 --numbers 2000 --epochs 4 --steps 75 --batch-size 32 --lr 0.01"
    printed = with_one_blas_thread(
        "examples.translation.__main__",
        ["train", "--model", model, *sizes.split(), "--directions", "zh->en", "--each", "40", "--show", "0"],
    )
    (share,) = re.findall(r"^zh->en +([0-9.]+)% of 40$", printed, re.MULTILINE)
    assert float(share) > 30  # by chance not one in a million would be right

    translation.main(["translate", "zh-en", "七 ", "--model", model])
    assert capsys.readouterr().out == "seven\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("七十\nducks\n九百零一\n"))
    translation.main(["translate", "zh->en", "--model", model, "--all"])
    printed, complaint = capsys.readouterr()
    assert "the model has never seen 'c', 'k'" in complaint
    lines = printed.splitlines()
    assert len(lines) == 10
    assert sum("%" in line for line in lines) == 8

    for arguments, message in (
        (["zh->en", "七?"], r"the model has never seen '\?'; it knows .*七"),
        (["zh->en", "  "], "text: expected something to translate, got nothing"),
        (["fr->zh", "un"], "direction: expected one of zh->en, got 'fr->zh'"),
        (["zh->en", "一", "二", "--png", "x.png"], "--png: expected one TEXT with it, got 2"),
    ):
        with pytest.raises(SystemExit, match=message):
            translation.main(["translate", *arguments, "--model", model])
    with pytest.raises(
        SystemExit, match="error: --model: expected a .npz or .safetensors file in a folder that exists"
    ):
        translation.main(["train", "--model", str(tmp_path / "nowhere" / "model.npz")])
    with pytest.raises(SystemExit, match="error: .*nothing.npz"):
        translation.main(["evaluate", "--model", str(tmp_path / "nothing.npz")])

    pytest.importorskip("matplotlib")
    picture = tmp_path / "attention.png"
    translation.main(["translate", "zh->en", "二万零一", "--model", model, "--png", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_translation_keeps_the_same_values_from_training_in_all_languages(translation):
    corpus = importlib.import_module("examples.translation.corpus")
    learned = corpus.make_corpus(corpus.TAGS, 400, seed=0, held_out=False)
    held_out = corpus.make_corpus(corpus.TAGS, 400, seed=0, held_out=True)
    for tag in corpus.TAGS:
        ours, theirs = set(learned[tag]), set(held_out[tag])
        assert not {source for source, _ in ours} & {source for source, _ in theirs}
        assert not {target for _, target in ours} & {target for _, target in theirs}
    share = np.mean([corpus.is_held_out(value) for value in range(100_000)])
    assert 0.015 < share < 0.025
    assert not corpus.is_held_out(0)


def test_translation_writes_chinese_numbers(translation):
    corpus = importlib.import_module("examples.translation.corpus")
    known = {
        0: "零",
        7: "七",
        10: "十",
        12: "十二",
        20: "二十",
        99: "九十九",
        100: "一百",
        101: "一百零一",
        110: "一百一十",
        111: "一百一十一",
        1000: "一千",
        1001: "一千零一",
        1010: "一千零一十",
        1100: "一千一百",
        2026: "二千零二十六",
        9999: "九千九百九十九",
        10_000: "一万",
        10_001: "一万零一",
        10_010: "一万零一十",
        10_100: "一万零一百",
        11_000: "一万一千",
        100_000: "十万",
        110_000: "十一万",
        100_101: "十万零一百零一",
        205_060: "二十万五千零六十",
        999_999: "九十九万九千九百九十九",
    }
    assert {value: corpus.number_in_words(value, "zh") for value in known} == known
    written = {corpus.number_in_chinese(value) for value in range(30_000)}
    assert len(written) == 30_000  # no two are written alike


def test_translation_writes_the_words_of_other_languages(translation):
    corpus = importlib.import_module("examples.translation.corpus")
    known = {
        ("en", 321_021): "three hundred and twenty-one thousand and twenty-one",
        ("fr", 81_080): "quatre-vingt-un mille quatre-vingts",
        ("de", 321_021): "dreihunderteinundzwanzigtausendeinundzwanzig",
        ("es", 321_021): "trescientos veintiún mil veintiuno",
        ("es", 31_101): "treinta y un mil ciento uno",
        ("es", 1001): "mil uno",
    }
    assert {(language, value): corpus.number_in_words(value, language) for language, value in known} == known


def test_translation_knows_the_ways_a_date_is_written(translation):
    corpus = importlib.import_module("examples.translation.corpus")
    pairs = corpus.make_corpus(["en->iso", "iso->en"], 400, seed=1, held_out=False)
    written = {source for source, target in pairs["en->iso"] if target.endswith("-03-09")}
    assert all("9" in text and "Mar" in text for text in written)
    assert any(text.startswith(("Monday", "Friday", "Sunday")) for text, _ in pairs["en->iso"])
    assert all(len(source) == 10 and target[-6:] == f", {source[:4]}" for source, target in pairs["iso->en"])


def test_translation_docstrings(translation):
    for name in ("corpus", "pieces", "picture"):
        results = doctest.testmod(importlib.import_module(f"examples.translation.{name}"))
        assert results.attempted
        assert not results.failed
