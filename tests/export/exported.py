"""Models with every option that can be exported, and inputs for them."""

import numpy as np

from lstm_cy import (
    LSTM,
    Activation,
    BatchNormalization,
    Conv1D,
    Dropout,
    Embedding,
    GlobalPooling1D,
    LayerNormalization,
    Linear,
    Masking,
    Pooling1D,
    Readout,
    Residual,
    Sequential,
)

#: an activation for each function of gates, by threes
TRIPLES = [
    ("hardsigmoid", "relu", "softsign"),
    ("affine", "leakyrelu", "scaledtanh"),
    ("sigmoid", "elu", "thresholdedrelu"),
    ("softplus", "softsign", "softplus"),
]


def models():
    """Return {name: model} with every option that can be exported, at sizes that fill vectors and that do not."""
    options = {
        "plain": {},
        "stack": {"num_layers": 3, "bias": False},
        "proj": {"num_layers": 2, "proj_size": 7, "proj_clip": 0.05},
        "variant": {"num_layers": 2, "peepholes": True, "layer_norm": True, "clip": 1.5, "cell_clip": 0.3},
        "norm": {"layer_norm": True, "bias": False},
        "forget": {"coupled_gates": "f=1-i"},
        "entry": {"coupled_gates": "i=1-f", "peepholes": True},
        "zone": {"zoneout": (0.1, 0.2), "learn_initial_state": True, "proj_size": 9},
        **{f"act{index}": {"activations": triple, "clip": 2.5} for index, triple in enumerate(TRIPLES)},
    }
    found = {name: LSTM(3, 17, seed=1, **chosen) for name, chosen in options.items()}
    rng = np.random.default_rng(0)
    for part in "hc":
        found["zone"].load_state_dict(
            found["zone"].state_dict() | {f"initial_{part}_l0": rng.uniform(-1, 1, 17 if part == "c" else 9)}
        )
    found |= {f"size{size}": LSTM(size, size, seed=0) for size in (1, 8, 33, 127)}
    words = Sequential(Embedding(30, 5, seed=0), Dropout(0.1), LSTM(5, 24, seed=0), Linear(24, 30, seed=0))
    found["words"] = words
    found["head"] = Sequential(LSTM(1, 40, seed=0, batch_first=True), Linear(40, 75, bias=False, seed=0), Linear(75, 1))
    inside = Residual(Residual(LSTM(3, 12, num_layers=2, seed=0), Linear(12, 3, seed=0)), Linear(3, 2, seed=0))
    found["skip"] = Sequential(Linear(1, 3, seed=0), inside)
    found["narrow"] = LSTM(130, 33, num_layers=2, seed=0).quantize("int8")
    found["words8"] = words.quantize("int8")
    found["variant8"] = LSTM(
        5, 17, peepholes=True, layer_norm=True, proj_size=9, learn_initial_state=True, seed=0
    ).quantize("int8")
    return found


FUNCTIONS = (
    *("sigmoid", "tanh", "relu", "affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"),
    *("softsign", "softplus", "selu", "silu", "exp", "softmax"),
)


def with_rows():
    """Return {name: model with layers without recurrent weights}, which the JavaScript module does not have."""
    moments = BatchNormalization(6)
    rng = np.random.default_rng(1)
    moments.load_state_dict({name: rng.uniform(0.2, 2, 6) for name in moments.state_dict()})
    found = {
        "conv": Sequential(
            Activation("relu"),
            Conv1D(3, 6, 3, padding="causal", dilation=2, groups=3, seed=0),
            moments,
            LayerNormalization(6, eps=1e-5),
            LSTM(6, 9, num_layers=2, seed=0),
            Activation("gelu"),
            Conv1D(9, 4, 1, seed=1),
            GlobalPooling1D("average"),
            Activation("logsoftmax"),
        ),
        "window": Sequential(
            Conv1D(2, 33, 5, stride=2, seed=0),
            Pooling1D("average", 3, stride=1),
            LSTM(33, 17, num_layers=2, seed=0),
            Pooling1D("max", 2),
            Conv1D(17, 3, 2, padding="causal", seed=0),
            Residual(Linear(3, 3, seed=2)),
            GlobalPooling1D("max"),
            Activation("softmax"),
        ),
    }
    for zero in (False, True):
        found[f"masked{zero:d}"] = Sequential(
            Embedding(5, 4, mask_zero=True, seed=0),
            LSTM(4, 9, num_layers=2, seed=0),
            Linear(9, 2, seed=0),
            Activation("relu"),
            Masking(0.0),
            LSTM(2, 5, layer_norm=True, seed=0),
            Readout(return_sequences=True, zero_output_for_mask=zero),
            GlobalPooling1D("average" if zero else "max"),
        )
    return found | {f"{name}8": found[name].quantize("int8") for name in ("conv", "masked1")}


def with_functions():
    """Return {name: model that ends with an Activation}."""
    return {f"f_{name}": Sequential(LSTM(2, 9, seed=0), Linear(9, 13, seed=0), Activation(name)) for name in FUNCTIONS}


def inputs(model, steps):
    """Return inputs of so many steps, in the form of C, and in that of a call: (T, 1, I)."""
    rng = np.random.default_rng(3)
    if model.vocabulary_size is not None:
        x = rng.integers(0, model.vocabulary_size, steps).astype(np.int32)
    else:
        x = rng.standard_normal((steps, model.input_features)).astype(np.float32)
    return x, x[None] if model.batch_first else x[:, None]
