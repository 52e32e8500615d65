"""Layers without recurrent weights in C: normalisations, padding, and windows of the last steps.

They are the computations of lstm_cy/_kernels/rowwise.pyx, in the same order.
"""

from __future__ import annotations

FLAGS = r"""
/* What a step is to the layers that follow: a step; padding; none, since a window is not complete, and none so far
   either; none, and the last one was padding */
enum { LSTM_PRESENT, LSTM_PADDING, LSTM_ABSENT, LSTM_EMPTY, LSTM_ABSENT_PADDING };
"""

EMPTY = r"""
static void lstm_fill_nan(size_t count, float *y)
{
    const uint32_t bits = 0x7fc00000u;
    size_t k;
    for (k = 0; k < count; k++)
        memcpy(y + k, &bits, sizeof bits);
}
"""

SCALE = r"""
/* y = (x - mean) factor weight + bias; `w` has weight, bias, mean and factor */
static void lstm_scale(size_t count, const float *w, const float *x, float *y)
{
    const float *const bias = w + count, *const mean = bias + count, *const factor = mean + count;
    size_t k;
    for (k = 0; k < count; k++) {
        float product = (x[k] - mean[k]) * factor[k];
        product = product * w[k];
        LSTM_ROUND(product);
        y[k] = product + bias[k];
    }
}
"""

DOUBLES = r"""
/* LSTM_ROUND of a double */
#if defined(__GNUC__) && defined(__SSE2__)
#define LSTM_ROUND_DOUBLE(x) __asm__("" : "+x"(x))
#elif defined(__GNUC__) && defined(__aarch64__)
#define LSTM_ROUND_DOUBLE(x) __asm__("" : "+w"(x))
#elif defined(__GNUC__) && !defined(__wasm__)
#define LSTM_ROUND_DOUBLE(x) __asm__("" : "+m"(x))
#else
#define LSTM_ROUND_DOUBLE(x) (void)0
#endif

/* a b, rounded */
LSTM_INLINE double lstm_times(double a, double b)
{
    double product = a * b;
    LSTM_ROUND_DOUBLE(product);
    return product;
}
"""

LAYER_NORM = r"""
/* the square root, rounded as IEEE 754 says */
static double lstm_double_root(double x)
{
#if defined(__GNUC__) && defined(__SSE2__)
    return _mm_cvtsd_f64(_mm_sqrt_sd(_mm_set_sd(x), _mm_set_sd(x)));
#elif defined(__GNUC__) && defined(__aarch64__)
    __asm__("fsqrt %d0, %d1" : "=w"(x) : "w"(x));
    return x;
#elif defined(__GNUC__) && defined(__wasm__)
    return __builtin_sqrt(x);
#else
    /* one binary digit after the other of the root of x = mantissa * 2^exponent, with an even exponent; the remainder
       takes two more digits of the mantissa for each */
    uint64_t bits, mantissa, root = 0, remainder = 0, trial;
    int exponent, digit;
    memcpy(&bits, &x, sizeof bits);
    if (!(x > 0.0) || bits >> 52 == 0x7ff || bits >> 52 == 0)
        return x; /* NaN, infinity, 0, and what is too small to occur here */
    exponent = (int)(bits >> 52) - 1023;
    mantissa = (bits & 0xfffffffffffffu) | (uint64_t)1 << 52;
    if (exponent % 2) {
        mantissa <<= 1;
        exponent--;
    }
    for (digit = 52; digit >= -54; digit -= 2) {
        remainder = remainder << 2 | (digit >= 0 ? mantissa >> digit & 3 : 0);
        trial = root << 2 | 1;
        root <<= 1;
        if (remainder >= trial) {
            remainder -= trial;
            root |= 1;
        }
    }
    bits = (root + 1) / 2; /* 54 digits, rounded to 53; a tie is impossible */
    bits += (uint64_t)(exponent / 2 + 1022) << 52;
    memcpy(&x, &bits, sizeof bits);
    return x;
#endif
}

/* y = (x - mean) / sqrt(variance + eps) weight + bias; `w` has weight and bias */
static void lstm_layer_norm(size_t count, float eps, const float *w, const float *x, float *y)
{
    const float mean = (float)(lstm_double_sum(count, x) / (double)count);
    double squares[16] = {0};
    float factor;
    size_t k;
    for (k = 0; k < count; k++) {
        y[k] = x[k] - mean;
        squares[k % 16] += (double)y[k] * (double)y[k]; /* the product of two floats is exact */
    }
    factor = (float)(1.0 / lstm_double_root(lstm_halves_sum(squares) / (double)count + (double)eps));
    for (k = 0; k < count; k++) {
        float product = y[k] * factor;
        product = product * w[k];
        LSTM_ROUND(product);
        y[k] = product + w[count + k];
    }
}
"""

GELU = r"""
/* a b + c, rounded once where the processor can */
LSTM_INLINE double lstm_double_fma(double a, double b, double c)
{
#if defined(__GNUC__) && (defined(__FMA__) || defined(__aarch64__))
    return __builtin_fma(a, b, c);
#else
    return lstm_times(a, b) + c;
#endif
}

/* 2^n from n + 1.5 * 2^52 */
LSTM_INLINE double lstm_double_pow2(double shifted)
{
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 52) + ((uint64_t)0x3ff00000u << 32);
    memcpy(&shifted, &bits, sizeof bits);
    return shifted;
}

/* exp(x) for x <= 0 or NaN, by n ln 2 and the Taylor series to degree 13 of the rest */
static double lstm_double_exp(double x)
{
    const double rounding = 6755399441055744.0; /* 1.5 * 2^52: what is added to it is rounded to a whole number */
    double shifted, n, rest, r, r2, half, y;
    static const double factorials[] = {6227020800.0, 479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0,
                                        5040.0,       720.0,       120.0,      24.0,      6.0,      2.0};
    size_t k;
    x = -750.0 > x ? -750.0 : x;
    shifted = lstm_double_fma(x, 1.44269504088896341, rounding);
    LSTM_ROUND_DOUBLE(shifted);
    n = shifted - rounding;
    rest = lstm_times(n, -2.319046813846299558e-17);
    r = lstm_double_fma(n, -0.693147180559945286, x) + rest;
    r2 = lstm_times(r, r);
    y = lstm_double_fma(r, 1.0 / factorials[0], 1.0 / factorials[1]);
    for (k = 2; k < 12; k += 2)
        y = lstm_double_fma(y, r2, lstm_double_fma(r, 1.0 / factorials[k], 1.0 / factorials[k + 1]));
    y = lstm_double_fma(r2, y, r) + 1.0;
    half = lstm_double_fma(n, 0.5, rounding);
    LSTM_ROUND_DOUBLE(half);
    return lstm_times(lstm_times(y, lstm_double_pow2(half)), lstm_double_pow2(shifted - (half - rounding)));
}

/* The cumulative distribution function of the normal distribution: erfc(z) / 2 for x < 0, with z = |x| / sqrt(2), and 1
   minus that for x > 0; (1 + 2z) exp(z^2) erfc(z) is a polynomial of (z - 3.75) / (z + 3.75). */
static double lstm_normal(double x)
{
    static const double series[] = {
        4.25147144479638978e-10,  3.1114333809799252e-10,   -5.17399021401130963e-9,   -3.74421008096201864e-9,
        3.86753342422223568e-8,   2.32635087088591237e-8,   -2.58668507161558854e-7,   -5.72182306032240875e-8,
        1.75163764884906214e-6,   -9.73559896736774934e-7,  -0.0000114441462377005234, 0.0000223842391550822298,
        0.0000516490988926824034, -0.000290154080540841711, 0.00029371366559134482,    0.00175562585289529536,
        -0.00974657955802927553,  0.0283622774189564043,    -0.0586933985896367741,    0.0923043211603774778,
        -0.108803930141748857,    0.0822767384901452077,    0.00358541548546442937,    -0.140240598585546962,
        1.23751263083782758};
    double z = lstm_times(x < 0.0 ? -x : x, 0.70710678118654752), s, y = series[0];
    size_t k;
    z = z > 40.0 ? 40.0 : z;
    s = (z - 3.75) / (z + 3.75);
    for (k = 1; k < 25; k++)
        y = lstm_double_fma(y, s, series[k]);
    y = lstm_times(y, lstm_double_exp(lstm_times(lstm_times(x, x), -0.5))) / (z + z + 1.0);
    y = lstm_times(y, 0.5);
    return x > 0.0 ? 1.0 - y : y;
}

/* x times the probability that a normally distributed number is below x, in place */
static void lstm_gelu(size_t count, float *x)
{
    size_t k;
    for (k = 0; k < count; k++)
        x[k] = x[k] * (float)lstm_normal((double)x[k]);
}
"""

LOG_SOFTMAX = r"""
/* n ln 2 + log(1 + f), for 1 + f from sqrt(1/2) to sqrt(2): 2 artanh(f / (2 + f)), a series */
static double lstm_log_near_1(double f, double n)
{
    const double s = f / (2.0 + f), square = lstm_times(s, s), fourth = lstm_times(square, square);
    const double half = lstm_times(lstm_times(0.5, f), f);
    double even, odd;
    odd = lstm_times(fourth, 2.0 / 23.0) + 2.0 / 19.0;
    odd = lstm_times(odd, fourth) + 2.0 / 15.0;
    odd = lstm_times(odd, fourth) + 2.0 / 11.0;
    odd = lstm_times(odd, fourth) + 2.0 / 7.0;
    odd = lstm_times(odd, fourth) + 2.0 / 3.0;
    even = lstm_times(fourth, 2.0 / 21.0) + 2.0 / 17.0;
    even = lstm_times(even, fourth) + 2.0 / 13.0;
    even = lstm_times(even, fourth) + 2.0 / 9.0;
    even = lstm_times(even, fourth) + 2.0 / 5.0;
    even = half + lstm_times(odd + lstm_times(even, square), square);
    even = lstm_times(s, even) + lstm_times(n, 1.42860682030941723e-6);
    return lstm_times(n, 0.693145751953125) + (f - (half - even));
}

/* log(x) for finite x >= 1; other numbers stay what they are */
static double lstm_log(double x)
{
    uint64_t bits;
    int exponent;
    memcpy(&bits, &x, sizeof bits);
    if (!(x >= 1.0) || bits >> 52 == 0x7ff)
        return x;
    exponent = (int)(bits >> 52) - 1022; /* x = m 2^exponent, with m from 1/2 to 1 */
    bits = (bits & 0xfffffffffffffu) | (uint64_t)0x3fe00000u << 32;
    memcpy(&x, &bits, sizeof bits);
    if (x < 1.41421356237309505 / 2.0)
        return lstm_log_near_1(2.0 * x - 1.0, (double)(exponent - 1));
    return lstm_log_near_1(x - 1.0, (double)exponent);
}

/* x - log(sum(exp(x))) in place; `space` is for the numbers rounded up to whole vectors */
static void lstm_log_softmax(size_t count, float *x, float *space)
{
    const float highest = lstm_exponentials(count, x, space);
    const double log_sum = lstm_log(lstm_double_sum(count, space));
    size_t k;
    for (k = 0; k < count; k++)
        x[k] = (float)(((double)x[k] - (double)highest) - log_sum);
}
"""

MASK = r"""
/* zeros for a step whose numbers all are `value`; returns its flag */
static int lstm_mask(size_t count, float value, int flag, const float *x, float *y)
{
    int masked = 1;
    size_t k;
    for (k = 0; k < count; k++)
        masked = masked && x[k] == value;
    for (k = 0; k < count; k++)
        y[k] = masked ? 0.0f : x[k];
    if (masked && flag == LSTM_PRESENT)
        return LSTM_PADDING;
    return masked && flag == LSTM_ABSENT ? LSTM_ABSENT_PADDING : flag;
}
"""

RUNNING_MAX = r"""
/* the largest numbers of the steps so far; `steps` is their number */
static void lstm_running_max(size_t count, double *steps, const float *x, float *most)
{
    size_t k;
    for (k = 0; k < count; k++)
        if (*steps <= 0.0 || x[k] > most[k] || x[k] != x[k])
            most[k] = x[k];
    *steps += 1.0;
}
"""

RUNNING_MEAN = r"""
/* the means of the steps so far, from their sums; `steps` is their number */
static void lstm_running_mean(size_t count, double *steps, double *sums, const float *x, float *y)
{
    size_t k;
    *steps += 1.0;
    for (k = 0; k < count; k++) {
        sums[k] += (double)x[k];
        y[k] = (float)(sums[k] / *steps);
    }
}
"""

WINDOW = r"""
/* y = the window that ends with x: for each of the `inputs` numbers of a step `size` steps, `dilation` apart. The
   inputs before are a ring, which begins at `oldest`. */
static void lstm_window(size_t inputs, size_t size, size_t dilation, const float *past, size_t oldest, const float *x,
                        float *y)
{
    const size_t steps = (size - 1) * dilation;
    size_t k, n;
    for (k = 0; k < size; k++) {
        const size_t place = oldest + k * dilation;
        const float *const source = k == size - 1 ? x : past + (place < steps ? place : place - steps) * inputs;
        for (n = 0; n < inputs; n++)
            y[n * size + k] = source[n];
    }
}
"""

REMEMBER = r"""
/* x becomes the newest of the last inputs */
static void lstm_remember(size_t inputs, size_t steps, float *past, int *oldest, const float *x)
{
    memcpy(past + (size_t)*oldest * inputs, x, inputs * sizeof *x);
    *oldest = (size_t)*oldest + 1 < steps ? *oldest + 1 : 0;
}
"""

CONVOLUTION = r"""
/* a convolution of a window: an affine map for each group of features, whose weights are `stride` apart */
static void lstm_convolution(size_t groups, size_t outputs, size_t stride, const float *w, size_t inputs,
                             const float *window, float *y)
{
    size_t group;
    for (group = 0; group < groups; group++)
        lstm_linear(outputs, w + group * stride, inputs, window + group * inputs, 0, NULL, y + group * outputs);
}
"""

WINDOW_MAX = r"""
/* the largest number of each feature's window */
static void lstm_window_max(size_t count, size_t size, const float *window, float *y)
{
    size_t n, k;
    for (n = 0; n < count; n++, window += size) {
        y[n] = window[0];
        for (k = 1; k < size; k++)
            if (window[k] > y[n] || window[k] != window[k])
                y[n] = window[k];
    }
}
"""

WINDOW_MEAN = r"""
/* the mean of each feature's window */
static void lstm_window_mean(size_t count, size_t size, const float *window, float *y)
{
    const float share = 1.0f / (float)size;
    size_t n, k;
    for (n = 0; n < count; n++, window += size) {
        float total = window[0] * share;
        LSTM_ROUND(total);
        for (k = 1; k < size; k++) {
            float part = window[k] * share;
            LSTM_ROUND(part);
            total += part;
        }
        y[n] = total;
    }
}
"""
