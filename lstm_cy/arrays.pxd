"""What compiled modules ask of NumPy's arrays."""

cimport numpy as cnp


cdef inline bint lies_plainly(object x, int number_type):
    """Whether x is a C-contiguous, aligned array of a type of numbers, in this machine's byte order.

    One of a subclass is not: the elements of a masked array, or the shape of a matrix, mean more.
    """
    return (cnp.PyArray_CheckExact(x) and cnp.PyArray_TYPE(<cnp.ndarray>x) == number_type
            and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>x))
