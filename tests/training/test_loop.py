"""An epoch of fit against a loop written out by hand."""

import itertools

import numpy as np
import pytest
from small_runs import LENGTHS, ROWS, STEPS, Recorder, arrays, bits, model_of, train

from lstm_cy import LSTM, SGD, Adam, Embedding, Linear, Sequential, clip_grad_norm, cross_entropy, mse


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
