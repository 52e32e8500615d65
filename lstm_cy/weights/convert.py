"""Conversion of one file into another, as `lstm-cy convert` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checks import file_path
from ..printable import printable
from . import formats, save
from .faults import listed
from .inputs import Input

if TYPE_CHECKING:
    from ..layers.base import Layer
    from ..typing import FileSource
    from .comparisons import Comparison
    from .sources import Source


def read(
    path: FileSource,
    name: str | None = None,
    *,
    batch_first: bool = False,
    partial: bool = False,
    format: str | None = None,
) -> Source:
    """Read the model in a file, or one LSTM by its name.

    Parameters
    ----------
    path : str, os.PathLike, bytes or binary file
        Any file that `load` reads; for an .onnx file an LSTM node is read.
    name : str, optional
        A prefix of PyTorch's names, with or without the final dot, or the name of an ONNX node. Optional if the file
        holds one LSTM and nothing else, or one LSTM node.
    batch_first : bool
        Option of an LSTM under PyTorch's names, which do not determine it.
    partial : bool
        If True, an LSTM may be extracted from a larger model; otherwise remaining contents are an error.
    format : str, optional
        As for `load`.

    Returns
    -------
    Source

    Raises
    ------
    ValueError, ImportError, OSError
        As `load`; or there is no LSTM of this name; or the file holds more and `partial` is False.
    """
    given = Input(path)
    source = formats.of(given, format).source(given, name, batch_first)
    if batch_first and not source.model.batch_first:
        raise ValueError(
            f"{printable(given)}: batch_first (--batch-first) is only for files with PyTorch's names; other files "
            "contain this option"
        )
    if source.left and not partial:
        raise ValueError(
            f"{printable(given)}: holds more than this LSTM, which would be left behind: {listed(source.left)}. With "
            "partial (--partial) only the LSTM is converted"
        )
    return source


def write(model: Layer, path: str, *, states: bool = False, lengths: bool = False) -> list[Comparison]:
    """Save `model` with the options of `weights.onnx.to_onnx`; return a list of Comparison with the saved file."""
    path = file_path("path", path)
    form, _ = formats.to_write(path)
    if not states and not lengths:
        save(model, path)
    elif form.has_inputs:
        form.write(model, path, None, states=states, lengths=lengths)
    else:
        raise ValueError(f"states (--states) and lengths (--lengths) are inputs of .onnx files; {path!r} is not one")
    return form.comparisons(path, model)
