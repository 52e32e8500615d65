"""A check of NumPy arrays for compiled modules."""

cimport numpy as cnp


cdef inline bint is_plain_array(object x, int number_type):
    """Return whether x is a C-contiguous, aligned array of a type of numbers, in this machine's byte order.

    Arrays of subclasses are not: masked arrays and matrices give their elements or shape another meaning.
    """
    return (cnp.PyArray_CheckExact(x) and cnp.PyArray_TYPE(<cnp.ndarray>x) == number_type
            and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>x))
