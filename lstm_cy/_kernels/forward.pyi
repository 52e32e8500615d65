from ..typing import Array
from .network import Network
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
