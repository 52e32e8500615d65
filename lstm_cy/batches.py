"""The former path of `lstm_cy.training.batches`, which programs and pickles may use."""

import sys

from .training import batches
from .training.batches import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = batches
