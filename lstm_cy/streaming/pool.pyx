"""Thousands of independent streams over one model; the streams that have input step as one batch.

The state of a stream is one record, and all records are in one array. A step is cut in blocks of rows, small enough
that the data which they read and write stay in the L2 cache while the weights are read. For each block the states are
gathered from their records, go through the chain of layers, and are scattered to their records. This costs little
compared with the products, and any streams can step, in any order.
"""

import numpy as np

cimport numpy as cnp
from cpython.long cimport PyLong_AsSsize_t, PyLong_CheckExact
from libc.string cimport memcpy

from .._kernels.runtime.atomics cimport try_lock, unlock
from .._kernels.network cimport LEAST_ROWS, Network
from .._kernels.rowwise cimport row_begin
from .._kernels.runtime.threads cimport close_job, fetch_add, note_call, open_job, worth_sharing
from .._kernels.stages cimport (
    LONG, LOOKUP, RECURRENT, ROWS, Chain, Stage, Stream, advance, free_stream, new_stream, token_fits, uses_blas,
)
from .._kernels.table cimport CACHE_LINE
from .._kernels.runtime.arrays cimport is_plain_array

from .. import config
from ..checks import expect_shape, float_array, int_array, pair_of, refuse_out
from ..notebook import html_table
from .stepper import chain_of, frozen, plain

cdef enum:
    # The data that a block's rows read and write, without the weights: they stay in the L2 cache.
    BLOCK_BYTES = 524288
    # But at least so many rows, since each block reads the weights again.
    LEAST_BLOCK = 96
    FIRST_SLOTS = 16
    # An id is the number of a slot, in its lowest bits, and above them how often the slot has been used before.
    SLOT_BITS = 24
    MOST_THREADS = 64

cdef Py_ssize_t NEXT_ID = 1 << SLOT_BITS  # the distance of ids of the same slot
cdef Py_ssize_t LAST_ID = np.iinfo(np.intp).max - NEXT_ID

cnp.import_array()

ctypedef struct Job:
    # a step, cut in blocks of rows that threads take one after the other
    Stream** streams          # one for each thread
    char* records             # of `record` bytes each
    Py_ssize_t record
    const Py_ssize_t* slots   # of each row
    Py_ssize_t rows, block, blocks
    const char* x             # rows of `x_row` bytes
    Py_ssize_t x_row
    char* y                   # rows of `y_row` bytes
    Py_ssize_t y_row
    int allowed, threads      # threads that the caller allows; those that may join
    Py_ssize_t next, joined   # the next block; the threads that have joined


cdef class StreamPool:
    """Independent streams over one model; those that have input step together, as one batch.

    Streams can join and leave at any time, and each has its own state. The pool keeps the weights it was made with:
    later changes of the model's parameters do not change the pool.

    Parameters
    ----------
    model : LSTM, Sequential or Graph
        Any model for which a `Stepper` can be made; a Graph becomes its `sequential()`.

    Attributes
    ----------
    dtype : numpy.dtype
        Of x and of the result.
    inputs : int
        I, the numbers that a stream's step takes; of a model that takes tokens their number.
    takes_tokens : bool
        Whether the model begins with an Embedding.

    Raises
    ------
    TypeError, ValueError
        The model cannot go step by step.

    Notes
    -----
    With engine "packed" a stream gets the same bits as from a Stepper of its own, whichever streams step with it.

    A stream's id is an int that the pool never uses for another stream. The pool doubles its memory when it is full,
    and uses the memory of ended streams again; there may be 2**24 streams at once.

    Copying and pickling copy the streams with their ids; pickling also copies the weights.

    Only one thread at a time may use a pool: a second one that calls any method meanwhile gets a RuntimeError, and
    nothing is changed. The GIL is released for steps of some 20 microseconds and more.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, StreamPool
    >>> pool = StreamPool(LSTM(3, 5, seed=0))
    >>> yard, hall, roof = pool.join(), pool.join(), pool.join()
    >>> pool.step([yard, hall, roof], np.ones((3, 3))).shape
    (3, 5)
    >>> h = pool.step([roof, yard], np.zeros((2, 3)))  # only streams that have input, in any order
    >>> np.array_equal(h[1], pool.state(yard)[0][-1])
    True
    >>> pool.leave(hall)
    >>> len(pool), hall in pool
    (2, False)
    """

    cdef object model          # a frozen copy
    cdef Chain chain
    cdef readonly object dtype
    cdef int number_type
    cdef readonly Py_ssize_t inputs
    cdef readonly bint takes_tokens
    cdef bint blas             # whether BLAS, which has threads of its own, computes products
    cdef double multiply_adds  # of one row's step
    cdef Py_ssize_t most       # rows of a block
    cdef Job job               # the fields that are the same in every step
    cdef (Stream*)[MOST_THREADS] streams
    cdef cnp.ndarray records, slot_table
    cdef cnp.ndarray scratch   # the x and y of the rows of `_run`
    cdef object initial        # the record of a stream that begins
    cdef Py_ssize_t used, free_count, count, calls
    # rows of the slot table: each slot's id, or ~id of its next stream if it is free; the last step that used it; the
    # numbers of free slots; the slots and the tokens of a step's rows
    cdef Py_ssize_t* ids_of_slots
    cdef Py_ssize_t* last_calls
    cdef Py_ssize_t* free_slots
    cdef Py_ssize_t* row_slots
    cdef Py_ssize_t* row_tokens
    cdef long busy
    cdef bint is_made

    def __cinit__(self, model):
        cdef const Stage* stage
        cdef Py_ssize_t index, width = 0, record = 0
        self.model = frozen(model, "model")
        self.chain = chain_of(self.model, "StreamPool")
        self.dtype = self.model.dtype
        self.number_type = cnp.NPY_FLOAT if self.dtype.itemsize == 4 else cnp.NPY_DOUBLE
        self.blas = uses_blas(&self.chain.plan)
        self.multiply_adds = self.chain.multiply_adds
        for index in range(self.chain.plan.count):
            stage = &self.chain.plan.stages[index]
            width = max(width, stage.outputs + (0 if stage.kind == LOOKUP else stage.inputs))
            if stage.kind == RECURRENT:
                width = max(width, stage.inputs + 2 * stage.outputs + stage.net.hidden_size)
                record += stage.net.num_layers * (stage.outputs + stage.net.hidden_size) * self.dtype.itemsize
            elif stage.kind == ROWS:
                width = max(width, stage.op.space)
                record += stage.op.state_bytes
        self.most = max(BLOCK_BYTES // (width * self.dtype.itemsize), LEAST_BLOCK)
        self.job.streams = self.streams
        self.job.record = (record + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE
        self.inputs, self.takes_tokens = self.chain.plan.stages[0].inputs, self.chain.plan.takes_tokens
        self.job.x_row = sizeof(Py_ssize_t) if self.takes_tokens else self.inputs * self.dtype.itemsize
        self.job.y_row = self.chain.plan.outputs * self.dtype.itemsize
        self.initial = self.initial_record()
        self.scratch = np.empty(0, np.uint8)
        self.need_streams(1)
        self.grow(FIRST_SLOTS)

    def __init__(self, model):
        if self.is_made:
            raise RuntimeError("StreamPool: already initialised; make another one")
        self.is_made = True

    def __dealloc__(self):
        cdef int index
        for index in range(MOST_THREADS):
            free_stream(self.streams[index])

    def join(self, state=None):
        """Begin a stream and return its id.

        Parameters
        ----------
        state : None or (h, c)
            Its initial state, as the method `state` returns it; it is copied. If None that of the model: zeros, or the
            parameters of an LSTM with learn_initial_state.

        Returns
        -------
        int
            The stream's id.

        Raises
        ------
        TypeError, ValueError
            The state has a wrong type or shape, or there are 2**24 streams already.
        """
        cdef Py_ssize_t slot
        if state is not None:
            state = self.checked(state)
        self.acquire()
        try:
            if self.free_count == 0:
                if self.used == self.slot_table.shape[1]:
                    self.grow(2 * self.used)
                self.ids_of_slots[self.used] = ~self.used
                self.free_slots[0] = self.used
                self.used += 1
                self.free_count = 1
            self.free_count -= 1
            self.count += 1
            slot = self.free_slots[self.free_count]
            self.ids_of_slots[slot] = ~self.ids_of_slots[slot]
            self.write(slot, state)
            return self.ids_of_slots[slot]
        finally:
            unlock(&self.busy)

    def leave(self, id):
        """End a stream.

        Parameters
        ----------
        id : int
            From `join`.

        Raises
        ------
        KeyError
            There is no such stream.
        """
        cdef Py_ssize_t slot
        self.acquire()
        try:
            slot = self.slot_of(id)
            self.count -= 1
            if self.ids_of_slots[slot] > LAST_ID:  # all ids of this slot have been used
                self.ids_of_slots[slot] = -1
                return
            self.ids_of_slots[slot] = ~(self.ids_of_slots[slot] + NEXT_ID)
            self.free_slots[self.free_count] = slot
            self.free_count += 1
        finally:
            unlock(&self.busy)

    def step(self, ids, x, out=None, *, threads=None):
        """Compute one step of some of the streams; the others do not change.

        Parameters
        ----------
        ids : array_like of int (n,)
            The streams, in any order, each at most once. An array of intp is the fastest.
        x : array_like (n, I)
            Their inputs, in the order of `ids`. For a model that begins with an Embedding, tokens: integers (n,). A
            C-contiguous array of the model's dtype (of dtype intp for tokens) is read in place, others are converted
            first.
        out : None or ndarray (n, P)
            Array for the result: C-contiguous, writable, of the model's dtype; it may share memory with x.
        threads : None or int
            At most so many threads of the library; None for the setting of `set_num_threads`. Engine "blas" uses one.

        Returns
        -------
        ndarray (n, P)
            `out`, or a new array, in the order of `ids`; P is the last layer's output size.

        Raises
        ------
        KeyError
            There is no stream with one of these ids.
        TypeError, ValueError
            An id is given twice, or an argument has a wrong type or value; the message names it.
        RuntimeError
            Another thread is using this pool.

        After any exception every stream's state is as before.
        """
        cdef Job job
        cdef int allowed = min(config.threads_of(threads), MOST_THREADS)
        ids = plain_vector("ids", ids)
        cdef Py_ssize_t rows = len(ids)
        x = self.tokens_of(x, rows) if self.takes_tokens else self.rows_of(x, rows)
        if out is None:
            out = np.empty((rows, self.chain.plan.outputs), self.dtype)
            target = out
        else:
            target = plain(out)
            if not self.is_result(target, rows):
                refuse_out(out, self.dtype, (rows, self.chain.plan.outputs), "(n, P)")
        if not self.takes_tokens and overlap(x, target):  # one block would write what another reads
            x = x.copy()
        self.acquire()
        try:
            self.find_slots(ids)
            if self.takes_tokens:
                self.copy_tokens(x)
            job = self.job
            job.slots = self.row_slots
            job.x = <const char*>self.row_tokens if self.takes_tokens else <const char*>cnp.PyArray_DATA(<cnp.ndarray>x)
            job.y = <char*>cnp.PyArray_DATA(<cnp.ndarray>target)
            self.plan_blocks(&job, rows, 1 if self.blas else allowed)
            if rows * self.multiply_adds >= LONG:
                with nogil:
                    run(&job)
            else:
                run(&job)
        finally:
            unlock(&self.busy)
        return out

    def _run(self, ids, counts, list xs, out, threads=None):
        """Compute counts[k] >= 1 steps of stream ids[k]; the GIL is released once. For AsyncStreamPool.

        ids and counts are (n,) of intp, counts descending; xs[k], C-contiguous, begins with the x of stream ids[k], of
        tokens that have been checked. out (counts.sum(), P), C-contiguous, gets one stream after the other.
        """
        cdef Py_ssize_t[::1] steps = counts
        cdef Py_ssize_t rows = steps.shape[0], row, step
        cdef int allowed = 1 if self.blas else min(config.threads_of(threads), MOST_THREADS)
        cdef Job job
        cdef char* y = <char*>cnp.PyArray_DATA(<cnp.ndarray>out)
        cdef char* gathered
        cdef cnp.intp_t[:, ::1] rest = np.empty((2, rows), np.intp)  # the addresses of each stream's next x and y
        self.acquire()
        try:
            self.find_slots(ids)
            job = self.job
            job.slots = self.row_slots
            self.plan_blocks(&job, rows, allowed)
            if self.scratch.shape[0] < rows * (job.x_row + job.y_row):
                self.scratch = np.empty(2 * rows * (job.x_row + job.y_row), np.uint8)
            gathered = <char*>cnp.PyArray_DATA(self.scratch)
            for row in range(rows):
                rest[0, row] = <cnp.intp_t>cnp.PyArray_DATA(<cnp.ndarray?>xs[row])
                rest[1, row] = <cnp.intp_t>y
                y += steps[row] * job.y_row
            job.x, job.y = gathered, gathered + rows * job.x_row
            with nogil:
                for step in range(steps[0]):
                    while steps[rows - 1] <= step:
                        rows -= 1
                    self.set_blocks(&job, rows, allowed)
                    for row in range(rows):
                        memcpy(gathered + row * job.x_row, <const char*>rest[0, row], job.x_row)
                        rest[0, row] += job.x_row
                    run(&job)
                    for row in range(rows):
                        memcpy(<char*>rest[1, row], job.y + row * job.y_row, job.y_row)
                        rest[1, row] += job.y_row
        finally:
            unlock(&self.busy)

    def state(self, id):
        """A copy of a stream's state.

        Parameters
        ----------
        id : int
            From `join`.

        Returns
        -------
        (h, c), or a list of such pairs
            (L, P) and (L, H); of a Sequential a list with one pair for each LSTM.

        Raises
        ------
        KeyError
            There is no such stream.
        """
        self.acquire()
        try:
            states = [(h.copy(), c.copy()) for h, c in self.views(self.records[self.slot_of(id)])]
        finally:
            unlock(&self.busy)
        return self.model.states_of(states)

    def set_state(self, id, state):
        """Set a stream's state.

        Parameters
        ----------
        id : int
            From `join`.
        state : (h, c), or a list of such pairs
            As the method `state` returns it; it is copied.

        Raises
        ------
        KeyError
            There is no such stream.
        TypeError, ValueError
            The state has a wrong type or shape; the stream keeps its own.
        """
        state = self.checked(state)
        self.acquire()
        try:
            self.write(self.slot_of(id), state)
        finally:
            unlock(&self.busy)

    def reset(self, ids=None):
        """Set states to the initial one of the model: zeros, or the parameters of an LSTM with learn_initial_state.

        Parameters
        ----------
        ids : None, int, or array_like of int (n,)
            All streams, or these.

        Raises
        ------
        KeyError
            There is no stream with one of these ids; nothing is changed.
        """
        if ids is not None:
            ids = int_array("ids", ids)
            ids = plain_vector("ids", ids.reshape(1) if ids.ndim == 0 else ids)
        self.acquire()
        try:
            if ids is None:
                self.records[:] = self.initial
            else:
                self.records[[self.slot_of(id) for id in ids]] = self.initial
        finally:
            unlock(&self.busy)

    @property
    def outputs(self):
        """P, the numbers that a stream's step gives."""
        return self.chain.plan.outputs

    @property
    def ids(self):
        """The ids of all streams, an array of intp."""
        self.acquire()
        try:
            ids = self.slot_table[0, :self.used]
            return ids[ids >= 0]
        finally:
            unlock(&self.busy)

    def __len__(self):
        return self.count

    def __contains__(self, id):
        self.acquire()
        try:
            self.slot_of(id)
        except KeyError:
            return False
        finally:
            unlock(&self.busy)
        return True

    def copy(self):
        """Return another StreamPool that shares the weights and has a copy of every stream, under the same id.

        Ids of streams that join later are valid only in their own pool.
        """
        cdef StreamPool other = StreamPool(self.model)
        other.restore(self.content())
        return other

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        return _restored, (self.model, *self.content())

    def __repr__(self):
        return f"<StreamPool of {self.count} streams over {self.model!r}>"

    def _repr_html_(self):
        rows = [("model", repr(self.model)), ("streams", self.count), ("room for streams", self.slot_table.shape[1]),
                ("state of a stream", f"{self.job.record} bytes"), ("dtype", self.dtype)]
        return html_table("StreamPool", rows)

    cdef tuple content(self):
        """Return (records, ids, free slots): copies of everything in a pool except its weights."""
        self.acquire()
        try:
            return (self.records[:self.used].copy(), self.slot_table[0, :self.used].copy(),
                    self.slot_table[2, :self.free_count].copy())
        finally:
            unlock(&self.busy)

    cdef int restore(self, tuple content) except -1:
        """Set everything that `content` returns, in a new pool without streams."""
        records, ids, free = content
        used, free_count = len(ids), len(free)
        expect_shape("records", records, (used, self.job.record // self.dtype.itemsize), "a record for each slot")
        if not (np.isin(free, np.arange(used)).all() and len(np.unique(free)) == free_count and (ids[free] < 0).all()):
            raise ValueError(f"StreamPool: expected different free slots from 0 to {used - 1}, got {free!r:.80}")
        if ((ids[ids >= 0] & (NEXT_ID - 1)) != np.flatnonzero(ids >= 0)).any():
            raise ValueError(f"StreamPool: expected each id in its own slot, got {ids!r:.80}")
        self.grow(max(FIRST_SLOTS, used))
        self.records[:used] = records
        self.slot_table[0, :used] = ids
        self.slot_table[2, :free_count] = free
        self.used, self.free_count, self.count = used, free_count, np.count_nonzero(ids >= 0)
        return 0

    cdef inline int acquire(self) except -1:
        if not try_lock(&self.busy):
            raise RuntimeError("StreamPool: another thread is using it")
        return 0

    cdef int grow(self, Py_ssize_t slots) except -1:
        """Make room for so many streams; after an exception nothing has changed."""
        if slots > NEXT_ID:
            raise ValueError(f"StreamPool: expected at most {NEXT_ID} streams at once")
        records = np.zeros((slots, self.job.record // self.dtype.itemsize), self.dtype)
        slot_table = np.zeros((5, slots), np.intp)
        if self.used:
            records[:self.used] = self.records
            slot_table[:, :self.used] = self.slot_table
        self.records, self.slot_table = records, slot_table
        self.job.records = <char*>cnp.PyArray_DATA(self.records)
        self.ids_of_slots = <Py_ssize_t*>cnp.PyArray_DATA(self.slot_table)
        self.last_calls = self.ids_of_slots + slots
        self.free_slots = self.last_calls + slots
        self.row_slots = self.free_slots + slots
        self.row_tokens = self.row_slots + slots
        return 0

    cdef Py_ssize_t slot_of(self, object id) except -1:
        """Return the slot of a stream."""
        array = int_array("id", id)
        expect_shape("id", array, (), "()")
        cdef Py_ssize_t number = array
        if not self.has(number):
            raise KeyError(f"id: expected the id of a stream of this pool, got {id}")
        return number & (NEXT_ID - 1)

    cdef inline bint has(self, Py_ssize_t id) noexcept:
        cdef Py_ssize_t slot = id & (NEXT_ID - 1)
        return id >= 0 and slot < self.used and self.ids_of_slots[slot] == id

    cdef int find_slots(self, cnp.ndarray ids) except -1:
        """Find the slots of a step's rows."""
        cdef const Py_ssize_t* numbers = <const Py_ssize_t*>cnp.PyArray_DATA(ids)
        cdef Py_ssize_t row, slot, id
        self.calls += 1
        for row in range(cnp.PyArray_DIM(ids, 0)):
            id = numbers[row]
            if not self.has(id):
                raise KeyError(f"ids: expected ids of streams of this pool, got {id} at {row}")
            slot = id & (NEXT_ID - 1)
            if self.last_calls[slot] == self.calls:
                raise ValueError(f"ids: expected each at most once, got {id} again at {row}")
            self.last_calls[slot] = self.calls
            self.row_slots[row] = slot
        return 0

    cdef int copy_tokens(self, cnp.ndarray x) except -1:
        """Copy and check tokens: the caller's array may change after the check."""
        cdef const Py_ssize_t* tokens = <const Py_ssize_t*>cnp.PyArray_DATA(x)
        cdef Py_ssize_t row
        for row in range(cnp.PyArray_DIM(x, 0)):
            self.row_tokens[row] = tokens[row]
            if not token_fits(&self.chain.plan, self.row_tokens[row]):
                raise ValueError(f"x: expected 0 to num_embeddings - 1 = {self.inputs - 1}, got {self.row_tokens[row]}")
        return 0

    cdef int plan_blocks(self, Job* job, Py_ssize_t rows, int allowed) except -1:
        """Plan the blocks of a step, and make what the threads need."""
        self.set_blocks(job, rows, allowed)
        return self.need_streams(job.threads)

    cdef void set_blocks(self, Job* job, Py_ssize_t rows, int allowed) noexcept nogil:
        """Cut a step in blocks of about the same size, for the threads that are worth waking."""
        cdef double work = rows * self.multiply_adds
        cdef Py_ssize_t blocks = parts(rows, self.most)
        job.rows, job.allowed, job.threads = rows, allowed, 1
        if allowed > 1 and worth_sharing(work):
            job.threads = min(allowed, max(rows // LEAST_ROWS, 1))
            blocks = parts(blocks, job.threads) * job.threads
        job.block = parts(rows, max(blocks, 1))
        job.blocks = parts(rows, max(job.block, 1))

    cdef int need_streams(self, int threads) except -1:
        """Make a Stream for each thread, with room for a block."""
        cdef int index
        for index in range(threads):
            if self.streams[index] == NULL:
                self.streams[index] = new_stream(&self.chain.plan, self.most)
            if self.streams[index] == NULL:
                raise MemoryError("StreamPool: no memory for a block of rows")
        return 0

    cdef object rows_of(self, object x, Py_ssize_t rows):
        """Return a step's x as an array that can be read in place."""
        if not is_plain_array(x, self.number_type):
            x = np.require(float_array("x", x, self.dtype), requirements="CA")
        expect_shape("x", x, (rows, self.inputs), "(n, I), a row for each id,")
        return x

    cdef object tokens_of(self, object x, Py_ssize_t rows):
        """Return a step's tokens as an array that can be read in place."""
        x = plain_vector("x", x)
        expect_shape("x", x, (rows,), "(n,), a token for each id,")
        return x

    cdef bint is_result(self, object out, Py_ssize_t rows):
        """Return whether the result can be written to `out`."""
        return (is_plain_array(out, self.number_type) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out)
                and out.shape == (rows, self.chain.plan.outputs))

    cdef list views(self, object record):
        """Return the states in a record, a pair (h, c) of views for each LSTM."""
        cdef Py_ssize_t index, begin = 0, middle, end, L, P, H
        cdef const Stage* stage
        pairs = []
        for index in range(self.chain.plan.count):
            stage = &self.chain.plan.stages[index]
            if stage.kind == RECURRENT:
                L, P, H = stage.net.num_layers, stage.outputs, stage.net.hidden_size
                middle, end = begin + L * P, begin + L * (P + H)
                pairs.append((record[begin:middle].reshape(L, P), record[middle:end].reshape(L, H)))
                begin = end
            elif stage.kind == ROWS:
                begin += stage.op.state_bytes // self.dtype.itemsize
        return pairs

    cdef object initial_record(self):
        """Return the record of a stream that begins."""
        record = np.zeros(self.job.record // self.dtype.itemsize, self.dtype)
        self.begin_rows(record)
        networks = [part for part in self.chain.parts if isinstance(part, Network)]
        for (h, c), network in zip(self.views(record), networks):
            if network.initial is not None:
                h[...], c[...] = network.initial
        return record

    cdef int begin_rows(self, cnp.ndarray record) except -1:
        """Set the initial state of the stages that are no LSTMs."""
        cdef char* memory = <char*>cnp.PyArray_DATA(record)
        cdef const Stage* stage
        cdef Py_ssize_t index
        for index in range(self.chain.plan.count):
            stage = &self.chain.plan.stages[index]
            if stage.kind == RECURRENT:
                memory += stage.net.num_layers * (stage.outputs + stage.net.hidden_size) * self.chain.plan.itemsize
            elif stage.kind == ROWS:
                row_begin(stage.op, memory)
                memory += stage.op.state_bytes
        return 0

    cdef int write(self, Py_ssize_t slot, object states) except -1:
        """Copy states, as `checked` returns them, to a record; the initial ones if None."""
        if states is None:
            self.records[slot] = self.initial
            return 0
        for own, given in zip(self.views(self.records[slot]), states):
            own[0][...], own[1][...] = given
        return 0

    cdef list checked(self, object state):
        """Return a stream's state as a list of pairs of arrays."""
        own = self.views(self.initial)
        pairs = self.model.pairs_of("state", state)
        return [self.checked_pair(pair, h, c) for pair, (h, c) in zip(pairs, own)]

    cdef tuple checked_pair(self, object pair, object own_h, object own_c):
        """Return (h, c) as arrays with the shapes of a record's."""
        h, c = pair_of("state", pair, "(h, c)")
        h, c = float_array("state h", h, self.dtype), float_array("state c", c, self.dtype)
        expect_shape("state h", h, own_h.shape, "(L, P)")
        expect_shape("state c", c, own_c.shape, "(L, H)")
        return h, c


def _restored(model, *content):
    """Make a StreamPool from its pickle."""
    cdef StreamPool pool = StreamPool(model)
    pool.restore(content)
    return pool


cdef inline Py_ssize_t parts(Py_ssize_t whole, Py_ssize_t most) noexcept nogil:
    """Return the number of parts of at most `most`."""
    return (whole + most - 1) // most


cdef void run(Job* job) noexcept nogil:
    """Compute all blocks of a step."""
    cdef bint shared
    job.next = job.joined = 0
    shared = job.threads > 1 and open_job(job.threads - 1, take_blocks, job)
    take_blocks(job)
    if shared:
        close_job()
    if job.allowed > 1:
        note_call()


cdef void take_blocks(void* argument) noexcept nogil:
    """Compute one block after the other until none is left, in each thread."""
    cdef Job* job = <Job*>argument
    cdef Stream* stream = job.streams[fetch_add(&job.joined, 1)]
    cdef Py_ssize_t block = fetch_add(&job.next, 1), first
    while block < job.blocks:
        first = block * job.block
        resize(stream, min(job.block, job.rows - first))
        copy_states(stream, job, first, False)
        advance(stream, 1, job.x + first * job.x_row, job.y + first * job.y_row)
        copy_states(stream, job, first, True)
        block = fetch_add(&job.next, 1)


cdef void resize(Stream* stream, Py_ssize_t rows) noexcept nogil:
    """Set the rows of a Stream, at most those it was made with; its state is then undefined."""
    cdef Py_ssize_t index
    cdef Stage* stage
    stream.rows = rows
    stream.y_bytes = rows * stream.plan.outputs * stream.plan.itemsize
    for index in range(stream.plan.count):
        stage = &stream.stages[index]
        if stage.kind == RECURRENT:
            stage.h_bytes = stage.net.num_layers * rows * stage.outputs * stream.plan.itemsize


cdef void copy_states(const Stream* stream, const Job* job, Py_ssize_t first, bint scatter) noexcept nogil:
    """Gather the states of a block's rows from their records, or scatter them to their records."""
    cdef const Stage* stage
    cdef Py_ssize_t index, h_row, c_row, layers
    cdef char* records = job.records
    for index in range(stream.plan.count):
        stage = &stream.stages[index]
        if stage.kind == RECURRENT:
            layers = stage.net.num_layers
            h_row = stage.outputs * stream.plan.itemsize
            c_row = stage.net.hidden_size * stream.plan.itemsize
            copy_part(stream.rows, job, first, records, layers, h_row, stage.h + stream.turn * stage.h_bytes, scatter)
            records += layers * h_row
            copy_part(stream.rows, job, first, records, layers, c_row, stage.c, scatter)
            records += layers * c_row
        elif stage.kind == ROWS:
            copy_part(stream.rows, job, first, records, 1, stage.op.state_bytes, stage.c, scatter)
            records += stage.op.state_bytes


cdef inline void copy_part(Py_ssize_t rows, const Job* job, Py_ssize_t first, char* records, Py_ssize_t layers,
                           Py_ssize_t bytes, char* states, bint scatter) noexcept nogil:
    """Copy one LSTM's h or c: `layers` times `bytes` of each record, states (layers, rows) of so many bytes."""
    cdef Py_ssize_t layer, row
    cdef char* record
    for layer in range(layers):
        for row in range(rows):
            record = records + job.slots[first + row] * job.record + layer * bytes
            if scatter:
                memcpy(record, states, bytes)
            else:
                memcpy(states, record, bytes)
            states += bytes


cdef object plain_vector(str name, object x):
    """Return integers as an array of intp (n,) that can be read in place."""
    if type(x) is list:
        x = from_list(x)
    if not is_plain_array(x, cnp.NPY_INTP):
        x = np.require(int_array(name, x), requirements="CA")
    if x.ndim != 1:
        raise ValueError(f"{name}: expected shape (n,), got {x.shape}")
    return x


cdef object from_list(list numbers):
    """Return Python integers as an array, faster than NumPy makes it; the list itself if it has anything else."""
    cdef cnp.npy_intp n = len(numbers)
    cdef Py_ssize_t index
    array = cnp.PyArray_EMPTY(1, &n, cnp.NPY_INTP, 0)
    cdef Py_ssize_t* elements = <Py_ssize_t*>cnp.PyArray_DATA(array)
    for index in range(n):
        number = numbers[index]
        if not PyLong_CheckExact(number):
            return numbers
        try:
            elements[index] = PyLong_AsSsize_t(number)
        except OverflowError:
            return numbers
    return array


cdef inline bint overlap(cnp.ndarray x, cnp.ndarray y):
    """Return whether two contiguous arrays share memory."""
    cdef const char* x_begin = <const char*>cnp.PyArray_DATA(x)
    cdef const char* y_begin = <const char*>cnp.PyArray_DATA(y)
    return x_begin < y_begin + cnp.PyArray_NBYTES(y) and y_begin < x_begin + cnp.PyArray_NBYTES(x)
