# One step of a cell in one go, for one instruction set and both precisions: a tile of the recurrent product, some rows
# by one panel of interleaved gates, holds all four gates of its units, so that the cell is computed on it at once. The
# gates never go through memory, and while one panel's units wait for their activations the next one's product runs.

from ..table cimport CellStep

cdef inline void update(const CellStep* step, Py_ssize_t row, Py_ssize_t unit, vector i, vector f, vector g,
                        vector o) noexcept nogil:
    """The cell of one row and the units of a panel, whose first is `unit`."""
    cdef Py_ssize_t H = step.hidden_size, left = H - unit
    cdef vector* c = place_in[vector](<vector*>step.c, row * H + unit)
    cdef vector* gates = place_in[vector](<vector*>step.gates, row * 4 * H + unit)
    cdef vector cell, t
    i = sigmoid[vector](i)
    f = sigmoid[vector](f)
    g = tanh[vector](g)
    o = sigmoid[vector](o)
    cell = fma[vector](f, load_some[vector](c, 0, left), i * g)
    t = tanh[vector](cell)
    store_some[vector](c, 0, left, cell)
    store_some[vector](place_in[vector](<vector*>step.h, row * step.h_row + unit), 0, left, o * t)
    if step.gates != NULL:
        store_some[vector](gates, 0, left, i)
        store_some[vector](gates, H, left, f)
        store_some[vector](gates, 2 * H, left, g)
        store_some[vector](gates, 3 * H, left, o)
        store_some[vector](place_in[vector](<vector*>step.tanh_c, row * H + unit), 0, left, t)


cdef void update_rows(int rows, const CellStep* step, Py_ssize_t row, Py_ssize_t unit,
                      const vector* sums) noexcept nogil:
    """The cell of some rows and the units of a panel."""
    cdef int r
    for r in range(rows):
        update[vector](step, row + r, unit, sums[0], sums[1], sums[2], sums[3])
        sums += ACROSS


# Called through pointers so that it is not inlined: constants of the activations would take registers from the sums.
cdef void (*update_rows_v32)(int, const CellStep*, Py_ssize_t, Py_ssize_t, const v32*) noexcept nogil
cdef void (*update_rows_h32)(int, const CellStep*, Py_ssize_t, Py_ssize_t, const h32*) noexcept nogil
cdef void (*update_rows_v64)(int, const CellStep*, Py_ssize_t, Py_ssize_t, const v64*) noexcept nogil
update_rows_v32 = update_rows[v32]
if HALVES:
    update_rows_h32 = update_rows[h32]
update_rows_v64 = update_rows[v64]


cdef inline void update_rows_of(int rows, const CellStep* step, Py_ssize_t row, Py_ssize_t unit,
                                const vector* sums) noexcept nogil:
    if vector is v32:
        update_rows_v32(rows, step, row, unit, sums)
    elif vector is h32:
        update_rows_h32(rows, step, row, unit, sums)
    else:
        update_rows_v64(rows, step, row, unit, sums)


cdef inline void cell_tile(int rows, int panels, bint pairs, const CellStep* step, Py_ssize_t row, Py_ssize_t n,
                           const vector* begin) noexcept nogil:
    """The tile of some rows and panels, from column n on, and the cell on it.

    Inlined with constant rows, panels and `pairs`, which is whether the products are in bf16 (pairs.pxi).
    """
    cdef vector[MOST_ROWS * ACROSS] sums
    cdef vector[MOST_ROWS * ACROSS] gates
    cdef int r, j, across = panels * ACROSS
    if vector in single_precision:
        if in_halves(rows, pairs):
            halves_of_tile[vector](rows, step.products, step.count, row, n,
                                   at[vector](begin, row * step.begin_row + n), step.begin_row, gates,
                                   ACROSS * lanes[vector](begin))
            update_rows_of[vector](rows, step, row, n // 4, gates)
            return
    for r in range(rows):
        for j in range(across):
            sums[r * across + j] = load[vector](begin, (row + r) * step.begin_row + n + j * lanes[vector](begin))
    sum_all[vector](rows, panels, pairs, False, step.products, step.count, row, n, &sums[0])
    if rows == 1:
        # not a loop: the sums would be in memory
        update[vector](step, row, n // 4, sums[0], sums[1], sums[2], sums[3])
        if panels > 1:
            update[vector](step, row, n // 4 + lanes[vector](begin), sums[4], sums[5], sums[6], sums[7])
        if panels > 2:
            update[vector](step, row, n // 4 + 2 * lanes[vector](begin), sums[8], sums[9], sums[10], sums[11])
            update[vector](step, row, n // 4 + 3 * lanes[vector](begin), sums[12], sums[13], sums[14], sums[15])
        return
    for r in range(rows):  # gcc unrolls loops of up to 16 trips; an array with a variable index is kept in memory
        for j in range(ACROSS):
            gates[r * ACROSS + j] = sums[r * ACROSS + j]
    update_rows_of[vector](rows, step, row, n // 4, gates)


cdef inline void cell_tile_of(int rows, int panels, bint pairs, const CellStep* step, Py_ssize_t row, Py_ssize_t n,
                              const vector* begin) noexcept nogil:
    """`cell_tile` with its size as constants."""
    if ROW_PANELS > 2 and panels == 4:
        cell_tile[vector](1, 4, pairs, step, row, n, begin)
    elif panels == 2:
        cell_tile[vector](1, 2, pairs, step, row, n, begin)
    elif rows == 1:
        cell_tile[vector](1, 1, pairs, step, row, n, begin)
    elif rows == 2:
        cell_tile[vector](2, 1, pairs, step, row, n, begin)
    elif rows == 3:
        cell_tile[vector](3, 1, pairs, step, row, n, begin)
    elif most_rows(pairs) > 3 and rows == 4:
        cell_tile[vector](4, 1, pairs, step, row, n, begin)
    elif most_rows(pairs) > 4 and rows == 5:
        cell_tile[vector](5, 1, pairs, step, row, n, begin)
    elif most_rows(pairs) > 4:
        cell_tile[vector](6, 1, pairs, step, row, n, begin)


cdef inline void cell_tile_at(int rows, int panels, bint half, bint pairs, const CellStep* step, Py_ssize_t row,
                              Py_ssize_t n) noexcept nogil:
    """`cell_tile_of` in float32 with a constant `pairs`; `half` is whether the panel has half of the columns."""
    if HALVES and half:
        cell_tile_of[h32](rows, 1, pairs, step, row, n, <const h32*>step.begin)
    else:
        cell_tile_of[v32](rows, panels, pairs, step, row, n, <const v32*>step.begin)


cdef void cell_step(const CellStep* step, real* precision) noexcept nogil:
    """One step of some panels' units. Each panel is read once and used for all rows."""
    cdef Py_ssize_t width = panel_columns[real](NULL), left = step.last - step.first, panel, row, n
    cdef int most = most_together[real](step.rows, left * width, step.products, step.count, NULL)
    cdef int together, height
    cdef bint half
    while left > 0:
        together = together_of(left, most)
        panel = step.first + left - together if step.descending else step.last - left
        n = panel * width
        if together > 1 and 4 * step.hidden_size - n - (together - 1) * width <= last_columns[real](NULL) < width:
            together = 1  # the last panel has half of the columns
            n = (step.first + left - 1) * width if step.descending else n
        row = 0
        while row < step.rows:
            height = next_height(step.rows - row, most_rows(step.products[0].pairs))
            half = columns_at[real](n, 4 * step.hidden_size, NULL) < width
            if real is double:
                cell_tile_of[v64](height, together, False, step, row, n, <const v64*>step.begin)
            elif step.products[0].pairs:
                cell_tile_at(height, together, half, True, step, row, n)
            else:
                cell_tile_at(height, together, half, False, step, row, n)
            row += height
        left -= together
