"""ONNX files: their LSTMs as layers, whole graphs as models. The library `onnx` is an extra, loaded where used."""

from .graph import OnnxModel, from_onnx
from .nodes import lstms

__all__ = ["OnnxModel", "from_onnx", "lstms"]
