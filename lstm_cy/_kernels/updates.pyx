"""Updates of parameters by an optimizer, in one pass over them.

Each function writes new arrays and does not change the old ones, so that a step can be abandoned if a number is not
finite. It returns whether all numbers are finite. The arrays are C-contiguous vectors of one length and dtype, float32
or float64; everything is computed in this dtype, in the order of operations of the formulas.
"""

from libc.float cimport DBL_MAX, FLT_MAX
from libc.math cimport fabs, sqrt
from libc.string cimport memcpy

from .network cimport address, address_or_null
from .table cimport real

cdef extern from "<math.h>" nogil:
    float fabsf(float)
    float sqrtf(float)


def sgd(new, old, grad, tuple states, double decay, double momentum, bint nesterov, double lr):
    """Compute new = old - lr * (velocity, or with nesterov grad + momentum * velocity), `decay` * old added to grad.

    `states` are the new velocity and the old one; without momentum it is empty, and new = old - lr * grad.
    """
    new_velocity, old_velocity = states or (None, None)
    if new.itemsize == 4:
        return sgd_of[float](new.size, <float*>address(new), <float*>address(old), <float*>address(grad),
                             <float*>address_or_null(new_velocity), <float*>address_or_null(old_velocity),
                             <float>decay, <float>momentum, nesterov, <float>-lr)
    return sgd_of[double](new.size, <double*>address(new), <double*>address(old), <double*>address(grad),
                          <double*>address_or_null(new_velocity), <double*>address_or_null(old_velocity), decay,
                          momentum, nesterov, -lr)


def adam(new, old, grad, tuple states, double decay, double shrink, double beta1, double beta2, double root,
         double eps, double rate):
    """Compute new = shrink * old - rate * mean / (sqrt(square) / root + eps), with `decay` * old added to grad first.

    `states` are the new mean and square, and the old ones. `shrink` is the decay of AdamW; 1 for none.
    """
    new_mean, new_square, old_mean, old_square = states
    if new.itemsize == 4:
        return adam_of[float](new.size, <float*>address(new), <float*>address(old), <float*>address(grad),
                              <float*>address(new_mean), <float*>address(new_square), <float*>address(old_mean),
                              <float*>address(old_square), <float>decay, <float>shrink, <float>beta1,
                              <float>(1 - beta1), <float>beta2, <float>(1 - beta2), <float>root, <float>eps,
                              <float>-rate)
    return adam_of[double](new.size, <double*>address(new), <double*>address(old), <double*>address(grad),
                           <double*>address(new_mean), <double*>address(new_square), <double*>address(old_mean),
                           <double*>address(old_square), decay, shrink, beta1, 1 - beta1, beta2, 1 - beta2, root, eps,
                           -rate)


def rmsprop(new, old, grad, tuple states, double decay, double alpha, double eps, double momentum, bint centered,
            double rate):
    """Compute new = old - rate * velocity, with velocity = momentum * velocity + g / (sqrt(square) + eps).

    g is grad + `decay` * old, square the running mean of g * g, less the square of that of g if `centered`. `states`
    are the new square, velocity and mean, and the old ones; without momentum the velocities are None, and where no
    group is centered the means.
    """
    new_square, new_velocity, new_mean, old_square, old_velocity, old_mean = states
    if new.itemsize == 4:
        return rmsprop_of[float](new.size, <float*>address(new), <float*>address(old), <float*>address(grad),
                                 <float*>address(new_square), <float*>address_or_null(new_velocity),
                                 <float*>address_or_null(new_mean), <float*>address(old_square),
                                 <float*>address_or_null(old_velocity), <float*>address_or_null(old_mean),
                                 <float>decay, <float>alpha, <float>(1 - alpha), <float>eps, <float>momentum, centered,
                                 <float>-rate)
    return rmsprop_of[double](new.size, <double*>address(new), <double*>address(old), <double*>address(grad),
                              <double*>address(new_square), <double*>address_or_null(new_velocity),
                              <double*>address_or_null(new_mean), <double*>address(old_square),
                              <double*>address_or_null(old_velocity), <double*>address_or_null(old_mean), decay, alpha,
                              1 - alpha, eps, momentum, centered, -rate)


cdef enum:
    # Numbers processed at a time, in local arrays: these cannot overlap. The compiler makes no vector code of a loop
    # over so many pointers that might.
    BLOCK = 64


cdef inline real root_of(real value) noexcept nogil:
    if real is float:
        return sqrtf(value)
    else:
        return sqrt(value)


cdef inline bint all_finite(Py_ssize_t count, const real* values) noexcept nogil:
    cdef Py_ssize_t i
    cdef int wrong = 0
    for i in range(count):
        # A comparison is vectorised; the C library's macro is not.
        if real is float:
            wrong |= not (fabsf(values[i]) <= FLT_MAX)
        else:
            wrong |= not (fabs(values[i]) <= DBL_MAX)
    return not wrong


cdef inline void decayed(Py_ssize_t count, const real* old, const real* grad, real decay, real* g) noexcept nogil:
    """Compute grad + `decay` times the parameter."""
    cdef Py_ssize_t i
    if decay == 0:  # else an infinite parameter would make NaN
        memcpy(g, grad, count * sizeof(real))
        return
    for i in range(count):
        g[i] = old[i] * decay + grad[i]


cdef bint sgd_of(Py_ssize_t size, real* new, const real* old, const real* grad, real* new_velocity,
                 const real* old_velocity, real decay, real momentum, bint nesterov, real rate) noexcept nogil:
    cdef Py_ssize_t start = 0, count, i
    cdef real g[BLOCK]
    cdef real v[BLOCK]
    cdef bint finite = True
    while start < size:
        count = min(<Py_ssize_t>BLOCK, size - start)
        decayed[real](count, old + start, grad + start, decay, g)
        if new_velocity != NULL:
            for i in range(count):
                v[i] = old_velocity[start + i] * momentum + g[i]
                g[i] = v[i] * momentum + g[i] if nesterov else v[i]
            memcpy(new_velocity + start, v, count * sizeof(real))
        for i in range(count):
            g[i] = g[i] * rate + old[start + i]
        memcpy(new + start, g, count * sizeof(real))
        finite &= all_finite[real](count, g)
        start += count
    return finite


cdef bint adam_of(Py_ssize_t size, real* new, const real* old, const real* grad, real* new_mean, real* new_square,
                  const real* old_mean, const real* old_square, real decay, real shrink, real beta1, real rest1,
                  real beta2, real rest2, real root, real eps, real rate) noexcept nogil:
    cdef Py_ssize_t start = 0, count, i
    cdef real g[BLOCK]
    cdef real m[BLOCK]
    cdef real v[BLOCK]
    cdef bint finite = True
    while start < size:
        count = min(<Py_ssize_t>BLOCK, size - start)
        decayed[real](count, old + start, grad + start, decay, g)
        for i in range(count):
            m[i] = old_mean[start + i] * beta1 + g[i] * rest1
            v[i] = old_square[start + i] * beta2 + g[i] * g[i] * rest2
            g[i] = m[i] / (root_of[real](v[i]) / root + eps) * rate + old[start + i] * shrink
        memcpy(new_mean + start, m, count * sizeof(real))
        memcpy(new_square + start, v, count * sizeof(real))
        memcpy(new + start, g, count * sizeof(real))
        # A mean that is not finite makes the parameter not finite; a square that overflows does not.
        finite &= all_finite[real](count, g) and all_finite[real](count, v)
        start += count
    return finite


cdef bint rmsprop_of(Py_ssize_t size, real* new, const real* old, const real* grad, real* new_square,
                     real* new_velocity, real* new_mean, const real* old_square, const real* old_velocity,
                     const real* old_mean, real decay, real alpha, real rest, real eps, real momentum, bint centered,
                     real rate) noexcept nogil:
    cdef Py_ssize_t start = 0, count, i
    cdef real g[BLOCK]
    cdef real s[BLOCK]
    cdef real m[BLOCK]
    cdef real v[BLOCK]
    cdef bint finite = True
    while start < size:
        count = min(<Py_ssize_t>BLOCK, size - start)
        decayed[real](count, old + start, grad + start, decay, g)
        for i in range(count):
            s[i] = old_square[start + i] * alpha + g[i] * g[i] * rest
            v[i] = s[i]
        memcpy(new_square + start, s, count * sizeof(real))
        if new_mean != NULL:
            for i in range(count):
                m[i] = old_mean[start + i] * alpha + g[i] * rest
            memcpy(new_mean + start, m, count * sizeof(real))
            if centered:
                for i in range(count):
                    v[i] = v[i] - m[i] * m[i]
                    v[i] = v[i] if v[i] > 0 else 0  # rounding can make a variance negative
        for i in range(count):
            g[i] = g[i] / (root_of[real](v[i]) + eps)
        if new_velocity != NULL:
            for i in range(count):
                g[i] = old_velocity[start + i] * momentum + g[i]
            memcpy(new_velocity + start, g, count * sizeof(real))
        for i in range(count):
            g[i] = g[i] * rate + old[start + i]
        memcpy(new + start, g, count * sizeof(real))
        # A square that overflows would hide the gradient.
        finite &= all_finite[real](count, g) and all_finite[real](count, s)
        start += count
    return finite
