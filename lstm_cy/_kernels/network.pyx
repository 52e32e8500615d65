"""One LSTM as the drivers read it, and how Python's arrays become what they work on."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.pycapsule cimport PyCapsule_GetPointer


cdef class Network:
    """The weights of all layers and directions, immutable, with the tables of functions that work on them.

    Parameters
    ----------
    kernels, blas : capsules
    hidden_size, num_directions : int
    reverse : bool
        Whether the only direction runs backwards; with two the second one does.
    itemsize : int
        Bytes of an element: 4 (float32) or 8 (float64).
    weights : list of (inputs, weight_ih, weight_hh, bias or None), one for each layer and direction
        C-contiguous arrays of that precision; they are kept, not copied.
    """

    def __cinit__(self, kernels, blas, Py_ssize_t hidden_size, Py_ssize_t num_directions, bint reverse,
                  Py_ssize_t itemsize, list weights):
        self.kernels = <const Kernels*>PyCapsule_GetPointer(kernels, "lstm_cy.kernels")
        self.blas = <const Blas*>PyCapsule_GetPointer(blas, "lstm_cy.blas")
        self.hidden_size = hidden_size
        self.num_directions = num_directions
        self.num_layers = len(weights) // num_directions
        self.itemsize = itemsize
        self.owned = weights
        self.directions = <Direction*>PyMem_Calloc(len(weights), sizeof(Direction))
        if self.directions == NULL:
            raise MemoryError
        for index, (inputs, weight_ih, weight_hh, bias) in enumerate(weights):
            self.directions[index].inputs = inputs
            self.directions[index].backwards = reverse or index % num_directions == 1
            self.directions[index].weight_ih = address(weight_ih)
            self.directions[index].weight_hh = address(weight_hh)
            self.directions[index].bias = address_or_null(bias)

    def __dealloc__(self):
        PyMem_Free(self.directions)


cdef void* address(object array) except? NULL:
    """The address of a C-contiguous array's first element. The caller holds the array, hence the memory."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    cdef void* data = view.buf
    PyBuffer_Release(&view)
    return data


cdef void* address_or_null(object array) except? NULL:
    return NULL if array is None else address(array)


cdef Batch batch_of(Py_ssize_t T, Py_ssize_t B, object ragged) except *:
    """A Batch from its sizes and None or the three intp arrays (order, lengths, active)."""
    cdef Batch batch
    order, lengths, active = (None, None, None) if ragged is None else ragged
    batch.T = T
    batch.B = B
    batch.order = <const Py_ssize_t*>address_or_null(order)
    batch.lengths = <const Py_ssize_t*>address_or_null(lengths)
    batch.active = <const Py_ssize_t*>address_or_null(active)
    return batch


cdef Rows rows_of(object array, bint batch_first) except *:
    """A C-contiguous (T, B, width) array, or (B, T, width), as Rows; None has no data."""
    cdef Rows rows
    if array is None:
        rows.data = NULL
        rows.step = rows.row = rows.width = 0
        return rows
    outer, inner, rows.width = array.shape
    rows.data = address(array)
    rows.step = rows.width if batch_first else inner * rows.width
    rows.row = inner * rows.width if batch_first else rows.width
    return rows


cdef Saved* saved_of(list tape) except? NULL:
    """The tape's arrays, (x, h_prev, c_prev, gates, tanh_c) for each layer and direction; free with PyMem_Free."""
    if tape is None:
        return NULL
    cdef Saved* saved = <Saved*>PyMem_Calloc(len(tape), sizeof(Saved))
    if saved == NULL:
        raise MemoryError
    for index, (x, h_prev, c_prev, gates, tanh_c) in enumerate(tape):
        saved[index].x = address(x)
        saved[index].h_prev = address(h_prev)
        saved[index].c_prev = address(c_prev)
        saved[index].gates = address(gates)
        saved[index].tanh_c = address(tanh_c)
    return saved


cdef unsigned char** addresses(list arrays) except? NULL:
    """The addresses of uint8 arrays, or NULL for None; free with PyMem_Free."""
    if arrays is None:
        return NULL
    cdef unsigned char** found = <unsigned char**>PyMem_Calloc(len(arrays), sizeof(void*))
    if found == NULL:
        raise MemoryError
    for index, array in enumerate(arrays):
        found[index] = <unsigned char*>address(array)
    return found


cdef int signals_pending() noexcept with gil:
    """Whether a signal handler has raised (Ctrl-C); the exception is then set."""
    return PyErr_CheckSignals() != 0


cdef int check(int status) except -1:
    """Raise what a driver's status says."""
    if status == NO_MEMORY:
        raise MemoryError("no memory for the working arrays of this call")
    return -1 if status == SIGNALLED else 0  # the signal's exception is already set
