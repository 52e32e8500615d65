"""The former path of `lstm_cy.streaming.pool`, which programs and pickles may use."""

import sys

from .streaming import pool
from .streaming.pool import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = pool
