"""Features of this processor: those that the variants in setup.py are compiled for.

The run-time check of gcc and clang includes the operating system (XGETBV): a feature counts only if the system saves
its wide registers.
"""

cdef extern from *:
    """
    #if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
    static int lstm_cy_avx2(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    }
    static int lstm_cy_avx512(void) {
        return lstm_cy_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
            && __builtin_cpu_supports("avx512vl");
    }
    static int lstm_cy_avx512vnni(void) {
        return lstm_cy_avx512() && __builtin_cpu_supports("avx512vnni");
    }
    #else
    static int lstm_cy_avx2(void) { return 0; }
    static int lstm_cy_avx512(void) { return 0; }
    static int lstm_cy_avx512vnni(void) { return 0; }
    #endif
    """
    int lstm_cy_avx2()
    int lstm_cy_avx512()
    int lstm_cy_avx512vnni()


def instruction_sets():
    """Return the names of the variants that this processor can run, the plainest first."""
    names = ["base"]
    if lstm_cy_avx2():
        names.append("avx2")
    if lstm_cy_avx512():
        names.append("avx512")
    if lstm_cy_avx512vnni():
        names.append("avx512vnni")
    return names


def bounds_checks():
    """Return whether LSTM_CY_CHECKS=1 was set when this was compiled: then no element past the end can be read.

    It tries one: after the last byte of a bytes object there is always a zero.
    """
    cdef bytes word = b"x"
    cdef Py_ssize_t behind = len(word)
    cdef unsigned char end
    try:
        end = word[behind]
    except IndexError:
        return True
    return end != 0
