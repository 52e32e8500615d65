"""lstm_cy.torch compared with torch.nn.LSTM: the same module and input, in turns, in one process.

    python benchmarks/torch_module.py                     # all shapes, one thread
    python benchmarks/torch_module.py --threads 2
    python benchmarks/torch_module.py --quick

Each row is a ratio of medians, PyTorch's time over ours, float32. Results are compared before they are timed.
PyTorch is imported where it is used: asv imports every file of this folder, with PyTorch or without.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

#: batch, steps, inputs, hidden units
FORWARD = [
    (1, 1, 32, 32),
    (1, 1, 128, 128),
    (1, 100, 32, 32),
    (1, 100, 64, 64),
    (1, 100, 128, 128),
    (1, 100, 256, 256),
    (1, 50, 512, 512),
    (4, 50, 64, 64),
    (4, 50, 128, 128),
    (8, 50, 64, 64),
    (8, 50, 128, 128),
    (32, 50, 256, 256),
    (64, 25, 512, 512),
]
TRAINING = [
    (1, 100, 128, 128),
    (8, 50, 64, 64),
    (16, 50, 32, 64),
    (12, 40, 100, 200),
    (32, 50, 256, 256),
    (64, 25, 512, 512),
]
PACKED = [(32, 50, 64, 64), (32, 100, 128, 128)]
QUICK = 2  # shapes of each kind


def median_ratio(theirs: Callable[[], Any], ours: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """Return the medians of both, in microseconds, of calls that take turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for call in (theirs, ours):
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for call, found in zip((theirs, ours), times, strict=True):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return statistics.median(times[0]) * 1e6, statistics.median(times[1]) * 1e6


def modules(input_size: int, hidden_size: int) -> tuple[nn.Module, nn.Module]:
    """Return PyTorch's module and ours, with equal weights."""
    import torch
    from torch import nn

    import lstm_cy.torch

    torch.manual_seed(0)
    plain = nn.LSTM(input_size, hidden_size)
    return plain, lstm_cy.torch.replace(copy.deepcopy(plain))


def inference(module: nn.Module, x: Any) -> Callable[[], Any]:
    """Return a call that computes no gradients."""
    import torch

    def call() -> Any:
        with torch.inference_mode():
            return module(x)[0]

    return call


def training(module: nn.Module, x: Any) -> Callable[[], Any]:
    """Return a call that computes all gradients; as after an optimizer's step, the weights count as changed."""
    import torch

    weights = list(module.parameters())

    def call() -> Any:
        for weight in weights:
            weight.grad = None
        with torch.no_grad():
            torch._foreach_mul_(weights, 1.0)
        y = module(x)[0]
        y = y if isinstance(y, torch.Tensor) else y.data
        y.backward(torch.ones_like(y))
        return weights[0].grad

    return call


def table(title: str, shapes: list[tuple[int, int, int, int]], make: Any, packed: bool, seconds: float) -> None:
    """Print one table."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence

    print(f"\n| {title} | PyTorch, us | lstm_cy.torch, us | ratio |\n|---|--:|--:|--:|")
    for B, T, I, H in shapes:
        plain, ours = modules(I, H)
        x: Any = torch.randn(T, B, I)
        if packed:
            generator = torch.Generator().manual_seed(0)
            lengths = torch.randint(1, T + 1, (B,), generator=generator)
            x = pack_padded_sequence(x, lengths, enforce_sorted=False)
        calls = make(plain, x), make(ours, x)
        torch.testing.assert_close(calls[1](), calls[0](), rtol=1e-3, atol=1e-3)
        theirs, mine = median_ratio(*calls, seconds)
        print(f"| {B}x{T}x{I}x{H} | {theirs:.0f} | {mine:.0f} | {theirs / mine:.2f} |", flush=True)


def main() -> None:
    """Print the tables."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of both libraries")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    parser.add_argument("--quick", action="store_true", help="a few shapes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    most = QUICK if options.quick else None
    print(f"float32, threads: {options.threads}, PyTorch {torch.__version__}")
    table("forward", FORWARD[:most], inference, False, options.seconds)
    table("forward + backward", TRAINING[:most], training, False, options.seconds)
    table("forward + backward, packed, lengths 1 to T", PACKED[:most], training, True, options.seconds)


if __name__ == "__main__":
    main()
