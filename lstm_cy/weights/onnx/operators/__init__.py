"""NumPy implementations of the ONNX operators that exporters use with an LSTM.

Each is a function of a `node.Node`, for its attributes and version, and of the inputs, with None for an omitted one. A
function whose result may be larger than its inputs calls `node.room` first.

Source: ONNX's Operators.md and Changelog.md.
"""

from . import arithmetic, layout, norms, quantized, resizing, windows  # noqa: F401 (they fill the tables)
from .registry import ATTRIBUTES, OF_STRINGS, OPERATORS, OUTPUTS

__all__ = ["ATTRIBUTES", "OF_STRINGS", "OPERATORS", "OUTPUTS"]
