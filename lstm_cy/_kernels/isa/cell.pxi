# Activations and the cell, forward and backward, for one instruction set and both precisions.

from ..table cimport BLOCK, add_part, load_block, real, store_block


cdef inline vector pair_of_terms(vector x, double a, double b) noexcept nogil:
    """x / a + 1 / b"""
    return fma[vector](x, all_of[vector](x, 1 / a), all_of[vector](x, 1 / b))


cdef inline void reduce(vector x, double times, vector* shifted, vector* near, vector* rest) noexcept nogil:
    """times x = n ln 2 + near + rest, within ln 2 / 2 of n ln 2; `shifted` is n + 1.5 * 2^(mantissa bits).

    ln 2 is subtracted in two parts. The first is ln 2 rounded where an fma subtracts n times it exactly; the second is
    then so small that it can join where the series does not wait for it. Without fma the first has so few digits that n
    times it is exact.
    """
    cdef vector n
    cdef bint single = vector in single_precision
    # what is added to it is rounded to a whole number
    cdef double rounding = 12582912.0 if single else 6755399441055744.0
    cdef double ln2, ln2_rest, per_ln2 = <float>1.44269504088896341 if single else 1.44269504088896341
    if single:
        ln2 = 0.693147182464599609375 if FMA else 0.693359375
        ln2_rest = -1.904654323148236e-9 if FMA else -2.12194440054690583e-4
    else:
        ln2 = 0.693147180559945286 if FMA else 0.693145751953125
        ln2_rest = 2.319046813846299558e-17 if FMA else 1.42860682030941723e-6
    shifted[0] = fma[vector](x, all_of[vector](x, times * per_ln2), all_of[vector](x, rounding))
    n = shifted[0] - all_of[vector](x, rounding)
    near[0] = fma[vector](n, all_of[vector](x, -ln2), all_of[vector](x, times) * x)
    rest[0] = n * all_of[vector](x, -ln2_rest)


cdef inline vector exp_series(vector r, vector r2) noexcept nogil:
    """E(r), where exp(r) = 1 + r + r^2 E(r), by the Taylor series of exp; `r2` is r^2.

    To degree 7 in float32 (the rest is below 6e-9 of exp) and 13 in float64 (4e-18).
    """
    cdef vector series
    if vector in single_precision:
        series = pair_of_terms[vector](r, 5040.0, 720.0)
    else:
        series = pair_of_terms[vector](r, 6227020800.0, 479001600.0)
        series = fma[vector](series, r2, pair_of_terms[vector](r, 39916800.0, 3628800.0))
        series = fma[vector](series, r2, pair_of_terms[vector](r, 362880.0, 40320.0))
        series = fma[vector](series, r2, pair_of_terms[vector](r, 5040.0, 720.0))
    series = fma[vector](series, r2, pair_of_terms[vector](r, 120.0, 24.0))
    return fma[vector](series, r2, pair_of_terms[vector](r, 6.0, 2.0))


cdef inline void exp_and_1(vector x, double times, vector* less, vector* more) noexcept nogil:
    """exp(times x) - 1 and exp(times x) + 1, for |times x| <= 40, where `times` is a power of two or minus one.

    exp is 2^n (1 + r + r^2 E(r)). As much as possible is computed in parallel with the chain of dependent operations,
    which leads to r, through E, summed in pairs of terms and then in powers of r^2, and to one multiply-add of the
    results. With fma the rest joins after E, times 1 + r.
    """
    cdef vector shifted, near, rest, r, r2, series, power, one = all_of[vector](x, 1)
    reduce[vector](x, times, &shifted, &near, &rest)
    power = pow2[vector](shifted)
    r = fma[vector](rest, near + one, near) if FMA else near + rest
    near = near if FMA else r
    r2 = near * near
    series = exp_series[vector](near, r2)
    r2 = power * r2
    less[0] = fma[vector](r2, series, fma[vector](power, r, power - one))
    more[0] = fma[vector](r2, series, fma[vector](power, r, power + one))


cdef inline vector sigmoid(vector z) noexcept nogil:
    """1 / (1 + exp(-z)); exactly 0 and 1 past |z| = 20 (float32) or 40 (float64), where 1 is what rounding gives.

    The limits are applied last, in parallel with the chain of dependent operations, and NaN stays NaN.
    """
    cdef vector limit = all_of[vector](z, 20 if vector in single_precision else 40), less, more, s
    exp_and_1[vector](z, -1, &less, &more)
    s = all_of[vector](z, 1) / more
    s = above[vector](z, limit, all_of[vector](z, 1), s)
    return above[vector](-limit, z, all_of[vector](z, 0), s)


cdef inline vector tanh(vector x) noexcept nogil:
    """(exp(2x) - 1) / (exp(2x) + 1): accurate relative to small x as well; -1 and 1 past 10 (float32) or 20."""
    cdef vector limit = all_of[vector](x, 10 if vector in single_precision else 20), less, more, t
    exp_and_1[vector](x, 2, &less, &more)
    t = less / more
    t = above[vector](x, limit, all_of[vector](x, 1), t)
    return above[vector](-limit, x, all_of[vector](x, -1), t)


cdef inline void cell_forward_by(const vector* kind, Py_ssize_t rows, Py_ssize_t H, vector* gates, vector* c,
                                 vector* h, vector* tanh_c) noexcept nogil:
    cdef vector i, f, g, o, cell, t
    cdef Py_ssize_t row, start, units
    for row in range(rows):
        start = 0
        while start < H:
            units = H - start
            i = sigmoid[vector](load_some[vector](gates, start, units))
            f = sigmoid[vector](load_some[vector](gates, H + start, units))
            g = tanh[vector](load_some[vector](gates, 2 * H + start, units))
            o = sigmoid[vector](load_some[vector](gates, 3 * H + start, units))
            cell = fma[vector](f, load_some[vector](c, start, units), i * g)
            t = tanh[vector](cell)
            store_some[vector](c, start, units, cell)
            store_some[vector](h, start, units, o * t)
            if tanh_c != NULL:
                store_some[vector](gates, start, units, i)
                store_some[vector](gates, H + start, units, f)
                store_some[vector](gates, 2 * H + start, units, g)
                store_some[vector](gates, 3 * H + start, units, o)
                store_some[vector](tanh_c, start, units, t)
            start += lanes[vector](kind)
        gates = place_in[vector](gates, 4 * H)
        c = place_in[vector](c, H)
        h = place_in[vector](h, H)
        if tanh_c != NULL:
            tanh_c = place_in[vector](tanh_c, H)


cdef void cell_forward(Py_ssize_t rows, Py_ssize_t H, real* gates, real* c, real* h, real* tanh_c) noexcept nogil:
    """One step of the cell: c = f c + i g, h = o tanh(c)."""
    if real is float:
        cell_forward_by[v32](NULL, rows, H, <v32*>gates, <v32*>c, <v32*>h, <v32*>tanh_c)
    else:
        cell_forward_by[v64](NULL, rows, H, <v64*>gates, <v64*>c, <v64*>h, <v64*>tanh_c)


cdef inline void cell_backward_by(const vector* kind, Py_ssize_t rows, Py_ssize_t H, const vector* gates,
                                  const vector* c_prev, const vector* tanh_c, const vector* dh, vector* dc,
                                  vector* dz) noexcept nogil:
    cdef vector i, f, g, o, t, d_out, d_cell, one
    cdef Py_ssize_t row, start, units
    for row in range(rows):
        start = 0
        while start < H:
            units = H - start
            i = load_some[vector](gates, start, units)
            one = all_of[vector](i, 1)
            f = load_some[vector](gates, H + start, units)
            g = load_some[vector](gates, 2 * H + start, units)
            o = load_some[vector](gates, 3 * H + start, units)
            t = load_some[vector](tanh_c, start, units)
            d_out = load_some[vector](dh, start, units)
            d_cell = load_some[vector](dc, start, units) + d_out * o * (one - t * t)
            store_some[vector](dz, start, units, d_cell * g * i * (one - i))
            store_some[vector](dz, H + start, units, d_cell * load_some[vector](c_prev, start, units) * f * (one - f))
            store_some[vector](dz, 2 * H + start, units, d_cell * i * (one - g * g))
            store_some[vector](dz, 3 * H + start, units, d_out * t * o * (one - o))
            store_some[vector](dc, start, units, d_cell * f)
            start += lanes[vector](kind)
        gates = at[vector](gates, 4 * H)
        c_prev = at[vector](c_prev, H)
        tanh_c = at[vector](tanh_c, H)
        dh = at[vector](dh, H)
        dc = place_in[vector](dc, H)
        dz = place_in[vector](dz, 4 * H)


cdef void cell_backward(Py_ssize_t rows, Py_ssize_t H, const real* gates, const real* c_prev, const real* tanh_c,
                        const real* dh, real* dc, real* dz) noexcept nogil:
    """The gradient of one step: dz of the gates' inputs, and dc carried on to the step before.

    The cell passes its gradient on along c = f c_prev + i g, scaled by f alone: this is what lets it reach far back.
    sigmoid' = s (1 - s), tanh' = 1 - t^2.
    """
    if real is float:
        cell_backward_by[v32](NULL, rows, H, <const v32*>gates, <const v32*>c_prev, <const v32*>tanh_c, <const v32*>dh,
                              <v32*>dc, <v32*>dz)
    else:
        cell_backward_by[v64](NULL, rows, H, <const v64*>gates, <const v64*>c_prev, <const v64*>tanh_c, <const v64*>dh,
                              <v64*>dc, <v64*>dz)


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
                load_block(line, array + row * columns + start, units)
                for u in range(BLOCK):
                    part[u] = part[u] + line[u]
            add_part[real](min(units, <Py_ssize_t>BLOCK), part, sums + start, NULL if rest == NULL else rest + start)
            start += BLOCK
        first += 64
