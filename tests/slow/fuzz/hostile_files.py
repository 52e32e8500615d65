"""The files of hostile.py: {kind: function of (rng, n) that returns (suffix, bytes)}; n is the size of the case."""

import io
import json
import struct
import zipfile

import numpy as np
from hostile_graphs import KINDS as GRAPHS
from hostile_others import KINDS as OTHERS
from hostile_trees import KINDS as TREES

KINDS = {}


def kind(function):
    KINDS[function.__name__] = function
    return function


def header(model, metadata="{}"):
    """Return the header of a file of this library; arguments are JSON texts."""
    return f'{{"format":"lstm_cy","version":1,"model":{model},"metadata":{metadata}}}'.encode()


def npz(content, **arrays):
    out = io.BytesIO()
    np.savez(out, lstm_cy=np.frombuffer(content, np.uint8), **arrays)
    return ".npz", out.getvalue()


def lstm(**options):
    """Return a file whose LSTM has invalid options."""
    config = {"type": "LSTM", "input_size": 1, "hidden_size": 1, **options}
    return npz(header(json.dumps(config)), weight_ih_l0=np.zeros((4, 1), "f4"), weight_hh_l0=np.zeros((4, 1), "f4"))


def safetensors(tensors, data=b""):
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return ".safetensors", struct.pack("<Q", len(text)) + text + data


def empty(shape=(0,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 0]}


@kind
def npz_many_layers(rng, n):
    layer = rng.choice(
        (
            '{"type":"Dropout"}',
            '{"type":"Activation","name":"tanh"}',
            '{"type":"Masking"}',
            '{"type":"Readout"}',
            "[]",
            "0",
        )
    )
    return npz(header('{"type":"Sequential","layers":[' + ",".join([layer] * n) + "]}"))


@kind
def npz_nested_models(rng, n):
    n = min(n, 50_000)
    return npz(header('{"type":"Sequential","layers":[' * n + '{"type":"Dropout"}' + "]}" * n))


@kind
def npz_nested_json(rng, n):
    begin, end = rng.choice((("[", "]"), ('{"a":', "}")))
    deep = begin * n + "0" + end * n
    return npz(header('{"type":"Dropout"}', f'{{"a":{deep}}}') if rng.random() < 0.5 else header(deep))


@kind
def npz_many_lstm_layers(rng, n):
    config = {
        "type": "LSTM",
        "input_size": 1,
        "hidden_size": 1,
        "num_layers": rng.choice((n, 10 * n, 10**9, 10**300)),
        "bias": False,
    }
    return npz(header(json.dumps(config)), w=np.zeros(min(90 * n, 12_000_000), "i1"))


@kind
def npz_huge_sizes(rng, n):
    name = rng.choice(("input_size", "hidden_size", "num_layers", "proj_size"))
    return lstm(**{name: rng.choice((2**31, 2**62, 2**64, 10**300, n, -n))})


@kind
def npz_long_texts(rng, n):
    name = rng.choice(("dtype", "coupled_gates", "activations", "forget_bias", "input_size", "type", "x" * n))
    return lstm(
        **{
            name: rng.choice(
                ("a" * n, ["a" * n], "f4," * n, "(" * n, [[1.0] * 10] * n, "\x1b" * n, {"a" * n: 1}, [["a", 1]] * n)
            )
        }
    )


@kind
def npz_long_numbers(rng, n):
    digits = rng.choice(("9" * min(n, 4_000_000), "1e" + "9" * min(n, 1000), "-" + "9" * 400, "0." + "1" * n))
    name = rng.choice(("clip", "dropout", "num_layers", "forget_bias", "hidden_size"))
    return npz(header(f'{{"type":"LSTM","input_size":1,"hidden_size":1,"{name}":{digits}}}'), w=np.zeros(99, "f4"))


@kind
def npz_many_members(rng, n):
    out, array = io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(0, "f4"))
    with zipfile.ZipFile(out, "w") as file:
        for i in range(min(n, 60_000)):
            file.writestr(
                rng.choice(("{}.npy", "weight_ih_l{}.npy", "a/weight_hh_l{}.npy", "{}")).format(i), array.getvalue()
            )
    return rng.choice((".npz", ".pt", ".keras")), out.getvalue()


@kind
def npz_wide_shapes(rng, n):
    shape = "(" + rng.choice(("1,", "0,", "9999999,")) * min(n, 20_000) + ")"
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    version = b"\1\0" + struct.pack("<H", len(text)) if len(text) < 65536 else b"\2\0" + struct.pack("<I", len(text))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("weight_ih_l0.npy", b"\x93NUMPY" + version + text + bytes(16))
    return ".npz", out.getvalue()


@kind
def checkpoint_long_history(rng, n):
    out = io.BytesIO()
    name = rng.choice(("history.loss", "history.x", "history.seconds"))
    np.savez(
        out,
        checkpoint=np.zeros(9, np.uint8),
        **{name: np.zeros(rng.choice(((n,), (n, 1), (1,) * 20))), "history.loss.x": np.zeros(1)},
    )
    return ".npz", out.getvalue()


@kind
def safetensors_many(rng, n):
    name = rng.choice(("t{}", "a{}.weight_hh_l0", "weight_ih_l{}", "a.{}.bias_hh_l0_reverse", "\x1b{}"))
    return safetensors({name.format(i): empty() for i in range(n)})


@kind
def safetensors_wide_shapes(rng, n):
    return safetensors({"w": {"dtype": "F32", "shape": [rng.choice((0, 1))] * n, "data_offsets": [0, 4]}}, bytes(4))


@kind
def safetensors_layer_numbers(rng, n):
    layer = rng.choice((9_999_999, 10**12, "9" * min(n, 5000), "٣", "1_0", "-1", "01", " 1"))
    return safetensors(
        {f"weight_ih_l{layer}": empty((4, 0)), f"weight_hh_l{layer}": empty((4, 0)), "weight_hh_l0": empty()}
    )


@kind
def safetensors_texts(rng, n):
    texts = {"a" * n: "b"}, {"a": "b" * n}, {str(i): "" for i in range(n)}, {"lstm_cy": "[" * n}, {"lstm_cy": "9" * n}
    return safetensors({"__metadata__": rng.choice(texts), "w": empty()})


@kind
def safetensors_spaces(rng, n):
    return safetensors(b'{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' + b" " * (100 * n))


@kind
def zeros(rng, n):
    return rng.choice((".npz", ".safetensors", ".pt", ".keras", ".h5", ".onnx")), rng.choice(
        (0, 1, 100, 1_500_000_000, 2**40)
    )


KINDS |= GRAPHS | TREES | OTHERS
