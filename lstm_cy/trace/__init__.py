"""Records of the gates and the cell at every step, values derived from them, and pictures of them."""

from .explaining import explain
from .explanation import Explanation, UnitExplanation
from .features import text_features
from .gates import GateTrace
from .gradients import GradientTrace
from .layout import FIELDS
from .matching import Match, SpanUnit
from .memories import Memory
from .picture import MOST_COLUMNS, MOST_TOKENS, add_new_fonts, visible
from .predictions import Predictions

__all__ = [
    "FIELDS",
    "MOST_COLUMNS",
    "MOST_TOKENS",
    "Explanation",
    "GateTrace",
    "GradientTrace",
    "Match",
    "Memory",
    "Predictions",
    "SpanUnit",
    "UnitExplanation",
    "add_new_fonts",
    "explain",
    "text_features",
    "visible",
]
