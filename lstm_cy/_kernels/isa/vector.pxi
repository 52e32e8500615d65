# The operations of vector.h, each under one name for all types.

from libc.string cimport memcpy, memset

cdef extern from "vector.h":
    const bint FMA "LSTM_CY_FMA"
    const bint HALVES "LSTM_CY_HALVES"
    const int TILE_ROWS "LSTM_CY_TILE_ROWS"
    const bint LANE_FACTORS "LSTM_CY_LANE_FACTORS"
    const int ROW_PANELS "LSTM_CY_ROW_PANELS"
    const Py_ssize_t TOGETHER_BYTES "LSTM_CY_TOGETHER_BYTES"
    const int LANES32 "LSTM_CY_LANES32"
    const int LANES64 "LSTM_CY_LANES64"
    const int HALF_LANES32 "LSTM_CY_HALF_LANES32"
    # Cython knows the types of a fused type by the numbers that they stand for, which must differ.
    ctypedef float v32 "lstm_cy_v32"
    ctypedef long double h32 "lstm_cy_h32"
    ctypedef double v64 "lstm_cy_v64"
    float fma_float "lstm_cy_fma_float"(float, float, float) noexcept nogil
    double fma_double "lstm_cy_fma_double"(double, double, double) noexcept nogil
    v32 fma_v32 "lstm_cy_fma_v32"(v32, v32, v32) noexcept nogil
    h32 fma_h32 "lstm_cy_fma_h32"(h32, h32, h32) noexcept nogil
    v64 fma_v64 "lstm_cy_fma_v64"(v64, v64, v64) noexcept nogil
    v32 above_v32 "lstm_cy_above_v32"(v32, v32, v32, v32) noexcept nogil
    h32 above_h32 "lstm_cy_above_h32"(h32, h32, h32, h32) noexcept nogil
    v64 above_v64 "lstm_cy_above_v64"(v64, v64, v64, v64) noexcept nogil
    v32 at_most_v32 "lstm_cy_at_most_v32"(v32, v32, v32, v32) noexcept nogil
    h32 at_most_h32 "lstm_cy_at_most_h32"(h32, h32, h32, h32) noexcept nogil
    v64 at_most_v64 "lstm_cy_at_most_v64"(v64, v64, v64, v64) noexcept nogil
    v32 pow2_v32 "lstm_cy_pow2_v32"(v32) noexcept nogil
    h32 pow2_h32 "lstm_cy_pow2_h32"(h32) noexcept nogil
    v64 pow2_v64 "lstm_cy_pow2_v64"(v64) noexcept nogil
    v32 all_v32 "lstm_cy_all_v32"(float) noexcept nogil
    h32 all_h32 "lstm_cy_all_h32"(float) noexcept nogil
    v64 all_v64 "lstm_cy_all_v64"(double) noexcept nogil
    v32 load_v32 "lstm_cy_load_v32"(const void*) noexcept nogil
    h32 load_h32 "lstm_cy_load_h32"(const void*) noexcept nogil
    v64 load_v64 "lstm_cy_load_v64"(const void*) noexcept nogil
    void store_v32 "lstm_cy_store_v32"(void*, v32) noexcept nogil
    void store_h32 "lstm_cy_store_h32"(void*, h32) noexcept nogil
    void store_v64 "lstm_cy_store_v64"(void*, v64) noexcept nogil
    v32 each_v32 "lstm_cy_each_v32"(const void*) noexcept nogil
    h32 each_h32 "lstm_cy_each_h32"(const void*) noexcept nogil
    v64 each_v64 "lstm_cy_each_v64"(const void*) noexcept nogil
    v32 lane_v32 "lstm_cy_lane_v32"(v32, int) noexcept nogil
    h32 lane_h32 "lstm_cy_lane_h32"(h32, int) noexcept nogil
    v64 lane_v64 "lstm_cy_lane_v64"(v64, int) noexcept nogil
    v32 keep_v32 "lstm_cy_keep_v32"(v32) noexcept nogil
    h32 keep_h32 "lstm_cy_keep_h32"(h32) noexcept nogil
    v64 keep_v64 "lstm_cy_keep_v64"(v64) noexcept nogil
    const int PAIR_FLOATS "LSTM_CY_PAIR_FLOATS"
    const int PAIR_ROWS "LSTM_CY_PAIR_ROWS"
    v32 first_v32 "lstm_cy_first_v32"(v32) noexcept nogil
    h32 first_h32 "lstm_cy_first_h32"(h32) noexcept nogil
    v32 second_v32 "lstm_cy_second_v32"(v32) noexcept nogil
    h32 second_h32 "lstm_cy_second_h32"(h32) noexcept nogil
    v32 add_pairs_v32 "lstm_cy_add_pairs_v32"(v32, v32, v32) noexcept nogil
    h32 add_pairs_h32 "lstm_cy_add_pairs_h32"(h32, h32, h32) noexcept nogil
    v32 round_v32 "lstm_cy_round_v32"(v32) noexcept nogil
    v32 pair_of "lstm_cy_pair_v32"(v32, v32) noexcept nogil
    void store_factors "lstm_cy_store_factors"(float*, v32) noexcept nogil
    float round_float "lstm_cy_round_float"(float) noexcept nogil
    float float_of "lstm_cy_float_of"(unsigned int) noexcept nogil
    unsigned int bits_of "lstm_cy_bits_of"(float) noexcept nogil

# A vector, or the half of one that is 64 bytes. Arrays of numbers are passed as pointers to vectors, but need not be
# aligned as such, and places in them are counted in numbers.
ctypedef fused vector:
    v32
    h32
    v64

ctypedef fused single_precision:
    v32
    h32


cdef inline vector fma(vector a, vector b, vector c) noexcept nogil:
    """a * b + c, rounded once where the processor can."""
    if vector is v32:
        return fma_v32(a, b, c)
    elif vector is h32:
        return fma_h32(a, b, c)
    else:
        return fma_v64(a, b, c)


cdef inline vector above(vector x, vector y, vector yes, vector no) noexcept nogil:
    """`yes` where x > y, else `no`; NaN is above nothing."""
    if vector is v32:
        return above_v32(x, y, yes, no)
    elif vector is h32:
        return above_h32(x, y, yes, no)
    else:
        return above_v64(x, y, yes, no)


cdef inline vector at_most(vector x, vector y, vector yes, vector no) noexcept nogil:
    """`yes` where x <= y, else `no`; NaN is at most nothing."""
    if vector is v32:
        return at_most_v32(x, y, yes, no)
    elif vector is h32:
        return at_most_h32(x, y, yes, no)
    else:
        return at_most_v64(x, y, yes, no)


cdef inline vector pow2(vector shifted) noexcept nogil:
    """2^n, where n + 1.5 * 2^(mantissa bits) is given."""
    if vector is v32:
        return pow2_v32(shifted)
    elif vector is h32:
        return pow2_h32(shifted)
    else:
        return pow2_v64(shifted)


cdef inline vector all_of(vector like, double value) noexcept nogil:
    """A value in every lane of a vector of the type of `like`."""
    if vector is v32:
        return all_v32(<float>value)
    elif vector is h32:
        return all_h32(<float>value)
    else:
        return all_v64(value)


cdef inline vector zeros(const vector* kind) noexcept nogil:
    """A vector of zeros."""
    if vector is v32:
        return all_v32(0)
    elif vector is h32:
        return all_h32(0)
    else:
        return all_v64(0)


cdef inline Py_ssize_t lanes(const vector* kind) noexcept nogil:
    """The numbers in a vector."""
    if vector is v32:
        return LANES32
    elif vector is h32:
        return HALF_LANES32
    else:
        return LANES64


cdef inline const vector* at(const vector* array, Py_ssize_t place) noexcept nogil:
    """The address of a number of an array."""
    if vector is v64:
        return <const vector*>(<const double*>array + place)
    else:
        return <const vector*>(<const float*>array + place)


cdef inline vector* place_in(vector* array, Py_ssize_t place) noexcept nogil:
    """The address of a number of an array that is written to."""
    if vector is v64:
        return <vector*>(<double*>array + place)
    else:
        return <vector*>(<float*>array + place)


cdef inline vector load(const vector* array, Py_ssize_t place) noexcept nogil:
    """The vector that begins at a number of an array."""
    if vector is v32:
        return load_v32(at[vector](array, place))
    elif vector is h32:
        return load_h32(at[vector](array, place))
    else:
        return load_v64(at[vector](array, place))


cdef inline void store(vector* array, Py_ssize_t place, vector x) noexcept nogil:
    if vector is v32:
        store_v32(place_in[vector](array, place), x)
    elif vector is h32:
        store_h32(place_in[vector](array, place), x)
    else:
        store_v64(place_in[vector](array, place), x)


cdef inline vector each(const vector* array, Py_ssize_t place) noexcept nogil:
    """A number of an array, in every lane."""
    if vector is v32:
        return each_v32(at[vector](array, place))
    elif vector is h32:
        return each_h32(at[vector](array, place))
    else:
        return each_v64(at[vector](array, place))


cdef inline vector lane_of(vector x, int lane) noexcept nogil:
    """A lane of x, in every lane."""
    if vector is v32:
        return lane_v32(x, lane)
    elif vector is h32:
        return lane_h32(x, lane)
    else:
        return lane_v64(x, lane)


cdef inline vector keep(vector x) noexcept nogil:
    """x, in a register."""
    if vector is v32:
        return keep_v32(x)
    elif vector is h32:
        return keep_h32(x)
    else:
        return keep_v64(x)


cdef inline void copy_some(vector* target, const vector* source, Py_ssize_t count) noexcept nogil:
    """Copy fewer numbers than a vector has, in pieces of constant size, without a call.

    They are copied as bytes: clang takes the alignment of a copy from the pointers' type.
    """
    cdef Py_ssize_t size = sizeof(double) if vector is v64 else sizeof(float)
    cdef char* to = <char*>target
    cdef const char* start = <const char*>source
    if lanes[vector](source) > 8 and count & 8:
        memcpy(to, start, 8 * size)
        to += 8 * size
        start += 8 * size
    if lanes[vector](source) > 4 and count & 4:
        memcpy(to, start, 4 * size)
        to += 4 * size
        start += 4 * size
    if lanes[vector](source) > 2 and count & 2:
        memcpy(to, start, 2 * size)
        to += 2 * size
        start += 2 * size
    if lanes[vector](source) > 1 and count & 1:
        memcpy(to, start, size)


cdef inline vector load_some(const vector* array, Py_ssize_t place, Py_ssize_t count) noexcept nogil:
    """`load` where only `count` numbers of the array are left; the other lanes are 0."""
    cdef vector x
    if count >= lanes[vector](array):
        return load[vector](array, place)
    memset(&x, 0, sizeof(x))
    copy_some[vector](&x, at[vector](array, place), count)
    return x


cdef inline void store_some(vector* array, Py_ssize_t place, Py_ssize_t count, vector x) noexcept nogil:
    """`store` where only `count` numbers of the array are left."""
    if count >= lanes[vector](array):
        store[vector](array, place, x)
    else:
        copy_some[vector](place_in[vector](array, place), &x, count)


cdef inline single_precision first_of(single_precision pair) noexcept nogil:
    """The first number of each pair of bf16."""
    if single_precision is v32:
        return first_v32(pair)
    else:
        return first_h32(pair)


cdef inline single_precision second_of(single_precision pair) noexcept nogil:
    """The second number of each pair of bf16."""
    if single_precision is v32:
        return second_v32(pair)
    else:
        return second_h32(pair)


cdef inline single_precision add_pairs(single_precision a, single_precision b, single_precision sum) noexcept nogil:
    """The sum and the products of pairs of bf16, first that of the second numbers."""
    if single_precision is v32:
        return add_pairs_v32(a, b, sum)
    else:
        return add_pairs_h32(a, b, sum)
