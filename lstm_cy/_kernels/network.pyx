"""One LSTM as the drivers read it, and how Python's arrays become what they work on."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY
from libc.string cimport memset

from . cimport table
from .memory cimport Buffer
from .table cimport Activation

cdef extern from "Python.h":
    # cpython.exc declares it with "except -1": the exception would be taken here instead of staying set for `check`
    int PyErr_CheckSignals()


cdef class Packer:
    """What owns weights: the tables of functions that make products with them, and the memory of packed ones."""

    cdef int start(self, object kernels, object blas, Py_ssize_t itemsize) except -1:
        """Take the tables' capsules, as Network gets them, and the bytes of an element."""
        if itemsize not in (4, 8):
            raise ValueError(f"itemsize: expected 4 or 8, got {itemsize}")
        self.engine.kernels = <const Kernels*>PyCapsule_GetPointer(kernels, "lstm_cy.kernels")
        self.engine.blas = NULL
        if blas is not None:
            self.engine.blas = <const Blas*>PyCapsule_GetPointer(blas, "lstm_cy.blas")
        self.engine.itemsize = itemsize
        self.owned = []
        return 0

    cdef Weight weight_of(self, Py_ssize_t outputs, Py_ssize_t inputs, object given, bint gates=False) except *:
        """A weight from its array, or the pair that a narrow one is, packed where our own products need it.

        With `gates` the outputs are four gates, to be interleaved.
        """
        cdef Weight weight
        cdef const Kernels* kernels = self.engine.kernels
        values, scales = given if isinstance(given, tuple) else (given, None)
        if outputs < 1 or inputs < 1:
            raise ValueError(f"weight: expected at least one row and column, got {outputs} x {inputs}")
        expect_elements(values, outputs * inputs)
        if scales is not None:
            expect_elements(scales, outputs)
        weight.outputs = weight.columns = outputs
        weight.inputs = inputs
        weight.values = address(values)
        weight.panels = weight.back_panels = NULL
        weight.kind = PLAIN if values is given else BF16 if scales is None else INT8
        if weight.kind == BF16:
            weight.panels = self.memory(kernels.bf16_bytes(inputs, outputs))
            kernels.pack_bf16(inputs, outputs, <const unsigned short*>weight.values, weight.panels)
        elif weight.kind == INT8:
            weight.panels = self.memory(kernels.int8_bytes(inputs, outputs))
            kernels.pack_int8(inputs, outputs, <const signed char*>weight.values, <const float*>address(scales),
                              weight.panels)
        elif gates:
            weight.columns = self.packed_columns(outputs)
            weight.panels = self.packed_gates(inputs, outputs // 4, weight.values)
        elif self.engine.blas == NULL:
            weight.panels = self.packed(&weight, False)
        return weight

    cdef void* packed(self, const Weight* weight, bint back) except NULL:
        """The panels of a weight, or of its transpose for backward, in memory that lives as long as this."""
        cdef Py_ssize_t K = weight.outputs if back else weight.inputs, N = weight.inputs if back else weight.outputs
        cdef Py_ssize_t k_step = weight.inputs if back else 1, n_step = 1 if back else weight.inputs
        cdef void* panels = self.memory(K * self.packed_columns(N) * self.engine.itemsize)
        if self.engine.itemsize == 4:
            table.pack[float](self.engine.kernels, K, N, <const float*>weight.values, k_step, n_step, <float*>panels)
        else:
            table.pack[double](self.engine.kernels, K, N, <const double*>weight.values, k_step, n_step, <double*>panels)
        return panels

    cdef Py_ssize_t packed_columns(self, Py_ssize_t N):
        if self.engine.itemsize == 4:
            return table.packed_columns[float](self.engine.kernels, N, NULL)
        return table.packed_columns[double](self.engine.kernels, N, NULL)

    cdef void* packed_gates(self, Py_ssize_t inputs, Py_ssize_t hidden_size, const void* values) except NULL:
        """The panels of four gates' weights (4H, inputs), or of their biases (4H, 1); from NULL, zeros."""
        cdef Py_ssize_t bytes = inputs * self.packed_columns(4 * hidden_size) * self.engine.itemsize
        cdef void* panels = self.memory(bytes)
        if values == NULL:
            memset(panels, 0, bytes)
        elif self.engine.itemsize == 4:
            table.pack_gates[float](self.engine.kernels, inputs, hidden_size, <const float*>values, 1, inputs,
                                    <float*>panels)
        else:
            table.pack_gates[double](self.engine.kernels, inputs, hidden_size, <const double*>values, 1, inputs,
                                     <double*>panels)
        return panels

    cdef void* memory(self, Py_ssize_t bytes) except NULL:
        """Memory in whole cache lines that lives as long as this."""
        cdef Buffer buffer = Buffer(bytes)
        self.owned.append(buffer)
        return buffer.memory


cdef class Network(Packer):
    """The weights of all layers and directions, immutable, with the tables of functions that work on them.

    Parameters
    ----------
    kernels : capsule
        The table of an instruction set.
    blas : capsule or None
        The products of engine "blas"; with None the weights are packed in panels for our own.
    hidden_size, output_size, num_directions : int
        H, P and D; a layer whose P is not H projects.
    reverse : bool
        Whether the only direction runs backwards; with two the second one does.
    itemsize : int
        Bytes of an element: 4 (float32) or 8 (float64).
    weights : list of (inputs, weight_ih, weight_hh, weight_hr, bias, peepholes, norm), one for each layer and direction
        C-contiguous arrays of that precision, the last four None where there are none; they are kept, not copied. A
        narrow weight is a pair: (uint16 array of bf16, None) or (int8 array, float32 scale of each row); it needs no
        BLAS and has no backward.
    proj_clip : float or None
    variants : None or list of (three of (kind, alpha, beta), coupling, clip or None, cell_clip or None)
        None: every cell is the plain one; else for each direction of a layer the activations, as numbers of table.pxd's
        ActivationKind, the number of a Coupling, and the bounds.
    """

    def __cinit__(self, kernels, blas, Py_ssize_t hidden_size, Py_ssize_t output_size, Py_ssize_t num_directions,
                  bint reverse, Py_ssize_t itemsize, list weights, proj_clip, list variants):
        self.start(kernels, blas, itemsize)
        if num_directions not in (1, 2) or not weights or len(weights) % num_directions:
            raise ValueError("Network: expected weights for each layer, of one or two directions")
        self.owned.append(weights)
        self.net.engine = self.engine
        self.net.hidden_size = hidden_size
        self.net.output_size = output_size
        self.net.projected = output_size != hidden_size
        self.net.proj_clip = bound_of(proj_clip)
        self.net.num_directions = num_directions
        self.net.num_layers = len(weights) // num_directions
        self.net.directions = <Direction*>PyMem_Calloc(len(weights), sizeof(Direction))
        if self.net.directions == NULL:
            raise MemoryError
        narrow = any(isinstance(given, tuple) for _, *two, _, _, _, _ in weights for given in two)
        self.net.fused = blas is None and not (narrow or self.net.projected or variants)
        cdef Direction* way = self.net.directions
        for index, (inputs, weight_ih, weight_hh, weight_hr, bias, peepholes, norm) in enumerate(weights):
            way.backwards = reverse or index % num_directions == 1
            way.ih = self.weight_of(4 * hidden_size, inputs, weight_ih, self.net.fused)
            way.hh = self.weight_of(4 * hidden_size, output_size, weight_hh, self.net.fused)
            if self.net.projected:
                way.hr = self.weight_of(output_size, hidden_size, weight_hr)
            for vector, gates in ((bias, 4), (peepholes, 3), (norm, 4)):
                if vector is not None:
                    expect_elements(vector, gates * hidden_size)
            way.bias = address_or_null(bias)
            if variants is not None:
                way.variant = self.variant_of(variants[index % num_directions], bias, peepholes, norm)
            if norm is not None:
                way.bias = NULL
            if self.net.fused:
                way.bias = self.packed_gates(1, hidden_size, way.bias)
            way += 1

    def __dealloc__(self):
        PyMem_Free(self.net.directions)

    cdef Variant* variant_of(self, tuple options, bias, peepholes, norm) except NULL:
        """A direction's Variant, in memory that lives as long as this."""
        cdef Variant* variant = <Variant*>self.memory(sizeof(Variant))
        (gate, candidate, told), variant.coupling, clip, cell_clip = options
        variant.gate = activation_of(gate)
        variant.candidate = activation_of(candidate)
        variant.told = activation_of(told)
        variant.clip = bound_of(clip)
        variant.cell_clip = bound_of(cell_clip)
        variant.peepholes = address_or_null(peepholes)
        variant.norm = address_or_null(norm)
        variant.bias = NULL if norm is None else address_or_null(bias)
        return variant

    cdef int pack_for_backward(self) except -1:
        """Make the panels that backward needs, once."""
        cdef Py_ssize_t index
        cdef Direction* way
        with cython.critical_section(self):
            if self.engine.blas != NULL or self.net.directions[0].ih.back_panels != NULL:
                return 0
            # The one that is asked for above comes last: a MemoryError on the way leaves the next call to do it all.
            for index in range(self.net.num_layers * self.net.num_directions - 1, -1, -1):
                way = &self.net.directions[index]
                if self.net.projected:
                    way.hr.back_panels = self.packed(&way.hr, True)
                way.hh.back_panels = self.packed(&way.hh, True)
                way.ih.back_panels = self.packed(&way.ih, True)
        return 0


cdef int expect_elements(object array, Py_ssize_t count) except -1:
    """Raise unless an array has as many elements as the sizes say: else the kernels would read past its end."""
    if array.size != count:
        raise ValueError(f"weight: expected {count} elements, got {array.size}")
    return 0


cdef void* address(object array) except? NULL:
    """The address of a C-contiguous array's first element. The caller holds the array, hence the memory."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    cdef void* data = view.buf
    PyBuffer_Release(&view)
    return data


cdef void* address_or_null(object array) except? NULL:
    return NULL if array is None else address(array)


cdef Sum sum_of(object array) except *:
    """A sum in a C-contiguous array of zeros; None is no sum."""
    cdef Sum sum
    sum.total = address_or_null(array)
    sum.rest = NULL
    sum.size = 0 if array is None else array.size
    return sum


cdef double bound_of(object bound) except? -1:
    return INFINITY if bound is None else bound


cdef Activation activation_of(tuple given) except *:
    cdef Activation activation
    activation.kind, activation.alpha, activation.beta = given
    return activation


cdef Batch batch_of(Py_ssize_t T, Py_ssize_t B, tuple rows) except *:
    """A Batch from its sizes and the arrays (order, lengths, active, places, resets), each None where there is none."""
    cdef Batch batch
    order, lengths, active, places, resets = rows
    batch.T = T
    batch.B = B
    batch.first = 0
    batch.places = <const Py_ssize_t*>address_or_null(places)
    batch.resets = <const unsigned char*>address_or_null(resets)
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
    _, inner, rows.width = array.shape
    rows.data = address(array)
    rows.step = rows.width if batch_first else inner * rows.width
    rows.row = inner * rows.width if batch_first else rows.width
    return rows


cdef Saved* saved_of(list tape) except? NULL:
    """The tape's arrays, those of a Saved for each layer and direction or None; free with PyMem_Free."""
    if tape is None:
        return NULL
    cdef Saved* saved = <Saved*>PyMem_Calloc(len(tape), sizeof(Saved))
    if saved == NULL:
        raise MemoryError
    for index, arrays in enumerate(tape):
        if arrays is None:
            continue
        x, h_prev, c_prev, gates, tanh_c, extra, hidden, told, cell = arrays
        saved[index].x = address(x)
        saved[index].h_prev = address(h_prev)
        saved[index].c_prev = address(c_prev)
        saved[index].gates = address(gates)
        saved[index].tanh_c = address(tanh_c)
        saved[index].extra = address_or_null(extra)
        saved[index].hidden = address_or_null(hidden)
        saved[index].told = address_or_null(told)
        saved[index].cell = address_or_null(cell)
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
    if status == FORKED:
        raise RuntimeError("a handler of a signal has forked in the middle of this call, and the child, which has none "
                           "of its worker threads, cannot finish it: call again")
    return -1 if status == SIGNALLED else 0  # the signal's exception is already set
