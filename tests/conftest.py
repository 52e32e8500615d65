"""Settings and fixtures of all tests. If LSTM_CY_REQUIRE_TORCH is set, no test runs without PyTorch."""

import importlib.util
import os
import signal

import hypothesis
import pytest

from lstm_cy import config
from lstm_cy._kernels.runtime import threads

# Many tests require the same bits, which only engine "packed" guarantees. It is not the default without vector kernels.
# Tests of both engines choose the engine themselves.
os.environ.setdefault("LSTM_CY_ENGINE", "packed")

# Examples have no deadline, because any of them may take long on a loaded machine.
hypothesis.settings.register_profile("lstm_cy", deadline=None)
hypothesis.settings.load_profile("lstm_cy")


def pytest_configure():
    # A background job of a shell ignores Ctrl-C, and so do the processes that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("LSTM_CY_REQUIRE_TORCH") and not importlib.util.find_spec("torch"):
        pytest.exit("LSTM_CY_REQUIRE_TORCH is set, but PyTorch is not installed", returncode=1)


@pytest.fixture
def chosen(isa, engine):
    """Use this instruction set and engine for the layers that the test builds."""
    with config.using(isa=isa, engine=engine):
        yield


@pytest.fixture
def eight_processors(monkeypatch):
    """Report eight processors, because a call uses at most one thread for each processor, and wait for late workers."""
    monkeypatch.setattr(config, "processors", lambda: 8)
    threads.share_always(True)
    yield
    threads.share_always(False)
