"""Keras's files and live models, against Keras on its PyTorch backend; and files that nobody should read."""

import contextlib
import io
import json
import os
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_cy import LSTM, Activation, Embedding, Linear, Masking, Readout, Sequential, load, save
from lstm_cy.weights.keras import from_keras, read_model

h5py = pytest.importorskip("h5py")

# Keras's variables do not know NumPy 2's `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

TOLERANCE = 5e-6
GATES = ("sigmoid", "hard_sigmoid", "softsign", "linear")
CELLS = ("tanh", "relu", "elu", "leaky_relu", "softplus", "sigmoid")
HEADS = ("linear", "softmax", "sigmoid", "tanh", "relu", "elu", "selu", "gelu", "silu", "softplus", "softsign")
HEADS += ("hard_sigmoid", "leaky_relu", "exponential", "log_softmax")


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("torch")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras has another backend")
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)  # it calls .h5 legacy each time
    return keras


def randomized(model, seed=0):
    """The model with random weights: Keras's own biases are zeros and ones."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        layer.set_weights([rng.normal(0, 0.4, array.shape).astype(array.dtype) for array in layer.get_weights()])
    return model


def expected(model, x):
    out = model(x)
    return [part.detach().numpy() for part in (out if isinstance(out, list | tuple) else [out])]


def saved(model, path):
    model.save(path)
    return path


def agrees(model, ours, x):
    out, _ = ours(x)
    outs = out if isinstance(out, tuple) else (out,)
    for got, want in zip(outs, expected(model, x), strict=True):
        assert got.shape == want.shape
        assert np.abs(got - want).max(initial=0) <= TOLERANCE * max(1, np.abs(want).max(initial=0))


def every_way(model, folder):
    """Our model from a live one, from both kinds of file, and from our own file of it."""
    yield from_keras(model)
    for suffix in (".keras", ".h5"):
        yield read_model(saved(model, folder / f"model{suffix}"), strict=True)
    ours = read_model(folder / "model.keras")
    save(ours, folder / "model.npz")
    again = load(folder / "model.npz")
    assert again.config == ours.config
    yield again


# Random models

RECURRENT = st.fixed_dictionaries(
    {
        "units": st.integers(1, 4),
        "activation": st.sampled_from(("tanh", *CELLS)),
        "recurrent_activation": st.sampled_from(("sigmoid", *GATES)),
        "use_bias": st.booleans(),
        "go_backwards": st.booleans(),
        "dropout": st.sampled_from((0.0, 0.3)),
        "zero_output_for_mask": st.booleans(),
    }
)
BETWEEN = st.lists(
    st.sampled_from(("Dropout", "SpatialDropout1D", "Dense", "TimeDistributed", "Activation", "LeakyReLU")), max_size=2
)
MODELS = st.fixed_dictionaries(
    {
        "start": st.sampled_from(("tokens", "mask_zero", "features", "Masking")),
        "blocks": st.lists(
            st.tuples(RECURRENT, st.sampled_from((None, None, "concat", "sum", "mul", "ave")), BETWEEN),
            min_size=1,
            max_size=3,
        ),
        "return_sequences": st.booleans(),
        "head": st.none() | st.sampled_from(HEADS),
        "functional": st.booleans(),
        "nested": st.booleans(),
        "T": st.integers(1, 6),
        "seed": st.integers(0, 99),
    }
)


def layers_of(keras, case):
    """The layers that a drawn case describes."""
    L = keras.layers
    make = {
        "Dropout": lambda: L.Dropout(0.5),
        "SpatialDropout1D": lambda: L.SpatialDropout1D(0.5),
        "Dense": lambda: L.Dense(3, activation="tanh"),
        "TimeDistributed": lambda: L.TimeDistributed(L.Dense(2, activation="relu", use_bias=False)),
        "Activation": lambda: L.Activation("softsign"),
        "LeakyReLU": lambda: L.LeakyReLU(0.2),
    }
    layers = []
    if case["start"] in ("tokens", "mask_zero"):
        layers.append(L.Embedding(5, 3, mask_zero=case["start"] == "mask_zero"))
    elif case["start"] == "Masking":
        layers.append(L.Masking(0.5))
    for index, (options, merge, between) in enumerate(case["blocks"]):
        last = index == len(case["blocks"]) - 1
        options = {**options, "return_sequences": case["return_sequences"] or not last}
        if merge is None:
            layers.append(L.LSTM(**options))
        else:
            layers.append(L.Bidirectional(L.LSTM(**{**options, "go_backwards": False}), merge_mode=merge))
        layers += [make[kind]() for kind in between if options["return_sequences"] or kind[-1] not in "Dd"]
    return layers + ([L.Dense(3, activation=case["head"])] if case["head"] else [])


def built(keras, case):
    """The model that a drawn case describes, and an input of it."""
    layers = layers_of(keras, case)
    rng = np.random.default_rng(case["seed"])
    T = case["T"]
    tokens = case["start"] in ("tokens", "mask_zero")
    if tokens:
        x = rng.integers(0, 3, (4, T))
    else:
        x = rng.standard_normal((4, T, 2)).astype(np.float32)
        x[rng.random((4, T)) < 0.4] = 0.5
    start = keras.Input((T,) if tokens else (T, 2))
    if case["nested"] and not case["return_sequences"]:
        layers = [keras.Sequential(layers)]  # with its mask
    if case["functional"]:
        end = start
        for layer in layers:
            end = layer(end)
        model = keras.Model(start, end)
    else:
        model = keras.Sequential([start, *layers])
    return randomized(model, case["seed"]), x


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=MODELS)
def test_random_models(keras, tmp_path, case):
    model, x = built(keras, case)
    for ours in every_way(model, tmp_path):
        agrees(model, ours, x)
