"""The only module that names BLAS; importing it imports SciPy."""

from cpython.pycapsule cimport PyCapsule_New
from scipy.linalg.cython_blas cimport dgemm, dgemv, sgemm, sgemv

from .threads cimport Forks, at_fork, begin_fork, fetch_add, is_first_fork, was_last_fork
from ..table cimport real

include "blas_int.pxi"  # written by setup.py: SciPy's name for the integers of its BLAS

cdef extern from "pythread.h" nogil:
    # cpython.pythread declares the second one as a function that needs the GIL
    ctypedef void* PyThread_type_lock
    PyThread_type_lock PyThread_allocate_lock()
    int PyThread_acquire_lock(PyThread_type_lock, int)
    void PyThread_release_lock(PyThread_type_lock)
    const int WAIT_LOCK, NOWAIT_LOCK

cdef enum:
    # Up to this many rows a matrix-vector product for each is faster: OpenBLAS's gemm copies the whole weight matrix
    # into its own layout first, gemv reads it once in place.
    FEW_ROWS = 8
    # Callers at once, of all threads; any more of them wait. OpenBLAS has memory for as many as it was compiled for,
    # and ends the process where that does not suffice.
    MOST_CALLERS = 32


cdef void gemm(bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const real* a,
               const real* b, real* c) noexcept nogil:
    # BLAS is column-major: it sees every array transposed, so it computes C^T += op(B)^T op(A)^T.
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
    cdef PyThread_type_lock slot = acquire_slot()
    if m > FEW_ROWS or transpose_a:
        gemm[real](transpose_a, transpose_b, m, n, k, a, b, c)
    else:
        for row in range(m):
            gemv[real](transpose_b, n, k, a + row * k, b, c + row * n)
    PyThread_release_lock(slot)


# One lock for each caller. They are acquired with and without the GIL; a thread that holds one never waits for the GIL.
cdef PyThread_type_lock[MOST_CALLERS] slots
cdef Py_ssize_t products = 0, waits = 0


cdef PyThread_type_lock acquire_slot() noexcept nogil:
    """Acquire the first free slot, or wait for one; the caller must release it."""
    cdef Py_ssize_t first = fetch_add(&products, 1), number
    for number in range(first, first + MOST_CALLERS):
        if PyThread_acquire_lock(slots[number % MOST_CALLERS], NOWAIT_LOCK):
            return slots[number % MOST_CALLERS]
    fetch_add(&waits, 1)
    PyThread_acquire_lock(slots[first % MOST_CALLERS], WAIT_LOCK)
    return slots[first % MOST_CALLERS]


def statistics():
    """Return (products, how many of them had to wait for a slot) in this process."""
    return products, waits


cdef int make_slots() noexcept nogil:
    """Make new slots, all free, and return how many. Where there is no memory for one the old one stays."""
    cdef PyThread_type_lock slot
    cdef int number, made = 0
    for number in range(MOST_CALLERS):
        slot = PyThread_allocate_lock()
        if slot != NULL:
            slots[number] = slot
            made += 1
    return made


# A fork waits until all slots are free: OpenBLAS has locks too, and one that is held during a fork is never free in the
# child. The system calls these three functions within fork(), where a thread that holds the GIL keeps it. Between
# Python's own fork hooks it could lose it to a thread that holds the GIL while it waits for a slot.

cdef Forks forks


cdef void lock_slots() noexcept nogil:
    cdef int number
    if is_first_fork(&forks):
        for number in range(MOST_CALLERS):  # two threads that fork at once acquire them in the same order
            PyThread_acquire_lock(slots[number], WAIT_LOCK)
    begin_fork(&forks)


cdef void unlock_slots() noexcept nogil:
    cdef int number
    if was_last_fork(&forks):
        for number in range(MOST_CALLERS):
            PyThread_release_lock(slots[number])


cdef void replace_slots() noexcept nogil:
    """Give the child new slots: threads that it does not have may have waited for the old ones."""
    if was_last_fork(&forks):
        make_slots()


if make_slots() < MOST_CALLERS:
    raise MemoryError
# Registered after SciPy has loaded OpenBLAS: its own hook, which ends its threads, must run second, once they have no
# work.
at_fork(lock_slots, unlock_slots, replace_slots)

cdef Blas table

table.add_product32 = product[float]
table.add_product64 = product[double]


def blas():
    """Return the table of products, as a capsule for the drivers."""
    return PyCapsule_New(&table, "lstm_cy.blas", NULL)
