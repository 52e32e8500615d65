"""ONNX: models written to it. The library `onnx` is an extra and loaded where it is used."""

from .export import to_onnx

__all__ = ["to_onnx"]
