from ..typing import Array

def sgd(
    new: Array,
    old: Array,
    grad: Array,
    states: tuple[Array, ...],
    decay: float,
    momentum: float,
    nesterov: bool,
    lr: float,
) -> bool: ...
def adam(
    new: Array,
    old: Array,
    grad: Array,
    states: tuple[Array, ...],
    decay: float,
    shrink: float,
    beta1: float,
    beta2: float,
    root: float,
    eps: float,
    rate: float,
) -> bool: ...
def rmsprop(
    new: Array,
    old: Array,
    grad: Array,
    states: tuple[Array | None, ...],
    decay: float,
    alpha: float,
    eps: float,
    momentum: float,
    centered: bool,
    rate: float,
) -> bool: ...
