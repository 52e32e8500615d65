"""Working memory that is used again: what one call releases, the next one acquires.

The C library returns large blocks to the system, which maps them again a page at a time, at one or two microseconds
each: of a training step of 64 units that was more than half. Here up to MAX_CACHED bytes are cached instead, those
released last. A thread that finds the cache locked by another one calls the C library.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport free, malloc

from .atomics cimport try_lock, unlock
from .threads cimport Forks, at_fork, begin_fork, is_first_fork, was_last_fork
from ..table cimport CACHE_LINE

cdef extern from "Python.h":
    size_t PY_SSIZE_T_MAX

cdef extern from *:
    """
    #ifdef LSTM_CY_NO_CACHE  /* for sanitizers, which know the bounds of the C library's blocks */
    #define LSTM_CY_MIN_CACHED ((size_t)-1)
    #else
    #define LSTM_CY_MIN_CACHED 32768  /* the C library itself reuses smaller blocks */
    #endif
    #if defined(__linux__)
    #include <sys/mman.h>
    #endif
    /* Ask for huge pages. Where this is not possible nothing happens, and errors change nothing: it is advice. */
    static void lstm_cy_advise_huge_pages(void* start, size_t bytes) {
    #if defined(__linux__) && defined(MADV_HUGEPAGE)
        (void)madvise(start, bytes, MADV_HUGEPAGE);
    #else
        (void)start;
        (void)bytes;
    #endif
    }
    """
    size_t MIN_CACHED "LSTM_CY_MIN_CACHED"
    void advise_huge_pages "lstm_cy_advise_huge_pages"(void*, size_t) noexcept nogil

cdef enum:
    SLOTS = 64
    MAX_CACHED = 67108864
    # Blocks of this size or more begin on a huge page. In pages of 4 KiB the addresses of 8 MiB of weights fill the
    # processor's second TLB, and its prefetchers stop at the end of each page.
    HUGE_PAGE = 2097152

ctypedef struct Header:
    # in the cache line before the memory of a block
    void* start   # as the C library gave it
    size_t bytes  # that may be used

cdef long lock  # of the variables below
cdef Header* cached[SLOTS]
cdef size_t total_bytes
cdef int oldest  # slots are filled, and evicted for lack of room, in a circle


cdef inline void* memory_of(Header* block) noexcept nogil:
    return <char*>block + CACHE_LINE


cdef void* acquire(size_t bytes) noexcept nogil:
    cdef Header* block = NULL
    cdef char* start
    cdef size_t alignment = HUGE_PAGE if bytes >= HUGE_PAGE else CACHE_LINE
    if bytes > PY_SSIZE_T_MAX - alignment - CACHE_LINE:
        return NULL
    if bytes >= MIN_CACHED and try_lock(&lock):
        block = take_cached(bytes)
        unlock(&lock)
    if block == NULL:
        start = <char*>malloc(bytes + alignment + CACHE_LINE)
        if start == NULL:
            return NULL
        block = header_before(start + CACHE_LINE, alignment)
        block.start = start
        block.bytes = bytes
        if bytes >= HUGE_PAGE:  # whole ones only: the rest of the last one would be memory that nobody uses
            advise_huge_pages(memory_of(block), bytes - bytes % HUGE_PAGE)
    return memory_of(block)


cdef inline Header* header_before(char* start, size_t alignment) noexcept nogil:
    """Return the place of the header of a block that begins at the first multiple of `alignment` from `start` on."""
    return <Header*>(start + (alignment - <size_t>start % alignment) % alignment - CACHE_LINE)


cdef Header* take_cached(size_t bytes) noexcept nogil:
    """Return the smallest block that is large enough, but not twice as large; NULL if there is none."""
    global total_bytes
    cdef int slot, best = -1
    cdef Header* block
    for slot in range(SLOTS):
        block = cached[slot]
        if block != NULL and bytes <= block.bytes < 2 * bytes and (best < 0 or block.bytes < cached[best].bytes):
            best = slot
    if best < 0:
        return NULL
    block = cached[best]
    cached[best] = NULL
    total_bytes -= block.bytes
    return block


cdef void release(void* memory) noexcept nogil:
    cdef Header* block
    if memory == NULL:
        return
    block = <Header*>(<char*>memory - CACHE_LINE)
    if MIN_CACHED <= block.bytes <= MAX_CACHED and try_lock(&lock):
        add_to_cache(block)
        unlock(&lock)
    else:
        free(block.start)


cdef void add_to_cache(Header* block) noexcept nogil:
    """Put a block in the next slot and evict the oldest ones."""
    global total_bytes, oldest
    cdef int slot
    evict(oldest)
    cached[oldest] = block
    total_bytes += block.bytes
    slot = oldest = (oldest + 1) % SLOTS
    while total_bytes > MAX_CACHED:
        evict(slot)
        slot = (slot + 1) % SLOTS


cdef void evict(int slot) noexcept nogil:
    global total_bytes
    if cached[slot] != NULL:
        total_bytes -= cached[slot].bytes
        free(cached[slot].start)
        cached[slot] = NULL


cdef class Buffer:
    """Memory of so many bytes as a writable buffer, released when nothing refers to it any more."""

    def __cinit__(self, Py_ssize_t bytes):
        if bytes < 0:
            raise ValueError(f"bytes: expected at least 0, got {bytes}")
        self.memory = acquire(bytes)
        if self.memory == NULL:
            raise MemoryError(f"no memory for {bytes} bytes")
        self.bytes = bytes

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.memory, self.bytes, False, flags)

    def __dealloc__(self):
        release(self.memory)


# A fork waits for the lock: a cache that the child found half changed would stay so.

cdef Forks forks


cdef void before_fork() noexcept nogil:
    if is_first_fork(&forks):
        while not try_lock(&lock):  # a thread holds it no longer than it takes to free memory in the C library
            pass
    begin_fork(&forks)


cdef void after_fork() noexcept nogil:
    if was_last_fork(&forks):
        unlock(&lock)


at_fork(before_fork, after_fork, after_fork)


def cached_bytes():
    """Return the number of bytes that are cached now."""
    return total_bytes
