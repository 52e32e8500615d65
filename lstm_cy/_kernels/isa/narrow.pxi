# Products with int8 weights for one instruction set. The rest of the arithmetic stays in float32.
#
# As in tiles.pxi a matrix is in panels of columns and a tile of the result stays in registers over all k. Here a panel
# has NARROW_PANEL columns for any instruction set, in one part or several, each as wide as a tile. One row alone takes
# several panels or parts in one pass: with a quarter of the bytes for each multiply-add it must keep more chains of
# additions going to use them as fast as they come.
#
# A row a of the factor is quantised on the fly, by its own largest element alone, hence always alike:
#     scale = max |a| / 127, q = round(a / scale), c += scale * scale_of_column * (sum over k of q * weight).
# The sum is exact. How a processor makes it, and which bytes of a panel and of a row that needs, is in vector.h. Rows
# are taken in segments of at most SEGMENT elements, each with a scale of its own.

cdef extern from "vector.h":
    const bint INT8_PAIRS "LSTM_CY_INT8_PAIRS"
    const int INT8_OFFSET "LSTM_CY_INT8_OFFSET"
    const int INT8_ROWS "LSTM_CY_INT8_ROWS"
    const int INT8_ACROSS "LSTM_CY_INT8_ACROSS"
    ctypedef int i32 "lstm_cy_i32"
    i32 load_i32 "lstm_cy_load_i32"(const void*) noexcept nogil
    i32 each_i32 "lstm_cy_each_i32"(const void*) noexcept nogil
    i32 keep_i32 "lstm_cy_keep_i32"(i32) noexcept nogil
    i32 low_of "lstm_cy_low_i32"(i32) noexcept nogil
    i32 high_of "lstm_cy_high_i32"(i32) noexcept nogil
    i32 factor_of "lstm_cy_factor"(const void*) noexcept nogil
    i32 add_fours "lstm_cy_add_fours"(i32, i32, i32, i32, i32) noexcept nogil
    const bint INT8_BYTES "LSTM_CY_INT8_BYTES"
    i32 add_bytes "lstm_cy_add_bytes"(i32, i32, i32) noexcept nogil
    int list_fours "lstm_cy_list_fours"(int*, int, const int*, int, int) noexcept nogil
    i32 larger "lstm_cy_larger"(i32, v32) noexcept nogil
    i32 whole_of "lstm_cy_whole"(v32) noexcept nogil
    i32 store_fours "lstm_cy_store_fours"(void*, i32) noexcept nogil
    v32 floats_of "lstm_cy_floats_of"(i32) noexcept nogil

cdef enum:
    NARROW_PANEL = 64        # columns
    SEGMENT = 4096           # its largest sum, 4096 * 255 * 128, is far from 2^31
    QUANTISED_BYTES = 32768  # of the quantised rows that are worked on together
    QUANTISED_INTS = 8192    # the same
    QUANTISED_ROWS = 256
    MOST_LANES = 16          # of a vector
    # Bits of floats: 2^-100, below which a row's largest element counts as zero, for 127 divided by it must be finite
    SMALLEST = 0x0d800000
    INFINITE = 0x7f800000
    NOT_A_NUMBER = 0x7fc00000


cdef inline int panel_vectors() noexcept nogil:
    """The vectors of a panel."""
    return NARROW_PANEL // LANES32


cdef inline int panels_together() noexcept nogil:
    """The panels that a lone row takes in a pass."""
    return max(1, ROW_PANELS * ACROSS // panel_vectors())


cdef inline Py_ssize_t fours(Py_ssize_t K) noexcept nogil:
    return (K + 3) // 4


cdef inline int four_bytes() noexcept nogil:
    """The bytes of four numbers of a quantised row."""
    return 8 if INT8_PAIRS else 4


cdef inline Py_ssize_t panel_count(Py_ssize_t N) noexcept nogil:
    return (N + NARROW_PANEL - 1) // NARROW_PANEL


cdef inline Py_ssize_t int8_segment(Py_ssize_t K) noexcept nogil:
    """The bytes of a segment of a panel: where sums start, the columns' scales, the weights, four k side by side."""
    return NARROW_PANEL * (8 + 4 * fours(K))


cdef inline Py_ssize_t int8_panel(Py_ssize_t K) noexcept nogil:
    """The bytes of a panel: its segments, one behind the other."""
    return K // SEGMENT * int8_segment(SEGMENT) + (int8_segment(K % SEGMENT) if K % SEGMENT else 0)


cdef Py_ssize_t int8_bytes(Py_ssize_t K, Py_ssize_t N) noexcept nogil:
    """The bytes of the panels of a (K, N) matrix in int8."""
    return panel_count(N) * int8_panel(K)


cdef void pack_int8(Py_ssize_t K, Py_ssize_t N, const signed char* values, const float* scales,
                    void* panels) noexcept nogil:
    """Pack a (K, N) matrix, given as its transpose (N, K) of int8 with a scale for each column of the matrix."""
    cdef char* segment = <char*>panels
    cdef signed char* weights
    cdef Py_ssize_t n = 0, first, length, k
    cdef int j, total, weight
    while n < N:
        first = 0
        while first < K:
            length = min(K - first, SEGMENT)
            weights = <signed char*>segment + 8 * NARROW_PANEL
            for j in range(NARROW_PANEL):
                total = 0
                for k in range(4 * fours(length)):
                    weight = values[(n + j) * K + first + k] if n + j < N and k < length else 0
                    total += weight
                    weights[k // 4 * 4 * NARROW_PANEL + 4 * j + k % 4] = <signed char>(
                        weight ^ 128 if INT8_PAIRS else weight  # the byte of weight + 128
                    )
                (<int*>segment)[j] = -INT8_OFFSET * total
                (<float*>segment)[NARROW_PANEL + j] = scales[n + j] if n + j < N else 0
            segment += int8_segment(length)
            first += SEGMENT
        n += NARROW_PANEL


# The left side of a product, and the panels of its right side.
ctypedef struct Narrow:
    Py_ssize_t K           # of the segment
    const char* a
    Py_ssize_t a_row       # bytes from row to row
    const float* scales    # of the rows
    const int* starts      # of the rows' sums, with INT8_PAIRS
    int listed             # the length of a lone row's list in `a`, 0 if it is not a list
    const char* panels
    Py_ssize_t stride      # bytes from panel to panel


cdef inline void int8_tile(int rows, int across, const Narrow* given, Py_ssize_t row, const char* panel, float* c,
                           Py_ssize_t c_row) noexcept nogil:
    """c += some rows times `across` vectors of a segment of panels; inlined with constant rows and `across`.

    Of the weights and the factors of four k the fewer ones stay in registers while the others pass.
    """
    cdef i32[MOST_ROWS * ACROSS] sums
    cdef i32[MOST_ROWS * ACROSS] kept, second
    cdef i32 weight, high
    cdef const char* columns
    cdef const char* a = given.a + row * given.a_row
    cdef Py_ssize_t four
    cdef int r, j
    for j in range(across):
        columns = panel + j // panel_vectors() * given.stride + j % panel_vectors() * LANES32 * 4
        for r in range(rows):
            sums[r * across + j] = each_i32(given.starts + row + r) if INT8_PAIRS else load_i32(columns)
    for four in range(fours(given.K)):
        columns = panel + NARROW_PANEL * (8 + 4 * four)
        if rows >= across:
            for j in range(across):
                kept[j] = low_of(
                    load_i32(columns + j // panel_vectors() * given.stride + j % panel_vectors() * LANES32 * 4)
                )
                second[j] = high_of(kept[j])
            for r in range(rows):
                weight = factor_of(a + r * given.a_row + four_bytes() * four)
                high = factor_of(a + r * given.a_row + four_bytes() * four + four_bytes() - 4)
                for j in range(across):
                    sums[r * across + j] = add_fours(sums[r * across + j], weight, high, kept[j], second[j])
        else:
            for r in range(rows):
                kept[r] = factor_of(a + r * given.a_row + four_bytes() * four)
                second[r] = factor_of(a + r * given.a_row + four_bytes() * four + four_bytes() - 4)
            for j in range(across):
                weight = keep_i32(
                    load_i32(columns + j // panel_vectors() * given.stride + j % panel_vectors() * LANES32 * 4)
                )
                weight = low_of(weight)
                high = high_of(weight)
                for r in range(rows):
                    sums[r * across + j] = add_fours(sums[r * across + j], kept[r], second[r], weight, high)
    add_scaled(rows, across, given, row, panel, sums, c, c_row)


cdef inline void listed_tile(int across, const Narrow* given, const char* panel, float* c) noexcept nogil:
    """`int8_tile` for a lone row whose numbers are a list of (place, four bytes)."""
    cdef i32[MOST_ROWS * ACROSS] sums
    cdef i32 factor
    cdef const int* entry = <const int*>given.a
    cdef const int* end = entry + 2 * given.listed
    cdef const char* columns
    cdef int j
    for j in range(across):
        sums[j] = each_i32(given.starts)
    while entry < end:
        columns = panel + 8 * NARROW_PANEL + entry[0]
        factor = factor_of(entry + 1)
        for j in range(across):
            sums[j] = add_bytes(
                sums[j],
                load_i32(columns + j // panel_vectors() * given.stride + j % panel_vectors() * LANES32 * 4), factor
            )
        entry += 2
    add_scaled(1, across, given, 0, panel, sums, c, 0)


cdef inline void add_scaled(int rows, int across, const Narrow* given, Py_ssize_t row, const char* panel,
                            const i32* sums, float* c, Py_ssize_t c_row) noexcept nogil:
    """c += a tile's sums, scaled; inlined with constant rows and `across`."""
    cdef const char* columns
    cdef v32* target = <v32*>c
    cdef v32 scale
    cdef int r, j
    for j in range(across):
        columns = panel + j // panel_vectors() * given.stride + NARROW_PANEL * 4 + j % panel_vectors() * LANES32 * 4
        for r in range(rows):
            scale = each[v32](<const v32*>given.scales, row + r) * load[v32](<const v32*>columns, 0)
            store[v32](target, r * c_row + j * LANES32,
                       load[v32](target, r * c_row + j * LANES32) + floats_of(sums[r * across + j]) * scale)


cdef inline void int8_vectors(int rows, int across, int vectors, const Narrow* given, Py_ssize_t row, Py_ssize_t panel,
                              float* c, Py_ssize_t c_row) noexcept nogil:
    """Some rows and vectors of panels, in tiles of `across` vectors; inlined with constant rows and `across`."""
    cdef const char* first = given.panels + panel * given.stride
    while vectors > 0:
        if INT8_BYTES and rows == 1 and given.listed:
            listed_tile(across, given, first, c)
        else:
            int8_tile(rows, across, given, row, first, c, c_row)
        first += 4 * across * LANES32
        c += across * LANES32
        vectors -= across


cdef void int8_tiles(int rows, int panels, const Narrow* given, Py_ssize_t row, Py_ssize_t panel, float* c,
                     Py_ssize_t c_row) noexcept nogil:
    """Some rows and so many panels, in tiles whose size is constant: one kernel for each."""
    cdef int vectors = panels * panel_vectors()
    if rows == 1 and vectors >= ROW_PANELS * ACROSS:
        int8_vectors(1, ROW_PANELS * ACROSS, vectors, given, row, panel, c, c_row)
    elif rows == 1:
        int8_vectors(1, ACROSS, vectors, given, row, panel, c, c_row)
    elif rows == 2:
        int8_vectors(2, ACROSS, vectors, given, row, panel, c, c_row)
    elif rows == 3:
        int8_vectors(3, ACROSS, vectors, given, row, panel, c, c_row)
    elif INT8_ROWS > 3 and rows == 4:
        int8_vectors(4, INT8_ACROSS, vectors, given, row, panel, c, c_row)
    elif INT8_ROWS > 4 and rows == 5:
        int8_vectors(5, INT8_ACROSS, vectors, given, row, panel, c, c_row)
    elif INT8_ROWS > 4:
        int8_vectors(6, INT8_ACROSS, vectors, given, row, panel, c, c_row)


cdef inline void some_columns(int rows, int panels, const Narrow* given, Py_ssize_t row, Py_ssize_t panel,
                              Py_ssize_t columns, float* c, Py_ssize_t c_row) noexcept nogil:
    """So many panels but only `columns` columns: where they do not fill the panels, they are made aside."""
    cdef float[MOST_ROWS * NARROW_PANEL] whole  # several panels: of a lone row only
    cdef Py_ssize_t width = panels * NARROW_PANEL
    cdef int r
    if columns >= width:
        int8_tiles(rows, panels, given, row, panel, c, c_row)
        return
    memset(whole, 0, rows * width * sizeof(float))
    for r in range(rows):
        memcpy(whole + r * width, c + r * c_row, columns * sizeof(float))
    int8_tiles(rows, panels, given, row, panel, whole, width)
    for r in range(rows):
        memcpy(c + r * c_row, whole + r * width, columns * sizeof(float))


cdef void all_tiles(const Narrow* given, Py_ssize_t rows, Py_ssize_t N, float* c, bint descending) noexcept nogil:
    """c (rows, N) += the product, as `multiply` goes about it."""
    cdef int each = panels_together() if rows == 1 else 1, height
    cdef Py_ssize_t count = panel_count(N), passes = (count + each - 1) // each, turn, panel, n, row
    for turn in range(passes):
        panel = (passes - 1 - turn if descending else turn) * each
        n = panel * NARROW_PANEL
        row = 0
        while row < rows:
            height = next_height(rows - row, INT8_ROWS)
            some_columns(height, <int>min(each, count - panel), given, row, panel, N - n, c + row * N + n, N)
            row += height


cdef inline int largest_bits(Py_ssize_t K, const float* a) noexcept nogil:
    """The bits of the largest element of a row without its sign. They are in the order of the values, NaN the last."""
    cdef i32[1] largest
    cdef int bits = 0, lane
    cdef Py_ssize_t k = 0
    memset(largest, 0, sizeof(largest))
    while k < K:
        largest[0] = larger(largest[0], load_some[v32](<const v32*>a, k, K - k))
        k += LANES32
    for lane in range(LANES32):
        bits = max(bits, (<int*>largest)[lane])
    return bits


cdef inline int total_of(const i32* parts) noexcept nogil:
    """The sum of a vector's lanes."""
    cdef int total = 0, lane
    for lane in range(LANES32):
        total += (<const int*>parts)[lane]
    return total


cdef float quantise(Py_ssize_t K, const float* a, char* quantised, int* start) noexcept nogil:
    """Quantise the K elements of a row, for `factor_of`; return the scale, and in `start` what its sums start at.

    Whole vectors are written: up to MOST_LANES more numbers than a row's. Of a row with NaN or infinity in it the scale
    is NaN, and so will be all that is computed from it.
    """
    cdef i32[1] less
    cdef int bits = largest_bits(K, a)
    cdef Py_ssize_t k = 0
    cdef v32 inverse
    start[0] = 0
    if bits < SMALLEST or bits >= INFINITE:
        memset(quantised, INT8_OFFSET, four_bytes() * fours(K))
        return float_of(NOT_A_NUMBER) if bits >= INFINITE else <float>0
    inverse = all_v32(<float>127 / float_of(bits))
    memset(less, 0, sizeof(less))
    while k < K:
        less[0] = less[0] + store_fours(quantised + k // 4 * four_bytes() + k % 4,
                                        whole_of(load_some[v32](<const v32*>a, k, K - k) * inverse))
        k += LANES32
    if INT8_PAIRS:
        start[0] = -total_of(less)
    return float_of(bits) / <float>127


cdef int list_row(Py_ssize_t K, const float* a, int* listed, int* start, float* scale) noexcept nogil:
    """Quantise a lone row for `listed_tile`; return the length of the list, 0 if `quantise` must do it.

    That is where so many numbers are large that their halves would make the list much longer than the row.
    """
    cdef i32[1] numbers, total
    cdef int bits = largest_bits(K, a), length = 0, lane
    cdef Py_ssize_t k = 0
    cdef v32 inverse
    if bits < SMALLEST or bits >= INFINITE:
        return 0
    inverse = all_v32(<float>127 / float_of(bits))
    scale[0] = float_of(bits) / <float>127
    memset(total, 0, sizeof(total))
    while k < K:
        numbers[0] = whole_of(load_some[v32](<const v32*>a, k, K - k) * inverse)
        total[0] = total[0] + numbers[0]
        for lane in range(0, LANES32, 8):
            length = list_fours(listed, length, <const int*>numbers + lane, <int>(k + lane) * NARROW_PANEL,
                                4 * NARROW_PANEL)
        k += LANES32
    length -= <int>(k // 4 - fours(K))  # the last ones, once each, have no weights
    start[0] = -128 * total_of(total)
    return length if 3 * length <= 4 * fours(K) else 0


cdef void multiply_int8(Py_ssize_t rows, Py_ssize_t K, Py_ssize_t N, const float* a, const void* panels, float* c,
                        bint descending) noexcept nogil:
    """c (rows, N) += a (rows, K) times the packed (K, N), by integer products of a quantised row by row."""
    cdef int[QUANTISED_INTS + MOST_LANES] quantised
    cdef float[QUANTISED_ROWS] scales
    cdef int[QUANTISED_ROWS] starts
    cdef char* line = <char*>quantised
    cdef Narrow given = Narrow(0, line, 0, <const float*>scales, <const int*>starts, 0, <const char*>panels,
                               int8_panel(K))
    cdef Py_ssize_t first = 0, row, some, r
    while first < K:
        given.K = min(K - first, SEGMENT)
        given.a_row = four_bytes() * fours(given.K)
        if INT8_BYTES and rows == 1:
            given.listed = list_row(given.K, a + first, quantised, starts, scales)
        row = 0
        while row < rows:
            some = min(rows - row, QUANTISED_BYTES // given.a_row, QUANTISED_ROWS)
            if given.listed == 0:
                for r in range(some):
                    scales[r] = quantise(given.K, a + (row + r) * K + first, line + r * given.a_row, starts + r)
            all_tiles(&given, some, N, c + row * N, descending)
            row += some
        given.panels += int8_segment(given.K)
        first += given.K
