"""Sums in float64 in an order that does not depend on the processor's vectors: sixteen partial sums, then by halves."""

from libc.string cimport memset

from .table cimport real

cdef enum:
    LANES = 16


cdef inline double sum_of_lanes(double* lanes) noexcept nogil:
    cdef int u
    # not a loop over the widths: compilers make vector code of loops of constant length
    for u in range(8):
        lanes[u] = lanes[u] + lanes[u + 8]
    for u in range(4):
        lanes[u] = lanes[u] + lanes[u + 4]
    for u in range(2):
        lanes[u] = lanes[u] + lanes[u + 2]
    return lanes[0] + lanes[1]


cdef inline double sum_of(Py_ssize_t n, const real* x) noexcept nogil:
    """The sum of x."""
    cdef double[LANES] lanes
    cdef Py_ssize_t start = 0
    cdef int u
    memset(lanes, 0, sizeof(lanes))
    while start + LANES <= n:
        for u in range(LANES):
            lanes[u] = lanes[u] + <double>x[start + u]
        start += LANES
    for u in range(<int>(n - start)):
        lanes[u] = lanes[u] + <double>x[start + u]
    return sum_of_lanes(lanes)


cdef inline double sum_of_products(Py_ssize_t n, const real* a, const real* b) noexcept nogil:
    """The sum of a b."""
    cdef double[LANES] lanes
    cdef Py_ssize_t start = 0
    cdef int u
    memset(lanes, 0, sizeof(lanes))
    while start + LANES <= n:
        for u in range(LANES):
            lanes[u] = lanes[u] + <double>a[start + u] * <double>b[start + u]
        start += LANES
    for u in range(<int>(n - start)):
        lanes[u] = lanes[u] + <double>a[start + u] * <double>b[start + u]
    return sum_of_lanes(lanes)
