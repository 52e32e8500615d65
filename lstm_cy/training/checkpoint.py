"""Checkpoint: the file from which a training continues bit for bit."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import file_path, shown
from ..printable import printable
from .history import History

if TYPE_CHECKING:
    from ..layers.base import Layer
    from ..typing import Array, FilePath, Parameters
    from .optimizers import Optimizer

_FORMAT = "lstm_cy checkpoint 1"
# Parsed JSON takes many times the memory of its text; the settings of most models need far less than this.
_MOST_SETTINGS = 1 << 20
# How many differences from a checkpoint are named.
_MOST_NAMED = 50


def read_history(checkpoint: FilePath) -> History:
    """Return the history of a training so far, read from its checkpoint.

    Parameters
    ----------
    checkpoint : str or os.PathLike
        A file that `fit` wrote.

    Returns
    -------
    History
        Empty if there is no such file.

    Raises
    ------
    ValueError
        The file is damaged, or `fit` did not write it.
    """
    from ..weights.containers.npz import read_npz

    path = Path(file_path("checkpoint", checkpoint))
    if not path.exists():
        return History()
    arrays = read_npz(path)
    _settings(path, arrays.pop("checkpoint", None), _MOST_SETTINGS)
    return _history(path, arrays)


class Checkpoint:
    """The file from which training can continue."""

    def __init__(self, path: FilePath, settings: dict[str, Any]) -> None:
        self.path = Path(file_path("checkpoint", path))
        if self.path.suffix != ".npz":
            raise ValueError(f"checkpoint: expected a path ending in .npz, got {str(path)!r}")
        if not self.path.parent.is_dir():
            raise ValueError(f"checkpoint: expected an existing folder, got {str(self.path.parent)!r}")
        if self.path.is_dir() or not os.access(self.path.parent, os.W_OK):
            raise ValueError(f"checkpoint: expected a file that can be written, got {str(path)!r}")
        # As JSON returns them, so that they can be compared with settings read from a file.
        self.content = json.dumps({"format": _FORMAT, "settings": _plain(settings)}, allow_nan=False).encode()
        self.settings = json.loads(self.content)["settings"]

    def save(self, model: Layer, optimizer: Optimizer, history: History, best: Parameters | None) -> None:
        from ..weights.containers.npz import write_npz

        arrays = self._arrays(model.parameters, optimizer.state_dict(), best)
        # Arrays, not JSON, hold the losses: they keep NaN, infinity and every digit.
        arrays |= {f"history.{name}": np.array(values, np.float64) for name, values in history.series().items()}
        write_npz(self.path, {"checkpoint": np.frombuffer(self.content, np.uint8), **arrays})

    def load(self, model: Layer, optimizer: Optimizer) -> tuple[History, Parameters]:
        """Restore model and optimizer from the file; return its history and best parameters."""
        from ..weights.containers.npz import read_npz

        arrays = read_npz(self.path)
        settings = _settings(self.path, arrays.pop("checkpoint", None), max(_MOST_SETTINGS, 2 * len(self.content)))
        differences = _differences(settings, self.settings)
        if not differences:
            differences = self._misfits(arrays, model.parameters, optimizer.state_dict())
        if differences:
            more = [f"and {len(differences) - _MOST_NAMED} more"] if len(differences) > _MOST_NAMED else []
            named = "; ".join(map(printable, [*differences[:_MOST_NAMED], *more]))
            raise ValueError(f"checkpoint: {self.path} does not fit this call: {named}")
        for name, array in arrays.items():
            if name.startswith(("parameters.", "best.")) and not np.isfinite(array).all():
                raise ValueError(f"checkpoint: {self.path}: {name}: expected finite numbers, got NaN or infinity")
        history, steps = _history(self.path, arrays), int(arrays["optimizer.step"])
        if len(history.loss) > steps >= 0:  # each epoch makes at least one step
            raise ValueError(
                f"checkpoint: {self.path}: history.loss: expected at most {steps} epochs, because there were {steps} "
                f"steps, got {len(history.loss)}"
            )
        try:
            optimizer.load_state_dict(_part(arrays, "optimizer"))
        except (TypeError, ValueError) as error:
            raise ValueError(f"checkpoint: {self.path}: {error}") from None
        model.load_state_dict(_part(arrays, "parameters"))
        return history, _part(arrays, "best")

    def _arrays(self, parameters: Parameters, state: Parameters, best: Parameters | None) -> Parameters:
        parts = {"parameters": parameters, "optimizer": state, "best": best or {}}
        return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    def _misfits(self, arrays: Parameters, parameters: Parameters, state: Parameters) -> list[str]:
        """Describe how `arrays` differ in names, shapes and dtypes from those of this call's checkpoint."""
        validated = self.settings["validation"]
        expected = {
            name: _described(array)
            for name, array in self._arrays(parameters, state, parameters if validated else None).items()
        }
        epochs = max(arrays.get("history.loss", np.empty(0)).size, 1)
        names = ["loss", *["validation"] * validated, "seconds"]
        for metric in self.settings.get("metrics") or ():
            names += [f"metrics.{metric}", *[f"metrics.validation_{metric}"] * validated]
        expected |= {f"history.{name}": f"<f8 ({epochs},)" for name in names}
        return [
            f"{name}: expected {expected.get(name, 'no array')}, got {_described(arrays.get(name))}"
            for name in expected | arrays
            if expected.get(name) != _described(arrays.get(name))
        ]


def _history(path: Path, arrays: Parameters) -> History:
    """Return the history in a checkpoint's arrays."""
    parts = _part(arrays, "history")
    epochs = max(parts.get("loss", np.empty(0)).size, 1)
    for name in parts | {"loss": None, "seconds": None}:
        known = name in ("loss", "validation", "seconds") or name.startswith("metrics.")
        expected, found = f"<f8 ({epochs},)" if known else "no array", _described(parts.get(name))
        if found != expected:
            raise ValueError(f"checkpoint: {path}: history.{printable(name)}: expected {expected}, got {found}")
    lists = {name: array.tolist() for name, array in parts.items()}
    metrics = {name.partition(".")[2]: lists.pop(name) for name in list(lists) if name.startswith("metrics.")}
    return History(**lists, metrics=metrics)


def _settings(path: Path, array: Any, most: int) -> Any:
    """Return the settings in a checkpoint's header of at most `most` bytes."""
    try:
        if array.dtype == np.uint8 and array.size <= most:
            header = json.loads(array.tobytes())
            if header["format"] == _FORMAT and isinstance(header["settings"], dict):
                return header["settings"]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        pass
    raise ValueError(f"checkpoint: {path} is not one that fit has written ({_FORMAT!r})")


def _part(arrays: Parameters, part: str) -> Parameters:
    return {name.partition(".")[2]: array for name, array in arrays.items() if name.partition(".")[0] == part}


def _described(array: Array | None) -> str:
    return "no array" if array is None else f"{array.dtype.str} {array.shape}"


def _differences(saved: Any, given: Any, name: str = "") -> list[str]:
    """Describe the differences between the settings `saved` and `given`."""
    if isinstance(saved, dict) and isinstance(given, dict):
        prefix = f"{name}." if name else ""
        return [d for key in given | saved for d in _differences(saved.get(key), given.get(key), prefix + key)]
    if isinstance(saved, list) and isinstance(given, list) and len(saved) == len(given):
        return [d for i in range(len(given)) for d in _differences(saved[i], given[i], f"{name}[{i}]")]
    if type(saved) is type(given) and saved == given:
        return []
    return [f"{name}: the checkpoint has {shown(saved)}, this call {shown(given)}"]


def _plain(value: Any) -> Any:
    """Return `value` with infinite numbers as text, because JSON has none."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
