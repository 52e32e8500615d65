"""The configuration of a Keras model: its layers in order, checked to be a chain."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any

from ..faults import listed, shortened

if TYPE_CHECKING:
    from typing import TypeGuard

# Shortened values of a configuration for messages.
_repr = reprlib.Repr()
_repr.maxstring = 80
short = _repr.repr

MODELS = ("Sequential", "Functional", "Model")


class Unsupported(Exception):
    """A part of a layer is not supported; the message names it."""


def split(spec: Any) -> tuple[str, dict[str, Any]]:
    """Return (class name, configuration) of a Keras layer; raise with the class name for a custom layer."""
    if not isinstance(spec, dict) or not isinstance(spec.get("class_name"), str):
        raise Unsupported(f"expected a layer's configuration, got {short(spec)}")
    kind, module, registered = spec["class_name"], spec.get("module"), spec.get("registered_name")
    is_keras = module is None or (isinstance(module, str) and module.split(".")[0] == "keras")
    if not is_keras or registered not in (None, kind):
        raise Unsupported(f"custom class {short(registered or kind)} of {short(module)}")
    config = spec.get("config")
    if isinstance(config, list) and kind == "Sequential":  # before Keras 2.2
        config = {"layers": config}
    if not isinstance(config, dict):
        raise Unsupported(f"expected the configuration of {kind:.80}, got {short(config)}")
    return kind, config


def name_of(spec: Any) -> str:
    """Return a layer's name for messages."""
    config = spec.get("config") if isinstance(spec, dict) else None
    name = config.get("name") if isinstance(config, dict) else None
    return shortened(name, 80) if isinstance(name, str) else "?"


def text_of(config: dict[str, Any], key: str) -> str:
    value = config.get(key)
    if not isinstance(value, str):
        raise Unsupported(f"{key}: expected a text, got {short(value)}")
    return value


def chain_of(spec: Any) -> list[tuple[Any, Any, Any]]:
    """Return [(configuration, name of the previous layer, mask argument), ...] for each layer of a chain."""
    kind, config = split(spec)
    if kind not in MODELS:
        raise Unsupported(f"expected a Sequential or functional model, got {kind}")
    layers = config.get("layers")
    if not isinstance(layers, list):
        raise Unsupported(f"expected a list of layers, got {short(layers)}")
    if kind == "Sequential":
        return [(layer, None, None) for layer in layers]
    by_name = {text_of(layer, "name"): layer for layer in layers if isinstance(layer, dict)}
    if len(by_name) != len(layers):
        raise Unsupported("expected layers with different names")
    name, outputs = _ends(config, "output_layers")
    last = by_name.get(name, {}).get("config")
    if outputs != (2 if isinstance(last, dict) and last.get("merge_mode", "") is None else 1):
        raise Unsupported(f"output_layers: expected every output of {short(name)}, got {outputs}")
    chain = {}
    while name not in chain:
        node = _node(by_name, name)
        chain[name] = (by_name[name], *node)
        if node == (None, None):
            break
        name = node[0]
    if (name, 1) != _ends(config, "input_layers") or chain[name][1] is not None:
        raise Unsupported("it is not a chain of layers from one input to one output")
    besides = [other for other in by_name if other not in chain]
    masks = {other: _mask(by_name, other) for other in besides}
    others = [other for other in besides if masks[other] is None]
    if others:
        raise Unsupported(f"it is not a chain of layers; not in it: {listed(others)}")
    return [(layer, source, masks.get(mask, mask)) for layer, source, mask in reversed(chain.values())]


def _ends(config: dict[str, Any], key: str) -> Any:
    """Return (name, outputs) of the one input or output layer; each output is given as ["name", 0, index]."""
    ends = config.get(key)
    ends = ends if isinstance(ends, list) and all(isinstance(end, list) for end in ends) else [ends]
    name = ends[0][0] if ends and _is_list(ends[0], 3) else None
    if not isinstance(name, str) or [end[:1] + end[2:] for end in ends] != [
        [name, index] for index in range(len(ends))
    ]:
        raise Unsupported(f"{key}: expected one, got {short(ends)}")
    return name, len(ends)


def _node(by_name: dict[str, Any], name: str) -> tuple[Any, Any]:
    """Return (name of the layer whose output `name` takes, name of its mask argument), None for an absent one."""
    nodes = by_name.get(name, {}).get("inbound_nodes")
    if nodes == []:
        return None, None
    if not isinstance(nodes, list) or len(nodes) != 1:
        raise Unsupported(f"{short(name)}: expected one use of it, got {short(nodes)}")
    node = nodes[0]
    if isinstance(node, dict):  # Keras 3
        kind: Any = dict
        arguments, options = node.get("args"), node.get("kwargs")
    else:  # Keras 2: a list of [name, node, tensor, options]
        arguments, options, kind = node, node[0][3] if _is_list(node, 1) and _is_list(node[0], 4) else None, list
    if not _is_list(arguments, 1) or not isinstance(arguments[0], kind) or not isinstance(options, dict):
        raise Unsupported(f"{short(name)}: expected one input, got {short(node)}")
    mask = options.get("mask")
    others = [key for key, value in options.items() if key != "mask" and value not in (None, False)]
    if others:
        raise Unsupported(f"{short(name)} is called with {', '.join(others)}")
    return _tensor(arguments[0]), None if mask is None else _tensor(mask)


def _is_list(value: Any, length: int) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and len(value) == length


def _tensor(value: Any) -> str:
    """Return the name of the layer whose first output is `value`."""
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value = value["config"].get("keras_history")
    if not isinstance(value, list) or len(value) < 3 or not isinstance(value[0], str) or value[2] != 0:
        raise Unsupported(f"expected the first output of a layer, got {short(value)}")
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


def layers_of(spec: Any) -> list[Any]:
    """Return the configurations of a model's layers; an empty list if there are none."""
    config = spec.get("config") if isinstance(spec, dict) else None
    layers = config.get("layers") if isinstance(config, dict) else config
    return [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []
