"""Print two Markdown tables, lstm_cy beside plain NumPy and PyTorch, and how accurate lstm_cy is.

    python benchmarks/compare_numpy.py

All of them compute on one thread with the same weights. Their results are checked before they take turns in
one process; what is printed are medians. PyTorch is left out where it is not installed.
"""

import argparse
import importlib.util
import os
import platform
import sys
from pathlib import Path

if not __package__:  # run as a file: for the whole process, and before NumPy is loaded
    os.environ.update(OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_NUM_THREADS="1")
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np

import lstm_cy
from benchmarks.common import (
    SHAPES,
    TRAINING_SHAPES,
    Inference,
    Training,
    check,
    medians,
    reference_weights,
)

SIZES = (1, 3, 17, 33, 127, 256)
LONG = np.dtype("longdouble")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", metavar="BxTxIxH", help="instead of the usual ones")
    parser.add_argument("--seconds", type=float, default=2.0, help="spent on each row, about (default: 2)")
    options = parser.parse_args()
    torch = load_torch()
    print(configuration(torch))
    for title, kind, shapes in (
        ("Forward", Inference, SHAPES),
        ("Forward and backward", Training, TRAINING_SHAPES),
    ):
        print(f"\n{title}, microseconds:\n")
        table(kind, options.shapes or shapes, options.seconds, torch)
    print()
    for dtype in ("float32", "float64"):
        print(f"- {dtype}: largest error of y, h_n and c_n over 100 steps {largest_error(dtype):.1e}")
    print(f"\nI = H = {', '.join(map(str, SIZES))}; weights and biases from U(-1/sqrt(H), 1/sqrt(H));")
    print(f"against NumPy in long double, {np.finfo(LONG).nmant + 1} bits.")


def load_torch():
    """PyTorch on one thread, or None."""
    if not importlib.util.find_spec("torch"):
        return None
    import torch

    torch.set_num_threads(1)
    return torch


def configuration(torch):
    """One line: on what was measured, and with what."""
    found = lstm_cy.show_config("dicts")
    versions = [f"{name} {found[name]}" for name in ("lstm_cy", "Python", "NumPy", "SciPy")]
    if torch:
        versions.append(f"PyTorch {torch.__version__}")
    kernels = [f"{name} {found[name]}" for name in ("instruction set", "engine", "threads", "BLAS", "BLAS threads")]
    return "; ".join((processor(), ", ".join(kernels), ", ".join(versions)))


def processor():
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(kind, shapes, seconds, torch):
    """Print a row for each shape."""
    peers = ["NumPy"] + ["PyTorch"] * bool(torch)
    columns = ["BxTxIxH", "lstm_cy", *peers, *(f"{peer} / lstm_cy" for peer in peers)]
    print("|", " | ".join(columns), "|")
    print("|---|" + "--:|" * (len(columns) - 1))
    for shape in shapes:
        case = kind(shape)
        check(f"lstm_cy beside NumPy at {shape}", case.run(), case.reference())
        calls = [case.run, case.reference]
        if torch:
            peer = Torch(torch, case)
            check(f"PyTorch beside NumPy at {shape}", peer.results(), case.reference())
            calls.append(peer.run)
        ours, *others = medians(calls, seconds)
        times = [f"{1e6 * time:.0f}" for time in (ours, *others)]
        ratios = [f"{time / ours:.2f}" for time in others]
        print("|", " | ".join([shape, *times, *ratios]), "|", flush=True)


class Torch:
    """A case by PyTorch."""

    def __init__(self, torch, case):
        self.torch = torch
        lstm = case.lstm
        self.lstm = torch.nn.LSTM(lstm.input_size, lstm.hidden_size, bidirectional=lstm.bidirectional)
        self.lstm.load_state_dict({name: torch.tensor(array) for name, array in lstm.parameters.items()})
        self.x, self.dy, *self.state = (torch.tensor(array) for array in (case.x, case.dy, *case.state))
        self.run = self.train if isinstance(case, Training) else self.infer
        self.leaves = dict(zip(("x", "h0", "c0"), (self.x, *self.state), strict=True))
        self.leaves |= self.lstm.named_parameters()

    def infer(self):
        with self.torch.inference_mode():
            y, (h_n, c_n) = self.lstm(self.x, self.state)
        return {"y": y, "h_n": h_n, "c_n": c_n}

    def train(self):
        for leaf in self.leaves.values():
            leaf.grad = None
            leaf.requires_grad_()
        y, _ = self.lstm(self.x, self.state)
        y.backward(self.dy)
        return {"y": y, **{name: leaf.grad for name, leaf in self.leaves.items()}}

    def results(self):
        return {name: tensor.detach().numpy() for name, tensor in self.run().items()}


def largest_error(dtype):
    """The largest error of a layer over SIZES; weights and biases from U(-1/sqrt(H), 1/sqrt(H))."""
    return max(error(Inference(f"2x100x{size}x{size}", dtype=dtype, forget_bias=0.0)) for size in SIZES)


def error(case):
    """The largest difference between lstm_cy and NumPy at its most precise."""
    got, exact = case.run(), in_long_double(case)
    return float(max(np.abs(got[name] - exact[name]).max() for name in got))


def in_long_double(case):
    """The results by NumPy in long double, from the layer's own weights and the same input."""
    (direction,) = case.directions
    arrays = {name: getattr(direction, name).astype(LONG) for name in ("x", "h0", "c0")}
    weights = reference_weights(case.lstm, direction.suffix, LONG)
    return case.reference_direction(direction._replace(**arrays, weights=weights))


if __name__ == "__main__":
    sys.exit(main())
