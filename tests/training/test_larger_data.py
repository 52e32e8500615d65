"""Arrays on disk, batches of objects, reading ahead on a thread, and predict."""

import threading

import numpy as np
import pytest
from small_runs import LENGTHS, ROWS, X, Y, arrays, bits, model_of, reading_out, train

from lstm_cy import LSTM, Linear, Readout, Seq2Seq, Sequential, config


class Reading:
    """Batches that can be read again and again, with a length."""

    def __init__(self, size=3):
        self.starts, self.size = range(0, ROWS, size), size
        self.threads = set()

    def __len__(self):
        return len(self.starts)

    def __iter__(self):
        for start in self.starts:
            self.threads.add(threading.current_thread().name)
            yield X[:, start : start + self.size], Y[:, start : start + self.size]


def run(data, **options):
    model = model_of(dropout=0.2)
    options = {"batch_size": 3, "epochs": 2, "seed": 1} | options
    history = train(model, data, **options)
    return bits(model.parameters), history.loss, history.validation


@pytest.mark.parametrize("prefetch", [1, 2, 50])
@pytest.mark.parametrize("kind", ["arrays", "function", "object", "lengths"])
def test_reading_ahead_does_not_change_the_result(kind, prefetch):
    data = {
        "arrays": (X, Y),
        "function": lambda epoch: iter(Reading()),
        "object": Reading(),
        "lengths": (X, Y, LENGTHS),
    }[kind]
    options = {"validation": (X, Y), "bptt": 4}
    assert run(data, prefetch=prefetch, **options) == run(data, **options)


def test_a_thread_reads_ahead():
    data = Reading()
    run(data, prefetch=2)
    assert any("prefetch" in name for name in data.threads)
    assert not [thread for thread in threading.enumerate() if "prefetch" in thread.name]


def test_objects_equal_functions():
    assert run(Reading()) == run(lambda epoch: iter(Reading()))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_errors_of_the_reader_and_of_the_training_end_the_thread(prefetch):
    closed = []

    def failing(epoch):
        yield X, Y
        raise OSError("disk")

    def closing(epoch):
        try:
            while True:
                yield X, Y
        finally:
            closed.append(epoch)

    def loss(prediction, target):
        raise KeyboardInterrupt

    with pytest.raises(OSError, match="disk"):
        run(failing, prefetch=prefetch)
    with pytest.raises(KeyboardInterrupt):
        run(closing, loss=loss, prefetch=prefetch)
    if prefetch:
        assert closed == [0]
    with pytest.raises(TypeError, match="data: expected"):
        run(lambda epoch: [(X, Y), 3], prefetch=prefetch)
    assert not [thread for thread in threading.enumerate() if "prefetch" in thread.name]


def test_the_length_of_an_object_is_the_length_of_the_bar(capsys):
    model = model_of()
    train(model, Reading(), progress=True, epochs=1)
    assert "epoch 1/1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"data": iter([(X, Y)])},
            TypeError,
            "data: expected data that can be read in every epoch, got a list_iterator",
        ),
        ({"data": (pair for pair in [(X, Y)])}, TypeError, "pass a function that makes it"),
        ({"data": Reading(), "validation_split": 0.5}, ValueError, "validation_split"),
        ({"data": Reading(), "sample_weight": np.ones(ROWS)}, ValueError, "sample_weight"),
        ({"prefetch": -1}, ValueError, "prefetch"),
        ({"prefetch": 1.5}, TypeError, "prefetch"),
    ],
)
def test_data_refused(options, error, message):
    with pytest.raises(error, match=message):
        run(**({"data": (X, Y)} | options))


@pytest.mark.parametrize("batch_first", [False, True])
def test_mapped_arrays_equal_arrays(batch_first, tmp_path):
    x, y = arrays(batch_first=batch_first)
    mapped = []
    for name, array in {"x": x, "y": y}.items():
        np.save(tmp_path / f"{name}.npy", array)
        mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    results = []
    for data in ((x, y), tuple(mapped)):
        model = model_of(batch_first=batch_first)
        train(model, data, batch_size=3, prefetch=2, validation_split=0.3)
        results.append((bits(model.parameters), model.predict(data[0], 3).tobytes()))
    assert results[0] == results[1]


# predict


@pytest.mark.parametrize("batch_size", [1, 3, ROWS, 99])
@pytest.mark.parametrize("batch_first", [False, True])
def test_predict_equals_a_call(batch_first, batch_size):
    x, y = arrays(batch_first=batch_first)
    mask = np.random.default_rng(0).random(x.shape[:2]) > 0.3
    with config.using(engine="packed"):
        lstm = LSTM(2, 5, batch_first=batch_first, bidirectional=True, seed=0)
        models = [lstm, Sequential(lstm, Linear(10, 3, seed=1)), Sequential(lstm, Readout(batch_first=batch_first))]
    for model in models:
        expected = model(x)[0]
        for data in (x, x.tolist(), (x, y), {"x": x}, lambda epoch: [(x, y)], iter([(x, y)]), {"all": (x, y)}.values()):
            np.testing.assert_array_equal(model.predict(data, batch_size), expected)
        np.testing.assert_array_equal(
            model.predict((x, y, LENGTHS), batch_size, threads=1), model(x, lengths=LENGTHS)[0]
        )
        np.testing.assert_array_equal(
            model.predict({"x": x, "mask": mask}, batch_size=batch_size), model(x, mask=mask)[0]
        )


def test_predict_joins_rows_where_rows_and_steps_are_equal():
    x = np.random.default_rng(0).normal(size=(4, 8, 2))
    model = reading_out(4)
    np.testing.assert_array_equal(model.predict(x, 4), model(x)[0])
    np.testing.assert_array_equal(model.predict(lambda epoch: [(x[:, :4], 0), (x[:, 4:], 0)], 2), model(x)[0])


def test_predict_of_two_outputs_and_of_other_models():
    lstm = LSTM(2, 3, bidirectional=True, seed=0)
    model = Sequential(lstm, Readout(bidirectional=True, merge_mode=None))
    for ours, expected in zip(model.predict(X, 3), model(X)[0], strict=True):
        np.testing.assert_array_equal(ours, expected)
    pairs = np.random.default_rng(0).integers(0, 6, (5, 2, 4))
    translator = Seq2Seq(6, embedding_dim=4, hidden_size=4, seed=0)
    np.testing.assert_allclose(translator.predict(pairs, 2), translator(pairs)[0], rtol=1e-5, atol=1e-6)
    assert Sequential(Linear(2, 3)).predict(np.ones((7, 2)), 3).shape == (7, 3)
    assert lstm.predict(np.ones((4, 0, 2))).shape == (4, 0, 6)


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (X[0, 0], {}, ValueError, "data: x: expected rows on axis 1"),
        ({"y": X}, {}, ValueError, "data: expected 'x'"),
        ((X,), {}, ValueError, "data: expected x, "),
        ((X, Y, LENGTHS[:3]), {}, ValueError, "lengths"),
        ({"x": X, "mask": np.ones((2, 2), bool)}, {}, ValueError, "data: mask"),
        (X, {"batch_size": 0}, ValueError, "batch_size"),
        (lambda epoch: 3, {}, TypeError, "data: expected the callable to return an iterable"),
        (lambda epoch: [], {}, ValueError, "data: expected at least one batch"),
        (lambda epoch: [X, X[:3]], {}, ValueError, "data: expected batches of one length"),
        ("text", {}, TypeError, "data: x"),
    ],
)
def test_predict_refuses(data, options, error, message):
    with pytest.raises(error, match=message):
        model_of().predict(data, **options)
