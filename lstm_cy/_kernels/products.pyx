"""Products of stacks of matrices, by the packed kernels of an instruction set: the same bits on every processor."""

from cpython.buffer cimport PyBUF_STRIDED, PyBUF_STRIDED_RO, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_GetPointer

from .network cimport NO_MEMORY, DONE, Status, check, poll_interrupt
from .runtime.memory cimport acquire, release
from .table cimport PART_ROWS, Kernels, Product, add_products, pack, packed_columns, real

ctypedef struct Stack:
    # matrices in one array; distances are in elements
    const char* data
    Py_ssize_t count, rows, columns, next, row, column


def multiply(kernels, a, b, c):
    """Compute c = a b for each matrix of stacks.

    Sums of more than 256 products are made of parts, so that long ones lose no digits.

    Parameters
    ----------
    kernels : capsule
    a, b : arrays (n, M, K) and (n, K, N) of one dtype, float32 or float64, in any layout
    c : array (n, M, N)
        C-contiguous; not a or b.
    """
    cdef const Kernels* table = <const Kernels*>PyCapsule_GetPointer(kernels, "lstm_cy.kernels")
    cdef Py_ssize_t itemsize = c.itemsize
    cdef Stack left = stack_of(a, False), right = stack_of(b, False), result = stack_of(c, True)
    cdef Status status
    if (left.count, left.columns, left.rows) != (right.count, right.rows, result.rows) or (
        (result.count, result.columns) != (right.count, right.columns)
    ):
        raise ValueError(f"multiply: shapes {a.shape}, {b.shape} and {c.shape} do not fit")
    if not (a.itemsize == b.itemsize == itemsize) or not c.flags.c_contiguous:
        raise ValueError("multiply: expected arrays of one dtype and a C-contiguous result")
    if c.size == 0:
        return
    if left.columns == 0:
        c.fill(0)
        return
    with nogil:
        if itemsize == 4:
            status = multiply_of[float](table, &left, &right, <float*>result.data)
        else:
            status = multiply_of[double](table, &left, &right, <double*>result.data)
    check(status)


cdef Stack stack_of(object array, bint writable) except *:
    """Return the places of an array's matrices. The caller must keep the array."""
    cdef Py_buffer view
    cdef Stack stack
    PyObject_GetBuffer(array, &view, PyBUF_STRIDED if writable else PyBUF_STRIDED_RO)
    stack.data = <const char*>view.buf
    stack.count, stack.rows, stack.columns = view.shape[0], view.shape[1], view.shape[2]
    stack.next, stack.row = view.strides[0] // view.itemsize, view.strides[1] // view.itemsize
    stack.column = view.strides[2] // view.itemsize
    PyBuffer_Release(&view)
    return stack


cdef Status multiply_of(const Kernels* table, const Stack* a, const Stack* b, real* c) noexcept nogil:
    cdef Py_ssize_t M = a.rows, K = a.columns, N = b.columns, index, first, k, i, work = 0, stop = 0
    cdef Py_ssize_t most = min(K, <Py_ssize_t>PART_ROWS)
    cdef Py_ssize_t panels_size = packed_columns[real](table, N, NULL) * most
    # in whole cache lines, so that the part begins at one
    cdef Py_ssize_t part_start = (panels_size + 15) // 16 * 16
    cdef real* panels = <real*>acquire((part_start + (M * N if K > most else 0)) * sizeof(real))
    cdef real* part = panels + part_start
    cdef const real* left
    cdef const real* right
    cdef Product product
    cdef Status status = DONE
    if panels == NULL:
        return NO_MEMORY
    for index in range(a.count):
        left = <const real*>a.data + index * a.next
        right = <const real*>b.data + index * b.next
        first = 0
        while first < K:
            k = min(most, K - first)
            if index == 0 or b.next != 0 or K > most:
                pack[real](table, k, N, right + first * b.row, b.row, b.column, panels)
            product = Product(k, left + first * a.column, a.row, a.column, panels, False)
            add_products[real](table, M, N, &product, 1, False, NULL, 0, c if first == 0 else part)
            if first > 0:
                for i in range(M * N):
                    c[i] = c[i] + part[i]
            first += most
        c += M * N
        status = poll_interrupt(M * K * N, &work, &stop, True)
        if status != DONE:
            break
    release(panels)
    return status
