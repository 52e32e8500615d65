"""Checks of arguments, whose messages have one form: the argument's name, the expected value, the given value."""

from __future__ import annotations

import numbers
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

    from .typing import Array, Bools, DTypeLike, Ints

DTYPES = ("float32", "float64")
#: the longest side of a weight matrix, because BLAS takes sizes as int
LARGEST_SIDE = 2**31 - 1
LONGEST = 80  # characters of a value in a message
_NO_NUMBERS = (bool, np.timedelta64)  # refused, although Python or NumPy registers them as integers


def shown(value: object) -> str:
    """Return the repr of `value` for a message, cut to a limited length."""
    try:
        text = repr(value)
    except Exception:  # raised for integers of thousands of digits and by faulty classes
        return f"{type(value).__name__} without a representation"
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def dtype_of(dtype: Any) -> np.dtype[Any]:
    """Return `dtype` as a NumPy dtype in native byte order; only float32 and float64 have kernels."""
    try:
        name = np.dtype(dtype).name
    except Exception:  # NumPy parses strings: besides TypeError it raises SyntaxError, UnicodeError, RecursionError
        name = None
    if name not in DTYPES:
        raise ValueError(f"dtype: expected 'float32' or 'float64', got {shown(dtype)}")
    found: np.dtype[Any] = np.dtype(name)
    return found


def positive_int(name: str, value: object) -> int:
    """Return `value` as an int of at least 1."""
    return _int(name, value, 1)


def non_negative_int(name: str, value: object) -> int:
    """Return `value` as an int of at least 0."""
    return _int(name, value, 0)


def int_within(name: str, value: object, low: int, high: int) -> int:
    """Return `value` as an int from `low` to `high`."""
    value = _integral(name, value)
    if not low <= value <= high:
        raise ValueError(f"{name}: expected {low} to {high}, got {shown(value)}")
    return value


def _int(name: str, value: object, least: int) -> int:
    value = _integral(name, value)
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {shown(value)}")
    if value > sys.maxsize:  # the kernels count in Py_ssize_t
        raise ValueError(f"{name}: expected at most {sys.maxsize}, got {shown(value)}")
    return value


def _integral(name: str, value: object) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, _NO_NUMBERS):
        raise TypeError(f"{name}: expected an integer, got {shown(value)} ({type(value).__name__})")
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
    """Return `value` as a float within [low, high]; an open end excludes its bound. NaN is refused."""
    if not isinstance(value, numbers.Real) or isinstance(value, _NO_NUMBERS):
        raise TypeError(f"{name}: expected a number, got {shown(value)} ({type(value).__name__})")
    try:
        result = float(value)
    except OverflowError:  # an integer or a fraction
        raise ValueError(f"{name}: expected a number that float64 can hold, got {shown(value)}") from None
    inside = (result > low if open_low else result >= low) and (result < high if open_high else result <= high)
    if not inside:
        interval = f"{'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
        raise ValueError(f"{name}: expected a number in {interval}, got {result}")
    return result


def flag(name: str, value: object) -> bool:
    """Return `value` as a bool; only True and False are accepted, so that a misplaced argument is noticed."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {shown(value)} ({type(value).__name__})")
    return bool(value)


def one_of(name: str, value: Any, choices: Collection[str | None]) -> Any:
    """Return `value` if it is one of `choices`, which are strings or None."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"{name}: expected {', '.join(others)} or {last}, got {shown(value)}")
    return value


def file_path(name: str, value: object) -> str:
    """Return `value`, a str or an os.PathLike, as a str."""
    path = value.__fspath__() if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise TypeError(f"{name}: expected a str or an os.PathLike of str, got {shown(value)} ({type(value).__name__})")
    if "\0" in path:
        raise ValueError(f"{name}: expected a path without a null character, got {shown(path)}")
    return path


def real_array(name: str, value: object, expected: str = "real numbers") -> Array:
    """Return `value` as an aligned array of real numbers of any dtype, in native byte order.

    Complex numbers, objects and strings are refused; `expected` describes the numbers in the message.
    """
    if type(value) is np.ndarray and value.dtype.kind == "f" and value.dtype.isnative and value.flags.aligned:
        return value  # the usual case
    array = _array(name, value, "biuf", expected)
    if array.dtype.isnative and array.flags.aligned:
        return array
    return array.astype(array.dtype.newbyteorder("="))


def float_array(name: str, value: object, dtype: DTypeLike) -> Array:
    """Return `value` as a C-contiguous, aligned array of `dtype`, converted by NumPy's ``same_kind`` rule.

    An array that already fits is returned itself, not a copy. A number too large for `dtype` is refused.
    """
    if type(value) is np.ndarray and value.dtype == dtype:  # the usual case
        flags = value.flags
        if flags.carray or (flags.c_contiguous and flags.aligned):  # carray means writable, too
            return value
    array, dtype = real_array(name, value), np.dtype(dtype)
    # ascontiguousarray would turn a scalar into a vector of length 1; asarray keeps the rank.
    if array.dtype.itemsize <= dtype.itemsize or array.dtype.kind != "f":
        return np.asarray(array, dtype=dtype, order="C")
    try:
        with np.errstate(over="raise"):
            return np.asarray(array, dtype=dtype, order="C")
    except FloatingPointError:
        finite = np.abs(array[np.isfinite(array)])
        raise ValueError(f"{name}: expected numbers that {dtype} can hold, got {finite.max()}") from None


def any_array(name: str, value: object, expected: str) -> Array:
    """Return `value` as an array of any dtype but object; `expected` describes it in the message."""
    return _array(name, value, "biufcmMSU", expected)


def flag_array(name: str, value: object) -> Bools:
    """Return `value` as a C-contiguous array of bools, always a copy; numbers are refused."""
    return np.array(_array(name, value, "b", "bools"), bool, order="C")


def int_array(name: str, value: object) -> Ints:
    """Return `value` as a C-contiguous intp array; bools and floats, even whole ones, are refused.

    The array is always a copy, so that another thread cannot change it between the check and its use as an index.
    """
    if type(value) is np.ndarray and value.dtype == np.intp:
        return value.copy()
    array = _array(name, value, "iu", "integers")
    if array.dtype.kind == "u" and array.size and (largest := int(array.max())) > sys.maxsize:
        raise ValueError(f"{name}: expected at most {sys.maxsize}, got {largest}")
    return array.astype(np.intp, order="C")


def _array(name: str, value: object, kinds: str, expected: str) -> Array:
    """Return `value` as an array whose dtype's kind is one of `kinds`."""
    try:
        array = np.asanyarray(value)
    except MemoryError:
        raise
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{name}: expected an array: {str(error)[:200]}") from None
    except Exception as error:  # raised by __array__, for example of a PyTorch tensor that requires grad
        raise TypeError(f"{name}: expected an array, got {type(value).__name__}: {str(error)[:200]}") from error
    if array.dtype.kind not in kinds and (array.size or array.dtype != np.float64):  # an empty list gives float64
        raise TypeError(f"{name}: expected {expected}, got dtype {array.dtype}")
    if type(array) is np.ndarray and not isinstance(value, (list, tuple)):
        return array
    if _is_masked(array) or _is_masked(value):  # NumPy would drop the mask silently
        raise ValueError(f"{name}: expected no masked elements, got some; replace them with x.filled(value)")
    return np.asarray(array)


def _is_masked(value: Any) -> bool:
    """Return whether elements are masked in `value`, a masked array or a list that may hold one."""
    ma = sys.modules.get("numpy.ma")  # if it was never imported there are no masked arrays
    if ma is None or type(value) is np.ndarray:
        return False
    if isinstance(value, ma.MaskedArray):
        return bool(ma.is_masked(value))
    if not isinstance(value, (list, tuple)):
        return False
    kinds = set(map(type, value)) - {int, float, np.ndarray}  # usually empty
    return any(issubclass(kind, (list, tuple, ma.MaskedArray)) for kind in kinds) and any(
        _is_masked(part) for part in value if isinstance(part, (list, tuple, ma.MaskedArray))
    )


def expect_shape(name: str, array: Array, shape: tuple[int, ...], meaning: str) -> None:
    """Raise unless `array` has `shape`; `meaning` names the axes, such as "(T, B, I)"."""
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {meaning} = {shape}, got {array.shape}")


def pair_of(name: str, value: Any, meaning: str) -> tuple[Any, Any]:
    """Return the two items of a tuple or list; `meaning` names them, such as "(h, c)"."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:  # isinstance with a union takes twice as long
        raise TypeError(f"{name}: expected a pair {meaning}, got {type(value).__name__}")
    return value[0], value[1]


def refuse_out(out: object, dtype: DTypeLike, shape: tuple[int, ...], meaning: str) -> NoReturn:
    """Raise the error for an `out` that cannot hold a result of `dtype` and `shape`."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected a NumPy array, got {type(out).__name__}")
    if isinstance(out, np.matrix | np.ma.MaskedArray):  # they would change the result's shape or hide elements
        raise TypeError(f"out: expected a plain NumPy array, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out: expected dtype {dtype}, got {out.dtype}")
    expect_shape("out", out, shape, meaning)
    raise ValueError("out: expected a C-contiguous, aligned and writable array, got one that is not")


def check_lengths(lengths: object, rows: int | None, steps: int) -> Ints:
    """Return `lengths` as an intp array (rows,) of 0 to `steps`; a scalar for one sequence, where `rows` is None."""
    lengths = int_array("lengths", lengths)
    if rows is None and lengths.ndim:
        raise ValueError(f"lengths: expected a number for one sequence, got an array of shape {lengths.shape}")
    expect_shape("lengths", lengths, () if rows is None else (rows,), "(B,)")
    outside = (lengths < 0) | (lengths > steps)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(f"lengths: expected 0 to T = {steps}, got {lengths.flat[row]} at row {row}")
    return lengths


def generator(name: str, value: Any) -> np.random.Generator:
    """Return a NumPy Generator from a Generator, an integer seed, or None for a new random seed."""
    if isinstance(value, np.random.Generator):
        return value
    if value is None:
        return np.random.default_rng()
    if isinstance(value, numbers.Integral) and not isinstance(value, _NO_NUMBERS) and int(value) >= 0:
        return np.random.default_rng(int(value))
    raise TypeError(f"{name}: expected None, a non-negative integer or a numpy Generator, got {shown(value)}")


def warn(message: str) -> None:
    """Issue a UserWarning at the line outside the package that called into it, at any call depth."""
    package, level, frame = os.path.dirname(__file__) + os.sep, 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
