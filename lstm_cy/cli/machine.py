"""The commands about this machine: info and bench; and the number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from ..bench import installed, rows
from ..config import set_num_threads, show_config
from .output import say

if TYPE_CHECKING:
    from argparse import Namespace

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def info(options: Namespace) -> None:
    """Run `lstm-cy info`."""
    show_config()


def use_threads(options: Namespace) -> None:
    """Set the number of threads, if the command has it."""
    if options.threads:
        set_num_threads(options.threads)


def bench(options: Namespace) -> None:
    """Run `lstm-cy bench`."""
    if os.environ.get(_BLAS_THREADS) != "1":  # NumPy's BLAS reads it only when it is loaded
        command = [sys.executable, "-m", "lstm_cy", "bench", "--seconds", str(options.seconds)]
        done = subprocess.run(command, env=os.environ | {_BLAS_THREADS: "1"})
        raise SystemExit(done.returncode)
    peers = [name for name in installed() if name != "lstm_cy"]
    say("medians in microseconds; in brackets the ratio to lstm_cy")
    say(f"{'':<10}{'BxTxIxH':<16}{'lstm_cy':>10}" + "".join(f"{name:>20}" for name in peers))
    for row in rows(seconds=options.seconds):
        ours = row.seconds["lstm_cy"]
        line = f"{row.kind:<10}{row.shape:<16}{1e6 * ours:>10.1f}"
        for name in peers:
            if name in row.seconds:
                line += f"{1e6 * row.seconds[name]:>11.1f} {f'({row.seconds[name] / ours:.1f}x)':>8}"
        say(line)
    say_threads()


def say_threads() -> None:
    """Print what a measurement depends on."""
    found = show_config("dicts")
    say(", ".join(f"{name}: {found[name]}" for name in ("instruction set", "engine", "threads", "BLAS threads")))
