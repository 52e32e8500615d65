from ..typing import Array, Bools, Ints
from .network import Network

def backward(
    network: Network,
    dx: Array,
    dy: Array | None,
    inner: list[Array],
    dh: Array,
    dc: Array,
    batch_first: bool,
    rows: tuple[Ints | Bools | Array | None, ...],
    keep: list[Array] | None,
    scale: float,
    tape: list[tuple[Array | None, ...] | None],
    sums: list[tuple[Array | None, ...]],
    threads: int,
) -> None: ...
