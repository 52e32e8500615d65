"""Saving and loading models, by the file's suffix."""

import os

from ..layer import Composite
from . import native

_WRITERS = {".npz": native.write_model, ".safetensors": native.write_model}
_READERS = {".npz": native.read_model, ".safetensors": native.read_model}


def save(model, path, metadata=None):
    """Save a model with its architecture and metadata.

    Parameters
    ----------
    model : LSTM, Sequential or Seq2Seq
        What to save.
    path : str or os.PathLike
        Where to; the suffix decides on the format: .npz, or .safetensors, which is an extra. A file there is
        replaced when the new one is complete and on the disk, and else stays as it was.
    metadata : dict, optional
        Anything JSON can hold, such as a vocabulary's `to_json`. None: the model's own `metadata`, if `load`
        gave it some.

    Raises
    ------
    ValueError
        Another suffix, a layer of a type that cannot be saved, or metadata that JSON would not give back.
    TypeError
        `model` is no model, or `metadata` is no dict that JSON can hold.
    ImportError
        The suffix asks for an extra that is not installed.
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
    write = _by_suffix(path, _WRITERS)
    if not isinstance(model, native.LSTM | Composite):
        raise TypeError(f"model: expected an LSTM, a Sequential or a Seq2Seq, got {type(model).__name__}")
    if metadata is None:
        metadata = getattr(model, "metadata", {})
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata: expected a dict, got {type(metadata).__name__}")
    write(model, path, metadata)


def load(path, strict=False):
    """Load a model that `save` wrote.

    No code from the file is executed, and no memory is taken on the word of its header.

    Parameters
    ----------
    path : str or os.PathLike
        A .npz or .safetensors file.
    strict : bool
        If True, NaN or infinity among the weights is an error instead of a warning.

    Returns
    -------
    LSTM, Sequential or Seq2Seq
        The model as it was saved, to the bit; `model.metadata` holds the metadata, {} if there were none.

    Raises
    ------
    ValueError
        Another suffix, or a file that is truncated, damaged, of another format version or no model; the
        message names the file and the fault.
    ImportError
        The suffix asks for an extra that is not installed.
    OSError
        The file cannot be read.

    Warns
    -----
    UserWarning
        NaN or infinity among the weights; the tensors are named.
    """
    read = _by_suffix(path, _READERS)
    model, model.metadata = read(path, strict)
    return model


def _by_suffix(path, table):
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in table:
        raise ValueError(f"path: expected a file ending in {' or '.join(table)}, got {os.fspath(path)!r}")
    return table[suffix]
