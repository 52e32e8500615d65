"""What compiled modules ask of NumPy's arrays."""

cimport numpy as cnp


cdef inline bint lies_plainly(object x, int number_type):
    """Whether x is a C-contiguous, aligned array of a type of numbers, in this machine's byte order, without a mask."""
    return (cnp.PyArray_Check(x) and cnp.PyArray_TYPE(<cnp.ndarray>x) == number_type
            and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>x) and (cnp.PyArray_CheckExact(x) or not hasattr(x, "mask")))
