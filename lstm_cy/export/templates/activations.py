"""The activations of LSTMs and of Activation layers in C."""

from __future__ import annotations

#: what a function of `EXPRESSIONS` or `ELEMENTWISE` needs, by the function's name
NEEDS = {
    "softplus": ("BOUNDED", "MAGNITUDE", "LOG1P", "EXPONENTIAL"),
    "softsign": ("BOUNDED", "MAGNITUDE"),
    "elu": ("BOUNDED",),
    "selu": ("BOUNDED", "EXPONENTIAL"),
    "exp": ("EXPONENTIAL",),
}

#: an LSTM's activations: C statements that set y from x; {alpha} and {beta} are the numbers
GATES = {
    "sigmoid": "y = lstm_sigmoid(x);",
    "tanh": "y = lstm_tanh(x);",
    "relu": "y = lstm_above(lstm_all(0.0f), x, lstm_all(0.0f), x);",
    "affine": "y = lstm_fma(lstm_all({alpha}), x, lstm_all({beta}));",
    "leakyrelu": "y = lstm_above(lstm_all(0.0f), x, lstm_all({alpha}) * x, x);",
    "thresholdedrelu": "y = lstm_at_most(x, lstm_all({alpha}), lstm_all(0.0f), x);",
    "scaledtanh": "y = lstm_all({alpha}) * lstm_tanh(lstm_all({beta}) * x);",
    "hardsigmoid": """\
y = lstm_fma(lstm_all({alpha}), x, lstm_all({beta}));
y = lstm_above(y, lstm_all(1.0f), lstm_all(1.0f), y);
y = lstm_above(lstm_all(0.0f), y, lstm_all(0.0f), y);""",
    "elu": """\
lstm_exp_and_1(lstm_bounded(x, 20.0f), 1.0f, &y, &more); /* past the limit exp(x) - 1 rounds to -1 */
y = lstm_above(lstm_all(0.0f), x, lstm_all({alpha}) * y, x);""",
    "softsign": """\
x = lstm_bounded(x, 1e30f); /* infinity over infinity would be NaN */
y = x * (lstm_all(1.0f) / (lstm_all(1.0f) + lstm_magnitude(x)));""",
    "softplus": """\
lstm_exp_and_1(lstm_bounded(-lstm_magnitude(x), 40.0f), 1.0f, &y, &more);
y = lstm_above(lstm_all(0.0f), x, lstm_all(0.0f), x) + lstm_log1p(y + lstm_all(1.0f));""",
}

AT_MOST = r"""
/* x <= y ? yes : no, in each lane; NaN is at most nothing */
LSTM_INLINE lstm_vector lstm_at_most(lstm_vector x, lstm_vector y, lstm_vector yes, lstm_vector no)
{
#if LSTM_LANES > 1
    const lstm_bits mask = (lstm_bits)(x <= y);
    return (lstm_vector)((mask & (lstm_bits)yes) | (~mask & (lstm_bits)no));
#else
    return x <= y ? yes : no;
#endif
}
"""

#: an Activation layer's functions, which NumPy computes, in the same form
ELEMENTWISE = {
    **{name: GATES[name] for name in ("sigmoid", "tanh", "leakyrelu", "scaledtanh")},
    "relu": "y = lstm_above(lstm_all(0.0f), x, lstm_all(0.0f), x) + lstm_all(0.0f); /* -0.0 becomes 0.0 */",
    "affine": """\
x = lstm_all({alpha}) * x;
LSTM_ROUND(x);
y = x + lstm_all({beta});""",
    "thresholdedrelu": "y = lstm_above(x, lstm_all({alpha}), x, lstm_all(0.0f));",
    "hardsigmoid": """\
x = lstm_all({alpha}) * x;
LSTM_ROUND(x);
y = x + lstm_all({beta});
y = lstm_above(y, lstm_all(1.0f), lstm_all(1.0f), y);
y = lstm_above(lstm_all(0.0f), y, lstm_all(0.0f), y);""",
    "elu": """\
more = lstm_bounded(lstm_above(x, lstm_all(0.0f), lstm_all(0.0f), x), 20.0f);
lstm_exp_and_1(more, 1.0f, &y, &more);
y = lstm_above(x, lstm_all(0.0f), x, lstm_all({alpha}) * y);""",
    "selu": """\
more = lstm_bounded(lstm_above(x, lstm_all(0.0f), lstm_all(0.0f), x), 20.0f);
lstm_exp_and_1(more, 1.0f, &y, &more);
y = lstm_all(1.0507009873554805f) * lstm_above(x, lstm_all(0.0f), x, lstm_all(1.6732632423543772f) * y);""",
    "softsign": "y = x / (lstm_all(1.0f) + lstm_magnitude(x));",
    "softplus": """\
y = lstm_exponential(-lstm_magnitude(x));
y = lstm_above(lstm_all(0.0f), x, lstm_all(0.0f), x) + lstm_log1p(y);""",
    "silu": "y = x * lstm_sigmoid(x);",
    "exp": "y = lstm_exponential(x);",
}

#: what the functions that are not in this form need
VECTORWISE = {
    "softmax": {"EXPONENTIAL", "EXPONENTIALS", "SUMS", "SOFTMAX"},
    "logsoftmax": {"EXPONENTIAL", "EXPONENTIALS", "SUMS", "DOUBLES", "LOG_SOFTMAX"},
    "gelu": {"DOUBLES", "GELU"},
}

#: a function of all elements of an array with padding
FUNCTION = r"""
/* {title}, of each of `count` numbers, rounded up to whole vectors */
static void {name}(size_t count, float *values)
{{
    size_t k;
    for (k = 0; k < count; k += LSTM_LANES) {{
        lstm_vector x = lstm_load(values + k), y;{more}
{statements}
        LSTM_ROUND(y);
        lstm_store(values + k, y);
    }}
}}
"""

EXPONENTIALS = r"""
/* y = exp(x - m), where m is the largest of x and is returned; x and y may be the same */
static float lstm_exponentials(size_t count, const float *x, float *y)
{
    float highest = x[0];
    size_t k;
    for (k = 1; k < count; k++)
        highest = x[k] > highest ? x[k] : highest;
    for (k = 0; k < count; k += LSTM_LANES)
        lstm_store(y + k, lstm_exponential(lstm_load(x + k) - lstm_all(highest)));
    return highest;
}
"""

SUMS = r"""
/* the sum of sixteen numbers, by halves */
static double lstm_halves_sum(double *sums)
{
    size_t half, k;
    for (half = 8; half > 0; half /= 2)
        for (k = 0; k < half; k++)
            sums[k] += sums[k + half];
    return sums[0];
}

/* the sum of x, in sixteen sums */
static double lstm_double_sum(size_t count, const float *x)
{
    double sums[16] = {0};
    size_t k;
    for (k = 0; k < count; k++)
        sums[k % 16] += (double)x[k];
    return lstm_halves_sum(sums);
}
"""

SOFTMAX = r"""
/* exp(x) / sum(exp(x)) in place; no exponential overflows */
static void lstm_softmax(size_t count, float *x)
{
    float sum;
    size_t k;
    lstm_exponentials(count, x, x);
    sum = (float)lstm_double_sum(count, x);
    for (k = 0; k < count; k++)
        x[k] = x[k] / sum;
}
"""
