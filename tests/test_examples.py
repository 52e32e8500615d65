"""Every example runs, in a small form, and does what it says."""

import importlib.util
import re
from pathlib import Path

import pytest

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
