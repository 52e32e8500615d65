# One step of a cell in one go, for one instruction set and both precisions: a tile of the recurrent product, some rows
# by one panel of interleaved gates, holds all four gates of its units, so that the cell is computed on it at once. The
# gates never go through memory, and while one panel's units wait for their activations the next one's product runs.

from .table cimport CellStep

cdef enum:
    MOST_UNITS = 16  # of a panel: four gates of them
    # Weights up to this size stay in the L1 cache from step to step.
    RESIDENT_BYTES = 40960


cdef inline int panel_units(real* precision) noexcept nogil:
    return panel_columns[real](NULL) // 4


cdef inline void copy_units(real* target, const real* source, Py_ssize_t units) noexcept nogil:
    """Copy up to a panel's units: in one piece, or in pieces of constant size, which need no call."""
    cdef int most = panel_units[real](NULL)
    if units >= most:
        memcpy(target, source, most * sizeof(real))
        return
    if units & 8:
        memcpy(target, source, 8 * sizeof(real))
        target += 8
        source += 8
    if units & 4:
        memcpy(target, source, 4 * sizeof(real))
        target += 4
        source += 4
    if units & 2:
        memcpy(target, source, 2 * sizeof(real))
        target += 2
        source += 2
    if units & 1:
        target[0] = source[0]


cdef inline void update(const CellStep* step, Py_ssize_t row, Py_ssize_t unit, real* gates, real* cell) noexcept nogil:
    """The cell of one row and one panel's units, whose first is `unit`."""
    cdef int most = panel_units[real](NULL), u
    cdef real[MOST_UNITS] told, out
    cdef Py_ssize_t H = step.hidden_size, units = H - unit
    cdef real* plain
    for u in range(most):
        gates[u] = sigmoid[real](gates[u])
        gates[most + u] = sigmoid[real](gates[most + u])
        gates[2 * most + u] = tanh[real](gates[2 * most + u])
        gates[3 * most + u] = sigmoid[real](gates[3 * most + u])
        cell[u] = fma[real](gates[most + u], cell[u], gates[u] * gates[2 * most + u])
        told[u] = tanh[real](cell[u])
        out[u] = gates[3 * most + u] * told[u]
    copy_units[real](<real*>step.h + row * step.h_row + unit, out, units)
    copy_units[real](<real*>step.c + row * H + unit, cell, units)
    if step.gates != NULL:
        plain = <real*>step.gates + row * 4 * H + unit
        for u in range(4):
            copy_units[real](plain + u * H, gates + u * most, units)
        copy_units[real](<real*>step.tanh_c + row * H + unit, told, units)


cdef inline void cell_tile(int rows, int panels, const CellStep* step, Py_ssize_t row, Py_ssize_t panel,
                           real* precision) noexcept nogil:
    """The tile of `rows` rows and some panels, and the cell on it. Inlined with numbers that are constants."""
    cdef real[MOST_ROWS * MOST_WIDTH] sums
    cdef real[MOST_ROWS * MOST_UNITS] cells
    cdef int width = panel_columns[real](NULL), most = panel_units[real](NULL), r, p
    cdef Py_ssize_t n = panel * width, unit = panel * most, H = step.hidden_size
    cdef const real* begin = <const real*>step.begin + row * step.begin_row + n
    cdef const real* c = <const real*>step.c + row * H + unit
    if H - unit < panels * most:
        memset(cells, 0, sizeof(cells))
    for r in range(rows):
        for p in range(panels):
            copy_units[real](cells + (r * panels + p) * most, c + r * H + p * most, H - unit - p * most)
        memcpy(sums + r * MOST_WIDTH, begin + r * step.begin_row, panels * width * sizeof(real))
    add_product[real](rows, panels * width, width, step.products, row, n, sums)
    if step.count > 1:
        add_product[real](rows, panels * width, width, step.products + 1, row, n, sums)
    for r in range(rows):
        for p in range(panels):
            update[real](step, row + r, unit + p * most, sums + r * MOST_WIDTH + p * width,
                         cells + (r * panels + p) * most)


cdef inline void cell_tile_of(int rows, int panels, const CellStep* step, Py_ssize_t row, Py_ssize_t panel,
                              real* precision) noexcept nogil:
    """`cell_tile` with its size as constants, one kernel for each."""
    cdef bint pairs = PAIR32 if real is float else PAIR64
    if pairs and panels == 2:
        cell_tile[real](1, 2, step, row, panel, NULL)
    elif rows == 1:
        cell_tile[real](1, 1, step, row, panel, NULL)
    elif TILE_ROWS > 1 and rows == 2:
        cell_tile[real](2, 1, step, row, panel, NULL)
    elif TILE_ROWS > 2 and rows == 3:
        cell_tile[real](3, 1, step, row, panel, NULL)
    elif TILE_ROWS > 2 and rows == 4:
        cell_tile[real](4, 1, step, row, panel, NULL)
    elif TILE_ROWS > 2 and rows == 5:
        cell_tile[real](5, 1, step, row, panel, NULL)
    elif TILE_ROWS > 2:
        cell_tile[real](6, 1, step, row, panel, NULL)


cdef void cell_step(const CellStep* step, real* precision) noexcept nogil:
    """One step of some panels' units. Each panel is read once and meets all rows."""
    cdef int width = panel_columns[real](NULL), height, together = 1
    cdef bint pairs = PAIR32 if real is float else PAIR64
    cdef Py_ssize_t K = step.products[0].K + (step.products[1].K if step.count > 1 else 0)
    cdef Py_ssize_t left = step.last - step.first, panel, row
    cdef bint resident = K * left * width * <Py_ssize_t>sizeof(real) <= RESIDENT_BYTES
    while left > 0:
        together = 2 if pairs and resident and step.rows == 1 and left > 1 else 1
        panel = step.last - left if resident or not step.last_first else step.first + left - 1
        row = 0
        while row < step.rows:
            height = next_height(step.rows - row, TILE_ROWS)
            cell_tile_of[real](height, together, step, row, panel, NULL)
            row += height
        left -= together
