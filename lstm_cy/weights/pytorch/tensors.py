"""Tensors that make up LSTMs under PyTorch's names: which they are, and the layers that they give."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...checks import float_array
from ...layers.lstm import LSTM
from ...printable import printable
from ..containers.opaque import Opaque
from ..faults import check_finite, listed, naming, shortened
from .stored import ModuleTensors, is_module, named_tensors, unpacked

if TYPE_CHECKING:
    from collections.abc import Collection

    from ...typing import Array, Parameters

# The name of a tensor of nn.LSTM, or, without a layer's number, of nn.LSTMCell.
_TENSOR = re.compile(
    r"(?P<prefix>.*?)(?P<part>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)"
    r"(?:_l(?P<layer>0|[1-9]\d{0,4})(?P<reverse>_reverse)?)?",
    re.DOTALL,
)
# Similar names, which must not be ignored, such as weights with a norm or a mask.
_SIMILAR = re.compile(r"(?:weight|bias)_(?:ih|hh|hr)(?![a-z])|(?:^|\.)(?:peephole|layer_norm)_l\d+(?:_reverse)?$")
# Names of PyTorch's packed quantized weights, which only a file holds as data.
_QUANTIZED = re.compile(r"(?:^|\.)(?:_all_weight_values\.\d+\.param|_packed_weight_(?:ih|hh))$")
_CONTAINERS = (dict, list, tuple, Mapping, Opaque)
_PLAIN = (str, bytes, int, float, type(None))
_FLOATS = ("float32", "float64", "float16")

#: the keys and indices that lead to a dict, a list or a module, and the tensors in it
Location = tuple[tuple[str, ...], ModuleTensors]


class Plan(NamedTuple):
    """The arguments of an LSTM, and its tensors under its parameters' names."""

    options: dict[str, Any]
    tensors: dict[Any, Any]


def plans_or_raise(source: str, locations: list[Location]) -> dict[str, Plan]:
    """Return {prefix: Plan} of the LSTMs in `locations`; raise for tensors that do not form one."""
    plans, problem = plans_of(locations)
    _refuse(source, problem)
    return plans


def _refuse(source: str, problem: str) -> None:
    if problem:
        raise ValueError(f"{printable(source)}: {problem}. To read other tensors, pass lstms a dict of them")


def plans_of(locations: list[Location]) -> tuple[dict[str, Plan], str]:
    """Return ({prefix: Plan} of the LSTMs in `locations`, a text with all problems)."""
    groups: dict[Any, Any] = {}
    problems: list[str] = []
    for location, tensors in locations:
        for name, tensor in tensors.items():
            if match := _TENSOR.fullmatch(name):
                layer = None if match["layer"] is None else int(match["layer"])
                key = match["part"], layer, match["reverse"] is not None
                groups.setdefault((location, match["prefix"]), {})[key] = tensor
            elif _SIMILAR.search(name):
                problems.append(f"{name} looks like part of an LSTM, but is not one of PyTorch's tensors")
    batch_first = {(location, prefix) for location, tensors in locations for prefix in tensors.batch_first}
    plans, uses = {}, Counter(prefix for _, prefix in groups)
    for (location, prefix), tensors in groups.items():
        options, order, wrong = _fit(tensors)
        if (location, prefix) in batch_first:
            options["batch_first"] = True
        if uses[prefix] > 1:
            prefix = "/".join((*location, prefix))
        if prefix in plans:
            problems.append(f"two LSTMs would be called {prefix!r}")
        problems += [f"{prefix}{text}" for text in wrong]
        named = {_name(part, layer or 0, reverse): tensors[part, layer, reverse] for part, layer, reverse in order}
        plans[prefix] = Plan(options, named)
    if problems:
        return {}, f"tensors that do not make up an LSTM of PyTorch's: {listed(problems, separator='; ')}"
    return plans, ""


def locations_of(value: Any) -> list[Location]:
    """Return [(location, {name: tensor}), ...] for each nested dict or list with tensors in it."""
    found: list[Location] = []
    quantized: list[str] = []
    seen: set[int] = set()

    def visit(value: Any, location: tuple[str, ...]) -> None:
        if isinstance(value, Opaque):
            visit_object(value, location)
            return
        inside: list[tuple[Any, Any]] = []
        tensors: dict[str, Any] = {}
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            if isinstance(key, str) and _QUANTIZED.search(key):
                tensors[key] = part
                if not isinstance(part, Opaque):
                    quantized.append(key)
            elif isinstance(part, Opaque) and isinstance(key, str) and _TENSOR.fullmatch(key):
                raise ValueError(f"{key}: expected a dense tensor, got {part!r}")
            elif isinstance(part, _CONTAINERS):
                if part:
                    inside.append((key, part))
            elif not isinstance(part, _PLAIN) and _is_tensor(part):
                tensors[str(key)] = part
        if tensors and not quantized:
            found.append((location, unpacked(tensors)))
        for key, part in inside:
            visit(part, (*location, str(key)))

    def visit_object(value: Opaque, location: tuple[str, ...]) -> None:
        if id(value) in seen:  # modules may refer to each other
            return
        seen.add(id(value))
        if is_module(value):
            tensors = unpacked(named_tensors(value))
            if tensors:
                found.append((location, tensors))
        else:
            for part in (value.arguments, value.state):
                if isinstance(part, _CONTAINERS) and part:
                    visit(part, location)

    if isinstance(value, _CONTAINERS):
        visit(value, ())
    if quantized:
        raise ValueError(
            f"the weights of a quantized LSTM, which are not read: {listed(quantized)}; take the state_dict() of the "
            "module that was quantized"
        )
    return found


def kinds_of(value: Any) -> dict[str, int]:
    """Return how many values of each class other than tensors are nested in a value, {class: number}."""
    counts: Counter[str] = Counter()
    seen: set[int] = set()

    def visit(value: Any) -> None:
        if isinstance(value, Mapping):
            for part in value.values():
                visit(part)
        elif isinstance(value, list | tuple):
            for part in value:
                visit(part)
        elif isinstance(value, Opaque):
            if id(value) not in seen:
                seen.add(id(value))
                counts[value.name] += 1
                visit(value.arguments)
                visit(value.state)
        elif value is not None and not _is_tensor(value):
            counts[type(value).__name__] += 1

    visit(value)
    return dict(counts)


def _is_tensor(value: object) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape") and not isinstance(value, np.generic)


def _name(part: str, layer: int | None, reverse: bool) -> str:
    """Return PyTorch's name of a parameter, of an LSTMCell if `layer` is None."""
    return part if layer is None else f"{part}_l{layer}{'_reverse' * reverse}"


def _fit(tensors: dict[Any, Any]) -> tuple[dict[str, Any], list[Any], list[str]]:
    """Return (options of the LSTM with `tensors`, their keys in its order, problems); `tensors` as in `plans_of`."""
    shapes = {key: tuple(int(size) for size in tensor.shape) for key, tensor in tensors.items()}
    layers = {layer for _, layer, _ in shapes}
    if None in layers and len(layers) > 1:
        return {}, [], ["weight_ih etc.: tensors of both an LSTM and an LSTMCell"]
    first = None if None in layers else 0
    keys = [(part, first, False) for part in ("weight_ih", "weight_hh", "weight_hr")]
    ih, hh, hr = (shapes.get(key, ()) for key in keys)
    wrong = [f"{_name(*key)} is missing" for key in keys[:2] if key not in shapes]
    wrong += [
        f"{_name(*key)} has shape {shapes[key]}, expected 2 axes"
        for key in keys
        if key in shapes and len(shapes[key]) != 2
    ]
    if wrong:
        return {}, [], wrong
    rows, P = hh
    H = hr[1] if hr else P
    if rows != 4 * H and not hr:
        kinds = {3 * H: "that of a GRU", H: "that of a plain RNN"}
        kind = kinds.get(rows, "expected (4 * hidden_size, hidden_size), or weight_hr with it")
        return {}, [], [f"{_name(*keys[1])} has shape {hh}, {kind}"]
    options = {
        "input_size": ih[1],
        "hidden_size": H,
        "num_layers": 1 + max(layer or 0 for layer in layers),
        "bias": any(part.startswith("bias") for part, _, _ in shapes),
        "bidirectional": any(reverse for _, _, reverse in shapes),
        "proj_size": P if hr else 0,
    }
    if len(layers) < options["num_layers"]:
        wrong.append(f"weight_ih_l{max(layers)} etc.: of the layers up to it only {sorted(layers)} exist")
    expected = _shapes(layers, options)
    wrong += [f"{_name(*key)} {shape} is missing" for key, shape in expected.items() if key not in shapes]
    wrong += [
        f"{_name(*key)} has shape {shape}, expected {expected.get(key, 'none')}"
        for key, shape in shapes.items()
        if shape != expected.get(key)
    ]
    return options, [] if wrong else list(expected), wrong


def _shapes(layers: Any, options: dict[str, Any]) -> dict[Any, tuple[int, ...]]:
    """Return {key: shape} of all tensors that these layers of an LSTM should have."""
    H, P = options["hidden_size"], options["proj_size"] or options["hidden_size"]
    directions = (False, True) if options["bidirectional"] else (False,)
    shapes: dict[Any, tuple[int, ...]] = {}
    for layer in sorted(layers, key=lambda layer: layer or 0):
        for reverse in directions:
            inputs = len(directions) * P if layer else options["input_size"]
            shapes["weight_ih", layer, reverse] = 4 * H, inputs
            shapes["weight_hh", layer, reverse] = 4 * H, P
            if options["bias"]:
                shapes["bias_ih", layer, reverse] = shapes["bias_hh", layer, reverse] = (4 * H,)
            if options["proj_size"]:
                shapes["weight_hr", layer, reverse] = P, H
    return shapes


def layers_of(
    source: Any, plans: dict[str, Plan], strict: bool, *, copy: bool = True, **options: Any
) -> dict[str, LSTM]:
    """Make the planned LSTMs, {prefix: LSTM}; without `copy` they may use the given arrays."""
    arrays = {
        prefix: {name: array_of(tensor, f"{source}: {prefix}{name}") for name, tensor in plan.tensors.items()}
        for prefix, plan in plans.items()
    }
    named = {prefix + name: array for prefix, parts in arrays.items() for name, array in parts.items()}
    wrong = [f"{name} of {array.dtype}" for name, array in named.items() if array.dtype.name not in _FLOATS]
    if wrong:
        raise ValueError(f"{source}: expected weights of {', '.join(_FLOATS)} or bfloat16, got {listed(wrong)}")
    check_finite(source, named, strict)
    with naming(source):
        return {prefix: _layer(options | plans[prefix].options, parts, copy) for prefix, parts in arrays.items()}


def array_of(tensor: Any, name: str) -> Array:
    """Return a tensor as an ndarray, which may share its memory; bfloat16, which NumPy does not have, as float32."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    tensor = tensor.detach().cpu()
    try:
        result: Array = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantized, without data
        raise ValueError(f"{name}: expected a dense tensor: {shortened(error, 200)}") from None
    return result


def dtype_of(arrays: Collection[Array]) -> np.dtype[Any]:
    """Return the dtype of a layer with these weights."""
    return np.dtype("float64" if any(array.dtype.name == "float64" for array in arrays) else "float32")


def _layer(options: dict[str, Any], arrays: Parameters, copy: bool) -> LSTM:
    dtype = dtype_of(arrays.values())
    own = {}
    for name, array in arrays.items():
        own[name] = float_array(name, array, dtype)
        part = (
            isinstance(array.base, np.ndarray) and array.base.nbytes > array.nbytes
        )  # a view would keep the whole array alive
        if (copy or part) and np.may_share_memory(own[name], array):
            own[name] = own[name].copy()
    layer = LSTM.blank(**options, dtype=dtype)
    layer.restore(own, copy=False)
    return layer


def shapes_of(tensors: Mapping[str, Any]) -> str:
    """Return names and shapes for a message."""
    return listed(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()) or "none"
