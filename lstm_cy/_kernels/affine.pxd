from .network cimport Packer, Weight


cdef class Affine(Packer):
    cdef Weight weight
    cdef const void* bias

    cdef void apply(self, Py_ssize_t rows, const void* x, void* y) noexcept nogil
    cdef int pack_for_backward(self) except -1
