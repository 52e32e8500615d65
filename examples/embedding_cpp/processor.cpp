// Models stepped from C++, in a thread of its own and without the GIL: a Python module without Cython.

#include <Python.h>

#include <lstm_cy.h>

#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

const lstm_cy_functions *lstm_cy; // set when the module is imported

// One stream of a model: freed with the object, moved but not copied.
class Stream {
public:
    // needs the GIL; throws with a Python error set
    explicit Stream(PyObject *model)
    {
        lstm_cy_model *opened = lstm_cy->model_open(model);
        if (!opened)
            throw std::runtime_error("model_open");
        inputs_ = lstm_cy->model_inputs(opened);
        outputs_ = lstm_cy->model_outputs(opened);
        int error = inputs_ ? LSTM_CY_DTYPE : LSTM_CY_INPUT; // a model of tokens has no inputs
        if (inputs_ && lstm_cy->model_itemsize(opened) == sizeof(float))
            error = lstm_cy->stream_create(opened, 1, &stream_);
        lstm_cy->model_close(opened); // the stream keeps the weights
        if (error != LSTM_CY_OK) {
            PyErr_SetString(PyExc_ValueError, lstm_cy->message(error));
            throw std::runtime_error("stream_create");
        }
    }
    ~Stream() { lstm_cy->stream_free(stream_); }
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    std::size_t inputs() const { return static_cast<std::size_t>(inputs_); }
    std::size_t outputs() const { return static_cast<std::size_t>(outputs_); }

    // what an audio callback calls: no lock, no allocation, no GIL
    int run(std::size_t steps, const float *x, float *y) noexcept
    {
        return lstm_cy->run_f32(stream_, static_cast<Py_ssize_t>(steps), x, y);
    }

private:
    lstm_cy_stream *stream_ = nullptr;
    Py_ssize_t inputs_ = 0;
    Py_ssize_t outputs_ = 0;
};

// process(model, samples): the outputs of all samples, as bytes of float32
PyObject *process(PyObject *, PyObject *arguments)
{
    PyObject *model = nullptr;
    Py_buffer samples;
    if (!PyArg_ParseTuple(arguments, "Oy*", &model, &samples))
        return nullptr;
    PyObject *result = nullptr;
    try {
        Stream stream(model);
        const std::size_t count = static_cast<std::size_t>(samples.len) / sizeof(float);
        const std::size_t steps = count / stream.inputs();
        std::vector<float> played(steps * stream.outputs() + 1); // never empty, so that its address is not null
        int error = LSTM_CY_OK;
        Py_BEGIN_ALLOW_THREADS
        std::thread worker([&] { error = stream.run(steps, static_cast<const float *>(samples.buf), played.data()); });
        worker.join();
        Py_END_ALLOW_THREADS
        if (error != LSTM_CY_OK)
            PyErr_SetString(PyExc_ValueError, lstm_cy->message(error));
        else
            result = PyBytes_FromStringAndSize(reinterpret_cast<const char *>(played.data()),
                                               static_cast<Py_ssize_t>((played.size() - 1) * sizeof(float)));
    } catch (const std::exception &error) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    PyBuffer_Release(&samples);
    return result;
}

PyMethodDef methods[] = {{"process", process, METH_VARARGS, "process(model, samples) -> bytes"},
                         {nullptr, nullptr, 0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "processor", "Models stepped from C++.", -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC PyInit_processor(void)
{
    lstm_cy = lstm_cy_import();
    return lstm_cy ? PyModule_Create(&definition) : nullptr;
}
