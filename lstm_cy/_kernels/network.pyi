from typing import Self

from typing_extensions import disjoint_base

from ..typing import State
from .records import CellOptions, DirectionWeights

@disjoint_base
class Packer: ...

@disjoint_base
class Packed(Packer): ...

@disjoint_base
class Network(Packed):
    def __new__(
        cls,
        kernels: object,
        blas: object,
        hidden_size: int,
        output_size: int,
        num_directions: int,
        reverse: bool,
        itemsize: int,
        weights: list[DirectionWeights],
        proj_clip: float | None,
        variants: list[CellOptions] | None,
        zoneout: tuple[float, float] = (0.0, 0.0),
        initial: State | None = None,
        bf16: bool = False,
    ) -> Self: ...
    @property
    def weights(self) -> list[DirectionWeights]: ...
    @property
    def variants(self) -> list[CellOptions] | None: ...
    @property
    def initial(self) -> State | None: ...
    @property
    def proj_clip(self) -> float | None: ...
    @property
    def zoneout(self) -> tuple[float, float]: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def output_size(self) -> int: ...
    @property
    def kernels(self) -> object: ...
    rounded: Network | None

@disjoint_base
class Copied(Packed):
    def __new__(
        cls,
        kernels: object,
        blas: object,
        hidden_size: int,
        output_size: int,
        num_directions: int,
        itemsize: int,
        inputs: tuple[int, ...],
        bias: bool,
        addresses: tuple[int, ...],
        bf16: bool = False,
    ) -> Self: ...
    def equals(self, addresses: tuple[int, ...], most: int) -> bool: ...

ACTIVATION_KINDS: dict[str, int]
COUPLING_KINDS: dict[str | None, int]
CACHE_LINE_BYTES: int
EXTRA_PARTS: tuple[int, int]
SHARE_STARTS: dict[str, int]

def tape_width(inputs: int, hidden_size: int, output_size: int) -> int: ...
