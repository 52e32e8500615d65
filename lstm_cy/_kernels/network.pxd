"""One LSTM in the form that the drivers read: sizes, weights by layer and direction, functions, order of a batch."""

from libc.string cimport memcpy, memset

from .runtime cimport blas as blas_products
from . cimport table
from .runtime.blas cimport Blas
from .runtime.memory cimport acquire, release
from .runtime.threads cimport load_acquire, store_release, workers_are_gone
from .table cimport EXTRA, LONG_SUM, OUTER_ROWS, PART_ROWS, Kernels, Product, Variant, real

cdef enum:
    # Signals are checked after about this many multiply-adds: some ten milliseconds.
    POLL_WORK = 1000000000
    # Rows below which a part is not worth a thread: with fewer rows a loaded weight is not used often enough.
    LEAST_ROWS = 2
    # Columns of a panel of int8 weights, as in narrow.pxi
    NARROW_PANEL = 64


ctypedef enum Kind:
    PLAIN, BF16, INT8


ctypedef struct Weight:
    # a matrix (outputs, inputs), and with engine "packed" its panels; owned by the Network
    Py_ssize_t outputs, inputs
    Py_ssize_t columns  # of the panels: the outputs, or with interleaved gates some more
    const void* values
    void* panels       # for products with its transpose, in forward
    void* back_panels  # for products with itself, in backward; made at first use
    # of the panels, BF16 and INT8 only for float32. `values` are then narrow too, or with BF16 and `wide` floats that
    # were rounded for the panels; int8 has no backward.
    Kind kind
    bint wide


ctypedef struct Direction:
    # one direction of one layer
    bint backwards     # from a row's last valid step to its first
    Weight ih, hh, hr  # (4H, inputs), (4H, P), (P, H); hr, the projection, only where P is not H
    # (4H,), bias_ih + bias_hh, or NULL; in a fused net in the order of its columns, never NULL; NULL with a Variant
    # that normalises, which has its own
    const void* bias
    Variant* variant   # or NULL: the plain cell
    const void* initial_h  # (P,) and
    const void* initial_c  # (H,): the state before the first step and after a reset; NULL for zeros


ctypedef struct Batch:
    # T steps of B rows. If lengths differ the rows are processed in `order`, the longest first, so that those still
    # running are always the first `active[step]`; else the three are NULL and every row has T steps.
    # With a mask a row's length is the number of its valid steps, and `valid_steps`, (B, T), has their numbers.
    # A part of a batch has its rows from `first` on.
    Py_ssize_t T, B, first
    const Py_ssize_t* order
    const Py_ssize_t* lengths  # of the row in each slot of the order
    const Py_ssize_t* active
    const Py_ssize_t* valid_steps  # of each row, or NULL: 0, 1, 2, ...
    const unsigned char* resets    # (B, T): 1 if the row's state is set to zero before the step; or NULL
    # of packed arrays, which have the rows that run at step 0 in sweep order, then those of step 1, and so on: the row
    # at which each step begins; or NULL
    const Py_ssize_t* starts


ctypedef struct Rows:
    # a (T, B, width) array of any layout: `step` and `row` are the distances, in elements, to the next step and row
    void* data
    Py_ssize_t step, row, width


ctypedef struct Saved:
    # the values of one direction of one layer that backward needs: one row for each row that ran in each step, in
    # sweep order
    void* x       # (rows, inputs), the layer's input after dropout
    void* h_prev  # (rows, P)
    void* c_prev  # (rows, H)
    void* gates   # (rows, 4H), activated
    void* tanh_c  # (rows, H)
    void* extra   # (rows, EXTRA * H + EXTRA_REST), of a Variant
    void* hidden  # (rows, H), h before projection
    void* h       # (rows, P), the new h, if it is projected or for a trace
    void* cell    # (rows, H), the new cell, only for a trace


ctypedef struct Masks:
    # the random masks of one layer, or of one of its directions, in training: bytes that are 0 or 1, D * P or D * H of
    # them in a row. Those without data are not used.
    Rows recurrent  # (1, B, width): 1 keeps an element of h for the recurrent product
    Rows zone_h     # in y's layout: 1 carries the old value of h over
    Rows zone_c     # likewise of the cell


ctypedef struct Sum:
    # a gradient that is added up over rows and steps, in parts
    void* total       # of `size` elements; NULL if there is no such gradient or none is requested
    void* rest        # the rounding errors of a long sum, else NULL
    Py_ssize_t size


ctypedef enum Status:
    DONE, NO_MEMORY, SIGNALLED, FORKED


ctypedef struct Engine:
    # the functions for products with weights
    Py_ssize_t itemsize
    const Kernels* kernels
    const Blas* blas  # NULL with engine "packed"


ctypedef struct Net:
    # a Network's content, for code without the GIL
    Engine engine
    Py_ssize_t hidden_size, output_size, num_layers, num_directions  # H, P, L, D
    bint projected
    double proj_clip  # infinity if there is no bound
    bint zoned  # whether there is zoneout
    double zone_h, zone_c  # the probabilities that an element of h and of the cell keeps its value in a step
    # gates are interleaved, and a step is one call: with engine "packed", no int8 and the plain cell, no zoneout
    bint fused
    bint bf16  # whether ih and hh are BF16
    # with bf16 the elements of a row of rounded numbers: the most of any ih, and of hh
    Py_ssize_t rounded_x, rounded_h
    Direction* directions


cdef class Packer:
    cdef Engine engine
    cdef list owned

    cdef int start(self, object kernels, object blas, Py_ssize_t itemsize) except -1
    cdef Weight weight_of(self, Py_ssize_t outputs, Py_ssize_t inputs, object given, bint gates=?,
                          bint bf16=?) except *
    cdef Weight wide_weight(self, Py_ssize_t outputs, Py_ssize_t inputs, const void* values, bint gates,
                            bint bf16=?) except *
    cdef void* packed(self, const Weight* weight, bint back) except NULL
    cdef void* packed_bf16(self, const Weight* weight, bint gates) except NULL
    cdef Py_ssize_t packed_columns(self, Py_ssize_t N)
    cdef void* packed_gates(self, Py_ssize_t inputs, Py_ssize_t hidden_size, const void* values) except NULL
    cdef void* memory(self, Py_ssize_t bytes) except NULL


cdef class Packed(Packer):
    cdef Net net

    cdef int set_sizes(self, Py_ssize_t hidden_size, Py_ssize_t output_size, Py_ssize_t num_directions,
                       Py_ssize_t directions) except -1
    cdef int set_bf16(self) except -1
    cdef int make_room_for_rounded(self, Py_ssize_t inputs) except -1
    cdef int pack_for_backward(self, bint with_dx) except -1
    cdef int pack_back(self, Weight* weight) except -1


cdef class Network(Packed):
    cdef readonly list weights, variants
    cdef readonly object initial, proj_clip
    cdef readonly tuple zoneout
    cdef readonly Py_ssize_t hidden_size, output_size
    cdef readonly object kernels
    cdef public object rounded

    cdef Variant* variant_of(self, object options, object bias, object peepholes, object norm) except NULL
    cdef int set_initial_states(self, object h, object c) except -1


cdef class Copied(Packed):
    cdef list sizes          # the bytes of each array
    cdef const char* values  # all arrays, one after the other
    cdef Py_ssize_t turn     # of comparing a part of the arrays

    cdef int copy(self, tuple addresses) except -1
    cdef void* sum_of_biases(self, Py_ssize_t count, const void* values) except NULL


cdef inline Py_ssize_t factors_row(const Engine* engine, Kind kind, Py_ssize_t K) noexcept nogil:
    """Return the elements of a row of the left side of a product over K."""
    return (K + 1) // 2 * engine.kernels.pair_floats if kind == BF16 else K


cdef inline const real* factors_of(const Engine* engine, Kind kind, Py_ssize_t rows, Py_ssize_t K, const real* a,
                                   Py_ssize_t a_row, real* space) noexcept nogil:
    """Return the left side of a product, rows of K elements: a itself, or with BF16 a rounded, in `space`.

    The rows of a are `a_row` apart, the others factors_row.
    """
    if real is float:
        if kind == BF16:
            engine.kernels.round_factors(rows, K, a, a_row, space)
            return space
    return a


cdef inline void multiply_packed(const Engine* engine, const Weight* weight, Py_ssize_t first, Py_ssize_t last,
                                 Py_ssize_t rows, const real* a, real* c, bint descending, real* space) noexcept nogil:
    """Compute `multiply` with packed weights, for outputs from `first`, where a panel begins, up to `last`."""
    cdef const char* panels = <const char*>weight.panels
    cdef Py_ssize_t K = weight.inputs, N = last - first
    cdef Product product
    if weight.kind == INT8:
        if real is float:
            panels += engine.kernels.int8_bytes(K, first)
            engine.kernels.multiply_int8(rows, K, N, a, panels, c, descending)
        return
    product = forward_product[real](engine, weight, rows, a, space)
    product.panels = panels + first * ((K + 1) // 2 if product.pairs else K) * sizeof(real)
    table.add_products[real](engine.kernels, rows, N, &product, 1, descending, c, N, c)


cdef inline void multiply(const Engine* engine, const Weight* weight, Py_ssize_t rows, const real* a, real* c,
                          bint descending, real* space) noexcept nogil:
    """Compute c (rows, outputs) += a (rows, inputs) weight^T.

    With `descending` packed weights are read from their end. If calls alternate, weights in the caches are used again.
    With bf16 `space` is for a rounded: `rows` rows of factors_row elements.
    """
    if engine.blas == NULL or weight.kind != PLAIN:
        multiply_packed[real](engine, weight, 0, weight.outputs, rows, a, c, descending, space)
    else:
        blas_products.add_product[real](engine.blas, False, True, rows, weight.outputs, weight.inputs, a,
                                        <const real*>weight.values, c)


cdef inline void multiply_half(const Engine* engine, const Weight* weight, int half, const real* a, real* c,
                               bint descending) noexcept nogil:
    """Compute the first or the second half of the panels of `multiply`, for one row and packed weights, not of bf16."""
    cdef Py_ssize_t width = table.panel_columns[real](engine.kernels, NULL), cut
    if weight.kind == INT8:
        width = NARROW_PANEL
    cut = (weight.outputs + width - 1) // width // 2 * width
    if half == 0:
        multiply_packed[real](engine, weight, 0, cut, 1, a, c, descending, NULL)
    else:
        multiply_packed[real](engine, weight, cut, weight.outputs, 1, a, c + cut, descending, NULL)


cdef inline void multiply_back(const Engine* engine, const Weight* weight, Py_ssize_t rows, const real* a, real* c,
                               bint descending) noexcept nogil:
    """Compute c (rows, inputs) += a (rows, outputs) weight; `descending` as in `multiply`, a as from factors_of."""
    cdef Product product
    if engine.blas == NULL:
        product = Product(weight.outputs, a, factors_row(engine, weight.kind, weight.outputs), 1, weight.back_panels,
                          weight.kind == BF16)
        table.add_products[real](engine.kernels, rows, weight.inputs, &product, 1, descending, c, weight.inputs, c)
    else:
        blas_products.add_product[real](engine.blas, False, False, rows, weight.inputs, weight.outputs, a,
                                        <const real*>weight.values, c)


cdef inline void add_outer(const Engine* engine, Py_ssize_t rows, Py_ssize_t M, Py_ssize_t N, const real* a,
                           Py_ssize_t part, Py_ssize_t parts, const real* b, real* space, const Sum* sum,
                           Kind kind) noexcept nogil:
    """Add one of `parts` parts of the rows of a (rows, M)^T b (rows, N) to a sum, with outer_space(...) elements.

    With BLAS there is only one part. With BF16 a and b are rounded.
    """
    cdef Py_ssize_t first = M * part // parts, last = M * (part + 1) // parts, some
    if sum.total == NULL:
        return
    cdef real* total = <real*>sum.total + first * N
    cdef real* rest = NULL if sum.rest == NULL else <real*>sum.rest + first * N
    if real is float:
        if kind == BF16:
            engine.kernels.add_outer_bf16(rows, last - first, N, a + first, M, b, space, total, rest)
            return
    if engine.blas == NULL:
        table.add_outer[real](engine.kernels, rows, last - first, N, a + first, M, b, space, total, rest)
    elif rest == NULL:
        blas_products.add_product[real](engine.blas, True, False, M, N, rows, a, b, total)
    else:
        while rows > 0:
            some = min(rows, <Py_ssize_t>LONG_SUM)
            memset(space, 0, M * N * sizeof(real))
            blas_products.add_product[real](engine.blas, True, False, M, N, some, a, b, space)
            table.add_part[real](M * N, space, total, rest)
            a += some * M
            b += some * N
            rows -= some


cdef inline Py_ssize_t outer_space(const Engine* engine, Py_ssize_t rows, Py_ssize_t M, Py_ssize_t N, bint is_long,
                                   real* precision) noexcept nogil:
    """Return the elements of working memory that `add_outer` needs; `is_long` is whether the sum has a rest."""
    if engine.blas != NULL:
        return M * N if is_long else 0
    return PART_ROWS * (OUTER_ROWS + table.packed_columns[real](engine.kernels, N, NULL))


cdef inline void add_columns(const Engine* engine, Py_ssize_t rows, const real* array, const Sum* sum) noexcept nogil:
    """Add the sums of the columns of `array` (rows, sum.size) to a sum."""
    table.column_sums[real](engine.kernels, rows, sum.size, array, <real*>sum.total, <real*>sum.rest)


cdef inline bint acquire_rests(Sum* sums, int count, Py_ssize_t rows, real* precision) noexcept nogil:
    """Acquire the memory for the rests of sums over so many rows, if they are long; False if there is none."""
    cdef Py_ssize_t size = 0
    cdef int index
    cdef real* memory
    if rows <= LONG_SUM:
        return True
    for index in range(count):
        size += sums[index].size
    if size == 0:
        return True
    memory = <real*>acquire(size * sizeof(real))
    if memory == NULL:
        return False
    memset(memory, 0, size * sizeof(real))
    for index in range(count):
        if sums[index].total != NULL:
            sums[index].rest = memory
            memory += sums[index].size
    return True


cdef inline void finish_sums(Sum* sums, int count, real* precision) noexcept nogil:
    """Add their rests to sums, and release the memory, which begins at the first rest.

    The rest of an infinite sum is NaN; the sum then stays infinite.
    """
    cdef int index
    cdef Py_ssize_t k
    cdef real whole
    cdef real* total
    cdef void* first = NULL
    for index in range(count - 1, -1, -1):
        if sums[index].rest == NULL:
            continue
        first = sums[index].rest
        total = <real*>sums[index].total
        for k in range(sums[index].size):
            whole = total[k] + (<real*>sums[index].rest)[k]
            total[k] = whole if whole == whole else total[k]
    release(first)


cdef inline void affine(const Engine* engine, Py_ssize_t rows, const real* bias, const Weight* first, const real* a,
                        const Weight* second, const real* b, bint descending, real* c, real* space) noexcept nogil:
    """Compute c (rows, columns) = bias + a first^T + b second^T; `bias` and `second` may be NULL.

    `descending` as in `multiply`. With bf16 `space` is for a and b rounded.
    """
    cdef Product[2] products
    cdef Py_ssize_t N = first.columns
    if engine.blas == NULL and first.kind != INT8:
        products[0] = forward_product[real](engine, first, rows, a, space)
        if second != NULL:
            space += 0 if space == NULL else rows * products[0].a_row
            products[1] = forward_product[real](engine, second, rows, b, space)
        table.add_products[real](engine.kernels, rows, N, products, 1 + (second != NULL), descending, bias, 0, c)
        return
    spread_bias[real](rows, N, bias, c)
    multiply[real](engine, first, rows, a, c, descending, space)
    if second != NULL:
        multiply[real](engine, second, rows, b, c, descending, space)


cdef inline Product forward_product(const Engine* engine, const Weight* weight, Py_ssize_t rows, const real* a,
                                    real* space) noexcept nogil:
    """Return the product of contiguous rows with a packed weight; with bf16 the rows are rounded in `space`."""
    cdef Py_ssize_t K = weight.inputs
    return Product(K, factors_of[real](engine, weight.kind, rows, K, a, K, space),
                   factors_row(engine, weight.kind, K), 1, weight.panels, weight.kind == BF16)


cdef inline void spread_bias(Py_ssize_t rows, Py_ssize_t width, const real* bias, real* z) noexcept nogil:
    """Set every row of z to the bias, or to zero."""
    cdef Py_ssize_t row
    if bias == NULL:
        memset(z, 0, rows * width * sizeof(real))
        return
    for row in range(rows):
        memcpy(z + row * width, bias, width * sizeof(real))


cdef inline Batch whole_batch(Py_ssize_t T, Py_ssize_t B) noexcept nogil:
    """Return a Batch of B rows of T valid steps without resets."""
    cdef Batch batch
    batch.T = T
    batch.B = B
    batch.first = 0
    batch.order = batch.lengths = batch.active = batch.valid_steps = batch.starts = NULL
    batch.resets = NULL
    return batch


cdef inline Rows rows_at(void* data, Py_ssize_t T, Py_ssize_t B, Py_ssize_t width, bint batch_first) noexcept nogil:
    """Return C-contiguous data (T, B, width), or (B, T, width), as Rows."""
    if batch_first:
        return Rows(data, width, T * width, width)
    return Rows(data, B * width, width, width)


cdef inline Py_ssize_t steps(const Batch* batch) noexcept nogil:
    """Return the number of steps in which any row runs."""
    if batch.B == 0:
        return 0
    return batch.T if batch.order == NULL else batch.lengths[batch.first]


cdef inline Py_ssize_t running(const Batch* batch, Py_ssize_t step) noexcept nogil:
    """Return the number of rows that run at `step`: the first ones of the order."""
    return batch.B if batch.order == NULL else min(max(batch.active[step] - batch.first, 0), batch.B)


cdef inline Py_ssize_t row_in(const Batch* batch, Py_ssize_t slot) noexcept nogil:
    """Return the caller's number of the row at `slot` of the order."""
    return batch.first + slot if batch.order == NULL else batch.order[batch.first + slot]


cdef inline Py_ssize_t row_after(const Batch* batch, Py_ssize_t steps_before) noexcept nogil:
    """Return the first row before which the lengths of the rows add up to at least so many steps."""
    cdef Py_ssize_t row = 0, total = 0
    while total < steps_before:
        total += batch.lengths[row]
        row += 1
    return row


cdef inline Batch part_of(const Batch* whole, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """Return one part of a batch's rows. If lengths differ, first parts get fewer rows, since these are the longest."""
    cdef Batch batch = whole[0]
    cdef Py_ssize_t total = 0, row, last = whole.B
    if whole.order == NULL:
        batch.first = whole.B * part // parts
        batch.B = whole.B * (part + 1) // parts - batch.first
        return batch
    for row in range(whole.B):
        total += whole.lengths[row]
    batch.first = row_after(whole, total * part // parts)
    if part < parts - 1:
        last = row_after(whole, total * (part + 1) // parts)
    batch.B = last - batch.first
    return batch


cdef inline Saved saved_from(const Saved* saved, const Net* network, const Direction* direction, Py_ssize_t row,
                             real* precision) noexcept nogil:
    """Return a direction's part of the tape from one of its rows on."""
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size
    cdef Saved here
    here.x = <real*>saved.x + row * direction.ih.inputs
    here.h_prev = <real*>saved.h_prev + row * P
    here.c_prev = <real*>saved.c_prev + row * H
    here.gates = <real*>saved.gates + row * 4 * H
    here.tanh_c = <real*>saved.tanh_c + row * H
    here.extra = NULL if saved.extra == NULL else <real*>saved.extra + row * (EXTRA * H + 4)
    here.hidden = NULL if saved.hidden == NULL else <real*>saved.hidden + row * H
    here.h = NULL if saved.h == NULL else <real*>saved.h + row * P
    here.cell = NULL if saved.cell == NULL else <real*>saved.cell + row * H
    return here


cdef inline Py_ssize_t offset_of(const Batch* batch, const Rows* rows, bint backwards, Py_ssize_t step,
                                 Py_ssize_t slot) noexcept nogil:
    """Return the offset in `rows`, in elements, of the row at `slot` at `step`, counted among the row's steps."""
    cdef Py_ssize_t row = row_in(batch, slot)
    if backwards:
        step = (batch.T if batch.order == NULL else batch.lengths[batch.first + slot]) - 1 - step
    if batch.starts != NULL:
        return (batch.starts[step] + batch.first + slot) * rows.row
    if batch.valid_steps != NULL:
        step = batch.valid_steps[row * batch.T + step]
    return step * rows.step + row * rows.row


cdef inline bint resets_at(const Batch* batch, Py_ssize_t step, Py_ssize_t slot) noexcept nogil:
    """Return whether the row at `slot` has its state reset before `step`; the sweep never runs backwards."""
    return batch.resets[row_in(batch, slot) * batch.T + step]


cdef inline Py_ssize_t stored_rows(const Batch* batch) noexcept nogil:
    """Return the number of rows that run, counted in each step, of packed arrays or a batch of equal lengths."""
    return batch.T * batch.B if batch.starts == NULL else batch.starts[batch.T - 1] + batch.active[batch.T - 1]


cdef inline Rows stored_at(void* data, const Batch* batch, Py_ssize_t width, bint batch_first) noexcept nogil:
    """Return C-contiguous data as Rows: packed ones, (T, B, width), or (B, T, width) with batch_first."""
    if batch.starts != NULL:
        return Rows(data, width, width, width)
    return rows_at(data, batch.T, batch.B, width, batch_first)


cdef inline void set_initial(Py_ssize_t bytes, const void* initial, void* state) noexcept nogil:
    """Set a part of a state to its initial value, zeros from NULL."""
    if initial == NULL:
        memset(state, 0, bytes)
    else:
        memcpy(state, initial, bytes)


cdef inline Masks masks_of_direction(const Masks* masks, const Net* network, Py_ssize_t direction) noexcept nogil:
    """Return the masks of one direction from those of a layer, or none from NULL."""
    cdef Masks own
    memset(&own, 0, sizeof(Masks))
    if masks == NULL:
        return own
    own = masks[0]
    if own.recurrent.data != NULL:
        own.recurrent.data = <char*>own.recurrent.data + direction * network.output_size
    if own.zone_h.data != NULL:
        own.zone_h.data = <char*>own.zone_h.data + direction * network.output_size
    if own.zone_c.data != NULL:
        own.zone_c.data = <char*>own.zone_c.data + direction * network.hidden_size
    return own


cdef inline void drop_recurrent(const Batch* batch, const Rows* mask, Py_ssize_t n, Py_ssize_t width, real scale,
                                real* h) noexcept nogil:
    """Apply recurrent dropout to the first `n` rows of h, or of its gradient."""
    cdef Py_ssize_t slot, k
    cdef const unsigned char* keep
    for slot in range(n):
        keep = <const unsigned char*>mask.data + row_in(batch, slot) * mask.row
        for k in range(width):
            h[k] = h[k] * scale if keep[k] else 0
        h += width


cdef inline Py_ssize_t rows_fitting(Py_ssize_t bytes, const Net* network, const Batch* batch) noexcept nogil:
    """Return the rows of a block whose gates take about `bytes`: at least those of a step, at most all."""
    cdef Py_ssize_t most = max(bytes // (4 * network.hidden_size * network.engine.itemsize), 128)
    return max(batch.B, min(most, 1024, batch.T * batch.B))


cdef inline Py_ssize_t step_width(const Net* network) noexcept nogil:
    """Return the elements that a step needs for one row.

    Its gates, h before projection, the cell before zoneout, and with bf16 x and h rounded.
    """
    cdef Py_ssize_t rounded = network.rounded_x + network.rounded_h
    return (4 + network.projected + network.zoned) * network.hidden_size + rounded


cdef inline Py_ssize_t block_end(const Batch* batch, Py_ssize_t start, Py_ssize_t most,
                                 Py_ssize_t* rows) noexcept nogil:
    """Return the end of the block of steps that begins at `start`: at most `most` rows in all, but at least one step.

    `rows` is set to their number; a row counts once for each step.
    """
    cdef Py_ssize_t end = start, last = steps(batch)
    rows[0] = 0
    while end < last and (end == start or rows[0] + running(batch, end) <= most):
        rows[0] += running(batch, end)
        end += 1
    return end


cdef inline void gather_states(const Batch* batch, Py_ssize_t width, const real* states, real* slots) noexcept nogil:
    """Copy the (B, width) states of a batch's rows to `slots`, in sweep order."""
    cdef Py_ssize_t slot
    for slot in range(batch.B):
        memcpy(slots + slot * width, states + row_in(batch, slot) * width, width * sizeof(real))


cdef inline void scatter_states(const Batch* batch, Py_ssize_t width, const real* slots, real* states) noexcept nogil:
    """The inverse of `gather_states`."""
    cdef Py_ssize_t slot
    for slot in range(batch.B):
        memcpy(states + row_in(batch, slot) * width, slots + slot * width, width * sizeof(real))


cdef inline Status poll_interrupt(Py_ssize_t multiply_adds, Py_ssize_t* work, Py_ssize_t* stop,
                                  bint caller) noexcept nogil:
    """Count work done; from time to time check whether a signal is to end the call.

    Only the caller's own thread asks Python; it sets `stop` for the others.
    """
    work[0] += multiply_adds
    if work[0] < POLL_WORK:
        return DONE
    work[0] = 0
    if caller and signals_pending():
        store_release(stop, 1)
    if load_acquire(stop):
        return SIGNALLED
    return FORKED if caller and workers_are_gone() else DONE


cdef Batch batch_of(Py_ssize_t T, Py_ssize_t B, object rows) except *
cdef Rows rows_of(object array, bint batch_first) except *
cdef int expect_elements(object array, Py_ssize_t count) except -1
cdef void* address(object array) except? NULL
cdef void* address_or_null(object array) except? NULL
cdef Sum sum_of(object array) except *
cdef Saved* saved_of(list tape) except? NULL
cdef Saved* saved_at(const Net* network, size_t memory, Py_ssize_t rows) except? NULL
cdef unsigned char** keep_at(size_t memory, Py_ssize_t num_layers, Py_ssize_t size) except? NULL
cdef Masks* masks_of(list masks, bint batch_first) except? NULL
cdef unsigned char** addresses(list arrays) except? NULL
cdef int signals_pending() noexcept with gil
cdef int check(int status) except -1
