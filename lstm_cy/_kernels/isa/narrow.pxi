# Products with int8 weights for one instruction set. The rest of the arithmetic stays in float32.
#
# As in tiles.pxi a matrix is in panels of columns and a tile of the result stays in registers over all k. Here a panel
# has NARROW_PANEL columns for any instruction set, in one part or several, each as wide as a tile. One row alone takes
# several panels or parts in one pass: with a quarter of the bytes for each multiply-add it must keep more chains of
# additions going to use them as fast as they come.
#
# A row a of the factor is quantised on the fly, by its own largest element alone, hence always alike:
#     scale = max |a| / 127, q = round(a / scale), c += scale * scale_of_column * (sum over k of q * weight).
# The sum is exact. Some processors multiply unsigned by signed bytes: there it works on q + INT8_OFFSET, and the sums
# start at -INT8_OFFSET * (sum over k of weight). Rows are taken in segments of at most SEGMENT elements, each with a
# scale of its own.

cdef extern from "vector.h":
    const int INT8_OFFSET "LSTM_CY_INT8_OFFSET"
    ctypedef int i32 "lstm_cy_i32"
    i32 load_i32 "lstm_cy_load_i32"(const void*) noexcept nogil
    i32 add_fours "lstm_cy_add_fours"(i32, const unsigned char*, const char*) noexcept nogil
    v32 floats_of "lstm_cy_floats_of"(i32) noexcept nogil

cdef enum:
    NARROW_PANEL = 64        # columns
    SEGMENT = 4096           # its largest sum, 4096 * 255 * 128, is far from 2^31
    QUANTISED_BYTES = 32768  # of the quantised rows that are worked on together
    QUANTISED_ROWS = 256
    # Bits of floats: 2^-100, below which a row's largest element counts as zero, for 127 divided by it must be finite
    SMALLEST = 0x0d800000
    INFINITE = 0x7f800000
    NOT_A_NUMBER = 0x7fc00000


cdef inline int parts_of_panel() noexcept nogil:
    """The parts of a panel, each as wide as a tile in int8."""
    return NARROW_PANEL // (ACROSS * LANES32)


cdef inline int panels_together() noexcept nogil:
    """The panels that a lone row takes in a pass."""
    return max(1, ROW_PANELS // parts_of_panel())


cdef inline Py_ssize_t fours(Py_ssize_t K) noexcept nogil:
    return (K + 3) // 4


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
                    weights[k // 4 * 4 * NARROW_PANEL + 4 * j + k % 4] = weight
                    total += weight
                (<int*>segment)[j] = -INT8_OFFSET * total
                (<float*>segment)[NARROW_PANEL + j] = scales[n + j] if n + j < N else 0
            segment += int8_segment(length)
            first += SEGMENT
        n += NARROW_PANEL


cdef inline void int8_tile(int rows, int parts, Py_ssize_t K, const unsigned char* a, const float* scales,
                           const char* panel, Py_ssize_t stride, float* c, Py_ssize_t c_row) noexcept nogil:
    """c += a times a segment of so many parts of panels, `stride` bytes apart; inlined with constant rows and parts."""
    cdef i32[MOST_ROWS * ACROSS] sums
    cdef const char* columns
    cdef v32 scale
    cdef v32* target = <v32*>c
    cdef Py_ssize_t four
    cdef int r, j, each_panel = NARROW_PANEL // LANES32, across = parts * ACROSS
    for j in range(across):
        for r in range(rows):
            sums[r * across + j] = load_i32(panel + j // each_panel * stride + j % each_panel * LANES32 * 4)
    for four in range(fours(K)):
        for j in range(across):
            columns = panel + j // each_panel * stride + NARROW_PANEL * (8 + 4 * four) + j % each_panel * LANES32 * 4
            for r in range(rows):
                sums[r * across + j] = add_fours(sums[r * across + j], a + 4 * (r * fours(K) + four), columns)
    for j in range(across):
        columns = panel + j // each_panel * stride + NARROW_PANEL * 4 + j % each_panel * LANES32 * 4
        for r in range(rows):
            scale = each[v32](<const v32*>scales, r) * load[v32](<const v32*>columns, 0)
            store[v32](target, r * c_row + j * LANES32,
                       load[v32](target, r * c_row + j * LANES32) + floats_of(sums[r * across + j]) * scale)


# The left side of a product, and the panels of its right side.
ctypedef struct Narrow:
    Py_ssize_t K           # of the segment
    const char* a
    Py_ssize_t a_row       # bytes from row to row
    const float* scales    # of the rows
    const char* panels
    Py_ssize_t stride      # bytes from panel to panel


cdef inline void int8_parts(int rows, int together, int parts, const Narrow* given, Py_ssize_t row, Py_ssize_t panel,
                            float* c, Py_ssize_t c_row) noexcept nogil:
    """Some rows and all parts of panels, in tiles of `together` parts; inlined with constant rows and `together`."""
    cdef const unsigned char* a = <const unsigned char*>given.a + row * given.a_row
    cdef const char* first = given.panels + panel * given.stride
    cdef int columns = together * ACROSS * LANES32
    while parts > 0:
        int8_tile(rows, together, given.K, a, given.scales + row, first, given.stride, c, c_row)
        first += 4 * columns
        c += columns
        parts -= together


cdef void int8_tiles(int rows, int panels, const Narrow* given, Py_ssize_t row, Py_ssize_t panel, float* c,
                     Py_ssize_t c_row) noexcept nogil:
    """Some rows and so many panels, in tiles whose size is constant: one kernel for each."""
    cdef int parts = panels * parts_of_panel()
    if rows == 1 and parts >= ROW_PANELS:
        int8_parts(1, ROW_PANELS, parts, given, row, panel, c, c_row)
    elif rows == 1:
        int8_parts(1, 1, parts, given, row, panel, c, c_row)
    elif rows == 2:
        int8_parts(2, 1, parts, given, row, panel, c, c_row)
    elif rows == 3:
        int8_parts(3, 1, parts, given, row, panel, c, c_row)
    elif TILE_ROWS > 3 and rows == 4:
        int8_parts(4, 1, parts, given, row, panel, c, c_row)
    elif TILE_ROWS > 4 and rows == 5:
        int8_parts(5, 1, parts, given, row, panel, c, c_row)
    elif TILE_ROWS > 4:
        int8_parts(6, 1, parts, given, row, panel, c, c_row)


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
            height = next_height(rows - row, TILE_ROWS)
            some_columns(height, <int>min(each, count - panel), given, row, panel, N - n, c + row * N + n, N)
            row += height


cdef float quantise(Py_ssize_t K, const float* a, unsigned char* quantised) noexcept nogil:
    """q + INT8_OFFSET for the K elements of a row, filled up to a multiple of four; returns the scale.

    Of a row with NaN or infinity in it the scale is NaN, and so will be all that is computed from it.
    """
    cdef float[BLOCK] block
    cdef unsigned int[BLOCK] largest
    cdef unsigned char[BLOCK] bytes
    cdef unsigned int bits, most = 0
    cdef float scale, inverse, shift = <float>12582912.0 + INT8_OFFSET  # 1.5 * 2^23, and the offset
    cdef Py_ssize_t start = 0
    cdef int u
    memset(largest, 0, sizeof(largest))
    while start < K:
        load_block[float](block, a + start, K - start)
        for u in range(BLOCK):  # the bits of floats without a sign are in the order of their values, NaN the last
            bits = bits_of(block[u]) & <unsigned int>0x7fffffff
            largest[u] = bits if bits > largest[u] else largest[u]
        start += BLOCK
    for u in range(BLOCK):
        most = largest[u] if largest[u] > most else most
    if most >= INFINITE:
        memset(quantised, INT8_OFFSET, 4 * fours(K))
        return float_of(NOT_A_NUMBER)
    if most < SMALLEST:
        memset(quantised, INT8_OFFSET, 4 * fours(K))
        return 0
    scale = float_of(most) / <float>127
    inverse = <float>127 / float_of(most)
    start = 0
    while start < K:
        load_block[float](block, a + start, K - start)
        for u in range(BLOCK):  # the sum rounds to whole numbers, which then stand in the low bits
            bytes[u] = <unsigned char>bits_of(block[u] * inverse + shift)
        memcpy(quantised + start, bytes, min(4 * fours(K) - start, BLOCK))
        start += BLOCK
    return scale


cdef void multiply_int8(Py_ssize_t rows, Py_ssize_t K, Py_ssize_t N, const float* a, const void* panels, float* c,
                        bint descending) noexcept nogil:
    """c (rows, N) += a (rows, K) times the packed (K, N), by integer products of a quantised row by row."""
    cdef unsigned char[QUANTISED_BYTES] quantised
    cdef float[QUANTISED_ROWS] scales
    cdef Narrow given = Narrow(0, <const char*>quantised, 0, NULL, <const char*>panels, int8_panel(K))
    cdef Py_ssize_t first = 0, row, some, r
    given.scales = scales
    while first < K:
        given.K = min(K - first, SEGMENT)
        given.a_row = 4 * fours(given.K)
        row = 0
        while row < rows:
            some = min(rows - row, QUANTISED_BYTES // given.a_row, QUANTISED_ROWS)
            for r in range(some):
                scales[r] = quantise(given.K, a + (row + r) * K + first, quantised + r * given.a_row)
            all_tiles(&given, some, N, c + row * N, descending)
            row += some
        given.panels += int8_segment(given.K)
        first += given.K
