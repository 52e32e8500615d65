"""Parts of the configuration of a Keras model, which is not to be trusted."""

from __future__ import annotations

import reprlib
from typing import Any

from ..faults import shortened

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


def layers_of(spec: Any) -> list[Any]:
    """Return the configurations of a model's layers; an empty list if there are none."""
    config = spec.get("config") if isinstance(spec, dict) else None
    layers = config.get("layers") if isinstance(config, dict) else config
    return [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []
