"""BLAS for the drivers: row-major products, as a struct of pointers that they get at run time.

The drivers do not cimport blas.pyx itself: importing it imports SciPy, which only engine "blas" needs.
"""

from ..table cimport real

cdef enum:
    # BLAS counts in int; the layers refuse sizes above this.
    LARGEST = 2147483647


ctypedef struct Blas:
    # (transpose A, transpose B, m, n, k, A, B, C): C (m, n) += op(A) op(B), op(A) (m, k), op(B) (k, n), all row-major
    # and contiguous. There is no C = op(A) op(B): some BLAS keep a NaN that stood in C.
    void (*add_product32)(bint, bint, Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, const float*,
                          float*) noexcept nogil
    void (*add_product64)(bint, bint, Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*, const double*,
                          double*) noexcept nogil


cdef inline void add_product(const Blas* blas, bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n,
                             Py_ssize_t k, const real* a, const real* b, real* c) noexcept nogil:
    if real is float:
        blas.add_product32(transpose_a, transpose_b, m, n, k, a, b, c)
    else:
        blas.add_product64(transpose_a, transpose_b, m, n, k, a, b, c)
