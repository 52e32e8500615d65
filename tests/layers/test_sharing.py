"""A layer that occurs several times in a model: one set of parameters, the sum of all gradients, a state for each."""

import copy
import pickle

import numpy as np
import pytest

from lstm_cy import (
    LSTM,
    SGD,
    Adam,
    Dropout,
    Linear,
    Seq2Seq,
    Sequential,
    StreamPool,
    clip_grad_norm,
    fit,
    load,
    mse,
    save,
)
from lstm_cy.weights import native


def shared_model(**options):
    lstm = LSTM(3, 3, seed=0, dtype="float64", **options)
    linear = Linear(3, 3, seed=1, dtype="float64")
    return Sequential(lstm, linear, lstm, Dropout(0.0), linear)


def unshared_model():
    """Return a model with the same weights, in which every layer has its own copy."""
    shared = shared_model()
    return Sequential(*(copy.deepcopy(layer) for layer in shared.layers))


X = np.random.default_rng(0).standard_normal((5, 2, 3))
DY = np.random.default_rng(1).standard_normal((5, 2, 3))


def both_gradients(model):
    _, _, tape = model.forward(X)
    return model.backward(tape, DY).parameters


def test_parameters_exist_once_under_the_name_of_the_first_use():
    model = shared_model()
    assert {name.partition(".")[0] for name in model.parameters} == {"0", "1"}
    assert model.parameters.keys() == model.state_dict().keys() == model.stored().keys()
    assert model.config["layers"][2:] == [
        {"type": "Shared", "layer": 0},
        {"type": "Dropout", "p": 0.0},
        {"type": "Shared", "layer": 1},
    ]
    assert np.array_equal(model(X)[0], unshared_model()(X)[0])


def test_gradients_are_the_sum_over_all_uses():
    found, each = both_gradients(shared_model()), both_gradients(unshared_model())
    assert found.keys() == shared_model().parameters.keys()
    for name, array in found.items():
        place, _, parameter = name.partition(".")
        other = {"0": "2", "1": "4"}[place]
        assert np.abs(array - (each[name] + each[f"{other}.{parameter}"])).max() < 1e-12


def test_gradients_equal_finite_differences():
    model = shared_model()
    found, saved = both_gradients(model), model.state_dict()
    for name, array in found.items():
        losses = []
        for change in (1e-6, -1e-6):
            changed = {key: value.copy() for key, value in saved.items()}
            changed[name].flat[0] += change
            model.load_state_dict(changed)
            losses.append((model(X)[0] * DY).sum())
        assert abs((losses[0] - losses[1]) / 2e-6 - array.flat[0]) < 1e-8


@pytest.mark.parametrize("make", (lambda model: SGD(model, 0.5), Adam))
def test_an_optimizer_takes_one_step_for_each_parameter(make):
    model = shared_model()
    before, gradients = model.state_dict(), both_gradients(model)
    norm = np.sqrt(sum((array**2).sum() for array in gradients.values()))
    assert np.isclose(clip_grad_norm(gradients, np.inf), norm, rtol=1e-12)
    optimizer = make(model)
    optimizer.step(gradients)
    assert model.layers[0] is model.layers[2]
    if isinstance(optimizer, SGD):
        for name, array in gradients.items():
            assert np.allclose(before[name] - model.parameters[name], 0.5 * array, rtol=0, atol=1e-12)


def test_fit_trains_a_shared_layer():
    lstm = LSTM(2, 2, seed=0)
    model = Sequential(lstm, lstm)
    x = np.random.default_rng(0).standard_normal((6, 8, 2))
    y = 0.5 * np.tanh(x.cumsum(axis=0))
    history = fit(model, (x, y), loss=mse, optimizer=Adam(model, 0.02), epochs=60, progress=False)
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert model.layers[0] is model.layers[1] is lstm


def test_steppers_and_pools_keep_a_state_for_each_use():
    model = shared_model()
    y, states = model(X)
    stepper, pool = model.stepper(2), StreamPool(model)
    ids = [pool.join(), pool.join()]
    for step, expected in zip(X, y, strict=True):
        assert np.allclose(stepper.step(step), expected, rtol=0, atol=1e-12)
        assert np.allclose(pool.step(ids, step), expected, rtol=0, atol=1e-12)
    again = pickle.loads(pickle.dumps(stepper))
    for held in (stepper.state, again.state, copy.copy(stepper).state):
        for (h, c), (h_n, c_n) in zip(held, states, strict=True):
            assert np.allclose(h, h_n, rtol=0, atol=1e-12)
            assert np.allclose(c, c_n, rtol=0, atol=1e-12)
    assert not np.allclose(states[0][0], states[1][0])
    weights = sum(array.nbytes for array in model.parameters.values())
    big = LSTM(64, 64, seed=0)
    once, twice = (len(pickle.dumps(Sequential(*layers).stepper())) for layers in ((big,), (big, big)))
    assert weights < once
    assert twice < 1.1 * once


def test_a_stepper_keeps_its_weights():
    model = shared_model()
    stepper, expected = model.stepper(2), model(X[:1])[0][0]
    model.load_state_dict({name: array + 1 for name, array in model.parameters.items()})
    assert np.allclose(stepper.step(X[0]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "again",
    (copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), lambda m: copy.copy(copy.copy(m))),
)
def test_copies_keep_the_sharing_and_are_independent(again):
    model = shared_model()
    other, before = again(model), model(X)[0]
    assert other.layers[0] is other.layers[2] is not model.layers[0]
    assert other.config == model.config
    assert np.array_equal(other(X)[0], before)
    other.load_state_dict({name: array + 1 for name, array in other.parameters.items()})
    assert np.array_equal(model(X)[0], before)
    changed = other(X)[0]
    assert not np.array_equal(changed, before)
    model.load_state_dict({name: array - 1 for name, array in model.parameters.items()})
    assert np.array_equal(other(X)[0], changed)


@pytest.mark.parametrize(
    "make",
    (
        lambda: Sequential(LSTM(2, 3, seed=0), Linear(3, 2, seed=1)),
        lambda: Seq2Seq(5, embedding_dim=2, hidden_size=4, seed=0),
    ),
)
def test_a_shallow_copy_of_any_model_has_its_own_parameters(make):
    model = make()
    before = {name: array.copy() for name, array in model.parameters.items()}
    one = copy.copy(model)
    two = copy.copy(one)
    for name, array in two.parameters.items():  # until then they are the same arrays
        assert np.shares_memory(array, model.parameters[name])
    for other in (one, two):
        other.load_state_dict({name: array + 1 for name, array in other.parameters.items()})
    two.load_state_dict({name: array + 1 for name, array in two.parameters.items()})
    for name, array in before.items():
        assert np.array_equal(model.parameters[name], array)
        assert np.array_equal(one.parameters[name], array + 1)
        assert np.array_equal(two.parameters[name], array + 1 + 1)


def test_a_copy_of_a_narrow_model_has_its_own_layers():
    model = Sequential(LSTM(2, 3, seed=0), Linear(3, 2, seed=1)).quantize("int8")
    other = copy.copy(model)
    assert other.layers[0] is not model.layers[0]
    assert other.report == model.report
    x = np.ones((4, 2), "f4")
    assert np.array_equal(other(x)[0], model(x)[0])


def test_quantize_keeps_the_sharing_and_measures_each_use():
    lstm = LSTM(3, 3, seed=0)
    model = Sequential(lstm, Dropout(), lstm)
    narrow = model.quantize("int8", sample=X)
    assert narrow.layers[0] is narrow.layers[2]
    assert narrow.config["layers"][2] == {"type": "Shared", "layer": 0}
    assert narrow.report.keys() == {0, 2}
    assert narrow.report[0]["layers"] != narrow.report[2]["layers"]


def test_trace_finds_each_use():
    model = shared_model()
    _, states = model(X)
    for layer, (h_n, _) in enumerate(states):
        assert np.array_equal(model.trace(X, layer=layer).hidden[-1], h_n[-1])


@pytest.mark.parametrize("suffix", (".npz", ".safetensors"))
def test_files_keep_the_sharing(tmp_path, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    model = shared_model()
    save(model, tmp_path / f"model{suffix}")
    again = load(tmp_path / f"model{suffix}")
    assert again.layers[0] is again.layers[2]
    assert again.config == model.config
    assert np.array_equal(again(X)[0], model(X)[0])


@pytest.mark.parametrize("layer", (1, -1, True, "0", 0.0, None))
def test_a_file_that_shares_a_missing_layer_is_refused(layer):
    config = {"type": "Sequential", "layers": [{"type": "Dropout"}, {"type": "Shared", "layer": layer}]}
    with pytest.raises((TypeError, ValueError), match="Shared: layer: expected"):
        native.build(config)


@pytest.mark.parametrize("config", ({"type": "Shared"}, {"type": "Shared", "layer": 0, "also": 1}))
def test_a_shared_layer_has_a_number_and_nothing_else(config):
    with pytest.raises(ValueError, match="Shared: expected the number of a layer and nothing else"):
        native.build({"type": "Sequential", "layers": [{"type": "Dropout"}, config]})


def test_loading_names_unknown_tensors():
    model = shared_model()
    state = model.state_dict()
    with pytest.raises(KeyError, match=r"unknown: 2\.bias_ih_l0"):
        model.load_state_dict({**state, "2.bias_ih_l0": state["0.bias_ih_l0"]})
