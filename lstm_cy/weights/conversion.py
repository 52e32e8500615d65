"""The former path of `lstm_cy.weights.convert`, which programs may use."""

import sys

from . import convert
from .convert import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = convert
