"""Features of this processor: those that the variants in setup.py are compiled for.

On x86 CPUID is asked, and XGETBV: a feature counts only if the operating system saves its wide registers. gcc and clang
have functions for this, but with zig as the compiler they find nothing. On ARM only the operating system knows the
features; Linux and macOS are asked.
"""

cdef extern from *:
    """
    #if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
    #include <cpuid.h>
    /* Whether a register of CPUID has all of these bits: 0 to 3 for eax to edx. */
    static int lstm_cy_has(unsigned leaf, unsigned subleaf, int number, unsigned bits) {
        unsigned found[4] = {0, 0, 0, 0};
        if (!__get_cpuid_count(leaf, subleaf, found, found + 1, found + 2, found + 3))
            return 0;
        return (found[number] & bits) == bits;
    }
    /* Whether the operating system saves these registers: bits 1 and 2 for AVX, 5 to 7 for AVX-512. */
    static int lstm_cy_saves(unsigned bits) {
        unsigned low, high;
        if (!lstm_cy_has(1, 0, 2, 1u << 27))
            return 0;
        __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0)); /* xgetbv */
        return (low & bits) == bits;
    }
    static int lstm_cy_avx2(void) {
        const unsigned fma_and_avx = 1u << 12 | 1u << 28;
        return lstm_cy_saves(6) && lstm_cy_has(1, 0, 2, fma_and_avx) && lstm_cy_has(7, 0, 1, 1u << 5);
    }
    static int lstm_cy_avx512(void) {
        const unsigned f_dq_cd_bw_vl = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;
    #ifdef __APPLE__
        const int saved = 1; /* macOS saves these registers from their first use on */
    #else
        const int saved = lstm_cy_saves(0xe6);
    #endif
        return lstm_cy_avx2() && saved && lstm_cy_has(7, 0, 1, f_dq_cd_bw_vl);
    }
    static int lstm_cy_avx512vnni(void) {
        return lstm_cy_avx512() && lstm_cy_has(7, 0, 2, 1u << 11);
    }
    static int lstm_cy_avx512bf16(void) {
        return lstm_cy_avx512vnni() && lstm_cy_has(7, 1, 0, 1u << 5);
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
