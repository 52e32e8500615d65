from .network cimport Net, Status


cdef void step(const Net* network, Py_ssize_t B, bint descending, const void* x, const void* h, void* next_h, void* c,
               void* z) noexcept nogil

cdef Status infer(const Net* network, Py_ssize_t T, Py_ssize_t B, bint batch_first, const void* x, void* y, void* inner,
                  void* h, void* c, int threads) noexcept nogil
