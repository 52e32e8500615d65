"""The only module that names BLAS; importing it imports SciPy."""

from cpython.pycapsule cimport PyCapsule_New
from scipy.linalg.cython_blas cimport dgemm, dgemv, sgemm, sgemv

from .table cimport real

include "blas_int.pxi"  # written by setup.py: SciPy's name for the integers of its BLAS

cdef enum:
    # Up to this many rows a matrix-vector product for each is faster: OpenBLAS's gemm copies the whole weight matrix
    # into its own layout first, gemv reads it once from where it lies.
    FEW_ROWS = 8


cdef void gemm(bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const real* a,
               const real* b, real* c) noexcept nogil:
    # BLAS is column-major: it sees every array transposed, so it is asked for C^T += op(B)^T op(A)^T.
    cdef char op_a = c"T" if transpose_a else c"N"
    cdef char op_b = c"T" if transpose_b else c"N"
    cdef blas_int rows = <blas_int>m, columns = <blas_int>n, inner = <blas_int>k
    cdef blas_int width_a = rows if transpose_a else inner
    cdef blas_int width_b = inner if transpose_b else columns
    cdef real alpha = 1, beta = 1
    if real is float:
        sgemm(&op_b, &op_a, &columns, &rows, &inner, &alpha, <real*>b, &width_b, <real*>a, &width_a, &beta, c, &columns)
    else:
        dgemm(&op_b, &op_a, &columns, &rows, &inner, &alpha, <real*>b, &width_b, <real*>a, &width_a, &beta, c, &columns)


cdef void gemv(bint transpose_b, Py_ssize_t n, Py_ssize_t k, const real* a, const real* b, real* c) noexcept nogil:
    """c (n) += a (k) op(B)."""
    cdef char op = c"T" if transpose_b else c"N"
    cdef blas_int height = <blas_int>(k if transpose_b else n), width = <blas_int>(n if transpose_b else k), one = 1
    cdef real alpha = 1, beta = 1
    if real is float:
        sgemv(&op, &height, &width, &alpha, <real*>b, &height, <real*>a, &one, &beta, c, &one)
    else:
        dgemv(&op, &height, &width, &alpha, <real*>b, &height, <real*>a, &one, &beta, c, &one)


cdef void product(bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const real* a,
                  const real* b, real* c) noexcept nogil:
    cdef Py_ssize_t row
    if m > FEW_ROWS or transpose_a:
        gemm[real](transpose_a, transpose_b, m, n, k, a, b, c)
        return
    for row in range(m):
        gemv[real](transpose_b, n, k, a + row * k, b, c + row * n)


cdef Blas table

table.add_product32 = product[float]
table.add_product64 = product[double]


def blas():
    """The table of products, as a capsule for the drivers."""
    return PyCapsule_New(&table, "lstm_cy.blas", NULL)
