"""A call of an LSTM whose arguments need no conversion, without Python.

Most of the time of a small layer's call would be spent in checks and in Python's own calls.
"""

cimport numpy as cnp
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_SIZE
from libc.stdint cimport INT32_MAX

from .._kernels.forward cimport infer
from .._kernels.network cimport Net, Network, Status, check
from .._kernels.runtime.arrays cimport is_plain_array

cnp.import_array()


def call(Network network, x, state, bint batch_first, int threads):
    """Run a network over x, and return (y, (h_n, c_n)); None if an argument has to be checked or converted first.

    Parameters
    ----------
    network : Network
    x : any object
        Used if it is a C-contiguous array of the network's dtype, (T, B, I), (B, T, I) with batch_first, or (T, I).
    state : any object
        Used if it is None or a tuple of two such arrays (L*D, B, P) and (L*D, B, H), without B if x has none.
    batch_first : bool
    threads : int
        How many threads may work on it, the caller's included.
    """
    cdef const Net* net = &network.net
    cdef Py_ssize_t parts = net.num_layers * net.num_directions, B = 1, T
    cdef cnp.npy_intp* sizes
    cdef cnp.npy_intp[3] of_y
    cdef int type_number = cnp.NPY_FLOAT if net.engine.itemsize == 4 else cnp.NPY_DOUBLE, axes
    cdef void* inner = NULL
    cdef Status status
    if not is_plain_array(x, type_number):
        return None
    axes, sizes = cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x)
    if axes not in (2, 3) or sizes[axes - 1] != net.directions[0].ih.inputs:
        return None
    T = sizes[0]
    if axes == 3:
        T, B = (sizes[1], sizes[0]) if batch_first else (sizes[0], sizes[1])
    if T == 0 or B == 0 or B > INT32_MAX:
        return None
    of_y[0], of_y[1] = sizes[0], sizes[1]
    of_y[axes - 1] = net.num_directions * net.output_size
    if state is None:
        if network.initial is not None:
            return None
        h = new_state(axes, parts, B, net.output_size, type_number)
        c = new_state(axes, parts, B, net.hidden_size, type_number)
    else:
        if not (PyTuple_CheckExact(state) and PyTuple_GET_SIZE(state) == 2):
            return None
        h, c = (<tuple>state)[0], (<tuple>state)[1]
        if not (is_state(h, axes, parts, B, net.output_size, type_number)
                and is_state(c, axes, parts, B, net.hidden_size, type_number)):
            return None
        h, c = cnp.PyArray_NewCopy(h, cnp.NPY_CORDER), cnp.PyArray_NewCopy(c, cnp.NPY_CORDER)
    y = cnp.PyArray_EMPTY(axes, of_y, type_number, False)
    if net.num_layers > 1:
        between = cnp.PyArray_EMPTY(axes, of_y, type_number, False)
        inner = cnp.PyArray_DATA(between)
    with nogil:
        status = infer(net, T, B, batch_first, cnp.PyArray_DATA(<cnp.ndarray>x), cnp.PyArray_DATA(<cnp.ndarray>y),
                       inner, cnp.PyArray_DATA(<cnp.ndarray>h), cnp.PyArray_DATA(<cnp.ndarray>c), threads)
    check(status)
    return y, (h, c)


cdef inline object new_state(int axes, Py_ssize_t parts, Py_ssize_t B, Py_ssize_t width, int type_number):
    """Return zeros (parts, B, width), or (parts, width) for two axes."""
    cdef cnp.npy_intp[3] shape
    shape[0], shape[1] = parts, B
    shape[axes - 1] = width
    return cnp.PyArray_ZEROS(axes, shape, type_number, False)


cdef inline bint is_state(object array, int axes, Py_ssize_t parts, Py_ssize_t B, Py_ssize_t width, int type_number):
    """Return whether it is a plain array of the shape that `new_state` gives."""
    cdef cnp.npy_intp* sizes
    if not is_plain_array(array, type_number) or cnp.PyArray_NDIM(array) != axes:
        return False
    sizes = cnp.PyArray_DIMS(array)
    return sizes[0] == parts and sizes[axes - 1] == width and (axes == 2 or sizes[1] == B)
