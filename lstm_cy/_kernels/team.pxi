# Two threads in step on one row: each computes half of every step's gates and meets the other. Each half of the
# weights stays in the cache of its own core, and one meeting a step is enough: of a fused net, whose gates are
# interleaved, each updates its own units, and reads the other's from the h that they write in turns; else each updates
# the whole cell for itself.
#
# Where another process takes one of the two processors a meeting may last as long as a slice of its time. After a few
# such meetings there is one more, for both to know that it is the last; then the leader goes on alone, and for a while
# no team is formed.

cdef enum:
    APART = 16  # elements between counters of different threads: two cache lines
    LAST_TURN = 1 << 30
    # Meetings to which the follower may come late: at first it has to load its half of the weights.
    MOST_DELAYS = 3
    # Multiply-adds of a layer for which a worker that sleeps is woken to join: it may come to the leader's own
    # processor first, and be late until the system moves it.
    WORTH_A_TEAM = 100000000

ctypedef struct Team:
    # The leader's thread is the caller's; the follower's joins at the beginning of a block, once it has come.
    Py_ssize_t[APART] come          # 1: a follower waits for its first block
    Py_ssize_t[APART] turn          # number of the block to work on
    Py_ssize_t[2 * APART] met       # how often each has come to a meeting
    Py_ssize_t count                # the same, the leader's own
    Py_ssize_t last_meeting         # after which the follower leaves, or 0
    bint joined, late               # whether there is a follower, and whether it has been late too often
    int delays                      # how often it has
    # the block at hand, and the state before it
    Py_ssize_t first, last
    void* x
    void* z
    Rows y
    Carried carried


cdef inline bint team_can(const Layer* layer) noexcept nogil:
    """Whether this is a case that a team knows: one row of a plain layer, in inference."""
    return (layer.call.batch.B == 1 and layer.call.batch.resets == NULL and layer.call.tape == NULL
            and not layer.net.projected and layer.net.directions[layer.index].variant == NULL)


cdef bint set_up_team(Team* team, Layer* layer, Py_ssize_t multiply_adds) noexcept nogil:
    """Whether a team is worth it: R must be more than a core keeps next to its arithmetic anyway."""
    cdef Py_ssize_t H = layer.net.hidden_size
    if 4 * H * H * layer.net.engine.itemsize < 48 * 1024 or held_off():
        return False
    if multiply_adds < WORTH_A_TEAM and not worker_is_near():
        return False
    memset(team, 0, sizeof(Team))
    return True


cdef inline bint meet(Team* team, int member, Py_ssize_t* count) noexcept nogil:
    """Tell the other that this half is done, and wait for the other half. True if it was late."""
    count[0] += 1
    publish(&team.met[member * APART], count[0])
    return await_at_least(&team.met[(1 - member) * APART], count[0])


cdef void lead_meeting(Team* team) noexcept nogil:
    """The leader's side of a meeting, after which there may be no follower any more."""
    cdef bint late
    if team.late:
        publish(&team.last_meeting, team.count + 1)
    late = meet(team, 0, &team.count)
    if team.late:
        team.joined = False
    elif late:
        team.delays += 1
        if team.delays > MOST_DELAYS:
            team.late = True
            hold_off()


cdef inline bint follow_meeting(Team* team, Py_ssize_t* count) noexcept nogil:
    """The follower's side of a meeting. False if it was the last."""
    meet(team, 1, count)
    return look(&team.last_meeting) != count[0]


cdef void lead_block(Layer* layer, const Direction* way, const Batch* batch, const Rows* y, Py_ssize_t first,
                     Py_ssize_t last, real* x, real* z, Carried* carried) noexcept nogil:
    """The leader's part of a block: all of it while it is alone."""
    cdef Team* team = layer.team
    cdef Py_ssize_t H = layer.net.hidden_size, rows = last - first, step
    cdef real* out = <real*>y.data
    cdef real* h = <real*>carried.h
    team.joined = not team.late and (team.joined or look(&team.come[0]))
    if team.joined:
        team.first = first
        team.last = last
        team.x = x
        team.z = z
        team.y = y[0]
        team.carried = carried[0]
        publish(&team.turn[0], team.turn[0] + 1)
        lead_meeting(team)  # the follower has what it needs of the state
    if team.joined:
        affine[real](&layer.net.engine, rows // 2, <const real*>way.bias, &way.ih, x, NULL, NULL, False, z)
        lead_meeting(team)
    else:
        affine[real](&layer.net.engine, rows, <const real*>way.bias, &way.ih, x, NULL, NULL, False, z)
    if layer.net.fused:
        run_half[real](layer, way, batch, y, first, last, 0, NULL, z, carried)
        return
    for step in range(first, last):
        if team.joined:
            multiply_half[real](&layer.net.engine, &way.hh, 0, h, z, step % 2)
            lead_meeting(team)
        else:
            multiply[real](&layer.net.engine, &way.hh, 1, h, z, step % 2)
        cell_forward[real](layer.net.engine.kernels, 1, H, z, <real*>carried.c, h, <real*>NULL)
        memcpy(out + place(batch, y, way.backwards, step, 0), h, H * sizeof(real))
        z += 4 * H


cdef void follow(Layer* layer, real* precision) noexcept nogil:
    """The follower: its half of every block from the one in which it joins."""
    cdef Py_ssize_t H = layer.net.hidden_size, turn = 1, count = 0
    cdef Team* team = layer.team
    cdef real* state = <real*>borrow(2 * H * sizeof(real))
    if state != NULL and take(&team.come[0]) == 0:  # else the leader goes on without: no memory, or another was faster
        await_at_least(&team.turn[0], turn)
        while look(&team.turn[0]) != LAST_TURN and follow_block[real](layer, state, state + H, &count):
            turn += 1
            await_at_least(&team.turn[0], turn)
    give_back(state)


cdef bint follow_block(Layer* layer, real* h, real* c, Py_ssize_t* count) noexcept nogil:
    """The follower's part of a block. False if the leader has parted with it."""
    cdef Team* team = layer.team
    cdef const Direction* way = &layer.net.directions[layer.index]
    cdef Py_ssize_t H = layer.net.hidden_size, step = team.first, last = team.last, rows = last - step, cut = rows // 2
    cdef const real* x = <const real*>team.x
    cdef real* z = <real*>team.z
    cdef Carried carried
    memcpy(h, team.carried.h, H * sizeof(real))
    memcpy(c, team.carried.c, H * sizeof(real))
    if not follow_meeting(team, count):
        return False
    affine[real](&layer.net.engine, rows - cut, <const real*>way.bias, &way.ih, x + cut * way.ih.inputs, NULL, NULL,
                 False, z + cut * way.ih.columns)
    if not follow_meeting(team, count):
        return False
    if layer.net.fused:
        carried = team.carried
        return run_half[real](layer, way, &layer.call.batch, &team.y, step, last, 1, count, z, &carried)
    for step in range(step, last):
        multiply_half[real](&layer.net.engine, &way.hh, 1, h, z, step % 2)
        if not follow_meeting(team, count):
            return False
        cell_forward[real](layer.net.engine.kernels, 1, H, z, c, h, <real*>NULL)
        z += 4 * H
    return True


cdef bint run_half(Layer* layer, const Direction* way, const Batch* batch, const Rows* y, Py_ssize_t first,
                   Py_ssize_t last, int member, Py_ssize_t* count, real* z, Carried* carried) noexcept nogil:
    """A member's steps of a block of a fused net; all of each if it is the leader, alone. False as `follow_block`."""
    cdef Team* team = layer.team
    cdef CellStep at = step_of[real](layer.net, way, <const real*>NULL)
    cdef Py_ssize_t panels = at.last, units = panel_columns[real](layer.net.engine.kernels, NULL) // 4, step, begin, end
    cdef real* out = <real*>y.data
    at.rows = 1
    at.c = carried.c
    for step in range(first, last):
        at.first = 0 if member == 0 else panels // 2
        at.last = panels // 2 if member == 0 and team.joined else panels
        at.last_first = step % 2
        at.products[0].a = carried.h
        at.h = carried.spare
        at.begin = z
        z += way.hh.columns
        cell_step[real](layer.net.engine.kernels, &at, NULL)
        begin = at.first * units
        end = min(at.last * units, at.hidden_size)
        memcpy(out + place(batch, y, way.backwards, step, 0) + begin, <real*>at.h + begin,
               (end - begin) * sizeof(real))
        carried.spare = carried.h
        carried.h = at.h
        if member == 1:
            if not follow_meeting(team, count):
                return False
        elif team.joined:
            lead_meeting(team)
    return True


cdef void dismiss(Team* team) noexcept nogil:
    """Let the follower go, also one that comes only now."""
    publish(&team.turn[0], LAST_TURN)
