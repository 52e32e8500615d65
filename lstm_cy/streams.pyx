"""Thousands of independent streams over one model, stepping whichever have input as one batch.

The state of a stream is one record, and all records lie in one array. A step is cut in blocks of rows, few enough for
what they read and write to stay in the L2 cache while the weights pass by. For each block the states are copied
together, go down the chain of layers, and are copied home: beside the products that is little, and any streams can
step, in any order.
"""

import numpy as np

cimport numpy as cnp
from cpython.long cimport PyLong_AsSsize_t, PyLong_CheckExact
from libc.string cimport memcpy

from ._kernels.flags cimport try_lock, unlock
from ._kernels.network cimport LEAST_ROWS, WORTH_SHARING, WORTH_WAKING
from ._kernels.pool cimport close_job, fetch_add, note_call, open_job, worker_is_ready
from ._kernels.stages cimport (
    LONG, LOOKUP, RECURRENT, Chain, Stage, Stream, advance, free_stream, new_stream, token_fits, uses_blas,
)
from .arrays cimport lies_plainly

from . import config
from .checks import expect_shape, float_array, int_array, pair_of, refuse_out
from .notebook import html_table
from .stepper import chain_of, frozen, plain

cdef enum:
    LINE = 64  # bytes of a cache line
    # What the rows of a block read and write, the weights apart: it stays in the L2 cache.
    BLOCK_BYTES = 524288
    # But so many rows at least: the weights are read for each block anew.
    LEAST_BLOCK = 96
    FIRST_PLACES = 16
    # An id is a place, in its lowest bits, and above them how often that place has been given before.
    PLACE_BITS = 24
    MOST_THREADS = 64

cdef Py_ssize_t NEXT_ID = 1 << PLACE_BITS  # of the same place
cdef Py_ssize_t LAST_ID = np.iinfo(np.intp).max - NEXT_ID

cnp.import_array()

ctypedef struct Job:
    # a step, cut in blocks of rows that threads take one after the other
    Stream** streams          # one for each thread
    char* records             # of `record` bytes each
    Py_ssize_t record
    const Py_ssize_t* places  # of each row's record
    Py_ssize_t rows, block, blocks
    const char* x             # rows of `x_row` bytes
    Py_ssize_t x_row
    char* y                   # rows of `y_row` bytes
    Py_ssize_t y_row
    int allowed, threads      # by the caller; that may work on it
    Py_ssize_t next, seats    # the next block, and the next thread's number


cdef class StreamPool:
    """Independent streams over one model; those that have input step together, as one batch.

    Streams come and go at any time, and each has its own state. The pool keeps the weights it was made with:
    parameters that change later change the model, not the pool.

    Parameters
    ----------
    model : LSTM or Sequential
        Of what `Stepper` takes.

    Raises
    ------
    TypeError, ValueError
        The model cannot go step by step.

    Notes
    -----
    With engine "packed" a stream gets the same bits as from a Stepper of its own, whoever steps beside it.

    A stream's id is an int that the pool never gives again. Room is made for twice as many streams whenever it is used
    up, and what a stream leaves behind is used again; there may be 2**24 at once.

    Copying and pickling copy the streams with their ids, pickling the weights too.

    One thread at a time: a second one that calls any method meanwhile gets a RuntimeError, and nothing is changed.
    The GIL is released for steps of some 20 microseconds and more.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, StreamPool
    >>> pool = StreamPool(LSTM(3, 5, seed=0))
    >>> door, hall, roof = pool.join(), pool.join(), pool.join()
    >>> pool.step([door, hall, roof], np.ones((3, 3))).shape
    (3, 5)
    >>> h = pool.step([roof, door], np.zeros((2, 3)))  # whichever have input, in any order
    >>> np.array_equal(h[1], pool.state(door)[0][-1])
    True
    >>> pool.leave(hall)
    >>> len(pool), hall in pool
    (2, False)
    """

    cdef object model  # which nobody else can change
    cdef Chain chain
    cdef object dtype
    cdef int number_type
    cdef Py_ssize_t inputs
    cdef bint takes_tokens
    cdef bint blas             # whether products are BLAS's, which has threads of its own
    cdef double multiply_adds  # of one row's step
    cdef Py_ssize_t most       # rows of a block
    cdef Job job               # what is the same in every step
    cdef (Stream*)[MOST_THREADS] streams
    cdef cnp.ndarray records, books
    cdef Py_ssize_t used, vacant, count, calls
    # the books: of each place, the id of the stream there, or of a free one ~ the id it will have, and the call that
    # last asked for it; the free places; the places and the tokens of a step's rows
    cdef Py_ssize_t* given
    cdef Py_ssize_t* asked
    cdef Py_ssize_t* free
    cdef Py_ssize_t* places
    cdef Py_ssize_t* tokens
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
                record += stage.net.num_layers * (stage.outputs + stage.net.hidden_size)
        self.most = max(BLOCK_BYTES // (width * self.dtype.itemsize), LEAST_BLOCK)
        self.job.streams = self.streams
        self.job.record = (record * self.dtype.itemsize + LINE - 1) // LINE * LINE
        self.inputs, self.takes_tokens = self.chain.plan.stages[0].inputs, self.chain.plan.takes_tokens
        self.job.x_row = sizeof(Py_ssize_t) if self.takes_tokens else self.inputs * self.dtype.itemsize
        self.job.y_row = self.chain.plan.outputs * self.dtype.itemsize
        self.need_streams(1)
        self.grow(FIRST_PLACES)

    def __init__(self, model):
        if self.is_made:
            raise RuntimeError("StreamPool: made already; make another one")
        self.is_made = True

    def __dealloc__(self):
        cdef int index
        for index in range(MOST_THREADS):
            free_stream(self.streams[index])

    def join(self, state=None):
        """Begin a stream.

        Parameters
        ----------
        state : None or (h, c)
            What it begins with, as the method `state` gives it; it is copied. Zeros if None.

        Returns
        -------
        int
            The stream's id.

        Raises
        ------
        TypeError, ValueError
            The state is not what is expected, or there are 2**24 streams already.
        """
        cdef Py_ssize_t place
        if state is not None:
            state = self.checked(state)
        self.acquire()
        try:
            if self.vacant == 0:
                if self.used == self.books.shape[1]:
                    self.grow(2 * self.used)
                self.given[self.used] = ~self.used
                self.free[0] = self.used
                self.used += 1
                self.vacant = 1
            self.vacant -= 1
            self.count += 1
            place = self.free[self.vacant]
            self.given[place] = ~self.given[place]
            self.write(place, state)
            return self.given[place]
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
        cdef Py_ssize_t place
        self.acquire()
        try:
            place = self.place_of(id)
            self.count -= 1
            if self.given[place] > LAST_ID:  # a place that has had every id is not used again
                self.given[place] = -1
                return
            self.given[place] = ~(self.given[place] + NEXT_ID)
            self.free[self.vacant] = place
            self.vacant += 1
        finally:
            unlock(&self.busy)

    def step(self, ids, x, out=None, *, threads=None):
        """Go one step on with some of the streams; the others stay as they are.

        Parameters
        ----------
        ids : array_like of int (n,)
            Which streams, in any order, each at most once. An array of intp is the fastest.
        x : array_like (n, I)
            Their inputs, in the order of `ids`. For a model that begins with an Embedding, tokens: integers (n,). A
            C-contiguous array of the model's dtype (of dtype intp for tokens) is read where it lies, others are
            converted first.
        out : None or ndarray (n, P)
            Where to write the result: C-contiguous, writable, of the model's dtype; it may share memory with x.
        threads : None or int
            Threads of our own to use at most; None for what `set_num_threads` says. Engine "blas" uses one.

        Returns
        -------
        ndarray (n, P)
            `out`, or a new array, in the order of `ids`; P is the size of what the last layer gives.

        Raises
        ------
        KeyError
            There is no stream with one of these ids.
        TypeError, ValueError
            An id is there twice, or an argument is not what is expected; the message names it.
        RuntimeError
            Another thread is using this pool.

        Whatever is raised, every stream's state is as before.
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
        if not self.takes_tokens and overlap(x, target):  # what one block writes another would read
            x = x.copy()
        self.acquire()
        try:
            self.find(ids)
            if self.takes_tokens:
                self.hold(x)
            job = self.job
            job.places = self.places
            job.x = <const char*>self.tokens if self.takes_tokens else <const char*>cnp.PyArray_DATA(<cnp.ndarray>x)
            job.y = <char*>cnp.PyArray_DATA(<cnp.ndarray>target)
            self.cut(&job, rows, 1 if self.blas else allowed)
            if rows * self.multiply_adds >= LONG:
                with nogil:
                    run(&job)
            else:
                run(&job)
        finally:
            unlock(&self.busy)
        return out

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
            states = [(h.copy(), c.copy()) for h, c in self.views(self.place_of(id))]
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
            As the method `state` gives it; it is copied.

        Raises
        ------
        KeyError
            There is no such stream.
        TypeError, ValueError
            The state is not what is expected; the stream keeps its own.
        """
        state = self.checked(state)
        self.acquire()
        try:
            self.write(self.place_of(id), state)
        finally:
            unlock(&self.busy)

    def reset(self, ids=None):
        """Set states to zero.

        Parameters
        ----------
        ids : None, int, or array_like of int (n,)
            Of all streams, or of these.

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
                self.records[:] = 0
            else:
                self.records[[self.place_of(id) for id in ids]] = 0
        finally:
            unlock(&self.busy)

    @property
    def ids(self):
        """The ids of all streams, an array of intp."""
        self.acquire()
        try:
            given = self.books[0, :self.used]
            return given[given >= 0]
        finally:
            unlock(&self.busy)

    def __len__(self):
        return self.count

    def __contains__(self, id):
        self.acquire()
        try:
            self.place_of(id)
        except KeyError:
            return False
        finally:
            unlock(&self.busy)
        return True

    def copy(self):
        """Another StreamPool with the same weights, which they share, and a copy of every stream, under the same id.

        Ids that either of them gives afterwards are of that pool alone.
        """
        cdef StreamPool other = StreamPool(self.model)
        other.take_over(self.content())
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
        rows = [("model", repr(self.model)), ("streams", self.count), ("room for streams", self.books.shape[1]),
                ("state of a stream", f"{self.job.record} bytes"), ("dtype", self.dtype)]
        return html_table("StreamPool", rows)

    cdef tuple content(self):
        """(records, ids, free places): copies of all that a pool has besides its weights."""
        self.acquire()
        try:
            return (self.records[:self.used].copy(), self.books[0, :self.used].copy(),
                    self.books[2, :self.vacant].copy())
        finally:
            unlock(&self.busy)

    cdef int take_over(self, tuple content) except -1:
        """Take what `content` gives; a new pool has no streams yet."""
        records, given, free = content
        used, vacant = len(given), len(free)
        expect_shape("records", records, (used, self.job.record // self.dtype.itemsize), "a record for each place")
        if not (np.isin(free, np.arange(used)).all() and len(np.unique(free)) == vacant and (given[free] < 0).all()):
            raise ValueError("StreamPool: expected free places among those that there are")
        if ((given[given >= 0] & (NEXT_ID - 1)) != np.flatnonzero(given >= 0)).any():
            raise ValueError("StreamPool: expected each id in its own place")
        self.grow(max(FIRST_PLACES, used))
        self.records[:used] = records
        self.books[0, :used] = given
        self.books[2, :vacant] = free
        self.used, self.vacant, self.count = used, vacant, np.count_nonzero(given >= 0)
        return 0

    cdef inline int acquire(self) except -1:
        if not try_lock(&self.busy):
            raise RuntimeError("StreamPool: another thread is using it")
        return 0

    cdef int grow(self, Py_ssize_t places) except -1:
        """Make room for so many streams; what is raised leaves all as it was."""
        if places > NEXT_ID:
            raise ValueError(f"StreamPool: expected at most {NEXT_ID} streams at once")
        records = np.zeros((places, self.job.record // self.dtype.itemsize), self.dtype)
        books = np.zeros((5, places), np.intp)
        if self.used:
            records[:self.used] = self.records
            books[:, :self.used] = self.books
        self.records, self.books = records, books
        self.job.records = <char*>cnp.PyArray_DATA(self.records)
        self.given = <Py_ssize_t*>cnp.PyArray_DATA(self.books)
        self.asked = self.given + places
        self.free = self.asked + places
        self.places = self.free + places
        self.tokens = self.places + places
        return 0

    cdef Py_ssize_t place_of(self, object id) except -1:
        """Where a stream's record is."""
        array = int_array("id", id)
        expect_shape("id", array, (), "()")
        cdef Py_ssize_t number = array
        if not self.knows(number):
            raise KeyError(f"id: expected that of a stream of this pool, got {id}")
        return number & (NEXT_ID - 1)

    cdef inline bint knows(self, Py_ssize_t id) noexcept:
        cdef Py_ssize_t place = id & (NEXT_ID - 1)
        return id >= 0 and place < self.used and self.given[place] == id

    cdef int find(self, cnp.ndarray ids) except -1:
        """Note the places of a step's rows."""
        cdef const Py_ssize_t* wanted = <const Py_ssize_t*>cnp.PyArray_DATA(ids)
        cdef Py_ssize_t row, place, id
        self.calls += 1
        for row in range(cnp.PyArray_DIM(ids, 0)):
            id = wanted[row]
            if not self.knows(id):
                raise KeyError(f"ids: expected those of streams of this pool, got {id} at {row}")
            place = id & (NEXT_ID - 1)
            if self.asked[place] == self.calls:
                raise ValueError(f"ids: expected each at most once, got {id} again at {row}")
            self.asked[place] = self.calls
            self.places[row] = place
        return 0

    cdef int hold(self, cnp.ndarray x) except -1:
        """Keep tokens, so that what has been checked is what is looked up, whoever writes to the caller's array."""
        cdef const Py_ssize_t* tokens = <const Py_ssize_t*>cnp.PyArray_DATA(x)
        cdef Py_ssize_t row
        for row in range(cnp.PyArray_DIM(x, 0)):
            self.tokens[row] = tokens[row]
            if not token_fits(&self.chain.plan, self.tokens[row]):
                raise ValueError(f"x: expected 0 to num_embeddings - 1 = {self.inputs - 1}, got {self.tokens[row]}")
        return 0

    cdef int cut(self, Job* job, Py_ssize_t rows, int allowed) except -1:
        """Cut a step in blocks, as alike as can be, for the threads that are worth waking."""
        cdef double work = rows * self.multiply_adds
        cdef Py_ssize_t blocks = parts(rows, self.most)
        job.rows, job.allowed, job.threads = rows, allowed, 1
        if allowed > 1 and work > (WORTH_SHARING if worker_is_ready() else WORTH_WAKING):
            job.threads = min(allowed, max(rows // LEAST_ROWS, 1))
            blocks = parts(blocks, job.threads) * job.threads
        job.block = parts(rows, max(blocks, 1))
        job.blocks = parts(rows, max(job.block, 1))
        return self.need_streams(job.threads)

    cdef int need_streams(self, int threads) except -1:
        """A Stream for each thread, with room for a block."""
        cdef int index
        for index in range(threads):
            if self.streams[index] == NULL:
                self.streams[index] = new_stream(&self.chain.plan, self.most)
            if self.streams[index] == NULL:
                raise MemoryError("StreamPool: no memory for a block of rows")
        return 0

    cdef object rows_of(self, object x, Py_ssize_t rows):
        """A step's x as an array that can be read where it lies."""
        if not lies_plainly(x, self.number_type):
            x = np.require(float_array("x", x, self.dtype), requirements="CA")
        expect_shape("x", x, (rows, self.inputs), "(n, I), a row for each id,")
        return x

    cdef object tokens_of(self, object x, Py_ssize_t rows):
        """A step's tokens likewise."""
        x = plain_vector("x", x)
        expect_shape("x", x, (rows,), "(n,), a token for each id,")
        return x

    cdef bint is_result(self, object out, Py_ssize_t rows):
        """Whether the result can be written to `out`."""
        return (lies_plainly(out, self.number_type) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out)
                and out.shape == (rows, self.chain.plan.outputs))

    cdef list views(self, Py_ssize_t place):
        """The states in a record, a pair (h, c) of views for each LSTM."""
        cdef Py_ssize_t index, at = 0, L, P, H
        cdef const Stage* stage
        record, pairs = self.records[place], []
        for index in range(self.chain.plan.count):
            stage = &self.chain.plan.stages[index]
            if stage.kind == RECURRENT:
                L, P, H = stage.net.num_layers, stage.outputs, stage.net.hidden_size
                pairs.append((record[at:at + L * P].reshape(L, P), record[at + L * P:at + L * (P + H)].reshape(L, H)))
                at += L * (P + H)
        return pairs

    cdef int write(self, Py_ssize_t place, object states) except -1:
        """Copy states, as `checked` gives them, to a record; zeros if None."""
        if states is None:
            self.records[place] = 0
            return 0
        for own, given in zip(self.views(place), states):
            own[0][...], own[1][...] = given
        return 0

    cdef list checked(self, object state):
        """A stream's state as a list of pairs of arrays."""
        own = self.views(0)
        pairs = self.model.pairs_of("state", state)
        return [self.checked_pair(pair, h, c) for pair, (h, c) in zip(pairs, own)]

    cdef tuple checked_pair(self, object pair, object own_h, object own_c):
        """(h, c) as arrays in the shapes of a record's."""
        h, c = pair_of("state", pair, "(h, c)")
        h, c = float_array("state h", h, self.dtype), float_array("state c", c, self.dtype)
        expect_shape("state h", h, own_h.shape, "(L, P)")
        expect_shape("state c", c, own_c.shape, "(L, H)")
        return h, c


def _restored(model, *content):
    """What unpickling calls."""
    cdef StreamPool pool = StreamPool(model)
    pool.take_over(content)
    return pool


cdef inline Py_ssize_t parts(Py_ssize_t whole, Py_ssize_t most) noexcept nogil:
    """How many parts of at most so much."""
    return (whole + most - 1) // most


cdef void run(Job* job) noexcept nogil:
    """All blocks of a step."""
    cdef bint shared
    job.next = job.seats = 0
    shared = job.threads > 1 and open_job(job.threads - 1, take_blocks, job)
    take_blocks(job)
    if shared:
        close_job()
    if job.allowed > 1:
        note_call()


cdef void take_blocks(void* argument) noexcept nogil:
    """What each thread does: one block after the other, until none is left."""
    cdef Job* job = <Job*>argument
    cdef Stream* stream = job.streams[fetch_add(&job.seats, 1)]
    cdef Py_ssize_t block = fetch_add(&job.next, 1), first
    while block < job.blocks:
        first = block * job.block
        resize(stream, min(job.block, job.rows - first))
        carry(stream, job, first, False)
        advance(stream, 1, job.x + first * job.x_row, job.y + first * job.y_row)
        carry(stream, job, first, True)
        block = fetch_add(&job.next, 1)


cdef void resize(Stream* stream, Py_ssize_t rows) noexcept nogil:
    """Let a Stream work on so many rows, no more than it was made with; its state is anyone's."""
    cdef Py_ssize_t index
    cdef Stage* stage
    stream.rows = rows
    stream.y_bytes = rows * stream.plan.outputs * stream.plan.itemsize
    for index in range(stream.plan.count):
        stage = &stream.stages[index]
        if stage.kind == RECURRENT:
            stage.h_bytes = stage.net.num_layers * rows * stage.outputs * stream.plan.itemsize


cdef void carry(const Stream* stream, const Job* job, Py_ssize_t first, bint home) noexcept nogil:
    """Copy the states of a block's rows from their records to a Stream, or home again."""
    cdef const Stage* stage
    cdef Py_ssize_t index, h_row, c_row, layers
    cdef char* records = job.records
    for index in range(stream.plan.count):
        stage = &stream.stages[index]
        if stage.kind == RECURRENT:
            layers = stage.net.num_layers
            h_row = stage.outputs * stream.plan.itemsize
            c_row = stage.net.hidden_size * stream.plan.itemsize
            carry_part(stream.rows, job, first, records, layers, h_row, stage.h + stream.turn * stage.h_bytes, home)
            records += layers * h_row
            carry_part(stream.rows, job, first, records, layers, c_row, stage.c, home)
            records += layers * c_row


cdef inline void carry_part(Py_ssize_t rows, const Job* job, Py_ssize_t first, char* records, Py_ssize_t layers,
                            Py_ssize_t bytes, char* states, bint home) noexcept nogil:
    """One LSTM's h or c: `layers` times `bytes` of each record, states (layers, rows) of so many bytes."""
    cdef Py_ssize_t layer, row
    cdef char* record
    for layer in range(layers):
        for row in range(rows):
            record = records + job.places[first + row] * job.record + layer * bytes
            if home:
                memcpy(record, states, bytes)
            else:
                memcpy(states, record, bytes)
            states += bytes


cdef object plain_vector(str name, object x):
    """Integers as an array of intp (n,) that can be read where it lies."""
    if type(x) is list:
        x = from_list(x)
    if not lies_plainly(x, cnp.NPY_INTP):
        x = np.require(int_array(name, x), requirements="CA")
    if x.ndim != 1:
        raise ValueError(f"{name}: expected shape (n,), got {x.shape}")
    return x


cdef object from_list(list numbers):
    """Python's integers as an array, sooner than NumPy makes it; the list itself where there is anything else in it."""
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
    """Whether two contiguous arrays share memory."""
    cdef const char* x_begin = <const char*>cnp.PyArray_DATA(x)
    cdef const char* y_begin = <const char*>cnp.PyArray_DATA(y)
    return x_begin < y_begin + cnp.PyArray_NBYTES(y) and y_begin < x_begin + cnp.PyArray_NBYTES(x)
