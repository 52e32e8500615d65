"""PyTorch modules that compute with the kernels of lstm_cy: the parameters, calls and gradients of torch.nn's."""

from __future__ import annotations

from ..extras import pip_install

try:
    import torch  # noqa: F401  (absolute: PyTorch's own package)
except ImportError as error:
    raise ImportError(f"lstm_cy.torch needs PyTorch: {pip_install('torch')}") from error

from .modules import LSTM, LSTMCell
from .replacing import replace, restore

__all__ = ["LSTM", "LSTMCell", "replace", "restore"]
