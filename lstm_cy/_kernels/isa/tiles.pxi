# Products with a matrix packed in panels, for one instruction set and both precisions.
#
# A panel holds the columns of ACROSS vectors of the matrix: all of them for k = 0, then for k = 1, and so on, so that a
# product reads it from front to back. A last panel of 64-byte vectors of floats is only half as wide where that is
# enough. A tile of the result, some rows by one panel, stays in registers over all k: each vector of the panel is
# loaded once and used by every row of the tile. Every element of a result is one chain of additions in the order of k,
# for any tile: results do not depend on how many rows are computed together. Several products that add to one result
# go through their tiles together, one after the other along the same chain.

from ..table cimport OUTER_ROWS, PART_ROWS, Product

cdef enum:
    ACROSS = 4        # vectors in a row of a tile: one for each gate of the cell
    MOST_PANEL = 64   # columns
    MOST_ROWS = 6
    MOST_PANELS = 4   # that one row takes together


cdef inline int panel_columns(real* precision) noexcept nogil:
    return ACROSS * (LANES32 if real is float else LANES64)


cdef inline int last_columns(real* precision) noexcept nogil:
    """The columns of a last panel that is narrower, where that is enough."""
    return ACROSS * HALF_LANES32 if real is float and HALVES else panel_columns[real](NULL)


cdef inline int columns_at(Py_ssize_t n, Py_ssize_t N, real* precision) noexcept nogil:
    """The columns of the panel that begins at column n of N."""
    return last_columns[real](NULL) if N - n <= last_columns[real](NULL) else panel_columns[real](NULL)


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


cdef inline void add_row(int across, vector factor, const vector* panel, Py_ssize_t k, Py_ssize_t stride,
                         vector* sums) noexcept nogil:
    """Add the products of one factor and row k of panels that are `stride` apart; inlined with a constant `across`."""
    cdef Py_ssize_t place
    cdef int j
    for j in range(across):
        place = (k * ACROSS + j % ACROSS) * lanes[vector](sums) + j // ACROSS * stride
        sums[j] = fma[vector](factor, keep[vector](load[vector](panel, place)), sums[j])


cdef inline void sum_products(int rows, int panels, bint strips, const Product* products, int count, Py_ssize_t row,
                              Py_ssize_t n, vector* sums) noexcept nogil:
    """Add the products to a tile of some rows by some panels, of which the first begins at column n.

    Inlined with constant rows, panels and strips. Of the weights and the factors of one k the fewer ones stay in
    registers while the others pass. With `strips` the left side is packed in strips of TILE_ROWS rows.
    """
    cdef vector[MOST_PANELS * ACROSS] kept
    cdef vector weight, factor, factors
    cdef const vector* a
    cdef const vector* panel
    cdef Py_ssize_t K, a_row, a_k, start, k, stride, first, place
    cdef int number, r, j, across = panels * ACROSS, width = <int>(ACROSS * lanes[vector](sums))
    for number in range(count):
        K = products[number].K
        a_row = 1 if strips else products[number].a_row
        a_k = TILE_ROWS if strips else products[number].a_k
        a = at[vector](<const vector*>products[number].a, row * K if strips else row * a_row)
        panel = at[vector](<const vector*>products[number].panels, n * K)
        stride = K * width
        start = 0
        while LANE_FACTORS and rows == 1 and a_k == 1 and start + lanes[vector](sums) <= K:
            factors = load[vector](a, start)
            # not a loop: compilers do not unroll so long a body
            add_row[vector](across, lane_of[vector](factors, 0), panel, start, stride, sums)
            add_row[vector](across, lane_of[vector](factors, 1), panel, start + 1, stride, sums)
            if lanes[vector](sums) > 2:
                add_row[vector](across, lane_of[vector](factors, 2), panel, start + 2, stride, sums)
                add_row[vector](across, lane_of[vector](factors, 3), panel, start + 3, stride, sums)
            start += lanes[vector](sums)
        for k in range(start, K):
            first = k * width
            if rows >= across:
                for j in range(across):
                    place = first + j // ACROSS * stride + j % ACROSS * lanes[vector](sums)
                    kept[j] = load[vector](panel, place)
                for r in range(rows):
                    factor = each[vector](a, r * a_row + k * a_k)
                    for j in range(across):
                        sums[r * across + j] = fma[vector](factor, kept[j], sums[r * across + j])
            else:
                for r in range(rows):
                    kept[r] = each[vector](a, r * a_row + k * a_k)
                for j in range(across):
                    place = first + j // ACROSS * stride + j % ACROSS * lanes[vector](sums)
                    weight = keep[vector](load[vector](panel, place))
                    for r in range(rows):
                        sums[r * across + j] = fma[vector](kept[r], weight, sums[r * across + j])


cdef inline void tile(int rows, int panels, bint pairs, const Product* products, int count, Py_ssize_t row,
                      Py_ssize_t n, const vector* begin, Py_ssize_t begin_row, vector* c,
                      Py_ssize_t c_row) noexcept nogil:
    """c = begin + the sum of the products, for `rows` rows from `row` on and whole panels from column `n` on.

    Inlined with constant rows, panels and `pairs`, which is whether the products are in bf16 (pairs.pxi).
    """
    cdef vector[MOST_ROWS * ACROSS] sums
    cdef int r, j, across = panels * ACROSS
    if vector in single_precision:
        if in_halves(rows, pairs):
            halves_of_tile[vector](rows, products, count, row, n, begin, begin_row, c, c_row)
            return
    for r in range(rows):
        for j in range(across):
            sums[r * across + j] = load[vector](begin, r * begin_row + j * lanes[vector](begin))
    sum_all[vector](rows, panels, pairs, False, products, count, row, n, &sums[0])
    for r in range(rows):
        for j in range(across):
            store[vector](c, r * c_row + j * lanes[vector](begin), sums[r * across + j])


cdef inline void sum_all(int rows, int panels, bint pairs, bint strips, const Product* products, int count,
                         Py_ssize_t row, Py_ssize_t n, vector* sums) noexcept nogil:
    """`sum_products`, or where `pairs` is a constant 1, `sum_pairs`."""
    if vector in single_precision:
        if pairs:
            sum_pairs[vector](rows, panels * ACROSS, strips, products, count, row, n, 0, sums)
        else:
            sum_products[vector](rows, panels, strips, products, count, row, n, sums)
    else:
        sum_products[vector](rows, panels, strips, products, count, row, n, sums)


cdef inline void tile_of(int rows, bint pairs, const Product* products, int count, Py_ssize_t row, Py_ssize_t n,
                         const vector* begin, Py_ssize_t begin_row, vector* c, Py_ssize_t c_row) noexcept nogil:
    """`tile` of one panel with the number of rows as a constant, one kernel for each."""
    if rows == 1:
        tile[vector](1, 1, pairs, products, count, row, n, begin, begin_row, c, c_row)
    elif rows == 2:
        tile[vector](2, 1, pairs, products, count, row, n, begin, begin_row, c, c_row)
    elif rows == 3:
        tile[vector](3, 1, pairs, products, count, row, n, begin, begin_row, c, c_row)
    elif most_rows(pairs) > 3 and rows == 4:
        tile[vector](4, 1, pairs, products, count, row, n, begin, begin_row, c, c_row)
    elif most_rows(pairs) > 4 and rows == 5:
        tile[vector](5, 1, pairs, products, count, row, n, begin, begin_row, c, c_row)
    elif most_rows(pairs) > 4:
        tile[vector](6, 1, pairs, products, count, row, n, begin, begin_row, c, c_row)


cdef inline void tile_by(int rows, int panels, bint pairs, const Product* products, int count, Py_ssize_t row,
                         Py_ssize_t n, const vector* begin, Py_ssize_t begin_row, vector* c,
                         Py_ssize_t c_row) noexcept nogil:
    """A tile of one panel, or of some for a lone row."""
    if ROW_PANELS > 2 and panels == 4:
        tile[vector](1, 4, pairs, products, count, row, n, begin, begin_row, c, c_row)
    elif panels == 2:
        tile[vector](1, 2, pairs, products, count, row, n, begin, begin_row, c, c_row)
    else:
        tile_of[vector](rows, pairs, products, count, row, n, begin, begin_row, c, c_row)


cdef inline void tile_at(int rows, int panels, bint half, const Product* products, int count, Py_ssize_t row,
                         Py_ssize_t n, const real* begin, Py_ssize_t begin_row, real* c,
                         Py_ssize_t c_row) noexcept nogil:
    """A tile of whole panels: of one, of some for a lone row, or of a last one with half of the columns."""
    if real is float:
        if HALVES and half:
            if products[0].pairs:
                tile_of[h32](rows, True, products, count, row, n, <const h32*>begin, begin_row, <h32*>c, c_row)
            else:
                tile_of[h32](rows, False, products, count, row, n, <const h32*>begin, begin_row, <h32*>c, c_row)
        elif products[0].pairs:
            tile_by[v32](rows, panels, True, products, count, row, n, <const v32*>begin, begin_row, <v32*>c, c_row)
        else:
            tile_by[v32](rows, panels, False, products, count, row, n, <const v32*>begin, begin_row, <v32*>c, c_row)
    else:
        tile_by[v64](rows, panels, False, products, count, row, n, <const v64*>begin, begin_row, <v64*>c, c_row)


cdef inline int together_of(Py_ssize_t left, int most) noexcept nogil:
    """The panels, of `left`, that one row takes together next: 1, 2 or 4, at most `most`."""
    return 4 if most > 3 and left > 3 else 2 if most > 1 and left > 1 else 1


cdef inline int next_height(Py_ssize_t left, int most) noexcept nogil:
    """The rows of the next tile, of `most`, when `left` are to be done: tiles of nearly one size, such as 8 = 4 + 4."""
    cdef Py_ssize_t tiles = (left + most - 1) // most
    return <int>((left + tiles - 1) // tiles)


cdef void part_of_tile(int rows, Py_ssize_t columns, bint half, const Product* products, int count, Py_ssize_t row,
                       Py_ssize_t n, const real* begin, Py_ssize_t begin_row, real* c,
                       Py_ssize_t c_row) noexcept nogil:
    """A tile of one panel of which only `columns` columns exist, or that begins from zero: it is made aside."""
    cdef real[MOST_ROWS * MOST_PANEL] aside
    cdef int r
    memset(aside, 0, sizeof(aside))
    if begin != NULL:
        for r in range(rows):
            memcpy(aside + r * MOST_PANEL, begin + r * begin_row, columns * sizeof(real))
    tile_at[real](rows, 1, half, products, count, row, n, aside, MOST_PANEL, aside, MOST_PANEL)
    for r in range(rows):
        memcpy(c + r * c_row, aside + r * MOST_PANEL, columns * sizeof(real))


cdef inline int most_together(Py_ssize_t rows, Py_ssize_t N, const Product* products, int count,
                              real* precision) noexcept nogil:
    """The most panels that a lone row takes together; 1 for several rows."""
    cdef Py_ssize_t K = products[0].K + (products[1].K if count > 1 else 0)
    if products[0].pairs:
        # half the bytes come in half the time, which more sums must keep up with, unless there is a dot product
        K = K // 2 if PAIR_FLOATS == 1 else 0
    return ROW_PANELS if rows == 1 and K * N * <Py_ssize_t>sizeof(real) <= TOGETHER_BYTES else 1


cdef void add_products(Py_ssize_t rows, Py_ssize_t N, const Product* products, int count, bint descending,
                       const real* begin, Py_ssize_t begin_row, real* c) noexcept nogil:
    """c (rows, N) = begin + the sum of the products. Each panel is read once and used for all rows."""
    cdef Py_ssize_t width = panel_columns[real](NULL), panels = (N + width - 1) // width, done = 0
    cdef Py_ssize_t panel, row, n, columns
    cdef int most = 1 if begin == NULL else most_together[real](rows, N, products, count, NULL), together, height
    cdef bint half
    while done < panels:
        together = together_of(panels - done, most)
        panel = panels - done - together if descending else done
        if together > 1 and (panel + together) * width > N:  # the last one is not whole
            together = 1
            panel = panels - done - 1 if descending else done
        n = panel * width
        columns = min(N - n, width)
        half = columns_at[real](n, N, NULL) < width
        row = 0
        while row < rows:
            height = next_height(rows - row, most_rows(products[0].pairs))
            if begin == NULL or columns < columns_at[real](n, N, NULL):
                part_of_tile[real](height, columns, half, products, count, row, n,
                                   begin if begin == NULL else begin + row * begin_row + n, begin_row, c + row * N + n,
                                   N)
            else:
                tile_at[real](height, together, half, products, count, row, n, begin + row * begin_row + n, begin_row,
                              c + row * N + n, N)
            row += height
        done += together


cdef inline void add_to(vector* total, vector* rest, vector x) noexcept nogil:
    """Add to some sums; the rounding errors are added to `rest`, unless it is NULL (see table.add_part)."""
    cdef vector old = load[vector](total, 0), grown, sum
    if rest == NULL:
        store[vector](total, 0, old + x)
        return
    sum = old + x
    grown = sum - old
    store[vector](rest, 0, load[vector](rest, 0) + ((old - (sum - grown)) + (x - grown)))
    store[vector](total, 0, sum)


cdef inline void add_sums(int rows, int across, Py_ssize_t columns, const vector* sums, vector* c, vector* rest,
                          Py_ssize_t N) noexcept nogil:
    """Add a tile of sums in registers to c (rows, columns) and `rest`, whose rows are N apart.

    Inlined with constant rows and `across`, the vectors of a row.
    """
    cdef vector[MOST_ROWS * ACROSS] complete  # in memory, for variable indices
    cdef Py_ssize_t place
    cdef int r, j
    if rest == NULL and columns >= across * lanes[vector](c):
        for r in range(rows):
            for j in range(across):
                place = r * N + j * lanes[vector](c)
                store[vector](c, place, load[vector](c, place) + sums[r * across + j])
        return
    for r in range(rows):
        for j in range(across):
            complete[r * across + j] = sums[r * across + j]
    add_tile[vector](rows, across, columns, complete, c, rest, N)


cdef inline void add_tile(int rows, int across, Py_ssize_t columns, const vector* complete, vector* c, vector* rest,
                          Py_ssize_t N) noexcept nogil:
    """`add_sums` of sums in memory."""
    cdef vector[2] aside
    cdef Py_ssize_t place, left
    cdef int r, j
    for r in range(rows):
        for j in range(across):
            place = r * N + j * lanes[vector](c)
            left = columns - j * lanes[vector](c)
            if left >= lanes[vector](c):
                add_to[vector](place_in[vector](c, place), NULL if rest == NULL else place_in[vector](rest, place),
                               complete[r * across + j])
            elif left > 0:
                aside[0] = load_some[vector](c, place, left)
                aside[1] = all_of[vector](aside[0], 0) if rest == NULL else load_some[vector](rest, place, left)
                add_to[vector](&aside[0], NULL if rest == NULL else &aside[1], complete[r * across + j])
                store_some[vector](c, place, left, aside[0])
                if rest != NULL:
                    store_some[vector](rest, place, left, aside[1])


cdef inline void outer_tile(int rows, bint pairs, const Product* product, Py_ssize_t row, Py_ssize_t n,
                            Py_ssize_t columns, vector* c, vector* rest, Py_ssize_t N) noexcept nogil:
    """Add a tile of a product to c (rows, columns) and `rest`, whose rows are N apart.

    Inlined with constant rows and `pairs`; there may be fewer columns than in a panel.
    """
    cdef vector[MOST_ROWS * ACROSS] sums
    cdef Py_ssize_t first
    cdef int r, j, half
    if vector in single_precision:
        if in_halves(rows, pairs):
            for half in range(2):
                for r in range(rows):
                    for j in range(ACROSS // 2):
                        sums[r * (ACROSS // 2) + j] = zeros[vector](c)
                sum_pairs[vector](rows, ACROSS // 2, True, product, 1, row, n, half * (ACROSS // 2), &sums[0])
                first = half * (ACROSS // 2) * lanes[vector](c)
                add_sums[vector](rows, ACROSS // 2, columns - first, &sums[0], place_in[vector](c, first),
                                 NULL if rest == NULL else place_in[vector](rest, first), N)
            return
    for r in range(rows):
        for j in range(ACROSS):
            sums[r * ACROSS + j] = zeros[vector](c)
    sum_all[vector](rows, 1, pairs, True, product, 1, row, n, &sums[0])
    add_sums[vector](rows, ACROSS, columns, &sums[0], c, rest, N)


cdef inline void outer_tile_of(int rows, bint pairs, const Product* product, Py_ssize_t row, Py_ssize_t n,
                               Py_ssize_t columns, vector* c, vector* rest, Py_ssize_t N) noexcept nogil:
    """`outer_tile` with the number of rows as a constant, one kernel for each."""
    if rows == 1:
        outer_tile[vector](1, pairs, product, row, n, columns, c, rest, N)
    elif rows == 2:
        outer_tile[vector](2, pairs, product, row, n, columns, c, rest, N)
    elif rows == 3:
        outer_tile[vector](3, pairs, product, row, n, columns, c, rest, N)
    elif most_rows(pairs) > 3 and rows == 4:
        outer_tile[vector](4, pairs, product, row, n, columns, c, rest, N)
    elif most_rows(pairs) > 4 and rows == 5:
        outer_tile[vector](5, pairs, product, row, n, columns, c, rest, N)
    elif most_rows(pairs) > 4:
        outer_tile[vector](6, pairs, product, row, n, columns, c, rest, N)


cdef inline void outer_strips(bint pairs, Py_ssize_t K, Py_ssize_t M, Py_ssize_t N, const real* strips,
                              const real* panels, real* c, real* rest) noexcept nogil:
    """Add the product of some packed strips, (K, M) transposed, and the packed (K, N) to c (M, N)."""
    cdef Product product = Product(K, strips, 0, 0, panels, pairs)
    cdef Py_ssize_t n = 0, row, place
    cdef int height
    while n < N:
        row = 0
        while row < M:
            height = <int>min(M - row, <Py_ssize_t>most_rows(pairs))
            place = row * N + n
            if HALVES and real is float and columns_at[real](n, N, NULL) < panel_columns[real](NULL):
                outer_tile_of[h32](height, pairs, &product, row, n, N - n, <h32*>(c + place),
                                   NULL if rest == NULL else <h32*>(rest + place), N)
            elif real is float:
                outer_tile_of[v32](height, pairs, &product, row, n, N - n, <v32*>(c + place),
                                   NULL if rest == NULL else <v32*>(rest + place), N)
            else:
                outer_tile_of[v64](height, False, &product, row, n, N - n, <v64*>(c + place),
                                   NULL if rest == NULL else <v64*>(rest + place), N)
            row += height
        n += panel_columns[real](NULL)


cdef void pack_strips(Py_ssize_t K, Py_ssize_t M, const real* a, Py_ssize_t a_step, real* strips) noexcept nogil:
    """Pack a (K, M), whose rows are `a_step` apart, in strips of TILE_ROWS columns; missing ones become 0.

    k is the outer loop: the columns of a strip are few, and each line of the cache is read only once.
    """
    cdef Py_ssize_t k, m, copied = 4 if TILE_ROWS <= 4 else 8
    cdef real* target
    cdef int r
    for k in range(K):
        target = strips + k * TILE_ROWS
        m = 0
        while k < K - 1 and m + copied <= M:  # one move for a strip; what is copied too much the next k overwrites
            memcpy(target, a + m, copied * sizeof(real))
            target += K * TILE_ROWS
            m += TILE_ROWS
        while m < M:
            for r in range(TILE_ROWS):
                target[r] = a[m + r] if m + r < M else 0
            target += K * TILE_ROWS
            m += TILE_ROWS
        a += a_step


cdef void add_outer(Py_ssize_t K, Py_ssize_t M, Py_ssize_t N, const real* a, Py_ssize_t a_step, const real* b,
                    real* space, real* c, real* rest) noexcept nogil:
    """c (M, N) += a (K, M)^T b (K, N), in parts of PART_ROWS; the rows of a are `a_step` apart.

    `space` is for packed strips of a, OUTER_ROWS columns of a part, and for the panels of a part of b.
    """
    cdef real* panels = space + PART_ROWS * OUTER_ROWS
    cdef Py_ssize_t rows, some, first
    while K > 0:
        rows = min(K, <Py_ssize_t>PART_ROWS)
        pack[real](rows, N, b, N, 1, panels)
        first = 0
        while first < M:
            some = min(M - first, <Py_ssize_t>OUTER_ROWS)
            pack_strips[real](rows, some, a + first, a_step, space)
            outer_strips[real](False, rows, some, N, space, panels, c + first * N,
                               NULL if rest == NULL else rest + first * N)
            first += some
        a += rows * a_step
        b += rows * N
        K -= rows
