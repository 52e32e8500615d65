"""ctc against PyTorch, against every alignment one by one, and against finite differences."""

import itertools
import signal
import types

import numpy as np
import pytest
from common import other_layouts
from scipy.special import log_softmax, logsumexp

from lstm_cy import LSTM, Adam, Linear, Sequential, ctc, ctc_beam, ctc_greedy, fit, losses, pad

both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


def random_scores(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).normal(scale=3.0, size=shape).astype(dtype)


def labels_of(path, blank):
    """Return the labels of an alignment: repetitions merged, blanks removed."""
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def every_alignment(scores, blank):
    """Return {labels: log of the sum of the probabilities of all their alignments} for scores (T, V)."""
    steps, classes = scores.shape
    logs, found = log_softmax(scores, axis=1), {}
    for path in itertools.product(range(classes), repeat=steps):
        found.setdefault(labels_of(path, blank), []).append(logs[np.arange(steps), list(path)].sum())
    return {labels: logsumexp(terms) for labels, terms in found.items()}


def torch_ctc(prediction, target, lengths, target_lengths, blank=0, **options):
    """Return (losses of the rows, gradient of their sum) of torch.nn.functional.ctc_loss for scores (T, B, V)."""
    torch = pytest.importorskip("torch")
    scores = torch.tensor(prediction, requires_grad=True)
    given = scores.log_softmax(-1), *map(torch.tensor, (target, lengths, target_lengths))
    losses = torch.nn.functional.ctc_loss(*given, blank=blank, reduction="none", **options)
    losses.sum().backward()
    return losses.detach().numpy(), scores.grad.numpy()


def ragged_case(blank, classes=6, dtype="float64", seed=0):
    """Return scores, targets and lengths of rows with repeated labels, no labels, minimal length, and one step."""
    rng = np.random.default_rng(seed)
    lengths, target_lengths = np.array([12, 12, 7, 9, 1, 1, 6]), np.array([5, 0, 7, 6, 1, 0, 3])
    labels = [label for label in range(classes) if label != blank]
    target = rng.choice(labels, (7, 7))
    target[2] = np.resize(labels, 7)  # seven steps for seven labels that differ from their neighbours
    target[3, 1:3] = target[3, 0]
    target[6, :3] = target[6, 0]
    return random_scores(12, 7, classes, dtype=dtype, seed=seed), target, lengths, target_lengths


@both_dtypes
@pytest.mark.parametrize("blank", [0, 2, 5])
def test_ctc_agrees_with_pytorch(blank, dtype):
    scores, target, lengths, target_lengths = ragged_case(blank, dtype=dtype)
    losses, expected = torch_ctc(scores, target, lengths, target_lengths, blank)
    loss, gradient = ctc(scores, target, lengths=lengths, target_lengths=target_lengths, blank=blank)
    assert type(loss) is float
    assert gradient.dtype == dtype
    assert loss == pytest.approx(losses.mean(), rel=TOLERANCE[dtype])  # reduction="sum" over B
    np.testing.assert_allclose(gradient, expected / 7, atol=TOLERANCE[dtype])
    # PyTorch's reduction="mean" is the mean of the rows' losses, each over the length of its target
    rows = [
        ctc(scores[:, [b]], target[[b]], lengths=lengths[[b]], target_lengths=target_lengths[[b]], blank=blank)[0]
        for b in range(7)
    ]
    torch = pytest.importorskip("torch")
    arguments = torch.tensor(scores).log_softmax(-1), *map(torch.tensor, (target, lengths, target_lengths))
    mean = torch.nn.functional.ctc_loss(*arguments, blank=blank).item()
    assert (rows / np.maximum(target_lengths, 1)).mean() == pytest.approx(mean, rel=TOLERANCE[dtype])


@both_dtypes
def test_long_rows_do_not_underflow(dtype):
    scores = random_scores(1500, 2, 20, dtype=dtype)
    target = np.random.default_rng(1).integers(1, 20, (2, 300))
    target[:, 1::4] = target[:, ::4]
    lengths = target_lengths = [1500, 1400], [300, 250]
    losses, expected = torch_ctc(scores.astype("float64"), target, *lengths)
    loss, gradient = ctc(scores, target, lengths=lengths[0], target_lengths=target_lengths[1])
    assert loss > 1000
    assert loss == pytest.approx(losses.mean(), rel=1e-10)
    np.testing.assert_allclose(gradient, expected / 2, atol=1e-9 if dtype == "float64" else 1e-7)


@pytest.mark.parametrize("blank", [0, 1, 2])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5])
def test_ctc_is_the_sum_over_every_alignment(steps, blank):
    scores = random_scores(steps, 3, seed=steps)
    expected = every_alignment(scores, blank)
    assert logsumexp(list(expected.values())) == pytest.approx(0, abs=1e-12)
    labels = [label for label in range(3) if label != blank]
    for count in range(steps + 1):
        for target in itertools.product(labels, repeat=count):
            if target in expected:
                assert ctc(scores, target, blank=blank)[0] == pytest.approx(-expected[target], abs=1e-12)
            else:
                with pytest.raises(ValueError, match="lengths: expected at least"):
                    ctc(scores, target, blank=blank)


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_gradient_agrees_with_finite_differences(batch_first):
    scores, target, lengths, target_lengths = ragged_case(blank=1, classes=4)
    scores = np.ascontiguousarray(scores.swapaxes(0, 1)) if batch_first else scores
    options = {"lengths": lengths, "target_lengths": target_lengths, "blank": 1, "batch_first": batch_first}
    _, gradient = ctc(scores, target, **options)
    step = 1e-3
    for place in np.ndindex(scores.shape):
        move = np.zeros_like(scores)
        move[place] = step
        near = ctc(scores + move, target, **options)[0] - ctc(scores - move, target, **options)[0]
        far = ctc(scores + 2 * move, target, **options)[0] - ctc(scores - 2 * move, target, **options)[0]
        assert gradient[place] == pytest.approx((8 * near - far) / (12 * step), abs=1e-9)


def test_values_by_hand():
    # Two steps, two classes of probability 1/2: of four alignments three have the label 1, one has no labels.
    assert ctc(np.zeros((2, 1, 2)), [[1]])[0] == pytest.approx(np.log(4 / 3), rel=1e-15)
    loss, gradient = ctc(np.zeros((2, 1, 2)), [[]])
    assert loss == pytest.approx(np.log(4), rel=1e-15)
    np.testing.assert_allclose(gradient, [[[-0.5, 0.5]], [[-0.5, 0.5]]], atol=1e-15)
    # Without steps the empty target has probability 1.
    loss, gradient = ctc(np.zeros((0, 1, 2)), [[]])
    assert loss == 0
    assert gradient.shape == (0, 1, 2)


@pytest.mark.parametrize("batch_first", [False, True])
def test_rows_are_independent_and_padding_is_ignored(batch_first):
    scores, target, lengths, target_lengths = ragged_case(blank=0)
    lengths[1] = 0  # it has no labels
    alone = [
        ctc(scores[: lengths[b], b], target[b, : target_lengths[b]]) for b in range(7)
    ]  # one sequence each, (T, V) and (S,)
    for b in range(7):
        scores[lengths[b] :, b] = np.nan
        target[b, target_lengths[b] :] = 1000
    given = scores.swapaxes(0, 1) if batch_first else scores
    loss, gradient = ctc(given, target, lengths=lengths, target_lengths=target_lengths, batch_first=batch_first)
    assert loss == pytest.approx(np.mean([value for value, _ in alone]), rel=1e-14)
    gradient = gradient.swapaxes(0, 1) if batch_first else gradient
    for b, (_, expected) in enumerate(alone):
        np.testing.assert_allclose(7 * gradient[: lengths[b], b], expected, atol=1e-15)
        assert not gradient[lengths[b] :, b].any()


def test_targets_may_be_lists_or_end_at_the_first_blank():
    scores = random_scores(6, 3, 4)
    rows = [[3, 1], [], [2, 2, 1]]
    expected = ctc(scores, np.array([[3, 1, 9], [9, 9, 9], [2, 2, 1]]), target_lengths=[2, 0, 3])
    padded, _ = pad(rows, batch_first=True)
    for target in (rows, padded, padded.tolist(), padded.astype(np.int8), [np.array(row, np.uint16) for row in rows]):
        loss, gradient = ctc(scores, target)
        assert loss == expected[0]
        np.testing.assert_array_equal(gradient, expected[1])
    # the number of the blank does not matter
    order = [1, 2, 3, 0]
    for target in ([[2, 0], [], [1, 1, 0]], np.array([[2, 0, 3], [3, 3, 3], [1, 1, 0]])):
        loss, gradient = ctc(scores[..., order], target, blank=3)
        assert loss == pytest.approx(expected[0], rel=1e-14)
        np.testing.assert_allclose(gradient, expected[1][..., order], atol=1e-15)
    one, gradient = ctc(scores[:, 0], [3, 1, 0], lengths=4, target_lengths=2)
    assert one == ctc(scores[:4, 0], [3, 1])[0]
    assert gradient.shape == (6, 4)
    assert not gradient[4:].any()


def test_inputs_of_any_layout_are_not_changed():
    scores, target, lengths, target_lengths = ragged_case(blank=0)
    expected = ctc(scores, target, lengths=lengths, target_lengths=target_lengths)
    kept = scores.copy(), target.copy()
    for array in (scores, target, lengths, target_lengths):
        array.flags.writeable = False
    for p in (scores, np.asfortranarray(scores), scores[::-1][::-1], scores.tolist()):
        t = np.asfortranarray(target)
        loss, gradient = ctc(p, t, lengths=lengths.astype(np.uint8), target_lengths=list(target_lengths))
        assert loss == expected[0]
        np.testing.assert_array_equal(gradient, expected[1])
    np.testing.assert_array_equal(scores, kept[0])
    np.testing.assert_array_equal(target, kept[1])


def test_zero_infinity_agrees_with_pytorch():
    scores, target, lengths, target_lengths = ragged_case(blank=0)
    lengths[[0, 6]] = 4  # five labels, two of them alike side by side; three alike, which need five steps
    losses, expected = torch_ctc(scores, target, lengths, target_lengths, zero_infinity=True)
    options = {"lengths": lengths, "target_lengths": target_lengths}
    for batch_first in (False, True):
        given = scores.swapaxes(0, 1) if batch_first else scores
        loss, gradient = ctc(given, target, **options, zero_infinity=True, batch_first=batch_first)
        gradient = gradient.swapaxes(0, 1) if batch_first else gradient
        assert loss == pytest.approx(losses.mean(), rel=1e-12)
        np.testing.assert_allclose(gradient, expected / 7, atol=1e-12)
        assert not gradient[:, [0, 6]].any()
    message = "lengths: expected at least 6 steps for the 5 labels of row 0, got 4; zero_infinity"
    with pytest.raises(ValueError, match=message):
        ctc(scores, target, **options)
    lengths[0] = 12
    with pytest.raises(ValueError, match="at least 5 steps for the 3 labels of row 6, got 4"):
        ctc(scores, target, **options)


def test_scores_may_exclude_a_class():
    scores = random_scores(4, 2, 3)
    scores[:, 0, 1] = -np.inf
    loss, gradient = ctc(scores, [[2], [1]])
    expected = ctc(scores[:, :, [0, 2]], [[1], [1]])[0], ctc(scores[:, :, [0, 1, 2]], [[2], [1]])[1]
    assert np.isfinite(loss)
    assert ctc(scores[:, 0], [2])[0] == pytest.approx(ctc(scores[:, 0, [0, 2]], [1])[0], rel=1e-14)
    assert not gradient[:, 0, 1].any()
    np.testing.assert_array_equal(gradient, expected[1])
    loss, gradient = ctc(scores, [[1], [1]])
    assert loss == np.inf
    assert np.isnan(gradient[:, 0]).all()
    assert np.isfinite(gradient[:, 1]).all()
    loss, gradient = ctc(scores, [[1], [1]], zero_infinity=True)
    assert loss == pytest.approx(ctc(scores[:, 1], [1])[0] / 2, rel=1e-14)
    assert not gradient[:, 0].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, [-np.inf] * 3])
@pytest.mark.parametrize("zero_infinity", [False, True])
def test_nan_and_infinity_affect_only_their_row(bad, zero_infinity):
    scores = random_scores(4, 3, 3)
    expected = ctc(scores, [[2], [1], [1]])[1]
    scores[2, 1] = bad if isinstance(bad, list) else [0, bad, 0]
    loss, gradient = ctc(scores, [[2], [1], [1]], zero_infinity=zero_infinity)
    assert np.isnan(loss)
    assert np.isnan(gradient[:, 1]).all()
    np.testing.assert_array_equal(gradient[:, [0, 2]], expected[:, [0, 2]])


@both_dtypes
def test_huge_scores_do_not_overflow(dtype):
    huge = np.finfo(dtype).max
    loss, gradient = ctc(np.array([[[0, huge]], [[0, -huge]]], dtype), [[1]])
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros((2, 1, 2)))


def test_a_long_call_can_be_interrupted():
    class Interrupted(Exception):
        pass

    def ring(*_):
        raise Interrupted

    target = np.ones((1, 2000), int)
    target[:, ::2] = 2
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(Interrupted):  # one row of a million states would take much longer
            ctc(np.zeros((20000, 1, 3), np.float32), target)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


ZEROS = np.zeros((3, 2, 4))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((ZEROS.astype(int), [[1], [1]]), {}, TypeError, "prediction: expected float32 or float64"),
        ((np.zeros(4), [1]), {}, ValueError, r"prediction: expected shape \(T, B, V\) or \(T, V\), got \(4,\)"),
        ((np.zeros(4), [1]), {"batch_first": True}, ValueError, r"expected shape \(B, T, V\) or"),
        ((ZEROS, [[1.0], [1.0]]), {}, TypeError, r"target\[0\]: expected integers"),
        ((ZEROS, np.ones((2, 1))), {}, TypeError, "target: expected integers"),
        ((ZEROS, [[1]]), {}, ValueError, r"target: expected shape \(B, S\) with B = 2, got \(1, 1\)"),
        ((ZEROS, [1, 1]), {}, ValueError, r"target\[0\]: expected shape \(S,\), got \(\)"),
        ((ZEROS, np.ones(2, int)), {}, ValueError, r"target: expected shape \(B, S\) with B = 2, got \(2,\)"),
        ((ZEROS, [[1], [4]]), {}, ValueError, r"target: expected labels 0 to 3, .* got 4 at \(1, 0\)"),
        ((ZEROS, [[1], [-1]]), {}, ValueError, r"target: expected labels 0 to 3, .* got -1 at \(1, 0\)"),
        ((ZEROS, [[1], [0, 2]]), {}, ValueError, r"the blank 0 only after them, got 2 at \(1, 1\)"),
        ((ZEROS, [[1], [0, 2]]), {"target_lengths": [1, 2]}, ValueError, r"only after them, got 0 at \(1, 0\)"),
        (
            (ZEROS, [[1], [1]]),
            {"target_lengths": [1, 2]},
            ValueError,
            "target_lengths: expected 0 to S = 1, got 2 at row 1",
        ),
        ((ZEROS, [[1], [1]]), {"target_lengths": [1]}, ValueError, r"target_lengths: expected shape \(B,\) = \(2,\)"),
        ((ZEROS, [[1], [1]]), {"target_lengths": [0.5, 1]}, TypeError, "target_lengths: expected integers"),
        ((ZEROS, [[1], [1]]), {"lengths": [1, 4]}, ValueError, "lengths: expected 0 to T = 3, got 4 at row 1"),
        ((ZEROS, [[1], [1]]), {"lengths": [3, 0]}, ValueError, "at least 1 steps for the 1 labels of row 1, got 0"),
        ((ZEROS, [[1], [1]]), {"blank": 4}, ValueError, "blank: expected one of the classes 0 to 3, got 4"),
        ((ZEROS, [[1], [1]]), {"blank": -1}, ValueError, "blank: expected at least 0"),
        ((ZEROS, [[1], [1]]), {"blank": True}, TypeError, "blank: expected an integer"),
        ((ZEROS, [[1], [1]]), {"zero_infinity": 1}, TypeError, "zero_infinity: expected True or False"),
        ((ZEROS, [[1], [1]]), {"batch_first": 1}, TypeError, "batch_first: expected True or False"),
        ((np.zeros((3, 0, 4)), []), {}, ValueError, "nothing to count: there are no rows"),
        ((np.zeros((3, 2, 0)), [[], []]), {}, ValueError, "blank: expected one of the classes"),
    ],
)
def test_wrong_arguments_are_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        ctc(*arguments, **options)


@pytest.mark.parametrize("batch_first", [False, True])
def test_fit_learns_an_alignment_without_labels_of_steps(batch_first):
    """Rows of symbols, each some steps long with pauses between; the target is the symbols."""
    rng = np.random.default_rng(0)
    targets = [rng.integers(1, 4, rng.integers(0, 5)) for _ in range(96)]
    x = np.zeros((30, 96, 4), np.float32)
    lengths = np.zeros(96, int)
    for row, target in enumerate(targets):
        steps = [symbol for label in target for symbol in [label] * rng.integers(2, 5) + [0] * rng.integers(1, 3)]
        lengths[row] = max(len(steps), 1)
        x[np.arange(len(steps)), row, steps] = 1
    y, _ = pad(targets, batch_first=True)
    x = x.swapaxes(0, 1) if batch_first else x
    model = Sequential(LSTM(4, 16, bidirectional=True, batch_first=batch_first, seed=0), Linear(32, 4, seed=1))
    history = fit(
        model,
        (x, y, lengths),
        loss=ctc,
        optimizer=Adam(model, 0.02),
        epochs=25,
        batch_size=16,
        progress=False,
    )
    assert history.loss[0] > 1
    assert history.loss[-1] < 0.1
    heard = ctc_greedy(model(x, lengths=lengths)[0], lengths, batch_first=batch_first)
    assert sum(map(np.array_equal, heard, targets)) >= 94


@both_dtypes
@pytest.mark.parametrize("place", range(5))
def test_any_byte_order_and_strides_of_any_argument(place, dtype):
    given = ragged_case(blank=0, dtype=dtype)
    expected, expected_gradient = ctc(given[0], given[1], lengths=given[2], target_lengths=given[3])
    scores, target, lengths, target_lengths = (other_layouts(array)[place] for array in given)
    loss, gradient = ctc(scores, target, lengths=lengths, target_lengths=target_lengths)
    assert loss == expected
    assert gradient.dtype == dtype and gradient.dtype.isnative
    np.testing.assert_array_equal(gradient, expected_gradient)
    for decode in (ctc_greedy, ctc_beam):
        for found, right in zip(decode(scores, lengths), decode(given[0], given[2]), strict=True):
            assert repr(found) == repr(right)


@pytest.mark.parametrize("name", ["target", "lengths", "target_lengths"])
def test_the_kernel_never_sees_integers_that_another_thread_can_change(name, monkeypatch):
    """A write just before the kernel runs simulates a thread that writes while it runs."""
    scores, target, lengths, target_lengths = ragged_case(blank=0)
    arrays = {"target": target, "lengths": lengths, "target_lengths": target_lengths}
    expected = ctc(scores, target, lengths=lengths, target_lengths=target_lengths)
    run = losses.ctc_kernel.ctc

    def meanwhile(*arguments):
        arrays[name][...] = 10**9
        return run(*arguments)

    monkeypatch.setattr(losses, "ctc_kernel", types.SimpleNamespace(ctc=meanwhile))
    loss, gradient = ctc(scores, target, lengths=lengths, target_lengths=target_lengths)
    assert loss == expected[0]
    np.testing.assert_array_equal(gradient, expected[1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ctc(ZEROS, 3), TypeError, r"target: expected an array \(B, S\) or a list of B arrays, got int"),
        (
            lambda: ctc(ZEROS, None),
            TypeError,
            r"target: expected an array \(B, S\) or a list of B arrays, got NoneType",
        ),
        (lambda: ctc(ZEROS, "ab"), TypeError, r"target\[0\]: expected integers, got dtype <U1"),
        (lambda: ctc(ZEROS, [[1], None]), TypeError, r"target\[1\]: expected integers, got dtype object"),
        (lambda: ctc(ZEROS, np.full((2, 1), 2**64 - 1, np.uint64)), ValueError, "target: expected at most"),
        (lambda: ctc(ZEROS, [[1], [1]], lengths=[2**64 - 1] * 2), ValueError, "lengths: expected at most"),
        (lambda: ctc(ZEROS, [[1], [1]], lengths=["3", "3"]), TypeError, "lengths: expected integers"),
        (
            lambda: ctc(ZEROS[:, 0], [[1]]),
            ValueError,
            r"target: expected shape \(S,\) for one sequence .* got \(1, 1\)",
        ),
        (lambda: ctc(ZEROS[:, 0], [1.0]), TypeError, "target: expected integers"),
        (lambda: ctc(ZEROS[:, 0], [1], lengths=[3]), ValueError, "lengths: expected a number for one sequence"),
        (lambda: ctc(ZEROS[:, 0], [1], target_lengths=[1]), ValueError, "target_lengths: expected a number for one"),
        (lambda: ctc(np.ma.masked_array(ZEROS, True), [[1], [1]]), ValueError, "prediction: expected no masked"),
        (lambda: ctc(ZEROS, np.ma.masked_array([[1], [1]], True)), ValueError, "target: expected no masked"),
        (
            lambda: ctc(ZEROS, [np.ma.masked_array([1], [True]), [1]]),
            ValueError,
            r"target\[0\]: expected no masked elements",
        ),
    ],
)
def test_odd_arguments_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()
