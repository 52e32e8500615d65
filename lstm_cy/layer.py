"""The former path of `lstm_cy.layers.base`, which programs and pickles may use."""

import sys

from .layers import base
from .layers.base import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = base
