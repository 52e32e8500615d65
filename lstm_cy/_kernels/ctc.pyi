from ..typing import Array, Ints

def ctc(
    kernels: object,
    prediction: Array,
    gradient: Array,
    targets: Ints,
    lengths: Ints,
    target_lengths: Ints,
    losses: Array,
    blank: int,
    scale: float,
    batch_first: bool,
) -> None: ...
