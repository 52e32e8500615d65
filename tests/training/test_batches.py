"""Batches: of `pad`, and those of the data of `fit`."""

import numpy as np
import pytest
from small_runs import LENGTHS, ROWS, STEPS, Recorder, X, Y, arrays, bits, model_of, reading_out, train

from lstm_cy import LSTM, SGD, Embedding, Linear, Readout, Sequential, cross_entropy, ctc, mse, pad
from lstm_cy.layers.base import Layer


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


# the data of fit


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"batch_size": 4}, {"validation": True}, {"data": "callable"}])
def test_targets_per_row_with_as_many_columns_as_steps_and_rows(options, batch_first, own):
    size = 6
    x, y = np.random.default_rng(0).normal(size=(size, size, 2)), np.arange(36.0).reshape(size, size)
    options = dict(options)
    given = (lambda epoch: [(x[:, :3], y[:3]), (x[:, 3:], y[3:])]) if options.pop("data", None) else (x, y)
    if batch_first and not callable(given):
        given = x.swapaxes(0, 1), y
    elif batch_first:
        given = lambda epoch: [(x.swapaxes(0, 1)[:3], y[:3]), (x.swapaxes(0, 1)[3:], y[3:])]  # noqa: E731
    if options.get("validation"):
        options["validation"] = given
    model, seen = reading_out(size, batch_first=batch_first, own=own), Recorder()
    train(model, given, loss=seen, **options)
    for prediction, target, _ in seen.calls:
        assert prediction.shape == target.shape
        assert (np.diff(target) == 1).all()  # whole rows of y
    still = train(model, given, optimizer=SGD(model, 0.0))
    expected, _ = mse(model(x.swapaxes(0, 1) if batch_first else x)[0], y)
    assert still.loss[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_targets_per_row_and_per_step_of_few_steps(steps):
    x, y = np.random.default_rng(0).normal(size=(steps, 4, 2)), np.arange(4.0 * steps).reshape(4, steps)
    seen = Recorder()
    train(reading_out(steps), (x, y), loss=seen)
    assert [prediction.shape for prediction, *_ in seen.calls] == [(4, steps)]
    per_step = LSTM(2, 3, dtype="float64", seed=0)
    train(per_step, (x, np.zeros((steps, 4, 3))), loss=seen)
    assert seen.calls[-1][0].shape == (steps, 4, 3)
    with pytest.raises(ValueError, match="y: expected a target per step"):
        train(per_step, (x, np.zeros((4, 3))))


def test_targets_per_row_with_as_many_columns_as_steps_and_lengths():
    x, y = np.random.default_rng(0).normal(size=(3, 6, 2)), np.arange(18.0).reshape(3, 6)
    model, seen = reading_out(6, batch_first=True), Recorder()
    train(model, (x, y, [2, 4, 3]), loss=seen)
    ((prediction, target, keywords),) = seen.calls
    assert prediction.shape == target.shape == (3, 6)
    assert sorted(keywords["lengths"]) == [2, 3, 4]


def test_a_model_of_tokens_with_as_many_targets_as_steps_and_rows():
    tokens = np.random.default_rng(0).integers(9, size=(4, 4))
    y = np.arange(16.0).reshape(4, 4)
    layers = Embedding(9, 3, dtype="float64", seed=0), LSTM(3, 4, dtype="float64", seed=1)
    model, seen = Sequential(*layers, Readout()), Recorder()
    train(model, (tokens, y), loss=seen)
    ((_, target, _),) = seen.calls
    assert (np.diff(target) == 1).all()
    model, seen = Sequential(*layers), Recorder()
    train(model, (tokens, y), loss=seen)  # this one's output has a time axis
    ((_, target, _),) = seen.calls
    assert (np.diff(target, axis=0) == 4).all()


def test_targets_of_ctc_are_per_row_even_if_as_many_as_steps_and_rows():
    x, y = np.random.default_rng(0).normal(size=(3, 3, 2)), np.array([[1, 2, 1], [2, 1, 0], [2, 0, 0]])
    model = Sequential(LSTM(2, 4, dtype="float64", seed=0), Linear(4, 3, dtype="float64", seed=1))
    still = train(model, (x, y), loss=ctc, optimizer=SGD(model, 0.0), batch_size=1)
    assert still.loss[0] == pytest.approx(ctc(model(x)[0], y)[0], rel=1e-12)


def test_one_step_of_models_with_and_without_a_time_axis():
    x = np.ones((1, 1, 2))
    for model, y, per_step in ((model_of(), np.ones((1, 1, 3)), True), (reading_out(1), np.ones((1, 1)), False)):
        seen = Recorder()
        train(model, (x, y), loss=seen)
        ((prediction, target, _),) = seen.calls
        assert prediction.shape == target.shape == y.shape, per_step


@pytest.mark.parametrize("batch_first", [False, True])
def test_targets_that_do_not_fit_the_output_are_refused_before_the_first_step(batch_first):
    x, y = arrays(batch_first=batch_first)
    model = reading_out(3, batch_first=batch_first)
    expected = r"data: y: expected a target per row, \(10,\) and more, because the model gives one output per row"
    with pytest.raises(ValueError, match=expected):
        train(model, (x, y[:9]))
    with pytest.raises(
        ValueError, match="y: with bptt expected a target per step, .* and a model that gives an output"
    ):
        train(model, (x, np.zeros((ROWS, STEPS))), bptt=3)
    model = model_of(batch_first=batch_first)
    for loss, target in ((mse, np.zeros(ROWS)), (cross_entropy, np.zeros(ROWS, int))):
        with pytest.raises(ValueError, match="y: expected a target per step, .*needs a Readout after its LSTMs"):
            train(model, (x, target), loss=loss)


class Own(Layer):
    """A user-defined model that has only the methods that training needs."""

    dtype = np.dtype("float64")

    def __init__(self):
        self.inner, self.config = model_of(), {}
        self._parameters = self.inner.parameters

    def forward(self, x, states=None, *, lengths=None, rng=None):
        return self.inner.forward(x.swapaxes(0, 1), states, lengths=lengths, rng=rng)

    def backward(self, tape, dy):
        return self.inner.backward(tape, dy)

    def replace_parameters(self, arrays):
        super().replace_parameters(arrays)
        self.inner.replace_parameters(arrays)


def test_a_user_defined_model_needs_no_call_method_for_training():
    x, y = arrays(batch_first=True)
    with pytest.raises(ValueError, match="y: expected a target per row"):  # axis 0 of its output is the steps
        train(Own(), (x, y[:7]))
    seen = Recorder()
    train(Own(), (x, y[:, 0]), loss=lambda p, t: seen(p, t))
    ((prediction, target, _),) = seen.calls
    assert prediction.shape == (STEPS, ROWS, 3) and target.shape == (ROWS, 3)


def test_padding_may_hold_values_that_are_not_tokens():
    tokens = np.array([[1, 2], [3, -1], [-1, -1]])
    model = Sequential(Embedding(4, 3, dtype="float64", seed=0), LSTM(3, 4, dtype="float64", seed=1), Readout())
    train(model, (tokens, np.zeros((2, 4)), [2, 1]), batch_size=1)


def test_rows_of_length_0_do_not_affect_the_parameters():
    x, y, models = arrays()[0], arrays()[1][0], [reading_out(3), reading_out(3)]
    train(models[0], (x, y, LENGTHS), optimizer=SGD(models[0], 0.1), batch_size=ROWS)
    rows = np.flatnonzero(LENGTHS)
    train(models[1], (x[:, rows], y[rows], LENGTHS[rows]), optimizer=SGD(models[1], 0.1), batch_size=ROWS)
    for name, array in models[0].parameters.items():
        np.testing.assert_allclose(array, models[1].parameters[name], rtol=0, atol=1e-14)


def test_callables_yield_the_batches():
    x, y = arrays()
    called = []

    def batches(epoch):
        called.append(epoch)
        yield x[:, :3], y[:, :3]
        yield [x[:4, 3:5], y[:4, 3:5], [4, 2]]

    seen = Recorder()
    history = train(model_of(), batches, loss=seen, epochs=2, batch_size=1, validation=batches)
    assert called == [0, 0, 1, 1]
    assert len(history.loss) == len(history.validation) == 2
    assert [target.shape[:2] for _, target, _ in seen.calls] == [(7, 3), (4, 2)] * 4
    assert ["lengths" in keywords for *_, keywords in seen.calls] == [False, True] * 4

    from_arrays, from_callable = model_of(), model_of()
    order = [np.random.default_rng([0, epoch]).permutation(ROWS) for epoch in range(2)]
    train(from_arrays, (x, y), epochs=2, batch_size=5)
    train(from_callable, lambda epoch: ((x[:, r], y[:, r]) for r in np.split(order[epoch], 2)), epochs=2)
    assert bits(from_arrays.parameters) == bits(from_callable.parameters)


def test_callables_may_yield_batches_with_nothing_to_count():
    x, y = arrays()
    nothing = [(x[:, :0], y[:, :0]), (x[:0], y[:0]), (x, y, 0 * LENGTHS)]
    models = model_of(), model_of()
    train(models[0], lambda epoch: [*nothing, (x, y), *nothing], validation=lambda epoch: [*nothing, (x, y)])
    train(models[1], lambda epoch: [(x, y)])
    assert bits(models[0].parameters) == bits(models[1].parameters)
    with pytest.raises(ValueError, match="data: expected at least one step to count in epoch 1, got none"):
        train(model_of(), lambda epoch: nothing)
    with pytest.raises(ValueError, match="validation: expected at least one step to count in epoch 1, got none"):
        train(model_of(), (x, y), validation=lambda epoch: nothing)


def test_the_data_is_not_changed_and_may_be_read_only_or_lists():
    x, y = arrays()
    copies = x.copy(), y.copy()
    x.flags.writeable = y.flags.writeable = False
    one, other = model_of(), model_of()
    train(one, (x, y), epochs=2)
    train(other, [x.tolist(), y.tolist()], epochs=2)
    assert bits(one.parameters) == bits(other.parameters)
    np.testing.assert_array_equal(x, copies[0])
    np.testing.assert_array_equal(y, copies[1])


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (X, TypeError, r"data: expected \(x, y\), \(x, y, lengths\) or a callable .*, got ndarray"),
        ((X,), TypeError, "data: expected .* got 1 of them"),
        ((X, Y, LENGTHS, 1), TypeError, "data: expected .* got 4 of them"),
        (None, TypeError, "data: expected .* got NoneType"),
        ((X[:, 0], Y[:, 0]), ValueError, r"data: x: expected 3 axes, rows on axis 1, got shape \(7, 2\)"),
        ((X[:, :0], Y[:, :0]), ValueError, "data: x: expected at least one row"),
        (
            (X, Y[:, :9]),
            ValueError,
            r"data: y: expected a target per step, .*\(7, 10\).* per row, \(10,\).*got \(7, 9, 3\)",
        ),
        ((X, np.float64(1.0)), ValueError, "data: y: expected a target per step"),
        ((X, Y, LENGTHS[:9]), ValueError, r"lengths: expected shape \(B,\) = \(10,\), got \(9,\)"),
        ((X, Y, LENGTHS + 1), ValueError, "lengths: expected 0 to T = 7, got 8 at row"),
        ((X, Y, LENGTHS * 1.0), TypeError, "lengths: expected integers"),
        ((X, Y, LENGTHS * 0), ValueError, "data: lengths: expected one above 0, got none"),
        (
            lambda epoch: [(X, Y, LENGTHS * 0)],
            ValueError,
            "data: expected at least one step to count in epoch 1",
        ),
        (lambda epoch: [], ValueError, "data: expected at least one step to count in epoch 1, got none"),
        (lambda epoch: [X], TypeError, "data: expected"),
        (lambda epoch: [(X, Y[:3])], ValueError, "data: y: expected a target per step"),
    ],
)
def test_data_refused(data, error, message):
    model = model_of()
    before = bits(model.parameters)
    with pytest.raises(error, match=message):
        train(model, data)
    assert bits(model.parameters) == before
    if data is not None and not callable(data):  # validation data are checked like data, before the first step
        with pytest.raises(error, match=message.replace("data:", "validation:")):
            train(model, (X, Y), validation=data)
        assert bits(model.parameters) == before


def test_x_needs_an_axis_of_rows_and_for_lengths_one_of_steps():
    linear = Sequential(Linear(2, 1, seed=0))
    with pytest.raises(ValueError, match=r"data: x: expected rows on axis 0, got shape \(\)"):
        train(linear, (1.0, [1.0]))
    with pytest.raises(ValueError, match=r"data: lengths: expected an x with a time axis with them, got \(3,\)"):
        train(linear, ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1, 1, 1]))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (None, "data: expected the callable to return an iterable of batches, got NoneType"),
        (3, "data: expected the callable to return an iterable of batches, got int"),
        ("ab", "data: expected .*, got str"),
        ([None], "data: expected .*, got NoneType"),
        ([(X,)], "data: expected .*, got 1 of them"),
        ([(X, Y, None, None)], "data: expected .*, got 4 of them"),
        ([(X.astype(object), Y)], "data: x: expected real numbers, got dtype object"),
        ([(X * 1j, Y)], "data: x: expected real numbers, got dtype complex"),
        ([(X.astype(str), Y)], "data: x: expected real numbers, got dtype"),
    ],
)
def test_the_batches_of_a_callable_are_checked(batches, message):
    model = model_of()
    before = bits(model.parameters)
    with pytest.raises(TypeError, match=message):
        train(model, lambda epoch: batches)
    assert bits(model.parameters) == before
    if isinstance(batches, list) and batches[0] is not None:
        with pytest.raises(TypeError, match=message):
            train(model, batches[0])


def test_targets_that_are_masked_or_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="data: y: expected no masked elements"):
        train(model_of(), (X, np.ma.masked_array(Y, Y > 0)))
    with pytest.raises(ValueError, match="data: x: expected no masked elements"):
        train(model_of(), (np.ma.masked_array(X, X > 0), Y))
    with pytest.raises(ValueError, match="data: y: expected an array"):
        train(model_of(), (X, [[1.0], [1.0, 2.0]]))
