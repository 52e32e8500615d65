"""Affine maps in C, of one or of two inputs."""

LINEAR = r"""
/* Affine maps.

   Weights are in panels of 32 outputs, the last one of as many as are left, in multiples of 8: the biases of a panel,
   then for each input the weights of all its outputs. Every output is one chain of additions: its bias, then one
   product after the other. `a` has `a_count` inputs and `b` has `b_count` more, which may be 0. */

/* the outputs of `vectors` (1 or 4) vectors at w; rows of the panel are `width` apart */
LSTM_INLINE void lstm_outputs(int vectors, size_t width, const float *w, size_t a_count, const float *a, size_t b_count,
                              const float *b, float *y)
{
    const size_t second = LSTM_LANES, third = 2 * LSTM_LANES, fourth = 3 * LSTM_LANES;
    lstm_vector y0 = lstm_load(w), y1 = y0, y2 = y0, y3 = y0;
    size_t k;
    if (vectors > 1) {
        y1 = lstm_load(w + second);
        y2 = lstm_load(w + third);
        y3 = lstm_load(w + fourth);
    }
    for (k = 0; k < a_count + b_count; k++) {
        const lstm_vector factor = lstm_all(k < a_count ? a[k] : b[k - a_count]);
        w += width;
        y0 = lstm_fma(factor, lstm_load(w), y0);
        if (vectors > 1) {
            y1 = lstm_fma(factor, lstm_load(w + second), y1);
            y2 = lstm_fma(factor, lstm_load(w + third), y2);
            y3 = lstm_fma(factor, lstm_load(w + fourth), y3);
        }
    }
    lstm_store(y, y0);
    if (vectors > 1) {
        lstm_store(y + second, y1);
        lstm_store(y + third, y2);
        lstm_store(y + fourth, y3);
    }
}

/* y (count, rounded up to a multiple of 8) = bias + a W_a^T + b W_b^T */
static void lstm_linear(size_t count, const float *w, size_t a_count, const float *a, size_t b_count, const float *b,
                        float *y)
{
    size_t first, n;
    for (first = 0; first < count; first += 32) {
        const size_t left = count - first, width = left < 32 ? (left + 7) / 8 * 8 : 32;
        for (n = 0; n < width && n < left;) {
            if (n + 4 * LSTM_LANES <= width) {
                lstm_outputs(4, width, w + n, a_count, a, b_count, b, y + first + n);
                n += 4 * LSTM_LANES;
            } else {
                lstm_outputs(1, width, w + n, a_count, a, b_count, b, y + first + n);
                n += LSTM_LANES;
            }
        }
        w += width * (1 + a_count + b_count);
    }
}
"""

ADD = r"""
/* y = a + b */
static void lstm_sum_of(size_t count, const float *a, const float *b, float *y)
{
    size_t k;
    for (k = 0; k < count; k++)
        y[k] = a[k] + b[k];
}
"""
