"""The former path of `lstm_cy.weights.containers.torch_pickle`, which programs may use."""

import sys

from .containers import torch_pickle
from .containers.torch_pickle import *  # noqa: F403 (for type checkers)

sys.modules[__name__] = torch_pickle
