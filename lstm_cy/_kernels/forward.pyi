from ..typing import Array
from .network import Network, Packed
from .records import RowOrder, Saved

def forward(
    network: Network,
    x: Array,
    y: Array,
    inner: Array | None,
    h: Array,
    c: Array,
    batch_first: bool,
    rows: RowOrder,
    keep: list[Array] | None,
    scale: float,
    tape: list[Saved | None] | None,
    threads: int,
    masks: list[tuple[Array | None, Array | None, Array | None]] | None = None,
    recurrent_scale: float = 1.0,
) -> None: ...
def forward_at(
    network: Packed,
    T: int,
    B: int,
    batch_first: bool,
    rows: RowOrder,
    x: int,
    y: int,
    h0: int,
    c0: int,
    h: int,
    c: int,
    keep: int,
    scale: float,
    tape: int,
    threads: int,
) -> None: ...
