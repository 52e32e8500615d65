"""The functions of lstm_cy.embed for the tests: arrays are given as addresses, NULL as 0."""

from lstm_cy.embed cimport (
    LSTM_CY_BUSY, LSTM_CY_DTYPE, LSTM_CY_INPUT, LSTM_CY_MEMORY, LSTM_CY_NULL, LSTM_CY_OK, LSTM_CY_SIZE,
    LSTM_CY_TOKEN, lstm_cy_message, lstm_cy_model, lstm_cy_model_close, lstm_cy_model_hidden, lstm_cy_model_inputs,
    lstm_cy_model_itemsize, lstm_cy_model_layers, lstm_cy_model_lstms, lstm_cy_model_open, lstm_cy_model_outputs,
    lstm_cy_model_realtime, lstm_cy_model_state_size, lstm_cy_model_told, lstm_cy_model_tokens, lstm_cy_run_f32,
    lstm_cy_run_f64, lstm_cy_run_tokens_f32, lstm_cy_run_tokens_f64, lstm_cy_step_f32, lstm_cy_step_f64,
    lstm_cy_step_tokens_f32, lstm_cy_step_tokens_f64, lstm_cy_stream, lstm_cy_stream_clone, lstm_cy_stream_create,
    lstm_cy_stream_free, lstm_cy_stream_get_state_f32, lstm_cy_stream_get_state_f64, lstm_cy_stream_reset,
    lstm_cy_stream_get_state, lstm_cy_stream_reset_row, lstm_cy_stream_rows, lstm_cy_stream_set_state,
    lstm_cy_stream_set_state_f32, lstm_cy_stream_set_state_f64, lstm_cy_stream_state_bytes,
)

cdef extern from *:
    """
    #include <pthread.h>
    #include <signal.h>
    #include <stdlib.h>
    #include <time.h>

    /* Stop one thread wherever it is, in the handler of a signal, until it may go on. */
    static pthread_t driver_runner;
    static volatile int driver_running, driver_paused;

    static void driver_nap(void) { struct timespec t = {0, 100000}; nanosleep(&t, NULL); }
    static void driver_handler(int signal) { driver_paused = 1; while (driver_paused == 1) driver_nap(); }
    static void driver_begin(void) {
        struct sigaction action = {.sa_handler = driver_handler};
        sigaction(SIGUSR1, &action, NULL);
        driver_runner = pthread_self();
        driver_paused = 0;
        driver_running = 1;
    }
    static void driver_end(void) { driver_running = 0; }
    static int driver_pause(void) {
        driver_paused = 0;
        pthread_kill(driver_runner, SIGUSR1);
        while (driver_paused != 1) driver_nap();
        return 1;
    }
    static void driver_resume(void) { driver_paused = 2; }

    /* One thread works while another holds the GIL. */
    static volatile int driver_ready, driver_held, driver_done;
    static void driver_await_held(void) { driver_ready = 1; while (!driver_held) driver_nap(); }
    static int driver_hold(int seconds) {
        time_t end = time(NULL) + seconds;
        driver_held = 1;
        while (!driver_done && time(NULL) < end) driver_nap();
        return driver_done;
    }

    /* What is still there when Python has ended */
    static int (*driver_free_last)(void *);
    static void *driver_last;
    static void driver_at_exit(void) { if (driver_free_last(driver_last) != 0) _Exit(3); }
    """
    int driver_running, driver_ready, driver_done
    void driver_begin() noexcept nogil
    void driver_end() noexcept nogil
    void driver_pause() noexcept nogil
    void driver_resume() noexcept nogil
    void driver_await_held() noexcept nogil
    int driver_hold(int) noexcept nogil
    int (*driver_free_last)(void*) noexcept nogil
    void* driver_last
    void driver_at_exit() noexcept nogil
    int atexit(void (*)() noexcept nogil)

ctypedef long (*Counter)() noexcept nogil
ctypedef int (*Free)(void*) noexcept nogil

ERRORS = {
    "OK": LSTM_CY_OK,
    "NULL": LSTM_CY_NULL,
    "DTYPE": LSTM_CY_DTYPE,
    "INPUT": LSTM_CY_INPUT,
    "SIZE": LSTM_CY_SIZE,
    "TOKEN": LSTM_CY_TOKEN,
    "BUSY": LSTM_CY_BUSY,
    "MEMORY": LSTM_CY_MEMORY,
}


def message(int error):
    return lstm_cy_message(error).decode()


cdef class Model:
    """A handle; NULL if no model is given."""

    cdef lstm_cy_model* handle

    def __init__(self, *models):
        for model in models:
            self.handle = lstm_cy_model_open(model)

    def sizes(self):
        return {
            "inputs": lstm_cy_model_inputs(self.handle),
            "tokens": lstm_cy_model_tokens(self.handle),
            "outputs": lstm_cy_model_outputs(self.handle),
            "itemsize": lstm_cy_model_itemsize(self.handle),
            "lstms": lstm_cy_model_lstms(self.handle),
            "realtime": lstm_cy_model_realtime(self.handle),
        }

    def lstm(self, Py_ssize_t number):
        return (lstm_cy_model_layers(self.handle, number), lstm_cy_model_hidden(self.handle, number),
                lstm_cy_model_state_size(self.handle, number), lstm_cy_model_told(self.handle, number))

    def close(self):
        cdef int error
        with nogil:
            error = lstm_cy_model_close(self.handle)
        self.handle = NULL
        return error

    def create(self, Py_ssize_t rows):
        """(error, Stream)"""
        cdef Stream stream = Stream()
        cdef int error
        with nogil:
            error = lstm_cy_stream_create(self.handle, rows, &stream.handle)
        return error, stream

    def create_nowhere(self):
        return lstm_cy_stream_create(self.handle, 1, NULL)


cdef class Stream:
    cdef lstm_cy_stream* handle

    def __bool__(self):
        return self.handle != NULL

    def rows(self):
        return lstm_cy_stream_rows(self.handle)

    def clone(self):
        """(error, Stream)"""
        cdef Stream stream = Stream()
        cdef int error
        with nogil:
            error = lstm_cy_stream_clone(self.handle, &stream.handle)
        return error, stream

    def clone_nowhere(self):
        return lstm_cy_stream_clone(self.handle, NULL)

    def free(self):
        cdef int error
        with nogil:
            error = lstm_cy_stream_free(self.handle)
        if error == LSTM_CY_OK:
            self.handle = NULL
        return error

    def state_bytes(self):
        return lstm_cy_stream_state_bytes(self.handle)

    def get_block(self, size_t block):
        return lstm_cy_stream_get_state(self.handle, <void*>block)

    def set_block(self, size_t block):
        return lstm_cy_stream_set_state(self.handle, <const void*>block)

    def reset(self):
        return lstm_cy_stream_reset(self.handle)

    def reset_row(self, Py_ssize_t row):
        return lstm_cy_stream_reset_row(self.handle, row)

    def get_state(self, bint f64, Py_ssize_t lstm, size_t h, size_t c):
        if f64:
            return lstm_cy_stream_get_state_f64(self.handle, lstm, <double*>h, <double*>c)
        return lstm_cy_stream_get_state_f32(self.handle, lstm, <float*>h, <float*>c)

    def set_state(self, bint f64, Py_ssize_t lstm, size_t h, size_t c):
        if f64:
            return lstm_cy_stream_set_state_f64(self.handle, lstm, <const double*>h, <const double*>c)
        return lstm_cy_stream_set_state_f32(self.handle, lstm, <const float*>h, <const float*>c)

    def step(self, bint f64, bint tokens, size_t x, size_t y):
        cdef int error
        with nogil:
            error = step(self.handle, f64, tokens, x, y)
        return error

    def run(self, bint f64, bint tokens, Py_ssize_t T, size_t x, size_t y):
        cdef int error
        with nogil:
            error = run(self.handle, f64, tokens, T, x, y)
        return error

    def run_pausable(self, Py_ssize_t T, size_t x, size_t y):
        """Run until an error or a call of `end_runs`; return the number of runs."""
        cdef long runs = 0
        cdef int error = LSTM_CY_OK
        with nogil:
            driver_begin()
            while driver_running and error == LSTM_CY_OK:
                error = lstm_cy_run_f32(self.handle, T, <const float*>x, <float*>y)
                runs += error == LSTM_CY_OK
        return runs

    def work_while_gil_is_held(self, size_t x, size_t y):
        """Call every function for a float32 stream; return 0 if there was no error."""
        cdef lstm_cy_stream* clone = NULL
        cdef int error = 0, _k
        with nogil:
            driver_await_held()
            error |= lstm_cy_stream_clone(self.handle, &clone)
            for _k in range(100):
                error |= lstm_cy_step_f32(clone, <const float*>x, <float*>y)
                error |= lstm_cy_run_f32(self.handle, 1, <const float*>x, <float*>y)
            error |= lstm_cy_stream_reset_row(self.handle, 0)
            error |= lstm_cy_stream_reset(self.handle)
            error |= lstm_cy_stream_free(clone)
            global driver_done
            driver_done = 1
        return error

    def counts(self, size_t counter, bint f64, bint tokens, long steps, size_t x, size_t y, size_t h, size_t c):
        """Return how far `counter`, a C function, counts in that many steps and all calls that must not allocate."""
        cdef Counter count = <Counter>counter
        cdef long before
        cdef int error = LSTM_CY_OK, _k
        with nogil:
            before = count()
            for _k in range(steps):
                error |= step(self.handle, f64, tokens, x, y)
            error |= run(self.handle, f64, tokens, 1, x, y)
            if f64:
                error |= lstm_cy_stream_get_state_f64(self.handle, 0, <double*>h, <double*>c)
                error |= lstm_cy_stream_set_state_f64(self.handle, 0, <double*>h, <double*>c)
            else:
                error |= lstm_cy_stream_get_state_f32(self.handle, 0, <float*>h, <float*>c)
                error |= lstm_cy_stream_set_state_f32(self.handle, 0, <float*>h, <float*>c)
            error |= lstm_cy_stream_reset_row(self.handle, 0)
            error |= lstm_cy_stream_reset(self.handle)
            before = count() - before
        assert error == LSTM_CY_OK
        return before

    def free_when_python_has_ended(self):
        global driver_free_last, driver_last
        driver_free_last = <Free>lstm_cy_stream_free
        driver_last = self.handle
        atexit(driver_at_exit)


cdef int step(lstm_cy_stream* stream, bint f64, bint tokens, size_t x, size_t y) noexcept nogil:
    if tokens and f64:
        return lstm_cy_step_tokens_f64(stream, <const Py_ssize_t*>x, <double*>y)
    if tokens:
        return lstm_cy_step_tokens_f32(stream, <const Py_ssize_t*>x, <float*>y)
    if f64:
        return lstm_cy_step_f64(stream, <const double*>x, <double*>y)
    return lstm_cy_step_f32(stream, <const float*>x, <float*>y)


cdef int run(lstm_cy_stream* stream, bint f64, bint tokens, Py_ssize_t T, size_t x, size_t y) noexcept nogil:
    if tokens and f64:
        return lstm_cy_run_tokens_f64(stream, T, <const Py_ssize_t*>x, <double*>y)
    if tokens:
        return lstm_cy_run_tokens_f32(stream, T, <const Py_ssize_t*>x, <float*>y)
    if f64:
        return lstm_cy_run_f64(stream, T, <const double*>x, <double*>y)
    return lstm_cy_run_f32(stream, T, <const float*>x, <float*>y)


def ticks_now(size_t counter):
    """Return the result of `counter`, a C function."""
    return (<Counter>counter)()


def running():
    """Return whether a thread has begun `run_pausable`."""
    return bool(driver_running)


def pause():
    """Stop that thread between two runs."""
    driver_pause()


def resume():
    driver_resume()


def end_runs():
    driver_end()


def ready():
    """Return whether a thread has begun `work_while_gil_is_held`."""
    return bool(driver_ready)


def hold_gil(int seconds):
    """Hold the GIL until that thread is done; return False if it is not in time."""
    return bool(driver_hold(seconds))
