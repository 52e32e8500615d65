"""The gates of LSTMs inside ONNX graphs."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from lstm_cy import LSTM, Linear, Sequential, from_onnx, save  # noqa: E402


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "batch_first": True}], ids=repr)
def test_a_graph_shows_the_gates_that_the_model_shows(tmp_path, options):
    model = Sequential(LSTM(3, 4, num_layers=2, seed=0, **options), Linear(4 * (1 + bool(options)), 2, seed=1))
    save(model, tmp_path / "model.onnx")
    graph = from_onnx(tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype("float32")
    for layer in (0, 1):
        for direction in range(1 + bool(options)):
            expected = model.trace(x, layer=layer, direction=direction)
            found = graph.trace(x, layer=layer, direction=direction)
            for name in ("forget", "cell", "hidden"):
                arrays = [getattr(trace, name) for trace in (found, expected)]
                arrays = [
                    array.swapaxes(0, 1) if trace.batch_first else array
                    for array, trace in zip(arrays, (found, expected), strict=True)
                ]
                np.testing.assert_allclose(*arrays, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="layer: expected"):
        graph.trace(x, layer=2)
    with pytest.raises(TypeError, match="inputs: expected 1, got 2"):
        graph.trace(x, x)


def test_a_graph_without_gates_says_what_it_has():
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[T, 3] x) => (float[T, 3] y) { y = Relu(x) }'
    with pytest.raises(ValueError, match="whose gates can be traced, got Relu"):
        from_onnx(onnx.parser.parse_model(text)).trace(np.ones((2, 3)))
