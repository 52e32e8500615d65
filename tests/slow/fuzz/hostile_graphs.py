"""Hostile .onnx files for hostile.py: huge constants, many empty fields, nested graphs."""

import numpy as np
import onnx
from mutations_binary import varint
from onnx import helper, numpy_helper

KINDS = {}


def kind(function):
    KINDS[function.__name__] = function
    return function


def model(nodes=(), tensors=(), outputs=("y",), properties=()):
    outs = [helper.make_tensor_value_info(name, 1, None) for name in outputs]
    graph = helper.make_graph(list(nodes), "g", [], outs, initializer=list(tensors))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(made, dict(properties))
    return ".onnx", made.SerializeToString()


def raw(graph, before=b""):
    """Return a model with the given bytes of its graph."""
    return ".onnx", before + b"\x08\x08\x3a" + varint(len(graph)) + graph + b"\x42\x02\x10\x11"


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name, values, dtype="i8"):
    return numpy_helper.from_array(np.array(values, dtype), name)


def node(kind, inputs, outputs, **options):
    return helper.make_node(kind, inputs.split(), outputs.split(), **options)


def filled(size, name="a", value=1.0, dtype=1):
    """Return a node that makes a large constant, and its shape."""
    return node("ConstantOfShape", f"{name}s", name, value=helper.make_tensor("v", dtype, [1], [value])), tensor(
        f"{name}s", size
    )


@kind
def onnx_empty_fields(rng, n):
    one = varint(rng.choice((1, 2, 5, 11, 12, 13)) << 3 | 2) + b"\0"
    return raw(one * 10 * n) if rng.random() < 0.7 else raw(b"", b"\x72\0" * 10 * n)


@kind
def onnx_folds_one(rng, n):
    """One operator has a large result, takes long, or occurs many times."""
    large, shape = filled([rng.choice((n, 40 * n, 12_000_000, 2**40))], dtype=rng.choice((1, 7, 10, 11)))
    kinds = ("ReduceMax", "ReduceProd", "Sum", "Identity", "Abs", "ArgMax", "Cast", "Softmax", "Erf", "Pow", "MatMul",
        "Concat", "Tile",
             "Expand", "Pad", "Gather", "Where", "Transpose", "Range", "Reshape", "Unsqueeze", "Split",
             "Slice")  # fmt: skip
    kind = rng.choice(kinds)
    inputs = {"Pow": "a a", "MatMul": "a a", "Tile": "a as", "Expand": "a as", "Pad": "a p", "Gather": "a i",
        "Where": "a a a",
              "Range": "zero as0 one", "Reshape": "a as", "Unsqueeze": "a zero1", "Slice": "a p p",
              "Sum": "a a"}.get(kind, "a")  # fmt: skip
    options = {"Cast": {"to": 11}, "Concat": {"axis": 0}, "ArgMax": {"axis": 0}}.get(kind, {})
    repeats = rng.choice((1, 30, 3000))
    nodes = [large, *(node(kind, inputs, f"y{i}", **options) for i in range(repeats))]
    tensors = [shape, tensor("p", [n, n]), tensor("i", [0] * min(n, 10_000)), tensor("zero", 0), tensor("one", 1),
               tensor("zero1", [0]), tensor("as0", 10**9)]  # fmt: skip
    return model(nodes, tensors, ["y0"])


@kind
def onnx_folds_doubling(rng, n):
    kind = rng.choice(("Concat", "Add", "Mul", "Tile", "Expand"))
    two = {"Tile": "two", "Expand": "two"}.get(kind)
    nodes = [
        node(kind, f"v{i} {two or f'v{i}'}", f"v{i + 1}", **({"axis": 0} if kind == "Concat" else {}))
        for i in range(min(n, 3000))
    ]
    return model(nodes, [tensor("v0", [1.0] * 4, "f4"), tensor("two", [2])], [f"v{len(nodes)}"])


@kind
def onnx_lstms_share(rng, n):
    H = rng.choice((1, 100, 700, 3000))
    shapes = [filled([1, 4 * H, H], "W"), filled([1, 4 * H, H], "R")]
    x = tensor("x", np.zeros((1, 1, H)), "f4")
    nodes = [node("LSTM", "x W R", f"y{i}", hidden_size=H) for i in range(rng.choice((1, 30, 1000)))]
    return model([s[0] for s in shapes] + nodes, [s[1] for s in shapes] + [x], ["y0"])


@kind
def onnx_wide_tensor(rng, n):
    made = onnx.TensorProto(name="w", data_type=rng.choice((1, 7, 8, 10)), raw_data=b"")
    made.dims.extend([rng.choice((0, 1, 2**62, -1))] * n)
    return model([node("Identity", "w", "y")], [made])


@kind
def onnx_many_nodes(rng, n):
    kinds = rng.choice((["Identity"], ["Nonsense"], ["LSTM"], ["Constant"], [f"K{i}" for i in range(100)]))
    return model(
        [node(kinds[i % len(kinds)], f"v{i}", f"v{i + 1}") for i in range(min(n, 49_000))], [tensor("v0", [1])], ["v1"]
    )


@kind
def onnx_fan(rng, n):
    """One value used by many, or one node with many inputs."""
    n = min(n, 100_000)
    inputs = "v " * n
    nodes = [node(rng.choice(("Concat", "Sum", "Max")), inputs, "y", **{})]
    return model(nodes, [tensor("v", [1.0] * rng.choice((1, 1000)), "f4")])


@kind
def onnx_nested_graphs(rng, n):
    body = b""
    for _ in range(min(n, 90)):
        attribute = field(5, field(1, b"then_branch") + field(6, body) + b"\xa0\x01\x05")
        body = field(1, field(2, b"y") + field(4, b"If") + attribute)
    return raw(body)


@kind
def onnx_long_texts(rng, n):
    text = rng.choice(("a", "\x1b", "é", "\n")) * n
    kind = rng.randrange(5)
    if kind == 0:
        return model(
            [node("Identity", "w", "y")],
            [tensor("w", [1])],
            properties={"lstm_cy": rng.choice((text, "[" * n, "9" * n))},
        )
    if kind == 1:
        return model([node(text, "w", "y")], [tensor("w", [1])])
    if kind == 2:
        return model([helper.make_node("Identity", [text], ["y"])])
    if kind == 3:
        return model([node("LSTM", "w w w", "y", activations=[text])], [tensor("w", [1.0], "f4")])
    return model([node("Cast", "w", "y", to=n), node("Identity", "w", "z")], [tensor("w", [1])], [text])


@kind
def onnx_repeated_attribute(rng, n):
    made = node("Constant", "", "y", value_ints=[1] * n)
    del made.input[:]
    extra = [helper.make_attribute("a", 1)] * min(n, 20_000)
    made.attribute.extend(extra if rng.random() < 0.5 else [])
    return model([made])
