"""Where LSTM_CY_REQUIRE_TORCH is set, tests against PyTorch must run: without PyTorch nothing does."""

import importlib.util
import os

import pytest
from common import implementation


def pytest_configure():
    if os.environ.get("LSTM_CY_REQUIRE_TORCH") and not importlib.util.find_spec("torch"):
        pytest.exit("LSTM_CY_REQUIRE_TORCH is set, but PyTorch is not installed", returncode=1)


@pytest.fixture
def chosen(isa, engine):
    """Layers built in the test use this instruction set and engine."""
    with implementation(isa, engine):
        yield
