"""Whole sequences forward: layers, directions and time, on raw pointers and without the GIL.

A layer goes through time in blocks of steps. The inputs of a block are projected in one product, then each step adds
its recurrent product and updates the cell. The state is private and lies in sweep order; each step's h is copied to its
place in y.
"""

from cpython.mem cimport PyMem_Free
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from .network cimport (
    DONE, NO_MEMORY, Batch, Direction, Network, Rows, Saved, Status, address, addresses, after, batch_of, block_end,
    check, into_slots, multiply, out_of_slots, place, rows_fitting, rows_of, running, saved_of, steps,
)
from .table cimport cell_forward, real

cdef enum:
    # The gates of a block of steps: enough rows for the product's sake, few enough to stay in the L2 cache.
    BLOCK_BYTES = 524288

ctypedef struct Call:
    # what the whole call works on
    Batch batch
    Rows x, y, inner                # inner: between layers, in y's layout; empty with one layer
    void* h                         # (layers * directions, B, H): initial states in, final states out
    void* c
    unsigned char** keep      # for each layer but the last, which outputs dropout keeps, in y's layout; or NULL
    double scale                    # of the outputs kept
    Saved* tape                     # or NULL in inference


def forward(Network network, x, y, inner, h, c, bint batch_first, ragged, list keep, double scale, list tape):
    """Run the network over x; y, h and c are written in place.

    Parameters
    ----------
    network : Network
    x, y, inner : arrays (T, B, width), or (B, T, width) with batch_first
        `inner`, of y's shape, holds what passes between layers; None with one layer.
    h, c : arrays (layers * directions, B, H)
        Initial states, overwritten by the final ones.
    ragged : None or (order, lengths, active)
        Row numbers sorted by falling length, their lengths, and the number of rows running at each step.
    keep : None or list of uint8 arrays of y's shape
        Dropout's choice after each layer but the last; what is kept is multiplied by `scale`.
    tape : None or list of (x, h_prev, c_prev, gates, tanh_c)
        For each layer and direction, filled for backward.
    """
    cdef Call call
    cdef Status status
    cdef unsigned int denormals
    cdef Py_ssize_t T = x.shape[1] if batch_first else x.shape[0]
    call.batch = batch_of(T, h.shape[1], ragged)
    call.x = rows_of(x, batch_first)
    call.y = rows_of(y, batch_first)
    call.inner = rows_of(inner, batch_first)
    call.h = address(h)
    call.c = address(c)
    call.scale = scale
    call.keep = NULL
    call.tape = NULL
    try:
        call.tape = saved_of(tape)
        call.keep = addresses(keep)
        with nogil:
            denormals = network.kernels.flush_denormals()
            if network.itemsize == 4:
                status = layers[float](network, &call, <float*>call.h, <float*>call.c)
            else:
                status = layers[double](network, &call, <double*>call.h, <double*>call.c)
            network.kernels.restore_denormals(denormals)
        check(status)
    finally:
        PyMem_Free(call.tape)
        PyMem_Free(call.keep)


cdef Status layers(Network network, Call* call, real* h, real* c) noexcept nogil:
    """All layers and directions. Layers write in turn to `inner` and `y`, so that the last one writes y."""
    cdef Py_ssize_t L = network.num_layers, D = network.num_directions, state = call.batch.B * network.hidden_size
    cdef Py_ssize_t layer, direction, index
    cdef Rows source = call.x, target, half
    cdef const unsigned char* keep = NULL
    cdef Status status
    for layer in range(L):
        target = call.y if (L - 1 - layer) % 2 == 0 else call.inner
        for direction in range(D):
            index = layer * D + direction
            half = target
            half.data = <real*>target.data + direction * network.hidden_size
            status = sweep[real](network, call, index, &source, &half, keep, h + index * state, c + index * state)
            if status != DONE:
                return status
        source = target
        keep = NULL if call.keep == NULL or layer == L - 1 else call.keep[layer]
    return DONE


cdef Status sweep(Network network, Call* call, Py_ssize_t index, const Rows* x, const Rows* y,
                  const unsigned char* keep, real* h, real* c) noexcept nogil:
    """One direction of one layer over all steps, with its working arrays."""
    cdef const Batch* batch = &call.batch
    cdef Py_ssize_t H = network.hidden_size, state = batch.B * H
    cdef Py_ssize_t most = rows_fitting(BLOCK_BYTES, network, batch)
    cdef Py_ssize_t block = most * (network.directions[index].ih.inputs + 4 * H)
    cdef real* scratch = <real*>malloc((block + 2 * state) * sizeof(real))
    cdef real* slots_h
    cdef real* slots_c
    cdef Status status
    if scratch == NULL:
        return NO_MEMORY
    if batch.order == NULL:
        status = blocks[real](network, call, index, x, y, keep, h, c, most, scratch)
    else:
        slots_h = scratch + block
        slots_c = slots_h + state
        into_slots[real](batch, H, h, slots_h)
        into_slots[real](batch, H, c, slots_c)
        status = blocks[real](network, call, index, x, y, keep, slots_h, slots_c, most, scratch)
        out_of_slots[real](batch, H, slots_h, h)
        out_of_slots[real](batch, H, slots_c, c)
    free(scratch)
    return status


cdef Status blocks(Network network, Call* call, Py_ssize_t index, const Rows* x, const Rows* y,
                   const unsigned char* keep, real* h, real* c, Py_ssize_t most, real* scratch) noexcept nogil:
    """All steps of a sweep, block by block. `h` and `c` are in sweep order, updated in place."""
    cdef const Batch* batch = &call.batch
    cdef const Direction* way = &network.directions[index]
    cdef Py_ssize_t H = network.hidden_size, start = 0, end, step, rows, done = 0, work = 0
    cdef Status status
    cdef Saved* saved = NULL if call.tape == NULL else &call.tape[index]
    cdef real* block_x
    cdef real* z
    while start < steps(batch):
        end = block_end(batch, start, most, &rows)
        if saved == NULL:
            block_x = scratch
            z = scratch + most * way.ih.inputs
        else:
            block_x = <real*>saved.x + done * way.ih.inputs
            z = <real*>saved.gates + done * 4 * H
        if saved == NULL and keep == NULL and lies_in_order(batch, x, way.backwards):
            block_x = <real*>x.data + start * x.step
        else:
            gather[real](batch, x, way.backwards, start, end, keep, call.scale, block_x)
        spread_bias[real](rows, 4 * H, <const real*>way.bias, z)
        multiply[real](network, &way.ih, rows, block_x, z, False)
        for step in range(start, end):
            run_step[real](network, batch, way, y, step, saved, done, z, h, c)
            z += running(batch, step) * 4 * H
            done += running(batch, step)
        start = end
        status = after(rows * 4 * H * (way.ih.inputs + H), &work)
        if status != DONE:
            return status
    return DONE


cdef void run_step(Network network, const Batch* batch, const Direction* way, const Rows* y, Py_ssize_t step,
                   Saved* saved, Py_ssize_t done, real* z, real* h, real* c) noexcept nogil:
    """One step: the recurrent product, the cell, and h to its place in y."""
    cdef Py_ssize_t H = network.hidden_size, n = running(batch, step), slot
    cdef real* tanh_c = NULL
    cdef real* out = <real*>y.data
    if saved != NULL:
        memcpy(<real*>saved.h_prev + done * H, h, n * H * sizeof(real))
        memcpy(<real*>saved.c_prev + done * H, c, n * H * sizeof(real))
        tanh_c = <real*>saved.tanh_c + done * H
    multiply[real](network, &way.hh, n, h, z, step % 2)
    cell_forward[real](network.kernels, n, H, z, c, h, tanh_c)
    for slot in range(n):
        memcpy(out + place(batch, y, way.backwards, step, slot), h + slot * H, H * sizeof(real))


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


cdef void spread_bias(Py_ssize_t rows, Py_ssize_t width, const real* bias, real* z) noexcept nogil:
    """Start every row of z from the bias, or from zero."""
    cdef Py_ssize_t row
    if bias == NULL:
        memset(z, 0, rows * width * sizeof(real))
        return
    for row in range(rows):
        memcpy(z + row * width, bias, width * sizeof(real))
