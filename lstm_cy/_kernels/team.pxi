# Two threads in step on one row: each computes half of every step's gates and waits at a barrier for the other. Each
# half of the weights stays in the cache of its own core, and one barrier a step is enough. In a fused net, whose gates
# are interleaved, each thread updates its own units and reads the other's from h, for which there are two arrays used
# in turn; in other nets each updates the whole cell.
#
# Where another process takes one of the two processors a barrier may last as long as a slice of its time. After such a
# wait there is one more barrier, for both to know that it is the last; then the leader goes on alone, and for some time
# no team is formed.

cdef enum:
    LAST_BLOCK = 1 << 30
    # Nanoseconds for which the leader may wait in all: at first the follower has to load its half of the weights.
    MAX_WAITING = 300000
    # Steps of the first block, while a follower may still be waking
    FIRST_STEPS = 8
    # Bytes of recurrent weights from which a team pays: for a single layer, and where a pipeline is possible
    FITS_L1 = 48 * 1024
    FITS_L2 = 128 * 1024

ctypedef struct Team:
    # The leader is the caller's thread; the follower joins at the beginning of a block, once it is ready.
    Py_ssize_t[APART] ready         # 1: a follower waits for its first block
    Py_ssize_t[APART] block         # number of the block to work on
    Py_ssize_t[2 * APART] arrivals  # of each thread at a barrier
    Py_ssize_t count                # the leader's own copy of its arrivals
    Py_ssize_t last_barrier         # after which the follower leaves, or 0
    bint joined, late               # whether there is a follower, and whether the leader waited too long for it
    Py_ssize_t waiting              # how long, in nanoseconds
    # the block at hand, and the state before it
    Py_ssize_t first, last
    void* x
    void* z
    void* rounded                   # x rounded to bf16
    Rows y
    Carried carried


cdef bint splits_steps(const Net* network, const Call* call) noexcept nogil:
    """Return whether a team takes one layer after the other.

    It can do a single row of plain layers, in inference. It pays where the recurrent weights do not fit in the cache
    next to a core: then each half stays in that of its own. Layers that do fit are faster in a pipeline (pipeline.pxi),
    which does not wait at each step; a single layer has no other way.
    """
    cdef Py_ssize_t bytes = 4 * network.hidden_size * network.hidden_size * network.engine.itemsize
    if (call.batch.B != 1 or network.num_directions > 1 or call.batch.resets != NULL or call.tape != NULL
            or network.projected or network.zoned or network.directions[0].variant != NULL):
        return False
    return bytes >= (FITS_L1 if groups_of(network, call) == 0 else FITS_L2)


cdef void join_team(void* argument) noexcept nogil:
    """Follow the leader in a worker thread."""
    cdef Layer* layer = <Layer*>argument
    cdef unsigned int denormals = layer.net.engine.kernels.flush_denormals()
    if layer.net.engine.itemsize == 4:
        follow[float](layer, NULL)
    else:
        follow[double](layer, NULL)
    layer.net.engine.kernels.restore_denormals(denormals)


cdef inline Py_ssize_t team_steps(Team* team, Py_ssize_t start, Py_ssize_t most) noexcept nogil:
    """Let the follower join if it is ready; return the steps of the next block, few while the leader waits for it."""
    team.joined = not team.late and (team.joined or load_acquire(&team.ready[0]))
    return most if team.joined or team.late else min(most, max(FIRST_STEPS, start))


cdef inline Py_ssize_t barrier(Team* team, int member, Py_ssize_t* count) noexcept nogil:
    """Arrive with this half done, and wait for the other half. Nanoseconds, or 0 if it was hardly late."""
    count[0] += 1
    store_release(&team.arrivals[member * APART], count[0])
    return await_at_least(&team.arrivals[(1 - member) * APART], count[0])


cdef void leader_barrier(Team* team) noexcept nogil:
    """The leader's side of a barrier, after which there may be no follower any more."""
    if team.late:
        store_release(&team.last_barrier, team.count + 1)
    team.waiting += barrier(team, 0, &team.count)
    if team.late:
        team.joined = False
    elif team.waiting > MAX_WAITING:
        team.late = True


cdef inline bint follower_barrier(Team* team, Py_ssize_t* count) noexcept nogil:
    """The follower's side of a barrier. False if it was the last."""
    barrier(team, 1, count)
    return load_acquire(&team.last_barrier) != count[0]


cdef void lead_block(Layer* layer, const Direction* direction, const Batch* batch, const Rows* y, Py_ssize_t first,
                     Py_ssize_t last, real* x, real* z, real* rounded, real* rounded_h,
                     Carried* carried) noexcept nogil:
    """The leader's part of a block: all of it while it is alone."""
    cdef Team* team = layer.team
    cdef Py_ssize_t H = layer.net.hidden_size, rows = last - first, step
    cdef real* out = <real*>y.data
    cdef real* h = <real*>carried.h
    if team.joined:
        team.first = first
        team.last = last
        team.x = x
        team.z = z
        team.rounded = rounded
        team.y = y[0]
        team.carried = carried[0]
        store_release(&team.block[0], team.block[0] + 1)
        leader_barrier(team)  # the follower has what it needs of the state
    if team.joined:
        affine[real](&layer.net.engine, rows // 2, <const real*>direction.bias, &direction.ih, x, NULL, NULL, False, z,
                     rounded)
        leader_barrier(team)
    else:
        affine[real](&layer.net.engine, rows, <const real*>direction.bias, &direction.ih, x, NULL, NULL, False, z,
                     rounded)
    if layer.net.fused:
        run_half[real](layer, direction, batch, y, first, last, 0, NULL, z, rounded_h, carried)
        return
    for step in range(first, last):
        if team.joined:
            multiply_half[real](&layer.net.engine, &direction.hh, 0, h, z, step % 2)
            leader_barrier(team)
        else:
            multiply[real](&layer.net.engine, &direction.hh, 1, h, z, step % 2, NULL)
        cell_forward[real](layer.net.engine.kernels, 1, H, z, <real*>carried.c, h, <real*>NULL)
        memcpy(out + offset_of(batch, y, direction.backwards, step, 0), h, H * sizeof(real))
        z += 4 * H


cdef void follow(Layer* layer, real* precision) noexcept nogil:
    """The follower: its half of every block from the one in which it joins."""
    cdef Py_ssize_t H = layer.net.hidden_size, number = 1, count = 0
    cdef Team* team = layer.team
    cdef real* state = <real*>acquire((2 * H + layer.net.rounded_h) * sizeof(real))
    # else the leader goes on alone: there is no memory, or another worker was faster
    if state != NULL and fetch_add(&team.ready[0], 1) == 0:
        await_at_least(&team.block[0], number)
        while load_acquire(&team.block[0]) != LAST_BLOCK:
            if not follow_block[real](layer, state, state + H, state + 2 * H, &count):
                break
            number += 1
            await_at_least(&team.block[0], number)
    release(state)


cdef bint follow_block(Layer* layer, real* h, real* c, real* rounded_h, Py_ssize_t* count) noexcept nogil:
    """The follower's part of a block. False if it leaves the team."""
    cdef Team* team = layer.team
    cdef const Direction* direction = &layer.net.directions[layer.index]
    cdef Py_ssize_t H = layer.net.hidden_size, step = team.first, last = team.last, rows = last - step, cut = rows // 2
    cdef const real* x = <const real*>team.x
    cdef real* z = <real*>team.z
    cdef Carried carried
    memcpy(h, team.carried.h, H * sizeof(real))
    memcpy(c, team.carried.c, H * sizeof(real))
    if not follower_barrier(team, count):
        return False
    affine[real](&layer.net.engine, rows - cut, <const real*>direction.bias, &direction.ih,
                 x + cut * direction.ih.inputs, NULL, NULL, False, z + cut * direction.ih.columns,
                 <real*>team.rounded + cut * layer.net.rounded_x)
    if not follower_barrier(team, count):
        return False
    if layer.net.fused:
        carried = team.carried
        return run_half[real](layer, direction, &layer.call.batch, &team.y, step, last, 1, count, z, rounded_h,
                              &carried)
    for step in range(step, last):
        multiply_half[real](&layer.net.engine, &direction.hh, 1, h, z, step % 2)
        if not follower_barrier(team, count):
            return False
        cell_forward[real](layer.net.engine.kernels, 1, H, z, c, h, <real*>NULL)
        z += 4 * H
    return True


cdef bint run_half(Layer* layer, const Direction* direction, const Batch* batch, const Rows* y, Py_ssize_t first,
                   Py_ssize_t last, int member, Py_ssize_t* count, real* z, real* rounded_h,
                   Carried* carried) noexcept nogil:
    """A member's steps of a block of a fused net; all of each if it is the leader, alone. False as `follow_block`."""
    cdef Team* team = layer.team
    cdef CellStep at = step_of[real](layer.net, direction, <const real*>NULL)
    cdef Py_ssize_t panels = at.last, units = panel_columns[real](layer.net.engine.kernels, NULL) // 4, step, begin, end
    cdef real* out = <real*>y.data
    at.rows = 1
    at.c = carried.c
    for step in range(first, last):
        at.first = 0 if member == 0 else panels // 2
        at.last = panels // 2 if member == 0 and team.joined else panels
        at.descending = step % 2
        at.products[0].a = factors_of[real](&layer.net.engine, direction.hh.kind, 1, at.hidden_size,
                                            <const real*>carried.h, at.hidden_size, rounded_h)
        at.h = carried.spare
        at.begin = z
        z += direction.hh.columns
        cell_step[real](layer.net.engine.kernels, &at, NULL)
        begin = at.first * units
        end = min(at.last * units, at.hidden_size)
        memcpy(out + offset_of(batch, y, direction.backwards, step, 0) + begin, <real*>at.h + begin,
               (end - begin) * sizeof(real))
        carried.spare = carried.h
        carried.h = at.h
        if member == 1:
            if not follower_barrier(team, count):
                return False
        elif team.joined:
            leader_barrier(team)
    return True


cdef void release_follower(Team* team) noexcept nogil:
    """Let the follower leave, also one that joins only now."""
    store_release(&team.block[0], LAST_BLOCK)
