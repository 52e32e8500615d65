from ..typing import Array
from .network import Network, Packed
from .records import GradientSums, RowOrder, Saved

def backward(
    network: Network,
    dx: Array,
    dy: Array | None,
    inner: list[Array],
    dh: Array,
    dc: Array,
    batch_first: bool,
    rows: RowOrder,
    keep: list[Array] | None,
    scale: float,
    tape: list[Saved | None],
    sums: list[GradientSums],
    threads: int,
    masks: list[tuple[Array | None, Array | None, Array | None]] | None = None,
    recurrent_scale: float = 1.0,
    from_initial: bool = False,
    with_dx: bool = True,
) -> None: ...
def backward_at(
    network: Packed,
    T: int,
    B: int,
    batch_first: bool,
    rows: RowOrder,
    dx: int,
    dy: int,
    dh_n: int,
    dc_n: int,
    dh: int,
    dc: int,
    keep: int,
    scale: float,
    tape: int,
    sums: tuple[int, ...],
    bias: bool,
    threads: int,
) -> None: ...
