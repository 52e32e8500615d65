"""Every example runs, in a small form, and does what it says."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_forecast_beats_repeating_yesterday(capsys):
    error, yesterday = load("forecast").main(["--epochs", "12", "--rows", "96", "--hidden", "24"])
    assert error < 0.8 * yesterday
    assert "mean squared error" in capsys.readouterr().out


def test_practitioners_compares_with_baselines(capsys):
    for library in ("sklearn", "statsmodels"):
        pytest.importorskip(library)
    table, (digits, _) = load("practitioners").main(["--epochs", "8", "--seeds", "1"])
    assert table["co2"]["LSTM"] < 0.8 * table["co2"]["season ago"]
    assert 0.5 < table["el nino"]["covered"] <= 1
    assert digits > 0.8
    assert "logistic regression" in capsys.readouterr().out
