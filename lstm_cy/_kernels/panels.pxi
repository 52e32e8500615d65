# Products with a matrix packed in panels, for one instruction set and both precisions.
#
# A panel holds PANEL columns of the matrix: all of them for k = 0, then for k = 1, and so on, so that a product reads
# it from front to back. A tile of the result, some rows by one panel, stays in registers over all k: each vector of the
# panel is loaded once and used by every row of the tile. Every element of a result is one chain of additions in the
# order of k, whatever the tile: results do not depend on how many rows are computed together.

cdef extern from *:
    """
    /* Columns of a panel, and rows of the largest tile: as many accumulators as the registers hold. */
    #if defined(__AVX512F__)
    #define LSTM_CY_PANEL32 64
    #define LSTM_CY_TILE_ROWS 6
    #elif defined(__AVX2__)
    #define LSTM_CY_PANEL32 32
    #define LSTM_CY_TILE_ROWS 2
    #else
    #define LSTM_CY_PANEL32 32
    #define LSTM_CY_TILE_ROWS 1
    #endif
    """
    const int PANEL32 "LSTM_CY_PANEL32"
    const int TILE_ROWS "LSTM_CY_TILE_ROWS"

cdef enum:
    PANEL64 = 32
    MOST_PANEL = 64
    MOST_ROWS = 6


cdef inline int panel_columns(real* precision) noexcept nogil:
    return PANEL32 if real is float else PANEL64


cdef void pack(Py_ssize_t K, Py_ssize_t N, const real* matrix, Py_ssize_t k_step, Py_ssize_t n_step,
               real* panels) noexcept nogil:
    """Pack a (K, N) matrix, whose elements lie `k_step` and `n_step` apart; missing columns of the last panel are 0."""
    cdef int width = panel_columns[real](NULL), j
    cdef Py_ssize_t k, n = 0
    while n < N:
        for k in range(K):
            for j in range(width):
                panels[j] = matrix[k * k_step + (n + j) * n_step] if n + j < N else 0
            panels += width
        n += width


cdef inline void tile(int rows, int width, int panel_width, Py_ssize_t K, const real* a, Py_ssize_t a_row,
                      Py_ssize_t a_k, const real* panel, real* c, Py_ssize_t c_row) noexcept nogil:
    """c += a panel, by the first `width` columns of the panel; inlined with rows and widths that are constants."""
    cdef real[MOST_ROWS * MOST_PANEL] sums
    cdef real factor
    cdef Py_ssize_t k
    cdef int r, j, half
    for r in range(rows):
        memcpy(sums + r * MOST_PANEL, c + r * c_row, width * sizeof(real))
    for k in range(K):
        for r in range(rows):
            factor = a[r * a_row + k * a_k]
            # Loops of 64 trips spill at five and six rows; two of 32 do not.
            for half in range(width // BLOCK):
                for j in range(BLOCK):
                    sums[r * MOST_PANEL + half * BLOCK + j] = fma[real](
                        factor, panel[half * BLOCK + j], sums[r * MOST_PANEL + half * BLOCK + j])
        panel += panel_width
    for r in range(rows):
        memcpy(c + r * c_row, sums + r * MOST_PANEL, width * sizeof(real))


cdef inline void tile_of_width(int rows, int width, int panel_width, Py_ssize_t K, const real* a, Py_ssize_t a_row,
                               Py_ssize_t a_k, const real* panel, real* c, Py_ssize_t c_row) noexcept nogil:
    """`tile` with the number of rows as a constant, one kernel for each."""
    if rows == 1:
        tile[real](1, width, panel_width, K, a, a_row, a_k, panel, c, c_row)
    elif TILE_ROWS > 1 and rows == 2:
        tile[real](2, width, panel_width, K, a, a_row, a_k, panel, c, c_row)
    elif TILE_ROWS > 2 and rows == 3:
        tile[real](3, width, panel_width, K, a, a_row, a_k, panel, c, c_row)
    elif TILE_ROWS > 2 and rows == 4:
        tile[real](4, width, panel_width, K, a, a_row, a_k, panel, c, c_row)
    elif TILE_ROWS > 2 and rows == 5:
        tile[real](5, width, panel_width, K, a, a_row, a_k, panel, c, c_row)
    elif TILE_ROWS > 2:
        tile[real](6, width, panel_width, K, a, a_row, a_k, panel, c, c_row)


cdef void tile_of(int rows, bint half, Py_ssize_t K, const real* a, Py_ssize_t a_row, Py_ssize_t a_k,
                  const real* panel, real* c, Py_ssize_t c_row) noexcept nogil:
    """`tile` with all columns of a panel, or with the first BLOCK of them where the others are padding."""
    cdef int width = PANEL32 if real is float else PANEL64
    if half and width > BLOCK:
        tile_of_width[real](rows, BLOCK, width, K, a, a_row, a_k, panel, c, c_row)
    else:
        tile_of_width[real](rows, width, width, K, a, a_row, a_k, panel, c, c_row)


cdef inline int next_height(Py_ssize_t left, int most) noexcept nogil:
    """The rows of the next tile, of `most`, when `left` are to be done: tiles of nearly one size, such as 8 = 4 + 4."""
    cdef Py_ssize_t tiles = (left + most - 1) // most
    return <int>((left + tiles - 1) // tiles)


cdef void tile_at(int rows, Py_ssize_t K, Py_ssize_t columns, const real* a, Py_ssize_t a_row, Py_ssize_t a_k,
                  const real* panel, real* c, Py_ssize_t c_row) noexcept nogil:
    """A tile whose panel has only `columns` columns of the result: where that is no whole tile, it is made aside."""
    cdef real[MOST_ROWS * MOST_PANEL] whole
    cdef int width = panel_columns[real](NULL), r
    cdef bint half = columns <= BLOCK
    if columns >= width or columns == BLOCK:
        tile_of[real](rows, half, K, a, a_row, a_k, panel, c, c_row)
        return
    memset(whole, 0, sizeof(whole))
    for r in range(rows):
        memcpy(whole + r * MOST_PANEL, c + r * c_row, columns * sizeof(real))
    tile_of[real](rows, half, K, a, a_row, a_k, panel, whole, MOST_PANEL)
    for r in range(rows):
        memcpy(c + r * c_row, whole + r * MOST_PANEL, columns * sizeof(real))


cdef void multiply(Py_ssize_t rows, Py_ssize_t K, Py_ssize_t N, const real* a, const real* panels, real* c,
                   bint backwards) noexcept nogil:
    """c (rows, N) += a (rows, K) times the packed (K, N). Each panel is read once and meets all rows.

    `backwards` takes the last panel first: in turn, it finds in the cache what the product before left there.
    """
    cdef int width = panel_columns[real](NULL), height
    cdef Py_ssize_t count = (N + width - 1) // width, panel, n, row
    for panel in range(count):
        n = (count - 1 - panel if backwards else panel) * width
        row = 0
        while row < rows:
            height = next_height(rows - row, TILE_ROWS)
            tile_at[real](height, K, N - n, a + row * K, K, 1, panels + n * K, c + row * N + n, N)
            row += height


cdef void add_outer(Py_ssize_t K, Py_ssize_t M, Py_ssize_t N, const real* a, const real* b, real* panels,
                    real* c) noexcept nogil:
    """c (M, N) += a (K, M)^T b (K, N), with working space for the panels of b.

    The rows of the result are the outer loop: `a` is read across, M apart, so what the cache holds of it is used for
    all of b before the next.
    """
    cdef int width = panel_columns[real](NULL), height
    cdef Py_ssize_t n, row = 0
    pack[real](K, N, b, N, 1, panels)
    while row < M:
        height = next_height(M - row, TILE_ROWS)
        n = 0
        while n < N:
            tile_at[real](height, K, N - n, a + row, 1, M, panels + n * K, c + row * N + n, N)
            n += width
        row += height
