"""How nodes of ONNX graphs become operations of a plan.

Each lowering is a function of the Builder, the node and its input Values, None for an omitted one, that returns the
output Values. It raises NotLowered where the kernels do not compute the node as it is used; the node is then called.
"""

from . import elementwise, layout, products, quantized, windows  # noqa: F401 (they fill the table)
from .registry import LOWERINGS, STRUCTURAL

__all__ = ["LOWERINGS", "STRUCTURAL"]
