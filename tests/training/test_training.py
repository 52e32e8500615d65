"""fit against a training loop written out by hand; runs that are killed and resumed against runs that are not."""

import functools
import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from lstm_cy import (
    LSTM,
    SGD,
    Adam,
    Dropout,
    Embedding,
    Linear,
    Readout,
    Sequential,
    clip_grad_norm,
    cross_entropy,
    ctc,
    fit,
    mse,
)
from lstm_cy.layers.base import Gradients, Layer
from lstm_cy.losses import NothingToCount
from lstm_cy.training import History, read_history
from lstm_cy.weights.native import read_npz, write_npz

ROWS, STEPS = 10, 7
LENGTHS = np.array([7, 3, 0, 7, 5, 1, 7, 2, 7, 6])


def model_of(*, batch_first=False, dropout=0.0, dtype="float64", size=5):
    lstm = LSTM(2, size, 2, batch_first=batch_first, dropout=dropout, dtype=dtype, seed=1)
    return Sequential(lstm, Dropout(dropout), Linear(size, 3, dtype=dtype, seed=2))


def arrays(*, batch_first=False, rows=ROWS, seed=0):
    """Return x (T, B, 2) and y (T, B, 3), or rows first."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(STEPS, rows, 2)), rng.normal(size=(STEPS, rows, 3))
    return (x.swapaxes(0, 1), y.swapaxes(0, 1)) if batch_first else (x, y)


def bits(arrays):
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}


def train(model, data, **options):
    """Call fit with default options."""
    options = {"loss": mse, "optimizer": Adam(model, 0.01), "epochs": 1, "progress": False} | options
    return fit(model, data, **options)


class Recorder:
    """A loss that records its arguments."""

    def __init__(self):
        self.calls = []

    def __call__(self, prediction, target, **keywords):
        self.calls.append((prediction.copy(), target.copy(), keywords))
        return 1.0, np.zeros_like(prediction)


# what one epoch does


def by_hand(model, x, y, lengths, *, batch_first, bptt, epochs, clip_norm, seed):
    """Train as fit is documented to do; x and y have the rows first."""
    optimizer, history = Adam(model, 0.05), []
    for epoch in range(epochs):
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(ROWS)
        total = count = 0
        for rows in order[:4], order[4:8], order[8:]:
            states = None
            for start in range(0, STEPS, bptt or STEPS):
                stop = min(start + (bptt or STEPS), STEPS)
                left = np.clip(lengths[rows] - start, 0, stop - start)
                if not left.any():
                    continue
                window, target = x[rows, start:stop], y[rows, start:stop]
                if not batch_first:
                    window, target = window.swapaxes(0, 1), target.swapaxes(0, 1)
                out, states, tape = model.forward(window, states, lengths=left, rng=rng)
                loss, gradient = mse(out, target, lengths=left, batch_first=batch_first)
                grads = model.backward(tape, gradient)
                clip_grad_norm(grads, clip_norm)
                optimizer.step(grads)
                total, count = total + loss * left.sum(), count + left.sum()
        history.append(total / count)
    return history


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("bptt", [None, 3, 7, 100])
@pytest.mark.parametrize("batch_first", [False, True])
def test_fit_equals_the_loop_written_by_hand(batch_first, bptt, ragged):
    x, y = arrays(batch_first=True)
    lengths = LENGTHS if ragged else np.full(ROWS, STEPS)
    options = {"bptt": bptt, "epochs": 3, "clip_norm": 0.2, "seed": 11}
    ours, hands = (model_of(batch_first=batch_first, dropout=0.0 if ragged else 0.3) for _ in range(2))
    losses = by_hand(hands, x, y, lengths, batch_first=batch_first, **options)
    layout = (x, y) if batch_first else (x.swapaxes(0, 1), y.swapaxes(0, 1))
    data = (*layout, lengths) if ragged else layout
    history = train(ours, data, optimizer=Adam(ours, 0.05), batch_size=4, **options)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-12)
    assert history.validation == []
    for name, array in ours.parameters.items():
        np.testing.assert_allclose(array, hands.parameters[name], rtol=0, atol=1e-12)


def test_windows_carry_the_state_and_no_gradient():
    x, y = arrays()
    seen = Recorder()
    model = model_of()
    train(model, (x, y), loss=seen, optimizer=SGD(model, 0.0), bptt=3)
    whole, _ = model(x)
    rows = np.random.default_rng([0, 0]).permutation(ROWS)
    predictions = np.concatenate([prediction for prediction, *_ in seen.calls])
    np.testing.assert_allclose(predictions, whole[:, rows], rtol=0, atol=1e-14)
    assert [len(target) for _, target, _ in seen.calls] == [3, 3, 1]


def test_each_epoch_has_every_row_once_in_an_order_of_its_own():
    x, y = np.zeros((STEPS, ROWS, 2)), np.broadcast_to(np.arange(ROWS)[:, None], (STEPS, ROWS, 3))
    orders = []
    for _ in range(2):
        seen = Recorder()
        train(model_of(), (x, y), loss=seen, batch_size=4, epochs=3, seed=5)
        assert [target.shape[1] for _, target, _ in seen.calls] == [4, 4, 2] * 3
        rows = np.concatenate([target[0, :, 0] for _, target, _ in seen.calls]).reshape(3, ROWS)
        np.testing.assert_array_equal(np.sort(rows), np.tile(np.arange(ROWS), (3, 1)))
        orders.append(rows)
    assert len({tuple(row) for row in orders[0]}) == 3
    np.testing.assert_array_equal(orders[0], orders[1])
    seen = Recorder()
    train(model_of(), (x, y), loss=seen, batch_size=4, seed=6)
    assert np.concatenate([target[0, :, 0] for _, target, _ in seen.calls]).tolist() != orders[0][0].tolist()


def test_rows_of_x_y_and_lengths_stay_together():
    marks = np.arange(ROWS) / ROWS
    x = np.broadcast_to(marks[:, None], (STEPS, ROWS, 2))
    seen = Recorder()
    model = LSTM.from_gates(  # its output is tanh(tanh(x)) of the current step
        forget=(np.zeros((2, 4)), [-50.0] * 2),
        input=(np.zeros((2, 4)), [50.0] * 2),
        output=(np.zeros((2, 4)), [50.0] * 2),
        candidate=(np.eye(2, 4, 2), [0.0] * 2),
        dtype="float64",
    )
    train(model, (x, x, np.arange(ROWS) % STEPS + 1), loss=seen, batch_size=4)
    for prediction, target, keywords in seen.calls:
        np.testing.assert_allclose(np.tanh(np.tanh(target[0])), prediction[0], rtol=1e-6)
        np.testing.assert_array_equal(np.rint(target[0, :, 0] * ROWS) % STEPS + 1, keywords["lengths"])


@pytest.mark.parametrize("bptt", [None, 2])
def test_values_past_the_lengths_have_no_effect(bptt):
    x, y = arrays()
    clean, dirty = model_of(), model_of()
    histories = [train(clean, (x, y, LENGTHS), bptt=bptt, epochs=2, batch_size=3)]
    padding = np.arange(STEPS)[:, None] >= LENGTHS
    x[padding] = y[padding] = np.nan
    histories.append(train(dirty, (x, y, LENGTHS.astype(np.uint8)), bptt=bptt, epochs=2, batch_size=3))
    assert bits(clean.parameters) == bits(dirty.parameters)
    assert histories[0].loss == histories[1].loss


def test_batches_are_cut_after_their_longest_row():
    seen = Recorder()
    x, y = arrays()
    lengths = np.array([3, 1, 2, 0, 3, 2, 1, 0, 3, 2])
    train(model_of(), (x, y, lengths), loss=seen, batch_size=ROWS)
    ((prediction, target, keywords),) = seen.calls
    assert prediction.shape == target.shape == (3, ROWS, 3)
    assert sorted(keywords["lengths"]) == sorted(lengths)


def test_windows_without_steps_are_skipped():
    seen = Recorder()
    x, y = arrays()
    lengths = np.array([1, 4, 0, 0, 2, 0, 0, 0, 0, 0])
    train(model_of(), (x, y, lengths), loss=seen, bptt=3, batch_size=1)
    assert sorted(int(keywords["lengths"][0]) for *_, keywords in seen.calls) == [1, 1, 2, 3]


@pytest.mark.parametrize("bptt", [None, 3])
@pytest.mark.parametrize("ragged", [False, True])
def test_the_losses_are_means_over_all_counted_steps(ragged, bptt):
    data = (*arrays(), LENGTHS) if ragged else arrays()
    held_out = (*arrays(rows=6, seed=1), LENGTHS[:6]) if ragged else arrays(rows=6, seed=1)
    model = model_of()
    still = SGD(model, 0.0)
    history = train(model, data, optimizer=still, epochs=2, batch_size=4, bptt=bptt, validation=held_out)
    for (x, y, *lengths), losses in ((data, history.loss), (held_out, history.validation)):
        keywords = {"lengths": lengths[0]} if lengths else {}
        prediction, _ = model(x, **keywords)
        np.testing.assert_allclose(losses, [mse(prediction, y, **keywords)[0]] * 2, rtol=1e-12)
    assert len(history.seconds) == 2


def test_validation_of_ragged_rows_in_both_directions():
    data = (*arrays(), LENGTHS)
    model = Sequential(LSTM(2, 4, bidirectional=True, dtype="float64", seed=0), Linear(8, 3, dtype="float64", seed=1))
    history = train(model, data, optimizer=SGD(model, 0.0), validation=data)
    prediction, _ = model(data[0], lengths=LENGTHS)
    expected = mse(prediction, data[1], lengths=LENGTHS)[0]
    np.testing.assert_allclose([*history.loss, *history.validation], [expected] * 2, rtol=1e-12)


def test_validation_uses_inference_and_does_not_affect_training():
    with_validation, without = model_of(dropout=0.4), model_of(dropout=0.4)
    held_out = arrays(rows=5, seed=1)
    history = train(with_validation, arrays(), epochs=3, batch_size=4, validation=held_out)
    train(without, arrays(), epochs=3, batch_size=4)
    assert bits(with_validation.parameters) == bits(without.parameters)
    prediction, _ = with_validation(held_out[0])
    assert history.validation[-1] == pytest.approx(mse(prediction, held_out[1])[0], rel=1e-12)


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


# targets per row and per step, and the elements that count


class Last(Layer):
    """A user-defined layer that removes the time axis."""

    def __init__(self, axis):
        self.axis, self.config, self.dtype, self._parameters = axis, {"axis": axis}, None, {}

    def __call__(self, y):
        return y.take(-1, self.axis)

    def forward(self, y, rng=None):
        return self(y), y

    def backward(self, tape, dy):
        gradient = np.zeros_like(tape)
        gradient[(slice(None),) * self.axis + (-1,)] = dy
        return Gradients(gradient, None, {})


def reading_out(outputs, *, batch_first=False, own=False):
    last = Last(int(batch_first)) if own else Readout(batch_first=batch_first)
    lstm = LSTM(2, 4, batch_first=batch_first, dtype="float64", seed=1)
    return Sequential(lstm, last, Linear(4, outputs, dtype="float64", seed=2))


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


def test_rows_of_length_0_do_not_affect_the_parameters():
    x, y, models = arrays()[0], arrays()[1][0], [reading_out(3), reading_out(3)]
    train(models[0], (x, y, LENGTHS), optimizer=SGD(models[0], 0.1), batch_size=ROWS)
    rows = np.flatnonzero(LENGTHS)
    train(models[1], (x[:, rows], y[rows], LENGTHS[rows]), optimizer=SGD(models[1], 0.1), batch_size=ROWS)
    for name, array in models[0].parameters.items():
        np.testing.assert_allclose(array, models[1].parameters[name], rtol=0, atol=1e-14)


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


def test_a_window_with_nothing_to_count_carries_the_state():
    x = arrays()[0]
    y = np.zeros((STEPS, ROWS), int)
    y[:3] = -100
    model, seen = model_of(), []

    def loss(prediction, target):
        seen.append(prediction.copy())
        return cross_entropy(prediction, target)

    train(model, (x, y), loss=loss, optimizer=SGD(model, 0.0), bptt=3)
    rows = np.random.default_rng([0, 0]).permutation(ROWS)
    np.testing.assert_allclose(np.concatenate(seen), model(x)[0][:, rows], rtol=0, atol=1e-14)


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


def test_an_lstm_alone_and_a_model_without_one():
    x, _ = arrays()
    lstm = LSTM(2, 3, seed=0)
    history = train(lstm, (x, np.tanh(x.sum(-1, keepdims=True) + np.zeros(3))), epochs=20)
    assert history.loss[-1] < history.loss[0]

    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 2))
    linear = Sequential(Linear(2, 1, dtype="float64", seed=0))
    optimizer = SGD(linear, 0.3)
    train(linear, (features, features @ [[2.0], [-1.0]] + 0.5), optimizer=optimizer, epochs=100, batch_size=10)
    np.testing.assert_allclose(linear.parameters["0.weight"], [[2.0, -1.0]], atol=1e-6)

    tokens = rng.integers(0, 4, 60)
    table = Sequential(Embedding(4, 4, dtype="float64", seed=0))
    history = train(table, (tokens, tokens), loss=cross_entropy, optimizer=Adam(table, 0.1), epochs=60)
    assert history.loss[-1] < 0.05


def test_a_character_model_learns():
    text = np.tile([0, 1, 2, 3, 2, 1], 40)
    x, y = text[:-1].reshape(1, -1), text[1:].reshape(1, -1)
    model = Sequential(Embedding(4, 4, seed=0), LSTM(4, 12, batch_first=True, seed=1), Linear(12, 4, seed=2))
    history = train(model, (x, y), loss=cross_entropy, optimizer=Adam(model, 0.03), epochs=8, bptt=20, clip_norm=1.0)
    assert history.loss[-1] < 0.1  # whether 3 or 1 follows a 2 depends on the character before the 2


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


# when to stop


class Scripted:
    """A loss with given validation losses, one per epoch; data of a single row are the validation data."""

    def __init__(self, *values):
        self.values = iter(values)

    def __call__(self, prediction, target):
        loss, gradient = mse(prediction, target)
        return (next(self.values) if target.shape[1] == 1 else loss), gradient


@pytest.mark.parametrize(
    ("values", "patience", "epochs", "best"),
    [
        ([3.0, 2.0, 2.0, 2.5, 1.0], 2, 4, 1),  # an equal loss is not an improvement
        ([3.0, 2.0, 2.5, 1.0, 1.5], 2, 5, 3),
        ([3.0, np.nan, 2.0, np.nan, np.nan], 2, 5, 2),
        ([np.nan, np.nan, 2.0, 1.0, 0.5], 1, 2, 0),
        ([np.nan, 3.0, 2.0, 2.5, 2.5], 2, 5, 2),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 9, 5, 0),
    ],
)
def test_patience_stops_and_restores_the_best_parameters(values, patience, epochs, best):
    model, after = model_of(), []
    history = train(
        model,
        arrays(),
        loss=Scripted(*values),
        epochs=5,
        validation=arrays(rows=1),
        patience=patience,
        callbacks=[lambda history: after.append(bits(model.parameters))],
    )
    assert len(history.loss) == len(history.seconds) == epochs
    np.testing.assert_array_equal(history.validation, values[:epochs])
    assert history.best_epoch == best
    assert bits(model.parameters) == after[best]
    assert len(set(map(str, after))) == epochs


def test_without_patience_the_last_parameters_stay():
    model, after = model_of(), []
    callbacks = [lambda history: after.append(bits(model.parameters))]
    history = train(model, arrays(), loss=Scripted(1.0, 2.0), epochs=2, validation=arrays(rows=1), callbacks=callbacks)
    assert history.best_epoch == 0
    assert bits(model.parameters) == after[1]


def test_callbacks_receive_the_history_and_may_stop_the_training():
    seen = []
    history = train(
        model_of(),
        arrays(),
        epochs=9,
        callbacks=(lambda h: len(h.loss) == 3, lambda h: seen.append((len(h.loss), len(h.seconds)))),
    )
    assert len(history.loss) == 3
    assert seen == [(1, 1), (2, 2), (3, 3)]


def test_repr_of_a_history():
    assert repr(History()) == "History(epochs=0, best_epoch=None)"
    assert repr(History([2.0, 1.0], [], [0.1, 0.1])) == "History(epochs=2, loss=1, best_epoch=1)"
    history = History([2.0, 1.0], [0.5, 0.75], [0.1, 0.1])
    assert repr(history) == "History(epochs=2, loss=1, validation=0.75, best_epoch=0)"


# checkpoints


def long_run(path, *, epochs=6, loss=mse, resume=False, patience=None, **others):
    """Train with many options; return the model, its optimizer and the history."""
    model = model_of(dropout=0.2, dtype="float32")
    optimizer = Adam(model, 0.02, weight_decay=0.01)

    def schedule(history):
        optimizer.lr *= 0.9

    options = {"bptt": 3, "clip_norm": 0.3, "batch_size": 4, "seed": 3, "callbacks": [schedule]} | others
    history = train(
        model,
        (*arrays(), LENGTHS),
        loss=loss,
        optimizer=optimizer,
        validation=arrays(rows=4, seed=1),
        patience=patience,
        epochs=epochs,
        checkpoint=path,
        resume=resume,
        **options,
    )
    return model, optimizer, history


def interrupting(error, call):
    """Return a loss that raises `error` at the call with number `call`."""
    calls = itertools.count(1)

    def loss(*arguments, **keywords):
        if next(calls) == call:
            raise error
        return mse(*arguments, **keywords)

    return loss


def assert_same_run(one, other):
    assert bits(one[0].parameters) == bits(other[0].parameters)
    assert bits(one[1].state_dict()) == bits(other[1].state_dict())
    assert one[2].loss == other[2].loss
    assert one[2].validation == other[2].validation
    assert len(one[2].seconds) == len(other[2].seconds)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


@pytest.mark.parametrize("calls", [(1,), (40,), (12, 30), (25, 1, 2, 30)])
def test_an_interrupted_training_resumes_bit_for_bit(calls, path):
    whole = long_run(path.with_name("whole.npz"))
    for call in calls:
        with pytest.raises(KeyboardInterrupt):
            long_run(path, loss=interrupting(KeyboardInterrupt, call), resume=True)
    assert_same_run(long_run(path, resume=True), whole)
    assert sorted(p.name for p in path.parent.iterdir()) == ["run.npz", "whole.npz"]


def blocked_run(path):
    """Print a line in the middle of the fourth epoch, and wait there for ever; runs in a separate process."""
    done, calls = [], itertools.count(1)

    def loss(*arguments, **keywords):
        if len(done) == 3 and next(calls) == 2:
            print("in the middle", flush=True)
            sys.stdin.read()
        return mse(*arguments, **keywords)

    long_run(path, loss=loss, callbacks=[done.append])


def test_a_killed_training_resumes_bit_for_bit(path):
    program = f"import test_training; test_training.blocked_run({str(path)!r})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout.readline() == b"in the middle\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert read_npz(path)["history.loss"].shape == (3,)
    resumed = long_run(path, resume=True, callbacks=())
    assert_same_run(resumed, long_run(path.with_name("whole.npz"), callbacks=()))


def test_resuming_a_finished_run_trains_only_if_epochs_is_larger(path):
    done = long_run(path)
    again = long_run(path, loss=interrupting(AssertionError, 1), resume=True)
    assert_same_run(again, done)
    assert_same_run(long_run(path, epochs=9, resume=True), long_run(path.with_name("whole.npz"), epochs=9))
    fewer = long_run(path, epochs=2, loss=interrupting(AssertionError, 1), resume=True)
    assert len(fewer[2].loss) == 9


def test_without_resume_or_without_a_file_training_starts_from_the_beginning(path):
    fresh = long_run(path, resume=True)
    assert path.exists()
    assert_same_run(long_run(path.with_name("other.npz")), fresh)
    assert len(long_run(path, epochs=2)[2].loss) == 2
    assert read_npz(path)["history.loss"].shape == (2,)


def test_patience_counts_across_an_interruption(path):
    values = [3.0, 2.0, 2.5, 2.2, 1.0]
    options = {"validation": arrays(rows=1), "patience": 2, "epochs": 5, "checkpoint": path}
    models = model_of(), model_of()
    train(models[0], arrays(), loss=Scripted(*values), **options | {"checkpoint": None})

    def stop(history):
        return len(history.loss) == 3

    train(models[1], arrays(), loss=Scripted(*values), **options, callbacks=[stop])
    models = models[0], model_of()
    history = train(models[1], arrays(), loss=Scripted(*values[3:]), **options, resume=True)
    assert history.validation == values[:4]
    assert bits(models[0].parameters) == bits(models[1].parameters)
    # a run that patience has stopped trains no more when it is resumed
    models = models[0], model_of()
    history = train(models[1], arrays(), loss=Scripted(), **options, resume=True)
    assert history.validation == values[:4]
    assert bits(models[0].parameters) == bits(models[1].parameters)


def test_a_checkpoint_keeps_losses_and_settings_that_are_not_finite(path):
    options = {"validation": arrays(rows=1), "checkpoint": path, "clip_norm": float("inf")}
    train(model_of(), arrays(), loss=Scripted(np.nan, np.inf, -np.inf), epochs=3, **options)
    history = train(model_of(), arrays(), loss=Scripted(0.5), epochs=4, resume=True, **options)
    np.testing.assert_array_equal(history.validation, [np.nan, np.inf, -np.inf, 0.5])


def test_a_checkpoint_holds_its_settings_as_json_and_no_pickle(path):
    long_run(path)
    with np.load(path, allow_pickle=False) as file:
        contents = {name: file[name] for name in file}
    settings = json.loads(contents["checkpoint"].tobytes())["settings"]
    assert settings["model"]["layers"][0]["hidden_size"] == 5
    assert settings["optimizer"] == {
        "type": "Adam", "lr": 0.02, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01
    }  # fmt: skip
    assert contents["optimizer.lr"] == pytest.approx(0.02 * 0.9**6)
    assert settings["seed"] == 3


def unchanged(path, message, *, kind=ValueError, **options):
    """Check that resuming from `path` fails with `message` and changes nothing; return the whole message."""
    model = options.pop("model", None) or model_of()
    optimizer = options.pop("optimizer", Adam)(model, options.pop("lr", 0.01))
    before, state = bits(model.parameters), bits(optimizer.state_dict())
    with pytest.raises(kind, match=message) as error:
        train(model, arrays(), optimizer=optimizer, epochs=3, checkpoint=path, resume=True, **options)
    assert bits(model.parameters) == before
    assert bits(optimizer.state_dict()) == state
    return str(error.value)


def test_a_checkpoint_that_does_not_fit_names_every_difference(path):
    train(model_of(), arrays(), checkpoint=path, bptt=3)
    text = unchanged(
        path,
        "does not fit this call",
        model=model_of(size=6, dropout=0.5),
        lr=0.02,
        batch_size=8,
        clip_norm=1.0,
        seed=4,
        validation=arrays(),
    )
    for difference in (
        "model.layers[0].hidden_size: the checkpoint has 5, this call 6",
        "model.layers[0].dropout: the checkpoint has 0.0, this call 0.5",
        "model.layers[1].p: the checkpoint has 0.0, this call 0.5",
        "model.layers[2].in_features: the checkpoint has 5, this call 6",
        "optimizer.lr: the checkpoint has 0.01, this call 0.02",
        "batch_size: the checkpoint has 32, this call 8",
        "bptt: the checkpoint has 3, this call None",
        "clip_norm: the checkpoint has None, this call 1.0",
        "seed: the checkpoint has 0, this call 4",
        "validation: the checkpoint has False, this call True",
    ):
        assert difference in text
    assert text.count("the checkpoint has") == 10
    text = unchanged(path, "does not fit", bptt=3, optimizer=SGD)
    assert "optimizer.type: the checkpoint has 'Adam', this call 'SGD'" in text
    text = unchanged(path, "does not fit", bptt=3, model=LSTM(2, 3, dtype="float64"))
    assert "model.type: the checkpoint has 'Sequential', this call 'LSTM'" in text


def test_a_damaged_or_foreign_checkpoint_is_refused_by_name(path):
    train(model_of(), arrays(), checkpoint=path)
    good = path.read_bytes()
    named = re.escape(str(path))
    for content in (b"", b"no archive", good[: len(good) // 2], good[:-1], good[:400] + b"\xff" + good[401:]):
        path.write_bytes(content)
        unchanged(path, named)
    for foreign in (
        {"weight": np.zeros(3)},
        {"checkpoint": np.frombuffer(b"[1]", np.uint8)},
        {"checkpoint": np.frombuffer(b'{"format": "another 1", "settings": {}}', np.uint8)},
        {"checkpoint": np.frombuffer(b"\xff\xff{", np.uint8)},
        {"checkpoint": np.frombuffer(b"[" * 100_000, np.uint8)},
        {"checkpoint": np.array(3.0)},
    ):
        write_npz(path, foreign)
        unchanged(path, named + " is not one that fit has written")


def test_a_checkpoint_that_cannot_be_written_is_refused_before_the_first_step(path):
    path.mkdir()
    loss = Recorder()
    with pytest.raises(ValueError, match="checkpoint: expected a file that can be written"):
        train(model_of(), arrays(), checkpoint=path, loss=loss)
    assert not loss.calls


def test_nothing_in_a_checkpoint_is_executed(path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(path.with_name("trapped")),)

    np.savez(path, checkpoint=np.array([Trap()], dtype=object))
    unchanged(path, re.escape(str(path)))
    assert not path.with_name("trapped").exists()


def test_a_checkpoint_with_other_arrays_is_refused(path):
    train(model_of(), arrays(), checkpoint=path)
    good = read_npz(path)
    write_npz(
        path,
        {name: array for name, array in good.items() if name != "parameters.2.bias"}
        | {
            "optimizer.exp_avg.2.bias": np.zeros(4),
            "parameters.2.weight": good["parameters.2.weight"].astype(np.float32),
            "best.2.bias": np.zeros(3),
            "history.seconds": np.zeros(2),
        },
    )
    text = unchanged(path, re.escape(f"{path} does not fit this call"))
    for difference in (
        "parameters.2.bias: expected <f8 (3,), got no array",
        "optimizer.exp_avg.2.bias: expected <f8 (3,), got <f8 (4,)",
        "parameters.2.weight: expected <f8 (3, 5), got <f4 (3, 5)",
        "best.2.bias: expected no array, got <f8 (3,)",
        "history.seconds: expected <f8 (1,), got <f8 (2,)",
    ):
        assert difference in text
    assert text.count("expected") == 5
    write_npz(path, good | {"optimizer.step": np.array(-1)})
    unchanged(path, re.escape(str(path)) + r".*step.*expected at least 0, got -1")


def header(settings):
    content = json.dumps({"format": "lstm_cy checkpoint 1", "settings": settings})
    return {"checkpoint": np.frombuffer(content.encode(), np.uint8)}


def deep(levels):
    content = b'{"format": "lstm_cy checkpoint 1", "settings": {"model": ' + b"[" * levels + b"]" * levels + b"}}"
    return {"checkpoint": np.frombuffer(content, np.uint8)}


DAMAGES = {
    "not settings": (lambda good: header(3), "is not one that fit has written"),
    "settings in a list": (lambda good: header([{}]), "is not one that fit has written"),
    "endlessly nested settings": (lambda good: deep(100_000), "is not one that fit has written"),
    "deep settings": (lambda good: deep(900), "model: the checkpoint has .*, this call"),
    "many settings": (lambda good: header({"x": "y" * (1 << 20)}), "is not one that fit has written"),
    "strange settings": (lambda good: header({f"\x1b[31m{n}": n for n in range(99)}), r"\\x1b\[31m0: .*and \d+ more"),
    "history in two axes": (lambda good: {"history.loss": np.zeros((1, 1))}, r"history.loss: expected <f8 \(1,\)"),
    "history of integers": (lambda good: {"history.loss": np.zeros(1, int)}, "history.loss: expected <f8"),
    "history of more": (lambda good: {"history.more": np.zeros(1)}, "history.more: expected no array"),
    "history of nothing": (lambda good: {"history.loss": np.zeros(0), "history.seconds": np.zeros(0)}, "history.loss"),
    "no losses": (lambda good: {"history.loss": None}, "history.loss: expected .*, got no array"),
    "no history": (lambda good: {"history.loss": None, "history.seconds": None}, "history.loss: expected"),
    "more epochs than steps": (
        lambda good: {"history.loss": np.zeros(7), "history.seconds": np.zeros(7)},
        "history.loss: expected at most 1 epochs, because there were 1 steps, got 7",
    ),
    "no steps": (
        lambda good: {"optimizer.step": np.array(0)},
        "history.loss: expected at most 0 epochs, because there were 0 steps, got 1",
    ),
    "steps below 0": (lambda good: {"optimizer.step": np.array(-1)}, "'step'.*expected at least 0, got -1"),
    "too many steps": (lambda good: {"optimizer.step": np.array(2**63 - 1)}, "'step'.*expected at most"),
    "a rate of NaN": (lambda good: {"optimizer.lr": np.array(np.nan)}, "'lr'.*got nan"),
    "a rate below 0": (lambda good: {"optimizer.lr": np.array(-1.0)}, "'lr'.*got -1.0"),
    "an infinite rate": (lambda good: {"optimizer.lr": np.array(np.inf)}, "'lr'.*got inf"),
    "weights of NaN": (
        lambda good: {"parameters.2.weight": np.full_like(good["parameters.2.weight"], np.nan)},
        "parameters.2.weight: expected finite numbers",
    ),
    "one weight of NaN": (
        lambda good: {"parameters.2.bias": np.where([False, True, False], np.nan, good["parameters.2.bias"])},
        "parameters.2.bias: expected finite numbers",
    ),
    "infinite weights": (
        lambda good: {"parameters.2.bias": np.full_like(good["parameters.2.bias"], -np.inf)},
        "parameters.2.bias: expected finite numbers",
    ),
    "best weights of NaN": (
        lambda good: {"best.2.bias": np.full_like(good["best.2.bias"], np.nan)},
        "best.2.bias: expected finite numbers",
    ),
    "means of NaN": (
        lambda good: {"optimizer.exp_avg.2.bias": np.full_like(good["optimizer.exp_avg.2.bias"], np.nan)},
        "exp_avg.2.bias.*expected finite numbers",
    ),
    "squares below 0": (
        lambda good: {"optimizer.exp_avg_sq.2.bias": np.full_like(good["optimizer.exp_avg_sq.2.bias"], -1)},
        "exp_avg_sq.2.bias.*expected finite numbers of at least 0, got -1.0",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_numbers_and_settings_of_a_checkpoint_are_checked(name, path):
    damage, message = DAMAGES[name]
    train(model_of(), arrays(), checkpoint=path, validation=arrays())
    good = read_npz(path)
    changed = good | damage(good)
    if name == "more epochs than steps":
        changed["history.validation"] = np.zeros(7)
    write_npz(path, {name: array for name, array in changed.items() if array is not None})
    text = unchanged(path, "checkpoint: " + re.escape(str(path)) + f"(?s:.*){message}", validation=arrays())
    assert text.isprintable() and len(text) < 20_000


def test_at_most_fifty_differences_are_named(path):
    train(model_of(), arrays(), checkpoint=path)
    good = read_npz(path)
    write_npz(path, good | header({}))
    own = unchanged(path, "does not fit").count("the checkpoint has")
    for names, more in ((50, ""), (51, "; and 1 more"), (52, "; and 2 more")):
        write_npz(path, good | header({f"unknown {n}": n for n in range(names - own)}))
        text = unchanged(path, "does not fit")
        assert text.count("the checkpoint has") == 50
        assert ("more" in text) == bool(more) and text.endswith(more)


def test_a_header_of_a_mebibyte_is_the_largest(path):
    history = train(model_of(), arrays(), checkpoint=path)
    good = read_npz(path)
    content = good["checkpoint"].tobytes()
    write_npz(path, good | {"checkpoint": np.frombuffer(content.ljust(1 << 20), np.uint8)})
    assert read_history(path).loss == history.loss
    write_npz(path, good | {"checkpoint": np.frombuffer(content.ljust((1 << 20) + 1), np.uint8)})
    with pytest.raises(ValueError, match="is not one that fit has written"):
        read_history(path)


def test_read_history(path):
    assert read_history(path).loss == []
    history = train(model_of(), arrays(), checkpoint=path, epochs=2, validation=arrays())
    found = read_history(str(path))
    assert (found.loss, found.validation, found.seconds) == (history.loss, history.validation, history.seconds)
    good = read_npz(path)
    for damage in ({"history.more": np.zeros(2)}, {"history.loss": np.zeros((2, 1))}, {"history.seconds": np.zeros(3)}):
        write_npz(path, good | damage)
        with pytest.raises(ValueError, match=re.escape(str(path)) + ": history"):
            read_history(path)
    write_npz(path, {"weight": np.zeros(3)})
    with pytest.raises(ValueError, match=re.escape(str(path)) + " is not one that fit has written"):
        read_history(path)
    for bad in (None, 3, b"run.npz"):
        with pytest.raises(TypeError, match="checkpoint: expected a str or an os.PathLike"):
            read_history(bad)


# errors


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_ends_training_before_the_step(bad):
    model = model_of()
    before = bits(model.parameters)

    def loss(prediction, target):
        return 1.0, np.full_like(prediction, bad)

    with pytest.raises(
        FloatingPointError, match=r"grads\[.*: expected finite .* in epoch 1, step 1; that step was not"
    ):
        train(model, arrays(), loss=loss)
    assert bits(model.parameters) == before


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_ends_training_before_the_step(bad):
    model, calls = model_of(), itertools.count(1)
    after = []

    def loss(prediction, target):
        value, gradient = mse(prediction, target)
        after.append(bits(model.parameters))
        return (bad if next(calls) == 5 else value), gradient

    with pytest.raises(FloatingPointError, match=rf"the loss is {bad} in epoch 2, step 2; that step was not made"):
        train(model, arrays(), loss=loss, epochs=3, batch_size=4)
    assert len(after) == 5
    assert bits(model.parameters) == after[-1]


def test_a_norm_of_gradients_that_is_not_finite_ends_training_before_the_step():
    model = model_of()
    before = bits(model.parameters)

    def loss(prediction, target):
        return 1.0, np.full_like(prediction, np.nan)

    with pytest.raises(FloatingPointError, match="the norm of the gradients is nan in epoch 1, step 1"):
        train(model, arrays(), loss=loss, clip_norm=1.0)
    assert bits(model.parameters) == before


X, Y = arrays()


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


OTHER = model_of()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": None}, TypeError, "loss: expected a callable"),
        (
            {"loss": lambda prediction, target: 1.0},
            TypeError,
            r"loss: expected it to return \(value, gradient\), got float",
        ),
        ({"optimizer": Adam}, TypeError, "optimizer: expected an Optimizer"),
        ({"optimizer": Adam(OTHER)}, ValueError, "optimizer: expected one made for this model"),
        ({"epochs": 0}, ValueError, "epochs: expected at least 1"),
        ({"epochs": 1.0}, TypeError, "epochs: expected an integer"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"bptt": 0}, ValueError, "bptt: expected at least 1"),
        (
            {"bptt": 3, "data": (X, np.zeros(ROWS))},
            ValueError,
            r"data: y: with bptt expected a target per step, \(7, 10\)",
        ),
        ({"clip_norm": 0.0}, ValueError, "clip_norm"),
        ({"patience": 3}, ValueError, "patience: expected validation data"),
        ({"patience": 0, "validation": (X, Y)}, ValueError, "patience: expected at least 1"),
        ({"checkpoint": "run.pt"}, ValueError, "checkpoint: expected a path ending in .npz, got 'run.pt'"),
        ({"checkpoint": "no/such/folder/run.npz"}, ValueError, "checkpoint: expected an existing folder"),
        ({"checkpoint": b"run.npz"}, TypeError, "checkpoint: expected a str or an os.PathLike"),
        ({"checkpoint": "a\0.npz"}, ValueError, "checkpoint: expected a path without a null character"),
        ({"resume": True}, ValueError, "resume: expected a checkpoint"),
        ({"resume": 1}, TypeError, "resume: expected True or False"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": None}, TypeError, "seed"),
        ({"progress": "bar"}, TypeError, "progress"),
        ({"callbacks": print}, TypeError, "callbacks: expected a sequence of callables"),
        ({"callbacks": [None]}, TypeError, "callbacks: expected a sequence of callables"),
    ],
)
def test_options_refused(options, error, message):
    model = model_of()
    before = bits(model.parameters)
    with pytest.raises(error, match=message):
        train(model, **({"data": (X, Y)} | options))
    assert bits(model.parameters) == before


@pytest.mark.parametrize("option", ["bidirectional", "reverse"])
def test_bptt_needs_lstms_that_run_forward(option):
    for model in (LSTM(2, 3, **{option: True}), Sequential(LSTM(2, 3, **{option: True}))):
        y = np.zeros((STEPS, ROWS, 6 if option == "bidirectional" else 3))
        with pytest.raises(ValueError, match="bptt: expected LSTMs that run forward only"):
            train(model, (X, y), bptt=3)
        train(model, (X, y))


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


def test_a_loss_without_lengths_is_refused_if_the_data_has_lengths():
    model = model_of()
    with pytest.raises(TypeError, match="loss: expected one that takes lengths=, because data has lengths"):
        train(model, (X, Y, LENGTHS), loss=lambda prediction, target: mse(prediction, target))


@pytest.mark.parametrize(("value", "error"), [(np.nan, ValueError), (-1, ValueError), ("x", TypeError)])
def test_a_callback_that_sets_an_invalid_rate_raises_at_once(value, error, path):
    model = model_of()
    optimizer = Adam(model, 0.01)
    with pytest.raises(error, match="lr: expected a number"):
        train(model, (X, Y), optimizer=optimizer, epochs=3, callbacks=[lambda h: setattr(optimizer, "lr", value)])
    assert optimizer.lr == 0.01 and optimizer.steps == 1


def test_a_callback_stops_with_a_bool_of_numpy_and_cannot_make_training_endless():
    history = train(model_of(), (X, Y), epochs=9, callbacks=[lambda history: np.bool_(len(history.loss) == 2)])
    assert len(history.loss) == 2
    for answer in (1, "stop", [0], np.array([True, False])):
        assert len(train(model_of(), (X, Y), epochs=2, callbacks=[lambda history, a=answer: a]).loss) == 2
    calls = []
    train(model_of(), (X, Y), epochs=3, callbacks=[lambda history: calls.append(history.loss.clear())])
    assert len(calls) == 3


def test_models_refused():
    for model in (Linear(2, 3), Embedding(4, 2), Dropout()):
        with pytest.raises(TypeError, match=rf"model: expected an LSTM or a Sequential, got {type(model).__name__}"):
            train(model, (X, Y))
    with pytest.raises(TypeError, match="model: expected an LSTM or a Sequential, got NoneType"):
        fit(None, (X, Y), loss=mse, optimizer=None, epochs=1)
    tokens = Sequential(Embedding(4, 2), LSTM(2, 3))
    with pytest.raises(ValueError, match="data: x: expected 2 axes, rows on axis 1, got shape"):
        train(tokens, (np.zeros((STEPS, ROWS, 1), int), Y))


# progress


def test_plain_lines_without_tqdm(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    history = train(model_of(), (X, Y), epochs=2, validation=(X, Y), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2
    for epoch, line in enumerate(lines):
        expected = f"epoch {epoch + 1}/2  loss {history.loss[epoch]:.3f}  validation {history.validation[epoch]:.3f}"
        assert re.fullmatch(re.escape(expected) + r"  \d+\.\d s", line)
    train(model_of(), (X, Y), progress=True)
    assert re.fullmatch(r"epoch 1/1  loss \d+\.\d{3}  \d+\.\d s\n", capsys.readouterr().err)
    with pytest.raises(KeyboardInterrupt):
        train(model_of(), (X, Y), loss=interrupting(KeyboardInterrupt, 1), progress=True)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(importlib.util.find_spec("tqdm") is None, reason="tqdm is an extra")
@pytest.mark.parametrize(
    ("data", "options", "total"),
    [
        ((X, Y), {}, "3/3"),
        ((X, Y), {"bptt": 3}, "9/9"),
        ((X, Y, LENGTHS), {}, "3/3"),
        ((X, Y, np.full(ROWS, 6)), {"bptt": 3}, "6step"),  # the number of windows is not known in advance
        (lambda epoch: [(X, Y)] * 5, {}, "5step"),
    ],
)
def test_a_bar_with_tqdm(data, options, total, capsys):
    history = train(model_of(), data, batch_size=4, progress=True, **options)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.rstrip().splitlines()[-1]
    assert last.startswith("epoch 1/1:")
    assert total in last
    assert f"loss {history.loss[0]:.3f}  {history.seconds[0]:.1f} s" in last


class Broken:
    """A stream that cannot be written to."""

    encoding = "utf-8"

    def __init__(self, error):
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error


@pytest.mark.parametrize("stream", [None, Broken(OSError(28, "full")), Broken(ValueError("closed"))])
@pytest.mark.parametrize("bar", [True, False])
def test_training_continues_without_a_working_standard_error(stream, bar, monkeypatch, capsys):
    if not bar:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    quiet = model_of(), model_of()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stream)
        history = train(quiet[0], (X, Y), epochs=2, batch_size=4, validation=(X, Y), progress=True)
    assert history.loss == train(quiet[1], (X, Y), epochs=2, batch_size=4).loss
    assert bits(quiet[0].parameters) == bits(quiet[1].parameters)
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("bar", ["", "sys.modules['tqdm'] = None"])
def test_training_continues_if_the_disk_of_standard_error_is_full(bar):
    program = (
        f"import sys; {bar}\nimport test_training as t\nprint(t.train(t.model_of(), (t.X, t.Y), progress=True).loss)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, env=environment)
    assert done.stdout.startswith(b"[")


def test_a_history_holds_lists_of_numbers():
    for name in ("loss", "validation", "seconds"):
        for bad in ("sigmoid", None, 3, (1.0,), np.ones(2)):
            with pytest.raises(TypeError, match=f"{name}: expected a list of numbers"):
                History(**{name: bad})
        for bad in (["a"], [None], [1j], [[1.0]], [10**400], [np.timedelta64(1, "s")]):
            with pytest.raises(TypeError, match=rf"{name}\[0\]: expected a number"):
                History(**{name: bad})
    history = History([Fraction(1, 2), np.float32(2), 3, np.float64(np.nan), np.inf])
    assert [type(value) for value in history.loss] == [float] * 5
    assert repr(history) == "History(epochs=5, loss=inf, best_epoch=0)"


def test_a_history_in_a_notebook():
    assert "<th>epoch</th>" in History()._repr_html_()
    history = History([3.0, 2.0, 1.0], [3.0, np.nan, 4.0], [0.1, 0.2, 0.3])
    html = history._repr_html_()
    assert "<tr><th>1 (best)</th><td>3</td><td>3</td><td>0.1</td></tr>" in html
    assert "<tr><th>2</th><td>2</td><td>nan</td><td>0.2</td></tr>" in html
    html = History([3.0, 2.0], [3.0], [0.1, 0.2])._repr_html_()
    assert "<tr><th>2</th><td>2</td><td></td><td>0.2</td></tr>" in html
    long = History([float(value) for value in range(1000)], [], [0.1] * 1000)
    html = long._repr_html_()
    assert "<th>1 (best)</th>" in html and "<th>1000</th>" in html and len(html) < 3000


def test_a_history_as_a_picture():
    pytest.importorskip("matplotlib")
    figure = History([3.0, 2.0, 1.0], [3.0, 1.5, 4.0], [0.1] * 3).plot(title="a $ and another $")
    (axes,) = figure.axes
    training, validation, best = axes.get_lines()
    np.testing.assert_array_equal(training.get_xydata(), [[1, 3], [2, 2], [3, 1]])
    np.testing.assert_array_equal(validation.get_xydata(), [[1, 3], [2, 1.5], [3, 4]])
    assert list(best.get_xdata()) == [2, 2]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation", "best epoch: 2"]
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(History([1.0], [], [0.1]).plot().axes[0].get_lines()) == 2
    with pytest.raises(ValueError, match="at least one epoch, got none"):
        History().plot()


def test_a_picture_needs_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="History.plot needs Matplotlib: pip install matplotlib"):
        History([1.0], [], [0.1]).plot()


def test_progress_false_prints_nothing(capsys):
    train(model_of(), (X, Y), epochs=2, progress=False)
    assert capsys.readouterr() == ("", "")
