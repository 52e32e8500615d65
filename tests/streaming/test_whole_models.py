"""Whole models step by step: each step gives the bits of the last output for the input so far, from every stream."""

import copy
import pickle

import numpy as np
import pytest
from common import every_dtype

from lstm_cy import (
    LSTM,
    Activation,
    BatchNormalization,
    Conv1D,
    Embedding,
    Flatten,
    GlobalPooling1D,
    LayerNormalization,
    Linear,
    Masking,
    Pooling1D,
    Readout,
    RepeatVector,
    Residual,
    Sequential,
    StreamPool,
)
from lstm_cy.layers.activations import ELEMENTWISE, VECTORWISE

T, B = 23, 3


def normalization(features, dtype):
    layer, rng = BatchNormalization(features, dtype=dtype), np.random.default_rng(1)
    numbers = {name: rng.uniform(0.5, 2, features) for name in layer.parameters}
    layer.load_state_dict(numbers)
    return layer


def models(dtype):
    """Return {name: model of 3 features}."""
    options = {"dtype": dtype, "seed": 0}
    lstm = LSTM(3, 17, 2, **options)
    return {
        "keyword spotter": Sequential(
            Conv1D(3, 8, 3, **options),
            normalization(8, dtype),
            Activation("relu"),
            Conv1D(8, 6, 2, stride=2, **options),
            LSTM(6, 17, **options),
            Readout(),
            Linear(17, 4, **options),
            Activation("softmax"),
        ),
        "causal": Sequential(
            Conv1D(3, 4, 3, padding="causal", dilation=2, stride=2, **options),
            LSTM(4, 5, 2, **options),
            LayerNormalization(5, dtype=dtype),
        ),
        "groups": Sequential(Conv1D(3, 6, 5, groups=3, bias=False, padding="causal", **options), LSTM(6, 1, **options)),
        "wide stride": Sequential(Conv1D(3, 4, 2, stride=5, **options), Activation("tanh")),
        "pools": Sequential(Pooling1D("max", 2), lstm, Pooling1D("average", 9, stride=2), Activation("gelu")),
        "mean": Sequential(lstm, GlobalPooling1D("average"), Linear(17, 2, **options)),
        "maximum": Sequential(Conv1D(3, 33, 4, **options), GlobalPooling1D("max")),
        "masked": Sequential(Masking(0.5, dtype=dtype), lstm, Readout(), Linear(17, 2, **options)),
        "masked mean": Sequential(Masking(0.5, dtype=dtype), lstm, GlobalPooling1D("average")),
        "masked twice": Sequential(
            Masking(0.5, dtype=dtype),
            lstm,
            Readout(return_sequences=True),
            LSTM(17, 3, **options),
            GlobalPooling1D("max"),
        ),
        "zero": Sequential(Masking(0.5, dtype=dtype), lstm, Readout(return_sequences=True, zero_output_for_mask=True)),
        "skip": Sequential(Residual(Conv1D(3, 3, 4, padding="causal", **options), Activation("elu")), lstm),
        "late mask": Sequential(Conv1D(3, 3, 2, stride=2, **options), Activation("relu"), Masking(dtype=dtype), lstm),
    }


NAMES = list(models("float32"))


def last_outputs(model, x):
    """Return what the model gives for each beginning of x (T, B, features): its last output, NaN where it has none."""
    outputs = []
    for t in range(1, len(x) + 1):
        try:
            y = model(x[:t])[0]
        except ValueError as error:
            assert "expected at least" in str(error)
            outputs.append(None)
        else:
            outputs.append(y[-1] if model.gives_steps else y)
    first = next(y for y in outputs if y is not None)
    return np.array([np.full_like(first, np.nan) if y is None else y for y in outputs])


def sample(rng, dtype):
    """Return x (T, B, 3) in which some steps are padding to a Masking."""
    x = rng.standard_normal((T, B, 3)).astype(dtype)
    x[rng.random((T, B)) < 0.3] = 0.5
    return x


@every_dtype
@pytest.mark.parametrize("name", NAMES)
def test_each_step_gives_what_the_model_gives_for_the_input_so_far(name, dtype):
    """A Stepper of several rows, streams of a pool that step at different times, copies and pickles."""
    model, rng = models(dtype)[name], np.random.default_rng(0)
    x = sample(rng, dtype)
    expected = last_outputs(model, x)
    stepper = model.stepper(B)
    for t in range(T):
        if t == T // 2:
            block, state = stepper.state_bytes, stepper.state
            stepper.reset()
            again = [stepper.step(x_t) for x_t in x[:3]]
            assert np.array_equal(again, expected[:3], equal_nan=True)
            stepper.reset(rows=[1])
            assert np.array_equal(stepper.step(x[0])[1], expected[0][1], equal_nan=True)
            others = [model.stepper(B), copy.deepcopy(stepper), pickle.loads(pickle.dumps(stepper))]
            for other in (stepper, others[0]):
                other.state_bytes = block
            assert all(np.array_equal(a, b) for a, b in zip(parts(state), parts(stepper.state), strict=True))
            after = [other.step(x[t]) for other in others[1:]]
            assert np.array_equal(*after, equal_nan=True)
            assert np.array_equal(others[0].step(x[t]), expected[t], equal_nan=True)
        assert np.array_equal(stepper.step(x[t]), expected[t], equal_nan=True), t
    pool = StreamPool(model)
    ids, clocks = [pool.join() for _ in range(B)], np.zeros(B, int)
    while (clocks < T).any():
        rows = rng.permutation(B)[: rng.integers(1, B + 1)]
        rows = rows[clocks[rows] < T]
        y = pool.step([ids[row] for row in rows], x[clocks[rows], rows])
        assert np.array_equal(y, expected[clocks[rows], rows], equal_nan=True)
        clocks[rows] += 1
        pool = copy.deepcopy(pool) if rng.random() < 0.2 else pool
    pool.reset(ids[0])
    assert np.array_equal(pool.step(ids[:1], x[0, :1]), expected[0, :1], equal_nan=True)


def parts(state):
    return [array for pair in state for array in pair]


@every_dtype
@pytest.mark.parametrize("name", [*ELEMENTWISE, *VECTORWISE])
def test_functions(name, dtype):
    """Every function, with its arguments, NaN, infinity, zeros and denormals; 33 numbers are more than a vector."""
    options = {"affine": (0.3, -0.7), "scaledtanh": (1.7, 0.3), "elu": (0.7,), "hardsigmoid": (0.3, 0.4)}
    model = Sequential(Linear(2, 33, dtype=dtype, seed=0), Activation(name, *options.get(name, ())))
    stepper = model.stepper(2)
    for x in ([[3, -2], [0, 0]], [[30, -700], [-90, 4]], [[np.nan, 0], [np.inf, 1]]):
        with np.errstate(all="ignore"):
            y = model(np.array([x], dtype))[0][0]
        assert np.array_equal(stepper.step(x), y, equal_nan=True)


def test_tokens_that_are_padding():
    model = Sequential(Embedding(5, 3, mask_zero=True, seed=0), LSTM(3, 17, seed=0), Readout(), Linear(17, 2, seed=0))
    tokens = np.random.default_rng(0).integers(0, 3, (T, B))
    stepper = model.stepper(B)
    for t in range(T):
        assert np.array_equal(stepper.step(tokens[t]), model(tokens[: t + 1])[0])
    with pytest.raises(ValueError, match="x_t: expected 0 to num_embeddings - 1"):
        stepper.step([0, 5, 1])


def test_a_narrow_model_steps_too():
    model = models("float32")["keyword spotter"]
    x = sample(np.random.default_rng(0), "float32")
    narrow = model.quantize("int8", sample=x)
    stepper = narrow.stepper(B)
    assert np.array_equal([stepper.step(x_t) for x_t in x], last_outputs(narrow, x), equal_nan=True)
    assert narrow.trace(x).forget.shape[-1] == 17


def test_what_cannot_step_says_why_and_which_part_can():
    lstm = LSTM(3, 4, seed=0)
    for model, message in [
        (Sequential(lstm, Flatten()), "one size for any number of steps.*; layers 0 to 0 can run step by step"),
        (Sequential(lstm, Conv1D(4, 4, 3, padding="same")), "'same' needs later steps.*; layers 0 to 0 can"),
        (Sequential(Pooling1D("max", 2, padding="same"), lstm), "'same' needs later steps"),
        (Sequential(Masking(), Conv1D(3, 3, 2), lstm), "expected no mask before Conv1D"),
        (Sequential(lstm, Readout(), RepeatVector(3), LSTM(4, 4)), "needs no later steps, got RepeatVector"),
        (Sequential(Activation("tanh")), "expected a first layer whose number of inputs is known"),
        (Sequential(lstm, LSTM(4, 4, bidirectional=True), Readout(bidirectional=True)), "runs forwards.*0 to 0 can"),
    ]:
        for make, name in ((model.stepper, "stepper"), (lambda model=model: StreamPool(model), "StreamPool")):
            with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
                make()
    stepper = Sequential(lstm, GlobalPooling1D("max")).stepper()
    with pytest.raises(TypeError, match="state_bytes: expected bytes"):
        stepper.state_bytes = [1]
    with pytest.raises(ValueError, match="state_bytes: expected [0-9]+ bytes, got 3"):
        stepper.state_bytes = b"123"
