"""The reader of protobuf messages, compared with the library onnx on valid, damaged and unusual files."""

import io
import warnings

import numpy as np
import pytest

from lstm_cy.weights.budget import Budget, LimitExceeded
from lstm_cy.weights.containers import protobuf
from lstm_cy.weights.containers.protobuf import Schema
from lstm_cy.weights.onnx.messages import MODEL, TYPE_NAMES

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

ENUMS = {"type": onnx.AttributeProto.AttributeType.values(), "data_location": TensorProto.DataLocation.values()}


def read(data):
    return protobuf.parse(io.BytesIO(data), len(data), MODEL, Budget("file", len(data), 6))


def assert_equal(found, right, schema=MODEL, path=""):
    """Compare every field that is read with the library's message."""
    for field in schema.fields.values():
        mine, theirs, where = getattr(found, field.name), getattr(right, field.name), f"{path}.{field.name}"
        inner = field.kind if isinstance(field.kind, Schema) else None
        if mine not in ENUMS.get(field.name, [mine]):
            continue  # the library leaves out unknown values; they are refused when the graph is made
        if not field.repeated:
            assert found.HasField(field.name) == right.HasField(field.name), where
            if inner is None:
                assert mine == theirs or mine != mine, where
            elif found.HasField(field.name):
                assert_equal(mine, theirs, inner, where)
        elif isinstance(field.kind, np.dtype):
            joined = np.concatenate(mine) if len(mine) else np.empty(0, field.kind)
            np.testing.assert_array_equal(joined, np.array(theirs, field.kind), where)
        elif inner is None:
            np.testing.assert_array_equal([*mine], [*theirs], where)
        else:
            assert len(mine) == len(theirs), where
            for one, other in zip(mine, theirs, strict=True):
                assert_equal(one, other, inner, where)


def example(long=1):
    """Return a ModelProto with every field that is read; some of them `long` times as long."""
    kinds = {
        TensorProto.FLOAT: [0.5, np.inf],
        TensorProto.DOUBLE: [1e300, -2.0],
        TensorProto.INT8: [-128, 127],
        TensorProto.INT64: [-(2**63), 2**40],
        TensorProto.UINT64: [2**64 - 1, 0],
        TensorProto.FLOAT16: [1.5, -2.0],
        TensorProto.BFLOAT16: [1.5, -2.0],
    }
    tensors = [helper.make_tensor(f"tensor {kind}", kind, [2], values) for kind, values in kinds.items()]
    tensors += [helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"\xff"])]
    tensors += [helper.make_tensor("raw", TensorProto.FLOAT, [200 * long], bytes(800 * long), raw=True)]
    tensors += [helper.make_tensor("many", TensorProto.INT64, [40 * long], range(-20 * long, 20 * long))]
    external = TensorProto(name="outside", data_location=TensorProto.EXTERNAL, data_type=1, dims=[2**40, 3])
    external.external_data.add(key="location", value="file \u00e4")
    inner = helper.make_graph([helper.make_node("Neg", ["x"], ["z"])], "n" * 700 * long, [], [])
    attributes = {"a": 0.5, "b": -3, "c": "text", "d": tensors[0], "e": inner}
    lists = {"f": [1.0, np.nan], "g": [-1, 2**62], "h": ["a", "b"], "i": [inner, inner]}
    node = helper.make_node("Relu", ["x", "", "raw"], ["y"], "node", "doc", "mine", **attributes, **lists)
    node.attribute[0].ref_attr_name = "other"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, "T", None, 0])
    others = [helper.make_tensor_sequence_value_info("s", 1, None), helper.make_tensor_value_info("r", 1, None)]
    graph = helper.make_graph([node], "graph", [x, *others], others, [*tensors, external], "a page", [x])
    function = helper.make_function("mine", "F", ["x"], ["y"], [node], [helper.make_opsetid("", 17)])
    made = helper.make_model(graph, functions=[function], opset_imports=[helper.make_opsetid("", 17)])
    made.producer_version = "1.2"
    helper.set_model_props(made, {"key": "value"})
    return made


def test_every_field_is_read():
    right = example(1000)
    assert_equal(read(right.SerializeToString()), right)


def test_the_names_of_types():
    assert dict(TensorProto.DataType.items()) == {name: number for number, name in enumerate(TYPE_NAMES)}


def test_damaged_files_are_refused_or_read_as_the_library_reads_them():
    data = example().SerializeToString()
    rng, same, refused = np.random.default_rng(0), 0, 0
    for trial in range(500):
        damaged = bytearray(data)
        for index in rng.integers(0, len(damaged), rng.integers(0, 3)):
            damaged[index] = rng.integers(0, 256)
        damaged = bytes(damaged[: rng.integers(0, len(damaged) + 1)] if trial % 5 == 0 else damaged)
        try:
            right = onnx.load_model_from_string(damaged)
        except Exception:  # protobuf's own classes
            right = None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                found = read(damaged)
            except ValueError:
                refused += 1
                continue
        if right is not None:
            assert_equal(found, right)
            same += 1
    assert same > 100
    assert refused > 100


def field(number, content, wire=2):
    length = bytes([len(content)]) if wire == 2 else b""
    return bytes([number << 3 | wire]) + length + content


@pytest.mark.parametrize(
    "graph",
    [
        field(5, field(4, bytes(4), 5) * 3),  # float_data, each number as its own field
        field(5, field(10, bytes(8), 1) * 2),  # double_data likewise
        field(5, field(7, b"\5\3") + field(7, b"\7", 0) + field(7, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\1")),
        field(5, field(1, b"\5\3") + field(1, b"\7", 0)),  # dims, packed and not
        field(5, field(2, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\1", 0) + field(2, b"\3", 0)),  # the last counts
        field(1, field(5, field(7, bytes(8)) + field(7, bytes(4), 5))),  # floats
        field(1, field(5, field(5, field(8, b"a")) + field(5, field(1, b"\2")))),  # a message in two parts
        field(11, field(2, field(1, b"") + field(4, b"")) + field(2, field(1, field(1, b"\1", 0)))),  # the last of two
        field(11, field(2, field(1, field(2, field(1, field(1, b"\3", 0) + field(2, b"n"))))) + b"\x98\6\5"),
        field(3, b"unknown") + field(4, bytes(8), 1) + field(6, bytes(4), 5) + field(7, b"\5", 0),
        field(2, b"\5", 0) + field(1, b"\5", 0),  # a text and a message, as numbers: unknown fields
    ],
)
def test_unusual_encodings(graph):
    data = field(7, graph)
    assert_equal(read(data), onnx.load_model_from_string(data))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x0b", "a field of type 3"),
        (b"\5", "a field without a number"),
        (field(7, field(5, field(4, bytes(5)))), "packed numbers are cut off"),
        (field(7, field(5, field(7, b"\x80"))), "packed numbers are cut off"),
        (field(7, field(5, field(7, b"\x80" * 10 + b"\1"))), "a number is too long"),
        (b"\x80" * 11, "a number is too long"),
        (b"\x3d\0", "ends too early"),
        (b"\x3a\5\0", "ends too early"),
    ],
)
def test_invalid_messages(content, message):
    with pytest.raises(ValueError, match=message):
        read(content)


def test_long_fields_are_charged_before_they_are_read():
    class Claims(io.BytesIO):
        """A file that claims to be large, of which only the first bytes may be read."""

        def read(self, size=-1):
            assert size <= 2 << 20
            return super().read(size)

    data = bytes.fromhex("3a ffffff7f 2a ffffff70 22 ffffff60")  # float_data of 200 MB
    with pytest.raises(ValueError, match="ends too early"):
        protobuf.parse(Claims(data), 1 << 28, MODEL, Budget("file", 1 << 28, 6))
    text = bytes.fromhex("12 ffffff7f")  # a producer's name of 268 MB in a file that is not larger than 1 kB
    with pytest.raises(ValueError, match="ends too early"):
        protobuf.parse(Claims(text), 1000, MODEL, Budget("file", 1000, 6))
    many = field(7, b"") + b"\x3a\x80\x80\x04" + b"\x0a\0" * 32_768
    with pytest.raises(LimitExceeded, match="file: its nodes and tensors: would take more than"):
        read(many * 2)
