"""Keras's convolutions, pooling, normalisation, and layers that change the form of arrays."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...checks import number, one_of, positive_int
from ...layers.conv import Conv1D
from ...layers.normalization import BatchNormalization, LayerNormalization
from ...layers.pooling import GlobalPooling1D, Pooling1D
from ...layers.shapes import Flatten, RepeatVector
from . import functions
from .config import Unsupported, short
from .parts import Part, activation_layers, drops_mask, keeps_mask, loaded

if TYPE_CHECKING:
    from ...layers.base import Layer
    from .options import Options
    from .parts import Made, Source
    from .weights import Location

_LARGEST = 1 << 20


def conv(count: int, options: Options, location: Location) -> Part:
    """Read a convolution over `count` axes."""
    filters, groups = options.size("filters"), positive_int("groups", options.take("groups", 1))
    geometry = _geometry(count, options)
    sizes, bias, dtype = _sizes("kernel_size", options.take("kernel_size"), count), _bias(options), options.dtype()
    after = activation_layers(options.function("activation"))

    def make(source: Source) -> Made:
        last = source.features if not geometry["channels_first"] else None
        if last is not None and last % groups:
            raise ValueError(f"{location.name}: groups: expected a divisor of {last} features, got {groups}")
        inputs = None if last is None else last // groups
        shape, axes = _stored(options.major, geometry["channels_first"], sizes, inputs, filters)
        arrays = source.take(location, {"kernel": shape} | ({"bias": (filters,)} if bias else {}))
        kernel = arrays["kernel"].transpose(axes).reshape(*sizes, -1, filters)
        if source.flips_kernels:
            kernel = np.flip(kernel, tuple(range(count)))
        if filters % groups:
            raise ValueError(f"{location.name}: groups: expected a divisor of {filters} filters, got {groups}")
        if count > 1 or geometry["channels_first"]:
            return partial(
                functions.conv, kernel=kernel, bias=arrays.get("bias"), groups=groups, after=after, **geometry
            )
        layer = Conv1D.blank(
            kernel.shape[1] * groups,
            filters,
            sizes[0],
            stride=geometry["strides"][0],
            padding=geometry["padding"],
            dilation=geometry["dilations"][0],
            groups=groups,
            bias=bias,
            batch_first=True,
            dtype=dtype,
        )
        parameters = {"weight": kernel.transpose(2, 1, 0)} | ({"bias": arrays["bias"]} if bias else {})
        return [loaded(layer, parameters), *after]

    return Part(make, drops_mask, takes_mask=False)


def _stored(
    major: str | None, channels_first: bool, sizes: list[int], inputs: int | None, filters: int
) -> tuple[tuple[int | None, ...], list[int]]:
    """Return the shape of a kernel in the file, and the order of its axes that gives (*sizes, inputs, filters)."""
    count = len(sizes)
    if major == "1" and count == 1:
        return (*sizes, 1, inputs, filters), [0, 1, 2, 3]
    if major == "1" and channels_first:
        return (filters, inputs, *sizes), [*range(2, 2 + count), 1, 0]
    return (*sizes, inputs, filters), list(range(count + 2))


def separable(count: int, options: Options, location: Location) -> Part:
    """Read a convolution of each channel, followed by one that mixes them."""
    filters, multiplier = options.size("filters"), positive_int("depth_multiplier", options.take("depth_multiplier", 1))
    geometry = _geometry(count, options)
    sizes, bias = _sizes("kernel_size", options.take("kernel_size"), count), _bias(options)
    options.dtype()
    after = activation_layers(options.function("activation"))

    def make(source: Source) -> Made:
        shapes: dict[str, tuple[int | None, ...]] = {
            "depthwise_kernel": (*sizes, None, multiplier),
            "pointwise_kernel": (*[1] * count, None, filters),
        }
        arrays = source.take(location, shapes | ({"bias": (filters,)} if bias else {}))
        ones = {"strides": [1] * count, "dilations": [1] * count, "padding": "valid"}
        return partial(
            functions.separable,
            depthwise=_depthwise(arrays["depthwise_kernel"]) | geometry | {"bias": None, "after": ()},
            pointwise=geometry
            | ones
            | {"kernel": arrays["pointwise_kernel"], "bias": arrays.get("bias"), "groups": 1, "after": after},
        )

    return Part(make, drops_mask, takes_mask=False)


def depthwise(count: int, options: Options, location: Location) -> Part:
    """Read a convolution of each channel by itself."""
    multiplier = positive_int("depth_multiplier", options.take("depth_multiplier", 1))
    geometry = _geometry(count, options)
    sizes, bias = _sizes("kernel_size", options.take("kernel_size"), count), _bias(options)
    options.dtype()
    after = activation_layers(options.function("activation"))
    kind = "kernel" if options.major == "3" else "depthwise_kernel"

    def make(source: Source) -> Made:
        shapes: dict[str, tuple[int | None, ...]] = {kind: (*sizes, None, multiplier)}
        arrays = source.take(location, shapes | ({"bias": (None,)} if bias else {}))
        return partial(functions.conv, **_depthwise(arrays[kind]), **geometry, bias=arrays.get("bias"), after=after)

    return Part(make, drops_mask, takes_mask=False)


def _depthwise(kernel: Any) -> dict[str, Any]:
    """Return a kernel (*sizes, channels, multiplier) as that of a convolution with a group for each channel."""
    *sizes, channels, multiplier = kernel.shape
    return {"kernel": kernel.reshape(*sizes, 1, channels * multiplier), "groups": channels}


def pool(kind: str, count: int, options: Options, location: Location) -> Part:
    """Read pooling over windows of `count` axes."""
    sizes = _sizes("pool_size", options.take("pool_size", 2), count)
    strides = options.take("strides")
    strides = sizes if strides is None else _sizes("strides", strides, count)
    padding, channels_first = _padding(options, causal=False), _channels_first(options)

    def make(source: Source) -> Made:
        if count == 1 and not channels_first:
            return [Pooling1D(kind, sizes[0], stride=strides[0], padding=padding, batch_first=True)]
        rest: dict[str, Any] = {
            "sizes": sizes,
            "strides": strides,
            "padding": padding,
            "channels_first": channels_first,
        }
        return partial(functions.pool, kind=kind, **rest)

    return Part(make, drops_mask, takes_mask=False)


def global_pool(kind: str, count: int, options: Options, location: Location) -> Part:
    """Read pooling over all of `count` axes."""
    keepdims, channels_first = options.flag("keepdims"), _channels_first(options)
    averages_steps = kind == "average" and count == 1

    def make(source: Source) -> Made:
        if count == 1 and not channels_first and not keepdims:
            return [GlobalPooling1D(kind, batch_first=True)]
        rest: dict[str, Any] = {"rank": count + 2, "keepdims": keepdims, "channels_first": channels_first}
        return partial(functions.global_pool, kind=kind, **rest)

    return Part(
        make,
        drops_mask,
        uses_mask=averages_steps,
        takes_mask=averages_steps,
        rank=lambda rank: count + 2 if keepdims else 2,
    )


def batch_normalization(options: Options, location: Location) -> Part:
    """Read a normalisation by stored statistics."""
    axes = _axes(options)
    if len(axes) > 1:
        raise Unsupported(f"axis {short(axes)}")
    eps, dtype = number("epsilon", options.take("epsilon", 1e-3), 0.0), options.dtype()
    scale, center = options.flag("scale", True), options.flag("center", True)
    # they act in training, or only with renorm or virtual batches, which remain to be refused
    for key in ("momentum", "renorm_momentum", "fused", "synchronized"):
        options.take(key)

    def make(source: Source) -> Made:
        kinds = [*(["gamma"] if scale else []), *(["beta"] if center else []), "moving_mean", "moving_variance"]
        arrays = source.take(location, dict.fromkeys(kinds, (None,)))
        if len({array.shape for array in arrays.values()}) > 1:
            raise ValueError(f"{location.name}: expected weights of one shape, got several")
        size = len(arrays["moving_mean"])
        parameters: dict[str, Any] = {
            "weight": arrays.get("gamma", np.ones(size, arrays["moving_mean"].dtype)),
            "bias": arrays.get("beta", np.zeros(size, arrays["moving_mean"].dtype)),
        }
        if _is_last(axes, source.rank):
            parameters |= {"running_mean": arrays["moving_mean"], "running_var": arrays["moving_variance"]}
            return [loaded(BatchNormalization.blank(size, eps=eps, dtype=dtype), parameters)]
        return partial(
            functions.normalize,
            axes=axes,
            eps=eps,
            scale=parameters["weight"],
            shift=parameters["bias"],
            mean=arrays["moving_mean"],
            variance=arrays["moving_variance"],
        )

    return Part(make, keeps_mask)


def layer_normalization(options: Options, location: Location) -> Part:
    """Read a normalisation over some axes."""
    axes = _axes(options)
    eps, dtype = number("epsilon", options.take("epsilon", 1e-3), 0.0), options.dtype()
    scale, center = options.flag("scale", True), options.flag("center", True)

    def make(source: Source) -> Made:
        kinds = [*(["gamma"] if scale else []), *(["beta"] if center else [])]
        if not kinds and len(axes) == 1 and source.features is None:
            raise ValueError(f"not supported: {location.name}: a normalisation of an unknown number of features")
        arrays = source.take(location, dict.fromkeys(kinds, (None,) * len(axes)))
        shape = next((array.shape for array in arrays.values()), (source.features or 1,))
        weight, bias = arrays.get("gamma", np.ones(shape, dtype)), arrays.get("beta", np.zeros(shape, dtype))
        if _is_last(axes, source.rank):
            return [loaded(LayerNormalization.blank(shape[0], eps=eps, dtype=dtype), {"weight": weight, "bias": bias})]
        return partial(functions.normalize, axes=axes, eps=eps, scale=weight, shift=bias)

    return Part(make, keeps_mask)


def flatten(options: Options, location: Location) -> Part:
    channels_first = _channels_first(options)

    def make(source: Source) -> Made:
        if source.rank == 3 and not channels_first:
            return [Flatten(batch_first=True)]
        return [] if source.rank == 2 else partial(functions.flatten, channels_first=channels_first)

    return Part(make, drops_mask, rank=lambda rank: 2)


def reshape(options: Options, location: Location) -> Part:
    given = options.take("target_shape")
    if not isinstance(given, list) or sum(size == -1 for size in given) > 1 or len(given) > 31:
        raise Unsupported(f"target_shape {short(given)}")
    shape = [size if size == -1 else positive_int("target_shape", size) for size in given]
    make = partial(functions.reshape, shape=shape)
    return Part(lambda source: make, drops_mask, takes_mask=False, rank=lambda rank: 1 + len(shape))


def permute(options: Options, location: Location) -> Part:
    axes = options.take("dims")
    if not isinstance(axes, list) or sorted(map(repr, axes)) != sorted(map(repr, range(1, len(axes) + 1))):
        raise Unsupported(f"dims {short(axes)}")
    make = partial(functions.permute, axes=axes)
    return Part(lambda source: make, drops_mask, takes_mask=False)


def repeat_vector(options: Options, location: Location) -> Part:
    steps = options.size("n")

    def make(source: Source) -> Made:
        layers: list[Layer] = [RepeatVector(steps, batch_first=True)]
        return layers

    return Part(make, drops_mask, rank=lambda rank: 3)


def resize(function: Any, key: str, count: int, options: Options, location: Location) -> Part:
    """Read a layer that pads or crops `count` axes."""
    given = options.take(key, 1)
    pairs = given if count > 1 and isinstance(given, list) else [given] * count
    if len(pairs) != count:
        raise Unsupported(f"{key} {short(given)}")
    pads = [_pair(key, pair) for pair in pairs]
    make = partial(function, pads=pads, channels_first=_channels_first(options))
    return Part(lambda source: make, drops_mask, takes_mask=False)


def upsample(count: int, options: Options, location: Location) -> Part:
    sizes = _sizes("size", options.take("size", 2), count)
    one_of("interpolation", options.take("interpolation", "nearest"), ("nearest",))
    make = partial(functions.upsample, sizes=sizes, channels_first=_channels_first(options))
    return Part(lambda source: make, drops_mask, takes_mask=False)


def _geometry(count: int, options: Options) -> dict[str, Any]:
    """Return the arguments of `functions.conv` that are options of every convolution."""
    return {
        "strides": _sizes("strides", options.take("strides", 1), count),
        "dilations": _sizes("dilation_rate", options.take("dilation_rate", 1), count),
        "padding": _padding(options, causal=count == 1),
        "channels_first": _channels_first(options),
    }


def _bias(options: Options) -> bool:
    return options.flag("use_bias", True)


def _padding(options: Options, causal: bool) -> str:
    kinds = ("valid", "same", "causal") if causal else ("valid", "same")
    found: str = one_of("padding", options.take("padding", "valid"), kinds)
    return found


def _channels_first(options: Options) -> bool:
    layout = options.take("data_format") or "channels_last"
    return bool(one_of("data_format", layout, ("channels_last", "channels_first")) == "channels_first")


def _sizes(key: str, given: Any, count: int) -> list[int]:
    """Return `count` sizes from one, or a list of them."""
    sizes = given if isinstance(given, list) else [given] * count
    if len(sizes) != count:
        raise Unsupported(f"{key} {short(given)}")
    sizes = [positive_int(key, size) for size in sizes]
    if math.prod(sizes) > _LARGEST:
        raise Unsupported(f"{key} {short(given)}")
    return sizes


def _pair(key: str, given: Any) -> tuple[int, int]:
    pair = given if isinstance(given, list) else [given, given]
    if len(pair) != 2 or not all(type(size) is int and 0 <= size <= _LARGEST for size in pair):
        raise Unsupported(f"{key} {short(given)}")
    return pair[0], pair[1]


def _axes(options: Options) -> list[int]:
    given = options.take("axis", -1)
    axes = given if isinstance(given, list) else [given]
    if not axes or not all(type(axis) is int and -32 <= axis <= 32 and axis != 0 for axis in axes):
        raise Unsupported(f"axis {short(given)}")
    return axes


def _is_last(axes: list[int], rank: int | None) -> bool:
    return axes == [-1] or (rank is not None and axes == [rank - 1])
