"""Conversion of LSTMs from and to PyTorch: files, state dicts and live modules.

This library uses PyTorch's names and order of the gates, so nothing is reordered. This package does not import torch:
the caller passes tensors and modules.
"""

from ..containers.opaque import Opaque
from .files import lstms, read, read_model
from .modules import from_torch, to_state_dict

__all__ = ["Opaque", "from_torch", "lstms", "read", "read_model", "to_state_dict"]
