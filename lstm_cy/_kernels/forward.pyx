"""Whole sequences forward: layers, directions and time, on raw pointers and without the GIL.

A layer goes through time in blocks of steps. The inputs of a block are projected in one product, then each step adds
its recurrent product and updates the cell. The state is private and lies in sweep order; each step's h is copied to its
place in y. With a fused net a step is one call, which may make both products, and h is written to y at once where y's
layout allows it.

With several threads a layer is cut in parts, its directions and groups of its rows, which do not depend on each other;
threads take one after the other. A lone row of one direction cannot be cut that way: there a second thread computes
half of each product in step with the first (team.pxi). None of this changes the order of any sum.
"""

from cpython.mem cimport PyMem_Free
from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from .memory cimport acquire, release
from .network cimport (
    DONE, LEAST_ROWS, NO_MEMORY, WORTH_SHARING, WORTH_WAKING, Batch, Direction, Net, Network, Rows, Saved, Status,
    address, addresses, affine, batch_of, block_end, check, into_slots, multiply, multiply_half, out_of_slots, part_of,
    place, poll_interrupt, resets_at, rows_fitting, rows_of, running, saved_from, saved_of, steps,
)
from .pool cimport (
    await_at_least, back_off, backs_off, close_job, fetch_add, load_acquire, note_call, open_job, store_release,
    worker_is_ready,
)
from .table cimport CellStep, Product, cell_forward, cell_step, panel_columns, real, variant_forward

cdef enum:
    LINE = 64  # bytes of a cache line
    # The gates of a block of steps: enough rows for the product's sake, few enough to stay in the L2 cache.
    BLOCK_BYTES = 524288
    # A step of a fused net makes both products with so few inputs, or with so many rows: then that costs less than
    # to write the gates and read them again. Else a product over many steps reads the weights less often.
    FEW_INPUTS = 3
    MANY_ROWS = 4
    # Steps of a block of a team: at its beginning a second thread may join.
    TEAM_STEPS = 64

ctypedef struct Call:
    # what the whole call works on
    Batch batch
    Rows x, y, inner                # inner: between layers, in y's layout; empty with one layer
    void* h                         # (layers * directions, B, H): initial states in, final states out
    void* c
    unsigned char** keep            # for each layer but the last, which outputs dropout keeps, in y's layout; or NULL
    double scale                    # of the outputs kept
    Saved* tape                     # or NULL in inference
    int threads                     # that may work on it
    Py_ssize_t stop                 # set by the caller's thread when a signal wants the call to end

ctypedef struct Layer:
    # one layer, cut in parts that threads take one after the other
    const Net* net
    Call* call
    Py_ssize_t index                # of its first direction
    Rows source, target
    const unsigned char* keep
    Py_ssize_t groups, parts, next  # groups of rows; parts = directions * groups; the next part to take
    Py_ssize_t status
    Team* team                      # or NULL

ctypedef struct Tape:
    # where a sweep is in its direction's part of the tape
    const Saved* saved              # or NULL in inference
    const Batch* whole              # whose rows the tape has, step by step
    Py_ssize_t row                  # the first of the step

ctypedef struct Carried:
    # what one step of a fused net hands to the next: h, in rows `row` apart, and space for the next h and c, in sweep
    # order. Where y is laid out alike, h is written there and read from there.
    void* h
    Py_ssize_t row
    void* spare
    void* c

include "team.pxi"


def forward(Network network, x, y, inner, h, c, bint batch_first, tuple rows, list keep, double scale, list tape,
            int threads):
    """Run the network over x; y, h and c are written in place.

    Parameters
    ----------
    network : Network
    x, y, inner : arrays (T, B, width), or (B, T, width) with batch_first
        `inner`, of y's shape, holds what passes between layers; None with one layer.
    h, c : arrays (layers * directions, B, P) and (layers * directions, B, H)
        Initial states, overwritten by the final ones.
    rows : (order, lengths, active, places, resets)
        Row numbers sorted by falling length, their lengths, and the number of rows running at each step; where a row's
        steps are, (B, T); before which of them its state is set to zero, uint8 (B, T). Each is None where there is
        none, the first three together.
    keep : None or list of uint8 arrays of y's shape
        Dropout's choice after each layer but the last; what is kept is multiplied by `scale`.
    tape : None or list of (x, h_prev, c_prev, gates, tanh_c, extra, hidden, told, cell)
        For each layer and direction what a Saved of network.pxd has, filled for backward or for a trace; None where
        nothing is kept.
    threads : int
        How many threads may work on it, the caller's included.
    """
    cdef Call call
    cdef Status status
    cdef unsigned int denormals
    cdef Py_ssize_t T = x.shape[1] if batch_first else x.shape[0]
    call.batch = batch_of(T, h.shape[1], rows)
    call.x = rows_of(x, batch_first)
    call.y = rows_of(y, batch_first)
    call.inner = rows_of(inner, batch_first)
    call.h = address(h)
    call.c = address(c)
    call.scale = scale
    call.keep = NULL
    call.tape = NULL
    call.threads = threads if network.net.engine.blas == NULL else 1
    call.stop = 0
    try:
        call.tape = saved_of(tape)
        call.keep = addresses(keep)
        with nogil:
            denormals = network.net.engine.kernels.flush_denormals()
            status = layers(&network.net, &call)
            if call.threads > 1:
                note_call()
            network.net.engine.kernels.restore_denormals(denormals)
        check(status)
    finally:
        PyMem_Free(call.tape)
        PyMem_Free(call.keep)


cdef void step(const Net* network, Py_ssize_t B, bint last_first, const void* x, const void* h, void* next_h, void* c,
               void* z) noexcept nogil:
    """One step of B rows through all layers, which must all run forwards, with nothing allocated.

    x (B, inputs); h and next_h (layers, B, P); c (layers, B, H), updated in place; z, space for B * step_width
    elements. The output is the last layer's next_h. It is computed as a sequence of one step is, in the same order.
    """
    if network.engine.itemsize == 4:
        step_layers[float](network, B, last_first, <const float*>x, <const float*>h, <float*>next_h, <float*>c,
                           <float*>z)
    else:
        step_layers[double](network, B, last_first, <const double*>x, <const double*>h, <double*>next_h, <double*>c,
                            <double*>z)


cdef void step_layers(const Net* network, Py_ssize_t B, bint last_first, const real* x, const real* h, real* next_h,
                      real* c, real* z) noexcept nogil:
    cdef Py_ssize_t H = network.hidden_size, layer
    cdef const Direction* way
    cdef CellStep at
    for layer in range(network.num_layers):
        way = &network.directions[layer]
        if network.fused:
            at = step_of[real](network, way, x)
            at.rows = B
            at.last_first = last_first
            at.products[1].a = h
            at.h = next_h
            at.c = c
            cell_step[real](network.engine.kernels, &at, NULL)
        else:
            affine[real](&network.engine, B, <const real*>way.bias, &way.ih, x, &way.hh, h, last_first, z)
            cell[real](network, way, B, z, c, next_h, z + B * 4 * H, NULL)
        x = next_h
        h += B * network.output_size
        next_h += B * network.output_size
        c += B * H


cdef inline CellStep step_of(const Net* network, const Direction* way, const real* x) noexcept nogil:
    """A step of a fused net, but for what changes from one to the next: the last product's left side, where h and c
    stand, and without `x` (rows, inputs) the beginning of the gates.
    """
    cdef CellStep at
    cdef int last = 0 if x == NULL else 1
    cdef Py_ssize_t width = panel_columns[real](network.engine.kernels, NULL)
    at.hidden_size = at.h_row = network.hidden_size
    at.first = 0
    at.last = (way.hh.columns + width - 1) // width
    at.count = 1 + last
    at.products[0] = Product(way.ih.inputs, x, way.ih.inputs, 1, way.ih.panels)
    at.products[last] = Product(way.hh.inputs, NULL, way.hh.inputs, 1, way.hh.panels)
    at.begin = way.bias
    at.begin_row = 0 if x != NULL else way.hh.columns
    at.gates = at.tanh_c = NULL
    return at


cdef Status layers(const Net* network, Call* call) noexcept nogil:
    """All layers. They write in turn to `inner` and `y`, so that the last one writes y."""
    cdef Py_ssize_t L = network.num_layers, number
    cdef Layer layer
    layer.net = network
    layer.call = call
    layer.keep = NULL
    layer.source = call.x
    layer.status = DONE
    for number in range(L):
        layer.index = number * network.num_directions
        layer.target = call.y if (L - 1 - number) % 2 == 0 else call.inner
        run_layer(&layer)
        if layer.status != DONE:
            break
        layer.source = layer.target
        layer.keep = NULL if call.keep == NULL or number == L - 1 else call.keep[number]
    return <Status>layer.status


cdef void run_layer(Layer* layer) noexcept nogil:
    """Cut one layer in parts, offer them, and work on them until all are done."""
    cdef Call* call = layer.call
    cdef Py_ssize_t D = layer.net.num_directions
    cdef Py_ssize_t multiply_adds = steps(&call.batch) * call.batch.B * work_of_step(layer.net, layer.index)
    cdef bint sharing = call.threads > 1 and multiply_adds > (WORTH_SHARING if worker_is_ready() else WORTH_WAKING)
    cdef Team team
    cdef int helpers
    layer.groups = 1
    if sharing:
        layer.groups = max(1, min((call.threads + D - 1) // D, call.batch.B // LEAST_ROWS))
    layer.parts = D * layer.groups
    layer.next = 0
    layer.team = NULL
    if sharing and layer.parts == 1:
        if team_can(layer) and set_up_team(&team, layer, multiply_adds):
            layer.team = &team
        else:
            sharing = False
    if sharing:
        helpers = 1 if layer.team != NULL else <int>min(<Py_ssize_t>call.threads, layer.parts) - 1
        sharing = open_job(helpers, join_layer, <void*>layer)
    take_parts(layer, True)
    if sharing:
        close_job()


cdef inline Py_ssize_t work_of_step(const Net* network, Py_ssize_t index) noexcept nogil:
    """The multiply-adds of one row's step in the layer whose first direction is given."""
    cdef const Direction* way = &network.directions[index]
    return network.num_directions * network.hidden_size * (4 * (way.ih.inputs + way.hh.inputs) + way.hr.outputs)


cdef void join_layer(void* argument) noexcept nogil:
    """What a worker does: take parts, then follow the team if there is one."""
    cdef Layer* layer = <Layer*>argument
    cdef unsigned int denormals = layer.net.engine.kernels.flush_denormals()
    if layer.team == NULL:
        take_parts(layer, False)
    elif layer.net.engine.itemsize == 4:
        follow[float](layer, NULL)
    else:
        follow[double](layer, NULL)
    layer.net.engine.kernels.restore_denormals(denormals)


cdef void take_parts(Layer* layer, bint caller) noexcept nogil:
    """Work on one part after the other until none is left."""
    cdef Py_ssize_t part
    cdef Status status
    while True:
        part = fetch_add(&layer.next, 1)
        if part >= layer.parts or load_acquire(&layer.status) != DONE:
            return
        if layer.net.engine.itemsize == 4:
            status = sweep[float](layer, part, caller, <float*>layer.call.h, <float*>layer.call.c)
        else:
            status = sweep[double](layer, part, caller, <double*>layer.call.h, <double*>layer.call.c)
        if status != DONE:
            store_release(&layer.status, status)


cdef Status sweep(Layer* layer, Py_ssize_t part, bint caller, real* h, real* c) noexcept nogil:
    """One direction of one layer for some rows over all steps, with its working arrays."""
    cdef const Net* network = layer.net
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size
    cdef Py_ssize_t direction = part // layer.groups, index = layer.index + direction
    cdef Batch batch = part_of(&layer.call.batch, part % layer.groups, layer.groups)
    cdef Rows y = layer.target
    cdef Py_ssize_t most = rows_fitting(BLOCK_BYTES, network, &batch), block
    cdef Py_ssize_t state_h = in_lines(batch.B * P), state_c = in_lines(batch.B * H)
    cdef real* scratch
    cdef real* slots_h
    cdef real* slots_c
    cdef real* spare
    cdef Status status
    if batch.B == 0:
        return DONE
    if layer.team != NULL:
        most = TEAM_STEPS
    block = in_lines(most * network.directions[index].ih.inputs)
    if not makes_both(layer, index, &batch):
        block += in_lines(most * network.directions[index].ih.columns)
    # a team fills the next block while the last step of this one is still read
    scratch = <real*>acquire(((2 if layer.team != NULL else 1) * block + state_h + 2 * state_c) * sizeof(real))
    if scratch == NULL:
        return NO_MEMORY
    slots_h = scratch
    slots_c = slots_h + state_h
    spare = slots_c + state_c
    h += index * layer.call.batch.B * P
    c += index * layer.call.batch.B * H
    y.data = <real*>y.data + direction * P
    into_slots[real](&batch, P, h, slots_h)
    into_slots[real](&batch, H, c, slots_c)
    if network.fused:
        memcpy(spare, slots_h, batch.B * H * sizeof(real))  # for the rows of no steps
    status = blocks[real](layer, index, &batch, &y, caller, slots_h, slots_c, spare, most, block, spare + state_c)
    out_of_slots[real](&batch, P, slots_h, h)
    out_of_slots[real](&batch, H, slots_c, c)
    release(scratch)
    return status


cdef inline Py_ssize_t in_lines(Py_ssize_t elements) noexcept nogil:
    """So many elements and some more, so that what follows begins on a cache line."""
    return (elements + LINE // 4 - 1) // (LINE // 4) * (LINE // 4)


cdef inline bint makes_both(const Layer* layer, Py_ssize_t index, const Batch* batch) noexcept nogil:
    """Whether each step makes both products, and the inputs are not projected before."""
    cdef bint worth = layer.net.directions[index].ih.inputs <= FEW_INPUTS or batch.B >= MANY_ROWS
    return worth and layer.net.fused and layer.team == NULL


cdef Status blocks(Layer* layer, Py_ssize_t index, const Batch* batch, const Rows* y, bint caller, real* h, real* c,
                   real* spare, Py_ssize_t most, Py_ssize_t space, real* scratch) noexcept nogil:
    """All steps of a sweep, block by block. `h` and `c` are in sweep order, updated in place.

    `scratch` has `space` elements for each block that is worked on.
    """
    cdef const Net* network = layer.net
    cdef const Direction* way = &network.directions[index]
    cdef const Rows* x = &layer.source
    cdef Py_ssize_t H = network.hidden_size, start = 0, end, rows, work = 0, slot
    cdef bint straight = layer.keep == NULL and lies_in_order(batch, x, way.backwards)
    cdef bint at_once = makes_both(layer, index, batch)
    cdef Carried carried = Carried(h, H, spare, c)
    cdef const Saved* saved = NULL
    cdef Tape tape
    cdef Status status = DONE
    cdef real* block_x
    cdef real* z
    if layer.call.tape != NULL and layer.call.tape[index].gates != NULL:
        saved = &layer.call.tape[index]
    tape = Tape(saved, &layer.call.batch, 0)
    while start < steps(batch) and status == DONE:
        end = block_end(batch, start, most, &rows)
        block_x = scratch
        z = scratch + in_lines(most * way.ih.inputs)
        if straight:
            block_x = <real*>x.data + start * x.step + batch.first * x.row
        else:
            gather[real](batch, x, way.backwards, start, end, layer.keep, layer.call.scale, block_x)
        if layer.team != NULL:
            lead_block[real](layer, way, batch, y, start, end, block_x, z, &carried)
            scratch += space if start // most % 2 == 0 else -space
        else:
            if not at_once:
                affine[real](&network.engine, rows, <const real*>way.bias, &way.ih, block_x, NULL, NULL, False, z)
            if network.fused:
                run_steps[real](network, batch, way, y, start, end, &tape, block_x, NULL if at_once else z, &carried)
            else:
                run_plain_steps[real](network, batch, way, y, start, end, &tape, block_x, z, h, c, spare)
        start = end
        status = poll_interrupt(rows * work_of_step(network, index), &work, &layer.call.stop, caller)
    if layer.team != NULL:
        release_follower(layer.team)
    if carried.h != h:
        for slot in range(batch.B):
            memcpy(h + slot * H, <real*>carried.h + slot * carried.row, H * sizeof(real))
    return status


cdef void run_steps(const Net* network, const Batch* batch, const Direction* way, const Rows* y, Py_ssize_t start,
                    Py_ssize_t end, Tape* tape, const real* x, const real* z, Carried* carried) noexcept nogil:
    """The steps [start, end) of a fused net, from their inputs `x`, or from projected ones if `z` is not NULL."""
    cdef Py_ssize_t H = network.hidden_size, n, slot, step
    cdef bint straight = batch.order == NULL and batch.resets == NULL and (batch.B == 1 or y.row == y.width)
    cdef CellStep at = step_of[real](network, way, x if z == NULL else NULL)
    cdef Product* recurrent = &at.products[at.count - 1]
    cdef real* out = <real*>y.data
    cdef Saved here
    at.c = carried.c
    for step in range(start, end):
        n = at.rows = running(batch, step)
        reset_rows[real](network, batch, step, n, <real*>carried.h, <real*>carried.c)
        at.last_first = step % 2
        recurrent.a = carried.h
        recurrent.a_row = carried.row
        at.h = out + place(batch, y, way.backwards, step, 0) if straight else <real*>carried.spare
        at.h_row = y.row if straight else H
        if z == NULL:
            at.products[0].a = x
        else:
            at.begin = z
            z += n * way.hh.columns
        if tape.saved != NULL:
            here = kept[real](network, way, batch, tape, step, x, carried)
            at.gates = here.gates
            at.tanh_c = here.tanh_c
        x += n * way.ih.inputs
        cell_step[real](network.engine.kernels, &at, NULL)
        if tape.saved != NULL:
            keep_told[real](network, &here, n, <real*>at.h, at.h_row, <real*>at.c)
        if not straight:
            for slot in range(n):
                memcpy(out + place(batch, y, way.backwards, step, slot), <real*>at.h + slot * H, H * sizeof(real))
            # those that have ended stand in both places, whichever is the last one
            slot = running(batch, step + 1) if step + 1 < steps(batch) else n
            memcpy(<real*>carried.h + slot * H, <real*>at.h + slot * H, (n - slot) * H * sizeof(real))
            carried.spare = carried.h
        carried.h = at.h
        carried.row = at.h_row


cdef void run_plain_steps(const Net* network, const Batch* batch, const Direction* way, const Rows* y,
                          Py_ssize_t start, Py_ssize_t end, Tape* tape, const real* x, real* z, real* h, real* c,
                          real* hidden) noexcept nogil:
    """The steps [start, end) of any other net: the recurrent product, the cell, and h to its place in y."""
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size, n, slot, step
    cdef real* out = <real*>y.data
    cdef real* gates
    cdef Carried carried = Carried(h, P, NULL, c)
    cdef Saved here
    for step in range(start, end):
        n = running(batch, step)
        reset_rows[real](network, batch, step, n, h, c)
        gates = z
        if tape.saved != NULL:
            here = kept[real](network, way, batch, tape, step, x, &carried)
            gates = <real*>here.gates
            memcpy(gates, z, n * 4 * H * sizeof(real))
        multiply[real](&network.engine, &way.hh, n, h, gates, step % 2)
        cell[real](network, way, n, gates, c, h, hidden, NULL if tape.saved == NULL else &here)
        if tape.saved != NULL:
            keep_told[real](network, &here, n, h, P, c)
        for slot in range(n):
            memcpy(out + place(batch, y, way.backwards, step, slot), h + slot * P, P * sizeof(real))
        x += n * way.ih.inputs
        z += n * 4 * H


cdef Saved kept(const Net* network, const Direction* way, const Batch* batch, Tape* tape, Py_ssize_t step,
                const real* x, const Carried* carried) noexcept nogil:
    """Keep the inputs and the state of a step's rows; where the rest of what backward needs goes is returned."""
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size, inputs = way.ih.inputs
    cdef Py_ssize_t row = tape.row + batch.first, n = running(batch, step), slot
    cdef Saved here = saved_from[real](tape.saved, network, way, row, NULL)
    memcpy(here.x, x, n * inputs * sizeof(real))
    memcpy(here.c_prev, carried.c, n * H * sizeof(real))
    for slot in range(n):
        memcpy(<real*>here.h_prev + slot * P, <real*>carried.h + slot * carried.row, P * sizeof(real))
    tape.row += running(tape.whole, step)
    return here


cdef inline void keep_told(const Net* network, const Saved* here, Py_ssize_t n, const real* h, Py_ssize_t h_row,
                           const real* c) noexcept nogil:
    """Keep what came of a step's rows, where that is wanted; those of h lie `h_row` apart."""
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size, slot
    if here.told != NULL:
        for slot in range(n):
            memcpy(<real*>here.told + slot * P, h + slot * h_row, P * sizeof(real))
    if here.cell != NULL:
        memcpy(here.cell, c, n * H * sizeof(real))


cdef inline void reset_rows(const Net* network, const Batch* batch, Py_ssize_t step, Py_ssize_t n, real* h,
                            real* c) noexcept nogil:
    """Set the state of those of the first `n` rows to zero that begin anew at `step`."""
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size, slot
    if batch.resets != NULL:
        for slot in range(n):
            if resets_at(batch, step, slot):
                memset(h + slot * P, 0, P * sizeof(real))
                memset(c + slot * H, 0, H * sizeof(real))


cdef void cell(const Net* network, const Direction* way, Py_ssize_t n, real* z, real* c, real* h, real* hidden,
               const Saved* here) noexcept nogil:
    """From the gates' inputs z and the old cell to the new cell and h, by way of `hidden` (n, H) if h is projected."""
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
    if way.variant == NULL:
        cell_forward[real](network.engine.kernels, n, H, z, c, hidden, tanh_c)
    else:
        variant_forward[real](network.engine.kernels, way.variant, n, H, z, c, hidden, tanh_c, extra)
    if not network.projected:
        return
    memset(h, 0, n * P * sizeof(real))
    multiply[real](&network.engine, &way.hr, n, hidden, h, False)
    if bound < INFINITY:
        for k in range(n * P):
            h[k] = bound if h[k] > bound else -bound if h[k] < -bound else h[k]


cdef bint lies_in_order(const Batch* batch, const Rows* x, bint backwards) noexcept nogil:
    """Whether the rows of x, step by step, already lie one behind the other as a sweep reads them."""
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
            here = place(batch, x, backwards, step, slot)
            if keep == NULL:
                memcpy(out, source + here, x.width * sizeof(real))
            else:
                for k in range(x.width):
                    out[k] = source[here + k] * scale if keep[here + k] else 0
            out += x.width
