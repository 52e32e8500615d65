"""The C of the WebAssembly module that steps networks of any size: its functions get addresses and sizes."""

from __future__ import annotations

from . import functions, linear, vectors

INCLUDES = """
#include <stddef.h>
#include <stdint.h>
#include <string.h>
"""

WEB = r"""
#define LSTM_EXPORT(name) __attribute__((export_name(#name)))

LSTM_EXPORT(linear)
void lstm_web_linear(size_t columns, const float *w, size_t a_count, const float *a, size_t b_count, const float *b,
                     float *y)
{
    lstm_linear(columns, w, a_count, a, b_count, b, y);
}

/* of `count` numbers, rounded up to whole vectors */
LSTM_EXPORT(sigmoid)
void lstm_web_sigmoid(size_t count, float *x)
{
    size_t k;
    for (k = 0; k < count; k += LSTM_LANES)
        lstm_store(x + k, lstm_sigmoid(lstm_load(x + k)));
}

LSTM_EXPORT(tanh)
void lstm_web_tanh(size_t count, float *x)
{
    size_t k;
    for (k = 0; k < count; k += LSTM_LANES)
        lstm_store(x + k, lstm_tanh(lstm_load(x + k)));
}
"""


def source() -> str:
    """Return the whole C file."""
    return "".join([INCLUDES, vectors.VECTORS.replace("@EXACT@", "0"), functions.EXP, linear.LINEAR, WEB])
