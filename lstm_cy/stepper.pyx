"""One step at a time: streams, whose next input is not known before the last output has been used.

A Stepper is a chain of stages, one for each layer that does something, each with the memory for its own result: a step
takes its input where it lies, runs down the chain, and copies what comes out.
"""

from copy import copy as shallow_copy

import numpy as np

cimport numpy as cnp
from cpython.bool cimport PyBool_Check
from cpython.long cimport PyLong_AsSsize_t, PyLong_Check
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.string cimport memcpy

from ._kernels.affine cimport Affine
from ._kernels.forward cimport step
from ._kernels.network cimport Direction, Network, step_width
from ._kernels.table cimport Kernels

from . import config
from .checks import expect_shape, float_array, int_array, positive_int
from .layers import Dropout, Embedding, Linear, Sequential
from .lstm import LARGEST_SIDE, LSTM

cdef extern from *:
    """
    /* A flag that one thread at a time can take, with or without a GIL. */
    #if defined(_MSC_VER)
    #include <intrin.h>
    static int lstm_cy_take(volatile long* flag) { return !_InterlockedExchange(flag, 1); }
    static void lstm_cy_give_back(volatile long* flag) { _InterlockedExchange(flag, 0); }
    #else
    static int lstm_cy_take(volatile long* flag) { return !__atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE); }
    static void lstm_cy_give_back(volatile long* flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }
    #endif
    """
    bint lstm_cy_take(long*) noexcept nogil
    void lstm_cy_give_back(long*) noexcept nogil

cdef enum:
    LINE = 64  # bytes of a cache line
    # A step of this many multiply-adds takes some 20 microseconds with one stream: it lets other threads run meanwhile.
    LONG = 600000

cnp.import_array()


cdef class Stage:
    """What one layer does to a step of `rows` rows."""
    cdef Py_ssize_t rows, inputs, outputs, multiply_adds
    cdef Stage next

    cdef const void* run(self, const void* x) noexcept nogil:
        """Take x (rows, inputs) through this stage and those behind it; the last one's result, in its own memory."""
        return self.onward(x)

    cdef const void* onward(self, const void* y) noexcept nogil:
        return y if self.next is None else self.next.run(y)


cdef class Recurrent(Stage):
    """An LSTM and its state."""
    cdef Network network
    cdef cnp.ndarray both_h, c, z
    cdef bint projects
    cdef int turn  # which h is the last one; also, every other step reads the weights from their end

    def __cinit__(self, layer, Py_ssize_t rows):
        cdef const Direction* way
        cdef Py_ssize_t index
        if layer.bidirectional or layer.reverse:
            option = "bidirectional" if layer.bidirectional else "reverse"
            raise ValueError(f"stepper: expected an LSTM that runs forwards, got {option}=True")
        self.network = layer._network
        self.projects = layer.proj_size > 0
        self.rows, self.inputs, self.outputs = rows, layer.input_size, layer.output_size
        for index in range(layer.num_layers):
            way = &self.network.net.directions[index]
            self.multiply_adds += way.ih.outputs * (way.ih.inputs + way.hh.inputs) + way.hr.outputs * way.hr.inputs
        # a step reads one h and writes the other
        self.both_h = aligned((2, layer.num_layers, rows, layer.output_size), layer.dtype)
        self.c = aligned((layer.num_layers, rows, layer.hidden_size), layer.dtype)
        self.z = aligned((rows, step_width(&self.network.net)), layer.dtype)

    cdef const void* run(self, const void* x) noexcept nogil:
        cdef Py_ssize_t layer = self.rows * self.outputs * self.network.net.engine.itemsize  # bytes of its h
        cdef Py_ssize_t layers = self.network.net.num_layers
        cdef char* both = <char*>cnp.PyArray_DATA(self.both_h)
        cdef char* h = both + self.turn * layers * layer
        cdef char* next_h = both + (1 - self.turn) * layers * layer
        step(&self.network.net, self.rows, self.turn, x, h, next_h, cnp.PyArray_DATA(self.c), cnp.PyArray_DATA(self.z))
        self.turn = 1 - self.turn
        return self.onward(next_h + (layers - 1) * layer)

    @property
    def h(self):
        """(L, B, H), the last one."""
        return self.both_h[self.turn]


cdef class Head(Stage):
    """A Linear."""
    cdef Affine affine
    cdef cnp.ndarray y

    def __cinit__(self, layer, Py_ssize_t rows):
        self.affine = layer._affine
        self.rows, self.inputs, self.outputs = rows, layer.in_features, layer.out_features
        self.multiply_adds = self.inputs * self.outputs
        self.y = aligned((rows, self.outputs), layer.dtype)

    cdef const void* run(self, const void* x) noexcept nogil:
        self.affine.apply(self.rows, x, cnp.PyArray_DATA(self.y))
        return self.onward(cnp.PyArray_DATA(self.y))


cdef class Lookup(Stage):
    """An Embedding: its x are the tokens of `hold`."""
    cdef cnp.ndarray weight, tokens, y

    def __cinit__(self, layer, Py_ssize_t rows):
        self.weight = layer.parameters["weight"]
        self.rows, self.inputs, self.outputs = rows, layer.num_embeddings, layer.embedding_dim
        self.tokens = np.zeros(rows, np.intp)
        self.y = aligned((rows, self.outputs), layer.dtype)

    cdef const void* hold(self, const cnp.npy_intp* tokens) except NULL:
        """Keep tokens, so that what has been checked is what is looked up, whoever writes to the caller's array."""
        cdef cnp.npy_intp* kept = <cnp.npy_intp*>cnp.PyArray_DATA(self.tokens)
        cdef Py_ssize_t row
        for row in range(self.rows):
            kept[row] = tokens[row]
            if not 0 <= kept[row] < self.inputs:
                self.refuse(kept[row])
        return kept

    cdef int refuse(self, token) except -1:
        raise ValueError(f"x_t: expected 0 to num_embeddings - 1 = {self.inputs - 1}, got {token}")

    cdef const void* run(self, const void* x) noexcept nogil:
        cdef const cnp.npy_intp* tokens = <const cnp.npy_intp*>x
        cdef const char* vectors = <const char*>cnp.PyArray_DATA(self.weight)
        cdef char* y = <char*>cnp.PyArray_DATA(self.y)
        cdef Py_ssize_t size = self.outputs * cnp.PyArray_ITEMSIZE(self.y), row
        for row in range(self.rows):
            memcpy(y + row * size, vectors + tokens[row] * size, size)
        return self.onward(y)


cdef class Stepper:
    """An LSTM, or a Sequential, one step at a time; it owns the state.

    `LSTM.stepper` and `Sequential.stepper` make it. It keeps the weights it was made with: parameters that change
    later change the layer, not the Stepper.

    Parameters
    ----------
    layer : LSTM or Sequential
        Of LSTMs that run forwards; of a Sequential's other layers, an Embedding can only come first, and Dropout
        passes on what it gets.
    batch_size : int
        B, the number of streams that step together.

    Raises
    ------
    TypeError, ValueError
        The layer cannot go step by step, or `batch_size` is not a positive integer.

    Notes
    -----
    With engine "packed" steps give the same bits as whole sequences do, for the same stream in a batch of any size.

    One thread at a time: a second one that calls any method meanwhile gets a RuntimeError, and nothing is changed.
    Steppers of one layer are independent. The GIL is released only for steps of some 20 microseconds and more.

    Copying and pickling copy the state, pickling the weights too.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM
    >>> lstm = LSTM(3, 5, seed=0)
    >>> stepper = lstm.stepper()
    >>> x = np.random.default_rng(0).standard_normal((10, 3)).astype("float32")
    >>> told = [stepper.step(x_t) for x_t in x]
    >>> y, (h_n, c_n) = lstm(x)
    >>> np.allclose(told, y, atol=1e-6), np.allclose(stepper.state[1][:, 0], c_n, atol=1e-6)
    (True, True)

    Without a new array for each result:

    >>> out = np.empty(5, "float32")
    >>> stepper.step(x[0], out=out) is out
    True
    """

    cdef readonly Py_ssize_t batch_size
    cdef object layer  # which nobody else can change
    cdef object dtype
    cdef list recurrent
    cdef Stage first, last
    cdef Lookup lookup  # the first stage where that takes tokens, else None
    cdef const Kernels* kernels
    cdef int number_type
    cdef bint long
    cdef long busy

    def __cinit__(self, layer, batch_size=1):
        self.batch_size = positive_int("batch_size", batch_size)
        if batch_size > LARGEST_SIDE:
            raise ValueError(f"batch_size: expected at most {LARGEST_SIDE}, got {batch_size}")
        self.layer = frozen(layer)
        self.dtype = self.layer.dtype
        self.number_type = cnp.NPY_FLOAT if self.dtype.itemsize == 4 else cnp.NPY_DOUBLE
        self.kernels = <const Kernels*>PyCapsule_GetPointer(config.kernels(), "lstm_cy.kernels")
        stages = stages_of(self.layer, self.batch_size)
        self.first, self.last = stages[0], stages[len(stages) - 1]
        self.lookup = self.first if isinstance(self.first, Lookup) else None
        self.recurrent = [stage for stage in stages if isinstance(stage, Recurrent)]
        cdef Stage stage
        cdef double multiply_adds = 0
        for stage in stages:
            multiply_adds += stage.multiply_adds
        self.long = self.batch_size * multiply_adds >= LONG

    def step(self, x_t, out=None):
        """Go one step on.

        Parameters
        ----------
        x_t : array_like (B, I), or (I,) if B is 1
            For a model that begins with an Embedding, tokens: integers (B,), or one integer if B is 1. A C-contiguous
            array of the layer's dtype (of dtype intp for tokens) is read where it lies, others are converted first.
        out : None or ndarray
            Where to write the result: C-contiguous, writable, of the layer's dtype and the result's shape; it may
            share memory with x_t. Then nothing is allocated.

        Returns
        -------
        ndarray (B, P), or (P,) for one stream without its axis
            `out`, or a new array; P is the size of what the last layer gives.

        Raises
        ------
        TypeError, ValueError
            An argument is not what is expected; the message names it. The state is as before.
        RuntimeError
            Another thread is using this Stepper.
        """
        cdef cnp.npy_intp one_token
        cdef const void* source
        cdef void* result
        cdef int axes
        if self.lookup is None:
            if not self.fits(x_t, self.first.inputs):
                x_t = self.converted(x_t)
            axes = cnp.PyArray_NDIM(<cnp.ndarray>x_t)
            source = cnp.PyArray_DATA(<cnp.ndarray>x_t)
        elif self.batch_size == 1 and PyLong_Check(x_t) and not PyBool_Check(x_t):
            try:
                one_token = PyLong_AsSsize_t(x_t)
            except OverflowError:
                self.lookup.refuse(x_t)
            axes = 1
            source = &one_token
        else:
            if not self.fits_tokens(x_t):
                x_t = self.converted_tokens(x_t)
            axes = cnp.PyArray_NDIM(<cnp.ndarray>x_t) + 1
            source = cnp.PyArray_DATA(<cnp.ndarray>x_t)
        if out is None:
            out = self.fresh(axes)
        elif not (self.fits(out, self.last.outputs) and cnp.PyArray_NDIM(<cnp.ndarray>out) == axes
                  and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out)):
            self.refuse(out, axes)
        result = cnp.PyArray_DATA(<cnp.ndarray>out)
        self.take()
        try:
            if self.lookup is not None:
                source = self.lookup.hold(<const cnp.npy_intp*>source)
            if self.long:
                with nogil:
                    self.run(source, result)
            else:
                self.run(source, result)
        finally:
            lstm_cy_give_back(&self.busy)
        return out

    @property
    def state(self):
        """(h, c), copies, (L, B, P) and (L, B, H); of a Sequential a list with one such pair for each LSTM.

        Setting it copies in what NumPy converts to such arrays; a TypeError or ValueError leaves all as it was.
        """
        cdef Recurrent stage
        self.take()
        try:
            states = [(stage.h.copy(), stage.c.copy()) for stage in self.recurrent]
        finally:
            lstm_cy_give_back(&self.busy)
        return states if isinstance(self.layer, Sequential) else states[0]

    @state.setter
    def state(self, state):
        cdef Recurrent stage
        if not isinstance(self.layer, Sequential):
            states = [state]
        elif isinstance(state, (list, tuple)) and len(state) == len(self.recurrent):
            states = state
        else:
            raise ValueError(f"state: expected a list of {len(self.recurrent)}, one for each LSTM, got {state!r:.80}")
        states = [self.checked(pair, stage) for pair, stage in zip(states, self.recurrent)]
        self.take()
        try:
            for stage, (h, c) in zip(self.recurrent, states):
                stage.h[...] = h
                stage.c[...] = c
        finally:
            lstm_cy_give_back(&self.busy)

    def reset(self, rows=None):
        """Set the state to zero.

        Parameters
        ----------
        rows : None, int, array_like of int, or array_like of bool (B,)
            All streams, those with these numbers, or those where it is True.

        Raises
        ------
        TypeError, ValueError
            Rows that are not numbers from 0 to B - 1, or a mask of another shape.
        """
        cdef Recurrent stage
        chosen = slice(None) if rows is None else self.chosen(rows)
        self.take()
        try:
            for stage in self.recurrent:
                stage.h[:, chosen] = 0
                stage.c[:, chosen] = 0
        finally:
            lstm_cy_give_back(&self.busy)

    def copy(self):
        """Another Stepper with the same weights, which they share, and a copy of the state."""
        other = Stepper(self.layer, self.batch_size)
        other.state = self.state
        return other

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        layers = self.layer.layers if isinstance(self.layer, Sequential) else [self.layer]
        parts = [(type(layer), layer.config, layer.stored()) for layer in layers]
        return _restored, (type(self.layer), parts, self.batch_size, self.state)

    def __repr__(self):
        return f"Stepper({self.layer!r}, batch_size={self.batch_size})"

    cdef inline int take(self) except -1:
        if not lstm_cy_take(&self.busy):
            raise RuntimeError("Stepper: another thread is using it; give each its own, from copy() or stepper()")
        return 0

    cdef void run(self, const void* x, void* out) noexcept nogil:
        """Down the chain, and its result to `out`: only now, so that `out` may be x."""
        cdef unsigned int denormals = self.kernels.flush_denormals()
        cdef const void* y = self.first.run(x)
        self.kernels.restore_denormals(denormals)
        memcpy(out, y, self.batch_size * self.last.outputs * (4 if self.number_type == cnp.NPY_FLOAT else 8))

    cdef inline bint fits(self, object x, Py_ssize_t width):
        """Whether x is an array (B, width), or (width,) if B is 1, that can be worked on where it lies."""
        if not lies_plainly(x, self.number_type):
            return False
        cdef int axes = cnp.PyArray_NDIM(<cnp.ndarray>x)
        cdef const cnp.npy_intp* shape = cnp.PyArray_DIMS(<cnp.ndarray>x)
        if axes == 2:
            return shape[0] == self.batch_size and shape[1] == width
        return axes == 1 and self.batch_size == 1 and shape[0] == width

    cdef inline bint fits_tokens(self, object x):
        """Whether x is an array (B,) of intp that can be worked on where it lies."""
        return (lies_plainly(x, cnp.NPY_INTP) and cnp.PyArray_NDIM(<cnp.ndarray>x) == 1
                and cnp.PyArray_DIMS(<cnp.ndarray>x)[0] == self.batch_size)

    cdef object fresh(self, int axes):
        """An array for a result."""
        cdef cnp.npy_intp[2] shape
        shape[0] = self.batch_size
        shape[axes - 1] = self.last.outputs
        return cnp.PyArray_EMPTY(axes, shape, self.number_type, 0)

    cdef object converted(self, object x):
        """x_t as an array that `fits`."""
        array = float_array("x_t", x, self.dtype)
        B, width = self.batch_size, self.first.inputs
        if array.shape != (B, width) and not (B == 1 and array.shape == (width,)):
            axes = "(B, I) or (I,)" if B == 1 else "(B, I)"
            raise ValueError(f"x_t: expected shape {axes} with B = {B} and I = {width}, got {array.shape}")
        return np.require(array, requirements="CA")

    cdef object converted_tokens(self, object x):
        """x_t as an array of intp, one for each stream."""
        B = self.batch_size
        array = int_array("x_t", x)
        if array.shape != (B,) and not (B == 1 and array.shape == ()):
            axes = "(B,) or ()" if B == 1 else "(B,)"
            raise ValueError(f"x_t: expected tokens of shape {axes} with B = {B}, got {array.shape}")
        return np.require(array, requirements="CA") if array.ndim else array

    cdef int refuse(self, object out, int axes) except -1:
        """Raise what is wrong with `out`."""
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out: expected a NumPy array, got {type(out).__name__}")
        if out.dtype != self.dtype:
            raise TypeError(f"out: expected dtype {self.dtype}, got {out.dtype}")
        shape = (self.batch_size, self.last.outputs)[2 - axes:]
        expect_shape("out", out, shape, "that of the result")
        raise ValueError("out: expected a C-contiguous, aligned and writable array, got one that is not")

    cdef tuple checked(self, object pair, Recurrent stage):
        """(h, c) as arrays in the shape of a stage's state."""
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"state: expected a pair (h, c), got {type(pair).__name__}")
        arrays = tuple(float_array(f"state {part}", value, self.dtype) for part, value in zip("hc", pair))
        for part, size, own, array in zip("hc", "PH" if stage.projects else "HH", (stage.h, stage.c), arrays):
            expect_shape(f"state {part}", array, own.shape, f"(L, B, {size})")
        return arrays

    cdef object chosen(self, object rows):
        """The rows to reset, as NumPy's index."""
        rows = np.asarray(rows)
        if rows.dtype == np.bool_:
            expect_shape("rows", rows, (self.batch_size,), "(B,)")
            return rows
        rows = int_array("rows", rows)
        outside = (rows < 0) | (rows >= self.batch_size)
        if outside.any():
            raise ValueError(f"rows: expected 0 to B - 1 = {self.batch_size - 1}, got {rows[outside].flat[0]}")
        return rows


cdef inline bint lies_plainly(object x, int number_type):
    """Whether x is a C-contiguous, aligned array of a type of numbers, in this machine's byte order."""
    return (cnp.PyArray_Check(x) and cnp.PyArray_TYPE(<cnp.ndarray>x) == number_type
            and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>x))


def frozen(layer):
    """A layer with the same parameters and packed weights that keeps them whatever happens to the other."""
    if not isinstance(layer, (LSTM, Sequential)):
        raise TypeError(f"layer: expected an LSTM or a Sequential, got {type(layer).__name__}")
    layer = shallow_copy(layer)
    if isinstance(layer, Sequential):
        layer.layers = tuple(shallow_copy(part) for part in layer.layers)
    return layer


def stages_of(layer, batch_size):
    """The stages of a layer, chained."""
    cdef Stage stage, previous
    kinds = {LSTM: Recurrent, Linear: Head, Embedding: Lookup}
    layers = layer.layers if isinstance(layer, Sequential) else [layer]
    stages = []
    for index, part in enumerate(layers):
        if isinstance(part, Dropout):
            continue
        made = next((made for kind, made in kinds.items() if isinstance(part, kind)), None)
        if made is None or part.masks:
            raise ValueError(f"stepper: expected LSTM, Linear, Dropout or Embedding without mask_zero, got {part!r}")
        stage = made(part, batch_size)
        if stages:
            previous = stages[len(stages) - 1]
            if isinstance(stage, Lookup):
                raise ValueError(f"stepper: expected an Embedding to come first, got one at {index}")
            if previous.outputs != stage.inputs:
                raise ValueError(f"stepper: expected {previous.outputs} inputs of layer {index}, got {stage.inputs}")
            previous.next = stage
        stages.append(stage)
    if not stages:
        raise ValueError(f"stepper: expected a layer other than Dropout, got {layer!r}")
    return stages


def aligned(shape, dtype):
    """A zeroed array that begins on a cache line."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(size + LINE, np.uint8)
    start = -memory.__array_interface__["data"][0] % LINE
    return memory[start:start + size].view(dtype).reshape(shape)


def _restored(kind, parts, batch_size, state):
    """What unpickling calls."""
    layers = []
    for part, options, stored in parts:
        layer = part.blank(**options)
        layer.restore(stored)
        layers.append(layer)
    stepper = Stepper(kind(*layers) if issubclass(kind, Sequential) else layers[0], batch_size)
    stepper.state = state
    return stepper
