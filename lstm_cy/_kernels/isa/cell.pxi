# Activations and the cell, forward and backward, for one instruction set and both precisions.
#
# The loops run over local arrays of BLOCK units: locals cannot alias, so the compiler vectorises them without run-time
# checks, and a row's last units go through the same arithmetic as the others. BLOCK is 32 because gcc unrolls loops of
# 16 trips or fewer before it looks for vectors.

from libc.string cimport memcpy, memset

from ..table cimport BLOCK, add_part, load, real, store

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* a * b + c, rounded once where the processor can: written out because contraction is off. */
    #if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    #define LSTM_CY_FMA 1
    static inline float lstm_cy_fma32(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
    static inline double lstm_cy_fma64(double a, double b, double c) { return __builtin_fma(a, b, c); }
    #else
    #define LSTM_CY_FMA 0
    static inline float lstm_cy_fma32(float a, float b, float c) { return a * b + c; }
    static inline double lstm_cy_fma64(double a, double b, double c) { return a * b + c; }
    #endif

    /* 2^n, where n + 1.5 * 2^(mantissa bits) is given: n then stands in the low bits and moves to the exponent. */
    static inline float lstm_cy_pow2_32(float shifted) {
        uint32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        bits = (bits << 23) + 0x3f800000u;
        memcpy(&shifted, &bits, sizeof bits);
        return shifted;
    }
    static inline double lstm_cy_pow2_64(double shifted) {
        uint64_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        bits = (bits << 52) + 0x3ff0000000000000u;
        memcpy(&shifted, &bits, sizeof bits);
        return shifted;
    }
    """
    const bint FMA "LSTM_CY_FMA"
    float lstm_cy_fma32(float, float, float) noexcept nogil
    double lstm_cy_fma64(double, double, double) noexcept nogil
    float lstm_cy_pow2_32(float) noexcept nogil
    double lstm_cy_pow2_64(double) noexcept nogil


cdef inline real fma(real a, real b, real c) noexcept nogil:
    if real is float:
        return lstm_cy_fma32(a, b, c)
    else:
        return lstm_cy_fma64(a, b, c)


cdef inline void exp_and_1(real x, real times, real* less, real* more) noexcept nogil:
    """exp(times x) - 1 and exp(times x) + 1, for |times x| <= 40, where `times` is a power of two or minus one.

    With times x = n ln 2 + r, |r| <= ln 2 / 2, exp is 2^n (1 + r + r^2 E(r)), E by the Taylor series of exp: to degree
    7 in float32 (the rest is below 6e-9 of it) and 13 in float64 (4e-18). As much as possible is computed in parallel
    with the chain of dependent operations, which leads to r, through E, summed in pairs of terms and then in powers of
    r^2, and to one multiply-add of the results. ln 2 is subtracted in two parts. The first is ln 2 rounded where an fma
    subtracts n times it exactly; the second is then so small that it can join where E does not wait for it, times
    1 + r. Without fma the first has so few digits that n times it is exact.
    """
    cdef real shifted, n, near, rest, r, r2, series, power
    if real is float:
        shifted = fma[real](x, times * <real>1.44269504088896341, 12582912.0)
        n = shifted - <real>12582912.0
        power = lstm_cy_pow2_32(shifted)
        near = fma[real](n, -0.693147182464599609375 if FMA else -0.693359375, times * x)
        rest = n * <real>(1.904654323148236e-9 if FMA else 2.12194440054690583e-4)
        r = fma[real](rest, near + <real>1, near) if FMA else near + rest
        near = near if FMA else r
        r2 = near * near
        series = fma[real](near, 1.0 / 5040.0, 1.0 / 720.0)
    else:
        shifted = fma[real](x, times * <real>1.44269504088896341, 6755399441055744.0)
        n = shifted - <real>6755399441055744.0
        power = lstm_cy_pow2_64(shifted)
        near = fma[real](n, -0.693147180559945286 if FMA else -0.693145751953125, times * x)
        rest = n * <real>(-2.319046813846299558e-17 if FMA else -1.42860682030941723e-6)
        r = fma[real](rest, near + <real>1, near) if FMA else near + rest
        near = near if FMA else r
        r2 = near * near
        series = fma[real](near, 1.0 / 6227020800.0, 1.0 / 479001600.0)
        series = fma[real](series, r2, fma[real](near, 1.0 / 39916800.0, 1.0 / 3628800.0))
        series = fma[real](series, r2, fma[real](near, 1.0 / 362880.0, 1.0 / 40320.0))
        series = fma[real](series, r2, fma[real](near, 1.0 / 5040.0, 1.0 / 720.0))
    series = fma[real](series, r2, fma[real](near, 1.0 / 120.0, 1.0 / 24.0))
    series = fma[real](series, r2, fma[real](near, 1.0 / 6.0, 0.5))
    r2 = power * r2
    less[0] = fma[real](r2, series, fma[real](power, r, power - <real>1))
    more[0] = fma[real](r2, series, fma[real](power, r, power + <real>1))


cdef inline real sigmoid(real z) noexcept nogil:
    """1 / (1 + exp(-z)); exactly 0 and 1 past |z| = 20 (float32) or 40 (float64), where 1 is what rounding gives.

    The limits are applied last, in parallel with the chain of dependent operations, and NaN stays NaN.
    """
    cdef real limit = 20 if real is float else 40
    cdef real less, more, s
    exp_and_1[real](z, -1, &less, &more)
    s = <real>1 / more
    s = <real>1 if z > limit else s
    return <real>0 if z < -limit else s


cdef inline real tanh(real x) noexcept nogil:
    """(exp(2x) - 1) / (exp(2x) + 1): accurate relative to small x as well; -1 and 1 past 10 (float32) or 20."""
    cdef real limit = 10 if real is float else 20
    cdef real less, more, t
    exp_and_1[real](x, 2, &less, &more)
    t = less / more
    t = <real>1 if x > limit else t
    return <real>-1 if x < -limit else t


cdef void cell_forward(Py_ssize_t rows, Py_ssize_t H, real* gates, real* c, real* h, real* tanh_c) noexcept nogil:
    """One step of the cell: c = f c + i g, h = o tanh(c)."""
    cdef real[BLOCK] i, f, g, o, cell, t, out
    cdef Py_ssize_t row, start, units
    cdef int u
    for row in range(rows):
        start = 0
        while start < H:
            units = H - start
            load(i, gates + start, units)
            load(f, gates + H + start, units)
            load(g, gates + 2 * H + start, units)
            load(o, gates + 3 * H + start, units)
            load(cell, c + start, units)
            for u in range(BLOCK):
                i[u] = sigmoid[real](i[u])
                f[u] = sigmoid[real](f[u])
                g[u] = tanh[real](g[u])
                o[u] = sigmoid[real](o[u])
                cell[u] = fma[real](f[u], cell[u], i[u] * g[u])
                t[u] = tanh[real](cell[u])
                out[u] = o[u] * t[u]
            store(c + start, cell, units)
            store(h + start, out, units)
            if tanh_c != NULL:
                store(gates + start, i, units)
                store(gates + H + start, f, units)
                store(gates + 2 * H + start, g, units)
                store(gates + 3 * H + start, o, units)
                store(tanh_c + start, t, units)
            start += BLOCK
        gates += 4 * H
        c += H
        h += H
        if tanh_c != NULL:
            tanh_c += H


cdef void cell_backward(Py_ssize_t rows, Py_ssize_t H, const real* gates, const real* c_prev, const real* tanh_c,
                        const real* dh, real* dc, real* dz) noexcept nogil:
    """The gradient of one step: dz of the gates' inputs, and dc carried on to the step before.

    The cell passes its gradient on along c = f c_prev + i g, scaled by f alone: this is what lets it reach far back.
    sigmoid' = s (1 - s), tanh' = 1 - t^2.
    """
    cdef real[BLOCK] i, f, g, o, prev, t, d_out, d_cell
    cdef Py_ssize_t row, start, units
    cdef real d, one = 1  # a bare 1 would make the product a double
    cdef int u
    for row in range(rows):
        start = 0
        while start < H:
            units = H - start
            load(i, gates + start, units)
            load(f, gates + H + start, units)
            load(g, gates + 2 * H + start, units)
            load(o, gates + 3 * H + start, units)
            load(prev, c_prev + start, units)
            load(t, tanh_c + start, units)
            load(d_out, dh + start, units)
            load(d_cell, dc + start, units)
            for u in range(BLOCK):
                d = d_out[u] * o[u]
                o[u] = d_out[u] * t[u] * o[u] * (one - o[u])
                d_cell[u] = d_cell[u] + d * (one - t[u] * t[u])
                d = d_cell[u] * g[u]
                g[u] = d_cell[u] * i[u] * (one - g[u] * g[u])
                i[u] = d * i[u] * (one - i[u])
                d = d_cell[u] * f[u]
                f[u] = d_cell[u] * prev[u] * f[u] * (one - f[u])
                d_cell[u] = d
            store(dz + start, i, units)
            store(dz + H + start, f, units)
            store(dz + 2 * H + start, g, units)
            store(dz + 3 * H + start, o, units)
            store(dc + start, d_cell, units)
            start += BLOCK
        gates += 4 * H
        c_prev += H
        tanh_c += H
        dh += H
        dc += H
        dz += 4 * H


cdef void column_sums(Py_ssize_t rows, Py_ssize_t columns, const real* array, real* sums,
                      real* rest) noexcept nogil:
    """Add the column sums of `array` to `sums` and `rest`, in parts of at most 64 rows."""
    cdef real[BLOCK] part, line
    cdef Py_ssize_t start, units, first, row
    cdef int u
    first = 0
    while first < rows:
        start = 0
        while start < columns:
            units = columns - start
            memset(part, 0, sizeof(part))
            for row in range(first, min(first + 64, rows)):
                load(line, array + row * columns + start, units)
                for u in range(BLOCK):
                    part[u] = part[u] + line[u]
            add_part[real](min(units, <Py_ssize_t>BLOCK), part, sums + start, NULL if rest == NULL else rest + start)
            start += BLOCK
        first += 64
