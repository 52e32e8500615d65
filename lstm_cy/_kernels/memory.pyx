"""Working memory that is used again: what one call gave back, the next one takes.

The C library returns large pieces to the system, which hands them out anew a page at a time, at one or two microseconds
each: of a training step of 64 units that was more than half. Here up to MOST_KEPT bytes are kept instead, the latest
that were given back. A thread that finds another one looking at them goes to the C library.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport free, malloc

from .flags cimport give_back as leave, take as enter
from .pool cimport Forks, at_fork, begin_fork, is_first_fork, was_last_fork

cdef extern from "Python.h":
    size_t PY_SSIZE_T_MAX

cdef enum:
    LINE = 64  # bytes of a cache line
    PLACES = 64
    # What is smaller the C library itself uses again.
    LEAST_KEPT = 32768
    MOST_KEPT = 67108864

ctypedef struct Piece:
    # what stands in the line before the memory that is lent
    void* start   # as the C library gave it
    size_t bytes  # that may be lent

cdef long inside  # whether a thread looks at what follows
cdef Piece* kept[PLACES]
cdef size_t kept_bytes
cdef int oldest  # places are filled, and emptied for want of room, in turns


cdef inline void* lent(Piece* piece) noexcept nogil:
    return <char*>piece + LINE


cdef void* borrow(size_t bytes) noexcept nogil:
    cdef Piece* piece = NULL
    cdef char* start
    cdef size_t line
    if bytes > PY_SSIZE_T_MAX - 2 * LINE:
        return NULL
    if bytes >= LEAST_KEPT and enter(&inside):
        piece = take_kept(bytes)
        leave(&inside)
    if piece == NULL:
        start = <char*>malloc(bytes + 2 * LINE)
        if start == NULL:
            return NULL
        line = <size_t>start % LINE
        piece = <Piece*>(start + (LINE - line) % LINE)
        piece.start = start
        piece.bytes = bytes
    return lent(piece)


cdef Piece* take_kept(size_t bytes) noexcept nogil:
    """The smallest piece that is large enough, but not twice as large; NULL if there is none."""
    global kept_bytes
    cdef int place, best = -1
    cdef Piece* piece
    for place in range(PLACES):
        piece = kept[place]
        if piece != NULL and bytes <= piece.bytes < 2 * bytes and (best < 0 or piece.bytes < kept[best].bytes):
            best = place
    if best < 0:
        return NULL
    piece = kept[best]
    kept[best] = NULL
    kept_bytes -= piece.bytes
    return piece


cdef void give_back(void* memory) noexcept nogil:
    cdef Piece* piece
    if memory == NULL:
        return
    piece = <Piece*>(<char*>memory - LINE)
    if LEAST_KEPT <= piece.bytes <= MOST_KEPT and enter(&inside):
        keep(piece)
        leave(&inside)
    else:
        free(piece.start)


cdef void keep(Piece* piece) noexcept nogil:
    """Put a piece in the next place, in exchange for the oldest ones."""
    global kept_bytes, oldest
    cdef int place
    let_go(oldest)
    kept[oldest] = piece
    kept_bytes += piece.bytes
    place = oldest = (oldest + 1) % PLACES
    while kept_bytes > MOST_KEPT:
        let_go(place)
        place = (place + 1) % PLACES


cdef void let_go(int place) noexcept nogil:
    global kept_bytes
    if kept[place] != NULL:
        kept_bytes -= kept[place].bytes
        free(kept[place].start)
        kept[place] = NULL


cdef class Borrowed:
    """Memory of so many bytes as a writable buffer, given back when nobody refers to it any more."""

    def __cinit__(self, Py_ssize_t bytes):
        if bytes < 0:
            raise ValueError(f"bytes: expected at least 0, got {bytes}")
        self.memory = borrow(bytes)
        if self.memory == NULL:
            raise MemoryError(f"no memory for {bytes} bytes")
        self.bytes = bytes

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.memory, self.bytes, False, flags)

    def __dealloc__(self):
        give_back(self.memory)


# A fork waits until no thread looks at what is kept: what the child found half changed would stay so.

cdef Forks forks


cdef void before_fork() noexcept nogil:
    if is_first_fork(&forks):
        while not enter(&inside):  # nobody stays for longer than it takes to give memory back to the C library
            pass
    begin_fork(&forks)


cdef void after_fork() noexcept nogil:
    if was_last_fork(&forks):
        leave(&inside)


at_fork(before_fork, after_fork, after_fork)


def kept_now():
    """The bytes that are kept at the moment."""
    return kept_bytes
