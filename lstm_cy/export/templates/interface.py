"""The frame of an exported file: its declarations, the weights, and the functions that a program calls.

Words between two @ are replaced, and lines that begin with a name in brackets are kept or left out; see `c99`.
"""

HEADER = r"""
/* @FILE@: a neural network as one C99 file, written by lstm_cy @VERSION@.

   @TITLE@

   Include it where the network is used; in one source file of the program define LSTM_IMPLEMENTATION before, which adds
   the functions@WITH@:

       #define LSTM_IMPLEMENTATION
       #include "@FILE@"

       static lstm_state state;                        one for each stream
       int error = lstm_init(&state@ARGUMENTS@);
       error = lstm_step(&state, @X_SAMPLE@, y);                 @X_COMMENT@, float y[@OUTPUTS@]
       error = lstm_run(&state, steps, x, y);          many steps

   The functions use no heap, no files, no libm and no global variables: any number of threads may each use a state of
   their own. They return LSTM_OK or an error, after which nothing has changed.

   A step takes the same time for all numbers. NaN and infinity are no errors: they stay in the state until lstm_reset.
   With an fma instruction (x86: -mfma or -march=native; 64-bit ARM; Cortex-M4 and later with their FPU) the results are
   those of lstm_cy to the bit, else they differ by rounding. Compile without -ffast-math.

   State: @STATE_BYTES@ bytes and two pointers. Weights: @WEIGHT_BYTES@ bytes. */

#ifndef LSTM_H
#define LSTM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LSTM_INPUTS @INPUTS@ /* @INPUTS_COMMENT@ */
#define LSTM_OUTPUTS @OUTPUTS@ /* numbers of a step's output */

enum {
    LSTM_OK = 0,
    LSTM_ERROR_NULL = -1, /* a pointer is NULL */
[tokens]    LSTM_ERROR_TOKEN = -2, /* a token is not from 0 to LSTM_INPUTS - 1 */
[apart]    LSTM_ERROR_ALIGNMENT = -3, /* the weights' address is no multiple of 4 */
[apart]    LSTM_ERROR_MAGIC = -4, /* these are not weights for an exported network */
[apart]    LSTM_ERROR_BYTE_ORDER = -5, /* they are for a processor with the other byte order */
[apart]    LSTM_ERROR_VERSION = -6, /* they were written by another version */
[apart]    LSTM_ERROR_LAYOUT = -7, /* they are for a network with other layers or sizes */
[apart]    LSTM_ERROR_SIZE = -8, /* there are too few or too many bytes */
[apart]    LSTM_ERROR_CHECKSUM = -9, /* a byte of them has changed */
    LSTM_ERRORS_END
};

/* The state of a stream. It may be copied by assignment, to continue from the same point twice. */
typedef struct {
    /* what outputs depend on; h and c may be read and set between steps, numbers past a layer's size mean nothing */
    int now; /* 0 or 1 */
@MEMBERS@
    /* the weights, and working memory */
    const float *w;
    const signed char *q;
@WORK@
} lstm_state;

/* Prepare a state: it is the initial one. */
int lstm_init(lstm_state *state@PARAMETERS@);

/* Set a state to the initial one. */
int lstm_reset(lstm_state *state);

/* Compute one step, from @X_STEP@ to y[LSTM_OUTPUTS]@MAY_BE@.@LATE@ */
int lstm_step(lstm_state *state, @X_TYPE@x, float *y);

/* Compute `steps` steps, from @X_RUN@ to y[steps * LSTM_OUTPUTS]@MAY_BE@: the same bits as one by one. */
int lstm_run(lstm_state *state, size_t steps, const @X_ELEMENT@ *x, float *y);

#ifdef __cplusplus
}
#endif
#endif

#if defined(LSTM_SELF_TEST) && !defined(LSTM_IMPLEMENTATION)
#define LSTM_IMPLEMENTATION
#endif
#if defined(LSTM_IMPLEMENTATION) && !defined(LSTM_IMPLEMENTED)
#define LSTM_IMPLEMENTED

#include <string.h>
"""

FUNCTIONS = r"""
/* The network */

@WEIGHTS@
static void lstm_initial(lstm_state *state)
{
    const float *const w = state->w;
    (void)w;
    state->now = 0;
@RESET@
}

/* one step, of arguments that are right */
static void lstm_compute(lstm_state *state, @X_TYPE@x, float *y@SAVED_PARAMETER@@SUMS_PARAMETER@)
{
    const float *const w = state->w;
    const signed char *const q = state->q;
    const int now = state->now;
[flags]    int flag = LSTM_PRESENT;
    (void)w;
    (void)q;
[flags]    (void)flag;
@STEP@
    state->now = 1 - now;
    memcpy(y, @Y@, @OUTPUTS@ * sizeof(float)); /* last, so that y may be x */
[late]    if (flag == LSTM_EMPTY)
[late]        lstm_fill_nan(@OUTPUTS@, y);
}

int lstm_reset(lstm_state *state)
{
    if (!state)
        return LSTM_ERROR_NULL;
    lstm_initial(state);
    return LSTM_OK;
}

int lstm_run(lstm_state *state, size_t steps, const @X_ELEMENT@ *x, float *y)
{
    unsigned saved;
    size_t k;
    if (!state || !x || !y)
        return LSTM_ERROR_NULL;
[tokens]    for (k = 0; k < steps; k++)
[tokens]        if (x[k] < 0 || x[k] >= LSTM_INPUTS)
[tokens]            return LSTM_ERROR_TOKEN;
    saved = lstm_flush_denormals();
    k = 0;
[block]#ifdef LSTM_BLOCK
[block]    while (k + 1 < steps) {
[block]        static float sums[LSTM_BLOCK][(@BLOCK_UNITS@ + 7) / 8 * 32];
[block]        const size_t left = steps - k, block = left < LSTM_BLOCK ? left / 2 * 2 : LSTM_BLOCK;
[block]        size_t step;
[block]        lstm_input_sums(@BLOCK_ARGUMENTS@, block, @X_AT_K@, sums[0]);
[block]        for (step = 0; step < block; step++, k++)
[block]            lstm_compute(state, @X_AT_K@, y + k * LSTM_OUTPUTS@SAVED@, sums[step]);
[block]    }
[block]#endif
    for (; k < steps; k++)
        lstm_compute(state, @X_AT_K@, y + k * LSTM_OUTPUTS@SAVED@@NO_SUMS@);
    lstm_restore_denormals(saved);
    return LSTM_OK;
}

int lstm_step(lstm_state *state, @X_TYPE@x, float *y)
{
    return lstm_run(state, 1, @X_ADDRESS@, y);
}
"""

#: of a model with layers that do not give an output at every step
LATE = """ A step gives the last output
   for the input so far: NaN until the first windows of steps are complete."""

#: the weights in the file
INIT = r"""
int lstm_init(lstm_state *state)
{
    if (!state)
        return LSTM_ERROR_NULL;
    memset(state, 0, sizeof *state);
    state->w = lstm_weights;
    state->q = @Q@;
    lstm_initial(state);
    return LSTM_OK;
}
"""

#: the weights in a file of their own; its header is eight numbers of 32 bits
INIT_APART = r"""
/* CRC-32, as in zip and PNG */
static uint32_t lstm_checksum(const unsigned char *bytes, size_t count)
{
    uint32_t sum = 0xffffffffu;
    size_t k;
    int bit;
    for (k = 0; k < count; k++) {
        sum ^= bytes[k];
        for (bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (sum & 1 ? 0xedb88320u : 0);
    }
    return ~sum;
}

int lstm_init(lstm_state *state, const void *weights, size_t size)
{
    const unsigned char *const bytes = (const unsigned char *)weights;
    uint32_t header[8]; /* magic, byte order, version, layout, floats, bytes of int8, checksum of what follows, 0 */
    if (!state || !weights)
        return LSTM_ERROR_NULL;
    if ((uintptr_t)weights % sizeof(float))
        return LSTM_ERROR_ALIGNMENT;
    if (size < sizeof header)
        return LSTM_ERROR_SIZE;
    memcpy(header, bytes, sizeof header);
    if (memcmp(bytes, "LSTW", 4) != 0)
        return LSTM_ERROR_MAGIC;
    if (header[1] != 0x01020304u)
        return LSTM_ERROR_BYTE_ORDER;
    if (header[2] != @FORMAT@u)
        return LSTM_ERROR_VERSION;
    if (header[3] != @LAYOUT@u || header[4] != @FLOATS@u || header[5] != @BYTES@u)
        return LSTM_ERROR_LAYOUT;
    if (size != sizeof header + 4 * (size_t)header[4] + header[5])
        return LSTM_ERROR_SIZE;
    if (header[6] != lstm_checksum(bytes + sizeof header, size - sizeof header))
        return LSTM_ERROR_CHECKSUM;
    memset(state, 0, sizeof *state);
    state->w = (const float *)(const void *)(bytes + sizeof header);
    state->q = (const signed char *)(bytes + sizeof header + 4 * (size_t)header[4]);
    lstm_initial(state);
    return LSTM_OK;
}
"""

END = r"""
#endif
"""
