"""Small random graphs, as such and with hostile sizes: a plan gives what the steps give that run one by one.

    python tests/slow/fuzz/plans.py FOUND --count 20000

A graph has one to six operators that plans know, on arrays of a few numbers, among them axes of size 0. In every fourth
graph one attribute or input of integers is huge, negative or of another length. The result of a plan's first and second
run is that of the steps, or all raise an error of the same type and text. Numbers that change as much where input
and constants change by a millionth may differ.
"""

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from runner import Cases, Finding, main, only_user_warnings

from lstm_cy.weights.onnx import from_onnx

UNARY = [
    "Relu",
    "Sigmoid",
    "Tanh",
    "Exp",
    "Softplus",
    "Sqrt",
    "Abs",
    "Neg",
    "Reciprocal",
    "LeakyRelu",
    "HardSigmoid",
    "Identity",
]
BINARY = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum"]
#: numbers that no size, stride or padding should be
HOSTILE = [-(2**63), -(2**31), -3, -1, 0, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1]
TOLERANCE = 1e-4
#: operators whose results have the same bits in a plan, so that numbers after them are rounded to the same integers
EXACT = {
    "Abs",
    "Add",
    "Cast",
    "Concat",
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "Identity",
    "MatMulInteger",
}
EXACT |= {"Max", "Min", "QuantizeLinear", "Mul", "Neg", "Pad", "Relu", "Reshape", "Slice", "Sub", "Sum", "Transpose"}


class Plans(Cases):
    seconds, bytes = 5.0, 1_000_000_000  # a graph may ask for large arrays
    label = ""

    def run(self, rng, index):
        self.rng = rng
        self.nodes, self.tensors, self.integers = [], [], []
        shape = [rng.choice((1, 2, 3, 5, 9, 0 if rng.random() < 0.1 else 4)) for _ in range(rng.randint(1, 4))]
        name, last = "x", shape
        for _ in range(rng.randint(1, 6)):
            name, last = self.add(rng.choice(ADDED), name, last)
            if last is None:
                break
        if index % 4 == 0:
            self.damage()
        self.proto = self.model(name, shape)
        self.label = self.nodes[-1].op_type
        numbers = np.random.default_rng(rng.getrandbits(32))
        x = numbers.standard_normal(shape).astype("f4")
        if rng.random() < 0.1 and x.size:
            x.reshape(-1)[rng.randrange(x.size)] = rng.choice((np.nan, np.inf, -np.inf, 0.0))
        with only_user_warnings((UserWarning, RuntimeWarning)):
            return self.compare(x)

    def compare(self, x):
        """Compare two runs of a plan with the steps."""
        try:
            graph = from_onnx(self.proto)
        except (ValueError, OSError) as error:
            return f"refused: {type(error).__name__}"
        if not hasattr(graph, "evaluate"):
            return f"is a {type(graph).__name__}"
        expected, *found = [outcome(lambda run=run: run(graph, x)) for run in (one_by_one, planned, planned)]
        for result in found:
            if isinstance(expected, str) or isinstance(result, str):
                if result != expected:
                    raise Finding("another error", f"{self.text()}\n{expected}\n{result}")
            elif [(y.shape, y.dtype) for y in result] != [(y.shape, y.dtype) for y in expected]:
                raise Finding("another shape", f"{self.text()}\n{expected}\n{result}")
            elif not all(map(agree, result, expected)) and not self.is_sensitive(x, result, expected):
                raise Finding("another result", f"{self.text()}\n{x}\n{expected}\n{result}")
        return "an error" if isinstance(expected, str) else "agrees"

    def is_sensitive(self, x, found, expected):
        """Return whether results differ only where the last bits of numbers change them, as dividing by almost 0."""
        proto = ModelProto()
        proto.CopyFrom(self.proto)
        for tensor in proto.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                tensor.CopyFrom(numpy_helper.from_array(moved_slightly(numpy_helper.to_array(tensor)), tensor.name))
        moved = outcome(lambda: one_by_one(from_onnx(proto), moved_slightly(x)))
        return not isinstance(moved, str) and all(
            np.all(np.isclose(a, b, TOLERANCE, TOLERANCE, equal_nan=True) | (abs(a - b) <= 10 * abs(other - b)))
            for a, b, other in zip(found, expected, moved, strict=True)
        )

    def text(self):
        return "\n".join(map(helper.printable_node, self.nodes))

    def keep(self, folder, name):
        path = folder / f"{name}.onnx"
        path.write_bytes(self.proto.SerializeToString())
        return str(path)

    def model(self, name, shape):
        F = TensorProto.FLOAT
        inputs, outputs = [helper.make_tensor_value_info("x", F, shape)], [helper.make_tensor_value_info(name, F, None)]
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, initializer=self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def damage(self):
        """Replace an attribute, or an input of integers, by numbers that do not fit."""
        lists = [(attribute.ints, None) for node in self.nodes for attribute in node.attribute if attribute.ints]
        lists += [(None, tensor) for tensor in self.integers]
        scalars = [a for node in self.nodes for a in node.attribute if a.type == helper.AttributeProto.INT]
        number = self.rng.choice(HOSTILE)
        if lists and (self.rng.random() < 0.7 or not scalars):
            numbers, tensor = self.rng.choice(lists)
            found = list(numbers) if tensor is None else numpy_helper.to_array(tensor).tolist()
            if self.rng.random() < 0.2:
                found = found[1:]
            elif found:
                found[self.rng.randrange(len(found))] = number
            if tensor is None:
                del numbers[:]
                numbers.extend(found)
            else:
                tensor.CopyFrom(numpy_helper.from_array(np.array(found, "i8"), tensor.name))
        elif scalars:
            self.rng.choice(scalars).i = number

    # Operators: each returns the shape of its result, or None if it is the last one

    def add(self, kind, name, shape):
        self.name, self.inputs, self.attributes = f"y{len(self.nodes)}", [name], {}
        op_type, shape = getattr(self, kind)(list(shape))
        self.nodes.append(helper.make_node(op_type, self.inputs, [self.name], **self.attributes))
        return self.name, shape

    def constant(self, array):
        name = f"{self.name}c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(array, name))
        if array.dtype == np.int64:
            self.integers.append(self.tensors[-1])
        self.inputs.append(name)

    def floats(self, *shape):
        rng = np.random.default_rng(self.rng.getrandbits(32))
        self.constant(rng.uniform(0.2, 1, shape).astype("f4"))

    def unary(self, shape):
        return self.rng.choice(UNARY), shape

    def binary(self, shape):
        other = [size if self.rng.random() < 0.6 else 1 for size in shape][self.rng.randrange(len(shape) + 1) :]
        self.floats(*other)
        if self.rng.random() < 0.3:
            self.inputs.reverse()
        return self.rng.choice(BINARY), shape

    def matmul(self, shape):
        columns = self.rng.choice((1, 3, 17))
        self.floats(shape[-1], columns)
        return "MatMul", [*shape[:-1], columns]

    def conv(self, shape):
        if len(shape) < 3:
            return "Relu", shape
        groups = self.rng.choice([size for size in (1, 2, 3, shape[1]) if size and shape[1] % size == 0] or [1])
        outputs = groups * self.rng.choice((1, 2, 5))
        self.windows(shape)
        self.attributes["group"] = groups
        self.floats(outputs, shape[1] // groups, *self.attributes["kernel_shape"])
        if self.rng.random() < 0.5:
            self.floats(outputs)
        return "Conv", self.after([shape[0], outputs, *shape[2:]])

    def quantized(self, shape):
        """Add a product or convolution of integers, as ONNX Runtime's quantize_dynamic writes them."""
        if any(node.op_type not in EXACT for node in self.nodes):
            return "Relu", shape
        x, (integers, scale, zero) = self.inputs[0], (f"{self.name}{part}" for part in "qsz")
        self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], [integers, scale, zero]))
        self.inputs = [integers]
        if len(shape) > 2 and self.rng.random() < 0.6:
            groups = self.rng.choice([size for size in (1, 2, 3, shape[1]) if size and shape[1] % size == 0] or [1])
            outputs = groups * self.rng.choice((1, 2, 5))
            self.windows(shape)
            self.attributes["group"] = groups
            kernel = outputs, shape[1] // groups, *self.attributes["kernel_shape"]
            kind, shape = "ConvInteger", self.after([shape[0], outputs, *shape[2:]])
        else:
            outputs = self.rng.choice((1, 3, 17))
            kernel, kind, shape = (shape[-1], outputs), "MatMulInteger", [*shape[:-1], outputs]
        numbers = np.random.default_rng(self.rng.getrandbits(32))
        dtype = self.rng.choice((np.int8, np.uint8))
        limits = np.iinfo(dtype)
        self.constant(numbers.integers(limits.min, limits.max, kernel, dtype, endpoint=True))
        if self.rng.random() < 0.8:
            self.inputs.append(zero)
            if self.rng.random() < 0.7:
                size = self.rng.choice(((), (1,), (outputs,)))
                self.constant(numbers.integers(limits.min, limits.max, size, dtype, endpoint=True))
        self.nodes.append(helper.make_node(kind, self.inputs, [f"{self.name}i"], **self.attributes))
        self.nodes.append(helper.make_node("Cast", [f"{self.name}i"], [f"{self.name}f"], to=TensorProto.FLOAT))
        self.nodes.append(helper.make_node("Mul", [f"{self.name}f", scale], [f"{self.name}m"]))
        self.inputs, self.attributes = [f"{self.name}m"], {}
        self.constant(np.float32(1 / 256))
        return "Mul", shape

    def rounded(self, shape):
        """Add QuantizeLinear and DequantizeLinear with one scale and zero point, or one for each index of an axis."""
        if any(node.op_type not in EXACT for node in self.nodes):
            return "Relu", shape
        numbers = np.random.default_rng(self.rng.getrandbits(32))
        axis = self.rng.randrange(len(shape))
        size = self.rng.choice(((), (1,), (shape[axis],)))
        dtype = np.dtype(self.rng.choice(("i1", "u1", "i2", "u2")))
        limits = np.iinfo(dtype)
        self.attributes = {"axis": axis}
        self.constant(numbers.uniform(0.001, 0.1, size).astype("f4"))
        if self.rng.random() < 0.8:
            self.constant(numbers.integers(limits.min, limits.max, size, dtype, endpoint=True))
        self.nodes.append(helper.make_node("QuantizeLinear", self.inputs, [f"{self.name}q"], **self.attributes))
        self.inputs = [f"{self.name}q", *self.inputs[1:]]
        return "DequantizeLinear", shape

    def pool(self, shape):
        if len(shape) < 3:
            return "Tanh", shape
        self.windows(shape)
        kind = self.rng.choice(("MaxPool", "AveragePool"))
        self.attributes["ceil_mode"] = self.rng.randint(0, 1)
        self.attributes["pads"] = [
            min(pad, size - 1)
            for pad, size in zip(self.attributes["pads"], self.attributes["kernel_shape"] * 2, strict=False)
        ]
        if kind == "AveragePool":
            del self.attributes["dilations"]
            self.attributes["count_include_pad"] = self.rng.randint(0, 1)
        return kind, None

    def windows(self, shape):
        axes = len(shape) - 2
        self.attributes["kernel_shape"] = [self.rng.randint(1, 3) for _ in range(axes)]
        self.attributes["strides"] = [self.rng.choice((1, 1, 2, 3)) for _ in range(axes)]
        self.attributes["dilations"] = [self.rng.choice((1, 1, 2)) for _ in range(axes)]
        self.attributes["pads"] = [self.rng.choice((0, 1, 2)) for _ in range(2 * axes)]

    def after(self, shape):
        """Return the shape after windows, or None where there is no window."""
        a, axes = self.attributes, len(shape) - 2
        for axis in range(axes):
            spread = (a["kernel_shape"][axis] - 1) * a["dilations"][axis] + 1
            rest = shape[axis + 2] + a["pads"][axis] + a["pads"][axis + axes] - spread
            if rest < 0:
                return None
            shape[axis + 2] = rest // a["strides"][axis] + 1
        return shape

    def transpose(self, shape):
        order = self.rng.sample(range(len(shape)), len(shape))
        self.attributes["perm"] = order
        return "Transpose", [shape[axis] for axis in order]

    def reduce(self, shape):
        axes = self.rng.sample(range(len(shape)), self.rng.randint(1, len(shape)))
        kind = self.rng.choice(("ReduceMean", "ReduceMax", "ReduceMin"))
        self.attributes |= {"axes": axes, "keepdims": self.rng.randint(0, 1)}
        kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
        if not self.attributes["keepdims"]:
            kept = [size for axis, size in enumerate(shape) if axis not in axes]
        return kind, kept or None

    def softmax(self, shape):
        self.attributes["axis"] = self.rng.choice((-1, self.rng.randrange(len(shape))))
        return self.rng.choice(("Softmax", "LogSoftmax")), shape

    def normalization(self, shape):
        axis = self.rng.randrange(len(shape))
        self.attributes |= {"axis": axis, "epsilon": 1e-3}
        self.floats(*shape[axis:])
        if self.rng.random() < 0.7:
            self.floats(*shape[axis:])
        return "LayerNormalization", shape

    def pad(self, shape):
        widths = [self.rng.choice((0, 1, 2)) for _ in range(2 * len(shape))]
        self.attributes["mode"] = self.rng.choice(("constant", "edge", "reflect"))
        self.constant(np.array(widths, "i8"))
        size = len(shape)
        return "Pad", [n + widths[axis] + widths[axis + size] for axis, n in enumerate(shape)]

    def slice(self, shape):
        axis = self.rng.randrange(len(shape))
        begin, step = self.rng.randint(0, max(shape[axis] - 1, 0)), self.rng.choice((1, 1, 2))
        for numbers in ([begin], [shape[axis]], [axis], [step]):
            self.constant(np.array(numbers, "i8"))
        shape[axis] = -(-max(shape[axis] - begin, 0) // step)
        return "Slice", shape

    def reshape(self, shape):
        self.constant(np.array([0, -1] if len(shape) > 1 and 0 not in shape else [-1], "i8"))
        return "Reshape", None if 0 in shape else [shape[0], int(np.prod(shape[1:]))] if len(shape) > 1 else shape

    def concat(self, shape):
        axis = self.rng.randrange(len(shape))
        self.floats(*[2 if place == axis else size for place, size in enumerate(shape)])
        self.attributes["axis"] = axis
        shape[axis] += 2
        return "Concat", shape


ADDED = [
    "unary",
    "unary",
    "binary",
    "binary",
    "matmul",
    "conv",
    "conv",
    "quantized",
    "quantized",
    "rounded",
    "pool",
    "transpose",
    "reduce",
    "softmax",
    "normalization",
    "pad",
    "slice",
    "reshape",
    "concat",
]


def one_by_one(graph, x):
    return graph.evaluate({"x": x})


def planned(graph, x):
    return graph.run({"x": x})


def outcome(call):
    """Return the result of a call, or its error as a text."""
    try:
        return call()
    except (ValueError, TypeError, OverflowError, IndexError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"


def moved_slightly(x):
    return (x * (1 + 1e-6 * np.random.default_rng(0).choice((-1, 1), x.shape))).astype("f4")


def agree(found, expected):
    return np.allclose(found, expected, TOLERANCE, TOLERANCE, equal_nan=True)


if __name__ == "__main__":
    main(Plans, __doc__)
