# Everything that is compiled once for each instruction set; the .pyx that includes it gives only the name.

from cpython.pycapsule cimport PyCapsule_New

from ..table cimport Kernels

include "vector.pxi"
include "cell.pxi"
include "variants.pxi"
include "tiles.pxi"
include "pairs.pxi"
include "step.pxi"
include "narrow.pxi"
include "elements.pxi"

cdef extern from *:
    """
    #if defined(__SSE2__) || defined(_M_X64)
    #include <immintrin.h>
    /* MXCSR: bit 15 flushes denormal results to zero, bit 6 takes denormal operands as zero. */
    static unsigned int lstm_cy_flush_denormals(void) {
        unsigned int saved = _mm_getcsr();
        _mm_setcsr(saved | 0x8040u);
        return saved;
    }
    static void lstm_cy_restore_denormals(unsigned int saved) {
        _mm_setcsr((_mm_getcsr() & ~0x8040u) | (saved & 0x8040u));
    }
    #elif defined(__aarch64__) && LSTM_CY_GNU_C
    /* FPCR: bit 24, FZ, does both, in both precisions. */
    static unsigned int lstm_cy_flush_denormals(void) {
        uint64_t saved;
        __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
        __asm__ volatile("msr fpcr, %0" : : "r"(saved | (1u << 24)));
        return (unsigned int)saved;
    }
    static void lstm_cy_restore_denormals(unsigned int saved) {
        uint64_t now;
        __asm__ volatile("mrs %0, fpcr" : "=r"(now));
        __asm__ volatile("msr fpcr, %0" : : "r"((now & ~(uint64_t)(1u << 24)) | (saved & (1u << 24))));
    }
    #else
    /* Denormals are computed with: the results are right, but slow where there are many. */
    static unsigned int lstm_cy_flush_denormals(void) { return 0; }
    static void lstm_cy_restore_denormals(unsigned int saved) { (void)saved; }
    #endif
    """
    unsigned int lstm_cy_flush_denormals() noexcept nogil
    void lstm_cy_restore_denormals(unsigned int) noexcept nogil

cdef Kernels table

table.flush_denormals = lstm_cy_flush_denormals
table.restore_denormals = lstm_cy_restore_denormals
table.cell_forward32 = cell_forward[float]
table.cell_forward64 = cell_forward[double]
table.cell_backward32 = cell_backward[float]
table.cell_backward64 = cell_backward[double]
table.variant_forward32 = variant_forward[float]
table.variant_forward64 = variant_forward[double]
table.variant_backward32 = variant_backward[float]
table.variant_backward64 = variant_backward[double]
table.column_sums32 = column_sums[float]
table.column_sums64 = column_sums[double]
table.panel32 = panel_columns[float](NULL)
table.panel64 = panel_columns[double](NULL)
table.last32 = last_columns[float](NULL)
table.last64 = last_columns[double](NULL)
table.pack32 = pack[float]
table.pack64 = pack[double]
table.pack_gates32 = pack_gates[float]
table.pack_gates64 = pack_gates[double]
table.cell_step32 = cell_step[float]
table.cell_step64 = cell_step[double]
table.add_products32 = add_products[float]
table.add_products64 = add_products[double]
table.add_outer32 = add_outer[float]
table.add_outer64 = add_outer[double]
table.pair_floats = PAIR_FLOATS
table.round_factors = round_factors
table.pack_bf16 = pack_bf16
table.pack_gates_bf16 = pack_gates_bf16
table.add_outer_bf16 = add_outer_bf16
table.int8_bytes = int8_bytes
table.pack_int8 = pack_int8
table.multiply_int8 = multiply_int8
table.exponentials32 = exponentials[float]
table.exponentials64 = exponentials[double]
table.elementwise32 = elementwise[float]
table.elementwise64 = elementwise[double]


cdef extern from "vector.h":
    const int VECTOR_BYTES "LSTM_CY_VECTOR_BYTES"


def vectors():
    """The bytes of the vectors that the kernels were compiled with, 0 without, and whether there is an fma."""
    return VECTOR_BYTES, bool(FMA)


def kernels():
    """The table of this instruction set, as a capsule for the drivers."""
    return PyCapsule_New(&table, "lstm_cy.kernels", NULL)
