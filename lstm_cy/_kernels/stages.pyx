"""A model one step at a time, on raw pointers: the common part of Stepper, StreamPool and the C API.

Streams use no Python objects and take no lock. They allocate only when they are made.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from .affine cimport Affine, apply
from .forward cimport step
from .network cimport Direction, Network, address, set_initial, step_width

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
from .table cimport CACHE_LINE, real


cdef class Skip:
    """The part of a Chain that adds the input of an earlier part to the output of the one before.

    Parameters
    ----------
    stages : int
        The number of parts before this one over which the input skips.
    inputs, outputs : int
        Numbers of a row of that input, and of the output; the input's first `outputs` numbers are added.
    """

    def __cinit__(self, Py_ssize_t stages, Py_ssize_t inputs, Py_ssize_t outputs):
        if stages < 1 or not 1 <= outputs <= inputs:
            raise ValueError("Skip: expected at least one stage, and at most as many outputs as inputs")
        self.stages, self.inputs, self.outputs = stages, inputs, outputs


cdef class Chain:
    """The computations of a model's layers for one step, one after the other; immutable.

    Parameters
    ----------
    kernels : capsule
        The table of an instruction set.
    itemsize : int
        Bytes of an element: 4 (float32) or 8 (float64), for all parts.
    parts : list of Network, Affine, Skip, or C-contiguous array (tokens, outputs)
        The input of each part is the output of the one before. An array of vectors, whose input is tokens, can only be
        the first. Networks must run forwards. The parts are kept, not copied.
    """

    def __cinit__(self, kernels, Py_ssize_t itemsize, list parts):
        cdef Py_ssize_t index
        if not parts or itemsize not in (4, 8):
            raise ValueError("Chain: expected at least one part, and 4 or 8 bytes of an element")
        self.parts = parts
        self.plan.kernels = <const Kernels*>PyCapsule_GetPointer(kernels, "lstm_cy.kernels")
        self.plan.itemsize = itemsize
        self.plan.count = len(parts)
        self.plan.stages = <Stage*>PyMem_Calloc(len(parts), sizeof(Stage))
        if self.plan.stages == NULL:
            raise MemoryError
        for index, part in enumerate(parts):
            self.plan.stages[index] = stage_of(part)
            self.plan.stages[index].first += index
        self.plan.takes_tokens = self.plan.stages[0].kind == LOOKUP
        self.plan.outputs = self.plan.stages[self.plan.count - 1].outputs
        self.plan.row_bytes = memory_of(&self.plan, 1)

    def __dealloc__(self):
        PyMem_Free(self.plan.stages)

    @property
    def multiply_adds(self):
        """The multiply-adds of a row's step."""
        cdef double total = 0
        cdef Py_ssize_t index, layer
        cdef const Stage* stage
        cdef const Direction* direction
        for index in range(self.plan.count):
            stage = &self.plan.stages[index]
            if stage.kind == HEAD:
                total += <double>stage.inputs * stage.outputs
            elif stage.kind == RECURRENT:
                for layer in range(stage.net.num_layers):
                    direction = &stage.net.directions[layer]
                    total += <double>direction.ih.outputs * (direction.ih.inputs + direction.hh.inputs)
                    total += <double>direction.hr.outputs * direction.hr.inputs
        return total


cdef Stage stage_of(object part) except *:
    """Return the Stage of a Chain's part, without memory."""
    cdef Stage stage
    memset(&stage, 0, sizeof(Stage))
    if isinstance(part, Network):
        stage.kind = RECURRENT
        stage.net = &(<Network>part).net
        stage.inputs, stage.outputs = stage.net.directions[0].ih.inputs, stage.net.output_size
    elif isinstance(part, Affine):
        stage.kind = HEAD
        stage.map = &(<Affine>part).map
        stage.inputs, stage.outputs = stage.map.weight.inputs, stage.map.weight.outputs
    elif isinstance(part, Skip):
        stage.kind = SKIP
        stage.first = -(<Skip>part).stages
        stage.inputs, stage.outputs = (<Skip>part).inputs, (<Skip>part).outputs
    else:
        stage.kind = LOOKUP
        stage.vectors = <const char*>address(part)
        stage.inputs, stage.outputs = part.shape
    return stage


cdef inline Py_ssize_t in_lines(Py_ssize_t bytes) noexcept nogil:
    return (bytes + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE


cdef Py_ssize_t lay_out(Stage* stage, Py_ssize_t rows, Py_ssize_t itemsize, char* memory) noexcept nogil:
    """Set a stage's pointers to its part of `memory`, for so many rows; return its size. With NULL only the size."""
    cdef Py_ssize_t c_bytes = 0, row_space = stage.outputs
    if stage.kind == RECURRENT:
        stage.h_bytes = stage.net.num_layers * rows * stage.outputs * itemsize
        c_bytes = in_lines(stage.net.num_layers * rows * stage.net.hidden_size * itemsize)
        row_space = step_width(stage.net)
    if memory != NULL:
        stage.h = memory
        stage.c = stage.h + in_lines(2 * stage.h_bytes)
        stage.space = stage.c + c_bytes
    return in_lines(2 * stage.h_bytes) + c_bytes + in_lines(rows * row_space * itemsize)


cdef Py_ssize_t memory_of(const Plan* plan, Py_ssize_t rows) noexcept nogil:
    """Return the number of bytes that all stages need for so many rows."""
    cdef Py_ssize_t total = 0, index
    cdef Stage stage
    for index in range(plan.count):
        stage = plan.stages[index]
        total += lay_out(&stage, rows, plan.itemsize, NULL)
    return total


cdef Stream* new_stream(const Plan* plan, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t head = sizeof(Stream) + plan.count * sizeof(Stage), bytes, index
    cdef Stream* stream
    cdef char* memory
    # rounding up adds more bytes to a single row than to each of many rows
    if rows > PY_SSIZE_T_MAX // 2 // (plan.row_bytes + <Py_ssize_t>sizeof(Py_ssize_t)):
        return NULL
    head += rows * sizeof(Py_ssize_t) if plan.takes_tokens else 0
    bytes = memory_of(plan, rows)
    stream = <Stream*>malloc(head + bytes + CACHE_LINE)
    if stream == NULL:
        return NULL
    stream.plan = plan
    stream.rows = rows
    stream.x_bytes = rows * (sizeof(Py_ssize_t) if plan.takes_tokens else plan.stages[0].inputs * plan.itemsize)
    stream.y_bytes = rows * plan.outputs * plan.itemsize
    stream.busy = 0
    stream.owner = NULL
    stream.turn = 0
    stream.stages = <Stage*>(stream + 1)
    stream.tokens = <Py_ssize_t*>(stream.stages + plan.count)
    memory = <char*>((<size_t>stream + head + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1))
    memset(memory, 0, bytes)  # this also touches every page, so that the first step need not
    for index in range(plan.count):
        stream.stages[index] = plan.stages[index]
        memory += lay_out(&stream.stages[index], rows, plan.itemsize, memory)
    reset_rows(stream)
    return stream


cdef void free_stream(Stream* stream) noexcept nogil:
    free(stream)


cdef bint advance(Stream* stream, Py_ssize_t steps, const void* x, void* y) noexcept nogil:
    cdef const Plan* plan = stream.plan
    cdef unsigned int denormals = plan.kernels.flush_denormals()
    cdef const char* source = <const char*>x
    cdef char* target = <char*>y
    cdef const void* result = NULL
    while steps > 0:
        result = run(stream, source)
        if result == NULL:
            break
        memcpy(target, result, stream.y_bytes)  # only now, so that y may be x
        source += stream.x_bytes
        target += stream.y_bytes
        steps -= 1
    plan.kernels.restore_denormals(denormals)
    return steps <= 0


cdef inline const void* run(Stream* stream, const void* x) noexcept nogil:
    """Compute all stages; return the last one's result, in its own memory, or NULL if a token is out of range."""
    cdef Stage* stage = stream.stages
    cdef Py_ssize_t left = stream.plan.count
    if stage.kind == LOOKUP:
        x = look_up(stream, stage, <const Py_ssize_t*>x)
        if x == NULL:
            return NULL
        stage += 1
        left -= 1
    while left > 0:
        stage.x = x
        if stage.kind == RECURRENT:
            x = recur(stream, stage, x)
        elif stage.kind == HEAD:
            apply(stage.map, stream.rows, x, stage.space)
            x = stage.space
        else:
            add_input(stream.rows, stage.inputs, stage.outputs, stream.plan.itemsize, stream.stages[stage.first].x, x,
                      stage.space)
            x = stage.space
        stage += 1
        left -= 1
    stream.turn = 1 - stream.turn
    return x


cdef inline const void* recur(const Stream* stream, const Stage* stage, const void* x) noexcept nogil:
    cdef char* next_h = stage.h + (1 - stream.turn) * stage.h_bytes
    step(stage.net, stream.rows, stream.turn, x, stage.h + stream.turn * stage.h_bytes, next_h, stage.c, stage.space)
    return next_h + stage.h_bytes - stream.rows * stage.outputs * stream.plan.itemsize


cdef void add_input(Py_ssize_t rows, Py_ssize_t inputs, Py_ssize_t outputs, Py_ssize_t itemsize, const void* x,
                    const void* y, void* out) noexcept nogil:
    """Compute out (rows, outputs) = y + the first numbers of each row of x (rows, inputs)."""
    if itemsize == 4:
        add_numbers[float](rows, inputs, outputs, <const float*>x, <const float*>y, <float*>out)
    else:
        add_numbers[double](rows, inputs, outputs, <const double*>x, <const double*>y, <double*>out)


cdef void add_numbers(Py_ssize_t rows, Py_ssize_t inputs, Py_ssize_t outputs, const real* x, const real* y,
                      real* out) noexcept nogil:
    cdef Py_ssize_t row, k
    for row in range(rows):
        for k in range(outputs):
            out[row * outputs + k] = y[row * outputs + k] + x[row * inputs + k]


def skip(kernels, x, y, out):
    """Compute out = y + the first numbers of each row of x, as a Skip does; all are C-contiguous, of one dtype.

    x is (..., inputs), y and out are (..., outputs); `kernels` is the table of an instruction set.
    """
    cdef const Kernels* table = <const Kernels*>PyCapsule_GetPointer(kernels, "lstm_cy.kernels")
    cdef Py_ssize_t axis = y.ndim - 1, inputs = x.shape[axis], outputs = y.shape[axis], itemsize = y.itemsize
    cdef Py_ssize_t rows = y.size // max(outputs, 1)
    cdef const void* source = address(x)
    cdef const void* result = address(y)
    cdef void* target = address(out)
    cdef unsigned int denormals
    with nogil:
        denormals = table.flush_denormals()
        add_input(rows, inputs, outputs, itemsize, source, result, target)
        table.restore_denormals(denormals)


cdef const void* look_up(Stream* stream, const Stage* stage, const Py_ssize_t* tokens) noexcept nogil:
    """Look up the vectors of tokens; the tokens are copied first, since the caller's may change after the check."""
    cdef Py_ssize_t bytes = stage.outputs * stream.plan.itemsize, row
    cdef bint right = True
    for row in range(stream.rows):
        stream.tokens[row] = tokens[row]
        right = right and token_fits(stream.plan, stream.tokens[row])
    if not right:
        return NULL
    for row in range(stream.rows):
        memcpy(stage.space + row * bytes, stage.vectors + stream.tokens[row] * bytes, bytes)
    return stage.space


cdef Stage* lstm_stage(const Plan* plan, Stage* stages, Py_ssize_t number) noexcept nogil:
    cdef Py_ssize_t index
    for index in range(plan.count):
        if stages[index].kind == RECURRENT:
            if number == 0:
                return &stages[index]
            number -= 1
    return NULL


cdef void get_state(const Stream* stream, const Stage* stage, void* h, void* c) noexcept nogil:
    memcpy(h, stage.h + stream.turn * stage.h_bytes, stage.h_bytes)
    memcpy(c, stage.c, cell_bytes(stream, stage))


cdef void set_state(Stream* stream, const Stage* stage, const void* h, const void* c) noexcept nogil:
    memcpy(stage.h + stream.turn * stage.h_bytes, h, stage.h_bytes)
    memcpy(stage.c, c, cell_bytes(stream, stage))


cdef void reset_rows(Stream* stream) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(stream.rows):
        reset_row(stream, row)


cdef void reset_row(Stream* stream, Py_ssize_t row) noexcept nogil:
    cdef Py_ssize_t index, layer, offset, h_row, c_row
    cdef Stage* stage
    cdef const Direction* direction
    for index in range(stream.plan.count):
        stage = &stream.stages[index]
        if stage.kind == RECURRENT:
            h_row = stage.outputs * stream.plan.itemsize
            c_row = stage.net.hidden_size * stream.plan.itemsize
            for layer in range(stage.net.num_layers):
                offset = layer * stream.rows + row
                direction = &stage.net.directions[layer]
                set_initial(h_row, direction.initial_h, stage.h + stream.turn * stage.h_bytes + offset * h_row)
                set_initial(c_row, direction.initial_c, stage.c + offset * c_row)
