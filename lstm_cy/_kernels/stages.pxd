"""A model one step at a time, on raw pointers: the common part of Stepper, StreamPool and the C API.

A model is a chain of stages, one for each layer that computes something. A Stream is some rows that step together: it
has the memory for their state and for each stage's result.
"""

from .affine cimport Map
from .network cimport Net
from .rowwise cimport RowOp
from .table cimport Kernels

cdef enum:
    # A step of this many multiply-adds takes some 20 microseconds: the GIL is released for it.
    LONG = 600000


ctypedef enum StageKind:
    RECURRENT, HEAD, LOOKUP, SKIP, ROWS


ctypedef struct Stage:
    # One layer's computation of a step, in the layer's dtype; in a Stream with the memory for its result.
    StageKind kind
    Py_ssize_t inputs, outputs  # of a row; the inputs of a LOOKUP are the number of tokens
    const Net* net              # of an LSTM whose directions all run forwards; else NULL
    const Map* map              # of a Linear
    const char* vectors         # of an Embedding, (inputs, outputs)
    bint masks                  # of a LOOKUP: whether token 0 is padding
    const RowOp* op             # of ROWS
    Py_ssize_t first            # of a SKIP: the index of the stage whose input is added to the output
    const void* x               # the input of this step
    char* h                     # of an LSTM, (2, L, B, P): of the last step and of the one before, alternately
    char* c                     # of an LSTM, (L, B, H); of ROWS the state, (B, state_bytes)
    char* space                 # scratch memory of an LSTM's step; the result of another stage, (B, outputs)
    char* kept                  # of an LSTM after flags: c of before, (L, B, H), and the result, (B, outputs)
    Py_ssize_t h_bytes          # of one h, (L, B, P)


ctypedef struct Plan:
    # a Chain's content, for code without the GIL
    const Kernels* kernels
    Py_ssize_t itemsize, outputs, count
    bint takes_tokens
    bint has_flags        # whether a stage uses the rows' flags (rowwise.pxd)
    Py_ssize_t row_bytes  # the memory that the stages need for a single row
    Stage* stages         # `count`, without memory


ctypedef struct Stream:
    const Plan* plan
    Py_ssize_t rows
    Py_ssize_t x_bytes, y_bytes  # of a step's x and y
    long busy                    # a lock (atomics.pxd): whether a thread is using it
    void* owner                  # free for use by its creator
    int turn                     # index of the last h; at every other step the weights are read from their end
    Py_ssize_t* tokens           # (B,), of the last step; allocated only if the first stage takes tokens
    unsigned char* flags         # (B,), of the last step
    unsigned int denormals       # for restore_denormals: the caller's mode
    Stage* stages


cdef class Skip:
    cdef readonly Py_ssize_t stages, inputs, outputs


cdef class Chain:
    cdef Plan plan
    cdef list parts


# Make a Stream of `rows` rows, its state the initial one; NULL if there is no memory. The Chain must exist as long.
cdef Stream* new_stream(const Plan* plan, Py_ssize_t rows) noexcept nogil
cdef void free_stream(Stream* stream) noexcept nogil

# Compute `steps` steps from x (steps, B, inputs), or tokens (steps, B), to y (steps, B, outputs); y may be x if their
# sizes are equal. False if a token is out of range: its step and later ones are not computed, and the Stream keeps its
# tokens.
cdef bint advance(Stream* stream, Py_ssize_t steps, const void* x, void* y) noexcept nogil

# Return the stage of the LSTM with this number, counted from 0, or NULL.
cdef Stage* lstm_stage(const Plan* plan, Stage* stages, Py_ssize_t number) noexcept nogil

# Copy a stage's state, h (L, B, P) and c (L, B, H), out and in.
cdef void get_state(const Stream* stream, const Stage* stage, void* h, void* c) noexcept nogil
cdef void set_state(Stream* stream, const Stage* stage, const void* h, const void* c) noexcept nogil

# The whole state of all rows as one block: its size, and copies out and in.
cdef Py_ssize_t block_bytes(const Stream* stream) noexcept nogil
cdef void get_block(const Stream* stream, char* block) noexcept nogil
cdef void set_block(Stream* stream, const char* block) noexcept nogil

# Set the state of all rows, or of one, to the initial one: zeros unless the layer learns it.
cdef void reset_rows(Stream* stream) noexcept nogil
cdef void reset_row(Stream* stream, Py_ssize_t row) noexcept nogil


cdef inline bint token_fits(const Plan* plan, Py_ssize_t token) noexcept nogil:
    return 0 <= token < plan.stages[0].inputs


cdef inline bint uses_blas(const Plan* plan) noexcept nogil:
    """Return whether any product is computed by BLAS, which takes locks and has threads of its own."""
    cdef Py_ssize_t index
    cdef const Stage* stage
    for index in range(plan.count):
        stage = &plan.stages[index]
        if stage.kind == RECURRENT and stage.net.engine.blas != NULL:
            return True
        if stage.kind == HEAD and stage.map.engine.blas != NULL:
            return True
        if stage.kind == ROWS and stage.op.groups > 0 and stage.op.maps[0].engine.blas != NULL:
            return True
    return False


cdef inline Py_ssize_t cell_bytes(const Stream* stream, const Stage* stage) noexcept nogil:
    """Return the number of bytes of an LSTM's c."""
    return stage.net.num_layers * stream.rows * stage.net.hidden_size * stream.plan.itemsize
