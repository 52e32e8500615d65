"""Functions for ONNX files: LSTM nodes as layers, graphs as models, and export. Only export needs the library `onnx`,
an extra that is imported when it is used.
"""

from .export import to_onnx
from .graph import OnnxModel, from_onnx
from .lstm_nodes import lstms

__all__ = ["OnnxModel", "from_onnx", "lstms", "to_onnx"]
