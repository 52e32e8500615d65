from typing import Any, Self

from typing_extensions import disjoint_base

@disjoint_base
class Packer: ...

@disjoint_base
class Network(Packer):
    def __new__(
        cls,
        kernels: object,
        blas: object,
        hidden_size: int,
        output_size: int,
        num_directions: int,
        reverse: bool,
        itemsize: int,
        weights: list[tuple[Any, ...]],
        proj_clip: float | None,
        variants: list[tuple[Any, ...]] | None,
    ) -> Self: ...
