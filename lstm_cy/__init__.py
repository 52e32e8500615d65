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
    "cross_entropy": "losses",
    "mse": "losses",
    "SGD": "optimizers",
    "Adam": "optimizers",
    "clip_grad_norm": "optimizers",
    "GateTrace": "trace",
    "pad": "batches",
    "fit": "training",
    "from_torch": "weights.pytorch",
    "load": "weights",
    "save": "weights",
    "from_keras": "weights.keras",
    "from_onnx": "weights.onnx",
    "set_num_threads": "config",
    "get_num_threads": "config",
    "show_config": "config",
}
_MODULES = ("reference", "weights")

__all__ = [*_HOME, *_MODULES]


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
