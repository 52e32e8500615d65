"""One step at a time: for streams whose next input is not known before the last output has been used.

A Stepper is a Stream of _kernels/stages.pyx for arrays: it checks and converts them, and reads them in place if it can.
"""

from copy import copy as shallow_copy

import numpy as np

cimport numpy as cnp
from cpython.bool cimport PyBool_Check
from cpython.long cimport PyLong_AsSsize_t, PyLong_Check

from .._kernels.runtime.atomics cimport try_lock, unlock
from .._kernels.stages cimport (
    LONG, Chain, Stage, Stream, advance, block_bytes, free_stream, get_block, get_state, lstm_stage, new_stream,
    reset_row, reset_rows, set_block, set_state, token_fits,
)
from .._kernels.runtime.arrays cimport is_plain_array

from .. import config
from ..checks import expect_shape, float_array, int_array, pair_of, positive_int, real_array, refuse_out
from ..layers.base import Layer, stages_of
from ..checks import LARGEST_SIDE
from ..notebook import html_table

cnp.import_array()


cdef class Stepper:
    """An LSTM, or a Sequential, one step at a time; it owns the state.

    `LSTM.stepper` and `Sequential.stepper` make it. It keeps the weights it was made with: later changes of the
    layer's parameters do not change the Stepper.

    Parameters
    ----------
    layer : LSTM, Sequential or Graph
        A Graph becomes its `sequential()`. Its LSTMs must run forwards, and an Embedding can only be the first layer of
        a Sequential. Windows of convolutions and pooling must end with the present step. docs/streaming.md lists the
        layers.
    batch_size : int
        B, the number of streams that step together.

    Raises
    ------
    TypeError, ValueError
        The layer cannot go step by step, or `batch_size` is not a positive integer.

    Notes
    -----
    With engine "packed" steps give the same bits as whole sequences do, for the same stream in a batch of any size: a
    step gives the last output for the input so far, NaN where a call of so few steps has none.

    Only one thread at a time may use a Stepper: a second one that calls any method meanwhile gets a RuntimeError, and
    nothing is changed. Steppers of one layer are independent. The GIL is released only for steps of some 20
    microseconds and more.

    Copying and pickling copy the state; pickling also copies the weights.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM
    >>> lstm = LSTM(3, 5, seed=0)
    >>> stepper = lstm.stepper()
    >>> x = np.random.default_rng(0).standard_normal((10, 3)).astype("float32")
    >>> outputs = [stepper.step(x_t) for x_t in x]
    >>> y, (h_n, c_n) = lstm(x)
    >>> np.allclose(outputs, y, atol=1e-6), np.allclose(stepper.state[1][:, 0], c_n, atol=1e-6)
    (True, True)

    Without a new array for each result:

    >>> out = np.empty(5, "float32")
    >>> stepper.step(x[0], out=out) is out
    True
    """

    cdef readonly Py_ssize_t batch_size
    cdef object layer  # a frozen copy
    cdef object dtype
    cdef Chain chain
    cdef Stream* stream
    cdef Py_ssize_t inputs, outputs  # of a row; the inputs of a model that takes tokens are their number
    cdef int number_type
    cdef bint takes_tokens, long, is_made

    def __cinit__(self, layer, batch_size=1):
        self.batch_size = positive_int("batch_size", batch_size)
        if batch_size > LARGEST_SIDE:
            raise ValueError(f"batch_size: expected at most {LARGEST_SIDE}, got {batch_size}")
        self.layer = frozen(layer)
        self.dtype = self.layer.dtype
        self.number_type = cnp.NPY_FLOAT if self.dtype.itemsize == 4 else cnp.NPY_DOUBLE
        self.chain = chain_of(self.layer)
        self.inputs, self.outputs = self.chain.plan.stages[0].inputs, self.chain.plan.outputs
        self.takes_tokens = self.chain.plan.takes_tokens
        self.long = self.batch_size * self.chain.multiply_adds >= LONG
        self.stream = new_stream(&self.chain.plan, self.batch_size)
        if self.stream == NULL:
            raise MemoryError(f"no memory for the state of {self.batch_size} streams")

    def __init__(self, layer, batch_size=1):
        if self.is_made:
            raise RuntimeError("Stepper: already initialised; make another one")
        self.is_made = True

    def __dealloc__(self):
        free_stream(self.stream)

    def step(self, x_t, out=None):
        """Compute one step.

        Parameters
        ----------
        x_t : array_like (B, I), or (I,) if B is 1, or one number if I is 1 too
            For a model that begins with an Embedding, tokens: integers (B,), or one integer if B is 1. A C-contiguous
            array of the layer's dtype (of dtype intp for tokens) is read in place, others are converted first.
        out : None or ndarray
            Array for the result: C-contiguous, writable, of the layer's dtype and the result's shape; it may share
            memory with x_t. Then nothing is allocated.

        Returns
        -------
        ndarray (B, P), or (P,) for one stream without its axis
            `out`, or a new array; P is the last layer's output size.

        Raises
        ------
        TypeError, ValueError
            An argument has a wrong type or value; the message names it. The state is as before.
        RuntimeError
            Another thread is using this Stepper.
        """
        cdef cnp.npy_intp one_token
        cdef const void* source
        cdef void* result
        cdef int axes
        cdef bint right
        if not self.takes_tokens:
            if not self.fits(x_t, self.inputs):
                x_t = self.converted(x_t)
            axes = cnp.PyArray_NDIM(<cnp.ndarray>x_t)
            source = cnp.PyArray_DATA(<cnp.ndarray>x_t)
        elif self.batch_size == 1 and PyLong_Check(x_t) and not PyBool_Check(x_t):
            try:
                one_token = PyLong_AsSsize_t(x_t)
            except OverflowError:
                self.refuse_token(x_t)
            axes = 1
            source = &one_token
        else:
            if not self.fits_tokens(x_t):
                x_t = self.converted_tokens(x_t)
            axes = cnp.PyArray_NDIM(<cnp.ndarray>x_t) + 1
            source = cnp.PyArray_DATA(<cnp.ndarray>x_t)
        if out is None:
            out = self.new_result(axes)
            target = out
        else:
            target = plain(out)
            if not (self.fits(target, self.outputs) and cnp.PyArray_NDIM(<cnp.ndarray>target) == axes
                    and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>target)):
                refuse_out(out, self.dtype, (self.batch_size, self.outputs)[2 - axes:], "that of the result")
        result = cnp.PyArray_DATA(<cnp.ndarray>target)
        self.acquire()
        try:
            if self.long:
                with nogil:
                    right = advance(self.stream, 1, source, result)
            else:
                right = advance(self.stream, 1, source, result)
            if not right:
                self.refuse_tokens()
        finally:
            unlock(&self.stream.busy)
        return out

    @property
    def state(self):
        """(h, c), copies, (L, B, P) and (L, B, H); of a Sequential a list with one such pair for each LSTM.

        Setting it copies anything that NumPy converts to such arrays; after a TypeError or ValueError nothing has
        changed.
        """
        cdef Py_ssize_t number
        states = [tuple(np.empty(shape, self.dtype) for shape in shapes) for shapes in self.state_shapes()]
        self.acquire()
        try:
            for number, (h, c) in enumerate(states):
                get_state(self.stream, self.lstm(number), cnp.PyArray_DATA(h), cnp.PyArray_DATA(c))
        finally:
            unlock(&self.stream.busy)
        return self.layer.states_of(states)

    @state.setter
    def state(self, state):
        cdef Py_ssize_t number
        shapes = self.state_shapes()
        states = self.layer.pairs_of("state", state)
        states = [self.checked(pair, shape) for pair, shape in zip(states, shapes)]
        self.acquire()
        try:
            for number, (h, c) in enumerate(states):
                set_state(self.stream, self.lstm(number), cnp.PyArray_DATA(h), cnp.PyArray_DATA(c))
        finally:
            unlock(&self.stream.busy)

    @property
    def state_bytes(self):
        """The whole state, also that of convolutions and pooling, as bytes without a meaning to others.

        They are for Steppers of the same model and batch_size. Setting it copies them; after a TypeError or ValueError
        nothing has changed.
        """
        cdef bytes block = bytes(block_bytes(self.stream))
        self.acquire()
        try:
            get_block(self.stream, <char*>block)
        finally:
            unlock(&self.stream.busy)
        return block

    @state_bytes.setter
    def state_bytes(self, block):
        if not isinstance(block, bytes):
            raise TypeError(f"state_bytes: expected bytes, got {type(block).__name__}")
        if len(block) != block_bytes(self.stream):
            raise ValueError(f"state_bytes: expected {block_bytes(self.stream)} bytes, got {len(block)}")
        self.acquire()
        try:
            set_block(self.stream, <const char*><bytes>block)
        finally:
            unlock(&self.stream.busy)

    def reset(self, rows=None):
        """Set the state to the initial one of the model: zeros, or the parameters of an LSTM with learn_initial_state.

        Parameters
        ----------
        rows : None, int, array_like of int, or array_like of bool (B,)
            All streams, those with these numbers, or those where it is True.

        Raises
        ------
        TypeError, ValueError
            Rows that are not numbers from 0 to B - 1, or a mask of another shape.
        """
        cdef Py_ssize_t row
        numbers = None if rows is None else self.row_numbers(rows)
        self.acquire()
        try:
            if numbers is None:
                reset_rows(self.stream)
            else:
                for row in numbers:
                    reset_row(self.stream, row)
        finally:
            unlock(&self.stream.busy)

    def copy(self):
        """Return another Stepper that shares the weights and has a copy of the state."""
        other = Stepper(self.layer, self.batch_size)
        other.state_bytes = self.state_bytes
        return other

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        return _restored, (self.layer, self.batch_size, self.state_bytes)

    def __repr__(self):
        return f"Stepper({self.layer!r}, batch_size={self.batch_size})"

    def _repr_html_(self):
        numbers = sum(h[0] * h[2] + c[0] * c[2] for h, c in self.state_shapes())
        rows = [("layer", repr(self.layer)), ("streams", self.batch_size), ("state of a stream", f"{numbers} numbers"),
                ("dtype", self.dtype)]
        return html_table("Stepper", rows)

    cdef inline int acquire(self) except -1:
        if not try_lock(&self.stream.busy):
            raise RuntimeError("Stepper: another thread is using it; give each its own, from copy() or stepper()")
        return 0

    cdef inline const Stage* lstm(self, Py_ssize_t number):
        return lstm_stage(&self.chain.plan, self.stream.stages, number)

    cdef list state_shapes(self):
        """Return the shapes of h and c, for each LSTM."""
        cdef Py_ssize_t number = 0
        cdef const Stage* stage = self.lstm(0)
        shapes = []
        while stage != NULL:
            shapes.append([(stage.net.num_layers, self.batch_size, size)
                           for size in (stage.net.output_size, stage.net.hidden_size)])
            number += 1
            stage = self.lstm(number)
        return shapes

    cdef inline bint fits(self, object x, Py_ssize_t width):
        """Return whether x is an array (B, width), or (width,) if B is 1, that can be used in place."""
        if not is_plain_array(x, self.number_type):
            return False
        cdef int axes = cnp.PyArray_NDIM(<cnp.ndarray>x)
        cdef const cnp.npy_intp* shape = cnp.PyArray_DIMS(<cnp.ndarray>x)
        if axes == 2:
            return shape[0] == self.batch_size and shape[1] == width
        return axes == 1 and self.batch_size == 1 and shape[0] == width

    cdef inline bint fits_tokens(self, object x):
        """Return whether x is an array (B,) of intp that can be used in place."""
        return (is_plain_array(x, cnp.NPY_INTP) and cnp.PyArray_NDIM(<cnp.ndarray>x) == 1
                and cnp.PyArray_DIMS(<cnp.ndarray>x)[0] == self.batch_size)

    cdef object new_result(self, int axes):
        """Return a new array for a result."""
        cdef cnp.npy_intp[2] shape
        shape[0] = self.batch_size
        shape[axes - 1] = self.outputs
        return cnp.PyArray_EMPTY(axes, shape, self.number_type, 0)

    cdef object converted(self, object x):
        """Return x_t as an array that `fits`."""
        array = float_array("x_t", x, self.dtype)
        B, width = self.batch_size, self.inputs
        if B == width == 1 and array.ndim == 0:
            array = array.reshape(1)
        if array.shape != (B, width) and not (B == 1 and array.shape == (width,)):
            axes = "(B, I) or (I,)" if B == 1 else "(B, I)"
            raise ValueError(f"x_t: expected shape {axes} with B = {B} and I = {width}, got {array.shape}")
        return np.require(array, requirements="CA")

    cdef object converted_tokens(self, object x):
        """Return x_t as an array of intp, one for each stream."""
        B = self.batch_size
        array = int_array("x_t", x)
        if array.shape != (B,) and not (B == 1 and array.shape == ()):
            axes = "(B,) or ()" if B == 1 else "(B,)"
            raise ValueError(f"x_t: expected tokens of shape {axes} with B = {B}, got {array.shape}")
        return np.require(array, requirements="CA") if array.ndim else array

    cdef int refuse_token(self, token) except -1:
        raise ValueError(f"x_t: expected 0 to num_embeddings - 1 = {self.inputs - 1}, got {token}")

    cdef int refuse_tokens(self) except -1:
        """Raise the error for a token of the last step that is out of range."""
        cdef Py_ssize_t row
        for row in range(self.batch_size):
            if not token_fits(&self.chain.plan, self.stream.tokens[row]):
                self.refuse_token(self.stream.tokens[row])
        return 0

    cdef tuple checked(self, object pair, list shapes):
        """Return (h, c) as C-contiguous arrays of these shapes."""
        pair = pair_of("state", pair, "(h, c)")
        arrays = tuple(float_array(f"state {part}", value, self.dtype) for part, value in zip("hc", pair))
        sizes = "HH" if shapes[0] == shapes[1] else "PH"
        for part, size, shape, array in zip("hc", sizes, shapes, arrays):
            expect_shape(f"state {part}", array, shape, f"(L, B, {size})")
        return tuple(np.require(array, requirements="CA") for array in arrays)

    cdef object row_numbers(self, object rows):
        """Return the rows to reset, as a list of numbers."""
        rows = real_array("rows", rows, "integers or bools")
        if rows.dtype == np.bool_:
            expect_shape("rows", rows, (self.batch_size,), "(B,)")
            return np.flatnonzero(rows).tolist()
        rows = int_array("rows", rows)
        outside = (rows < 0) | (rows >= self.batch_size)
        if outside.any():
            raise ValueError(f"rows: expected 0 to B - 1 = {self.batch_size - 1}, got {rows[outside].flat[0]}")
        return rows.ravel().tolist()


def frozen(layer, name="layer"):
    """Return a copy of a layer with the same parameters and packed weights, which later changes do not affect.

    A Graph becomes its Sequential.
    """
    if not isinstance(layer, Layer) and hasattr(layer, "sequential"):
        layer = layer.sequential()
    if not (isinstance(layer, Layer) and layer.is_model):
        raise TypeError(f"{name}: expected an LSTM or a Sequential, got {type(layer).__name__}")
    return shallow_copy(layer)


def chain_of(layer, name="stepper"):
    """Make the Chain of a model's layers; error messages begin with `name`."""
    try:
        stages = stages_of(layer.layers)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    if not stages:
        raise ValueError(f"{name}: expected a layer other than Dropout, got {layer!r}")
    masks = any(one.masks and one.vocabulary_size is not None for one in layer.layers)
    return Chain(config.kernels(), layer.dtype.itemsize, [stage.kernel for stage in stages], masks)


def plain(out):
    """Return an array of a subclass, such as a memory map, as a plain array; masked arrays and matrices unchanged."""
    if type(out) is np.ndarray or not isinstance(out, np.ndarray) or isinstance(out, (np.matrix, np.ma.MaskedArray)):
        return out
    return out.view(np.ndarray)


def _restored(layer, batch_size, state):
    """Make a Stepper from its pickle; those of former versions hold the LSTMs' states."""
    stepper = Stepper(layer, batch_size)
    if isinstance(state, bytes):
        stepper.state_bytes = state
    else:
        stepper.state = state
    return stepper
