"""Keras's layers of several inputs: merging, attention, and the operations of Keras 3."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ...checks import one_of
from . import functions
from .config import Unsupported, short
from .parts import Part, drops_mask, keeps_mask

if TYPE_CHECKING:
    from .options import Options
    from .parts import Made, Source
    from .weights import Location


def merge(kind: str, options: Options, location: Location) -> Part:
    make, masked = (partial(function, kind=kind) for function in (functions.merge, functions.merge_unmasked))
    leaves_out = kind in ("Multiply", "Maximum", "Minimum") and options.major == "3"
    return Part(
        lambda source: make,
        lambda masks, inputs, given: masks.merged(given),
        uses_mask=leaves_out,
        masked=(lambda source: masked) if leaves_out else None,
    )


def concatenate(options: Options, location: Location) -> Part:
    axis = options.take("axis", -1)
    if type(axis) is not int or not -32 <= axis <= 32:
        raise Unsupported(f"axis {short(axis)}")
    make = partial(functions.concatenate, axis=axis)
    return Part(lambda source: make, lambda masks, inputs, given: masks.concatenated(inputs, given, axis))


_LEGACY_MODES = {"sum": "Add", "mul": "Multiply", "ave": "Average", "max": "Maximum"}


def legacy_merge(options: Options, location: Location) -> Part:
    """Read the one layer of Keras 1 that merges."""
    mode = options.take("mode")
    if options.take("mode_type", "raw") != "raw" or not (mode == "concat" or mode in _LEGACY_MODES):
        raise Unsupported(f"mode {short(mode)}")
    axis = options.take("concat_axis", -1)
    for key in ("dot_axes", "output_shape_type", "output_mask_type", "arguments"):
        options.take(key)
    if mode != "concat":
        return merge(_LEGACY_MODES[mode], options, location)
    return concatenate(options.inner("Concatenate", {"axis": axis}), location)


def dot(options: Options, location: Location) -> Part:
    given = options.take("axes")
    axes = given if isinstance(given, list) else [given, given]
    if len(axes) != 2 or not all(type(axis) is int for axis in axes):
        raise Unsupported(f"axes {short(given)}")
    make = partial(functions.dot, axes=(axes[0], axes[1]), normalize=options.flag("normalize"))
    return Part(lambda source: make, drops_mask, rank=lambda rank: None)


def attention(options: Options, location: Location) -> Part:
    scaled = options.flag("use_scale")
    score = one_of("score_mode", options.take("score_mode", "dot"), ("dot", "concat"))
    causal = options.flag("causal")
    options.dtype()

    def make(source: Source) -> Made:
        kinds = [*(["scale"] if scaled else []), *(["concat_score_weight"] if score == "concat" else [])]
        arrays = source.take(location, dict.fromkeys(kinds, ()))
        weight = arrays.get("concat_score_weight")
        return partial(functions.attention, score=score, scale=arrays.get("scale"), weight=weight, causal=causal)

    return Part(make, keeps_mask, uses_mask=True)


def additive_attention(options: Options, location: Location) -> Part:
    scaled, causal = options.flag("use_scale", True), options.flag("causal")
    options.dtype()

    def make(source: Source) -> Made:
        arrays = source.take(location, {"scale": (None,)} if scaled else {})
        return partial(functions.attention, score="additive", scale=arrays.get("scale"), weight=None, causal=causal)

    return Part(make, keeps_mask, uses_mask=True)


_DTYPES = ("bool", "int32", "int64", "float32", "float64")


def operation(kind: str, config: dict[str, Any], constants: tuple[tuple[int, Any], ...]) -> Part:
    """Return an operation of Keras 3 that a model applies to arrays and constants."""
    options = {key: _option(key, config.get(key)) for key in functions.OPERATIONS[kind] if config.get(key) is not None}
    if kind == "GetItem":  # its second argument is no array
        ((_, options["key"]),), constants = constants, ()
    make = partial(functions.operation, kind=kind, constants=constants, **options)
    return Part(lambda source: make, drops_mask, rank=lambda rank: None)


def _option(key: str, value: Any) -> Any:
    """Return an option of an operation: a dtype, a flag, an axis or several, or the sizes of an array."""
    if isinstance(value, dict) and value.get("class_name") == "__tuple__":
        value = value.get("items")
    several = value if isinstance(value, list) else [value]
    if key == "dtype":
        fits = value in _DTYPES
    else:
        limit = 2**31 if key == "newshape" else 32
        fits = key != "initial" and len(several) <= 32 and all(type(one) in (int, bool) for one in several)
        fits = fits and all(-32 <= one <= limit for one in several)
    if not fits:
        raise Unsupported(f"{key} {short(value)}")
    return tuple(value) if isinstance(value, list) else value
