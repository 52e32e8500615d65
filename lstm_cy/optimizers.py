"""The public path of `lstm_cy.training.optimizers`, which pickles may use too."""

import sys

from .training import optimizers
from .training.optimizers import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = optimizers
