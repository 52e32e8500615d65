"""Records of the gates and the cell at every step, values derived from them, and pictures of them."""

from .gates import FIELDS, GateTrace
from .gradients import GradientTrace
from .memories import Memory
from .picture import MOST_COLUMNS, MOST_TOKENS, add_new_fonts, visible
from .predictions import Predictions

__all__ = [
    "FIELDS",
    "MOST_COLUMNS",
    "MOST_TOKENS",
    "GateTrace",
    "GradientTrace",
    "Memory",
    "Predictions",
    "add_new_fonts",
    "visible",
]
