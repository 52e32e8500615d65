"""Worker threads: a job is offered, workers that are awake soon enough join it, and the caller does not wait for them.

All but `at_fork` may be called without the GIL. Without POSIX threads no worker ever joins.
"""

ctypedef void (*Task)(void* argument) noexcept nogil

# Offer `task` to up to `helpers` workers. False where another call has the pool; else `close_job` must follow.
cdef bint open_job(int helpers, Task task, void* argument) noexcept nogil

# Count nanoseconds for which the caller of the open job waited for workers before `close_job`; 0 is ignored.
cdef void note_waiting(Py_ssize_t nanoseconds, bint caller) noexcept nogil

# Let no other worker join, and wait until those that have joined have finished.
cdef void close_job() noexcept nogil

# The same after a team, in which the caller waited so many nanoseconds for another thread: jobs lose less by waiting.
cdef void close_team(Py_ssize_t waited) noexcept nogil

# Whether this process is the child of a fork that the caller of the open job made in a signal handler: the workers,
# and the parts that they had taken, are in the parent.
cdef bint workers_are_gone() noexcept nogil

ctypedef void (*Hook)() noexcept nogil

# Register three functions for every fork: before it, and after it in the parent and in the child. Before a fork the
# one registered last is called first.
cdef int at_fork(Hook before, Hook in_parent, Hook in_child) except -1

# Another library's hook may itself fork: a lock is acquired in the first of such forks and released in the last.
ctypedef struct Forks:
    long thread
    int count

cdef bint is_first_fork(const Forks* forks) noexcept nogil
cdef void begin_fork(Forks* forks) noexcept nogil
cdef bint was_last_fork(Forks* forks) noexcept nogil

# Whether so many multiply-adds should be shared: with a worker that is awake, or would be in time, because calls follow
# each other so fast; or if they take much longer than to wake one, which the first call that asks measures in less than
# 5 ms. `note_call` records the time at which a call that could have used a worker has ended.
cdef bint worth_sharing(double multiply_adds) noexcept nogil
cdef void note_call() noexcept nogil

# Add n to a counter that several threads share; returns the old number.
cdef Py_ssize_t fetch_add(Py_ssize_t* counter, Py_ssize_t n) noexcept nogil

# Numbers that one thread writes and others wait for: what is written before `store_release` is seen after
# `load_acquire` of its value.
cdef void store_release(Py_ssize_t* address, Py_ssize_t value) noexcept nogil
cdef Py_ssize_t load_acquire(const Py_ssize_t* address) noexcept nogil

# Wait until the number is at least `value`: spin, and then yield the processor. The nanoseconds of yielding, or 0.
cdef Py_ssize_t await_at_least(const Py_ssize_t* address, Py_ssize_t value) noexcept nogil

# Whether no team should be formed now, because other processes have delayed some.
cdef bint backs_off() noexcept nogil
