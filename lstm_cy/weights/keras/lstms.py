"""The LSTMs in a file of Keras, whatever else it holds, and all of its arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...layers.lstm import LSTM
from ..budget import Budget
from ..faults import check_finite, listed, naming
from ..inputs import input_of
from . import recurrent
from .calls import Reader
from .files import read_arrays, read_parts
from .parts import Source, loaded
from .recurrent import lstm_parameters
from .weights import Location, Weights

if TYPE_CHECKING:
    from ...typing import Array, FileSource, Parameters
    from ..inputs import Input

_WEIGHTS = ("kernel", "recurrent_kernel", "bias")
# The ends of the names of both directions: of their layers, and in numbered files.
_DIRECTIONS = ("forward_", "backward_")


def read(path: FileSource | Input) -> dict[str, Array]:
    """Read all weights of a file of Keras, also one with weights only; the optimizer's are left out.

    Parameters
    ----------
    path : str, os.PathLike, bytes or binary file
        A .keras file of Keras 2.13 or later, or an .h5 or .hdf5 file of a model or of `save_weights`.

    Returns
    -------
    dict of str to ndarray
        Under the names in the file, such as "lstm_1/lstm_1/kernel:0" or "layers/lstm/cell/vars/0".

    Raises
    ------
    ValueError
        The file is truncated, damaged or not Keras's.
    OSError
        The file cannot be read.

    Examples
    --------
    Of a file of weights::

        arrays = lstm_cy.weights.keras.read("model.weights.h5")
    """
    path = input_of(path)
    with path.open() as file, naming(path):
        return read_arrays(file, Budget.of(file, path))


def lstms(path: FileSource | Input, strict: bool = False) -> dict[str, LSTM]:
    """Read the LSTMs of a file of Keras, whose other layers need not be supported.

    Parameters
    ----------
    path : str, os.PathLike, bytes or binary file
        As for `read`.
    strict : bool
        If True, NaN or infinity among the weights is an error instead of a warning.

    Returns
    -------
    dict of str to LSTM
        {name of the layer: LSTM with `batch_first`}; a Bidirectional gives one LSTM. Without `Readout`: y has every
        step. In a file with weights only, LSTMs are found by the names and shapes of their arrays; their activations
        are not in it, so they are the default ones of tanh and sigmoid.

    Raises
    ------
    ValueError
        The file is truncated, damaged or not Keras's; an LSTM has options that are not supported; or there is none.
    OSError
        The file cannot be read.

    Warns
    -----
    UserWarning
        NaN or infinity among the weights.

    Examples
    --------
    Of a model with a layer of one's own::

        encoder = lstm_cy.weights.keras.lstms("model.keras")["encoder"]
        y, (h, c) = encoder(x)
    """
    path = input_of(path)
    with path.open() as file, naming(path):
        budget = Budget.of(file, path)
        spec, version, weights = read_parts(file, budget)
        if spec is None:
            found = _by_name(weights.arrays(), budget)
        else:
            found = _by_configuration(spec, version, weights, budget)
        if not found:
            raise ValueError(f"holds no LSTM; its arrays: {listed(weights.arrays()) or 'none'}")
    numbers = {f"{name}.{key}": array for name, one in found.items() for key, array in one.parameters.items()}
    check_finite(path, numbers, strict)
    return found


def _by_configuration(spec: Any, version: Any, weights: Weights, budget: Budget) -> dict[str, LSTM]:
    """Return the LSTMs that a model's configuration names."""
    reader = Reader(version if isinstance(version, str) else None, budget)
    reader.read(spec, Location("", "", "", ()))
    wrong = [f"{name}: {problem}" for name, problem in reader.unsupported if reader.recurrent.get(name, ...) is None]
    if wrong:
        raise ValueError(f"not supported: {listed(wrong, 100, '; ')}")
    found = {}
    for name, part in reader.recurrent.items():
        if part is not None:
            found[name] = recurrent.lstm_of(part.make(Source(weights)))
    return found


def _by_name(arrays: Parameters, budget: Budget) -> dict[str, LSTM]:
    """Return the LSTMs whose arrays have their names, or numbers, and shapes."""
    groups: dict[str, Parameters] = {}
    for name, array in arrays.items():
        folder, _, last = name.rpartition("/")
        last = last.partition(":")[0]
        if folder.endswith("vars") and last in ("0", "1", "2"):
            folder, last = folder[:-4].rstrip("/"), _WEIGHTS[int(last)]
        if last in _WEIGHTS:
            groups.setdefault(folder, {})[last] = array
    directions = {name: group for name, group in groups.items() if _is_lstm(group)}
    found: dict[str, LSTM] = {}
    for name, group in directions.items():
        budget.objects(LSTM.cost({}), "its layers")
        other = _other_direction(name)
        if other is None or other not in directions:
            found[_label(name)] = _lstm([group])
        elif _DIRECTIONS[0] in name:
            found[_label(name)] = _lstm([group, directions[other]])
    return found


def _is_lstm(group: Parameters) -> bool:
    kernel, recurrent_kernel, bias = (group.get(name) for name in _WEIGHTS)
    if kernel is None or recurrent_kernel is None or kernel.ndim != 2 or recurrent_kernel.ndim != 2:
        return False
    units = recurrent_kernel.shape[0]
    shapes = (kernel.shape[1], recurrent_kernel.shape[1]) == (4 * units, 4 * units) and units and kernel.shape[0]
    biased = bias is None or bias.shape in ((4 * units,), (8 * units,))
    return bool(shapes and biased) and all(array.dtype.kind == "f" for array in group.values())


def _other_direction(name: str) -> str | None:
    """Return the name of the other direction of a Bidirectional, whose cells may have other numbers."""
    for one, other in (_DIRECTIONS, _DIRECTIONS[::-1]):
        if one in name:
            return name.replace(one, other)
    return None


def _label(name: str) -> str:
    """Return the name of a layer from that of its arrays' group."""
    parts = [part for part in name.split("/") if part not in ("cell", "layers", "lstm_cell", "forward_layer")]
    parts = [part for part in parts if not part.startswith("forward_")] or parts
    return "/".join(part for place, part in enumerate(parts) if place == 0 or part != parts[place - 1])


def _lstm(groups: list[Parameters]) -> LSTM:
    """Make an LSTM of one direction or two."""
    units = groups[0]["recurrent_kernel"].shape[0]
    parameters: Parameters = {}
    for group, suffix in zip(groups, ("_l0", "_l0_reverse"), strict=False):
        bias = group.get("bias", np.zeros(4 * units, np.float32))
        parameters |= lstm_parameters({**group, "bias": bias}, suffix)
    dtype = "float64" if any(array.dtype == np.float64 for array in groups[0].values()) else "float32"
    biased = any("bias" in group for group in groups)
    made = LSTM.blank(
        groups[0]["kernel"].shape[0],
        units,
        bias=biased,
        batch_first=True,
        bidirectional=len(groups) == 2,
        dtype=dtype,
    )
    return loaded(made, {name: array for name, array in parameters.items() if biased or "bias" not in name})
