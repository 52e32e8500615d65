"""The layers of Keras that are read: a reader for each class.

A reader takes a layer's options and its location, and returns the Part that it becomes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from ...checks import number
from ...layers.dropout import Dropout
from ...layers.embedding import Embedding
from ...layers.linear import Linear
from ...layers.masking import Masking
from ...layers.sequential import Sequential
from . import functions, merging, recurrent, spatial
from .config import Unsupported, short, split, text_of
from .options import ACTIVATION_LAYERS, Options
from .parts import Part, activation_layers, drops_mask, keeps_mask, loaded

if TYPE_CHECKING:
    from ...layers.base import Layer
    from .parts import Made, Source
    from .weights import Location

#: reads a class of Keras
Reader: TypeAlias = "Callable[[Options, Location], Part]"

#: layers that act on the last axis alone, so that TimeDistributed changes nothing
_POINTWISE = {"Dense", "Dropout", "LayerNormalization", "BatchNormalization", *ACTIVATION_LAYERS}
_LEFT_OUT = ("SpatialDropout1D", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout")


def _embedding(options: Options, location: Location) -> Part:
    dtype, sizes = options.dtype(tokens=True), (options.size("input_dim"), options.size("output_dim"))
    mask_zero = options.flag("mask_zero")
    kind = "kernel" if options.major == "1" else "embeddings"

    def make(source: Source) -> Made:
        (weight,) = source.take(location, {kind: sizes}).values()
        return [loaded(Embedding.blank(*sizes, mask_zero=mask_zero, dtype=dtype), {"weight": weight})]

    return Part(
        make,
        lambda masks, inputs, given: masks.not_equal(inputs[0], 0) if mask_zero else None,
        rank=lambda rank: None if rank is None else rank + 1,
    )


def _masking(options: Options, location: Location) -> Part:
    dtype, value = options.dtype(), number("mask_value", options.take("mask_value", 0.0))
    return Part(
        lambda source: [Masking(value, dtype=dtype)],
        lambda masks, inputs, given: masks.any(masks.not_equal(inputs[0], value)),
    )


def _dense(options: Options, location: Location) -> Part:
    dtype, units, bias = options.dtype(), options.size("units"), options.flag("use_bias", True)
    after = activation_layers(options.function("activation"))

    def make(source: Source) -> Made:
        shapes: dict[str, tuple[int | None, ...]] = {"kernel": (source.features, units)}
        arrays = source.take(location, shapes | ({"bias": (units,)} if bias else {}))
        parameters = {"weight": arrays["kernel"].T} | ({"bias": arrays["bias"]} if bias else {})
        linear = Linear.blank(len(arrays["kernel"]), units, bias=bias, dtype=dtype)
        return [loaded(linear, parameters), *after]

    return Part(make, keeps_mask)


def _time_distributed(options: Options, location: Location) -> Part:
    kind, config = split(options.take("layer"))
    inner = location._replace(name=text_of(config, "name"), path=f"{location.path}/layer")
    part = read_layer(kind, config, options.version, inner)
    if part.outputs > 1:
        raise Unsupported(f"TimeDistributed of {kind} with {part.outputs} outputs")

    def make(source: Source) -> Made:
        source.rank = None if source.rank is None else source.rank - 1
        made = part.make(source)
        if kind in _POINTWISE and isinstance(made, list):
            return made
        step = partial(functions.chain, layers=made) if isinstance(made, list) else made
        return partial(functions.time_distributed, step=step)

    def rank(outer: int | None) -> int | None:
        inside = part.rank(None if outer is None else outer - 1)
        return None if inside is None else inside + 1

    return Part(make, keeps_mask, rank=rank)


def time_distributed_model(make: Callable[[Source], Any], name: str) -> Part:
    """Return what a TimeDistributed of a model becomes; `make` makes the model."""

    def distributed(source: Source) -> Made:
        made = make(source)
        step = partial(functions.model, model=made, states=isinstance(made, Sequential))
        return partial(functions.time_distributed, step=step)

    def masked(source: Source) -> Made:
        raise ValueError(f"not supported: {name}: a TimeDistributed of a model with a masked input")

    return Part(distributed, drops_mask, rank=lambda rank: None, uses_mask=True, masked=masked)


def _activation(kind: str, options: Options, location: Location) -> Part:
    function = ACTIVATION_LAYERS[kind](options)

    def make(source: Source) -> Made:
        return activation_layers(function)

    return Part(make, keeps_mask)


def _softmax(options: Options, location: Location) -> Part:
    axis = options.take("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if type(axis) is not int or not -32 <= axis <= 32 or axis == 0:
        raise Unsupported(f"axis {short(axis)}")
    function = partial(functions.softmax, axis=axis)

    def make(source: Source) -> Made:
        return function if axis != -1 else activation_layers(("softmax",))

    # the first versions pass the mask on and do not use it
    return Part(make, keeps_mask, uses_mask=not options.is_standalone, masked=lambda source: function)


def _dropout(options: Options, location: Location) -> Part:
    p = number("rate", options.take("rate"), 0.0, 1.0)
    layers: list[Layer] = [Dropout(p)] if options.take("noise_shape") is None else []
    return Part(lambda source: layers, keeps_mask)


def _left_out(options: Options, location: Location) -> Part:
    return Part(lambda source: [], keeps_mask)


def read_layer(kind: str, config: dict[str, Any], version: str | None, location: Location) -> Part:
    """Return what a layer becomes; raise Unsupported for another class, and for options that are not known."""
    if kind not in READERS:
        raise Unsupported(f"layer {kind}")
    options = Options(kind, config, version)
    part = READERS[kind](options, location)
    options.finish()
    return part


def _several(name: str, counts: tuple[int, ...], *arguments: Any) -> dict[str, Reader]:
    """Return readers of the classes of several numbers of axes, such as Conv1D and Conv2D."""
    *most, last = arguments
    return {f"{name}{count}D": partial(last, *most, count) for count in counts}


# The supported layers. No other object is looked up by a name from a file.
READERS: dict[str, Reader] = {
    "Embedding": _embedding,
    "Masking": _masking,
    "Dense": _dense,
    "TimeDistributed": _time_distributed,
    "Dropout": _dropout,
    **{kind: partial(recurrent.lstm, kind) for kind in recurrent.LSTMS},
    "Bidirectional": recurrent.bidirectional,
    **{kind: partial(_activation, kind) for kind in ACTIVATION_LAYERS},
    "Softmax": _softmax,
    **dict.fromkeys([*_LEFT_OUT, "ActivityRegularization", "Identity"], _left_out),
    **_several("Conv", (1, 2, 3), spatial.conv),
    **_several("SeparableConv", (1, 2), spatial.separable),
    **_several("DepthwiseConv", (1, 2), spatial.depthwise),
    **_several("MaxPooling", (1, 2, 3), "max", spatial.pool),
    **_several("AveragePooling", (1, 2, 3), "average", spatial.pool),
    **_several("GlobalMaxPooling", (1, 2, 3), "max", spatial.global_pool),
    **_several("GlobalAveragePooling", (1, 2, 3), "average", spatial.global_pool),
    **_several("ZeroPadding", (1, 2), functions.pad, "padding", spatial.resize),
    **_several("Cropping", (1, 2), functions.crop, "cropping", spatial.resize),
    **_several("UpSampling", (1, 2), spatial.upsample),
    "BatchNormalization": spatial.batch_normalization,
    "LayerNormalization": spatial.layer_normalization,
    "Flatten": spatial.flatten,
    "Reshape": spatial.reshape,
    "Permute": spatial.permute,
    "RepeatVector": spatial.repeat_vector,
    **{kind: partial(merging.merge, kind) for kind in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")},
    "Merge": merging.legacy_merge,
    "Concatenate": merging.concatenate,
    "Dot": merging.dot,
    "Attention": merging.attention,
    "AdditiveAttention": merging.additive_attention,
}
