"""A linear map and its weights, packed as an LSTM's are: a row's result does not depend on the other rows."""

cimport cython
from libc.string cimport memset

from .runtime.memory cimport acquire, release
from .network cimport (
    DONE, NO_MEMORY, Engine, Packer, Status, Sum, Weight, add_columns, add_outer, address, address_or_null, affine,
    acquire_rests, check, expect_elements, finish_sums, multiply_back, outer_space, poll_interrupt, sum_of,
)
from .table cimport LONG_SUM, real

cdef enum:
    # The inputs of a block of rows: they stay in the L2 cache while all panels are read.
    BLOCK_BYTES = 262144
    # The gradients of a block of rows: each block reads and writes the weight's gradient once.
    BACKWARD_BYTES = 2097152


cdef class Affine(Packer):
    """y = x W^T + b.

    Parameters
    ----------
    kernels, blas, itemsize :
        As for Network.
    weight : array (outputs, inputs)
    bias : array (outputs,) or None
        C-contiguous, of that precision; they are kept, not copied.

    Attributes
    ----------
    weight, bias :
        As given.
    """

    def __cinit__(self, kernels, blas, Py_ssize_t itemsize, weight, bias):
        self.start(kernels, blas, itemsize)
        self.weight, self.bias = weight, bias
        outputs, inputs = weight.shape
        if bias is not None:
            expect_elements(bias, outputs)
        self.map.engine = self.engine
        self.map.weight = self.weight_of(outputs, inputs, weight)
        self.map.bias = address_or_null(bias)

    def __call__(self, x, y):
        """Write the result for x (rows, inputs) to y (rows, outputs); both C-contiguous."""
        cdef Py_ssize_t rows = len(x), done = 0, work = 0, stop = 0
        cdef Py_ssize_t inputs = self.map.weight.inputs, outputs = self.map.weight.outputs
        cdef Py_ssize_t itemsize = self.engine.itemsize
        cdef Py_ssize_t most = max(BLOCK_BYTES // (inputs * itemsize), 64), some
        cdef const char* source = <const char*>address(x)
        cdef char* target = <char*>address(y)
        cdef unsigned int denormals
        cdef Status status = DONE
        with nogil:
            denormals = self.engine.kernels.flush_denormals()
            while done < rows and status == DONE:
                some = min(most, rows - done)
                apply(&self.map, some, source + done * inputs * itemsize, target + done * outputs * itemsize)
                done += some
                status = poll_interrupt(some * inputs * outputs, &work, &stop, True)
            self.engine.kernels.restore_denormals(denormals)
        check(status)

    def backward(self, x, dy, dx, weight_sum, bias_sum):
        """Write the gradient of x (rows, inputs) to dx; add those of weight and bias to their sums, or None.

        dy is (rows, outputs); all C-contiguous.
        """
        cdef Py_ssize_t rows = len(x)
        cdef const void* source = address(x)
        cdef const void* gradient = address(dy)
        cdef void* target = address(dx)
        cdef Sum[2] sums
        cdef unsigned int denormals
        cdef Status status
        sums[0], sums[1] = sum_of(weight_sum), sum_of(bias_sum)
        self.pack_for_backward()
        with nogil:
            denormals = self.engine.kernels.flush_denormals()
            if self.engine.itemsize == 4:
                status = blocks_back[float](&self.engine, &self.map.weight, rows, <const float*>source,
                                            <const float*>gradient, <float*>target, sums)
            else:
                status = blocks_back[double](&self.engine, &self.map.weight, rows, <const double*>source,
                                             <const double*>gradient, <double*>target, sums)
            self.engine.kernels.restore_denormals(denormals)
        check(status)

    cdef int pack_for_backward(self) except -1:
        """Make the panels that backward needs, if they are not there yet."""
        with cython.critical_section(self):
            if self.engine.blas == NULL and self.map.weight.back_panels == NULL:
                self.map.weight.back_panels = self.packed(&self.map.weight, True)
        return 0


cdef void apply(const Map* map, Py_ssize_t rows, const void* x, void* y) noexcept nogil:
    if map.engine.itemsize == 4:
        affine[float](&map.engine, rows, <const float*>map.bias, &map.weight, <const float*>x, NULL, NULL, False,
                      <float*>y, NULL)
    else:
        affine[double](&map.engine, rows, <const double*>map.bias, &map.weight, <const double*>x, NULL, NULL, False,
                       <double*>y, NULL)


cdef Status blocks_back(const Engine* engine, const Weight* weight, Py_ssize_t rows, const real* x, const real* dy,
                        real* dx, Sum* sums) noexcept nogil:
    """Compute the gradients of all rows, in blocks whose gradients stay in the cache for all three products.

    `sums` are the gradients of the weight and of the bias.
    """
    cdef Py_ssize_t inputs = weight.inputs, outputs = weight.outputs, work = 0, stop = 0, some
    cdef Py_ssize_t most = min(max(BACKWARD_BYTES // (outputs * <Py_ssize_t>sizeof(real)), 128), rows)
    cdef Py_ssize_t size = outer_space[real](engine, most, outputs, inputs, rows > LONG_SUM, NULL)
    cdef real* space = <real*>acquire(size * sizeof(real))
    cdef Status status = DONE
    if space == NULL:
        return NO_MEMORY
    if not acquire_rests[real](sums, 2, rows, NULL):
        release(space)
        return NO_MEMORY
    while rows > 0 and status == DONE:
        some = min(most, rows)
        memset(dx, 0, some * inputs * sizeof(real))
        multiply_back[real](engine, weight, some, dy, dx, False)
        add_outer[real](engine, some, outputs, inputs, dy, 0, 1, x, space, &sums[0], weight.kind)
        if sums[1].total != NULL:
            add_columns[real](engine, some, dy, &sums[1])
        x += some * inputs
        dy += some * outputs
        dx += some * inputs
        rows -= some
        status = poll_interrupt(2 * some * inputs * outputs, &work, &stop, True)
    finish_sums[real](sums, 2, NULL)
    release(space)
    return status
