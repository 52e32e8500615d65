"""Functions that save and load models; the file's suffix selects the format.

The modules of other formats, `pytorch`, `keras` and `onnx`, are imported at their first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..layers.base import Layer
from . import formats, native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..typing import FilePath
    from . import keras as keras
    from . import onnx as onnx
    from . import pytorch as pytorch

__all__ = ["keras", "load", "onnx", "pytorch", "save"]

_MODULES = ("keras", "onnx", "pytorch")


if not TYPE_CHECKING:  # so that mypy reports unknown names

    def __getattr__(name):
        if name in _MODULES:
            return importlib.import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])


def save(model: Layer, path: FilePath, metadata: dict[str, Any] | None = None) -> None:
    """Save a model with its architecture and metadata.

    Parameters
    ----------
    model : LSTM, Sequential or Seq2Seq
        The model.
    path : str or os.PathLike
        The file; its suffix selects the format: .npz, or .safetensors or .onnx, which are extras. An existing file is
        replaced when the new one is complete and on the disk; it is unchanged if an error occurs.
    metadata : dict, optional
        Anything JSON can hold, such as a vocabulary's `to_json`. None: the model's own `metadata`, if `load` has
        set it.

    Raises
    ------
    ValueError
        The suffix is another one, a layer's type cannot be saved, or JSON would change the metadata; for .onnx, as
        `weights.onnx.to_onnx`.
    TypeError
        `model` is not a model, or `metadata` is not a dict that JSON can hold.
    ImportError
        The format needs an extra that is not installed.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> from lstm_cy import LSTM, load, save
    >>> path = os.path.join(tempfile.mkdtemp(), "model.npz")
    >>> save(LSTM(3, 5, seed=0), path, {"made": "for this example"})
    >>> model = load(path)
    >>> model.hidden_size, model.metadata
    (5, {'made': 'for this example'})
    """
    form = formats.of(path, written=True)
    if not isinstance(model, Layer) or not model.is_model:
        raise TypeError(f"model: expected an LSTM, a Sequential or a Seq2Seq, got {type(model).__name__}")
    form.write(model, path, metadata)


def load(path: FilePath, strict: bool = False, *, layers: Sequence[type[Layer]] = ()) -> Any:
    """Load a model that `save` or another library wrote.

    No code from the file is executed. Sizes in the file are checked before memory is allocated.

    Parameters
    ----------
    path : str or os.PathLike
        The suffix determines the format: .npz or .safetensors, written by `save` or with the tensors of exactly one
        LSTM under PyTorch's names; .pt, .pth, .ckpt or .bin, such tensors saved by PyTorch; .keras, .h5 or .hdf5, a
        model saved by Keras; .onnx.
    strict : bool
        If True, NaN or infinity among the weights is an error instead of a warning.
    layers : list of classes
        Classes of layers of your own that a file written by `save` may contain, derived from `lstm_cy.Layer`. Other
        unknown layers are refused; a file never causes an import.

    Returns
    -------
    LSTM, Sequential, Seq2Seq or Graph
        The model as it was saved, bit for bit; `model.metadata` holds the metadata, {} if there are none. An LSTM for
        a file with PyTorch's tensors, a Sequential for a file of Keras, a Graph for every .onnx file.

    Raises
    ------
    ValueError
        The suffix is another one, or the file is truncated, damaged, of another format version, not a model, or holds
        more than one LSTM; the message names the file and the fault.
    ImportError
        The format needs an extra that is not installed.
    OSError
        The file cannot be read.

    Warns
    -----
    UserWarning
        NaN or infinity among the weights; the tensors are named.
    """
    form, own = formats.of(path), native.own_layers(layers)
    model: Any
    model, model.metadata = form.read(path, strict, own)
    return model
