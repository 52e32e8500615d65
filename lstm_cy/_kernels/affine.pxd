from .network cimport Engine, Packer, Weight


ctypedef struct Map:
    # an Affine's content, for code without the GIL
    Engine engine
    Weight weight
    const void* bias  # or NULL


cdef class Affine(Packer):
    cdef Map map
    cdef readonly object weight, bias

    cdef int pack_for_backward(self) except -1


# y (rows, outputs) = x (rows, inputs) W^T + b
cdef void apply(const Map* map, Py_ssize_t rows, const void* x, void* y) noexcept nogil
