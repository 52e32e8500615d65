"""Steps of layers without recurrent weights: functions of a row, convolutions and pooling over the last steps.

Each row has a flag, which says what its step means to the stages after this one.
"""

from .affine cimport Map
from .table cimport Kernels, real

cdef enum:
    # The flag of a row: a step; a step of padding; no step, since a window is not complete; and none so far, either; no
    # step, and the last one was padding
    PRESENT = 0
    MASKED = 1
    ABSENT = 2
    EMPTY = 3
    ABSENT_MASKED = 4


ctypedef enum RowKind:
    FUNCTION, SOFTMAX, LOG_SOFTMAX, SCALED, NORMALIZED, MASKS, LAST, CONVOLUTION, WINDOW_MAX, WINDOW_MEAN, RUNNING_MAX,
    RUNNING_MEAN


ctypedef struct RowOp:
    # One layer's computation of a step; a row of `inputs` numbers gives one of `outputs`.
    RowKind kind
    Py_ssize_t itemsize, inputs, outputs
    int function                    # of a FUNCTION
    double alpha, beta              # of a FUNCTION; the eps of a NORMALIZED, the value that MASKS masks
    (void*)[4] vectors              # weight and bias, and of a SCALED the mean and the factor
    bint zero                       # of LAST: whether a masked step gives zero, not the last valid one
    Py_ssize_t size, stride, dilation, wait  # of windows; `wait`: steps before the first output
    Py_ssize_t groups               # of a CONVOLUTION
    const Map** maps                # (groups,)
    Py_ssize_t state_bytes          # of a row's state
    Py_ssize_t space                # numbers of a row's result and scratch memory


cdef class RowPart:
    cdef RowOp op
    cdef object kept

    cdef void prepare(self, Py_ssize_t itemsize) noexcept


# Compute a step of `rows` rows from x to space, where the result is first; `flags` are updated.
cdef void row_step(const Kernels* kernels, const RowOp* op, Py_ssize_t rows, const void* x, char* state,
                   unsigned char* flags, void* space) noexcept nogil

# Set the state of a row to the initial one.
cdef void row_begin(const RowOp* op, char* state) noexcept nogil

# Set rows to NaN that are EMPTY.
cdef void fill_empty(Py_ssize_t rows, Py_ssize_t outputs, Py_ssize_t itemsize, const unsigned char* flags,
                     void* y) noexcept nogil

# (x - mean) / sqrt(variance + eps) * weight + bias of each row (n,); sums are float64
cdef void normalize_rows(Py_ssize_t rows, Py_ssize_t n, const real* x, real eps, const real* weight, const real* bias,
                         real* y) noexcept nogil
