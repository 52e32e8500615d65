"""Connectionist temporal classification: -log p(target), all alignments summed, and its gradient.

A. Graves et al., Connectionist temporal classification: labelling unsegmented sequence data with recurrent neural
networks, 2006, section 4. The target is extended by blanks before, between and after its labels: states 0, 2, 4, ...
are blanks and state 2i + 1 is label i. An alignment goes through the states in order, one a step: it stays, moves on by
one, or leaves out the blank between two labels that differ.

All sums are of logarithms in double, for scores of any precision: nothing underflows on long rows.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, NAN, isfinite
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from .network cimport DONE, NO_MEMORY, Rows, Status, address, check, poll_interrupt, rows_of
from .scalar cimport exp_of, log1p_of, log_of
from .table cimport ELEMENT_EXP, Kernels, elementwise, exponentials, real

cdef enum:
    # The cost of a logarithm, in the multiply-adds that `poll_interrupt` counts.
    LOGARITHM = 1000

# A term so much smaller than another, as a logarithm, does not change a sum of two doubles.
cdef double NEGLIGIBLE = -40

ctypedef struct Row:
    # one row: its scores and gradient, whose steps are `step` elements apart, and its target
    Py_ssize_t T, V, S, step
    const Py_ssize_t* target
    Py_ssize_t blank

ctypedef struct Space:
    # the kernels, working arrays for a row, and the counters of `poll_interrupt`
    const Kernels* kernels
    double* normalizers  # (T,) log of the sum of exp of a step's scores
    double* forward      # (T, states) log of the sum over the paths to a state after a step
    double* backward     # (states,)   log of the sum over the paths from there to the end
    double* later        # (states,)   the same, one step later
    double* occupied     # (V,)        the probability that a step belongs to a class
    double* softmax      # (V,)        the softmax of a step's scores
    Py_ssize_t work, stop


def ctc(kernels, prediction, gradient, targets, lengths, target_lengths, losses, Py_ssize_t blank, double scale,
        bint batch_first):
    """Write each row's -log p(target) to `losses`, and `scale` times its gradient to `gradient`.

    Parameters
    ----------
    kernels : capsule
        The table of an instruction set.
    prediction, gradient : arrays (T, B, V), or (B, T, V) with batch_first
        Scores before the softmax, and the result; steps past a row's length are not written.
    targets : intp array (B, S)
        Entries within a row's target length must not be the blank.
    lengths, target_lengths : intp arrays (B,)
    losses : float64 array (B,)
        Infinite where no alignment has a probability above 0, NaN where a score is NaN or all of a step's are
        infinite; the row's gradient is then NaN.
    """
    cdef Rows scores = rows_of(prediction, batch_first), results = rows_of(gradient, batch_first)
    cdef const Py_ssize_t* steps = <const Py_ssize_t*>address(lengths)
    cdef const Py_ssize_t* labels = <const Py_ssize_t*>address(target_lengths)
    cdef const Py_ssize_t* target = <const Py_ssize_t*>address(targets)
    cdef double* loss = <double*>address(losses)
    cdef Py_ssize_t B = targets.shape[0], S = targets.shape[1], b
    cdef Py_ssize_t longest = max(lengths.max(), 0)
    cdef bint single = prediction.itemsize == 4
    cdef Row row
    cdef Space space
    cdef Status status = DONE
    row.V = scores.width
    row.step = scores.step
    row.blank = blank
    space.kernels = <const Kernels*>PyCapsule_GetPointer(kernels, "lstm_cy.kernels")
    cdef double* memory = <double*>malloc((longest * (2 * S + 2) + 2 * (2 * S + 1) + 2 * row.V) * sizeof(double))
    if memory == NULL:
        check(NO_MEMORY)
    space.work = space.stop = 0
    space.normalizers = memory
    space.backward = space.normalizers + longest
    space.later = space.backward + 2 * S + 1
    space.occupied = space.later + 2 * S + 1
    space.softmax = space.occupied + row.V
    space.forward = space.softmax + row.V
    with nogil:
        for b in range(B):
            row.T = steps[b]
            row.S = labels[b]
            row.target = target + b * S
            if single:
                status = align[float](&row, &space, <const float*>scores.data + b * scores.row, scale, &loss[b],
                                      <float*>results.data + b * results.row)
            else:
                status = align[double](&row, &space, <const double*>scores.data + b * scores.row, scale, &loss[b],
                                       <double*>results.data + b * results.row)
            if status != DONE:
                break
    free(memory)
    check(status)


cdef Status align(const Row* row, Space* space, const real* scores, double scale, double* loss,
                  real* gradient) noexcept nogil:
    """Compute one row's loss, and its gradient times `scale`."""
    cdef Py_ssize_t t, k, states = 2 * row.S + 1
    cdef double total = NAN
    cdef Status status = DONE
    if normalize[real](row, space, scores):
        status = run_forward[real](row, space, scores, &total)
    loss[0] = -total
    if not isfinite(total):
        for t in range(row.T):
            for k in range(row.V):
                gradient[t * row.step + k] = <real>NAN
        return status
    for t in range(row.T - 1, -1, -1):
        if status != DONE:
            break
        step_back[real](row, t, space, scores)
        write_gradient[real](row, t, space, scores + t * row.step, space.forward + t * states, total, scale,
                             gradient + t * row.step)
        status = poll_interrupt(LOGARITHM * (states + row.V), &space.work, &space.stop, True)
    return status


cdef bint normalize(const Row* row, const Space* space, const real* scores) noexcept nogil:
    """Compute log(sum(exp(scores))) of each step; return whether all of them are finite."""
    cdef Py_ssize_t t, k
    cdef double highest, total
    for t in range(row.T):
        for k in range(row.V):
            space.occupied[k] = scores[k]
        total = exponentials[double](space.kernels, row.V, space.occupied, space.occupied, &highest)
        space.normalizers[t] = highest + log_of(total)
        if not isfinite(space.normalizers[t]):
            return False
        scores += row.step
    return True


cdef Status run_forward(const Row* row, Space* space, const real* scores, double* result) noexcept nogil:
    """Fill `forward`, and compute the log of the probability of all alignments."""
    cdef Py_ssize_t t, s, states = 2 * row.S + 1
    cdef double* now = space.forward
    cdef const double* before
    cdef double total
    cdef Status status
    if row.T == 0:
        result[0] = 0 if row.S == 0 else -INFINITY
        return DONE
    for s in range(states):
        now[s] = emission[real](row, s, scores, space.normalizers[0]) if s < 2 else -INFINITY
    for t in range(1, row.T):
        before = now
        now += states
        scores += row.step
        for s in range(states):
            # States that cannot be reached yet, or cannot reach the end any more, need no logarithm.
            if s > 2 * t + 1 or s < states - 2 * (row.T - t):
                now[s] = -INFINITY
                continue
            total = before[s]
            if s > 0:
                total = add(total, before[s - 1])
            if may_skip(row, s):
                total = add(total, before[s - 2])
            now[s] = total + emission[real](row, s, scores, space.normalizers[t])
        status = poll_interrupt(LOGARITHM * states, &space.work, &space.stop, True)
        if status != DONE:
            return status
    result[0] = add(now[states - 1], now[states - 2]) if states > 1 else now[0]
    return DONE


cdef void step_back(const Row* row, Py_ssize_t t, const Space* space, const real* scores) noexcept nogil:
    """Update `backward` from its values after step t + 1 to those after step t."""
    cdef Py_ssize_t s, states = 2 * row.S + 1
    cdef double total
    if t == row.T - 1:
        for s in range(states):
            space.backward[s] = 0 if s >= states - 2 else -INFINITY
        return
    scores += (t + 1) * row.step
    for s in range(states):
        space.later[s] = space.backward[s] + emission[real](row, s, scores, space.normalizers[t + 1])
    for s in range(states):
        if s > 2 * t + 1:
            space.backward[s] = -INFINITY
            continue
        total = space.later[s]
        if s + 1 < states:
            total = add(total, space.later[s + 1])
        if s + 2 < states and may_skip(row, s + 2):
            total = add(total, space.later[s + 2])
        space.backward[s] = total


cdef void write_gradient(const Row* row, Py_ssize_t t, const Space* space, const real* scores, const double* forward,
                         double total, double scale, real* gradient) noexcept nogil:
    """Compute scale * (softmax - share of the alignments that are in a class) of step t."""
    cdef Py_ssize_t s, k, states = 2 * row.S + 1
    memset(space.occupied, 0, row.V * sizeof(double))
    for s in range(states):
        space.later[s] = forward[s] + space.backward[s] - total
    elementwise[double](space.kernels, ELEMENT_EXP, states, space.later, space.later)
    for s in range(states):
        space.occupied[label(row, s)] += space.later[s]
    for k in range(row.V):
        space.softmax[k] = scores[k] - space.normalizers[t]
    elementwise[double](space.kernels, ELEMENT_EXP, row.V, space.softmax, space.softmax)
    for k in range(row.V):
        gradient[k] = <real>(scale * (space.softmax[k] - space.occupied[k]))


cdef inline Py_ssize_t label(const Row* row, Py_ssize_t s) noexcept nogil:
    """Return the class of a state."""
    return row.target[s >> 1] if s & 1 else row.blank


cdef inline double emission(const Row* row, Py_ssize_t s, const real* scores, double normalizer) noexcept nogil:
    """Return the log-probability of a state's class."""
    return scores[label(row, s)] - normalizer


cdef inline bint may_skip(const Row* row, Py_ssize_t s) noexcept nogil:
    """Return whether a state can follow the label before it directly, without the blank between."""
    return s & 1 and s > 1 and row.target[s >> 1] != row.target[(s >> 1) - 1]


cdef inline double add(double a, double b) noexcept nogil:
    """Return log(exp(a) + exp(b))."""
    cdef double high = max(a, b), low = min(a, b)
    return high + log1p_of(exp_of(low - high)) if low - high > NEGLIGIBLE else high
