"""The former path of `lstm_cy.layers.activations`, which programs and pickles may use."""

import sys

from .layers import activations
from .layers.activations import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = activations
