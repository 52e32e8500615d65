"""lstm_cy.torch compared with torch.nn.LSTM: the same module and input, in turns, in one process.

    python benchmarks/torch_module.py                                     # all tables and shapes, one thread
    python benchmarks/torch_module.py --threads 2
    python benchmarks/torch_module.py --tables training --shapes "8x50x64x64" "32x60x30x40 2 layers"

Each row is a ratio of medians, PyTorch's time over ours, float32. Results are compared before they are timed.
PyTorch is imported where it is used: asv imports every file of this folder, with PyTorch or without.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # run as a file: for the whole process, and before NumPy is loaded
    os.environ.update(OPENBLAS_NUM_THREADS="1", LSTM_CY_NUM_THREADS="1")
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    REAL_SHAPES,
    REAL_STEP_SHAPES,
    REPEAT,
    SHAPES,
    STEP_SHAPES,
    TRAINING_SHAPES,
    UNUSUAL_SHAPES,
    Shape,
    medians,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


class Table(NamedTuple):
    """What is measured, and its shapes."""

    title: str
    training: bool
    shapes: tuple[str, ...]
    packed: bool = False
    with_dx: bool = False


MORE_TRAINING_SHAPES = (*TRAINING_SHAPES, "12x40x100x200", "4x50x256x256")
TABLES = {
    "forward": Table("forward", False, (*SHAPES, "4x50x64x64", "8x50x64x64", *REAL_SHAPES)),
    "unusual": Table("forward", False, UNUSUAL_SHAPES),
    "step": Table("one step", False, (*STEP_SHAPES, *REAL_STEP_SHAPES)),
    "training": Table("forward + backward", True, MORE_TRAINING_SHAPES),
    "dx": Table("forward + backward, with the gradient of the input", True, MORE_TRAINING_SHAPES, with_dx=True),
    "packed": Table("forward + backward, packed, lengths 1 to T", True, ("32x50x64x64", "32x100x128x128"), packed=True),
}


def modules(shape: Shape) -> tuple[nn.Module, nn.Module]:
    """Return PyTorch's module and ours, with equal weights."""
    import torch
    from torch import nn

    import lstm_cy.torch

    torch.manual_seed(0)
    plain = nn.LSTM(shape.inputs, shape.hidden, shape.layers, bidirectional=shape.directions == 2)
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


def calls(table: Table, shape: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return PyTorch's call and ours, whose results are equal."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence

    sizes = Shape.of(shape)
    x: Any = torch.randn(sizes.steps, sizes.batch, sizes.inputs, requires_grad=table.with_dx)
    if table.packed:
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(1, sizes.steps + 1, (sizes.batch,), generator=generator)
        x = pack_padded_sequence(x, lengths, enforce_sorted=False)
    make = training if table.training else inference
    plain, ours = (make(module, x) for module in modules(sizes))
    torch.testing.assert_close(ours(), plain(), rtol=1e-3, atol=1e-3)
    return plain, ours


class TorchModule:
    """Sequences in lstm_cy.torch.LSTM, where PyTorch is installed."""

    params = (("forward", "training", "packed"), ("8x50x64x64", "1x100x128x128", "32x50x256x256"))
    param_names = ("call", "BxTxIxH")
    repeat = REPEAT

    def setup(self, name: str, shape: str) -> None:
        if importlib.util.find_spec("torch") is None:
            raise NotImplementedError("without PyTorch")
        import torch

        torch.set_num_threads(1)
        self.plain, self.ours = calls(TABLES[name], shape)

    def time_call(self, name: str, shape: str) -> None:
        self.ours()

    def track_speedup_over_pytorch(self, name: str, shape: str) -> float:
        return _speedup(self)

    track_speedup_over_pytorch.unit = "x"
    track_speedup_over_pytorch.pretty_name = "Speed-up over PyTorch: its module"


class TorchStep:
    """A lone step, as of a stream."""

    params = (("1x1x32x32", "1x1x128x128", "1x1x512x512"),)
    param_names = ("BxTxIxH",)
    repeat = REPEAT

    def setup(self, shape: str) -> None:
        TorchModule.setup(self, "step", shape)

    def time_call(self, shape: str) -> None:
        self.ours()

    def track_speedup_over_pytorch(self, shape: str) -> float:
        return _speedup(self)

    track_speedup_over_pytorch.unit = "x"
    track_speedup_over_pytorch.pretty_name = "Speed-up over PyTorch: a step of its module"


def _speedup(benchmark: Any) -> float:
    ours, plain = medians([benchmark.ours, benchmark.plain])
    return round(plain / ours, 2)


def main(argv: list[str] | None = None) -> list[tuple[str, str, float]]:
    """Print the tables; return (table, shape, ratio) of each row."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of both libraries")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--shapes", nargs="+", help="'BxTxIxH 2 layers bidirectional' in place of the tables' own")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    print(f"float32, threads: {options.threads}, PyTorch {torch.__version__}")
    rows = []
    for name in options.tables:
        table = TABLES[name]
        print(f"\n| {table.title} | PyTorch, us | lstm_cy.torch, us | ratio |\n|---|--:|--:|--:|")
        for shape in options.shapes or table.shapes:
            theirs, ours = medians(calls(table, shape), options.seconds)
            print(f"| {shape} | {theirs * 1e6:.0f} | {ours * 1e6:.0f} | {theirs / ours:.2f} |", flush=True)
            rows.append((name, shape, theirs / ours))
    return rows


if __name__ == "__main__":
    main()
