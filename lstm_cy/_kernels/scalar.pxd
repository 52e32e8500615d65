"""exp, log and log(1 + x) of single numbers, by +, -, * and / alone: the same bits on every processor."""

from libc.math cimport INFINITY, NAN, frexp

cdef extern from "isa/vector.h":
    # 2^n, where n + 1.5 * 2^52 is given
    double pow2 "lstm_cy_pow2_double"(double) noexcept nogil

# Verbatim, so that compilers know the values: ln 2 in two parts, of which the first has so few digits that its
# multiples by an exponent are exact; its inverse; 1.5 * 2^52: what is added to it is rounded to a whole number.
cdef extern from *:
    """
    #define LSTM_CY_LN2 0.693145751953125
    #define LSTM_CY_LN2_REST 1.42860682030941723e-6
    #define LSTM_CY_PER_LN2 1.44269504088896341
    #define LSTM_CY_ROUNDING 6755399441055744.0
    #define LSTM_CY_SQRT2 1.41421356237309505
    """
    const double LN2 "LSTM_CY_LN2"
    const double LN2_REST "LSTM_CY_LN2_REST"
    const double PER_LN2 "LSTM_CY_PER_LN2"
    const double ROUNDING "LSTM_CY_ROUNDING"
    const double SQRT2 "LSTM_CY_SQRT2"


cdef inline double pair(double x, double first, double second) noexcept nogil:
    return x * (1 / first) + 1 / second


cdef inline double exp_of(double x) noexcept nogil:
    """exp(x) for x <= 0, or NaN; 0 where it is below the normal numbers.

    With x = n ln 2 + r, |r| <= ln 2 / 2, it is 2^n times the Taylor series of exp(r) to degree 13 (the rest is below
    4e-18).
    """
    cdef double shifted, n, r, r2, series
    if x < -708:
        return 0
    shifted = x * PER_LN2 + ROUNDING
    n = shifted - ROUNDING
    r = (x - n * LN2) - n * LN2_REST
    r2 = r * r
    series = pair(r, 6227020800.0, 479001600.0)
    series = series * r2 + pair(r, 39916800.0, 3628800.0)
    series = series * r2 + pair(r, 362880.0, 40320.0)
    series = series * r2 + pair(r, 5040.0, 720.0)
    series = series * r2 + pair(r, 120.0, 24.0)
    series = series * r2 + pair(r, 6.0, 2.0)
    return (series * r2 + r + 1) * pow2(shifted)


cdef inline double log_near_1(double f, double n) noexcept nogil:
    """n ln 2 + log(1 + f), for 1 + f from sqrt(1/2) to sqrt(2).

    With s = f / (2 + f), |s| <= 0.172, log(1 + f) is 2 artanh(s) = 2s + s R, R = 2/3 s^2 + 2/5 s^4 + ...: in R terms
    left out are below 1e-17 of it. 2s = f - s f, and s f = f^2 / 2 - s f^2 / 2, so that nothing but the last addition
    rounds a number as large as the result.
    """
    cdef double s = f / (2 + f), square = s * s, fourth = square * square, even, odd, half = 0.5 * f * f
    odd = fourth * (2.0 / 23) + 2.0 / 19
    odd = odd * fourth + 2.0 / 15
    odd = odd * fourth + 2.0 / 11
    odd = odd * fourth + 2.0 / 7
    odd = odd * fourth + 2.0 / 3
    even = fourth * (2.0 / 21) + 2.0 / 17
    even = even * fourth + 2.0 / 13
    even = even * fourth + 2.0 / 9
    even = even * fourth + 2.0 / 5
    return n * LN2 + (f - (half - (s * (half + (odd + even * square) * square) + n * LN2_REST)))


cdef inline double log_of(double x) noexcept nogil:
    """log(x): -infinity for 0, NaN below 0."""
    cdef int n
    cdef double m
    if not 0 < x < INFINITY:
        return -INFINITY if x == 0 else NAN if x < 0 else x
    m = frexp(x, &n)
    if m < SQRT2 / 2:
        return log_near_1(2 * m - 1, n - 1)
    return log_near_1(m - 1, n)


cdef inline double log1p_of(double x) noexcept nogil:
    """log(1 + x) for x from 0 to 1."""
    if x <= SQRT2 - 1:
        return log_near_1(x, 0)
    return log_near_1((x - 1) * 0.5, 1)
