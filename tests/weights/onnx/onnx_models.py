"""ONNX models for tests, and sessions of ONNX Runtime."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
BOOL = TensorProto.BOOL
TYPES = {"float32": FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16, "int64": INT64, "bool": 9}


def model(nodes, inputs=(), outputs=("y",), weights=(), opset=17, types=None):
    """Return a ModelProto. `inputs` are names, or pairs of a name and a shape; `weights` is {name: array}."""
    types = types or {}

    def value(entry):
        name, shape = entry if isinstance(entry, tuple) else (entry, None)
        return helper.make_tensor_value_info(name, types.get(name, FLOAT), shape)

    tensors = [numpy_helper.from_array(np.array(array, order="C"), name) for name, array in dict(weights).items()]
    graph = helper.make_graph(list(nodes), "graph", [*map(value, inputs)], [*map(value, outputs)], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return made


def node(op_type, inputs, outputs=("y",), name="", **attributes):
    return helper.make_node(op_type, list(inputs), list(outputs), name=name, **attributes)


def session(runtime, proto):
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def weights_of(rng, D, I, H, dtype=np.float32, scale=0.3):
    """Return W, R, B and P in ONNX's layout."""
    shapes = {"W": (D, 4 * H, I), "R": (D, 4 * H, H), "B": (D, 8 * H), "P": (D, 3 * H)}
    return {name: (scale * rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}


def plain_lstm(weights, name="lstm", outputs=("y",), **attributes):
    return node("LSTM", ["x", *[key if key in weights else "" for key in "WRB"]], outputs, name=name, **attributes)


def constant(name, **attributes):
    return node("Constant", [], [name], **attributes)


def one_direction(name, weights):
    return weights[name][0]


def integers(*values):
    return np.array(values, np.int64)


def graph(nodes, inputs, outputs):
    """Return a GraphProto of (name, type) pairs."""
    shapes = dict.fromkeys(("step", "going", "on", "number_inside", "again", "more"), ())
    values = (
        [helper.make_tensor_value_info(name, kind, shapes.get(name)) for name, kind in ends]
        for ends in (inputs, outputs)
    )
    return helper.make_graph(nodes, "inner", *values)


def body(nodes, carried=(), scans=()):
    """Return the graph of a Loop with an input and output for each carried value: "a" becomes "a_next"."""
    inputs = [("step", INT64), ("going", BOOL), *((name, FLOAT) for name in carried)]
    outputs = [("on", BOOL), *((f"{name}_next", FLOAT) for name in carried), *((name, FLOAT) for name in scans)]
    return graph(nodes, inputs, outputs)
