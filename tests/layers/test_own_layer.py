"""Layers of the user's own, derived from Layer, work wherever the library's do."""

import copy
import pickle

import numpy as np
import pytest

from lstm_cy import LSTM, SGD, Adam, Dropout, Gradients, Layer, Linear, Sequential, StreamPool, fit, load, mse, save


class Scale(Layer):
    """Multiply each feature by a learned factor."""

    def __init__(self, features):
        super().__init__({"factor": np.linspace(0.5, 2, features)}, {"features": features})

    def __call__(self, x):
        return self.forward(x)[0]

    def forward(self, x, rng=None):
        x, factor = np.asarray(x, self.dtype), self.parameters["factor"]
        return x * factor, (x, factor)

    def backward(self, tape, dy):
        x, factor = tape
        return Gradients(dy * factor, None, {"factor": (dy * x).reshape(-1, len(factor)).sum(axis=0)})

    def stage(self):
        linear = Linear(self.features, self.features, bias=False, dtype=self.dtype)
        linear.load_state_dict({"weight": np.diag(self.parameters["factor"])})
        return linear.stage()


class Drawing(Scale):
    def __init__(self, features):
        np.random.random()  # noqa: NPY002 (what a constructor should not do)
        super().__init__(features)


class Picky(Scale):
    fails = False

    def __init__(self, features):
        if self.fails:
            raise RuntimeError("out of order")
        super().__init__(features)


def model_of(own=Scale):
    return Sequential(LSTM(3, 5, dtype="float64", seed=0), own(5), Dropout(0.1), Linear(5, 2, dtype="float64", seed=1))


def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((6, 4, 3)), rng.standard_normal((6, 4, 2))


def test_its_gradients_are_the_finite_differences():
    model = Sequential(LSTM(3, 5, dtype="float64", seed=0), Scale(5), Linear(5, 2, dtype="float64", seed=1))
    x, y = data()
    prediction, _, tape = model.forward(x)
    gradients = model.backward(tape, mse(prediction, y)[1]).parameters
    assert list(gradients) == list(model.parameters)
    for index in range(5):
        values = []
        for step in (1e-6, -1e-6):
            other = copy.copy(model)
            factor = model.parameters["1.factor"].copy()
            factor[index] += step
            other.load_state_dict({"1.factor": factor}, strict=False)
            values.append(mse(other(x)[0], y)[0])
        assert gradients["1.factor"][index] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)


def test_fit_trains_it():
    model, before = model_of(), model_of().parameters
    history = fit(model, data(), loss=mse, optimizer=Adam(model, 0.01), epochs=30, progress=False, seed=0)
    assert history.loss[-1] < history.loss[0]
    assert not np.array_equal(model.parameters["1.factor"], before["1.factor"])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_hold_it(tmp_path, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    model, path = model_of(), tmp_path / f"model{suffix}"
    model.load_state_dict({"1.factor": np.arange(5.0)}, strict=False)
    save(model, path, {"made": "here"})
    again = load(path, layers=[Drawing, Scale])
    assert (again.config, again.metadata) == (model.config, {"made": "here"})
    assert type(again.layers[1]) is Scale
    assert np.array_equal(again(data()[0])[0], model(data()[0])[0])
    with pytest.raises(ValueError, match=r"unknown type of layer 'Scale'; known are LSTM, .*; load\(path, layers="):
        load(path)


class Subclass(LSTM):
    """A built-in layer under another name."""


def test_files_hold_subclasses_of_built_in_layers(tmp_path):
    for model in (Subclass(2, 3, seed=0), Sequential(Subclass(2, 3, seed=0))):
        save(model, tmp_path / "a.npz")
        again = load(tmp_path / "a.npz", layers=[Subclass])
        assert again.config == model.config
        assert type(again.layers[0]) is Subclass
        with pytest.raises(ValueError, match="unknown type of layer 'Subclass'"):
            load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (Scale, TypeError, "layers: expected a list of classes, got type"),
        ([Scale(3)], TypeError, "layers: expected classes derived from lstm_cy.Layer, got Scale"),
        ([dict], TypeError, "layers: expected classes derived from lstm_cy.Layer, got <class 'dict'>"),
        ([Scale, Scale], ValueError, "layers: expected names that are not in use, got a class Scale"),
        ([LSTM], ValueError, "layers: expected names that are not in use, got a class LSTM"),
    ],
)
def test_classes_given_to_load_are_checked(tmp_path, layers, error, message):
    save(model_of(), tmp_path / "a.npz")
    with pytest.raises(error, match=message):
        load(tmp_path / "a.npz", layers=layers)


def test_two_classes_of_one_name_are_not_saved_together(tmp_path):
    other = type("Scale", (Scale,), {})
    linear = type("Linear", (Linear,), {})
    for layers in ((Scale(5), other(5)), (linear(5, 5),)):
        with pytest.raises(ValueError, match="model: expected one class for each name, got two classes"):
            save(Sequential(*layers), tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_a_constructor_that_fails_on_load_is_reported(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    save(model_of(Picky), path)
    monkeypatch.setattr(Picky, "fails", True)
    with pytest.raises(ValueError, match=r"a\.npz: Picky: its constructor raised RuntimeError for .*: out of order"):
        load(path, layers=[Picky])


def test_a_constructor_that_draws_on_load_is_a_warning(tmp_path):
    save(model_of(Drawing), tmp_path / "a.npz")
    with pytest.warns(UserWarning, match="Drawing: its constructor draws from the global random numbers"):
        load(tmp_path / "a.npz", layers=[Drawing])


def test_steps_are_those_of_a_call():
    model, (x, _) = model_of(), data()
    expected = model(x[:, 0])[0]
    stepper = model.stepper()
    np.testing.assert_allclose([stepper.step(row) for row in x[:, 0]], expected, rtol=1e-12)
    pool = StreamPool(model)
    stream = pool.join()
    np.testing.assert_allclose([pool.step([stream], row[None])[0] for row in x[:, 0]], expected, rtol=1e-12)


def test_without_a_stage_it_cannot_run_step_by_step():
    plain = type("Plain", (Scale,), {"stage": Layer.stage})
    with pytest.raises(ValueError, match="stepper: expected LSTM, Linear"):
        Sequential(LSTM(3, 5, dtype="float64"), plain(5)).stepper()


class Same(Layer):
    """Without parameters, for input of any dtype."""

    def __call__(self, x):
        return x


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_quantize_leaves_it_alone(kind):
    layer = Same()
    model = Sequential(LSTM(3, 5, seed=0), layer)
    narrow = model.quantize(kind, sample=np.ones((7, 3)))
    assert narrow.layers[1] is layer
    assert list(narrow.report) == [0]


def test_trace_passes_it():
    model, (x, _) = Sequential(Scale(3), LSTM(3, 5, dtype="float64", seed=0), Scale(5)), data()
    assert np.array_equal(model.trace(x).hidden, model.layers[1](model.layers[0](x))[0])


def test_copies_and_pickles():
    model = model_of()
    for again in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(again(data()[0])[0], model(data()[0])[0])


def test_dask_scores_it():
    da = pytest.importorskip("dask.array")
    from lstm_cy.distributed import predict

    model, x = model_of(), np.random.default_rng(0).standard_normal((5, 12, 3))
    y = predict(model, da.from_array(x, chunks=(5, 4, 3))).compute(scheduler="synchronous")
    np.testing.assert_allclose(y, model(x)[0], rtol=1e-12)


def test_its_arguments_and_parameters_are_read_only():
    layer = Scale(3)
    with pytest.raises(AttributeError, match="features: read-only"):
        layer.features = 4
    with pytest.raises(ValueError, match="read-only"):
        layer.parameters["factor"][0] = 1
    assert repr(layer) == "Scale(3)"
    optimizer = SGD(layer, 1.0)
    optimizer.step({"factor": np.ones(3)})
    assert layer.parameters["factor"].tolist() == [-0.5, 0.25, 1.0]


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"a": np.zeros(2, "f4"), "b": np.zeros(2)}, TypeError, "parameters: expected all of float32 or all"),
        ({"a": np.zeros(2, int)}, TypeError, "parameters: expected all of float32 or all of float64, got int64"),
        ({"a": "text"}, TypeError, r"parameters\['a'\]: expected real numbers"),
    ],
)
def test_initial_parameters_are_checked(parameters, error, message):
    with pytest.raises(error, match=message):
        Layer(parameters)
