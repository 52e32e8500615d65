"""The kernels of one instruction set for the drivers: a struct of pointers to its compiled functions.

Sizes are counts of elements. Arrays are C-contiguous; gate rows are in the order i, f, g, o.
"""

from libc.string cimport memcpy, memset

cdef enum:
    CACHE_LINE = 64  # bytes
    # units of the local arrays that loops run over (cell.pxi)
    BLOCK = 32
    # A gradient is a sum over rows and steps. Parts of so many terms are summed in one chain each, then the parts are
    # added: one chain over all terms would lose the low digits of the later ones.
    PART_ROWS = 256
    # Rows of an outer product's result whose factors are packed together
    OUTER_ROWS = 48
    # A sum of more rows than this also sums the rounding errors of adding its parts (add_part).
    LONG_SUM = 4096

ctypedef fused real:
    float
    double


ctypedef struct Product:
    # a product with a packed (K, N) matrix; the elements of its left side are `a_row` and `a_k` apart
    Py_ssize_t K
    const void* a
    Py_ssize_t a_row, a_k
    const void* panels
    bint pairs              # in bf16: the left side is from round_factors, the panels from pack_bf16; only of float32


ctypedef enum ActivationKind:
    # named in network.ACTIVATION_KINDS
    SIGMOID, TANH, RELU, AFFINE, LEAKYRELU, THRESHOLDEDRELU, SCALEDTANH, HARDSIGMOID, ELU, SOFTSIGN, SOFTPLUS


ctypedef enum Function:
    # functions of one element, named in elements.FUNCTIONS
    ELEMENT_SIGMOID, ELEMENT_TANH, ELEMENT_SOFTPLUS, ELEMENT_EXP, ELEMENT_EXPM1, ELEMENT_NORMAL


ctypedef enum Coupling:
    # named in network.COUPLING_KINDS
    NOT_COUPLED, FORGET_IS_REST, INPUT_IS_REST


ctypedef struct Activation:
    int kind
    double alpha, beta


ctypedef struct Variant:
    # the options of one direction's cell
    Activation gate, candidate, cell  # of i, f and o; of g; of c where h = o activation(c)
    int coupling
    double clip, cell_clip            # infinity if there is no bound
    const void* peepholes             # (3, H) in the order i, f, o, or NULL
    const void* norm                  # (4H,), or NULL
    const void* bias                  # (4H,), added after normalising, or NULL


cdef enum:
    # The values that the cell of a Variant saves for backward, in parts of H elements: `extra` has EXTRA * H + 4 a row.
    EXTRA_SLOPES = 0            # of the activations of i, f, g, o; zero where clip bounds
    EXTRA_ACTIVATION_SLOPE = 4  # of the cell activation
    EXTRA_CELL_SLOPE = 5        # zero where cell_clip bounds, else one
    EXTRA_CELL = 6
    EXTRA_NORMALIZED = 7        # of i, f, g, o
    EXTRA_INVERSE = 11          # four numbers: one over the root of each gate's variance
    EXTRA = 11
    EXTRA_REST = 4              # numbers after those parts
    # A row's addends to the gradients of its parameters, in parts of H elements
    SHARE_BIAS = 0
    SHARE_NORM = 4
    SHARE_PEEPHOLE = 8
    SHARES = 11


ctypedef struct CellStep:
    # One step of a cell whose weights are packed with their gates interleaved (see panels.pxi): the gates are `begin`
    # plus one or two products, and the cell is computed while they are still in registers.
    Py_ssize_t rows, hidden_size
    Py_ssize_t first, last  # the panels to work on
    bint descending         # whether from the last panel to the first
    int count
    Product[2] products
    const void* begin       # rows of all panels' columns, `begin_row` apart; 0: all rows share one
    Py_ssize_t begin_row
    void* c                 # (rows, H), in and out
    void* h                 # rows of H, out, `h_row` apart; no product may read it
    Py_ssize_t h_row
    void* gates             # (rows, 4H), activated, in plain order, and
    void* tanh_c            # (rows, H): out, for backward; both may be NULL


ctypedef struct Kernels:
    # Flush denormals to zero in this thread; returns the argument of restore_denormals. They are called through the
    # table so that no compiler can move arithmetic across them.
    unsigned int (*flush_denormals)() noexcept nogil
    void (*restore_denormals)(unsigned int) noexcept nogil

    # (rows, H, gates (rows, 4H): in z, out activated, c (rows, H): in and out, h (rows, H): out,
    #  tanh_c (rows, H): out, or NULL: then gates are not written back either)
    void (*cell_forward32)(Py_ssize_t, Py_ssize_t, float*, float*, float*, float*) noexcept nogil
    void (*cell_forward64)(Py_ssize_t, Py_ssize_t, double*, double*, double*, double*) noexcept nogil

    # (rows, H, gates, c_prev, tanh_c, dh, dc: in of this step, out of the one before, dz (rows, 4H): out)
    void (*cell_backward32)(Py_ssize_t, Py_ssize_t, const float*, const float*, const float*, const float*, float*,
                            float*) noexcept nogil
    void (*cell_backward64)(Py_ssize_t, Py_ssize_t, const double*, const double*, const double*, const double*, double*,
                            double*) noexcept nogil

    # The same two for the options of a Variant, (variant, ..., as above); both with `extra` after tanh_c, and the
    # second with the rows' `shares` of the gradients of its parameters as the last argument
    void (*variant_forward32)(const Variant*, Py_ssize_t, Py_ssize_t, float*, float*, float*, float*,
                              float*) noexcept nogil
    void (*variant_forward64)(const Variant*, Py_ssize_t, Py_ssize_t, double*, double*, double*, double*,
                              double*) noexcept nogil
    void (*variant_backward32)(const Variant*, Py_ssize_t, Py_ssize_t, const float*, const float*, const float*,
                               const float*, const float*, float*, float*, float*) noexcept nogil
    void (*variant_backward64)(const Variant*, Py_ssize_t, Py_ssize_t, const double*, const double*, const double*,
                               const double*, const double*, double*, double*, double*) noexcept nogil

    # (rows, columns, array, sums: the column sums are added to it, rest: see add_part)
    void (*column_sums32)(Py_ssize_t, Py_ssize_t, const float*, float*, float*) noexcept nogil
    void (*column_sums64)(Py_ssize_t, Py_ssize_t, const double*, double*, double*) noexcept nogil

    # Columns of a panel of a packed matrix, and of a last one where that is enough
    Py_ssize_t panel32, panel64, last32, last64

    # (K, N, matrix (K, N), distance to its next k, to its next n, panels: out)
    void (*pack32)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, float*) noexcept nogil
    void (*pack64)(Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t, double*) noexcept nogil

    # The same for the gates of H units, a (K, 4H) matrix, interleaved; units missing in the last panel are zero
    void (*pack_gates32)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, float*) noexcept nogil
    void (*pack_gates64)(Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t, double*) noexcept nogil
    # (step, NULL)
    void (*cell_step32)(const CellStep*, float*) noexcept nogil
    void (*cell_step64)(const CellStep*, double*) noexcept nogil

    # (rows, N, products, their number (1 or 2), descending: from the last panel to the first, begin (rows, N),
    #  distance of its rows, c (rows, N)): c = begin + the sum of the products, which have `rows` rows each; begin is
    #  zero if NULL
    void (*add_products32)(Py_ssize_t, Py_ssize_t, const Product*, int, bint, const float*, Py_ssize_t,
                           float*) noexcept nogil
    void (*add_products64)(Py_ssize_t, Py_ssize_t, const Product*, int, bint, const double*, Py_ssize_t,
                           double*) noexcept nogil

    # (K, M, N, a (K, M), distance of its rows, b (K, N), space (see outer_space), c (M, N),
    #  rest (M, N): see add_part): c += a^T b
    void (*add_outer32)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, const float*, float*, float*,
                        float*) noexcept nogil
    void (*add_outer64)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, const double*, double*, double*,
                        double*) noexcept nogil

    # Products in bf16 (pairs.pxi). The floats that two numbers of a left side take, 1 or 2
    Py_ssize_t pair_floats
    # (rows, K, a: rows of K numbers, distance of the rows, out: rows of (K + 1) // 2 * pair_floats): a rounded to bf16
    void (*round_factors)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, float*) noexcept nogil
    # (K, N or H, matrix of floats, or if this is NULL of bf16, distances as for pack32, panels: out): panels have
    # (K + 1) // 2 * packed_columns(N) floats
    void (*pack_bf16)(Py_ssize_t, Py_ssize_t, const float*, const unsigned short*, Py_ssize_t, Py_ssize_t,
                      float*) noexcept nogil
    void (*pack_gates_bf16)(Py_ssize_t, Py_ssize_t, const float*, const unsigned short*, Py_ssize_t, Py_ssize_t,
                            float*) noexcept nogil
    # as add_outer32
    void (*add_outer_bf16)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, const float*, float*, float*,
                           float*) noexcept nogil

    # int8: (K, N): the bytes that the panels of a (K, N) matrix take; panels begin at every 64 columns
    Py_ssize_t (*int8_bytes)(Py_ssize_t, Py_ssize_t) noexcept nogil
    # (K, N, its transpose (N, K) with scales (N,), panels: out)
    void (*pack_int8)(Py_ssize_t, Py_ssize_t, const signed char*, const float*, void*) noexcept nogil
    # (rows, K, N, a (rows, K), panels of (K, N), c (rows, N), descending): c += a panels
    void (*multiply_int8)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, const void*, float*, bint) noexcept nogil

    # (n, x (n,), y (n,): out, highest: out): y = exp(x - highest), where `highest` is the largest of x; returns the sum
    # of y. x and y may be the same.
    double (*exponentials32)(Py_ssize_t, const float*, float*, float*) noexcept nogil
    double (*exponentials64)(Py_ssize_t, const double*, double*, double*) noexcept nogil

    # (function, n, x (n,), y (n,): out): y = function(x); x and y may be the same
    void (*elementwise32)(int, Py_ssize_t, const float*, float*) noexcept nogil
    void (*elementwise64)(int, Py_ssize_t, const double*, double*) noexcept nogil


cdef inline void load_block(real* block, const real* source, Py_ssize_t units) noexcept nogil:
    if units < BLOCK:
        memset(block, 0, BLOCK * sizeof(real))
        memcpy(block, source, units * sizeof(real))
    else:
        memcpy(block, source, BLOCK * sizeof(real))


cdef inline void store_block(real* target, const real* block, Py_ssize_t units) noexcept nogil:
    if units < BLOCK:
        memcpy(target, block, units * sizeof(real))
    else:
        memcpy(target, block, BLOCK * sizeof(real))


cdef inline void add_part(Py_ssize_t n, const real* part, real* sums, real* rest) noexcept nogil:
    """Add a part of `n` sums; the rounding errors are added to `rest`, unless it is NULL.

    The error of the addition, by Knuth's formula, is exact for any orders of magnitude.
    """
    cdef real[BLOCK] more, old, lost
    cdef Py_ssize_t start = 0
    cdef real total, grown
    cdef int u
    while start < n:
        load_block(more, part + start, n - start)
        load_block(old, sums + start, n - start)
        if rest == NULL:
            for u in range(BLOCK):
                old[u] = old[u] + more[u]
        else:
            load_block(lost, rest + start, n - start)
            for u in range(BLOCK):
                total = old[u] + more[u]
                grown = total - old[u]
                lost[u] = lost[u] + ((old[u] - (total - grown)) + (more[u] - grown))
                old[u] = total
            store_block(rest + start, lost, n - start)
        store_block(sums + start, old, n - start)
        start += BLOCK


# One name for both precisions.

cdef inline void cell_forward(const Kernels* kernels, Py_ssize_t rows, Py_ssize_t H, real* gates, real* c, real* h,
                              real* tanh_c) noexcept nogil:
    if real is float:
        kernels.cell_forward32(rows, H, gates, c, h, tanh_c)
    else:
        kernels.cell_forward64(rows, H, gates, c, h, tanh_c)


cdef inline void cell_backward(const Kernels* kernels, Py_ssize_t rows, Py_ssize_t H, const real* gates,
                               const real* c_prev, const real* tanh_c, const real* dh, real* dc,
                               real* dz) noexcept nogil:
    if real is float:
        kernels.cell_backward32(rows, H, gates, c_prev, tanh_c, dh, dc, dz)
    else:
        kernels.cell_backward64(rows, H, gates, c_prev, tanh_c, dh, dc, dz)


cdef inline void variant_forward(const Kernels* kernels, const Variant* variant, Py_ssize_t rows, Py_ssize_t H,
                                 real* gates, real* c, real* h, real* tanh_c, real* extra) noexcept nogil:
    if real is float:
        kernels.variant_forward32(variant, rows, H, gates, c, h, tanh_c, extra)
    else:
        kernels.variant_forward64(variant, rows, H, gates, c, h, tanh_c, extra)


cdef inline void variant_backward(const Kernels* kernels, const Variant* variant, Py_ssize_t rows, Py_ssize_t H,
                                  const real* gates, const real* c_prev, const real* tanh_c, const real* extra,
                                  const real* dh, real* dc, real* dz, real* shares) noexcept nogil:
    if real is float:
        kernels.variant_backward32(variant, rows, H, gates, c_prev, tanh_c, extra, dh, dc, dz, shares)
    else:
        kernels.variant_backward64(variant, rows, H, gates, c_prev, tanh_c, extra, dh, dc, dz, shares)


cdef inline void column_sums(const Kernels* kernels, Py_ssize_t rows, Py_ssize_t columns, const real* array,
                             real* sums, real* rest) noexcept nogil:
    if real is float:
        kernels.column_sums32(rows, columns, array, sums, rest)
    else:
        kernels.column_sums64(rows, columns, array, sums, rest)


# Cython takes the type of a fused function from its arguments alone. A function without an argument of that type has
# `precision`, a pointer that is always NULL.
cdef inline Py_ssize_t panel_columns(const Kernels* kernels, real* precision) noexcept nogil:
    return kernels.panel32 if real is float else kernels.panel64


cdef inline Py_ssize_t packed_columns(const Kernels* kernels, Py_ssize_t N, real* precision) noexcept nogil:
    """Return the columns of the panels of N; the last panel may be narrower."""
    cdef Py_ssize_t width = panel_columns[real](kernels, NULL), rest = N % width
    cdef Py_ssize_t last = kernels.last32 if real is float else kernels.last64
    return N - rest + (0 if rest == 0 else last if rest <= last else width)


cdef inline void pack(const Kernels* kernels, Py_ssize_t K, Py_ssize_t N, const real* matrix, Py_ssize_t k_step,
                      Py_ssize_t n_step, real* panels) noexcept nogil:
    if real is float:
        kernels.pack32(K, N, matrix, k_step, n_step, panels)
    else:
        kernels.pack64(K, N, matrix, k_step, n_step, panels)


cdef inline void pack_gates(const Kernels* kernels, Py_ssize_t K, Py_ssize_t H, const real* matrix,
                            Py_ssize_t k_step, Py_ssize_t n_step, real* panels) noexcept nogil:
    if real is float:
        kernels.pack_gates32(K, H, matrix, k_step, n_step, panels)
    else:
        kernels.pack_gates64(K, H, matrix, k_step, n_step, panels)


cdef inline void cell_step(const Kernels* kernels, const CellStep* step, real* precision) noexcept nogil:
    if real is float:
        kernels.cell_step32(step, NULL)
    else:
        kernels.cell_step64(step, NULL)


cdef inline void add_products(const Kernels* kernels, Py_ssize_t rows, Py_ssize_t N, const Product* products,
                              int count, bint descending, const real* begin, Py_ssize_t begin_row,
                              real* c) noexcept nogil:
    if real is float:
        kernels.add_products32(rows, N, products, count, descending, begin, begin_row, c)
    else:
        kernels.add_products64(rows, N, products, count, descending, begin, begin_row, c)


cdef inline void multiply(const Kernels* kernels, Py_ssize_t rows, Py_ssize_t K, Py_ssize_t N, const real* a,
                          const real* panels, real* c, bint descending) noexcept nogil:
    """Compute c (rows, N) += a (rows, K) times the packed (K, N)."""
    cdef Product product = Product(K, a, K, 1, panels, False)
    add_products[real](kernels, rows, N, &product, 1, descending, c, N, c)


cdef inline void add_outer(const Kernels* kernels, Py_ssize_t K, Py_ssize_t M, Py_ssize_t N, const real* a,
                           Py_ssize_t a_step, const real* b, real* panels, real* c, real* rest) noexcept nogil:
    if real is float:
        kernels.add_outer32(K, M, N, a, a_step, b, panels, c, rest)
    else:
        kernels.add_outer64(K, M, N, a, a_step, b, panels, c, rest)


cdef inline double exponentials(const Kernels* kernels, Py_ssize_t n, const real* x, real* y,
                                real* highest) noexcept nogil:
    if real is float:
        return kernels.exponentials32(n, x, y, highest)
    else:
        return kernels.exponentials64(n, x, y, highest)


cdef inline void elementwise(const Kernels* kernels, int function, Py_ssize_t n, const real* x,
                             real* y) noexcept nogil:
    if real is float:
        kernels.elementwise32(function, n, x, y)
    else:
        kernels.elementwise64(function, n, x, y)
