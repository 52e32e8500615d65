"""Seeds of files.py with graphs: every operator of ONNX that is read, If and Loop, and models of Keras of all versions.

They are those of the tests, whose modules make them.
"""

import json
import os
import re
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np

DATE = (1980, 1, 1, 0, 0, 0)
TESTS = Path(__file__).resolve().parents[2]
sys.path += [str(TESTS), str(TESTS / "weights"), str(TESTS / "weights" / "onnx")]


def onnxs(folder):
    """Write a file for each operator, with its inputs as such or as constants, and some of several nodes."""
    import test_onnx_operators as operators
    from onnx import TensorProto, helper, numpy_helper

    for name in sorted(operators.operators.OPERATORS):
        cases = (operators.random_case(name, index) for index in range(40)) if name in operators.CASES else ()
        for proto, arrays in list(filter(None, cases))[:2]:
            for value in proto.graph.output:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
            (folder / f"onnx-operator-{name}.onnx").write_bytes(proto.SerializeToString())
            if not any(array.dtype.kind in "OV" or array.size > 2000 for array in arrays.values()):
                tensors = [numpy_helper.from_array(array, key) for key, array in arrays.items()]
                proto.graph.initializer.extend(tensors)
                del proto.graph.input[:]
                (folder / f"onnx-constants-{name}.onnx").write_bytes(proto.SerializeToString())
    (folder / "onnx-loop.onnx").write_bytes(_loop(TensorProto, helper).SerializeToString())
    (folder / "onnx-quantized.onnx").write_bytes(_quantized(helper).SerializeToString())


def _loop(kinds, helper):
    """Return a decoder: an LSTM in a Loop, with an If that chooses what it takes next."""
    import onnx_models as models

    def graph(nodes, inputs, outputs):
        return helper.make_graph(
            nodes,
            "g",
            *([helper.make_tensor_value_info(name, kind, None) for name, kind in e] for e in (inputs, outputs)),
        )

    F, node = kinds.FLOAT, models.node
    half = graph([node("Mul", ["new", "new"], ["chosen"])], [], [("chosen", F)])
    same = graph([node("Identity", ["new"], ["chosen"])], [], [("chosen", F)])
    carried = [("x", F), ("h", F), ("c", F)]
    nodes = [
        node("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["y", "h2", "c2"], hidden_size=3),
        node("Squeeze", ["y", "first"], ["new"]),
        node("ReduceSum", ["new"], ["total"], keepdims=0),
        node("Less", ["total", "limit"], ["on"]),
        node("If", ["on"], ["x2"], then_branch=half, else_branch=same),
        node("Identity", ["new"], ["out"]),
    ]
    outputs = [("on", kinds.BOOL), ("x2", F), ("h2", F), ("c2", F), ("out", F)]
    body = graph(nodes, [("step", kinds.INT64), ("going", kinds.BOOL), *carried], outputs)
    loop = node("Loop", ["count", "", "x0", "h0", "c0"], ["xn", "hn", "cn", "outs"], body=body)
    weights = models.weights_of(np.random.default_rng(0), 1, 3, 3)
    weights |= {"first": models.integers(1), "limit": np.float32(1), "count": np.int64(3)}
    return models.model([loop], ["x0", "h0", "c0"], ["xn", "hn", "cn", "outs"], weights)


def _quantized(helper):
    import onnx_models as models

    rng = np.random.default_rng(0)
    W, R = (rng.integers(-127, 128, (1, size, 12)).astype(np.int8) for size in (2, 3))
    arrays = {"W": W, "R": R, "B": np.zeros((1, 24), "f"), "ws": np.float32([0.01]), "rs": np.float32([0.02])}
    arrays |= {"wz": np.zeros(1, np.int8), "rz": np.zeros(1, np.int8)}
    inputs = ["x", "W", "R", "B", "", "", "", "", "ws", "wz", "rs", "rz"]
    made = models.node("DynamicQuantizeLSTM", inputs, ["y", "h", "c"], hidden_size=3)
    made.domain = "com.microsoft"
    proto = models.model([made], ["x"], ["y", "h", "c"], arrays)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


def kerass(folder):
    """Write models that are graphs as .keras and .h5, and files in the layouts of Keras 1 and 2."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras
    import test_keras_graphs as graphs

    for name, make in (graphs.CHAINS | graphs.GRAPHS).items():
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = make(keras)
            for suffix in ("keras", "h5"):
                model.save(folder / f"keras-graph-{name.replace(' ', '-')}.{suffix}")
        undated(folder / f"keras-graph-{name.replace(' ', '-')}.keras")
    _former_kerass(folder, graphs)


def undated(path):
    """Rewrite a .keras file without its creation time, so that seeds are reproducible."""
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    content["metadata.json"] = re.sub(rb'"date_saved": "[^"]*"', b'"date_saved": ""', content["metadata.json"])
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            file.writestr(zipfile.ZipInfo(name, DATE), data)


def _former_kerass(folder, graphs):
    lstm = graphs.drawn(graphs.lstm_shapes(4, 3))
    dense = graphs.drawn({"kernel": (3, 2), "bias": (2,)}, 1)
    start = {"batch_input_shape": [None, 6, 4]}
    config = [graphs.lstm_config("a", **start), {"class_name": "Dense", "config": {"name": "d", "units": 2} | _LINEAR}]
    groups = {"a": {f"a/{n}:0": x for n, x in lstm.items()}, "d": {f"d/{n}:0": x for n, x in dense.items()}}
    graphs.write_h5(folder / "keras-former-2.h5", {"class_name": "Sequential", "config": config}, groups, "2.0.8")
    graphs.write_h5(folder / "keras-former-weights.h5", None, groups, "2.1.5")
    groups["a"] = {f"a/{name}:0": array for name, array in graphs.as_cudnn(lstm).items()}
    config[0] = {"class_name": "CuDNNLSTM", "config": {"name": "a", "units": 3, "return_sequences": False}}
    spec = {"class_name": "Sequential", "config": {"name": "s", "layers": config}}
    graphs.write_h5(folder / "keras-former-cudnn.h5", spec, groups, "2.2.4")
    one = {"name": "a", "output_dim": 3, "inner_activation": "hard_sigmoid", "activation": "tanh", "dropout_U": 0.1}
    last = {"name": "d", "output_dim": 2, "activation": "linear", "bias": True}
    config = [{"class_name": "LSTM", "config": one | start}, {"class_name": "Dense", "config": last}]
    parts = {}
    for gate in "icfo":
        for end, array in zip("WUb", lstm.values(), strict=True):
            parts[f"a_{end}_{gate}:0"] = np.split(array, 4, axis=-1)["ifco".index(gate)]
    groups = {"a": parts, "d": {"d_W:0": dense["kernel"], "d_b:0": dense["bias"]}}
    for backend in ("tensorflow", "theano"):
        path = folder / f"keras-former-1-{backend}.h5"
        graphs.write_h5(path, {"class_name": "Sequential", "config": config}, groups, "1.2.2", backend)


_LINEAR = {"activation": "linear", "use_bias": True}


def audios(folder):
    """Write models of amplifiers in every form that is read."""
    import test_audio as audio

    documents = {
        "model.nam": audio.nam_document(1, 3, 2),
        "aida.aidax": audio.aida_document(H=4, in_gain=3.5, out_gain=-6)[0],
        "aida2.json": audio.aida_document(H=4, I=2)[0],
        "rtneural.json": {
            "in_shape": [None, None, 2],
            "layers": audio.described(
                [
                    ("time-distributed-dense", "tanh", 4, [audio.draw(2, 4), audio.draw(4)]),
                    ("lstm", "", 3, audio.keras_lstm(4, 3)[:2]),
                    ("activation", "relu", 3, []),
                    ("dense", "softmax", 2, [audio.draw(3, 2)]),
                ]
            ),
        },
        "guitarml.json": {
            "model_data": {"model": "SimpleRNN", "input_size": 2, "skip": 1, "output_size": 1, "unit_type": "LSTM"}
            | {"num_layers": 1, "hidden_size": 3, "bias_fl": True},
            "state_dict": {
                "rec.weight_ih_l0": audio.draw(12, 2).tolist(),
                "rec.weight_hh_l0": audio.draw(12, 3).tolist(),
                "rec.bias_ih_l0": audio.draw(12).tolist(),
                "rec.bias_hh_l0": audio.draw(12).tolist(),
                "lin.weight": audio.draw(1, 3).tolist(),
                "lin.bias": audio.draw(1).tolist(),
            },
        },
    }
    for name, document in documents.items():
        document = document[0] if isinstance(document, tuple) else document
        (folder / f"audio-{name}").write_text(json.dumps(document))
