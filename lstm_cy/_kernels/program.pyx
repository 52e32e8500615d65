"""A program: operations on arrays of float32 that run one after the other, in one call without the GIL.

A planned graph (lstm_cy/weights/plans) is made of programs and of steps in Python. A Program knows no addresses of its
working memory: it is bound to memory for each thread that runs it.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, fabsf, sqrtf
from libc.string cimport memcpy

from .elements cimport softmax_of
from .forward cimport infer
from .network cimport DONE, Net, Network, Status, address, check, poll_interrupt
from .rowwise cimport normalize_rows
from .runtime.memory cimport Buffer
from .runtime.threads cimport close_job, fetch_add, load_acquire, note_call, open_job, store_release, worth_sharing
from .table cimport (
    ELEMENT_EXP, ELEMENT_SIGMOID, ELEMENT_SOFTPLUS, ELEMENT_TANH, Kernels, Product, add_products, elementwise, pack,
    packed_columns,
)

cdef enum:
    MOST_AXES = 6
    MOST_OPERANDS = 4
    NUMBERS = 14
    # Parts of a product, and the factors of the parts that one tile adds: their panel stays in the L2 cache.
    MOST_PARTS = 64
    GROUP_FACTORS = 1536
    # Extreme values that are found at the same time
    LANES = 16
    # Parts of a pooling for each thread that shares it
    POOL_PARTS = 4
    # Rows that one thread computes at least, where several share a product
    LEAST_PART_ROWS = 12

ctypedef enum Kind:
    COPY, UNARY, BINARY, PRODUCT, POOL, RECUR, REDUCE, SOFTMAX, NORMALIZE, DEPTHWISE, QUANTIZE, ROUND

ctypedef enum Unary:
    LINEAR, RELU, SIGMOID, TANH, EXP, SOFTPLUS, SQRT, SQUARE, ABS, NEGATE, RECIPROCAL, CLIP, LEAKY, HARD_SIGMOID

ctypedef enum Binary:
    ADD, SUBTRACT, MULTIPLY, DIVIDE, MAXIMUM, MINIMUM

ctypedef enum Reduction:
    SUM, LARGEST, SMALLEST

#: the numbers of the kinds of operations and of their functions
KINDS = {
    "copy": COPY, "unary": UNARY, "binary": BINARY, "product": PRODUCT, "pool": POOL, "recur": RECUR, "reduce": REDUCE,
    "softmax": SOFTMAX, "normalize": NORMALIZE, "depthwise": DEPTHWISE, "quantize": QUANTIZE,
    "round": ROUND,
}
UNARY_FUNCTIONS = {
    "linear": LINEAR, "relu": RELU, "sigmoid": SIGMOID, "tanh": TANH, "exp": EXP, "softplus": SOFTPLUS, "sqrt": SQRT,
    "square": SQUARE, "abs": ABS, "negate": NEGATE, "reciprocal": RECIPROCAL, "clip": CLIP, "leaky": LEAKY,
    "hard_sigmoid": HARD_SIGMOID,
}
BINARY_FUNCTIONS = {
    "add": ADD, "subtract": SUBTRACT, "multiply": MULTIPLY, "divide": DIVIDE, "maximum": MAXIMUM, "minimum": MINIMUM,
}
REDUCTIONS = {"sum": SUM, "largest": LARGEST, "smallest": SMALLEST}
#: the limits of what an operation can express
LIMITS = {"axes": MOST_AXES, "parts": MOST_PARTS, "factors": GROUP_FACTORS}

ctypedef char* Address
ctypedef float* Numbers

ctypedef struct Operation:
    # operands: the result first
    int kind, function, axes, operands
    Py_ssize_t[MOST_AXES] shape
    Py_ssize_t[MOST_OPERANDS][MOST_AXES] strides  # in elements
    Address[MOST_OPERANDS] at
    double alpha, beta
    Py_ssize_t[NUMBERS] numbers
    const void* content

ctypedef struct Packed:
    # the content of a Panels
    Py_ssize_t count, columns
    Product[MOST_PARTS] products
    Py_ssize_t[MOST_PARTS] offsets  # set for each operation

ctypedef struct Job:
    # a product or pooling, cut in blocks of rows that threads take one after the other
    const Operation* operation
    const Kernels* kernels
    Py_ssize_t blocks, parts, next, status


cdef class Panels:
    """A matrix (K, N), cut along K in parts, and packed for products.

    Parameters
    ----------
    kernels : capsule
    parts : list of array (K, N)
        Float32, in any layout; they are copied.

    Attributes
    ----------
    sizes : list of int
        The K of each part.
    columns : int
        N
    """

    cdef Packed packed
    cdef Buffer memory
    cdef readonly list sizes
    cdef readonly Py_ssize_t columns

    def __cinit__(self, kernels, list parts):
        cdef const Kernels* table = <const Kernels*>PyCapsule_GetPointer(kernels, "lstm_cy.kernels")
        cdef Py_ssize_t N = parts[0].shape[1], width = packed_columns[float](table, N, NULL), K, index
        cdef float* target
        if not 1 <= len(parts) <= MOST_PARTS:
            raise ValueError(f"Panels: expected 1 to {MOST_PARTS} parts, got {len(parts)}")
        self.sizes = [len(part) for part in parts]
        self.columns = N
        self.memory = Buffer(sum(self.sizes) * width * sizeof(float))
        target = <float*>self.memory.memory
        self.packed.count, self.packed.columns = len(parts), N
        for index, part in enumerate(parts):
            K = len(part)
            k_step, n_step = part.strides
            if part.itemsize != 4 or part.shape[1] != N:
                raise ValueError("Panels: expected parts of float32 with as many columns")
            pack[float](table, K, N, <const float*><size_t>part.ctypes.data, k_step // 4, n_step // 4, target)
            self.packed.products[index] = Product(K, NULL, 0, 1, target, False)
            target += K * width


cdef class Program:
    """Operations on arrays, without the addresses of their working memory; immutable.

    Parameters
    ----------
    kernels : capsule
    operations : list of (kind, function, operands, shape, alpha, beta, numbers, content)
        `operands` are (memory, offset, strides): the number of a memory and bytes from its start; or memory -1 and an
        array, whose first element it is. Strides, in elements, have an entry for each axis of `shape`. `content` is
        None, a Network, or (Panels, offsets of its parts in the left side).
    """

    cdef const Kernels* kernels
    cdef Operation* operations
    cdef Py_ssize_t count
    cdef list kept, places, packings

    def __cinit__(self, kernels, list operations):
        cdef Py_ssize_t index
        self.kernels = <const Kernels*>PyCapsule_GetPointer(kernels, "lstm_cy.kernels")
        self.count = len(operations)
        self.kept, self.places, self.packings = [], [], []
        self.operations = <Operation*>PyMem_Calloc(max(self.count, 1), sizeof(Operation))
        if self.operations == NULL:
            raise MemoryError
        for index, given in enumerate(operations):
            self.set_operation(index, given)

    def __dealloc__(self):
        PyMem_Free(self.operations)

    def __len__(self):
        return self.count

    cdef int set_operation(self, Py_ssize_t index, tuple given) except -1:
        cdef Operation* operation = &self.operations[index]
        kind, function, operands, shape, alpha, beta, numbers, content = given
        if len(shape) > MOST_AXES or len(operands) > MOST_OPERANDS or len(numbers) > NUMBERS:
            raise ValueError("Program: too many axes, operands or numbers")
        operation.kind, operation.function = kind, function
        operation.alpha, operation.beta = alpha, beta
        operation.axes, operation.operands = len(shape), len(operands)
        for place, size in enumerate(shape):
            operation.shape[place] = size
        for place, number in enumerate(numbers):
            operation.numbers[place] = number
        for place, (memory, offset, strides) in enumerate(operands):
            for axis, stride in enumerate(strides):
                operation.strides[place][axis] = stride
            if memory < 0:
                self.kept.append(offset)
                operation.at[place] = <char*><size_t>offset.ctypes.data
            else:
                self.places.append((index, place, memory, offset))
        operation.content = self.content_of(content)
        return 0

    cdef const void* content_of(self, content) except? NULL:
        cdef Packed* packed
        cdef Buffer memory
        if content is None:
            return NULL
        self.kept.append(content)
        if isinstance(content, Network):
            return &(<Network>content).net
        panels, offsets = content
        memory = Buffer(sizeof(Packed))
        self.kept.append(memory)
        packed = <Packed*>memory.memory
        packed[0] = (<Panels?>panels).packed
        for place, offset in enumerate(offsets):
            packed.offsets[place] = offset
        return packed


cdef class Bound:
    """A program with working memory, for one thread at a time.

    Parameters
    ----------
    program : Program
    memories : list of array or None
        In the order of the program's numbers; they are kept. `point` gives a memory in place of None, before `run`.
    """

    cdef Program program
    cdef Operation* operations
    cdef list memories
    cdef dict places

    def __cinit__(self, Program program, list memories):
        self.program, self.memories = program, memories
        self.operations = <Operation*>PyMem_Calloc(max(program.count, 1), sizeof(Operation))
        if self.operations == NULL:
            raise MemoryError
        memcpy(self.operations, program.operations, program.count * sizeof(Operation))
        self.places = {}
        for index, place, memory, offset in program.places:
            self.places.setdefault(memory, []).append((index, place, offset))
        for memory, array in enumerate(memories):
            if array is not None:
                self.point(memory, array)

    def __dealloc__(self):
        PyMem_Free(self.operations)

    def point(self, memory, array):
        """Let a memory be a C-contiguous array, which the caller keeps during `run`."""
        cdef char* start = <char*>address(array)
        cdef Py_ssize_t index, place, offset
        for index, place, offset in self.places.get(memory, ()):
            self.operations[index].at[place] = start + offset

    def run(self, Py_ssize_t first, Py_ssize_t last, int threads):
        """Run the operations from `first` up to `last`."""
        cdef const Kernels* kernels = self.program.kernels
        cdef Status status = DONE
        cdef unsigned int denormals
        cdef Py_ssize_t index
        if not 0 <= first <= last <= self.program.count:
            raise IndexError("Bound: no such operations")
        with nogil:
            denormals = kernels.flush_denormals()
            for index in range(first, last):
                status = perform(kernels, &self.operations[index], threads)
                if status != DONE:
                    break
            kernels.restore_denormals(denormals)
        check(status)


cdef Status perform(const Kernels* kernels, const Operation* operation, int threads) noexcept nogil:
    cdef const Py_ssize_t* numbers = &operation.numbers[0]
    cdef Py_ssize_t n
    if operation.kind == PRODUCT:
        return multiply(kernels, operation, threads)
    if operation.kind == RECUR:
        return infer(<const Net*>operation.content, numbers[0], numbers[1], numbers[2], operation.at[1],
                     operation.at[0], NULL, operation.at[2], operation.at[3], threads)
    if operation.kind == POOL or operation.kind == DEPTHWISE:
        return pool(kernels, operation, threads)
    if operation.kind == QUANTIZE:
        quantize(numbers[0], <const float*>operation.at[1], <float*>operation.at[0], <float*>operation.at[2],
                 <float*>operation.at[3])
    elif operation.kind == SOFTMAX:
        softmax_of[float](kernels, numbers[0], numbers[1], <const float*>operation.at[1], <float*>operation.at[0],
                          operation.function)
    elif operation.kind == NORMALIZE:
        normalize_rows[float](numbers[0], numbers[1], <const float*>operation.at[1], <float>operation.alpha,
                              <const float*>operation.at[2], <const float*>operation.at[3], <float*>operation.at[0])
    else:
        if operation.kind == REDUCE:
            n = numbers[0]
            fill(n, <float>(0 if operation.function == SUM else -INFINITY if operation.function == LARGEST
                            else INFINITY), <float*>operation.at[0])
        walk(kernels, operation)
    return DONE


# Operations over any strides

cdef void walk(const Kernels* kernels, const Operation* operation) noexcept nogil:
    """Apply an operation to every row along the last axis."""
    cdef Py_ssize_t[MOST_AXES] index
    cdef Numbers[MOST_OPERANDS] at
    cdef Py_ssize_t[MOST_OPERANDS] step
    cdef int axis, last = operation.axes - 1, place, operands = operation.operands
    cdef Py_ssize_t stride
    for axis in range(MOST_AXES):
        index[axis] = 0
    for place in range(MOST_OPERANDS):
        at[place] = <float*>operation.at[place]
        step[place] = operation.strides[place][last]
    while True:
        row(kernels, operation, operation.shape[last], at, step)
        axis = last - 1
        while axis >= 0:
            index[axis] += 1
            if index[axis] < operation.shape[axis]:
                for place in range(operands):
                    at[place] += operation.strides[place][axis]
                break
            index[axis] = 0
            for place in range(operands):
                stride = operation.strides[place][axis]
                at[place] -= stride * (operation.shape[axis] - 1)
            axis -= 1
        if axis < 0:
            return


cdef inline void row(const Kernels* kernels, const Operation* operation, Py_ssize_t n, float** at,
                     const Py_ssize_t* step) noexcept nogil:
    if operation.kind == COPY:
        copy(n, at[0], step[0], at[1], step[1])
    elif operation.kind == UNARY:  # of contiguous rows
        unary(kernels, operation.function, <float>operation.alpha, <float>operation.beta, n, at[1], at[0])
    elif operation.kind == BINARY:
        binary(operation.function, n, at[0], step[0], at[1], step[1], at[2], step[2])
    elif operation.kind == ROUND:
        round_numbers(<float>operation.alpha, <float>operation.beta, n, at, step)
    else:
        reduce(operation.function, n, <float>operation.alpha, at[0], step[0], at[1], step[1])


cdef inline void fill(Py_ssize_t n, float value, float* y) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = value


cdef inline void copy(Py_ssize_t n, float* y, Py_ssize_t y_step, const float* x, Py_ssize_t x_step) noexcept nogil:
    cdef Py_ssize_t i
    if y_step == 1 and x_step == 1:
        memcpy(y, x, n * sizeof(float))
    elif y_step == 1 and x_step == 0:
        fill(n, x[0], y)
    else:
        for i in range(n):
            y[i * y_step] = x[i * x_step]


cdef inline float relu_of(float x) noexcept nogil:
    return 0 if x <= 0 else x  # NaN stays, and -0 does not


cdef inline float larger(float a, float b) noexcept nogil:
    """The larger number; NaN if either is."""
    cdef float found = b if a < b else a
    return found if b == b else b


cdef inline float smaller(float a, float b) noexcept nogil:
    cdef float found = b if b < a else a
    return found if b == b else b


cdef void unary(const Kernels* kernels, int function, float alpha, float beta, Py_ssize_t n, const float* x,
                float* y) noexcept nogil:
    """y = function(x) of contiguous elements; y may be x."""
    cdef Py_ssize_t i
    if function == RELU:
        for i in range(n):
            y[i] = relu_of(x[i])
    elif function == SIGMOID:
        elementwise[float](kernels, ELEMENT_SIGMOID, n, x, y)
    elif function == TANH:
        elementwise[float](kernels, ELEMENT_TANH, n, x, y)
    elif function == EXP:
        elementwise[float](kernels, ELEMENT_EXP, n, x, y)
    elif function == SOFTPLUS:
        elementwise[float](kernels, ELEMENT_SOFTPLUS, n, x, y)
    elif function == SQRT:
        for i in range(n):
            y[i] = sqrtf(x[i])
    elif function == SQUARE:
        for i in range(n):
            y[i] = x[i] * x[i]
    elif function == ABS:
        for i in range(n):
            y[i] = fabsf(x[i])
    elif function == NEGATE:
        for i in range(n):
            y[i] = -x[i]
    elif function == RECIPROCAL:
        for i in range(n):
            y[i] = 1 / x[i]
    elif function == CLIP:
        for i in range(n):
            y[i] = smaller(larger(x[i], alpha), beta)
    elif function == LEAKY:
        for i in range(n):
            y[i] = alpha * x[i] if x[i] < 0 else x[i]
    elif function == HARD_SIGMOID:
        for i in range(n):
            y[i] = smaller(larger(alpha * x[i] + beta, 0), 1)
    elif y != x:
        memcpy(y, x, n * sizeof(float))


cdef inline float joined(int function, float a, float b) noexcept nogil:
    if function == ADD:
        return a + b
    if function == SUBTRACT:
        return a - b
    if function == MULTIPLY:
        return a * b
    if function == DIVIDE:
        return a / b
    return larger(a, b) if function == MAXIMUM else smaller(a, b)


cdef inline void join(int function, Py_ssize_t n, float* y, Py_ssize_t y_step, const float* a, Py_ssize_t a_step,
                      const float* b, Py_ssize_t b_step) noexcept nogil:
    """y = function(a, b), inlined with a constant function."""
    cdef Py_ssize_t i
    cdef float scalar
    if y_step == 1 and a_step == 1 and b_step == 1:
        for i in range(n):
            y[i] = joined(function, a[i], b[i])
    elif y_step == 1 and a_step == 1 and b_step == 0:
        scalar = b[0]
        for i in range(n):
            y[i] = joined(function, a[i], scalar)
    else:
        for i in range(n):
            y[i * y_step] = joined(function, a[i * a_step], b[i * b_step])


cdef inline void binary(int function, Py_ssize_t n, float* y, Py_ssize_t y_step, const float* a, Py_ssize_t a_step,
                        const float* b, Py_ssize_t b_step) noexcept nogil:
    if function == ADD:
        join(ADD, n, y, y_step, a, a_step, b, b_step)
    elif function == SUBTRACT:
        join(SUBTRACT, n, y, y_step, a, a_step, b, b_step)
    elif function == MULTIPLY:
        join(MULTIPLY, n, y, y_step, a, a_step, b, b_step)
    elif function == DIVIDE:
        join(DIVIDE, n, y, y_step, a, a_step, b, b_step)
    elif function == MAXIMUM:
        join(MAXIMUM, n, y, y_step, a, a_step, b, b_step)
    else:
        join(MINIMUM, n, y, y_step, a, a_step, b, b_step)


cdef inline void reduce(int function, Py_ssize_t n, float scale, float* y, Py_ssize_t y_step, const float* x,
                        Py_ssize_t x_step) noexcept nogil:
    """Add scaled elements to y, or take the larger or smaller ones; the step of y is 0 along a reduced axis."""
    cdef Py_ssize_t i
    cdef float total
    if function == SUM and y_step == 0:
        total = 0
        for i in range(n):
            total = total + x[i * x_step]
        y[0] = y[0] + scale * total
    elif function == SUM:
        for i in range(n):
            y[i * y_step] = y[i * y_step] + scale * x[i * x_step]
    elif function == LARGEST:
        for i in range(n):
            y[i * y_step] = larger(y[i * y_step], x[i * x_step])
    else:
        for i in range(n):
            y[i * y_step] = smaller(y[i * y_step], x[i * x_step])


# Products: of rows with a packed matrix, and convolutions, whose rows overlap

cdef Status multiply(const Kernels* kernels, const Operation* operation, int threads) noexcept nogil:
    """Compute y = function(bias + x panels) for outer * inner blocks of rows.

    The operands are y, x and bias. The numbers are outer, inner, rows; the distances in x of an outer block, an inner
    block and a row; those in y of an outer and an inner block.
    """
    cdef const Py_ssize_t* numbers = &operation.numbers[0]
    cdef const Packed* packed = <const Packed*>operation.content
    cdef Py_ssize_t count = numbers[0] * numbers[1], rows = numbers[2], K = 0, blocks = 1
    cdef double multiply_adds
    cdef bint sharing
    cdef Job job
    cdef int part
    for part in range(<int>packed.count):
        K += packed.products[part].K
    multiply_adds = <double>count * rows * K * packed.columns
    sharing = threads > 1 and worth_sharing(multiply_adds)
    if sharing:
        blocks = max(1, min((threads * 2 + count - 1) // count, rows // LEAST_PART_ROWS))
    job.operation, job.kernels = operation, kernels
    job.blocks, job.parts = blocks, count * blocks
    return run_job(&job, sharing, threads)


cdef Status run_job(Job* job, bint sharing, int threads) noexcept nogil:
    """Compute the parts of a job, with other threads if `sharing`."""
    job.next = 0
    job.status = DONE
    sharing = sharing and job.parts > 1 and open_job(threads - 1, join_job, <void*>job)
    take_parts(job, True)
    if sharing:
        close_job()
    if threads > 1:
        note_call()
    return <Status>job.status


cdef void join_job(void* argument) noexcept nogil:
    cdef Job* job = <Job*>argument
    cdef unsigned int denormals = job.kernels.flush_denormals()
    take_parts(job, False)
    job.kernels.restore_denormals(denormals)


cdef void take_parts(Job* job, bint caller) noexcept nogil:
    cdef Py_ssize_t part, work = 0, stop = 0
    cdef Status status
    while True:
        part = fetch_add(&job.next, 1)
        if part >= job.parts or load_acquire(&job.status) != DONE:
            return
        status = poll_interrupt(compute_part(job, part), &work, &stop, caller) if caller else DONE
        if not caller:
            compute_part(job, part)
        if status != DONE:
            store_release(&job.status, status)


cdef Py_ssize_t compute_part(const Job* job, Py_ssize_t part) noexcept nogil:
    """Compute one part of a job; return its multiply-adds."""
    cdef Py_ssize_t rows
    if job.operation.kind == PRODUCT:
        return multiply_part(job, part)
    rows = job.operation.shape[0] * job.operation.shape[1]
    return pool_rows(job.kernels, job.operation, rows * part // job.parts, rows * (part + 1) // job.parts)


cdef Py_ssize_t multiply_part(const Job* job, Py_ssize_t part) noexcept nogil:
    """Compute one block of rows; return its multiply-adds."""
    cdef const Operation* operation = job.operation
    cdef const Py_ssize_t* numbers = &operation.numbers[0]
    cdef const Packed* packed = <const Packed*>operation.content
    cdef Product[MOST_PARTS] products
    cdef Py_ssize_t outer = part // job.blocks, block = part % job.blocks, N = packed.columns, K, done = 0, total = 0
    cdef Py_ssize_t first = numbers[2] * block // job.blocks, rows = numbers[2] * (block + 1) // job.blocks - first
    cdef const float* x = <const float*>operation.at[1]
    cdef float* y = <float*>operation.at[0]
    cdef const float* begin = <const float*>operation.at[2]
    cdef Py_ssize_t begin_row = 0
    cdef int group
    x += outer // numbers[1] * numbers[3] + outer % numbers[1] * numbers[4] + first * numbers[5]
    y += outer // numbers[1] * numbers[6] + outer % numbers[1] * numbers[7] + first * N
    while done < packed.count:
        K = 0
        group = 0
        while done < packed.count and (group == 0 or K + packed.products[done].K <= GROUP_FACTORS):
            products[group] = packed.products[done]
            products[group].a = x + packed.offsets[done]
            products[group].a_row = numbers[5]
            K += products[group].K
            group += 1
            done += 1
        add_products[float](job.kernels, rows, N, products, group, False, begin, begin_row, y)
        begin = y
        begin_row = N
        total += K
    if operation.function != LINEAR:
        unary(job.kernels, operation.function, <float>operation.alpha, <float>operation.beta, rows * N, y, y)
    return total * rows * N


# Quantization

cdef void quantize(Py_ssize_t n, const float* x, float* y, float* scale, float* zero) noexcept nogil:
    """y = x as whole numbers from 0 to 255, with the scale and zero point that the least and the largest x give."""
    cdef float[LANES] low, high
    cdef float step, start
    cdef Py_ssize_t i, lane, blocks = n // LANES
    for lane in range(LANES):
        low[lane] = high[lane] = 0
    for i in range(blocks):
        for lane in range(LANES):
            low[lane] = smaller(low[lane], x[i * LANES + lane])
            high[lane] = larger(high[lane], x[i * LANES + lane])
    for i in range(blocks * LANES, n):
        low[0] = smaller(low[0], x[i])
        high[0] = larger(high[0], x[i])
    for lane in range(1, LANES):
        low[0] = smaller(low[0], low[lane])
        high[0] = larger(high[0], high[lane])
    step = (high[0] - low[0]) / 255
    if step == 0:
        step = 1
    start = byte_of(nearest(-low[0] / step))
    for i in range(n):
        y[i] = byte_of(nearest(x[i] / step) + start)
    scale[0] = step
    zero[0] = start


cdef inline void round_numbers(float low, float high, Py_ssize_t n, float** at, const Py_ssize_t* step) noexcept nogil:
    """y = x / scale + zero as whole numbers from `low` to `high`, which have at most 16 bits; 0 for NaN."""
    cdef float far = <float>2097152  # rounded to any integer beyond `low` and `high`
    cdef float x
    cdef Py_ssize_t i
    for i in range(n):
        x = at[1][i * step[1]] / at[2][i * step[2]]
        x = nearest(smaller(larger(x, -far), far)) + at[3][i * step[3]]
        at[0][i * step[0]] = smaller(larger(x, low), high) if x == x else 0


cdef inline float nearest(float x) noexcept nogil:
    """The whole number next to x, the even one of two, of x below 2**22: the sum has no bits for a fraction."""
    return (x + <float>12582912) - <float>12582912


cdef inline float byte_of(float x) noexcept nogil:
    """The number from 0 to 255 next to x; 0 for NaN."""
    cdef float found = x if x > 0 else 0
    return found if found < 255 else 255


# Pooling, and convolutions of each channel on its own

cdef Status pool(const Kernels* kernels, const Operation* operation, int threads) noexcept nogil:
    """Compute maxima, means or weighted sums of windows, of arrays with contiguous channels.

    The axes are those of the result, (N, H, W, C), without the last one, and strides have those of the result and the
    input. The numbers are the input's C, H and W, and for each of the two axes the kernel, stride, dilation and padding
    before it. The last one is whether means count padding; for weighted sums the results of each channel: the operands
    are then also weights (kernel, C) and a bias (C,), and the function is one of UNARY_FUNCTIONS.
    """
    cdef const Py_ssize_t* numbers = &operation.numbers[0]
    cdef Py_ssize_t rows = operation.shape[0] * operation.shape[1]
    cdef double adds = <double>rows * operation.shape[2] * numbers[0] * numbers[3] * numbers[7]
    cdef bint sharing = threads > 1 and worth_sharing(adds)
    cdef Job job
    job.operation, job.kernels = operation, kernels
    job.blocks = 1
    job.parts = min(rows, <Py_ssize_t>threads * POOL_PARTS) if sharing else 1
    return run_job(&job, sharing, threads)


cdef Py_ssize_t pool_rows(const Kernels* kernels, const Operation* operation, Py_ssize_t first,
                          Py_ssize_t last) noexcept nogil:
    """Compute some of the N * H rows of a result; return the multiply-adds."""
    cdef const Py_ssize_t* numbers = &operation.numbers[0]
    cdef Py_ssize_t n, row, place, column, i, j, h, w, C = numbers[0], c, count, top, left
    cdef const float* x
    cdef float* y
    cdef float scale
    cdef bint weighted = operation.kind == DEPTHWISE, largest = not weighted and operation.function == LARGEST
    cdef Py_ssize_t times = numbers[11] if weighted else 1, results = C * times
    cdef const float* weights = <const float*>operation.at[2]
    cdef const float* bias = <const float*>operation.at[3]
    for place in range(first, last):
        n, row = place // operation.shape[1], place % operation.shape[1]
        for column in range(operation.shape[2]):
            y = <float*>operation.at[0] + (n * operation.strides[0][0] + row * operation.strides[0][1]
                                           + column * operation.strides[0][2])
            fill(results, <float>-INFINITY if largest else 0, y)
            count = 0
            top = row * numbers[4] - numbers[6]
            left = column * numbers[8] - numbers[10]
            for i in range(numbers[3]):
                h = top + i * numbers[5]
                if h < 0 or h >= numbers[1]:
                    continue
                for j in range(numbers[7]):
                    w = left + j * numbers[9]
                    if w < 0 or w >= numbers[2]:
                        continue
                    x = <const float*>operation.at[1] + (n * operation.strides[1][0] + h * operation.strides[1][1]
                                                         + w * operation.strides[1][2])
                    count += 1
                    if weighted:
                        add_channels(C, times, x, weights + (i * numbers[7] + j) * results, y)
                    elif largest:
                        for c in range(C):
                            y[c] = larger(y[c], x[c])
                    else:
                        for c in range(C):
                            y[c] = y[c] + x[c]
            if weighted:
                for c in range(results):
                    y[c] = y[c] + bias[c]
                if operation.function != LINEAR:
                    unary(kernels, operation.function, <float>operation.alpha, <float>operation.beta, results, y, y)
            elif not largest:
                scale = <float>(numbers[3] * numbers[7] if numbers[11] else count)
                for c in range(C):
                    y[c] = y[c] / scale
    return (last - first) * operation.shape[2] * results * numbers[3] * numbers[7]


cdef inline void add_channels(Py_ssize_t C, Py_ssize_t times, const float* x, const float* weights,
                              float* y) noexcept nogil:
    """y += each of C numbers times `times` weights."""
    cdef Py_ssize_t c, i
    if times == 1:
        for c in range(C):
            y[c] = y[c] + x[c] * weights[c]
        return
    for c in range(C):
        for i in range(c * times, (c + 1) * times):
            y[i] = y[i] + x[c] * weights[i]
