"""Schedules against torch.optim.lr_scheduler; fit with schedules, accumulated gradients and limits."""

import copy
import functools
import pickle
import warnings

import numpy as np
import pytest
from small_runs import LENGTHS, ROWS, arrays, bits, model_of, train

from lstm_cy import SGD, Adam, AdamW, RMSprop, cross_entropy, mse, schedules
from lstm_cy.schedules import Constant, CosineWithWarmup, OneCycle, ReduceOnPlateau, StepDecay


def factors_of_pytorch(make, steps):
    """Return the learning rates of a scheduler of PyTorch for an optimizer with the rate 1."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler, found = make(torch.optim.lr_scheduler, optimizer), []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return found


def warming_up(module, optimizer, *, steps, warmup, low):
    cosine = module.CosineAnnealingLR(optimizer, steps - warmup, eta_min=low)
    if not warmup:
        return cosine
    linear = module.LinearLR(optimizer, 1 / (warmup + 1), total_iters=warmup)
    return module.SequentialLR(optimizer, [linear, cosine], [warmup])


@pytest.mark.parametrize(
    ("schedule", "theirs", "steps"),
    [
        (Constant(0.3, 5), lambda m, o: m.ConstantLR(o, 0.3, 5), 9),
        (StepDecay(3, 0.5), lambda m, o: m.StepLR(o, 3, 0.5), 13),
        (StepDecay(1), lambda m, o: m.StepLR(o, 1), 5),
        *(
            (
                CosineWithWarmup(steps, warmup=warmup, low=low),
                functools.partial(warming_up, steps=steps, warmup=warmup, low=low),
                steps + 1,
            )
            for steps, warmup, low in [(17, 5, 0.1), (17, 0, 0.0), (17, 16, 0.0), (1, 0, 0.5), (2, 1, 0.25)]
        ),
        *(
            (
                OneCycle(steps, rise=rise, anneal=anneal, start=start, end=end, three_phase=three),
                functools.partial(
                    lambda m, o, **keywords: m.OneCycleLR(o, 1.0, cycle_momentum=False, **keywords),
                    total_steps=steps,
                    pct_start=rise,
                    anneal_strategy=anneal,
                    div_factor=start,
                    final_div_factor=end,
                    three_phase=three,
                ),
                steps,
            )
            for steps, rise, anneal, start, end, three in [
                (20, 0.3, "cos", 25.0, 1e4, False),
                (33, 0.7, "linear", 4.0, 10.0, False),
                (20, 0.3, "linear", 25.0, 1e4, True),
                (17, 0.45, "cos", 3.0, 2.0, True),
                (127, 0.01, "cos", 25.0, 1e4, False),
                (2, 0.3, "cos", 25.0, 1e4, False),
            ]
        ),
    ],
)
def test_factors_equal_pytorch(schedule, theirs, steps):
    expected = factors_of_pytorch(theirs, steps)
    np.testing.assert_allclose([schedule(step, 0) for step in range(steps)], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"factor": 0.5, "patience": 0},
        {"factor": 0.5, "patience": 2, "cooldown": 3, "low": 0.1},
        {"factor": 0.3, "patience": 1, "threshold": 0.2, "threshold_mode": "abs"},
        {"factor": 0.3, "patience": 1, "threshold": 0.05, "cooldown": 1},
    ],
)
def test_reduce_on_plateau_equals_pytorch(options, seed):
    torch = pytest.importorskip("torch")
    losses = np.random.default_rng(seed).normal(size=60).cumsum() / 5 + 3
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = {"min_lr" if name == "low" else name: value for name, value in options.items()}
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **theirs, eps=0)
    schedule = ReduceOnPlateau(**options)
    for epoch, loss in enumerate(losses):
        scheduler.step(loss)
        schedule.observe(losses[: epoch + 1].tolist())
        assert schedule(1000, epoch + 1) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_losses_that_are_nan_are_no_improvement():
    schedule = ReduceOnPlateau(0.5, patience=1)
    schedule.observe([np.nan, np.nan, 1.0, np.nan])
    assert schedule(0, 0) == 0.5
    schedule.observe([])
    assert schedule(0, 0) == 1.0


def test_epochs_as_the_unit():
    assert [StepDecay(2, 0.5, unit="epoch")(99, epoch) for epoch in range(4)] == [1, 1, 0.5, 0.5]
    assert [Constant(0.5, 1, unit="epoch")(99, epoch) for epoch in range(2)] == [0.5, 1.0]
    assert OneCycle(6, unit="epoch")(0, 5) == OneCycle(6)(5, 0)
    assert CosineWithWarmup(6, unit="epoch")(0, 3) == CosineWithWarmup(6)(3, 0)


def test_the_last_factor_stays():
    assert CosineWithWarmup(5, low=0.2)(999, 0) == pytest.approx(0.2)
    assert OneCycle(5, start=4, end=5)(999, 0) == pytest.approx(0.05)
    assert OneCycle(5, rise=0.2)(0, 0) == 1.0  # a rise of no step


def test_schedules_have_read_only_arguments_copies_and_pickles():
    for schedule in (Constant(0.5), OneCycle(9, end=3), ReduceOnPlateau(patience=2)):
        for other in (copy.copy(schedule), copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
            assert other.config == schedule.config and repr(other) == repr(schedule)
            assert other(1, 1) == schedule(1, 1)
        name = next(iter(schedule.config))
        assert getattr(schedule, name) == schedule.config[name]
        with pytest.raises(AttributeError, match=name):
            setattr(schedule, name, 3)
        with pytest.raises(AttributeError, match="nothing"):
            _ = schedule.nothing


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Constant(-1), ValueError, "factor"),
        (lambda: Constant(1, -1), ValueError, "steps"),
        (lambda: Constant(unit="minute"), ValueError, "unit"),
        (lambda: StepDecay(0), ValueError, "every"),
        (lambda: StepDecay(1.5), TypeError, "every"),
        (lambda: CosineWithWarmup(5, warmup=5), ValueError, "warmup: expected less than steps = 5, got 5"),
        (lambda: CosineWithWarmup(5, low=2), ValueError, "low"),
        (lambda: OneCycle(1), ValueError, "steps: expected at least 2"),
        (lambda: OneCycle(5, rise=0), ValueError, "rise"),
        (lambda: OneCycle(5, rise=0.6, three_phase=True), ValueError, "rise: expected at most 0.5"),
        (lambda: OneCycle(5, anneal="cosine"), ValueError, "anneal"),
        (lambda: OneCycle(5, start=0.5), ValueError, "start"),
        (lambda: ReduceOnPlateau(1.0), ValueError, "factor"),
        (lambda: ReduceOnPlateau(threshold_mode="x"), ValueError, "threshold_mode"),
        (lambda: ReduceOnPlateau(patience=-1), ValueError, "patience"),
    ],
)
def test_arguments_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# in fit


def test_fit_multiplies_the_rate_of_each_step():
    calls = []

    def schedule(step, epoch):
        calls.append((step, epoch))
        return 0.5 ** len(calls)

    model, twin = model_of(), model_of()
    train(model, arrays(), optimizer=Adam(model, 0.01), batch_size=4, epochs=2, schedule=schedule)
    assert calls == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]
    optimizer = Adam(twin, 0.01)

    class Halving(Adam):
        def step(self, grads, **keywords):
            optimizer.lr = 0.01 * 0.5 ** (optimizer.steps + 1)
            optimizer.step(grads, **keywords)

    train(twin, arrays(), optimizer=Halving(twin, 0.01), batch_size=4, epochs=2)
    for name, array in model.parameters.items():
        np.testing.assert_allclose(array, twin.parameters[name], rtol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        (0.5, TypeError, "schedule: expected a function"),
        (CosineWithWarmup, TypeError, "schedule: expected a function"),
        (lambda step, epoch: -1.0, ValueError, "the result of schedule"),
        (lambda step, epoch: None, TypeError, "the result of schedule"),
        (lambda step, epoch: np.nan, ValueError, "the result of schedule"),
    ],
)
def test_schedules_refused(schedule, error, message):
    model = model_of()
    before = bits(model.parameters)
    with pytest.raises(error, match=message):
        train(model, arrays(), schedule=schedule)
    assert bits(model.parameters) == before


@pytest.mark.parametrize("make", [lambda m: SGD(m, 0.1, momentum=0.9), Adam, AdamW, lambda m: RMSprop(m, momentum=0.5)])
@pytest.mark.parametrize(
    "make_schedule",
    [
        lambda: CosineWithWarmup(20, warmup=3),
        lambda: OneCycle(24),
        lambda: StepDecay(5, 0.5),
        lambda: ReduceOnPlateau(0.5, patience=0, threshold=0.5),
        lambda: lambda step, epoch: 1 / (1 + step),
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_a_training_resumes_bit_for_bit(make, make_schedule, same, tmp_path):
    path, kept = tmp_path / "run.npz", make_schedule()

    def run(epochs, **options):
        model = model_of(dropout=0.2, dtype="float32")
        optimizer = make(model)
        history = train(
            model,
            (*arrays(), LENGTHS),
            optimizer=optimizer,
            epochs=epochs,
            batch_size=3,
            bptt=4,
            schedule=kept if same else make_schedule(),
            accumulate=2,
            clip_value=0.05,
            clip_norm=0.1,
            validation=arrays(rows=3, seed=1),
            **options,
        )
        return bits(model.parameters), bits(optimizer.state_dict()), history.loss, history.validation

    whole = run(6)
    run(3, checkpoint=path)
    assert run(6, checkpoint=path, resume=True) == whole


def test_a_checkpoint_refuses_other_options(tmp_path):
    path = tmp_path / "run.npz"

    def run(**options):
        train(model_of(), arrays(), checkpoint=path, resume=True, **options)

    run(schedule=OneCycle(9), accumulate=2, clip_value=0.5)
    for change, message in [
        ({"schedule": OneCycle(8)}, "schedule.steps"),
        ({"schedule": StepDecay(8)}, "schedule.type"),
        ({"schedule": None}, "schedule"),
        ({"accumulate": 3}, "accumulate"),
        ({"accumulate": 1}, "accumulate"),
        ({"clip_value": None}, "clip_value"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(**({"schedule": OneCycle(9), "accumulate": 2, "clip_value": 0.5} | change))


def test_a_plateau_of_the_validation_lowers_the_rate():
    factors = []

    class Observed(ReduceOnPlateau):
        def __call__(self, step, epoch):
            factors.append(super().__call__(step, epoch))
            return factors[-1]

    losses = iter([3.0, 2.0, 2.5, 2.5, 2.5, 1.0])

    def loss(prediction, target):
        value, gradient = mse(prediction, target)
        return (next(losses) if target.shape[1] == 1 else value), gradient

    schedule = Observed(0.5, patience=1)
    train(model_of(), arrays(), loss=loss, epochs=6, validation=arrays(rows=1), batch_size=ROWS, schedule=schedule)
    assert factors == [1, 1, 1, 1, 0.5, 0.5]


@pytest.mark.parametrize("lengths", [False, True])
def test_accumulated_batches_equal_a_large_batch(lengths):
    data = (*arrays(), np.maximum(LENGTHS, 1)) if lengths else arrays()
    results = []
    for batch_size, accumulate in [(8, 1), (2, 4), (4, 2), (1, 8)]:
        model = model_of()
        history = train(model, data, optimizer=SGD(model, 0.5), batch_size=batch_size, accumulate=accumulate, epochs=2)
        results.append((model.parameters, history.loss))
    for parameters, losses in results[1:]:
        np.testing.assert_allclose(losses, results[0][1], rtol=1e-12)
        for name, array in parameters.items():
            np.testing.assert_allclose(array, results[0][0][name], rtol=0, atol=1e-12)


def test_accumulated_windows_make_fewer_steps():
    model = model_of()
    optimizer = Adam(model)
    train(model, arrays(), optimizer=optimizer, batch_size=5, bptt=3, accumulate=4, epochs=1)  # 2 batches of 3 windows
    assert optimizer.steps == 2
    with pytest.raises(ValueError, match="accumulate"):
        train(model, arrays(), accumulate=0)


def test_accumulation_weights_batches_by_what_they_count():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 10, 2)), rng.integers(0, 3, (7, 10))
    y[rng.random(y.shape) < 0.6] = -100
    results = []
    for batch_size, accumulate in [(10, 1), (3, 4)]:
        model = model_of()
        train(
            model, (x, y), loss=cross_entropy, optimizer=SGD(model, 1.0), batch_size=batch_size, accumulate=accumulate
        )
        results.append(model.parameters)
    for name, array in results[0].items():
        np.testing.assert_allclose(array, results[1][name], rtol=0, atol=1e-12)


def test_clip_value_limits_each_number():
    model = model_of()
    before = model.parameters
    train(model, arrays(), optimizer=SGD(model, 1.0), batch_size=ROWS, clip_value=1e-4)
    for name, array in model.parameters.items():
        assert np.abs(array - before[name]).max() <= 1e-4 * (1 + 1e-9)
        assert array.any()
    for bad in (0.0, -1, np.nan):
        with pytest.raises(ValueError, match="clip_value"):
            train(model, arrays(), clip_value=bad)


def test_callbacks_receive_model_and_optimizer_by_name():
    seen, model = [], model_of()
    optimizer = Adam(model)

    class Callback:
        def __call__(self, history, *, model):
            seen.append(("class", model))

    def both(history, optimizer, model=None):
        seen.append((optimizer, model))

    def others(history, *arguments, **keywords):
        seen.append((arguments, keywords))

    train(model, arrays(), optimizer=optimizer, callbacks=[Callback(), both, others, lambda model: seen.append(model)])
    assert seen[0] == ("class", model) and seen[1] == (optimizer, model)
    assert seen[2] == ((), {}) and len(seen[3].loss) == 1  # the first argument is the history, whatever its name


def test_public_names():
    import lstm_cy

    assert lstm_cy.schedules is schedules
    assert set(schedules.__all__) <= set(dir(schedules))
