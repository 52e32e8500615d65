"""The cell of an LSTM layer with options, in C: the parts of it that are the same for all options.

The gates' sums z are computed first: four arrays of `padded` numbers, the units rounded up to a multiple of 8.
"""

ROOT = r"""
/* the square root, rounded as IEEE 754 says */
LSTM_INLINE float lstm_root(float x)
{
#if defined(__GNUC__) && defined(__SSE2__)
    return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
#elif defined(__GNUC__) && defined(__aarch64__)
    __asm__("fsqrt %s0, %s1" : "=w"(x) : "w"(x));
    return x;
#elif defined(__GNUC__) && defined(__ARM_FP)
    __asm__("vsqrt.f32 %0, %1" : "=t"(x) : "t"(x));
    return x;
#elif defined(__GNUC__) && defined(__wasm__)
    return __builtin_sqrtf(x);
#else
    /* one binary digit after the other of the root of x = mantissa * 2^exponent, with an even exponent */
    uint32_t bits;
    uint64_t mantissa, root = 0, digit;
    int exponent;
    memcpy(&bits, &x, sizeof bits);
    if (!(x > 0.0f) || bits >= 0x7f800000u || bits < 0x00800000u)
        return x; /* NaN, infinity, 0, and what is too small to occur here */
    exponent = (int)(bits >> 23) - 150;
    mantissa = (bits & 0x7fffffu) | 0x800000u;
    mantissa <<= exponent % 2 ? 25 : 26;
    exponent -= exponent % 2 ? 25 : 26; /* now even */
    for (digit = (uint64_t)1 << 24; digit; digit >>= 1)
        if ((root + digit) * (root + digit) <= mantissa)
            root += digit;
    bits = (uint32_t)((root + 1) / 2); /* 25 digits, rounded to 24; a tie is impossible */
    x = (float)bits;
    memcpy(&bits, &x, sizeof bits);
    bits += (uint32_t)(exponent / 2 + 1) << 23;
    memcpy(&x, &bits, sizeof bits);
    return x;
#endif
}
"""

NORMALIZE = r"""
/* the sum of a b, or of a alone without b, in 32 sums, so that its order does not depend on the width of vectors */
static float lstm_sum(size_t count, const float *a, const float *b)
{
    float sums[32] = {0}, total = 0.0f;
    size_t k;
    for (k = 0; k < count; k++)
        sums[k % 32] = b ? lstm_fma_float(a[k], b[k], sums[k % 32]) : sums[k % 32] + a[k];
    for (k = 0; k < 32; k++)
        total += sums[k];
    return total;
}

/* z = scale (z - mean) / sqrt(variance + 1e-8) + bias; without bias if it is NULL */
static void lstm_normalize(size_t units, const float *scale, const float *bias, float *z)
{
    const float mean = lstm_sum(units, z, NULL) / (float)units;
    float root, scaled;
    size_t k;
    for (k = 0; k < units; k++)
        z[k] -= mean;
    root = 1.0f / lstm_root(lstm_sum(units, z, z) / (float)units + 1e-8f);
    for (k = 0; k < units; k++) {
        scaled = z[k] * root;
        scaled = scaled * scale[k];
        LSTM_ROUND(scaled);
        z[k] = bias ? scaled + bias[k] : scaled;
    }
}
"""

PEEPHOLE = r"""
/* z = weights c + z */
static void lstm_peephole(size_t units, const float *weights, const float *c, float *z)
{
    size_t k;
    for (k = 0; k < units; k += LSTM_LANES)
        lstm_store(z + k, lstm_fma(lstm_load(weights + k), lstm_load(c + k), lstm_load(z + k)));
}
"""

ZONEOUT = r"""
/* next = share old + (1 - share) next: what zoneout expects */
static void lstm_mix(size_t count, float share, const float *old, float *next)
{
    size_t k;
    for (k = 0; k < count; k++)
        next[k] = (float)((double)(share * old[k]) + (1.0 - (double)share) * (double)next[k]);
}
"""

CLIP = r"""
/* x within [-bound, bound] */
static void lstm_clip(size_t count, float bound, float *x)
{
    size_t k;
    for (k = 0; k < count; k += LSTM_LANES)
        lstm_store(x + k, lstm_bounded(lstm_load(x + k), bound));
}
"""
