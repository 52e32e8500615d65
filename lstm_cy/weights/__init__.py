"""Functions that save and load models; a file's content decides how it is read, its suffix how it is written.

The modules of other formats, `pytorch`, `keras` and `onnx`, are imported at their first use.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from ..layers.base import Layer
from . import formats, native
from .inputs import Input

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

    from ..typing import FilePath, FileSource
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


def save(
    model: Layer, path: FilePath | IO[bytes], metadata: dict[str, Any] | None = None, *, format: str | None = None
) -> None:
    """Save a model with its architecture and metadata.

    Parameters
    ----------
    model : LSTM, Sequential or Seq2Seq
        The model.
    path : str, os.PathLike or binary file
        The file; its suffix selects the format: .npz; .safetensors or .onnx, which are extras; .nam, .json or .aidax
        for models of amplifiers. An existing file is replaced when the new one is complete and on the disk; it is
        unchanged if an error occurs. To a file that is open for writing in binary mode the content is written at its
        position, as .npz if the file has no name with a suffix.
    metadata : dict, optional
        Anything JSON can hold, such as a vocabulary's `to_json`. None: the model's own `metadata`, if `load` has
        set it.
    format : {"npz", "safetensors", "onnx", "nam", "json"}, optional
        The format, whatever the suffix.

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
    if not isinstance(path, str | os.PathLike) and not callable(getattr(path, "write", None)):
        raise TypeError(f"path: expected a path or a file that is open for writing, got {type(path).__name__}")
    form, name = formats.to_write(path, format)
    if not isinstance(model, Layer) or not model.is_model:
        raise TypeError(f"model: expected an LSTM, a Sequential or a Seq2Seq, got {type(model).__name__}")
    options = {"safetensors": name == "safetensors"} if name in ("npz", "safetensors") else {}
    form.write(model, path, metadata, **options)


def load(
    path: FileSource, strict: bool = False, *, layers: Sequence[type[Layer]] = (), format: str | None = None
) -> Any:
    """Load a model that `save` or another library wrote.

    No code from the file is executed. Sizes in the file are checked before memory is allocated.

    Parameters
    ----------
    path : str, os.PathLike, bytes or binary file
        A path; or the content of a file, as bytes; or a file that is open for reading in binary mode, which is read
        from its position. The content decides the format, whatever the name: a file that `save` wrote; the tensors of
        exactly one LSTM under PyTorch's names, in a file of torch.save, TorchScript, .npz or .safetensors; a model
        saved by Keras (.keras, .h5); a model of an amplifier (.nam, .json). An ONNX file has no mark: its suffix is
        .onnx, or `format` is "onnx".
    strict : bool
        If True, NaN or infinity among the weights is an error instead of a warning.
    layers : list of classes
        Classes of layers of your own that a file written by `save` may contain, derived from `lstm_cy.Layer`. Other
        unknown layers are refused; a file never causes an import.
    format : {"npz", "safetensors", "pytorch", "keras", "onnx", "nam", "json"}, optional
        The format of a file whose content has no mark; an error for one that has another mark.

    Returns
    -------
    LSTM, Sequential, Seq2Seq or Graph
        The model as it was saved, bit for bit; `model.metadata` holds the metadata, {} if there are none. An LSTM for
        a file with PyTorch's tensors, a Sequential or a Graph for a file of Keras, a Graph for every .onnx file.

    Raises
    ------
    ValueError
        The file is of no format that is read, or truncated, damaged, of another format version, not a model, or holds
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
    source, own = Input(path), native.own_layers(layers)
    model: Any
    model, model.metadata = formats.of(source, format).read(source, strict, own)
    return model
