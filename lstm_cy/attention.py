"""The former path of `lstm_cy.layers.attention`, which programs and pickles may use."""

import sys

from .layers import attention
from .layers.attention import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = attention
