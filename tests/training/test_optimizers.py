"""optimizers.py against torch.optim and values computed by hand."""

import numpy as np
import pytest

from lstm_cy import (
    LSTM,
    SGD,
    Adam,
    AdamW,
    Embedding,
    Linear,
    RMSprop,
    Sequential,
    clip_grad_norm,
    clip_grad_value,
    optimizers,
)
from lstm_cy.layers.base import Gradients

TOLERANCE = {"float64": 1e-12, "float32": 1e-6}


def model_of(dtype="float64"):
    return Sequential(
        Embedding(7, 3, dtype=dtype, seed=0),
        LSTM(3, 4, dtype=dtype, seed=1),
        Linear(4, 2, dtype=dtype, seed=2),
    )


def gradients_of(model, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=a.shape).astype(a.dtype) for name, a in model.parameters.items()}


def parameters_as_bytes(model):
    return {name: array.tobytes() for name, array in model.parameters.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("SGD", {"lr": 0.1}),
        ("SGD", {"lr": 0.1, "weight_decay": 0.3}),
        ("SGD", {"lr": 0.1, "momentum": 0.9}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.3}),
        ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
        ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.3}),
        ("Adam", {}),
        ("Adam", {"lr": 0.05}),
        ("Adam", {"lr": 0.05, "betas": (0.5, 0.7)}),
        ("Adam", {"lr": 0.05, "betas": (0.0, 0.9)}),
        ("Adam", {"lr": 0.05, "eps": 0.1}),
        ("Adam", {"lr": 0.05, "weight_decay": 0.3}),
        ("AdamW", {}),
        ("AdamW", {"lr": 0.05, "betas": (0.5, 0.7), "eps": 0.1, "weight_decay": 0.3}),
        ("AdamW", {"weight_decay": 0.0}),
        ("RMSprop", {}),
        ("RMSprop", {"lr": 0.03, "alpha": 0.7, "eps": 0.01, "weight_decay": 0.3}),
        ("RMSprop", {"lr": 0.03, "momentum": 0.8}),
        ("RMSprop", {"lr": 0.03, "centered": True}),
        ("RMSprop", {"lr": 0.03, "alpha": 0.8, "momentum": 0.8, "centered": True, "weight_decay": 0.1}),
    ],
)
@pytest.mark.parametrize("grouped", [0, 60, 1000])  # each parameter alone, small ones together, all together
def test_twenty_steps_equal_pytorch(kind, options, dtype, grouped, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(optimizers, "_GROUPED", grouped)
    model = model_of(dtype)
    theirs = {name: torch.nn.Parameter(torch.tensor(a)) for name, a in model.parameters.items()}
    ours_optimizer = getattr(optimizers, kind)(model, **options)
    their_optimizer = getattr(torch.optim, kind)(theirs.values(), **options)
    for step in range(20):
        grads = gradients_of(model, step)
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(grads[name])
        their_optimizer.step()
        ours_optimizer.step(grads)
        if step == 10:  # a schedule
            ours_optimizer.lr = their_optimizer.param_groups[0]["lr"] = 0.01
    for name, array in model.parameters.items():
        assert array.dtype == dtype
        expected = theirs[name].detach().numpy()
        np.testing.assert_allclose(array, expected, rtol=0, atol=TOLERANCE[dtype] * np.abs(expected).max())


def test_neighbours_of_one_dtype_are_updated_together():
    arrays = {"a": np.zeros((2, 3)), "b": np.zeros(4), "c": np.zeros(5, np.float32), "d": np.zeros(20000, np.float32)}
    arrays |= {"e": np.zeros(0, np.float32), "f": np.zeros(1)}
    groups = [group.parts for group in optimizers._grouped(arrays, {name: {} for name in arrays})]
    assert groups == [
        {"a": slice(0, 6), "b": slice(6, 10)},
        {"c": slice(0, 5)},
        {"d": slice(0, 20000)},
        {"e": slice(0, 0)},
        {"f": slice(0, 1)},
    ]


def test_a_step_by_hand():
    model = Linear(1, 1, bias=False, dtype="float64")
    model.load_state_dict({"weight": [[2.0]]})
    optimizer = SGD(model, 0.5, momentum=0.5, weight_decay=0.25)
    optimizer.step({"weight": [[1.0]]})  # g = 1 + 0.25 * 2, v = 1.5, w = 2 - 0.75
    assert model.parameters["weight"].item() == 1.25
    optimizer.step({"weight": [[1.0]]})  # g = 1 + 0.25 * 1.25, v = 0.75 + 1.3125, w = 1.25 - 1.03125
    assert model.parameters["weight"].item() == 0.21875
    assert optimizer.steps == 2


def test_a_variance_that_rounding_makes_negative_is_0():
    model = Linear(17, 1, seed=0, dtype="float32")
    optimizer = RMSprop(model, lr=1e-6, alpha=0.9, centered=True)
    weight = np.random.default_rng(0).standard_normal((1, 17)).astype(np.float32)
    for _ in range(300):  # equal gradients: their mean square less the square of their mean is only rounding
        optimizer.step({"weight": weight, "bias": np.ones(1, np.float32)})
        assert all(np.isfinite(array).all() for array in model.parameters.values())


def test_blocks_do_not_change_the_result(monkeypatch):
    results = []
    for block in (3, 1 << 14):
        monkeypatch.setattr(optimizers, "_GROUPED", block)
        model = model_of("float32")
        optimizer = Adam(model, weight_decay=0.1)
        for step in range(3):
            optimizer.step(gradients_of(model, step))
        results.append(parameters_as_bytes(model))
    assert results[0] == results[1]


@pytest.mark.parametrize("make", [lambda m: SGD(m, 0.1, momentum=0.9, nesterov=True), lambda m: Adam(m, 0.1)])
def test_a_step_makes_new_read_only_arrays_and_keeps_the_gradients(make):
    model = model_of()
    before, copies = model.parameters, model.state_dict()
    grads = gradients_of(model, 0)
    grads_before = {name: array.copy() for name, array in grads.items()}
    make(model).step(Gradients(None, None, grads))
    for name, array in model.parameters.items():
        assert not np.may_share_memory(array, before[name])
        assert not array.flags.writeable
        np.testing.assert_array_equal(before[name], copies[name])
        np.testing.assert_array_equal(grads[name], grads_before[name])
        assert not np.array_equal(array, copies[name])


def test_gradients_in_any_layout_and_of_another_dtype():
    models = model_of("float32"), model_of("float32")
    grads = gradients_of(models[0], 0)
    Adam(models[0]).step(grads)
    Adam(models[1]).step({name: np.asfortranarray(a.astype(np.float64)) for name, a in reversed(grads.items())})
    assert parameters_as_bytes(models[0]) == parameters_as_bytes(models[1])


@pytest.mark.parametrize(
    "make",
    [
        lambda m: SGD(m, 0.1, momentum=0.9),
        lambda m: Adam(m, 0.1),
        lambda m: AdamW(m, 0.1),
        lambda m: RMSprop(m, 0.1, momentum=0.9, centered=True),
    ],
)
def test_an_optimizer_continues_bit_for_bit_from_a_state_dict(make):
    whole, interrupted = model_of("float32"), model_of("float32")
    optimizer = make(whole)
    first = make(interrupted)
    for step in range(3):
        optimizer.step(gradients_of(whole, step))
        first.step(gradients_of(whole, step))
    optimizer.lr = first.lr = 0.03
    state = first.state_dict()
    second = make(interrupted)
    second.load_state_dict(state)
    for array in state.values():  # both calls copy
        array[...] = 0
    for name, array in first.state_dict().items():
        np.testing.assert_array_equal(array, second.state_dict()[name])
    assert second.lr == 0.03
    assert second.steps == 3
    for step in range(3, 6):
        optimizer.step(gradients_of(whole, step))
        second.step(gradients_of(whole, step))
    assert parameters_as_bytes(whole) == parameters_as_bytes(interrupted)


def test_differences_of_gradients_are_listed_and_nothing_changes():
    model = model_of()
    optimizer = Adam(model)
    before, state = parameters_as_bytes(model), optimizer.state_dict()
    grads = gradients_of(model, 0)
    del grads["0.weight"]
    grads["2.bias"] = np.zeros(3)
    grads["stranger"] = np.zeros(1)
    with pytest.raises(ValueError) as error:
        optimizer.step(grads)
    for text in (
        "missing: 0.weight (7, 3)",
        "unknown: stranger",
        "misshaped: 2.bias: expected (2,), got (3,)",
    ):
        assert text in str(error.value)
    with pytest.raises(TypeError, match=r"grads\['0.weight'\]: expected real numbers"):
        optimizer.step(gradients_of(model, 0) | {"0.weight": np.zeros((7, 3), complex)})
    with pytest.raises(TypeError, match="grads: expected a mapping"):
        optimizer.step([np.zeros(3)])
    assert parameters_as_bytes(model) == before
    assert optimizer.steps == 0
    for name, array in optimizer.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


def test_differences_of_a_state_are_listed_and_nothing_changes():
    optimizer = Adam(Linear(2, 3), 0.1)
    optimizer.step({"weight": np.ones((3, 2)), "bias": np.ones(3)})
    state = optimizer.state_dict()
    bad = {name: np.zeros_like(array) for name, array in state.items()}
    bad["exp_avg.bias"] = np.zeros(4)
    del bad["exp_avg_sq.weight"]
    bad["momentum_buffer.bias"] = np.zeros(3)
    with pytest.raises(ValueError) as error:
        optimizer.load_state_dict(bad)
    for text in (
        "missing: exp_avg_sq.weight (3, 2)",
        "unknown: momentum_buffer.bias",
        "misshaped: exp_avg.bias: expected (3,), got (4,)",
    ):
        assert text in str(error.value)
    with pytest.raises(TypeError, match="step"):
        optimizer.load_state_dict(state | {"step": np.array(1.5)})
    with pytest.raises(ValueError, match="step"):
        optimizer.load_state_dict(state | {"step": np.array(-1)})
    with pytest.raises(TypeError, match="state_dict: expected a mapping"):
        optimizer.load_state_dict(None)
    for name, array in optimizer.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: SGD(m, -0.1), ValueError, "lr: expected a number in"),
        (lambda m: SGD(m, "0.1"), TypeError, "lr: expected a number"),
        (lambda m: SGD(m, float("nan")), ValueError, "lr"),
        (lambda m: SGD(m, 0.1, momentum=1.0), ValueError, "momentum"),
        (lambda m: SGD(m, 0.1, weight_decay=-1), ValueError, "weight_decay"),
        (lambda m: SGD(m, 0.1, momentum=0.9, nesterov=1), TypeError, "nesterov"),
        (lambda m: SGD(m, 0.1, nesterov=True), ValueError, "nesterov: expected a momentum above 0"),
        (lambda m: Adam(m, float("inf")), ValueError, "lr"),
        (lambda m: Adam(m, betas=0.9), TypeError, "betas: expected two numbers"),
        (lambda m: Adam(m, betas=(0.9, 0.99, 0.999)), TypeError, "betas: expected two numbers"),
        (lambda m: Adam(m, betas=(0.9, 1.0)), ValueError, r"betas\[1\]"),
        (lambda m: Adam(m, eps=-1e-8), ValueError, "eps"),
        (lambda m: Adam(m, weight_decay=None), TypeError, "weight_decay"),
        (lambda m: AdamW(m, weight_decay=-1), ValueError, "weight_decay"),
        (lambda m: RMSprop(m, alpha=1.0), ValueError, "alpha"),
        (lambda m: RMSprop(m, eps=-1.0), ValueError, "eps"),
        (lambda m: RMSprop(m, momentum=-0.1), ValueError, "momentum"),
        (lambda m: RMSprop(m, centered=1), TypeError, "centered"),
    ],
)
def test_options_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(Linear(1, 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clip_grad_norm_equals_pytorch(dtype):
    torch = pytest.importorskip("torch")
    grads = gradients_of(model_of(dtype), 0)
    tensors = [torch.nn.Parameter(torch.tensor(array)) for array in grads.values()]
    for tensor in tensors:
        tensor.grad = tensor.detach().clone()
    expected = torch.nn.utils.clip_grad_norm_(tensors, 1.5).item()
    norm = clip_grad_norm(Gradients(None, None, grads), 1.5)
    assert type(norm) is float
    assert norm == pytest.approx(expected, rel=TOLERANCE[dtype])
    for array, tensor in zip(grads.values(), tensors, strict=True):
        assert array.dtype == dtype
        np.testing.assert_allclose(array, tensor.grad.numpy(), rtol=1e-6)  # PyTorch adds 1e-6 to the norm


def test_clip_grad_norm_does_not_change_short_gradients_or_any_that_are_not_finite():
    grads = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    assert clip_grad_norm(grads, 5.0) == 5.0
    assert clip_grad_norm(grads, float("inf")) == 5.0
    assert grads["a"].tolist() == [3.0, 0.0]
    assert clip_grad_norm({}, 1.0) == 0.0
    for bad in (np.nan, np.inf, 1e200):
        grads = {"a": np.array([bad, 2.0]), "b": np.array([[4.0]])}
        assert not np.isfinite(clip_grad_norm(grads, 1.0))
        np.testing.assert_array_equal(grads["a"], [bad, 2.0])
        assert grads["b"].item() == 4.0


def test_clip_grad_norm_accumulates_in_float64():
    grads = {"a": np.full(2**16, 1e25, np.float32)}  # its square is beyond float32
    assert clip_grad_norm(grads, 1.0) == pytest.approx(2**8 * float(np.float32(1e25)), rel=1e-12)
    np.testing.assert_allclose(grads["a"], 2.0**-8, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_clip_grad_norm_takes_matrices():
    grads = {"a": np.asmatrix([[3.0], [4.0]])}
    assert clip_grad_norm(grads, 1.0) == 5.0
    np.testing.assert_allclose(grads["a"], [[0.6], [0.8]])


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="long double is double here")
def test_clip_grad_norm_refuses_long_double():
    with pytest.raises(TypeError, match=r"grads\['a'\]: expected an array of floats"):
        clip_grad_norm({"a": np.ones(2, np.longdouble)}, 1.0)


def test_clip_grad_norm_changes_nothing_when_it_raises():
    frozen = np.array([4.0])
    frozen.flags.writeable = False
    for bad, error, message in [
        (frozen, ValueError, r"grads\['b'\]: expected a writable array"),
        ([4.0], TypeError, r"grads\['b'\]: expected an array of floats"),
        (np.array([4]), TypeError, r"grads\['b'\]: expected an array of floats"),
    ]:
        grads = {"a": np.array([3.0]), "b": bad}
        with pytest.raises(error, match=message):
            clip_grad_norm(grads, 1.0)
        assert grads["a"].item() == 3.0
    with pytest.raises(TypeError, match="grads: expected a mapping"):
        clip_grad_norm([np.zeros(1)], 1.0)
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="max_norm"):
            clip_grad_norm({}, bad)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clip_grad_value_equals_pytorch(dtype):
    torch = pytest.importorskip("torch")
    grads = gradients_of(model_of(dtype), 0)
    tensors = [torch.nn.Parameter(torch.tensor(array)) for array in grads.values()]
    for tensor in tensors:
        tensor.grad = tensor.detach().clone()
    torch.nn.utils.clip_grad_value_(tensors, 0.7)
    assert clip_grad_value(Gradients(None, None, grads), 0.7) is None
    for array, tensor in zip(grads.values(), tensors, strict=True):
        np.testing.assert_array_equal(array, tensor.grad.numpy())


def test_clip_grad_value_keeps_numbers_that_are_not_finite():
    grads = {"a": np.array([[np.nan, np.inf, -np.inf, 3.0, -3.0, 0.5]]).T[::-1]}
    clip_grad_value(grads, 2)
    np.testing.assert_array_equal(grads["a"][::-1, 0], [np.nan, np.inf, -np.inf, 2.0, -2.0, 0.5])


def test_clip_grad_value_changes_nothing_when_it_raises():
    frozen = np.array([4.0])
    frozen.flags.writeable = False
    grads = {"a": np.array([3.0]), "b": frozen}
    with pytest.raises(ValueError, match=r"grads\['b'\]: expected a writable array"):
        clip_grad_value(grads, 1.0)
    assert grads["a"].item() == 3.0
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="max_value"):
            clip_grad_value(grads, bad)
    with pytest.raises(TypeError, match="max_value"):
        clip_grad_value(grads, "1")


# values that would corrupt a training


def state_as_bytes(optimizer):
    return {name: array.tobytes() for name, array in optimizer.state_dict().items()}


def assert_unchanged(optimizer, error, message, act):
    """Assert that `act` raises, and does not change model, rate, count and state."""
    before = parameters_as_bytes(optimizer.model), state_as_bytes(optimizer), optimizer.lr, optimizer.steps
    with pytest.raises(error, match=message):
        act()
    assert before == (parameters_as_bytes(optimizer.model), state_as_bytes(optimizer), optimizer.lr, optimizer.steps)


@pytest.mark.parametrize("model", ["x", None, 3, LSTM, {"weight": np.ones(3)}, object()])
@pytest.mark.parametrize("make", [Adam, lambda model: SGD(model, 0.1)])
def test_models_refused(make, model):
    with pytest.raises(TypeError, match="model: expected a layer such as an LSTM or a Sequential, got"):
        make(model)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        *(("lr", value, TypeError) for value in ("abc", None, [0.1], np.array([0.1, 0.2]), 1j, True)),
        *(("lr", value, ValueError) for value in (-1, -1e-300, np.nan, np.inf, 10**400)),
        *(("steps", value, TypeError) for value in ("1", None, 1.5, np.nan, True)),
        *(("steps", value, ValueError) for value in (-1, 2**53 + 1, 10**400)),
    ],
)
def test_attributes_refuse_invalid_values(name, value, error):
    optimizer = Adam(model_of())
    optimizer.step(gradients_of(optimizer.model, 0))
    assert_unchanged(optimizer, error, f"{name}: expected", lambda: setattr(optimizer, name, value))


def test_attributes_accept_valid_values():
    optimizer = Adam(model_of())
    for value in (0, 1, np.float32(0.5), np.float64(0.25), np.int64(2)):
        optimizer.lr = value
        assert optimizer.lr == value and type(optimizer.lr) is float
    optimizer.steps = np.int64(7)
    assert optimizer.steps == 7 and type(optimizer.steps) is int


@pytest.mark.parametrize("make", [Adam, lambda model: SGD(model, 0.1, momentum=0.5)])
def test_settings_that_a_checkpoint_compares_cannot_be_set(make):
    optimizer = make(model_of())
    for name in ("model", "config", "weight_decay", *(set(optimizer.config) - {"lr"})):
        with pytest.raises(AttributeError):
            setattr(optimizer, name, 0.5)
    optimizer.config["weight_decay"] = 5.0
    assert optimizer.config["weight_decay"] == 0.0


MAKERS = [
    lambda model: SGD(model, 0.1),
    lambda model: SGD(model, 0.1, momentum=0.9),
    lambda model: SGD(model, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    lambda model: Adam(model, 0.1),
    lambda model: Adam(model, 0.1, weight_decay=0.1),
    lambda model: AdamW(model, 0.1),
    lambda model: RMSprop(model, 0.1),
    lambda model: RMSprop(model, 0.1, momentum=0.9, centered=True),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_gradients_that_are_not_finite_make_no_step(make, bad, dtype, monkeypatch):
    monkeypatch.setattr(optimizers, "_GROUPED", 5)  # several groups are updated before the bad gradient
    model = model_of(dtype)
    optimizer = make(model)
    optimizer.step(gradients_of(model, 0))
    grads = gradients_of(model, 1)
    grads["2.weight"][1, 3] = bad
    assert_unchanged(
        optimizer,
        FloatingPointError,
        r"grads\['2.weight'\]: expected finite numbers, got",
        lambda: optimizer.step(grads),
    )
    optimizer.lr = 0.0
    assert_unchanged(optimizer, FloatingPointError, r"grads\['2.weight'\]", lambda: optimizer.step(grads))


@pytest.mark.parametrize("make", MAKERS)
def test_a_rate_beyond_the_dtype_makes_no_step(make):
    model = model_of("float32")
    optimizer = make(model)
    optimizer.step(gradients_of(model, 0))
    optimizer.lr = 1e308
    assert_unchanged(
        optimizer,
        FloatingPointError,
        r"parameters\['.*'\]: a step with lr = 1e\+308 gives",
        lambda: optimizer.step(gradients_of(model, 1)),
    )
    optimizer.lr = 0.1
    optimizer.step(gradients_of(model, 1))


@pytest.mark.parametrize("kind", [Adam, AdamW, RMSprop])
def test_gradients_whose_squares_are_beyond_the_dtype_make_no_step(kind):
    optimizer = kind(Linear(1, 1, bias=False))
    assert_unchanged(
        optimizer,
        FloatingPointError,
        r"grads\['weight'\]: too large, up to 1e\+30, for float32",
        lambda: optimizer.step({"weight": [[1e30]]}),
    )


def test_a_step_whose_parameters_cannot_be_replaced_is_not_counted(monkeypatch):
    model = model_of()
    optimizer = Adam(model)
    optimizer.step(gradients_of(model, 0))
    whole = Adam(twin := model_of())
    whole.step(gradients_of(twin, 0))

    def interrupt(arrays):
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "replace_parameters", interrupt)
    assert_unchanged(optimizer, KeyboardInterrupt, None, lambda: optimizer.step(gradients_of(model, 1)))
    monkeypatch.undo()
    for each in (optimizer, whole):
        each.step(gradients_of(model, 2))
    assert parameters_as_bytes(model) == parameters_as_bytes(twin)
    narrow = Adam(LSTM(2, 3, seed=0).quantize("int8"))
    with pytest.raises(TypeError):
        narrow.step({name: np.ones_like(array) for name, array in narrow.model.parameters.items()})
    assert narrow.steps == 0


@pytest.mark.parametrize("make", MAKERS)
def test_a_state_with_invalid_values_is_refused(make):
    optimizer = make(model_of())
    optimizer.step(gradients_of(optimizer.model, 0))
    state = optimizer.state_dict()
    arrays = [name for name in state if name not in ("step", "lr")]
    cases = [
        *(("step", value, ValueError) for value in (-5, -1, 2**53 + 1, 2**63 - 1, np.uint64(2**64 - 1))),
        *(("step", value, TypeError) for value in (1.5, np.nan, "x", None, 1j, True)),
        *(("lr", value, ValueError) for value in (-1.0, np.nan, np.inf, [1, 2], -np.inf)),
        *(("lr", value, TypeError) for value in ("x", None, 1j)),
        *((name, np.full_like(state[name], value), ValueError) for name in arrays for value in (np.nan, np.inf)),
        *(
            (name, -abs(state[name]) - 1, ValueError)
            for name in arrays
            if name.startswith(("exp_avg_sq", "square_avg"))
        ),
    ]
    for name, value, error in cases:
        assert_unchanged(optimizer, error, name, lambda bad=state | {name: value}: optimizer.load_state_dict(bad))
    optimizer.load_state_dict(state | {"step": np.int32(3), "lr": 1})
    assert (optimizer.steps, optimizer.lr) == (3, 1.0)


def test_shared_layers_get_the_sum_of_their_gradients():
    lstm = LSTM(3, 3, dtype="float64", seed=0)
    model = Sequential(lstm, Linear(3, 3, dtype="float64", seed=1), lstm)
    x = np.random.default_rng(0).normal(size=(4, 2, 3))
    before = model.state_dict()

    def loss(**moved):
        model.load_state_dict(before | moved)
        return (model(x)[0] ** 2).sum() / 2

    y, _, tape = model.forward(x)
    SGD(model, 1.0).step(model.backward(tape, y))
    gradient = before["0.weight_hh_l0"] - model.parameters["0.weight_hh_l0"]
    for index in ((0, 0), (5, 2), (11, 1)):
        moved = [before["0.weight_hh_l0"].copy() for _ in range(2)]
        moved[0][index] += 1e-6
        moved[1][index] -= 1e-6
        slope = (loss(**{"0.weight_hh_l0": moved[0]}) - loss(**{"0.weight_hh_l0": moved[1]})) / 2e-6
        assert gradient[index] == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
def test_each_parameter_of_a_small_model_is_updated(layers):
    model = Sequential(*(Linear(3, 3, seed=index) for index in range(layers)))
    before = {name: array.copy() for name, array in model.parameters.items()}
    gradients = {name: np.full_like(array, index + 1) for index, (name, array) in enumerate(before.items())}
    SGD(model, lr=0.5).step(gradients)
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(array, before[name] - np.float32(0.5) * gradients[name])
