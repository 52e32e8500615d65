"""Conversion of Keras's models, from .keras and .h5 files or live, to a Sequential, without Keras or TensorFlow.

The architecture is read from the configuration; class names in it are looked up in a table. Weights are found by their
path (.keras) or name (.h5, live), and each must be used.
"""

from __future__ import annotations

import json
import re
import reprlib
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import file_path, flag, number, positive_int
from ..layers.activation import Activation
from ..layers.activations import DEFAULTS
from ..layers.dropout import Dropout
from ..layers.embedding import Embedding
from ..layers.linear import Linear
from ..layers.lstm import LSTM
from ..layers.masking import Masking
from ..layers.readout import Readout
from ..layers.sequential import Sequential
from . import gate_order
from .budget import Budget, LimitExceeded
from .containers import hdf5
from .containers.zip import members
from .faults import check_finite, listed, naming, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import TypeGuard, TypeVar

    from ..layers.base import Layer
    from ..typing import FilePath, Parameters

    _L = TypeVar("_L", bound=Layer)
    #: the arguments of Activation
    _Function = tuple[Any, ...]
    _Build = Callable[["_Chain"], list[Layer]]
    _Reader = Callable[["_Options", "_Location", Any], _Build]

# In memory JSON takes many times its own size; a layer's configuration has one to three kilobytes.
_MAX_JSON = 1 << 20
# Cost of a layer in objects.
_LAYER_COST = 60
# Shortened values of a configuration for messages.
_repr = reprlib.Repr()
_repr.maxstring = 80
_short = _repr.repr

_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
_OPTIMIZERS = ("optimizer", "optimizer_weights")
_MODELS = ("Sequential", "Functional", "Model")
# Options that do not affect a layer's output at inference: names, and options for training.
_IGNORED_OPTIONS = re.compile(
    "name|trainable|dtype|.*_(initializer|regularizer|constraint)|unit_forget_bias|seed|dropout|recurrent_dropout|rate|stddev|"
    "l1|l2|noise_shape|stateful|unroll|implementation|use_cudnn|batch_input_shape|batch_shape|input_shape|input_length"
)
# Arguments of Activation by Keras's names.
_FUNCTIONS = {
    "linear": ("affine", 1.0, 0.0),
    "sigmoid": ("sigmoid",),
    "tanh": ("tanh",),
    "relu": ("relu",),
    "elu": ("elu", 1.0),
    "leaky_relu": ("leakyrelu", 0.2),
    "selu": ("selu",),
    "gelu": ("gelu",),
    "silu": ("silu",),
    "swish": ("silu",),
    "softsign": ("softsign",),
    "softplus": ("softplus",),
    "exponential": ("exp",),
    "softmax": ("softmax",),
    "log_softmax": ("logsoftmax",),
}
_HARD_SIGMOID = {"2": ("hardsigmoid", 0.2, 0.5), "3": ("hardsigmoid", 1 / 6, 0.5)}  # by Keras's major version


def read_model(path: FilePath, strict: bool = False) -> Sequential:
    """Read a model that Keras 3 saved as .keras or .h5, or Keras 2 as .h5.

    Parameters
    ----------
    path : str or os.PathLike
    strict : bool
        If True, NaN or infinity among the weights is an error instead of a warning.

    Returns
    -------
    Sequential
        With `batch_first`; docs/formats.md lists the result for each layer.

    Raises
    ------
    ValueError
        The file is truncated, damaged or not Keras's; or it holds weights that no layer uses, or layers or options
        that are not supported, all of which are listed.
    OSError
        The file cannot be read.
    """
    path = file_path("path", path)
    with open(path, "rb") as file, naming(path):
        budget = Budget.of(file, path)
        spec, version, weights = _read(file, budget)
        model = _convert(spec, version, weights, budget)
    check_finite(path, model.parameters, strict)
    return model


class Contents(NamedTuple):
    """The contents of a file, also if its model is not supported.

    Attributes
    ----------
    model : Sequential or None
    problem : str
        The reason if `model` is None.
    layers, unsupported : list of (str, str)
        Names of layers with their classes, and with the reasons why they are not supported.
    arrays : dict of str to ndarray
    """

    model: Sequential | None
    problem: str
    layers: list[tuple[str, str]]
    unsupported: list[tuple[str, str]]
    arrays: Parameters


def contents(path: FilePath) -> Contents:
    """Return the contents of a Keras file; raise as `read_model` for a damaged file, but not for unsupported layers."""
    path = file_path("path", path)
    with open(path, "rb") as file, naming(path):
        budget = Budget.of(file, path)
        spec, version, weights = _read(file, budget)
        arrays = weights.arrays()
        unsupported: list[tuple[str, str]] = []
        model, problem = None, ""
        try:
            model = _convert(spec, version, weights, budget)
        except LimitExceeded:
            raise
        except ValueError as error:
            problem = shortened(error)
            _flatten(spec, _Location("", "", "", ()), _major(version), [], unsupported, budget)
        layers = [(_name(layer), shortened(layer.get("class_name"), 80)) for layer in _layers_of(spec)]
        return Contents(model, problem, layers, unsupported, arrays)


def _read(file: Any, budget: Budget) -> tuple[Any, Any, _WeightsByPath | _WeightsByName]:
    """Return (configuration, version of Keras, weights) of a file."""
    return _read_zip(file, budget) if file.read(2) == b"PK" else _read_h5(file, budget)


def from_keras(model: Any) -> Sequential:
    """Convert a live Keras model to a Sequential; the weights are copied.

    Parameters
    ----------
    model : keras.Sequential, or a functional keras.Model
        A chain of layers with one input and one output each; docs/formats.md lists the supported layers.

    Returns
    -------
    Sequential
        With `batch_first`.

    Raises
    ------
    TypeError
        `model` is not a Keras model, or is of a custom class.
    ValueError
        It has no weights yet, or holds layers or options that are not supported; all of them are listed.

    Examples
    --------
    With Keras installed::

        model = lstm_cy.from_keras(keras_model)
        out, states = model(x)

    Other arguments are refused:

    >>> from_keras("model.keras")
    Traceback (most recent call last):
    TypeError: model: expected a Sequential or functional model of Keras, got str
    """
    kind = type(model).__name__
    package = type(model).__module__.split(".")[0]
    if package not in ("keras", "tf_keras") or kind not in _MODELS:
        raise TypeError(f"model: expected a Sequential or functional model of Keras, got {kind}")
    if not model.built:
        raise ValueError("model: expected one that has its weights; call it once, or give it an Input")
    _check_uses(model)
    arrays = {}
    for layer in model.layers:
        paths = [getattr(weight, "path", weight.name) for weight in layer.weights]
        arrays[layer.name] = dict(zip(paths, layer.get_weights(), strict=True))
    version = getattr(sys.modules.get(package), "__version__", None)
    # in the form of a file: lists for tuples, Python's numbers for NumPy's
    text = json.dumps({"class_name": kind, "config": model.get_config()}, default=_plain)
    size = sum(array.nbytes for inside in arrays.values() for array in inside.values())
    with naming("model"):
        budget = Budget("model", len(text) + size)
        return _convert(budget.json(text, "its configuration"), version, _WeightsByName(arrays, budget), budget)


def _check_uses(model: Any) -> None:
    """Raise if a layer is used twice: Keras's configuration and files describe it once."""
    seen: set[int] = set()
    for layer in model.layers:
        if id(layer) in seen:
            raise ValueError(f"model: not supported: {layer.name}: expected one use of it, got several")
        seen.add(id(layer))
        if hasattr(layer, "layers"):  # a nested model
            _check_uses(layer)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else repr(value)


def _read_zip(file: Any, budget: Budget) -> tuple[Any, Any, _WeightsByPath]:
    """Return (configuration, version of Keras, weights) of a .keras file."""
    found = members(file, budget, "a .keras file", check=_check_members)
    metadata, spec = (_json(found[name].read(_MAX_JSON + 1), budget) for name in _MEMBERS[:2])
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    if not isinstance(version, str) or not version.startswith("3."):
        raise ValueError(f"written by Keras {_short(version)}; .keras files of Keras 3 are read, .h5 of Keras 2 and 3")
    weights = found[_MEMBERS[2]]
    start = weights.check()
    arrays, names = hdf5.read(file, budget, start=start, size=weights.size, skip=_OPTIMIZERS, texts=["name"])
    return spec, version, _WeightsByPath(arrays, names)


def _check_members(names: list[str]) -> None:
    if sorted(names) != sorted(_MEMBERS):
        raise ValueError(f"expected the members {', '.join(_MEMBERS)}, got {listed(names)}")


def _read_h5(file: Any, budget: Budget) -> tuple[Any, Any, _WeightsByName]:
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
    return _json(texts["", "model_config"], budget), texts.get(("", "keras_version")), _WeightsByName(by_layer, budget)


def _json(text: str | bytes, budget: Budget) -> Any:
    if len(text) > _MAX_JSON:
        raise ValueError(f"a configuration of {len(text)} bytes; at most {_MAX_JSON} are read")
    return budget.json(text, "its configuration")


class _Unsupported(Exception):
    """A part of a layer is not supported; the message names it."""


class _Location(NamedTuple):
    """The location of a layer and its weights in a model."""

    name: str  # its name in the model, used in error messages
    path: str  # its path in a .keras file
    group: str  # its group in an .h5 file, that of the outermost layer that contains it
    inside: tuple[str, ...]  # names of the layers inside that one, down to this one


class _WeightsByPath:
    """The weights of a .keras file: numbered, in one group for each layer."""

    def __init__(self, arrays: Parameters, names: dict[tuple[str, str], str]) -> None:
        self._arrays, self._names = arrays, names

    def take(self, location: _Location, kinds: list[str], path: str, layer_names: Collection[str]) -> Parameters:
        """Remove the weights `kinds`, which are numbered in this order, and return them as {kind: array}."""
        name = self._names.get((f"{location.path}/vars", "name"), location.name)
        if name != location.name:
            raise ValueError(
                f"{location.path}: expected the weights of {location.name}, got those of {shortened(name, 200)}"
            )
        numbered = {kind: f"{location.path}{path}/vars/{number}" for number, kind in enumerate(kinds)}
        missing = [f"{name} ({kind})" for kind, name in numbered.items() if name not in self._arrays]
        if missing:
            raise ValueError(f"{location.name}: expected {', '.join(kinds)}, found no {', '.join(missing)}")
        return {kind: self._arrays.pop(name) for kind, name in numbered.items()}

    def arrays(self) -> Parameters:
        """Return the remaining arrays by name."""
        return dict(self._arrays)

    def unused(self) -> list[str]:
        return [name for name in self._arrays if "seed_generator" not in name.split("/")]


class _WeightsByName:
    """The weights of an .h5 file or a live model: {outermost layer: {name such as "lstm/lstm_cell/kernel": array}}."""

    def __init__(self, arrays: dict[str, Parameters], budget: Budget) -> None:
        self._budget = budget
        self._arrays = {(group, name): array for group, inside in arrays.items() for name, array in inside.items()}
        # {(group, an inner layer or None, kind): names}
        self._names: dict[tuple[str, str | None, str], list[str]] = {}
        for group, name in self._arrays:
            *layers, last = name.split("/")
            for layer in {None, *layers}:
                self._names.setdefault((group, layer, last.partition(":")[0]), []).append(name)

    def take(self, location: _Location, kinds: list[str], path: str, layer_names: Collection[str]) -> Parameters:
        """Remove the weights whose names end in `kinds` and contain all enclosing layers; return them as {kind: array}.

        `layer_names` are the possible names of one more layer in between, if there is one.
        """
        found = {}
        for kind in kinds:
            names = self._names.get((location.group, location.inside[-1] if location.inside else None, kind), [])
            self._budget.objects(1 + len(names), "its weights")
            names = [name for name in names if _matches(name.split("/"), location.inside, layer_names)]
            if len(names) != 1 or (location.group, names[0]) not in self._arrays:
                raise ValueError(f"{location.name}: expected one {kind}, got {listed(names) or 'none'}")
            found[kind] = self._arrays.pop((location.group, names[0]))
        return found

    def arrays(self) -> Parameters:
        """Return the remaining arrays by name."""
        return {f"{group}/{name}": array for (group, name), array in self._arrays.items()}

    def unused(self) -> list[str]:
        return [f"{group}: {name}" for group, name in self._arrays if "seed_generator" not in name.split("/")]


def _matches(parts: list[str], inside: tuple[str, ...], layer_names: Collection[str]) -> bool:
    return set(inside) <= set(parts) and (not layer_names or not set(layer_names).isdisjoint(parts))


class _Chain:
    """Properties of the data between two layers."""

    def __init__(self, weights: _WeightsByPath | _WeightsByName) -> None:
        self.weights = weights
        self.features: Any = None  # number of features
        self.mask: tuple[Any, float, bool] | None = None  # the mask, in the form of `_mask`


def _convert(spec: Any, version: Any, weights: _WeightsByPath | _WeightsByName, budget: Budget) -> Sequential:
    """Convert a model's configuration and weights to a Sequential."""
    unsupported: list[tuple[str, str]] = []
    parts: list[tuple[_Location, Any, _Build]] = []
    _flatten(spec, _Location("", "", "", ()), _major(version), parts, unsupported, budget)
    if unsupported:
        texts = [f"{name}: {reason}" for name, reason in unsupported]
        raise ValueError(f"not supported: {listed(texts, 100, '; ')}")
    chain = _Chain(weights)
    layers = []
    for location, mask, build in parts:
        if mask is not None and mask != chain.mask:
            raise ValueError(f"not supported: {location.name}: a mask of its own")
        layers += build(chain)
    unused = weights.unused()
    if unused:
        raise ValueError(f"weights that no layer uses: {listed(unused)}")
    return Sequential(*layers)


def _major(version: Any) -> str | None:
    """Return the major version of Keras."""
    return version.split(".")[0] if isinstance(version, str) else None


def _flatten(
    spec: Any,
    location: _Location,
    major: str | None,
    parts: list[tuple[_Location, Any, _Build]],
    unsupported: list[tuple[str, str]],
    budget: Budget,
) -> None:
    """Add (location, mask, builder) of each layer of a model to `parts`, or its problem to `unsupported`."""
    seen: dict[str, Any] = {}
    try:
        layers = _chain_of(spec)
        budget.objects(_LAYER_COST * len(layers), "its layers")
    except _Unsupported as error:
        unsupported += [(location.name or "the model", str(error)), *_unknown_layers(spec)]
        return
    for layer, source, mask in layers:
        name = _name(layer)
        try:
            kind, config = _split(layer)
            name = _text(config, "name")
            folder = re.sub("(?<=[a-z])(?=[A-Z])", "_", kind).lower()
            seen[folder] = seen.get(folder, -1) + 1
            folder += f"_{seen[folder]}" if seen[folder] else ""
            path = f"{location.path}/layers/{folder}" if location.path else f"layers/{folder}"
            inner = _Location(name, path, location.group or name, location.inside + ((name,) if location.group else ()))
            if kind in _MODELS:
                parts.append((inner, mask, _nested_model_boundary(inner)))
                with budget.nested("models inside models"):
                    _flatten(layer, inner, major, parts, unsupported, budget)
                parts.append((inner, None, _nested_model_boundary(inner)))
                continue
            if kind not in _READERS:
                raise _Unsupported(f"layer {kind}")
            options = _Options(config, major)
            build = _READERS[kind](options, inner, source)
            options.finish()
            parts.append((inner, mask, build))
        except LimitExceeded:
            raise
        except (_Unsupported, TypeError, ValueError) as error:
            unsupported.append((name, str(error)))


def _unknown_layers(spec: Any) -> Iterator[tuple[str, str]]:
    """Yield the unsupported layers of a model that is not a chain."""
    for layer in _layers_of(spec):
        kind = layer.get("class_name")
        if isinstance(kind, str) and kind not in _READERS and kind not in _MODELS:
            yield _name(layer), f"layer {kind}"


def _layers_of(spec: Any) -> list[Any]:
    """Return the configurations of a model's layers; an empty list if there are none."""
    config = spec.get("config") if isinstance(spec, dict) else None
    layers = config.get("layers") if isinstance(config, dict) else config
    return [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []


def _nested_model_boundary(location: _Location) -> _Build:
    """Return a builder that refuses masks at the boundary of a nested model, where Keras keeps only some of them."""

    def build(chain: _Chain) -> list[Layer]:
        if chain.mask is not None:
            raise ValueError(f"not supported: {location.name}: a mask that enters or leaves a model inside another")
        return []

    return build


def _split(spec: Any) -> tuple[str, dict[str, Any]]:
    """Return (class name, configuration) of a Keras layer; raise with the class name for a custom layer."""
    if not isinstance(spec, dict) or not isinstance(spec.get("class_name"), str):
        raise _Unsupported(f"expected a layer's configuration, got {_short(spec)}")
    kind, module, registered = spec["class_name"], spec.get("module"), spec.get("registered_name")
    is_keras = module is None or (isinstance(module, str) and module.split(".")[0] == "keras")
    if not is_keras or registered not in (None, kind):
        raise _Unsupported(f"custom class {_short(registered or kind)} of {_short(module)}")
    config = spec.get("config")
    if isinstance(config, list) and kind == "Sequential":  # before Keras 2.2
        config = {"layers": config}
    if not isinstance(config, dict):
        raise _Unsupported(f"expected the configuration of {kind:.80}, got {_short(config)}")
    return kind, config


def _name(spec: Any) -> str:
    """Return a layer's name for messages."""
    config = spec.get("config") if isinstance(spec, dict) else None
    name = config.get("name") if isinstance(config, dict) else None
    return shortened(name, 80) if isinstance(name, str) else "?"


def _text(config: dict[str, Any], key: str) -> str:
    value = config.get(key)
    if not isinstance(value, str):
        raise _Unsupported(f"{key}: expected a text, got {_short(value)}")
    return value


def _chain_of(spec: Any) -> list[tuple[Any, Any, Any]]:
    """Return [(configuration, name of the previous layer, mask argument), ...] for each layer of a chain."""
    kind, config = _split(spec)
    if kind not in _MODELS:
        raise _Unsupported(f"expected a Sequential or functional model, got {kind}")
    layers = config.get("layers")
    if not isinstance(layers, list):
        raise _Unsupported(f"expected a list of layers, got {_short(layers)}")
    if kind == "Sequential":
        return [(layer, None, None) for layer in layers]
    by_name = {_text(layer, "name"): layer for layer in layers if isinstance(layer, dict)}
    if len(by_name) != len(layers):
        raise _Unsupported("expected layers with different names")
    name, outputs = _ends(config, "output_layers")
    last = by_name.get(name, {}).get("config")
    if outputs != (2 if isinstance(last, dict) and last.get("merge_mode", "") is None else 1):
        raise _Unsupported(f"output_layers: expected every output of {_short(name)}, got {outputs}")
    chain = {}
    while name not in chain:
        node = _node(by_name, name)
        chain[name] = (by_name[name], *node)
        if node == (None, None):
            break
        name = node[0]
    if (name, 1) != _ends(config, "input_layers") or chain[name][1] is not None:
        raise _Unsupported("it is not a chain of layers from one input to one output")
    besides = [other for other in by_name if other not in chain]
    masks = {other: _mask(by_name, other) for other in besides}
    others = [other for other in besides if masks[other] is None]
    if others:
        raise _Unsupported(f"it is not a chain of layers; not in it: {listed(others)}")
    return [(layer, source, masks.get(mask, mask)) for layer, source, mask in reversed(chain.values())]


def _ends(config: dict[str, Any], key: str) -> Any:
    """Return (name, outputs) of the one input or output layer; each output is given as ["name", 0, index]."""
    ends = config.get(key)
    ends = ends if isinstance(ends, list) and all(isinstance(end, list) for end in ends) else [ends]
    name = ends[0][0] if ends and _is_list(ends[0], 3) else None
    if not isinstance(name, str) or [end[:1] + end[2:] for end in ends] != [
        [name, index] for index in range(len(ends))
    ]:
        raise _Unsupported(f"{key}: expected one, got {_short(ends)}")
    return name, len(ends)


def _node(by_name: dict[str, Any], name: str) -> tuple[Any, Any]:
    """Return (name of the layer whose output `name` takes, name of its mask argument), None for an absent one."""
    nodes = by_name.get(name, {}).get("inbound_nodes")
    if nodes == []:
        return None, None
    if not isinstance(nodes, list) or len(nodes) != 1:
        raise _Unsupported(f"{_short(name)}: expected one use of it, got {_short(nodes)}")
    node = nodes[0]
    if isinstance(node, dict):  # Keras 3
        kind: Any = dict
        arguments, options = node.get("args"), node.get("kwargs")
    else:  # Keras 2: a list of [name, node, tensor, options]
        arguments, options, kind = node, node[0][3] if _is_list(node, 1) and _is_list(node[0], 4) else None, list
    if not _is_list(arguments, 1) or not isinstance(arguments[0], kind) or not isinstance(options, dict):
        raise _Unsupported(f"{_short(name)}: expected one input, got {_short(node)}")
    mask = options.get("mask")
    others = [key for key, value in options.items() if key != "mask" and value not in (None, False)]
    if others:
        raise _Unsupported(f"{_short(name)} is called with {', '.join(others)}")
    return _tensor(arguments[0]), None if mask is None else _tensor(mask)


def _is_list(value: Any, length: int) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and len(value) == length


def _tensor(value: Any) -> str:
    """Return the name of the layer whose first output is `value`."""
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value = value["config"].get("keras_history")
    if not isinstance(value, list) or len(value) < 3 or not isinstance(value[0], str) or value[2] != 0:
        raise _Unsupported(f"expected the first output of a layer, got {_short(value)}")
    return value[0]


def _mask(by_name: dict[str, Any], name: Any) -> tuple[str, float, bool] | None:
    """Return the mask of a Keras 3 layer, (source, value, whether any feature may differ); None if it is no mask."""
    layer = by_name.get(name, {})
    some = layer.get("class_name") == "Any" and isinstance(layer.get("config"), dict)
    if some and layer["config"].get("axis") == -1:
        layer = by_name.get(_node(by_name, name)[0], {})
    nodes = layer.get("inbound_nodes")
    if layer.get("class_name") != "NotEqual" or not _is_list(nodes, 1) or not isinstance(nodes[0], dict):
        return None
    arguments = nodes[0].get("args")
    if not _is_list(arguments, 2) or not isinstance(arguments[1], int | float):
        return None
    return _tensor(arguments[0]), float(arguments[1]), some


class _Options:
    """A layer's configuration; each option is taken once."""

    def __init__(self, config: dict[str, Any], major: str | None) -> None:
        self._left, self.major = dict(config), major

    def take(self, key: str, default: Any = None) -> Any:
        return self._left.pop(key, default)

    def flag(self, key: str, default: bool = False) -> bool:
        return flag(key, self.take(key, default))

    def size(self, key: str) -> int:
        return positive_int(key, self.take(key))

    def dtype(self) -> Any:
        """Return the weights' dtype by the policy; computations in half precision become float32."""
        policy = self.take("dtype", "float32")
        if isinstance(policy, dict):
            named = policy.get("config") if policy.get("class_name") in ("DTypePolicy", "Policy") else None
            policy = named.get("name") if isinstance(named, dict) else policy
        if policy in ("float32", "float64"):
            return policy
        if policy in ("mixed_float16", "mixed_bfloat16"):
            return "float32"
        raise _Unsupported(f"dtype {_short(policy)}")

    def function(self, key: str) -> _Function:
        """Return the arguments of Activation for an option; Keras always writes it, so there is no default."""
        if key not in self._left:
            raise _Unsupported(f"no {key}")
        return _function(self.take(key), self.major)

    def finish(self) -> None:
        """Raise if there are remaining options that may affect the layer's output."""
        left = {key: value for key, value in self._left.items() if not _IGNORED_OPTIONS.fullmatch(key)}
        words = [f"{key}={_short(value)}" for key, value in left.items() if value is not None and value is not False]
        if words:
            raise _Unsupported(", ".join(words))


def _function(spec: Any, major: str | None) -> _Function:
    """Return the arguments of Activation for an activation in a configuration: a name or an activation layer."""
    if spec is None:
        spec = "linear"
    if spec == "hard_sigmoid":
        if major not in _HARD_SIGMOID:
            raise _Unsupported(
                "activation 'hard_sigmoid' of an unknown version of Keras: its definition depends on the version"
            )
        return _HARD_SIGMOID[major]
    if isinstance(spec, str) and spec in _FUNCTIONS:
        return _FUNCTIONS[spec]
    if isinstance(spec, dict) and spec.get("class_name") == "function":
        spec = spec.get("config")
    elif isinstance(spec, dict):
        kind, config = _split(spec)
        if kind in _ACTIVATION_LAYERS:
            options = _Options(config, major)
            function: _Function = _ACTIVATION_LAYERS[kind](options)
            options.finish()
            return function
        spec = kind
    raise _Unsupported(f"activation {_short(spec)}")


def _leaky_relu(options: _Options) -> _Function:
    slope = options.take("negative_slope", options.take("alpha"))
    return "leakyrelu", number("negative_slope", slope)


def _relu(options: _Options) -> _Function:
    slope = number("negative_slope", options.take("negative_slope", 0.0) or 0.0)
    if options.take("threshold", 0.0) not in (0.0, None):
        raise _Unsupported("a threshold")
    return ("leakyrelu", slope) if slope else ("relu",)


def _softmax(options: _Options) -> _Function:
    if options.take("axis", -1) != -1:
        raise _Unsupported("softmax over another axis than the last")
    return ("softmax",)


_ACTIVATION_LAYERS = {
    "Activation": lambda options: options.function("activation"),
    "LeakyReLU": _leaky_relu,
    "ReLU": _relu,
    "ELU": lambda options: ("elu", number("alpha", options.take("alpha", 1.0))),
    "Softmax": _softmax,
}


# Readers: each takes a layer's options, its location and the name of the previous layer, and returns a function that
# makes the layers of this library after the previous ones are made.


def _input(options: _Options, location: _Location, source: Any) -> _Build:
    shape = options.take("batch_shape", options.take("batch_input_shape", options.take("shape")))

    def build(chain: _Chain) -> list[Layer]:
        if isinstance(shape, list) and len(shape) == 3 and isinstance(shape[-1], int):
            chain.features = shape[-1]
        return []

    return build


def _embedding(options: _Options, location: _Location, source: Any) -> _Build:
    dtype, sizes = options.dtype(), (options.size("input_dim"), options.size("output_dim"))
    mask_zero = options.flag("mask_zero")

    def build(chain: _Chain) -> list[Layer]:
        weight = _take_weights(chain, location, {"embeddings": sizes})["embeddings"]
        chain.features = sizes[1]
        chain.mask = (source, 0.0, False) if mask_zero else None
        return [_load_weights(Embedding.blank(*sizes, mask_zero=mask_zero, dtype=dtype), {"weight": weight})]

    return build


def _masking(options: _Options, location: _Location, source: Any) -> _Build:
    dtype, value = options.dtype(), number("mask_value", options.take("mask_value", 0.0))

    def build(chain: _Chain) -> list[Layer]:
        chain.mask = (source, value, True)
        return [Masking(value, dtype=dtype)]

    return build


def _dense(options: _Options, location: _Location, source: Any, path: str = "") -> _Build:
    dtype, units, bias = options.dtype(), options.size("units"), options.flag("use_bias", True)
    function = options.function("activation")

    def build(chain: _Chain) -> list[Layer]:
        shapes: dict[str, tuple[int | None, ...]] = {"kernel": (chain.features, units)}
        if bias:
            shapes["bias"] = (units,)
        arrays = _take_weights(chain, location, shapes, path)
        parameters = {"weight": arrays["kernel"].T} | ({"bias": arrays["bias"]} if bias else {})
        linear = Linear.blank(len(arrays["kernel"]), units, bias=bias, dtype=dtype)
        chain.features = units
        return [_load_weights(linear, parameters), *_activation(function)]

    return build


def _time_distributed(options: _Options, location: _Location, source: Any) -> _Build:
    kind, config = _split(options.take("layer"))
    if kind != "Dense":
        raise _Unsupported(f"TimeDistributed of {kind}")
    inner = _Options(config, options.major)
    build = _dense(inner, location, source, "/layer")
    inner.finish()
    return build


def _function_layer(kind: str) -> _Reader:
    def read(options: _Options, location: _Location, source: Any) -> _Build:
        function = _ACTIVATION_LAYERS[kind](options)

        def build(chain: _Chain) -> list[Layer]:
            if kind == "Softmax" and chain.mask is not None:
                raise ValueError(f"not supported: {location.name}: a layer Softmax with a masked input")
            return _activation(function)

        return build

    return read


def _activation(function: _Function) -> list[Layer]:
    return [] if function == _FUNCTIONS["linear"] else [Activation(*function)]


def _dropout(options: _Options, location: _Location, source: Any) -> _Build:
    p = number("rate", options.take("rate"), 0.0, 1.0)
    full = options.take("noise_shape") is None
    return lambda chain: [Dropout(p)] if full else []


def _left_out(options: _Options, location: _Location, source: Any) -> _Build:
    return lambda chain: []


class _Direction(NamedTuple):
    """One LSTM of Keras."""

    name: str
    units: int
    bias: bool
    functions: tuple[_Function, ...]
    dtype: str
    return_sequences: bool
    go_backwards: bool
    zero_output_for_mask: bool

    @classmethod
    def read(cls, options: _Options) -> _Direction:
        name = _text({"name": options.take("name")}, "name")
        gate, cell = options.function("recurrent_activation"), options.function("activation")
        for function in (gate, cell):
            if function[0] not in DEFAULTS:
                raise _Unsupported(f"activation {function[0]!r} in an LSTM")
        return cls(
            name,
            options.size("units"),
            options.flag("use_bias", True),
            (gate, cell, cell),
            options.dtype(),
            options.flag("return_sequences"),
            options.flag("go_backwards"),
            options.flag("zero_output_for_mask"),
        )

    def parameters(
        self, chain: _Chain, location: _Location, path: str, layer_names: Collection[str], suffix: str
    ) -> Parameters:
        """Return the parameters of an LSTM, {name: array}; Keras's one bias is the sum of both biases."""
        units = self.units
        shapes = {"kernel": (chain.features, 4 * units), "recurrent_kernel": (units, 4 * units)}
        arrays = _take_weights(
            chain, location, shapes | ({"bias": (4 * units,)} if self.bias else {}), path, layer_names
        )
        parameters = {
            "weight_ih": arrays["kernel"].T,
            "weight_hh": arrays["recurrent_kernel"].T,
            "bias_ih": arrays.get("bias", np.zeros(4 * units, np.float32)),
        }
        parameters = {name + suffix: gate_order.reorder(array, gate_order.KERAS) for name, array in parameters.items()}
        return parameters | {f"bias_hh{suffix}": np.zeros(4 * units, np.float32)}


def _lstm(options: _Options, location: _Location, source: Any) -> _Build:
    one = _Direction.read(options)

    def build(chain: _Chain) -> list[Layer]:
        parameters = one.parameters(chain, location, "/cell", (), "_l0")
        layers: list[Layer] = [_make_lstm(one, parameters, reverse=one.go_backwards)]
        # the caller may pass a mask too
        if not one.return_sequences or one.go_backwards or not one.zero_output_for_mask:
            layers.append(
                Readout(
                    go_backwards=one.go_backwards,
                    return_sequences=one.return_sequences,
                    zero_output_for_mask=one.zero_output_for_mask,
                    batch_first=True,
                )
            )
        _pass_lstm(chain, one.return_sequences, one.units)
        return layers

    return build


def _bidirectional(options: _Options, location: _Location, source: Any) -> _Build:
    merge = options.take("merge_mode", "concat")
    if merge not in ("concat", "sum", "mul", "ave", None):
        raise _Unsupported(f"merge_mode {_short(merge)}")
    specs = [options.take("layer"), options.take("backward_layer")]
    directions = []
    for spec in specs if specs[1] is not None else specs[:1]:
        kind, config = _split(spec)
        if kind != "LSTM":
            raise _Unsupported(f"Bidirectional of {kind}")
        inner = _Options(config, options.major)
        directions.append(_Direction.read(inner))
        inner.finish()
    one = directions[0]
    other = directions[1] if len(directions) > 1 else one._replace(go_backwards=not one.go_backwards)
    if one.go_backwards or not other.go_backwards:
        raise _Unsupported("Bidirectional whose first direction goes backwards")
    if (one.units, one.return_sequences, one.dtype) != (other.units, other.return_sequences, other.dtype):
        raise _Unsupported("Bidirectional of different directions")
    plain = one.name.removeprefix("forward_")
    names = {one.name, f"forward_{plain}"}, {f"backward_{plain}"} | ({other.name} if len(directions) > 1 else set())

    def build(chain: _Chain) -> list[Layer]:
        parameters = one.parameters(chain, location, "/forward_layer/cell", names[0], "_l0")
        parameters |= other.parameters(chain, location, "/backward_layer/cell", names[1], "_l0_reverse")
        layers: list[Layer] = [_make_lstm(one, parameters, other, bidirectional=True)]
        if not one.return_sequences or merge != "concat":
            # Keras sets zero_output_for_mask inside a Bidirectional that returns every step.
            readout = {"return_sequences": one.return_sequences, "zero_output_for_mask": one.return_sequences}
            layers.append(Readout(bidirectional=True, merge_mode=merge, batch_first=True, **readout))
        _pass_lstm(chain, one.return_sequences, one.units * (2 if merge == "concat" else 1))
        return layers

    return build


def _make_lstm(one: _Direction, parameters: Parameters, other: _Direction | None = None, **options: Any) -> LSTM:
    """Make an LSTM of one direction or two."""
    functions = [direction.functions for direction in (one, other) if direction is not None]
    lstm = LSTM.blank(
        parameters["weight_ih_l0"].shape[1],
        one.units,
        bias=one.bias or (other is not None and other.bias),
        batch_first=True,
        activations=functions,
        dtype=one.dtype,
        **options,
    )
    return _load_weights(lstm, {name: array for name, array in parameters.items() if lstm.bias or "bias" not in name})


def _pass_lstm(chain: _Chain, return_sequences: bool, features: int | None) -> None:
    chain.features = features
    if not return_sequences:
        chain.mask = None


def _load_weights(layer: _L, parameters: Parameters) -> _L:
    layer.load_state_dict(parameters)
    return layer


def _take_weights(
    chain: _Chain,
    location: _Location,
    shapes: dict[str, tuple[int | None, ...]],
    path: str = "",
    layer_names: Collection[str] = (),
) -> Parameters:
    """Take a layer's weights, {kind: array}, and check their `shapes`, in which None is any size."""
    arrays = chain.weights.take(location, list(shapes), path, layer_names)
    for kind, shape in shapes.items():
        array = arrays[kind]
        if array.dtype.kind != "f":
            raise ValueError(f"{location.name}: {kind}: expected floats, got {array.dtype}")
        fits = array.ndim == len(shape) and all(
            expected in (None, size) for expected, size in zip(shape, array.shape, strict=True)
        )
        if not fits or 0 in array.shape:
            raise ValueError(f"{location.name}: {kind}: expected shape {shape}, got {array.shape}")
    return arrays


# The supported layers. No other object is looked up by a name from a file.
_READERS = {
    "InputLayer": _input,
    "Embedding": _embedding,
    "Masking": _masking,
    "Dense": _dense,
    "TimeDistributed": _time_distributed,
    "Dropout": _dropout,
    "LSTM": _lstm,
    "Bidirectional": _bidirectional,
    **{kind: _function_layer(kind) for kind in _ACTIVATION_LAYERS},
    **dict.fromkeys(["SpatialDropout1D", "GaussianDropout", "GaussianNoise", "ActivityRegularization"], _left_out),
}
