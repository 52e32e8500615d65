"""One LSTM as the drivers read it: sizes, weights by layer and direction, functions to call, ways through a batch."""

from libc.string cimport memcpy

from . cimport blas as blas_door
from . cimport table
from .blas cimport Blas
from .table cimport Kernels, real

cdef enum:
    # Signals are looked at after about this many multiply-adds: some ten milliseconds.
    PATIENCE = 1000000000


ctypedef enum Kind:
    PLAIN, BF16, INT8


ctypedef struct Weight:
    # a matrix (outputs, inputs), and with engine "packed" its panels; owned by the Network
    Py_ssize_t outputs, inputs
    const void* values
    void* panels       # for products with its transpose, as forward needs
    void* back_panels  # for products with itself, as backward needs; made at first use; narrow weights have none
    Kind kind          # of the panels; those of narrow weights, BF16 and INT8, are for float32


ctypedef struct Direction:
    # one direction of one layer
    bint backwards     # from a row's last valid step to its first
    Weight ih, hh      # (4H, inputs), (4H, H)
    const void* bias   # (4H,), bias_ih + bias_hh, or NULL


ctypedef struct Batch:
    # T steps of B rows. Where lengths differ the rows are worked on in `order`, the longest first, so that those still
    # running are always the first `active[step]`; else the three are NULL and every row has T steps.
    Py_ssize_t T, B
    const Py_ssize_t* order
    const Py_ssize_t* lengths  # of the row in each slot of the order
    const Py_ssize_t* active


ctypedef struct Rows:
    # a (T, B, width) array of any layout: `step` and `row` are the distances, in elements, of the next step and row
    void* data
    Py_ssize_t step, row, width


ctypedef struct Saved:
    # what backward needs of one direction of one layer, one row for each row that ran in each step, in sweep order
    void* x       # (rows, inputs), as the layer saw it
    void* h_prev  # (rows, H)
    void* c_prev  # (rows, H)
    void* gates   # (rows, 4H), activated
    void* tanh_c  # (rows, H)


ctypedef enum Status:
    DONE, NO_MEMORY, SIGNALLED


cdef class Network:
    cdef readonly Py_ssize_t hidden_size, num_layers, num_directions, itemsize
    cdef Direction* directions
    cdef const Kernels* kernels
    cdef const Blas* blas  # NULL with engine "packed"
    cdef list owned

    cdef int pack_for_backward(self) except -1
    cdef void* packed(self, const Weight* weight, bint back) except NULL
    cdef Weight weight(self, Py_ssize_t outputs, Py_ssize_t inputs, object given) except *
    cdef void* memory(self, Py_ssize_t bytes) except NULL


cdef inline void multiply(Network network, const Weight* weight, Py_ssize_t rows, const real* a, real* c,
                          bint backwards) noexcept nogil:
    """c (rows, outputs) += a (rows, inputs) weight^T; `backwards` in every other product of a row of them."""
    if weight.kind != PLAIN:
        if real is float:
            table.multiply_narrow(network.kernels, weight.kind == BF16, rows, weight.inputs, weight.outputs, a,
                                  weight.panels, c, backwards)
    elif network.blas == NULL:
        table.multiply[real](network.kernels, rows, weight.inputs, weight.outputs, a, <const real*>weight.panels, c,
                             backwards)
    else:
        blas_door.add_product[real](network.blas, False, True, rows, weight.outputs, weight.inputs, a,
                                    <const real*>weight.values, c)


cdef inline void multiply_back(Network network, const Weight* weight, Py_ssize_t rows, const real* a,
                               real* c, bint backwards) noexcept nogil:
    """c (rows, inputs) += a (rows, outputs) weight; `backwards` as in `multiply`."""
    if network.blas == NULL:
        table.multiply[real](network.kernels, rows, weight.outputs, weight.inputs, a,
                             <const real*>weight.back_panels, c, backwards)
    else:
        blas_door.add_product[real](network.blas, False, False, rows, weight.inputs, weight.outputs, a,
                                    <const real*>weight.values, c)


cdef inline void add_outer(Network network, Py_ssize_t rows, Py_ssize_t M, Py_ssize_t N, const real* a, const real* b,
                           real* space, real* c) noexcept nogil:
    """c (M, N) += a (rows, M)^T b (rows, N), with `space` for outer_space(...) elements."""
    if network.blas == NULL:
        table.add_outer[real](network.kernels, rows, M, N, a, b, space, c)
    else:
        blas_door.add_product[real](network.blas, True, False, M, N, rows, a, b, c)


cdef inline Py_ssize_t outer_space(Network network, Py_ssize_t rows, Py_ssize_t N, real* precision) noexcept nogil:
    """The elements of working space that `add_outer` needs."""
    return table.packed_elements[real](network.kernels, rows, N, NULL) if network.blas == NULL else 0


cdef inline Py_ssize_t steps(const Batch* batch) noexcept nogil:
    """The number of steps in which any row runs."""
    if batch.B == 0:
        return 0
    return batch.T if batch.order == NULL else batch.lengths[0]


cdef inline Py_ssize_t running(const Batch* batch, Py_ssize_t step) noexcept nogil:
    """The number of rows that run at `step`: the first ones of the order."""
    return batch.B if batch.order == NULL else batch.active[step]


cdef inline Py_ssize_t row_in(const Batch* batch, Py_ssize_t slot) noexcept nogil:
    """The caller's number of the row in `slot`."""
    return slot if batch.order == NULL else batch.order[slot]


cdef inline Py_ssize_t place(const Batch* batch, const Rows* rows, bint backwards, Py_ssize_t step,
                             Py_ssize_t slot) noexcept nogil:
    """Where in `rows`, in elements, stands what the row in `slot` reads or writes at the `step` of its own count."""
    if backwards:
        step = (batch.T if batch.order == NULL else batch.lengths[slot]) - 1 - step
    return step * rows.step + row_in(batch, slot) * rows.row


cdef inline Py_ssize_t rows_fitting(Py_ssize_t bytes, Network network, const Batch* batch) noexcept nogil:
    """How many rows make a block whose gates take about `bytes`: never less than a step's, nor more than there are."""
    cdef Py_ssize_t most = max(bytes // (4 * network.hidden_size * network.itemsize), 128)
    return max(batch.B, min(most, 1024, batch.T * batch.B))


cdef inline Py_ssize_t block_end(const Batch* batch, Py_ssize_t start, Py_ssize_t most,
                                 Py_ssize_t* rows) noexcept nogil:
    """The end of the block of steps that begins at `start`: at most `most` rows in all, but at least one step.

    `rows` is set to their number, each row counted at each step.
    """
    cdef Py_ssize_t end = start, last = steps(batch)
    rows[0] = 0
    while end < last and (end == start or rows[0] + running(batch, end) <= most):
        rows[0] += running(batch, end)
        end += 1
    return end


cdef inline void into_slots(const Batch* batch, Py_ssize_t H, const real* states, real* slots) noexcept nogil:
    """Copy the (B, H) states of a batch's rows into the order in which a sweep works on them."""
    cdef Py_ssize_t slot
    for slot in range(batch.B):
        memcpy(slots + slot * H, states + row_in(batch, slot) * H, H * sizeof(real))


cdef inline void out_of_slots(const Batch* batch, Py_ssize_t H, const real* slots, real* states) noexcept nogil:
    """The inverse of `into_slots`."""
    cdef Py_ssize_t slot
    for slot in range(batch.B):
        memcpy(states + row_in(batch, slot) * H, slots + slot * H, H * sizeof(real))


cdef inline Status after(Py_ssize_t multiply_adds, Py_ssize_t* work) noexcept nogil:
    """Count work done; now and then see whether a signal wants the call to end."""
    work[0] += multiply_adds
    if work[0] < PATIENCE:
        return DONE
    work[0] = 0
    return SIGNALLED if signals_pending() else DONE


cdef Batch batch_of(Py_ssize_t T, Py_ssize_t B, object ragged) except *
cdef Rows rows_of(object array, bint batch_first) except *
cdef void* address(object array) except? NULL
cdef void* address_or_null(object array) except? NULL
cdef Saved* saved_of(list tape) except? NULL
cdef unsigned char** addresses(list arrays) except? NULL
cdef int signals_pending() noexcept with gil
cdef int check(int status) except -1
