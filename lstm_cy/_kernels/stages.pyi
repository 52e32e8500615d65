from typing import Any, Self

from typing_extensions import disjoint_base

@disjoint_base
class Chain:
    def __new__(cls, kernels: object, itemsize: int, parts: list[Any]) -> Self: ...
    @property
    def multiply_adds(self) -> float: ...
