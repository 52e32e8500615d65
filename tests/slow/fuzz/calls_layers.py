"""A correct call of each layer, its methods, and the other classes: the first part of calls.py."""

import numpy as np

from lstm_cy import (
    LSTM,
    SGD,
    Activation,
    Adam,
    Attention,
    Dropout,
    Embedding,
    Linear,
    Masking,
    Readout,
    Seq2Seq,
    Sequential,
    StreamPool,
    quantize,
    text,
)  # fmt: skip


def x(*shape):
    return np.linspace(-1, 1, int(np.prod(shape)), dtype="f4").reshape(shape)


def lstm(**options):
    return LSTM(2, 3, seed=0, **options)


def chain():
    return Sequential(Embedding(5, 2, seed=0), lstm(batch_first=True), Linear(3, 5, seed=0))


def tapped(layer, *arguments):
    """Return the tape of a call."""
    return layer.forward(*arguments)[-1]


X, TOKENS, LENGTHS = x(4, 2, 2), np.array([[1, 2, 3], [0, 4, 1]]), np.array([4, 2])
STATE = x(1, 2, 3), x(1, 2, 3)
MASK = np.array([[1, 1], [1, 0], [0, 1], [1, 1]], bool)
FULL = {"x": X, "state": STATE, "lengths": LENGTHS, "mask": None, "reset": ~MASK, "threads": 2}
CHAIN = {
    "x": TOKENS,
    "states": [(x(1, 2, 3), x(1, 2, 3))],
    "lengths": np.array([3, 2]),
    "mask": None,
    "reset": None,
    "threads": 1,
}
LSTM_OPTIONS = {
    "input_size": 2, "hidden_size": 3, "num_layers": 2, "bias": True, "batch_first": False, "dropout": 0.1,
    "bidirectional": False,
    "proj_size": 0, "reverse": False, "peepholes": True, "coupled_gates": "f=1-i", "layer_norm": True, "clip": 2.0,
    "cell_clip": 3.0,
    "proj_clip": None, "activations": ("hardsigmoid", "tanh", ("leakyrelu", 0.1)), "forget_bias": 1.0,
    "dtype": "float32", "seed": 0,
}  # fmt: skip


def dict_of(layer):
    return {name: np.array(array) for name, array in layer.state_dict().items()}


MODELS = {
    "LSTM": (LSTM, LSTM_OPTIONS),
    "Linear": (Linear, {"in_features": 2, "out_features": 3, "bias": True, "dtype": "float64", "seed": 0}),
    "Embedding": (Embedding, {"num_embeddings": 5, "embedding_dim": 2, "mask_zero": True, "dtype": "float32",
        "seed": 0}),
    "Dropout": (Dropout, {"p": 0.5}),
    "Activation": (Activation, {"name": "elu", "alpha": 0.5, "beta": None}),
    "Masking": (Masking, {"mask_value": 0.0, "dtype": "float32"}),
    "Readout": (Readout, {"bidirectional": True, "go_backwards": False, "return_sequences": True,
    "zero_output_for_mask": False,
                          "merge_mode": "sum", "batch_first": True}),
    "Attention": (Attention, {"query_size": 2, "memory_size": 3, "score": "additive", "units": 4, "batch_first": True,
                              "dtype": "float32", "seed": 0}),
    "Seq2Seq": (Seq2Seq, {"num_tokens": 5, "embedding_dim": 2, "hidden_size": 4, "num_layers": 2, "dropout": 0.1,
                          "score": "general", "dtype": "float32", "seed": 0}),
    "SGD": (SGD, {"model": chain(), "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
    "Adam": (Adam, {"model": chain(), "lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}),
    "QuantizedLSTM": (quantize.QuantizedLSTM, {"input_size": 2, "hidden_size": 3, "num_layers": 1, "weights": "int8",
    "dropout": 0.0}),
    "StreamPool": (StreamPool, {"model": lstm()}),
    "Words": (text.Words, {"words": ["a", "b"]}),
    "Vocabulary": (text.Vocabulary, {"characters": "abc"}),
    "Sequential": (Sequential, {"*": [lstm(), Dropout(0.1), Linear(3, 2)]}),
}  # fmt: skip
LAYERS = {name: lambda pair=pair: pair for name, pair in MODELS.items()}


def _layers():
    """Yield forward, backward, __call__ and loading of each layer."""
    inputs = {
        "LSTM": (lstm, FULL), "Sequential": (chain, CHAIN), "Linear": (lambda: Linear(2, 3), {"x": X}),
            "Dropout": (Dropout, {"x": X}),
        "Embedding": (lambda: Embedding(5, 2), {"tokens": TOKENS}), "Activation": (lambda: Activation("softmax"),
            {"x": X}),
        "Masking": (Masking, {"x": X}), "Readout": (Readout, {"y": X, "lengths": LENGTHS, "mask": None}),
        "Attention": (lambda: Attention(2, 3), {"queries": X, "memory": x(5, 2, 3), "memory_lengths": np.array([5,
            2])}),
        "Seq2Seq": (lambda: Seq2Seq(5, embedding_dim=2, hidden_size=4), {"pairs": np.array([[[1, 2, 3], [2, 1, -1]]]),
            "threads": 1}),
        "QuantizedLSTM": (lambda: lstm().quantize("int8"), FULL),
    }  # fmt: skip
    for name, (make, arguments) in inputs.items():
        yield f"{name}.__call__", lambda make=make, a=arguments: (make().__call__, dict(a))
        if name != "QuantizedLSTM":
            yield f"{name}.load_state_dict", lambda make=make: _loading(make())
            yield (
                f"{name}.replace_parameters",
                lambda make=make: (make().replace_parameters, {"arrays": dict_of(make())}),
            )
            yield f"{name}.forward", lambda make=make, a=arguments: (make().forward, {**a, "rng": 0})
            yield f"{name}.backward", lambda make=make, a=arguments: _backward(make(), a)


def _loading(layer):
    return layer.load_state_dict, {"mapping": dict_of(layer), "strict": True}


def _backward(layer, arguments):
    y, *_, tape = layer.forward(**arguments)
    if isinstance(layer, Attention):
        return layer.backward, {"tape": tape, "dcontext": y[0], "dweights": y[1]}
    state = {"LSTM": {"dstate": STATE}, "Sequential": {"dstates": [STATE]}}.get(type(layer).__name__, {})
    return layer.backward, {"tape": tape, "dy": y, **state}


LAYERS |= dict(_layers())
