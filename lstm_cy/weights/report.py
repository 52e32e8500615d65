"""The former path of `lstm_cy.weights.inspect`, which programs may use."""

import sys

from . import inspect
from .inspect import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = inspect
