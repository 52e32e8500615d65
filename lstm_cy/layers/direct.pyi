from .._kernels.network import Network
from ..typing import Array, State

def call(network: Network, x: object, state: object, batch_first: bool, threads: int) -> tuple[Array, State] | None: ...
