"""The loss as fit calls it: its keywords, what counts, and the checks of its result."""

import functools

import numpy as np
import pytest
from small_runs import LENGTHS, ROWS, STEPS, Recorder, X, Y, arrays, bits, model_of, reading_out, train

import lstm_cy
from lstm_cy import LSTM, SGD, Adam, Linear, Readout, Sequential, cross_entropy, ctc, fit, mse
from lstm_cy.losses import NothingToCount


def last_step(prediction, target, batch_first=False):
    """Return the cross entropy of each row's last step, and its gradient."""
    last = np.s_[:, -1] if batch_first else np.s_[-1]
    gradient = np.zeros_like(prediction)
    loss, gradient[last] = cross_entropy(prediction[last], target)
    return loss, gradient


@pytest.mark.parametrize("batch_first", [False, True])
def test_one_target_per_row(batch_first):
    x, _ = arrays(batch_first=batch_first, rows=40)
    y = (x[:, -1] if batch_first else x[-1]).argmax(-1)
    model = model_of(batch_first=batch_first)
    history = train(model, (x, y), loss=last_step, optimizer=Adam(model, 0.03), epochs=30, validation=(x, y))
    assert history.validation[-1] < 0.2  # a model that has learned nothing has log 2 = 0.69
    still = train(model, (x, y), loss=last_step, optimizer=SGD(model, 0.0), batch_size=13)
    assert still.loss[0] == pytest.approx(last_step(model(x)[0], y, batch_first)[0], rel=1e-12)


def without_lengths(prediction, target):
    return mse(prediction, target)


def with_lengths(prediction, target, lengths=None):
    return mse(prediction, target)


weighted = functools.partial(cross_entropy, weight=[0.5, 2.0, 1.0])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    ("per_step", "loss"),
    [
        (False, mse),
        (False, cross_entropy),
        (False, weighted),
        (False, with_lengths),
        (False, without_lengths),
        (True, mse),
        (True, cross_entropy),
        (True, weighted),
        (True, lambda prediction, target, **keywords: mse(prediction, target, **keywords)),
        (True, ctc),
    ],
)
def test_the_loss_does_not_depend_on_how_rows_are_batched(per_step, loss, batch_first):
    """It does not depend on rows of length 0 either, whose targets would be invalid for the loss."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(STEPS, ROWS, 2))
    shape = (STEPS, ROWS) if per_step else (ROWS,)
    if loss in (cross_entropy, weighted):
        y = np.where(rng.random(shape) < 0.3, -100, rng.integers(3, size=shape))
    elif loss is ctc:
        y = np.where(LENGTHS[:, None] > 0, rng.integers(1, 3, (ROWS, 1)), 99)
    else:
        y = rng.normal(size=(*shape, 3))
    if not per_step:
        y[LENGTHS == 0] = 1e6 if y.dtype.kind == "f" else 2
    if batch_first:
        x, y = x.swapaxes(0, 1), y.swapaxes(0, 1) if per_step and loss is not ctc else y
    model = (model_of if per_step else functools.partial(reading_out, 3))(batch_first=batch_first)
    data = x, y, LENGTHS
    losses = []
    for batch_size in range(1, ROWS + 1):
        history = train(
            model, data, loss=loss, optimizer=SGD(model, 0.0), batch_size=batch_size, validation=data, seed=batch_size
        )
        losses += [*history.loss, *history.validation]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-12)
    assert losses[0] < 100
    rows = np.flatnonzero(LENGTHS)
    axis = int(not batch_first)
    not_empty = x.take(rows, axis), y.take(rows, axis if per_step and loss is not ctc else 0)
    alone = train(model, (*not_empty, LENGTHS[rows]), loss=loss, optimizer=SGD(model, 0.0))
    assert alone.loss[0] == pytest.approx(losses[0], rel=1e-12)


def own_cross_entropy(prediction, target):
    return cross_entropy(prediction, target)


@pytest.mark.parametrize(
    "loss", [cross_entropy, functools.partial(cross_entropy, ignore_index=-100), own_cross_entropy]
)
@pytest.mark.parametrize("bptt", [None, 2])
def test_batches_and_windows_with_nothing_to_count_are_skipped(bptt, loss, capsys):
    x = arrays()[0]
    y = np.random.default_rng(0).integers(3, size=(STEPS, ROWS))
    y[:, ::3] = -100
    y[2:4, :] = -100
    model = model_of()
    optimizer, steps = Adam(model, 0.01), []

    def counting(prediction, target):
        steps.append((target != -100).any())
        return loss(prediction, target)

    train(model, (x, y), loss=counting, optimizer=optimizer, batch_size=1, bptt=bptt, validation=(x, y), progress=True)
    assert 0 < optimizer.steps == sum(steps) // 2 < len(steps) // 2
    capsys.readouterr()
    still = train(model, (x, y), loss=loss, optimizer=SGD(model, 0.0), batch_size=1, bptt=bptt, validation=(x, y))
    losses, counts = [], []
    for row in range(ROWS):
        if (y[:, row] != -100).any():
            losses.append(cross_entropy(model(x[:, [row]])[0], y[:, [row]])[0])
            counts.append(int((y[:, row] != -100).sum()))
    if loss is not own_cross_entropy:  # fit does not know the weights of this loss
        np.testing.assert_allclose([*still.loss, *still.validation], np.average(losses, weights=counts), rtol=1e-12)


def test_batches_whose_classes_have_weight_0_are_skipped():
    x, y = arrays()[0], np.zeros((STEPS, ROWS), int)
    y[:, 4] = 1
    model = model_of()
    optimizer = Adam(model)
    history = train(
        model, (x, y), loss=functools.partial(cross_entropy, weight=[0, 1, 1]), optimizer=optimizer, batch_size=1
    )
    assert optimizer.steps == 1
    assert np.isfinite(history.loss[0])


def uncountable(prediction, target):
    raise NothingToCount("nothing to count")


@pytest.mark.parametrize(
    ("data", "loss", "message"),
    [
        ((arrays()[0], np.full((STEPS, ROWS), -100)), cross_entropy, "y: expected at least one target to count"),
        (
            (arrays()[0], np.full((STEPS, ROWS), 7)),
            functools.partial(cross_entropy, ignore_index=7),
            "y: expected at least one target to count",
        ),
        (
            (arrays()[0], np.ones((STEPS, ROWS), int)),
            functools.partial(cross_entropy, weight=[1, 0, 1]),
            "y: expected at least one target to count",
        ),
        ((arrays()[0][:0], np.zeros((0, ROWS, 3))), mse, "y: expected at least one target to count"),
        ((*arrays(), 0 * LENGTHS), mse, "lengths: expected one above 0"),
        (arrays(), uncountable, "expected at least one step to count in epoch 1"),
    ],
)
def test_data_with_nothing_to_count_are_refused_before_the_first_step(data, loss, message):
    model = model_of()
    before = bits(model.parameters)
    with pytest.raises(ValueError, match="data: " + message):
        train(model, data, loss=loss)
    assert bits(model.parameters) == before
    if loss is not uncountable:
        x, y = data[0], data[1] * 0 if data[1].dtype.kind == "i" else arrays()[1]
        with pytest.raises(ValueError, match="validation: " + message):
            train(model, (arrays()[0], y) if len(x) else arrays(), loss=loss, validation=data)
        assert bits(model.parameters) == before


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_loss_receives_the_keywords_it_needs(batch_first):
    x, y = arrays(batch_first=batch_first)
    order = {"batch_first": True} if batch_first else {}
    seen = Recorder()
    train(model_of(batch_first=batch_first), (x, y), loss=seen, validation=(x, y))
    assert [keywords for *_, keywords in seen.calls] == [order, order]
    seen = Recorder()
    train(model_of(batch_first=batch_first), (x, y, LENGTHS), loss=seen)
    assert [set(keywords) for *_, keywords in seen.calls] == [{"lengths", *order}]
    history = train(model_of(batch_first=batch_first), (x, y), loss=lambda prediction, target: mse(prediction, target))
    assert history.loss == train(model_of(batch_first=batch_first), (x, y)).loss


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (None, TypeError, r"return \(value, gradient\), got NoneType"),
        (3, TypeError, "got int"),
        ([1.0, np.zeros((STEPS, ROWS, 3))], TypeError, "got list"),
        ((1.0,), TypeError, "got tuple"),
        (("x", "gradient"), TypeError, "a number as the value it returns, got 'x'"),
        (("1.5", "gradient"), TypeError, "a number as the value it returns, got '1.5'"),
        ((1j, "gradient"), TypeError, "a number as the value it returns, got 1j"),
        ((None, "gradient"), TypeError, "a number as the value it returns, got None"),
        ((np.ones(2), "gradient"), TypeError, r"a number as the value it returns, got array\(\[1., 1.\]\)"),
        ((np.ones(1), "gradient"), TypeError, "a number as the value it returns, got"),
        ((10**400, "gradient"), TypeError, "a number as the value it returns, got"),
        ((object(), "gradient"), TypeError, "a number as the value it returns, got"),
        ((1.0, None), TypeError, "the gradient it returns: expected real numbers, got dtype object"),
        (
            (1.0, np.zeros(3)),
            ValueError,
            r"the gradient it returns: expected shape the prediction's = \(7, 10, 3\), got",
        ),
        ((1.0, np.zeros((STEPS, ROWS, 3), complex)), TypeError, "the gradient it returns: expected real numbers, got"),
        ((1.0, np.full((STEPS, ROWS, 3), "x")), TypeError, "the gradient it returns: expected real numbers, got"),
        ((1.0, 0.0), ValueError, "the gradient it returns: expected shape"),
    ],
)
@pytest.mark.parametrize("validation", [False, True])
def test_the_result_of_a_loss_is_checked(result, error, message, validation):
    def loss(prediction, target):
        if validation and target.shape[1] != 1:
            return mse(prediction, target)
        if isinstance(result, tuple) and isinstance(result[-1], str):
            return result[0], np.zeros_like(prediction)
        if not validation or not isinstance(result, tuple) or np.shape(result[-1]) != (STEPS, ROWS, 3):
            return result
        return result[0], result[1][:, :1]

    model, held_out = model_of(), arrays(rows=1) if validation else None
    before = bits(model.parameters)
    with pytest.raises(error, match="loss: .*" + message.replace("10, 3", "1, 3" if validation else "10, 3")):
        train(model, (X, Y), loss=loss, validation=held_out)
    assert validation or bits(model.parameters) == before


def test_the_value_of_a_loss_may_be_any_kind_of_number():
    for number in (1, np.float32(1), np.array(1.0), np.int64(1), True):
        history = train(model_of(), (X, Y), loss=lambda p, t, number=number: (number, np.zeros_like(p).tolist()))
        assert history.loss == [1.0] and type(history.loss[0]) is float


def test_a_readout_with_two_outputs_needs_two_gradients():
    lstm = LSTM(2, 3, bidirectional=True, dtype="float64", seed=0)
    model = Sequential(lstm, Readout(bidirectional=True, merge_mode=None))

    def loss(prediction, target):
        (value, first), (other, second) = (mse(half, target) for half in prediction)
        return value + other, (first, second)

    train(model, (X, Y[0]), loss=loss)
    with pytest.raises(TypeError, match="loss: expected 2 arrays as its gradient, got"):
        train(model, (X, Y[0]), loss=lambda prediction, target: (1.0, np.zeros((ROWS, 3))))
    with pytest.raises(ValueError, match="loss: the gradient it returns: expected shape"):
        train(model, (X, Y[0]), loss=lambda prediction, target: (1.0, (prediction[0], np.zeros(3))))


def test_a_loss_without_lengths_is_refused_if_the_data_has_lengths():
    model = model_of()
    with pytest.raises(TypeError, match="loss: expected one that takes lengths=, because data has lengths"):
        train(model, (X, Y, LENGTHS), loss=lambda prediction, target: mse(prediction, target))


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [
        (lstm_cy.huber, 1),
        (functools.partial(lstm_cy.quantile, quantiles=(0.1, 0.9)), 2),
        (lstm_cy.binary_cross_entropy, 1),
        (lstm_cy.mse, 1),
        (lstm_cy.cross_entropy, 2),
    ],
)
def test_lengths_with_a_target_per_row_for_every_loss_of_elements(loss, outputs):
    """The losses and metrics get no lengths, which would be those of steps."""
    rng, lengths = np.random.default_rng(0), [6, 2, 0, 5]
    x, y = rng.standard_normal((6, 4, 2)), rng.integers(0, 2, 4)
    target = y if outputs == 2 else y[:, None].astype(float)
    model = Sequential(LSTM(2, 4, seed=0), Readout(), Linear(4, outputs, seed=1))
    expected = loss(model(x, lengths=lengths)[0][[0, 1, 3]], target[[0, 1, 3]])[0]
    metrics = {"loss": loss} | ({"accuracy": lstm_cy.accuracy} if loss is lstm_cy.cross_entropy else {})
    history = fit(
        model,
        (x, target, lengths),
        loss=loss,
        optimizer=Adam(model),
        epochs=1,
        validation=(x, target, lengths),
        metrics=metrics,
        progress=False,
    )
    assert abs(history.loss[0] - expected) <= 1e-6
    assert history.metrics["validation_loss"] == history.validation
