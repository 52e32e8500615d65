"""Working memory that is used again: what one call gave back, the next one takes."""

# So many bytes, in whole cache lines, of any content; NULL where there are none.
cdef void* borrow(size_t bytes) noexcept nogil
# What was borrowed, or NULL.
cdef void give_back(void* memory) noexcept nogil


cdef class Borrowed:
    cdef void* memory
    cdef Py_ssize_t bytes
