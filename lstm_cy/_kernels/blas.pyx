"""The only module that names BLAS; importing it imports SciPy."""

from cpython.pycapsule cimport PyCapsule_New
from scipy.linalg.cython_blas cimport dgemm, dgemv, sgemm, sgemv

from .pool cimport Forks, at_fork, begin_fork, is_first_fork, take, was_last_fork
from .table cimport real

include "blas_int.pxi"  # written by setup.py: SciPy's name for the integers of its BLAS

cdef extern from "pythread.h" nogil:
    # cpython.pythread has the second one as a function that needs the GIL
    ctypedef void* PyThread_type_lock
    PyThread_type_lock PyThread_allocate_lock()
    int PyThread_acquire_lock(PyThread_type_lock, int)
    void PyThread_release_lock(PyThread_type_lock)
    const int WAIT_LOCK, NOWAIT_LOCK

cdef enum:
    # Up to this many rows a matrix-vector product for each is faster: OpenBLAS's gemm copies the whole weight matrix
    # into its own layout first, gemv reads it once from where it lies.
    FEW_ROWS = 8
    # Callers at once, of all threads; whoever comes beyond them waits. OpenBLAS has memory for as many as it was
    # compiled for, and ends the process where that does not suffice.
    MOST_CALLERS = 32


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
    cdef PyThread_type_lock door = enter()
    if m > FEW_ROWS or transpose_a:
        gemm[real](transpose_a, transpose_b, m, n, k, a, b, c)
    else:
        for row in range(m):
            gemv[real](transpose_b, n, k, a + row * k, b, c + row * n)
    PyThread_release_lock(door)


# One for each caller. They are taken with and without the GIL; whoever is inside never waits for it.
cdef PyThread_type_lock[MOST_CALLERS] doors
cdef Py_ssize_t arrivals = 0, waits = 0


cdef PyThread_type_lock enter() noexcept nogil:
    """A door that is taken for the caller, who must release it: the first that is free, else one to wait for."""
    cdef Py_ssize_t first = take(&arrivals), number
    for number in range(first, first + MOST_CALLERS):
        if PyThread_acquire_lock(doors[number % MOST_CALLERS], NOWAIT_LOCK):
            return doors[number % MOST_CALLERS]
    take(&waits)
    PyThread_acquire_lock(doors[first % MOST_CALLERS], WAIT_LOCK)
    return doors[first % MOST_CALLERS]


def statistics():
    """(products, how many of them had to wait for a door) in this process."""
    return arrivals, waits


cdef int make_doors() noexcept nogil:
    """Make new doors, all free; return how many. Where there is no memory for one the old one stays."""
    cdef PyThread_type_lock door
    cdef int number, made = 0
    for number in range(MOST_CALLERS):
        door = PyThread_allocate_lock()
        if door != NULL:
            doors[number] = door
            made += 1
    return made


# A fork waits until nobody is inside: OpenBLAS has locks too, and one that is taken in a fork is never free in the
# child. The system calls these three within fork(), where a thread that holds the GIL goes on holding it. Between hooks
# of Python's it could lose it, to a thread that waits for a door with it.

cdef Forks forks


cdef void close_doors() noexcept nogil:
    cdef int number
    if is_first_fork(&forks):
        for number in range(MOST_CALLERS):  # two that fork at once take them in the same order
            PyThread_acquire_lock(doors[number], WAIT_LOCK)
    begin_fork(&forks)


cdef void open_doors() noexcept nogil:
    cdef int number
    if was_last_fork(&forks):
        for number in range(MOST_CALLERS):
            PyThread_release_lock(doors[number])


cdef void open_in_child() noexcept nogil:
    """Threads that the child does not have may have waited for the locks: it gets others."""
    if was_last_fork(&forks):
        make_doors()


if make_doors() < MOST_CALLERS:
    raise MemoryError
# After SciPy has loaded OpenBLAS, whose own hook ends its threads: that one must come second, once they have no work.
at_fork(close_doors, open_doors, open_in_child)

cdef Blas table

table.add_product32 = product[float]
table.add_product64 = product[double]


def blas():
    """The table of products, as a capsule for the drivers."""
    return PyCapsule_New(&table, "lstm_cy.blas", NULL)
