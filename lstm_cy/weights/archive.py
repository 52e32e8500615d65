"""The former path of `lstm_cy.weights.containers.zip`, which programs may use."""

import sys

from .containers import zip
from .containers.zip import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = zip
