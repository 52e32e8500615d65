"""Files of Keras: the configuration, the version of Keras, and the weights, from .keras and .h5 files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..containers import hdf5
from ..containers.zip import members
from ..faults import listed, shortened
from . import legacy
from .config import short
from .options import major_of
from .weights import WeightsByName, WeightsByPath

if TYPE_CHECKING:
    from ...typing import Parameters
    from ..budget import Budget
    from .weights import Weights

# In memory JSON takes many times its own size; a layer's configuration has one to three kilobytes.
_MAX_JSON = 1 << 20
_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
_ATTRIBUTES = ("keras_version", "backend")
#: what is missing in a file of `save_weights`
WEIGHTS_ONLY = "holds no architecture (model_config), so it is not a whole model"
_OPTIMIZERS = ("optimizer", "optimizer_weights")


def read(file: Any, budget: Budget) -> tuple[Any, Any, Weights]:
    """Return (configuration, version of Keras, weights) of the file of a model."""
    spec, version, weights = read_parts(file, budget)
    if spec is None:
        raise ValueError(f"{WEIGHTS_ONLY}; save it with model.save, or take its LSTMs by lstm_cy.weights.keras.lstms")
    return spec, version, weights


def read_parts(file: Any, budget: Budget) -> tuple[Any, Any, Weights]:
    """Return (configuration, version of Keras, weights) of a file; the first is None in one with weights only."""
    return _read_zip(file, budget) if file.read(2) == b"PK" else _read_h5(file, budget)


def read_arrays(file: Any, budget: Budget) -> Parameters:
    """Return all arrays of a file by the names that they have in it."""
    if file.read(2) == b"PK":
        return _read_zip(file, budget)[2].arrays()
    arrays, _ = hdf5.read(file, budget, skip=_OPTIMIZERS)
    return {name.removeprefix("model_weights/"): array for name, array in arrays.items()}


def _read_zip(file: Any, budget: Budget) -> tuple[Any, Any, WeightsByPath]:
    """Return (configuration, version of Keras, weights) of a .keras file."""
    found = members(file, budget, "a .keras file", check=_check_members)
    metadata, spec = (_json(found[name].read(_MAX_JSON + 1), budget) for name in _MEMBERS[:2])
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    if not isinstance(version, str) or not re.match(r"2\.(1[3-9]|[2-9]\d)|3\.", version):
        raise ValueError(
            f"written by Keras {short(version)}; .keras files of Keras 2.13 and later are read, and .h5 of Keras 1.2 "
            "and later"
        )
    weights = found[_MEMBERS[2]]
    start = weights.check()
    arrays, names = hdf5.read(file, budget, start=start, size=weights.size, skip=_OPTIMIZERS, texts=["name"])
    return spec, version, WeightsByPath(arrays, names)


def _check_members(names: list[str]) -> None:
    if sorted(names) != sorted(_MEMBERS):
        raise ValueError(f"expected the members {', '.join(_MEMBERS)}, got {listed(names)}")


def _read_h5(file: Any, budget: Budget) -> tuple[Any, Any, Weights]:
    """Return (configuration, version of Keras, weights) of an .h5 file."""
    arrays, texts = hdf5.read(file, budget, skip=_OPTIMIZERS, texts=["model_config", "keras_version", "backend"])
    if ("", "model_config") not in texts:
        return None, texts.get(("", "keras_version")), WeightsByPath(arrays, {})
    by_layer: dict[str, Parameters] = {}
    for path, array in arrays.items():
        top, _, rest = path.partition("/")
        layer, _, name = rest.partition("/")
        if top != "model_weights" or not name:
            raise ValueError(f"weights that no layer uses: {shortened(path, 200)}")
        by_layer.setdefault(layer, {})[name] = array
    version, backend = (texts.get(("", name), texts.get(("model_weights", name))) for name in _ATTRIBUTES)
    if major_of(version) == "1":
        by_layer = {layer: legacy.renamed_weights(inside, budget) for layer, inside in by_layer.items()}
    weights = WeightsByName(by_layer, budget, flips_kernels=backend == "theano")
    return _json(texts["", "model_config"], budget), version, weights


def _json(text: str | bytes, budget: Budget) -> Any:
    if len(text) > _MAX_JSON:
        raise ValueError(f"a configuration of {len(text)} bytes; at most {_MAX_JSON} are read")
    return budget.json(text, "its configuration")
