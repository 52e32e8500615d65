"""Tensors inside objects that a file keeps as data: whole modules, TorchScript's modules, packed quantized weights."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from ..containers.opaque import Opaque

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...typing import Array

# The names of an LSTM's packed weights in a quantized module, one for each layer and direction; of an LSTMCell's.
_PACKED = re.compile(r"(?P<prefix>.*?)_all_weight_values\.(?P<index>\d{1,5})\.param", re.DOTALL)
_PACKED_CELL = re.compile(r"(?P<prefix>.*?)_packed_weight_(?P<part>ih|hh)", re.DOTALL)
_SCRIPT = "__torch__."
_MAX_DEPTH = 64


def is_module(value: Any) -> bool:
    """Return whether a value is a module of PyTorch or TorchScript that was saved as a whole."""
    if not isinstance(value, Opaque) or not isinstance(value.state, dict):
        return False
    return value.name.startswith(_SCRIPT) or {"_parameters", "_modules"} <= value.state.keys()


class ModuleTensors(dict[str, Any]):
    """What the state_dict of a module would have: {name: tensor or packed weights}.

    Attributes
    ----------
    batch_first : set of str
        The prefixes of the modules with the option `batch_first`, which a state_dict does not have.
    """

    batch_first: set[str]


def named_tensors(module: Opaque) -> ModuleTensors:
    """Return the tensors of a module and of those inside of it."""
    batch_first: set[str] = set()
    tensors = ModuleTensors(_walk(module, "", 0, batch_first))
    tensors.batch_first = batch_first
    return tensors


def _walk(module: Opaque, prefix: str, depth: int, batch_first: set[str]) -> Iterator[tuple[str, Any]]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"modules nested deeper than {_MAX_DEPTH}, or in themselves")
    state = module.state
    if state.get("batch_first") is True:
        batch_first.add(prefix)
    groups = [state] if module.name.startswith(_SCRIPT) else [state["_parameters"], state.get("_buffers"), state]
    for group in groups:
        for name, value in group.items() if isinstance(group, dict) else ():
            is_parameter = group is not state or module.name.startswith(_SCRIPT)
            if (is_parameter and isinstance(value, np.ndarray)) or _is_packed(value):
                yield f"{prefix}{name}", value
    inside = state if module.name.startswith(_SCRIPT) else state["_modules"]
    for name, part in inside.items() if isinstance(inside, dict) else ():
        if is_module(part):
            yield from _walk(part, f"{prefix}{name}.", depth + 1, batch_first)


def _is_packed(value: Any) -> bool:
    """Return whether a value holds packed weights: torch.classes.rnn.CellParamsBase or LinearPackedParamsBase."""
    return isinstance(value, Opaque) and value.name.endswith(("CellParamsBase", "LinearPackedParamsBase"))


def unpacked(tensors: dict[str, Any]) -> ModuleTensors:
    """Return {name: value} with packed weights of LSTMs as the tensors of an nn.LSTM, under its names.

    Raises
    ------
    ValueError
        Packed weights are of an unknown kind, or do not determine the directions.
    """
    cells: dict[str, dict[int, Opaque]] = {}
    result = ModuleTensors()
    result.batch_first = getattr(tensors, "batch_first", set())
    for name, value in tensors.items():
        if _is_packed(value) and (match := _PACKED.fullmatch(name)):
            cells.setdefault(match["prefix"], {})[int(match["index"])] = value
        elif _is_packed(value) and (match := _PACKED_CELL.fullmatch(name)):
            result[f"{match['prefix']}weight_{match['part']}"] = _matrix(value)[0]
        else:
            result[name] = value
    for prefix, numbered in cells.items():
        result.update({prefix + name: array for name, array in _lstm(prefix, numbered).items()})
    return result


def _lstm(prefix: str, numbered: dict[int, Opaque]) -> dict[str, Array]:
    """Return the tensors of an nn.LSTM from its packed weights, {number of layer and direction: weights}."""
    if sorted(numbered) != list(range(len(numbered))):
        raise ValueError(f"{prefix}_all_weight_values: expected numbers from 0 on, got {sorted(numbered)[:50]}")
    cells = [_cell(numbered[index]) for index in range(len(numbered))]
    directions = _directions(prefix, cells)
    result: dict[str, Array] = {}
    for index, cell in enumerate(cells):
        suffix = f"_l{index // directions}" + "_reverse" * (index % directions)
        result |= {part + suffix: array for part, array in cell.items()}
    return result


def _directions(prefix: str, cells: list[dict[str, Array]]) -> int:
    """Return 1 or 2, from the widths of the layers' inputs."""
    widths = [cell["weight_ih"].shape[1] for cell in cells]
    H = cells[0]["weight_hh"].shape[1]
    if len(cells) == 1:
        return 1
    if len(cells) == 2 and widths[0] == widths[1] == H:
        raise ValueError(
            f"{prefix}_all_weight_values: two layers, or two directions of one layer? With as many inputs as units "
            "the packed weights do not determine it; save the whole module, or the state_dict() before quantization"
        )
    return 2 if widths[1] != H or (len(cells) > 2 and widths[2] == 2 * H) else 1


def _cell(packed: Opaque) -> dict[str, Array]:
    """Return weights and biases of one layer and direction."""
    match packed.state:
        case (str(), list() as biases, _, _, list() as matrices) if len(matrices) == 2:
            pass
        case _:
            raise ValueError(f"packed weights of an unknown kind, {packed!r:.200}")
    found = {f"weight_{part}": _matrix(matrix)[0] for part, matrix in zip(("ih", "hh"), matrices, strict=True)}
    inside = [_matrix(matrix)[1] for matrix in matrices]
    for part, array in zip(("ih", "hh"), biases or inside, strict=False):
        if isinstance(array, np.ndarray):
            found[f"bias_{part}"] = array
    return found


def _matrix(packed: Any) -> tuple[Array, Array | None]:
    """Return the weight and the bias, or None, in the packed weights of a product."""
    arrays = [*_arrays(packed.state if isinstance(packed, Opaque) else packed, 0)]
    if not arrays or arrays[0].ndim != 2:
        raise ValueError(f"packed weights of an unknown kind, {packed!r:.200}")
    return arrays[0], arrays[1] if len(arrays) > 1 else None


def _arrays(value: Any, depth: int) -> Iterator[Array]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, list | tuple) and depth < _MAX_DEPTH:
        for part in value:
            yield from _arrays(part, depth + 1)
