from typing import Self

from typing_extensions import disjoint_base

@disjoint_base
class Buffer:
    def __new__(cls, bytes: int) -> Self: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def cached_bytes() -> int: ...
