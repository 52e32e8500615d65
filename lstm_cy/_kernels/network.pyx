"""One LSTM in the form that the drivers read, and the conversion of Python's arrays to it."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY
from libc.string cimport memcmp, memcpy, memset

from . cimport table
from .runtime.memory cimport Buffer
from .table cimport (
    AFFINE, CACHE_LINE, ELU, EXTRA, EXTRA_REST, FORGET_IS_REST, HARDSIGMOID, INPUT_IS_REST, LEAKYRELU, NOT_COUPLED,
    RELU, SCALEDTANH, SHARES, SHARE_BIAS, SHARE_NORM, SHARE_PEEPHOLE, SIGMOID, SOFTPLUS, SOFTSIGN, TANH,
    THRESHOLDEDRELU, Activation, real,
)

cdef extern from "Python.h":
    # cpython.exc declares it with "except -1": the exception would be handled here and not stay set for `check`
    int PyErr_CheckSignals()


# The constants of table.pxd that Python needs.
ACTIVATION_KINDS = {
    "sigmoid": SIGMOID, "tanh": TANH, "relu": RELU, "affine": AFFINE, "leakyrelu": LEAKYRELU,
    "thresholdedrelu": THRESHOLDEDRELU, "scaledtanh": SCALEDTANH, "hardsigmoid": HARDSIGMOID, "elu": ELU,
    "softsign": SOFTSIGN, "softplus": SOFTPLUS,
}
COUPLING_KINDS = {None: NOT_COUPLED, "f=1-i": FORGET_IS_REST, "i=1-f": INPUT_IS_REST}
CACHE_LINE_BYTES = CACHE_LINE
# Numbers of a row: EXTRA_PARTS[0] * H + EXTRA_PARTS[1] of `extra`; the shares' parts begin at multiples of H.
EXTRA_PARTS = EXTRA, EXTRA_REST
SHARE_STARTS = {"bias": SHARE_BIAS, "norm": SHARE_NORM, "peephole": SHARE_PEEPHOLE, "end": SHARES}


cdef class Packer:
    """Owner of weights: it has the tables of functions for products with them, and the memory of packed ones."""

    cdef int start(self, object kernels, object blas, Py_ssize_t itemsize) except -1:
        """Set the tables from their capsules, as Network gets them, and the bytes of an element."""
        if itemsize not in (4, 8):
            raise ValueError(f"itemsize: expected 4 or 8, got {itemsize}")
        self.engine.kernels = <const Kernels*>PyCapsule_GetPointer(kernels, "lstm_cy.kernels")
        self.engine.blas = NULL
        if blas is not None:
            self.engine.blas = <const Blas*>PyCapsule_GetPointer(blas, "lstm_cy.blas")
        self.engine.itemsize = itemsize
        self.owned = []
        return 0

    cdef Weight weight_of(self, Py_ssize_t outputs, Py_ssize_t inputs, object given, bint gates=False,
                          bint bf16=False) except *:
        """Return a weight from its array, or from the pair of a narrow one, packed if our own products need it.

        With `gates` the outputs are four gates, to be interleaved. With `bf16` an array is rounded when it is packed.
        """
        cdef Weight weight
        cdef const Kernels* kernels = self.engine.kernels
        values, scales = given if isinstance(given, tuple) else (given, None)
        if outputs < 1 or inputs < 1:
            raise ValueError(f"weight: expected at least one row and column, got {outputs} x {inputs}")
        expect_elements(values, outputs * inputs)
        if scales is not None:
            expect_elements(scales, outputs)
        if values is given:
            return self.wide_weight(outputs, inputs, address(values), gates, bf16)
        weight.outputs = weight.columns = outputs
        weight.inputs = inputs
        weight.values = address(values)
        weight.panels = weight.back_panels = NULL
        weight.kind = BF16 if scales is None else INT8
        weight.wide = False
        if scales is None:
            weight.columns = self.packed_columns(outputs) if gates else outputs
            weight.panels = self.packed_bf16(&weight, gates)
        else:
            weight.panels = self.memory(kernels.int8_bytes(inputs, outputs))
            kernels.pack_int8(inputs, outputs, <const signed char*>weight.values, <const float*>address(scales),
                              weight.panels)
        return weight

    cdef Weight wide_weight(self, Py_ssize_t outputs, Py_ssize_t inputs, const void* values, bint gates,
                            bint bf16=False) except *:
        """Return a weight from its values in the network's precision, which are kept, packed as `weight_of` does."""
        cdef Weight weight
        weight.outputs = weight.columns = outputs
        weight.inputs = inputs
        weight.values = values
        weight.panels = weight.back_panels = NULL
        weight.kind = BF16 if bf16 else PLAIN
        weight.wide = True
        if gates:
            weight.columns = self.packed_columns(outputs)
        if bf16:
            weight.panels = self.packed_bf16(&weight, gates)
        elif gates:
            weight.panels = self.packed_gates(inputs, outputs // 4, weight.values)
        elif self.engine.blas == NULL:
            weight.panels = self.packed(&weight, False)
        return weight

    cdef void* packed(self, const Weight* weight, bint back) except NULL:
        """Return the panels of a weight, or of its transpose for backward, in memory that this object owns."""
        cdef Py_ssize_t K = weight.outputs if back else weight.inputs, N = weight.inputs if back else weight.outputs
        cdef Py_ssize_t k_step = weight.inputs if back else 1, n_step = 1 if back else weight.inputs
        cdef Py_ssize_t numbers = (K + 1) // 2 if weight.kind == BF16 else K
        cdef void* panels = self.memory(numbers * self.packed_columns(N) * self.engine.itemsize)
        if weight.kind == BF16:
            self.engine.kernels.pack_bf16(K, N, <const float*>weight.values, NULL, k_step, n_step, <float*>panels)
        elif self.engine.itemsize == 4:
            table.pack[float](self.engine.kernels, K, N, <const float*>weight.values, k_step, n_step, <float*>panels)
        else:
            table.pack[double](self.engine.kernels, K, N, <const double*>weight.values, k_step, n_step, <double*>panels)
        return panels

    cdef void* packed_bf16(self, const Weight* weight, bint gates) except NULL:
        """Return the panels in bf16 of a weight, with interleaved gates or not, in memory that this object owns."""
        cdef Py_ssize_t K = weight.inputs, pairs = (K + 1) // 2
        cdef float* panels = <float*>self.memory(pairs * self.packed_columns(weight.outputs) * sizeof(float))
        cdef const float* values = NULL
        cdef const unsigned short* narrow = NULL
        if weight.wide:
            values = <const float*>weight.values
        else:
            narrow = <const unsigned short*>weight.values
        if gates:
            self.engine.kernels.pack_gates_bf16(K, weight.outputs // 4, values, narrow, 1, K, panels)
        else:
            self.engine.kernels.pack_bf16(K, weight.outputs, values, narrow, 1, K, panels)
        return panels

    cdef Py_ssize_t packed_columns(self, Py_ssize_t N):
        if self.engine.itemsize == 4:
            return table.packed_columns[float](self.engine.kernels, N, NULL)
        return table.packed_columns[double](self.engine.kernels, N, NULL)

    cdef void* packed_gates(self, Py_ssize_t inputs, Py_ssize_t hidden_size, const void* values) except NULL:
        """Return the panels of four gates' weights (4H, inputs), or of their biases (4H, 1); zeros from NULL."""
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
        """Return memory in whole cache lines that this object owns."""
        cdef Buffer buffer = Buffer(bytes)
        self.owned.append(buffer)
        return buffer.memory


cdef class Packed(Packer):
    """The weights of all layers and directions in the form that the drivers read: what Network and Copied share."""

    def __dealloc__(self):
        PyMem_Free(self.net.directions)

    cdef int set_sizes(self, Py_ssize_t hidden_size, Py_ssize_t output_size, Py_ssize_t num_directions,
                       Py_ssize_t directions) except -1:
        """Set the sizes and options of a plain cell; `directions` are those of all layers together."""
        if num_directions not in (1, 2) or directions < 1 or directions % num_directions:
            raise ValueError(f"{type(self).__name__}: expected weights for each layer, of one or two directions")
        self.net.engine = self.engine
        self.net.hidden_size = hidden_size
        self.net.output_size = output_size
        self.net.projected = output_size != hidden_size
        self.net.proj_clip = INFINITY
        self.net.num_directions = num_directions
        self.net.num_layers = directions // num_directions
        self.net.fused = self.engine.blas == NULL and not self.net.projected
        self.net.directions = <Direction*>PyMem_Calloc(directions, sizeof(Direction))
        if self.net.directions == NULL:
            raise MemoryError
        return 0

    cdef int pack_for_backward(self, bint with_dx) except -1:
        """Make the panels that backward needs, if they are not there yet; without dx the first layer needs fewer."""
        cdef Py_ssize_t index
        cdef Direction* direction
        with cython.critical_section(self):
            if self.engine.blas != NULL:
                return 0
            for index in range(self.net.num_layers * self.net.num_directions):
                direction = &self.net.directions[index]
                if self.net.projected:
                    self.pack_back(&direction.hr)
                self.pack_back(&direction.hh)
                if with_dx or index >= self.net.num_directions:
                    self.pack_back(&direction.ih)
        return 0

    cdef int pack_back(self, Weight* weight) except -1:
        if weight.back_panels == NULL:
            weight.back_panels = self.packed(weight, True)
        return 0

    cdef int set_bf16(self) except -1:
        """Make all products with weight_ih and weight_hh those of bf16; before the weights are set."""
        if self.engine.blas != NULL or self.engine.itemsize != 4:
            raise ValueError("bf16: expected 4 bytes of an element and no BLAS")
        self.net.bf16 = True
        return 0

    cdef int make_room_for_rounded(self, Py_ssize_t inputs) except -1:
        """With bf16, have room for rounded rows of so many inputs, and of h."""
        if self.net.bf16:
            self.net.rounded_x = max(self.net.rounded_x, factors_row(&self.engine, BF16, inputs))
            self.net.rounded_h = factors_row(&self.engine, BF16, self.net.output_size)
        return 0


cdef class Network(Packed):
    """The weights of all layers and directions, immutable, with the tables of functions that work on them.

    Parameters
    ----------
    kernels : capsule
        The table of an instruction set.
    blas : capsule or None
        The products of engine "blas"; with None the weights are packed in panels for our own products.
    hidden_size, output_size, num_directions : int
        H, P and D; a layer whose P is not H projects.
    reverse : bool
        Whether the only direction runs backwards; with two the second one does.
    itemsize : int
        Bytes of an element: 4 (float32) or 8 (float64).
    weights : list of (inputs, weight_ih, weight_hh, weight_hr, bias, peepholes, norm), one for each layer and direction
        C-contiguous arrays of that precision, of which the last four may be None; they are kept, not copied. A
        narrow weight is a pair: (uint16 array of bf16, None) or (int8 array, float32 scale of each row); it needs no
        BLAS and has no backward. All weight_ih and weight_hh are of one kind.
    proj_clip : float or None
    variants : None or list of (three of (kind, alpha, beta), coupling, clip or None, cell_clip or None)
        None: every cell is the plain one; else for each direction of a layer the activations, as numbers of table.pxd's
        ActivationKind, the number of a Coupling, and the bounds.
    zoneout : (float, float)
        The probabilities that an element of h and of the cell keeps its value in a step.
    initial : None or (h, c)
        The initial state of each layer and direction, C-contiguous arrays (layers * directions, P) and (..., H) of that
        precision, which are kept; None for zeros.
    bf16 : bool
        Round weight_ih and weight_hh, and what is multiplied by them or in their gradients, to bf16, also in backward;
        with arrays of float32, and without BLAS.

    Attributes
    ----------
    weights, variants, initial, proj_clip, zoneout, hidden_size, output_size, kernels :
        As given.
    rounded : Network or None
        For its owner: the network with the same weights and bf16.
    """

    def __cinit__(self, kernels, blas, Py_ssize_t hidden_size, Py_ssize_t output_size, Py_ssize_t num_directions,
                  bint reverse, Py_ssize_t itemsize, list weights, proj_clip, list variants, tuple zoneout=(0.0, 0.0),
                  tuple initial=None, bint bf16=False):
        self.start(kernels, blas, itemsize)
        self.set_sizes(hidden_size, output_size, num_directions, len(weights))
        self.weights, self.variants = weights, variants
        self.initial, self.proj_clip, self.zoneout = initial, proj_clip, zoneout
        self.hidden_size, self.output_size = hidden_size, output_size
        self.kernels = kernels
        self.net.proj_clip = bound_of(proj_clip)
        self.net.zone_h, self.net.zone_c = zoneout
        self.net.zoned = any(zoneout)
        narrow = [given for _, *two, _, _, _, _ in weights for given in two if isinstance(given, tuple)]
        int8 = any(scale is not None for _, scale in narrow)
        if bf16 or (narrow and not int8):
            self.set_bf16()
        self.net.fused = self.net.fused and not (int8 or variants or self.net.zoned)
        cdef Direction* direction = self.net.directions
        for index, (inputs, weight_ih, weight_hh, weight_hr, bias, peepholes, norm) in enumerate(weights):
            direction.backwards = reverse or index % num_directions == 1
            direction.ih = self.weight_of(4 * hidden_size, inputs, weight_ih, self.net.fused, bf16)
            direction.hh = self.weight_of(4 * hidden_size, output_size, weight_hh, self.net.fused, bf16)
            self.make_room_for_rounded(inputs)
            if self.net.projected:
                direction.hr = self.weight_of(output_size, hidden_size, weight_hr)
            for vector, gates in ((bias, 4), (peepholes, 3), (norm, 4)):
                if vector is not None:
                    expect_elements(vector, gates * hidden_size)
            direction.bias = address_or_null(bias)
            if variants is not None:
                direction.variant = self.variant_of(variants[index % num_directions], bias, peepholes, norm)
            if norm is not None:
                direction.bias = NULL
            if self.net.fused:
                direction.bias = self.packed_gates(1, hidden_size, direction.bias)
            direction += 1
        if initial is not None:
            self.set_initial_states(initial[0], initial[1])

    cdef int set_initial_states(self, h, c) except -1:
        """Set the initial states of all directions."""
        cdef Py_ssize_t count = self.net.num_layers * self.net.num_directions, index
        expect_elements(h, count * self.net.output_size)
        expect_elements(c, count * self.net.hidden_size)
        for index in range(count):
            self.net.directions[index].initial_h = (
                <char*>address(h) + index * self.net.output_size * self.engine.itemsize
            )
            self.net.directions[index].initial_c = (
                <char*>address(c) + index * self.net.hidden_size * self.engine.itemsize
            )
        return 0

    cdef Variant* variant_of(self, options, bias, peepholes, norm) except NULL:
        """Return a direction's Variant, in memory that this object owns."""
        cdef Variant* variant = <Variant*>self.memory(sizeof(Variant))
        (gate, candidate, cell), variant.coupling, clip, cell_clip = options
        variant.gate = activation_of(gate)
        variant.candidate = activation_of(candidate)
        variant.cell = activation_of(cell)
        variant.clip = bound_of(clip)
        variant.cell_clip = bound_of(cell_clip)
        variant.peepholes = address_or_null(peepholes)
        variant.norm = address_or_null(norm)
        variant.bias = NULL if norm is None else address_or_null(bias)
        return variant


cdef class Copied(Packed):
    """A network of plain cells whose weights are copied from memory, with which they can be compared later.

    Parameters
    ----------
    kernels, blas, hidden_size, output_size, num_directions, itemsize :
        As of Network.
    inputs : tuple of int
        The number of input features of each layer and direction.
    bias : bool
        Whether there are biases.
    addresses : tuple of int
        Of C-contiguous arrays of that precision, which the caller must keep during this call: for each layer and
        direction weight_ih, weight_hh, with biases bias_ih and bias_hh, with a projection weight_hr.
    bf16 : bool
        As of Network.
    """

    def __cinit__(self, kernels, blas, Py_ssize_t hidden_size, Py_ssize_t output_size, Py_ssize_t num_directions,
                  Py_ssize_t itemsize, tuple inputs, bint bias, tuple addresses, bint bf16=False):
        cdef Direction* direction
        cdef Py_ssize_t gates = 4 * hidden_size, of_inputs, first = 0
        self.start(kernels, blas, itemsize)
        self.set_sizes(hidden_size, output_size, num_directions, len(inputs))
        if bf16:
            self.set_bf16()
        self.sizes = []
        for of_inputs in inputs:
            self.sizes += [gates * of_inputs * itemsize, gates * output_size * itemsize]
            if bias:
                self.sizes += [gates * itemsize] * 2
            if self.net.projected:
                self.sizes.append(hidden_size * output_size * itemsize)
        self.values = <const char*>self.memory(sum(self.sizes))
        self.copy(addresses)
        cdef const char* values = self.values
        direction = self.net.directions
        for of_inputs in inputs:
            direction.backwards = first % num_directions == 1
            first += 1
            direction.ih = self.wide_weight(gates, of_inputs, values, self.net.fused, bf16)
            self.make_room_for_rounded(of_inputs)
            values += gates * of_inputs * itemsize
            direction.hh = self.wide_weight(gates, output_size, values, self.net.fused, bf16)
            values += gates * output_size * itemsize
            if bias:
                direction.bias = self.sum_of_biases(gates, values)
                values += 2 * gates * itemsize
            if self.net.fused:
                direction.bias = self.packed_gates(1, hidden_size, direction.bias)
            if self.net.projected:
                direction.hr = self.wide_weight(output_size, hidden_size, values, False)
                values += hidden_size * output_size * itemsize
            direction += 1

    cdef int copy(self, tuple addresses) except -1:
        """Copy all weights to `values`, one after the other."""
        cdef char* target = <char*>self.values
        cdef Py_ssize_t size
        for position, size in zip(addresses, self.sizes, strict=True):
            memcpy(target, <const char*><size_t>position, size)
            target += size
        return 0

    cdef void* sum_of_biases(self, Py_ssize_t count, const void* values) except NULL:
        """Return the sum of two biases, one after the other, in memory that this object owns."""
        cdef void* sum = self.memory(count * self.engine.itemsize)
        if self.engine.itemsize == 4:
            add_halves[float](count, <const float*>values, <float*>sum)
        else:
            add_halves[double](count, <const double*>values, <double*>sum)
        return sum

    def equals(self, tuple addresses, Py_ssize_t most):
        """Return whether the memory at the addresses, as of the weights, has the bytes that were copied.

        Parameters
        ----------
        addresses : tuple of int
            The caller must keep the memory.
        most : int
            The largest number of bytes of each array to compare, in evenly spaced cache lines; -1 for all. Each call
            compares others, until all have been compared.
        """
        cdef Py_ssize_t size, start, step
        cdef const char* ours = self.values
        cdef const char* theirs
        self.turn += 1
        for position, size in zip(addresses, self.sizes, strict=True):
            theirs = <const char*><size_t>position
            if most < 0 or size <= most:
                if memcmp(ours, theirs, size) != 0:
                    return False
            else:
                step = (size // most + 1) * CACHE_LINE
                for start in range(self.turn * CACHE_LINE % step, size, step):
                    if memcmp(ours + start, theirs + start, min(size - start, <Py_ssize_t>CACHE_LINE)) != 0:
                        return False
            ours += size
        return True


cdef void add_halves(Py_ssize_t count, const real* values, real* sum) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        sum[k] = values[k] + values[count + k]


cdef int expect_elements(object array, Py_ssize_t count) except -1:
    """Raise unless an array has `count` elements: else the kernels would read past its end."""
    if array.size != count:
        raise ValueError(f"weight: expected {count} elements, got {array.size}")
    return 0


cdef void* address(object array) except? NULL:
    """Return the address of a C-contiguous array's first element. The caller must keep the array."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    cdef void* data = view.buf
    PyBuffer_Release(&view)
    return data


cdef void* address_or_null(object array) except? NULL:
    return NULL if array is None else address(array)


cdef Sum sum_of(object array) except *:
    """Return the Sum of a C-contiguous array of zeros; with None it has no total."""
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


cdef Batch batch_of(Py_ssize_t T, Py_ssize_t B, object rows) except *:
    """Return a Batch from its sizes and the arrays of a RowOrder, or None for each; packed arrays have their own T."""
    order, lengths, active, valid_steps, resets, starts = rows
    cdef Batch batch = whole_batch(T if starts is None else starts.size, B)
    batch.valid_steps = <const Py_ssize_t*>address_or_null(valid_steps)
    batch.resets = <const unsigned char*>address_or_null(resets)
    batch.order = <const Py_ssize_t*>address_or_null(order)
    batch.lengths = <const Py_ssize_t*>address_or_null(lengths)
    batch.active = <const Py_ssize_t*>address_or_null(active)
    batch.starts = <const Py_ssize_t*>address_or_null(starts)
    return batch


cdef Rows rows_of(object array, bint batch_first) except *:
    """Return a C-contiguous (T, B, width) array, or (B, T, width), as Rows; with None the data are NULL."""
    if array is None:
        return rows_at(NULL, 0, 0, 0, batch_first)
    T, B, width = array.shape
    if batch_first:
        T, B = B, T
    return rows_at(address(array), T, B, width, batch_first)


cdef Saved* saved_of(list tape) except? NULL:
    """Return the tape's arrays as a Saved for each layer and direction; free it with PyMem_Free."""
    if tape is None:
        return NULL
    cdef Saved* saved = <Saved*>PyMem_Calloc(len(tape), sizeof(Saved))
    if saved == NULL:
        raise MemoryError
    for index, arrays in enumerate(tape):
        if arrays is None:
            continue
        x, h_prev, c_prev, gates, tanh_c, extra, hidden, h, cell = arrays
        saved[index].x = address(x)
        saved[index].h_prev = address(h_prev)
        saved[index].c_prev = address(c_prev)
        saved[index].gates = address(gates)
        saved[index].tanh_c = address(tanh_c)
        saved[index].extra = address_or_null(extra)
        saved[index].hidden = address_or_null(hidden)
        saved[index].h = address_or_null(h)
        saved[index].cell = address_or_null(cell)
    return saved


def tape_width(Py_ssize_t inputs, Py_ssize_t hidden_size, Py_ssize_t output_size):
    """Return the elements of a row of the tape that `saved_at` cuts, for one direction of one layer."""
    cdef Py_ssize_t projected = 1 if output_size != hidden_size else 0
    return inputs + output_size + 6 * hidden_size + projected * (hidden_size + output_size)


cdef Saved* saved_at(const Net* network, size_t memory, Py_ssize_t rows) except? NULL:
    """Return the arrays of a tape at an address, one after the other; NULL for address 0. Free it with PyMem_Free."""
    cdef Py_ssize_t directions = network.num_layers * network.num_directions, index
    cdef Py_ssize_t of_h = rows * network.output_size * network.engine.itemsize
    cdef Py_ssize_t of_c = rows * network.hidden_size * network.engine.itemsize
    cdef char* free = <char*>memory
    cdef Saved* saved
    if memory == 0:
        return NULL
    saved = <Saved*>PyMem_Calloc(directions, sizeof(Saved))
    if saved == NULL:
        raise MemoryError
    for index in range(directions):
        saved[index].x = cut(&free, rows * network.directions[index].ih.inputs * network.engine.itemsize)
        saved[index].h_prev = cut(&free, of_h)
        saved[index].c_prev = cut(&free, of_c)
        saved[index].gates = cut(&free, 4 * of_c)
        saved[index].tanh_c = cut(&free, of_c)
        if network.projected:
            saved[index].hidden = cut(&free, of_c)
            saved[index].h = cut(&free, of_h)
    return saved


cdef inline void* cut(char** free, Py_ssize_t bytes) noexcept:
    """Return the first free address, and move it on."""
    free[0] += bytes
    return free[0] - bytes


cdef unsigned char** keep_at(size_t memory, Py_ssize_t num_layers, Py_ssize_t size) except? NULL:
    """Return the masks of dropout at an address, `size` bytes for each layer but the last, as `addresses` does."""
    cdef Py_ssize_t index
    if memory == 0 or num_layers == 1:
        return NULL
    cdef unsigned char** found = <unsigned char**>PyMem_Calloc(num_layers - 1, sizeof(void*))
    if found == NULL:
        raise MemoryError
    for index in range(num_layers - 1):
        found[index] = <unsigned char*>memory + index * size
    return found


cdef Masks* masks_of(list masks, bint batch_first) except? NULL:
    """Return the Masks of each layer from triples of uint8 arrays or None; free them with PyMem_Free."""
    if masks is None:
        return NULL
    cdef Masks* found = <Masks*>PyMem_Calloc(len(masks), sizeof(Masks))
    if found == NULL:
        raise MemoryError
    for index, (recurrent, zone_h, zone_c) in enumerate(masks):
        found[index].recurrent = rows_of(recurrent, batch_first)
        found[index].zone_h = rows_of(zone_h, batch_first)
        found[index].zone_c = rows_of(zone_c, batch_first)
    return found


cdef unsigned char** addresses(list arrays) except? NULL:
    """Return the addresses of uint8 arrays, or NULL for None; free them with PyMem_Free."""
    if arrays is None:
        return NULL
    cdef unsigned char** found = <unsigned char**>PyMem_Calloc(len(arrays), sizeof(void*))
    if found == NULL:
        raise MemoryError
    for index, array in enumerate(arrays):
        found[index] = <unsigned char*>address(array)
    return found


cdef int signals_pending() noexcept with gil:
    """Return whether a signal handler has raised (Ctrl-C); the exception is then set."""
    return PyErr_CheckSignals() != 0


cdef int check(int status) except -1:
    """Raise the exception for a driver's status."""
    if status == NO_MEMORY:
        raise MemoryError("no memory for the working arrays of this call")
    if status == FORKED:
        raise RuntimeError("a signal handler has forked in the middle of this call, and the child, which has none of "
                           "its worker threads, cannot finish it: call again")
    return -1 if status == SIGNALLED else 0  # the signal's exception is already set
