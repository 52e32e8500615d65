"""losses.py against PyTorch, finite differences and values computed by hand."""

import numpy as np
import pytest
from common import other_layouts

from lstm_cy.losses import cross_entropy, mse

TOLERANCE = {"float64": 1e-12, "float32": 1e-6}
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def scores(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).normal(scale=3.0, size=shape).astype(dtype)


def classes(shape, count, seed=1):
    return np.random.default_rng(seed).integers(0, count, size=shape)


def central_differences(function, at, step=1e-3):
    """Return the gradient of a function of one array, to fourth order."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        move = np.zeros_like(at)
        move[index] = step
        near, far = (
            function(at + move) - function(at - move),
            function(at + 2 * move) - function(at - 2 * move),
        )
        gradient[index] = (8 * near - far) / (12 * step)
    return gradient


def torch_loss(name, prediction, target, **options):
    """Return (loss, gradient) of torch.nn.functional's loss; the classes are the last axis, as in ours."""
    torch = pytest.importorskip("torch")
    p = torch.tensor(prediction, requires_grad=True)
    t = torch.tensor(target)
    arguments = (p.reshape(-1, p.shape[-1]), t.reshape(-1)) if name == "cross_entropy" else (p, t)
    loss = getattr(torch.nn.functional, name)(*arguments, **options)
    loss.backward()
    return loss.item(), p.grad.numpy()


def assert_same(ours, theirs, dtype):
    tolerance = TOLERANCE[np.dtype(dtype).name]
    assert ours[0] == pytest.approx(theirs[0], rel=tolerance)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=tolerance, atol=tolerance * np.abs(theirs[1]).max())


@both_dtypes
@pytest.mark.parametrize("shape", [(5,), (1, 1), (7, 3), (6, 4, 9), (2, 3, 4, 5)])
def test_cross_entropy_equals_pytorch(shape, dtype):
    prediction, target = scores(*shape, dtype=dtype), classes(shape[:-1], shape[-1])
    loss, gradient = cross_entropy(prediction, target)
    assert type(loss) is float
    assert gradient.dtype == dtype and gradient.shape == shape
    assert_same((loss, gradient), torch_loss("cross_entropy", prediction, target), dtype)


@both_dtypes
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_cross_entropy_ignores_as_pytorch_does(ignore_index, dtype):
    prediction, target = scores(6, 4, 5, dtype=dtype), classes((6, 4), 5)
    target[[0, 3], [1, 2]] = ignore_index
    ours = cross_entropy(prediction, target, ignore_index=ignore_index)
    theirs = torch_loss("cross_entropy", prediction, target, ignore_index=ignore_index)
    assert_same(ours, theirs, dtype)
    assert not ours[1][target == ignore_index].any()


@both_dtypes
@pytest.mark.parametrize("shape", [(), (4,), (6, 4, 9)])
def test_mse_equals_pytorch(shape, dtype):
    prediction, target = scores(*shape, dtype=dtype), scores(*shape, dtype=dtype, seed=5)
    loss, gradient = mse(prediction, target)
    assert type(loss) is float
    assert gradient.dtype == dtype and gradient.shape == shape
    assert_same((loss, gradient), torch_loss("mse_loss", prediction, target), dtype)


def test_gradients_equal_finite_differences():
    lengths = [3, 0, 2]
    prediction, target = scores(4, 3, 5), classes((4, 3), 5)
    target[0, 0] = -100
    _, gradient = cross_entropy(prediction, target, lengths=lengths)
    expected = central_differences(lambda p: cross_entropy(p, target, lengths=lengths)[0], prediction)
    np.testing.assert_allclose(gradient, expected, atol=1e-9 * np.abs(expected).max())

    target = scores(4, 3, 5, seed=2)
    _, gradient = mse(prediction, target, lengths=lengths)
    expected = central_differences(lambda p: mse(p, target, lengths=lengths)[0], prediction)
    np.testing.assert_allclose(gradient, expected, atol=1e-9 * np.abs(expected).max())


def test_values_by_hand():
    # softmax of (0, log 3) is (1/4, 3/4)
    loss, gradient = cross_entropy(np.array([[0.0, np.log(3.0)]]), [0])
    assert loss == pytest.approx(np.log(4.0), rel=1e-15)
    np.testing.assert_allclose(gradient, [[-0.75, 0.75]], rtol=1e-15)
    loss, gradient = mse(np.array([[1.0, 2.0], [5.0, 5.0]]), [[0.0, 4.0], [5.0, 5.0]])
    assert loss == 5 / 4
    assert gradient.tolist() == [[0.5, -1.0], [0.0, 0.0]]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("loss", [cross_entropy, mse])
def test_lengths_leave_out_any_padding(loss, batch_first):
    lengths = np.array([4, 0, 1, 3], dtype=np.uint8)
    prediction = scores(4, 4, 6)  # T = B: only the order of the axes distinguishes them
    target = classes((4, 4), 6) if loss is cross_entropy else scores(4, 4, 6, seed=3)
    steps = [(row, step) if batch_first else (step, row) for row in range(4) for step in range(lengths[row])]
    valid = tuple(np.array(steps).T)
    expected, expected_gradient = loss(prediction[valid], target[valid])

    padding = np.ones((4, 4), dtype=bool)
    padding[valid] = False
    prediction[padding] = np.nan
    target[padding] = 1000 if loss is cross_entropy else np.inf
    value, gradient = loss(prediction, target, lengths=lengths, batch_first=batch_first)
    assert value == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(gradient[valid], expected_gradient, rtol=1e-14)
    assert not gradient[padding].any()


@pytest.mark.parametrize("loss", [cross_entropy, mse])
def test_lengths_of_one_sequence_are_a_number(loss):
    prediction = scores(5, 3)
    target = classes((5,), 3) if loss is cross_entropy else scores(5, 3, seed=3)
    value, gradient = loss(prediction, target, lengths=2)
    expected, expected_gradient = loss(prediction[:2], target[:2])
    assert value == pytest.approx(expected, rel=1e-15)
    np.testing.assert_array_equal(gradient[:2], expected_gradient)
    assert not gradient[2:].any()


@both_dtypes
def test_cross_entropy_of_huge_scores_neither_overflows_nor_loses_the_loss(dtype):
    huge = np.finfo(dtype).max
    loss, gradient = cross_entropy(np.array([[huge, -huge], [1e4, 0.0]], dtype), [0, 1])
    assert loss == 5e3
    assert gradient.tolist() == [[0.0, 0.0], [0.5, -0.5]]
    loss, gradient = cross_entropy(np.array([[-np.inf, 0.0]], dtype), [1])  # an impossible class
    assert loss == 0.0
    assert gradient.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_counted_elements_that_are_not_finite_make_the_loss_so(bad):
    assert not np.isfinite(cross_entropy(np.array([[bad, 0.0]]), [1])[0])
    assert not np.isfinite(mse(np.array([bad]), [1.0])[0])
    assert not np.isfinite(mse(np.array([np.inf]), [np.inf])[0])


def test_the_loss_is_accumulated_in_float64():
    # float32 rounds 2**24 + 1 to 2**24
    prediction = np.ones(2**16 + 1, np.float32)
    prediction[0] = 2.0**14
    assert mse(prediction, np.zeros(2**16 + 1))[0] == (2.0**28 + 2**16) / (2**16 + 1)
    # and 2**29 + 32 to 2**29
    assert cross_entropy(np.array([[0, 2.0**29], [0, 32]], np.float32), [0, 0])[0] == (2.0**29 + 32) / 2


def test_layouts_and_inputs():
    prediction, target = scores(4, 3, 5), classes((4, 3), 5)
    expected = cross_entropy(prediction, target)
    copies = prediction.copy(), target.copy()
    prediction.flags.writeable = target.flags.writeable = False
    for p in (prediction, np.asfortranarray(prediction), prediction[::-1][::-1], prediction.tolist()):
        value, gradient = cross_entropy(p, target.astype(np.int8))
        assert value == expected[0]
        np.testing.assert_array_equal(gradient, expected[1])
    np.testing.assert_array_equal(prediction, copies[0])
    np.testing.assert_array_equal(target, copies[1])
    assert mse(np.ones(3, np.float32), [1, 2, 3])[1].dtype == np.float32  # the dtype of the prediction


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (np.zeros((2, 3), np.float16), [0, 0]),
            TypeError,
            "prediction: expected float32 or float64, got dtype float16",
        ),
        ((np.zeros((2, 3), int), [0, 0]), TypeError, "prediction: expected float32"),
        ((np.zeros((2, 3), complex), [0, 0]), TypeError, "prediction: expected float32"),
        ((np.zeros(()), 0), ValueError, "prediction: expected at least the axis of the classes"),
        ((np.zeros((2, 3)), [0.0, 1.0]), TypeError, "target: expected integers"),
        ((np.zeros((2, 3)), [0, 0, 0]), ValueError, r"target: expected shape .* = \(2,\), got \(3,\)"),
        ((np.zeros((2, 3)), [0, 3]), ValueError, r"target: expected classes 0 to 2, .* got 3 at \(1,\)"),
        ((np.zeros((2, 3)), [-1, 0]), ValueError, r"target: expected classes 0 to 2, .* got -1 at \(0,\)"),
        ((np.zeros((2, 3)), [-100, -100]), ValueError, "nothing to count"),
        ((np.zeros((0, 3)), np.zeros(0, int)), ValueError, "nothing to count"),
    ],
)
def test_cross_entropy_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        cross_entropy(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lengths": [1, 2]}, ValueError, r"lengths: expected shape \(B,\) = \(3,\), got \(2,\)"),
        (
            {"lengths": [1, 4, 1, 1], "batch_first": True},
            ValueError,
            "lengths: expected 0 to T = 3, got 4 at row",
        ),
        ({"lengths": [1, 5, 0]}, ValueError, "lengths: expected 0 to T = 4, got 5 at row 1"),
        ({"lengths": [1, -1, 0]}, ValueError, "lengths: expected 0 to T = 4, got -1 at row 1"),
        ({"lengths": [1.0, 1.0, 1.0]}, TypeError, "lengths: expected integers"),
        ({"lengths": 2}, ValueError, r"lengths: expected shape \(B,\)"),
        ({"lengths": [0, 0, 0]}, ValueError, "nothing to count"),
        ({"batch_first": 1}, TypeError, "batch_first: expected True or False"),
    ],
)
@pytest.mark.parametrize("loss", [cross_entropy, mse])
def test_lengths_refused(loss, options, error, message):
    target = np.zeros((4, 3), int) if loss is cross_entropy else np.zeros((4, 3, 2))
    with pytest.raises(error, match=message):
        loss(np.zeros((4, 3, 2)), target, **options)


def test_lengths_need_a_time_axis():
    with pytest.raises(ValueError, match=r"with lengths expected \(T, B, C\) or \(T, C\), got 4 axes"):
        cross_entropy(np.zeros((2, 2, 2, 2)), np.zeros((2, 2, 2), int), lengths=[1, 1])
    with pytest.raises(ValueError, match=r"with lengths expected \(B, T, C\) or \(T, C\), got 1 axes"):
        mse(np.zeros(3), np.zeros(3), lengths=1, batch_first=True)
    with pytest.raises(
        ValueError, match=r"lengths: expected a number .* got an array of shape \(1,\); a prediction \(B, C\)"
    ):
        mse(np.zeros((3, 2)), np.zeros((3, 2)), lengths=[1])


def test_ignore_index_is_an_integer():
    with pytest.raises(TypeError, match="ignore_index: expected integers"):
        cross_entropy(np.zeros((2, 3)), [0, 0], ignore_index=0.5)


def test_mse_refuses():
    with pytest.raises(ValueError, match=r"target: expected shape the prediction's = \(2, 3\), got \(2,\)"):
        mse(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(TypeError, match="target: expected real numbers"):
        mse(np.zeros(2), np.zeros(2, complex))
    with pytest.raises(TypeError, match="prediction: expected float32"):
        mse(np.zeros(2, int), np.zeros(2))
    with pytest.raises(ValueError, match="nothing to count"):
        mse(np.zeros((0, 3)), np.zeros((0, 3)))


def test_cross_entropy_weighs_classes_as_pytorch_does():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    prediction, target, weight = rng.normal(size=(7, 3)), [0, 2, 1, -100, 2, 2, 0], np.array([0.5, 0.0, 2.0])
    loss, gradient = cross_entropy(prediction, target, weight=weight)
    scores = torch.tensor(prediction, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor(target), weight=torch.tensor(weight))
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, scores.grad.numpy(), rtol=1e-12, atol=1e-16)
    for wrong, message in (([1, 1], "weight: expected shape"), ([1, -1, 1], "at least 0, got -1.0")):
        with pytest.raises(ValueError, match=message):
            cross_entropy(prediction, target, weight=wrong)
    with pytest.raises(ValueError, match="nothing to count"):
        cross_entropy(prediction[:1], [1], weight=weight)


@both_dtypes
@pytest.mark.parametrize("layout", range(5))
@pytest.mark.parametrize("loss", [cross_entropy, mse])
def test_any_byte_order_and_strides_of_any_argument(loss, layout, dtype):
    prediction, lengths = scores(4, 3, 5, dtype=dtype), np.array([3, 0, 4])
    target = classes((4, 3), 5) if loss is cross_entropy else scores(4, 3, 5, seed=3)
    expected, expected_gradient = loss(prediction, target, lengths=lengths)
    given = [other_layouts(array)[layout] for array in (prediction, target, lengths)]
    value, gradient = loss(given[0], given[1], lengths=given[2])
    assert value == expected
    assert gradient.dtype == dtype and gradient.dtype.isnative
    np.testing.assert_array_equal(gradient, expected_gradient)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda masked: mse(masked, np.zeros(2)), "prediction"),
        (lambda masked: mse(np.zeros(2), masked), "target"),
        (lambda masked: mse(np.zeros((3, 2, 1)), np.zeros((3, 2, 1)), lengths=masked.astype(int)), "lengths"),
        (lambda masked: cross_entropy(masked[:, None], [0, 0]), "prediction"),
        (lambda masked: cross_entropy(np.zeros((2, 3)), masked.astype(int)), "target"),
        (lambda masked: cross_entropy(np.zeros((2, 2)), [0, 0], weight=masked), "weight"),
    ],
)
def test_masked_elements_are_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}: expected no masked elements"):
        call(np.ma.masked_array([0.0, 1.0], [False, True]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cross_entropy([["a", "b"]], [0]), TypeError, "prediction: expected float32 or float64, got dtype <U1"),
        (lambda: cross_entropy([[0.0], [0.0, 1.0]], [0, 0]), ValueError, "prediction: expected an array: "),
        (lambda: cross_entropy(None, [0]), TypeError, "prediction: expected float32 or float64, got dtype object"),
        (lambda: cross_entropy(np.zeros((1, 2)), None), TypeError, "target: expected integers, got dtype object"),
        (lambda: cross_entropy(np.zeros((1, 2)), [2**64 - 100]), ValueError, "target: expected at most"),
        (lambda: cross_entropy(np.zeros((1, 2)), [0], ignore_index=[0, 1]), ValueError, "ignore_index: expected shape"),
        (lambda: cross_entropy(np.zeros((1, 2)), [0], ignore_index=2**64 - 1), ValueError, "ignore_index: expected at"),
        (lambda: cross_entropy(np.zeros((1, 2)), [0], weight=[np.inf, 1]), ValueError, "weight: .*, got inf"),
        (lambda: cross_entropy(np.zeros((1, 2)), [0], weight=[np.nan, 1]), ValueError, "weight: .*, got nan"),
        (lambda: cross_entropy(np.zeros((1, 2)), [0], weight="heavy"), TypeError, "weight: expected real numbers"),
        (lambda: mse(np.zeros(1), ["a"]), TypeError, "target: expected real numbers, got dtype <U1"),
        (lambda: mse(np.zeros(1, np.float32), [1e300]), ValueError, r"target: .* float32 can hold, got 1e\+300"),
        (lambda: mse(np.zeros(1, ">f2"), [0]), TypeError, "prediction: expected float32 or float64, got dtype float16"),
    ],
)
def test_errors_name_the_wrong_argument(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()


def test_lengths_of_rows_without_time_are_explained():
    """The prediction of a classifier that uses only the last step is (B, C), not a sequence (T, C)."""
    message = r"lengths: expected a number for one sequence \(T, C\) = \(3, 2\), got an array of shape \(3,\)"
    with pytest.raises(ValueError, match=message):
        cross_entropy(np.zeros((3, 2)), [0, 1, 0], lengths=[4, 2, 1])


def test_weights_whose_sum_overflows_give_correct_shares():
    prediction, target = scores(6, 3), classes((6,), 3)
    expected = cross_entropy(prediction, target, weight=[1.0, 0.5, 1.0])
    loss, gradient = cross_entropy(prediction, target, weight=np.array([1.0, 0.5, 1.0]) * 2.0**1023)
    assert loss == pytest.approx(expected[0], rel=1e-14)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-14)
