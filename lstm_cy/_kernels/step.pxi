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


cdef inline void load_units(real* block, const real* source, Py_ssize_t units) noexcept nogil:
    """A panel's units; those that are missing are 0."""
    if units < panel_units[real](NULL):
        memset(block, 0, panel_units[real](NULL) * sizeof(real))
    copy_units[real](block, source, units)


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


cdef void update_rows(int rows, const CellStep* step, Py_ssize_t row, Py_ssize_t panel, real* gates) noexcept nogil:
    """The cell of some rows and one panel's units."""
    cdef real[MOST_UNITS] cell
    cdef int most = panel_units[real](NULL), r
    cdef Py_ssize_t unit = panel * most, H = step.hidden_size
    for r in range(row, row + rows):
        load_units[real](cell, <const real*>step.c + r * H + unit, H - unit)
        update[real](step, r, unit, gates, cell)
        gates += MOST_PANEL


# Called through pointers, lest it be inlined: the constants of the activations would take registers from the sums.
cdef void (*update_rows32)(int, const CellStep*, Py_ssize_t, Py_ssize_t, float*) noexcept nogil
cdef void (*update_rows64)(int, const CellStep*, Py_ssize_t, Py_ssize_t, double*) noexcept nogil
update_rows32 = update_rows[float]
update_rows64 = update_rows[double]


cdef inline void rows_tile(int rows, const CellStep* step, Py_ssize_t row, Py_ssize_t panel,
                           real* precision) noexcept nogil:
    """The tile of some rows and one panel, and the cell on it. Inlined with a number of rows that is a constant."""
    cdef real[MOST_ROWS * MOST_WIDTH] sums
    cdef real[MOST_ROWS * MOST_PANEL] gates
    cdef int width = panel_columns[real](NULL), r
    cdef const real* begin = <const real*>step.begin + row * step.begin_row + panel * width
    for r in range(rows):
        memcpy(sums + r * MOST_WIDTH, begin + r * step.begin_row, width * sizeof(real))
    sum_products[real](rows, width, width, step.products, step.count, row, panel * width, sums)
    for r in range(rows):
        memcpy(gates + r * MOST_PANEL, sums + r * MOST_WIDTH, width * sizeof(real))
    if real is float:
        update_rows32(rows, step, row, panel, gates)
    else:
        update_rows64(rows, step, row, panel, gates)


cdef inline void row_tile(int panels, const CellStep* step, Py_ssize_t row, Py_ssize_t panel,
                          real* precision) noexcept nogil:
    """The tile of one row and some panels, and the cell on it. Inlined with a number of panels that is a constant."""
    cdef real[MOST_WIDTH] sums
    cdef real[3 * MOST_UNITS] cells
    cdef int width = panel_columns[real](NULL), most = panel_units[real](NULL), p
    cdef Py_ssize_t n = panel * width, unit = panel * most, H = step.hidden_size
    for p in range(panels):
        load_units[real](cells + p * most, <const real*>step.c + row * H + unit + p * most, H - unit - p * most)
    memcpy(sums, <const real*>step.begin + row * step.begin_row + n, panels * width * sizeof(real))
    sum_products[real](1, panels * width, width, step.products, step.count, row, n, sums)
    # not a loop: the sums would go through memory
    update[real](step, row, unit, sums, cells)
    if panels > 1:
        update[real](step, row, unit + most, sums + width, cells + most)
    if panels > 2:
        update[real](step, row, unit + 2 * most, sums + 2 * width, cells + 2 * most)


cdef void cell_step(const CellStep* step, real* precision) noexcept nogil:
    """One step of some panels' units. Each panel is read once and meets all rows."""
    cdef int width = panel_columns[real](NULL), most = row_panels[real](NULL), height, together
    cdef Py_ssize_t K = step.products[0].K + (step.products[1].K if step.count > 1 else 0)
    cdef Py_ssize_t left = step.last - step.first, panel, row
    if step.rows == 1 and K * left * width * <Py_ssize_t>sizeof(real) <= RESIDENT_BYTES:
        while left > 0:
            together = next_height(left, most)
            panel = step.last - left
            if most > 2 and together == 3:
                row_tile[real](3, step, 0, panel, NULL)
            elif most > 1 and together == 2:
                row_tile[real](2, step, 0, panel, NULL)
            else:
                row_tile[real](1, step, 0, panel, NULL)
            left -= together
        return
    while left > 0:
        panel = step.first + left - 1 if step.last_first else step.last - left
        row = 0
        while row < step.rows:
            height = next_height(step.rows - row, TILE_ROWS)
            if height == 1:
                row_tile[real](1, step, row, panel, NULL)
            elif TILE_ROWS > 1 and height == 2:
                rows_tile[real](2, step, row, panel, NULL)
            elif TILE_ROWS > 2 and height == 3:
                rows_tile[real](3, step, row, panel, NULL)
            elif TILE_ROWS > 2 and height == 4:
                rows_tile[real](4, step, row, panel, NULL)
            elif TILE_ROWS > 2 and height == 5:
                rows_tile[real](5, step, row, panel, NULL)
            elif TILE_ROWS > 2:
                rows_tile[real](6, step, row, panel, NULL)
            row += height
        left -= 1
