"""LSTM for CPUs: arrays in, arrays out, typed Cython kernels.

The names below are loaded when they are first used, so that ``import lstm_cy`` costs little more than NumPy.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "LSTM": "lstm",
    "Linear": "layers",
    "Embedding": "layers",
    "Dropout": "layers",
    "Activation": "layers",
    "Masking": "layers",
    "Readout": "layers",
    "Sequential": "layers",
    "Attention": "attention",
    "Seq2Seq": "seq2seq",
    "cross_entropy": "losses",
    "mse": "losses",
    "ctc": "losses",
    "SGD": "optimizers",
    "Adam": "optimizers",
    "clip_grad_norm": "optimizers",
    "GateTrace": "trace",
    "StreamPool": "streams",
    "pad": "batches",
    "ctc_greedy": "decoding",
    "ctc_beam": "decoding",
    "fit": "training",
    "from_torch": "weights.pytorch",
    "sample": "decoding",
    "beam_search": "decoding",
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
}
_MODULES = ("reference", "weights")

# A star import must not need an extra.
__all__ = [*(name for name, home in _HOME.items() if home != "estimators"), *_MODULES]


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_HOME, *_MODULES])
