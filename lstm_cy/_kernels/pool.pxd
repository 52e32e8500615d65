"""Worker threads: a job is offered, whoever is awake soon enough joins it, nobody is waited for.

All but `at_fork` may be called without the GIL. Where there are no POSIX threads no worker ever joins.
"""

ctypedef void (*Task)(void* argument) noexcept nogil

# Offer `task` to up to `helpers` workers. False where another call has the pool; else `close_job` must follow.
cdef bint open_job(int helpers, Task task, void* argument) noexcept nogil

# Let nobody else join, and wait until those who did have finished.
cdef void close_job() noexcept nogil

# Whether this process is the child of a fork that the caller of the open job made in a handler of a signal: the
# workers, and the parts that they had taken, are with the parent.
cdef bint workers_are_gone() noexcept nogil

ctypedef void (*Hook)() noexcept nogil

# Have three functions called within every fork: before it, and after it in the parent and in the child. Before a fork
# what was registered last is called first.
cdef int at_fork(Hook before, Hook in_parent, Hook in_child) except -1

# Another library's hook may itself fork: a lock is taken in the first of such forks and given back in the last.
ctypedef struct Forks:
    long thread
    int count

cdef bint is_first_fork(const Forks* forks) noexcept nogil
cdef void begin_fork(Forks* forks) noexcept nogil
cdef bint was_last_fork(Forks* forks) noexcept nogil

# Whether a worker is awake, or calls follow each other so fast that one that is woken now will be: to wake one takes
# tens of microseconds. `note_call` tells when a call that could have used one has ended.
cdef bint worker_is_near() noexcept nogil
cdef void note_call() noexcept nogil

# The next number of a counter that several threads share.
cdef Py_ssize_t take(Py_ssize_t* counter) noexcept nogil

# Numbers that one thread writes and others wait for: what was written before `publish` is seen after `look`.
cdef void publish(Py_ssize_t* place, Py_ssize_t value) noexcept nogil
cdef Py_ssize_t look(const Py_ssize_t* place) noexcept nogil

# Wait until the number is at least `value`: spinning, and before long letting others have the processor. True if it
# came to that.
cdef bint await_at_least(const Py_ssize_t* place, Py_ssize_t value) noexcept nogil

# Where threads that work in step are kept apart by other processes, it is better to let it be for a while.
cdef void hold_off() noexcept nogil
cdef bint held_off() noexcept nogil
