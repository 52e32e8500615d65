"""Each known operator of ONNX, with random shapes, types, versions and attributes, compared with ONNX Runtime."""

import functools
import warnings

import numpy as np
import pytest

from lstm_cy.weights.onnx import from_onnx, operators, proto
from lstm_cy.weights.onnx.operators import forms
from lstm_cy.weights.onnx.proto import DTYPES

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

NUMBERS = {dtype.name: number for number, dtype in DTYPES.items()} | {"object": TensorProto.STRING}
NAMES = {"float": "float32", "double": "float64", "string": "object"}  # ONNX's names that differ
SIZES = (0, 1, 3, 17)
OPSETS = (7, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24)
TOLERANCES = {"float16": 5e-3, "float32": 2e-5, "float64": 1e-12}
DRAWS = 50
#: operators that ONNX Runtime computes in float32 also for float64
IN_FLOAT32 = ("Gelu", "GroupNormalization", "HardSwish", "Shrink", "Swish", "RMSNormalization")
#: fewest comparisons, where ONNX Runtime has kernels for few types or versions; 8 for others
LEAST = {"OneHot": 5, "RMSNormalization": 4, "Scatter": 5, "Swish": 2, "Upsample": 6}


@pytest.fixture(scope="module")
def runtime():
    found = pytest.importorskip("onnxruntime")
    found.set_default_logger_severity(4)
    return found


# Random cases: functions of (draw, opset, dtype) that return (inputs, attributes[, outputs])


class Draw:
    """Random numbers, shapes and arrays."""

    def __init__(self, *seed):
        self.rng = np.random.default_rng(seed)

    def chance(self, share=0.5):
        return self.rng.random() < share

    def of(self, *values):
        return values[self.rng.integers(len(values))]

    def int(self, low, high):
        return int(self.rng.integers(low, high))

    def shape(self, rank=None, least=0):
        rank = self.int(least, 4) if rank is None else rank
        return tuple(int(size) for size in self.rng.choice(SIZES, rank, p=(0.15, 0.25, 0.4, 0.2)))

    def broadcast(self, shape):
        """Return a shape that broadcasts to another."""
        sizes = tuple(1 if self.chance(0.3) else size for size in shape)
        return sizes[self.int(0, len(sizes) + 1) :] if self.chance() else sizes

    def axis(self, rank, negative=True):
        return self.int(-rank if negative else 0, rank)

    def signed(self, axes, rank, negative=True):
        return [int(axis) - rank * (negative and self.chance(0.4)) for axis in axes]

    def array(self, shape, dtype, special=True):
        dtype = np.dtype(dtype)
        if dtype.kind == "O":
            return self.rng.choice(["", "a", "b", "longer"], shape).astype(object)
        if dtype.kind == "f":
            array = np.asarray(2 * self.rng.standard_normal(shape))
            if special and array.size and self.chance(0.2):
                array.flat[self.int(0, array.size)] = self.of(np.nan, np.inf, -np.inf, 0.0)
            return array.astype(dtype)
        low, high = {"b": (0, 2), "u": (0, 7), "i": (-3, 4)}[dtype.kind]
        return np.asarray(self.rng.integers(low, high, shape)).astype(dtype)


def unary(draw, opset, dtype):
    return [draw.array(draw.shape(), dtype)], {}


def with_floats(**limits):
    """Make cases of one input with float attributes within these limits."""

    def case(draw, opset, dtype):
        return [draw.array(draw.shape(), dtype)], {
            name: draw.rng.uniform(*limit) for name, limit in limits.items() if draw.chance()
        }

    return case


def binary(draw, opset, dtype):
    shape = draw.shape()
    return [draw.array(draw.broadcast(shape), dtype) for _ in range(2)], {}


def division(draw, opset, dtype):
    (a, b), _ = binary(draw, opset, dtype)
    return [a, b if b.dtype.kind == "f" else np.where(b == 0, 2, b).astype(dtype)], {}


def several(draw, opset, dtype):
    shape = draw.shape()
    shapes = [draw.broadcast(shape) if opset >= 8 else shape for _ in range(draw.int(1, 4))]
    return [draw.array(shape, dtype) for shape in shapes], {}


def power(draw, opset, dtype):
    other = draw.of(dtype, "float32", "float64", "int32", "int64") if opset >= 12 else dtype
    shape = draw.shape()
    x, exponent = (draw.array(draw.broadcast(shape), kind) for kind in (dtype, other))
    return [np.abs(x) + 1 if x.dtype.kind == "i" else np.abs(x), exponent], {}


def clip(draw, opset, dtype):
    x = draw.array(draw.shape(), dtype, special=False)  # ONNX Runtime turns infinity into the largest number
    if opset < 11:
        low, high = sorted(draw.rng.uniform(-1, 1, 2))
        return [x], {name: value for name, value in (("min", low), ("max", high)) if draw.chance()}
    limits = [None if draw.chance(0.3) else draw.array((), dtype, special=False) for _ in range(draw.int(0, 3))]
    return [x, *limits], {}


def where(draw, opset, dtype):
    shape = draw.shape()
    return [draw.array(draw.broadcast(shape), kind) for kind in ("bool", dtype, dtype)], {}


def cast(draw, opset, dtype):  # of values that every type can hold
    return [np.abs(draw.array(draw.shape(), dtype, special=False))], {"to": draw.of(*DTYPES)}


def cast_like(draw, opset, dtype):
    x = np.abs(draw.array(draw.shape(), dtype, special=False))
    return [x, draw.array(draw.shape(), draw.of(*DTYPES.values()))], {}


def dropout(draw, opset, dtype):
    x, outputs = draw.array(draw.shape(), dtype), draw.int(1, 3)
    if opset < 12:  # one output: ONNX Runtime's mask is empty, that of ONNX's reference and of lstm_cy is full
        return [x], {"ratio": 0.7} if draw.chance() else {}
    ratio = [None, np.float32(0), np.float32(0.7)][draw.int(0, 3)]
    training = [None, np.bool_(False), np.bool_(ratio is not None and ratio == 0)][draw.int(0, 3)]
    return [x, ratio, training], {}, outputs


def matmul(draw, opset, dtype):
    m, k, n = draw.shape(3)
    batch = draw.shape(draw.int(0, 3))
    a, b = (*draw.broadcast(batch), m, k), (*draw.broadcast(batch), k, n)
    shapes = (k,) if draw.chance(0.15) else a, (k,) if draw.chance(0.15) else b
    return [draw.array(shape, dtype) for shape in shapes], {}


def gemm(draw, opset, dtype):
    m, k, n = draw.shape(3)
    flags = {name: draw.int(0, 2) for name in ("transA", "transB") if draw.chance(0.7)}
    a, b = ((k, m) if flags.get("transA") else (m, k)), ((n, k) if flags.get("transB") else (k, n))
    c = draw.broadcast((m, n)) if opset < 11 or draw.chance() else None
    scales = {name: draw.of(0.0, 1.0, 0.5) for name in ("alpha", "beta") if draw.chance(0.4)}
    return [draw.array(a, dtype), draw.array(b, dtype), c if c is None else draw.array(c, dtype)], flags | scales


def layer_normalization(draw, opset, dtype):
    shape = tuple(size or 1 for size in draw.shape(least=1))
    axis = draw.axis(len(shape))
    scale, bias = (draw.array(shape[axis:], dtype) for _ in range(2))
    options = {"epsilon": 0.1} if draw.chance() else {}
    axis_option = {} if axis == -1 and draw.chance() else {"axis": axis}
    return [draw.array(shape, dtype), scale, bias if draw.chance() else None], options | axis_option, draw.int(1, 4)


def batch_normalization(draw, opset, dtype):
    x = draw.array(draw.shape(draw.int(1, 4)), dtype)
    channels = x.shape[1] if x.ndim > 1 else 1
    statistics = [draw.array((channels,), dtype) for _ in range(4)]
    return [x, *statistics[:3], np.abs(statistics[3])], {"epsilon": 0.1} if draw.chance() else {}


def softmax(draw, opset, dtype):
    x = draw.array(draw.shape(least=1), dtype)
    may_be_default = opset >= 13 or x.ndim > 1
    return [x], {} if may_be_default and draw.chance(0.3) else {"axis": draw.axis(x.ndim, opset >= 11)}


def reduction(axes_are_an_input, of_nothing=True):
    def case(draw, opset, dtype):
        x, inputs, attributes = draw.array(draw.shape(), dtype), [], {}
        if not of_nothing:
            x = np.ones([size or 1 for size in x.shape], dtype) if 0 in x.shape else x
        if x.ndim and draw.chance(0.7):
            axes = draw.rng.permutation(x.ndim)[: draw.int(opset < axes_are_an_input, x.ndim + 1)]
            axes = draw.signed(axes, x.ndim, opset >= 11)
            if opset >= axes_are_an_input:
                inputs = [np.array(axes, np.int64)]
            else:
                attributes["axes"] = axes
        if draw.chance():
            attributes["keepdims"] = draw.int(0, 2)
        if opset >= axes_are_an_input and draw.chance():
            attributes["noop_with_empty_axes"] = draw.int(0, 2)
        return [x, *inputs], attributes

    return case


def arg(draw, opset, dtype):
    x = draw.array(draw.shape(least=1), dtype)
    attributes = {"axis": draw.axis(x.ndim, opset >= 11)} if draw.chance(0.7) else {}
    if draw.chance():
        attributes["keepdims"] = draw.int(0, 2)
    if opset >= 12 and draw.chance():
        attributes["select_last_index"] = draw.int(0, 2)
    return [x], attributes


def shape(draw, opset, dtype):
    ends = {name: draw.int(-5, 6) for name in ("start", "end") if opset >= 15 and draw.chance()}
    return [draw.array(draw.shape(), dtype)], ends


def constant(draw, opset, dtype):
    value = numpy_helper.from_array(draw.array(draw.shape(), dtype))
    others = [{"value_float": 1.5}, {"value_floats": [1.5, 2.0]}, {"value_int": 3}, {"value_ints": [3, 4]}]
    others += [{"value_string": b"a"}, {"value_strings": [b"a", b"b"]}]
    return [], draw.of(*others) if opset >= 12 and draw.chance() else {"value": value}


def constant_of_shape(draw, opset, dtype):
    value = {"value": numpy_helper.from_array(draw.array((1,), draw.of(*DTYPES.values())))} if draw.chance() else {}
    return [np.array(draw.shape(), np.int64)], value


def expand(draw, opset, dtype):
    full = draw.shape()
    return [draw.array(draw.broadcast(full), dtype), np.array(draw.broadcast(full), np.int64)], {}


def range_(draw, opset, dtype):
    start, limit, step = (draw.array((), dtype, special=False) for _ in range(3))
    return [start, limit, step if step else np.ones((), dtype)], {}


def tile(draw, opset, dtype):
    x = draw.array(draw.shape(), dtype)
    return [x, draw.rng.integers(0, 4, x.ndim)], {}


def pad(draw, opset, dtype):
    x = draw.array(draw.shape(least=1), dtype)
    mode = draw.of("constant", "constant", "edge", "reflect", *(["wrap"] if opset >= 19 else []))
    axes = np.arange(x.ndim)
    if opset >= 18 and draw.chance():
        axes = draw.rng.permutation(x.ndim)[: draw.int(0, x.ndim + 1)]
    if mode == "constant":
        pads = draw.rng.integers(-3, 5, 2 * len(axes))
    else:  # larger pads are not defined by ONNX
        most = np.tile([min(3, x.shape[axis]) for axis in axes], 2)
        pads = (draw.rng.random(2 * len(axes)) * most).astype(np.int64)
    attributes = {} if mode == "constant" and draw.chance() else {"mode": mode}
    if opset < 11:
        return [x], attributes | {"pads": pads.tolist() or [0]} | ({"value": 1.5} if draw.chance() else {})
    value = draw.array((), dtype) if mode == "constant" and draw.chance() else None
    signed = np.array(draw.signed(axes, x.ndim), draw.of("int32", "int64"))
    return [x, pads, value, signed if opset >= 18 and (len(axes) < x.ndim or draw.chance()) else None], attributes


def reshape(draw, opset, dtype):
    x = draw.array(draw.shape(), dtype)
    attributes = {"allowzero": draw.int(0, 2)} if opset >= 14 and draw.chance() else {}
    target = list(x.shape)
    if not attributes.get("allowzero"):
        target = [0 if draw.chance(0.3) else size for size in target]
    if target and 0 not in x.shape and draw.chance():
        target[draw.int(0, len(target))] = -1
    if draw.chance(0.3):
        target.append(1)
    return [x, np.array(target, np.int64)], attributes


def flatten(draw, opset, dtype):
    x = draw.array(draw.shape(least=1), dtype)
    return [x], {"axis": draw.int(-x.ndim if opset >= 11 else 0, x.ndim + 1)} if draw.chance() else {}


def transpose(draw, opset, dtype):
    x = draw.array(draw.shape(), dtype)
    return [x], {"perm": draw.rng.permutation(x.ndim).tolist()} if x.ndim and draw.chance(0.7) else {}


def squeeze(draw, opset, dtype):
    sizes = list(draw.shape(draw.int(0, 3)))
    for _ in range(2):
        sizes.insert(draw.int(0, len(sizes) + 1), 1)
    ones = draw.rng.permutation([axis for axis, size in enumerate(sizes) if size == 1])
    axes = draw.signed(ones[: draw.int(1, len(ones) + 1)], len(sizes), opset >= 11)
    return with_axes(draw.array(sizes, dtype), None if draw.chance(0.3) else axes, opset)


def unsqueeze(draw, opset, dtype):
    x = draw.array(draw.shape(), dtype)
    rank = x.ndim + draw.int(1, 3)
    axes = draw.rng.permutation(rank)[: rank - x.ndim]
    return with_axes(x, draw.signed(axes, rank, opset >= 11), opset)


def with_axes(x, axes, opset):
    if axes is None:
        return [x], {}
    return ([x, np.array(axes, np.int64)], {}) if opset >= 13 else ([x], {"axes": axes})


def concat(draw, opset, dtype):
    sizes = list(draw.shape(least=1))
    axis, arrays = draw.axis(len(sizes), opset >= 11), []
    for _ in range(draw.int(1, 4)):
        sizes[axis] = draw.of(*SIZES)
        arrays.append(draw.array(sizes, dtype))
    return arrays, {"axis": axis}


def split(draw, opset, dtype):
    sizes = list(draw.shape(least=1))
    axis, count = draw.axis(len(sizes), opset >= 11), draw.int(1, 4)
    attributes = {} if axis == 0 and draw.chance() else {"axis": axis}
    if draw.chance():
        parts = draw.rng.integers(0, 4, count)
        sizes[axis] = int(parts.sum())
        x = draw.array(sizes, dtype)
        return ([x, parts], attributes, count) if opset >= 13 else ([x], attributes | {"split": parts.tolist()}, count)
    if opset >= 18:
        attributes["num_outputs"] = count
    uneven = draw.int(0, count) if opset >= 18 else 0
    sizes[axis] = count * draw.int(1, 3) - min(uneven, 1)
    return [draw.array(sizes, dtype)], attributes, count


def slice_(draw, opset, dtype):
    x = draw.array(draw.shape(least=1), dtype)
    axes = draw.rng.permutation(x.ndim)[: draw.int(1, x.ndim + 1)]
    starts, ends, steps = (
        [draw.of(*values) for _ in axes]
        for values in ((-(2**40), -18, -3, -1, 0, 1, 5, 20, 2**40), (-18, -2, -1, 0, 1, 3, 20), (-3, -1, 1, 2))
    )
    if opset < 10:
        return [x], {"starts": starts, "ends": ends, "axes": axes.tolist()}
    narrow = draw.chance()
    indices = [np.array(part, np.int64) for part in (starts, ends, draw.signed(axes, x.ndim), steps)]
    indices = [np.clip(part, -(2**31) + 1, 2**31 - 2).astype(np.int32) if narrow else part for part in indices]
    inputs = [x, *indices]
    return inputs[: draw.of(4, 5)], {}


def gather(draw, opset, dtype):
    x = draw.array(draw.shape(least=1), dtype)
    axis = draw.axis(x.ndim)
    size, found = x.shape[axis], draw.shape(draw.int(0, 3))
    indices = draw.rng.integers(-size if opset >= 11 else 0, size, found) if size else np.zeros((0,))
    return [x, indices.astype(draw.of("int32", "int64"))], {} if axis == 0 else {"axis": axis}


def gather_elements(draw, opset, dtype):
    x = draw.array(draw.shape(least=1), dtype)
    axis = draw.axis(x.ndim)
    size, found = x.shape[axis], [draw.int(0, size + 1) for size in x.shape]
    found[axis] = draw.of(0, 1, 5) if size else 0
    return [x, draw.rng.integers(-size, size or 1, found)], {} if axis == 0 else {"axis": axis}


def gather_nd(draw, opset, dtype):
    x = draw.array([size or 1 for size in draw.shape(least=1)], dtype)
    batch = draw.int(0, x.ndim) if opset >= 12 else 0
    indexed = x.shape[batch : batch + draw.int(1, x.ndim - batch + 1)]
    batch_shape = x.shape[:batch] + draw.shape(draw.int(0, 2))
    indices = np.stack([draw.rng.integers(-size, size, batch_shape) for size in indexed], -1)
    return [x, indices], {"batch_dims": batch} if batch or (opset >= 12 and draw.chance()) else {}


def reverse_sequence(draw, opset, dtype):
    x = draw.array(draw.shape(draw.int(2, 4)), dtype)
    time = draw.int(0, 2)
    lengths = draw.rng.integers(min(1, x.shape[time]), x.shape[time] + 1, x.shape[1 - time])
    return [x, lengths], {} if time == 0 and draw.chance() else {"time_axis": time, "batch_axis": 1 - time}


def spatial(draw, axes=None):
    """Return (N, C, *sizes) of an input with small spatial axes."""
    axes = draw.int(1, 4) if axes is None else axes
    return (draw.int(1, 4), draw.int(1, 5), *(draw.int(3, 10) for _ in range(axes)))


def window(draw, shape, kernel, **also):
    """Draw the attributes of windows; `also` are further attributes, each drawn from its values."""
    axes = len(kernel)
    mode = draw.of("NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    options = {} if mode == "NOTSET" else {"auto_pad": mode}
    if draw.chance(0.7):
        options["strides"] = [draw.int(1, 4) for _ in range(axes)]
    if mode == "NOTSET" and draw.chance():
        options["pads"] = [draw.int(0, size) for size in (*kernel, *kernel)]
    return options | {name: draw.of(*values) for name, values in also.items() if draw.chance(0.7)}


def conv(draw, opset, dtype):
    shape, groups = spatial(draw), draw.of(1, 1, 2, 3)
    channels = groups * draw.of(1, 1, 2)
    kernel = tuple(draw.int(1, 4) for _ in shape[2:])
    options = window(draw, shape, kernel) | ({"group": groups} if groups > 1 or draw.chance(0.2) else {})
    if options.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and draw.chance():
        options["dilations"] = [draw.int(1, 3) if size < 3 else 1 for size in kernel]
    if draw.chance():
        options["kernel_shape"] = kernel
    outputs = groups * draw.int(1, 4)
    inputs = [
        draw.array(size, dtype, special=False)
        for size in ((shape[0], channels, *shape[2:]), (outputs, channels // groups, *kernel), (outputs,))
    ]
    return inputs[: draw.int(2, 4)], options


def conv_transpose(draw, opset, dtype):
    shape, groups = spatial(draw), draw.of(1, 1, 2, 3)
    channels, axes = groups * draw.of(1, 1, 2), len(shape) - 2
    kernel = tuple(draw.int(1, 4) for _ in range(axes))
    options = {"strides": [draw.int(1, 4) for _ in kernel]} if draw.chance(0.7) else {}
    if draw.chance(0.3):
        options["dilations"] = [draw.int(1, 3) for _ in kernel]
    kind = draw.int(0, 5)
    if kind == 0:
        options["pads"] = [draw.int(0, size) for size in (*kernel, *kernel)]
    elif kind == 1:
        options["auto_pad"] = draw.of("VALID", "SAME_UPPER", "SAME_LOWER")
        if options["auto_pad"] != "VALID":
            options.pop("strides", None)  # ONNX Runtime leaves elements out where a stride is longer than the kernel
    elif kind == 2 and "strides" in options:
        options["output_padding"] = [draw.int(0, size) for size in options["strides"]]
    elif kind == 3:
        options["output_shape"] = [draw.int(size - 1, size + 2) for size in shape[2:]]
    if groups > 1:
        options["group"] = groups
    each = draw.int(1, 4)
    sizes = (shape[0], channels, *shape[2:]), (channels, each, *kernel), (each * groups,)
    return [draw.array(size, dtype, special=False) for size in sizes][: draw.int(2, 4)], options


def resize(draw, opset, dtype):
    shape = spatial(draw, draw.int(1, 3))
    mode = draw.of("nearest", "linear", "cubic") if opset > 10 and len(shape) == 4 else draw.of("nearest", "linear")
    by_sizes = opset > 10 and draw.chance()
    scales = np.float32([1, 1, *(draw.of(0.5, 1, 2, 3, 1.5) for _ in shape[2:])])
    sizes = [*shape[:2], *(draw.int(1, 12) for _ in shape[2:])]
    options = {"mode": mode}
    if opset > 10:
        options["coordinate_transformation_mode"] = draw.of("half_pixel", "asymmetric", "pytorch_half_pixel")
        if by_sizes and draw.chance():
            options["coordinate_transformation_mode"] = draw.of("align_corners", "half_pixel")
        if mode == "nearest":
            options["nearest_mode"] = draw.of("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        elif mode == "cubic" and draw.chance():
            options |= {"cubic_coeff_a": -0.5} | ({"exclude_outside": 1} if draw.chance() else {})
    x = draw.array(shape, dtype if mode == "nearest" else "float32", special=False)
    if opset < 11:
        return [x, scales], options
    return ([x, None, None, integers(*sizes)] if by_sizes and opset > 12 else [x, np.float32([]), scales]), options


def upsample(draw, opset, dtype):
    shape, mode = spatial(draw, 2), draw.of("nearest", "linear")
    scales = [1, 1, *(draw.of(1, 2, 3, 1.5) for _ in shape[2:])]
    x = draw.array(shape, "float32", special=False)
    return ([x], {"mode": mode, "scales": scales}) if opset < 9 else ([x, np.float32(scales)], {"mode": mode})


def einsum(draw, opset, dtype):
    equation = draw.of("ij,jk->ik", "bij, bkj -> bik", "...ij,...jk", "ii->i", "ij->ji", "i,j", "bhwc,hkc->bhwk",
                       "bthd,bshd->bhts", "ij,ij->", "ij,jk,kl->il")  # fmt: skip
    sizes = {letter: draw.of(1, 2, 3, 5) for letter in "abcdefghijklmnopqrstuvwxyz"}
    terms = equation.replace(" ", "").split("->")[0].replace("...", "ab").split(",")
    return [draw.array([sizes[x] for x in term], dtype, special=False) for term in terms], {"equation": equation}


def conv_integer(draw, opset, dtype):
    (x, w, *_), options = conv(draw, opset, dtype)
    w = w.astype(draw.of("int8", "uint8")) if x.dtype == np.uint8 else w
    x, w = ((array * 17).astype(array.dtype) for array in (x, w))
    zeros = [draw.array((), x.dtype) * x.dtype.type(9), draw.array((), w.dtype)]
    return [x, w, *zeros[: draw.int(0, 3)]], options


def pool(outputs=1, **also):
    def case(draw, opset, dtype):
        shape = spatial(draw)
        kernel = tuple(draw.int(1, 4) for _ in shape[2:])
        kept = {name: values for name, values in also.items() if name in form_of(outputs, opset).attributes}
        options = window(draw, shape, kernel, **kept) | {"kernel_shape": kernel}
        if options.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            options.pop("dilations", None)
            options.pop("ceil_mode", None)
            options.pop("strides", None)  # ONNX Runtime skips elements where a stride is longer than the kernel
        if "dilations" in options:
            options["dilations"] = [1 if size == 3 else 2 for size in kernel]
        return [draw.array(shape, dtype, special=False)], options, draw.int(1, outputs + 1)

    def form_of(outputs, opset):
        return form("MaxPool" if outputs == 2 else "AveragePool", opset)

    return case


def of_spatial(draw, opset, dtype):
    return [draw.array(spatial(draw), dtype, special=False)], {}


def instance_normalization(draw, opset, dtype):
    x = draw.array(spatial(draw), dtype, special=False)
    scales = [draw.array(x.shape[1:2], dtype, special=False) for _ in range(2)]
    return [x, *scales], {"epsilon": 0.1} if draw.chance() else {}


def group_normalization(draw, opset, dtype):
    groups, each = draw.int(1, 4), draw.int(1, 4)
    shape = (draw.int(1, 3), groups * each, *(draw.int(2, 5) for _ in range(draw.int(1, 3))))
    channels = groups if opset < 21 else groups * each
    scales = [draw.array((channels,), dtype, special=False) for _ in range(2)]
    options = {"epsilon": 0.1} if draw.chance() else {}
    return [draw.array(shape, dtype, special=False), *scales], options | {"num_groups": groups}


def rms_normalization(draw, opset, dtype):
    (x, scale, _), options, _ = layer_normalization(draw, opset, dtype)
    return [x, scale], options


def lp_normalization(draw, opset, dtype):
    x = draw.array(draw.shape(least=1), dtype, special=False)
    options = {"axis": draw.axis(x.ndim)} if draw.chance() else {}
    return [x], options | ({"p": draw.of(1, 2)} if draw.chance(0.7) else {})


def mean_variance_normalization(draw, opset, dtype):
    return [draw.array(spatial(draw, 2), dtype, special=False)], {"axes": [0, 2]} if draw.chance() else {}


def quantize_linear(draw, opset, dtype):
    shape = tuple(draw.int(1, 6) for _ in range(draw.int(2, 4)))
    axis = draw.int(-len(shape), len(shape)) if opset >= 13 else 1
    size = (shape[axis],) if opset >= 13 and draw.chance() else ()
    x, scale = draw.array(shape, dtype, special=False) * dtype_of(dtype)(20), draw.array(size, dtype, special=False)
    zero = draw.array(size, draw.of("int8", "uint8"))
    scale = np.abs(scale) + scale.dtype.type(0.01)
    return [x, scale, *([zero] if draw.chance(0.8) else [])], {} if axis == 1 else {"axis": axis}


def dequantize_linear(draw, opset, dtype):
    shape = tuple(draw.int(1, 6) for _ in range(draw.int(2, 4)))
    axis = draw.int(-len(shape), len(shape)) if opset >= 13 else 1
    size = (shape[axis],) if opset >= 13 and draw.chance() else ()
    zero = [] if dtype == "int32" or draw.chance(0.3) else [draw.array(size, dtype)]
    scale = draw.array(size, "float32", special=False)
    return [draw.array(shape, dtype), scale, *zero], {} if axis == 1 else {"axis": axis}


def dtype_of(name):
    return np.dtype(name).type


def matmul_integer(draw, opset, dtype):
    (a, b), _ = matmul(draw, opset, dtype)
    a, b = (np.ones([size or 1 for size in array.shape], dtype) if 0 in array.shape else array for array in (a, b))
    b = (b.astype(draw.of("int8", "uint8")) if a.dtype == np.uint8 else b) * b.dtype.type(7)
    zeros = [draw.array((), a.dtype), draw.array((), b.dtype)]
    if b.ndim > 1 and draw.chance(0.3):
        zeros[1] = draw.array(b.shape[-1:] if b.ndim == 2 else (), b.dtype)
    return [a, b, *zeros[: draw.int(0, 3)]], {}


def prelu(draw, opset, dtype):
    x = draw.array(draw.shape(least=1), dtype)
    return [x, draw.array(draw.broadcast(x.shape), dtype)], {}


def mod(draw, opset, dtype):
    (a, b), _ = division(draw, opset, dtype)
    return [a, np.where(b == 0, 2, b).astype(dtype)], {"fmod": 1} if a.dtype.kind == "f" or draw.chance() else {}


def top_k(draw, opset, dtype):
    x = draw.array([size or 1 for size in draw.shape(least=1)], dtype, special=False)
    axis = draw.axis(x.ndim)
    k, options = draw.int(0 if opset >= 10 else 1, x.shape[axis] + 1), {} if axis == -1 else {"axis": axis}
    if opset < 10:
        return [x], options | {"k": k}, 2
    return [x, np.array([k])], options | ({"largest": draw.int(0, 2)} if opset >= 11 and draw.chance() else {}), 2


def scatter_elements(draw, opset, dtype):
    x = draw.array([size or 1 for size in draw.shape(least=1)], dtype, special=False)
    axis = draw.axis(x.ndim)
    sizes = [draw.int(1, size + 1) for size in x.shape]
    indices = np.stack([draw.rng.permutation(x.shape[axis])[: sizes[axis]] for _ in range(1)])[0]
    shape = [1] * x.ndim
    shape[axis] = -1
    indices = np.broadcast_to(indices.reshape(shape), sizes) - (x.shape[axis] if opset >= 11 and draw.chance() else 0)
    reductions = {16: ("none", "add", "mul"), 18: ("none", "add", "mul", "max", "min")}
    known = reductions[16 if opset < 18 else 18] if opset >= 16 else ("none",)
    options = {"reduction": draw.of(*known)} if opset >= 16 else {}
    return [x, indices, draw.array(sizes, dtype, special=False)], options | {"axis": axis}


def scatter_nd(draw, opset, dtype):
    x = draw.array([size or 1 for size in draw.shape(least=1)], dtype, special=False)
    rows = np.stack([draw.rng.permutation(x.shape[0])[: draw.int(1, x.shape[0] + 1)]], -1)
    reductions = {16: ("none", "add", "mul"), 18: ("none", "add", "mul", "max", "min")}
    known = reductions[16 if opset < 18 else 18] if opset >= 16 else ("none",)
    updates = draw.array((len(rows), *x.shape[1:]), dtype, special=False)
    return [x, rows, updates], {"reduction": draw.of(*known)} if opset >= 16 else {}


def trilu(draw, opset, dtype):
    x = draw.array(draw.shape(draw.int(2, 4)), dtype)
    k = [np.array(draw.int(-20, 20))] if draw.chance(0.7) else []
    return [x, *k], {"upper": draw.int(0, 2)} if draw.chance() else {}


def cumsum(draw, opset, dtype):
    x = draw.array(draw.shape(least=1), dtype, special=False)
    axis = np.array(draw.axis(x.ndim), draw.of("int32", "int64"))
    return [x, axis], {name: draw.int(0, 2) for name in ("exclusive", "reverse") if draw.chance()}


def one_hot(draw, opset, dtype):
    indices = draw.array(draw.shape(least=1), dtype)
    depth, values = np.array([draw.int(3, 6)]), draw.array((2,), "float32", special=False)
    return [indices, depth, values], {"axis": draw.int(-1, indices.ndim + 1)} if draw.chance() else {}


def eye_like(draw, opset, dtype):
    options = {"k": draw.int(-4, 5)} if draw.chance() else {}
    return [draw.array(draw.shape(2), dtype)], options | ({"dtype": draw.of(1, 7, 11)} if draw.chance() else {})


def is_inf(draw, opset, dtype):
    signs = {name: draw.int(0, 2) for name in ("detect_negative", "detect_positive") if draw.chance()}
    return [np.array([np.inf, -np.inf, np.nan, 1.0], dtype)], signs


def shrink(draw, opset, dtype):
    options = {name: draw.rng.uniform(0, 1) for name in ("lambd", "bias")} if np.dtype(dtype).kind == "f" else {}
    return [draw.array(draw.shape(), dtype, special=False)], options


def inside_one(draw, opset, dtype):  # where the inverse functions are defined
    return [(draw.rng.random(draw.shape()) * 0.9).astype(dtype)], {}


def above_one(draw, opset, dtype):
    return [(draw.rng.random(draw.shape()) + 1).astype(dtype)], {}


CASES = {
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor"), binary),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceSumSquare"), reduction(18)),
    **dict.fromkeys(("ReduceLogSum", "ReduceLogSumExp"), reduction(18, of_nothing=False)),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), of_spatial),
    **dict.fromkeys(("Acos", "Asin", "Atanh"), inside_one),
    **dict.fromkeys(("Scatter", "ScatterElements"), scatter_elements),
    "Acosh": above_one,
    "AveragePool": pool(1, count_include_pad=(0, 1), ceil_mode=(0, 1), dilations=(1,)),
    "Celu": with_floats(alpha=(0.5, 2)),
    "Conv": conv,
    "ConvInteger": conv_integer,
    "ConvTranspose": conv_transpose,
    "CumSum": cumsum,
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": lambda draw, opset, dtype: ([draw.array(draw.shape(), dtype, special=False)], {}, 3),
    "Einsum": einsum,
    "EyeLike": eye_like,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "IsInf": is_inf,
    "LpNormalization": lp_normalization,
    "MatMulInteger": matmul_integer,
    "MaxPool": pool(2, ceil_mode=(0, 1), dilations=(1,), storage_order=(0, 1)),
    "MeanVarianceNormalization": mean_variance_normalization,
    "Mod": mod,
    "OneHot": one_hot,
    "PRelu": prelu,
    "QuantizeLinear": quantize_linear,
    "Resize": resize,
    "RMSNormalization": rms_normalization,
    "ScatterND": scatter_nd,
    "Shrink": shrink,
    "Swish": with_floats(alpha=(0.5, 2)),
    "TopK": top_k,
    "Trilu": trilu,
    "Upsample": upsample,
    **dict.fromkeys(("Add", "And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), binary),
    **dict.fromkeys(("Mul", "Or", "Sub", "Xor"), binary),
    **dict.fromkeys(("Max", "Min", "Sum"), several),
    **dict.fromkeys(("ArgMax", "ArgMin"), arg),
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceProd"), reduction(18)),
    "ReduceSum": reduction(13),
    "ReduceMean": reduction(18, of_nothing=False),  # an empty array has mean NaN here, 0 in ONNX Runtime
    "Elu": with_floats(alpha=(-1, 2)),
    "LeakyRelu": with_floats(alpha=(-1, 2)),
    "ThresholdedRelu": with_floats(alpha=(-1, 2)),
    "HardSigmoid": with_floats(alpha=(-1, 2), beta=(-1, 1)),
    "Selu": with_floats(alpha=(0.5, 2), gamma=(0.5, 2)),
    "Gelu": lambda draw, opset, dtype: (
        [draw.array(draw.shape(), dtype, special=False)],
        draw.of({}, {"approximate": "none"}, {"approximate": "tanh"}),
    ),
    "BatchNormalization": batch_normalization,
    "Cast": cast,
    "CastLike": cast_like,
    "Clip": clip,
    "Concat": concat,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Div": division,
    "Dropout": dropout,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Gemm": gemm,
    "LayerNormalization": layer_normalization,
    "MatMul": matmul,
    "Pad": pad,
    "Pow": power,
    "Range": range_,
    "Reshape": reshape,
    "ReverseSequence": reverse_sequence,
    "Shape": shape,
    "Slice": slice_,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Where": where,
}


@functools.cache
def form(name, opset):
    """Return the schema of an operator in a version, or None."""
    try:
        found = onnx.defs.get_schema(name, min(opset, onnx.defs.onnx_opset_version()), "")
    except onnx.defs.SchemaError:
        return None
    return None if found.deprecated else found


def dtypes_of(name, opset):
    """Return the dtypes of the operator's first input, or of its output if it has none."""
    entry = form(name, opset).inputs
    if name in ("ReduceLogSum", "ReduceLogSumExp"):  # ONNX's last version has no integers
        return ["float32", "float64"]
    if name == "OneHot":
        return ["int32", "int64"]
    entry = entry[1 if name == "Where" else 0] if entry else form(name, opset).outputs[0]
    known = {NAMES.get(dtype[7:-1], dtype[7:-1]) for dtype in entry.types if dtype.startswith("tensor(")}
    supported = [*(dtype.name for dtype in DTYPES.values()), *(["object"] if name in operators.OF_STRINGS else [])]
    return [dtype for dtype in supported if dtype in known]


def graph_of(name, opset, inputs, attributes, outputs):
    """Return (ModelProto, feeds) of a single node."""
    arrays = {f"x{index}": np.asarray(array) for index, array in enumerate(inputs) if array is not None}
    names = [f"x{index}" if array is not None else "" for index, array in enumerate(inputs)]
    while names and not names[-1]:
        names.pop()
    results = [f"y{index}" for index in range(outputs)]
    values = [helper.make_tensor_value_info(key, NUMBERS[a.dtype.name], None) for key, a in arrays.items()]
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node(name, names, results, **attributes)],
            "graph",
            values,
            [helper.make_empty_tensor_value_info(key) for key in results],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
    )
    made.ir_version = 8
    return made, arrays


def runtime_results(runtime, proto, feeds):
    """Return the results of ONNX Runtime, or None if it raises."""
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(result) for result in session.run(None, feeds)]
    except Exception:  # its own classes: no kernel for the type, or an invalid input
        return None


def random_case(name, index):
    """Return (ModelProto, feeds) of a random case of an operator, or None if the version does not have it."""
    draw = Draw(index, *name.encode())
    opset = OPSETS[index % len(OPSETS)] if name != "Constant" else draw.of(*OPSETS)
    if form(name, opset) is None:
        return None
    dtype = draw.of(*dtypes_of(name, opset))
    inputs, attributes, *outputs = CASES.get(name, unary)(draw, opset, dtype)
    return graph_of(name, opset, inputs, attributes, *(outputs or [1]))


KINDS = {"Single": "x", "Optional": "?", "Variadic": "*"}


@pytest.mark.parametrize("opset", proto.OPSETS)
def test_definitions_of_operators_are_those_of_onnx(opset):
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip("this release of onnx is older")
    for name in {"LSTM", *operators.OPERATORS}:
        mine, right = forms.form(name, opset), form(name, opset)
        if right is None or "." in name:
            assert mine is None or "." in name
            continue
        assert mine.attributes == {key: int(entry.type.value) for key, entry in right.attributes.items()}, name
        assert set(mine.required) == {key for key, entry in right.attributes.items() if entry.required}, name
        assert mine.inputs == "".join(KINDS[entry.option.name] for entry in right.inputs), name
        assert (mine.least, mine.most, mine.outputs) == (right.min_input, right.max_input, right.max_output), name


@pytest.mark.parametrize("name", sorted(operators.OPERATORS))
def test_results_equal_onnx_runtimes(runtime, name):
    compared = 0
    for index in range(DRAWS):
        case = random_case(name, index)
        expected = case and runtime_results(runtime, *case)
        if expected is None:
            continue
        proto, feeds = case
        for value, right in zip(proto.graph.output, expected, strict=True):
            value.CopyFrom(helper.make_tensor_value_info(value.name, NUMBERS[right.dtype.name], None))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NaN among constants
            results = from_onnx(proto).run(feeds)
        for result, right in zip(results, expected, strict=True):
            description = (
                f"{helper.printable_node(proto.graph.node[0])} of version {proto.opset_import[0].version}: {feeds}"
            )
            assert (result.dtype, result.shape) == (right.dtype, right.shape), description
            if right.dtype == object:
                assert (result == right).all(), description
            else:
                tolerance = TOLERANCES.get(right.dtype.name, 0)
                tolerance = max(tolerance, 1e-4) if name in IN_FLOAT32 else tolerance
                np.testing.assert_allclose(result, right, tolerance, tolerance, err_msg=description)
        compared += 1
    assert compared >= LEAST.get(name, 8)


# Cases that ONNX Runtime does not support or does not define


def run(name, inputs, opset=17, outputs=1, dtype="float32", **attributes):
    proto, feeds = graph_of(name, opset, inputs, attributes, outputs)
    for value in proto.graph.output:
        value.CopyFrom(helper.make_tensor_value_info(value.name, NUMBERS[dtype], None))
    results = from_onnx(proto).run(feeds)
    return results[0] if outputs == 1 else results


def integers(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "uint8", "uint64"])
def test_maximum_and_minimum_of_empty_arrays(dtype):
    x = np.zeros((2, 0, 3), dtype)
    limits = np.array([-np.inf, np.inf]) if x.dtype.kind == "f" else np.iinfo(dtype)
    low, high = limits if x.dtype.kind == "f" else (limits.min, limits.max)
    for name, right in (("ReduceMax", low), ("ReduceMin", high)):
        for result in (run(name, [x], axes=[1], dtype=dtype), run(name, [x, integers(1)], 18, dtype=dtype)):
            assert result.shape == (2, 1, 3)
            assert result.dtype == dtype
            assert (result == right).all()


def test_the_mean_of_an_empty_array():
    assert np.isnan(run("ReduceMean", [np.zeros((0, 2), np.float32)], axes=[0])).all()
    assert not run("ReduceMean", [np.zeros((0, 2), np.int32)], axes=[0], dtype="int32").any()


def test_argmax_and_argmin_of_empty_arrays():
    for name in ("ArgMax", "ArgMin"):
        assert run(name, [np.zeros((0, 0), np.float32)], axis=1, dtype="int64").shape == (0, 1)
        assert run(name, [np.float32(3)], dtype="int64").shape == ()
        with pytest.raises(ValueError, match=name):
            run(name, [np.zeros((0, 2), np.float32)], axis=0, dtype="int64")


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_softmax_of_empty_arrays(name, axis, shape):
    assert run(name, [np.zeros(shape, np.float32)], axis=axis).shape == shape


def test_softmax_and_sum_of_many_float16():
    (result,) = run("Softmax", [np.zeros((1, 20_000), np.float16)], dtype="float16")
    np.testing.assert_allclose(result, np.float16(1 / 20_000))
    assert run("ReduceSum", [np.ones(70_000, np.float16) / 2], dtype="float16", keepdims=0) == 35_008


def test_required_inputs_may_not_be_omitted():
    a = np.ones(2, np.float32)
    for name, inputs, options in (
        ("Concat", [a, None, a], {"axis": 0}),
        ("Max", [None, a], {}),
        ("Sum", [a, None, a], {}),
        ("Where", [a > 0, None, a], {}),
        ("Slice", [a, None, integers(1)], {}),
        ("Gather", [None, integers(0)], {}),
    ):
        with pytest.raises(ValueError, match=rf"\({name}\): input \d is left out, which this operator needs"):
            run(name, inputs, **options)
    with pytest.raises(ValueError, match=r"\(Gather\): expected 2 to 2 inputs, got 1"):
        run("Gather", [a])


@pytest.mark.parametrize("pads", [(0, -7), (-3, -3), (-9, 2), (2, -8)])
def test_pads_that_remove_more_than_an_axis_are_refused(pads):
    with pytest.raises(ValueError, match=r"\(Pad\): pads: .* remove more than an axis of size 5 has"):
        run("Pad", [np.ones(5, np.float32), integers(*pads)])


def test_dropout_in_training_is_refused_unless_its_ratio_is_0():
    x = np.ones(3, np.float32)
    y, mask = run("Dropout", [x, np.float32(0), np.bool_(True)], outputs=2, dtype="float32")
    assert (y == x).all()
    assert mask.all()
    for ratio in (None, np.float32(0.5)):
        with pytest.raises(ValueError, match="training_mode is true"):
            run("Dropout", [x, ratio, np.bool_(True)])


def test_mismatched_inputs_are_refused_and_not_broadcast():
    a = np.ones((2, 3), np.float32)
    vector = np.ones(3, np.float32)
    constant, lengths = numpy_helper.from_array(vector), integers(1, 2, 0)
    two, parts = {"value_float": 1.0, "value_int": 1}, {"axis": 1, "outputs": 2}
    for message, name, inputs, options in (
        ("expected statistics of shape", "BatchNormalization", [a, vector[:1], vector, vector, vector], {}),
        ("expected statistics of shape", "BatchNormalization", [vector, *[vector] * 4], {}),
        ("Scale: shape", "LayerNormalization", [a[:, :1], vector], {}),
        ("min: expected one number", "Clip", [a, vector], {}),
        ("indices: shape", "GatherElements", [a[:1], np.zeros((2, 3), np.int64)], {"axis": 1}),
        ("indices: shape", "GatherElements", [a, integers(0)], {}),
        ("indices: shape", "GatherND", [a, np.zeros((2, 3), np.int64)], {}),
        ("batch_dims", "GatherND", [a, np.zeros((3, 1), np.int64)], {"batch_dims": 1}),
        ("perm: expected each of 2 axes once", "Transpose", [a], {"perm": [-1, 0]}),
        ("expected a start, end and step for each axis", "Slice", [a, integers(0), integers(2), integers(0, 1)], {}),
        ("expected a start", "Slice", [a, integers(0, 0), integers(2, 2), integers(0, -2)], {}),
        ("with allowzero either 0 or -1", "Reshape", [a[:0], integers(0, -1)], {"allowzero": 1}),
        ("expected numbers, got strings", "Add", [np.array(["a"], object)] * 2, {}),
        ("expected inputs of one type, got float32, float64", "Add", [a, a.astype(float)], {}),
        (r"expected two matrices, got shapes \(2, 3\) and \(3,\)", "Gemm", [a, vector], {}),
        (r"expected two matrices, got shapes \(3,\) and \(2, 3\)", "Gemm", [vector, a], {}),
        (r"shape: expected a vector of integers, got float32 of shape \(3,\)", "Reshape", [a, vector], {}),
        (r"shape: expected a vector of integers, got int64 of shape \(1, 2\)", "Reshape", [a, integers([3, 2])], {}),
        (r"shape: expected no negative size, got \[2, -1\]", "Expand", [a, integers(2, -1)], {}),
        (r"shape: \[-1, -1\] does not fit an input of shape \(2, 3\)", "Reshape", [a, integers(-1, -1)], {}),
        (r"shape: \[-2, 3\] does not fit an input of shape \(2, 3\)", "Reshape", [a, integers(-2, 3)], {}),
        (r"shape: \[2, 3, 0\] does not fit an input of shape \(2, 3\)", "Reshape", [a, integers(2, 3, 0)], {}),
        ("axis: expected -2 to 1, got 2", "Gather", [a, integers(0)], {"axis": 2}),
        ("axis: expected -2 to 1, got -3", "Gather", [a, integers(0)], {"axis": -3}),
        ("expected one value, got value_(float|int), value_(float|int)$", "Constant", [], two),
        ("value: expected one element, got 3", "ConstantOfShape", [integers(2)], {"value": constant}),
        ("repeats: expected 2 of them, got 1", "Tile", [a, integers(2)], {}),
        (r"pads: expected two for each axis of \[0, 1\], got \[1, 1, 1\]", "Pad", [a, integers(1, 1, 1)], {}),
        (
            r"pads: expected two for each axis of \[1, 1\]",
            "Pad",
            [a, integers(1, 1, 1, 1), None, integers(1, -1)],
            {"opset": 18},
        ),
        ("3 is not split evenly into 2", "Split", [a], {"axis": 1, "outputs": 2}),
        ("2 is not split evenly into 2", "Split", [a], {"num_outputs": 1, "outputs": 2, "opset": 18}),
        (r"split: expected 2 sizes that add up to 3, got \[1, 1\]", "Split", [a, integers(1, 1)], parts),
        (r"split: expected 2 sizes that add up to 3, got \[3\]", "Split", [a, integers(3)], parts),
        ("batch_dims: 2 does not fit shapes", "GatherND", [a, np.zeros((2, 3), np.int64)], {"batch_dims": 2}),
        ("time_axis, batch_axis: expected 0 and 1, got 1 and 1", "ReverseSequence", [a, lengths], {"time_axis": 1}),
        (r"sequence_lens: expected 3 lengths of 0 to 2, got \[1 2\]", "ReverseSequence", [a, lengths[:2]], {}),
        (r"sequence_lens: expected 3 lengths of 0 to 2, got \[2 3 1\]", "ReverseSequence", [a, lengths + 1], {}),
        (r"sequence_lens: expected 3 lengths of 0 to 2, got \[ *0  1 -1\]", "ReverseSequence", [a, lengths - 1], {}),
    ):
        with pytest.raises(ValueError, match=message):
            run(name, inputs, **options)
    assert (run("Gather", [a, integers(0)], axis=-2) == a[:1]).all()
    assert (run("Gather", [a, integers(0)], axis=1) == a[:, :1]).all()
    assert run("ReverseSequence", [np.array([[1, 2, 3], [4, 5, 6]], np.float32), lengths]).tolist() == [
        [1, 5, 3],
        [4, 2, 6],
    ]


def test_strings_are_compared():
    proto, _ = graph_of("Equal", 19, [np.array(["a"], object)] * 2, {}, 1)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y0", NUMBERS["bool"], None))
    words = helper.make_tensor("x1", TensorProto.STRING, [2], [b"yes", "j\u00e4".encode()])
    del proto.graph.input[1]
    proto.graph.initializer.append(words)
    model = from_onnx(proto.SerializeToString())
    assert model.inputs[0].dtype == object
    for given in (["yes", "no"], np.array(["yes", "no"]), np.array([["yes", "no"]], object)):
        np.testing.assert_array_equal(model.run({"x0": given})[0].ravel(), [True, False])
    assert model.run({"x0": "j\u00e4"})[0].tolist() == [False, True]
    for given in ([1, 2], [b"yes", b"no"], ["yes", None]):
        with pytest.raises(TypeError, match="x0: expected strings"):
            model.run({"x0": given})


def test_defaults_are_rounded_to_float32():
    x = np.array([-1.0])
    result = run("LeakyRelu", [x], dtype="float64")
    np.testing.assert_array_equal(result, run("LeakyRelu", [x], dtype="float64", alpha=0.01))


def test_hostile_windows_are_refused_before_they_cost_anything():
    x, weight, huge = np.ones((1, 1, 8), np.float32), np.ones((1, 1, 3), np.float32), 2**62
    for message, name, inputs, options in (
        (r"a result of shape .* takes", "Conv", [x, weight], {"pads": [2**31, 2**31]}),
        ("pads: expected 2 numbers from 0", "Conv", [x, weight], {"pads": [-1, 0]}),
        ("strides: expected 1 numbers from 1", "Conv", [x, weight], {"strides": [0]}),
        ("is larger than the padded input", "Conv", [x, weight], {"dilations": [huge]}),
        (r"a result of shape .* takes", "Conv", [x, weight], {"dilations": [huge], "auto_pad": "SAME_UPPER"}),
        ("group: 0 does not fit", "Conv", [x, weight], {"group": 0}),
        ("B: expected shape", "Conv", [x, weight, np.ones(2, np.float32)], {}),
        ("kernel_shape: .* does not fit", "Conv", [x, weight], {"kernel_shape": [2]}),
        ("kernel_shape: .* is too large", "MaxPool", [x], {"kernel_shape": [10**8], "pads": [10**8, 10**8]}),
        ("kernel_shape: .* is too large", "AveragePool", [x], {"kernel_shape": [huge]}),
        ("kernel_shape: .* is larger than the padded input", "AveragePool", [x], {"kernel_shape": [9]}),
        ("K: expected 0 to 8", "TopK", [x, integers(huge)], {"outputs": 2}),
        (r"a result of shape .* takes", "OneHot", [x, integers(huge), np.ones(2, np.float32)], {}),
    ):
        with pytest.raises(ValueError, match=message):
            run(name, inputs, **options)
    for stride in (huge, 9):
        assert run("Conv", [x, weight], strides=[stride]).shape == (1, 1, 1)
