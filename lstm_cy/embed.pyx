"""The C interface: embed.pxd documents each function, _kernels/stages.pyx does the computation."""

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from ._kernels.runtime.atomics cimport add_fetch, try_lock, unlock
from ._kernels.stages cimport (
    RECURRENT, ROWS, Chain, Plan, Stage, Stream, advance, block_bytes, free_stream, get_block, get_state, lstm_stage,
    new_stream, reset_row, reset_rows, set_block, set_state, token_fits, uses_blas,
)

from .checks import LARGEST_SIDE as _LARGEST_SIDE
from .streaming.stepper import chain_of, frozen

cdef extern from "Python.h":
    bint Py_IsInitialized() noexcept nogil

cdef extern from *:
    """
    #define LSTM_CY_DECLARED
    #include "include/lstm_cy.h"
    """
    ctypedef struct lstm_cy_functions:
        size_t size
        const char* (*message)(int error) noexcept nogil
        lstm_cy_model* (*model_open)(object model) except NULL
        int (*model_close)(lstm_cy_model* model) noexcept nogil
        Py_ssize_t (*model_inputs)(const lstm_cy_model* model) noexcept nogil
        Py_ssize_t (*model_tokens)(const lstm_cy_model* model) noexcept nogil
        Py_ssize_t (*model_outputs)(const lstm_cy_model* model) noexcept nogil
        Py_ssize_t (*model_itemsize)(const lstm_cy_model* model) noexcept nogil
        Py_ssize_t (*model_lstms)(const lstm_cy_model* model) noexcept nogil
        Py_ssize_t (*model_layers)(const lstm_cy_model* model, Py_ssize_t lstm) noexcept nogil
        Py_ssize_t (*model_hidden)(const lstm_cy_model* model, Py_ssize_t lstm) noexcept nogil
        Py_ssize_t (*model_state_size)(const lstm_cy_model* model, Py_ssize_t lstm) noexcept nogil
        int (*model_realtime)(const lstm_cy_model* model) noexcept nogil
        int (*stream_create)(lstm_cy_model* model, Py_ssize_t rows, lstm_cy_stream** stream) noexcept nogil
        int (*stream_clone)(lstm_cy_stream* stream, lstm_cy_stream** clone) noexcept nogil
        int (*stream_free)(lstm_cy_stream* stream) noexcept nogil
        Py_ssize_t (*stream_rows)(const lstm_cy_stream* stream) noexcept nogil
        int (*stream_reset)(lstm_cy_stream* stream) noexcept nogil
        int (*stream_reset_row)(lstm_cy_stream* stream, Py_ssize_t row) noexcept nogil
        int (*stream_get_state_f32)(lstm_cy_stream* stream, Py_ssize_t lstm, float* h, float* c) noexcept nogil
        int (*stream_get_state_f64)(lstm_cy_stream* stream, Py_ssize_t lstm, double* h, double* c) noexcept nogil
        int (*stream_set_state_f32)(lstm_cy_stream* stream, Py_ssize_t lstm, const float* h,
                                    const float* c) noexcept nogil
        int (*stream_set_state_f64)(lstm_cy_stream* stream, Py_ssize_t lstm, const double* h,
                                    const double* c) noexcept nogil
        int (*step_f32)(lstm_cy_stream* stream, const float* x, float* y) noexcept nogil
        int (*step_f64)(lstm_cy_stream* stream, const double* x, double* y) noexcept nogil
        int (*run_f32)(lstm_cy_stream* stream, Py_ssize_t T, const float* x, float* y) noexcept nogil
        int (*run_f64)(lstm_cy_stream* stream, Py_ssize_t T, const double* x, double* y) noexcept nogil
        int (*step_tokens_f32)(lstm_cy_stream* stream, const Py_ssize_t* tokens, float* y) noexcept nogil
        int (*step_tokens_f64)(lstm_cy_stream* stream, const Py_ssize_t* tokens, double* y) noexcept nogil
        int (*run_tokens_f32)(lstm_cy_stream* stream, Py_ssize_t T, const Py_ssize_t* tokens, float* y) noexcept nogil
        int (*run_tokens_f64)(lstm_cy_stream* stream, Py_ssize_t T, const Py_ssize_t* tokens,
                              double* y) noexcept nogil
        Py_ssize_t (*stream_state_bytes)(const lstm_cy_stream* stream) noexcept nogil
        int (*stream_get_state)(lstm_cy_stream* stream, void* state) noexcept nogil
        int (*stream_set_state)(lstm_cy_stream* stream, const void* state) noexcept nogil

cdef Py_ssize_t MOST_ROWS = _LARGEST_SIDE


ctypedef struct Model:
    # the content of a lstm_cy_model; a lstm_cy_stream is a Stream, owned by one
    const Plan* plan
    PyObject* chain  # the plan's Chain
    long references  # from the handle and the streams


cdef const char* lstm_cy_message(int error) noexcept nogil:
    if error == LSTM_CY_OK:
        return "no error"
    if error == LSTM_CY_NULL:
        return "a pointer is NULL"
    if error == LSTM_CY_DTYPE:
        return "the model has the other dtype: f32 is for float32, f64 for float64"
    if error == LSTM_CY_INPUT:
        return "the model takes tokens, not numbers, or numbers, not tokens"
    if error == LSTM_CY_SIZE:
        return "a number of steps or rows, or the number of a row or an LSTM, is out of range"
    if error == LSTM_CY_TOKEN:
        return "a token is out of range"
    if error == LSTM_CY_BUSY:
        return "another thread is using this stream"
    if error == LSTM_CY_MEMORY:
        return "there is not enough memory"
    return "unknown error"


cdef lstm_cy_model* lstm_cy_model_open(object model) except NULL:
    cdef Chain chain = chain_of(frozen(model, "model"), "model")
    cdef Model* opened = <Model*>malloc(sizeof(Model))
    if opened == NULL:
        raise MemoryError
    Py_INCREF(chain)
    opened.chain = <PyObject*>chain
    opened.plan = &chain.plan
    opened.references = 1
    return <lstm_cy_model*>opened


cdef int lstm_cy_model_close(lstm_cy_model* model) noexcept nogil:
    if model == NULL:
        return LSTM_CY_NULL
    release(<Model*>model)
    return LSTM_CY_OK


cdef void release(Model* model) noexcept nogil:
    """Remove one reference. After Python has ended its objects no longer exist."""
    if add_fetch(&model.references, -1) == 0:
        if Py_IsInitialized():
            decref(model.chain)
        free(model)


cdef void decref(PyObject* chain) noexcept with gil:
    Py_DECREF(<object>chain)


# Sizes

cdef inline const Plan* plan_of(const lstm_cy_model* model) noexcept nogil:
    return (<const Model*>model).plan


cdef Py_ssize_t lstm_cy_model_inputs(const lstm_cy_model* model) noexcept nogil:
    if model == NULL:
        return LSTM_CY_NULL
    return 0 if plan_of(model).takes_tokens else plan_of(model).stages[0].inputs


cdef Py_ssize_t lstm_cy_model_tokens(const lstm_cy_model* model) noexcept nogil:
    if model == NULL:
        return LSTM_CY_NULL
    return plan_of(model).stages[0].inputs if plan_of(model).takes_tokens else 0


cdef Py_ssize_t lstm_cy_model_outputs(const lstm_cy_model* model) noexcept nogil:
    return LSTM_CY_NULL if model == NULL else plan_of(model).outputs


cdef Py_ssize_t lstm_cy_model_itemsize(const lstm_cy_model* model) noexcept nogil:
    return LSTM_CY_NULL if model == NULL else plan_of(model).itemsize


cdef Py_ssize_t lstm_cy_model_lstms(const lstm_cy_model* model) noexcept nogil:
    cdef Py_ssize_t number = 0
    if model == NULL:
        return LSTM_CY_NULL
    while lstm_stage(plan_of(model), plan_of(model).stages, number) != NULL:
        number += 1
    return number


cdef inline int find_lstm(const lstm_cy_model* model, Py_ssize_t lstm, const Stage** stage) noexcept nogil:
    if model == NULL:
        return LSTM_CY_NULL
    stage[0] = lstm_stage(plan_of(model), plan_of(model).stages, lstm)
    return LSTM_CY_SIZE if stage[0] == NULL else LSTM_CY_OK


cdef Py_ssize_t lstm_cy_model_layers(const lstm_cy_model* model, Py_ssize_t lstm) noexcept nogil:
    cdef const Stage* stage
    cdef int error = find_lstm(model, lstm, &stage)
    return error if error else stage.net.num_layers


cdef Py_ssize_t lstm_cy_model_hidden(const lstm_cy_model* model, Py_ssize_t lstm) noexcept nogil:
    cdef const Stage* stage
    cdef int error = find_lstm(model, lstm, &stage)
    return error if error else stage.net.hidden_size


cdef Py_ssize_t lstm_cy_model_state_size(const lstm_cy_model* model, Py_ssize_t lstm) noexcept nogil:
    cdef const Stage* stage
    cdef int error = find_lstm(model, lstm, &stage)
    return error if error else stage.net.output_size


cdef Py_ssize_t lstm_cy_model_told(const lstm_cy_model* model, Py_ssize_t lstm) noexcept nogil:
    return lstm_cy_model_state_size(model, lstm)


cdef int lstm_cy_model_realtime(const lstm_cy_model* model) noexcept nogil:
    return LSTM_CY_NULL if model == NULL else not uses_blas(plan_of(model))


# Streams

cdef int lstm_cy_stream_create(lstm_cy_model* model, Py_ssize_t rows, lstm_cy_stream** stream) noexcept nogil:
    cdef Stream* made
    if model == NULL or stream == NULL:
        return LSTM_CY_NULL
    if not 1 <= rows <= MOST_ROWS:
        return LSTM_CY_SIZE
    made = new_stream(plan_of(model), rows)
    if made == NULL:
        return LSTM_CY_MEMORY
    made.owner = model
    add_fetch(&(<Model*>model).references, 1)
    stream[0] = <lstm_cy_stream*>made
    return LSTM_CY_OK


cdef int lstm_cy_stream_clone(lstm_cy_stream* stream, lstm_cy_stream** clone) noexcept nogil:
    cdef Stream* source = <Stream*>stream
    cdef int error = acquire(source) if clone != NULL else LSTM_CY_NULL
    if error:
        return error
    error = lstm_cy_stream_create(<lstm_cy_model*>source.owner, source.rows, clone)
    if error == LSTM_CY_OK:
        copy_states(source, <Stream*>clone[0])
    unlock(&source.busy)
    return error


cdef void copy_states(const Stream* source, Stream* target) noexcept nogil:
    """Copy the whole state to a stream of the same model and number of rows."""
    cdef Py_ssize_t index
    cdef const Stage* stage
    for index in range(source.plan.count):
        stage = &source.stages[index]
        if stage.kind == RECURRENT:
            set_state(target, &target.stages[index], stage.h + source.turn * stage.h_bytes, stage.c)
        elif stage.kind == ROWS:
            memcpy(target.stages[index].c, stage.c, source.rows * stage.op.state_bytes)


cdef int lstm_cy_stream_free(lstm_cy_stream* stream) noexcept nogil:
    cdef Stream* freed = <Stream*>stream
    cdef int error = acquire(freed)
    cdef Model* owner
    if error == LSTM_CY_OK:
        owner = <Model*>freed.owner
        free_stream(freed)
        release(owner)
    return error


cdef Py_ssize_t lstm_cy_stream_rows(const lstm_cy_stream* stream) noexcept nogil:
    return LSTM_CY_NULL if stream == NULL else (<const Stream*>stream).rows


cdef int lstm_cy_stream_reset(lstm_cy_stream* stream) noexcept nogil:
    cdef int error = acquire(<Stream*>stream)
    if error == LSTM_CY_OK:
        reset_rows(<Stream*>stream)
        unlock(&(<Stream*>stream).busy)
    return error


cdef int lstm_cy_stream_reset_row(lstm_cy_stream* stream, Py_ssize_t row) noexcept nogil:
    cdef int error
    if stream != NULL and not 0 <= row < (<Stream*>stream).rows:
        return LSTM_CY_SIZE
    error = acquire(<Stream*>stream)
    if error == LSTM_CY_OK:
        reset_row(<Stream*>stream, row)
        unlock(&(<Stream*>stream).busy)
    return error


cdef inline int acquire(Stream* stream) noexcept nogil:
    """Lock a stream; after LSTM_CY_OK the caller must unlock `busy`."""
    if stream == NULL:
        return LSTM_CY_NULL
    return LSTM_CY_OK if try_lock(&stream.busy) else LSTM_CY_BUSY


cdef int acquire_state(Stream* stream, Py_ssize_t lstm, const void* h, const void* c, Py_ssize_t itemsize,
                       const Stage** stage) noexcept nogil:
    """Check arguments for the state of an LSTM, in numbers of `itemsize` bytes, find its stage, and `acquire`."""
    if stream == NULL or h == NULL or c == NULL:
        return LSTM_CY_NULL
    if itemsize != stream.plan.itemsize:
        return LSTM_CY_DTYPE
    stage[0] = lstm_stage(stream.plan, stream.stages, lstm)
    return LSTM_CY_SIZE if stage[0] == NULL else acquire(stream)


cdef int read_state(lstm_cy_stream* handle, Py_ssize_t lstm, void* h, void* c, Py_ssize_t itemsize) noexcept nogil:
    cdef Stream* stream = <Stream*>handle
    cdef const Stage* stage
    cdef int error = acquire_state(stream, lstm, h, c, itemsize, &stage)
    if error == LSTM_CY_OK:
        get_state(stream, stage, h, c)
        unlock(&stream.busy)
    return error


cdef int write_state(lstm_cy_stream* handle, Py_ssize_t lstm, const void* h, const void* c,
                     Py_ssize_t itemsize) noexcept nogil:
    cdef Stream* stream = <Stream*>handle
    cdef const Stage* stage
    cdef int error = acquire_state(stream, lstm, h, c, itemsize, &stage)
    if error == LSTM_CY_OK:
        set_state(stream, stage, h, c)
        unlock(&stream.busy)
    return error


cdef int lstm_cy_stream_get_state_f32(lstm_cy_stream* stream, Py_ssize_t lstm, float* h, float* c) noexcept nogil:
    return read_state(stream, lstm, h, c, sizeof(float))


cdef int lstm_cy_stream_get_state_f64(lstm_cy_stream* stream, Py_ssize_t lstm, double* h, double* c) noexcept nogil:
    return read_state(stream, lstm, h, c, sizeof(double))


cdef int lstm_cy_stream_set_state_f32(lstm_cy_stream* stream, Py_ssize_t lstm, const float* h,
                                      const float* c) noexcept nogil:
    return write_state(stream, lstm, h, c, sizeof(float))


cdef int lstm_cy_stream_set_state_f64(lstm_cy_stream* stream, Py_ssize_t lstm, const double* h,
                                      const double* c) noexcept nogil:
    return write_state(stream, lstm, h, c, sizeof(double))


cdef Py_ssize_t lstm_cy_stream_state_bytes(const lstm_cy_stream* stream) noexcept nogil:
    return LSTM_CY_NULL if stream == NULL else block_bytes(<const Stream*>stream)


cdef int lstm_cy_stream_get_state(lstm_cy_stream* stream, void* state) noexcept nogil:
    cdef int error = acquire(<Stream*>stream) if state != NULL else LSTM_CY_NULL
    if error == LSTM_CY_OK:
        get_block(<Stream*>stream, <char*>state)
        unlock(&(<Stream*>stream).busy)
    return error


cdef int lstm_cy_stream_set_state(lstm_cy_stream* stream, const void* state) noexcept nogil:
    cdef int error = acquire(<Stream*>stream) if state != NULL else LSTM_CY_NULL
    if error == LSTM_CY_OK:
        set_block(<Stream*>stream, <const char*>state)
        unlock(&(<Stream*>stream).busy)
    return error


# Steps

cdef int run(lstm_cy_stream* handle, Py_ssize_t T, const void* x, bint tokens, void* y,
             Py_ssize_t itemsize) noexcept nogil:
    """Compute T steps from numbers or tokens to numbers of `itemsize` bytes."""
    cdef Stream* stream = <Stream*>handle
    cdef int error
    if stream == NULL or x == NULL or y == NULL:
        return LSTM_CY_NULL
    if itemsize != stream.plan.itemsize:
        return LSTM_CY_DTYPE
    if tokens != stream.plan.takes_tokens:
        return LSTM_CY_INPUT
    if T < 0:
        return LSTM_CY_SIZE
    if tokens and not all_fit(stream.plan, T * stream.rows, <const Py_ssize_t*>x):
        return LSTM_CY_TOKEN
    error = acquire(stream)
    if error == LSTM_CY_OK:
        if not advance(stream, T, x, y):
            error = LSTM_CY_TOKEN
        unlock(&stream.busy)
    return error


cdef bint all_fit(const Plan* plan, Py_ssize_t count, const Py_ssize_t* tokens) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        if not token_fits(plan, tokens[k]):
            return False
    return True


cdef int lstm_cy_step_f32(lstm_cy_stream* stream, const float* x, float* y) noexcept nogil:
    return run(stream, 1, x, False, y, sizeof(float))


cdef int lstm_cy_step_f64(lstm_cy_stream* stream, const double* x, double* y) noexcept nogil:
    return run(stream, 1, x, False, y, sizeof(double))


cdef int lstm_cy_run_f32(lstm_cy_stream* stream, Py_ssize_t T, const float* x, float* y) noexcept nogil:
    return run(stream, T, x, False, y, sizeof(float))


cdef int lstm_cy_run_f64(lstm_cy_stream* stream, Py_ssize_t T, const double* x, double* y) noexcept nogil:
    return run(stream, T, x, False, y, sizeof(double))


cdef int lstm_cy_step_tokens_f32(lstm_cy_stream* stream, const Py_ssize_t* tokens, float* y) noexcept nogil:
    return run(stream, 1, tokens, True, y, sizeof(float))


cdef int lstm_cy_step_tokens_f64(lstm_cy_stream* stream, const Py_ssize_t* tokens, double* y) noexcept nogil:
    return run(stream, 1, tokens, True, y, sizeof(double))


cdef int lstm_cy_run_tokens_f32(lstm_cy_stream* stream, Py_ssize_t T, const Py_ssize_t* tokens,
                                float* y) noexcept nogil:
    return run(stream, T, tokens, True, y, sizeof(float))


cdef int lstm_cy_run_tokens_f64(lstm_cy_stream* stream, Py_ssize_t T, const Py_ssize_t* tokens,
                                double* y) noexcept nogil:
    return run(stream, T, tokens, True, y, sizeof(double))


# The table for C and C++, in include/lstm_cy.h

cdef lstm_cy_functions table

table.size = sizeof(lstm_cy_functions)
table.message = lstm_cy_message
table.model_open = lstm_cy_model_open
table.model_close = lstm_cy_model_close
table.model_inputs = lstm_cy_model_inputs
table.model_tokens = lstm_cy_model_tokens
table.model_outputs = lstm_cy_model_outputs
table.model_itemsize = lstm_cy_model_itemsize
table.model_lstms = lstm_cy_model_lstms
table.model_layers = lstm_cy_model_layers
table.model_hidden = lstm_cy_model_hidden
table.model_state_size = lstm_cy_model_state_size
table.model_realtime = lstm_cy_model_realtime
table.stream_create = lstm_cy_stream_create
table.stream_clone = lstm_cy_stream_clone
table.stream_free = lstm_cy_stream_free
table.stream_rows = lstm_cy_stream_rows
table.stream_reset = lstm_cy_stream_reset
table.stream_reset_row = lstm_cy_stream_reset_row
table.stream_get_state_f32 = lstm_cy_stream_get_state_f32
table.stream_get_state_f64 = lstm_cy_stream_get_state_f64
table.stream_set_state_f32 = lstm_cy_stream_set_state_f32
table.stream_set_state_f64 = lstm_cy_stream_set_state_f64
table.step_f32 = lstm_cy_step_f32
table.step_f64 = lstm_cy_step_f64
table.run_f32 = lstm_cy_run_f32
table.run_f64 = lstm_cy_run_f64
table.step_tokens_f32 = lstm_cy_step_tokens_f32
table.step_tokens_f64 = lstm_cy_step_tokens_f64
table.run_tokens_f32 = lstm_cy_run_tokens_f32
table.run_tokens_f64 = lstm_cy_run_tokens_f64
table.stream_state_bytes = lstm_cy_stream_state_bytes
table.stream_get_state = lstm_cy_stream_get_state
table.stream_set_state = lstm_cy_stream_set_state
functions = PyCapsule_New(&table, "lstm_cy.embed.functions", NULL)
