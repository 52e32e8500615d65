# One step of a cell in one go, for one instruction set and both precisions: a tile of the recurrent product, some rows
# by one panel of interleaved gates, holds all four gates of its units, so that the cell is computed on it at once. The
# gates never go through memory, and while one panel's units wait for their activations the next one's product runs.

from ..table cimport CellStep

cdef enum:
    MOST_UNITS = 16  # of a panel: four gates of them
    # Weights of a step, up to which one row takes panels together: they come from the L1 cache at least in part, as
    # fast as it can use them. From further away they come faster one panel after the other.
    TOGETHER_BYTES = 81920


cdef inline void copy_units(real* target, const real* source, Py_ssize_t units, int most) noexcept nogil:
    """Copy `units` units, but no more than a panel's: in one piece, or in pieces of constant size, without a call."""
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


cdef inline void load_units(real* block, const real* source, Py_ssize_t units, int most) noexcept nogil:
    """A panel's units; those that are missing are 0."""
    if units < most:
        memset(block, 0, most * sizeof(real))
    copy_units[real](block, source, units, most)


cdef inline void update(int most, const CellStep* step, Py_ssize_t row, Py_ssize_t unit, real* gates,
                        real* cell) noexcept nogil:
    """The cell of one row and the units of a panel, `most` of them, whose first is `unit`."""
    cdef int u
    cdef real[MOST_UNITS] t, out
    cdef Py_ssize_t H = step.hidden_size, units = H - unit
    cdef real* plain
    for u in range(most):
        gates[u] = sigmoid[real](gates[u])
        gates[most + u] = sigmoid[real](gates[most + u])
        gates[2 * most + u] = tanh[real](gates[2 * most + u])
        gates[3 * most + u] = sigmoid[real](gates[3 * most + u])
        cell[u] = fma[real](gates[most + u], cell[u], gates[u] * gates[2 * most + u])
        t[u] = tanh[real](cell[u])
        out[u] = gates[3 * most + u] * t[u]
    copy_units[real](<real*>step.h + row * step.h_row + unit, out, units, most)
    copy_units[real](<real*>step.c + row * H + unit, cell, units, most)
    if step.gates != NULL:
        plain = <real*>step.gates + row * 4 * H + unit
        for u in range(4):
            copy_units[real](plain + u * H, gates + u * most, units, most)
        copy_units[real](<real*>step.tanh_c + row * H + unit, t, units, most)


cdef void update_rows(int rows, int width, const CellStep* step, Py_ssize_t row, Py_ssize_t unit,
                      real* gates) noexcept nogil:
    """The cell of some rows and the units of a panel of `width` columns."""
    cdef real[MOST_UNITS] cell
    cdef const real* c = <const real*>step.c + row * step.hidden_size + unit
    cdef int whole = panel_columns[real](NULL), r
    for r in range(rows):
        if whole == BLOCK or width == whole:
            load_units[real](cell, c, step.hidden_size - unit, whole // 4)
            update[real](whole // 4, step, row + r, unit, gates, cell)
        else:
            load_units[real](cell, c, step.hidden_size - unit, BLOCK // 4)
            update[real](BLOCK // 4, step, row + r, unit, gates, cell)
        c += step.hidden_size
        gates += MOST_PANEL


# Called through pointers so that it is not inlined: constants of the activations would take registers from the sums.
cdef void (*update_rows32)(int, int, const CellStep*, Py_ssize_t, Py_ssize_t, float*) noexcept nogil
cdef void (*update_rows64)(int, int, const CellStep*, Py_ssize_t, Py_ssize_t, double*) noexcept nogil
update_rows32 = update_rows[float]
update_rows64 = update_rows[double]


cdef inline void rows_tile(int rows, int width, const CellStep* step, Py_ssize_t row, Py_ssize_t panel,
                           real* precision) noexcept nogil:
    """The tile of some rows and a panel, and the cell on it. Inlined with constant rows and width."""
    cdef real[MOST_ROWS * MOST_WIDTH] sums
    cdef real[MOST_ROWS * MOST_PANEL] gates
    cdef Py_ssize_t n = panel * panel_columns[real](NULL)
    cdef const real* begin = <const real*>step.begin + row * step.begin_row + n
    cdef int r
    for r in range(rows):
        memcpy(sums + r * MOST_WIDTH, begin + r * step.begin_row, width * sizeof(real))
    sum_products[real](rows, width, width, step.products, step.count, row, n, sums)
    for r in range(rows):
        memcpy(gates + r * MOST_PANEL, sums + r * MOST_WIDTH, width * sizeof(real))
    if real is float:
        update_rows32(rows, width, step, row, n // 4, gates)
    else:
        update_rows64(rows, width, step, row, n // 4, gates)


cdef inline void row_tile(int panels, bint half, const CellStep* step, Py_ssize_t panel,
                          real* precision) noexcept nogil:
    """The tile of a lone row and some panels, and the cell on it. Inlined with constants.

    `half`: behind the whole panels, of which there may be none, comes one of BLOCK columns.
    """
    cdef real[MOST_WIDTH] sums
    cdef real[3 * MOST_UNITS] cells
    cdef int whole = panel_columns[real](NULL), most = whole // 4, width = panels * whole + (BLOCK if half else 0), p
    cdef Py_ssize_t n = panel * whole, unit = n // 4
    cdef const real* c = <const real*>step.c + unit
    for p in range(panels):
        load_units[real](cells + p * most, c + p * most, step.hidden_size - unit - p * most, most)
    if half:
        load_units[real](cells + panels * most, c + panels * most, step.hidden_size - unit - panels * most, BLOCK // 4)
    memcpy(sums, <const real*>step.begin + n, width * sizeof(real))
    sum_products[real](1, width, BLOCK if panels == 0 else whole, step.products, step.count, 0, n, sums)
    # not a loop: the sums would go through memory
    if panels > 0:
        update[real](most, step, 0, unit, sums, cells)
    if panels > 1:
        update[real](most, step, 0, unit + most, sums + whole, cells + most)
    if panels > 2:
        update[real](most, step, 0, unit + 2 * most, sums + 2 * whole, cells + 2 * most)
    if half:
        update[real](BLOCK // 4, step, 0, unit + panels * most, sums + panels * whole, cells + panels * most)


cdef inline void row_tile_of(int panels, bint half, const CellStep* step, Py_ssize_t panel,
                             real* precision) noexcept nogil:
    """`row_tile` with the number of panels as a constant, the half one included."""
    cdef int most = row_panels[real](NULL)
    if panels == 1 and half:
        row_tile[real](0, 1, step, panel, NULL)
    elif panels == 1:
        row_tile[real](1, 0, step, panel, NULL)
    elif most > 1 and panels == 2 and half:
        row_tile[real](1, 1, step, panel, NULL)
    elif most > 1 and panels == 2:
        row_tile[real](2, 0, step, panel, NULL)
    elif most > 2 and half:
        row_tile[real](2, 1, step, panel, NULL)
    elif most > 2:
        row_tile[real](3, 0, step, panel, NULL)


cdef inline void rows_tile_of(int rows, bint half, const CellStep* step, Py_ssize_t row, Py_ssize_t panel,
                              real* precision) noexcept nogil:
    """`rows_tile` with its size as constants."""
    if half:
        rows_tile_of_width[real](rows, BLOCK, step, row, panel, NULL)
    else:
        rows_tile_of_width[real](rows, panel_columns[real](NULL), step, row, panel, NULL)


cdef inline void rows_tile_of_width(int rows, int width, const CellStep* step, Py_ssize_t row, Py_ssize_t panel,
                                    real* precision) noexcept nogil:
    if rows == 1:
        rows_tile[real](1, width, step, row, panel, NULL)
    elif TILE_ROWS > 1 and rows == 2:
        rows_tile[real](2, width, step, row, panel, NULL)
    elif TILE_ROWS > 2 and rows == 3:
        rows_tile[real](3, width, step, row, panel, NULL)
    elif TILE_ROWS > 2 and rows == 4:
        rows_tile[real](4, width, step, row, panel, NULL)
    elif TILE_ROWS > 2 and rows == 5:
        rows_tile[real](5, width, step, row, panel, NULL)
    elif TILE_ROWS > 2:
        rows_tile[real](6, width, step, row, panel, NULL)


cdef inline bint ends_in_half(const CellStep* step, Py_ssize_t end, real* precision) noexcept nogil:
    """Whether the panel before `end` is the last, of BLOCK columns alone."""
    cdef int whole = panel_columns[real](NULL)
    return whole > BLOCK and 4 * step.hidden_size - (end - 1) * whole <= BLOCK


cdef inline Py_ssize_t weight_bytes(const CellStep* step, real* precision) noexcept nogil:
    """What a step reads of weights."""
    cdef Py_ssize_t K = step.products[0].K + (step.products[1].K if step.count > 1 else 0)
    return (step.last - step.first) * panel_columns[real](NULL) * K * <Py_ssize_t>sizeof(real)


cdef void cell_step(const CellStep* step, real* precision) noexcept nogil:
    """One step of some panels' units. Each panel is read once and used for all rows."""
    cdef bint together = weight_bytes[real](step, NULL) <= TOGETHER_BYTES
    cdef Py_ssize_t left = step.last - step.first, panel, row, height
    while step.rows == 1 and left > 0:
        height = next_height(left, row_panels[real](NULL)) if together else 1
        panel = step.first + left - height if step.descending else step.last - left
        row_tile_of[real](height, ends_in_half[real](step, panel + height, NULL), step, panel, NULL)
        left -= height
    while left > 0:
        panel = step.first + left - 1 if step.descending else step.last - left
        row = 0
        while row < step.rows:
            height = next_height(step.rows - row, TILE_ROWS)
            rows_tile_of[real](height, ends_in_half[real](step, panel + 1, NULL), step, row, panel, NULL)
            row += height
        left -= 1
