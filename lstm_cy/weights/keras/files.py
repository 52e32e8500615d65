"""Files of Keras: the configuration, the version of Keras, and the weights, from .keras and .h5 files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..containers import hdf5
from ..containers.zip import members
from ..faults import listed, shortened
from .config import short
from .weights import WeightsByName, WeightsByPath

if TYPE_CHECKING:
    from ...typing import Parameters
    from ..budget import Budget
    from .weights import Weights

# In memory JSON takes many times its own size; a layer's configuration has one to three kilobytes.
_MAX_JSON = 1 << 20
_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
_OPTIMIZERS = ("optimizer", "optimizer_weights")


def read(file: Any, budget: Budget) -> tuple[Any, Any, Weights]:
    """Return (configuration, version of Keras, weights) of a file."""
    return _read_zip(file, budget) if file.read(2) == b"PK" else _read_h5(file, budget)


def _read_zip(file: Any, budget: Budget) -> tuple[Any, Any, WeightsByPath]:
    """Return (configuration, version of Keras, weights) of a .keras file."""
    found = members(file, budget, "a .keras file", check=_check_members)
    metadata, spec = (_json(found[name].read(_MAX_JSON + 1), budget) for name in _MEMBERS[:2])
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    if not isinstance(version, str) or not version.startswith("3."):
        raise ValueError(f"written by Keras {short(version)}; .keras files of Keras 3 are read, .h5 of Keras 2 and 3")
    weights = found[_MEMBERS[2]]
    start = weights.check()
    arrays, names = hdf5.read(file, budget, start=start, size=weights.size, skip=_OPTIMIZERS, texts=["name"])
    return spec, version, WeightsByPath(arrays, names)


def _check_members(names: list[str]) -> None:
    if sorted(names) != sorted(_MEMBERS):
        raise ValueError(f"expected the members {', '.join(_MEMBERS)}, got {listed(names)}")


def _read_h5(file: Any, budget: Budget) -> tuple[Any, Any, WeightsByName]:
    """Return (configuration, version of Keras, weights) of an .h5 file."""
    arrays, texts = hdf5.read(file, budget, skip=_OPTIMIZERS, texts=["model_config", "keras_version"])
    if ("", "model_config") not in texts:
        raise ValueError("holds no architecture (model_config), so it is not a whole model; save it with model.save")
    by_layer: dict[str, Parameters] = {}
    for path, array in arrays.items():
        top, _, rest = path.partition("/")
        layer, _, name = rest.partition("/")
        if top != "model_weights" or not name:
            raise ValueError(f"weights that no layer uses: {shortened(path, 200)}")
        by_layer.setdefault(layer, {})[name] = array
    return _json(texts["", "model_config"], budget), texts.get(("", "keras_version")), WeightsByName(by_layer, budget)


def _json(text: str | bytes, budget: Budget) -> Any:
    if len(text) > _MAX_JSON:
        raise ValueError(f"a configuration of {len(text)} bytes; at most {_MAX_JSON} are read")
    return budget.json(text, "its configuration")
