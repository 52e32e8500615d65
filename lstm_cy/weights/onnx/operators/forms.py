"""ONNX's definitions of the operators: attributes with their types, numbers of inputs and outputs, for each version.

Source: ONNX's Changelog.md.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

#: domain of ONNX Runtime's own operators
MICROSOFT = "com.microsoft"

# One line for each version in which the definition changes: operator, or several with commas; version; inputs (x:
# required, ?: optional, *: any number); least number of inputs; most outputs (*: any number); attributes with their
# type (f, i, s, t, g: a float, integer, string, tensor, graph; F, I, S: lists; T: a sparse tensor), followed by ! if
# they are required. Version 7 stands for earlier ones too.
_TABLE = """
Abs 7 x 1 1
Acos 7 x 1 1
Acosh 9 x 1 1
Add 7 xx 2 1
And 7 xx 2 1
ArgMax 7 x 1 1 axis:i keepdims:i
ArgMax 12 x 1 1 axis:i keepdims:i select_last_index:i
ArgMin 7 x 1 1 axis:i keepdims:i
ArgMin 12 x 1 1 axis:i keepdims:i select_last_index:i
Asin 7 x 1 1
Asinh 9 x 1 1
Atan 7 x 1 1
Atanh 9 x 1 1
AveragePool 7 x 1 1 auto_pad:s count_include_pad:i kernel_shape:I! pads:I strides:I
AveragePool 10 x 1 1 auto_pad:s ceil_mode:i count_include_pad:i kernel_shape:I! pads:I strides:I
AveragePool 19 x 1 1 auto_pad:s ceil_mode:i count_include_pad:i dilations:I kernel_shape:I! pads:I strides:I
BatchNormalization 7 xxxxx 5 5 epsilon:f momentum:f spatial:i
BatchNormalization 9 xxxxx 5 5 epsilon:f momentum:f
BatchNormalization 14 xxxxx 5 3 epsilon:f momentum:f training_mode:i
BitwiseAnd 18 xx 2 1
BitwiseNot 18 x 1 1
BitwiseOr 18 xx 2 1
BitwiseXor 18 xx 2 1
Cast 7 x 1 1 to:i!
Cast 19 x 1 1 saturate:i to:i!
Cast 24 x 1 1 round_mode:s saturate:i to:i!
CastLike 15 xx 2 1
CastLike 19 xx 2 1 saturate:i
CastLike 24 xx 2 1 round_mode:s saturate:i
Ceil 7 x 1 1
Celu 12 x 1 1 alpha:f
Clip 7 x 1 1 max:f min:f
Clip 11 x?? 1 1
Concat 7 * 1 1 axis:i!
Constant 7 - 0 1 value:t!
Constant 11 - 0 1 sparse_value:T value:t
Constant 12 - 0 1 sparse_value:T value:t value_float:f value_floats:F value_int:i value_ints:I value_string:s \
value_strings:S
ConstantOfShape 9 x 1 1 value:t
Conv 7 xx? 2 1 auto_pad:s dilations:I group:i kernel_shape:I pads:I strides:I
ConvInteger 10 xx?? 2 1 auto_pad:s dilations:I group:i kernel_shape:I pads:I strides:I
ConvTranspose 7 xx? 2 1 auto_pad:s dilations:I group:i kernel_shape:I output_padding:I output_shape:I pads:I strides:I
Cos 7 x 1 1
Cosh 9 x 1 1
CumSum 11 xx 2 1 exclusive:i reverse:i
DequantizeLinear 10 xx? 2 1
DequantizeLinear 13 xx? 2 1 axis:i
DequantizeLinear 21 xx? 2 1 axis:i block_size:i
DequantizeLinear 23 xx? 2 1 axis:i block_size:i output_dtype:i
Div 7 xx 2 1
Dropout 7 x 1 2 ratio:f
Dropout 12 x?? 1 2 seed:i
DynamicQuantizeLinear 11 x 1 3
Einsum 12 * 1 1 equation:s!
Elu 7 x 1 1 alpha:f
Equal 7 xx 2 1
Erf 9 x 1 1
Exp 7 x 1 1
Expand 8 xx 2 1
EyeLike 9 x 1 1 dtype:i k:i
Flatten 7 x 1 1 axis:i
Floor 7 x 1 1
Gather 7 xx 2 1 axis:i
GatherElements 11 xx 2 1 axis:i
GatherND 11 xx 2 1
GatherND 12 xx 2 1 batch_dims:i
Gelu 20 x 1 1 approximate:s
Gemm 7 xxx 3 1 alpha:f beta:f transA:i transB:i
Gemm 11 xx? 2 1 alpha:f beta:f transA:i transB:i
GlobalAveragePool 7 x 1 1
GlobalMaxPool 7 x 1 1
Greater 7 xx 2 1
GreaterOrEqual 12 xx 2 1
GroupNormalization 18 deprecated
GroupNormalization 21 xxx 3 1 epsilon:f num_groups:i! stash_type:i
HardSigmoid 7 x 1 1 alpha:f beta:f
HardSwish 14 x 1 1
Identity 7 x 1 1
If 7 x 1 * else_branch:g! then_branch:g!
InstanceNormalization 7 xxx 3 1 epsilon:f
IsInf 10 x 1 1 detect_negative:i detect_positive:i
IsNaN 9 x 1 1
LSTM 7 xxx????? 3 3 activation_alpha:F activation_beta:F activations:S clip:f direction:s hidden_size:i input_forget:i
LSTM 14 xxx????? 3 3 activation_alpha:F activation_beta:F activations:S clip:f direction:s hidden_size:i \
input_forget:i layout:i
LayerNormalization 17 xx? 2 3 axis:i epsilon:f stash_type:i
LeakyRelu 7 x 1 1 alpha:f
Less 7 xx 2 1
LessOrEqual 12 xx 2 1
Log 7 x 1 1
LogSoftmax 7 x 1 1 axis:i
Loop 7 ??* 3 * body:g!
Loop 11 ??* 2 * body:g!
LpNormalization 7 x 1 1 axis:i p:i
MatMul 7 xx 2 1
MatMulInteger 10 xx?? 2 1
Max 7 * 1 1
MaxPool 7 x 1 1 auto_pad:s kernel_shape:I! pads:I strides:I
MaxPool 8 x 1 2 auto_pad:s kernel_shape:I! pads:I storage_order:i strides:I
MaxPool 10 x 1 2 auto_pad:s ceil_mode:i dilations:I kernel_shape:I! pads:I storage_order:i strides:I
MeanVarianceNormalization 9 x 1 1 axes:I
Min 7 * 1 1
Mish 18 x 1 1
Mod 10 xx 2 1 fmod:i
Mul 7 xx 2 1
Neg 7 x 1 1
NonZero 9 x 1 1
Not 7 x 1 1
OneHot 9 xxx 3 1 axis:i
Or 7 xx 2 1
PRelu 7 xx 2 1
Pad 7 x 1 1 mode:s pads:I! value:f
Pad 11 xx? 2 1 mode:s
Pad 18 xx?? 2 1 mode:s
Pow 7 xx 2 1
QuantizeLinear 10 xx? 2 1
QuantizeLinear 13 xx? 2 1 axis:i
QuantizeLinear 19 xx? 2 1 axis:i saturate:i
QuantizeLinear 21 xx? 2 1 axis:i block_size:i output_dtype:i saturate:i
QuantizeLinear 23 xx? 2 1 axis:i block_size:i output_dtype:i precision:i saturate:i
RMSNormalization 23 xx 2 1 axis:i epsilon:f stash_type:i
Range 11 xxx 3 1
Range 27 xxx 3 1 stash_type:i
Reciprocal 7 x 1 1
ReduceL1,ReduceL2,ReduceLogSum,ReduceLogSumExp,ReduceMax,ReduceMean,ReduceMin,ReduceProd,ReduceSumSquare 7 \
x 1 1 axes:I keepdims:i
ReduceL1,ReduceL2,ReduceLogSum,ReduceLogSumExp,ReduceMax,ReduceMean,ReduceMin,ReduceProd,ReduceSumSquare 18 \
x? 1 1 keepdims:i noop_with_empty_axes:i
ReduceSum 7 x 1 1 axes:I keepdims:i
ReduceSum 13 x? 1 1 keepdims:i noop_with_empty_axes:i
Relu 7 x 1 1
Reshape 7 xx 2 1
Reshape 14 xx 2 1 allowzero:i
Resize 10 xx 2 1 mode:s
Resize 11 xxx? 3 1 coordinate_transformation_mode:s cubic_coeff_a:f exclude_outside:i extrapolation_value:f mode:s \
nearest_mode:s
Resize 13 x??? 1 1 coordinate_transformation_mode:s cubic_coeff_a:f exclude_outside:i extrapolation_value:f mode:s \
nearest_mode:s
Resize 18 x??? 1 1 antialias:i axes:I coordinate_transformation_mode:s cubic_coeff_a:f exclude_outside:i \
extrapolation_value:f keep_aspect_ratio_policy:s mode:s nearest_mode:s
ReverseSequence 10 xx 2 1 batch_axis:i time_axis:i
Round 11 x 1 1
Scatter 9 xxx 3 1 axis:i
Scatter 11 deprecated
Scan 9 * 1 * body:g! num_scan_inputs:i! scan_input_axes:I scan_input_directions:I scan_output_axes:I \
scan_output_directions:I
ScatterElements 11 xxx 3 1 axis:i
ScatterElements 16 xxx 3 1 axis:i reduction:s
ScatterND 11 xxx 3 1
ScatterND 16 xxx 3 1 reduction:s
Selu 7 x 1 1 alpha:f gamma:f
Shape 7 x 1 1
Shape 15 x 1 1 end:i start:i
Shrink 9 x 1 1 bias:f lambd:f
Sigmoid 7 x 1 1
Sign 9 x 1 1
Sin 7 x 1 1
Sinh 9 x 1 1
Size 7 x 1 1
Slice 7 x 1 1 axes:I ends:I! starts:I!
Slice 10 xxx?? 3 1
Softmax 7 x 1 1 axis:i
Softplus 7 x 1 1
Softsign 7 x 1 1
Split 7 x 1 * axis:i split:I
Split 13 x? 1 * axis:i
Split 18 x? 1 * axis:i num_outputs:i
Sqrt 7 x 1 1
Squeeze 7 x 1 1 axes:I
Squeeze 13 x? 1 1
Sub 7 xx 2 1
Sum 7 * 1 1
Swish 24 x 1 1 alpha:f
Tan 7 x 1 1
Tanh 7 x 1 1
ThresholdedRelu 10 x 1 1 alpha:f
Tile 7 xx 2 1
TopK 7 x 1 2 axis:i k:i!
TopK 10 xx 2 2 axis:i
TopK 11 xx 2 2 axis:i largest:i sorted:i
Transpose 7 x 1 1 perm:I
Trilu 14 x? 1 1 upper:i
Unsqueeze 7 x 1 1 axes:I!
Unsqueeze 13 xx 2 1
Upsample 7 x 1 1 mode:s scales:F!
Upsample 9 xx 2 1 mode:s
Upsample 10 deprecated
Where 9 xxx 3 1
Xor 7 xx 2 1
"""
# com.microsoft has one version.
_MICROSOFT_TABLE = """
DynamicQuantizeLSTM 1 xxx?????xxxx 12 3 activation_alpha:F activation_beta:F activations:S clip:f direction:s \
hidden_size:i input_forget:i
"""
# the limit of any number of inputs or outputs
_ANY = 2**31 - 1
# AttributeProto.AttributeType
_TYPES = {"f": 1, "i": 2, "s": 3, "t": 4, "g": 5, "F": 6, "I": 7, "S": 8, "T": 11}


class Form(NamedTuple):
    """The definition of an operator in one version.

    Attributes
    ----------
    attributes : dict of str to int
        The AttributeType of each attribute.
    required : list of str
        Attributes that must be given.
    inputs : str
        A letter for each input: x (required), ? (optional) or, at the end, * (any number of required inputs).
    least : int
        The fewest inputs.
    outputs : int
        The most outputs.
    """

    attributes: dict[str, int]
    required: list[str]
    inputs: str
    least: int
    outputs: int

    @property
    def most(self) -> int:
        """The most inputs."""
        return _ANY if self.inputs.endswith("*") else len(self.inputs)

    def needs(self, index: int) -> bool:
        """Return whether an input is required; the last may stand for any number of inputs."""
        return self.inputs[min(index, len(self.inputs) - 1)] != "?"


@functools.lru_cache(maxsize=1024)
def form(name: str, opset: int) -> Form | None:
    """Return the definition of an operator in a version; None if the version does not have it."""
    found = None
    for line in _lines().get(name, ()):
        if line[1] <= opset:
            found = line[2]
    return None if found is None or found[0] == "deprecated" else _form(*found)


@functools.cache
def _lines() -> dict[str, list[tuple[str, int, list[str]]]]:
    """Return the lines of each operator; those of another domain have it before their name."""
    found: dict[str, list[tuple[str, int, list[str]]]] = {}
    for table, prefix in ((_TABLE, ""), (_MICROSOFT_TABLE, f"{MICROSOFT}.")):
        for line in table.strip().splitlines():
            names, version, *words = line.split()
            for name in names.split(","):
                found.setdefault(prefix + name, []).append((name, int(version), words))
    return found


def _form(inputs: str, least: str, outputs: str, *attributes: str) -> Form:
    types, required = {}, []
    for text in attributes:
        name, code = text.rstrip("!").split(":")
        types[name] = _TYPES[code]
        if text.endswith("!"):
            required.append(name)
    return Form(types, required, inputs.strip("-"), int(least), _ANY if outputs == "*" else int(outputs))
