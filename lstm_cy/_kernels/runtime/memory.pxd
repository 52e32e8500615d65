"""Working memory that is used again: what one call releases, the next one acquires."""

# At least so many bytes, in whole cache lines, of any content; NULL if there is no memory.
cdef void* acquire(size_t bytes) noexcept nogil
# Release memory from `acquire`, or NULL.
cdef void release(void* memory) noexcept nogil


cdef class Buffer:
    cdef void* memory
    cdef Py_ssize_t bytes
