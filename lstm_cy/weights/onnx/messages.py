"""The messages of an ONNX file: the fields that are read, with their numbers, and the names of element types.

Source: ONNX's onnx.proto.
"""

from __future__ import annotations

import numpy as np

from ..containers.protobuf import Field, Schema

_ENTRY = Schema({1: Field("key", str), 2: Field("value", str)})
_OPSET = Schema({1: Field("domain", str), 2: Field("version", int)})

_TENSOR = Schema(
    {
        1: Field("dims", int, True),
        2: Field("data_type", int),
        3: Field("segment", Schema({})),
        4: Field("float_data", np.dtype("<f4"), True),
        5: Field("int32_data", np.dtype(np.int32), True),
        6: Field("string_data", bytes, True),
        7: Field("int64_data", np.dtype(np.int64), True),
        8: Field("name", str),
        9: Field("raw_data", bytes),
        10: Field("double_data", np.dtype("<f8"), True),
        11: Field("uint64_data", np.dtype(np.uint64), True),
        13: Field("external_data", _ENTRY, True),
        14: Field("data_location", int),
    },
    cost=24,
)

_DIMENSION = Schema({1: Field("dim_value", int, group="value"), 2: Field("dim_param", str, group="value")})
_SHAPE = Schema({1: Field("dim", _DIMENSION, True)})
_TYPE = Schema(
    {
        1: Field("tensor_type", Schema({1: Field("elem_type", int), 2: Field("shape", _SHAPE)}), group="value"),
        4: Field("sequence_type", Schema({}), group="value"),
        5: Field("map_type", Schema({}), group="value"),
        7: Field("opaque_type", Schema({}), group="value"),
        8: Field("sparse_tensor_type", Schema({}), group="value"),
        9: Field("optional_type", Schema({}), group="value"),
    }
)
_VALUE = Schema({1: Field("name", str), 2: Field("type", _TYPE)}, cost=8)

_GRAPH = Schema({}, cost=16)
_ATTRIBUTE = Schema(
    {
        1: Field("name", str),
        2: Field("f", float),
        3: Field("i", int),
        4: Field("s", bytes),
        5: Field("t", _TENSOR),
        6: Field("g", _GRAPH),
        7: Field("floats", float, True),
        8: Field("ints", int, True),
        9: Field("strings", bytes, True),
        11: Field("graphs", _GRAPH, True),
        20: Field("type", int),
        21: Field("ref_attr_name", str),
    }
)
_NODE = Schema(
    {
        1: Field("input", str, True),
        2: Field("output", str, True),
        3: Field("name", str),
        4: Field("op_type", str),
        5: Field("attribute", _ATTRIBUTE, True),
        7: Field("domain", str),
    },
    cost=40,
)
# a graph holds nodes, and a node's attribute may hold a graph
_GRAPH.extend(
    {
        1: Field("node", _NODE, True),
        2: Field("name", str),
        5: Field("initializer", _TENSOR, True),
        11: Field("input", _VALUE, True),
        12: Field("output", _VALUE, True),
        15: Field("sparse_initializer", Schema({}), True),
    }
)
_FUNCTION = Schema({1: Field("name", str), 7: Field("node", _NODE, True), 10: Field("domain", str)})

#: the whole file
MODEL = Schema(
    {
        2: Field("producer_name", str),
        3: Field("producer_version", str),
        7: Field("graph", _GRAPH),
        8: Field("opset_import", _OPSET, True),
        14: Field("metadata_props", _ENTRY, True),
        25: Field("functions", _FUNCTION, True),
    }
)

# TensorProto.DataType
_NAMES = """
UNDEFINED FLOAT UINT8 INT8 UINT16 INT16 INT32 INT64 STRING BOOL FLOAT16 DOUBLE UINT32 UINT64 COMPLEX64 COMPLEX128
BFLOAT16 FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ UINT4 INT4 FLOAT4E2M1 FLOAT8E8M0 UINT2 INT2 FLOAT6E2M3
FLOAT6E3M2
"""
#: names of element types by their number
TYPE_NAMES = tuple(_NAMES.split())


def type_name(number: int) -> str:
    """Return ONNX's name of an element type."""
    return TYPE_NAMES[number] if 0 <= number < len(TYPE_NAMES) else str(number)
