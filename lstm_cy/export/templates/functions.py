"""exp, sigmoid, tanh and the other activations in C: the formulas of lstm_cy/_kernels/isa, in the same order."""

EXP = r"""
/* x / a + 1 / b */
LSTM_INLINE lstm_vector lstm_terms(lstm_vector x, float a, float b)
{
    return lstm_fma(x, lstm_all(a), lstm_all(b));
}

/* times x = n ln 2 + near + rest, within ln 2 / 2 of n ln 2; *shifted is n + 1.5 * 2^23.

   ln 2 is subtracted in two parts, of which the first is such that n times it is exact. */
LSTM_INLINE void lstm_reduce(lstm_vector x, float times, lstm_vector *shifted, lstm_vector *near, lstm_vector *rest)
{
    const lstm_vector rounding = lstm_all(12582912.0f); /* what is added to it is rounded to a whole number */
    const float ln2 = LSTM_EXACT ? 0.693147182464599609375f : 0.693359375f;
    const float ln2_rest = LSTM_EXACT ? -1.904654323148236e-9f : -2.12194440054690583e-4f;
    lstm_vector n = lstm_fma(x, lstm_all(times * 1.44269504088896341f), rounding);
    LSTM_ROUND(n);
    *shifted = n;
    n = n - rounding;
    *near = lstm_fma(n, lstm_all(-ln2), lstm_all(times) * x);
    *rest = n * lstm_all(-ln2_rest);
}

/* E(r), where exp(r) = 1 + r + r^2 E(r): the Taylor series to degree 7; r2 is r^2 */
LSTM_INLINE lstm_vector lstm_exp_series(lstm_vector r, lstm_vector r2)
{
    lstm_vector series = lstm_terms(r, 1.0f / 5040.0f, 1.0f / 720.0f);
    series = lstm_fma(series, r2, lstm_terms(r, 1.0f / 120.0f, 1.0f / 24.0f));
    return lstm_fma(series, r2, lstm_terms(r, 1.0f / 6.0f, 1.0f / 2.0f));
}

/* 2^n from n + 1.5 * 2^23: n is in the low bits and moves to the exponent */
LSTM_INLINE lstm_vector lstm_pow2(lstm_vector shifted)
{
    return lstm_from_bits((lstm_to_bits(shifted) << 23) + 0x3f800000u);
}

/* exp(times x) - 1 and exp(times x) + 1, where |times x| <= 40 */
LSTM_INLINE void lstm_exp_and_1(lstm_vector x, float times, lstm_vector *less, lstm_vector *more)
{
    const lstm_vector one = lstm_all(1.0f);
    lstm_vector shifted, near, rest, r, r2, series, power;
    lstm_reduce(x, times, &shifted, &near, &rest);
    power = lstm_pow2(shifted);
#if LSTM_EXACT
    r = lstm_fma(rest, near + one, near);
#else
    r = near = near + rest;
#endif
    r2 = near * near;
    series = lstm_exp_series(near, r2);
    r2 = power * r2;
    *less = lstm_fma(r2, series, lstm_fma(power, r, power - one));
    *more = lstm_fma(r2, series, lstm_fma(power, r, power + one));
}

/* 1 / (1 + exp(-z)); 0 and 1 past |z| = 20, where rounding gives 1 */
LSTM_INLINE lstm_vector lstm_sigmoid(lstm_vector z)
{
    const lstm_vector limit = lstm_all(20.0f);
    lstm_vector less, more, s;
    lstm_exp_and_1(z, -1.0f, &less, &more);
    s = lstm_all(1.0f) / more;
    s = lstm_above(z, limit, lstm_all(1.0f), s);
    return lstm_above(-limit, z, lstm_all(0.0f), s);
}

/* (exp(2x) - 1) / (exp(2x) + 1); -1 and 1 past |x| = 10 */
LSTM_INLINE lstm_vector lstm_tanh(lstm_vector x)
{
    const lstm_vector limit = lstm_all(10.0f);
    lstm_vector less, more, t;
    lstm_exp_and_1(x, 2.0f, &less, &more);
    t = less / more;
    t = lstm_above(x, limit, lstm_all(1.0f), t);
    return lstm_above(-limit, x, lstm_all(-1.0f), t);
}
"""

BOUNDED = r"""
/* x within [-bound, bound]; NaN stays NaN */
LSTM_INLINE lstm_vector lstm_bounded(lstm_vector x, float bound)
{
    x = lstm_above(x, lstm_all(bound), lstm_all(bound), x);
    return lstm_above(lstm_all(-bound), x, lstm_all(-bound), x);
}
"""

MAGNITUDE = r"""
LSTM_INLINE lstm_vector lstm_magnitude(lstm_vector x)
{
    return lstm_above(lstm_all(0.0f), x, -x, x);
}
"""

EXPONENTIAL = r"""
/* exp(x) for any x. 2^n is multiplied in two parts, each a normal number, so that only the result is rounded. */
LSTM_INLINE lstm_vector lstm_exponential(lstm_vector x)
{
    const lstm_vector rounding = lstm_all(12582912.0f), lowest = lstm_all(-105.0f), highest = lstm_all(90.0f);
    lstm_vector shifted, half, near, rest, r, r2, y;
    x = lstm_above(lowest, x, lowest, x);
    x = lstm_above(x, highest, highest, x);
    lstm_reduce(x, 1.0f, &shifted, &near, &rest);
    LSTM_ROUND(rest);
    r = near + rest;
    half = lstm_fma(shifted - rounding, lstm_all(0.5f), rounding);
    LSTM_ROUND(half);
    r2 = r * r;
    y = lstm_fma(r2, lstm_exp_series(r, r2), r) + lstm_all(1.0f);
    return y * lstm_pow2(half) * lstm_pow2(shifted - (half - rounding));
}
"""

LOG1P = r"""
/* ln(1 + v) for v in (0, 1]: 2 artanh(s) with s = v / (2 + v), a series in s^2 */
LSTM_INLINE lstm_vector lstm_log1p(lstm_vector v)
{
    const lstm_vector s = v / (v + lstm_all(2.0f)), square = s * s;
    lstm_vector series = lstm_all(1.0f / 17.0f);
    series = lstm_fma(series, square, lstm_all(1.0f / 15.0f));
    series = lstm_fma(series, square, lstm_all(1.0f / 13.0f));
    series = lstm_fma(series, square, lstm_all(1.0f / 11.0f));
    series = lstm_fma(series, square, lstm_all(1.0f / 9.0f));
    series = lstm_fma(series, square, lstm_all(1.0f / 7.0f));
    series = lstm_fma(series, square, lstm_all(1.0f / 5.0f));
    series = lstm_fma(series, square, lstm_all(1.0f / 3.0f));
    series = lstm_fma(series, square, lstm_all(1.0f));
    series = lstm_all(2.0f) * s * series;
    LSTM_ROUND(series);
    return series;
}
"""
