"""The former path of `lstm_cy.streaming.stepper`, which programs and pickles may use."""

import sys

from .streaming import stepper
from .streaming.stepper import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = stepper
