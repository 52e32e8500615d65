"""The C interface, called from compiled code: tests/data/embed_driver.pyx is compiled here and called."""

import ctypes
import gc
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
import weakref
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
from common import bits, every_implementation, random_case, small_lstm

import lstm_cy
from lstm_cy import (
    LSTM,
    Conv1D,
    Dropout,
    Embedding,
    Flatten,
    GlobalPooling1D,
    Linear,
    Residual,
    Sequential,
    embed,
    from_onnx,
)

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = Path(lstm_cy.__file__).parent
EXAMPLE = ROOT / "examples" / "embedding"

pytest.importorskip("Cython")
pytest.importorskip("setuptools")
pytestmark = pytest.mark.skipif(
    os.name != "posix" or not shutil.which("cc"), reason="needs a C compiler and POSIX threads"
)


def environment(**more):
    """Return an environment in which Python and Cython find this lstm_cy, and compile without optimisation."""
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CFLAGS": "-O0 -g0", **more}


@pytest.fixture(scope="session")
def driver_folder(tmp_path_factory):
    """A folder with only the compiled driver: Cython must find `embed.pxd` and its dependencies by itself."""
    folder = tmp_path_factory.mktemp("driver")
    shutil.copy(TESTS / "data" / "embed_driver.pyx", folder)
    subprocess.run(
        [sys.executable, "-m", "Cython.Build.Cythonize", "-i", "-3", "-q", "embed_driver.pyx"],
        cwd=folder,
        env=environment(),
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="session")
def driver(driver_folder):
    spec = importlib.util.spec_from_file_location("embed_driver", next(driver_folder.glob("*.so")))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Stream:
    """A stream for arrays; it checks that no call returns an error."""

    def __init__(self, driver, model, rows=1, handle=None):
        if handle is None:
            opened = driver.Model(model)
            error, handle = opened.create(rows)
            assert error == 0
            assert opened.close() == 0  # the stream can still be used
        self.driver, self.model, self.rows, self.handle = driver, model, rows, handle
        self.f64 = model.dtype == np.float64
        first = model.layers[0] if isinstance(model, Sequential) else model
        if isinstance(first, Dropout):
            first = model.layers[1]
        self.tokens = isinstance(first, Embedding)
        self.dtype = np.intp if self.tokens else model.dtype
        last = model.layers[-1] if isinstance(model, Sequential) else model
        self.width = next(
            getattr(last, n) for n in ("output_size", "out_features", "embedding_dim") if hasattr(last, n)
        )

    def step(self, x):
        x, y = np.ascontiguousarray(x, self.dtype), np.empty((self.rows, self.width), self.model.dtype)
        assert self.handle.step(self.f64, self.tokens, x.ctypes.data, y.ctypes.data) == 0
        return y

    def run(self, x):
        x, y = np.ascontiguousarray(x, self.dtype), np.empty((len(x), self.rows, self.width), self.model.dtype)
        assert self.handle.run(self.f64, self.tokens, len(x), x.ctypes.data, y.ctypes.data) == 0
        return y

    def lstms(self):
        return list(lstms_of(self.model))

    def state(self):
        pairs = []
        for number, lstm in enumerate(self.lstms()):
            h, c = (
                np.empty((lstm.num_layers, self.rows, width), self.model.dtype)
                for width in (lstm.proj_size or lstm.hidden_size, lstm.hidden_size)
            )
            assert self.handle.get_state(self.f64, number, h.ctypes.data, c.ctypes.data) == 0
            pairs.append((h, c))
        return pairs

    def set_state(self, pairs):
        for number, (h, c) in enumerate(pairs):
            assert self.handle.set_state(self.f64, number, h.ctypes.data, c.ctypes.data) == 0

    def clone(self):
        error, handle = self.handle.clone()
        assert error == 0
        return Stream(self.driver, self.model, self.rows, handle)

    def free(self):
        assert self.handle.free() == 0


def lstms_of(layer):
    if isinstance(layer, Sequential | Residual):
        for part in layer.parts:
            yield from lstms_of(part)
    elif layer.num_states:
        yield layer


def language_model(dtype="float32"):
    return Sequential(
        Dropout(0.5),
        Embedding(4, 3, dtype=dtype, seed=0),
        LSTM(3, 17, 2, dtype=dtype, seed=1),
        Linear(17, 9, dtype=dtype, bias=False, seed=2),
        LSTM(9, 33, dtype=dtype, seed=3, proj_size=7),
        Linear(7, 5, dtype=dtype, seed=5),
    )


MODELS = {
    "plain": lambda: LSTM(5, 17, seed=0),
    "one input": lambda: LSTM(1, 24, seed=0),
    "layers": lambda: LSTM(5, 33, 3, bias=False, seed=0),
    "float64": lambda: LSTM(5, 33, 2, dtype="float64", seed=0),
    "projection": lambda: LSTM(5, 17, 2, proj_size=6, proj_clip=0.2, seed=0),
    "peepholes": lambda: LSTM(5, 17, 2, peepholes=True, cell_clip=0.5, seed=0),
    "coupled": lambda: LSTM(5, 17, coupled_gates="f=1-i", dtype="float64", seed=0),
    "normalised": lambda: LSTM(5, 17, layer_norm=True, activations=("hardsigmoid", "relu", "softsign"), seed=0),
    "bf16": lambda: LSTM(5, 65, 2, seed=0).quantize("bf16"),
    "int8": lambda: LSTM(5, 65, 2, seed=0).quantize("int8"),
    "tokens": language_model,
    "tokens in float64": lambda: language_model("float64"),
    "narrow tokens": lambda: Sequential(Embedding(4, 8, seed=0), LSTM(8, 9, seed=1), Linear(9, 2, seed=2)).quantize(
        "bf16"
    ),
    "Residual": lambda: Sequential(
        Linear(5, 3, seed=0), Residual(LSTM(3, 20, 2, seed=1), Linear(20, 2, seed=2)), Linear(2, 5, seed=3)
    ),
    "Linear alone": lambda: Sequential(Linear(5, 70, seed=0)),
    "Embedding alone": lambda: Sequential(Embedding(4, 3, seed=0)),
}


def inputs(stream, T, seed=0):
    rng = np.random.default_rng(seed)
    if stream.tokens:
        return rng.integers(0, 4, (T, stream.rows))
    return rng.standard_normal((T, stream.rows, 1 if stream.model.config.get("input_size") == 1 else 5)).astype(
        stream.dtype
    )


def stepper_state(stepper):
    return stepper.state if isinstance(stepper.state, list) else [stepper.state]


def same_bits(a, b):
    flat = [[array for pair in pairs for array in pair] for pairs in (a, b)]
    return bits(*flat[0]) == bits(*flat[1])


# Numbers


@every_implementation
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("B", (1, 3))
def test_streams_give_the_bits_of_a_stepper(chosen, driver, engine, name, B):
    model = MODELS[name]()
    stream, stepper = Stream(driver, model, B), model.stepper(B)
    x = inputs(stream, 7)
    expected = [stepper.step(x_t) for x_t in x]
    if engine == "packed":
        assert bits(expected) == bits(model(x)[0])
    assert bits([stream.step(x_t) for x_t in x[:3]]) == bits(expected[:3])
    assert bits(stream.run(x[3:])) == bits(expected[3:])
    assert stream.run(x[:0]).shape[0] == 0
    assert same_bits(stream.state(), stepper_state(stepper))
    stream.free()


def test_states_are_set_and_reset(driver):
    model = language_model()
    stream, stepper = Stream(driver, model, 3), model.stepper(3)
    rng = np.random.default_rng(0)
    state = [tuple(rng.standard_normal(part.shape).astype("float32") for part in pair) for pair in stepper.state]
    tokens = [[1, 2, 3], [3, 0, 1], [0, 0, 2]]
    assert stream.step(tokens[0]).any()  # so that the last h is in the other array
    stream.set_state(state)
    stepper.state = state
    assert same_bits(stream.state(), stepper.state)
    assert bits(stream.step(tokens[1])) == bits(stepper.step(tokens[1]))
    expected = stream.state()
    for part in (part for pair in expected for part in pair):
        assert part.all()
        part[:, 1] = 0
    assert stream.handle.reset_row(1) == 0
    assert same_bits(stream.state(), expected)
    stepper.state = expected
    assert bits(stream.step(tokens[2])) == bits(stepper.step(tokens[2]))
    assert stream.handle.reset() == 0
    assert not any(part.any() for pair in stream.state() for part in pair)
    assert bits(stream.step(tokens[2])) == bits(model.stepper(3).step(tokens[2]))
    stream.free()


def test_y_may_be_x(driver):
    model = LSTM(4, 4, seed=0)
    x, _ = random_case(model, 6, 3)
    stream, stepper = Stream(driver, model, 3), model.stepper(3)
    expected = [stepper.step(x_t) for x_t in x]
    assert stream.handle.step(False, False, x[0].ctypes.data, x[0].ctypes.data) == 0
    assert stream.handle.run(False, False, 5, x[1].ctypes.data, x[1].ctypes.data) == 0
    assert bits(x) == bits(expected)
    stream.free()


def test_denormals_are_flushed_only_inside_the_call(driver):
    lstm = LSTM(1, 2, bias=False, seed=0)
    weight = np.repeat([[-1000.0], [1000.0], [0.0], [1000.0]], 2, axis=0)  # h = tanh(c)
    lstm.load_state_dict({"weight_ih_l0": weight, "weight_hh_l0": np.zeros((8, 2))})
    tiny = np.float32(1e-40)
    stream = Stream(driver, lstm)
    stream.set_state([(np.zeros((1, 1, 2), np.float32), np.full((1, 1, 2), tiny))])
    assert not stream.step([[1.0]]).any()
    assert tiny / np.float32(2) != 0, "the caller's arithmetic has been changed"
    stream.free()


def test_a_clone_is_independent(driver):
    model = language_model()
    first = Stream(driver, model, 2)
    first.run([[1, 2], [3, 0], [2, 2]])
    second = first.clone()
    assert second.handle.rows() == 2
    assert same_bits(first.state(), second.state())
    stepper = model.stepper(2)
    stepper.state = first.state()
    first.run([[0, 1], [1, 1]])
    assert bits(second.step([3, 1])) == bits(stepper.step([3, 1]))
    first.free()
    assert bits(second.step([0, 0])) == bits(stepper.step([0, 0]))
    second.free()


# Sizes


def test_sizes(driver):
    numbers = driver.Model(LSTM(5, 17, 2, proj_size=6, dtype="float64"))
    realtime = int(lstm_cy.config.engine() == "packed")
    expected = {"inputs": 5, "tokens": 0, "outputs": 6, "itemsize": 8, "lstms": 1, "realtime": realtime}
    assert numbers.sizes() == expected
    assert numbers.lstm(0) == (2, 17, 6, 6)
    tokens = driver.Model(language_model())
    expected = {"inputs": 0, "tokens": 4, "outputs": 5, "itemsize": 4, "lstms": 2, "realtime": realtime}
    assert tokens.sizes() == expected
    assert [tokens.lstm(0), tokens.lstm(1)] == [(2, 17, 17, 17), (1, 33, 7, 7)]
    for model in (numbers, tokens):
        assert model.close() == 0


@every_implementation
@pytest.mark.parametrize("head", (False, True))
def test_blas_is_not_for_real_time(chosen, driver, engine, head):
    narrow = LSTM(5, 7).quantize("bf16")
    for layer, plain in ((LSTM(5, 7), True), (narrow, False)):
        model = driver.Model(Sequential(layer, Linear(7, 2)) if head else layer)
        assert model.sizes()["realtime"] == (engine == "packed" or not (plain or head))
        assert model.close() == 0


def test_the_whole_state_is_a_block(driver):
    """Also the context of a convolution and the sums of pooling: a stream goes on from the block of another."""
    conv = Conv1D(3, 4, 3, padding="causal", dilation=2, seed=0)
    model = Sequential(conv, LSTM(4, 5, 2, seed=1), GlobalPooling1D("average"), Linear(5, 2, seed=2))
    x = np.random.default_rng(0).standard_normal((12, 2, 3)).astype("float32")
    stepper = model.stepper(2)
    expected = [stepper.step(x_t) for x_t in x]
    first, second = (Stream(driver, model, 2) for _ in range(2))
    assert np.array_equal(first.run(x[:7]), expected[:7])
    size = first.handle.state_bytes()
    block = np.empty(size, np.uint8)
    assert first.handle.get_block(block.ctypes.data) == second.handle.set_block(block.ctypes.data) == 0
    for stream in (second, first.clone()):
        assert np.array_equal(stream.run(x[7:]), expected[7:])
    null = driver.ERRORS["NULL"]
    assert first.handle.get_block(0) == first.handle.set_block(0) == null


# Errors


@pytest.mark.parametrize(
    ("model", "error", "message"),
    (
        (3, TypeError, "model: expected an LSTM or a Sequential, got int"),
        (LSTM(2, 3, bidirectional=True), ValueError, "model: expected an LSTM that runs forwards"),
        (Sequential(Dropout()), ValueError, "model: expected a layer other than Dropout"),
        (
            Sequential(LSTM(2, 3), Flatten()),
            ValueError,
            "model: expected layers whose output has one size",
        ),
    ),
    ids=lambda value: None if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
def test_models_that_cannot_step_are_not_opened(driver, model, error, message):
    with pytest.raises(error, match=message):
        driver.Model(model)


def test_a_graph_is_opened_as_its_layers(driver):
    onnx = pytest.importorskip("onnx")
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[B, 3, T] x) => (float[B, 2, T] y)
    <float[2, 3, 2] w = {1, 2, 0, 1, 3, 1, 0, 1, 0, 2, 1, 2}> { bent = Tanh (x) y = Conv <pads = [1, 0]> (bent, w) }"""
    graph = from_onnx(onnx.parser.parse_model(text))
    error, handle = driver.Model(graph).create(2)
    assert error == 0
    stream, stepper = Stream(driver, graph.sequential(), 2, handle), graph.stepper(batch_size=2)
    for x in np.random.default_rng(0).standard_normal((5, 2, 3)).astype("f4"):
        assert np.array_equal(stream.step(x), stepper.step(x))
    with pytest.raises(ValueError, match="sequential: .*Abs.*no layer computes it"):
        driver.Model(from_onnx(onnx.parser.parse_model(text.replace("Tanh", "Abs"))))


def test_messages(driver):
    messages = {driver.message(error) for error in driver.ERRORS.values()}
    assert len(messages) == len(driver.ERRORS)
    assert "unknown error" not in messages
    assert {driver.message(error) for error in (1, -8, -1000)} == {"unknown error"}


def test_null_is_an_error(driver):
    null = driver.ERRORS["NULL"]
    nothing, no_stream = driver.Model(), Stream(driver, LSTM(3, 5)).handle.__class__()
    assert set(nothing.sizes().values()) == set(nothing.lstm(0)) == {null}
    assert nothing.close() == nothing.create(1)[0] == null
    opened = driver.Model(LSTM(3, 5))
    assert opened.create_nowhere() == null
    assert no_stream.free() == no_stream.clone()[0] == no_stream.reset() == no_stream.reset_row(0) == null
    assert no_stream.rows() == null
    error, stream = opened.create(1)
    assert error == 0
    assert stream.clone_nowhere() == null
    address = np.zeros(5).ctypes.data
    for handle, x, y in ((no_stream, address, address), (stream, 0, address), (stream, address, 0)):
        for tokens in (False, True):
            for f64 in (False, True):
                assert handle.step(f64, tokens, x, y) == handle.run(f64, tokens, 1, x, y) == null
                assert handle.get_state(f64, 0, x, y) == handle.set_state(f64, 0, x, y) == null
    assert stream.free() == opened.close() == 0


def test_errors_change_nothing(driver):
    errors = driver.ERRORS
    model = language_model()
    stream = Stream(driver, model, 2)
    stream.step([1, 2])
    before = stream.state()
    handle = stream.handle
    good, bad = np.array([[1, 2], [3, 0], [0, 3]]), np.array([[1, 2], [3, 0], [0, 4]])
    y = np.full((3, 2, 5), 7.0)  # enough for either dtype
    address = y.ctypes.data

    assert handle.step(True, True, good.ctypes.data, address) == errors["DTYPE"]
    assert handle.run(True, True, 3, good.ctypes.data, address) == errors["DTYPE"]
    assert handle.get_state(True, 0, address, address) == handle.set_state(True, 0, address, address) == errors["DTYPE"]
    assert (
        handle.step(False, False, address, address) == handle.run(False, False, 1, address, address) == errors["INPUT"]
    )
    assert handle.run(False, True, -1, good.ctypes.data, address) == errors["SIZE"]
    for number in (-1, 2):
        assert handle.get_state(False, number, address, address) == errors["SIZE"]
        assert handle.set_state(False, number, address, address) == errors["SIZE"]
        assert handle.reset_row(number) == errors["SIZE"]
    assert handle.run(False, True, 3, bad.ctypes.data, address) == errors["TOKEN"]
    for token in (4, -1, 2**40):
        bad[0, 1] = token
        assert handle.step(False, True, bad.ctypes.data, address) == errors["TOKEN"]
    assert (y == 7).all()
    assert same_bits(stream.state(), before)
    assert handle.run(False, True, 3, good.ctypes.data, address) == 0
    stream.free()

    numbers = Stream(driver, LSTM(3, 5, dtype="float64"))
    assert numbers.handle.step(False, False, address, address) == errors["DTYPE"]
    assert numbers.handle.step(True, True, address, address) == errors["INPUT"]
    numbers.free()


def test_wrong_rows_and_too_little_memory_are_errors(driver):
    opened = driver.Model(LSTM(3, 1000, 4))
    for rows in (0, -1, 2**31, 2**62):
        error, stream = opened.create(rows)
        assert error == driver.ERRORS["SIZE"]
        assert not stream
    huge = driver.Model(Sequential(Linear(1, 2**20)))
    error, stream = huge.create(2**31 - 1)  # 2^53 bytes
    assert error == driver.ERRORS["MEMORY"]
    assert not stream
    assert huge.close() == 0
    error, stream = opened.create(3)
    assert error == 0
    assert stream.rows() == 3
    assert stream.free() == opened.close() == 0


# Lifetime


@pytest.mark.parametrize("order", (("close", "free", "free"), ("free", "close", "free"), ("free", "free", "close")))
def test_the_last_of_handle_and_streams_releases_the_weights(driver, order):
    model = LSTM(3, 5, seed=0)
    weight = weakref.ref(model.parameters["weight_ih_l0"])
    x = np.ones((1, 3), np.float32)
    expected = model.stepper().step(x)
    opened = driver.Model(model)
    streams = [Stream(driver, model, handle=opened.create(1)[1])]
    streams.append(streams[0].clone())
    for stream in streams:
        stream.model = small_lstm()  # of the same sizes
    del model
    for act in order:
        gc.collect()
        assert weight() is not None
        if streams:
            streams[-1].handle.reset()
            assert bits(streams[-1].step(x)) == bits(expected)
        if act == "close":
            assert opened.close() == 0
        else:
            streams.pop().free()
    assert weight() is None


def test_a_handle_keeps_the_weights_it_was_opened_with(driver):
    model = small_lstm()
    expected = model.stepper().step(np.ones(3))
    opened = driver.Model(model)
    model.load_state_dict({name: array * 0 for name, array in model.parameters.items()})
    stream = Stream(driver, model, handle=opened.create(1)[1])
    assert bits(stream.step(np.ones(3))) == bits(expected)
    stream.free()
    opened.close()


def in_new_process(driver_folder, code, **more):
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        env=environment(**more),
        cwd=driver_folder,
        capture_output=True,
        text=True,
    )


def test_a_stream_may_be_freed_after_python_has_ended(driver_folder):
    code = """
import embed_driver, lstm_cy
model = embed_driver.Model(lstm_cy.LSTM(3, 5))
error, stream = model.create(1)
assert error == 0 and model.close() == 0
stream.free_when_python_has_ended()
"""
    done = in_new_process(driver_folder, code)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_use_streams(driver_folder):
    code = """
import os
import numpy as np
import embed_driver, lstm_cy
model = embed_driver.Model(lstm_cy.LSTM(3, 5, seed=0))
_, stream = model.create(1)
x, y = np.ones((20, 3), "f"), np.empty((20, 5), "f")
assert stream.run(False, False, 10, x.ctypes.data, y.ctypes.data) == 0
child = os.fork()
assert stream.run(False, False, 10, x.ctypes.data, y[10:].ctypes.data) == 0
expected = lstm_cy.LSTM(3, 5, seed=0).stepper()
assert y.tobytes() == np.array([expected.step(x_t) for x_t in x]).tobytes()
assert stream.free() == model.close() == 0
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    done = in_new_process(driver_folder, code)
    assert done.returncode == 0, done.stderr


# Threads


def test_many_threads_use_one_model(driver):
    model = Sequential(LSTM(16, 96, 2, seed=0), Linear(96, 16, seed=1))
    opened = driver.Model(model)
    x = [np.random.default_rng(seed).standard_normal((300, 1, 16)).astype("float32") for seed in range(8)]
    results = [None] * 8

    def work(number):
        stream = Stream(driver, model, handle=opened.create(1)[1])
        results[number] = [stream.run(x[number][:100])]
        clone = stream.clone()
        stream.free()
        results[number] += [clone.run(x[number][100:]), *clone.state()[0]]
        clone.free()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened.close() == 0
    for number in range(8):
        stepper = model.stepper()
        expected = [stepper.step(x_t) for x_t in x[number]]
        assert bits(*results[number]) == bits(expected[:100], expected[100:], *stepper.state[0])


def test_no_function_waits_for_the_gil(driver):
    model = small_lstm()
    stream = Stream(driver, model)
    x, y = np.ones(3, "float32"), np.empty(5, "float32")
    results = []
    thread = threading.Thread(
        target=lambda: results.append(stream.handle.work_while_gil_is_held(x.ctypes.data, y.ctypes.data))
    )
    thread.start()
    while not driver.ready():
        time.sleep(0.001)
    done = driver.hold_gil(60)
    if done:  # else the thread never ends
        thread.join()
    assert done
    assert results == [0]
    stream.free()


def test_every_call_with_a_busy_stream_is_refused(driver):
    model = small_lstm()
    stream = Stream(driver, model)
    handle, x, y = stream.handle, np.ones((2000, 3), "float32"), np.empty((2000, 5), "float32")
    h, c = np.ones((2, 1, 1, 5), "float32")
    address = y.copy().ctypes.data
    runs = []
    thread = threading.Thread(target=lambda: runs.append(handle.run_pausable(2000, x.ctypes.data, y.ctypes.data)))
    thread.start()
    while not driver.running():
        time.sleep(0.001)
    for _ in range(1000):
        driver.pause()
        stopped = handle.get_state(False, 0, h.ctypes.data, c.ctypes.data)
        if stopped != 0:
            break
        driver.resume()  # it was stopped between two runs
    else:
        driver.end_runs()
        thread.join()
    assert stopped == driver.ERRORS["BUSY"]
    error, clone = handle.clone()
    refused = {
        "step": handle.step(False, False, x.ctypes.data, address),
        "run": handle.run(False, False, 1, x.ctypes.data, address),
        "get_state": handle.get_state(False, 0, h.ctypes.data, c.ctypes.data),
        "set_state": handle.set_state(False, 0, h.ctypes.data, c.ctypes.data),
        "reset": handle.reset(),
        "reset_row": handle.reset_row(0),
        "clone": error,
        "free": handle.free(),
    }
    driver.end_runs()
    driver.resume()
    thread.join()
    assert refused == dict.fromkeys(refused, driver.ERRORS["BUSY"])
    assert not clone
    expected = model.stepper()
    for _ in range(runs[0]):
        for x_t in x:
            expected.step(x_t)
    assert same_bits(stream.state(), [expected.state])
    stream.free()


# Real time

COUNTER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void __libc_free(void *);
static long count;
static void tick(void) { __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED); }
void *malloc(size_t n) { tick(); return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { tick(); return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { tick(); return __libc_realloc(p, n); }
void free(void *p) { tick(); __libc_free(p); }
int pthread_mutex_lock(pthread_mutex_t *mutex) {
    static int (*next)(pthread_mutex_t *);
    if (!next) next = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_lock");
    tick();
    return next(mutex);
}
long ticks(void) { return __atomic_load_n(&count, __ATOMIC_RELAXED); }
"""

COUNTED = """
import ctypes, json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import embed_driver
from test_embed import MODELS, Stream, inputs

ticks = ctypes.cast(ctypes.CDLL(None).ticks, ctypes.c_void_p).value
found = {}
for name in ("one input", "layers", "float64", "projection", "normalised", "bf16", "int8", "tokens"):
    for rows in (1, 7):
        stream = Stream(embed_driver, MODELS[name](), rows)
        x = np.ascontiguousarray(inputs(stream, 1)[0], stream.dtype)
        y = np.empty((rows, stream.width), stream.model.dtype)
        h, c = stream.state()[0]
        arrays = [array.ctypes.data for array in (x, y, h, c)]
        found[f"{name} {rows}"] = stream.handle.counts(ticks, stream.f64, stream.tokens, 10_000, *arrays)
        before = embed_driver.ticks_now(ticks)
        stream.clone().free()
        assert embed_driver.ticks_now(ticks) - before >= 2, "the counter does not count"
        stream.free()
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux and glibc")
def test_steps_allocate_nothing_and_take_no_lock(driver_folder, tmp_path):
    source, counter = tmp_path / "counter.c", tmp_path / "counter.so"
    source.write_text(COUNTER)
    if subprocess.run(["cc", "-shared", "-fPIC", "-o", counter, source, "-ldl"], capture_output=True).returncode:
        pytest.skip("the C compiler cannot build the counter")
    code = COUNTED.replace("sys.argv[1]", repr(str(TESTS)))
    done = in_new_process(driver_folder, code, LD_PRELOAD=str(counter), LSTM_CY_ENGINE="packed")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == dict.fromkeys(found, 0)


# The frozen interface


def capi():
    """Return {name: C signature} of the functions that the compiled module exports."""
    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return {name: name_of(capsule).decode() for name, capsule in embed.__pyx_capi__.items()}


def test_the_interface_is_the_frozen_one(driver):
    """Names and errors may be added to the file, but none may change: other code is compiled against them."""
    lines = (TESTS / "data" / "embed_api.txt").read_text().splitlines()
    frozen = dict(line.split(": ") for line in lines)
    errors = {f"LSTM_CY_{name}": str(number) for name, number in driver.ERRORS.items()}
    assert capi() | errors == frozen


def test_the_shipped_declarations_need_only_c():
    text = (PACKAGE / "embed.pxd").read_text()
    assert not re.findall(r"^\s*(?:from|c?import|include)\b.*", text, re.MULTILINE)
    assert (PACKAGE / "__init__.pxd").exists()
    assert sorted(re.findall(r"^cdef .*?(\w+)\(", text, re.MULTILINE)) == sorted(embed.__pyx_capi__)


# The table for C and C++


def test_the_table_has_every_function_in_the_frozen_order():
    """Functions may be added at its end only: other code is compiled against it."""
    text = (Path(lstm_cy.get_include()) / "lstm_cy.h").read_text()
    table = re.findall(r"\(\*(\w+)\)\(", text)
    lines = (TESTS / "data" / "embed_api.txt").read_text().splitlines()
    frozen = [line.partition(":")[0] for line in lines if line.startswith("lstm_cy_")]
    frozen.remove("lstm_cy_model_told")  # an older name
    assert [f"lstm_cy_{name}" for name in table] == frozen
    numbers = dict(re.findall(r"(LSTM_CY_\w+) = (-?\d+)", text))
    assert numbers == dict(line.split(": ") for line in lines if line.startswith("LSTM_CY_"))


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    """The example in C++, compiled."""
    source = ROOT / "examples" / "embedding_cpp"
    if not source.exists() or not shutil.which("c++"):
        pytest.skip("needs a C++ compiler, and examples/, which is in the repository")
    folder = tmp_path_factory.mktemp("processor")
    for name in ("setup.py", "processor.cpp"):
        shutil.copy(source / name, folder)
    flags = "-O0 -g0 -Wall -Wextra -Werror"
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder,
        env=environment(CFLAGS=flags),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("processor.*.so")
    loader = importlib.machinery.ExtensionFileLoader("processor", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("processor", loader))
    loader.exec_module(module)
    return module


def test_the_example_in_cpp_gives_the_bits_of_a_stepper(processor):
    model = Sequential(LSTM(3, 17, seed=0), Linear(17, 2, seed=0))
    x = np.random.default_rng(0).standard_normal((33, 3)).astype(np.float32)
    stepper = model.stepper()
    expected = np.stack([stepper.step(row) for row in x])
    assert processor.process(model, x) == expected.tobytes()
    with pytest.raises(ValueError, match="f32 is for float32, f64 for float64"):
        processor.process(LSTM(3, 17, dtype="float64"), x)
    with pytest.raises(ValueError, match="takes tokens, not numbers"):
        processor.process(Sequential(Embedding(5, 3), LSTM(3, 2)), x)
    with pytest.raises(TypeError, match="expected an LSTM or a Sequential, got int"):
        processor.process(5, x)


# The example


@pytest.fixture(scope="module")
def installed_example(tmp_path_factory):
    """A folder where the example project is installed, from a copy without the rest of this repository."""
    if not EXAMPLE.exists():
        pytest.skip("needs examples/, which is in the repository")
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("build", "*.c", "*.so", "*.egg-info"))
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--target", str(folder / "site")]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "."],
        cwd=folder / "source",
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def example(installed_example, monkeypatch):
    monkeypatch.syspath_prepend(installed_example / "site")
    monkeypatch.syspath_prepend(installed_example / "source")
    for name in ("amplifier", "budget"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("budget")


def test_the_example_plays_what_a_stepper_would(example, capsys):
    samples, played = example.main(["--seconds", "0.5"])
    assert len(samples) == 24_000
    stepper = Sequential(LSTM(1, 24, seed=0), Linear(24, 1, seed=1)).stepper()
    assert bits(played) == bits([stepper.step([sample])[0] for sample in samples])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "375 blocks of 64 samples at 48000 a second: 1333 us for each"
    assert [line.split()[0] for line in lines[1:]] == ["mean", "99", "worst"]
    assert all(line.endswith(" % of the budget") for line in lines[1:])


def test_the_example_plays_a_file(example, tmp_path, capsys):
    model = Sequential(LSTM(1, 5, seed=3), Linear(5, 1, seed=4))
    lstm_cy.save(model, tmp_path / "model.npz")
    samples, played = example.main(["--seconds", "0.01", "--model", str(tmp_path / "model.npz")])
    stepper = model.stepper()
    assert bits(played) == bits([stepper.step([sample])[0] for sample in samples])


@pytest.mark.parametrize("bias", (True, False))
def test_the_example_plays_a_file_of_pytorch(example, tmp_path, capsys, bias):
    """A whole model's state dict, under names of its own."""
    torch = pytest.importorskip("torch")
    model = Sequential(LSTM(1, 5, seed=3), Linear(5, 1, bias=bias, seed=4))
    lstm, head = ({name: torch.from_numpy(a.copy()) for name, a in layer.parameters.items()} for layer in model.layers)
    tensors = {f"rec.{name}": tensor for name, tensor in lstm.items()}
    tensors |= {f"lin.{name}": tensor for name, tensor in head.items()}
    path = tmp_path / "amplifier.pt"
    stepper = model.stepper()
    for saved in (tensors, {"state_dict": tensors, "epoch": 3}):
        torch.save(saved, path)
        samples, played = example.main(["--seconds", "0.01", "--model", str(path)])
        stepper.reset()
        assert bits(played) == bits([stepper.step([sample])[0] for sample in samples])
    torch.save(tensors | {"other.weight": tensors["lin.weight"]}, path)
    with pytest.raises(SystemExit):
        example.main(["--model", str(path)])
    assert "expected the tensors of one LSTM and one linear layer, got rec." in capsys.readouterr().err


def test_the_example_writes_what_it_played(example, tmp_path, capsys):
    path = tmp_path / "played.wav"
    _, played = example.main(["--seconds", "0.5", "--wav", str(path)])
    rate, written = scipy.io.wavfile.read(path)
    assert (rate, written.dtype, len(written)) == (48_000, np.int16, 24_000)
    assert np.abs(written - played * (0.9 * 32767 / np.abs(played).max())).max() <= 1
    example.write_wav(str(path), np.zeros(5, "float32"))
    assert not scipy.io.wavfile.read(path)[1].any()
    path.unlink()
    with pytest.raises(ValueError, match="not finite"):
        example.write_wav(str(path), np.array([0, np.nan, 1], "float32"))
    assert not path.exists()


def test_the_example_says_that_the_library_must_be_installed_first(tmp_path):
    """In an environment of pip's own it is not, and no index is asked for a project of that name."""
    program = f"import sys; sys.modules['lstm_cy'] = None; exec(open({str(EXAMPLE / 'setup.py')!r}).read())"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "pip install --no-build-isolation" in done.stderr
    assert "lstm_cy" not in " ".join(
        tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["build-system"]["requires"]
    )


def test_what_the_example_refuses(example):
    amplifier = importlib.import_module("amplifier").Amplifier
    with pytest.raises(ValueError, match=r"expected 1 input, 1 output and 4 bytes a number, got \(1, 24, 4\)"):
        amplifier(LSTM(1, 24))
    with pytest.raises(TypeError, match="model: expected an LSTM"):
        amplifier(None)
    one = amplifier(Sequential(LSTM(1, 4, seed=0), Linear(4, 1, seed=1)))
    samples, played = np.ones(8, "float32"), np.empty(8, "float32")
    for block, where in ((3, played), (0, played), (4, played[:4])):
        with pytest.raises(ValueError, match="expected whole blocks"):
            one.play(samples, where, block)
    with pytest.raises(ValueError, match="seconds: expected 2"):
        one.play(samples, played, 4, np.empty(3))
    one.play(samples, played, 4)
    first = played.copy()
    one.play(samples, played, 4)
    assert bits(first) != bits(played)
    one.reset()
    one.play(samples, played, 8)
    assert bits(first) == bits(played)


def test_the_docs_show_the_example():
    """Every block of Cython in docs/embedding.md is in the example, letter by letter."""
    source = "".join((EXAMPLE / name).read_text() for name in ("amplifier.pyx", "setup.py"))
    blocks = re.findall(r"^```cython\n(.*?)^```$", (ROOT / "docs" / "embedding.md").read_text(), re.M | re.S)
    assert blocks
    for block in blocks:
        assert block in source, block
