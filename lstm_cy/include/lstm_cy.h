/* The C interface of lstm_cy for C and C++, without Cython: a table of functions that the compiled library fills.

   lstm_cy_import() returns the table; it needs the GIL and, like all of Python's functions, a running Python. Every
   function of the table except model_open may be called without the GIL. What they do, and the rules of lifetime,
   threads and real time, are in docs/embedding.md; lstm_cy/embed.pxd has a comment for each, and the shapes.

   Compile with the folder that lstm_cy.get_include() returns, and Python's headers. */

#ifndef LSTM_CY_H
#define LSTM_CY_H

#include <Python.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef LSTM_CY_DECLARED /* embed.pxd declares these in the library itself */

typedef struct lstm_cy_model lstm_cy_model;   /* weights, immutable: any number of threads may use them */
typedef struct lstm_cy_stream lstm_cy_stream; /* rows that step together, with their state: one thread at a time */

enum {
    LSTM_CY_OK = 0,
    LSTM_CY_NULL = -1,   /* a pointer is NULL */
    LSTM_CY_DTYPE = -2,  /* f32 for a float64 model, or f64 for a float32 model */
    LSTM_CY_INPUT = -3,  /* numbers for a model that takes tokens, or tokens for a model that takes numbers */
    LSTM_CY_SIZE = -4,   /* a number of steps or rows, or the number of a row or an LSTM, is out of range */
    LSTM_CY_TOKEN = -5,  /* a token is not from 0 to the number of tokens - 1 */
    LSTM_CY_BUSY = -6,   /* another thread is using this stream */
    LSTM_CY_MEMORY = -7  /* there is not enough memory */
};

#endif

/* The functions, named as in embed.pxd without "lstm_cy_". Later versions add to the end only. */
typedef struct {
    size_t size; /* the bytes of the table that the library has */
    const char *(*message)(int error);
    lstm_cy_model *(*model_open)(PyObject *model);
    int (*model_close)(lstm_cy_model *model);
    Py_ssize_t (*model_inputs)(const lstm_cy_model *model);
    Py_ssize_t (*model_tokens)(const lstm_cy_model *model);
    Py_ssize_t (*model_outputs)(const lstm_cy_model *model);
    Py_ssize_t (*model_itemsize)(const lstm_cy_model *model);
    Py_ssize_t (*model_lstms)(const lstm_cy_model *model);
    Py_ssize_t (*model_layers)(const lstm_cy_model *model, Py_ssize_t lstm);
    Py_ssize_t (*model_hidden)(const lstm_cy_model *model, Py_ssize_t lstm);
    Py_ssize_t (*model_state_size)(const lstm_cy_model *model, Py_ssize_t lstm);
    int (*model_realtime)(const lstm_cy_model *model);
    int (*stream_create)(lstm_cy_model *model, Py_ssize_t rows, lstm_cy_stream **stream);
    int (*stream_clone)(lstm_cy_stream *stream, lstm_cy_stream **clone);
    int (*stream_free)(lstm_cy_stream *stream);
    Py_ssize_t (*stream_rows)(const lstm_cy_stream *stream);
    int (*stream_reset)(lstm_cy_stream *stream);
    int (*stream_reset_row)(lstm_cy_stream *stream, Py_ssize_t row);
    int (*stream_get_state_f32)(lstm_cy_stream *stream, Py_ssize_t lstm, float *h, float *c);
    int (*stream_get_state_f64)(lstm_cy_stream *stream, Py_ssize_t lstm, double *h, double *c);
    int (*stream_set_state_f32)(lstm_cy_stream *stream, Py_ssize_t lstm, const float *h, const float *c);
    int (*stream_set_state_f64)(lstm_cy_stream *stream, Py_ssize_t lstm, const double *h, const double *c);
    int (*step_f32)(lstm_cy_stream *stream, const float *x, float *y);
    int (*step_f64)(lstm_cy_stream *stream, const double *x, double *y);
    int (*run_f32)(lstm_cy_stream *stream, Py_ssize_t T, const float *x, float *y);
    int (*run_f64)(lstm_cy_stream *stream, Py_ssize_t T, const double *x, double *y);
    int (*step_tokens_f32)(lstm_cy_stream *stream, const Py_ssize_t *tokens, float *y);
    int (*step_tokens_f64)(lstm_cy_stream *stream, const Py_ssize_t *tokens, double *y);
    int (*run_tokens_f32)(lstm_cy_stream *stream, Py_ssize_t T, const Py_ssize_t *tokens, float *y);
    int (*run_tokens_f64)(lstm_cy_stream *stream, Py_ssize_t T, const Py_ssize_t *tokens, double *y);
    Py_ssize_t (*stream_state_bytes)(const lstm_cy_stream *stream);
    int (*stream_get_state)(lstm_cy_stream *stream, void *state);
    int (*stream_set_state)(lstm_cy_stream *stream, const void *state);
} lstm_cy_functions;

#ifndef LSTM_CY_DECLARED

/* Return the functions of the installed library, or NULL with a Python error set. */
static inline const lstm_cy_functions *lstm_cy_import(void)
{
    const lstm_cy_functions *functions = NULL;
    PyObject *module = PyImport_ImportModule("lstm_cy.embed");
    PyObject *capsule = module ? PyObject_GetAttrString(module, "functions") : NULL;
    if (capsule)
        functions = (const lstm_cy_functions *)PyCapsule_GetPointer(capsule, "lstm_cy.embed.functions");
    Py_XDECREF(capsule);
    Py_XDECREF(module);
    if (functions && functions->size < sizeof *functions) {
        PyErr_SetString(PyExc_ImportError, "lstm_cy is older than the lstm_cy.h that this was compiled with");
        return NULL;
    }
    return functions; /* the table is static: it exists as long as the process */
}

#endif

#ifdef __cplusplus
}
#endif

#endif
