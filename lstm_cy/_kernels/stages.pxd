"""A model one step at a time, on raw pointers: what a Stepper and the C API have in common.

A model is a chain of stages, one for each layer that does something. A Stream is some rows that go down the chain
together: it has the memory for their state and for each stage's result.
"""

from .affine cimport Map
from .network cimport Net
from .table cimport Kernels

cdef enum:
    # A step of this many multiply-adds takes some 20 microseconds: it lets other threads of Python run meanwhile.
    LONG = 600000


ctypedef enum StageKind:
    RECURRENT, HEAD, LOOKUP


ctypedef struct Stage:
    # What one layer does to a step, in the layer's dtype; in a Stream with the memory for its result.
    StageKind kind
    Py_ssize_t inputs, outputs  # of a row; the inputs of a LOOKUP are the number of tokens
    const Net* net              # of an LSTM, all of whose directions run forwards; else NULL
    const Map* map              # of a Linear
    const char* vectors         # of an Embedding, (inputs, outputs)
    char* h                     # of an LSTM, (2, L, B, P): of the last step and of the one before, in turns
    char* c                     # of an LSTM, (L, B, H)
    char* space                 # what an LSTM's step needs beside; the result of another stage, (B, outputs)
    Py_ssize_t h_bytes          # of one h, (L, B, P)


ctypedef struct Plan:
    # a Chain's content, for threads that know nothing of Python
    const Kernels* kernels
    Py_ssize_t itemsize, outputs, count
    bint takes_tokens
    Py_ssize_t row_bytes  # the memory that the stages need for a lone row
    Stage* stages         # `count`, without memory


ctypedef struct Stream:
    const Plan* plan
    Py_ssize_t rows
    Py_ssize_t x_bytes, y_bytes  # of a step's x and y
    long busy                    # to be taken by whoever works on it
    void* owner                  # for whoever made it
    int turn                     # which h is the last one; every other step reads the weights from their end
    Py_ssize_t* tokens           # (B,), of the last step; room for them only where the first stage takes tokens
    Stage* stages


cdef class Chain:
    cdef Plan plan
    cdef list parts


# A Stream of `rows` rows, its state zero; NULL if there is no memory. The Chain must live as long.
cdef Stream* new_stream(const Plan* plan, Py_ssize_t rows) noexcept nogil
cdef void free_stream(Stream* stream) noexcept nogil

# Take `steps` steps from x (steps, B, inputs), or tokens (steps, B), to y (steps, B, outputs); y may be x where they
# are of one size. False if a token is out of range: nothing is done from its step on, whose tokens the Stream keeps.
cdef bint advance(Stream* stream, Py_ssize_t steps, const void* x, void* y) noexcept nogil

# The stage of the LSTM with this number, counted from 0, or NULL.
cdef Stage* lstm_stage(const Plan* plan, Stage* stages, Py_ssize_t number) noexcept nogil

# Copy a stage's state, h (L, B, P) and c (L, B, H), out and in.
cdef void get_state(const Stream* stream, const Stage* stage, void* h, void* c) noexcept nogil
cdef void set_state(Stream* stream, const Stage* stage, const void* h, const void* c) noexcept nogil

# Set the state of all rows, or of one, to zero.
cdef void reset_rows(Stream* stream) noexcept nogil
cdef void reset_row(Stream* stream, Py_ssize_t row) noexcept nogil


cdef inline bint token_fits(const Plan* plan, Py_ssize_t token) noexcept nogil:
    return 0 <= token < plan.stages[0].inputs


cdef inline bint uses_blas(const Plan* plan) noexcept nogil:
    """Whether any product is BLAS's, which takes locks and has threads of its own."""
    cdef Py_ssize_t index
    cdef const Stage* stage
    for index in range(plan.count):
        stage = &plan.stages[index]
        if stage.kind == RECURRENT and stage.net.engine.blas != NULL:
            return True
        if stage.kind == HEAD and stage.map.engine.blas != NULL:
            return True
    return False


cdef inline Py_ssize_t cell_bytes(const Stream* stream, const Stage* stage) noexcept nogil:
    """The bytes of an LSTM's c."""
    return stage.net.num_layers * stream.rows * stage.net.hidden_size * stream.plan.itemsize
