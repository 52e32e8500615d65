"""Weights of samples, steps and classes, masks, gaps and splits in fit, and weights of the losses, against PyTorch."""

import functools

import numpy as np
import pytest
from small_runs import LENGTHS, ROWS, STEPS, X, Y, arrays, bits, model_of, reading_out, train

from lstm_cy import (
    LSTM,
    SGD,
    Linear,
    Readout,
    Seq2Seq,
    Sequential,
    binary_cross_entropy,
    cross_entropy,
    ctc,
    huber,
    mse,
    quantile,
)
from lstm_cy.losses import NothingToCount

RNG = np.random.default_rng(3)
CLASSES = RNG.integers(0, 3, (STEPS, ROWS))
BY_ROW = RNG.uniform(0.5, 2, ROWS)
BY_STEP = RNG.uniform(0, 2, (STEPS, ROWS))


# losses


def theirs(function, prediction, target, weights, **options):
    """Return the weighted mean of PyTorch's loss and its gradient, as arrays."""
    torch = pytest.importorskip("torch")
    z = torch.tensor(prediction, requires_grad=True)
    losses = getattr(torch.nn.functional, function)(z, torch.tensor(target), reduction="none", **options)
    weights = torch.tensor(np.broadcast_to(weights, losses.shape).copy())
    mean = (losses * weights).sum() / weights.sum()
    mean.backward()
    return mean.item(), z.grad.numpy()


def assert_equal_results(ours, expected):
    assert ours[0] == pytest.approx(expected[0], rel=1e-10)
    np.testing.assert_allclose(ours[1], expected[1], rtol=0, atol=1e-10)


WEIGHTS = {"none": None, "steps": BY_STEP, "elements": RNG.uniform(0, 1, Y.shape) * (RNG.random(Y.shape) > 0.3)}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize(
    ("loss", "function", "options"),
    [
        (mse, "mse_loss", {}),
        (huber, "huber_loss", {}),
        (huber, "huber_loss", {"delta": 0.3}),
        (binary_cross_entropy, "binary_cross_entropy_with_logits", {}),
        (binary_cross_entropy, "binary_cross_entropy_with_logits", {"pos_weight": [0.5, 2.0, 3.0]}),
    ],
)
def test_elementwise_losses_equal_pytorch(loss, function, options, lengths, weights):
    torch = pytest.importorskip("torch")
    prediction = np.random.default_rng(0).normal(size=Y.shape) * 3
    target = 1 / (1 + np.exp(-Y)) if loss is binary_cross_entropy else Y
    given = WEIGHTS[weights]
    full = (
        np.ones(Y.shape)
        if given is None
        else np.broadcast_to(given.reshape(given.shape + (1,) * (3 - given.ndim)), Y.shape)
    )
    keywords = {} if given is None else {"sample_weight": given}
    if lengths:
        full = full * (np.arange(STEPS)[:, None] < LENGTHS)[..., None]
        keywords["lengths"] = LENGTHS
    of_theirs = {
        name: torch.tensor(value, dtype=torch.float64) if name == "pos_weight" else value
        for name, value in options.items()
    }
    expected = theirs(function, prediction, target, full, **of_theirs)
    assert_equal_results(loss(prediction, target, **keywords, **options), expected)
    swapped = {name: value.swapaxes(0, 1) if np.ndim(value) > 1 else value for name, value in keywords.items()}
    value, gradient = loss(prediction.swapaxes(0, 1), target.swapaxes(0, 1), batch_first=True, **swapped, **options)
    assert_equal_results((value, gradient.swapaxes(0, 1)), expected)
    single = loss(prediction.astype(np.float32), target, **keywords, **options)
    assert single[1].dtype == np.float32
    assert single[0] == pytest.approx(expected[0], rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weight", [None, [0.5, 2.0, 0.0]])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_equals_pytorch(smoothing, weight, weighted):
    torch = pytest.importorskip("torch")
    prediction = np.random.default_rng(0).normal(size=(STEPS, ROWS, 3)) * 3
    target = CLASSES.copy()
    target[2, 3] = target[0, 0] = -100
    z = torch.tensor(prediction.reshape(-1, 3), requires_grad=True)
    w = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    losses = torch.nn.functional.cross_entropy(
        z, torch.tensor(target.reshape(-1)), weight=w, label_smoothing=smoothing, reduction="none"
    )
    own = torch.tensor(BY_STEP.reshape(-1)) if weighted else torch.ones(len(losses), dtype=torch.float64)
    of_class = torch.ones(3, dtype=torch.float64) if w is None else w
    counted = torch.tensor(target.reshape(-1) >= 0)
    total = (own * of_class[torch.tensor(np.maximum(target, 0).reshape(-1))] * counted).sum()
    mean = (losses * own).sum() / total
    mean.backward()
    keywords = {"sample_weight": BY_STEP} if weighted else {}
    ours = cross_entropy(prediction, target, weight=weight, label_smoothing=smoothing, **keywords)
    assert_equal_results(ours, (mean.item(), z.grad.numpy().reshape(prediction.shape)))


def test_weights_of_zero_hide_any_value():
    prediction, target = np.zeros((4, 3)), np.zeros((4, 3))
    prediction[1], target[2, 0] = np.nan, np.inf
    weights = np.array([1.0, 0.0, 0.0, 1.0])
    for loss in (mse, huber, quantile):
        value, gradient = loss(prediction, target, sample_weight=weights)
        assert value == 0 and not gradient.any()
    value, gradient = binary_cross_entropy(prediction, target, sample_weight=weights)
    assert np.isfinite(value) and not gradient[1:3].any()
    value, gradient = cross_entropy(prediction, [0, 99, 1, 2], sample_weight=weights)
    assert value == pytest.approx(np.log(3)) and not gradient[1:3].any()


@pytest.mark.parametrize("loss", [mse, huber, quantile, binary_cross_entropy, cross_entropy])
def test_weights_refused(loss):
    target = np.zeros(4, int) if loss is cross_entropy else np.zeros((4, 3))
    for bad, error in [
        (np.ones(3), ValueError),
        (-np.ones(4), ValueError),
        (np.full(4, np.nan), ValueError),
        ("x", TypeError),
    ]:
        with pytest.raises(error, match="sample_weight"):
            loss(np.zeros((4, 3)), target, sample_weight=bad)
    with pytest.raises(NothingToCount):
        loss(np.zeros((4, 3)), target, sample_weight=np.zeros(4))
    if loss is cross_entropy:
        with pytest.raises(ValueError, match="label_smoothing"):
            loss(np.zeros((4, 3)), target, label_smoothing=1.5)


def test_quantile_against_its_formula_and_differences():
    rng = np.random.default_rng(0)
    prediction, target, q = rng.normal(size=(5, 4, 3)), rng.normal(size=(5, 4)), [0.1, 0.5, 0.9]
    weights = rng.random((5, 4))

    def mean(prediction):
        error = target[..., None] - prediction
        losses = np.where(error > 0, np.array(q) * error, (np.array(q) - 1) * error)
        return (losses * weights[..., None]).sum() / (weights.sum() * 3)

    value, gradient = quantile(prediction, target, quantiles=q, sample_weight=weights)
    assert value == pytest.approx(mean(prediction), rel=1e-12)
    for index in [(0, 0, 0), (4, 2, 1), (2, 3, 2)]:
        moved = prediction.copy()
        moved[index] += 1e-6
        assert (mean(moved) - mean(prediction)) / 1e-6 == pytest.approx(gradient[index], abs=1e-6)
    again = quantile(prediction, target[..., None], quantiles=tuple(q), sample_weight=weights)
    assert again[0] == value
    assert_equal_results(
        quantile(prediction, prediction * 0), (np.abs(prediction).mean() / 2, np.sign(prediction) / 120)
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: huber(np.zeros(3), np.zeros(3), delta=0), ValueError, "delta"),
        (lambda: huber(np.zeros(3), np.zeros(2)), ValueError, "target: expected shape"),
        (lambda: quantile(np.zeros(3), np.zeros(3), quantiles=1.0), ValueError, "quantiles"),
        (lambda: quantile(np.zeros((4, 3)), np.zeros(4), quantiles=[0.1, 0.2]), ValueError, "prediction: expected 2"),
        (lambda: quantile(np.zeros((4, 2)), np.zeros((4, 2)), quantiles=[0.1, 0.2]), ValueError, "target: expected"),
        (
            lambda: binary_cross_entropy(np.zeros(3), [0, 1, 2]),
            ValueError,
            "target: expected numbers from 0 to 1, got 2",
        ),
        (lambda: binary_cross_entropy(np.zeros(3), np.zeros(3), pos_weight=-1), ValueError, "pos_weight"),
        (lambda: binary_cross_entropy(np.zeros(3), np.zeros(3), pos_weight=[1, 2]), ValueError, "pos_weight"),
        (lambda: huber(np.zeros(3, int), np.zeros(3)), TypeError, "prediction"),
    ],
)
def test_losses_refuse(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_binary_cross_entropy_does_not_overflow():
    value, gradient = binary_cross_entropy(np.array([1000.0, -1000.0, 800.0]), [1.0, 0.0, 0.0])
    assert value == pytest.approx(800 / 3)
    np.testing.assert_allclose(gradient, [0, 0, 1 / 3])


@pytest.mark.parametrize("batch_first", [False, True])
def test_ctc_by_row_equals_pytorch(batch_first):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    scores, target = rng.normal(size=(9, 4, 5)), rng.integers(1, 5, (4, 3))
    lengths, weights = np.array([9, 7, 8, 9]), np.array([0.5, 2.0, 0.0, 1.0])
    z = torch.tensor(scores, requires_grad=True)
    losses = torch.nn.functional.ctc_loss(
        z.log_softmax(-1), torch.tensor(target), torch.tensor(lengths), torch.full((4,), 3), reduction="none"
    )
    ours = scores.swapaxes(0, 1) if batch_first else scores

    def gradient_of(value):
        z.grad = None
        value.backward(retain_graph=True)
        return z.grad.numpy().swapaxes(0, 1) if batch_first else z.grad.numpy()

    w = torch.tensor(weights)
    for reduction, own, value in [
        ("none", None, losses.sum()),
        ("sum", None, losses.sum()),
        ("mean", None, losses.mean()),
        ("none", weights, (losses * w).sum()),
        ("sum", weights, (losses * w).sum()),
        ("mean", weights, (losses * w).sum() / w.sum()),
    ]:
        got, gradient = ctc(
            ours, target, lengths=lengths, sample_weight=own, reduction=reduction, batch_first=batch_first
        )
        expected = (losses if own is None else losses * w) if reduction == "none" else value
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-10)
        np.testing.assert_allclose(gradient, gradient_of(value), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="reduction"):
        ctc(scores, target, reduction="median")
    with pytest.raises(ValueError, match="sample_weight"):
        ctc(scores, target, sample_weight=np.ones(3))
    with pytest.raises(NothingToCount):
        ctc(scores, target, sample_weight=np.zeros(4))


def test_ctc_rows_of_weight_zero_may_be_nan():
    scores = np.random.default_rng(0).normal(size=(6, 3, 4))
    scores[2, 1] = np.nan
    value, gradient = ctc(scores, [[1], [2], [3]], sample_weight=[1.0, 0.0, 1.0])
    assert np.isfinite(value) and np.isfinite(gradient).all() and not gradient[:, 1].any()


# fit


def change(data, *, model=None, batch_size=ROWS, **options):
    """Return the change of the parameters in an epoch of SGD, and its losses."""
    model = model or model_of()
    before = model.parameters
    history = train(model, data, optimizer=SGD(model, 1.0), batch_size=batch_size, **options)
    return {name: array - before[name] for name, array in model.parameters.items()}, history


def assert_same_change(one, other):
    assert one[1].loss == pytest.approx(other[1].loss, rel=1e-10)
    for name, array in one[0].items():
        np.testing.assert_allclose(array, other[0][name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("per_row", [False, True])
def test_weights_in_fit_are_those_of_the_loss(batch_first, lengths, per_row):
    x, y = arrays(batch_first=batch_first)
    weights = np.broadcast_to(BY_ROW, (STEPS, ROWS)) if per_row else BY_STEP
    steps = weights.T if batch_first else weights
    given = BY_ROW if per_row else steps
    data = (x, y, LENGTHS) if lengths else (x, y)

    def weighted(prediction, target, **keywords):  # the rows' order is that of the data
        return mse(prediction, target, **keywords, sample_weight=steps)

    ours = change(data, model=model_of(batch_first=batch_first), sample_weight=given, shuffle=False)
    x_, y_ = x, y
    model = model_of(batch_first=batch_first)
    before = model.parameters
    prediction, _, tape = model.forward(x_, lengths=LENGTHS if lengths else None)
    keywords = {"lengths": LENGTHS} if lengths else {}
    value, gradient = weighted(prediction, y_, batch_first=batch_first, **keywords)
    grads = model.backward(tape, gradient).parameters
    assert ours[1].loss[0] == pytest.approx(value, rel=1e-12)
    for name, array in grads.items():
        np.testing.assert_allclose(ours[0][name], -array, rtol=0, atol=1e-12)
    assert before.keys() == grads.keys()


@pytest.mark.parametrize("loss", [mse, cross_entropy])
def test_weights_of_whole_numbers_are_repetitions(loss):
    counts = np.array([1, 2, 0, 3, 1, 1, 0, 2, 1, 1])
    rows = np.repeat(np.arange(ROWS), counts)
    y = CLASSES if loss is cross_entropy else Y
    ours = change((X, y), loss=loss, sample_weight=counts)
    assert_same_change(ours, change((X[:, rows], y[:, rows]), loss=loss, batch_size=99))


def test_rows_of_a_readout_have_weights():
    y = np.arange(ROWS) % 3
    counts = np.array([1, 2, 0, 3, 1, 1, 0, 2, 1, 1])
    rows = np.repeat(np.arange(ROWS), counts)
    ours = change((X, y), loss=cross_entropy, model=reading_out(3), sample_weight=counts)
    assert_same_change(ours, change((X[:, rows], y[rows]), loss=cross_entropy, model=reading_out(3), batch_size=99))


@pytest.mark.parametrize("given", [{0: 0.5, 2: 3.0}, [0.5, 1.0, 3.0]])
def test_class_weights_are_those_of_the_loss(given):
    y = CLASSES.copy()
    y[0, 0] = -100
    ours = change((X, y), loss=cross_entropy, class_weight=given)
    other = change((X, y), loss=functools.partial(cross_entropy, weight=[0.5, 1.0, 3.0]))
    assert_same_change(ours, other)
    both = change((X, y), loss=cross_entropy, class_weight=given, sample_weight=BY_STEP)
    third = change((X, y), loss=functools.partial(cross_entropy, weight=[0.5, 1.0, 3.0]), sample_weight=BY_STEP)
    assert_same_change(both, third)


@pytest.mark.parametrize("kind", ["weights", "lengths", "classes", "mask"])
def test_validation_and_loss_are_exact_for_any_batch_size(kind):
    mask = np.random.default_rng(0).random((STEPS, ROWS)) > 0.4
    data = {
        "weights": {"x": X, "y": Y, "sample_weight": BY_STEP},
        "lengths": {"x": X, "y": Y, "lengths": LENGTHS},
        "classes": {"x": X, "y": np.where(mask, CLASSES, -100), "sample_weight": BY_ROW},
        "mask": {"x": X, "y": Y, "mask": mask},
    }[kind]
    loss = cross_entropy if kind == "classes" else mse
    found = []
    for batch_size in (1, 3, 4, ROWS):
        model = model_of()
        history = train(model, data, loss=loss, optimizer=SGD(model, 0.0), validation=data, batch_size=batch_size)
        found.append([history.loss[0], history.validation[0]])
    np.testing.assert_allclose(found, found[0][0], rtol=1e-12)


def test_accumulation_with_weights_is_a_large_batch():
    large = change((X, Y), sample_weight=BY_STEP)
    assert_same_change(change((X, Y), sample_weight=BY_STEP, batch_size=3, accumulate=4), large)


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_mask_at_the_end_equals_lengths(batch_first):
    x, y = arrays(batch_first=batch_first)
    mask = np.arange(STEPS)[:, None] < LENGTHS
    mask = mask.T if batch_first else mask
    ours = change({"x": x, "y": y, "mask": mask}, model=model_of(batch_first=batch_first))
    assert_same_change(ours, change((x, y, LENGTHS), model=model_of(batch_first=batch_first)))
    both = {"x": x, "y": y, "mask": np.ones_like(mask), "lengths": LENGTHS}
    assert_same_change(change(both, model=model_of(batch_first=batch_first)), ours)


def test_a_mask_of_holes_equals_rows_without_them():
    holes = np.array([1, 4])
    mask = np.ones((STEPS, ROWS), bool)
    mask[holes] = False
    ours = change({"x": X, "y": Y, "mask": mask})
    assert_same_change(ours, change((np.delete(X, holes, 0), np.delete(Y, holes, 0))))


def test_a_mask_with_a_readout_counts_rows_with_steps():
    mask = np.ones((STEPS, ROWS), bool)
    mask[:, [2, 5]], mask[4:, 3] = False, False
    y, lengths = np.arange(ROWS) % 3, mask.sum(0)
    ours = change({"x": X, "y": y, "mask": mask}, loss=cross_entropy, model=reading_out(3))
    assert_same_change(ours, change((X, y, lengths), loss=cross_entropy, model=reading_out(3)))


def test_gaps_in_x_are_masked_and_gaps_in_y_do_not_count():
    x, y = X.copy(), Y.copy()
    x[3, 2, 1] = x[0, 4] = np.nan
    y[1, 1, 2] = y[5, 7] = np.nan
    mask = np.ones((STEPS, ROWS), bool)
    mask[3, 2] = mask[0, 4] = False
    weights = np.ones(Y.shape)
    weights[1, 1, 2], weights[5, 7] = 0, 0
    ours = change((x, y), gaps=True, validation=(x, y))
    other = {"x": np.nan_to_num(x), "y": np.nan_to_num(y), "mask": mask, "sample_weight": weights}
    other = change(other, validation=other)
    assert_same_change(ours, other)
    assert ours[1].validation == pytest.approx(other[1].validation, rel=1e-12)
    assert_same_change(change((X, Y), gaps=True), change((X, Y)))
    with pytest.raises(FloatingPointError, match="loss is nan"):
        change((x, y))


@pytest.mark.parametrize("bptt", [2, 3])
def test_windows_with_masks_and_weights(bptt):
    mask = np.random.default_rng(0).random((STEPS, ROWS)) > 0.4
    mask[2:4] = False  # a window with nothing to count
    data = {"x": X, "y": Y, "mask": mask, "sample_weight": BY_STEP}
    model = model_of()
    history = train(model, data, optimizer=SGD(model, 0.0), bptt=bptt, batch_size=4)
    assert history.loss[0] == pytest.approx(change(data)[1].loss[0], rel=1e-12)


def test_batches_of_a_callable_may_be_dicts():
    whole = {"x": X, "y": Y, "sample_weight": BY_STEP}

    def batches(epoch):
        for start in (0, 5):
            part = slice(start, start + 5)
            yield {"x": X[:, part], "y": Y[:, part], "sample_weight": BY_STEP[:, part]}

    assert_same_change(change(batches, accumulate=2), change(whole))


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_share_is_held_out(batch_first):
    x, y = arrays(batch_first=batch_first)
    axis = 1 - int(batch_first)
    data = {"x": x, "y": y, "sample_weight": BY_ROW}
    first = {name: array.take(range(7), axis if array.ndim > 1 else 0) for name, array in data.items()}
    last = {name: array.take(range(7, 10), axis if array.ndim > 1 else 0) for name, array in data.items()}
    runs = []
    for options in ({"validation_split": 0.3}, {"validation": last}):
        model = model_of(batch_first=batch_first)
        given = data if "validation_split" in options else first
        history = train(model, given, epochs=3, batch_size=2, patience=5, **options)
        runs.append((bits(model.parameters), history.loss, history.validation))
    assert runs[0] == runs[1]


def test_without_shuffling_the_rows_keep_their_order():
    seen = []

    def loss(prediction, target):
        seen.extend(target[0, :, 0])
        return mse(prediction, target)

    train(model_of(), (X, Y), loss=loss, batch_size=4, shuffle=False, epochs=2)
    assert seen == [*Y[0, :, 0], *Y[0, :, 0]]


def test_a_checkpoint_compares_these_options(tmp_path):
    path = tmp_path / "run.npz"

    def run(epochs, **options):
        model = model_of(dropout=0.3)
        train(model, (X, Y), epochs=epochs, checkpoint=path, resume=True, batch_size=4, **options)
        return bits(model.parameters)

    options = {"validation_split": 0.3, "shuffle": False, "gaps": True}
    run(2, **options)
    resumed = run(4, **options)
    model = model_of(dropout=0.3)
    train(model, (X, Y), epochs=4, batch_size=4, **options)
    assert bits(model.parameters) == resumed
    for name, value in {"validation_split": 0.4, "shuffle": True, "gaps": False}.items():
        with pytest.raises(ValueError, match=name):
            run(4, **options | {name: value})


def own_loss(prediction, target):
    return mse(prediction, target)


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (
            (X, Y),
            {"sample_weight": np.ones(3)},
            ValueError,
            r"sample_weight: expected one weight per row, \(10,\), or per step",
        ),
        ((X, Y), {"sample_weight": np.ones((ROWS, STEPS))}, ValueError, "sample_weight"),
        ((X, Y), {"sample_weight": -np.ones(ROWS)}, ValueError, "sample_weight: expected finite"),
        ((X, Y), {"sample_weight": np.zeros(ROWS)}, ValueError, "at least one target to count"),
        ((X, Y), {"sample_weight": ["a"] * ROWS}, TypeError, "sample_weight"),
        (
            (X, Y),
            {"sample_weight": np.ones(ROWS), "loss": own_loss},
            TypeError,
            "loss: expected one that takes sample_weight=",
        ),
        ((X, Y), {"gaps": True, "loss": own_loss}, TypeError, "sample_weight="),
        ((X, Y), {"gaps": 1}, TypeError, "gaps"),
        ((X, Y), {"shuffle": 1}, TypeError, "shuffle"),
        ((X, CLASSES), {"class_weight": [1.0, -1.0, 1.0], "loss": cross_entropy}, ValueError, "class_weight"),
        ((X, CLASSES), {"class_weight": {0: "a"}, "loss": cross_entropy}, TypeError, r"class_weight\[0\]"),
        ((X, CLASSES), {"class_weight": {"a": 1}, "loss": cross_entropy}, TypeError, "class_weight: a class"),
        ((X, Y), {"class_weight": {0: 1.0}}, TypeError, "y: expected integers"),
        ({"x": X}, {}, ValueError, "data: expected 'x', 'y'"),
        ({"x": X, "y": Y, "weights": 1}, {}, ValueError, "data: expected 'x', 'y'"),
        ({"x": X, "y": Y, "mask": np.ones((ROWS, STEPS), bool)}, {}, ValueError, "data: mask: expected shape"),
        ({"x": X, "y": Y, "mask": np.ones((STEPS, ROWS))}, {}, TypeError, "data: mask"),
        ({"x": X, "y": Y, "mask": np.zeros((STEPS, ROWS), bool)}, {}, ValueError, "at least one target to count"),
        ({"x": X, "y": Y, "sample_weight": BY_ROW}, {"sample_weight": BY_ROW}, ValueError, "got both"),
        (
            lambda epoch: [(X, Y)],
            {"sample_weight": BY_ROW},
            ValueError,
            "sample_weight: expected None where data is a callable",
        ),
        (lambda epoch: [(X, Y)], {"validation_split": 0.5}, ValueError, "validation_split: expected arrays"),
        ((X, Y), {"validation_split": 0.01}, ValueError, "validation_split: expected a share that leaves rows"),
        ((X, Y), {"validation_split": 1.0}, ValueError, "validation_split"),
        ((X, Y), {"validation_split": 0.5, "validation": (X, Y)}, ValueError, "got both"),
    ],
)
def test_fit_refuses(data, options, error, message):
    model = model_of()
    before = bits(model.parameters)
    with pytest.raises(error, match=message):
        train(model, data, **options)
    assert bits(model.parameters) == before


def test_masks_need_a_model_and_a_loss_that_take_them():
    model = Seq2Seq(6, embedding_dim=4, hidden_size=4, seed=0)
    pairs, target = np.zeros((3, 2, 4), int), np.zeros((3, 4), int)
    with pytest.raises(ValueError, match="mask: expected None for a Seq2Seq"):
        train(model, {"x": pairs, "y": target, "mask": np.ones((3, 2), bool)}, loss=cross_entropy)
    with pytest.raises(TypeError, match="gaps: expected a model that takes masks"):
        train(model, (pairs, target), loss=cross_entropy, gaps=True)
    labels = np.ones((ROWS, 2), int)
    with pytest.raises(ValueError, match="mask: expected None with ctc"):
        train(model_of(), {"x": X, "y": labels, "mask": np.ones((STEPS, ROWS), bool)}, loss=ctc)
    weighted = change((X, labels), loss=ctc, sample_weight=BY_ROW)
    assert np.isfinite(weighted[1].loss[0])


@pytest.mark.parametrize(
    ("loss", "y", "outputs"),
    [
        (huber, Y, 3),
        (binary_cross_entropy, (Y > 0).astype(float), 3),
        (functools.partial(quantile, quantiles=[0.1, 0.5, 0.9]), Y[..., :1], 3),
        (functools.partial(quantile, quantiles=[0.1, 0.5, 0.9]), Y[..., 0], 3),
        (functools.partial(cross_entropy, label_smoothing=0.1), CLASSES, 3),
    ],
)
def test_the_losses_train(loss, y, outputs):
    model = Sequential(LSTM(2, 8, seed=0), Linear(8, outputs, seed=1))
    history = train(model, (X, y), loss=loss, epochs=20, gaps=True, sample_weight=BY_ROW)
    assert history.loss[-1] < history.loss[0]
    rows = Sequential(LSTM(2, 8, seed=0), Readout(), Linear(8, outputs, seed=1))
    history = train(rows, (X, y[-1]), loss=loss, epochs=20, sample_weight=BY_ROW)
    assert history.loss[-1] < history.loss[0]
