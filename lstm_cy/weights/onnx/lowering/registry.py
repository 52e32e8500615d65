"""The tables of lowerings: the other modules of this package fill them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...plans.values import Value

    Lowering = Callable[..., list[Value]]

#: {operator: function(builder, node, inputs)}
LOWERINGS: dict[str, Lowering] = {}

# Operators whose results' shapes follow from the shapes of their inputs
_PLAIN = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitwiseAnd BitwiseNot
BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Concat Conv ConvInteger Cos Cosh CumSum DequantizeLinear Div Dropout
DynamicQuantizeLinear Elu Equal Erf Exp EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization IsInf IsNaN
LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization MatMul MatMulInteger Max MaxPool
MeanVarianceNormalization Min Mish Mod Mul Neg Not Or PRelu Pow QuantizeLinear RMSNormalization Reciprocal Relu
ReverseSequence Round Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Softmax Softplus
Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Transpose Trilu Where Xor LSTM
"""
#: {operator: indices of the inputs whose values, besides the shapes of all, decide on the shapes of the results}; it
#: lacks operators of which nothing is known beforehand
STRUCTURAL: dict[str, tuple[int, ...]] = dict.fromkeys(_PLAIN.split(), ()) | {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}
STRUCTURAL |= {f"Reduce{kind}": (1,) for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod")}
STRUCTURAL |= {f"Reduce{kind}": (1,) for kind in ("Sum", "SumSquare")}


def lowering(*names: str) -> Callable[[Lowering], Lowering]:
    """Decorate the lowering of operators, which is registered under their names."""

    def register(function: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(names, function))
        return function

    return register
