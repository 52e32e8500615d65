"""The layers, each in the module of its name; `base` has what all of them share."""

import importlib
from typing import TYPE_CHECKING

_HOME = {
    "LSTM": "lstm",
    "QuantizedLSTM": "quantized",
    "Linear": "linear",
    "Embedding": "embedding",
    "Dropout": "dropout",
    "Activation": "activation",
    "ActivationRegularization": "regularization",
    "Masking": "masking",
    "Readout": "readout",
    "Residual": "residual",
    "Sequential": "sequential",
    "Conv1D": "conv",
    "Pooling1D": "pooling",
    "GlobalPooling1D": "pooling",
    "BatchNormalization": "normalization",
    "LayerNormalization": "normalization",
    "Flatten": "shapes",
    "RepeatVector": "shapes",
    "Attention": "attention",
}

if TYPE_CHECKING:
    from .activation import Activation as Activation
    from .attention import Attention as Attention
    from .conv import Conv1D as Conv1D
    from .dropout import Dropout as Dropout
    from .embedding import Embedding as Embedding
    from .linear import Linear as Linear
    from .lstm import LSTM as LSTM
    from .masking import Masking as Masking
    from .normalization import BatchNormalization as BatchNormalization
    from .normalization import LayerNormalization as LayerNormalization
    from .pooling import GlobalPooling1D as GlobalPooling1D
    from .pooling import Pooling1D as Pooling1D
    from .quantized import QuantizedLSTM as QuantizedLSTM
    from .readout import Readout as Readout
    from .regularization import ActivationRegularization as ActivationRegularization
    from .residual import Residual as Residual
    from .sequential import Sequential as Sequential
    from .shapes import Flatten as Flatten
    from .shapes import RepeatVector as RepeatVector
else:

    def __getattr__(name):
        if name in _HOME:
            return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
