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


cdef inline real bounded(real x, real bound) noexcept nogil:
    """x within [-bound, bound]; NaN stays NaN, hence the order of the comparisons."""
    x = bound if x > bound else x
    return -bound if x < -bound else x


cdef inline real magnitude(real x) noexcept nogil:
    return -x if x < 0 else x


cdef inline void softplus(const real* x, real* y) noexcept nogil:
    """ln(1 + exp(x)) of one block: max(0, x) + ln(1 + v) with v = exp(-|x|) in (0, 1].

    ln(1 + v) = 2 artanh(s), s = v / (2 + v) <= 1/3: a series in s^2 <= 1/9, of which the terms left out are below 2e-9
    (float32) and 2e-18.
    """
    cdef real[BLOCK] s, square, series
    cdef real zero = 0, less, more, v
    cdef int terms = 8 if real is float else 18, u, term
    for u in range(BLOCK):
        exp_and_1[real](bounded[real](-magnitude[real](x[u]), <real>40), 1, &less, &more)
        v = less + <real>1
        s[u] = v / (v + <real>2)
        square[u] = s[u] * s[u]
        series[u] = 0
    for term in range(terms, -1, -1):
        for u in range(BLOCK):
            series[u] = fma[real](series[u], square[u], <real>1 / <real>(2 * term + 1))
    for u in range(BLOCK):
        y[u] = (zero if x[u] < zero else x[u]) + <real>2 * s[u] * series[u]


cdef inline void block_of(const Activation* activation, const real* x, real* y, real* slope) noexcept nogil:
    """y = activation(x) and its derivative, for one block; NaN stays NaN, hence the order of the comparisons."""
    cdef real alpha = <real>activation.alpha, beta = <real>activation.beta, one = 1, zero = 0, t, more
    cdef real limit = 20 if real is float else 40  # past which exp(-x) - 1 rounds to -1
    cdef int kind = activation.kind, u
    if kind == SIGMOID:
        for u in range(BLOCK):
            y[u] = sigmoid[real](x[u])
            slope[u] = y[u] * (one - y[u])
    elif kind == TANH:
        for u in range(BLOCK):
            y[u] = tanh[real](x[u])
            slope[u] = one - y[u] * y[u]
    elif kind == RELU:
        for u in range(BLOCK):
            y[u] = zero if x[u] < zero else x[u]
            slope[u] = one if x[u] > zero else zero
    elif kind == AFFINE:
        for u in range(BLOCK):
            y[u] = fma[real](alpha, x[u], beta)
            slope[u] = alpha
    elif kind == LEAKYRELU:
        for u in range(BLOCK):
            y[u] = x[u] if x[u] >= zero else alpha * x[u]
            slope[u] = one if x[u] >= zero else alpha
    elif kind == THRESHOLDEDRELU:
        for u in range(BLOCK):
            y[u] = zero if x[u] <= alpha else x[u]
            slope[u] = zero if x[u] <= alpha else one
    elif kind == SCALEDTANH:
        for u in range(BLOCK):
            t = tanh[real](beta * x[u])
            y[u] = alpha * t
            slope[u] = alpha * beta * (one - t * t)
    elif kind == HARDSIGMOID:
        for u in range(BLOCK):
            t = fma[real](alpha, x[u], beta)
            slope[u] = alpha if zero < t < one else zero
            t = one if t > one else t
            y[u] = zero if t < zero else t
    elif kind == ELU:
        for u in range(BLOCK):
            exp_and_1[real](bounded[real](x[u], limit), 1, &t, &more)
            y[u] = x[u] if x[u] >= zero else alpha * t
            slope[u] = one if x[u] >= zero else alpha * t + alpha
    elif kind == SOFTSIGN:
        for u in range(BLOCK):
            t = bounded[real](x[u], <real>1e30)  # infinity over infinity would be NaN
            slope[u] = one / (one + magnitude[real](t))
            y[u] = t * slope[u]
            slope[u] = slope[u] * slope[u]
    else:
        softplus[real](x, y)
        for u in range(BLOCK):
            slope[u] = sigmoid[real](x[u])


cdef void activate(const Activation* activation, Py_ssize_t n, real bound, real* z, real* slope) noexcept nogil:
    """Activate z in place, first brought within [-bound, bound]; `slope`, out, is the derivative, or NULL."""
    cdef real[BLOCK] given, x, y, s
    cdef real zero = 0
    cdef Py_ssize_t start = 0
    cdef int u
    while start < n:
        load(given, z + start, n - start)
        for u in range(BLOCK):
            x[u] = bounded[real](given[u], bound)
        block_of[real](activation, x, y, s)
        store(z + start, y, n - start)
        if slope != NULL:
            for u in range(BLOCK):
                s[u] = zero if magnitude[real](given[u]) > bound else s[u]
            store(slope + start, s, n - start)
        start += BLOCK


cdef real sum_of_products(Py_ssize_t n, const real* a, const real* b) noexcept nogil:
    """The sum of a b, or of a if b is NULL, in lanes: its order is the same for any vector width."""
    cdef real[BLOCK] lanes, left, right
    cdef real total = 0
    cdef Py_ssize_t start = 0
    cdef int u
    memset(lanes, 0, sizeof(lanes))
    while start < n:
        load(left, a + start, n - start)
        if b == NULL:
            for u in range(BLOCK):
                lanes[u] = lanes[u] + left[u]
        else:
            load(right, b + start, n - start)
            for u in range(BLOCK):
                lanes[u] = fma[real](left[u], right[u], lanes[u])
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
            z[k] = fma[real](weights[k], c[k], z[k])
    if variant.norm != NULL:
        normalize[real](H, <const real*>variant.norm + gate * H, bias if bias == NULL else bias + gate * H, z,
                        extra if extra == NULL else extra + EXTRA_NORMALIZED * H + gate * H,
                        extra if extra == NULL else extra + EXTRA_INVERSE * H + gate)


cdef void variant_forward(const Variant* variant, Py_ssize_t rows, Py_ssize_t H, real* gates, real* c, real* h,
                          real* tanh_c, real* extra) noexcept nogil:
    """`cell_forward` with options; `extra` and tanh_c are saved for backward, or both are NULL."""
    cdef real bound = <real>variant.clip, cell_bound = <real>variant.cell_clip, one = 1, zero = 0, cell
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
            cell = fma[real](f[k], c[k], i[k] * g[k])
            c[k] = bounded[real](cell, cell_bound)
            if extra != NULL:
                extra[EXTRA_CELL_SLOPE * H + k] = zero if magnitude[real](cell) > cell_bound else one
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
            dc[k] = fma[real](dh[k] * gates[3 * H + k], extra[EXTRA_ACTIVATION_SLOPE * H + k], dc[k])
        undo[real](variant, GATE_O, 2, H, extra + EXTRA_CELL * H, extra, dz, shares)
        if peepholes != NULL:
            for k in range(H):
                dc[k] = fma[real](peepholes[2 * H + k], dz[3 * H + k], dc[k])
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
                dc[k] = fma[real](peepholes[k], dz[k], fma[real](peepholes[H + k], dz[H + k], dc[k]))
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
