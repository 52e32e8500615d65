"""The options in a Keras layer's configuration, and the activation functions that it names."""

from __future__ import annotations

import re
from typing import Any

from ...checks import flag, number, positive_int
from . import legacy
from .config import Unsupported, short, split

#: the arguments of Activation
Function = tuple[Any, ...]

# Options that do not affect a layer's output at inference: names, and options for training.
_IGNORED_OPTIONS = re.compile(
    "name|trainable|dtype|.*_(initializer|regularizer|constraint)|unit_forget_bias|seed|dropout|rate|stddev|"
    "l1|l2|noise_shape|stateful|unroll|implementation|use_cudnn|batch_input_shape|batch_shape|input_shape|input_length"
)
# Arguments of Activation by Keras's names.
FUNCTIONS = {
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
# by Keras's major version
_HARD_SIGMOID = {
    "1": ("hardsigmoid", 0.2, 0.5),
    "2": ("hardsigmoid", 0.2, 0.5),
    "3": ("hardsigmoid", 1 / 6, 0.5),
}


class Options:
    """A layer's configuration; each option is taken once.

    Parameters
    ----------
    kind : str
        The layer's class.
    config : dict
    version : str or None
        The version of Keras; None if unknown.
    """

    def __init__(self, kind: str, config: dict[str, Any], version: str | None) -> None:
        self.version, self.major = version, major_of(version)
        self._left = legacy.renamed(kind, config) if self.major == "1" else dict(config)

    @property
    def is_standalone(self) -> bool:
        """Whether it is a version of Keras before it became a part of TensorFlow."""
        return re.match(r"1\.|2\.[0-3]\.(?!.*tf)", self.version or "") is not None

    def inner(self, kind: str, config: dict[str, Any]) -> Options:
        """Return the options of a layer inside this one."""
        return Options(kind, config, self.version)

    def take(self, key: str, default: Any = None) -> Any:
        return self._left.pop(key, default)

    def flag(self, key: str, default: bool = False) -> bool:
        return flag(key, self.take(key, default))

    def size(self, key: str) -> int:
        return positive_int(key, self.take(key))

    def dtype(self, tokens: bool = False) -> Any:
        """Return the weights' dtype by the policy; computations in half precision become float32.

        A layer of tokens may have their dtype instead, as in Keras 1 and 2.0.
        """
        policy = self.take("dtype", "float32")
        if tokens and policy in ("int32", "int64"):
            return "float32"
        if isinstance(policy, dict):
            named = policy.get("config") if policy.get("class_name") in ("DTypePolicy", "Policy") else None
            policy = named.get("name") if isinstance(named, dict) else policy
        if policy in ("float32", "float64"):
            return policy
        if policy in ("mixed_float16", "mixed_bfloat16"):
            return "float32"
        raise Unsupported(f"dtype {short(policy)}")

    def function(self, key: str) -> Function:
        """Return the arguments of Activation for an option; Keras always writes it, so there is no default."""
        if key not in self._left:
            raise Unsupported(f"no {key}")
        return _function(self.take(key), self.version)

    def finish(self) -> None:
        """Raise if there are remaining options that may affect the layer's output."""
        left = {key: value for key, value in self._left.items() if not _IGNORED_OPTIONS.fullmatch(key)}
        words = [f"{key}={short(value)}" for key, value in left.items() if value is not None and value is not False]
        if words:
            raise Unsupported(", ".join(words))


def major_of(version: str | None) -> str | None:
    """Return the major version of Keras."""
    return version.split(".")[0] if isinstance(version, str) else None


def _function(spec: Any, version: str | None) -> Function:
    """Return the arguments of Activation for an activation in a configuration: a name or an activation layer."""
    if spec is None:
        spec = "linear"
    if spec == "hard_sigmoid":
        major = major_of(version)
        if major not in _HARD_SIGMOID:
            raise Unsupported(
                "activation 'hard_sigmoid' of an unknown version of Keras: its definition depends on the version"
            )
        return _HARD_SIGMOID[major]
    if isinstance(spec, str) and spec in FUNCTIONS:
        return FUNCTIONS[spec]
    if isinstance(spec, dict) and spec.get("class_name") == "function":
        spec = spec.get("config")
    elif isinstance(spec, dict):
        kind, config = split(spec)
        if kind in ACTIVATION_LAYERS:
            options = Options(kind, config, version)
            function: Function = ACTIVATION_LAYERS[kind](options)
            options.finish()
            return function
        spec = kind
    raise Unsupported(f"activation {short(spec)}")


def _leaky_relu(options: Options) -> Function:
    slope = options.take("negative_slope", options.take("alpha"))
    return "leakyrelu", number("negative_slope", slope)


def _relu(options: Options) -> Function:
    slope = number("negative_slope", options.take("negative_slope", 0.0) or 0.0)
    if options.take("threshold", 0.0) not in (0.0, None):
        raise Unsupported("a threshold")
    return ("leakyrelu", slope) if slope else ("relu",)


def _softmax(options: Options) -> Function:
    if options.take("axis", -1) != -1:
        raise Unsupported("softmax over another axis than the last")
    return ("softmax",)


ACTIVATION_LAYERS = {
    "Activation": lambda options: options.function("activation"),
    "LeakyReLU": _leaky_relu,
    "ReLU": _relu,
    "ELU": lambda options: ("elu", number("alpha", options.take("alpha", 1.0))),
    "Softmax": _softmax,
}
