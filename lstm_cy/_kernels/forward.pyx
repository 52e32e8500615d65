"""Forward over whole sequences: layers, directions and time, on raw pointers and without the GIL.

A layer is computed in blocks of steps. The inputs of a block are projected in one product, then each step adds its
recurrent product and updates the cell. The state is private, in sweep order: the order in which rows are processed.
Each step's h is copied to its offset in y. With a fused net a step is one call, which may make both products, and h is
written to y directly if y's layout allows it.

One direction of a layer, for some rows, is a sweep. Several threads take blocks of the sweeps of all layers
(pipeline.pxi), or in a single row of large layers two compute half of each product in step (team.pxi). None of this
changes the order of any sum.
"""

from cpython.mem cimport PyMem_Free
from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from .runtime.memory cimport acquire, release
from .network cimport (
    BF16, DONE, LEAST_ROWS, NO_MEMORY, Batch, Direction, Masks, Net, Network, Packed, Rows, Saved, Status, Weight,
    address, addresses, affine, batch_of, block_end, check, drop_recurrent, factors_of, factors_row, gather_states,
    keep_at, masks_of, masks_of_direction, multiply, multiply_half, offset_of, part_of, poll_interrupt, resets_at,
    rows_at, rows_fitting, rows_of, running, saved_at, saved_from, saved_of, scatter_states, set_initial,
    step_width, steps, stored_at, stored_rows, whole_batch,
)
from .runtime.threads cimport (
    await_at_least, backs_off, close_job, close_team, fetch_add, load_acquire, note_call, note_waiting, open_job,
    store_release, worth_sharing,
)
from .table cimport CACHE_LINE, CellStep, Product, cell_forward, cell_step, panel_columns, real, variant_forward

cdef enum:
    # The gates of a block of steps: enough rows for a fast product, few enough to stay in the L2 cache.
    BLOCK_BYTES = 524288
    # A step of a fused net makes both products with at most so few inputs, or at least so many rows: this costs less
    # than to write the gates and read them again. Otherwise a product over many steps reads the weights less often.
    FEW_INPUTS = 3
    MANY_ROWS = 4
    # More bytes of weights do not stay in the L2 cache: only so many rows pay for reading the inputs' at each step.
    SMALL_WEIGHTS = 262144
    MORE_ROWS = 12
    APART = 16  # elements between counters of different threads: two cache lines
    # Steps of a team's block: a second thread may join at its beginning.
    TEAM_STEPS = 64

ctypedef struct Call:
    # what the whole call works on
    Batch batch
    Rows x, y, inner                # inner: between layers, in y's layout; empty with one layer
    void* h                         # (layers * directions, B, H): initial states in, final states out
    void* c
    unsigned char** keep            # for each layer but the last, dropout's mask in y's layout: 1 keeps; or NULL
    double scale                    # of the outputs that dropout keeps
    Masks* masks                    # of each layer, in training with such options; or NULL
    double recurrent_scale          # of the elements of h that recurrent dropout keeps
    Saved* tape                     # or NULL in inference
    int threads                     # that may work on it
    Py_ssize_t stop                 # set by the caller's thread when a signal is to end the call

ctypedef struct Layer:
    # one layer
    const Net* net
    Call* call
    Py_ssize_t index                # of its first direction
    Rows source, target
    const unsigned char* keep
    const Masks* masks              # or NULL
    Team* team                      # or NULL

ctypedef struct Tape:
    # a sweep's position in its direction's part of the tape
    const Saved* saved              # or NULL in inference
    const Batch* whole              # the tape has its rows, step by step
    Py_ssize_t row                  # the first row of the step
    const Masks* masks              # of the direction, or NULL; only with `saved`
    double recurrent_scale

ctypedef struct Carried:
    # what one step of a fused net passes to the next: h, in rows `row` apart, space for the next h, and c, in sweep
    # order. If y has this layout, h is written there and read from there.
    void* h
    Py_ssize_t row
    void* spare
    void* c

ctypedef struct Sweep:
    # one direction of one layer for some rows, and how far it has been computed
    Layer* layer
    Py_ssize_t index                # of its direction
    Batch batch                     # its rows
    Py_ssize_t most, start          # rows of a block; the first step of the next one
    Rows y
    bint straight, at_once          # whether blocks of x need no copy, and whether a step makes both products
    Masks masks
    Tape tape
    void* h                         # the state in sweep order, and space that steps need
    void* c
    void* spare
    void* rounded_h
    Carried carried
    # where several threads take blocks (pipeline.pxi)
    Py_ssize_t taken                # blocks
    Py_ssize_t owner                # the thread that took the last one, from 1 on; 0 before it
    Py_ssize_t[APART] finished      # blocks

include "team.pxi"
include "pipeline.pxi"


def forward(Network network, x, y, inner, h, c, bint batch_first, rows, list keep, double scale, list tape,
            int threads, list masks=None, double recurrent_scale=1):
    """Run the network over x; y, h and c are written in place.

    Parameters
    ----------
    network : Network
    x, y, inner : arrays (T, B, width), (B, T, width) with batch_first, or packed ones, (rows, 1, width)
        `inner`, of y's shape, holds the outputs between layers; None with one layer.
    h, c : arrays (layers * directions, B, P) and (layers * directions, B, H)
        Initial states, overwritten by the final ones.
    rows : (order, lengths, active, valid_steps, resets, starts)
        Row numbers sorted by falling length, their lengths, and the number of rows running at each step; the numbers of
        a row's valid steps, (B, T); the steps before which its state is set to zero, uint8 (B, T); with packed arrays
        the row at which each step begins. Each may be None, the first three only together.
    keep : None or list of uint8 arrays of y's shape
        Dropout's mask after each layer but the last; the outputs that it keeps are multiplied by `scale`.
    tape : None or list of (x, h_prev, c_prev, gates, tanh_c, extra, hidden, h, cell)
        The arrays of a Saved (network.pxd) for each layer and direction, filled for backward or for a trace; None for a
        direction of which nothing is saved.
    threads : int
        How many threads may work on it, the caller's included.
    masks : None or list of (recurrent, zone_h, zone_c)
        Uint8 masks of each layer for training, each None where there is none: what recurrent dropout keeps, for all
        steps, with one step on the axis T, multiplied by `recurrent_scale`; and where zoneout keeps old values of h and
        the cell, of y's shape, the last one with H in place of P.
    """
    cdef Call call
    cdef Status status
    cdef Py_ssize_t T = x.shape[1] if batch_first else x.shape[0]
    call.batch = batch_of(T, h.shape[1], rows)
    call.x = rows_of(x, batch_first)
    call.y = rows_of(y, batch_first)
    call.inner = rows_of(inner, batch_first)
    call.h = address(h)
    call.c = address(c)
    call.scale = scale
    call.recurrent_scale = recurrent_scale
    call.keep = NULL
    call.masks = NULL
    call.tape = NULL
    call.threads = threads
    try:
        call.tape = saved_of(tape)
        call.keep = addresses(keep)
        call.masks = masks_of(masks, batch_first)
        with nogil:
            status = run(&network.net, &call)
        check(status)
    finally:
        PyMem_Free(call.tape)
        PyMem_Free(call.keep)
        PyMem_Free(call.masks)


def forward_at(Packed network, Py_ssize_t T, Py_ssize_t B, bint batch_first, rows, size_t x, size_t y, size_t h0,
               size_t c0, size_t h, size_t c, size_t keep, double scale, size_t tape, int threads):
    """Run a network of plain cells over memory at addresses, which the caller keeps; y, h and c are written.

    Parameters
    ----------
    network : Packed
    T, B : int
    batch_first, rows, scale, threads :
        As of `forward`; rows that differ in length are those of packed arrays.
    x, y : int
        Of C-contiguous arrays as of `forward`.
    h0, c0, h, c : int
        Of the initial states, 0 for zeros, and of the final ones, (layers * directions, B, P) and (..., H).
    keep : int
        Of the masks of all layers but the last, one after the other; 0 for none.
    tape : int
        Of tape_width(...) elements for each row, which are written for `backward_at`; 0 for none.
    """
    cdef Call call
    cdef const Net* net = &network.net
    cdef Py_ssize_t directions = net.num_layers * net.num_directions, width = net.num_directions * net.output_size
    cdef Py_ssize_t itemsize = net.engine.itemsize
    cdef void* inner = NULL
    cdef Status status = NO_MEMORY
    call.batch = batch_of(T, B, rows)
    cdef Py_ssize_t stored = stored_rows(&call.batch)
    call.x = stored_at(<void*>x, &call.batch, net.directions[0].ih.inputs, batch_first)
    call.y = stored_at(<void*>y, &call.batch, width, batch_first)
    call.h = <void*>h
    call.c = <void*>c
    set_initial(directions * B * net.output_size * itemsize, <void*>h0, call.h)
    set_initial(directions * B * net.hidden_size * itemsize, <void*>c0, call.c)
    call.scale = scale
    call.recurrent_scale = 1
    call.masks = NULL
    call.threads = threads
    call.keep = call.tape = NULL
    try:
        call.keep = keep_at(keep, net.num_layers, stored * width)
        call.tape = saved_at(net, tape, stored)
        with nogil:
            if net.num_layers > 1:
                inner = acquire(stored * width * itemsize)
            call.inner = call.y
            call.inner.data = inner
            if net.num_layers == 1 or inner != NULL:
                status = run(net, &call)
            release(inner)
        check(status)
    finally:
        PyMem_Free(call.keep)
        PyMem_Free(call.tape)


cdef Status infer(const Net* network, Py_ssize_t T, Py_ssize_t B, bint batch_first, const void* x, void* y, void* inner,
                  void* h, void* c, int threads) noexcept nogil:
    """Run the network over all steps of all rows, without a tape; all arrays are C-contiguous, as in `forward`."""
    cdef Call call
    call.batch = whole_batch(T, B)
    call.x = rows_at(<void*>x, T, B, network.directions[0].ih.inputs, batch_first)
    call.y = rows_at(y, T, B, network.num_directions * network.output_size, batch_first)
    call.inner = call.y
    call.inner.data = inner
    call.h = h
    call.c = c
    call.scale = call.recurrent_scale = 1
    call.keep = NULL
    call.masks = NULL
    call.tape = NULL
    call.threads = threads
    return run(network, &call)


cdef Status run(const Net* network, Call* call) noexcept nogil:
    """Compute a call; BLAS is not called from several threads."""
    cdef unsigned int denormals = network.engine.kernels.flush_denormals()
    cdef Status status
    if network.engine.blas != NULL:
        call.threads = 1
    call.stop = 0
    status = layers(network, call)
    if call.threads > 1:
        note_call()
    network.engine.kernels.restore_denormals(denormals)
    return status


cdef void step(const Net* network, Py_ssize_t B, bint descending, const void* x, const void* h, void* next_h, void* c,
               void* z) noexcept nogil:
    """Compute one step of B rows through all layers, which must all run forwards, without allocation.

    x (B, inputs); h and next_h (layers, B, P); c (layers, B, H), updated in place; z, space for B * step_width
    elements. The output is the last layer's next_h. All sums are in the same order as in a sequence of one step.
    """
    if network.engine.itemsize == 4:
        step_layers[float](network, B, descending, <const float*>x, <const float*>h, <float*>next_h, <float*>c,
                           <float*>z)
    else:
        step_layers[double](network, B, descending, <const double*>x, <const double*>h, <double*>next_h, <double*>c,
                            <double*>z)


cdef void step_layers(const Net* network, Py_ssize_t B, bint descending, const real* x, const real* h, real* next_h,
                      real* c, real* z) noexcept nogil:
    cdef Py_ssize_t H = network.hidden_size, layer
    cdef const Direction* direction
    cdef CellStep at
    cdef real* old_c = NULL
    cdef real* rounded = z + B * (step_width(network) - network.rounded_x - network.rounded_h)
    cdef real* rounded_h = rounded + B * network.rounded_x
    for layer in range(network.num_layers):
        direction = &network.directions[layer]
        if network.fused:
            x = factors_of[real](&network.engine, direction.ih.kind, B, direction.ih.inputs, x, direction.ih.inputs,
                                 rounded)
            at = step_of[real](network, direction, x)
            at.rows = B
            at.descending = descending
            at.products[1].a = factors_of[real](&network.engine, direction.hh.kind, B, H, h, H, rounded_h)
            at.h = next_h
            at.c = c
            cell_step[real](network.engine.kernels, &at, NULL)
        else:
            affine[real](&network.engine, B, <const real*>direction.bias, &direction.ih, x, &direction.hh, h,
                         descending, z, rounded)
            if network.zoned:
                old_c = z + B * (4 + network.projected) * H
                memcpy(old_c, c, B * H * sizeof(real))
            cell[real](network, direction, B, z, c, next_h, z + B * 4 * H, NULL)
            if network.zoned:
                mix[real](B * network.output_size, <real>network.zone_h, h, next_h)
                mix[real](B * H, <real>network.zone_c, old_c, c)
        x = next_h
        h += B * network.output_size
        next_h += B * network.output_size
        c += B * H


cdef inline CellStep step_of(const Net* network, const Direction* direction, const real* x) noexcept nogil:
    """Return a step of a fused net without what changes at each step: the last product's left side, the addresses of
    h and c, and without `x` (rows, inputs), as from factors_of, the initial values of the gates.
    """
    cdef CellStep at
    cdef int last = 0 if x == NULL else 1
    cdef Py_ssize_t width = panel_columns[real](network.engine.kernels, NULL)
    at.hidden_size = at.h_row = network.hidden_size
    at.first = 0
    at.last = (direction.hh.columns + width - 1) // width
    at.count = 1 + last
    at.products[0] = product_with[real](network, &direction.ih, x)
    at.products[last] = product_with[real](network, &direction.hh, NULL)
    at.begin = direction.bias
    at.begin_row = 0 if x != NULL else direction.hh.columns
    at.gates = at.tanh_c = NULL
    return at


cdef inline Product product_with(const Net* network, const Weight* weight, const real* a) noexcept nogil:
    """Return the product of rows that are from factors_of with a packed weight."""
    cdef Py_ssize_t K = weight.inputs
    return Product(K, a, factors_row(&network.engine, weight.kind, K), 1, weight.panels, weight.kind == BF16)


cdef Status layers(const Net* network, Call* call) noexcept nogil:
    """Compute all layers."""
    cdef bint split = call.threads > 1 and splits_steps(network, call)
    cdef Py_ssize_t number
    cdef Status status = DONE
    cdef Layer layer
    if call.threads > 1 and not split and run_pipeline(network, call, &status):
        return status
    for number in range(network.num_layers):
        layer = layer_of(network, call, number)
        status = run_layer(&layer, split)
        if status != DONE:
            break
    return status


cdef Layer layer_of(const Net* network, Call* call, Py_ssize_t number) noexcept nogil:
    """Return a layer. They write alternately to `inner` and `y`, so that the last one writes y."""
    cdef Py_ssize_t last = network.num_layers - 1
    cdef bint writes_y = (last - number) % 2 == 0
    cdef Layer layer
    layer.net = network
    layer.call = call
    layer.index = number * network.num_directions
    layer.source = call.x if number == 0 else call.inner if writes_y else call.y
    layer.target = call.y if writes_y else call.inner
    layer.keep = NULL if call.keep == NULL or number == 0 else call.keep[number - 1]
    layer.masks = NULL if call.masks == NULL else &call.masks[number]
    layer.team = NULL
    return layer


cdef Status run_layer(Layer* layer, bint split) noexcept nogil:
    """Compute one layer, with `split` in a team, if a worker is worth it."""
    cdef Py_ssize_t multiply_adds = steps(&layer.call.batch) * work_of_step(layer.net, layer.index), direction
    cdef Status status = DONE
    cdef Team team
    if split and worth_sharing(multiply_adds) and not backs_off():  # in this order: a call that asked shortens a pause
        memset(&team, 0, sizeof(Team))
        layer.team = &team
        if not open_job(1, join_team, <void*>layer):
            layer.team = NULL
    for direction in range(layer.net.num_directions):
        if status == DONE:
            if layer.net.engine.itemsize == 4:
                status = sweep[float](layer, direction, <float*>layer.call.h, <float*>layer.call.c)
            else:
                status = sweep[double](layer, direction, <double*>layer.call.h, <double*>layer.call.c)
    if layer.team != NULL:
        close_team(team.waiting)
    return status


cdef inline Py_ssize_t work_of_step(const Net* network, Py_ssize_t index) noexcept nogil:
    """Return the multiply-adds of one row's step in the layer whose first direction is `index`."""
    cdef const Direction* direction = &network.directions[index]
    cdef Py_ssize_t of_unit = 4 * (direction.ih.inputs + direction.hh.inputs) + direction.hr.outputs
    return network.num_directions * network.hidden_size * of_unit


cdef Status sweep(Layer* layer, Py_ssize_t direction, real* h, real* c) noexcept nogil:
    """Compute one direction of one layer over all steps, with its working arrays, in the caller's thread."""
    cdef const Net* network = layer.net
    cdef const Batch* batch = &layer.call.batch
    cdef Py_ssize_t most = TEAM_STEPS if layer.team != NULL else rows_fitting(BLOCK_BYTES, network, batch)
    cdef Py_ssize_t states = state_size(network, batch.B), index = layer.index + direction, work = 0, multiply_adds
    cdef Py_ssize_t block = block_size(layer, index, batch, most)
    cdef Sweep own
    cdef Status status = DONE
    # a team writes the next block while the last step of this one is still read
    cdef real* memory = <real*>acquire((states + (2 if layer.team != NULL else 1) * block) * sizeof(real))
    cdef real* scratch = memory + states
    if memory == NULL:
        status = NO_MEMORY
    else:
        begin_sweep[real](&own, layer, index, batch, most, memory, h, c)
        while own.start < steps(batch) and status == DONE:
            multiply_adds = advance[real](&own, scratch)
            if layer.team != NULL:
                scratch += block
                block = -block
            status = poll_interrupt(multiply_adds, &work, &layer.call.stop, True)
        end_sweep[real](&own, h, c)
    if layer.team != NULL:
        release_follower(layer.team)
    release(memory)
    return status


cdef inline Py_ssize_t in_lines(Py_ssize_t elements) noexcept nogil:
    """Round a number of elements up, so that what follows begins on a cache line."""
    return (elements + CACHE_LINE // 4 - 1) // (CACHE_LINE // 4) * (CACHE_LINE // 4)


cdef inline bint makes_both(const Layer* layer, Py_ssize_t index, const Batch* batch, Py_ssize_t most) noexcept nogil:
    """Return whether each step makes both products, so that the inputs are not projected before.

    It does where a block of `most` rows has only one step: then all weights are read for each step anyway.
    """
    cdef const Direction* direction = &layer.net.directions[index]
    cdef Py_ssize_t inputs = direction.ih.inputs
    cdef Py_ssize_t bytes = direction.ih.columns * (inputs + direction.hh.inputs) * layer.net.engine.itemsize
    cdef Py_ssize_t enough = min(<Py_ssize_t>(MANY_ROWS if bytes <= SMALL_WEIGHTS else MORE_ROWS), most // 2 + 1)
    cdef bint worth = inputs <= FEW_INPUTS or batch.B >= enough
    return worth and layer.net.fused and layer.team == NULL


cdef inline Py_ssize_t state_size(const Net* network, Py_ssize_t B) noexcept nogil:
    """Return the elements of a sweep's state: h, c, the spare arrays and h rounded to bf16."""
    cdef Py_ssize_t h = in_lines(B * network.output_size), c = in_lines(B * network.hidden_size)
    return (2 if network.zoned else 1) * (h + c) + c + in_lines(B * network.rounded_h)


cdef inline Py_ssize_t block_size(const Layer* layer, Py_ssize_t index, const Batch* batch,
                                  Py_ssize_t most) noexcept nogil:
    """Return the elements of the working arrays of a block of `most` rows."""
    cdef const Direction* direction = &layer.net.directions[index]
    cdef Py_ssize_t z = 0 if makes_both(layer, index, batch, most) else in_lines(most * direction.ih.columns)
    return in_lines(most * direction.ih.inputs) + in_lines(most * layer.net.rounded_x) + z


cdef void begin_sweep(Sweep* own, Layer* layer, Py_ssize_t index, const Batch* batch, Py_ssize_t most, real* memory,
                      const real* h, const real* c) noexcept nogil:
    """Set up a sweep from the initial states of all directions, with `memory` for state_size(...) elements."""
    cdef const Net* network = layer.net
    cdef Py_ssize_t B = batch.B, H = network.hidden_size, P = network.output_size
    cdef const Saved* saved = NULL
    if layer.call.tape != NULL and layer.call.tape[index].gates != NULL:
        saved = &layer.call.tape[index]
    own.layer = layer
    own.index = index
    own.batch = batch[0]
    own.most = most
    own.start = 0
    own.y = layer.target
    own.y.data = <real*>own.y.data + (index - layer.index) * P
    own.straight = layer.keep == NULL and is_in_sweep_order(batch, &layer.source, network.directions[index].backwards)
    own.at_once = makes_both(layer, index, batch, most)
    own.masks = masks_of_direction(layer.masks, network, index - layer.index)
    own.tape = Tape(saved, &layer.call.batch, 0, NULL, layer.call.recurrent_scale)
    if layer.masks != NULL:
        own.tape.masks = &own.masks
    own.h = memory
    own.c = memory + in_lines(B * P)
    own.spare = <real*>own.c + in_lines(B * H)
    own.rounded_h = memory + state_size(network, B) - in_lines(B * network.rounded_h)
    own.carried = Carried(own.h, H, own.spare, own.c)
    own.taken = own.owner = own.finished[0] = 0
    gather_states[real](batch, P, h + index * layer.call.batch.B * P, <real*>own.h)
    gather_states[real](batch, H, c + index * layer.call.batch.B * H, <real*>own.c)
    if network.fused:
        memcpy(own.spare, own.h, B * H * sizeof(real))  # for rows without steps


cdef Py_ssize_t advance(Sweep* own, real* scratch) noexcept nogil:
    """Compute the next block of a sweep, with block_size(...) elements of scratch; return its multiply-adds."""
    cdef Layer* layer = own.layer
    cdef const Net* network = layer.net
    cdef const Direction* direction = &network.directions[own.index]
    cdef const Batch* batch = &own.batch
    cdef const Rows* x = &layer.source
    cdef Py_ssize_t start = own.start, end, rows
    cdef real* block_x = scratch
    cdef real* rounded = scratch + in_lines(own.most * direction.ih.inputs)
    cdef real* z = rounded + in_lines(own.most * network.rounded_x)
    cdef real* rounded_h = <real*>own.rounded_h
    cdef const real* factors = NULL
    end = block_end(batch, start, own.most if layer.team == NULL else team_steps(layer.team, start, own.most), &rows)
    if own.straight:
        block_x = <real*>x.data + start * x.step + batch.first * x.row
    else:
        gather[real](batch, x, direction.backwards, start, end, layer.keep, layer.call.scale, block_x)
    if layer.team != NULL:
        lead_block[real](layer, direction, batch, &own.y, start, end, block_x, z, rounded, rounded_h, &own.carried)
    else:
        if own.at_once:
            factors = factors_of[real](&network.engine, direction.ih.kind, rows, x.width, block_x, x.width, rounded)
        else:
            affine[real](&network.engine, rows, <const real*>direction.bias, &direction.ih, block_x, NULL, NULL,
                         False, z, rounded)
        if network.fused:
            run_steps[real](network, batch, direction, &own.y, start, end, &own.tape, block_x, factors, z, rounded_h,
                            &own.carried)
        else:
            run_plain_steps[real](network, batch, direction, &own.y, start, end, &own.tape, block_x, z, <real*>own.h,
                                  <real*>own.c, <real*>own.spare, rounded_h)
    own.start = end
    return rows * work_of_step(network, own.index)


cdef inline void keep_state(Sweep* own, real* precision) noexcept nogil:
    """Copy h to the sweep's own array, if it is elsewhere: in y, or in the spare array."""
    cdef Py_ssize_t H = own.layer.net.hidden_size, slot
    if own.carried.h != own.h:
        for slot in range(own.batch.B):
            memcpy(<real*>own.h + slot * H, <real*>own.carried.h + slot * own.carried.row, H * sizeof(real))
        own.carried = Carried(own.h, H, own.spare, own.c)


cdef void end_sweep(Sweep* own, real* h, real* c) noexcept nogil:
    """Write the final states of a sweep to those of all directions."""
    cdef Py_ssize_t H = own.layer.net.hidden_size, P = own.layer.net.output_size, B = own.layer.call.batch.B
    keep_state[real](own, NULL)
    scatter_states[real](&own.batch, P, <real*>own.h, h + own.index * B * P)
    scatter_states[real](&own.batch, H, <real*>own.c, c + own.index * B * H)


cdef void run_steps(const Net* network, const Batch* batch, const Direction* direction, const Rows* y, Py_ssize_t start,
                    Py_ssize_t end, Tape* tape, const real* x, const real* factors, const real* z, real* rounded_h,
                    Carried* carried) noexcept nogil:
    """Compute the steps [start, end) of a fused net from their inputs.

    These are x, and `factors`, from factors_of, or if that is NULL z, after their product.
    """
    cdef Py_ssize_t H = network.hidden_size, n, slot, step
    cdef bint straight = batch.order == NULL and batch.resets == NULL and (batch.B == 1 or y.row == y.width)
    cdef CellStep at = step_of[real](network, direction, factors)
    cdef Product* recurrent = &at.products[at.count - 1]
    cdef const real* h
    cdef Py_ssize_t h_row
    cdef real* out = <real*>y.data
    cdef Saved here
    at.c = carried.c
    for step in range(start, end):
        n = at.rows = running(batch, step)
        reset_rows[real](network, direction, batch, step, n, <real*>carried.h, <real*>carried.c)
        at.descending = step % 2
        h = <const real*>carried.h
        h_row = carried.row
        at.h = out + offset_of(batch, y, direction.backwards, step, 0) if straight else <real*>carried.spare
        at.h_row = y.row if straight else H
        if factors != NULL:
            at.products[0].a = factors
            factors += n * at.products[0].a_row
        else:
            at.begin = z
            z += n * direction.hh.columns
        if tape.saved != NULL:
            here = save_inputs[real](network, direction, batch, tape, step, x, carried)
            at.gates = here.gates
            at.tanh_c = here.tanh_c
            if tape.masks != NULL:  # then h_prev is after recurrent dropout
                h = <const real*>here.h_prev
                h_row = H
        recurrent.a = factors_of[real](&network.engine, direction.hh.kind, n, H, h, h_row, rounded_h)
        if not network.bf16:
            recurrent.a_row = h_row
        x += n * direction.ih.inputs
        cell_step[real](network.engine.kernels, &at, NULL)
        if tape.saved != NULL:
            save_output[real](network, &here, n, <real*>at.h, at.h_row, <real*>at.c)
        if not straight:
            for slot in range(n):
                memcpy(out + offset_of(batch, y, direction.backwards, step, slot), <real*>at.h + slot * H,
                       H * sizeof(real))
            # rows that have ended must be in both arrays, whichever is the last one
            slot = running(batch, step + 1) if step + 1 < steps(batch) else n
            memcpy(<real*>carried.h + slot * H, <real*>at.h + slot * H, (n - slot) * H * sizeof(real))
            carried.spare = carried.h
        carried.h = at.h
        carried.row = at.h_row


cdef void run_plain_steps(const Net* network, const Batch* batch, const Direction* direction, const Rows* y,
                          Py_ssize_t start, Py_ssize_t end, Tape* tape, const real* x, real* z, real* h, real* c,
                          real* hidden, real* rounded_h) noexcept nogil:
    """Compute the steps [start, end) of any other net: the recurrent product, the cell, and the copy of h to y.

    `hidden` is as for `cell`; with zoneout there is space for h and for the cell after it.
    """
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size, n, slot, step
    cdef real* out = <real*>y.data
    cdef real* gates
    cdef real* old_h = hidden + in_lines(batch.B * H)
    cdef real* old_c = old_h + in_lines(batch.B * P)
    cdef const real* h_prev
    cdef Carried carried = Carried(h, P, NULL, c)
    cdef Saved here
    for step in range(start, end):
        n = running(batch, step)
        reset_rows[real](network, direction, batch, step, n, h, c)
        gates = z
        h_prev = h
        if tape.saved != NULL:
            here = save_inputs[real](network, direction, batch, tape, step, x, &carried)
            gates = <real*>here.gates
            memcpy(gates, z, n * 4 * H * sizeof(real))
            h_prev = <real*>here.h_prev
        multiply[real](&network.engine, &direction.hh, n, h_prev, gates, step % 2, rounded_h)
        if network.zoned:
            memcpy(old_h, h, n * P * sizeof(real))
            memcpy(old_c, c, n * H * sizeof(real))
        cell[real](network, direction, n, gates, c, h, hidden, NULL if tape.saved == NULL else &here)
        if network.zoned and tape.masks == NULL:
            mix[real](n * P, <real>network.zone_h, old_h, h)
            mix[real](n * H, <real>network.zone_c, old_c, c)
        if tape.saved != NULL:
            save_output[real](network, &here, n, h, P, c)
        if network.zoned and tape.masks != NULL:  # after saving: backward needs h before zoneout
            carry_over[real](batch, &tape.masks.zone_h, direction.backwards, step, n, P, old_h, h)
            carry_over[real](batch, &tape.masks.zone_c, direction.backwards, step, n, H, old_c, c)
        for slot in range(n):
            memcpy(out + offset_of(batch, y, direction.backwards, step, slot), h + slot * P, P * sizeof(real))
        x += n * direction.ih.inputs
        z += n * 4 * H


cdef Saved save_inputs(const Net* network, const Direction* direction, const Batch* batch, Tape* tape, Py_ssize_t step,
                       const real* x, const Carried* carried) noexcept nogil:
    """Save the inputs and the state of a step's rows; return the part of the tape for the rest of the step.

    Recurrent dropout is applied to the saved h.
    """
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size, inputs = direction.ih.inputs
    cdef Py_ssize_t row = tape.row + batch.first, n = running(batch, step), slot
    cdef Saved here = saved_from[real](tape.saved, network, direction, row, NULL)
    memcpy(here.x, x, n * inputs * sizeof(real))
    memcpy(here.c_prev, carried.c, n * H * sizeof(real))
    for slot in range(n):
        memcpy(<real*>here.h_prev + slot * P, <real*>carried.h + slot * carried.row, P * sizeof(real))
    if tape.masks != NULL and tape.masks.recurrent.data != NULL:
        drop_recurrent[real](batch, &tape.masks.recurrent, n, P, <real>tape.recurrent_scale, <real*>here.h_prev)
    tape.row += running(tape.whole, step)
    return here


cdef inline void save_output(const Net* network, const Saved* here, Py_ssize_t n, const real* h, Py_ssize_t h_row,
                             const real* c) noexcept nogil:
    """Save the new h and cell of a step's rows, if the tape has arrays for them; rows of h are `h_row` apart."""
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size, slot
    if here.h != NULL:
        for slot in range(n):
            memcpy(<real*>here.h + slot * P, h + slot * h_row, P * sizeof(real))
    if here.cell != NULL:
        memcpy(here.cell, c, n * H * sizeof(real))


cdef inline void mix(Py_ssize_t count, real share, const real* old, real* new) noexcept nogil:
    """The expectation of zoneout: `new` becomes share * old + (1 - share) * new."""
    cdef Py_ssize_t k
    for k in range(count):
        new[k] = share * old[k] + (1 - share) * new[k]


cdef inline void carry_over(const Batch* batch, const Rows* zone, bint backwards, Py_ssize_t step, Py_ssize_t n,
                            Py_ssize_t width, const real* old, real* new) noexcept nogil:
    """Zoneout in training: `new` gets the old value where the mask is 1."""
    cdef Py_ssize_t slot, k
    cdef const unsigned char* keep
    if zone.data == NULL:
        return
    for slot in range(n):
        keep = <const unsigned char*>zone.data + offset_of(batch, zone, backwards, step, slot)
        for k in range(width):
            new[k] = old[k] if keep[k] else new[k]
        old += width
        new += width


cdef inline void reset_rows(const Net* network, const Direction* direction, const Batch* batch, Py_ssize_t step,
                            Py_ssize_t n, real* h, real* c) noexcept nogil:
    """Set the state to the initial one for those of the first `n` rows that have a reset at `step`."""
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size, slot
    if batch.resets != NULL:
        for slot in range(n):
            if resets_at(batch, step, slot):
                set_initial(P * sizeof(real), direction.initial_h, h + slot * P)
                set_initial(H * sizeof(real), direction.initial_c, c + slot * H)


cdef void cell(const Net* network, const Direction* direction, Py_ssize_t n, real* z, real* c, real* h, real* hidden,
               const Saved* here) noexcept nogil:
    """Compute the new cell and h from the gates' inputs z and the old cell; `hidden` (n, H) is h before projection."""
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size, k
    cdef real bound = <real>network.proj_clip
    cdef real* tanh_c = NULL
    cdef real* extra = NULL
    if here != NULL:
        tanh_c = <real*>here.tanh_c
        extra = <real*>here.extra
        hidden = <real*>here.hidden
    if not network.projected:
        hidden = h
    if direction.variant == NULL:
        cell_forward[real](network.engine.kernels, n, H, z, c, hidden, tanh_c)
    else:
        variant_forward[real](network.engine.kernels, direction.variant, n, H, z, c, hidden, tanh_c, extra)
    if not network.projected:
        return
    memset(h, 0, n * P * sizeof(real))
    multiply[real](&network.engine, &direction.hr, n, hidden, h, False, NULL)
    if bound < INFINITY:
        for k in range(n * P):
            h[k] = bound if h[k] > bound else -bound if h[k] < -bound else h[k]


cdef bint is_in_sweep_order(const Batch* batch, const Rows* x, bint backwards) noexcept nogil:
    """Return whether the rows of x, step by step, are already contiguous in sweep order."""
    if batch.order != NULL or backwards:
        return False
    return x.step == batch.B * x.width and (batch.B == 1 or x.row == x.width)


cdef void gather(const Batch* batch, const Rows* x, bint backwards, Py_ssize_t start, Py_ssize_t end,
                 const unsigned char* keep, real scale, real* out) noexcept nogil:
    """Copy the steps [start, end) of x in sweep order, through dropout where `keep` is given."""
    cdef Py_ssize_t step, slot, here, k
    cdef const real* source = <const real*>x.data
    for step in range(start, end):
        for slot in range(running(batch, step)):
            here = offset_of(batch, x, backwards, step, slot)
            if keep == NULL:
                memcpy(out, source + here, x.width * sizeof(real))
            else:
                for k in range(x.width):
                    out[k] = source[here + k] * scale if keep[here + k] else 0
            out += x.width
