from ..typing import Array, Bools, Ints
from .network import Network

def forward(
    network: Network,
    x: Array,
    y: Array,
    inner: Array | None,
    h: Array,
    c: Array,
    batch_first: bool,
    rows: tuple[Ints | Bools | Array | None, ...],
    keep: list[Array] | None,
    scale: float,
    tape: list[tuple[Array | None, ...] | None] | None,
    threads: int,
) -> None: ...
