"""The command line: demo, train, generate, perplexity, trace, explain, convert, inspect, export, bench and info."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

from ..printable import printable
from .arguments import parsed

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

#: the module of each command, which is loaded when the command is run
_HOME = {
    "demo": "demo",
    "train": "train",
    "generate": "text",
    "perplexity": "text",
    "trace": "traces",
    "explain": "traces",
    "convert": "files",
    "inspect": "files",
    "export": "files",
    "bench": "machine",
    "info": "machine",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; None: those of the process.

    Returns
    -------
    int
        0, or 1 after an error, with one line on standard error. Bad usage raises SystemExit with status 2, and --help
        with 0.
    """
    options = parsed(sys.argv[1:] if argv is None else list(argv))
    if hasattr(sys.stdout, "reconfigure"):  # a model's characters must not raise an error in an ASCII terminal
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        module = importlib.import_module(f".{_HOME[options.command]}", __name__)
        getattr(module, options.command)(options)
    except BrokenPipeError:  # the reader, such as head, has closed the pipe; nothing may be flushed to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, ArithmeticError, OSError, ImportError, MemoryError) as error:
        print(f"lstm-cy: error: {printable(_one_line(error))}", file=sys.stderr)
        return 1
    return 0


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
