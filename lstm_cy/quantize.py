"""The former path of `lstm_cy.layers.quantized`, which programs and pickles may use."""

import sys

from .layers import quantized
from .layers.quantized import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = quantized
