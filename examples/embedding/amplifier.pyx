"""An amplifier for an audio host: a C function that gets a block of samples and must finish in time."""

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from lstm_cy.embed cimport (
    LSTM_CY_OK, lstm_cy_message, lstm_cy_model, lstm_cy_model_close, lstm_cy_model_inputs, lstm_cy_model_itemsize,
    lstm_cy_model_open, lstm_cy_model_outputs, lstm_cy_run_f32, lstm_cy_stream, lstm_cy_stream_create,
    lstm_cy_stream_free, lstm_cy_stream_reset,
)


cdef int on_audio(void* user, const float* samples, float* played, Py_ssize_t frames) noexcept nogil:
    """Process a block: without the GIL, locks or allocations, in the time of `frames` steps."""
    cdef int error = lstm_cy_run_f32(<lstm_cy_stream*>user, frames, samples, played)
    cdef Py_ssize_t k
    if error != LSTM_CY_OK:
        for k in range(frames):
            played[k] = 0  # silence instead of undefined samples
    return error


cdef class Amplifier:
    """One channel of an amplifier.

    Parameters
    ----------
    model : lstm_cy.LSTM or lstm_cy.Sequential
        float32, one number in and one out.
    """

    cdef lstm_cy_stream* stream

    def __cinit__(self, model):
        cdef lstm_cy_model* opened = lstm_cy_model_open(model)
        try:
            sizes = lstm_cy_model_inputs(opened), lstm_cy_model_outputs(opened), lstm_cy_model_itemsize(opened)
            if sizes != (1, 1, 4):
                raise ValueError(f"model: expected 1 input, 1 output and 4 bytes a number, got {sizes}")
            check(lstm_cy_stream_create(opened, 1, &self.stream))
        finally:
            lstm_cy_model_close(opened)  # the stream keeps the weights

    def __dealloc__(self):
        lstm_cy_stream_free(self.stream)

    def reset(self):
        """Set the state to zero."""
        check(lstm_cy_stream_reset(self.stream))

    def play(self, const float[::1] samples, float[::1] played, Py_ssize_t block, double[::1] seconds=None):
        """Play samples block by block, as a host does; `seconds` receives the time of each block.

        Their number must be a multiple of `block`. Other Python threads can run during the call.
        """
        cdef Py_ssize_t n, start
        cdef double begin
        cdef int error = LSTM_CY_OK
        if block < 1 or len(samples) % block or len(played) != len(samples):
            raise ValueError(f"expected whole blocks of {block} and as many samples played, got {len(samples)} samples")
        if seconds is not None and len(seconds) != len(samples) // block:
            raise ValueError(f"seconds: expected {len(samples) // block}, one for each block, got {len(seconds)}")
        with nogil:
            for n in range(len(samples) // block):
                start = n * block
                begin = now()
                error = on_audio(self.stream, &samples[start], &played[start], block)
                if seconds is not None:
                    seconds[n] = now() - begin
                if error != LSTM_CY_OK:
                    break
        check(error)


cdef double now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + 1e-9 * t.tv_nsec


cdef int check(int error) except -1:
    if error != LSTM_CY_OK:
        raise RuntimeError(lstm_cy_message(error).decode())
    return 0
