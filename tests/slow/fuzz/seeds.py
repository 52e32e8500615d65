"""Small model files of every format, written by this library and by others, as seeds of files.py."""

import argparse
import collections
import datetime
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import seeds_graphs

from lstm_cy import (
    LSTM,
    Activation,
    Adam,
    Dropout,
    Embedding,
    Linear,
    Masking,
    Readout,
    Residual,
    Seq2Seq,
    Sequential,
    fit,
    mse,
    save,
)  # fmt: skip


def checkpoint_of(path, resume=False):
    """Train with a checkpoint at `path`, or resume from it; return (model, history)."""
    model = Sequential(LSTM(2, 3, seed=1), Dropout(0.5), Linear(3, 1, seed=2))
    x = np.arange(24, dtype="f4").reshape(3, 4, 2) / 24
    y = x.sum(2, keepdims=True)
    settings = {"loss": mse, "optimizer": Adam(model, 0.01), "batch_size": 2, "patience": 3, "progress": False}
    return model, fit(model, (x, y), epochs=2, validation=(x, y), checkpoint=path, resume=resume, **settings)


def own(folder):
    models = {
        "lstm": LSTM(2, 3, seed=0),
        "options": LSTM(2, 3, 2, bidirectional=True, peepholes=True, layer_norm=True, clip=2.0, seed=0),
        "projected": LSTM(2, 4, proj_size=2, proj_clip=1.0, cell_clip=2.0, coupled_gates="f=1-i", bias=False, seed=0),
        "sequential": Sequential(
            Embedding(5, 2, seed=0), LSTM(2, 3, seed=0), Linear(3, 2, seed=0), Activation("softmax")
        ),
        "mixed": Sequential(
            Activation("tanh"),
            LSTM(2, 3, num_layers=2, bidirectional=True, batch_first=True, seed=0),
            Linear(6, 1, seed=0),
        ),
        "keras-like": Sequential(Masking(), LSTM(2, 3, batch_first=True, seed=0), Readout(batch_first=True)),
        "seq2seq": Seq2Seq(5, embedding_dim=2, hidden_size=4, seed=0),
        "bf16": LSTM(2, 3, seed=0).quantize("bf16"),
        "int8": Sequential(LSTM(2, 3, seed=0), Linear(3, 2, seed=0)).quantize("int8"),
    }
    for name, model in models.items():
        for suffix in ("npz", "safetensors"):
            save(model, folder / f"own-{name}.{suffix}", {"made": ["for", {"fuzzing": 1}]})
    for name in ("lstm", "mixed", "sequential"):
        save(models[name], folder / f"own-{name}.onnx", {"made": 1})
    checkpoint_of(folder / "own-checkpoint.npz")
    amplifier = Sequential(LSTM(1, 3, 2, learn_initial_state=True, seed=0), Linear(3, 1, seed=0))
    save(amplifier, folder / "own-amplifier.nam", {"sample_rate": 48000, "name": "é"})
    skip = Sequential(
        Residual(LSTM(2, 3, batch_first=True, seed=0), Linear(3, 2, seed=0), Activation("tanh"), Linear(2, 1, seed=0))
    )
    save(skip, folder / "own-skip.json", {"sample_rate": 48000})
    save(skip, folder / "own-skip.npz")


def torchs(folder):
    import torch

    torch.manual_seed(0)
    lstm = torch.nn.LSTM(2, 3, num_layers=2, bidirectional=True)
    half = torch.nn.LSTM(2, 3).to(torch.bfloat16).state_dict()
    tree = {"epoch": 7, "model": lstm.state_dict(), "rate": [0.1, 1e-9], "name": "é", "none": (None, True, -(2**40))}
    torch.save(torch.nn.LSTM(2, 3).state_dict(), folder / "torch-plain.pt")
    torch.save(torch.nn.LSTM(2, 4, proj_size=3).state_dict(), folder / "torch-projected.pth")
    torch.save(tree, folder / "torch-tree.pt")
    torch.save(half, folder / "torch-bfloat16.pt", pickle_protocol=4)
    torch.save(torch.nn.LSTMCell(2, 3).state_dict(), folder / "torch-cell.pt")
    for protocol in (0, 2, 4):
        path = folder / f"torch-legacy{protocol}.pt"
        torch.save(tree, path, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    torch.save(torch.nn.Sequential(torch.nn.LSTM(2, 3)), folder / "torch-module.pt")
    objects = {
        "array": np.arange(6, dtype=">i2"), "number": np.float64(1.5), "set": {1, "a"}, "path": Path("a"),
        "counter": collections.Counter("ab"), "space": argparse.Namespace(a=[1]), (1, "a"): frozenset([2]),
        "date": datetime.date(2020, 1, 2), "dict": collections.defaultdict(list, a=[1]),
    }  # fmt: skip
    torch.save(objects, folder / "torch-objects.pt")
    (folder / "torch-bare.pt").write_bytes(pickle.dumps(objects | {"model": torch.nn.LSTM(2, 3).state_dict()}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.LSTM(2, 3)).save(folder / "torch-script.pt")
        narrow = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(lstm), {torch.nn.LSTM}, torch.qint8)
        torch.save(narrow.state_dict(), folder / "torch-quantized.pt")
    from safetensors.torch import save_file

    save_file(lstm.state_dict(), folder / "torch-lstm.safetensors")
    save_file(half, folder / "torch-bfloat16.safetensors", {"format": "pt"})


def kerass(folder):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    keras.utils.set_random_seed(0)
    keras.utils.clear_session()  # names of layers contain a global counter
    layers = keras.layers
    models = {
        "plain": [keras.Input((None, 2)), layers.LSTM(3), layers.Dense(2, activation="softmax")],
        "deep": [
            keras.Input((None,), dtype="int32"), layers.Embedding(5, 2, mask_zero=True),
            layers.Bidirectional(layers.LSTM(2, return_sequences=True)), layers.Dropout(0.1),
            layers.LSTM(2, go_backwards=True, activation="relu"), layers.Dense(1), layers.LeakyReLU(),
        ],
        "nested": [keras.Input((4, 2)), keras.Sequential([keras.Input((4, 2)), layers.Masking(0.5), layers.LSTM(2)])],
    }  # fmt: skip
    for name, chain in models.items():
        model = keras.Sequential(chain)
        model.save(folder / f"keras-{name}.keras")
        model.save(folder / f"keras-{name}.h5")
        seeds_graphs.undated(folder / f"keras-{name}.keras")
    x = keras.Input((None, 2))
    keras.Model(x, layers.Dense(1)(layers.LSTM(2)(x))).save(folder / "keras-functional.h5")


GRAPH = """<ir_version: 8, opset_import: ["": 17]> g (float[T, B, 3] x, int32[B] lengths) => (float[T, B, 2] p)
<float[2] scale = {1.0, 2.0}> {
    s = Constant <value_ints = [1, 8, 3]> ()
    r = Constant <value_ints = [1, 8, 2]> ()
    W = ConstantOfShape <value = float[1] {0.5}> (s)
    R = ConstantOfShape <value = float[1] {0.25}> (r)
    d, h, c = LSTM <hidden_size = 2> (x, W, R, , lengths)
    axis = Constant <value_ints = [1]> ()
    y = Squeeze (d, axis)
    z = Mul (y, scale)
    p = Softmax <axis = -1> (z)
}"""


def onnxs(folder):
    import onnx

    (folder / "onnx-text.onnx").write_bytes(onnx.parser.parse_model(GRAPH).SerializeToString())
    constants = {"axes": [0], "shape": [2, -1], "starts": [0], "ends": [3], "split": [1, 3], "to": [4, 4]}
    constants |= {"index": [[0, 1]], "pads": [1, 0, 0, 1], "one": 1, "five": 5}
    steps = [
        "Unsqueeze x axes", "Reshape 0 shape", "Slice 1 starts ends axes", "Concat 1 2 !axis=0",
        "ReduceMax 3 !keepdims=0",
        "Relu x", "Gather x index", "Expand 4 to", "Shape x", "Cast 8 !to=1", "Equal 8 8", "Where 10 8 8",
        "Transpose 7",
        "Tile 7 split", "MatMul 7 13", "Gemm 7 7 7 !transA=1", "Pad 7 pads", "Split 7 split !axis=1",
        "ReduceSum 7 axes",
        "Range one five one", "Pow 14 five", "Flatten 6", "ArgMax 14", "LayerNormalization 7 7", "CastLike 8 x",
    ]  # fmt: skip
    nodes = []
    for number, step in enumerate(steps):
        kind, *words = step.split()
        options = {k: int(v) for k, v in (w[1:].split("=") for w in words if w[0] == "!")}
        outputs = [str(number), "other"] if kind == "Split" else [str(number)]
        nodes.append(onnx.helper.make_node(kind, [word for word in words if word[0] != "!"], outputs, **options))
    outs = [onnx.helper.make_tensor_value_info(str(number), 1, None) for number in range(len(steps))]
    tensors = [onnx.numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    x = onnx.numpy_helper.from_array(np.arange(8, dtype="f4").reshape(2, 4), "x")
    for name, inputs, more in ("run", [onnx.helper.make_tensor_value_info("x", 1, ["N", 4])], []), ("folded", [], [x]):
        graph = onnx.helper.make_graph(nodes, "g", inputs, outs, tensors + more)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        (folder / f"onnx-{name}.onnx").write_bytes(model.SerializeToString())


def make(folder):
    """Return all seeds, {name: bytes}; they are written once to `folder`."""
    folder = Path(folder)
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        graphs = seeds_graphs.onnxs, seeds_graphs.kerass, seeds_graphs.audios
        for family in (own, torchs, kerass, onnxs, *graphs):
            family(folder)
        (folder / "complete").touch()
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix}
