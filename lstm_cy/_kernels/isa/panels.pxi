# Products with a matrix packed in panels, for one instruction set and both precisions.
#
# A panel holds PANEL columns of the matrix: all of them for k = 0, then for k = 1, and so on, so that a product reads
# it from front to back. The last panel is only BLOCK columns wide where that is enough. A tile of the result, some rows
# by one panel, stays in registers over all k: each vector of the panel is loaded once and used by every row of the
# tile. Every element of a result is one chain of additions in the order of k, for any tile: results do not depend on
# how many rows are computed together. Several products that add to one result go through their tiles together, one
# after the other along the same chain.

from ..table cimport PART_ROWS, Product, add_part

cdef extern from *:
    """
    /* Columns of a panel, and rows of the largest tile: as many accumulators as the registers hold. One row has too
       few of them to keep the processor busy while each waits for its last addition: it takes some panels together. */
    #if defined(__AVX512F__)
    #define LSTM_CY_PANEL32 64
    #define LSTM_CY_TILE_ROWS 6
    #define LSTM_CY_ROW_PANELS32 3
    #define LSTM_CY_ROW_PANELS64 3
    #elif defined(__AVX2__)
    #define LSTM_CY_PANEL32 32
    #define LSTM_CY_TILE_ROWS 2
    #define LSTM_CY_ROW_PANELS32 2
    #define LSTM_CY_ROW_PANELS64 1
    #else
    #define LSTM_CY_PANEL32 32
    #define LSTM_CY_TILE_ROWS 1
    #define LSTM_CY_ROW_PANELS32 1
    #define LSTM_CY_ROW_PANELS64 1
    #endif
    """
    const int PANEL32 "LSTM_CY_PANEL32"
    const int TILE_ROWS "LSTM_CY_TILE_ROWS"
    const int ROW_PANELS32 "LSTM_CY_ROW_PANELS32"
    const int ROW_PANELS64 "LSTM_CY_ROW_PANELS64"

cdef enum:
    PANEL64 = 32
    MOST_PANEL = 64
    MOST_WIDTH = 192
    MOST_ROWS = 6
    # Panels up to this size come from the L1 cache as fast as one row can use them, two at a time. From further away
    # they come faster one after the other.
    PAIRED_BYTES = 32768


cdef inline int panel_columns(real* precision) noexcept nogil:
    return PANEL32 if real is float else PANEL64


cdef inline int row_panels(real* precision) noexcept nogil:
    """The most panels that one row takes together."""
    return ROW_PANELS32 if real is float else ROW_PANELS64


cdef inline int columns_at(Py_ssize_t n, Py_ssize_t N, real* precision) noexcept nogil:
    """The columns of the panel that begins at column n of N."""
    return BLOCK if N - n <= BLOCK else panel_columns[real](NULL)


cdef inline void pack_columns(Py_ssize_t K, Py_ssize_t given, int columns, const real* matrix, Py_ssize_t k_step,
                              Py_ssize_t n_step, int width, real* panel) noexcept nogil:
    """Pack `given` columns of a matrix into some `columns` of a panel; the others become 0."""
    cdef Py_ssize_t k, first = 0
    cdef int j
    while k_step == 1 and first < K:  # columns are contiguous: a line of each at a time, so that none is read twice
        for j in range(columns):
            for k in range(first, min(first + BLOCK, K)):
                panel[k * width + j] = matrix[k + j * n_step] if j < given else 0
        first += BLOCK
    for k in range(first, K):
        for j in range(columns):
            panel[k * width + j] = matrix[k * k_step + j * n_step] if j < given else 0


cdef void pack(Py_ssize_t K, Py_ssize_t N, const real* matrix, Py_ssize_t k_step, Py_ssize_t n_step,
               real* panels) noexcept nogil:
    """Pack a (K, N) matrix, whose elements are `k_step` and `n_step` apart; missing columns of the last panel are 0."""
    cdef int width
    cdef Py_ssize_t n = 0
    while n < N:
        width = columns_at[real](n, N, NULL)
        pack_columns[real](K, N - n, width, matrix + n * n_step, k_step, n_step, width, panels)
        panels += K * width
        n += width


cdef void pack_gates(Py_ssize_t K, Py_ssize_t H, const real* matrix, Py_ssize_t k_step, Py_ssize_t n_step,
                     real* panels) noexcept nogil:
    """Pack a (K, 4H) matrix with its gates interleaved: a panel has some units' i, then their f, g and o."""
    cdef int width, units, gate
    cdef Py_ssize_t unit = 0
    while unit < H:
        width = columns_at[real](4 * unit, 4 * H, NULL)
        units = width // 4
        for gate in range(4):
            pack_columns[real](K, H - unit, units, matrix + (gate * H + unit) * n_step, k_step, n_step, width,
                               panels + gate * units)
        panels += K * width
        unit += units


cdef inline void sum_products(int rows, int width, int panel_width, const Product* products, int count,
                              Py_ssize_t row, Py_ssize_t n, real* sums) noexcept nogil:
    """Add the products to the tile: k is the outermost loop, so that every element is one chain.

    There is at least one product, of at least one k: the loops are written so that the sums do not go through memory in
    between. Behind whole panels there may be half of one, which gets on half as fast.
    """
    cdef const real* a
    cdef const real* panel
    cdef Py_ssize_t K, a_row, a_k, k, here
    cdef real factor
    cdef int number = 0, r, j, block
    while True:
        K = products[number].K
        a_row = products[number].a_row
        a_k = products[number].a_k
        a = <const real*>products[number].a + row * a_row
        panel = <const real*>products[number].panels + n * K
        k = 0
        while True:
            for r in range(rows):
                factor = a[r * a_row + k * a_k]
                # Loops of 64 trips spill at five and six rows; two of 32 do not.
                for block in range(width // BLOCK):
                    # in this panel, or in one of the next
                    here = block * BLOCK // panel_width * K * panel_width + block * BLOCK % panel_width
                    if width % panel_width != 0 and block == width // BLOCK - 1:
                        here -= k * BLOCK
                    for j in range(BLOCK):
                        sums[r * MOST_WIDTH + block * BLOCK + j] = fma[real](
                            factor, panel[here + j], sums[r * MOST_WIDTH + block * BLOCK + j])
            panel += panel_width
            k += 1
            if k == K:
                break
        number += 1
        if number == count:
            break


cdef inline void tile(int rows, int width, int panel_width, const Product* products, int count, Py_ssize_t row,
                      Py_ssize_t n, const real* begin, Py_ssize_t begin_row, real* c, Py_ssize_t c_row) noexcept nogil:
    """c = begin + the sum of the products, by `rows` rows from `row` on and `width` columns from `n` on.

    Inlined with rows and widths that are constants; the columns may be half a panel, a panel, or two.
    """
    cdef real[MOST_ROWS * MOST_WIDTH] sums
    cdef int r
    for r in range(rows):
        memcpy(sums + r * MOST_WIDTH, begin + r * begin_row, width * sizeof(real))
    sum_products[real](rows, width, panel_width, products, count, row, n, sums)
    for r in range(rows):
        memcpy(c + r * c_row, sums + r * MOST_WIDTH, width * sizeof(real))


cdef inline void tile_of_width(int rows, int width, int panel_width, const Product* products, int count,
                               Py_ssize_t row, Py_ssize_t n, const real* begin, Py_ssize_t begin_row, real* c,
                               Py_ssize_t c_row) noexcept nogil:
    """`tile` with the number of rows as a constant, one kernel for each."""
    if rows == 1:
        tile[real](1, width, panel_width, products, count, row, n, begin, begin_row, c, c_row)
    elif TILE_ROWS > 1 and rows == 2:
        tile[real](2, width, panel_width, products, count, row, n, begin, begin_row, c, c_row)
    elif TILE_ROWS > 2 and rows == 3:
        tile[real](3, width, panel_width, products, count, row, n, begin, begin_row, c, c_row)
    elif TILE_ROWS > 2 and rows == 4:
        tile[real](4, width, panel_width, products, count, row, n, begin, begin_row, c, c_row)
    elif TILE_ROWS > 2 and rows == 5:
        tile[real](5, width, panel_width, products, count, row, n, begin, begin_row, c, c_row)
    elif TILE_ROWS > 2:
        tile[real](6, width, panel_width, products, count, row, n, begin, begin_row, c, c_row)


cdef inline void tile_of(int rows, int width, const Product* products, int count, Py_ssize_t row, Py_ssize_t n,
                         const real* begin, Py_ssize_t begin_row, real* c, Py_ssize_t c_row) noexcept nogil:
    """`tile` with its width as a constant: two panels, one, or a last one of BLOCK columns."""
    cdef int panel = PANEL32 if real is float else PANEL64
    cdef bint pairs = row_panels[real](NULL) > 1
    if pairs and width == 2 * panel:
        tile[real](1, 2 * panel, panel, products, count, row, n, begin, begin_row, c, c_row)
    elif panel > BLOCK and width == BLOCK:
        tile_of_width[real](rows, BLOCK, BLOCK, products, count, row, n, begin, begin_row, c, c_row)
    else:
        tile_of_width[real](rows, panel, panel, products, count, row, n, begin, begin_row, c, c_row)


cdef inline int next_height(Py_ssize_t left, int most) noexcept nogil:
    """The rows of the next tile, of `most`, when `left` are to be done: tiles of nearly one size, such as 8 = 4 + 4."""
    cdef Py_ssize_t tiles = (left + most - 1) // most
    return <int>((left + tiles - 1) // tiles)


cdef inline void tile_at(int rows, Py_ssize_t columns, const Product* products, int count, Py_ssize_t row, Py_ssize_t n,
                         const real* begin, Py_ssize_t begin_row, real* c, Py_ssize_t c_row) noexcept nogil:
    """A tile of `columns` columns; it begins from zero if `begin` is NULL.

    Where that is no whole tile, it is made aside.
    """
    cdef real[MOST_ROWS * MOST_PANEL] aside
    cdef real* result = c
    cdef Py_ssize_t result_row = c_row
    cdef int width = BLOCK, r
    while width < columns:
        width *= 2
    if width != columns or begin == NULL:
        memset(aside, 0, sizeof(aside))
        if begin != NULL:
            for r in range(rows):
                memcpy(aside + r * MOST_PANEL, begin + r * begin_row, columns * sizeof(real))
        begin = result = aside
        begin_row = result_row = MOST_PANEL
    tile_of[real](rows, width, products, count, row, n, begin, begin_row, result, result_row)
    if result == aside:
        for r in range(rows):
            memcpy(c + r * c_row, aside + r * MOST_PANEL, columns * sizeof(real))


cdef inline bint paired(Py_ssize_t rows, Py_ssize_t N, const Product* products, int count,
                        real* precision) noexcept nogil:
    """Whether two panels are worked on together, to the end."""
    cdef bint possible = row_panels[real](NULL) > 1
    cdef Py_ssize_t K = products[0].K + (products[1].K if count > 1 else 0)
    cdef Py_ssize_t rest = N % (2 * panel_columns[real](NULL))
    possible = possible and (rest == 0 or rest > panel_columns[real](NULL) + BLOCK)
    return possible and rows == 1 and K * N * <Py_ssize_t>sizeof(real) <= PAIRED_BYTES


cdef void add_products(Py_ssize_t rows, Py_ssize_t N, const Product* products, int count, bint descending,
                       const real* begin, Py_ssize_t begin_row, real* c) noexcept nogil:
    """c (rows, N) = begin + the sum of the products. Each panel is read once and used for all rows."""
    cdef int width = panel_columns[real](NULL), height
    cdef Py_ssize_t n, done = 0, row, last
    if paired[real](rows, N, products, count, NULL):
        width *= 2
    last = (N - 1) // width * width
    while done <= last:
        n = last - done if descending else done
        row = 0
        while row < rows:
            height = next_height(rows - row, TILE_ROWS)
            tile_at[real](height, min(N - n, <Py_ssize_t>width), products, count, row, n,
                          begin if begin == NULL else begin + row * begin_row + n, begin_row, c + row * N + n, N)
            row += height
        done += width


cdef inline void outer_tile(int rows, int width, Py_ssize_t columns, const Product* product, Py_ssize_t row,
                            Py_ssize_t n, real* c, real* rest, Py_ssize_t N) noexcept nogil:
    """Add a part of a sum, a tile of a product, to c (rows, columns) and `rest`, whose rows are N apart.

    Inlined with rows and widths that are constants; there may be fewer columns than the width.
    """
    cdef real[MOST_ROWS * MOST_WIDTH] sums
    cdef int r
    for r in range(rows):
        memset(sums + r * MOST_WIDTH, 0, width * sizeof(real))
    sum_products[real](rows, width, width, product, 1, row, n, sums)
    for r in range(rows):
        add_part[real](width if columns >= width else columns, sums + r * MOST_WIDTH, c + r * N,
                       NULL if rest == NULL else rest + r * N)


cdef inline void outer_tile_of_width(int rows, int width, Py_ssize_t columns, const Product* product, Py_ssize_t row,
                                     Py_ssize_t n, real* c, real* rest, Py_ssize_t N) noexcept nogil:
    """`outer_tile` with the number of rows as a constant, one kernel for each."""
    if rows == 1:
        outer_tile[real](1, width, columns, product, row, n, c, rest, N)
    elif TILE_ROWS > 1 and rows == 2:
        outer_tile[real](2, width, columns, product, row, n, c, rest, N)
    elif TILE_ROWS > 2 and rows == 3:
        outer_tile[real](3, width, columns, product, row, n, c, rest, N)
    elif TILE_ROWS > 2 and rows == 4:
        outer_tile[real](4, width, columns, product, row, n, c, rest, N)
    elif TILE_ROWS > 2 and rows == 5:
        outer_tile[real](5, width, columns, product, row, n, c, rest, N)
    elif TILE_ROWS > 2:
        outer_tile[real](6, width, columns, product, row, n, c, rest, N)


cdef inline void outer_part(Py_ssize_t K, Py_ssize_t M, Py_ssize_t N, const real* a, Py_ssize_t a_step,
                            const real* panels, real* c, real* rest) noexcept nogil:
    """Add one part of an `add_outer`, whose b is packed.

    The rows of the result are the outer loop: `a` is read across, so what the cache holds of it is used for all of b
    before the next.
    """
    cdef Product product = Product(K, a, 1, a_step, panels)
    cdef int panel = PANEL32 if real is float else PANEL64, height
    cdef Py_ssize_t n, row = 0, here
    while row < M:
        height = next_height(M - row, TILE_ROWS)
        n = 0
        while n < N:
            here = row * N + n
            if panel > BLOCK and columns_at[real](n, N, NULL) == BLOCK:
                outer_tile_of_width[real](height, BLOCK, N - n, &product, row, n, c + here,
                                          NULL if rest == NULL else rest + here, N)
            else:
                outer_tile_of_width[real](height, panel, N - n, &product, row, n, c + here,
                                          NULL if rest == NULL else rest + here, N)
            n += panel
        row += height


cdef void add_outer(Py_ssize_t K, Py_ssize_t M, Py_ssize_t N, const real* a, Py_ssize_t a_step, const real* b,
                    real* panels, real* c, real* rest) noexcept nogil:
    """c (M, N) += a (K, M)^T b (K, N), in parts of PART_ROWS; the rows of a are `a_step` apart.

    `panels` is working space for those of a part of b.
    """
    cdef Py_ssize_t rows
    while K > 0:
        rows = min(K, <Py_ssize_t>PART_ROWS)
        pack[real](rows, N, b, N, 1, panels)
        outer_part[real](rows, M, N, a, a_step, panels, c, rest)
        a += rows * a_step
        b += rows * N
        K -= rows
