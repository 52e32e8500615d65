"""Conversion of one file into another, as `lstm-cy convert` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checks import file_path
from ..printable import printable
from . import formats, save
from .faults import listed

if TYPE_CHECKING:
    from ..layers.base import Layer
    from ..typing import FilePath
    from .comparisons import Comparison
    from .sources import Source


def read(path: FilePath, name: str | None = None, *, batch_first: bool = False, partial: bool = False) -> Source:
    """Read the model in a file, or one LSTM by its name.

    Parameters
    ----------
    path : str or os.PathLike
        Any file that `load` reads; for an .onnx file an LSTM node is read.
    name : str, optional
        A prefix of PyTorch's names, with or without the final dot, or the name of an ONNX node. Optional if the file
        holds one LSTM and nothing else, or one LSTM node.
    batch_first : bool
        Option of an LSTM under PyTorch's names, which do not determine it.
    partial : bool
        If True, an LSTM may be extracted from a larger model; otherwise remaining contents are an error.

    Returns
    -------
    Source

    Raises
    ------
    ValueError, ImportError, OSError
        As `load`; or there is no LSTM of this name; or the file holds more and `partial` is False.
    """
    source = formats.of(path).source(file_path("path", path), name, batch_first)
    if batch_first and not source.model.batch_first:
        raise ValueError(f"{path}: batch_first is only for files with PyTorch's names; other files contain this option")
    if source.left and not partial:
        raise ValueError(
            f"{printable(path)}: holds more than this LSTM, which would be left behind: {listed(source.left)}. With "
            "partial (--partial) only the LSTM is converted"
        )
    return source


def write(model: Layer, path: str, *, states: bool = False, lengths: bool = False) -> list[Comparison]:
    """Save `model` with the options of `weights.onnx.to_onnx`; return a list of Comparison with the saved file."""
    path, form = file_path("path", path), formats.of(path, written=True)
    if not states and not lengths:
        save(model, path)
    elif form.has_inputs:
        form.write(model, path, None, states=states, lengths=lengths)
    else:
        raise ValueError(f"states and lengths are inputs of .onnx files; {path!r} is not one")
    return form.comparisons(path, model)
