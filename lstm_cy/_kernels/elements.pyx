"""Losses, softmax and functions of elements: the same bits on every processor, by the kernels of an instruction set.

Arrays are C-contiguous, float32 or float64. `kernels` is the capsule of an instruction set. Sums are in float64, in an
order that does not depend on the processor.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.string cimport memset

from .network cimport address, address_or_null
from .scalar cimport log_of
from .sums cimport sum_of, sum_of_products
from .table cimport (
    BLOCK, ELEMENT_EXP, ELEMENT_EXPM1, ELEMENT_NORMAL, ELEMENT_SIGMOID, ELEMENT_SOFTPLUS, ELEMENT_TANH, Kernels,
    elementwise, exponentials, real,
)

cdef enum:
    # Numbers that are subtracted, squared and scaled while they are in the L1 cache
    CHUNK = 2048

#: the numbers of the functions that `apply` takes; normal, the cumulative distribution function, is for float64 alone
FUNCTIONS = {
    "sigmoid": ELEMENT_SIGMOID, "tanh": ELEMENT_TANH, "softplus": ELEMENT_SOFTPLUS, "exp": ELEMENT_EXP,
    "expm1": ELEMENT_EXPM1, "normal": ELEMENT_NORMAL,
}


cdef const Kernels* table_of(object kernels) except NULL:
    return <const Kernels*>PyCapsule_GetPointer(kernels, "lstm_cy.kernels")


def total(x):
    """Return the sum of x in float64."""
    cdef Py_ssize_t n = x.size
    cdef const void* data = address(x)
    cdef bint single = x.itemsize == 4
    cdef double result
    with nogil:
        result = sum_of[float](n, <const float*>data) if single else sum_of[double](n, <const double*>data)
    return result


def total_of_products(a, b):
    """Return the sum of a b, in float64; both arrays have one dtype and size."""
    cdef Py_ssize_t n = a.size
    cdef const void* left = address(a)
    cdef const void* right = address(b)
    cdef bint single = a.itemsize == 4
    cdef double result
    with nogil:
        if single:
            result = sum_of_products[float](n, <const float*>left, <const float*>right)
        else:
            result = sum_of_products[double](n, <const double*>left, <const double*>right)
    return result


def apply(kernels, int function, x, y):
    """Compute y = function(x) of each element, a function of `FUNCTIONS`."""
    cdef const Kernels* table = table_of(kernels)
    cdef Py_ssize_t n = x.size
    cdef const void* source = address(x)
    cdef void* target = address(y)
    cdef bint single = x.itemsize == 4
    with nogil:
        if single:
            elementwise[float](table, function, n, <const float*>source, <float*>target)
        else:
            elementwise[double](table, function, n, <const double*>source, <double*>target)


def softmax(kernels, x, y, bint logarithm):
    """Compute softmax or its logarithm of each row of x (rows, columns)."""
    cdef const Kernels* table = table_of(kernels)
    cdef Py_ssize_t rows = x.shape[0], columns = x.shape[1]
    cdef const void* source = address(x)
    cdef void* target = address(y)
    cdef bint single = x.itemsize == 4
    with nogil:
        if single:
            softmax_of[float](table, rows, columns, <const float*>source, <float*>target, logarithm)
        else:
            softmax_of[double](table, rows, columns, <const double*>source, <double*>target, logarithm)


cdef void softmax_of(const Kernels* table, Py_ssize_t rows, Py_ssize_t columns, const real* x, real* y,
                     bint logarithm) noexcept nogil:
    cdef Py_ssize_t _, k
    cdef real highest, divisor
    cdef double total, log_total
    for _ in range(rows):
        total = exponentials[real](table, columns, x, y, &highest)
        if logarithm:
            log_total = log_of(total)
            for k in range(columns):
                y[k] = <real>((<double>x[k] - <double>highest) - log_total)
        else:
            divisor = <real>total
            for k in range(columns):
                y[k] = y[k] / divisor
        x += columns
        y += columns


def softmax_backward(kernels, y, dy, dx, bint logarithm):
    """Compute the gradient of `softmax`'s input from that of its result y, all (rows, columns)."""
    cdef const Kernels* table = table_of(kernels)
    cdef Py_ssize_t rows = y.shape[0], columns = y.shape[1]
    cdef const void* result = address(y)
    cdef const void* gradient = address(dy)
    cdef void* target = address(dx)
    cdef bint single = y.itemsize == 4
    with nogil:
        if single:
            softmax_backward_of[float](table, rows, columns, <const float*>result, <const float*>gradient,
                                       <float*>target, logarithm)
        else:
            softmax_backward_of[double](table, rows, columns, <const double*>result, <const double*>gradient,
                                        <double*>target, logarithm)


cdef void softmax_backward_of(const Kernels* table, Py_ssize_t rows, Py_ssize_t columns, const real* y, const real* dy,
                              real* dx, bint logarithm) noexcept nogil:
    """softmax: dx = y (dy - sum(dy y)); its logarithm: dx = dy - exp(y) sum(dy)."""
    cdef Py_ssize_t _, k
    cdef real total
    for _ in range(rows):
        if logarithm:
            total = <real>sum_of[real](columns, dy)
            elementwise[real](table, ELEMENT_EXP, columns, y, dx)
            for k in range(columns):
                dx[k] = dy[k] - dx[k] * total
        else:
            total = <real>sum_of_products[real](columns, dy, y)
            for k in range(columns):
                dx[k] = y[k] * (dy[k] - total)
        y += columns
        dy += columns
        dx += columns


def cross_entropy(kernels, prediction, target, counted, shares, losses, gradient):
    """Write the gradient of the mean of -log softmax(prediction)[target], and each row's loss; return the mean.

    Parameters
    ----------
    kernels : capsule
    prediction, gradient : arrays (rows, classes)
        The gradient is 0 where a row is not counted.
    target : intp array (rows,)
        Within the classes where a row is counted.
    counted : bool array (rows,)
    shares, losses : float64 arrays
        Of the counted rows alone: the weights of their losses in the mean, and the losses.
    """
    cdef const Kernels* table = table_of(kernels)
    cdef Py_ssize_t rows = prediction.shape[0], classes = prediction.shape[1], n = shares.size
    cdef const void* scores = address(prediction)
    cdef void* result = address(gradient)
    cdef const Py_ssize_t* classes_of_rows = <const Py_ssize_t*>address(target)
    cdef const unsigned char* counts = <const unsigned char*>address(counted)
    cdef const double* weights = <const double*>address(shares)
    cdef double* values = <double*>address(losses)
    cdef bint single = prediction.itemsize == 4
    cdef double mean
    with nogil:
        if single:
            cross_entropy_of[float](table, rows, classes, <const float*>scores, classes_of_rows, counts, weights,
                                    values, <float*>result)
        else:
            cross_entropy_of[double](table, rows, classes, <const double*>scores, classes_of_rows, counts, weights,
                                     values, <double*>result)
        mean = sum_of_products[double](n, weights, values)
    return mean


cdef void cross_entropy_of(const Kernels* table, Py_ssize_t rows, Py_ssize_t classes, const real* scores,
                           const Py_ssize_t* target, const unsigned char* counted, const double* shares,
                           double* losses, real* gradient) noexcept nogil:
    cdef Py_ssize_t row, k, requested
    cdef real highest, factor
    cdef double total
    for row in range(rows):
        if counted[row]:
            requested = target[row]
            total = exponentials[real](table, classes, scores, gradient, &highest)
            losses[0] = log_of(total) - (<double>scores[requested] - <double>highest)
            factor = <real>(shares[0] / total)
            for k in range(classes):
                gradient[k] = gradient[k] * factor
            gradient[requested] = <real>(gradient[requested] - shares[0])
            losses += 1
            shares += 1
        else:
            memset(gradient, 0, classes * sizeof(real))
        scores += classes
        gradient += classes


def squared_error(prediction, target, counted, double scale, gradient):
    """Write `scale` times (prediction - target), all (rows, columns); return the sum of squares without the scale.

    `counted`, bools (rows,), or None: the difference is taken as 0 where it is False.
    """
    cdef Py_ssize_t rows = prediction.shape[0], columns = prediction.shape[1]
    cdef const void* left = address(prediction)
    cdef const void* right = address(target)
    cdef void* result = address(gradient)
    cdef const unsigned char* counts = <const unsigned char*>address_or_null(counted)
    cdef bint single = prediction.itemsize == 4
    cdef double total
    if counts == NULL:
        rows, columns = 1, rows * columns
    with nogil:
        if single:
            total = squared_error_of[float](rows, columns, <const float*>left, <const float*>right, counts,
                                            <float>scale, <float*>result)
        else:
            total = squared_error_of[double](rows, columns, <const double*>left, <const double*>right, counts, scale,
                                             <double*>result)
    return total


cdef double squared_error_of(Py_ssize_t rows, Py_ssize_t columns, const real* prediction, const real* target,
                             const unsigned char* counted, real scale, real* gradient) noexcept nogil:
    cdef Py_ssize_t size = rows * columns, start = 0, row, count
    cdef double total = 0
    if counted != NULL:
        for row in range(rows):
            if counted[row]:
                subtract[real](columns, prediction + row * columns, target + row * columns, gradient + row * columns)
            else:
                memset(gradient + row * columns, 0, columns * sizeof(real))
    while start < size:
        count = min(<Py_ssize_t>CHUNK, size - start)
        if counted == NULL:
            subtract[real](count, prediction + start, target + start, gradient + start)
        total += sum_of_products[real](count, gradient + start, gradient + start)
        multiply[real](count, gradient + start, scale)
        start += count
    return total


cdef inline void subtract(Py_ssize_t n, const real* a, const real* b, real* difference) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        difference[i] = a[i] - b[i]


cdef inline void multiply(Py_ssize_t n, real* x, real factor) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        x[i] = x[i] * factor


def sums_of_rows(rows, order, ends, sums):
    """Compute the sum of each group of rows, in float64.

    Parameters
    ----------
    rows : array (n, columns)
    order : intp array (n,)
        The rows' indices, group by group.
    ends : intp array (groups,)
        Where each group ends in `order`.
    sums : array (groups, columns)
    """
    cdef Py_ssize_t groups = ends.size, columns = rows.shape[1]
    cdef const void* source = address(rows)
    cdef void* target = address(sums)
    cdef const Py_ssize_t* indices = <const Py_ssize_t*>address(order)
    cdef const Py_ssize_t* stops = <const Py_ssize_t*>address(ends)
    cdef bint single = rows.itemsize == 4
    with nogil:
        if single:
            sums_of_rows_of[float](groups, columns, <const float*>source, indices, stops, <float*>target)
        else:
            sums_of_rows_of[double](groups, columns, <const double*>source, indices, stops, <double*>target)


cdef void sums_of_rows_of(Py_ssize_t groups, Py_ssize_t columns, const real* rows, const Py_ssize_t* order,
                          const Py_ssize_t* ends, real* sums) noexcept nogil:
    cdef double[BLOCK] total
    cdef const real* row
    cdef Py_ssize_t group, start, count, begin = 0, i
    cdef int u
    for group in range(groups):
        start = 0
        while start < columns:
            count = min(<Py_ssize_t>BLOCK, columns - start)
            memset(total, 0, sizeof(total))
            for i in range(begin, ends[group]):
                row = rows + order[i] * columns + start
                for u in range(<int>count):
                    total[u] = total[u] + row[u]
            for u in range(<int>count):
                sums[start + u] = <real>total[u]
            start += BLOCK
        begin = ends[group]
        sums += columns


def power(double base, long long exponent):
    """Return base ** exponent, for 0 <= base <= 1 and exponent >= 0, rounded once.

    By squaring, in numbers of twice the precision (T. J. Dekker, A floating-point technique for extending the available
    precision, 1971): the C library's function may differ in the last bit from processor to processor.
    """
    cdef double high = 1, low = 0, square = base, square_low = 0
    with nogil:
        while exponent > 0:
            if exponent & 1:
                multiply_pair(&high, &low, square, square_low)
            multiply_pair(&square, &square_low, square, square_low)
            exponent >>= 1
    return high


cdef inline void multiply_pair(double* high, double* low, double other, double other_low) noexcept nogil:
    """Multiply high + low by other + other_low."""
    cdef double split = 134217729.0 * high[0], a = split - (split - high[0]), a_rest = high[0] - a
    cdef double b, b_rest, product = high[0] * other, error
    split = 134217729.0 * other
    b = split - (split - other)
    b_rest = other - b
    error = ((a * b - product) + a * b_rest + a_rest * b) + a_rest * b_rest
    error += high[0] * other_low + low[0] * other
    high[0] = product + error
    low[0] = (product - high[0]) + error
