"""The public path of `lstm_cy.training.schedules`, which pickles may use too."""

import sys

from .training import schedules
from .training.schedules import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = schedules
