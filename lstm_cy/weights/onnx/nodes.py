"""The former path of `lstm_cy.weights.onnx.lstm_nodes`, which programs may use."""

import sys

from . import lstm_nodes
from .lstm_nodes import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = lstm_nodes
