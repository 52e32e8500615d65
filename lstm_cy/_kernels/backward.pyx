"""Backward over whole sequences: back-propagation through time, on raw pointers and without the GIL.

Layers, steps and blocks of steps are processed in the opposite order of forward.pyx. Each step computes dz, the
gradient of the gates' inputs, from dh and dc, and the dh of the step before through the recurrent weights. The products
for the weights and for x are made once for each block of steps.

With several threads each block has two phases. In the first, groups of rows, which do not depend on each other, go
through all steps. In the second the products are cut by rows of their results. None of this changes the order of any
sum.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport memcpy, memset

from .runtime.memory cimport acquire, release
from .network cimport (
    BF16, DONE, LEAST_ROWS, NO_MEMORY, Batch, Direction, Masks, Net, Network, Packed, Rows, Saved, Status, Sum,
    acquire_rests, add_columns, add_outer, address, addresses, batch_of, check, drop_recurrent, factors_of,
    factors_row, finish_sums, gather_states, keep_at, masks_of, masks_of_direction, multiply_back, offset_of,
    outer_space, part_of, poll_interrupt, resets_at, rows_fitting, rows_of, running, saved_at, saved_from, saved_of,
    scatter_states, set_initial, steps, stored_at, stored_rows, sum_of,
)
from .runtime.threads cimport close_job, fetch_add, note_call, open_job, worth_sharing
from .table cimport LONG_SUM, SHARES, cell_backward, real, variant_backward

cdef enum:
    # The gate gradients of a block of steps: each block reads and writes the sums of the weights' gradients once.
    BLOCK_BYTES = 2097152
    # Rows of a weight's gradient below which a part of a product is not worth a thread
    LEAST_OUTPUTS = 32
    # Multiply-adds of a block worth sharing where its steps, those of a single row, cannot be shared
    WORTH_PRODUCTS = 20000000

cdef enum:
    # The gradients of one direction's parameters. Those of a Variant's bias, normalising scale and peepholes are its
    # shares, (11H,).
    WEIGHT_IH, WEIGHT_HH, WEIGHT_HR, BIAS, SHARED, INITIAL_H, INITIAL_C, GRADIENTS

ctypedef struct Call:
    # what the whole call works on
    Batch batch
    Py_ssize_t rows                 # of the tape
    Rows dx, dy                     # dy has no data where only the final states have gradients
    Rows[2] inner                   # between layers, in y's layout
    void* dh                        # (layers * directions, B, P): of the final states in, of the initial ones out
    void* dc                        # (layers * directions, B, H)
    unsigned char** keep            # dropout's masks, as in forward
    double scale
    Masks* masks                    # as in forward
    double recurrent_scale
    bint from_initial               # whether the initial state was that of the parameters
    Saved* tape
    Sum* sums                       # GRADIENTS for each direction
    int threads                     # that may work on it

ctypedef struct Sweep:
    # one direction of one layer, and its working arrays: the state's gradients in sweep order, and a block of rows
    const Net* network
    Call* call
    const Direction* direction
    const Saved* saved
    Sum* sums
    const Rows* dy
    Masks masks            # of the direction
    void* dh               # (B, P)
    void* dc               # (B, H)
    void* carried_h        # (B, P) and
    void* carried_c        # (B, H), only with zoneout: what goes past the cell to the step before
    void* initial_dh       # (B, P) and
    void* initial_dc       # (B, H), only with initial parameters: each row's gradients of them
    void* dz               # (rows, 4H), and
    void* rounded          # only with bf16: the left sides of products with it, `rounded_row` elements of each row
    Py_ssize_t rounded_row
    void* dx               # (rows, inputs)
    void* projected        # (rows, P), only where h is projected
    void* hidden           # (B, H), likewise
    void* shares           # (rows, 11H), only for a Variant
    void* space            # for the add_outer of each part
    Py_ssize_t space_size  # of each, in elements
    Py_ssize_t product_parts
    # the block at hand: its steps, its rows, and the first of these in the tape
    Py_ssize_t start, end, rows, first
    # what threads share: a phase, cut in parts that they take one after the other
    bint has_dx            # whether the gradient of the input is requested
    bint products          # the second phase
    Py_ssize_t parts, next


def backward(Network network, dx, dy, list inner, dh, dc, bint batch_first, rows, list keep, double scale,
             list tape, list sums, int threads, list masks=None, double recurrent_scale=1, bint from_initial=False,
             bint with_dx=True):
    """Propagate dy, dh and dc back; dx, dh, dc and the sums are written in place.

    Parameters
    ----------
    network, batch_first, rows, keep, scale, tape, masks, recurrent_scale :
        As in the call of forward.
    dx : array in x's layout, zeros
    dy : array in y's layout, or None
    inner : list of arrays in y's layout
        The gradients between layers; one array for two layers, two for more.
    dh, dc : arrays (layers * directions, B, P) and (layers * directions, B, H)
        Gradients of the final states, overwritten by those of the initial states.
    sums : list of (weight_ih, weight_hh, weight_hr, bias, shares, initial_h, initial_c), zeros
        Gradients of the parameters, for each layer and direction, the last five None where there are none. `shares`,
        (11H,), are those of the bias (4H), the normalising scale (4H) and the peepholes (3H) of a Variant, whose `bias`
        is None.
    threads : int
        How many threads may work on it, the caller's included.
    from_initial : bool
        Whether forward began with the parameters of the initial state; otherwise only resets return to them.
    with_dx : bool
        Without it dx only has x's shape, and nothing is written to it.
    """
    cdef Call call
    cdef Status status
    cdef Py_ssize_t T = dx.shape[1] if batch_first else dx.shape[0]
    call.batch = batch_of(T, dh.shape[1], rows)
    call.rows = tape[0][0].shape[0]
    call.dx = rows_of(dx, batch_first)
    if not with_dx:
        call.dx.data = NULL
    call.dy = rows_of(dy, batch_first)
    for index, array in enumerate(inner):
        call.inner[index] = rows_of(array, batch_first)
    call.dh = address(dh)
    call.dc = address(dc)
    call.scale = scale
    call.threads = threads
    call.recurrent_scale = recurrent_scale
    call.from_initial = from_initial
    call.keep = NULL
    call.masks = NULL
    call.tape = NULL
    call.sums = NULL
    network.pack_for_backward(with_dx)
    try:
        call.keep = addresses(keep)
        call.masks = masks_of(masks, batch_first)
        call.tape = saved_of(tape)
        call.sums = sums_of(sums)
        with nogil:
            status = run(&network.net, &call)
        check(status)
    finally:
        PyMem_Free(call.keep)
        PyMem_Free(call.masks)
        PyMem_Free(call.tape)
        PyMem_Free(call.sums)


def backward_at(Packed network, Py_ssize_t T, Py_ssize_t B, bint batch_first, rows, size_t dx, size_t dy, size_t dh_n,
                size_t dc_n, size_t dh, size_t dc, size_t keep, double scale, size_t tape, tuple sums, bint bias,
                int threads):
    """Propagate gradients back through a call of `forward_at`, in memory at addresses, which the caller keeps.

    Parameters
    ----------
    network, T, B, batch_first, rows, keep, scale, tape, threads :
        As in that call.
    dx : int
        Of an array of x's size, which is written; 0 if it is not requested.
    dy, dh_n, dc_n : int
        Of the gradients of y and the final states, 0 for zeros.
    dh, dc : int
        Of the gradients of the initial states, which are written.
    sums : tuple of int
        Of the gradients of the weights, which are written, in the order of `Copied`; 0 for those that are not
        requested.
    bias : bool
        Whether there are biases.
    """
    cdef Call call
    cdef const Net* net = &network.net
    cdef Py_ssize_t directions = net.num_layers * net.num_directions, width = net.num_directions * net.output_size
    cdef Py_ssize_t itemsize = net.engine.itemsize, layers_between = min(net.num_layers - 1, 2), bytes
    cdef char* inner = NULL
    cdef Status status = NO_MEMORY
    call.batch = batch_of(T, B, rows)
    call.rows = stored_rows(&call.batch)
    bytes = call.rows * width * itemsize
    call.dx = stored_at(<void*>dx, &call.batch, net.directions[0].ih.inputs, batch_first)
    call.dy = stored_at(<void*>dy, &call.batch, width, batch_first)
    call.inner[0] = call.inner[1] = call.dy
    call.dh = <void*>dh
    call.dc = <void*>dc
    set_initial(directions * B * net.output_size * itemsize, <void*>dh_n, call.dh)
    set_initial(directions * B * net.hidden_size * itemsize, <void*>dc_n, call.dc)
    call.scale = scale
    call.threads = threads
    call.recurrent_scale = 1
    call.from_initial = False
    call.masks = NULL
    call.keep = NULL
    call.tape = NULL
    call.sums = NULL
    network.pack_for_backward(dx != 0)
    try:
        call.keep = keep_at(keep, net.num_layers, call.rows * width)
        call.tape = saved_at(net, tape, call.rows)
        call.sums = sums_at(net, sums, bias)
        with nogil:
            if layers_between:
                inner = <char*>acquire(layers_between * bytes)
                call.inner[0].data = inner
                call.inner[1].data = inner + bytes
            if dx != 0:
                memset(call.dx.data, 0, call.rows * call.dx.width * itemsize)
            if layers_between == 0 or inner != NULL:
                status = run(net, &call)
            release(inner)
        check(status)
        if bias:
            copy_bias_sums(net, sums)
    finally:
        PyMem_Free(call.keep)
        PyMem_Free(call.tape)
        PyMem_Free(call.sums)


cdef Status run(const Net* network, Call* call) noexcept nogil:
    """Process a call; BLAS is not called from several threads."""
    cdef unsigned int denormals = network.engine.kernels.flush_denormals()
    cdef Status status
    if network.engine.blas != NULL:
        call.threads = 1
    if network.engine.itemsize == 4:
        status = layers[float](network, call, <float*>call.dh, <float*>call.dc)
    else:
        status = layers[double](network, call, <double*>call.dh, <double*>call.dc)
    if call.threads > 1:
        note_call()
    network.engine.kernels.restore_denormals(denormals)
    return status


cdef Sum* sums_of(list arrays) except NULL:
    cdef Sum* sums = <Sum*>PyMem_Calloc(len(arrays) * GRADIENTS, sizeof(Sum))
    if sums == NULL:
        raise MemoryError
    for index, gradients in enumerate(arrays):
        for number, array in enumerate(gradients):
            sums[index * GRADIENTS + number] = sum_of(array)
    return sums


cdef Sum* sums_at(const Net* network, tuple places, bint bias) except NULL:
    """Return the Sums of gradients at addresses, as of `backward_at`, set to zero. Both biases have one gradient."""
    cdef Py_ssize_t directions = network.num_layers * network.num_directions, H = network.hidden_size, index
    cdef Sum* sums
    cdef Sum* own
    if len(places) != directions * weights_of(network, bias):
        raise ValueError(f"sums: expected {directions * weights_of(network, bias)} addresses, got {len(places)}")
    sums = <Sum*>PyMem_Calloc(directions * GRADIENTS, sizeof(Sum))
    if sums == NULL:
        raise MemoryError
    given = iter(places)
    for index in range(directions):
        own = sums + index * GRADIENTS
        own[WEIGHT_IH] = sum_at(network, next(given), 4 * H * network.directions[index].ih.inputs)
        own[WEIGHT_HH] = sum_at(network, next(given), 4 * H * network.output_size)
        if bias:
            first, second = next(given), next(given)
            own[BIAS] = sum_at(network, first or second, 4 * H)
        if network.projected:
            own[WEIGHT_HR] = sum_at(network, next(given), network.output_size * H)
    return sums


cdef inline Py_ssize_t weights_of(const Net* network, bint bias) noexcept:
    """Return the number of weights of a direction."""
    return 2 + 2 * bias + network.projected


cdef Sum sum_at(const Net* network, size_t total, Py_ssize_t size) noexcept:
    cdef Sum sum = Sum(<void*>total, NULL, size if total else 0)
    if total:
        memset(sum.total, 0, size * network.engine.itemsize)
    return sum


cdef int copy_bias_sums(const Net* network, tuple places) except -1:
    """Copy the gradient of each first bias to the second one, if both are requested."""
    cdef Py_ssize_t index
    cdef size_t first, second
    for index in range(2, len(places), weights_of(network, True)):
        first, second = places[index], places[index + 1]
        if first and second:
            memcpy(<void*>second, <void*>first, 4 * network.hidden_size * network.engine.itemsize)
    return 0


cdef Status layers(const Net* network, Call* call, real* dh, real* dc) noexcept nogil:
    """Process all layers and directions, the last layer first; both directions add to the gradient of their input."""
    cdef Py_ssize_t D = network.num_directions, B = call.batch.B, H = network.hidden_size, P = network.output_size
    cdef Py_ssize_t stored = call.batch.T * B if call.batch.starts == NULL else call.rows
    cdef Py_ssize_t layer, direction, index
    cdef Rows target, half, source = call.dy
    cdef const unsigned char* keep
    cdef Status status
    for layer in range(network.num_layers - 1, -1, -1):
        if layer == 0:
            target = call.dx
        else:
            target = call.inner[layer % 2 if network.num_layers > 2 else 0]
            memset(target.data, 0, stored * target.width * sizeof(real))
        keep = NULL if call.keep == NULL or layer == 0 else call.keep[layer - 1]
        for direction in range(D):
            index = layer * D + direction
            half = source
            if half.data != NULL:
                half.data = <real*>source.data + direction * P
            status = sweep[real](network, call, index, &target, &half, keep, dh + index * B * P, dc + index * B * H)
            if status != DONE:
                return status
        source = target
    return DONE


cdef Status sweep(const Net* network, Call* call, Py_ssize_t index, const Rows* dx, const Rows* dy,
                  const unsigned char* keep, real* dh, real* dc) noexcept nogil:
    """Process one direction of one layer over all steps, with its working arrays."""
    cdef const Batch* batch = &call.batch
    cdef const Direction* direction = &network.directions[index]
    cdef Py_ssize_t B = batch.B, H = network.hidden_size, P = network.output_size, inputs = direction.ih.inputs
    cdef Py_ssize_t most = rows_fitting(BLOCK_BYTES, network, batch)
    cdef Py_ssize_t projected = 1 if network.projected else 0, variant = 0 if direction.variant == NULL else 1
    cdef Py_ssize_t zoned = 1 if network.zoned else 0, initial = 0 if direction.initial_h == NULL else 1
    cdef const Masks* layer_masks = NULL
    cdef Sweep this
    cdef real* scratch
    cdef Status status
    this.rounded_row = factors_row(&network.engine, BF16, 4 * H) if network.bf16 else 0
    this.space_size = outer_space[real](&network.engine, most, 4 * H, max(inputs, H), call.rows > LONG_SUM, NULL)
    this.product_parts = max(1, min(<Py_ssize_t>call.threads, 4 * H // LEAST_OUTPUTS))
    scratch = <real*>acquire((
        B * ((1 + zoned + initial) * (P + H) + projected * H) + this.product_parts * this.space_size
        + most * (4 * H + this.rounded_row + inputs + projected * P + variant * SHARES * H)
    ) * sizeof(real))
    if scratch == NULL:
        return NO_MEMORY
    if not acquire_rests[real](&call.sums[index * GRADIENTS], GRADIENTS, call.rows, NULL):
        release(scratch)
        return NO_MEMORY
    this.network = network
    this.call = call
    this.direction = direction
    this.saved = &call.tape[index]
    this.sums = &call.sums[index * GRADIENTS]
    this.dy = dy
    if call.masks != NULL:
        layer_masks = &call.masks[index // network.num_directions]
    this.masks = masks_of_direction(layer_masks, network, index % network.num_directions)
    this.space = scratch
    this.dh = <real*>this.space + this.product_parts * this.space_size
    this.dc = <real*>this.dh + B * P
    this.carried_h = <real*>this.dc + B * H
    this.carried_c = <real*>this.carried_h + zoned * B * P
    this.initial_dh = <real*>this.carried_c + zoned * B * H
    this.initial_dc = <real*>this.initial_dh + initial * B * P
    this.hidden = <real*>this.initial_dc + initial * B * H
    this.dz = <real*>this.hidden + projected * B * H
    this.rounded = <real*>this.dz + most * 4 * H
    this.dx = <real*>this.rounded + most * this.rounded_row
    this.projected = <real*>this.dx + most * inputs
    this.shares = <real*>this.projected + projected * most * P
    gather_states[real](batch, P, dh, <real*>this.dh)
    gather_states[real](batch, H, dc, <real*>this.dc)
    memset(this.initial_dh, 0, initial * B * (P + H) * sizeof(real))
    this.has_dx = dx.data != NULL
    status = blocks[real](&this, dx, keep, most, NULL)
    if initial:
        add_initial[real](&this, NULL)
    finish_sums[real](this.sums, GRADIENTS, NULL)
    scatter_states[real](batch, P, <real*>this.dh, dh)
    scatter_states[real](batch, H, <real*>this.dc, dc)
    release(scratch)
    return status


cdef void add_initial(Sweep* this, real* precision) noexcept nogil:
    """Add what the rows' first steps and resets give to the gradients of the initial state."""
    cdef Py_ssize_t B = this.call.batch.B
    if this.call.from_initial:
        add_to[real](B * this.network.output_size, <real*>this.dh, <real*>this.initial_dh)
        add_to[real](B * this.network.hidden_size, <real*>this.dc, <real*>this.initial_dc)
    add_columns[real](&this.network.engine, B, <real*>this.initial_dh, &this.sums[INITIAL_H])
    add_columns[real](&this.network.engine, B, <real*>this.initial_dc, &this.sums[INITIAL_C])


cdef inline void add_to(Py_ssize_t count, const real* more, real* sum) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        sum[k] += more[k]


cdef Status blocks(Sweep* this, const Rows* dx, const unsigned char* keep, Py_ssize_t most,
                   real* precision) noexcept nogil:
    """Process all steps of a sweep, the last block first."""
    cdef const Batch* batch = &this.call.batch
    cdef Py_ssize_t work_of_row = 8 * this.network.hidden_size * (this.direction.ih.inputs + this.direction.hh.inputs)
    cdef Py_ssize_t groups = max(1, min(this.call.threads, batch.B // LEAST_ROWS)) if this.call.threads > 1 else 0
    cdef Py_ssize_t done = 0, stop = 0, work
    cdef bint sharing
    cdef Status status
    this.first = this.call.rows
    this.end = steps(batch)
    while this.end > 0:
        this.start = block_start(batch, this.end, most, &this.rows)
        this.first -= this.rows
        work = this.rows * work_of_row
        sharing = groups > 0 and (groups > 1 or work > WORTH_PRODUCTS) and worth_sharing(work)
        this.products = False
        share(this, groups if sharing else 1)
        this.products = True
        share(this, this.product_parts if sharing else 1)
        add_sums[real](this, NULL)
        if this.has_dx:
            scatter[real](batch, dx, this.direction.backwards, this.start, this.end, keep, this.call.scale,
                          <real*>this.dx)
        this.end = this.start
        status = poll_interrupt(this.rows * work_of_row, &done, &stop, True)
        if status != DONE:
            return status
    return DONE


cdef void share(Sweep* this, Py_ssize_t parts) noexcept nogil:
    """Work on a phase in so many parts, together with the workers that join."""
    cdef bint sharing
    this.parts = parts
    this.next = 0
    sharing = parts > 1 and open_job(<int>parts - 1, join_phase, <void*>this)
    take_parts(this)
    if sharing:
        close_job()


cdef void join_phase(void* argument) noexcept nogil:
    """Take parts in a worker thread."""
    cdef Sweep* this = <Sweep*>argument
    cdef unsigned int denormals = this.network.engine.kernels.flush_denormals()
    take_parts(this)
    this.network.engine.kernels.restore_denormals(denormals)


cdef void take_parts(Sweep* this) noexcept nogil:
    """Work on one part after the other until none is left."""
    cdef Py_ssize_t part = fetch_add(&this.next, 1)
    while part < this.parts:
        if this.network.engine.itemsize == 4:
            run_part[float](this, part, NULL)
        else:
            run_part[double](this, part, NULL)
        part = fetch_add(&this.next, 1)


cdef void run_part(Sweep* this, Py_ssize_t part, real* precision) noexcept nogil:
    if this.products:
        make_products[real](this, part, NULL)
    else:
        run_steps[real](this, part, NULL)


cdef Py_ssize_t block_start(const Batch* batch, Py_ssize_t end, Py_ssize_t most, Py_ssize_t* rows) noexcept nogil:
    """Return the start of the block of steps that ends at `end`: at most `most` rows in all, but at least one step."""
    cdef Py_ssize_t start = end
    rows[0] = 0
    while start > 0 and (start == end or rows[0] + running(batch, start - 1) <= most):
        start -= 1
        rows[0] += running(batch, start)
    return start


cdef void run_steps(Sweep* this, Py_ssize_t part, real* precision) noexcept nogil:
    """Process all steps of a block for one group of rows, the last step first."""
    cdef const Batch* whole = &this.call.batch
    cdef Batch batch = part_of(whole, part, this.parts)
    cdef Py_ssize_t row = this.rows, step
    if batch.B == 0:
        return
    for step in range(this.end - 1, this.start - 1, -1):
        row -= running(whole, step)
        run_step[real](this, &batch, step, row + batch.first, NULL)


cdef void run_step(Sweep* this, const Batch* batch, Py_ssize_t step, Py_ssize_t row, real* precision) noexcept nogil:
    """Process one step: add dy to dh, compute dz and dc of the cell, and dh through the recurrent weights.

    The step's rows begin at `row` of the block.
    """
    cdef const Net* network = this.network
    cdef const Direction* direction = this.direction
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size, n = running(batch, step), slot, k
    cdef Saved saved = saved_from[real](this.saved, network, direction, this.first + row, NULL)
    cdef real* dh = <real*>this.dh + batch.first * P
    cdef real* dc = <real*>this.dc + batch.first * H
    cdef real* dz = <real*>this.dz + row * 4 * H
    cdef real* hidden = dh
    cdef const real* dy
    cdef const real* factors
    if this.dy.data != NULL:
        for slot in range(n):
            dy = <const real*>this.dy.data + offset_of(batch, this.dy, direction.backwards, step, slot)
            for k in range(P):
                dh[slot * P + k] += dy[k]
    if network.zoned:
        divert[real](batch, &this.masks.zone_h, direction.backwards, step, n, P, dh,
                     <real*>this.carried_h + batch.first * P)
        divert[real](batch, &this.masks.zone_c, direction.backwards, step, n, H, dc,
                     <real*>this.carried_c + batch.first * H)
    if network.projected:
        hidden = <real*>this.hidden + batch.first * H
        unproject[real](network, direction, n, <const real*>saved.h, dh, <real*>this.projected + row * P, hidden)
    if direction.variant == NULL:
        cell_backward[real](network.engine.kernels, n, H, <const real*>saved.gates, <const real*>saved.c_prev,
                            <const real*>saved.tanh_c, hidden, dc, dz)
    else:
        variant_backward[real](network.engine.kernels, direction.variant, n, H, <const real*>saved.gates,
                               <const real*>saved.c_prev, <const real*>saved.tanh_c, <const real*>saved.extra, hidden,
                               dc, dz, <real*>this.shares + row * SHARES * H)
    memset(dh, 0, n * P * sizeof(real))
    factors = factors_of[real](&network.engine, direction.hh.kind, n, 4 * H, dz, 4 * H,
                               <real*>this.rounded + row * this.rounded_row)
    multiply_back[real](&network.engine, &direction.hh, n, factors, dh, step % 2)
    if this.masks.recurrent.data != NULL:
        drop_recurrent[real](batch, &this.masks.recurrent, n, P, <real>this.call.recurrent_scale, dh)
    if network.zoned:
        add_to[real](n * P, <real*>this.carried_h + batch.first * P, dh)
        add_to[real](n * H, <real*>this.carried_c + batch.first * H, dc)
    if batch.resets != NULL:
        for slot in range(n):
            if resets_at(batch, step, slot):
                if direction.initial_h != NULL:
                    add_to[real](P, dh + slot * P, <real*>this.initial_dh + (batch.first + slot) * P)
                    add_to[real](H, dc + slot * H, <real*>this.initial_dc + (batch.first + slot) * H)
                memset(dh + slot * P, 0, P * sizeof(real))
                memset(dc + slot * H, 0, H * sizeof(real))


cdef void divert(const Batch* batch, const Rows* zone, bint backwards, Py_ssize_t step, Py_ssize_t n, Py_ssize_t width,
                 real* gradient, real* carried) noexcept nogil:
    """Move the gradient of the elements that zoneout kept to `carried`: the cell has no part in them."""
    cdef Py_ssize_t slot, k
    cdef const unsigned char* keep
    memset(carried, 0, n * width * sizeof(real))
    if zone.data == NULL:
        return
    for slot in range(n):
        keep = <const unsigned char*>zone.data + offset_of(batch, zone, backwards, step, slot)
        for k in range(width):
            if keep[k]:
                carried[k] = gradient[k]
                gradient[k] = 0
        gradient += width
        carried += width


cdef void unproject(const Net* network, const Direction* direction, Py_ssize_t n, const real* h, const real* dh,
                    real* projected, real* hidden) noexcept nogil:
    """Compute the gradient of `hidden` from that of h; `projected` is the one between the bound and the product."""
    cdef Py_ssize_t k
    cdef real bound = <real>network.proj_clip
    for k in range(n * network.output_size):
        projected[k] = dh[k] if -bound < h[k] < bound else 0
    memset(hidden, 0, n * network.hidden_size * sizeof(real))
    multiply_back[real](&network.engine, &direction.hr, n, projected, hidden, False)


cdef void make_products(Sweep* this, Py_ssize_t part, real* precision) noexcept nogil:
    """Compute one part of a block's products: rows of the gradients of the weights and of x."""
    cdef const Net* network = this.network
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size, inputs = this.direction.ih.inputs
    cdef Py_ssize_t rows = this.rows, begin = rows * part // this.parts, n = rows * (part + 1) // this.parts - begin
    cdef Saved saved = saved_from[real](this.saved, network, this.direction, this.first, NULL)
    cdef const real* dz = <const real*>this.dz
    cdef const real* factors
    cdef real* dx = <real*>this.dx + begin * inputs
    cdef real* space = <real*>this.space + part * this.space_size
    add_outer[real](&network.engine, rows, 4 * H, inputs, dz, part, this.parts, <const real*>saved.x, space,
                    &this.sums[WEIGHT_IH], this.direction.ih.kind)
    add_outer[real](&network.engine, rows, 4 * H, P, dz, part, this.parts, <const real*>saved.h_prev, space,
                    &this.sums[WEIGHT_HH], this.direction.hh.kind)
    if network.projected:
        add_outer[real](&network.engine, rows, P, H, <const real*>this.projected, part, this.parts,
                        <const real*>saved.hidden, space, &this.sums[WEIGHT_HR], this.direction.hr.kind)
    if not this.has_dx:
        return
    memset(dx, 0, n * inputs * sizeof(real))
    factors = <const real*>this.rounded + begin * this.rounded_row if network.bf16 else dz + begin * 4 * H
    multiply_back[real](&network.engine, &this.direction.ih, n, factors, dx, False)


cdef void add_sums(Sweep* this, real* precision) noexcept nogil:
    """Add a block's rows to the gradients of the bias, and of a Variant's other parameters."""
    if this.sums[BIAS].total != NULL:
        add_columns[real](&this.network.engine, this.rows, <const real*>this.dz, &this.sums[BIAS])
    if this.sums[SHARED].total != NULL:
        add_columns[real](&this.network.engine, this.rows, <const real*>this.shares, &this.sums[SHARED])


cdef void scatter(const Batch* batch, const Rows* dx, bint backwards, Py_ssize_t start, Py_ssize_t end,
                  const unsigned char* keep, real scale, const real* block) noexcept nogil:
    """Add the steps [start, end), in sweep order, to their places in dx, back through dropout."""
    cdef Py_ssize_t step, slot, k, here
    cdef real* target = <real*>dx.data
    for step in range(start, end):
        for slot in range(running(batch, step)):
            here = offset_of(batch, dx, backwards, step, slot)
            for k in range(dx.width):
                if keep == NULL:
                    target[here + k] += block[k]
                elif keep[here + k]:
                    target[here + k] += block[k] * scale
            block += dx.width
