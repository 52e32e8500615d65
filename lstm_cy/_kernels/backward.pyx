"""Whole sequences backward: back-propagation through time, on raw pointers and without the GIL.

Layers, steps and blocks of steps go in the opposite order of forward.pyx. Each step turns dh and dc into the gradient
dz of the gates' inputs and passes dh on through the recurrent weights; the products for the weights and for x are made
once for each block of steps.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from .network cimport (
    DONE, NO_MEMORY, Batch, Direction, Net, Network, Rows, Saved, Status, add_outer, address, address_or_null,
    addresses, after, batch_of, check, into_slots, multiply_back, out_of_slots, outer_space, place, resets_at,
    rows_fitting, rows_of, running, saved_of, steps,
)
from .table cimport EXTRA, SHARES, cell_backward, column_sums, real, variant_backward

cdef enum:
    # The gate gradients of a block of steps: each block reads and writes the sums of the weights' gradients once.
    BLOCK_BYTES = 2097152

ctypedef struct Sums:
    # the gradients of one direction's parameters, added up over the blocks
    void* weight_ih
    void* weight_hh
    void* weight_hr  # or NULL
    void* bias       # or NULL; a Variant's is among its shares
    void* shares     # (11H,): of the bias, the normalising scale and the peepholes of a Variant; or NULL

ctypedef struct Work:
    # working arrays of a sweep: the state's gradients in sweep order, and a block of rows; P, H as in Net
    void* dh         # (B, P)
    void* dc         # (B, H)
    void* dz         # (rows, 4H)
    void* dx         # (rows, inputs)
    void* projected  # (rows, P), only where h is projected
    void* hidden     # (B, H), likewise
    void* shares     # (rows, 11H), only for a Variant
    void* space      # for add_outer

ctypedef struct Call:
    # what the whole call works on
    Batch batch
    Py_ssize_t rows                 # of the tape
    Rows dx, dy                     # dy has no data where only the final states have gradients
    Rows[2] inner                   # between layers, in y's layout
    void* dh                        # (layers * directions, B, P): of the final states in, of the initial ones out
    void* dc                        # (layers * directions, B, H)
    unsigned char** keep      # what dropout kept, as in forward
    double scale
    Saved* tape
    Sums* sums


def backward(Network network, dx, dy, list inner, dh, dc, bint batch_first, tuple rows, list keep, double scale,
             list tape, list sums):
    """Propagate dy, dh and dc back; dx, dh, dc and the sums are written in place.

    Parameters
    ----------
    network, batch_first, rows, keep, scale, tape :
        As they were given to forward.
    dx : array in x's layout, zeros
    dy : array in y's layout, or None
    inner : list of arrays in y's layout
        What passes between layers; one for two layers, two for more.
    dh, dc : arrays (layers * directions, B, P) and (layers * directions, B, H)
        Gradients of the final states, overwritten by those of the initial states.
    sums : list of (weight_ih, weight_hh, weight_hr, bias, shares), zeros
        Gradients of the parameters, for each layer and direction, the last three None where there are none. `shares`,
        (11H,), are those of the bias (4H), the normalising scale (4H) and the peepholes (3H) of a Variant, whose `bias`
        is None.
    """
    cdef Call call
    cdef Status status
    cdef unsigned int denormals
    cdef Py_ssize_t T = dx.shape[1] if batch_first else dx.shape[0]
    call.batch = batch_of(T, dh.shape[1], rows)
    call.rows = tape[0][0].shape[0]
    call.dx = rows_of(dx, batch_first)
    call.dy = rows_of(dy, batch_first)
    for index, array in enumerate(inner):
        call.inner[index] = rows_of(array, batch_first)
    call.dh = address(dh)
    call.dc = address(dc)
    call.scale = scale
    call.keep = NULL
    call.tape = NULL
    call.sums = NULL
    network.pack_for_backward()
    try:
        call.keep = addresses(keep)
        call.tape = saved_of(tape)
        call.sums = sums_of(sums)
        with nogil:
            denormals = network.net.engine.kernels.flush_denormals()
            if network.net.engine.itemsize == 4:
                status = layers[float](&network.net, &call, <float*>call.dh, <float*>call.dc)
            else:
                status = layers[double](&network.net, &call, <double*>call.dh, <double*>call.dc)
            network.net.engine.kernels.restore_denormals(denormals)
        check(status)
    finally:
        PyMem_Free(call.keep)
        PyMem_Free(call.tape)
        PyMem_Free(call.sums)


cdef Sums* sums_of(list arrays) except NULL:
    cdef Sums* sums = <Sums*>PyMem_Calloc(len(arrays), sizeof(Sums))
    if sums == NULL:
        raise MemoryError
    for index, (weight_ih, weight_hh, weight_hr, bias, shares) in enumerate(arrays):
        sums[index].weight_ih = address(weight_ih)
        sums[index].weight_hh = address(weight_hh)
        sums[index].weight_hr = address_or_null(weight_hr)
        sums[index].bias = address_or_null(bias)
        sums[index].shares = address_or_null(shares)
    return sums


cdef Status layers(const Net* network, Call* call, real* dh, real* dc) noexcept nogil:
    """All layers and directions, the last layer first; both directions add to the gradient of their common input."""
    cdef Py_ssize_t D = network.num_directions, B = call.batch.B, H = network.hidden_size, P = network.output_size
    cdef Py_ssize_t layer, direction, index
    cdef Rows target, half, source = call.dy
    cdef const unsigned char* keep
    cdef Status status
    for layer in range(network.num_layers - 1, -1, -1):
        if layer == 0:
            target = call.dx
        else:
            target = call.inner[layer % 2 if network.num_layers > 2 else 0]
            memset(target.data, 0, call.batch.T * call.batch.B * target.width * sizeof(real))
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
    """One direction of one layer over all steps, with its working arrays."""
    cdef const Batch* batch = &call.batch
    cdef const Direction* way = &network.directions[index]
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size, inputs = way.ih.inputs
    cdef Py_ssize_t most = rows_fitting(BLOCK_BYTES, network, batch)
    cdef Py_ssize_t block = most * (inputs + 4 * H) + outer_space[real](&network.engine, most, max(inputs, H), NULL)
    cdef Work work
    cdef real* scratch
    cdef Status status
    if network.projected:
        block += most * P + batch.B * H
    if way.variant != NULL:
        block += most * SHARES * H
    scratch = <real*>malloc((batch.B * (P + H) + block) * sizeof(real))
    if scratch == NULL:
        return NO_MEMORY
    work.dh = scratch
    work.dc = scratch + batch.B * P
    work.dz = scratch + batch.B * (P + H)
    work.dx = <real*>work.dz + most * 4 * H
    work.projected = <real*>work.dx + most * inputs
    work.hidden = <real*>work.projected + (most * P if network.projected else 0)
    work.shares = <real*>work.hidden + (batch.B * H if network.projected else 0)
    work.space = <real*>work.shares + (most * SHARES * H if way.variant != NULL else 0)
    into_slots[real](batch, P, dh, <real*>work.dh)
    into_slots[real](batch, H, dc, <real*>work.dc)
    status = blocks[real](network, call, index, dx, dy, keep, most, &work, NULL)
    out_of_slots[real](batch, P, <real*>work.dh, dh)
    out_of_slots[real](batch, H, <real*>work.dc, dc)
    free(scratch)
    return status


cdef Status blocks(const Net* network, Call* call, Py_ssize_t index, const Rows* dx, const Rows* dy,
                   const unsigned char* keep, Py_ssize_t most, const Work* work, real* precision) noexcept nogil:
    """All steps of a sweep, the last block first."""
    cdef const Batch* batch = &call.batch
    cdef const Direction* way = &network.directions[index]
    cdef const Saved* saved = &call.tape[index]
    cdef Py_ssize_t H = network.hidden_size, start, end = steps(batch), step, done = 0, stop = 0
    cdef Py_ssize_t rows, row, first = call.rows
    cdef real* block_dx = <real*>work.dx
    cdef Status status
    while end > 0:
        start = block_start(batch, end, most, &rows)
        row = rows
        for step in range(end - 1, start - 1, -1):
            row -= running(batch, step)
            run_step[real](network, batch, way, dy, step, saved, first - rows + row, work, row, NULL)
        first -= rows
        add_parameters[real](network, way, saved, first, rows, work, &call.sums[index], NULL)
        memset(block_dx, 0, rows * way.ih.inputs * sizeof(real))
        multiply_back[real](&network.engine, &way.ih, rows, <real*>work.dz, block_dx, False)
        scatter[real](batch, dx, way.backwards, start, end, keep, call.scale, block_dx)
        end = start
        status = after(2 * rows * 4 * H * (way.ih.inputs + way.hh.inputs), &done, &stop, True)
        if status != DONE:
            return status
    return DONE


cdef Py_ssize_t block_start(const Batch* batch, Py_ssize_t end, Py_ssize_t most, Py_ssize_t* rows) noexcept nogil:
    """The start of the block of steps that ends at `end`: at most `most` rows in all, but at least one step."""
    cdef Py_ssize_t start = end
    rows[0] = 0
    while start > 0 and (start == end or rows[0] + running(batch, start - 1) <= most):
        start -= 1
        rows[0] += running(batch, start)
    return start


cdef void run_step(const Net* network, const Batch* batch, const Direction* way, const Rows* dy, Py_ssize_t step,
                   const Saved* saved, Py_ssize_t first, const Work* work, Py_ssize_t row,
                   real* precision) noexcept nogil:
    """One step: dy joins dh, the cell gives dz and passes dc on, the recurrent weights pass dh on.

    Its rows begin at `first` of the tape and at `row` of the block.
    """
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size, n = running(batch, step), slot, k
    cdef real* dh = <real*>work.dh
    cdef real* dc = <real*>work.dc
    cdef real* dz = <real*>work.dz + row * 4 * H
    cdef real* hidden = dh
    cdef const real* told
    if dy.data != NULL:
        for slot in range(n):
            told = <const real*>dy.data + place(batch, dy, way.backwards, step, slot)
            for k in range(P):
                dh[slot * P + k] += told[k]
    if network.projected:
        hidden = <real*>work.hidden
        unproject[real](network, way, n, <const real*>saved.told + first * P, dh, <real*>work.projected + row * P,
                        hidden)
    if way.variant == NULL:
        cell_backward[real](network.engine.kernels, n, H, <const real*>saved.gates + first * 4 * H,
                            <const real*>saved.c_prev + first * H, <const real*>saved.tanh_c + first * H, hidden, dc,
                            dz)
    else:
        variant_backward[real](network.engine.kernels, way.variant, n, H, <const real*>saved.gates + first * 4 * H,
                               <const real*>saved.c_prev + first * H, <const real*>saved.tanh_c + first * H,
                               <const real*>saved.extra + first * (EXTRA * H + 4), hidden, dc, dz,
                               <real*>work.shares + row * SHARES * H)
    memset(dh, 0, n * P * sizeof(real))
    multiply_back[real](&network.engine, &way.hh, n, dz, dh, step % 2)
    if batch.resets != NULL:
        for slot in range(n):
            if resets_at(batch, step, slot):
                memset(dh + slot * P, 0, P * sizeof(real))
                memset(dc + slot * H, 0, H * sizeof(real))


cdef void unproject(const Net* network, const Direction* way, Py_ssize_t n, const real* told, const real* dh,
                    real* projected, real* hidden) noexcept nogil:
    """From the gradient of h to that of what was projected; `projected` is between the bound and the product."""
    cdef Py_ssize_t k
    cdef real bound = <real>network.proj_clip
    for k in range(n * network.output_size):
        projected[k] = dh[k] if -bound < told[k] < bound else 0
    memset(hidden, 0, n * network.hidden_size * sizeof(real))
    multiply_back[real](&network.engine, &way.hr, n, projected, hidden, False)


cdef void add_parameters(const Net* network, const Direction* way, const Saved* saved, Py_ssize_t first,
                         Py_ssize_t rows, const Work* work, const Sums* sums, real* precision) noexcept nogil:
    """Add what the rows of one block contribute to the gradients of the parameters."""
    cdef Py_ssize_t H = network.hidden_size, P = network.output_size, inputs = way.ih.inputs
    cdef const real* dz = <const real*>work.dz
    cdef real* space = <real*>work.space
    add_outer[real](&network.engine, rows, 4 * H, inputs, dz, <const real*>saved.x + first * inputs, space,
                    <real*>sums.weight_ih)
    add_outer[real](&network.engine, rows, 4 * H, P, dz, <const real*>saved.h_prev + first * P, space,
                    <real*>sums.weight_hh)
    if network.projected:
        add_outer[real](&network.engine, rows, P, H, <const real*>work.projected,
                        <const real*>saved.hidden + first * H, space, <real*>sums.weight_hr)
    if sums.bias != NULL:
        column_sums[real](network.engine.kernels, rows, 4 * H, dz, <real*>sums.bias)
    if sums.shares != NULL:
        column_sums[real](network.engine.kernels, rows, SHARES * H, <const real*>work.shares, <real*>sums.shares)


cdef void scatter(const Batch* batch, const Rows* dx, bint backwards, Py_ssize_t start, Py_ssize_t end,
                  const unsigned char* keep, real scale, const real* block) noexcept nogil:
    """Add the steps [start, end), in sweep order, to their places in dx, back through dropout."""
    cdef Py_ssize_t step, slot, k, here
    cdef real* target = <real*>dx.data
    for step in range(start, end):
        for slot in range(running(batch, step)):
            here = place(batch, dx, backwards, step, slot)
            for k in range(dx.width):
                if keep == NULL:
                    target[here + k] += block[k]
                elif keep[here + k]:
                    target[here + k] += block[k] * scale
            block += dx.width
