"""The short comparison: every library computes the same result, and their calls alternate."""

import numpy as np
import pytest

from lstm_cy import LSTM, bench


@pytest.mark.filterwarnings("ignore::DeprecationWarning:onnx")
@pytest.mark.parametrize("kind", bench.SHAPES)
def test_every_library_gives_the_same_result(kind):
    T = 1 if kind == "step" else 6
    x = np.random.default_rng(0).standard_normal((T, 3, 5), dtype=np.float32)
    lstm = LSTM(5, 7, seed=0)
    calls = {name: make(kind, lstm, x) for name, make in bench.installed().items()}
    for _ in range(3):  # each step continues from the state before
        results = {name: np.array(call()) for name, call in calls.items() if call is not None}
        for name, result in results.items():
            assert np.abs(result - results["NumPy"]).max() <= 1e-5 * np.abs(results["NumPy"]).max(), name
    assert kind == "training" or calls.get("ONNX Runtime", calls["NumPy"]) is not None


def test_a_wrong_result_is_not_timed():
    makers = {"NumPy": lambda *_: lambda: np.ones(3), "other": lambda *_: lambda: np.array([1, 1, np.nan])}
    with pytest.raises(ArithmeticError, match="forward 1x2x3x4: the results of other and NumPy are nan apart"):
        bench.measured("forward", "1x2x3x4", None, None, 0.01, makers)


def test_medians_alternate_the_calls():
    order = []
    medians = bench.medians({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, seconds=0)
    assert "".join(order) == "ab" * 3
    assert list(medians) == ["a", "b"]
    assert all(median >= 0 for median in medians.values())
