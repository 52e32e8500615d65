"""Records of the gates and the cell at every step, values derived from them, and pictures of them."""

from .gates import FIELDS, GateTrace
from .picture import MOST_COLUMNS, MOST_TOKENS, add_new_fonts, visible

__all__ = ["FIELDS", "MOST_COLUMNS", "MOST_TOKENS", "GateTrace", "add_new_fonts", "visible"]
