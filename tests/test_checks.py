"""The arguments that checks.py accepts and refuses; every message names the argument."""

import fractions
import functools
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from common import other_layouts

from lstm_cy import LSTM, StreamPool, checks

VALUES = np.arange(24.0).reshape(2, 3, 4)


def layouts(array):
    """Return the same values in every layout, and as a masked array and a list."""
    masked = np.ma.masked_array(array, np.zeros(array.shape, bool))
    others = other_layouts(array)
    assert not (others[0].dtype.isnative or others[1].flags.c_contiguous or others[3].flags.aligned)
    return [array, *others, np.asfortranarray(array), masked, array.tolist()]


class Raises:
    """An object whose conversion to an array raises an error."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


def arrays_without_numbers():
    """Return [(value, error)] of values that every check of arrays refuses."""
    masked = np.ma.masked_array([1, 2], [False, True])
    return [
        ("a", TypeError),
        (["a", "b"], TypeError),
        (np.array([b"a"]), TypeError),
        (None, TypeError),
        (object(), TypeError),
        ([None, 1], TypeError),
        ({}, TypeError),
        (np.array([1, 2], object), TypeError),
        (1j, TypeError),
        (np.array([1j]), TypeError),
        (np.array(["2020-01-01"], "datetime64[D]"), TypeError),
        (np.zeros(2, "f4,f4"), TypeError),
        ([[1], [1, 2]], ValueError),
        (masked, ValueError),
        ([[1, 2], masked], ValueError),
        (np.ma.masked_array([1.0, 2.0], [False, True]), ValueError),
        (np.ma.masked_array([True, False], [False, True]), ValueError),
        (Raises(ValueError("no array")), ValueError),
        (Raises(TypeError("no array")), TypeError),
        (Raises(RuntimeError("no array")), TypeError),
        (Raises(ZeroDivisionError("no array")), TypeError),
    ]


CHECKS_OF_ARRAYS = [
    checks.real_array,
    lambda name, value: checks.float_array(name, value, np.dtype("float32")),
    checks.int_array,
    checks.flag_array,
]


@pytest.mark.parametrize("check", CHECKS_OF_ARRAYS, ids=["real", "float", "int", "flag"])
@pytest.mark.parametrize(("value", "error"), arrays_without_numbers())
def test_values_that_are_not_numbers_are_refused_by_name(check, value, error):
    with pytest.raises((TypeError, ValueError), match="^it: expected ") as raised:
        check("it", value)
    if check is not checks.flag_array and check is not checks.int_array:
        assert type(raised.value) is error


@pytest.mark.parametrize("place", range(9))
def test_any_layout_and_byte_order_gives_the_same_array(place):
    array = layouts(VALUES)[place]
    for dtype in ("float32", "float64"):
        found = checks.float_array("it", array, np.dtype(dtype))
        assert found.dtype == dtype and found.dtype.isnative
        assert found.flags.c_contiguous and found.flags.aligned
        np.testing.assert_array_equal(found, VALUES)
    found = checks.real_array("it", array)
    assert type(found) is np.ndarray
    assert found.dtype == np.float64 and found.dtype.isnative and found.flags.aligned
    np.testing.assert_array_equal(found, VALUES)


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.intp, np.uint64])
def test_integers_of_any_layout_are_copied(dtype, place):
    values = np.arange(24).reshape(2, 3, 4)
    kinds = [np.int16 if dtype is np.int8 else dtype]  # a byte has no order
    array = layouts(values.astype(kinds[0]))[place]
    found = checks.int_array("it", array)
    assert found.dtype == np.intp and found.flags.c_contiguous and found.flags.aligned and found.flags.writeable
    assert not np.shares_memory(found, array)
    np.testing.assert_array_equal(found, values)


def test_flags_are_copied():
    flags = np.array([[True, False], [False, False]])
    for array in (flags, np.asfortranarray(flags), np.broadcast_to(flags, (3, 2, 2))[1], flags.tolist()):
        found = checks.flag_array("it", array)
        assert found.flags.c_contiguous and found.flags.writeable
        assert not np.shares_memory(found, array)
        np.testing.assert_array_equal(found, flags)


def test_a_float_array_that_fits_is_returned_itself():
    for array in (np.zeros((2, 3)), np.broadcast_to(np.zeros(3), (1, 3))):
        assert checks.float_array("it", array, np.dtype("float64")) is array


@pytest.mark.parametrize("value", [2**63, [2**64 - 1], np.array([0, 2**63], np.uint64), np.array([2**64 - 1], ">u8")])
def test_integers_beyond_int64_do_not_wrap_around(value):
    with pytest.raises(ValueError, match=r"^it: expected at most 9223372036854775807, got (9|18)\d+$"):
        checks.int_array("it", value)
    assert checks.int_array("it", np.uint64(2**63 - 1)) == 2**63 - 1


def test_numbers_too_large_for_the_dtype_are_refused():
    for value in (1e300, [0.0, -1e39], np.array([[1e300, np.nan]], ">f8")):
        with pytest.raises(ValueError, match=r"^it: expected numbers that float32 can hold, got 1e\+3"):
            checks.float_array("it", value, np.dtype("float32"))
    given = [np.inf, -np.inf, np.nan, 1e-300, 3e38]
    found = checks.float_array("it", given, np.dtype("float32"))
    np.testing.assert_array_equal(found, np.array([np.inf, -np.inf, np.nan, 0, 3e38], np.float32))


def test_an_empty_list_is_an_empty_array_of_any_kind():
    assert checks.int_array("it", []).dtype == np.intp
    assert checks.flag_array("it", []).dtype == bool
    assert checks.real_array("it", [[], []]).shape == (2, 0)


def test_tensors_that_require_grad_are_refused():
    torch = pytest.importorskip("torch")
    tensor = torch.ones(3, requires_grad=True)
    for check in CHECKS_OF_ARRAYS:
        with pytest.raises(TypeError, match="^it: expected an array, got Tensor: .*detach"):
            check("it", tensor)
    assert checks.float_array("it", tensor.detach(), np.dtype("float32")).tolist() == [1, 1, 1]


def test_memory_errors_are_not_converted():
    for check in CHECKS_OF_ARRAYS:
        with pytest.raises(MemoryError):
            check("it", Raises(MemoryError()))


@pytest.mark.parametrize(
    "dtype",
    [
        "(,)f4",
        "f4,f4",
        "(2,)f4",
        "\udc80",
        "",
        "float16",
        ["f4"],
        {},
        {"names": ["a"]},
        ("f4", 3),
        3,
        object(),
        "(" * 10_000,
        10**5000,
        np.complex64,
    ],
    ids=itertools.count(),
)
def test_dtypes_are_refused_by_name(dtype):
    with pytest.raises(ValueError, match="^dtype: expected 'float32' or 'float64', got ") as raised:
        checks.dtype_of(dtype)
    assert len(str(raised.value)) < 200


def test_dtypes_have_native_byte_order():
    for dtype in ("f4", ">f4", "<f4", np.float32, np.dtype("f4"), "single"):
        assert checks.dtype_of(dtype) == np.dtype("float32")
        assert checks.dtype_of(dtype).isnative


@pytest.mark.parametrize(
    ("check", "value", "error"),
    [
        (checks.number, 10**400, ValueError),
        (checks.number, -(10**400), ValueError),
        (checks.number, 10**5000, ValueError),
        (checks.number, fractions.Fraction(10**400), ValueError),
        (checks.number, float("nan"), ValueError),
        (checks.number, np.float32("nan"), ValueError),
        (checks.number, True, TypeError),
        (checks.number, np.True_, TypeError),
        (checks.number, "1", TypeError),
        (checks.number, 1j, TypeError),
        (checks.number, np.timedelta64(3, "ns"), TypeError),
        (checks.positive_int, np.timedelta64(3, "s"), TypeError),
        (checks.generator, np.timedelta64(3, "s"), TypeError),
        (checks.number, np.ones(1), TypeError),
        (checks.number, [1.0] * 100_000, TypeError),
        (checks.positive_int, 0, ValueError),
        (checks.positive_int, 2**63, ValueError),
        (checks.positive_int, 10**5000, ValueError),
        (checks.positive_int, -(10**5000), ValueError),
        (checks.positive_int, 1.0, TypeError),
        (checks.positive_int, "x" * 100_000, TypeError),
        (checks.non_negative_int, -1, ValueError),
        (checks.non_negative_int, False, TypeError),
        (checks.flag, "False", TypeError),
        (checks.flag, 0, TypeError),
        (checks.flag, np.array([True]), TypeError),
        (checks.generator, 1.0, TypeError),
        (checks.generator, "x" * 100_000, TypeError),
    ],
    ids=itertools.count(),
)
def test_scalars_are_refused_by_name_in_a_short_message(check, value, error):
    with pytest.raises(error, match="^it: expected ") as raised:
        check("it", value)
    assert len(str(raised.value)) < 200


def test_integers_outside_bounds_are_refused():
    for value in (-(10**5000), -4, 5, 10**5000):
        with pytest.raises(ValueError, match="^it: expected -3 to 4, got ") as raised:
            checks.int_within("it", value, -3, 4)
        assert len(str(raised.value)) < 200
    assert checks.int_within("it", np.int8(-3), -3, 4) == -3
    assert checks.positive_int("it", sys.maxsize) == sys.maxsize


def test_the_length_of_one_sequence_must_be_a_scalar():
    with pytest.raises(ValueError, match=r"lengths: expected a number for one sequence, got an array of shape \(2,\)"):
        checks.check_lengths([1, 2], None, 3)
    assert checks.check_lengths(2, None, 3).shape == ()


def test_checked_lengths_are_a_copy():
    lengths = np.array([3, 2])
    found = checks.check_lengths(lengths, 2, 3)
    lengths[0] = 10**9
    assert found.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (b"a.npz", TypeError, "path: expected a str or an os.PathLike of str, got b'a.npz'"),
        (3, TypeError, "path: expected a str or an os.PathLike of str, got 3"),
        (None, TypeError, "path: expected a str"),
        ("a\0.npz", ValueError, "path: expected a path without a null character"),
    ],
)
def test_invalid_paths_are_refused(value, error, message):
    with pytest.raises(error, match=message):
        checks.file_path("path", value)


def test_valid_paths_are_returned_as_str():
    assert checks.file_path("path", "a.npz") == checks.file_path("path", Path("a.npz")) == "a.npz"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_calls_refuse_masked_arrays(dtype):
    lstm = LSTM(2, 3, dtype=dtype, seed=0)
    stepper, pool = lstm.stepper(), StreamPool(lstm)
    ids = [pool.join()]
    masked = np.ma.masked_array(np.ones((1, 2), dtype), [[True, False]])
    out = np.ma.masked_array(np.zeros((1, 3), dtype), True)
    for call, x in ((stepper.step, "x_t"), (functools.partial(pool.step, ids), "x")):
        with pytest.raises(ValueError, match=f"^{x}: expected no masked elements"):
            call(masked)
        with pytest.raises(TypeError, match="^out: expected a plain NumPy array, got MaskedArray"):
            call(masked.data, out=out)
        assert not out.data.any()
        kept = np.zeros((1, 3), dtype).view(np.memmap)  # any other subclass may be written to
        call(np.ma.masked_array(masked.data, False), out=kept)
        assert kept.any()


def test_a_scalar_array_of_a_subclass_is_accepted():
    number = np.array(3).view(type("Array", (np.ndarray,), {}))
    assert checks.int_array("n", number) == 3
    assert checks.real_array("n", number) == 3


def test_an_object_with_an_array_method_is_accepted():
    class Array:
        def __array__(self, dtype=None, copy=None):
            return np.arange(3)

    assert checks.int_array("n", Array()).tolist() == [0, 1, 2]
