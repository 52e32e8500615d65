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
        self.weight = self.weight_of(outputs, inputs, weight)
        self.bias = address_or_null(bias)

    def __call__(self, x, y):
        """Write the result for x (rows, inputs) to y (rows, outputs); both C-contiguous."""
        cdef Py_ssize_t rows = len(x), done = 0, work = 0, stop = 0
        cdef Py_ssize_t inputs = self.weight.inputs, outputs = self.weight.outputs, itemsize = self.engine.itemsize
        cdef Py_ssize_t most = max(BLOCK_BYTES // (inputs * itemsize), 64), some
        cdef const char* source = <const char*>address(x)
        cdef char* target = <char*>address(y)
        cdef unsigned int denormals
        cdef Status status = DONE
        with nogil:
            denormals = self.engine.kernels.flush_denormals()
            while done < rows and status == DONE:
                some = min(most, rows - done)
                self.apply(some, source + done * inputs * itemsize, target + done * outputs * itemsize)
                done += some
                status = after(some * inputs * outputs, &work, &stop, True)
            self.engine.kernels.restore_denormals(denormals)
        check(status)

    cdef void apply(self, Py_ssize_t rows, const void* x, void* y) noexcept nogil:
        if self.engine.itemsize == 4:
            affine[float](&self.engine, rows, <const float*>self.bias, &self.weight, <const float*>x, NULL, NULL,
                          False, <float*>y)
        else:
            affine[double](&self.engine, rows, <const double*>self.bias, &self.weight, <const double*>x, NULL, NULL,
                           False, <double*>y)
