"""Every example runs, in a small form, and does what it says."""

import importlib.util
from pathlib import Path

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
