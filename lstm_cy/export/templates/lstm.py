"""A step of a plain LSTM layer in C."""

LSTM = r"""
/* A step of an LSTM layer.

   Weights are in panels of 8 units. A row of a panel has the numbers of the units' input gates, then of their forget
   gates, candidates and output gates: 32 in all. The first row are the biases (the sums of both), then there is one row
   for each input and one for each unit of the last h. So the sums of all gates of some units stay in registers, and the
   cell is computed on them at once. */

typedef struct {
    lstm_vector i, f, g, o;
} lstm_gates;

LSTM_INLINE lstm_gates lstm_biases(const float *w)
{
    lstm_gates z;
    z.i = lstm_load(w);
    z.f = lstm_load(w + 8);
    z.g = lstm_load(w + 16);
    z.o = lstm_load(w + 24);
    return z;
}

LSTM_INLINE void lstm_add(lstm_gates *z, lstm_vector factor, const float *w)
{
#if defined(__GNUC__) && defined(__wasm__)
    __asm__("" : "+r"(w)); /* otherwise clang adds an offset to each address, where a load could have it */
#endif
    z->i = lstm_fma(factor, lstm_load(w), z->i);
    z->f = lstm_fma(factor, lstm_load(w + 8), z->f);
    z->g = lstm_fma(factor, lstm_load(w + 16), z->g);
    z->o = lstm_fma(factor, lstm_load(w + 24), z->o);
}

/* c = f c + i g, h = o tanh(c) */
LSTM_INLINE void lstm_update(const lstm_gates *z, float *c, float *h)
{
    const lstm_vector i = lstm_sigmoid(z->i), f = lstm_sigmoid(z->f), g = lstm_tanh(z->g), o = lstm_sigmoid(z->o);
    const lstm_vector cell = lstm_fma(f, lstm_load(c), i * g);
    lstm_store(c, cell);
    lstm_store(h, o * lstm_tanh(cell));
}

/* one vector of units, whose sums begin with those at `start`; their weights are in the rows behind w */
static void lstm_one(const float *start, const float *w, size_t inputs, const float *x, size_t units,
                     const float *h, float *c, float *next)
{
    lstm_gates z = lstm_biases(start);
    size_t k;
    for (k = 0; k < inputs; k++)
        lstm_add(&z, lstm_all(x[k]), w += 32);
    for (k = 0; k < units; k++)
        lstm_add(&z, lstm_all(h[k]), w += 32);
    lstm_update(&z, c, next);
}

/* two vectors of units: more additions at a time, which need not wait for each other */
static void lstm_two(const float *start, const float *second, const float *w, const float *v, size_t inputs,
                     const float *x, size_t units, const float *h, float *c, float *next)
{
    lstm_gates y = lstm_biases(start), z = lstm_biases(second);
    size_t k;
    for (k = 0; k < inputs; k++) {
        lstm_add(&y, lstm_all(x[k]), w += 32);
        lstm_add(&z, lstm_all(x[k]), v += 32);
    }
    for (k = 0; k < units; k++) {
        lstm_add(&y, lstm_all(h[k]), w += 32);
        lstm_add(&z, lstm_all(h[k]), v += 32);
    }
    lstm_update(&y, c, next);
    lstm_update(&z, c + LSTM_LANES, next + LSTM_LANES);
}

/* All units: `next` becomes the new h, c is updated. At every other step the weights are read from their end, for the
   caches still hold that part of them. Weights from further away than the L1 cache come faster one panel at a time.
   `sums` is NULL, or has the sums of the biases and inputs, in the order of the biases: 32 numbers for each panel. */
static void lstm_layer(size_t units, size_t inputs, const float *weights, const float *x, const float *h, float *c,
                       float *next, int from_end, const float *sums)
{
    const size_t panel = 32 * (1 + inputs + units), skipped = sums ? inputs : 0;
    const int pairs = LSTM_LANES < 8 || panel * units / 8 <= 20480;
    const size_t width = pairs ? 2 * LSTM_LANES : LSTM_LANES, count = (units + width - 1) / width;
    size_t n;
    for (n = 0; n < count; n++) {
        const size_t unit = (from_end ? count - 1 - n : n) * width, inside = unit % 8;
        const float *w = weights + unit / 8 * panel + inside;
        const float *start = sums ? sums + unit / 8 * 32 + inside : w;
        w += 32 * skipped;
        if (pairs && unit + LSTM_LANES < units) {
            const size_t further = LSTM_LANES < 8 ? LSTM_LANES : panel, second = LSTM_LANES < 8 ? LSTM_LANES : 32;
            lstm_two(start, start + (sums ? second : further), w, w + further, inputs - skipped, x, units, h, c + unit,
                     next + unit);
        } else {
            lstm_one(start, w, inputs - skipped, x, units, h, c + unit, next + unit);
        }
    }
}
"""

#: in a program with one thread: the sums of several steps' inputs, for which the weights are read once
BLOCK = r"""
#ifdef LSTM_BLOCK
LSTM_INLINE void lstm_keep(const lstm_gates *z, float *sums)
{
    lstm_store(sums, z->i);
    lstm_store(sums + 8, z->f);
    lstm_store(sums + 16, z->g);
    lstm_store(sums + 24, z->o);
}

/* the sums of biases and inputs of an even number of steps: 32 numbers for each panel, step after step */
static void lstm_input_sums(size_t units, size_t inputs, const float *weights, size_t steps, const float *x,
                            float *sums)
{
    const size_t panels = (units + 7) / 8;
    size_t n, step, inside, k;
    for (n = 0; n < panels; n++, weights += 32 * (1 + inputs + units))
        for (step = 0; step < steps; step += 2)
            for (inside = 0; inside < 8; inside += LSTM_LANES) {
                const float *w = weights + inside, *const a = x + step * inputs, *const b = a + inputs;
                float *const first = sums + (step * panels + n) * 32 + inside, *const second = first + panels * 32;
                lstm_gates y = lstm_biases(w), z = y;
                for (k = 0; k < inputs; k++) {
                    w += 32;
                    lstm_add(&y, lstm_all(a[k]), w);
                    lstm_add(&z, lstm_all(b[k]), w);
                }
                lstm_keep(&y, first);
                lstm_keep(&z, second);
            }
}
#endif
"""
