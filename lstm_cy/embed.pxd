"""The C interface: models stepped by code that cannot wait for Python, such as an audio callback.

The model is a Python object. `lstm_cy_model_open` makes a handle from it, and from a handle streams are made.
docs/embedding.md has the rules of lifetime, threads and real time, and an example.

Every function except `lstm_cy_model_open` may be called without the GIL. Functions that return int return LSTM_CY_OK or
one of the errors, which are negative; after an error nothing has changed. A negative size is an error too. Arrays are
C-contiguous. T is the number of steps, B of a stream's rows, I of inputs, O of outputs; an LSTM has L layers, H hidden
units, and P elements of h in each layer (proj_size, or H).
"""

cdef extern from *:
    """
    typedef struct lstm_cy_model lstm_cy_model;
    typedef struct lstm_cy_stream lstm_cy_stream;
    """
    # a model's weights, immutable: any number of threads may use it
    ctypedef struct lstm_cy_model:
        pass

    # B rows that step together, with their state: one thread at a time
    ctypedef struct lstm_cy_stream:
        pass


cdef enum:
    LSTM_CY_OK = 0
    LSTM_CY_NULL = -1    # a pointer is NULL
    LSTM_CY_DTYPE = -2   # f32 for a float64 model, or f64 for a float32 model
    LSTM_CY_INPUT = -3   # numbers for a model that takes tokens, or tokens for a model that takes numbers
    LSTM_CY_SIZE = -4    # a number of steps or rows, or the number of a row or an LSTM, is out of range
    LSTM_CY_TOKEN = -5   # a token is not from 0 to the number of tokens - 1
    LSTM_CY_BUSY = -6    # another thread is using this stream
    LSTM_CY_MEMORY = -7  # there is not enough memory


# The meaning of an error, in English; never NULL.
cdef const char* lstm_cy_message(int error) noexcept nogil


# Make a handle of an LSTM or a Sequential for which a Stepper can be made, with its present weights: later changes of
# the model's parameters do not change the handle. Needs the GIL; NULL with a TypeError, ValueError or MemoryError set.
cdef lstm_cy_model* lstm_cy_model_open(object model) except NULL

# Close the handle; its streams can still be used. The last of a handle and its streams to be closed takes the GIL.
cdef int lstm_cy_model_close(lstm_cy_model* model) noexcept nogil

# Sizes: I, or 0 if the model takes tokens; the number of tokens, or 0 if it takes numbers; O; the bytes of a number, 4
# for f32 and 8 for f64.
cdef Py_ssize_t lstm_cy_model_inputs(const lstm_cy_model* model) noexcept nogil
cdef Py_ssize_t lstm_cy_model_tokens(const lstm_cy_model* model) noexcept nogil
cdef Py_ssize_t lstm_cy_model_outputs(const lstm_cy_model* model) noexcept nogil
cdef Py_ssize_t lstm_cy_model_itemsize(const lstm_cy_model* model) noexcept nogil

# The number of LSTMs, each of which has a state; L, H and P of one of them; and P by its older name.
cdef Py_ssize_t lstm_cy_model_lstms(const lstm_cy_model* model) noexcept nogil
cdef Py_ssize_t lstm_cy_model_layers(const lstm_cy_model* model, Py_ssize_t lstm) noexcept nogil
cdef Py_ssize_t lstm_cy_model_hidden(const lstm_cy_model* model, Py_ssize_t lstm) noexcept nogil
cdef Py_ssize_t lstm_cy_model_state_size(const lstm_cy_model* model, Py_ssize_t lstm) noexcept nogil
cdef Py_ssize_t lstm_cy_model_told(const lstm_cy_model* model, Py_ssize_t lstm) noexcept nogil

# 1 if a step takes no lock and allocates nothing: with engine "packed". 0 with engine "blas": BLAS may do both.
cdef int lstm_cy_model_realtime(const lstm_cy_model* model) noexcept nogil


# Make a stream of B >= 1 rows, its state zero, or one with a copy of another's state. Only these functions allocate.
cdef int lstm_cy_stream_create(lstm_cy_model* model, Py_ssize_t rows, lstm_cy_stream** stream) noexcept nogil
cdef int lstm_cy_stream_clone(lstm_cy_stream* stream, lstm_cy_stream** clone) noexcept nogil

# Free a stream, unless it is busy.
cdef int lstm_cy_stream_free(lstm_cy_stream* stream) noexcept nogil

cdef Py_ssize_t lstm_cy_stream_rows(const lstm_cy_stream* stream) noexcept nogil

# Set the state of all rows, or of one, to zero.
cdef int lstm_cy_stream_reset(lstm_cy_stream* stream) noexcept nogil
cdef int lstm_cy_stream_reset_row(lstm_cy_stream* stream, Py_ssize_t row) noexcept nogil

# Copy the state of one LSTM, counted from 0, out or in: h (L, B, P) and c (L, B, H).
cdef int lstm_cy_stream_get_state_f32(lstm_cy_stream* stream, Py_ssize_t lstm, float* h, float* c) noexcept nogil
cdef int lstm_cy_stream_get_state_f64(lstm_cy_stream* stream, Py_ssize_t lstm, double* h, double* c) noexcept nogil
cdef int lstm_cy_stream_set_state_f32(lstm_cy_stream* stream, Py_ssize_t lstm, const float* h,
                                      const float* c) noexcept nogil
cdef int lstm_cy_stream_set_state_f64(lstm_cy_stream* stream, Py_ssize_t lstm, const double* h,
                                      const double* c) noexcept nogil


# The whole state of all rows, also that of convolutions and pooling, as one block of bytes without a meaning to others:
# its size, and copies out and in. A block is for streams of the same model and number of rows, on the same machine.
cdef Py_ssize_t lstm_cy_stream_state_bytes(const lstm_cy_stream* stream) noexcept nogil
cdef int lstm_cy_stream_get_state(lstm_cy_stream* stream, void* state) noexcept nogil
cdef int lstm_cy_stream_set_state(lstm_cy_stream* stream, const void* state) noexcept nogil


# One step: x (B, I) to y (B, O); y may be x if I and O are equal.
cdef int lstm_cy_step_f32(lstm_cy_stream* stream, const float* x, float* y) noexcept nogil
cdef int lstm_cy_step_f64(lstm_cy_stream* stream, const double* x, double* y) noexcept nogil

# T >= 0 steps: x (T, B, I) to y (T, B, O), the same bits as one by one; y may be x if I and O are equal.
cdef int lstm_cy_run_f32(lstm_cy_stream* stream, Py_ssize_t T, const float* x, float* y) noexcept nogil
cdef int lstm_cy_run_f64(lstm_cy_stream* stream, Py_ssize_t T, const double* x, double* y) noexcept nogil

# The same from tokens (B,) or (T, B), which must not change during the call.
cdef int lstm_cy_step_tokens_f32(lstm_cy_stream* stream, const Py_ssize_t* tokens, float* y) noexcept nogil
cdef int lstm_cy_step_tokens_f64(lstm_cy_stream* stream, const Py_ssize_t* tokens, double* y) noexcept nogil
cdef int lstm_cy_run_tokens_f32(lstm_cy_stream* stream, Py_ssize_t T, const Py_ssize_t* tokens,
                                float* y) noexcept nogil
cdef int lstm_cy_run_tokens_f64(lstm_cy_stream* stream, Py_ssize_t T, const Py_ssize_t* tokens,
                                double* y) noexcept nogil
