"""A model of another library, read from a file and exported to ONNX Runtime, keeps its results."""

import os
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lstm_cy
from lstm_cy import weights

TOLERANCE = 5e-6
# the check is about fixtures; these are modules, and a folder in which each example overwrites its files
FEW_EXAMPLES = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def runtime():
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return lambda path: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("torch")
    os.environ["KERAS_BACKEND"] = "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("keras")


@FEW_EXAMPLES
@given(
    sizes=st.tuples(st.integers(1, 9), st.sampled_from((1, 3, 17, 33)), st.integers(1, 3)),
    bias=st.booleans(),
    batch_first=st.booleans(),
    bidirectional=st.booleans(),
    prefix=st.sampled_from(("", "model.rnn.")),
    seed=st.integers(0, 999),
)
def test_pytorch_through_files_to_onnx(runtime, tmp_path, sizes, bias, batch_first, bidirectional, prefix, seed):
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    module = torch.nn.LSTM(*sizes, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    torch.save({"state_dict": {prefix + name: array for name, array in module.state_dict().items()}}, tmp_path / "m.pt")

    ours = weights.pytorch.lstms(tmp_path / "m.pt", batch_first=batch_first)[prefix]
    lstm_cy.save(ours, tmp_path / "m.safetensors")
    again = lstm_cy.load(tmp_path / "m.safetensors")
    lstm_cy.save(again, tmp_path / "m.onnx")

    x = np.random.default_rng(seed).standard_normal((5, 4, sizes[0]), dtype=np.float32)
    with torch.inference_mode():
        expected, (h_n, c_n) = module(torch.from_numpy(x))
    results = {
        "here": ours(x),
        "from our file": again(x),
        "our own reader": (lambda y, h, c: (y, (h, c)))(*lstm_cy.load(tmp_path / "m.onnx").run({"x": x})),
        "ONNX Runtime": (lambda y, h, c: (y, (h, c)))(*runtime(tmp_path / "m.onnx").run(None, {"x": x})),
    }
    for name, (y, states) in results.items():
        for got, tensor in zip((y, *states), (expected, h_n, c_n), strict=True):
            assert np.abs(got - tensor.numpy()).max() <= TOLERANCE, name


@FEW_EXAMPLES
@given(
    units=st.tuples(st.sampled_from((1, 3, 17)), st.sampled_from((2, 5))),
    bidirectional=st.booleans(),
    merge_mode=st.sampled_from(("concat", "sum", "mul", "ave")),
    return_sequences=st.booleans(),
    go_backwards=st.booleans(),
    recurrent=st.sampled_from(("sigmoid", "hard_sigmoid")),
    suffix=st.sampled_from((".keras", ".h5")),
    seed=st.integers(0, 999),
)
@pytest.mark.filterwarnings("ignore")  # warnings of Keras when it writes .h5
def test_keras_through_files_to_onnx(
    keras,
    runtime,
    tmp_path,
    units,
    bidirectional,
    merge_mode,
    return_sequences,
    go_backwards,
    recurrent,
    suffix,
    seed,
):
    keras.utils.set_random_seed(seed)
    first, second = units
    last = keras.layers.LSTM(
        second,
        recurrent_activation=recurrent,
        return_sequences=return_sequences,
        go_backwards=go_backwards and not bidirectional,
    )
    if bidirectional:
        last = keras.layers.Bidirectional(last, merge_mode=merge_mode)
    model = keras.Sequential(
        [keras.Input((6, 4)), keras.layers.LSTM(first, return_sequences=True), last, keras.layers.Dense(3, "tanh")]
    )
    model.save(tmp_path / f"m{suffix}")

    ours = lstm_cy.load(tmp_path / f"m{suffix}")
    lstm_cy.save(ours, tmp_path / "m.onnx")
    x = np.random.default_rng(seed).standard_normal((2, 6, 4), dtype=np.float32)
    expected = model.predict(x, verbose=0)
    assert np.abs(ours(x)[0] - expected).max() <= TOLERANCE
    assert np.abs(runtime(tmp_path / "m.onnx").run(["y"], {"x": x})[0] - expected).max() <= TOLERANCE
