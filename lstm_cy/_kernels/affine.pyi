from typing import Self

from typing_extensions import disjoint_base

from ..typing import Array
from .network import Packer

@disjoint_base
class Affine(Packer):
    def __new__(cls, kernels: object, blas: object, itemsize: int, weight: Array, bias: Array | None) -> Self: ...
    def __call__(self, x: Array, y: Array) -> None: ...
    def backward(self, x: Array, dy: Array, dx: Array, weight_sum: Array, bias_sum: Array | None) -> None: ...
