# Products in bf16, for one instruction set: sums of float32, and on both sides numbers rounded to bf16, in pairs of k.
#
# The panels and tiles are those of tiles.pxi, with 32 bits of a panel for two k of one column. Every element of a
# result is one chain of multiply-adds, in each pair the second k before the first: so the dot product of x86
# (vdpbf16ps) does it. Without it pairs are widened to floats, and the same multiply-adds give the same bits. A product
# of two bf16 is exact in float32, so that these are the bits without a fused multiply-add, too.
#
# `round_factors` rounds the left side beforehand: the input of a block of steps once, h once in each step.

ctypedef unsigned short ushort

cdef enum:
    MOVED = 8  # rows of a strip that are moved together; at least PAIR_ROWS and at most three times as many

ctypedef fused float_or_bf16:
    float
    ushort


cdef inline Py_ssize_t pairs_of(Py_ssize_t K) noexcept nogil:
    return (K + 1) // 2


cdef inline int most_rows(bint pairs) noexcept nogil:
    """The rows of the largest tile in float32, or in bf16."""
    return PAIR_ROWS if pairs else TILE_ROWS


cdef inline bint in_halves(int rows, bint pairs) noexcept nogil:
    """Whether a tile of one panel is made by `halves_of_tile`."""
    return pairs and PAIR_ROWS > TILE_ROWS and rows > 2


cdef inline void sum_pairs(int rows, int across, bint strips, const Product* products, int count, Py_ssize_t row,
                           Py_ssize_t n, int begin, single_precision* sums) noexcept nogil:
    """`sum_products` in bf16, for `across` vectors from vector `begin` of a panel on.

    A pair of a left side takes PAIR_FLOATS floats. In strips, of PAIR_ROWS rows, a pair has the rows' first numbers,
    then their second ones, unless one float holds both.
    """
    cdef single_precision[MOST_PANELS * ACROSS] kept
    cdef single_precision weight, factor
    cdef const single_precision* a
    cdef const single_precision* panel
    cdef Py_ssize_t pairs, a_row, a_pair, second, k, stride, first, place
    cdef int number, r, j, width = <int>(ACROSS * lanes[single_precision](sums))
    for number in range(count):
        pairs = pairs_of(products[number].K)
        a_row = 1 if strips else products[number].a_row
        a_pair = PAIR_FLOATS * (PAIR_ROWS if strips else 1)
        second = PAIR_ROWS if strips else 1
        a = at[single_precision](<const single_precision*>products[number].a,
                                 row * pairs * PAIR_FLOATS if strips else row * a_row)
        panel = at[single_precision](<const single_precision*>products[number].panels,
                                     n * pairs + begin * lanes[single_precision](sums))
        stride = pairs * width
        for k in range(pairs):
            first = k * width
            if PAIR_FLOATS == 1 and rows >= across:
                for j in range(across):
                    kept[j] = load[single_precision](panel, first + j * lanes[single_precision](sums))
                for r in range(rows):
                    # clang 16 cannot compile the dot product of a vector that it would load as such
                    factor = keep[single_precision](each[single_precision](a, r * a_row + k * a_pair))
                    for j in range(across):
                        sums[r * across + j] = add_pairs[single_precision](factor, kept[j], sums[r * across + j])
            elif PAIR_FLOATS == 1:
                for r in range(rows):
                    kept[r] = keep[single_precision](each[single_precision](a, r * a_row + k * a_pair))
                for j in range(across):
                    place = first + j // ACROSS * stride + j % ACROSS * lanes[single_precision](sums)
                    weight = keep[single_precision](load[single_precision](panel, place))
                    for r in range(rows):
                        sums[r * across + j] = add_pairs[single_precision](kept[r], weight, sums[r * across + j])
            elif rows >= across:
                for j in range(across):
                    kept[j] = second_of[single_precision](
                        load[single_precision](panel, first + j * lanes[single_precision](sums))
                    )
                for r in range(rows):
                    factor = each[single_precision](a, r * a_row + k * a_pair + second)
                    for j in range(across):
                        sums[r * across + j] = fma[single_precision](factor, kept[j], sums[r * across + j])
                for j in range(across):
                    kept[j] = first_of[single_precision](
                        load[single_precision](panel, first + j * lanes[single_precision](sums))
                    )
                for r in range(rows):
                    factor = each[single_precision](a, r * a_row + k * a_pair)
                    for j in range(across):
                        sums[r * across + j] = fma[single_precision](factor, kept[j], sums[r * across + j])
            else:
                for r in range(rows):
                    kept[2 * r] = each[single_precision](a, r * a_row + k * a_pair)
                    kept[2 * r + 1] = each[single_precision](a, r * a_row + k * a_pair + second)
                for j in range(across):
                    place = first + j // ACROSS * stride + j % ACROSS * lanes[single_precision](sums)
                    weight = keep[single_precision](load[single_precision](panel, place))
                    for r in range(rows):
                        sums[r * across + j] = fma[single_precision](
                            kept[2 * r], first_of[single_precision](weight),
                            fma[single_precision](kept[2 * r + 1], second_of[single_precision](weight),
                                                  sums[r * across + j])
                        )


cdef inline void halves_of_tile(int rows, const Product* products, int count, Py_ssize_t row, Py_ssize_t n,
                                const single_precision* begin, Py_ssize_t begin_row, single_precision* c,
                                Py_ssize_t c_row) noexcept nogil:
    """`tile` of one panel in bf16, one half of the columns after the other; inlined with constant rows.

    In 16 registers, six rows by two vectors need half as many widened weights as three rows by four, and no more
    registers for them: three by four took 1.45 times as long (Zen 3).
    """
    cdef single_precision[MOST_ROWS * ACROSS] sums
    cdef int half, r, j, across = ACROSS // 2
    for half in range(2):
        for r in range(rows):
            for j in range(across):
                sums[r * across + j] = load[single_precision](
                    begin, r * begin_row + (half * across + j) * lanes[single_precision](c)
                )
        sum_pairs[single_precision](rows, across, False, products, count, row, n, half * across, &sums[0])
        for r in range(rows):
            for j in range(across):
                store[single_precision](c, r * c_row + (half * across + j) * lanes[single_precision](c),
                                        sums[r * across + j])


cdef void round_factors(Py_ssize_t rows, Py_ssize_t K, const float* a, Py_ssize_t a_row,
                        float* factors) noexcept nogil:
    """Round rows of K numbers, `a_row` apart, for the left side of a product; rows are then factors_row apart."""
    cdef Py_ssize_t row, k, left, out_row = factors_row(K)
    cdef v32[2] line
    for row in range(rows):
        k = 0
        while k + LANES32 <= K:
            store_factors(factors + k * PAIR_FLOATS // 2, load[v32](<const v32*>a, k))
            k += LANES32
        left = K - k
        if left > 0:
            store_factors(<float*>&line[0], load_some[v32](<const v32*>a, k, left))
            memcpy(factors + k * PAIR_FLOATS // 2, line, (out_row - k * PAIR_FLOATS // 2) * sizeof(float))
        elif K % 2:
            factors[K] = 0  # vectors of one number
        a += a_row
        factors += out_row


cdef Py_ssize_t factors_row(Py_ssize_t K) noexcept nogil:
    """The floats of a row of a left side."""
    return pairs_of(K) * PAIR_FLOATS


cdef inline unsigned int bf16_bits(float_or_bf16 x) noexcept nogil:
    """The bits of a number in bf16, as it is or rounded."""
    if float_or_bf16 is float:
        return bits_of(round_float(x)) >> 16
    else:
        return x


cdef inline unsigned int pair_at(const float_or_bf16* matrix, Py_ssize_t k, Py_ssize_t K,
                                 Py_ssize_t k_step) noexcept nogil:
    """The pair of a column that begins at k, an even number."""
    cdef unsigned int low = bf16_bits[float_or_bf16](matrix[k * k_step])
    return low | bf16_bits[float_or_bf16](matrix[(k + 1) * k_step]) << 16 if k + 1 < K else low


cdef inline void pack_pair_columns(Py_ssize_t K, Py_ssize_t given, int columns, const float_or_bf16* matrix,
                                   Py_ssize_t k_step, Py_ssize_t n_step, int width,
                                   unsigned int* panel) noexcept nogil:
    """`pack_columns` in pairs."""
    cdef Py_ssize_t k, first = 0, last
    cdef int j
    while first < K:
        last = min(first + BLOCK, K) if k_step == 1 else min(first + 2, K)
        for j in range(columns):
            for k in range(first, last, 2):
                panel[k // 2 * width + j] = (
                    pair_at[float_or_bf16](matrix + j * n_step, k, K, k_step) if j < given else 0
                )
        first = last


cdef inline void pack_rows(Py_ssize_t K, Py_ssize_t N, const float* matrix, Py_ssize_t k_step,
                           float* panels) noexcept nogil:
    """Pack a (K, N) matrix of which each k is contiguous, whole vectors at a time."""
    cdef Py_ssize_t n = 0, k, j, left
    cdef const v32* row
    cdef v32 first, second
    cdef int width
    while n < N:
        width = columns_at[float](n, N, NULL)
        for k in range(0, K, 2):
            row = <const v32*>(matrix + k * k_step + n)
            j = 0
            while j < width:
                left = max(N - n - j, 0)
                first = load_some[v32](row, j, left)
                second = all_of[v32](first, 0)
                if k + 1 < K:
                    second = load_some[v32](row, k_step + j, left)
                store_some[v32](<v32*>panels, j, width - j, pair_of(round_v32(first), round_v32(second)))
                j += LANES32
            panels += width
        n += width


cdef void pack_bf16(Py_ssize_t K, Py_ssize_t N, const float* matrix, const unsigned short* narrow, Py_ssize_t k_step,
                    Py_ssize_t n_step, float* panels) noexcept nogil:
    """Pack a (K, N) matrix, of floats that are rounded or, if `matrix` is NULL, of bf16; see `pack`."""
    cdef int width
    cdef Py_ssize_t n = 0, start
    if matrix != NULL and n_step == 1:
        pack_rows(K, N, matrix, k_step, panels)
        return
    while n < N:
        width = columns_at[float](n, N, NULL)
        start = n * n_step
        if matrix != NULL:
            pack_pair_columns[float](K, N - n, width, matrix + start, k_step, n_step, width, <unsigned int*>panels)
        else:
            pack_pair_columns[ushort](K, N - n, width, narrow + start, k_step, n_step, width, <unsigned int*>panels)
        panels += pairs_of(K) * width
        n += width


cdef void pack_gates_bf16(Py_ssize_t K, Py_ssize_t H, const float* matrix, const unsigned short* narrow,
                          Py_ssize_t k_step, Py_ssize_t n_step, float* panels) noexcept nogil:
    """The same for a (K, 4H) matrix with its gates interleaved; see `pack_gates`."""
    cdef int width, units, gate
    cdef Py_ssize_t unit = 0, start
    cdef unsigned int* panel
    while unit < H:
        width = columns_at[float](4 * unit, 4 * H, NULL)
        units = width // 4
        for gate in range(4):
            start = (gate * H + unit) * n_step
            panel = <unsigned int*>panels + gate * units
            if matrix != NULL:
                pack_pair_columns[float](K, H - unit, units, matrix + start, k_step, n_step, width, panel)
            else:
                pack_pair_columns[ushort](K, H - unit, units, narrow + start, k_step, n_step, width, panel)
        panels += pairs_of(K) * width
        unit += units


cdef void pack_strips_bf16(Py_ssize_t K, Py_ssize_t M, const float* a, Py_ssize_t a_step, float* strips) noexcept nogil:
    """Pack a (K, M), whose rows are `a_step` apart, in strips of PAIR_ROWS columns; missing ones become 0."""
    cdef float[2 * (OUTER_ROWS + 2 * MOST_ROWS)] pair  # the rows of two k, rounded, then zeros
    cdef float* second = pair + OUTER_ROWS + 2 * MOST_ROWS
    cdef Py_ssize_t k, m, pairs = pairs_of(K)
    cdef float* target
    cdef int r
    memset(pair, 0, sizeof(pair))
    for k in range(0, K, 2):
        round_row(M, a, pair)
        if k + 1 < K:
            round_row(M, a + a_step, second)
        else:
            memset(second, 0, M * sizeof(float))
        target = strips + k // 2 * PAIR_ROWS * PAIR_FLOATS
        m = 0
        while m < M:
            if PAIR_FLOATS == 2 and PAIR_ROWS > 2 and k + 2 < K:
                # one move for the rows of each k; what is copied too much the next moves overwrite
                memcpy(target, pair + m, MOVED * sizeof(float))
                memcpy(target + PAIR_ROWS, second + m, MOVED * sizeof(float))
            else:
                for r in range(PAIR_ROWS):
                    if PAIR_FLOATS == 2:
                        target[r] = pair[m + r]
                        target[PAIR_ROWS + r] = second[m + r]
                    else:
                        target[r] = float_of(bits_of(pair[m + r]) >> 16 | bits_of(second[m + r]))
            target += pairs * PAIR_ROWS * PAIR_FLOATS
            m += PAIR_ROWS
        a += 2 * a_step


cdef inline void round_row(Py_ssize_t n, const float* row, float* rounded) noexcept nogil:
    cdef Py_ssize_t k = 0
    while k < n:
        store_some[v32](<v32*>rounded, k, n - k, round_v32(load_some[v32](<const v32*>row, k, n - k)))
        k += LANES32


cdef void add_outer_bf16(Py_ssize_t K, Py_ssize_t M, Py_ssize_t N, const float* a, Py_ssize_t a_step, const float* b,
                         float* space, float* c, float* rest) noexcept nogil:
    """`add_outer` with a and b rounded to bf16."""
    cdef float* panels = space + PART_ROWS * OUTER_ROWS
    cdef Py_ssize_t rows, some, first
    while K > 0:
        rows = min(K, <Py_ssize_t>PART_ROWS)
        pack_rows(rows, N, b, N, panels)
        first = 0
        while first < M:
            some = min(M - first, <Py_ssize_t>OUTER_ROWS)
            pack_strips_bf16(rows, some, a + first, a_step, space)
            outer_strips[float](True, rows, some, N, space, panels, c + first * N,
                                NULL if rest == NULL else rest + first * N)
            first += some
        a += rows * a_step
        b += rows * N
        K -= rows
