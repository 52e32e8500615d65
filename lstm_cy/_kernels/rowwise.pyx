"""Steps of layers without recurrent weights: functions of a row, convolutions and pooling over the last steps.

They compute what the layers compute of whole sequences, in the same order, so that the bits are the same.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport NAN, isnan, sqrt
from libc.string cimport memcpy, memmove, memset

from .affine cimport Affine, Map, apply
from .network cimport address
from .scalar cimport log_of
from .sums cimport sum_of, sum_of_products
from .table cimport (
    ELEMENT_EXP, ELEMENT_EXPM1, ELEMENT_NORMAL, ELEMENT_SIGMOID, ELEMENT_SOFTPLUS, ELEMENT_TANH, Kernels, elementwise,
    exponentials, real,
)

cdef enum:
    RELU = 100
    AFFINE, LEAKY_RELU, THRESHOLDED_RELU, SCALED_TANH, HARD_SIGMOID, ELU, SOFTSIGN, SELU, SILU, GELU

#: the numbers of the functions of a FUNCTION
FUNCTIONS = {
    "sigmoid": ELEMENT_SIGMOID, "tanh": ELEMENT_TANH, "softplus": ELEMENT_SOFTPLUS, "exp": ELEMENT_EXP, "relu": RELU,
    "affine": AFFINE, "leakyrelu": LEAKY_RELU, "thresholdedrelu": THRESHOLDED_RELU, "scaledtanh": SCALED_TANH,
    "hardsigmoid": HARD_SIGMOID, "elu": ELU, "softsign": SOFTSIGN, "selu": SELU, "silu": SILU, "gelu": GELU,
}
_KINDS = {
    "function": FUNCTION, "softmax": SOFTMAX, "logsoftmax": LOG_SOFTMAX, "scaled": SCALED, "normalized": NORMALIZED,
    "masks": MASKS, "last": LAST, "convolution": CONVOLUTION, "window max": WINDOW_MAX, "window average": WINDOW_MEAN,
    "running max": RUNNING_MAX, "running average": RUNNING_MEAN,
}
cdef double SELU_ALPHA = 1.6732632423543772
cdef double SELU_SCALE = 1.0507009873554805


cdef class RowPart:
    """The part of a Chain that computes such a layer; immutable.

    Parameters
    ----------
    kind : str
        One of function, softmax, logsoftmax, scaled, normalized, masks, last, convolution, window max, window average,
        running max, running average.
    inputs, outputs : int
        Numbers of a row.
    **options
        function, alpha, beta; vectors, C-contiguous arrays; zero; size, stride, dilation, wait; affines. They are kept,
        not copied.
    """

    def __cinit__(self, str kind, Py_ssize_t inputs, Py_ssize_t outputs, *, int function=0,
                  double alpha=0, double beta=0, vectors=(), bint zero=False, Py_ssize_t size=1, Py_ssize_t stride=1,
                  Py_ssize_t dilation=1, Py_ssize_t wait=0, affines=()):
        cdef Py_ssize_t index
        options = {"function": function, "alpha": alpha, "beta": beta, "vectors": vectors, "zero": zero, "size": size,
                   "stride": stride, "dilation": dilation, "wait": wait, "affines": affines}
        self.kept = kind, options
        self.op.kind = _KINDS[kind]
        self.op.inputs, self.op.outputs = inputs, outputs
        self.op.function, self.op.alpha, self.op.beta, self.op.zero = function, alpha, beta, zero
        self.op.size, self.op.stride, self.op.dilation, self.op.wait = size, stride, dilation, wait
        for index, vector in enumerate(vectors):
            self.op.vectors[index] = <void*>address(vector)
        self.op.groups = len(affines)
        if affines:
            self.op.maps = <const Map**>PyMem_Calloc(len(affines), sizeof(Map*))
            if self.op.maps == NULL:
                raise MemoryError
        for index, affine in enumerate(affines):
            self.op.maps[index] = &(<Affine?>affine).map

    cdef void prepare(self, Py_ssize_t itemsize) noexcept:
        """Set the precision, 4 (float32) or 8 (float64) bytes of an element, and the memory that follows from it."""
        cdef Py_ssize_t outputs = self.op.outputs, before
        self.op.itemsize, self.op.space = itemsize, outputs
        if self.op.kind == LAST:
            self.op.state_bytes = outputs * itemsize
        elif self.op.kind in (RUNNING_MAX, RUNNING_MEAN):
            self.op.state_bytes = (1 + outputs) * sizeof(double)  # the number of steps, and the sums or maxima
        elif self.op.kind in (CONVOLUTION, WINDOW_MAX, WINDOW_MEAN):
            if self.op.kind == CONVOLUTION:
                self.op.space += self.op.size * self.op.inputs + outputs // self.op.groups
            # steps to wait, whether there was an output, the steps before, the last output
            before = (self.op.size - 1) * self.op.dilation * self.op.inputs
            self.op.state_bytes = (2 + before + outputs) * itemsize
        self.op.state_bytes = (self.op.state_bytes + 7) // 8 * 8

    def __dealloc__(self):
        PyMem_Free(self.op.maps)

    @property
    def kind(self):
        """As given."""
        return self.kept[0]

    @property
    def options(self):
        """All options, as given or their defaults."""
        return dict(self.kept[1])

    @property
    def inputs(self):
        """Numbers of a row's input."""
        return self.op.inputs

    @property
    def outputs(self):
        """Numbers of a row's output."""
        return self.op.outputs

    @property
    def is_steady(self):
        """Whether every step gives an output."""
        return self.op.stride == 1 and self.op.wait == 0


cdef void row_begin(const RowOp* op, char* state) noexcept nogil:
    cdef float wait = <float>op.wait
    cdef double long_wait = <double>op.wait
    memset(state, 0, op.state_bytes)
    if op.kind in (CONVOLUTION, WINDOW_MAX, WINDOW_MEAN):
        if op.itemsize == 4:
            memcpy(state, &wait, sizeof(float))
        else:
            memcpy(state, &long_wait, sizeof(double))


cdef void fill_empty(Py_ssize_t rows, Py_ssize_t outputs, Py_ssize_t itemsize, const unsigned char* flags,
                     void* y) noexcept nogil:
    cdef Py_ssize_t row, k
    for row in range(rows):
        if flags[row] == EMPTY:
            for k in range(outputs):
                if itemsize == 4:
                    (<float*>y)[row * outputs + k] = <float>NAN
                else:
                    (<double*>y)[row * outputs + k] = NAN


cdef void row_step(const Kernels* kernels, const RowOp* op, Py_ssize_t rows, const void* x, char* state,
                   unsigned char* flags, void* space) noexcept nogil:
    if op.itemsize == 4:
        step_of[float](kernels, op, rows, <const float*>x, state, flags, <float*>space)
    else:
        step_of[double](kernels, op, rows, <const double*>x, state, flags, <double*>space)


cdef void step_of(const Kernels* kernels, const RowOp* op, Py_ssize_t rows, const real* x, char* state,
                  unsigned char* flags, real* y) noexcept nogil:
    cdef Py_ssize_t row, size = op.outputs
    if op.kind == FUNCTION:
        function_of[real](kernels, op, rows * size, x, y)
    elif op.kind == SOFTMAX or op.kind == LOG_SOFTMAX:
        for row in range(rows):
            softmax_of_row[real](kernels, size, x + row * size, y + row * size, op.kind == LOG_SOFTMAX)
    elif op.kind == SCALED:
        for row in range(rows):
            scale_row[real](size, x + row * size, <const real*>op.vectors[2], <const real*>op.vectors[3],
                            <const real*>op.vectors[0], <const real*>op.vectors[1], y + row * size)
    elif op.kind == NORMALIZED:
        normalize_rows[real](rows, size, x, <real>op.alpha, <const real*>op.vectors[0], <const real*>op.vectors[1], y)
    elif op.kind == MASKS:
        for row in range(rows):
            mask_row[real](size, x + row * size, <real>op.alpha, flags + row, y + row * size)
    elif op.kind == LAST:
        for row in range(rows):
            last_of_row[real](op, x + row * size, <real*>(state + row * op.state_bytes), flags[row], y + row * size)
    elif op.kind == RUNNING_MAX or op.kind == RUNNING_MEAN:
        for row in range(rows):
            pool_row[real](op, x + row * size, <double*>(state + row * op.state_bytes), flags[row], y + row * size)
    else:
        window_step[real](op, rows, x, state, flags, y)


cdef void function_of(const Kernels* kernels, const RowOp* op, Py_ssize_t n, const real* x, real* y) noexcept nogil:
    """Compute what layers/activations.py computes by NumPy and the kernels."""
    cdef Py_ssize_t k
    cdef real a = <real>op.alpha, b = <real>op.beta
    cdef double wide
    if op.function < RELU:
        elementwise[real](kernels, op.function, n, x, y)
    elif op.function == RELU:
        for k in range(n):
            y[k] = x[k] if x[k] > 0 or isnan(x[k]) else <real>0
    elif op.function == AFFINE:
        for k in range(n):
            y[k] = a * x[k] + b
    elif op.function == LEAKY_RELU:
        for k in range(n):
            y[k] = a * x[k] if x[k] < 0 else x[k]
    elif op.function == THRESHOLDED_RELU:
        for k in range(n):
            y[k] = x[k] if x[k] > a else <real>0
    elif op.function == SCALED_TANH:
        for k in range(n):
            y[k] = b * x[k]
        elementwise[real](kernels, ELEMENT_TANH, n, y, y)
        for k in range(n):
            y[k] = a * y[k]
    elif op.function == HARD_SIGMOID:
        for k in range(n):
            y[k] = a * x[k] + b
            y[k] = <real>0 if y[k] < 0 else <real>1 if y[k] > 1 else y[k]
    elif op.function == ELU or op.function == SELU:
        a = a if op.function == ELU else <real>SELU_ALPHA
        for k in range(n):
            y[k] = x[k] if x[k] < 0 or isnan(x[k]) else <real>0
        elementwise[real](kernels, ELEMENT_EXPM1, n, y, y)
        for k in range(n):
            y[k] = x[k] if x[k] > 0 else a * y[k]
            if op.function == SELU:
                y[k] = <real>SELU_SCALE * y[k]
    elif op.function == SOFTSIGN:
        for k in range(n):
            y[k] = x[k] / (<real>1 + (-x[k] if x[k] < 0 else x[k]))
    elif op.function == SILU:
        elementwise[real](kernels, ELEMENT_SIGMOID, n, x, y)
        for k in range(n):
            y[k] = x[k] * y[k]
    else:  # GELU, whose normal distribution is computed in float64
        for k in range(n):
            wide = <double>x[k]
            elementwise[double](kernels, ELEMENT_NORMAL, 1, &wide, &wide)
            y[k] = x[k] * <real>wide


cdef inline void softmax_of_row(const Kernels* kernels, Py_ssize_t n, const real* x, real* y,
                                bint logarithm) noexcept nogil:
    """Compute as `softmax` of elements.pyx does."""
    cdef real highest, divisor
    cdef double total = exponentials[real](kernels, n, x, y, &highest), log_total
    cdef Py_ssize_t k
    if logarithm:
        log_total = log_of(total)
        for k in range(n):
            y[k] = <real>((<double>x[k] - <double>highest) - log_total)
    else:
        divisor = <real>total
        for k in range(n):
            y[k] = y[k] / divisor


cdef inline void scale_row(Py_ssize_t n, const real* x, const real* mean, const real* scale, const real* weight,
                           const real* bias, real* y) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        y[k] = (x[k] - mean[k]) * scale[k] * weight[k] + bias[k]


cdef inline real normalize_row(Py_ssize_t n, const real* x, real eps, real* y) noexcept nogil:
    """Compute (x - mean) * factor, and return the factor 1 / sqrt(variance + eps)."""
    cdef real mean = <real>(sum_of[real](n, x) / n), scale
    cdef Py_ssize_t k
    for k in range(n):
        y[k] = x[k] - mean
    scale = <real>(1 / sqrt(sum_of_products[real](n, y, y) / n + <double>eps))
    for k in range(n):
        y[k] = y[k] * scale
    return scale


cdef void normalize_rows(Py_ssize_t rows, Py_ssize_t n, const real* x, real eps, const real* weight, const real* bias,
                         real* y) noexcept nogil:
    cdef Py_ssize_t _, k
    for _ in range(rows):
        normalize_row[real](n, x, eps, y)
        for k in range(n):
            y[k] = y[k] * weight[k] + bias[k]
        x += n
        y += n


def normalize(x, double eps, normal, scale):
    """Normalise each row of x (rows, n): normal = (x - mean) * scale, scale (rows,) = 1 / sqrt(variance + eps)."""
    cdef Py_ssize_t rows = x.shape[0], n = x.shape[1], row
    cdef const char* source = <const char*>address(x)
    cdef char* target = <char*>address(normal)
    cdef char* factors = <char*>address(scale)
    cdef bint single = x.itemsize == 4
    with nogil:
        for row in range(rows):
            if single:
                (<float*>factors)[row] = normalize_row[float](
                    n, <const float*>source + row * n, <float>eps, <float*>target + row * n
                )
            else:
                (<double*>factors)[row] = normalize_row[double](
                    n, <const double*>source + row * n, eps, <double*>target + row * n
                )


cdef inline void mask_row(Py_ssize_t n, const real* x, real value, unsigned char* flag, real* y) noexcept nogil:
    """Give zeros for a step whose numbers all are `value`."""
    cdef Py_ssize_t k
    cdef bint masked = True
    for k in range(n):
        masked = masked and x[k] == value
    if masked and flag[0] == PRESENT:
        flag[0] = MASKED
    elif masked and flag[0] == ABSENT:  # x is that of the last step
        flag[0] = ABSENT_MASKED
    for k in range(n):
        y[k] = <real>0 if masked else x[k]


cdef inline void last_of_row(const RowOp* op, const real* x, real* held, unsigned char flag, real* y) noexcept nogil:
    if flag == PRESENT:
        memcpy(held, x, op.outputs * sizeof(real))
    elif flag == MASKED and op.zero:
        memset(held, 0, op.outputs * sizeof(real))
    memcpy(y, held, op.outputs * sizeof(real))


cdef inline void pool_row(const RowOp* op, const real* x, double* state, unsigned char flag, real* y) noexcept nogil:
    """Give the mean or the maximum of the valid steps so far; state[0] is their number."""
    cdef Py_ssize_t k
    cdef double found
    if flag == PRESENT:
        for k in range(op.outputs):
            found = <double>x[k]
            if op.kind == RUNNING_MEAN:
                state[1 + k] = state[1 + k] + found
            elif state[0] == 0 or found > state[1 + k] or isnan(found):
                state[1 + k] = found
        state[0] = state[0] + 1
    for k in range(op.outputs):
        if op.kind == RUNNING_MEAN:
            y[k] = <real>(state[1 + k] / (state[0] if state[0] > 1 else 1))
        else:
            y[k] = <real>state[1 + k]


cdef void window_step(const RowOp* op, Py_ssize_t rows, const real* x, char* state, unsigned char* flags,
                      real* y) noexcept nogil:
    """Give the output of the window that ends with this step, or the last output where none does."""
    cdef Py_ssize_t row, before = (op.size - 1) * op.dilation * op.inputs, outputs = op.outputs, complete = 0
    cdef real* own
    cdef real* windows = y + rows * outputs
    for row in range(rows):
        own = <real*>(state + row * op.state_bytes)
        if flags[row] >= ABSENT or own[0] > 0:
            continue
        complete += 1
        if op.kind == CONVOLUTION:
            gather[real](op, rows, row, own + 2, x + row * op.inputs, windows)
        else:
            pool_window[real](op, own + 2, x + row * op.inputs, y + row * outputs)
    if complete and op.kind == CONVOLUTION:
        convolve[real](op, rows, windows, y)
    for row in range(rows):
        own = <real*>(state + row * op.state_bytes)
        if flags[row] < ABSENT:
            if own[0] > 0:
                own[0] = own[0] - 1
                flags[row] = ABSENT
            else:
                own[0] = <real>(op.stride - 1)
                own[1] = 1
                memcpy(own + 2 + before, y + row * outputs, outputs * sizeof(real))
            if before:
                memmove(own + 2, own + 2 + op.inputs, (before - op.inputs) * sizeof(real))
                memcpy(own + 2 + before - op.inputs, x + row * op.inputs, op.inputs * sizeof(real))
        if flags[row] >= ABSENT:
            flags[row] = ABSENT if own[1] > 0 else EMPTY
            memcpy(y + row * outputs, own + 2 + before, outputs * sizeof(real))


cdef inline void gather(const RowOp* op, Py_ssize_t rows, Py_ssize_t row, const real* before, const real* x,
                        real* windows) noexcept nogil:
    """Copy the window of a row: for each group (rows, features, size)."""
    cdef Py_ssize_t features = op.inputs // op.groups, width = features * op.size, group, k, feature
    cdef const real* source
    cdef real* target
    for group in range(op.groups):
        target = windows + (group * rows + row) * width
        for k in range(op.size):
            source = (x if k == op.size - 1 else before + k * op.dilation * op.inputs) + group * features
            for feature in range(features):
                target[feature * op.size + k] = source[feature]


cdef inline void convolve(const RowOp* op, Py_ssize_t rows, const real* windows, real* y) noexcept nogil:
    cdef Py_ssize_t width = op.inputs // op.groups * op.size, share = op.outputs // op.groups, group, row
    cdef real* part = y + rows * (op.outputs + op.size * op.inputs)
    if op.groups == 1:
        apply(op.maps[0], rows, windows, y)
        return
    for group in range(op.groups):
        apply(op.maps[group], rows, windows + group * rows * width, part)
        for row in range(rows):
            memcpy(y + row * op.outputs + group * share, part + row * share, share * sizeof(real))


cdef inline void pool_window(const RowOp* op, const real* before, const real* x, real* y) noexcept nogil:
    cdef Py_ssize_t k, feature
    cdef real one, share = <real>1 / <real>op.size
    for feature in range(op.outputs):
        for k in range(op.size):
            one = x[feature] if k == op.size - 1 else before[k * op.inputs + feature]
            if op.kind == WINDOW_MEAN:
                y[feature] = one * share if k == 0 else y[feature] + one * share
            elif k == 0 or one > y[feature] or isnan(one):
                y[feature] = one
