from .table cimport Kernels, real

# softmax of each row, or its logarithm
cdef void softmax_of(const Kernels* table, Py_ssize_t rows, Py_ssize_t columns, const real* x, real* y,
                     bint logarithm) noexcept nogil
