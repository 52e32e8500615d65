"""Where LSTM_CY_REQUIRE_TORCH is set, tests against PyTorch must run: without PyTorch nothing does."""

import importlib.util
import os
import signal

import hypothesis
import pytest

from lstm_cy import config

# The same bits, which many tests ask for, are the promise of engine "packed", which is not chosen where there are no
# vector kernels. Tests of both engines choose for themselves.
os.environ.setdefault("LSTM_CY_ENGINE", "packed")

# No example has a deadline: on a loaded machine any of them may take long.
hypothesis.settings.register_profile("lstm_cy", deadline=None)
hypothesis.settings.load_profile("lstm_cy")


def pytest_configure():
    # In the background of a shell Ctrl-C is ignored, also by the processes that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("LSTM_CY_REQUIRE_TORCH") and not importlib.util.find_spec("torch"):
        pytest.exit("LSTM_CY_REQUIRE_TORCH is set, but PyTorch is not installed", returncode=1)


@pytest.fixture
def chosen(isa, engine):
    """Layers built in the test use this instruction set and engine."""
    with config.using(isa=isa, engine=engine):
        yield


@pytest.fixture
def eight_processors(monkeypatch):
    """As many threads as the test asks for: a call takes no more than there are processors."""
    monkeypatch.setattr(config, "processors", lambda: 8)
