"""A small pool of our own worker threads.

Workers are started by the first job that can use them. After a job a worker spins for a while, so that calls back to
back find it awake; then it sleeps. A job does not wait for workers: the caller works at once, and a worker joins while
the job has a free place. A call that finds the pool locked works alone. A forked child starts with a new pool.
"""

import os

cdef extern from *:
    """
    #include <stddef.h>
    typedef void (*lstm_cy_task)(void *);
    typedef void (*lstm_cy_hook)(void);

    #ifndef LSTM_CY_NO_THREADS  /* setup.py has tried it */
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdint.h>
    #include <time.h>

    /* How often a waiting thread spins before it yields the processor: some tens of microseconds. After a team was
       delayed by other processes no team is formed for 10 ms, and for twice as long each time that it happens again
       soon. */
    enum { LSTM_CY_MOST_WORKERS = 63, LSTM_CY_SPINS = 2000 };
    #define LSTM_CY_BACK_OFF 10000000

    static struct {
        int locked;             /* whether a call has the pool */
        pthread_t owner;        /* the thread of that call */
        int in_child;           /* whether it has forked during the call, and this is the child */
        uint64_t job;           /* its number << 32 | free places << 16 | workers in it */
        lstm_cy_task task;
        void *argument;
        int started, sleeping;  /* workers */
        long long joined;       /* how often one has joined a job */
        int64_t spin;           /* nanoseconds after a job */
        int64_t back_off_end;   /* no team is formed before it */
        int64_t back_off_time;  /* the last one, in nanoseconds */
        int64_t last_call;      /* the time at which it ended */
        pthread_mutex_t mutex;  /* for `sleeping` and `woken` */
        pthread_cond_t woken;
    } lstm_cy_pool = {.mutex = PTHREAD_MUTEX_INITIALIZER, .woken = PTHREAD_COND_INITIALIZER};

    static inline void lstm_cy_pause(void) {
    #if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ volatile("yield");
    #endif
    }

    static int64_t lstm_cy_now(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }

    static uint64_t lstm_cy_job(void) { return __atomic_load_n(&lstm_cy_pool.job, __ATOMIC_ACQUIRE); }

    /* Wait for a job other than `seen`: spin first, then sleep. */
    static void lstm_cy_wait_for_job(uint64_t seen) {
        int64_t end = lstm_cy_now() + lstm_cy_pool.spin;
        while (lstm_cy_now() < end)
            for (int i = 0; i < 50; i++) {
                if (lstm_cy_job() >> 32 != seen) return;
                lstm_cy_pause();
            }
        pthread_mutex_lock(&lstm_cy_pool.mutex);
        __atomic_add_fetch(&lstm_cy_pool.sleeping, 1, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&lstm_cy_pool.job, __ATOMIC_SEQ_CST) >> 32 == seen)
            pthread_cond_wait(&lstm_cy_pool.woken, &lstm_cy_pool.mutex);
        __atomic_sub_fetch(&lstm_cy_pool.sleeping, 1, __ATOMIC_SEQ_CST);
        pthread_mutex_unlock(&lstm_cy_pool.mutex);
    }

    static void *lstm_cy_worker(void *first) {
        uint64_t seen = (uint64_t)(uintptr_t)first;
        for (;;) {
            lstm_cy_wait_for_job(seen);
            uint64_t job = lstm_cy_job();
            seen = job >> 32;
            /* one free place less and one worker more, in one operation: no worker can join a closed job */
            while (job >> 32 == seen && (job >> 16 & 0xffff) != 0)
                if (__atomic_compare_exchange_n(&lstm_cy_pool.job, &job, job - 0x10000 + 1, 0, __ATOMIC_ACQ_REL,
                                                __ATOMIC_ACQUIRE)) {
                    __atomic_add_fetch(&lstm_cy_pool.joined, 1, __ATOMIC_RELAXED);
                    lstm_cy_pool.task(lstm_cy_pool.argument);
                    __atomic_sub_fetch(&lstm_cy_pool.job, 1, __ATOMIC_RELEASE);
                    break;
                }
        }
        return NULL;
    }

    /* The child of a fork has no worker threads, and no thread that would unlock the mutex. It has the thread of a call
       only if that thread forked itself, in a signal handler. */
    static void lstm_cy_after_fork(void) {
        int own = lstm_cy_pool.locked && pthread_equal(lstm_cy_pool.owner, pthread_self());
        lstm_cy_pool.in_child = lstm_cy_pool.locked = own;
        lstm_cy_pool.started = lstm_cy_pool.sleeping = 0;
        lstm_cy_pool.job &= ~(uint64_t)0xffffffff;
        pthread_mutex_init(&lstm_cy_pool.mutex, NULL);
        pthread_cond_init(&lstm_cy_pool.woken, NULL);
    }

    static void lstm_cy_start_worker(void) {
        sigset_t all, before;
        pthread_attr_t attributes;
        pthread_t thread;
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        sigfillset(&all);  /* signals are for the program's own threads */
        pthread_sigmask(SIG_SETMASK, &all, &before);
        if (pthread_create(&thread, &attributes, lstm_cy_worker, (void *)(uintptr_t)(lstm_cy_job() >> 32)) == 0)
            lstm_cy_pool.started++;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
    }

    static int lstm_cy_open_job(int helpers, lstm_cy_task task, void *argument) {
        if (helpers > LSTM_CY_MOST_WORKERS) helpers = LSTM_CY_MOST_WORKERS;
        if (helpers < 1 || __atomic_exchange_n(&lstm_cy_pool.locked, 1, __ATOMIC_ACQUIRE)) return 0;
        lstm_cy_pool.owner = pthread_self();
        for (int missing = helpers - lstm_cy_pool.started; missing > 0; missing--) lstm_cy_start_worker();
        lstm_cy_pool.task = task;
        lstm_cy_pool.argument = argument;
        uint64_t number = (uint32_t)((lstm_cy_job() >> 32) + 1);
        __atomic_store_n(&lstm_cy_pool.job, number << 32 | (uint64_t)helpers << 16, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&lstm_cy_pool.sleeping, __ATOMIC_SEQ_CST) > 0) {
            pthread_mutex_lock(&lstm_cy_pool.mutex);
            pthread_cond_broadcast(&lstm_cy_pool.woken);
            pthread_mutex_unlock(&lstm_cy_pool.mutex);
        }
        return 1;
    }

    static inline void lstm_cy_relax(int *spins) {
        if (++*spins < LSTM_CY_SPINS) lstm_cy_pause();
        else sched_yield();
    }

    static int lstm_cy_started(void) { return lstm_cy_pool.started; }
    static long long lstm_cy_joined(void) { return __atomic_load_n(&lstm_cy_pool.joined, __ATOMIC_RELAXED); }

    static void lstm_cy_close_job(void) {
        int spins = 0;
        __atomic_and_fetch(&lstm_cy_pool.job, ~(uint64_t)0xffff0000, __ATOMIC_ACQ_REL);
        while (lstm_cy_job() & 0xffff) lstm_cy_relax(&spins);
        lstm_cy_pool.in_child = 0;
        __atomic_store_n(&lstm_cy_pool.locked, 0, __ATOMIC_RELEASE);
    }

    static int lstm_cy_workers_are_gone(void) {
        return lstm_cy_pool.in_child && pthread_equal(lstm_cy_pool.owner, pthread_self());
    }

    static void lstm_cy_set_up(int64_t spin) {
        lstm_cy_pool.spin = spin;
        pthread_atfork(NULL, NULL, lstm_cy_after_fork);
    }

    static int lstm_cy_at_fork(lstm_cy_hook before, lstm_cy_hook in_parent, lstm_cy_hook in_child) {
        return pthread_atfork(before, in_parent, in_child);
    }
    static long lstm_cy_thread(void) { return (long)(intptr_t)pthread_self(); }

    static int lstm_cy_worker_is_ready(void) {
        if (lstm_cy_pool.started > __atomic_load_n(&lstm_cy_pool.sleeping, __ATOMIC_RELAXED)) return 1;
        int64_t last = __atomic_load_n(&lstm_cy_pool.last_call, __ATOMIC_RELAXED);
        return last != 0 && lstm_cy_now() - last < lstm_cy_pool.spin;
    }
    static void lstm_cy_note_call(void) {
        __atomic_store_n(&lstm_cy_pool.last_call, lstm_cy_now(), __ATOMIC_RELAXED);
    }

    static ptrdiff_t lstm_cy_fetch_add(ptrdiff_t *counter, ptrdiff_t n) {
        return __atomic_fetch_add(counter, n, __ATOMIC_ACQ_REL);
    }
    static void lstm_cy_store_release(ptrdiff_t *address, ptrdiff_t value) {
        __atomic_store_n(address, value, __ATOMIC_RELEASE);
    }
    static ptrdiff_t lstm_cy_load_acquire(const ptrdiff_t *address) {
        return __atomic_load_n(address, __ATOMIC_ACQUIRE);
    }
    static int lstm_cy_await(const ptrdiff_t *address, ptrdiff_t value) {
        int spins = 0;
        while (lstm_cy_load_acquire(address) < value) lstm_cy_relax(&spins);
        return spins >= LSTM_CY_SPINS;
    }
    static void lstm_cy_back_off(void) {
        int64_t now = lstm_cy_now(), time = __atomic_load_n(&lstm_cy_pool.back_off_time, __ATOMIC_RELAXED);
        int again = now - __atomic_load_n(&lstm_cy_pool.back_off_end, __ATOMIC_RELAXED) < 4 * time;
        time = !again ? LSTM_CY_BACK_OFF : time < 64 * LSTM_CY_BACK_OFF ? 2 * time : time;
        __atomic_store_n(&lstm_cy_pool.back_off_time, time, __ATOMIC_RELAXED);
        __atomic_store_n(&lstm_cy_pool.back_off_end, now + time, __ATOMIC_RELAXED);
    }
    static int lstm_cy_backs_off(void) {
        int64_t end = __atomic_load_n(&lstm_cy_pool.back_off_end, __ATOMIC_RELAXED);
        return end != 0 && lstm_cy_now() < end;
    }
    #else
    static void lstm_cy_set_up(long long spin) { (void)spin; }
    static int lstm_cy_open_job(int helpers, lstm_cy_task task, void *argument) {
        (void)helpers; (void)task; (void)argument;
        return 0;
    }
    static int lstm_cy_started(void) { return 0; }
    static long long lstm_cy_joined(void) { return 0; }
    static void lstm_cy_close_job(void) {}
    static int lstm_cy_workers_are_gone(void) { return 0; }
    static int lstm_cy_at_fork(lstm_cy_hook before, lstm_cy_hook in_parent, lstm_cy_hook in_child) {
        (void)before; (void)in_parent; (void)in_child;
        return 0;
    }
    static long lstm_cy_thread(void) { return 0; }
    static int lstm_cy_worker_is_ready(void) { return 0; }
    static void lstm_cy_note_call(void) {}
    static ptrdiff_t lstm_cy_fetch_add(ptrdiff_t *counter, ptrdiff_t n) {
        *counter += n;
        return *counter - n;
    }
    static void lstm_cy_store_release(ptrdiff_t *address, ptrdiff_t value) { *address = value; }
    static ptrdiff_t lstm_cy_load_acquire(const ptrdiff_t *address) { return *address; }
    static int lstm_cy_await(const ptrdiff_t *address, ptrdiff_t value) { (void)address; (void)value; return 0; }
    static void lstm_cy_back_off(void) {}
    static int lstm_cy_backs_off(void) { return 0; }
    #endif
    """
    void lstm_cy_set_up(long long)
    bint lstm_cy_open_job(int, Task, void*) noexcept nogil
    void lstm_cy_close_job() noexcept nogil
    bint lstm_cy_workers_are_gone() noexcept nogil
    int lstm_cy_at_fork(Hook, Hook, Hook)
    long lstm_cy_thread() noexcept nogil
    int lstm_cy_started()
    long long lstm_cy_joined()
    bint lstm_cy_worker_is_ready() noexcept nogil
    void lstm_cy_note_call() noexcept nogil
    Py_ssize_t lstm_cy_fetch_add(Py_ssize_t*, Py_ssize_t) noexcept nogil
    void lstm_cy_store_release(Py_ssize_t*, Py_ssize_t) noexcept nogil
    Py_ssize_t lstm_cy_load_acquire(const Py_ssize_t*) noexcept nogil
    bint lstm_cy_await(const Py_ssize_t*, Py_ssize_t) noexcept nogil
    void lstm_cy_back_off() noexcept nogil
    bint lstm_cy_backs_off() noexcept nogil


cdef bint open_job(int helpers, Task task, void* argument) noexcept nogil:
    return lstm_cy_open_job(helpers, task, argument)


cdef void close_job() noexcept nogil:
    lstm_cy_close_job()


cdef bint workers_are_gone() noexcept nogil:
    return lstm_cy_workers_are_gone()


cdef int at_fork(Hook before, Hook in_parent, Hook in_child) except -1:
    if lstm_cy_at_fork(before, in_parent, in_child):
        raise MemoryError
    return 0


cdef bint is_first_fork(const Forks* forks) noexcept nogil:
    return forks.count == 0 or forks.thread != lstm_cy_thread()


cdef void begin_fork(Forks* forks) noexcept nogil:
    forks.thread = lstm_cy_thread()
    forks.count += 1


cdef bint was_last_fork(Forks* forks) noexcept nogil:
    forks.count -= 1
    return forks.count == 0


cdef bint worker_is_ready() noexcept nogil:
    return lstm_cy_worker_is_ready()


cdef void note_call() noexcept nogil:
    lstm_cy_note_call()


cdef Py_ssize_t fetch_add(Py_ssize_t* counter, Py_ssize_t n) noexcept nogil:
    return lstm_cy_fetch_add(counter, n)


cdef void store_release(Py_ssize_t* address, Py_ssize_t value) noexcept nogil:
    lstm_cy_store_release(address, value)


cdef Py_ssize_t load_acquire(const Py_ssize_t* address) noexcept nogil:
    return lstm_cy_load_acquire(address)


cdef bint await_at_least(const Py_ssize_t* address, Py_ssize_t value) noexcept nogil:
    return lstm_cy_await(address, value)


cdef void back_off() noexcept nogil:
    lstm_cy_back_off()


cdef bint backs_off() noexcept nogil:
    return lstm_cy_backs_off()


def statistics():
    """Return (workers, how often one has joined a job) in this process."""
    return lstm_cy_started(), lstm_cy_joined()


def spin_from_environment():
    """Read LSTM_CY_SPIN_US: how long a worker stays awake after a job, in microseconds."""
    text = os.environ.get("LSTM_CY_SPIN_US", "100")
    if not (text.isascii() and text.isdecimal() and len(text) <= 7 and int(text) <= 1_000_000):
        raise ValueError(f"LSTM_CY_SPIN_US: expected microseconds from 0 to 1000000, got {text[:80]!r}")
    return int(text)


lstm_cy_set_up(spin_from_environment() * 1000)
