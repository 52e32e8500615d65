# The cell with its options: peepholes, coupled gates, normalised gates, bounds and other activations; for one
# instruction set and both precisions. What a plain LSTM does is in cell.pxi alone.
#
# A row goes through it in passes over all its units, for normalising needs them all.

from libc.math cimport INFINITY, sqrt

from ..table cimport (
    AFFINE, ELU, EXTRA, EXTRA_ACTIVATION_SLOPE, EXTRA_CELL, EXTRA_CELL_SLOPE, EXTRA_INVERSE, EXTRA_NORMALIZED,
    EXTRA_SLOPES, FORGET_IS_REST, HARDSIGMOID, INPUT_IS_REST, LEAKYRELU, RELU, SCALEDTANH, SHARES, SHARE_BIAS,
    SHARE_NORM, SHARE_PEEPHOLE, SIGMOID, SOFTPLUS, SOFTSIGN, TANH, THRESHOLDEDRELU, Activation, Variant,
)

cdef enum:
    GATE_I, GATE_F, GATE_G, GATE_O


cdef inline real multiply_add(real a, real b, real c) noexcept nogil:
    """`fma` of single numbers."""
    if real is float:
        return fma_float(a, b, c)
    else:
        return fma_double(a, b, c)


cdef inline vector bounded(vector x, vector bound) noexcept nogil:
    """x within [-bound, bound]; NaN stays NaN."""
    x = above[vector](x, bound, bound, x)
    return above[vector](-bound, x, -bound, x)


cdef inline vector magnitude(vector x) noexcept nogil:
    return above[vector](all_of[vector](x, 0), x, -x, x)


cdef inline vector log1p_series(vector v) noexcept nogil:
    """ln(1 + v) for v in (0, 1].

    It is 2 artanh(s), s = v / (2 + v) <= 1/3: a series in s^2 <= 1/9, of which the terms left out are below 2e-9
    (float32) and 2e-18.
    """
    cdef vector s, square, series = all_of[vector](v, 0)
    cdef int term = 8 if vector in single_precision else 18
    s = v / (v + all_of[vector](v, 2))
    square = s * s
    while term >= 0:
        series = fma[vector](series, square, all_of[vector](v, 1.0 / (2 * term + 1)))
        term -= 1
    return all_of[vector](v, 2) * s * series


cdef inline vector softplus(vector x) noexcept nogil:
    """ln(1 + exp(x)): max(0, x) + ln(1 + v) with v = exp(-|x|) in (0, 1]."""
    cdef vector less, more
    exp_and_1[vector](bounded[vector](-magnitude[vector](x), all_of[vector](x, 40)), 1, &less, &more)
    return above[vector](all_of[vector](x, 0), x, all_of[vector](x, 0), x) + log1p_series[vector](
        less + all_of[vector](x, 1)
    )


cdef inline void activation_of(const Activation* activation, vector x, vector* y, vector* slope) noexcept nogil:
    """y = activation(x) and its derivative; NaN stays NaN."""
    cdef vector alpha = all_of[vector](x, activation.alpha), beta = all_of[vector](x, activation.beta)
    cdef vector one = all_of[vector](x, 1), zero = all_of[vector](x, 0), t, more
    cdef int kind = activation.kind
    if kind == SIGMOID:
        y[0] = sigmoid[vector](x)
        slope[0] = y[0] * (one - y[0])
    elif kind == TANH:
        y[0] = tanh[vector](x)
        slope[0] = one - y[0] * y[0]
    elif kind == RELU:
        y[0] = above[vector](zero, x, zero, x)
        slope[0] = above[vector](x, zero, one, zero)
    elif kind == AFFINE:
        y[0] = fma[vector](alpha, x, beta)
        slope[0] = alpha
    elif kind == LEAKYRELU:
        y[0] = above[vector](zero, x, alpha * x, x)
        slope[0] = above[vector](zero, x, alpha, one)
    elif kind == THRESHOLDEDRELU:
        y[0] = at_most[vector](x, alpha, zero, x)
        slope[0] = at_most[vector](x, alpha, zero, one)
    elif kind == SCALEDTANH:
        t = tanh[vector](beta * x)
        y[0] = alpha * t
        slope[0] = alpha * beta * (one - t * t)
    elif kind == HARDSIGMOID:
        t = fma[vector](alpha, x, beta)
        slope[0] = above[vector](t, zero, above[vector](one, t, alpha, zero), zero)
        t = above[vector](t, one, one, t)
        y[0] = above[vector](zero, t, zero, t)
    elif kind == ELU:
        # past the limit exp(-x) - 1 rounds to -1
        exp_and_1[vector](bounded[vector](x, all_of[vector](x, 20 if vector in single_precision else 40)), 1, &t, &more)
        y[0] = above[vector](zero, x, alpha * t, x)
        slope[0] = above[vector](zero, x, alpha * t + alpha, one)
    elif kind == SOFTSIGN:
        t = bounded[vector](x, all_of[vector](x, 1e30))  # infinity over infinity would be NaN
        slope[0] = one / (one + magnitude[vector](t))
        y[0] = t * slope[0]
        slope[0] = slope[0] * slope[0]
    else:
        y[0] = softplus[vector](x)
        slope[0] = sigmoid[vector](x)


cdef inline void activate_by(const Activation* activation, Py_ssize_t n, double bound, vector* z,
                             vector* slope) noexcept nogil:
    cdef vector x, most, y, s
    cdef Py_ssize_t start = 0
    while start < n:
        x = load_some[vector](z, start, n - start)
        most = all_of[vector](x, bound)
        activation_of[vector](activation, bounded[vector](x, most), &y, &s)
        store_some[vector](z, start, n - start, y)
        if slope != NULL:
            s = above[vector](magnitude[vector](x), most, all_of[vector](x, 0), s)
            store_some[vector](slope, start, n - start, s)
        start += lanes[vector](z)


cdef void activate(const Activation* activation, Py_ssize_t n, real bound, real* z, real* slope) noexcept nogil:
    """Activate z in place, first brought within [-bound, bound]; `slope`, out, is the derivative, or NULL."""
    if real is float:
        activate_by[v32](activation, n, bound, <v32*>z, <v32*>slope)
    else:
        activate_by[v64](activation, n, bound, <v64*>z, <v64*>slope)


cdef real sum_of_products(Py_ssize_t n, const real* a, const real* b) noexcept nogil:
    """The sum of a b, or of a if b is NULL, in lanes: its order is the same for any vector width."""
    cdef real[BLOCK] lanes, left, right
    cdef real total = 0
    cdef Py_ssize_t start = 0
    cdef int u
    memset(lanes, 0, sizeof(lanes))
    while start < n:
        load_block(left, a + start, n - start)
        if b == NULL:
            for u in range(BLOCK):
                lanes[u] = lanes[u] + left[u]
        else:
            load_block(right, b + start, n - start)
            for u in range(BLOCK):
                lanes[u] = multiply_add[real](left[u], right[u], lanes[u])
        start += BLOCK
    for u in range(BLOCK):
        total = total + lanes[u]
    return total


cdef void normalize(Py_ssize_t H, const real* scale, const real* bias, real* z, real* normalized,
                    real* inverse) noexcept nogil:
    """z = scale (z - mean) / sqrt(variance + 1e-8) + bias; the quotient and the inverse root are saved unless NULL."""
    cdef real mean = sum_of_products[real](H, z, NULL) / <real>H, root
    cdef Py_ssize_t k
    for k in range(H):
        z[k] = z[k] - mean
    root = <real>1 / <real>sqrt(sum_of_products[real](H, z, z) / <real>H + <real>1e-8)
    for k in range(H):
        z[k] = z[k] * root
    if normalized != NULL:
        memcpy(normalized, z, H * sizeof(real))
        inverse[0] = root
    for k in range(H):
        z[k] = z[k] * scale[k]
    if bias != NULL:
        for k in range(H):
            z[k] = z[k] + bias[k]


cdef inline void prepare(const Variant* variant, int gate, int peephole, Py_ssize_t H, const real* c, real* z,
                         real* extra) noexcept nogil:
    """A gate's z up to its activation: the peephole is added, and z is normalised."""
    cdef const real* weights = <const real*>variant.peepholes
    cdef const real* bias = <const real*>variant.bias
    cdef Py_ssize_t k
    z += gate * H
    if weights != NULL and peephole >= 0:
        weights += peephole * H
        for k in range(H):
            z[k] = multiply_add[real](weights[k], c[k], z[k])
    if variant.norm != NULL:
        normalize[real](H, <const real*>variant.norm + gate * H, bias if bias == NULL else bias + gate * H, z,
                        extra if extra == NULL else extra + EXTRA_NORMALIZED * H + gate * H,
                        extra if extra == NULL else extra + EXTRA_INVERSE * H + gate)


cdef void variant_forward(const Variant* variant, Py_ssize_t rows, Py_ssize_t H, real* gates, real* c, real* h,
                          real* tanh_c, real* extra) noexcept nogil:
    """`cell_forward` with options; `extra` and tanh_c are saved for backward, or both are NULL."""
    cdef real bound = <real>variant.clip, cell_bound = <real>variant.cell_clip, one = 1, zero = 0, cell, bounded_cell
    cdef real* i
    cdef real* f
    cdef real* g
    cdef real* o
    cdef real* slopes = NULL
    cdef real* t
    cdef Py_ssize_t row, k
    for row in range(rows):
        i, f, g, o = gates, gates + H, gates + 2 * H, gates + 3 * H
        t = h if tanh_c == NULL else tanh_c
        if extra != NULL:
            slopes = extra + EXTRA_SLOPES * H
        prepare[real](variant, GATE_I, 0, H, c, gates, extra)
        prepare[real](variant, GATE_F, 1, H, c, gates, extra)
        prepare[real](variant, GATE_G, -1, H, c, gates, extra)
        activate[real](&variant.gate, 2 * H, bound, i, slopes)
        activate[real](&variant.candidate, H, bound, g, slopes if slopes == NULL else slopes + 2 * H)
        if variant.coupling == FORGET_IS_REST:
            for k in range(H):
                f[k] = one - i[k]
        elif variant.coupling == INPUT_IS_REST:
            for k in range(H):
                i[k] = one - f[k]
        for k in range(H):
            cell = multiply_add[real](f[k], c[k], i[k] * g[k])
            bounded_cell = cell_bound if cell > cell_bound else cell  # in this order NaN stays NaN
            c[k] = -cell_bound if bounded_cell < -cell_bound else bounded_cell
            if extra != NULL:
                extra[EXTRA_CELL_SLOPE * H + k] = zero if cell > cell_bound or cell < -cell_bound else one
                extra[EXTRA_CELL * H + k] = c[k]
        prepare[real](variant, GATE_O, 2, H, c, gates, extra)
        activate[real](&variant.gate, H, bound, o, slopes if slopes == NULL else slopes + 3 * H)
        memcpy(t, c, H * sizeof(real))
        activate[real](&variant.cell, H, <real>INFINITY, t,
                       extra if extra == NULL else extra + EXTRA_ACTIVATION_SLOPE * H)
        for k in range(H):
            h[k] = o[k] * t[k]
        gates += 4 * H
        c += H
        h += H
        if extra != NULL:
            tanh_c += H
            extra += EXTRA * H + 4


cdef void normalize_backward(Py_ssize_t H, const real* scale, const real* normalized, real inverse, real* dz,
                             real* share) noexcept nogil:
    """dz of what `normalize` gave becomes that of what it was given; `share` is the scale's, of this row."""
    cdef real mean, slope
    cdef Py_ssize_t k
    for k in range(H):
        share[k] = dz[k] * normalized[k]
        dz[k] = dz[k] * scale[k]
    mean = sum_of_products[real](H, dz, NULL) / <real>H
    slope = sum_of_products[real](H, dz, normalized) / <real>H
    for k in range(H):
        dz[k] = inverse * (dz[k] - mean - normalized[k] * slope)


cdef void variant_backward(const Variant* variant, Py_ssize_t rows, Py_ssize_t H, const real* gates,
                           const real* c_prev, const real* tanh_c, const real* extra, const real* dh, real* dc,
                           real* dz, real* shares) noexcept nogil:
    """`cell_backward` with options; `shares`, (rows, SHARES * H), are what each row adds to the gradients of the bias,
    the normalising scale and the peepholes."""
    cdef const real* i
    cdef const real* f
    cdef const real* g
    cdef const real* slopes
    cdef const real* peepholes = <const real*>variant.peepholes
    cdef real one = 1, zero = 0, d_i, d_f
    cdef Py_ssize_t row, k
    for row in range(rows):
        i, f, g = gates, gates + H, gates + 2 * H
        slopes = extra + EXTRA_SLOPES * H
        memset(shares, 0, SHARES * H * sizeof(real))
        for k in range(H):
            dz[3 * H + k] = dh[k] * tanh_c[k] * slopes[3 * H + k]
            dc[k] = multiply_add[real](dh[k] * gates[3 * H + k], extra[EXTRA_ACTIVATION_SLOPE * H + k], dc[k])
        undo[real](variant, GATE_O, 2, H, extra + EXTRA_CELL * H, extra, dz, shares)
        if peepholes != NULL:
            for k in range(H):
                dc[k] = multiply_add[real](peepholes[2 * H + k], dz[3 * H + k], dc[k])
        for k in range(H):
            dc[k] = dc[k] * extra[EXTRA_CELL_SLOPE * H + k]
            d_i = dc[k] * g[k]
            d_f = dc[k] * c_prev[k]
            if variant.coupling == FORGET_IS_REST:
                d_i, d_f = d_i - d_f, zero
            elif variant.coupling == INPUT_IS_REST:
                d_i, d_f = zero, d_f - d_i
            dz[k] = d_i * slopes[k]
            dz[H + k] = d_f * slopes[H + k]
            dz[2 * H + k] = dc[k] * i[k] * slopes[2 * H + k]
            dc[k] = dc[k] * f[k]
        undo[real](variant, GATE_I, 0, H, c_prev, extra, dz, shares)
        undo[real](variant, GATE_F, 1, H, c_prev, extra, dz, shares)
        undo[real](variant, GATE_G, -1, H, c_prev, extra, dz, shares)
        if peepholes != NULL:
            for k in range(H):
                dc[k] = multiply_add[real](peepholes[k], dz[k], multiply_add[real](peepholes[H + k], dz[H + k], dc[k]))
        gates += 4 * H
        c_prev += H
        tanh_c += H
        extra += EXTRA * H + 4
        dh += H
        dc += H
        dz += 4 * H
        shares += SHARES * H


cdef inline void undo(const Variant* variant, int gate, int peephole, Py_ssize_t H, const real* c, const real* extra,
                      real* dz, real* shares) noexcept nogil:
    """A gate's dz back through `prepare`, and this row's shares of its parameters' gradients."""
    cdef Py_ssize_t k
    dz += gate * H
    memcpy(shares + SHARE_BIAS * H + gate * H, dz, H * sizeof(real))
    if variant.norm != NULL:
        normalize_backward[real](H, <const real*>variant.norm + gate * H, extra + EXTRA_NORMALIZED * H + gate * H,
                                 extra[EXTRA_INVERSE * H + gate], dz, shares + SHARE_NORM * H + gate * H)
    if variant.peepholes != NULL and peephole >= 0:
        for k in range(H):
            shares[SHARE_PEEPHOLE * H + peephole * H + k] = dz[k] * c[k]
