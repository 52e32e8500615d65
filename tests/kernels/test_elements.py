"""The kernels of losses and of layers besides the LSTM, against longer numbers, for every instruction set."""

from fractions import Fraction

import numpy as np
import pytest

from lstm_cy import config
from lstm_cy._kernels import elements
from lstm_cy._kernels.products import multiply

SIZES = (0, 1, 3, 15, 16, 17, 33, 127, 1000)
both_dtypes = pytest.mark.parametrize("dtype", ("float32", "float64"))


@pytest.fixture(params=config.available_instruction_sets())
def kernels(request):
    with config.using(isa=request.param):
        yield config.kernels()


def applied(kernels, name, x):
    y = np.full_like(x, 7)
    elements.apply(kernels, elements.FUNCTIONS[name], x, y)
    return y


def drawn(size, dtype, seed=0, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(size) * scale).astype(dtype)


def in_last_places(found, exact):
    """Return the largest error in units of the last place of the exact result, in found's dtype."""
    unit = np.maximum(np.spacing(np.abs(exact).astype(found.dtype)), np.finfo(found.dtype).smallest_subnormal)
    return float((np.abs(found - exact) / unit).max())


@both_dtypes
def test_exp_is_accurate_from_the_least_to_the_largest_number(kernels, dtype):
    ends = {"float32": (-103.9, 88.7), "float64": (-745, 709.7)}[dtype]
    x = np.concatenate([np.linspace(*ends, 20_001), np.linspace(-1, 1, 10_001)]).astype(dtype)
    assert in_last_places(applied(kernels, "exp", x), np.exp(x.astype(np.longdouble))) < 1.5


@both_dtypes
def test_exp_at_its_ends(kernels, dtype):
    x = np.array([-np.inf, -1e30, -760, -0.0, 0.0, 720, 1e30, np.inf, np.nan], dtype)
    np.testing.assert_array_equal(applied(kernels, "exp", x), [0, 0, 0, 1, 1, np.inf, np.inf, np.inf, np.nan])


@both_dtypes
@pytest.mark.parametrize(
    "name, exact, most",
    [
        ("tanh", np.tanh, 4),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), 4),
        ("softplus", lambda x: np.log1p(np.exp(-abs(x))) + np.maximum(x, 0), 4),
        ("expm1", np.expm1, 4),
    ],
)
def test_functions_are_accurate(kernels, name, exact, most, dtype):
    x = np.concatenate([np.linspace(-9, 9, 20_001), drawn(5000, "float64", scale=1e-3)]).astype(dtype)
    assert in_last_places(applied(kernels, name, x), exact(x.astype(np.longdouble))) < most


def test_the_normal_distribution_is_that_of_scipy(kernels):
    ndtr = pytest.importorskip("scipy.special").ndtr
    x = np.concatenate([np.linspace(-37, 9, 20_001), [-np.inf, np.inf, np.nan]])
    np.testing.assert_allclose(applied(kernels, "normal", x), ndtr(x), rtol=1e-12, atol=1e-300)


@both_dtypes
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [name for name in elements.FUNCTIONS if name != "normal"])
def test_a_function_does_not_depend_on_the_place_in_the_array(kernels, name, size, dtype):
    x = drawn(size, dtype, size, 3)
    alone = [applied(kernels, name, x[i : i + 1])[0] for i in range(size)]
    np.testing.assert_array_equal(applied(kernels, name, x), np.array(alone, dtype))


@both_dtypes
@pytest.mark.parametrize("size", SIZES)
def test_sums(size, dtype):
    a, b = drawn(size, dtype), drawn(size, dtype, 1)
    exact = sum(map(Fraction, a.tolist()), Fraction()), sum(map(Fraction, (a.astype(float) * b).tolist()), Fraction())
    assert elements.total(a) == pytest.approx(float(exact[0]), rel=1e-12, abs=1e-14)
    assert elements.total_of_products(a, b) == pytest.approx(float(exact[1]), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("base", (0.0, 0.1, 0.5, 0.9, 0.999, 1 - 2**-30, 1.0))
@pytest.mark.parametrize("exponent", (0, 1, 2, 3, 17, 1000, 12_345))
def test_powers_are_rounded_once(base, exponent):
    assert elements.power(base, exponent) == pytest.approx(float(Fraction(base) ** exponent), rel=2e-16, abs=1e-300)


def test_a_power_of_many_steps_is_0():
    assert elements.power(0.999, 2**53) == 0
    assert elements.power(1.0, 2**53) == 1


@both_dtypes
@pytest.mark.parametrize("logarithm", (False, True))
@pytest.mark.parametrize("columns", SIZES[1:])
def test_softmax(kernels, columns, logarithm, dtype):
    x = drawn((5, columns), dtype, 2, 5)
    x[1, 0] = -np.inf if columns > 1 else 0
    y = np.empty_like(x)
    elements.softmax(kernels, x, y, logarithm)
    # the exponent is rounded to the dtype, its logarithm is not
    exact = x.astype(np.longdouble if logarithm else dtype)
    exact = (exact - exact.max(axis=1, keepdims=True)).astype(np.longdouble)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    exact = exact if logarithm else np.exp(exact)
    eps = np.finfo(dtype).eps  # the sum of the exponentials is rounded: an error relative to 1 in its logarithm
    np.testing.assert_allclose(y, exact.astype(float), rtol=4 * eps, atol=2 * eps if logarithm else 1e-300)


@both_dtypes
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 7, 9), (2, 17, 33, 3), (1, 3, 1000, 65), (4, 1, 513, 1)])
@pytest.mark.parametrize("layout", ("plain", "swapped", "shared"))
def test_products_of_stacks(kernels, shape, layout, dtype):
    n, M, K, N = shape
    a, b, c = drawn((n, M, K), dtype), drawn((n, K, N), dtype, 1), np.empty((n, M, N), dtype)
    if layout == "swapped":
        a, b = drawn((n, K, M), dtype).swapaxes(1, 2), drawn((N, n, K), dtype, 1).transpose(1, 2, 0)
    elif layout == "shared":
        b = np.broadcast_to(b[0], b.shape)
    multiply(kernels, a, b, c)
    exact = a.astype(np.longdouble) @ b.astype(np.longdouble)
    size = np.abs(a).astype(np.longdouble) @ np.abs(b).astype(np.longdouble)
    assert (np.abs(c - exact) <= 20 * np.finfo(dtype).eps * size).all()


def test_products_of_nothing_and_of_shapes_that_do_not_fit(kernels):
    c = np.ones((2, 3, 4), np.float32)
    multiply(kernels, np.ones((2, 3, 0), np.float32), np.ones((2, 0, 4), np.float32), c)
    assert not c.any()
    with pytest.raises(ValueError, match="do not fit"):
        multiply(kernels, np.ones((2, 3, 5), np.float32), np.ones((2, 4, 4), np.float32), c)
    with pytest.raises(ValueError, match="one dtype"):
        multiply(kernels, np.ones((2, 3, 5)), np.ones((2, 5, 4), np.float32), c)


@both_dtypes
@pytest.mark.parametrize("columns", SIZES[1:])
def test_sums_of_rows(columns, dtype):
    rows, order, ends = drawn((9, columns), dtype), np.random.default_rng(3).permutation(9), np.array([1, 5, 5, 9])
    sums = np.empty((4, columns), dtype)
    elements.sums_of_rows(rows, order, ends, sums)
    groups = np.split(rows[order].astype(float), ends[:-1])
    np.testing.assert_allclose(sums, [group.sum(axis=0) for group in groups], rtol=np.finfo(dtype).eps, atol=1e-15)
