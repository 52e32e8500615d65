"""Parameter groups, frozen parameters and decay without biases, against torch.optim with the same groups."""

from fnmatch import fnmatch

import numpy as np
import pytest
from small_runs import arrays, bits, train

from lstm_cy import (
    LSTM,
    SGD,
    Adam,
    AdamW,
    Conv1D,
    Embedding,
    Layer,
    Linear,
    Residual,
    RMSprop,
    Sequential,
    clip_grad_norm,
    config,
    fit,
    load,
    mse,
    optimizers,
    save,
)
from lstm_cy.layers.base import Gradients, Steps

NAMES = ["0.weight", "1.weight_ih_l0", "1.weight_hh_l0", "1.bias_ih_l0", "1.bias_hh_l0", "2.weight", "2.bias"]
KINDS = {
    "SGD": (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, {"momentum": 0.5, "nesterov": True}),
    "plain SGD": (SGD, {"lr": 0.1}, {"momentum": 0.5}),
    "Adam": (Adam, {"lr": 0.05, "weight_decay": 0.1}, {"betas": (0.5, 0.7), "eps": 0.1}),
    "AdamW": (AdamW, {"lr": 0.05, "weight_decay": 0.1}, {"betas": (0.5, 0.7)}),
    "RMSprop": (RMSprop, {"lr": 0.05, "weight_decay": 0.1}, {"alpha": 0.5, "centered": True, "momentum": 0.7}),
}


def model_of(dtype="float64", **options):
    return Sequential(
        Embedding(7, 3, dtype=dtype, seed=0, **options),
        LSTM(3, 4, dtype=dtype, seed=1),
        Linear(4, 2, dtype=dtype, seed=2),
    )


def gradients_of(model, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=a.shape).astype(a.dtype) for name, a in model.parameters.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grouped", [0, 1000])
def test_groups_equal_those_of_pytorch(kind, grouped, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(optimizers, "_GROUPED", grouped)
    make, options, others = KINDS[kind]
    model = model_of()
    groups = [{"parameters": "2.*", "lr": 0.02, **others}, {"parameters": ["*.bias*", "2.*"], "weight_decay": 0.0}]
    ours = make(model, **options, groups=groups, frozen=["1.weight_?h_l0"])
    theirs = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in model.parameters.items()}
    members = [["0.weight"], ["2.weight", "2.bias"], ["1.bias_ih_l0", "1.bias_hh_l0"]]
    settings = [{}, {"lr": 0.02, **others}, {"weight_decay": 0.0}]
    assert ours.trained == tuple(name for name in NAMES if "weight_hh" not in name and "weight_ih" not in name)
    theirs_optimizer = getattr(torch.optim, make.__name__)(
        [{"params": [theirs[name] for name in its], **own} for its, own in zip(members, settings, strict=True)],
        **options,
    )
    before = model.parameters
    for step in range(20):
        grads = gradients_of(model, step)
        for name in ours.trained:
            theirs[name].grad = torch.tensor(grads[name])
        factor = 0.5 if step > 10 else 1.0
        for group in theirs_optimizer.param_groups:
            if step == 11:
                group["lr"] *= factor
        theirs_optimizer.step()
        ours.step(grads, factor=factor)
    for name, array in model.parameters.items():
        np.testing.assert_allclose(array, theirs[name].detach().numpy(), rtol=1e-12, atol=1e-12)
    for name in ("1.weight_ih_l0", "1.weight_hh_l0"):
        assert model.parameters[name] is before[name]


@pytest.mark.parametrize("kind", [Adam, AdamW, RMSprop])
def test_decay_without_biases_equals_groups(kind):
    models = model_of(), model_of()
    matrices = [name for name in NAMES if "bias" not in name]
    ours = kind(models[0], 0.1, weight_decay=0.5, decay_biases=False)
    theirs = kind(models[1], 0.1, weight_decay=0.0, groups=[{"parameters": matrices, "weight_decay": 0.5}])
    for step in range(3):
        for model, optimizer in zip(models, (ours, theirs), strict=True):
            optimizer.step(gradients_of(model, step))
    assert bits(models[0].parameters) == bits(models[1].parameters)


def test_a_group_may_choose_to_decay_biases():
    model = model_of()
    groups = [{"parameters": "2.*", "decay_biases": True}]
    before = model.parameters
    SGD(model, 0.5, weight_decay=0.5, decay_biases=False, groups=groups).step(
        {name: np.zeros_like(array) for name, array in before.items()}
    )
    for name, array in model.parameters.items():
        decays = "bias" not in name or name.startswith("2.")
        np.testing.assert_allclose(array, before[name] * (0.75 if decays else 1), rtol=1e-15)


def test_the_first_match_counts_and_frozen_comes_first():
    model = model_of()
    groups = [{"parameters": "1.*", "lr": 0.0}, {"parameters": "*", "lr": 1.0}]
    optimizer = SGD(model, 0.5, groups=groups, frozen="2.bias")
    before, grads = model.parameters, gradients_of(model, 0)
    optimizer.step(grads)
    for name, array in model.parameters.items():
        rate = 0.0 if name.startswith("1.") or name == "2.bias" else 1.0
        np.testing.assert_array_equal(array, before[name] - rate * grads[name])
    optimizer.lr = 7.0  # every group has a rate of its own
    before = model.parameters
    optimizer.step({name: np.zeros_like(array) for name, array in before.items()})
    assert bits(model.parameters) == bits(before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"frozen": "3.*"},
            ValueError,
            r"frozen: expected patterns that match .* got '3\.\*', which matches none of 0\.",
        ),
        ({"frozen": ["0.*", "x"]}, ValueError, "frozen: .* got 'x'"),
        ({"frozen": "*"}, ValueError, "frozen: expected patterns that leave a parameter to train"),
        ({"frozen": 3}, TypeError, "frozen: expected a pattern"),
        ({"frozen": [3]}, TypeError, "frozen: expected a pattern"),
        ({"groups": {"parameters": "0.*"}}, TypeError, "groups: expected a list of dicts"),
        ({"groups": ["0.*"]}, TypeError, r"groups\[0\]: expected a dict"),
        ({"groups": [{"lr": 1.0}]}, ValueError, r"groups\[0\]: expected 'parameters'"),
        (
            {"groups": [{"parameters": "0.*"}, {"parameters": "y*"}]},
            ValueError,
            r"groups\[1\]\['parameters'\]: .*'y\*'",
        ),
        ({"groups": [{"parameters": None}]}, TypeError, r"groups\[0\]\['parameters'\]: expected a pattern"),
        ({"groups": [{"parameters": "0.*", "momentum": 0.5}]}, ValueError, r"groups\[0\]: expected options among lr"),
        ({"groups": [{"parameters": "0.*", "lr": -1}]}, ValueError, r"groups\[0\]: lr: expected"),
        ({"groups": [{"parameters": "0.*", "betas": 0.9}]}, TypeError, r"groups\[0\]: betas: expected two"),
        ({"groups": [{"parameters": "0.*", "decay_biases": 1}]}, TypeError, r"groups\[0\]: decay_biases"),
        ({"decay_biases": None}, TypeError, "decay_biases"),
    ],
)
def test_groups_refused(options, error, message):
    with pytest.raises(error, match=message):
        Adam(model_of(), **options)


def test_config_and_repr_have_what_was_given():
    model = model_of()
    assert set(Adam(model).config) == {"lr", "betas", "eps", "weight_decay"}
    groups = [{"parameters": "0.*", "lr": 1}]
    optimizer = Adam(model, groups=groups, frozen="2.bias", decay_biases=False)
    assert optimizer.config["groups"] == [{"parameters": ["0.*"], "lr": 1.0}]
    assert optimizer.config["frozen"] == ["2.bias"]
    assert optimizer.config["decay_biases"] is False
    assert "frozen=['2.bias']" in repr(optimizer)
    groups[0]["lr"] = 2
    assert optimizer.config["groups"] == [{"parameters": ["0.*"], "lr": 1.0}]


def test_frozen_parameters_have_no_state_and_their_gradients_are_ignored():
    model = model_of()
    optimizer = Adam(model, frozen="1.*")
    assert {name.partition(".")[2] for name in optimizer.state_dict() if "." in name} == {
        "0.weight",
        "2.weight",
        "2.bias",
    }
    grads = gradients_of(model, 0)
    grads["1.weight_hh_l0"][...] = np.nan
    grads["1.bias_ih_l0"] = "no array"
    optimizer.step(grads)
    optimizer.step({name: array for name, array in gradients_of(model, 1).items() if not name.startswith("1.")})
    with pytest.raises(ValueError, match="missing: 2.bias"):
        optimizer.step({"0.weight": grads["0.weight"], "2.weight": grads["2.weight"]})
    with pytest.raises(TypeError, match="grads: expected a mapping"):
        optimizer.step(None)
    assert optimizer.steps == 2


def test_the_norm_in_fit_counts_trained_parameters_only():
    def run(**options):
        model = Sequential(LSTM(2, 4, dtype="float64", seed=1), Linear(4, 3, dtype="float64", seed=2))
        optimizer = SGD(model, 1.0, frozen="0.*")
        before = model.parameters
        train(model, arrays(), optimizer=optimizer, batch_size=100, seed=2, **options)
        return {name: before[name] - array for name, array in model.parameters.items() if name.startswith("1.")}

    whole, clipped = run(), run(clip_norm=1e-3)
    norm = clip_grad_norm(whole, np.inf)
    for name, array in clipped.items():
        np.testing.assert_allclose(array, whole[name] * (1e-3 / norm), rtol=1e-7)


def test_a_shared_layer_counts_once():
    shared = Linear(3, 3, dtype="float64", seed=1)
    model = Sequential(shared, shared)
    before = model.parameters
    grads = {name: np.ones_like(array) for name, array in before.items()}
    assert clip_grad_norm(grads, np.inf) == 12**0.5
    AdamW(model, 0.5, weight_decay=0.5).step({name: np.zeros_like(array) for name, array in before.items()})
    np.testing.assert_allclose(model.parameters["0.weight"], before["0.weight"] * 0.75)


# layers that are frozen


def test_a_frozen_embedding_is_not_trained(tmp_path):
    model = model_of(frozen=True)
    tokens = np.random.default_rng(0).integers(0, 7, (5, 4))
    y, _, tape = model.forward(tokens)
    grads = model.backward(tape, y)
    assert "0.weight" not in grads.parameters
    assert model.frozen_parameters == ["0.weight"]
    optimizer = AdamW(model, 0.1, weight_decay=0.5)
    assert optimizer.trained == tuple(NAMES[1:])
    before = model.parameters
    optimizer.step(grads)
    assert model.parameters["0.weight"] is before["0.weight"]
    assert not np.array_equal(model.parameters["2.weight"], before["2.weight"])
    save(model, tmp_path / "model.npz")
    assert load(tmp_path / "model.npz").frozen_parameters == ["0.weight"]
    assert Adam(model_of(frozen=True), frozen="0.*").trained == optimizer.trained
    with pytest.raises(AttributeError, match="read-only"):
        model.layers[0].frozen = False


def test_a_layer_of_ones_own_may_freeze_parameters():
    class Scale(Layer):
        frozen_parameters = ("factor",)

        def __init__(self):
            super().__init__({"factor": np.full(3, 2.0), "offset": np.zeros(3)})

        def __call__(self, x):
            return x * self.parameters["factor"] + self.parameters["offset"]

        def forward(self, x, rng=None):
            return self(x), None

        def backward(self, tape, dy):
            return Gradients(dy * 2, None, {"offset": dy.sum((0, 1))})

    model = Sequential(LSTM(2, 3, dtype="float64", seed=0), Scale())
    train(model, arrays(), epochs=2)
    np.testing.assert_array_equal(model.parameters["1.factor"], 2.0)
    assert model.parameters["1.offset"].all()


@pytest.mark.parametrize("index", [0, 3, -1])
def test_padding_idx_equals_pytorch(index):
    torch = pytest.importorskip("torch")
    ours = Embedding(5, 3, padding_idx=index, dtype="float64", seed=0)
    theirs = torch.nn.Embedding(5, 3, padding_idx=index, dtype=torch.float64)
    assert ours.padding_idx == theirs.padding_idx
    assert not ours.parameters["weight"][index].any()
    assert np.count_nonzero(ours.parameters["weight"]) == 12
    theirs.load_state_dict({"weight": torch.tensor(ours.parameters["weight"])})
    tokens = np.array([[0, 3, 4], [1, 1, 3]])
    y, tape = ours.forward(tokens)
    dy = np.random.default_rng(1).normal(size=y.shape)
    theirs(torch.tensor(tokens)).backward(torch.tensor(dy))
    gradient = ours.backward(tape, dy).parameters["weight"]
    np.testing.assert_allclose(gradient, theirs.weight.grad.numpy(), rtol=1e-15)
    assert not gradient[index].any()


@pytest.mark.parametrize(
    ("options", "error"),
    [({"padding_idx": 5}, ValueError), ({"padding_idx": -6}, ValueError), ({"padding_idx": 1.0}, TypeError)],
)
def test_padding_idx_refused(options, error):
    with pytest.raises(error, match="padding_idx"):
        Embedding(5, 3, **options)
    with pytest.raises(TypeError, match="frozen"):
        Embedding(5, 3, frozen=1)


def test_from_torch_keeps_the_padding_token():
    torch = pytest.importorskip("torch")
    from lstm_cy import from_torch

    module = torch.nn.Sequential(torch.nn.Embedding(5, 3, padding_idx=2), torch.nn.LSTM(3, 4))
    assert from_torch(module).layers[0].padding_idx == 2


def test_fit_resumes_with_groups_and_refuses_others(tmp_path):
    path = tmp_path / "run.npz"

    def run(epochs, groups=({"parameters": "1.*", "lr": 0.1, "betas": (0.5, 0.9)},), frozen="0.bias*", **options):
        model = Sequential(LSTM(2, 4, seed=1), Linear(4, 3, seed=2))
        optimizer = AdamW(model, 0.01, groups=groups, frozen=frozen)
        train(model, arrays(), optimizer=optimizer, epochs=epochs, batch_size=3, loss=mse, **options)
        return bits(model.parameters), bits(optimizer.state_dict())

    whole = run(4)
    run(2, checkpoint=path)
    assert run(4, checkpoint=path, resume=True) == whole
    with pytest.raises(ValueError, match="optimizer.frozen"):
        run(4, frozen=(), checkpoint=path, resume=True)
    with pytest.raises(ValueError, match=r"optimizer.groups\[0\].lr"):
        run(4, groups=[{"parameters": "1.*", "lr": 0.2, "betas": (0.5, 0.9)}], checkpoint=path, resume=True)


def count_calls(monkeypatch, kind, method, note):
    """Call `note` with the layer before each call of its method."""
    actual = getattr(kind, method)

    def counted(self, *given):
        note(self)
        return actual(self, *given)

    monkeypatch.setattr(kind, method, counted)


@pytest.mark.parametrize(
    ("frozen", "run"),
    [("", "3210"), ("0.*", "321"), (["0.*", "1.*", "2.weight"], "32"), (["[012].*", "3.weight"], "3")],
)
def test_layers_before_the_first_trained_one_are_not_run_backward(frozen, run, monkeypatch):
    layers = (
        LSTM(2, 4, 2, bidirectional=True, dtype="float64", seed=0),
        LSTM(8, 4, dtype="float64", seed=1),
        Linear(4, 4, dtype="float64", seed=2),
        Linear(4, 3, dtype="float64", seed=3),
    )
    model = Sequential(*layers)
    x, y = arrays()
    out, _, tape = model.forward(x)
    optimizer = Adam(model, 0.1, frozen=frozen or ())
    every = model.backward(tape, np.ones_like(out)).parameters
    calls = []
    for kind, method in ((LSTM, "_propagated"), (Linear, "_propagated")):
        count_calls(monkeypatch, kind, method, lambda layer: calls.append(str(layers.index(layer))))
    some = model.parameter_gradients(tape, np.ones_like(out), optimizer.trained)
    assert "".join(calls) == run
    assert bits(some) == bits({name: every[name] for name in optimizer.trained})
    before = model.parameters
    calls.clear()
    fit(model, (x, y), loss=mse, optimizer=optimizer, epochs=1, batch_size=100, progress=False)
    assert "".join(calls) == run
    assert [name for name, array in model.parameters.items() if array is not before[name]] == list(optimizer.trained)
    with pytest.raises(RuntimeError, match="the parameters have changed"):
        model.parameter_gradients(tape, np.ones_like(out), optimizer.trained)


@pytest.mark.parametrize("engine", ["packed", "blas"])
@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 2, "bidirectional": True, "weight_drop": 0.3},
        {"proj_size": 3, "learn_initial_state": True},
        {"peepholes": True, "layer_norm": True},
        {"bias": False},
    ],
)
def test_gradients_of_weights_that_are_not_trained_are_not_computed(options, engine):
    with config.using(engine=engine):
        lstm = LSTM(5, 7, dtype="float64", seed=0, **options)
        between = Linear(5, 5, dtype="float64", seed=2), Conv1D(5, 5, 3, dtype="float64", seed=3)
        model = Sequential(
            LSTM(4, 5, dtype="float64", seed=1), *between, lstm, LSTM(lstm.output_size, 2, seed=4, dtype="float64")
        )
    out, _, tape = model.forward(np.random.default_rng(0).standard_normal((9, 3, 4)), rng=1)
    dy = np.random.default_rng(1).standard_normal(out.shape)
    every = model.backward(tape, dy).parameters
    for name in every:
        names = ["0.bias_ih_l0", name]
        some = model.parameter_gradients(tape, dy, names)
        assert bits(some) == bits({each: every[each] for each in names})
    for layer in model.layers:
        x = np.random.default_rng(2).standard_normal((4, 2, layer.parameters[next(iter(layer.parameters))].shape[1]))
        y, _, tape = layer.run_forward(x, [None] * layer.num_states, Steps(), 1)
        every = layer.run_backward(tape, y, [None] * layer.num_states)
        initial = {name for name in every.parameters if name.startswith("initial_")}
        for names in ([], *([name] for name in every.parameters)):
            found = layer.partial_backward(tape, y, names)
            assert set(found.parameters) - initial == set(names) - initial
            assert found.x.tobytes() == every.x.tobytes()


@pytest.mark.parametrize(
    ("trained", "run"),
    [
        (["2.*"], [(4, ["bias", "weight"])]),
        (["1.1.1.bias"], [(4, []), (3, ["bias"])]),
        (["1.1.0.bias_hh_l0"], [(4, []), (3, []), (2, ["bias_hh_l0"])]),
        (["1.0.weight_ih_l0", "2.bias"], [(4, ["bias"]), (3, []), (2, []), (1, ["weight_ih_l0"])]),
        (["0.*"], [(4, []), (3, []), (2, []), (1, []), (0, ["bias", "weight"])]),
    ],
)
@pytest.mark.parametrize("lengths", [None, [4, 6, 1]])
def test_frozen_layers_inside_a_residual_are_left_out(trained, run, lengths, monkeypatch):
    options = {"dtype": "float64"}
    layers = [Linear(2, 5, seed=0, **options), LSTM(5, 4, seed=1, bias=True, batch_first=True, **options)]
    layers += [LSTM(4, 4, seed=2, batch_first=True, **options), Linear(4, 3, seed=3, **options)]
    layers += [Linear(3, 3, seed=4, **options)]
    model = Sequential(layers[0], Residual(layers[1], Residual(*layers[2:4])), layers[4])
    x = np.random.default_rng(0).standard_normal((3, 6, 2))
    out, _, tape = model.forward(x, lengths=lengths)
    dy = np.random.default_rng(1).standard_normal(out.shape)
    every = model.backward(tape, dy).parameters
    optimizer = Adam(model, 0.1, frozen=[name for name in every if not any(fnmatch(name, one) for one in trained)])
    calls = []
    for kind in (LSTM, Linear):

        def noted(self, *given, actual=kind._propagated):
            gradients = actual(self, *given)
            calls.append((layers.index(self), sorted(gradients.parameters)))
            return gradients

        monkeypatch.setattr(kind, "_propagated", noted)
    some = model.parameter_gradients(tape, dy, optimizer.trained)
    assert calls == run
    assert bits(some) == bits({name: every[name] for name in optimizer.trained})
    calls.clear()
    before = model.parameters
    data = (x, np.ones_like(out)) if lengths is None else (x, np.ones_like(out), lengths)
    fit(model, data, loss=mse, optimizer=optimizer, epochs=1, batch_size=100, progress=False)
    assert calls == run
    assert [name for name, array in model.parameters.items() if array is not before[name]] == list(optimizer.trained)


def test_a_residual_alone_with_frozen_parameters():
    model = Residual(LSTM(3, 4, 2, dtype="float64", seed=0), Linear(4, 2, dtype="float64", seed=1))
    out, _, tape = model.forward(np.random.default_rng(0).standard_normal((5, 3, 3)))
    every = model.backward(tape, out)
    for names in (["0.weight_hh_l1"], ["1.bias"], [*every.parameters], []):
        found = model.parameter_gradients(tape, out, names)
        assert bits(found) == bits({name: every.parameters[name] for name in names})
        partial = model.partial_backward(tape, out, names)
        assert partial.x.tobytes() == every.x.tobytes()
        assert set(partial.parameters) == set(names)


def test_gradients_of_some_parameters_of_shared_and_tied_layers():
    embedding, shared = Embedding(7, 4, dtype="float64", seed=0), LSTM(4, 4, dtype="float64", seed=1)
    between = Linear(4, 4, dtype="float64", seed=2)
    tied = Linear(4, 7, tied=embedding, dtype="float64", seed=3)
    model = Sequential(embedding, shared, between, shared, tied)
    out, _, tape = model.forward(np.random.default_rng(0).integers(7, size=(5, 3)))
    every = model.backward(tape, np.ones_like(out)).parameters
    for names in (["0.weight"], ["1.bias_hh_l0"], ["2.weight"], ["4.bias"], [*every], []):
        some = model.parameter_gradients(tape, np.ones_like(out), names)
        assert bits(some) == bits({name: every[name] for name in names})
    lstm = LSTM(2, 3, dtype="float64", seed=0)
    out, _, tape = lstm.forward(np.ones((4, 2, 2)))
    every = lstm.backward(tape, out).parameters
    assert bits(lstm.parameter_gradients(tape, out, list(every))) == bits(every)


def test_a_backward_of_ones_own_is_called_by_fit():
    class Doubled(Sequential):
        def backward(self, tape, dy, dstates=None):
            gradients = super().backward(tape, dy, dstates)
            return gradients._replace(parameters={name: 2 * array for name, array in gradients.parameters.items()})

    def moved(kind):
        model = kind(LSTM(2, 4, dtype="float64", seed=1), Linear(4, 3, dtype="float64", seed=2))
        before = model.parameters
        fit(model, arrays(), loss=mse, optimizer=SGD(model, 0.5), epochs=1, batch_size=100, progress=False)
        return {name: array - before[name] for name, array in model.parameters.items()}

    plain, doubled = moved(Sequential), moved(Doubled)
    for name, array in doubled.items():
        np.testing.assert_allclose(array, 2 * plain[name], rtol=1e-9)
