"""The former path of `lstm_cy.layers.lstm`, which programs and pickles may use."""

import sys

from .layers import lstm
from .layers.lstm import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = lstm
