/* Vectors of floats and of doubles, and the operations on them that the kernels are written with.

   A vector fills a register of the instruction set that the compiler is called for. gcc and clang have such types for
   every processor; for other compilers, and for processors without vectors, one number stands for a vector. The same
   operations exist for single numbers, so that a formula is written once.

   Contraction is off: a * b + c is rounded twice, fma(a, b, c) once where the processor can. */

#ifndef LSTM_CY_VECTOR_H
#define LSTM_CY_VECTOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

/* Whether the compiler has gcc's extensions of C: with Microsoft's headers clang does not say that it is like gcc. */
#if defined(__GNUC__) || defined(__clang__)
#define LSTM_CY_GNU_C 1
#else
#define LSTM_CY_GNU_C 0
#endif

#if LSTM_CY_GNU_C
#define LSTM_CY_INLINE static inline __attribute__((always_inline))
#else
#define LSTM_CY_INLINE static inline
#endif

/* The bytes of a vector; 0: there are none. */
#if defined(LSTM_CY_VECTOR_BYTES)
#define LSTM_CY_EMULATED 1  /* another width than the processor's, to test the kernels for it */
#elif !LSTM_CY_GNU_C
#define LSTM_CY_VECTOR_BYTES 0
#elif defined(__AVX512F__)
#define LSTM_CY_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define LSTM_CY_VECTOR_BYTES 32
#elif defined(__SSE2__) || defined(__ARM_NEON)
#define LSTM_CY_VECTOR_BYTES 16
#else
#define LSTM_CY_VECTOR_BYTES 0
#endif

/* The rows of the largest tile, of four vectors each: as many sums as the registers hold next to the weights and factors
   of one k. clang fills 32 registers of NEON with copies of the factors, so four rows are faster there than six.
   The panels of four vectors that one row takes together, and the bytes of weights up to which it does. A few sums keep
   the processor waiting for each one's last addition, most of all where vectors are short, and two panels are two
   streams of weights, which it prefetches in parallel. With vectors of 64 bytes one panel has enough sums, and on the
   processor that was measured weights from further away than the L1 cache came faster one panel after the other.
   With LANE_FACTORS a lone row's factors are loaded as vectors, of which a multiply-add takes one lane. */
#if LSTM_CY_VECTOR_BYTES == 64
#define LSTM_CY_TILE_ROWS 6
#define LSTM_CY_ROW_PANELS 2
#define LSTM_CY_TOGETHER_BYTES 40960
#elif defined(__aarch64__)
#define LSTM_CY_TILE_ROWS 4
#define LSTM_CY_ROW_PANELS 4
#define LSTM_CY_TOGETHER_BYTES PTRDIFF_MAX
#define LSTM_CY_LANE_FACTORS 1
#else
#define LSTM_CY_TILE_ROWS 3
#define LSTM_CY_ROW_PANELS 2
#define LSTM_CY_TOGETHER_BYTES PTRDIFF_MAX
#endif
#ifndef LSTM_CY_LANE_FACTORS
#define LSTM_CY_LANE_FACTORS 0
#endif

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define LSTM_CY_FMA 1
#else
#define LSTM_CY_FMA 0
#endif

/* Types: v32 and v64 are vectors of floats and doubles, h32 is half of a v32 if that is 64 bytes, else one float. */
#if LSTM_CY_VECTOR_BYTES > 0
#define LSTM_CY_LANES32 (LSTM_CY_VECTOR_BYTES / 4)
#define LSTM_CY_LANES64 (LSTM_CY_VECTOR_BYTES / 8)
typedef float lstm_cy_v32 __attribute__((vector_size(LSTM_CY_VECTOR_BYTES), may_alias));
typedef double lstm_cy_v64 __attribute__((vector_size(LSTM_CY_VECTOR_BYTES), may_alias));
typedef float lstm_cy_v32_at __attribute__((vector_size(LSTM_CY_VECTOR_BYTES), may_alias, aligned(4)));
typedef double lstm_cy_v64_at __attribute__((vector_size(LSTM_CY_VECTOR_BYTES), may_alias, aligned(8)));
typedef int32_t lstm_cy_i32 __attribute__((vector_size(LSTM_CY_VECTOR_BYTES), may_alias));
typedef int64_t lstm_cy_i64 __attribute__((vector_size(LSTM_CY_VECTOR_BYTES), may_alias));
typedef uint32_t lstm_cy_u32 __attribute__((vector_size(LSTM_CY_VECTOR_BYTES), may_alias));
typedef uint64_t lstm_cy_u64 __attribute__((vector_size(LSTM_CY_VECTOR_BYTES), may_alias));
#else
#define LSTM_CY_LANES32 1
#define LSTM_CY_LANES64 1
typedef float lstm_cy_v32, lstm_cy_v32_at;
typedef double lstm_cy_v64, lstm_cy_v64_at;
typedef int32_t lstm_cy_i32;
typedef int64_t lstm_cy_i64;
typedef uint32_t lstm_cy_u32;
typedef uint64_t lstm_cy_u64;
#endif
#if LSTM_CY_VECTOR_BYTES == 64
#define LSTM_CY_HALVES 1
#define LSTM_CY_HALF_LANES32 8
typedef float lstm_cy_h32 __attribute__((vector_size(32), may_alias));
typedef float lstm_cy_h32_at __attribute__((vector_size(32), may_alias, aligned(4)));
typedef int32_t lstm_cy_hi32 __attribute__((vector_size(32), may_alias));
typedef uint32_t lstm_cy_hu32 __attribute__((vector_size(32), may_alias));
#else
#define LSTM_CY_HALVES 0
#define LSTM_CY_HALF_LANES32 1
typedef float lstm_cy_h32, lstm_cy_h32_at;
typedef int32_t lstm_cy_hi32;
typedef uint32_t lstm_cy_hu32;
#endif

/* fma of single numbers */
LSTM_CY_INLINE float lstm_cy_fma_float(float a, float b, float c) {
#if LSTM_CY_FMA
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}
LSTM_CY_INLINE double lstm_cy_fma_double(double a, double b, double c) {
#if LSTM_CY_FMA
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

/* fma of vectors. Compilers find the instruction in a * b + c only where they may contract, and would then also do it
   elsewhere. Where there is no intrinsic function for a width, each lane is computed alone: right, but slow. */
#define LSTM_CY_FMA_BY_LANES(vector, number, a, b, c) \
    do { \
        vector out = c; \
        for (size_t lane = 0; lane < sizeof(vector) / sizeof(number); lane++) \
            out[lane] = lstm_cy_fma_##number(a[lane], b[lane], c[lane]); \
        return out; \
    } while (0)

LSTM_CY_INLINE lstm_cy_v32 lstm_cy_fma_v32(lstm_cy_v32 a, lstm_cy_v32 b, lstm_cy_v32 c) {
#if LSTM_CY_VECTOR_BYTES == 0
    return lstm_cy_fma_float(a, b, c);
#elif !LSTM_CY_FMA
    return a * b + c;
#elif LSTM_CY_VECTOR_BYTES == 64 && defined(__AVX512F__)
    return (lstm_cy_v32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif LSTM_CY_VECTOR_BYTES == 32 && defined(__AVX2__)
    return (lstm_cy_v32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif LSTM_CY_VECTOR_BYTES == 16 && defined(__SSE2__)
    return (lstm_cy_v32)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#elif LSTM_CY_VECTOR_BYTES == 16 && defined(__aarch64__)
    return (lstm_cy_v32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    LSTM_CY_FMA_BY_LANES(lstm_cy_v32, float, a, b, c);
#endif
}
LSTM_CY_INLINE lstm_cy_v64 lstm_cy_fma_v64(lstm_cy_v64 a, lstm_cy_v64 b, lstm_cy_v64 c) {
#if LSTM_CY_VECTOR_BYTES == 0
    return lstm_cy_fma_double(a, b, c);
#elif !LSTM_CY_FMA
    return a * b + c;
#elif LSTM_CY_VECTOR_BYTES == 64 && defined(__AVX512F__)
    return (lstm_cy_v64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif LSTM_CY_VECTOR_BYTES == 32 && defined(__AVX2__)
    return (lstm_cy_v64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif LSTM_CY_VECTOR_BYTES == 16 && defined(__SSE2__)
    return (lstm_cy_v64)_mm_fmadd_pd((__m128d)a, (__m128d)b, (__m128d)c);
#elif LSTM_CY_VECTOR_BYTES == 16 && defined(__aarch64__)
    return (lstm_cy_v64)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    LSTM_CY_FMA_BY_LANES(lstm_cy_v64, double, a, b, c);
#endif
}
LSTM_CY_INLINE lstm_cy_h32 lstm_cy_fma_h32(lstm_cy_h32 a, lstm_cy_h32 b, lstm_cy_h32 c) {
#if !LSTM_CY_HALVES
    return lstm_cy_fma_float(a, b, c);
#elif LSTM_CY_FMA
    return (lstm_cy_h32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/* above(x, y, yes, no): in each lane x > y ? yes : no; at_most: x <= y ? yes : no. For NaN both give `no`. */
#define LSTM_CY_BY_MASK(vector, integers, condition, yes, no) \
    integers mask = (integers)(condition); \
    return (vector)((mask & (integers)yes) | (~mask & (integers)no));

#if LSTM_CY_VECTOR_BYTES == 0
#define LSTM_CY_SELECT(name, sign, intel) \
    LSTM_CY_INLINE float lstm_cy_##name##_v32(float x, float y, float yes, float no) { return x sign y ? yes : no; } \
    LSTM_CY_INLINE double lstm_cy_##name##_v64(double x, double y, double yes, double no) { return x sign y ? yes : no; }
#elif LSTM_CY_VECTOR_BYTES == 64 && defined(__AVX512F__)
#define LSTM_CY_SELECT(name, sign, intel) \
    LSTM_CY_INLINE lstm_cy_v32 lstm_cy_##name##_v32(lstm_cy_v32 x, lstm_cy_v32 y, lstm_cy_v32 yes, lstm_cy_v32 no) { \
        return (lstm_cy_v32)_mm512_mask_blend_ps( \
            _mm512_cmp_ps_mask((__m512)x, (__m512)y, intel), (__m512)no, (__m512)yes); \
    } \
    LSTM_CY_INLINE lstm_cy_v64 lstm_cy_##name##_v64(lstm_cy_v64 x, lstm_cy_v64 y, lstm_cy_v64 yes, lstm_cy_v64 no) { \
        return (lstm_cy_v64)_mm512_mask_blend_pd( \
            _mm512_cmp_pd_mask((__m512d)x, (__m512d)y, intel), (__m512d)no, (__m512d)yes); \
    }
#elif LSTM_CY_VECTOR_BYTES == 32 && defined(__AVX2__)
#define LSTM_CY_SELECT(name, sign, intel) \
    LSTM_CY_INLINE lstm_cy_v32 lstm_cy_##name##_v32(lstm_cy_v32 x, lstm_cy_v32 y, lstm_cy_v32 yes, lstm_cy_v32 no) { \
        return (lstm_cy_v32)_mm256_blendv_ps( \
            (__m256)no, (__m256)yes, _mm256_cmp_ps((__m256)x, (__m256)y, intel)); \
    } \
    LSTM_CY_INLINE lstm_cy_v64 lstm_cy_##name##_v64(lstm_cy_v64 x, lstm_cy_v64 y, lstm_cy_v64 yes, lstm_cy_v64 no) { \
        return (lstm_cy_v64)_mm256_blendv_pd( \
            (__m256d)no, (__m256d)yes, _mm256_cmp_pd((__m256d)x, (__m256d)y, intel)); \
    }
#else
#define LSTM_CY_SELECT(name, sign, intel) \
    LSTM_CY_INLINE lstm_cy_v32 lstm_cy_##name##_v32(lstm_cy_v32 x, lstm_cy_v32 y, lstm_cy_v32 yes, lstm_cy_v32 no) { \
        LSTM_CY_BY_MASK(lstm_cy_v32, lstm_cy_i32, x sign y, yes, no) \
    } \
    LSTM_CY_INLINE lstm_cy_v64 lstm_cy_##name##_v64(lstm_cy_v64 x, lstm_cy_v64 y, lstm_cy_v64 yes, lstm_cy_v64 no) { \
        LSTM_CY_BY_MASK(lstm_cy_v64, lstm_cy_i64, x sign y, yes, no) \
    }
#endif
#if LSTM_CY_HALVES
#define LSTM_CY_SELECT_HALF(name, sign) \
    LSTM_CY_INLINE lstm_cy_h32 lstm_cy_##name##_h32(lstm_cy_h32 x, lstm_cy_h32 y, lstm_cy_h32 yes, lstm_cy_h32 no) { \
        LSTM_CY_BY_MASK(lstm_cy_h32, lstm_cy_hi32, x sign y, yes, no) \
    }
#else
#define LSTM_CY_SELECT_HALF(name, sign) \
    LSTM_CY_INLINE float lstm_cy_##name##_h32(float x, float y, float yes, float no) { return x sign y ? yes : no; }
#endif
LSTM_CY_SELECT(above, >, _CMP_GT_OQ)
LSTM_CY_SELECT_HALF(above, >)
LSTM_CY_SELECT(at_most, <=, _CMP_LE_OQ)
LSTM_CY_SELECT_HALF(at_most, <=)

/* pow2(shifted): 2^n, where n + 1.5 * 2^(mantissa bits) is given. n is then in the low bits, and moves to the exponent. */
LSTM_CY_INLINE float lstm_cy_pow2_float(float shifted) {
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000u;
    memcpy(&shifted, &bits, sizeof bits);
    return shifted;
}
LSTM_CY_INLINE double lstm_cy_pow2_double(double shifted) {
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 52) + 0x3ff0000000000000u;
    memcpy(&shifted, &bits, sizeof bits);
    return shifted;
}
#if LSTM_CY_VECTOR_BYTES > 0
LSTM_CY_INLINE lstm_cy_v32 lstm_cy_pow2_v32(lstm_cy_v32 shifted) {
    return (lstm_cy_v32)(((lstm_cy_u32)shifted << 23) + 0x3f800000u);
}
LSTM_CY_INLINE lstm_cy_v64 lstm_cy_pow2_v64(lstm_cy_v64 shifted) {
    return (lstm_cy_v64)(((lstm_cy_u64)shifted << 52) + 0x3ff0000000000000u);
}
#else
#define lstm_cy_pow2_v32 lstm_cy_pow2_float
#define lstm_cy_pow2_v64 lstm_cy_pow2_double
#endif
#if LSTM_CY_HALVES
LSTM_CY_INLINE lstm_cy_h32 lstm_cy_pow2_h32(lstm_cy_h32 shifted) {
    return (lstm_cy_h32)(((lstm_cy_hu32)shifted << 23) + 0x3f800000u);
}
#else
#define lstm_cy_pow2_h32 lstm_cy_pow2_float
#endif

/* For each type: all(x), x in every lane; lane(x, i), lane i of x in every lane; load and store at any address; each(p),
   the number at p in every lane; keep(x), x in a register. Without `keep` compilers read a vector that is used often from
   memory each time. */
#if LSTM_CY_VECTOR_BYTES == 0 || defined(LSTM_CY_EMULATED)
#define LSTM_CY_KEEP(x) (void)0
#elif defined(__SSE2__)
#define LSTM_CY_KEEP(x) __asm__("" : "+v"(x))
#elif defined(__aarch64__)
#define LSTM_CY_KEEP(x) __asm__("" : "+w"(x))
#else
#define LSTM_CY_KEEP(x) (void)0
#endif
#if LSTM_CY_VECTOR_BYTES > 0
#define LSTM_CY_ALL(vector, x) ((x) - (vector){0})  /* minus, so that -0.0 stays what it is */
#define LSTM_CY_LANE(x, i) (x)[i]
#else
#define LSTM_CY_ALL(vector, x) (x)
#define LSTM_CY_LANE(x, i) (x)
#endif
#if LSTM_CY_HALVES
#define LSTM_CY_ALL_HALF(x) ((x) - (lstm_cy_h32){0})
#define LSTM_CY_LANE_HALF(x, i) (x)[i]
#else
#define LSTM_CY_ALL_HALF(x) (x)
#define LSTM_CY_LANE_HALF(x, i) (x)
#endif
#define LSTM_CY_MEMORY(name, vector, number, all, one) \
    LSTM_CY_INLINE vector lstm_cy_all_##name(number x) { return all; } \
    LSTM_CY_INLINE vector lstm_cy_lane_##name(vector x, int i) { (void)i; return lstm_cy_all_##name(one); } \
    LSTM_CY_INLINE vector lstm_cy_load_##name(const void* p) { return *(const vector##_at*)p; } \
    LSTM_CY_INLINE void lstm_cy_store_##name(void* p, vector x) { *(vector##_at*)p = x; } \
    LSTM_CY_INLINE vector lstm_cy_each_##name(const void* p) { return lstm_cy_all_##name(*(const number*)p); }
LSTM_CY_MEMORY(v32, lstm_cy_v32, float, LSTM_CY_ALL(lstm_cy_v32, x), LSTM_CY_LANE(x, i))
LSTM_CY_MEMORY(v64, lstm_cy_v64, double, LSTM_CY_ALL(lstm_cy_v64, x), LSTM_CY_LANE(x, i))
LSTM_CY_MEMORY(h32, lstm_cy_h32, float, LSTM_CY_ALL_HALF(x), LSTM_CY_LANE_HALF(x, i))
#undef LSTM_CY_MEMORY
LSTM_CY_INLINE lstm_cy_v32 lstm_cy_keep_v32(lstm_cy_v32 x) { LSTM_CY_KEEP(x); return x; }
LSTM_CY_INLINE lstm_cy_v64 lstm_cy_keep_v64(lstm_cy_v64 x) { LSTM_CY_KEEP(x); return x; }
#if LSTM_CY_HALVES
LSTM_CY_INLINE lstm_cy_h32 lstm_cy_keep_h32(lstm_cy_h32 x) { LSTM_CY_KEEP(x); return x; }
#else
LSTM_CY_INLINE lstm_cy_h32 lstm_cy_keep_h32(lstm_cy_h32 x) { return x; }
#endif

/* bf16, the upper half of a float. Factors are taken in pairs, so many floats each: one, which holds both bf16, where the
   processor has a dot product of pairs; else two, rounded to bf16. A pair of weights is always one float: the first in
   the low half, the second in the high half. */
#if !defined(LSTM_CY_PAIR_FLOATS)
#if LSTM_CY_VECTOR_BYTES == 64 && defined(__AVX512BF16__) && defined(__AVX512VL__)
#define LSTM_CY_PAIR_FLOATS 1
#else
#define LSTM_CY_PAIR_FLOATS 2
#endif
#endif
/* The rows of the largest tile in bf16: with 16 registers six rows by half a panel, where float32 has three by a panel. */
#if LSTM_CY_TILE_ROWS == 3 && LSTM_CY_PAIR_FLOATS == 2
#define LSTM_CY_PAIR_ROWS 6
#else
#define LSTM_CY_PAIR_ROWS LSTM_CY_TILE_ROWS
#endif

LSTM_CY_INLINE float lstm_cy_float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
LSTM_CY_INLINE uint32_t lstm_cy_bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* round: x rounded to bf16, to nearest, ties to even. Denormal numbers become zero, NaN stays NaN.
   first, second: of a pair, as floats; pair(a, b): of two floats that were rounded.
   add_pairs(a, b, sum): in each lane fma(a's first, b's first, fma(a's second, b's second, sum)). So the dot product of
   x86 does it, to the bit. */
LSTM_CY_INLINE float lstm_cy_round_float(float x) {
    const uint32_t bits = lstm_cy_bits_of(x);
    const uint32_t shifted = bits + 0x7fffu + (bits >> 16 & 1u);
    const uint32_t quiet = bits | 0x00400000u;
    const uint32_t sign = bits & 0x80000000u;
    return lstm_cy_float_of((x != x ? quiet : bits & 0x7f800000u ? shifted : sign) & 0xffff0000u);
}
LSTM_CY_INLINE float lstm_cy_first_float(float pair) { return lstm_cy_float_of(lstm_cy_bits_of(pair) << 16); }
LSTM_CY_INLINE float lstm_cy_second_float(float pair) { return lstm_cy_float_of(lstm_cy_bits_of(pair) & 0xffff0000u); }
LSTM_CY_INLINE float lstm_cy_pair_float(float a, float b) {
    return lstm_cy_float_of(lstm_cy_bits_of(a) >> 16 | lstm_cy_bits_of(b));
}
#if LSTM_CY_VECTOR_BYTES == 32 && defined(__AVX2__) && !defined(LSTM_CY_EMULATED)
/* The mask is read from memory: a tile of six rows by half a panel needs all 16 registers for the rest, and gcc would
   keep a sum in memory instead, whose additions then wait for its stores. */
static const uint32_t lstm_cy_high_halves[8] __attribute__((aligned(32))) = {
    0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u};
#define LSTM_CY_SECOND(vector, integers, pair) \
    vector high; \
    __asm__("vpand {%2, %1, %0|%0, %1, %2}" : "=x"(high) : "x"(pair), "m"(lstm_cy_high_halves)); \
    return high;
#else
#define LSTM_CY_SECOND(vector, integers, pair) return (vector)((integers)pair & 0xffff0000u);
#endif
#define LSTM_CY_PAIRS(name, vector, integers) \
    LSTM_CY_INLINE vector lstm_cy_round_##name(vector x) { \
        const integers bits = (integers)x; \
        const integers shifted = bits + 0x7fffu + (bits >> 16 & 1u); \
        const integers odd = (integers)(x != x) & (bits | 0x00400000u); \
        const integers even = (integers)(x == x) & (integers)((bits & 0x7f800000u) != 0) & shifted; \
        return (vector)((odd | even | (bits & 0x80000000u)) & 0xffff0000u); \
    } \
    LSTM_CY_INLINE vector lstm_cy_first_##name(vector pair) { return (vector)((integers)pair << 16); } \
    LSTM_CY_INLINE vector lstm_cy_second_##name(vector pair) { LSTM_CY_SECOND(vector, integers, pair) } \
    LSTM_CY_INLINE vector lstm_cy_pair_##name(vector a, vector b) { return (vector)((integers)a >> 16 | (integers)b); }
#if LSTM_CY_VECTOR_BYTES > 0
LSTM_CY_PAIRS(v32, lstm_cy_v32, lstm_cy_u32)
LSTM_CY_INLINE lstm_cy_v32 lstm_cy_floats_of(lstm_cy_i32 x) { return __builtin_convertvector(x, lstm_cy_v32); }
#else
#define lstm_cy_round_v32 lstm_cy_round_float
#define lstm_cy_first_v32 lstm_cy_first_float
#define lstm_cy_second_v32 lstm_cy_second_float
#define lstm_cy_pair_v32 lstm_cy_pair_float
LSTM_CY_INLINE float lstm_cy_floats_of(int32_t x) { return (float)x; }
#endif
#if LSTM_CY_HALVES
LSTM_CY_PAIRS(h32, lstm_cy_h32, lstm_cy_hu32)
#else
#define lstm_cy_first_h32 lstm_cy_first_float
#define lstm_cy_second_h32 lstm_cy_second_float
#endif
#undef LSTM_CY_PAIRS
#undef LSTM_CY_SECOND

LSTM_CY_INLINE lstm_cy_v32 lstm_cy_add_pairs_v32(lstm_cy_v32 a, lstm_cy_v32 b, lstm_cy_v32 sum) {
#if LSTM_CY_VECTOR_BYTES == 64 && defined(__AVX512BF16__)
    return (lstm_cy_v32)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum = lstm_cy_fma_v32(lstm_cy_second_v32(a), lstm_cy_second_v32(b), sum);
    return lstm_cy_fma_v32(lstm_cy_first_v32(a), lstm_cy_first_v32(b), sum);
#endif
}
LSTM_CY_INLINE lstm_cy_h32 lstm_cy_add_pairs_h32(lstm_cy_h32 a, lstm_cy_h32 b, lstm_cy_h32 sum) {
#if LSTM_CY_HALVES && defined(__AVX512BF16__) && defined(__AVX512VL__)
    return (lstm_cy_h32)_mm256_dpbf16_ps((__m256)sum, (__m256bh)a, (__m256bh)b);
#else
    sum = lstm_cy_fma_h32(lstm_cy_second_h32(a), lstm_cy_second_h32(b), sum);
    return lstm_cy_fma_h32(lstm_cy_first_h32(a), lstm_cy_first_h32(b), sum);
#endif
}

/* Store a vector's numbers, an even count of them from an even place on, as factors in pairs. */
LSTM_CY_INLINE void lstm_cy_store_factors(float* pairs, lstm_cy_v32 x) {
#if LSTM_CY_PAIR_FLOATS == 2
    lstm_cy_store_v32(pairs, lstm_cy_round_v32(x));
#elif defined(__AVX512BF16__)
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)x);
    memcpy(pairs, &rounded, sizeof rounded);
#else
    const lstm_cy_v32 rounded = lstm_cy_round_v32(x);
    for (int lane = 0; lane < LSTM_CY_LANES32 / 2; lane++)
        pairs[lane] = lstm_cy_pair_float(rounded[2 * lane], rounded[2 * lane + 1]);
#endif
}

/* int8: sums of products of four numbers of a row, from -127 to 127, and four weights of each lane's column, exactly.

   Where the processor has dot products of bytes, a row's numbers are bytes. To be signed or unsigned as it needs them,
   they have LSTM_CY_INT8_OFFSET added, and sums start at minus the offset times the column's weights. Else, with
   LSTM_CY_INT8_PAIRS, a panel has w + 128 for each weight w, and there are two ways:

   - For any numbers: 16-bit numbers are multiplied and added in pairs. Of each two weights u, v a panel has the bytes
     u + 128, v + 128. With the upper sign changed back they are the 16-bit number low = 256 v + (u + 128), whose upper
     half, high, is v. What is too much in a low is corrected by the other factor:
         low a + high (b - 256 a) = u a + v b + 128 a.
     So a row has the pairs (a0, a2), (a1 - 256 a0, a3 - 256 a2), of at most 32639, and all its sums start at -128 times
     the sum of its numbers a0, a2.
   - With LSTM_CY_INT8_BYTES and for a lone row: unsigned bytes are multiplied by signed ones, and the products of two
     are added in 16 bits. That is exact if |a0| + |a1| and |a2| + |a3| are at most 128: 128 * 255 < 2^15. Where they are
     more, the four goes twice, with one half of each number and then with the other. Sums start at -128 times the sum of
     all numbers. */
#if LSTM_CY_VECTOR_BYTES == 0
#define LSTM_CY_INT8_PAIRS 0
#define LSTM_CY_INT8_OFFSET 128
#elif defined(LSTM_CY_EMULATED)
#define LSTM_CY_INT8_PAIRS 1
#define LSTM_CY_INT8_OFFSET 0
#elif defined(__aarch64__)
#define LSTM_CY_INT8_PAIRS 0
#define LSTM_CY_INT8_OFFSET 0
#elif (LSTM_CY_VECTOR_BYTES == 64 && defined(__AVX512VNNI__)) || (LSTM_CY_VECTOR_BYTES == 32 && defined(__AVXVNNI__))
#define LSTM_CY_INT8_PAIRS 0
#define LSTM_CY_INT8_OFFSET 128
#else
#define LSTM_CY_INT8_PAIRS 1
#define LSTM_CY_INT8_OFFSET 0
#endif
/* The rows of the largest tile in int8, and the vectors across a tile of more than three rows. In 16 registers six rows by
   two vectors share the widened weights of four k among twice as many rows as three by four. */
#if LSTM_CY_TILE_ROWS == 3 && LSTM_CY_INT8_PAIRS
#define LSTM_CY_INT8_ROWS 6
#define LSTM_CY_INT8_ACROSS 2
#else
#define LSTM_CY_INT8_ROWS LSTM_CY_TILE_ROWS
#define LSTM_CY_INT8_ACROSS 4
#endif

#if LSTM_CY_VECTOR_BYTES > 0
typedef int16_t lstm_cy_i16 __attribute__((vector_size(LSTM_CY_VECTOR_BYTES), may_alias));
#endif
LSTM_CY_INLINE lstm_cy_i32 lstm_cy_load_i32(const void* p) { return *(const lstm_cy_i32*)p; }
LSTM_CY_INLINE lstm_cy_i32 lstm_cy_keep_i32(lstm_cy_i32 x) { LSTM_CY_KEEP(x); return x; }
LSTM_CY_INLINE lstm_cy_i32 lstm_cy_each_i32(const void* p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
#if LSTM_CY_VECTOR_BYTES > 0
    return (lstm_cy_i32){0} + x;
#else
    return x;
#endif
}

/* low, high: the 16-bit numbers of weights and their upper halves, or without pairs the weights. */
LSTM_CY_INLINE lstm_cy_i32 lstm_cy_low_i32(lstm_cy_i32 weights) {
#if LSTM_CY_INT8_PAIRS
    return weights ^ (int32_t)0x80008000u;
#else
    return weights;
#endif
}
LSTM_CY_INLINE lstm_cy_i32 lstm_cy_high_i32(lstm_cy_i32 weights) {
#if LSTM_CY_INT8_PAIRS
    return (lstm_cy_i32)((lstm_cy_i16)weights >> 8);
#else
    return weights;
#endif
}

/* factor: four numbers of a row for add_fours, or with pairs the first or the second pair. */
LSTM_CY_INLINE lstm_cy_i32 lstm_cy_factor(const void* a) {
#if LSTM_CY_VECTOR_BYTES > 0 && defined(__ARM_FEATURE_DOTPROD) && !LSTM_CY_INT8_PAIRS
    /* Only the first lane is used. With zeros in the others compilers load a and need no instruction to repeat it. */
    float four;
    memcpy(&four, a, sizeof four);
    const float32x4_t lanes = {four, 0, 0, 0};
    return (lstm_cy_i32)lanes;
#else
    return lstm_cy_keep_i32(lstm_cy_each_i32(a));
#endif
}

#if LSTM_CY_INT8_PAIRS
/* For each lane the sum of the products of two pairs of 16-bit numbers. */
LSTM_CY_INLINE lstm_cy_i32 lstm_cy_add_pair(lstm_cy_i32 sum, lstm_cy_i32 a, lstm_cy_i32 w) {
#if LSTM_CY_VECTOR_BYTES == 64 && defined(__AVX512BW__)
    return sum + (lstm_cy_i32)_mm512_madd_epi16((__m512i)a, (__m512i)w);
#elif LSTM_CY_VECTOR_BYTES == 32 && defined(__AVX2__)
    return sum + (lstm_cy_i32)_mm256_madd_epi16((__m256i)a, (__m256i)w);
#elif LSTM_CY_VECTOR_BYTES == 16 && defined(__SSE2__)
    return sum + (lstm_cy_i32)_mm_madd_epi16((__m128i)a, (__m128i)w);
#else
    return sum + (a << 16 >> 16) * (w << 16 >> 16) + (a >> 16) * (w >> 16);
#endif
}
#endif
LSTM_CY_INLINE lstm_cy_i32 lstm_cy_add_fours(lstm_cy_i32 sum, lstm_cy_i32 first, lstm_cy_i32 second,
                                             lstm_cy_i32 weights, lstm_cy_i32 high) {
#if LSTM_CY_INT8_PAIRS
    return lstm_cy_add_pair(lstm_cy_add_pair(sum, first, weights), second, high);
#else
    (void)second;
    (void)high;
#if LSTM_CY_VECTOR_BYTES == 0
    uint8_t a[4];
    int8_t w[4];
    memcpy(a, &first, sizeof a);
    memcpy(w, &weights, sizeof w);
    return sum + a[0] * w[0] + a[1] * w[1] + a[2] * w[2] + a[3] * w[3];
#elif LSTM_CY_VECTOR_BYTES == 64
    return (lstm_cy_i32)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)first, (__m512i)weights);
#elif LSTM_CY_VECTOR_BYTES == 32
    return (lstm_cy_i32)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)first, (__m256i)weights);
#elif defined(__ARM_FEATURE_DOTPROD)
    return (lstm_cy_i32)vdotq_laneq_s32((int32x4_t)sum, (int8x16_t)weights, (int8x16_t)first, 0);
#else
    /* Two products, each at most 127 * 128, are added in 16 bits. */
    const int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)weights), vget_low_s8((int8x16_t)first));
    const int16x8_t upper = vmull_high_s8((int8x16_t)weights, (int8x16_t)first);
    return (lstm_cy_i32)vpadalq_s16((int32x4_t)sum, vpaddq_s16(low, upper));
#endif
#endif
}

/* The larger of the bits of two floats, without their signs. */
LSTM_CY_INLINE lstm_cy_i32 lstm_cy_larger(lstm_cy_i32 most, lstm_cy_v32 x) {
#if LSTM_CY_VECTOR_BYTES == 0
    const int32_t bits = (int32_t)(lstm_cy_bits_of(x) & 0x7fffffffu);
    return bits > most ? bits : most;
#else
    const lstm_cy_i32 bits = (lstm_cy_i32)x & 0x7fffffff;
#if LSTM_CY_VECTOR_BYTES == 64 && defined(__AVX512F__)
    return (lstm_cy_i32)_mm512_max_epi32((__m512i)bits, (__m512i)most);
#elif LSTM_CY_VECTOR_BYTES == 32 && defined(__AVX2__)
    return (lstm_cy_i32)_mm256_max_epi32((__m256i)bits, (__m256i)most);
#elif LSTM_CY_VECTOR_BYTES == 16 && defined(__aarch64__)
    return (lstm_cy_i32)vmaxq_s32((int32x4_t)bits, (int32x4_t)most);
#else
    const lstm_cy_i32 above = bits > most;
    return (above & bits) | (~above & most);
#endif
#endif
}

/* Round a vector's numbers, of at most 127, to whole ones, ties to even. */
LSTM_CY_INLINE lstm_cy_i32 lstm_cy_whole(lstm_cy_v32 x) {
    /* The sum with 1.5 * 2^23 has them in its low bits. */
#if LSTM_CY_VECTOR_BYTES == 0
    return (int32_t)(lstm_cy_bits_of(x + 12582912.0f) - 0x4b400000u);
#else
    return (lstm_cy_i32)(x + 12582912.0f) - 0x4b400000;
#endif
}

#if LSTM_CY_INT8_PAIRS && \
    ((defined(LSTM_CY_EMULATED) && LSTM_CY_VECTOR_BYTES > 16) || (LSTM_CY_VECTOR_BYTES == 64 && defined(__AVX512BW__)) || \
     (LSTM_CY_VECTOR_BYTES == 32 && defined(__AVX2__)))
#define LSTM_CY_INT8_BYTES 1
#else
#define LSTM_CY_INT8_BYTES 0
#endif
/* For each lane the sum and the products of four bytes of weights + 128 and of a. */
LSTM_CY_INLINE lstm_cy_i32 lstm_cy_add_bytes(lstm_cy_i32 sum, lstm_cy_i32 weights, lstm_cy_i32 a) {
#if !LSTM_CY_INT8_BYTES
    (void)weights;
    (void)a;
    return sum;
#elif LSTM_CY_VECTOR_BYTES == 64 && defined(__AVX512BW__)
    const __m512i pairs = _mm512_maddubs_epi16((__m512i)weights, (__m512i)a);
    return sum + (lstm_cy_i32)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif LSTM_CY_VECTOR_BYTES == 32 && defined(__AVX2__)
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)weights, (__m256i)a);
    return sum + (lstm_cy_i32)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    const lstm_cy_i16 w = (lstm_cy_i16)weights, factors = (lstm_cy_i16)a;
    const lstm_cy_i16 pairs = (w & (int16_t)255) * (factors << 8 >> 8) + (w >> 8 & (int16_t)255) * (factors >> 8);
    return sum + ((lstm_cy_i32)pairs << 16 >> 16) + ((lstm_cy_i32)pairs >> 16);
#endif
}

/* Append two fours of numbers to a list for add_bytes, each with its place, once or in halves; return the new length. */
LSTM_CY_INLINE int lstm_cy_list_fours(int32_t* list, int length, const int32_t* numbers, int place, int step) {
    int32_t whole[2], half[2], rest[2];
    int twice[2];
#if defined(__AVX2__)
    const __m256i given = _mm256_loadu_si256((const __m256i*)numbers), less = _mm256_srai_epi32(given, 1);
    const __m256i size = _mm256_abs_epi32(given), sums = _mm256_add_epi32(size, _mm256_srli_epi64(size, 32));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const int large = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(sums, _mm256_set1_epi32(128))));
    const __m256i words = _mm256_packs_epi16(_mm256_packs_epi32(given, less),
                                             _mm256_packs_epi32(_mm256_sub_epi32(given, less), given));
    int32_t bytes[8];
    _mm256_storeu_si256((__m256i*)bytes, _mm256_permutevar8x32_epi32(words, order));
    memcpy(whole, bytes, sizeof whole);
    memcpy(half, bytes + 2, sizeof half);
    memcpy(rest, bytes + 4, sizeof rest);
    twice[0] = (large & 0x05) != 0;
    twice[1] = (large & 0x50) != 0;
#else
    for (int four = 0; four < 2; four++) {
        const int32_t* a = numbers + 4 * four;
        int8_t bytes[3][4];
        for (int k = 0; k < 4; k++) {
            bytes[0][k] = (int8_t)a[k];
            bytes[1][k] = (int8_t)(a[k] >> 1);
            bytes[2][k] = (int8_t)(a[k] - (a[k] >> 1));
        }
        memcpy(whole + four, bytes[0], 4);
        memcpy(half + four, bytes[1], 4);
        memcpy(rest + four, bytes[2], 4);
        twice[four] = (a[0] < 0 ? -a[0] : a[0]) + (a[1] < 0 ? -a[1] : a[1]) > 128
            || (a[2] < 0 ? -a[2] : a[2]) + (a[3] < 0 ? -a[3] : a[3]) > 128;
    }
#endif
    for (int four = 0; four < 2; four++) {  /* without branches, which would be mispredicted */
        list[2 * length] = list[2 * length + 2] = place + four * step;
        list[2 * length + 1] = twice[four] ? half[four] : whole[four];
        list[2 * length + 3] = rest[four];
        length += 1 + twice[four];
    }
    return length;
}

/* Store whole numbers, a vector of them, as a row's numbers for `factor`; with pairs it starts at a multiple of four and
   has at least four. Return what the row's sums start at less than 0, in parts: one for each lane. */
LSTM_CY_INLINE lstm_cy_i32 lstm_cy_store_fours(void* to, lstm_cy_i32 numbers) {
#if LSTM_CY_INT8_PAIRS
#if LSTM_CY_VECTOR_BYTES == 32 && defined(__AVX2__)
    const __m256i corrected = _mm256_slli_epi64((__m256i)numbers, 40);  /* 256 times each even lane, in the next one */
    const __m256i pairs = _mm256_sub_epi32((__m256i)numbers, corrected);
    const __m256i narrow = _mm256_permute4x64_epi64(_mm256_packs_epi32(pairs, pairs), 0x08);
    const __m128i sorted = _mm_shufflehi_epi16(_mm_shufflelo_epi16(_mm256_castsi256_si128(narrow), 0xd8), 0xd8);
    _mm_storeu_si128((__m128i*)to, sorted);
    return (lstm_cy_i32)_mm256_srai_epi32(corrected, 1);
#else
    int16_t narrow[LSTM_CY_LANES32];
    lstm_cy_i32 less = {0};
    for (int lane = 0; lane < LSTM_CY_LANES32; lane++) {
        const int place = (lane & ~3) + (lane & 1) * 2 + (lane & 2) / 2;
        less[lane] = lane % 2 ? numbers[lane - 1] * 128 : 0;
        narrow[place] = (int16_t)(numbers[lane] - 2 * less[lane]);
    }
    memcpy(to, narrow, sizeof narrow);
    return less;
#endif
#elif LSTM_CY_VECTOR_BYTES == 0
    *(uint8_t*)to = (uint8_t)(numbers + LSTM_CY_INT8_OFFSET);
    return 0;
#else
#if LSTM_CY_VECTOR_BYTES == 64 && defined(__AVX512F__)
    _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8((__m512i)(numbers + LSTM_CY_INT8_OFFSET)));
#else
    uint8_t narrow[LSTM_CY_LANES32];
    for (int lane = 0; lane < LSTM_CY_LANES32; lane++)
        narrow[lane] = (uint8_t)(numbers[lane] + LSTM_CY_INT8_OFFSET);
    memcpy(to, narrow, sizeof narrow);
#endif
    return (lstm_cy_i32){0};
#endif
}

#endif
