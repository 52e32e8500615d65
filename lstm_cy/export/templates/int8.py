"""Products of int8 weights in C."""

INT8 = r"""
/* Products with int8 weights.

   The factors are rounded to whole numbers from -127 to 127 times a scale, the largest of them / 127; the products are
   summed exactly. Weights are in panels of 32 columns, the last one of as many as are left, in multiples of 8: for four
   factors at a time the four weights of each column. The four factors are in the order 0, 2, 1, 3: a target that
   multiplies pairs of 16-bit numbers takes the even ones of four bytes, then the odd ones. */

#if LSTM_LANES == 1 && defined(__ARM_FEATURE_SIMD32) && !defined(__ARM_BIG_ENDIAN)
#include <arm_acle.h>
#endif
#if LSTM_LANES > 1
typedef int32_t lstm_integers __attribute__((vector_size(4 * LSTM_LANES), may_alias));
typedef int32_t lstm_bytes __attribute__((vector_size(4 * LSTM_LANES), may_alias, aligned(1)));
typedef int16_t lstm_halves __attribute__((vector_size(4 * LSTM_LANES), may_alias));
#else
typedef int32_t lstm_integers;
#endif

/* sum + the products of four factors and the weights of each lane's column */
LSTM_INLINE lstm_integers lstm_add_fours(lstm_integers sum, const int16_t *factors, const signed char *w)
{
#if LSTM_LANES > 1
    const lstm_integers zero = {0};
    const lstm_halves weights = (lstm_halves) * (const lstm_bytes *)w;
    const lstm_halves even_weights = weights << 8 >> 8, odd_weights = weights >> 8;
    int32_t pairs[2];
    lstm_integers even, odd;
    memcpy(pairs, factors, sizeof pairs);
    even = zero + pairs[0];
    odd = zero + pairs[1];
#if LSTM_LANES == 8
    sum += (lstm_integers)_mm256_madd_epi16((__m256i)even, (__m256i)even_weights);
    return sum + (lstm_integers)_mm256_madd_epi16((__m256i)odd, (__m256i)odd_weights);
#elif defined(__SSE2__)
    sum += (lstm_integers)_mm_madd_epi16((__m128i)even, (__m128i)even_weights);
    return sum + (lstm_integers)_mm_madd_epi16((__m128i)odd, (__m128i)odd_weights);
#else
    sum += (even << 16 >> 16) * ((lstm_integers)even_weights << 16 >> 16);
    sum += (even >> 16) * ((lstm_integers)even_weights >> 16);
    sum += (odd << 16 >> 16) * ((lstm_integers)odd_weights << 16 >> 16);
    return sum + (odd >> 16) * ((lstm_integers)odd_weights >> 16);
#endif
#elif defined(__ARM_FEATURE_SIMD32) && !defined(__ARM_BIG_ENDIAN)
    int16x2_t even, odd;
    uint32_t weights;
    memcpy(&even, factors, sizeof even);
    memcpy(&odd, factors + 2, sizeof odd);
    memcpy(&weights, w, sizeof weights);
    sum = __smlad(even, __sxtb16((int8x4_t)weights), sum);
    return __smlad(odd, __sxtb16((int8x4_t)(weights >> 8 | weights << 24)), sum);
#else
    return sum + factors[0] * w[0] + factors[2] * w[1] + factors[1] * w[2] + factors[3] * w[3];
#endif
}

/* quantised = round(x / scale) for `count` numbers, in fours; returns the scale: 0 if all count as zero, NaN if one is
   infinite or NaN. `space` is for `count` numbers, rounded up to a multiple of 8. */
static float lstm_quantise(size_t count, const float *x, float *space, int16_t *quantised)
{
    const size_t padded = (count + 7) / 8 * 8;
    const float rounding = 12582912.0f; /* 1.5 * 2^23: what is added to it is rounded, and is then in the low bits */
    uint32_t most = 0, bits;
    float largest, inverse;
    size_t k;
    for (k = 0; k < count; k++) {
        space[k] = x[k];
        memcpy(&bits, x + k, sizeof bits);
        bits &= 0x7fffffffu; /* the bits of numbers without sign are in the order of their values */
        most = bits > most ? bits : most;
    }
    for (; k < padded; k++)
        space[k] = 0.0f;
    if (most >= 0x7f800000u || most < 0x0d800000u) { /* not finite; below 2^-100 */
        memset(quantised, 0, padded * sizeof *quantised);
        bits = most >= 0x7f800000u ? 0x7fc00000u : 0;
        memcpy(&largest, &bits, sizeof bits);
        return largest;
    }
    memcpy(&largest, &most, sizeof most);
    inverse = 127.0f / largest;
    for (k = 0; k < padded; k += LSTM_LANES) {
        lstm_vector product = lstm_load(space + k) * lstm_all(inverse);
        LSTM_ROUND(product);
        product = product + lstm_all(rounding);
        LSTM_ROUND(product);
        lstm_store(space + k, product);
    }
    for (k = 0; k < padded; k++) {
        memcpy(&bits, space + k, sizeof bits);
        quantised[k / 4 * 4 + k % 2 * 2 + k % 4 / 2] = (int16_t)((int32_t)bits - 0x4b400000);
    }
    return largest / 127.0f;
}

/* y (columns, a multiple of 8) += scale * scales * the sums of four vectors or one of columns */
LSTM_INLINE void lstm_columns(int vectors, size_t width, size_t fours, const int16_t *factors, float scale,
                              const float *scales, const signed char *w, float *y)
{
    const lstm_integers zero = {0};
    lstm_integers sums[4];
    size_t k;
    int n;
    sums[0] = sums[1] = sums[2] = sums[3] = zero;
    for (k = 0; k < fours; k++, w += 4 * width, factors += 4) {
        sums[0] = lstm_add_fours(sums[0], factors, w);
        if (vectors > 1) {
            sums[1] = lstm_add_fours(sums[1], factors, w + 4 * LSTM_LANES);
            sums[2] = lstm_add_fours(sums[2], factors, w + 8 * LSTM_LANES);
            sums[3] = lstm_add_fours(sums[3], factors, w + 12 * LSTM_LANES);
        }
    }
    for (n = 0; n < vectors; n++, scales += LSTM_LANES, y += LSTM_LANES) {
        const lstm_vector both = lstm_all(scale) * lstm_load(scales);
#if LSTM_LANES > 1
        lstm_vector product = __builtin_convertvector(sums[n], lstm_vector) * both;
#else
        lstm_vector product = (float)sums[n] * both;
#endif
        LSTM_ROUND(product);
        lstm_store(y, lstm_load(y) + product);
    }
}

/* y (columns, a multiple of 8) += the product of `count` numbers x and a matrix of weights with a scale per column */
static void lstm_add_int8(size_t columns, const float *scales, const signed char *w, size_t count, const float *x,
                          float *space, int16_t *quantised, float *y)
{
    const float scale = lstm_quantise(count, x, space, quantised);
    const size_t fours = (count + 3) / 4;
    size_t first, n;
    for (first = 0; first < columns; first += 32) {
        const size_t width = columns - first < 32 ? columns - first : 32;
        for (n = 0; n < width;) {
            if (n + 4 * LSTM_LANES <= width) {
                lstm_columns(4, width, fours, quantised, scale, scales + first + n, w + 4 * n, y + first + n);
                n += 4 * LSTM_LANES;
            } else {
                lstm_columns(1, width, fours, quantised, scale, scales + first + n, w + 4 * n, y + first + n);
                n += LSTM_LANES;
            }
        }
        w += 4 * width * fours;
    }
}
"""
