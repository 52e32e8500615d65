"""A linear map and its weights, packed as an LSTM's are: a row's result does not depend on the rows beside it."""

from .network cimport DONE, Packer, Status, address, address_or_null, affine, after, check

cdef enum:
    # The inputs of a block of rows: they stay in the L2 cache while every panel meets them.
    BLOCK_BYTES = 262144


cdef class Affine(Packer):
    """y = x W^T + b.

    Parameters
    ----------
    kernels, blas, itemsize :
        As for Network.
    weight : array (outputs, inputs)
    bias : array (outputs,) or None
        C-contiguous, of that precision; they are kept, not copied.
    """

    def __cinit__(self, kernels, blas, Py_ssize_t itemsize, weight, bias):
        self.start(kernels, blas, itemsize)
        self.owned.append((weight, bias))
        outputs, inputs = weight.shape
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
                status = after(some * inputs * outputs, &work, &stop, True)
            self.engine.kernels.restore_denormals(denormals)
        check(status)


cdef void apply(const Map* map, Py_ssize_t rows, const void* x, void* y) noexcept nogil:
    if map.engine.itemsize == 4:
        affine[float](&map.engine, rows, <const float*>map.bias, &map.weight, <const float*>x, NULL, NULL, False,
                      <float*>y)
    else:
        affine[double](&map.engine, rows, <const double*>map.bias, &map.weight, <const double*>x, NULL, NULL, False,
                       <double*>y)
