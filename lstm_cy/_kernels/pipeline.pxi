# Several threads on the sweeps of all layers. The directions of a layer and groups of its rows do not depend on each
# other; and where layers have one direction, a block of steps needs only the same rows and steps of the layer below.
# Each thread takes the next block of a sweep that can go on: threads follow each other through the layers, and one that
# joins late finds work at any time.
#
# A thread waits only while no sweep can go on. It holds nothing then that another one needs: what it waits for is being
# computed.

cdef enum:
    # Rows of a block: few, so that all threads have work early and until late; enough for fast products. A block of
    # fewer multiply-adds is not worth what passing it on costs, and layers of fewer blocks hardly overlap.
    PIPELINE_ROWS = 16
    PIPELINE_WORK = 100000
    LEAST_BLOCKS = 3
    # Rows of a group where the recurrent weights do not stay in the L2 cache, if there are more groups than threads
    SPARE_ROWS = 8
    # Rows that kernels compute together divide into 3 with most instruction sets.
    TILE_ROWS = 3

ctypedef struct Pipeline:
    Py_ssize_t[APART] tickets       # of threads that want to take a block,
    Py_ssize_t[APART] served        # and the one whose turn it is
    Py_ssize_t[APART] finished      # blocks of all sweeps; the first one is setting up
    Py_ssize_t status, threads      # threads: those that have joined, the caller included
    const Net* net
    Call* call
    Layer* layers
    Sweep* sweeps                   # by layer, direction and group of rows
    Py_ssize_t groups, count
    Py_ssize_t first                # a sweep before which all are complete
    Py_ssize_t block                # elements of the working arrays of a block of any sweep


cdef inline Py_ssize_t pipeline_rows(const Net* network) noexcept nogil:
    return max(<Py_ssize_t>PIPELINE_ROWS, network.num_directions * PIPELINE_WORK // work_of_step(network, 0))


cdef inline Py_ssize_t groups_of(const Net* network, const Call* call) noexcept nogil:
    """Return the groups of rows for the threads of a call, 0 if threads have nothing to share.

    Where that costs little there is a group more than threads: if one of these is late, or loses its processor for some
    time, the others go on with all groups but its own, and the call waits for one block.
    """
    cdef Py_ssize_t D = network.num_directions, rows = call.batch.B, spare = call.threads + 1
    cdef Py_ssize_t bytes = 4 * network.hidden_size * network.output_size * network.engine.itemsize
    cdef Py_ssize_t least = LEAST_ROWS if bytes <= SMALL_WEIGHTS else SPARE_ROWS
    cdef Py_ssize_t requested = spare if rows // spare >= least else (call.threads + D - 1) // D
    cdef Py_ssize_t groups = max(1, min(requested, rows // LEAST_ROWS))
    if D * groups == 1 and (network.num_layers == 1
                            or steps(&call.batch) * rows < LEAST_BLOCKS * max(rows, pipeline_rows(network))):
        return 0
    return groups


cdef inline Py_ssize_t first_row(const Batch* batch, Py_ssize_t group, Py_ssize_t groups) noexcept nogil:
    """Return the first row of a group of rows of equal length: a multiple of TILE_ROWS, if groups are large enough."""
    cdef Py_ssize_t row = batch.B * group // groups
    return row if group == groups or row < 2 * TILE_ROWS * group else (row + 1) // TILE_ROWS * TILE_ROWS


cdef inline Batch group_of(const Pipeline* pipeline, Py_ssize_t group) noexcept nogil:
    """Return the rows of a group."""
    cdef Batch batch = part_of(&pipeline.call.batch, group, pipeline.groups)
    if batch.order == NULL:
        batch.first = first_row(&pipeline.call.batch, group, pipeline.groups)
        batch.B = first_row(&pipeline.call.batch, group + 1, pipeline.groups) - batch.first
    return batch


cdef bint run_pipeline(const Net* network, Call* call, Status* status) noexcept nogil:
    """Compute all layers together with workers. False if another call has these, or there is nothing to share."""
    cdef Py_ssize_t D = network.num_directions, groups = groups_of(network, call), number, multiply_adds = 0, most
    cdef Pipeline own
    for number in range(network.num_layers):
        multiply_adds += steps(&call.batch) * call.batch.B * work_of_step(network, number * D)
    if groups == 0 or not worth_sharing(multiply_adds):
        return False
    memset(&own, 0, sizeof(Pipeline))
    own.net = network
    own.call = call
    own.groups = groups
    own.count = network.num_layers * D * groups
    own.status = DONE
    most = min(<Py_ssize_t>call.threads, own.count if D == 1 else D * groups)
    if not open_job(<int>most - 1, join_pipeline, <void*>&own):
        return False
    if network.engine.itemsize == 4:
        take_blocks[float](&own, True, <float*>call.h, <float*>call.c)
    else:
        take_blocks[double](&own, True, <double*>call.h, <double*>call.c)
    close_job()
    release(own.layers)
    status[0] = <Status>own.status
    return True


cdef void join_pipeline(void* argument) noexcept nogil:
    """Take blocks in a worker thread."""
    cdef Pipeline* pipeline = <Pipeline*>argument
    cdef unsigned int denormals = pipeline.net.engine.kernels.flush_denormals()
    if pipeline.net.engine.itemsize == 4:
        take_blocks[float](pipeline, False, <float*>pipeline.call.h, <float*>pipeline.call.c)
    else:
        take_blocks[double](pipeline, False, <double*>pipeline.call.h, <double*>pipeline.call.c)
    pipeline.net.engine.kernels.restore_denormals(denormals)


cdef bint set_up(Pipeline* pipeline, real* h, real* c) noexcept nogil:
    """Begin all sweeps. False if there is no memory."""
    cdef const Net* network = pipeline.net
    cdef Py_ssize_t L = network.num_layers, D = network.num_directions, G = pipeline.groups, number, group
    cdef Py_ssize_t size = L * sizeof(Layer) + pipeline.count * sizeof(Sweep) + CACHE_LINE, most
    cdef Batch batch
    cdef Layer* layer
    cdef Sweep* sweep
    cdef real* state
    for group in range(G):
        batch = group_of(pipeline, group)
        size += L * D * state_size(network, batch.B) * sizeof(real)
    pipeline.layers = <Layer*>acquire(size)
    if pipeline.layers == NULL:
        return False
    pipeline.sweeps = sweep = <Sweep*>(pipeline.layers + L)
    state = <real*>(pipeline.sweeps + pipeline.count)
    state += (CACHE_LINE - <size_t>state % CACHE_LINE) // sizeof(real)
    for number in range(L):
        pipeline.layers[number] = layer_of(network, pipeline.call, number)
    for number in range(L * D):
        layer = &pipeline.layers[number // D]
        for group in range(G):
            batch = group_of(pipeline, group)
            most = max(pipeline_rows(network), batch.B)
            begin_sweep[real](sweep, layer, number, &batch, most, state, h, c)
            pipeline.block = max(pipeline.block, block_size(layer, number, &batch, most))
            state += state_size(network, batch.B)
            sweep += 1
    return True


cdef void take_blocks(Pipeline* pipeline, bint caller, real* h, real* c) noexcept nogil:
    """Compute one block after the other until all sweeps are complete; the caller's thread begins them."""
    cdef Py_ssize_t work = 0, thread = 1 + fetch_add(&pipeline.threads, 1), index, finished, multiply_adds
    cdef Status status
    cdef Sweep* sweep
    cdef real* scratch = NULL
    if caller:
        if not set_up[real](pipeline, h, c):
            store_release(&pipeline.status, NO_MEMORY)
        fetch_add(&pipeline.finished[0], 1)
    else:
        await_at_least(&pipeline.finished[0], 1)
    if load_acquire(&pipeline.status) == DONE:
        scratch = <real*>acquire(pipeline.block * sizeof(real))
        if scratch == NULL and caller:
            store_release(&pipeline.status, NO_MEMORY)
    while scratch != NULL and load_acquire(&pipeline.status) == DONE:
        finished = load_acquire(&pipeline.finished[0])
        index = take_block(pipeline, thread)
        if index == pipeline.count:
            break
        if index < 0:
            note_waiting(await_at_least(&pipeline.finished[0], finished + 1), caller)
            continue
        sweep = &pipeline.sweeps[index]
        multiply_adds = advance[real](sweep, scratch)
        keep_state[real](sweep, NULL)  # the layer after next writes to the same array
        if sweep.start == steps(&sweep.batch):
            end_sweep[real](sweep, h, c)
        status = poll_interrupt(multiply_adds, &work, &pipeline.call.stop, caller)
        if status != DONE:
            store_release(&pipeline.status, status)
        store_release(&sweep.finished[0], sweep.taken)
        fetch_add(&pipeline.finished[0], 1)
    release(scratch)


cdef Py_ssize_t take_block(Pipeline* pipeline, Py_ssize_t thread) noexcept nogil:
    """Take a block of the sweep that is furthest behind, or almost and with its weights in this thread's cache.

    Return its index, -1 if none can go on now, or `count` if all are complete.
    """
    cdef Py_ssize_t parts = pipeline.net.num_directions * pipeline.groups, index, behind, best = -1, least = 0
    cdef Py_ssize_t ticket = fetch_add(&pipeline.tickets[0], 1)
    await_at_least(&pipeline.served[0], ticket)
    while pipeline.first < pipeline.count and is_complete(&pipeline.sweeps[pipeline.first]):
        pipeline.first += 1
    for index in range(pipeline.first, pipeline.count):
        # its number among the blocks of its own rows, where each layer begins a block later than the one below
        behind = 2 * (pipeline.sweeps[index].taken + index // parts) - 3 * (pipeline.sweeps[index].owner == thread)
        if can_go_on(pipeline, index) and (best < 0 or behind < least):
            best = index
            least = behind
    if pipeline.first == pipeline.count:
        best = pipeline.count
    elif best >= 0:
        pipeline.sweeps[best].taken += 1
        pipeline.sweeps[best].owner = thread
    store_release(&pipeline.served[0], ticket + 1)
    return best


cdef inline bint is_waiting(const Sweep* sweep) noexcept nogil:
    """Return whether all blocks that were taken are finished."""
    return load_acquire(&sweep.finished[0]) == sweep.taken


cdef inline bint is_complete(const Sweep* sweep) noexcept nogil:
    return is_waiting(sweep) and sweep.start == steps(&sweep.batch)


cdef bint can_go_on(const Pipeline* pipeline, Py_ssize_t index) noexcept nogil:
    """Return whether the next block of a sweep can be computed: its own state and its input are there."""
    cdef Py_ssize_t D = pipeline.net.num_directions, G = pipeline.groups
    cdef const Sweep* sweep = &pipeline.sweeps[index]
    cdef const Sweep* below = sweep - G
    if not is_waiting(sweep) or sweep.start == steps(&sweep.batch):
        return False
    if index < D * G:
        return True
    if D == 1:
        return load_acquire(&below.finished[0]) > sweep.taken
    below = &pipeline.sweeps[(index // (D * G) - 1) * D * G + index % G]
    return is_complete(below) and is_complete(below + G)
