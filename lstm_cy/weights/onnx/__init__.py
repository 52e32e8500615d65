"""ONNX files: their LSTMs as layers, whole graphs as models, and models written. The library `onnx` is an extra, loaded
where it is used.
"""

from .export import to_onnx
from .graph import OnnxModel, from_onnx
from .nodes import lstms

__all__ = ["OnnxModel", "from_onnx", "lstms", "to_onnx"]
