from typing import Any, Self

from typing_extensions import disjoint_base

from ..typing import Array

KINDS: dict[str, int]
UNARY_FUNCTIONS: dict[str, int]
BINARY_FUNCTIONS: dict[str, int]
REDUCTIONS: dict[str, int]
LIMITS: dict[str, int]

@disjoint_base
class Panels:
    def __new__(cls, kernels: object, parts: list[Array]) -> Self: ...
    @property
    def sizes(self) -> list[int]: ...
    @property
    def columns(self) -> int: ...

@disjoint_base
class Program:
    def __new__(cls, kernels: object, operations: list[tuple[Any, ...]]) -> Self: ...
    def __len__(self) -> int: ...

@disjoint_base
class Bound:
    def __new__(cls, program: Program, memories: list[Any]) -> Self: ...
    def point(self, memory: int, array: Array) -> None: ...
    def run(self, first: int, last: int, threads: int) -> None: ...
