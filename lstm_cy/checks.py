"""What every entry point asks of its arguments, in one wording: the name, what was expected, what came."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

if TYPE_CHECKING:
    from .typing import Array, Bools, DTypeLike, Ints

DTYPES = ("float32", "float64")


def dtype_of(dtype: Any) -> np.dtype[Any]:
    """`dtype` as a NumPy dtype; float32 and float64 are the ones there are kernels for."""
    found: np.dtype[Any] | None
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        raise ValueError(f"dtype: expected 'float32' or 'float64', got {dtype!r}")
    return found


def positive_int(name: str, value: object) -> int:
    """`value` as an int of at least 1."""
    return _int(name, value, 1)


def non_negative_int(name: str, value: object) -> int:
    """`value` as an int of at least 0."""
    return _int(name, value, 0)


def int_within(name: str, value: object, low: int, high: int) -> int:
    """`value` as an int of `low` to `high`."""
    value = _int(name, value, -np.inf)
    if not low <= value <= high:
        raise ValueError(f"{name}: expected {low} to {high}, got {value}")
    return value


def _int(name: str, value: object, least: float) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
    return int(value)


def number(
    name: str,
    value: object,
    low: float = -np.inf,
    high: float = np.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """`value` as a float within [low, high]; an open end excludes its bound."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a number, got {value!r} ({type(value).__name__})")
    value = float(value)
    inside = (value > low if open_low else value >= low) and (value < high if open_high else value <= high)
    if not inside:
        interval = f"{'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
        raise ValueError(f"{name}: expected a number in {interval}, got {value}")
    return value


def flag(name: str, value: object) -> bool:
    """`value` as a bool; anything but True and False is refused, so that a misplaced argument is noticed."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {value!r} ({type(value).__name__})")
    return bool(value)


def real_array(name: str, value: object) -> Array:
    """`value` as an array of real numbers of any dtype; complex numbers, objects and strings are refused."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{name}: expected an array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    return array


def float_array(name: str, value: object, dtype: DTypeLike) -> Array:
    """`value` as a C-contiguous array of `dtype`, converted where NumPy's ``same_kind`` rule allows it.

    An array that already is one comes back itself, not a copy.
    """
    if type(value) is np.ndarray and value.dtype == dtype and value.flags.c_contiguous:  # as it mostly comes
        return value
    array = real_array(name, value)
    # ascontiguousarray would turn a scalar into a vector of one; asarray keeps the rank.
    return np.asarray(array, dtype=dtype, order="C")


def flag_array(name: str, value: object) -> Bools:
    """`value` as an array of bools; numbers are refused."""
    array = np.asarray(value)
    if array.dtype != np.bool_:
        raise TypeError(f"{name}: expected bools, got dtype {array.dtype}")
    return array


def int_array(name: str, value: object) -> Ints:
    """`value` as an intp array; floats, even whole ones, and bools are refused."""
    array = np.asarray(value)
    if array.size == 0 and array.dtype.kind == "f":  # an empty list has no dtype of its own
        array = array.astype(np.intp)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    return array.astype(np.intp, copy=False)


def expect_shape(name: str, array: Array, shape: tuple[int, ...], meaning: str) -> None:
    """Raise unless `array` has `shape`; `meaning` names the axes, such as "(T, B, I)"."""
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {meaning} = {shape}, got {array.shape}")


def pair_of(name: str, value: Any, meaning: str) -> tuple[Any, Any]:
    """`value`, a tuple or list of two; `meaning` names them, such as "(h, c)"."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:  # a union of types takes twice as long
        raise TypeError(f"{name}: expected a pair {meaning}, got {type(value).__name__}")
    return value[0], value[1]


def refuse_out(out: object, dtype: DTypeLike, shape: tuple[int, ...], meaning: str) -> NoReturn:
    """Raise why no result of `dtype` and `shape` can be written to `out`."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected a NumPy array, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out: expected dtype {dtype}, got {out.dtype}")
    expect_shape("out", out, shape, meaning)
    raise ValueError("out: expected a C-contiguous, aligned and writable array, got one that is not")


def check_lengths(lengths: object, rows: int | None, steps: int) -> Ints:
    """`lengths` as an intp array (rows,) of 0 to `steps`; for one sequence, `rows` None, a scalar."""
    lengths = int_array("lengths", lengths)
    expect_shape("lengths", lengths, () if rows is None else (rows,), "()" if rows is None else "(B,)")
    outside = (lengths < 0) | (lengths > steps)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(f"lengths: expected 0 to T = {steps}, got {lengths.flat[row]} at row {row}")
    return lengths


def generator(name: str, value: Any) -> np.random.Generator:
    """A NumPy Generator from a Generator, an integer seed, or None for a fresh one."""
    if value is None or isinstance(value, np.random.Generator):
        return np.random.default_rng(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 0:
        return np.random.default_rng(int(value))
    raise TypeError(f"{name}: expected None, a non-negative integer or a numpy Generator, got {value!r}")
