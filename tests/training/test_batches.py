import numpy as np
import pytest

from lstm_cy import LSTM, pad


def test_pad_fills_shorter_sequences_with_zeros():
    sequences = [np.arange(6.0).reshape(3, 2), np.ones((1, 2)), np.empty((0, 2))]
    x, lengths = pad(sequences)
    assert x.shape == (3, 3, 2)
    assert lengths.tolist() == [3, 1, 0]
    for row, sequence in enumerate(sequences):
        assert np.array_equal(x[: len(sequence), row], sequence)
        assert not x[len(sequence) :, row].any()
    rows_first, _ = pad(sequences, batch_first=True)
    assert np.array_equal(rows_first, x.swapaxes(0, 1))
    assert rows_first.flags.c_contiguous
    assert x.flags.c_contiguous


def test_a_layer_takes_the_result_of_pad():
    lstm = LSTM(2, 3, dtype="float64", seed=0)
    sequences = [np.random.default_rng(n).standard_normal((n, 2)) for n in (4, 2, 7)]
    x, lengths = pad(sequences)
    y, _ = lstm(x, lengths=lengths)
    for row, sequence in enumerate(sequences):
        assert np.abs(y[: len(sequence), row] - lstm(sequence)[0]).max() < 1e-15


@pytest.mark.parametrize(
    ("sequences", "dtype"),
    (
        ([[1, 2], [3]], np.int64),
        ([[1], []], np.int64),
        ([np.float32([1]), [2.5]], np.float64),
        ([np.float32([1])], np.float32),
    ),
)
def test_pad_keeps_the_dtype(sequences, dtype):
    assert pad(sequences)[0].dtype == dtype


@pytest.mark.parametrize(
    ("sequences", "message"),
    (
        ([], "at least one, got none"),
        ([np.zeros((3, 2)), np.zeros((3, 4))], "got \\(3, 4\\) at 1"),
        ([np.zeros(3), np.zeros((3, 4))], "at 1"),
        ([np.zeros(3), 5.0], "got a scalar at 1"),
    ),
)
def test_pad_errors(sequences, message):
    with pytest.raises(ValueError, match=message):
        pad(sequences)


@pytest.mark.parametrize(
    ("sequences", "error", "message"),
    (
        ([[1], ["a"]], TypeError, r"sequences\[1\]: expected real numbers, got dtype <U1"),
        (["ab"], TypeError, r"sequences\[0\]: expected real numbers, got dtype <U2"),
        ([[1], [1j]], TypeError, r"sequences\[1\]: expected real numbers, got dtype complex128"),
        ([[1], [None]], TypeError, r"sequences\[1\]: expected real numbers, got dtype object"),
        ([[1], [[1], [1, 2]]], ValueError, r"sequences\[1\]: expected an array: "),
        ([np.ma.masked_array([1, 2], [False, True])], ValueError, r"sequences\[0\]: expected no masked elements"),
        (3, TypeError, "sequences: expected a list of arrays, got int"),
        (None, TypeError, "sequences: expected a list of arrays, got NoneType"),
        (np.array(1.0), TypeError, "sequences: expected a list of arrays, got ndarray"),
    ),
)
def test_pad_refuses_sequences_that_are_not_numbers(sequences, error, message):
    with pytest.raises(error, match=f"^{message}"):
        pad(sequences)


def test_pad_takes_any_layout():
    expected, _ = pad([[1.0, 2.0], [3.0]])
    for dtype in (">f8", "<f8"):
        rows = [np.array([1.0, 9.0, 2.0], dtype)[::2], np.array([3.0], dtype)]
        x, lengths = pad(iter(rows))
        assert x.dtype.isnative
        assert np.array_equal(x, expected)
        assert lengths.tolist() == [2, 1]
