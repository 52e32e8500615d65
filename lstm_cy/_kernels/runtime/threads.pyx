"""A small pool of our own worker threads.

Workers are started by the first job that can use them. After a job a worker spins for a while, so that calls back to
back find it awake, and again when the next call is expected, if the last ones came at equal intervals. Else it sleeps,
and is woken for work that takes longer than waking does here. A job does not wait for workers: the caller works at
once, and a worker joins while the job has a free place. Where callers have waited longer for workers than these have
saved them, jobs without any follow. A call that finds the pool locked works alone. A forked child starts with a new
pool.
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

    /* How often a waiting thread spins before it yields the processor: some tens of microseconds. */
    enum { LSTM_CY_MOST_WORKERS = 63, LSTM_CY_SPINS = 2000 };

    /* Workers cost a caller the time for which it waits for them, when other processes or the host of a virtual machine
       take their processors. They save it what they have computed; half of their processor time is counted, because
       they wait too. When more has been lost than saved, calls compute alone for 24 times the difference: all of them
       together are then at most 4 % slower for it, however far apart they are. What was saved is remembered up to
       20 ms, more than a host usually takes a processor for; at first a quarter of that is assumed. */
    enum { LSTM_CY_ALONE = 24 };
    #define LSTM_CY_MOST_SAVED 20000000

    /* Work is worth sharing with a worker that is awake from so many multiply-adds. A sleeping one is woken for work
       that takes twice as long as waking does, at a speed that few cores reach in float32: slower ones gain more.
       How long a worker took to join a job is believed for 20 ms: then other processes may have left its processor. */
    enum { LSTM_CY_WORTH_SHARING = 400000, LSTM_CY_WORTH_WAKING = 2, LSTM_CY_SPEED = 40, LSTM_CY_TRIALS = 5 };
    #define LSTM_CY_MEMORY 20000000
    #define LSTM_CY_TRIAL 300000

    /* A worker that was woken so soon after it fell asleep says nothing about waking. */
    #define LSTM_CY_ASLEEP 50000

    /* Threads of OpenMP are awake for about so long after a call; later, work must be worth so many times more. */
    #define LSTM_CY_OPENMP_AWAKE 1000000
    enum { LSTM_CY_OPENMP_WAKING = 10 };

    struct lstm_cy_account {    /* in nanoseconds */
        int64_t saved;          /* by workers, less what was lost by waiting for them */
        int64_t owed;           /* time that calls have to compute alone before the next job or team */
    };

    /* A worker spins for LSTM_CY_SHORT after a job, in which the next one of the same call or of calls back to back
       comes. Calls that come later are expected as long after the one before as the last ones came, or a little earlier
       or later. */
    #define LSTM_CY_SHORT 100000
    #define LSTM_CY_EARLIER 300000
    #define LSTM_CY_LATER 200000
    enum { LSTM_CY_GAPS = 4 };

    static struct {
        int locked;             /* whether a call has the pool */
        pthread_t owner;        /* the thread of that call */
        int in_child;           /* whether it has forked during the call, and this is the child */
        uint64_t job;           /* its number << 32 | free places << 16 | workers in it */
        lstm_cy_task task;
        void *argument;
        int started, sleeping;  /* workers */
        int avoided;            /* the processor on which no worker may run now, plus 1; or 0 */
        pthread_t workers[LSTM_CY_MOST_WORKERS];
        long long joined;       /* how often one has joined a job */
        int64_t spin;           /* nanoseconds in all after a job */
        int64_t waking;         /* how long it takes to wake a worker, in nanoseconds; 0 before it was measured */
        int64_t seen_waking;    /* the same for the worker that was woken last */
        int64_t seen_at;        /* the time at which it was awake */
        int64_t posted;         /* the time at which sleeping workers were woken last */
        struct lstm_cy_account of_jobs, of_teams;
        int64_t waited;         /* how long the caller of the job at hand has waited for workers */
        int64_t computed;       /* the workers' processor time in it */
        int always;             /* whether work is shared as if workers were awake and never delayed */
        int64_t last_call;      /* the time at which it ended */
        int64_t gaps[LSTM_CY_GAPS]; /* from the end of a call to the next one, the last ones in a ring */
        unsigned next_gap;
        pthread_mutex_t mutex;  /* for `sleeping` and `woken` */
        pthread_cond_t woken;
        int openmp;             /* whether the threads that may join the job at hand are those of OpenMP */
    } lstm_cy_pool = {.mutex = PTHREAD_MUTEX_INITIALIZER,
                      .woken = PTHREAD_COND_INITIALIZER,
                      .of_jobs = {.saved = LSTM_CY_MOST_SAVED / 4},
                      .of_teams = {.saved = LSTM_CY_MOST_SAVED / 4}};

    /* GOMP_parallel_start and GOMP_parallel_end of GNU's OpenMP, or NULL, and how many threads, the caller's included,
       it has for the calls of this thread; 0 for our own workers. */
    static struct {
        void (*start)(lstm_cy_task, void *, unsigned);
        void (*end)(void);
    } lstm_cy_openmp;
    static __thread int lstm_cy_openmp_threads;
    static __thread int64_t lstm_cy_asked;  /* the time at which this thread's call asked for workers; or 0 */

    static inline void lstm_cy_pause(void) {
    #if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ volatile("yield");
    #endif
    }

    static int64_t lstm_cy_time(clockid_t clock) {
        struct timespec t;
        clock_gettime(clock, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    static int64_t lstm_cy_now(void) { return lstm_cy_time(CLOCK_MONOTONIC); }

    static int64_t lstm_cy_load(const int64_t *address) { return __atomic_load_n(address, __ATOMIC_RELAXED); }
    static void lstm_cy_store(int64_t *address, int64_t value) { __atomic_store_n(address, value, __ATOMIC_RELAXED); }

    static int lstm_cy_owes(const struct lstm_cy_account *account) { return lstm_cy_load(&account->owed) > 0; }
    static void lstm_cy_settle(struct lstm_cy_account *account, int64_t waited) {
        int64_t saved = lstm_cy_load(&account->saved) + lstm_cy_pool.computed / 2 - waited;
        if (saved < 0) lstm_cy_store(&account->owed, -saved * LSTM_CY_ALONE);
        lstm_cy_store(&account->saved, saved < 0 ? 0 : saved > LSTM_CY_MOST_SAVED ? LSTM_CY_MOST_SAVED : saved);
    }
    static void lstm_cy_pay(struct lstm_cy_account *account, int64_t time) {
        int64_t owed = lstm_cy_load(&account->owed);
        if (owed > 0) lstm_cy_store(&account->owed, owed - time);
    }

    static uint64_t lstm_cy_job(void) { return __atomic_load_n(&lstm_cy_pool.job, __ATOMIC_ACQUIRE); }

    static void lstm_cy_note_waking(void) {
        int64_t now = lstm_cy_now(), took = now - lstm_cy_load(&lstm_cy_pool.posted);
        int64_t usual = lstm_cy_load(&lstm_cy_pool.waking);
        lstm_cy_store(&lstm_cy_pool.seen_waking, took);
        lstm_cy_store(&lstm_cy_pool.seen_at, now);
        /* it may have been measured while other processes ran */
        if (took < usual) lstm_cy_store(&lstm_cy_pool.waking, (took + usual) / 2);
    }

    static void lstm_cy_note_gap(int64_t gap) {
        unsigned place = __atomic_fetch_add(&lstm_cy_pool.next_gap, 1, __ATOMIC_RELAXED) % LSTM_CY_GAPS;
        lstm_cy_store(&lstm_cy_pool.gaps[place], gap);
    }

    struct lstm_cy_window {
        int64_t first;          /* how long a worker spins at once */
        int64_t start, end;     /* when it spins for the call that it expects, both 0 if it expects none */
    };

    /* When a worker spins, in nanoseconds after a job. */
    static struct lstm_cy_window lstm_cy_expect(void) {
        int64_t spin = lstm_cy_load(&lstm_cy_pool.spin), least = INT64_MAX, most = 0, longest = 0;
        struct lstm_cy_window window = {spin < LSTM_CY_SHORT ? spin : LSTM_CY_SHORT, 0, 0};
        for (int n = 0; n < LSTM_CY_GAPS; n++) {  /* the longest gap may be an exception: most is the next one */
            int64_t gap = lstm_cy_load(&lstm_cy_pool.gaps[n]);
            if (gap < least) least = gap;
            if (gap > longest) {
                most = longest;
                longest = gap;
            } else if (gap > most) {
                most = gap;
            }
        }
        int64_t start = least - LSTM_CY_EARLIER, end = most + LSTM_CY_LATER;
        if (least == 0 || most <= window.first) return window;
        if (end <= spin) {
            window.first = end;
        } else if (end - start <= spin - window.first) {
            window.start = start;
            window.end = end;
        }
        return window;
    }

    static int lstm_cy_spin(uint64_t seen, int64_t end) {
        while (lstm_cy_now() < end)
            for (int i = 0; i < 50; i++) {
                if (lstm_cy_job() >> 32 != seen) return 1;
                lstm_cy_pause();
            }
        return 0;
    }

    /* Sleep until there is a job other than `seen`, or for so many nanoseconds; 0 for no end. */
    static void lstm_cy_sleep(uint64_t seen, int64_t time) {
        struct timespec end;
        int late = 0;
        if (time > 0) {
            time += lstm_cy_time(CLOCK_REALTIME);
            end.tv_sec = (time_t)(time / 1000000000);
            end.tv_nsec = (long)(time % 1000000000);
        }
        pthread_mutex_lock(&lstm_cy_pool.mutex);
        __atomic_add_fetch(&lstm_cy_pool.sleeping, 1, __ATOMIC_SEQ_CST);
        while (!late && __atomic_load_n(&lstm_cy_pool.job, __ATOMIC_SEQ_CST) >> 32 == seen) {
            int64_t since = lstm_cy_now();
            if (time > 0) late = pthread_cond_timedwait(&lstm_cy_pool.woken, &lstm_cy_pool.mutex, &end);
            else pthread_cond_wait(&lstm_cy_pool.woken, &lstm_cy_pool.mutex);
            if (!late && lstm_cy_load(&lstm_cy_pool.posted) - since > LSTM_CY_ASLEEP) lstm_cy_note_waking();
        }
        __atomic_sub_fetch(&lstm_cy_pool.sleeping, 1, __ATOMIC_SEQ_CST);
        pthread_mutex_unlock(&lstm_cy_pool.mutex);
    }

    /* Wait for a job other than `seen`: spin at once and when a call is expected, and sleep else. */
    static void lstm_cy_wait_for_job(uint64_t seen) {
        int64_t begin = lstm_cy_now();
        struct lstm_cy_window window = lstm_cy_expect();
        if (lstm_cy_spin(seen, begin + window.first)) return;
        if (window.end != 0) {
            int64_t rest = begin + window.start - lstm_cy_now();
            if (rest > 0) lstm_cy_sleep(seen, rest);
            if (lstm_cy_spin(seen, begin + window.end)) return;
        }
        lstm_cy_sleep(seen, 0);
    }

    static void lstm_cy_join(uint64_t job) {
        uint64_t number = job >> 32;
        /* one free place less and one worker more, in one operation: no worker can join a closed job */
        while (job >> 32 == number && (job >> 16 & 0xffff) != 0)
            if (__atomic_compare_exchange_n(&lstm_cy_pool.job, &job, job - 0x10000 + 1, 0, __ATOMIC_ACQ_REL,
                                            __ATOMIC_ACQUIRE)) {
                __atomic_add_fetch(&lstm_cy_pool.joined, 1, __ATOMIC_RELAXED);
                int64_t start = lstm_cy_time(CLOCK_THREAD_CPUTIME_ID);
                lstm_cy_pool.task(lstm_cy_pool.argument);
                start = lstm_cy_time(CLOCK_THREAD_CPUTIME_ID) - start;
                __atomic_add_fetch(&lstm_cy_pool.computed, start, __ATOMIC_RELAXED);
                __atomic_sub_fetch(&lstm_cy_pool.job, 1, __ATOMIC_RELEASE);
                return;
            }
    }

    static void *lstm_cy_worker(void *first) {
        uint64_t seen = (uint64_t)(uintptr_t)first;
        for (;;) {
            lstm_cy_wait_for_job(seen);
            uint64_t job = lstm_cy_job();
            seen = job >> 32;
            lstm_cy_join(job);
        }
        return NULL;
    }

    static void lstm_cy_openmp_worker(void *unused) {
        (void)unused;
        lstm_cy_join(lstm_cy_job());
    }

    /* The child of a fork has no worker threads, and no thread that would unlock the mutex. It has the thread of a call
       only if that thread forked itself, in a signal handler. */
    static void lstm_cy_after_fork(void) {
        int own = lstm_cy_pool.locked && pthread_equal(lstm_cy_pool.owner, pthread_self());
        lstm_cy_pool.in_child = lstm_cy_pool.locked = own;
        lstm_cy_pool.started = lstm_cy_pool.sleeping = 0;
        lstm_cy_openmp.start = NULL;  /* its threads are in the parent */
        lstm_cy_openmp.end = NULL;
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
        if (pthread_create(&thread, &attributes, lstm_cy_worker, (void *)(uintptr_t)(lstm_cy_job() >> 32)) == 0) {
            lstm_cy_pool.workers[lstm_cy_pool.started++] = thread;
            lstm_cy_pool.avoided = 0;
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
    }

    /* Keep sleeping workers off the caller's processor. In a virtual machine Linux takes a processor that has been idle
       for some time for one that the host has taken away, and wakes a thread where its waker runs: there it waits until
       the call has ended, or interrupts it. */
    static void lstm_cy_avoid_own_processor(void) {
    #ifdef __linux__
        cpu_set_t allowed;
        int own = sched_getcpu();
        if (own < 0 || own >= CPU_SETSIZE || lstm_cy_pool.avoided == own + 1) return;
        if (sched_getaffinity(0, sizeof allowed, &allowed)) return;  /* more processors than the set has room for */
        lstm_cy_pool.avoided = own + 1;
        CPU_CLR(own, &allowed);
        if (CPU_COUNT(&allowed) == 0) return;
        for (int n = 0; n < lstm_cy_pool.started; n++)
            pthread_setaffinity_np(lstm_cy_pool.workers[n], sizeof allowed, &allowed);
    #endif
    }

    /* Before workers are woken, by the call that has the pool. */
    static void lstm_cy_prepare_waking(void) {
        lstm_cy_avoid_own_processor();
        lstm_cy_store(&lstm_cy_pool.posted, lstm_cy_now());
    }

    static void lstm_cy_wake(void) {
        pthread_mutex_lock(&lstm_cy_pool.mutex);
        pthread_cond_broadcast(&lstm_cy_pool.woken);
        pthread_mutex_unlock(&lstm_cy_pool.mutex);
    }

    static int lstm_cy_uses_openmp(void) { return lstm_cy_openmp_threads > 1 && lstm_cy_openmp.start != NULL; }

    static int lstm_cy_open_job(int helpers, lstm_cy_task task, void *argument) {
        if (helpers > LSTM_CY_MOST_WORKERS) helpers = LSTM_CY_MOST_WORKERS;
        if (helpers < 1 || __atomic_exchange_n(&lstm_cy_pool.locked, 1, __ATOMIC_ACQUIRE)) return 0;
        lstm_cy_pool.owner = pthread_self();
        lstm_cy_pool.openmp = lstm_cy_uses_openmp();
        if (!lstm_cy_pool.openmp)
            for (int missing = helpers - lstm_cy_pool.started; missing > 0; missing--) lstm_cy_start_worker();
        lstm_cy_pool.task = task;
        lstm_cy_pool.argument = argument;
        lstm_cy_pool.waited = lstm_cy_pool.computed = 0;
        if (!lstm_cy_pool.openmp && __atomic_load_n(&lstm_cy_pool.sleeping, __ATOMIC_RELAXED) > 0)
            lstm_cy_prepare_waking();
        uint64_t number = (uint32_t)((lstm_cy_job() >> 32) + 1);
        __atomic_store_n(&lstm_cy_pool.job, number << 32 | (uint64_t)helpers << 16, __ATOMIC_SEQ_CST);
        if (lstm_cy_pool.openmp) lstm_cy_openmp.start(lstm_cy_openmp_worker, NULL, (unsigned)lstm_cy_openmp_threads);
        else if (__atomic_load_n(&lstm_cy_pool.sleeping, __ATOMIC_SEQ_CST) > 0) lstm_cy_wake();
        return 1;
    }

    static inline void lstm_cy_relax(int *spins) {
        if (++*spins < LSTM_CY_SPINS) lstm_cy_pause();
        else sched_yield();
    }

    static int lstm_cy_started(void) { return lstm_cy_pool.started; }
    static void lstm_cy_share_always(int always) { lstm_cy_pool.always = always; }
    static void lstm_cy_use_openmp(size_t start, size_t end) {
        lstm_cy_openmp.start = (void (*)(lstm_cy_task, void *, unsigned))start;
        lstm_cy_openmp.end = (void (*)(void))end;
    }
    static void lstm_cy_set_openmp_threads(int count) { lstm_cy_openmp_threads = count; }
    static double lstm_cy_waking(void) { return 1e-9 * (double)lstm_cy_load(&lstm_cy_pool.waking); }
    static long long lstm_cy_joined(void) { return __atomic_load_n(&lstm_cy_pool.joined, __ATOMIC_RELAXED); }

    static void lstm_cy_note_waiting(ptrdiff_t time) { lstm_cy_pool.waited += time; }
    static void lstm_cy_close_job(int of_team) {
        int spins = 0;
        int64_t start = lstm_cy_now();
        __atomic_and_fetch(&lstm_cy_pool.job, ~(uint64_t)0xffff0000, __ATOMIC_ACQ_REL);
        while (lstm_cy_job() & 0xffff) lstm_cy_relax(&spins);
        if (spins >= LSTM_CY_SPINS) lstm_cy_pool.waited += lstm_cy_now() - start;
        if (!lstm_cy_pool.openmp)
            lstm_cy_settle(of_team ? &lstm_cy_pool.of_teams : &lstm_cy_pool.of_jobs, lstm_cy_pool.waited);
        else if (lstm_cy_openmp.end != NULL)
            lstm_cy_openmp.end();
        lstm_cy_pool.in_child = 0;
        __atomic_store_n(&lstm_cy_pool.locked, 0, __ATOMIC_RELEASE);
    }

    /* Wait, but not for long, until a worker has joined the job. */
    static void lstm_cy_await_worker(void) {
        int64_t end = lstm_cy_now() + LSTM_CY_TRIAL;
        while ((lstm_cy_job() >> 16 & 0xffff) != 0 && lstm_cy_now() < end) lstm_cy_pause();
    }

    static void lstm_cy_no_task(void *argument) { (void)argument; }

    /* Measure how long a sleeping worker takes to join: the median of some trials, less than 5 ms in all; 0 if another
       call has the pool. */
    static int64_t lstm_cy_measure_waking(void) {
        int64_t times[LSTM_CY_TRIALS], spin = lstm_cy_load(&lstm_cy_pool.spin);
        lstm_cy_store(&lstm_cy_pool.spin, 0);
        for (int n = -1; n < LSTM_CY_TRIALS; n++) {  /* the first one only starts the worker */
            struct timespec asleep = {0, LSTM_CY_TRIAL};
            int64_t start = lstm_cy_now();
            int place = n;
            if (!lstm_cy_open_job(1, lstm_cy_no_task, NULL)) {
                times[LSTM_CY_TRIALS / 2] = 0;
                break;
            }
            lstm_cy_await_worker();
            start = lstm_cy_now() - start;
            lstm_cy_close_job(0);
            for (; place > 0 && times[place - 1] > start; place--) times[place] = times[place - 1];
            if (n >= 0) times[place] = start;
            nanosleep(&asleep, NULL);
        }
        lstm_cy_store(&lstm_cy_pool.spin, spin);
        return times[LSTM_CY_TRIALS / 2];
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

    /* Whether a worker is awake for a call so long after the one before, or will be for the next ones. */
    static int lstm_cy_worker_is_ready(int64_t since) {
        if (lstm_cy_pool.started > __atomic_load_n(&lstm_cy_pool.sleeping, __ATOMIC_RELAXED)) return 1;
        struct lstm_cy_window window = lstm_cy_expect();
        return window.end != 0 || since < window.first;  /* else those that follow will find it awake */
    }
    static int lstm_cy_worth_sharing(double multiply_adds) {
        if (multiply_adds < LSTM_CY_WORTH_SHARING) return 0;
        int64_t now = lstm_cy_now(), last = lstm_cy_load(&lstm_cy_pool.last_call);
        int64_t since = last == 0 ? INT64_MAX : now - last;
        if (lstm_cy_asked == 0 && last != 0) lstm_cy_note_gap(since);
        lstm_cy_asked = now;
        if (lstm_cy_pool.always) return 1;
        if (lstm_cy_uses_openmp())
            return since < LSTM_CY_OPENMP_AWAKE || multiply_adds > LSTM_CY_OPENMP_WAKING * LSTM_CY_WORTH_SHARING;
        if (lstm_cy_owes(&lstm_cy_pool.of_jobs)) return 0;
        if (lstm_cy_worker_is_ready(since)) return 1;
        int64_t waking = lstm_cy_load(&lstm_cy_pool.waking);
        if (waking == 0) lstm_cy_store(&lstm_cy_pool.waking, waking = lstm_cy_measure_waking());
        if (lstm_cy_now() - lstm_cy_load(&lstm_cy_pool.seen_at) < LSTM_CY_MEMORY)
            waking = lstm_cy_load(&lstm_cy_pool.seen_waking);
        return waking != 0 && multiply_adds > (double)LSTM_CY_WORTH_WAKING * LSTM_CY_SPEED * (double)waking;
    }
    static void lstm_cy_note_call(void) {
        int64_t now = lstm_cy_now(), time = lstm_cy_asked == 0 ? 0 : now - lstm_cy_asked;
        lstm_cy_pay(&lstm_cy_pool.of_jobs, time);
        lstm_cy_pay(&lstm_cy_pool.of_teams, time);
        lstm_cy_asked = 0;
        lstm_cy_store(&lstm_cy_pool.last_call, now);
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
    static ptrdiff_t lstm_cy_await(const ptrdiff_t *address, ptrdiff_t value) {
        int spins = 0;
        int64_t start = 0;
        while (lstm_cy_load_acquire(address) < value) {
            lstm_cy_relax(&spins);
            if (spins == LSTM_CY_SPINS) start = lstm_cy_now();
        }
        return start == 0 ? 0 : (ptrdiff_t)(lstm_cy_now() - start);
    }
    static int lstm_cy_backs_off(void) { return !lstm_cy_pool.always && lstm_cy_owes(&lstm_cy_pool.of_teams); }
    #else
    static void lstm_cy_set_up(long long spin) { (void)spin; }
    static int lstm_cy_open_job(int helpers, lstm_cy_task task, void *argument) {
        (void)helpers; (void)task; (void)argument;
        return 0;
    }
    static int lstm_cy_started(void) { return 0; }
    static long long lstm_cy_joined(void) { return 0; }
    static void lstm_cy_note_waiting(ptrdiff_t time) { (void)time; }
    static void lstm_cy_close_job(int of_team) { (void)of_team; }
    static int lstm_cy_workers_are_gone(void) { return 0; }
    static int lstm_cy_at_fork(lstm_cy_hook before, lstm_cy_hook in_parent, lstm_cy_hook in_child) {
        (void)before; (void)in_parent; (void)in_child;
        return 0;
    }
    static long lstm_cy_thread(void) { return 0; }
    static int lstm_cy_worth_sharing(double multiply_adds) { (void)multiply_adds; return 0; }
    static void lstm_cy_share_always(int always) { (void)always; }
    static void lstm_cy_use_openmp(size_t start, size_t end) { (void)start; (void)end; }
    static void lstm_cy_set_openmp_threads(int count) { (void)count; }
    static double lstm_cy_waking(void) { return 0; }
    static void lstm_cy_note_call(void) {}
    static ptrdiff_t lstm_cy_fetch_add(ptrdiff_t *counter, ptrdiff_t n) {
        *counter += n;
        return *counter - n;
    }
    static void lstm_cy_store_release(ptrdiff_t *address, ptrdiff_t value) { *address = value; }
    static ptrdiff_t lstm_cy_load_acquire(const ptrdiff_t *address) { return *address; }
    static ptrdiff_t lstm_cy_await(const ptrdiff_t *address, ptrdiff_t value) { (void)address; (void)value; return 0; }
    static int lstm_cy_backs_off(void) { return 0; }
    #endif
    """
    void lstm_cy_set_up(long long)
    bint lstm_cy_open_job(int, Task, void*) noexcept nogil
    void lstm_cy_note_waiting(Py_ssize_t) noexcept nogil
    void lstm_cy_close_job(bint) noexcept nogil
    bint lstm_cy_workers_are_gone() noexcept nogil
    int lstm_cy_at_fork(Hook, Hook, Hook)
    long lstm_cy_thread() noexcept nogil
    int lstm_cy_started()
    long long lstm_cy_joined()
    bint lstm_cy_worth_sharing(double) noexcept nogil
    double lstm_cy_waking()
    void lstm_cy_share_always(bint)
    void lstm_cy_use_openmp(size_t, size_t)
    void lstm_cy_set_openmp_threads(int)
    void lstm_cy_note_call() noexcept nogil
    Py_ssize_t lstm_cy_fetch_add(Py_ssize_t*, Py_ssize_t) noexcept nogil
    void lstm_cy_store_release(Py_ssize_t*, Py_ssize_t) noexcept nogil
    Py_ssize_t lstm_cy_load_acquire(const Py_ssize_t*) noexcept nogil
    Py_ssize_t lstm_cy_await(const Py_ssize_t*, Py_ssize_t) noexcept nogil
    bint lstm_cy_backs_off() noexcept nogil


cdef bint open_job(int helpers, Task task, void* argument) noexcept nogil:
    return lstm_cy_open_job(helpers, task, argument)


cdef void note_waiting(Py_ssize_t nanoseconds, bint caller) noexcept nogil:
    if caller:
        lstm_cy_note_waiting(nanoseconds)


cdef void close_job() noexcept nogil:
    lstm_cy_close_job(False)


cdef void close_team(Py_ssize_t waited) noexcept nogil:
    lstm_cy_note_waiting(waited)
    lstm_cy_close_job(True)


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


cdef bint worth_sharing(double multiply_adds) noexcept nogil:
    return lstm_cy_worth_sharing(multiply_adds)


cdef void note_call() noexcept nogil:
    lstm_cy_note_call()


cdef Py_ssize_t fetch_add(Py_ssize_t* counter, Py_ssize_t n) noexcept nogil:
    return lstm_cy_fetch_add(counter, n)


cdef void store_release(Py_ssize_t* address, Py_ssize_t value) noexcept nogil:
    lstm_cy_store_release(address, value)


cdef Py_ssize_t load_acquire(const Py_ssize_t* address) noexcept nogil:
    return lstm_cy_load_acquire(address)


cdef Py_ssize_t await_at_least(const Py_ssize_t* address, Py_ssize_t value) noexcept nogil:
    return lstm_cy_await(address, value)


cdef bint backs_off() noexcept nogil:
    return lstm_cy_backs_off()


def statistics():
    """Return (workers, how often one has joined a job) in this process."""
    return lstm_cy_started(), lstm_cy_joined()


def waking():
    """Return how many seconds it takes to wake a worker, or 0.0 before a call has measured it."""
    return lstm_cy_waking()


def share_always(bint always):
    """Share work as if workers were awake and never delayed, so that more of them join than there are processors."""
    lstm_cy_share_always(always)


def use_openmp(size_t start, size_t end):
    """Set GNU OpenMP's functions GOMP_parallel_start and GOMP_parallel_end, by address, for `set_openmp_threads`.

    OpenMP's threads spin for some milliseconds after each of their jobs. Where a program uses OpenMP between our calls,
    as PyTorch does, our own workers would compete with them for the processors.
    """
    lstm_cy_use_openmp(start, end)


def set_openmp_threads(int count):
    """Let OpenMP's threads, so many with the caller's, be the workers of this thread's calls; 0 for our own."""
    lstm_cy_set_openmp_threads(count)


def spin_from_environment():
    """Read LSTM_CY_SPIN_US: how long a worker spins in all after a job, in microseconds."""
    text = os.environ.get("LSTM_CY_SPIN_US", "2000")
    if not (text.isascii() and text.isdecimal() and len(text) <= 7 and int(text) <= 1_000_000):
        raise ValueError(f"LSTM_CY_SPIN_US: expected microseconds from 0 to 1000000, got {text[:80]!r}")
    return int(text)


lstm_cy_set_up(spin_from_environment() * 1000)
