"""Metrics in fit: exact means for any batch size, checkpoints, and what is refused."""

import functools

import numpy as np
import pytest
from small_runs import LENGTHS, ROWS, STEPS, X, Y, model_of, train

from lstm_cy import SGD, accuracy, cross_entropy, mse
from lstm_cy.losses import NothingToCount
from lstm_cy.training import History, read_history

CLASSES = np.random.default_rng(3).integers(0, 3, (STEPS, ROWS))
CLASSES[2, 4:] = -100
WEIGHTS = np.random.default_rng(4).random((STEPS, ROWS))


def test_accuracy_by_hand():
    scores = np.eye(3)[[[0, 1], [2, 2], [1, 0]]]  # (T, B, C)
    assert accuracy(scores, [[0, 1], [2, 0], [-100, 0]]) == 0.8
    assert accuracy(scores, [[0, 1], [2, 0], [0, 0]], lengths=[2, 1]) == 1.0
    assert accuracy(scores, [[0, 1], [2, 0], [0, 0]], sample_weight=[[1, 1], [1, 3], [0, 0]]) == 0.5
    assert accuracy(scores.swapaxes(0, 1), [[0, 2, 0], [1, 0, 0]], lengths=[2, 2], batch_first=True) == 0.75
    assert type(accuracy(scores, [[0, 1], [2, 0], [0, 0]])) is float
    with pytest.raises(NothingToCount):
        accuracy(np.zeros((2, 3)), [-100, -100])
    with pytest.raises(ValueError, match="target"):
        accuracy(np.zeros((2, 3)), [0])
    with pytest.raises(ValueError, match="prediction"):
        accuracy(np.zeros((2, 0)), [0, 0])


@pytest.mark.parametrize("batch_size", [1, 3, ROWS])
@pytest.mark.parametrize("bptt", [None, 3])
def test_means_are_exact_for_any_batch_size(batch_size, bptt):
    model = model_of()
    data = {"x": X, "y": CLASSES, "lengths": LENGTHS, "sample_weight": WEIGHTS}
    history = train(
        model,
        data,
        loss=cross_entropy,
        optimizer=SGD(model, 0.0),
        validation=data,
        batch_size=batch_size,
        bptt=bptt,
        metrics={"right": accuracy, "nats": cross_entropy},
        epochs=2,
    )
    prediction = model(X, lengths=LENGTHS)[0]
    expected = accuracy(prediction, CLASSES, lengths=LENGTHS, sample_weight=WEIGHTS)
    assert set(history.metrics) == {"right", "nats", "validation_right", "validation_nats"}
    for name in ("right", "validation_right"):
        assert history.metrics[name] == pytest.approx([expected, expected], rel=1e-12)
    assert history.metrics["nats"] == pytest.approx(history.loss, rel=1e-12)
    assert history.metrics["validation_nats"] == pytest.approx(history.validation, rel=1e-12)


def largest_error(prediction, target, lengths=None):
    return np.abs(prediction - target).max()


def test_a_metric_of_ones_own_and_its_name():
    model = model_of()
    history = train(model, (X, Y), optimizer=SGD(model, 0.0), metrics=[largest_error], batch_size=ROWS)
    assert history.metrics == {"largest_error": [pytest.approx(np.abs(model(X)[0] - Y).max())]}
    assert train(model_of(), (X, Y)).metrics == {}


def test_metrics_do_not_change_the_training_and_resume(tmp_path):
    path = tmp_path / "run.npz"

    def run(epochs, **options):
        model = model_of(dropout=0.2)
        history = train(
            model, (X, CLASSES), loss=cross_entropy, epochs=epochs, validation_split=0.2, batch_size=3, **options
        )
        return {name: array.tobytes() for name, array in model.parameters.items()}, history.metrics

    whole = run(4, metrics=[accuracy])
    assert whole[0] == run(4)[0]
    run(2, metrics=[accuracy], checkpoint=path)
    assert run(4, metrics=[accuracy], checkpoint=path, resume=True) == whole
    assert read_history(path).metrics == whole[1]
    with pytest.raises(ValueError, match="metrics"):
        run(5, checkpoint=path, resume=True)


@pytest.mark.parametrize(
    ("metrics", "options", "error", "message"),
    [
        (3, {}, TypeError, "metrics: expected a dict"),
        ([3], {}, TypeError, "metrics: expected a dict"),
        ({"a": 3}, {}, TypeError, "metrics: expected names and functions"),
        ([functools.partial(accuracy)], {}, ValueError, "metrics: expected a dict with a name"),
        ({"a": lambda p, t: "x"}, {}, TypeError, "metrics: a: expected a number"),
        ({"a": lambda p, t: 1.0}, {"sample_weight": np.ones(ROWS)}, TypeError, "metrics: a: .* takes sample_weight="),
    ],
)
def test_metrics_refused(metrics, options, error, message):
    model = model_of()
    before = model.parameters
    with pytest.raises(error, match=message):
        train(model, (X, Y), metrics=metrics, loss=mse, **options)
    assert all(array is before[name] for name, array in model.parameters.items())


def test_history_checks_and_shows_metrics():
    history = History([1.0, 0.5], metrics={"accuracy": [0.5, 1]})
    assert history.metrics == {"accuracy": [0.5, 1.0]}
    assert "accuracy" in history._repr_html_()
    with pytest.raises(TypeError, match=r"metrics\['a'\]"):
        History(metrics={"a": 3})
    with pytest.raises(TypeError, match="metrics"):
        History(metrics=[1])
