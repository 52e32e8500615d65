"""ONNX nodes as layers of a Sequential.

Each is a function of a chains.Chain, the node, its inputs and the shapes of its outputs. An input is a Link if layers
compute it, else an array, or None for an omitted one. The functions return Links, and raise NoChain where no layer
computes the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...layers.activation import Activation
from ...layers.conv import Conv1D
from ...layers.embedding import Embedding
from ...layers.linear import Linear
from ...layers.normalization import BatchNormalization, LayerNormalization
from ...layers.pooling import GlobalPooling1D, Pooling1D
from ...layers.readout import Readout
from ..chains import Chain, Link, NoChain, Part
from .operators.arguments import axis_of, integers_of
from .operators.windows import windows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...layers.base import Layer
    from ...typing import Array
    from .node import Node

    _Shapes = Sequence["tuple[int, ...] | None"]
    _Conversion = Callable[..., Link]

#: {operator: function(chain, node, inputs, shapes)}
CHAINED: dict[str, _Conversion] = {}
# of a constant that exporters write in float32
_ROUNDING = 1e-6


def chained(*names: str) -> Callable[[_Conversion], _Conversion]:
    """Decorate the conversion of operators, which is registered under their names."""

    def register(function: _Conversion) -> _Conversion:
        CHAINED.update(dict.fromkeys(names, function))
        return function

    return register


def links_of(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> list[Link]:
    """Return the values that a node computes as links of a chain."""
    conversion = CHAINED.get(node.op_type)
    if conversion is None:
        raise NoChain("no layer computes it")
    if node.rounds:
        raise NoChain("no layer computes in bfloat16")
    return [conversion(chain, node, inputs, shapes)]


def _only(inputs: Sequence[Any]) -> Link:
    """Return the one input that layers compute, the first one."""
    link, *others = inputs
    if not isinstance(link, Link) or any(isinstance(other, Link) for other in others):
        raise NoChain("expected its first input to depend on the input, and no other")
    return link


# The form of arrays


@chained("Identity", "Dropout")
def _same(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    return _only(inputs)


@chained("Cast", "CastLike")
def _cast(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    link = _only(inputs[:1])
    if link.parts and node.get("to") not in (1, 11):
        raise NoChain("no layer changes the type of numbers so")
    return link  # the comparison of both shows whether the type matters


@chained("Transpose")
def _transpose(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    link = _only(inputs)
    order = node.get("perm", range(len(link.axes))[::-1])
    return link._replace(axes=tuple(link.axes[axis] for axis in order))


@chained("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand")
def _reshape(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    return chain.reshaped(_only(inputs), shapes[0] or ())


@chained("Slice")
def _slice(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    link = _only(inputs)
    changed = [place for place, size in enumerate(shapes[0] or ()) if size != link.shape[place]]
    if not changed:
        return link
    if changed != [chain.steps_of(link)]:
        raise NoChain("it takes a part of something other than the steps")
    kept = _kept(node, link, inputs, changed[0])
    steps = link.shape[changed[0]]
    axes = list(link.axes)
    if link.ahead and np.array_equal(kept, np.arange(steps - link.ahead)):
        axes[changed[0]] = chain.resized(axes[changed[0]], len(kept))
        return Link(link.parts, tuple(axes))
    if link.ahead or not np.array_equal(kept, [steps - 1]):
        raise NoChain("it takes steps other than the last one")
    return _last_step(link, axes, changed[0])


@chained("Gather")
def _gather(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    if isinstance(inputs[0], np.ndarray) and isinstance(inputs[1], Link):
        return _embedding(chain, node, inputs[0], inputs[1])
    link, axis = _only(inputs), axis_of(node.get("axis", 0), len(inputs[0].axes))
    if not link.axes[axis]:  # its only element
        return chain.reshaped(link, shapes[0] or ())
    if axis != chain.steps_of(link) or not np.array_equal(_kept(node, link, inputs, axis), [link.shape[axis] - 1]):
        raise NoChain("it takes something other than the last step")
    return chain.reshaped(_last_step(link, list(link.axes), axis), shapes[0] or ())


def _kept(node: Node, link: Link, inputs: Sequence[Any], axis: int) -> Array:
    """Return the places along an axis that a node takes."""
    places = np.arange(link.shape[axis], dtype=np.float32)
    places = places.reshape([-1 if place == axis else 1 for place in range(len(link.axes))])
    (result,) = node.run([np.broadcast_to(places, link.shape), *inputs[1:]])
    return np.unique(result)


def _last_step(link: Link, axes: list[Any], axis: int) -> Link:
    axes[axis] = ()
    return link.then(last_step(), axes=axes)


def last_step(**options: bool) -> Part:
    """Return the layer that selects the last step."""
    return Part(Readout, None, True, **options)


def _embedding(chain: Chain, node: Node, weight: Array, tokens: Link) -> Link:
    if tokens.parts or weight.ndim != 2 or node.get("axis", 0) not in (0, -2):
        raise NoChain("expected the vectors of tokens that are the input")
    axes = (*tokens.axes, chain.new_axis(weight.shape[1]))
    part = Part(Embedding, {"weight": weight}, num_embeddings=len(weight), embedding_dim=weight.shape[1],
                dtype=_dtype(weight))  # fmt: skip
    made = tokens.then(part, axes=axes)
    chain.features(made, -1)
    return made


# Functions of elements

# {operator: (the activation's name, {attribute: default} in the order of alpha, beta, {attribute: the only value})}
_FUNCTIONS: dict[str, tuple[str, dict[str, float], dict[str, Any]]] = {
    "Relu": ("relu", {}, {}),
    "Sigmoid": ("sigmoid", {}, {}),
    "Tanh": ("tanh", {}, {}),
    "Exp": ("exp", {}, {}),
    "Softplus": ("softplus", {}, {}),
    "Softsign": ("softsign", {}, {}),
    "Elu": ("elu", {"alpha": 1.0}, {}),
    "LeakyRelu": ("leakyrelu", {"alpha": 0.01}, {}),
    "ThresholdedRelu": ("thresholdedrelu", {"alpha": 1.0}, {}),
    "HardSigmoid": ("hardsigmoid", {"alpha": 0.2, "beta": 0.5}, {}),
    "Selu": ("selu", {}, {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "Gelu": ("gelu", {}, {"approximate": "none"}),
    "Swish": ("silu", {}, {"alpha": 1.0}),
}


@chained(*_FUNCTIONS)
def _function(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    name, numbers, fixed = _FUNCTIONS[node.op_type]
    for attribute, value in fixed.items():
        if node.get(attribute, value) not in (value, float(np.float32(value)) if isinstance(value, float) else value):
            raise NoChain(f"expected {attribute} = {value}")
    arguments = {attribute: float(node.get(attribute, default)) for attribute, default in numbers.items()}
    return _only(inputs).then(Part(Activation, None, False, name=name, **arguments))


@chained("Erf")
def _erf(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    return _only(inputs).then(_Erf())


class _Erf(Part):
    """The error function: exporters write a Gelu with it, and no layer computes it alone."""

    def __init__(self) -> None:
        super().__init__(None)

    def layer(self, batch_first: bool) -> Layer:
        raise NoChain("no layer computes Erf")


@chained("Softmax", "LogSoftmax")
def _softmax(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    link = _only(inputs)
    axis = axis_of(node.get("axis", -1 if node.opset >= 13 else 1), len(link.axes))
    if node.opset < 13 and axis != len(link.axes) - 1:
        raise NoChain("it is computed over several axes")
    chain.features(link, axis)
    return link.then(Part(Activation, name=node.op_type.lower()))


@chained("Add", "Sub", "Mul", "Div")
def _arithmetic(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    a, b = inputs
    kind = node.op_type
    if isinstance(a, Link) and isinstance(b, Link):
        return _joined(chain, kind, a, b)
    link, constant = (a, b) if isinstance(a, Link) else (b, a)
    if kind == "Div" and link is b:
        raise NoChain("no layer divides by its input")
    constant = chain.along_features(link, constant)
    if kind in ("Add", "Sub"):
        factor, sign = (1.0, 1) if kind == "Add" else (1.0, -1) if link is a else (-1.0, 1)
        return _affine(link, factor, sign * constant)
    return _affine(link, constant if kind == "Mul" else 1 / constant, 0.0)


def _affine(link: Link, factor: Any, shift: Any) -> Link:
    """Return factor * link + shift; the numbers are the same for all features, or one for each."""
    last = link.parts[-1] if link.parts else None
    if last is not None and last.kind in (Linear, Conv1D) and not last.options["bias"] and np.ndim(factor) == 0:
        weight = (last.parameters or {})["weight"]
        if factor == 1:
            bias = np.broadcast_to(np.asarray(shift, weight.dtype), len(weight))
            options = last.options | {"bias": True}
            made = Part(last.kind, {"weight": weight, "bias": bias}, last.kind is Conv1D, **options)
            return link._replace(parts=(*link.parts[:-1], made))
    if np.ndim(factor) == np.ndim(shift) == 0:
        return _scaled(link, float(factor), float(shift))
    numbers = np.broadcast_arrays(factor, shift)
    features, dtype = numbers[0].size, np.result_type(np.float32, *(x for x in (factor, shift) if np.ndim(x)))
    weight, bias = (number.astype(dtype) for number in numbers)
    parameters = {"weight": weight, "bias": bias, "running_mean": np.zeros_like(bias), "running_var": weight * 0 + 1}
    return link.then(Part(BatchNormalization, parameters, features=features, eps=0.0, dtype=dtype))


def _scaled(link: Link, factor: float, shift: float) -> Link:
    """Return factor * link + shift, which follows another such function as one with it."""
    last = link.parts[-1] if link.parts else None
    if last is not None and last.options.get("name") == "affine":
        factor, shift = factor * last.options["alpha"], factor * last.options["beta"] + shift
        link = link._replace(parts=link.parts[:-1])
        if abs(factor - 1) < _ROUNDING and shift == 0:
            return link
    return link.then(Part(Activation, name="affine", alpha=factor, beta=shift))


def _is_normal(parts: Sequence[Part]) -> bool:
    """Return whether parts compute 1 + erf(x / sqrt(2)), twice the normal distribution."""
    if len(parts) != 3 or type(parts[1]) is not _Erf:
        return False
    numbers = [parts[place].options.get(name, np.nan) for place in (0, 2) for name in ("alpha", "beta")]
    return bool(np.allclose(numbers, [math.sqrt(0.5), 0, 1, 1], rtol=0, atol=_ROUNDING))


def _joined(chain: Chain, kind: str, a: Link, b: Link) -> Link:
    """Return the sum of a value and of one that layers compute from it, or x * sigmoid(x)."""
    if kind == "Add":
        return chain.sum(a, b)
    before, rest = chain.between(a, b)
    if kind == "Mul" and len(rest) == 1 and rest[0].options.get("name") == "sigmoid":
        return before.then(Part(Activation, name="silu"))
    if kind == "Mul" and _is_normal(rest):
        return _scaled(before.then(Part(Activation, name="gelu")), 2.0, 0.0)
    raise NoChain("it joins values, and no layer does so")


# Products


@chained("MatMul")
def _matmul(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    link, weight = _only(inputs), inputs[1]
    if weight.ndim != 2:
        raise NoChain("its matrix does not have two axes")
    return _linear(chain, link, weight.T, None)


@chained("Gemm")
def _gemm(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    link, weight, bias = _only(inputs), *[*inputs[1:], None][:2]
    if node.get("transA", 0):
        raise NoChain("it transposes its input")
    weight = (weight if node.get("transB", 0) else weight.T) * weight.dtype.type(node.get("alpha", 1.0))
    if bias is not None:
        bias = np.broadcast_to(bias * bias.dtype.type(node.get("beta", 1.0)), (1, len(weight)))[0]
    return _linear(chain, link, weight, bias)


def _linear(chain: Chain, link: Link, weight: Array, bias: Array | None) -> Link:
    chain.features(link, -1)
    parameters = {"weight": weight} | ({} if bias is None else {"bias": bias})
    part = Part(Linear, parameters, in_features=weight.shape[1], out_features=len(weight), bias=bias is not None,
                dtype=_dtype(weight))  # fmt: skip
    return link.then(part, axes=(*link.axes[:-1], chain.new_axis(len(weight))))


def _dtype(weight: Array) -> np.dtype[Any]:
    if weight.dtype not in (np.float32, np.float64):
        raise NoChain(f"no layer computes in {weight.dtype}")
    return weight.dtype


# Windows of steps


@chained("Pad")
def _pad(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    link = _only(inputs)
    pads = list(node.get("pads", ())) if node.opset < 11 else integers_of("pads", inputs[1])
    value = node.get("value", 0.0) if node.opset < 11 else [*inputs, None, None][2]
    axes = [*inputs, None, None, None][3]
    if node.get("mode", "constant") != "constant" or np.any(value):  # None is 0
        raise NoChain("it adds something other than zeros")
    places = list(range(len(link.axes))) if axes is None else [axis_of(axis, len(link.axes)) for axis in axes.tolist()]
    half = len(pads) // 2
    widths = dict(zip(places, zip(pads[:half], pads[half:], strict=True), strict=True))
    padded = [place for place, pair in widths.items() if any(pair)]
    if not padded:
        return link
    if len(padded) != 1 or min(widths[padded[0]]) < 0 or not link.axes[padded[0]]:
        raise NoChain("expected zeros along one axis")
    place = padded[0]
    resized = [*link.axes]
    resized[place] = chain.resized(link.axes[place], link.shape[place] + sum(widths[place]))
    return link._replace(axes=tuple(resized), pads=widths[place])


@chained("Conv")
def _conv(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    link, weight, bias = _only(inputs), *[*inputs[1:], None][:2]
    place, windows = _along_steps(chain, node, link, tuple(weight.shape[2:]))
    size, stride, dilation = (numbers[place] for numbers in (windows.kernel, windows.strides, windows.dilations))
    before, after = (own + given for own, given in zip(windows.pads[place], link.pads, strict=True))
    spread, ahead = (size - 1) * dilation, 0
    if before == after == 0:
        padding = "valid"
    elif before == spread:
        padding, ahead = "causal", after
    elif stride == 1 and before + after == spread and before == spread // 2:
        padding = "same"
    else:
        raise NoChain(f"its zeros, {before} before and {after} after the steps, are none of valid, causal and same")
    if ahead and stride > 1:
        raise NoChain("it has zeros at both ends, and skips steps")
    parameters = {"weight": weight.reshape(*weight.shape[:2], size)} | ({} if bias is None else {"bias": bias})
    part = Part(
        Conv1D, parameters, True, in_features=weight.shape[1] * node.get("group", 1), out_features=len(weight),
        kernel_size=size, stride=stride, padding=padding, dilation=dilation, groups=node.get("group", 1),
        bias=bias is not None, dtype=_dtype(weight),
    )  # fmt: skip
    axes = [*link.axes]
    axes[1] = chain.new_axis(len(weight))
    axes[2 + place] = chain.resized(link.axes[2 + place], windows.counts[place])
    return Link((*link.parts, part), tuple(axes), ahead=ahead)


@chained("MaxPool", "AveragePool")
def _pool(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    link = _only(inputs)
    place, windows = _along_steps(chain, node, link, tuple(node.get("kernel_shape", ())))
    if any(windows.pads[place]) or windows.dilations[place] > 1 or node.get("ceil_mode", 0):
        raise NoChain("expected windows that are complete, without dilations")
    kind = "max" if node.op_type == "MaxPool" else "average"
    part = Part(Pooling1D, None, True, kind=kind, size=windows.kernel[place], stride=windows.strides[place])
    axes = [*link.axes]
    axes[2 + place] = chain.resized(link.axes[2 + place], windows.counts[place])
    return link.then(part, axes=axes)


def _along_steps(chain: Chain, node: Node, link: Link, kernel: tuple[int, ...]) -> tuple[int, Any]:
    """Return the spatial axis that has the steps, and the windows of a node of (rows, features, spatial axes)."""
    windows = windows_of(node, np.broadcast_to(np.float32(0), link.shape), kernel)
    used = [place for place, axis in enumerate(link.axes[2:]) if axis or windows.kernel[place] > 1]
    place = used[0] if used else 0
    if len(used) > 1:
        raise NoChain("its windows go over more than the steps")
    chain.sequence(link, 0, 2 + place, 1)
    return place, windows


@chained("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")
def _global_pool(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    link, shape = _only(inputs), shapes[0] or ()
    axes = _reduced(node, link, inputs)
    used = [axis for axis in axes if link.axes[axis]]
    if len(used) != 1:
        raise NoChain("it is computed over more than the steps")
    if node.op_type.startswith("Global"):
        chain.sequence(link, 0, used[0], 1)
    if used != [chain.steps_of(link)]:
        raise NoChain("it is not computed over the steps")
    left = [() if place == used[0] else axis for place, axis in enumerate(link.axes)]
    kind = "max" if "Max" in node.op_type else "average"
    return chain.reshaped(link.then(Part(GlobalPooling1D, None, True, kind=kind), axes=left), shape)


def _reduced(node: Node, link: Link, inputs: Sequence[Any]) -> list[int]:
    """Return the axes over which a node computes."""
    every = range(len(link.axes))
    if node.op_type.startswith("Global"):
        return [*every[2:]]
    given = node.get("axes") if len(inputs) < 2 or inputs[1] is None else inputs[1].tolist()
    return [axis_of(axis, len(every)) for axis in given] if given else [*every]


# Normalizations


@chained("BatchNormalization")
def _batch_normalization(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    link, (weight, bias, mean, variance) = _only(inputs), inputs[1:]
    features = chain.features(link, 1)
    parameters = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}
    options = {"features": features, "eps": float(node.get("epsilon", 1e-5)), "dtype": _dtype(weight)}
    return link.then(Part(BatchNormalization, parameters, False, **options))


@chained("LayerNormalization")
def _layer_normalization(chain: Chain, node: Node, inputs: Sequence[Any], shapes: _Shapes) -> Link:
    link, weight, bias = _only(inputs), *[*inputs[1:], None][:2]
    if axis_of(node.get("axis", -1), len(link.axes)) != len(link.axes) - 1:
        raise NoChain("it is computed over several axes")
    features = chain.features(link, -1)
    parameters = {"weight": weight.reshape(-1), "bias": weight * 0 if bias is None else bias.reshape(-1)}
    options = {"features": features, "eps": float(node.get("epsilon", 1e-5)), "dtype": _dtype(weight)}
    return link.then(Part(LayerNormalization, parameters, False, **options))
