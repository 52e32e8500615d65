"""The calls of a Keras model as a Sequential, or as a Graph where it is no chain of this library's layers."""

from __future__ import annotations

from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...layers.sequential import Sequential
from ..chains import Link, MadePart, NoChain
from ..faults import naming
from ..graph import Graph, Value
from . import functions
from .config import Unsupported
from .merging import operation
from .options import major_of
from .parts import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ...layers.base import Layer
    from ...typing import Array, Narrow, Parameters
    from ..chains import Chain
    from .calls import Call, Model
    from .parts import Made, Part
    from .weights import Weights

_FLOATS = {"float64": np.dtype("float64")}


class LayerStep:
    """A call of a layer as a step of a Graph.

    Parameters
    ----------
    name, kind : str
        The name of the call and the class of the layer.
    inputs, masks, outputs : list of str
        Names of values; empty for an absent mask.
    function : callable
        As in `functions`.
    """

    def __init__(
        self, name: str, kind: str, inputs: list[str], masks: list[str], outputs: list[str], function: Any
    ) -> None:
        self.name, self.op_type = name, kind
        self.inputs, self.outputs = (*inputs, *masks), tuple(outputs)
        self._count, self._function = len(inputs), function

    def __str__(self) -> str:
        return f"layer {self.name!r} ({self.op_type})"

    def run(self, inputs: Sequence[Any]) -> list[Array]:
        """Compute the outputs from the inputs and their masks, None for an absent one."""
        with naming(self):
            results: list[Array] = self._function(list(inputs[: self._count]), list(inputs[self._count :]))
            return results

    def chained(self, chain: Chain, inputs: list[Any], shapes: list[Any]) -> list[Link]:
        """Return its output as a link of a chain of layers; raise NoChain where no layer computes the same."""
        function, x = self._function, inputs[0]
        if any(value is not None for value in inputs[self._count :]):
            raise NoChain("expected no mask besides those that layers of a Sequential make")
        if function.func is functions.merge and function.keywords["kind"] == "Add" and self._count == 2:
            return [chain.sum(*inputs[:2])]
        if function.func not in (functions.chain, functions.recurrent):
            raise NoChain("no layer computes it")
        states = inputs[1 : self._count]
        if not isinstance(x, Link) or any(isinstance(state, Link) or np.any(state) for state in states):
            raise NoChain("expected an input, and states that are zero")
        layers, shape = function.keywords["layers"], shapes[0]
        return [chain.applied(x, [MadePart(layer) for layer in layers], shape)]

    def quantized(self, kind: Narrow, inputs: list[Any] | None, report: dict[str, Any]) -> LayerStep:
        """Return the step with narrow weights; see `Graph.quantized`."""
        made = copy(self)
        with naming(self):
            made._function = _narrowed(self._function, kind, self.name, None if inputs is None else inputs[0], report)
        return made

    def weights(self) -> Iterable[Array]:
        """Return the weights of the layer."""
        return [array for _, array in self.named_weights()]

    def named_weights(self) -> Iterator[tuple[str, Array]]:
        """Yield each weight with its name."""
        for name, array in _weights_in(self._function):
            yield f"{self.name}.{name}", array


def _weights_in(value: Any, name: str = "") -> Iterator[tuple[str, Array]]:
    """Yield (name, array) of the arrays and layers among the arguments of a function."""
    if isinstance(value, partial):
        yield from _weights_in(value.keywords)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _weights_in(inner, key)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _weights_in(inner, name)
    elif isinstance(value, np.ndarray):
        yield name, value
    elif isinstance(value, Graph):
        yield from ((name, array) for array in value.weights())
    elif hasattr(value, "parameters"):
        yield from value.parameters.items()


def _narrowed(function: Any, kind: Narrow, name: str, x: Array | None, report: dict[str, Any]) -> Any:
    """Return a function with narrow weights in its LSTMs; `x` is its first input, if that is known."""
    options = dict(function.keywords)
    inner, layers = options.get("model"), [*(options.get("layers") or ())]
    if isinstance(options.get("step"), partial):
        options["step"] = _narrowed(options["step"], kind, name, None, report)
    elif isinstance(inner, Graph):
        found: dict[str, Any] = {}
        options["model"] = inner.quantized(kind, None, found)
        report.update((f"{name}/{key}", value) for key, value in found.items())
    elif any(layer.num_traced for layer in (layers if inner is None else inner.parts)):
        narrow = (inner or Sequential(*layers)).quantize(kind, x)
        options |= {"layers": [*narrow.parts]} if inner is None else {"model": narrow}
        measured: dict[int, Any] = narrow.report or {}
        report.update((name if inner is None else f"{name}/{index}", one) for index, one in measured.items())
    return partial(function.func, *function.args, **options)


class Assembly:
    """Makes a model of calls; it makes the masks too.

    Parameters
    ----------
    weights : Weights
    version : str or None
        The version of Keras.
    """

    def __init__(self, weights: Weights, version: str | None) -> None:
        def nested(model: Model, calls: list[Call], outputs: list[str]) -> Sequential | Graph:
            return Assembly(weights, version).model(model, calls, outputs)

        self._source, self._major = Source(weights, nested), major_of(version)
        self._made: dict[tuple[int, bool], Made] = {}
        self._steps: list[tuple[Call | None, LayerStep, Made]] = []
        self._masks: dict[str, str | None] = {}
        self._features: dict[str, int | None] = {}
        self._ranks: dict[str, int | None] = {}
        self._same: dict[str, str] = {}  # {output of an operation: the value that it equals}
        self._operations: dict[Any, str] = {}
        self._tokens: set[str] = set()  # inputs of Embeddings

    def model(self, model: Model, calls: list[Call], outputs: list[str]) -> Sequential | Graph:
        """Return the model of these calls."""
        values = [_input(name, model, tensor) for name, tensor in model.inputs]
        for value in values:
            self._ranks[value.name] = None if value.shape is None else len(value.shape)
            last = value.shape[-1] if value.shape else None
            self._features[value.name] = last if isinstance(last, int) else None
        for call in calls:
            self._add(call)
        outputs = [self._same.get(name, name) for name in outputs]
        chain = self._chain([value.name for value in values], outputs)
        if chain is not None:
            return Sequential(*chain)
        values = [value._replace(dtype=np.dtype("int64")) if value.name in self._tokens else value for value in values]
        ends = [Value(name, None, np.dtype("float32")) for name in outputs]
        return Graph(values, ends, [step for _, step, _ in self._steps])

    def parameters(self) -> Parameters:
        """Return the weights of all calls by name."""
        return {name: array for _, step, _ in self._steps for name, array in step.named_weights()}

    def _add(self, call: Call) -> None:
        inputs, states = ([self._same.get(name, name) for name in names] for names in (call.inputs, call.states))
        if call.layer.part is None and call.layer.model is None:
            self._same[call.outputs[0]] = self._operation(call.part, call.layer.kind, inputs)
            return
        if call.mask is None:
            masks = [self._masks.get(name) for name in inputs]
        else:
            masks = [None if name is None else self._same.get(name, name) for name in call.mask]
        used = [mask or "" for mask in masks] if call.part.uses_mask else [""] * len(inputs)
        make = call.part.masked if any(used) and call.part.masked else call.part.make
        made = self._layer(call, inputs[0], make)
        step = LayerStep(
            call.name,
            call.layer.kind,
            [*inputs, *states],
            used,
            call.outputs,
            _function(made, bool(states), call.name),
        )
        self._steps.append((call, step, made))
        self._masks[call.outputs[0]] = call.part.mask(self, inputs, masks)
        self._ranks[call.outputs[0]] = call.part.rank(self._ranks.get(inputs[0]))
        features = self._features.get(inputs[0])
        if not isinstance(made, list):
            features = None
        else:
            for layer in made:
                features = layer.output_features(features)
        if _takes_tokens(made):
            self._tokens.add(inputs[0])
        self._features[call.outputs[0]] = features

    def _layer(self, call: Call, first: str, make: Callable[[Source], Made]) -> Made:
        """Return what a layer becomes, which is made at its first call, with or without a mask."""
        key = (id(call.layer) if call.layer.part is not None else id(call), make is call.part.make)
        if key not in self._made:
            self._source.features, self._source.rank = self._features.get(first), self._ranks.get(first)
            self._made[key] = make(self._source)
        return self._made[key]

    def _chain(self, inputs: list[str], outputs: list[str]) -> list[Layer] | None:
        """Return the layers of a Sequential that computes the same, or None if there is none.

        A Sequential passes a mask to every layer after the one that makes it.
        """
        layers: list[Layer] = []
        current, mask, last = inputs, "", inputs
        for call, step, made in self._steps:
            if call is None:  # an operation, which makes a mask
                continue
            if list(step.inputs[: len(call.inputs) + len(call.states)]) != current or not isinstance(made, list):
                return None
            if (call.part.uses_mask and mask != step.inputs[-1]) or (mask and not call.part.takes_mask):
                return None
            for layer in made:
                if layer.masks:
                    mask = self._masks[call.outputs[0]] or ""
                elif layer.begins_steps:
                    mask = ""
            layers += made
            current, last = call.outputs[:1], call.outputs
        return layers if layers and last == outputs else None

    def _operation(self, part: Part, kind: str, inputs: list[str]) -> str:
        """Return the value of an operation; equal ones are computed once."""
        function: Any = part.make(self._source)
        options = {key: value for key, value in function.keywords.items() if value is not False}
        constants = tuple((place, float(value)) for place, value in options.pop("constants"))
        key = kind, tuple(inputs), constants, tuple(sorted((name, repr(value)) for name, value in options.items()))
        if key not in self._operations:
            name = f"{kind}({len(self._operations)})"
            self._steps.append((None, LayerStep(name, kind, inputs, [], [name], function), function))
            self._operations[key] = name
        return self._operations[key]

    # What the parts of layers call to make masks.

    def _of(self, kind: str, inputs: list[str], constants: tuple[tuple[int, float], ...] = (), **options: Any) -> str:
        return self._operation(operation(kind, options, constants), kind, inputs)

    def not_equal(self, value: str, other: float) -> str:
        """Return the mask of the elements that differ from a number."""
        return self._of("NotEqual", [value], ((1, other),))

    def any(self, value: str) -> str:
        """Return the mask of the steps with a True feature."""
        return self._of("Any", [value], axis=-1)

    def merged(self, masks: list[str | None]) -> str | None:
        """Return the mask of merged arrays: in Keras 3 steps in any of them, if all have masks; else steps in all."""
        given = [mask for mask in masks if mask is not None]
        if not given or (self._major == "3" and len(given) < len(masks)):
            return None
        result = given[0]
        for mask in given[1:]:
            result = self._of("LogicalOr" if self._major == "3" else "LogicalAnd", [result, mask])
        return result

    def concatenated(self, inputs: list[str], masks: list[str | None], axis: int) -> str | None:
        """Return the mask of arrays that are concatenated."""
        if not any(masks):
            return None
        wide = []
        for value, mask in zip(inputs, masks, strict=True):
            if mask is None:
                wide.append(self._of("OnesLike", [value], dtype="bool"))
            else:
                zeros = self._of("ZerosLike", [value], dtype="bool")
                wide.append(self._of("LogicalOr", [self._of("ExpandDims", [mask], axis=-1), zeros]))
        return self._of("Any" if self._major == "3" else "All", [self._of("Concatenate", wide, axis=axis)], axis=-1)


def _takes_tokens(made: Any) -> bool:
    """Return whether the first of some layers, or of a model inside a function, is an Embedding."""
    if isinstance(made, list):
        return bool(made) and made[0].vocabulary_size is not None
    step = made.keywords.get("step")
    inner = step.keywords.get("model") if isinstance(step, partial) else None
    if isinstance(inner, Graph):
        return inner.inputs[0].dtype.kind == "i"
    return inner is not None and inner.vocabulary_size is not None


def _function(made: Made, has_states: bool, name: str) -> Any:
    """Return the function of a step."""
    if not has_states:
        return partial(functions.chain, layers=made) if isinstance(made, list) else made
    if isinstance(made, list):
        return partial(functions.recurrent, layers=made, return_state=False)
    if made.func is not functions.recurrent:
        raise Unsupported(f"{name}: initial_state of a layer that is no LSTM")
    return made


def _input(name: str, model: Model, tensor: Any) -> Value:
    """Return an input of a graph, with what its layer says of its shape."""
    layer = model.layers.get(tensor[0]) or model.layers.get(name)
    if layer is None:  # a Sequential without an input
        layer = next(iter(model.layers.values()))
    given = next((layer.config[key] for key in _SHAPES if isinstance(layer.config.get(key), list)), None)
    dtype = layer.config.get("dtype") if layer.kind == "InputLayer" else None
    named = np.dtype("int64") if str(dtype).startswith(("int", "uint")) else _FLOATS.get(str(dtype))
    return Value(name, _sizes(given), named or np.dtype("float32"))


_SHAPES = ("batch_shape", "batch_input_shape", "shape")


def _sizes(given: Any) -> tuple[int | str | None, ...] | None:
    if not isinstance(given, list) or not 1 <= len(given) <= 32:
        return None
    sizes = [size if type(size) is int and size > 0 else None for size in given]
    return (sizes[0] or "B", *sizes[1:])
