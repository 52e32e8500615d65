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
from .rowwise cimport (
    ABSENT_MASKED, CONVOLUTION, MASKED, MASKS, PRESENT, RowPart, fill_empty, row_begin, row_step,
)

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
    parts : list of Network, Affine, Skip, RowPart, or C-contiguous array (tokens, outputs)
        The input of each part is the output of the one before. An array of vectors, whose input is tokens, can only be
        the first. Networks must run forwards. The parts are kept, not copied.
    masks : bool
        Whether token 0 is padding.
    """

    def __cinit__(self, kernels, Py_ssize_t itemsize, list parts, bint masks=False):
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
            if isinstance(part, RowPart):
                (<RowPart>part).prepare(itemsize)
            self.plan.stages[index] = stage_of(part)
            self.plan.stages[index].first += index
            self.plan.has_flags = self.plan.has_flags or uses_flags(&self.plan.stages[index])
        self.plan.takes_tokens = self.plan.stages[0].kind == LOOKUP
        self.plan.stages[0].masks = masks
        self.plan.has_flags = self.plan.has_flags or masks
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
            elif stage.kind == ROWS and stage.op.kind == CONVOLUTION:
                total += <double>stage.inputs * stage.outputs * stage.op.size / stage.op.groups
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
    elif isinstance(part, RowPart):
        stage.kind = ROWS
        stage.op = &(<RowPart>part).op
        stage.inputs, stage.outputs = stage.op.inputs, stage.op.outputs
    elif isinstance(part, Skip):
        stage.kind = SKIP
        stage.first = -(<Skip>part).stages
        stage.inputs, stage.outputs = (<Skip>part).inputs, (<Skip>part).outputs
    else:
        stage.kind = LOOKUP
        stage.vectors = <const char*>address(part)
        stage.inputs, stage.outputs = part.shape
    return stage


cdef inline bint uses_flags(const Stage* stage) noexcept nogil:
    """Return whether a stage sets or reads the rows' flags."""
    return stage.kind == ROWS and stage.op.kind >= MASKS


cdef inline Py_ssize_t in_lines(Py_ssize_t bytes) noexcept nogil:
    return (bytes + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE


cdef Py_ssize_t lay_out(const Plan* plan, Stage* stage, Py_ssize_t rows, char* memory) noexcept nogil:
    """Set a stage's pointers to its part of `memory`, for so many rows; return its size. With NULL only the size."""
    cdef Py_ssize_t c_bytes = 0, kept_bytes = 0, row_space = stage.outputs, itemsize = plan.itemsize
    if stage.kind == RECURRENT:
        stage.h_bytes = stage.net.num_layers * rows * stage.outputs * itemsize
        c_bytes = in_lines(stage.net.num_layers * rows * stage.net.hidden_size * itemsize)
        row_space = step_width(stage.net)
        if plan.has_flags:
            kept_bytes = c_bytes + in_lines(rows * stage.outputs * itemsize)
    elif stage.kind == ROWS:
        c_bytes = in_lines(rows * stage.op.state_bytes)
        row_space = stage.op.space
    if memory != NULL:
        stage.h = memory
        stage.c = stage.h + in_lines(2 * stage.h_bytes)
        stage.kept = stage.c + c_bytes
        stage.space = stage.kept + kept_bytes
    return in_lines(2 * stage.h_bytes) + c_bytes + kept_bytes + in_lines(rows * row_space * itemsize)


cdef Py_ssize_t memory_of(const Plan* plan, Py_ssize_t rows) noexcept nogil:
    """Return the number of bytes that all stages need for so many rows."""
    cdef Py_ssize_t total = 0, index
    cdef Stage stage
    for index in range(plan.count):
        stage = plan.stages[index]
        total += lay_out(plan, &stage, rows, NULL)
    return total


cdef Stream* new_stream(const Plan* plan, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t head = sizeof(Stream) + plan.count * sizeof(Stage), bytes, index
    cdef Stream* stream
    cdef char* memory
    # rounding up adds more bytes to a single row than to each of many rows
    if rows > PY_SSIZE_T_MAX // 2 // (plan.row_bytes + <Py_ssize_t>sizeof(Py_ssize_t) + 1):
        return NULL
    head += rows * sizeof(Py_ssize_t) if plan.takes_tokens else 0
    head += rows if plan.has_flags else 0
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
    stream.flags = <unsigned char*>(stream.tokens + (rows if plan.takes_tokens else 0))
    memory = <char*>((<size_t>stream + head + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1))
    memset(memory, 0, bytes)  # this also touches every page, so that the first step need not
    for index in range(plan.count):
        stream.stages[index] = plan.stages[index]
        memory += lay_out(plan, &stream.stages[index], rows, memory)
    reset_rows(stream)
    return stream


cdef void free_stream(Stream* stream) noexcept nogil:
    free(stream)


cdef bint advance(Stream* stream, Py_ssize_t steps, const void* x, void* y) noexcept nogil:
    cdef const Plan* plan = stream.plan
    cdef const char* source = <const char*>x
    cdef char* target = <char*>y
    cdef const void* result = NULL
    stream.denormals = plan.kernels.flush_denormals()
    while steps > 0:
        result = run(stream, source)
        if result == NULL:
            break
        memcpy(target, result, stream.y_bytes)  # only now, so that y may be x
        if plan.has_flags:
            fill_empty(stream.rows, plan.outputs, plan.itemsize, stream.flags, target)
        source += stream.x_bytes
        target += stream.y_bytes
        steps -= 1
    plan.kernels.restore_denormals(stream.denormals)
    return steps <= 0


cdef inline const void* run(Stream* stream, const void* x) noexcept nogil:
    """Compute all stages; return the last one's result, in its own memory, or NULL if a token is out of range."""
    cdef Stage* stage = stream.stages
    cdef Py_ssize_t left = stream.plan.count
    if stream.plan.has_flags:
        memset(stream.flags, PRESENT, stream.rows)
    if stage.kind == LOOKUP:
        x = look_up(stream, stage, <const Py_ssize_t*>x)
        if x == NULL:
            return NULL
        stage += 1
        left -= 1
    while left > 0:
        stage.x = x
        if stage.kind == RECURRENT:
            x = recur_flagged(stream, stage, x) if stream.plan.has_flags else recur(stream, stage, x)
        elif stage.kind == HEAD:
            apply(stage.map, stream.rows, x, stage.space)
            x = stage.space
        elif stage.kind == ROWS:
            step_rows(stream, stage, x)
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


cdef inline void step_rows(const Stream* stream, const Stage* stage, const void* x) noexcept nogil:
    """Compute a step of a RowPart; with denormals, as NumPy does in calls of these layers, except in products."""
    cdef bint products = stage.op.kind == CONVOLUTION
    if not products:
        stream.plan.kernels.restore_denormals(stream.denormals)
    row_step(stream.plan.kernels, stage.op, stream.rows, x, stage.c, stream.flags, stage.space)
    if not products:
        stream.plan.kernels.flush_denormals()


cdef const void* recur_flagged(const Stream* stream, const Stage* stage, const void* x) noexcept nogil:
    """Compute a step of the rows that have one; the others keep their state. The result of a masked step is zero."""
    cdef Py_ssize_t row, layer, steps = 0, rows = stream.rows, offset, row_bytes = stage.outputs * stream.plan.itemsize
    cdef Py_ssize_t c_row = stage.net.hidden_size * stream.plan.itemsize, layers = stage.net.num_layers
    cdef char* h = stage.h + stream.turn * stage.h_bytes
    cdef char* next_h = stage.h + (1 - stream.turn) * stage.h_bytes
    cdef char* result = stage.kept + in_lines(layers * rows * c_row)
    cdef const void* y = next_h + stage.h_bytes - rows * row_bytes
    for row in range(rows):
        steps += stream.flags[row] == PRESENT
    if steps == rows:
        return recur(stream, stage, x)
    if steps == 0:
        memcpy(next_h, h, stage.h_bytes)
    else:
        memcpy(stage.kept, stage.c, layers * rows * c_row)
        y = recur(stream, stage, x)
        for layer in range(layers):
            for row in range(rows):
                if stream.flags[row] != PRESENT:
                    offset = layer * rows + row
                    memcpy(next_h + offset * row_bytes, h + offset * row_bytes, row_bytes)
                    memcpy(stage.c + offset * c_row, stage.kept + offset * c_row, c_row)
    memcpy(result, y, rows * row_bytes)
    for row in range(rows):
        if stream.flags[row] == MASKED or stream.flags[row] == ABSENT_MASKED:
            memset(result + row * row_bytes, 0, row_bytes)
    return result


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
        if stage.masks and stream.tokens[row] == 0:
            stream.flags[row] = MASKED
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


cdef inline Py_ssize_t rows_bytes(const Stream* stream, const Stage* stage) noexcept nogil:
    """Return the number of bytes of the state of a stage that is no LSTM."""
    return stream.rows * stage.op.state_bytes if stage.kind == ROWS else 0


cdef Py_ssize_t block_bytes(const Stream* stream) noexcept nogil:
    cdef Py_ssize_t total = 0, index
    cdef const Stage* stage
    for index in range(stream.plan.count):
        stage = &stream.stages[index]
        if stage.kind == RECURRENT:
            total += stage.h_bytes + cell_bytes(stream, stage)
        else:
            total += rows_bytes(stream, stage)
    return total


cdef void get_block(const Stream* stream, char* block) noexcept nogil:
    cdef Py_ssize_t index
    cdef const Stage* stage
    for index in range(stream.plan.count):
        stage = &stream.stages[index]
        if stage.kind == RECURRENT:
            get_state(stream, stage, block, block + stage.h_bytes)
            block += stage.h_bytes + cell_bytes(stream, stage)
        elif stage.kind == ROWS:
            memcpy(block, stage.c, rows_bytes(stream, stage))
            block += rows_bytes(stream, stage)


cdef void set_block(Stream* stream, const char* block) noexcept nogil:
    cdef Py_ssize_t index
    cdef const Stage* stage
    for index in range(stream.plan.count):
        stage = &stream.stages[index]
        if stage.kind == RECURRENT:
            set_state(stream, stage, block, block + stage.h_bytes)
            block += stage.h_bytes + cell_bytes(stream, stage)
        elif stage.kind == ROWS:
            memcpy(stage.c, block, rows_bytes(stream, stage))
            block += rows_bytes(stream, stage)


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
        elif stage.kind == ROWS:
            row_begin(stage.op, stage.c + row * stage.op.state_bytes)
