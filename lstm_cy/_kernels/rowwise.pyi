from typing import Any, Self

from typing_extensions import disjoint_base

from ..typing import Array

FUNCTIONS: dict[str, int]

@disjoint_base
class RowPart:
    def __new__(cls, kind: str, inputs: int, outputs: int, **options: Any) -> Self: ...
    @property
    def kind(self) -> str: ...
    @property
    def is_steady(self) -> bool: ...

def normalize(x: Array, eps: float, normal: Array, scale: Array) -> None: ...
