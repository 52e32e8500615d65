"""Functions for ONNX files: LSTM nodes as layers, graphs as models, and export. Only export needs the library `onnx`,
an extra that is imported when it is used.
"""

from typing import TYPE_CHECKING, Any

from .graph import OnnxModel, from_onnx
from .lstm_nodes import lstms

if TYPE_CHECKING:
    from .export import to_onnx as to_onnx

__all__ = ["OnnxModel", "from_onnx", "lstms", "to_onnx"]


def __getattr__(name: str) -> Any:
    if name != "to_onnx":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .export import to_onnx  # at its first use: reading needs none of what export imports

    return to_onnx
