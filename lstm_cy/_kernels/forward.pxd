from .network cimport Net


cdef void step(const Net* network, Py_ssize_t B, bint descending, const void* x, const void* h, void* next_h, void* c,
               void* z) noexcept nogil
