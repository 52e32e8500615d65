# Functions of the elements of arrays, for losses and for layers besides the LSTM; for one instruction set and both
# precisions.

from ..sums cimport LANES, sum_of
from ..table cimport (
    ELEMENT_EXP, ELEMENT_EXPM1, ELEMENT_NORMAL, ELEMENT_SIGMOID, ELEMENT_SOFTPLUS, ELEMENT_TANH,
)


cdef inline vector exponential(vector x) noexcept nogil:
    """exp(x), for any x, to about one unit of the last place.

    2^n is multiplied in two parts, of which each is a normal number, so that the result alone is rounded: to a denormal
    number, to 0 or to infinity.
    """
    cdef bint single = vector in single_precision
    cdef vector rounding = all_of[vector](x, 12582912.0 if single else 6755399441055744.0)
    cdef vector lowest = all_of[vector](x, -105 if single else -750), highest = all_of[vector](x, 90 if single else 711)
    cdef vector shifted, half, near, rest, r, r2, y
    x = above[vector](lowest, x, lowest, x)
    x = above[vector](x, highest, highest, x)
    reduce[vector](x, 1, &shifted, &near, &rest)
    r = near + rest
    half = fma[vector](shifted - rounding, all_of[vector](x, 0.5), rounding)
    r2 = r * r
    y = fma[vector](r2, exp_series[vector](r, r2), r) + all_of[vector](x, 1)
    return y * pow2[vector](half) * pow2[vector](shifted - (half - rounding))


cdef inline void exponentials_by(Py_ssize_t n, double highest, const vector* x, vector* y) noexcept nogil:
    cdef Py_ssize_t start = 0
    cdef vector value
    while start < n:
        value = load_some[vector](x, start, n - start)
        store_some[vector](y, start, n - start, exponential[vector](value - all_of[vector](value, highest)))
        start += lanes[vector](x)


cdef real highest_of(Py_ssize_t n, const real* x) noexcept nogil:
    """The largest number; -infinity if there is none. NaN counts or not."""
    cdef real[LANES] found
    cdef real result
    cdef Py_ssize_t start = 0
    cdef int u
    for u in range(LANES):
        found[u] = <real>-INFINITY
    while start + LANES <= n:
        for u in range(LANES):
            found[u] = x[start + u] if x[start + u] > found[u] else found[u]
        start += LANES
    for u in range(<int>(n - start)):
        found[u] = x[start + u] if x[start + u] > found[u] else found[u]
    result = found[0]
    for u in range(1, LANES):
        result = found[u] if found[u] > result else result
    return result


cdef double exponentials(Py_ssize_t n, const real* x, real* y, real* highest) noexcept nogil:
    """y = exp(x - highest), where `highest` is the largest of x; return the sum of y."""
    highest[0] = highest_of[real](n, x)
    if real is float:
        exponentials_by[v32](n, highest[0], <const v32*>x, <v32*>y)
    else:
        exponentials_by[v64](n, highest[0], <const v64*>x, <v64*>y)
    return sum_of[real](n, y)


cdef inline vector normal(vector x) noexcept nogil:
    """The cumulative distribution function of the normal distribution, in float64.

    With z = |x| / sqrt(2) it is erfc(z) / 2 for x < 0, and 1 minus that for x > 0. (1 + 2z) exp(z^2) erfc(z) is
    between 1 and 1.24; its Chebyshev series in (z - 3.75) / (z + 3.75), to degree 24 and written as a polynomial, is
    accurate to 4e-18 (the method of M. M. Shepherd and J. G. Laframboise, Chebyshev approximation of (1 + 2x) exp(x^2)
    erfc x in 0 <= x < infinity, 1981).
    """
    cdef vector one = all_of[vector](x, 1), z, s, y
    z = bounded[vector](magnitude[vector](x) * all_of[vector](x, 0.70710678118654752), all_of[vector](x, 40))
    s = (z - all_of[vector](x, 3.75)) / (z + all_of[vector](x, 3.75))
    y = all_of[vector](x, 4.25147144479638978e-10)
    y = fma[vector](y, s, all_of[vector](x, 3.1114333809799252e-10))
    y = fma[vector](y, s, all_of[vector](x, -5.17399021401130963e-9))
    y = fma[vector](y, s, all_of[vector](x, -3.74421008096201864e-9))
    y = fma[vector](y, s, all_of[vector](x, 3.86753342422223568e-8))
    y = fma[vector](y, s, all_of[vector](x, 2.32635087088591237e-8))
    y = fma[vector](y, s, all_of[vector](x, -2.58668507161558854e-7))
    y = fma[vector](y, s, all_of[vector](x, -5.72182306032240875e-8))
    y = fma[vector](y, s, all_of[vector](x, 1.75163764884906214e-6))
    y = fma[vector](y, s, all_of[vector](x, -9.73559896736774934e-7))
    y = fma[vector](y, s, all_of[vector](x, -0.0000114441462377005234))
    y = fma[vector](y, s, all_of[vector](x, 0.0000223842391550822298))
    y = fma[vector](y, s, all_of[vector](x, 0.0000516490988926824034))
    y = fma[vector](y, s, all_of[vector](x, -0.000290154080540841711))
    y = fma[vector](y, s, all_of[vector](x, 0.00029371366559134482))
    y = fma[vector](y, s, all_of[vector](x, 0.00175562585289529536))
    y = fma[vector](y, s, all_of[vector](x, -0.00974657955802927553))
    y = fma[vector](y, s, all_of[vector](x, 0.0283622774189564043))
    y = fma[vector](y, s, all_of[vector](x, -0.0586933985896367741))
    y = fma[vector](y, s, all_of[vector](x, 0.0923043211603774778))
    y = fma[vector](y, s, all_of[vector](x, -0.108803930141748857))
    y = fma[vector](y, s, all_of[vector](x, 0.0822767384901452077))
    y = fma[vector](y, s, all_of[vector](x, 0.00358541548546442937))
    y = fma[vector](y, s, all_of[vector](x, -0.140240598585546962))
    y = fma[vector](y, s, all_of[vector](x, 1.23751263083782758))
    y = y * exponential[vector](x * x * all_of[vector](x, -0.5)) / (z + z + one) * all_of[vector](x, 0.5)
    return above[vector](x, all_of[vector](x, 0), one - y, y)


cdef inline void elementwise_by(int function, Py_ssize_t n, const vector* x, vector* y) noexcept nogil:
    """Inlined with a constant function."""
    cdef Py_ssize_t start = 0
    cdef vector value, t, more
    while start < n:
        value = load_some[vector](x, start, n - start)
        if function == ELEMENT_SIGMOID:
            t = sigmoid[vector](value)
        elif function == ELEMENT_TANH:
            t = tanh[vector](value)
        elif function == ELEMENT_SOFTPLUS:
            # unlike the gates' softplus accurate relative to small results as well
            t = exponential[vector](-magnitude[vector](value))
            t = above[vector](all_of[vector](t, 0), value, all_of[vector](t, 0), value) + log1p_series[vector](t)
        elif function == ELEMENT_EXP:
            t = exponential[vector](value)
        elif function == ELEMENT_EXPM1:
            # past the limit below 0, exp(x) - 1 rounds to -1
            more = bounded[vector](value, all_of[vector](value, 20 if vector in single_precision else 40))
            exp_and_1[vector](more, 1, &t, &more)
            more = exponential[vector](value) - all_of[vector](value, 1)
            t = above[vector](value, all_of[vector](value, 20), more, t)
        else:
            t = normal[vector](value)
        store_some[vector](y, start, n - start, t)
        start += lanes[vector](x)


cdef inline void elementwise_of(int function, Py_ssize_t n, const vector* x, vector* y) noexcept nogil:
    if function == ELEMENT_SIGMOID:
        elementwise_by[vector](ELEMENT_SIGMOID, n, x, y)
    elif function == ELEMENT_TANH:
        elementwise_by[vector](ELEMENT_TANH, n, x, y)
    elif function == ELEMENT_SOFTPLUS:
        elementwise_by[vector](ELEMENT_SOFTPLUS, n, x, y)
    elif function == ELEMENT_EXP:
        elementwise_by[vector](ELEMENT_EXP, n, x, y)
    elif function == ELEMENT_EXPM1:
        elementwise_by[vector](ELEMENT_EXPM1, n, x, y)
    else:
        elementwise_by[vector](ELEMENT_NORMAL, n, x, y)


cdef void elementwise(int function, Py_ssize_t n, const real* x, real* y) noexcept nogil:
    """y = function(x) of each element."""
    if real is float:
        elementwise_of[v32](function, n, <const v32*>x, <v32*>y)
    else:
        elementwise_of[v64](function, n, <const v64*>x, <v64*>y)
