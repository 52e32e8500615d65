"""The calls of layers that make up a Keras model, in order: from its configuration, with models inside it resolved."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..budget import LimitExceeded
from ..faults import listed, shortened
from . import functions, legacy, merging
from .config import MODELS, Unsupported, layers_of, name_of, short, split, text_of
from .layers import READERS, read_layer, time_distributed_model
from .options import major_of
from .parts import Part, keeps_mask
from .recurrent import LSTMS
from .weights import Location

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..budget import Budget

#: cost of a layer, and of each call of it, in objects
_LAYER_COST = 60

#: an output of a call of a layer: the layer's name, the number of the call, the number of the output
Tensor: TypeAlias = tuple[str, int, int]
# Passes on an input that gets a mask of its own.
_FUNCTIONAL = ("Functional", "Model")
_SAME = Part(lambda source: [], keeps_mask)


class Layer(NamedTuple):
    """A layer of a model, or a model inside it.

    Attributes
    ----------
    kind : str
    location : Location
    part : Part or None
        None for a model, an input and an operation.
    model : Model or None
    config : dict
    """

    kind: str
    location: Location
    part: Part | None
    model: Model | None
    config: dict[str, Any]


class Node(NamedTuple):
    """One call of a layer, in the names of its model.

    Attributes
    ----------
    inputs : list of Tensor
    constants : tuple of (int, float)
        The arguments of an operation that are numbers, with their positions; what GetItem selects.
    mask : list of Tensor or None
        One for each input; None if no mask is given.
    states : list of Tensor
    """

    inputs: list[Any]
    constants: tuple[tuple[int, Any], ...]
    mask: list[Any] | None
    states: list[Any]


class Model(NamedTuple):
    """A model: its layers, its calls in an order that can be run, its inputs and outputs."""

    layers: dict[str, Layer]
    nodes: list[tuple[str, int, Node]]
    inputs: list[tuple[str, Tensor]]  # with their names
    outputs: list[Tensor]


class Call(NamedTuple):
    """A call of a layer, in the names of the values of the whole model.

    Attributes
    ----------
    layer : Layer
    part : Part
    name : str
    inputs, states, outputs : list of str
    mask : list of (str or None), or None
        The masks that are given with the call; None for none.
    """

    layer: Layer
    part: Part
    name: str
    inputs: list[str]
    states: list[str]
    outputs: list[str]
    mask: list[str | None] | None


class Reader:
    """Reads models.

    Attributes
    ----------
    unsupported : list of (str, str)
        (name, problem) of each layer that is not supported.
    recurrent : dict of str to Part or None
        The LSTMs by their names in the model; None for one that is not supported.
    """

    def __init__(self, version: str | None, budget: Budget) -> None:
        self._version, self._budget = version, budget
        self.unsupported: list[tuple[str, str]] = []
        self.recurrent: dict[str, Part | None] = {}

    def read(self, spec: Any, location: Location) -> Model | None:
        """Return a model; None after it was added to `unsupported`."""
        try:
            kind, config = split(spec)
            if kind not in MODELS:
                raise Unsupported(f"expected a Sequential or functional model, got {kind}")
            if not isinstance(config.get("layers"), list):
                raise Unsupported(f"expected a list of layers, got {short(config.get('layers'))}")
            specs = config["layers"]
            self._budget.objects(_LAYER_COST * len(specs), "its layers")
            layers = self._layers(specs, location)
            if kind == "Sequential":
                return _chained(specs, layers)
            return _connected(config, layers, major_of(self._version) == "3")
        except LimitExceeded:
            raise
        except (Unsupported, TypeError, ValueError) as error:
            self.unsupported.append((location.name or "the model", str(error)))
            return None

    def _layers(self, specs: list[Any], location: Location) -> dict[str, Layer]:
        """Return {name: layer}."""
        folders: dict[str, int] = {}
        layers: dict[str, Layer] = {}
        for spec in specs:
            name = name_of(spec)
            title = "/".join([*location.inside, name]) if location.group else name
            title = f"{location.group}/{title}" if location.group else title
            try:
                kind, config = split(spec)
                kind = legacy.class_of(kind) if major_of(self._version) == "1" else kind
                name = text_of(spec if "name" in spec and "inbound_nodes" in spec else config, "name")
                if name in layers:
                    raise Unsupported("expected layers with different names")
                is_lstm = kind in LSTMS or (kind == "Bidirectional" and _is_of_lstms(config))
                self.recurrent |= {title: None} if is_lstm else {}
                layers[name] = self._layer(spec, kind, config, _inner(location, name, kind, folders))
                self.recurrent |= {title: layers[name].part} if is_lstm else {}
            except LimitExceeded:
                raise
            except (Unsupported, TypeError, ValueError) as error:
                self.unsupported.append((name, str(error)))
        return layers

    def _layer(self, spec: Any, kind: str, config: dict[str, Any], location: Location) -> Layer:
        part, model = None, None
        if kind in MODELS:
            with self._budget.nested("models inside models"):
                model = self.read(spec, location)
        elif kind == "TimeDistributed" and _is_model(config.get("layer")):
            part = self._time_distributed(config["layer"], location)
        elif kind != "InputLayer" and not _is_operation(spec, kind, config):
            part = read_layer(kind, config, self._version, location)
        return Layer(kind, location, part, model, config)

    def _time_distributed(self, spec: Any, location: Location) -> Part:
        """Return what a TimeDistributed of a model becomes."""
        name = name_of(spec)
        outer = location.group or location.name
        with self._budget.nested("models inside models"):
            model = self.read(spec, Location(name, f"{location.path}/layer", outer, location.inside))
        if model is None or len(model.inputs) != 1 or len(model.outputs) != 1:
            raise Unsupported(
                f"TimeDistributed of {short(name)}: expected a model of one input and output that is read"
            )
        calls, outputs = self.calls(model, [model.inputs[0][0]])
        return time_distributed_model(lambda source: source.nested(model, calls, outputs), location.name)

    def calls(self, model: Model, inputs: list[str], prefix: str = "") -> tuple[list[Call], list[str]]:
        """Return the calls of a model for the values `inputs`, and the values that are its outputs."""
        calls: list[Call] = []
        values = dict(zip((tensor for _, tensor in model.inputs), inputs, strict=True))
        for name, number, node in model.nodes:
            self._budget.objects(_LAYER_COST, "its layers")
            layer = model.layers[name]
            label = prefix + name + (f":{number}" if number else "")

            given = [_value(tensor, values, name) for tensor in node.inputs]
            states = [_value(tensor, values, name) for tensor in node.states]
            mask = None
            if node.mask is not None:
                mask = [None if tensor is None else _value(tensor, values, name) for tensor in node.mask]
            if layer.model is not None:
                inner, outputs = self._inner_calls(layer, layer.model, label, given, mask)
                calls += inner
            else:
                part = layer.part or merging.operation(layer.kind, layer.config, node.constants)
                outputs = [label, *(f"{label}[{index}]" for index in range(1, part.outputs))]
                calls.append(Call(layer, part, label, given, states, outputs, mask))
            values |= {(name, number, index): output for index, output in enumerate(outputs)}
        return calls, [_value(tensor, values, "output_layers") for tensor in model.outputs]

    def _inner_calls(
        self, layer: Layer, model: Model, label: str, inputs: list[str], mask: list[str | None] | None
    ) -> tuple[list[Call], list[str]]:
        """Return the calls of a model inside another, whose inputs may get masks of their own."""
        calls: list[Call] = []
        if len(inputs) != len(model.inputs):
            raise Unsupported(f"{short(label)}: expected {len(model.inputs)} inputs, got {len(inputs)}")
        if mask is not None:
            inside = [f"{label}/{name}" for name, _ in model.inputs]
            for name, value, one in zip(inside, inputs, mask, strict=True):
                calls.append(Call(layer, _SAME, name, [value], [], [name], [one]))
            inputs = inside
        with self._budget.nested("models inside models"):
            inner, outputs = self.calls(model, inputs, f"{label}/")
        return calls + inner, outputs


def _value(tensor: Any, values: dict[Any, str], name: str) -> str:
    if tensor not in values:
        raise Unsupported(f"{short(name)}: expected an output of a layer, got {short(tensor)}")
    return values[tensor]


def _inner(outer: Location, name: str, kind: str, folders: dict[str, int]) -> Location:
    """Return the location of a layer in a model; `folders` counts those of each class, by which files number them."""
    folder = re.sub("(?<=[a-z])(?=[A-Z])", "_", kind).lower()
    folders[folder] = folders.get(folder, -1) + 1
    folder += f"_{folders[folder]}" if folders[folder] else ""
    path = f"{outer.path}/layers/{folder}" if outer.path else f"layers/{folder}"
    return Location(name, path, outer.group or name, outer.inside + ((name,) if outer.group else ()))


def _is_of_lstms(config: dict[str, Any]) -> bool:
    """Return whether a Bidirectional is one of LSTMs."""
    inner = config.get("layer")
    return isinstance(inner, dict) and inner.get("class_name") in LSTMS


def _is_model(spec: Any) -> bool:
    return isinstance(spec, dict) and spec.get("class_name") in MODELS


def _is_operation(spec: Any, kind: str, config: dict[str, Any]) -> bool:
    """Return whether a configuration is that of an operation of Keras 3, not of a layer with the same name."""
    options = functions.OPERATIONS.get(kind)
    return options is not None and (kind not in READERS or config.keys() <= {"name", "dtype", *options})


def _chained(specs: list[Any], layers: dict[str, Layer]) -> Model:
    """Return a Sequential: each layer takes the output of the one before."""
    start: Tensor = ("", -1, 0)  # no layer's
    title, tensor, nodes = "input", start, []
    while title in layers:
        title += "_"
    for name, layer in layers.items():
        if layer.kind == "InputLayer":
            title = name
        else:
            nodes.append((name, 0, Node([tensor], (), None, [])))
            tensor = (name, 0, 0)
    if len(specs) == len(layers) and not nodes:
        raise Unsupported("expected a model with layers, got none")
    last = layers.get(tensor[0])
    count = last.part.outputs if last is not None and last.part is not None else 1
    if last is not None and last.model is not None:
        count = len(last.model.outputs)
    return Model(layers, nodes, [(title, start)], [(*tensor[:2], index) for index in range(count)])


def _connected(config: dict[str, Any], layers: dict[str, Layer], is_keras_3: bool) -> Model:
    """Return a functional model, its calls in order."""
    pending: dict[tuple[str, int], Node] = {}
    for name, nodes in _nodes(config, layers):
        if layers[name].kind == "InputLayer":
            continue
        for number, node in enumerate(nodes):
            try:
                pending[name, number] = _node(node, layers[name])
            except Unsupported as error:
                raise Unsupported(f"{short(name)}: {error}") from None
    starts, outputs = _ends(config, "input_layers"), _ends(config, "output_layers")
    if is_keras_3:  # which counts a functional model's own outputs as its first call, but only here
        outputs = [
            (name, number - (name in layers and layers[name].kind in _FUNCTIONAL), index)
            for name, number, index in outputs
        ]
    for name, *_ in starts:
        if name not in layers or layers[name].kind != "InputLayer":
            raise Unsupported(f"input_layers: expected inputs, got {short(name)}")
    done = {tensor[:2] for tensor in starts}
    if len(done) < len(starts):
        raise Unsupported("input_layers: expected different inputs")
    waiting: dict[tuple[str, int], set[tuple[str, int]]] = {}  # {call: those that need it}
    missing: dict[tuple[str, int], int] = {}
    for call, node in pending.items():
        needed = {tensor[:2] for tensor in (*node.inputs, *(node.mask or ()), *node.states) if tensor} - done
        unknown = [name for name, _ in needed if name not in layers]
        if unknown:
            raise Unsupported(f"{short(call[0])}: expected layers of the model as inputs, got {listed(unknown)}")
        missing[call] = len(needed)
        for other in needed:
            waiting.setdefault(other, set()).add(call)
    ready = deque(call for call, count in missing.items() if not count)
    ordered = []
    while ready:
        call = ready.popleft()
        ordered.append((*call, pending.pop(call)))
        for other in sorted(waiting.pop(call, ())):
            missing[other] -= 1
            if not missing[other]:
                ready.append(other)
    if pending:
        names = listed(dict.fromkeys(name for name, _ in pending))
        raise Unsupported(f"layers whose inputs are in a cycle, or not those of the model: {names}")
    return Model(layers, ordered, [(tensor[0], tensor) for tensor in starts], outputs)


def _nodes(config: dict[str, Any], layers: dict[str, Layer]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the name of each layer and its calls."""
    for spec in layers_of({"config": config}):
        name, nodes = spec.get("name", name_of(spec)), spec.get("inbound_nodes")
        if name not in layers:  # it is unsupported
            continue
        if not isinstance(nodes, list):
            raise Unsupported(f"{short(name)}: expected a list of its calls, got {short(nodes)}")
        yield name, nodes


def _node(node: Any, layer: Layer) -> Node:
    """Return a call from a configuration."""
    if isinstance(node, dict):  # Keras 3
        arguments, options = node.get("args"), node.get("kwargs")
        if not isinstance(arguments, list) or not isinstance(options, dict):
            raise Unsupported(f"expected a call of it, got {short(node)}")
        options = dict(options)
    else:  # Keras 1 and 2: a list of [name, node, tensor, options]
        tensors = node if isinstance(node, list) else []
        named = [tensor[3] for tensor in tensors if isinstance(tensor, list) and len(tensor) == 4]
        options = {key: value for one in named if isinstance(one, dict) for key, value in one.items()}
        arguments = [tensors[:1] if layer.kind in ("LSTM", "Bidirectional", "CuDNNLSTM") else tensors]
        if arguments[0] != tensors:  # the states of an LSTM follow its input
            options.setdefault("initial_state", tensors[1:])
    if layer.part is None and layer.model is None:
        return _operation_node(layer.kind, arguments, options)
    for key in ("inputs", "sequences"):
        if not arguments and key in options:
            arguments = [options.pop(key)]
    arguments = list(arguments)
    for key in ("initial_state", "mask"):  # an LSTM's further arguments by position
        if len(arguments) > 1 and layer.kind in ("LSTM", "Bidirectional"):
            options[key] = arguments.pop(1)
    inputs, given = _tensors(arguments[0]) if len(arguments) == 1 else None, options.pop("mask", None)
    if not inputs or None in inputs:
        raise Unsupported(f"expected tensors as input, got {short(arguments)}")
    mask = None if given is None else _tensors(given)
    if given is not None and (mask is None or len(mask) != len(inputs)):
        raise Unsupported(f"expected a mask for each input, got {short(given)}")
    states = options.pop("initial_state", None)
    states = [] if states is None else _tensors(states)
    if states is None or None in states:
        raise Unsupported("expected tensors as initial_state")
    others = [key for key, value in options.items() if value not in (None, False)]
    if others:
        raise Unsupported(f"is called with {listed(others)}")
    return Node(inputs, (), mask if mask and any(mask) else None, states)


def _operation_node(kind: str, arguments: list[Any], options: dict[str, Any]) -> Node:
    """Return a call of an operation, whose arguments may be numbers."""
    if kind == "GetItem" and len(arguments) == 2:
        source, key = _tensor(arguments[0]), arguments[1]
        if source is None:
            raise Unsupported(f"expected a tensor, got {short(arguments[0])}")
        return Node([source], ((1, _index(key)),), None, [])
    if len(arguments) == 1 and isinstance(arguments[0], list):
        tensors = _tensors(arguments[0])
        arguments = [None] if tensors is None else list(tensors)
    else:
        arguments = [_tensor(argument) or argument for argument in arguments]
    inputs = [argument for argument in arguments if isinstance(argument, tuple)]
    constants = tuple((place, value) for place, value in enumerate(arguments) if not isinstance(value, tuple))
    others = [key for key, value in options.items() if value not in (None, False)]
    if not inputs or others or not all(type(value) in (int, float, bool) for _, value in constants):
        raise Unsupported(f"expected tensors and numbers as inputs, got {short(constants or others or arguments)}")
    return Node(inputs, constants, None, [])


def _index(key: Any) -> tuple[Any, ...]:
    """Return what selects elements of an array: integers, slices, new axes and an ellipsis."""
    key = key.get("items") if isinstance(key, dict) and key.get("class_name") == "__tuple__" else key
    found: list[Any] = []
    for part in key if isinstance(key, list) else [key]:
        kind = part.get("class_name") if isinstance(part, dict) else None
        if kind == "__ellipsis__":
            found.append(...)
            continue
        ends = [part.get("config", {}).get(end) for end in ("start", "stop", "step")] if kind == "__slice__" else [part]
        if len(found) == 64 or not all(end is None or type(end) is int for end in ends):
            raise Unsupported(f"selects elements by {short(key)}")
        found.append(slice(*ends) if kind == "__slice__" else part)
    return tuple(found)


def _tensors(value: Any) -> list[Tensor | None] | None:
    """Return the tensors of an argument, one or a list of them; None if it is something else."""
    if isinstance(value, dict) and value.get("class_name") == "__tuple__":
        value = value.get("items")
    one = _tensor(value)
    if one is not None:
        return [one]
    if not isinstance(value, list):
        return None
    found = [_tensor(item) for item in value]
    if any(tensor is None and item is not None for tensor, item in zip(found, value, strict=True)):
        return None
    return found


def _tensor(value: Any) -> Tensor | None:
    """Return a tensor, or None for something else."""
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value = value["config"].get("keras_history")
    if not isinstance(value, list) or len(value) not in (3, 4):
        return None
    name, *numbers = value[:3]
    if not isinstance(name, str) or not all(type(number) is int and number >= 0 for number in numbers):
        return None
    return name, numbers[0], numbers[1]


def _ends(config: dict[str, Any], key: str) -> list[Tensor]:
    """Return the inputs or outputs of a functional model."""
    given = config.get(key)
    found = _tensors([*given.values()] if isinstance(given, dict) else given)
    ends = [tensor for tensor in found or [] if tensor is not None]
    if not found or len(ends) < len(found):
        raise Unsupported(f"{key}: expected tensors, got {short(given)}")
    return ends


def unknown_layers(spec: Any) -> Iterator[tuple[str, str]]:
    """Yield the unsupported layers of a model that is not connected as expected."""
    for layer in layers_of(spec):
        kind = layer.get("class_name")
        if isinstance(kind, str) and kind not in READERS and kind not in MODELS and kind != "InputLayer":
            yield name_of(layer), f"layer {shortened(kind, 80)}"
