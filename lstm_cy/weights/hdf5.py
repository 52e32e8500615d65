"""The former path of `lstm_cy.weights.containers.hdf5`, which programs may use."""

import sys

from .containers import hdf5
from .containers.hdf5 import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = hdf5
