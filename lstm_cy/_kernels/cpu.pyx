"""What this processor has: the features that the variants in setup.py are compiled for.

gcc's and clang's run-time check asks the operating system too (XGETBV): a processor that can, under a system that does
not save the wide registers, cannot.
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
    """The names of the variants that this processor can run, the plainest first."""
    names = ["base"]
    if lstm_cy_avx2():
        names.append("avx2")
    if lstm_cy_avx512():
        names.append("avx512")
    if lstm_cy_avx512vnni():
        names.append("avx512vnni")
    return names


def bounds_checks():
    """Whether LSTM_CY_CHECKS=1 was set when this was compiled: then what lies behind an end cannot be read.

    It tries: behind the last byte of a bytes object there is always a zero.
    """
    cdef bytes word = b"x"
    cdef Py_ssize_t behind = len(word)
    cdef unsigned char end
    try:
        end = word[behind]
    except IndexError:
        return True
    return end != 0
