"""The public path of `lstm_cy.training.losses`, which pickles may use too."""

import sys

from .training import losses
from .training.losses import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = losses
