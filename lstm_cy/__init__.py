"""LSTM for CPUs: arrays in, arrays out, typed Cython kernels.

The public names are loaded at their first use, so that ``import lstm_cy`` costs little more than NumPy.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "LSTM": "layers.lstm",
    "Linear": "layers.linear",
    "Embedding": "layers.embedding",
    "Dropout": "layers.dropout",
    "ActivationRegularization": "layers.regularization",
    "Activation": "layers.activation",
    "Masking": "layers.masking",
    "Readout": "layers.readout",
    "Residual": "layers.residual",
    "Sequential": "layers.sequential",
    "Conv1D": "layers.conv",
    "Pooling1D": "layers.pooling",
    "GlobalPooling1D": "layers.pooling",
    "BatchNormalization": "layers.normalization",
    "LayerNormalization": "layers.normalization",
    "Flatten": "layers.shapes",
    "RepeatVector": "layers.shapes",
    "Attention": "layers.attention",
    "Layer": "layers.base",
    "Gradients": "layers.base",
    "Seq2Seq": "seq2seq",
    "cross_entropy": "training.losses",
    "mse": "training.losses",
    "ctc": "training.losses",
    "huber": "training.elementwise",
    "quantile": "training.elementwise",
    "binary_cross_entropy": "training.elementwise",
    "accuracy": "training.metrics",
    "SGD": "training.optimizers",
    "Adam": "training.optimizers",
    "AdamW": "training.optimizers",
    "RMSprop": "training.optimizers",
    "clip_grad_norm": "training.optimizers",
    "clip_grad_value": "training.optimizers",
    "GateTrace": "trace.gates",
    "StreamPool": "streaming.pool",
    "AsyncStreamPool": "streaming.serving",
    "pad": "training.batches",
    "ctc_greedy": "decoding.ctc",
    "ctc_beam": "decoding.ctc",
    "CTCDecoder": "decoding.ctc",
    "fit": "training.fitting",
    "from_torch": "weights.pytorch",
    "sample": "decoding.sampling",
    "beam_search": "decoding.beam",
    "Graph": "weights.graph",
    "load": "weights",
    "save": "weights",
    "from_keras": "weights.keras",
    "from_onnx": "weights.onnx",
    "LSTMClassifier": "estimators",
    "LSTMRegressor": "estimators",
    "LSTMForecaster": "estimators",
    "set_num_threads": "config",
    "get_num_threads": "config",
    "show_config": "config",
    "get_include": "config",
}
_MODULES = ("reference", "schedules", "weights")

# A star import must not need an extra.
__all__ = [*(name for name, home in _HOME.items() if home != "estimators"), *_MODULES]


if TYPE_CHECKING:  # the names of _HOME again, for type checkers
    from . import reference as reference
    from . import schedules as schedules
    from . import weights as weights
    from .config import get_include as get_include
    from .config import get_num_threads as get_num_threads
    from .config import set_num_threads as set_num_threads
    from .config import show_config as show_config
    from .decoding.beam import beam_search as beam_search
    from .decoding.ctc import CTCDecoder as CTCDecoder
    from .decoding.ctc import ctc_beam as ctc_beam
    from .decoding.ctc import ctc_greedy as ctc_greedy
    from .decoding.sampling import sample as sample
    from .estimators import LSTMClassifier as LSTMClassifier
    from .estimators import LSTMForecaster as LSTMForecaster
    from .estimators import LSTMRegressor as LSTMRegressor
    from .layers.activation import Activation as Activation
    from .layers.attention import Attention as Attention
    from .layers.base import Gradients as Gradients
    from .layers.base import Layer as Layer
    from .layers.conv import Conv1D as Conv1D
    from .layers.dropout import Dropout as Dropout
    from .layers.embedding import Embedding as Embedding
    from .layers.linear import Linear as Linear
    from .layers.lstm import LSTM as LSTM
    from .layers.masking import Masking as Masking
    from .layers.normalization import BatchNormalization as BatchNormalization
    from .layers.normalization import LayerNormalization as LayerNormalization
    from .layers.pooling import GlobalPooling1D as GlobalPooling1D
    from .layers.pooling import Pooling1D as Pooling1D
    from .layers.readout import Readout as Readout
    from .layers.regularization import ActivationRegularization as ActivationRegularization
    from .layers.residual import Residual as Residual
    from .layers.sequential import Sequential as Sequential
    from .layers.shapes import Flatten as Flatten
    from .layers.shapes import RepeatVector as RepeatVector
    from .seq2seq import Seq2Seq as Seq2Seq
    from .streaming.pool import StreamPool as StreamPool
    from .streaming.serving import AsyncStreamPool as AsyncStreamPool
    from .trace.gates import GateTrace as GateTrace
    from .training.batches import pad as pad
    from .training.elementwise import binary_cross_entropy as binary_cross_entropy
    from .training.elementwise import huber as huber
    from .training.elementwise import quantile as quantile
    from .training.fitting import fit as fit
    from .training.losses import cross_entropy as cross_entropy
    from .training.losses import ctc as ctc
    from .training.losses import mse as mse
    from .training.metrics import accuracy as accuracy
    from .training.optimizers import SGD as SGD
    from .training.optimizers import Adam as Adam
    from .training.optimizers import AdamW as AdamW
    from .training.optimizers import RMSprop as RMSprop
    from .training.optimizers import clip_grad_norm as clip_grad_norm
    from .training.optimizers import clip_grad_value as clip_grad_value
    from .weights import load as load
    from .weights import save as save
    from .weights.graph import Graph as Graph
    from .weights.keras import from_keras as from_keras
    from .weights.onnx import from_onnx as from_onnx
    from .weights.pytorch import from_torch as from_torch
else:  # hidden from mypy, which then reports unknown names

    def __getattr__(name):
        if name in _MODULES:
            return importlib.import_module(f".{name}", __name__)
        if name in _HOME:
            return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])
