"""Vectors of floats in C: as wide as the target's, or one float where there are none."""

#: ``@EXACT@`` is 1 where every target must compute an fma exactly, else 0
VECTORS = r"""
/* Vectors.

   gcc and clang have vectors for x86 (AVX2, or SSE2), 64-bit ARM and WebAssembly (-msimd128). On other targets, and
   with Microsoft's compiler, one float stands for a vector: the results are right, but it is slower. All numbers are
   summed in an order that does not depend on the width, so the results are the same.

   a * b + c is rounded twice, and lstm_fma(a, b, c) once where the processor can. LSTM_ROUND(x) keeps compilers from
   making an fma of a product x and the addition that follows. */

#if defined(__GNUC__) && defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define LSTM_LANES 8
#elif defined(__GNUC__) && defined(__SSE2__)
#include <immintrin.h>
#define LSTM_LANES 4
#elif defined(__GNUC__) && defined(__aarch64__) && !defined(__AARCH64EB__)
#include <arm_neon.h>
#define LSTM_LANES 4
#elif defined(__GNUC__) && defined(__wasm_simd128__)
#define LSTM_LANES 4
#else
#define LSTM_LANES 1
#endif

#if defined(__GNUC__)
#define LSTM_INLINE static inline __attribute__((always_inline, unused))
#elif defined(_MSC_VER)
#define LSTM_INLINE static __forceinline
#else
#define LSTM_INLINE static inline
#endif

#if defined(__wasm_relaxed_simd__)
#include <wasm_simd128.h>
#endif

#if defined(__GNUC__) && (defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__aarch64__))
#define LSTM_HAS_FMA 1
#else
#define LSTM_HAS_FMA 0
#endif

#if defined(__GNUC__) && defined(__SSE2__)
#define LSTM_ROUND(x) __asm__("" : "+x"(x))
#elif defined(__GNUC__) && defined(__aarch64__)
#define LSTM_ROUND(x) __asm__("" : "+w"(x))
#elif defined(__GNUC__) && defined(__ARM_FP)
#define LSTM_ROUND(x) __asm__("" : "+t"(x))
#elif defined(__GNUC__) && !defined(__wasm__)
#define LSTM_ROUND(x) __asm__("" : "+m"(x)) /* also takes away the excess precision of the x87 */
#else
#define LSTM_ROUND(x) (void)0
#endif

/* int8 and normalised layers make large differences of small ones: for them an fma is computed by doubles where the
   processor has none. */
#define LSTM_EXACT (LSTM_HAS_FMA || @EXACT@)

#if LSTM_LANES > 1
typedef float lstm_vector __attribute__((vector_size(4 * LSTM_LANES), may_alias));
typedef float lstm_unaligned __attribute__((vector_size(4 * LSTM_LANES), may_alias, aligned(4)));
typedef uint32_t lstm_bits __attribute__((vector_size(4 * LSTM_LANES), may_alias));
#else
typedef float lstm_vector;
typedef float lstm_unaligned;
typedef uint32_t lstm_bits;
#endif

LSTM_INLINE float lstm_fma_float(float a, float b, float c)
{
#if LSTM_HAS_FMA
    return __builtin_fmaf(a, b, c);
#elif LSTM_EXACT
    return (float)((double)a * (double)b + (double)c);
#else
    return a * b + c;
#endif
}

LSTM_INLINE lstm_vector lstm_fma(lstm_vector a, lstm_vector b, lstm_vector c)
{
#if LSTM_LANES == 8
    return (lstm_vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif LSTM_LANES == 4 && defined(__FMA__)
    return (lstm_vector)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#elif LSTM_LANES == 4 && defined(__aarch64__)
    return (lstm_vector)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif LSTM_LANES == 1
    return lstm_fma_float(a, b, c);
#elif defined(__wasm_relaxed_simd__) && !LSTM_EXACT
    return (lstm_vector)wasm_f32x4_relaxed_madd((v128_t)a, (v128_t)b, (v128_t)c); /* rounded once or twice */
#elif LSTM_EXACT
    int lane;
    for (lane = 0; lane < LSTM_LANES; lane++)
        c[lane] = lstm_fma_float(a[lane], b[lane], c[lane]);
    return c;
#else
    return a * b + c;
#endif
}

/* x in every lane */
LSTM_INLINE lstm_vector lstm_all(float x)
{
#if LSTM_LANES > 1
    const lstm_vector zero = {0};
    return x - zero; /* minus, so that -0.0 stays what it is */
#else
    return x;
#endif
}

LSTM_INLINE lstm_vector lstm_load(const float *p)
{
    return *(const lstm_unaligned *)p;
}

LSTM_INLINE void lstm_store(float *p, lstm_vector x)
{
    *(lstm_unaligned *)p = x;
}

/* x > y ? yes : no, in each lane; NaN is above nothing */
LSTM_INLINE lstm_vector lstm_above(lstm_vector x, lstm_vector y, lstm_vector yes, lstm_vector no)
{
#if LSTM_LANES == 8
    return (lstm_vector)_mm256_blendv_ps((__m256)no, (__m256)yes, _mm256_cmp_ps((__m256)x, (__m256)y, _CMP_GT_OQ));
#elif LSTM_LANES == 4
    const lstm_bits mask = (lstm_bits)(x > y);
    return (lstm_vector)((mask & (lstm_bits)yes) | (~mask & (lstm_bits)no));
#else
    return x > y ? yes : no;
#endif
}

LSTM_INLINE lstm_vector lstm_from_bits(lstm_bits bits)
{
#if LSTM_LANES > 1
    return (lstm_vector)bits;
#else
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
#endif
}

LSTM_INLINE lstm_bits lstm_to_bits(lstm_vector x)
{
#if LSTM_LANES > 1
    return (lstm_bits)x;
#else
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
#endif
}
"""

DENORMALS = r"""
/* Numbers too small for full precision make a step many times slower: they count as zero inside it, as in lstm_cy. */

#if defined(__GNUC__) && defined(__SSE__)
LSTM_INLINE unsigned lstm_flush_denormals(void)
{
    const unsigned saved = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(saved | 0x8040u);
    return saved;
}
LSTM_INLINE void lstm_restore_denormals(unsigned saved)
{
    __builtin_ia32_ldmxcsr(saved);
}
#elif defined(__GNUC__) && defined(__aarch64__)
LSTM_INLINE unsigned lstm_flush_denormals(void)
{
    uint64_t saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"(saved | (uint64_t)1 << 24));
    return (unsigned)saved;
}
LSTM_INLINE void lstm_restore_denormals(unsigned saved)
{
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)saved));
}
#elif defined(__GNUC__) && defined(__ARM_FP)
LSTM_INLINE unsigned lstm_flush_denormals(void)
{
    unsigned saved;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(saved));
    __asm__ volatile("vmsr fpscr, %0" : : "r"(saved | 1u << 24));
    return saved;
}
LSTM_INLINE void lstm_restore_denormals(unsigned saved)
{
    __asm__ volatile("vmsr fpscr, %0" : : "r"(saved));
}
#else
LSTM_INLINE unsigned lstm_flush_denormals(void)
{
    return 0;
}
LSTM_INLINE void lstm_restore_denormals(unsigned saved)
{
    (void)saved;
}
#endif
"""
