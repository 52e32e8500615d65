"""Features of this processor: those that the variants in setup.py are compiled for.

The run-time check of gcc and clang includes the operating system (XGETBV): a feature counts only if the system saves
its wide registers. On ARM only the operating system knows the features; Linux and macOS are asked.
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
    #include <cpuid.h>
    /* The bit itself, for not every compiler has a name for it; the registers are those of AVX-512. */
    static int lstm_cy_avx512bf16(void) {
        unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
        return lstm_cy_avx512vnni() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 5 & 1u);
    }
    #else
    static int lstm_cy_avx512bf16(void) { return 0; }
    static int lstm_cy_avx2(void) { return 0; }
    static int lstm_cy_avx512(void) { return 0; }
    static int lstm_cy_avx512vnni(void) { return 0; }
    #endif

    #if defined(__aarch64__) && defined(__linux__)
    #include <sys/auxv.h>
    /* The bits of the kernel's asm/hwcap.h. Armv8.2 has the first three, and dot products are an option of it. */
    static int lstm_cy_neondotprod(void) {
        const unsigned long crc32 = 1UL << 7, atomics = 1UL << 8, asimdrdm = 1UL << 12, asimddp = 1UL << 20;
        const unsigned long needed = crc32 | atomics | asimdrdm | asimddp;
        return (getauxval(AT_HWCAP) & needed) == needed;
    }
    #elif defined(__aarch64__) && defined(__APPLE__)
    #include <stddef.h>
    #include <sys/sysctl.h>
    static int lstm_cy_neondotprod(void) {
        int found = 0;
        size_t size = sizeof found;
        return sysctlbyname("hw.optional.arm.FEAT_DotProd", &found, &size, NULL, 0) == 0 && found;
    }
    #else
    static int lstm_cy_neondotprod(void) { return 0; }
    #endif
    """
    int lstm_cy_avx2()
    int lstm_cy_avx512()
    int lstm_cy_avx512vnni()
    int lstm_cy_avx512bf16()
    int lstm_cy_neondotprod()


def instruction_sets():
    """Return the names of the variants that this processor can run, the plainest first."""
    names = ["base"]
    if lstm_cy_avx2():
        names.append("avx2")
    if lstm_cy_avx512():
        names.append("avx512")
    if lstm_cy_avx512vnni():
        names.append("avx512vnni")
    if lstm_cy_avx512bf16():
        names.append("avx512bf16")
    if lstm_cy_neondotprod():
        names.append("neondotprod")
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
