"""A small pool of our own worker threads.

Workers are started when a job first asks for them. After a job a worker spins for a while, so that calls back to back
find it awake; then it sleeps. A job does not wait for anybody: the caller works on, and a worker that comes joins in
while there is a seat left. A call that finds the pool taken works alone. In a forked child the pool begins anew.
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

    /* Turns of spinning before the processor is given away: some tens of microseconds. No team is formed for a while
       after one was kept apart: 10 ms, twice as long each time that it happens again soon. */
    enum { LSTM_CY_MOST_WORKERS = 63, LSTM_CY_PATIENCE = 2000 };
    #define LSTM_CY_HOLD_OFF 10000000

    static struct {
        int taken;              /* whether a call has the pool */
        pthread_t owner;        /* the thread that makes it */
        int gone;               /* whether it has forked meanwhile, and this is the child */
        uint64_t job;           /* its number << 32 | free seats << 16 | workers in it */
        lstm_cy_task task;
        void *argument;
        int started, sleeping;  /* workers */
        long long joined;       /* how often one took a seat */
        int64_t spin;           /* nanoseconds after a job */
        int64_t held_off;       /* until then, no working in step */
        int64_t hold;           /* how long the last time */
        int64_t last_call;      /* when it ended */
        pthread_mutex_t mutex;  /* of `sleeping` and `woken` */
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

    /* Wait for a job other than `seen`, awake at first. */
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
            /* one seat less, one worker more: at once, so that nobody joins a job that is closed */
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

    /* The child of a fork has none of the threads, and nobody who would give the locks back. Of a call it has the
       thread only where that forked itself, in a handler of a signal. */
    static void lstm_cy_after_fork(void) {
        int own = lstm_cy_pool.taken && pthread_equal(lstm_cy_pool.owner, pthread_self());
        lstm_cy_pool.gone = lstm_cy_pool.taken = own;
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
        if (helpers < 1 || __atomic_exchange_n(&lstm_cy_pool.taken, 1, __ATOMIC_ACQUIRE)) return 0;
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

    static inline void lstm_cy_relax(int *turns) {
        if (++*turns < LSTM_CY_PATIENCE) lstm_cy_pause();
        else sched_yield();
    }

    static int lstm_cy_started(void) { return lstm_cy_pool.started; }
    static long long lstm_cy_joined(void) { return __atomic_load_n(&lstm_cy_pool.joined, __ATOMIC_RELAXED); }

    static void lstm_cy_close_job(void) {
        int turns = 0;
        __atomic_and_fetch(&lstm_cy_pool.job, ~(uint64_t)0xffff0000, __ATOMIC_ACQ_REL);
        while (lstm_cy_job() & 0xffff) lstm_cy_relax(&turns);
        lstm_cy_pool.gone = 0;
        __atomic_store_n(&lstm_cy_pool.taken, 0, __ATOMIC_RELEASE);
    }

    static int lstm_cy_workers_are_gone(void) {
        return lstm_cy_pool.gone && pthread_equal(lstm_cy_pool.owner, pthread_self());
    }

    static void lstm_cy_set_up(int64_t spin) {
        lstm_cy_pool.spin = spin;
        pthread_atfork(NULL, NULL, lstm_cy_after_fork);
    }

    static int lstm_cy_at_fork(lstm_cy_hook before, lstm_cy_hook in_parent, lstm_cy_hook in_child) {
        return pthread_atfork(before, in_parent, in_child);
    }
    static long lstm_cy_thread(void) { return (long)(intptr_t)pthread_self(); }

    static int lstm_cy_worker_is_near(void) {
        if (lstm_cy_pool.started > __atomic_load_n(&lstm_cy_pool.sleeping, __ATOMIC_RELAXED)) return 1;
        int64_t last = __atomic_load_n(&lstm_cy_pool.last_call, __ATOMIC_RELAXED);
        return last != 0 && lstm_cy_now() - last < lstm_cy_pool.spin;
    }
    static void lstm_cy_note_call(void) {
        __atomic_store_n(&lstm_cy_pool.last_call, lstm_cy_now(), __ATOMIC_RELAXED);
    }

    static ptrdiff_t lstm_cy_take(ptrdiff_t *counter) { return __atomic_fetch_add(counter, 1, __ATOMIC_ACQ_REL); }
    static void lstm_cy_publish(ptrdiff_t *place, ptrdiff_t value) { __atomic_store_n(place, value, __ATOMIC_RELEASE); }
    static ptrdiff_t lstm_cy_look(const ptrdiff_t *place) { return __atomic_load_n(place, __ATOMIC_ACQUIRE); }
    static int lstm_cy_await(const ptrdiff_t *place, ptrdiff_t value) {
        int turns = 0;
        while (lstm_cy_look(place) < value) lstm_cy_relax(&turns);
        return turns >= LSTM_CY_PATIENCE;
    }
    static void lstm_cy_hold_off(void) {
        int64_t now = lstm_cy_now(), hold = __atomic_load_n(&lstm_cy_pool.hold, __ATOMIC_RELAXED);
        int again = now - __atomic_load_n(&lstm_cy_pool.held_off, __ATOMIC_RELAXED) < 4 * hold;
        hold = !again ? LSTM_CY_HOLD_OFF : hold < 64 * LSTM_CY_HOLD_OFF ? 2 * hold : hold;
        __atomic_store_n(&lstm_cy_pool.hold, hold, __ATOMIC_RELAXED);
        __atomic_store_n(&lstm_cy_pool.held_off, now + hold, __ATOMIC_RELAXED);
    }
    static int lstm_cy_held_off(void) {
        int64_t until = __atomic_load_n(&lstm_cy_pool.held_off, __ATOMIC_RELAXED);
        return until != 0 && lstm_cy_now() < until;
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
    static int lstm_cy_worker_is_near(void) { return 0; }
    static void lstm_cy_note_call(void) {}
    static ptrdiff_t lstm_cy_take(ptrdiff_t *counter) { return (*counter)++; }
    static void lstm_cy_publish(ptrdiff_t *place, ptrdiff_t value) { *place = value; }
    static ptrdiff_t lstm_cy_look(const ptrdiff_t *place) { return *place; }
    static int lstm_cy_await(const ptrdiff_t *place, ptrdiff_t value) { (void)place; (void)value; return 0; }
    static void lstm_cy_hold_off(void) {}
    static int lstm_cy_held_off(void) { return 0; }
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
    bint lstm_cy_worker_is_near() noexcept nogil
    void lstm_cy_note_call() noexcept nogil
    Py_ssize_t lstm_cy_take(Py_ssize_t*) noexcept nogil
    void lstm_cy_publish(Py_ssize_t*, Py_ssize_t) noexcept nogil
    Py_ssize_t lstm_cy_look(const Py_ssize_t*) noexcept nogil
    bint lstm_cy_await(const Py_ssize_t*, Py_ssize_t) noexcept nogil
    void lstm_cy_hold_off() noexcept nogil
    bint lstm_cy_held_off() noexcept nogil


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


cdef bint worker_is_near() noexcept nogil:
    return lstm_cy_worker_is_near()


cdef void note_call() noexcept nogil:
    lstm_cy_note_call()


cdef Py_ssize_t take(Py_ssize_t* counter) noexcept nogil:
    return lstm_cy_take(counter)


cdef void publish(Py_ssize_t* place, Py_ssize_t value) noexcept nogil:
    lstm_cy_publish(place, value)


cdef Py_ssize_t look(const Py_ssize_t* place) noexcept nogil:
    return lstm_cy_look(place)


cdef bint await_at_least(const Py_ssize_t* place, Py_ssize_t value) noexcept nogil:
    return lstm_cy_await(place, value)


cdef void hold_off() noexcept nogil:
    lstm_cy_hold_off()


cdef bint held_off() noexcept nogil:
    return lstm_cy_held_off()


def statistics():
    """(workers, how often one has joined a job) in this process."""
    return lstm_cy_started(), lstm_cy_joined()


def spin_from_environment():
    """LSTM_CY_SPIN_US: how long a worker stays awake after a job, in microseconds."""
    text = os.environ.get("LSTM_CY_SPIN_US", "100")
    if not (text.isascii() and text.isdecimal() and len(text) <= 7 and int(text) <= 1_000_000):
        raise ValueError(f"LSTM_CY_SPIN_US: expected microseconds from 0 to 1000000, got {text[:80]!r}")
    return int(text)


lstm_cy_set_up(spin_from_environment() * 1000)
